//! A throwaway ministack on loopback: a small S3 of one process that starts at once.
//!
//! It verifies `x-amz-checksum-*`, `Content-MD5` and the trailers of chunked uploads, and refuses a second `If-None-Match: *`, all as
//! Amazon does. It checks neither signatures nor policies, takes retention dates that have passed, and loses the lock of multipart uploads.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use aws_sdk_s3::Client;
use rustix::process::Signal;

use super::Login;
use crate::bins;
use crate::process::{Owned, spawn_daemon, wait_until};
use crate::sshd::free_port;

/// How long it may take to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server. It goes on when the value is dropped; see [`Ministack::stop`] and [`Guard`].
#[derive(Debug, Clone)]
pub struct Ministack {
    /// Its directory: the log, and what it would put into the directory for temporary files.
    pub dir: PathBuf,
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// The process.
    pub process: Owned,
}

impl Ministack {
    /// Starts a server under `dir`. It keeps everything in memory.
    ///
    /// # Errors
    /// When it is not installed or does not come up; the error carries its log.
    pub fn start(dir: &Path) -> Result<Self> {
        let program = bins::tools()?.join("ministack/bin/ministack");
        ensure!(program.is_file(), "{} is missing: scripts/need ministack", program.display());
        fs::create_dir_all(dir)?;
        let (dir, port) = (dir.canonicalize()?, free_port()?);
        let mut serve = Command::new(program);
        serve.current_dir(&dir).env("TMPDIR", &dir).env("HOME", &dir).env("SERVICES", "s3");
        // Without a word about it, it listens on every interface.
        serve.env("BIND_HOST", "127.0.0.1").env("GATEWAY_PORT", port.to_string());
        serve.env("S3_DATA_DIR", dir.join("data")).env("S3_PERSIST", "0").env("PYTHONDONTWRITEBYTECODE", "1");
        let log = dir.join("ministack.log");
        let process = spawn_daemon(&mut serve, &log)?;
        let listens = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        if !wait_until(PATIENCE, || !process.alive() || listens()) || !process.alive() {
            process.signal(Signal::KILL);
            bail!("ministack does not come up: {}", fs::read_to_string(log).unwrap_or_default());
        }
        Ok(Self { dir, port, process })
    }

    /// Returns where it answers.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns a client. Any user will do: nobody's signature is checked.
    pub fn client(&self, user: &str) -> Client {
        super::client(&self.endpoint(), &Login::of(user), Duration::ZERO)
    }

    /// Ends the server, and with it all it held.
    pub fn stop(&self) {
        let children = self.process.descendants();
        self.process.stop(Duration::from_secs(5));
        for child in &children {
            child.signal(Signal::KILL);
        }
    }
}

/// A server that ends when the value is dropped, also by a test that fails.
#[derive(Debug)]
pub struct Guard(pub Ministack);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl std::ops::Deref for Guard {
    type Target = Ministack;

    fn deref(&self) -> &Ministack {
        &self.0
    }
}
