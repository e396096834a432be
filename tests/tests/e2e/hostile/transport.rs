//! Before anybody logged in: greetings, packets, key exchanges. Numbers such as T-SSH-03 are those of the threat list.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use casemate_tests::client::greets;
use casemate_tests::process::wait_until;
use casemate_tests::raw_ssh::{Lists, Peer, Put, Said, Take, msg, open};
use casemate_tests::rig::PORTAL;
use casemate_tests::scale::{MIB, pick};
use casemate_tests::sshd::free_port;

use super::super::control_says;
use super::{BOUND, Bystander, Ground, SLACK, must_end};

/// Reads until the bastion ends the connection, and fails unless it does in time.
fn must_end_raw(what: &str, stream: &mut TcpStream) {
    let start = Instant::now();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(_) => assert!(start.elapsed() < BOUND, "{what}: it goes on"),
            Err(error) => {
                let reset = matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
                assert!(reset, "{what}: {error}");
                break;
            }
        }
    }
}

// T-SSH-01.
#[test]
fn compression_is_never_agreed_to() {
    let ground = Ground::new("");
    for offer in ["zlib", "zlib@openssh.com", "zlib,zlib@openssh.com"] {
        let mut peer = Peer::dial(ground.port()).unwrap();
        peer.packets.queue(&Lists { compression: offer.to_owned(), ..Lists::default() }.message()).unwrap();
        let theirs = peer.expect(&[msg::KEXINIT]).unwrap();
        let mut lists = Take::body(&theirs);
        lists.raw(16).unwrap();
        let lists: Vec<&str> = (0..10).map(|_| lists.text().unwrap()).collect();
        assert_eq!((lists[6], lists[7]), ("none", "none"));
        must_end(offer, &mut peer);
    }
    // Preferred, but not insisted on: it goes without.
    let mut peer = Peer::dial(ground.port()).unwrap();
    let lists = Lists { compression: "zlib,zlib@openssh.com,none".to_owned(), ..Lists::default() };
    peer.exchange_keys(&lists).unwrap();
    peer.prove("mallory+web1", &ground.mallory).unwrap();
    let channel = peer.open(0, 1 << 20, 1 << 15).unwrap();
    peer.exec(channel, "echo plain").unwrap();
    assert_eq!(peer.read_to_close(channel).unwrap(), b"plain\n");
    ground.unharmed("compression", SLACK);
}

// T-SSH-02: a length is believed by nobody before it was looked at.
#[test]
fn lengths_are_checked_before_memory_is_taken() {
    let ground = Ground::new("login_grace = \"4s\"");
    let bystander = Bystander::start(&ground);
    let rounds = pick(8, 200);
    for length in [0u32, 1, 2, 3, 7, 35_001, 1 << 18 | 0xffff, 1 << 20, 1 << 24, 1 << 31, u32::MAX] {
        for _ in 0..rounds {
            // In the clear, behind the greeting.
            let mut peer = Peer::dial(ground.port()).unwrap();
            let _ = peer.packets.raw(&length.to_be_bytes());
            let _ = peer.packets.raw(&[0; 64]);
            must_end(&format!("length {length:#x} in the clear"), &mut peer);
        }
        // Under the keys, where the length is still in the clear. More is let pass there, and waited for.
        if length == 35_001 {
            continue;
        }
        let mut peer = ground.stranger();
        let _ = peer.packets.raw(&length.to_be_bytes());
        let _ = peer.packets.raw(&[0; 64]);
        must_end(&format!("length {length:#x} before a login"), &mut peer);
        let mut peer = ground.mallory();
        let _ = peer.packets.raw(&length.to_be_bytes());
        let _ = peer.packets.raw(&[0; 64]);
        must_end(&format!("length {length:#x} after a login"), &mut peer);
    }
    // The largest that is let pass, announced by many at once and never sent. Before the keys that is little; under them the
    // library makes room for what is announced, 256 KiB at the most.
    let mut waiting = Vec::new();
    for (keys, announced, most) in [(false, 35_000u32, 96), (true, 1 << 18, 512)] {
        let (before, count) = (ground.rss(), pick(50, 500));
        for _ in 0..count {
            let mut peer = if keys { ground.stranger() } else { Peer::dial(ground.port()).unwrap() };
            peer.packets.raw(&announced.to_be_bytes()).unwrap();
            waiting.push(peer);
        }
        std::thread::sleep(Duration::from_millis(500));
        let each = ground.rss().saturating_sub(before) / count / 1024;
        eprintln!("{announced} bytes, announced and never sent, cost {each} KiB; under keys: {keys}");
        assert!(each <= most, "{announced} bytes announced: {each} KiB each");
    }
    for mut peer in waiting {
        must_end("an announced packet that never comes", &mut peer);
    }
    bystander.was_unaffected();
    // What 50 of them needed at once, the allocator may keep.
    ground.unharmed("lengths", SLACK + 16 * MIB);
}

