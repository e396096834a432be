//! Mixed file operations by three clients, held against the target's own log of what its SFTP server did.

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::time::Duration;

use casemate_tests::client::Route;
use casemate_tests::noise::Noise;
use casemate_tests::process::{nothing, run};
use casemate_tests::rig::{Lab, Options};
use casemate_tests::scale::pick;
use casemate_tests::vault::Transcript;
use serde_json::Value;

use super::closed_sessions;
use super::files::text;
use super::session::{CLIENT, paramiko};

const PATIENCE: Duration = Duration::from_secs(600);

/// What a client is to do, in no client's language. Many of them fail: names are few and chosen by chance.
enum Act {
    Put { from: usize, name: String },
    Get { name: String },
    Rename { from: String, to: String },
    Remove { name: String },
    MakeDir { name: String },
    RemoveDir { name: String },
    Mode { name: String, mode: u32 },
}

fn acts(noise: &mut Noise, count: u64, sources: usize) -> Vec<Act> {
    let mut acts = Vec::new();
    for _ in 0..count {
        // A directory's name among them now and then.
        let mut name = |kinds: u64| match noise.below(kinds) {
            9 => "dir 1".to_owned(),
            other => format!("file {other}"),
        };
        let (one, other) = (name(10), name(9));
        acts.push(match noise.below(12) {
            0..=3 => Act::Put { from: noise.below(sources as u64) as usize, name: other },
            4 | 5 => Act::Get { name: one },
            6 => Act::Rename { from: one, to: other },
            7 | 8 => Act::Remove { name: other },
            9 => Act::MakeDir { name: format!("dir {}", noise.below(3)) },
            10 => Act::RemoveDir { name: format!("dir {}", noise.below(3)) },
            _ => Act::Mode { name: one, mode: if noise.below(2) == 0 { 0o600 } else { 0o640 } },
        });
    }
    acts
}

/// The same in the words of `sftp -b` and of lftp, each line of which may fail.
fn as_batch(acts: &[Act], sources: &[String], back: &str, lftp: bool) -> String {
    let fails = if lftp { "" } else { "-" };
    let (mv, get) = if lftp { ("mv", "get -O") } else { ("rename", "get") };
    let line = |act: &Act| match act {
        Act::Put { from, name } if lftp => format!("put {} -o \"{name}\"", sources[*from]),
        Act::Put { from, name } => format!("put {} \"{name}\"", sources[*from]),
        Act::Get { name } if lftp => format!("{get} {back} \"{name}\""),
        Act::Get { name } => format!("{get} \"{name}\" {back}/"),
        Act::Rename { from, to } => format!("{mv} \"{from}\" \"{to}\""),
        Act::Remove { name } => format!("rm \"{name}\""),
        Act::MakeDir { name } => format!("mkdir \"{name}\""),
        Act::RemoveDir { name } => format!("rmdir \"{name}\""),
        Act::Mode { name, mode } => format!("chmod {mode:o} \"{name}\""),
    };
    acts.iter().map(|act| format!("{fails}{}\n", line(act))).collect()
}

/// And in Python.
fn as_python(acts: &[Act], sources: &[String], there: &str, back: &str) -> String {
    let line = |act: &Act| match act {
        Act::Put { from, name } => format!("sftp.put({:?}, {name:?})", sources[*from]),
        Act::Get { name } => format!("sftp.get({name:?}, {back:?} + '/' + {name:?})"),
        Act::Rename { from, to } => format!("sftp.rename({from:?}, {to:?})"),
        Act::Remove { name } => format!("sftp.remove({name:?})"),
        Act::MakeDir { name } => format!("sftp.mkdir({name:?})"),
        Act::RemoveDir { name } => format!("sftp.rmdir({name:?})"),
        Act::Mode { name, mode } => format!("sftp.chmod({name:?}, {mode})"),
    };
    let lines: String = acts.iter().map(|act| format!("attempt(lambda: {})\n", line(act))).collect();
    format!(
        "{CLIENT}\
         sftp = client.open_sftp()\nsftp.chdir({there:?})\n\
         def attempt(act):\n    try:\n        act()\n    except (IOError, OSError):\n        pass\n{lines}client.close()\n"
    )
}

