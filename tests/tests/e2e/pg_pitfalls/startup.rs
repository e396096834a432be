//! From the first byte to the first ReadyForQuery, as libpq of every age does it and as an attacker might.

use casemate_tests::pg_client::PgRoute;
use casemate_tests::postgres::{self, Version};
use casemate_tests::process::{nothing, run};
use casemate_tests::raw_pg::message::{gss_request, ssl_request, startup};
use casemate_tests::raw_pg::{ALPN, Binding, RawPg, VERSION_3_0, VERSION_3_2, VERSION_GREASED, tags};
use casemate_tests::rig::{Lab, Options};

use crate::pg_clients::{PATIENCE, lab};

/// A rig whose target speaks protocol 3.2 and direct TLS.
fn lab_18() -> Lab {
    let target = postgres::Options { version: Version::Eighteen, ..postgres::Options::default() };
    Lab::with(&Options { postgres: Some(target), ..Options::default() }).unwrap()
}

#[test]
fn a_greased_start_is_negotiated_once_and_goes_on() {
    let lab = lab();
    for route in PgRoute::ALL {
        let access = lab.pg_access(route).unwrap();
        let grease = [("_pq_.test_protocol_negotiation", ""), ("application_name", "greasy"), ("_pq_.other", "x")];
        let (mut client, greeting) = RawPg::login_as(&access, VERSION_GREASED, &grease).unwrap();
        let negotiations = greeting.negotiations();
        assert_eq!(negotiations.len(), 1, "{route:?} {:?}", greeting.frames);
        let (version, names) = &negotiations[0];
        assert!([VERSION_3_0, VERSION_3_2].contains(version), "{route:?} {version:#x}");
        assert_eq!(*names, ["_pq_.test_protocol_negotiation", "_pq_.other"], "{route:?}");
        // Before anything else: libpq takes it nowhere else.
        assert_eq!(greeting.frames[0].tag, b'v', "{route:?}");
        assert_eq!(super::first_value(&client.query("show application_name").unwrap()).unwrap(), b"greasy");
    }
}

#[test]
fn protocol_3_2_brings_a_long_key_that_cancels() {
    let lab = lab_18();
    for route in PgRoute::ALL {
        let access = lab.pg_access(route).unwrap();
        let (mut client, greeting) = RawPg::login_as(&access, VERSION_3_2, &[]).unwrap();
        assert!(greeting.negotiations().is_empty(), "{route:?} {:?}", greeting.frames);
        let (pid, key) = greeting.key.unwrap();
        assert!((16..=256).contains(&key.len()), "{route:?}: {} bytes", key.len());
        assert_eq!(
            super::first_value(&client.query("select pg_backend_pid()").unwrap()).unwrap(),
            pid.to_string().as_bytes()
        );
        super::cancel::sleep_is_cancelled(lab.postgres().unwrap(), &access, &mut client, (pid, &key), true);

        // Who asks for no more than 3.0 gets four bytes, whatever the target could do.
        let (_, greeting) = RawPg::login_as(&access, VERSION_3_0, &[]).unwrap();
        assert_eq!(greeting.key.unwrap().1.len(), 4, "{route:?}");
    }
}

#[test]
fn protocol_3_1_which_never_was_is_taken_down_to_3_0() {
    for lab in [lab(), lab_18()] {
        let access = lab.pg_access(PgRoute::Through).unwrap();
        let (mut client, greeting) = RawPg::login_as(&access, VERSION_3_0 + 1, &[]).unwrap();
        assert_eq!(greeting.negotiations(), [(VERSION_3_0, Vec::new())]);
        assert_eq!(greeting.key.unwrap().1.len(), 4);
        assert_eq!(super::first_value(&client.query("select 'in'").unwrap()).unwrap(), b"in");
    }
}

#[test]
fn psql_can_demand_channel_binding() {
    let lab = lab();
    for route in PgRoute::ALL {
        let mut psql = lab.pg_access(route).unwrap().program("psql", &lab.dir).unwrap();
        psql.env("PGCHANNELBINDING", "require").args(["-XAtc", "select 'bound'"]);
        assert_eq!(run(&mut psql, nothing(), PATIENCE).unwrap().ok().unwrap().out(), "bound\n");
    }
}