// T-SSH-03.
#[test]
fn greetings_are_short_and_soon_or_none() {
    let ground = Ground::new("login_grace = \"3s\"");
    let bystander = Bystander::start(&ground);
    let line = |len: usize, end: &str| [b"SSH-2.0-".to_vec(), vec![b'x'; len - 8 - end.len()], end.into()].concat();
    // The longest that the protocol allows is a greeting like any other.
    let mut stream = TcpStream::connect(("127.0.0.1", ground.port())).unwrap();
    stream.write_all(&line(255, "\r\n")).unwrap();
    let mut greeting = [0; 64];
    assert!(stream.read(&mut greeting).unwrap() > 0 && greeting.starts_with(b"SSH-2.0-"));
    drop(stream);
    let cases = [
        ("256 bytes", line(257, "\r\n")),
        ("8192 bytes", line(8192, "\r\n")),
        ("no end", line(255, "")),
        ("a long one without an end", vec![b'x'; 1 << 20]),
        ("CR only", b"SSH-2.0-x\r".repeat(20)),
        ("NULs", vec![0; 512]),
        ("NULs inside", b"SSH-2.0-\0\0\0\r\n".to_vec()),
        ("another version", b"SSH-1.0-x\r\n".to_vec()),
        ("lines before it", [b"hello\r\n".repeat(3), line(20, "\r\n")].concat()),
        ("empty lines", b"\r\n".repeat(4096)),
        ("no UTF-8", b"SSH-2.0-\xff\xfe\r\n".to_vec()),
        ("nothing", Vec::new()),
    ];
    std::thread::scope(|scope| {
        for (what, bytes) in &cases {
            let port = ground.port();
            scope.spawn(move || {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
                // It may be cut off while it writes.
                let _ = stream.write_all(bytes);
                must_end_raw(what, &mut stream);
            });
        }
    });
    // Comments without end, as fast as they go; and one byte every now and then, so that no read is ever late.
    for (what, piece, pause) in [("comments", b"comment\r\n".repeat(500), 0), ("a drip", b"S".to_vec(), 100)] {
        let mut stream = TcpStream::connect(("127.0.0.1", ground.port())).unwrap();
        let start = Instant::now();
        while stream.write_all(&piece).is_ok() {
            assert!(start.elapsed() < BOUND, "{what}: it goes on");
            std::thread::sleep(Duration::from_millis(pause));
        }
        assert!(ground.rss() < ground.before + 16 * MIB, "{what}");
    }
    bystander.was_unaffected();
    ground.unharmed("greetings", SLACK);
    ground.lab.bastion.stop();
    assert!(control_says(&ground.lab.vault(), "auth", &["login grace is over"]), "who said nothing is on record");
    assert!(control_says(&ground.lab.vault(), "auth", &["left without logging in"]), "who said nonsense is on record");
}

