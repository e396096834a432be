//! Leaves of the node log: deterministic CBOR maps with small integer keys, integers and bytes only.
//!
//! Key 0 is the type. Numbers are forever. A leaf names sessions by their random-enough ids and carries no personal data.
//!
//! | type | leaf | keys |
//! |---|---|---|
//! | 0 | BOOT | 1 boot_id, 2 boot_pub, 3 wall_us, 4 mono_us, 5 version, 6 previous_size |
//! | 1 | HEARTBEAT | 1 boot_id, 3 wall_us, 4 mono_us, 5 open |
//! | 2 | OPEN | 1 session, 2 kind, 3 wall_us, 4 protocol, 5 ordinal, 6 head_link, 7 session_pub, 8 retain_until_us |
//! | 3 | SEGMENT | 1 session, 2 segment_no, 3 wall_us, 4 bytes, 5 first_block, 6 last_block, 7 last_link, 8 sha256 |
//! | 4 | HEADS | 3 wall_us, 4 list of [session, block_no, link, events] |
//! | 5 | CLOSE | 1 session, 2 reason, 3 wall_us, 4 last_block, 5 last_link, 6 segment_count, 7 list of [no, bytes, sha256, last_link] |
//! | 6 | RECOVERED | as CLOSE, and 8 torn_bytes, 9 boot_id |
//! | 7 | STORED | 1 session, 2 segment_no, 3 wall_us, 4 vault, 5 version, 6 sha256, 7 mode, 8 retain_until_us |
//! | 8 | ISSUED | reserved |
//! | 9 | RETIRED | 1 session, 3 wall_us |
//! | 10 | KEY_DESTROYED | reserved |
//! | 11 | CONTROL | 1 session, 2 what, 3 wall_us |
//! | 12 | LEGAL_HOLD | 1 session, 2 set, 3 wall_us, 4 order, 5 signatures |

use std::convert::Infallible;

use minicbor::{Decoder, Encoder, data::Type};

use super::tile::ENTRY_LEN_MAX;
use crate::transcript::block::{Link, SessionId};

/// A HEADS leaf names at most this many sessions; more of them take another leaf.
pub const HEADS_MAX: usize = 900;

/// A CLOSE or RECOVERED leaf lists at most this many segments, the last ones. Each earlier one is named by its SEGMENT leaf.
pub const SEGMENTS_MAX: usize = 700;

/// Why bytes are not a leaf, or a leaf does not fit a log.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    /// The bytes are not the CBOR that the format asks for.
    #[error("not a leaf: {0}")]
    Cbor(#[from] minicbor::decode::Error),
    /// Something is valid CBOR and still outside the format.
    #[error("not a leaf: {0}")]
    Shape(&'static str),
    /// A key that the type demands is not there.
    #[error("not a leaf: type {kind} without key {key}")]
    Missing {
        /// The type of the leaf.
        kind: u64,
        /// The key.
        key: u64,
    },
    /// The leaf is longer than a log's entry may be.
    #[error("leaf of {0} bytes is over the limit of 65535")]
    Long(usize),
}

/// The daemon started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// Random id of this start.
    pub boot_id: [u8; 16],
    /// Ed25519 key of this start; it signs what recovery closes.
    pub boot_pub: [u8; 32],
    /// Microseconds since 1970 (UTC).
    pub wall_us: u64,
    /// Boot-time clock in microseconds.
    pub mono_us: u64,
    /// Version of the program.
    pub version: String,
    /// Size of the log that this start found.
    pub previous_size: u64,
}

/// The daemon is alive; also when nothing happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// Which start.
    pub boot_id: [u8; 16],
    /// Microseconds since 1970 (UTC).
    pub wall_us: u64,
    /// Boot-time clock in microseconds.
    pub mono_us: u64,
    /// How many sessions are open.
    pub open: u64,
}

