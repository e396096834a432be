//! Forwarded connections: `-L`, `-R`, `-D`, `-W` and sockets in the file system, straight and through, and what is refused.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use casemate_tests::client::Route;
use casemate_tests::duplex::{Server, Stream, both_sides, converse};
use casemate_tests::noise::Noise;
use casemate_tests::process::{Done, nothing, open_files, rss, run, wait_until};
use casemate_tests::rig::{Lab, Options, PORTAL};
use casemate_tests::scale::{MIB, pick};
use casemate_tests::sshd::free_port;
use casemate_tests::vault::Transcript;
use casemate_tests::{keys, sshd};
use serde_json::Value;

use super::closed_sessions;
use super::session::{CLIENT, paramiko_at};

const PATIENCE: Duration = Duration::from_secs(60);

/// A connection of the person's that forwards are added to and taken from, as `ssh -O` does.
struct Master<'a> {
    lab: &'a Lab,
    host: &'a str,
    socket: PathBuf,
    child: Child,
}

impl<'a> Master<'a> {
    fn start(lab: &'a Lab, route: Route, name: &str) -> Self {
        Self::start_to(lab, route.host(), name, &[])
    }

    fn start_to(lab: &'a Lab, host: &'a str, name: &str, options: &[&str]) -> Self {
        let socket = lab.dir.join(format!("ctl-{name}"));
        let mut ssh = lab.client.program("ssh");
        ssh.args(options).args(["-M", "-N", "-S"]).arg(&socket).arg(host);
        let child = ssh.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let master = Self { lab, host, socket, child };
        assert!(wait_until(PATIENCE, || master.order(&["-O", "check"]).code() == 0), "no connection to {host}");
        master
    }

    fn order(&self, args: &[&str]) -> Done {
        let mut ssh = self.lab.client.program("ssh");
        run(ssh.arg("-S").arg(&self.socket).args(args).arg(self.host), nothing(), PATIENCE).unwrap()
    }

    fn exec(&self, command: &str) -> Done {
        let mut ssh = self.lab.client.program("ssh");
        run(ssh.arg("-S").arg(&self.socket).args([self.host, command]), nothing(), PATIENCE).unwrap()
    }

    /// Adds a forward and returns what `ssh` says, which is the port for one that the target chooses.
    fn forward(&self, args: &[&str]) -> String {
        let done = self.order(&[&["-O", "forward"], args].concat());
        assert_eq!(done.code(), 0, "{}: {args:?}: {}", self.host, done.err());
        done.out()
    }

    fn end(&mut self) {
        self.order(&["-O", "exit"]);
        let _ = self.child.wait();
    }
}

impl Drop for Master<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lab(patterns: &[String]) -> Lab {
    Lab::with(&Options { forward: patterns.to_vec(), ..Options::default() }).unwrap()
}

/// A short path: a socket's may have 107 bytes.
fn place() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("fwd").tempdir().unwrap()
}

/// Asks a SOCKS 5 server for a connection to a port of 127.0.0.1.
fn socks(proxy: u16, port: u16) -> Stream {
    let mut stream = Stream::tcp(proxy).unwrap();
    stream.write_all(&[5, 1, 0]).unwrap();
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [5, 0]);
    stream.write_all(&[&[5, 1, 0, 1, 127, 0, 0, 1], port.to_be_bytes().as_slice()].concat()).unwrap();
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[1], 0, "{answer:?}");
    stream
}

