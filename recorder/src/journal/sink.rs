//! Where a turn of the journal thread puts finished blocks, and what it owes once it is written and once it is durable.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::file::JournalWriter;
use super::leaves::NodeLog;
use super::record::{Place, RecordHead};
use super::thread::random;
use crate::catalogue::Entry;
use crate::error::Frozen;
use crate::figures::Taken;
use crate::fs::Fs;
use crate::keeper::{self, Job, part_path};
use crate::live::LiveFile;
use crate::log::leaf::Leaf;
use crate::pages::{LastPage, Pages};
use crate::queue::{Queue, SlipReply};
use crate::session::{Session, Shared};
use crate::transcript::block::SessionId;
use crate::transcript::blocks::Built;
use crate::transcript::compressor::Compressor;
use crate::transcript::event::Lane;
use crate::transcript::writer::{SegmentEnd, Writer};

/// A block at least this long is written once, to its segment; below, a sync of one more file costs more than it saves.
const PLACED_LEN_MIN: usize = 24 * 1024;
/// Large blocks that follow each other are written together, as long as they are no more than this: a disk takes one large write
/// sooner than many.
const STAGED_LEN_MAX: usize = 1024 * 1024;

/// The live segment of a session.
#[derive(Debug, Default)]
pub(super) struct Part {
    live: Option<keeper::Live>,
    len: u64,
    last_page: LastPage,
    /// Whether its name in the spool is durable, or will be with the blocks that are placed in it.
    named: bool,
}

impl Part {
    /// Makes the segment's file, which the first write would make otherwise.
    pub(super) fn make(&self) -> io::Result<()> {
        self.live.as_ref().map_or(Ok(()), |live| live.file.make())
    }
}

/// A live segment with blocks that were written to it directly and are not synced.
#[derive(Debug)]
pub(super) struct Placed {
    file: Arc<LiveFile>,
    /// Whether its name is not durable either.
    unnamed: bool,
}

/// Large blocks of one segment, one behind the other, that are about to be written to it.
#[derive(Debug)]
struct Staged {
    session: SessionId,
    live: keeper::Live,
    /// Whether the segment's name is not durable.
    unnamed: bool,
    /// What comes before them on their first page.
    before: LastPage,
    offset: u64,
    blocks: Vec<Built>,
    len: usize,
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
    placed: HashMap<(SessionId, u32), Placed>,
    /// Large blocks that the journal does not know yet: whatever it is told next comes behind them.
    staged: Option<Staged>,
    pages: Pages,
}

impl Sink {
    pub(super) fn new(
        journal: JournalWriter,
        log: NodeLog,
        queue: Arc<Queue>,
        fs: Arc<dyn Fs>,
        spool: PathBuf,
    ) -> Self {
        let (turn, placed, pages) = (Turn::default(), HashMap::new(), Pages::new());
        Self { journal, log, queue, fs, spool, turn, placed, staged: None, pages }
    }

    /// Puts events into the journal that are in no block yet.
    pub(super) fn run(&mut self, lane: Lane, writer: &mut Writer) {
        if let Some(run) = writer.take_run(lane) {
            self.append(&RecordHead::run(run.head), &run.payload);
        }
    }

    /// Says in a new journal file where a session stands.
    pub(super) fn stand(&mut self, session: SessionId, next_block: u64) {
        self.append(&RecordHead::standing(session, next_block), &[]);
    }

    fn append(&mut self, head: &RecordHead, payload: &[u8]) {
        self.place_staged();
        self.journal.append(head, payload);
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
                self.append(&RecordHead::leaf(index), &entry);
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
        self.queue.meters().block(built.bytes.len() as u64);
        if part.live.is_none() {
            part.live = self.begin_part(session, built.segment_no);
        }
        let Some(live) = part.live.clone() else {
            // The next start makes the segment, from the journal alone.
            self.append(&RecordHead::block(session, built.block_no), &built.bytes);
            return;
        };
        let bytes = built.bytes.clone();
        if bytes.len() >= PLACED_LEN_MIN && self.queue.frozen().is_none() {
            self.stage(session, part, live, built);
        } else {
            self.append(&RecordHead::block(session, built.block_no), &bytes);
            self.told(session, live, built, false);
        }
        part.len += bytes.len() as u64;
        part.last_page.extend(&bytes);
    }

