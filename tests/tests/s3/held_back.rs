//! Acceptance 6: somebody keeps a node's anchors back for a day in which it works, and then gives it the state that it had before, with
//! its genuine older anchors. No verdict on that is ever 0, and where the vault knows more than the node, the node does not start.
//!
//! The day is simulated for everybody: the daemon, the server that dates what it gets, and the auditor are shown another time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use casemate_tests::client::Route;
use casemate_tests::clocks;
use casemate_tests::officer;
use casemate_tests::process::wait_until;
use casemate_tests::rig::{BUCKET, Lab, Options};
use casemate_tests::s3::ceph::{self, Ceph, OWNER, Store};
use casemate_tests::s3::faults::Faults;
use casemate_tests::s3::{blocking, versions};
use casemate_tests::vault::{Vault, Verdict};

const PATIENCE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A node, the way to its bucket, and an auditor who has looked at it.
struct World {
    lab: Lab,
    faults: Faults,
    desk: tempfile::TempDir,
    /// How much later it is than it was.
    later: Duration,
}

impl World {
    /// A node that has worked for a while, to the auditor's satisfaction.
    fn new() -> Self {
        let mut lab = Lab::with(&Options { s3: true, retain: Some("30d".to_owned()), ..Options::default() }).unwrap();
        let faults = lab.rig.spoil_bucket().unwrap();
        let desk = tempfile::tempdir().unwrap();
        let rules = [("plain", ""), ("strict", "anchor_age_max = \"12h\"\n")];
        for (name, rule) in rules {
            let dir = desk.path().join(name);
            fs::create_dir(&dir).unwrap();
            officer::vouch(&lab.bastion, &dir, &format!("{rule}retain_min = \"1d\"")).unwrap();
        }
        let world = Self { lab, faults, desk, later: Duration::ZERO };
        world.work("before");
        for (trust, _) in rules {
            // A start that has ended, and a session.
            let shipped = || {
                let verdict = world.verify(trust, true, &[]);
                verdict.exit == 0 && verdict.term("clean") == 2
            };
            assert!(wait_until(PATIENCE, shipped), "{}", world.told(trust));
        }
        world
    }

    fn work(&self, word: &str) {
        assert_eq!(self.lab.exec(Route::Through, &format!("echo {word}")).unwrap().out(), format!("{word}\n"));
    }

    /// Lets so much time pass, in which the daemon does not run.
    fn pass(&mut self, time: Duration) {
        self.lab.bastion.stop();
        self.later += time;
    }

    fn serve(&mut self) -> anyhow::Result<()> {
        let env = clocks::ahead(self.later).unwrap();
        let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.lab.rig.bastion.again_with(&env).map(drop)
    }

    /// A day's work without a word to the bucket.
    fn day_apart(&mut self) {
        self.faults.refuse_connections().unwrap();
        for hour in ["6", "12", "18", "24"] {
            self.pass(6 * HOUR);
            self.serve().unwrap();
            self.work(hour);
        }
        self.lab.bastion.stop();
        // Whoever runs the node has heard of it.
        let log = self.lab.bastion.log();
        assert!(log.contains("alert=\"vault-behind\""), "{log}");
    }

    /// Shows the server the day that it is.
    fn turn_server(&mut self) {
        let server = self.lab.rig.s3.take().unwrap();
        server.stop();
        let options = ceph::Options { port: Some(server.port), store: Store::File, ahead: self.later };
        self.lab.rig.s3 = Some(Ceph::start(&server.dir, &options).unwrap());
    }

    fn copy(&self) -> PathBuf {
        let to = self.desk.path().join("copy");
        fs::create_dir(&to).unwrap();
        for part in ["state", "vault"] {
            copy(&self.lab.bastion.dir.join(part), &to.join(part));
        }
        to
    }

    /// Gives the node what it had, and keeps aside what it has.
    fn restore(&self, from: &Path) -> Vault {
        let lost = self.desk.path().join("lost");
        fs::create_dir(&lost).unwrap();
        for part in ["state", "vault"] {
            fs::rename(self.lab.bastion.dir.join(part), lost.join(part)).unwrap();
            copy(&from.join(part), &self.lab.bastion.dir.join(part));
        }
        Vault { dir: lost.join("vault"), ..self.lab.vault() }
    }

    /// The auditor's verdict on the bucket by one of the trust files, with what they remember or without.
    fn verify(&self, trust: &str, state: bool, more: &[&str]) -> Verdict {
        let mut bucket = self.lab.bucket().unwrap();
        bucket.trust = self.desk.path().join(trust).join("trust.toml");
        bucket.env.extend(clocks::ahead(self.later).unwrap());
        let file = self.desk.path().join(trust).join("state.json");
        let remembered = ["--state", file.to_str().unwrap()];
        let remembered: &[&str] = if state { &remembered } else { &[] };
        bucket.verify(&[remembered, more].concat()).unwrap()
    }

