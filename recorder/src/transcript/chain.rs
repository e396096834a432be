//! The chain: what makes a run of blocks one transcript.
//!
//! [`Chain`] is fed every block in order and says what does not fit; writer, recovery and verifier all go through it, so
//! there is one notion of "continues". The end of a segment, its INDEX and trailer, is here too.

use super::block::{Block, BlockError, HEADER_LEN, Header, Kind, LINK_LEN, Link, SessionId};
use super::cipher::LaneKeys;
use super::event::{Entry, Lane, decode};
use super::micro;

/// The end of a finished segment: where its INDEX block is.
pub const TRAILER_LEN: usize = 16;
const TRAILER_MAGIC: [u8; 4] = *b"CMTE";

/// The length of one INDEX entry.
pub const INDEX_ENTRY_LEN: usize = 64;

/// A segment holds at most this many blocks, so that its INDEX fits a block.
pub const SEGMENT_BLOCKS_MAX: usize = 8192;

/// Why a block does not continue a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A transcript or a segment must begin with HEAD.
    #[error("segment {segment_no} does not begin with HEAD")]
    NoHead {
        /// The segment.
        segment_no: u32,
    },
    /// The block belongs to another session.
    #[error("block of session {found} in the transcript of another")]
    Session {
        /// Whose block it is.
        found: SessionId,
    },
    /// A block is missing, doubled or out of place.
    #[error("block {found} where block {expected} should be")]
    BlockNo {
        /// The number that should come.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// The block names another predecessor.
    #[error("block {block_no} does not follow the block before it")]
    Prev {
        /// The block.
        block_no: u64,
    },
    /// The block says it is in another segment.
    #[error("block {block_no} of segment {found} in segment {expected}")]
    SegmentNo {
        /// The block.
        block_no: u64,
        /// The segment it lies in.
        expected: u32,
        /// The segment it names.
        found: u32,
    },
    /// Events of a lane are missing or doubled.
    #[error("block {block_no} begins at event {found} of its lane, not at {expected}")]
    Events {
        /// The block.
        block_no: u64,
        /// The event that should come.
        expected: u64,
        /// The event that came.
        found: u64,
    },
    /// Something follows the end of the transcript.
    #[error("block {block_no} follows the end of the transcript")]
    AfterEnd {
        /// The block.
        block_no: u64,
    },
}

/// Where a transcript stands after the blocks so far.
#[derive(Debug, Clone)]
pub struct Chain {
    /// The session, fixed by its first block.
    session: SessionId,
    next_block: u64,
    prev: Link,
    segment_no: u32,
    at_segment_start: bool,
    events: [u64; 3],
    ended: bool,
}

impl Chain {
    /// Begins the chain of a session.
    pub fn new(session: SessionId) -> Self {
        Self {
            session,
            next_block: 0,
            prev: Link::ZERO,
            segment_no: 0,
            at_segment_start: true,
            events: [0; 3],
            ended: false,
        }
    }

    /// Begins in the middle: at a later segment whose predecessors are checked elsewhere. The caller compares
    /// [`Chain::prev`] and the counts with where the predecessor ended.
    pub fn resume(head: &Header, events: [u64; 3]) -> Self {
        Self {
            session: head.session,
            next_block: head.block_no,
            prev: head.prev,
            segment_no: head.segment_no,
            at_segment_start: true,
            events,
            ended: false,
        }
    }

    /// Returns the session.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Returns the number that the next block has.
    pub fn next_block(&self) -> u64 {
        self.next_block
    }

    /// Returns the link of the last block.
    pub fn prev(&self) -> Link {
        self.prev
    }

    /// Returns the number of the current segment.
    pub fn segment_no(&self) -> u32 {
        self.segment_no
    }

    /// Returns how many events each lane holds so far.
    pub fn events(&self) -> [u64; 3] {
        self.events
    }

