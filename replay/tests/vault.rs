//! A small vault made by the real recorder, and what the verifier says about it, whole and damaged.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic in a test is a failing test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use casemate_certs::trust::{Period, Trust};
use casemate_recorder::clock::{Clock, SystemClock};
use casemate_recorder::log::leaf::Leaf;
use casemate_recorder::transcript::Stamp;
use casemate_recorder::transcript::event::{Event, Side, exec, exit, grant, identity, pty, ssh_in, ssh_out};
use casemate_recorder::{CloseReason, Protocol, Recorder, RecorderConfig, Session, SessionSpec, Slip, TranscriptKind};
use ed25519_dalek::SigningKey;
use serde_json::Value;

mod support;

const NODE: &str = "node-1";

/// A vault with everything an auditor keeps beside it.
struct Fixture {
    dir: tempfile::TempDir,
    /// The slips of the sessions, in order.
    slips: Vec<String>,
    sessions: Vec<String>,
}

impl Fixture {
    fn vault(&self) -> PathBuf {
        self.dir.path().join("vault")
    }

    fn trust(&self) -> PathBuf {
        self.dir.path().join("trust.toml")
    }

    /// The newest checkpoint, copied out of the vault as an auditor would.
    fn kept_checkpoint(&self) -> PathBuf {
        let kept = self.dir.path().join("kept.note");
        fs::copy(checkpoints(&self.vault()).pop_last().unwrap().1, &kept).unwrap();
        kept
    }

    fn verify(&self, extra: &[&str]) -> (i32, Vec<Value>) {
        let vault = self.vault();
        let trust = self.trust();
        let mut arguments = vec!["verify", vault.to_str().unwrap(), "--trust", trust.to_str().unwrap(), "--json"];
        arguments.extend(extra);
        let output = replay(&arguments);
        let lines = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let code = output.status.code().unwrap();
        if let Some(last) = lines.last() {
            assert_eq!(last["exit"], code, "{last}");
            let terms =
                ["clean", "recovered", "open", "pending", "retired", "erased", "unanchored", "missing", "altered"];
            let sum: u64 = terms.iter().map(|term| last[term].as_u64().unwrap()).sum();
            assert_eq!(last["opened"], sum, "{last}");
        } else {
            assert_eq!(code, 2, "{}", String::from_utf8_lossy(&output.stderr));
        }
        (code, lines)
    }

    fn segments(&self) -> Vec<PathBuf> {
        files(&self.vault().join("v1/t"))
    }
}

