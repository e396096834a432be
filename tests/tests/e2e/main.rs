//! End to end: stock clients, a real sshd, the real daemon, and its vault read as an auditor would.

// A test that goes wrong is to stop on the spot, helpers included.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod bad_input;
mod catalogue;
mod clients;
mod cost;
mod daemon;
mod elided_files;
mod figures;
mod file_audit;
mod files;
mod forward;
mod full_disk;
mod hostile;
mod jump;
mod limits;
mod login;
mod logs;
mod pg_audit;
mod pg_clients;
mod pg_front;
mod pg_pitfalls;
mod play;
mod portal;
mod retention;
mod secrecy;
mod session;
mod stalled_disk;
mod story;
mod transparency;
mod trust;

use std::time::Duration;

use casemate_tests::vault::{Transcript, Vault};

/// Waits until `count` sessions ended and are in the vault, and returns them, oldest first.
fn closed_sessions(vault: &Vault, count: usize) -> Vec<(String, Transcript)> {
    vault.settle(count, Duration::from_secs(10)).unwrap();
    vault.transcripts().unwrap()
}

/// Returns the transcript of the only session, closed.
fn only_session(vault: &Vault) -> Transcript {
    let mut sessions = closed_sessions(vault, 1);
    assert_eq!(sessions.len(), 1, "one session was expected");
    sessions.remove(0).1
}

/// Fails unless the verifier rests on that slip, and on nothing without it. Stop the daemon first.
fn slip_is_an_anchor(vault: &Vault, slip: &str) {
    let (alone, with) = (vault.verify(&[]).unwrap(), vault.verify(&["--slip", slip]).unwrap());
    alone.clean_but_for_trust().unwrap();
    with.clean_but_for_trust().unwrap();
    assert!(alone.summary["as_of"].is_null(), "nothing was kept: {}", alone.summary);
    assert_eq!(alone.anchors().len(), 0, "{}", alone.summary);
    assert!(with.summary["as_of"].is_string(), "the slip was not looked at: {}", with.summary);
    assert_eq!(with.anchors().into_iter().collect::<Vec<_>>(), [("slip".to_owned(), 1)], "{}", with.summary);
    assert_eq!(alone.term("opened"), with.term("opened"));
}

/// Tells whether the daemon's own record holds an event of that type that says all of this.
///
/// It is in the vault once its segment rolled or the daemon ended: stop the daemon first.
fn control_says(vault: &Vault, kind: &str, texts: &[&str]) -> bool {
    let controls = vault.of_kind("control").unwrap();
    controls.iter().any(|control| {
        let transcript = vault.transcript(control["session"].as_str().unwrap()).unwrap();
        transcript.of(kind).any(|event| texts.iter().all(|text| event.to_string().contains(text)))
    })
}
