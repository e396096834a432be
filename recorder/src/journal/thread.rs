//! The journal thread: collects what all sessions queued, writes it, syncs once, and hands out receipts.
//!
//! One turn: take what came in → append it to the transcripts' lanes → turn it into journal records (a run of events, or
//! a finished block where there is enough for one) → one write → publish "written" → one `fdatasync` where the durability
//! asks for it → publish "durable" → let the keeper make files of it. Leaves of the node log are made here too, so that a
//! session's HEAD, its OPEN leaf and its first events share one commit.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ed25519_dalek::SigningKey;

use super::commit::PROCESS_SYNC_EVERY_US;
use super::file::{self, JournalWriter};
use super::intake::append;
use super::leaves::{self, NodeLog};
use super::sink::{Part, Sink};
use super::timers::offset;
use crate::catalogue::{Desk, Ended, Entry, Opened, Status};
use crate::error::Frozen;
use crate::fs::Fs;
use crate::keeper::{Backlog, FinishedSegment, Job};
use crate::log::leaf::{self, Leaf};
use crate::queue::{Command, Queue, SessionSpec, SlipReply};
use crate::recovery::RecoveredSession;
use crate::secrets::Secrets;
use crate::session::{Item, Session, Shared};
use crate::transcript::Stamp;
use crate::transcript::block::SessionId;
use crate::transcript::chain::TRAILER_LEN;
use crate::transcript::compressor::Compressor;
use crate::transcript::event::{Event, Lane, Side};
use crate::transcript::head::{Durability, FORMAT_VERSION, Head, TranscriptKind};
use crate::transcript::seal::CloseReason;
use crate::transcript::writer::Writer;

/// Fresh events of a lane become a block at this size; below, they are journaled as they are and wait for company.
const RUN_BYTES_MAX: usize = 16 * 1024;
/// How often the timers are looked at while sessions are live.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// What the thread is made with.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) boot_id: [u8; 16],
    pub(crate) durability: Durability,
    pub(crate) retain_us: u64,
    pub(crate) segment_age_us: u64,
    pub(crate) software: String,
    pub(crate) log: NodeLog,
    pub(crate) journal: JournalWriter,
    pub(crate) journal_dir: PathBuf,
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) spool: PathBuf,
    pub(crate) queue: Arc<Queue>,
    pub(crate) keeper: Sender<Job>,
    pub(crate) backlog: Arc<Backlog>,
    /// Who keeps the catalogue, if anybody does.
    pub(crate) catalogue: Option<Desk>,
}

/// A session as the thread knows it.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) shared: Arc<Shared>,
    pub(super) writer: Writer,
    pub(super) part: Part,
    /// Blocks at the last HEADS.
    pub(super) heads_block: u64,
    segments: Vec<leaf::SegmentRef>,
    pub(super) closing: Option<Closing>,
}

#[derive(Debug)]
pub(super) struct Closing {
    reason: CloseReason,
    exit: Option<u32>,
    pub(super) replies: Vec<SlipReply>,
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(super) boot_id: [u8; 16],
    pub(super) durability: Durability,
    retain_us: u64,
    pub(super) segment_age_us: u64,
    software: String,
    journal_dir: PathBuf,
    pub(super) keeper: Sender<Job>,
    pub(super) backlog: Arc<Backlog>,
    pub(super) catalogue: Option<Desk>,
    pub(super) sink: Sink,
    pub(super) compressor: Compressor,
    pub(super) sessions: HashMap<SessionId, Live>,
    items: Vec<Item>,
    /// Sessions whose written events are not durable yet.
    pub(super) unsynced: Vec<(Arc<Shared>, u64)>,
    pub(super) synced_at_us: u64,
    pub(super) ticked_at_us: u64,
    pub(super) heads_at_us: u64,
    pub(super) heartbeat_at_us: u64,
    /// Wall minus boot-time clock at the last heartbeat.
    pub(super) clock_offset_us: i128,
    pub(super) control: Option<SessionId>,
    pub(super) stopping: bool,
    /// What went wrong while somebody else wrote.
    pub(super) broken: Option<io::Error>,
    /// Whether everybody knows that recording is frozen.
    pub(super) announced: bool,
}

