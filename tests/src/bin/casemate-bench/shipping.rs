//! What it takes to get recordings into a bucket. The bucket is Ceph's, in memory, on the same cores.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use casemate_recorder::clock::{Clock, SystemClock};
use casemate_recorder::transcript::event::{Event, Side, ssh_in, ssh_out};
use casemate_recorder::vault::s3::{Checksum, Settings};
use casemate_recorder::{
    CloseReason, Protocol, Recorder, RecorderConfig, RemoteFigures, Session, SessionSpec, TranscriptKind,
};
use casemate_tests::clocks::Hasty;
use casemate_tests::forge::node_key;
use casemate_tests::noise::Noise;
use casemate_tests::process::wait_until;
use casemate_tests::s3::ceph::{self, Ceph, OWNER};
use casemate_tests::s3::faults::Faults;
use casemate_tests::s3::{Login, credentials_file, make_bucket};
use casemate_tests::scale::MIB;

use crate::{Plan, median, quantile, say};

pub(crate) const BUCKET: &str = "casemate";
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// How many times faster the clocks of the typical hour run.
const HASTE: u64 = 20;

/// A bucket, and recorders that ship there.
pub(crate) struct Yard {
    pub(crate) server: ceph::Guard,
    pub(crate) faults: Faults,
    pub(crate) dir: tempfile::TempDir,
}

impl Yard {
    pub(crate) async fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let server = ceph::Guard(Ceph::start(&dir.path().join("s3"), &ceph::Options::default())?);
        make_bucket(&server.0.client(OWNER), BUCKET).await?;
        std::fs::write(dir.path().join("s3.credentials"), credentials_file(&[Login::of(OWNER)]))?;
        let faults = Faults::before(server.0.port)?;
        Ok(Self { server, faults, dir })
    }

    /// Starts a recorder whose vault in the bucket has that place as its prefix.
    pub(crate) fn recorder(&self, place: &str, endpoint: &str, clock: Arc<dyn Clock>) -> Result<Recorder> {
        let home = self.dir.path().join(place);
        std::fs::create_dir_all(&home)?;
        let settings = Settings {
            name: "ceph".to_owned(),
            bucket: BUCKET.to_owned(),
            prefix: format!("{place}/"),
            endpoint: Some(endpoint.to_owned()),
            checksum: Checksum::Md5,
            credentials: Some(self.dir.path().join("s3.credentials")),
            ..Settings::default()
        };
        let node = Self::node(place);
        Ok(Recorder::start(RecorderConfig {
            remotes: vec![settings],
            segment_age: Duration::from_secs(60),
            clock,
            ..RecorderConfig::new(home.join("state"), home.join("vault"), node.clone(), node_key(&node))
        })?)
    }

    /// A node of its own each time: a bucket that knows a log would not take another of the same name.
    pub(crate) fn node(place: &str) -> String {
        format!("bench-{place}")
    }
}

/// Time to a locked object, throughput of what waited, and what a typical session puts in an hour.
pub(crate) fn ship(plan: &Plan, noise: &mut Noise) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let yard = runtime.block_on(Yard::new())?;
    let straight = format!("http://127.0.0.1:{}", yard.server.0.port);
    runtime.block_on(latency(plan, &yard, &straight))?;
    runtime.block_on(throughput(plan, noise, &yard))?;
    runtime.block_on(hour(&yard, &straight))
}

/// From the last byte of a session that closes to its object, locked and read back.
async fn latency(plan: &Plan, yard: &Yard, endpoint: &str) -> Result<()> {
    let recorder = yard.recorder("latency", endpoint, Arc::new(SystemClock))?;
    let mut times = Vec::new();
    for _ in 0..plan.runs * 10 {
        let session = open(&recorder).await?;
        put(&session, Side::Target, Bytes::from_static(&[b'x'; 2000])).await?;
        let begun = Instant::now();
        let before = figures(&recorder)?.puts;
        session.close(CloseReason::Client, Some(0)).await?;
        let stored = || figures(&recorder).is_ok_and(|now| now.puts > before && now.waiting_segments == 0);
        ensure!(wait_until(PATIENCE, stored), "not stored: {:?}", figures(&recorder));
        times.push(begun.elapsed().as_secs_f64());
    }
    recorder.shutdown();
    let (middle, worst) = (median(&times), quantile(&times, 0.99));
    say(&format!(
        "close to locked object p50 {middle:.2} s, p99 {worst:.2} s ({} sessions); a live session's byte waits for its segment \
         besides, at most 60 s",
        times.len()
    ))
}

