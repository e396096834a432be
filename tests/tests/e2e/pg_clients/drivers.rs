//! Drivers of other languages: psycopg 3 (libpq) and asyncpg in Python, node-postgres.

use std::process::Command;

use casemate_tests::bins;

use super::{Way, compare, lab};

#[test]
fn psycopg_does_the_same_both_ways() {
    let done = python("psycopg", include_str!("use_psycopg.py"));
    for said in ["cancelled 57014 True", "notified to myself True", "two phases 0", "copied in 3000"] {
        assert!(done.contains(said), "{said}: {done}");
    }
}

#[test]
fn asyncpg_does_the_same_both_ways() {
    let done = python("asyncpg", include_str!("use_asyncpg.py"));
    for said in ["timed out\nalive 1", "cursor 500500", "COPY 2000", "pool 780"] {
        assert!(done.contains(said), "{said}: {done}");
    }
}

#[test]
fn node_postgres_does_the_same_both_ways() {
    let modules = bins::tools().unwrap().join("node_modules");
    assert!(modules.join("pg").is_dir(), "pg is not under {}: `make test` installs it", modules.display());
    let done = along_both("node-postgres", |way| {
        let mut node = way.program("node");
        node.env("NODE_PATH", &modules).arg(way.file("script.js", include_str!("use_pg.js")));
        node
    });
    for said in ["notified news hello true", "large 4000000", "in a transaction 42601\nand on 25P02", "pool 435"] {
        assert!(done.contains(said), "{said}: {done}");
    }
}

fn python(name: &str, script: &str) -> String {
    along_both(name, |way| {
        let mut python = Command::new("/usr/bin/python3");
        way.access.surround(&mut python, &way.work);
        python.arg(way.file("script.py", script));
        python
    })
}

/// Runs a script along both routes and returns what it printed, which was the same.
fn along_both(name: &str, command: impl Fn(&Way<'_>) -> Command) -> String {
    let lab = lab();
    let said = std::sync::Mutex::new(String::new());
    compare(&lab, name, |way| {
        let done = way.run(name, &mut command(way), b"", 0);
        assert_eq!(done.err(), "", "{:?}", way.route);
        way.note("things left", &way.sql("select count(*), max(id) from things"));
        *said.lock().unwrap() = done.out();
    });
    said.into_inner().unwrap()
}
