//! What a grant keeps out of the record: content that is counted and hashed before it goes on, and secrets of which only the
//! length is left.
//!
//! An [`Elision`] turns bytes on their way into the events that stand for them. It is told where in them the content
//! lies; what it is content of, it does not know.

use std::fmt;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::transcript::event::{Event, EventType, Side, file_elided, pg_elided, redacted};

/// What stands in the record for each byte of a secret.
const REDACTED: u8 = b'*';

/// What the record gets of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// All of them, in a stream of that type.
    Keep(EventType),
    /// As many stars, in a stream of that type.
    Redact(EventType),
    /// Their number and their digest.
    Elide,
}

/// A place in bytes on their way, and what the record gets of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Where.
    pub range: Range<usize>,
    /// What the record gets of it.
    pub how: How,
}

impl Part {
    /// Leaves a place out.
    pub fn elide(range: Range<usize>) -> Self {
        Self { range, how: How::Elide }
    }
}

/// All that was left out of one side of a channel so far.
pub struct Elision {
    chan: u32,
    side: Side,
    of: Of,
    total: u64,
    hash: blake3::Hasher,
}

/// What is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// The content of files.
    Files,
    /// Rows of a database.
    Rows,
}

impl fmt::Debug for Elision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chan, side, of, total, .. } = self;
        f.debug_struct("Elision")
            .field("chan", chan)
            .field("side", side)
            .field("of", of)
            .field("total", total)
            .finish_non_exhaustive()
    }
}

impl Elision {
    /// Starts with nothing left out of what `side` sends on a channel.
    pub fn new(chan: u32, side: Side, of: Of) -> Self {
        Self { chan, side, of, total: 0, hash: blake3::Hasher::new() }
    }

    pub(crate) fn side(&self) -> Side {
        self.side
    }

    /// Turns bytes into what the record gets of them: the digest of what is left out, and the rest in its order. What no
    /// part names is kept as `kind`, and so is a part that does not fit.
    pub(crate) fn events(&mut self, kind: EventType, wire: &Bytes, parts: &[Part]) -> Vec<Event> {
        let (mut kept, mut at, before, mut stars) = (Runs::default(), 0, self.total, 0);
        for Part { range, how } in parts {
            // A place that lies before the last one's end or beyond the bytes is none.
            if range.start < at || range.start >= range.end || range.end > wire.len() {
                continue;
            }
            kept.push(kind, wire, at..range.start, false);
            match how {
                How::Keep(kind) => kept.push(*kind, wire, range.clone(), false),
                How::Redact(kind) => {
                    kept.push(*kind, wire, range.clone(), true);
                    stars += range.len() as u64;
                }
                How::Elide => {
                    self.hash.update(wire.get(range.clone()).unwrap_or_default());
                    self.total += range.len() as u64;
                }
            }
            at = range.end;
        }
        kept.push(kind, wire, at..wire.len(), false);
        let mut events = Vec::with_capacity(kept.0.len() + 2);
        if self.total > before {
            events.push(self.elided(self.total - before));
        }
        if stars > 0 {
            let event = Event::map(redacted::TYPE, self.chan).with(redacted::SIDE, self.side as u32);
            events.push(event.with(redacted::BYTES, stars));
        }
        events.extend(kept.0.into_iter().map(|run| Event::stream(run.kind, self.chan, run.bytes(wire))));
        if events.is_empty() {
            events.push(Event::stream(kind, self.chan, Bytes::new()));
        }
        events
    }

    fn elided(&self, now: u64) -> Event {
        let hash = self.hash.finalize();
        let hash = hash.as_bytes().as_slice();
        match self.of {
            Of::Files => Event::map(file_elided::TYPE, self.chan)
                .with(file_elided::SIDE, self.side as u32)
                .with(file_elided::BYTES, now)
                .with(file_elided::TOTAL, self.total)
                .with(file_elided::BLAKE3, hash),
            Of::Rows => Event::map(pg_elided::TYPE, self.chan)
                .with(pg_elided::SIDE, self.side as u32)
                .with(pg_elided::BYTES, now)
                .with(pg_elided::TOTAL, self.total)
                .with(pg_elided::BLAKE3, hash),
        }
    }
}

