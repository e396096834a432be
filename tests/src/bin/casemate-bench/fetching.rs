//! How fast a bucket is verified, beside reading the same objects bare: each version once, by the same client, as many requests at a
//! time, in a process of its own too. The bucket is Ceph's, in memory, on the same cores, so that what both wait for is mostly the server.

use std::collections::BTreeMap;
use std::io::{Cursor, Write, stdin, stdout};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Result, ensure};
use casemate_certs::trust::{Period, Trust, TrustedNode};
use casemate_certs::vkey::NodePublicKey;
use casemate_recorder::CloseReason;
use casemate_recorder::clock::SystemClock;
use casemate_recorder::transcript::event::Side;
use casemate_recorder::vault::s3::{Bucket, Purpose, Settings, Version};
use casemate_tests::bins;
use casemate_tests::forge::node_key;
use casemate_tests::noise::Noise;
use casemate_tests::process::{nothing, run, wait_until};
use casemate_tests::s3::Login;
use casemate_tests::s3::ceph::OWNER;
use casemate_tests::s3::faults::Seen;
use casemate_tests::scale::MIB;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::shipping::{BUCKET, PATIENCE, Yard, figures, open, put};
use crate::{Plan, median, say, shuffle};

/// As many requests at a time as `casemate-replay` has in flight.
const IN_FLIGHT: usize = 16;

/// What makes this program the one that reads bare.
pub(crate) const BARE: &str = "bare";

/// Sessions of a few commands each: what a bucket is full of.
const SMALL_LEN: u64 = 2000;

/// A few long sessions of random bytes, then many short ones, in vaults of their own.
pub(crate) fn verify(plan: &Plan, noise: &mut Noise) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let yard = runtime.block_on(Yard::new())?;
    for (place, sessions, bytes) in [("long", 8, plan.mib * MIB / 8), ("short", plan.sessions as u64, SMALL_LEN)] {
        runtime.block_on(fill(&yard, place, sessions, bytes, noise))?;
        compare(plan, noise, &runtime, &yard, place)?;
    }
    Ok(())
}

/// Records sessions, one after the other, and has them shipped.
async fn fill(yard: &Yard, place: &str, sessions: u64, bytes: u64, noise: &mut Noise) -> Result<()> {
    let recorder = yard.recorder(place, &yard.server.0.endpoint(), Arc::new(SystemClock))?;
    for _ in 0..sessions {
        let session = open(&recorder).await?;
        let mut left = bytes;
        while left > 0 {
            let chunk = left.min(65_536);
            put(&session, Side::Target, noise.chunk(chunk as usize).into()).await?;
            left -= chunk;
        }
        session.close(CloseReason::Client, Some(0)).await?;
    }
    ensure!(wait_until(PATIENCE, || recorder.figures().unshipped_segments == 0), "not published");
    ensure!(wait_until(PATIENCE, || figures(&recorder).is_ok_and(|now| now.waiting_segments == 0)), "not shipped");
    recorder.shutdown();
    Ok(())
}

fn compare(plan: &Plan, noise: &mut Noise, runtime: &Runtime, yard: &Yard, place: &str) -> Result<()> {
    let straight = yard.server.0.endpoint();
    let all = runtime.block_on(listed(yard, place, &straight))?;
    let bytes: u64 = all.iter().map(|version| version.bytes).sum();
    let names: String = all.iter().map(|version| format!("{} {}\n", version.key, version.id)).collect();
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 0..=plan.runs {
        let mut order = [true, false];
        shuffle(&mut order, noise);
        for verify in order {
            let start = Instant::now();
            if verify {
                replay(yard, place, &straight)?;
            } else {
                let mut command = Command::new(std::env::current_exe()?);
                let done =
                    run(reader(command.args([BARE, place]), &straight), Cursor::new(names.clone()), PATIENCE)?.ok()?;
                ensure!(done.out() == bytes.to_string(), "{} of {bytes} bytes were read", done.out());
            }
            if round > 0 {
                if verify { &mut ours } else { &mut bare }.push(start.elapsed().as_secs_f64());
            }
        }
    }
    // Once more through a relay that counts; it would have slowed down what is measured.
    let before = yard.faults.seen().len();
    replay(yard, place, &yard.faults.endpoint())?;
    let requests = counted(yard.faults.seen().get(before..).unwrap_or_default());
    let rate = |seconds: &[f64]| bytes as f64 / 1e9 / median(seconds);
    say(&format!(
        "verify-s3, {place:<12} {} MB in {} objects: {:.3} s, {:.3} GB/s; bare {:.3} s, {:.3} GB/s: {:.2} of it; requests: {requests}",
        bytes / 1_000_000,
        all.len(),
        median(&ours),
        rate(&ours),
        median(&bare),
        rate(&bare),
        rate(&ours) / rate(&bare),
    ))
}

