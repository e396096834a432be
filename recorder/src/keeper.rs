//! The keeper: turns what the journal holds into files, off the hot path.
//!
//! It appends small blocks to the live segments (`spool/*.part`), many at a time; the journal holds them. Large ones are there
//! already. It hashes all of them. Whatever waits for a disk or the vault it hands on to the [shipper](crate::shipper), in order.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::error::Frozen;
use crate::journal::pool::Pool;
use crate::live::LiveFile;
use crate::log::note::Note;
use crate::pages::{LastPage, PAGE_LEN, Pages};
use crate::queue::{Command, Queue};
use crate::shipper::Task;
use crate::threads::next;
use crate::transcript::block::{Link, SessionId};
use crate::transcript::chain::TRAILER_LEN;

/// Blocks that wait to be hashed and written are at most this many bytes; beyond, the journal thread waits, and with it the
/// sessions.
const BACKLOG_MAX: u64 = 4 * 1024 * 1024;

/// Small blocks of a session are written when there are this many bytes of them.
const KEPT_MAX: usize = 128 * 1024;

/// Or after this long: whoever follows a live session reads them there.
const KEPT_FOR: Duration = Duration::from_secs(1);

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
    pub(crate) file: Arc<LiveFile>,
}

/// What the journal thread hands over. Everything in it is in the journal already.
#[derive(Debug)]
pub(crate) enum Job {
    /// The next block of a segment; `placed` where it is in the file already.
    Block { session: SessionId, segment: Live, block_no: u64, link: Link, bytes: Bytes, placed: bool },
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
        let was_full = waiting.bytes > waiting.bytes_max;
        waiting.bytes = waiting.bytes.saturating_sub(len);
        // A system call, also where nobody waits.
        if was_full && waiting.bytes <= waiting.bytes_max {
            self.shrunk.notify_all();
        }
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

/// A live segment as the keeper knows it.
#[derive(Debug)]
struct Part {
    live: Live,
    len: u64,
    first_block: u64,
    last_block: u64,
    last_link: Link,
    sha256: Sha256,
    /// The end of what there is, from the beginning of a page on.
    kept: Vec<u8>,
    /// Whether some of that is not in the file yet.
    unwritten: bool,
    /// Whether something was written since the last barrier.
    dirty: bool,
}

impl Part {
    fn new(live: Live, block_no: u64, link: Link) -> Self {
        Self {
            live,
            len: 0,
            first_block: block_no,
            last_block: block_no,
            last_link: link,
            sha256: Sha256::new(),
            kept: Vec::new(),
            unwritten: false,
            dirty: false,
        }
    }

    /// Takes what comes next and is in the file already, with the page on which it begins.
    fn pass(&mut self, pages: &mut Pages, bytes: &[u8]) -> io::Result<()> {
        self.write_full(pages)?;
        let mut last = LastPage::from(std::mem::take(&mut self.kept));
        last.extend(bytes);
        self.kept = last.into();
        self.unwritten = false;
        self.grow(bytes);
        Ok(())
    }

    /// Takes what comes next and is to be written.
    fn take(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
        self.unwritten = true;
        self.grow(bytes);
    }

    fn grow(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.len += bytes.len() as u64;
    }

    /// Writes the pages that are full.
    fn write_full(&mut self, pages: &mut Pages) -> io::Result<()> {
        let full = self.kept.len() / PAGE_LEN * PAGE_LEN;
        if let Some(bytes) = self.kept.get(..full).filter(|bytes| !bytes.is_empty()) {
            self.live.file.keep(pages, self.len - self.kept.len() as u64, bytes)?;
            self.kept.drain(..full);
            self.dirty = true;
        }
        // Most sessions are idle most of the time.
        self.kept.shrink_to_fit();
        Ok(())
    }

