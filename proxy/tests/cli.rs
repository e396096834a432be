//! The program as people run it: exit codes, what it prints where, signals.

// Clippy knows test functions, not the helpers they share.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

fn casemate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_casemate")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A fresh `init`, listening on a port that the kernel picks.
fn made() -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("d");
    let out = casemate(&[
        "init",
        "--dir",
        dir.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--pg-port",
        "0",
        "--node",
        "n1",
    ]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert!(text(&out.stdout).contains("casemate serve --config"));
    (home, dir.join("casemate.toml"))
}

struct Daemon {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Daemon {
    /// Starts it and returns once it says that it listens.
    fn start(config: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_casemate"))
            .args(["serve", "--config", config.to_str().unwrap()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert!(line.starts_with("listening ssh 127.0.0.1:") && !line.trim_end().ends_with(":0"), "{line:?}");
        Self { child, stdout }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Reads the log up to a line with these words.
    fn await_log(&mut self, words: &str) {
        let mut log = BufReader::new(self.child.stderr.take().unwrap());
        let mut seen = String::new();
        while !seen.contains(words) {
            assert_ne!(log.read_line(&mut seen).unwrap(), 0, "the log ended without {words:?}: {seen}");
        }
        self.child.stderr = Some(log.into_inner());
    }

    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut rest).unwrap();
        let status = self.child.wait().unwrap();
        self.stdout.read_to_string(&mut rest).unwrap();
        (status.code(), rest)
    }
}

#[test]
fn help_and_version_are_done_and_nonsense_is_usage() {
    for (args, code) in [
        (&["--help"][..], 0),
        (&["--version"], 0),
        (&["serve", "--help"], 0),
        (&[], 2),
        (&["serve"], 2),
        (&["fly"], 2),
        (&["init", "--dir", "d", "--durability", "fast"], 2),
        (&["target", "add", "--config", "c", "--name", "Web", "--address", "a:22", "--role", "r=k"], 2),
    ] {
        assert_eq!(casemate(args).status.code(), Some(code), "{args:?}");
    }
    assert_eq!(text(&casemate(&["--version"]).stdout).trim_end(), concat!("casemate ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn check_answers_with_its_exit_code() {
    let (_home, config) = made();
    let file = config.to_str().unwrap();
    let out = casemate(&["check", "--config", file]);
    assert_eq!(out.status.code(), Some(0));
    assert!(text(&out.stdout).starts_with(&format!("{file}: ok; node n1, durability causal")));

    let bad = std::fs::read_to_string(&config).unwrap().replace("durability = \"causal\"", "durability = \"none\"");
    std::fs::write(&config, bad).unwrap();
    for verb in ["check", "serve"] {
        let out = casemate(&[verb, "--config", file]);
        assert_eq!((out.status.code(), text(&out.stdout).as_str()), (Some(1), ""), "{verb}");
        let error = text(&out.stderr);
        assert!(error.starts_with(&format!("{file}:")) && error.contains("write \"strict\""), "{error}");
    }
    assert_eq!(casemate(&["init", "--dir", config.parent().unwrap().to_str().unwrap()]).status.code(), Some(1));
}

#[test]
fn a_fresh_directory_serves_and_ends_with_zero() {
    let (_home, config) = made();
    for signal in [Signal::TERM, Signal::INT] {
        let daemon = Daemon::start(&config);
        daemon.signal(signal);
        let (code, rest) = daemon.end();
        assert_eq!(code, Some(0), "{rest}");
    }
}

#[test]
fn a_bad_reload_is_refused_and_the_daemon_goes_on() {
    let (_home, config) = made();
    let good = std::fs::read_to_string(&config).unwrap();
    let mut daemon = Daemon::start(&config);
    std::fs::write(&config, format!("{good}\nbogus = 1\n")).unwrap();
    daemon.signal(Signal::HUP);
    daemon.await_log("reload refused");
    std::fs::write(&config, format!("{good}\n[limits]\nsessions = 7\n")).unwrap();
    daemon.signal(Signal::HUP);
    daemon.await_log("configuration reloaded");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end().0, Some(0));
}

#[test]
fn a_second_daemon_on_the_same_state_does_not_start() {
    let (_home, config) = made();
    let daemon = Daemon::start(&config);
    // The port is the kernel's choice, so only the state directory stands in the way.
    let out = casemate(&["serve", "--config", config.to_str().unwrap()]);
    assert_eq!((out.status.code(), text(&out.stdout).as_str()), (Some(1), ""));
    assert!(text(&out.stderr).contains("recording cannot start"), "{}", text(&out.stderr));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end().0, Some(0));
}
