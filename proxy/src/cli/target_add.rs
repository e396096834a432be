//! `casemate target add`: scan a host key, show it, pin it.
//!
//! The scan is a real key exchange, so the key that is shown is one the target proved to hold; no login is tried. The
//! configuration is appended to, never rewritten, and only after the result has passed the same check as at start.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use casemate_certs::fields::Problem;
use casemate_certs::keys::{KeyFileError, create_new, quoted};
use clap::Args;
use russh::client;
use russh::keys::{HashAlg, PublicKey, PublicKeyOrCertificate};
use rustix::fs::FlockOperation;
use tokio::sync::oneshot;

use super::say;
use crate::config::{
    Config, ConfigError, Limits, Objection, is_name, load_private_key, parse_public_key, split_address,
};
use crate::ssh::settings;

/// How long connecting and the key exchange may take.
const SCAN_TIMEOUT: Duration = Duration::from_secs(10);

/// What `target add` shall do.
#[derive(Debug, Clone, Args)]
pub struct TargetAdd {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Name of the target.
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub name: String,
    /// Where it listens; IPv6 in brackets.
    #[arg(long, value_name = "HOST:PORT")]
    pub address: String,
    /// A login there and the private key file that opens it; may be given several times.
    #[arg(long, value_name = "LOGIN=KEYFILE", required = true, value_parser = parse_role)]
    pub role: Vec<RoleArg>,
    /// Another name for it; may be given several times.
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub alias: Vec<String>,
    /// A person who gets access to it, under all roles given; may be given several times.
    #[arg(long, value_name = "PERSON")]
    pub allow: Vec<String>,
    /// Pin the key only if it has this fingerprint, without asking.
    #[arg(long, value_name = "SHA256:…", conflicts_with = "yes")]
    pub fingerprint: Option<String>,
    /// Pin whatever key is shown, without asking.
    #[arg(long)]
    pub yes: bool,
}

/// A login and the key file that opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleArg {
    /// The login name at the target.
    pub login: String,
    /// The private key file, from the current directory.
    pub key_file: PathBuf,
}

fn parse_name(text: &str) -> Result<String, String> {
    if is_name(text) {
        Ok(text.to_owned())
    } else {
        Err("write a lower-case letter or _, then up to 63 of a-z 0-9 _ . -".to_owned())
    }
}

fn parse_role(text: &str) -> Result<RoleArg, String> {
    match text.split_once('=') {
        Some((login, file)) if is_name(login) && !file.is_empty() => {
            Ok(RoleArg { login: login.to_owned(), key_file: PathBuf::from(file) })
        }
        _ => Err("write LOGIN=KEYFILE, such as root=keys/target_ed25519_key".to_owned()),
    }
}

