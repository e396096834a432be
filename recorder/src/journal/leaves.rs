//! The growing end of the node log: what the journal thread says in it, and how it signs it.

use std::io;

use ed25519_dalek::SigningKey;

use crate::keeper::FinishedSegment;
use crate::log::leaf::{self, Leaf};
use crate::log::merkle::{Frontier, leaf_hash};
use crate::log::note::{Checkpoint, Note};
use crate::recovery::RecoveredSession;
use crate::transcript::block::SessionId;
use crate::transcript::chain::Chain;
use crate::transcript::seal::CloseReason;

/// The node log of this start.
#[derive(Debug)]
pub(crate) struct NodeLog {
    /// The node's name: the origin of the log.
    pub(crate) node: String,
    pub(crate) node_key: SigningKey,
    pub(crate) frontier: Frontier,
    pub(crate) next_ordinal: u64,
}

impl NodeLog {
    /// Returns the ordinal of a session that is being opened.
    pub(super) fn take_ordinal(&mut self) -> u64 {
        let ordinal = self.next_ordinal;
        self.next_ordinal += 1;
        ordinal
    }

    /// Adds a leaf and returns its index and its entry.
    pub(super) fn append(&mut self, leaf: &Leaf) -> io::Result<(u64, Vec<u8>)> {
        // The leaves made here are bounded far below the limit; losing one must not go unseen.
        let entry = leaf.encode().map_err(|error| io::Error::other(format!("node log: {error}")))?;
        let index = self.frontier.size();
        self.frontier.append(leaf_hash(&entry));
        Ok((index, entry))
    }

    /// Signs the log as it stands.
    pub(super) fn checkpoint(&self) -> io::Result<Note> {
        let checkpoint =
            Checkpoint { origin: self.node.clone(), size: self.frontier.size(), root: self.frontier.root() };
        checkpoint.sign(&self.node_key).map_err(io::Error::other)
    }
}

/// Says that a segment is finished.
pub(super) fn segment(finished: &FinishedSegment, wall_us: u64) -> Leaf {
    Leaf::Segment(leaf::Segment {
        session: finished.session,
        segment_no: finished.segment_no,
        bytes: finished.bytes,
        first_block: finished.first_block,
        last_block: finished.last_block,
        last_link: finished.last_link,
        sha256: finished.sha256,
        wall_us,
    })
}

/// Names a finished segment in the end of its session.
pub(super) fn segment_ref(finished: &FinishedSegment) -> leaf::SegmentRef {
    leaf::SegmentRef {
        no: finished.segment_no,
        bytes: finished.bytes,
        sha256: finished.sha256,
        last_link: finished.last_link,
    }
}

/// Says that a session has ended and which segments it has.
pub(super) fn close(
    session: SessionId,
    reason: CloseReason,
    wall_us: u64,
    chain: &Chain,
    segments: &[leaf::SegmentRef],
) -> leaf::Close {
    let from = segments.len().saturating_sub(leaf::SEGMENTS_MAX);
    leaf::Close {
        session,
        reason: reason as u8,
        wall_us,
        last_block: chain.next_block().saturating_sub(1),
        last_link: chain.prev(),
        segment_count: chain.segment_no().saturating_add(1),
        segments: segments.get(from..).unwrap_or_default().to_vec(),
    }
}

/// Says how a session of an earlier start has ended.
pub(super) fn recovered(recovered: &RecoveredSession, boot_id: [u8; 16], wall_us: u64) -> Leaf {
    let segments: Vec<_> = recovered.segments.iter().map(|(finished, _)| segment_ref(finished)).collect();
    let reason = recovered.closed.unwrap_or(CloseReason::Internal);
    let close = close(recovered.session, reason, wall_us, &recovered.chain, &segments);
    match recovered.closed {
        Some(_) => Leaf::Close(close),
        None => Leaf::Recovered(leaf::Recovered { close, torn_bytes: recovered.torn_bytes, boot_id }),
    }
}
