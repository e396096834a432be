//! `ssh -J`: the connection inside the connection ends at the bastion, and each is on record.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use casemate_tests::client::Route;
use casemate_tests::keys;
use casemate_tests::noise::Noise;
use casemate_tests::process::{Done, Spawned, nothing, run, wait_until};
use casemate_tests::rig::{self, Lab, Options, PORTAL};
use casemate_tests::sshd::free_port;

use super::control_says;

const PATIENCE: Duration = Duration::from_secs(60);

fn ssh(lab: &Lab, args: &[&str]) -> Done {
    run(lab.client.program("ssh").args(args), nothing(), PATIENCE).unwrap()
}

/// Returns the live or closed transcripts of a kind, once that many are closed.
fn settled(lab: &Lab, sessions: usize, portals: usize) {
    for (kind, count) in [("session", sessions), ("portal", portals)] {
        lab.vault().settle_kind(kind, count, Duration::from_secs(10)).unwrap();
    }
    assert_eq!(lab.vault().of_kind("session").unwrap().len(), sessions);
    assert_eq!(lab.vault().of_kind("portal").unwrap().len(), portals);
}

#[test]
fn a_jump_ends_inside_and_both_connections_are_on_record() {
    let lab = Lab::start().unwrap();
    let noise = Noise::new(3).chunk(3 << 20);
    let done =
        lab.exec_with(Route::Inside, &[], "cat; echo err >&2; exit 7", std::io::Cursor::new(noise.clone())).unwrap();
    assert_eq!((done.stdout == noise, done.err().as_str(), done.code()), (true, "err\n", 7));
    settled(&lab, 1, 1);

    let vault = lab.vault();
    let row = &vault.of_kind("session").unwrap()[0];
    assert_eq!((row["person"].as_str(), row["target"].as_str()), (Some("alice"), Some("web1")));
    assert_eq!(row["role"].as_str(), Some(lab.target.user.as_str()));
    let session = vault.transcript(row["session"].as_str().unwrap()).unwrap();
    assert_eq!(session.bytes("ssh.in"), noise);
    assert_eq!(session.bytes("ssh.out"), noise);
    let row = &vault.of_kind("portal").unwrap()[0];
    assert!(row["target"].is_null() && row["protocol"] == "ssh" && row["person"] == "alice", "{row}");
    let portal_id = row["session"].as_str().unwrap();
    let identity = session.of("identity").next().unwrap();
    assert_eq!((identity["portal"].as_str(), identity["person"].as_str()), (Some(portal_id), Some("alice")));
    let portal = vault.transcript(portal_id).unwrap();
    let open = portal.of("ssh.open").next().unwrap().to_string();
    for word in ["direct-tcpip", "\"port\":22", "65535", "\"accepted\":1"] {
        assert!(open.contains(word), "{word}: {open}");
    }
    let mention = portal.of("session").next().unwrap();
    assert_eq!(mention["id"].as_str(), vault.of_kind("session").unwrap()[0]["session"].as_str());
    assert!(portal.of("ssh.in").next().is_none(), "what is inside is recorded once, as what it means");
    lab.bastion.stop();
    vault.verify(&[]).unwrap().clean_but_for_trust().unwrap();
}

/// Every way that people write it: options, environment, configuration, names, aliases and addresses.
#[test]
fn every_spelling_of_a_jump_leads_there() {
    let lab = Lab::start().unwrap();
    let user = &lab.target.user;
    let (target, port) = (format!("{user}@web1"), lab.target.port.to_string());
    let by_address = format!("{user}@127.0.0.1");
    let proxy = format!("ProxyCommand=ssh -F {} -W %h:%p {PORTAL}", lab.client.config().display());
    // What a person does at first: the host key is that of the bastion, whatever it stands for.
    let identity = format!("IdentityFile={}", lab.identity().display());
    let cases: [&[&str]; 6] = [
        &["-J", PORTAL, &target],
        &["-o", &format!("ProxyJump={PORTAL}"), &target],
        &["-o", &proxy, &target],
        // The target's own port is as good as SSH's, and its address as its name.
        &["-J", PORTAL, "-p", &port, &target],
        &["-J", PORTAL, "-p", &port, "-o", "StrictHostKeyChecking=yes", &by_address],
        &["-J", PORTAL, "-o", "PreferredAuthentications=publickey", &target],
    ];
    for args in &cases {
        let done = ssh(&lab, &[&["-o", &identity], *args, &["echo in; exit 5"]].concat());
        assert_eq!((done.out().as_str(), done.code()), ("in\n", 5), "{args:?}: {}", done.err());
    }
    for name in ["scp", "sftp"] {
        let (from, to) = (lab.dir.join("from"), lab.dir.join(format!("to-{name}")));
        std::fs::write(&from, Noise::new(4).chunk(1 << 20)).unwrap();
        let mut command = lab.client.program(name);
        match name {
            "scp" => command.arg(&from).arg(format!("{}:{}", Route::Inside.host(), to.display())),
            _ => command.args(["-b", "-", Route::Inside.host()]),
        };
        let batch = format!("put {} {}\n", from.display(), to.display());
        let done = run(&mut command, std::io::Cursor::new(batch), PATIENCE).unwrap();
        assert_eq!(done.code(), 0, "{name}: {}", done.err());
        assert_eq!(std::fs::read(&from).unwrap(), std::fs::read(&to).unwrap(), "{name}");
    }
    settled(&lab, 8, 8);
}

