//! `casemate target add`: look at a target, show what it proves, pin that, and try the logins.
//!
//! What is looked at is in `ssh` and `pg`. The configuration is appended to, never rewritten, and only after the result has
//! passed the same check as at start.

mod append;
mod error;
mod pg;
mod ssh;

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio::net::TcpStream;

pub(super) use self::append::keep_owner;
use self::append::{append, write_error};
pub use self::error::AddError;
pub use self::pg::PgArgs;
use super::say;
use crate::config::{Config, TargetKind, is_name, split_address};

/// How long connecting and the key exchange may take.
const SCAN_TIMEOUT: Duration = Duration::from_secs(10);

/// What `target add` shall do.
#[derive(Debug, Clone, Args)]
pub struct TargetAdd {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// What is spoken there: ssh or pg (PostgreSQL).
    #[arg(long, value_name = "KIND", default_value = "ssh", value_parser = parse_kind)]
    pub kind: TargetKind,
    /// Name of the target.
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub name: String,
    /// Where it listens; IPv6 in brackets.
    #[arg(long, value_name = "HOST:PORT")]
    pub address: String,
    /// A login there and the private key file that opens it; may be given several times. For pg the login alone, once.
    #[arg(long, value_name = "LOGIN[=KEYFILE]", required = true, value_parser = parse_role)]
    pub role: Vec<RoleArg>,
    /// Another name for it; may be given several times.
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub alias: Vec<String>,
    /// A person who gets access to it, under all roles given; may be given several times.
    #[arg(long, value_name = "PERSON")]
    pub allow: Vec<String>,
    /// Pin the host key, or the authority of its certificate, only if it has this fingerprint; without asking.
    #[arg(long, value_name = "SHA256:…", conflicts_with = "yes")]
    pub fingerprint: Option<String>,
    /// Pin whatever is shown, without asking.
    #[arg(long)]
    pub yes: bool,
    /// What only a database has.
    #[command(flatten)]
    pub pg: PgArgs,
}

/// A login and what opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleArg {
    /// The login name at the target.
    pub login: String,
    /// The private key file, from the current directory; for SSH.
    pub key_file: Option<PathBuf>,
}

fn parse_kind(text: &str) -> Result<TargetKind, String> {
    let known = TargetKind::ALL.into_iter().find(|(name, _)| *name == text);
    known.map(|(_, kind)| kind).ok_or_else(|| "write ssh or pg".to_owned())
}

fn parse_name(text: &str) -> Result<String, String> {
    if is_name(text) {
        Ok(text.to_owned())
    } else {
        Err("write a lower-case letter or _, then up to 63 of a-z 0-9 _ . -".to_owned())
    }
}

fn parse_role(text: &str) -> Result<RoleArg, String> {
    let (login, key_file) = match text.split_once('=') {
        Some((login, file)) => (login, Some(PathBuf::from(file))),
        None => (text, None),
    };
    if is_name(login) && key_file.as_ref().is_none_or(|file| !file.as_os_str().is_empty()) {
        Ok(RoleArg { login: login.to_owned(), key_file })
    } else {
        Err("write LOGIN=KEYFILE, such as root=keys/target_ed25519_key; for a database LOGIN".to_owned())
    }
}

/// The configuration that is added to, and where the target listens.
struct Place<'a> {
    config: &'a Config,
    address: &'a str,
    host: String,
    port: u16,
}

impl Place<'_> {
    async fn connect(&self) -> Result<TcpStream, AddError> {
        let connected = TcpStream::connect((self.host.as_str(), self.port)).await;
        connected.map_err(|source| AddError::Connect { address: self.address.to_owned(), source })
    }

    /// Returns how a configuration names a file: one inside its directory relatively, so that the directory can be moved.
    fn named(&self, file: &Path) -> String {
        let base = std::path::absolute(Config::base(&self.config.file)).unwrap_or_default();
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        file.strip_prefix(&base).unwrap_or(&file).display().to_string()
    }
}

