//! A certificate authority for one bastion, and certificates for its PostgreSQL front door.
//!
//! For those who have no authority of their own: clients get the authority's certificate as `sslrootcert`, and its key stays
//! beside the others, so that a certificate that expires can be followed by another which the same clients take. Writes no
//! files, and reads no clock.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, Error, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use zeroize::Zeroizing;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long the authority lasts: ten years. Who replaces it must tell every client.
pub const AUTHORITY_AGE_MAX: Duration = DAY.saturating_mul(3650);

/// How long a certificate lasts: the most that public authorities gave when some TLS stacks learnt to refuse more.
pub const LEAF_AGE_MAX: Duration = DAY.saturating_mul(397);

/// Clocks of clients may be wrong by as much.
const BACKDATED: Duration = DAY;

/// A new authority, and a first certificate of it.
pub struct Made {
    /// The authority's certificate, for clients.
    pub ca_pem: String,
    /// The authority's private key, which signs the certificates to come.
    pub ca_key_pem: Zeroizing<String>,
    /// The front door's.
    pub leaf: Leaf,
}

/// A certificate for the front door.
pub struct Leaf {
    /// The certificate.
    pub cert_pem: String,
    /// Its private key.
    pub key_pem: Zeroizing<String>,
}

/// Makes an authority that is called after the node, and a certificate for the names and addresses by which clients know the
/// front door. ECDSA on P-256 with SHA-256: what every client of the last ten years can check and bind to.
///
/// # Errors
/// A name that no certificate can hold.
pub fn generate(node: &str, names: &[String], now: SystemTime) -> Result<Made, Error> {
    let mut authority = CertificateParams::default();
    authority.distinguished_name = called("Casemate PostgreSQL authority");
    authority.distinguished_name.push(DnType::OrganizationName, node);
    // It signs front doors and no further authorities.
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.not_before = (now - BACKDATED).into();
    authority.not_after = (now + AUTHORITY_AGE_MAX).into();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let ca_pem = authority.self_signed(&key)?.pem();
    let ca_key_pem = Zeroizing::new(key.serialize_pem());
    let leaf = sign(&Issuer::new(authority, key), names, now)?;
    Ok(Made { ca_pem, ca_key_pem, leaf })
}

/// Makes another certificate with a key of its own, signed by an authority that [`generate`] made.
///
/// # Errors
/// A name that no certificate can hold, and an authority that cannot be read.
pub fn issue(ca_pem: &str, ca_key_pem: &str, names: &[String], now: SystemTime) -> Result<Leaf, Error> {
    sign(&Issuer::from_ca_cert_pem(ca_pem, KeyPair::from_pem(ca_key_pem)?)?, names, now)
}

fn sign(authority: &Issuer<'_, KeyPair>, names: &[String], now: SystemTime) -> Result<Leaf, Error> {
    let mut leaf = CertificateParams::new(names)?;
    // Clients look at the alternative names alone; this one is for people, and at most 64 characters (RFC 5280 §A.1).
    leaf.distinguished_name = called("Casemate");
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    leaf.not_before = (now - BACKDATED).into();
    leaf.not_after = (now + LEAF_AGE_MAX).into();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    Ok(Leaf { cert_pem: leaf.signed_by(&key, authority)?.pem(), key_pem: Zeroizing::new(key.serialize_pem()) })
}

fn called(name: &str) -> DistinguishedName {
    let mut called = DistinguishedName::new();
    called.push(DnType::CommonName, name);
    called
}
