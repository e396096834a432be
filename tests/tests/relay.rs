//! The relay under load: back-pressure without deadlock, bounded memory, order at the end, nothing left behind. Where it
//! matters, also inside a jump, where each byte passes the bastion's SSH twice on its way to the client.
//!
//! Sizes are small in `make test` and those of the acceptance list in `make soak`.

// A test that goes wrong is to stop on the spot, helpers included.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "relay/hostile.rs"]
mod hostile;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use casemate_tests::client::Route;
use casemate_tests::noise::Noise;
use casemate_tests::process::{nothing, open_files, rss, run, wait_until, within};
use casemate_tests::raw_ssh::HostileTarget;
use casemate_tests::rig::{Lab, Options, login};
use casemate_tests::scale::{MIB, pick};
use casemate_tests::sshd::{Guard, Sshd};

const PATIENCE: Duration = Duration::from_secs(600);

fn peer() -> String {
    casemate_tests::bins::path("casemate-peer").unwrap().display().to_string()
}

fn hash_of(seed: u64, bytes: u64) -> blake3::Hash {
    let mut hash = blake3::Hasher::new();
    std::io::copy(&mut Noise::new(seed).take_bytes(bytes), &mut hash).unwrap();
    hash.finalize()
}

/// Reads to the end, and returns how much came and its hash; nothing is kept.
fn digest(mut from: impl Read) -> (u64, blake3::Hash) {
    let mut hash = blake3::Hasher::new();
    let bytes = std::io::copy(&mut from, &mut hash).unwrap();
    (bytes, hash.finalize())
}

/// Watches the bastion's memory while something runs, and returns the most it held.
fn peak_rss<T>(lab: &Lab, work: impl FnOnce() -> T) -> (T, u64) {
    let done = std::sync::atomic::AtomicBool::new(false);
    let pid = lab.bastion.process.pid;
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut peak = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                peak = peak.max(rss(pid));
                std::thread::sleep(Duration::from_millis(20));
            }
            peak
        });
        let result = work();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        (result, watcher.join().unwrap())
    })
}

fn duplex_cat_does_not_deadlock(route: Route) {
    let lab = Lab::start().unwrap();
    let bytes = pick(24, 200) * MIB;
    let mut ssh = lab.client.ssh(route, &[]).arg("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut to = ssh.stdin.take().unwrap();
    let writer = std::thread::spawn(move || std::io::copy(&mut Noise::new(1).take_bytes(bytes), &mut to).unwrap());
    assert_eq!(digest(ssh.stdout.take().unwrap()), (bytes, hash_of(1, bytes)));
    writer.join().unwrap();
    assert!(ssh.wait().unwrap().success());
}

#[test]
fn duplex_cat_does_not_deadlock_through() {
    duplex_cat_does_not_deadlock(Route::Through);
}

#[test]
fn duplex_cat_does_not_deadlock_inside() {
    duplex_cat_does_not_deadlock(Route::Inside);
}

fn a_stalled_channel_stalls_no_other(route: Route) {
    let lab = Lab::start().unwrap();
    let socket = lab.dir.join("mux");
    let path = format!("ControlPath={}", socket.display());
    let mut master = lab.client.ssh(route, &["-o", &path, "-o", "ControlMaster=yes", "-N"]).spawn().unwrap();
    assert!(wait_until(Duration::from_secs(30), || socket.exists()));
    let options = ["-o", path.as_str()];
    // A download that nobody reads, and an upload that nobody takes.
    let mut down = lab.client.ssh(route, &options).arg("cat /dev/zero").stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let bytes = pick(4, 64) * MIB;
    for _ in 0..3 {
        let start = Instant::now();
        let done = lab.exec_with(route, &options, &format!("{} source {bytes} 9", peer()), nothing()).unwrap();
        assert_eq!(blake3::hash(&done.stdout), hash_of(9, bytes));
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    }
    let mut up = lab.client.ssh(route, &options).arg("sleep 600").stdin(Stdio::piped()).spawn().unwrap();
    let mut to = up.stdin.take().unwrap();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut Noise::new(2), &mut to);
    });
    std::thread::sleep(Duration::from_secs(2));
    for _ in 0..3 {
        let done = lab.exec_with(route, &options, &format!("{} source {bytes} 9", peer()), nothing()).unwrap();
        assert_eq!(blake3::hash(&done.stdout), hash_of(9, bytes));
    }
    // The stalled download is alive: what it was sent so far is still to be had.
    let mut some = vec![1; 1 << 20];
    down.stdout.take().unwrap().read_exact(&mut some).unwrap();
    assert!(some.iter().all(|byte| *byte == 0));
    for child in [&mut down, &mut up, &mut master] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn a_stalled_channel_stalls_no_other_through() {
    a_stalled_channel_stalls_no_other(Route::Through);
}