/// Looks, asks, pins.
///
/// # Errors
/// Whatever stands in the way; the configuration is then unchanged.
pub fn target_add(request: &TargetAdd) -> Result<(), AddError> {
    let config = Config::load(&request.config)?;
    let before = std::fs::read(&request.config).map_err(|source| write_error(&request.config, source))?;
    refuse_early(request, &config)?;
    let (host, port) = split_address(&request.address).ok_or_else(|| AddError::Address(request.address.clone()))?;
    let place = Place { config: &config, address: &request.address, host, port };

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| AddError::Connect { address: request.address.clone(), source })?;
    let (block, made) = match request.kind {
        TargetKind::Ssh => (ssh::look(request, &place, &runtime)?, Made::default()),
        TargetKind::Pg => pg::look(request, &place, &runtime)?,
    };
    append(&request.config, &before, &block)?;
    made.keep();
    say(&format!("{}: target {} added; to use it, send SIGHUP to the daemon", request.config.display(), request.name));
    Ok(())
}

/// What needs no network is said before the network is tried.
fn refuse_early(request: &TargetAdd, config: &Config) -> Result<(), AddError> {
    for name in std::iter::once(&request.name).chain(&request.alias) {
        let mut others = config.targets.iter().filter(|target| target.kind() == request.kind);
        if let Some(target) = others.find(|target| target.name == *name || target.aliases.contains(name)) {
            return Err(AddError::Taken { name: name.clone(), line: target.line });
        }
    }
    if let Some(unknown) = request.allow.iter().find(|name| config.persons.iter().all(|person| person.name != **name)) {
        return Err(AddError::UnknownPerson(unknown.clone()));
    }
    match request.kind {
        TargetKind::Ssh => ssh::refuse_early(request),
        TargetKind::Pg => pg::refuse_early(request),
    }
}

/// Has a fingerprint confirmed: by the one on the command line, or by a person. `how` prints the target's own, `plain` makes
/// spellings of one fingerprint equal.
fn confirm(
    request: &TargetAdd,
    fingerprint: &str,
    how: &'static str,
    plain: fn(&str) -> String,
) -> Result<(), AddError> {
    if let Some(expected) = &request.fingerprint {
        return if plain(expected) == plain(fingerprint) {
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
        let _ = write!(err, "Does the target itself show this fingerprint ({how})? Type yes to pin it: ");
        let _ = err.flush();
        let _ = io::stdin().lock().read_line(&mut answer);
    }
    if answer.trim() == "yes" {
        Ok(())
    } else {
        Err(AddError::Unconfirmed { fingerprint: fingerprint.to_owned(), how })
    }
}

/// Files that were made for a target; gone again unless the configuration names them.
#[derive(Debug, Default)]
struct Made(Vec<PathBuf>);

impl Made {
    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for file in &self.0 {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// A string of the configuration.
fn text(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list(items: &[String]) -> String {
    items.iter().map(|item| text(item)).collect::<Vec<_>>().join(", ")
}

/// What every target begins with.
fn first_lines(request: &TargetAdd) -> String {
    let mut out = format!("\n[[target]]\nname = {}\n", text(&request.name));
    if !request.alias.is_empty() {
        out.push_str(&format!("aliases = [{}]\n", list(&request.alias)));
    }
    out.push_str(&format!("kind = {}\naddress = {}\n", text(request.kind.name()), text(&request.address)));
    out
}

/// The lines that let people in.
fn access(request: &TargetAdd) -> String {
    let roles: Vec<String> = request.role.iter().map(|role| role.login.clone()).collect();
    let line = |person: &String| {
        let (person, target) = (text(person), text(&request.name));
        format!("\n[[access]]\nperson = {person}\ntargets = [{target}]\nroles = [{}]\n", list(&roles))
    };
    request.allow.iter().map(line).collect()
}

#[cfg(test)]
mod tests;
