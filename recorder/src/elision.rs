//! What a grant keeps out of the record: counted and hashed before it goes on.
//!
//! An [`Elision`] turns bytes on their way into the events that stand for them. It is told where in them the content
//! lies; what it is content of, it does not know.

use std::fmt;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::transcript::event::{Event, EventType, Side, file_elided};

/// All that was left out of one side of a channel so far.
pub struct Elision {
    chan: u32,
    side: Side,
    total: u64,
    hash: blake3::Hasher,
}

impl fmt::Debug for Elision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chan, side, total, .. } = self;
        f.debug_struct("Elision").field("chan", chan).field("side", side).field("total", total).finish_non_exhaustive()
    }
}

impl Elision {
    /// Starts with nothing left out of what `side` sends on a channel.
    pub fn new(chan: u32, side: Side) -> Self {
        Self { chan, side, total: 0, hash: blake3::Hasher::new() }
    }

    pub(crate) fn side(&self) -> Side {
        self.side
    }

    /// Turns bytes into what the record gets of them: the digest of what is left out, and the rest.
    pub(crate) fn events(&mut self, kind: EventType, wire: &Bytes, content: &[Range<usize>]) -> Vec<Event> {
        let (mut kept, mut from, before) = (BytesMut::new(), 0, self.total);
        for place in content {
            // A place that lies before the last one's end or beyond the bytes is none: its bytes stay in the record.
            let (Some(between), Some(left_out)) = (wire.get(from..place.start), wire.get(place.clone())) else {
                continue;
            };
            kept.extend_from_slice(between);
            self.hash.update(left_out);
            self.total += left_out.len() as u64;
            from = place.end;
        }
        kept.extend_from_slice(wire.get(from..).unwrap_or_default());
        let mut events = Vec::with_capacity(2);
        if self.total > before {
            let elided = Event::map(file_elided::TYPE, self.chan)
                .with(file_elided::SIDE, self.side as u32)
                .with(file_elided::BYTES, self.total - before)
                .with(file_elided::TOTAL, self.total)
                .with(file_elided::BLAKE3, self.hash.finalize().as_bytes().as_slice());
            events.push(elided);
        }
        if !kept.is_empty() || events.is_empty() {
            events.push(Event::stream(kind, self.chan, kept.freeze()));
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::event::{Body, Value, ssh_in};

    /// What the events keep, how many bytes they leave out, and the digest they name.
    fn told(events: &[Event]) -> (Vec<u8>, u64, Option<Vec<u8>>) {
        let (mut kept, mut bytes, mut digest) = (Vec::new(), 0, None);
        for event in events {
            match (&event.body, event.get(file_elided::BYTES), event.get(file_elided::BLAKE3)) {
                (Body::Stream(data), ..) => kept.extend_from_slice(data),
                (_, Some(Value::Uint(count)), Some(Value::Bytes(hash))) => {
                    (bytes, digest) = (*count, Some(hash.to_vec()));
                }
                _ => panic!("{event:?}"),
            }
        }
        (kept, bytes, digest)
    }

    #[test]
    fn every_byte_is_kept_or_in_the_digest() {
        let wire = Bytes::from_static(b"head CONTENT mid MORE");
        let mut elision = Elision::new(3, Side::Client);
        let (kept, bytes, digest) = told(&elision.events(ssh_in::TYPE, &wire, &[5..12, 17..21]));
        assert_eq!((kept.as_slice(), bytes), (&b"head  mid "[..], 11));
        assert_eq!(digest.unwrap(), blake3::hash(b"CONTENTMORE").as_bytes());
        // Only content: no empty stream event, and the digest runs on.
        let events = elision.events(ssh_in::TYPE, &Bytes::from_static(b"!!"), std::slice::from_ref(&(0..2)));
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].get(file_elided::TOTAL), Some(&Value::Uint(13)));
        assert_eq!(told(&events).2.unwrap(), blake3::hash(b"CONTENTMORE!!").as_bytes());
    }

    #[test]
    fn a_place_that_does_not_fit_leaves_nothing_out() {
        let wire = Bytes::from_static(b"0123456789");
        for places in [&[0..2, 8..11][..], &[0..2, 11..12], &[3..6, 5..7], &[3..6, 0..1]] {
            let (kept, bytes, _) = told(&Elision::new(0, Side::Target).events(ssh_in::TYPE, &wire, places));
            assert_eq!(kept.len() as u64 + bytes, 10, "{places:?}");
        }
        let backwards = Range { start: 6, end: 3 };
        let (kept, bytes, _) = told(&Elision::new(0, Side::Target).events(ssh_in::TYPE, &wire, &[backwards]));
        assert_eq!((kept.as_slice(), bytes), (&wire[..], 0));
    }
}
