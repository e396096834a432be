//! The script of a session, fed to psql by somebody else: it does what was done, and nothing that the recorded person prepared for
//! whoever would run it.

use casemate_tests::pg_client::PgRoute;
use casemate_tests::process::run;
use casemate_tests::raw_pg::{RawPg, message};

use super::{PATIENCE, lab, through};
use crate::closed_sessions;

#[test]
fn nothing_in_a_script_runs_on_the_machine_of_whoever_feeds_it_to_psql() {
    let lab = lab();
    let target = lab.postgres().unwrap();
    target.sql("orders", "create role mallory login superuser password 'x'").unwrap();
    target.sql("orders", "create table audit (n int); insert into audit values (1), (2)").unwrap();
    let trap = lab.dir.join("sprung");
    let mut client = RawPg::login(&through(&lab)).unwrap();
    // Fails for anybody else, with a message that psql keeps in a variable; the next statement pastes it.
    let raise = format!(
        "do $$ begin if current_user <> 'postgres' then raise exception '%', '1]; ' || chr(92) || '! touch {} #'; end if; end $$",
        trap.display()
    );
    for sql in [
        raise.as_str(),
        "select a[1:LAST_ERROR_MESSAGE] from (select array[1] as a, 1 as last_error_message) as t",
        "prepare casemate(text) as delete from audit where $1 is not null",
    ] {
        let frames = client.query(sql).unwrap();
        assert!(frames.iter().all(|frame| frame.tag != b'E'), "{sql}: {frames:?}");
    }
    let with_value = [
        message::parse("", b"select $1::text", &[]),
        message::bind("", "", &[Some(b"a value")]),
        message::execute("", 0),
        message::sync(),
    ];
    client.send(&with_value.concat()).unwrap();
    client.read_to(b'Z').unwrap();
    drop(client);
    let (session, _) = closed_sessions(&lab.vault(), 1).remove(0);
    let script = lab.vault().replay("export", &[&session, "--format", "sql"]).unwrap().ok().unwrap().out();
    assert!(script.contains("execute casemate_"), "{script}");

    let mut access = lab.pg_access(PgRoute::Straight).unwrap();
    (access.user, access.password) = ("mallory".to_owned(), "x".to_owned());
    let mut psql = access.program("psql", &lab.dir).unwrap();
    let done = run(psql.args(["-X", "-f", "-"]), std::io::Cursor::new(script), PATIENCE).unwrap();
    assert!(done.err().contains("chr") || done.err().contains("touch"), "the first statement fails: {}", done.err());
    assert!(done.out().contains("a value"), "what was done is done: {}", done.out());
    assert!(!trap.exists(), "a command of the recorded person's ran");
    assert_eq!(target.sql("orders", "select count(*) from audit").unwrap(), "2", "what they had prepared ran");
}
