//! `casemate-replay` on a bucket: a vault that a recorder made is put there as a node does, somebody does something to the bucket,
//! and the verdict says so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ObjectLockLegalHold, ObjectLockLegalHoldStatus, ObjectLockMode};
use bytes::Bytes;
use casemate_certs::trust::{Period, Trust};
use casemate_recorder::transcript::event::{Event, Side, exec, grant, identity, ssh_out};
use casemate_recorder::{CloseReason, Protocol, Recorder, RecorderConfig, SessionSpec, TranscriptKind};
use casemate_tests::clocks::Ago;
use casemate_tests::forge::node_key;
use casemate_tests::process::{nothing, run};
use casemate_tests::s3::ceph::{CANARY, Ceph, Guard, OWNER, Options};
use casemate_tests::s3::{Login, make_bucket, ministack, versions};
use casemate_tests::{bins, vectors};
use serde_json::Value;

use crate::officer;

pub(crate) const BUCKET: &str = "casemate";
pub(crate) const NODE: &str = "bastion-1";
pub(crate) const PREFIX: &str = "prod/eu";
const DAYS: u64 = 86_400;

/// A vault as it lies on a node, with what an auditor has.
pub(crate) struct Recorded {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) sessions: Vec<String>,
}

/// Records two sessions, that long ago.
pub(crate) async fn recorded(ago: Duration, change: impl FnOnce(&mut Trust)) -> Recorded {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(RecorderConfig {
        clock: Arc::new(Ago::new(ago)),
        ..RecorderConfig::new(dir.path().join("state"), dir.path().join("vault"), NODE.to_owned(), node_key(NODE))
    })
    .unwrap();
    let mut sessions = Vec::new();
    for text in ["first\n", "second\n"] {
        let spec = SessionSpec { kind: TranscriptKind::Session, protocol: Some(Protocol::Ssh), policy_hash: [0; 32] };
        let opening = vec![
            Event::map(identity::TYPE, 0).with(identity::PERSON, "alice"),
            Event::map(grant::TYPE, 0).with(grant::TARGET, "web1").with(grant::ROLE, "root"),
        ];
        let session = recorder.open_session(spec, opening).await.unwrap();
        let command = Event::map(exec::TYPE, 0).with(exec::COMMAND, b"uptime".as_slice());
        drop(session.record(Side::Client, command).receipt().await.unwrap());
        let shown = Event::stream(ssh_out::TYPE, 0, Bytes::from_static(text.as_bytes()));
        drop(session.record(Side::Target, shown).receipt().await.unwrap());
        sessions.push(session.id().to_string());
        session.close(CloseReason::Client, Some(0)).await.unwrap();
    }
    recorder.shutdown();
    let mut trust = officer::trust(dir.path(), vec![officer::node(NODE, &node_key(NODE), Period::ALWAYS)]);
    change(&mut trust);
    officer::write(&dir.path().join("trust.toml"), &trust);
    officer::sign(&dir.path().join("trust.toml"));
    Recorded { dir, sessions }
}

pub(crate) fn in_days(days: u64) -> DateTime {
    let since = (SystemTime::now() + Duration::from_secs(days * DAYS)).duration_since(SystemTime::UNIX_EPOCH).unwrap();
    DateTime::from_secs(since.as_secs().cast_signed())
}

/// Where a vault was put.
pub(crate) struct Shelf {
    pub(crate) client: Client,
    pub(crate) endpoint: String,
    /// A login that may read.
    pub(crate) login: Login,
}

impl Shelf {
    pub(crate) async fn put(&self, key: &str, content: Vec<u8>, lock: Option<(ObjectLockMode, u64)>) -> String {
        let mut put = self.client.put_object().bucket(BUCKET).key(key).body(content.into());
        if let Some((mode, days)) = lock {
            put = put.object_lock_mode(mode).object_lock_retain_until_date(in_days(days));
        }
        put.send().await.unwrap().version_id.unwrap()
    }

    /// Puts a vault there as a node does.
    pub(crate) async fn ship(&self, recorded: &Recorded, mode: ObjectLockMode) {
        let vault = recorded.dir.path().join("vault");
        for name in vectors::files(&vault).unwrap() {
            let content = std::fs::read(vault.join(&name)).unwrap();
            self.put(&format!("{PREFIX}/{name}"), content, Some((mode.clone(), 401))).await;
        }
    }

