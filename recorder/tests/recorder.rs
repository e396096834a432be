//! The recorder as a whole, on a real disk: what it promises holds after any way of stopping.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)] // A test file: what fails here fails a test.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use casemate_recorder::transcript::block::{Block, HEADER_LEN, Kind};
use casemate_recorder::transcript::chain::{Chain, TRAILER_LEN, events};
use casemate_recorder::transcript::cipher::LaneKeys;
use casemate_recorder::transcript::event::{Body, Event, Side, Value, file_elided, ssh_in, ssh_out};
use casemate_recorder::transcript::head::Head;
use casemate_recorder::transcript::seal;
use casemate_recorder::transcript::wrap::{Identity, UnwrapError, unwrap};
use casemate_recorder::vault::segment_key;
use casemate_recorder::{
    CloseReason, Durability, Elision, Of, OpenError, Part, Protocol, Recorder, RecorderConfig, Session, SessionId,
    SessionSpec, TranscriptKind,
};
use ed25519_dalek::{SigningKey, VerifyingKey};

const SPEC: SessionSpec =
    SessionSpec { kind: TranscriptKind::Session, protocol: Some(Protocol::Ssh), policy_hash: [7; 32] };

fn config(dir: &Path, durability: Durability) -> RecorderConfig {
    let key = SigningKey::from_bytes(&[5; 32]);
    let config = RecorderConfig::new(dir.join("state"), dir.join("vault"), "node-1".into(), key);
    RecorderConfig { durability, recipients: vec![AUDITOR.recipient()], ..config }
}

/// Who reads what these tests record.
static AUDITOR: LazyLock<Identity> = LazyLock::new(Identity::generate);

fn input(data: &'static [u8]) -> Event {
    Event::stream(ssh_in::TYPE, 0, Bytes::from_static(data))
}

/// Records an event that nobody forwards.
async fn recorded(session: &Session, side: Side, event: Event) -> usize {
    session.record(side, event).receipt().await.unwrap().into_bytes().len()
}

/// Everything that the segments of an ended session say: stream bytes per side, and how the transcript ends.
struct Read {
    input: Vec<u8>,
    output: Vec<u8>,
    end: Kind,
    segments: usize,
    /// The last word on what was left out: how much, and its digest.
    elided: Option<(u64, Vec<u8>)>,
    /// The stream bytes that CLOSE states.
    totals: Option<[u64; 2]>,
}

fn read(vault: &Path, session: SessionId) -> Option<Read> {
    let mut out =
        Read { input: Vec::new(), output: Vec::new(), end: Kind::Head, segments: 0, elided: None, totals: None };
    let mut chain = Chain::new(session);
    let mut entries = Vec::new();
    let mut key = None;
    let mut keys = LaneKeys::default();
    for segment_no in 0.. {
        let Ok(bytes) = std::fs::read(vault.join(segment_key(session, segment_no))) else { break };
        out.segments += 1;
        if segment_no > 0 {
            chain.next_segment();
        }
        let mut rest = bytes.as_slice();
        while rest.len() > TRAILER_LEN {
            let block = Block::parse(rest).unwrap();
            chain.accept(&block.header, block.link).unwrap();
            match block.header.kind {
                Kind::Head => {
                    let head = Head::decode(block.payload).unwrap();
                    key = Some(VerifyingKey::from_bytes(&head.session_pub).unwrap());
                    keys = unwrap(&head, std::slice::from_ref(&*AUDITOR)).unwrap();
                }
                Kind::Data | Kind::Micro => entries.extend(events(&block, &keys).unwrap()),
                Kind::Seal | Kind::Close => {
                    let key = key.as_ref().unwrap();
                    let statement = seal::verify(key, &block.raw[..HEADER_LEN], block.payload).unwrap();
                    if block.header.kind == Kind::Close {
                        out.totals = Some(seal::decode_statement::<seal::Close>(statement).unwrap().bytes);
                    }
                }
                _ => {}
            }
            out.end = block.header.kind;
            rest = &rest[block.raw.len()..];
        }
    }
    if !matches!(out.end, Kind::Close | Kind::Recovered) {
        return None;
    }
    entries.sort_by_key(|(_, entry)| entry.seq);
    assert!(entries.iter().map(|(_, entry)| entry.seq).eq(0..entries.len() as u64), "event numbers are dense");
    for (_, entry) in entries {
        if let (Some(Value::Uint(total)), Some(Value::Bytes(digest))) =
            (entry.event.get(file_elided::TOTAL), entry.event.get(file_elided::BLAKE3))
        {
            out.elided = Some((*total, digest.to_vec()));
        }
        match entry.event.body {
            Body::Stream(data) if entry.event.kind == ssh_in::TYPE => out.input.extend_from_slice(&data),
            Body::Stream(data) => out.output.extend_from_slice(&data),
            Body::Map(_) => {}
        }
    }
    Some(out)
}

