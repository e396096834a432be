//! COPY IN: what belongs to it, what the server ignores meanwhile, and how it fails.

use casemate_tests::pg_client::PgRoute;
use casemate_tests::raw_pg::message::{bind, copy_data, copy_done, copy_fail, execute, flush, parse, query, sync};
use casemate_tests::raw_pg::{RawPg, tags};

use super::{first_value, same, sqlstate};
use crate::pg_clients::lab;

const COPY: &[u8] = b"copy t from stdin";

fn table(client: &mut RawPg) {
    client.query("create temp table t (n int)").unwrap();
}

fn begin_extended() -> Vec<u8> {
    [parse("", COPY, &[]), bind("", "", &[]), execute("", 0)].concat()
}

#[test]
fn a_sync_inside_a_copy_is_no_sync() {
    let lab = lab();
    let frames = same(&lab, |_, client| {
        table(client);
        // As drivers do that send Sync with every Execute; and Flush between the data.
        let data = [copy_data(b"1\n"), flush(), sync(), copy_data(b"2\n"), copy_done(), sync()].concat();
        client.send(&[begin_extended(), sync(), data].concat()).unwrap();
        let mut frames = client.read_to(b'Z').unwrap();
        frames.extend(client.query("select sum(n) from t").unwrap());
        frames
    });
    assert!(tags(&frames).starts_with("12GCZTDCZ"), "{}", tags(&frames));
    assert_eq!(first_value(&frames).unwrap(), b"3");
}

#[test]
fn a_failing_copy_ignores_what_still_comes() {
    let lab = lab();
    let frames = same(&lab, |_, client| {
        table(client);
        // Simple: the server is done with its ReadyForQuery; data, CopyDone and CopyFail that come late mean nothing.
        let late = [copy_data(b"2\n"), copy_data(b"3\n"), copy_done(), copy_fail("late")].concat();
        client
            .send(&[query(COPY), copy_data(b"nonsense\n"), late.clone(), query(b"select 'simple'")].concat())
            .unwrap();
        let mut frames = client.read_to(b'Z').unwrap();
        frames.extend(client.read_to(b'Z').unwrap());
        assert_eq!(tags(&frames), "GEZTDCZ");
        // Extended: everything is skipped up to a Sync.
        client
            .send(&[begin_extended(), copy_data(b"nonsense\n"), late, query(b"select 'swallowed'")].concat())
            .unwrap();
        client.send(&[sync(), query(b"select 'extended'")].concat()).unwrap();
        frames.extend(client.read_to(b'Z').unwrap());
        frames.extend(client.read_to(b'Z').unwrap());
        frames
    });
    assert!(tags(&frames).starts_with("GEZTDCZ12GEZTDCZ"), "{}", tags(&frames));
    assert_eq!(sqlstate(&frames).unwrap(), "22P02");
}

#[test]
fn a_copy_that_is_given_up_says_why() {
    let lab = lab();
    let frames = same(&lab, |_, client| {
        table(client);
        client.send(&[query(COPY), copy_data(b"1\n"), copy_fail("no more")].concat()).unwrap();
        let mut frames = client.read_to(b'Z').unwrap();
        frames.extend(client.query("select count(*) from t").unwrap());
        frames
    });
    assert!(tags(&frames).starts_with("GEZTDCZ"), "{}", tags(&frames));
    assert!(frames[1].field(b'M').unwrap().contains("no more"));
    assert_eq!(sqlstate(&frames).unwrap(), "57014");
}

#[test]
fn a_query_inside_a_copy_ends_the_session_as_the_server_says() {
    let lab = lab();
    let said = PgRoute::ALL.map(|route| {
        let mut client = RawPg::login(&lab.pg_access(route).unwrap()).unwrap();
        table(&mut client);
        client.send(&[query(COPY), copy_data(b"1\n"), query(b"select 1")].concat()).unwrap();
        client.read_to_end().unwrap()
    });
    assert!(said[0].windows(28).any(|window| window == b"protocol synchronization was"), "{said:?}");
    assert!(said.iter().all(|other| *other == said[0]), "{said:?}");
}

#[test]
fn copies_and_statements_mix_in_one_query() {
    let lab = lab();
    let frames = same(&lab, |_, client| {
        table(client);
        client
            .send(&query(b"select 1; copy t from stdin; select 2; copy t to stdout; copy t from stdin; select 3"))
            .unwrap();
        client.send(&[copy_data(b"7\n"), copy_done(), copy_data(b"8\n"), copy_done()].concat()).unwrap();
        client.read_to(b'Z').unwrap()
    });
    assert!(tags(&frames).starts_with("TDCGCTDCHdcCGCTDCZ"), "{}", tags(&frames));
}
