//! What the trust file decides: real vaults, judged by files that are signed, not signed, or about other nodes.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic in a test is a failing test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use casemate_certs::trust::{Authority, Period, Retention, Trust, TrustedNode, signature_file};
use casemate_recorder::transcript::event::{Event, Side, ssh_out};
use casemate_recorder::{CloseReason, Protocol, Recorder, RecorderConfig, SessionSpec, TranscriptKind};
use ed25519_dalek::SigningKey;
use serde_json::Value;

mod support;

/// A vault, the checkpoints that an auditor kept, and their trust file.
struct Desk {
    dir: tempfile::TempDir,
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn now_us() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

const ALWAYS: Period = Period::ALWAYS;

impl Desk {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Lets a node record a session into the vault; `state` names its state directory.
    fn record(&self, state: &str, node: &str, key: SigningKey) {
        let mut config = RecorderConfig::new(self.path(state), self.path("vault"), node.into(), key);
        config.retain = Duration::from_secs(400 * 24 * 3600);
        let recorder = Recorder::start(config).unwrap();
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let spec =
                SessionSpec { kind: TranscriptKind::Session, protocol: Some(Protocol::Ssh), policy_hash: [0; 32] };
            let session = recorder.open_session(spec, Vec::new()).await.unwrap();
            let shown = Event::stream(ssh_out::TYPE, 0, Bytes::from_static(b"shown"));
            drop(session.record(Side::Target, shown).receipt().await.unwrap().into_bytes());
            session.close(CloseReason::Client, None).await.unwrap();
        });
        recorder.shutdown();
    }

    /// Copies the newest checkpoint of a node out of the vault, as an auditor would.
    fn keep(&self, node: &str) -> String {
        let size = |path: &PathBuf| -> u64 {
            path.file_name().unwrap().to_str().unwrap().split('-').next().unwrap().parse().unwrap()
        };
        let newest = files(&self.path("vault/v1/log").join(node).join("cp")).into_iter().max_by_key(size).unwrap();
        // The name holds the root, so two logs of one name and size are kept apart.
        let kept = self.path(&format!("{node}-{}", newest.file_name().unwrap().to_str().unwrap()));
        fs::copy(newest, &kept).unwrap();
        kept.to_str().unwrap().to_owned()
    }

    fn trust(&self, nodes: Vec<TrustedNode>) -> Trust {
        support::trust(self.dir.path(), nodes)
    }

    fn write(&self, trust: &Trust) {
        support::write(&self.path("trust.toml"), trust);
    }

    fn sign(&self) {
        support::sign(&self.path("trust.toml"));
    }

    /// Verifies by a properly signed file.
    fn judge(&self, nodes: Vec<TrustedNode>, kept: &[&str]) -> (i32, Value) {
        self.write(&self.trust(nodes));
        self.sign();
        self.verify(kept)
    }

    fn verify(&self, kept: &[&str]) -> (i32, Value) {
        let output = self.run(kept, &["--json"]);
        let text = String::from_utf8(output.stdout).unwrap();
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        let code = output.status.code().unwrap();
        assert_eq!(last["exit"], code);
        (code, last)
    }

    fn run(&self, kept: &[&str], more: &[&str]) -> std::process::Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_casemate-replay"));
        command.arg("verify").arg(self.path("vault")).arg("--trust").arg(self.path("trust.toml")).args(more);
        kept.iter().for_each(|note| {
            command.arg("--checkpoint").arg(note);
        });
        command.output().unwrap()
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { out.extend(files(&path)) } else { out.push(path) }
    }
    out.sort();
    out
}

/// Whether one of the findings under that name has these words in it.
fn says(last: &Value, name: &str, words: &str) -> bool {
    last[name].as_array().unwrap().iter().any(|finding| finding.as_str().unwrap().contains(words))
}