fn replay(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_casemate-replay")).args(arguments).output().unwrap()
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

/// The checkpoints in a vault, by the size of the log that each is over.
fn checkpoints(vault: &Path) -> BTreeMap<u64, PathBuf> {
    let dir = vault.join("v1/log").join(NODE).join("cp");
    let notes = if dir.is_dir() { files(&dir) } else { Vec::new() };
    // One that is being written has no size for a name.
    let size = |path: &PathBuf| path.file_name()?.to_str()?.split('-').next()?.parse().ok();
    notes.into_iter().filter_map(|path| Some((size(&path)?, path))).collect()
}

fn newest_size(vault: &Path) -> u64 {
    checkpoints(vault).last_key_value().map_or(0, |(size, _)| *size)
}

/// How many heartbeats the log in a vault holds.
fn heartbeats(vault: &Path) -> usize {
    let mut seen = BTreeSet::new();
    for bundle in files(&vault.join("v1/log").join(NODE).join("tile/entries")) {
        // A partial one may go meanwhile, when there is a longer one.
        let bytes = fs::read(bundle).unwrap_or_default();
        let mut rest = bytes.as_slice();
        while let Some((len, after)) = rest.split_first_chunk::<2>() {
            let (entry, after) = after.split_at(usize::from(u16::from_be_bytes(*len)));
            if let Leaf::Heartbeat(heartbeat) = Leaf::decode(entry).unwrap() {
                seen.insert(heartbeat.mono_us);
            }
            rest = after;
        }
    }
    seen.len()
}

/// Waits for something that a busy machine may take its time for.
fn until(what: &str, mut is_there: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_there() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn node_key() -> SigningKey {
    SigningKey::from_bytes(&[42; 32])
}

fn config(dir: &Path) -> RecorderConfig {
    RecorderConfig::new(dir.join("state"), dir.join("vault"), NODE.into(), node_key())
}

fn recorder(dir: &Path) -> Recorder {
    Recorder::start(config(dir)).unwrap()
}

/// The machine's clocks, ahead by what a test lets pass; the wall clock steps as well.
#[derive(Debug, Default)]
struct Stepped {
    passed_us: AtomicU64,
    step_us: AtomicI64,
}

impl Clock for Stepped {
    fn now(&self) -> Stamp {
        // A moment for both: a heartbeat must not see the time that passed without the step.
        let (passed_us, step_us) = (self.passed_us.load(Ordering::SeqCst), self.step_us.load(Ordering::SeqCst));
        let now = SystemClock.now();
        let wall_us = (now.wall_us + passed_us).strict_add_signed(step_us);
        Stamp { wall_us, boot_us: now.boot_us + passed_us }
    }
}

/// The machine's clocks, some hours ago.
#[derive(Debug)]
struct Shifted {
    back_us: AtomicU64,
}

const HOUR_US: u64 = 3600 * 1_000_000;

impl Clock for Shifted {
    fn now(&self) -> Stamp {
        let back_us = self.back_us.load(Ordering::SeqCst);
        let now = SystemClock.now();
        Stamp { wall_us: now.wall_us - back_us, boot_us: now.boot_us + 10 * HOUR_US - back_us }
    }
}

fn write_trust(path: &Path, key: &SigningKey, self_asserted: bool) {
    let nodes = vec![support::node(NODE, key, Period::ALWAYS)];
    if self_asserted {
        support::write(path, &Trust::self_asserted(None, nodes));
    } else {
        support::write(path, &support::trust(path.parent().unwrap(), nodes));
        support::sign(path);
    }
}

/// Records an event and waits until the journal has it.
async fn put(session: &Session, side: Side, event: Event) {
    let receipt = session.record(side, event).receipt().await.unwrap();
    drop(receipt.into_bytes());
}

/// Records sessions; each has a terminal, some input and some output.
async fn record(recorder: &Recorder, sessions: usize) -> (Vec<String>, Vec<String>) {
    let (mut slips, mut ids) = (Vec::new(), Vec::new());
    for number in 0..sessions {
        let spec = SessionSpec { kind: TranscriptKind::Session, protocol: Some(Protocol::Ssh), policy_hash: [0; 32] };
        let opening = vec![
            Event::map(identity::TYPE, 0).with(identity::PERSON, "alice"),
            Event::map(grant::TYPE, 0).with(grant::TARGET, "web1").with(grant::ROLE, "root"),
        ];
        let session = recorder.open_session(spec, opening).await.unwrap();
        ids.push(session.id().to_string());
        let open = Event::map(pty::TYPE, 0)
            .with(pty::TERM, b"xterm".as_slice())
            .with(pty::COLS, 100u32)
            .with(pty::ROWS, 30u32);
        put(&session, Side::Client, open).await;
        let command = Event::map(exec::TYPE, 0).with(exec::COMMAND, b"uptime; echo \xff".as_slice());
        put(&session, Side::Client, command).await;
        for step in 0..40 {
            let typed = Bytes::from(format!("typed {step}\r"));
            put(&session, Side::Client, Event::stream(ssh_in::TYPE, 0, typed)).await;
            let shown =
                Bytes::from(format!("\x1b[1mshown {step}\x1b[0m by session {number}\x1b[6n\x1b]52;c;eA==\x07\r\n"));
            put(&session, Side::Target, Event::stream(ssh_out::TYPE, 0, shown)).await;
        }
        // The log sees the session while it is live.
        session.slip().await.unwrap();
        let more = Bytes::from_static(b"more\r\n");
        put(&session, Side::Target, Event::stream(ssh_out::TYPE, 0, more)).await;
        put(&session, Side::Target, Event::map(exit::TYPE, 0).with(exit::STATUS, 7u32)).await;
        slips.push(session.close(CloseReason::Client, Some(7)).await.unwrap().to_string());
    }
    (slips, ids)
}

/// A vault with three closed sessions and a closed control transcript.
fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let recorder = recorder(dir.path());
    let (slips, sessions) = runtime.block_on(record(&recorder, 3));
    recorder.shutdown();
    write_trust(&dir.path().join("trust.toml"), &node_key(), false);
    Fixture { dir, slips, sessions }
}

/// What a file held, so that the next damage begins from a sound vault.
struct Damaged {
    path: PathBuf,
    sound: Vec<u8>,
}

impl Damaged {
    fn new(path: &Path, bytes: &[u8]) -> Self {
        let sound = fs::read(path).unwrap();
        fs::remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
        Self { path: path.to_owned(), sound }
    }
}

impl Drop for Damaged {
    fn drop(&mut self) {
        fs::write(&self.path, &self.sound).unwrap();
    }
}

/// A small generator, so that a failure can be repeated.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 16
}

