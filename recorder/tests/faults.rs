//! A disk that fails: nothing is received any more, everybody is told, and the next start makes it whole.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)] // A test file: what fails here fails a test.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use casemate_recorder::fs::{File, Fs, OsFs};
use casemate_recorder::log::leaf::Leaf;
use casemate_recorder::transcript::block::{Block, Kind};
use casemate_recorder::transcript::chain::{TRAILER_LEN, events};
use casemate_recorder::transcript::cipher::LaneKeys;
use casemate_recorder::transcript::event::{Entry, Event, Side, gap, ssh_in, ssh_out};
use casemate_recorder::vault::segment_key;
use casemate_recorder::{
    CloseReason, Durability, Frozen, OpenError, Protocol, Recorder, RecorderConfig, Refused, SessionId, SessionSpec,
    TranscriptKind,
};
use ed25519_dalek::SigningKey;

/// What goes wrong, on files below one directory, once armed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    Write(io::ErrorKind),
    Sync(io::ErrorKind),
    /// Files cannot be made.
    Make(io::ErrorKind),
    /// So many bytes are said to be available, of so many.
    Space {
        available: u64,
        total: u64,
    },
}

#[derive(Debug)]
struct Switch {
    armed: AtomicBool,
    dir: &'static str,
    fault: Fault,
    hits: AtomicU64,
    /// Files made ahead that are synced.
    spares: AtomicU64,
}

impl Switch {
    fn new(dir: &'static str, fault: Fault) -> Arc<Self> {
        Arc::new(Self { armed: AtomicBool::new(false), dir, fault, hits: AtomicU64::new(0), spares: AtomicU64::new(0) })
    }

    fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    fn is_below(&self, path: &Path) -> bool {
        path.components().any(|part| part.as_os_str() == self.dir)
    }
}

#[derive(Debug, Clone)]
struct FaultyFs(Arc<Switch>);

#[derive(Debug)]
struct FaultyFile {
    file: Arc<dyn File>,
    switch: Arc<Switch>,
    below: bool,
    /// Whether whoever holds it makes a journal file.
    spare: bool,
}

impl FaultyFs {
    fn wrap(&self, path: &Path, file: Arc<dyn File>, spare: bool) -> Arc<dyn File> {
        Arc::new(FaultyFile { file, switch: Arc::clone(&self.0), below: self.0.is_below(path), spare })
    }
}

impl FaultyFile {
    fn check(&self, now: impl Fn(Fault) -> Option<io::ErrorKind>) -> io::Result<()> {
        if self.below
            && self.switch.armed.load(Ordering::SeqCst)
            && let Some(kind) = now(self.switch.fault)
        {
            self.switch.hits.fetch_add(1, Ordering::SeqCst);
            return Err(kind.into());
        }
        Ok(())
    }
}

impl File for FaultyFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check(|fault| if let Fault::Write(kind) = fault { Some(kind) } else { None })?;
        self.file.write_at(offset, bytes)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.check(|fault| if let Fault::Sync(kind) = fault { Some(kind) } else { None })?;
        self.file.sync_data()?;
        self.switch.spares.fetch_add(u64::from(self.spare), Ordering::SeqCst);
        Ok(())
    }
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn forget(&self) {
        self.file.forget();
    }
}

impl Fs for FaultyFs {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        if let Fault::Make(kind) = self.0.fault
            && self.0.armed.load(Ordering::SeqCst)
            && self.0.is_below(path)
        {
            return Err(kind.into());
        }
        // A handle that is opened later is that of whoever uses the file.
        let in_journal = path.parent().is_some_and(|dir| dir.ends_with("journal"));
        Ok(self.wrap(path, OsFs.create(path)?, in_journal))
    }
    fn create_paged(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        // The one and the other differ in nothing that is told to fail here.
        self.create(path)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(path, OsFs.open(path)?, false))
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        OsFs.read(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsFs.rename(from, to)
    }
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsFs.rename_new(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        OsFs.remove(path)
    }
    fn create_dir_all(&self, path: &Path, mode: u32) -> io::Result<()> {
        OsFs.create_dir_all(path, mode)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        OsFs.sync_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        OsFs.list(path)
    }
    fn protect(&self, path: &Path, immutable: bool) -> io::Result<()> {
        OsFs.protect(path, immutable)
    }

    fn unprotect(&self, path: &Path) -> io::Result<()> {
        OsFs.unprotect(path)
    }
    fn space(&self, path: &Path) -> io::Result<(u64, u64)> {
        match self.0.fault {
            Fault::Space { available, total } if self.0.armed.load(Ordering::SeqCst) && self.0.is_below(path) => {
                Ok((available, total))
            }
            _ => OsFs.space(path),
        }
    }
}

