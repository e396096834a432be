//! Acceptance 2: S3 is down for an hour while twenty sessions work. Nobody notices, nothing is lost, nothing is there twice, and
//! what waited is caught up with at least twice as fast as it came together.
//!
//! The hour's traffic, about 1 MiB a session as it is stored, is squeezed into a minute or so. The first test has the recorder alone, on
//! clocks that run fast, so that there are as many segments and heartbeats as in an hour; the second the daemon with ssh, on the
//! machine's own.

use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use casemate_certs::trust::Period;
use casemate_recorder::Recorder;
use casemate_recorder::clock::{Clock, SystemClock};
use casemate_recorder::transcript::Stamp;
use casemate_recorder::transcript::event::{Event, Side, ssh_in, ssh_out};
use casemate_recorder::vault::s3::Checksum;
use casemate_tests::client::{Client, Route};
use casemate_tests::clocks::Hasty;
use casemate_tests::forge::node_key;
use casemate_tests::noise::Noise;
use casemate_tests::officer as desk;
use casemate_tests::process::wait_until;
use casemate_tests::rig::{self, Lab, Options};
use casemate_tests::s3::ceph::{self, Ceph, OWNER};
use casemate_tests::s3::faults::Faults;
use casemate_tests::s3::{Login, blocking, make_bucket, versions};
use casemate_tests::scale::{MIB, pick, soak};
use casemate_tests::scrape::Scrape;
use casemate_tests::sshd::free_port;

use super::node::{BUCKET, NODE, PATIENCE, Place, close, figures, holds_all, open, wait_shipped};
use super::verify::Shelf;
use crate::officer;

const SESSIONS: u64 = 20;

/// What a busy session-hour comes to, in bytes as they are stored.
const HOUR_BYTES: u64 = MIB;

/// How often a session writes in its hour.
const WRITES: u64 = 360;

/// Before the outage, in it, and after it.
const PHASES: [&str; 3] = ["before", "during", "after"];
const OVER: usize = PHASES.len();

/// In which phase everything is.
#[derive(Debug, Clone, Default)]
struct Phase(Arc<AtomicUsize>);

