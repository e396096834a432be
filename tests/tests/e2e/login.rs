//! Who gets in, who does not, and what each of them learns.

use std::path::Path;
use std::time::Duration;

use casemate_tests::client::Route;
use casemate_tests::process::{Done, nothing, run};
use casemate_tests::rig::{Lab, Options};
use casemate_tests::{keys, sshd};

use super::{closed_sessions, control_says};

const PATIENCE: Duration = Duration::from_secs(30);

/// A rig with more people: `bob` may go nowhere; `carol` has keys of the other kinds and one way in.
fn lab_with_people() -> (Lab, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let bob = keys::make(&dir.path().join("bob"), "ed25519").unwrap();
    let carol = ["ecdsa", "rsa"].map(|kind| keys::make(&dir.path().join(kind), kind).unwrap());
    let user = sshd::current_user().unwrap();
    let (host_key, login) = (keys::make(&dir.path().join("host"), "ed25519").unwrap(), dir.path().join("login"));
    keys::make(&login, "ed25519").unwrap();
    let more = format!(
        r#"
        [[person]]
        name = "bob"
        keys = ["{bob}"]
        duties = ["admin"]
        [[person]]
        name = "carol"
        keys = ["{}", "{}"]
        duties = ["admin"]
        [[access]]
        person = "carol"
        targets = ["web1"]
        roles = ["{user}"]
        reason = "tests"
        [[target]]
        name = "vault9"
        aliases = ["v9"]
        address = "127.0.0.1:1"
        kind = "ssh"
        host_keys = ["{host_key}"]
        [[target.role]]
        login = "{user}"
        key_file = "{}"
        "#,
        carol[0],
        carol[1],
        login.display()
    );
    (Lab::with(&Options { more, ..Options::default() }).unwrap(), dir)
}

fn try_login(lab: &Lab, login: &str, identity: &Path, options: &[&str]) -> Done {
    let mut ssh = lab.client.program("ssh");
    // The first value wins, so ours stand before those of the configuration file.
    ssh.args(options).arg("-o").arg(format!("IdentityFile={}", identity.display()));
    ssh.args(["-o", "IdentitiesOnly=yes", "-l", login, "through", "echo in"]);
    run(&mut ssh, nothing(), PATIENCE).unwrap()
}

/// A client configuration without the rig's own identity in it, which `ssh` would try as well.
fn forget_identity(lab: &Lab) {
    let config = std::fs::read_to_string(lab.client.config()).unwrap();
    let lines: Vec<&str> = config.lines().filter(|line| !line.contains("IdentityFile")).collect();
    std::fs::write(lab.client.config(), lines.join("\n") + "\n").unwrap();
}

#[test]
fn who_may_gets_in_by_every_spelling() {
    let (lab, keys) = lab_with_people();
    let alice = lab.identity();
    forget_identity(&lab);
    let user = &lab.target.user;
    for login in
        ["alice+web1".to_owned(), format!("alice+web1+{user}"), "alice:web1".to_owned(), "alice#web1".to_owned()]
    {
        let done = try_login(&lab, &login, &alice, &[]);
        assert_eq!((done.out().as_str(), done.code()), ("in\n", 0), "{login}: {}", done.err());
    }
    for kind in ["ecdsa", "rsa"] {
        let done = try_login(&lab, "carol+web1", &keys.path().join(kind), &[]);
        assert_eq!((done.out().as_str(), done.code()), ("in\n", 0), "{kind}: {}", done.err());
    }
    assert_eq!(closed_sessions(&lab.vault(), 6).len(), 6);
}

#[test]
fn who_may_not_learns_nothing_and_is_recorded() {
    let (lab, keys) = lab_with_people();
    let alice = lab.identity();
    forget_identity(&lab);
    let stranger = keys.path().join("stranger");
    keys::make(&stranger, "ed25519").unwrap();
    let bob = keys.path().join("bob");

    // A wrong key and a name that nobody has: the same words.
    let wrong_key = try_login(&lab, "alice+web1", &stranger, &[]);
    let unknown = try_login(&lab, "mallory+web1", &stranger, &[]);
    let other_key = try_login(&lab, "alice+web1", &bob, &[]);
    for (case, done) in [("wrong key", &wrong_key), ("unknown person", &unknown), ("another's key", &other_key)] {
        assert_eq!((done.out().as_str(), done.code()), ("", 255), "{case}");
        assert!(done.err().contains("Permission denied (publickey)"), "{case}: {}", done.err());
    }
    let without_name = |done: &Done, name: &str| done.err().replace(name, "NAME");
    assert_eq!(without_name(&wrong_key, "alice+web1"), without_name(&unknown, "mallory+web1"));

    // The right key, and a place where it leads nowhere: whether the place exists is not said either.
    let cases = [("alice+nosuch", &alice), ("alice+vault9", &alice), ("bob+web1", &bob), ("alice+web1+nosuch", &alice)];
    let answers: Vec<String> = cases
        .iter()
        .map(|(login, identity)| {
            let done = try_login(&lab, login, identity, &[]);
            assert_eq!((done.out().as_str(), done.code()), ("", 255), "{login}");
            without_name(&done, login)
        })
        .collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");

    lab.bastion.stop();
    let vault = lab.vault();
    for name in ["mallory", "alice"] {
        assert!(control_says(&vault, "auth", &[name, "\"accepted\":0"]), "a refused login of {name} is on record");
    }
    assert!(
        control_says(&vault, "auth", &["target \\\"nosuch\\\" is not configured"]),
        "a denial is on record: {:?}",
        vault.ls()
    );
    assert!(vault.of_kind("session").unwrap().is_empty(), "nobody reached a target");
}

