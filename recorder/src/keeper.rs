//! The keeper: turns what the journal holds into files, off the hot path.
//!
//! It appends small blocks to the live segments (`spool/*.part`), to the page cache only; the journal holds them. Large ones
//! are there already. It hashes finished segments. Whatever waits for a disk or the vault it hands on to the [shipper](crate::shipper), in order.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::error::Frozen;
use crate::fs::{File, Fs};
use crate::journal::pool::Pool;
use crate::log::note::Note;
use crate::queue::{Command, Queue};
use crate::shipper::Task;
use crate::transcript::block::{Link, SessionId};
use crate::transcript::chain::TRAILER_LEN;

/// Blocks that wait to be written are at most this many bytes; beyond, the journal thread waits, and with it the sessions.
const BACKLOG_MAX: u64 = 64 * 1024 * 1024;

/// A segment that is complete on disk.
#[derive(Debug, Clone)]
pub(crate) struct FinishedSegment {
    pub(crate) session: SessionId,
    pub(crate) segment_no: u32,
    pub(crate) bytes: u64,
    pub(crate) first_block: u64,
    pub(crate) last_block: u64,
    pub(crate) last_link: Link,
    pub(crate) sha256: [u8; 32],
    /// Where it lies.
    pub(crate) path: PathBuf,
}

/// A live segment, `spool/*.part`.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) segment_no: u32,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
}

/// What the journal thread hands over. Everything in it is in the journal already.
#[derive(Debug)]
pub(crate) enum Job {
    /// The next block of a segment. The bytes of a large one are empty here: it is in the file already.
    Block { session: SessionId, segment: Live, block_no: u64, link: Link, len: u64, bytes: Bytes },
    /// The segment has all its blocks; this is its trailer.
    EndSegment { session: SessionId, trailer: [u8; TRAILER_LEN] },
    /// A leaf of the node log.
    Leaf { index: u64, entry: Vec<u8> },
    /// A checkpoint whose leaves are durable.
    Checkpoint { note: Note, wall_us: u64 },
    /// The SEGMENT leaf of this segment is durable.
    Publish { session: SessionId, segment_no: u32, path: PathBuf, also_remove: Option<PathBuf> },
    /// Everything before this was in journal files up to this one.
    Barrier { journal_file: PathBuf },
    /// Everything is handed over.
    Stop,
}

/// How many bytes wait, and how many may before nobody is let in any more.
#[derive(Debug)]
pub(crate) struct Backlog {
    waiting: Mutex<Waiting>,
    shrunk: Condvar,
}

#[derive(Debug)]
struct Waiting {
    bytes: u64,
    bytes_max: u64,
}

impl Default for Backlog {
    fn default() -> Self {
        Self::new(BACKLOG_MAX)
    }
}

impl Backlog {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { waiting: Mutex::new(Waiting { bytes: 0, bytes_max }), shrunk: Condvar::new() }
    }

    /// Whether [`Backlog::enter`] would wait.
    pub(crate) fn is_full(&self) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.bytes > waiting.bytes_max
    }

    /// Waits until there is room, then counts `len` bytes in: the last to enter may exceed the limit.
    pub(crate) fn enter(&self, len: u64) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = self
            .shrunk
            .wait_while(waiting, |waiting| waiting.bytes > waiting.bytes_max)
            .unwrap_or_else(PoisonError::into_inner);
        waiting.bytes = waiting.bytes.saturating_add(len);
    }

    pub(crate) fn leave(&self, len: u64) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.bytes = waiting.bytes.saturating_sub(len);
        self.shrunk.notify_one();
    }

    /// Sets how many bytes may wait. `u64::MAX` lets everybody in: where nobody will leave any more.
    pub(crate) fn limit(&self, bytes_max: u64) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).bytes_max = bytes_max;
        self.shrunk.notify_all();
    }
}

/// Returns the path of a live segment.
pub(crate) fn part_path(spool: &Path, session: SessionId, segment_no: u32) -> PathBuf {
    spool.join(format!("{session}.{segment_no:06}.part"))
}

