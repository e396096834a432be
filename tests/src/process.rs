//! Processes: started, watched through `/proc`, and ended by what they are and not by what they are called.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// A process we started. Pids are recycled, so its start time belongs to its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owned {
    /// The process id.
    pub pid: u32,
    /// Clock ticks between the machine's boot and the start of the process.
    pub start_ticks: u64,
}

impl Owned {
    /// Names a process that runs now.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn adopt(pid: u32) -> Result<Self> {
        let start_ticks = stat(pid).with_context(|| format!("process {pid} is gone"))?.start_ticks;
        Ok(Self { pid, start_ticks })
    }

    /// Tells whether that very process still runs; a zombie does not.
    pub fn alive(&self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.start_ticks == self.start_ticks && !stat.zombie)
    }

    /// Sends a signal, if the process is still the one we started.
    pub fn signal(&self, signal: Signal) {
        if self.alive()
            && let Some(pid) = Pid::from_raw(self.pid as i32)
        {
            // It may end between the look and the signal; then there is nothing left to do.
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits until the process is gone; false when it outlives `patience`.
    pub fn wait_gone(&self, patience: Duration) -> bool {
        wait_until(patience, || !self.alive())
    }

    /// Asks the process to end, and makes it end after `patience`.
    pub fn stop(&self, patience: Duration) {
        self.signal(Signal::TERM);
        if !self.wait_gone(patience) {
            self.signal(Signal::KILL);
            self.wait_gone(Duration::from_secs(5));
        }
    }

    /// Everything that this process and its children started and that still runs.
    pub fn descendants(&self) -> Vec<Self> {
        let mut found = vec![*self];
        let mut at = 0;
        while let Some(parent) = found.get(at).map(|owned| owned.pid) {
            at += 1;
            for (pid, stat) in all() {
                if stat.parent == parent && !found.iter().any(|owned| owned.pid == pid) {
                    found.push(Self { pid, start_ticks: stat.start_ticks });
                }
            }
        }
        found.split_off(1)
    }
}

/// What `/proc/PID/stat` says about a process.
#[derive(Debug, Clone, Copy)]
pub struct Stat {
    /// The parent's id.
    pub parent: u32,
    /// It ended and waits to be collected.
    pub zombie: bool,
    /// CPU time used so far, in clock ticks of 10 ms, user and system together.
    pub cpu_ticks: u64,
    /// Clock ticks between boot and the start of the process.
    pub start_ticks: u64,
}

/// Reads `/proc/PID/stat`; `None` when there is no such process.
pub fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything, brackets and spaces too: count from the last bracket.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    Some(Stat {
        parent: number(1)? as u32,
        zombie: fields.first().is_some_and(|state| *state == "Z" || *state == "X"),
        cpu_ticks: number(11)? + number(12)?,
        start_ticks: number(19)?,
    })
}

fn all() -> Vec<(u32, Stat)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, stat(pid)?))).collect()
}