fn reason(lines: &[Value]) -> &Value {
    lines.last().unwrap()
}

#[test]
fn a_whole_vault_is_clean_once_it_is_anchored() {
    let fixture = fixture();
    let (code, lines) = fixture.verify(&[]);
    assert_eq!((code, &reason(&lines)["unanchored"]), (4, &Value::from(4)), "{lines:#?}");
    assert_eq!(reason(&lines)["as_of"], Value::Null);

    let kept = fixture.kept_checkpoint();
    let (code, lines) = fixture.verify(&["--checkpoint", kept.to_str().unwrap()]);
    assert_eq!((code, &reason(&lines)["clean"]), (0, &Value::from(4)), "{lines:#?}");
    let kinds: Vec<_> = lines.iter().filter_map(|line| line["kind"].as_str()).collect();
    assert_eq!(kinds, ["control", "session", "session", "session"]);
    let (code, _) = fixture.verify(&["--checkpoint", kept.to_str().unwrap(), "--sha256"]);
    assert_eq!(code, 0);

    // A slip covers its own session and those before it, and no later ones.
    let (code, lines) = fixture.verify(&["--slip", &fixture.slips[1]]);
    let status: BTreeMap<_, _> =
        lines.iter().filter_map(|line| Some((line["session"].as_str()?, line["status"].as_str()?))).collect();
    assert_eq!(code, 4);
    assert_eq!(status[fixture.sessions[0].as_str()], "clean");
    assert_eq!(status[fixture.sessions[1].as_str()], "clean");
    assert_eq!(status[fixture.sessions[2].as_str()], "unanchored");
}

#[test]
fn without_trust_of_ones_own_nothing_is_decided() {
    let fixture = fixture();
    let kept = fixture.kept_checkpoint();
    let kept = ["--checkpoint", kept.to_str().unwrap()];
    write_trust(&fixture.trust(), &node_key(), true);
    assert_eq!(fixture.verify(&kept).0, 4);
    let vault = fixture.vault();
    let no_trust = replay(&["verify", vault.to_str().unwrap(), kept[0], kept[1]]);
    assert_eq!(no_trust.status.code(), Some(4));
    // Another key for the same name: somebody else signed, or the trust file is about another node.
    write_trust(&fixture.trust(), &SigningKey::from_bytes(&[43; 32]), false);
    assert_eq!(fixture.verify(&[]).0, 1);
    fs::write(fixture.trust(), "nonsense").unwrap();
    assert_eq!(fixture.verify(&[]).0, 2);
    assert_eq!(replay(&["verify"]).status.code(), Some(2));
    assert_eq!(replay(&["verify", "/absent"]).status.code(), Some(2));
}

#[test]
fn every_flipped_bit_of_a_thousand_is_found() {
    let fixture = fixture();
    let segments = fixture.segments();
    let mut seed = 1;
    let tries = 1000;
    for _ in 0..tries {
        let path = &segments[random(&mut seed) as usize % segments.len()];
        let mut bytes = fs::read(path).unwrap();
        let at = random(&mut seed) as usize % bytes.len();
        bytes[at] ^= 1 << (random(&mut seed) % 8);
        let _damaged = Damaged::new(path, &bytes);
        let (code, lines) = fixture.verify(&[]);
        assert_eq!(
            (code, &reason(&lines)["altered"]),
            (1, &Value::from(1)),
            "{} byte {at}: {lines:#?}",
            path.display()
        );
    }
    assert_eq!(fixture.verify(&[]).0, 4);
}