/// Checks that each forwarded connection that ended is in the record byte for byte, with its counts and digests, and
/// returns them as `(kind, place, by)`.
fn whole_in_the_record(transcript: &Transcript, bytes: u64) -> Vec<(String, String, String)> {
    let (sent, received) = both_sides(bytes);
    let text = |event: &Value, name: &str| event[name].as_str().unwrap_or_default().to_owned();
    transcript
        .of("fwd.end")
        .map(|end| {
            let chan = end["chan"].as_u64().unwrap();
            let back = end["kind"].as_str().unwrap().starts_with("forwarded");
            // Who listens at the target is the client of a server on the person's side.
            let (input, output) = if back { (&received, &sent) } else { (&sent, &received) };
            for (kind, whole, count, digest) in
                [("fwd.in", input, "sent", "sent_blake3"), ("fwd.out", output, "received", "received_blake3")]
            {
                assert!(transcript.streams[&(chan, kind.to_owned())] == *whole, "{kind}: {end}");
                assert_eq!(end[count].as_u64(), Some(whole.len() as u64), "{end}");
                assert_eq!(text(end, digest), blake3::hash(whole).to_hex().to_string(), "{end}");
            }
            let at = match end["path"].as_str() {
                Some(path) => path.to_owned(),
                None => format!("{}:{}", text(end, "host"), end["port"]),
            };
            let opened = transcript.of("ssh.open").find(|open| open["chan"] == end["chan"]).unwrap();
            assert_eq!((opened["accepted"].as_u64(), &opened["kind"]), (Some(1), &end["kind"]), "{opened}");
            (text(end, "kind"), at, text(end, "by"))
        })
        .collect()
}

#[test]
fn the_target_connects_where_the_access_line_says_with_every_byte_on_record() {
    let bytes = pick(8, 64) * MIB;
    let dir = place();
    let (tcp, unix) = (Server::tcp(bytes).unwrap(), Server::unix(&dir.path().join("app"), bytes).unwrap());
    let app = unix.path.display().to_string();
    let lab = lab(&[format!("localhost:{}", tcp.port), format!("127.0.0.1:{}", tcp.port), format!("unix:{app}")]);
    for (at, route) in [Route::Straight, Route::Through, Route::Inside].into_iter().enumerate() {
        let mut master = Master::start(&lab, route, &format!("{at}"));
        let (one, two, proxy) = (free_port().unwrap(), free_port().unwrap(), free_port().unwrap());
        let socket = dir.path().join(format!("l{at}"));
        master.forward(&["-L", &format!("{one}:localhost:{}", tcp.port)]);
        master.forward(&["-L", &format!("{two}:{app}")]);
        master.forward(&["-L", &format!("{}:{app}", socket.display())]);
        master.forward(&["-D", &proxy.to_string()]);
        // All at once: they are channels of one connection.
        let streams = [Stream::tcp(one), Stream::tcp(two), Stream::unix(&socket), Ok(socks(proxy, tcp.port))];
        std::thread::scope(|scope| {
            let all: Vec<_> = streams.map(|stream| scope.spawn(|| converse(stream.unwrap(), bytes))).into();
            for one in all {
                one.join().unwrap().unwrap_or_else(|error| panic!("{route:?}: {error:#}"));
            }
        });
        master.end();
    }
    assert!(wait_until(PATIENCE, || (tcp.served(), unix.served()) == (6, 6)));
    for (_, transcript) in closed_sessions(&lab.vault(), 2) {
        let mut told = whole_in_the_record(&transcript, bytes);
        told.sort();
        let places: Vec<(&str, &str)> = told.iter().map(|(kind, at, _)| (kind.as_str(), at.as_str())).collect();
        let tcp = [format!("127.0.0.1:{}", tcp.port), format!("localhost:{}", tcp.port)];
        let path = ("direct-streamlocal@openssh.com", app.as_str());
        assert_eq!(places, [path, path, ("direct-tcpip", &tcp[0]), ("direct-tcpip", &tcp[1])]);
        let grant = transcript.of("grant").next().unwrap();
        assert_eq!(grant["forward"].as_array().map(Vec::len), Some(3), "{grant}");
    }
    let id = lab.vault().of_kind("session").unwrap()[0]["session"].as_str().unwrap().to_owned();
    let shown = lab.vault().replay("show", &[&id]).unwrap().out();
    let digest = blake3::hash(&both_sides(bytes).0).to_hex().to_string();
    let line = shown.lines().find(|line| line.contains("fwd.end") && line.contains("host=localhost")).unwrap();
    assert!(line.contains(&format!("sent={bytes}  sent_blake3={digest}")), "{line}");
    assert!(shown.lines().any(|line| line.contains("ssh.open") && line.contains(&format!("path={app}"))), "{shown}");
    lab.bastion.stop();
    lab.vault().verify(&[]).unwrap().clean_but_for_trust().unwrap();
}