async fn wait_for(vault: PathBuf, session: SessionId) -> Read {
    for _ in 0..500 {
        if let Some(read) = read(&vault, session) {
            return read;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("session {session} did not reach the vault");
}

async fn stop(recorder: Recorder) {
    tokio::task::spawn_blocking(move || recorder.shutdown()).await.unwrap();
}

#[tokio::test]
async fn what_was_recorded_is_in_the_vault_after_close() {
    let encrypted = [Durability::Strict, Durability::Causal, Durability::Process].map(|durability| (durability, true));
    for (durability, encrypted) in encrypted.into_iter().chain([(Durability::Causal, false)]) {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path(), durability);
        if !encrypted {
            config.recipients.clear();
        }
        let recorder = Recorder::start(config).unwrap();
        let session = recorder.open_session(SPEC, Vec::new()).await.unwrap();
        let receipt = session.record(Side::Client, input(b"ls\r")).receipt().await.unwrap();
        assert_eq!(receipt.into_bytes(), &b"ls\r"[..]);
        let mut sent = 0u64;
        for chunk in 0..400u32 {
            // Half noise, half text: both ways through the compressor, and more than one segment.
            let mut data = vec![b'x'; 64_000];
            if chunk % 2 == 0 {
                getrandom::fill(&mut data).unwrap();
            }
            sent += data.len() as u64;
            recorded(&session, Side::Target, Event::stream(ssh_out::TYPE, 0, data.into())).await;
        }
        let slip = session.close(CloseReason::Client, Some(0)).await.unwrap();
        assert_eq!(slip.session(), session.id());
        let read = wait_for(dir.path().join("vault"), session.id()).await;
        assert_eq!(read.input, b"ls\r");
        assert_eq!(read.output.len() as u64, sent);
        assert_eq!(read.end, Kind::Close);
        assert!(read.segments > 1, "{} segments", read.segments);
        stop(recorder).await;
    }
}

#[tokio::test]
async fn content_that_is_left_out_goes_on_against_its_digest_alone() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(config(dir.path(), Durability::Causal)).unwrap();
    let session = recorder.open_session(SPEC, Vec::new()).await.unwrap();
    let mut elision = Elision::new(3, Side::Client, Of::Files);
    let (mut all, mut kept) = (Vec::new(), Vec::new());
    for number in 0..200u32 {
        let wire = Bytes::from(format!("head {number} CONTENT {number} tail"));
        let start = wire.iter().position(|byte| *byte == b'C').unwrap();
        let place = start..wire.len() - 5;
        kept.extend_from_slice(&[&wire[..place.start], &wire[place.end..]].concat());
        all.extend_from_slice(&wire[place.clone()]);
        let ticket =
            session.record_eliding(&mut elision, ssh_in::TYPE, wire.clone(), &[Part::elide(place.clone())], []);
        assert_eq!(ticket.len(), wire.len());
        assert_eq!(ticket.receipt().await.unwrap().into_bytes(), wire, "the receipt holds all of it");
    }
    session.close(CloseReason::Client, None).await.unwrap();
    let read = wait_for(dir.path().join("vault"), session.id()).await;
    assert_eq!(read.input, kept, "the record holds the rest");
    let digest = blake3::hash(&all);
    assert_eq!(read.elided, Some((all.len() as u64, digest.as_bytes().to_vec())));
    assert_eq!(read.totals, Some([(kept.len() + all.len()) as u64, 0]), "CLOSE counts what went on");
    stop(recorder).await;
}

#[tokio::test]
async fn nothing_is_received_for_a_closed_session() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(config(dir.path(), Durability::Causal)).unwrap();
    let session = recorder.open_session(SPEC, Vec::new()).await.unwrap();
    session.close(CloseReason::Client, None).await.unwrap();
    assert!(session.record(Side::Client, input(b"late")).receipt().await.is_err());
    stop(recorder).await;
    let recorder = Recorder::start(config(dir.path(), Durability::Causal)).unwrap();
    stop(recorder).await;
}

