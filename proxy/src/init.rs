//! `casemate init`: a directory that `casemate serve` runs from.
//!
//! Makes keys, a node identity, a configuration that passes `check`, and a trust file that says about itself that it is
//! self-asserted. Writes nothing over anything.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use casemate_certs::keys::{KeyFileError, create_new, quoted, write_private};
use casemate_certs::ssh_ca::HostAuthority;
use casemate_certs::trust::{AgeKeyError, Period, Recipient, RecipientDuty, Trust, TrustedNode};
use casemate_certs::vkey::{NodeKey, VkeyError};
use casemate_recorder::transcript::wrap::Identity;
use clap::Args;
use russh::keys::key::safe_rng;
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, HashAlg, PrivateKey, PublicKey};

use crate::config::{Config, ConfigError, Objection, is_name, parse_public_key};
use crate::pg::tls;

/// What `init` shall make.
#[derive(Debug, Clone, Args)]
pub struct Plan {
    /// The directory; made if it is not there.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Port of the SSH front door, on 127.0.0.1.
    #[arg(long, value_name = "PORT", default_value_t = 2222, conflicts_with = "listen")]
    pub ssh_port: u16,
    /// Address and port of the SSH front door, where 127.0.0.1 is not the one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Port of the PostgreSQL front door, on the address of the SSH front door.
    #[arg(long, value_name = "PORT", default_value_t = 6432)]
    pub pg_port: u16,
    /// Name of the node [default: the host's name].
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// When a session byte may go on: strict, causal or process.
    #[arg(long, value_name = "MODE", default_value = "causal", value_parser = ["strict", "causal", "process"])]
    pub durability: String,
    /// A person who may log in, with the --key that follows; may be given several times.
    #[arg(long, value_name = "NAME", requires = "key")]
    pub person: Vec<String>,
    /// The person's public key file.
    #[arg(long, value_name = "FILE.pub", requires = "person")]
    pub key: Vec<PathBuf>,
}

/// What `init` made.
#[derive(Debug)]
pub struct Made {
    /// The configuration.
    pub config: PathBuf,
    /// What to tell the person: what was made and what comes next.
    pub report: String,
}