impl Journal {
    pub(crate) fn new(setup: Setup) -> io::Result<Self> {
        let now = setup.queue.now();
        let sink = Sink::new(setup.journal, setup.log, setup.queue, setup.fs, setup.spool);
        Ok(Self {
            boot_id: setup.boot_id,
            durability: setup.durability,
            retain_us: setup.retain_us,
            segment_age_us: setup.segment_age_us,
            software: setup.software,
            journal_dir: setup.journal_dir,
            keeper: setup.keeper,
            backlog: setup.backlog,
            catalogue: setup.catalogue,
            sink,
            compressor: Compressor::new()?,
            sessions: HashMap::new(),
            items: Vec::new(),
            unsynced: Vec::new(),
            synced_at_us: now.boot_us,
            ticked_at_us: now.boot_us,
            heads_at_us: now.boot_us,
            heartbeat_at_us: now.boot_us,
            clock_offset_us: offset(now),
            control: None,
            stopping: false,
            broken: None,
            announced: false,
        })
    }

    /// Writes the BOOT leaf and opens the control transcript, durable when this returns.
    pub(crate) fn boot(
        &mut self,
        boot: leaf::Boot,
        policy_hash: [u8; 32],
        secrets: Secrets,
        opening: &[Event],
    ) -> io::Result<Session> {
        self.sink.leaf(&Leaf::Boot(boot));
        let spec = SessionSpec { kind: TranscriptKind::Control, protocol: None, policy_hash };
        let session = self.open(spec, secrets, opening)?;
        self.control = Some(session.id());
        if let Some(live) = self.sessions.get(&session.id()) {
            // A start learns now whether the spool can be written.
            live.part.make()?;
        }
        self.commit()?;
        if let Some(frozen) = self.sink.queue.frozen() {
            return Err(io::Error::new(io::ErrorKind::StorageFull, frozen.to_string()));
        }
        Ok(session)
    }

    /// Works until told to stop, or until a disk says no.
    pub(crate) fn run(shared: &Mutex<Self>) {
        let worked = work(shared);
        // Held to the end: nobody else writes from here on. Of a turn that panicked nothing more is written either.
        let mut journal = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = worked {
            journal.sink.queue.freeze(Frozen::from_io("journal", &error));
            journal.announce();
            journal.serve_frozen();
        }
        // The keeper may have failed already; then there is nobody to tell.
        let _ = journal.keeper.send(Job::Stop);
    }

    /// Does what came in. Returns whether there is nothing to do any more.
    fn turn(&mut self, dirty: &mut Vec<Arc<Shared>>, commands: &mut Vec<Command>) -> io::Result<bool> {
        let queue = Arc::clone(&self.sink.queue);
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        if self.sink.journal.room() < self.room_min() && queue.frozen().is_none() {
            self.switch_file().or_else(|error| self.out_of_space(error))?;
        }
        for shared in dirty.drain(..) {
            if queue.frozen().is_some() {
                // What is left in the journal is to close sessions with; that is when this is looked at.
                continue;
            }
            if self.sink.journal.buffered() > self.turn_bytes_max() {
                // Not lost: the session stays marked and comes back in the next turn.
                queue.mark(shared);
                continue;
            }
            self.take_in(&shared);
        }
        for command in commands.drain(..) {
            self.obey(command)?;
        }
        if queue.frozen().is_none() {
            self.tick();
        }
        self.announce();
        self.commit()?;
        if self.stopping && self.sessions.is_empty() {
            return Ok(true);
        }
        if let Some(Frozen::Failed(_)) = queue.frozen() {
            self.announce();
            self.serve_frozen();
            return Ok(true);
        }
        Ok(false)
    }

    /// A turn begins in a file with at least this much room; it is also what remains to close every session when no other
    /// file can be had.
    pub(super) fn room_min(&self) -> u64 {
        self.sink.journal.file_len() / 8 * 3
    }

    /// A turn stops taking in at this many buffered bytes, so that one commit stays short and leaves room in the file.
    fn turn_bytes_max(&self) -> usize {
        usize::try_from(self.sink.journal.file_len() / 8).unwrap_or(usize::MAX)
    }

    fn timeout(&self) -> Duration {
        if !self.unsynced.is_empty() {
            let passed = self.sink.queue.now().boot_us.saturating_sub(self.synced_at_us);
            return Duration::from_micros(PROCESS_SYNC_EVERY_US.saturating_sub(passed).max(1));
        }
        TICK
    }

