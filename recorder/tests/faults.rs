//! A disk that fails: nothing is received any more, everybody is told, and the next start makes it whole.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)] // A test file: what fails here fails a test.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use casemate_recorder::fs::{File, Fs, OsFs};
use casemate_recorder::transcript::event::{Event, Side, ssh_in};
use casemate_recorder::{
    CloseReason, Durability, Frozen, Protocol, Recorder, RecorderConfig, SessionSpec, TranscriptKind,
};
use ed25519_dalek::SigningKey;

/// What goes wrong, on files below one directory, once armed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    Write(io::ErrorKind),
    Sync(io::ErrorKind),
}

#[derive(Debug)]
struct Switch {
    armed: AtomicBool,
    dir: &'static str,
    fault: Fault,
    hits: AtomicU64,
}

#[derive(Debug, Clone)]
struct FaultyFs(Arc<Switch>);

#[derive(Debug)]
struct FaultyFile(Arc<dyn File>, Arc<Switch>, bool);

impl FaultyFs {
    fn wrap(&self, path: &Path, file: Arc<dyn File>) -> Arc<dyn File> {
        let below = path.components().any(|part| part.as_os_str() == self.0.dir);
        Arc::new(FaultyFile(file, Arc::clone(&self.0), below))
    }
}

impl FaultyFile {
    fn check(&self, now: impl Fn(Fault) -> Option<io::ErrorKind>) -> io::Result<()> {
        if self.2
            && self.1.armed.load(Ordering::SeqCst)
            && let Some(kind) = now(self.1.fault)
        {
            self.1.hits.fetch_add(1, Ordering::SeqCst);
            return Err(kind.into());
        }
        Ok(())
    }
}

impl File for FaultyFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check(|fault| if let Fault::Write(kind) = fault { Some(kind) } else { None })?;
        self.0.write_at(offset, bytes)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.check(|fault| if let Fault::Sync(kind) = fault { Some(kind) } else { None })?;
        self.0.sync_data()
    }
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn forget(&self) {
        self.0.forget();
    }
}

impl Fs for FaultyFs {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(path, OsFs.create(path)?))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(path, OsFs.open(path)?))
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
    fn space(&self, path: &Path) -> io::Result<(u64, u64)> {
        OsFs.space(path)
    }
}

fn config(dir: &Path, fs: Arc<dyn Fs>) -> RecorderConfig {
    let key = SigningKey::from_bytes(&[5; 32]);
    let config = RecorderConfig::new(dir.join("state"), dir.join("vault"), "node-1".into(), key);
    RecorderConfig { fs, durability: Durability::Causal, ..config }
}

const SPEC: SessionSpec =
    SessionSpec { kind: TranscriptKind::Session, protocol: Some(Protocol::Ssh), policy_hash: [7; 32] };

/// Waits for the journal file that is made ahead, so that it is not what the fault hits.
async fn spare_is_ready(journal: &Path) {
    let ready = || {
        let mut entries = std::fs::read_dir(journal).unwrap().map(Result::unwrap);
        entries.any(|entry| {
            entry.path().extension().is_some_and(|ext| ext == "new") && entry.metadata().unwrap().len() == 64 << 20
        })
    };
    while !ready() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The last of its bytes is written; its sync is not seen from outside.
    tokio::time::sleep(Duration::from_millis(300)).await;
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
        let switch = Arc::new(Switch { armed: AtomicBool::new(false), dir: place, fault, hits: AtomicU64::new(0) });
        let recorder = Recorder::start(config(dir.path(), Arc::new(FaultyFs(Arc::clone(&switch))))).unwrap();
        let one = recorder.open_session(SPEC, Vec::new()).await.unwrap();
        let two = recorder.open_session(SPEC, Vec::new()).await.unwrap();
        let event = || Event::stream(ssh_in::TYPE, 0, Bytes::from_static(b"before"));
        let receipt = one.record(Side::Client, event()).receipt().await.unwrap();
        assert_eq!(receipt.len(), 6);

        spare_is_ready(&dir.path().join("state/journal")).await;
        switch.armed.store(true, Ordering::SeqCst);
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
            let path = dir.path().join("vault").join(casemate_recorder::vault::segment_key(id, 0));
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