#[test]
fn where_nothing_is_known_and_where_nobody_may_go_look_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (host_key, login) = (keys::make(&dir.path().join("host"), "ed25519").unwrap(), dir.path().join("login"));
    keys::make(&login, "ed25519").unwrap();
    let more = format!(
        r#"
        [[target]]
        name = "vault9"
        address = "127.0.0.1:1"
        kind = "ssh"
        host_keys = ["{host_key}"]
        [[target.role]]
        login = "root"
        key_file = "{}"
        "#,
        login.display()
    );
    let lab = Lab::with(&Options { more, ..Options::default() }).unwrap();
    let target_port = lab.target.port.to_string();
    let places = ["vault9:22", "nosuch:22", "web1:5432", "192.0.2.1:22"];
    let answers: Vec<_> = places
        .iter()
        .map(|place| {
            let done = ssh(&lab, &["-o", "LogLevel=INFO", "-W", place, PORTAL]);
            assert_ne!(done.code(), 0, "{place}");
            let said = done.err();
            said.lines()
                .filter(|line| !line.contains("recorded") && !line.contains("reviewed"))
                .collect::<Vec<_>>()
                .join("\n")
        })
        .collect();
    assert!(answers.iter().all(|answer| *answer == answers[0] && answer.contains("prohibited")), "{answers:?}");
    // Behind a login that names a target there is no way on.
    let done = ssh(&lab, &["-W", &format!("127.0.0.1:{target_port}"), Route::Through.host()]);
    assert_ne!(done.code(), 0);
    // Another login at the target than the person's: they are told which are theirs.
    let done = ssh(
        &lab,
        &["-J", PORTAL, "-o", &format!("IdentityFile={}", lab.identity().display()), "nobody@web1", "echo in"],
    );
    assert_eq!((done.out().as_str(), done.code()), ("", 255));
    assert!(done.err().contains(&format!("alice may reach web1 as {}", lab.target.user)), "{}", done.err());
    settled(&lab, 1, 5);
    lab.bastion.stop();
    let vault = lab.vault();
    let reasons: Vec<String> = vault
        .of_kind("portal")
        .unwrap()
        .iter()
        .flat_map(|row| {
            let transcript = vault.transcript(row["session"].as_str().unwrap()).unwrap();
            transcript.of("ssh.open").map(ToString::to_string).collect::<Vec<_>>()
        })
        .collect();
    for why in [
        "no access line lets",
        "\\\"nosuch:22\\\" is not configured",
        "\\\"web1:5432\\\" is not configured",
        "192.0.2.1:22",
    ] {
        assert!(
            reasons.iter().any(|reason| reason.contains(why) && reason.contains("\"accepted\":0")),
            "{why}: {reasons:#?}"
        );
    }
    assert!(control_says(&vault, "auth", &["publickey", "\"nobody\"", "\"accepted\":0"]));
}

/// Connects to a port from the one that OpenSSH names itself by, as any user of the machine may.
const FROM_THE_PORT_OF_OPENSSH: &str = r#"
import os, socket, sys, threading
far = socket.socket()
far.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
far.bind(("127.0.0.1", 65535))
far.connect(("127.0.0.1", int(sys.argv[1])))
def up():
    while data := os.read(0, 65536):
        far.sendall(data)
    far.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while data := far.recv(65536):
    os.write(1, data)
"#;

