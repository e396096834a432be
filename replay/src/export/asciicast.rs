//! asciicast v3: one channel's output with its times, for terminal players. Input is left out.
//!
//! <https://docs.asciinema.org/manual/asciicast/v3/>. Times in the format are decimal fractions; they are written from
//! integers, so nothing drifts.

use std::io::Write;

use casemate_recorder::transcript::event::{Body, Event, Field, Lane, Value, exit, pty, resize, ssh_err, ssh_out};
use casemate_recorder::transcript::head::Protocol;

use super::{failed, filter::Filter, is_output};
use crate::ReplayError;
use crate::json::{Object, armour};
use crate::reader::Transcript;
use casemate_screen::safe::{Piece, Utf8Stream, visible};

/// Sizes that a player can show.
const SIZE_RANGE: std::ops::RangeInclusive<u64> = 1..=1000;

/// The size of a terminal that nobody named.
const DEFAULT_SIZE: (u64, u64) = (80, 24);

pub(super) fn write(transcript: &Transcript, channel: Option<u32>, out: &mut dyn Write) -> Result<(), ReplayError> {
    if transcript.head.protocol == Some(Protocol::Pg) {
        let what = "is a PostgreSQL session, which has no terminal: see `play`, `show` or `--format sql`";
        return Err(ReplayError::Usage(format!("session {} {what}", transcript.session())));
    }
    let mut put = |line: String| writeln!(out, "{line}").map_err(failed());
    let terminal = find_terminal(transcript, channel)?;
    put(header(transcript, &terminal))?;
    let mut cast = Cast::default();
    for event in transcript.events(&[Lane::Meta, Lane::Output]) {
        let (t_us, entry) = event?;
        if terminal.chan.is_some_and(|chan| chan != entry.event.chan) {
            continue;
        }
        if let Some((code, data)) = cast.translate(&entry.event) {
            put(cast.line(t_us, code, &data))?;
        }
    }
    Ok(())
}

/// What the header says about the terminal.
#[derive(Debug, Default)]
struct Terminal {
    chan: Option<u32>,
    size: Option<(u64, u64)>,
    kind: Option<String>,
}

/// Finds the first channel with a terminal; without one, the first with output.
fn find_terminal(transcript: &Transcript, channel: Option<u32>) -> Result<Terminal, ReplayError> {
    for event in transcript.events(&[Lane::Meta]) {
        let event = event?.1.event;
        if event.kind == pty::TYPE && channel.is_none_or(|chan| chan == event.chan) {
            let kind = match event.get(pty::TERM) {
                Some(Value::Bytes(term)) => Some(visible(&String::from_utf8_lossy(term))),
                Some(Value::Text(term)) => Some(visible(term)),
                _ => None,
            };
            return Ok(Terminal { chan: Some(event.chan), size: size(&event, pty::COLS, pty::ROWS), kind });
        }
    }
    let mut chan = channel;
    if chan.is_none() {
        for event in transcript.events(&[Lane::Output]) {
            let event = event?.1.event;
            if is_output(event.kind) {
                chan = Some(event.chan);
                break;
            }
        }
    }
    Ok(Terminal { chan, ..Terminal::default() })
}

fn size(event: &Event, cols: Field, rows: Field) -> Option<(u64, u64)> {
    let number = |field| match event.get(field) {
        Some(Value::Uint(number)) if SIZE_RANGE.contains(number) => Some(*number),
        _ => None,
    };
    Some((number(cols)?, number(rows)?))
}

fn header(transcript: &Transcript, terminal: &Terminal) -> String {
    let (cols, rows) = terminal.size.unwrap_or(DEFAULT_SIZE);
    let mut term = serde_json::Map::new();
    term.insert("cols".to_owned(), cols.into());
    term.insert("rows".to_owned(), rows.into());
    if let Some(kind) = &terminal.kind {
        term.insert("type".to_owned(), kind.as_str().into());
    }
    Object::new()
        .with("version", 3)
        .with("term", term)
        .with("timestamp", transcript.start_us / 1_000_000)
        .with("title", format!("casemate session {}", transcript.session()))
        .finish()
}

/// The state of a cast that is being written.
#[derive(Debug, Default)]
struct Cast {
    last_us: u64,
    out: (Utf8Stream, Filter),
    err: (Utf8Stream, Filter),
}

impl Cast {
    /// Says what an event is in a cast: its code and data; `None` where it is nothing.
    fn translate(&mut self, event: &Event) -> Option<(char, String)> {
        match (&event.body, event.kind) {
            (Body::Stream(data), ssh_out::TYPE) => Some(('o', filtered(&mut self.out, data))),
            (Body::Stream(data), ssh_err::TYPE) => Some(('o', filtered(&mut self.err, data))),
            (_, resize::TYPE) => {
                size(event, resize::COLS, resize::ROWS).map(|(cols, rows)| ('r', format!("{cols}x{rows}")))
            }
            (_, exit::TYPE) => match event.get(exit::STATUS) {
                Some(Value::Uint(status)) => Some(('x', status.to_string())),
                _ => None,
            },
            _ => None,
        }
        .filter(|(_, data)| !data.is_empty())
    }

    fn line(&mut self, t_us: u64, code: char, data: &str) -> String {
        // Events of two lanes may differ by a hair in the wrong direction; a cast knows no way back.
        let step = t_us.saturating_sub(self.last_us);
        self.last_us = self.last_us.max(t_us);
        let data = serde_json::to_string(data).unwrap_or_default();
        armour(format!("[{}.{:06}, \"{code}\", {data}]", step / 1_000_000, step % 1_000_000))
    }
}

fn filtered((decoder, filter): &mut (Utf8Stream, Filter), data: &[u8]) -> String {
    let mut text = String::with_capacity(data.len());
    decoder.feed(data, |piece| match piece {
        Piece::Char(c) => filter.push(&mut text, c),
        Piece::Byte(_) => filter.push(&mut text, char::REPLACEMENT_CHARACTER),
    });
    text
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn events_become_lines_with_exact_times() {
        let mut cast = Cast::default();
        let event = Event::stream(ssh_out::TYPE, 0, Bytes::from_static(b"\x1b[1mhi\x1b[6n\xff"));
        let (code, data) = cast.translate(&event).unwrap();
        assert_eq!(cast.line(1_500_000, code, &data), "[1.500000, \"o\", \"\\u001b[1mhi\u{fffd}\"]");
        let event = Event::map(resize::TYPE, 0).with(resize::COLS, 100u32).with(resize::ROWS, 30u32);
        let (code, data) = cast.translate(&event).unwrap();
        assert_eq!(cast.line(1_500_001, code, &data), "[0.000001, \"r\", \"100x30\"]");
        let event = Event::map(exit::TYPE, 0).with(exit::STATUS, 255u32);
        let (code, data) = cast.translate(&event).unwrap();
        assert_eq!(cast.line(1_400_000, code, &data), "[0.000000, \"x\", \"255\"]");
    }

    #[test]
    fn sizes_that_no_player_can_show_are_left_out() {
        for (cols, rows) in [(0u32, 0u32), (80, 0), (65_535, 65_535)] {
            let event = Event::map(resize::TYPE, 0).with(resize::COLS, cols).with(resize::ROWS, rows);
            assert_eq!(Cast::default().translate(&event), None);
        }
    }
}
