//! Targets that mean harm. A stock client behind the bastion reads how it ended, in bounded time; the daemon's memory stays
//! bounded, other sessions go on, and every transcript is closed and verifies.

use std::io::Write;
use std::net::Shutdown;
use std::process::Stdio;
use std::time::{Duration, Instant};

use casemate_tests::client::Route;
use casemate_tests::noise::Noise;
use casemate_tests::process::{Done, nothing, run, wait_until, within};
use casemate_tests::raw_ssh::{HostileTarget, Lists, Peer, Put, Role, Take, msg, open, request};
use casemate_tests::scale::{MIB, pick};

use super::super::closed_sessions;
use super::{BOUND, Bystander, Ground, SLACK, packet_len};

/// The number of the host key that all of them are pinned to.
const HOST: u64 = 50;

/// How long a client may wait for the end: the limits below, and then some for a busy machine.
const ENDS: Duration = Duration::from_secs(20);

const LIMITS: &str = "dial = \"3s\"\nreply = \"3s\"";

/// What a session with one of them may cost.
const EACH: u64 = MIB;

/// What one that never stops talking says before it stops.
fn chatter_len() -> u64 {
    pick(3, 100) * EACH
}

/// How much the flood brings.
fn flood_len() -> u64 {
    pick(24, 64) * MIB / 200_000 * 200_000
}

/// What a stock client gets in the end.
enum Gets {
    /// A reason, and 255.
    AReason,
    /// This output, and this status.
    This(&'static str, i32),
    /// Whatever; that it ends is what matters.
    AnEnd,
}

struct Case {
    name: &'static str,
    target: HostileTarget,
    gets: Gets,
    /// Bytes that it sends at the least, where it goes on for long.
    sends: Option<u64>,
}

fn case(name: &'static str, gets: Gets, target: anyhow::Result<HostileTarget>) -> Case {
    Case { name, target: target.unwrap(), gets, sends: None }
}

/// One that sends a message again and again, and is heard to the end.
fn chatters(name: &'static str, message: impl Fn(u32) -> Put + Send + Sync + 'static) -> Case {
    let sends = Some(chatter_len());
    Case { sends, ..case(name, Gets::This("survived", 0), chatter(message)) }
}

fn ground(cases: &[Case], limits: &str) -> Ground {
    let targets: Vec<_> = cases.iter().map(|case| (case.name, HOST, &case.target)).collect();
    Ground::with_targets(limits, &targets)
}

fn exec(ground: &Ground, name: &str) -> (Done, Duration) {
    let start = Instant::now();
    let mut ssh = ground.lab.client.ssh(Route::Through, &["-l", &format!("alice+{name}")]);
    let done = run(ssh.arg("some command"), nothing(), 3 * ENDS).unwrap();
    (done, start.elapsed())
}

/// Lets a client into each of them, all at once, and looks at how it ends and what it cost.
fn endure(cases: &[Case]) {
    let ground = ground(cases, LIMITS);
    let bystander = Bystander::start(&ground);
    let peak = std::sync::atomic::AtomicU64::new(0);
    let over = std::sync::atomic::AtomicBool::new(false);
    let order = std::sync::atomic::Ordering::SeqCst;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(order) {
                peak.fetch_max(ground.rss(), order);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let clients: Vec<_> = cases
            .iter()
            .map(|case| {
                let ground = &ground;
                scope.spawn(move || {
                    let (done, took) = exec(ground, case.name);
                    let (out, code, err) = (done.out(), done.code(), done.err());
                    eprintln!("{}: {code} after {took:.1?}: {}", case.name, err.trim_end());
                    assert!(case.target.begun() > 0, "{}: nobody came", case.name);
                    assert!(took < ENDS, "{}: {took:?}", case.name);
                    match case.gets {
                        Gets::AReason => {
                            assert_eq!((out.as_str(), code), ("", 255), "{}: {err}", case.name);
                            assert!(!err.is_empty(), "{}: no reason", case.name);
                        }
                        Gets::This(text, status) => assert_eq!((out.as_str(), code), (text, status), "{}", case.name),
                        Gets::AnEnd => {}
                    }
                })
            })
            .collect();
        // The watcher must end also when a client's thread does not do well.
        let results: Vec<_> = clients.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        over.store(true, order);
        for result in results {
            if let Err(panic) = result {
                std::panic::resume_unwind(panic);
            }
        }
    });
    let grown = peak.load(order).saturating_sub(ground.before);
    let each = grown / cases.len() as u64;
    eprintln!("{} KiB a session at the most", each / 1024);
    assert!(each <= EACH, "{} KiB a session", each / 1024);
    let sent: Vec<_> = cases.iter().filter_map(|case| case.sends).collect();
    if !sent.is_empty() {
        within("all together", grown, EACH * sent.len() as u64, sent.iter().sum()).unwrap();
    }
    bystander.was_unaffected();
    // Theirs, the bystander's and our first.
    assert_eq!(closed_sessions(&ground.lab.vault(), cases.len() + 2).len(), cases.len() + 2);
    ground.unharmed("hostile targets", SLACK + 8 * MIB);
    ground.lab.vault().verify(&[]).unwrap().unaltered().unwrap();
}

