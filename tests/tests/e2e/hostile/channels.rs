//! Once somebody is in: messages for channels that are none, windows and sizes that make no sense, floods.

use std::time::Duration;

use casemate_tests::process::{open_files, wait_until, within};
use casemate_tests::raw_ssh::{HostileTarget, Peer, Put, Said, Take, msg, open, request};
use casemate_tests::scale::{MIB, pick};

use super::super::closed_sessions;
use super::{BOUND, Bystander, Ground, SLACK, packet_len};

const WINDOW: u32 = 1 << 20;
const PACKET: u32 = 1 << 15;

/// Runs a command in a channel of its own and returns what it said.
fn says(peer: &mut Peer, command: &str) -> anyhow::Result<Vec<u8>> {
    let channel = peer.open(9, WINDOW, PACKET)?;
    peer.exec(channel, command)?;
    peer.read_to_close(channel)
}

/// Fails unless all sessions are over soon and their descriptors are gone.
fn all_gone(ground: &Ground, files: usize) {
    let pid = ground.lab.bastion.process.pid;
    let gone = wait_until(BOUND, || open_files(pid) <= files + 2);
    assert!(gone, "{} descriptors, {files} before", open_files(pid));
}

// T-SSH-04.
#[test]
fn messages_for_channels_that_are_none() {
    let ground = Ground::new("");
    let files = open_files(ground.lab.bastion.process.pid);
    let bystander = Bystander::start(&ground);
    let message = |number: u8, id: u32| match number {
        msg::CHANNEL_OPEN_CONFIRMATION => Put::message(number).u32(id).u32(0).u32(WINDOW).u32(PACKET),
        msg::CHANNEL_OPEN_FAILURE => Put::message(number).u32(id).u32(1).string("no").string(""),
        msg::CHANNEL_WINDOW_ADJUST => Put::message(number).u32(id).u32(WINDOW),
        msg::CHANNEL_DATA => Put::message(number).u32(id).string("data"),
        msg::CHANNEL_EXTENDED_DATA => Put::message(number).u32(id).u32(1).string("data"),
        msg::CHANNEL_REQUEST => request(id, "exec", true).string("echo out of nowhere"),
        _ => Put::message(number).u32(id),
    };
    let mut ended = Vec::new();
    for number in msg::CHANNEL_OPEN_CONFIRMATION..=msg::CHANNEL_FAILURE {
        for what in ["never opened", "closed", "the last number", "not confirmed yet"] {
            let mut peer = ground.mallory();
            let id = match what {
                "never opened" => 7,
                "closed" => {
                    assert_eq!(says(&mut peer, "echo on").unwrap(), b"on\n");
                    0
                }
                "the last number" => u32::MAX,
                _ => {
                    // The answer cannot have been seen yet: the bastion reaches the target first.
                    peer.packets.queue(&open("session", 3, WINDOW, PACKET).0).unwrap();
                    0
                }
            };
            for _ in 0..3 {
                peer.packets.queue(&message(number, id).0).unwrap();
            }
            let _ = peer.packets.flush();
            if what == "not confirmed yet" {
                let _ = peer.opened(3);
            }
            // Dropped, or the end of the connection; nothing in between.
            match says(&mut peer, "echo on") {
                Ok(said) => assert_eq!(said, b"on\n", "{number}, {what}"),
                Err(_) => {
                    peer.wait_end(BOUND).unwrap_or_else(|error| panic!("{number}, {what}: {error:#}"));
                    ended.push((number, what));
                }
            }
        }
    }
    eprintln!("these end the connection: {ended:?}");
    bystander.was_unaffected();
    let sessions = closed_sessions(&ground.lab.vault(), 2);
    for (_, transcript) in &sessions {
        assert!(!transcript.says("ssh.exec", "out of nowhere"), "a request in a channel that is none was taken up");
        assert!(!transcript.bytes("ssh.in").starts_with(b"data"), "data in a channel that is none was taken up");
    }
    all_gone(&ground, files);
    ground.unharmed("channels that are none", SLACK);
    ground.lab.vault().verify(&[]).unwrap().unaltered().unwrap();
}

