//! One node on a disk in memory: how it is started, what a start does to what it finds, and what the verifier says.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use casemate_certs::trust::{Period, signature_file};
use casemate_recorder::clock::{Clock, SystemClock};
use casemate_recorder::journal::file::scan;
use casemate_recorder::transcript::Stamp;
use casemate_recorder::transcript::wrap::Identity;
use casemate_recorder::{Durability, Frozen, OpenError, Recorder, RecorderConfig};
use casemate_replay::vault::Vault;
use casemate_replay::verify::{self, Options};
use casemate_tests::disk::{Call, Disk};
use ed25519_dalek::SigningKey;
use serde_json::Value;

use crate::officer;

/// Nothing here takes a second; a wait that is longer hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const NODE: &str = "node-1";

/// Who reads what these nodes record.
pub(crate) static AUDITOR: LazyLock<Identity> = LazyLock::new(Identity::generate);

/// A clock on which every look takes a millisecond, so that a short test lives through a long session.
#[derive(Debug)]
pub(crate) struct Ticking {
    start: Stamp,
    passed_us: AtomicU64,
}

impl Ticking {
    pub(crate) fn advance(&self, us: u64) {
        self.passed_us.fetch_add(us, Ordering::SeqCst);
    }
}

impl Clock for Ticking {
    fn now(&self) -> Stamp {
        let passed_us = self.passed_us.fetch_add(1_000, Ordering::SeqCst);
        Stamp { wall_us: self.start.wall_us + passed_us, boot_us: self.start.boot_us + passed_us }
    }
}

/// Where a node lives.
#[derive(Debug)]
pub(crate) struct World {
    /// Holds the lock of the state directory, which is the machine's; everything else is on the disk in memory.
    dir: tempfile::TempDir,
    pub(crate) durability: Durability,
    pub(crate) clock: Arc<Ticking>,
}

impl World {
    pub(crate) fn new(durability: Durability) -> Self {
        let dir = temporary();
        std::fs::create_dir(dir.path().join("state")).unwrap();
        let clock = Ticking { start: SystemClock.now(), passed_us: AtomicU64::new(0) };
        Self { dir, durability, clock: Arc::new(clock) }
    }

    fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn vault_dir(&self) -> PathBuf {
        self.dir.path().join("vault")
    }

    pub(crate) fn journal_dir(&self) -> PathBuf {
        self.state_dir().join("journal")
    }

    /// A disk as `casemate init` leaves it: two empty directories.
    pub(crate) fn disk(&self) -> Disk {
        Disk::new(&[&self.state_dir(), &self.vault_dir()])
    }

    pub(crate) fn start(&self, disk: &Disk) -> Result<Recorder, OpenError> {
        let key = SigningKey::from_bytes(&[42; 32]);
        let config = RecorderConfig::new(self.state_dir(), self.vault_dir(), NODE.into(), key);
        Recorder::start(RecorderConfig {
            durability: self.durability,
            recipients: vec![AUDITOR.recipient()],
            segment_age: Duration::from_secs(3),
            fs: Arc::new(disk.clone()),
            clock: self.clock.clone(),
            ..config
        })
    }

    /// Starts on what a crash left, lets the orphans be closed, and stops in order.
    pub(crate) fn recover(&self, disk: &Disk) -> Result<(), String> {
        let left = scan(disk, &self.journal_dir()).map_err(|error| format!("journal: {error}"))?;
        let recorder = self.start(disk).map_err(|error| format!("no start: {error}"))?;
        // The journal of the start before is given back when every orphan is closed and in the vault, and not before
        // the local log is synced.
        let done = left.files.is_empty()
            || disk.await_operation(PATIENCE, |operation| is_log_sync(operation.call, &operation.path));
        let frozen = recorder.frozen();
        recorder.shutdown();
        match (done, frozen.or_else(|| recorder.frozen())) {
            (true, Some(Frozen::Stopped)) => Ok(()),
            (_, frozen) => Err(format!("recovery did not finish: {frozen:?}")),
        }
    }

    /// Copies the vault to the machine's filesystem, for the verifier.
    pub(crate) fn export(&self, disk: &Disk) -> Exported {
        let dir = temporary();
        let vault = dir.path().join("vault");
        disk.export(&self.vault_dir(), &vault).unwrap();
        Exported::new(dir, vault)
    }
}

/// Whether this is the sync that ends the use of a journal file.
pub(crate) fn is_log_sync(call: Call, path: &Path) -> bool {
    call == Call::Sync && path.ends_with("log/hashes")
}

/// What the verifier says.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) exit: u8,
    pub(crate) sessions: Vec<Value>,
    pub(crate) summary: Value,
}

/// A vault on the machine's filesystem, with a trust file beside it.
#[derive(Debug)]
pub(crate) struct Exported {
    dir: tempfile::TempDir,
    pub(crate) vault: PathBuf,
}

impl Exported {
    pub(crate) fn new(dir: tempfile::TempDir, vault: PathBuf) -> Self {
        /// A trust file over the node and its signature, made once: thousands of vaults are judged by it.
        static TRUST: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
            let desk = tempfile::tempdir().unwrap();
            let node = officer::node(NODE, &SigningKey::from_bytes(&[42; 32]), Period::ALWAYS);
            let file = desk.path().join("trust.toml");
            officer::write(&file, &officer::trust(desk.path(), vec![node]));
            officer::sign(&file);
            (std::fs::read(&file).unwrap(), std::fs::read(signature_file(&file)).unwrap())
        });
        let file = dir.path().join("trust.toml");
        std::fs::write(&file, &TRUST.0).unwrap();
        std::fs::write(signature_file(&file), &TRUST.1).unwrap();
        Self { dir, vault }
    }

    pub(crate) fn open(&self) -> Vault {
        Vault::open(self.vault.to_str().unwrap()).unwrap()
    }

    /// Where things can be put that are not in the vault.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The checkpoint over the largest tree, as an auditor would keep it.
    pub(crate) fn newest_checkpoint(&self) -> Option<PathBuf> {
        let size = |path: &PathBuf| -> u64 {
            path.file_name().unwrap().to_str().unwrap().split('-').next().unwrap().parse().unwrap_or(0)
        };
        let notes = files(&self.vault.join("v1/log").join(NODE).join("cp"));
        notes.into_iter().filter(|path| path.extension().is_some_and(|end| end == "note")).max_by_key(size)
    }

    pub(crate) fn verify(&self, checkpoints: Vec<PathBuf>, slips: Vec<String>) -> Result<Verdict, String> {
        let options = Options {
            checkpoints,
            slips,
            trust: Some(self.beside("trust.toml")),
            json: true,
            // Long after: the verifier need not wait for a live vault to catch up.
            now_us: SystemClock.now().wall_us + 24 * 3600 * 1_000_000,
            ..Options::default()
        };
        let mut out = Vec::new();
        let exit = verify::run(&self.open(), &options, &mut out).map_err(|error| error.to_string())?;
        let lines = String::from_utf8(out).unwrap();
        let mut sessions: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let summary = sessions.pop().unwrap();
        Ok(Verdict { exit, sessions, summary })
    }
}

/// A directory that is gone after the test; in memory where the machine has one, for thousands are made.
fn temporary() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// All files below a directory.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { out.extend(files(&path)) } else { out.push(path) }
    }
    out.sort();
    out
}
