//! Secrecy: what a block's payload is encrypted with, and what opens it again (FORMAT.md §6).
//!
//! Every session has a key for each of its lanes; every block and every journal record a key or nonce of its own. A key
//! commitment stands beside each ciphertext, because AES-GCM alone would let one ciphertext be opened to two stories.
//! Randomness comes in as an argument, and journal records need none beyond their key.

use std::fmt;
use std::sync::LazyLock;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use blake3::Hasher;
use zeroize::Zeroizing;

use super::block::SessionId;
use super::event::Lane;
use super::micro::MICRO_HEAD_LEN;

/// The domain of block keys. These contexts are fixed for ever: they are part of the format.
pub const BLOCK_KEY_CONTEXT: &str = "casemate 2026-11-22 block key";
/// The domain of the keys of journal records.
pub const MICRO_KEY_CONTEXT: &str = "casemate 2026-11-22 micro key";
/// The domain of key commitments.
pub const KEY_COMMITMENT_CONTEXT: &str = "casemate 2026-11-22 key commitment";
/// The domain of the keys that nonces of journal records are made with. No reader needs it: the nonce is in the record.
const RECORD_NONCE_CONTEXT: &str = "casemate 2026-11-22 record nonce";

/// The length of every key.
pub const KEY_LEN: usize = 32;
/// How much longer a ciphertext is than what was encrypted.
pub const TAG_LEN: usize = 16;
/// The length of the nonce in front of an encrypted journal record.
pub const NONCE_LEN: usize = 12;

/// A block's key is used once, so its nonce is fixed.
const BLOCK_NONCE: [u8; NONCE_LEN] = [0; NONCE_LEN];

/// Why a ciphertext cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CipherError {
    /// The key is not the one that the commitment names.
    #[error("the key is not the one that was committed to")]
    Commitment,
    /// The ciphertext, or what it is bound to, was changed.
    #[error("the ciphertext does not open with the committed key")]
    Forged,
}

/// The key of one lane of one session.
#[derive(Clone)]
pub struct LaneKey(Zeroizing<[u8; KEY_LEN]>);

impl fmt::Debug for LaneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LaneKey")
    }
}

impl LaneKey {
    /// Takes key bytes.
    pub fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Returns the bytes, for wrapping.
    pub(super) fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// Derives the key of a block from its number and its salt.
    pub fn block_key(&self, session: SessionId, block_no: u64, salt: &[u8; 16]) -> ContentKey {
        // Deriving the context key costs a compression; do it once for the process.
        static BASE: LazyLock<Hasher> = LazyLock::new(|| Hasher::new_derive_key(BLOCK_KEY_CONTEXT));
        ContentKey::derive(&BASE, &[self.0.as_slice(), &session.0, &block_no.to_le_bytes(), salt])
    }

    /// Derives the key of the session's journal records in this lane.
    pub fn micro_key(&self, session: SessionId, journal_salt: &[u8; 16]) -> ContentKey {
        static BASE: LazyLock<Hasher> = LazyLock::new(|| Hasher::new_derive_key(MICRO_KEY_CONTEXT));
        ContentKey::derive(&BASE, &[self.0.as_slice(), &session.0, journal_salt])
    }
}

/// The keys of a session's lanes: all three for the writer, for a reader as many as were unwrapped.
#[derive(Debug, Clone, Default)]
pub struct LaneKeys([Option<LaneKey>; 3]);

impl LaneKeys {
    /// Takes the keys of lanes 0, 1 and 2.
    pub fn new(keys: [[u8; KEY_LEN]; 3]) -> Self {
        Self(keys.map(|bytes| Some(LaneKey::new(bytes))))
    }

    /// Returns the key of a lane, if it is here.
    pub fn get(&self, lane: Lane) -> Option<&LaneKey> {
        let [meta, output, input] = &self.0;
        match lane {
            Lane::Meta => meta.as_ref(),
            Lane::Output => output.as_ref(),
            Lane::Input => input.as_ref(),
        }
    }

    /// Puts in the key of a lane.
    pub(super) fn set(&mut self, lane: Lane, key: LaneKey) {
        let [meta, output, input] = &mut self.0;
        *match lane {
            Lane::Meta => meta,
            Lane::Output => output,
            Lane::Input => input,
        } = Some(key);
    }
}

/// A key that encrypts content: one block, or the journal records of one lane.
pub struct ContentKey(Zeroizing<[u8; KEY_LEN]>);

impl fmt::Debug for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContentKey")
    }
}

impl ContentKey {
    /// All parts are of fixed length, so their concatenation is unambiguous.
    fn derive(base: &Hasher, parts: &[&[u8]]) -> Self {
        let mut hasher = base.clone();
        for part in parts {
            hasher.update(part);
        }
        Self(Zeroizing::new(*hasher.finalize().as_bytes()))
    }

