//! The key of a node in the C2SP signed-note forms: `name+id+key` for verifiers, `PRIVATE+KEY+name+id+key` for the node.
//!
//! Sans-IO. The public form is what the trust file lists and what witnesses and other tools read
//! (<https://c2sp.org/signed-note>, algorithm 0x01, Ed25519).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

/// Algorithm number of Ed25519 in a signed note.
const ED25519: u8 = 0x01;

/// What a private key in note form begins with.
const PRIVATE_PREFIX: &str = "PRIVATE+KEY+";

/// A name is part of paths and of every checkpoint; node names are far shorter.
const NAME_LEN_MAX: usize = 255;

/// Why a text is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VkeyError {
    /// Not the parts that the form has.
    #[error("not of the form {form}")]
    Form {
        /// The form, for a person.
        form: &'static str,
    },
    /// The name is empty, too long, or has a plus sign, white space or control characters.
    #[error("name {name:?} is empty, over 255 bytes, or has spaces, control characters or \"+\" in it")]
    Name {
        /// The name.
        name: String,
    },
    /// The key id is not the one of that name and key.
    #[error("key id {found} does not belong to this name and key, whose id is {right:08x}")]
    Id {
        /// As written.
        found: String,
        /// As computed.
        right: u32,
    },
    /// The key part is not base64 of `0x01` and 32 bytes.
    #[error("key is not base64 of 0x01 and 32 bytes of Ed25519")]
    Key,
    /// The 32 bytes are no point that signatures can be checked with.
    #[error("key is no valid Ed25519 public key")]
    Point,
    /// The system gave no randomness.
    #[error("no randomness from the system")]
    Random,
}

/// The public key of a node, with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePublicKey {
    name: String,
    key: VerifyingKey,
}

impl NodePublicKey {
    /// Joins a name and a key.
    ///
    /// # Errors
    /// [`VkeyError::Name`] for a name that a signed note cannot carry, [`VkeyError::Point`] for a weak key, under which
    /// anybody can sign.
    pub fn new(name: &str, key: VerifyingKey) -> Result<Self, VkeyError> {
        check_name(name)?;
        if key.is_weak() {
            return Err(VkeyError::Point);
        }
        Ok(Self { name: name.to_owned(), key })
    }

    /// Name of the node.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key that checks its signatures.
    pub fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// The key id of signed notes: the first four bytes, big-endian, of SHA-256 over name, line feed, `0x01` and key.
    pub fn id(&self) -> u32 {
        key_id(&self.name, self.key.as_bytes())
    }
}

impl fmt::Display for NodePublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:08x}+{}", self.name, self.id(), STANDARD.encode(with_algorithm(self.key.as_bytes())))
    }
}

impl FromStr for NodePublicKey {
    type Err = VkeyError;

    fn from_str(text: &str) -> Result<Self, VkeyError> {
        let form = VkeyError::Form { form: "NAME+ID+KEY" };
        // The base64 alphabet has "+" too, so only the first two separate.
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(form);
        };
        check_name(name)?;
        let bytes = decode(key)?;
        check_id(id, key_id(name, &bytes))?;
        Self::new(name, VerifyingKey::from_bytes(&bytes).map_err(|_| VkeyError::Point)?)
    }
}

/// The private key of a node, with its name. Wiped when dropped; has no `Debug`.
pub struct NodeKey {
    name: String,
    key: SigningKey,
}

impl NodeKey {
    /// Makes a new key from the system's randomness.
    ///
    /// # Errors
    /// [`VkeyError::Name`] for a name that a signed note cannot carry, [`VkeyError::Random`] without randomness.
    pub fn generate(name: &str) -> Result<Self, VkeyError> {
        check_name(name)?;
        let mut seed = Zeroizing::new([0u8; 32]);
        getrandom::fill(seed.as_mut_slice()).map_err(|_| VkeyError::Random)?;
        Ok(Self { name: name.to_owned(), key: SigningKey::from_bytes(&seed) })
    }

