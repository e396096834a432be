//! The configuration: one TOML file, read whole, checked whole, then immutable.
//!
//! A [`Config`] exists only when nothing is wrong with the file nor with the key files it names. Knows no policy: who may
//! go where is decided in [`crate::policy`], from the lines collected here.

mod check;
mod encryption;
mod forwards;
mod keys;
mod operation;
mod parse;
mod postgres;
mod snapshot;
mod vault;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use casemate_certs::fields::Problem;
use casemate_certs::ssh_ca::HostAuthority;
use casemate_certs::vkey::NodeKey;
use casemate_recorder::Durability;
use russh::keys::{PrivateKey, PublicKey};

pub use encryption::{Encryption, NamedRecipient};
pub use forwards::Forwards;
pub use keys::{Objection, load_private_key, parse_public_key};
pub use operation::{AlertCommand, LogFormat};
pub use parse::{is_name, split_address};
pub use postgres::{PgAuth, PgFront, PgService, PgTls, Results};
pub use vault::VaultConfig;

/// Everything the daemon is told, after validation.
pub struct Config {
    /// The file it was read from.
    pub file: PathBuf,
    /// Name of this node, part of its key and of its log.
    pub node: String,
    /// Where journal, spool and node log live.
    pub state_dir: PathBuf,
    /// Where finished segments and checkpoints rest.
    pub vault: VaultConfig,
    /// When a session byte may go on.
    pub durability: Durability,
    /// Whether recordings are encrypted; must be said.
    pub encryption: Encryption,
    /// Sockets to listen on.
    pub listen: Listen,
    /// The certificate of the PostgreSQL front door, and whose client certificates it takes; there where it listens.
    pub postgres: Option<PgFront>,
    /// Host keys of the SSH front door, never empty.
    pub host_keys: Vec<KeyFile>,
    /// The authority that certifies the names of targets towards clients that come with `ssh -J`.
    pub host_ca: HostAuthority,
    /// The key that signs checkpoints of the node log.
    pub node_key: NodeKey,
    /// What peers may make grow, and how long they may take.
    pub limits: Limits,
    /// How the daemon writes its log.
    pub log: LogFormat,
    /// The organisation's trust file: whose signatures count on what is handed in; nobody's without it.
    pub trust: Option<PathBuf>,
    /// What is run for each alert; nothing without it.
    pub alerts: Option<AlertCommand>,
    /// The recording notice, sent as SSH authentication banner; ends with a line feed.
    pub notice: String,
    /// People, by name.
    pub persons: Vec<Person>,
    /// Where they can go.
    pub targets: Vec<Arc<Target>>,
    /// Who may go where.
    pub access: Vec<Access>,
    /// BLAKE3 of the file's bytes, as `b3sum` prints it.
    pub hash: [u8; 32],
}

/// Sockets to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The SSH front door, never empty.
    pub ssh: Vec<SocketAddr>,
    /// The PostgreSQL front door; none unless configured.
    pub postgres: Vec<SocketAddr>,
    /// The PostgreSQL front door on this machine, a Unix socket; none unless configured.
    pub postgres_socket: Option<PathBuf>,
    /// Figures for Prometheus and the state of health, over HTTP; none unless configured.
    pub metrics: Vec<SocketAddr>,
    /// Whether clients may use MACs without encrypt-then-MAC.
    pub plain_macs: bool,
    /// Whether what says that it is `ssh -J` or `-W` itself needs no key inside.
    pub jump_without_key: bool,
}

/// A private key and the file it came from. Has no `Debug`, so that no log line can show it.
#[derive(Clone)]
pub struct KeyFile {
    /// Where it was read from.
    pub file: PathBuf,
    /// The key; wiped when the last holder drops it.
    pub key: Arc<PrivateKey>,
}

