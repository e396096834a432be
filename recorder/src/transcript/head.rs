//! The HEAD block's payload: what a reader must know before the first event, and nothing about who or where.

use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};

use super::block::BlockError;

/// The format that this code writes.
pub const FORMAT_VERSION: u8 = 1;

/// What a transcript is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum TranscriptKind {
    /// One authenticated client connection to one target.
    #[n(0)]
    Session,
    /// A connection to the bastion itself.
    #[n(1)]
    Portal,
    /// The node's own control events, one transcript a start of the daemon.
    #[n(2)]
    Control,
}

impl TranscriptKind {
    /// Returns the name in exports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Portal => "portal",
            Self::Control => "control",
        }
    }
}

/// What was spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Protocol {
    /// Secure Shell.
    #[n(0)]
    Ssh,
    /// PostgreSQL.
    #[n(1)]
    Pg,
}

impl Protocol {
    /// Returns the name in exports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ssh => "ssh",
            Self::Pg => "pg",
        }
    }
}

/// When bytes may go on; see `Durability` in the journal for what each costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Encode, Decode)]
#[cbor(index_only)]
pub enum Durability {
    /// Both directions are forwarded only after `fdatasync` covers them.
    #[n(0)]
    Strict,
    /// Input is forwarded after `fdatasync` covers it and all that was recorded before it on this node; output once it is
    /// written, and it is on disk at most one commit later.
    #[default]
    #[n(1)]
    Causal,
    /// `write()` before forwarding, `fdatasync` every 200 ms: nothing is lost at `kill -9`, a tail may be at a power cut.
    #[n(2)]
    Process,
}

impl Durability {
    /// Returns the name in configuration and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Causal => "causal",
            Self::Process => "process",
        }
    }
}

/// The payload of a HEAD block: a CBOR map, clear, without personal data.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Head {
    /// Version of the format.
    #[n(0)]
    pub format: u8,
    /// Name of the node, which is the origin of its log.
    #[n(1)]
    pub node: String,
    /// Random identity of the daemon's start.
    #[n(2)]
    pub boot_id: ByteArray<16>,
    /// What the transcript is about.
    #[n(3)]
    pub kind: TranscriptKind,
    /// What was spoken; absent in a control transcript.
    #[n(4)]
    pub protocol: Option<Protocol>,
    /// When bytes were forwarded.
    #[n(5)]
    pub durability: Durability,
    /// The Ed25519 key that signs this session's seals.
    #[n(6)]
    pub session_pub: ByteArray<32>,
    /// Number of the session on this node, dense from 0.
    #[n(7)]
    pub ordinal: u64,
    /// BLAKE3 of the configuration in force at the start of the session.
    #[n(8)]
    pub policy_hash: ByteArray<32>,
    /// The wrapped lane keys, one age file a lane; absent where nothing is encrypted.
    #[n(9)]
    pub lane_keys: Option<Vec<ByteVec>>,
    /// Salt that the keys of the session's journal records are derived with.
    #[n(10)]
    pub journal_salt: ByteArray<16>,
    /// Version of the program that wrote it.
    #[n(11)]
    pub software: String,
    /// Events per lane in the segments before this one.
    #[n(12)]
    pub events: [u64; 3],
    /// Commitments to the keys of the journal records of each lane, which recovery copies into MICRO blocks; absent where
    /// nothing is encrypted.
    #[n(13)]
    pub micro_commits: Option<[ByteArray<32>; 3]>,
}

impl Head {
    /// Writes the payload.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        // Writing to a Vec cannot fail.
        let _ = minicbor::encode(self, &mut out);
        out
    }

    /// Reads the payload.
    ///
    /// # Errors
    /// It is not the map that the format asks for, or it is of a version this code does not know.
    pub fn decode(payload: &[u8]) -> Result<Self, BlockError> {
        let head: Self = minicbor::decode(payload).map_err(|_| BlockError::Payload("not a HEAD map"))?;
        if head.format != FORMAT_VERSION {
            return Err(BlockError::Payload("HEAD is of another version of the format"));
        }
        Ok(head)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;

    /// The key that `head` names.
    pub(crate) fn session_key() -> SigningKey {
        SigningKey::from_bytes(&[3; 32])
    }

    /// A HEAD as it comes, of a session that is not encrypted.
    pub(crate) fn head() -> Head {
        Head {
            format: FORMAT_VERSION,
            node: "n".into(),
            boot_id: [1; 16].into(),
            kind: TranscriptKind::Session,
            protocol: Some(Protocol::Ssh),
            durability: Durability::Causal,
            session_pub: session_key().verifying_key().to_bytes().into(),
            ordinal: 0,
            policy_hash: [2; 32].into(),
            lane_keys: None,
            journal_salt: [4; 16].into(),
            software: "test".into(),
            events: [0; 3],
            micro_commits: None,
        }
    }

    #[test]
    fn a_head_survives_the_round_trip_with_and_without_keys() {
        let plain = head();
        let sealed = Head {
            lane_keys: Some(vec![vec![1, 2].into(), vec![3].into(), Vec::new().into()]),
            micro_commits: Some([[1; 32].into(), [2; 32].into(), [3; 32].into()]),
            ..head()
        };
        for head in [plain, sealed] {
            assert_eq!(Head::decode(&head.encode()).unwrap(), head);
        }
    }

    #[test]
    fn another_version_is_refused() {
        assert!(Head::decode(&Head { format: 2, ..head() }.encode()).is_err());
    }
}
