//! Bad input: a clear reason for the right reader, an event, nothing lost, and the daemon goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use casemate_tests::client::Route;
use casemate_tests::process::{nothing, run};
use casemate_tests::pty::Terminal;
use casemate_tests::rig::{Lab, Options};
use casemate_tests::vault::Vault;
use casemate_tests::{keys, noise, sshd};

use super::session::{CLIENT, paramiko};
use super::{closed_sessions, only_session};

const PATIENCE: Duration = Duration::from_secs(30);

fn still_serves(lab: &Lab) {
    assert!(lab.bastion.process.alive(), "{}", lab.bastion.log());
    assert_eq!(lab.exec(Route::Through, "echo well").unwrap().out(), "well\n");
    assert!(!lab.bastion.log().contains("panicked"), "{}", lab.bastion.log());
}

#[test]
fn a_target_that_is_away_or_is_another_ends_the_session_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let login = dir.path().join("login");
    keys::make(&login, "ed25519").unwrap();
    let other_host = keys::make(&dir.path().join("host"), "ed25519").unwrap();
    let user = sshd::current_user().unwrap();
    let pretender = sshd::Guard(sshd::Sshd::start(&dir.path().join("pretender"), None, "").unwrap());
    let target = |name: &str, port: u16| {
        format!(
            "[[target]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\nkind = \"ssh\"\nhost_keys = [\"{other_host}\"]\n\
             [[target.role]]\nlogin = \"{user}\"\nkey_file = \"{}\"\n\
             [[access]]\nperson = \"alice\"\ntargets = [\"{name}\"]\nroles = [\"{user}\"]\nreason = \"tests\"\n",
            login.display()
        )
    };
    let more = target("away", sshd::free_port().unwrap()) + &target("changed", pretender.0.port);
    let lab = Lab::with(&Options { more, ..Options::default() }).unwrap();
    for name in ["away", "changed"] {
        let done = lab.exec_with(Route::Through, &["-l", &format!("alice+{name}")], "echo in", nothing()).unwrap();
        assert_eq!((done.out().as_str(), done.code()), ("", 255), "{name}: {}", done.err());
        assert!(!done.err().is_empty(), "{name}: the client is told something");
        // Where the target really is, is none of the client's business.
        assert!(!done.err().contains(&pretender.0.port.to_string()), "{name}: {}", done.err());
    }
    let sessions = closed_sessions(&lab.vault(), 2);
    assert!(
        sessions.iter().any(|(_, transcript)| transcript.says("unreachable", "SHA256:")),
        "the key it showed is on record"
    );
    assert_eq!(sessions.iter().filter(|(_, transcript)| transcript.of("unreachable").count() > 0).count(), 2);
    still_serves(&lab);
}

// RFC 4254 §6.2: sizes are what the client says they are; 0 means "not given".
#[test]
fn terminals_of_any_size_work() {
    let lab = Lab::start().unwrap();
    let sizes = [(0, 0), (1, 1), (65535, 65535), (80, 0), (0, 24), (32768, 1), (132, 43)];
    let mut terminal = Terminal::start(&lab.client.ssh(Route::Through, &["-tt"]), 0, 0).unwrap();
    terminal.type_in(b"echo begun $((20+3))\r").unwrap();
    terminal.expect("begun 23", PATIENCE).unwrap();
    for (at, (cols, rows)) in sizes.into_iter().enumerate() {
        terminal.resize(cols, rows).unwrap();
        terminal.type_in(format!("echo step $(({at}+100))\r").as_bytes()).unwrap();
        terminal.expect(&format!("step {}", at + 100), PATIENCE).unwrap();
    }
    terminal.type_in(b"exit\r").unwrap();
    assert_eq!(terminal.wait(PATIENCE).unwrap().code(), Some(0));
    let transcript = only_session(&lab.vault());
    let seen: Vec<(u64, u64)> = transcript
        .of("ssh.resize")
        .map(|event| (event["cols"].as_u64().unwrap(), event["rows"].as_u64().unwrap()))
        .collect();
    assert!(seen.contains(&(65535, 65535)) && seen.contains(&(1, 1)), "{seen:?}");

    // Numbers that no terminal has, in all 32 bits.
    let script = r#"
channel = client.get_transport().open_session()
channel.get_pty("xterm", 0xffffffff, 0xffffffff, 0xffffffff, 0)
channel.exec_command("echo fine; read line")
assert channel.recv(5) == b"fine\r"
for size in (0, 1, 65535, 65536, 0x7fffffff, 0xffffffff):
    channel.resize_pty(size, size, size, size)
channel.sendall(b"\r")
assert channel.recv_exit_status() == 0
"#;
    paramiko(&lab, &(CLIENT.to_owned() + script)).ok().unwrap();
    still_serves(&lab);
}

