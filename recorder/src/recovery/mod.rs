//! Recovery: what a start does about the sessions that the start before left behind.
//!
//! It reads the journal and the live segments, embeds what the blocks lack verbatim (MICRO blocks; nothing is decrypted)
//! and ends each transcript with RECOVERED, signed by the boot key of this start. Until the node log holds the end, the
//! result lies in a file of its own (`*.recovered`) beside the untouched segment, so a recovery that is cut down itself
//! is simply done again.

mod rebuilt;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use sha2::{Digest, Sha256};

use crate::fs::Fs;
use crate::journal::file::{FILE_HEAD_LEN, ScannedFile};
use crate::journal::record::{self, Place, Record, RecordKind};
use crate::keeper::{Backlog, FinishedSegment, Job, part_path};
use crate::log::leaf::Leaf;
use crate::transcript::Stamp;
use crate::transcript::block::{Block, PLAIN_LEN_MAX, SessionId};
use crate::transcript::chain::Chain;
use crate::transcript::event::Lane;
use crate::transcript::head::Head;
use crate::transcript::seal::CloseReason;
use crate::vault::{Vault, segment_key};

use self::rebuilt::{Assembled, Rebuilt};

/// A session of an earlier start, closed and ready for the node log.
#[derive(Debug)]
pub(crate) struct RecoveredSession {
    pub(crate) session: SessionId,
    /// Finished segments that the log does not name yet, each with the live file that it replaces.
    pub(crate) segments: Vec<(FinishedSegment, Option<PathBuf>)>,
    pub(crate) chain: Chain,
    /// The reason in CLOSE, where the session had closed and only the log did not know.
    pub(crate) closed: Option<CloseReason>,
    pub(crate) torn_bytes: u64,
}

/// What the journal says, indexed.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    files: Vec<ScannedFile>,
    /// Runs and blocks per session.
    records: HashMap<SessionId, Vec<Spot>>,
    /// Sessions with an OPEN leaf.
    opened: HashSet<SessionId>,
    /// Sessions with a CLOSE or RECOVERED leaf.
    ended: HashSet<SessionId>,
    /// SHA-256 of segments with a SEGMENT leaf.
    logged: HashMap<(SessionId, u32), [u8; 32]>,
    /// The last block in them, per session.
    logged_blocks: HashMap<SessionId, u64>,
}

/// Where a record lies.
#[derive(Debug, Clone, Copy)]
struct Spot {
    file: usize,
    offset: usize,
    turn: u64,
}

impl Evidence {
    /// Indexes the journal; every leaf goes to `leaf` as well, in order.
    pub(crate) fn gather<E>(
        files: Vec<ScannedFile>,
        mut leaf: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut out = Self::default();
        let mut turn = 0;
        for (number, file) in files.iter().enumerate() {
            let mut at = FILE_HEAD_LEN as usize;
            for record in file.records() {
                if record.kind == RecordKind::Leaf {
                    leaf(record.first, record.payload)?;
                    out.note_leaf(record.payload);
                } else {
                    out.records.entry(record.session).or_default().push(Spot { file: number, offset: at, turn });
                }
                at += record.padded_len;
                turn += u64::from(record.ends_turn);
            }
        }
        out.files = files;
        Ok(out)
    }

    fn note_leaf(&mut self, entry: &[u8]) {
        match Leaf::decode(entry) {
            Ok(Leaf::Open(open)) => {
                self.opened.insert(open.session);
            }
            Ok(Leaf::Close(close)) => {
                self.ended.insert(close.session);
            }
            Ok(Leaf::Recovered(recovered)) => {
                self.ended.insert(recovered.close.session);
            }
            Ok(Leaf::Segment(segment)) => {
                self.logged.insert((segment.session, segment.segment_no), segment.sha256);
                let last = self.logged_blocks.entry(segment.session).or_default();
                *last = (*last).max(segment.last_block);
            }
            _ => {}
        }
    }

    /// Returns the records of a session with the turns that they belong to.
    fn turns_of(&self, session: SessionId) -> impl Iterator<Item = (u64, Record<'_>)> {
        let spots = self.records.get(&session).map(Vec::as_slice).unwrap_or_default();
        spots.iter().filter_map(|spot| {
            let file = self.files.get(spot.file)?;
            Some((spot.turn, record::parse(file.bytes.get(spot.offset..)?, file.head.salt)?))
        })
    }

