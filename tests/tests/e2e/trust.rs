//! From a bastion that vouches for itself to a verdict that an auditor can sign: the officers' trust file and a checkpoint
//! that was kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use casemate_tests::bastion::Bastion;
use casemate_tests::bins;
use casemate_tests::client::Route;
use casemate_tests::keys;
use casemate_tests::process::{nothing, run};
use casemate_tests::rig::Lab;
use casemate_tests::vault::Vault;
use serde_json::Value;

use super::closed_sessions;

/// Copies the newest checkpoint out of a vault with one node, to where the bastion cannot reach it.
pub(super) fn keep(vault: &Vault, desk: &Path) -> PathBuf {
    let log = fs::read_dir(vault.dir.join("v1/log")).unwrap().next().unwrap().unwrap().path();
    let days = fs::read_dir(log.join("cp")).unwrap().map(|day| day.unwrap().path());
    let notes = days.flat_map(|day| fs::read_dir(day).unwrap().map(|note| note.unwrap().path()));
    let size = |note: &PathBuf| -> u64 {
        note.file_name().unwrap().to_str().unwrap().split('-').next().unwrap().parse().unwrap()
    };
    let kept = desk.join("kept.note");
    fs::copy(notes.max_by_key(size).unwrap(), &kept).unwrap();
    kept
}

/// Signs as `casemate trust check --help` says.
fn sign(officer: &Path, file: &Path) {
    sign_as(officer, "casemate-trust-v1", file);
}

/// Signs for a namespace, behind the signatures that are there.
pub(super) fn sign_as(officer: &Path, namespace: &str, file: &Path) {
    let line =
        format!("ssh-keygen -Y sign -n {namespace} -f '{}' < '{1}' >> '{1}.sig'", officer.display(), file.display());
    run(Command::new("sh").args(["-c", &line]), nothing(), Duration::from_secs(30)).unwrap().ok().unwrap();
}

#[test]
fn officers_and_a_kept_checkpoint_take_a_vault_from_undecided_to_clean() {
    let lab = Lab::start().unwrap();
    for word in ["one", "two"] {
        assert_eq!(lab.exec(Route::Through, &format!("echo {word}")).unwrap().code(), 0);
    }
    closed_sessions(&lab.vault(), 2);
    lab.bastion.stop();
    let desk = tempfile::tempdir().unwrap();
    let mut vault = lab.vault();
    let kept = keep(&vault, desk.path());
    let kept = ["--checkpoint", kept.to_str().unwrap()];

    // The bastion vouches for itself: nothing is decided, whatever was kept.
    let verdict = vault.verify(&kept).unwrap();
    assert_eq!((verdict.exit, verdict.term("clean")), (4, 3), "{}", verdict.summary);

    // What it asks for goes into a file that it cannot sign.
    let config = lab.bastion.config();
    let asked = Bastion::casemate(&["trust", "request", "--config", config.to_str().unwrap()]).unwrap().ok().unwrap();
    let asked = asked.out();
    let (node, readers) = asked.split_once("\n\n[[node]]").unwrap().1.split_once("\n[[recipient]]").unwrap();
    assert!(readers.contains("auditor") && readers.contains("spare"), "{asked}");
    let mut text =
        "version = 1\nself_asserted = false\norganisation = \"Example Bank\"\nissued = 2026-01-02T00:00:00Z\n\
                    quorum = 2\nanchor_age_max = \"1h\"\nretain_min = \"365d\"\n"
            .to_owned();
    let officers = [("Ada", "ed25519"), ("Bob", "ecdsa")].map(|(name, kind)| {
        let key = desk.path().join(name);
        let public = keys::make(&key, kind).unwrap();
        text += &format!("\n[[officer]]\nname = \"{name}\"\nkey = \"{public}\"\nfrom = 2026-01-01T00:00:00Z\n");
        key
    });
    let file = desk.path().join("trust.toml");
    fs::write(&file, format!("{text}\n[[node]]{node}")).unwrap();
    vault.trust = file.clone();
    let trust = ["trust", "check", "--trust", file.to_str().unwrap()];
    let exits = |vault: &Vault| (Bastion::casemate(&trust).unwrap().code(), vault.verify(&kept).unwrap().exit);
    assert_eq!(exits(&vault), (1, 4), "nobody signed");
    sign(&officers[0], &file);
    assert_eq!(exits(&vault), (1, 4), "one of two signed");
    sign(&officers[1], &file);
    assert_eq!(exits(&vault), (0, 0), "{}", vault.verify(&kept).unwrap().summary);
    let verdict = vault.verify(&kept).unwrap();
    assert_eq!(verdict.summary["trust"]["organisation"], "Example Bank");
    assert_eq!(verdict.summary["trust"]["signed_by"].as_array().unwrap().len(), 2);
    assert_eq!(vault.verify(&[]).unwrap().exit, 4, "without an anchor nothing shows that the end is here");

    // A trust file that says who can read: the auditor's identity shows that the auditor can, and nothing about others.
    let recipient = |name: &str, duty: &str| {
        let identity = vault.identity.with_file_name(format!("{duty}.agekey"));
        let text = fs::read_to_string(identity).unwrap();
        let key = text.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap();
        format!("\n[[recipient]]\nname = \"{name}\"\nkey = \"{key}\"\nduty = \"{duty}\"\n")
    };
    let state = desk.path().join("state.json");
    let with_state = [&kept[..], &["--state", state.to_str().unwrap()]].concat();
    for (recipients, exit, name) in [
        (recipient("the safe", "spare"), 4, Value::Null),
        (recipient("the safe", "spare") + &recipient("Grace", "auditor"), 0, Value::from("Grace")),
    ] {
        fs::write(&file, format!("{text}{recipients}\n[[node]]{node}")).unwrap();
        fs::remove_file(desk.path().join("trust.toml.sig")).unwrap();
        officers.iter().for_each(|officer| sign(officer, &file));
        let verdict = vault.verify(&with_state).unwrap();
        assert_eq!(verdict.exit, exit, "{}", verdict.summary);
        assert_eq!(verdict.summary["opened_by"][0]["name"], name);
        assert_eq!(verdict.summary["opened_sessions"], 3);
    }
    // Whoever verifies later without an identity still learns when it was tried.
    let mut later = Command::new(bins::path("casemate-replay").unwrap());
    later.arg("verify").arg(&vault.dir).arg("--trust").arg(&file).args(&with_state);
    let later = run(&mut later, nothing(), Duration::from_secs(30)).unwrap().ok().unwrap();
    assert!(later.out().contains("3 of 3 sessions opened"), "{}", later.out());

    // The officers vouch for a key, not for what comes under its name.
    let session = &vault.of_kind("session").unwrap()[0]["session"];
    let found = run(
        Command::new("find").arg(&vault.dir).args(["-path", &format!("*{}*.seg", session.as_str().unwrap())]),
        nothing(),
        Duration::from_secs(30),
    );
    let segment = PathBuf::from(found.unwrap().out().trim_end());
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(&segment).unwrap();
    fs::write(&segment, bytes).unwrap();
    assert_eq!(vault.verify(&kept).unwrap().exit, 1);
}