#[test]
fn a_stalled_channel_stalls_no_other_inside() {
    a_stalled_channel_stalls_no_other(Route::Inside);
}

fn slow_readers_cost_bounded_memory(route: Route) {
    let lab = Lab::start().unwrap();
    lab.exec(route, "true").unwrap();
    let before = rss(lab.bastion.process.pid);
    let bytes = pick(96, 2048) * MIB;
    let bound = 32 * MIB;
    let nothing_for = Duration::from_secs(pick(3, 12));

    // A client that reads nothing at first, while the target has much to say.
    let ((), peak) = peak_rss(&lab, || {
        let mut ssh = lab.client.ssh(route, &[]);
        let mut child = ssh.arg(format!("{} source {bytes} 4", peer())).stdout(Stdio::piped()).spawn().unwrap();
        let mut from = child.stdout.take().unwrap();
        std::thread::sleep(nothing_for);
        assert_eq!(digest(&mut from), (bytes, hash_of(4, bytes)));
        assert!(child.wait().unwrap().success());
    });
    let grown = peak.saturating_sub(before);
    eprintln!("slow client: {} MiB more than at rest, at {} MiB transferred", grown / MIB, bytes / MIB);
    within("a slow client", grown, bound, bytes).unwrap();

    // A target that takes nothing at first, while the client has much to send.
    let (done, peak) = peak_rss(&lab, || {
        let command = format!("sleep {}; exec {} sink", nothing_for.as_secs(), peer());
        run(lab.client.ssh(route, &[]).arg(command), Noise::new(6).take_bytes(bytes), PATIENCE).unwrap()
    });
    assert_eq!(done.out(), format!("{bytes} {}\n", hash_of(6, bytes).to_hex()));
    let grown = peak.saturating_sub(before);
    eprintln!("slow target: {} MiB more than at rest, at {} MiB transferred", grown / MIB, bytes / MIB);
    within("a slow target", grown, bound, bytes).unwrap();
}

#[test]
fn slow_readers_cost_bounded_memory_through() {
    slow_readers_cost_bounded_memory(Route::Through);
}

#[test]
fn slow_readers_cost_bounded_memory_inside() {
    slow_readers_cost_bounded_memory(Route::Inside);
}

#[test]
fn sftp_at_default_depth_goes_through() {
    let lab = Lab::start().unwrap();
    let bytes = pick(64, 512) * MIB;
    let file = lab.dir.join("large");
    std::io::copy(&mut Noise::new(8).take_bytes(bytes), &mut fs::File::create(&file).unwrap()).unwrap();
    let (got, put) = (lab.dir.join("got"), lab.dir.join("put"));
    for batch in
        [format!("get {} {}\n", file.display(), got.display()), format!("put {} {}\n", file.display(), put.display())]
    {
        let mut sftp = lab.client.program("sftp");
        run(sftp.args(["-q", "-b", "-", "through"]), std::io::Cursor::new(batch), PATIENCE).unwrap().ok().unwrap();
    }
    for path in [got, put] {
        assert_eq!(digest(fs::File::open(&path).unwrap()), (bytes, hash_of(8, bytes)), "{}", path.display());
    }
}

// It asks for everything at once and reads answers only when it has asked: the peer that holds its reads deadlocks.
#[test]
fn paramiko_get_goes_through() {
    let lab = Lab::start().unwrap();
    let bytes = pick(48, 512) * MIB;
    let (file, got) = (lab.dir.join("large"), lab.dir.join("got"));
    std::io::copy(&mut Noise::new(9).take_bytes(bytes), &mut fs::File::create(&file).unwrap()).unwrap();
    let script = r#"
import sys, paramiko
port, user, key, remote, local = sys.argv[1:]
client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
client.connect("127.0.0.1", int(port), user, key_filename=key, allow_agent=False, look_for_keys=False)
sftp = client.open_sftp()
sftp.get(remote, local)
client.close()
"#;
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", script, &lab.bastion.port.to_string(), &login()]).arg(lab.identity()).arg(&file).arg(&got);
    run(&mut python, nothing(), PATIENCE).unwrap().ok().unwrap();
    assert_eq!(digest(fs::File::open(&got).unwrap()), (bytes, hash_of(9, bytes)));
}