    /// Whether CLOSE or RECOVERED was seen.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Moves to the next segment; its first block must be HEAD.
    pub fn next_segment(&mut self) {
        self.segment_no = self.segment_no.saturating_add(1);
        self.at_segment_start = true;
    }

    /// Takes the next block, given its header and its computed link.
    ///
    /// # Errors
    /// The block does not continue the chain; the chain is then unchanged.
    pub fn accept(&mut self, header: &Header, link: Link) -> Result<(), ChainError> {
        let block_no = header.block_no;
        if self.ended {
            return Err(ChainError::AfterEnd { block_no });
        }
        if header.session != self.session {
            return Err(ChainError::Session { found: header.session });
        }
        if block_no != self.next_block {
            return Err(ChainError::BlockNo { expected: self.next_block, found: block_no });
        }
        if header.prev != self.prev {
            return Err(ChainError::Prev { block_no });
        }
        if header.segment_no != self.segment_no {
            return Err(ChainError::SegmentNo { block_no, expected: self.segment_no, found: header.segment_no });
        }
        if self.at_segment_start != (header.kind == Kind::Head) {
            return Err(ChainError::NoHead { segment_no: self.segment_no });
        }
        let count = lane_count(&mut self.events, header.lane);
        if header.kind.holds_events() {
            if header.first_event != *count {
                return Err(ChainError::Events { block_no, expected: *count, found: header.first_event });
            }
            *count = count.saturating_add(header.event_count.into());
        }
        self.at_segment_start = false;
        self.ended = matches!(header.kind, Kind::Close | Kind::Recovered);
        self.next_block = self.next_block.saturating_add(1);
        self.prev = link;
        Ok(())
    }
}

fn lane_count(events: &mut [u64; 3], lane: Lane) -> &mut u64 {
    let [meta, output, input] = events;
    match lane {
        Lane::Meta => meta,
        Lane::Output => output,
        Lane::Input => input,
    }
}

/// One line of an INDEX block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// Offset of the block in its segment.
    pub offset: u64,
    /// Number of the block.
    pub block_no: u64,
    /// The block's boot-time clock, in microseconds since the session began.
    pub mono_us: u64,
    /// The block's first event.
    pub first_event: u64,
    /// The block's link.
    pub link: Link,
}

impl IndexEntry {
    /// Describes a block at an offset.
    pub fn of(offset: u64, header: &Header, link: Link) -> Self {
        Self { offset, block_no: header.block_no, mono_us: header.mono_us, first_event: header.first_event, link }
    }

    /// Appends the entry as it is stored, little-endian.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.block_no.to_le_bytes());
        out.extend_from_slice(&self.mono_us.to_le_bytes());
        out.extend_from_slice(&self.first_event.to_le_bytes());
        out.extend_from_slice(&self.link.0);
    }
}

/// Writes the trailer that ends a segment whose INDEX block begins at `index_offset` and is `index_len` bytes long.
pub fn trailer(index_offset: u64, index_len: u32) -> [u8; TRAILER_LEN] {
    let mut out = [0; TRAILER_LEN];
    let fields = index_offset.to_le_bytes().into_iter().chain(index_len.to_le_bytes()).chain(TRAILER_MAGIC);
    out.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
    out
}

/// Reads a trailer and returns the offset and length of the INDEX block.
pub fn parse_trailer(bytes: &[u8; TRAILER_LEN]) -> Option<(u64, u32)> {
    let (offset, rest) = bytes.split_first_chunk::<8>()?;
    let (len, magic) = rest.split_first_chunk::<4>()?;
    (magic == TRAILER_MAGIC).then(|| (u64::from_le_bytes(*offset), u32::from_le_bytes(*len)))
}

