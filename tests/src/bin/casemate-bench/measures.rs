//! The measures, one function each, and the table that they fill.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use casemate_tests::noise::Noise;
use casemate_tests::process::{rss, run};
use casemate_tests::scale::MIB;

use crate::course::{Course, Mode, Way};
use crate::{Plan, course, median, quantile, say, shuffle};

pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// What the runs along one way gave.
#[derive(Default, Clone)]
struct Runs {
    seconds: Vec<f64>,
    cpu_seconds: Vec<f64>,
}

/// Runs `once` along every way, in a fresh random order each time, and prints a line: times against direct, and CPU
/// seconds of what stands between per GiB, where the measure has a size.
fn table(
    plan: &Plan,
    noise: &mut Noise,
    name: &str,
    bytes: u64,
    course: &Course,
    once: impl Fn(Way) -> Result<f64>,
) -> Result<()> {
    let mut runs = vec![Runs::default(); plan.ways.len()];
    // One round more than asked for: the first warms caches and is thrown away.
    for round in 0..=plan.runs {
        let mut order: Vec<(usize, Way)> = plan.ways.iter().copied().enumerate().collect();
        shuffle(&mut order, noise);
        for (at, way) in order {
            let before = course.cpu(way);
            let seconds = once(way).with_context(|| format!("{name}, {}", way.name()))?;
            let cpu = settled(|| course.cpu(way)) - before;
            if round > 0
                && let Some(runs) = runs.get_mut(at)
            {
                runs.seconds.push(seconds);
                runs.cpu_seconds.push(cpu);
            }
        }
    }
    let direct = runs.first().map_or(0.0, |runs| median(&runs.seconds));
    let mut line = format!("{name:<22} direct {direct:>7.3} s");
    for (way, runs) in plan.ways.iter().copied().zip(&runs).skip(1) {
        line += &format!("   {} {:.2}x", way.name(), median(&runs.seconds) / direct);
        if bytes > 0 {
            line += &format!(" [{:.1} CPU s/GiB]", median(&runs.cpu_seconds) * 1024.0 * MIB as f64 / bytes as f64);
        }
    }
    say(&line)
}

/// Waits until a way's own work is over, by the CPU seconds that it used: a bastion hashes and syncs finished segments behind
/// the transfer, and the jump host's children count once they ended. It belongs to this run's CPU time and not to the next
/// run's time.
pub(crate) fn settled(cpu: impl Fn() -> f64) -> f64 {
    let (mut last, mut quiet) = (cpu(), 0);
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(100));
        let now = cpu();
        quiet = if now - last < 0.02 { quiet + 1 } else { 0 };
        last = now;
        if quiet == 3 {
            break;
        }
    }
    last
}

fn timed(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}

/// Runs a command, throws its output away and checks how much there was.
pub(crate) fn drain(command: &mut Command, expected: u64) -> Result<()> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut from = child.stdout.take().context("no output")?;
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0;
    loop {
        let len = from.read(&mut buffer)?;
        if len == 0 {
            break;
        }
        total += len as u64;
    }
    ensure!(child.wait()?.success(), "the command failed");
    ensure!(expected == 0 || total == expected, "{total} bytes came, {expected} were expected");
    Ok(())
}

pub(crate) fn random_file(path: &Path, bytes: u64) -> Result<()> {
    let mut file = File::create(path)?;
    std::io::copy(&mut Noise::new(77).take_bytes(bytes), &mut file)?;
    Ok(file.sync_all()?)
}

/// Download of zeros.
pub(crate) fn zeros(plan: &Plan, noise: &mut Noise) -> Result<()> {
    let (course, bytes) = (course(plan)?, plan.mib * MIB);
    table(plan, noise, "download of zeros", bytes, &course, |way| {
        timed(|| drain(course.ssh(way, &[])?.arg(format!("head -c {bytes} /dev/zero")), bytes))
    })
}

/// Download of random bytes.
pub(crate) fn random(plan: &Plan, noise: &mut Noise) -> Result<()> {
    let (course, bytes) = (course(plan)?, plan.mib * MIB);
    let file = course.file("random");
    random_file(&file, bytes)?;
    table(plan, noise, "download of random", bytes, &course, |way| {
        timed(|| drain(course.ssh(way, &[])?.arg(format!("cat {}", file.display())), bytes))
    })
}