/// Bytes of one type that follow each other in the record.
#[derive(Debug)]
struct Run {
    kind: EventType,
    /// Places in the wire, and whether stars stand for what is there. They follow each other in the record, and where there is
    /// only one it is the bytes themselves, without a copy.
    places: Vec<(Range<usize>, bool)>,
}

impl Run {
    fn bytes(&self, wire: &Bytes) -> Bytes {
        if let [(range, false)] = self.places.as_slice() {
            return wire.slice(range.clone());
        }
        let mut out = BytesMut::with_capacity(self.places.iter().map(|(range, _)| range.len()).sum());
        for (range, redacted) in &self.places {
            if *redacted {
                out.resize(out.len() + range.len(), REDACTED);
            } else {
                out.extend_from_slice(wire.get(range.clone()).unwrap_or_default());
            }
        }
        out.freeze()
    }
}

#[derive(Debug, Default)]
struct Runs(Vec<Run>);

impl Runs {
    fn push(&mut self, kind: EventType, wire: &Bytes, range: Range<usize>, redacted: bool) {
        if range.is_empty() {
            return;
        }
        debug_assert!(range.end <= wire.len(), "a place in the wire");
        let Some(run) = self.0.last_mut().filter(|run| run.kind == kind) else {
            return self.0.push(Run { kind, places: vec![(range, redacted)] });
        };
        match run.places.last_mut().filter(|(last, stars)| last.end == range.start && *stars == redacted) {
            Some((last, _)) => last.end = range.end,
            None => run.places.push((range, redacted)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::event::{Body, Value, ssh_in};

    fn elide(places: &[Range<usize>]) -> Vec<Part> {
        places.iter().cloned().map(Part::elide).collect()
    }

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
        let mut elision = Elision::new(3, Side::Client, Of::Files);
        let (kept, bytes, digest) = told(&elision.events(ssh_in::TYPE, &wire, &elide(&[5..12, 17..21])));
        assert_eq!((kept.as_slice(), bytes), (&b"head  mid "[..], 11));
        assert_eq!(digest.unwrap(), blake3::hash(b"CONTENTMORE").as_bytes());
        // Only content: no empty stream event, and the digest runs on.
        let events = elision.events(ssh_in::TYPE, &Bytes::from_static(b"!!"), &[Part::elide(0..2)]);
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].get(file_elided::TOTAL), Some(&Value::Uint(13)));
        assert_eq!(told(&events).2.unwrap(), blake3::hash(b"CONTENTMORE!!").as_bytes());
    }

    #[test]
    fn a_place_that_does_not_fit_leaves_nothing_out() {
        let wire = Bytes::from_static(b"0123456789");
        for places in [&[0..2, 8..11][..], &[0..2, 11..12], &[3..6, 5..7], &[3..6, 0..1]] {
            let (kept, bytes, _) =
                told(&Elision::new(0, Side::Target, Of::Files).events(ssh_in::TYPE, &wire, &elide(places)));
            assert_eq!(kept.len() as u64 + bytes, 10, "{places:?}");
        }
        let backwards = Range { start: 6, end: 3 };
        let (kept, bytes, _) =
            told(&Elision::new(0, Side::Target, Of::Files).events(ssh_in::TYPE, &wire, &[Part::elide(backwards)]));
        assert_eq!((kept.as_slice(), bytes), (&wire[..], 0));
    }

    #[test]
    fn parts_go_into_the_streams_that_are_named_and_secrets_leave_their_length() {
        use crate::transcript::event::{pg_in, pg_sql};
        let wire = Bytes::from_static(b"sql PASSWORD sqlBIND sql");
        let mut elision = Elision::new(0, Side::Client, Of::Rows);
        let parts = [
            Part { range: 4..12, how: How::Redact(pg_sql::TYPE) },
            Part { range: 16..20, how: How::Keep(pg_in::TYPE) },
        ];
        let events = elision.events(pg_sql::TYPE, &wire, &parts);
        let stream = |kind, text: &'static str| Event::stream(kind, 0, Bytes::from(text));
        let stars = Event::map(redacted::TYPE, 0).with(redacted::SIDE, 0u32).with(redacted::BYTES, 8u32);
        assert_eq!(
            events,
            [
                stars,
                stream(pg_sql::TYPE, "sql ******** sql"),
                stream(pg_in::TYPE, "BIND"),
                stream(pg_sql::TYPE, " sql"),
            ]
        );
    }
}
