//! Who can read a recording: lane keys wrapped for age recipients, one standard age file a lane (FORMAT.md §6).
//!
//! The bastion holds recipients, which are public; identities stay with the auditors. `age -d -i IDENTITY` unwraps the
//! same files, so a recording does not depend on this program to be read.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use minicbor::bytes::ByteVec;
use zeroize::Zeroizing;

use super::cipher::{KEY_LEN, LaneKey, LaneKeys};
use super::event::Lane;
use super::head::Head;

/// Somebody who can read what is recorded from now on: an age X25519 public key, `age1…`.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient(age::x25519::Recipient);

impl FromStr for Recipient {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| KeyError::Recipient)
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Recipient {
    /// Encrypts a secret that the holder of the key keeps for itself.
    ///
    /// # Errors
    /// Writing to memory fails for want of randomness alone.
    pub fn seal(&self, secret: &[u8]) -> io::Result<Vec<u8>> {
        encrypt(secret, std::slice::from_ref(self))
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({self})")
    }
}

/// What opens recordings: an age X25519 secret key, `AGE-SECRET-KEY-1…`.
#[derive(Clone)]
pub struct Identity(age::x25519::Identity);

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.recipient())
    }
}

impl Identity {
    /// Makes a new one.
    pub fn generate() -> Self {
        Self(age::x25519::Identity::generate())
    }

    /// Returns the public half.
    pub fn recipient(&self) -> Recipient {
        Recipient(self.0.to_public())
    }

    /// Reads an identity file as age writes them: a secret key a line, `#` begins a comment.
    ///
    /// # Errors
    /// A line is neither, or there is no key.
    pub fn parse_file(text: &str) -> Result<Vec<Self>, KeyError> {
        let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
        let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let found: Vec<_> = keys
            .map(|(line, key)| key.parse().map(Self).map_err(|_| KeyError::Identity { line }))
            .collect::<Result<_, _>>()?;
        if found.is_empty() { Err(KeyError::NoIdentity) } else { Ok(found) }
    }

    /// Opens an age file of a few kilobytes at most: a secret that the node keeps for itself.
    ///
    /// # Errors
    /// It is no age file, is encrypted to somebody else, or is longer.
    pub fn open(&self, file: &[u8]) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        let plain = age::Decryptor::new(file)
            .map_err(|_| SecretError::Damaged)?
            .decrypt(std::iter::once(&self.0 as &dyn age::Identity))
            .map_err(|error| match error {
                age::DecryptError::NoMatchingKeys => SecretError::Stranger,
                _ => SecretError::Damaged,
            })?;
        // Whole at once: a buffer that grows would leave pieces of it behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_LEN_MAX + 1));
        plain.take(SECRET_LEN_MAX as u64 + 1).read_to_end(&mut bytes).map_err(|_| SecretError::Damaged)?;
        if bytes.len() > SECRET_LEN_MAX { Err(SecretError::TooLong) } else { Ok(bytes) }
    }

    /// Writes an identity file.
    pub fn to_file(&self) -> Zeroizing<String> {
        use age::secrecy::ExposeSecret;
        let key = self.0.to_string();
        Zeroizing::new(format!("# public key: {}\n{}\n", self.recipient(), key.expose_secret()))
    }
}

/// The longest secret that [`Identity::open`] opens, in bytes.
pub const SECRET_LEN_MAX: usize = 4096;

/// Why a secret cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// No age file, or a damaged one.
    #[error("not an age file, or a damaged one")]
    Damaged,
    /// Encrypted to another key.
    #[error("encrypted to another key")]
    Stranger,
    /// No secret is as long.
    #[error("longer than {SECRET_LEN_MAX} bytes")]
    TooLong,
}

/// Why a text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a public key.
    #[error("not an age recipient (age1… of 62 characters, as age-keygen prints it)")]
    Recipient,
    /// Not a secret key.
    #[error("line {line} is neither a comment nor an age identity (AGE-SECRET-KEY-1…)")]
    Identity {
        /// Counted from 1.
        line: usize,
    },
    /// Nothing but comments.
    #[error("holds no age identity (AGE-SECRET-KEY-1…)")]
    NoIdentity,
}

/// Why lane keys cannot be unwrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnwrapError {
    /// HEAD does not hold a key for each lane.
    #[error("HEAD does not hold one wrapped key a lane")]
    Count,
    /// Not wrapped for any of these identities.
    #[error("lane {} is not wrapped for any identity given", *lane as u8)]
    Stranger {
        /// The lane.
        lane: Lane,
    },
    /// Not an age file, or not of a key.
    #[error("the wrapped key of lane {} is damaged", *lane as u8)]
    Damaged {
        /// The lane.
        lane: Lane,
    },
}