/// Sends the same bytes for as long as they are taken.
fn pour(stream: &mut impl Write, bytes: &[u8]) -> anyhow::Result<()> {
    loop {
        stream.write_all(bytes)?;
    }
}

/// Says nothing more, until the bastion goes.
fn hang(peer: &mut Peer) -> anyhow::Result<()> {
    peer.wait_end(Duration::from_secs(120)).map(drop)
}

/// Ends a program as a target should.
fn well(peer: &mut Peer, channel: u32, text: &str) -> anyhow::Result<()> {
    peer.packets.queue(&Put::message(msg::CHANNEL_DATA).u32(channel).string(text).0)?;
    peer.packets.queue(&request(channel, "exit-status", false).u32(0).0)?;
    peer.packets.queue(&Put::message(msg::CHANNEL_EOF).u32(channel).0)?;
    peer.send(Put::message(msg::CHANNEL_CLOSE).u32(channel))?;
    hang(peer)
}

#[test]
fn targets_that_let_nobody_in() {
    use Gets::AReason;
    endure(&[
        case("flood", AReason, HostileTarget::start(|mut stream| pour(&mut stream, &[b'x'; 64 * 1024]))),
        case("comments", AReason, HostileTarget::start(|mut stream| pour(&mut stream, &b"comment\r\n".repeat(1000)))),
        case(
            "silent",
            AReason,
            HostileTarget::start(|_stream| {
                std::thread::sleep(2 * ENDS);
                Ok(())
            }),
        ),
        case(
            "drip",
            AReason,
            HostileTarget::start(|mut stream| {
                loop {
                    stream.write_all(b"S")?;
                    std::thread::sleep(Duration::from_millis(100));
                }
            }),
        ),
        case("leaves", AReason, HostileTarget::start(|_stream| Ok(()))),
        case("greets", AReason, HostileTarget::start(|stream| hang(&mut Peer::greet(stream, Role::Server(HOST))?))),
        case(
            "garbage",
            AReason,
            HostileTarget::start(|mut stream| {
                stream.write_all(b"SSH-2.0-x\r\n")?;
                pour(&mut stream, &[0xff; 1000])
            }),
        ),
        case(
            "offers",
            AReason,
            HostileTarget::start(|stream| {
                let mut peer = Peer::greet(stream, Role::Server(HOST))?;
                peer.send(Put(Lists::default().message()))?;
                hang(&mut peer)
            }),
        ),
        case(
            "short-half",
            AReason,
            HostileTarget::start(|stream| {
                let mut peer = Peer::greet(stream, Role::Server(HOST))?;
                peer.send(Put(Lists::default().message()))?;
                peer.expect(&[msg::ECDH_INIT])?;
                peer.send(Put::message(msg::ECDH_REPLY).string("").string([0; 32]).string(""))?;
                hang(&mut peer)
            }),
        ),
        case(
            "another-key",
            AReason,
            HostileTarget::start(|stream| {
                let mut peer = Peer::greet(stream, Role::Server(HOST + 1))?;
                peer.exchange_keys(&Lists::default())?;
                hang(&mut peer)
            }),
        ),
        case(
            "compresses",
            AReason,
            HostileTarget::start(|stream| {
                let mut peer = Peer::greet(stream, Role::Server(HOST))?;
                peer.exchange_keys(&Lists { compression: "zlib,zlib@openssh.com".to_owned(), ..Lists::default() })?;
                hang(&mut peer)
            }),
        ),
        case(
            "no-service",
            AReason,
            HostileTarget::start(|stream| {
                let mut peer = Peer::greet(stream, Role::Server(HOST))?;
                peer.exchange_keys(&Lists::default())?;
                hang(&mut peer)
            }),
        ),
        case(
            "no-login",
            AReason,
            HostileTarget::start(|stream| {
                let mut peer = Peer::greet(stream, Role::Server(HOST))?;
                peer.exchange_keys(&Lists::default())?;
                peer.expect(&[msg::SERVICE_REQUEST])?;
                peer.send(Put::message(msg::SERVICE_ACCEPT).string("ssh-userauth"))?;
                loop {
                    peer.expect(&[msg::USERAUTH_REQUEST])?;
                    peer.send(Put::message(msg::USERAUTH_FAILURE).string("publickey").bool(true))?;
                }
            }),
        ),
        case(
            "banners",
            AReason,
            HostileTarget::start(|stream| {
                let mut peer = Peer::greet(stream, Role::Server(HOST))?;
                peer.exchange_keys(&Lists::default())?;
                peer.expect(&[msg::SERVICE_REQUEST])?;
                peer.send(Put::message(msg::SERVICE_ACCEPT).string("ssh-userauth"))?;
                let banner = Put::message(msg::USERAUTH_BANNER).string(vec![b'b'; 30_000]).string("");
                loop {
                    peer.packets.queue(&banner.0)?;
                }
            }),
        ),
        case("no-channel", AReason, HostileTarget::start(|stream| hang(&mut HostileTarget::logged_in(stream, HOST)?))),
        case(
            "refuses-channel",
            AReason,
            HostileTarget::start(|stream| {
                let mut peer = HostileTarget::logged_in(stream, HOST)?;
                let asked = peer.expect(&[msg::CHANNEL_OPEN])?;
                let mut asked = Take::body(&asked);
                asked.string()?;
                let text = "\u{1b}]0;owned\u{7}".repeat(5000);
                peer.send(Put::message(msg::CHANNEL_OPEN_FAILURE).u32(asked.u32()?).u32(99).string(text).string(""))?;
                hang(&mut peer)
            }),
        ),
        case(
            "no-answer",
            AReason,
            HostileTarget::start(|stream| {
                let mut peer = HostileTarget::logged_in(stream, HOST)?;
                peer.confirm(1 << 20, 1 << 15)?;
                hang(&mut peer)
            }),
        ),
    ]);
}

