//! TLS towards a target: always checked to the end, chain and name, or none at all on this machine's own wires.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::client::{ClientConnection, Resumption, Tls12Resumption};
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{AlertDescription as Alert, CertificateError, ClientConfig, Error};

use super::hint::Hint;
use super::pem::{certified_key, objection, roots};
use super::{ALPN, MinVersion, end_point, provider};
use crate::config::Objection;

/// How a connection to a target is protected. `verify-ca` and `require` are not there: whoever has any certificate of the same
/// authority could pass as the target, and take the password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// TLS, with a certificate for the configured name from a configured authority.
    #[default]
    VerifyFull,
    /// None.
    Off,
}

impl Mode {
    /// Reads the word of a configuration, for a target at `host`.
    ///
    /// # Errors
    /// Modes that are not offered, and `off` for anything but this machine.
    pub fn parse(word: &str, host: &str) -> Result<Self, Objection> {
        match word {
            "verify-full" => Ok(Self::VerifyFull),
            "off" if is_local(host) => Ok(Self::Off),
            "off" => Err(objection(
                format!("tls = \"off\" for {host}, which is no loopback address"),
                "leave tls out, and name the authority of the target's certificate in ca_file",
            )),
            "disable" => Err(objection("tls = \"disable\" is no mode here".to_owned(), "write tls = \"off\"")),
            other => Err(objection(
                format!("tls = {other:?} does not check whom it talks to, or is no mode"),
                "write \"verify-full\", or \"off\" for a target on this machine",
            )),
        }
    }
}

/// Whether a host is this machine: by its address, not by what a resolver makes of a name.
fn is_local(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What TLS to one target is done with.
#[derive(Clone)]
pub struct TargetTls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    with_certificate: bool,
}

/// Who a target proved to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// SHA-256 of its certificate, in hexadecimal.
    pub fingerprint: String,
    /// `tls-server-end-point` data of its certificate, where its signature allows that.
    pub end_point: Option<Vec<u8>>,
    /// The version of TLS, as its specification writes it.
    pub version: &'static str,
}

impl TargetTls {
    /// Loads what is needed for a target that is known by `host`, a name or an address: the authorities that may vouch for it,
    /// and perhaps certificate and key of the bastion itself.
    ///
    /// # Errors
    /// Files that are not what they should be.
    pub fn load(host: &str, ca_file: &Path, own: Option<(&Path, &Path)>) -> Result<Self, Objection> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            objection(format!("{host:?} is nothing a certificate could be for"), "write a DNS name or an address")
        })?;
        let failed =
            |error: Error| objection(format!("no TLS with {}: {error}", ca_file.display()), "use another file");
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(MinVersion::Tls12.versions()).map_err(failed)?;
        let builder = builder.with_root_certificates(roots(ca_file)?);
        let mut config = match own {
            Some((cert_file, key_file)) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified_key(cert_file, key_file)?)))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Each session is checked anew.
        config.resumption = Resumption::store(Arc::new(Hint::default())).tls12_resumption(Tls12Resumption::Disabled);
        Ok(Self { config: Arc::new(config), name, with_certificate: own.is_some() })
    }

    /// Returns the configuration to connect with.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// Returns the name that the certificate must be for.
    pub fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    /// Whether the bastion has a certificate to show.
    pub fn with_certificate(&self) -> bool {
        self.with_certificate
    }

    /// Returns who answered, once the handshake is over: rustls let nobody through whose certificate is not good for the name.
    pub fn peer(connection: &ClientConnection) -> Option<Peer> {
        let leaf = connection.peer_certificates()?.first()?;
        let fingerprint = digest(&SHA256, leaf).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let version = match connection.protocol_version()? {
            rustls::ProtocolVersion::TLSv1_3 => "TLSv1.3",
            _ => "TLSv1.2",
        };
        Some(Peer { fingerprint, end_point: end_point(leaf).ok(), version })
    }

    /// Returns what to do about a handshake that failed, for whoever runs the bastion.
    pub fn remedy(error: &Error) -> Option<&'static str> {
        match error {
            Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                Some("put the certificate of the authority that signed the target's into ca_file")
            }
            Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => Some(
                "its subjectAltName must hold the configured host; a common name alone, as in older instructions, does not count",
            ),
            Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
                Some("renew the target's certificate, or put the bastion's clock right")
            }
            Error::InvalidCertificate(CertificateError::Other(_)) => {
                Some("a certificate of an authority cannot be a server's: openssl req -x509 makes such; add CA:FALSE")
            }
            Error::AlertReceived(
                Alert::UnknownCA
                | Alert::BadCertificate
                | Alert::CertificateExpired
                | Alert::CertificateRequired
                | Alert::CertificateRevoked
                | Alert::CertificateUnknown
                | Alert::UnsupportedCertificate,
            ) => Some("the target does not take the bastion's own certificate: compare ssl_ca_file there"),
            _ => None,
        }
    }
}

impl fmt::Debug for TargetTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TargetTls").field("name", &self.name).finish_non_exhaustive()
    }
}