/// A copy of everything on disk at this moment is what a `kill -9` would leave: the page cache survives.
fn snapshot(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn a_killed_session_is_recovered_to_the_last_receipt() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(config(dir.path(), Durability::Causal)).unwrap();
    let mut sessions: Vec<(Session, usize)> = Vec::new();
    for number in 0..5usize {
        let session = recorder.open_session(SPEC, Vec::new()).await.unwrap();
        // From nothing at all to several blocks and a lane that has only runs.
        for _ in 0..number * 40 {
            recorded(&session, Side::Client, input(b"type")).await;
            let data = Bytes::from(vec![b'o'; 3000 * number]);
            recorded(&session, Side::Target, Event::stream(ssh_out::TYPE, 0, data)).await;
        }
        sessions.push((session, number));
    }
    let killed = tempfile::tempdir().unwrap();
    snapshot(dir.path(), killed.path());

    // A start that is stopped before it is done leaves the rest to the next one.
    stop(Recorder::start(config(killed.path(), Durability::Causal)).unwrap()).await;
    let recorder_again = Recorder::start(config(killed.path(), Durability::Causal)).unwrap();
    for (session, number) in &sessions {
        let read = wait_for(killed.path().join("vault"), session.id()).await;
        assert_eq!(read.end, Kind::Recovered);
        assert_eq!(read.input, b"type".repeat(number * 40));
        assert_eq!(read.output, b"o".repeat(3000 * number * number * 40));
    }
    // The live sessions of a start are its own: recovery must never touch them.
    stop(recorder_again).await;
    let live = recorder.control().id();
    assert_eq!(read(&killed.path().join("vault"), live).unwrap().end, Kind::Recovered);
    assert!(
        std::fs::read_dir(killed.path().join("state/spool")).unwrap().next().is_none(),
        "the spool is empty afterwards"
    );
    stop(recorder).await;
    assert_eq!(read(&dir.path().join("vault"), live).unwrap().end, Kind::Close);
}

#[tokio::test]
async fn what_a_recovery_replaced_goes_where_the_one_that_replaced_it_was_killed_before_it_could() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(config(dir.path(), Durability::Causal)).unwrap();
    let session = recorder.open_session(SPEC, Vec::new()).await.unwrap();
    let data =
        Bytes::from((0..30_000u32).flat_map(|at| at.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect::<Vec<_>>());
    recorded(&session, Side::Target, Event::stream(ssh_out::TYPE, 0, data.clone())).await;
    recorded(&session, Side::Client, input(b"not in a block yet")).await;
    let killed = tempfile::tempdir().unwrap();
    snapshot(dir.path(), killed.path());
    let part = killed.path().join(format!("state/spool/{}.000000.part", session.id()));
    let replaced = std::fs::read(&part).unwrap();
    stop(recorder).await;

    let recorder = Recorder::start(config(killed.path(), Durability::Causal)).unwrap();
    assert_eq!(wait_for(killed.path().join("vault"), session.id()).await.end, Kind::Recovered);
    stop(recorder).await;
    // The recovered segment is in the vault; what it replaced is as if it had not been removed yet.
    std::fs::write(&part, replaced).unwrap();
    for start in 2..5 {
        stop(Recorder::start(config(killed.path(), Durability::Causal)).unwrap()).await;
        assert!(!part.exists(), "it is still there after start {start}");
        // What the journal says of the session's end is forgotten as it turns over.
        std::fs::remove_dir_all(killed.path().join("state/journal")).unwrap();
    }
    assert_eq!(wait_for(killed.path().join("vault"), session.id()).await.output, data);
}

#[tokio::test]
async fn a_node_that_was_rolled_back_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    stop(Recorder::start(config(dir.path(), Durability::Causal)).unwrap()).await;
    let old = tempfile::tempdir().unwrap();
    snapshot(&dir.path().join("state"), old.path());
    stop(Recorder::start(config(dir.path(), Durability::Causal)).unwrap()).await;

    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    std::fs::create_dir(dir.path().join("state")).unwrap();
    snapshot(old.path(), &dir.path().join("state"));
    let error = Recorder::start(config(dir.path(), Durability::Causal)).unwrap_err();
    assert!(matches!(error, OpenError::RolledBack { .. }), "{error}");

    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    let error = Recorder::start(config(dir.path(), Durability::Causal)).unwrap_err();
    assert!(matches!(error, OpenError::RolledBack { local: 0, .. }), "{error}");
}

#[tokio::test]
async fn two_daemons_do_not_share_a_state_directory() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(config(dir.path(), Durability::Causal)).unwrap();
    assert!(matches!(Recorder::start(config(dir.path(), Durability::Causal)), Err(OpenError::InUse(_))));
    stop(recorder).await;
}

