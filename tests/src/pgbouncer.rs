//! pgbouncer in session mode, TLS 1.3 and SCRAM on both sides: what a proxy that records nothing costs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::pg_client::Access;
use crate::postgres::account;
use crate::process::{Owned, find_program, spawn_daemon, wait_until, write_private};
use crate::sshd::free_port;
use crate::x509::Authority;

/// A running pgbouncer; it ends when the value is dropped.
#[derive(Debug)]
pub struct Pgbouncer {
    /// The process.
    pub process: Owned,
    port: u16,
    ca: PathBuf,
    target: Access,
}

impl Pgbouncer {
    /// Starts one under `dir` that leads to a target.
    ///
    /// # Errors
    /// When it is not installed or does not listen within ten seconds.
    pub fn start(dir: &Path, target: &Access) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let (at, port) = (dir.display(), free_port()?);
        let authority = Authority::make(dir, "ca")?;
        let leaf = authority.server("server")?;
        let users = format!("\"{}\" \"{}\"\n", target.user, target.password);
        write_private(&dir.join("users"), users.as_bytes())?;
        let ca = target.ca.as_ref().map(|ca| ca.display().to_string()).unwrap_or_default();
        let config = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\npool_mode = session\nmax_client_conn = 1000\ndefault_pool_size = 250\n\
             auth_type = scram-sha-256\nauth_file = {at}/users\nlogfile = {at}/pgbouncer.log\npidfile =\n\
             log_connections = 0\nlog_disconnections = 0\nserver_idle_timeout = 0\n\
             client_tls_sslmode = require\nclient_tls_protocols = tlsv1.3\nserver_tls_protocols = tlsv1.3\n\
             client_tls_cert_file = {}\nclient_tls_key_file = {}\n\
             server_tls_sslmode = verify-full\nserver_tls_ca_file = {ca}\n",
            target.host,
            target.port,
            leaf.certificate.display(),
            leaf.key.display(),
        );
        fs::write(dir.join("pgbouncer.ini"), config)?;
        let mut words = account()?;
        words.push(find_program("pgbouncer")?.display().to_string());
        let mut command = Command::new(words.remove(0));
        command.args(words).arg("-q").arg(dir.join("pgbouncer.ini"));
        let process = spawn_daemon(&mut command, &dir.join("stderr.log"))?;
        let bouncer = Self { process, port, ca: authority.pem().to_owned(), target: target.clone() };
        let listens = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        let up = wait_until(Duration::from_secs(10), || !process.alive() || listens()) && process.alive();
        let log = || fs::read_to_string(dir.join("stderr.log")).unwrap_or_default();
        ensure!(up, "pgbouncer does not listen: {}", log());
        Ok(bouncer)
    }

    /// Returns what a client needs to go that way.
    pub fn access(&self) -> Access {
        Access { port: self.port, ca: Some(self.ca.clone()), ..self.target.clone() }
    }
}

impl Drop for Pgbouncer {
    fn drop(&mut self) {
        self.process.stop(Duration::from_secs(5));
    }
}