#[test]
fn the_target_listens_where_the_access_line_says_with_every_byte_on_record() {
    let bytes = pick(8, 64) * MIB;
    let dir = place();
    let (tcp, unix) = (Server::tcp(bytes).unwrap(), Server::unix(&dir.path().join("app"), bytes).unwrap());
    let fixed = free_port().unwrap();
    let sockets: Vec<String> = (0..3).map(|at| dir.path().join(format!("r{at}")).display().to_string()).collect();
    let mut patterns = vec![format!("listen:localhost:{fixed}"), "listen:*:0".to_owned()];
    patterns.extend(sockets.iter().map(|path| format!("listen:unix:{path}")));
    let lab = lab(&patterns);
    for (at, route) in [Route::Straight, Route::Through, Route::Inside].into_iter().enumerate() {
        let mut master = Master::start(&lab, route, &format!("{at}"));
        master.forward(&["-R", &format!("{fixed}:127.0.0.1:{}", tcp.port)]);
        let free = master.forward(&["-R", &format!("0:{}", unix.path.display())]);
        let free: u16 = free.trim().parse().unwrap_or_else(|_| panic!("{route:?}: no port: {free:?}"));
        assert_ne!(free, 0);
        master.forward(&["-R", &format!("{}:127.0.0.1:{}", sockets[at], tcp.port)]);
        let streams = [Stream::tcp(fixed), Stream::tcp(free), Stream::unix(sockets[at].as_ref()), Stream::tcp(fixed)];
        std::thread::scope(|scope| {
            let all: Vec<_> = streams.map(|stream| scope.spawn(|| converse(stream.unwrap(), bytes))).into();
            for one in all {
                one.join().unwrap().unwrap_or_else(|error| panic!("{route:?}: {error:#}"));
            }
        });
        // What was given up is closed, and can be asked for again.
        let give_up = format!("{fixed}:127.0.0.1:{}", tcp.port);
        assert_eq!(master.order(&["-O", "cancel", "-R", &give_up]).code(), 0, "{route:?}");
        assert!(wait_until(PATIENCE, || is_free(fixed)), "{route:?}: it still listens");
        master.forward(&["-R", &give_up]);
        converse(Stream::tcp(fixed).unwrap(), bytes).unwrap_or_else(|error| panic!("{route:?}: {error:#}"));
        master.end();
        assert!(wait_until(PATIENCE, || is_free(fixed) && is_free(free)), "{route:?}");
    }
    for (_, transcript) in closed_sessions(&lab.vault(), 2) {
        let told = whole_in_the_record(&transcript, bytes);
        let of = |kind: &str| told.iter().filter(|(known, _, _)| known == kind).count();
        assert_eq!((of("forwarded-tcpip"), of("forwarded-streamlocal@openssh.com"), told.len()), (4, 1, 5), "{told:?}");
        let listens: Vec<&Value> = transcript.of("fwd.listen").collect();
        let free = listens.iter().find(|event| event["bound"].is_u64()).unwrap();
        assert!(free["bound"].as_u64() > Some(0) && free["port"] == 0 && free["accepted"] == 1, "{free}");
        assert!(listens.iter().any(|event| event["what"] == "cancel-tcpip-forward" && event["accepted"] == 1));
        let opened = transcript.of("ssh.open").find(|event| event["kind"] == "forwarded-tcpip").unwrap();
        assert_eq!((opened["side"].as_u64(), opened["originator"].as_str()), (Some(1), Some("127.0.0.1")), "{opened}");
    }
    lab.bastion.stop();
    lab.vault().verify(&[]).unwrap().clean_but_for_trust().unwrap();
}

