//! One session against what the node log says about it: every block of every segment, then how they fit together.
//!
//! Segments are checked apart from each other, so that they can be checked at once; what they begin and end with is
//! compared afterwards. The links fix every byte of a file, since the log names the last one and INDEX and trailer are
//! computed anew; the SHA-256 of whole files is checked on top where it is asked for.

use std::collections::BTreeMap;

use casemate_recorder::log::leaf::{Close as CloseLeaf, Open, SEGMENTS_MAX, SegmentRef};
use casemate_recorder::transcript::block::{Block, Codec, HEADER_LEN, Kind, Link};
use casemate_recorder::transcript::chain::{Chain, IndexEntry, TRAILER_LEN, events, parse_trailer};
use casemate_recorder::transcript::cipher::LaneKeys;
use casemate_recorder::transcript::head::{Head, Protocol, TranscriptKind};
use casemate_recorder::transcript::seal;
use casemate_recorder::transcript::wrap::{Identity, unwrap};
use casemate_recorder::vault::s3::Standing;
use casemate_recorder::vault::segment_key;
use ed25519_dalek::VerifyingKey;
use sha2::{Digest, Sha256};

use super::ledger::Ledger;
use super::numbers::Numbers;
use crate::ReplayError;
use crate::reader::SegmentReader;
use crate::vault::Vault;

/// How far a session had come when the log said so.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoggedHead {
    pub(super) block_no: u64,
    pub(super) link: Link,
    pub(super) events: u64,
}

/// What the log says about one finished segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoggedSegment {
    pub(super) bytes: u64,
    pub(super) sha256: [u8; 32],
    pub(super) last_link: Link,
    /// First and last block; only a SEGMENT leaf names them.
    pub(super) blocks: Option<(u64, u64)>,
    /// How old the log was when it first named it, in microseconds.
    pub(super) age_us: u64,
}

/// How the log says that the session ended.
#[derive(Debug, Clone)]
pub(super) struct LoggedEnd {
    pub(super) index: u64,
    pub(super) close: CloseLeaf,
    /// For a recovered session: how it was.
    pub(super) recovered: Option<Rescue>,
}

/// What the log says about the recovery of a session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rescue {
    /// The start that did it.
    pub(super) boot_id: [u8; 16],
    /// Its key and time, where the log has its BOOT.
    pub(super) boot: Option<Boot>,
    /// Bytes that were set aside.
    pub(super) torn_bytes: u64,
}

/// A start of the daemon.
#[derive(Debug, Clone, Copy)]
pub(super) struct Boot {
    pub(super) key: [u8; 32],
    pub(super) wall_us: u64,
}

/// All that the log says about one session.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) node: String,
    pub(super) open: Open,
    /// Index of the OPEN leaf.
    pub(super) index: u64,
    /// How many starts of the daemon the log held by then.
    pub(super) boots: u64,
    /// The newest of them.
    pub(super) boot_id: Option<[u8; 16]>,
    pub(super) heads: Vec<LoggedHead>,
    pub(super) segments: BTreeMap<u32, LoggedSegment>,
    pub(super) end: Option<LoggedEnd>,
    /// The segments that the vault was seen to hold before the log was read.
    pub(super) present: Vec<u32>,
    /// Time of the newest leaf that proves how far the session had come, in microseconds since 1970.
    pub(super) proof_us: u64,
    /// What already contradicts itself in the log.
    pub(super) problem: Option<String>,
}

impl Plan {
    /// Notes the first contradiction.
    pub(super) fn blame(&mut self, what: impl Into<String>) {
        self.problem.get_or_insert_with(|| what.into());
    }

    /// Takes what a leaf says about a segment; two leaves must say the same.
    pub(super) fn expect(&mut self, no: u32, segment: LoggedSegment) {
        let known = self.segments.entry(no).or_insert(segment);
        // CLOSE does not name blocks.
        let other_blocks = segment.blocks.is_some() && known.blocks != segment.blocks;
        if other_blocks
            || (known.bytes, known.sha256, known.last_link) != (segment.bytes, segment.sha256, segment.last_link)
        {
            self.blame(format!("the log names segment {no} twice, differently"));
        }
    }