/// Acceptance of the design: a forwarded port can be reached by others, and lets none of them in.
#[test]
fn others_on_a_forwarded_port_must_prove_the_same_person() {
    let dir = tempfile::tempdir().unwrap();
    let bob = dir.path().join("bob");
    let public = keys::make(&bob, "ed25519").unwrap();
    let more = rig::person("bob", &[&public], "admin") + &rig::access("bob").unwrap();
    let lab = Lab::with(&Options { more, ..Options::default() }).unwrap();
    let local = free_port().unwrap();
    let mut ssh = lab.client.program("ssh");
    ssh.args(["-N", "-o", "ExitOnForwardFailure=yes", "-L", &format!("127.0.0.1:{local}:web1:22"), PORTAL]);
    let mut forward = ssh.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until(Duration::from_secs(20), || casemate_tests::client::greets(local));
    let stranger = dir.path().join("stranger");
    keys::make(&stranger, "ed25519").unwrap();
    let through_with = |identity: &std::path::Path, more: &[&str]| {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "/dev/null", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"]);
        ssh.args(["-o", &format!("UserKnownHostsFile={}", lab.client.known_hosts().display())]);
        ssh.args(["-o", "HostKeyAlias=web1", "-o", "StrictHostKeyChecking=yes", "-p", &local.to_string()]);
        ssh.args(more).arg("-i").arg(identity).args(["-l", &lab.target.user, "127.0.0.1", "echo in"]);
        run(&mut ssh, nothing(), PATIENCE).unwrap()
    };
    let through = |identity: &std::path::Path| through_with(identity, &[]);
    // The person themselves, from their own machine, with their own key.
    let done = through(&lab.identity());
    assert_eq!((done.out().as_str(), done.code()), ("in\n", 0), "{}", done.err());
    // Another user of that machine: without a key, and with one that leads to the target under their own name.
    for other in [&stranger, &bob] {
        let done = through(other);
        assert_eq!((done.out().as_str(), done.code()), ("", 255), "{}", other.display());
        assert!(done.err().contains("Permission denied (publickey)"), "{}", done.err());
    }
    // Nor where they come from the port that OpenSSH names itself by.
    let script = lab.dir.join("from_the_port_of_openssh");
    std::fs::write(&script, FROM_THE_PORT_OF_OPENSSH).unwrap();
    let done = through_with(&stranger, &["-o", &format!("ProxyCommand=python3 {} {local}", script.display())]);
    assert_eq!((done.out().as_str(), done.code()), ("", 255), "another user of that machine");
    assert!(done.err().contains("Permission denied (publickey)"), "{}", done.err());
    forward.kill().unwrap();
    forward.wait().unwrap();
    // Another machine, where the port was forwarded for all (`ssh -g`): the client names it, and it gets no channel at all.
    let script = r#"
import sys, paramiko
host, port, user, key = sys.argv[1:]
transport = paramiko.Transport((host, int(port)))
transport.connect(username=user, pkey=paramiko.Ed25519Key.from_private_key_file(key))
for origin in [("192.0.2.7", 40022), ("192.0.2.7", 65535), ("2001:db8::7", 1)]:
    try:
        transport.open_channel("direct-tcpip", ("web1", 22), origin)
        print("open")
    except paramiko.ChannelException as error:
        print(error.code)
transport.close()
"#;
    let done = super::session::paramiko_at(&lab, lab.bastion.port, "alice", &lab.identity(), script);
    // 1: administratively prohibited (RFC 4254, 5.1).
    assert_eq!(done.out(), "1\n1\n1\n", "{}", done.err());
    lab.bastion.stop();
    let vault = lab.vault();
    assert_eq!(vault.of_kind("session").unwrap().len(), 1);
    let user = format!("\"name\":\"{}\"", lab.target.user);
    assert!(control_says(&vault, "auth", &[&user, "1 keys offered", "\"accepted\":0"]), "who tried is on record");
    let portal = vault.of_kind("portal").unwrap().into_iter().next().unwrap();
    let portal = vault.transcript(portal["session"].as_str().unwrap()).unwrap();
    assert!(portal.says("ssh.open", "65535"), "they did come from that port");
}