    /// Has a block written to its live segment, with those that follow it there.
    fn stage(&mut self, session: SessionId, part: &mut Part, live: keeper::Live, built: Built) {
        let fits = |staged: &Staged| {
            staged.session == session
                && staged.live.segment_no == live.segment_no
                && staged.len + built.bytes.len() <= STAGED_LEN_MAX
        };
        if !self.staged.as_ref().is_some_and(fits) {
            self.place_staged();
        }
        let staged = self.staged.get_or_insert_with(|| Staged {
            session,
            live,
            unnamed: !std::mem::replace(&mut part.named, true),
            before: part.last_page.clone(),
            offset: part.len,
            blocks: Vec::new(),
            len: 0,
        });
        staged.len += built.bytes.len();
        staged.blocks.push(built);
    }

    /// Writes the large blocks at hand to their segment and says in the journal where they are. Without space for that they go
    /// into the journal, which still has its reserve.
    pub(super) fn place_staged(&mut self) {
        let Some(staged) = self.staged.take() else { return };
        let Staged { session, live, unnamed, before, mut offset, blocks, .. } = staged;
        let parts = std::iter::once(before.bytes()).chain(blocks.iter().map(|built| built.bytes.as_ref()));
        let begin = offset.saturating_sub(before.bytes().len() as u64);
        let placed = match unless_full(&self.queue, || live.file.place(&mut self.pages, begin, parts)) {
            Ok(placed) => placed.is_some(),
            Err(error) => {
                self.turn.failed.get_or_insert(error);
                return;
            }
        };
        if placed {
            let placed = Placed { file: Arc::clone(&live.file), unnamed };
            // The first entry knows whether the name was synced before.
            self.placed.entry((session, live.segment_no)).or_insert(placed);
        }
        for built in blocks {
            let len = built.bytes.len();
            if placed {
                let place = Place { segment_no: built.segment_no, len: len as u32, offset, link: built.link };
                self.journal.append(&RecordHead::placed(session, built.block_no), &place.encode());
            } else {
                self.journal.append(&RecordHead::block(session, built.block_no), &built.bytes);
            }
            self.told(session, live.clone(), built, placed);
            offset += len as u64;
        }
    }

    /// Lets the keeper know of a block that the journal knows.
    fn told(&mut self, session: SessionId, segment: keeper::Live, built: Built, placed: bool) {
        let Built { bytes, block_no, link, .. } = built;
        self.turn.jobs.push(Job::Block { session, segment, block_no, link, bytes, placed });
    }

    /// Begins a live segment; `None` where recording is frozen.
    fn begin_part(&self, session: SessionId, segment_no: u32) -> Option<keeper::Live> {
        let file = LiveFile::new(Arc::clone(&self.fs), part_path(&self.spool, session, segment_no));
        self.queue.frozen().is_none().then(|| keeper::Live { segment_no, file: Arc::new(file) })
    }

    /// Ends the segment: its last blocks, then its trailer; the next block opens another file.
    pub(super) fn end_segment(&mut self, session: SessionId, part: &mut Part, end: SegmentEnd) {
        for built in end.blocks {
            self.block(session, part, Some(built));
        }
        *part = Part::default();
        self.place_staged();
        self.turn.jobs.push(Job::EndSegment { session, trailer: end.trailer });
    }
}

/// Does something to the spool, unless recording is frozen; freezes it where there is no space for that.
fn unless_full<T>(queue: &Queue, act: impl FnOnce() -> io::Result<T>) -> io::Result<Option<T>> {
    if queue.frozen().is_some() {
        return Ok(None);
    }
    match act() {
        Ok(done) => Ok(Some(done)),
        Err(error) => match Frozen::from_io("spool", &error) {
            frozen @ Frozen::NoSpace(_) => {
                queue.freeze(frozen);
                Ok(None)
            }
            _ => Err(error),
        },
    }
}
