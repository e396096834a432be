//! Blocks: a fixed header, a payload, and the link that chains them.
//!
//! Everything here works on bytes in memory. The link is BLAKE3 over header and payload as they are stored, so integrity
//! needs no key and one block can be checked with `b3sum --derive-key` (FORMAT.md §3).

use std::fmt;
use std::sync::LazyLock;

use super::cipher::{CipherError, LaneKeys};
use super::event::Lane;

/// The length of a block header.
pub const HEADER_LEN: usize = 160;
/// The length of a link.
pub const LINK_LEN: usize = 32;
/// A payload holds at most this much before compression.
pub const PLAIN_LEN_MAX: u32 = 1024 * 1024;
/// A payload is at most this long as stored.
pub const STORED_LEN_MAX: u32 = PLAIN_LEN_MAX + 64 * 1024;

/// "CMT1": the magic carries the version of the block layout.
pub const MAGIC: [u8; 4] = *b"CMT1";

/// The domain of links. Fixed for ever: it is part of the format.
pub const LINK_CONTEXT: &str = "casemate 2026-11-22 block link";

/// Window sizes above 1 MiB never occur, since no payload is larger; a decoder refuses them before it allocates.
const WINDOW_LOG_MAX: u32 = 20;

/// BLAKE3 for links, AES-256-GCM for secrecy.
pub const SUITE_BLAKE3: u8 = 1;

/// A 32-byte BLAKE3 link.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Link(pub [u8; LINK_LEN]);

impl Link {
    /// What the first block of a transcript carries as its previous link.
    pub const ZERO: Self = Self([0; LINK_LEN]);
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({self})")
    }
}

/// The identity of a session: a UUIDv7, so that its day, and with it its place in a vault, follows from the id alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).fmt(f)
    }
}

impl std::str::FromStr for SessionId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<uuid::Uuid>().map(|id| Self(id.into_bytes()))
    }
}

impl SessionId {
    /// Returns the milliseconds since 1970 (UTC) that a UUIDv7 begins with (RFC 9562 §5.7).
    pub fn unix_ms(&self) -> u64 {
        self.0.iter().take(6).fold(0, |ms, byte| ms << 8 | u64::from(*byte))
    }
}

/// What a block is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Opens a segment: format, node, session key. Clear.
    Head,
    /// A run of events of one lane.
    Data,
    /// Journal records of one lane, embedded verbatim by recovery.
    Micro,
    /// A signature over everything before it.
    Seal,
    /// Where the blocks of this segment are.
    Index,
    /// The end of a transcript, signed with the session key.
    Close,
    /// The end of a transcript that recovery wrote, signed with the boot key of the start that did it.
    Recovered,
    /// A kind of a later version: chained and skipped.
    Unknown(u8),
}

impl Kind {
    /// Returns the number on the wire.
    pub fn number(self) -> u8 {
        match self {
            Self::Head => 0,
            Self::Data => 1,
            Self::Micro => 2,
            Self::Seal => 3,
            Self::Index => 4,
            Self::Close => 5,
            Self::Recovered => 6,
            Self::Unknown(number) => number,
        }
    }

    fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Head,
            1 => Self::Data,
            2 => Self::Micro,
            3 => Self::Seal,
            4 => Self::Index,
            5 => Self::Close,
            6 => Self::Recovered,
            number => Self::Unknown(number),
        }
    }

    /// Whether blocks of this kind count the events of a lane.
    pub fn holds_events(self) -> bool {
        matches!(self, Self::Data | Self::Micro)
    }
}

/// How a payload is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Codec {
    /// One zstd frame.
    pub zstd: bool,
    /// AES-256-GCM with the block's own key; in MICRO, each record with its own nonce.
    pub encrypted: bool,
}

