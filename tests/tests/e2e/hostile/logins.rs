//! At the login: who must not get in by any way of asking, and who they are when they do.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use casemate_tests::client::Route;
use casemate_tests::keys;
use casemate_tests::process::{cpu_seconds, nothing, run};
use casemate_tests::raw_ssh::{Key, Lists, Peer, Put, Said, msg};
use casemate_tests::scale::{MIB, pick};

use super::super::{closed_sessions, control_says};
use super::{BOUND, Bystander, Ground, SLACK, must_end};

fn ask(user: &str, method: &str) -> Put {
    Put::message(msg::USERAUTH_REQUEST).string(user).string("ssh-connection").string(method)
}

/// Waits for the answer to a login and tells whether it was let in. The end of the connection is an answer.
fn let_in(peer: &mut Peer) -> bool {
    loop {
        match peer.packets.receive().unwrap() {
            Said::Message(said) => match said.first() {
                Some(&msg::USERAUTH_SUCCESS) => return true,
                Some(&(msg::USERAUTH_FAILURE | msg::DISCONNECT)) => return false,
                _ => {}
            },
            Said::End => return false,
        }
    }
}

fn offer(user: &str, key: &Key) -> Put {
    ask(user, "publickey").bool(false).string("ssh-ed25519").string(key.blob())
}

#[test]
fn only_a_key_that_signs_for_this_connection_and_name_gets_in() {
    let ground = Ground::new("");
    let user = "mallory+web1";
    let (mallory, stranger) = (&ground.mallory, Key::number(77));
    let signed = |peer: &Peer, request: Put, key: &Key| {
        // Signs what it should, under a name or for a session that is another.
        let proof = peer.proof("bob+web1", key).unwrap();
        let signature = proof.0[proof.0.len() - 83..].to_vec();
        request.string(&signature)
    };
    let body =
        |user: &str, algorithm: &str, key: &Key| ask(user, "publickey").bool(true).string(algorithm).string(key.blob());
    type Request<'a> = (&'a str, Box<dyn Fn(&Peer) -> Put + 'a>);
    let requests: Vec<Request<'_>> = vec![
        ("none", Box::new(|_| ask(user, "none"))),
        ("a password", Box::new(|_| ask(user, "password").bool(false).string("secret"))),
        ("a change of password", Box::new(|_| ask(user, "password").bool(true).string("secret").string("other"))),
        ("keyboard-interactive", Box::new(|_| ask(user, "keyboard-interactive").string("").string(""))),
        (
            "hostbased",
            Box::new(|_| {
                ask(user, "hostbased").string("ssh-ed25519").string(mallory.blob()).string("h").string("u").string("s")
            }),
        ),
        ("gssapi", Box::new(|_| ask(user, "gssapi-with-mic").u32(0))),
        ("no such method", Box::new(|_| ask(user, "\u{1b}[31m"))),
        ("a long method", Box::new(|_| ask(user, &"m".repeat(60_000)))),
        ("an offer", Box::new(|_| offer(user, mallory))),
        (
            "another service",
            Box::new(|_| Put::message(msg::USERAUTH_REQUEST).string(user).string("ssh-userauth").string("none")),
        ),
        ("a signature for another name", Box::new(|peer| signed(peer, body(user, "ssh-ed25519", mallory), mallory))),
        ("a signature of nothing", Box::new(|_| body(user, "ssh-ed25519", mallory).string(mallory.sign(b"")))),
        ("an empty signature", Box::new(|_| body(user, "ssh-ed25519", mallory).string(""))),
        (
            "zeros for a signature",
            Box::new(|_| {
                body(user, "ssh-ed25519", mallory).string(Put::default().string("ssh-ed25519").string([0; 64]).0)
            }),
        ),
        ("another algorithm's name", Box::new(|peer| signed(peer, body(user, "rsa-sha2-512", mallory), mallory))),
        (
            "a certificate's name",
            Box::new(|peer| signed(peer, body(user, "ssh-ed25519-cert-v01@openssh.com", mallory), mallory)),
        ),
        ("a stranger's proof", Box::new(|peer| peer.proof(user, &stranger).unwrap())),
        ("bob's proof", Box::new(|peer| peer.proof(user, &ground.bob).unwrap())),
        ("a proof with a tail", Box::new(|peer| peer.proof(user, mallory).unwrap().string("tail"))),
        ("an answer to no question", Box::new(|_| Put::message(61).u32(1).string("x"))),
        ("a count of answers that lies", Box::new(|_| Put::message(61).u32(u32::MAX))),
        ("a name of 200,000 bytes", Box::new(|_| ask(&"n".repeat(200_000), "none"))),
        (
            "a name that is no text",
            Box::new(|_| Put::message(msg::USERAUTH_REQUEST).string([0xff; 8]).string("ssh-connection").string("none")),
        ),
    ];
    for (what, request) in &requests {
        let mut peer = ground.stranger();
        peer.ask_service().unwrap();
        let request = request(&peer);
        let _ = peer.send(request);
        // What gets no answer of its own gets this one's.
        let _ = peer.send(ask(user, "none"));
        assert!(!let_in(&mut peer), "{what}");
    }
    // None of it spoils a login that is right.
    let mut peer = ground.stranger();
    peer.prove(user, mallory).unwrap();
    drop(peer);
    closed_sessions(&ground.lab.vault(), 2);
    assert_eq!(ground.lab.vault().of_kind("session").unwrap().len(), 2, "one of ours, one of theirs that was right");
    ground.unharmed("requests", SLACK);
}

