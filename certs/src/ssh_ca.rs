//! The authority that certifies names of hosts (OpenSSH's PROTOCOL.certkeys).
//!
//! A client that trusts it with one `@cert-authority` line in `known_hosts` needs no line for each target. Time and
//! randomness come in as arguments; nothing here opens a file.

use std::ops::Range;
use std::sync::Arc;

use ssh_key::certificate::{Builder, CertType};
use ssh_key::{Certificate, Error, PrivateKey, PublicKey};

/// The key that signs host certificates. Has no `Debug`, so that no log line can show it.
#[derive(Clone)]
pub struct HostAuthority(Arc<PrivateKey>);

impl HostAuthority {
    /// Signs with that key from now on.
    pub fn new(key: Arc<PrivateKey>) -> Self {
        Self(key)
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        self.0.public_key()
    }

    /// Certifies that `subject` speaks for these names; `valid` is in seconds since 1970 (UTC).
    ///
    /// # Errors
    /// Without a name: a certificate that names nobody would be good for every host. When signing fails.
    pub fn certify<'n>(
        &self,
        subject: &PublicKey,
        names: impl IntoIterator<Item = &'n str>,
        key_id: &str,
        valid: Range<u64>,
        nonce: [u8; 32],
    ) -> Result<Certificate, Error> {
        let mut builder = Builder::new(nonce, subject, valid.start, valid.end)?;
        builder.cert_type(CertType::Host)?.key_id(key_id)?;
        for name in names {
            builder.valid_principal(name)?;
        }
        builder.sign(self.0.as_ref())
    }

    /// Returns the line for `known_hosts` that trusts it for hosts of this pattern (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT").
    ///
    /// # Errors
    /// The key cannot be written as text.
    pub fn known_hosts_line(&self, pattern: &str) -> Result<String, Error> {
        let public = PublicKey::new(self.public().key_data().clone(), "");
        Ok(format!("@cert-authority {pattern} {}", public.to_openssh()?.trim_end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ssh_key::HashAlg;
    use ssh_key::private::Ed25519Keypair;

    fn key(seed: u8) -> PrivateKey {
        Ed25519Keypair::from_seed(&[seed; 32]).into()
    }

    #[test]
    fn a_certificate_holds_for_its_names_and_its_time_and_its_authority() {
        let authority = HostAuthority::new(Arc::new(key(1)));
        let host = key(2);
        let names = ["web1", "www"];
        let certificate = authority.certify(host.public_key(), names, "bastion-1/web1", 1000..2000, [7; 32]).unwrap();
        assert_eq!(certificate.cert_type(), CertType::Host);
        assert_eq!(certificate.valid_principals(), names);
        assert_eq!(certificate.key_id(), "bastion-1/web1");
        assert_eq!(certificate.public_key(), host.public_key().key_data());
        let own = authority.public().fingerprint(HashAlg::Sha256);
        assert!(certificate.validate_at(1500, [&own]).is_ok());
        assert!(certificate.validate_at(2000, [&own]).is_err());
        assert!(certificate.validate_at(1500, [&host.public_key().fingerprint(HashAlg::Sha256)]).is_err());
    }

    #[test]
    fn a_certificate_without_names_is_not_made() {
        let authority = HostAuthority::new(Arc::new(key(1)));
        assert!(authority.certify(key(2).public_key(), [], "id", 0..1, [0; 32]).is_err());
    }

    #[test]
    fn the_line_for_known_hosts_has_no_comment() {
        let mut private = key(1);
        private.set_comment("root@bastion");
        let line = HostAuthority::new(Arc::new(private)).known_hosts_line("*.example").unwrap();
        let mut words = line.split(' ');
        assert_eq!(
            (words.next(), words.next(), words.next()),
            (Some("@cert-authority"), Some("*.example"), Some("ssh-ed25519"))
        );
        assert_eq!(words.count(), 1);
    }
}
