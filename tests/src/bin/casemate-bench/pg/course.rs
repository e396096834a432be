//! The ways to a database: straight, through bastions, and through pgbouncer in session mode. On every leg of each of them
//! TLS 1.3 with the same cipher, which is looked at before anything is measured.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use casemate_tests::pg_client::{Access, PgRoute};
use casemate_tests::pgbouncer::Pgbouncer;
use casemate_tests::postgres::{self, Guard, Postgres};
use casemate_tests::process::{Owned, cpu_seconds, nothing, run};
use casemate_tests::rig::{DATABASE, Lab, Options};
use casemate_tests::scrape::Scrape;
use casemate_tests::sshd::free_port;
use tempfile::TempDir;

use super::rows;
use crate::measures::PATIENCE;

/// What every client and server here prefers.
const CIPHER: &str = "TLS_AES_256_GCM_SHA384";

/// Lines for every server: connections that pgbouncer keeps for others count too, all that is asked for stays in memory, and
/// nothing is planned in one way now and in another then.
const SERVER: &str = "max_connections = 1000\nshared_buffers = 512MB\nmax_parallel_workers_per_gather = 0\njit = off";

/// Which rows of pgbench a server has: a million of accounts.
const SCALE: &str = "10";

/// A way to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    /// Through a bastion that records all results, as it does by default.
    Process,
    Causal,
    /// As `Process`, with results counted and hashed instead of recorded.
    ProcessHash,
    /// As `Causal`, likewise.
    CausalHash,
    Pgbouncer,
}

impl Way {
    /// All of them, in the order of the tables.
    pub(crate) const ALL: [Self; 6] =
        [Self::Direct, Self::Process, Self::Causal, Self::ProcessHash, Self::CausalHash, Self::Pgbouncer];

    /// The heading in the table, and the name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Process => "process",
            Self::Causal => "causal",
            Self::ProcessHash => "process-hash",
            Self::CausalHash => "causal-hash",
            Self::Pgbouncer => "pgbouncer",
        }
    }

    /// Whether that way is told from another by what is recorded of results, and by nothing else.
    pub(crate) fn is_hash(self) -> bool {
        matches!(self, Self::ProcessHash | Self::CausalHash)
    }

    /// The durability of the bastion on that way, where there is one.
    fn durability(self) -> Option<&'static str> {
        match self {
            Self::Process | Self::ProcessHash => Some("process"),
            Self::Causal | Self::CausalHash => Some("causal"),
            Self::Direct | Self::Pgbouncer => None,
        }
    }
}

/// A bastion and its own server.
struct Passage {
    way: Way,
    lab: Lab,
    /// The port of the bastion's figures.
    metrics: u16,
}

/// Servers and what stands before them, running. Each bastion has a server of its own, all alike; what is not asked idles.
pub(crate) struct Course {
    pgbouncer: Option<Pgbouncer>,
    passages: Vec<Passage>,
    /// The server of `Direct` and `Pgbouncer`.
    base: Guard,
    dir: TempDir,
}

impl Course {
    /// Starts what these ways need; it ends when the value is dropped.
    ///
    /// # Errors
    /// When something does not start, or a leg has another cipher than the others.
    pub(crate) fn start(ways: &[Way]) -> Result<Self> {
        let options = || postgres::Options { conf: SERVER.to_owned(), ..postgres::Options::default() };
        let dir = tempfile::Builder::new().prefix("casemate-").tempdir()?;
        let base = Guard(Postgres::start(&dir.path().join("postgres"), &options())?);
        base.sql("postgres", &format!("create database {DATABASE}"))?;
        let mut course = Self { pgbouncer: None, passages: Vec::new(), base, dir };
        for way in ways {
            if let Some(durability) = way.durability() {
                let metrics = free_port()?;
                let lab = Lab::with(&Options {
                    durability: Some(durability.to_owned()),
                    postgres: Some(options()),
                    results: way.is_hash().then(|| "hash".to_owned()),
                    settings: format!("listen.metrics = [\"127.0.0.1:{metrics}\"]").parse()?,
                    ..Options::default()
                })?;
                course.passages.push(Passage { way: *way, lab, metrics });
            }
        }
        if ways.contains(&Way::Pgbouncer) {
            let target = course.base.access(DATABASE);
            course.pgbouncer = Some(Pgbouncer::start(&course.dir.path().join("pgbouncer"), &target)?);
        }
        for way in ways {
            course.check_ciphers(*way).with_context(|| way.name())?;
        }
        Ok(course)
    }