#[test]
fn every_file_of_the_log_is_held_against_the_others() {
    let fixture = fixture();
    let mut seed = 2;
    for path in files(&fixture.vault().join("v1/log")) {
        for _ in 0..40 {
            let mut bytes = fs::read(&path).unwrap();
            let at = random(&mut seed) as usize % bytes.len();
            bytes[at] ^= 1 << (random(&mut seed) % 8);
            let _damaged = Damaged::new(&path, &bytes);
            let (code, lines) = fixture.verify(&[]);
            assert_eq!(code, 1, "{} byte {at}: {lines:#?}", path.display());
        }
    }
    assert_eq!(fixture.verify(&[]).0, 4);
}

#[test]
fn no_garbage_brings_the_verifier_down() {
    let fixture = fixture();
    let all = files(&fixture.vault());
    let mut seed = 5;
    for _ in 0..300 {
        let path = &all[random(&mut seed) as usize % all.len()];
        let sound = fs::read(path).unwrap();
        let mut bytes = sound.clone();
        for _ in 0..=random(&mut seed) % 3 {
            let from = random(&mut seed) as usize % (bytes.len() + 1);
            let to = from + random(&mut seed) as usize % (bytes.len() + 1 - from);
            let noise: Vec<u8> = (0..random(&mut seed) % 300).map(|_| random(&mut seed) as u8).collect();
            bytes.splice(from..to, noise);
        }
        if bytes == sound {
            continue;
        }
        let _damaged = Damaged::new(path, &bytes);
        assert_eq!(fixture.verify(&[]).0, 1, "{}", path.display());
        let vault = fixture.vault();
        for arguments in [
            vec!["ls", vault.to_str().unwrap()],
            vec!["show", vault.to_str().unwrap(), &fixture.sessions[0]],
            vec!["export", vault.to_str().unwrap(), &fixture.sessions[0], "--format", "text"],
        ] {
            let output = replay(&arguments);
            let error = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.code().is_some_and(|code| code <= 2) && error.lines().count() <= 1, "{error}");
        }
    }
}

#[test]
fn a_truncated_segment_is_found_wherever_it_is_cut() {
    let fixture = fixture();
    for path in fixture.segments() {
        let bytes = fs::read(&path).unwrap();
        for cut in (0..bytes.len()).step_by(bytes.len() / 60 + 1).chain([bytes.len() - 1]) {
            let _damaged = Damaged::new(&path, &bytes[..cut]);
            assert_eq!(fixture.verify(&[]).0, 1, "{} cut at {cut}", path.display());
        }
        let mut longer = bytes.clone();
        longer.push(0);
        let _damaged = Damaged::new(&path, &longer);
        assert_eq!(fixture.verify(&[]).0, 1);
    }
}

#[test]
fn a_deleted_session_is_missing() {
    let fixture = fixture();
    let path = fixture.segments().pop().unwrap();
    fs::remove_file(&path).unwrap();
    let kept = fixture.kept_checkpoint();
    // Within the hour it may still be on its way; the log says that it was.
    let (code, lines) = fixture.verify(&["--checkpoint", kept.to_str().unwrap()]);
    assert_eq!((code, &reason(&lines)["pending"]), (3, &Value::from(1)), "{lines:#?}");
}

#[test]
fn a_session_that_is_still_not_there_after_an_hour_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let clock = Arc::new(Shifted { back_us: (3 * HOUR_US).into() });
    let recorder = Recorder::start(RecorderConfig { clock: clock.clone(), ..config(dir.path()) }).unwrap();
    let (slips, sessions) = runtime.block_on(record(&recorder, 1));
    clock.back_us.store(0, Ordering::SeqCst);
    let _ = runtime.block_on(record(&recorder, 1));
    recorder.shutdown();
    write_trust(&dir.path().join("trust.toml"), &node_key(), false);
    let fixture = Fixture { dir, slips, sessions };
    let kept = fixture.kept_checkpoint();
    let (code, lines) = fixture.verify(&["--checkpoint", kept.to_str().unwrap()]);
    assert_eq!((code, &reason(&lines)["clean"]), (0, &Value::from(3)), "{lines:#?}");
    let gone = fixture.segments().into_iter().find(|path| path.to_str().unwrap().contains(&fixture.sessions[0]));
    fs::remove_file(gone.unwrap()).unwrap();
    let (code, lines) = fixture.verify(&["--checkpoint", kept.to_str().unwrap()]);
    assert_eq!((code, &reason(&lines)["missing"]), (1, &Value::from(1)), "{lines:#?}");
}

