//! How fast one session is recorded, by durability and content: `cargo run --release --example throughput [DIR]`.

#![allow(clippy::print_stdout)] // Its output is what it is for.

use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;
use casemate_recorder::transcript::event::{Event, Side, ssh_in, ssh_out};
use casemate_recorder::{CloseReason, Durability, Protocol, Recorder, RecorderConfig, SessionSpec, TranscriptKind};

const MIB: usize = 1024 * 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    for durability in [Durability::Process, Durability::Causal, Durability::Strict] {
        for content in ["zeros", "random"] {
            let dir = tempfile::tempdir_in(&root)?;
            let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
            let config = RecorderConfig::new(dir.path().join("state"), dir.path().join("vault"), "bench".into(), key);
            let recorder = Recorder::start(RecorderConfig { durability, ..config })?;
            runtime.block_on(run(&recorder, durability, content))?;
            recorder.shutdown();
        }
    }
    Ok(())
}

async fn run(recorder: &Recorder, durability: Durability, content: &str) -> Result<(), Box<dyn std::error::Error>> {
    let spec = SessionSpec { kind: TranscriptKind::Session, protocol: Some(Protocol::Ssh), policy_hash: [0; 32] };
    let session = recorder.open_session(spec, Vec::new()).await?;

    // Keystrokes, one after the other: how long a receipt takes.
    let mut waits = Vec::new();
    for _ in 0..2000 {
        let started = Instant::now();
        drop(session.record(Side::Client, Event::stream(ssh_in::TYPE, 0, Bytes::from_static(b"x"))).receipt().await?);
        waits.push(started.elapsed());
    }
    waits.sort_unstable();

    let mut data = vec![0; 32 * 1024];
    if content == "random" {
        getrandom::fill(&mut data)?;
    }
    let data = Bytes::from(data);
    let (total, started, cpu) = (512 * MIB, Instant::now(), cpu_seconds());
    let mut waiting = std::collections::VecDeque::new();
    for _ in 0..total / data.len() {
        waiting.push_back(session.record(Side::Target, Event::stream(ssh_out::TYPE, 0, data.clone())));
        while waiting.len() * data.len() > 4 * MIB {
            if let Some(ticket) = waiting.pop_front() {
                drop(ticket.receipt().await?);
            }
        }
    }
    for ticket in waiting {
        drop(ticket.receipt().await?);
    }
    let recorded = started.elapsed();
    session.close(CloseReason::Client, None).await?;
    let mib = (total / MIB) as f64;
    let p = |share: usize| waits.get(waits.len() * share / 100).map_or(0, |wait| wait.as_micros());
    println!(
        "{:8} {content:7} keystroke p50 {:4} us p99 {:5} us | {:5.0} MiB/s, closed after {:5.2} s, {:4.2} CPU s/GiB",
        durability.name(),
        p(50),
        p(99),
        mib / recorded.as_secs_f64(),
        started.elapsed().as_secs_f64(),
        (cpu_seconds() - cpu) * 1024.0 / mib
    );
    Ok(())
}

/// User and system time of this process; the kernel counts in hundredths.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> = stat.split(' ').skip(13).take(2).filter_map(|field| field.parse().ok()).collect();
    fields.iter().sum::<f64>() / 100.0
}