#[test]
fn a_verdict_rests_on_officers_and_names_them() {
    let desk = Desk::new();
    desk.record("state", "node-1", key(1));
    let kept = desk.keep("node-1");
    let nodes = || vec![support::node("node-1", &key(1), ALWAYS)];
    let (code, last) = desk.judge(nodes(), &[&kept]);
    assert_eq!(code, 0, "{last:#}");
    let text = fs::read(desk.path("trust.toml")).unwrap();
    let sha256 = Command::new("sha256sum").arg(desk.path("trust.toml")).output().unwrap().stdout;
    let sha256 = String::from_utf8(sha256).unwrap();
    let told = &last["trust"];
    assert_eq!(told["fingerprint"], sha256.split(' ').next().unwrap());
    assert_eq!((&told["organisation"], &told["signed_by"][0]["officer"]), (&"Example Bank".into(), &"Ada".into()));
    let keygen = Command::new("ssh-keygen").arg("-lf").arg(desk.path("officer.pub")).output().unwrap().stdout;
    let fingerprint = told["signed_by"][0]["key"].as_str().unwrap();
    assert!(String::from_utf8(keygen).unwrap().contains(fingerprint), "{fingerprint}");
    let page = String::from_utf8(desk.run(&[&kept], &[]).stdout).unwrap();
    for words in ["verdict: clean (exit 0)", "Example Bank, issued 2026-01-01T00:00:00.000000Z", fingerprint] {
        assert!(page.contains(words), "{words}: {page}");
    }

    // Another byte, another file: nobody signed that one.
    let mut changed = text.clone();
    changed.push(b'\n');
    fs::write(desk.path("trust.toml"), changed).unwrap();
    let (code, last) = desk.verify(&[&kept]);
    assert_eq!(code, 4, "{last:#}");
    assert!(says(&last, "undecided_because", "signed by 0 of the 1 officers"), "{last:#}");
    assert!(last["trust"]["not_counted"][0].as_str().unwrap().contains("over another file"), "{last:#}");
    fs::write(desk.path("trust.toml"), text).unwrap();
    fs::remove_file(signature_file(&desk.path("trust.toml"))).unwrap();
    let (code, last) = desk.verify(&[&kept]);
    assert_eq!((code, says(&last, "undecided_because", "is not signed")), (4, true), "{last:#}");

    // Self-asserted: for a demonstration, with or without a signature beside it.
    desk.write(&Trust::self_asserted(None, nodes()));
    let (code, last) = desk.verify(&[&kept]);
    assert_eq!((code, says(&last, "undecided_because", "self-asserted")), (4, true), "{last:#}");
    desk.sign();
    assert_eq!(desk.verify(&[&kept]).0, 4);
    assert_eq!((&last["trust"]["self_asserted"], &last["trust"]["organisation"]), (&true.into(), &Value::Null));

    // Evidence that was altered shows whatever the trust file is worth.
    desk.write(&desk.trust(nodes()));
    let segment = files(&desk.path("vault/v1/t")).pop().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(&segment).unwrap();
    fs::write(&segment, bytes).unwrap();
    assert_eq!(desk.verify(&[&kept]).0, 1);
}

#[test]
fn a_signature_that_cannot_be_read_is_no_absence() {
    let desk = Desk::new();
    desk.record("state", "node-1", key(1));
    desk.write(&desk.trust(vec![support::node("node-1", &key(1), ALWAYS)]));
    fs::create_dir(signature_file(&desk.path("trust.toml"))).unwrap();
    let output = desk.run(&[], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("trust.toml.sig"));
}

#[test]
fn a_file_of_tomorrow_decides_nothing_today() {
    let desk = Desk::new();
    desk.record("state", "node-1", key(1));
    let kept = desk.keep("node-1");
    let mut trust = desk.trust(vec![support::node("node-1", &key(1), ALWAYS)]);
    let Authority::Officers(board) = &mut trust.authority else { unreachable!() };
    board.issued_us = now_us() / 1_000_000 * 1_000_000 + 86_400_000_000;
    desk.write(&trust);
    desk.sign();
    let (code, last) = desk.verify(&[&kept]);
    assert_eq!((code, says(&last, "undecided_because", "has not come yet")), (4, true), "{last:#}");
}

#[test]
fn a_node_that_is_not_listed_cannot_be_judged_and_hides_nothing() {
    let desk = Desk::new();
    desk.record("state", "node-1", key(1));
    desk.record("other", "node-2", key(2));
    let (one, two) = (desk.keep("node-1"), desk.keep("node-2"));
    let kept = [one.as_str(), two.as_str()];
    let nodes = |seed| vec![support::node("node-1", &key(1), ALWAYS), support::node("node-2", &key(seed), ALWAYS)];
    assert_eq!(desk.judge(nodes(2), &kept).0, 0);
    let (code, last) = desk.judge(vec![support::node("node-1", &key(1), ALWAYS)], &kept);
    assert_eq!((code, says(&last, "undecided_because", "does not list node node-2")), (4, true), "{last:#}");
    assert_eq!((&last["nodes"][0]["trusted"], &last["nodes"][1]["trusted"]), (&true.into(), &false.into()));
    // Listed, and not here at all.
    let mut more = nodes(2);
    more.push(support::node("node-3", &key(3), ALWAYS));
    let (code, last) = desk.judge(more, &kept);
    assert_eq!((code, says(&last, "undecided_because", "lists node node-3, which has no log here")), (4, true));
    // What is altered in the log of an unlisted node is altered all the same.
    let segment = files(&desk.path("vault/v1/t")).pop().unwrap();
    fs::remove_file(&segment).unwrap();
    fs::write(&segment, "x").unwrap();
    assert_eq!(desk.judge(vec![support::node("node-1", &key(1), ALWAYS)], &kept).0, 1);
}

