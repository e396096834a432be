//! Leaves for tests of what follows the node log.

use crate::log::leaf::{Close, Leaf, Open, Segment, Stored};
use crate::transcript::block::{Link, SessionId};

/// Until when every session of these must be kept.
pub(crate) const RETAIN_UNTIL_US: u64 = 77;

pub(crate) fn open(session: SessionId, kind: u8) -> Leaf {
    Leaf::Open(Open {
        session,
        kind,
        protocol: 1,
        ordinal: 0,
        head_link: Link([0; 32]),
        session_pub: [0; 32],
        wall_us: 0,
        retain_until_us: RETAIN_UNTIL_US,
    })
}

/// A segment of ten bytes, logged at 5 plus its number.
pub(crate) fn segment(session: SessionId, segment_no: u32) -> Leaf {
    Leaf::Segment(Segment {
        session,
        segment_no,
        bytes: 10,
        first_block: 0,
        last_block: 0,
        last_link: Link([0; 32]),
        sha256: [segment_no as u8; 32],
        wall_us: 5 + u64::from(segment_no),
    })
}

pub(crate) fn close(session: SessionId) -> Leaf {
    Leaf::Close(Close {
        session,
        reason: 0,
        wall_us: 0,
        last_block: 0,
        last_link: Link([0; 32]),
        segment_count: 1,
        segments: Vec::new(),
    })
}

/// A session of so many segments from its opening on, to its end where it has one.
pub(crate) fn session(session: SessionId, kind: u8, segments: u32, ended: bool) -> Vec<Leaf> {
    let mut leaves = vec![open(session, kind)];
    leaves.extend((0..segments).map(|segment_no| segment(session, segment_no)));
    leaves.extend(ended.then(|| close(session)));
    leaves
}

/// The first segment of a session is in a vault.
pub(crate) fn stored(session: SessionId, vault: &str) -> Leaf {
    Leaf::Stored(Stored {
        session,
        segment_no: 0,
        vault: vault.into(),
        version: "v".into(),
        sha256: [0; 32],
        mode: 1,
        retain_until_us: RETAIN_UNTIL_US,
        wall_us: 0,
    })
}
