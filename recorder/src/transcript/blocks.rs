//! Blocks in the making: payloads in, chained blocks out.
//!
//! [`BlockChain`] encrypts, links and numbers what it is given and keeps the segment's index; recovery uses it alone, the
//! [`Writer`](super::writer::Writer) adds lanes and rules.

use bytes::Bytes;
use ed25519_dalek::SigningKey;

use super::block::{Block, Codec, HEADER_LEN, Header, Kind, LINK_LEN, Link, SUITE_BLAKE3, SessionId, link};
use super::chain::{Chain, IndexEntry, TRAILER_LEN, trailer};
use super::cipher::{LaneKey, TAG_LEN};
use super::compressor::{Compressor, Texture};
use super::event::Lane;
use super::head::Head;
use super::seal::{self, SIGNATURE_LEN};

/// A finished block, as it is stored.
#[derive(Debug, Clone)]
pub struct Built {
    /// Header, payload and link.
    pub bytes: Bytes,
    /// What it is for.
    pub kind: Kind,
    /// Number in the transcript.
    pub block_no: u64,
    /// Segment it belongs to.
    pub segment_no: u32,
    /// Its link.
    pub link: Link,
}

/// The parts of a header that differ from block to block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Contents {
    pub(super) kind: Kind,
    pub(super) lane: Lane,
    pub(super) first_event: u64,
    pub(super) event_count: u32,
    pub(super) wall_us: u64,
    pub(super) mono_us: u64,
    pub(super) span_us: u64,
    pub(super) salt: [u8; 16],
    pub(super) key_commit: [u8; 32],
}

impl Contents {
    /// A block that holds no events.
    pub(super) fn bare(kind: Kind, wall_us: u64, mono_us: u64) -> Self {
        Self {
            kind,
            lane: Lane::Meta,
            first_event: 0,
            event_count: 0,
            wall_us,
            mono_us,
            span_us: 0,
            salt: [0; 16],
            key_commit: [0; 32],
        }
    }
}

/// A chain that is being written, and the index of its current segment.
#[derive(Debug)]
pub struct BlockChain {
    chain: Chain,
    segment_bytes: u64,
    index: Vec<IndexEntry>,
}

impl BlockChain {
    /// Begins the chain of a new session.
    pub fn new(session: SessionId) -> Self {
        Self { chain: Chain::new(session), segment_bytes: 0, index: Vec::new() }
    }

    /// Begins at a segment that exists; feed its blocks to [`BlockChain::adopt`].
    pub fn resume(chain: Chain) -> Self {
        Self { chain, segment_bytes: 0, index: Vec::new() }
    }

    /// Takes a block that is already stored at the end of the current segment.
    ///
    /// # Errors
    /// It does not continue the chain.
    pub fn adopt(&mut self, block: &Block<'_>) -> Result<(), super::chain::ChainError> {
        self.chain.accept(&block.header, block.link)?;
        self.index.push(IndexEntry::of(self.segment_bytes, &block.header, block.link));
        self.segment_bytes = self.segment_bytes.saturating_add(block.raw.len() as u64);
        Ok(())
    }

    /// Returns where the chain stands.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Returns the stored length of the current segment so far.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// Returns how many blocks the current segment has so far.
    pub fn segment_blocks(&self) -> usize {
        self.index.len()
    }

    /// Begins the next segment.
    pub fn next_segment(&mut self) {
        self.chain.next_segment();
        self.segment_bytes = 0;
        self.index.clear();
    }

    /// Stores a payload as it is, readable by everybody.
    pub(super) fn push(&mut self, contents: Contents, plain: &[u8]) -> Built {
        self.push_stored(contents, Codec::default(), plain)
    }