/// The fixed header of a block, little-endian.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | magic `CMT1` |
/// | 4 | 1 | kind |
/// | 5 | 1 | lane |
/// | 6 | 1 | codec: bit 0 zstd, bit 1 encrypted |
/// | 7 | 1 | suite |
/// | 8 | 4 | stored_len |
/// | 12 | 4 | plain_len |
/// | 16 | 16 | session |
/// | 32 | 8 | block_no |
/// | 40 | 8 | first_event |
/// | 48 | 4 | event_count |
/// | 52 | 4 | segment_no |
/// | 56 | 8 | wall_us |
/// | 64 | 8 | mono_us |
/// | 72 | 8 | span_us |
/// | 80 | 16 | salt |
/// | 96 | 32 | prev |
/// | 128 | 32 | key_commit |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What the block is for.
    pub kind: Kind,
    /// The lane of its events; 0 where there are none.
    pub lane: Lane,
    /// How the payload is stored.
    pub codec: Codec,
    /// The suite of algorithms; the same in all blocks of a transcript.
    pub suite: u8,
    /// Length of the payload as stored, in bytes.
    pub stored_len: u32,
    /// Length of the payload before compression, in bytes.
    pub plain_len: u32,
    /// The session that the block belongs to.
    pub session: SessionId,
    /// Number of the block in its transcript, dense from 0 over all segments.
    pub block_no: u64,
    /// Number of the first event in its lane.
    pub first_event: u64,
    /// How many events of the lane the block holds.
    pub event_count: u32,
    /// Number of the segment, dense from 0.
    pub segment_no: u32,
    /// Microseconds since 1970 (UTC) of the first event, or of the block's making.
    pub wall_us: u64,
    /// Boot-time clock in microseconds since the session began, at the same moment.
    pub mono_us: u64,
    /// From the first event to the last, in microseconds of the boot-time clock.
    pub span_us: u64,
    /// Random per block where it is encrypted, else zero; in MICRO blocks the salt of the journal.
    pub salt: [u8; 16],
    /// The link of the block before.
    pub prev: Link,
    /// Commitment to the block's key; zero where it is not encrypted.
    pub key_commit: [u8; 32],
}

