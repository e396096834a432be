//! The disk runs full: everybody is told and ends, what they saw is kept, and with room again logins work.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use casemate_tests::client::Route;
use casemate_tests::oracle::differ;
use casemate_tests::process::wait_until;
use casemate_tests::rig::{Lab, Options};
use casemate_tests::tmpfs::SmallDisk;
use casemate_tests::vault::Transcript;

const PATIENCE: Duration = Duration::from_secs(60);

/// What somebody reads whose session ends, and who is not let in.
const ENDS: &str = "this session ends: the bastion has no space left to record it";
const REFUSED: &str = "the bastion has no space left to record a session; its operator must make room";

/// A real client, what it saw, when it was told and when it ended.
struct Watched {
    tag: String,
    child: Child,
    out: Arc<Mutex<Vec<u8>>>,
    err: JoinHandle<(Option<Instant>, String)>,
    done: JoinHandle<()>,
}

impl Watched {
    /// Starts `command` at the target; it says `ready` and waits for `go` first.
    fn start(lab: &Lab, tag: &str, go: &Path, command: &str) -> Self {
        let gate = format!(": {tag}; echo ready; until [ -e '{}' ]; do sleep 0.1; done; {command}", go.display());
        let mut ssh = lab.client.ssh(Route::Through, &["-T"]);
        ssh.arg("--").arg(gate).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = ssh.spawn().unwrap();
        let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let out = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&out);
        let done = std::thread::spawn(move || {
            let mut buffer = [0; 64 * 1024];
            while let Ok(len @ 1..) = stdout.read(&mut buffer) {
                seen.lock().unwrap().extend_from_slice(&buffer[..len]);
            }
        });
        let err = std::thread::spawn(move || {
            let (mut text, mut told, mut buffer) = (Vec::new(), None, [0; 1024]);
            while let Ok(len @ 1..) = stderr.read(&mut buffer) {
                text.extend_from_slice(&buffer[..len]);
                if told.is_none() && String::from_utf8_lossy(&text).contains(ENDS) {
                    told = Some(Instant::now());
                }
            }
            (told, String::from_utf8_lossy(&text).into_owned())
        });
        Self { tag: tag.to_owned(), child, out, err, done }
    }

    fn ready(&self) -> bool {
        self.out.lock().unwrap().starts_with(b"ready\n")
    }

    /// Waits for the end; returns what was seen, when it was told, when it ended, and what it was told.
    fn end(mut self) -> (String, Vec<u8>, Option<Instant>, Instant, String) {
        let ended = wait_until(PATIENCE, || self.child.try_wait().unwrap().is_some());
        let at = Instant::now();
        if !ended {
            let _ = self.child.kill();
        }
        assert_eq!(self.child.wait().unwrap().code(), Some(255), "{} was ended by the bastion", self.tag);
        self.done.join().unwrap();
        let (told, text) = self.err.join().unwrap();
        let out = std::mem::take(&mut *self.out.lock().unwrap());
        (self.tag, out, told, at, text)
    }
}

fn lab_on(disk: &SmallDisk, limits: &str) -> Lab {
    let limits = limits.parse().unwrap();
    Lab::with(&Options { disk: Some(disk.path().to_owned()), limits, ..Options::default() }).unwrap()
}

/// The transcript of the session whose command carries that tag.
fn find<'a>(transcripts: &'a [(String, Transcript)], tag: &str) -> &'a Transcript {
    let tag = format!(": {tag};");
    let found = transcripts.iter().find(|(_, transcript)| transcript.says("ssh.exec", &tag));
    &found.unwrap_or_else(|| panic!("no transcript of {tag}")).1
}