/// A target that sends the same message many times once a program runs, and then ends the program as it should.
fn chatter(message: impl Fn(u32) -> Put + Send + Sync + 'static) -> anyhow::Result<HostileTarget> {
    HostileTarget::running(HOST, move |peer, channel| {
        // What is answered must be read, or both sides would wait for room to write.
        let mut sent = 0;
        while sent < chatter_len() {
            let message = message(channel).0;
            peer.packets.queue(&message)?;
            sent += packet_len(&message);
        }
        well(peer, channel, "survived")
    })
}

#[test]
fn targets_that_never_stop_talking() {
    use Gets::{AReason, AnEnd};
    let long = "x".repeat(1000);
    endure(&[
        chatters("ignore", |_| Put::message(msg::IGNORE).string([0; 1000])),
        chatters("debug", {
            let look = format!("\u{1b}[31m{long}");
            move |_| Put::message(msg::DEBUG).bool(true).string(&look).string("")
        }),
        chatters("unimplemented", |_| Put::message(msg::UNIMPLEMENTED).u32(0)),
        case("ext-info", AnEnd, chatter(|_| Put::message(msg::EXT_INFO).u32(1).string("server-sig-algs").string("x"))),
        chatters("global", {
            let long = long.clone();
            move |_| Put::message(msg::GLOBAL_REQUEST).string("nosuch@example.com").bool(false).string(&long)
        }),
        chatters("host-keys", move |_| {
            Put::message(msg::GLOBAL_REQUEST).string("hostkeys-00@openssh.com").bool(false).string(&long)
        }),
        chatters("global-answers", |_| Put::message(msg::REQUEST_SUCCESS)),
        chatters("channel-answers", |channel| Put::message(msg::CHANNEL_SUCCESS).u32(channel)),
        chatters("refusals", |channel| Put::message(msg::CHANNEL_FAILURE).u32(channel)),
        chatters("window", |channel| Put::message(msg::CHANNEL_WINDOW_ADJUST).u32(channel).u32(u32::MAX)),
        chatters("requests", |channel| request(channel, "nosuch@example.com", false).string([b'x'; 1000])),
        chatters("elsewhere", |_| Put::message(msg::CHANNEL_DATA).u32(77).string([b'x'; 1000])),
        chatters("unknown", |_| Put::message(200).string([b'x'; 1000])),
        case(
            "confirms",
            AnEnd,
            chatter(|channel| Put::message(msg::CHANNEL_OPEN_CONFIRMATION).u32(channel).u32(0).u32(1).u32(0)),
        ),
        case("success", AnEnd, chatter(|_| Put::message(msg::USERAUTH_SUCCESS))),
        case(
            "disconnects",
            AReason,
            HostileTarget::running(HOST, |peer, _| {
                peer.send(Put::message(msg::DISCONNECT).u32(11).string("\u{1b}[2Jgone").string(""))?;
                hang(peer)
            }),
        ),
    ]);
}

