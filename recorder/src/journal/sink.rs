//! Where a turn of the journal thread puts finished blocks, and what it owes once it is written and once it is durable.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::file::JournalWriter;
use super::leaves::NodeLog;
use super::record::{Place, RecordHead};
use super::thread::random;
use crate::catalogue::Entry;
use crate::error::Frozen;
use crate::figures::Taken;
use crate::fs::{File, Fs, SharedFile};
use crate::keeper::{self, Job, part_path};
use crate::log::leaf::Leaf;
use crate::queue::{Queue, SlipReply};
use crate::session::{Session, Shared};
use crate::transcript::block::{Compressor, SessionId};
use crate::transcript::blocks::Built;
use crate::transcript::event::Lane;
use crate::transcript::writer::{SegmentEnd, Writer};

/// A block at least this long is written once, to its segment; below, a sync of one more file costs more than it saves.
const PLACED_LEN_MIN: usize = 24 * 1024;
/// The live segment of a session.
#[derive(Debug, Default)]
pub(super) struct Part {
    live: Option<keeper::Live>,
    len: u64,
    /// Whether its name in the spool is durable, or will be with the blocks that are placed in it.
    named: bool,
}

/// A live segment with blocks that were written to it directly and are not synced.
#[derive(Debug)]
pub(super) struct Placed {
    file: Arc<dyn File>,
    /// Whether its name is not durable either.
    unnamed: bool,
}

/// What one turn must do once its records are written, and once they are durable.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// For the keeper, once written.
    pub(super) jobs: Vec<Job>,
    /// Sessions whose events are in this turn, with the last number.
    pub(super) moved: Vec<(Arc<Shared>, u64)>,
    /// Bytes of streams in this turn.
    pub(super) taken: Taken,
    /// Whether a checkpoint is due, and who waits for it.
    pub(super) checkpoint: bool,
    pub(super) slips: Vec<(SessionId, SlipReply)>,
    pub(super) denied: Vec<(SlipReply, Frozen)>,
    pub(super) opened: Vec<(oneshot::Sender<Session>, Session)>,
    /// Who waits for what they had logged.
    pub(super) told: Vec<oneshot::Sender<()>>,
    /// For the keeper, once durable.
    pub(super) publish: Vec<Job>,
    /// For the catalogue, once durable.
    pub(super) rows: Vec<Entry>,
    /// Whether this turn must be durable whatever the durability says.
    pub(super) must_sync: bool,
    /// What went wrong while the turn was made.
    pub(super) failed: Option<io::Error>,
}

/// Where finished blocks, runs and leaves go.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) journal: JournalWriter,
    pub(super) log: NodeLog,
    pub(super) queue: Arc<Queue>,
    pub(super) fs: Arc<dyn Fs>,
    pub(super) spool: PathBuf,
    pub(super) turn: Turn,
    /// Live segments that large blocks were written to and not synced yet.
    pub(super) placed: HashMap<(SessionId, u32), Placed>,
}

impl Sink {
    /// Puts events into the journal that are in no block yet.
    pub(super) fn run(&mut self, lane: Lane, writer: &mut Writer) {
        if let Some(run) = writer.take_run(lane) {
            self.journal.append(&RecordHead::run(run.head), &run.payload);
        }
    }

    /// Puts all buffered events of a lane into a block.
    pub(super) fn cut(
        &mut self,
        session: SessionId,
        part: &mut Part,
        writer: &mut Writer,
        lane: Lane,
        compressor: &mut Compressor,
    ) {
        if writer.buffered_len(lane) == 0 {
            return;
        }
        let salt = if writer.encrypts(lane) { self.fresh() } else { [0; 16] };
        self.block(session, part, writer.cut(lane, compressor, salt));
    }

    /// Returns fresh random bytes. Without them the turn fails, and nothing of it is written.
    fn fresh(&mut self) -> [u8; 16] {
        random().unwrap_or_else(|error| {
            self.turn.failed.get_or_insert(error);
            [0; 16]
        })
    }

    /// Adds a leaf to the node log.
    pub(super) fn leaf(&mut self, leaf: &Leaf) {
        match self.log.append(leaf) {
            Ok((index, entry)) => {
                self.journal.append(&RecordHead::leaf(index), &entry);
                self.turn.jobs.push(Job::Leaf { index, entry });
            }
            Err(error) => {
                self.turn.failed.get_or_insert(error);
            }
        }
    }