#[test]
fn endless_tries_end_and_are_on_record() {
    let ground = Ground::new("");
    let bystander = Bystander::start(&ground);
    for round in 0..pick(5, 500) {
        // Offers, each of a key of its own.
        let mut peer = ground.stranger();
        peer.ask_service().unwrap();
        for number in 0..25 {
            let _ = peer.packets.queue(&offer("mallory+web1", &Key::number(1000 + round * 100 + number)).0);
        }
        must_end("offers", &mut peer);
        // Other ways, under names that change.
        let mut peer = ground.stranger();
        peer.ask_service().unwrap();
        for number in 0..25 {
            let request = ask(&format!("nobody{number}+web1"), "password").bool(false).string("secret");
            let _ = peer.packets.queue(&request.0);
        }
        let seen = must_end("passwords", &mut peer);
        assert!(!seen.contains(&msg::USERAUTH_SUCCESS), "{seen:?}");
        // Proofs, by a key that is somebody else's.
        let mut peer = ground.stranger();
        peer.ask_service().unwrap();
        for number in 0..25 {
            let proof = peer.proof(&format!("nobody{number}+web1"), &ground.bob).unwrap();
            let _ = peer.packets.queue(&proof.0);
        }
        let seen = must_end("proofs", &mut peer);
        assert!(!seen.contains(&msg::USERAUTH_SUCCESS), "{seen:?}");
    }
    bystander.was_unaffected();
    ground.unharmed("tries", SLACK);
    ground.lab.bastion.stop();
    for text in ["too many keys offered", "too many failed attempts"] {
        assert!(control_says(&ground.lab.vault(), "auth", &[text]), "{text}");
    }
}