/// Reads the events of a DATA or MICRO block, with the microseconds since the session began.
///
/// # Errors
/// The block is encrypted and no key is here for its lane, or it does not open, or it does not hold exactly the events that
/// the header counts.
pub fn events(block: &Block<'_>, keys: &LaneKeys) -> Result<Vec<(u64, Entry)>, BlockError> {
    let header = &block.header;
    let plain = block.plain(keys)?;
    let mut out = Vec::new();
    match header.kind {
        Kind::Data => read_run(&plain, header.mono_us, &mut out)?,
        Kind::Micro => {
            let key = if header.codec.encrypted {
                let key = keys.get(header.lane).ok_or(BlockError::Encrypted)?.micro_key(header.session, &header.salt);
                key.check(&header.key_commit)?;
                Some(key)
            } else {
                None
            };
            micro::records(&plain, header, key.as_ref(), |head, run| {
                let before = out.len();
                read_run(run, head.mono_us, &mut out)?;
                if (out.len() - before) as u64 == u64::from(head.event_count) {
                    Ok(())
                } else {
                    Err(BlockError::Payload("a MICRO record with another number of events than its head counts"))
                }
            })?;
        }
        _ => return Err(BlockError::Payload("a block that holds no events")),
    }
    if out.len() as u64 != u64::from(header.event_count) {
        return Err(BlockError::Payload("another number of events than the header counts"));
    }
    Ok(out)
}

fn read_run(mut run: &[u8], base_us: u64, out: &mut Vec<(u64, Entry)>) -> Result<(), BlockError> {
    while !run.is_empty() {
        let (entry, len) = decode(run).map_err(|_| BlockError::Payload("not a sequence of events"))?;
        out.push((base_us.saturating_add(entry.dt_us), entry));
        run = run.get(len..).unwrap_or_default();
    }
    Ok(())
}

/// The least number of bytes that any block has.
pub const BLOCK_LEN_MIN: usize = HEADER_LEN + LINK_LEN;

#[cfg(test)]
mod tests {
    use super::super::block::tests::header;
    use super::*;

    fn first() -> Header {
        Header { kind: Kind::Head, block_no: 0, prev: Link::ZERO, segment_no: 0, ..header() }
    }

    fn second() -> Header {
        Header { kind: Kind::Data, block_no: 1, prev: Link([1; 32]), segment_no: 0, first_event: 0, ..header() }
    }

    fn started() -> Chain {
        let mut chain = Chain::new(header().session);
        chain.accept(&first(), Link([1; 32])).unwrap();
        chain
    }

    #[test]
    fn blocks_that_follow_are_accepted() {
        let mut chain = started();
        chain.accept(&second(), Link([2; 32])).unwrap();
        assert_eq!((chain.next_block(), chain.prev(), chain.events()), (2, Link([2; 32]), [0, 0, 12]));
    }

    #[test]
    fn whatever_does_not_follow_is_refused() {
        let cases = [
            ("session", Header { session: SessionId([8; 16]), ..second() }),
            ("number", Header { block_no: 2, ..second() }),
            ("prev", Header { prev: Link([9; 32]), ..second() }),
            ("segment", Header { segment_no: 1, ..second() }),
            ("events", Header { first_event: 1, ..second() }),
            ("head in the middle", Header { kind: Kind::Head, ..second() }),
        ];
        for (name, bad) in cases {
            let mut chain = started();
            assert!(chain.accept(&bad, Link([2; 32])).is_err(), "{name}");
            chain.accept(&second(), Link([2; 32])).unwrap();
        }
    }

    #[test]
    fn nothing_follows_the_end() {
        let mut chain = started();
        chain.accept(&Header { kind: Kind::Close, ..second() }, Link([2; 32])).unwrap();
        let next = Header { block_no: 2, prev: Link([2; 32]), ..second() };
        assert_eq!(chain.accept(&next, Link([3; 32])), Err(ChainError::AfterEnd { block_no: 2 }));
    }

    #[test]
    fn a_trailer_survives_the_round_trip() {
        assert_eq!(parse_trailer(&trailer(77, 88)), Some((77, 88)));
        assert_eq!(parse_trailer(&[0; TRAILER_LEN]), None);
    }
}