// T-SSH-05.
#[test]
fn offers_without_a_way_to_meet_end_the_connection() {
    let ground = Ground::new("login_grace = \"4s\"");
    let bystander = Bystander::start(&ground);
    let lists = Lists::default;
    let none = String::new;
    let own = |text: &str| text.to_owned();
    let long = "x".repeat(100_000);
    let refused = [
        ("no kex", Lists { kex: none(), ..lists() }),
        ("no host key", Lists { host_key: none(), ..lists() }),
        ("no cipher", Lists { cipher: none(), ..lists() }),
        ("no compression", Lists { compression: none(), ..lists() }),
        ("kex none", Lists { kex: own("none"), ..lists() }),
        ("markers only", Lists { kex: own("ext-info-c,kex-strict-c-v00@openssh.com"), ..lists() }),
        ("old kex", Lists { kex: own("diffie-hellman-group1-sha1,diffie-hellman-group14-sha1"), ..lists() }),
        ("groups", Lists { kex: own("diffie-hellman-group-exchange-sha256"), ..lists() }),
        ("old host key", Lists { host_key: own("ssh-rsa,ssh-dss"), ..lists() }),
        ("cipher none", Lists { cipher: own("none"), ..lists() }),
        ("old ciphers", Lists { cipher: own("aes256-cbc,3des-cbc,arcfour"), ..lists() }),
        ("a cipher without a MAC", Lists { cipher: own("aes256-ctr"), mac: none(), ..lists() }),
        ("a cipher with MAC none", Lists { cipher: own("aes256-ctr"), mac: own("none"), ..lists() }),
        ("a cipher with an old MAC", Lists { cipher: own("aes256-ctr"), mac: own("hmac-sha1,hmac-md5"), ..lists() }),
        ("commas", Lists { kex: own(",,,,"), host_key: own(","), ..lists() }),
        ("a long name", Lists { kex: long.clone(), ..lists() }),
        ("many names", Lists { kex: "y,".repeat(50_000), ..lists() }),
        (
            "nothing at all",
            Lists { kex: none(), host_key: none(), cipher: none(), mac: none(), compression: none(), ..lists() },
        ),
    ];
    for (what, lists) in &refused {
        let mut peer = Peer::dial(ground.port()).unwrap();
        let _ = peer.packets.queue(&lists.message());
        let seen = must_end(what, &mut peer);
        assert!(!seen.contains(&msg::ECDH_REPLY) && !seen.contains(&msg::NEWKEYS), "{what}: {seen:?}");
    }
    // Broken messages: cut anywhere, with a tail, not UTF-8, with lengths that lie.
    let whole = lists().message();
    let mut broken: Vec<_> = (1..whole.len()).step_by(pick(9, 1)).map(|len| whole[..len].to_vec()).collect();
    broken.push(Lists { kex: own("curve25519-sha256"), ..lists() }.message().iter().map(|byte| byte | 0x80).collect());
    for at in 17..21 {
        let mut lying = whole.clone();
        lying[at] = 0xff;
        broken.push(lying);
    }
    for message in &broken {
        let mut peer = Peer::dial(ground.port()).unwrap();
        let _ = peer.packets.queue(message);
        let seen = must_end(&format!("a KEXINIT of {} bytes", message.len()), &mut peer);
        assert!(!seen.contains(&msg::NEWKEYS), "{seen:?}");
    }
    // An AEAD needs no MAC: nothing is wrong with leaving it out.
    let mut peer = Peer::dial(ground.port()).unwrap();
    peer.exchange_keys(&Lists { mac: none(), ..lists() }).unwrap();
    peer.prove("mallory+web1", &ground.mallory).unwrap();
    bystander.was_unaffected();
    drop(peer);
    ground.unharmed("offers", SLACK);
}

