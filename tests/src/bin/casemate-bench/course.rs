//! The four ways to one target: straight, through a bastion of each durability, and through OpenSSH as jump host.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use casemate_tests::client::{Client, Host, Route};
use casemate_tests::process::cpu_seconds;
use casemate_tests::rig::{Lab, Options};
use casemate_tests::sshd::Sshd;

/// A way to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    Process,
    Causal,
    Jump,
}

impl Way {
    /// All ways, in the order of the table.
    pub(crate) const ALL: [Self; 4] = [Self::Direct, Self::Process, Self::Causal, Self::Jump];

    /// The heading in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Process => "process",
            Self::Causal => "causal",
            Self::Jump => "ssh -J",
        }
    }
}

/// Targets, bastions and a jump host, running.
pub(crate) struct Course {
    process: Lab,
    causal: Lab,
    jump: Sshd,
    jump_client: Client,
}

impl Course {
    /// Starts everything; it ends when the value is dropped.
    pub(crate) fn start() -> Result<Self> {
        let lab =
            |durability: &str| Lab::with(&Options { durability: Some(durability.to_owned()), ..Options::default() });
        let (process, causal) = (lab("process")?, lab("causal")?);
        let jump = Sshd::start(&process.dir.join("jump"), None, "")?;
        let host = |name: &str, server: &Sshd, jump: Option<&str>| -> Result<Host> {
            Ok(Host {
                name: name.to_owned(),
                port: server.port,
                user: server.user.clone(),
                identity: server.identity(),
                jump: jump.map(str::to_owned),
                host_key: server.host_key()?,
            })
        };
        let hosts = [host("jump", &jump, None)?, host(Route::Jump.host(), &process.target, Some("jump"))?];
        let jump_client = Client::write(&process.dir.join("jump_client"), &hosts)?;
        for client in [&process.client, &causal.client, &jump_client] {
            // The last block is `Host *`: these lines belong to it, and reach the jump's own hop as well.
            let mut config = OpenOptions::new().append(true).open(client.config())?;
            config.write_all(b"  Ciphers aes256-gcm@openssh.com\n  KexAlgorithms curve25519-sha256\n")?;
        }
        Ok(Self { process, causal, jump, jump_client })
    }

    /// Returns a client program with the configuration of that way, and the host name to give it.
    pub(crate) fn program(&self, way: Way, name: &str) -> (Command, &'static str) {
        match way {
            Way::Direct => (self.process.client.program(name), Route::Straight.host()),
            Way::Process => (self.process.client.program(name), Route::Through.host()),
            Way::Causal => (self.causal.client.program(name), Route::Through.host()),
            Way::Jump => (self.jump_client.program(name), Route::Jump.host()),
        }
    }

    /// Returns `ssh` along that way, ready for a remote command.
    pub(crate) fn ssh(&self, way: Way, options: &[&str]) -> Command {
        let (mut command, host) = self.program(way, "ssh");
        command.args(options).arg(host);
        command
    }

    /// CPU seconds used so far by what stands between client and target on that way.
    pub(crate) fn cpu(&self, way: Way) -> f64 {
        match way {
            Way::Direct => 0.0,
            Way::Process => cpu_seconds(self.process.bastion.process.pid),
            Way::Causal => cpu_seconds(self.causal.bastion.process.pid),
            // sshd works in children, which the listener collects when they end.
            Way::Jump => children_cpu_seconds(self.jump.process.pid).unwrap_or(0.0),
        }
    }

    /// Returns the lab of a way through a bastion.
    pub(crate) fn lab(&self, way: Way) -> Result<&Lab> {
        match way {
            Way::Process => Ok(&self.process),
            Way::Causal => Ok(&self.causal),
            Way::Direct | Way::Jump => None.context("no bastion on that way"),
        }
    }

    /// Returns a path for a file of the measure's own.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.process.dir.join(name)
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
