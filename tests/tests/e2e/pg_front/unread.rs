//! A client that is let in and takes nothing of what it is then told: its session can be ended like any other.

use std::time::Duration;

use casemate_tests::raw_pg::{VERSION_3_0, message};
use casemate_tests::raw_ssh::{Key, Peer, Put, Take, msg, open};
use casemate_tests::rig::{DATABASE, Lab, Options};
use rustix::process::Signal;

use super::lab_with;
use crate::closed_sessions;

/// How long an end may take; far above what it takes.
const BOUND: Duration = Duration::from_secs(5);

/// AuthenticationOk, and no byte of the greeting behind it.
const WINDOW: u32 = 9;

/// A rig whose database can be reached from inside SSH without a token, by somebody whose SSH does anything.
fn ground(limits: &str) -> (Lab, Key) {
    let key = Key::number(1);
    let more = format!(
        "[[person]]\nname = \"mallory\"\nkeys = [\"{}\"]\nduties = [\"admin\"]\n\
         [[access]]\nperson = \"mallory\"\ntargets = [\"{DATABASE}\"]\nroles = [\"postgres\"]\nreason = \"tests\"\n",
        key.line()
    );
    let limits = limits.parse().unwrap();
    (lab_with(Options { tunnel_token: Some(false), more, limits, ..Options::default() }), key)
}

/// Logs in to the database through a channel whose window ends where the greeting begins, and waits until the target let it in.
fn stall(lab: &Lab, key: &Key) -> Peer {
    let mut peer = Peer::log_in(lab.bastion.port, "mallory", key).unwrap();
    let channel = open("direct-tcpip", 0, WINDOW, 1 << 15).string(DATABASE).u32(5432).string("127.0.0.1").u32(4711);
    peer.send(channel).unwrap();
    let theirs = peer.opened(0).unwrap();
    let startup = message::startup(VERSION_3_0, &[("user", "mallory"), ("database", DATABASE)]);
    peer.send(Put::message(msg::CHANNEL_DATA).u32(theirs).string(startup)).unwrap();
    let said = peer.expect(&[msg::CHANNEL_DATA]).unwrap();
    let mut said = Take::body(&said);
    said.u32().unwrap();
    assert_eq!(said.string().unwrap(), message::frame(b'R', &[0; 4]), "AuthenticationOk, which fills the window");
    let target = lab.postgres().unwrap();
    let sessions = "select count(*) from pg_stat_activity where datname = 'orders' and pid <> pg_backend_pid()";
    assert!(casemate_tests::process::wait_until(BOUND, || target.sql("postgres", sessions).is_ok_and(|n| n == "1")));
    // Nothing tells from outside that the greeting waits to be taken.
    std::thread::sleep(Duration::from_millis(500));
    peer
}

/// Types a verb at the bastion, on a connection of its own, and returns what it says.
fn types(lab: &Lab, key: &Key, verb: &str) -> String {
    let mut peer = Peer::log_in(lab.bastion.port, "mallory", key).unwrap();
    let theirs = peer.open(0, 1 << 20, 1 << 15).unwrap();
    peer.exec(theirs, verb).unwrap();
    String::from_utf8(peer.read_to_close(theirs).unwrap()).unwrap()
}

#[test]
fn a_session_whose_greeting_nobody_takes_ends_when_it_is_killed_and_when_the_daemon_stops() {
    let (lab, key) = ground("drain = \"1s\"");
    let _killed = stall(&lab, &key);
    let live = types(&lab, &key, "sessions --json");
    let session = live.lines().find(|line| line.contains("\"orders\"")).expect("the session is listed");
    let session: serde_json::Value = serde_json::from_str(session).unwrap();
    types(&lab, &key, &format!("kill {}", session["session"].as_str().unwrap()));
    lab.vault().settle(1, BOUND).expect("what is killed ends");
    let _stopped = stall(&lab, &key);
    lab.bastion.process.signal(Signal::TERM);
    assert!(lab.bastion.process.wait_gone(BOUND + BOUND), "the daemon waits for a client that takes nothing");
    let sessions = closed_sessions(&lab.vault(), 2);
    let ended = |text: &str| {
        sessions.iter().any(|(_, transcript)| {
            transcript.of("ended").any(|event| event["reason"].as_str().unwrap_or_default().contains(text))
        })
    };
    assert!(ended("mallory") && ended("the portal session ended"), "{sessions:?}");
}

#[test]
fn a_greeting_may_take_as_long_as_dialling() {
    let (lab, key) = ground("dial = \"2s\"");
    let _peer = stall(&lab, &key);
    lab.vault().settle(1, BOUND).expect("a client that takes nothing is not waited for");
    let (_, transcript) = &closed_sessions(&lab.vault(), 1)[0];
    assert!(transcript.of("ended").any(|event| event["by"] == "client"), "{:?}", transcript.events);
}
