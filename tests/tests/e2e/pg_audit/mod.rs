//! Audit truth: what the server itself wrote down that it was asked, the transcripts say too, in the same order, with the same
//! parameters. Four drivers, each on a connection of its own, side by side.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use casemate_tests::bins;
use casemate_tests::pg_client::{Access, PgRoute};
use casemate_tests::pg_log::{self, Logged};
use casemate_tests::postgres::LOG_EVERYTHING;
use casemate_tests::process::Spawned;
use casemate_tests::rig::Lab;
use casemate_tests::scale::pick;
use serde_json::Value;

use crate::pg_clients::{PATIENCE, lab_with};

/// Statements of each driver, about: some of its steps take several.
fn count() -> usize {
    pick(250, 2500)
}

const DRIVERS: [&str; 4] = ["asyncpg", "node-postgres", "psql", "psycopg"];

#[test]
fn the_server_s_own_log_holds_what_the_drivers_asked() {
    let lab = lab_with(LOG_EVERYTHING);
    work(&lab, PgRoute::Straight);
    let logged = logged(&lab);
    assert_eq!(logged.keys().copied().collect::<Vec<_>>(), DRIVERS);
    for (driver, statements) in &logged {
        assert!(statements.len() >= count(), "{driver}: {}", statements.len());
    }
    let all: Vec<&Logged> = logged.values().flatten().collect();
    assert!(all.iter().any(|statement| statement.sqlstate.as_deref() == Some("23505")));
    assert!(all.iter().any(|statement| statement.params.contains(&None)));
}

#[test]
fn every_statement_of_the_server_s_log_is_in_the_transcript() {
    let lab = lab_with(LOG_EVERYTHING);
    work(&lab, PgRoute::Through);
    let logged = logged(&lab);
    let told = told(&lab);
    assert_eq!(logged.keys().collect::<Vec<_>>(), told.keys().collect::<Vec<_>>());
    let mut compared = 0;
    for (driver, logged) in &logged {
        let told = &told[driver];
        for (at, statement) in logged.iter().enumerate() {
            assert_eq!(told.get(at), Some(statement), "{driver}: statement {at} of {}", logged.len());
        }
        // And nothing that the server knows nothing of.
        assert_eq!(told.len(), logged.len(), "{driver}: {:?}", told.get(logged.len()));
        compared += logged.len();
    }
    assert!(compared >= count() * DRIVERS.len(), "{compared} statements were compared");
}

/// What the transcripts say, by driver, in the words of the server's log.
fn told(lab: &Lab) -> BTreeMap<&'static str, Vec<Logged>> {
    let vault = lab.vault();
    vault.settle(DRIVERS.len(), PATIENCE).unwrap();
    let mut all = BTreeMap::new();
    for session in vault.of_kind("session").unwrap() {
        let done = vault.replay("show", &[session["session"].as_str().unwrap(), "--json"]).unwrap().ok().unwrap();
        let items = done.out();
        let items = items.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        // The server logs a simple query once, however many statements it has.
        let statements = items.filter(|item| item["sql"].is_string() && item["index"].as_u64().unwrap_or(0) == 0);
        let statements: Vec<Logged> = statements.map(|item| as_logged(&item)).collect();
        let name = statements.iter().find_map(|statement| driver(&statement.sql)).expect("a session of a driver's");
        assert!(all.insert(name, statements).is_none(), "{name} has two sessions");
    }
    all
}

fn as_logged(item: &Value) -> Logged {
    let params = item["params"].as_array().map(Vec::as_slice).unwrap_or_default();
    // Sent as text, a value is recorded as it was sent; the server logs what it made of it.
    let canonical = |value: &str| match value {
        "true" => "t".to_owned(),
        "false" => "f".to_owned(),
        other => other.to_owned(),
    };
    Logged {
        sql: item["sql"].as_str().unwrap().to_owned(),
        params: params.iter().map(|param| param.as_str().map(canonical)).collect(),
        sqlstate: item["sqlstate"].as_str().map(str::to_owned),
    }
}

/// Lets all drivers work along a route, side by side.
fn work(lab: &Lab, route: PgRoute) {
    let access = lab.pg_access(route).unwrap();
    let dir = lab.dir.join("pg_audit");
    std::fs::create_dir_all(&dir).unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(dir.join(name), text).unwrap();
        dir.join(name)
    };
    let place = |mut command: Command, access: &Access| {
        access.surround(&mut command, &dir);
        command
    };
    let script = |program: &str, name: &str, text: &str| {
        let mut command = place(Command::new(program), &access);
        command.arg(file(name, text)).arg(count().to_string());
        command
    };
    let mut node = script("node", "work.js", include_str!("work_pg.js"));
    node.env("NODE_PATH", bins::tools().unwrap().join("node_modules"));
    let mut psql = access.program("psql", &dir).unwrap();
    psql.args(["-Xqv", "ON_ERROR_STOP=0", "-f"]).arg(file("work.sql", &simple()));
    let commands = [
        script("/usr/bin/python3", "work_asyncpg.py", include_str!("work_asyncpg.py")),
        script("/usr/bin/python3", "work_psycopg.py", include_str!("work_psycopg.py")),
        node,
        psql,
    ];
    let start = |mut command: Command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Spawned::start(&mut command).unwrap()
    };
    for mut driver in commands.map(start) {
        assert!(driver.wait(PATIENCE * 5).unwrap().success(), "{route:?}");
    }
}

/// Simple queries of psql's.
fn simple() -> String {
    let mut script = "select 'driver psql';\ncreate temp table t (id int primary key, a text);\n".to_owned();
    for n in 0..count() {
        script += &match n % 4 {
            0 => format!("insert into t values ({n}, 'it''s \\ ünïcödé {n}');\n"),
            1 => format!("select a,\n  {n} -- a comment; with a semicolon\n  from t where id = {};\n", n - 1),
            2 => format!("insert into t values ({}, $q$there already; 'really'$q$);\n", n - 2),
            _ => format!("do $$ begin perform {n}; end $$;\n"),
        };
    }
    script
}

/// What the server logged, by driver.
fn logged(lab: &Lab) -> BTreeMap<&'static str, Vec<Logged>> {
    let target = lab.postgres().unwrap();
    // The collector writes behind the sessions; once they are over it has everything.
    target.stop();
    let sessions = pg_log::read(&target.json_log()).unwrap();
    let named = sessions.into_values().filter_map(|statements| {
        let name = statements.iter().find_map(|statement| driver(&statement.sql))?;
        Some((name, statements))
    });
    named.collect()
}

/// Returns the driver whose first statement this is.
fn driver(sql: &str) -> Option<&'static str> {
    let name = sql.trim_end_matches(';').strip_prefix("select 'driver ")?.strip_suffix('\'')?;
    DRIVERS.into_iter().find(|driver| *driver == name)
}