/// A session begins; in the log before its first byte is forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The session.
    pub session: SessionId,
    /// 0 session, 1 portal, 2 control.
    pub kind: u8,
    /// 0 none, 1 SSH, 2 PostgreSQL.
    pub protocol: u8,
    /// Number of the session on this node, dense from 0.
    pub ordinal: u64,
    /// Link of the first block.
    pub head_link: Link,
    /// Ed25519 key of the session.
    pub session_pub: [u8; 32],
    /// Microseconds since 1970 (UTC).
    pub wall_us: u64,
    /// Until when the session must be kept: microseconds since 1970 (UTC).
    pub retain_until_us: u64,
}

/// A segment is finished, before it enters a vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The session.
    pub session: SessionId,
    /// Number of the segment, dense from 0.
    pub segment_no: u32,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// Number of its first block.
    pub first_block: u64,
    /// Number of its last block.
    pub last_block: u64,
    /// Link of its last block.
    pub last_link: Link,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
    /// Microseconds since 1970 (UTC).
    pub wall_us: u64,
}

/// How far one live session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The session.
    pub session: SessionId,
    /// Number of its newest block.
    pub block_no: u64,
    /// Link of that block.
    pub link: Link,
    /// How many events the blocks up to there hold, over all lanes.
    pub events: u64,
}

/// One segment as CLOSE lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentRef {
    /// Number of the segment, dense from 0.
    pub no: u32,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
    /// Link of its last block.
    pub last_link: Link,
}

/// The end of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// The session.
    pub session: SessionId,
    /// Why it ended, by number.
    pub reason: u8,
    /// Microseconds since 1970 (UTC).
    pub wall_us: u64,
    /// Number of the last block of the transcript.
    pub last_block: u64,
    /// Link of the last block.
    pub last_link: Link,
    /// How many segments the transcript has.
    pub segment_count: u32,
    /// The last segments, at most [`SEGMENTS_MAX`]; all of them where there are no more.
    pub segments: Vec<SegmentRef>,
}

/// The end of a session that a crash cut, written by the next start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The end, as for a session that closed in order.
    pub close: Close,
    /// Bytes at the end of the live file that no acknowledged record covers.
    pub torn_bytes: u64,
    /// The start that recovered it; its BOOT leaf names the key that signed.
    pub boot_id: [u8; 16],
}

/// A segment is in a vault elsewhere, locked, and was read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The session.
    pub session: SessionId,
    /// Number of the segment, dense from 0.
    pub segment_no: u32,
    /// What the node calls the vault.
    pub vault: String,
    /// The version's id there; `null` where it has none.
    pub version: String,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
    /// 0 governance, 1 compliance.
    pub mode: u8,
    /// Until when it is locked: microseconds since 1970 (UTC).
    pub retain_until_us: u64,
    /// Microseconds since 1970 (UTC).
    pub wall_us: u64,
}

/// A session was deleted on purpose, because the time that its OPEN leaf names is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retired {
    /// The session.
    pub session: SessionId,
    /// Microseconds since 1970 (UTC).
    pub wall_us: u64,
}

/// A session must be kept whatever its OPEN leaf says, or need not any more. Two officers said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegalHold {
    /// The session.
    pub session: SessionId,
    /// Whether the hold is set or lifted.
    pub set: bool,
    /// What the officers signed.
    pub order: String,
    /// Their signatures: armoured SSHSIG blocks, one after the other.
    pub signatures: String,
    /// Microseconds since 1970 (UTC).
    pub wall_us: u64,
}

/// Something about the node itself, told in a control transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// The control transcript that tells it.
    pub session: SessionId,
    /// What it is, in a word.
    pub what: String,
    /// Microseconds since 1970 (UTC).
    pub wall_us: u64,
}

