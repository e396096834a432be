//! What a target shows of itself before anybody trusts it: for people to look at, and never to log in over.
//!
//! The handshake is a real one, so the certificate belongs to a key that the target holds; who vouches for it is not asked.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::pem::objection;
use super::{ALPN, MinVersion, provider};
use crate::config::Objection;

/// What a scan connects with. Nothing but a scan takes one.
pub struct Scan {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Scan {
    /// Makes one for a target that is known by `host`.
    ///
    /// # Errors
    /// A host that no certificate could be for.
    pub fn new(host: &str) -> Result<Self, Objection> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            objection(format!("{host:?} is nothing a certificate could be for"), "write a DNS name or an address")
        })?;
        let failed = |error: Error| objection(format!("no TLS: {error}"), "report this");
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(MinVersion::Tls12.versions()).map_err(failed)?;
        let anyone = Arc::new(Anyone(provider()));
        let mut config = builder.dangerous().with_custom_certificate_verifier(anyone).with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), name })
    }

    /// Returns the configuration to connect with.
    pub(in crate::pg) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// Returns the name to send.
    pub(in crate::pg) fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }
}

/// Takes any certificate whose key signs the handshake.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A certificate as a person compares it. Names are a stranger's words: what a terminal would obey is escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Whom it is for.
    pub subject: String,
    /// Who vouches for it.
    pub issuer: String,
    /// SHA-256 of it, as `openssl x509 -fingerprint -sha256` prints it.
    pub fingerprint: String,
    /// When it begins, in seconds since 1970.
    pub not_before: i64,
    /// When it ends, in seconds since 1970.
    pub not_after: i64,
}

impl Shown {
    /// Reads a certificate; `None` where it is none.
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let (_, read) = X509Certificate::from_der(certificate).ok()?;
        let bytes: Vec<String> =
            digest(&SHA256, certificate).as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
        Some(Self {
            subject: read.subject().to_string().escape_debug().to_string(),
            issuer: read.issuer().to_string().escape_debug().to_string(),
            fingerprint: bytes.join(":"),
            not_before: read.validity.not_before.timestamp(),
            not_after: read.validity.not_after.timestamp(),
        })
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, issuer, fingerprint, not_before, not_after } = self;
        let (from, until) = (day(*not_before), day(*not_after));
        write!(f, "{subject}\n    issued by {issuer}\n    from {from} to {until}\n    SHA-256 {fingerprint}")
    }
}

/// Returns the day of a time in seconds since 1970, in UTC.
pub fn day(seconds: i64) -> String {
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time.strftime("%Y-%m-%d").to_string(),
        Err(_) => format!("second {seconds}"),
    }
}

/// Returns the certificate of a chain that the others hang on, as PEM: the last one that was sent. `None` where it is the leaf, and
/// vouched for by somebody else, so that trusting it would let nobody in.
pub fn authority(chain: &[CertificateDer<'_>]) -> Option<(Shown, String)> {
    let last = chain.last()?;
    let shown = Shown::of(last)?;
    let (_, read) = X509Certificate::from_der(last).ok()?;
    if chain.len() == 1 && read.subject().as_raw() != read.issuer().as_raw() {
        return None;
    }
    let text = BASE64_STANDARD.encode(last);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    Some((shown, format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, Issuer, KeyPair};

    use super::*;

    fn made(name: &str) -> (CertificateParams, KeyPair) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        (params, KeyPair::generate().unwrap())
    }

    #[test]
    fn the_authority_of_a_chain_is_its_last_certificate_unless_that_is_a_leaf_of_somebody_else() {
        let (root, root_key) = made("root");
        let root_der = root.clone().self_signed(&root_key).unwrap();
        let issuer = Issuer::new(root, root_key);
        let (leaf, leaf_key) = made("db1");
        let leaf_der = leaf.clone().signed_by(&leaf_key, &issuer).unwrap();
        let own_der = leaf.self_signed(&leaf_key).unwrap();

        let both = [leaf_der.der().clone(), root_der.der().clone()];
        let (shown, pem) = authority(&both).unwrap();
        assert_eq!((shown.subject.as_str(), shown.issuer.as_str()), ("CN=root", "CN=root"));
        assert_eq!(pem.replace('\r', ""), root_der.pem().replace('\r', ""));
        assert_eq!(authority(&both[..1]), None);
        assert_eq!(authority(&[own_der.der().clone()]).unwrap().0.subject, "CN=db1");
        assert_eq!(authority(&[]), None);
    }

    #[test]
    fn a_name_cannot_write_to_the_terminal_of_who_looks_at_it() {
        let (params, key) = made("db1\x1b]0;root\x07\u{202e}\n  SHA-256 00");
        let shown = Shown::of(params.self_signed(&key).unwrap().der()).unwrap();
        assert!(!shown.subject.contains(|c: char| c.is_control() || c == '\u{202e}'), "{shown}");
        assert_eq!(shown.to_string().lines().count(), 4, "{shown}");
        assert_eq!(shown.fingerprint.len(), 32 * 3 - 1);
        assert_eq!(day(1_795_392_000), "2026-11-23");
    }
}
