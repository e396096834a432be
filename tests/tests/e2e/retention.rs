//! What becomes of sessions in the end: held by order of two officers, retired when their time is over, and restored now and then to
//! see that they can be.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use casemate_certs::vkey::NodeKey;
use casemate_recorder::transcript::event::{Event, Side, ssh_out};
use casemate_recorder::{CloseReason, Protocol, Recorder, RecorderConfig, SessionSpec, TranscriptKind};
use casemate_tests::bastion::Bastion;
use casemate_tests::clocks::Ago;
use casemate_tests::keys;
use casemate_tests::process::{Done, nothing, run};
use casemate_tests::rig::{self, Lab, Options, PORTAL};
use casemate_tests::vault::Vault;
use serde_json::Value;

use super::trust::{keep, sign_as};
use super::{closed_sessions, control_says};

const PATIENCE: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(86_400);

/// A bastion with an auditor, two officers, and sessions that were recorded three days ago to be kept for one.
struct House {
    lab: Lab,
    desk: tempfile::TempDir,
    old: Vec<String>,
}

impl House {
    fn new() -> Self {
        let (place, desk) = (Lab::place().unwrap(), tempfile::tempdir().unwrap());
        let at = place.path().join("rig/bastion");
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        let config = Bastion::init(&at).unwrap();
        let old = record_old(&at, config["node"].as_str().unwrap());
        let erin = keys::make(&desk.path().join("erin"), "ed25519").unwrap();
        let lab = Lab::over(place, &Options { more: rig::person("erin", &[&erin], "auditor"), ..Options::default() });
        Self { lab: lab.unwrap(), desk, old }
    }

    fn desk(&self, name: &str) -> PathBuf {
        self.desk.path().join(name)
    }

    /// Puts a trust file with two officers where the bastion looks for one, and beside the auditor.
    fn appoint(&self) -> Vault {
        let config = self.lab.bastion.config();
        let asked =
            Bastion::casemate(&["trust", "request", "--config", config.to_str().unwrap()]).unwrap().ok().unwrap();
        let asked = asked.out();
        let (node, _) = asked.split_once("\n\n[[node]]").unwrap().1.split_once("\n[[recipient]]").unwrap();
        // The log begins before the key was made: its sessions were recorded by a clock of the past.
        let node: String = node
            .lines()
            .map(|line| match line.starts_with("from = ") {
                true => "from = 2026-01-01T00:00:00Z\n".to_owned(),
                false => format!("{line}\n"),
            })
            .collect();
        let mut text = "version = 1\nself_asserted = false\norganisation = \"Example Bank\"\n\
                        issued = 2026-01-02T00:00:00Z\nquorum = 2\n"
            .to_owned();
        for name in ["ada", "bob"] {
            let public = keys::make(&self.desk(name), "ed25519").unwrap();
            text += &format!("\n[[officer]]\nname = \"{name}\"\nkey = \"{public}\"\nfrom = 2026-01-01T00:00:00Z\n");
        }
        let file = self.desk("trust.toml");
        fs::write(&file, format!("{text}\n[[node]]{node}")).unwrap();
        ["ada", "bob"].iter().for_each(|name| sign_as(&self.desk(name), "casemate-trust-v1", &file));
        for name in ["trust.toml", "trust.toml.sig"] {
            fs::copy(self.desk(name), self.lab.bastion.dir.join(name)).unwrap();
        }
        Vault { trust: file, ..self.lab.vault() }
    }

    /// Asks as the auditor, with a file as standard input.
    fn ask(&self, verb: &str, input: Option<&[&Path]>) -> Done {
        let mut ssh = self.lab.client.program("ssh");
        let identity = format!("IdentityFile={}", self.desk("erin").display());
        ssh.args(["-o", &identity, "-l", "erin", PORTAL, verb]);
        let Some(files) = input else { return run(&mut ssh, nothing(), PATIENCE).unwrap() };
        let all: Vec<u8> = files.iter().flat_map(|file| fs::read(file).unwrap()).collect();
        let joined = self.desk("input");
        fs::write(&joined, all).unwrap();
        run(&mut ssh, fs::File::open(&joined).unwrap(), PATIENCE).unwrap()
    }

    /// Has an order made, signed by these, and handed in.
    fn order(&self, verb: &str, session: &str, officers: &[&str]) -> Done {
        let order = self.desk("order");
        fs::write(self.desk("order.sig"), "").unwrap();
        let made = self.ask(&format!("{verb} {session}"), None);
        assert_eq!(made.code(), 0, "{}", made.err());
        assert!(made.err().contains("ssh-keygen -Y sign -n casemate-hold-v1"), "{}", made.err());
        fs::write(&order, made.out()).unwrap();
        officers.iter().for_each(|name| sign_as(&self.desk(name), "casemate-hold-v1", &order));
        self.ask("submit", Some(&[&order, &self.desk("order.sig")]))
    }