#[test]
fn a_jump_does_without_a_second_proof_only_where_that_is_set() {
    // The options are for the inner connection alone: the outer one is a process of its own.
    let no_key = ["-o", "PubkeyAuthentication=no", Route::Inside.host(), "echo in"];
    let lab = Lab::start().unwrap();
    let done = ssh(&lab, &no_key);
    assert_eq!((done.out().as_str(), done.code()), ("", 255));
    assert!(done.err().contains("Permission denied (publickey)"), "{}", done.err());
    drop(lab);
    let settings = "[listen]\njump_without_key = true".parse().unwrap();
    let lab = Lab::with(&Options { settings, ..Options::default() }).unwrap();
    let done = ssh(&lab, &no_key);
    assert_eq!((done.out().as_str(), done.code()), ("in\n", 0), "{}", done.err());
    lab.bastion.stop();
    assert!(control_says(&lab.vault(), "auth", &["\"jump\"", "\"accepted\":1"]), "how they got in is on record");
}

/// Whoever leaves first leaves no trace: neither a place that is taken, nor a way in that is shut.
#[test]
fn what_is_inside_and_killed_leaves_room_for_others() {
    let lab = Lab::start().unwrap();
    let local = free_port().unwrap();
    let mut ssh = lab.client.program("ssh");
    ssh.args(["-N", "-o", "ExitOnForwardFailure=yes", "-L", &format!("127.0.0.1:{local}:web1:22"), PORTAL]);
    let _forward = Spawned::start(ssh.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())).unwrap();
    assert!(wait_until(Duration::from_secs(20), || casemate_tests::client::greets(local)));
    let inside = |command: &str| {
        let mut ssh = lab.client.program("ssh");
        ssh.args(["-o", "ProxyJump=none", "-o", "HostName=127.0.0.1", "-o", "HostKeyAlias=web1", "-p"]);
        ssh.arg(local.to_string()).arg(Route::Inside.host()).arg(command);
        ssh
    };
    for batch in 1..=2 {
        let clients: Vec<_> = (0..6)
            .map(|_| {
                let mut ssh = inside("echo ready; cat");
                let ssh = ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
                ssh.spawn().unwrap()
            })
            .collect();
        for mut client in clients {
            let mut ready = [0; 6];
            let read = client.stdout.as_mut().unwrap().read_exact(&mut ready);
            client.kill().unwrap();
            let output = client.wait_with_output().unwrap();
            assert!(read.is_ok(), "{batch}: {}", String::from_utf8_lossy(&output.stderr));
        }
        // Their targets have two seconds to notice.
        lab.vault().settle_kind("session", 6 * batch, Duration::from_secs(20)).unwrap();
    }
    let done = run(&mut inside("echo in"), nothing(), PATIENCE).unwrap();
    assert_eq!((done.out().as_str(), done.code()), ("in\n", 0), "{}", done.err());
}

#[test]
fn the_end_of_a_portal_ends_what_is_inside() {
    let lab = Lab::start().unwrap();
    let mut inside = lab
        .client
        .ssh(Route::Inside, &[])
        .arg("echo ready; sleep 60")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    inside.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let live = || {
        let done = ssh(&lab, &[PORTAL, "sessions", "--json"]);
        let rows: Vec<serde_json::Value> = done.out().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        rows
    };
    let rows = live();
    let portal = rows.iter().find(|row| row["kind"] == "portal").unwrap()["session"].as_str().unwrap().to_owned();
    let done = ssh(&lab, &[PORTAL, "kill", &portal]);
    assert_eq!(done.code(), 0, "{}", done.err());
    let output = inside.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("this session was ended by alice"), "{output:?}");
    assert!(wait_until(Duration::from_secs(10), || !live().iter().any(|row| row["kind"] == "session")));
    lab.bastion.stop();
    let vault = lab.vault();
    let row = &vault.of_kind("session").unwrap()[0];
    let session = vault.transcript(row["session"].as_str().unwrap()).unwrap();
    assert!(session.of("ended").any(|event| event.to_string().contains("the portal session ended: ended by alice")));
    vault.verify(&[]).unwrap().clean_but_for_trust().unwrap();
}

