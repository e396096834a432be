//! The rig: a throwaway target and a bastion before it, on loopback and free ports, under one directory.
//!
//! `make rig` leaves it running for a person or a script; the tests start one each and end it when they are done.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tempfile::TempDir;
use toml::{Table, Value};

use crate::bastion::{self, Bastion, list, table};
use crate::client::{Client, Host, Route};
use crate::process::{Done, Owned, run};
use crate::sshd::{Sshd, current_user, free_port};
use crate::vault::Vault;
use crate::{bins, keys};

/// The person of the rig, and the target's name.
const PERSON: &str = "alice";
const TARGET: &str = "web1";

/// The client's name for the bastion itself.
pub const PORTAL: &str = "portal";

/// What a rig can be told.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The durability to write into the configuration; the product's default when `None`.
    pub durability: Option<String>,
    /// What the access line says about the content of files; the product's default when `None`.
    pub content: Option<String>,
    /// Whether recordings are written in the clear.
    pub clear: bool,
    /// More lines for the target's sshd.
    pub sshd: String,
    /// Entries for `[limits]`, over those that the rig sets.
    pub limits: Table,
    /// Whether clients may use MACs without encrypt-then-MAC.
    pub plain_macs: bool,
    /// More persons, targets and access lines, in the words of the configuration file.
    pub more: String,
    /// Other settings; tables are joined with those that the rig writes.
    pub settings: Table,
    /// Where state and vault lie; beside the bastion's configuration when `None`.
    pub disk: Option<PathBuf>,
}

/// A running rig. It goes on when the value is dropped; tests hold a [`Lab`] instead.
#[derive(Debug, Clone)]
pub struct Rig {
    /// Where everything lies.
    pub dir: PathBuf,
    /// The target.
    pub target: Sshd,
    /// The bastion.
    pub bastion: Bastion,
    /// The client's side.
    pub client: Client,
}

