//! What is recorded arrives, whatever the server does; and nothing that it does harms who records.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use bytes::Bytes;
use casemate_recorder::OpenError;
use casemate_recorder::vault::s3::Checksum;
use casemate_tests::process::wait_until;
use casemate_tests::s3::ceph::OWNER;
use casemate_tests::s3::faults::{Fault, Faults, Seen};
use casemate_tests::s3::ministack::{self, Ministack};
use casemate_tests::s3::{make_bucket, versions};
use casemate_tests::scale::pick;

use super::node::{BUCKET, NODE, PATIENCE, Place, close, figures, holds_all, open, session, wait_shipped, work};

/// A server, the proxy before it, and a node that ships through the proxy.
struct World {
    _server: Arc<ministack::Guard>,
    straight: Client,
    faults: Faults,
    place: Place,
    bucket: String,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Arc::new(ministack::Guard(Ministack::start(dir.path()).unwrap()));
        Self::at(server, BUCKET).await
    }

    async fn at(server: Arc<ministack::Guard>, bucket: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let straight = server.client(OWNER);
        make_bucket(&straight, bucket).await.unwrap();
        let faults = Faults::before(server.port).unwrap();
        let place = Place::new(dir.path(), &faults.endpoint(), bucket, Checksum::Sha256);
        Self { _server: server, straight, faults, place, bucket: bucket.to_owned(), _dir: dir }
    }

    async fn holds_all(&self) {
        holds_all(&self.place, &self.straight, &self.bucket, 0).await;
    }
}

/// What a daemon that was told to stop left for the next one.
fn settle(world: &World) {
    world.faults.clear();
    world.faults.release();
    let recorder = world.place.start().unwrap();
    assert!(wait_shipped(&recorder, 0, PATIENCE), "{:?}", figures(&recorder));
    recorder.shutdown();
}