/// What the client sent before it closed arrives, however slowly it is taken there.
#[test]
fn what_was_sent_before_the_end_arrives_at_a_slow_place() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let place = listener.local_addr().unwrap().port();
    let lab = lab(&[format!("localhost:{place}")]);
    for route in [Route::Straight, Route::Through] {
        let mut master = Master::start(&lab, route, route.host());
        let port = free_port().unwrap();
        master.forward(&["-L", &format!("{port}:localhost:{place}")]);
        // More than sockets hold between the target and its neighbour, so that it waits in the target's sshd.
        let (mut stream, bytes) = (Stream::tcp(port).unwrap(), 6 * MIB);
        let (mut taken, _) = listener.accept().unwrap();
        // It says its own end first: after that the client closes as soon as it has sent.
        taken.shutdown(std::net::Shutdown::Write).unwrap();
        let writer = std::thread::spawn(move || {
            std::io::copy(&mut Noise::new(3).take_bytes(bytes), &mut stream).unwrap();
            drop(stream);
        });
        std::thread::sleep(Duration::from_millis(4500));
        let (mut got, mut expected) = (Vec::new(), Vec::new());
        taken.read_to_end(&mut got).unwrap();
        Noise::new(3).take_bytes(bytes).read_to_end(&mut expected).unwrap();
        assert!(got == expected, "{route:?}: {} bytes of {bytes} arrived", got.len());
        writer.join().unwrap();
        master.end();
    }
}

/// A connection stays when its forward is given up, as it does straight.
#[test]
fn what_was_connected_outlives_its_forward() {
    let (server, port) = (Server::tcp(MIB).unwrap(), free_port().unwrap());
    let forward = vec![format!("listen:*:{port}")];
    let lab = Lab::with(&Options { forward, durability: Some("strict".to_owned()), ..Options::default() }).unwrap();
    for route in [Route::Straight, Route::Through] {
        let mut master = Master::start(&lab, route, route.host());
        // On all addresses, as far as the target lets anybody.
        let asked = format!("*:{port}:127.0.0.1:{}", server.port);
        master.forward(&["-R", &asked]);
        let stream = Stream::tcp(port).unwrap();
        // The server speaks first: the connection is there.
        assert!(wait_until(PATIENCE, || waiting(&stream)), "{route:?}");
        let cancelled = master.order(&["-O", "cancel", "-R", &asked]);
        assert_eq!(cancelled.code(), 0, "{route:?}: {}", cancelled.err());
        assert!(wait_until(PATIENCE, || is_free(port)), "{route:?}: it still listens");
        converse(stream, MIB).unwrap_or_else(|error| panic!("{route:?}: {error:#}"));
        master.end();
    }
}

/// Whether nobody listens on a port of 127.0.0.1, asked without a connection, which would be one more on record.
fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

fn waiting(stream: &Stream) -> bool {
    match stream {
        Stream::Tcp(stream) => stream.peek(&mut [0]).is_ok_and(|len| len == 1),
        Stream::Unix(_) => false,
    }
}

