//! Where the grant asks for digests only: what stays out of the record, and that it is accounted for to the byte.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use casemate_tests::client::Route;
use casemate_tests::process::{nothing, run, wait_until};
use casemate_tests::rig::{Lab, Options};
use casemate_tests::scale::pick;
use casemate_tests::vault::Transcript;
use serde_json::Value;

use super::files::{assert_told, digest, file, is_in_record, sftp, text};
use super::{closed_sessions, only_session};

const PATIENCE: Duration = Duration::from_secs(60);

fn lab() -> Lab {
    Lab::with(&Options { content: Some("hash".to_owned()), ..Options::default() }).unwrap()
}

/// The last word of a transcript about the content that a side sent and that is not in it.
fn elided(transcript: &Transcript, side: u64) -> (u64, String) {
    let events: Vec<_> = transcript.of("file.elided").filter(|event| event["side"] == side).collect();
    let mut total = 0;
    for event in &events {
        total += event["bytes"].as_u64().unwrap();
        assert_eq!(event["total"], total, "the counts add up");
    }
    (total, events.last().unwrap()["blake3"].as_str().unwrap().to_owned())
}

#[test]
fn where_only_digests_are_wanted_no_content_is_recorded_and_none_is_lost_on_the_way() {
    let lab = lab();
    let local = file(&lab, "local", 2_500_000, 6);
    let content = fs::read(&local).unwrap();
    let (there, back) = (lab.dir.join("there"), lab.dir.join("back"));
    sftp(&lab, &format!("put {} {}\nget {} {}\n", local.display(), there.display(), there.display(), back.display()));
    assert_eq!((fs::read(&there).unwrap(), fs::read(&back).unwrap()), (content.clone(), content.clone()));
    let remote = format!("through:{}", there.display());
    for (from, to) in [(text(&local), remote.as_str()), (&remote, text(&back))] {
        run(lab.client.program("scp").args(["-q", "-O", from, to]), nothing(), PATIENCE).unwrap().ok().unwrap();
        assert_eq!((fs::read(&there).unwrap(), fs::read(&back).unwrap()), (content.clone(), content.clone()));
    }

    let sessions = closed_sessions(&lab.vault(), 3);
    let hash = digest(&local);
    for (at, sides) in [(0, &[0, 1][..]), (1, &[0]), (2, &[1])] {
        let transcript = &sessions[at].1;
        assert!(transcript.says("grant", "\"content\":\"hash\""));
        assert!(!is_in_record(transcript, &content), "session {at} holds content");
        let mut left_out = 0;
        for side in sides {
            assert_told(transcript, *side, &there);
            assert_eq!(elided(transcript, *side), (content.len() as u64, hash.clone()));
            left_out += content.len();
        }
        // What CLOSE states is what was handed on.
        let kept: usize =
            transcript.streams.iter().filter(|((_, kind), _)| kind != "ssh.err").map(|(_, bytes)| bytes.len()).sum();
        let listed = lab.vault().ls().unwrap();
        let listed = listed.iter().find(|session| session["session"] == *sessions[at].0).unwrap();
        assert_eq!(listed["bytes"], kept + left_out, "{listed}");
    }
    lab.bastion.stop();
    lab.vault().verify(&[]).unwrap().clean_but_for_trust().unwrap();

    // And a reader sees it.
    let show = lab.vault().replay("show", &[&sessions[0].0, "--json"]).unwrap().ok().unwrap();
    let items: Vec<Value> = show.out().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shown: Vec<_> = items.iter().filter(|item| item["type"] == "file.close").collect();
    assert_eq!(shown.len(), 2, "{items:?}");
    for item in shown {
        assert_eq!((&item["path"], &item["bytes"]), (&text(&there).into(), &content.len().into()));
        assert_eq!((&item["blake3"], &item["result"]), (&hash.as_str().into(), &0.into()));
    }
    let plain = lab.vault().replay("show", &[&sessions[0].0]).unwrap().ok().unwrap().out();
    assert!(plain.contains("file.close") && plain.contains(&hash), "{plain}");
}

#[test]
fn a_disguised_command_is_recorded_as_what_it_is() {
    let lab = lab();
    let path = lab.dir.join("x");
    let command = format!("scp -t {}; echo hi; cat", path.display());
    let typed = b"\x00C0644 6 f\nsecret\x00 typed";
    let done = lab.exec_with(Route::Through, &[], &command, &typed[..]).unwrap();
    assert!(done.out().contains("hi\n"), "{:?}", done.out());
    let transcript = only_session(&lab.vault());
    assert!(transcript.of("ssh.exec").any(|event| event["command"] == command));
    assert_eq!(transcript.bytes("ssh.in"), typed);
    assert_eq!(transcript.bytes("ssh.out"), done.stdout);
    assert!(transcript.events.iter().all(|event| !event["type"].as_str().unwrap().starts_with("file.")));
}

