//! A bastion of the tests' own: `casemate init`, a configuration, `casemate serve`, and the ways it can end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use toml::{Table, Value};

use crate::process::{Done, Owned, nothing, run, spawn_daemon, wait_until};
use crate::vault::Vault;
use crate::{bins, client, keys};

/// How long a bastion may take to answer before a test gives up; far above what is promised, which tests measure.
const PATIENCE: Duration = Duration::from_secs(15);

/// A bastion and the process it runs as. It goes on when the value is dropped. There is one value for each, which knows the process
/// that runs now: a copy would go on to name the one before.
#[derive(Debug)]
pub struct Bastion {
    /// Its directory: configuration, keys, state, vault, log.
    pub dir: PathBuf,
    /// The port of its SSH front door on 127.0.0.1.
    pub port: u16,
    /// The daemon itself.
    pub process: Owned,
}

impl Bastion {
    /// Lets `casemate init` make a node in `dir`, unless there is one, and returns the configuration it wrote.
    ///
    /// # Errors
    /// When `init` fails or its configuration is not TOML.
    pub fn init(dir: &Path) -> Result<Table> {
        let config = config_path(dir);
        if !config.is_file() {
            // The address is written over by whoever configures; `init` wants one.
            let mut init = casemate()?;
            init.arg("init").arg("--dir").arg(dir).args(["--listen", "127.0.0.1:2222"]);
            run(&mut init, nothing(), Duration::from_secs(30))?.ok().context("casemate init")?;
        }
        Ok(fs::read_to_string(&config).with_context(|| config.display().to_string())?.parse()?)
    }

    /// Writes a configuration into `dir`.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn configure(dir: &Path, config: &Table) -> Result<()> {
        Ok(fs::write(config_path(dir), toml::to_string(config)?)?)
    }

    /// Starts the daemon of `dir` and waits until it greets.
    ///
    /// # Errors
    /// When it ends instead, or does not greet in time; the error carries its log.
    pub fn serve(dir: &Path, port: u16) -> Result<Self> {
        let mut bastion = Self { dir: dir.to_owned(), port, process: Owned { pid: 0, start_ticks: 0 } };
        bastion.again()?;
        Ok(bastion)
    }

    /// Starts the daemon once more after it ended, on the same port, and returns how long it took to greet.
    ///
    /// # Errors
    /// As [`Bastion::serve`].
    pub fn again(&mut self) -> Result<Duration> {
        self.again_with(&[])
    }

    /// As [`Bastion::again`], with more in its environment.
    ///
    /// # Errors
    /// As [`Bastion::serve`].
    pub fn again_with(&mut self, env: &[(&str, &str)]) -> Result<Duration> {
        let start = Instant::now();
        let mut serve = casemate()?;
        serve.arg("serve").arg("--config").arg(self.config()).envs(env.iter().copied());
        self.process = spawn_daemon(&mut serve, &self.log_path())?;
        let (process, port) = (self.process, self.port);
        wait_until(PATIENCE, || !process.alive() || client::greets(port));
        let took = start.elapsed();
        if !process.alive() || !client::greets(port) {
            process.signal(Signal::KILL);
            bail!("the bastion does not greet: {}", self.log());
        }
        Ok(took)
    }

    /// Returns the path of the configuration.
    pub fn config(&self) -> PathBuf {
        config_path(&self.dir)
    }

    /// What the daemon wrote to its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("casemate.log")
    }

    /// Returns the vault, and the trust file that `init` wrote.
    pub fn vault(&self) -> Vault {
        Vault {
            dir: self.vault_dir(),
            trust: self.dir.join("trust.toml"),
            identity: self.dir.join("identities/auditor.agekey"),
            env: Vec::new(),
        }
    }

    /// The vault's directory as configured: a test may have put it elsewhere.
    fn vault_dir(&self) -> PathBuf {
        let config = fs::read_to_string(self.config()).ok().and_then(|text| text.parse::<Table>().ok());
        let named = config.as_ref().and_then(|config| config.get("vault")?.get("dir")?.as_str());
        self.dir.join(named.unwrap_or("vault"))
    }

    /// Returns the public host key of the front door.
    ///
    /// # Errors
    /// When the file is not where `init` puts it.
    pub fn host_key(&self) -> Result<String> {
        host_key(&self.dir)
    }

    /// Ends the daemon with `kill -9`.
    pub fn kill_nine(&self) {
        self.process.signal(Signal::KILL);
        self.process.wait_gone(Duration::from_secs(5));
    }

    /// Lets the daemon drain and end.
    pub fn stop(&self) {
        self.process.stop(Duration::from_secs(20));
    }

    /// Makes the daemon read its configuration again.
    pub fn reload(&self) {
        self.process.signal(Signal::HUP);
    }

    /// Runs `casemate` with these arguments.
    ///
    /// # Errors
    /// When it is not built or does not end.
    pub fn casemate(args: &[&str]) -> Result<Done> {
        run(casemate()?.args(args), nothing(), Duration::from_secs(30))
    }
}

/// Returns the public host key of the bastion in `dir`.
///
/// # Errors
/// When the file is not where `init` puts it.
pub fn host_key(dir: &Path) -> Result<String> {
    keys::public_line(&dir.join("keys/ssh_host_ed25519_key"))
}

/// Returns the line for `known_hosts` that stands for all targets of the bastion in `dir`.
///
/// # Errors
/// When the file is not where `init` puts it.
pub fn authority_line(dir: &Path) -> Result<String> {
    Ok(format!("@cert-authority * {}", keys::public_line(&dir.join("keys/ssh_host_ca_ed25519_key"))?))
}

fn casemate() -> Result<Command> {
    Ok(Command::new(bins::path("casemate")?))
}

fn config_path(dir: &Path) -> PathBuf {
    dir.join("casemate.toml")
}

/// Makes a table, for configurations written in code.
pub fn table<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Table(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// Makes a list of strings.
pub fn list<const N: usize>(values: [&str; N]) -> Value {
    Value::Array(values.into_iter().map(Value::from).collect())
}