/// What peers may make grow, and how long they may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// From accept to a finished login.
    pub login_grace: Duration,
    /// Failed proofs of a key before the connection ends.
    pub attempts: u32,
    /// Keys offered without proof before the connection ends.
    pub probes: u32,
    /// Connections of one source address (IPv4 /32, IPv6 /64) that have not logged in yet.
    pub preauth_per_source: usize,
    /// Connections of all sources that have not logged in yet; one more pushes the oldest out.
    pub preauth_global: usize,
    /// Live sessions of the node.
    pub sessions: usize,
    /// Live sessions of one person.
    pub sessions_per_person: usize,
    /// Open channels of one session, and its forwards that listen.
    pub channels: usize,
    /// Names of environment variables that pass, with an optional `*` at the end; empty lets none pass.
    pub env: Vec<String>,
    /// Silence after which the peer is asked whether it lives; over SSH a target is asked after five seconds at most.
    pub keepalive: Duration,
    /// Unanswered questions after which it counts as gone.
    pub keepalive_count: u32,
    /// How long sent bytes may stay unacknowledged (TCP_USER_TIMEOUT).
    pub tcp_user_timeout: Duration,
    /// How long reaching and logging in to a target may take.
    pub dial: Duration,
    /// How long a target may take to answer a channel request.
    pub reply: Duration,
    /// How long a token opens a database after it was made.
    pub token_lifetime: Duration,
    /// How long a session may be quiet; without end when `None`.
    pub idle: Option<Duration>,
    /// How long a session may last; without end when `None`.
    pub session: Option<Duration>,
    /// How long sessions may go on after SIGTERM.
    pub drain: Duration,
    /// Bytes that one channel may queue towards a slow client before the target is slowed.
    pub backlog: usize,
    /// Bytes at which a stalled channel is ended.
    pub backlog_max: usize,
    /// Bytes the journal may take on disk.
    pub journal: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            login_grace: Duration::from_secs(20),
            attempts: 6,
            probes: 20,
            preauth_per_source: 10,
            preauth_global: 10_000,
            sessions: 200,
            sessions_per_person: 5,
            channels: 10,
            env: ["LANG", "LC_*"].map(str::to_owned).to_vec(),
            keepalive: Duration::from_secs(15),
            keepalive_count: 3,
            tcp_user_timeout: Duration::from_secs(60),
            dial: Duration::from_secs(20),
            reply: Duration::from_secs(20),
            token_lifetime: Duration::from_secs(3600),
            idle: None,
            session: None,
            drain: Duration::from_secs(30),
            backlog: 4 * 1024 * 1024,
            backlog_max: 32 * 1024 * 1024,
            journal: 1024 * 1024 * 1024,
        }
    }
}

impl Limits {
    /// Whether an environment variable of that name may pass to a target.
    pub fn env_passes(&self, name: &str) -> bool {
        self.env.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => pattern == name,
        })
    }
}

/// Somebody who may log in.
#[derive(Debug, Clone)]
pub struct Person {
    /// Unique name.
    pub name: String,
    /// Public keys, never empty; no two persons share one.
    pub keys: Vec<PublicKey>,
    /// What they do in the organisation.
    pub duties: Vec<Duty>,
    /// Line in the file, from 1.
    pub line: usize,
}

/// What a person does in the organisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// Works on targets.
    Admin,
    /// Checks the record.
    Auditor,
    /// Approves requests of others.
    Approver,
    /// Reviews sessions of others.
    Reviewer,
}

impl Duty {
    /// All duties with their names in the file.
    pub const ALL: [(&'static str, Self); 4] = [
        ("admin", Self::Admin),
        ("auditor", Self::Auditor),
        ("approver", Self::Approver),
        ("reviewer", Self::Reviewer),
    ];
}

/// Somewhere a session can lead.
#[derive(Clone)]
pub struct Target {
    /// Unique name.
    pub name: String,
    /// Other names, unique among names and aliases.
    pub aliases: Vec<String>,
    /// Host name or IP address to dial.
    pub host: String,
    /// TCP port to dial.
    pub port: u16,
    /// What is spoken there.
    pub service: Service,
    /// Logins at the target, never empty.
    pub roles: Vec<Role>,
    /// Line in the file, from 1.
    pub line: usize,
}

impl Target {
    /// Returns what is spoken there, in one word.
    pub fn kind(&self) -> TargetKind {
        self.service.kind()
    }

    /// Returns the host keys that are pinned; none where no SSH is spoken.
    pub fn host_keys(&self) -> &[PublicKey] {
        match &self.service {
            Service::Ssh { host_keys } => host_keys,
            Service::Pg(_) => &[],
        }
    }

    /// Returns what has to be known of a PostgreSQL target.
    pub fn pg(&self) -> Option<&PgService> {
        self.service.pg()
    }

    /// Returns the address as text, fit for the record: `host:port`, IPv6 in brackets.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// What is spoken at a target, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TargetKind {
    /// SSH, the version 2 protocol.
    Ssh,
    /// PostgreSQL, the version 3 protocol.
    Pg,
}

impl TargetKind {
    /// Both, with their names in the configuration and the record.
    pub const ALL: [(&str, Self); 2] = [("ssh", Self::Ssh), ("pg", Self::Pg)];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ssh => "ssh",
            Self::Pg => "pg",
        }
    }
}