    /// Every name, with its versions.
    pub(crate) async fn names(&self) -> BTreeMap<String, Vec<String>> {
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for version in versions(&self.client, BUCKET, PREFIX).await.unwrap() {
            found.entry(version.key.unwrap()).or_default().push(version.version_id.unwrap());
        }
        found
    }

    pub(crate) async fn name(&self, holds: &str) -> String {
        self.names().await.into_keys().find(|key| key.contains(holds)).unwrap()
    }

    pub(crate) async fn hide(&self, key: &str) {
        self.client.delete_object().bucket(BUCKET).key(key).send().await.unwrap();
    }

    /// Runs the reader as an auditor does, who has only the variables of Amazon's tools.
    pub(crate) fn replay(&self, arguments: &[&str]) -> (i32, String, String) {
        self.replay_with(arguments, &[])
    }

    fn replay_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
        let mut command = Command::new(bins::path("casemate-replay").unwrap());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
            command.env_remove(name);
        }
        command.env("AWS_ENDPOINT_URL", &self.endpoint).env("AWS_EC2_METADATA_DISABLED", "true");
        command.env("AWS_ACCESS_KEY_ID", &self.login.access_key);
        command.env("AWS_SECRET_ACCESS_KEY", &self.login.secret_key);
        command.envs(variables.iter().copied()).args(arguments);
        let done = run(&mut command, nothing(), Duration::from_secs(120)).unwrap();
        (done.code(), String::from_utf8_lossy(&done.stdout).into_owned(), done.err())
    }

    pub(crate) fn verify(&self, recorded: &Recorded, more: &[&str]) -> Verdict {
        self.verify_at(&format!("s3://{BUCKET}/{PREFIX}"), &recorded.dir.path().join("trust.toml"), more)
    }

    pub(crate) fn verify_at(&self, source: &str, trust: &Path, more: &[&str]) -> Verdict {
        let mut arguments = vec!["verify", source, "--trust", trust.to_str().unwrap(), "--json"];
        arguments.extend(more);
        let (code, out, err) = self.replay(&arguments);
        let mut lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let last = lines.pop().unwrap_or_else(|| panic!("{code}: {err}"));
        Verdict { code, last, sessions: lines }
    }
}

/// What was said.
pub(crate) struct Verdict {
    pub(crate) code: i32,
    pub(crate) last: Value,
    pub(crate) sessions: Vec<Value>,
}

impl Verdict {
    pub(crate) fn list(&self, name: &str) -> String {
        self.last[name].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect::<Vec<_>>().join("\n")
    }

    /// The status of a session.
    pub(crate) fn status(&self, session: &str) -> (&str, &str) {
        let found = self.sessions.iter().find(|line| line["session"] == session).unwrap();
        (found["status"].as_str().unwrap(), found["reason"].as_str().unwrap_or_default())
    }

    #[track_caller]
    pub(crate) fn is(&self, code: i32, list: &str, says: &str) {
        assert_eq!(self.code, code, "{}", self.last);
        assert!(self.list(list).contains(says), "{says}: {}", self.last);
    }
}

pub(crate) async fn ministack_with(recorded: &Recorded) -> (tempfile::TempDir, ministack::Guard, Shelf) {
    ministack_in(ObjectLockMode::Compliance, recorded).await
}

pub(crate) async fn ministack_in(
    mode: ObjectLockMode,
    recorded: &Recorded,
) -> (tempfile::TempDir, ministack::Guard, Shelf) {
    let dir = tempfile::tempdir().unwrap();
    let server = ministack::Guard(ministack::Ministack::start(dir.path()).unwrap());
    let shelf = Shelf { client: server.client(OWNER), endpoint: server.endpoint(), login: Login::of(OWNER) };
    make_bucket(&shelf.client, BUCKET).await.unwrap();
    shelf.ship(recorded, mode).await;
    (dir, server, shelf)
}

pub(crate) fn nothing_more(_: &mut Trust) {}

