//! Stock clients: `ssh` and its relatives, with a configuration of their own and nothing of the person's.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

/// Which way a command goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Straight at the target.
    Straight,
    /// Through the bastion.
    Through,
    /// Through the bastion with `ssh -J`: the connection to the target is inside the one to the bastion.
    Inside,
    /// Through OpenSSH's own jump host, where the rig has one.
    Jump,
}

impl Route {
    /// The name of the route in the client's configuration.
    pub fn host(self) -> &'static str {
        match self {
            Self::Straight => "straight",
            Self::Through => "through",
            Self::Inside => "inside",
            Self::Jump => "jumped",
        }
    }
}

/// One entry of the client's configuration.
#[derive(Debug, Clone)]
pub struct Host {
    /// The name to type.
    pub name: String,
    /// The host that it stands for.
    pub host: String,
    /// The port there.
    pub port: u16,
    /// The login name.
    pub user: String,
    /// The private key.
    pub identity: PathBuf,
    /// The entry to jump through.
    pub jump: Option<String>,
    /// The line for `known_hosts`.
    pub known: String,
}

impl Host {
    /// Makes the entry of a server on 127.0.0.1 whose host key is pinned.
    pub fn local(name: &str, port: u16, user: &str, identity: &Path, host_key: &str) -> Self {
        Self {
            name: name.to_owned(),
            host: "127.0.0.1".to_owned(),
            port,
            user: user.to_owned(),
            identity: identity.to_owned(),
            jump: None,
            known: format!("[127.0.0.1]:{port} {host_key}"),
        }
    }
}

/// A directory with what a client needs: configuration, known hosts, identity.
#[derive(Debug, Clone)]
pub struct Client {
    /// The directory.
    pub dir: PathBuf,
}

impl Client {
    /// Writes the configuration for these hosts into `dir`.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write(dir: &Path, hosts: &[Host]) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let client = Self { dir: dir.to_owned() };
        let mut config = String::new();
        let mut known = String::new();
        for host in hosts {
            known += &format!("{}\n", host.known);
            config += &format!(
                "Host {}\n  HostName {}\n  Port {}\n  User {}\n  IdentityFile \"{}\"\n",
                host.name,
                host.host,
                host.port,
                host.user,
                host.identity.display()
            );
            if let Some(jump) = &host.jump {
                config += &format!("  ProxyJump {jump}\n");
            }
        }
        config += &format!(
            "Host *\n  UserKnownHostsFile \"{}\"\n  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  \
             IdentitiesOnly yes\n  IdentityAgent none\n  BatchMode yes\n  LogLevel ERROR\n  ForwardAgent no\n  \
             ControlPath none\n  ConnectTimeout 30\n",
            client.known_hosts().display()
        );
        fs::write(client.known_hosts(), known)?;
        fs::write(client.config(), config)?;
        Ok(client)
    }

    /// Returns the path of the known_hosts file.
    pub fn known_hosts(&self) -> PathBuf {
        self.dir.join("known_hosts")
    }

    /// Returns the path of the client's configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.join("ssh_config")
    }

    /// Returns one of `ssh`, `sftp`, `scp` with our configuration, before any other argument.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.arg("-F").arg(self.config());
        // Neither an agent nor a prompt of the person's may take part.
        command.env_remove("SSH_AUTH_SOCK").env_remove("SSH_ASKPASS").env_remove("DISPLAY");
        command
    }

    /// Returns `ssh` with options, aimed along a route; the caller adds the remote command.
    pub fn ssh(&self, route: Route, options: &[&str]) -> Command {
        self.ssh_to(route.host(), options)
    }

    /// Returns `ssh` with options, aimed at an entry of the configuration.
    pub fn ssh_to(&self, host: &str, options: &[&str]) -> Command {
        let mut command = self.program("ssh");
        command.args(options).arg(host);
        command
    }
}

/// Tells whether an SSH server greets on that port of 127.0.0.1 within a second.
pub fn greets(port: u16) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    let mut greeting = [0; 4];
    stream.set_read_timeout(Some(Duration::from_secs(1))).is_ok()
        && stream.read_exact(&mut greeting).is_ok()
        && &greeting == b"SSH-"
}