    /// Returns what tells this key from every other without giving it away.
    pub fn commitment(&self) -> [u8; 32] {
        static BASE: LazyLock<Hasher> = LazyLock::new(|| Hasher::new_derive_key(KEY_COMMITMENT_CONTEXT));
        *BASE.clone().update(self.0.as_slice()).finalize().as_bytes()
    }

    /// # Errors
    /// The key is not the one that `commitment` names.
    pub fn check(&self, commitment: &[u8; 32]) -> Result<(), CipherError> {
        // blake3's Hash compares in constant time; what is compared is public all the same.
        let same = blake3::Hash::from_bytes(self.commitment()) == blake3::Hash::from_bytes(*commitment);
        if same { Ok(()) } else { Err(CipherError::Commitment) }
    }

    fn aead(&self) -> Option<LessSafeKey> {
        UnboundKey::new(&AES_256_GCM, self.0.as_slice()).ok().map(LessSafeKey::new)
    }

    /// Encrypts the bytes of a block from `from` on in place and appends the tag; `header` is bound to it.
    pub(super) fn seal_block(&self, header: &[u8], bytes: &mut Vec<u8>, from: usize) {
        seal(self.aead().as_ref(), BLOCK_NONCE, header, bytes, from);
    }

    /// Opens the payload of a block.
    ///
    /// # Errors
    /// The payload or its header was changed.
    pub(super) fn open_block(&self, header: &[u8], payload: &[u8]) -> Result<Vec<u8>, CipherError> {
        self.open(BLOCK_NONCE, header, payload)
    }

    /// Makes the key ready to encrypt journal records.
    pub(super) fn record_sealer(&self) -> RecordSealer {
        let nonce_key = Zeroizing::new(blake3::derive_key(RECORD_NONCE_CONTEXT, self.0.as_slice()));
        RecordSealer { aead: self.aead(), nonce_key }
    }

    /// Opens the events of a journal record.
    ///
    /// # Errors
    /// The record was changed or is too short for one.
    pub(super) fn open_record(&self, head: &[u8], sealed: &[u8]) -> Result<Vec<u8>, CipherError> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(CipherError::Forged)?;
        self.open(*nonce, head, sealed)
    }

    fn open(&self, nonce: [u8; NONCE_LEN], bound: &[u8], sealed: &[u8]) -> Result<Vec<u8>, CipherError> {
        let key = self.aead().ok_or(CipherError::Forged)?;
        let mut bytes = sealed.to_vec();
        let plain = key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(bound), &mut bytes);
        let len = plain.map_err(|_| CipherError::Forged)?.len();
        bytes.truncate(len);
        Ok(bytes)
    }
}

/// The key of one lane's journal records, with its schedule computed: a session writes several for each thing it does.
///
/// **No key meets a nonce twice.** A nonce is a keyed hash of all that is encrypted and all that is bound to it, as in SIV modes
/// (RFC 8452 and RFC 5297 have the argument). So two records share one only if they are the same record, and then they are
/// the same ciphertext, or by chance, as seldom as two random nonces would meet. Within a run of the daemon no two are the
/// same: the head names the lane's first event in the record, which only goes up. A killed daemon takes the key with it, for a
/// session's keys are random and in memory alone; what a recycled journal file held before is under other keys. And where a
/// running machine is cloned, or put back to a snapshot, both copies go on with one key and no two of their records agree on
/// a nonce unless they agree on everything. A counter would fail there, and so would randomness drawn in advance.
pub(super) struct RecordSealer {
    /// None if the key was no key, which its length rules out.
    aead: Option<LessSafeKey>,
    nonce_key: Zeroizing<[u8; KEY_LEN]>,
}

impl fmt::Debug for RecordSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordSealer")
    }
}

impl RecordSealer {
    /// Encrypts events of a journal record: nonce, ciphertext, tag. `head` is of one length always, and bound to it.
    pub(super) fn seal(&self, head: &[u8; MICRO_HEAD_LEN], plain: &[u8]) -> Vec<u8> {
        let nonce = self.nonce(head, plain);
        let mut out = Vec::with_capacity(NONCE_LEN + plain.len() + TAG_LEN);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(plain);
        seal(self.aead.as_ref(), nonce, head, &mut out, NONCE_LEN);
        out
    }

    fn nonce(&self, head: &[u8; MICRO_HEAD_LEN], plain: &[u8]) -> [u8; NONCE_LEN] {
        let hash = Hasher::new_keyed(&self.nonce_key).update(head).update(plain).finalize();
        let mut nonce = [0; NONCE_LEN];
        nonce.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
        nonce
    }
}

