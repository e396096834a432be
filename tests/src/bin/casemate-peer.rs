//! What the tests run at the target: a source, a sink, and a partner that logs what it received before it answers.
//!
//! Knows nothing of the bastion. Its logs are one half of the oracle, so they are plain files, written unbuffered.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write, stderr, stdin, stdout};
use std::path::Path;
use std::process::exit;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use casemate_tests::noise::Noise;

const USAGE: &str = "usage: casemate-peer talk LOGS TAG SEED | source BYTES SEED | sink [BYTES_PER_SECOND] | \
                     flood OUT_BYTES ERR_BYTES STATUS | deaf SECONDS | trickle BYTES_PER_SECOND SECONDS";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["talk", logs, tag, seed] => talk(Path::new(logs), tag, number(seed)?),
        ["source", bytes, seed] => source(number(bytes)?, number(seed)?),
        ["sink"] => sink(u64::MAX),
        ["sink", rate] => sink(number(rate)?),
        ["flood", out, err, status] => flood(number(out)?, number(err)?, number(status)? as i32),
        ["deaf", seconds] => {
            std::thread::sleep(Duration::from_secs(number(seconds)?));
            Ok(())
        }
        ["trickle", rate, seconds] => trickle(number(rate)?, number(seconds)?),
        _ => bail!(USAGE),
    }
}

fn number(text: &str) -> Result<u64> {
    text.parse().with_context(|| format!("not a number: {text:?}; {USAGE}"))
}

/// Logs everything received, and says random things at random times until the input ends.
fn talk(logs: &Path, tag: &str, seed: u64) -> Result<()> {
    let log = |stream: &str| -> Result<File> {
        Ok(OpenOptions::new().create(true).append(true).open(logs.join(format!("{tag}.{stream}")))?)
    };
    let (mut in_log, mut out_log, mut err_log) = (log("in")?, log("out")?, log("err")?);
    std::thread::spawn(move || {
        let mut buffer = [0; 64 * 1024];
        while let Ok(len) = stdin().lock().read(&mut buffer) {
            match buffer.get(..len) {
                Some(part) if !part.is_empty() && in_log.write_all(part).is_ok() => {}
                _ => break,
            }
        }
        exit(0);
    });
    let mut noise = Noise::new(seed);
    loop {
        let longest = if noise.below(10) == 0 { 60_000 } else { 300 };
        let len = 1 + noise.below(longest) as usize;
        let chunk = noise.chunk(len);
        // Logged first: the log may exceed what was said, never fall short of it.
        if noise.below(8) == 0 {
            err_log.write_all(&chunk)?;
            stderr().write_all(&chunk)?;
        } else {
            out_log.write_all(&chunk)?;
            let mut out = stdout().lock();
            out.write_all(&chunk)?;
            out.flush()?;
        }
        std::thread::sleep(Duration::from_millis(noise.below(30)));
    }
}

fn source(bytes: u64, seed: u64) -> Result<()> {
    pour(Noise::new(seed).take_bytes(bytes), stdout().lock())
}

fn pour(mut from: impl Read, mut to: impl Write) -> Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let len = from.read(&mut buffer)?;
        match buffer.get(..len) {
            Some(part) if !part.is_empty() => to.write_all(part)?,
            _ => return Ok(to.flush()?),
        }
    }
}

/// Reads to the end, at most so many bytes a second, and prints how many bytes came and their BLAKE3.
fn sink(rate: u64) -> Result<()> {
    let mut hash = blake3::Hasher::new();
    let mut total = 0;
    let mut buffer = vec![0; rate.clamp(1, 256 * 1024) as usize];
    loop {
        let len = stdin().lock().read(&mut buffer)?;
        let Some(part) = buffer.get(..len).filter(|part| !part.is_empty()) else { break };
        hash.update(part);
        total += part.len() as u64;
        if rate != u64::MAX {
            std::thread::sleep(Duration::from_secs_f64(part.len() as f64 / rate as f64));
        }
    }
    writeln!(stdout(), "{total} {}", hash.finalize().to_hex())?;
    Ok(())
}

/// Writes both streams as fast as they go, and ends at once with that status.
fn flood(out: u64, err: u64, status: i32) -> Result<()> {
    pour(Noise::new(1).take_bytes(out), stdout().lock())?;
    pour(Noise::new(2).take_bytes(err), stderr().lock())?;
    exit(status)
}

fn trickle(rate: u64, seconds: u64) -> Result<()> {
    let mut noise = Noise::new(3);
    for _ in 0..seconds * 10 {
        stdout().write_all(&noise.chunk(rate as usize / 10))?;
        stdout().flush()?;
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
