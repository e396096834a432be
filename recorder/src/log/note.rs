//! Signed heads of the node log: C2SP signed notes that hold C2SP checkpoints.
//!
//! Signs with a key that is handed in and verifies against keys that are handed in; which keys to trust is not decided
//! here. A note has exactly one valid spelling, so that a file can be compared byte by byte.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

use super::merkle::Hash;

/// The algorithm byte of Ed25519 in key ids and verifier keys.
const ED25519: u8 = 1;

/// A note is at most this long, in bytes.
pub const NOTE_LEN_MAX: usize = 16 * 1024;

/// A note has at most this many signatures; a log's own and those of witnesses.
const SIGNATURES_MAX: usize = 32;

/// Why bytes are not a note, or not one to believe.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NoteError {
    /// Not in the one valid spelling of a note.
    #[error("not a checkpoint note: {0}")]
    Form(&'static str),
    /// Not in the one valid spelling of a verifier key.
    #[error("not a verifier key of the form name+hash+base64: {0}")]
    Key(&'static str),
    /// The origin names another log.
    #[error("note is about the log {0:?}")]
    Origin(String),
    /// There is no signature by the key.
    #[error("note carries no signature by this key of {0:?}")]
    Unsigned(String),
    /// The signature by the key does not hold.
    #[error("signature of {0:?} does not fit the note")]
    Signature(String),
}

/// Checks a key name: also the origin of a log, so it must be fit for both.
fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > 255 {
        return Err("name is empty or over 255 bytes");
    }
    if name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+') {
        return Err("name holds a space, a control character or a plus sign");
    }
    Ok(())
}

fn key_id(name: &str, key: &VerifyingKey) -> [u8; 4] {
    let digest =
        Sha256::new().chain_update(name).chain_update(b"\n").chain_update([ED25519]).chain_update(key.as_bytes());
    let [a, b, c, d, ..] = <[u8; 32]>::from(digest.finalize());
    [a, b, c, d]
}

/// The public key of a node log, with the name it signs under; the name is the log's origin as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogKey {
    name: String,
    key: VerifyingKey,
    id: [u8; 4],
}

impl LogKey {
    /// Names a key.
    ///
    /// # Errors
    /// A name that no note could carry.
    pub fn new(name: &str, key: VerifyingKey) -> Result<Self, NoteError> {
        check_name(name).map_err(NoteError::Key)?;
        Ok(Self { name: name.to_owned(), key, id: key_id(name, &key) })
    }

    /// Returns the name of the key, which is the origin of the log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the key itself.
    pub fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// Returns the four bytes by which signatures name the key.
    pub fn id(&self) -> [u8; 4] {
        self.id
    }
}

impl fmt::Display for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tagged = vec![ED25519];
        tagged.extend_from_slice(self.key.as_bytes());
        write!(f, "{}+{:08x}+{}", self.name, u32::from_be_bytes(self.id), STANDARD.encode(tagged))
    }
}

impl FromStr for LogKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        // Base64 may hold plus signs, names and hashes do not: split from the front.
        let (name, rest) = text.split_once('+').ok_or(NoteError::Key("no plus sign"))?;
        let (_, tagged) = rest.split_once('+').ok_or(NoteError::Key("no second plus sign"))?;
        let tagged = STANDARD.decode(tagged).map_err(|_| NoteError::Key("not base64"))?;
        let Ok([ED25519, raw @ ..]) = <[u8; 33]>::try_from(tagged) else {
            return Err(NoteError::Key("not an Ed25519 key"));
        };
        let key = VerifyingKey::from_bytes(&raw).map_err(|_| NoteError::Key("not a point on the curve"))?;
        let key = Self::new(name, key)?;
        if key.to_string() == text { Ok(key) } else { Err(NoteError::Key("hash does not fit name and key")) }
    }
}

/// The head of a log: which log, how many leaves, and the root over them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log.
    pub origin: String,
    /// How many leaves the tree has.
    pub size: u64,
    /// The root of the tree.
    pub root: Hash,
}