impl Phase {
    fn now(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn next(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// How long things took, by phase.
#[derive(Debug, Default)]
struct Times([Vec<Duration>; 3]);

impl Times {
    fn add(&mut self, phase: usize, time: Duration) {
        self.0[phase.min(OVER - 1)].push(time);
    }

    fn merge(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(all, more)| all.extend(more));
    }

    fn tell(&mut self, what: &str) {
        for (phase, times) in PHASES.iter().zip(&mut self.0) {
            times.sort_unstable();
            let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
            let (middle, worst) = (at(0.5).as_secs_f64() * 1e3, at(0.99).as_secs_f64() * 1e3);
            eprintln!("{what} {phase}: p50 {middle:.1} ms, p99 {worst:.1} ms ({})", times.len());
        }
    }
}

/// How the backlog grew and went.
struct Backlog {
    bytes: u64,
    segments: u64,
    outage: Duration,
    drained: Duration,
}

impl Backlog {
    fn tell(&self) {
        let rate = |time: Duration| self.bytes as f64 / 1024.0 / time.as_secs_f64();
        eprintln!(
            "{} segments, {} KiB came together in {:.1} s ({:.0} KiB/s) and were gone {:.1} s after the vault was back ({:.0} KiB/s): \
             {:.1} times as fast",
            self.segments,
            self.bytes / 1024,
            self.outage.as_secs_f64(),
            rate(self.outage),
            self.drained.as_secs_f64(),
            rate(self.drained),
            self.outage.as_secs_f64() / self.drained.as_secs_f64()
        );
    }

    /// Promised is twice; short forms have too little to catch up with for a ratio to mean anything.
    fn is_caught_up_with(&self) {
        assert!(!soak() || self.drained * 2 <= self.outage, "{:?} after {:?}", self.drained, self.outage);
    }
}

/// A session of the recorder: something typed and something shown, again and again, until all is over.
async fn busy(recorder: Recorder, seed: u64, every: Duration, phase: Phase) -> (u64, Times) {
    let session = open(&recorder).await;
    let (mut noise, mut times) = (Noise::new(seed), Times::default());
    let mut tick = tokio::time::interval(every);
    while phase.now() < OVER {
        tick.tick().await;
        let begun = Instant::now();
        let typed = Event::stream(ssh_in::TYPE, 0, Bytes::from_static(b"typed\r"));
        drop(session.record(Side::Client, typed).receipt().await.unwrap());
        let shown = Event::stream(ssh_out::TYPE, 0, noise.chunk((HOUR_BYTES / WRITES) as usize).into());
        drop(session.record(Side::Target, shown).receipt().await.unwrap());
        times.add(phase.now(), begun.elapsed());
    }
    (close(session).await, times)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_together_in_an_hour_is_caught_up_with_and_nothing_is_there_twice() {
    let hour = Duration::from_secs(pick(6, 90));
    let dir = tempfile::tempdir().unwrap();
    let server = ceph::Guard(Ceph::start(&dir.path().join("s3"), &ceph::Options::default()).unwrap());
    let straight = server.client(OWNER);
    make_bucket(&straight, BUCKET).await.unwrap();
    let faults = Faults::before(server.port).unwrap();
    let mut place = Place::new(dir.path(), &faults.endpoint(), BUCKET, Checksum::Md5);
    place.settings.profile = Some(OWNER.to_owned());
    // Minutes of the hour: the short form has six of them. They lie behind, so that nothing recorded in them is from the future.
    let haste = 60 * pick(6, 60) / hour.as_secs();
    let now = SystemClock.now();
    let begins = Stamp { wall_us: now.wall_us - 3 * 3_600_000_000, ..now };
    let clock: Arc<dyn Clock> = Arc::new(Hasty::new(begins, haste));
    place.clock = Arc::clone(&clock);
    let recorder = place.start().unwrap();
    let phase = Phase::default();
    let mut sessions = tokio::task::JoinSet::new();
    for seed in 0..SESSIONS {
        sessions.spawn(busy(recorder.clone(), seed, hour / pick(36, WRITES as u32), phase.clone()));
    }
    tokio::time::sleep(hour / 6).await;

    faults.refuse_connections().unwrap();
    let away = Instant::now();
    phase.next();
    tokio::time::sleep(hour).await;
    let waiting = figures(&recorder);
    let outage = away.elapsed();
    phase.next();
    let back_us = clock.now().wall_us;
    faults.take_connections().unwrap();
    let back = Instant::now();
    // The sessions go on: gone is what waited by then.
    let caught_up = || figures(&recorder).oldest_us.is_none_or(|oldest_us| oldest_us > back_us);
    assert!(wait_until(hour.max(PATIENCE), caught_up), "{:?}", figures(&recorder));
    let (bytes, segments, drained) = (waiting.waiting_bytes, waiting.waiting_segments, back.elapsed());
    let backlog = Backlog { bytes, segments, outage, drained };
    tokio::time::sleep(hour / 6).await;
    phase.next();
    let (mut closed, mut receipts) = (0, Times::default());
    while let Some(done) = sessions.join_next().await {
        let (size, times) = done.unwrap();
        closed = closed.max(size);
        receipts.merge(times);
    }
    assert!(wait_shipped(&recorder, closed, PATIENCE), "{:?}", figures(&recorder));
    assert!(recorder.frozen().is_none());
    recorder.shutdown();
    backlog.tell();
    receipts.tell("receipts");

    holds_all(&place, &straight, BUCKET, 0).await;
    let mut trust = officer::trust(dir.path(), vec![officer::node(NODE, &node_key(NODE), Period::ALWAYS)]);
    trust.anchor_age_max = Some(Duration::from_secs(86_400));
    let file = dir.path().join("trust.toml");
    officer::write(&file, &trust);
    officer::sign(&file);
    let shelf = Shelf { client: straight, endpoint: server.endpoint(), login: Login::of(OWNER) };
    let verdict = shelf.verify_at(&format!("s3://{BUCKET}"), &file, &[]);
    let every = (&verdict.last["clean"], &verdict.last["opened"]);
    let unclean: Vec<_> = verdict.sessions.iter().filter(|session| session["status"] != "clean").collect();
    let all = (SESSIONS + 1).into();
    assert_eq!((verdict.code, every), (0, (&all, &all)), "{unclean:?} {}", verdict.last);
    backlog.is_caught_up_with();
}

/// What a person saw who worked all the time.
struct Worked {
    sent: Vec<u8>,
    times: Times,
}

/// A person who sends bytes through `cat` at the target, again and again, and waits for each to come back.
fn work(client: &Client, seed: u64, len: usize, every: Duration, phase: Phase) -> JoinHandle<Worked> {
    let mut ssh = client.ssh(Route::Through, &[]);
    ssh.arg("exec cat").stdin(Stdio::piped()).stdout(Stdio::piped());
    std::thread::spawn(move || {
        let mut child = ssh.spawn().unwrap();
        let (mut to, mut from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (mut noise, mut sent, mut times) = (Noise::new(seed), Vec::new(), Times::default());
        while phase.now() < OVER {
            let begun = Instant::now();
            let chunk = noise.chunk(len);
            to.write_all(&chunk).unwrap();
            let mut echo = vec![0; len];
            from.read_exact(&mut echo).unwrap();
            assert!(echo == chunk, "something else came back");
            times.add(phase.now(), begun.elapsed());
            sent.extend(chunk);
            std::thread::sleep(every.saturating_sub(begun.elapsed()));
        }
        drop(to);
        assert_eq!(from.read_to_end(&mut Vec::new()).unwrap(), 0);
        assert!(child.wait().unwrap().success());
        Worked { sent, times }
    })
}

/// Logs in again and again, as often as that at least, and until it is `enough`.
fn log_in(lab: &Lab, times: &mut Times, phase: usize, enough: impl Fn() -> bool) -> u64 {
    let least = pick(5, 100);
    let mut count = 0;
    while count < least || !enough() {
        let begun = Instant::now();
        assert_eq!(lab.exec(Route::Through, "true").unwrap().code(), 0);
        times.add(phase, begun.elapsed());
        count += 1;
    }
    count
}

#[test]
fn nobody_notices_an_hour_without_the_vault() {
    let hour = Duration::from_secs(pick(6, 90));
    let port = free_port().unwrap();
    let listen = format!("metrics = [\"127.0.0.1:{port}\"]").parse::<toml::Table>().unwrap();
    let settings = [("listen".to_owned(), listen.into())].into_iter().collect();
    let mut lab = Lab::with(&Options { s3: true, settings, ..Options::default() }).unwrap();
    let faults = lab.rig.spoil_bucket().unwrap();
    let figure = move |name: &str| Scrape::of(port).unwrap().sum(name);

    let phase = Phase::default();
    // Half of it is sent and half comes back.
    let (len, every) = ((HOUR_BYTES / WRITES / 2) as usize, hour / pick(36, WRITES as u32));
    let workers: Vec<_> = (0..SESSIONS).map(|seed| work(&lab.client, seed, len, every, phase.clone())).collect();
    assert!(wait_until(PATIENCE, || figure("casemate_sessions_live") >= SESSIONS as f64), "{}", lab.bastion.log());
    let (mut logins, mut count) = (Times::default(), 0);
    count += log_in(&lab, &mut logins, 0, || true);

    faults.refuse_connections().unwrap();
    let away = Instant::now();
    phase.next();
    count += log_in(&lab, &mut logins, 1, || away.elapsed() >= hour);
    // What the last minute held is in no finished segment yet, and waits for nothing.
    let outage = away.elapsed();
    let (bytes, segments) = (figure("casemate_vault_waiting_bytes"), figure("casemate_vault_waiting_segments"));
    assert!(segments > 0.0 && figure("casemate_vault_failures_total") > 0.0);
    phase.next();
    let returned = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    faults.take_connections().unwrap();
    let back = Instant::now();
    let draining = std::thread::spawn(move || {
        let oldest = || figure("casemate_vault_waiting_since_seconds");
        assert!(wait_until(PATIENCE, || !(1.0..=returned).contains(&oldest())), "{}", oldest());
        back.elapsed()
    });
    count += log_in(&lab, &mut logins, 2, || draining.is_finished());
    let backlog = Backlog { bytes: bytes as u64, segments: segments as u64, outage, drained: draining.join().unwrap() };
    phase.next();
    let (mut echoes, mut sent) = (Times::default(), Vec::new());
    for worker in workers {
        let worked = worker.join().unwrap();
        echoes.merge(worked.times);
        sent.push(worked.sent);
    }
    backlog.tell();
    logins.tell("logins");
    echoes.tell("echoes");

    let trust_dir = tempfile::tempdir().unwrap();
    let rules = "anchor_age_max = \"1d\"\nretain_min = \"1d\"";
    let trust = desk::vouch(&lab.bastion, trust_dir.path(), rules).unwrap();
    let bucket = casemate_tests::vault::Vault { trust, ..lab.bucket().unwrap() };
    let all = || bucket.verify(&[]).is_ok_and(|verdict| verdict.exit == 0 && verdict.term("clean") >= count + SESSIONS);
    assert!(wait_until(PATIENCE, all), "{:?}\n{}", bucket.verify(&[]).unwrap().summary, lab.bastion.log());
    let owner = lab.s3().unwrap().client(OWNER);
    let found = blocking(async { versions(&owner, rig::BUCKET, "v1/").await }).unwrap();
    let mut names: Vec<_> = found.iter().map(|version| version.key().unwrap()).collect();
    names.sort_unstable();
    let before = names.len();
    names.dedup();
    assert_eq!(names.len(), before, "second versions");
    // What came back to whom is what lies in the bucket, to the last byte.
    let large =
        bucket.ls().unwrap().into_iter().filter(|line| line["bytes"].as_u64().is_some_and(|bytes| bytes >= len as u64));
    let mut kept: Vec<_> = large
        .map(|line| bucket.transcript(line["session"].as_str().unwrap()).unwrap())
        .map(|transcript| (transcript.bytes("ssh.in"), transcript.bytes("ssh.out")))
        .collect();
    let mut sent: Vec<_> = sent.into_iter().map(|bytes| (bytes.clone(), bytes)).collect();
    kept.sort_unstable();
    sent.sort_unstable();
    assert!(kept == sent, "{} sessions in the bucket, {} at their clients", kept.len(), sent.len());
    eprintln!("{} sessions in the bucket are clean, {} objects, none of them twice", count + SESSIONS, names.len());
    backlog.is_caught_up_with();
}