#[test]
fn what_no_access_line_names_is_refused_and_recorded_and_disturbs_nobody() {
    let dir = place();
    let (named, other) = (Server::tcp(1000).unwrap(), Server::tcp(1000).unwrap());
    let unix = Server::unix(&dir.path().join("app"), 1000).unwrap();
    let lab = lab(&[format!("localhost:{}", named.port)]);
    let mut master = Master::start(&lab, Route::Through, "refused");
    let ports: Vec<u16> = (0..4).map(|_| free_port().unwrap()).collect();
    master.forward(&["-L", &format!("{}:localhost:{}", ports[0], named.port)]);
    master.forward(&["-L", &format!("{}:localhost:{}", ports[1], other.port)]);
    // The same place under another name was not named.
    master.forward(&["-L", &format!("{}:127.0.0.1:{}", ports[2], named.port)]);
    master.forward(&["-L", &format!("{}:{}", ports[3], unix.path.display())]);
    for port in &ports[1..] {
        assert!(converse(Stream::tcp(*port).unwrap(), 1000).is_err());
    }
    let (listen, socket) = (free_port().unwrap(), dir.path().join("back"));
    for place in
        [format!("{listen}:localhost:1"), "0:localhost:1".to_owned(), format!("{}:localhost:1", socket.display())]
    {
        assert_ne!(master.order(&["-O", "forward", "-R", &place]).code(), 0, "{place}");
    }
    assert!(Stream::tcp(listen).is_err() && !socket.exists());
    converse(Stream::tcp(ports[0]).unwrap(), 1000).unwrap();
    let done = master.exec("echo in");
    assert_eq!((done.out().as_str(), done.code()), ("in\n", 0), "{}", done.err());
    master.end();
    assert_eq!((named.served(), other.served(), unix.served()), (1, 0, 0));

    let sessions = closed_sessions(&lab.vault(), 1);
    let transcript = &sessions[0].1;
    let refused: Vec<&Value> = transcript.of("ssh.open").filter(|open| open["accepted"] == 0).collect();
    assert_eq!(refused.len(), 3);
    for (word, open) in
        [other.port.to_string(), "127.0.0.1".to_owned(), "direct-streamlocal".to_owned()].iter().zip(refused)
    {
        assert!(open.to_string().contains(word) && open.to_string().contains("nothing is forwarded there"), "{open}");
    }
    let back: Vec<String> = transcript.of("ssh.refused").map(ToString::to_string).collect();
    for word in
        [format!("tcpip-forward of localhost:{listen}"), "localhost:0".to_owned(), "streamlocal-forward".to_owned()]
    {
        assert!(back.iter().any(|event| event.contains(&word) && event.contains("forwarded back")), "{word}: {back:?}");
    }
    assert_eq!(transcript.of("fwd.end").count(), 1);
    let shown = lab.vault().replay("show", &[&sessions[0].0]).unwrap().out();
    assert!(shown.lines().any(|line| line.contains("accepted=0") && line.contains("error=nothing")), "{shown}");
}

/// X11, agents and tunnels: the client is told by the protocol's own answer, and what it says of it is its own affair.
#[test]
fn x11_agents_and_tunnels_are_refused_whatever_may_be_forwarded() {
    let lab = lab(&["*:*".to_owned(), "listen:*:*".to_owned()]);
    let through = |options: &[&str], command: &str| {
        let mut agent = std::process::Command::new("ssh-agent");
        agent.args(["ssh", "-F"]).arg(lab.client.config()).args(["-o", "IdentityAgent=SSH_AUTH_SOCK"]);
        agent.args(["-o", "LogLevel=INFO"]).args(options).args([Route::Through.host(), command]).env("DISPLAY", ":7");
        run(&mut agent, nothing(), PATIENCE).unwrap()
    };
    let done = through(&["-A"], "echo ${SSH_AUTH_SOCK:-none}");
    eprintln!("ssh -A says: {}", done.err());
    assert_eq!((done.out().as_str(), done.code()), ("none\n", 0));
    let done = through(&["-X", "-o", "XAuthLocation=/bin/false"], "echo ${DISPLAY:-none}");
    eprintln!("ssh -X says: {}", done.err());
    assert_eq!((done.out().as_str(), done.code()), ("none\n", 0));
    // The library refuses a channel type that it does not know twice over, and OpenSSH leaves at the second time. Without the
    // right to make a tunnel's device the client does not even ask.
    let done = through(&["-w", "any"], "echo in");
    eprintln!("ssh -w says: {}", done.err());
    let asked = done.err().contains("open failed: unknown channel type");
    assert_eq!(done.code(), if asked { 255 } else { 0 }, "{}", done.err());
    let sessions = closed_sessions(&lab.vault(), 3);
    let refused = |word: &str| sessions.iter().any(|(_, transcript)| transcript.says("ssh.refused", word));
    assert!(refused("auth-agent-req@openssh.com") && refused("x11-req"));
}

