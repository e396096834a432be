//! Several nodes in one bucket, and everything that can be done to what they put there: each has its verdict.
//!
//! The bucket is filled by the recorders themselves. It locks what it has, so each deed is done to another bucket: a copy of the
//! first in which the deed is done while it is made, by somebody who rules the storage or has a node's keys.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::ObjectLockMode;
use casemate_certs::trust::Period;
use casemate_recorder::clock::{Clock, SystemClock};
use casemate_recorder::log::leaf::Leaf;
use casemate_recorder::log::merkle::{Frontier, leaf_hash};
use casemate_recorder::log::note::{Checkpoint, Note};
use casemate_recorder::log::tile::{TILE_WIDTH, bundles, push_entry, read_entries};
use casemate_recorder::transcript::Stamp;
use casemate_recorder::vault::s3::Checksum;
use casemate_tests::forge::node_key;
use casemate_tests::s3::ceph::OWNER;
use casemate_tests::s3::ministack::{self, Ministack};
use casemate_tests::s3::{Login, make_bucket, versions};
use casemate_tests::scale::pick;

use super::node::{PATIENCE, Place, figures, session, wait_shipped};
use super::verify::{Shelf, Verdict};
use crate::officer;

const NODES: [&str; 3] = ["bastion-1", "bastion-2", "bastion-3"];
const HOURS_US: u64 = 3_600_000_000;
const DAY: Duration = Duration::from_secs(86_400);

type Objects = BTreeMap<String, Vec<u8>>;

/// The machine's clocks some hours ago, until they jump.
#[derive(Debug)]
struct Past(AtomicU64);

impl Clock for Past {
    fn now(&self) -> Stamp {
        let (now, back_us) = (SystemClock.now(), self.0.load(Ordering::SeqCst));
        Stamp { wall_us: now.wall_us - back_us, boot_us: now.boot_us + 24 * HOURS_US - back_us }
    }
}

/// A bucket of three nodes.
struct Fleet {
    _server: Arc<ministack::Guard>,
    dir: tempfile::TempDir,
    shelf: Shelf,
    objects: Objects,
    copies: AtomicU64,
}

impl Fleet {
    async fn new(sessions: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Arc::new(ministack::Guard(Ministack::start(dir.path()).unwrap()));
        let shelf = Shelf { client: server.client(OWNER), endpoint: server.endpoint(), login: Login::of(OWNER) };
        make_bucket(&shelf.client, "fleet").await.unwrap();
        for name in NODES {
            let home = dir.path().join(name);
            std::fs::create_dir_all(&home).unwrap();
            let clock = Arc::new(Past(AtomicU64::new(3 * HOURS_US)));
            let place = Place {
                clock: Arc::<Past>::clone(&clock),
                node: name,
                ..Place::new(&home, &shelf.endpoint, "fleet", Checksum::Sha256)
            };
            let recorder = place.start().unwrap();
            let mut closed = 0;
            for seed in 0..sessions {
                closed = session(&recorder, seed, 2000).await;
            }
            assert!(wait_shipped(&recorder, closed, PATIENCE), "{:?}", figures(&recorder));
            // What is not there by now is missing, and not on its way.
            clock.0.store(HOURS_US / 2, Ordering::SeqCst);
            let closed = session(&recorder, sessions, 2000).await;
            assert!(wait_shipped(&recorder, closed, PATIENCE), "{:?}", figures(&recorder));
            recorder.shutdown();
        }
        let fleet = Self { _server: server, dir, objects: Objects::new(), shelf, copies: AtomicU64::new(0) };
        let objects = fleet.read("fleet").await;
        let fleet = Self { objects, ..fleet };
        fleet.trust("trust.toml", &NODES);
        fleet
    }

    /// A trust file that lists these nodes.
    fn trust(&self, file: &str, nodes: &[&str]) {
        let listed = nodes.iter().map(|node| officer::node(node, &node_key(node), Period::ALWAYS)).collect();
        let mut trust = officer::trust(self.dir.path(), listed);
        trust.anchor_age_max = Some(DAY);
        let path = self.dir.path().join(file);
        officer::write(&path, &trust);
        officer::sign(&path);
    }

    async fn read(&self, bucket: &str) -> Objects {
        let mut objects = Objects::new();
        for version in versions(&self.shelf.client, bucket, "v1/").await.unwrap() {
            let key = version.key.unwrap();
            let got = self.shelf.client.get_object().bucket(bucket).key(&key).send().await.unwrap();
            objects.insert(key, got.body.collect().await.unwrap().to_vec());
        }
        objects
    }

    async fn put(&self, bucket: &str, key: &str, content: Vec<u8>) {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let until = DateTime::from_secs((since + 401 * 86_400).cast_signed());
        let put = self.shelf.client.put_object().bucket(bucket).key(key).body(content.into());
        let put = put.object_lock_mode(ObjectLockMode::Compliance).object_lock_retain_until_date(until);
        put.send().await.unwrap();
    }

