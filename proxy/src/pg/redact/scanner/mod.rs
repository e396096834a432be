//! PostgreSQL's lexer (scan.l) as far as it finds where words, literals and comments begin and end, in text that comes in
//! pieces. What is in a literal is read by another one, a few deep. Does not know which literals are secret: a `Statement` does.
//!
//! Whether a byte is secret is decided when it passes. An apostrophe may be a literal's end or the first of two, so no apostrophe
//! is ever secret but one behind a backslash; the same goes for the dollars of a dollar quote.

use super::conninfo::Conninfo;
use super::letters::{begins_word, is_word, length};
use super::sink::Sink;
use super::statement::{Bare, Reading, Statement, Word};
use super::words::Held;

/// How deep literals are read as SQL: a function, an EXECUTE in it, a `DO` in that, and what it quotes. Each costs half a
/// kilobyte.
const DEPTH_MAX: u8 = 4;

/// The longest word that is looked at: identifiers end at 63 bytes (`NAMEDATALEN`).
const WORD_LEN_MAX: usize = 64;

/// The longest dollar quote's delimiter, its dollars included. PostgreSQL has no such limit; behind a longer one nothing is sure.
const DELIMITER_LEN_MAX: usize = 66;

/// Reads one text: a statement string, or what stands in a literal.
#[derive(Debug)]
pub(super) struct Scanner {
    reading: Reading,
    depth: u8,
    state: State,
    /// Whether the byte before belongs to a word or a number.
    glued: bool,
    /// A word that is cut, an identifier in double quotes, or the text of a literal that is a name.
    word: Held<WORD_LEN_MAX>,
    delimiter: Held<DELIMITER_LEN_MAX>,
    statement: Statement,
    literal: Literal,
    /// Reads the literal, or the identifier in quotes, for connection strings.
    conninfo: Conninfo,
    /// Reads the literal as SQL.
    inner: Option<Box<Self>>,
    sensitive: bool,
    /// Whether literals may end elsewhere than it seems.
    doubt: bool,
    /// Whether all the rest is secret.
    rest: bool,
}

/// What is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Code,
    /// A word that the text's end cut.
    Word,
    /// A number, likewise.
    Number,
    /// A letter that begins a literal if an apostrophe follows.
    Prefix(u8),
    /// `U&`, likewise.
    Ampersand(u8),
    Dash,
    Slash,
    LineComment,
    BlockComment {
        depth: u32,
        last: u8,
    },
    Identifier,
    /// Behind a double quote in an identifier: its end, or the first of two.
    IdentifierQuote,
    Literal,
    /// Behind an apostrophe in a literal, likewise.
    LiteralQuote,
    /// Behind a backslash in an `E'…'`.
    Escape,
    /// Behind a dollar: a delimiter, or not.
    Delimiter,
    /// In a dollar quote; that many bytes of the delimiter passed that may end it.
    Dollar {
        matched: usize,
    },
    /// In a dollar quote whose end cannot be known.
    Endless,
}

#[derive(Debug, Clone, Copy)]
struct Literal {
    escapes: bool,
    secret: bool,
    /// Whether the last byte was a backslash that, in `'…'`, means nothing.
    backslash: bool,
    since: Since,
}

/// What came after the last literal's end: behind a line's end another apostrophe goes on with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    Nothing,
    Newline,
    Token,
}

impl Scanner {
    pub(super) fn new(reading: Reading, depth: u8) -> Self {
        Self {
            reading,
            depth,
            state: State::Code,
            glued: false,
            word: Held::new(),
            delimiter: Held::new(),
            statement: Statement::new(reading),
            literal: Literal { escapes: false, secret: false, backslash: false, since: Since::Token },
            conninfo: Conninfo::new(false),
            inner: None,
            sensitive: false,
            doubt: false,
            rest: false,
        }
    }

    /// Starts another text.
    pub(super) fn restart(&mut self, reading: Reading, doubt: bool) {
        self.reading = reading;
        self.state = State::Code;
        self.glued = false;
        self.statement = Statement::new(reading);
        self.literal.since = Since::Token;
        (self.sensitive, self.doubt, self.rest) = (false, doubt, false);
    }

    /// Whether there was anything secret, or a place for it.
    pub(super) fn is_sensitive(&self) -> bool {
        let inner = || self.inner.as_ref().is_some_and(|inner| inner.is_sensitive());
        self.sensitive
            || self.state == State::Identifier && self.conninfo.is_found()
            || self.is_in_literal() && (self.conninfo.is_found() || inner())
    }

    /// Whether a byte here would be secret as part of a literal, whatever it is.
    fn is_secret(&self) -> bool {
        // Behind an apostrophe the literal is at its end, or one more apostrophe comes.
        let inside = self.is_in_literal() && self.state != State::LiteralQuote;
        self.rest || inside && (self.literal.secret || self.is_content_secret())
    }

