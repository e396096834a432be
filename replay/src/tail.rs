//! Reads a transcript from its beginning, block by block as they come, also while it is still being written.
//!
//! A finished segment is read from the vault. The live one of a running session lies in the node's spool, where it grows:
//! there, what is no block yet is waited for. Every block is checked against its link and its predecessor before anything
//! in it is used.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use casemate_recorder::transcript::block::{Kind, SessionId};
use casemate_recorder::transcript::chain::{Chain, events, parse_trailer};
use casemate_recorder::transcript::cipher::LaneKeys;
use casemate_recorder::transcript::event::{Body, Entry, Event};
use casemate_recorder::transcript::head::{Head, Protocol};
use casemate_recorder::transcript::wrap::Identity;
use casemate_recorder::vault::segment_key;

use crate::ReplayError;
use crate::reader::{SegmentReader, open_keys};
use crate::vault::Vault;

/// Events of one lane wait for those of another that happened before them. More than one block of each lane cannot wait
/// in a sound transcript; beyond this many bytes it is none.
const WAITING_MAX: usize = 64 * 1024 * 1024;

/// About what an event costs in memory beside its payload.
const EVENT_COST: usize = 128;

/// One visit to a segment reads at most about this many bytes of events.
const VISIT_MAX: usize = 1024 * 1024;

/// What comes next.
#[derive(Debug)]
pub(crate) enum Step {
    /// An event, with the microseconds since the session began.
    Event(u64, Event),
    /// Nothing that is here; more may come.
    Pending,
    /// The transcript has ended.
    End,
}

/// A transcript on its way from its first block to its newest.
#[derive(Debug)]
pub(crate) struct Tail<'v> {
    vault: &'v Vault,
    spool: Option<&'v Path>,
    identities: &'v [Identity],
    chain: Chain,
    keys: LaneKeys,
    start_us: u64,
    protocol: Option<Protocol>,
    /// Where the next block of the segment begins.
    offset: u64,
    waiting: BTreeMap<u64, (u64, Event)>,
    waiting_bytes: usize,
    next_seq: u64,
    /// Whether gaps are left as they are: nothing more will be read.
    finishing: bool,
    buffer: Vec<u8>,
    /// The segment that the buffer holds whole, where it was fetched.
    fetched: Option<u32>,
}

impl<'v> Tail<'v> {
    /// Begins at a session's first block. `spool` is where the node that records it keeps live segments.
    pub(crate) fn new(
        vault: &'v Vault,
        spool: Option<&'v Path>,
        session: SessionId,
        identities: &'v [Identity],
    ) -> Self {
        Self {
            vault,
            spool,
            identities,
            chain: Chain::new(session),
            keys: LaneKeys::default(),
            start_us: 0,
            protocol: None,
            offset: 0,
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            next_seq: 0,
            finishing: false,
            buffer: Vec::new(),
            fetched: None,
        }
    }

    /// Returns the wall clock of the first block, in microseconds since 1970; 0 before it was read.
    pub(crate) fn start_us(&self) -> u64 {
        self.start_us
    }

    /// Returns the protocol of the session; `None` for a control transcript, and before its first block was read.
    pub(crate) fn protocol(&self) -> Option<Protocol> {
        self.protocol
    }

    /// Gives up waiting: what was read and still waits for earlier events comes in its order.
    pub(crate) fn finish(&mut self) {
        self.finishing = true;
    }

    /// Returns the next event, as far as it is here.
    ///
    /// # Errors
    /// The transcript is not what it should be, does not open, or is nowhere.
    pub(crate) fn next(&mut self) -> Result<Step, ReplayError> {
        loop {
            if let Some(first) = self.waiting.first_entry()
                && (*first.key() == self.next_seq || self.finishing)
            {
                self.next_seq = first.key().saturating_add(1);
                let (t_us, event) = first.remove();
                self.waiting_bytes = self.waiting_bytes.saturating_sub(cost(&event));
                return Ok(Step::Event(t_us, event));
            }
            if self.chain.ended() && !self.waiting.is_empty() {
                let what = format!("event {} is nowhere in it", self.next_seq);
                return Err(ReplayError::evidence(format!("session {}", self.chain.session()), what));
            }
            if self.chain.ended() || self.finishing {
                return Ok(Step::End);
            }
            if !self.visit()? {
                return Ok(Step::Pending);
            }
        }
    }

