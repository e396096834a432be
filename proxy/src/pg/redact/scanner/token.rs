//! What is no literal: words, numbers, identifiers in quotes, comments, punctuation.

use super::super::letters::{begins_word, is_word, length};
use super::super::sink::Sink;
use super::super::statement::{Bare, Reading, Word};
use super::literal::Since;
use super::{Scanner, State, WORD_LEN_MAX};

impl Scanner {
    /// Reads tokens up to one that is more than a few bytes.
    pub(super) fn code(&mut self, text: &[u8], sink: &mut Sink<'_>) -> usize {
        let mut at = 0;
        while self.state == State::Code
            && !self.rest
            && let Some(rest) = text.get(at..)
            && let Some(&byte) = rest.first()
        {
            at += match byte {
                b' ' => {
                    self.space();
                    1
                }
                byte if begins_word(byte) => self.word(rest, at, sink),
                byte => self.token(byte, rest, at, sink),
            };
        }
        at
    }

    pub(super) fn space(&mut self) {
        self.glued = false;
        if *self.statement.bare() == Bare::Here {
            *self.statement.bare() = Bare::None;
        }
    }

    /// Reads a word, which is at `at` of what the sink knows; returns its length.
    pub(super) fn word(&mut self, text: &[u8], at: usize, sink: &mut Sink<'_>) -> usize {
        let len = length(text, is_word);
        let word = text.get(..len).unwrap_or_default();
        self.literal.since = Since::Token;
        self.glued = true;
        self.bare_word(word, &mut sink.behind(at));
        if len == text.len() {
            self.word.clear();
            self.word.push(word);
            self.state = State::Word;
        } else {
            // As much of it as would be held of one that is cut.
            self.end_word(word.get(..WORD_LEN_MAX).unwrap_or(word), len <= WORD_LEN_MAX);
        }
        len
    }

    /// Reads what is no word, or begins what is longer than a token.
    pub(super) fn token(&mut self, byte: u8, text: &[u8], at: usize, sink: &mut Sink<'_>) -> usize {
        if byte.is_ascii_whitespace() || byte == 0x0b {
            self.space();
            if matches!(byte, b'\n' | b'\r') && self.literal.since == Since::Nothing {
                self.literal.since = Since::Newline;
            }
            return 1;
        }
        let glued = std::mem::replace(&mut self.glued, false);
        match byte {
            b'\'' if glued && self.reading == Reading::Text && !self.statement.awaits_literal() => {
                // An apostrophe: prose says `don't`.
                self.literal.since = Since::Token;
            }
            b'\'' if self.literal.since == Since::Newline => self.state = State::Literal,
            b'\'' => self.begin_literal(false),
            // What a message says is in double quotes is SQL as well as what is around it.
            b'"' if self.reading == Reading::Text => {}
            b'"' => self.begin_identifier(),
            b'-' => self.state = State::Dash,
            b'/' => self.state = State::Slash,
            b'$' => {
                self.literal.since = Since::Token;
                self.delimiter.clear();
                self.delimiter.push(b"$");
                self.state = State::Delimiter;
            }
            b'0'..=b'9' => {
                self.literal.since = Since::Token;
                if *self.statement.bare() != Bare::None {
                    *self.statement.bare() = Bare::Here;
                }
                return self.number(text, &mut sink.behind(at));
            }
            _ => {
                let part = !matches!(byte, b';' | b',');
                if part && (*self.statement.bare() == Bare::Here || self.statement.is_in_value()) {
                    sink.mark(at..at + 1);
                }
                self.punctuation(byte);
            }
        }
        1
    }

    pub(super) fn number(&mut self, text: &[u8], sink: &mut Sink<'_>) -> usize {
        let len = length(text, |byte| byte.is_ascii_digit());
        if *self.statement.bare() == Bare::Here || self.statement.is_in_value() {
            sink.mark(0..len);
        }
        self.state = State::Number;
        if len < text.len() {
            self.state = State::Code;
            self.glued = true;
            self.statement.number();
        }
        len
    }

    pub(super) fn punctuation(&mut self, byte: u8) {
        self.literal.since = Since::Token;
        self.statement.punctuation(byte);
        self.settle();
    }

    pub(super) fn block_comment(&mut self, mut depth: u32, mut last: u8, text: &[u8]) -> usize {
        for (at, byte) in text.iter().enumerate() {
            match (last, *byte) {
                (b'/', b'*') => (depth, last) = (depth.saturating_add(1), 0),
                (b'*', b'/') => (depth, last) = (depth - 1, 0),
                (_, byte) => last = byte,
            }
            if depth == 0 {
                self.state = State::Code;
                // Only comments to a line's end may stand between the parts of a literal.
                self.literal.since = Since::Token;
                return at + 1;
            }
        }
        self.state = State::BlockComment { depth, last };
        text.len()
    }

    pub(super) fn end_word(&mut self, word: &[u8], whole: bool) {
        self.state = match word {
            [letter @ (b'e' | b'E' | b'n' | b'N' | b'b' | b'B' | b'x' | b'X' | b'u' | b'U')] => State::Prefix(*letter),
            bytes => {
                self.statement.word(Word { bytes, whole, quoted: false });
                self.settle();
                State::Code
            }
        };
    }

    /// Tells what of a word's next bytes is secret because a password without quotes may stand there.
    pub(super) fn bare_word(&mut self, bytes: &[u8], sink: &mut Sink<'_>) {
        if self.statement.is_in_value() {
            return sink.mark(0..bytes.len());
        }
        let bare = *self.statement.bare();
        match bare {
            Bare::None => {}
            Bare::Here => sink.mark(0..bytes.len()),
            Bare::Awaited => {
                // NULL is no password, and one letter may belong to a literal.
                let held = if self.state == State::Word { self.word.get() } else { &[] };
                let before =
                    held.iter().chain(bytes).zip(b"null").take_while(|(byte, null)| byte.eq_ignore_ascii_case(null));
                let null = before.count().saturating_sub(held.len());
                let letter = held.is_empty()
                    && matches!(bytes.first(), Some(b'e' | b'E' | b'b' | b'B' | b'x' | b'X' | b'u' | b'U'));
                let kept = null.max(usize::from(letter));
                if kept < bytes.len() {
                    sink.mark(kept..bytes.len());
                    *self.statement.bare() = Bare::Here;
                }
            }
        }
    }

    pub(super) fn begin_identifier(&mut self) {
        self.literal.since = Since::Token;
        self.word.clear();
        self.conninfo.restart(false);
        self.state = State::Identifier;
    }

    pub(super) fn identifier(&mut self, bytes: &[u8], sink: &mut Sink<'_>) {
        self.word.push(bytes);
        if self.statement.is_identifier_secret() {
            self.statement.found();
            return sink.mark(0..bytes.len());
        }
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let (len, secret) = self.conninfo.take(rest);
            if secret {
                sink.mark(at..at + len);
            }
            at += len;
        }
    }
}
