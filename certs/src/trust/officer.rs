//! An officer: somebody whose SSH key vouches for the trust file, and which keys are good enough for that.

use std::fmt;

use ssh_key::public::KeyData;
use ssh_key::{EcdsaCurve, HashAlg, PublicKey};

use super::Period;

/// NIST SP 800-57 asks for as much where a signature must hold beyond 2030, as evidence has to.
const RSA_BITS_MIN: u32 = 3072;

/// The library checks no signatures of larger ones: a key that could never count is refused when it is listed.
const RSA_BITS_MAX: u32 = 8192;

/// A person and one of the keys they sign with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Officer {
    /// The person. Quorum is counted by persons, never by keys.
    pub name: String,
    /// A public key of theirs.
    pub key: OfficerKey,
    /// When that key counts.
    pub period: Period,
}

/// An SSH public key that may vouch for a trust file. Two are equal whatever their comments say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfficerKey(KeyData);

/// Why a line is no key of an officer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfficerKeyError {
    /// It is not the line of a `.pub` file.
    #[error("not a public key line: {0}")]
    Form(String),
    /// An RSA key of a size that is not taken.
    #[error("RSA key of {0} bits is outside {RSA_BITS_MIN} to {RSA_BITS_MAX}")]
    RsaBits(u32),
    /// A kind of key that is not taken.
    #[error("key type {0} is not taken")]
    Kind(String),
    /// A point under which anybody can sign.
    #[error("key is no valid Ed25519 public key")]
    Point,
}

impl OfficerKey {
    /// Reads the line of a `.pub` file: type, base64, comment. The comment is dropped: nothing vouches for it.
    ///
    /// # Errors
    /// All but Ed25519, ECDSA over P-256 and P-384, RSA of 3072 to 8192 bits, and security keys of the first two kinds.
    pub fn parse(line: &str) -> Result<Self, OfficerKeyError> {
        let key = PublicKey::from_openssh(line.trim()).map_err(|error| OfficerKeyError::Form(error.to_string()))?;
        let data = key.key_data();
        let other = || OfficerKeyError::Kind(data.algorithm().to_string());
        match data {
            KeyData::Ed25519(key) => check_point(&key.0)?,
            KeyData::SkEd25519(key) => check_point(&key.public_key().0)?,
            KeyData::Ecdsa(key) if key.curve() == EcdsaCurve::NistP521 => return Err(other()),
            KeyData::Ecdsa(_) | KeyData::SkEcdsaSha2NistP256(_) => {}
            KeyData::Rsa(key) => match key.key_size() {
                RSA_BITS_MIN..=RSA_BITS_MAX => {}
                bits => return Err(OfficerKeyError::RsaBits(bits)),
            },
            _ => return Err(other()),
        }
        Ok(Self(data.clone()))
    }

    /// Returns the fingerprint that `ssh-keygen -l` shows.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.0)
    }

    /// Returns the type of the key as OpenSSH names it.
    pub fn kind(&self) -> String {
        self.0.algorithm().to_string()
    }

    pub(super) fn data(&self) -> &KeyData {
        &self.0
    }
}

impl fmt::Display for OfficerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&PublicKey::from(self.0.clone()).to_openssh().map_err(|_| fmt::Error)?)
    }
}

/// The fingerprint of any key, in the form of `ssh-keygen -l`.
pub(super) fn fingerprint(key: &KeyData) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

fn check_point(bytes: &[u8; 32]) -> Result<(), OfficerKeyError> {
    match ed25519_dalek::VerifyingKey::from_bytes(bytes) {
        Ok(key) if !key.is_weak() => Ok(()),
        _ => Err(OfficerKeyError::Point),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_do_not_make_another_key_and_certificates_are_none() {
        let line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
        let key = OfficerKey::parse(line).unwrap();
        assert_eq!(OfficerKey::parse(&format!("{line} ada@example\n")), Ok(key.clone()));
        assert_eq!((key.to_string().as_str(), key.kind().as_str()), (line, "ssh-ed25519"));
        assert!(key.fingerprint().starts_with("SHA256:"));
        for bad in ["", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-dss AAAA", "from=\"x\" ssh-ed25519 AAAA", &line[..60]] {
            assert!(matches!(OfficerKey::parse(bad), Err(OfficerKeyError::Form(_))), "{bad}");
        }
    }

    #[test]
    fn a_key_under_which_anybody_can_sign_is_refused() {
        use base64::Engine as _;
        let mut blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".to_vec();
        blob.extend([0; 32]);
        blob[19] = 1; // The neutral point: every signature with R = sB fits it.
        let line = format!("ssh-ed25519 {}", base64::engine::general_purpose::STANDARD.encode(blob));
        assert_eq!(OfficerKey::parse(&line), Err(OfficerKeyError::Point));
    }
}
