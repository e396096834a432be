//! psql: scripts, `\copy`, large objects, notifications, and what a person's keys do.

use casemate_tests::noise::Noise;
use casemate_tests::pg_client::PgRoute;
use casemate_tests::pty::Terminal;

use super::{PATIENCE, Way, compare, lab};

#[test]
fn psql_does_the_same_both_ways() {
    let lab = lab();
    compare(&lab, "psql", |way| {
        way.file("in.txt", "from a file\nänd more\n");
        let photo = Noise::new(5).chunk(300_000);
        way.file("photo", &photo);
        let script = way.file("script.sql", include_str!("script.sql"));
        let done = way.run("a script", way.program("psql").args(["-X", "-f"]).arg(script), b"", 0);
        for said in ["hello, ☃", "division by zero", "COPY 3", "COPY 2", "a warning", "read-only transaction"] {
            assert!(done.out().contains(said) || done.err().contains(said), "{said}: {}\n{}", done.out(), done.err());
        }
        assert!(std::fs::read(way.work.join("photo.back")).unwrap() == photo);
        way.run("a command", way.program("psql").args(["-XAtc", "select 6 * 7; select 'and more'"]), b"", 0);
        way.run("an error", way.program("psql").args(["-Xc", "select * from nowhere"]), b"", 1);
        way.run(
            "one transaction",
            way.program("psql").args(["-X1v", "ON_ERROR_STOP=1", "-f", "-"]),
            b"select 1; selec",
            3,
        );
        way.run("a list", way.program("psql").args(["-Xc", "\\dt+", "-c", "\\l", "-c", "\\df *.*"]), b"", 0);
        // Larger than any buffer, both ways.
        let rows = (0..40_000).map(|row| format!("{row}\t{}\n", "x".repeat(row % 50))).collect::<String>();
        way.run("a table", way.program("psql").args(["-Xc", "create table t (n int, x text)"]), b"", 0);
        way.run("in", way.program("psql").args(["-Xc", "\\copy t from stdin"]), rows.as_bytes(), 0);
        let out =
            way.run("out", way.program("psql").args(["-Xc", "\\copy (select * from t order by n) to stdout"]), b"", 0);
        assert!(out.stdout == rows.as_bytes());
    });
}

#[test]
fn ctrl_c_ends_a_query_and_not_the_session() {
    let lab = lab();
    for route in PgRoute::ALL {
        let way = Way::new(&lab, route);
        let mut terminal = terminal(&way);
        terminal.type_in(b"select pg_sleep(60);\r").unwrap();
        let sleeping = "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'";
        assert!(casemate_tests::process::wait_until(PATIENCE, || way.sql(sleeping) == "1"));
        terminal.type_in(b"\x03").unwrap();
        terminal.expect("canceling statement due to user request", PATIENCE).unwrap();
        assert_eq!(way.sql(sleeping), "0");
        terminal.type_in(b"select 'still ' || 'here';\r").unwrap();
        terminal.expect("still here", PATIENCE).unwrap();
        leave(terminal);
    }
}

#[test]
fn watch_repeats_until_ctrl_c() {
    let lab = lab();
    for route in PgRoute::ALL {
        let way = Way::new(&lab, route);
        way.sql("create sequence rounds");
        let mut terminal = terminal(&way);
        terminal.type_in(b"select 'round ' || nextval('rounds') as r \\watch 0.2\r").unwrap();
        terminal.expect("round 3", PATIENCE).unwrap();
        terminal.type_in(b"\x03").unwrap();
        terminal.type_in(b"select 'still ' || 'here';\r").unwrap();
        terminal.expect("still here", PATIENCE).unwrap();
        leave(terminal);
    }
}

fn terminal(way: &Way<'_>) -> Terminal {
    let mut command = way.program("psql");
    command.args(["-X", "-P", "pager=off"]).env("TERM", "dumb");
    let terminal = Terminal::start(&command, 100, 40).unwrap();
    terminal.expect("=#", PATIENCE).unwrap();
    terminal
}

fn leave(mut terminal: Terminal) {
    terminal.type_in(b"\\q\r").unwrap();
    assert!(terminal.wait(PATIENCE).unwrap().success());
}