#[tokio::test]
async fn the_journal_turns_over_under_load() {
    let dir = tempfile::tempdir().unwrap();
    let config = RecorderConfig { journal_bytes_max: 192 * 1024 * 1024, ..config(dir.path(), Durability::Process) };
    let recorder = Recorder::start(config).unwrap();
    let session = recorder.open_session(SPEC, Vec::new()).await.unwrap();
    let idle = recorder.open_session(SPEC, Vec::new()).await.unwrap();
    recorded(&idle, Side::Client, input(b"waiting")).await;
    let mut noise = vec![0; 200_000];
    getrandom::fill(&mut noise).unwrap();
    let noise = Bytes::from(noise);
    for _ in 0..2000 {
        recorded(&session, Side::Target, Event::stream(ssh_out::TYPE, 0, noise.clone())).await;
    }
    session.close(CloseReason::Target, Some(0)).await.unwrap();
    idle.close(CloseReason::Client, None).await.unwrap();
    assert_eq!(wait_for(dir.path().join("vault"), idle.id()).await.input, b"waiting");
    let read = wait_for(dir.path().join("vault"), session.id()).await;
    assert_eq!(read.output.len(), 2000 * noise.len());
    let journal = std::fs::read_dir(dir.path().join("state/journal")).unwrap().count();
    assert!(journal <= 5, "{journal} journal files");
    stop(recorder).await;
}

/// The first HEAD of a session in the vault.
fn head(vault: &Path, session: SessionId) -> Head {
    let bytes = std::fs::read(vault.join(segment_key(session, 0))).unwrap();
    Head::decode(Block::parse(&bytes).unwrap().payload).unwrap()
}

#[tokio::test]
async fn the_node_can_read_its_control_transcript_and_no_session() {
    let dir = tempfile::tempdir().unwrap();
    let node = Identity::generate();
    let config = RecorderConfig { state_recipient: Some(node.recipient()), ..config(dir.path(), Durability::Causal) };
    let recorder = Recorder::start(config).unwrap();
    let session = recorder.open_session(SPEC, Vec::new()).await.unwrap();
    session.close(CloseReason::Client, None).await.unwrap();
    let (session, control) = (session.id(), recorder.control().id());
    stop(recorder).await;
    let vault = dir.path().join("vault");
    for identity in [&node, &*AUDITOR] {
        unwrap(&head(&vault, control), std::slice::from_ref(identity)).unwrap();
    }
    let refused = unwrap(&head(&vault, session), &[node]).unwrap_err();
    assert!(matches!(refused, UnwrapError::Stranger { .. }), "{refused}");
}

#[tokio::test]
async fn figures_tell_what_is_recorded_what_is_unsealed_and_go_on_in_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(config(dir.path(), Durability::Causal)).unwrap();
    let session = recorder.open_session(SPEC, Vec::new()).await.unwrap();
    // Every byte differs from its neighbours in a way that no compressor finds.
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut bytes = 0;
    for _ in 0..16 {
        let mut data = vec![0; 64 * 1024];
        noise.fill(&mut data);
        bytes += data.len() as u64;
        recorded(&session, Side::Target, Event::stream(ssh_out::TYPE, 0, data.into())).await;
    }
    recorded(&session, Side::Client, input(b"ls\r")).await;
    let during = recorder.figures();
    assert_eq!((during.client_bytes, during.target_bytes), (3, bytes));
    assert!(during.unsealed_bytes >= bytes && during.unsealed_bytes < bytes * 2, "{during:?}");
    // The last one is counted when everybody was told, which is when this reads on.
    assert!(during.commits.counts.iter().sum::<u64>() + during.commits.longer >= 16, "{during:?}");
    assert!(during.journal_bytes > 0 && during.journal_bytes <= during.journal_limit_bytes, "{during:?}");
    assert!(during.frozen.is_none() && !during.stalled);
    let survey = recorder.survey();
    // The vault's directory is made with the first checkpoint.
    assert!(survey.spool_bytes >= bytes && survey.disks.iter().any(|disk| disk.what == "spool"), "{survey:?}");

    session.close(CloseReason::Client, None).await.unwrap();
    let after = recorder.figures();
    // The control transcript goes on.
    assert!(after.unsealed_bytes < 64 * 1024, "{after:?}");
    assert!(after.log_size > during.log_size && after.checkpoint_us >= during.checkpoint_us, "{after:?}");
    let totals = recorder.totals();
    stop(recorder.clone()).await;
    assert_eq!(recorder.figures().unshipped_segments, 0);

    let recorder = Recorder::start(RecorderConfig { totals, ..config(dir.path(), Durability::Causal) }).unwrap();
    let next = recorder.figures();
    assert_eq!((next.client_bytes, next.target_bytes), (3, bytes));
    assert!(next.unsealed_bytes < 64 * 1024, "{next:?}");
    stop(recorder).await;
}