#[derive(Debug)]
struct Part {
    live: Live,
    len: u64,
    first_block: u64,
    last_block: u64,
    last_link: Link,
    /// Whether something was written since the last barrier.
    dirty: bool,
}

/// The keeper thread's state.
#[derive(Debug)]
pub(crate) struct Keeper {
    fs: Arc<dyn Fs>,
    queue: Arc<Queue>,
    backlog: Arc<Backlog>,
    shipper: Sender<Task>,
    pool: Arc<Pool>,
    parts: HashMap<SessionId, Part>,
}

impl Keeper {
    pub(crate) fn new(
        fs: Arc<dyn Fs>,
        queue: Arc<Queue>,
        backlog: Arc<Backlog>,
        shipper: Sender<Task>,
        pool: Arc<Pool>,
    ) -> Self {
        Self { fs, queue, backlog, shipper, pool, parts: HashMap::new() }
    }

    /// Works until told to stop. After a failure it only keeps the journal thread from waiting.
    pub(crate) fn run(mut self, jobs: &Receiver<Job>) {
        let mut failed = false;
        while let Ok(job) = jobs.recv() {
            let len = if let Job::Block { bytes, .. } = &job { bytes.len() } else { 0 };
            if matches!(job, Job::Stop) {
                break;
            }
            if !failed && let Err(error) = self.handle(job) {
                failed = true;
                self.queue.push(Command::KeeperFailed(Frozen::from_io("spool", &error)));
                // The journal thread may be waiting for a file that only we could have freed.
                self.pool.fail(error.kind(), format!("spool: {error}"));
            }
            if len > 0 {
                self.backlog.leave(len as u64);
            }
        }
        // The shipper may be gone already after a failure of its own.
        let _ = self.shipper.send(Task::Stop);
    }

    fn handle(&mut self, job: Job) -> io::Result<()> {
        match job {
            Job::Block { session, segment, block_no, link, len, bytes } => {
                let part = self.parts.entry(session).or_insert_with(|| Part {
                    live: segment,
                    len: 0,
                    first_block: block_no,
                    last_block: block_no,
                    last_link: link,
                    dirty: false,
                });
                if !bytes.is_empty() {
                    part.live.file.write_at(part.len, &bytes)?;
                    part.dirty = true;
                }
                part.len += len;
                part.last_block = block_no;
                part.last_link = link;
                Ok(())
            }
            Job::EndSegment { session, trailer } => self.end_segment(session, &trailer),
            Job::Leaf { index, entry } => self.ship(Task::Leaf { index, entry }),
            Job::Checkpoint { note, wall_us } => self.ship(Task::Checkpoint { note, wall_us }),
            Job::Publish { session, segment_no, path, also_remove } => {
                self.ship(Task::Publish { session, segment_no, path, also_remove })
            }
            Job::Barrier { journal_file } => {
                let parts = self.parts.values_mut();
                let dirty = parts.filter_map(|part| std::mem::take(&mut part.dirty).then_some(part));
                let files = dirty.map(|part| Arc::clone(&part.live.file)).collect();
                self.ship(Task::Barrier { files, journal_file })
            }
            Job::Stop => Ok(()),
        }
    }

    fn ship(&self, task: Task) -> io::Result<()> {
        self.shipper.send(task).map_err(|_| io::Error::other("the shipper has stopped"))
    }

    fn end_segment(&mut self, session: SessionId, trailer: &[u8; TRAILER_LEN]) -> io::Result<()> {
        let Some(part) = self.parts.remove(&session) else { return Ok(()) };
        part.live.file.write_at(part.len, trailer)?;
        // Once and at leisure: hashing while the bytes pass would take the time from the sessions.
        let sha256 = Sha256::digest(self.fs.read(&part.live.path)?);
        let finished = FinishedSegment {
            session,
            segment_no: part.live.segment_no,
            bytes: part.len + TRAILER_LEN as u64,
            first_block: part.first_block,
            last_block: part.last_block,
            last_link: part.last_link,
            sha256: sha256.into(),
            path: part.live.path,
        };
        self.ship(Task::Finish { file: part.live.file, finished })
    }
}
