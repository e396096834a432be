//! Sessions that have gone on for long enough, or been quiet for too long.

use std::time::{Duration, Instant};

use casemate_tests::client::Route;
use casemate_tests::process::nothing;
use casemate_tests::pty::Terminal;
use casemate_tests::rig::{Lab, Options};

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