#[test]
fn the_segments_of_a_long_session_must_all_be_there_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = RecorderConfig { durability: casemate_recorder::Durability::Process, ..config(dir.path()) };
    let recorder = Recorder::start(config).unwrap();
    let slip = runtime.block_on(async {
        let spec = SessionSpec { kind: TranscriptKind::Session, protocol: Some(Protocol::Ssh), policy_hash: [0; 32] };
        let session = recorder.open_session(spec, Vec::new()).await.unwrap();
        let mut seed = 3;
        for number in 0..20 * 16 {
            let noise: Vec<u8> = (0..64 * 1024 / 8).flat_map(|_| random(&mut seed).to_le_bytes()).collect();
            put(&session, Side::Target, Event::stream(ssh_out::TYPE, 0, noise.into())).await;
            if number % 100 == 0 {
                session.slip().await.unwrap();
            }
        }
        session.close(CloseReason::Client, None).await.unwrap().to_string()
    });
    recorder.shutdown();
    write_trust(&dir.path().join("trust.toml"), &node_key(), false);
    let fixture = Fixture { dir, slips: vec![slip], sessions: Vec::new() };
    let anchor = ["--slip", fixture.slips[0].as_str()];
    let (_, lines) = fixture.verify(&anchor);
    assert_eq!(reason(&lines)["clean"], 1, "{lines:#?}");
    let segments: Vec<_> =
        fixture.segments().into_iter().filter(|path| path.metadata().unwrap().len() > 1 << 20).collect();
    assert!(segments.len() >= 3, "{segments:?}");
    let first = fs::read(&segments[0]).unwrap();
    {
        let _one = Damaged::new(&segments[0], &fs::read(&segments[1]).unwrap());
        let _other = Damaged::new(&segments[1], &first);
        assert_eq!(fixture.verify(&anchor).0, 1);
    }
    fs::remove_file(&segments[1]).unwrap();
    let (_, lines) = fixture.verify(&anchor);
    assert_eq!(reason(&lines)["pending"], 1, "{lines:#?}");
    fs::remove_file(&segments[0]).unwrap();
    let output = replay(&["export", fixture.vault().to_str().unwrap(), "0", "--format", "jsonl"]);
    assert_ne!(output.status.code(), Some(0));
}