impl Rig {
    /// Starts a rig under `dir`, which may exist and hold other files. A rig that was stopped there starts again with
    /// the same keys, the same vault and, where they are free, the same ports.
    ///
    /// # Errors
    /// When one runs there already, or a part of it does not start; parts that did are stopped again.
    pub fn start(dir: &Path, options: &Options) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let dir = dir.canonicalize()?.join("rig");
        fs::create_dir_all(&dir)?;
        if let Ok(running) = Self::load_from(&dir)
            && (running.bastion.process.alive() || running.target.process.alive())
        {
            bail!("a rig runs there already; stop it first: make rig-stop DIR={}", parent(&dir).display());
        }
        let before = Memory::read(&dir);
        let port = |name: &str| -> Result<u16> {
            match before.as_ref().and_then(|memory| memory.port(name)) {
                Some(port) if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() => Ok(port),
                _ => free_port(),
            }
        };
        let target = Sshd::start(&dir.join("target"), Some(port("target_port")?), &options.sshd)?;
        let started = Self::start_bastion(&dir, port("bastion_port")?, &target, options);
        let (bastion, client) = match started {
            Ok(parts) => parts,
            Err(error) => {
                target.stop();
                return Err(error);
            }
        };
        let rig = Self { dir, target, bastion, client };
        if let Err(error) = rig.remember() {
            rig.stop();
            return Err(error);
        }
        Ok(rig)
    }

    fn start_bastion(dir: &Path, port: u16, target: &Sshd, options: &Options) -> Result<(Bastion, Client)> {
        let at = dir.join("bastion");
        let identity = dir.join("client").join(PERSON);
        fs::create_dir_all(dir.join("client"))?;
        let public = keys::make(&identity, "ed25519")?;
        let config = configuration(Bastion::init(&at)?, port, &public, target, options)?;
        Bastion::configure(&at, &config)?;
        for (name, mode) in [("state", 0o700), ("vault", 0o750)] {
            if let Some(disk) = &options.disk {
                fs::DirBuilder::new().recursive(true).mode(mode).create(disk.join(name))?;
            }
        }
        let host_key = bastion::host_key(&at)?;
        let portal = Host::local(PORTAL, port, PERSON, &identity, &host_key);
        let inside = Host {
            host: TARGET.to_owned(),
            jump: Some(PORTAL.to_owned()),
            known: bastion::authority_line(&at)?,
            ..Host::local(Route::Inside.host(), 22, &target.user, &identity, "")
        };
        let (straight, through) = (Route::Straight.host(), Route::Through.host());
        let client = Client::write(
            &dir.join("client"),
            &[
                Host::local(straight, target.port, &target.user, &target.identity(), &target.host_key()?),
                Host::local(through, port, &login(), &identity, &host_key),
                portal,
                inside,
            ],
        )?;
        Ok((Bastion::serve(&at, port)?, client))
    }

    /// Finds the rig again that was started under `dir`, whether it still runs or not.
    ///
    /// # Errors
    /// When none was.
    pub fn load(dir: &Path) -> Result<Self> {
        let dir = dir.canonicalize().with_context(|| dir.display().to_string())?.join("rig");
        Self::load_from(&dir).with_context(|| format!("no rig was started under {}", parent(&dir).display()))
    }

    fn load_from(dir: &Path) -> Result<Self> {
        let memory = Memory::read(dir).context("no memory of a rig")?;
        let process = |name: &str| -> Result<Owned> {
            let pid = memory.number(&format!("{name}_pid"))?;
            Ok(Owned { pid: u32::try_from(pid)?, start_ticks: memory.number(&format!("{name}_start"))? })
        };
        let port = |name: &str| memory.port(name).with_context(|| format!("no {name}"));
        let user = memory.0.get("target_user").and_then(|user| user.as_str()).context("no target_user")?;
        Ok(Self {
            dir: dir.to_owned(),
            target: Sshd::again(dir.join("target"), port("target_port")?, user.to_owned(), process("target")?),
            bastion: Bastion { dir: dir.join("bastion"), port: port("bastion_port")?, process: process("bastion")? },
            client: Client { dir: dir.join("client") },
        })
    }

    fn remember(&self) -> Result<()> {
        let memory = json!({
            "target_port": self.target.port,
            "target_user": self.target.user,
            "target_pid": self.target.process.pid,
            "target_start": self.target.process.start_ticks,
            "bastion_port": self.bastion.port,
            "bastion_pid": self.bastion.process.pid,
            "bastion_start": self.bastion.process.start_ticks,
        });
        Ok(fs::write(self.dir.join("rig.json"), memory.to_string())?)
    }

    /// Ends what was started, and nothing else. The files stay.
    pub fn stop(&self) {
        // A person may have brought the bastion back by hand after a kill: that process is theirs, not ours.
        self.bastion.stop();
        self.target.stop();
    }

    /// Returns the vault.
    pub fn vault(&self) -> Vault {
        self.bastion.vault()
    }

    /// Returns the lines for a shell to `eval`.
    ///
    /// # Errors
    /// When a program of ours is not built.
    pub fn lines(&self) -> Result<String> {
        let vault = self.vault();
        let path = |path: PathBuf| path.display().to_string();
        let lines = [
            ("SSH_HOST", "127.0.0.1".to_owned()),
            ("SSH_PORT", self.bastion.port.to_string()),
            ("SSH_USER", login()),
            ("SSH_IDENTITY", path(self.identity())),
            ("KNOWN_HOSTS", path(self.client.known_hosts())),
            ("TARGET_SSH_HOST", "127.0.0.1".to_owned()),
            ("TARGET_SSH_PORT", self.target.port.to_string()),
            ("TARGET_SSH_USER", self.target.user.clone()),
            ("TARGET_SSH_IDENTITY", path(self.target.identity())),
            ("BASTION_PID", self.bastion.process.pid.to_string()),
            ("VAULT", path(vault.dir)),
            ("TRUST", path(vault.trust)),
            ("IDENTITY", path(vault.identity)),
            ("REPLAY", path(bins::path("casemate-replay")?)),
            ("CASEMATE", path(bins::path("casemate")?)),
            ("CONFIG", path(self.bastion.config())),
        ];
        Ok(lines.iter().map(|(key, value)| format!("{key}={}\n", shell_quote(value))).collect())
    }

    /// Returns the private key of the rig's person.
    pub fn identity(&self) -> PathBuf {
        self.client.dir.join(PERSON)
    }

    /// Runs a remote command along a route.
    ///
    /// # Errors
    /// When it does not end within two minutes.
    pub fn exec(&self, route: Route, command: &str) -> Result<Done> {
        self.exec_with(route, &[], command, std::io::empty())
    }

    /// Runs a remote command along a route, with options for `ssh` and an input.
    ///
    /// # Errors
    /// When it does not end within two minutes.
    pub fn exec_with(
        &self,
        route: Route,
        options: &[&str],
        command: &str,
        input: impl std::io::Read + Send + 'static,
    ) -> Result<Done> {
        run(self.client.ssh(route, options).arg("--").arg(command), input, std::time::Duration::from_secs(120))
    }
}