/// What root does who wants the past gone: a new state, and no log in the vault that could contradict it.
fn reinitialise(desk: &Desk, seed: u8) {
    fs::remove_dir_all(desk.path("vault/v1")).unwrap();
    desk.record("new-state", "node-1", key(seed));
}

#[test]
fn a_node_that_was_initialised_again_with_another_key_is_found() {
    let desk = Desk::new();
    desk.record("state", "node-1", key(1));
    let old = desk.keep("node-1");
    let between = now_us();
    reinitialise(&desk, 2);
    let new = desk.keep("node-1");

    // The file knows the old key only: somebody else signs in the node's name.
    let (code, last) = desk.judge(vec![support::node("node-1", &key(1), ALWAYS)], &[]);
    assert_eq!((code, says(&last, "altered_findings", "signed by a key that is not trusted")), (1, true), "{last:#}");

    // It knows both, one after the other: nothing contradicts itself, and the old log is not here.
    let both = || {
        vec![
            support::node("node-1", &key(1), Period { from_us: 0, until_us: Some(between) }),
            support::node("node-1", &key(2), Period { from_us: between, until_us: None }),
        ]
    };
    let (code, last) = desk.judge(both(), &[&new]);
    let found = says(&last, "undecided_because", "the log that the key signed is not here");
    assert_eq!((code, found), (4, true), "{last:#}");
    // Whoever kept something of the old log can prove that it is gone.
    let (code, last) = desk.judge(both(), &[&old]);
    assert_eq!(code, 1, "{last:#}");
    assert!(!last["altered_findings"].as_array().unwrap().is_empty());
    // The new key alone, by a file that forgets the old one: the auditor's anchor still speaks.
    let (code, last) = desk.judge(vec![support::node("node-1", &key(2), ALWAYS)], &[&old, &new]);
    assert_eq!((code, says(&last, "altered_findings", "by a key that is not trusted")), (1, true), "{last:#}");
}

#[test]
fn a_log_that_restarts_under_the_same_key_is_found_by_what_was_kept() {
    let desk = Desk::new();
    desk.record("state", "node-1", key(1));
    desk.record("state", "node-1", key(1));
    let old = desk.keep("node-1");
    let nodes = || vec![support::node("node-1", &key(1), ALWAYS)];
    assert_eq!(desk.judge(nodes(), &[&old]).0, 0);
    reinitialise(&desk, 1);
    let new = desk.keep("node-1");
    assert_eq!(desk.judge(nodes(), &[]).0, 4);
    let (code, last) = desk.judge(nodes(), &[&old]);
    assert_eq!((code, says(&last, "altered_findings", "rolled back")), (1, true), "{last:#}");
    assert_eq!(desk.judge(nodes(), &[&old, &new]).0, 1);
}

#[test]
fn a_new_state_in_front_of_an_old_vault_does_not_start() {
    let desk = Desk::new();
    desk.record("state", "node-1", key(1));
    for seed in [1, 2] {
        let config = RecorderConfig::new(desk.path("fresh"), desk.path("vault"), "node-1".into(), key(seed));
        let refused = Recorder::start(config).map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains("somebody rolled this node back"), "key {seed}: {refused}");
    }
}

#[test]
fn a_key_counts_in_its_time_only() {
    let desk = Desk::new();
    let before = now_us();
    desk.record("state", "node-1", key(1));
    let middle = now_us();
    desk.record("state", "node-1", key(1));
    let after = now_us();
    let kept = desk.keep("node-1");
    let period = |from_us, until_us| vec![support::node("node-1", &key(1), Period { from_us, until_us })];
    assert_eq!(desk.judge(period(before, Some(after)), &[&kept]).0, 0);
    for (outside, nodes) in [
        ("not yet", period(after, None)),
        ("began in the middle", period(middle, None)),
        ("no longer", period(0, Some(before))),
        ("ended in the middle", period(0, Some(middle))),
    ] {
        let (code, last) = desk.judge(nodes, &[&kept]);
        assert_eq!(code, 1, "{outside}: {last:#}");
        assert!(says(&last, "altered_findings", "outside the period of its key"), "{outside}: {last:#}");
    }
    // A node that changes its key goes on in its log.
    let change = now_us();
    desk.record("state", "node-1", key(2));
    let kept = desk.keep("node-1");
    let both = vec![
        support::node("node-1", &key(1), Period { from_us: before, until_us: Some(change) }),
        support::node("node-1", &key(2), Period { from_us: change, until_us: None }),
    ];
    let (code, last) = desk.judge(both, &[&kept]);
    assert_eq!(code, 0, "{last:#}");
}