#[test]
fn sessions_end_told_and_sealed_and_with_room_again_logins_work() {
    let disk = SmallDisk::mount(64).unwrap();
    disk.take_up(Some(24)).unwrap();
    let lab = lab_on(&disk, "journal = \"32MiB\"");
    let go = lab.dir.join("go");
    // Together about 5 MB/s that do not compress, and one that says nothing.
    let noise = "while head -c 125000 /dev/urandom; do sleep 0.5; done";
    let mut clients: Vec<_> = (0..20).map(|n| Watched::start(&lab, &format!("writer-{n}"), &go, noise)).collect();
    clients.push(Watched::start(&lab, "idle", &go, "sleep 600"));
    assert!(wait_until(PATIENCE, || clients.iter().all(Watched::ready)), "{}", lab.bastion.log());

    fs::write(&go, "").unwrap();
    let frozen = wait_until(PATIENCE, || lab.bastion.log().contains("recording is frozen"));
    assert!(frozen, "the disk did not run full: {}", lab.bastion.log());
    let frozen = Instant::now();
    let refused = lab.exec(Route::Through, "echo never").unwrap();
    assert!(refused.err().contains(REFUSED), "{}", refused.err());
    assert_eq!((refused.code(), refused.out().as_str()), (255, ""));

    let (mut latest_told, mut latest_end) = (Duration::ZERO, Duration::ZERO);
    let mut seen = Vec::new();
    for end in clients.into_iter().map(|client| std::thread::spawn(move || client.end())).collect::<Vec<_>>() {
        let (tag, out, told, ended, text) = end.join().unwrap();
        let told = told.unwrap_or_else(|| panic!("{tag} was not told: {text:?}"));
        latest_told = latest_told.max(told.saturating_duration_since(frozen));
        latest_end = latest_end.max(ended.saturating_duration_since(frozen));
        seen.push((tag, out));
    }
    // Told within 2 s, ended within 10 s; the rest is for busy machines.
    assert!(latest_told < Duration::from_secs(4), "told after {latest_told:?}");
    assert!(latest_end < Duration::from_secs(15), "ended after {latest_end:?}");

    assert!(wait_until(PATIENCE, || lab.bastion.log().contains("all sessions have ended")), "{}", lab.bastion.log());
    // The daemon lives, obeys, and says things once.
    lab.bastion.reload();
    assert!(wait_until(PATIENCE, || lab.bastion.log().contains("configuration reloaded")), "{}", lab.bastion.log());
    let refused = lab.exec(Route::Through, "echo never").unwrap();
    assert!(refused.err().contains(REFUSED), "{}", refused.err());
    for line in ["recording is frozen", "no space left: all sessions end", "all sessions have ended"] {
        assert_eq!(lab.bastion.log().matches(line).count(), 1, "{line}: {}", lab.bastion.log());
    }

    disk.give_back().unwrap();
    let room = Instant::now();
    let back = wait_until(PATIENCE, || lab.exec(Route::Through, "echo back").unwrap().out() == "back\n");
    assert!(back, "{}", lab.bastion.log());
    let back = room.elapsed();

    let vault = lab.vault();
    vault.settle(seen.len() + 1, PATIENCE).unwrap();
    let transcripts = vault.transcripts().unwrap();
    assert_eq!(transcripts.len(), seen.len() + 1, "nobody got a session who was refused");
    let mut bytes = 0;
    for (tag, out) in &seen {
        let recorded = find(&transcripts, tag).bytes("ssh.out");
        assert!(recorded.starts_with(out), "{tag}: forwarded and not recorded: {}", differ(out, &recorded));
        bytes += out.len();
    }
    assert!(bytes > 1_000_000, "{bytes} bytes were seen");
    let ends = |status: &str| vault.of_kind("session").unwrap().iter().filter(|s| s["status"] == status).count();
    let (closed, recovered) = (ends("closed"), ends("recovered"));
    lab.bastion.stop();
    assert!(lab.bastion.log().contains("stopped"), "{}", lab.bastion.log());
    let verdict = vault.verify(&[]).unwrap();
    verdict.unaltered().unwrap();
    assert_eq!(verdict.term("open") + verdict.term("pending"), 0, "{}", verdict.summary);
    #[allow(clippy::print_stdout)] // What was measured.
    {
        println!(
            "{} sessions, {bytes} bytes seen: told within {latest_told:?}, ended within {latest_end:?}; {closed} closed and \
         {recovered} recovered; logins {back:?} after there was room",
            seen.len()
        );
    }
}

#[test]
fn a_daemon_without_space_stops_when_told_and_starts_only_with_room() {
    let disk = SmallDisk::mount(64).unwrap();
    // The default limit is sixteen times the disk: the journal takes half of it.
    let mut lab = lab_on(&disk, "");
    let go = lab.dir.join("go");
    let client = Watched::start(&lab, "writer", &go, "head -c 40000000 /dev/urandom");
    assert!(wait_until(PATIENCE, || client.ready()), "{}", lab.bastion.log());
    disk.take_up(None).unwrap();
    fs::write(&go, "").unwrap();
    let (tag, out, told, _, text) = client.end();
    assert!(told.is_some(), "{text:?}: {}", lab.bastion.log());
    assert!(wait_until(PATIENCE, || lab.bastion.log().contains("all sessions have ended")), "{}", lab.bastion.log());
    lab.bastion.process.signal(rustix::process::Signal::TERM);
    assert!(lab.bastion.process.wait_gone(Duration::from_secs(10)), "{}", lab.bastion.log());

    let error = lab.rig.bastion.again().unwrap_err().to_string();
    assert!(error.contains("make room"), "{error}");
    disk.give_back().unwrap();
    lab.rig.bastion.again().unwrap();
    let vault = lab.vault();
    vault.settle(1, PATIENCE).unwrap();
    let recorded = find(&vault.transcripts().unwrap(), &tag).bytes("ssh.out");
    assert!(recorded.starts_with(&out), "forwarded and not recorded: {}", differ(&out, &recorded));
    lab.bastion.stop();
    vault.verify(&[]).unwrap().unaltered().unwrap();
}