#[test]
fn a_program_that_is_no_scp_after_all_is_recorded_whole() {
    // A PATH that gives the name another meaning at the target, as anybody can arrange who may write there.
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let fake = bin.join("scp");
    fs::write(&fake, "#!/bin/sh\nexec cat\n").unwrap();
    fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let sshd = format!("SetEnv PATH={}:/usr/bin:/bin\n", bin.display());
    let lab = Lab::with(&Options { content: Some("hash".to_owned()), sshd, ..Options::default() }).unwrap();
    let typed = b"C0644 6 f\nsecret\x00 typed";
    let done = lab.exec_with(Route::Through, &[], "scp -t /tmp/x", &typed[..]).unwrap();
    assert_eq!(done.stdout, typed, "the fake runs");
    let transcript = only_session(&lab.vault());
    assert_eq!((transcript.bytes("ssh.in"), transcript.bytes("ssh.out")), (typed.to_vec(), typed.to_vec()));
    assert_eq!(transcript.of("file.lost").count(), 1);
}

#[test]
fn after_a_kill_the_running_digest_covers_what_the_target_holds() {
    let mut lab = lab();
    let mib = pick(48, 1024);
    let local = file(&lab, "local", (mib << 20) as usize, 7);
    let source = fs::read(&local).unwrap();
    for round in 0..pick(2, 20) {
        let there = lab.dir.join(format!("there{round}"));
        let batch = lab.dir.join("batch");
        fs::write(&batch, format!("put {} {}\n", local.display(), there.display())).unwrap();
        // Slow enough to be hit in the middle: about 12 MB/s, or 200 where there is more.
        let mut sftp = lab.client.program("sftp");
        sftp.args(["-q", "-l", &(mib * 2000).to_string(), "-b"]).arg(&batch).arg("through");
        let mut sftp = sftp.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let size = || fs::metadata(&there).map_or(0, |meta| meta.len());
        let least = ((2 + 3 * (round % 10)) << 20) * mib / 48;
        assert!(wait_until(PATIENCE, || size() > least), "the transfer is under way");
        lab.bastion.kill_nine();
        sftp.wait().unwrap();
        wait_until(Duration::from_secs(10), || lab.target.process.descendants().is_empty());
        let held = size();
        assert!(held < source.len() as u64, "hit in the middle");
        assert!(source.starts_with(&fs::read(&there).unwrap()), "the target holds a beginning of the file");

        lab.rig.bastion.again().unwrap();
        let sessions = closed_sessions(&lab.vault(), round as usize + 1);
        let transcript = &sessions.last().unwrap().1;
        let (total, hash) = elided(transcript, 0);
        assert!(total >= held, "{total} bytes are accounted for, the target holds {held}");
        assert_eq!(hash, blake3::hash(&source[..total as usize]).to_hex().to_string(), "of {total} bytes");
        assert!(!is_in_record(transcript, &source));
        // The last running digest is what a reader is shown of a file that was never closed.
        let show = lab.vault().replay("show", &[&sessions.last().unwrap().0, "--json"]).unwrap().ok().unwrap().out();
        assert!(show.contains(&hash), "{show}");
    }
    lab.vault().verify(&[]).unwrap().unaltered().unwrap();
}

#[test]
fn a_client_that_leaves_in_the_middle_leaves_a_file_without_an_end() {
    let lab = lab();
    let local = file(&lab, "local", 48 << 20, 8);
    let source = fs::read(&local).unwrap();
    let (there, batch) = (lab.dir.join("there"), lab.dir.join("batch"));
    fs::write(&batch, format!("put {} {}\n", local.display(), there.display())).unwrap();
    let mut sftp = lab.client.program("sftp");
    sftp.args(["-q", "-l", "100000", "-b"]).arg(&batch).arg("through");
    let mut sftp = sftp.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert!(wait_until(PATIENCE, || fs::metadata(&there).is_ok_and(|meta| meta.len() > 3 << 20)));
    sftp.kill().unwrap();
    sftp.wait().unwrap();

    let transcript = only_session(&lab.vault());
    let ends: Vec<_> = transcript.of("file.close").collect();
    assert_eq!(ends.len(), 1, "{ends:?}");
    assert_eq!((&ends[0]["path"], &ends[0]["result"]), (&text(&there).into(), &Value::Null));
    assert_eq!(ends[0]["error"], "the channel ended without an answer");
    let (total, hash) = elided(&transcript, 0);
    assert!(ends[0]["bytes"].as_u64().unwrap() <= total && fs::metadata(&there).unwrap().len() <= total);
    assert_eq!(hash, blake3::hash(&source[..total as usize]).to_hex().to_string());
    let rest = transcript.streams.values().map(Vec::len).sum::<usize>();
    assert!(rest < 1 << 20 && !is_in_record(&transcript, &source), "{rest} bytes of streams");
}