    /// Whether a byte of the literal would be secret for what the literal says.
    fn is_content_secret(&self) -> bool {
        let inner = || self.inner.as_ref().is_some_and(|inner| inner.is_secret());
        !self.literal.secret && (self.conninfo.is_secret() || inner())
    }

    fn is_in_literal(&self) -> bool {
        use State::{Dollar, Endless, Escape, Literal, LiteralQuote};
        matches!(self.state, Literal | LiteralQuote | Escape | Dollar { .. } | Endless)
    }

    /// Whether it stops where a secret belongs: `'ALTER ROLE bob PASSWORD ' || 'x'`. A title ends with its last word.
    fn is_awaiting(&self) -> bool {
        let inside = self.is_in_literal() && self.state != State::LiteralQuote;
        inside && self.literal.secret || self.statement.is_template() || !self.glued && self.statement.is_awaiting()
    }

    /// Reads on.
    pub(super) fn feed(&mut self, text: &[u8], sink: &mut Sink<'_>) {
        let mut at = 0;
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            if self.rest {
                return sink.mark(at..text.len());
            }
            at += self.step(rest, &mut sink.behind(at));
        }
    }

    /// Reads the next token or the next part of one; returns its length, 0 where only the state changed.
    fn step(&mut self, text: &[u8], sink: &mut Sink<'_>) -> usize {
        let Some(&byte) = text.first() else { return 0 };
        match self.state {
            State::Code => self.code(text, sink),
            State::Word => {
                let len = length(text, is_word);
                self.bare_word(text.get(..len).unwrap_or_default(), sink);
                self.word.push(text.get(..len).unwrap_or_default());
                if len < text.len() {
                    let word = std::mem::replace(&mut self.word, Held::new());
                    self.end_word(word.get(), word.is_whole());
                }
                len
            }
            State::Number => self.number(text, sink),
            State::Prefix(letter) => {
                if byte == b'\'' {
                    self.begin_literal(matches!(letter, b'e' | b'E'));
                    return 1;
                }
                if byte == b'&' && matches!(letter, b'u' | b'U') {
                    self.state = State::Ampersand(letter);
                    return 1;
                }
                self.state = State::Code;
                self.statement.word(Word { bytes: &[letter], whole: true, quoted: false });
                0
            }
            State::Ampersand(letter) => {
                self.glued = false;
                match byte {
                    b'\'' => self.begin_literal(false),
                    b'"' => self.begin_identifier(),
                    _ => {
                        self.state = State::Code;
                        self.statement.word(Word { bytes: &[letter], whole: true, quoted: false });
                        self.punctuation(b'&');
                        return 0;
                    }
                }
                1
            }
            State::Dash if byte == b'-' => {
                self.state = State::LineComment;
                1
            }
            State::Slash if byte == b'*' => {
                self.state = State::BlockComment { depth: 1, last: 0 };
                1
            }
            State::Dash | State::Slash => {
                self.punctuation(if self.state == State::Dash { b'-' } else { b'/' });
                self.state = State::Code;
                0
            }
            State::LineComment => {
                let end = memchr::memchr2(b'\n', b'\r', text);
                if end.is_some() {
                    self.state = State::Code;
                }
                end.unwrap_or(text.len())
            }
            State::BlockComment { depth, last } => self.block_comment(depth, last, text),
            State::Identifier => {
                let end = memchr::memchr(b'"', text);
                let len = end.unwrap_or(text.len());
                self.identifier(text.get(..len).unwrap_or_default(), sink);
                if end.is_some() {
                    self.state = State::IdentifierQuote;
                }
                len + usize::from(end.is_some())
            }
            State::IdentifierQuote if byte == b'"' => {
                self.state = State::Identifier;
                self.identifier(b"\"", &mut sink.muted());
                1
            }
            State::IdentifierQuote => {
                self.state = State::Code;
                self.sensitive |= self.conninfo.is_found();
                let word = std::mem::replace(&mut self.word, Held::new());
                self.statement.word(Word { bytes: word.get(), whole: word.is_whole(), quoted: true });
                self.settle();
                0
            }
            State::Literal if self.literal.escapes => {
                let end = memchr::memchr2(b'\'', b'\\', text);
                let len = end.unwrap_or(text.len());
                self.content(text.get(..len).unwrap_or_default(), sink);
                match end.and_then(|end| text.get(end)) {
                    Some(b'\'') => self.state = State::LiteralQuote,
                    Some(_) => {
                        if self.is_secret() {
                            sink.mark(len..len + 1);
                        }
                        self.state = State::Escape;
                    }
                    None => return len,
                }
                len + 1
            }
            State::Literal => {
                let end = memchr::memchr(b'\'', text);
                let content = text.get(..end.unwrap_or(text.len())).unwrap_or_default();
                self.content(content, sink);
                if let Some(last) = content.last() {
                    self.literal.backslash = *last == b'\\';
                }
                let Some(end) = end else { return text.len() };
                if std::mem::take(&mut self.literal.backslash) {
                    // With standard_conforming_strings off the literal would not end here, or not there.
                    self.doubt();
                }
                self.state = State::LiteralQuote;
                end + 1
            }
            State::LiteralQuote if byte == b'\'' => {
                self.state = State::Literal;
                self.content(b"'", &mut sink.muted());
                1
            }
            State::LiteralQuote => {
                self.end_literal();
                // `PASSWORD 'it's me'`: nobody means that, and where the secret ends is anybody's guess.
                self.rest |= self.literal.secret && is_word(byte);
                0
            }
            State::Escape => {
                self.state = State::Literal;
                let decoded = match byte {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    other => other,
                };
                self.content(&[decoded], sink);
                1
            }
            State::Delimiter => self.delimiter(byte, sink),
            State::Dollar { matched: 0 } => {
                let end = memchr::memchr(b'$', text);
                let len = end.unwrap_or(text.len());
                self.content(text.get(..len).unwrap_or_default(), sink);
                if end.is_some() {
                    if self.is_content_secret() {
                        sink.mark(len..len + 1);
                    }
                    self.state = State::Dollar { matched: 1 };
                }
                len + usize::from(end.is_some())
            }
            State::Dollar { matched } => self.closing(byte, matched, sink),
            State::Endless => {
                self.content(text, sink);
                text.len()
            }
        }
    }

    /// Reads tokens up to one that is more than a few bytes.
    fn code(&mut self, text: &[u8], sink: &mut Sink<'_>) -> usize {
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

    fn space(&mut self) {
        self.glued = false;
        if *self.statement.bare() == Bare::Here {
            *self.statement.bare() = Bare::None;
        }
    }

    /// Reads a word, which is at `at` of what the sink knows; returns its length.
    fn word(&mut self, text: &[u8], at: usize, sink: &mut Sink<'_>) -> usize {
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
    fn token(&mut self, byte: u8, text: &[u8], at: usize, sink: &mut Sink<'_>) -> usize {
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

    fn number(&mut self, text: &[u8], sink: &mut Sink<'_>) -> usize {
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

    fn punctuation(&mut self, byte: u8) {
        self.literal.since = Since::Token;
        self.statement.punctuation(byte);
        self.settle();
    }

    fn block_comment(&mut self, mut depth: u32, mut last: u8, text: &[u8]) -> usize {
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

    fn end_word(&mut self, word: &[u8], whole: bool) {
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
    fn bare_word(&mut self, bytes: &[u8], sink: &mut Sink<'_>) {
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

    fn begin_identifier(&mut self) {
        self.literal.since = Since::Token;
        self.word.clear();
        self.conninfo.restart(false);
        self.state = State::Identifier;
    }

    fn identifier(&mut self, bytes: &[u8], sink: &mut Sink<'_>) {
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

    fn begin_literal(&mut self, escapes: bool) {
        self.state = State::Literal;
        self.begin(escapes, Reading::Text);
    }

    /// Begins a literal; `reading` says what may stand in it.
    fn begin(&mut self, escapes: bool, reading: Reading) {
        self.glued = false;
        self.literal =
            Literal { escapes, secret: self.statement.literal_is_secret(), backslash: false, since: Since::Nothing };
        self.statement.literal();
        self.settle();
        self.word.clear();
        if !self.literal.secret {
            self.conninfo.restart(reading == Reading::Code);
            if self.depth < DEPTH_MAX {
                let deeper = self.depth + 1;
                let inner = self.inner.get_or_insert_with(|| Box::new(Self::new(reading, deeper)));
                inner.restart(reading, self.doubt);
            }
        }
    }

    /// Reads what is in the literal.
    fn content(&mut self, text: &[u8], sink: &mut Sink<'_>) {
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

    fn end_literal(&mut self) {
        self.state = State::Code;
        self.literal.since = Since::Nothing;
        if self.literal.secret {
            return;
        }
        let (found, open) = match &self.inner {
            Some(inner) => (inner.is_sensitive(), inner.is_awaiting()),
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
    fn delimiter(&mut self, byte: u8, sink: &mut Sink<'_>) -> usize {
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
    fn closing(&mut self, byte: u8, matched: usize, sink: &mut Sink<'_>) -> usize {
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

    /// Takes over what the statement found out.
    fn settle(&mut self) {
        self.sensitive |= self.statement.is_sensitive();
        self.rest |= self.doubt && self.sensitive;
    }

    /// Takes note that literals may end elsewhere than it seems.
    fn doubt(&mut self) {
        self.doubt = true;
        self.rest |= self.is_sensitive();
    }
}