// Certificates are refused as a whole for now; those that others let in by mistake are refused all the more.
#[test]
fn no_certificate_gets_in() {
    let ground = Ground::new("");
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["ca", "key"] {
        keys::make(&at(name), "ed25519").unwrap();
    }
    let bastion = &ground.lab.bastion;
    // The bastion's own authority signs hosts: a certificate of its making is none for a person.
    let host_ca = bastion.dir.join("keys/ssh_host_ca_ed25519_key");
    let own = at("ca");
    let cases: [(&str, &std::path::Path, &[&str]); 8] = [
        ("a self-made authority", &own, &["-n", "alice,alice+web1", "-V", "-1d:+1d"]),
        ("a host's certificate", &own, &["-h", "-n", "alice,alice+web1", "-V", "-1d:+1d"]),
        ("the bastion's authority for hosts", &host_ca, &["-n", "alice,alice+web1", "-V", "-1d:+1d"]),
        ("a host's, by the bastion", &host_ca, &["-h", "-n", "alice,alice+web1", "-V", "-1d:+1d"]),
        ("no names", &own, &["-V", "-1d:+1d"]),
        ("an unknown critical option", &own, &["-n", "alice", "-O", "critical:nosuch@example.com=1"]),
        ("another address", &own, &["-n", "alice", "-O", "source-address=192.0.2.1/32"]),
        ("expired", &own, &["-n", "alice", "-V", "-2d:-1d"]),
    ];
    let known = ground.lab.client.known_hosts();
    for (what, authority, options) in cases {
        let mut sign = Command::new("ssh-keygen");
        sign.arg("-q").arg("-s").arg(authority).args(["-I", "tests"]).args(options).arg(at("key.pub"));
        run(&mut sign, nothing(), BOUND).unwrap().ok().unwrap();
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"]);
        ssh.arg("-o").arg(format!("UserKnownHostsFile={}", known.display())).arg("-i").arg(at("key"));
        ssh.arg("-o").arg(format!("CertificateFile={}", at("key-cert.pub").display()));
        ssh.args(["-p", &bastion.port.to_string(), "-l", "alice+web1", "127.0.0.1", "echo in"]);
        let done = run(&mut ssh, nothing(), BOUND).unwrap();
        assert_eq!((done.out().as_str(), done.code()), ("", 255), "{what}");
        assert!(done.err().contains("Permission denied (publickey)"), "{what}: {}", done.err());
    }
    // With a key that is known, the certificate is refused all the same; the key alone then does what it always does.
    let alice = at("alice");
    std::fs::copy(ground.lab.identity(), &alice).unwrap();
    std::fs::copy(keys::public_path(&ground.lab.identity()), keys::public_path(&alice)).unwrap();
    let mut sign = Command::new("ssh-keygen");
    sign.args(["-q", "-I", "tests", "-n", "alice,alice+web1", "-V", "-1d:+1d", "-s"])
        .arg(&own)
        .arg(keys::public_path(&alice));
    run(&mut sign, nothing(), BOUND).unwrap().ok().unwrap();
    let certificate = format!("CertificateFile={}", at("alice-cert.pub").display());
    let done = ground.lab.exec_with(Route::Through, &["-o", &certificate], "echo in", nothing()).unwrap();
    assert_eq!((done.out().as_str(), done.code()), ("in\n", 0), "{}", done.err());
    ground.unharmed("certificates", SLACK);
    ground.lab.bastion.stop();
    let vault = ground.lab.vault();
    assert!(control_says(&vault, "auth", &["publickey-cert", "certificates are not accepted"]));
    assert_eq!(vault.of_kind("session").unwrap().len(), 3, "none but ours");
}

// T-SSH-13: arithmetic on numbers of the peer's choice is paid by us.
#[test]
fn giant_keys_are_refused_before_anybody_calculates_with_them() {
    let ground = Ground::new("");
    let bystander = Bystander::start(&ground);
    let pid = ground.lab.bastion.process.pid;
    let (start, cpu) = (Instant::now(), cpu_seconds(pid));
    for (bits, exponent) in [(16_384usize, 3usize), (65_536, 3), (1 << 20, 3), (16_384, 2048), (8, 3), (0, 0)] {
        let blob = Put::default().string("ssh-rsa").mpint(&vec![0x81; exponent]).mpint(&vec![0xf1; bits / 8]).0;
        let signature = Put::default().string("rsa-sha2-512").string(vec![0x55; bits / 8]).0;
        for _ in 0..pick(5, 100) {
            let mut peer = ground.stranger();
            peer.ask_service().unwrap();
            let request = |signed| ask("mallory+web1", "publickey").bool(signed).string("rsa-sha2-512").string(&blob);
            let _ = peer.send(request(false));
            let _ = peer.send(request(true).string(&signature));
            let _ = peer.send(ask("mallory+web1", "none"));
            assert!(!let_in(&mut peer), "{bits} bits");
        }
    }
    let (took, cpu) = (start.elapsed(), cpu_seconds(pid) - cpu);
    eprintln!("giant keys: {took:?}, {cpu:.2} s of CPU");
    assert!(took < Duration::from_secs(pick(10, 200)), "{took:?}");
    bystander.was_unaffected();
    ground.unharmed("giant keys", SLACK + 4 * MIB);
}

