//! Certificates of the tests' own, made anew for each directory. Knows nothing of who presents them or why.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, SignatureAlgorithm,
};

use crate::process::write_private;

/// A certificate authority: `NAME.pem` is what clients trust. Its key lives as long as the value and is written nowhere.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    pem: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// Where a certificate and its key lie, both PEM.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key, for its owner's eyes only.
    pub key: PathBuf,
}

impl Authority {
    /// Makes an authority whose key is on the P-256 curve, and writes `dir/name.pem`.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn make(dir: &Path, name: &str) -> Result<Self> {
        Self::make_with(dir, name, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    /// The same with a key of another kind. It decides how leaves are signed, and so whether libpq can bind a login to one.
    ///
    /// # Errors
    /// As [`Authority::make`].
    pub fn make_with(dir: &Path, name: &str, kind: &'static SignatureAlgorithm) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("{name} of a test"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate_for(kind)?;
        let certificate = params.self_signed(&key)?;
        let pem = dir.join(format!("{name}.pem"));
        fs::write(&pem, certificate.pem()).with_context(|| pem.display().to_string())?;
        Ok(Self { dir: dir.to_owned(), pem, issuer: Issuer::new(params, key) })
    }

    /// Returns the file that clients trust.
    pub fn pem(&self) -> &Path {
        &self.pem
    }

    /// Issues a certificate for servers on this machine: `name.crt` and `name.key` beside the authority's.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn server(&self, name: &str) -> Result<Leaf> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![
            SanType::DnsName(Ia5String::try_from("localhost")?),
            SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()),
        ];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(name, "localhost", params)
    }

    /// Issues a certificate for a client: PostgreSQL takes the common name for the login.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn client(&self, name: &str, common_name: &str) -> Result<Leaf> {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(name, common_name, params)
    }

    fn issue(&self, name: &str, common_name: &str, mut params: CertificateParams) -> Result<Leaf> {
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let leaf =
            Leaf { certificate: self.dir.join(format!("{name}.crt")), key: self.dir.join(format!("{name}.key")) };
        fs::write(&leaf.certificate, certificate.pem())?;
        write_private(&leaf.key, key.serialize_pem().as_bytes())?;
        Ok(leaf)
    }
}