/// Why bytes are not a block, or not the block they should be.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The bytes end inside a block.
    #[error("ends inside a block: {have} of {need} bytes")]
    Cut {
        /// Bytes that are there.
        have: usize,
        /// Bytes that the block needs.
        need: usize,
    },
    /// A header that no version of this format writes.
    #[error("not a block header: {0}")]
    Header(&'static str),
    /// The link does not fit header and payload.
    #[error("link does not fit header and payload")]
    Link,
    /// The payload does not decompress to what the header says.
    #[error("payload does not decompress to the {plain_len} bytes that the header names")]
    Zstd {
        /// What the header says.
        plain_len: u32,
    },
    /// The payload is encrypted.
    #[error("payload is encrypted, and no key is here for its lane")]
    Encrypted,
    /// The payload is encrypted, and the key does not open it.
    #[error("payload: {0}")]
    Cipher(#[from] CipherError),
    /// The payload is not what the kind asks for.
    #[error("payload: {0}")]
    Payload(&'static str),
}

impl Header {
    /// Writes the header as it is stored.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let mut rest = out.as_mut_slice();
        let mut put = |bytes: &[u8]| {
            // The fields below add up to HEADER_LEN, which a test checks; the slice never runs out.
            if let Some((front, tail)) = std::mem::take(&mut rest).split_at_mut_checked(bytes.len()) {
                front.copy_from_slice(bytes);
                rest = tail;
            }
        };
        put(&MAGIC);
        put(&[
            self.kind.number(),
            self.lane as u8,
            u8::from(self.codec.zstd) | u8::from(self.codec.encrypted) << 1,
            self.suite,
        ]);
        put(&self.stored_len.to_le_bytes());
        put(&self.plain_len.to_le_bytes());
        put(&self.session.0);
        put(&self.block_no.to_le_bytes());
        put(&self.first_event.to_le_bytes());
        put(&self.event_count.to_le_bytes());
        put(&self.segment_no.to_le_bytes());
        put(&self.wall_us.to_le_bytes());
        put(&self.mono_us.to_le_bytes());
        put(&self.span_us.to_le_bytes());
        put(&self.salt);
        put(&self.prev.0);
        put(&self.key_commit);
        out
    }

    /// Reads a header; every field that has limits is checked against them.
    ///
    /// # Errors
    /// [`BlockError::Header`] says which field is outside the format.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, BlockError> {
        let mut fields = Fields(bytes);
        if fields.take::<4>() != MAGIC {
            return Err(BlockError::Header("magic is not CMT1"));
        }
        let [kind, lane, codec, suite] = fields.take();
        let lane = Lane::from_u8(lane).ok_or(BlockError::Header("lane is over 2"))?;
        if codec > 0b11 {
            return Err(BlockError::Header("unknown codec bits"));
        }
        if suite != SUITE_BLAKE3 {
            return Err(BlockError::Header("unknown suite"));
        }
        let header = Self {
            kind: Kind::from_number(kind),
            lane,
            codec: Codec { zstd: codec & 1 != 0, encrypted: codec & 2 != 0 },
            suite,
            stored_len: u32::from_le_bytes(fields.take()),
            plain_len: u32::from_le_bytes(fields.take()),
            session: SessionId(fields.take()),
            block_no: u64::from_le_bytes(fields.take()),
            first_event: u64::from_le_bytes(fields.take()),
            event_count: u32::from_le_bytes(fields.take()),
            segment_no: u32::from_le_bytes(fields.take()),
            wall_us: u64::from_le_bytes(fields.take()),
            mono_us: u64::from_le_bytes(fields.take()),
            span_us: u64::from_le_bytes(fields.take()),
            salt: fields.take(),
            prev: Link(fields.take()),
            key_commit: fields.take(),
        };
        if header.stored_len > STORED_LEN_MAX {
            return Err(BlockError::Header("stored length is over the limit"));
        }
        if header.plain_len > PLAIN_LEN_MAX {
            return Err(BlockError::Header("plain length is over the limit"));
        }
        Ok(header)
    }

    /// Returns the length of the whole block: header, payload and link.
    pub fn block_len(&self) -> usize {
        HEADER_LEN + self.stored_len as usize + LINK_LEN
    }
}

/// Takes fixed-size fields off the front of a header.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        // HEADER_LEN is the sum of all fields, so the default never shows.
        match self.0.split_first_chunk() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            None => [0; N],
        }
    }
}

/// Computes the link over a header and payload as stored.
pub fn link(header_and_payload: &[u8]) -> Link {
    // Deriving the context key costs a compression; do it once for the process.
    static BASE: LazyLock<blake3::Hasher> = LazyLock::new(|| blake3::Hasher::new_derive_key(LINK_CONTEXT));
    let mut hasher = BASE.clone();
    hasher.update(header_and_payload);
    Link(*hasher.finalize().as_bytes())
}

/// A block as it lies in a segment, borrowed; its link was checked.
#[derive(Debug)]
pub struct Block<'a> {
    /// The header.
    pub header: Header,
    /// The payload as stored.
    pub payload: &'a [u8],
    /// The link, equal to the computed one.
    pub link: Link,
    /// The whole block as stored.
    pub raw: &'a [u8],
}

