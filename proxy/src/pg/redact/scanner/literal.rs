//! Literals, in apostrophes and between dollars: where they begin and end, and what reads what is in them.

use super::super::letters::begins_word;
use super::super::sink::Sink;
use super::super::statement::{Bare, Reading};
use super::{Scanner, State};

/// How deep literals are read as SQL: a function, an EXECUTE in it, a `DO` in that, and what it quotes. Each costs half a
/// kilobyte.
const DEPTH_MAX: u8 = 4;

/// The literal that is being read, or was last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Literal {
    pub(super) escapes: bool,
    pub(super) secret: bool,
    /// Whether the last byte was a backslash that, in `'…'`, means nothing.
    pub(super) backslash: bool,
    pub(super) since: Since,
}

/// What came after the last literal's end: behind a line's end another apostrophe goes on with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    Nothing,
    Newline,
    Token,
}

impl Scanner {
    pub(super) fn begin_literal(&mut self, escapes: bool) {
        self.state = State::Literal;
        self.begin(escapes, Reading::Text);
    }

    /// Begins a literal; `reading` says what may stand in it.
    pub(super) fn begin(&mut self, escapes: bool, reading: Reading) {
        self.glued = false;
        self.literal =
            Literal { escapes, secret: self.statement.literal_is_secret(), backslash: false, since: Since::Nothing };
        let goes_on = self.statement.inside();
        self.statement.literal();
        self.settle();
        self.word.clear();
        if !self.literal.secret {
            self.conninfo.restart(reading == Reading::Code);
            if self.depth < DEPTH_MAX {
                let deeper = self.depth + 1;
                let inner = self.inner.get_or_insert_with(|| Box::new(Self::new(reading, deeper)));
                inner.restart(reading, self.doubt);
                goes_on.into_iter().for_each(|inside| inner.statement.go_on(inside));
            }
        }
    }

    /// Reads what is in the literal.
    pub(super) fn content(&mut self, text: &[u8], sink: &mut Sink<'_>) {
        if self.literal.secret {
            if text.contains(&b'%') {
                self.statement.found_template();
            }
            return sink.mark(0..text.len());
        }
        if self.statement.wants_name() {
            self.word.push(text);
        }
        let mut at = 0;
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            let (len, secret) = self.conninfo.take(rest);
            if secret {
                sink.mark(at..at + len);
            } else if let Some(inner) = &mut self.inner {
                inner.feed(rest.get(..len).unwrap_or_default(), &mut sink.behind(at));
            }
            at += len;
        }
    }

    pub(super) fn end_literal(&mut self) {
        self.state = State::Code;
        self.literal.since = Since::Nothing;
        if self.literal.secret {
            return;
        }
        let (found, open) = match &self.inner {
            Some(inner) => {
                self.statement.literal_held(&inner.statement);
                (inner.is_sensitive(), inner.is_awaiting())
            }
            None => (false, false),
        };
        if found || self.conninfo.is_found() {
            self.statement.found();
        }
        // A name that is too long to be held may be any.
        let name = if self.word.is_whole() { self.word.get() } else { b"secret" };
        let name = self.statement.wants_name().then_some(name);
        self.statement.literal_end(name, open || self.conninfo.is_awaiting());
        self.settle();
    }

    /// Reads a byte behind a dollar that is no end of a literal.
    pub(super) fn delimiter(&mut self, byte: u8, sink: &mut Sink<'_>) -> usize {
        let tag = self.delimiter.get().len() > 1;
        if byte == b'$' {
            self.delimiter.push(b"$");
            self.begin(false, Reading::Code);
            self.state = State::Dollar { matched: 0 };
            if !self.delimiter.is_whole() {
                self.state = State::Endless;
                self.doubt();
            }
        } else if begins_word(byte) || tag && byte.is_ascii_digit() {
            self.delimiter.push(&[byte]);
            // Not a tag, perhaps, but a password without quotes.
            if self.statement.is_identifier_secret() {
                sink.mark(0..1);
            }
        } else {
            self.state = State::Code;
            self.glued = tag;
            if tag {
                *self.statement.bare() = Bare::None;
            }
            self.punctuation(b'$');
            return 0;
        }
        1
    }

    /// Reads a byte behind some of a dollar quote's delimiter.
    pub(super) fn closing(&mut self, byte: u8, matched: usize, sink: &mut Sink<'_>) -> usize {
        let delimiter = self.delimiter.get();
        if delimiter.get(matched) == Some(&byte) {
            if matched + 1 == delimiter.len() {
                self.end_literal();
            } else {
                if self.is_secret() {
                    sink.mark(0..1);
                }
                self.state = State::Dollar { matched: matched + 1 };
            }
            return 1;
        }
        // It was content after all. Its dollar, and it, are told of already.
        let passed = self.delimiter.clone();
        self.content(passed.get().get(..matched).unwrap_or_default(), &mut sink.muted());
        self.state = State::Dollar { matched: 0 };
        0
    }
}
