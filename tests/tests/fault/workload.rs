//! What is recorded, and a log of our own of what was forwarded when.
//!
//! A byte counts as forwarded when its receipt is in hand. The log's time is the number of operations that the disk had
//! done by then: a receipt with time t was there before the operation after t began.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use casemate_recorder::transcript::event::{Event, Side, pty, ssh_in, ssh_out};
use casemate_recorder::{
    CloseReason, Frozen, Protocol, Recorder, Session, SessionId, SessionSpec, Slip, TranscriptKind,
};
use casemate_tests::disk::{Call, Disk, Operation};
use casemate_tests::noise::Noise;
use tokio::task::JoinSet;

use crate::world::{PATIENCE, World};

const SPEC: SessionSpec =
    SessionSpec { kind: TranscriptKind::Session, protocol: Some(Protocol::Ssh), policy_hash: [7; 32] };

/// Bytes per side of a session: what the client sent, what the target sent.
pub(crate) type Lens = [usize; 2];

/// A receipt that was handed out.
#[derive(Debug, Clone)]
pub(crate) struct Forward {
    pub(crate) session: SessionId,
    pub(crate) side: Side,
    /// All bytes of this side up to and with these.
    pub(crate) upto: usize,
    pub(crate) time: u64,
    /// What had been forwarded on the node, and so may have been seen, when this event was recorded.
    pub(crate) before: BTreeMap<SessionId, Lens>,
}

/// A session as its two ends saw it.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// When the session was open.
    pub(crate) opened: u64,
    /// Bytes that the recorder was given, per side.
    pub(crate) recorded: [Vec<u8>; 2],
    /// When its end was in the node log, and the slip that says so.
    pub(crate) closed: Option<(u64, Slip)>,
}

/// Everything that was seen of one run.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) sessions: BTreeMap<SessionId, Told>,
    pub(crate) forwards: Vec<Forward>,
    /// Slips of live sessions.
    pub(crate) slips: Vec<(u64, Slip)>,
    /// Why the recorder did not go on, where it did not.
    pub(crate) frozen: Option<Frozen>,
}

/// Waits for something that must come, whatever the disk does.
async fn told<T>(what: &str, answer: impl Future<Output = T>) -> T {
    let answer = tokio::time::timeout(PATIENCE, answer).await;
    answer.unwrap_or_else(|_| panic!("nobody was told: {what}"))
}

/// One user of the recorder.
struct Driver<'a> {
    world: &'a World,
    disk: &'a Disk,
    recorder: &'a Recorder,
    noise: Noise,
    open: Vec<Session>,
    waiting: JoinSet<Result<Forward, Frozen>>,
    /// Bytes per side that were forwarded so far.
    seen: Arc<Mutex<BTreeMap<SessionId, Lens>>>,
    run: Run,
}

/// Records several sessions until the disk has done that many operations more; ends early where recording cannot go on,
/// after everybody was told.
pub(crate) fn drive(world: &World, disk: &Disk, recorder: &Recorder, seed: u64, operations: u64) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut driver = Driver::new(world, disk, recorder, seed);
    runtime.block_on(async {
        if let Err(frozen) = driver.all_rounds(disk.operations() + operations).await {
            driver.run.frozen = Some(frozen);
            driver.everybody_is_told().await;
        }
        driver.run
    })
}

/// Records a little in one session, then so much in another that the journal's first file is used a second time.
pub(crate) fn turn_over(world: &World, disk: &Disk, recorder: &Recorder, seed: u64) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut driver = Driver::new(world, disk, recorder, seed);
    runtime.block_on(async {
        driver.open_session().await.unwrap();
        for side in [Side::Client, Side::Target, Side::Client] {
            driver.record(0, side, b"typed long ago".to_vec());
        }
        driver.receipts().await.unwrap();
        driver.open_session().await.unwrap();
        let is_reuse = |operation: &Operation| {
            operation.call == Call::Open && operation.path.ends_with("journal/000000000000.jnl")
        };
        while !disk.await_operation(Duration::ZERO, is_reuse) {
            // As large as a block may be that is still written to the journal itself, and alone, so that none gets larger.
            let data = driver.noise.chunk(20_000);
            driver.record(1, Side::Target, data);
            driver.receipts().await.unwrap();
        }
        driver.run
    })
}

impl<'a> Driver<'a> {
    fn new(world: &'a World, disk: &'a Disk, recorder: &'a Recorder, seed: u64) -> Self {
        let noise = Noise::new(seed);
        let (waiting, seen) = (JoinSet::new(), Arc::default());
        Self { world, disk, recorder, noise, open: Vec::new(), waiting, seen, run: Run::default() }
    }

    async fn all_rounds(&mut self, until: u64) -> Result<(), Frozen> {
        for _ in 0..3 {
            self.open_session().await?;
        }
        let mut round = 0;
        while self.disk.operations() < until {
            round += 1;
            self.round();
            match self.noise.below(12) {
                0..4 => self.receipts().await?,
                4 => self.slip().await?,
                5 => {
                    let us = self.noise.below(16_000_000);
                    self.world.clock.advance(us);
                }
                6 if self.open.len() > 1 => self.close_session().await?,
                7 if self.open.len() < 4 => self.open_session().await?,
                _ => {}
            }
            if round % 4 == 3 {
                self.receipts().await?;
            }
        }
        self.receipts().await?;
        // Some sessions end in order, the others with the recorder.
        self.close_session().await
    }

