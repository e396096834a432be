//! Many who want nothing but to be in the way: half-open connections and wrong logins, and who else gets in meanwhile. They need
//! the machine for themselves, as the rest of this binary does.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use casemate_tests::process::{open_files, rss, wait_until};
use casemate_tests::raw_ssh::{Key, Lists, Peer, Put, Role, msg};
use casemate_tests::rig::{Lab, Options};
use casemate_tests::scale::pick;
use casemate_tests::sshd;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

/// A bastion with the product's own limits for who has not logged in, and somebody with a raw key who may.
fn lab(grace: u64) -> (Lab, Key) {
    let key = Key::number(1);
    let user = sshd::current_user().unwrap();
    let more = format!(
        "[[person]]\nname = \"bob\"\nkeys = [\"{}\"]\nduties = [\"admin\"]\n\
         [[access]]\nperson = \"bob\"\ntargets = [\"web1\"]\nroles = [\"{user}\"]\nreason = \"tests\"\n",
        key.line()
    );
    let limits =
        format!("preauth_per_source = 10\npreauth_global = 10000\nlogin_grace = \"{grace}s\"").parse().unwrap();
    (Lab::with(&Options { more, limits, ..Options::default() }).unwrap(), key)
}

/// Connects from an address of the loopback network: the 127.net.x.y with that number.
fn dial_from(net: u8, number: usize, port: u16) -> std::io::Result<TcpStream> {
    let source = Ipv4Addr::new(127, net, (number >> 8) as u8, number as u8);
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&fd, &SocketAddr::from((source, 0)))?;
    connect(&fd, &SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    Ok(fd.into())
}

/// Logs in from an address of its own and returns how long that took, the greeting and the keys included.
fn login(number: usize, port: u16, key: &Key) -> Duration {
    let start = Instant::now();
    let mut peer = Peer::greet(dial_from(9, number, port).unwrap(), Role::Client).unwrap();
    peer.exchange_keys(&Lists::default()).unwrap();
    peer.prove("bob+web1", key).unwrap();
    start.elapsed()
}

/// Tells others that it is over, also when a test goes wrong: they would go on for ever.
struct OverOnDrop<'a>(&'a AtomicBool);