#[test]
fn a_place_that_cannot_be_reached_fails_as_it_does_straight() {
    let closed = free_port().unwrap();
    let lab = lab(&[format!("127.0.0.1:{closed}"), "unix:/nowhere/at/all".to_owned(), "nosuch.invalid:80".to_owned()]);
    let told = |route: Route, place: &str| {
        let mut ssh = lab.client.program("ssh");
        let done = run(ssh.args(["-o", "LogLevel=INFO", "-W", place, route.host()]), nothing(), PATIENCE).unwrap();
        // The notice of recording is the bastion's alone.
        let failures: Vec<String> =
            done.err().lines().filter(|line| line.contains("failed")).map(str::to_owned).collect();
        (done.code(), done.out(), failures.join("\n"))
    };
    for place in [format!("127.0.0.1:{closed}"), "nosuch.invalid:80".to_owned()] {
        let straight = told(Route::Straight, &place);
        assert!(straight.0 != 0 && straight.2.contains("open failed"), "{straight:?}");
        assert_eq!(told(Route::Through, &place), straight, "{place}");
    }
    let sessions = closed_sessions(&lab.vault(), 2);
    for (_, transcript) in &sessions {
        let end = transcript.of("fwd.end").next().unwrap();
        assert_eq!((end["sent"].as_u64(), end["by"].as_str()), (Some(0), Some("target")), "{end}");
        assert!(transcript.of("ssh.reply").any(|reply| reply["to"] == "direct-tcpip" && reply["success"] == 0));
    }
    assert!(sessions[0].1.says("ssh.reply", "Connection refused"), "{:?}", sessions[0].1.events);
}

/// The other way round: nobody listens where the person's side is to connect.
#[test]
fn a_connection_that_the_client_refuses_ends_as_it_does_straight() {
    let closed = free_port().unwrap();
    let lab = lab(&["listen:localhost:0".to_owned()]);
    for route in [Route::Straight, Route::Through] {
        let mut master = Master::start(&lab, route, route.host());
        let port: u16 = master.forward(&["-R", &format!("localhost:0:127.0.0.1:{closed}")]).trim().parse().unwrap();
        let mut stream = Stream::tcp(port).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "{route:?}");
        master.end();
    }
    let (_, transcript) = closed_sessions(&lab.vault(), 1).remove(0);
    let end = transcript.of("fwd.end").next().unwrap();
    assert_eq!((end["by"].as_str(), end["received"].as_u64()), (Some("client"), Some(0)), "{end}");
    assert!(transcript.of("ssh.reply").any(|reply| reply["to"] == "forwarded-tcpip" && reply["success"] == 0));
}

#[test]
fn there_are_no_more_forwards_and_connections_than_the_limit() {
    let server = Server::tcp(1000).unwrap();
    let forward = vec![format!("localhost:{}", server.port), "listen:localhost:0".to_owned()];
    let limits = "channels = 3".parse().unwrap();
    let lab = Lab::with(&Options { forward, limits, ..Options::default() }).unwrap();
    let mut master = Master::start(&lab, Route::Through, "limit");
    let local = free_port().unwrap();
    master.forward(&["-L", &format!("{local}:localhost:{}", server.port)]);
    // It listens itself for as long as it is in force, which leaves two.
    let asked = format!("localhost:0:127.0.0.1:{}", server.port);
    let back: u16 = master.forward(&["-R", &asked]).trim().parse().unwrap();
    let held: Vec<Stream> = [back, local].map(|port| Stream::tcp(port).unwrap()).into();
    assert!(held.iter().all(|stream| wait_until(PATIENCE, || waiting(stream))));
    for port in [back, local] {
        assert!(converse(Stream::tcp(port).unwrap(), 1000).is_err(), "one more than the limit");
    }
    assert_ne!(master.order(&["-O", "forward", "-R", "localhost:0:127.0.0.1:1"]).code(), 0);
    // What was there goes on, and what is over makes room.
    for (stream, port) in held.into_iter().zip([back, local]) {
        converse(stream, 1000).unwrap();
        assert!(wait_until(PATIENCE, || Stream::tcp(port).is_ok_and(|stream| converse(stream, 1000).is_ok())));
    }
    master.end();
    let (_, transcript) = closed_sessions(&lab.vault(), 1).remove(0);
    let all = |kind: &'static str| transcript.of(kind).map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(all("ssh.open").contains("more channels than limits.channels"));
    let refused = all("ssh.refused");
    assert!(
        refused.contains("forwarded-tcpip from localhost") && refused.contains("tcpip-forward of localhost:0"),
        "{refused}"
    );
}

