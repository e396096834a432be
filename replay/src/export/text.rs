//! Plain text: what was shown, in order, with everything that could steer a terminal made visible.

use std::collections::HashMap;
use std::io::Write;

use casemate_recorder::transcript::event::{Body, EventType, Lane};
use casemate_recorder::transcript::head::Protocol;

use super::{failed, is_output};
use crate::ReplayError;
use crate::reader::Transcript;
use crate::sql::print::Print;
use casemate_screen::safe::{Piece, Utf8Stream, push_visible};

/// One output stream of one channel on its way to text.
#[derive(Debug, Default)]
struct Stream {
    decoder: Utf8Stream,
    /// A carriage return that may turn out to be half of a line end.
    held_return: bool,
}

impl Stream {
    fn push(&mut self, out: &mut String, piece: Piece) {
        if std::mem::take(&mut self.held_return) && piece != Piece::Char('\n') {
            push_visible(out, '\r');
        }
        match piece {
            Piece::Char('\r') => self.held_return = true,
            Piece::Char(c @ ('\n' | '\t')) => out.push(c),
            Piece::Char(c) => push_visible(out, c),
            Piece::Byte(byte) => out.push_str(&format!("\\x{byte:02x}")),
        }
    }

    fn feed(&mut self, out: &mut String, data: &[u8]) {
        let mut decoder = std::mem::take(&mut self.decoder);
        decoder.feed(data, |piece| self.push(out, piece));
        self.decoder = decoder;
    }

    fn finish(mut self, out: &mut String) {
        let mut decoder = std::mem::take(&mut self.decoder);
        decoder.finish(|piece| self.push(out, piece));
        if self.held_return {
            push_visible(out, '\r');
        }
    }
}

pub(super) fn write(transcript: &Transcript, channel: Option<u32>, out: &mut dyn Write) -> Result<(), ReplayError> {
    if transcript.head.protocol == Some(Protocol::Pg) {
        return statements(transcript, out);
    }
    let mut streams: HashMap<(u32, EventType), Stream> = HashMap::new();
    let mut text = String::new();
    for event in transcript.events(&[Lane::Output]) {
        let (_, entry) = event?;
        let (chan, kind) = (entry.event.chan, entry.event.kind);
        let Body::Stream(data) = &entry.event.body else { continue };
        if !is_output(kind) || channel.is_some_and(|wanted| wanted != chan) {
            continue;
        }
        text.clear();
        streams.entry((chan, kind)).or_default().feed(&mut text, data);
        out.write_all(text.as_bytes()).map_err(failed())?;
    }
    let mut rest: Vec<_> = streams.into_iter().collect();
    rest.sort_by_key(|(place, _)| *place);
    text.clear();
    rest.into_iter().for_each(|(_, stream)| stream.finish(&mut text));
    out.write_all(text.as_bytes()).map_err(failed())
}

/// Writes what a PostgreSQL session asked for and was shown, as `play` does.
fn statements(transcript: &Transcript, out: &mut dyn Write) -> Result<(), ReplayError> {
    let mut print = Print::new();
    for event in transcript.events(&Lane::ALL) {
        let (t_us, entry) = event?;
        print.event(t_us, &entry.event).iter().try_for_each(|line| writeln!(out, "{line}")).map_err(failed())?;
    }
    print.finish().iter().try_for_each(|line| writeln!(out, "{line}")).map_err(failed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(parts: &[&[u8]]) -> String {
        let (mut stream, mut out) = (Stream::default(), String::new());
        parts.iter().for_each(|part| stream.feed(&mut out, part));
        stream.finish(&mut out);
        out
    }

    #[test]
    fn nothing_but_text_and_line_ends_gets_through() {
        assert_eq!(shown(&[b"a\r\nb\rc\x1b[1m\t\xff\x9b\r"]), "a\nb␍c␛[1m\t\\xff\\x9b␍");
        assert_eq!(shown(&[b"a\r", b"\n\xe2\x82", b"\xac\xe2"]), "a\n€\\xe2");
        let every: Vec<u8> = (0..=255).collect();
        assert!(shown(&[&every]).chars().all(|c| !c.is_control() || c == '\n' || c == '\t'));
    }
}