/// The workload of an upload trace: two sessions, one of them of several segments' worth of blocks.
async fn story(world: &World) {
    let recorder = world.place.start().unwrap();
    session(&recorder, 1, 100_000).await;
    let long = open(&recorder).await;
    work(&long, 2, 200_000).await;
    let closed = close(long).await;
    assert!(wait_shipped(&recorder, closed, PATIENCE), "{:?}", figures(&recorder));
    recorder.shutdown();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_recorded_is_there_within_ten_seconds_and_locked() {
    let world = World::new().await;
    let recorder = world.place.start().unwrap();
    let live = open(&recorder).await;
    work(&live, 1, 10_000).await;
    // OPEN of a live session, by a checkpoint.
    let opened = Instant::now();
    let size = recorder.figures().log_size;
    assert!(wait_until(PATIENCE, || figures(&recorder).log_size >= size));
    assert!(opened.elapsed() < Duration::from_secs(10), "{:?}", opened.elapsed());
    let begun = Instant::now();
    let closed = close(live).await;
    assert!(wait_shipped(&recorder, closed, PATIENCE), "{:?}", figures(&recorder));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    recorder.shutdown();
    world.holds_all().await;
    assert!(figures(&recorder).troubles.keys().all(|about| about == "rights"), "{:?}", figures(&recorder));

    // The next start ships the control transcript of this one and says of everything that it is stored, once.
    let recorder = world.place.start().unwrap();
    assert!(wait_shipped(&recorder, 0, PATIENCE));
    let puts = || world.faults.seen().iter().filter(|seen| seen.method == "PUT" && seen.path.ends_with(".seg")).count();
    recorder.shutdown();
    let segments = world.place.segments().len();
    assert_eq!(puts(), segments, "each segment is put once");
    world.holds_all().await;
}

/// A segment goes behind the checkpoint that names it: to whoever verifies the bucket in between, or after a daemon that ended in
/// between, one that its log does not name would be altered evidence.
#[tokio::test(flavor = "multi_thread")]
async fn no_segment_is_there_before_the_checkpoint_that_names_it() {
    let world = World::new().await;
    let recorder = world.place.start().unwrap();
    let closed = session(&recorder, 1, 1000).await;
    assert!(wait_shipped(&recorder, closed, PATIENCE), "{:?}", figures(&recorder));
    let segments = || world.faults.seen().iter().filter(|seen| seen.path.ends_with(".seg")).count();
    let before = segments();

    world.faults.spoil(Fault::Hang, |seen| seen.method == "PUT" && seen.path.ends_with(".note"));
    let closed = session(&recorder, 2, 1000).await;
    assert!(world.faults.wait(PATIENCE, |seen| seen.iter().any(|seen| seen.hangs)), "no checkpoint is on its way");
    assert!(!wait_until(Duration::from_secs(2), || segments() > before), "a segment came before its checkpoint");

    world.faults.clear();
    world.faults.release();
    assert!(wait_shipped(&recorder, closed, PATIENCE), "{:?}", figures(&recorder));
    assert!(segments() > before);
    recorder.shutdown();
    world.holds_all().await;
}

fn faults() -> Vec<(&'static str, Fault)> {
    vec![
        ("drop", Fault::Drop),
        ("503", Fault::SlowDown),
        ("409", Fault::Aborted),
        ("hang", Fault::Hang),
        ("reset in the body", Fault::ResetInBody(50)),
        ("200 and gone", Fault::Swallow),
        ("truncated", Fault::Truncate(20)),
        ("slow", Fault::Slow(200_000)),
        ("skewed", Fault::Skewed(3600)),
        ("answer lost", Fault::LoseAnswer),
        ("older content", Fault::Stale(Bytes::from_static(b"something older"))),
        ("unlocked", Fault::Unlock),
    ]
}

/// Acceptance 4: every fault at every request of a recorded trace ends in the same state.
#[tokio::test(flavor = "multi_thread")]
async fn every_fault_at_every_request_ends_in_the_same_state() {
    let dir = tempfile::tempdir().unwrap();
    let server = Arc::new(ministack::Guard(Ministack::start(dir.path()).unwrap()));
    let world = World::at(Arc::clone(&server), "plain").await;
    story(&world).await;
    world.holds_all().await;
    let requests = world.faults.seen().len() as u64;
    assert!(requests >= 20, "{requests} requests are no trace");
    let every: u64 = pick(7, 1);
    let mut cases: Vec<(u64, &'static str, Fault)> = Vec::new();
    for (offset, (name, fault)) in faults().into_iter().enumerate() {
        let first = 1 + offset as u64 % every;
        cases.extend((first..=requests).step_by(every as usize).map(|number| (number, name, fault.clone())));
    }
    let total = cases.len();
    let mut running = tokio::task::JoinSet::new();
    for (index, (number, name, fault)) in cases.into_iter().enumerate() {
        if running.len() >= 6 {
            running.join_next().await.unwrap().unwrap();
        }
        let server = Arc::clone(&server);
        running.spawn(async move {
            let world = World::at(server, &format!("case-{index}")).await;
            world.faults.spoil_number(number, fault);
            eprintln!("request {number}: {name}");
            story(&world).await;
            settle(&world);
            holds_all(&world.place, &world.straight, &world.bucket, usize::from(name == "truncated")).await;
            eprintln!("request {number}: {name}: as it should be");
        });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
    eprintln!("{total} faults over {requests} requests");
}

/// Acceptance 2: the bucket is away while twenty sessions work.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_waits_for_a_vault_that_is_away_and_nothing_is_lost() {
    let world = World::new().await;
    world.faults.refuse_connections().unwrap();
    let begun = Instant::now();
    let recorder = world.place.start().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4), "a start does not wait for a vault: {:?}", begun.elapsed());
    let mut sessions = tokio::task::JoinSet::new();
    let begun = Instant::now();
    for seed in 0..20 {
        let recorder = recorder.clone();
        sessions.spawn(async move { session(&recorder, seed, 150_000).await });
    }
    let mut closed = 0;
    while let Some(done) = sessions.join_next().await {
        closed = closed.max(done.unwrap());
    }
    let recorded = begun.elapsed();
    assert!(wait_until(PATIENCE, || figures(&recorder).waiting_segments == 20), "{:?}", figures(&recorder));
    assert!(figures(&recorder).failures.contains_key("unreachable"));
    assert!(figures(&recorder).troubles.is_empty(), "to be away is no trouble: {:?}", figures(&recorder));
    world.faults.take_connections().unwrap();
    let back = Instant::now();
    assert!(wait_shipped(&recorder, closed, PATIENCE), "{:?}", figures(&recorder));
    eprintln!("20 sessions recorded in {recorded:?}, shipped {:?} after the vault was back", back.elapsed());
    recorder.shutdown();
    world.holds_all().await;
}