#[test]
fn what_is_said_twice_or_too_late_is_dropped() {
    let ground = Ground::new("");
    let mut peer = ground.mallory();
    let channel = peer.open(0, WINDOW, PACKET).unwrap();
    peer.exec(channel, "cat").unwrap();
    let data = |text: &str| Put::message(msg::CHANNEL_DATA).u32(channel).string(text);
    for message in [
        data("first "),
        request(channel, "exec", false).string("echo again"),
        request(channel, "shell", false),
        Put::message(msg::CHANNEL_EXTENDED_DATA).u32(channel).u32(1).string("no such thing"),
        data("second"),
        Put::message(msg::CHANNEL_EOF).u32(channel),
        data("late"),
        Put::message(msg::CHANNEL_EOF).u32(channel),
    ] {
        peer.packets.queue(&message.0).unwrap();
    }
    assert_eq!(peer.read_to_close(channel).unwrap(), b"first second");
    for _ in 0..3 {
        peer.send(Put::message(msg::CHANNEL_CLOSE).u32(channel)).unwrap();
        peer.send(data("later")).unwrap();
    }
    assert_eq!(says(&mut peer, "echo on").unwrap(), b"on\n");
    drop(peer);
    let sessions = closed_sessions(&ground.lab.vault(), 2);
    let transcript = &sessions.iter().find(|(_, transcript)| transcript.says("ssh.exec", "cat")).unwrap().1;
    assert_eq!(transcript.bytes("ssh.in"), b"first second");
    for refused in ["extended data", "exec", "shell", "data"] {
        assert!(transcript.says("ssh.refused", refused), "{refused}: {:?}", transcript.events);
    }
    ground.still_serves();
}

// T-SSH-07 and T-SSH-09.
#[test]
fn windows_and_packets_of_any_size_hang_nothing() {
    let ground = Ground::new("");
    let files = open_files(ground.lab.bastion.process.pid);
    let bystander = Bystander::start(&ground);
    let expected: String = (1..=200).map(|number| format!("{number}\n")).collect();
    for (window, packet, whole) in [
        (WINDOW, 0, false),
        (0, PACKET, false),
        (0, 0, false),
        (1, 1, false),
        (WINDOW, 1, true),
        (WINDOW, u32::MAX, true),
        (u32::MAX, u32::MAX, true),
    ] {
        let mut peer = ground.mallory();
        let Ok(channel) = peer.open(0, window, packet) else {
            assert!(!whole, "window {window}, packet {packet}: refused");
            continue;
        };
        if !whole {
            // Whatever becomes of it, the connection answers others, and goes when its client goes.
            peer.send(request(channel, "exec", true).string("seq 1 200; cat /dev/zero")).unwrap();
            std::thread::sleep(Duration::from_millis(300));
            assert_eq!(says(&mut peer, "echo on").unwrap(), b"on\n", "window {window}, packet {packet}");
            continue;
        }
        peer.exec(channel, "seq 1 200").unwrap();
        let all = peer.read_to_close(channel).unwrap();
        assert_eq!(String::from_utf8(all).unwrap(), expected, "window {window}, packet {packet}");
    }
    // More window than there are numbers for.
    let mut peer = ground.mallory();
    let channel = peer.open(0, u32::MAX, PACKET).unwrap();
    for amount in [u32::MAX, u32::MAX, 1, 2, u32::MAX, 0] {
        peer.send(Put::message(msg::CHANNEL_WINDOW_ADJUST).u32(channel).u32(amount)).unwrap();
    }
    peer.exec(channel, "seq 1 200").unwrap();
    assert_eq!(String::from_utf8(peer.read_to_close(channel).unwrap()).unwrap(), expected);
    drop(peer);
    bystander.was_unaffected();
    all_gone(&ground, files);
    ground.unharmed("windows", SLACK);
    ground.lab.vault().verify(&[]).unwrap().unaltered().unwrap();
}

