//! Makes `tests/vectors/` anew: records sound vaults, damages copies of them, and writes each damage down as edits.
//!
//! Session keys, identifiers and times are fresh on each run; what is wrong with a vector, and the verdict, stay.

mod clever;
mod clocks;
mod desk;
mod elsewhere;
mod insider;
mod names;
mod plain;
mod record;
mod strict;

use std::fs;
use std::process::ExitCode;

use anyhow::Result;
use casemate_tests::{keys, vectors};
use record::{Shelf, Sound};

const USAGE: &str = "usage: casemate-vectors; it takes no arguments, removes all vectors and makes them anew";

/// The sound vaults.
struct Sounds {
    three: Sound,
    /// Recorded as the first, with other bytes: the other side of a fork.
    twin: Sound,
    anew: Sound,
    two: Sound,
    long: Sound,
    live: Sound,
    recovered: Sound,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    if std::env::args_os().len() > 1 {
        eprintln!("{USAGE}");
        return Ok(ExitCode::from(2));
    }
    let secrets = tempfile::tempdir()?;
    let officer = secrets.path().join("officer");
    keys::make(&officer, "ed25519")?;
    let shelf = Shelf { dir: vectors::dir().join("vaults"), officer };
    if shelf.dir.exists() {
        fs::remove_dir_all(&shelf.dir)?;
    }
    for name in vectors::load()?.keys() {
        fs::remove_file(vectors::dir().join(format!("{name}.json")))?;
    }
    let three = record::three(&shelf, "three", "first\n").await?;
    let twin = record::three(&shelf, "twin", "other\n").await?;
    let anew = record::one(&shelf, "anew").await?;
    let two = record::two_nodes(&shelf).await?;
    let long = record::long(&shelf).await?;
    let [live, recovered] = record::live_and_recovered(&shelf).await?;
    let sounds = Sounds { three, twin, anew, two, long, live, recovered };
    plain::questions(&shelf, &sounds)?;
    plain::files(&shelf, &sounds)?;
    clever::transcripts(&shelf, &sounds)?;
    clever::logs(&shelf, &sounds)?;
    insider::forgeries(&shelf, &sounds)?;
    clocks::clocks(&shelf, &sounds)?;
    elsewhere::excuses(&shelf, &sounds)?;
    names::names(&shelf, &sounds)?;
    strict::leaves_of_insiders(&shelf, &sounds)?;
    let made = vectors::load()?.len();
    let bytes: u64 = vectors::files(&vectors::dir())?
        .iter()
        .map(|file| fs::metadata(vectors::dir().join(file)).map(|found| found.len()))
        .sum::<Result<_, _>>()?;
    eprintln!("{made} vectors in {bytes} bytes");
    Ok(ExitCode::SUCCESS)
}