/// Encrypts the bytes from `from` on in place and appends the tag.
fn seal(aead: Option<&LessSafeKey>, nonce: [u8; NONCE_LEN], bound: &[u8], bytes: &mut Vec<u8>, from: usize) {
    let tag = aead.zip(bytes.get_mut(from..)).and_then(|(key, plain)| {
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_separate_tag(nonce, Aad::from(bound), plain).ok()
    });
    match tag {
        Some(tag) => bytes.extend_from_slice(tag.as_ref()),
        // AES-GCM fails only beyond 64 GiB. Whatever happens, nothing readable may be left.
        None => {
            bytes.truncate(from);
            bytes.resize(from + TAG_LEN, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> LaneKey {
        LaneKey::new([1; KEY_LEN])
    }

    #[test]
    fn keys_follow_the_published_derivation() {
        let (session, salt) = (SessionId([2; 16]), [3; 16]);
        let mut material = vec![1; 32];
        material.extend_from_slice(&[2; 16]);
        material.extend_from_slice(&9u64.to_le_bytes());
        material.extend_from_slice(&salt);
        let expected = blake3::derive_key(BLOCK_KEY_CONTEXT, &material);
        let block = key().block_key(session, 9, &salt);
        assert_eq!(*block.0, expected);
        assert_eq!(block.commitment(), blake3::derive_key(KEY_COMMITMENT_CONTEXT, &expected));
        let mut material = vec![1; 32];
        material.extend_from_slice(&[2; 16]);
        material.extend_from_slice(&salt);
        assert_eq!(*key().micro_key(session, &salt).0, blake3::derive_key(MICRO_KEY_CONTEXT, &material));
    }

    #[test]
    fn every_part_of_the_derivation_counts() {
        let base = key().block_key(SessionId([2; 16]), 9, &[3; 16]).commitment();
        let others = [
            LaneKey::new([9; KEY_LEN]).block_key(SessionId([2; 16]), 9, &[3; 16]),
            key().block_key(SessionId([9; 16]), 9, &[3; 16]),
            key().block_key(SessionId([2; 16]), 8, &[3; 16]),
            key().block_key(SessionId([2; 16]), 9, &[9; 16]),
            key().micro_key(SessionId([2; 16]), &[3; 16]),
        ];
        for other in others {
            assert_ne!(other.commitment(), base);
            assert_eq!(other.check(&base), Err(CipherError::Commitment));
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_opens_nothing() {
        let key = key().block_key(SessionId([2; 16]), 9, &[3; 16]);
        let mut sealed = b"front".to_vec();
        sealed.extend_from_slice(b"secret");
        key.seal_block(b"header", &mut sealed, 5);
        assert_eq!(&sealed[..5], b"front");
        assert_eq!(sealed.len(), 5 + 6 + TAG_LEN);
        assert_eq!(key.open_block(b"header", &sealed[5..]).unwrap(), b"secret");
        assert_eq!(key.open_block(b"headet", &sealed[5..]), Err(CipherError::Forged));
        for bit in 5 * 8..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open_block(b"header", &bad[5..]), Err(CipherError::Forged), "bit {bit}");
        }
    }

    const HEAD: [u8; MICRO_HEAD_LEN] = [4; MICRO_HEAD_LEN];

    #[test]
    fn a_record_survives_the_round_trip_and_no_cut() {
        let key = key().micro_key(SessionId([2; 16]), &[3; 16]);
        let sealed = key.record_sealer().seal(&HEAD, b"events");
        assert_eq!(key.open_record(&HEAD, &sealed).unwrap(), b"events");
        for cut in 0..sealed.len() {
            assert_eq!(key.open_record(&HEAD, &sealed[..cut]), Err(CipherError::Forged), "cut {cut}");
        }
    }

    #[test]
    fn records_that_differ_in_a_bit_share_no_nonce_even_where_a_machine_was_cloned() {
        let nonce = |key: &ContentKey, head: &[u8; MICRO_HEAD_LEN], plain: &[u8]| -> [u8; NONCE_LEN] {
            *key.record_sealer().seal(head, plain).first_chunk().unwrap()
        };
        let key = key().micro_key(SessionId([2; 16]), &[3; 16]);
        // Each of these could be the next record of a copy of this process.
        let mut seen = vec![nonce(&key, &HEAD, b"events"), nonce(&key, &HEAD, b""), nonce(&key, &HEAD, b"events\0")];
        for bit in 0..MICRO_HEAD_LEN * 8 {
            let mut head = HEAD;
            head[bit / 8] ^= 1 << (bit % 8);
            seen.push(nonce(&key, &head, b"events"));
        }
        for bit in 0..6 * 8 {
            let mut plain = *b"events";
            plain[bit / 8] ^= 1 << (bit % 8);
            seen.push(nonce(&key, &HEAD, &plain));
        }
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count);
        // The nonce gives nothing away to somebody without the key: under another, the same record has another.
        let other = LaneKey::new([9; KEY_LEN]).micro_key(SessionId([2; 16]), &[3; 16]);
        assert!(!seen.contains(&nonce(&other, &HEAD, b"events")));
    }
}