#[test]
fn a_client_that_ignores_its_window_is_cut_off() {
    let ground = Ground::new("backlog = \"1MiB\"\nbacklog_max = \"8MiB\"");
    let bystander = Bystander::start(&ground);
    let mut peer = ground.mallory();
    let channel = peer.open(0, WINDOW, PACKET).unwrap();
    peer.exec(channel, "sleep 600").unwrap();
    let data = Put::message(msg::CHANNEL_DATA).u32(channel).string(vec![7; 30_000]);
    let reading = peer.drain().unwrap();
    let mut sent = 0;
    let mut peak = 0;
    // Far more than may be queued; it is read more slowly on purpose, so the socket may fill first.
    while sent < 48 * MIB && peer.packets.queue(&data.0).is_ok() {
        sent += 30_000;
        peak = peak.max(ground.rss());
        if reading.is_finished() {
            break;
        }
    }
    let grown = peak.saturating_sub(ground.before);
    eprintln!("{} MiB were sent, the daemon grew by {} MiB", sent / MIB, grown / MIB);
    let cut_off = reading.is_finished();
    // One that was cut off early sent too little for a bound to say anything; that it was is what is wanted.
    if sent >= 48 * MIB {
        within("no window", grown, (8 + 12) * MIB, sent).unwrap();
    } else {
        assert!(grown <= (8 + 12) * MIB, "{grown} bytes for {sent}");
    }
    drop(peer);
    let sessions = {
        bystander.was_unaffected();
        closed_sessions(&ground.lab.vault(), 3)
    };
    let transcript = &sessions.iter().find(|(_, transcript)| transcript.says("ssh.exec", "sleep 600")).unwrap().1;
    let recorded = transcript.bytes("ssh.in").len() as u64;
    eprintln!("{recorded} of {sent} bytes are on record; cut off: {cut_off}");
    assert!(recorded <= sent, "the record holds more than was sent");
    ground.still_serves();
}

/// Messages that ask for nothing, or for nothing that there is.
fn chatter() -> Vec<(&'static str, Put)> {
    let long = "x".repeat(1000);
    vec![
        ("IGNORE", Put::message(msg::IGNORE).string([0; 1000])),
        ("DEBUG", Put::message(msg::DEBUG).bool(true).string(format!("\u{1b}[31m{long}")).string("")),
        ("UNIMPLEMENTED", Put::message(msg::UNIMPLEMENTED).u32(1)),
        ("EXT_INFO", Put::message(msg::EXT_INFO).u32(1).string("server-sig-algs").string("ssh-ed25519")),
        ("GLOBAL_REQUEST", Put::message(msg::GLOBAL_REQUEST).string("nosuch@example.com").bool(false).string(long)),
        ("GLOBAL_REQUEST to be answered", Put::message(msg::GLOBAL_REQUEST).string("keepalive@openssh.com").bool(true)),
        ("REQUEST_SUCCESS", Put::message(msg::REQUEST_SUCCESS)),
        ("REQUEST_FAILURE", Put::message(msg::REQUEST_FAILURE)),
        ("CHANNEL_SUCCESS", Put::message(msg::CHANNEL_SUCCESS).u32(0)),
        ("CHANNEL_FAILURE", Put::message(msg::CHANNEL_FAILURE).u32(0)),
        ("CHANNEL_WINDOW_ADJUST", Put::message(msg::CHANNEL_WINDOW_ADJUST).u32(0).u32(1)),
        ("PING", Put::message(192).string([0; 1000])),
        ("no such message", Put::message(255).string([b'x'; 1000])),
    ]
}

