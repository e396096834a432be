//! The daemon's life: reload, drain, restart, and what it refuses to start with.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use casemate_tests::bastion::Bastion;
use casemate_tests::client::Route;
use casemate_tests::pg_client::{Access, PgRoute};
use casemate_tests::process::{Spawned, nothing, run, wait_until};
use casemate_tests::pty::Terminal;
use casemate_tests::rig::{DATABASE, Lab, Options, PORTAL};
use casemate_tests::{keys, postgres};

use super::{closed_sessions, control_says, only_session};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_reload_lets_new_people_in_and_cuts_nobody_off() {
    let lab = Lab::start().unwrap();
    let ssh = lab.client.ssh(Route::Through, &["-tt"]);
    let mut terminal = Terminal::start(&ssh, 80, 24).unwrap();
    terminal.type_in(b"echo before $((1+1))\r").unwrap();
    terminal.expect("before 2", PATIENCE).unwrap();

    let newcomer = lab.dir.join("dave");
    let public = keys::make(&newcomer, "ed25519").unwrap();
    let mut config = fs::read_to_string(lab.bastion.config()).unwrap();
    config += &format!(
        "\n[[person]]\nname = \"dave\"\nkeys = [\"{public}\"]\n[[access]]\nperson = \"dave\"\ntargets = [\"web1\"]\nroles = [\"{}\"]\n",
        lab.target.user
    );
    fs::write(lab.bastion.config(), config).unwrap();
    let identity = newcomer.display().to_string();
    let dave = ["-o", "IdentityFile=none", "-i", &identity, "-l", "dave+web1"];
    assert_eq!(lab.exec_with(Route::Through, &dave, "echo in", std::io::empty()).unwrap().code(), 255);
    lab.bastion.reload();
    assert!(wait_until(PATIENCE, || lab.exec_with(Route::Through, &dave, "echo in", std::io::empty()).unwrap().out()
        == "in\n"));

    terminal.type_in(b"echo still $((2+2))\r").unwrap();
    terminal.expect("still 4", PATIENCE).unwrap();
    // A file with a mistake in it changes nothing, and says so.
    let good = fs::read_to_string(lab.bastion.config()).unwrap();
    fs::write(lab.bastion.config(), format!("nonsense = 1\n{good}")).unwrap();
    lab.bastion.reload();
    assert!(wait_until(PATIENCE, || lab.bastion.log().contains("nonsense")), "{}", lab.bastion.log());
    assert_eq!(lab.exec_with(Route::Through, &dave, "echo in", std::io::empty()).unwrap().out(), "in\n");
    terminal.type_in(b"exit\r").unwrap();
    terminal.wait(PATIENCE).unwrap();
    lab.bastion.stop();
    assert!(control_says(&lab.vault(), "daemon", &["reload"]), "the reload is on record");
}

/// An open connection is no way round the key that was taken away: it opens nothing new, and what is open goes on.
#[test]
fn a_key_that_a_reload_takes_away_opens_nothing_more() {
    let lab = Lab::with(&Options { postgres: Some(postgres::Options::default()), ..Options::default() }).unwrap();
    let socket = lab.dir.join("mux").display().to_string();
    let mut master = lab.client.ssh_to(PORTAL, &["-M", "-N", "-S", &socket]);
    let master = Spawned::start(master.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())).unwrap();
    assert!(wait_until(PATIENCE, || std::path::Path::new(&socket).exists()));
    let over = |options: &[&str], verb: &[&str]| {
        let mut ssh = lab.client.ssh_to(PORTAL, &[&["-S", socket.as_str()], options].concat());
        run(ssh.args(verb), nothing(), PATIENCE).unwrap()
    };
    let done = over(&[], &["token", DATABASE]);
    assert_eq!(done.code(), 0, "{}", done.err());
    let through = lab.pg_access(PgRoute::Through).unwrap();
    let access = Access { password: done.out().trim_end().to_owned(), ..through };
    let psql =
        || run(access.program("psql", &lab.dir).unwrap().args(["-XAtc", "select 1"]), nothing(), PATIENCE).unwrap();
    assert_eq!(psql().out(), "1\n", "{}", psql().err());
    assert!(over(&["-W", "web1:22"], &[]).out().starts_with("SSH-2.0-"));
    let mut menu = Terminal::start(&lab.client.ssh_to(PORTAL, &["-S", &socket, "-tt"]), 80, 24).unwrap();
    menu.expect("Enter to leave: ", PATIENCE).unwrap();
    let mut running = Terminal::start(&lab.client.ssh(Route::Through, &["-tt"]), 80, 24).unwrap();
    running.type_in(b"echo before $((1+1))\r").unwrap();
    running.expect("before 2", PATIENCE).unwrap();

    let other = keys::make(&lab.dir.join("other"), "ed25519").unwrap();
    let key = |line: &str| line.split(' ').nth(1).unwrap().to_owned();
    let mine = keys::public_line(&lab.identity()).unwrap();
    let config = fs::read_to_string(lab.bastion.config()).unwrap();
    assert!(config.contains(&key(&mine)));
    fs::write(lab.bastion.config(), config.replace(&key(&mine), &key(&other))).unwrap();
    lab.bastion.reload();
    assert!(wait_until(PATIENCE, || lab.exec(Route::Through, "true").unwrap().code() == 255));

    let done = over(&[], &["token", DATABASE]);
    assert_eq!((done.out().as_str(), done.code()), ("", 1), "{}", done.err());
    assert_eq!(over(&["-W", "web1:22"], &[]).out(), "");
    assert!(psql().err().contains("password authentication failed"), "{}", psql().err());
    menu.type_in(b"1\r").unwrap();
    menu.expect("casemate: access denied", PATIENCE).unwrap();
    assert_eq!(menu.wait(PATIENCE).unwrap().code(), Some(255));
    running.type_in(b"echo still $((2+2)); exit\r").unwrap();
    running.expect("still 4", PATIENCE).unwrap();
    running.wait(PATIENCE).unwrap();
    drop(master);
    lab.bastion.stop();
    let portals = lab.vault().of_kind("portal").unwrap();
    let noted = portals.iter().any(|portal| {
        let portal = lab.vault().transcript(portal["session"].as_str().unwrap()).unwrap();
        portal.says("ssh.open", "is not configured any more")
    });
    assert!(noted, "why is on record");
}