fn keys_can_change_every_mebibyte(route: Route) {
    let lab = Lab::with(&Options { sshd: "RekeyLimit 1M".to_owned(), ..Options::default() }).unwrap();
    let bytes = pick(24, 1024) * MIB;
    let options = ["-o", "RekeyLimit=1M"];
    let mut ssh = lab.client.ssh(route, &options);
    let mut child = ssh.arg(format!("{} source {bytes} 5", peer())).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(digest(child.stdout.take().unwrap()), (bytes, hash_of(5, bytes)));
    assert!(child.wait().unwrap().success());
    let command = format!("{} sink", peer());
    let input = Noise::new(5).take_bytes(bytes);
    let done = run(lab.client.ssh(route, &options).arg(command), input, PATIENCE).unwrap();
    assert_eq!(done.out(), format!("{bytes} {}\n", hash_of(5, bytes).to_hex()));
}

#[test]
fn keys_can_change_every_mebibyte_through() {
    keys_can_change_every_mebibyte(Route::Through);
}

#[test]
fn keys_can_change_every_mebibyte_inside() {
    keys_can_change_every_mebibyte(Route::Inside);
}

// The target may send the exit status before the last data (notes on OpenSSH's order): it must not cut the tail.
#[test]
fn the_exit_status_comes_after_the_whole_tail() {
    let lab = Lab::start().unwrap();
    let (out, err) = (9 * MIB, MIB);
    for round in 0..pick(15, 1000) {
        let status = round % 256;
        let done = lab.exec(Route::Through, &format!("{} flood {out} {err} {status}", peer())).unwrap();
        assert_eq!(
            (done.stdout.len() as u64, done.stderr.len() as u64, done.code()),
            (out, err, status),
            "round {round}"
        );
    }
}

/// What a daemon holds at rest.
fn at_rest(lab: &Lab) -> (u64, usize) {
    (rss(lab.bastion.process.pid), open_files(lab.bastion.process.pid))
}

fn a_writer_that_waits_goes_away_with_its_peer(route: Route) {
    let lab = Lab::start().unwrap();
    let rounds = pick(6, 50);
    let mut at_rest_after = Vec::new();
    for round in 0..rounds + 2 {
        // The client goes while the target has more to say than anybody reads.
        let mut child = lab.client.ssh(route, &[]).arg("cat /dev/zero").stdout(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(700));
        child.kill().unwrap();
        child.wait().unwrap();
        // The target goes while the client has more to send than anybody takes.
        let mut ssh = lab.client.ssh(route, &[]);
        let mut child = ssh.arg(format!("exec {} deaf 1", peer())).stdin(Stdio::piped()).spawn().unwrap();
        let mut to = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || {
            let chunk = vec![7; 1 << 20];
            for _ in 0..64 {
                if to.write_all(&chunk).is_err() {
                    break;
                }
            }
        });
        let ended = wait_until(Duration::from_secs(30), || matches!(child.try_wait(), Ok(Some(_))));
        assert!(ended, "round {round}: the client does not learn that the target's process ended");
        writer.join().unwrap();
        assert!(wait_until(Duration::from_secs(20), || {
            lab.vault()
                .of_kind("session")
                .unwrap()
                .iter()
                .all(|session| session.get("status").is_some_and(|status| status != "open"))
        }));
        // Two rounds to warm up: allocators and logs reach their size.
        if round >= 1 {
            at_rest_after.push(at_rest(&lab));
        }
    }
    eprintln!("at rest after each round: {at_rest_after:?}");
    let (first, last) = (at_rest_after.first().unwrap(), at_rest_after.last().unwrap());
    assert!(last.1 <= first.1 + 4, "descriptors stay open: {at_rest_after:?}");
    assert!(last.0 <= first.0 + 48 * MIB, "memory stays in use: {at_rest_after:?}");
    assert!(
        lab.target.process.descendants().is_empty()
            || wait_until(Duration::from_secs(10), || lab.target.process.descendants().is_empty())
    );
}

