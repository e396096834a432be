//! Seals: signatures over the chain, and what the last of them states.
//!
//! A seal signs its own header, which carries the link of the block before it, so one signature covers everything up to
//! it. SEAL and CLOSE are signed with the session's key, which exists in memory only and is wiped at the end; RECOVERED
//! with the boot key of the start that found the session orphaned.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};

use super::block::{BlockError, HEADER_LEN};

/// What every seal's signature begins with, so that it can never pass for a signature over something else.
const SEAL_DOMAIN: &[u8] = b"casemate 2026-11-22 seal\0";

/// The length of an Ed25519 signature.
pub const SIGNATURE_LEN: usize = 64;

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum CloseReason {
    /// The client left.
    #[n(0)]
    Client,
    /// The target ended it.
    #[n(1)]
    Target,
    /// The target could not be reached, or was not the one that is pinned.
    #[n(2)]
    Unreachable,
    /// Policy ended it: a limit, a grant's end, an administrator.
    #[n(3)]
    Policy,
    /// The daemon was told to stop.
    #[n(4)]
    Shutdown,
    /// Recording could not go on.
    #[n(5)]
    Recorder,
    /// A fault of the bastion itself.
    #[n(6)]
    Internal,
}

impl CloseReason {
    /// Returns the name in exports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Target => "target",
            Self::Unreachable => "unreachable",
            Self::Policy => "policy",
            Self::Shutdown => "shutdown",
            Self::Recorder => "recorder",
            Self::Internal => "internal",
        }
    }
}

/// What a CLOSE block states.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Close {
    /// Why the session ended.
    #[n(0)]
    pub reason: CloseReason,
    /// Exit status of the last process, where there was one.
    #[n(1)]
    pub exit: Option<u32>,
    /// Events per lane.
    #[n(2)]
    pub events: [u64; 3],
    /// Stream bytes recorded per side: client, target.
    #[n(3)]
    pub bytes: [u64; 2],
    /// Segments of the transcript, this one included.
    #[n(4)]
    pub segments: u32,
    /// Wall clock at the end, microseconds since 1970 (UTC).
    #[n(5)]
    pub wall_us: u64,
}

/// What a RECOVERED block states.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Recovered {
    /// The start that recovered the session; its BOOT leaf vouches for the key that signs.
    #[n(0)]
    pub boot_id: ByteArray<16>,
    /// Bytes of a torn block that were set aside.
    #[n(1)]
    pub torn_bytes: u64,
    /// Their BLAKE3; zero where there are none.
    #[n(2)]
    pub torn_blake3: ByteArray<32>,
    /// Events per lane.
    #[n(3)]
    pub events: [u64; 3],
    /// Segments of the transcript, this one included.
    #[n(4)]
    pub segments: u32,
    /// Wall clock at the recovery, microseconds since 1970 (UTC).
    #[n(5)]
    pub wall_us: u64,
}

/// Signs a seal: `statement` is the CBOR of a CLOSE or RECOVERED map, empty for a SEAL.
pub fn sign(key: &SigningKey, header: &[u8; HEADER_LEN], statement: &[u8]) -> [u8; SIGNATURE_LEN] {
    key.sign(&message(header, statement)).to_bytes()
}

/// Checks a seal's signature and returns the statement in front of it.
///
/// # Errors
/// The payload is too short, or the signature is not by `key` over this header and statement.
pub fn verify<'a>(key: &VerifyingKey, raw_header: &[u8], payload: &'a [u8]) -> Result<&'a [u8], BlockError> {
    let Some((statement, signature)) = payload.split_last_chunk::<SIGNATURE_LEN>() else {
        return Err(BlockError::Payload("a seal without a signature"));
    };
    key.verify_strict(&message(raw_header, statement), &Signature::from_bytes(signature))
        .map_err(|_| BlockError::Payload("a seal whose signature is not by the session's key"))?;
    Ok(statement)
}

fn message(header: &[u8], statement: &[u8]) -> Vec<u8> {
    [SEAL_DOMAIN, header, statement].concat()
}

/// Writes a statement.
pub fn encode_statement<T: Encode<()>>(statement: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    // Writing to a Vec cannot fail.
    let _ = minicbor::encode(statement, &mut out);
    out
}

/// Reads a statement that [`verify`] returned.
///
/// # Errors
/// It is not the map that the kind of block asks for.
pub fn decode_statement<'a, T: Decode<'a, ()>>(statement: &'a [u8]) -> Result<T, BlockError> {
    minicbor::decode(statement).map_err(|_| BlockError::Payload("a seal whose statement is not the map it should be"))
}
