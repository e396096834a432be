//! Sound vaults, made by the real recorder: a few sessions of a few events each.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use casemate_certs::trust::{Authority, Board, Officer, OfficerKey, Period, Trust, TrustedNode};
use casemate_certs::vkey::NodePublicKey;
use casemate_recorder::clock::{Clock, SystemClock};
use casemate_recorder::transcript::Stamp;
use casemate_recorder::transcript::event::{Event, Side, exec, exit, grant, identity, ssh_in, ssh_out};
use casemate_recorder::transcript::wrap::Identity;
use casemate_recorder::{CloseReason, Protocol, Recorder, RecorderConfig, Session, SessionSpec, TranscriptKind};
use casemate_tests::forge::{newest_note, node_key};
use casemate_tests::process::{nothing, run};
use casemate_tests::{keys, vectors};
use ed25519_dalek::SigningKey;

/// An hour, in microseconds.
pub(crate) const HOUR_US: u64 = 3_600_000_000;

/// When the first vault begins: 2026-11-02T08:00:00Z.
const START_US: u64 = 1_793_606_400_000_000;

/// A sound vault, on its way into `vaults/`.
#[derive(Debug, Clone)]
pub(crate) struct Sound {
    /// Its name under `vaults/`.
    pub(crate) name: &'static str,
    /// Where it lies, with the trust file and the kept checkpoint.
    pub(crate) dir: PathBuf,
    /// The sessions of people, in the order of opening.
    pub(crate) sessions: Vec<String>,
    /// The slips that they got at their end.
    pub(crate) slips: Vec<String>,
    /// When it was recorded, to the end.
    pub(crate) now_us: u64,
    /// The key of the officer who signs trust files.
    pub(crate) officer: PathBuf,
}

/// The clocks of a machine that live in the past, and jump when they are told to.
#[derive(Debug)]
struct Past {
    back_us: AtomicU64,
    boot_us: u64,
}

impl Past {
    fn new() -> Self {
        let now = SystemClock.now();
        Self { back_us: AtomicU64::new(now.wall_us.saturating_sub(START_US)), boot_us: now.boot_us }
    }

    fn jump(&self, us: u64) {
        self.back_us.fetch_sub(us, Ordering::SeqCst);
    }
}

impl Clock for Past {
    fn now(&self) -> Stamp {
        let now = SystemClock.now();
        let wall_us = now.wall_us.saturating_sub(self.back_us.load(Ordering::SeqCst));
        Stamp { wall_us, boot_us: (self.boot_us + wall_us).saturating_sub(START_US) }
    }
}

/// A node that records.
struct Node {
    dir: tempfile::TempDir,
    clock: Arc<Past>,
    recorder: Recorder,
    name: &'static str,
}

impl Node {
    fn start(name: &'static str) -> Result<Self> {
        Self::with(name, tempfile::tempdir()?, Duration::from_secs(900), false)
    }

    fn with(name: &'static str, dir: tempfile::TempDir, segment_age: Duration, encrypted: bool) -> Result<Self> {
        let clock = Arc::new(Past::new());
        let (state, vault) = (dir.path().join("state"), dir.path().join("vault"));
        let config = RecorderConfig {
            clock: Arc::<Past>::clone(&clock),
            segment_age,
            recipients: encrypted.then(|| Identity::generate().recipient()).into_iter().collect(),
            ..RecorderConfig::new(state, vault, name.to_owned(), node_key(name))
        };
        Ok(Self { recorder: Recorder::start(config)?, dir, clock, name })
    }

    async fn open(&self) -> Result<Session> {
        let spec = SessionSpec { kind: TranscriptKind::Session, protocol: Some(Protocol::Ssh), policy_hash: [0; 32] };
        let opening = vec![
            Event::map(identity::TYPE, 0).with(identity::PERSON, "alice"),
            Event::map(grant::TYPE, 0).with(grant::TARGET, "web1").with(grant::ROLE, "root"),
        ];
        Ok(self.recorder.open_session(spec, opening).await?)
    }

