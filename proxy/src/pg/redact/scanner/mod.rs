//! PostgreSQL's lexer (scan.l) as far as it finds where words, literals and comments begin and end, in text that comes in
//! pieces. What is in a literal is read by another one, a few deep. Does not know which literals are secret: a `Statement` does.
//!
//! Whether a byte is secret is decided when it passes. An apostrophe may be a literal's end or the first of two, so no apostrophe
//! is ever secret but one behind a backslash; the same goes for the dollars of a dollar quote.

mod literal;
mod token;

use self::literal::{Literal, Since};
use super::conninfo::Conninfo;
use super::letters::{is_word, length};
use super::sink::Sink;
use super::statement::{Reading, Statement, Word};
use super::words::Held;

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

    /// Reads a statement string; `prepared` where one before it prepared something secret.
    pub(super) fn behind(prepared: bool) -> Self {
        Self { statement: Statement::behind(prepared), ..Self::new(Reading::Code, 0) }
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

    /// Whether something secret was prepared.
    pub(super) fn prepares(&self) -> bool {
        self.statement.has_prepared()
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