// T-AUTH-01: whatever was offered, and by whatever name, the one who signed is the one who is in.
#[test]
fn whoever_signed_is_who_it_was() {
    let ground = Ground::new("");
    let people = [("mallory", &ground.mallory), ("bob", &ground.bob)];
    let mut expected = BTreeMap::new();
    for offered in [None, Some(0), Some(1)] {
        for first_name in 0..2 {
            for second_name in 0..2 {
                for signer in 0..2 {
                    let mut peer = ground.stranger();
                    peer.ask_service().unwrap();
                    if let Some(offered) = offered {
                        let name: (&str, &Key) = people[first_name];
                        peer.send(offer(&format!("{}+web1", name.0), people[offered].1)).unwrap();
                        peer.expect(&[msg::USERAUTH_PK_OK, msg::USERAUTH_FAILURE]).unwrap();
                    }
                    let proof = peer.proof(&format!("{}+web1", people[second_name].0), people[signer].1).unwrap();
                    peer.send(proof).unwrap();
                    assert_eq!(
                        let_in(&mut peer),
                        second_name == signer,
                        "{offered:?} {first_name} {second_name} {signer}"
                    );
                    if second_name == signer {
                        *expected.entry(people[signer].0).or_insert(0) += 1;
                        say_who(&mut peer, people[signer].0);
                    }
                }
            }
        }
    }
    check_persons(&ground, &expected);
}

/// Runs a command that names the person, so that the record can be compared with itself.
fn say_who(peer: &mut Peer, name: &str) {
    let channel = peer.open(0, 1 << 20, 1 << 15).unwrap();
    peer.exec(channel, &format!("echo this is {name}")).unwrap();
    assert_eq!(peer.read_to_close(channel).unwrap(), format!("this is {name}\n").as_bytes());
}

fn check_persons(ground: &Ground, expected: &BTreeMap<&str, usize>) {
    let total = expected.values().sum::<usize>() + 1;
    let vault = ground.lab.vault();
    vault.settle(total, Duration::from_secs(60)).unwrap();
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for session in vault.of_kind("session").unwrap() {
        let person = session["person"].as_str().unwrap().to_owned();
        let transcript = vault.transcript(session["session"].as_str().unwrap()).unwrap();
        if person != "alice" {
            assert!(
                transcript.says("ssh.exec", &format!("echo this is {person}\"")),
                "{person}: {:?}",
                transcript.events
            );
            assert_eq!(transcript.bytes("ssh.out"), format!("this is {person}\n").as_bytes());
        }
        *found.entry(person).or_default() += 1;
    }
    found.remove("alice");
    let found: BTreeMap<&str, usize> = found.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!(found, *expected);
}

// T-ISO-02.
#[test]
fn logins_of_two_people_that_interleave_never_cross() {
    let ground = Ground::new("");
    let pairs = pick(5, 125);
    let work = || {
        for _ in 0..pairs {
            let mut peers = [Peer::dial(ground.port()).unwrap(), Peer::dial(ground.port()).unwrap()];
            let people = [("mallory", &ground.mallory), ("bob", &ground.bob)];
            for peer in &mut peers {
                peer.exchange_keys(&Lists::default()).unwrap();
            }
            // Each step of one between two steps of the other; each offers the other's key first.
            for (peer, other) in peers.iter_mut().zip([1, 0]) {
                peer.ask_service().unwrap();
                peer.send(offer(&format!("{}+web1", people[other].0), people[other].1)).unwrap();
            }
            for (peer, person) in peers.iter_mut().zip(people) {
                peer.expect(&[msg::USERAUTH_PK_OK]).unwrap();
                let proof = peer.proof(&format!("{}+web1", person.0), person.1).unwrap();
                peer.send(proof).unwrap();
            }
            for (peer, (name, _)) in peers.iter_mut().zip(people) {
                assert!(let_in(peer), "{name}");
                say_who(peer, name);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(work);
        }
    });
    let each = 4 * pairs;
    check_persons(&ground, &BTreeMap::from([("mallory", each), ("bob", each)]));
}