// T-SSH-06.
#[test]
fn halves_that_are_no_points_end_the_connection() {
    let ground = Ground::new("login_grace = \"4s\"");
    let bystander = Bystander::start(&ground);
    // The points of small order, and their like that are not reduced (RFC 7748 §6.1): all lead to a secret of zeros.
    let mut low: Vec<[u8; 32]> = vec![[0; 32]];
    let mut one = [0; 32];
    one[0] = 1;
    low.push(one);
    for hex in [
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ] {
        let bytes: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect();
        low.push(bytes.try_into().unwrap());
    }
    let mut halves: Vec<Vec<u8>> = low.iter().map(|point| point.to_vec()).collect();
    halves.extend((0..=64).filter(|len| *len != 32).map(|len| vec![9; len]));
    halves.push(vec![9; 60_000]);
    for kex in ["curve25519-sha256", "curve25519-sha256@libssh.org"] {
        for half in &halves {
            let what = format!("{kex}: a half of {} bytes, {:02x?}…", half.len(), &half[..half.len().min(4)]);
            let mut peer = Peer::dial(ground.port()).unwrap();
            peer.packets.queue(&Lists { kex: kex.to_owned(), ..Lists::default() }.message()).unwrap();
            peer.expect(&[msg::KEXINIT]).unwrap();
            let _ = peer.send(Put::message(msg::ECDH_INIT).string(half));
            let seen = must_end(&what, &mut peer);
            assert!(!seen.contains(&msg::NEWKEYS), "{what}: {seen:?}");
        }
    }
    // The post-quantum one, whose half holds both: every length but the right one, and the right one with zeros.
    for len in [0, 1, 31, 32, 64, 1183, 1184, 1215, 1216, 1217, 4096] {
        let mut peer = Peer::dial(ground.port()).unwrap();
        let lists = Lists { kex: "mlkem768x25519-sha256".to_owned(), ..Lists::default() };
        peer.packets.queue(&lists.message()).unwrap();
        peer.expect(&[msg::KEXINIT]).unwrap();
        let _ = peer.send(Put::message(msg::ECDH_INIT).string(vec![0; len]));
        let seen = must_end(&format!("a hybrid half of {len} bytes"), &mut peer);
        assert!(!seen.contains(&msg::NEWKEYS), "{len}: {seen:?}");
    }
    bystander.was_unaffected();
    ground.unharmed("halves", SLACK);
}

// T-SSH-10: what may be dropped before the keys are agreed is where Terrapin begins.
#[test]
fn strict_exchange_takes_nothing_beside_it() {
    let ground = Ground::new("");
    for number in [msg::IGNORE, msg::DEBUG, msg::UNIMPLEMENTED] {
        let extra = || match number {
            msg::DEBUG => Put::message(number).bool(false).string("x").string(""),
            msg::UNIMPLEMENTED => Put::message(number).u32(0),
            _ => Put::message(number).string("x"),
        };
        // Before the offer, and after it.
        for first in [true, false] {
            let mut peer = Peer::dial(ground.port()).unwrap();
            if first {
                peer.packets.queue(&extra().0).unwrap();
            }
            peer.packets.queue(&Lists::default().strict().message()).unwrap();
            if !first {
                peer.packets.queue(&extra().0).unwrap();
            }
            peer.packets.flush().unwrap();
            // The right next message must not help.
            peer.packets.queue(&Put::message(msg::ECDH_INIT).string([9; 32]).0).unwrap();
            let seen = must_end(&format!("message {number}, first: {first}"), &mut peer);
            assert!(!seen.contains(&msg::NEWKEYS), "{seen:?}");
        }
    }
    // Without it, the protocol allows them anywhere.
    let mut peer = Peer::dial(ground.port()).unwrap();
    peer.packets.queue(&Put::message(msg::IGNORE).string("x").0).unwrap();
    peer.exchange_keys(&Lists::default()).unwrap();
    peer.prove("mallory+web1", &ground.mallory).unwrap();
    // And with it, an exchange that keeps to it works, also the second one.
    let mut peer = Peer::dial(ground.port()).unwrap();
    peer.exchange_keys(&Lists::default().strict()).unwrap();
    peer.prove("mallory+web1", &ground.mallory).unwrap();
    peer.exchange_keys(&Lists::default().strict()).unwrap();
    assert_eq!(peer.open(0, 1 << 20, 1 << 15).unwrap(), peer.open(1, 1 << 20, 1 << 15).unwrap() - 1);
    ground.still_serves();
}