    /// Syncs the live segments that large blocks were written to; the journal names them, so they come first.
    pub(super) fn sync_placed(&mut self) -> io::Result<()> {
        let mut unnamed = false;
        for (_, placed) in self.placed.drain() {
            placed.file.sync_data()?;
            unnamed |= placed.unnamed;
        }
        // Without its name nobody finds the file after a power cut, however well its content is kept.
        if unnamed { self.fs.sync_dir(&self.spool) } else { Ok(()) }
    }

    /// Puts a block where a crash cannot take it from: a small one into the journal, a large one into its live segment,
    /// where it has to go anyway, with its place in the journal.
    pub(super) fn block(&mut self, session: SessionId, part: &mut Part, built: Option<Built>) {
        let Some(built) = built.filter(|_| self.turn.failed.is_none()) else { return };
        if let Err(error) = self.put(session, part, built) {
            self.turn.failed.get_or_insert(error);
        }
    }

    fn put(&mut self, session: SessionId, part: &mut Part, built: Built) -> io::Result<()> {
        self.queue.meters().block(built.bytes.len() as u64);
        if part.live.is_none() {
            part.live = self.begin_part(session, built.segment_no)?;
        }
        let Some(live) = part.live.clone() else {
            // The next start makes the segment, from the journal alone.
            self.journal.append(&RecordHead::block(session, built.block_no), &built.bytes);
            return Ok(());
        };
        let place =
            Place { segment_no: built.segment_no, len: built.bytes.len() as u32, offset: part.len, link: built.link };
        let placed = built.bytes.len() >= PLACED_LEN_MIN && self.place(&live, &place, &built.bytes)?;
        if placed {
            self.journal.append(&RecordHead::placed(session, built.block_no), &place.encode());
            let unnamed = !std::mem::replace(&mut part.named, true);
            let placed = Placed { file: Arc::clone(&live.file), unnamed };
            // The first entry knows whether the name was synced before.
            self.placed.entry((session, built.segment_no)).or_insert(placed);
        } else {
            self.journal.append(&RecordHead::block(session, built.block_no), &built.bytes);
        }
        let len = built.bytes.len() as u64;
        part.len += len;
        let bytes = if placed { Bytes::new() } else { built.bytes };
        self.turn.jobs.push(Job::Block {
            session,
            segment: live,
            block_no: built.block_no,
            link: built.link,
            len,
            bytes,
        });
        Ok(())
    }

    /// Makes the file of a live segment; `None` where there is no space for it.
    fn begin_part(&self, session: SessionId, segment_no: u32) -> io::Result<Option<keeper::Live>> {
        let path = part_path(&self.spool, session, segment_no);
        let made = self.unless_full(|| self.fs.create(&path))?;
        Ok(made.map(|file| keeper::Live { segment_no, path, file: Arc::new(SharedFile::new(file)) }))
    }

    /// Writes a block to its segment; false where there is no space, but the journal still has its reserve.
    fn place(&self, live: &keeper::Live, place: &Place, bytes: &Bytes) -> io::Result<bool> {
        Ok(self.unless_full(|| live.file.write_at(place.offset, bytes))?.is_some())
    }

    /// Does something to the spool, unless recording is frozen; freezes it where there is no space for that.
    fn unless_full<T>(&self, act: impl FnOnce() -> io::Result<T>) -> io::Result<Option<T>> {
        if self.queue.frozen().is_some() {
            return Ok(None);
        }
        match act() {
            Ok(done) => Ok(Some(done)),
            Err(error) => match Frozen::from_io("spool", &error) {
                frozen @ Frozen::NoSpace(_) => {
                    self.queue.freeze(frozen);
                    Ok(None)
                }
                _ => Err(error),
            },
        }
    }

    /// Ends the segment: its last blocks, then its trailer; the next block opens another file.
    pub(super) fn end_segment(&mut self, session: SessionId, part: &mut Part, end: SegmentEnd) {
        for built in end.blocks {
            self.block(session, part, Some(built));
        }
        *part = Part::default();
        self.turn.jobs.push(Job::EndSegment { session, trailer: end.trailer });
    }
}