#[test]
fn names_that_are_not_utf8_end_the_connection_and_nothing_else() {
    let lab = Lab::start().unwrap();
    let mut ssh = lab.client.ssh(Route::Through, &["-tt"]);
    use std::os::unix::ffi::OsStrExt;
    ssh.env("TERM", std::ffi::OsStr::from_bytes(b"xterm\xff")).arg("echo in");
    let done = run(&mut ssh, nothing(), PATIENCE).unwrap();
    // Either the name passes as it is, or the connection ends; both are recorded.
    assert!(done.code() == 0 || done.code() == 255, "{}", done.code());
    closed_sessions(&lab.vault(), 1);
    still_serves(&lab);
}

#[test]
fn noise_on_the_port_hurts_nobody() {
    use std::io::{Read, Write};
    let lab = Lab::start().unwrap();
    let mut noise = noise::Noise::new(noise::fresh_seed());
    let openings: [Vec<u8>; 6] = [
        b"GET / HTTP/1.0\r\n\r\n".to_vec(),
        b"SSH-1.5-old\r\n".to_vec(),
        vec![b'A'; 100_000],
        b"SSH-2.0-x\r\n\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        [b"SSH-2.0-x\r\n".to_vec(), noise.chunk(5000)].concat(),
        noise.chunk(70_000),
    ];
    for opening in &openings {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", lab.bastion.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let _ = stream.write_all(opening);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    still_serves(&lab);
    only_session(&lab.vault());
}

#[test]
fn hostile_words_stay_words() {
    let lab = Lab::start().unwrap();
    let names = [
        "alice+web1;id",
        "alice+../../etc",
        "alice+web1+$(id)",
        "alice+",
        "+web1",
        "+",
        "alice+web1+a+b",
        "ALICE+web1",
        "alice+web1\u{202e}",
    ];
    for name in names {
        let done = lab.exec_with(Route::Through, &["-l", name], "echo in", nothing()).unwrap();
        assert_eq!((done.out().as_str(), done.code()), ("", 255), "{name}: {}", done.err());
    }
    let long = format!("alice+{}", "w".repeat(30_000));
    assert_eq!(lab.exec_with(Route::Through, &["-l", &long], "echo in", nothing()).unwrap().code(), 255);
    assert!(lab.vault().of_kind("session").unwrap().is_empty());

    // A command full of terminal escapes is recorded as it is and shown as something harmless.
    let command = "printf '\\033]0;owned\\007\\033[2J\\302\\233 31mx\\n' # \u{1b}]52;c;aGk=\u{7}";
    assert_eq!(lab.exec(Route::Through, command).unwrap().code(), 0);
    let vault = lab.vault();
    let transcript = only_session(&vault);
    assert!(transcript.of("ssh.exec").any(|event| event["command"] == command));
    let id = vault.of_kind("session").unwrap()[0]["session"].as_str().unwrap().to_owned();
    for done in
        [vault.replay("ls", &[]), vault.replay("show", &[&id]), vault.replay("export", &[&id, "--format", "text"])]
    {
        let done = done.unwrap().ok().unwrap();
        let controls =
            done.stdout.iter().filter(|byte| **byte < 0x20 && !matches!(**byte, b'\n' | b'\t' | b'\r')).count();
        assert_eq!(controls, 0, "{:?}", done.out());
    }
    assert!(!lab.bastion.log().contains('\u{1b}'), "no escapes in the log");
    still_serves(&lab);
}

#[test]
fn every_kind_of_damage_to_a_vault_is_found_and_said() {
    let lab = Lab::start().unwrap();
    for word in ["one", "two", "three"] {
        let done = lab.exec_with(Route::Through, &[], "cat; seq 1 2000", std::io::Cursor::new(word.repeat(500)));
        assert_eq!(done.unwrap().code(), 0);
    }
    closed_sessions(&lab.vault(), 3);
    lab.bastion.stop();
    let vault = lab.vault();
    vault.verify(&[]).unwrap().clean_but_for_trust().unwrap();

    let segments = || files(&vault.dir).into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "seg"));
    let first = segments().next().expect("a segment");
    let mut noise = noise::Noise::new(noise::fresh_seed());

    // Foreign files are no part of the record, and no harm to it.
    let spoiled = spoil(&lab, &vault, |dir| {
        fs::write(dir.join("README.txt"), "hello").unwrap();
        fs::create_dir_all(dir.join("v1/t/lost+found")).unwrap();
        fs::write(dir.join("v1/t/.nfs0001"), "left over").unwrap();
    });
    spoiled.clean_but_for_trust().unwrap();
    // A foreign file that calls itself a segment may be complained about; the record stays whole beside it.
    let spoiled = spoil(&lab, &vault, |dir| fs::write(dir.join("v1/t/foreign.seg"), "not a segment").unwrap());
    assert_eq!(spoiled.term("missing"), 0, "{}", spoiled.summary);

    let relative = |path: &Path| path.strip_prefix(&vault.dir).unwrap().to_owned();
    let mut findings = Vec::new();
    let mut try_one = |name: &str, change: &dyn Fn(&Path)| {
        let verdict = spoil(&lab, &vault, change);
        // What is gone counts as pending, not missing, as long as it could still be on its way (an hour, FORMAT.md §12).
        let found =
            verdict.exit == 1 || name.ends_with(" is gone") && verdict.term("pending") + verdict.term("missing") > 0;
        if !found {
            findings.push(format!("{name}: exit {} {}", verdict.exit, verdict.summary));
        }
    };
    for segment in segments() {
        let segment = relative(&segment);
        let len = fs::metadata(vault.dir.join(&segment)).unwrap().len();
        for _ in 0..8 {
            let at = noise.below(len) as usize;
            let bit = 1u8 << noise.below(8);
            try_one(&format!("bit {bit:#x} of byte {at} of {}", segment.display()), &|dir| {
                let mut bytes = fs::read(dir.join(&segment)).unwrap();
                bytes[at] ^= bit;
                fs::write(dir.join(&segment), bytes).unwrap();
            });
        }
        let cut = noise.below(len);
        try_one(&format!("{} cut to {cut}", segment.display()), &|dir| {
            fs::OpenOptions::new().write(true).open(dir.join(&segment)).unwrap().set_len(cut).unwrap();
        });
        try_one(&format!("{} is empty", segment.display()), &|dir| fs::write(dir.join(&segment), "").unwrap());
        try_one(&format!("{} is gone", segment.display()), &|dir| fs::remove_file(dir.join(&segment)).unwrap());
        try_one(&format!("{} has a tail", segment.display()), &|dir| {
            let mut bytes = fs::read(dir.join(&segment)).unwrap();
            bytes.extend_from_slice(b"more");
            fs::write(dir.join(&segment), bytes).unwrap();
        });
    }
    let session_dir = relative(first.parent().unwrap());
    try_one("a whole session is gone", &|dir| fs::remove_dir_all(dir.join(&session_dir)).unwrap());
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

/// Verifies a copy of the vault after a change.
fn spoil(lab: &Lab, vault: &Vault, change: impl Fn(&Path)) -> casemate_tests::vault::Verdict {
    let copy = lab.dir.join("copy");
    let _ = fs::remove_dir_all(&copy);
    for path in files(&vault.dir) {
        let to = copy.join(path.strip_prefix(&vault.dir).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(&to, fs::read(&path).unwrap()).unwrap();
    }
    change(&copy);
    Vault { dir: copy, ..vault.clone() }.verify(&[]).unwrap()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}
