//! Journal records, sans-IO: what the node's write-ahead log is made of.
//!
//! A record is a 64-byte head, a payload, and zeros up to the next multiple of 8, so that a length never straddles a
//! sector. Checksums are salted with the file's salt: what a recycled file held before does not read as a record.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | length of head and payload; the top bit marks the last record of a turn |
//! | 4 | 4 | CRC-32C over the file's salt, the four bytes of the length, then the record from offset 8 |
//! | 8 | 8 | lsn: number of the record on this node, dense |
//! | 16 | 16 | session, zero for a leaf |
//! | 32 | 1 | kind: 1 run, 2 block, 3 leaf, 4 placed block, 5 standing |
//! | 33 | 1 | lane |
//! | 34 | 2 | zero |
//! | 36 | 4 | events in a run |
//! | 40 | 8 | first event of a run in its lane, number of a block, index of a leaf, number of the next block |
//! | 48 | 8 | boot-time clock that a run's times count from, microseconds since the session began |
//! | 56 | 8 | wall clock at that moment |

use crate::transcript::block::{Link, SessionId};
use crate::transcript::event::Lane;
use crate::transcript::micro::{MicroHead, RUN_KIND};

/// The length of a record's head.
pub const HEAD_LEN: usize = 64;

/// What follows the checksum and the number, and what a MICRO block embeds.
pub const EMBEDDED_FROM: usize = 16;

/// Where a record says its kind.
const KIND_AT: usize = 32;

/// The longest record: a whole block and a head.
pub const RECORD_LEN_MAX: usize = 2 * 1024 * 1024;

/// Set in the length of the last record of a turn. What follows the last mark was never acknowledged.
const TURN_END: u32 = 1 << 31;

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// Consecutive events of one lane.
    Run,
    /// A finished block.
    Block,
    /// A leaf of the node log.
    Leaf,
    /// Where a large block lies that was written to its live segment directly; the payload is a [`Place`].
    Placed,
    /// How far a session had come when the journal file was begun: what the files before said of its blocks, in a word.
    Standing,
}

/// Where a large block lies: bulk is written once, to its segment, and the journal only names it.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | segment |
/// | 4 | 4 | length of the block |
/// | 8 | 8 | offset in the segment |
/// | 16 | 32 | link of the block |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The segment.
    pub segment_no: u32,
    /// Length of the block, with header and link.
    pub len: u32,
    /// Offset in the segment.
    pub offset: u64,
    /// The block's link.
    pub link: Link,
}

impl Place {
    /// Writes the payload.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(48);
        out.extend_from_slice(&self.segment_no.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.link.0);
        out
    }

    /// Reads the payload; `None` where it is not one.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        Some(Self {
            segment_no: u32::from_le_bytes(array(payload, 0)?),
            len: u32::from_le_bytes(array(payload, 4)?),
            offset: u64::from_le_bytes(array(payload, 8)?),
            link: Link(array(payload, 16)?),
        })
    }
}

/// A record that was read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// Number on this node.
    pub lsn: u64,
    /// The session; zero for a leaf.
    pub session: SessionId,
    /// What it holds.
    pub kind: RecordKind,
    /// The lane of a run.
    pub lane: Lane,
    /// Events in a run.
    pub event_count: u32,
    /// First event, number of the block or of the next one, or index of the leaf.
    pub first: u64,
    /// What follows the head.
    pub payload: &'a [u8],
    /// The record from [`EMBEDDED_FROM`] on.
    pub embedded: &'a [u8],
    /// Length on disk, with the padding.
    pub padded_len: usize,
    /// Whether the turn ends with this record.
    pub ends_turn: bool,
}

/// The head of a record that is being written.
#[derive(Debug, Clone, Copy)]
pub struct RecordHead {
    kind: u8,
    /// What a MICRO block would embed, but for the kind.
    micro: MicroHead,
}

impl RecordHead {
    /// Describes a run of events.
    pub fn run(head: MicroHead) -> Self {
        Self { kind: RUN_KIND, micro: head }
    }

    /// Describes a finished block.
    pub fn block(session: SessionId, block_no: u64) -> Self {
        Self::bare(2, session, block_no)
    }

    /// Describes a block that lies in its segment already.
    pub fn placed(session: SessionId, block_no: u64) -> Self {
        Self::bare(4, session, block_no)
    }

    /// Says that a live session's blocks before `next_block` are recorded.
    pub fn standing(session: SessionId, next_block: u64) -> Self {
        Self::bare(5, session, next_block)
    }

    /// Describes a leaf.
    pub fn leaf(index: u64) -> Self {
        Self::bare(3, SessionId([0; 16]), index)
    }

    fn bare(kind: u8, session: SessionId, first: u64) -> Self {
        let micro = MicroHead { session, lane: Lane::Meta, event_count: 0, first_event: first, mono_us: 0, wall_us: 0 };
        Self { kind, micro }
    }

