//! Measures the bastion against direct ssh and against OpenSSH's own `ssh -J`, in the same run.
//!
//! Every figure is a median of five (`--runs`), the routes in a fresh random order each time, AES-256-GCM and curve25519
//! on every hop. Speed is never asserted, only printed.

use std::io::{Write, stdout};

use anyhow::{Result, bail};
use casemate_tests::noise::{Noise, fresh_seed};

mod course;
mod measures;

use course::Course;

const USAGE: &str = "usage: casemate-bench [--runs N] [--mib N] [--sessions N] [--only zeros,random,up,sftp,flood,setup,keys,memory,verify]";

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
    /// Measures by name; all when empty.
    only: Vec<String>,
}

fn main() -> Result<()> {
    let mut plan = Plan { runs: 5, mib: 256, sessions: 500, only: Vec::new() };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let Some(value) = args.next() else { bail!(USAGE) };
        match arg.as_str() {
            "--runs" => plan.runs = value.parse()?,
            "--mib" => plan.mib = value.parse()?,
            "--sessions" => plan.sessions = value.parse()?,
            "--only" => plan.only = value.split(',').map(str::to_owned).collect(),
            _ => bail!(USAGE),
        }
    }
    let mut noise = Noise::new(fresh_seed());
    say(&format!(
        "medians of {}, transfers of {} MiB; x = time against direct ssh in the same run",
        plan.runs, plan.mib
    ))?;
    let measures: [(&str, Measure); 9] = [
        ("zeros", measures::zeros),
        ("random", measures::random),
        ("up", measures::up),
        ("sftp", measures::sftp),
        ("flood", measures::flood),
        ("setup", measures::setup),
        ("keys", measures::keys),
        ("memory", measures::memory),
        ("verify", measures::verify),
    ];
    for (name, measure) in measures {
        if plan.only.is_empty() || plan.only.iter().any(|only| only == name) {
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
pub(crate) fn course() -> Result<Course> {
    Course::start()
}
