//! PostgreSQL: against the server itself and against pgbouncer in session mode, in the same run.
//!
//! Here is how a measure is repeated and how its figures are printed; what is measured stands in the modules.

use anyhow::{Context, Result};
use casemate_tests::noise::Noise;

use crate::measures::settled;
use crate::{Plan, median, say, shuffle};

mod cancels;
mod commit;
mod connections;
mod course;
mod rows;
mod throughput;

pub(crate) use cancels::cancels;
pub(crate) use commit::commit;
pub(crate) use connections::{login, memory};
pub(crate) use course::Way;
pub(crate) use throughput::{copy, select, transactions};

use course::Course;

/// What one run along a way gave.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    /// What is compared with direct: seconds, or transactions per second.
    figure: f64,
    /// CPU seconds of what stands between, until it is quiet again.
    cpu: f64,
    /// How much was done, for CPU per piece.
    pieces: f64,
}

/// The runs along each way.
struct Samples(Vec<(Way, Vec<Sample>)>);

/// Runs `once`, which returns a figure and how much was done, along every way, in a fresh random order each round. The first
/// round warms caches and is thrown away.
fn rounds(
    plan: &Plan,
    noise: &mut Noise,
    course: &Course,
    ways: &[Way],
    once: impl Fn(Way) -> Result<(f64, f64)>,
) -> Result<Samples> {
    let mut all: Vec<(Way, Vec<Sample>)> = ways.iter().map(|way| (*way, Vec::new())).collect();
    for round in 0..=plan.runs {
        shuffle(&mut all, noise);
        for (way, samples) in &mut all {
            let before = course.cpu(*way);
            let (figure, pieces) = once(*way).with_context(|| way.name())?;
            let cpu = settled(|| course.cpu(*way)) - before;
            if round > 0 {
                samples.push(Sample { figure, cpu, pieces });
            }
        }
    }
    all.sort_by_key(|(way, _)| ways.iter().position(|at| at == way));
    Ok(Samples(all))
}

impl Samples {
    /// The median of something about the runs along a way; `None` where there were none.
    fn middle(&self, way: Way, of: impl Fn(&Sample) -> f64) -> Option<f64> {
        let (_, samples) = self.0.iter().find(|(have, _)| *have == way)?;
        Some(median(&samples.iter().map(of).collect::<Vec<_>>()))
    }

    fn figure(&self, way: Way) -> Option<f64> {
        self.middle(way, |sample| sample.figure)
    }

    /// Prints direct's own figure, the others' ratio to it, and what `more` has to say of each.
    fn print(&self, name: &str, unit: &str, more: impl Fn(Way) -> Option<String>) -> Result<()> {
        let direct = self.figure(Way::Direct).unwrap_or(0.0);
        let digits = if direct < 100.0 { 3 } else { 0 };
        let mut line = format!("{name:<28} direct {direct:>9.digits$} {unit}");
        for way in self.others() {
            line += &format!("   {} {:.2}x", way.name(), self.figure(way).unwrap_or(0.0) / direct);
            line += &more(way).map(|text| format!(" [{text}]")).unwrap_or_default();
        }
        say(&line)
    }

    /// The ways on which something stands between.
    fn others(&self) -> impl Iterator<Item = Way> {
        self.0.iter().map(|(way, _)| *way).filter(|way| *way != Way::Direct)
    }
}

/// The ways of the plan but those that differ by what is recorded of results, for measures with hardly any results.
fn full(plan: &Plan) -> Vec<Way> {
    plan.pg_ways.iter().copied().filter(|way| !way.is_hash()).collect()
}
