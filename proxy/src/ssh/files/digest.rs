//! What passed of one file in one direction: how much, from where, and its BLAKE3 as long as it came without a gap.

use casemate_recorder::transcript::event::{Event, Field};

use crate::sum::Sum;

/// A running digest is told whenever this many bytes more have passed.
const RUNNING_EVERY: u64 = 1 << 20;

/// Why there is no digest of content that did not come in the order of the file.
const NOT_SEQUENTIAL: &str = "not sequential";

/// One direction of an open file.
#[derive(Debug, Default)]
pub(super) struct Extent {
    /// Where the first byte belongs.
    start: Option<u64>,
    /// Where the next byte belongs if there is to be no gap.
    next: u64,
    bytes: u64,
    /// Made with the first byte: most handles are open one way only, and a hasher takes two kilobytes.
    hash: Option<Box<Sum>>,
    why: Option<&'static str>,
}

impl Extent {
    /// Says where the bytes that come next belong.
    pub(super) fn begin(&mut self, offset: u64) {
        let start = *self.start.get_or_insert(offset);
        if self.bytes == 0 && start != offset {
            // Nothing came for the first place, so nothing is torn.
            self.start = Some(offset);
        } else if self.bytes > 0 && offset != self.next {
            self.spoil(NOT_SEQUENTIAL);
        }
        self.next = offset;
    }

    /// Takes bytes, and says whenever a running digest is due; where that is does not depend on how they were cut.
    pub(super) fn take(&mut self, mut data: &[u8], mut due: impl FnMut(&Self)) {
        while !data.is_empty() {
            let room = RUNNING_EVERY - self.bytes % RUNNING_EVERY;
            let len = usize::try_from(room).map_or(data.len(), |room| room.min(data.len()));
            let (now, rest) = data.split_at(len);
            if self.why.is_none() {
                self.hash.get_or_insert_default().update(now);
            }
            self.bytes += len as u64;
            self.next = self.next.saturating_add(len as u64);
            data = rest;
            if self.bytes.is_multiple_of(RUNNING_EVERY) {
                due(self);
            }
        }
    }

    /// Keeps no more than the digest: something else passes now.
    pub(super) fn rest(&mut self) {
        if let Some(hash) = &mut self.hash {
            hash.rest();
        }
    }

    /// Gives the digest up. The first reason stays.
    pub(super) fn spoil(&mut self, why: &'static str) {
        self.why.get_or_insert(why);
        self.hash = None;
    }

    /// How many bytes passed.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds where the content begins, and its digest or why there is none.
    pub(super) fn describe(&self, event: Event, offset: Field, blake3: Field, why: Field) -> Event {
        let event = event.with(offset, self.start.unwrap_or(0));
        match (self.why, &self.hash) {
            (Some(reason), _) => event.with(why, reason),
            (None, Some(hash)) => event.with(blake3, hash.finalize().as_bytes().as_slice()),
            (None, None) => event.with(blake3, blake3::hash(b"").as_bytes().as_slice()),
        }
    }
}

#[cfg(test)]
mod tests {
    use casemate_recorder::transcript::event::{Value, file_digest};

    use super::*;

    fn told(extent: &Extent) -> (Option<u64>, Option<Vec<u8>>, Option<String>) {
        let event = Event::map(file_digest::TYPE, 0);
        let event = extent.describe(event, file_digest::OFFSET, file_digest::BLAKE3, file_digest::WHY);
        let offset = event.get(file_digest::OFFSET).and_then(|value| match value {
            Value::Uint(offset) => Some(*offset),
            _ => None,
        });
        let hash = event.get(file_digest::BLAKE3).and_then(|value| match value {
            Value::Bytes(hash) => Some(hash.to_vec()),
            _ => None,
        });
        let why = event.get(file_digest::WHY).and_then(|value| match value {
            Value::Text(why) => Some(why.clone()),
            _ => None,
        });
        (offset, hash, why)
    }

    fn digest(data: &[u8]) -> Option<Vec<u8>> {
        Some(blake3::hash(data).as_bytes().to_vec())
    }

    #[test]
    fn content_without_a_gap_has_a_digest_from_where_it_begins() {
        let mut extent = Extent::default();
        assert_eq!(told(&extent), (Some(0), digest(b""), None));
        extent.begin(700);
        extent.take(b"resumed ", |_| panic!("not due"));
        extent.begin(708);
        extent.take(b"here", |_| panic!("not due"));
        assert_eq!((told(&extent), extent.bytes()), ((Some(700), digest(b"resumed here"), None), 12));
    }

    #[test]
    fn a_gap_costs_the_digest_and_not_the_count() {
        let mut extent = Extent::default();
        extent.begin(0);
        extent.take(b"one", |_| {});
        extent.begin(5);
        extent.take(b"two", |_| {});
        extent.begin(3);
        extent.take(b"!!", |_| {});
        assert_eq!((told(&extent), extent.bytes()), ((Some(0), None, Some(NOT_SEQUENTIAL.to_owned())), 8));
    }

    #[test]
    fn running_digests_come_at_the_same_places_however_the_bytes_are_cut() {
        let content = vec![7; (RUNNING_EVERY * 5 / 2) as usize];
        for cut in [1000, 65_537, content.len()] {
            let (mut extent, mut due) = (Extent::default(), Vec::new());
            extent.begin(0);
            content.chunks(cut).for_each(|piece| extent.take(piece, |now| due.push((now.bytes(), told(now).1))));
            let at = |mib: usize| (mib as u64 * RUNNING_EVERY, digest(&content[..mib << 20]));
            assert_eq!(due, [at(1), at(2)], "pieces of {cut}");
        }
    }
}