/// Upload of random bytes.
pub(crate) fn up(plan: &Plan, noise: &mut Noise) -> Result<()> {
    let (course, bytes) = (course(plan)?, plan.mib * MIB);
    let file = course.file("random");
    random_file(&file, bytes)?;
    table(plan, noise, "upload of random", bytes, &course, |way| {
        timed(|| {
            let status = course.ssh(way, &[])?.arg("cat >/dev/null").stdin(File::open(&file)?).status()?;
            ensure!(status.success(), "the upload failed");
            Ok(())
        })
    })
}

/// `sftp get` and `put` at default depth.
pub(crate) fn sftp(plan: &Plan, noise: &mut Noise) -> Result<()> {
    let (course, bytes) = (course(plan)?, plan.mib * MIB);
    let (file, other) = (course.file("random"), course.file("other"));
    random_file(&file, bytes)?;
    for verb in ["get", "put"] {
        table(plan, noise, &format!("sftp {verb}"), bytes, &course, |way| {
            let batch = format!("{verb} {} {}\n", file.display(), other.display());
            timed(|| {
                let (mut sftp, host) = course.program(way, "sftp")?;
                run(sftp.args(["-q", "-b", "-", host]), std::io::Cursor::new(batch.clone()), PATIENCE)?.ok()?;
                Ok(())
            })
        })?;
    }
    Ok(())
}

/// `scp` in its old protocol, which is a program at the target; the new one is SFTP.
pub(crate) fn scp(plan: &Plan, noise: &mut Noise) -> Result<()> {
    let (course, bytes) = (course(plan)?, plan.mib * MIB);
    let (file, other) = (course.file("random"), course.file("other"));
    random_file(&file, bytes)?;
    let (file, other) = (file.display().to_string(), other.display().to_string());
    for verb in ["get", "put"] {
        table(plan, noise, &format!("scp -O {verb}"), bytes, &course, |way| {
            timed(|| {
                let (mut scp, host) = course.program(way, "scp")?;
                let there = |path: &str| format!("{host}:{path}");
                let (from, to) =
                    if verb == "get" { (there(&file), other.clone()) } else { (file.clone(), there(&other)) };
                run(scp.args(["-q", "-O", &from, &to]), std::io::empty(), PATIENCE)?.ok()?;
                Ok(())
            })
        })?;
    }
    Ok(())
}

/// Fifty downloads at once, as channels of one connection.
pub(crate) fn channels(plan: &Plan, noise: &mut Noise) -> Result<()> {
    const CHANNELS: u64 = 50;
    let (course, bytes) = (course(plan)?, plan.mib * MIB / CHANNELS);
    let file = course.file("random");
    random_file(&file, bytes)?;
    let sockets = tempfile::tempdir()?;
    let path = |way: Way| format!("ControlPath={}/{}", sockets.path().display(), way.name());
    let mut masters = Vec::new();
    for way in &plan.ways {
        let mut master = course.ssh(*way, &["-o", &path(*way), "-o", "ControlMaster=yes", "-N"])?;
        masters.push(master.stdin(Stdio::null()).spawn()?);
        let check = || course.ssh(*way, &["-o", &path(*way), "-O", "check"]);
        let there = casemate_tests::process::wait_until(Duration::from_secs(30), || {
            check().and_then(|mut check| Ok(check.stderr(Stdio::null()).status()?)).is_ok_and(|status| status.success())
        });
        ensure!(there, "no master on the way {}", way.name());
    }
    let command = format!("cat {}", file.display());
    let measured = table(plan, noise, "50 channels at once", bytes * CHANNELS, &course, |way| {
        timed(|| {
            std::thread::scope(|scope| {
                let one = || drain(course.ssh(way, &["-o", &path(way)])?.arg(&command), bytes);
                let all: Vec<_> = (0..CHANNELS).map(|_| scope.spawn(one)).collect();
                all.into_iter().try_for_each(|one| one.join().map_err(|_| anyhow::anyhow!("a channel panicked"))?)
            })
        })
    });
    for mut master in masters {
        master.kill()?;
        master.wait()?;
    }
    measured
}

/// A flood of numbers in a terminal.
pub(crate) fn flood(plan: &Plan, noise: &mut Noise) -> Result<()> {
    let course = course(plan)?;
    let count = plan.mib * 16 * 1024;
    // Each line gets a carriage return from the terminal.
    let bytes: u64 = (1..=count).map(|number| u64::from(number.ilog10()) + 3).sum();
    table(plan, noise, "seq flood in a pty", bytes, &course, |way| {
        timed(|| drain(course.ssh(way, &["-tt"])?.arg(format!("seq 1 {count}")), 0))
    })
}

