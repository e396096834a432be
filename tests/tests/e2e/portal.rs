//! The bastion itself: what it says, who sees which sessions, and what it refuses.

use std::process::Stdio;
use std::time::Duration;

use casemate_tests::client::Route;
use casemate_tests::keys;
use casemate_tests::process::{Done, nothing, run, wait_until};
use casemate_tests::pty::Terminal;
use casemate_tests::rig::{self, Lab, Options, PORTAL};

const PATIENCE: Duration = Duration::from_secs(30);

fn ask(lab: &Lab, options: &[&str], verb: &str) -> Done {
    let mut ssh = lab.client.program("ssh");
    ssh.args(options).arg(PORTAL);
    if !verb.is_empty() {
        ssh.arg(verb);
    }
    run(&mut ssh, nothing(), PATIENCE).unwrap()
}

#[test]
fn a_greeting_says_who_and_where_to_and_its_lines_work_when_pasted() {
    let lab = Lab::start().unwrap();
    let done = ask(&lab, &[], "");
    assert_eq!((done.err().as_str(), done.code()), ("", 0));
    let text = done.out();
    let user = &lab.target.user;
    for words in ["You are alice, by the key SHA256:", &format!("web1 as {user}"), "@cert-authority web1 ssh-ed25519 "]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!text.contains('\r'));
    // Pasted by somebody whose known_hosts holds the bastion and that one line.
    let authority = text.lines().find(|line| line.contains("@cert-authority")).unwrap().trim();
    let known = lab.dir.join("known");
    let bastion = format!("[127.0.0.1]:{} {}", lab.bastion.port, lab.bastion.host_key().unwrap());
    std::fs::write(&known, format!("{bastion}\n{authority}\n")).unwrap();
    let config = lab.dir.join("pasted_config");
    std::fs::write(
        &config,
        format!(
            "Host *\n UserKnownHostsFile {}\n StrictHostKeyChecking yes\n BatchMode yes\n IdentityAgent none\n IdentityFile {}\n",
            known.display(),
            lab.identity().display()
        ),
    )
    .unwrap();
    let pasted: Vec<&str> = text.lines().map(str::trim).filter(|line| line.starts_with("ssh ")).collect();
    assert_eq!(pasted.len(), 2, "{text}");
    for line in pasted {
        let mut ssh = std::process::Command::new("ssh");
        ssh.arg("-F").arg(&config).args(line.split(' ').skip(1)).arg("echo in");
        let done = run(&mut ssh, nothing(), PATIENCE).unwrap();
        assert_eq!((done.out().as_str(), done.code()), ("in\n", 0), "{line}: {}", done.err());
    }
    let json: serde_json::Value = serde_json::from_str(&ask(&lab, &[], "whoami --json").out()).unwrap();
    assert_eq!((json["person"].as_str(), json["targets"][0]["target"].as_str()), (Some("alice"), Some("web1")));

    lab.vault().settle_kind("portal", 3, Duration::from_secs(10)).unwrap();
    let vault = lab.vault();
    let row = vault.of_kind("portal").unwrap().into_iter().min_by_key(|row| row["start"].to_string()).unwrap();
    let portal = vault.transcript(row["session"].as_str().unwrap()).unwrap();
    assert_eq!(String::from_utf8(portal.bytes("ssh.out")).unwrap(), text, "what was said is on record");
}

#[test]
fn in_a_terminal_lines_begin_at_the_left() {
    let lab = Lab::start().unwrap();
    let mut terminal = Terminal::start(&lab.client.ssh_to(PORTAL, &["-tt"]), 120, 40).unwrap();
    terminal.expect("Enter to leave: ", PATIENCE).unwrap();
    terminal.type_in(b"\r").unwrap();
    assert_eq!(terminal.wait(PATIENCE).unwrap().code(), Some(0));
    let screen = terminal.screen();
    assert!(screen.windows(2).filter(|pair| pair[1] == b'\n').all(|pair| pair[0] == b'\r'), "{:?}", terminal.text());
}