    fn records_of(&self, session: SessionId) -> impl Iterator<Item = Record<'_>> {
        self.turns_of(session).map(|(_, record)| record)
    }

    /// Returns the turn in which the session's record ends because a block that it placed did not reach the disk. The
    /// turn counts as a whole or not at all: events of another lane in it may be newer than those that are lost.
    fn lost_turn(&self, session: SessionId, lying: &BTreeMap<u32, Vec<u8>>) -> Option<u64> {
        let logged = self.logged_blocks.get(&session);
        let mut placed = self.turns_of(session).filter(|(_, record)| {
            record.kind == RecordKind::Placed && logged.is_none_or(|logged| record.first > *logged)
        });
        placed.find_map(|(turn, record)| placed_block(lying, record.payload).is_none().then_some(turn))
    }

    /// Returns the journal files, which may be recycled once every session is recovered.
    pub(crate) fn journal_files(&self) -> Vec<PathBuf> {
        self.files.iter().map(|file| file.path.clone()).collect()
    }
}

/// A file in the spool.
#[derive(Debug, Clone)]
struct Spooled {
    session: SessionId,
    segment_no: u32,
    path: PathBuf,
    recovered: bool,
}

/// What recovery works on.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) spool: PathBuf,
    pub(crate) evidence: Evidence,
    pub(crate) boot_id: [u8; 16],
    pub(crate) boot_key: SigningKey,
    /// One more than the ordinal of the last session that the node log opened.
    pub(crate) next_ordinal: u64,
    /// Bytes of copies that are not in the vault yet: on a small disk they must not all lie there at once.
    pub(crate) copies: Arc<Backlog>,
}