/// A checkpoint that the server spoiled is put right although newer ones came meanwhile, and by the next start where this one
/// ended: a bucket in which something poses as a checkpoint and is none would never be clean again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_spoiled_of_the_log_is_put_right_when_there_is_newer_by_then() {
    let of_log = |seen: &Seen| seen.method == "PUT" && seen.path.contains("/v1/log/");
    let note = |seen: &Seen| seen.path.ends_with(".note");
    let world = World::new().await;
    let recorder = world.place.start().unwrap();
    let closed = session(&recorder, 1, 1000).await;
    assert!(wait_shipped(&recorder, closed, PATIENCE), "{:?}", figures(&recorder));
    let spoiled = |count: usize| {
        let seen = world.faults.seen();
        seen.iter().filter(|seen| of_log(seen) && seen.spoiled).count() >= count
    };
    // A tile, then a checkpoint; each time the log goes on at once.
    for (number, of_kind) in [false, true].into_iter().enumerate() {
        world.faults.spoil_next(1, Fault::Truncate(20), move |seen| of_log(seen) && note(seen) == of_kind);
        session(&recorder, 2, 1000).await;
        assert!(wait_until(PATIENCE, || spoiled(number + 1)));
        let closed = session(&recorder, 3, 1000).await;
        assert!(wait_shipped(&recorder, closed, PATIENCE), "{:?}", figures(&recorder));
    }
    recorder.shutdown();
    holds_all(&world.place, &world.straight, BUCKET, 2).await;

    // Whatever this one tries again before it ends is spoiled too.
    world.faults.spoil_next(3, Fault::Truncate(20), move |seen| of_log(seen) && note(seen));
    let recorder = world.place.start().unwrap();
    assert!(wait_until(PATIENCE, || spoiled(3)));
    recorder.shutdown();
    settle(&world);
    holds_all(&world.place, &world.straight, BUCKET, 3).await;
}

