//! Rows and values that fill most of what PostgreSQL allows in one: they pass, and nobody keeps them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use casemate_tests::pg_client::PgRoute;
use casemate_tests::process::rss;
use casemate_tests::raw_pg::message::{describe, execute, parse, query, sync};
use casemate_tests::raw_pg::{RawPg, tags};
use casemate_tests::scale::{MIB, pick};

use super::first_value;
use crate::pg_clients::lab;

/// What a daemon may hold of a value that passes, at most: 8 MiB are promised, the rest is slack for its allocator.
const HELD_MAX: u64 = 12 * MIB;

/// A value may have a gibibyte less a few bytes, and so may the row around it.
fn len() -> u64 {
    pick(256 * MIB, 1000 * MIB)
}

#[test]
fn a_large_row_and_a_large_value_pass_in_bounded_memory() {
    let lab = lab();
    for route in PgRoute::ALL {
        let mut client = RawPg::login(&lab.pg_access(route).unwrap()).unwrap();
        let bastion = lab.bastion.process.pid;
        client.query("select 1").unwrap();
        let peak = Peak::of(bastion);

        client.send(&query(format!("select repeat('x', {})", len()).as_bytes())).unwrap();
        let mut passed = 0;
        loop {
            let (tag, bytes) = client.discard().unwrap();
            passed += if tag == b'D' { bytes } else { 0 };
            if tag == b'Z' {
                break;
            }
        }
        // Count of columns and length of the value.
        assert_eq!(passed, len() + 6, "{route:?}");
        let held = peak.grown();
        assert!(held < HELD_MAX, "{route:?}: the daemon grew by {} MiB for the row", held / MIB);

        client.send(&[parse("", b"select length($1)", &[17]), describe(b'S', "")].concat()).unwrap();
        send_large_bind(&mut client);
        client.send(&[execute("", 0), sync()].concat()).unwrap();
        let frames = client.read_to(b'Z').unwrap();
        assert_eq!(
            (tags(&frames).as_str(), first_value(&frames).unwrap()),
            ("1tT2DCZ", len().to_string().into_bytes())
        );

        let held = peak.grown();
        assert!(held < HELD_MAX, "{route:?}: the daemon grew by {} MiB for the value", held / MIB);
    }
}

/// How much memory of its own a process comes to hold. The kernel's own mark counts the program's file, which is read in bit by
/// bit, so this looks every few milliseconds.
struct Peak {
    pid: u32,
    before: u64,
    highest: Arc<AtomicU64>,
}

impl Peak {
    fn of(pid: u32) -> Self {
        let before = rss(pid);
        let highest = Arc::new(AtomicU64::new(before));
        let seen = Arc::downgrade(&highest);
        std::thread::spawn(move || {
            while let Some(highest) = seen.upgrade() {
                highest.fetch_max(rss(pid), Ordering::Relaxed);
                drop(highest);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { pid, before, highest }
    }

    fn grown(&self) -> u64 {
        self.highest.load(Ordering::Relaxed).max(rss(self.pid)).saturating_sub(self.before)
    }
}

/// A Bind with one binary value, written in pieces.
fn send_large_bind(client: &mut RawPg) {
    let value = len() as u32;
    // Two names, one format for all, one value.
    let head = [&b"\0\0\0\x01\0\x01\0\x01"[..], &value.to_be_bytes()].concat();
    let tail = [0, 0];
    let whole = 4 + head.len() as u32 + value + tail.len() as u32;
    client.send(&[&b"B"[..], &whole.to_be_bytes(), &head].concat()).unwrap();
    let piece = vec![0x5a; MIB as usize];
    for _ in 0..len() / MIB {
        client.send(&piece).unwrap();
    }
    client.send(&tail).unwrap();
}
