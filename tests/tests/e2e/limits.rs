//! Sessions that have gone on for long enough, or been quiet for too long.

use std::process::Stdio;
use std::time::{Duration, Instant};

use casemate_tests::client::Route;
use casemate_tests::noise::Noise;
use casemate_tests::process::{nothing, wait_until};
use casemate_tests::pty::Terminal;
use casemate_tests::rig::{Lab, Options};
use casemate_tests::scale::MIB;

use super::only_session;

const PATIENCE: Duration = Duration::from_secs(30);

fn lab(limit: &str) -> Lab {
    Lab::with(&Options { limits: limit.parse().unwrap(), ..Options::default() }).unwrap()
}

#[test]
fn a_quiet_shell_is_warned_and_ended_and_a_busy_one_is_not() {
    let lab = lab("idle = \"8s\"");
    let start = Instant::now();
    let mut terminal = Terminal::start(&lab.client.ssh(Route::Through, &["-tt"]), 100, 30).unwrap();
    // Longer than the limit in all, never as long in one piece.
    for round in 0..5 {
        terminal.type_in(format!("echo round-$(({round}+10))\r").as_bytes()).unwrap();
        terminal.expect(&format!("round-{}", round + 10), PATIENCE).unwrap();
        assert!(!terminal.text().contains("this session ends"), "{}", terminal.text());
        std::thread::sleep(Duration::from_millis(1800));
    }
    assert!(start.elapsed() > Duration::from_secs(8));
    // How many seconds before depends on the limit, and on how busy the machine is.
    terminal.expect("unless something happens", PATIENCE).unwrap();
    terminal.expect("casemate: this session ends: nothing happened for 8 s", PATIENCE).unwrap();
    assert_eq!(terminal.wait(PATIENCE).unwrap().code(), Some(254));
    let session = only_session(&lab.vault());
    assert!(session.says("shown", "unless something happens"), "what was shown is on record");
    assert!(session.says("ended", "limits.idle of 8 s is over"));
}

#[test]
fn a_command_ends_with_its_session_and_gets_no_other_byte() {
    let lab = lab("session = \"4s\"");
    let start = Instant::now();
    // It is never quiet: only the whole counts.
    let command = "while sleep 0.2; do echo .; done";
    let done = lab.exec_with(Route::Through, &[], command, nothing()).unwrap();
    assert_eq!((done.code(), done.err().as_str()), (254, "casemate: this session ends: it may last 4 s\n"));
    let took = start.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(9)).contains(&took), "{took:?}");
    assert!(only_session(&lab.vault()).says("ended", "limits.session of 4 s is over"));
}

/// Reads 100 KiB a second and notes when it got each piece, counted from its start.
const SLOW_READER: &str = r#"
import os, sys, time
start = time.monotonic()
with open(sys.argv[1], "w") as log:
    print("ready", flush=True)
    while data := os.read(0, 16384):
        print(time.monotonic() - start, len(data), file=log, flush=True)
        time.sleep(0.16)
"#;

/// Starts an upload that the target takes far too slowly, and kills the client when much of it waits at the bastion. Returns
/// the target's notes.
fn abandon_an_upload(lab: &Lab) -> std::path::PathBuf {
    let (script, log) = (lab.dir.join("slow_reader"), lab.dir.join("pieces"));
    std::fs::write(&script, SLOW_READER).unwrap();
    let mut ssh = lab.client.ssh(Route::Through, &[]);
    ssh.arg(format!("python3 {} {}", script.display(), log.display()));
    let mut ssh = ssh.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut input = ssh.stdin.take().unwrap();
    // Its error is that of a pipe whose reader is gone.
    let writer = std::thread::spawn(move || drop(std::io::copy(&mut Noise::new(5).take_bytes(12 * MIB), &mut input)));
    assert!(wait_until(PATIENCE, || std::fs::metadata(&log).is_ok_and(|log| log.len() > 0)));
    std::thread::sleep(Duration::from_secs(3));
    ssh.kill().unwrap();
    ssh.wait().unwrap();
    writer.join().unwrap();
    log
}

/// When the last piece of an abandoned upload reached the target, in seconds from its start.
fn last_piece(log: &std::path::Path) -> f64 {
    let text = std::fs::read_to_string(log).unwrap();
    text.lines().last().unwrap().split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_limit_reaches_a_session_whose_client_has_left() {
    let lab = lab("session = \"8s\"");
    let log = abandon_an_upload(&lab);
    std::thread::sleep(Duration::from_secs(10));
    let last = last_piece(&log);
    assert!(last > 5.0, "what was sent before goes on: {last}");
    // The target's own buffers hold a little more.
    assert!(last < 10.5, "a piece came {last} s after the start");
    assert!(only_session(&lab.vault()).says("ended", "limits.session of 8 s is over"));
}

#[test]
fn a_stop_reaches_a_session_whose_client_has_left() {
    let lab = lab("drain = \"1s\"");
    abandon_an_upload(&lab);
    let start = Instant::now();
    lab.bastion.process.signal(rustix::process::Signal::TERM);
    assert!(lab.bastion.process.wait_gone(Duration::from_secs(11)), "it runs on: {}", lab.bastion.log());
    eprintln!("gone after {:?}", start.elapsed());
    assert!(only_session(&lab.vault()).says("ended", "the drain is over"));
}