// An offer shows that somebody knows a public key. Only a signature shows that they hold the private one.
#[test]
fn an_offered_key_is_no_login() {
    let (lab, keys) = lab_with_people();
    let public_only = keys.path().join("alice_public");
    std::fs::copy(keys::public_path(&lab.identity()), keys::public_path(&public_only)).unwrap();
    forget_identity(&lab);
    let done = try_login(&lab, "alice+web1", &public_only, &[]);
    assert_eq!((done.out().as_str(), done.code()), ("", 255));

    // Offer alice's key without proof, then prove bob's: the identity is bob's, who may go nowhere.
    let both = format!("IdentityFile={}", public_only.display());
    let done = try_login(&lab, "alice+web1", &keys.path().join("bob"), &["-o", &both]);
    assert_eq!((done.out().as_str(), done.code()), ("", 255));
    assert!(lab.vault().of_kind("session").unwrap().is_empty());
}

#[test]
fn the_notice_of_recording_is_shown_before_the_login() {
    let lab = Lab::start().unwrap();
    let done = lab.exec_with(Route::Through, &["-o", "LogLevel=INFO"], "true", nothing()).unwrap();
    assert!(done.err().to_lowercase().contains("record"), "{}", done.err());
    let done = lab.exec(Route::Through, "true").unwrap();
    assert_eq!(done.err(), "");
}

#[test]
fn a_connection_that_says_nothing_is_ended_and_keeps_nobody_out() {
    let mut limits = toml::Table::new();
    limits.insert("login_grace".to_owned(), toml::Value::from("2s"));
    let lab = Lab::with(&Options { limits, ..Options::default() }).unwrap();
    let silent: Vec<_> =
        (0..30).map(|_| std::net::TcpStream::connect(("127.0.0.1", lab.bastion.port)).unwrap()).collect();
    assert_eq!(lab.exec(Route::Through, "echo in").unwrap().out(), "in\n");
    for mut stream in silent {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        // The end may be an end of stream or a reset; silence until the time-out would be the failure.
        if let Err(error) = std::io::Read::read_to_end(&mut stream, &mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
}

#[test]
fn forwards_are_refused_and_recorded() {
    let lab = Lab::start().unwrap();
    let target = lab.target.port;
    // A listening socket at the bastion.
    let remote = format!("0:127.0.0.1:{target}");
    let options = ["-o", "ExitOnForwardFailure=yes", "-R", &remote];
    let done = lab.exec_with(Route::Through, &options, "true", nothing()).unwrap();
    assert_eq!(done.code(), 255, "{}", done.err());
    // A connection out of the bastion.
    let mut ssh = lab.client.program("ssh");
    ssh.args(["-W", &format!("127.0.0.1:{target}"), "through"]);
    let done = run(&mut ssh, nothing(), PATIENCE).unwrap();
    assert_ne!(done.code(), 0);
    assert!(!done.stdout.starts_with(b"SSH-"), "the forward reached the target");
    // The person's agent.
    let mut agent = std::process::Command::new("ssh-agent");
    agent.arg("ssh").arg("-F").arg(lab.client.config());
    agent.args(["-A", "-o", "IdentityAgent=SSH_AUTH_SOCK", "through", "echo ${SSH_AUTH_SOCK:-none}"]);
    let done = run(&mut agent, nothing(), PATIENCE).unwrap();
    assert_eq!(done.out(), "none\n", "{}", done.err());

    let sessions = closed_sessions(&lab.vault(), 3);
    let of = |kind: &'static str| {
        let all = sessions.iter().flat_map(|(_, transcript)| transcript.of(kind).map(ToString::to_string));
        all.collect::<Vec<String>>().join("\n")
    };
    let opened = of("ssh.open");
    let refused = opened.lines().find(|line| line.contains("direct-tcpip")).unwrap();
    assert!(refused.contains("\"accepted\":0") && refused.contains("nothing is forwarded"), "{refused}");
    let all = of("ssh.refused");
    assert!(all.contains("agent"), "{all}");
    assert!(all.contains("tcpip-forward"), "{all}");
}