// T-SSH-08, and the answers to nothing of T-SSH-13.
#[test]
fn chatter_costs_no_memory() {
    let ground = Ground::new("");
    let bystander = Bystander::start(&ground);
    // A flood and the growth that it may cause.
    let (len, bound) = (pick(7, 400) * MIB / 4, MIB * 3 / 4);
    let (mut peaks, mut whole) = (Vec::new(), 0);
    let mut flood = |name: &str, peer: &mut Peer, message: &Put| {
        // Answers are read, or both sides would wait for room to write.
        let reading = peer.drain().unwrap();
        let before = ground.rss();
        let (mut peak, mut sent) = (before, 0);
        for round in 0.. {
            if sent >= len || peer.packets.queue(&message.0).is_err() {
                break;
            }
            sent += packet_len(&message.0);
            if round % 500 == 0 {
                peak = peak.max(ground.rss());
            }
        }
        let _ = peer.packets.flush();
        std::thread::sleep(Duration::from_millis(20));
        let grown = peak.max(ground.rss()).saturating_sub(before);
        peaks.push(grown / 1024);
        assert!(grown <= bound, "{name}: {} KiB for {sent} bytes", grown / 1024);
        // Some of them end the connection, which is as good.
        if sent >= len {
            within(name, grown, bound, sent).unwrap();
            whole += 1;
        }
        reading
    };
    for (name, message) in chatter() {
        let mut stranger = ground.stranger();
        drop(flood(&format!("{name} before a login"), &mut stranger, &message));
        let mut peer = ground.mallory();
        let channel = peer.open(0, WINDOW, PACKET).unwrap();
        peer.exec(channel, "cat").unwrap();
        drop(flood(&format!("{name} after a login"), &mut peer, &message));
    }
    assert!(whole >= 12, "{whole} floods were taken");
    // Asked for answers that nobody reads: it stops taking, and holds little.
    let mut peer = ground.mallory();
    let before = ground.rss();
    let asked = Put::message(msg::GLOBAL_REQUEST).string("keepalive@openssh.com").bool(true);
    peer.packets.stream().set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut sent = 0u64;
    while sent < pick(1_000_000, 10_000_000) && peer.packets.queue(&asked.0).is_ok() {
        sent += 1;
    }
    let grown = ground.rss().saturating_sub(before);
    eprintln!("{sent} requests, no answer read: {} KiB more", grown / 1024);
    eprintln!("{whole} of {} floods were taken; KiB each: {peaks:?}", peaks.len());
    within("answers that nobody reads", grown, bound, sent * packet_len(&asked.0)).unwrap();
    drop(peer);
    bystander.was_unaffected();
    ground.unharmed("chatter", SLACK);
    closed_sessions(&ground.lab.vault(), 2);
}

/// Asks for channels in batches, and returns how many of the answers are refusals.
fn refused(peer: &mut Peer, count: u32, message: impl Fn(u32) -> Put) -> u32 {
    let (mut refused, batch) = (0, 200);
    for first in (0..count).step_by(batch as usize) {
        for number in first..(first + batch).min(count) {
            peer.packets.queue(&message(100 + number).0).unwrap();
        }
        for _ in first..(first + batch).min(count) {
            let answer = peer.expect(&[msg::CHANNEL_OPEN_FAILURE, msg::CHANNEL_OPEN_CONFIRMATION]).unwrap();
            refused += u32::from(answer.first() == Some(&msg::CHANNEL_OPEN_FAILURE));
        }
    }
    refused
}

// T-SSH-13 and pitfall 11.
#[test]
fn refused_channels_leave_nothing() {
    let ground = Ground::new("channels = 3");
    let pid = ground.lab.bastion.process.pid;
    let bystander = Bystander::start(&ground);
    let count = pick(10_000, 1_000_000);
    let mut peer = ground.mallory();
    let direct =
        |number| open("direct-tcpip", number, WINDOW, PACKET).string("10.0.0.1").u32(22).string("127.0.0.1").u32(9);
    assert_eq!(refused(&mut peer, 1000, direct), 1000);
    let warm = (ground.rss(), open_files(pid));
    assert_eq!(refused(&mut peer, count, direct), count);
    let grown = ground.rss().saturating_sub(warm.0);
    eprintln!("{count} refused forwards: {} KiB more", grown / 1024);
    // What a session may be asked again: the last it showed, in a ring of fixed size.
    assert!(grown < 16 * MIB, "{} KiB for {count} refused channels", grown / 1024);
    for kind in [
        "x11",
        "forwarded-tcpip",
        "tun@openssh.com",
        "auth-agent@openssh.com",
        "direct-streamlocal@openssh.com",
        "nosuch",
    ] {
        let message = |number| match kind {
            "x11" => open(kind, number, WINDOW, PACKET).string("127.0.0.1").u32(9),
            "forwarded-tcpip" => open(kind, number, WINDOW, PACKET).string("h").u32(1).string("h").u32(2),
            "direct-streamlocal@openssh.com" => open(kind, number, WINDOW, PACKET).string("/run/x").string("").u32(0),
            _ => open(kind, number, WINDOW, PACKET),
        };
        assert_eq!(refused(&mut peer, 20, message), 20, "{kind}");
    }
    // As many as are allowed are open, and ten thousand more are wanted.
    let mut mine = Vec::new();
    for number in 0..3 {
        let channel = peer.open(number, WINDOW, PACKET).unwrap();
        peer.exec(channel, "cat").unwrap();
        mine.push(channel);
    }
    let warm = (ground.rss(), open_files(pid));
    assert_eq!(refused(&mut peer, count, |number| open("session", number, WINDOW, PACKET)), count);
    let grown = ground.rss().saturating_sub(warm.0);
    assert!(grown < 16 * MIB, "{} KiB for {count} refused sessions", grown / 1024);
    assert!(open_files(pid) <= warm.1 + 2, "a refused channel holds a descriptor");
    // Those that were there all along are unharmed.
    for channel in mine {
        peer.send(Put::message(msg::CHANNEL_DATA).u32(channel).string("still")).unwrap();
        peer.send(Put::message(msg::CHANNEL_EOF).u32(channel)).unwrap();
        assert_eq!(peer.read_to_close(channel).unwrap(), b"still");
    }
    drop(peer);
    bystander.was_unaffected();
    let sessions = closed_sessions(&ground.lab.vault(), 3);
    let of = |kind: &str| {
        sessions
            .iter()
            .flat_map(|(_, transcript)| transcript.of("ssh.open"))
            .filter(|event| event["accepted"] == 0 && event.to_string().contains(kind))
            .count()
    };
    assert_eq!(of("direct-tcpip"), 1000 + count as usize, "every refusal is on record");
    assert_eq!(of("\"session\""), count as usize, "every refusal is on record");
    ground.unharmed("refused channels", SLACK + 16 * MIB);
    ground.lab.vault().verify(&[]).unwrap().unaltered().unwrap();
}