    /// Returns how many segments the log names; they are numbered from 0 without a gap, or something is wrong.
    pub(super) fn segment_count(&mut self) -> u32 {
        let named = self.segments.len() as u32;
        match self.segments.last_key_value() {
            Some((last, _)) if last.checked_add(1) != Some(named) => {
                self.blame("the log leaves out a segment of the session");
                0
            }
            _ => named,
        }
    }

    /// Takes the end of the session, with how many starts there were by then, and how old the log was.
    pub(super) fn finish(&mut self, end: LoggedEnd, boots: u64, age_us: u64) {
        let close = &end.close;
        for SegmentRef { no, bytes, sha256, last_link } in close.segments.iter().copied() {
            // FORMAT.md §8: a segment is logged by a leaf of its own before it enters a vault, and CLOSE repeats it.
            if !self.segments.contains_key(&no) {
                self.blame(format!("the log closes the session with segment {no}, which no SEGMENT leaf names"));
            }
            self.expect(no, LoggedSegment { bytes, sha256, last_link, blocks: None, age_us });
        }
        // A start that ends the session of another lists what it had to finish itself.
        let listed = u32::try_from(close.segments.len()).unwrap_or(u32::MAX);
        let all = close.segment_count.min(SEGMENTS_MAX as u32);
        let last = close.segment_count.saturating_sub(listed)..close.segment_count;
        let in_order = close.segments.iter().map(|segment| segment.no).eq(last);
        if !in_order || (boots == self.boots && listed != all) {
            self.blame("the log closes the session, and does not list all its last segments, in their order");
        }
        let named = self.segments.len() as u64;
        let last = self.segments.last_key_value().map(|(no, segment)| (u64::from(*no), segment.last_link));
        if named != u64::from(close.segment_count) || last.map(|(no, _)| no + 1) != Some(named) {
            let count = close.segment_count;
            self.blame(format!("the log closes the session with {count} segments and names {named}"));
        } else if last.map(|(_, link)| link) != Some(close.last_link) {
            self.blame("the log closes the session with another link than its last segment");
        }
        self.end = Some(end);
    }
}

/// A segment that holds together in itself.
#[derive(Debug, Clone)]
pub(super) struct Sound {
    pub(super) first_block: u64,
    pub(super) prev: Link,
    pub(super) events_before: [u64; 3],
    pub(super) next_block: u64,
    pub(super) last_link: Link,
    pub(super) events_after: [u64; 3],
    pub(super) ended: bool,
    /// Stream bytes that CLOSE states.
    pub(super) stream_bytes: Option<u64>,
    pub(super) bytes: u64,
    pub(super) last_mono_us: u64,
    /// The numbers of its events, where they were read.
    pub(super) numbers: Option<Numbers>,
}

/// What became of one segment.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    Sound(Box<Sound>),
    /// As it was when an earlier run read it, and this long, in bytes.
    Rests(u64),
    /// Not in the vault.
    Absent,
    /// In the vault, and not what the log says.
    Altered(String),
    /// The operating system will not let it be read.
    Unreadable(String),
}

/// What is checked beyond what the links fix.
#[derive(Debug, Clone, Default)]
pub(super) struct Depth {
    /// Whether the SHA-256 of every segment is computed.
    pub(super) sha256: bool,
    /// What must open every session; then each event is read as well.
    pub(super) identities: Vec<Identity>,
}