#[test]
fn what_the_bastion_does_not_do_is_said() {
    let lab = Lab::start().unwrap();
    for (verb, status, words) in [
        ("fly", 2, "unknown verb \"fly\""),
        ("kill", 2, "kill takes the ID of one session"),
        ("kill 0199", 2, "at least 8 characters"),
        ("kill 00000000-0000", 1, "no live session of yours"),
        ("help", 0, ""),
    ] {
        let done = ask(&lab, &[], verb);
        assert_eq!(done.code(), status, "{verb}");
        assert!(done.err().contains(words), "{verb}: {}", done.err());
    }
    // Files are at targets.
    let done = run(lab.client.program("sftp").args(["-b", "-", PORTAL]), nothing(), PATIENCE).unwrap();
    assert_ne!(done.code(), 0);
}

#[test]
fn an_auditor_sees_and_ends_everybodys_sessions_and_an_admin_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let person = |name: &str, duty: &str| {
        let public = keys::make(&dir.path().join(name), "ed25519").unwrap();
        rig::person(name, &[&public], duty)
    };
    let lab = Lab::with(&Options { more: person("bob", "admin") + &person("erin", "auditor"), ..Options::default() })
        .unwrap();
    let as_person = |name: &str, verb: &str| {
        let identity = format!("IdentityFile={}", dir.path().join(name).display());
        ask(&lab, &["-o", &identity, "-l", name], verb)
    };
    let mut ssh = lab.client.ssh(Route::Through, &[]);
    let work = ssh
        .arg("echo ready; sleep 60")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let rows = |done: Done| -> Vec<serde_json::Value> {
        done.out().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let seen = |name: &str| rows(as_person(name, "sessions --json")).into_iter().find(|row| row["target"] == "web1");
    assert!(wait_until(PATIENCE, || seen("erin").is_some()));
    let id = seen("erin").unwrap()["session"].as_str().unwrap().to_owned();
    assert_eq!(seen("bob"), None, "another's session is not an admin's business");
    assert!(ask(&lab, &[], "sessions").out().contains(&id), "one's own is");

    // A slip of a live session proves it later.
    let slip = as_person("erin", &format!("slip {id}")).out();
    assert_eq!(as_person("bob", &format!("kill {id}")).code(), 1);
    let done = as_person("erin", &format!("kill {}", &id[..23]));
    assert_eq!((done.out(), done.code()), (format!("{id} ends\n"), 0));
    let output = work.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(254));
    assert!(String::from_utf8_lossy(&output.stderr).contains("this session was ended by erin"), "{output:?}");
    lab.bastion.stop();
    let vault = lab.vault();
    super::slip_is_an_anchor(&vault, slip.trim());
    let row = vault.of_kind("session").unwrap().remove(0);
    let session = vault.transcript(row["session"].as_str().unwrap()).unwrap();
    assert!(session.of("ended").any(|event| event.to_string().contains("ended by erin")));
    let portals = vault.of_kind("portal").unwrap();
    let killed = portals.iter().any(|row| {
        let portal = vault.transcript(row["session"].as_str().unwrap()).unwrap();
        row["person"] == "erin" && portal.of("session").any(|event| event["what"] == "killed")
    });
    assert!(killed, "who ended it is on record where they did it");
}