#[test]
fn what_is_kept_too_short_or_too_long_is_to_be_explained() {
    let desk = Desk::new();
    desk.record("state", "node-1", key(1));
    let kept = desk.keep("node-1");
    let day = Duration::from_secs(24 * 3600);
    for (min, max, code, words) in [
        (Some(day * 400), Some(day * 400), 0, ""),
        (Some(day * 401), None, 3, "is kept for 400 days, the trust file asks for at least 401 days"),
        (None, Some(day * 399), 3, "is kept for 400 days, the trust file asks for at most 399 days"),
    ] {
        let trust =
            Trust { retention: Retention { min, max }, ..desk.trust(vec![support::node("node-1", &key(1), ALWAYS)]) };
        desk.write(&trust);
        desk.sign();
        let (found, last) = desk.verify(&[&kept]);
        assert_eq!(found, code, "{last:#}");
        assert!(words.is_empty() || says(&last, "exceptions", words), "{last:#}");
    }
}

#[test]
fn an_anchor_may_be_as_old_as_the_file_says() {
    let desk = Desk::new();
    desk.record("state", "node-1", key(1));
    let kept = desk.keep("node-1");
    let trust = |age| Trust { anchor_age_max: Some(age), ..desk.trust(vec![support::node("node-1", &key(1), ALWAYS)]) };
    desk.write(&trust(Duration::from_secs(3600)));
    desk.sign();
    assert_eq!(desk.verify(&[&kept]).0, 0);
    std::thread::sleep(Duration::from_millis(1100));
    desk.write(&trust(Duration::from_secs(1)));
    desk.sign();
    let (code, last) = desk.verify(&[&kept]);
    assert_eq!((code, says(&last, "undecided_because", "older than the trust file allows")), (4, true), "{last:#}");
}

#[test]
fn what_nobody_vouches_for_is_not_remembered() {
    let desk = Desk::new();
    desk.record("state", "node-1", key(1));
    let state = desk.path("auditor.json");
    let arguments = ["--state", state.to_str().unwrap()];
    desk.write(&desk.trust(vec![support::node("node-1", &key(1), ALWAYS)]));
    assert_eq!(desk.run(&[], &arguments).status.code(), Some(4));
    assert!(!fs::read_to_string(&state).is_ok_and(|text| text.contains("node-1")));
    desk.sign();
    assert_eq!(desk.run(&[], &arguments).status.code(), Some(4));
    assert!(fs::read_to_string(&state).unwrap().contains("node-1"));
    assert_eq!(desk.run(&[], &arguments).status.code(), Some(0));
}

#[test]
fn a_checkpoint_that_was_kept_is_remembered_although_the_vault_lost_it() {
    let desk = Desk::new();
    desk.record("state", "node-1", key(1));
    let old = files(&desk.path("vault"));
    let before = desk.path("before");
    assert!(Command::new("cp").arg("-a").arg(desk.path("vault")).arg(&before).status().unwrap().success());
    desk.record("state", "node-1", key(1));
    let kept = desk.keep("node-1");
    desk.write(&desk.trust(vec![support::node("node-1", &key(1), ALWAYS)]));
    desk.sign();
    // The leaves are here, and none of the checkpoints over the newest of them.
    for note in files(&desk.path("vault/v1/log/node-1/cp")) {
        if !old.contains(&note) {
            fs::remove_file(note).unwrap();
        }
    }
    let state = desk.path("auditor.json");
    let arguments = ["--state", state.to_str().unwrap()];
    assert_eq!(desk.run(&[&kept], &arguments).status.code(), Some(0));
    let size = fs::read_to_string(&kept).unwrap().lines().nth(1).unwrap().to_owned();
    let remembered: Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    assert_eq!(remembered["nodes"]["node-1"].as_str().unwrap().lines().nth(1), Some(size.as_str()));

    fs::rename(desk.path("vault"), desk.path("after")).unwrap();
    fs::rename(before, desk.path("vault")).unwrap();
    let output = desk.run(&[], &arguments);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
}
