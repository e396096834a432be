//! Whom a certificate names.

use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// Returns the common name in a certificate that TLS has verified, if it has exactly one, and its SHA-256 for the record.
pub fn subject(leaf: &[u8]) -> (Option<String>, String) {
    let fingerprint: String = digest(&SHA256, leaf).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let name = X509Certificate::from_der(leaf).ok().and_then(|(_, leaf)| {
        let mut names = leaf.subject().iter_common_name();
        // Of two names somebody else could believe the other.
        names.next().filter(|_| names.next().is_none())?.as_str().ok().map(str::to_owned)
    });
    (name, format!("SHA256:{fingerprint}"))
}

/// Returns the names and addresses that a server's certificate is for, in its order.
pub fn names(leaf: &[u8]) -> Vec<String> {
    let Ok((_, leaf)) = X509Certificate::from_der(leaf) else { return Vec::new() };
    let Ok(Some(names)) = leaf.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match *name {
        GeneralName::DNSName(name) => Some(name.to_owned()),
        GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(bytes)
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
            .ok()
            .map(|address| address.to_string()),
        _ => None,
    };
    names.value.general_names.iter().filter_map(name).collect()
}