#[test]
fn channels_one_after_the_other_leave_nothing() {
    let ground = Ground::new("");
    let pid = ground.lab.bastion.process.pid;
    let mut peer = ground.mallory();
    for round in 0..10 {
        assert_eq!(says(&mut peer, "echo on").unwrap(), b"on\n", "{round}");
    }
    let files = open_files(pid);
    let warm = ground.rss();
    for round in 0..pick(30, 10_000) {
        assert_eq!(says(&mut peer, "echo on").unwrap(), b"on\n", "{round}");
    }
    let grown = ground.rss().saturating_sub(warm);
    assert!(grown < pick(8, 32) * MIB, "{} KiB stay", grown / 1024);
    // The goodbye to the last target may still be on its way.
    all_gone(&ground, files);
}

// Pitfall 7, and what rsync and Ansible do: input follows its command at once.
#[test]
fn input_behind_its_command_is_not_lost() {
    let ground = Ground::new("");
    let mut peer = ground.mallory();
    for round in 0..pick(40, 1000) {
        let channel = peer.open(0, WINDOW, PACKET).unwrap();
        let data = |text: &[u8]| Put::message(msg::CHANNEL_DATA).u32(channel).string(text);
        let input = [format!("round {round} ").into_bytes(), vec![b'x'; 20_000], b" end".to_vec()];
        peer.packets.queue(&request(channel, "exec", true).string("cat").0).unwrap();
        for piece in &input {
            peer.packets.queue(&data(piece).0).unwrap();
        }
        peer.packets.queue(&Put::message(msg::CHANNEL_EOF).u32(channel).0).unwrap();
        assert_eq!(peer.read_to_close(channel).unwrap(), input.concat(), "round {round}");
    }
}