    fn told(&self, trust: &str) -> String {
        format!("{}\n{}", self.verify(trust, false, &[]).summary, self.lab.bastion.log())
    }

    /// Holds every verdict that an auditor could come to against 0, and returns their exit codes: of the plain trust file and of the
    /// one that says how old an anchor may be, without and with what the auditor remembers.
    #[track_caller]
    fn never_clean(&self, when: &str) -> [i32; 4] {
        let all = [("plain", false), ("plain", true), ("strict", false), ("strict", true)];
        let exits = all.map(|(trust, state)| self.verify(trust, state, &[]).exit);
        eprintln!("{when}: exit {exits:?}");
        assert!(exits.iter().all(|exit| [1, 3, 4].contains(exit)), "{when}: {exits:?}");
        exits
    }

    fn objects(&self) -> usize {
        let owner = self.lab.s3().unwrap().client(OWNER);
        blocking(async { versions(&owner, BUCKET, "v1/").await }).unwrap().len()
    }
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// The newest checkpoint in a vault of one node.
fn newest_note(vault: &Path) -> PathBuf {
    let names = casemate_tests::vectors::files(vault).unwrap().into_iter().filter(|name| name.ends_with(".note"));
    let size = |name: &String| name.rsplit('/').next().unwrap().split('-').next().unwrap().parse::<u64>().unwrap();
    vault.join(names.max_by_key(size).unwrap())
}

/// The bucket never heard of the day: it has nothing to say against the state from before, and the hole stays.
#[test]
fn a_day_that_was_kept_back_is_never_clean_again() {
    let mut world = World::new();
    world.lab.bastion.stop();
    let before = world.copy();
    world.day_apart();
    let lost = world.restore(&before);
    world.turn_server();
    world.faults.take_connections().unwrap();
    // The newest anchor is a day old: an exception, and by a trust file that says how old one may be no verdict.
    assert_eq!(world.never_clean("restored"), [3, 3, 4, 4]);
    // A directory says nothing of when it got what it holds: of that one, only a trust file that bounds the age of anchors tells.
    let state = world.desk.path().join("strict/state.json");
    let mut local = Vault { trust: world.desk.path().join("strict/trust.toml"), ..world.lab.vault() };
    local.env.extend(clocks::ahead(world.later).unwrap());
    assert_eq!(local.verify(&["--state", state.to_str().unwrap()]).unwrap().exit, 4);
    // Whoever kept something of that day has the proof.
    let kept = newest_note(&lost.dir);
    let verdict = world.verify("plain", false, &["--checkpoint", kept.to_str().unwrap()]);
    assert_eq!(verdict.exit, 1, "{}", verdict.summary);

    // It works on, and what it does now is anchored: the day before is not.
    world.serve().unwrap();
    world.work("after");
    let shipped = || {
        let verdict = world.verify("strict", false, &[]);
        verdict.exit != 4 && verdict.term("clean") >= 4 && verdict.term("pending") == 0
    };
    assert!(wait_until(PATIENCE, shipped), "{}", world.told("strict"));
    assert_eq!(world.never_clean("working on"), [3, 3, 3, 3]);
    let exceptions = world.verify("plain", true, &[]).summary["exceptions"].to_string();
    assert!(exceptions.contains("what was recorded then rests on the node's word"), "{exceptions}");
}

/// The bucket knows of work that the restored state does not.
#[test]
fn a_node_that_knows_less_than_its_bucket_does_not_start() {
    let mut world = World::new();
    world.lab.bastion.stop();
    let before = world.copy();
    world.serve().unwrap();
    world.work("known");
    // Two starts that have ended, and two sessions.
    let shipped = || {
        let verdict = world.verify("plain", true, &[]);
        verdict.exit == 0 && verdict.term("clean") == 4
    };
    assert!(wait_until(PATIENCE, shipped), "{}", world.told("plain"));
    world.day_apart();
    world.restore(&before);
    world.turn_server();
    let known = world.objects();

    // As long as it does not reach the bucket nobody can object; it ends as soon as it does.
    world.serve().unwrap();
    world.work("unknown");
    world.faults.take_connections().unwrap();
    let process = world.lab.bastion.process;
    assert!(wait_until(PATIENCE, || !process.alive()), "it goes on: {}", world.lab.bastion.log());
    let refused = world.serve().unwrap_err().to_string();
    assert!(refused.contains("rolled this node back") || refused.contains("another root"), "{refused}");
    assert_eq!(world.objects(), known, "nothing was put beside the truth");
    assert_eq!(world.never_clean("refused"), [3, 3, 4, 4]);
}
