//! What the record says about files, held against the files themselves.

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use casemate_tests::client::Route;
use casemate_tests::noise::Noise;
use casemate_tests::process::{nothing, run};
use casemate_tests::rig::Lab;
use casemate_tests::scale::{MIB, pick};
use casemate_tests::vault::Transcript;
use serde_json::Value;

use super::session::{CLIENT, paramiko};
use super::{closed_sessions, only_session};

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `sftp` with a batch of commands through the bastion.
pub(super) fn sftp(lab: &Lab, batch: &str) {
    let mut sftp = lab.client.program("sftp");
    run(sftp.args(["-q", "-b", "-", "through"]), Cursor::new(batch.to_owned()), PATIENCE).unwrap().ok().unwrap();
}

/// Makes a file of `len` bytes that do not repeat.
pub(super) fn file(lab: &Lab, name: &str, len: usize, seed: u64) -> PathBuf {
    let path = lab.dir.join(name);
    fs::write(&path, Noise::new(seed).chunk(len)).unwrap();
    path
}

pub(super) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(super) fn digest(path: &Path) -> String {
    blake3::hash(&fs::read(path).unwrap()).to_hex().to_string()
}

/// The ends of files whose content went that way (0 from the client, 1 from the target), by path.
fn ends(transcript: &Transcript, side: u64) -> BTreeMap<String, Value> {
    let ends = transcript.of("file.close").filter(|event| event["side"] == side);
    ends.map(|event| (event["path"].as_str().unwrap().to_owned(), event.clone())).collect()
}

/// Checks that a transfer is told whole: the file at that path, its size, its digest and that it went well.
pub(super) fn assert_told(transcript: &Transcript, side: u64, path: &Path) {
    let ends = ends(transcript, side);
    let end = ends.get(text(path)).unwrap_or_else(|| panic!("{} is not told: {ends:?}", path.display()));
    let told = (&end["bytes"], &end["offset"], &end["blake3"], &end["result"]);
    let len = fs::metadata(path).unwrap().len();
    assert_eq!(told, (&len.into(), &0.into(), &digest(path).into(), &0.into()), "{}", path.display());
}

/// The one operation of that name on that path.
fn op<'a>(transcript: &'a Transcript, what: &str, path: &Path) -> &'a Value {
    let found: Vec<_> =
        transcript.of("file.op").filter(|event| event["what"] == what && event["path"] == text(path)).collect();
    assert_eq!(found.len(), 1, "{what} {}: {:?}", path.display(), transcript.of("file.op").collect::<Vec<_>>());
    found[0]
}

#[test]
fn what_sftp_does_is_told_with_its_result() {
    let lab = Lab::start().unwrap();
    let local = file(&lab, "local", 3 << 20, 1);
    let (dir, back) = (lab.dir.join("there"), lab.dir.join("back"));
    let at = |name: &str| dir.join(name);
    let batch = [
        format!("mkdir {}", dir.display()),
        format!("put {} {}", local.display(), at("a").display()),
        format!("chmod 600 {}", at("a").display()),
        format!("rename {} {}", at("a").display(), at("b").display()),
        format!("ln -s b {}", at("link").display()),
        format!("ln {} {}", at("b").display(), at("hard").display()),
        format!("get {} {}", at("b").display(), back.display()),
        format!("ls {}", dir.display()),
        format!("rm {}", at("hard").display()),
        format!("-rm {}", at("none").display()),
        format!("-put {} {}", local.display(), at("no/where").display()),
        format!("-rmdir {}", dir.display()),
    ];
    sftp(&lab, &(batch.join("\n") + "\n"));
    assert_eq!(fs::read(&back).unwrap(), fs::read(&local).unwrap());

    let transcript = only_session(&lab.vault());
    assert_eq!(transcript.of("file.lost").count(), 0, "{:?}", transcript.of("file.lost").collect::<Vec<_>>());
    assert_told(&transcript, 1, &at("b"));
    // It had another name when it was written.
    let up = &ends(&transcript, 0)[text(&at("a"))];
    assert_eq!((&up["bytes"], &up["blake3"]), (&(3 << 20).into(), &digest(&local).into()));
    assert_eq!(op(&transcript, "mkdir", &dir)["result"], 0);
    assert_eq!(op(&transcript, "setstat", &at("a"))["mode"].as_u64().unwrap() & 0o777, 0o600);
    let rename = op(&transcript, "posix-rename@openssh.com", &at("a"));
    assert_eq!((&rename["to"], &rename["result"]), (&text(&at("b")).into(), &0.into()));
    assert_eq!(op(&transcript, "symlink", &at("link"))["to"], "b");
    assert_eq!(op(&transcript, "hardlink@openssh.com", &at("b"))["to"], text(&at("hard")));
    assert_eq!(op(&transcript, "remove", &at("hard"))["result"], 0);
    let missing = op(&transcript, "remove", &at("none"));
    assert_eq!((&missing["result"], &missing["error"]), (&2.into(), &"No such file".into()));
    assert_ne!(op(&transcript, "rmdir", &dir)["result"], 0);
    let refused = transcript.of("file.open").find(|event| event["path"] == text(&at("no/where"))).unwrap();
    assert_eq!((&refused["result"], &refused["error"]), (&2.into(), &"No such file".into()));
    assert!(transcript.of("file.op").any(|event| event["what"] == "readdir" && event["count"].as_u64() > Some(2)));
    // By default the content is in the record as well.
    assert_eq!(transcript.of("file.elided").count(), 0);
    let content = fs::read(&local).unwrap();
    assert!(is_in_record(&transcript, &content));
}