/// Why `init` made nothing, or not all.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Something of the same name is there.
    #[error("{} exists; nothing was changed: choose another --dir, or move it away", .0.display())]
    Exists(PathBuf),
    /// A name cannot be one.
    #[error("{what} {name:?} is no name; write a lower-case letter or _, then up to 63 of a-z 0-9 _ . -")]
    Name {
        /// Whose name.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Persons and keys do not pair up.
    #[error("{persons} --person and {keys} --key; give each person one --key")]
    Pairs {
        /// How many persons.
        persons: usize,
        /// How many keys.
        keys: usize,
    },
    /// A public key file is not good.
    #[error("{}: {objection}", file.display())]
    PublicKey {
        /// The file.
        file: PathBuf,
        /// What is wrong and what to do.
        objection: Objection,
    },
    /// A file of the person could not be read.
    #[error("cannot read {}: {source}; check the path", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory could not be made.
    #[error("cannot make {}: {source}; check the rights on its parent", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A key could not be made.
    #[error("cannot make a key: {0}")]
    Key(String),
    /// A file could not be written.
    #[error("{source}; {}", source.remedy())]
    Write {
        /// Why not.
        #[from]
        source: KeyFileError,
    },
    /// What was written does not pass its own check.
    #[error("the directory does not pass the check:\n{0}")]
    Check(#[from] ConfigError),
}

impl From<VkeyError> for InitError {
    fn from(error: VkeyError) -> Self {
        Self::Key(error.to_string())
    }
}

/// How old an anchor may be by the trust file that `init` writes.
const ANCHOR_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Makes everything and checks the result.
///
/// # Errors
/// Before anything is written: names and keys that are no good, files that are there already. After: what the system
/// refuses.
pub fn init(plan: &Plan) -> Result<Made, InitError> {
    let node = node_name(plan)?;
    let persons = persons(plan)?;
    let dir = std::path::absolute(&plan.dir).unwrap_or_else(|_| plan.dir.clone());
    let (config_file, trust_file) = (dir.join("casemate.toml"), dir.join("trust.toml"));
    let (keys, state, vault) = (dir.join("keys"), dir.join("state"), dir.join("vault"));
    let readers = dir.join("identities");
    for path in [&config_file, &trust_file, &keys, &state, &vault, &readers] {
        if path.symlink_metadata().is_ok() {
            return Err(InitError::Exists(path.clone()));
        }
    }

    make_dir(&dir, 0o755, true)?;
    // The vault is open to the group: that is how auditors get at it. See `chgrp`.
    for (sub, mode) in [(&keys, 0o700), (&state, 0o700), (&vault, 0o750), (&readers, 0o700)] {
        make_dir(sub, mode, false)?;
    }
    let host_key = make_key(&keys.join("ssh_host_ed25519_key"), &node)?;
    let authority = HostAuthority::new(Arc::new(make_key(&keys.join("ssh_host_ca_ed25519_key"), &node)?));
    let target_key = make_key(&keys.join("target_ed25519_key"), &format!("casemate@{node}"))?;
    let node_key = NodeKey::generate(&node)?;
    write_private(&keys.join("node.key"), &node_key.to_text())?;
    create_new(&keys.join("node.pub"), format!("{}\n", node_key.public()).as_bytes(), 0o644)?;

    write_private(&keys.join("state.agekey"), &Identity::generate().to_file())?;
    let identities = ["auditor", "spare"].map(|name| (name, Identity::generate()));
    for (name, identity) in &identities {
        write_private(&readers.join(format!("{name}.agekey")), &identity.to_file())?;
    }

    let listen = plan.listen.unwrap_or_else(|| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), plan.ssh_port));
    let pg_listen = SocketAddr::new(listen.ip(), plan.pg_port);
    make_certificate(&keys, &node, listen.ip())?;

    let period = Period { from_us: now_us(), until_us: None };
    let recipients = identities.iter().map(|(name, identity)| recipient(name, identity)).collect::<Result<_, _>>()?;
    let nodes = vec![TrustedNode { key: node_key.public(), period }];
    let trust = Trust { recipients, ..Trust::self_asserted(Some(ANCHOR_AGE_MAX), nodes) };
    create_new(&trust_file, trust.to_text().as_bytes(), 0o644)?;
    let text = config_text(&node, &plan.durability, (listen, pg_listen), &identities, &persons);
    create_new(&config_file, text.as_bytes(), 0o600)?;

    Config::load(&config_file)?;
    let report = report(&dir, (listen, pg_listen), &host_key, &authority, &target_key, &node_key, &persons);
    Ok(Made { config: config_file, report })
}

/// Lists an identity's public half in the trust file.
fn recipient(name: &str, identity: &Identity) -> Result<Recipient, InitError> {
    let key = identity.recipient().to_string().parse();
    let key = key.map_err(|error: AgeKeyError| InitError::Key(error.to_string()))?;
    let duty = if name == "spare" { RecipientDuty::Spare } else { RecipientDuty::Auditor };
    Ok(Recipient { name: name.to_owned(), key, duty })
}

fn node_name(plan: &Plan) -> Result<String, InitError> {
    if let Some(name) = &plan.node {
        return if is_name(name) {
            Ok(name.clone())
        } else {
            Err(InitError::Name { what: "node", name: name.clone() })
        };
    }
    let host = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.-".contains(c);
    let name: String = host.chars().filter(|c| fits(*c)).take(64).collect();
    // A host may be called 3f2a91, as in a container; a node may not.
    Ok(if is_name(&name) { name } else { "bastion".to_owned() })
}

fn persons(plan: &Plan) -> Result<Vec<(String, PublicKey)>, InitError> {
    if plan.person.len() != plan.key.len() {
        return Err(InitError::Pairs { persons: plan.person.len(), keys: plan.key.len() });
    }
    let pair = |(name, file): (&String, &PathBuf)| {
        if !is_name(name) {
            return Err(InitError::Name { what: "person", name: name.clone() });
        }
        let text = std::fs::read_to_string(file).map_err(|source| InitError::Read { file: file.clone(), source })?;
        let key =
            parse_public_key(&text).map_err(|objection| InitError::PublicKey { file: file.clone(), objection })?;
        Ok((name.clone(), key))
    };
    plan.person.iter().zip(&plan.key).map(pair).collect()
}