/// Acceptance 3: each lie is found at once, told, and nothing is said to be stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lies_is_found_out_and_believed_nothing() {
    let segment = |seen: &Seen| seen.path.ends_with(".seg");
    let put = move |seen: &Seen| seen.method == "PUT" && segment(seen);
    let head = move |seen: &Seen| seen.method == "HEAD" && segment(seen);
    type Holds = Box<dyn Fn(&Seen) -> bool + Send>;
    let until = |time| Fault::locked_until(time);
    let lies: Vec<(&str, Fault, Holds, &str)> = vec![
        ("gone after 200", Fault::Swallow, Box::new(put), "does not have it"),
        ("other content", Fault::Truncate(100), Box::new(put), "other content"),
        ("another length", Fault::AnswerHeader("content-length", "7".to_owned()), Box::new(head), "other content"),
        ("too short", until("2027-01-01T00:00:00Z"), Box::new(head), "s before the time"),
        ("absurdly long", until("2999-01-01T00:00:00Z"), Box::new(head), "s after the time"),
        ("no lock", Fault::AnswerHeader("x-amz-object-lock-mode", String::new()), Box::new(head), "without its lock"),
        (
            "another mode",
            Fault::AnswerHeader("x-amz-object-lock-mode", "GOVERNANCE".to_owned()),
            Box::new(head),
            "of mode GOVERNANCE",
        ),
    ];
    let dir = tempfile::tempdir().unwrap();
    let server = Arc::new(ministack::Guard(Ministack::start(dir.path()).unwrap()));
    for (index, (name, fault, holds, text)) in lies.into_iter().enumerate() {
        let world = World::at(Arc::clone(&server), &format!("lie-{index}")).await;
        world.faults.spoil(fault, holds);
        let recorder = world.place.start().unwrap();
        session(&recorder, 1, 50_000).await;
        let about_it = |said: &str| said.contains(text) || (text == "other content" && said.contains("something else"));
        let told = || {
            let troubles = figures(&recorder).troubles;
            troubles.iter().any(|(about, said)| about.ends_with(".seg") && about_it(said))
        };
        let begun = Instant::now();
        assert!(wait_until(PATIENCE, told), "{name}: {:?}", figures(&recorder));
        assert!(begun.elapsed() < Duration::from_secs(60));
        assert_eq!(figures(&recorder).waiting_segments, 1, "{name}: it is not called stored");
        assert_eq!(world.place.segments().len(), 1, "{name}: the copy here stays");
        recorder.shutdown();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versioning_that_is_turned_off_is_noticed_within_a_minute() {
    let world = World::new().await;
    let recorder = world.place.start().unwrap();
    let closed = session(&recorder, 1, 1000).await;
    assert!(wait_shipped(&recorder, closed, PATIENCE));
    assert!(!figures(&recorder).troubles.contains_key("versioning"));
    let off = VersioningConfiguration::builder().status(BucketVersioningStatus::Suspended).build();
    world.straight.put_bucket_versioning().bucket(BUCKET).versioning_configuration(off).send().await.unwrap();
    let told = || figures(&recorder).troubles.contains_key("versioning");
    assert!(wait_until(PATIENCE, told), "{:?}", figures(&recorder));
    recorder.shutdown();
}

/// The local log is shorter than a checkpoint that a vault holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_rolled_back_is_refused_or_ends_once_the_vault_is_reached() {
    let world = World::new().await;
    let recorder = world.place.start().unwrap();
    let closed = session(&recorder, 1, 1000).await;
    assert!(wait_shipped(&recorder, closed, PATIENCE));
    recorder.shutdown();
    let kept = tempfile::tempdir().unwrap();
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        assert!(std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    };
    for part in ["state", "vault"] {
        copy(&world.place.dir.join(part), &kept.path().join(part));
    }
    let recorder = world.place.start().unwrap();
    let closed = session(&recorder, 2, 1000).await;
    assert!(wait_shipped(&recorder, closed, PATIENCE));
    recorder.shutdown();

    // Both, here: the vault of this node has nothing to say against it.
    for part in ["state", "vault"] {
        std::fs::remove_dir_all(world.place.dir.join(part)).unwrap();
        copy(&kept.path().join(part), &world.place.dir.join(part));
    }
    match world.place.start() {
        Err(OpenError::RolledBack { local, vault, .. }) => assert!(local < vault),
        other => panic!("started: {other:?}"),
    }
    // Away, it cannot object; it does as soon as it is back.
    world.faults.refuse_connections().unwrap();
    let recorder = world.place.start().unwrap();
    session(&recorder, 3, 1000).await;
    let before = versions(&world.straight, BUCKET, "v1/").await.unwrap().len();
    world.faults.take_connections().unwrap();
    assert!(wait_until(PATIENCE, || recorder.frozen().is_some()));
    let why = recorder.frozen().unwrap().to_string();
    assert!(
        why.contains("elsewhere") && (why.contains("rolled this node back") || why.contains("another root")),
        "{why}"
    );
    recorder.shutdown();
    assert_eq!(
        versions(&world.straight, BUCKET, "v1/").await.unwrap().len(),
        before,
        "nothing was put beside the truth"
    );
    assert!(matches!(world.place.start(), Err(OpenError::RolledBack { .. } | OpenError::Forked { .. })));
    assert_eq!(world.place.node, NODE);
}

