//! The shipper: syncs finished segments and puts them, tiles and checkpoints into the vault.
//!
//! Tasks come in the order of the journal. Publishing is gathered: a checkpoint that a newer one replaces within moments
//! is never written, and segments follow the checkpoint that covers their SEGMENT leaf.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::error::Frozen;
use crate::fs::Fs;
use crate::journal::pool::Pool;
use crate::keeper::{Backlog, FinishedSegment};
use crate::live::LiveFile;
use crate::local_log::LocalLog;
use crate::log::leaf::Leaf;
use crate::log::note::Note;
use crate::queue::{Command, Queue};
use crate::remote::{News, Remotes};
use crate::threads::next;
use crate::transcript::block::SessionId;
use crate::vault::{Vault, VaultError, segment_key};

/// A checkpoint waits at most this long for a newer one; a closed session must be in the vault within a second.
const GATHER: Duration = Duration::from_millis(200);

/// What the keeper hands on.
#[derive(Debug)]
pub(crate) enum Task {
    /// A segment is complete; sync it and tell the journal thread.
    Finish { file: Arc<LiveFile>, finished: FinishedSegment },
    /// A leaf of the node log.
    Leaf { index: u64, entry: Vec<u8> },
    /// A checkpoint whose leaves are durable.
    Checkpoint { note: Note, wall_us: u64 },
    /// The SEGMENT leaf of this segment is durable.
    Publish { session: SessionId, segment_no: u32, path: PathBuf, also_remove: Option<PathBuf> },
    /// Sync what was written before this; then the journal file is free.
    Barrier { files: Vec<Arc<LiveFile>>, journal_file: PathBuf },
    /// Everything is handed over.
    Stop,
}

#[derive(Debug)]
struct Ready {
    session: SessionId,
    segment_no: u32,
    path: PathBuf,
    also_remove: Option<PathBuf>,
}

/// The shipper thread's state.
#[derive(Debug)]
pub(crate) struct Shipper {
    fs: Arc<dyn Fs>,
    spool: PathBuf,
    log: LocalLog,
    vault: Vault,
    queue: Arc<Queue>,
    pool: Arc<Pool>,
    copies: Arc<Backlog>,
    remotes: Remotes,
    checkpoint: Option<(Note, u64)>,
    ready: Vec<Ready>,
    since: Option<Instant>,
}

/// Why the shipper cannot go on.
#[derive(Debug, thiserror::Error)]
enum ShipError {
    #[error("spool: {0}")]
    Spool(#[from] io::Error),
    #[error("vault: {0}")]
    Vault(#[from] VaultError),
}

impl Shipper {
    /// `copies` counts the bytes of recovered segments that lie beside what they replace.
    pub(crate) fn new(
        fs: Arc<dyn Fs>,
        spool: PathBuf,
        log: LocalLog,
        vault: Vault,
        queue: Arc<Queue>,
        pool: Arc<Pool>,
        copies: Arc<Backlog>,
    ) -> Self {
        let remotes = Remotes::default();
        Self { fs, spool, log, vault, queue, pool, copies, remotes, checkpoint: None, ready: Vec::new(), since: None }
    }

    /// Tells these vaults what goes into the one here.
    pub(crate) fn telling(self, remotes: Remotes) -> Self {
        Self { remotes, ..self }
    }

    /// Works until told to stop.
    pub(crate) fn run(mut self, tasks: &Receiver<Task>) {
        let outcome = self.work(tasks);
        self.copies.limit(u64::MAX);
        if let Err(error) = outcome {
            let frozen = match &error {
                ShipError::Spool(source) | ShipError::Vault(VaultError::Io { source, .. }) => {
                    Frozen::from_io(&error.to_string(), source)
                }
                ShipError::Vault(VaultError::Conflict { .. }) => Frozen::Failed(error.to_string().into()),
            };
            let kind = match &frozen {
                Frozen::NoSpace(_) => io::ErrorKind::StorageFull,
                _ => io::ErrorKind::Other,
            };
            self.queue.push(Command::KeeperFailed(frozen));
            // The journal thread may be waiting for a file that only we could have freed.
            self.pool.fail(kind, error.to_string());
            // Keep taking, so that nobody finds a closed channel where there is only a full disk.
            while !matches!(tasks.recv(), Err(_) | Ok(Task::Stop)) {}
        }
    }

    fn work(&mut self, tasks: &Receiver<Task>) -> Result<(), ShipError> {
        loop {
            let wait = self.since.map(|since| GATHER.saturating_sub(since.elapsed()));
            match next(tasks, wait) {
                Ok(Task::Stop) | Err(RecvTimeoutError::Disconnected) => return self.publish(),
                Ok(task) => self.handle(task)?,
                Err(RecvTimeoutError::Timeout) => self.publish()?,
            }
            if self.since.is_some_and(|since| since.elapsed() >= GATHER) {
                self.publish()?;
            }
        }
    }

    fn handle(&mut self, task: Task) -> Result<(), ShipError> {
        match task {
            Task::Finish { file, finished } => {
                file.sync_data()?;
                // The SEGMENT leaf says that it is there: under its name, after any crash.
                self.fs.sync_dir(&self.spool)?;
                file.forget();
                self.queue.push(Command::SegmentDone(finished));
            }
            Task::Leaf { index, entry } => {
                self.log.append(index, &entry)?;
                if !self.remotes.is_empty()
                    && let Ok(leaf) = Leaf::decode(&entry)
                {
                    self.remotes.tell(&News::Leaf { index, leaf: Box::new(leaf) });
                }
            }
            Task::Checkpoint { note, wall_us } => {
                self.checkpoint = Some((note, wall_us));
                self.since.get_or_insert_with(Instant::now);
            }
            Task::Publish { session, segment_no, path, also_remove } => {
                self.ready.push(Ready { session, segment_no, path, also_remove });
                self.since.get_or_insert_with(Instant::now);
            }
            Task::Barrier { files, journal_file } => {
                // What the journal file says about finished segments must be done before the file may be forgotten.
                self.publish()?;
                for file in files {
                    file.sync_data()?;
                }
                // The names of those files, and that what was published is gone: a live segment that comes back after its
                // CLOSE is forgotten would look like an orphan.
                self.fs.sync_dir(&self.spool)?;
                self.log.sync()?;
                self.pool.give(journal_file);
            }
            Task::Stop => {}
        }
        Ok(())
    }

    /// Puts the newest checkpoint into the vault, then the segments that it covers.
    fn publish(&mut self) -> Result<(), ShipError> {
        self.since = None;
        if let Some((note, wall_us)) = self.checkpoint.take() {
            self.log.publish(&self.vault, &note, wall_us)?;
            self.remotes.tell(&News::Checkpoint { note: Box::new(note) });
        }
        for ready in std::mem::take(&mut self.ready) {
            let len = match ready.also_remove {
                Some(_) => self.fs.open(&ready.path)?.size()?,
                None => 0,
            };
            self.vault.take_in(&segment_key(ready.session, ready.segment_no), &ready.path)?;
            self.queue.meters().shipped();
            self.remotes.tell(&News::Published { session: ready.session, segment_no: ready.segment_no });
            if let Some(path) = ready.also_remove {
                match self.fs.remove(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                    _ => self.copies.leave(len),
                }
            }
        }
        Ok(())
    }
}
