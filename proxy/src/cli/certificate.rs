//! `casemate certificate`: the next certificate of the PostgreSQL front door, from the authority that `casemate init` made.
//!
//! Clients believe the authority, so nobody has to be told. Who has their certificates from elsewhere gets the next one there.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use casemate_certs::keys::{KeyFileError, create_new, read_private};
use clap::Args;

use super::say;
use super::target_add::keep_owner;
use crate::config::{Config, ConfigError, Objection};
use crate::pg::tls::{MinVersion, ServerTls, day, issue, names};

/// What `certificate` shall do.
#[derive(Debug, Clone, Args)]
pub struct Certificate {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Names and addresses by which clients know the front door [default: those in the present certificate].
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

/// Why the certificate is the one it was.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The configuration is not good.
    #[error("the configuration must pass the check first:\n{0}")]
    Config(#[from] ConfigError),
    /// There is no front door.
    #[error("the configuration has no [postgres]; `casemate init` shows one")]
    NoFront,
    /// The authority is not at hand.
    #[error("{source}; {}, or get a certificate where the present one came from", source.remedy())]
    Authority {
        /// Why not.
        source: KeyFileError,
    },
    /// The present certificate names nobody.
    #[error("the present certificate has no names; give them: casemate certificate --config FILE NAME…")]
    NoNames,
    /// It cannot be issued.
    #[error("cannot issue a certificate: {0}; check the names, and that pg_ca.crt and pg_ca.key belong together")]
    Issue(String),
    /// It could not be used.
    #[error("not replaced: {0}")]
    Unusable(Objection),
    /// A new file could not be made.
    #[error("{source}; {}", source.remedy())]
    Make {
        /// Why not.
        #[from]
        source: KeyFileError,
    },
    /// A file could not be replaced.
    #[error("cannot replace {}: {source}; check the rights on its directory", file.display())]
    Replace {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Issues a certificate and puts it in the place of the present one, which is kept beside it.
///
/// # Errors
/// Whatever stands in the way. Both files are then as they were, unless the disk fails between the two.
pub fn certificate(request: &Certificate) -> Result<(), CertificateError> {
    let config = Config::load(&request.config)?;
    let front = config.postgres.as_ref().ok_or(CertificateError::NoFront)?;
    let (cert_file, key_file) = (&front.certificate, &front.key);
    let dir = Config::base(cert_file);
    let ca_key = read_private(&dir.join("pg_ca.key")).map_err(|source| CertificateError::Authority { source })?;
    let ca_file = dir.join("pg_ca.crt");
    let ca = std::fs::read_to_string(&ca_file).map_err(|source| CertificateError::Authority {
        source: KeyFileError::Open { file: ca_file.clone(), source },
    })?;
    let names = if request.names.is_empty() { names(front.tls.leaf()) } else { request.names.clone() };
    if names.is_empty() {
        return Err(CertificateError::NoNames);
    }
    let leaf = issue(&ca, &ca_key, &names, SystemTime::now());
    let leaf = leaf.map_err(|error| CertificateError::Issue(error.to_string()))?;

    let (cert, key) = (beside(cert_file, "new"), beside(key_file, "new"));
    let new = Fresh([&cert, &key]);
    make(&key, leaf.key_pem.as_bytes(), key_file)?;
    make(&cert, leaf.cert_pem.as_bytes(), cert_file)?;
    // What the daemon would refuse must not take the place of what it has.
    let tls = ServerTls::load(&cert, &key, None, MinVersion::default()).map_err(CertificateError::Unusable)?;
    // A daemon that reloads between the two finds a key that does not fit, and stays with what it has.
    replace(&key, key_file)?;
    replace(&cert, cert_file)?;
    drop(new);
    say(&format!("{}: for {}, good until {}", cert_file.display(), names.join(", "), day(tls.not_after())));
    say(&format!("the one before is kept in {}; for the daemon to take it, send it SIGHUP", kept(cert_file).display()));
    Ok(())
}

/// Files that are not in place yet; gone unless they get there.
struct Fresh<'a>([&'a Path; 2]);

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        for file in self.0 {
            let _ = std::fs::remove_file(file);
        }
    }
}

fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    file.with_file_name(name)
}

fn kept(file: &Path) -> PathBuf {
    beside(file, "before")
}

/// Makes a file with the rights and the owner of the one that it will replace.
fn make(file: &Path, bytes: &[u8], like: &Path) -> Result<(), CertificateError> {
    let failed = |source| CertificateError::Replace { file: like.to_owned(), source };
    let meta = std::fs::metadata(like).map_err(failed)?;
    // Left by one that was killed.
    let _ = std::fs::remove_file(file);
    create_new(file, bytes, meta.permissions().mode() & 0o7777)?;
    keep_owner(file, &meta).map_err(failed)
}

/// Puts a file in the place of another, which is kept. At no time is there none.
fn replace(new: &Path, file: &Path) -> Result<(), CertificateError> {
    let kept = kept(file);
    let swapped = match std::fs::remove_file(&kept) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => std::fs::hard_link(file, &kept),
    };
    let swapped = swapped
        .and_then(|()| std::fs::rename(new, file))
        .and_then(|()| File::open(Config::base(file)).and_then(|dir| dir.sync_all()));
    swapped.map_err(|source| CertificateError::Replace { file: file.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Home, chmod};

    fn request(home: &Home, names: &[&str]) -> Certificate {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Certificate { config: home.path("casemate.toml"), names }
    }

    #[test]
    fn the_next_certificate_is_for_the_same_names_and_the_one_before_is_kept() {
        let home = Home::new();
        let before = home.with_front(&["db1", "192.0.2.7"]);
        let text = |name: &str| std::fs::read_to_string(home.path(name)).unwrap();
        let (old_cert, old_key) = (text("keys/pg_server.crt"), text("keys/pg_server.key"));
        chmod(&home.path("keys/pg_server.crt"), 0o640);
        certificate(&request(&home, &[])).unwrap();
        let config = Config::load(&before.file).unwrap();
        let leaf = &config.postgres.as_ref().unwrap().tls;
        assert_ne!(leaf.end_point(), before.postgres.as_ref().unwrap().tls.end_point());
        assert_eq!(names(leaf.leaf()), ["db1", "192.0.2.7"]);
        assert_eq!((text("keys/pg_server.crt.before"), text("keys/pg_server.key.before")), (old_cert, old_key));
        let mode = |name: &str| std::fs::metadata(home.path(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("keys/pg_server.crt"), mode("keys/pg_server.key")), (0o640, 0o600));

        certificate(&request(&home, &["db2"])).unwrap();
        let config = Config::load(&before.file).unwrap();
        assert_eq!(names(config.postgres.as_ref().unwrap().tls.leaf()), ["db2"]);
        assert!(!home.path("keys/pg_server.crt.new").exists() && !home.path("keys/pg_server.key.new").exists());
    }

    #[test]
    fn what_cannot_be_issued_leaves_the_present_one() {
        let home = Home::new();
        home.with_front(&["db1"]);
        let cert = || std::fs::read(home.path("keys/pg_server.crt")).unwrap();
        let before = cert();
        assert!(matches!(certificate(&request(&home, &["näme"])), Err(CertificateError::Issue(_))));
        let other = Home::new();
        other.with_front(&["db1"]);
        std::fs::copy(other.path("keys/pg_ca.crt"), home.path("keys/pg_ca.crt")).unwrap();
        std::fs::write(home.path("keys/pg_ca.crt"), "nothing").unwrap();
        assert!(matches!(certificate(&request(&home, &[])), Err(CertificateError::Issue(_))));
        std::fs::remove_file(home.path("keys/pg_ca.key")).unwrap();
        let error = certificate(&request(&home, &[])).unwrap_err();
        assert!(error.to_string().contains("where the present one came from"), "{error}");
        assert_eq!(cert(), before);
        assert!(!home.path("keys/pg_server.crt.before").exists());

        home.write(crate::testing::SAMPLE);
        assert!(matches!(certificate(&request(&home, &[])), Err(CertificateError::NoFront)));
    }
}
