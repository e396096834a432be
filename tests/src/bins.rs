//! Where the built programs are. Knows paths and nothing of what the programs do.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Returns the absolute path of one of our programs, such as `casemate`.
///
/// `CASEMATE_BINS` names the directory (the Makefile sets it); without it, the programs are looked for beside the one
/// that runs, or one level up, where cargo puts them for a test.
///
/// # Errors
/// When the program is not there; the text says how to build it.
pub fn path(name: &str) -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("CASEMATE_BINS") {
        let program = PathBuf::from(dir).join(name);
        ensure!(program.is_file(), "{} is missing: run `cargo build --workspace --bins`", program.display());
        return Ok(std::path::absolute(program)?);
    }
    let this = std::env::current_exe().context("where does this program lie")?;
    let beside = this.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|program| program.is_file());
    beside.with_context(|| format!("{name} is missing beside {}: run `cargo build --workspace --bins`", this.display()))
}

/// Returns where `scripts/need` puts what no package of Debian has: `tools` in cargo's target directory.
///
/// # Errors
/// When our own programs are not where cargo puts them.
pub fn tools() -> Result<PathBuf> {
    let target = path("casemate")?.ancestors().nth(2).map(Path::to_owned);
    Ok(target.context("a program of ours lies outside a target directory")?.join("tools"))
}
