//! `verify --incremental`: what an earlier run read is not read again, and whatever is done to it that can be seen without reading is
//! found all the same.

use std::time::Duration;

use aws_sdk_s3::types::ObjectLockMode;
use bytes::Bytes;
use casemate_recorder::clock::{Clock, SystemClock};
use casemate_tests::s3::faults::{Fault, Faults, Seen};
use casemate_tests::s3::ministack;

use crate::verify::{BUCKET, PREFIX, Recorded, Shelf, Verdict, ministack_in, nothing_more, recorded};

/// A bucket that was verified once, and whose state was kept; whoever asks goes through a relay.
struct Verified {
    recorded: Recorded,
    shelf: Shelf,
    relay: Faults,
    state: String,
    at: String,
    first: Verdict,
    _server: (tempfile::TempDir, ministack::Guard),
}

impl Verified {
    async fn new() -> Self {
        Self::locked(ObjectLockMode::Compliance).await
    }

    async fn locked(mode: ObjectLockMode) -> Self {
        let recorded = recorded(Duration::ZERO, nothing_more).await;
        let (dir, server, shelf) = ministack_in(mode, &recorded).await;
        let relay = Faults::before(server.port).unwrap();
        let shelf = Shelf { endpoint: relay.endpoint(), ..shelf };
        let state = recorded.dir.path().join("state.json").to_str().unwrap().to_owned();
        // One moment for all verdicts, and the first of them is given twice: then the checkpoint that is kept is an anchor each time.
        let at = SystemClock.now().wall_us.to_string();
        let whole = ["--state", &state, "--at", &at];
        assert_eq!(shelf.verify(&recorded, &whole).code, 0);
        let first = shelf.verify(&recorded, &whole);
        assert_eq!((first.code, &first.last["rest_on_earlier"]), (0, &0.into()), "{}", first.last);
        Self { recorded, shelf, relay, state, at, first, _server: (dir, server) }
    }

    fn again(&self) -> Verdict {
        self.shelf.verify(&self.recorded, &["--state", &self.state, "--at", &self.at, "--incremental"])
    }

    fn whole(&self) -> Verdict {
        self.shelf.verify(&self.recorded, &["--state", &self.state, "--at", &self.at])
    }

    /// The name of the one segment of the first session.
    async fn segment(&self) -> String {
        self.shelf.name(&self.recorded.sessions[0]).await
    }
}

fn asks_for_segment(seen: &Seen, method: &str) -> bool {
    seen.method == method && seen.path.ends_with(".seg")
}

#[tokio::test]
async fn what_did_not_change_is_not_read_again_and_judged_the_same() {
    let mut verified = Verified::new().await;
    let before = verified.relay.seen().len();
    let mut verdict = verified.again();
    let seen = verified.relay.seen().split_off(before);
    let segments = verified.first.sessions.len();
    let count = |method: &str| seen.iter().filter(|seen| asks_for_segment(seen, method)).count();
    assert_eq!((count("GET"), count("HEAD")), (0, segments), "{}", verdict.last);

    // The same verdict in every word, except for what says on what it rests.
    assert_eq!(verdict.last["rest_on_earlier"], segments, "{}", verdict.last);
    assert!(verdict.list("not_proven").contains("were read in earlier runs"), "{}", verdict.last);
    let strip = |verdict: &mut Verdict| {
        for name in ["incremental", "rest_on_earlier", "rest_since", "not_proven"] {
            verdict.last.as_object_mut().unwrap().remove(name);
        }
        for session in &mut verdict.sessions {
            session.as_object_mut().unwrap().remove("rests_on");
        }
    };
    let read_at: Vec<_> = verdict.sessions.iter().map(|session| session["rests_on"].clone()).collect();
    [&mut verified.first, &mut verdict].into_iter().for_each(strip);
    assert_eq!((verdict.code, &verdict.sessions, &verdict.last), (0, &verified.first.sessions, &verified.first.last));

    // When it was read is known from run to run; a run that reads everything begins anew.
    let third = verified.again();
    assert_eq!(third.sessions.iter().map(|session| session["rests_on"].clone()).collect::<Vec<_>>(), read_at);
    assert_eq!(verified.whole().last["rest_on_earlier"], 0);
}

