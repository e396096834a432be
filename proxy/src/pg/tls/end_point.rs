//! The channel binding `tls-server-end-point` (RFC 5929 §4.1): the hash of a server's certificate.
//!
//! Both sides of a login compute it by themselves; who sits in between with another certificate has another hash. Does not
//! check certificates.

use aws_lc_rs::digest::{self, Algorithm, SHA224, SHA256, SHA384, SHA512};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why no login can be bound to a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unbindable {
    /// It cannot be read.
    #[error("is no X.509 certificate")]
    Certificate,
    /// Its signature does not name one hash, so RFC 5929 does not say how to bind to it. libpq ends the login with "could not
    /// find digest for NID UNDEF".
    #[error("is signed with {0}, to which PostgreSQL clients cannot bind a login")]
    Signature(String),
}

/// Returns the hash of a certificate by the hash of its signature, where MD5 and SHA-1 count as SHA-256.
///
/// # Errors
/// [`Unbindable`], above all for Ed25519 and RSA-PSS.
pub fn end_point(leaf: &[u8]) -> Result<Vec<u8>, Unbindable> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| Unbindable::Certificate)?;
    let hash = hash_of(&certificate.signature_algorithm.algorithm.to_id_string())?;
    Ok(digest::digest(hash, leaf).as_ref().to_vec())
}

/// Returns the hash for the object identifier of a signature.
fn hash_of(signature: &str) -> Result<&'static Algorithm, Unbindable> {
    let named = |name: &str| Err(Unbindable::Signature(name.to_owned()));
    match signature {
        // RSA (RFC 8017 §A.2.4): with MD5, SHA-1, SHA-256, and ECDSA (RFC 5758 §3.2): with SHA-1, SHA-256.
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.113549.1.1.11" => Ok(&SHA256),
        "1.2.840.10045.4.1" | "1.2.840.10045.4.3.2" => Ok(&SHA256),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Ok(&SHA384),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Ok(&SHA512),
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => Ok(&SHA224),
        "1.2.840.113549.1.1.10" => named("RSA-PSS"),
        "1.3.101.112" => named("Ed25519"),
        "1.3.101.113" => named("Ed448"),
        other => named(&format!("algorithm {other}")),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA512,
    };

    use super::*;

    fn leaf(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = KeyPair::generate_for(algorithm).unwrap();
        CertificateParams::new(vec!["db1".to_owned()]).unwrap().self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_hash_is_the_one_of_the_signature() {
        for (algorithm, hash) in
            [(&PKCS_ECDSA_P256_SHA256, &SHA256), (&PKCS_ECDSA_P384_SHA384, &SHA384), (&PKCS_RSA_SHA512, &SHA512)]
        {
            let leaf = leaf(algorithm);
            assert_eq!(end_point(&leaf).unwrap(), digest::digest(hash, &leaf).as_ref());
        }
        assert_eq!(hash_of("1.2.840.113549.1.1.5").unwrap(), &SHA256, "SHA-1 counts as SHA-256");
        assert_eq!(hash_of("1.2.840.113549.1.1.4").unwrap(), &SHA256, "MD5 counts as SHA-256");
    }

    #[test]
    fn a_signature_without_one_hash_binds_nothing() {
        assert_eq!(end_point(&leaf(&PKCS_ED25519)).unwrap_err(), Unbindable::Signature("Ed25519".to_owned()));
        assert!(matches!(hash_of("1.2.840.113549.1.1.10"), Err(Unbindable::Signature(name)) if name == "RSA-PSS"));
    }

    #[test]
    fn a_certificate_cut_anywhere_is_none() {
        let leaf = leaf(&PKCS_ECDSA_P256_SHA256);
        for at in 0..leaf.len() {
            assert_eq!(end_point(&leaf[..at]).unwrap_err(), Unbindable::Certificate);
        }
    }
}
