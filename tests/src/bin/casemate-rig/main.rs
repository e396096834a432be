//! Starts and stops the rig, and tells the demo's story on one.

use std::io::{Write, stdout};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use casemate_tests::bins;
use casemate_tests::rig::{Options, Rig};
use casemate_tests::sshd::Sshd;

mod demo;

const USAGE: &str =
    "usage: casemate-rig start DIR [--durability strict|causal|process] | stop DIR | demo | target DIR [PORT]";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["start", dir] => start(dir, None),
        ["start", dir, "--durability", mode @ ("strict" | "causal" | "process")] => {
            start(dir, Some((*mode).to_owned()))
        }
        ["stop", dir] => {
            Rig::load(&PathBuf::from(dir))?.stop();
            Ok(())
        }
        ["demo"] => demo::run(),
        ["target", dir] => target(dir, None),
        ["target", dir, port] => target(dir, Some(port.parse().context(USAGE)?)),
        _ => bail!(USAGE),
    }
}

fn start(dir: &str, durability: Option<String>) -> Result<()> {
    // Looked for before anything runs, so that nothing runs when it is missing.
    bins::path("casemate-replay")?;
    let rig = Rig::start(&PathBuf::from(dir), &Options { durability, ..Options::default() })?;
    stdout().write_all(rig.lines()?.as_bytes())?;
    Ok(())
}

/// Starts a throwaway target alone, for `make run`; whoever called ends it by its pid.
fn target(dir: &str, port: Option<u16>) -> Result<()> {
    let sshd = Sshd::start(&PathBuf::from(dir), port, "")?;
    let lines = format!(
        "PORT={}\nLOGIN={}\nIDENTITY={}\nPID={}\n",
        sshd.port,
        sshd.user,
        sshd.identity().display(),
        sshd.process.pid
    );
    stdout().write_all(lines.as_bytes())?;
    Ok(())
}
