//! The front door's TLS: one certificate, and perhaps authorities whose certificates persons may log in with.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::pem::{certified_key, objection, revocation_lists, roots};
use super::{ALPN, MinVersion, end_point, provider};
use crate::config::Objection;

/// Whose certificates a person may log in with.
#[derive(Debug, Clone, Copy)]
pub struct ClientAuthority<'a> {
    /// PEM certificates of the authorities.
    pub ca_file: &'a Path,
    /// PEM revocation lists. None where certificates are too short-lived to be revoked; with one, a certificate whose issuer
    /// has no list is refused, and so is everything once a list is past its next update.
    pub crl_files: &'a [PathBuf],
}

/// What the front door does TLS with.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    leaf: Arc<[u8]>,
    end_point: Arc<[u8]>,
    not_after: i64,
}

impl ServerTls {
    /// Loads certificate chain and key. With `clients`, a client is asked for a certificate and need not have one; one that it
    /// shows must be good.
    ///
    /// # Errors
    /// What [`read_private`](casemate_certs::keys::read_private) refuses in a key file; a key that belongs to another
    /// certificate; a certificate that no login can be bound to, because libpq, with its default `channel_binding=prefer`, ends
    /// such a login.
    pub fn load(
        cert_file: &Path,
        key_file: &Path,
        clients: Option<ClientAuthority<'_>>,
        min: MinVersion,
    ) -> Result<Self, Objection> {
        let certified = certified_key(cert_file, key_file)?;
        let shown = cert_file.display();
        let leaf = certified.cert.first().map_or(&[][..], |leaf| leaf.as_ref());
        let end_point = end_point(leaf).map_err(|error| {
            let remedy = "have it issued by an authority that signs with ECDSA or with RSA PKCS #1 v1.5, SHA-256";
            objection(format!("the first certificate in {shown} {error}"), remedy)
        })?;
        // `end_point` read the same bytes.
        let not_after = X509Certificate::from_der(leaf).map_or(0, |(_, leaf)| leaf.validity.not_after.timestamp());

        let leaf = leaf.into();
        let failed =
            |error: rustls::Error| objection(format!("no TLS with {shown}: {error}"), "use another certificate");
        let builder = ServerConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(min.versions()).map_err(failed)?;
        let builder = match clients {
            Some(clients) => builder.with_client_cert_verifier(verifier(clients)?),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // No client of PostgreSQL resumes, and PostgreSQL offers no tickets either. A ticket would let a certificate in that was
        // revoked since, and keep a key in memory that opens what was recorded on the wire.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { config: Arc::new(config), leaf, end_point: end_point.into(), not_after })
    }

    /// Returns the configuration to accept connections with.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Returns the certificate itself.
    pub fn leaf(&self) -> &[u8] {
        &self.leaf
    }

    /// Returns the `tls-server-end-point` data of the certificate. There is one, so it is the one that was sent, whatever name
    /// the client asked for.
    pub fn end_point(&self) -> &[u8] {
        &self.end_point
    }

    /// Returns when the certificate ends, in seconds since 1970. One that has ended is loaded like any other: clients refuse it
    /// by themselves, and SSH must not stay away for it.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

fn verifier(clients: ClientAuthority<'_>) -> Result<Arc<dyn ClientCertVerifier>, Objection> {
    let roots = roots(clients.ca_file)?;
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .enforce_revocation_expiration();
    for file in clients.crl_files {
        builder = builder.with_crls(revocation_lists(file)?);
    }
    builder.build().map_err(|error| {
        let what = format!("no client certificates by {}: {error}", clients.ca_file.display());
        objection(what, "name revocation lists that the authority signed")
    })
}