// T-SSH-11: what only servers say is no way in.
#[test]
fn words_of_a_server_do_nothing_for_a_client() {
    let ground = Ground::new("login_grace = \"4s\"");
    let words = |number: u8| match number {
        msg::REQUEST_SUCCESS | msg::USERAUTH_SUCCESS | msg::NEWKEYS => Put::message(number),
        msg::USERAUTH_PK_OK => Put::message(number).string("ssh-ed25519").string(ground.mallory.blob()),
        msg::SERVICE_ACCEPT => Put::message(number).string("ssh-userauth"),
        msg::USERAUTH_BANNER => Put::message(number).string("hello").string(""),
        msg::EXT_INFO => Put::message(number).u32(0),
        _ => Put::message(number).u32(0).u32(0).u32(1 << 20).u32(1 << 15),
    };
    let numbers = [
        msg::SERVICE_ACCEPT,
        msg::EXT_INFO,
        msg::NEWKEYS,
        msg::ECDH_REPLY,
        33,
        msg::USERAUTH_SUCCESS,
        msg::USERAUTH_BANNER,
        msg::USERAUTH_PK_OK,
        61,
        msg::REQUEST_SUCCESS,
        msg::CHANNEL_OPEN_CONFIRMATION,
        msg::CHANNEL_SUCCESS,
    ];
    let mut strangers = Vec::new();
    for number in numbers {
        for asked in [false, true] {
            let mut peer = ground.stranger();
            if asked {
                peer.ask_service().unwrap();
            }
            let _ = peer.send(words(number));
            let _ = peer.send(open("session", 0, 1 << 20, 1 << 15));
            strangers.push((number, peer));
        }
        // Logged in: dropped, or the end; nothing else.
        let mut peer = ground.mallory();
        let _ = peer.send(words(number));
        if let Ok(channel) = peer.open(0, 1 << 20, 1 << 15)
            && peer.exec(channel, "echo on").is_ok()
        {
            assert_eq!(peer.read_to_close(channel).unwrap(), b"on\n", "{number}");
        }
    }
    // Nobody logged in: whatever was said, no channel opened, and the time for a login ran out.
    for (number, mut peer) in strangers {
        let (_, seen) = peer.wait_end(BOUND).unwrap();
        assert!(!seen.contains(&msg::CHANNEL_OPEN_CONFIRMATION), "{number}: {seen:?}");
    }
    ground.unharmed("words of a server", SLACK);
}

// T-SSH-12: a wrong guess costs a message, and nothing stays of it.
#[test]
fn wrong_guesses_and_endless_new_keys_leave_nothing() {
    let ground = Ground::new("");
    let bystander = Bystander::start(&ground);
    let lists = Lists {
        // Something first that the bastion does not know: the guess is wrong.
        kex: "sntrup761x25519-sha512@openssh.com,curve25519-sha256".to_owned(),
        guess_follows: true,
        ..Lists::default()
    };
    let wrong = |round: usize| {
        let mut peer = Peer::dial(ground.port()).unwrap();
        let ours = lists.message();
        peer.packets.queue(&ours).unwrap();
        peer.packets.queue(&Put::message(msg::ECDH_INIT).string(vec![5; 1190]).0).unwrap();
        let theirs = peer.expect(&[msg::KEXINIT]).unwrap();
        // Some go on as they should, some guess again and are sent away, some just leave.
        match round % 3 {
            0 => peer.finish_exchange(&ours, &theirs).unwrap(),
            1 => {
                let _ = peer.send(Put::message(msg::ECDH_INIT).string(vec![5; 1190]));
                must_end("a second wrong guess", &mut peer);
            }
            _ => {}
        }
    };
    (0..30).for_each(wrong);
    let warm = ground.rss();
    (0..pick(300, 100_000)).for_each(wrong);
    // New keys on one connection, over and over.
    let mut peer = ground.mallory();
    for _ in 0..pick(100, 2000) {
        peer.exchange_keys(&Lists::default()).unwrap();
    }
    let channel = peer.open(0, 1 << 20, 1 << 15).unwrap();
    peer.exec(channel, "echo on").unwrap();
    assert_eq!(peer.read_to_close(channel).unwrap(), b"on\n");
    let grown = ground.rss().saturating_sub(warm);
    assert!(grown <= 8 * MIB, "{grown} bytes stay");
    bystander.was_unaffected();
    drop(peer);
    ground.unharmed("wrong guesses", SLACK);
}

