//! What a connection costs: to make one, and to hold one that idles.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use casemate_tests::noise::Noise;
use casemate_tests::pg_client::Access;
use casemate_tests::process::rss;
use casemate_tests::raw_pg::{RawPg, message, tags};

use super::course::{Course, Way};
use super::{full, rounds};
use crate::{Plan, say};

/// Connects and asks for something, so that whatever is made late is there.
fn ask(access: &Access) -> Result<RawPg> {
    let mut client = RawPg::login(access)?;
    let answer = tags(&client.query("select 1")?);
    ensure!(answer == "TDCZ", "{answer}");
    Ok(client)
}

/// Connects, asks, and leaves, one after the other.
pub(crate) fn login(plan: &Plan, noise: &mut Noise) -> Result<()> {
    const LOGINS: u32 = 100;
    let ways = full(plan);
    let course = Course::start(&ways)?;
    let all = rounds(plan, noise, &course, &ways, |way| {
        let access = course.access(way)?;
        let start = Instant::now();
        for _ in 0..LOGINS {
            ask(&access)?.send(&message::frame(b'X', &[]))?;
        }
        Ok((start.elapsed().as_secs_f64() * 1e3 / f64::from(LOGINS), f64::from(LOGINS)))
    })?;
    all.print("pg login", "ms", |way| {
        Some(format!("{:.1} ms CPU", all.middle(way, |sample| sample.cpu / sample.pieces * 1e3)?))
    })
}

/// Memory of an idle connection. Durability makes no difference to one.
pub(crate) fn memory(plan: &Plan, _noise: &mut Noise) -> Result<()> {
    for way in full(plan).into_iter().filter(|way| matches!(way, Way::Process | Way::Pgbouncer)) {
        let course = Course::start(&[way])?;
        let access = course.access(way)?;
        let held = || course.between(way).map_or(0, |process| rss(process.pid));
        ask(&access)?;
        std::thread::sleep(Duration::from_secs(2));
        let before = held();
        // One after the other, so that the figure is of idle connections and not of a rush.
        let clients = (0..plan.connections).map(|_| ask(&access)).collect::<Result<Vec<_>>>()?;
        std::thread::sleep(Duration::from_secs(12));
        let each = held().saturating_sub(before) / 1024 / clients.len().max(1) as u64;
        say(&format!("{:<28} {} {each} KiB per connection, at {}", "pg idle memory", way.name(), clients.len()))?;
    }
    Ok(())
}
