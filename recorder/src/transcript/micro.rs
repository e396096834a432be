//! Journal records as MICRO blocks embed them: events that no block holds yet, verbatim, so that a start after a crash
//! can keep what it cannot read (FORMAT.md §7).

use super::block::{BlockError, SessionId};
use super::cipher::ContentKey;
use super::event::Lane;

/// The length of what an embedded record begins with.
pub const MICRO_HEAD_LEN: usize = 48;

/// The kind of a journal record that holds events.
pub const RUN_KIND: u8 = 1;

/// What an embedded record begins with, little-endian; bound to its ciphertext.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 16 | session |
/// | 16 | 1 | kind, always 1 |
/// | 17 | 1 | lane |
/// | 18 | 2 | zero |
/// | 20 | 4 | event count |
/// | 24 | 8 | first event in its lane |
/// | 32 | 8 | boot-time clock that times count from, microseconds since the session began |
/// | 40 | 8 | wall clock at that moment |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MicroHead {
    /// The session.
    pub session: SessionId,
    /// The lane of the events.
    pub lane: Lane,
    /// How many events.
    pub event_count: u32,
    /// Number of the first event in its lane.
    pub first_event: u64,
    /// The clock that the events' times count from, in microseconds since the session began.
    pub mono_us: u64,
    /// The wall clock at the same moment.
    pub wall_us: u64,
}

impl MicroHead {
    /// Writes it as it is stored.
    pub fn encode(&self) -> [u8; MICRO_HEAD_LEN] {
        let mut out = [0; MICRO_HEAD_LEN];
        let fields = self.session.0.into_iter().chain([RUN_KIND, self.lane as u8, 0, 0]);
        let fields = fields.chain(self.event_count.to_le_bytes()).chain(self.first_event.to_le_bytes());
        let fields = fields.chain(self.mono_us.to_le_bytes()).chain(self.wall_us.to_le_bytes());
        out.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        out
    }
}

/// Splits the payload of a MICRO block into records; each is handed over as the clock its times count from and its
/// CBOR sequence, opened where `key` is given.
///
/// # Errors
/// The payload is not a sequence of records, or one of them does not open.
pub(super) fn records(
    payload: &[u8],
    key: Option<&ContentKey>,
    mut record: impl FnMut(u64, &[u8]) -> Result<(), BlockError>,
) -> Result<(), BlockError> {
    let mut rest = payload;
    while let Some((len, tail)) = rest.split_first_chunk::<4>() {
        let len = u32::from_le_bytes(*len) as usize;
        let Some((whole, tail)) = tail.split_at_checked(len) else {
            return Err(BlockError::Payload("a MICRO record that runs past its block"));
        };
        let Some((head, run)) = whole.split_first_chunk::<MICRO_HEAD_LEN>() else {
            return Err(BlockError::Payload("a MICRO record without its head"));
        };
        match key {
            Some(key) => record(base_us(head), &key.open_record(head, run)?)?,
            None => record(base_us(head), run)?,
        }
        rest = tail;
    }
    if rest.is_empty() { Ok(()) } else { Err(BlockError::Payload("bytes after the last MICRO record")) }
}

fn base_us(head: &[u8; MICRO_HEAD_LEN]) -> u64 {
    head.get(32..40).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}
