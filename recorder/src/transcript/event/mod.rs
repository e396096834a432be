//! Events: what a transcript says happened, one entry each.
//!
//! On the wire an event is a CBOR array `[seq, dt_us, type, chan, body]` in a CBOR sequence (RFC 8742), deterministic
//! as in RFC 8949 §4.2.1. The body is a byte string for streams and a map with small integer keys for the rest.
//! The table in `vocabulary` is all that is said.

mod encoding;
mod vocabulary;

use std::fmt;

use bytes::Bytes;

pub use self::encoding::{EventError, decode, encode, encode_stream};
pub use self::vocabulary::*;

/// An encoded event is at most this long; longer streams are split by the caller (FORMAT.md §2).
pub const EVENT_LEN_MAX: usize = 256 * 1024;

/// The longest stream body that fits one event, whatever the sizes of its other fields.
pub const STREAM_LEN_MAX: usize = EVENT_LEN_MAX - 64;

/// Who sent something. On a transcript `Client` is input, `Target` is output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The person's program.
    Client,
    /// What they reach.
    Target,
}

/// A confidentiality class; each lane is keyed apart and fills blocks of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Lane {
    /// Metadata: who, where, when, what was asked for.
    Meta = 0,
    /// Output, and the text of commands and SQL.
    Output = 1,
    /// Secret input: keystrokes, bind parameters, file content.
    Input = 2,
}

impl Lane {
    /// All lanes, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Meta, Self::Output, Self::Input];

    /// Returns the lane with that number, or `None`.
    pub fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Meta),
            1 => Some(Self::Output),
            2 => Some(Self::Input),
            _ => None,
        }
    }
}

/// An event type number. Numbers are forever; readers keep the ones they do not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventType(pub u16);

impl EventType {
    /// Returns the row of the vocabulary that describes this type, or `None` for a newer one.
    pub fn spec(self) -> Option<&'static TypeSpec> {
        TYPES.iter().find(|spec| spec.number == self)
    }

    /// Returns the lane that events of this type belong to; an unknown type counts as metadata.
    pub fn lane(self) -> Lane {
        self.spec().map_or(Lane::Meta, |spec| spec.lane)
    }

    /// Whether the body is a byte string.
    pub fn is_stream(self) -> bool {
        self.spec().is_some_and(|spec| spec.fields.is_empty())
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.spec() {
            Some(spec) => f.write_str(spec.name),
            None => write!(f, "type{}", self.0),
        }
    }
}

/// One field of a map body: the type it belongs to and its key there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    of: EventType,
    key: u8,
}

/// One row of the vocabulary.
#[derive(Debug)]
pub struct TypeSpec {
    /// The number on the wire.
    pub number: EventType,
    /// The name in exports, such as `ssh.in`.
    pub name: &'static str,
    /// The confidentiality class.
    pub lane: Lane,
    /// Map keys with their names in exports; empty for a stream.
    pub fields: &'static [(u8, &'static str)],
}

/// A value inside a map body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// An unsigned integer.
    Uint(u64),
    /// Raw bytes: anything a peer chose.
    Bytes(Bytes),
    /// Text that this program or its configuration chose.
    Text(String),
    /// A list, at most four deep.
    List(Vec<Self>),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Uint(value)
    }
}
impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Uint(value.into())
    }
}
impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Uint(value.into())
    }
}
impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}
impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}
impl From<Bytes> for Value {
    fn from(value: Bytes) -> Self {
        Self::Bytes(value)
    }
}
impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        Self::Bytes(Bytes::copy_from_slice(value))
    }
}
impl From<Vec<Self>> for Value {
    fn from(value: Vec<Self>) -> Self {
        Self::List(value)
    }
}

/// What an event carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Raw bytes of a stream, as they were on the wire.
    Stream(Bytes),
    /// Fields by key, ascending.
    Map(Vec<(u8, Value)>),
}

/// One transcript entry, before it gets its place and time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventType,
    /// The SSH channel or connection number inside the session; 0 where there is none.
    pub chan: u32,
    /// What it carries.
    pub body: Body,
}

impl Event {
    /// Makes a stream event. `data` must not be longer than [`STREAM_LEN_MAX`].
    pub fn stream(kind: EventType, chan: u32, data: Bytes) -> Self {
        debug_assert!(kind.is_stream(), "{kind} is not a stream");
        Self { kind, chan, body: Body::Stream(data) }
    }

    /// Makes a map event without fields; add them with [`Event::with`].
    pub fn map(kind: EventType, chan: u32) -> Self {
        Self { kind, chan, body: Body::Map(Vec::new()) }
    }

    /// Adds a field. A field of another event type would be a lie in the record, so it is a bug caught in tests.
    #[must_use]
    pub fn with(mut self, field: Field, value: impl Into<Value>) -> Self {
        debug_assert_eq!(field.of, self.kind, "a field of another event type");
        if let Body::Map(entries) = &mut self.body {
            let at = entries.partition_point(|(key, _)| *key < field.key);
            entries.insert(at, (field.key, value.into()));
        }
        self
    }

    /// Returns the value of a field, if the event has it.
    pub fn get(&self, field: Field) -> Option<&Value> {
        match &self.body {
            Body::Map(entries) if self.kind == field.of => {
                entries.iter().find(|(key, _)| *key == field.key).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    /// Returns the bytes that go on to the other side once the event is recorded: those of a stream, or the data of an
    /// `ssh.extended`. Any other event says something and carries nothing.
    pub fn wire_bytes(&self) -> Bytes {
        match (&self.body, self.get(extended::DATA)) {
            (Body::Stream(data), _) | (_, Some(Value::Bytes(data))) => data.clone(),
            _ => Bytes::new(),
        }
    }

    /// Returns how long [`Event::wire_bytes`] is.
    pub fn wire_len(&self) -> usize {
        match (&self.body, self.get(extended::DATA)) {
            (Body::Stream(data), _) | (_, Some(Value::Bytes(data))) => data.len(),
            _ => 0,
        }
    }
}

/// An event with its place in the session and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Number in the session over all lanes, dense from 0.
    pub seq: u64,
    /// Microseconds since the block's first event.
    pub dt_us: u64,
    /// What happened.
    pub event: Event,
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn sample() -> Event {
        Event::map(pty::TYPE, 3).with(pty::ROWS, 24u32).with(pty::TERM, b"xterm\xff".as_slice()).with(pty::COLS, 80u32)
    }

    #[test]
    fn fields_are_written_in_the_order_of_their_keys() {
        let Body::Map(entries) = sample().body else { panic!("not a map") };
        assert!(entries.is_sorted_by(|(a, _), (b, _)| a < b));
        assert_eq!(sample().get(pty::COLS), Some(&Value::Uint(80)));
        assert_eq!(sample().get(resize::COLS), None);
    }
}