    /// Records a short session and returns its id and slip.
    async fn session(&self, text: &'static str) -> Result<(String, String)> {
        let session = self.open().await?;
        put(&session, Side::Client, Event::map(exec::TYPE, 0).with(exec::COMMAND, b"uptime".as_slice())).await?;
        put(&session, Side::Client, Event::stream(ssh_in::TYPE, 0, Bytes::from_static(b"typed\r"))).await?;
        put(&session, Side::Target, Event::stream(ssh_out::TYPE, 0, Bytes::from_static(text.as_bytes()))).await?;
        // The log sees the session while it is live.
        session.slip().await?;
        put(&session, Side::Target, Event::map(exit::TYPE, 0).with(exit::STATUS, 0u32)).await?;
        let id = session.id().to_string();
        Ok((id, session.close(CloseReason::Client, Some(0)).await?.to_string()))
    }

    fn settled(&self, segments: usize) -> Result<()> {
        let begun = Instant::now();
        let vault = self.dir.path().join("vault");
        while vectors::files(&vault).unwrap_or_default().iter().filter(|file| file.ends_with(".seg")).count() < segments
        {
            ensure!(begun.elapsed() < Duration::from_secs(10), "the vault does not fill");
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(1200));
        Ok(())
    }

    /// Ends the node and takes its vault.
    fn stop(self) -> (tempfile::TempDir, u64) {
        self.recorder.shutdown();
        (self.dir, self.clock.now().wall_us)
    }
}

async fn put(session: &Session, side: Side, event: Event) -> Result<()> {
    let receipt = session.record(side, event).receipt().await?;
    drop(receipt.into_bytes());
    Ok(())
}

/// Makes a trust file that lists these nodes from the beginning of time, for one officer to sign.
pub(crate) fn trust(nodes: &[(&str, SigningKey)], officer: &Path) -> Result<Trust> {
    let officer = Officer {
        name: "Ada Lovelace".to_owned(),
        key: OfficerKey::parse(&keys::public_line(officer)?)?,
        period: Period { from_us: START_US - HOUR_US, until_us: None },
    };
    let board = Board {
        organisation: "Example Bank".to_owned(),
        issued_us: START_US - HOUR_US,
        quorum: 1,
        officers: vec![officer],
    };
    let nodes = nodes.iter().map(|(name, key)| {
        Ok(TrustedNode { key: NodePublicKey::new(name, key.verifying_key())?, period: Period::ALWAYS })
    });
    let nodes = nodes.collect::<Result<_>>()?;
    Ok(Trust { authority: Authority::Officers(board), ..Trust::self_asserted(None, nodes) })
}

/// Signs a trust file as an officer does.
pub(crate) fn sign(file: &Path, officer: &Path) -> Result<()> {
    let _ = std::fs::remove_file(file.with_extension("toml.sig"));
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-Y", "sign", "-n", "casemate-trust-v1", "-f"]).arg(officer).arg(file);
    run(&mut command, nothing(), Duration::from_secs(60))?.ok().map(drop)
}

/// Where vaults are put together.
pub(crate) struct Shelf {
    /// Its directory: `vaults/`.
    pub(crate) dir: PathBuf,
    /// The key of the officer who signs trust files.
    pub(crate) officer: PathBuf,
}

impl Shelf {
    /// Puts a vault on the shelf, with a trust file, and `kept.note` beside it: what an auditor took home.
    fn add(&self, name: &'static str, vaults: &[&Path], nodes: &[&'static str], found: Found) -> Result<Sound> {
        let dir = self.dir.join(name);
        for vault in vaults {
            vectors::copy(vault, &dir.join("vault"))?;
        }
        let keys: Vec<_> = nodes.iter().map(|node| (*node, node_key(node))).collect();
        vectors::write(&dir.join("trust.toml"), trust(&keys, &self.officer)?.to_text().as_bytes())?;
        sign(&dir.join("trust.toml"), &self.officer)?;
        for node in nodes {
            let kept = if *node == "node-1" { "kept.note".to_owned() } else { format!("kept-{node}.note") };
            vectors::write(&dir.join(kept), &std::fs::read(dir.join(newest_note(&dir, node)?))?)?;
        }
        let (sessions, slips) = found.sessions.into_iter().unzip();
        Ok(Sound { name, dir, sessions, slips, now_us: found.now_us, officer: self.officer.clone() })
    }
}