// T-AUTH-04: the time of an answer must not tell whether there is such a person. Two samples of the same times differ by this
// much (Kolmogorov and Smirnov) once in ten thousand runs, in the long form once in a hundred.
#[test]
fn the_time_of_a_refusal_tells_nothing_about_the_name() {
    let ground = Ground::new("");
    let stranger = Key::number(99);
    let tries = pick(300, 10_000);
    let alpha: f64 = pick(0.000_1, 0.01);
    let mut times = [Vec::new(), Vec::new()];
    let mut peer = ground.stranger();
    peer.ask_service().unwrap();
    let mut asked = 0;
    for round in 0..tries {
        // Neither name is always the first.
        for half in [round % 2, (round + 1) % 2] {
            if asked == 18 {
                peer = ground.stranger();
                peer.ask_service().unwrap();
                asked = 0;
            }
            let name = ["bob+web1", "xyz+web1"][half];
            let request = offer(name, &stranger);
            let start = Instant::now();
            peer.send(request).unwrap();
            peer.expect(&[msg::USERAUTH_FAILURE]).unwrap();
            times[half].push(start.elapsed());
            asked += 1;
        }
    }
    let mut all: Vec<(Duration, usize)> =
        times.iter().enumerate().flat_map(|(half, times)| times.iter().map(move |time| (*time, half))).collect();
    all.sort();
    let (mut seen, mut apart) = ([0i64; 2], 0);
    for (_, half) in &all {
        seen[*half] += 1;
        apart = apart.max((seen[0] - seen[1]).abs());
    }
    let statistic = apart as f64 / tries as f64;
    let critical = (-(alpha / 2.0).ln() / tries as f64).sqrt();
    eprintln!("{tries} tries a name: the samples are {statistic:.4} apart, {critical:.4} would say something");
    assert!(statistic < critical, "a name can be told by the time of its refusal: {statistic:.4} of {critical:.4}");
}

// Whoever can connect writes into the daemon's own record: not as much as they like, and no gap.
#[test]
fn long_names_leave_short_records() {
    let ground = Ground::new("");
    // The last makes the longest message that is taken at all.
    for len in [1_000, 130_000, 262_100] {
        for number in 0..3 {
            let mut peer = ground.stranger();
            peer.ask_service().unwrap();
            let name = format!("long{number}{}", "n".repeat(len));
            let _ = peer.send(ask(&name, "password").bool(false).string(""));
            let_in(&mut peer);
            // Once as what is refused, and once as what the connection leaves with.
            let mut peer = ground.stranger();
            peer.ask_service().unwrap();
            let _ = peer.send(offer(&name[..name.len().min(262_000)], &ground.bob));
            let_in(&mut peer);
        }
    }
    ground.unharmed("long names", SLACK);
    ground.lab.bastion.stop();
    let vault = ground.lab.vault();
    let control = vault.of_kind("control").unwrap().remove(0);
    let transcript = vault.transcript(control["session"].as_str().unwrap()).unwrap();
    assert_eq!(transcript.of("gap").count(), 0, "a stranger made a gap in the record");
    let auths: Vec<String> = transcript.of("auth").map(ToString::to_string).filter(|it| it.contains("long")).collect();
    assert!(auths.len() >= 12, "{} of them are on record", auths.len());
    let longest = auths.iter().map(String::len).max().unwrap();
    assert!(longest <= 4096, "{longest} bytes for one refused login");
    vault.verify(&[]).unwrap().unaltered().unwrap();
}
