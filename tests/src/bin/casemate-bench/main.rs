//! Measures the bastion against direct ssh and against OpenSSH's own `ssh -J`, in the same run.
//!
//! Every figure is a median of five (`--runs`), the routes in a fresh random order each time, AES-256-GCM and curve25519
//! on every hop. Speed is never asserted, only printed.

use std::io::{Write, stdout};

use anyhow::{Result, bail, ensure};
use casemate_tests::noise::{Noise, fresh_seed};

mod course;
mod measures;
mod reading;

use course::{Course, Way};

const USAGE: &str = "usage: casemate-bench [--runs N] [--mib N] [--sessions N] [--ways direct,process,causal,strict,process-clear,causal-clear,jump] \
[--only zeros,random,up,sftp,flood,text,setup,keys,memory,verify]";

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
    /// Ways, `direct` first.
    ways: Vec<Way>,
    /// Measures by name; all when empty.
    only: Vec<String>,
}

fn main() -> Result<()> {
    let mut plan = Plan { runs: 5, mib: 256, sessions: 500, ways: Way::ALL.to_vec(), only: Vec::new() };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let Some(value) = args.next() else { bail!(USAGE) };
        match arg.as_str() {
            "--runs" => plan.runs = value.parse()?,
            "--mib" => plan.mib = value.parse()?,
            "--sessions" => plan.sessions = value.parse()?,
            "--ways" => plan.ways = ways(&value)?,
            "--only" => plan.only = value.split(',').map(str::to_owned).collect(),
            _ => bail!(USAGE),
        }
    }
    let mut noise = Noise::new(fresh_seed());
    say(&format!(
        "medians of {}, transfers of {} MiB; x = time against direct ssh in the same run",
        plan.runs, plan.mib
    ))?;
    let measures: [(&str, Measure); 12] = [
        ("zeros", measures::zeros),
        ("random", measures::random),
        ("up", measures::up),
        ("sftp", measures::sftp),
        ("scp", measures::scp),
        ("channels", measures::channels),
        ("flood", measures::flood),
        ("text", reading::text),
        ("setup", measures::setup),
        ("keys", measures::keys),
        ("memory", measures::memory),
        ("verify", reading::verify),
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
pub(crate) fn course(plan: &Plan) -> Result<Course> {
    Course::start(&plan.ways)
}

/// Reads names of ways; all figures are ratios to the direct one, so it is always among them.
fn ways(names: &str) -> Result<Vec<Way>> {
    for name in names.split(',') {
        ensure!(Way::ALL.iter().any(|way| way.name() == name), "no way is called {name}: {USAGE}");
    }
    let wanted = |way: &Way| *way == Way::Direct || names.split(',').any(|name| name == way.name());
    Ok(Way::ALL.into_iter().filter(wanted).collect())
}