    /// Looks at the leg that the client sees and the one that the server sees. With different ciphers nothing can be compared.
    fn check_ciphers(&self, way: Way) -> Result<()> {
        let server = "select version, cipher from pg_stat_ssl where pid = pg_backend_pid()";
        for asked in ["\\conninfo", server] {
            let mut psql = self.program(way, "psql")?;
            let said = run(psql.args(["-XAtc", asked]), nothing(), PATIENCE)?.ok()?.out();
            ensure!(said.contains("TLSv1.3") && said.contains(CIPHER), "{asked}: {said}");
        }
        Ok(())
    }

    /// Gives every server what `pgbench -S` looks up.
    pub(crate) fn fill_accounts(&self) -> Result<()> {
        for server in self.servers()? {
            let mut init = server.access(DATABASE).program("pgbench", self.dir.path())?;
            run(init.args(["-iq", "-s", SCALE]), nothing(), PATIENCE)?.ok()?;
        }
        Ok(())
    }

    /// Gives every server the rows that [`rows`] speaks of.
    pub(crate) fn fill_rows(&self) -> Result<()> {
        for server in self.servers()? {
            server.sql(DATABASE, &rows::table())?;
        }
        Ok(())
    }

    fn servers(&self) -> Result<Vec<&Postgres>> {
        let behind: Result<Vec<_>> = self.passages.iter().map(|passage| passage.lab.postgres()).collect();
        Ok(std::iter::once(&*self.base).chain(behind?).collect())
    }

    /// Returns what a client needs to go that way.
    ///
    /// # Errors
    /// The course was started without that way.
    pub(crate) fn access(&self, way: Way) -> Result<Access> {
        match way {
            Way::Direct => Ok(self.base.access(DATABASE)),
            Way::Pgbouncer => Ok(self.pgbouncer.as_ref().context("no pgbouncer was started")?.access()),
            _ => self.passage(way)?.lab.pg_access(PgRoute::Through),
        }
    }

    /// Returns a client program that goes that way.
    ///
    /// # Errors
    /// As [`Course::access`].
    pub(crate) fn program(&self, way: Way, name: &str) -> Result<std::process::Command> {
        self.access(way)?.program(name, self.dir.path())
    }

    /// Returns what stands between client and server on that way.
    pub(crate) fn between(&self, way: Way) -> Option<Owned> {
        match way {
            Way::Pgbouncer => self.pgbouncer.as_ref().map(|bouncer| bouncer.process),
            _ => self.passage(way).ok().map(|passage| passage.lab.bastion.process),
        }
    }

    /// CPU seconds that it used so far.
    pub(crate) fn cpu(&self, way: Way) -> f64 {
        self.between(way).map_or(0.0, |process| cpu_seconds(process.pid))
    }

    /// How many commits of its journal the bastion on that way made so far.
    ///
    /// # Errors
    /// There is no bastion on that way, or it says nothing.
    pub(crate) fn commits(&self, way: Way) -> Result<f64> {
        Scrape::of(self.passage(way)?.metrics)?.value("casemate_commit_duration_seconds_count")
    }

    /// Returns where the bastion on that way keeps its journal.
    ///
    /// # Errors
    /// There is no bastion on that way.
    pub(crate) fn state(&self, way: Way) -> Result<PathBuf> {
        Ok(self.passage(way)?.lab.bastion.dir.join("state"))
    }

    fn passage(&self, way: Way) -> Result<&Passage> {
        let found = self.passages.iter().find(|passage| passage.way == way);
        found.with_context(|| format!("no bastion on the way {}", way.name()))
    }
}