#[test]
fn a_session_that_a_crash_cut_is_recovered() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let first = recorder(&dir.path().join("first"));
    let fixture_dir = tempfile::tempdir().unwrap();
    let (session, slip) = runtime.block_on(async {
        let spec = SessionSpec { kind: TranscriptKind::Session, protocol: Some(Protocol::Ssh), policy_hash: [0; 32] };
        let session = first.open_session(spec, Vec::new()).await.unwrap();
        let mut slip = None;
        for number in 0..30 {
            let shown = Bytes::from(format!("line {number}\n"));
            put(&session, Side::Client, Event::stream(ssh_in::TYPE, 0, Bytes::from_static(b"x"))).await;
            put(&session, Side::Target, Event::stream(ssh_out::TYPE, 0, shown)).await;
            if number == 20 {
                slip = Some(session.slip().await.unwrap());
            }
        }
        put(&session, Side::Client, Event::stream(ssh_in::TYPE, 0, Bytes::from_static(b"last"))).await;
        (session, slip.unwrap())
    });
    // What a crash at this moment would leave behind, once the vault has caught up with the slip.
    let of_slip = slip.note().checkpoint.size;
    until("the slip's checkpoint", || newest_size(&dir.path().join("first/vault")) >= of_slip);
    for part in ["state", "vault"] {
        let from = dir.path().join("first").join(part);
        assert!(Command::new("cp").arg("-r").arg(from).arg(fixture_dir.path()).status().unwrap().success());
    }
    let second = recorder(fixture_dir.path());
    let vault = fixture_dir.path().join("vault");
    let recovered = || {
        let output = replay(&["ls", vault.to_str().unwrap(), "--json"]);
        let lines = String::from_utf8(output.stdout).unwrap();
        lines.lines().filter(|line| line.contains("\"status\":\"recovered\"")).count()
    };
    until("both orphans", || recovered() == 2);
    second.shutdown();
    first.shutdown();
    write_trust(&fixture_dir.path().join("trust.toml"), &node_key(), false);
    let fixture = Fixture { dir: fixture_dir, slips: Vec::new(), sessions: vec![session.id().to_string()] };
    let kept = fixture.kept_checkpoint();
    let (code, lines) = fixture.verify(&["--checkpoint", kept.to_str().unwrap(), "--sha256"]);
    // The session and the first control transcript were cut; the second one ended in order.
    assert_eq!((code, &reason(&lines)["recovered"]), (3, &Value::from(2)), "{lines:#?}");
    let vault = fixture.vault();
    let output = replay(&["export", vault.to_str().unwrap(), &fixture.sessions[0], "--format", "text"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, (0..30).map(|number| format!("line {number}\n")).collect::<String>());
    let output = replay(&["ls", vault.to_str().unwrap(), "--json"]);
    assert!(String::from_utf8(output.stdout).unwrap().contains("\"status\":\"recovered\""));
    // Every bit of a recovered transcript counts as well.
    let mut seed = 4;
    for path in fixture.segments() {
        for _ in 0..100 {
            let mut bytes = fs::read(&path).unwrap();
            let at = random(&mut seed) as usize % bytes.len();
            bytes[at] ^= 1 << (random(&mut seed) % 8);
            let _damaged = Damaged::new(&path, &bytes);
            assert_eq!(fixture.verify(&[]).0, 1, "{} byte {at}", path.display());
        }
    }
}