#[test]
fn a_client_that_vanishes_is_gone_from_the_record_within_seconds() {
    let lab = Lab::start().unwrap();
    for (round, route) in [Route::Through, Route::Inside].into_iter().enumerate() {
        let mut ssh = lab.client.ssh(route, &[]);
        let mut child = ssh.arg("echo ready; cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        // SIGKILL: neither an end of file nor a goodbye, and the helper of a jump finds its pipe closed.
        child.kill().unwrap();
        child.wait().unwrap();
        let start = std::time::Instant::now();
        lab.vault().settle(round + 1, Duration::from_secs(20)).unwrap();
        // Two seconds for the target to notice, one for the vault, and slack.
        assert!(start.elapsed() < Duration::from_secs(7), "{route:?}: {:?}", start.elapsed());
    }
}

/// Where host certificates are not known, the bastion's own host key stands for every target: one plain line each.
#[test]
fn a_plain_line_for_a_target_holds_the_bastions_key() {
    let lab = Lab::start().unwrap();
    let key = lab.bastion.host_key().unwrap();
    let known = |line: &str| {
        let file = lab.dir.join("plain");
        std::fs::write(&file, format!("[127.0.0.1]:{} {key}\n{line}\n", lab.bastion.port)).unwrap();
        let config = std::fs::read_to_string(lab.client.config()).unwrap();
        let config = config.replace(&lab.client.known_hosts().display().to_string(), &file.display().to_string());
        let path = lab.dir.join("plain_config");
        std::fs::write(&path, config).unwrap();
        let mut ssh = Command::new("ssh");
        ssh.arg("-F").arg(path).args([Route::Inside.host(), "echo in"]);
        run(&mut ssh, nothing(), PATIENCE).unwrap()
    };
    let done = known(&format!("web1 {key}"));
    assert_eq!((done.out().as_str(), done.code()), ("in\n", 0), "{}", done.err());
    // The target's own key is what a client has pinned that went there straight before. It must notice the difference.
    let done = known(&format!("web1 {}", lab.target.host_key().unwrap()));
    assert_eq!((done.out().as_str(), done.code()), ("", 255));
    assert!(done.err().contains("Host key verification failed"), "{}", done.err());
    // An authority that is not ours vouches for nothing.
    let other = keys::make(&lab.dir.join("other_authority"), "ed25519").unwrap();
    let done = known(&format!("@cert-authority web1 {other}"));
    assert_eq!((done.out().as_str(), done.code()), ("", 255));
}

/// Whoever is through the first door is not through the second: it has the same deadlines and limits.
#[test]
fn what_is_inside_has_its_own_grace_and_limits() {
    let limits = "login_grace = \"3s\"\nchannels = 4".parse().unwrap();
    let lab = Lab::with(&Options { limits, ..Options::default() }).unwrap();
    let script = r#"
import sys, time, paramiko
host, port, user, key = sys.argv[1:]
transport = paramiko.Transport((host, int(port)))
transport.connect(username=user, pkey=paramiko.Ed25519Key.from_private_key_file(key))
def inside(origin=("127.0.0.1", 65535)):
    return transport.open_channel("direct-tcpip", ("web1", 22), origin)
# Silent: greeted, and closed when the grace is over.
silent, start = inside(), time.time()
silent.settimeout(20)
first = silent.recv(4)
while silent.recv(65536):
    pass
print("silent", first.decode(), 2 < time.time() - start < 10)
# Not SSH at all, and much of it.
noise = inside()
noise.settimeout(20)
sent = 0
try:
    for _ in range(1024):
        noise.sendall(b"GET / HTTP/1.0\r\n" * 4096)
        sent += 1
except (OSError, EOFError):
    pass
print("noise", sent < 1024, noise.closed or noise.recv(1 << 20) is not None)
# More than a portal may have.
kept, refused = [], 0
for _ in range(10):
    try:
        kept.append(inside())
    except paramiko.ChannelException as error:
        refused = error.code
print("many", len(kept) <= 4, refused)
for one in kept:
    one.close()
time.sleep(1)
# And still a way in.
again = paramiko.Transport(inside(("", 0)))
again.connect(username=LOGIN, pkey=paramiko.Ed25519Key.from_private_key_file(key))
channel = again.open_session()
channel.exec_command("echo in; exit 9")
print("again", channel.makefile().read().decode().strip(), channel.recv_exit_status())
transport.close()
"#;
    let script = script.replace("LOGIN", &format!("{:?}", lab.target.user));
    let before = casemate_tests::process::rss(lab.bastion.process.pid);
    let done = super::session::paramiko_at(&lab, lab.bastion.port, "alice", &lab.identity(), &script);
    // 4: resource shortage (RFC 4254, 5.1).
    let expected = "silent SSH- True\nnoise True True\nmany True 4\nagain in 9\n";
    assert_eq!((done.out().as_str(), done.code()), (expected, 0), "{}", done.err());
    let grown = casemate_tests::process::rss(lab.bastion.process.pid).saturating_sub(before);
    assert!(grown < 48 << 20, "the bastion grew by {grown} bytes");
}
