//! Sessions that somebody ends: the client reads why between two messages, the target is let go, and it takes no second.

use std::time::{Duration, Instant};

use casemate_tests::raw_pg::{RawPg, message};
use casemate_tests::rig::Options;

use super::{ask, lab, lab_with, through};
use crate::only_session;

/// The FATAL at the end of what the server said.
fn last_words(client: &mut RawPg) -> (String, String) {
    loop {
        let frame = client.read().expect("a last word");
        if frame.tag == b'E' {
            return (frame.field(b'C').unwrap_or_default(), frame.field(b'M').unwrap_or_default());
        }
    }
}

#[test]
fn a_session_that_is_killed_reads_why_and_its_statement_ends() {
    let lab = lab();
    let target = lab.postgres().unwrap();
    let mut client = RawPg::login(&through(&lab)).unwrap();
    // The target has the second before the first has ended.
    client.send(&[message::query(b"select pg_sleep(61)"), message::query(b"select pg_sleep(62)")].concat()).unwrap();
    assert!(target.comes_to_run(1, "select pg_sleep(61)").unwrap());
    let live = ask(&lab, "sessions --json").out();
    let session = live.lines().find(|line| line.contains("\"orders\"")).expect("the session is listed");
    let session: serde_json::Value = serde_json::from_str(session).unwrap();
    let id = session["session"].as_str().unwrap();
    let before = Instant::now();
    let done = ask(&lab, &format!("kill {id}"));
    assert_eq!(done.code(), 0, "{}", done.err());
    let (sqlstate, text) = last_words(&mut client);
    assert!(before.elapsed() < Duration::from_secs(3), "{:?}", before.elapsed());
    assert_eq!(sqlstate, "57P01");
    assert!(text.starts_with("casemate: ") && text.contains("alice"), "{text}");
    assert!(client.read_to_end().unwrap().is_empty(), "and nothing after it");
    assert!(target.comes_to_run(0, "select pg_sleep(6").unwrap(), "the target goes on with what was killed");
    let transcript = only_session(&lab.vault());
    let cancelled: Vec<_> = transcript.of("pg.cancel").map(|event| event["forwarded"].as_u64()).collect();
    // One may be enough for both: the server signals the process, and then its group with the process in it (`signal_child`).
    assert!(!cancelled.is_empty() && cancelled.iter().all(|forwarded| *forwarded == Some(1)), "{cancelled:?}");
    let outcomes: Vec<_> = transcript.of("pg.done").filter_map(|event| event["sqlstate"].as_str()).collect();
    assert_eq!(outcomes, ["57014", "57014"], "the record says what became of them");
    assert!(transcript.of("ended").any(|event| event["by"] == "bastion"));
    assert!(ask(&lab, &format!("watch {id}")).code() != 0);
}

#[test]
fn a_quiet_session_ends_at_its_limit() {
    let limits = "idle = \"2s\"".parse().unwrap();
    let lab = lab_with(Options { limits, ..Options::default() });
    let mut client = RawPg::login(&through(&lab)).unwrap();
    client.query("select 1").unwrap();
    let (sqlstate, text) = last_words(&mut client);
    assert_eq!((sqlstate.as_str(), text.as_str()), ("57P01", "casemate: this session ends: nothing happened for 2 s"));
}

#[test]
fn the_daemon_that_stops_says_so() {
    let limits = "drain = \"1s\"".parse().unwrap();
    let lab = lab_with(Options { limits, ..Options::default() });
    let mut client = RawPg::login(&through(&lab)).unwrap();
    lab.bastion.stop();
    let (sqlstate, text) = last_words(&mut client);
    assert_eq!(
        (sqlstate.as_str(), text.as_str()),
        ("57P01", "casemate: this session ends: the bastion is shutting down")
    );
}

#[test]
fn a_message_that_is_none_ends_its_session_and_no_other() {
    let lab = lab();
    let access = through(&lab);
    let mut other = RawPg::login(&access).unwrap();
    for (bytes, said) in [
        (&b"S\0\0\0\x03"[..], "invalid length 3 of a message of type S"),
        (b"S\0\0\0\0", "invalid length 0"),
        (b"Q\x7f\xff\xff\xff", "invalid length 2147483647"),
        (b"Q\x80\0\0\0", "invalid length 2147483648"),
        (b"B\xff\xff\xff\xff", "invalid length 4294967295"),
        (b"S\0\0\x27\x11", "invalid length 10001"),
        (b"p\0\0\0\x08abcd", "invalid frontend or backend message type 112"),
        (b"\0\x03\0\0", "invalid frontend or backend message type 0"),
    ] {
        let mut client = RawPg::login(&access).unwrap();
        client.send(bytes).unwrap();
        let (sqlstate, text) = last_words(&mut client);
        assert_eq!(sqlstate, "08P01", "{bytes:?}");
        assert!(text.contains(said), "{bytes:?}: {text}");
        assert!(client.read_to_end().unwrap().is_empty());
    }
    assert_eq!(other.query("select 1").unwrap()[1].row(), [Some(b"1".to_vec())]);
}