    /// Reads the form that [`to_text`](Self::to_text) writes; a line feed at the end is allowed.
    ///
    /// # Errors
    /// Anything else, also a key id that does not fit. No error quotes the key.
    pub fn parse(text: &str) -> Result<Self, VkeyError> {
        let form = VkeyError::Form { form: "PRIVATE+KEY+NAME+ID+KEY" };
        let text = text.strip_suffix('\n').unwrap_or(text);
        let rest = text.strip_prefix(PRIVATE_PREFIX).ok_or_else(|| form.clone())?;
        let mut parts = rest.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(form);
        };
        check_name(name)?;
        let seed = Zeroizing::new(decode(key)?);
        let key = SigningKey::from_bytes(&seed);
        check_id(id, key_id(name, key.verifying_key().as_bytes()))?;
        Ok(Self { name: name.to_owned(), key })
    }

    /// Writes the key as one line, with a line feed.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut tagged = with_algorithm(self.key.as_bytes());
        let text = format!(
            "{PRIVATE_PREFIX}{}+{:08x}+{}\n",
            self.name,
            self.public().id(),
            Zeroizing::new(STANDARD.encode(tagged)).as_str()
        );
        tagged.zeroize();
        Zeroizing::new(text)
    }

    /// Name of the node.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key that signs.
    pub fn signing_key(&self) -> &SigningKey {
        &self.key
    }

    /// The public half.
    pub fn public(&self) -> NodePublicKey {
        NodePublicKey { name: self.name.clone(), key: self.key.verifying_key() }
    }
}

fn check_name(name: &str) -> Result<(), VkeyError> {
    let bad = |c: char| c == '+' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > NAME_LEN_MAX || name.contains(bad) {
        return Err(VkeyError::Name { name: name.chars().take(64).collect() });
    }
    Ok(())
}

fn check_id(found: &str, right: u32) -> Result<(), VkeyError> {
    // Written in one way only: eight lower-case digits.
    if found == format!("{right:08x}") {
        Ok(())
    } else {
        Err(VkeyError::Id { found: found.chars().take(16).collect(), right })
    }
}

fn key_id(name: &str, key: &[u8; 32]) -> u32 {
    let digest: [u8; 32] =
        Sha256::new().chain_update(name).chain_update(b"\n").chain_update(with_algorithm(key)).finalize().into();
    let [a, b, c, d, ..] = digest;
    u32::from_be_bytes([a, b, c, d])
}

fn with_algorithm(key: &[u8; 32]) -> [u8; 33] {
    let mut tagged = [ED25519; 33];
    let (_, rest) = tagged.split_at_mut(1);
    rest.copy_from_slice(key);
    tagged
}

fn decode(text: &str) -> Result<[u8; 32], VkeyError> {
    let bytes = Zeroizing::new(STANDARD.decode(text).map_err(|_| VkeyError::Key)?);
    match bytes.split_first() {
        Some((&ED25519, key)) => key.try_into().map_err(|_| VkeyError::Key),
        _ => Err(VkeyError::Key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example key of the signed-note specification and its reference implementation.
    const VECTOR: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";

    #[test]
    fn the_published_vector_is_read_and_written() {
        let key: NodePublicKey = VECTOR.parse().unwrap();
        assert_eq!(key.name(), "PeterNeumann");
        assert_eq!(key.id(), 0xc74f_20a3);
        assert_eq!(key.to_string(), VECTOR);
    }

    #[test]
    fn a_private_key_survives_the_round_trip() {
        let key = NodeKey::generate("node-1").unwrap();
        let again = NodeKey::parse(&key.to_text()).unwrap();
        assert_eq!(again.name(), "node-1");
        assert_eq!(again.public(), key.public());
        assert_eq!(again.signing_key().as_bytes(), key.signing_key().as_bytes());
        assert_ne!(NodeKey::generate("node-1").unwrap().public(), key.public());
    }

    #[test]
    fn what_the_writer_would_not_write_is_refused() {
        let cases = [
            "",
            "PeterNeumann",
            "PeterNeumann+c74f20a3",
            "PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeuman+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeumann+c74f20a3+AhpC2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10T",
            "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW\n",
            "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        ];
        for text in cases {
            assert!(text.parse::<NodePublicKey>().is_err(), "{text}");
        }
        for cut in 0..VECTOR.len() {
            assert!(VECTOR[..cut].parse::<NodePublicKey>().is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_private_key_with_a_flipped_byte_is_refused_and_not_quoted() {
        let text = NodeKey::generate("n").unwrap().to_text();
        for at in 0..text.len() - 1 {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] ^= 1;
            let Ok(bad) = String::from_utf8(bytes) else { continue };
            if let Err(error) = NodeKey::parse(&bad) {
                assert!(!error.to_string().contains(&text[text.len() - 20..]), "{error}");
            } else {
                panic!("byte {at} may be flipped unseen");
            }
        }
    }

    #[test]
    fn a_weak_key_is_refused() {
        let zero = VerifyingKey::from_bytes(&[0; 32]).unwrap();
        assert_eq!(NodePublicKey::new("n", zero), Err(VkeyError::Point));
    }
}