impl Recovery {
    /// Whether the session never began: its HEAD reached the journal or the spool, but the OPEN leaf of the same commit did
    /// not, so nobody was ever told that it is open.
    fn never_began(&self, session: SessionId) -> io::Result<bool> {
        if self.evidence.opened.contains(&session) {
            return Ok(false);
        }
        let mut records = self.evidence.records_of(session).peekable();
        if records.peek().is_some() {
            // Without its HEAD the session is older than the journal.
            return Ok(records.any(|record| record.kind == RecordKind::Block && record.first == 0));
        }
        for spooled in self.spooled()?.into_iter().filter(|spooled| spooled.session == session) {
            let bytes = self.fs.read(&spooled.path)?;
            let head = Block::parse(&bytes).ok().and_then(|block| Head::decode(block.payload).ok());
            if head.is_some_and(|head| head.ordinal >= self.next_ordinal) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn spooled(&self) -> io::Result<Vec<Spooled>> {
        let names = self.fs.list(&self.spool)?;
        Ok(names.iter().filter_map(|name| parse_name(&self.spool, name)).collect())
    }

    /// Returns what brings the finished segments into the vault that the node log names and the vault may lack.
    /// Leftovers of a recovery that was cut down are removed.
    pub(crate) fn unpublished(&self, vault: &Vault) -> io::Result<Vec<Job>> {
        let mut out = Vec::new();
        for spooled in self.spooled()? {
            let logged = self.evidence.logged.get(&(spooled.session, spooled.segment_no));
            let matches = match logged {
                Some(sha256) => Sha256::digest(self.fs.read(&spooled.path)?).as_slice() == sha256,
                None => false,
            };
            if matches {
                let part = part_path(&self.spool, spooled.session, spooled.segment_no);
                let also_remove = spooled.recovered.then_some(part);
                let Spooled { session, segment_no, path, .. } = spooled;
                out.push(Job::Publish { session, segment_no, path, also_remove });
            } else if spooled.recovered
                || self.never_began(spooled.session)?
                || logged.is_some() && is_in(vault, &spooled)?
            {
                self.fs.remove(&spooled.path)?;
            }
        }
        Ok(out)
    }

    /// Returns how much space the copies of one session's segments take, of the one with most to copy: a recovery needs no
    /// less.
    pub(crate) fn copy_bytes_min(&self) -> io::Result<u64> {
        let mut sums: HashMap<SessionId, u64> = HashMap::new();
        for spooled in self.spooled()? {
            if !self.evidence.logged.contains_key(&(spooled.session, spooled.segment_no)) {
                *sums.entry(spooled.session).or_default() += self.fs.open(&spooled.path)?.size()?;
            }
        }
        Ok(sums.into_values().max().unwrap_or_default())
    }

    /// Returns the sessions that an earlier start left open.
    pub(crate) fn orphans(&self) -> io::Result<Vec<SessionId>> {
        let mut out: HashSet<SessionId> = self.evidence.records.keys().copied().collect();
        out.extend(self.spooled()?.into_iter().map(|spooled| spooled.session));
        out.retain(|session| !self.evidence.ended.contains(session));
        let mut orphans = Vec::new();
        for session in out {
            if !self.never_began(session)? {
                orphans.push(session);
            }
        }
        orphans.sort_unstable();
        Ok(orphans)
    }

    /// Ends one orphan. `None` where nothing of it is left to end.
    pub(crate) fn recover(&self, session: SessionId, now: Stamp) -> io::Result<Option<RecoveredSession>> {
        let (rebuilt, lost_turn) = self.rebuild(session)?;
        let Some(mut rebuilt) = rebuilt else { return Ok(None) };
        let mut closed = None;
        if rebuilt.blocks.chain().ended() {
            closed = rebuilt.close_reason;
            rebuilt.finish_segment();
        } else {
            self.embed_runs(session, lost_turn, &mut rebuilt);
            rebuilt.end(self.boot_id, &self.boot_key, now);
        }
        rebuilt.finished.retain(|segment_no, _| !self.evidence.logged.contains_key(&(session, *segment_no)));
        // All at once: none of them goes into the vault before the last is written.
        self.copies.enter(rebuilt.finished.values().map(|segment| segment.bytes.len() as u64).sum());
        let mut segments = Vec::new();
        for (segment_no, segment) in rebuilt.finished {
            segments.push(self.store(session, segment_no, &segment)?);
        }
        let torn_bytes = rebuilt.torn.len() as u64;
        Ok(Some(RecoveredSession { session, segments, chain: rebuilt.blocks.chain().clone(), closed, torn_bytes }))
    }

    /// Puts the live segments and the journal's blocks together; returns the result with the turn from which nothing counts.
    fn rebuild(&self, session: SessionId) -> io::Result<(Option<Rebuilt>, Option<u64>)> {
        let parts: BTreeMap<u32, PathBuf> = self
            .spooled()?
            .into_iter()
            .filter(|spooled| spooled.session == session && !spooled.recovered)
            .map(|spooled| (spooled.segment_no, spooled.path))
            .collect();
        let mut lying: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        for (segment_no, path) in parts {
            match self.fs.read(&path) {
                Ok(bytes) => drop(lying.insert(segment_no, bytes)),
                // One that the log names already is on its way into the vault.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let lost_turn = self.evidence.lost_turn(session, &lying);
        if lost_turn.is_some() {
            // A power cut took it before the commit that would have covered it.
            tracing::warn!(%session, "a block of this session did not reach the disk; its record ends before");
        }
        let logged = self.evidence.logged_blocks.get(&session).copied();
        let blocks = || {
            let turns = self.evidence.turns_of(session);
            let blocks = turns.filter(|(_, record)| matches!(record.kind, RecordKind::Block | RecordKind::Placed));
            blocks.filter(|(_, record)| logged.is_none_or(|logged| record.first > logged))
        };
        let is_whole = |turn: u64| lost_turn.is_none_or(|lost| turn < lost);
        // A large block lies in its live segment before the journal names it: one that the journal does not know belongs to
        // a turn that never was, and other events of that turn are nowhere.
        let known = blocks().take_while(|(turn, _)| is_whole(*turn)).map(|(_, record)| record.first).last();
        let first_lost = blocks().find(|(turn, _)| !is_whole(*turn)).map(|(_, record)| record.first);
        let standing = self.evidence.turns_of(session).take_while(|(turn, _)| is_whole(*turn));
        let standing =
            standing.filter(|(_, record)| record.kind == RecordKind::Standing).map(|(_, record)| record.first);
        let known = standing.chain(known.map(|known| known.saturating_add(1))).max();
        // Where the journal is gone, the segments are all there is.
        let end = known.or(first_lost).unwrap_or(u64::MAX);
        let mut stored: BTreeMap<u64, Block<'_>> = BTreeMap::new();
        for bytes in lying.values() {
            let mut rest = bytes.as_slice();
            while let Ok(block) = Block::parse(rest) {
                rest = rest.get(block.raw.len()..).unwrap_or_default();
                let block_no = block.header.block_no;
                if block_no < end && logged.is_none_or(|logged| block_no > logged) {
                    stored.insert(block_no, block);
                }
            }
        }
        for (_, record) in blocks().take_while(|(turn, _)| is_whole(*turn)) {
            let bytes = match record.kind {
                RecordKind::Placed => placed_block(&lying, record.payload),
                _ => Some(record.payload),
            };
            if let Some(block) = bytes.and_then(|bytes| Block::parse(bytes).ok()) {
                stored.insert(record.first, block);
            }
        }
        // By number, whoever had them: a power cut may have left the live segments with holes anywhere.
        let mut rebuilt: Option<Rebuilt> = None;
        for (block_no, block) in &stored {
            if !Rebuilt::take(&mut rebuilt, block) {
                tracing::error!(%session, block = block_no, "a block does not continue its session");
                break;
            }
        }
        if let Some(rebuilt) = &mut rebuilt {
            rebuilt.note_torn(&lying);
        }
        if rebuilt.is_none() {
            tracing::error!(%session, "nothing is left that this session could be recovered from");
        }
        Ok((rebuilt, lost_turn))
    }

    /// Embeds the journal's runs that no block covers.
    fn embed_runs(&self, session: SessionId, lost_turn: Option<u64>, rebuilt: &mut Rebuilt) {
        let is_whole = |turn: u64| lost_turn.is_none_or(|lost| turn < lost);
        rebuilt.reopen();
        for lane in Lane::ALL {
            let mut next = lane_events(rebuilt.blocks.chain(), lane);
            let mut group: Vec<&[u8]> = Vec::new();
            let (mut first, mut count, mut len) = (next, 0u32, 0usize);
            let turns = self.evidence.turns_of(session).take_while(|(turn, _)| is_whole(*turn)).map(|(_, run)| run);
            for run in turns.filter(|run| run.kind == RecordKind::Run && run.lane == lane) {
                if run.first != next {
                    // Below: a block covers it already. Above cannot be: the journal is read without holes.
                    continue;
                }
                if len + run.embedded.len() + 4 > PLAIN_LEN_MAX as usize {
                    rebuilt.micro(lane, first, count, &group);
                    group.clear();
                    (first, count, len) = (next, 0, 0);
                }
                len += run.embedded.len() + 4;
                group.push(run.embedded);
                count += run.event_count;
                next += u64::from(run.event_count);
            }
            if !group.is_empty() {
                rebuilt.micro(lane, first, count, &group);
            }
        }
    }

    fn store(
        &self,
        session: SessionId,
        segment_no: u32,
        segment: &Assembled,
    ) -> io::Result<(FinishedSegment, Option<PathBuf>)> {
        let part = part_path(&self.spool, session, segment_no);
        let path = part.with_extension("recovered");
        match self.fs.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.fs.create(&path)?;
        file.write_at(0, &segment.bytes)?;
        file.sync_data()?;
        self.fs.sync_dir(&self.spool)?;
        let finished = FinishedSegment {
            session,
            segment_no,
            bytes: segment.bytes.len() as u64,
            first_block: segment.first_block,
            last_block: segment.last_block,
            last_link: segment.last_link,
            sha256: Sha256::digest(&segment.bytes).into(),
            path,
        };
        Ok((finished, Some(part)))
    }
}

/// Whether what the log names in the place of a live segment is in the vault: a recovery replaced it, and was killed before it removed
/// it. Once the journal no longer knows of the session's end, it would look like a session that nobody ended.
fn is_in(vault: &Vault, spooled: &Spooled) -> io::Result<bool> {
    let segment = vault.get(&segment_key(spooled.session, spooled.segment_no)).map_err(io::Error::other)?;
    Ok(segment.is_some())
}

fn lane_events(chain: &Chain, lane: Lane) -> u64 {
    let [meta, output, input] = chain.events();
    match lane {
        Lane::Meta => meta,
        Lane::Output => output,
        Lane::Input => input,
    }
}

fn parse_name(spool: &Path, name: &str) -> Option<Spooled> {
    let mut words = name.split('.');
    let session = words.next()?.parse().ok()?;
    let segment_no = words.next()?.parse().ok()?;
    let recovered = match words.next()? {
        "part" => false,
        "recovered" => true,
        _ => return None,
    };
    words.next().is_none().then(|| Spooled { session, segment_no, path: spool.join(name), recovered })
}

/// Finds a block in the live segments by its place.
fn placed_block<'a>(lying: &'a BTreeMap<u32, Vec<u8>>, payload: &[u8]) -> Option<&'a [u8]> {
    let place = Place::parse(payload)?;
    let bytes = lying.get(&place.segment_no)?.get(usize::try_from(place.offset).ok()?..)?;
    let stored = bytes.get(..place.len as usize)?;
    // The link is the block's end; only the whole of it tells whether everything before it is there too.
    Block::parse(stored).is_ok_and(|block| block.link == place.link).then_some(stored)
}

#[cfg(test)]
mod tests;
