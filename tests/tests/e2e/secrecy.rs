//! What the bastion wrote, it cannot read back: nothing readable of a session lies anywhere on the node.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use casemate_recorder::transcript::block::Block;
use casemate_recorder::transcript::chain::events;
use casemate_recorder::transcript::cipher::LaneKeys;
use casemate_recorder::transcript::event::{Body, Lane, exec};
use casemate_recorder::transcript::head::Head;
use casemate_recorder::vault::segment_key;
use casemate_tests::client::Route;
use casemate_tests::process::{Done, nothing, run};
use casemate_tests::rig::{Lab, Options};
use casemate_tests::vault::Vault;

/// Words that stand nowhere but in the sessions of this test: typed, shown, in a command, in an environment variable.
const WORDS: [&str; 4] = ["typed-5dfe01b7", "shown-90c2ab4e", "command-77ad3f10", "variable-c41e9d26"];

/// Searches the raw bytes of every file: journal, spool, vault, logs, keys, configuration.
fn search(dir: &Path) -> Done {
    assert!(fs::read_dir(dir.join("state/journal")).unwrap().count() > 0, "a journal to search");
    let mut grep = Command::new("grep");
    for word in WORDS {
        grep.args(["-e", word]);
    }
    run(grep.args(["-r", "-a", "-l", "-F"]).arg(dir), nothing(), Duration::from_secs(60)).unwrap()
}

fn assert_nothing_readable(dir: &Path) {
    let done = search(dir);
    assert_eq!((done.code(), done.out(), done.err()), (1, String::new(), String::new()), "files that can be read");
}

#[test]
fn nothing_readable_of_a_session_is_left_on_the_node_and_the_auditor_reads_all_of_it() {
    let mut lab = Lab::start().unwrap();
    let [typed, shown, command, variable] = WORDS;
    let said = format!("printf 'shown-%s\\n' 90c2ab4e; : {command}; cat");
    assert!(!said.contains(shown), "the command does not hold what it shows");

    // One session that ends, and one that a kill cuts short.
    let options = ["-o", &format!("SetEnv=CASEMATE_WORD={variable}")];
    let done = lab.exec_with(Route::Through, &options, &said, std::io::Cursor::new(typed)).unwrap();
    assert_eq!((done.code(), done.out()), (0, format!("{shown}\n{typed}")));
    let mut ssh = lab.client.ssh(Route::Through, &options);
    let mut live = ssh.arg(&said).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    live.stdin.as_mut().unwrap().write_all(typed.as_bytes()).unwrap();
    let mut seen = vec![0; shown.len() + 1 + typed.len()];
    live.stdout.as_mut().unwrap().read_exact(&mut seen).unwrap();
    assert_eq!(seen, format!("{shown}\n{typed}").as_bytes());

    // The identities leave the machine, as `init` asks for.
    let away = tempfile::tempdir().unwrap();
    let identities = lab.bastion.dir.join("identities");
    for name in ["auditor.agekey", "spare.agekey"] {
        fs::copy(identities.join(name), away.path().join(name)).unwrap();
    }
    fs::remove_dir_all(&identities).unwrap();
    assert_nothing_readable(&lab.bastion.dir);
    lab.bastion.kill_nine();
    live.wait().unwrap();
    assert_nothing_readable(&lab.bastion.dir);
    lab.rig.bastion.again().unwrap();

    let auditor = Vault { identity: away.path().join("auditor.agekey"), ..lab.vault() };
    auditor.settle(2, Duration::from_secs(20)).unwrap();
    assert_nothing_readable(&lab.bastion.dir);
    for identity in ["auditor.agekey", "spare.agekey"] {
        let vault = Vault { identity: away.path().join(identity), ..lab.vault() };
        for (_, transcript) in vault.transcripts().unwrap() {
            assert_eq!(transcript.bytes("ssh.in"), typed.as_bytes());
            assert_eq!(transcript.bytes("ssh.out"), format!("{shown}\n{typed}").as_bytes());
            assert!(transcript.says("ssh.exec", command) && transcript.says("ssh.env", variable));
        }
        vault.verify(&[]).unwrap().unaltered().unwrap();
    }
    lab.bastion.stop();
    only_for_those_it_was_wrapped_for(&auditor, &lab.bastion.dir);
    opens_with_the_stock_program(&auditor);
}