/// How fast what waited while the bucket was away gets there.
async fn throughput(plan: &Plan, noise: &mut Noise, yard: &Yard) -> Result<()> {
    let mut rates = Vec::new();
    for run in 0..plan.runs {
        yard.faults.refuse_connections()?;
        let recorder = yard.recorder(&format!("throughput-{run}"), &yard.faults.endpoint(), Arc::new(SystemClock))?;
        for _ in 0..8 {
            let session = open(&recorder).await?;
            for _ in 0..plan.mib * MIB / 8 / 65_536 {
                put(&session, Side::Target, noise.chunk(65_536).into()).await?;
            }
            session.close(CloseReason::Client, Some(0)).await?;
        }
        ensure!(wait_until(PATIENCE, || recorder.figures().unshipped_segments == 0), "not published");
        let waiting = figures(&recorder)?.waiting_bytes;
        yard.faults.take_connections()?;
        ensure!(wait_until(PATIENCE, || figures(&recorder).is_ok_and(|now| now.puts > 0)), "nothing goes");
        let begun = Instant::now();
        ensure!(wait_until(PATIENCE, || figures(&recorder).is_ok_and(|now| now.waiting_segments == 0)), "not shipped");
        rates.push(waiting as f64 / MIB as f64 / begun.elapsed().as_secs_f64());
        recorder.shutdown();
    }
    say(&format!("shipping what waited    {:.0} MiB/s (Ceph and a relay before it on the same cores)", median(&rates)))
}

/// Requests and bytes of a session of half an hour, a screen of output every ten seconds, on clocks that run fast.
async fn hour(yard: &Yard, endpoint: &str) -> Result<()> {
    let clock = Arc::new(Hasty::new(SystemClock.now(), HASTE));
    let recorder = yard.recorder("hour", endpoint, Arc::<Hasty>::clone(&clock))?;
    ensure!(wait_until(PATIENCE, || figures(&recorder).is_ok_and(|now| now.log_size > 0)), "no contact");
    let before = figures(&recorder)?;
    let screen = Bytes::from(Noise::new(1).chunk(500));
    let session = open(&recorder).await?;
    let begun = clock.now().boot_us;
    while clock.now().boot_us - begun < 1_800_000_000 {
        put(&session, Side::Client, Bytes::from_static(b"ls\r")).await?;
        put(&session, Side::Target, screen.clone()).await?;
        tokio::time::sleep(Duration::from_secs(10) / HASTE as u32).await;
    }
    let after = figures(&recorder)?;
    session.close(CloseReason::Client, Some(0)).await?;
    recorder.shutdown();
    let (puts, bytes) = (2 * (after.puts - before.puts), 2 * (after.put_bytes - before.put_bytes));
    say(&format!(
        "an hour of one session  {puts} PUT requests, {} KiB stored, the log's checkpoints among them",
        bytes / 1024
    ))
}

pub(crate) async fn open(recorder: &Recorder) -> Result<Session> {
    let spec = SessionSpec { kind: TranscriptKind::Session, protocol: Some(Protocol::Ssh), policy_hash: [0; 32] };
    Ok(recorder.open_session(spec, Vec::new()).await?)
}

pub(crate) async fn put(session: &Session, side: Side, bytes: Bytes) -> Result<()> {
    let kind = if side == Side::Client { ssh_in::TYPE } else { ssh_out::TYPE };
    drop(session.record(side, Event::stream(kind, 0, bytes)).receipt().await?);
    Ok(())
}

pub(crate) fn figures(recorder: &Recorder) -> Result<RemoteFigures> {
    recorder.remotes().into_iter().next().context("no vault elsewhere")
}