/// One entry of the node log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leaf {
    /// Type 0.
    Boot(Boot),
    /// Type 1.
    Heartbeat(Heartbeat),
    /// Type 2.
    Open(Open),
    /// Type 3.
    Segment(Segment),
    /// Type 4: how far live sessions have come, at most [`HEADS_MAX`] of them.
    Heads {
        /// Microseconds since 1970 (UTC).
        wall_us: u64,
        /// The sessions.
        heads: Vec<Head>,
    },
    /// Type 5.
    Close(Close),
    /// Type 6.
    Recovered(Recovered),
    /// Type 7.
    Stored(Stored),
    /// Type 9.
    Retired(Retired),
    /// Type 11.
    Control(Control),
    /// Type 12.
    LegalHold(LegalHold),
    /// A type of a later version, or a reserved one: counted, hashed and kept.
    Unknown {
        /// The number of the type.
        kind: u64,
        /// The leaf as it was read.
        raw: Vec<u8>,
    },
}

type Written = Result<(), minicbor::encode::Error<Infallible>>;

impl Leaf {
    /// Returns the number of the type.
    pub fn kind(&self) -> u64 {
        match self {
            Self::Boot(_) => 0,
            Self::Heartbeat(_) => 1,
            Self::Open(_) => 2,
            Self::Segment(_) => 3,
            Self::Heads { .. } => 4,
            Self::Close(_) => 5,
            Self::Recovered(_) => 6,
            Self::Stored(_) => 7,
            Self::Retired(_) => 9,
            Self::Control(_) => 11,
            Self::LegalHold(_) => 12,
            Self::Unknown { kind, .. } => *kind,
        }
    }