#[test]
fn an_auditor_watches_a_session_and_no_byte_of_it_reaches_their_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let public = keys::make(&dir.path().join("erin"), "ed25519").unwrap();
    let more = rig::person("erin", &[&public], "auditor");
    let lab = Lab::with(&Options { more, ..Options::default() }).unwrap();
    let identity = format!("IdentityFile={}", dir.path().join("erin").display());
    let erin = ["-o", identity.as_str(), "-l", "erin"];
    let mut work = Terminal::start(&lab.client.ssh(Route::Inside, &["-tt"]), 80, 24).unwrap();
    work.type_in(b"PS1='# '; printf 'before-%s\\n' $((40+2))\r").unwrap();
    work.expect("before-42", PATIENCE).unwrap();

    let done = ask(&lab, &erin, "sessions --json");
    let rows: Vec<serde_json::Value> = done.out().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let id = rows.iter().find(|row| row["kind"] == "session").unwrap()["session"].as_str().unwrap().to_owned();
    let done = ask(&lab, &erin, &format!("watch {id}"));
    assert_eq!((done.code(), done.err().contains("ssh -t")), (1, true), "{}", done.err());

    let mut ssh = lab.client.ssh_to(PORTAL, &[&erin[..], &["-tt"]].concat());
    let mut watch = Terminal::start(ssh.arg(format!("watch {id}")), 100, 30).unwrap();
    // What was shown before they came, and what is shown while they look.
    watch.expect("before-42", PATIENCE).unwrap();
    // A title, a question, a write to the clipboard, and a colour.
    let hostile = r"printf '\033]0;stolen\007\033[6n\033]52;c;c3RvbGVu\007\033[31mred-%s\033[0m\n' $((50+5))";
    work.type_in(format!("{hostile}\r").as_bytes()).unwrap();
    watch.expect("red-55", PATIENCE).unwrap();
    watch.expect("alice", PATIENCE).unwrap();
    // Keys change nothing over there.
    watch.type_in(b"exit\r").unwrap();
    work.type_in(b"printf 'still-%s\\n' $((60+6))\r").unwrap();
    watch.expect("still-66", PATIENCE).unwrap();
    watch.resize(60, 20).unwrap();
    work.type_in(b"printf 'later-%s\\n' $((70+7)); sleep 0.3; exit 3\r").unwrap();
    watch.expect("later-77", PATIENCE).unwrap();
    watch.expect("ended:", PATIENCE).unwrap();
    assert_eq!(watch.wait(PATIENCE).unwrap().code(), Some(0));
    assert_eq!(work.wait(PATIENCE).unwrap().code(), Some(3));
    let painted = String::from_utf8(watch.screen()).unwrap();
    // The client's own last line is not the bastion's.
    let painted = painted.split("Connection to").next().unwrap();
    assert_eq!(casemate_screen::paint::first_forbidden(painted), None);

    lab.bastion.stop();
    let vault = lab.vault();
    let portals = vault.of_kind("portal").unwrap();
    let seen = portals.iter().any(|row| {
        let portal = vault.transcript(row["session"].as_str().unwrap()).unwrap();
        let watched = portal.of("session").any(|event| event["what"] == "watched" && event["id"] == id.as_str());
        row["person"] == "erin" && watched && String::from_utf8_lossy(&portal.bytes("ssh.out")).contains("red-55")
    });
    assert!(seen, "who looked, at what, and what they saw is on record");
    assert!(super::control_says(&vault, "session", &["watched", "by erin", &id]));
}

#[test]
fn a_menu_leads_on_to_a_target_and_its_session_begins_there() {
    let lab = Lab::start().unwrap();
    let mut terminal = Terminal::start(&lab.client.ssh_to(PORTAL, &["-tt"]), 91, 31).unwrap();
    terminal.expect(&format!("  1  {}@web1", lab.target.user), PATIENCE).unwrap();
    terminal.expect("Enter to leave: ", PATIENCE).unwrap();
    terminal.type_in(b"7\r").unwrap();
    terminal.expect("There is no 7 in the list.", PATIENCE).unwrap();
    terminal.resize(92, 32).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    terminal.type_in(b"1\r").unwrap();
    // Not before it is there: what is typed ahead belongs to the menu.
    std::thread::sleep(Duration::from_secs(1));
    terminal.type_in(b"echo on-target-$((40+2)) $(stty size)\r").unwrap();
    terminal.expect("on-target-42 32 92", PATIENCE).unwrap();
    terminal.resize(93, 33).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    terminal.type_in(b"echo now-$(stty size); exit 5\r").unwrap();
    terminal.expect("now-33 93", PATIENCE).unwrap();
    assert_eq!(terminal.wait(PATIENCE).unwrap().code(), Some(5));
    assert!(terminal.text().contains("casemate-slip"), "a shell ends with a slip: {}", terminal.text());

    lab.vault().settle_kind("portal", 1, Duration::from_secs(10)).unwrap();
    let vault = lab.vault();
    let session = super::only_session(&vault);
    let portal = vault.of_kind("portal").unwrap()[0]["session"].as_str().unwrap().to_owned();
    assert_eq!(session.of("identity").next().unwrap()["portal"].as_str(), Some(portal.as_str()));
    let typed = String::from_utf8(session.bytes("ssh.in")).unwrap();
    assert!(typed.starts_with("echo on-target"), "{typed}");
    assert_eq!(session.of("ssh.pty").next().unwrap()["cols"].as_u64(), Some(92), "the size as it was then");
    assert!(session.says("ssh.exit", "\"status\":5"));
    let portal = vault.transcript(&portal).unwrap();
    assert_eq!(portal.bytes("ssh.in"), b"7\r1\r");
    assert!(portal.says("session", "opened"));
    lab.bastion.stop();
    vault.verify(&[]).unwrap().clean_but_for_trust().unwrap();
}