impl<'a> Block<'a> {
    /// Reads the block at the front of `bytes` and checks its link.
    ///
    /// # Errors
    /// [`BlockError::Cut`] when `bytes` end before the block does; then `need` says how many bytes would help.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BlockError> {
        let Some((head, _)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(BlockError::Cut { have: bytes.len(), need: HEADER_LEN });
        };
        let header = Header::decode(head)?;
        let need = header.block_len();
        let cut = BlockError::Cut { have: bytes.len(), need };
        let Some((raw, _)) = bytes.split_at_checked(need) else { return Err(cut) };
        let Some((hashed, stored_link)) = raw.split_last_chunk::<LINK_LEN>() else { return Err(cut) };
        let link = link(hashed);
        if link.0 != *stored_link {
            return Err(BlockError::Link);
        }
        let payload = hashed.get(HEADER_LEN..).unwrap_or_default();
        Ok(Self { header, payload, link, raw })
    }

    /// Returns the payload as it was before encryption and compression. In MICRO the records are what is encrypted, one by
    /// one; see [`events`](super::chain::events).
    ///
    /// # Errors
    /// No key is here for the lane of an encrypted payload, or it does not open, or it does not decompress to exactly
    /// `plain_len` bytes. Never allocates more than [`STORED_LEN_MAX`].
    pub fn plain(&self, keys: &LaneKeys) -> Result<Vec<u8>, BlockError> {
        let Header { codec, kind, plain_len, .. } = self.header;
        let opened;
        let stored = if codec.encrypted && kind != Kind::Micro {
            let key = keys.get(self.header.lane).ok_or(BlockError::Encrypted)?;
            let key = key.block_key(self.header.session, self.header.block_no, &self.header.salt);
            key.check(&self.header.key_commit)?;
            opened = key.open_block(self.raw.get(..HEADER_LEN).unwrap_or_default(), self.payload)?;
            opened.as_slice()
        } else {
            self.payload
        };
        let plain = if codec.zstd {
            decompress(stored, plain_len).ok_or(BlockError::Zstd { plain_len })?
        } else {
            stored.to_vec()
        };
        if plain.len() as u64 != u64::from(plain_len) {
            return Err(BlockError::Zstd { plain_len });
        }
        Ok(plain)
    }
}

fn decompress(payload: &[u8], plain_len: u32) -> Option<Vec<u8>> {
    let mut decompressor = zstd::bulk::Decompressor::new().ok()?;
    decompressor.set_parameter(zstd::zstd_safe::DParameter::WindowLogMax(WINDOW_LOG_MAX)).ok()?;
    decompressor.decompress(payload, plain_len as usize).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn header() -> Header {
        Header {
            kind: Kind::Data,
            lane: Lane::Input,
            codec: Codec::default(),
            suite: SUITE_BLAKE3,
            stored_len: 5,
            plain_len: 5,
            session: SessionId([7; 16]),
            block_no: 0x0102_0304_0506_0708,
            first_event: 11,
            event_count: 12,
            segment_no: 13,
            wall_us: 14,
            mono_us: 15,
            span_us: 16,
            salt: [17; 16],
            prev: Link([18; 32]),
            key_commit: [19; 32],
        }
    }

    fn stored(header: &Header, payload: &[u8]) -> Vec<u8> {
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(payload);
        let link = link(&bytes);
        bytes.extend_from_slice(&link.0);
        bytes
    }

    #[test]
    fn a_header_survives_the_round_trip() {
        assert_eq!(Header::decode(&header().encode()).unwrap(), header());
    }

    #[test]
    fn a_block_can_be_checked_with_the_plain_blake3_of_its_context() {
        let bytes = stored(&header(), b"hello");
        let block = Block::parse(&bytes).unwrap();
        assert_eq!(block.payload, b"hello");
        assert_eq!(block.link.0, blake3::derive_key(LINK_CONTEXT, &bytes[..HEADER_LEN + 5]));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let bytes = stored(&header(), b"hello");
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Block::parse(&bad).is_err(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(matches!(Block::parse(&bytes[..cut]), Err(BlockError::Cut { .. })), "cut at {cut}");
        }
    }

    #[test]
    fn a_bomb_is_refused_before_it_grows() {
        let payload = zstd::bulk::compress(&vec![0; PLAIN_LEN_MAX as usize], 1).unwrap();
        let header = Header {
            codec: Codec { zstd: true, encrypted: false },
            stored_len: payload.len() as u32,
            plain_len: 4096,
            ..header()
        };
        let bytes = stored(&header, &payload);
        assert!(matches!(
            Block::parse(&bytes).unwrap().plain(&LaneKeys::default()),
            Err(BlockError::Zstd { plain_len: 4096 })
        ));
    }
}