#[test]
fn a_resumed_transfer_says_where_it_began() {
    let lab = Lab::start().unwrap();
    let local = file(&lab, "local", 900_000, 2);
    let whole = fs::read(&local).unwrap();
    let (there, back) = (lab.dir.join("there"), lab.dir.join("back"));
    fs::write(&there, &whole[..300_000]).unwrap();
    fs::write(&back, &whole[..500_000]).unwrap();
    sftp(
        &lab,
        &format!("reput {} {}\nreget {} {}\n", local.display(), there.display(), there.display(), back.display()),
    );
    assert_eq!((fs::read(&there).unwrap(), fs::read(&back).unwrap()), (whole.clone(), whole.clone()));
    let transcript = only_session(&lab.vault());
    for (side, offset) in [(0, 300_000), (1, 500_000)] {
        let end = &ends(&transcript, side)[text(&there)];
        let rest = blake3::hash(&whole[offset..]).to_hex().to_string();
        assert_eq!((&end["offset"], &end["bytes"]), (&offset.into(), &(whole.len() - offset).into()));
        assert_eq!(end["blake3"], rest, "side {side}");
    }
}

/// A small tree, and its files below it.
fn tree(lab: &Lab) -> (PathBuf, [PathBuf; 3]) {
    let tree = lab.dir.join("tree");
    fs::create_dir_all(tree.join("sub/deep")).unwrap();
    let files = ["one", "sub/empty", "sub/deep/three"].map(PathBuf::from);
    for (at, (name, len)) in files.iter().zip([200_000, 0, 40_000]).enumerate() {
        fs::write(tree.join(name), Noise::new(at as u64 + 10).chunk(len)).unwrap();
    }
    (tree, files)
}

#[test]
fn scp_is_told_in_both_protocols_recursive_too() {
    let lab = Lab::start().unwrap();
    let (tree, files) = tree(&lab);
    for (protocol, number) in [("-s", 0), ("-O", 1)] {
        let there = lab.dir.join(format!("there{number}"));
        let back = lab.dir.join(format!("back{number}"));
        let remote = format!("through:{}", there.display());
        let mut up = lab.client.program("scp");
        run(up.args(["-q", "-p", "-r", protocol]).arg(&tree).arg(&remote), nothing(), PATIENCE).unwrap().ok().unwrap();
        let mut down = lab.client.program("scp");
        run(down.args(["-q", "-r", protocol, &remote]).arg(&back), nothing(), PATIENCE).unwrap().ok().unwrap();

        let sessions = closed_sessions(&lab.vault(), 2 * number + 2);
        let (put, get) = (&sessions[2 * number].1, &sessions[2 * number + 1].1);
        for name in &files {
            assert_eq!(fs::read(back.join(name)).unwrap(), fs::read(tree.join(name)).unwrap());
            assert_told(put, 0, &there.join(name));
            assert_told(get, 1, &there.join(name));
        }
        for transcript in [put, get] {
            assert_eq!(transcript.of("file.lost").count(), 0, "{protocol}");
            assert_eq!(transcript.of("file.close").filter(|event| event["result"] != 0).count(), 0, "{protocol}");
        }
    }
}

#[test]
fn scp_that_fails_is_told_with_the_reason() {
    let lab = Lab::start().unwrap();
    let local = file(&lab, "local", 1000, 3);
    for remote in ["/nowhere/at/all", "/proc/version"] {
        let mut scp = lab.client.program("scp");
        let done =
            run(scp.args(["-q", "-O"]).arg(&local).arg(format!("through:{remote}")), nothing(), PATIENCE).unwrap();
        assert_ne!(done.code(), 0);
    }
    let sessions = closed_sessions(&lab.vault(), 2);
    for (session, remote) in sessions.iter().zip(["/nowhere/at/all", "/proc/version"]) {
        let told: Vec<_> = session.1.events.iter().filter(|event| event["path"] == remote).collect();
        assert!(told.iter().any(|event| event["result"] == 1 && event["error"].is_string()), "{remote}: {told:?}");
    }
}

