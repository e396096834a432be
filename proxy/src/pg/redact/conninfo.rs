//! Passwords in connection strings, `host=db password=x` and `postgresql://user:x@db`, wherever a literal holds one. Does not
//! know the SQL around it.
//!
//! A password is known by what stands before it, because what passed cannot be called back. So a URI's port is at first
//! taken for a password; see [`Uri`].

use super::words::{Held, begins_sql, is_secret_parameter};

/// The most bytes of a key that are looked at: its end decides, and `oauth_client_secret` is the longest.
const KEY_LEN_MAX: usize = 24;

/// Reads what stands in one literal.
#[derive(Debug)]
pub(super) struct Conninfo {
    form: Form,
    /// The literal's first word, later the last one before where reading stands.
    key: Held<KEY_LEN_MAX>,
    /// Whether there is white space behind `key`.
    gap: bool,
    uri: Uri,
    value: Value,
}

/// What sort of text a literal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Its first word is still to come; `code` where a whole program may follow.
    Start { code: bool },
    /// Its first word is being read.
    First { code: bool },
    /// It begins with `key =`: a connection string, with white space where libpq allows it.
    Pairs,
    /// SQL: what it says of passwords is for a `Scanner` to judge.
    Sql,
    /// Anything else. Only `password=x` without white space is one.
    Prose,
}

/// How far a URI got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Uri {
    None,
    /// Behind the scheme's colon, and how many slashes there were.
    Colon {
        postgres: bool,
        slashes: u8,
    },
    /// Between the slashes and a colon: a user or a host. A host has a dot in it or is `localhost`.
    Authority {
        postgres: bool,
        dot: bool,
        localhost: u8,
        len: u8,
    },
    /// Behind a host's colon; a port's digits, that many.
    Port {
        digits: u8,
    },
    /// Behind a colon that a password may follow; a port, too, as long as there are digits only.
    Password {
        postgres: bool,
        digits: bool,
        empty: bool,
    },
}

/// What was seen of a secret value, which lasts to the literal's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    None,
    /// Nothing of it, so that it may come from elsewhere: `'password=' || 'x'`.
    Awaited,
    /// `%`, of `format`: it comes from elsewhere.
    Template,
    Given,
}

impl Conninfo {
    /// Starts a literal; `code` in one that may hold a whole program.
    pub(super) fn new(code: bool) -> Self {
        Self { form: Form::Start { code }, key: Held::new(), gap: false, uri: Uri::None, value: Value::None }
    }

    /// Starts another.
    pub(super) fn restart(&mut self, code: bool) {
        (self.form, self.gap, self.uri, self.value) = (Form::Start { code }, false, Uri::None, Value::None);
        self.key.clear();
    }

    /// Starts text that is no literal and holds a statement.
    pub(super) fn sql() -> Self {
        Self { form: Form::Sql, ..Self::new(false) }
    }

    /// Whether the literal turned out to hold a password.
    pub(super) fn is_found(&self) -> bool {
        self.value != Value::None || matches!(self.uri, Uri::Password { postgres: true, digits: false, .. })
    }

    /// Whether the password that the literal speaks of is not in it.
    pub(super) fn is_awaiting(&self) -> bool {
        matches!(self.value, Value::Awaited | Value::Template)
            || matches!(self.uri, Uri::Password { postgres: true, empty: true, .. })
    }

    /// Whether a byte here would be secret, whatever it is.
    pub(super) fn is_secret(&self) -> bool {
        self.is_found() || matches!(self.uri, Uri::Password { .. })
    }

    /// Reads on; returns how many bytes of `text` it took and whether those are secret. It takes at least one.
    pub(super) fn take(&mut self, text: &[u8]) -> (usize, bool) {
        if self.value != Value::None {
            self.value(text);
            return (text.len(), true);
        }
        let mut at = 0;
        while let Some(rest) = text.get(at..)
            && let Some(first) = rest.first()
            && self.value == Value::None
        {
            if matches!(self.uri, Uri::Password { .. } | Uri::Port { .. }) {
                // From here on a byte tells what it is when it is read.
                return if at > 0 { (at, false) } else { (1, self.uri(*first)) };
            }
            at += match self.form {
                _ if self.uri != Uri::None => {
                    self.uri(*first);
                    1
                }
                Form::Start { .. } | Form::First { .. } => self.beginning(*first, rest),
                Form::Sql => rest.len(),
                Form::Pairs | Form::Prose => self.words(rest),
            };
        }
        (at, false)
    }

    /// Looks at the beginning of a secret value.
    fn value(&mut self, text: &[u8]) {
        if self.value == Value::Awaited {
            self.value = match text.iter().find(|byte| !matches!(byte, b' ' | b'\'')) {
                Some(b'%') => Value::Template,
                Some(_) => Value::Given,
                None => Value::Awaited,
            };
        }
    }

