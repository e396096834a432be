//! What it costs to be durable: how long one client waits for the disk, and how many clients wait for it together.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use casemate_tests::noise::Noise;
use casemate_tests::raw_pg::RawPg;
use casemate_tests::scale::MIB;

use super::course::{Course, Way};
use super::throughput::{MANY, MODES, pgbench};
use super::{full, rounds};
use crate::{Plan, quantile, say};

/// Queries and syncs are timed in turns, so many at once and so often: disks have better and worse moments, and both must get
/// the same ones.
const LOT: usize = 50;
const LOTS: usize = 20;

/// The latency of one client in `causal` above `process`, against the disk's own `fdatasync`; and how many transactions share
/// a commit of the journal.
pub(crate) fn commit(plan: &Plan, noise: &mut Noise) -> Result<()> {
    let ways = full(plan);
    let both = [Way::Process, Way::Causal];
    ensure!(both.iter().all(|way| ways.contains(way)), "pg-commit compares the ways process and causal");
    let course = Course::start(&ways)?;
    course.fill_accounts()?;

    let disk = RefCell::new(Disk::open(&course.state(Way::Causal)?)?);
    let all = rounds(plan, noise, &course, &ways, |way| {
        let client = RawPg::login(&course.access(way)?)?;
        let p50 = latency(client, || if way == Way::Causal { disk.borrow_mut().sync() } else { Ok(()) })?;
        Ok((p50, 1.0))
    })?;
    let mut line = format!("{:<28}", "pg latency p50");
    for way in &ways {
        line += &format!(" {} {:.3} ms  ", way.name(), all.figure(*way).unwrap_or(0.0));
    }
    say(line.trim_end())?;
    let (process, causal) = (all.figure(Way::Process).unwrap_or(0.0), all.figure(Way::Causal).unwrap_or(0.0));
    let sync = quantile(&disk.borrow().times, 0.5);
    say(&format!(
        "{:<28} causal {:.3} ms above process; fdatasync p50 {sync:.3} ms, so up to {:.3} ms is in order",
        "pg commit latency",
        causal - process,
        1.2 * sync + 0.3
    ))?;

    for mode in MODES {
        let all = rounds(plan, noise, &course, &[Way::Causal], |way| {
            let before = course.commits(way)?;
            let (_, transactions) = pgbench(plan, &course, way, MANY, mode)?;
            Ok((transactions / (course.commits(way)? - before).max(1.0), transactions))
        })?;
        let each = all.figure(Way::Causal).unwrap_or(0.0);
        say(&format!("{:<28} causal {each:.1} transactions per commit", format!("pg {mode}, {MANY} clients")))?;
    }
    Ok(())
}

/// The median time of a small query and its answer, in ms; `between` has its turn after each lot.
fn latency(mut client: RawPg, mut between: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::with_capacity(LOT * LOTS);
    for _ in 0..LOTS {
        for _ in 0..LOT {
            let start = Instant::now();
            client.query("select 1")?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        // What is recorded of the last answer is synced behind it.
        std::thread::sleep(Duration::from_millis(5));
        between()?;
    }
    Ok(quantile(&times, 0.5))
}

/// The disk that a journal is on, without the journal.
struct Disk {
    file: File,
    path: PathBuf,
    at: u64,
    /// How long each sync took, in ms.
    times: Vec<f64>,
}

impl Disk {
    /// Makes a file of zeros in a directory: the journal, too, writes into room that is there already.
    fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("fdatasync");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        file.write_all(&vec![0; 4 * MIB as usize])?;
        file.sync_all()?;
        Ok(Self { file, path, at: 0, times: Vec::new() })
    }

    /// Writes as much as the journal does of a small query, one behind the other, and syncs each.
    fn sync(&mut self) -> Result<()> {
        const RECORD_LEN: usize = 216;
        for _ in 0..LOT {
            let start = Instant::now();
            self.file.write_all_at(&[0x5a; RECORD_LEN], self.at)?;
            self.file.sync_data()?;
            self.times.push(start.elapsed().as_secs_f64() * 1e3);
            self.at = (self.at + RECORD_LEN as u64) % (4 * MIB - RECORD_LEN as u64);
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