/// The pages of the catalogue in the bucket, with whether each is locked.
async fn catalogue_pages(world: &World) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    for version in versions(&world.straight, &world.bucket, "v1/cat/").await.unwrap() {
        let key = version.key().unwrap().to_owned();
        let head = world.straight.head_object().bucket(&world.bucket).key(&key).send().await.unwrap();
        found.push((key, head.object_lock_mode.is_some()));
    }
    found
}

/// The catalogue holds personal data, so it must be erasable (docs/catalogue.md).
#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_goes_along_once_and_without_a_lock() {
    let mut world = World::new().await;
    world.place.catalogue = true;
    let recorder = world.place.start().unwrap();
    let closed = session(&recorder, 1, 1000).await;
    assert!(wait_shipped(&recorder, closed, PATIENCE));
    recorder.shutdown();
    let first = catalogue_pages(&world).await;
    assert!(!first.is_empty() && first.iter().all(|(_, locked)| !locked), "{first:?}");

    // Away while this one ends; its answer lost when it is back: the next start delivers what is missing, once.
    world.faults.refuse_connections().unwrap();
    let recorder = world.place.start().unwrap();
    session(&recorder, 2, 1000).await;
    recorder.shutdown();
    assert_eq!(catalogue_pages(&world).await, first);
    world.faults.take_connections().unwrap();
    world.faults.spoil_next(1, Fault::LoseAnswer, |seen| seen.method == "PUT" && seen.path.contains("v1/cat/"));
    let recorder = world.place.start().unwrap();
    assert!(wait_shipped(&recorder, 0, PATIENCE), "{:?}", figures(&recorder));
    let due = world.place.dir.join("state/catalogue/due/elsewhere");
    let is_due = || std::fs::read_dir(&due).unwrap().count() > 0;
    assert!(is_due());
    assert!(wait_until(PATIENCE, || !is_due()));
    assert!(figures(&recorder).troubles.keys().all(|about| about == "rights"), "{:?}", figures(&recorder));
    recorder.shutdown();
    let all = catalogue_pages(&world).await;
    let mut names: Vec<_> = all.iter().map(|(name, _)| name).collect();
    names.dedup();
    assert_eq!(names.len(), all.len(), "no second versions: {all:?}");
    assert!(all.len() > first.len() && all.iter().all(|(_, locked)| !locked), "{all:?}");
    for (name, _) in &all {
        let there = world.straight.get_object().bucket(&world.bucket).key(name).send().await.unwrap();
        let there = there.body.collect().await.unwrap().into_bytes();
        assert_eq!(there, std::fs::read(world.place.vault().join(name)).unwrap(), "{name}");
        // Nothing keeps whoever may from erasing it.
        let version = versions(&world.straight, &world.bucket, name).await.unwrap().remove(0);
        let delete = world.straight.delete_object().bucket(&world.bucket).key(name);
        delete.version_id(version.version_id().unwrap()).send().await.unwrap();
    }
    assert!(catalogue_pages(&world).await.is_empty());
}

/// Whatever keeps the catalogue from getting there concerns nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn evidence_arrives_where_the_catalogue_is_refused() {
    let mut world = World::new().await;
    world.place.catalogue = true;
    let recorder = world.place.start().unwrap();
    session(&recorder, 1, 1000).await;
    recorder.shutdown();
    let refused = catalogue_pages(&world).await.len();
    world.faults.spoil(Fault::Skewed(3600), |seen| seen.method == "PUT" && seen.path.contains("v1/cat/"));
    let recorder = world.place.start().unwrap();
    let closed = session(&recorder, 2, 1000).await;
    assert!(wait_shipped(&recorder, closed, PATIENCE), "{:?}", figures(&recorder));
    assert!(figures(&recorder).troubles.keys().all(|about| about == "rights"), "{:?}", figures(&recorder));
    recorder.shutdown();
    assert_eq!(catalogue_pages(&world).await.len(), refused);
    settle(&world);
    assert!(catalogue_pages(&world).await.len() > refused, "the next start goes on");
}