/// Checks one segment: every version of it, where a bucket has several, and one that is right is enough.
///
/// # Errors
/// The bucket cannot be asked. What is wrong with the evidence is in the outcome.
pub(super) fn check_segment(
    vault: &Vault,
    plan: &Plan,
    no: u32,
    buffer: &mut Vec<u8>,
    depth: &Depth,
    ledger: &Ledger,
) -> Result<Outcome, ReplayError> {
    let Some(logged) = plan.segments.get(&no) else {
        return Ok(Outcome::Altered(format!("segment {no} is not named by the log")));
    };
    let session = plan.open.session;
    let versions = vault.segment_versions(session, no);
    // The links fix every byte as well; the sum tells versions apart without a doubt.
    let summed = depth.sha256 || versions.len() > 1;
    let mut outcome = Outcome::Absent;
    let (mut wrong, mut best) = (Vec::new(), None);
    for version in &versions {
        let checked = SegmentReader::open_version(vault, session, no, version, buffer).and_then(|opened| {
            let Some((reader, standing)) = opened else { return Ok(None) };
            let sha256 = summed.then(Sha256::new);
            let sound = Check { plan, no, logged, sha256, identities: &depth.identities }.run(reader)?;
            Ok(Some((sound, standing)))
        });
        let what = match checked {
            Ok(Some((sound, standing))) => {
                outcome = Outcome::Sound(Box::new(sound));
                let locked_until =
                    |standing: &Option<Standing>| standing.as_ref().and_then(|one| one.lock).map(|lock| lock.until_us);
                if best.is_none() || locked_until(&standing) > locked_until(&best) {
                    best = standing;
                }
                continue;
            }
            Ok(None) => continue,
            Err(error @ ReplayError::Storage(_)) => return Err(error),
            Err(ReplayError::Block { offset, source, .. }) => format!("segment {no}, byte {offset}: {source}"),
            Err(ReplayError::Chain { offset, source, .. }) => format!("segment {no}, byte {offset}: {source}"),
            Err(ReplayError::Evidence { what, .. }) => format!("segment {no}: {what}"),
            Err(error) => {
                if !matches!(outcome, Outcome::Sound(_)) {
                    outcome = Outcome::Unreadable(error.to_string());
                }
                continue;
            }
        };
        wrong.push(version);
        if matches!(outcome, Outcome::Absent) {
            outcome = Outcome::Altered(what);
        }
    }
    if matches!(outcome, Outcome::Sound(_)) {
        let key = segment_key(session, no);
        wrong.into_iter().for_each(|version| ledger.over(&key, version));
        if let Some(standing) = best {
            ledger.segment(&key, &standing, &plan.open);
        }
    }
    Ok(outcome)
}

/// One pass over one segment.
struct Check<'a> {
    plan: &'a Plan,
    no: u32,
    logged: &'a LoggedSegment,
    sha256: Option<Sha256>,
    identities: &'a [Identity],
}

/// What the pass carries from block to block.
struct Pass {
    chain: Chain,
    first_block: u64,
    prev: Link,
    events_before: [u64; 3],
    index: Vec<u8>,
    /// Offset and length of the last INDEX block.
    index_at: Option<(u64, u32)>,
    /// Blocks after it.
    after_index: u32,
    /// Whether the last block is signed.
    sealed: bool,
    next_head: usize,
    stream_bytes: Option<u64>,
    last_mono_us: u64,
    /// Where events are read as well, with the numbers of those that were.
    keys: Option<(LaneKeys, Numbers)>,
}

