//! What the recordings cost to keep and to read: their size, and how fast they are verified and decrypted.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use casemate_recorder::transcript::event::{Body, Lane};
use casemate_recorder::transcript::wrap::Identity;
use casemate_replay::reader::Transcript;
use casemate_replay::vault::Vault;
use casemate_tests::bins;
use casemate_tests::noise::Noise;
use casemate_tests::process::{find_program, nothing, run};
use casemate_tests::rig::Lab;
use casemate_tests::scale::MIB;

use crate::course::{Course, Mode, Way};
use crate::measures::{PATIENCE, drain, random_file};
use crate::{Plan, median, say, shuffle};

/// With encryption and without.
const BOTH: [Way; 2] = [Way::Bastion(Mode::Process), Way::Bastion(Mode::ProcessClear)];

/// How much vault a GiB of terminal text takes: a flood of numbers, and what listing a system's files prints, in colours.
pub(crate) fn text(plan: &Plan, _noise: &mut Noise) -> Result<()> {
    let course = Course::start(&BOTH)?;
    let file = course.file("listing");
    let listing = format!("TERM=xterm ls -lR --color=always /usr 2>/dev/null | head -c {}", plan.mib * MIB / 4);
    let made = Command::new("sh").arg("-c").arg(format!("{listing} >{}", file.display())).status()?;
    ensure!(made.success(), "no listing");
    let numbers = format!("seq 1 {}", plan.mib * 4 * 1024);
    for (name, command) in [("numbers", numbers), ("listing", format!("cat {}", file.display()))] {
        for way in BOTH {
            let (vault, mut ssh) = (course.lab(way)?.vault(), course.ssh(way, &["-tt"])?);
            let before = size(&vault.dir)?;
            let done = run(ssh.arg(&command), nothing(), PATIENCE)?.ok()?;
            std::thread::sleep(Duration::from_secs(1));
            vault.settle(1, Duration::from_secs(30))?;
            let kept = (size(&vault.dir)? - before) as f64 / done.stdout.len().max(1) as f64;
            let (shown, kept) = (done.stdout.len() as u64 / MIB, kept * 1024.0);
            say(&format!("{:<22} {}: {shown} MiB of {name}: {kept:.0} MiB kept per GiB", "terminal text", way.name()))?;
        }
    }
    Ok(())
}

/// `casemate-replay verify` against `b3sum` on the same files, then reading every event of them, decrypted.
pub(crate) fn verify(plan: &Plan, noise: &mut Noise) -> Result<()> {
    let course = Course::start(&BOTH)?;
    let bytes = plan.mib * MIB;
    let file = course.file("random");
    random_file(&file, bytes)?;
    for way in BOTH {
        let lab = course.lab(way)?;
        for _ in 0..4 {
            drain(course.ssh(way, &[])?.arg(format!("cat {}", file.display())), bytes)?;
        }
        lab.vault().settle(4, Duration::from_secs(20))?;
        against_b3sum(plan, noise, way, lab)?;
        decrypt(plan, way, lab)?;
    }
    Ok(())
}

fn against_b3sum(plan: &Plan, noise: &mut Noise, way: Way, lab: &Lab) -> Result<()> {
    let vault = lab.vault();
    let mut files = Vec::new();
    list(&vault.dir, &mut files)?;
    let total = size(&vault.dir)?;
    let (replay, b3sum) = (bins::path("casemate-replay")?, find_program("b3sum")?);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..=plan.runs {
        let mut order = [true, false];
        shuffle(&mut order, noise);
        for verify in order {
            let mut command = if verify { Command::new(&replay) } else { Command::new(&b3sum) };
            if verify {
                command.arg("verify").arg(&vault.dir).arg("--trust").arg(&vault.trust);
            } else {
                command.args(&files);
            }
            let start = Instant::now();
            let done = run(&mut command, nothing(), PATIENCE)?;
            let seconds = start.elapsed().as_secs_f64();
            ensure!(done.code() == if verify { 4 } else { 0 }, "exit {}: {}", done.code(), done.err());
            if round > 0 {
                if verify { ours.push(seconds) } else { theirs.push(seconds) }
            }
        }
    }
    say(&format!(
        "{:<22} {}: {:.3} s for {} MiB; b3sum {:.3} s: {:.2}x",
        "verify",
        way.name(),
        median(&ours),
        total / MIB,
        median(&theirs),
        median(&ours) / median(&theirs)
    ))
}

/// Reads every session's output: links checked, decrypted, decompressed, decoded.
fn decrypt(plan: &Plan, way: Way, lab: &Lab) -> Result<()> {
    let named = lab.vault();
    let identities = Identity::parse_file(&std::fs::read_to_string(&named.identity)?)?;
    let vault = Vault::open(named.dir.to_str().context("a path in UTF-8")?)?;
    let sessions = vault.sessions()?.sessions;
    let mut speeds = Vec::new();
    for round in 0..=plan.runs {
        let (start, mut bytes) = (Instant::now(), 0);
        for session in sessions.keys() {
            let transcript = Transcript::open(&vault, *session, &identities)?;
            for event in transcript.events(&[Lane::Output]) {
                if let Body::Stream(data) = event?.1.event.body {
                    bytes += data.len() as u64;
                }
            }
        }
        ensure!(bytes >= 4 * plan.mib * MIB, "{bytes} bytes were read");
        if round > 0 {
            speeds.push(bytes as f64 / MIB as f64 / start.elapsed().as_secs_f64());
        }
    }
    say(&format!("{:<22} {}: {:.0} MiB/s of output, one core", "read back", way.name(), median(&speeds)))
}

fn list(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { list(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

fn size(dir: &Path) -> Result<u64> {
    let mut files = Vec::new();
    list(dir, &mut files)?;
    Ok(files.iter().filter_map(|path| path.metadata().ok()).map(|meta| meta.len()).sum())
}