// An exchange that was begun after the login and is never finished: what is said meanwhile must not pile up.
#[test]
fn an_exchange_that_is_never_finished_holds_nothing_up_but_itself() {
    let ground = Ground::new("");
    let bystander = Bystander::start(&ground);
    let mut peer = ground.mallory();
    let channel = peer.open(0, 1 << 30, 1 << 15).unwrap();
    peer.exec(channel, "cat /dev/zero").unwrap();
    // Output is on its way when the exchange begins.
    assert!(matches!(peer.packets.receive().unwrap(), Said::Message(_)));
    peer.packets.queue(&Lists::default().message()).unwrap();
    peer.packets.flush().unwrap();
    let reading = peer.drain().unwrap();
    std::thread::sleep(Duration::from_secs(pick(3, 30)));
    let grown = ground.rss().saturating_sub(ground.before);
    assert!(grown < 32 * MIB, "{} KiB for one connection", grown / 1024);
    // Requests in the middle of it are against the protocol, and end it.
    for _ in 0..1000 {
        let global = Put::message(msg::GLOBAL_REQUEST).string("keepalive@openssh.com").bool(true);
        if peer.packets.queue(&global.0).and_then(|()| peer.packets.flush()).is_err() {
            break;
        }
    }
    let read = reading.join().unwrap();
    eprintln!("read {read} bytes before the end");
    drop(peer);
    bystander.was_unaffected();
    ground.unharmed("an unfinished exchange", SLACK + 8 * MIB);
}

// The connection inside a jump is one more front door, and a forwarded port lets others than OpenSSH reach it.
#[test]
fn inside_a_jump_it_is_the_same() {
    let ground = Ground::new("login_grace = \"4s\"");
    let port = free_port().unwrap();
    let mut ssh = ground.lab.client.program("ssh");
    ssh.args(["-N", "-o", "ExitOnForwardFailure=yes", "-L", &format!("127.0.0.1:{port}:web1:22"), PORTAL]);
    let mut ssh = ssh.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert!(wait_until(BOUND, || greets(port)));
    let bystander = Bystander::start(&ground);
    let agreed = || {
        let mut peer = Peer::dial(port).unwrap();
        let lists = Lists { host_key: "ssh-ed25519".to_owned(), ..Lists::default() };
        peer.exchange_keys(&lists).unwrap();
        peer
    };
    for length in [0, 1, 35_001, 1 << 20, 1 << 31, u32::MAX] {
        let mut peer = Peer::dial(port).unwrap();
        let _ = peer.packets.raw(&length.to_be_bytes());
        let _ = peer.packets.raw(&[0; 64]);
        must_end(&format!("length {length:#x}"), &mut peer);
    }
    for len in [0, 31, 32, 33] {
        let mut peer = Peer::dial(port).unwrap();
        peer.packets.queue(&Lists::default().message()).unwrap();
        peer.expect(&[msg::KEXINIT]).unwrap();
        let _ = peer.send(Put::message(msg::ECDH_INIT).string(vec![0; len]));
        let seen = must_end(&format!("a half of {len} bytes"), &mut peer);
        assert!(!seen.contains(&msg::NEWKEYS), "{seen:?}");
    }
    // Words of a server, a flood, silence: no way in, and an end when the time is over.
    let mut peers: Vec<Peer> = (0..3).map(|_| agreed()).collect();
    let _ = peers[0].send(Put::message(msg::USERAUTH_SUCCESS));
    for _ in 0..pick(5_000, 200_000) {
        if peers[1].packets.queue(&Put::message(msg::IGNORE).string([0; 32]).0).is_err() {
            break;
        }
    }
    for peer in &mut peers {
        let _ = peer.send(open("session", 0, 1 << 20, 1 << 15));
        let seen = must_end("nobody logged in", peer);
        assert!(!seen.contains(&msg::CHANNEL_OPEN_CONFIRMATION), "{seen:?}");
    }
    // The person's own connection is none the worse.
    assert!(greets(port));
    ssh.kill().unwrap();
    ssh.wait().unwrap();
    bystander.was_unaffected();
    ground.unharmed("inside a jump", SLACK);
}