    fn rows(&self, verb: &str) -> Vec<Value> {
        let done = self.ask(verb, None).ok().unwrap();
        done.out().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Records two sessions with the node's own key, state and vault.
#[tokio::main(flavor = "current_thread")]
async fn record_old(at: &Path, node: &str) -> Vec<String> {
    let key = NodeKey::parse(&fs::read_to_string(at.join("keys/node.key")).unwrap()).unwrap();
    let recorder = Recorder::start(RecorderConfig {
        clock: Arc::new(Ago::new(3 * DAY)),
        retain: DAY,
        ..RecorderConfig::new(at.join("state"), at.join("vault"), node.to_owned(), key.signing_key().clone())
    })
    .unwrap();
    let mut sessions = Vec::new();
    for text in ["first\n", "second\n"] {
        let spec = SessionSpec { kind: TranscriptKind::Session, protocol: Some(Protocol::Ssh), policy_hash: [0; 32] };
        let session = recorder.open_session(spec, Vec::new()).await.unwrap();
        let shown = Event::stream(ssh_out::TYPE, 0, Bytes::from_static(text.as_bytes()));
        drop(session.record(Side::Target, shown).receipt().await.unwrap());
        sessions.push(session.id().to_string());
        session.close(CloseReason::Client, Some(0)).await.unwrap();
    }
    recorder.shutdown();
    sessions
}

fn refused(done: &Done, why: &str) {
    assert_eq!(done.code(), 1, "{}{}", done.out(), done.err());
    assert!(done.err().contains(why), "{why}: {}", done.err());
}

#[test]
fn sessions_whose_time_is_over_go_and_held_ones_stay() {
    let mut house = House::new();
    let old = house.old.clone();
    let [first, second] = &old[..] else { panic!("two sessions") };
    for verb in ["retire", "hold", "lift", "submit"] {
        let words = if ["hold", "lift"].contains(&verb) { format!("{verb} {first}") } else { verb.to_owned() };
        let done = run(house.lab.client.program("ssh").arg(PORTAL).arg(words), nothing(), PATIENCE).unwrap();
        refused(&done, &format!("{verb} is for auditors"));
    }
    let listed = house.ask("retire", None).out();
    assert!(listed.contains(first) && listed.contains(second), "{listed}");
    assert!(listed.contains("2 sessions of ") && listed.contains("may go"), "{listed}");

    // Whoever has no officers cannot hold; one officer is not two, and one who signs twice is one.
    refused(&house.order("hold", first, &[]), "no signature came");
    let stranger = house.desk("mallory");
    keys::make(&stranger, "ed25519").unwrap();
    refused(&house.order("hold", first, &["mallory"]), "no officers are known here: the trust file is self-asserted");
    let vault = house.appoint();
    refused(&house.order("hold", first, &["ada", "mallory"]), "signed by 1 of 2 officers");
    refused(&house.order("hold", first, &["ada", "ada"]), "signed by 1 of 2 officers");
    refused(&house.order("lift", first, &["ada", "bob"]), "no hold stands on");
    let long = house.desk("long");
    fs::write(&long, vec![b'x'; 40 * 1024]).unwrap();
    refused(&house.ask("submit", Some(&[&long])), "more than 32768 bytes came");
    refused(&house.ask("submit", Some(&[&house.desk("order.sig")])), "is no order about a hold");
    refused(&house.ask("hold 0199", None), "is no session's id");
    refused(&house.ask("hold 019aacd1-0000-7000-8000-000000000001", None), "opens no session");
    let held = house.order("hold", first, &["ada", "bob"]);
    assert_eq!(held.code(), 0, "{}", held.err());
    assert!(held.out().contains("is held") && held.out().contains("enforce"), "{}", held.out());
    refused(&house.order("hold", first, &["ada", "bob"]), "stands on");

    // The other one goes; the held one stays, whoever asks again.
    let rows = house.rows("retire --delete --json");
    assert_eq!((&rows[0]["session"], rows.len()), (&Value::from(second.as_str()), 2));
    assert_eq!((rows[1]["held"].as_u64(), rows[1]["removed_segments"].as_u64()), (Some(1), Some(1)));
    let rows = house.rows("retire --delete --json");
    assert_eq!((rows.len(), rows[0]["removed_segments"].as_u64()), (1, Some(0)));
    house.lab.bastion.stop();
    let kept = keep(&vault, house.desk.path());
    let kept = ["--checkpoint", kept.to_str().unwrap()];
    let verdict = vault.verify(&kept).unwrap();
    let status = |id: &str| verdict.sessions.iter().find(|row| row["session"] == id).unwrap()["status"].clone();
    assert_eq!((status(first), status(second)), ("clean".into(), "retired".into()), "{}", verdict.summary);
    assert_eq!((verdict.exit, verdict.term("retired")), (3, 1), "{}", verdict.summary);
    for (what, says) in [("hold", "casemate-hold-v1 set"), ("retire", "erin retired 1 session whose time was over")] {
        assert!(control_says(&vault, "act", &[what, says, "erin"]), "{what}");
    }
    assert!(control_says(&vault, "alert", &["sessions-retired"]));

    // Lifted, it goes too; what was deleted without a lift would be missing.
    house.lab.rig.bastion.again().unwrap();
    let lifted = house.order("lift", first, &["bob", "ada"]);
    assert_eq!(lifted.code(), 0, "{}", lifted.err());
    refused(&house.ask("submit", Some(&[&house.desk("order"), &house.desk("order.sig")])), "no hold stands on");
    let rows = house.rows("retire --delete --json");
    // With it the record of the start that made it, which no start reads any more.
    assert!(rows.len() == 3 && rows.iter().any(|row| row["session"] == first.as_str()), "{rows:?}");
    house.lab.bastion.stop();
    let newer = keep(&vault, house.desk.path());
    let verdict = vault.verify(&["--checkpoint", newer.to_str().unwrap()]).unwrap();
    assert_eq!((verdict.exit, verdict.term("retired"), verdict.term("missing")), (3, 3, 0), "{}", verdict.summary);
}

#[test]
fn a_restore_test_is_signed_and_handed_in_and_one_that_fails_raises_an_alert() {
    let house = House::new();
    let vault = house.appoint();
    let done = house.lab.exec(casemate_tests::client::Route::Through, "echo restore me").unwrap();
    assert_eq!(done.code(), 0);
    closed_sessions(&vault, 3);
    let result = house.desk("result");
    let test = |sample: &str| {
        let _ = fs::remove_file(house.desk("result.sig"));
        let trust = vault.trust.to_str().unwrap();
        vault.replay("restore-test", &["--trust", trust, "--sample", sample, "-o", result.to_str().unwrap()]).unwrap()
    };
    let hand_in = |signer: &str, namespace: &str| {
        let _ = fs::remove_file(house.desk("result.sig"));
        sign_as(&house.desk(signer), namespace, &result);
        house.ask("submit", Some(&[&result, &house.desk("result.sig")]))
    };
    // Nothing outside vouches for a directory: what came back is whole, and not more.
    let done = test("100");
    assert_eq!(done.code(), 4, "{}{}", done.out(), done.err());
    let text = fs::read_to_string(&result).unwrap();
    assert_eq!(text, done.out());
    let first = text.lines().next().unwrap();
    let tried: u64 = first.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(tried >= 3 && first.contains(&format!("restored {tried} of {tried}")), "{text}");
    assert!(house.old.iter().all(|session| text.contains(&format!("session {session} restored: "))), "{text}");
    assert!(done.err().contains("ssh-keygen -Y sign -n casemate-restore-v1"), "{}", done.err());
    refused(&hand_in("ada", "casemate-restore-v1"), ", none of your keys; sign with one that you log in with");
    refused(&hand_in("erin", "casemate-hold-v1"), "the signature was made for \"casemate-hold-v1\"");
    let noted = hand_in("erin", "casemate-restore-v1");
    assert_eq!(noted.code(), 0, "{}", noted.err());
    assert!(noted.out().contains(&format!("{tried} of {tried} sessions were restored")), "{}", noted.out());
    assert_eq!(test("1").out().lines().filter(|line| line.starts_with("session ")).count(), 1);

    // A vault in which one segment is gone, and one is changed.
    let segments = casemate_tests::vectors::files(&vault.dir).unwrap();
    let of = |session: &str| segments.iter().find(|name| name.contains(session) && name.ends_with(".seg")).unwrap();
    let (gone, changed) = (vault.dir.join(of(&house.old[0])), vault.dir.join(of(&house.old[1])));
    fs::remove_file(gone).unwrap();
    let mut bytes = fs::read(&changed).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(&changed).unwrap();
    fs::write(&changed, bytes).unwrap();
    let done = test("100");
    assert_eq!(done.code(), 1, "{}", done.out());
    for session in &house.old {
        assert!(done.out().contains(&format!("session {session} failed: ")), "{}", done.out());
    }
    let noted = hand_in("erin", "casemate-restore-v1");
    assert_eq!(noted.code(), 0, "{}", noted.err());
    house.lab.bastion.stop();
    assert!(control_says(
        &vault,
        "act",
        &["restore-test", "erin", &format!("restored {tried} of {tried}"), "SSH SIGNATURE"]
    ));
    assert!(control_says(&vault, "alert", &["restore-failed", &format!("brought back {} of", tried - 2)]));
    // Anybody sees in the log when that was, without an identity.
    let acts = &vault.verify(&[]).unwrap().summary["nodes"][0]["acts"];
    assert_eq!((acts["restore-test"].as_u64(), acts["restore-failed"].as_u64()), (Some(1), Some(1)), "{acts}");
}