/// What happened, and how often: each line is an operation with its paths, sizes and modes.
type Tally = BTreeMap<String, usize>;

fn count(tally: &mut Tally, line: String) {
    *tally.entry(line).or_default() += 1;
}

/// Reads the target's own log, as sftp-server(8) words things.
fn logged(log: &str) -> Tally {
    let mut tally = Tally::new();
    for line in log.lines() {
        let quoted: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
        let word = |after: &str| line.split(after).nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
        match (line.split(' ').next().unwrap_or_default(), quoted.as_slice()) {
            ("open", [path]) => count(&mut tally, format!("open {path}")),
            ("close", [path]) => {
                count(&mut tally, format!("close {path} {} {}", word("bytes read "), word("written ")));
            }
            ("remove", [path]) => count(&mut tally, format!("remove {path}")),
            ("mkdir", [path]) => count(&mut tally, format!("mkdir {path}")),
            ("rmdir", [path]) => count(&mut tally, format!("rmdir {path}")),
            ("rename" | "posix-rename", [from, to]) => count(&mut tally, format!("rename {from} {to}")),
            ("set", [path]) if line.contains(" mode ") => count(&mut tally, format!("mode {path} {}", word(" mode "))),
            ("sent", _) if line.starts_with("sent status ") => count(&mut tally, "failed".to_owned()),
            _ => {}
        }
    }
    tally
}

/// The same from the record.
fn told(transcript: &Transcript) -> Tally {
    let mut tally = Tally::new();
    let mut bytes: BTreeMap<u64, (String, [u64; 2], bool)> = BTreeMap::new();
    let number = |event: &Value, field: &str| event[field].as_u64().unwrap_or(0);
    for event in &transcript.events {
        let kind = event["type"].as_str().unwrap();
        if !kind.starts_with("file.") {
            continue;
        }
        let path = event["path"].as_str().unwrap_or_default();
        // 0 is done, 1 is the end of a file or a listing.
        let failed = number(event, "result") > 1;
        match kind {
            "file.open" => {
                count(&mut tally, format!("open {path}"));
                if !failed {
                    bytes.insert(number(event, "file"), (path.to_owned(), [0; 2], false));
                }
            }
            "file.close" => {
                let file = bytes.get_mut(&number(event, "file")).unwrap_or_else(|| panic!("never opened: {event}"));
                file.1[usize::try_from(number(event, "side")).unwrap()] = number(event, "bytes");
                file.2 = true;
            }
            "file.op" => match event["what"].as_str().unwrap() {
                what @ ("remove" | "mkdir" | "rmdir") => count(&mut tally, format!("{what} {path}")),
                "rename" | "posix-rename@openssh.com" => {
                    count(&mut tally, format!("rename {path} {}", event["to"].as_str().unwrap()));
                }
                "setstat" | "fsetstat" if event["mode"].is_u64() => {
                    count(&mut tally, format!("mode {path} {:04o}", number(event, "mode") & 0o7777));
                }
                _ => {}
            },
            _ => {}
        }
        if failed && kind != "file.close" {
            count(&mut tally, "failed".to_owned());
        }
    }
    for (path, [written, read], closed) in bytes.into_values() {
        assert!(closed, "{path} was opened, and the record does not say that it was closed");
        count(&mut tally, format!("close {path} {read} {written}"));
    }
    tally
}

