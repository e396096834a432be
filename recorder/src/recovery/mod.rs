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
use crate::transcript::seal::CloseReason;

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
    /// Runs and blocks per session: file and offset.
    records: HashMap<SessionId, Vec<(usize, usize)>>,
    /// How many blocks of a session were recorded. A large block lies in its live segment before the journal names it: one
    /// that the journal does not know belongs to a turn that never was, and other events of that turn are nowhere.
    blocks: HashMap<SessionId, u64>,
    /// Sessions with an OPEN leaf.
    opened: HashSet<SessionId>,
    /// Sessions with a CLOSE or RECOVERED leaf.
    ended: HashSet<SessionId>,
    /// SHA-256 of segments with a SEGMENT leaf.
    logged: HashMap<(SessionId, u32), [u8; 32]>,
}

impl Evidence {
    /// Indexes the journal; every leaf goes to `leaf` as well, in order.
    pub(crate) fn gather<E>(
        files: Vec<ScannedFile>,
        mut leaf: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut out = Self::default();
        for (number, file) in files.iter().enumerate() {
            let mut at = FILE_HEAD_LEN as usize;
            for record in file.records() {
                if record.kind == RecordKind::Leaf {
                    leaf(record.first, record.payload)?;
                    out.note_leaf(record.payload);
                } else {
                    out.records.entry(record.session).or_default().push((number, at));
                    out.note_blocks(&record);
                }
                at += record.padded_len;
            }
        }
        out.files = files;
        Ok(out)
    }

    fn note_blocks(&mut self, record: &Record<'_>) {
        let next = match record.kind {
            RecordKind::Block | RecordKind::Placed => record.first.saturating_add(1),
            RecordKind::Standing => record.first,
            RecordKind::Run | RecordKind::Leaf => return,
        };
        let blocks = self.blocks.entry(record.session).or_default();
        *blocks = next.max(*blocks);
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
            }
            _ => {}
        }
    }

    fn records_of(&self, session: SessionId) -> impl Iterator<Item = Record<'_>> {
        let places = self.records.get(&session).map(Vec::as_slice).unwrap_or_default();
        places.iter().filter_map(|(number, at)| {
            let file = self.files.get(*number)?;
            record::parse(file.bytes.get(*at..)?, file.head.salt)
        })
    }

    /// Returns the journal files, which may be recycled once every session is recovered.
    pub(crate) fn journal_files(&self) -> Vec<PathBuf> {
        self.files.iter().map(|file| file.path.clone()).collect()
    }

    /// Whether the session never began: its HEAD is in the journal, but the OPEN leaf of the same commit is not, so
    /// nobody was ever told that it is open.
    fn never_began(&self, session: SessionId) -> bool {
        !self.opened.contains(&session)
            && self.records_of(session).any(|record| record.kind == RecordKind::Block && record.first == 0)
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
    /// Bytes of copies that are not in the vault yet: on a small disk they must not all lie there at once.
    pub(crate) copies: Arc<Backlog>,
}

impl Recovery {
    fn spooled(&self) -> io::Result<Vec<Spooled>> {
        let names = self.fs.list(&self.spool)?;
        Ok(names.iter().filter_map(|name| parse_name(&self.spool, name)).collect())
    }

    /// Returns what brings the finished segments into the vault that the node log names and the vault may lack.
    /// Leftovers of a recovery that was cut down are removed.
    pub(crate) fn unpublished(&self) -> io::Result<Vec<Job>> {
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
            } else if spooled.recovered || self.evidence.never_began(spooled.session) {
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
        out.retain(|session| !self.evidence.ended.contains(session) && !self.evidence.never_began(*session));
        let mut out: Vec<_> = out.into_iter().collect();
        out.sort_unstable();
        Ok(out)
    }

    /// Ends one orphan. `None` where nothing of it is left to end.
    pub(crate) fn recover(&self, session: SessionId, now: Stamp) -> io::Result<Option<RecoveredSession>> {
        let Some(mut rebuilt) = self.rebuild(session)? else { return Ok(None) };
        let mut closed = None;
        if rebuilt.blocks.chain().ended() {
            closed = rebuilt.close_reason;
            rebuilt.finish_segment();
        } else {
            self.embed_runs(session, &mut rebuilt);
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

    /// Puts the live segments and the journal's blocks together.
    fn rebuild(&self, session: SessionId) -> io::Result<Option<Rebuilt>> {
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
        let mut rebuilt: Option<Rebuilt> = None;
        for bytes in lying.values() {
            let mut rest = bytes.as_slice();
            while let Ok(block) = Block::parse(rest) {
                // Where the journal is gone, the segment is all there is.
                let recorded = self.evidence.blocks.get(&session).is_none_or(|blocks| block.header.block_no < *blocks);
                if !recorded || !Rebuilt::take(&mut rebuilt, &block) {
                    break;
                }
                rest = rest.get(block.raw.len()..).unwrap_or_default();
            }
        }
        for record in self.evidence.records_of(session) {
            let stored = match record.kind {
                RecordKind::Block => Some(record.payload),
                RecordKind::Placed => placed_block(&lying, record.payload),
                RecordKind::Run | RecordKind::Leaf | RecordKind::Standing => continue,
            };
            if rebuilt.as_ref().is_some_and(|rebuilt| record.first < rebuilt.blocks.chain().next_block()) {
                continue;
            }
            let taken = stored
                .and_then(|stored| Block::parse(stored).ok())
                .is_some_and(|block| Rebuilt::take(&mut rebuilt, &block));
            if !taken {
                // Under durability `process` a power cut may take a block whose place is known. Never acknowledged as durable.
                tracing::warn!(%session, block = record.first, "a block of this session did not reach the disk");
                break;
            }
        }
        if let Some(rebuilt) = &mut rebuilt {
            rebuilt.note_torn(&lying);
        }
        if rebuilt.is_none() {
            tracing::error!(%session, "nothing is left that this session could be recovered from");
        }
        Ok(rebuilt)
    }

    /// Embeds the journal's runs that no block covers.
    fn embed_runs(&self, session: SessionId, rebuilt: &mut Rebuilt) {
        rebuilt.reopen();
        for lane in Lane::ALL {
            let mut next = lane_events(rebuilt.blocks.chain(), lane);
            let mut group: Vec<&[u8]> = Vec::new();
            let (mut first, mut count, mut len) = (next, 0u32, 0usize);
            for run in self.evidence.records_of(session).filter(|run| run.kind == RecordKind::Run && run.lane == lane) {
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
    stored.ends_with(&place.link.0).then_some(stored)
}

#[cfg(test)]
mod tests;
