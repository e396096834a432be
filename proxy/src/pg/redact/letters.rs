//! Which bytes make words, to PostgreSQL. It asks bytes and not characters, so any encoding's letters are letters.

/// What identifiers are made of, for every byte of every statement is asked (scan.l, `ident_start` and `ident_cont`).
// Evaluated by the compiler, which refuses what is out of bounds.
#[allow(clippy::indexing_slicing)]
const WORD: [Part; 256] = {
    let mut word = [Part::None; 256];
    let mut byte = 0;
    while byte < 256 {
        word[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => Part::Any,
            b'0'..=b'9' | b'$' => Part::NotFirst,
            _ => Part::None,
        };
        byte += 1;
    }
    word
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    None,
    NotFirst,
    Any,
}

/// Whether an identifier may begin with it.
pub(super) fn begins_word(byte: u8) -> bool {
    WORD.get(usize::from(byte)) == Some(&Part::Any)
}

/// Whether an identifier may go on with it.
pub(super) fn is_word(byte: u8) -> bool {
    WORD.get(usize::from(byte)) != Some(&Part::None)
}

/// Returns how many bytes at the front are such.
pub(super) fn length(text: &[u8], such: impl Fn(u8) -> bool) -> usize {
    text.iter().position(|byte| !such(*byte)).unwrap_or(text.len())
}