    /// Reads on in the segment; returns whether there was anything.
    fn visit(&mut self) -> Result<bool, ReplayError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let before = (self.chain.segment_no(), self.offset);
        let visited = self.read_on(&mut buffer);
        self.buffer = buffer;
        visited?;
        Ok(before != (self.chain.segment_no(), self.offset))
    }

    /// Opens a segment, and says whether it may still grow.
    fn open<'b>(
        &mut self,
        session: SessionId,
        segment_no: u32,
        buffer: &'b mut Vec<u8>,
    ) -> Result<Option<(SegmentReader<'b>, bool)>, ReplayError> {
        let stored = self.vault.place(&segment_key(session, segment_no));
        if self.vault.bucket().is_some() {
            // It is visited many times and does not change.
            if self.fetched == Some(segment_no) {
                let len = buffer.len() as u64;
                return Ok(Some((SegmentReader::loaded(stored, len, buffer), false)));
            }
            self.fetched = None;
            let opened = SegmentReader::open_first(self.vault, session, segment_no, buffer)?;
            self.fetched = opened.is_some().then_some(segment_no);
            return Ok(opened.map(|reader| (reader, false)));
        }
        let part = self.spool.map(|spool| part_path(spool, session, segment_no));
        // A segment moves from the spool into the vault: what is in neither may be on its way, so the vault comes again.
        let places = [Some((&stored, false)), part.as_ref().map(|part| (part, true)), Some((&stored, false))];
        for (path, live) in places.into_iter().flatten() {
            if path.exists() {
                return Ok(SegmentReader::open(path, buffer)?.map(|reader| (reader, live)));
            }
        }
        Ok(None)
    }

    fn read_on(&mut self, buffer: &mut Vec<u8>) -> Result<(), ReplayError> {
        let (session, segment_no) = (self.chain.session(), self.chain.segment_no());
        let Some((mut reader, live)) = self.open(session, segment_no, buffer)? else {
            // Unless it moved between two looks.
            let moved = self.vault.bucket().is_none() && self.vault.place(&segment_key(session, segment_no)).exists();
            let nowhere = segment_no == 0 && !moved;
            return if nowhere { Err(is_nowhere(session)) } else { Ok(()) };
        };
        let path = reader.path().to_owned();
        reader.skip_to(self.offset)?;
        let mut seen = 0;
        let mut whole = false;
        while seen < VISIT_MAX && !self.chain.ended() {
            let (offset, block) = match reader.next_block() {
                Ok(Some(found)) => found,
                Ok(None) => {
                    whole = true;
                    break;
                }
                // Not there yet, or half: what follows a block in a live segment is written in any order.
                Err(ReplayError::Block { .. }) if live => return Ok(()),
                Err(error) => return Err(error),
            };
            self.chain.accept(&block.header, block.link).map_err(|source| ReplayError::Chain {
                path: path.clone(),
                offset,
                source,
            })?;
            let bad = |source| ReplayError::Block { path: path.clone(), offset, source };
            match block.header.kind {
                Kind::Head if segment_no == 0 => {
                    self.start_us = block.header.wall_us;
                    let head = Head::decode(block.payload).map_err(bad)?;
                    self.protocol = head.protocol;
                    self.keys = open_keys(session, &head, self.identities)?;
                }
                Kind::Data | Kind::Micro => {
                    for (t_us, Entry { seq, event, .. }) in events(&block, &self.keys).map_err(bad)? {
                        seen += cost(&event);
                        self.waiting_bytes += cost(&event);
                        if seq < self.next_seq || self.waiting.insert(seq, (t_us, event)).is_some() {
                            let what = format!("event {seq} is there twice");
                            return Err(ReplayError::evidence(format!("session {session}"), what));
                        }
                    }
                }
                _ => {}
            }
            self.offset = offset + block.raw.len() as u64;
            if self.waiting_bytes > WAITING_MAX {
                let what = format!("event {} does not come, and too many wait for it", self.next_seq);
                return Err(ReplayError::evidence(format!("session {session}"), what));
            }
        }
        if !whole {
            return Ok(());
        }
        match reader.rest()?.as_ref().and_then(parse_trailer) {
            Some(_) => {
                self.chain.next_segment();
                self.offset = 0;
            }
            None if live => {}
            None => return Err(ReplayError::evidence(segment_key(session, segment_no), "does not end with a trailer")),
        }
        Ok(())
    }
}

fn cost(event: &Event) -> usize {
    EVENT_COST
        + match &event.body {
            Body::Stream(data) => data.len(),
            Body::Map(_) => 0,
        }
}

fn is_nowhere(session: SessionId) -> ReplayError {
    let place = segment_key(session, 0);
    let what = "is not in this vault: the session is live (on its node, `--spool DIR` reads it), pending or missing";
    ReplayError::evidence(place, what)
}

/// Returns where a node keeps a live segment.
fn part_path(spool: &Path, session: SessionId, segment_no: u32) -> PathBuf {
    spool.join(format!("{session}.{segment_no:06}.part"))
}

/// Lists the sessions that have a segment in a spool.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn spooled(spool: &Path) -> Result<Vec<SessionId>, ReplayError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(spool).map_err(ReplayError::io("list the spool", spool))? {
        let name = entry.map_err(ReplayError::io("list the spool", spool))?.file_name();
        let name = name.to_string_lossy();
        let session = name.strip_suffix(".part").and_then(|name| name.split_once('.'));
        found.extend(session.and_then(|(session, _)| session.parse::<SessionId>().ok()));
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}