#[tokio::test]
async fn what_hides_or_covers_a_session_that_was_read_before_is_found() {
    let verified = Verified::new().await;
    let key = verified.segment().await;
    verified.shelf.hide(&key).await;
    let verdict = verified.again();
    verdict.is(3, "exceptions", "is hidden by a delete marker");
    assert_eq!(verdict.last["rest_on_earlier"], verified.first.sessions.len() - 1);
    assert_eq!(verified.whole().last["exceptions"], verdict.last["exceptions"]);
    verified.shelf.put(&key, b"nothing to see".to_vec(), None).await;
    let verdict = verified.again();
    verdict.is(1, "altered_findings", "has other content than the evidence, which is here too");
    verdict.is(1, "exceptions", "has a shadow version");
}

#[tokio::test]
async fn a_lock_that_was_shortened_since_is_found() {
    let verified = Verified::new().await;
    let session = verified.recorded.sessions[0].clone();
    verified.relay.spoil(Fault::locked_until("2026-12-01T00:00:00Z"), move |seen| seen.path.contains(&session));
    let verdict = verified.again();
    verdict.is(3, "exceptions", "is locked until 2026-12-01");
    assert_eq!(verdict.last["rest_on_earlier"], verified.first.sessions.len());
}

#[tokio::test]
async fn a_version_that_is_gone_since_is_found() {
    // Whoever has the right to can take such locks away.
    let verified = Verified::locked(ObjectLockMode::Governance).await;
    let (key, session) = (verified.segment().await, verified.recorded.sessions[0].as_str());
    let id = verified.shelf.names().await.remove(&key).unwrap().remove(0);
    let gone = verified.shelf.client.delete_object().bucket(BUCKET).key(&key).version_id(id);
    gone.bypass_governance_retention(true).send().await.unwrap();
    let verdict = verified.again();
    let of_others = verified.first.sessions.len() - 1;
    assert_eq!((verdict.status(session).0, &verdict.last["rest_on_earlier"]), ("pending", &of_others.into()));
    assert_eq!((verdict.code, verified.whole().code), (3, 3), "its leaf is younger than an hour: {}", verdict.last);
}

#[tokio::test]
async fn other_content_in_the_same_version_is_seen_by_a_run_that_reads_it() {
    let verified = Verified::new().await;
    let key = verified.segment().await;
    let name = key.strip_prefix(&format!("{PREFIX}/")).unwrap();
    let mut other = std::fs::read(verified.recorded.dir.path().join("vault").join(name)).unwrap();
    other[400] ^= 1;
    let stale = Fault::Stale(Bytes::from(other));
    verified.relay.spoil(stale, move |seen| asks_for_segment(seen, "GET") && seen.path.ends_with(&key));
    assert_eq!(verified.again().code, 0, "which is what it says of itself");
    let verdict = verified.whole();
    assert_eq!((verdict.code, verdict.status(&verified.recorded.sessions[0]).0), (1, "altered"), "{}", verdict.last);
}

#[tokio::test]
async fn it_rests_on_the_versions_of_a_bucket_and_on_a_state_file() {
    let verified = Verified::new().await;
    let (bucket, directory) = (format!("s3://{BUCKET}/{PREFIX}"), verified.recorded.dir.path().join("vault"));
    let state = verified.state.as_str();
    for (words, says) in [
        (&["verify", directory.to_str().unwrap(), "--state", state, "--incremental"][..], "a directory has none"),
        (&["verify", &bucket, "--incremental"][..], "--state"),
        (&["verify", &bucket, "--state", state, "--incremental", "--sha256"][..], "--sha256"),
    ] {
        let (code, _, err) = verified.shelf.replay(words);
        assert!(code == 2 && err.contains(says), "{words:?}: {code} {err}");
    }
}
