//! A transcript that is being put together again, in memory.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;

use crate::transcript::Stamp;
use crate::transcript::block::{Block, Kind, Link};
use crate::transcript::blocks::BlockChain;
use crate::transcript::chain::{self, Chain, TRAILER_LEN};
use crate::transcript::event::Lane;
use crate::transcript::head::Head;
use crate::transcript::seal::{self, CloseReason, Recovered, SIGNATURE_LEN};

/// A segment that is complete in memory.
#[derive(Debug)]
pub(super) struct Assembled {
    pub(super) bytes: Vec<u8>,
    pub(super) first_block: u64,
    pub(super) last_block: u64,
    pub(super) last_link: Link,
}

/// A transcript that is being put together again.
#[derive(Debug)]
pub(super) struct Rebuilt {
    pub(super) blocks: BlockChain,
    pub(super) head: Head,
    /// The segment at hand.
    pub(super) bytes: Vec<u8>,
    pub(super) first_block: u64,
    /// Offset and length of the last INDEX of the segment at hand, and whether a seal follows it.
    pub(super) index: Option<(u64, u32)>,
    pub(super) last_kind: Kind,
    pub(super) close_reason: Option<CloseReason>,
    pub(super) finished: BTreeMap<u32, Assembled>,
    /// What follows the last whole block in the live file.
    pub(super) torn: Vec<u8>,
}

impl Rebuilt {
    /// Takes the next block; false where it does not continue what is there.
    pub(super) fn take(this: &mut Option<Self>, block: &Block<'_>) -> bool {
        if block.header.kind == Kind::Head {
            let Ok(head) = Head::decode(block.payload) else { return false };
            match this {
                None => {
                    *this = Some(Self {
                        blocks: BlockChain::resume(Chain::resume(&block.header, head.events)),
                        head,
                        bytes: Vec::new(),
                        first_block: block.header.block_no,
                        index: None,
                        last_kind: Kind::Head,
                        close_reason: None,
                        finished: BTreeMap::new(),
                        torn: Vec::new(),
                    });
                }
                Some(rebuilt) => {
                    if block.header.block_no != rebuilt.blocks.chain().next_block() {
                        return false;
                    }
                    rebuilt.finish_segment();
                    rebuilt.begin_segment();
                    rebuilt.head = head;
                }
            }
        }
        let Some(rebuilt) = this else { return false };
        let offset = rebuilt.blocks.segment_bytes();
        if rebuilt.blocks.adopt(block).is_err() {
            return false;
        }
        match block.header.kind {
            Kind::Index => rebuilt.index = Some((offset, block.raw.len() as u32)),
            Kind::Close => {
                let statement = block.payload.len().checked_sub(SIGNATURE_LEN).and_then(|len| block.payload.get(..len));
                let close = statement.and_then(|statement| seal::decode_statement::<seal::Close>(statement).ok());
                rebuilt.close_reason = close.map(|close| close.reason);
            }
            _ => {}
        }
        rebuilt.last_kind = block.header.kind;
        rebuilt.bytes.extend_from_slice(block.raw);
        true
    }

    /// Notes what the live file of the segment at hand holds beyond its last whole block.
    pub(super) fn note_torn(&mut self, lying: &BTreeMap<u32, Vec<u8>>) {
        let rest = lying.get(&self.blocks.chain().segment_no()).and_then(|bytes| bytes.get(self.bytes.len()..));
        let rest = rest.unwrap_or_default();
        // Zeros at the end fill the last page, or are room for a block; nobody wrote them.
        let end = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let rest = rest.get(..end).unwrap_or_default();
        let trailer = self.index.map(|(offset, len)| chain::trailer(offset, len));
        let is_trailer = trailer.is_some_and(|trailer| trailer.starts_with(rest));
        self.torn = if is_trailer { Vec::new() } else { rest.to_vec() };
    }

    /// Puts the trailer behind the segment at hand and sets it aside.
    pub(super) fn finish_segment(&mut self) {
        if let Some((offset, len)) = self.index {
            self.bytes.extend_from_slice(&chain::trailer(offset, len));
        }
        let chain = self.blocks.chain();
        let assembled = Assembled {
            bytes: std::mem::take(&mut self.bytes),
            first_block: self.first_block,
            last_block: chain.next_block().saturating_sub(1),
            last_link: chain.prev(),
        };
        self.finished.insert(chain.segment_no(), assembled);
    }

    pub(super) fn begin_segment(&mut self) {
        self.blocks.next_segment();
        self.first_block = self.blocks.chain().next_block();
        self.index = None;
    }

    /// Where the crash fell exactly between two segments, begins the one that is to hold the end.
    pub(super) fn reopen(&mut self) {
        if self.index.is_some() && self.last_kind == Kind::Seal {
            self.finish_segment();
            self.begin_segment();
            self.head.events = self.blocks.chain().events();
            let built = self.blocks.head(&self.head);
            self.bytes.extend_from_slice(&built.bytes);
        }
    }

    pub(super) fn micro(&mut self, lane: Lane, first: u64, count: u32, records: &[&[u8]]) {
        let built = self.blocks.micro(&self.head, lane, first, count, records);
        self.bytes.extend_from_slice(&built.bytes);
    }

    pub(super) fn end(&mut self, boot_id: [u8; 16], boot_key: &SigningKey, now: Stamp) {
        let torn_blake3 = if self.torn.is_empty() { [0; 32] } else { *blake3::hash(&self.torn).as_bytes() };
        let statement = Recovered {
            boot_id: boot_id.into(),
            torn_bytes: self.torn.len() as u64,
            torn_blake3: torn_blake3.into(),
            events: self.blocks.chain().events(),
            segments: self.blocks.chain().segment_no().saturating_add(1),
            wall_us: now.wall_us,
        };
        let (blocks, trailer) = self.blocks.recovered(&statement, boot_key);
        for built in blocks {
            self.bytes.extend_from_slice(&built.bytes);
        }
        self.bytes.extend_from_slice(&trailer);
        debug_assert_eq!(trailer.len(), TRAILER_LEN);
        self.index = None;
        self.finish_segment();
    }
}