fn config(dir: &Path, fs: Arc<dyn Fs>) -> RecorderConfig {
    let key = SigningKey::from_bytes(&[5; 32]);
    let config = RecorderConfig::new(dir.join("state"), dir.join("vault"), "node-1".into(), key);
    RecorderConfig { fs, durability: Durability::Causal, ..config }
}

const SPEC: SessionSpec =
    SessionSpec { kind: TranscriptKind::Session, protocol: Some(Protocol::Ssh), policy_hash: [7; 32] };

/// Waits for the journal file that is made ahead, so that it is not what the fault hits: the second, for the first is in use.
async fn spare_is_ready(switch: &Switch) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while switch.spares.load(Ordering::SeqCst) < 2 {
        assert!(Instant::now() < deadline, "no journal file was made ahead");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_failing_disk_freezes_everything_and_the_next_start_recovers() {
    let faults = [
        ("journal", Fault::Write(io::ErrorKind::Other)),
        ("journal", Fault::Sync(io::ErrorKind::Other)),
        ("journal", Fault::Write(io::ErrorKind::StorageFull)),
        ("journal", Fault::Sync(io::ErrorKind::QuotaExceeded)),
        ("spool", Fault::Write(io::ErrorKind::Other)),
        ("spool", Fault::Sync(io::ErrorKind::Other)),
        ("spool", Fault::Write(io::ErrorKind::StorageFull)),
    ];
    for (place, fault) in faults {
        let dir = tempfile::tempdir().unwrap();
        let switch = Switch::new(place, fault);
        let recorder = Recorder::start(config(dir.path(), Arc::new(FaultyFs(Arc::clone(&switch))))).unwrap();
        let one = recorder.open_session(SPEC, Vec::new()).await.unwrap();
        let two = recorder.open_session(SPEC, Vec::new()).await.unwrap();
        let event = || Event::stream(ssh_in::TYPE, 0, Bytes::from_static(b"before"));
        let receipt = one.record(Side::Client, event()).receipt().await.unwrap();
        assert_eq!(receipt.len(), 6);

        spare_is_ready(&switch).await;
        switch.arm();
        let deadline = Duration::from_secs(2);
        // Large and incompressible: written to the live segment, named in the journal.
        let mut noise = vec![0; 100_000];
        getrandom::fill(&mut noise).unwrap();
        let failed = one.record(Side::Client, Event::stream(ssh_in::TYPE, 0, noise.into())).receipt();
        assert!(tokio::time::timeout(deadline, failed).await.unwrap().is_err(), "{fault:?}");
        // A session that was idle learns it too, and no new one begins.
        tokio::time::timeout(deadline, two.wait_frozen()).await.unwrap();
        assert!(recorder.open_session(SPEC, Vec::new()).await.is_err());
        assert!(two.record(Side::Client, event()).receipt().await.is_err());
        let closed = tokio::time::timeout(deadline, one.close(CloseReason::Recorder, None)).await.unwrap();
        assert!(matches!(closed, Err(Frozen::Failed(_) | Frozen::NoSpace(_))), "{fault:?}: {closed:?}");
        // A sync is never retried: the pages may be marked clean already.
        if let Fault::Sync(_) = fault {
            assert_eq!(switch.hits.load(Ordering::SeqCst), 1, "{fault:?}");
        }
        let ids = [one.id(), two.id()];
        tokio::task::spawn_blocking(move || recorder.shutdown()).await.unwrap();

        let recorder = Recorder::start(config(dir.path(), Arc::new(OsFs))).unwrap();
        for id in ids {
            let path = dir.path().join("vault").join(segment_key(id, 0));
            let mut tries = 0;
            while !path.exists() {
                tries += 1;
                assert!(tries < 500, "{fault:?}: session {id} was not recovered");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        tokio::task::spawn_blocking(move || recorder.shutdown()).await.unwrap();
    }
}

/// The kind of the last block of a session in the vault, and its events in order.
fn ended(vault: &Path, session: SessionId) -> Option<(Kind, Vec<Entry>)> {
    let (mut last, mut entries) = (Kind::Head, Vec::new());
    for segment_no in 0.. {
        let Ok(bytes) = std::fs::read(vault.join(segment_key(session, segment_no))) else { break };
        let mut rest = bytes.as_slice();
        while rest.len() > TRAILER_LEN {
            let block = Block::parse(rest).unwrap();
            if matches!(block.header.kind, Kind::Data | Kind::Micro) {
                entries.extend(events(&block, &LaneKeys::default()).unwrap().into_iter().map(|(_, entry)| entry));
            }
            last = block.header.kind;
            rest = &rest[block.raw.len()..];
        }
    }
    entries.sort_by_key(|entry| entry.seq);
    matches!(last, Kind::Close | Kind::Recovered).then_some((last, entries))
}

/// Sessions with a CLOSE leaf in the node log, and how many segments it lists.
fn close_leaves(log: &Path) -> Vec<(SessionId, usize)> {
    let mut found = Vec::new();
    for bundle in std::fs::read_dir(log.join("entries")).unwrap() {
        let bytes = std::fs::read(bundle.unwrap().path()).unwrap();
        let mut rest = bytes.as_slice();
        while let Some((len, after)) = rest.split_first_chunk::<2>() {
            let (entry, after) = after.split_at(usize::from(u16::from_be_bytes(*len)));
            if let Leaf::Close(close) = Leaf::decode(entry).unwrap() {
                found.push((close.session, close.segments.len()));
            }
            rest = after;
        }
    }
    found
}

async fn wait_ended(vault: &Path, session: SessionId) -> (Kind, Vec<Entry>) {
    for _ in 0..500 {
        if let Some(ended) = ended(vault, session) {
            return ended;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("session {session} did not reach the vault");
}

/// A recorder whose filesystem can be told to say no to the making of journal files, with the switch for that.
fn nearly_full(dir: &Path) -> (Recorder, Arc<Switch>) {
    let fault = Fault::Make(io::ErrorKind::StorageFull);
    let switch = Switch::new("journal", fault);
    let config = config(dir, Arc::new(FaultyFs(Arc::clone(&switch))));
    (Recorder::start(RecorderConfig { journal_bytes_max: 32 << 20, ..config }).unwrap(), switch)
}

#[tokio::test]
async fn sessions_are_closed_from_the_reserve_and_the_next_start_of_the_same_process_ends_them() {
    let dir = tempfile::tempdir().unwrap();
    let (recorder, switch) = nearly_full(dir.path());
    let mut sessions = Vec::new();
    for _ in 0..20 {
        sessions.push(recorder.open_session(SPEC, Vec::new()).await.unwrap());
    }
    switch.arm();
    let mut seen = 0;
    'full: for _ in 0..2000 {
        for session in &sessions {
            // Incompressible: its blocks are long enough to be written to the segment only.
            let mut noise = vec![0; 10_000];
            getrandom::fill(&mut noise).unwrap();
            let output = Event::stream(ssh_out::TYPE, 0, noise.into());
            if session.record(Side::Target, output).receipt().await.is_err() {
                break 'full;
            }
            seen += 1;
        }
    }
    assert!(matches!(recorder.frozen(), Some(Frozen::NoSpace(_))), "{:?}", recorder.frozen());
    assert!(seen > 100, "{seen} events had a receipt");
    // The longest queue that a client may have on its way must not eat what the reserve is for.
    for session in &sessions {
        for _ in 0..100 {
            let input = Event::stream(ssh_in::TYPE, 0, Bytes::from(vec![b'x'; 40_000]));
            drop(session.record(Side::Client, input));
        }
        let closed = tokio::time::timeout(Duration::from_secs(2), session.close(CloseReason::Recorder, None));
        assert!(matches!(closed.await.unwrap(), Err(Frozen::NoSpace(_))));
    }
    let old = recorder.clone();
    tokio::task::spawn_blocking(move || recorder.shutdown()).await.unwrap();
    assert!(old.control().record(Side::Client, Event::map(gap::TYPE, 0)).receipt().await.is_err());

    let recorder = Recorder::start(config(dir.path(), Arc::new(OsFs))).unwrap();
    let mut held = 0;
    for session in &sessions {
        let (last, entries) = wait_ended(&dir.path().join("vault"), session.id()).await;
        assert_eq!(last, Kind::Close, "the reserve was enough");
        assert!(entries.iter().map(|entry| entry.seq).eq(0..entries.len() as u64), "event numbers are dense");
        held += entries.iter().filter(|entry| entry.event.kind == ssh_out::TYPE).count();
        let gaps: Vec<_> = entries.iter().filter(|entry| entry.event.kind == gap::TYPE).collect();
        let [.., last] = gaps.as_slice() else { panic!("no gap for what was on its way") };
        assert_eq!(last.event.get(gap::BYTES), Some(&4_000_000u64.into()));
    }
    assert!(held >= seen, "{held} events recorded, {seen} seen");
    tokio::task::spawn_blocking(move || recorder.shutdown()).await.unwrap();
    let closed = close_leaves(&dir.path().join("state/log"));
    for session in &sessions {
        assert!(closed.contains(&(session.id(), 1)), "the log says how {} ended: {closed:?}", session.id());
    }
}

#[tokio::test]
async fn a_start_that_fails_for_lack_of_space_leaves_nothing_behind_that_stops_the_next() {
    for (place, fault) in [
        ("state", Fault::Space { available: 1 << 20, total: 1 << 40 }),
        ("journal", Fault::Make(io::ErrorKind::StorageFull)),
        ("journal", Fault::Write(io::ErrorKind::StorageFull)),
        ("spool", Fault::Make(io::ErrorKind::StorageFull)),
        ("log", Fault::Make(io::ErrorKind::StorageFull)),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let switch = Switch::new(place, fault);
        switch.arm();
        let small = |fs| RecorderConfig { journal_bytes_max: 32 << 20, ..config(dir.path(), fs) };
        let error = Recorder::start(small(Arc::new(FaultyFs(switch)))).unwrap_err();
        assert!(error.is_no_space(), "{place} {fault:?}: {error}");
        let said = matches!(error, OpenError::NoSpace { needed, .. } if needed == 16 << 20);
        assert_eq!(said, matches!(fault, Fault::Space { .. }), "{error}");

        let recorder = Recorder::start(small(Arc::new(OsFs))).unwrap();
        let session = recorder.open_session(SPEC, Vec::new()).await.unwrap();
        session.close(CloseReason::Client, None).await.unwrap();
        tokio::task::spawn_blocking(move || recorder.shutdown()).await.unwrap();
    }
}

#[tokio::test]
async fn no_session_begins_on_a_filesystem_that_is_nearly_full_and_those_that_live_go_on() {
    // Journal and local log lie beside the spool, and are not asked about.
    for (place, what) in [("spool", "spool"), ("vault", "vault")] {
        for (available, used) in [(6, None), (5, Some(95)), (0, Some(100))] {
            let dir = tempfile::tempdir().unwrap();
            let switch = Switch::new(place, Fault::Space { available: available << 30, total: 100 << 30 });
            let fs = Arc::new(FaultyFs(Arc::clone(&switch)));
            let small = RecorderConfig { journal_bytes_max: 32 << 20, ..config(dir.path(), fs) };
            let recorder = Recorder::start(small).unwrap();
            let session = recorder.open_session(SPEC, Vec::new()).await.unwrap();
            switch.arm();
            let said = |refused: Refused| match refused {
                Refused::Full { what, percent, limit } => (what, percent, limit),
                Refused::Frozen(frozen) => panic!("{place}, {available} % left: {frozen}"),
            };
            let expected = used.map(|used| (what, used, 95));
            assert_eq!(recorder.admits().err().map(said), expected, "{place}, {available} % left");
            let late = recorder.open_session(SPEC, Vec::new()).await;
            assert_eq!(late.err().map(said), expected, "{place}, {available} % left");
            let typed = Event::stream(ssh_in::TYPE, 0, Bytes::from_static(b"still here"));
            assert_eq!(session.record(Side::Client, typed).receipt().await.unwrap().len(), 10);
            session.close(CloseReason::Client, None).await.unwrap();
            // With room again, they come again.
            switch.armed.store(false, Ordering::SeqCst);
            recorder.admits().unwrap();
            tokio::task::spawn_blocking(move || recorder.shutdown()).await.unwrap();
        }
    }
}