#[test]
fn a_stop_seals_what_is_open_and_a_start_goes_on() {
    let mut lab = Lab::start().unwrap();
    assert_eq!(lab.exec(Route::Through, "echo first").unwrap().code(), 0);
    // `drain` lets sessions finish: this one does, while new ones find no door.
    let ssh = lab.client.ssh(Route::Through, &["-tt"]);
    let mut terminal = Terminal::start(&ssh, 80, 24).unwrap();
    terminal.type_in(b"echo open $((3+3))\r").unwrap();
    terminal.expect("open 6", PATIENCE).unwrap();
    lab.bastion.process.signal(rustix::process::Signal::TERM);
    assert!(wait_until(PATIENCE, || lab.bastion.log().contains("draining")), "{}", lab.bastion.log());
    let late = lab.exec(Route::Through, "echo late").unwrap();
    assert_eq!((late.code(), late.out().as_str()), (255, ""), "somebody was let in while it drains");
    assert!(lab.bastion.process.alive(), "the session that keeps it is over: {}", lab.bastion.log());
    terminal.type_in(b"echo drained $((4+4)); exit\r").unwrap();
    assert_eq!(terminal.wait(PATIENCE).unwrap().code(), Some(0), "the session could finish");
    assert!(lab.bastion.process.wait_gone(PATIENCE), "{}", lab.bastion.log());

    // A stop is no crash: nothing is recovered, nothing open.
    lab.vault().verify(&[]).unwrap().clean_but_for_trust().unwrap();
    let sessions = closed_sessions(&lab.vault(), 2);
    assert!(String::from_utf8_lossy(&sessions[1].1.bytes("ssh.out")).contains("drained 8"), "the session could finish");

    lab.rig.bastion.again().unwrap();
    assert_eq!(lab.exec(Route::Through, "echo second").unwrap().out(), "second\n");
    assert_eq!(closed_sessions(&lab.vault(), 3).len(), 3);
    lab.bastion.stop();
    lab.vault().verify(&[]).unwrap().clean_but_for_trust().unwrap();
}

#[test]
fn a_second_daemon_on_the_same_state_is_refused() {
    let lab = Lab::start().unwrap();
    let other = lab.dir.join("bastion/other.toml");
    let config = fs::read_to_string(lab.bastion.config()).unwrap();
    let port = casemate_tests::sshd::free_port().unwrap();
    fs::write(&other, config.replace(&lab.bastion.port.to_string(), &port.to_string())).unwrap();
    let done = Bastion::casemate(&["serve", "--config", &other.display().to_string()]).unwrap();
    assert_ne!(done.code(), 0);
    assert!(!done.err().is_empty());
    assert_eq!(lab.exec(Route::Through, "echo untouched").unwrap().out(), "untouched\n");
    only_session(&lab.vault());
}

#[test]
fn a_log_that_was_rolled_back_is_refused() {
    let mut lab = Lab::start().unwrap();
    assert_eq!(lab.exec(Route::Through, "echo one").unwrap().code(), 0);
    only_session(&lab.vault());
    lab.bastion.stop();
    let state = lab.dir.join("bastion/state");
    let saved = lab.dir.join("saved");
    copy(&state, &saved);
    lab.rig.bastion.again().unwrap();
    assert_eq!(lab.exec(Route::Through, "echo two").unwrap().code(), 0);
    closed_sessions(&lab.vault(), 2);
    lab.bastion.stop();
    // The state of yesterday, and a vault that knows of today.
    fs::remove_dir_all(&state).unwrap();
    fs::rename(&saved, &state).unwrap();
    let error = lab.rig.bastion.again().unwrap_err().to_string();
    assert!(error.contains("roll") || error.contains("shorter"), "{error}");
}

