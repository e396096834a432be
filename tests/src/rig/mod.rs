//! The rig: throwaway targets and a bastion before them, on loopback and free ports, under one directory.
//!
//! `make rig` leaves it running for a person or a script; the tests start one each and end it when they are done.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;
use tempfile::TempDir;
use toml::Table;

use crate::bastion::{self, Bastion};
use crate::client::{Client, Host, Route};
use crate::postgres::{self, Postgres};
use crate::process::{Done, Owned, run};
use crate::s3::ceph::Ceph;
use crate::sshd::{Sshd, current_user, free_port};
use crate::vault::Vault;
use crate::{bins, keys};

mod bucket;
mod config;
mod database;

pub use bucket::BUCKET;
use config::{Ports, Targets};

/// The person of the rig, and the target's name.
const PERSON: &str = "alice";
const TARGET: &str = "web1";

/// The database target's name, and its database's.
pub const DATABASE: &str = "orders";

/// The client's name for the bastion itself.
pub const PORTAL: &str = "portal";

/// What a rig can be told.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The durability to write into the configuration; the product's default when `None`.
    pub durability: Option<String>,
    /// What the access line says about the content of files; the product's default when `None`.
    pub content: Option<String>,
    /// What the access line lets forward; nothing when empty.
    pub forward: Vec<String>,
    /// The PostgreSQL to have as a second target; none when `None`.
    pub postgres: Option<postgres::Options>,
    /// What is recorded of its results; the product's default when `None`.
    pub results: Option<String>,
    /// Whether a tunnel to it asks for a token; the product's default when `None`.
    pub tunnel_token: Option<bool>,
    /// Whether recordings go on into a bucket with Object Lock.
    pub s3: bool,
    /// How long recordings are kept, such as `30d`; when `None` the product's default, and with a bucket a day.
    pub retain: Option<String>,
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
#[derive(Debug)]
pub struct Rig {
    /// Where everything lies.
    pub dir: PathBuf,
    /// The target.
    pub target: Sshd,
    /// The database target, where the rig has one.
    pub postgres: Option<Postgres>,
    /// The server with the bucket, where the rig has one.
    pub s3: Option<Ceph>,
    /// The bastion.
    pub bastion: Bastion,
    /// The client's side.
    pub client: Client,
    /// The port of the bastion's PostgreSQL front door.
    pub postgres_port: u16,
    /// The token in use, and the process that gave it: it keeps tokens in memory only.
    token: Arc<Mutex<Option<(Owned, String)>>>,
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
            && (running.bastion.process.alive()
                || running.target.process.alive()
                || running.postgres.as_ref().is_some_and(|postgres| postgres.process.alive())
                || running.s3.as_ref().is_some_and(Ceph::alive))
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
        let ports = Ports { ssh: port("bastion_port")?, postgres: port("bastion_postgres_port")? };
        let (postgres_port, target_port, s3_port) = (port("postgres_port")?, port("target_port")?, port("s3_port")?);
        let s3 = options.s3.then(|| bucket::start(&dir, s3_port)).transpose()?;
        let started = Self::start_beside(&dir, ports, (target_port, postgres_port), s3.as_ref(), options);
        let (target, postgres, bastion, client) = match (started, &s3) {
            (Ok(parts), _) => parts,
            (Err(error), s3) => {
                if let Some(s3) = s3 {
                    s3.stop();
                }
                return Err(error);
            }
        };
        let token = Arc::default();
        let rig = Self { dir, target, postgres, s3, bastion, client, postgres_port: ports.postgres, token };
        if let Err(error) = rig.remember() {
            rig.stop();
            return Err(error);
        }
        Ok(rig)
    }

    /// Starts the targets, which listen on those two ports, and the bastion.
    fn start_beside(
        dir: &Path,
        ports: Ports,
        (target_port, postgres_port): (u16, u16),
        s3: Option<&Ceph>,
        options: &Options,
    ) -> Result<(Sshd, Option<Postgres>, Bastion, Client)> {
        let target = Sshd::start(&dir.join("target"), Some(target_port), &options.sshd)?;
        let postgres =
            options.postgres.as_ref().map(|options| database::start(dir, postgres_port, options)).transpose();
        let started = postgres.and_then(|postgres| {
            let targets = Targets { ssh: &target, postgres: postgres.as_ref(), s3 };
            let started = Self::start_bastion(dir, ports, targets, options);
            if let (Err(_), Some(postgres)) = (&started, &postgres) {
                postgres.stop();
            }
            started.map(|(bastion, client)| (postgres, bastion, client))
        });
        match started {
            Ok((postgres, bastion, client)) => Ok((target, postgres, bastion, client)),
            Err(error) => {
                target.stop();
                Err(error)
            }
        }
    }

    fn start_bastion(dir: &Path, ports: Ports, targets: Targets<'_>, options: &Options) -> Result<(Bastion, Client)> {
        let target = targets.ssh;
        let port = ports.ssh;
        let at = dir.join("bastion");
        let identity = dir.join("client").join(PERSON);
        fs::create_dir_all(dir.join("client"))?;
        let public = keys::make(&identity, "ed25519")?;
        let init = Bastion::init(&at)?;
        if let Some(postgres) = targets.postgres {
            database::keep_secret(&at, &postgres.access(DATABASE).password)?;
        }
        let config = config::configuration(&at, init, ports, &public, targets, options)?;
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
        let text = |name: &str| memory.0.get(name).and_then(|text| text.as_str());
        let user = text("target_user").context("no target_user")?;
        let postgres = match text("postgres_version") {
            Some(version) => Some(Postgres {
                dir: dir.join("postgres"),
                port: port("postgres_port")?,
                version: version.parse()?,
                process: process("postgres")?,
            }),
            None => None,
        };
        let parts = memory.0.get("s3").and_then(serde_json::Value::as_array);
        let s3 =
            parts.map(|parts| Ok::<_, anyhow::Error>(Ceph::again(dir.join("s3"), port("s3_port")?, owned(parts)?)));
        Ok(Self {
            s3: s3.transpose()?,
            dir: dir.to_owned(),
            target: Sshd::again(dir.join("target"), port("target_port")?, user.to_owned(), process("target")?),
            postgres,
            bastion: Bastion { dir: dir.join("bastion"), port: port("bastion_port")?, process: process("bastion")? },
            client: Client { dir: dir.join("client") },
            postgres_port: port("bastion_postgres_port").unwrap_or_default(),
            token: Arc::default(),
        })
    }

    fn remember(&self) -> Result<()> {
        let mut memory = json!({
            "target_port": self.target.port,
            "target_user": self.target.user,
            "target_pid": self.target.process.pid,
            "target_start": self.target.process.start_ticks,
            "bastion_port": self.bastion.port,
            "bastion_pid": self.bastion.process.pid,
            "bastion_start": self.bastion.process.start_ticks,
            "bastion_postgres_port": self.postgres_port,
        });
        if let (Some(postgres), Some(memory)) = (&self.postgres, memory.as_object_mut()) {
            for (name, value) in [
                ("postgres_port", json!(postgres.port)),
                ("postgres_version", json!(postgres.version.to_string())),
                ("postgres_pid", json!(postgres.process.pid)),
                ("postgres_start", json!(postgres.process.start_ticks)),
            ] {
                memory.insert(name.to_owned(), value);
            }
        }
        if let (Some(s3), Some(memory)) = (&self.s3, memory.as_object_mut()) {
            let parts: Vec<_> = s3.processes.iter().map(|process| json!([process.pid, process.start_ticks])).collect();
            memory.insert("s3_port".to_owned(), json!(s3.port));
            memory.insert("s3".to_owned(), json!(parts));
        }
        Ok(fs::write(self.dir.join("rig.json"), memory.to_string())?)
    }

    /// Ends what was started, and nothing else. The files stay.
    pub fn stop(&self) {
        // A person may have brought the bastion back by hand after a kill: that process is theirs, not ours.
        self.bastion.stop();
        self.target.stop();
        if let Some(postgres) = &self.postgres {
            postgres.stop();
        }
        if let Some(s3) = &self.s3 {
            s3.stop();
        }
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
        let mut lines = vec![
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
        if let Some(postgres) = &self.postgres {
            lines.extend(database::lines(self, postgres)?);
        }
        lines.extend(self.s3.iter().flat_map(bucket::lines));
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
        run(self.client.ssh(route, options).arg("--").arg(command), input, Duration::from_secs(120))
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

/// Reads processes back: id and start of each.
fn owned(parts: &[serde_json::Value]) -> Result<Vec<Owned>> {
    let part = |part: &serde_json::Value| {
        let (pid, start_ticks) = serde_json::from_value(part.clone())?;
        Ok(Owned { pid, start_ticks })
    };
    parts.iter().map(part).collect()
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
        Self::over(Self::place()?, options)
    }

    /// Returns a directory for a rig.
    ///
    /// # Errors
    /// When none can be made.
    pub fn place() -> Result<TempDir> {
        Ok(tempfile::Builder::new().prefix("casemate-").tempdir()?)
    }

    /// Starts a rig over what lies in such a directory already.
    ///
    /// # Errors
    /// As [`Rig::start`].
    pub fn over(dir: TempDir, options: &Options) -> Result<Self> {
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
    use std::process::Command;

    use super::*;

    #[test]
    fn a_quoted_value_survives_the_shell() {
        for value in ["plain", "with space", "it's", "$(id)`id`\"\\", ""] {
            let script = format!("printf %s {}", shell_quote(value));
            let done = run(Command::new("sh").arg("-c").arg(script), std::io::empty(), Duration::from_secs(5));
            assert_eq!(done.unwrap().out(), value);
        }
    }
}
