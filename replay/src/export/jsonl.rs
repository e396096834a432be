//! JSON lines: `seq t_us type chan`, and `data` in base64 for streams or the named fields of the rest.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use casemate_recorder::transcript::event::{Body, Entry, Lane};

use super::failed;
use crate::ReplayError;
use crate::json::{Object, hex};
use crate::reader::Transcript;

pub(super) fn write(transcript: &Transcript, out: &mut dyn Write) -> Result<(), ReplayError> {
    for event in transcript.events(&Lane::ALL) {
        let (t_us, entry) = event?;
        writeln!(out, "{}", line(t_us, &entry)).map_err(failed())?;
    }
    Ok(())
}

fn line(t_us: u64, entry: &Entry) -> String {
    let event = &entry.event;
    let mut object = Object::new()
        .with("seq", entry.seq)
        .with("t_us", t_us)
        .with("type", event.kind.to_string())
        .with("chan", event.chan);
    match (&event.body, event.kind.spec()) {
        (Body::Stream(data), _) => object = object.with("data", STANDARD.encode(data)),
        (Body::Map(entries), Some(spec)) => {
            for (key, value) in entries {
                object = match spec.fields.iter().find(|(own, _)| own == key) {
                    Some((_, name)) => object.with_value(name, value),
                    // A field of a later version.
                    None => object.with_value(&format!("field{key}"), value),
                };
            }
        }
        // A type of a later version: nothing of it is lost, and nothing is guessed.
        (Body::Map(_), None) => object = object.with("raw", hex(&raw_body(entry))),
    }
    object.finish()
}

/// Returns the body of an event as it is on the wire. The encoding is deterministic, so encoding it anew gives the same.
fn raw_body(entry: &Entry) -> Vec<u8> {
    let (mut whole, mut empty) = (Vec::new(), Vec::new());
    casemate_recorder::transcript::event::encode(&mut whole, 0, 0, &entry.event);
    let bare = casemate_recorder::transcript::event::Event { body: Body::Map(Vec::new()), ..entry.event.clone() };
    casemate_recorder::transcript::event::encode(&mut empty, 0, 0, &bare);
    // An empty map is one byte, so what precedes the body is one byte shorter than the bare event.
    whole.get(empty.len().saturating_sub(1)..).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use casemate_recorder::transcript::event::{Event, EventType, Value, exec, ssh_in};

    use super::*;

    #[test]
    fn streams_are_base64_and_fields_are_named() {
        let stream = Entry { seq: 3, dt_us: 0, event: Event::stream(ssh_in::TYPE, 2, Bytes::from_static(b"\xffls\r")) };
        assert_eq!(line(7, &stream), r#"{"seq":3,"t_us":7,"type":"ssh.in","chan":2,"data":"/2xzDQ=="}"#);
        let event = Event::map(exec::TYPE, 0).with(exec::COMMAND, b"id".as_slice()).with(exec::ACCEPTED, true);
        let named = line(7, &Entry { seq: 3, dt_us: 0, event });
        assert_eq!(named, r#"{"seq":3,"t_us":7,"type":"ssh.exec","chan":0,"command":"id","accepted":1}"#);
    }

    #[test]
    fn a_type_of_a_later_version_is_kept_raw() {
        let body = Body::Map(vec![(1, Value::Uint(5)), (2, Value::Text("x".into()))]);
        let event = Event { kind: EventType(999), chan: 0, body };
        let unknown = line(7, &Entry { seq: 3, dt_us: 0, event });
        assert_eq!(unknown, r#"{"seq":3,"t_us":7,"type":"type999","chan":0,"raw":"a20105026178"}"#);
    }
}