/// What a daemon holds at rest.
fn at_rest(lab: &Lab) -> (u64, usize) {
    (rss(lab.bastion.process.pid), open_files(lab.bastion.process.pid))
}

#[test]
fn a_thousand_short_connections_leave_nothing_behind() {
    let bytes = 3_000;
    let server = Server::tcp(bytes).unwrap();
    let lab = lab(&[format!("localhost:{}", server.port)]);
    let mut master = Master::start(&lab, Route::Through, "many");
    let port = free_port().unwrap();
    master.forward(&["-L", &format!("{port}:localhost:{}", server.port)]);
    let (before, mut after) = (at_rest(&lab), Vec::new());
    for _ in 0..4 {
        std::thread::scope(|scope| {
            for _ in 0..5 {
                scope.spawn(|| (0..50).for_each(|_| converse(Stream::tcp(port).unwrap(), bytes).unwrap()));
            }
        });
        assert!(wait_until(PATIENCE, || open_files(lab.bastion.process.pid) <= before.1 + 2), "{:?}", at_rest(&lab));
        after.push(at_rest(&lab));
    }
    eprintln!("at rest before {before:?}, after each 250: {after:?}");
    assert_eq!(server.served(), 1000);
    // The first round warms allocators up; from then on a connection costs nothing that stays.
    assert!(after[3].0 < after[0].0 + 8 * MIB, "{after:?}");
    master.end();
    let (_, transcript) = closed_sessions(&lab.vault(), 1).remove(0);
    assert_eq!(whole_in_the_record(&transcript, bytes).len(), 1000);
}

#[test]
fn abrupt_ends_on_either_side_leave_nothing_behind() {
    // More than all windows and buffers on the way hold together.
    let bytes = 16 * MIB;
    let server = Server::tcp(bytes).unwrap();
    let lab = lab(&[format!("localhost:{}", server.port), "listen:localhost:0".to_owned()]);
    let mut after = Vec::new();
    let rounds = pick(3, 20);
    for round in 0..=rounds {
        for (name, end) in ["client", "target", "ends"].iter().zip(0..) {
            let mut master = Master::start(&lab, Route::Through, &format!("{name}{round}"));
            let port = free_port().unwrap();
            master.forward(&["-L", &format!("{port}:localhost:{}", server.port)]);
            let back: u16 =
                master.forward(&["-R", &format!("localhost:0:127.0.0.1:{}", server.port)]).trim().parse().unwrap();
            // They are stuck: nobody reads what the server sends.
            let stuck = [Stream::tcp(port).unwrap(), Stream::tcp(back).unwrap()];
            assert!(stuck.iter().all(|stream| wait_until(PATIENCE, || waiting(stream))), "{name}");
            match end {
                0 => drop((master.child.kill(), master.child.wait())),
                1 => lab.target.process.descendants().iter().for_each(|child| {
                    child.signal(rustix::process::Signal::KILL);
                }),
                _ => drop(stuck),
            }
            if end != 0 {
                // The session itself lives on and does its work.
                if end == 1 {
                    assert!(wait_until(PATIENCE, || is_free(back)), "the forward is gone with its target");
                }
                converse(Stream::tcp(port).unwrap(), bytes).unwrap();
                let done = master.exec("echo in");
                assert_eq!((done.out().as_str(), done.code()), ("in\n", 0), "{name}: {}", done.err());
                master.end();
            }
        }
        lab.vault().settle(3 * (round + 1), Duration::from_secs(20)).unwrap();
        after.push(at_rest(&lab));
    }
    eprintln!("at rest after each round: {after:?}");
    let (first, last) = (after[0], after[after.len() - 1]);
    assert!(last.1 <= first.1 + 2, "descriptors stay open: {after:?}");
    assert!(last.0 < first.0 + 16 * MIB, "memory stays: {after:?}");
    let vault = lab.vault();
    let said: Vec<String> = vault
        .of_kind("session")
        .unwrap()
        .iter()
        .take(3)
        .flat_map(|row| {
            let transcript = vault.transcript(row["session"].as_str().unwrap()).unwrap();
            transcript.of("fwd.end").map(ToString::to_string).collect::<Vec<_>>()
        })
        .collect();
    assert!(said.iter().any(|end| end.contains("\"by\":\"client\"")), "{said:?}");
    assert!(said.iter().any(|end| end.contains("the connection to the target was lost")), "{said:?}");
}

