//! Events as bytes, and back. What the encoder would not write is no event.

use bytes::Bytes;
use minicbor::{Decoder, Encoder, data::Type};

use super::{Body, EVENT_LEN_MAX, Entry, Event, EventType, Value};

/// How deep lists and maps may nest.
const NESTING_MAX: usize = 4;

/// Why bytes are not an event.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The bytes are not the CBOR that the format asks for.
    #[error("not an event: {0}")]
    Cbor(#[from] minicbor::decode::Error),
    /// Something is valid CBOR and still outside the format.
    #[error("not an event: {0}")]
    Shape(&'static str),
}

/// Appends an event to a CBOR sequence.
pub fn encode(out: &mut Vec<u8>, seq: u64, dt_us: u64, event: &Event) {
    // Writing to a Vec cannot fail; minicbor's error type is uninhabited there.
    let mut encoder = Encoder::new(out);
    let _ = encode_into(&mut encoder, seq, dt_us, event);
}

/// Appends a stream event whose bytes come in several pieces.
pub fn encode_stream(out: &mut Vec<u8>, seq: u64, dt_us: u64, kind: EventType, chan: u32, parts: &[Bytes]) {
    let len: usize = parts.iter().map(Bytes::len).sum();
    let mut encoder = Encoder::new(&mut *out);
    // As above: a Vec takes everything.
    let _ = encode_stream_head(&mut encoder, seq, dt_us, kind, chan, len as u64);
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn encode_stream_head(
    encoder: &mut Encoder<&mut Vec<u8>>,
    seq: u64,
    dt_us: u64,
    kind: EventType,
    chan: u32,
    len: u64,
) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
    encoder.array(5)?.u64(seq)?.u64(dt_us)?.u16(kind.0)?.u32(chan)?.bytes_len(len)?;
    Ok(())
}

fn encode_into(
    encoder: &mut Encoder<&mut Vec<u8>>,
    seq: u64,
    dt_us: u64,
    event: &Event,
) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
    encoder.array(5)?.u64(seq)?.u64(dt_us)?.u16(event.kind.0)?.u32(event.chan)?;
    match &event.body {
        Body::Stream(data) => {
            encoder.bytes(data)?;
        }
        Body::Map(entries) => {
            encoder.map(entries.len() as u64)?;
            for (key, value) in entries {
                encoder.u8(*key)?;
                encode_value(encoder, value)?;
            }
        }
    }
    Ok(())
}

fn encode_value(
    encoder: &mut Encoder<&mut Vec<u8>>,
    value: &Value,
) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
    match value {
        Value::Uint(number) => encoder.u64(*number)?,
        Value::Bytes(bytes) => encoder.bytes(bytes)?,
        Value::Text(text) => encoder.str(text)?,
        Value::List(values) => {
            encoder.array(values.len() as u64)?;
            for value in values {
                encode_value(encoder, value)?;
            }
            encoder
        }
    };
    Ok(())
}

/// Decodes the event at the front of `bytes` and returns it with its length.
///
/// # Errors
/// Anything that [`encode`] would not have written: other types, indefinite lengths, floats, tags, keys that do not
/// ascend, deep nesting, an event over [`EVENT_LEN_MAX`].
pub fn decode(bytes: &[u8]) -> Result<(Entry, usize), EventError> {
    let mut decoder = Decoder::new(bytes);
    if decoder.array()? != Some(5) {
        return Err(EventError::Shape("an event is an array of five"));
    }
    let seq = decoder.u64()?;
    let dt_us = decoder.u64()?;
    let kind = EventType(decoder.u16()?);
    let chan = decoder.u32()?;
    let body = match decoder.datatype()? {
        Type::Bytes => Body::Stream(Bytes::copy_from_slice(decoder.bytes()?)),
        Type::Map => {
            let Some(len) = decoder.map()? else {
                return Err(EventError::Shape("a map of indefinite length"));
            };
            let mut entries: Vec<(u8, Value)> = Vec::new();
            for _ in 0..len {
                let key = decoder.u8()?;
                if entries.last().is_some_and(|(last, _)| *last >= key) {
                    return Err(EventError::Shape("map keys that do not ascend"));
                }
                entries.push((key, decode_value(&mut decoder, NESTING_MAX)?));
            }
            Body::Map(entries)
        }
        _ => return Err(EventError::Shape("a body that is neither bytes nor a map")),
    };
    let len = decoder.position();
    if len > EVENT_LEN_MAX {
        return Err(EventError::Shape("an event over 256 KiB"));
    }
    Ok((Entry { seq, dt_us, event: Event { kind, chan, body } }, len))
}

fn decode_value(decoder: &mut Decoder<'_>, depth: usize) -> Result<Value, EventError> {
    match decoder.datatype()? {
        Type::U8 | Type::U16 | Type::U32 | Type::U64 => Ok(Value::Uint(decoder.u64()?)),
        Type::Bytes => Ok(Value::Bytes(Bytes::copy_from_slice(decoder.bytes()?))),
        Type::String => Ok(Value::Text(decoder.str()?.to_owned())),
        Type::Array => {
            let Some(depth) = depth.checked_sub(1) else {
                return Err(EventError::Shape("nesting deeper than four"));
            };
            let Some(len) = decoder.array()? else {
                return Err(EventError::Shape("a list of indefinite length"));
            };
            // `len` is the peer's word: reserve nothing for it.
            let mut values = Vec::new();
            for _ in 0..len {
                values.push(decode_value(decoder, depth)?);
            }
            Ok(Value::List(values))
        }
        _ => Err(EventError::Shape("a value that is not an integer, bytes, text or a list")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::ssh_in;
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn an_event_survives_the_round_trip() {
        for event in [sample(), Event::stream(ssh_in::TYPE, 7, Bytes::from_static(b"\x00\xffls\r"))] {
            let mut bytes = Vec::new();
            encode(&mut bytes, 9, 1_000_000, &event);
            bytes.extend_from_slice(b"next");
            let (entry, len) = decode(&bytes).unwrap();
            assert_eq!(entry, Entry { seq: 9, dt_us: 1_000_000, event });
            assert_eq!(&bytes[len..], b"next");
        }
    }

    #[test]
    fn every_cut_of_an_event_is_an_error() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 1, 2, &sample());
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn what_the_encoder_would_not_write_is_refused() {
        let cases: [(&str, &[u8]); 6] = [
            ("array of four", &[0x84, 0, 0, 1, 0]),
            ("indefinite array", &[0x9f, 0, 0, 1, 0, 0x40, 0xff]),
            ("float body", &[0x85, 0, 0, 1, 0, 0xf9, 0, 0]),
            ("keys that repeat", &[0x85, 0, 0, 16, 0, 0xa2, 1, 0, 1, 0]),
            ("tagged value", &[0x85, 0, 0, 16, 0, 0xa1, 1, 0xc1, 0]),
            ("five deep", &[0x85, 0, 0, 16, 0, 0xa1, 1, 0x81, 0x81, 0x81, 0x81, 0x81, 0]),
        ];
        for (name, bytes) in cases {
            assert!(decode(bytes).is_err(), "{name}");
        }
    }
}
