//! `show`: what happened in a session, one item a line. Streams are left to `export`.

use std::io::Write;
use std::path::Path;

use casemate_recorder::transcript::event::{
    Body, Event, EventType, Lane, Value, chan_close, chan_open, eof, exec, exit, gap, pty, refused, reply, request,
    resize, subsystem, unreachable,
};

use crate::ReplayError;
use crate::json::{Object, hex};
use crate::reader::Transcript;
use crate::time::offset;
use casemate_screen::safe::visible;

/// What belongs to the mechanics of a channel and says nothing about what was done.
const LEFT_OUT: [EventType; 7] =
    [chan_open::TYPE, pty::TYPE, resize::TYPE, eof::TYPE, chan_close::TYPE, request::TYPE, reply::TYPE];

pub(crate) fn run(transcript: &Transcript, json: bool, out: &mut dyn Write) -> Result<(), ReplayError> {
    for event in transcript.events(&Lane::ALL) {
        let (t_us, entry) = event?;
        let event = &entry.event;
        let Body::Map(fields) = &event.body else { continue };
        if LEFT_OUT.contains(&event.kind) {
            continue;
        }
        let named: Vec<(String, &Value)> = fields.iter().map(|(key, value)| (name(event, *key), value)).collect();
        let line = if json { json_line(t_us, event, &named) } else { text_line(t_us, event, &named) };
        writeln!(out, "{line}").map_err(ReplayError::io("write to", Path::new("the output")))?;
    }
    out.flush().map_err(ReplayError::io("write to", Path::new("the output")))
}

/// Names a field: the few that many kinds of item share have one name for all, the rest keep that of the vocabulary.
fn name(event: &Event, key: u8) -> String {
    let label = event.kind.spec().and_then(|spec| spec.fields.iter().find(|(own, _)| *own == key));
    let label = label.map_or_else(|| format!("field{key}"), |(_, label)| (*label).to_owned());
    let shared = match (event.kind, label.as_str()) {
        (exec::TYPE, "command") | (subsystem::TYPE, "name") => "command",
        (exit::TYPE, "status" | "signal") => "result",
        (refused::TYPE | unreachable::TYPE | gap::TYPE, "reason") => "error",
        (_, label) => label,
    };
    shared.to_owned()
}

fn json_line(t_us: u64, event: &Event, fields: &[(String, &Value)]) -> String {
    let object = Object::new().with("t_us", t_us).with("type", event.kind.to_string()).with("chan", event.chan);
    fields.iter().fold(object, |object, (name, value)| object.with_value(name, value)).finish()
}

fn text_line(t_us: u64, event: &Event, fields: &[(String, &Value)]) -> String {
    let mut line = format!("{}  {:13}", offset(t_us), event.kind.to_string());
    for (name, value) in fields {
        line.push_str(&format!("  {name}={}", text_value(name, value)));
    }
    line
}

fn text_value(name: &str, value: &Value) -> String {
    match value {
        Value::Uint(number) => number.to_string(),
        Value::Text(text) => visible(text),
        Value::Bytes(bytes) if name == "blake3" => hex(bytes),
        Value::Bytes(bytes) => visible(&String::from_utf8_lossy(bytes)),
        Value::List(values) => {
            let values: Vec<String> = values.iter().map(|value| text_value(name, value)).collect();
            format!("[{}]", values.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_carry_the_shared_names_and_nothing_that_steers() {
        let event = Event::map(exec::TYPE, 4).with(exec::COMMAND, b"rm \x1b[2J".as_slice());
        let fields = [(name(&event, 1), event.get(exec::COMMAND).unwrap())];
        assert_eq!(json_line(9, &event, &fields), r#"{"t_us":9,"type":"ssh.exec","chan":4,"command":"rm \u001b[2J"}"#);
        assert_eq!(text_line(1_000, &event, &fields), "0:00:00.001  ssh.exec       command=rm ␛[2J");
        let event = Event::map(refused::TYPE, 0).with(refused::REASON, "x11 is not allowed");
        assert_eq!(name(&event, 2), "error");
    }
}
