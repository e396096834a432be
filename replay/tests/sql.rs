//! A PostgreSQL session made by the real recorder, and what the reader's verbs make of it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic in a test is a failing test")]

use std::path::PathBuf;
use std::process::{Command, Output};

use bytes::{BufMut, Bytes, BytesMut};
use casemate_recorder::transcript::event::{
    Event, EventType, Side, grant, identity, pg_described, pg_done, pg_elided, pg_in, pg_lost, pg_notice, pg_out,
    pg_sql, pg_startup,
};
use casemate_recorder::{CloseReason, Protocol, Recorder, RecorderConfig, Session, SessionSpec, TranscriptKind};
use ed25519_dalek::SigningKey;
use serde_json::Value;

/// A vault with one session.
struct Fixture {
    dir: tempfile::TempDir,
    session: String,
}

impl Fixture {
    fn vault(&self) -> PathBuf {
        self.dir.path().join("vault")
    }

    fn run(&self, verb: &str, more: &[&str]) -> Output {
        let vault = self.vault();
        let mut command = Command::new(env!("CARGO_BIN_EXE_casemate-replay"));
        command.arg(verb).arg(vault).arg(&self.session).args(more).output().unwrap()
    }

    fn text(&self, verb: &str, more: &[&str]) -> String {
        let output = self.run(verb, more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn items(&self) -> Vec<Value> {
        self.text("show", &["--json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn statements(&self) -> Vec<Value> {
        self.items().into_iter().filter(|item| item["type"] == "pg.statement").collect()
    }
}

/// Records a session, said by `script`.
fn record<F: Future<Output = ()>>(script: impl FnOnce(Wire) -> F) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let key = SigningKey::from_bytes(&[42; 32]);
    let config = RecorderConfig::new(dir.path().join("state"), dir.path().join("vault"), "node-1".into(), key);
    let recorder = Recorder::start(config).unwrap();
    let session = runtime.block_on(async {
        let spec = SessionSpec { kind: TranscriptKind::Session, protocol: Some(Protocol::Pg), policy_hash: [0; 32] };
        let opening = vec![
            Event::map(identity::TYPE, 0).with(identity::PERSON, "alice"),
            Event::map(grant::TYPE, 0).with(grant::TARGET, "db1").with(grant::ROLE, "orders"),
        ];
        let session = recorder.open_session(spec, opening).await.unwrap();
        let wire = Wire(session.clone());
        wire.tell(Event::map(pg_startup::TYPE, 0).with(pg_startup::PROTOCOL, 0x3_0000u32)).await;
        script(Wire(session.clone())).await;
        session.close(CloseReason::Client, None).await.unwrap();
        session.id().to_string()
    });
    recorder.shutdown();
    Fixture { dir, session }
}

/// Both sides of the session that is recorded.
struct Wire(Session);

impl Wire {
    async fn put(&self, side: Side, event: Event) {
        drop(self.0.record(side, event).receipt().await.unwrap().into_bytes());
    }

    async fn tell(&self, event: Event) {
        self.put(Side::Target, event).await;
    }

    async fn stream(&self, side: Side, kind: EventType, frames: &[Bytes]) {
        // Frames are cut anywhere.
        for piece in frames.concat().chunks(7) {
            self.put(side, Event::stream(kind, 0, Bytes::copy_from_slice(piece))).await;
        }
    }

    async fn sql(&self, frames: &[Bytes]) {
        self.stream(Side::Client, pg_sql::TYPE, frames).await;
    }

    async fn values(&self, frames: &[Bytes]) {
        self.stream(Side::Client, pg_in::TYPE, frames).await;
    }

    async fn out(&self, frames: &[Bytes]) {
        self.stream(Side::Target, pg_out::TYPE, frames).await;
    }

    /// A simple query and its answer, told as done.
    async fn query(&self, number: u64, sql: &[u8], answer: &[Bytes], done: impl FnOnce(Event) -> Event) {
        self.sql(&[query(sql)]).await;
        self.out(answer).await;
        self.tell(done(self::done(number, "done").with(pg_done::INDEX, 0u32))).await;
    }
}

fn frame(tag: u8, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(tag);
    out.put_u32(payload.len() as u32 + 4);
    out.put_slice(payload);
    out.freeze()
}

fn query(sql: &[u8]) -> Bytes {
    frame(b'Q', &[sql, b"\0"].concat())
}

fn complete(tag: &str) -> Bytes {
    frame(b'C', format!("{tag}\0").as_bytes())
}

fn ready() -> Bytes {
    frame(b'Z', b"I")
}

/// A RowDescription: names, types and formats.
fn columns(columns: &[(&str, u32, i16)]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u16(columns.len() as u16);
    for (name, oid, format) in columns {
        out.put_slice(name.as_bytes());
        out.put_bytes(0, 1 + 4 + 2);
        out.put_u32(*oid);
        out.put_bytes(0, 2 + 4);
        out.put_i16(*format);
    }
    frame(b'T', &out)
}

fn put_values(out: &mut BytesMut, values: &[Option<&[u8]>]) {
    out.put_u16(values.len() as u16);
    for value in values {
        out.put_i32(value.map_or(-1, |value| value.len() as i32));
        out.put_slice(value.unwrap_or_default());
    }
}

fn row(values: &[Option<&[u8]>]) -> Bytes {
    let mut out = BytesMut::new();
    put_values(&mut out, values);
    frame(b'D', &out)
}

fn parse(name: &str, sql: &str, types: &[u32]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_slice(format!("{name}\0{sql}\0").as_bytes());
    out.put_u16(types.len() as u16);
    types.iter().for_each(|oid| out.put_u32(*oid));
    frame(b'P', &out)
}

fn bind(portal: &str, statement: &str, formats: &[i16], values: &[Option<&[u8]>], result: &[i16]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_slice(format!("{portal}\0{statement}\0").as_bytes());
    out.put_u16(formats.len() as u16);
    formats.iter().for_each(|format| out.put_i16(*format));
    put_values(&mut out, values);
    out.put_u16(result.len() as u16);
    result.iter().for_each(|format| out.put_i16(*format));
    frame(b'B', &out)
}

fn execute(portal: &str) -> Bytes {
    frame(b'E', format!("{portal}\0\0\0\0\0").as_bytes())
}

fn sync() -> Bytes {
    frame(b'S', b"")
}

fn error(state: &str, message: &str) -> Bytes {
    frame(b'E', format!("SERROR\0VERROR\0C{state}\0M{message}\0\0").as_bytes())
}

fn done(number: u64, outcome: &str) -> Event {
    Event::map(pg_done::TYPE, 0)
        .with(pg_done::FRAME, number)
        .with(pg_done::US, 1_250u64)
        .with(pg_done::OUTCOME, outcome)
}

fn finished(event: Event, tag: &str, rows: u64, bytes: u64) -> Event {
    let event = event.with(pg_done::TAG, tag.as_bytes()).with(pg_done::ROWS, rows);
    if bytes > 0 { event.with(pg_done::BYTES, bytes) } else { event }
}

fn failed(event: Event, state: &str, message: &str) -> Event {
    event
        .with(pg_done::SEVERITY, b"ERROR".as_slice())
        .with(pg_done::SQLSTATE, state.as_bytes())
        .with(pg_done::ERROR, message.as_bytes())
}

/// A session with a bit of everything.
async fn everything(wire: Wire) {
    // 0: two statements in one query.
    wire.sql(&[query(b"select 1 as one;\nselect 'x'")]).await;
    wire.out(&[columns(&[("one", 23, 0)]), row(&[Some(b"1")]), complete("SELECT 1")]).await;
    wire.out(&[columns(&[("?column?", 25, 0)]), row(&[Some(b"x")]), complete("SELECT 1"), ready()]).await;
    wire.tell(finished(done(0, "done").with(pg_done::INDEX, 0u32), "SELECT 1", 1, 7)).await;
    wire.tell(finished(done(0, "done").with(pg_done::INDEX, 1u32), "SELECT 1", 1, 7)).await;
    // 1 to 3: prepared and described; the types are the target's word.
    wire.sql(&[parse("s1", "select id, name from t where id = $1 and name = $2", &[0, 25])]).await;
    wire.sql(&[frame(b'D', b"Ss1\0"), sync()]).await;
    let described = [frame(b'1', b""), frame(b't', b"\0\x02\0\0\0\x17\0\0\0\x19")];
    wire.out(&[&described[..], &[columns(&[("id", 23, 0), ("name", 25, 0)]), ready()]].concat()).await;
    let types: Vec<_> = [23u32, 25].map(Into::into).into();
    wire.tell(Event::map(pg_described::TYPE, 0).with(pg_described::PARSE, 1u64).with(pg_described::PARAMETERS, types))
        .await;
    // 4 to 6: executed in binary, without another description.
    wire.values(&[bind("", "s1", &[1, 0], &[Some(&7i32.to_be_bytes()), Some(b"O'Hara")], &[1])]).await;
    wire.sql(&[execute(""), sync()]).await;
    wire.out(&[frame(b'2', b""), row(&[Some(&7i32.to_be_bytes()), None]), complete("SELECT 1"), ready()]).await;
    let event = done(5, "done").with(pg_done::PARSE, 1u64).with(pg_done::BIND, 4u64);
    wire.tell(finished(event, "SELECT 1", 1, 14)).await;
    // 7 to 10: a mistake, and what was to build on it.
    wire.sql(&[parse("", "select nonsense \x1b[2J", &[])]).await;
    wire.values(&[bind("", "", &[], &[], &[])]).await;
    wire.sql(&[execute(""), sync()]).await;
    wire.out(&[error("42703", "no such column \u{9b}2J")]).await;
    wire.tell(failed(done(7, "failed").with(pg_done::PARSE, 7u64), "42703", "no such column \u{9b}2J")).await;
    wire.tell(done(9, "skipped").with(pg_done::PARSE, 7u64).with(pg_done::BIND, 8u64)).await;
    wire.out(&[ready()]).await;
    // 11 and 12: data from the client, which is left out of the record and is not numbered.
    wire.sql(&[query(b"copy t from stdin")]).await;
    wire.out(&[frame(b'G', b"\0\0\0")]).await;
    let elided = Event::map(pg_elided::TYPE, 0).with(pg_elided::SIDE, 0u32).with(pg_elided::TOTAL, 100u64);
    wire.put(Side::Client, elided).await;
    wire.sql(&[frame(b'c', b"")]).await;
    wire.out(&[complete("COPY 3"), ready()]).await;
    wire.tell(finished(done(11, "done").with(pg_done::INDEX, 0u32), "COPY 3", 3, 0).with(pg_done::COPIED, 90u64)).await;
    // 13: rows that are left out of the record.
    let answer = [columns(&[("secret", 25, 0)]), complete("SELECT 5"), ready()];
    wire.query(13, b"select secret from t", &answer, |event| finished(event, "SELECT 5", 5, 80)).await;
    // 14: a secret.
    let answer = [complete("ALTER ROLE"), ready()];
    wire.query(14, b"alter role x password '******'", &answer, |event| finished(event, "ALTER ROLE", 0, 0)).await;
    wire.tell(Event::map(pg_notice::TYPE, 0).with(pg_notice::MESSAGE, b"by the way \x1b[2J".as_slice())).await;
    // 15: nobody answers.
    wire.sql(&[query(b"select pg_sleep(1000)")]).await;
}

#[test]
fn each_statement_is_shown_with_its_text_its_values_and_its_end() {
    let fixture = record(everything);
    let statements = fixture.statements();
    let of = |frame: u64| -> Vec<&Value> { statements.iter().filter(|item| item["frame"] == frame).collect() };
    assert_eq!(of(0).len(), 2);
    assert_eq!(of(0)[1]["sql"], "select 1 as one;\nselect 'x'");
    assert_eq!((&of(0)[1]["index"], &of(0)[1]["rows"], &of(0)[1]["tag"]), (&1.into(), &1.into(), &"SELECT 1".into()));
    assert_eq!(of(5)[0]["sql"], "select id, name from t where id = $1 and name = $2");
    assert_eq!(of(5)[0]["params"], serde_json::json!(["7", "O'Hara"]));
    assert_eq!(of(5)[0]["duration_us"], 1_250);
    assert_eq!((&of(7)[0]["error"], &of(7)[0]["sqlstate"]), (&"no such column \u{9b}2J".into(), &"42703".into()));
    assert_eq!(of(7)[0]["sql"], "select nonsense \x1b[2J");
    assert_eq!((&of(9)[0]["outcome"], &of(9)[0]["sql"]), (&"skipped".into(), &of(7)[0]["sql"]));
    assert_eq!((&of(11)[0]["sql"], &of(11)[0]["copied"]), (&"copy t from stdin".into(), &90.into()));
    assert_eq!((&of(13)[0]["sql"], &of(13)[0]["rows"]), (&"select secret from t".into(), &5.into()));
    assert_eq!((&of(15)[0]["outcome"], &of(15)[0]["sql"]), (&"unanswered".into(), &"select pg_sleep(1000)".into()));
    assert_eq!(statements.len(), 9);
    let times: Vec<u64> = statements.iter().map(|item| item["t_us"].as_u64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    let types: Vec<_> = fixture.items().iter().map(|item| item["type"].as_str().unwrap().to_owned()).collect();
    for wanted in ["pg.startup", "pg.notice", "pg.elided"] {
        assert!(types.iter().any(|found| found == wanted), "{types:?}");
    }
    assert!(!types.iter().any(|found| matches!(found.as_str(), "pg.done" | "pg.described")), "{types:?}");
}

#[test]
fn a_session_reads_as_it_went_and_nothing_recorded_steers_the_terminal() {
    let fixture = record(everything);
    let played = fixture.text("play", &["--speed", "10000"]);
    assert_eq!(played, fixture.text("export", &["--format", "text"]));
    for wanted in [
        "> select 1 as one;\n               select 'x'\n                one\n               -----\n                1\n               SELECT 1, 1 row, 1.2 ms\n",
        "(statement 2 of the same)\n                ?column?\n",
        "$1 = '7'\n               $2 = 'O''Hara'\n                id | name\n               ----+------\n                7  | NULL\n",
        "ERROR 42703: no such column <U+009B>2J",
        "COPY 3, 3 rows, 90 bytes copied in, 1.2 ms",
        "(rows not recorded)\n",
        "> select pg_sleep(1000)\n               unanswered\n",
        "by the way ␛[2J",
    ] {
        assert!(played.contains(wanted), "{wanted}\n---\n{played}");
    }
    assert!(!played.contains("pg.elided"), "{played}");
    let shown = fixture.text("show", &[]);
    let script = fixture.text("export", &["--format", "sql"]);
    for text in [played, shown, script] {
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }
}

#[test]
fn a_script_runs_what_was_done_and_keeps_the_rest_in_comments() {
    let fixture = record(everything);
    let script = fixture.text("export", &["--format", "sql"]);
    // The name is another one each time, so that a session cannot have prepared something under it.
    let again = fixture.text("export", &["--format", "sql"]);
    let name = |script: &str| Some(script.split_once("prepare casemate_")?.1.split_once(' ')?.0.to_owned());
    assert!(name(&script).is_some_and(|name| name.len() == 16) && name(&script) != name(&again), "{script}");
    let script = script.replace(&name(&script).unwrap(), "?");
    let live: Vec<&str> = script.lines().filter(|line| !line.is_empty() && !line.starts_with("-- ")).collect();
    assert_eq!(
        live,
        [
            "select 1 as one;",
            "select 'x'",
            ";",
            "prepare casemate_? as",
            "select id, name from t where id = $1 and name = $2",
            ";",
            "execute casemate_? ('7', 'O''Hara')",
            ";",
            "deallocate casemate_?;",
            "select secret from t",
            ";",
        ]
    );
    for wanted in
        ["-- select nonsense ␛[2J\n", "-- copy t from stdin\n", "-- alter role x password '******'\n", "42703"]
    {
        assert!(script.contains(wanted), "{script}");
    }
}

#[test]
fn the_other_forms_say_what_they_can() {
    let fixture = record(everything);
    let events: Vec<Value> = fixture
        .text("export", &["--format", "jsonl"])
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for wanted in ["pg.sql", "pg.in", "pg.out", "pg.done", "pg.described"] {
        assert!(events.iter().any(|event| event["type"] == wanted), "{wanted}");
    }
    let output = fixture.run("export", &["--format", "asciicast"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), error.lines().count()), (Some(2), 1), "{error}");
    assert!(error.contains("PostgreSQL session, which has no terminal"), "{error}");
    let vault = fixture.vault();
    let output =
        Command::new(env!("CARGO_BIN_EXE_casemate-replay")).arg("ls").arg(vault).arg("--json").output().unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let row = rows.iter().find(|row| row["session"] == fixture.session.as_str()).unwrap();
    for (key, value) in
        [("kind", "session"), ("person", "alice"), ("target", "db1"), ("role", "orders"), ("protocol", "pg")]
    {
        assert_eq!(row[key], value);
    }
}

#[test]
fn rows_of_a_portal_that_was_fetched_in_steps_are_one_table() {
    let fixture = record(|wire| async move {
        wire.sql(&[parse("", "select n", &[])]).await;
        wire.values(&[bind("p", "", &[], &[], &[])]).await;
        wire.sql(&[frame(b'D', b"Pp\0"), execute("p"), execute("p"), execute("p"), sync()]).await;
        let open = [frame(b'1', b""), frame(b'2', b""), columns(&[("n", 23, 0)]), row(&[Some(b"1")]), frame(b's', b"")];
        wire.out(
            &[&open[..], &[row(&[Some(b"2")]), frame(b's', b""), row(&[Some(b"3")]), complete("SELECT 1"), ready()]]
                .concat(),
        )
        .await;
        let event = done(3, "done").with(pg_done::PARSE, 0u64).with(pg_done::BIND, 1u64).with(pg_done::BATCHES, 2u32);
        wire.tell(finished(event, "SELECT 1", 3, 21)).await;
    });
    let text = fixture.text("export", &["--format", "text"]);
    assert!(
        text.contains(" n\n               ---\n                1\n                2\n                3\n"),
        "{text}"
    );
    let statements = fixture.statements();
    assert_eq!((statements.len(), &statements[0]["batches"], &statements[0]["frame"]), (1, &2.into(), &3.into()));
}

#[test]
fn where_the_thread_was_lost_statements_are_listed_without_their_end() {
    let fixture = record(|wire| async move {
        wire.sql(&[parse("s", "select $1", &[23]), sync(), query(b"select 1")]).await;
        wire.tell(Event::map(pg_lost::TYPE, 0).with(pg_lost::WHY, "an answer that fits no question")).await;
        wire.values(&[bind("", "s", &[], &[Some(b"5")], &[])]).await;
        wire.sql(&[execute("")]).await;
        wire.out(&[row(&[Some(b"5")]), complete("SELECT 1")]).await;
    });
    let statements = fixture.statements();
    assert_eq!(statements.len(), 2);
    assert_eq!((&statements[0]["sql"], &statements[0]["outcome"]), (&"select 1".into(), &"unknown".into()));
    assert_eq!((&statements[1]["sql"], &statements[1]["params"]), (&"select $1".into(), &serde_json::json!(["5"])));
    let text = fixture.text("export", &["--format", "text"]);
    assert!(text.contains("an answer that fits no question"), "{text}");
}