/// Wraps the keys of a session for everybody who is to read it.
///
/// # Errors
/// There is no recipient.
pub fn wrap(keys: &LaneKeys, recipients: &[Recipient]) -> io::Result<Vec<ByteVec>> {
    let keys = Lane::ALL.into_iter().filter_map(|lane| keys.get(lane));
    keys.map(|key| encrypt(key.expose(), recipients).map(ByteVec::from)).collect()
}

fn encrypt(secret: &[u8], recipients: &[Recipient]) -> io::Result<Vec<u8>> {
    let recipients = recipients.iter().map(|recipient| &recipient.0 as &dyn age::Recipient);
    let encryptor = age::Encryptor::with_recipients(recipients).map_err(io::Error::other)?;
    let mut out = Vec::with_capacity(512);
    let mut writer = encryptor.wrap_output(&mut out)?;
    writer.write_all(secret)?;
    writer.finish()?;
    Ok(out)
}

/// Unwraps the lane keys of a session. A session that is not encrypted has none.
///
/// # Errors
/// A lane opens for none of the identities, or what it holds is no key.
pub fn unwrap(head: &Head, identities: &[Identity]) -> Result<LaneKeys, UnwrapError> {
    let mut keys = LaneKeys::default();
    let Some(wrapped) = &head.lane_keys else { return Ok(keys) };
    if wrapped.len() != Lane::ALL.len() {
        return Err(UnwrapError::Count);
    }
    for (lane, file) in Lane::ALL.into_iter().zip(wrapped) {
        keys.set(lane, unwrap_one(lane, file, identities)?);
    }
    Ok(keys)
}

fn unwrap_one(lane: Lane, file: &[u8], identities: &[Identity]) -> Result<LaneKey, UnwrapError> {
    let damaged = UnwrapError::Damaged { lane };
    let decryptor = age::Decryptor::new(file).map_err(|_| damaged)?;
    let identities = identities.iter().map(|identity| &identity.0 as &dyn age::Identity);
    let plain = decryptor.decrypt(identities).map_err(|error| match error {
        age::DecryptError::NoMatchingKeys => UnwrapError::Stranger { lane },
        _ => damaged,
    })?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_LEN + 1));
    plain.take(KEY_LEN as u64 + 1).read_to_end(&mut bytes).map_err(|_| damaged)?;
    bytes.as_slice().try_into().map(LaneKey::new).map_err(|_| damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::head::tests::head;

    fn wrapped(recipients: &[Recipient]) -> Head {
        let keys = LaneKeys::new([[1; 32], [2; 32], [3; 32]]);
        Head { lane_keys: Some(wrap(&keys, recipients).unwrap()), ..head() }
    }

    #[test]
    fn each_recipient_opens_every_lane_alone() {
        let (one, two) = (Identity::generate(), Identity::generate());
        let head = wrapped(&[one.recipient(), two.recipient()]);
        for identity in [one, two] {
            let keys = unwrap(&head, &[Identity::generate(), identity]).unwrap();
            let bytes: Vec<_> = Lane::ALL.iter().map(|lane| *keys.get(*lane).unwrap().expose()).collect();
            assert_eq!(bytes, [[1; 32], [2; 32], [3; 32]]);
        }
    }

    #[test]
    fn a_stranger_and_a_damaged_file_are_told_apart() {
        let one = Identity::generate();
        let head = wrapped(&[one.recipient()]);
        let stranger = Identity::generate();
        assert_eq!(unwrap(&head, &[stranger]).unwrap_err(), UnwrapError::Stranger { lane: Lane::Meta });
        let mut bad = head.clone();
        if let Some(byte) = bad.lane_keys.as_mut().and_then(|files| files[2].last_mut()) {
            *byte ^= 1;
        }
        assert_eq!(unwrap(&bad, std::slice::from_ref(&one)).unwrap_err(), UnwrapError::Damaged { lane: Lane::Input });
        let mut short = head;
        short.lane_keys.as_mut().unwrap().pop();
        assert_eq!(unwrap(&short, &[one]).unwrap_err(), UnwrapError::Count);
    }

    #[test]
    fn nobody_is_no_recipient() {
        assert!(wrap(&LaneKeys::new([[0; 32]; 3]), &[]).is_err());
    }

    #[test]
    fn an_identity_file_survives_the_round_trip() {
        let identity = Identity::generate();
        let read = Identity::parse_file(&identity.to_file()).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].recipient(), identity.recipient());
        assert_eq!(identity.recipient().to_string().parse(), Ok(identity.recipient()));
        assert_eq!(Identity::parse_file("# only words\n").unwrap_err(), KeyError::NoIdentity);
        assert_eq!(Identity::parse_file("\nage1xyz\n").unwrap_err(), KeyError::Identity { line: 2 });
    }
}