fn make_dir(dir: &Path, mode: u32, may_exist: bool) -> Result<(), InitError> {
    let failed = |source| InitError::Directory { dir: dir.to_owned(), source };
    if may_exist && dir.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new().recursive(may_exist).mode(mode).create(dir).map_err(failed)?;
    // Exactly that mode, whatever the umask says.
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode)).map_err(failed)
}

fn make_key(file: &Path, comment: &str) -> Result<PrivateKey, InitError> {
    let failed = |error: russh::keys::ssh_key::Error| InitError::Key(error.to_string());
    let mut key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).map_err(failed)?;
    key.set_comment(comment);
    write_private(file, &key.to_openssh(LineEnding::LF).map_err(failed)?)?;
    let public = format!("{}\n", key.public_key().to_openssh().map_err(failed)?);
    create_new(&file.with_extension("pub"), public.as_bytes(), 0o644)?;
    Ok(key)
}

/// Makes the certificate of the PostgreSQL front door, and the authority that clients are to believe.
fn make_certificate(keys: &Path, node: &str, ip: IpAddr) -> Result<(), InitError> {
    let host = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    let mut names = vec!["localhost".to_owned(), node.to_owned(), host, "127.0.0.1".to_owned(), "::1".to_owned()];
    if !ip.is_unspecified() {
        names.push(ip.to_string());
    }
    // A name that no certificate could be for is none that anybody connects to.
    names.retain(|name| rustls::pki_types::ServerName::try_from(name.as_str()).is_ok());
    names.sort_unstable();
    names.dedup();
    let made = tls::generate(node, &names, SystemTime::now()).map_err(|error| InitError::Key(error.to_string()))?;
    write_private(&keys.join("pg_ca.key"), &made.ca_key_pem)?;
    write_private(&keys.join("pg_server.key"), &made.leaf.key_pem)?;
    create_new(&keys.join("pg_ca.crt"), made.ca_pem.as_bytes(), 0o644)?;
    create_new(&keys.join("pg_server.crt"), made.leaf.cert_pem.as_bytes(), 0o644)?;
    Ok(())
}

/// Now, to the second: a trust file is read by people.
fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs().saturating_mul(1_000_000))
}

fn config_text(
    node: &str,
    durability: &str,
    (listen, pg_listen): (SocketAddr, SocketAddr),
    identities: &[(&str, Identity)],
    persons: &[(String, PublicKey)],
) -> String {
    let mut text = format!(
        r#"# Casemate configuration, made by `casemate init`. All settings are explained in casemate.example.toml.
# After a change: casemate check --config FILE, then send SIGHUP to the daemon.

node = "{node}"
state_dir = "state"
node_key = "keys/node.key"
host_keys = ["keys/ssh_host_ed25519_key"]
host_ca = "keys/ssh_host_ca_ed25519_key"
# Whose orders count; put the organisation's own in its place.
trust = "trust.toml"

# strict: nothing goes on before it is on disk. causal: no input does. process: survives a killed process, not a power cut.
durability = "{durability}"

# Sessions are encrypted to the recipients below; the bastion cannot read them back. state_key opens only the control
# transcript, which a start needs.
encryption = "age"
state_key = "keys/state.agekey"

[listen]
ssh = ["{listen}"]
postgres = ["{pg_listen}"]

# The certificate of the PostgreSQL front door; clients believe keys/pg_ca.crt.
[postgres]
certificate = "keys/pg_server.crt"
key = "keys/pg_server.key"
authority = "keys/pg_ca.crt"

[vault]
dir = "vault"
# true sets the immutable attribute on finished recordings, where the system allows it.
immutable = false
retain = "400d"
"#
    );
    for (name, identity) in identities {
        let _ = write!(text, "\n[[recipient]]\nname = \"{name}\"\nkey = \"{}\"\n", identity.recipient());
    }
    for (name, key) in persons {
        // A key's comment is whatever somebody typed: quote it as TOML does.
        let line = toml::Value::String(key.to_openssh().unwrap_or_default());
        let _ = write!(text, "\n[[person]]\nname = \"{name}\"\nkeys = [{line}]\nduties = [\"admin\"]\n");
    }
    text
}

