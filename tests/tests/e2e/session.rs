//! What passes through a session, and that the transcript holds exactly that.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use casemate_tests::client::Route;
use casemate_tests::noise::Noise;
use casemate_tests::process::{Done, find_program, nothing, run};
use casemate_tests::pty::Terminal;
use casemate_tests::rig::Lab;
use casemate_tests::scale::{MIB, pick};

use super::{closed_sessions, only_session};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn the_transcript_holds_command_streams_and_exit_status() {
    let lab = Lab::start().unwrap();
    let typed = b"one\ntwo \xff\x00 three\n";
    let command = "cat; echo told >&2; exit 42";
    let done = lab.exec_with(Route::Through, &[], command, &typed[..]).unwrap();
    assert_eq!((done.stdout.as_slice(), done.stderr.as_slice(), done.code()), (&typed[..], &b"told\n"[..], 42));

    let transcript = only_session(&lab.vault());
    assert_eq!(transcript.bytes("ssh.in"), typed);
    assert_eq!(transcript.bytes("ssh.out"), typed);
    assert_eq!(transcript.bytes("ssh.err"), b"told\n");
    assert!(transcript.of("ssh.exec").any(|event| event["command"] == command), "{:?}", transcript.events);
    assert!(transcript.of("ssh.exit").any(|event| event["status"] == 42), "{:?}", transcript.events);
    assert!(transcript.says("identity", "alice"));
    assert!(transcript.says("grant", "web1"));
    let numbers: Vec<u64> = transcript.events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(numbers.iter().enumerate().all(|(at, seq)| at as u64 == *seq), "events are dense from 0: {numbers:?}");
}

#[test]
fn every_way_to_end_reaches_the_client() {
    let lab = Lab::start().unwrap();
    for status in [0, 1, 2, 127, 128, 254, 255] {
        assert_eq!(lab.exec(Route::Through, &format!("exit {status}")).unwrap().code(), status);
    }
    // RFC 4254 §6.10: a process that a signal ended has no status; OpenSSH's client shows 255 for it.
    assert_eq!(lab.exec(Route::Through, "kill -TERM $$").unwrap().code(), 255);
    let sessions = closed_sessions(&lab.vault(), 8);
    let signals: Vec<_> =
        sessions.iter().filter(|(_, transcript)| transcript.says("ssh.exit", "\"signal\":\"TERM\"")).collect();
    assert_eq!(signals.len(), 1);
}

#[test]
fn bulk_is_exact_both_ways() {
    let lab = Lab::start().unwrap();
    let bytes = pick(8, 100) * MIB;
    let down = lab.exec(Route::Through, &format!("{} source {bytes} 7", peer())).unwrap();
    let mut hash = blake3::Hasher::new();
    std::io::copy(&mut Noise::new(7).take_bytes(bytes), &mut hash).unwrap();
    assert_eq!(down.stdout.len() as u64, bytes);
    assert_eq!(blake3::hash(&down.stdout), hash.finalize());

    let up = lab.exec_with(Route::Through, &[], &format!("{} sink", peer()), Noise::new(7).take_bytes(bytes)).unwrap();
    assert_eq!(up.out(), format!("{bytes} {}\n", hash.finalize().to_hex()));

    let sessions = closed_sessions(&lab.vault(), 2);
    assert_eq!(blake3::hash(&sessions[0].1.bytes("ssh.out")), hash.finalize());
    assert_eq!(blake3::hash(&sessions[1].1.bytes("ssh.in")), hash.finalize());
}

#[test]
fn end_of_input_is_passed_on_and_output_still_comes() {
    let lab = Lab::start().unwrap();
    let done = lab.exec_with(Route::Through, &[], "sort", &b"pear\napple\nfig\n"[..]).unwrap();
    assert_eq!((done.out().as_str(), done.code()), ("apple\nfig\npear\n", 0));
    // The other way: the target closes its output and goes on reading.
    let done = lab.exec_with(Route::Through, &[], "exec >&-; cat >/dev/null; exit 5", &b"still read"[..]).unwrap();
    assert_eq!(done.code(), 5);
}