/// Why no target was added. The configuration is as it was.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// The configuration is not good as it is.
    #[error("the configuration must pass the check first:\n{0}")]
    Config(#[from] ConfigError),
    /// A name or alias is taken.
    #[error("target name or alias {name:?} is taken on line {line}; to pin another key, edit host_keys there")]
    Taken {
        /// The name.
        name: String,
        /// Line of the target that has it.
        line: usize,
    },
    /// Somebody unknown shall get access.
    #[error("person {0:?} is not configured; add a [[person]] first")]
    UnknownPerson(String),
    /// The address is none.
    #[error("address {0:?} is no host and port; write HOST:PORT, IPv6 in brackets")]
    Address(String),
    /// A role's key file is not good.
    #[error("{0}")]
    Key(Objection),
    /// The target did not answer.
    #[error("cannot connect to {address}: {source}; check the address and that it is up")]
    Connect {
        /// Where.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// No key exchange took place.
    #[error("{address} did not prove a host key: {reason}; check that an SSH server listens there")]
    Handshake {
        /// Where.
        address: String,
        /// Why not.
        reason: String,
    },
    /// The host key is too weak, or of a kind nobody can pin.
    #[error("host key of {address}: {objection}")]
    Weak {
        /// Where.
        address: String,
        /// What is wrong and what to do.
        objection: Objection,
    },
    /// Another key than the expected one.
    #[error("{address} proved {found}, not {expected}; do not go on before you know why")]
    Fingerprint {
        /// Where.
        address: String,
        /// The key's fingerprint.
        found: String,
        /// The one on the command line.
        expected: String,
    },
    /// Nobody confirmed the key.
    #[error("not confirmed; compare the fingerprint with the target's own (ssh-keygen -lf) and give --fingerprint {0}")]
    Unconfirmed(String),
    /// What would have been written is not good.
    #[error("not written, because it would not pass the check:\n{}", listed(.0))]
    Result(Vec<Problem>),
    /// Somebody else is editing.
    #[error("{} is being changed by another casemate; try again", .0.display())]
    Busy(PathBuf),
    /// The file changed between check and write.
    #[error("{} changed meanwhile; try again", .0.display())]
    Changed(PathBuf),
    /// The file could not be replaced.
    #[error("cannot write {}: {source}; check the rights on its directory", file.display())]
    Write {
        /// The configuration.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("line {problem}")).collect::<Vec<_>>().join("\n")
}

/// Scans, asks, pins.
///
/// # Errors
/// Whatever stands in the way; the configuration is then unchanged.
pub fn target_add(request: &TargetAdd) -> Result<(), AddError> {
    let config = Config::load(&request.config)?;
    let before = std::fs::read(&request.config).map_err(|source| write_error(&request.config, source))?;
    refuse_early(request, &config)?;
    let (host, port) = split_address(&request.address).ok_or_else(|| AddError::Address(request.address.clone()))?;

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| AddError::Connect { address: request.address.clone(), source })?;
    let key = runtime.block_on(scan(&host, port, &request.address))?;
    let line = key.to_openssh().unwrap_or_default();
    let key =
        parse_public_key(&line).map_err(|objection| AddError::Weak { address: request.address.clone(), objection })?;
    let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
    say(&format!("{} at {} proves the host key\n  {} {fingerprint}", request.name, request.address, key.algorithm()));
    confirm(request, &fingerprint)?;

    append(&request.config, &before, &block(request, &config, &line))?;
    say(&format!("{}: target {} added; to use it, send SIGHUP to the daemon", request.config.display(), request.name));
    Ok(())
}

/// What needs no network is said before the network is tried.
fn refuse_early(request: &TargetAdd, config: &Config) -> Result<(), AddError> {
    for name in std::iter::once(&request.name).chain(&request.alias) {
        if let Some(target) = config.targets.iter().find(|target| target.name == *name || target.aliases.contains(name))
        {
            return Err(AddError::Taken { name: name.clone(), line: target.line });
        }
    }
    if let Some(unknown) = request.allow.iter().find(|name| config.persons.iter().all(|person| person.name != **name)) {
        return Err(AddError::UnknownPerson(unknown.clone()));
    }
    for role in &request.role {
        load_private_key(&role.key_file).map_err(AddError::Key)?;
    }
    Ok(())
}

fn confirm(request: &TargetAdd, fingerprint: &str) -> Result<(), AddError> {
    if let Some(expected) = &request.fingerprint {
        return if expected == fingerprint {
            Ok(())
        } else {
            let (found, expected) = (fingerprint.to_owned(), expected.clone());
            Err(AddError::Fingerprint { address: request.address.clone(), found, expected })
        };
    }
    if request.yes {
        return Ok(());
    }
    let mut answer = String::new();
    if io::stdin().is_terminal() {
        let mut err = io::stderr().lock();
        let _ = write!(err, "Does the target itself show this fingerprint (ssh-keygen -lf)? Type yes to pin it: ");
        let _ = err.flush();
        let _ = io::stdin().lock().read_line(&mut answer);
    }
    if answer.trim() == "yes" { Ok(()) } else { Err(AddError::Unconfirmed(fingerprint.to_owned())) }
}

/// Takes the proved key out of the handshake and ends it there.
struct Scanner(Option<oneshot::Sender<PublicKey>>);

impl client::Handler for Scanner {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        // The library has verified the signature over the exchange before it asks.
        if let (PublicKeyOrCertificate::PublicKey { key, .. }, Some(found)) = (key, self.0.take()) {
            let _ = found.send(key.clone());
        }
        Ok(false)
    }
}

