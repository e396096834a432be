//! Names of statements and portals: what takes effect when, and what a failure leaves as it was.

use casemate_tests::pg_client::PgRoute;
use casemate_tests::raw_pg::message::{bind, close, execute, parse, query, sync};
use casemate_tests::raw_pg::{Frame, RawPg, tags};
use serde_json::{Value, json};

use super::same;
use crate::pg_clients::{PATIENCE, lab};

/// Sends messages and a Sync, and returns the answer.
fn ask(client: &mut RawPg, messages: &[Vec<u8>]) -> Vec<Frame> {
    client.send(&[messages.concat(), sync()].concat()).unwrap();
    client.read_to(b'Z').unwrap()
}

/// All first values, as text.
fn values(frames: &[Frame]) -> String {
    let rows = frames.iter().filter(|frame| frame.tag == b'D').map(|frame| frame.row().remove(0).unwrap());
    rows.map(|value| String::from_utf8(value).unwrap()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_failed_parse_leaves_the_name_as_it_was() {
    let lab = lab();
    let frames = same(&lab, |_, client| {
        let mut frames = ask(client, &[parse("s", b"select 'first'", &[])]);
        // The name is taken: refused. And then a statement that is none.
        frames.extend(ask(client, &[parse("s", b"select 'second'", &[])]));
        frames.extend(ask(client, &[parse("s", b"selec", &[])]));
        frames.extend(ask(client, &[bind("", "s", &[]), execute("", 0)]));
        // The unnamed one is replaced, and by a failure emptied.
        frames.extend(ask(client, &[parse("", b"select 'unnamed'", &[])]));
        frames.extend(ask(client, &[parse("", b"selec", &[])]));
        frames.extend(ask(client, &[bind("", "", &[]), execute("", 0)]));
        frames
    });
    assert!(tags(&frames).starts_with("1ZEZEZ2DCZ1ZEZEZ"), "{}", tags(&frames));
    assert_eq!(values(&frames), "first in step");
}

#[test]
fn a_portal_keeps_the_statement_that_it_was_bound_to() {
    let lab = lab();
    let frames = same(&lab, |_, client| {
        let messages = [
            query(b"begin"),
            parse("s", b"select 'old ' || n from generate_series(1, 3) n", &[]),
            bind("p", "s", &[]),
            close(b'S', "s"),
            parse("s", b"select 'new'", &[]),
            bind("q", "s", &[]),
            // Fetched in parts, in turns with another portal.
            execute("p", 1),
            execute("q", 0),
            execute("p", 1),
            execute("p", 0),
            close(b'P', "p"),
            execute("p", 0),
        ];
        let mut frames = ask(client, &messages[1..1]);
        client.send(&messages[0]).unwrap();
        frames.extend(client.read_to(b'Z').unwrap());
        frames.extend(ask(client, &messages[1..]));
        frames.extend(client.query("rollback").unwrap());
        frames
    });
    assert!(tags(&frames).starts_with("ZCZ12312DsDCDsDC3EZCZ"), "{}", tags(&frames));
    assert_eq!(values(&frames), "old 1 new old 2 old 3 in step");
}

#[test]
fn the_transcript_names_the_statement_that_really_ran() {
    let lab = lab();
    let mut client = RawPg::login(&lab.pg_access(PgRoute::Through).unwrap()).unwrap();
    ask(&mut client, &[parse("s", b"select 'first'", &[])]);
    // Neither of these takes the name over.
    ask(&mut client, &[parse("s", b"select 'refused'", &[])]);
    ask(&mut client, &[parse("s", b"selec", &[])]);
    ask(&mut client, &[bind("", "s", &[]), execute("", 0)]);
    // The portal was bound to what the name meant then; fetched in two parts, it is one statement of three rows.
    let messages = [
        parse("t", b"select $1 || n from generate_series(1, 3) n", &[25]),
        bind("p", "t", &[Some(b"old ")]),
        close(b'S', "t"),
        parse("t", b"select 'new'", &[]),
        bind("q", "t", &[]),
        execute("p", 2),
        execute("q", 0),
        execute("p", 0),
    ];
    ask(&mut client, &messages);
    drop(client);
    let vault = lab.vault();
    vault.settle(1, PATIENCE).unwrap();
    let session = vault.of_kind("session").unwrap()[0]["session"].as_str().unwrap().to_owned();
    let shown = vault.replay("show", &[&session, "--json"]).unwrap().ok().unwrap().out();
    let items = shown.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let ran: Vec<Value> = items
        .filter(|item| item["outcome"] == "done")
        .map(|item| json!([item["sql"], item["params"], item["rows"]]))
        .collect();
    assert_eq!(
        ran,
        [
            json!(["select 'first'", [], 1]),
            json!(["select 'new'", [], 1]),
            json!(["select $1 || n from generate_series(1, 3) n", ["old "], 3]),
        ]
    );
}

#[test]
fn portals_end_with_their_transaction_and_statements_do_not() {
    let lab = lab();
    let frames = same(&lab, |_, client| {
        let mut frames = ask(client, &[parse("s", b"select $1 || '!'", &[25]), bind("p", "s", &[Some(b"a")])]);
        frames.extend(ask(client, &[execute("p", 0)]));
        frames.extend(ask(client, &[bind("p", "s", &[Some(b"b")]), execute("p", 0)]));
        // By SQL's own names, which are the same ones.
        frames.extend(client.query("execute s('c')").unwrap());
        frames.extend(client.query("prepare t as select 'by sql'").unwrap());
        frames.extend(ask(client, &[bind("", "t", &[]), execute("", 0)]));
        frames.extend(client.query("deallocate all").unwrap());
        frames.extend(ask(client, &[bind("", "t", &[])]));
        frames
    });
    assert!(tags(&frames).starts_with("12ZEZ2DCZTDCZCZ2DCZCZEZ"), "{}", tags(&frames));
    assert_eq!(values(&frames), "b! c! by sql in step");
}
