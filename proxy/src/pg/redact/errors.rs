//! What a server says about a statement can quote it: the secret bytes of ErrorResponse and NoticeResponse.

use std::ops::Range;

use super::conninfo::Conninfo;
use super::scanner::Scanner;
use super::sink::Sink;
use super::statement::Reading;

/// Reads the payload of an ErrorResponse or a NoticeResponse (field codes and zero-terminated texts) as it passes.
#[derive(Debug)]
pub struct ErrorRedactor {
    sensitive: bool,
    field: Field,
    conninfo: Conninfo,
    scanner: Scanner,
}

/// What is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    /// A field's code comes next.
    Code,
    /// One that can quote nothing.
    Kept,
    /// One that can.
    Read {
        /// DETAIL, which shows rows and keys in parentheses.
        detail: bool,
    },
    /// The rest of one.
    Secret,
}

impl ErrorRedactor {
    /// Starts a message about a statement which is `sensitive`, or is not ([`super::Redactor::is_sensitive`]).
    pub fn new(sensitive: bool) -> Self {
        Self { sensitive, field: Field::Code, conninfo: Conninfo::new(false), scanner: Scanner::new(Reading::Text, 0) }
    }

    /// Reads on. Appends to `secret` ascending ranges within `payload` that do not overlap.
    pub fn feed(&mut self, payload: &[u8], secret: &mut Vec<Range<usize>>) {
        let mut sink = Sink::new(secret);
        let mut at = 0;
        while let Some(rest) = payload.get(at..).filter(|rest| !rest.is_empty()) {
            if self.field == Field::Code {
                self.begin(rest.first().copied().unwrap_or_default());
                at += 1;
                continue;
            }
            let end = memchr::memchr(0, rest);
            let len = end.unwrap_or(rest.len());
            self.text(rest.get(..len).unwrap_or_default(), &mut sink.behind(at));
            at += len;
            if end.is_some() {
                self.field = Field::Code;
                at += 1;
            }
        }
    }

    /// Begins the field with that code (§"Error and Notice Message Fields").
    fn begin(&mut self, code: u8) {
        self.field = match code {
            // The message's own end.
            0 => Field::Code,
            b'S' | b'V' | b'C' | b'P' | b'p' | b'F' | b'L' | b'R' | b's' | b't' | b'c' | b'd' | b'n' => Field::Kept,
            _ => Field::Read { detail: code == b'D' },
        };
        // An internal query is a statement; the rest is prose that quotes some.
        let query = code == b'q';
        self.scanner.restart(if query { Reading::Code } else { Reading::Text }, false);
        if query {
            self.conninfo = Conninfo::sql();
        } else {
            self.conninfo.restart(false);
        }
    }

    fn text(&mut self, text: &[u8], sink: &mut Sink<'_>) {
        match self.field {
            Field::Code | Field::Kept => {}
            Field::Secret => sink.mark(0..text.len()),
            Field::Read { detail } if self.sensitive => {
                let quote = text.iter().position(|byte| quotes(*byte) || detail && *byte == b'(');
                if let Some(quote) = quote {
                    sink.mark(quote..text.len());
                    self.field = Field::Secret;
                }
            }
            Field::Read { .. } => {
                let mut at = 0;
                while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
                    let (len, secret) = self.conninfo.take(rest);
                    if secret {
                        sink.mark(at..at + len);
                    } else {
                        self.scanner.feed(rest.get(..len).unwrap_or_default(), &mut sink.behind(at));
                    }
                    at += len;
                }
            }
        }
    }
}

/// Whether it begins a quotation, in any language of the server's messages: « » “ „ 「 are beyond ASCII in every encoding.
fn quotes(byte: u8) -> bool {
    matches!(byte, b'\'' | b'"' | b'`' | b'$') || byte >= 0x80
}
