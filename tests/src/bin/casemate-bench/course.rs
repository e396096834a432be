//! The ways to a target: straight, through a bastion of each durability, in the clear too, and through OpenSSH as jump host.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use casemate_tests::client::{Client, Host, Route};
use casemate_tests::process::cpu_seconds;
use casemate_tests::rig::{Lab, Options};
use casemate_tests::sshd::Sshd;

/// How a bastion records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Process,
    Causal,
    Strict,
    /// As `Process`, in the clear.
    ProcessClear,
    /// As `Causal`, in the clear.
    CausalClear,
    /// As `Process`, with the content of files counted and hashed instead of recorded.
    ProcessHash,
    /// As `Causal`, likewise.
    CausalHash,
}

impl Mode {
    fn options(self) -> Options {
        let durability = match self {
            Self::Process | Self::ProcessClear | Self::ProcessHash => "process",
            Self::Causal | Self::CausalClear | Self::CausalHash => "causal",
            Self::Strict => "strict",
        };
        let clear = matches!(self, Self::ProcessClear | Self::CausalClear);
        let hash = matches!(self, Self::ProcessHash | Self::CausalHash);
        let content = hash.then(|| "hash".to_owned());
        // For the measure of many channels at once.
        let limits = [("channels".to_owned(), 100.into())].into_iter().collect();
        Options { durability: Some(durability.to_owned()), clear, content, limits, ..Options::default() }
    }
}

/// A way to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    Bastion(Mode),
    /// As `Bastion`, by `ssh -J`: one SSH connection inside another, both ended at the bastion.
    Inside(Mode),
    Jump,
}

impl Way {
    /// All ways, in the order of the table.
    pub(crate) const ALL: [Self; 11] = [
        Self::Direct,
        Self::Bastion(Mode::Process),
        Self::Bastion(Mode::Causal),
        Self::Bastion(Mode::Strict),
        Self::Bastion(Mode::ProcessClear),
        Self::Bastion(Mode::CausalClear),
        Self::Bastion(Mode::ProcessHash),
        Self::Bastion(Mode::CausalHash),
        Self::Inside(Mode::Process),
        Self::Inside(Mode::Causal),
        Self::Jump,
    ];

    /// The heading in the table, and the name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Bastion(Mode::Process) => "process",
            Self::Bastion(Mode::Causal) => "causal",
            Self::Bastion(Mode::Strict) => "strict",
            Self::Bastion(Mode::ProcessClear) => "process-clear",
            Self::Bastion(Mode::CausalClear) => "causal-clear",
            Self::Bastion(Mode::ProcessHash) => "process-hash",
            Self::Bastion(Mode::CausalHash) => "causal-hash",
            Self::Inside(Mode::Process) => "inside-process",
            Self::Inside(Mode::Causal) => "inside-causal",
            Self::Inside(Mode::Strict) => "inside-strict",
            Self::Inside(Mode::ProcessClear) => "inside-process-clear",
            Self::Inside(Mode::CausalClear) => "inside-causal-clear",
            Self::Inside(Mode::ProcessHash) => "inside-process-hash",
            Self::Inside(Mode::CausalHash) => "inside-causal-hash",
            Self::Jump => "jump",
        }
    }

    /// How the bastion on that way records, where there is one.
    fn mode(self) -> Option<Mode> {
        match self {
            Self::Bastion(mode) | Self::Inside(mode) => Some(mode),
            Self::Direct | Self::Jump => None,
        }
    }
}

/// Targets, bastions and a jump host, running.
pub(crate) struct Course {
    /// The target of `Direct` and `Jump`.
    base: Lab,
    labs: Vec<(Mode, Lab)>,
    jump: Sshd,
    jump_client: Client,
}

impl Course {
    /// Starts what these ways need; it ends when the value is dropped.
    pub(crate) fn start(ways: &[Way]) -> Result<Self> {
        let base = Lab::start()?;
        let mut labs: Vec<(Mode, Lab)> = Vec::new();
        for mode in ways.iter().filter_map(|way| way.mode()) {
            if labs.iter().all(|(known, _)| *known != mode) {
                labs.push((mode, Lab::with(&mode.options())?));
            }
        }
        let jump = Sshd::start(&base.dir.join("jump"), None, "")?;
        let host = |name: &str, server: &Sshd, jump: Option<&str>| -> Result<Host> {
            let host = Host::local(name, server.port, &server.user, &server.identity(), &server.host_key()?);
            Ok(Host { jump: jump.map(str::to_owned), ..host })
        };
        let hosts = [host("jump", &jump, None)?, host(Route::Jump.host(), &base.target, Some("jump"))?];
        let jump_client = Client::write(&base.dir.join("jump_client"), &hosts)?;
        for client in labs.iter().map(|(_, lab)| &lab.client).chain([&base.client, &jump_client]) {
            // The last block is `Host *`: these lines belong to it, and reach the jump's own hop as well.
            let mut config = OpenOptions::new().append(true).open(client.config())?;
            config.write_all(b"  Ciphers aes256-gcm@openssh.com\n  KexAlgorithms curve25519-sha256\n")?;
        }
        Ok(Self { base, labs, jump, jump_client })
    }

    /// Returns a client program with the configuration of that way, and the host name to give it.
    ///
    /// # Errors
    /// The course was started without that way.
    pub(crate) fn program(&self, way: Way, name: &str) -> Result<(Command, &'static str)> {
        Ok(match way {
            Way::Direct => (self.base.client.program(name), Route::Straight.host()),
            Way::Bastion(_) => (self.lab(way)?.client.program(name), Route::Through.host()),
            Way::Inside(_) => (self.lab(way)?.client.program(name), Route::Inside.host()),
            Way::Jump => (self.jump_client.program(name), Route::Jump.host()),
        })
    }

    /// Returns `ssh` along that way, ready for a remote command.
    ///
    /// # Errors
    /// The course was started without that way.
    pub(crate) fn ssh(&self, way: Way, options: &[&str]) -> Result<Command> {
        let (mut command, host) = self.program(way, "ssh")?;
        command.args(options).arg(host);
        Ok(command)
    }

    /// CPU seconds used so far by what stands between client and target on that way.
    pub(crate) fn cpu(&self, way: Way) -> f64 {
        match way {
            Way::Direct => 0.0,
            Way::Bastion(_) | Way::Inside(_) => self.lab(way).map_or(0.0, |lab| cpu_seconds(lab.bastion.process.pid)),
            // sshd works in children, which the listener collects when they end.
            Way::Jump => children_cpu_seconds(self.jump.process.pid).unwrap_or(0.0),
        }
    }

    /// Returns the lab of a way through a bastion.
    ///
    /// # Errors
    /// There is no bastion on that way.
    pub(crate) fn lab(&self, way: Way) -> Result<&Lab> {
        let found = self.labs.iter().find(|(mode, _)| way.mode() == Some(*mode));
        found.map(|(_, lab)| lab).with_context(|| format!("no bastion on the way {}", way.name()))
    }

    /// Returns a path for a file of the measure's own.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.base.dir.join(name)
    }

    /// The jump host's listener.
    pub(crate) fn jump(&self) -> &Sshd {
        &self.jump
    }
}

impl Drop for Course {
    fn drop(&mut self) {
        self.jump.stop();
    }
}

fn children_cpu_seconds(pid: u32) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    Some((ticks(13)? + ticks(14)?) / 100.0)
}