#[test]
fn three_clients_do_what_the_record_says() {
    // sshd lets a shell start it, and drops what it says on standard error.
    let logs = tempfile::tempdir().unwrap();
    let log = logs.path().join("log");
    let sshd = format!("Subsystem sftp {} -e -l VERBOSE 2>>{}", sftp_server(), log.display());
    let lab = Lab::with(&Options { sshd, ..Options::default() }).unwrap();
    let mut noise = Noise::new(31);
    let sizes = [0, 1, 4095, 32_768, 100_000, 300_001];
    let sources: Vec<String> = sizes
        .iter()
        .enumerate()
        .map(|(at, size)| {
            let path = lab.dir.join(format!("source-{at}"));
            fs::write(&path, noise.chunk(*size)).unwrap();
            text(&path).to_owned()
        })
        .collect();
    let digests: Vec<String> =
        sources.iter().map(|path| blake3::hash(&fs::read(path).unwrap()).to_hex().to_string()).collect();
    let each = pick(100, 3334);
    let mut operations = 0;
    for (at, client) in ["sftp", "paramiko", "lftp"].iter().enumerate() {
        let (there, back) = (lab.dir.join(format!("{client}-there")), lab.dir.join(format!("{client}-back")));
        fs::create_dir(&there).unwrap();
        fs::create_dir(&back).unwrap();
        let acts = acts(&mut noise, each, sources.len());
        match *client {
            "sftp" => {
                let batch = format!("cd {}\n{}", there.display(), as_batch(&acts, &sources, text(&back), false));
                let mut sftp = lab.client.program("sftp");
                run(sftp.args(["-q", "-b", "-", Route::Through.host()]), Cursor::new(batch), PATIENCE).unwrap();
            }
            "paramiko" => {
                paramiko(&lab, &as_python(&acts, &sources, text(&there), text(&back))).ok().unwrap();
            }
            _ => lftp(&lab, &there, &as_batch(&acts, &sources, text(&back), true)),
        }
        let sessions = closed_sessions(&lab.vault(), at + 1);
        let transcript = &sessions.last().unwrap().1;
        assert_eq!(transcript.of("file.lost").count(), 0, "{client}");
        let (logged, told) = (logged(&fs::read_to_string(&log).unwrap()), told(transcript));
        fs::remove_file(&log).unwrap();
        let apart: Vec<_> = logged
            .keys()
            .chain(told.keys())
            .filter(|line| logged.get(*line) != told.get(*line))
            .map(|line| format!("{line}: the target {:?}, the record {:?}", logged.get(line), told.get(line)))
            .collect();
        assert!(apart.is_empty(), "{client}: {apart:#?}");
        let all: usize = told.iter().filter(|(line, _)| *line != "failed").map(|(_, count)| count).sum();
        assert!(told.contains_key("failed") && all >= acts.len() / 2, "{client} did too little: {told:?}");
        operations += all;
        // Whatever was moved whole has the digest of one of the sources.
        let whole = transcript.of("file.close").filter(|event| event["bytes"].as_u64() > Some(0));
        let mut seen = 0;
        for event in whole {
            let digest = event["blake3"].as_str().unwrap_or_else(|| panic!("{client}: no digest: {event}"));
            let source = digests.iter().position(|known| known == digest);
            let source = source.unwrap_or_else(|| panic!("{client}: of no source: {event}"));
            assert_eq!(event["bytes"].as_u64(), Some(sizes[source] as u64), "{client}");
            seen += 1;
        }
        assert!(seen > acts.len() / 8, "{client} moved {seen} files");
    }
    eprintln!("{operations} operations, as the target tells them and as the record does");
}

/// Where distributions put OpenSSH's SFTP server.
fn sftp_server() -> &'static str {
    let places = [
        "/usr/lib/openssh/sftp-server",
        "/usr/libexec/openssh/sftp-server",
        "/usr/libexec/sftp-server",
        "/usr/lib/ssh/sftp-server",
    ];
    let found = places.into_iter().find(|place| Path::new(place).exists());
    found.expect("there is no sftp-server: `make test` installs openssh-sftp-server")
}

fn lftp(lab: &Lab, there: &Path, commands: &str) {
    let script = lab.dir.join("lftp-script");
    let connect = format!("ssh -F {} -a -x", lab.client.config().display());
    let text = format!(
        "set sftp:connect-program \"{connect}\"\nset net:max-retries 1\nset net:timeout 30\nset cmd:fail-exit no\n\
         set xfer:clobber yes\nset ftp:use-mode-z no\nopen sftp://{}:@{}\ncd {}\n{commands}",
        casemate_tests::rig::login(),
        Route::Through.host(),
        there.display()
    );
    fs::write(&script, text).unwrap();
    let mut lftp = std::process::Command::new("lftp");
    lftp.env("HOME", &lab.dir).args(["--norc", "-f"]).arg(&script);
    let done = run(&mut lftp, nothing(), PATIENCE);
    done.expect("lftp is not installed: `make test` installs it");
}