    /// Returns the name of the type, as reports print it.
    pub fn name(&self) -> &'static str {
        match self.kind() {
            0 => "BOOT",
            1 => "HEARTBEAT",
            2 => "OPEN",
            3 => "SEGMENT",
            4 => "HEADS",
            5 => "CLOSE",
            6 => "RECOVERED",
            7 => "STORED",
            8 => "ISSUED",
            9 => "RETIRED",
            10 => "KEY_DESTROYED",
            11 => "CONTROL",
            12 => "LEGAL_HOLD",
            _ => "UNKNOWN",
        }
    }

    /// Returns when the leaf was written, in microseconds since 1970 (UTC); `None` for an unknown type.
    pub fn wall_us(&self) -> Option<u64> {
        match self {
            Self::Boot(Boot { wall_us, .. })
            | Self::Heartbeat(Heartbeat { wall_us, .. })
            | Self::Open(Open { wall_us, .. })
            | Self::Segment(Segment { wall_us, .. })
            | Self::Heads { wall_us, .. }
            | Self::Close(Close { wall_us, .. })
            | Self::Recovered(Recovered { close: Close { wall_us, .. }, .. })
            | Self::Stored(Stored { wall_us, .. })
            | Self::Retired(Retired { wall_us, .. })
            | Self::Control(Control { wall_us, .. })
            | Self::LegalHold(LegalHold { wall_us, .. }) => Some(*wall_us),
            Self::Unknown { .. } => None,
        }
    }

    /// Writes the leaf as it is hashed and stored.
    ///
    /// # Errors
    /// [`LeafError::Long`]: only lists and texts over their limits can do that.
    pub fn encode(&self) -> Result<Vec<u8>, LeafError> {
        let mut out = Vec::new();
        // Writing to a Vec cannot fail; minicbor's error type is uninhabited there.
        let _ = self.encode_into(&mut Encoder::new(&mut out));
        if out.len() > ENTRY_LEN_MAX { Err(LeafError::Long(out.len())) } else { Ok(out) }
    }

    fn encode_into(&self, e: &mut Encoder<&mut Vec<u8>>) -> Written {
        if let Self::Unknown { raw, .. } = self {
            e.writer_mut().extend_from_slice(raw);
            return Ok(());
        }
        let fields = match self {
            Self::Boot(_) => 6,
            Self::Heartbeat(_) => 4,
            Self::Open(_) | Self::Segment(_) | Self::Stored(_) => 8,
            Self::Heads { .. } | Self::Retired(_) => 2,
            Self::Close(_) => 7,
            Self::Recovered(_) => 9,
            Self::Control(_) => 3,
            Self::LegalHold(_) => 5,
            Self::Unknown { .. } => 0,
        };
        e.map(fields + 1)?.u8(0)?.u64(self.kind())?;
        match self {
            Self::Boot(leaf) => {
                e.u8(1)?.bytes(&leaf.boot_id)?.u8(2)?.bytes(&leaf.boot_pub)?;
                e.u8(3)?.u64(leaf.wall_us)?.u8(4)?.u64(leaf.mono_us)?;
                e.u8(5)?.str(&leaf.version)?.u8(6)?.u64(leaf.previous_size)?;
            }
            Self::Heartbeat(leaf) => {
                e.u8(1)?.bytes(&leaf.boot_id)?.u8(3)?.u64(leaf.wall_us)?;
                e.u8(4)?.u64(leaf.mono_us)?.u8(5)?.u64(leaf.open)?;
            }
            Self::Open(leaf) => {
                e.u8(1)?.bytes(&leaf.session.0)?.u8(2)?.u8(leaf.kind)?;
                e.u8(3)?.u64(leaf.wall_us)?.u8(4)?.u8(leaf.protocol)?;
                e.u8(5)?.u64(leaf.ordinal)?.u8(6)?.bytes(&leaf.head_link.0)?;
                e.u8(7)?.bytes(&leaf.session_pub)?.u8(8)?.u64(leaf.retain_until_us)?;
            }
            Self::Segment(leaf) => {
                e.u8(1)?.bytes(&leaf.session.0)?.u8(2)?.u32(leaf.segment_no)?;
                e.u8(3)?.u64(leaf.wall_us)?.u8(4)?.u64(leaf.bytes)?;
                e.u8(5)?.u64(leaf.first_block)?.u8(6)?.u64(leaf.last_block)?;
                e.u8(7)?.bytes(&leaf.last_link.0)?.u8(8)?.bytes(&leaf.sha256)?;
            }
            Self::Heads { wall_us, heads } => {
                e.u8(3)?.u64(*wall_us)?.u8(4)?.array(heads.len() as u64)?;
                for head in heads {
                    e.array(4)?.bytes(&head.session.0)?.u64(head.block_no)?.bytes(&head.link.0)?.u64(head.events)?;
                }
            }
            Self::Close(leaf) => encode_close(e, leaf)?,
            Self::Recovered(leaf) => {
                encode_close(e, &leaf.close)?;
                e.u8(8)?.u64(leaf.torn_bytes)?.u8(9)?.bytes(&leaf.boot_id)?;
            }
            Self::Stored(leaf) => {
                e.u8(1)?.bytes(&leaf.session.0)?.u8(2)?.u32(leaf.segment_no)?;
                e.u8(3)?.u64(leaf.wall_us)?.u8(4)?.str(&leaf.vault)?.u8(5)?.str(&leaf.version)?;
                e.u8(6)?.bytes(&leaf.sha256)?.u8(7)?.u8(leaf.mode)?.u8(8)?.u64(leaf.retain_until_us)?;
            }
            Self::Retired(leaf) => {
                e.u8(1)?.bytes(&leaf.session.0)?.u8(3)?.u64(leaf.wall_us)?;
            }
            Self::LegalHold(leaf) => {
                e.u8(1)?.bytes(&leaf.session.0)?.u8(2)?.u8(leaf.set.into())?.u8(3)?.u64(leaf.wall_us)?;
                e.u8(4)?.str(&leaf.order)?.u8(5)?.str(&leaf.signatures)?;
            }
            Self::Control(leaf) => {
                e.u8(1)?.bytes(&leaf.session.0)?.u8(2)?.str(&leaf.what)?.u8(3)?.u64(leaf.wall_us)?;
            }
            Self::Unknown { .. } => {}
        }
        Ok(())
    }

    /// Reads a leaf. Keys that a later version added are passed over; a type that is not known is kept as it is.
    ///
    /// # Errors
    /// Not a CBOR map with ascending integer keys and key 0 first, a key missing, or bytes after the map.
    pub fn decode(bytes: &[u8]) -> Result<Self, LeafError> {
        if bytes.len() > ENTRY_LEN_MAX {
            return Err(LeafError::Long(bytes.len()));
        }
        let fields = Fields::read(bytes)?;
        let session = || fields.bytes(1).map(SessionId);
        Ok(match fields.kind {
            0 => Self::Boot(Boot {
                boot_id: fields.bytes(1)?,
                boot_pub: fields.bytes(2)?,
                wall_us: fields.uint(3)?,
                mono_us: fields.uint(4)?,
                version: fields.text(5)?,
                previous_size: fields.uint(6)?,
            }),
            1 => Self::Heartbeat(Heartbeat {
                boot_id: fields.bytes(1)?,
                wall_us: fields.uint(3)?,
                mono_us: fields.uint(4)?,
                open: fields.uint(5)?,
            }),
            2 => Self::Open(Open {
                session: session()?,
                kind: fields.small(2)?,
                wall_us: fields.uint(3)?,
                protocol: fields.small(4)?,
                ordinal: fields.uint(5)?,
                head_link: fields.bytes(6).map(Link)?,
                session_pub: fields.bytes(7)?,
                retain_until_us: fields.uint(8)?,
            }),
            3 => Self::Segment(Segment {
                session: session()?,
                segment_no: fields.small(2)?,
                wall_us: fields.uint(3)?,
                bytes: fields.uint(4)?,
                first_block: fields.uint(5)?,
                last_block: fields.uint(6)?,
                last_link: fields.bytes(7).map(Link)?,
                sha256: fields.bytes(8)?,
            }),
            4 => Self::Heads { wall_us: fields.uint(3)?, heads: fields.list(4, HEADS_MAX, read_head)? },
            5 => Self::Close(read_close(&fields)?),
            6 => Self::Recovered(Recovered {
                close: read_close(&fields)?,
                torn_bytes: fields.uint(8)?,
                boot_id: fields.bytes(9)?,
            }),
            7 => Self::Stored(Stored {
                session: session()?,
                segment_no: fields.small(2)?,
                wall_us: fields.uint(3)?,
                vault: fields.text(4)?,
                version: fields.text(5)?,
                sha256: fields.bytes(6)?,
                mode: fields.small(7)?,
                retain_until_us: fields.uint(8)?,
            }),
            9 => Self::Retired(Retired { session: session()?, wall_us: fields.uint(3)? }),
            12 => Self::LegalHold(LegalHold {
                session: session()?,
                set: match fields.uint(2)? {
                    0 => false,
                    1 => true,
                    _ => return Err(LeafError::Shape("a hold that is neither set nor lifted")),
                },
                wall_us: fields.uint(3)?,
                order: fields.text(4)?,
                signatures: fields.text(5)?,
            }),
            11 => Self::Control(Control { session: session()?, what: fields.text(2)?, wall_us: fields.uint(3)? }),
            kind => Self::Unknown { kind, raw: bytes.to_vec() },
        })
    }
}

