//! Strangers who guess cancel keys, beside a session that works.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use casemate_tests::noise::Noise;
use casemate_tests::pg_client::Access;
use casemate_tests::raw_pg::RawPg;
use casemate_tests::raw_pg::message::cancel_request;

use super::course::{Course, Way};
use crate::{Plan, median, quantile, say};

/// Requests per second, and the threads that they come from.
const PER_SECOND: u32 = 1000;
const THREADS: u32 = 4;

/// What a storm of cancel requests with wrong keys costs a session that works, and what of that is the storm's own: as many
/// connections to a port where they are only read and closed.
pub(crate) fn cancels(plan: &Plan, noise: &mut Noise) -> Result<()> {
    let course = Course::start(&[Way::Process])?;
    let access = course.access(Way::Process)?;
    let elsewhere = Access { port: close_all()?, ..access.clone() };
    let mut client = RawPg::login(&access)?;
    let (mut quiet, mut aside, mut storm, mut sent) = (Vec::new(), Vec::new(), Vec::new(), [0; 2]);
    for round in 0..=plan.runs {
        let calm = p99(&mut client, plan)?;
        let (beside, closed) = beside_storm(&elsewhere, noise, || p99(&mut client, plan));
        let (rough, count) = beside_storm(&access, noise, || p99(&mut client, plan));
        if round > 0 {
            quiet.push(calm);
            aside.push(beside?);
            storm.push(rough?);
            sent = [sent[0] + count, sent[1] + closed];
        }
    }
    let [cancels, closes] = sent.map(|count| count as f64 / (plan.runs.max(1) as f64 * plan.seconds as f64));
    let (quiet, aside, storm) = (median(&quiet), median(&aside), median(&storm));
    let above = |rough: f64| (rough / quiet - 1.0) * 100.0;
    say(&format!(
        "{:<28} process: query p99 {quiet:.3} ms alone, {storm:.3} ms beside {cancels:.0} cancels/s: {:+.0} % \
         ({aside:.3} ms, {:+.0} %, beside {closes:.0} to a port that only closes)",
        "pg cancel storm",
        above(storm),
        above(aside)
    ))
}

/// Asks small queries for the time of a measure, one after the other. Returns their 99th percentile in milliseconds.
fn p99(client: &mut RawPg, plan: &Plan) -> Result<f64> {
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < Duration::from_secs(plan.seconds) {
        let start = Instant::now();
        client.query("select 1")?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(quantile(&times, 0.99))
}

/// Does something while a storm blows. Returns what came of it, and how many requests there were.
fn beside_storm<T>(access: &Access, noise: &mut Noise, act: impl FnOnce() -> T) -> (T, u64) {
    let stop = AtomicBool::new(false);
    let seed = noise.below(u64::MAX);
    std::thread::scope(|scope| {
        let stop = &stop;
        let storm = |thread| move || guess(access, seed ^ u64::from(thread), PER_SECOND / THREADS, stop);
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(storm(thread))).collect();
        let done = act();
        stop.store(true, Ordering::Relaxed);
        (done, threads.into_iter().map(|thread| thread.join().unwrap_or(0)).sum())
    })
}

/// Opens a port where every connection is closed as soon as something was said, for as long as this process lives.
fn close_all() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // However it went, it is closed.
            let _ = stream.read(&mut [0; 64]);
        }
    });
    Ok(port)
}

/// Sends cancel requests with guessed keys at a pace, and returns how many.
fn guess(access: &Access, seed: u64, per_second: u32, stop: &AtomicBool) -> u64 {
    let mut noise = Noise::new(seed);
    let (start, mut sent) = (Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        let pid = noise.below(1 << 16) as u32;
        // One that is not taken in is one of the storm all the same.
        if let Ok(mut client) = RawPg::open(access) {
            let _ = client.send(&cancel_request(pid, &noise.chunk(4)));
            let _ = client.read_to_end();
        }
        sent += 1;
        let due = Duration::from_secs_f64(sent as f64 / f64::from(per_second));
        std::thread::sleep(due.saturating_sub(start.elapsed()));
    }
    sent
}
