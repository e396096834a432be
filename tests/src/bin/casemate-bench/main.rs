//! Measures the bastion against direct ssh and OpenSSH's own `ssh -J`, and against PostgreSQL itself and pgbouncer, in the
//! same run; and the way into a bucket, and out of it.
//!
//! Every figure is a median of five (`--runs`), the routes in a fresh random order each time, AES-256-GCM and curve25519
//! on every hop. Speed is never asserted, only printed.

use std::io::{Write, stdout};

use anyhow::{Result, bail, ensure};
use casemate_tests::noise::{Noise, fresh_seed};

mod course;
mod fetching;
mod measures;
mod pg;
mod reading;
mod shipping;

use course::{Course, Way};

const USAGE: &str = "\
usage: casemate-bench [--runs N] [--ways NAME,…] [--only MEASURE,…]
                      [--mib N] [--sessions N]                                  sizes for SSH
                      [--seconds N] [--copy-mib N] [--rows N] [--connections N] sizes for PostgreSQL
ways:     direct, process, causal, strict, process-clear, causal-clear, process-hash, causal-hash, inside-process,
          inside-causal, jump; PostgreSQL goes direct, process, causal, process-hash, causal-hash, pgbouncer
measures: zeros, random, up, sftp, scp, channels, flood, text, setup, keys, memory, verify, pg-tps, pg-cpu, pg-copy, pg-rows,
          pg-login, pg-memory, pg-commit, pg-cancels, ship, verify-s3";

/// Measures one thing along all ways and prints it.
type Measure = fn(&Plan, &mut Noise) -> Result<()>;

/// What to measure, and how much of it.
pub(crate) struct Plan {
    /// Runs whose median is printed.
    runs: usize,
    /// Size of a transfer, in MiB.
    mib: u64,
    /// Idle sessions for the memory figure.
    sessions: usize,
    /// How long one run of pgbench takes.
    seconds: u64,
    /// Size of a COPY, in MiB.
    copy_mib: u64,
    /// Rows of a large SELECT.
    rows: u64,
    /// Idle connections to the database for the memory figure.
    connections: usize,
    /// Ways, `direct` first.
    ways: Vec<Way>,
    /// Ways to the database, `direct` first.
    pg_ways: Vec<pg::Way>,
    /// Measures by name; all when empty.
    only: Vec<String>,
}

impl Plan {
    fn wants(&self, measure: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == measure)
    }
}

fn main() -> Result<()> {
    let mut plan = Plan {
        runs: 5,
        mib: 256,
        sessions: 500,
        seconds: 5,
        copy_mib: 1024,
        rows: 5_000_000,
        connections: 200,
        ways: Way::ALL.to_vec(),
        pg_ways: pg::Way::ALL.to_vec(),
        only: Vec::new(),
    };
    let mut args = std::env::args().skip(1);
    if let (Some(fetching::BARE), Some(place)) = (std::env::args().nth(1).as_deref(), std::env::args().nth(2)) {
        return fetching::bare(&place);
    }
    while let Some(arg) = args.next() {
        let Some(value) = args.next() else { bail!(USAGE) };
        match arg.as_str() {
            "--runs" => plan.runs = value.parse()?,
            "--mib" => plan.mib = value.parse()?,
            "--sessions" => plan.sessions = value.parse()?,
            "--seconds" => plan.seconds = value.parse()?,
            "--copy-mib" => plan.copy_mib = value.parse()?,
            "--rows" => plan.rows = value.parse()?,
            "--connections" => plan.connections = value.parse()?,
            "--ways" => (plan.ways, plan.pg_ways) = ways(&value)?,
            "--only" => plan.only = value.split(',').map(str::to_owned).collect(),
            _ => bail!(USAGE),
        }
    }
    // Each with the names that ask for it.
    let measures: [(&[&str], Measure); 21] = [
        (&["zeros"], measures::zeros),
        (&["random"], measures::random),
        (&["up"], measures::up),
        (&["sftp"], measures::sftp),
        (&["scp"], measures::scp),
        (&["channels"], measures::channels),
        (&["flood"], measures::flood),
        (&["text"], reading::text),
        (&["setup"], measures::setup),
        (&["keys"], measures::keys),
        (&["memory"], measures::memory),
        (&["verify"], reading::verify),
        (&["pg-tps", "pg-cpu"], pg::transactions),
        (&["pg-copy"], pg::copy),
        (&["pg-rows"], pg::select),
        (&["pg-login"], pg::login),
        (&["pg-memory"], pg::memory),
        (&["pg-commit"], pg::commit),
        (&["pg-cancels"], pg::cancels),
        (&["ship"], shipping::ship),
        (&["verify-s3"], fetching::verify),
    ];
    for only in &plan.only {
        ensure!(
            measures.iter().any(|(names, _)| names.contains(&only.as_str())),
            "no measure is called {only}: {USAGE}"
        );
    }
    let mut noise = Noise::new(fresh_seed());
    say(&format!("medians of {}, transfers of {} MiB; x = against direct in the same run", plan.runs, plan.mib))?;
    for (names, measure) in measures {
        if names.iter().any(|name| plan.wants(name)) {
            measure(&plan, &mut noise)?;
        }
    }
    Ok(())
}

/// Prints a line at once: a run takes minutes, and whoever watches wants to see it.
pub(crate) fn say(text: &str) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Returns the middle value; 0 for none.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Returns the value below which that share of the others lies.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1) as f64;
    sorted.get((last * share).round() as usize).copied().unwrap_or(0.0)
}

/// Puts a list into a random order.
pub(crate) fn shuffle<T>(list: &mut [T], noise: &mut Noise) {
    for at in (1..list.len()).rev() {
        let other = noise.below(at as u64 + 1) as usize;
        list.swap(at, other);
    }
}

/// A fresh course for one measure, so that no measure inherits another's files.
pub(crate) fn course(plan: &Plan) -> Result<Course> {
    Course::start(&plan.ways)
}

/// Reads names of ways, of both kinds; all figures are ratios to the direct one, so it is always among them.
fn ways(names: &str) -> Result<(Vec<Way>, Vec<pg::Way>)> {
    for name in names.split(',') {
        let known = Way::ALL.iter().any(|way| way.name() == name) || pg::Way::ALL.iter().any(|way| way.name() == name);
        ensure!(known, "no way is called {name}: {USAGE}");
    }
    let wanted = |name: &str| name == Way::Direct.name() || names.split(',').any(|wanted| wanted == name);
    let ssh = Way::ALL.into_iter().filter(|way| wanted(way.name())).collect();
    Ok((ssh, pg::Way::ALL.into_iter().filter(|way| wanted(way.name())).collect()))
}