    /// A bucket with these objects, every one locked.
    async fn bucket(&self, objects: &Objects) -> String {
        let name = format!("copy-{}", self.copies.fetch_add(1, Ordering::SeqCst));
        make_bucket(&self.shelf.client, &name).await.unwrap();
        for (key, content) in objects {
            self.put(&name, key, content.clone()).await;
        }
        name
    }

    fn verify(&self, what: &str, bucket: &str, more: &[&str]) -> Verdict {
        self.verify_by("trust.toml", what, bucket, more)
    }

    fn verify_by(&self, trust: &str, what: &str, bucket: &str, more: &[&str]) -> Verdict {
        let begun = Instant::now();
        let verdict = self.shelf.verify_at(&format!("s3://{bucket}"), &self.dir.path().join(trust), more);
        eprintln!("{what}: exit {} after {:.1} s", verdict.code, begun.elapsed().as_secs_f64());
        verdict
    }

    /// The newest checkpoint of a node, as a file that an auditor kept.
    fn kept(&self, objects: &Objects, node: &str) -> String {
        let (_, note) = notes(objects, node).pop_last().unwrap();
        let path = self.dir.path().join(format!("{node}-{}.note", self.copies.load(Ordering::SeqCst)));
        std::fs::write(&path, objects[&note].as_slice()).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// The checkpoints of a node by size.
fn notes(objects: &Objects, node: &str) -> BTreeMap<u64, String> {
    let prefix = format!("v1/log/{node}/cp/");
    let found = objects.keys().filter(|key| key.starts_with(&prefix));
    let size = |key: &str| key.rsplit('/').next().unwrap().split('-').next().unwrap().parse().unwrap();
    found.map(|key| (size(key), key.clone())).collect()
}

/// The entries of a node's log.
fn entries(objects: &Objects, node: &str) -> Vec<Vec<u8>> {
    let (size, _) = notes(objects, node).pop_last().unwrap();
    let mut found = Vec::new();
    for bundle in bundles(size) {
        let bytes = &objects[&format!("v1/log/{node}/{bundle}")];
        found.extend(read_entries(bytes, bundle.width, true).unwrap().into_iter().map(<[u8]>::to_vec));
    }
    found
}

/// Signs another log in a node's name: its bundles, and a checkpoint over all of it.
fn signed_log(entries: &[Vec<u8>], node: &str) -> Objects {
    let mut objects = Objects::new();
    let mut tree = Frontier::new();
    entries.iter().for_each(|entry| tree.append(leaf_hash(entry)));
    for (bundle, part) in bundles(tree.size()).zip(entries.chunks(TILE_WIDTH.into())) {
        let mut bytes = Vec::new();
        part.iter().for_each(|entry| push_entry(&mut bytes, entry).unwrap());
        objects.insert(format!("v1/log/{node}/{bundle}"), bytes);
    }
    let checkpoint = Checkpoint { origin: node.to_owned(), size: tree.size(), root: tree.root() };
    let note: Note = checkpoint.sign(&node_key(node)).unwrap();
    objects.insert(format!("v1/log/{node}/{}", note.checkpoint.path("2026-11-02")), note.to_string().into_bytes());
    objects
}

/// Sessions of a node that have ended, in the order of the log, the control transcript left out.
fn sessions_of(objects: &Objects, node: &str) -> Vec<String> {
    let leaves = entries(objects, node).into_iter().map(|entry| Leaf::decode(&entry).unwrap());
    let opened = leaves.filter_map(|leaf| match leaf {
        Leaf::Open(open) if open.kind == 0 => Some(open.session.to_string()),
        _ => None,
    });
    opened.collect()
}

fn segment_of(objects: &Objects, session: &str) -> String {
    objects.keys().find(|key| key.contains(session)).unwrap().clone()
}

#[track_caller]
fn status<'a>(verdict: &'a Verdict, session: &str) -> &'a str {
    let found = verdict.sessions.iter().find(|line| line["session"] == session).unwrap();
    found["status"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_done_to_a_bucket_of_three_nodes_has_its_verdict() {
    let each = pick(8, 333);
    let begun = Instant::now();
    let fleet = Fleet::new(each).await;
    eprintln!("{} sessions of three nodes recorded and shipped in {:?}", 3 * (each + 1), begun.elapsed());
    let objects = &fleet.objects;
    let sound = fleet.verify("as it was recorded", "fleet", &[]);
    assert_eq!(sound.code, 0, "{}", sound.last);
    assert_eq!(sound.last["opened"], 3 * (each + 2), "{}", sound.last);
    let known = sessions_of(objects, "bastion-2");

    // A deleted session.
    let mut less = objects.clone();
    less.retain(|key, _| !key.contains(&known[1]));
    let verdict = fleet.verify("a session deleted", &fleet.bucket(&less).await, &[]);
    assert_eq!((verdict.code, status(&verdict, &known[1])), (1, "missing"), "{}", verdict.last);

    // A swapped segment.
    let mut swapped = objects.clone();
    let (one, other) = (segment_of(objects, &known[0]), segment_of(objects, &known[2]));
    swapped.insert(one.clone(), objects[&other].clone());
    swapped.insert(other.clone(), objects[&one].clone());
    let verdict = fleet.verify("segments swapped", &fleet.bucket(&swapped).await, &[]);
    assert_eq!((verdict.code, status(&verdict, &known[0]), status(&verdict, &known[2])), (1, "altered", "altered"));

    // A shadow version: other content over evidence that is still there.
    let shadowed = fleet.bucket(objects).await;
    fleet.put(&shadowed, &one, b"nothing happened".to_vec()).await;
    let verdict = fleet.verify("a shadow version", &shadowed, &[]);
    assert_eq!((verdict.code, status(&verdict, &known[0])), (1, "clean"), "{}", verdict.last);
    assert!(verdict.list("altered_findings").contains(&one), "{}", verdict.last);

    // A log that was rolled back, with its newest sessions: seen by whoever kept a checkpoint, or where segments remain.
    let all = notes(objects, "bastion-2");
    let (early, _) = all.iter().find(|(size, _)| **size >= 6).unwrap();
    let (end, _) = all.last_key_value().unwrap();
    let mut back = signed_log(&entries(objects, "bastion-2")[..*early as usize], "bastion-2");
    back.extend(
        objects.iter().filter(|(key, _)| !key.starts_with("v1/log/bastion-2/")).map(|(k, v)| (k.clone(), v.clone())),
    );
    assert!(early < end);
    // A segment may come before the checkpoint that covers it; not by an hour.
    let later = (SystemClock.now().wall_us + 2 * HOURS_US).to_string();
    let verdict = fleet.verify("a log rolled back under its sessions", &fleet.bucket(&back).await, &["--at", &later]);
    assert_eq!(verdict.code, 1, "sessions are there that no log opens: {}", verdict.last);
    back.retain(|key, _| {
        !known.iter().any(|session| key.contains(session)) || objects_before(&back_sessions(objects, *early), key)
    });
    let rolled = fleet.bucket(&back).await;
    let verdict = fleet.verify(
        "a log rolled back with its sessions",
        &rolled,
        &["--checkpoint", &fleet.kept(objects, "bastion-2")],
    );
    assert_eq!(verdict.code, 1, "{}", verdict.last);
    assert!(verdict.last.to_string().contains("rolled back"), "{}", verdict.last);

    // A node's log sealed anew with its stolen key, beside what is locked: a session never happened.
    let rewritten: Vec<_> = entries(objects, "bastion-1")
        .into_iter()
        .filter(|entry| !matches!(Leaf::decode(entry), Ok(Leaf::Heads { .. } | Leaf::Heartbeat(_))))
        .collect();
    let mut stolen = objects.clone();
    for (key, content) in signed_log(&rewritten, "bastion-1") {
        stolen.entry(key).or_insert(content);
    }
    let verdict = fleet.verify("a log sealed anew", &fleet.bucket(&stolen).await, &[]);
    assert_eq!(verdict.code, 1, "{}", verdict.last);

    // Two auditors, two logs, each whole in itself: the checkpoint that one of them kept tells the other.
    let mut forked = signed_log(&rewritten, "bastion-1");
    forked.extend(
        objects.iter().filter(|(key, _)| !key.starts_with("v1/log/bastion-1/")).map(|(k, v)| (k.clone(), v.clone())),
    );
    let fork = fleet.bucket(&forked).await;
    let verdict = fleet.verify("a fork", &fork, &["--checkpoint", &fleet.kept(objects, "bastion-1")]);
    assert_eq!(verdict.code, 1, "{}", verdict.last);

    // An unlisted node.
    fleet.trust("two.toml", &NODES[..2]);
    let verdict = fleet.verify_by("two.toml", "an unlisted node", "fleet", &[]);
    assert_eq!(verdict.code, 4, "{}", verdict.last);
    assert!(verdict.list("undecided_because").contains("bastion-3"), "{}", verdict.last);

    // A cloned node: the same name and key, another history, in the same bucket.
    let mut clone = entries(objects, "bastion-3");
    clone.truncate(clone.len() - 2);
    clone.extend(entries(objects, "bastion-2").into_iter().rev().take(6));
    let twin: Objects = signed_log(&clone, "bastion-3");
    let mut cloned = objects.clone();
    for (key, content) in twin {
        cloned.entry(key).or_insert(content);
    }
    let verdict = fleet.verify("a cloned node", &fleet.bucket(&cloned).await, &[]);
    assert_eq!(verdict.code, 1, "{}", verdict.last);
    assert!(verdict.last.to_string().contains("bastion-3"), "{}", verdict.last);
}

/// The sessions that a log opens in its first entries.
fn back_sessions(objects: &Objects, size: u64) -> Vec<String> {
    let first = entries(objects, "bastion-2").into_iter().take(size as usize);
    let opened = first.filter_map(|entry| match Leaf::decode(&entry) {
        Ok(Leaf::Open(open)) => Some(open.session.to_string()),
        _ => None,
    });
    opened.collect()
}

fn objects_before(opened: &[String], key: &str) -> bool {
    opened.iter().any(|session| key.contains(session))
}