#[tokio::test]
async fn a_locked_bucket_is_clean_without_anything_kept_elsewhere() {
    let recorded = recorded(Duration::ZERO, nothing_more).await;
    let dir = tempfile::tempdir().unwrap();
    // The judge of retention: what it says of locks is what it holds its owner to.
    let server = Guard(Ceph::start(dir.path(), &Options::default()).unwrap());
    let shelf = Shelf { client: server.client(OWNER), endpoint: server.endpoint(), login: Login::of(OWNER) };
    make_bucket(&shelf.client, BUCKET).await.unwrap();
    shelf.ship(&recorded, ObjectLockMode::Compliance).await;
    let verdict = shelf.verify(&recorded, &["--sha256"]);
    assert_eq!(verdict.code, 0, "{}", verdict.last);
    let storage = &verdict.last["storage"];
    assert_eq!(storage["compliance"], storage["objects"], "{storage}");
    assert_eq!((&storage["unlocked"], &storage["markers"]), (&0.into(), &0.into()), "{storage}");
    let anchors = verdict.last["nodes"][0]["anchors"].as_object().unwrap();
    assert!(anchors.keys().eq(["locked copy in s3://casemate"]), "{anchors:?}");

    // Somebody whom no policy lets in.
    let stranger = Shelf { client: shelf.client.clone(), endpoint: shelf.endpoint.clone(), login: Login::of(CANARY) };
    let (code, _, err) = stranger.replay(&["ls", &format!("s3://{BUCKET}/{PREFIX}")]);
    assert!(code == 2 && err.contains("may not list its versions"), "{err}");

    // The owner hides a session, which the lock does not keep anybody from.
    let key = shelf.name(&recorded.sessions[0]).await;
    shelf.hide(&key).await;
    let verdict = shelf.verify(&recorded, &[]);
    verdict.is(3, "exceptions", "is hidden by a delete marker");
    assert_eq!(verdict.status(&recorded.sessions[0]).0, "clean");
    assert_eq!(verdict.last["storage"]["markers"], 1);
    let (code, shown, _) = shelf.replay(&["show", &format!("s3://{BUCKET}/{PREFIX}"), &recorded.sessions[0]]);
    assert!(code == 0 && shown.contains("uptime"), "{shown}");

    // And lays something of their own over it.
    shelf.put(&key, b"nothing to see".to_vec(), None).await;
    let verdict = shelf.verify(&recorded, &[]);
    verdict.is(1, "altered_findings", "has other content than the evidence, which is here too");
    verdict.is(1, "exceptions", "has a shadow version");
    assert_eq!(verdict.status(&recorded.sessions[0]).0, "clean");
}

#[tokio::test]
async fn every_verb_reads_a_bucket_as_it_reads_the_directory() {
    let recorded = recorded(Duration::ZERO, nothing_more).await;
    let (_dir, _server, shelf) = ministack_with(&recorded).await;
    let vault = recorded.dir.path().join("vault");
    let bucket = format!("s3://{BUCKET}/{PREFIX}/");
    let both = |verb: &[&str]| {
        let of = |source: &str| {
            let words: Vec<&str> = verb.iter().map(|word| if *word == "SOURCE" { source } else { word }).collect();
            let (code, out, err) = shelf.replay(&words);
            assert_eq!(code, 0, "{words:?}: {err}");
            out
        };
        let (here, there) = (of(vault.to_str().unwrap()), of(&bucket));
        assert!(!here.is_empty() && here == there, "{verb:?}:\n{here}\n{there}");
        there
    };
    let session = recorded.sessions[1].as_str();
    assert!(both(&["ls", "SOURCE"]).contains("alice@web1"));
    both(&["ls", "SOURCE", "--json"]);
    both(&["show", "SOURCE", session]);
    both(&["export", "SOURCE", session, "--format", "jsonl"]);
    both(&["export", "SOURCE", session, "--format", "text"]);
    let (code, _, err) = shelf.replay(&["play", &bucket, session, "--follow"]);
    assert!(code == 2 && err.contains("on its node"), "{err}");
}