#[test]
fn a_writer_that_waits_goes_away_with_its_peer_through() {
    a_writer_that_waits_goes_away_with_its_peer(Route::Through);
}

#[test]
fn a_writer_that_waits_goes_away_with_its_peer_inside() {
    a_writer_that_waits_goes_away_with_its_peer(Route::Inside);
}

/// A target hears something from the bastion at least this often; twice what the product promises.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// Has a client read a little of what a target says, and the rest when something else is done: meanwhile queues fill all the way to
/// the target. All must arrive.
fn stall<T>(mut ssh: Command, meanwhile: impl FnOnce() -> T) -> T {
    let bytes = 32 * MIB;
    let mut child = ssh.arg(format!("{} source {bytes} 3", peer())).stdout(Stdio::piped()).spawn().unwrap();
    let mut from = child.stdout.take().unwrap();
    let (mut first, mut hash) = (vec![0; 64 * 1024], blake3::Hasher::new());
    from.read_exact(&mut first).unwrap();
    hash.update(&first);
    let result = meanwhile();
    std::io::copy(&mut from, &mut hash).unwrap();
    assert_eq!(hash.finalize(), hash_of(3, bytes));
    assert!(child.wait().unwrap().success());
    result
}

/// Leads each connection on to an sshd, and notes when the bastion said something.
fn overheard(sshd: u16, heard: &Arc<Mutex<Vec<Instant>>>) -> HostileTarget {
    let heard = Arc::clone(heard);
    HostileTarget::start(move |mut bastion| {
        let mut target = TcpStream::connect(("127.0.0.1", sshd))?;
        let (mut back, mut out) = (target.try_clone()?, bastion.try_clone()?);
        std::thread::spawn(move || std::io::copy(&mut back, &mut out));
        let mut buffer = [0; 16 * 1024];
        while let len @ 1.. = bastion.read(&mut buffer)? {
            heard.lock().unwrap().push(Instant::now());
            target.write_all(buffer.get(..len).unwrap_or_default())?;
        }
        Ok(())
    })
    .unwrap()
}

/// What a target asks lies behind what it says, and that is not read while the client reads nothing. So the bastion must speak
/// unasked: sshd with `ClientAliveInterval` gives up on whoever is silent.
#[test]
fn a_target_hears_from_a_bastion_whose_client_stalls() {
    let dir = tempfile::tempdir().unwrap();
    let sshd = Guard(Sshd::start(dir.path(), None, "").unwrap());
    let heard = Arc::default();
    let between = overheard(sshd.0.port, &heard);
    let user = &sshd.0.user;
    let more = format!(
        "[[target]]\nname = \"far\"\naddress = \"127.0.0.1:{}\"\nkind = \"ssh\"\nhost_keys = [{:?}]\n\
         [[target.role]]\nlogin = {user:?}\nkey_file = {:?}\n\
         [[access]]\nperson = \"alice\"\ntargets = [\"far\"]\nroles = [{user:?}]\nreason = \"tests\"\n",
        between.port,
        sshd.0.host_key().unwrap(),
        sshd.0.identity().display().to_string(),
    );
    let lab = Lab::with(&Options { more, ..Options::default() }).unwrap();
    let silence = stall(lab.client.ssh(Route::Through, &["-l", "alice+far"]), || {
        let stalled = Instant::now();
        std::thread::sleep(2 * SIGN_OF_LIFE);
        let said = heard.lock().unwrap().clone();
        let times: Vec<_> = said.into_iter().filter(|time| *time > stalled).chain([Instant::now()]).collect();
        times.iter().zip([stalled].iter().chain(&times)).map(|(next, time)| *next - *time).max().unwrap()
    });
    assert!(silence < SIGN_OF_LIFE, "silent for {silence:?}");
}

#[test]
fn a_target_that_asks_for_signs_of_life_keeps_a_stalled_session() {
    let sshd = "ClientAliveInterval 2\nClientAliveCountMax 3".to_owned();
    let lab = Lab::with(&Options { sshd, ..Options::default() }).unwrap();
    stall(lab.client.ssh(Route::Through, &[]), || std::thread::sleep(Duration::from_secs(20)));
}
