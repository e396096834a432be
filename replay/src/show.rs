//! `show`: what happened in a session, one item a line. Streams are left to `export`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use casemate_recorder::transcript::event::{
    Body, Event, EventType, Lane, Value, chan_close, chan_open, eof, exec, exit, file_close, file_command, file_digest,
    file_elided, file_lost, fwd_end, fwd_listen, gap, pg_described, pg_done, pg_elided, pty, refused, reply, request,
    resize, subsystem, unreachable,
};

use crate::ReplayError;
use crate::json::{Object, hex, is_digest};
use crate::reader::Transcript;
use crate::sql::{Statement, Statements, line};
use crate::time::offset;
use casemate_screen::safe::{Piece, Utf8Stream, push_visible, visible};

/// What belongs to the mechanics of a channel and says nothing about what was done, or is told with a statement.
const LEFT_OUT: [EventType; 8] = [
    pty::TYPE,
    resize::TYPE,
    eof::TYPE,
    chan_close::TYPE,
    request::TYPE,
    reply::TYPE,
    pg_done::TYPE,
    pg_described::TYPE,
];

/// Digests that are told anew every so often: only the last says something that nothing else does.
#[derive(Debug, Default)]
struct Running(BTreeMap<(u32, EventType, Option<u64>), (u64, Event)>);

impl Running {
    /// Keeps an event that a later one may overtake, and gives any other back.
    fn take(&mut self, t_us: u64, event: Event) -> Option<Event> {
        let number = |field| match event.get(field) {
            Some(Value::Uint(number)) => Some(*number),
            _ => None,
        };
        let place = match event.kind {
            // One for each side that content passes from.
            file_elided::TYPE => number(file_elided::SIDE),
            pg_elided::TYPE => number(pg_elided::SIDE),
            file_digest::TYPE => number(file_digest::FILE),
            file_close::TYPE => {
                self.0.remove(&(event.chan, file_digest::TYPE, number(file_close::FILE)));
                return Some(event);
            }
            _ => return Some(event),
        };
        self.0.insert((event.chan, event.kind, place), (t_us, event));
        None
    }
}

pub(crate) fn run(transcript: &Transcript, json: bool, out: &mut dyn Write) -> Result<(), ReplayError> {
    let (mut running, mut statements) = (Running::default(), Statements::new());
    let mut ended = Vec::new();
    for event in transcript.events(&Lane::ALL) {
        let (t_us, entry) = event?;
        statements.take(t_us, &entry.event, |statement| ended.push(statement));
        ended.drain(..).try_for_each(|statement| write_statement(&statement, json, out))?;
        if let Some(event) = running.take(t_us, entry.event) {
            write_item(t_us, &event, json, out)?;
        }
    }
    statements.finish(|statement| ended.push(statement));
    ended.iter().try_for_each(|statement| write_statement(statement, json, out))?;
    let mut last: Vec<(u64, Event)> = running.0.into_values().collect();
    last.sort_by_key(|(t_us, _)| *t_us);
    last.iter().try_for_each(|(t_us, event)| write_item(*t_us, event, json, out))?;
    out.flush().map_err(ReplayError::io("write to", Path::new("the output")))
}

fn write_statement(statement: &Statement, json: bool, out: &mut dyn Write) -> Result<(), ReplayError> {
    let line = if json { line::json(statement) } else { line::text(statement) };
    writeln!(out, "{line}").map_err(ReplayError::io("write to", Path::new("the output")))
}

/// Whether it is the opening of a program's channel. Where another leads, and whether it may, is worth a line.
fn is_program(event: &Event) -> bool {
    let kind = event.get(chan_open::KIND);
    matches!(kind, Some(Value::Text(kind)) if kind == "session")
        && event.get(chan_open::ACCEPTED) == Some(&Value::Uint(1))
}

/// Returns an event as a line of text; `None` for streams, and for what belongs to something else.
pub(crate) fn item(t_us: u64, event: &Event) -> Option<String> {
    Some(text_line(t_us, event, &named(event)?))
}

/// Names the fields of an event that is worth a line.
fn named(event: &Event) -> Option<Vec<(String, &Value)>> {
    match &event.body {
        Body::Map(fields) if !LEFT_OUT.contains(&event.kind) && !is_program(event) => {
            Some(fields.iter().map(|(key, value)| (name(event, *key), value)).collect())
        }
        _ => None,
    }
}

fn write_item(t_us: u64, event: &Event, json: bool, out: &mut dyn Write) -> Result<(), ReplayError> {
    let Some(named) = named(event) else { return Ok(()) };
    let line = if json { json_line(t_us, event, &named) } else { text_line(t_us, event, &named) };
    writeln!(out, "{line}").map_err(ReplayError::io("write to", Path::new("the output")))
}

