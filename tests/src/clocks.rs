//! Clocks that are not the machine's: an hour need not take one, nor a day.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use casemate_recorder::clock::{Clock, SystemClock};
use casemate_recorder::transcript::Stamp;

/// Clocks whose wall clock is behind the machine's, by so many microseconds, until somebody sets it.
#[derive(Debug)]
pub struct Ago(AtomicU64);

impl Ago {
    /// Clocks that show what the machine's did so long ago.
    pub fn new(ago: Duration) -> Self {
        Self(AtomicU64::new(ago.as_micros() as u64))
    }

    /// Sets it right.
    pub fn set_right(&self) {
        self.0.store(0, Ordering::SeqCst);
    }
}

impl Clock for Ago {
    fn now(&self) -> Stamp {
        let now = SystemClock.now();
        Stamp { wall_us: now.wall_us.saturating_sub(self.0.load(Ordering::SeqCst)), ..now }
    }
}

/// Clocks that run fast.
#[derive(Debug)]
pub struct Hasty {
    first: Stamp,
    begun_us: u64,
    haste: u64,
    shown: AtomicU64,
}

impl Hasty {
    /// Clocks that show `first` now, and run so many times as fast as the machine's.
    pub fn new(first: Stamp, haste: u64) -> Self {
        Self { first, begun_us: SystemClock.now().boot_us, haste, shown: AtomicU64::new(0) }
    }
}

impl Clock for Hasty {
    fn now(&self) -> Stamp {
        let passed = SystemClock.now().boot_us.saturating_sub(self.begun_us).saturating_mul(self.haste);
        // Two threads that look at once must not see them go back.
        let passed = self.shown.fetch_max(passed, Ordering::SeqCst).max(passed);
        Stamp { wall_us: self.first.wall_us + passed, boot_us: self.first.boot_us + passed }
    }
}

/// Returns what a program must find in its environment to take the time for so much later.
///
/// The program that goes with the library would do so too; it would stay as the parent, and be what is ended in the other's place.
///
/// # Errors
/// When the library is not installed.
pub fn ahead(by: Duration) -> Result<Vec<(&'static str, String)>> {
    let machines = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found = machines.map(|dir| dir.join("faketime/libfaketimeMT.so.1")).filter(|path| path.is_file());
    let library = found.next().context("libfaketime is missing: scripts/need ceph")?;
    let on = || "1".to_owned();
    Ok(vec![
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME", format!("+{}", by.as_secs())),
        // Only what day it is: who waits until a moment of the other clocks tells the kernel, which knows no other day.
        ("DONT_FAKE_MONOTONIC", on()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", on()),
        ("NO_FAKE_STAT", on()),
    ])
}