/// What was recorded.
struct Found {
    sessions: Vec<(String, String)>,
    now_us: u64,
}

/// Three closed sessions, the first of them hours before the others.
pub(crate) async fn three(shelf: &Shelf, name: &'static str, text: &'static str) -> Result<Sound> {
    let node = Node::start("node-1")?;
    let mut sessions = vec![node.session(text).await?];
    node.clock.jump(3 * HOUR_US);
    sessions.push(node.session("second\n").await?);
    sessions.push(node.session("third\n").await?);
    let (dir, now_us) = node.stop();
    shelf.add(name, &[&dir.path().join("vault")], &["node-1"], Found { sessions, now_us })
}

/// One session: what a log holds that was begun anew.
pub(crate) async fn one(shelf: &Shelf, name: &'static str) -> Result<Sound> {
    let node = Node::start("node-1")?;
    let sessions = vec![node.session("another life\n").await?];
    let (dir, now_us) = node.stop();
    shelf.add(name, &[&dir.path().join("vault")], &["node-1"], Found { sessions, now_us })
}

/// Two nodes that share a vault.
pub(crate) async fn two_nodes(shelf: &Shelf) -> Result<Sound> {
    let (mut dirs, mut sessions, mut last_us) = (Vec::new(), Vec::new(), 0);
    for name in ["node-1", "node-2"] {
        let node = Node::start(name)?;
        sessions.push(node.session("of two\n").await?);
        let (dir, now_us) = node.stop();
        dirs.push(dir);
        last_us = now_us;
    }
    let vaults: Vec<_> = dirs.iter().map(|dir| dir.path().join("vault")).collect();
    let vaults: Vec<_> = vaults.iter().map(PathBuf::as_path).collect();
    shelf.add("two-nodes", &vaults, &["node-1", "node-2"], Found { sessions, now_us: last_us })
}

/// An encrypted session of several segments, which rolled because time went by.
pub(crate) async fn long(shelf: &Shelf) -> Result<Sound> {
    let node = Node::with("node-1", tempfile::tempdir()?, Duration::from_secs(60), true)?;
    let session = node.open().await?;
    for step in 0..3 {
        put(&session, Side::Target, Event::stream(ssh_out::TYPE, 0, Bytes::from(format!("part {step}\n")))).await?;
        session.slip().await?;
        node.clock.jump(HOUR_US / 2);
        std::thread::sleep(Duration::from_millis(1200));
    }
    let found = (session.id().to_string(), session.close(CloseReason::Target, Some(0)).await?.to_string());
    let (dir, now_us) = node.stop();
    ensure!(vectors::files(dir.path())?.iter().filter(|file| file.contains(&found.0)).count() > 3, "it did not roll");
    shelf.add("long", &[&dir.path().join("vault")], &["node-1"], Found { sessions: vec![found], now_us })
}

/// An encrypted vault as it is while a session is live, and as it is after that session's node was killed and started again.
pub(crate) async fn live_and_recovered(shelf: &Shelf) -> Result<[Sound; 2]> {
    let node = Node::with("node-1", tempfile::tempdir()?, Duration::from_secs(900), true)?;
    let closed = node.session("closed\n").await?;
    let session = node.open().await?;
    put(&session, Side::Client, Event::stream(ssh_in::TYPE, 0, Bytes::from_static(b"to be cut\r"))).await?;
    let slip = session.slip().await?.to_string();
    put(&session, Side::Target, Event::stream(ssh_out::TYPE, 0, Bytes::from_static(b"not in a block\n"))).await?;
    let sessions = vec![closed, (session.id().to_string(), slip)];
    node.settled(1)?;
    let killed = tempfile::tempdir()?;
    vectors::copy(node.dir.path(), killed.path())?;
    let found = Found { sessions: sessions.clone(), now_us: node.clock.now().wall_us };
    let live = shelf.add("live", &[&killed.path().join("vault")], &[node.name], found)?;
    let next = Node::with("node-1", killed, Duration::from_secs(900), true)?;
    next.settled(3)?;
    let (dir, now_us) = next.stop();
    let vault = dir.path().join("vault");
    let recovered = shelf.add("recovered", &[&vault], &["node-1"], Found { sessions, now_us })?;
    node.stop();
    Ok([live, recovered])
}
