//! The slip: one line that a user keeps and that later proves what the log held when their session ended.
//!
//! It is a checkpoint with the log's own signature, folded into one line, and the session it was given for.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::merkle::Hash;
use super::note::{Checkpoint, Note, NoteError, SignatureLine, parse_size};
use crate::transcript::block::SessionId;

/// The first word of the line.
const MARK: &str = "casemate-slip";

/// A signed head of the node log as a user carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slip {
    note: Note,
    session: SessionId,
}

impl Slip {
    /// Makes the slip of a session from the newest checkpoint.
    ///
    /// # Errors
    /// The note has other signatures than one by the log itself; a slip carries exactly that.
    pub fn new(note: Note, session: SessionId) -> Result<Self, NoteError> {
        match note.signatures.as_slice() {
            [line] if line.name == note.checkpoint.origin => Ok(Self { note, session }),
            _ => Err(NoteError::Form("a slip carries the log's own signature and no other")),
        }
    }

    /// Returns the checkpoint note that the slip stands for, byte for byte the one that was signed.
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// Returns the session that the slip was given for.
    pub fn session(&self) -> SessionId {
        self.session
    }
}

impl fmt::Display for Slip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Checkpoint { origin, size, root } = &self.note.checkpoint;
        write!(f, "{MARK} {origin} {size} {}", STANDARD.encode(root.0))?;
        for line in &self.note.signatures {
            let mut tagged = line.id.to_vec();
            tagged.extend_from_slice(&line.signature);
            write!(f, " {}", STANDARD.encode(tagged))?;
        }
        write!(f, " {}", self.session)
    }
}

impl FromStr for Slip {
    type Err = NoteError;

    /// Reads a slip; space around the line is forgiven, since it comes out of a terminal or a mail.
    fn from_str(text: &str) -> Result<Self, NoteError> {
        let text = text.trim();
        let words: Vec<&str> = text.split(' ').collect();
        let [MARK, origin, size, root, signature, session] = words.as_slice() else {
            return Err(NoteError::Form("a slip is `casemate-slip` and five words"));
        };
        let root = STANDARD.decode(root).ok().and_then(|root| root.try_into().ok());
        let root = Hash(root.ok_or(NoteError::Form("root of the slip is not base64 of 32 bytes"))?);
        let size = parse_size(size).ok_or(NoteError::Form("size of the slip is not a plain decimal number"))?;
        let tagged = STANDARD.decode(signature).ok().and_then(|tagged| <[u8; 68]>::try_from(tagged).ok());
        let tagged = tagged.ok_or(NoteError::Form("signature of the slip is not base64 of 68 bytes"))?;
        let Some((id, signature)) = tagged.split_first_chunk::<4>() else {
            return Err(NoteError::Form("signature of the slip is too short"));
        };
        let session = session.parse().map_err(|_| NoteError::Form("the slip ends with the id of a session"))?;
        let line = SignatureLine { name: (*origin).to_owned(), id: *id, signature: signature.to_vec() };
        let checkpoint = Checkpoint { origin: (*origin).to_owned(), size, root };
        // Reading the note back applies the rules for names that the slip leaves to it.
        let note: Note = Note { checkpoint, signatures: vec![line] }.to_string().parse()?;
        let slip = Self { note, session };
        if slip.to_string() == text { Ok(slip) } else { Err(NoteError::Form("slip is not in its one valid spelling")) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::note::tests::signed;
    use super::*;

    fn slip() -> Slip {
        Slip::new(signed().0, SessionId([0x42; 16])).unwrap()
    }

    #[test]
    fn a_slip_gives_back_the_exact_note() {
        let (note, key) = signed();
        let line = slip().to_string();
        assert!(!line.contains('\n'));
        let read: Slip = format!("  {line}\r\n").parse().unwrap();
        assert_eq!(read, slip());
        assert_eq!(read.note().to_string(), note.to_string());
        read.note().verify(&key).unwrap();
        assert_eq!(read.session(), SessionId([0x42; 16]));
    }

    #[test]
    fn no_other_spelling_of_a_slip_is_accepted() {
        let line = slip().to_string();
        let cases = [
            line.replace(MARK, "casemate-slop"),
            line.replace(' ', "  "),
            line.replace("20852163", "020852163"),
            line.replace("4242-", "4242"),
            line.replace('=', ""),
            line.replace("bastion.example", "bastion+example"),
            format!("{line} more"),
        ];
        for case in cases {
            assert!(case.parse::<Slip>().is_err(), "{case}");
        }
        for cut in 0..line.len() {
            assert!(line[..cut].parse::<Slip>().is_err(), "cut at {cut}");
        }
    }
}