/// Returns the lines of the configuration for one more person.
pub fn person(name: &str, keys: &[&str], duty: &str) -> String {
    format!("[[person]]\nname = {name:?}\nkeys = {keys:?}\nduties = [{duty:?}]\n")
}

/// Returns the line that lets a person reach the rig's target as the user who runs this.
///
/// # Errors
/// When `id` cannot tell who that is.
pub fn access(person: &str) -> Result<String> {
    let user = current_user()?;
    Ok(format!("[[access]]\nperson = {person:?}\ntargets = [{TARGET:?}]\nroles = [{user:?}]\nreason = \"tests\"\n"))
}

/// The login name that the rig's person types.
pub fn login() -> String {
    format!("{PERSON}+{TARGET}")
}

/// What was started, for whoever comes later.
struct Memory(serde_json::Value);

impl Memory {
    fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(dir.join("rig.json")).ok()?).ok().map(Self)
    }

    fn number(&self, name: &str) -> Result<u64> {
        self.0.get(name).and_then(serde_json::Value::as_u64).with_context(|| format!("no {name}"))
    }

    fn port(&self, name: &str) -> Option<u16> {
        self.number(name).ok().and_then(|port| u16::try_from(port).ok())
    }
}

/// Turns the configuration that `init` wrote into the rig's.
fn configuration(mut config: Table, port: u16, public: &str, target: &Sshd, options: &Options) -> Result<Table> {
    let listen = [("ssh", list([&format!("127.0.0.1:{port}")])), ("plain_macs", Value::from(options.plain_macs))];
    config.insert("listen".to_owned(), table(listen));
    if let Some(durability) = &options.durability {
        config.insert("durability".to_owned(), Value::from(durability.as_str()));
    }
    if options.clear {
        config.insert("encryption".to_owned(), Value::from("none"));
        config.remove("recipient");
    }
    if let Some(vault) = config.get_mut("vault").and_then(Value::as_table_mut) {
        vault.insert("immutable".to_owned(), Value::from(false));
    }
    if let Some(disk) = &options.disk {
        let place = |name: &str| Value::from(disk.join(name).display().to_string());
        config.insert("state_dir".to_owned(), place("state"));
        if let Some(vault) = config.get_mut("vault").and_then(Value::as_table_mut) {
            vault.insert("dir".to_owned(), place("vault"));
        }
    }
    // All connections of a rig come from one address and one person; the product's limits are for many of both.
    let mut limits = config.get("limits").and_then(Value::as_table).cloned().unwrap_or_default();
    for (name, value) in [
        ("preauth_per_source", Value::from(1000)),
        ("sessions", Value::from(2000)),
        ("sessions_per_person", Value::from(2000)),
        ("env", list(["LANG", "LC_*", "CASEMATE_*"])),
    ] {
        limits.insert(name.to_owned(), value);
    }
    limits.extend(options.limits.clone());
    config.insert("limits".to_owned(), Value::Table(limits));

    let user = target.user.as_str();
    let role =
        table([("login", Value::from(user)), ("key_file", Value::from(target.identity().display().to_string()))]);
    let mut access = vec![
        ("person", Value::from(PERSON)),
        ("targets", list([TARGET])),
        ("roles", list([user])),
        ("reason", Value::from("the rig")),
    ];
    access.extend(options.content.as_deref().map(|content| ("content", Value::from(content))));
    let access = access.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let lists = [
        ("person", table([("name", Value::from(PERSON)), ("keys", list([public])), ("duties", list(["admin"]))])),
        (
            "target",
            table([
                ("name", Value::from(TARGET)),
                ("address", Value::from(format!("127.0.0.1:{}", target.port))),
                ("kind", Value::from("ssh")),
                ("host_keys", list([&target.host_key()?])),
                ("role", Value::Array(vec![role])),
            ]),
        ),
        ("access", Value::Table(access)),
    ];
    let more: Table = options.more.parse()?;
    for (name, first) in lists {
        let mut all = vec![first];
        if let Some(added) = more.get(name) {
            all.extend(added.as_array().cloned().with_context(|| format!("[[{name}]] is a list"))?);
        }
        config.insert(name.to_owned(), Value::Array(all));
    }
    ensure!(more.keys().all(|key| ["person", "target", "access"].contains(&key.as_str())), "more: only lists");
    for (name, value) in &options.settings {
        match (config.get_mut(name), value) {
            (Some(Value::Table(known)), Value::Table(added)) => known.extend(added.clone()),
            _ => drop(config.insert(name.clone(), value.clone())),
        }
    }
    Ok(config)
}