// Pitfall 14: PuTTY asks a question of its own between any two requests, and waits for no answer before the next.
#[test]
fn requests_sent_in_one_piece_are_answered_in_order() {
    let ground = Ground::new("");
    let mut peer = ground.mallory();
    for _ in 0..pick(10, 1000) {
        let channel = peer.open(0, WINDOW, PACKET).unwrap();
        let modes = Put::default().u8(53).u32(1).u8(0).0;
        let pty = request(channel, "pty-req", true).string("xterm").u32(80).u32(24).u32(0).u32(0).string(modes);
        let question = || request(channel, "winadj@putty.projects.tartarus.org", true);
        let requests = [
            pty,
            question(),
            request(channel, "env", false).string("LC_QUIET").string("x"),
            request(channel, "env", true).string("LC_LOUD").string("x"),
            request(channel, "env", true).string("LD_PRELOAD").string("x"),
            question(),
            request(channel, "exec", true).string("echo $LC_QUIET$LC_LOUD${LD_PRELOAD:-none}; read line"),
            question(),
            // Not before that line does the program end, and the channel with it.
            Put::message(msg::CHANNEL_DATA).u32(channel).string("\r"),
        ];
        for request in &requests {
            peer.packets.queue(&request.0).unwrap();
        }
        let (mut answers, mut output) = (Vec::new(), Vec::new());
        loop {
            let Said::Message(said) = peer.packets.receive().unwrap() else { panic!("cut off") };
            match said.first() {
                Some(&msg::CHANNEL_SUCCESS) => answers.push(true),
                Some(&msg::CHANNEL_FAILURE) => answers.push(false),
                Some(&msg::CHANNEL_DATA) => {
                    let mut body = Take::body(&said);
                    body.u32().unwrap();
                    output.extend_from_slice(body.string().unwrap());
                }
                Some(&msg::CHANNEL_CLOSE) => break,
                _ => {}
            }
        }
        peer.send(Put::message(msg::CHANNEL_CLOSE).u32(channel)).unwrap();
        assert_eq!(answers, [true, false, true, false, false, true, false]);
        // What was typed ahead is echoed at some point.
        assert!(String::from_utf8(output.clone()).unwrap().contains("xxnone\r\n"), "{output:?}");
    }
}

// Words of any length in what is refused: on record as far as an event goes, and no gap in it.
#[test]
fn long_words_in_requests_make_no_gap() {
    let ground = Ground::new("");
    let long = "l".repeat(262_050);
    let mut peer = ground.mallory();
    let channel = peer.open(0, WINDOW, PACKET).unwrap();
    peer.exec(channel, "cat").unwrap();
    let global = |name: &str| Put::message(msg::GLOBAL_REQUEST).string(name).bool(true);
    for message in [
        global("tcpip-forward").string(&long).u32(22),
        global("streamlocal-forward@openssh.com").string(&long),
        open("direct-tcpip", 1, WINDOW, PACKET).string(&long).u32(22).string("h").u32(9),
        open("forwarded-tcpip", 1, WINDOW, PACKET).string(&long).u32(22).string("h").u32(9),
        open("direct-streamlocal@openssh.com", 1, WINDOW, PACKET).string(&long).string("").u32(0),
        request(channel, "signal", false).string(&long),
        request(channel, "env", false).string(&long).string(""),
        request(channel, "env", false).string("A").string(&long),
        request(channel, "exec", false).string(&long),
        request(channel, "subsystem", false).string(&long),
        request(channel, "pty-req", false).string(&long).u32(1).u32(1).u32(1).u32(1).string(""),
        request(channel, "x11-req", false).bool(true).string(&long).string("").u32(0),
        request(channel, &long, false),
    ] {
        peer.send(message).unwrap();
    }
    assert_eq!(says(&mut peer, "echo on").unwrap(), b"on\n");
    drop(peer);
    let sessions = closed_sessions(&ground.lab.vault(), 2);
    for (_, transcript) in &sessions {
        assert_eq!(transcript.of("gap").count(), 0, "a gap in the record: {:?}", transcript.of("gap").next());
    }
    ground.unharmed("long words", SLACK);
    ground.lab.vault().verify(&[]).unwrap().unaltered().unwrap();
}

// What a session keeps to show to those who watch it is bounded by what it holds, not by how often something was asked.
#[test]
fn long_requests_cost_no_memory() {
    let ground = Ground::new("");
    let bystander = Bystander::start(&ground);
    let mut peer = ground.mallory();
    let channel = peer.open(0, WINDOW, PACKET).unwrap();
    let long = "v".repeat(110_000);
    let before = ground.rss();
    let mut peak = before;
    for _ in 0..pick(600, 20_000) {
        peer.packets.queue(&request(channel, "env", true).string("REFUSED").string(&long).0).unwrap();
        peer.expect(&[msg::CHANNEL_FAILURE]).unwrap();
        peak = peak.max(ground.rss());
    }
    let grown = (peak - before) / MIB;
    eprintln!("{grown} MiB for long requests");
    // 63 MiB passed; some of that was on its way to the disk.
    assert!(grown <= 40, "{grown} MiB for long requests");
    peer.exec(channel, "echo on").unwrap();
    assert_eq!(peer.read_to_close(channel).unwrap(), b"on\n");
    drop(peer);
    bystander.was_unaffected();
    ground.unharmed("long requests", SLACK + 28 * MIB);
}