/// What is spoken at a target, and all that has to be known for it.
#[derive(Clone)]
pub enum Service {
    /// SSH.
    Ssh {
        /// Pinned host keys, never empty: any other key ends the dialling.
        host_keys: Vec<PublicKey>,
    },
    /// PostgreSQL.
    Pg(PgService),
}

impl Service {
    /// Returns what it is in one word.
    pub fn kind(&self) -> TargetKind {
        match self {
            Self::Ssh { .. } => TargetKind::Ssh,
            Self::Pg(_) => TargetKind::Pg,
        }
    }

    /// Returns what has to be known of PostgreSQL.
    pub fn pg(&self) -> Option<&PgService> {
        match self {
            Self::Pg(service) => Some(service),
            Self::Ssh { .. } => None,
        }
    }
}

/// A login at a target.
#[derive(Clone)]
pub struct Role {
    /// The login name there.
    pub login: String,
    /// How the bastion proves itself there.
    pub auth: TargetAuth,
}

/// How the bastion proves itself at a target.
#[derive(Clone)]
pub enum TargetAuth {
    /// With a private SSH key.
    Key(KeyFile),
    /// At a PostgreSQL target.
    Pg(PgAuth),
}

/// What is recorded of the content of files that pass by SFTP or scp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Content {
    /// All of it.
    #[default]
    Full,
    /// How much, and its BLAKE3.
    Hash,
}

impl Content {
    /// Both, with their names in the configuration and the record.
    pub const ALL: [(&str, Self); 2] = [("full", Self::Full), ("hash", Self::Hash)];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Hash => "hash",
        }
    }
}

/// A line that lets a person reach targets under roles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The person's name.
    pub person: String,
    /// Names of targets, never aliases, never empty.
    pub targets: Vec<String>,
    /// Logins, each known at one of the targets at least; never empty.
    pub roles: Vec<String>,
    /// Why, in the record of each session.
    pub reason: String,
    /// What is recorded of the content of files.
    pub content: Content,
    /// What may be forwarded.
    pub forwards: Forwards,
    /// Whether a database may be read and not changed.
    pub read_only: bool,
    /// Whether the replication protocol may be spoken.
    pub replication: bool,
    /// Line in the file, from 1.
    pub line: usize,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {}: {source}; name a readable file with --config", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file could be read and says something wrong.
    #[error("{}", Listed { file, problems })]
    Invalid {
        /// The file.
        file: PathBuf,
        /// Everything that is wrong with it, by line.
        problems: Vec<Problem>,
    },
}

/// Problems as `file:line: what; remedy`, one a line.
struct Listed<'a> {
    file: &'a Path,
    problems: &'a [Problem],
}

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            let separator = if at == 0 { "" } else { "\n" };
            write!(f, "{separator}{}:{problem}", self.file.display())?;
        }
        Ok(())
    }
}

/// A configuration is a few kilobytes; a thousand targets with keys are below one megabyte.
const FILE_LEN_MAX: u64 = 16 * 1024 * 1024;

impl Config {
    /// Reads and checks a file and the key files it names. Relative paths count from the file's directory.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] holds all problems, not only the first.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let read = || {
            let meta = std::fs::metadata(file)?;
            if !meta.is_file() || meta.len() > FILE_LEN_MAX {
                return Err(std::io::Error::other("not a regular file of at most 16 MiB"));
            }
            std::fs::read(file)
        };
        let bytes = read().map_err(|source| ConfigError::Read { file: file.to_owned(), source })?;
        let invalid = |problems| ConfigError::Invalid { file: file.to_owned(), problems };
        let Ok(text) = std::str::from_utf8(&bytes) else {
            let what = "not UTF-8".to_owned();
            return Err(invalid(vec![Problem { line: 1, what, remedy: "save it as UTF-8 text".to_owned() }]));
        };
        parse::parse(text, file).map_err(invalid)
    }

    /// Checks a text as if it stood in `file`. Opens only what the text names.
    ///
    /// # Errors
    /// All problems, not only the first.
    pub fn parse(text: &str, file: &Path) -> Result<Self, Vec<Problem>> {
        parse::parse(text, file)
    }

    /// Returns the directory that relative paths count from.
    pub(crate) fn base(file: &Path) -> &Path {
        file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
    }
}

#[cfg(test)]
mod tests;