    /// Takes a session's events into its transcript and turns them into records.
    pub(super) fn take_in(&mut self, shared: &Arc<Shared>) {
        let mut items = std::mem::take(&mut self.items);
        let number = shared.drain(&mut items);
        if let Some(live) = self.sessions.get_mut(&shared.id)
            && live.closing.is_none()
            && let Some(at) = items.last().map(|last| last.at)
        {
            for item in &items {
                self.sink.turn.taken.add(item.side, item.event.wire_len());
            }
            append(&mut live.writer, &items, |writer, lane| {
                self.sink.cut(shared.id, &mut live.part, writer, lane, &mut self.compressor);
            });
            for lane in Lane::ALL {
                if live.writer.fresh_len(lane) >= RUN_BYTES_MAX {
                    self.sink.cut(shared.id, &mut live.part, &mut live.writer, lane, &mut self.compressor);
                } else {
                    self.sink.run(lane, &mut live.writer);
                }
            }
            self.sink.turn.moved.push((Arc::clone(shared), number));
            // What is due by time comes with the next tick where nothing is recorded.
            self.keep_up(shared.id, at);
        }
        items.clear();
        items.shrink_to(1024);
        self.items = items;
    }

    /// Seals and rolls where that is due.
    pub(super) fn keep_up(&mut self, session: SessionId, now: Stamp) {
        let Some(live) = self.sessions.get_mut(&session) else { return };
        if live.writer.seal_is_due(now) {
            self.sink.block(session, &mut live.part, Some(live.writer.seal(now)));
        }
        if live.writer.segment_is_due(now, self.segment_age_us) {
            let (end, head) = live.writer.roll(now);
            self.sink.end_segment(session, &mut live.part, end);
            self.sink.block(session, &mut live.part, Some(head));
        }
    }

    pub(super) fn cut_all(&mut self, session: SessionId) {
        let Some(live) = self.sessions.get_mut(&session) else { return };
        for lane in Lane::ALL {
            self.sink.cut(session, &mut live.part, &mut live.writer, lane, &mut self.compressor);
        }
    }

    fn obey(&mut self, command: Command) -> io::Result<()> {
        match command {
            Command::Open { spec, secrets, opening, reply } => {
                if self.stopping || self.sink.queue.frozen().is_some() {
                    return Ok(());
                }
                let session = self.open(spec, secrets, &opening)?;
                self.sink.turn.opened.push((reply, session));
            }
            Command::Close { session, reason, exit, reply } => self.close(session, reason, exit, reply),
            Command::Abandon(session) => self.close(session, CloseReason::Internal, None, None),
            Command::Slip { reply, .. } if let Some(frozen) = self.sink.queue.frozen() => {
                self.sink.turn.denied.push((reply, frozen));
            }
            Command::Slip { session, reply } => {
                self.take_last(session);
                self.add_heads(Some(session));
                self.sink.turn.slips.push((session, reply));
            }
            // A frozen recorder logs nothing but ends. A segment in the vault without the CLOSE leaf of its session would be
            // out of the next start's reach, and what that start recovers again must find its journal files.
            Command::SegmentDone(_)
            | Command::Recovered(_)
            | Command::Release(_)
            | Command::Stored(_)
            | Command::Log { .. }
                if self.sink.queue.frozen().is_some() => {}
            Command::Stored(stored) => {
                self.sink.leaf(&Leaf::Stored(stored));
                self.sink.turn.checkpoint = true;
            }
            Command::Log { leaves, reply } => {
                leaves.iter().for_each(|leaf| self.sink.leaf(leaf));
                self.sink.turn.told.push(reply);
                (self.sink.turn.checkpoint, self.sink.turn.must_sync) = (true, true);
            }
            Command::SegmentDone(finished) => self.segment_done(&finished),
            Command::Recovered(recovered) => self.recovered(&recovered),
            Command::Release(files) => {
                let barriers = files.into_iter().map(|journal_file| Job::Barrier { journal_file });
                self.sink.turn.publish.extend(barriers);
                self.sink.turn.must_sync = true;
            }
            Command::KeeperFailed(frozen) => self.sink.queue.freeze(frozen),
            Command::Stop => {
                self.stopping = true;
                let open: Vec<_> = self.sessions.keys().copied().collect();
                for session in open {
                    self.close(session, CloseReason::Shutdown, None, None);
                }
            }
        }
        Ok(())
    }