    async fn open_session(&mut self) -> Result<(), Frozen> {
        let opening = vec![Event::map(pty::TYPE, 0).with(pty::COLS, 80u32)];
        let session = told("who opens a session", self.recorder.open_session(SPEC, opening)).await;
        // The disk in memory is never full, so there is one reason only.
        let session = session.map_err(|_| self.recorder.frozen().unwrap_or(Frozen::Stopped))?;
        self.run.sessions.insert(session.id(), Told { opened: self.disk.operations(), ..Told::default() });
        self.open.push(session);
        Ok(())
    }

    fn pick(&mut self) -> usize {
        self.noise.below(self.open.len() as u64) as usize
    }

    /// Records a few events at once, so that turns hold several, small and large, of both sides.
    fn round(&mut self) {
        for _ in 0..=self.noise.below(4) {
            let session = self.pick();
            if self.noise.below(8) == 0 {
                let resized = Event::map(pty::TYPE, 0).with(pty::COLS, 100u32);
                drop(self.open[session].record(Side::Client, resized));
            }
            let side = if self.noise.below(2) == 0 { Side::Client } else { Side::Target };
            let len = match self.noise.below(16) {
                0..8 => 1 + self.noise.below(60),
                8..12 => 100 + self.noise.below(3_000),
                12..14 => 10_000 + self.noise.below(12_000),
                // Incompressible and large: written to the live segment, named in the journal.
                14 => 30_000 + self.noise.below(20_000),
                _ => 60_000 + self.noise.below(50_000),
            };
            let data = self.noise.chunk(len as usize);
            self.record(session, side, data);
        }
    }

    fn record(&mut self, session: usize, side: Side, data: Vec<u8>) {
        let session = &self.open[session];
        let before = self.seen.lock().unwrap().clone();
        let recorded = &mut self.run.sessions.get_mut(&session.id()).unwrap().recorded[side as usize];
        recorded.extend_from_slice(&data);
        let upto = recorded.len();
        let kind = if side == Side::Client { ssh_in::TYPE } else { ssh_out::TYPE };
        let ticket = session.record(side, Event::stream(kind, 0, Bytes::from(data.clone())));
        let (id, disk, seen) = (session.id(), self.disk.clone(), Arc::clone(&self.seen));
        self.waiting.spawn(async move {
            let receipt = ticket.receipt().await?;
            assert_eq!(receipt.into_bytes(), data);
            let mut seen = seen.lock().unwrap();
            let len = &mut seen.entry(id).or_default()[side as usize];
            *len = upto.max(*len);
            Ok(Forward { session: id, side, upto, time: disk.operations(), before })
        });
    }

    /// Waits for all receipts.
    async fn receipts(&mut self) -> Result<(), Frozen> {
        let mut outcome = Ok(());
        while let Some(answer) = told("who waits for a receipt", self.waiting.join_next()).await {
            match answer.unwrap() {
                Ok(forward) => self.run.forwards.push(forward),
                // The session was closed before the receipt was asked for.
                Err(Frozen::Closed) => {}
                Err(frozen) => outcome = Err(frozen),
            }
        }
        outcome
    }

    async fn slip(&mut self) -> Result<(), Frozen> {
        let session = self.pick();
        let slip = told("who asks for a slip", self.open[session].slip()).await?;
        self.run.slips.push((self.disk.operations(), slip));
        Ok(())
    }

    async fn close_session(&mut self) -> Result<(), Frozen> {
        let session = self.pick();
        let session = self.open.remove(session);
        let slip = told("who closes a session", session.close(CloseReason::Client, Some(0))).await?;
        let time = self.disk.operations();
        self.run.sessions.get_mut(&session.id()).unwrap().closed = Some((time, slip));
        Ok(())
    }

    /// Once frozen: whoever waits is told, nothing begins, nothing is received.
    async fn everybody_is_told(&mut self) {
        let _ = self.receipts().await;
        told("who waits for the freeze", self.recorder.wait_frozen()).await;
        assert!(told("who opens a session", self.recorder.open_session(SPEC, Vec::new())).await.is_err());
        for session in std::mem::take(&mut self.open) {
            let late = Event::stream(ssh_in::TYPE, 0, Bytes::from_static(b"late"));
            // It may be on record; it must not go on.
            self.run.sessions.get_mut(&session.id()).unwrap().recorded[0].extend_from_slice(b"late");
            let receipt = told("who records after the freeze", session.record(Side::Client, late).receipt()).await;
            assert!(receipt.is_err(), "a receipt after the freeze");
            // Without space the reserve still takes what a slip needs; then it must hold like any other.
            if let Ok(slip) = told("who asks for a slip", session.slip()).await {
                assert!(matches!(self.recorder.frozen(), Some(Frozen::NoSpace(_))), "a slip after the freeze");
                self.run.slips.push((self.disk.operations(), slip));
            }
            let closed = told("who closes a session", session.close(CloseReason::Recorder, None)).await;
            assert!(closed.is_err(), "an orderly end after the freeze");
        }
    }
}