fn parent(dir: &Path) -> &Path {
    dir.parent().unwrap_or(dir)
}

/// Quotes a value for a POSIX shell.
fn shell_quote(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

/// A rig for one test: in a directory of its own, gone when the value is dropped.
#[derive(Debug)]
pub struct Lab {
    /// The rig.
    pub rig: Rig,
    dir: Option<TempDir>,
}

impl Lab {
    /// Starts a rig as the product is by default.
    ///
    /// # Errors
    /// As [`Rig::start`].
    pub fn start() -> Result<Self> {
        Self::with(&Options::default())
    }

    /// Starts a rig with options.
    ///
    /// # Errors
    /// As [`Rig::start`].
    pub fn with(options: &Options) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("casemate-").tempdir()?;
        Ok(Self { rig: Rig::start(dir.path(), options)?, dir: Some(dir) })
    }
}

impl std::ops::Deref for Lab {
    type Target = Rig;

    fn deref(&self) -> &Rig {
        &self.rig
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.rig.stop();
        // A failed test leaves its evidence; one that fails by its result does so when CASEMATE_KEEP is set.
        if (std::thread::panicking() || std::env::var_os("CASEMATE_KEEP").is_some())
            && let Some(dir) = self.dir.take()
        {
            let _ = writeln_err(&format!("the rig of this test lies in {}", dir.keep().display()));
        }
    }
}

fn writeln_err(text: &str) -> std::io::Result<()> {
    use std::io::Write;
    writeln!(std::io::stderr(), "{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_value_survives_the_shell() {
        for value in ["plain", "with space", "it's", "$(id)`id`\"\\", ""] {
            let script = format!("printf %s {}", shell_quote(value));
            let done = run(
                std::process::Command::new("sh").arg("-c").arg(script),
                std::io::empty(),
                std::time::Duration::from_secs(5),
            );
            assert_eq!(done.unwrap().out(), value);
        }
    }
}