/// Names a field: the few that many kinds of item share have one name for all, the rest keep that of the vocabulary.
fn name(event: &Event, key: u8) -> String {
    let label = event.kind.spec().and_then(|spec| spec.fields.iter().find(|(own, _)| *own == key));
    let label = label.map_or_else(|| format!("field{key}"), |(_, label)| (*label).to_owned());
    let shared = match (event.kind, label.as_str()) {
        (exec::TYPE, "command") | (subsystem::TYPE, "name") | (file_command::TYPE, "argv") => "command",
        (exit::TYPE, "status" | "signal") => "result",
        (
            refused::TYPE | unreachable::TYPE | gap::TYPE | chan_open::TYPE | fwd_listen::TYPE | fwd_end::TYPE,
            "reason",
        )
        | (file_lost::TYPE, "why") => "error",
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
        Value::Bytes(bytes) if is_digest(name) => hex(bytes),
        Value::Bytes(bytes) => visible_bytes(bytes),
        Value::List(values) => {
            let values: Vec<String> = values.iter().map(|value| text_value(name, value)).collect();
            format!("[{}]", values.join(", "))
        }
    }
}

/// Shows bytes: characters where they are some, the others by number, so that no two paths look alike.
fn visible_bytes(bytes: &[u8]) -> String {
    let (mut decoder, mut out) = (Utf8Stream::default(), String::new());
    let mut push = |piece| match piece {
        Piece::Char(c) => push_visible(&mut out, c),
        Piece::Byte(byte) => out.push_str(&format!("\\x{byte:02x}")),
    };
    decoder.feed(bytes, &mut push);
    decoder.finish(&mut push);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_digests_that_run_the_last_is_shown_unless_the_file_was_closed() {
        let digest = |file: u64, bytes: u64| {
            Event::map(file_digest::TYPE, 1).with(file_digest::FILE, file).with(file_digest::BYTES, bytes)
        };
        let elided = |side: u64, total: u64| {
            Event::map(file_elided::TYPE, 1).with(file_elided::SIDE, side).with(file_elided::TOTAL, total)
        };
        let mut running = Running::default();
        for event in [digest(0, 1), digest(1, 1), digest(0, 2), elided(0, 5), elided(1, 6), elided(0, 7)] {
            assert_eq!(running.take(3, event), None);
        }
        let close = Event::map(file_close::TYPE, 1).with(file_close::FILE, 1u64);
        assert_eq!(running.take(4, close.clone()), Some(close));
        let left: Vec<Event> = running.0.into_values().map(|(_, event)| event).collect();
        assert_eq!(left, [digest(0, 2), elided(0, 7), elided(1, 6)]);
    }

    #[test]
    fn a_path_that_is_no_text_is_shown_whole() {
        assert_eq!(visible_bytes(b"/tmp/\xff\xc3\xa9\x1b[2J\xe2\x82"), "/tmp/\\xffé␛[2J\\xe2\\x82");
        let event = Event::map(file_close::TYPE, 0).with(file_close::PATH, b"/\xff".as_slice());
        let fields = [(name(&event, 2), event.get(file_close::PATH).unwrap())];
        assert_eq!(
            json_line(9, &event, &fields),
            r#"{"t_us":9,"type":"file.close","chan":0,"path":{"base64":"L/8="}}"#
        );
    }

    #[test]
    fn items_carry_the_shared_names_and_nothing_that_steers() {
        let event = Event::map(exec::TYPE, 4).with(exec::COMMAND, b"rm \x1b[2J".as_slice());
        let fields = [(name(&event, 1), event.get(exec::COMMAND).unwrap())];
        assert_eq!(json_line(9, &event, &fields), r#"{"t_us":9,"type":"ssh.exec","chan":4,"command":"rm \u001b[2J"}"#);
        assert_eq!(text_line(1_000, &event, &fields), "0:00:00.001  ssh.exec       command=rm ␛[2J");
        let open = Event::map(chan_open::TYPE, 2).with(chan_open::ACCEPTED, true);
        assert!(is_program(&open.clone().with(chan_open::KIND, "session")));
        assert!(!is_program(&open.with(chan_open::KIND, "direct-tcpip")));
        let end = Event::map(fwd_end::TYPE, 2).with(fwd_end::SENT_BLAKE3, b"\x01\xff".as_slice());
        let fields = [(name(&end, 6), end.get(fwd_end::SENT_BLAKE3).unwrap())];
        assert_eq!(json_line(9, &end, &fields), r#"{"t_us":9,"type":"fwd.end","chan":2,"sent_blake3":"01ff"}"#);
        assert_eq!(text_line(1_000, &end, &fields), "0:00:00.001  fwd.end        sent_blake3=01ff");
        let event = Event::map(refused::TYPE, 0).with(refused::REASON, "x11 is not allowed");
        assert_eq!(name(&event, 2), "error");
    }
}