impl Drop for OverOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The time that 99 of 100 stay below.
fn p99(times: &mut [Duration]) -> Duration {
    times.sort();
    times.get((times.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap()
}

#[test]
fn half_open_connections_cost_little_and_keep_nobody_out() {
    let grace = pick(10, 60);
    let (lab, key) = lab(grace);
    let (pid, port) = (lab.bastion.process.pid, lab.bastion.port);
    for number in 0..5 {
        login(number, port, &key);
    }
    // Descriptors of the sessions just made go first.
    std::thread::sleep(Duration::from_millis(500));
    let files = open_files(pid);
    // This process and the daemon each hold one descriptor a connection, and some for themselves.
    let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let wanted = pick(400, 10_000usize);
    let count = wanted.min(usize::try_from(allowed).unwrap_or(usize::MAX).saturating_sub(600));
    let scaled = format!("{count} of {wanted} connections, {allowed} descriptors are allowed");
    assert!(count >= 400, "{scaled}");

    let begun = Instant::now();
    let mut drips = Vec::new();
    let mut held = Vec::new();
    let mut costs = Vec::new();
    for (kind, name) in ["silent", "banner only", "1 byte/s", "stuck in the exchange"].into_iter().enumerate() {
        let before = rss(pid);
        for number in kind * count / 4..(kind + 1) * count / 4 {
            // Ten from each address: as many as one may have.
            let stream = dial_from(1, number / 10, port).unwrap();
            match kind {
                0 => held.push(stream),
                1 => {
                    (&stream).write_all(b"SSH-2.0-waits\r\n").unwrap();
                    held.push(stream);
                }
                2 => drips.push(stream),
                _ => {
                    let mut peer = Peer::greet(stream, Role::Client).unwrap();
                    peer.send(Put(Lists::default().message())).unwrap();
                    peer.expect(&[msg::KEXINIT]).unwrap();
                    if number % 2 == 0 {
                        // One step further: the answer is calculated, and nobody takes the keys.
                        peer.send(Put::message(msg::ECDH_INIT).string([9; 32])).unwrap();
                        peer.expect(&[msg::ECDH_REPLY]).unwrap();
                    }
                    held.push(peer.packets.stream().try_clone().unwrap());
                }
            }
        }
        wait_until(Duration::from_secs(5), || open_files(pid) >= files + (kind + 1) * count / 4);
        std::thread::sleep(Duration::from_millis(500));
        costs.push((name, rss(pid).saturating_sub(before) * 4 / count as u64 / 1024));
    }
    let opened = open_files(pid).saturating_sub(files);
    eprintln!("{scaled}; {opened} open after {:?}; KiB each: {costs:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(grace), "{scaled}: they were not open at the same time");
    assert!(opened >= count - 5, "{scaled}: {opened} are open");
    for (name, each) in &costs {
        // Promised are 16 KiB while silent and 64 afterwards; a debug build and few connections add to it.
        let promised = if matches!(*name, "silent" | "1 byte/s") { 16 } else { 64 };
        assert!(*each <= promised + pick(16, 0), "{scaled}: {each} KiB for one that is {name}");
    }

    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let ident = b"SSH-2.0-drips-and-drips-and-drips-and-drips-and-drips-and-drips-and-drips";
            for byte in ident.iter().cycle() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                drips.iter().for_each(|mut stream| drop(stream.write_all(&[*byte])));
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        let _over = OverOnDrop(&over);
        let mut times: Vec<_> = (0..pick(50, 300)).map(|number| login(number, port, &key)).collect();
        let (p99, worst) = (p99(&mut times), times.iter().max().copied().unwrap());
        eprintln!("{} logins beside them: p99 {p99:?}, worst {worst:?}", times.len());
        assert!(worst <= Duration::from_secs(grace), "{scaled}: a login took {worst:?}");
        let left = Duration::from_secs(grace).saturating_sub(begun.elapsed()) + Duration::from_secs(10);
        let reaped = wait_until(left, || open_files(pid) <= files + 5);
        assert!(reaped, "{scaled}: {} descriptors, {files} before", open_files(pid));
    });
    eprintln!("all were gone {:?} after the first came", begun.elapsed());
    assert!(lab.bastion.process.alive() && !lab.bastion.log().contains("panicked"), "{}", lab.bastion.log());
    drop(held);
}

#[test]
fn wrong_logins_lock_nobody_else_out() {
    let grace = 20;
    let (lab, key) = lab(grace);
    let (pid, port) = (lab.bastion.process.pid, lab.bastion.port);
    login(0, port, &key);
    let before = rss(pid);
    let (a_second, seconds) = (pick(20, 100), pick(3, 60));
    let (over, wrong) = (AtomicBool::new(false), AtomicUsize::new(0));
    let threads = 4;
    let mut times = std::thread::scope(|scope| {
        for thread in 0..threads {
            let (over, wrong) = (&over, &wrong);
            scope.spawn(move || {
                let stranger = Key::number(1000 + thread as u64);
                let start = Instant::now();
                for round in 0.. {
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                    // From ever other addresses, at an even pace.
                    let stream = dial_from(2, round * threads + thread, port).unwrap();
                    let mut peer = Peer::greet(stream, Role::Client).unwrap();
                    peer.exchange_keys(&Lists::default()).unwrap();
                    assert!(peer.prove("bob+web1", &stranger).is_err(), "a stranger got in");
                    wrong.fetch_add(1, Ordering::SeqCst);
                    let next = Duration::from_secs_f64((round + 1) as f64 * threads as f64 / a_second as f64);
                    std::thread::sleep(next.saturating_sub(start.elapsed()));
                }
            });
        }
        let _over = OverOnDrop(&over);
        // One address has all the places that it may have, and does nothing with them.
        let full: Vec<_> = (0..10).map(|_| dial_from(3, 1, port).unwrap()).collect();
        // Its eleventh is sent away at once, and its neighbour is let in.
        let eleventh = Peer::greet(dial_from(3, 1, port).unwrap(), Role::Client);
        assert!(eleventh.is_err(), "eleven from one address");
        assert!(Peer::greet(dial_from(3, 2, port).unwrap(), Role::Client).is_ok(), "a neighbour is locked out");
        let (mut times, start) = (Vec::new(), Instant::now());
        while start.elapsed() < Duration::from_secs(seconds) {
            times.push(login(times.len() % 4000, port, &key));
            std::thread::sleep(Duration::from_millis(100));
        }
        drop(full);
        times
    });
    let (wrong, worst) = (wrong.load(Ordering::SeqCst), times.iter().max().copied().unwrap());
    eprintln!("{wrong} wrong logins; {} right ones, p99 {:?}, worst {worst:?}", times.len(), p99(&mut times));
    assert!(wrong as u64 >= a_second * seconds / 2, "{wrong} wrong logins are too few to say anything");
    assert!(worst <= Duration::from_secs(grace), "a login took {worst:?}");
    let grown = rss(pid).saturating_sub(before) / 1024;
    assert!(grown <= 32 * 1024, "{grown} KiB stay of {wrong} wrong logins");
    lab.bastion.stop();
    let vault = lab.vault();
    let control = vault.of_kind("control").unwrap();
    let transcript = vault.transcript(control.first().and_then(|it| it.get("session")?.as_str()).unwrap()).unwrap();
    let refused = transcript.of("auth").filter(|event| event.to_string().contains("1 keys offered")).count();
    assert!(refused >= wrong.min(200), "{refused} of {wrong} refusals are on record");
    // Beyond that they are counted.
    assert!(
        wrong < 1000
            || transcript.says("refused", "a flood of refused logins")
            || transcript.says("ssh.refused", "a flood")
    );
}