    fn open(&mut self, spec: SessionSpec, secrets: Secrets, opening: &[Event]) -> io::Result<Session> {
        let now = self.sink.queue.now();
        let id = SessionId(uuid::Uuid::now_v7().into_bytes());
        let key = SigningKey::from_bytes(&random()?);
        let ordinal = self.sink.log.take_ordinal();
        let head = Head {
            format: FORMAT_VERSION,
            node: self.sink.log.node.clone(),
            boot_id: self.boot_id.into(),
            kind: spec.kind,
            protocol: spec.protocol,
            durability: self.durability,
            session_pub: key.verifying_key().to_bytes().into(),
            ordinal,
            policy_hash: spec.policy_hash.into(),
            lane_keys: secrets.wrapped,
            journal_salt: random()?.into(),
            software: self.software.clone(),
            events: [0; 3],
            micro_commits: None,
        };
        let open = leaf::Open {
            session: id,
            kind: spec.kind as u8,
            protocol: spec.protocol.map_or(0, |protocol| protocol as u8 + 1),
            ordinal,
            head_link: crate::transcript::block::Link::ZERO,
            session_pub: key.verifying_key().to_bytes(),
            wall_us: now.wall_us,
            retain_until_us: now.wall_us.saturating_add(self.retain_us),
        };
        let (mut writer, built) = Writer::begin(id, head, key, secrets.keys, now);
        let open = leaf::Open { head_link: built.link, ..open };
        let mut part = Part::default();
        self.sink.block(id, &mut part, Some(built));
        for event in opening {
            writer.append(Side::Client, event, now);
        }
        for lane in Lane::ALL {
            self.sink.run(lane, &mut writer);
        }
        let shared = Arc::new(Shared::new(id, self.durability, Arc::clone(&self.sink.queue)));
        let live =
            Live { shared: Arc::clone(&shared), writer, part, heads_block: 0, segments: Vec::new(), closing: None };
        self.sessions.insert(id, live);
        if self.catalogue.is_some() {
            let opened = Opened::new(id, ordinal, (spec.kind, spec.protocol), now.wall_us, opening);
            self.sink.turn.rows.push(Entry::Opened(Box::new(opened)));
        }
        self.sink.leaf(&Leaf::Open(open));
        self.sink.turn.checkpoint = true;
        self.sink.turn.must_sync = true;
        Ok(Session::new(shared))
    }

    /// Takes in what a session recorded just before it asked for something.
    fn take_last(&mut self, session: SessionId) {
        if let Some(live) = self.sessions.get(&session) {
            let shared = Arc::clone(&live.shared);
            self.take_in(&shared);
        }
    }

    fn close(&mut self, session: SessionId, reason: CloseReason, exit: Option<u32>, reply: Option<SlipReply>) {
        if self.sink.queue.frozen().is_some() {
            return self.close_frozen(session, reason, exit, reply);
        }
        self.take_last(session);
        self.cut_all(session);
        let now = self.sink.queue.now();
        let Some(live) = self.sessions.get_mut(&session) else {
            // Closed already; a second answer would need a log entry that is no longer in memory.
            return;
        };
        live.shared.close();
        match &mut live.closing {
            Some(closing) => closing.replies.extend(reply),
            None => {
                live.closing = Some(Closing { reason, exit, replies: reply.into_iter().collect() });
                let end = live.writer.close(reason, exit, now);
                self.sink.end_segment(session, &mut live.part, end);
            }
        }
        if self.sink.queue.frozen().is_some() {
            // The disk ran full within these lines; the end is in the journal.
            self.close_frozen(session, reason, exit, None);
        }
    }