    /// Appends the record with this head and payload to `out`.
    pub fn append(&self, out: &mut Vec<u8>, salt: u64, lsn: u64, payload: &[u8]) {
        let start = out.len();
        let len = HEAD_LEN + payload.len();
        out.extend_from_slice(&(len as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&lsn.to_le_bytes());
        out.extend_from_slice(&self.micro.encode());
        if let Some(kind) = out.get_mut(start + KIND_AT) {
            *kind = self.kind;
        }
        out.extend_from_slice(payload);
        if let Some(record) = out.get_mut(start..) {
            set_checksum(record, salt);
        }
        out.resize(start + padded(len), 0);
    }
}

/// Marks the record at the front of `bytes` as the last of its turn.
pub fn end_turn(bytes: &mut [u8], salt: u64) {
    let Some(field) = bytes.first_chunk_mut::<4>() else { return };
    let len = u32::from_le_bytes(*field);
    *field = (len | TURN_END).to_le_bytes();
    if let Some(record) = bytes.get_mut(..len as usize) {
        set_checksum(record, salt);
    }
}

fn set_checksum(record: &mut [u8], salt: u64) {
    if let Some((head, rest)) = record.split_first_chunk_mut::<8>()
        && let Some((len, crc)) = head.split_first_chunk_mut::<4>()
        && let Some(crc) = crc.first_chunk_mut::<4>()
    {
        *crc = checksum(salt, *len, rest).to_le_bytes();
    }
}

/// Returns the length on disk of a record with a payload of `payload_len` bytes.
pub fn record_len(payload_len: usize) -> usize {
    padded(HEAD_LEN + payload_len)
}

fn padded(len: usize) -> usize {
    len.next_multiple_of(8)
}

fn checksum(salt: u64, len: [u8; 4], rest: &[u8]) -> u32 {
    let salted = crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &len);
    crc32c::crc32c_append(salted, rest)
}

/// Reads the record at the front of `bytes`; `None` where there is none with this salt.
pub fn parse(bytes: &[u8], salt: u64) -> Option<Record<'_>> {
    let (field, _) = bytes.split_first_chunk::<4>()?;
    let marked = u32::from_le_bytes(*field);
    let len = (marked & !TURN_END) as usize;
    if !(HEAD_LEN..=RECORD_LEN_MAX).contains(&len) {
        return None;
    }
    let record = bytes.get(..len)?;
    let crc = u32::from_le_bytes(array(record, 4)?);
    if checksum(salt, *field, record.get(8..)?) != crc {
        return None;
    }
    let kind = match record.get(KIND_AT)? {
        1 => RecordKind::Run,
        2 => RecordKind::Block,
        3 => RecordKind::Leaf,
        4 => RecordKind::Placed,
        5 => RecordKind::Standing,
        _ => return None,
    };
    Some(Record {
        lsn: u64::from_le_bytes(array(record, 8)?),
        session: SessionId(array(record, 16)?),
        kind,
        lane: Lane::from_u8(*record.get(33)?)?,
        event_count: u32::from_le_bytes(array(record, 36)?),
        first: u64::from_le_bytes(array(record, 40)?),
        payload: record.get(HEAD_LEN..)?,
        embedded: record.get(EMBEDDED_FROM..)?,
        padded_len: padded(len),
        ends_turn: marked & TURN_END != 0,
    })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        RecordHead::block(SessionId([5; 16]), 77).append(&mut out, 42, 9, payload);
        out
    }

    #[test]
    fn a_record_survives_the_round_trip() {
        let bytes = stored(b"payload");
        assert_eq!(bytes.len(), record_len(7));
        let record = parse(&bytes, 42).unwrap();
        assert_eq!((record.lsn, record.session, record.kind), (9, SessionId([5; 16]), RecordKind::Block));
        assert_eq!((record.first, record.payload, record.padded_len), (77, b"payload".as_slice(), bytes.len()));
        assert_eq!(&record.embedded[..16], [5; 16]);
    }

    #[test]
    fn the_end_of_a_turn_is_part_of_what_is_checked() {
        let mut bytes = stored(b"payload");
        assert!(!parse(&bytes, 42).unwrap().ends_turn);
        end_turn(&mut bytes, 42);
        assert!(parse(&bytes, 42).unwrap().ends_turn);
        assert_eq!(parse(&bytes, 42).unwrap().payload, b"payload");
    }

    #[test]
    fn another_salt_a_flipped_bit_or_a_cut_is_no_record() {
        let bytes = stored(b"payload!");
        assert!(parse(&bytes, 43).is_none());
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bad, 42).is_none(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(parse(&bytes[..cut], 42).is_none(), "cut at {cut}");
        }
    }
}