#[tokio::test]
async fn each_thing_done_to_evidence_has_its_finding() {
    let recorded = recorded(Duration::ZERO, nothing_more).await;
    let (_dir, _server, shelf) = ministack_with(&recorded).await;
    assert_eq!(shelf.verify(&recorded, &[]).code, 0);
    let lock = || Some((ObjectLockMode::Compliance, 401));
    let content = |key: &str| std::fs::read(recorded.dir.path().join("vault").join(&key[PREFIX.len() + 1..])).unwrap();

    // The same content once more: readable, and to be explained.
    let tile = shelf.name("/tile/entries/").await;
    let again = shelf.put(&tile, content(&tile), lock()).await;
    let verdict = shelf.verify(&recorded, &[]);
    verdict.is(3, "exceptions", &again);
    assert!(verdict.list("altered_findings").is_empty(), "{}", verdict.last);

    // Other content over the log, both ways: the right one is found by the root that it grows to.
    let note = shelf.name("/cp/").await;
    for key in [&tile, &note] {
        let mut other = content(key);
        let middle = other.len() / 2;
        other[middle] ^= 1;
        let id = shelf.put(key, other, lock()).await;
        let verdict = shelf.verify(&recorded, &[]);
        verdict.is(1, "altered_findings", &format!("version {id} has other content"));
        assert_eq!(verdict.status(&recorded.sessions[0]).0, "clean", "{key}: {}", verdict.last);
    }
}

#[tokio::test]
async fn what_is_right_in_no_version_is_altered_and_a_lock_is_held_against_its_session() {
    let recorded = recorded(Duration::from_secs(2 * 3600), |trust| {
        trust.anchor_age_max = Some(Duration::from_secs(DAYS));
    })
    .await;
    let (_dir, _server, shelf) = ministack_with(&recorded).await;
    assert_eq!(shelf.verify(&recorded, &[]).code, 0);
    // An unlocked copy that a bucket without a lock would let go: this one is put there in the place of what was shipped.
    let (bare, other) = (&shelf, "bare");
    make_bucket(&bare.client, other).await.unwrap();
    let vault = recorded.dir.path().join("vault");
    for name in vectors::files(&vault).unwrap() {
        let mut content = std::fs::read(vault.join(&name)).unwrap();
        if name.contains(&recorded.sessions[0]) {
            content[400] ^= 1;
        }
        if !name.contains(&recorded.sessions[1]) {
            let put = bare.client.put_object().bucket(other).key(name).body(content.into());
            put.object_lock_mode(ObjectLockMode::Governance)
                .object_lock_retain_until_date(in_days(40))
                .send()
                .await
                .unwrap();
        }
    }
    let trust = recorded.dir.path().join("trust.toml");
    let (code, out, _) = bare.replay(&["verify", "s3://bare", "--trust", trust.to_str().unwrap(), "--json"]);
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let status = |session: &str| lines.iter().find(|line| line["session"] == session).unwrap()["status"].clone();
    let last = lines.last().unwrap();
    assert_eq!(code, 1, "{last}");
    assert_eq!((status(&recorded.sessions[0]), status(&recorded.sessions[1])), ("altered".into(), "pending".into()));
    // The control transcript is right, and locked for forty days where its OPEN asks for four hundred.
    assert!(last["exceptions"].to_string().contains("and must be until"), "{last}");
    assert!(last["storage"]["governance"].as_u64().unwrap() > 0, "{last}");
    // Whoever asks about another time does not hear of those sessions.
    let later =
        ["verify", "s3://bare", "--trust", trust.to_str().unwrap(), "--json", "--since", "2100-01-01T00:00:00Z"];
    let (code, out, _) = bare.replay(&later);
    let last: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!((code, &last["opened"], &last["left_out"]), (0, &0.into(), &3.into()), "{last}");
}