    /// Stores a payload as it is, whatever the codec says of it.
    fn push_stored(&mut self, contents: Contents, codec: Codec, payload: &[u8]) -> Built {
        let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len() + LINK_LEN);
        bytes.resize(HEADER_LEN, 0);
        bytes.extend_from_slice(payload);
        let header = self.header(contents, codec, payload.len(), payload.len());
        self.finish(&header, &header.encode(), bytes)
    }

    /// Stores events: compressed, then encrypted with the block's own key.
    pub(super) fn push_events(
        &mut self,
        contents: Contents,
        plain: &[u8],
        (compressor, texture): (&mut Compressor, &mut Texture),
        key: Option<&LaneKey>,
    ) -> Built {
        let mut bytes = Vec::with_capacity(HEADER_LEN + Compressor::room(plain.len()) + TAG_LEN + LINK_LEN);
        bytes.resize(HEADER_LEN, 0);
        let zstd = compressor.append(&mut bytes, plain, texture);
        let stored_len = bytes.len() - HEADER_LEN;
        let Some(lane_key) = key else {
            let codec = Codec { zstd, encrypted: false };
            let header = self.header(Contents { salt: [0; 16], ..contents }, codec, stored_len, plain.len());
            return self.finish(&header, &header.encode(), bytes);
        };
        let key = lane_key.block_key(self.chain.session(), self.chain.next_block(), &contents.salt);
        let codec = Codec { zstd, encrypted: true };
        let header =
            Header { key_commit: key.commitment(), ..self.header(contents, codec, stored_len + TAG_LEN, plain.len()) };
        let encoded = header.encode();
        key.seal_block(&encoded, &mut bytes, HEADER_LEN);
        self.finish(&header, &encoded, bytes)
    }

    fn header(&self, contents: Contents, codec: Codec, stored_len: usize, plain_len: usize) -> Header {
        Header {
            kind: contents.kind,
            lane: contents.lane,
            codec,
            suite: SUITE_BLAKE3,
            // Both are bounded by the block limits, far below 4 GiB.
            stored_len: stored_len as u32,
            plain_len: plain_len as u32,
            session: self.chain.session(),
            block_no: self.chain.next_block(),
            first_event: contents.first_event,
            event_count: contents.event_count,
            segment_no: self.chain.segment_no(),
            wall_us: contents.wall_us,
            mono_us: contents.mono_us,
            span_us: contents.span_us,
            salt: contents.salt,
            prev: self.chain.prev(),
            key_commit: contents.key_commit,
        }
    }

    /// Puts the header in front of `bytes`, links the block and takes it into the chain.
    fn finish(&mut self, header: &Header, encoded: &[u8; HEADER_LEN], mut bytes: Vec<u8>) -> Built {
        if let Some(front) = bytes.first_chunk_mut::<HEADER_LEN>() {
            *front = *encoded;
        }
        let link = link(&bytes);
        bytes.extend_from_slice(&link.0);
        // What compression left of its room would be held as long as the block is.
        bytes.shrink_to_fit();
        // Every header made here takes its numbers from the chain, so it continues it.
        let accepted = self.chain.accept(header, link);
        debug_assert!(accepted.is_ok(), "{accepted:?}");
        self.index.push(IndexEntry::of(self.segment_bytes, header, link));
        self.segment_bytes = self.segment_bytes.saturating_add(bytes.len() as u64);
        Built { bytes: bytes.into(), kind: header.kind, block_no: header.block_no, segment_no: header.segment_no, link }
    }

    pub(super) fn push_signed(&mut self, contents: Contents, statement: &[u8], key: &SigningKey) -> Built {
        let payload_len = statement.len() + SIGNATURE_LEN;
        let header = self.header(contents, Codec::default(), payload_len, payload_len);
        let encoded = header.encode();
        let signature = seal::sign(key, &encoded, statement);
        let mut bytes = encoded.to_vec();
        bytes.extend_from_slice(statement);
        bytes.extend_from_slice(&signature);
        self.finish(&header, &encoded, bytes)
    }

    /// Writes the INDEX of the current segment and returns it with the segment's trailer, which belongs behind the one
    /// seal that still follows.
    pub(super) fn index(&mut self, wall_us: u64, mono_us: u64) -> (Built, [u8; TRAILER_LEN]) {
        let offset = self.segment_bytes;
        let mut plain = Vec::with_capacity(self.index.len() * super::chain::INDEX_ENTRY_LEN);
        self.index.iter().for_each(|entry| entry.append_to(&mut plain));
        let built = self.push(Contents::bare(Kind::Index, wall_us, mono_us), &plain);
        let len = built.bytes.len() as u32;
        (built, trailer(offset, len))
    }

    /// Begins a segment on behalf of a start that is gone.
    pub fn head(&mut self, head: &Head) -> Built {
        self.push(Contents::bare(Kind::Head, 0, 0), &head.encode())
    }

    /// Embeds journal records of one lane of the session that `head` opens, verbatim. `records` are the bytes after the
    /// record's checksum and number.
    pub fn micro(&mut self, head: &Head, lane: Lane, first_event: u64, event_count: u32, records: &[&[u8]]) -> Built {
        let mut plain = Vec::new();
        for record in records {
            plain.extend_from_slice(&(record.len() as u32).to_le_bytes());
            plain.extend_from_slice(record);
        }
        let commits = head.micro_commits.as_ref().and_then(|commits| commits.get(lane as usize));
        let contents = Contents {
            lane,
            first_event,
            event_count,
            salt: *head.journal_salt,
            key_commit: commits.map_or([0; 32], |commit| **commit),
            ..Contents::bare(Kind::Micro, 0, 0)
        };
        let codec = Codec { zstd: false, encrypted: commits.is_some() };
        self.push_stored(contents, codec, &plain)
    }

    /// Ends the transcript on behalf of a start that is gone: INDEX, RECOVERED, trailer.
    pub fn recovered(&mut self, statement: &seal::Recovered, key: &SigningKey) -> (Vec<Built>, [u8; TRAILER_LEN]) {
        let (index, trailer) = self.index(statement.wall_us, 0);
        let contents = Contents::bare(Kind::Recovered, statement.wall_us, 0);
        let end = self.push_signed(contents, &seal::encode_statement(statement), key);
        (vec![index, end], trailer)
    }
}
