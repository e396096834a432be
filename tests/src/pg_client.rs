//! Stock PostgreSQL clients: where they connect, as whom, and surroundings that hold nothing of the person's.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::process::find_program;

/// Which way a database client goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PgRoute {
    /// Straight at the target.
    #[default]
    Straight,
    /// Through the bastion's front door.
    Through,
}

impl PgRoute {
    /// All of them, the straight one first.
    pub const ALL: [Self; 2] = [Self::Straight, Self::Through];
}

/// What a client needs to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The host, or the directory of a Unix socket.
    pub host: String,
    /// The port, which is also part of a socket's name.
    pub port: u16,
    /// The login.
    pub user: String,
    /// The password or token.
    pub password: String,
    /// The database.
    pub database: String,
    /// Whom to trust; `None` where there is no TLS.
    pub ca: Option<PathBuf>,
}

impl Access {
    /// The same in another database.
    #[must_use]
    pub fn database(&self, name: &str) -> Self {
        Self { database: name.to_owned(), ..self.clone() }
    }

    /// Returns the environment that makes any client of libpq's connect there, and many others too.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        let (mode, ca) = match &self.ca {
            Some(ca) => ("verify-full", ca.display().to_string()),
            None => ("disable", String::new()),
        };
        vec![
            ("PGHOST", self.host.clone()),
            ("PGPORT", self.port.to_string()),
            ("PGUSER", self.user.clone()),
            ("PGPASSWORD", self.password.clone()),
            ("PGDATABASE", self.database.clone()),
            ("PGSSLMODE", mode.to_owned()),
            ("PGSSLROOTCERT", ca),
            ("PGGSSENCMODE", "disable".to_owned()),
            ("PGCONNECT_TIMEOUT", "20".to_owned()),
        ]
    }

    /// Puts a program into surroundings where it connects there, with `home` as its home.
    pub fn surround(&self, command: &mut Command, home: &Path) {
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("PG")) {
                command.env_remove(name);
            }
        }
        command.env("HOME", home).env("LC_ALL", "C.UTF-8").env("TZ", "UTC").envs(self.env());
    }

    /// Returns a program that connects there.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn program(&self, name: &str, home: &Path) -> Result<Command> {
        let mut command = Command::new(find_program(name)?);
        self.surround(&mut command, home);
        Ok(command)
    }
}
