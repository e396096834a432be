//! A throwaway OpenSSH server on loopback: the target, and in the benchmarks the jump host.
//!
//! It runs as whoever runs the tests, root or not, logs in that same user with a key of its own, and touches nothing
//! outside its directory.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::noise::{Noise, fresh_seed};
use crate::process::{Owned, find_program, nothing, run, spawn_daemon, wait_until};
use crate::{client, keys};

/// A running server. It goes on when the value is dropped; see [`Sshd::stop`].
#[derive(Debug, Clone)]
pub struct Sshd {
    /// Its directory: keys, configuration, log.
    pub dir: PathBuf,
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// The one login it accepts.
    pub user: String,
    /// The listening process.
    pub process: Owned,
}

impl Sshd {
    /// Starts a server under `dir`, on `port` or a free one, with more lines of configuration.
    ///
    /// # Errors
    /// When sshd is not installed, refuses its configuration or does not answer within ten seconds.
    pub fn start(dir: &Path, port: Option<u16>, extra: &str) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        let program = find_program("sshd")?;
        let user = current_user()?;
        // As root, sshd insists on its empty directory, which the package makes at boot only.
        if rustix::process::geteuid().is_root() {
            fs::create_dir_all("/run/sshd").context("sshd needs /run/sshd")?;
        }
        // Sessions get an empty home: what a person's shell does at its start is neither our business nor to be waited for.
        fs::create_dir_all(dir.join("home"))?;
        keys::make(&dir.join("host_ed25519"), "ed25519")?;
        let login = keys::make(&dir.join("login_ed25519"), "ed25519")?;
        fs::write(dir.join("authorized_keys"), format!("{login}\n"))?;
        let port = match port {
            Some(port) => port,
            None => free_port()?,
        };
        let config = dir.join("sshd_config");
        // Newer servers hold refused logins against the address they come from, and all of ours come from one.
        let lenient = format!("PerSourcePenalties no\n{extra}");
        fs::write(&config, render(&dir, port, &user, &lenient))?;
        let test =
            |path: &Path| run(Command::new(&program).arg("-t").arg("-f").arg(path), nothing(), Duration::from_secs(10));
        if !test(&config)?.status.success() {
            fs::write(&config, render(&dir, port, &user, extra))?;
            test(&config)?.ok().context("sshd refuses its configuration")?;
        }
        let log = dir.join("sshd.log");
        let process = spawn_daemon(Command::new(&program).arg("-D").arg("-f").arg(&config).arg("-e"), &log)?;
        let server = Self { dir, port, user, process };
        if !wait_until(Duration::from_secs(10), || !process.alive() || client::greets(port)) || !process.alive() {
            process.signal(Signal::KILL);
            bail!("sshd does not answer: {}", fs::read_to_string(log).unwrap_or_default());
        }
        Ok(server)
    }

    /// Finds a server again that was started before.
    pub fn again(dir: PathBuf, port: u16, user: String, process: Owned) -> Self {
        Self { dir, port, user, process }
    }

    /// Returns the private key that may log in.
    pub fn identity(&self) -> PathBuf {
        self.dir.join("login_ed25519")
    }

    /// Returns the server's public host key: type and key.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn host_key(&self) -> Result<String> {
        keys::public_line(&self.dir.join("host_ed25519"))
    }

    /// Ends the server and every session it carries.
    pub fn stop(&self) {
        let sessions = self.process.descendants();
        self.process.stop(Duration::from_secs(5));
        for session in &sessions {
            session.signal(Signal::KILL);
        }
    }
}

/// A server that ends when the value is dropped, also by a test that fails.
#[derive(Debug)]
pub struct Guard(pub Sshd);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn render(dir: &Path, port: u16, user: &str, extra: &str) -> String {
    let at = dir.display();
    // This one may be said only once.
    let subsystem = if extra.contains("Subsystem sftp ") { "" } else { "Subsystem sftp internal-sftp\n" };
    format!(
        "# Made by the rig. Lines added by a test come first: sshd takes the first value it meets.\n\
         {extra}\n\
         ListenAddress 127.0.0.1\n\
         Port {port}\n\
         HostKey \"{at}/host_ed25519\"\n\
         AuthorizedKeysFile \"{at}/authorized_keys\"\n\
         PidFile none\n\
         StrictModes no\n\
         UsePAM no\n\
         UseDNS no\n\
         PasswordAuthentication no\n\
         KbdInteractiveAuthentication no\n\
         PermitRootLogin yes\n\
         AllowUsers {user}\n\
         SetEnv \"HOME={at}/home\"\n\
         AcceptEnv LANG LC_* CASEMATE_*\n\
         AllowTcpForwarding yes\n\
         X11Forwarding no\n\
         PrintMotd no\n\
         PrintLastLog no\n\
         MaxStartups 1000\n\
         MaxSessions 100\n\
         MaxAuthTries 6\n\
         LogLevel VERBOSE\n\
         {subsystem}"
    )
}

/// Returns the name of the user who runs this.
///
/// # Errors
/// When `id` cannot tell.
pub fn current_user() -> Result<String> {
    let done = run(Command::new("id").arg("-un"), nothing(), Duration::from_secs(5))?.ok()?;
    let name = done.out().trim().to_owned();
    ensure!(!name.is_empty(), "the current user has no name");
    Ok(name)
}

/// Returns a port of 127.0.0.1 that nobody listens on.
///
/// It lies below the range that the kernel takes for outgoing connections, so that a daemon that was killed finds its
/// port free when it comes back.
///
/// # Errors
/// When no free one is found in a thousand tries.
pub fn free_port() -> Result<u16> {
    // Two that are asked for one after the other are both free until somebody listens.
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut noise = Noise::new(fresh_seed() ^ u64::from(std::process::id()));
    for _ in 0..1000 {
        let port = 10_000 + noise.below(22_000) as u16;
        if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            given.insert(port);
            return Ok(port);
        }
    }
    bail!("no free port on 127.0.0.1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Client, Host, Route};
    use crate::pty::Terminal;

    #[test]
    fn the_throwaway_server_serves_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let server = Sshd::start(&dir.path().join("target"), None, "ClientAliveInterval 9").unwrap();
        let host_key = server.host_key().unwrap();
        let host = Host::local(Route::Straight.host(), server.port, &server.user, &server.identity(), &host_key);
        let client = Client::write(&dir.path().join("client"), &[host]).unwrap();
        let patience = Duration::from_secs(20);
        let done = run(client.ssh(Route::Straight, &[]).arg("cat; exit 7"), &b"there and back"[..], patience).unwrap();
        assert_eq!((done.out().as_str(), done.err().as_str(), done.code()), ("there and back", "", 7));

        let mut terminal = Terminal::start(&client.ssh(Route::Straight, &["-tt"]), 90, 30).unwrap();
        terminal.type_in(b"echo size $(stty size)\r").unwrap();
        terminal.expect("size 30 90", patience).unwrap();
        terminal.resize(91, 31).unwrap();
        terminal.type_in(b"sleep 0.2; echo size $(stty size)\r").unwrap();
        terminal.expect("size 31 91", patience).unwrap();
        let sessions = server.process.descendants();
        assert!(!sessions.is_empty());
        server.stop();
        assert!(sessions.iter().chain([&server.process]).all(|process| process.wait_gone(patience)));
    }
}