/// Connects, and returns the host key that the target proves.
async fn scan(host: &str, port: u16, address: &str) -> Result<PublicKey, AddError> {
    let connect = async {
        let stream = tokio::net::TcpStream::connect((host, port))
            .await
            .map_err(|source| AddError::Connect { address: address.to_owned(), source })?;
        // What can be pinned is what can be dialled, by the same algorithms and in the same order of preference.
        let settings = settings::target(&Limits::default(), &[]);
        let (found, key) = oneshot::channel();
        let ended = client::connect_stream(settings, stream, Scanner(Some(found))).await;
        key.await.map_err(|_| {
            let reason = ended.err().map_or_else(|| "no key was shown".to_owned(), |error| error.to_string());
            AddError::Handshake { address: address.to_owned(), reason }
        })
    };
    tokio::time::timeout(SCAN_TIMEOUT, connect).await.unwrap_or_else(|_| {
        let reason = format!("no answer within {} s", SCAN_TIMEOUT.as_secs());
        Err(AddError::Handshake { address: address.to_owned(), reason })
    })
}

/// The text that is appended.
fn block(request: &TargetAdd, config: &Config, host_key: &str) -> String {
    let text = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let list = |items: &[String]| items.iter().map(|item| text(item)).collect::<Vec<_>>().join(", ");
    let base = std::path::absolute(Config::base(&config.file)).unwrap_or_default();
    let mut out = format!("\n[[target]]\nname = {}\n", text(&request.name));
    if !request.alias.is_empty() {
        out.push_str(&format!("aliases = [{}]\n", list(&request.alias)));
    }
    out.push_str(&format!(
        "kind = \"ssh\"\naddress = {}\nhost_keys = [{}]\n",
        text(&request.address),
        text(host_key.trim_end())
    ));
    for role in &request.role {
        // A path inside the configuration's directory stays relative, so that the directory can be moved.
        let file = std::path::absolute(&role.key_file).unwrap_or_else(|_| role.key_file.clone());
        let file = file.strip_prefix(&base).unwrap_or(&file).display().to_string();
        out.push_str(&format!("\n[[target.role]]\nlogin = {}\nkey_file = {}\n", text(&role.login), text(&file)));
    }
    for person in &request.allow {
        let roles: Vec<String> = request.role.iter().map(|role| role.login.clone()).collect();
        let (person, target) = (text(person), text(&request.name));
        out.push_str(&format!("\n[[access]]\nperson = {person}\ntargets = [{target}]\nroles = [{}]\n", list(&roles)));
    }
    out
}

/// Appends to the file as one step: all of it, or nothing.
fn append(file: &Path, before: &[u8], block: &str) -> Result<(), AddError> {
    let failed = |source: io::Error| write_error(file, source);
    // Replacing a link by a file would surprise whoever made the link.
    let file = &file.canonicalize().map_err(failed)?;
    let dir = File::open(Config::base(file)).map_err(failed)?;
    rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).map_err(|_| AddError::Busy(file.clone()))?;
    if std::fs::read(file).map_err(failed)? != before {
        return Err(AddError::Changed(file.clone()));
    }
    let mut text = String::from_utf8_lossy(before).into_owned();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(block);
    Config::parse(&text, file).map_err(AddError::Result)?;

    let meta = std::fs::metadata(file).map_err(failed)?;
    let temp = Config::base(file).join(format!(".casemate.{}.tmp", std::process::id()));
    let written = create_new(&temp, text.as_bytes(), meta.mode() & 0o7777)
        .map_err(|error| match error {
            KeyFileError::Write { source, .. } => source,
            other => io::Error::other(other.to_string()),
        })
        .and_then(|()| keep_owner(&temp, &meta))
        .and_then(|()| std::fs::rename(&temp, file))
        .and_then(|()| dir.sync_all());
    if written.is_err() {
        let _ = std::fs::remove_file(&temp);
    }
    written.map_err(failed)
}

/// Root may edit a file of the daemon's user; it stays that user's.
fn keep_owner(temp: &Path, meta: &std::fs::Metadata) -> io::Result<()> {
    let now = std::fs::metadata(temp)?;
    if (now.uid(), now.gid()) == (meta.uid(), meta.gid()) {
        return Ok(());
    }
    std::os::unix::fs::chown(temp, Some(meta.uid()), Some(meta.gid()))
        .map_err(|error| io::Error::new(error.kind(), format!("{error} (chown {})", quoted(temp))))
}

fn write_error(file: &Path, source: io::Error) -> AddError {
    AddError::Write { file: file.to_owned(), source }
}

#[cfg(test)]
#[path = "target_add_tests.rs"]
mod tests;