#[test]
fn what_is_wrong_with_a_configuration_is_said_with_line_and_remedy() {
    let lab = Lab::start().unwrap();
    let good = fs::read_to_string(lab.bastion.config()).unwrap();
    let file = lab.dir.join("bastion/bad.toml");
    let check = |text: &[u8]| {
        fs::write(&file, text).unwrap();
        Bastion::casemate(&["check", "--config", &file.display().to_string()]).unwrap()
    };
    let done = check(good.as_bytes());
    assert_eq!(done.code(), 0, "{}", done.err());
    let port = lab.target.port.to_string();
    let cases = [
        ("an unknown field", format!("colour = \"red\"\n{good}"), "colour"),
        ("no TOML", format!("{good}\n[[["), "bad.toml:"),
        ("no encryption said", good.replace("encryption = \"age\"", ""), "encryption"),
        ("a durability of its own", good.replace("[listen]", "durability_x = 1\n[listen]"), "durability_x"),
        ("a port that is none", good.replace(&format!("127.0.0.1:{port}"), "127.0.0.1:99999"), "address"),
        ("a person that is nobody", good.replace("person = \"alice\"", "person = \"nobody\""), "nobody"),
        ("a target that is nowhere", good.replace("targets = [\"web1\"]", "targets = [\"web9\"]"), "web9"),
        ("the same name twice", format!("{good}\n[[person]]\nname = \"alice\"\nkeys = []\n"), "alice"),
    ];
    for (name, text, said) in &cases {
        if *text == good {
            panic!("{name}: the case changes nothing");
        }
        let done = check(text.as_bytes());
        assert_ne!(done.code(), 0, "{name}");
        assert!(done.err().contains(said), "{name}: {}", done.err());
        assert!(!done.err().contains("panicked"), "{name}: {}", done.err());
    }
    // No text at all, though all of it would be a comment.
    let done = check(&[b"# \xff\n", good.as_bytes()].concat());
    assert_ne!(done.code(), 0);
    assert!(done.err().contains("not UTF-8"), "{}", done.err());
    // Keys that others can read, and keys that are links to somewhere else.
    let key = lab.dir.join("bastion/keys/ssh_host_ed25519_key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let done = check(good.as_bytes());
    assert_ne!(done.code(), 0);
    assert!(done.err().contains("ssh_host_ed25519_key"), "{}", done.err());
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let moved = lab.dir.join("bastion/moved");
    fs::rename(&key, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &key).unwrap();
    let done = check(good.as_bytes());
    assert_ne!(done.code(), 0, "a link is not followed");
    assert!(done.err().contains("ssh_host_ed25519_key"), "{}", done.err());
}

#[test]
fn init_and_target_add_make_a_configuration_that_works() {
    let lab = Lab::start().unwrap();
    let dir = lab.dir.join("by hand");
    let port = casemate_tests::sshd::free_port().unwrap();
    let text = |path: std::path::PathBuf| path.display().to_string();
    let (at, config) = (text(dir.clone()), text(dir.join("casemate.toml")));
    let public = text(keys::public_path(&lab.identity()));
    let listen = format!("127.0.0.1:{port}");
    let init = ["init", "--dir", &at, "--listen", &listen, "--pg-port", "0", "--person", "alice", "--key", &public];
    Bastion::casemate(&init).unwrap().ok().unwrap();
    assert_ne!(Bastion::casemate(&init).unwrap().code(), 0, "a second init must not overwrite the first");
    let address = format!("127.0.0.1:{}", lab.target.port);
    let role = format!("{}={}", lab.target.user, text(lab.target.identity()));
    let add = [
        "target",
        "add",
        "--config",
        &config,
        "--name",
        "web1",
        "--address",
        &address,
        "--role",
        &role,
        "--allow",
        "alice",
        "--yes",
    ];
    let done = Bastion::casemate(&add).unwrap().ok().unwrap();
    assert!(format!("{}{}", done.out(), done.err()).contains("SHA256:"), "the key is shown: {}", done.out());
    let user = &lab.target.user;
    assert!(done.out().contains(&format!("\nlogged in as {user}\n")), "the login is tried: {}", done.out());
    // With a key that is not there yet, the target is added as well.
    let role = format!("{user}={}", text(lab.identity()));
    let add = ["target", "add", "--config", &config, "--name", "web2", "--address", &address, "--role", &role, "--yes"];
    let done = Bastion::casemate(&add).unwrap().ok().unwrap();
    let line = fs::read_to_string(&public).unwrap();
    let key: Vec<&str> = line.split_whitespace().take(2).collect();
    assert!(done.out().contains("is not let in with this key yet"), "{}", done.out());
    assert!(done.out().contains(&key.join(" ")), "the line for authorized_keys: {}", done.out());
    Bastion::casemate(&["check", "--config", &config]).unwrap().ok().unwrap();
    for path in fs::read_dir(dir.join("keys")).unwrap() {
        let path = path.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "pub" && extension != "crt") {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
        }
    }
    let bastion = Bastion::serve(&dir, port).unwrap();
    let options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-p", &port.to_string()];
    let done = lab.exec_with(Route::Through, &options, "echo by hand", std::io::empty()).unwrap();
    bastion.stop();
    assert_eq!(done.out(), "by hand\n", "{}", done.err());
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}
