//! A PostgreSQL target: what its TLS shows is looked at and pinned, and one login proves that the bastion gets in.
//!
//! No login is tried, and no password leaves, before the certificate is one that somebody confirmed or vouched for.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use casemate_certs::keys::create_new;
use clap::Args;
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use super::{
    AddError, Made, Place, SCAN_TIMEOUT, TargetAdd, access, confirm, first_lines, keep_owner, text, write_error,
};
use crate::cli::say;
use crate::cli::secret::{read_password, state_of, write_encrypted};
use crate::config::{Config, split_address};
use crate::pg::auth::target::{Login, Password};
use crate::pg::client::{self, Unreached};
use crate::pg::startup::VERSION_3_2;
use crate::pg::tls::{Mode, Scan, Shown, TargetTls, authority};

/// What prints the fingerprint of a certificate where it is trusted already.
const COMPARE: &str = "openssl x509 -noout -fingerprint -sha256 -in";

/// What only a database has.
#[derive(Debug, Clone, Default, Args)]
pub struct PgArgs {
    /// pg: the database of those who name none, and the one to log in to now.
    #[arg(long, value_name = "NAME")]
    pub database: Option<String>,
    /// pg: the PEM file of the authority that certified the target; without it, the one that the target shows can be pinned.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tls_off", "fingerprint", "yes"])]
    pub ca: Option<PathBuf>,
    /// pg: no TLS, for a database on this machine.
    #[arg(long, conflicts_with_all = ["cert", "fingerprint", "yes"])]
    pub tls_off: bool,
    /// pg: ask for no password; the target trusts the bastion's address or its certificate.
    #[arg(long)]
    pub no_password: bool,
    /// pg: the PEM file of the certificate that the bastion shows; no password is asked for then.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// pg: its private key file.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
}

impl PgArgs {
    /// Returns the first option that was given.
    pub(super) fn given(&self) -> Option<&'static str> {
        let Self { database, ca, tls_off, no_password, cert, key } = self;
        let given = [
            ("--database", database.is_some()),
            ("--ca", ca.is_some()),
            ("--tls-off", *tls_off),
            ("--no-password", *no_password),
            ("--cert", cert.is_some()),
            ("--key", key.is_some()),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }

    fn own(&self) -> Option<(&Path, &Path)> {
        self.cert.as_deref().zip(self.key.as_deref())
    }
}

/// Says what cannot be added before the network is tried.
pub(super) fn refuse_early(request: &TargetAdd) -> Result<(), AddError> {
    let usage = |text: &str| Err(AddError::Usage(text.to_owned()));
    if request.pg.database.is_none() {
        return usage("--database is missing: name the database of those who name none");
    }
    match request.role.as_slice() {
        [role] if role.key_file.is_none() => {}
        [_] => return usage("--role has a key file: for a database write the LOGIN alone; the password is asked for"),
        _ => return usage("--role more than once: add the database with one, and write others by hand"),
    }
    if request.pg.tls_off
        && let Some((host, _)) = split_address(&request.address)
    {
        Mode::parse("off", &host).map_err(AddError::Key)?;
    }
    Ok(())
}

/// Looks at the target, has its authority confirmed, logs in once, and returns the text to append and the files it names.
pub(super) fn look(request: &TargetAdd, place: &Place<'_>, runtime: &Runtime) -> Result<(String, Made), AddError> {
    let mut made = Made::default();
    let ca_file = match (&request.pg.ca, request.pg.tls_off) {
        (_, true) => None,
        (Some(file), _) => {
            runtime.block_on(show(request, place))?;
            Some(file.clone())
        }
        (None, _) => Some(pin(request, place, runtime, &mut made)?),
    };
    let tls = ca_file.as_ref().map(|file| TargetTls::load(&place.host, file, request.pg.own()));
    let tls = tls.transpose().map_err(AddError::Key)?;

    let login = request.role.first().map(|role| role.login.clone()).unwrap_or_default();
    let asks = !request.pg.no_password && request.pg.cert.is_none();
    // Who has nothing to encrypt to is told before they type.
    let state = asks.then(|| state_of(place.config)).transpose()?;
    let password = asks.then(|| read_password(&format!("Password of {login} at {}: ", request.name))).transpose()?;
    runtime.block_on(prove(request, place, tls.as_ref(), &login, password.clone()))?;

    let mut password_file = None;
    if let (Some(state), Some(password)) = (state, password) {
        let file = beside(place, &format!("{}-{login}.age", request.name));
        write_encrypted(&state, &password, &file)?;
        made.0.push(file.clone());
        adopt(place, &file)?;
        password_file = Some(file);
    }
    Ok((block(request, place, &login, ca_file.as_deref(), password_file.as_deref()), made))
}

/// Returns where a file of this target goes.
fn beside(place: &Place<'_>, name: &str) -> PathBuf {
    Config::base(&place.config.file).join("keys").join(name)
}