fn encode_close(e: &mut Encoder<&mut Vec<u8>>, leaf: &Close) -> Written {
    e.u8(1)?.bytes(&leaf.session.0)?.u8(2)?.u8(leaf.reason)?.u8(3)?.u64(leaf.wall_us)?;
    e.u8(4)?.u64(leaf.last_block)?.u8(5)?.bytes(&leaf.last_link.0)?;
    e.u8(6)?.u32(leaf.segment_count)?.u8(7)?.array(leaf.segments.len() as u64)?;
    for segment in &leaf.segments {
        e.array(4)?.u32(segment.no)?.u64(segment.bytes)?.bytes(&segment.sha256)?.bytes(&segment.last_link.0)?;
    }
    Ok(())
}

fn read_close(fields: &Fields<'_>) -> Result<Close, LeafError> {
    Ok(Close {
        session: fields.bytes(1).map(SessionId)?,
        reason: fields.small(2)?,
        wall_us: fields.uint(3)?,
        last_block: fields.uint(4)?,
        last_link: fields.bytes(5).map(Link)?,
        segment_count: fields.small(6)?,
        segments: fields.list(7, SEGMENTS_MAX, read_segment)?,
    })
}

fn read_head(decoder: &mut Decoder<'_>) -> Result<Head, LeafError> {
    Ok(Head {
        session: SessionId(read_bytes(decoder)?),
        block_no: decoder.u64()?,
        link: Link(read_bytes(decoder)?),
        events: decoder.u64()?,
    })
}

