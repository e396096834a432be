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
}

#[cfg(test)]
#[path = "leaf_tests.rs"]
mod tests;
