//! Strangers at the PostgreSQL front door: nothing but the whole login of one person leads to a session.

use std::time::Duration;

use casemate_tests::noise::Noise;
use casemate_tests::pg_client::{Access, PgRoute};
use casemate_tests::raw_pg::{Binding, Frame, RawPg, VERSION_3_0, VERSION_3_2, VERSION_GREASED, message};
use casemate_tests::scale::pick;

use super::{lab, through};

/// A message of a random kind, as somebody would send it who hopes for a state in which it does something.
fn anything(noise: &mut Noise, access: &Access) -> Vec<u8> {
    let users = [access.user.as_str(), "alice", "bob+orders", "postgres", "", "alice+orders+postgres"];
    let user = users[noise.below(users.len() as u64) as usize];
    let versions = [VERSION_3_0, VERSION_3_2, VERSION_GREASED, 2 << 16, 4 << 16, 0];
    let version = versions[noise.below(versions.len() as u64) as usize];
    match noise.below(16) {
        0..=3 => message::startup(version, &[("user", user), ("database", &access.database)]),
        4 => message::ssl_request(),
        5 => message::gss_request(),
        6 => message::cancel_request(noise.below(1 << 16) as u32, &[1, 2, 3, 4]),
        7 => message::password(access.password.as_bytes()),
        8 => message::sasl_initial("SCRAM-SHA-256", b"n,,n=,r=abcdefgh"),
        9 => message::sasl_initial("SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,n=,r=abc"),
        10 => message::frame(b'p', b"c=biws,r=abcdefgh,p=AAAA"),
        11 => message::query(b"select 'in'"),
        12 => message::sync(),
        13 => message::terminate(),
        14 => message::parse("", b"select 1", &[]),
        _ => (0..noise.below(40)).map(|_| noise.below(256) as u8).collect(),
    }
}

#[test]
fn no_sequence_of_messages_leads_to_a_session_without_the_whole_login() {
    let lab = lab();
    let access = lab.pg_access_by_socket(PgRoute::Through).unwrap();
    let mut noise = Noise::new(0x5ca1ab1e);
    let tries = pick(1_500, 1_000_000);
    let mut answered = 0u64;
    for _ in 0..tries {
        let mut client = RawPg::open(&access).unwrap();
        let count = 1 + noise.below(6);
        let mut sent = Vec::new();
        for _ in 0..count {
            sent.extend(anything(&mut noise, &access));
        }
        // Half of them wait for answers in between, so that later messages meet later states.
        let _ = client.send(&sent);
        client.finish_sending();
        let answer = client.read_to_end().unwrap_or_default();
        answered += u64::from(!answer.is_empty());
        let mut rest = answer.as_slice();
        while let Some((tag, tail)) = rest.split_first() {
            if *tag == b'N' || *tag == b'S' {
                // The answer to a request for encryption is one byte.
                if tail.first().is_none_or(|byte| *byte != 0) {
                    rest = tail;
                    continue;
                }
            }
            assert!(*tag != b'Z', "ReadyForQuery without a login, after {sent:?}");
            let Some(len) = tail.first_chunk().map(|len| u32::from_be_bytes(*len) as usize) else { break };
            if *tag == b'R' {
                let code = tail.get(4..8).map(|code| u32::from_be_bytes(code.try_into().unwrap()));
                assert_eq!(
                    code,
                    Some(10).filter(|_| code == Some(10)).or(Some(11)).filter(|_| code != Some(0)),
                    "{sent:?}"
                );
            }
            rest = tail.get(len..).unwrap_or_default();
        }
    }
    assert!(answered > tries / 4, "{answered} of {tries} were answered at all");
    // The door still opens for those who knock.
    assert!(RawPg::login(&access).is_ok());
    assert!(lab.bastion.process.alive());
}

#[test]
fn a_second_startup_message_in_the_middle_of_a_login_is_refused() {
    // CVE-2026-107350 of PgBouncer.
    let lab = lab();
    let access = lab.pg_access_by_socket(PgRoute::Through).unwrap();
    let mut client = RawPg::open(&access).unwrap();
    client.start(&access, VERSION_3_0, &[]).unwrap();
    let asked: Frame = client.read().unwrap();
    assert_eq!(asked.tag, b'R');
    client.start(&access, VERSION_3_0, &[]).unwrap();
    let refused = client.read().unwrap();
    assert_eq!((refused.tag, refused.field(b'C').as_deref()), (b'E', Some("08P01")));
    assert!(client.read_to_end().unwrap().is_empty());
}

#[test]
fn a_connection_that_says_nothing_is_gone_at_the_grace_time() {
    let limits = "login_grace = \"2s\"".parse().unwrap();
    let lab = super::lab_with(casemate_tests::rig::Options { limits, ..Default::default() });
    let access = through(&lab);
    let mut silent = RawPg::open(&access).unwrap();
    let mut stuck = RawPg::connect(&access).unwrap();
    stuck.start(&access, VERSION_3_0, &[]).unwrap();
    assert_eq!(stuck.read().unwrap().tag, b'R');
    assert!(silent.is_silent_for(Duration::from_millis(500)).unwrap());
    assert!(silent.read_to_end().is_ok());
    let _ = stuck.read_to_end();
    assert!(RawPg::login(&access).is_ok());
}

#[test]
fn a_bound_login_is_refused_where_somebody_sits_in_between() {
    let lab = lab();
    let access = through(&lab);
    // A client that could bind and was told that the server cannot: the offer was taken away on the way.
    let mut client = RawPg::connect(&access).unwrap();
    client.start(&access, VERSION_3_0, &[]).unwrap();
    client.read().unwrap();
    client.send(&message::sasl_initial("SCRAM-SHA-256", b"y,,n=,r=abcdefgh")).unwrap();
    let refused = client.read().unwrap();
    assert_eq!((refused.tag, refused.field(b'C').as_deref()), (b'E', Some("28000")));
    // One that never could is let in.
    let mut client = RawPg::connect(&access).unwrap();
    client.start(&access, VERSION_3_0, &[]).unwrap();
    assert!(client.authenticate(&access, Binding::Never).is_ok());
}