/// Takes the newest session out of the vault with all that the log says about it, as root on the bastion could.
fn roll_back(fixture: &Fixture) {
    let log = fixture.vault().join("v1/log").join(NODE);
    let dir = tempfile::tempdir().unwrap();
    let recorder = recorder(dir.path());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _ = runtime.block_on(record(&recorder, 1));
    recorder.shutdown();
    fs::remove_dir_all(&log).unwrap();
    fs::remove_dir_all(fixture.vault().join("v1/t")).unwrap();
    for part in ["t", "log"] {
        let from = dir.path().join("vault/v1").join(part);
        let to = fixture.vault().join("v1").join(part);
        let _ = fs::remove_dir_all(&to);
        assert!(Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
    }
}

#[test]
fn a_rolled_back_log_is_found_by_whoever_kept_something() {
    let fixture = fixture();
    let kept = fixture.kept_checkpoint();
    let state = fixture.dir.path().join("state.json");
    let state = state.to_str().unwrap();
    assert_eq!(fixture.verify(&["--state", state]).0, 4);
    roll_back(&fixture);
    assert_eq!(fixture.verify(&[]).0, 4, "nothing was kept, so nothing shows");
    let remembered = fs::read(state).unwrap();
    for anchor in [["--checkpoint", kept.to_str().unwrap()], ["--slip", &fixture.slips[2]], ["--state", state]] {
        let (code, lines) = fixture.verify(&anchor);
        assert_eq!(code, 1, "{anchor:?} {lines:#?}");
    }
    assert_eq!(fs::read(state).unwrap(), remembered, "an altered vault must not move the state");
    fs::remove_dir_all(fixture.vault().join("v1")).unwrap();
    assert_eq!(fixture.verify(&["--state", state]).0, 1);
    assert_eq!(fixture.verify(&[]).0, 4);
}

#[test]
fn the_state_moves_forward_and_anchors_the_next_run() {
    let fixture = fixture();
    let state = fixture.dir.path().join("state.json");
    let state = state.to_str().unwrap();
    assert_eq!(fixture.verify(&["--state", state]).0, 4);
    assert_eq!(fixture.verify(&["--state", state]).0, 0);
    fs::write(state, "{").unwrap();
    assert_eq!(fixture.verify(&["--state", state]).0, 2);
}

#[test]
fn foreign_files_are_listed_and_half_written_ones_named() {
    let fixture = fixture();
    let home = fixture.segments()[0].parent().unwrap().to_owned();
    for path in ["notes.txt", "v1/t/readme", "v1/log/node-1/cp/x"] {
        fs::write(fixture.vault().join(path), "x").unwrap();
    }
    fs::write(home.join(".000001.seg.new"), "half").unwrap();
    let (code, lines) = fixture.verify(&[]);
    let remarks: Vec<_> = reason(&lines)["remarks"].as_array().unwrap().iter().map(|r| r.as_str().unwrap()).collect();
    assert_eq!((code, remarks.len()), (4, 4), "{remarks:#?}");
    assert!(remarks.iter().any(|remark| remark.contains("never finished")));
    // What bears the name of evidence and is none is another matter.
    fs::copy(&fixture.segments()[0], home.join("000001.seg")).unwrap();
    assert_eq!(fixture.verify(&[]).0, 1);
    fs::remove_file(home.join("000001.seg")).unwrap();
    let stranger = home.with_file_name("019aacd1-0000-7000-8000-000000000001");
    fs::create_dir(&stranger).unwrap();
    fs::copy(&fixture.segments()[0], stranger.join("000000.seg")).unwrap();
    assert_eq!(fixture.verify(&[]).0, 1);
}

#[test]
fn swapped_segments_are_found() {
    let fixture = fixture();
    let segments = fixture.segments();
    let (one, other) = (fs::read(&segments[1]).unwrap(), fs::read(&segments[2]).unwrap());
    let _one = Damaged::new(&segments[1], &other);
    let _other = Damaged::new(&segments[2], &one);
    let (code, lines) = fixture.verify(&[]);
    assert_eq!((code, &reason(&lines)["altered"]), (1, &Value::from(2)), "{lines:#?}");
}

#[test]
fn a_live_vault_is_read_without_alarm() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let recorder = recorder(dir.path());
    let fixture = runtime.block_on(async {
        let (slips, sessions) = record(&recorder, 1).await;
        Fixture { dir, slips, sessions }
    });
    write_trust(&fixture.trust(), &node_key(), false);
    // It takes a moment until the vault has what a session that ended left, and the checkpoint over it.
    let closed = || {
        let output = replay(&["ls", fixture.vault().to_str().unwrap(), "--json"]);
        String::from_utf8(output.stdout).unwrap().contains("\"status\":\"closed\"")
    };
    until("the session", closed);
    let of_slip = fixture.slips[0].parse::<Slip>().unwrap().note().checkpoint.size;
    until("the slip's checkpoint", || newest_size(&fixture.vault()) >= of_slip);
    let (code, lines) = fixture.verify(&["--slip", &fixture.slips[0]]);
    let last = reason(&lines);
    assert_eq!((code, &last["clean"], &last["open"]), (0, &Value::from(1), &Value::from(1)), "{lines:#?}");
    recorder.shutdown();
}