#[test]
fn paramiko_is_told_and_a_name_that_is_no_text_stays_whole() {
    let lab = Lab::start().unwrap();
    let local = file(&lab, "local", pick(5, 40) as usize * MIB as usize + 77, 4);
    let script = format!(
        r#"
sftp = client.open_sftp()
sftp.put({local:?}, {there:?})
sftp.get({there:?}, {back:?})
with sftp.open({mixed:?}, "w+") as both:
    both.write(b"0123456789")
    both.seek(4)
    both.write(b"x")
with sftp.open({odd}, "w") as odd:
    odd.write(b"odd")
sftp.rename({mixed:?}, {moved:?})
client.close()
"#,
        local = text(&local),
        there = text(&lab.dir.join("there")),
        back = text(&lab.dir.join("back")),
        mixed = text(&lab.dir.join("mixed")),
        moved = text(&lab.dir.join("moved")),
        odd = format_args!("b{:?} + bytes([255])", text(&lab.dir.join("odd"))),
    );
    paramiko(&lab, &(CLIENT.to_owned() + &script)).ok().unwrap();
    let transcript = only_session(&lab.vault());
    assert_eq!(transcript.of("file.lost").count(), 0);
    for side in [0, 1] {
        let end = &ends_by(&transcript, side, text(&lab.dir.join("there")));
        assert_eq!(
            (&end["bytes"], &end["blake3"]),
            (&fs::metadata(&local).unwrap().len().into(), &digest(&local).into())
        );
    }
    let mixed = ends_by(&transcript, 0, text(&lab.dir.join("mixed")));
    assert_eq!(
        (&mixed["why"], &mixed["blake3"], &mixed["bytes"]),
        (&"not sequential".into(), &Value::Null, &11.into())
    );
    assert_eq!(op(&transcript, "rename", &lab.dir.join("mixed"))["to"], text(&lab.dir.join("moved")));
    let odd = transcript.of("file.close").find(|event| event["path"]["base64"].is_string()).expect("bytes stay bytes");
    assert_eq!(odd["blake3"], blake3::hash(b"odd").to_hex().to_string());
}

fn ends_by(transcript: &Transcript, side: u64, path: &str) -> Value {
    let mut found = transcript.of("file.close").filter(|event| event["side"] == side && event["path"] == path);
    found
        .next()
        .unwrap_or_else(|| panic!("{path} of side {side}: {:?}", transcript.of("file.close").collect::<Vec<_>>()))
        .clone()
}

#[test]
fn rsync_and_git_are_told_by_their_words_and_counts() {
    let lab = Lab::start().unwrap();
    let local = file(&lab, "local", 300_000, 5);
    let there = lab.dir.join("there");
    let shell = format!("ssh -F {}", lab.client.config().display());
    let mut rsync = Command::new("rsync");
    rsync.args(["-a", "-e", &shell]).arg(&local).arg(format!("through:{}", there.display()));
    run(&mut rsync, nothing(), PATIENCE).unwrap().ok().unwrap();
    // Whether there is a git at the target does not matter: the words are what was asked for.
    lab.exec(Route::Through, "git-upload-pack '/no such/repository.git'").unwrap();

    let sessions = closed_sessions(&lab.vault(), 2);
    let told = |at: usize| {
        let all: Vec<_> = sessions[at].1.of("file.command").collect();
        assert_eq!(all.len(), 1);
        all[0].clone()
    };
    let rsync = told(0);
    let argv: Vec<&str> = rsync["argv"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!((argv[0], argv[1], *argv.last().unwrap()), ("rsync", "--server", text(&there)));
    assert_eq!(rsync["sent"], sessions[0].1.bytes("ssh.in").len());
    assert_eq!(rsync["received"], sessions[0].1.bytes("ssh.out").len());
    assert!(rsync["sent"].as_u64() > Some(300_000));
    assert_eq!(told(1)["argv"], serde_json::json!(["git-upload-pack", "/no such/repository.git"]));
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Whether any 24 bytes of a file, looked for at 40 places, are anywhere in the exported record.
pub(super) fn is_in_record(transcript: &Transcript, content: &[u8]) -> bool {
    let step = content.len() / 40;
    transcript.streams.values().any(|stream| {
        (0..40).any(|at| content.get(at * step..at * step + 24).is_some_and(|part| contains(stream, part)))
    })
}
