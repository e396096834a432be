//! Journal records as MICRO blocks embed them: events that no block holds yet, verbatim, so that a start after a crash
//! can keep what it cannot read (FORMAT.md §7).

use super::block::{BlockError, Header, SessionId};
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

    /// Reads one of that session and lane that begins with that event; `None` where it is none, or of another place.
    fn of(bytes: &[u8; MICRO_HEAD_LEN], session: SessionId, lane: Lane, first_event: u64) -> Option<Self> {
        let number = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        let event_count = bytes.get(20..24)?.try_into().ok().map(u32::from_le_bytes)?;
        let head = Self { session, lane, event_count, first_event, mono_us: number(32)?, wall_us: number(40)? };
        (head.encode() == *bytes).then_some(head)
    }
}

/// Splits the payload of a MICRO block into records; each is handed over as its head and its CBOR sequence, opened where `key`
/// is given. They are of the session and lane of the block, and none is left out between them.
///
/// # Errors
/// The payload is not a sequence of such records, or one of them does not open.
pub(super) fn records(
    payload: &[u8],
    header: &Header,
    key: Option<&ContentKey>,
    mut record: impl FnMut(&MicroHead, &[u8]) -> Result<(), BlockError>,
) -> Result<(), BlockError> {
    let mut rest = payload;
    let mut first_event = header.first_event;
    while let Some((len, tail)) = rest.split_first_chunk::<4>() {
        let len = u32::from_le_bytes(*len) as usize;
        let Some((whole, tail)) = tail.split_at_checked(len) else {
            return Err(BlockError::Payload("a MICRO record that runs past its block"));
        };
        let Some((head, run)) = whole.split_first_chunk::<MICRO_HEAD_LEN>() else {
            return Err(BlockError::Payload("a MICRO record without its head"));
        };
        let Some(read) = MicroHead::of(head, header.session, header.lane, first_event) else {
            return Err(BlockError::Payload("a MICRO record of another session, lane or place"));
        };
        first_event = first_event.saturating_add(read.event_count.into());
        match key {
            Some(key) => record(&read, &key.open_record(head, run)?)?,
            None => record(&read, run)?,
        }
        rest = tail;
    }
    if rest.is_empty() { Ok(()) } else { Err(BlockError::Payload("bytes after the last MICRO record")) }
}

#[cfg(test)]
mod tests {
    use super::super::block::tests::header;
    use super::*;

    fn head(first_event: u64, event_count: u32) -> MicroHead {
        let Header { session, lane, .. } = header();
        MicroHead { session, lane, event_count, first_event, mono_us: 5, wall_us: 6 }
    }

    /// The records in a block that begins with event 7, as the clocks of those that are there.
    fn read(records: &[Vec<u8>]) -> Result<Vec<u64>, BlockError> {
        let mut payload = Vec::new();
        for record in records {
            payload.extend_from_slice(&(record.len() as u32).to_le_bytes());
            payload.extend_from_slice(record);
        }
        let mut out = Vec::new();
        super::records(&payload, &Header { first_event: 7, ..header() }, None, |head, _| {
            out.push(head.mono_us);
            Ok(())
        })?;
        Ok(out)
    }

    #[test]
    fn records_of_another_place_are_refused() {
        let good = [head(7, 2), head(9, 1), head(10, 4)].map(|head| head.encode().to_vec());
        assert_eq!(read(&good).unwrap(), [5, 5, 5]);
        assert!(read(&[good[0].clone(), good[2].clone()]).is_err(), "the middle one is gone");
        assert!(read(&good[1..]).is_err(), "the first one is gone");
        for at in 0..32 {
            let mut bad = good.clone();
            bad[1][at] ^= 0x40;
            // Whether as many events are there as it says shows when they are read, and at the next record.
            assert!(read(&bad).is_err(), "byte {at}");
        }
    }
}