fn read_segment(decoder: &mut Decoder<'_>) -> Result<SegmentRef, LeafError> {
    Ok(SegmentRef {
        no: decoder.u32()?,
        bytes: decoder.u64()?,
        sha256: read_bytes(decoder)?,
        last_link: Link(read_bytes(decoder)?),
    })
}

fn read_bytes<const N: usize>(decoder: &mut Decoder<'_>) -> Result<[u8; N], LeafError> {
    decoder.bytes()?.try_into().map_err(|_| LeafError::Shape("a byte string of another length"))
}

/// The keys of one leaf with their values, still encoded.
struct Fields<'a> {
    kind: u64,
    values: Vec<(u64, &'a [u8])>,
}

impl<'a> Fields<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, LeafError> {
        let mut decoder = Decoder::new(bytes);
        let Some(count) = decoder.map()? else {
            return Err(LeafError::Shape("a map of indefinite length"));
        };
        let mut values: Vec<(u64, &'a [u8])> = Vec::new();
        for _ in 0..count {
            let key = decoder.u64()?;
            if values.last().is_some_and(|(last, _)| *last >= key) {
                return Err(LeafError::Shape("map keys that do not ascend"));
            }
            let start = decoder.position();
            decoder.skip()?;
            values.push((key, bytes.get(start..decoder.position()).unwrap_or_default()));
        }
        if decoder.position() != bytes.len() {
            return Err(LeafError::Shape("bytes after the map"));
        }
        let fields = Self { kind: 0, values };
        Ok(Self { kind: fields.uint(0)?, ..fields })
    }

    fn value(&self, key: u64) -> Result<Decoder<'a>, LeafError> {
        let value = self.values.iter().find(|(own, _)| *own == key);
        value.map(|(_, raw)| Decoder::new(raw)).ok_or(LeafError::Missing { kind: self.kind, key })
    }

    fn uint(&self, key: u64) -> Result<u64, LeafError> {
        Ok(self.value(key)?.u64()?)
    }

    fn small<T: TryFrom<u64>>(&self, key: u64) -> Result<T, LeafError> {
        T::try_from(self.uint(key)?).map_err(|_| LeafError::Shape("a number over its limit"))
    }

    fn bytes<const N: usize>(&self, key: u64) -> Result<[u8; N], LeafError> {
        read_bytes(&mut self.value(key)?)
    }

    fn text(&self, key: u64) -> Result<String, LeafError> {
        Ok(self.value(key)?.str()?.to_owned())
    }

    fn list<T>(
        &self,
        key: u64,
        max: usize,
        read: impl Fn(&mut Decoder<'a>) -> Result<T, LeafError>,
    ) -> Result<Vec<T>, LeafError> {
        let mut decoder = self.value(key)?;
        if decoder.datatype()? != Type::Array {
            return Err(LeafError::Shape("a list that is none, or of indefinite length"));
        }
        let len = decoder.array()?.unwrap_or_default();
        if len > max as u64 {
            return Err(LeafError::Shape("a list over its limit"));
        }
        (0..len)
            .map(|_| match decoder.array()? {
                Some(4) => read(&mut decoder),
                _ => Err(LeafError::Shape("an item that is not a list of four")),
            })
            .collect()
    }
}

#[cfg(test)]
#[path = "leaf_tests.rs"]
mod tests;