fn report(
    dir: &Path,
    (listen, pg_listen): (SocketAddr, SocketAddr),
    host_key: &PrivateKey,
    authority: &HostAuthority,
    target_key: &PrivateKey,
    node_key: &NodeKey,
    persons: &[(String, PublicKey)],
) -> String {
    let line = |key: &PrivateKey| key.public_key().to_openssh().unwrap_or_default();
    let config = quoted(&dir.join("casemate.toml"));
    let host = match listen.port() {
        22 => listen.ip().to_string(),
        port => format!("[{}]:{port}", listen.ip()),
    };
    let login = persons.first().map_or("PERSON", |(name, _)| name.as_str());
    let mut text = format!(
        "made in {dir}:\n  \
         casemate.toml                 the configuration\n  \
         keys/ssh_host_ed25519_key     what clients see, {fingerprint}\n  \
         keys/ssh_host_ca_ed25519_key  certifies the names of targets, for ssh -J\n  \
         keys/pg_ca.crt                for sslrootcert of PostgreSQL clients; its key signs keys/pg_server.crt\n  \
         keys/node.key                 signs the node log, {node}\n  \
         keys/target_ed25519_key       logs in to targets\n  \
         keys/state.agekey             reads the bastion's own control transcript, nothing else\n  \
         identities/                   auditor.agekey and spare.agekey: each reads every recording\n  \
         trust.toml                    self-asserted: fit for a demonstration, not for an audit\n  \
         state/  vault/                journal and log; finished recordings\n",
        dir = dir.display(),
        fingerprint = host_key.fingerprint(HashAlg::Sha256),
        node = node_key.public(),
    );
    let _ = write!(
        text,
        "\nnext:\n  1. let the bastion in at a target; append to ~/.ssh/authorized_keys of the login there:\n     {}\n",
        line(target_key)
    );
    if persons.is_empty() {
        text.push_str("  2. add people: a [[person]] with name, keys and duties each, in casemate.toml\n");
    } else {
        let names: Vec<&str> = persons.iter().map(|(name, _)| name.as_str()).collect();
        let _ = writeln!(text, "  2. people: {} can log in; add more in casemate.toml", names.join(", "));
    }
    let key = quoted(&dir.join("keys/target_ed25519_key"));
    let _ = write!(
        text,
        "  3. casemate target add --config {config} --name web1 --address HOST:22 --role LOGIN={key} --allow {login}\n  \
         4. casemate serve --config {config}\n     \
            it listens on {at}, and on {pg_listen} for PostgreSQL unless you take that out of [listen]\n  \
         5. for known_hosts; the second line stands for all targets, narrow the * to their names if you can:\n     \
            {host} {}\n     {}\n  \
         6. ssh -J {login}@{at} LOGIN@web1, or: ssh -p {port} {login}+web1@{ip}\n  \
         7. move {readers} off this machine: the auditor keeps one identity, the other goes somewhere safe.\n     \
            While they lie here, whoever owns this machine can read the recordings.\n",
        line(host_key),
        authority.known_hosts_line("*").unwrap_or_default(),
        at = listen,
        port = listen.port(),
        ip = listen.ip(),
        readers = quoted(&dir.join("identities")),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(dir: &Path) -> Plan {
        Plan {
            dir: dir.to_owned(),
            ssh_port: 2200,
            pg_port: 6400,
            listen: None,
            node: Some("node-7".to_owned()),
            durability: "process".to_owned(),
            person: Vec::new(),
            key: Vec::new(),
        }
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn what_is_made_passes_the_check_and_is_owner_only() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("deep/er");
        let made = init(&plan(&dir)).unwrap();
        let config = Config::load(&made.config).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((config.node.as_str(), config.durability.name()), ("node-7", "process"));
        assert_eq!(config.listen.ssh, ["127.0.0.1:2200".parse().unwrap()]);
        assert!(config.persons.is_empty());
        for name in ["ssh_host_ed25519_key", "target_ed25519_key", "node.key", "state.agekey"] {
            assert_eq!(mode(&dir.join("keys").join(name)), 0o600, "{name}");
        }
        let identities = ["auditor", "spare"].map(|name| {
            let file = dir.join("identities").join(name).with_extension("agekey");
            assert_eq!(mode(&file), 0o600, "{name}");
            Identity::parse_file(&std::fs::read_to_string(file).unwrap()).unwrap().remove(0).recipient()
        });
        assert_eq!(config.encryption.recipients(), identities);
        let state = std::fs::read_to_string(dir.join("keys/state.agekey")).unwrap();
        let state = Identity::parse_file(&state).unwrap().remove(0).recipient();
        assert_eq!(config.encryption.state_recipient(), Some(state));
        let trust = Trust::parse(&std::fs::read_to_string(dir.join("trust.toml")).unwrap()).unwrap();
        assert_eq!(trust.authority, casemate_certs::trust::Authority::Bastion);
        assert_eq!(trust.nodes[0].key, config.node_key.public());
        let listed: Vec<_> = trust.recipients.iter().map(|recipient| recipient.key.to_string()).collect();
        assert_eq!(listed, identities.map(|recipient| recipient.to_string()));
        // The log that the recorder writes knows the key by the same name and id.
        let line = std::fs::read_to_string(dir.join("keys/node.pub")).unwrap();
        let log_key: casemate_recorder::log::note::LogKey = line.trim_end().parse().unwrap();
        assert_eq!(log_key.id(), trust.nodes[0].key.id().to_be_bytes());
        assert_eq!(log_key.to_string(), trust.nodes[0].key.to_string());
        let host = std::fs::read_to_string(dir.join("keys/ssh_host_ed25519_key.pub")).unwrap();
        assert!(made.report.contains(host.trim_end()), "the line for known_hosts is shown");
        let line = config.host_ca.known_hosts_line("*").unwrap();
        assert!(made.report.contains(&line), "and the line for all targets: {line}");
        assert!(!made.report.contains("PRIVATE"));
    }

    #[test]
    fn nothing_is_overwritten() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("notes"), "mine").unwrap();
        init(&plan(home.path())).unwrap();
        let read = |name: &str| std::fs::read(home.path().join(name)).unwrap();
        let before = (read("casemate.toml"), read("keys/node.key"), read("trust.toml"));
        assert!(matches!(init(&plan(home.path())), Err(InitError::Exists(_))));
        assert_eq!(before, (read("casemate.toml"), read("keys/node.key"), read("trust.toml")));

        // Any one of them is enough to refuse, and then nothing new appears.
        for name in ["casemate.toml", "trust.toml", "keys", "state", "vault", "identities"] {
            let other = tempfile::tempdir().unwrap();
            std::os::unix::fs::symlink("nowhere", other.path().join(name)).unwrap();
            assert!(matches!(init(&plan(other.path())), Err(InitError::Exists(_))), "{name}");
            assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 1, "{name}");
        }
    }

    #[test]
    fn people_may_be_given_at_once() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("alice.pub");
        std::fs::write(&file, format!("{} \"quoted\" \\ comment\n", crate::testing::ALICE)).unwrap();
        let mut plan = plan(&home.path().join("d"));
        plan.person = vec!["alice".to_owned()];
        assert!(matches!(init(&plan), Err(InitError::Pairs { .. })));
        plan.key = vec![file.clone()];
        let config = Config::load(&init(&plan).unwrap().config).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config.persons[0].name, "alice");

        plan.dir = home.path().join("e");
        plan.person = vec!["Alice".to_owned()];
        assert!(matches!(init(&plan), Err(InitError::Name { .. })));
        plan.person = vec!["alice".to_owned()];
        std::fs::write(&file, "ssh-dss AAAA").unwrap();
        assert!(matches!(init(&plan), Err(InitError::PublicKey { .. })));
        assert!(!plan.dir.exists(), "nothing is made before everything is checked");
    }

    #[test]
    fn a_node_has_a_name_even_where_the_host_has_an_odd_one() {
        let mut plan = plan(Path::new("/nowhere"));
        plan.node = None;
        assert!(is_name(&node_name(&plan).unwrap()));
        plan.node = Some("Node 7".to_owned());
        assert!(node_name(&plan).is_err());
    }
}