/// Returns a line of `/proc/PID/status` that is given in kB, in bytes: `VmRSS`, `VmHWM`, …
pub fn status_bytes(pid: u32, line: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = text.lines().find_map(|have| have.strip_prefix(line)?.strip_prefix(':'))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Returns the memory of a process that is its own and in use, in bytes; shared pages and file pages are left out.
pub fn rss(pid: u32) -> u64 {
    status_bytes(pid, "RssAnon").unwrap_or(0)
}

/// Checks that a process grew by no more than `bound` bytes while it was sent `sent`.
///
/// # Errors
/// When it did; and when it could have kept nearly all that it was sent and still stayed below the bound, which then shows nothing.
pub fn within(what: &str, grown: u64, bound: u64, sent: u64) -> Result<()> {
    ensure!(bound.saturating_mul(2) < sent, "{what}: {sent} bytes were sent, too few for a bound of {bound}");
    ensure!(grown <= bound, "{what}: {grown} bytes more than before, the bound is {bound}; {sent} were sent");
    Ok(())
}

/// Returns how many file descriptors a process holds.
pub fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// CPU seconds used so far by a process, and by none of its children.
pub fn cpu_seconds(pid: u32) -> f64 {
    // The kernel's unit for /proc is 1/100 s on every Linux that we build for.
    stat(pid).map_or(0.0, |stat| stat.cpu_ticks as f64 / 100.0)
}

/// Looks until `done` says yes, or `patience` is over.
pub fn wait_until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if done() {
            return true;
        }
        if start.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts a program that outlives us: in a process group of its own, with no input, writing to `log`.
///
/// # Errors
/// When it does not start.
pub fn spawn_daemon(command: &mut Command, log: &Path) -> Result<Owned> {
    let out = OpenOptions::new().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
    let child = command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .process_group(0)
        .spawn()
        .with_context(|| format!("{} does not start", command.get_program().to_string_lossy()))?;
    let owned = Owned::adopt(child.id());
    // Collect it when it ends; a zombie would keep its pid.
    std::thread::spawn(move || {
        let mut child = child;
        let _ = child.wait();
    });
    owned
}

/// A program that runs beside the test, and ends at the latest when the value is dropped.
#[derive(Debug)]
pub struct Spawned(Child);

impl Spawned {
    /// Starts a command; its streams are what the caller made them.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(command: &mut Command) -> Result<Self> {
        Ok(Self(command.spawn().with_context(|| format!("{} does not start", describe(command)))?))
    }

    /// Waits for the program to end by itself.
    ///
    /// # Errors
    /// When it outlives `patience`.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let mut status = None;
        wait_until(patience, || {
            status = self.0.try_wait().ok().flatten();
            status.is_some()
        });
        status.with_context(|| format!("it still runs after {patience:?}"))
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a finished command left behind.
#[derive(Debug)]
pub struct Done {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Done {
    /// Returns the exit status as a shell shows it: 128 + the signal's number for one that a signal ended.
    pub fn code(&self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Standard output as text, for messages.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text, for messages.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Returns itself when the command ended with 0.
    ///
    /// # Errors
    /// Otherwise, with what it wrote to standard error.
    pub fn ok(self) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        bail!("exit {}: {}", self.code(), self.err().trim_end())
    }
}

/// Runs a command to its end with that input, and collects what it writes.
///
/// # Errors
/// When it does not start, or is still running after `patience`; it is killed then.
pub fn run(command: &mut Command, input: impl Read + Send + 'static, patience: Duration) -> Result<Done> {
    let name = describe(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{name} does not start"))?;
    let (mut to, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let writer = std::thread::spawn(move || {
        let mut input = input;
        // A command that stops reading is no fault of the caller: what it did with the input shows in its output.
        if let Some(to) = &mut to {
            let _ = std::io::copy(&mut input, to);
        }
    });
    let out = std::thread::spawn(move || slurp(out));
    let err = std::thread::spawn(move || slurp(err));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > patience {
            let _ = child.kill();
            let _ = child.wait();
            let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
            bail!(
                "{name} still ran after {patience:?}; {} bytes of output, standard error: {}",
                out.len(),
                String::from_utf8_lossy(&err)
            );
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let done = Done { status, stdout: out.join().unwrap_or_default(), stderr: err.join().unwrap_or_default() };
    drop(writer);
    Ok(done)
}

/// The input of a command that gets none.
pub fn nothing() -> std::io::Empty {
    std::io::empty()
}

fn slurp(from: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        let _ = from.read_to_end(&mut bytes);
    }
    bytes
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Returns the path of a program of the machine, looking where Debian keeps those of the administrator too.
///
/// # Errors
/// When it is not installed.
pub fn find_program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin", "/usr/bin"].map(PathBuf::from));
    let mut candidates = dirs.map(|dir| dir.join(name));
    candidates.find(|program| program.is_file()).with_context(|| format!("{name} is not installed"))
}

/// Writes a file that only its owner may read.
///
/// # Errors
/// When the file system refuses.
pub fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file: File = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    Ok(())
}