// What asks for an answer and reads none: it must not be answered from memory without end.
#[test]
fn targets_that_ask_and_do_not_listen() {
    type Message = fn() -> Put;
    let asks = |message: Message| {
        HostileTarget::running(HOST, move |peer, _| {
            loop {
                // Until the bastion reads no more, and then until it goes.
                peer.packets.queue(&message().0)?;
            }
        })
    };
    let kinds: [(&str, Message); 3] = [
        ("keepalives", || Put::message(msg::GLOBAL_REQUEST).string("keepalive@openssh.com").bool(true)),
        ("channels", || open("forwarded-tcpip", 5, 1 << 20, 1 << 15).string("h").u32(1).string("h").u32(2)),
        ("pings", || Put::message(192).string([0; 200])),
    ];
    let cases: Vec<Case> = kinds.into_iter().map(|(name, message)| case(name, Gets::AnEnd, asks(message))).collect();
    let ground = ground(&cases, LIMITS);
    let bystander = Bystander::start(&ground);
    let mut clients: Vec<_> = cases
        .iter()
        .map(|case| {
            let mut ssh = ground.lab.client.ssh(Route::Through, &["-l", &format!("alice+{}", case.name)]);
            ssh.arg("x").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    let mut peak = 0;
    for _ in 0..pick(20, 600) {
        peak = peak.max(ground.rss());
        std::thread::sleep(Duration::from_millis(100));
    }
    let grown = peak.saturating_sub(ground.before) / cases.len() as u64;
    eprintln!("{} KiB a session at the most", grown / 1024);
    for client in &mut clients {
        let _ = client.kill();
        client.wait().unwrap();
    }
    bystander.was_unaffected();
    // The people have had enough, and their sessions end although the targets do not: not before it is sure that nothing goes on.
    // Theirs, the bystander's and our first.
    ground.lab.vault().settle(cases.len() + 2, 3 * BOUND).unwrap();
    let sessions = ground.lab.vault().transcripts().unwrap();
    assert!(sessions.iter().any(|(_, transcript)| transcript.says("ssh.refused", "channel opened by the target")));
    assert!(grown <= 8 * MIB, "{} KiB a session", grown / 1024);
    ground.unharmed("targets that do not listen", SLACK + 8 * MIB);
}

#[test]
fn targets_that_break_the_rules_of_channels() {
    use Gets::{AReason, AnEnd, This};
    let data = |channel: u32, text: &str| Put::message(msg::CHANNEL_DATA).u32(channel).string(text);
    endure(&[
        case(
            "status-first",
            This("whole", 3),
            HostileTarget::running(HOST, move |peer, channel| {
                peer.send(request(channel, "exit-status", false).u32(3))?;
                std::thread::sleep(Duration::from_millis(300));
                peer.send(data(channel, "whole"))?;
                peer.send(Put::message(msg::CHANNEL_EOF).u32(channel))?;
                peer.send(Put::message(msg::CHANNEL_CLOSE).u32(channel))?;
                hang(peer)
            }),
        ),
        case(
            "status-no-close",
            AnEnd,
            HostileTarget::running(HOST, move |peer, channel| {
                peer.send(request(channel, "exit-status", false).u32(3))?;
                peer.send(data(channel, "whole"))
            }),
        ),
        case(
            "half-closed",
            AReason,
            HostileTarget::running(HOST, |peer, _| {
                peer.packets.stream().shutdown(Shutdown::Write)?;
                hang(peer)
            }),
        ),
        case(
            "cut",
            AReason,
            HostileTarget::running(HOST, |peer, _| Ok(peer.packets.stream().shutdown(Shutdown::Both)?)),
        ),
        case(
            "no-packet",
            AReason,
            HostileTarget::running(HOST, |peer, _| {
                peer.packets.raw(&[0xff; 64])?;
                hang(peer)
            }),
        ),
        case(
            "giant-packet",
            AReason,
            HostileTarget::running(HOST, |peer, _| {
                peer.packets.raw(&(1u32 << 20).to_be_bytes())?;
                peer.packets.raw(&[0; 4096])?;
                hang(peer)
            }),
        ),
        case(
            "status-not-text",
            AnEnd,
            HostileTarget::running(HOST, |peer, channel| {
                let signal =
                    request(channel, "exit-signal", false).string("KILL").bool(false).string([0xff; 4]).string("");
                peer.send(signal)?;
                peer.send(Put::message(msg::CHANNEL_CLOSE).u32(channel))?;
                hang(peer)
            }),
        ),
        case(
            "statuses",
            AnEnd,
            HostileTarget::running(HOST, |peer, channel| {
                for status in [0, 1, u32::MAX, 256, 7] {
                    peer.send(request(channel, "exit-status", false).u32(status))?;
                }
                peer.send(Put::message(msg::CHANNEL_CLOSE).u32(channel))?;
                hang(peer)
            }),
        ),
        case(
            "closes-twice",
            This("", 255),
            HostileTarget::running(HOST, move |peer, channel| {
                for _ in 0..3 {
                    peer.send(Put::message(msg::CHANNEL_CLOSE).u32(channel))?;
                    peer.send(data(channel, "late"))?;
                    peer.send(Put::message(msg::CHANNEL_EOF).u32(channel))?;
                }
                hang(peer)
            }),
        ),
        case(
            "after-its-end",
            AnEnd,
            HostileTarget::running(HOST, move |peer, channel| {
                peer.send(Put::message(msg::CHANNEL_EOF).u32(channel))?;
                peer.send(data(channel, "late"))?;
                peer.send(request(channel, "exit-status", false).u32(0))?;
                peer.send(Put::message(msg::CHANNEL_CLOSE).u32(channel))?;
                hang(peer)
            }),
        ),
        case(
            "every-channel",
            This("survived", 0),
            HostileTarget::running(HOST, |peer, channel| {
                for kind in [
                    "session",
                    "x11",
                    "direct-tcpip",
                    "forwarded-tcpip",
                    "auth-agent@openssh.com",
                    "nosuch",
                    "forwarded-streamlocal@openssh.com",
                    "direct-streamlocal@openssh.com",
                    "tun@openssh.com",
                ] {
                    let message = match kind {
                        "x11" => open(kind, 9, 1 << 20, 1 << 15).string("h").u32(1),
                        "direct-tcpip" | "forwarded-tcpip" => {
                            open(kind, 9, 1 << 20, 1 << 15).string("h").u32(1).string("h").u32(2)
                        }
                        "forwarded-streamlocal@openssh.com" => open(kind, 9, 1 << 20, 1 << 15).string("/x").string(""),
                        "direct-streamlocal@openssh.com" => {
                            open(kind, 9, 1 << 20, 1 << 15).string("/x").string("").u32(0)
                        }
                        _ => open(kind, 9, 1 << 20, 1 << 15),
                    };
                    peer.send(message)?;
                    // Whatever it is, it is refused.
                    let answer = peer.expect(&[msg::CHANNEL_OPEN_FAILURE, msg::CHANNEL_OPEN_CONFIRMATION])?;
                    anyhow::ensure!(answer.first() == Some(&msg::CHANNEL_OPEN_FAILURE), "{kind} was let in");
                }
                well(peer, channel, "survived")
            }),
        ),
        case(
            "keeps-its-key",
            This("same", 0),
            HostileTarget::running(HOST, |peer, channel| {
                for _ in 0..5 {
                    peer.exchange_keys(&Lists::default())?;
                }
                well(peer, channel, "same")
            }),
        ),
    ]);
}

#[test]
fn targets_that_take_nothing_or_give_too_much() {
    let taking = |window, packet| {
        HostileTarget::start(move |stream| {
            let mut peer = HostileTarget::logged_in(stream, HOST)?;
            let channel = peer.confirm(window, packet)?;
            peer.start_program(channel)?;
            hang(&mut peer)
        })
    };
    // New keys are begun, and never agreed to.
    let begins_keys = HostileTarget::running(HOST, |peer, _| {
        peer.send(Put(Lists::default().message()))?;
        hang(peer)
    });
    // Far more than a window, whatever window it has, while the client reads nothing at first.
    let flood = HostileTarget::running(HOST, |peer, channel| {
        let data = Put::message(msg::CHANNEL_DATA).u32(channel).string(vec![b'z'; 200_000]);
        for _ in 0..flood_len() / 200_000 {
            peer.packets.queue(&data.0)?;
        }
        well(peer, channel, "end")
    });
    let cases = [
        case("no-window", Gets::AnEnd, taking(0, 1 << 15)),
        case("no-packet", Gets::AnEnd, taking(1 << 20, 0)),
        case("small-packets", Gets::AnEnd, taking(1 << 16, 1)),
        case("both", Gets::AnEnd, taking(0, 0)),
        case("new-keys", Gets::AnEnd, begins_keys),
        case("flood", Gets::AnEnd, flood),
    ];
    let ground = ground(&cases, LIMITS);
    let bystander = Bystander::start(&ground);
    let waiting = 64 * MIB;
    let mut clients: Vec<_> = cases
        .iter()
        .map(|case| {
            let mut ssh = ground.lab.client.ssh(Route::Through, &["-l", &format!("alice+{}", case.name)]);
            ssh.arg("x").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut client = ssh.spawn().unwrap();
            let mut to = client.stdin.take().unwrap();
            // Far more than may wait; nobody takes it.
            std::thread::spawn(move || std::io::copy(&mut Noise::new(4).take_bytes(waiting), &mut to));
            client
        })
        .collect();
    let mut peak = 0;
    for _ in 0..pick(25, 100) {
        peak = peak.max(ground.rss());
        std::thread::sleep(Duration::from_millis(100));
    }
    let (grown, count) = (peak.saturating_sub(ground.before), cases.len() as u64);
    eprintln!("{} MiB for {count} sessions", grown / MIB);
    // Each may have a window of 4 MiB, as much again queued, and 8 MiB. What they would send and be sent is many times that.
    within("takers and givers", grown, count * (4 + 4 + 8) * MIB, count * waiting + flood_len()).unwrap();
    // The flood is read now; whatever came of it, it ends.
    let mut flooded = clients.pop().unwrap();
    let mut got = Vec::new();
    std::io::Read::read_to_end(&mut flooded.stdout.take().unwrap(), &mut got).unwrap();
    let whole = flood_len();
    eprintln!("{} of {whole} bytes came", got.len());
    assert!(got.iter().take(got.len().saturating_sub(3)).all(|byte| *byte == b'z'));
    assert!(wait_until(BOUND, || flooded.try_wait().unwrap().is_some()));
    // The others' people leave.
    for client in &mut clients {
        client.kill().unwrap();
        client.wait().unwrap();
    }
    bystander.was_unaffected();
    let vault = ground.lab.vault();
    // What was sent before they left is given to the target for as long as it takes any of it.
    vault.settle(cases.len() + 2, 6 * BOUND).unwrap();
    // What the client was shown is the beginning of what is on record.
    let shown =
        vault.transcripts().unwrap().into_iter().map(|(_, it)| it.bytes("ssh.out")).max_by_key(Vec::len).unwrap();
    assert!(shown.starts_with(&got), "{} bytes on record, {} shown", shown.len(), got.len());
    // What was needed at once, the allocator may keep; but it is taken again, not added to, by the next flood.
    ground.unharmed("takers and givers", SLACK + 84 * MIB);
    let warm = ground.rss();
    let floods = pick(2, 20);
    for _ in 0..floods {
        let (done, _) = exec(&ground, "flood");
        assert_eq!(done.stdout.len(), whole as usize + 3);
    }
    let grown = ground.rss().saturating_sub(warm);
    eprintln!("{} MiB more after more floods", grown / MIB);
    within("more floods", grown, 16 * MIB, floods * whole).unwrap();
    vault.settle(cases.len() + 2 + floods as usize, 2 * BOUND).unwrap();
    vault.verify(&[]).unwrap().unaltered().unwrap();
}

// Sshd itself goes like that when it is killed between the two.
#[test]
fn a_shell_whose_target_goes_without_a_close_keeps_its_exit_status() {
    let target = HostileTarget::running(HOST, |peer, channel| {
        peer.send(Put::message(msg::CHANNEL_DATA).u32(channel).string("bye\r\n"))?;
        peer.send(request(channel, "exit-status", false).u32(3))?;
        std::thread::sleep(Duration::from_millis(300));
        Ok(peer.packets.stream().shutdown(Shutdown::Both)?)
    })
    .unwrap();
    let ground = Ground::with_targets(LIMITS, &[("gone", HOST, &target)]);
    let mut ssh = ground.lab.client.ssh(Route::Through, &["-tt", "-l", "alice+gone"]);
    let done = run(&mut ssh, nothing(), 3 * ENDS).unwrap();
    assert_eq!(done.code(), 3, "{}", done.err());
    assert!(done.out().contains("bye"), "{}", done.out());
    assert!(done.err().contains("casemate-slip"), "a shell ends with a slip: {}", done.err());
}
