//! pg_dump and pg_restore, with a schema that has something of everything.

use std::process::Command;

use casemate_tests::pg_client::{Access, PgRoute};
use casemate_tests::postgres::Version;
use casemate_tests::process::{nothing, run};

use super::{PATIENCE, Way, lab, version};

const SCHEMA: &str = include_str!("schema.sql");

/// The database that is restored into; a name of its own, to see that the client's choice goes through.
const COPY: &str = "copy of orders";

#[test]
fn a_dump_restores_to_the_same_database() {
    if version() == Version::Eighteen {
        // Debian's pg_dump refuses servers that are newer than itself.
        return;
    }
    let lab = lab();
    let target = lab.postgres().unwrap();
    for route in PgRoute::ALL {
        let way = Way::new(&lab, route);
        let done = run(
            way.program("psql").args(["-XqAtv", "ON_ERROR_STOP=1", "-f"]).arg(way.file("schema.sql", SCHEMA)),
            nothing(),
            PATIENCE,
        );
        done.unwrap().ok().unwrap();
        let wanted = text(&target.access("orders"), &way);
        assert!(wanted.len() > 1_000_000 && wanted.contains("ALTER TABLE ONLY shop.payments"));

        // Custom format in one stream, then four workers side by side from a directory.
        target.sql("postgres", &format!("drop database if exists \"{COPY}\" with (force)")).unwrap();
        target.sql("postgres", &format!("create database \"{COPY}\"")).unwrap();
        let there = way.access.database(COPY);
        let pipe = Command::new("bash")
            .args(["-o", "pipefail", "-c", "pg_dump -Fc orders | pg_restore --exit-on-error -d \"dbname='$0'\"", COPY])
            .envs(way.access.env())
            .status();
        assert!(pipe.unwrap().success(), "{route:?}");
        assert!(text(&target.access(COPY), &way) == wanted, "{route:?}: the copy differs");

        target
            .sql(
                "postgres",
                &format!("drop database \"{COPY}\" with (force); create database \"{COPY}\"").replace("; ", ";\n"),
            )
            .unwrap();
        let dir = way.work.join("dump");
        let dump = run(way.program("pg_dump").args(["-Fd", "-j", "4", "-f"]).arg(&dir), nothing(), PATIENCE);
        dump.unwrap().ok().unwrap();
        let mut restore = there.program("pg_restore", &way.work).unwrap();
        // Its connections' string comes from `-d`; an empty one leaves everything to the environment.
        restore.args(["--exit-on-error", "-j", "4", "-d", ""]).arg(&dir);
        run(&mut restore, nothing(), PATIENCE).unwrap().ok().unwrap();
        assert!(text(&target.access(COPY), &way) == wanted, "{route:?}: the copy of four workers differs");
        std::fs::remove_dir_all(dir).unwrap();
    }
}

/// Returns a database as text, without the two lines that are random.
fn text(access: &Access, way: &Way<'_>) -> String {
    let dump = run(&mut access.program("pg_dump", &way.work).unwrap(), nothing(), PATIENCE).unwrap().ok().unwrap();
    let text = dump.out();
    let kept = text.lines().filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"));
    kept.collect::<Vec<_>>().join("\n")
}