#[test]
fn a_shell_in_a_terminal_works_resizes_and_leaves_a_slip() {
    let lab = Lab::start().unwrap();
    let mut ssh = lab.client.ssh(Route::Through, &["-tt"]);
    ssh.env("TERM", "xterm-256color");
    let mut terminal = Terminal::start(&ssh, 97, 31).unwrap();
    terminal.type_in(b"echo TERM is $TERM, size is $(stty size)\r").unwrap();
    terminal.expect("TERM is xterm-256color, size is 31 97", PATIENCE).unwrap();
    terminal.resize(120, 40).unwrap();
    terminal.type_in(b"sleep 0.3; echo now $(stty size)\r").unwrap();
    terminal.expect("now 40 120", PATIENCE).unwrap();
    // RFC 4254 §6.8 flow control and the interrupt character are the line discipline's work at the target.
    terminal.type_in(b"cat\r").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    terminal.type_in(b"\x03").unwrap();
    // The interrupt throws away what was typed and not read yet, so the next line waits for the prompt.
    std::thread::sleep(Duration::from_millis(500));
    terminal.type_in(b"echo after interrupt: $?\r").unwrap();
    terminal.expect("after interrupt: 130", PATIENCE).unwrap();
    terminal.type_in(b"exit 3\r").unwrap();
    assert_eq!(terminal.wait(PATIENCE).unwrap().code(), Some(3));

    let transcript = only_session(&lab.vault());
    let pty = transcript.of("ssh.pty").next().expect("a pty event");
    assert_eq!((&pty["cols"], &pty["rows"]), (&97.into(), &31.into()));
    let resize = transcript.of("ssh.resize").next().expect("a resize event");
    assert_eq!((&resize["cols"], &resize["rows"]), (&120.into(), &40.into()));
    assert_eq!(transcript.of("ssh.shell").count(), 1);
    let typed = transcript.bytes("ssh.in");
    assert!(typed.ends_with(b"exit 3\r"), "{:?}", String::from_utf8_lossy(&typed));

    // The slip is on the screen, and the verifier takes it for an anchor.
    lab.bastion.stop();
    let screen = terminal.text();
    let slip = screen.lines().map(str::trim).find(|line| line.contains("slip")).expect("a slip at the end");
    super::slip_is_an_anchor(&lab.vault(), slip);
}

#[test]
fn a_full_screen_editor_is_usable() {
    let lab = Lab::start().unwrap();
    if find_program("vim").is_err() && find_program("vi").is_err() {
        return;
    }
    let file = lab.dir.join("edited");
    let mut ssh = lab.client.ssh(Route::Through, &["-tt"]);
    ssh.env("TERM", "xterm").arg(format!("vi -u NONE {}", file.display()));
    let mut terminal = Terminal::start(&ssh, 80, 24).unwrap();
    terminal.expect("edited", PATIENCE).unwrap();
    terminal.resize(100, 30).unwrap();
    terminal.type_in(b"iwritten through the bastion\x1b:wq\r").unwrap();
    assert_eq!(terminal.wait(PATIENCE).unwrap().code(), Some(0));
    assert_eq!(fs::read_to_string(file).unwrap(), "written through the bastion\n");
    only_session(&lab.vault());
}

#[test]
fn only_listed_variables_pass_and_the_others_are_recorded_as_refused() {
    let lab = Lab::start().unwrap();
    let options = ["-o", "SetEnv=LC_CASEMATE=yes LD_PRELOAD=/tmp/evil.so"];
    let done = lab.exec_with(Route::Through, &options, "echo $LC_CASEMATE,$LD_PRELOAD", nothing()).unwrap();
    assert_eq!(done.out(), "yes,\n");
    let transcript = only_session(&lab.vault());
    let env: Vec<String> = transcript.of("ssh.env").map(ToString::to_string).collect();
    assert!(env.iter().any(|event| event.contains("LC_CASEMATE")), "{env:?}");
    let refused = transcript.says("ssh.refused", "LD_PRELOAD") || env.iter().any(|event| event.contains("LD_PRELOAD"));
    assert!(refused, "{:?}", transcript.events);
}

#[test]
fn several_channels_share_one_connection_and_keep_apart() {
    let lab = Lab::start().unwrap();
    let socket = lab.dir.join("mux");
    let path = format!("ControlPath={}", socket.display());
    let mut master = lab.client.ssh(Route::Through, &["-o", &path, "-o", "ControlMaster=yes", "-N"]).spawn().unwrap();
    assert!(casemate_tests::process::wait_until(PATIENCE, || socket.exists()));
    let options = ["-o", path.as_str()];
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (lab, options) = (&lab, &options);
            scope.spawn(move || {
                let input = format!("channel {number}\n").repeat(1000);
                let done = lab.exec_with(Route::Through, options, "cat", std::io::Cursor::new(input.clone())).unwrap();
                assert_eq!(done.out(), input);
            });
        }
    });
    master.kill().unwrap();
    master.wait().unwrap();
    // One session: one authenticated connection to one target; its channels live inside it (ARCHITECTURE.md).
    let transcript = only_session(&lab.vault());
    let outs: Vec<_> = transcript.streams.iter().filter(|((_, kind), _)| kind == "ssh.out").collect();
    assert_eq!(outs.len(), 4, "four channels: {:?}", transcript.streams.keys());
    for ((chan, _), out) in outs {
        assert_eq!(&transcript.streams[&(*chan, "ssh.in".to_owned())], out, "channel {chan} echoes what it got");
    }
}