#[test]
fn a_clock_that_steps_is_on_record_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let clock = Arc::new(Stepped::default());
    let recorder = Recorder::start(RecorderConfig { clock: clock.clone(), ..config(dir.path()) }).unwrap();
    let (slips, sessions) = runtime.block_on(record(&recorder, 1));
    let fixture = Fixture { dir, slips, sessions };
    write_trust(&fixture.trust(), &node_key(), false);
    until("a log", || newest_size(&fixture.vault()) > 0);
    // An hour ahead, and less than a second more, which is none; then back again. Between two of them there is a heartbeat.
    for step_us in [HOUR_US as i64, HOUR_US as i64 + 900_000, 0] {
        let before = heartbeats(&fixture.vault());
        clock.step_us.store(step_us, Ordering::SeqCst);
        clock.passed_us.fetch_add(61_000_000, Ordering::SeqCst);
        until("a heartbeat", || heartbeats(&fixture.vault()) > before);
    }
    let (_, more) = runtime.block_on(record(&recorder, 1));
    recorder.shutdown();

    let kept = fixture.kept_checkpoint();
    let (code, lines) = fixture.verify(&["--checkpoint", kept.to_str().unwrap()]);
    assert_eq!((code, &reason(&lines)["clean"]), (0, &Value::from(3)), "{lines:#?}");
    let vault = fixture.vault();
    let vault = vault.to_str().unwrap();
    let rows = |arguments: &[&str]| -> Vec<Value> {
        let output = replay(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let listed = rows(&["ls", vault, "--json"]);
    let control = listed.iter().find(|row| row["kind"] == "control").unwrap()["session"].as_str().unwrap();
    let events = rows(&["export", vault, control, "--format", "jsonl"]);
    let steps: Vec<_> = events.iter().filter(|event| event["type"] == "clock").collect();
    let told: Vec<_> = steps.iter().map(|event| (event["step_us"].as_u64().unwrap(), &event["backward"])).collect();
    let near = |step_us: u64, wanted_us: u64| step_us.abs_diff(wanted_us) < 1_000_000;
    assert_eq!(told.len(), 2, "{steps:?}");
    assert!(near(told[0].0, HOUR_US) && near(told[1].0, HOUR_US + 900_000), "{steps:?}");
    assert_ne!(told[0].1, told[1].1, "one is forward, one is backward: {steps:?}");
    assert!(*told[1].1 == 1 || *told[1].1 == true, "{steps:?}");
    // What was recorded after it is read as well.
    let after = rows(&["export", vault, &more[0], "--format", "jsonl"]);
    assert!(after.iter().any(|event| event["type"] == "ssh.in"), "{after:?}");
}

#[test]
fn sessions_are_listed_shown_and_exported() {
    let fixture = fixture();
    let vault = fixture.vault();
    let vault = vault.to_str().unwrap();
    let session = fixture.sessions[1].as_str();
    let lines = |arguments: &[&str]| -> Vec<Value> {
        let output = replay(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };

    let listed = lines(&["ls", vault, "--json"]);
    assert_eq!(listed.len(), 4);
    let row = listed.iter().find(|row| row["session"] == session).unwrap();
    for (key, value) in
        [("kind", "session"), ("person", "alice"), ("target", "web1"), ("role", "root"), ("protocol", "ssh")]
    {
        assert_eq!(row[key], value);
    }
    assert_eq!((&row["status"], row["events"].as_u64().unwrap() > 80), (&Value::from("closed"), true), "{row}");

    let shown = lines(&["show", vault, session, "--json"]);
    let command = shown.iter().find(|item| item["type"] == "ssh.exec").unwrap();
    assert_eq!(command["command"]["base64"], "dXB0aW1lOyBlY2hvIP8=");
    assert!(shown.iter().any(|item| item["type"] == "ssh.exit" && item["result"] == 7));

    let events = lines(&["export", vault, session, "--format", "jsonl"]);
    let sequence: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(sequence, (0..events.len() as u64).collect::<Vec<_>>());
    assert!(events.iter().any(|event| event["type"] == "ssh.in" && event["data"] == "dHlwZWQgMA0="));

    let output = replay(&["export", vault, session, "--format", "text"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("shown 39") && text.chars().all(|c| c == '\n' || !c.is_control()), "{text}");

    let file = fixture.dir.path().join("cast");
    let output = replay(&["export", vault, session, "--format", "asciicast", "-o", file.to_str().unwrap()]);
    assert!(output.status.success());
    let cast = fs::read_to_string(file).unwrap();
    let rows: Vec<Value> = cast.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&rows[0]["version"], &rows[0]["term"]["cols"]), (&Value::from(3), &Value::from(100)));
    let all: String = rows[1..].iter().filter(|row| row[1] == "o").map(|row| row[2].as_str().unwrap()).collect();
    assert!(all.contains("\x1b[1mshown 0\x1b[0m") && !all.contains("\x1b]") && !all.contains("\x1b[6n"), "{all:?}");
    assert_eq!(rows.last().unwrap()[1], "x");

    assert_eq!(replay(&["export", vault, "ffff", "--format", "text"]).status.code(), Some(2));
    assert_eq!(replay(&["export", vault, "", "--format", "text"]).status.code(), Some(2));
}

#[test]
fn a_damaged_session_is_exported_up_to_one_clear_line() {
    let fixture = fixture();
    let path = fixture.segments()[1].clone();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let _damaged = Damaged::new(&path, &bytes);
    let vault = fixture.vault();
    let session = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
    let output = replay(&["export", vault.to_str().unwrap(), session, "--format", "jsonl"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), error.lines().count()), (Some(1), 1), "{error}");
    assert!(error.contains("000000.seg") && error.contains("byte "), "{error}");
}
