//! Recovery: what a start does about the sessions that the start before left behind.
//!
//! It reads the journal and the live segments, embeds what the blocks lack verbatim (MICRO blocks; nothing is decrypted)
//! and ends each transcript with RECOVERED, signed by the boot key of this start. Until the node log holds the end, the
//! result lies in a file of its own (`*.recovered`) beside the untouched segment, so a recovery that is cut down itself
//! is simply done again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use sha2::{Digest, Sha256};

use crate::fs::Fs;
use crate::journal::file::{FILE_HEAD_LEN, ScannedFile};
use crate::journal::record::{self, Place, Record, RecordKind};
use crate::keeper::{FinishedSegment, Job, part_path};
use crate::log::leaf::Leaf;
use crate::transcript::Stamp;
use crate::transcript::block::{Block, Kind, PLAIN_LEN_MAX, SessionId};
use crate::transcript::chain::{self, Chain, TRAILER_LEN};
use crate::transcript::event::Lane;
use crate::transcript::head::Head;
use crate::transcript::seal::{self, CloseReason, Recovered, SIGNATURE_LEN};
use crate::transcript::writer::BlockChain;

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
                }
                at += record.padded_len;
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
        let mut segments = Vec::new();
        for (segment_no, segment) in rebuilt.finished {
            if self.evidence.logged.contains_key(&(session, segment_no)) {
                continue;
            }
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
            lying.insert(segment_no, self.fs.read(&path)?);
        }
        let mut rebuilt: Option<Rebuilt> = None;
        for bytes in lying.values() {
            let mut rest = bytes.as_slice();
            while let Ok(block) = Block::parse(rest) {
                if !Rebuilt::take(&mut rebuilt, &block) {
                    break;
                }
                rest = rest.get(block.raw.len()..).unwrap_or_default();
            }
        }
        for record in self.evidence.records_of(session) {
            let stored = match record.kind {
                RecordKind::Block => Some(record.payload),
                RecordKind::Placed => placed_block(&lying, record.payload),
                RecordKind::Run | RecordKind::Leaf => continue,
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

/// A segment that is complete in memory.
#[derive(Debug)]
struct Assembled {
    bytes: Vec<u8>,
    first_block: u64,
    last_block: u64,
    last_link: crate::transcript::block::Link,
}

/// A transcript that is being put together again.
#[derive(Debug)]
struct Rebuilt {
    blocks: BlockChain,
    head: Head,
    /// The segment at hand.
    bytes: Vec<u8>,
    first_block: u64,
    /// Offset and length of the last INDEX of the segment at hand, and whether a seal follows it.
    index: Option<(u64, u32)>,
    last_kind: Kind,
    close_reason: Option<CloseReason>,
    finished: BTreeMap<u32, Assembled>,
    /// What follows the last whole block in the live file.
    torn: Vec<u8>,
}

impl Rebuilt {
    /// Takes the next block; false where it does not continue what is there.
    fn take(this: &mut Option<Self>, block: &Block<'_>) -> bool {
        if block.header.kind == Kind::Head {
            let Ok(head) = Head::decode(block.payload) else { return false };
            match this {
                None => {
                    *this = Some(Self {
                        blocks: BlockChain::resume(Chain::resume(&block.header, head.events)),
                        head,
                        bytes: Vec::new(),
                        first_block: block.header.block_no,
                        index: None,
                        last_kind: Kind::Head,
                        close_reason: None,
                        finished: BTreeMap::new(),
                        torn: Vec::new(),
                    });
                }
                Some(rebuilt) => {
                    if block.header.block_no != rebuilt.blocks.chain().next_block() {
                        return false;
                    }
                    rebuilt.finish_segment();
                    rebuilt.begin_segment();
                    rebuilt.head = head;
                }
            }
        }
        let Some(rebuilt) = this else { return false };
        let offset = rebuilt.blocks.segment_bytes();
        if rebuilt.blocks.adopt(block).is_err() {
            return false;
        }
        match block.header.kind {
            Kind::Index => rebuilt.index = Some((offset, block.raw.len() as u32)),
            Kind::Close => {
                let statement = block.payload.len().checked_sub(SIGNATURE_LEN).and_then(|len| block.payload.get(..len));
                let close = statement.and_then(|statement| seal::decode_statement::<seal::Close>(statement).ok());
                rebuilt.close_reason = close.map(|close| close.reason);
            }
            _ => {}
        }
        rebuilt.last_kind = block.header.kind;
        rebuilt.bytes.extend_from_slice(block.raw);
        true
    }

    /// Notes what the live file of the segment at hand holds beyond its last whole block.
    fn note_torn(&mut self, lying: &BTreeMap<u32, Vec<u8>>) {
        let rest = lying.get(&self.blocks.chain().segment_no()).and_then(|bytes| bytes.get(self.bytes.len()..));
        let rest = rest.unwrap_or_default();
        let trailer = self.index.map(|(offset, len)| chain::trailer(offset, len));
        let is_trailer = trailer.is_some_and(|trailer| trailer.starts_with(rest));
        // A hole is room that a block was to fill, not something that was written.
        let is_hole = rest.iter().all(|byte| *byte == 0);
        self.torn = if is_trailer || is_hole { Vec::new() } else { rest.to_vec() };
    }

    /// Puts the trailer behind the segment at hand and sets it aside.
    fn finish_segment(&mut self) {
        if let Some((offset, len)) = self.index {
            self.bytes.extend_from_slice(&chain::trailer(offset, len));
        }
        let chain = self.blocks.chain();
        let assembled = Assembled {
            bytes: std::mem::take(&mut self.bytes),
            first_block: self.first_block,
            last_block: chain.next_block().saturating_sub(1),
            last_link: chain.prev(),
        };
        self.finished.insert(chain.segment_no(), assembled);
    }

    fn begin_segment(&mut self) {
        self.blocks.next_segment();
        self.first_block = self.blocks.chain().next_block();
        self.index = None;
    }

    /// Where the crash fell exactly between two segments, begins the one that is to hold the end.
    fn reopen(&mut self) {
        if self.index.is_some() && self.last_kind == Kind::Seal {
            self.finish_segment();
            self.begin_segment();
            self.head.events = self.blocks.chain().events();
            let built = self.blocks.head(&self.head);
            self.bytes.extend_from_slice(&built.bytes);
        }
    }

    fn micro(&mut self, lane: Lane, first: u64, count: u32, records: &[&[u8]]) {
        let built = self.blocks.micro(lane, first, count, *self.head.journal_salt, records);
        self.bytes.extend_from_slice(&built.bytes);
    }

    fn end(&mut self, boot_id: [u8; 16], boot_key: &SigningKey, now: Stamp) {
        let torn_blake3 = if self.torn.is_empty() { [0; 32] } else { *blake3::hash(&self.torn).as_bytes() };
        let statement = Recovered {
            boot_id: boot_id.into(),
            torn_bytes: self.torn.len() as u64,
            torn_blake3: torn_blake3.into(),
            events: self.blocks.chain().events(),
            segments: self.blocks.chain().segment_no().saturating_add(1),
            wall_us: now.wall_us,
        };
        let (blocks, trailer) = self.blocks.recovered(&statement, boot_key);
        for built in blocks {
            self.bytes.extend_from_slice(&built.bytes);
        }
        self.bytes.extend_from_slice(&trailer);
        debug_assert_eq!(trailer.len(), TRAILER_LEN);
        self.index = None;
        self.finish_segment();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::OsFs;
    use crate::journal::file::{JournalWriter, scan};
    use crate::journal::pool::Pool;
    use crate::journal::record::RecordHead;
    use crate::transcript::block::{Compressor, HEADER_LEN};
    use crate::transcript::event::{Event, Side, ssh_in, ssh_out};
    use crate::transcript::head::{Durability, Protocol, TranscriptKind};
    use crate::transcript::writer::{Built, Writer};
    use bytes::Bytes;

    const SESSION: SessionId = SessionId([9; 16]);

    /// A session's life as the journal thread would write it, and how many events each turn made durable.
    struct Life {
        journal: JournalWriter,
        spool: PathBuf,
        durable: Vec<u64>,
        events: u64,
    }

    impl Life {
        fn block(&mut self, built: &Built) {
            self.journal.append(&RecordHead::block(SESSION, built.block_no), &built.bytes);
        }

        fn runs(&mut self, writer: &mut Writer) {
            for lane in Lane::ALL {
                if let Some(run) = writer.take_run(lane) {
                    self.events += u64::from(run.event_count);
                    self.journal.append(&RecordHead::run(SESSION, lane, &run), run.encoded);
                }
            }
        }

        fn end_turn(&mut self) {
            self.journal.write().unwrap();
            self.durable.push(self.events);
        }
    }

    fn at(us: u64) -> Stamp {
        Stamp { wall_us: 1_000_000_000 + us, boot_us: us }
    }

    /// Two segments: typed and shown text, blocks of both lanes, a roll, a tail that is only runs, and the close.
    fn live(dir: &Path) -> Life {
        let fs: Arc<dyn Fs> = Arc::new(OsFs);
        std::fs::create_dir_all(dir.join("journal")).unwrap();
        std::fs::create_dir_all(dir.join("spool")).unwrap();
        let pool = Arc::new(Pool::new(Arc::clone(&fs), dir.join("journal"), 4));
        let worker = Arc::clone(&pool);
        std::thread::spawn(move || worker.run(|_| {}));
        let journal = JournalWriter::create(fs, pool, [1; 16], 0, 0).unwrap();
        let mut life = Life { journal, spool: dir.join("spool"), durable: Vec::new(), events: 0 };
        let mut compressor = Compressor::new().unwrap();
        let key = SigningKey::from_bytes(&[3; 32]);
        let head = Head {
            format: 1,
            node: "n".into(),
            boot_id: [1; 16].into(),
            kind: TranscriptKind::Session,
            protocol: Some(Protocol::Ssh),
            durability: Durability::Causal,
            session_pub: key.verifying_key().to_bytes().into(),
            ordinal: 0,
            policy_hash: [2; 32].into(),
            lane_keys: None,
            journal_salt: [4; 16].into(),
            software: "test".into(),
            events: [0; 3],
        };
        let (mut writer, built) = Writer::begin(SESSION, head, key, at(0));
        life.block(&built);
        let open = crate::log::leaf::Open {
            session: SESSION,
            kind: 0,
            protocol: 1,
            ordinal: 0,
            head_link: built.link,
            session_pub: [0; 32],
            wall_us: 0,
            retain_until_us: 0,
        };
        life.journal.append(&RecordHead::leaf(0), &Leaf::Open(open).encode().unwrap());
        life.end_turn();
        for turn in 1..40u64 {
            writer.append(
                Side::Client,
                &Event::stream(ssh_in::TYPE, 0, Bytes::from(vec![turn as u8; 2])),
                at(turn * 10),
            );
            writer.append(
                Side::Target,
                &Event::stream(ssh_out::TYPE, 0, Bytes::from(vec![turn as u8; 9])),
                at(turn * 10 + 1),
            );
            life.runs(&mut writer);
            if turn % 7 == 0 {
                let built = writer.cut(Lane::Output, &mut compressor).unwrap();
                life.block(&built);
            }
            if turn == 20 {
                let built = writer.cut(Lane::Input, &mut compressor).unwrap();
                life.block(&built);
                let (end, head) = writer.roll(at(turn * 10 + 2));
                end.blocks.iter().chain([&head]).for_each(|built| life.block(built));
            }
            life.end_turn();
        }
        for lane in Lane::ALL {
            if let Some(built) = writer.cut(lane, &mut compressor) {
                life.block(&built);
            }
        }
        writer.close(CloseReason::Client, Some(0), at(500)).blocks.iter().for_each(|built| life.block(built));
        life.end_turn();
        life
    }

    fn recover(dir: &Path) -> Option<(RecoveredSession, Vec<u8>)> {
        let files = scan(&OsFs, &dir.join("journal")).unwrap().files;
        let recovery = Recovery {
            fs: Arc::new(OsFs),
            spool: dir.join("spool"),
            evidence: Evidence::gather(files, |_, _| Ok::<_, io::Error>(())).unwrap(),
            boot_id: [8; 16],
            boot_key: SigningKey::from_bytes(&[7; 32]),
        };
        let orphans = recovery.orphans().unwrap();
        let recovered = recovery.recover(*orphans.first()?, at(1000)).unwrap()?;
        let stored = recovered.segments.iter().flat_map(|(finished, _)| {
            let mut bytes = std::fs::read(&finished.path).unwrap();
            assert_eq!(Sha256::digest(&bytes).as_slice(), finished.sha256);
            let trailer: [u8; TRAILER_LEN] = bytes.split_off(bytes.len() - TRAILER_LEN).try_into().unwrap();
            let (offset, len) = chain::parse_trailer(&trailer).unwrap();
            let index = Block::parse(&bytes[offset as usize..]).unwrap();
            assert_eq!((index.header.kind, index.raw.len()), (Kind::Index, len as usize));
            bytes
        });
        let stored = stored.collect();
        Some((recovered, stored))
    }

    /// Reads segments that follow each other and returns how many events they hold, which must be dense.
    fn count_events(mut stored: &[u8]) -> (u64, Kind) {
        let (mut chain, mut seqs, mut last) = (Chain::new(SESSION), Vec::new(), Kind::Head);
        while !stored.is_empty() {
            let block = Block::parse(stored).unwrap();
            if block.header.kind == Kind::Head && block.header.block_no > 0 {
                chain.next_segment();
            }
            chain.accept(&block.header, block.link).unwrap();
            if block.header.kind.holds_events() {
                seqs.extend(chain::events(&block).unwrap().into_iter().map(|(_, entry)| entry.seq));
            }
            if block.header.kind == Kind::Recovered {
                let key = SigningKey::from_bytes(&[7; 32]).verifying_key();
                let statement = seal::verify(&key, &block.raw[..HEADER_LEN], block.payload).unwrap();
                let recovered: Recovered = seal::decode_statement(statement).unwrap();
                assert_eq!(recovered.events, chain.events());
            }
            last = block.header.kind;
            stored = &stored[block.raw.len()..];
        }
        seqs.sort_unstable();
        assert!(seqs.iter().copied().eq(0..seqs.len() as u64), "{seqs:?}");
        (seqs.len() as u64, last)
    }

    #[test]
    fn a_cut_at_any_record_loses_nothing_that_was_durable_and_shows_nothing_that_was_not() {
        let dir = tempfile::tempdir().unwrap();
        let life = live(dir.path());
        let path = crate::journal::file::path(&dir.path().join("journal"), 0);
        let file = scan(&OsFs, &dir.path().join("journal")).unwrap().files.remove(0);
        let (mut end, mut turns, mut cuts) = (FILE_HEAD_LEN as usize, 0, Vec::new());
        for record in file.records() {
            end += record.padded_len;
            turns += usize::from(record.ends_turn);
            // Once exactly behind the record, once inside the next.
            cuts.extend([(end, turns), (end + 13, turns)]);
        }
        assert_eq!(turns, life.durable.len());
        for (cut, turns) in cuts {
            std::fs::write(&path, file.bytes.get(..cut).unwrap_or(&file.bytes)).unwrap();
            let recovered = recover(dir.path());
            let Some(durable) = turns.checked_sub(1).map(|turn| life.durable[turn]) else {
                assert!(recovered.is_none(), "nobody was told that this session is open");
                continue;
            };
            let (recovered, stored) = recovered.unwrap();
            let (events, last) = count_events(&stored);
            assert_eq!(events, durable, "cut at {cut}, after turn {turns}");
            assert_eq!(recovered.closed.is_some(), last == Kind::Close);
            assert!(matches!(last, Kind::Close | Kind::Recovered));
            for (finished, _) in recovered.segments {
                std::fs::remove_file(finished.path).unwrap();
            }
        }
    }

    #[test]
    fn a_live_segment_torn_at_any_place_is_made_whole_from_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let life = live(dir.path());
        let (_, whole) = recover(dir.path()).unwrap();
        let total = count_events(&whole).0;
        let second = {
            let mut rest = whole.as_slice();
            loop {
                let block = Block::parse(rest).unwrap();
                if block.header.kind == Kind::Head && block.header.block_no > 0 {
                    break whole.len() - rest.len();
                }
                rest = &rest[block.raw.len()..];
            }
        };
        for cut in (0..second).step_by(37) {
            std::fs::write(part_path(&life.spool, SESSION, 0), &whole[..cut]).unwrap();
            let (recovered, stored) = recover(dir.path()).unwrap();
            assert_eq!((count_events(&stored).0, recovered.torn_bytes), (total, 0), "cut at {cut}");
            assert_eq!(stored, whole);
            for (finished, _) in recovered.segments {
                std::fs::remove_file(finished.path).unwrap();
            }
        }
    }
}