#[test]
fn file_transfer_programs_work() {
    let lab = Lab::start().unwrap();
    let local = lab.dir.join("local");
    fs::write(&local, Noise::new(5).chunk(3 << 20)).unwrap();
    let want = fs::read(&local).unwrap();
    let (there, back) = (lab.dir.join("there"), lab.dir.join("back"));

    let batch = format!("put {} {}\nget {} {}\n", local.display(), there.display(), there.display(), back.display());
    let mut sftp = lab.client.program("sftp");
    run(sftp.args(["-q", "-b", "-", "through"]), std::io::Cursor::new(batch), PATIENCE).unwrap().ok().unwrap();
    assert_eq!(fs::read(&back).unwrap(), want);

    let (there, back) = (lab.dir.join("scp-there"), lab.dir.join("scp-back"));
    for legacy in [false, true] {
        let mut scp = lab.client.program("scp");
        let mut back_again = lab.client.program("scp");
        if legacy {
            // The protocol that scp spoke before OpenSSH 9: a command at the other end.
            scp.arg("-O");
            back_again.arg("-O");
        }
        let remote = format!("through:{}", there.display());
        run(scp.arg("-q").arg(&local).arg(&remote), nothing(), PATIENCE).unwrap().ok().unwrap();
        run(back_again.arg("-q").arg(&remote).arg(&back), nothing(), PATIENCE).unwrap().ok().unwrap();
        assert_eq!(fs::read(&back).unwrap(), want, "scp, legacy protocol: {legacy}");
        fs::remove_file(&back).unwrap();
    }

    let shell = format!("ssh -F {}", lab.client.config().display());
    let mut rsync = Command::new("rsync");
    rsync.args(["-a", "-e", &shell]).arg(&local).arg(format!("through:{}", lab.dir.join("rsynced").display()));
    run(&mut rsync, nothing(), PATIENCE).unwrap().ok().unwrap();
    assert_eq!(fs::read(lab.dir.join("rsynced")).unwrap(), want);
}

#[test]
fn a_signal_from_the_client_does_what_it_does_straight() {
    let lab = Lab::start().unwrap();
    // OpenSSH's client never sends RFC 4254 §6.9 "signal"; paramiko can be talked into it. An sshd that logs root in
    // ignores it, so what happens straight is what has to happen through the bastion.
    let script = r#"
import socket
from paramiko.common import cMSG_CHANNEL_REQUEST
channel = client.get_transport().open_session()
channel.exec_command("trap 'echo caught; exit 9' USR1; echo ready; for n in $(seq 40); do sleep 0.1; done; exit 4")
channel.settimeout(30)
assert channel.recv(6) == b"ready\n"
message = paramiko.Message()
message.add_byte(cMSG_CHANNEL_REQUEST)
message.add_int(channel.remote_chanid)
message.add_string("signal")
message.add_boolean(False)
message.add_string("USR1")
client.get_transport()._send_user_message(message)
print(channel.makefile().read(), channel.recv_exit_status())
client.close()
"#;
    let script = &(CLIENT.to_owned() + script);
    let straight = paramiko_at(&lab, lab.target.port, &lab.target.user, &lab.target.identity(), script).ok().unwrap();
    let through = paramiko(&lab, script).ok().unwrap();
    assert_eq!(through.out(), straight.out());
    let transcript = only_session(&lab.vault());
    assert!(transcript.says("ssh.signal", "USR1"), "{:?}", transcript.events);
}

/// Runs a paramiko script with the bastion's address and the person's identity as arguments.
pub(crate) fn paramiko(lab: &Lab, script: &str) -> Done {
    paramiko_at(lab, lab.bastion.port, &casemate_tests::rig::login(), &lab.identity(), script)
}

/// The beginning of a script that wants a `client` that is logged in.
pub(crate) const CLIENT: &str = "\
import sys, paramiko
host, port, user, key = sys.argv[1:]
client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
client.connect(host, int(port), user, key_filename=key, allow_agent=False, look_for_keys=False)
";

pub(crate) fn paramiko_at(lab: &Lab, port: u16, login: &str, identity: &Path, script: &str) -> Done {
    let path = lab.dir.join("script.py");
    fs::write(&path, script).unwrap();
    // Debian's own Python, which has Debian's paramiko.
    let mut python = Command::new("/usr/bin/python3");
    python.arg(path).args(["127.0.0.1", &port.to_string(), login]).arg(identity);
    run(&mut python, nothing(), Duration::from_secs(120)).unwrap()
}

pub(crate) fn peer() -> String {
    casemate_tests::bins::path("casemate-peer").unwrap().display().to_string()
}