/// The search can fail: what is recorded in the clear it finds where it lies.
#[test]
fn what_is_recorded_in_the_clear_is_found_by_the_same_search() {
    let lab = Lab::with(&Options { clear: true, ..Options::default() }).unwrap();
    let typed = WORDS[0];
    let done = lab.exec_with(Route::Through, &[], "cat", std::io::Cursor::new(typed)).unwrap();
    assert_eq!(done.out(), typed);
    let found = search(&lab.bastion.dir);
    let journal = lab.bastion.dir.join("state/journal").display().to_string();
    assert_eq!((found.code(), found.err().as_str()), (0, ""), "the search finds nothing");
    assert!(found.out().lines().any(|file| file.starts_with(&journal)), "not in the journal: {}", found.out());
}

/// Without an identity, or with a stranger's, nothing is read; a stranger's is a finding, no identity is none.
fn only_for_those_it_was_wrapped_for(vault: &Vault, bastion: &Path) {
    let session = session_id(vault);
    let replay = casemate_tests::bins::path("casemate-replay").unwrap();
    let call = |args: &[&str]| {
        let mut command = Command::new(&replay);
        run(command.arg(args[0]).arg(&vault.dir).args(&args[1..]), nothing(), Duration::from_secs(60)).unwrap()
    };
    let refused = call(&["export", &session, "--format", "jsonl"]);
    assert_eq!(refused.code(), 2);
    assert!(refused.err().contains("is encrypted: give --identity"), "{}", refused.err());
    let listed = call(&["ls", "--json"]).ok().unwrap().out();
    let line = listed.lines().find(|line| line.contains(&session)).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!((line["person"].clone(), line["target"].clone()), (serde_json::Value::Null, serde_json::Value::Null));
    assert_eq!(line["kind"], "session");
    let trust = vault.trust.display().to_string();
    assert_eq!(call(&["verify", "--trust", &trust]).code(), 4, "integrity needs no key");

    // The node's own key opens its control transcripts, and is a stranger to every session.
    let state = bastion.join("keys/state.agekey").display().to_string();
    let control = vault.of_kind("control").unwrap()[0]["session"].as_str().unwrap().to_owned();
    call(&["export", &control, "--format", "jsonl", "--identity", &state]).ok().unwrap();
    let refused = call(&["export", &session, "--format", "jsonl", "--identity", &state]);
    assert!(refused.code() == 2 && refused.err().contains("not wrapped for any identity"), "{}", refused.err());
    let verdict = call(&["verify", "--trust", &trust, "--identity", &state]);
    assert_eq!(verdict.code(), 1, "{}", verdict.out());
    assert!(verdict.out().contains("not wrapped for any identity given"), "{}", verdict.out());
}

fn session_id(vault: &Vault) -> String {
    vault.of_kind("session").unwrap()[0]["session"].as_str().unwrap().to_owned()
}

/// The wrapped keys are standard age files, and what they hold opens the blocks.
fn opens_with_the_stock_program(vault: &Vault) {
    let session = session_id(vault).parse().unwrap();
    let bytes = fs::read(vault.dir.join(segment_key(session, 0))).unwrap();
    let head = Head::decode(Block::parse(&bytes).unwrap().payload).unwrap();
    let keys = head.lane_keys.unwrap();
    let keys: Vec<[u8; 32]> = keys
        .iter()
        .map(|file| {
            let mut age = Command::new("age");
            let file = std::io::Cursor::new(file.to_vec());
            let done = run(age.arg("-d").arg("-i").arg(&vault.identity), file, Duration::from_secs(10));
            done.expect("`age` is missing: apt-get install age").ok().unwrap().stdout.try_into().unwrap()
        })
        .collect();
    let keys = LaneKeys::new(keys.try_into().unwrap());
    let (mut rest, mut commands) = (bytes.as_slice(), Vec::new());
    while let Ok(block) = Block::parse(rest) {
        rest = &rest[block.raw.len()..];
        if block.header.kind.holds_events() && block.header.lane == Lane::Output {
            commands
                .extend(events(&block, &keys).unwrap().into_iter().filter(|(_, entry)| entry.event.kind == exec::TYPE));
        }
    }
    assert_eq!(commands.len(), 1);
    assert!(matches!(commands[0].1.event.body, Body::Map(_)));
    assert!(format!("{commands:?}").contains(WORDS[2]), "{commands:?}");
}
