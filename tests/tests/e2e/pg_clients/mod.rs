//! The database clients: what one does straight at PostgreSQL it does through the bastion, with equal results.
//!
//! Each client runs the same action along both routes, each time in a database that was just made. Compared are what it wrote
//! to its streams, its exit status, every file it left and what it left in the database.

mod drivers;
mod dump;
mod pgbench;
mod psql;
mod unix_socket;

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use casemate_tests::pg_client::{Access, PgRoute};
use casemate_tests::postgres::{self, Version};
use casemate_tests::process::{Done, run};
use casemate_tests::rig::{DATABASE, Lab, Options};

/// How long one run of a client may take; far above what any needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Returns the PostgreSQL that the tests are to have: `CASEMATE_POSTGRES=18`, or the machine's own.
pub(crate) fn version() -> Version {
    std::env::var("CASEMATE_POSTGRES").map_or_else(|_| Version::default(), |name| name.parse().unwrap())
}

/// Returns a rig that has a database target.
pub(crate) fn lab() -> Lab {
    lab_with("")
}

/// The same, with lines for the target's configuration.
pub(crate) fn lab_with(conf: &str) -> Lab {
    Lab::with(&Options { postgres: Some(target(conf)), ..Options::default() }).unwrap()
}

/// Returns what a database target is to be, with lines for its configuration.
pub(crate) fn target(conf: &str) -> postgres::Options {
    postgres::Options { version: version(), conf: conf.to_owned(), ..postgres::Options::default() }
}

/// What a client left behind, by what it is.
type Outcome = BTreeMap<String, String>;

/// Lets a client act along every route and checks that nothing differs.
fn compare(lab: &Lab, name: &str, action: impl Fn(&Way<'_>)) {
    let mut outcomes = PgRoute::ALL.map(|route| {
        let way = Way::new(lab, route);
        action(&way);
        (route, way.outcome())
    });
    let (_, straight) = std::mem::take(&mut outcomes[0]);
    assert!(!straight.is_empty(), "{name} compared nothing");
    for (route, other) in &outcomes[1..] {
        let keys: std::collections::BTreeSet<&String> = straight.keys().chain(other.keys()).collect();
        let different: Vec<String> = keys
            .into_iter()
            .filter(|key| straight.get(*key) != other.get(*key))
            .map(|key| format!("{key}:\n  straight {:?}\n  {route:?} {:?}", straight.get(key), other.get(key)))
            .collect();
        assert!(different.is_empty(), "{name} can tell the bastion from the target:\n{}", different.join("\n"));
    }
}

/// One route, and what a client needs to go along it.
struct Way<'l> {
    lab: &'l Lab,
    route: PgRoute,
    access: Access,
    /// The client's directory and home: empty, and the same for both routes.
    work: PathBuf,
    outcome: Mutex<Outcome>,
}

impl<'l> Way<'l> {
    fn new(lab: &'l Lab, route: PgRoute) -> Self {
        let target = lab.postgres().unwrap();
        target.sql("postgres", &format!("drop database if exists {DATABASE} with (force)")).unwrap();
        target.sql("postgres", &format!("create database {DATABASE}")).unwrap();
        let work = lab.dir.join("pg_work");
        let _ = fs::remove_dir_all(&work);
        fs::create_dir_all(&work).unwrap();
        Self { lab, route, access: lab.pg_access(route).unwrap(), work, outcome: Mutex::default() }
    }

    /// Returns a program that connects along this way.
    fn program(&self, name: &str) -> Command {
        let mut command = self.access.program(name, &self.work).unwrap();
        command.current_dir(&self.work);
        command
    }

    /// Writes a file into the client's directory and returns its path.
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.work.join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Runs SQL at the target itself, whatever the route.
    fn sql(&self, sql: &str) -> String {
        self.lab.postgres().unwrap().sql(DATABASE, sql).unwrap()
    }

    /// Runs a program and keeps what it wrote and how it ended for the comparison. It has to end with `code`.
    fn run(&self, what: &str, command: &mut Command, input: &[u8], code: i32) -> Done {
        let done = run(command, Cursor::new(input.to_vec()), PATIENCE).unwrap();
        assert_eq!(done.code(), code, "{what}, {:?}: {}\n{}", self.route, done.out(), done.err());
        self.note(&format!("{what}: standard output"), &self.mask(&done.out()));
        self.note(&format!("{what}: standard error"), &self.mask(&done.err()));
        done
    }

    /// Keeps something for the comparison.
    fn note(&self, what: &str, value: &str) {
        let before = self.outcome.lock().unwrap().insert(what.to_owned(), value.to_owned());
        assert!(before.is_none(), "{what} is noted twice");
    }

    /// Takes out of a text what has to differ: where the server is, who logs in, and numbers that the server counts on.
    fn mask(&self, text: &str) -> String {
        let lines = text.lines().map(|line| {
            let counted =
                ["process with PID ", "lo_import ", "lo_unlink "].into_iter().find_map(|word| line.split_once(word));
            let line = counted.map_or(line, |(before, _)| before);
            let line = line.replace(&format!("\"{}\"", self.access.user), "\"USER\"");
            line.replace(&format!("\"{}\"", self.access.port), "\"PORT\"")
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Everything that was kept, and every file that is left.
    fn outcome(self) -> Outcome {
        let mut outcome = self.outcome.into_inner().unwrap();
        for entry in fs::read_dir(&self.work).unwrap() {
            let path = entry.unwrap().path();
            let content = fs::read(&path).unwrap_or_default();
            outcome.insert(format!("file {}", name(&path)), blake3::hash(&content).to_string());
        }
        outcome
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}