    /// Writes all there is.
    fn write_all(&mut self, pages: &mut Pages) -> io::Result<()> {
        self.write_full(pages)?;
        if std::mem::take(&mut self.unwritten) && !self.kept.is_empty() {
            self.live.file.keep_last(pages, self.len - self.kept.len() as u64, &self.kept)?;
            self.dirty = true;
        }
        Ok(())
    }
}

/// The keeper thread's state.
#[derive(Debug)]
pub(crate) struct Keeper {
    queue: Arc<Queue>,
    backlog: Arc<Backlog>,
    shipper: Sender<Task>,
    pool: Arc<Pool>,
    parts: HashMap<SessionId, Part>,
    pages: Pages,
    /// Since when something is to be written.
    since: Option<Instant>,
}

impl Keeper {
    pub(crate) fn new(queue: Arc<Queue>, backlog: Arc<Backlog>, shipper: Sender<Task>, pool: Arc<Pool>) -> Self {
        Self { queue, backlog, shipper, pool, parts: HashMap::new(), pages: Pages::new(), since: None }
    }

    /// Works until told to stop. After a failure it only keeps the journal thread from waiting.
    pub(crate) fn run(mut self, jobs: &Receiver<Job>) {
        let mut failed = false;
        loop {
            let wait = self.since.map(|since| KEPT_FOR.saturating_sub(since.elapsed()));
            let job = match next(jobs, wait) {
                Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
            };
            let len = if let Some(Job::Block { bytes, .. }) = &job { bytes.len() } else { 0 };
            if !failed && let Err(error) = self.turn(job) {
                failed = true;
                self.since = None;
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

    fn turn(&mut self, job: Option<Job>) -> io::Result<()> {
        if let Some(job) = job {
            self.handle(job)?;
        }
        if self.since.is_some_and(|since| since.elapsed() >= KEPT_FOR) {
            self.write_all()?;
        }
        Ok(())
    }

    fn handle(&mut self, job: Job) -> io::Result<()> {
        match job {
            Job::Block { session, segment, block_no, link, bytes, placed } => {
                let part = self.parts.entry(session).or_insert_with(|| Part::new(segment, block_no, link));
                (part.last_block, part.last_link) = (block_no, link);
                if placed {
                    return part.pass(&mut self.pages, &bytes);
                }
                part.take(&bytes);
                self.since.get_or_insert_with(Instant::now);
                if part.kept.len() >= KEPT_MAX { part.write_full(&mut self.pages) } else { Ok(()) }
            }
            Job::EndSegment { session, trailer } => self.end_segment(session, &trailer),
            Job::Leaf { index, entry } => self.ship(Task::Leaf { index, entry }),
            Job::Checkpoint { note, wall_us } => self.ship(Task::Checkpoint { note, wall_us }),
            Job::Publish { session, segment_no, path, also_remove } => {
                self.ship(Task::Publish { session, segment_no, path, also_remove })
            }
            Job::Barrier { journal_file } => {
                self.write_all()?;
                let parts = self.parts.values_mut();
                let dirty = parts.filter_map(|part| std::mem::take(&mut part.dirty).then_some(part));
                let files = dirty.map(|part| Arc::clone(&part.live.file)).collect();
                self.ship(Task::Barrier { files, journal_file })
            }
            Job::Stop => Ok(()),
        }
    }

    fn write_all(&mut self) -> io::Result<()> {
        self.since = None;
        self.parts.values_mut().try_for_each(|part| part.write_all(&mut self.pages))
    }

    fn ship(&self, task: Task) -> io::Result<()> {
        self.shipper.send(task).map_err(|_| io::Error::other("the shipper has stopped"))
    }

    fn end_segment(&mut self, session: SessionId, trailer: &[u8; TRAILER_LEN]) -> io::Result<()> {
        let Some(mut part) = self.parts.remove(&session) else { return Ok(()) };
        part.take(trailer);
        part.write_all(&mut self.pages)?;
        part.live.file.end_at(part.len)?;
        let finished = FinishedSegment {
            session,
            segment_no: part.live.segment_no,
            bytes: part.len,
            first_block: part.first_block,
            last_block: part.last_block,
            last_link: part.last_link,
            sha256: part.sha256.finalize().into(),
            path: part.live.file.path().to_owned(),
        };
        self.ship(Task::Finish { file: part.live.file, finished })
    }
}
