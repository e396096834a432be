//! Starts and stops the rig, and tells the demo's story on one.

use std::io::{Write, stdout};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use casemate_tests::bins;
use casemate_tests::postgres::{self, Version};
use casemate_tests::rig::{Options, Rig};
use casemate_tests::sshd::Sshd;

mod demo;

const USAGE: &str = "usage: casemate-rig start DIR [--durability strict|causal|process] [--postgres packaged|18|none] [--vault dir|s3] \
     [--retain TIME] | stop DIR | demo | target DIR [PORT]";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["start", dir, options @ ..] => start(dir, options),
        ["stop", dir] => {
            Rig::load(&PathBuf::from(dir))?.stop();
            Ok(())
        }
        ["demo"] => demo::tell(),
        ["target", dir] => target(dir, None),
        ["target", dir, port] => target(dir, Some(port.parse().context(USAGE)?)),
        _ => bail!(USAGE),
    }
}

fn start(dir: &str, words: &[&str]) -> Result<()> {
    // Looked for before anything runs, so that nothing runs when it is missing.
    bins::path("casemate-replay")?;
    // Without a word about it, PostgreSQL takes part where it is installed.
    let packaged = || Version::Packaged.programs().is_ok().then(postgres::Options::default);
    let mut options = Options { postgres: packaged(), ..Options::default() };
    let (pairs, rest) = words.as_chunks::<2>();
    ensure!(rest.is_empty(), USAGE);
    for pair in pairs {
        match pair {
            ["--durability", mode @ ("strict" | "causal" | "process")] => options.durability = Some((*mode).to_owned()),
            ["--postgres", "none"] => options.postgres = None,
            ["--postgres", version] => {
                options.postgres =
                    Some(postgres::Options { version: version.parse()?, ..postgres::Options::default() });
            }
            ["--vault", place @ ("dir" | "s3")] => options.s3 = *place == "s3",
            ["--retain", time] => options.retain = Some((*time).to_owned()),
            _ => bail!(USAGE),
        }
    }
    let rig = Rig::start(&PathBuf::from(dir), &options)?;
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
