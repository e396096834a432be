//! Certificates, revocation lists and private keys out of PEM files, with what to do where one is not as it should be.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use casemate_certs::keys::{quoted, read_private};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::config::Objection;

/// The largest file of certificates: all that Debian trusts is a quarter of it.
const FILE_LEN_MAX: u64 = 1024 * 1024;

pub(super) fn objection(what: String, remedy: impl Into<String>) -> Objection {
    Objection { what, remedy: remedy.into() }
}

/// Reads a chain of certificates, the leaf first.
pub(super) fn chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, Objection> {
    let shown = file.display();
    let bytes = read(file)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| objection(format!("{shown} is no PEM file: {error}"), "name a file of PEM certificates"))?;
    if chain.is_empty() {
        let remedy = "name a file that has a line -----BEGIN CERTIFICATE-----";
        return Err(objection(format!("{shown} holds no certificate"), remedy));
    }
    Ok(chain)
}

/// Reads the certificates of authorities.
pub(super) fn roots(file: &Path) -> Result<RootCertStore, Objection> {
    let mut roots = RootCertStore::empty();
    for (at, certificate) in chain(file)?.into_iter().enumerate() {
        roots.add(certificate).map_err(|error| {
            let what = format!("certificate {} in {} is no authority: {error}", at + 1, file.display());
            objection(what, "name a file with the certificates of authorities alone")
        })?;
    }
    Ok(roots)
}

/// Reads revocation lists.
pub(super) fn revocation_lists(file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, Objection> {
    let shown = file.display();
    let bytes = read(file)?;
    let lists: Vec<_> =
        CertificateRevocationListDer::pem_slice_iter(&bytes).collect::<Result<_, _>>().map_err(|error| {
            objection(format!("{shown} is no PEM file: {error}"), "name a file of PEM revocation lists")
        })?;
    if lists.is_empty() {
        let remedy = format!("if it is DER, run: openssl crl -inform DER -in {} -out list.pem", quoted(file));
        return Err(objection(format!("{shown} holds no revocation list"), remedy));
    }
    Ok(lists)
}

/// Reads a chain and the private key that belongs to its first certificate.
pub(super) fn certified_key(cert_file: &Path, key_file: &Path) -> Result<CertifiedKey, Objection> {
    let chain = chain(cert_file)?;
    let text = read_private(key_file)?;
    let shown = key_file.display();
    if text.contains("ENCRYPTED") {
        let remedy =
            format!("run: umask 077; openssl pkey -in {} -out plain.key, and name plain.key", quoted(key_file));
        return Err(objection(
            format!("{shown} is encrypted with a passphrase, which nobody is there to type"),
            remedy,
        ));
    }
    let der = PrivateKeyDer::from_pem_slice(text.as_bytes()).map(Zeroizing::new).map_err(|error| {
        let remedy = "name a file that has a line -----BEGIN PRIVATE KEY-----";
        objection(format!("{shown} is no PEM private key: {error}"), remedy)
    })?;
    let key = any_supported_type(&der).map_err(|error| {
        objection(
            format!("{shown} is no usable key: {error}"),
            "make an ECDSA key on P-256, or RSA of 2048 bits or more",
        )
    })?;
    let certified = CertifiedKey::new(chain, Arc::clone(&key));
    certified.keys_match().map_err(|error| {
        let what = format!("{shown} does not belong to the first certificate in {}: {error}", cert_file.display());
        objection(what, "name the key that the certificate was requested with, and put the leaf first in its file")
    })?;
    Ok(certified)
}

fn read(file: &Path) -> Result<Vec<u8>, Objection> {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|file| file.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| objection(format!("cannot read {}: {error}", file.display()), "check the path"))?;
    if bytes.len() as u64 > FILE_LEN_MAX {
        let what = format!("{} is over {FILE_LEN_MAX} bytes", file.display());
        return Err(objection(what, "name a file with the certificates that are needed"));
    }
    Ok(bytes)
}