/// Set-up of `ssh host true`.
pub(crate) fn setup(plan: &Plan, noise: &mut Noise) -> Result<()> {
    let course = course(plan)?;
    table(plan, noise, "ssh host true, ten", 0, &course, |way| {
        timed(|| (0..10).try_for_each(|_| drain(course.ssh(way, &[])?.arg("true"), 0)))
    })
}

/// A keystroke and its echo, back to back.
pub(crate) fn keys(plan: &Plan, noise: &mut Noise) -> Result<()> {
    let course = course(plan)?;
    let mut all = vec![Vec::new(); plan.ways.len()];
    for _ in 0..plan.runs {
        let mut order: Vec<(usize, Way)> = plan.ways.iter().copied().enumerate().collect();
        shuffle(&mut order, noise);
        for (at, way) in order {
            let times = echoes(&course, way, 2000)?;
            if let Some(all) = all.get_mut(at) {
                all.push((quantile(&times, 0.5), quantile(&times, 0.99)));
            }
        }
    }
    let p50: Vec<f64> = all.iter().map(|runs| median(&runs.iter().map(|run| run.0).collect::<Vec<_>>())).collect();
    let p99: Vec<f64> = all.iter().map(|runs| median(&runs.iter().map(|run| run.1).collect::<Vec<_>>())).collect();
    for (name, values) in [("keystroke p50", &p50), ("keystroke p99", &p99)] {
        let direct = values.first().copied().unwrap_or(0.0);
        let mut line = format!("{name:<22} direct {:>7.3} ms", direct * 1e3);
        for (way, value) in plan.ways.iter().copied().zip(values.iter()).skip(1) {
            line += &format!("   {} +{:.3} ms", way.name(), (value - direct) * 1e3);
        }
        say(&line)?;
    }
    Ok(())
}

/// Types one byte at a time into a raw terminal, and measures until it comes back, in seconds.
fn echoes(course: &Course, way: Way, count: usize) -> Result<Vec<f64>> {
    let mut child = course
        .ssh(way, &["-tt"])?
        .arg("stty raw -echo; echo ready; exec cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (mut to, mut from) = (child.stdin.take().context("no input")?, child.stdout.take().context("no output")?);
    let mut byte = [0];
    // The line's end comes with or without a carriage return, depending on how fast `stty` was.
    while byte != *b"\n" {
        from.read_exact(&mut byte)?;
    }
    let mut times = Vec::with_capacity(count);
    for round in 0..count + 100 {
        let start = Instant::now();
        to.write_all(b"x")?;
        from.read_exact(&mut byte)?;
        if round >= 100 {
            times.push(start.elapsed().as_secs_f64());
        }
    }
    end(&mut child);
    Ok(times)
}

/// Durability makes no difference to a session that is idle.
const MEMORY_MODES: [Mode; 2] = [Mode::Process, Mode::ProcessClear];

/// Memory of an idle session.
pub(crate) fn memory(plan: &Plan, _noise: &mut Noise) -> Result<()> {
    for way in plan.ways.iter().copied().filter(|way| *way != Way::Direct) {
        if matches!(way, Way::Bastion(mode) | Way::Inside(mode) if !MEMORY_MODES.contains(&mode)) {
            continue;
        }
        let course = Course::start(&[way])?;
        let held = |course: &Course| -> Result<u64> {
            Ok(match way {
                Way::Jump => course.jump().process.descendants().iter().map(|process| rss(process.pid)).sum(),
                _ => rss(course.lab(way)?.bastion.process.pid),
            })
        };
        drain(course.ssh(way, &[])?.arg("true"), 0)?;
        std::thread::sleep(Duration::from_secs(2));
        let before = held(&course)?;
        let mut clients = Vec::new();
        for _ in 0..plan.sessions {
            let mut client = course
                .ssh(way, &[])?
                .arg("echo up; exec sleep 600")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            // One after the other, so that the figure is of idle sessions and not of a rush.
            let mut up = [0; 3];
            client.stdout.as_mut().context("no output")?.read_exact(&mut up)?;
            clients.push(client);
        }
        std::thread::sleep(Duration::from_secs(12));
        let each = held(&course)?.saturating_sub(before) / 1024 / plan.sessions.max(1) as u64;
        say(&format!("{:<22} {} {each} KiB per session, at {}", "idle memory", way.name(), plan.sessions))?;
        clients.iter_mut().for_each(end);
    }
    Ok(())
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
