//! Keeps recorded bytes from acting on the reader's terminal: what could steer it is made visible instead.

use std::fmt::Write as _;

/// Whether a character could steer a terminal or reorder what is read: controls, and the invisible formatting characters.
pub fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Appends a character the way a reader may see it.
pub fn push_visible(out: &mut String, c: char) {
    match c {
        c if !is_hostile(c) => out.push(c),
        // The pictures of control characters lie in the order of the characters.
        '\0'..='\x1f' => out.push(char::from_u32(0x2400 + u32::from(c)).unwrap_or(char::REPLACEMENT_CHARACTER)),
        '\x7f' => out.push('\u{2421}'),
        c => {
            // Writing to a String cannot fail.
            let _ = write!(out, "<U+{:04X}>", u32::from(c));
        }
    }
}

/// Shows text on one line with everything hostile made visible.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    text.chars().for_each(|c| push_visible(&mut out, c));
    out
}

/// A piece of a byte stream that is mostly UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// A character.
    Char(char),
    /// A byte that belongs to no character.
    Byte(u8),
}

/// Decodes UTF-8 that comes in arbitrary cuts.
#[derive(Debug, Default)]
pub struct Utf8Stream {
    /// The beginning of a character; at most three bytes.
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// Takes the next bytes and hands out what they complete.
    pub fn feed(&mut self, bytes: &[u8], mut out: impl FnMut(Piece)) {
        let mut joined = std::mem::take(&mut self.pending);
        joined.extend_from_slice(bytes);
        let mut rest = joined.as_slice();
        loop {
            let (valid, bad_len) = match std::str::from_utf8(rest) {
                Ok(text) => (text.len(), Some(0)),
                Err(error) => (error.valid_up_to(), error.error_len()),
            };
            let (text, tail) = rest.split_at_checked(valid).unwrap_or((rest, &[]));
            std::str::from_utf8(text).unwrap_or_default().chars().for_each(|c| out(Piece::Char(c)));
            match bad_len {
                Some(0) => return,
                Some(len) => {
                    let (bad, after) = tail.split_at_checked(len).unwrap_or((tail, &[]));
                    bad.iter().for_each(|byte| out(Piece::Byte(*byte)));
                    rest = after;
                }
                None => {
                    self.pending = tail.to_vec();
                    return;
                }
            }
        }
    }

    /// Hands out what is left when the stream has ended.
    pub fn finish(&mut self, mut out: impl FnMut(Piece)) {
        self.pending.drain(..).for_each(|byte| out(Piece::Byte(byte)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_becomes_visible() {
        assert_eq!(visible("a\x1b[31m\r\n\t\x7f\u{9b}é\u{202e}x"), "a␛[31m␍␊␉␡<U+009B>é<U+202E>x");
    }

    #[test]
    fn every_cut_decodes_the_same() {
        let bytes = b"a\xc3\xa9\xff\xe2\x82\xac\xf0\x9f\x98\x80\xe2\x82";
        let decode = |parts: &[&[u8]]| {
            let (mut stream, mut out) = (Utf8Stream::default(), Vec::new());
            parts.iter().for_each(|part| stream.feed(part, |piece| out.push(piece)));
            stream.finish(|piece| out.push(piece));
            out
        };
        let whole = decode(&[bytes]);
        assert_eq!(whole[..3], [Piece::Char('a'), Piece::Char('é'), Piece::Byte(0xff)]);
        assert_eq!(whole[3..], [Piece::Char('€'), Piece::Char('😀'), Piece::Byte(0xe2), Piece::Byte(0x82)]);
        for cut in 0..=bytes.len() {
            assert_eq!(decode(&[&bytes[..cut], &bytes[cut..]]), whole, "cut at {cut}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(decode(&single), whole);
    }
}