/// Verifies the vault as an auditor does, in a process of its own.
fn replay(yard: &Yard, place: &str, endpoint: &str) -> Result<()> {
    let name = Yard::node(place);
    let key = NodePublicKey::new(&name, node_key(&name).verifying_key())?;
    let trust = Trust::self_asserted(None, vec![TrustedNode { key, period: Period::ALWAYS }]);
    let file = yard.dir.path().join(format!("{place}.toml"));
    std::fs::write(&file, trust.to_text())?;
    let mut command = Command::new(bins::path("casemate-replay")?);
    command.args(["verify", &format!("s3://{BUCKET}/{place}"), "--trust"]).arg(&file);
    let done = run(reader(&mut command, endpoint), nothing(), PATIENCE)?;
    // Nobody signed the trust file; everything else is in order.
    ensure!(done.code() == 4 && !done.out().contains("altered or missing:"), "{}{}", done.out(), done.err());
    Ok(())
}

/// A process that reads the bucket, with what every tool of Amazon's reads.
fn reader<'a>(command: &'a mut Command, endpoint: &str) -> &'a mut Command {
    let login = Login::of(OWNER);
    command.env("AWS_ENDPOINT_URL", endpoint).env("AWS_EC2_METADATA_DISABLED", "true");
    command.env("AWS_ACCESS_KEY_ID", &login.access_key).env("AWS_SECRET_ACCESS_KEY", &login.secret_key)
}

async fn listed(yard: &Yard, place: &str, endpoint: &str) -> Result<Vec<Version>> {
    let credentials = yard.dir.path().join("s3.credentials");
    let settings = Settings { endpoint: Some(endpoint.to_owned()), credentials: Some(credentials), ..named(place) };
    let mut all = Vec::new();
    Bucket::open(settings, Purpose::Reading).await?.versions("v1/", &mut |version| all.push(version)).await?;
    // The catalogue is no evidence, and nobody verifies it.
    all.retain(|version| !version.marker && !version.key.starts_with("v1/cat/"));
    Ok(all)
}

fn named(place: &str) -> Settings {
    Settings { bucket: BUCKET.to_owned(), prefix: format!("{place}/"), ..Settings::default() }
}

/// The other process: reads what standard input names once, and says how many bytes that were.
pub(crate) fn bare(place: &str) -> Result<()> {
    let all: Vec<String> = stdin().lines().collect::<Result<_, _>>()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let settings = Settings { endpoint: std::env::var("AWS_ENDPOINT_URL").ok(), ..named(place) };
    let bytes = runtime.block_on(async {
        let bucket = Bucket::open(settings, Purpose::Reading).await?;
        let (all, next) = (Arc::new(all), Arc::new(AtomicUsize::new(0)));
        let mut lanes = JoinSet::new();
        for _ in 0..IN_FLIGHT {
            let (bucket, all, next) = (bucket.clone(), Arc::clone(&all), Arc::clone(&next));
            lanes.spawn(async move {
                let (mut buffer, mut bytes) = (Vec::new(), 0);
                while let Some((key, id)) =
                    all.get(next.fetch_add(1, Ordering::Relaxed)).and_then(|one| one.split_once(' '))
                {
                    bucket.read(key, Some(id), None, u64::MAX, &mut buffer).await?;
                    bytes += buffer.len() as u64;
                }
                anyhow::Ok(bytes)
            });
        }
        lanes.join_all().await.into_iter().sum::<Result<u64>>()
    })?;
    write!(stdout(), "{bytes}")?;
    Ok(())
}

/// How many requests there were, by what they ask for.
fn counted(seen: &[Seen]) -> String {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for request in seen {
        let kind = match request.method.as_str() {
            "GET" if request.query.contains("versions") => "LIST",
            method => method,
        };
        *kinds.entry(kind).or_default() += 1;
    }
    kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ")
}
