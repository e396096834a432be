//! The catalogue of a real bastion, asked by DuckDB with the queries that the documentation has.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use casemate_tests::bins;
use casemate_tests::client::Route;
use casemate_tests::process::{run, wait_until};
use casemate_tests::rig::{Lab, Options};
use serde_json::Value;

use super::closed_sessions;

/// Runs statements, each in turn, and prints the rows of each as one line of JSON.
const ASK: &str = r#"
import duckdb, json, sys
db = duckdb.connect()
for statement in json.load(sys.stdin):
    found = db.execute(statement)
    names = [column[0] for column in found.description or []]
    print(json.dumps([dict(zip(names, map(lambda v: v if v is None or isinstance(v, (int, str)) else str(v), row)))
                      for row in found.fetchall()]))
"#;

/// Everything that the document says in SQL.
fn documented() -> Vec<String> {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/catalogue.md");
    let text = fs::read_to_string(document).unwrap();
    let blocks = text.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
    blocks.collect()
}

fn ask(vault: &Path, statements: &[String]) -> Vec<Vec<Value>> {
    let python = bins::tools().unwrap().join("duckdb/bin/python");
    assert!(python.is_file(), "{} is missing: scripts/need duckdb", python.display());
    let input = Cursor::new(serde_json::to_vec(statements).unwrap());
    let mut command = Command::new(python);
    command.args(["-c", ASK]).current_dir(vault);
    let out = run(&mut command, input, Duration::from_secs(120)).unwrap().ok().unwrap().out();
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The pages in a vault, by their names.
fn pages(vault: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for day in fs::read_dir(vault.join("v1/cat")).into_iter().flatten() {
        for node in fs::read_dir(day.unwrap().path()).unwrap() {
            found.extend(fs::read_dir(node.unwrap().path()).unwrap().map(|page| page.unwrap().path()));
        }
    }
    found.sort();
    found
}

#[test]
fn the_documented_queries_find_what_was_done_over_restarts_and_a_crash() {
    let mut lab = Lab::start().unwrap();
    assert_eq!(lab.exec(Route::Through, "echo one").unwrap().code(), 0);
    assert_eq!(lab.exec(Route::Through, "head -c 300000 /dev/zero; exit 7").unwrap().code(), 7);
    let vault = lab.vault();
    closed_sessions(&vault, 2);

    // One more, which a crash cuts short.
    let mut cut = lab.client.ssh(Route::Through, &[]).arg("echo here; sleep 60").spawn().unwrap();
    assert!(wait_until(Duration::from_secs(20), || vault.of_kind("session").is_ok_and(|all| all.len() == 3)));
    lab.bastion.kill_nine();
    let _ = cut.kill();
    let _ = cut.wait();
    lab.rig.bastion.again().unwrap();
    vault.settle(3, Duration::from_secs(20)).unwrap();
    lab.bastion.stop();
    let first = pages(&vault.dir);
    assert!(!first.is_empty() && first.iter().all(|page| page.extension().unwrap() == "zst"), "{first:?}");
    lab.rig.bastion.again().unwrap();
    assert_eq!(lab.exec(Route::Through, "true").unwrap().code(), 0);
    vault.settle(4, Duration::from_secs(20)).unwrap();
    lab.bastion.stop();
    assert!(pages(&vault.dir).len() > first.len(), "each stop makes a page of its own");

    let mut statements = documented();
    assert_eq!(statements.len(), 4, "a view and three queries");
    statements.push("SELECT * FROM sessions ORDER BY node, ordinal".to_owned());
    let answers = ask(&vault.dir, &statements);
    let [_, reached, ended, largest, rows] = answers.as_slice() else { panic!("{answers:?}") };

    let listed = vault.ls().unwrap();
    assert_eq!(rows.len(), listed.len(), "every session that ended has one row: {rows:?}");
    for session in &listed {
        let row = rows.iter().find(|row| row["sid"] == session["session"]).unwrap();
        for column in ["kind", "person", "target", "role", "protocol", "status", "events"] {
            assert_eq!(row[column], session[column], "{column}: {row} {session}");
        }
        // DuckDB shows no zone and no zeros at the end.
        for column in ["start", "end"] {
            let shown = row[column].as_str().unwrap().replace(' ', "T");
            assert!(session[column].as_str().unwrap().starts_with(shown.trim_end_matches('0')), "{row} {session}");
        }
        let bytes = row["bytes_client"].as_u64().zip(row["bytes_target"].as_u64()).map(|(one, other)| one + other);
        assert_eq!(bytes, session["bytes"].as_u64(), "{row} {session}");
    }
    let source = rows.iter().find(|row| row["kind"] == "session").unwrap()["source"].as_str().unwrap();
    assert!(source.starts_with("127.0.0.1:"), "{source}");

    assert_eq!(reached.len(), 1, "one person, one target: {reached:?}");
    let expected = [("person", "alice"), ("target", "web1"), ("protocol", "ssh")];
    assert!(expected.iter().all(|(column, value)| reached[0][*column] == *value), "{reached:?}");
    assert_eq!(reached[0]["sessions"], 4);

    let count = |status: &str, reason: Option<&str>| -> u64 {
        let fits = |row: &&Value| row["status"] == status && row["reason"].as_str() == reason;
        ended.iter().filter(fits).map(|row| row["sessions"].as_u64().unwrap()).sum()
    };
    assert_eq!((count("closed", Some("target")), count("recovered", None)), (3, 1), "{ended:?}");

    assert_eq!(largest.len(), 4);
    assert!(largest[0]["bytes"].as_u64().unwrap() >= 300_000, "{largest:?}");
    let stored = largest[0]["bytes_stored"].as_u64().unwrap();
    assert!((1..300_000).contains(&stored), "zeros are stored short: {stored}");
    assert!(largest[3]["bytes"].is_null(), "what a crash cut short comes last: {largest:?}");

    // Nothing of it is evidence: it is no stray, and without it the verdict is the same.
    let before = vault.verify(&[]).unwrap();
    before.unaltered().unwrap();
    assert!(!before.summary.to_string().contains("v1/cat"), "{}", before.summary);
    fs::remove_dir_all(vault.dir.join("v1/cat")).unwrap();
    let after = vault.verify(&[]).unwrap();
    assert_eq!((before.exit, before.summary["remarks"].clone()), (after.exit, after.summary["remarks"].clone()));
}

#[test]
fn who_wants_no_catalogue_gets_none() {
    let settings = "[vault]\ncatalogue = false".parse().unwrap();
    let lab = Lab::with(&Options { settings, ..Options::default() }).unwrap();
    assert_eq!(lab.exec(Route::Through, "true").unwrap().code(), 0);
    closed_sessions(&lab.vault(), 1);
    lab.bastion.stop();
    assert!(!lab.vault().dir.join("v1/cat").exists());
    assert!(!lab.bastion.dir.join("state/catalogue").exists());
}