impl Checkpoint {
    /// Returns the text that is signed, with the newline at its end.
    pub fn body(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root.0))
    }

    /// Signs the checkpoint under its origin.
    ///
    /// # Errors
    /// The origin cannot be the name of a key.
    pub fn sign(self, key: &SigningKey) -> Result<Note, NoteError> {
        let public = LogKey::new(&self.origin, key.verifying_key())?;
        let signature = key.sign(self.body().as_bytes());
        let line = SignatureLine { name: public.name, id: public.id, signature: signature.to_bytes().to_vec() };
        Ok(Note { checkpoint: self, signatures: vec![line] })
    }

    /// Returns where the checkpoint lies below the log's directory in a vault: `cp/YYYY-MM-DD/<size>-<root16>.note`.
    /// `date` is that of its making, in UTC.
    pub fn path(&self, date: &str) -> String {
        format!("cp/{date}/{}", self.file_name())
    }

    /// Returns the last part of [`Checkpoint::path`]: size and root tell checkpoints of a fork apart.
    pub fn file_name(&self) -> String {
        let root = self.root.to_string();
        format!("{}-{}.note", self.size, root.get(..16).unwrap_or(&root))
    }

    fn parse(body: &str) -> Result<Self, NoteError> {
        let mut lines = body.split('\n');
        let (Some(origin), Some(size), Some(root), Some(""), None) =
            (lines.next(), lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(NoteError::Form("a checkpoint has three lines"));
        };
        check_name(origin).map_err(NoteError::Form)?;
        let root = STANDARD.decode(root).map_err(|_| NoteError::Form("root is not base64"))?;
        let root = root.try_into().map_err(|_| NoteError::Form("root is not of 32 bytes"))?;
        let size = parse_size(size).ok_or(NoteError::Form("size is not a plain decimal number"))?;
        Ok(Self { origin: origin.to_owned(), size, root: Hash(root) })
    }
}

/// Reads a decimal number in its one spelling: no sign, no leading zero.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    text.parse::<u64>().ok().filter(|size| size.to_string() == text)
}

/// One signature under a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureLine {
    /// Who signed.
    pub name: String,
    /// Which key.
    pub id: [u8; 4],
    /// What follows the key id; 64 bytes for Ed25519, longer for the cosignature of a witness.
    pub signature: Vec<u8>,
}

/// A checkpoint with the signatures under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What is signed.
    pub checkpoint: Checkpoint,
    /// By whom; at least one.
    pub signatures: Vec<SignatureLine>,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.checkpoint.body())?;
        for line in &self.signatures {
            let mut tagged = line.id.to_vec();
            tagged.extend_from_slice(&line.signature);
            writeln!(f, "\u{2014} {} {}", line.name, STANDARD.encode(tagged))?;
        }
        Ok(())
    }
}

impl FromStr for Note {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        if text.len() > NOTE_LEN_MAX {
            return Err(NoteError::Form("over 16 KiB"));
        }
        let (body, signatures) = text.split_once("\n\n").ok_or(NoteError::Form("no empty line before signatures"))?;
        let checkpoint = Checkpoint::parse(&format!("{body}\n"))?;
        let signatures = signatures.strip_suffix('\n').ok_or(NoteError::Form("no newline at the end"))?;
        let signatures = signatures.split('\n').map(parse_line).collect::<Result<Vec<_>, _>>()?;
        if signatures.len() > SIGNATURES_MAX {
            return Err(NoteError::Form("over 32 signatures"));
        }
        let note = Self { checkpoint, signatures };
        if note.to_string() == text { Ok(note) } else { Err(NoteError::Form("not in its one valid spelling")) }
    }
}

fn parse_line(line: &str) -> Result<SignatureLine, NoteError> {
    let rest = line.strip_prefix("\u{2014} ").ok_or(NoteError::Form("a signature line begins with a dash"))?;
    let (name, tagged) = rest.split_once(' ').ok_or(NoteError::Form("a signature line has a name and a signature"))?;
    check_name(name).map_err(NoteError::Form)?;
    let tagged = STANDARD.decode(tagged).map_err(|_| NoteError::Form("signature is not base64"))?;
    match tagged.split_first_chunk::<4>() {
        Some((id, signature)) if !signature.is_empty() => {
            Ok(SignatureLine { name: name.to_owned(), id: *id, signature: signature.to_vec() })
        }
        _ => Err(NoteError::Form("signature is too short")),
    }
}

