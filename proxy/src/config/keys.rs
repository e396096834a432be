//! Keys that a configuration names: public key lines of persons and targets, private key files of the bastion.
//!
//! Decides which algorithms and sizes are good enough. Knows nothing about who holds a key.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use casemate_certs::keys::{KeyFileError, quoted, read_private};
use casemate_certs::vkey::NodeKey;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{PrivateKey, PublicKey, decode_secret_key};

use super::KeyFile;

/// Below this an RSA key can be factored by a state; NIST SP 800-57 asks for as much.
const RSA_BITS_MIN: u32 = 2048;
/// Above this each login costs the bastion tens of milliseconds: a way to keep it busy.
const RSA_BITS_MAX: u32 = 8192;

/// Why a key is not taken, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objection {
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl Objection {
    fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

impl From<KeyFileError> for Objection {
    fn from(error: KeyFileError) -> Self {
        Self { what: error.to_string(), remedy: error.remedy() }
    }
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

impl std::error::Error for Objection {}

/// Reads a public key line as OpenSSH writes it: type, base64, comment.
///
/// # Errors
/// Certificates, DSA, RSA outside 2048 to 8192 bits, unknown types, `authorized_keys` options, anything that is no key.
pub fn parse_public_key(line: &str) -> Result<PublicKey, Objection> {
    let line = line.trim();
    let kind = line.split_whitespace().next().unwrap_or_default();
    if kind.contains("-cert-v01@") {
        return Err(Objection::new("a certificate is no key", "write the plain public key, the line of the .pub file"));
    }
    if kind == "ssh-dss" {
        return Err(Objection::new("DSA keys are refused", "make another one: ssh-keygen -t ed25519"));
    }
    if line.contains("PRIVATE KEY") {
        return Err(Objection::new("this is a private key", "write the public half, the line of the .pub file"));
    }
    let key = PublicKey::from_openssh(line).map_err(|error| {
        Objection::new(
            format!("not a public key: {error}"),
            "write one line as in a .pub file, such as \"ssh-ed25519 AAAA… comment\", without options",
        )
    })?;
    check_strength(&key)?;
    Ok(key)
}

/// Opens a private SSH key file.
///
/// # Errors
/// What [`read_private`] refuses, encrypted keys, and the algorithms that [`parse_public_key`] refuses.
pub fn load_private_key(file: &Path) -> Result<KeyFile, Objection> {
    let text = read_private(file)?;
    let shown = file.display();
    let encrypted = || {
        let command = format!("run: ssh-keygen -p -N '' -f {}", quoted(file));
        Objection::new(format!("{shown} is encrypted with a passphrase, which nobody is there to type"), command)
    };
    let key = match decode_secret_key(&text, None) {
        Ok(key) if key.is_encrypted() => return Err(encrypted()),
        Ok(key) => key,
        Err(russh::keys::Error::KeyIsEncrypted) => return Err(encrypted()),
        Err(error) => {
            // The library's text names the format's fault and never a byte of the key.
            let what = format!("{shown} is no private SSH key: {error}");
            return Err(Objection::new(what, "name a file made by ssh-keygen, not its .pub half"));
        }
    };
    check_strength(key.public_key())
        .map_err(|objection| Objection { what: format!("{shown}: {}", objection.what), remedy: objection.remedy })?;
    if matches!(key.public_key().key_data(), KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_)) {
        return Err(Objection::new(
            format!("{shown} is a handle for a security key, which nobody is there to touch"),
            "make another one: ssh-keygen -t ed25519",
        ));
    }
    Ok(KeyFile { file: file.to_owned(), key: Arc::new(key) })
}

/// Opens a node key file, in the signed-note form.
///
/// # Errors
/// What [`read_private`] refuses, and a text of another form.
pub(super) fn load_node_key(file: &Path) -> Result<NodeKey, Objection> {
    let text = read_private(file)?;
    NodeKey::parse(&text).map_err(|error| {
        let what = format!("{} is no node key: {error}", file.display());
        Objection::new(what, "name the node.key that `casemate init` wrote, or restore it from its copy")
    })
}

/// Whether two keys are the same, whatever their comments.
pub(super) fn same(a: &PublicKey, b: &PublicKey) -> bool {
    a.key_data() == b.key_data()
}

/// Whether an SSH key is the node key in another form.
pub(super) fn is_node_key(key: &PrivateKey, node: &NodeKey) -> bool {
    matches!(key.public_key().key_data(), KeyData::Ed25519(public) if public.0 == *node.public().key().as_bytes())
}

fn check_strength(key: &PublicKey) -> Result<(), Objection> {
    let better = "make another one: ssh-keygen -t ed25519";
    match key.key_data() {
        KeyData::Ed25519(_) | KeyData::Ecdsa(_) | KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_) => Ok(()),
        KeyData::Rsa(rsa) => match rsa.key_size() {
            RSA_BITS_MIN..=RSA_BITS_MAX => Ok(()),
            bits => Err(Objection::new(
                format!("RSA key of {bits} bits is outside {RSA_BITS_MIN} to {RSA_BITS_MAX}"),
                better,
            )),
        },
        KeyData::Dsa(_) => Err(Objection::new("DSA keys are refused", better)),
        other => Err(Objection::new(format!("key type {} is not supported", other.algorithm()), better)),
    }
}