    /// A segment lies finished and synced in the spool: log it, then let it into the vault.
    fn segment_done(&mut self, finished: &FinishedSegment) {
        let wall_us = self.sink.queue.now().wall_us;
        self.log_segment(finished, wall_us, None);
        self.sink.queue.meters().sealed(finished.bytes.saturating_sub(TRAILER_LEN as u64));
        let Some(live) = self.sessions.get_mut(&finished.session) else { return };
        live.segments.push(leaves::segment_ref(finished));
        let all_done = live.segments.len() as u64 == u64::from(live.writer.chain().segment_no()) + 1;
        let Some(closing) = live.closing.as_mut().filter(|_| all_done) else { return };
        let close = leaves::close(finished.session, closing.reason, wall_us, live.writer.chain(), &live.segments);
        let replies = std::mem::take(&mut closing.replies);
        let ended = Ended {
            session: finished.session,
            end_us: wall_us,
            status: Status::Closed,
            reason: Some(closing.reason),
            exit: closing.exit,
            events: live.writer.chain().events().iter().sum(),
            bytes: Some(live.writer.bytes()),
            segments: close.segment_count,
            stored_bytes: Some(live.segments.iter().map(|segment| segment.bytes).sum()),
        };
        self.sink.turn.rows.push(Entry::Ended(Box::new(ended)));
        self.sink.leaf(&Leaf::Close(close));
        self.sink.turn.slips.extend(replies.into_iter().map(|reply| (finished.session, reply)));
        if let Some(live) = self.sessions.remove(&finished.session) {
            live.shared.wake();
        }
    }

    fn log_segment(&mut self, finished: &FinishedSegment, wall_us: u64, also_remove: Option<PathBuf>) {
        self.sink.leaf(&leaves::segment(finished, wall_us));
        self.sink.turn.checkpoint = true;
        self.sink.turn.must_sync = true;
        self.sink.queue.meters().to_ship();
        self.sink.turn.publish.push(Job::Publish {
            session: finished.session,
            segment_no: finished.segment_no,
            path: finished.path.clone(),
            also_remove,
        });
    }

    /// Recovery has closed an orphan of an earlier start.
    fn recovered(&mut self, recovered: &RecoveredSession) {
        let wall_us = self.sink.queue.now().wall_us;
        for (finished, also_remove) in &recovered.segments {
            self.log_segment(finished, wall_us, also_remove.clone());
        }
        self.sink.leaf(&leaves::recovered(recovered, self.boot_id, wall_us));
        // Of a session that had closed and only the log did not know, the rest is in its last block.
        let ended = Ended {
            session: recovered.session,
            end_us: wall_us,
            status: if recovered.closed.is_some() { Status::Closed } else { Status::Recovered },
            reason: recovered.closed,
            exit: None,
            events: recovered.chain.events().iter().sum(),
            bytes: None,
            segments: recovered.chain.segment_no().saturating_add(1),
            stored_bytes: None,
        };
        self.sink.turn.rows.push(Entry::Ended(Box::new(ended)));
        self.sink.turn.checkpoint = true;
    }

    /// Goes on in the next file. First every buffered event gets into a block, so that the files before need nothing but
    /// their blocks materialised to be recycled.
    fn switch_file(&mut self) -> io::Result<()> {
        let ids: Vec<_> = self.sessions.keys().copied().collect();
        let done = file::path(&self.journal_dir, self.sink.journal.file_no());
        self.sink.journal.switch()?;
        for session in ids {
            if let Some(live) = self.sessions.get(&session) {
                let next_block = live.writer.chain().next_block();
                self.sink.stand(session, next_block);
            }
            self.cut_all(session);
        }
        self.sink.turn.publish.push(Job::Barrier { journal_file: done });
        self.sink.turn.must_sync = true;
        Ok(())
    }
}

/// Waits for work and does it, a turn at a time, until there is none any more.
fn work(shared: &Mutex<Journal>) -> io::Result<()> {
    let panicked = || io::Error::other("a turn of the journal panicked");
    let queue = Arc::clone(&shared.lock().map_err(|_| panicked())?.sink.queue);
    let (mut dirty, mut commands) = (Vec::new(), Vec::new());
    loop {
        let timeout = shared.lock().map_err(|_| panicked())?.timeout();
        queue.take(timeout, &mut dirty, &mut commands);
        let mut journal = shared.lock().map_err(|_| panicked())?;
        let _turn = queue.turn(queue.now());
        if journal.turn(&mut dirty, &mut commands)? {
            return Ok(());
        }
    }
}

/// Returns fresh random bytes; a session without them must not begin.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