/// Gives a file that was made to whoever has the configuration: the daemon reads it as that user.
fn adopt(place: &Place<'_>, file: &Path) -> Result<(), AddError> {
    let owner = std::fs::metadata(&place.config.file).and_then(|meta| keep_owner(file, &meta));
    owner.map_err(|source| write_error(file, source))
}

/// Shows the certificates that the target sends, and returns the one that the others hang on.
async fn show(request: &TargetAdd, place: &Place<'_>) -> Result<(Shown, Option<String>), AddError> {
    let scan = Scan::new(&place.host).map_err(AddError::Key)?;
    let chain = client::scan(place.connect().await?, &scan, SCAN_TIMEOUT).await;
    let chain = chain.map_err(|error| unreached(place, &error))?;
    let shown: Vec<Shown> = chain.iter().filter_map(|certificate| Shown::of(certificate)).collect();
    say(&format!("{} at {} shows", request.name, request.address));
    shown.iter().for_each(|certificate| say(&format!("  {certificate}")));
    let found = authority(&chain);
    let last = shown.into_iter().next_back();
    match (found, last) {
        (Some((shown, pem)), _) => Ok((shown, Some(pem))),
        (None, Some(leaf)) => Ok((leaf, None)),
        (None, None) => Err(unreached(place, &Unreached::NoTls)),
    }
}

/// Has the authority that the target shows confirmed, and keeps it.
fn pin(request: &TargetAdd, place: &Place<'_>, runtime: &Runtime, made: &mut Made) -> Result<PathBuf, AddError> {
    let (shown, pem) = runtime.block_on(show(request, place))?;
    let no_authority = || AddError::NoAuthority { address: request.address.clone(), issuer: shown.issuer.clone() };
    let pem = pem.ok_or_else(no_authority)?;
    say(&format!("to be pinned is the authority {}", shown.subject));
    confirm(request, &format!("SHA256:{}", shown.fingerprint), COMPARE, plain)?;
    let file = beside(place, &format!("{}_ca.pem", request.name));
    create_new(&file, pem.as_bytes(), 0o644)?;
    made.0.push(file.clone());
    adopt(place, &file)?;
    Ok(file)
}

/// Makes what openssl prints and what our records say the same: hexadecimal digits without anything between.
fn plain(fingerprint: &str) -> String {
    let digits = fingerprint.rsplit_once('=').map_or(fingerprint, |(_, digits)| digits);
    let digits = digits.strip_prefix("SHA256:").unwrap_or(digits);
    digits.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect()
}

/// Logs in once, and says how.
async fn prove(
    request: &TargetAdd,
    place: &Place<'_>,
    tls: Option<&TargetTls>,
    user: &str,
    password: Option<Zeroizing<String>>,
) -> Result<(), AddError> {
    let login = Login {
        user: user.to_owned(),
        database: request.pg.database.clone().map(Bytes::from).unwrap_or_default(),
        password: password.map(Password::new),
        params: Vec::new(),
        protocol: VERSION_3_2,
    };
    let arrived = client::reach(place.connect().await?, tls, login, SCAN_TIMEOUT).await;
    let arrived = arrived.map_err(|error| unreached(place, &error))?;
    let (version, method) = (arrived.reached.server_version.escape_debug().to_string(), arrived.reached.method);
    let over = arrived.peer.map_or("without TLS", |peer| peer.version);
    say(&format!("logged in as {user} by {method}, {over}: PostgreSQL {version}"));
    Ok(())
}

fn unreached(place: &Place<'_>, error: &Unreached) -> AddError {
    AddError::Unreached { address: place.address.to_owned(), why: error.to_string() }
}

/// The text that is appended.
fn block(
    request: &TargetAdd,
    place: &Place<'_>,
    login: &str,
    ca_file: Option<&Path>,
    password_file: Option<&Path>,
) -> String {
    let mut out = first_lines(request);
    let mut put = |name: &str, value: &str| out.push_str(&format!("{name} = {}\n", text(value)));
    put("database", request.pg.database.as_deref().unwrap_or_default());
    match ca_file {
        Some(file) => put("ca_file", &place.named(file)),
        None => put("tls", "off"),
    }
    out.push_str(&format!("\n[[target.role]]\nlogin = {}\n", text(login)));
    let files = [
        ("password_file", password_file),
        ("cert_file", request.pg.cert.as_deref()),
        ("key_file", request.pg.key.as_deref()),
    ];
    for (name, file) in files {
        if let Some(file) = file {
            out.push_str(&format!("{name} = {}\n", text(&place.named(file))));
        }
    }
    out.push_str(&access(request));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_may_be_pasted_as_openssl_or_the_record_writes_it() {
        let same = ["SHA256:AB:0C:99", "sha256 Fingerprint=AB:0C:99", "SHA256:ab0c99", "AB:0C:99"].map(plain);
        assert!(same.iter().all(|text| text == "ab0c99"), "{same:?}");
    }
}