#[tokio::test]
async fn what_is_not_locked_is_named_and_anchors_nothing() {
    let recorded = recorded(Duration::ZERO, nothing_more).await;
    let dir = tempfile::tempdir().unwrap();
    let server = ministack::Guard(ministack::Ministack::start(dir.path()).unwrap());
    let shelf = Shelf { client: server.client(OWNER), endpoint: server.endpoint(), login: Login::of(OWNER) };
    make_bucket(&shelf.client, BUCKET).await.unwrap();
    let vault = recorded.dir.path().join("vault");
    for name in vectors::files(&vault).unwrap() {
        shelf.put(&format!("{PREFIX}/{name}"), std::fs::read(vault.join(&name)).unwrap(), None).await;
    }
    let verdict = shelf.verify(&recorded, &[]);
    verdict.is(4, "exceptions", "is not locked");
    assert_eq!(verdict.last["storage"]["unlocked"], verdict.last["storage"]["objects"]);
    // A hold keeps a version as well, for as long as it stands: an anchor, and still no lock with an end.
    for (key, ids) in shelf.names().await.into_iter().filter(|(key, _)| key.contains("/cp/")) {
        let hold = ObjectLockLegalHold::builder().status(ObjectLockLegalHoldStatus::On).build();
        let request = shelf.client.put_object_legal_hold().bucket(BUCKET).key(key).version_id(&ids[0]).legal_hold(hold);
        request.send().await.unwrap();
    }
    let verdict = shelf.verify(&recorded, &[]);
    verdict.is(3, "exceptions", "is not locked");
    assert!(verdict.last["storage"]["legal_holds"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn what_was_held_back_for_a_day_is_never_clean() {
    let recorded = recorded(Duration::from_secs(DAYS), nothing_more).await;
    let (_dir, _server, shelf) = ministack_with(&recorded).await;
    let verdict = shelf.verify(&recorded, &[]);
    verdict.is(3, "exceptions", "what was recorded then rests on the node's word");
    verdict.is(3, "exceptions", "after the newest leaf under it");
    // The newest anchor is old where the trust file says how old it may be: that comes first.
    let kept = newest_note(&recorded.dir.path().join("vault"));
    let verdict = shelf.verify(&recorded, &["--checkpoint", kept.to_str().unwrap(), "--sha256"]);
    assert_eq!(verdict.code, 3, "an anchor without a date closes no gap: {}", verdict.last);
}

fn newest_note(vault: &Path) -> PathBuf {
    let notes = vectors::files(vault).unwrap().into_iter().filter(|name| name.ends_with(".note"));
    let size = |name: &String| name.rsplit('/').next().unwrap().split('-').next().unwrap().parse::<u64>().unwrap();
    vault.join(notes.max_by_key(size).unwrap())
}

#[tokio::test]
async fn what_keeps_a_bucket_from_being_read_is_said_in_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let server = ministack::Guard(ministack::Ministack::start(dir.path()).unwrap());
    let shelf = Shelf { client: server.client(OWNER), endpoint: server.endpoint(), login: Login::of(OWNER) };
    let empty =
        [("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", ""), ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")];
    let nowhere = [("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")];
    for (source, variables, says) in [
        ("s3://nosuch", &[][..], "no such bucket"),
        ("s3://nosuch", &empty[..], "no credentials"),
        ("s3://nosuch", &nowhere[..], "cannot be asked"),
        ("s3:///x", &[][..], "write it s3://BUCKET"),
    ] {
        let (code, out, err) = shelf.replay_with(&["verify", source], variables);
        assert!(code == 2 && out.is_empty() && err.contains(says), "{source}: {code} {out} {err}");
    }
}

/// The catalogue is no evidence: it lies there without a lock, and goes when somebody erases it.
#[tokio::test]
async fn a_catalogue_without_a_lock_is_no_finding_and_costs_are_counted_in_a_bucket() {
    let recorded = recorded(Duration::ZERO, nothing_more).await;
    let (_dir, _server, shelf) = ministack_with(&recorded).await;
    let before = shelf.verify(&recorded, &[]);
    assert_eq!(before.code, 0, "{}", before.last);
    let evidence = shelf.names().await.len();

    let page = format!("{PREFIX}/v1/cat/dt=2026-11-23/node={NODE}/08.jsonl.zst");
    shelf.put(&page, b"a page".to_vec(), None).await;
    let same = |verdict: &Verdict| {
        assert_eq!(verdict.code, 0, "{}", verdict.last);
        for list in ["altered_findings", "exceptions", "remarks", "storage"] {
            assert_eq!(verdict.last[list], before.last[list], "{list}");
        }
    };
    same(&shelf.verify(&recorded, &[]));
    shelf.hide(&page).await;
    same(&shelf.verify(&recorded, &[]));

    let (code, out, err) = shelf.replay(&["report", &format!("s3://{BUCKET}/{PREFIX}"), "--cost", "--json"]);
    assert_eq!(code, 0, "{err}");
    let found: Value = serde_json::from_str(&out).unwrap();
    let counted = found["segments"].as_u64().unwrap() + found["log_objects"].as_u64().unwrap();
    assert_eq!(counted, evidence as u64, "{found}");
}