impl Note {
    /// Checks that the note is about the key's log and that the key signed it.
    ///
    /// # Errors
    /// Says which of the two does not hold.
    pub fn verify(&self, key: &LogKey) -> Result<(), NoteError> {
        if self.checkpoint.origin != key.name {
            return Err(NoteError::Origin(self.checkpoint.origin.clone()));
        }
        let line = self.signatures.iter().find(|line| line.name == key.name && line.id == key.id);
        let line = line.ok_or_else(|| NoteError::Unsigned(key.name.clone()))?;
        let signature = Signature::from_slice(&line.signature);
        let body = self.checkpoint.body();
        signature
            .and_then(|signature| key.key.verify_strict(body.as_bytes(), &signature))
            .map_err(|_| NoteError::Signature(key.name.clone()))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::merkle::leaf_hash;
    use super::*;

    pub(crate) fn signed() -> (Note, LogKey) {
        let key = SigningKey::from_bytes(&[7; 32]);
        let checkpoint =
            Checkpoint { origin: "bastion.example/node".into(), size: 20_852_163, root: leaf_hash(b"root") };
        (checkpoint.sign(&key).unwrap(), LogKey::new("bastion.example/node", key.verifying_key()).unwrap())
    }

    #[test]
    fn a_note_survives_the_round_trip_and_verifies() {
        let (note, key) = signed();
        let text = note.to_string();
        assert!(text.starts_with("bastion.example/node\n20852163\n"));
        assert_eq!(text.parse::<Note>().unwrap(), note);
        note.verify(&key).unwrap();
        assert_eq!(key.to_string().parse::<LogKey>().unwrap(), key);
    }

    #[test]
    fn the_key_of_the_specification_is_read() {
        // The example verifier key in the documentation of Go's sumdb/note package.
        let text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let key: LogKey = text.parse().unwrap();
        assert_eq!((key.name(), key.to_string().as_str()), ("PeterNeumann", text));
        assert!(text.replace("c74f20a3", "c74f20a4").parse::<LogKey>().is_err());
        assert!(text.replace("Peter", "P ter").parse::<LogKey>().is_err());
    }

    #[test]
    fn another_key_another_log_and_another_text_are_told_apart() {
        let (note, key) = signed();
        let other = LogKey::new("bastion.example/node", SigningKey::from_bytes(&[8; 32]).verifying_key()).unwrap();
        assert_eq!(note.verify(&other), Err(NoteError::Unsigned("bastion.example/node".into())));
        let elsewhere = LogKey::new("elsewhere", *key.key()).unwrap();
        assert_eq!(note.verify(&elsewhere), Err(NoteError::Origin("bastion.example/node".into())));
        let mut grown = note;
        grown.checkpoint.size += 1;
        assert_eq!(grown.verify(&key), Err(NoteError::Signature("bastion.example/node".into())));
    }

    #[test]
    fn no_other_spelling_of_a_note_is_accepted() {
        let (note, _) = signed();
        let text = note.to_string();
        let cases = [
            text.replace("20852163", "020852163"),
            text.replace("20852163", "+20852163"),
            text.replace("\n\n", "\nextension\n\n"),
            text.replace("\n\n", "\n\n\n"),
            text.replace('\n', "\r\n"),
            text.replace("\u{2014}", "-"),
            text.replace("\u{2014} ", "\u{2014}  "),
            format!("{text}\n"),
            format!("\n{text}"),
            text.trim_end().to_owned(),
            text.replace("bastion", "bas tion"),
            text.replace('=', ""),
            "x".repeat(NOTE_LEN_MAX + 1),
        ];
        for case in cases {
            assert!(case.parse::<Note>().is_err(), "{case:?}");
        }
        for (cut, _) in text.char_indices() {
            assert!(text[..cut].parse::<Note>().is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_witness_may_sign_below() {
        let (mut note, key) = signed();
        note.signatures.push(SignatureLine {
            name: "witness.example/w1".into(),
            id: [1, 2, 3, 4],
            signature: vec![5; 72],
        });
        let read: Note = note.to_string().parse().unwrap();
        assert_eq!(read, note);
        read.verify(&key).unwrap();
    }

    #[test]
    fn a_checkpoint_has_its_place_in_a_vault() {
        let (note, _) = signed();
        let path = note.checkpoint.path("2026-11-22");
        assert!(path.starts_with("cp/2026-11-22/20852163-") && path.ends_with(".note"), "{path}");
        assert_eq!(path.len(), "cp/2026-11-22/20852163-0123456789abcdef.note".len());
    }
}
