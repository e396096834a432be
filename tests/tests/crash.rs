//! `kill -9` at random instants under live load, and what the vault shows afterwards.
//!
//! The oracle is the logs that client and target keep themselves (`casemate_tests::oracle`). One run of each durability
//! in `make test`, thirty kills in all; three hundred of each in `make soak`. Same code.

// A test that goes wrong is to stop on the spot, helpers included.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use casemate_tests::noise::{Noise, fresh_seed};
use casemate_tests::oracle::Talker;
use casemate_tests::process::wait_until;
use casemate_tests::rig::{Lab, Options};
use casemate_tests::scale::pick;
use casemate_tests::vault::{Transcript, Vault};

/// Sessions that live when the daemon is killed.
const SESSIONS: usize = 20;

#[test]
fn kill_nine_loses_nothing_that_was_seen_when_strict() {
    kills("strict");
}

#[test]
fn kill_nine_loses_nothing_that_was_seen_when_causal() {
    kills("causal");
}

#[test]
fn kill_nine_loses_nothing_that_was_seen_when_process() {
    kills("process");
}

fn kills(durability: &str) {
    let count = pick(10, 300);
    let seed = fresh_seed();
    eprintln!("{durability}: {count} kills, seed {seed} (CASEMATE_SEED={seed} repeats the instants)");
    let mut noise = Noise::new(seed);
    let mut lab = Lab::with(&Options { durability: Some(durability.to_owned()), ..Options::default() }).unwrap();
    let logs = lab.dir.join("logs");
    fs::create_dir_all(&logs).unwrap();
    let vault = lab.vault();
    let mut judged = BTreeSet::new();
    let (mut violations, mut sessions, mut seen) = (Vec::new(), 0usize, 0u64);
    let (mut accepting, mut sealed) = (Vec::new(), Vec::new());

    for kill in 0..count {
        let start = Instant::now();
        let mut talkers: Vec<Talker> = (0..SESSIONS)
            .map(|number| Talker::start(&lab.client, &logs, &format!("k{kill}n{number}"), noise.next_u64()).unwrap())
            .collect();
        // Three kills in four hit twenty sessions at work; the fourth hits them while they are being set up.
        if kill % 4 != 3 {
            let all = wait_until(Duration::from_secs(60), || talkers.iter().all(Talker::live));
            assert!(all, "{} of {SESSIONS} sessions live", talkers.iter().filter(|talker| talker.live()).count());
            std::thread::sleep(Duration::from_micros(noise.below(700_000)));
        } else {
            std::thread::sleep(Duration::from_micros(noise.below(start.elapsed().as_micros() as u64 + 1_500_000)));
        }
        lab.bastion.kill_nine();
        for talker in &mut talkers {
            assert!(talker.wait(Duration::from_secs(20)), "a client outlives its bastion");
        }
        // The target's halves end when their connections do; their logs are complete then.
        let ended = wait_until(Duration::from_secs(30), || lab.target.process.descendants().is_empty());
        assert!(ended, "at the target there still run {:?}", lab.target.process.descendants());

        accepting.push(lab.rig.bastion.again().unwrap());
        let restarted = Instant::now();
        // The vault learns of the orphans when they are sealed; until then it does not even list the last ones.
        let mut fresh = Vec::new();
        let settled = wait_until(Duration::from_secs(30), || {
            fresh.extend(new_transcripts(&vault, &mut judged));
            talkers.iter().all(|talker| !talker.took_place() || talker.find(&fresh).is_some())
        });
        sealed.push(restarted.elapsed());
        assert!(settled, "sessions that took place are not in the vault, kill {kill}, seed {seed}: {:?}", vault.ls());
        assert!(!lab.bastion.log().contains("panicked"), "{}", lab.bastion.log());
        sessions += fresh.len();
        for talker in &talkers {
            violations.extend(talker.judge(&fresh).unwrap());
            seen += talker.seen_bytes();
        }
        vault.verify(&[]).unwrap().unaltered().unwrap();
        assert!(violations.is_empty(), "kill {kill} of {durability}, seed {seed}:\n{}", violations.join("\n"));
    }
    lab.bastion.stop();

    let worst = |all: &[Duration]| all.iter().max().copied().unwrap_or_default();
    eprintln!(
        "{durability}: 0 violations in {count} kills of {sessions} sessions, {seen} bytes seen (95 %: below {:.1} % of kills); \
         accepting again after {:?} at most, orphans sealed after {:?} at most",
        300.0 / count as f64,
        worst(&accepting),
        worst(&sealed)
    );
    // It should take 1 s and 5 s; the slack is for a machine that does other things as well.
    assert!(worst(&accepting) <= Duration::from_secs(4), "{accepting:?}");
    assert!(worst(&sealed) <= Duration::from_secs(15), "{sealed:?}");
}

/// Exports the sessions that ended, were sealed, and were not looked at before.
fn new_transcripts(vault: &Vault, judged: &mut BTreeSet<String>) -> Vec<(String, Transcript)> {
    let mut fresh = Vec::new();
    let sessions = vault
        .outline()
        .unwrap()
        .into_iter()
        .filter(|session| session.get("kind").is_some_and(|kind| kind == "session"));
    for session in sessions {
        let ended = matches!(session.get("status").and_then(|status| status.as_str()), Some("closed" | "recovered"));
        let id = session.get("session").and_then(|id| id.as_str()).unwrap().to_owned();
        if ended && judged.insert(id.clone()) {
            let transcript = vault.transcript(&id).unwrap();
            fresh.push((id, transcript));
        }
    }
    fresh
}
