//! CancelRequest: a connection of its own, without a login, that must hit the right query and no other.

use std::time::{Duration, Instant};

use casemate_tests::pg_client::{Access, PgRoute};
use casemate_tests::postgres::Postgres;
use casemate_tests::raw_pg::message::{cancel_request, query};
use casemate_tests::raw_pg::{RawPg, VERSION_3_0, tags};

use super::sqlstate;
use crate::pg_clients::lab;

#[test]
fn a_cancel_ends_the_running_query_plain_and_in_tls() {
    let lab = lab();
    for route in PgRoute::ALL {
        let access = lab.pg_access(route).unwrap();
        let (mut client, greeting) = RawPg::login_as(&access, VERSION_3_0, &[]).unwrap();
        let (pid, key) = greeting.key.unwrap();
        for tls in [false, true, false] {
            sleep_is_cancelled(lab.postgres().unwrap(), &access, &mut client, (pid, &key), tls);
        }
    }
}

#[test]
fn a_cancel_with_a_wrong_key_or_for_an_idle_session_does_nothing() {
    let lab = lab();
    for route in PgRoute::ALL {
        let access = lab.pg_access(route).unwrap();
        let (mut client, greeting) = RawPg::login_as(&access, VERSION_3_0, &[]).unwrap();
        let (pid, key) = greeting.key.unwrap();
        client.send(&query(b"select pg_sleep(3)")).unwrap();
        assert!(lab.postgres().unwrap().comes_to_run(1, "select pg_sleep(3)").unwrap());
        let mut wrong = key.clone();
        wrong[0] ^= 1;
        for (pid, key) in [(pid, &wrong[..]), (pid + 1, &key), (0, &[0; 4])] {
            cancel(&access, pid, key, false);
        }
        // Of a length that no key has: a server may say so.
        for key in [&key[..3], &[]] {
            let mut client = RawPg::open(&access).unwrap();
            client.send(&cancel_request(pid, key)).unwrap();
            client.read_to_end().unwrap();
        }
        assert_eq!(tags(&client.read_to(b'Z').unwrap()), "TDCZ", "{route:?}");
        // Nothing runs: the next query must not pay for it.
        cancel(&access, pid, &key, false);
        std::thread::sleep(Duration::from_millis(200));
        for _ in 0..5 {
            assert_eq!(tags(&client.query("select pg_sleep(0.02)").unwrap()), "TDCZ", "{route:?}");
        }
    }
}

/// Starts a long query, cancels it by that key and checks how it ended.
pub(super) fn sleep_is_cancelled(
    target: &Postgres,
    access: &Access,
    client: &mut RawPg,
    (pid, key): (u32, &[u8]),
    tls: bool,
) {
    let start = Instant::now();
    client.send(&query(b"select pg_sleep(60)")).unwrap();
    assert!(target.comes_to_run(1, "select pg_sleep(60)").unwrap());
    cancel(access, pid, key, tls);
    let frames = client.read_to(b'Z').unwrap();
    assert_eq!(sqlstate(&frames).as_deref(), Some("57014"), "{frames:?}");
    assert!(start.elapsed() < Duration::from_secs(30));
    assert_eq!(tags(&client.query("select 1").unwrap()), "TDCZ");
}

/// Sends a CancelRequest and waits for the close that libpq waits for. Nothing is ever said.
fn cancel(access: &Access, pid: u32, key: &[u8], tls: bool) {
    let mut client = if tls { RawPg::connect(access).unwrap() } else { RawPg::open(access).unwrap() };
    client.send(&cancel_request(pid, key)).unwrap();
    assert_eq!(client.read_to_end().unwrap(), b"");
}
