//! The log: one JSON object a line where that is asked for, and nothing of a session in it.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use casemate_tests::client::Route;
use casemate_tests::process::{nothing, run, wait_until};
use casemate_tests::pty::Terminal;
use casemate_tests::rig::{Lab, Options};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// Stands nowhere but in the sessions of this test.
const WORD: &str = "marker-9f31c7ae";

#[test]
fn the_log_is_json_and_holds_nothing_of_a_session_however_much_is_logged() {
    let settings = "[log]\nformat = \"json\"".parse().unwrap();
    let mut lab = Lab::with(&Options { settings, ..Options::default() }).unwrap();
    lab.bastion.stop();
    lab.rig.bastion.again_with(&[("CASEMATE_LOG", "trace")]).unwrap();

    // Typed and shown in a terminal.
    let mut shell = Terminal::start(&lab.client.ssh(Route::Through, &["-tt"]), 80, 24).unwrap();
    shell.type_in(format!("echo {WORD} sh''own\r").as_bytes()).unwrap();
    shell.expect(&format!("{WORD} shown"), PATIENCE).unwrap();
    shell.type_in(b"exit\r").unwrap();
    shell.wait(PATIENCE).unwrap();
    // As a command, in its input and in an environment variable.
    let env = ["-o", &format!("SetEnv=CASEMATE_WORD={WORD}")];
    let done = lab.exec_with(Route::Through, &env, &format!("echo {WORD}; cat"), std::io::Cursor::new(WORD)).unwrap();
    assert_eq!(done.out(), format!("{WORD}\n{WORD}"));
    // As the name and the content of a file, as a subsystem, and as where somebody wants to go.
    let file = lab.dir.join(WORD);
    fs::write(&file, WORD).unwrap();
    let copied = lab.dir.join(format!("{WORD}-copy"));
    let to = format!("{}:{}", Route::Through.host(), copied.display());
    run(lab.client.program("scp").arg(&file).arg(to), nothing(), PATIENCE).unwrap().ok().unwrap();
    assert_eq!(fs::read_to_string(copied).unwrap(), WORD);
    run(lab.client.ssh(Route::Through, &["-s"]).arg(WORD), nothing(), PATIENCE).unwrap();
    run(&mut lab.client.ssh(Route::Through, &["-W", &format!("{WORD}:80")]), nothing(), PATIENCE).unwrap();
    let _ = wait_until(PATIENCE, || lab.bastion.log().matches("session closed").count() >= 5);
    lab.bastion.stop();

    let log = lab.bastion.log();
    assert!(log.contains("session closed") && !log.contains(WORD), "{}", first_line_with(&log, WORD));
    let (mut sessions, mut levels) = (0, BTreeMap::new());
    // What the daemon prints on standard output for whoever starts it is not the log.
    for line in log.lines().filter(|line| !line.starts_with("listening ")) {
        let entry: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let text = |name: &str| entry[name].as_str().unwrap_or_default();
        assert!(text("timestamp").ends_with('Z') && text("timestamp").len() >= 20, "{line}");
        assert!(["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&text("level")), "{line}");
        *levels.entry(text("level").to_owned()).or_insert(0) += 1;
        assert!(entry.get("message").is_some(), "{line}");
        if text("message").starts_with("session ") {
            assert_eq!(text("session").len(), 36, "{line}");
            sessions += 1;
        }
    }
    assert!(sessions >= 6, "{log}");
    // Otherwise nothing more was logged than ever, and that nothing of a session is in it would say little. Below this level no code
    // of ours says anything, and what the SSH library says is not taken into the log.
    assert!(levels.get("DEBUG") > Some(&0), "{levels:?}");
}

fn first_line_with<'a>(log: &'a str, word: &str) -> &'a str {
    log.lines().find(|line| line.contains(word)).unwrap_or(log)
}
