//! Which bytes of SQL, and of what a server says about it, are secret. Does not know the record: the caller puts stars in their
//! place, and what goes on to the target is left as it came.
//!
//! It is a tokenizer with a memory of a few words, and knows no grammar. It looks for what people type, not for what
//! somebody could hide: whoever wants a password in the record gets it there. A statement that is none of these loses nothing:
//!
//! | where | what is secret |
//! |---|---|
//! | CREATE, ALTER ROLE, USER, GROUP | all literals but that of `VALID UNTIL`; a password without quotes |
//! | `IDENTIFIED BY`, `IDENTIFIED WITH` | all literals that follow |
//! | SERVER, USER MAPPING, FOREIGN … `OPTIONS (…)` | all values but those of options known to be harmless |
//! | CREATE, ALTER SUBSCRIPTION | the literal behind `CONNECTION` |
//! | SET, ALTER … SET, `set_config` | values of `primary_conninfo` and of names with password, secret, token, key … in them |
//! | `crypt`, `hmac`, `encrypt`, `pgp_sym_…` and their kin | all literals between the parentheses |
//! | any literal | what follows `password=` or `//user:` in it, up to its end |
//! | EXECUTE, once something was prepared | all literals, if one of these was |
//!
//! Literals and function bodies are read as SQL themselves. In quotes, where prose may stand, it takes more to be taken for a
//! secret; a literal that ends where a secret belongs makes those behind it secret: `'ALTER ROLE bob PASSWORD ' || 'x'`. Behind
//! `||` a literal goes on with the statement that one before it began: `'ALTER ROLE ' || name || ' PASSWORD ''x'''`.
//!
//! **Limits.** Data of applications is theirs: `WHERE password = 'x'` and `INSERT INTO users (password) VALUES ('x')` stay.
//! Comments are not looked at, nor are COPY's lines, `\x` and `\u` escapes not decoded. What an earlier string prepared is for
//! the caller to remember, who asks [`Redactor::prepares`] and says so to [`Redactor::behind`].
//! Apostrophes stay, even those in a password: whether one ends the literal is known only a byte later, and what passed
//! cannot be called back. Where a sensitive statement leaves doubt (`\'` where standard_conforming_strings may be off, a letter
//! right behind a literal), all the rest of the string is secret.

mod conninfo;
mod errors;
mod letters;
mod scanner;
mod sink;
mod statement;
mod words;

use std::ops::Range;

pub use errors::ErrorRedactor;
use scanner::Scanner;
use sink::Sink;
pub(super) use words::is_secret_setting;

/// Reads the text of one statement string (Query, Parse) as it passes and says which bytes of it are secret.
#[derive(Debug)]
pub struct Redactor {
    scanner: Scanner,
}

impl Redactor {
    /// Starts a statement string.
    pub fn new() -> Self {
        Self::behind(false)
    }

    /// Starts a statement string; `prepared` where one before it prepared a statement that takes secrets.
    pub fn behind(prepared: bool) -> Self {
        Self { scanner: Scanner::behind(prepared) }
    }

    /// Reads on, up to the string's terminating zero and without it. Appends to `secret` ascending ranges within `text` that do
    /// not overlap.
    pub fn feed(&mut self, text: &[u8], secret: &mut Vec<Range<usize>>) {
        self.scanner.feed(text, &mut Sink::new(secret));
    }

    /// Whether it, or what came before it, prepares a statement that takes secrets. Known at the string's end.
    pub fn prepares(&self) -> bool {
        self.scanner.prepares()
    }

    /// Whether values bound to the statement, and what the server says about it, may hold a secret.
    pub fn is_sensitive(&self) -> bool {
        self.scanner.is_sensitive()
    }
}

impl Default for Redactor {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