#[test]
fn one_persons_forwards_are_nobody_elses() {
    let server = Server::tcp(1000).unwrap();
    let dir = place();
    let bob = dir.path().join("bob");
    let public = keys::make(&bob, "ed25519").unwrap();
    let user = sshd::current_user().unwrap();
    let more = format!(
        "[[person]]\nname = \"bob\"\nkeys = [\"{public}\"]\nduties = [\"admin\"]\n[[access]]\nperson = \"bob\"\n\
         targets = [\"web1\"]\nroles = [\"{user}\"]\n"
    );
    let forward = vec![format!("localhost:{}", server.port), "listen:localhost:0".to_owned()];
    let lab = Lab::with(&Options { more, forward, ..Options::default() }).unwrap();
    let alice = Master::start(&lab, Route::Through, "alice");
    let asked = format!("localhost:0:127.0.0.1:{}", server.port);
    let port: u16 = alice.forward(&["-R", &asked]).trim().parse().unwrap();

    let identity = format!("IdentityFile={}", bob.display());
    let config = std::fs::read_to_string(lab.client.config()).unwrap();
    let lines: Vec<&str> = config.lines().filter(|line| !line.contains("IdentityFile")).collect();
    std::fs::write(lab.client.config(), lines.join("\n") + "\n").unwrap();
    let bobs = Master::start_to(&lab, Route::Through.host(), "bob", &["-l", "bob+web1", "-o", &identity]);
    let local = free_port().unwrap();
    bobs.forward(&["-L", &format!("{local}:localhost:{}", server.port)]);
    assert!(converse(Stream::tcp(local).unwrap(), 1000).is_err(), "the line is alice's");
    assert_ne!(bobs.order(&["-O", "forward", "-R", &asked]).code(), 0);
    // Nor does he end hers.
    let script = format!(
        r#"
print(client.get_transport().global_request("cancel-tcpip-forward", ("localhost", {port}), True))
client.close()
"#
    );
    let done = paramiko_at(&lab, lab.bastion.port, "bob+web1", &bob, &(CLIENT.to_owned() + &script));
    assert_eq!(done.out(), "None\n", "{}", done.err());
    converse(Stream::tcp(port).unwrap(), 1000).unwrap();
    // At the bastion itself there is nothing to forward to.
    let portal = run(
        lab.client.program("ssh").args([
            "-o",
            &identity,
            "-R",
            "0:localhost:1",
            "-o",
            "ExitOnForwardFailure=yes",
            "-l",
            "bob",
            PORTAL,
        ]),
        nothing(),
        PATIENCE,
    )
    .unwrap();
    assert_eq!(portal.code(), 255, "{}", portal.err());
}
