//! Where a turn of the journal thread puts finished blocks, and what it owes once it is written and once it is durable.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::record::{Place, RecordHead};
use super::thread::Setup;
use crate::error::Frozen;
use crate::fs::{File, SharedFile};
use crate::keeper::{self, Job, part_path};
use crate::queue::SlipReply;
use crate::session::{Session, Shared};
use crate::transcript::block::SessionId;
use crate::transcript::writer::{Built, SegmentEnd};

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
    pub(super) file: Arc<dyn File>,
    /// Whether its name is not durable either.
    pub(super) unnamed: bool,
}

/// What one turn must do once its records are written, and once they are durable.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// For the keeper, once written.
    pub(super) jobs: Vec<Job>,
    /// Sessions whose events are in this turn, with the last number.
    pub(super) moved: Vec<(Arc<Shared>, u64)>,
    /// Whether a checkpoint is due, and who waits for it.
    pub(super) checkpoint: bool,
    pub(super) slips: Vec<(SessionId, SlipReply)>,
    pub(super) denied: Vec<(SlipReply, Frozen)>,
    pub(super) opened: Vec<(oneshot::Sender<Session>, Session)>,
    /// For the keeper, once durable.
    pub(super) publish: Vec<Job>,
    /// Whether this turn must be durable whatever the durability says.
    pub(super) must_sync: bool,
    /// What went wrong while the turn was made.
    pub(super) failed: Option<io::Error>,
}

/// Where finished blocks go.
pub(super) struct Sink<'a> {
    pub(super) setup: &'a mut Setup,
    pub(super) turn: &'a mut Turn,
    pub(super) placed: &'a mut HashMap<(SessionId, u32), Placed>,
}

impl Sink<'_> {
    /// Puts a block where a crash cannot take it from: a small one into the journal, a large one into its live segment,
    /// where it has to go anyway, with its place in the journal.
    pub(super) fn block(&mut self, session: SessionId, part: &mut Part, built: Option<Built>) {
        let Some(built) = built else { return };
        if let Err(error) = self.put(session, part, built) {
            self.turn.failed.get_or_insert(error);
        }
    }

    fn put(&mut self, session: SessionId, part: &mut Part, built: Built) -> io::Result<()> {
        let live = match &part.live {
            Some(live) => live.clone(),
            None => {
                let path = part_path(&self.setup.spool, session, built.segment_no);
                let file = Arc::new(SharedFile::new(self.setup.fs.create(&path)?));
                part.live.insert(keeper::Live { segment_no: built.segment_no, path, file }).clone()
            }
        };
        let place =
            Place { segment_no: built.segment_no, len: built.bytes.len() as u32, offset: part.len, link: built.link };
        let placed = built.bytes.len() >= PLACED_LEN_MIN && self.place(&live, &place, &built.bytes)?;
        if placed {
            self.setup.journal.append(&RecordHead::placed(session, built.block_no), &place.encode());
            let unnamed = !std::mem::replace(&mut part.named, true);
            let placed = Placed { file: Arc::clone(&live.file), unnamed };
            // The first entry knows whether the name was synced before.
            self.placed.entry((session, built.segment_no)).or_insert(placed);
        } else {
            self.setup.journal.append(&RecordHead::block(session, built.block_no), &built.bytes);
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

    /// Writes a block to its segment; false where there is no space, but the journal still has its reserve.
    fn place(&self, live: &keeper::Live, place: &Place, bytes: &Bytes) -> io::Result<bool> {
        match live.file.write_at(place.offset, bytes) {
            Ok(()) => Ok(true),
            Err(error) => match Frozen::from_io("spool", &error) {
                frozen @ Frozen::NoSpace(_) => {
                    self.setup.queue.freeze(frozen);
                    Ok(false)
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