    /// Reads some of a literal whose sort is not known yet; returns how many bytes, 0 where only the sort is known now.
    fn beginning(&mut self, byte: u8, text: &[u8]) -> usize {
        let word = |text: &[u8]| text.iter().position(|byte| !is_key(*byte)).unwrap_or(text.len());
        match self.form {
            Form::Start { .. } if byte.is_ascii_whitespace() => return 1,
            Form::Start { code } if is_key(byte) => {
                self.form = Form::First { code };
                let len = word(text);
                self.key.push_end(text.get(..len).unwrap_or_default());
                return len;
            }
            // A program in SQL begins with a word or a comment, JSON with a brace.
            Form::Start { code: true } if !matches!(byte, b'{' | b'[' | b'"') => self.form = Form::Sql,
            Form::First { .. } if is_key(byte) && !self.gap => {
                let len = word(text);
                self.key.push_end(text.get(..len).unwrap_or_default());
                return len;
            }
            Form::First { .. } if byte.is_ascii_whitespace() => {
                self.gap = true;
                return 1;
            }
            Form::First { code } => {
                self.form = match byte {
                    b'=' => Form::Pairs,
                    b':' if !self.gap => Form::Prose,
                    _ if code || begins_sql(self.key.get()) => Form::Sql,
                    _ => Form::Prose,
                };
            }
            _ => self.form = Form::Prose,
        }
        0
    }

    /// Reads up to behind the next byte that may follow a key or a scheme; returns how many bytes that was.
    fn words(&mut self, text: &[u8]) -> usize {
        let hit = memchr::memchr2(b'=', b':', text);
        let before = text.get(..hit.unwrap_or(text.len())).unwrap_or_default();
        self.remember(before);
        let Some(hit) = hit else { return text.len() };
        let key = self.key.get();
        if text.get(hit) == Some(&b'=') {
            if is_secret_parameter(key) && (!self.gap || self.form == Form::Pairs) {
                self.value = Value::Awaited;
            }
        } else if key.last().is_some_and(u8::is_ascii_alphanumeric) && !self.gap {
            let postgres = key.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"postgres"));
            self.uri = Uri::Colon { postgres, slashes: 0 };
        }
        self.key.clear();
        self.gap = false;
        hit + 1
    }

    /// Keeps the last word of what passed.
    fn remember(&mut self, passed: &[u8]) {
        let trimmed = passed.trim_ascii_end();
        let gap = trimmed.len() < passed.len();
        if trimmed.is_empty() {
            self.gap |= gap;
            return;
        }
        let tail = trimmed.get(trimmed.len().saturating_sub(KEY_LEN_MAX)..).unwrap_or_default();
        let other = tail.iter().rposition(|byte| !is_key(*byte));
        if other.is_some() || self.gap {
            self.key.clear();
        }
        self.key.push_end(tail.get(other.map_or(0, |at| at + 1)..).unwrap_or_default());
        self.gap = gap;
    }

    /// Reads a byte of a URI; returns whether it is secret.
    fn uri(&mut self, byte: u8) -> bool {
        // RFC 3986 §3.2: what ends an authority, and what ends a URI in a text.
        let ends =
            matches!(byte, b'/' | b'?' | b'#' | b'"' | b'\'' | b'<' | b'>' | b')' | b',') || byte.is_ascii_whitespace();
        match &mut self.uri {
            Uri::Colon { slashes: slashes @ 0, .. } if byte == b'/' => *slashes = 1,
            Uri::Colon { postgres, slashes: 1 } if byte == b'/' => {
                self.uri = Uri::Authority { postgres: *postgres, dot: false, localhost: 0, len: 0 };
            }
            // `[` begins an IPv6 address.
            Uri::Authority { len: 0, .. } if byte == b'[' => self.uri = Uri::None,
            Uri::Authority { postgres: false, dot, localhost, len }
                if byte == b':' && (*dot || *localhost == *len && *len == 9) =>
            {
                self.uri = Uri::Port { digits: 0 };
            }
            Uri::Authority { postgres, .. } if byte == b':' => {
                self.uri = Uri::Password { postgres: *postgres, digits: true, empty: true };
            }
            Uri::Authority { dot, localhost, len, .. } if !ends && byte != b'@' => {
                *dot |= byte == b'.';
                if b"localhost".get(usize::from(*localhost)) == Some(&byte.to_ascii_lowercase()) {
                    *localhost += 1;
                }
                *len = len.saturating_add(1);
            }
            Uri::Port { digits } if byte.is_ascii_digit() && *digits < 5 => *digits += 1,
            Uri::Port { .. } if !ends => {
                self.uri = Uri::Password { postgres: false, digits: false, empty: false };
                return self.uri(byte);
            }
            Uri::Password { .. } if byte == b'@' => {
                self.value = Value::Given;
                return true;
            }
            // libpq ends the authority at a slash, but whoever forgot to encode a password's own is to be spared.
            Uri::Password { postgres: true, digits: false, .. } if ends => {
                self.value = Value::Given;
                return true;
            }
            Uri::Password { digits, empty, .. } if !ends => {
                *digits &= byte.is_ascii_digit();
                *empty = false;
                return true;
            }
            _ => {
                self.uri = Uri::None;
                // It may belong to the next word: `see:password=x`.
                if self.form != Form::Sql {
                    self.words(&[byte]);
                }
            }
        }
        false
    }
}

/// Whether a key or a scheme may hold it.
fn is_key(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'+' | b'-' | b'.')
}