// Who is only told why there is nothing needs no more channels than somebody who works.
#[test]
fn somebody_who_is_turned_away_gets_ten_channels() {
    let ground = Ground::new("sessions_per_person = 1");
    let _works = ground.mallory();
    let mut peer = ground.mallory();
    assert_eq!(refused(&mut peer, 30, |number| open("session", number, WINDOW, PACKET)), 20);
    drop(peer);
    ground.still_serves();
}

/// The number of the host key of targets that mean harm.
const HOST: u64 = 51;

/// More small things than a limit in bytes of their own would notice.
const SMALL_THINGS: usize = 400_000;

/// What is said again and again.
type Message<'a> = &'a dyn Fn(u32) -> Put;

fn one_byte(channel: u32) -> Put {
    Put::message(msg::CHANNEL_DATA).u32(channel).string("x")
}

/// A target that starts a program and takes no byte for it.
fn deaf() -> HostileTarget {
    let script = |stream| {
        let mut peer = HostileTarget::logged_in(stream, HOST)?;
        let channel = peer.confirm(0, 1 << 15)?;
        peer.start_program(channel)?;
        peer.wait_end(Duration::from_secs(120)).map(drop)
    };
    HostileTarget::start(script).unwrap()
}

/// A target that says the same small thing again and again, behind what waits for the client already.
fn talker(message: impl Fn(u32) -> Put + Send + Sync + 'static) -> HostileTarget {
    let script = move |peer: &mut Peer, channel| {
        peer.packets.queue(&one_byte(channel).0)?;
        for _ in 0..SMALL_THINGS {
            peer.packets.queue(&message(channel).0)?;
        }
        peer.packets.flush()?;
        peer.wait_end(Duration::from_secs(120)).map(drop)
    };
    HostileTarget::running(HOST, script).unwrap()
}

// What waits costs more than its bytes.
#[test]
fn small_things_that_wait_cost_bounded_memory() {
    let resize = |channel: u32| request(channel, "window-change", false).u32(80).u32(24).u32(0).u32(0);
    let (deaf, bytes) = (deaf(), talker(one_byte));
    let statuses = talker(|channel| request(channel, "exit-status", false).u32(3));
    let ground = Ground::with_targets(
        "backlog = \"1MiB\"\nbacklog_max = \"4MiB\"",
        &[("deaf", HOST, &deaf), ("bytes", HOST, &bytes), ("statuses", HOST, &statuses)],
    );
    let bystander = Bystander::start(&ground);
    let cases: [(&str, &str, Option<Message<'_>>); 4] = [
        ("a client's bytes", "deaf", Some(&one_byte)),
        ("a client's window changes", "deaf", Some(&resize)),
        ("a target's bytes", "bytes", None),
        ("a target's exit statuses", "statuses", None),
    ];
    for (what, target, message) in cases {
        let mut peer = Peer::log_in(ground.port(), &format!("mallory+{target}"), &ground.mallory).unwrap();
        // No window for what the target says, either.
        let channel = peer.open(0, 0, PACKET).unwrap();
        let before = ground.rss();
        let mut peak = before;
        peer.exec(channel, "x").unwrap();
        peer.send(one_byte(channel)).unwrap();
        let reading = peer.drain().unwrap();
        for _ in 0..SMALL_THINGS / 1000 {
            let Some(message) = message else { break };
            let sent = (0..1000).try_for_each(|_| peer.packets.queue(&message(channel).0));
            peak = peak.max(ground.rss());
            if sent.is_err() || reading.is_finished() {
                break;
            }
        }
        for _ in 0..60 {
            std::thread::sleep(Duration::from_millis(50));
            peak = peak.max(ground.rss());
        }
        let grown = peak.saturating_sub(before);
        eprintln!("{what}: {} KiB", grown / 1024);
        // Four for what waits; the rest is on its way to the disk.
        assert!(grown < 32 * MIB, "{what}: {} KiB", grown / 1024);
    }
    bystander.was_unaffected();
    ground.still_serves();
}