impl Check<'_> {
    fn altered(&self, what: impl Into<String>) -> ReplayError {
        ReplayError::evidence(format!("segment {}", self.no), what)
    }

    fn run(mut self, mut reader: SegmentReader<'_>) -> Result<Sound, ReplayError> {
        if reader.len() != self.logged.bytes {
            let (have, need) = (reader.len(), self.logged.bytes);
            return Err(self.altered(format!("{have} bytes long, and {need} by the log")));
        }
        let mut pass: Option<Pass> = None;
        let path = reader.path().to_owned();
        while let Some((offset, block)) = reader.next_block()? {
            if let Some(sha256) = &mut self.sha256 {
                sha256.update(block.raw);
            }
            let state = match &mut pass {
                Some(state) => state,
                empty => empty.insert(self.begin(&block)?),
            };
            state.chain.accept(&block.header, block.link).map_err(|source| ReplayError::Chain {
                path: path.clone(),
                offset,
                source,
            })?;
            self.block(state, offset, &block)?;
        }
        let trailer = reader.rest()?.ok_or_else(|| self.altered("something follows the trailer"))?;
        let pass = pass.ok_or_else(|| self.altered("holds no block"))?;
        self.end(&pass, &trailer)
    }

    /// Holds the HEAD of the segment against the OPEN leaf.
    fn begin(&self, block: &Block<'_>) -> Result<Pass, ReplayError> {
        let header = &block.header;
        if header.kind != Kind::Head {
            return Err(self.altered("does not begin with HEAD"));
        }
        if header.codec != Codec::default() {
            return Err(self.altered("HEAD is compressed or encrypted"));
        }
        if header.session != self.plan.open.session {
            return Err(self.altered(format!("belongs to session {}", header.session)));
        }
        let bad = |error: casemate_recorder::transcript::block::BlockError| self.altered(error.to_string());
        let head = Head::decode(block.payload).map_err(bad)?;
        if head.encode() != block.payload {
            return Err(self.altered("HEAD is not in its one valid spelling"));
        }
        let keys = match self.identities {
            [] => None,
            identities => Some(unwrap(&head, identities).map_err(|error| self.altered(error.to_string()))?),
        };
        let open = &self.plan.open;
        let same = head.node == self.plan.node
            && Some(*head.boot_id) == self.plan.boot_id
            && head.ordinal == open.ordinal
            && *head.session_pub == open.session_pub
            && kind_number(head.kind) == open.kind
            && protocol_number(head.protocol) == open.protocol;
        if !same {
            return Err(self.altered("HEAD is not the one that the log opened the session with"));
        }
        if self.no == 0 && block.link != open.head_link {
            return Err(self.altered("HEAD has another link than the log opened the session with"));
        }
        let first_block = header.block_no;
        Ok(Pass {
            chain: Chain::resume(header, head.events),
            first_block,
            prev: header.prev,
            events_before: head.events,
            index: Vec::new(),
            index_at: None,
            after_index: 0,
            sealed: false,
            next_head: self.plan.heads.partition_point(|head| head.block_no < first_block),
            stream_bytes: None,
            last_mono_us: 0,
            keys: keys.map(|keys| (keys, Numbers::default())),
        })
    }

    fn block(&self, pass: &mut Pass, offset: u64, block: &Block<'_>) -> Result<(), ReplayError> {
        let header = &block.header;
        let block_no = header.block_no;
        let in_block = |what: &str| self.altered(format!("block {block_no}: {what}"));
        if header.segment_no != self.no {
            return Err(in_block("says it is of another segment"));
        }
        pass.last_mono_us = pass.last_mono_us.max(header.mono_us.saturating_add(header.span_us));
        while let Some(head) = self.plan.heads.get(pass.next_head).filter(|head| head.block_no == block_no) {
            if head.link != block.link || head.events != total(pass.chain.events()) {
                return Err(in_block("is not the one that the log saw while the session was live"));
            }
            pass.next_head += 1;
        }
        let holds_events = matches!(header.kind, Kind::Data | Kind::Micro | Kind::Unknown(_));
        let plain = !header.codec.zstd && !header.codec.encrypted && header.plain_len == header.stored_len;
        if !holds_events && !plain {
            return Err(in_block("is compressed or encrypted, and only DATA and MICRO may be"));
        }
        pass.after_index = pass.after_index.saturating_add(1);
        pass.sealed = matches!(header.kind, Kind::Seal | Kind::Close | Kind::Recovered);
        match header.kind {
            Kind::Index => {
                if block.payload != pass.index {
                    return Err(in_block("INDEX does not describe the blocks before it"));
                }
                // After a crash an earlier one may lie in the middle; the last one counts.
                pass.index_at = Some((offset, block.raw.len() as u32));
                pass.after_index = 0;
            }
            Kind::Seal => {
                let statement = self.verify_seal(block, &self.plan.open.session_pub).map_err(|what| in_block(&what))?;
                if !statement.is_empty() {
                    return Err(in_block("a seal states nothing"));
                }
            }
            Kind::Close => self.close(pass, block).map_err(|what| in_block(&what))?,
            Kind::Recovered => self.recovered(pass, block).map_err(|what| in_block(&what))?,
            Kind::Data | Kind::Micro => {
                if let Some((keys, numbers)) = &mut pass.keys {
                    let read = events(block, keys).map_err(|error| in_block(&error.to_string()))?;
                    if let Some((_, twice)) = read.iter().find(|(_, entry)| !numbers.take(entry.seq)) {
                        return Err(in_block(&format!("event {} of the session is there twice", twice.seq)));
                    }
                }
            }
            Kind::Head | Kind::Unknown(_) => {}
        }
        IndexEntry::of(offset, header, block.link).append_to(&mut pass.index);
        Ok(())
    }

    fn verify_seal<'b>(&self, block: &Block<'b>, key: &[u8; 32]) -> Result<&'b [u8], String> {
        let key = VerifyingKey::from_bytes(key).map_err(|_| "the log names a key that is none".to_owned())?;
        seal::verify(&key, block.raw.get(..HEADER_LEN).unwrap_or_default(), block.payload)
            .map_err(|error| error.to_string())
    }

    fn close(&self, pass: &mut Pass, block: &Block<'_>) -> Result<(), String> {
        let statement = self.verify_seal(block, &self.plan.open.session_pub)?;
        let close: seal::Close = seal::decode_statement(statement).map_err(|error| error.to_string())?;
        if seal::encode_statement(&close) != statement {
            return Err("CLOSE is not in its one valid spelling".to_owned());
        }
        if close.events != pass.chain.events() || close.segments != self.no.saturating_add(1) {
            return Err("CLOSE counts other events or segments than there are".to_owned());
        }
        match &self.plan.end {
            Some(end) if end.recovered.is_some() => {
                return Err("CLOSE, and the log says that the session was recovered".to_owned());
            }
            Some(end) if end.close.reason != close.reason as u8 => {
                return Err("CLOSE gives another reason than the log".to_owned());
            }
            _ => {}
        }
        let [client, target] = close.bytes;
        pass.stream_bytes = Some(client.saturating_add(target));
        Ok(())
    }

    fn recovered(&self, pass: &Pass, block: &Block<'_>) -> Result<(), String> {
        let Some(LoggedEnd { recovered: Some(Rescue { boot_id, boot, torn_bytes }), .. }) = &self.plan.end else {
            return Err("RECOVERED, and the log does not say so".to_owned());
        };
        let boot = boot.ok_or("the log has no BOOT of the start that recovered the session")?;
        let statement = self.verify_seal(block, &boot.key)?;
        let recovered: seal::Recovered = seal::decode_statement(statement).map_err(|error| error.to_string())?;
        if seal::encode_statement(&recovered) != statement {
            return Err("RECOVERED is not in its one valid spelling".to_owned());
        }
        if *recovered.boot_id != *boot_id || recovered.torn_bytes != *torn_bytes {
            return Err("RECOVERED by another start, or of another tail, than the log says".to_owned());
        }
        if recovered.events != pass.chain.events() || recovered.segments != self.no.saturating_add(1) {
            return Err("RECOVERED counts other events or segments than there are".to_owned());
        }
        Ok(())
    }

    /// Holds the end of the segment against the log.
    fn end(&self, pass: &Pass, trailer: &[u8; TRAILER_LEN]) -> Result<Sound, ReplayError> {
        // What comes after INDEX ends the segment, so it must be signed: a seal of some kind, and just one.
        if pass.index_at.is_none() || pass.after_index != 1 || !pass.sealed {
            return Err(self.altered("does not end with INDEX and one seal"));
        }
        if parse_trailer(trailer) != pass.index_at {
            return Err(self.altered("trailer does not point to INDEX"));
        }
        let (next_block, last_link) = (pass.chain.next_block(), pass.chain.prev());
        if last_link != self.logged.last_link {
            return Err(self.altered("last link is not the one in the log"));
        }
        let blocks = (pass.first_block, next_block.saturating_sub(1));
        if self.logged.blocks.is_some_and(|logged| logged != blocks) {
            return Err(self.altered("holds other blocks than the log says"));
        }
        if let Some(sha256) = &self.sha256 {
            let sum: [u8; 32] = sha256.clone().chain_update(trailer).finalize().into();
            if sum != self.logged.sha256 {
                return Err(self.altered("SHA-256 is not the one in the log"));
            }
        }
        Ok(Sound {
            first_block: pass.first_block,
            prev: pass.prev,
            events_before: pass.events_before,
            next_block,
            last_link,
            events_after: pass.chain.events(),
            ended: pass.chain.ended(),
            stream_bytes: pass.stream_bytes,
            bytes: self.logged.bytes,
            last_mono_us: pass.last_mono_us,
            numbers: pass.keys.as_ref().map(|(_, numbers)| numbers.clone()),
        })
    }
}

/// Adds up lanes. Counts in a file are anybody's word until the log confirms them, so the sum must not overflow.
pub(super) fn total(events: [u64; 3]) -> u64 {
    events.iter().fold(0, |sum, events| sum.saturating_add(*events))
}

fn kind_number(kind: TranscriptKind) -> u8 {
    match kind {
        TranscriptKind::Session => 0,
        TranscriptKind::Portal => 1,
        TranscriptKind::Control => 2,
    }
}

fn protocol_number(protocol: Option<Protocol>) -> u8 {
    match protocol {
        None => 0,
        Some(Protocol::Ssh) => 1,
        Some(Protocol::Pg) => 2,
    }
}