#[test]
fn a_client_that_was_told_less_than_was_offered_is_refused() {
    let lab = lab();
    for route in PgRoute::ALL {
        let access = lab.pg_access(route).unwrap();
        let login = |binding| {
            let mut client = RawPg::connect(&access).unwrap();
            client.start(&access, VERSION_3_0, &[]).unwrap();
            client.authenticate(&access, binding)
        };
        assert_eq!(login(Binding::Prefer).unwrap().mechanisms, ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"], "{route:?}");
        login(Binding::Never).unwrap();
        let refused = login(Binding::Stripped).unwrap_err().to_string();
        assert!(refused.contains("FATAL"), "{route:?}: {refused}");
    }
}

#[test]
fn direct_tls_needs_its_alpn_and_nothing_before_it() {
    let lab = lab_18();
    for route in PgRoute::ALL {
        let access = lab.pg_access(route).unwrap();
        let mut client = RawPg::open(&access).unwrap();
        client.start_tls(&access, &[b"other", ALPN]).unwrap();
        assert_eq!(client.alpn().as_deref(), Some(ALPN), "{route:?}");
        client.start(&access, VERSION_3_0, &[]).unwrap();
        client.authenticate(&access, Binding::Prefer).unwrap();
        assert_eq!(tags(&client.query("select 1").unwrap()), "TDCZ");

        for alpn in [&[][..], &[&b"http/1.1"[..]]] {
            let mut client = RawPg::open(&access).unwrap();
            // Refused in the handshake or right behind it.
            if client.start_tls(&access, alpn).is_ok() && client.start(&access, VERSION_3_0, &[]).is_ok() {
                let answer = client.read_to_end().unwrap_or_default();
                assert!(!answer.starts_with(b"R"), "{route:?} {alpn:?} {:?}", String::from_utf8_lossy(&answer));
            }
        }
    }
}

#[test]
fn gss_is_declined_and_tls_follows() {
    // This one is built without GSS, as the bastion is.
    let lab = lab_18();
    for route in PgRoute::ALL {
        let access = lab.pg_access(route).unwrap();
        let mut client = RawPg::open(&access).unwrap();
        client.send(&gss_request()).unwrap();
        assert_eq!(client.read_byte().unwrap(), b'N', "{route:?}");
        client.send(&ssl_request()).unwrap();
        assert_eq!(client.read_byte().unwrap(), b'S', "{route:?}");
        client.start_tls(&access, &[]).unwrap();
        client.start(&access, VERSION_3_0, &[]).unwrap();
        client.authenticate(&access, Binding::Prefer).unwrap();
    }
}

#[test]
fn plaintext_behind_an_ssl_request_is_never_read_as_protocol() {
    let lab = lab();
    for route in PgRoute::ALL {
        let access = lab.pg_access(route).unwrap();
        let smuggled = startup(VERSION_3_0, &[("user", access.user.as_str()), ("database", "orders")]);
        for behind in [&smuggled[..], &ssl_request(), b"\0", b"Q\0\0\0\x0dselect 1\0"] {
            let mut client = RawPg::open(&access).unwrap();
            client.send(&[&ssl_request()[..], behind].concat()).unwrap();
            client.finish_sending();
            let answer = client.read_to_end().unwrap();
            // `S` may be on its way already, and an alert of TLS; a login may not.
            let after = answer.strip_prefix(b"S").unwrap_or(&answer);
            assert!(!after.starts_with(b"R") && !after.starts_with(b"S"), "{route:?} {answer:?}");

            // The attack itself: what lay before TLS would count as said inside it.
            let mut client = RawPg::open(&access).unwrap();
            client.send(&[&ssl_request()[..], behind].concat()).unwrap();
            let went_on = client.read_byte().is_ok_and(|byte| byte == b'S') && client.start_tls(&access, &[]).is_ok();
            if went_on && client.start(&access, VERSION_3_0, &[]).is_ok() {
                assert_ne!(client.read().map_or(0, |frame| frame.tag), b'R', "{route:?}");
            }
        }
    }
}
