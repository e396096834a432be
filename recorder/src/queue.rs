//! What everybody hands to the journal thread, and how they learn that it stopped.

use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use crate::clock::Clock;
use crate::error::Frozen;
use crate::figures::Meters;
use crate::journal::thread::Journal;
use crate::keeper::FinishedSegment;
use crate::log::leaf::{Leaf, Stored};
use crate::log::slip::Slip;
use crate::recovery::RecoveredSession;
use crate::secrets::Secrets;
use crate::session::{Session, Shared};
use crate::stall::Stall;
use crate::transcript::Stamp;
use crate::transcript::block::SessionId;
use crate::transcript::event::Event;
use crate::transcript::head::{Protocol, TranscriptKind};
use crate::transcript::seal::CloseReason;

/// What kind of session is to be opened.
#[derive(Debug, Clone, Copy)]
pub struct SessionSpec {
    /// What the transcript is about.
    pub kind: TranscriptKind,
    /// What is spoken.
    pub protocol: Option<Protocol>,
    /// BLAKE3 of the configuration in force.
    pub policy_hash: [u8; 32],
}

/// The answer to whoever closes a session or asks for a slip.
pub(crate) type SlipReply = oneshot::Sender<Result<Slip, Frozen>>;

/// What is asked of the journal thread.
#[derive(Debug)]
pub(crate) enum Command {
    /// Open a session with these first events.
    Open { spec: SessionSpec, secrets: Secrets, opening: Vec<Event>, reply: oneshot::Sender<Session> },
    /// Close a session.
    Close { session: SessionId, reason: CloseReason, exit: Option<u32>, reply: Option<SlipReply> },
    /// The last handle of a session is gone.
    Abandon(SessionId),
    /// Commit a session's head.
    Slip { session: SessionId, reply: SlipReply },
    /// The keeper has a finished segment on disk.
    SegmentDone(FinishedSegment),
    /// Recovery has a finished segment on disk.
    Recovered(Box<RecoveredSession>),
    /// A vault elsewhere has a segment.
    Stored(Stored),
    /// People decided something that the log must tell: retire sessions, hold one, say what came of a test.
    Log { leaves: Vec<Leaf>, reply: oneshot::Sender<()> },
    /// Recovery is done with these journal files.
    Release(Vec<PathBuf>),
    /// The keeper could not go on.
    KeeperFailed(Frozen),
    /// End: close the control transcript and stop.
    Stop,
}

#[derive(Debug, Default)]
struct State {
    dirty: Vec<Arc<Shared>>,
    commands: Vec<Command>,
    sleeping: bool,
    /// Whether the thread is to look at its timers anew.
    poked: bool,
    /// Whether nobody takes anything any more.
    ended: bool,
}

/// The journal thread's inbox.
#[derive(Debug)]
pub(crate) struct Queue {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    work: Condvar,
    frozen: OnceLock<Frozen>,
    froze: Notify,
    stall: Stall,
    meters: Meters,
    journal: OnceLock<Weak<Mutex<Journal>>>,
}

/// A turn of the journal that goes on, for whoever watches the disk.
pub(crate) struct TurnGuard<'a>(&'a Stall);

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        self.0.turn_ends();
    }
}

impl Queue {
    pub(crate) fn new(clock: Arc<dyn Clock>, meters: Meters) -> Self {
        Self {
            clock,
            state: Mutex::default(),
            work: Condvar::new(),
            frozen: OnceLock::new(),
            froze: Notify::new(),
            stall: Stall::default(),
            meters,
            journal: OnceLock::new(),
        }
    }

    /// Lets those who record write small things by themselves.
    pub(crate) fn share(&self, journal: &Arc<Mutex<Journal>>) {
        let _ = self.journal.set(Arc::downgrade(journal));
    }

    /// Writes a session's few events at once, unless somebody is writing already or more has to be done than that.
    pub(crate) fn jot(&self, session: &Arc<Shared>, now: Stamp) -> bool {
        let Some(journal) = self.journal.get().and_then(Weak::upgrade) else { return false };
        let Ok(mut journal) = journal.try_lock() else { return false };
        let _turn = self.turn(now);
        journal.jot(session)
    }

    /// Marks the beginning of a turn, up to when the guard is dropped. Whoever calls holds the journal.
    pub(crate) fn turn(&self, now: Stamp) -> TurnGuard<'_> {
        self.stall.turn_begins(now.boot_us);
        TurnGuard(&self.stall)
    }

    /// Has the thread look at its timers anew.
    pub(crate) fn poke(&self) {
        let mut state = self.state();
        state.poked = true;
        self.wake(state);
    }

    pub(crate) fn now(&self) -> Stamp {
        self.clock.now()
    }

    /// What is counted.
    pub(crate) fn meters(&self) -> &Meters {
        &self.meters
    }

    /// Whether the disk does not answer.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stall.is_now()
    }

    /// Watches the journal thread for a disk that does not answer, until the other end of `alive` is gone.
    pub(crate) fn watch(&self, alive: &Receiver<()>) {
        self.stall.watch(&*self.clock, alive);
    }

    /// Waits until the disk does not answer, or until it does.
    pub(crate) async fn wait_stalled(&self, stalled: bool) {
        self.stall.wait(stalled).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that a session has events.
    pub(crate) fn mark(&self, session: Arc<Shared>) {
        let mut state = self.state();
        if !state.ended {
            state.dirty.push(session);
        }
        self.wake(state);
    }

    pub(crate) fn push(&self, command: Command) {
        let mut state = self.state();
        // Dropped otherwise, and with it the sender that somebody waits for.
        if !state.ended {
            state.commands.push(command);
        }
        self.wake(state);
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        // A futex call for every event would cost more than the event.
        if std::mem::take(&mut state.sleeping) {
            drop(state);
            self.work.notify_one();
        }
    }

    /// Waits for work, at most as long as `timeout`, and takes it.
    pub(crate) fn take(&self, timeout: Duration, dirty: &mut Vec<Arc<Shared>>, commands: &mut Vec<Command>) {
        let mut state = self.state();
        let idle = |state: &mut State| state.dirty.is_empty() && state.commands.is_empty() && !state.poked;
        if idle(&mut state) && !timeout.is_zero() {
            state.sleeping = true;
            state = self.work.wait_timeout_while(state, timeout, idle).unwrap_or_else(PoisonError::into_inner).0;
            state.sleeping = false;
        }
        state.poked = false;
        std::mem::swap(&mut state.dirty, dirty);
        std::mem::swap(&mut state.commands, commands);
    }

    /// Says that the thread is gone: what is still in the queue, and what comes, is dropped.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        let (dirty, commands) = (std::mem::take(&mut state.dirty), std::mem::take(&mut state.commands));
        drop(state);
        // Outside the lock: a dropped session handle comes back here.
        drop((dirty, commands));
    }

    /// Stops all forwarding, for good. The first reason stays.
    pub(crate) fn freeze(&self, reason: Frozen) {
        let _ = self.frozen.set(reason);
        self.froze.notify_waiters();
    }

    pub(crate) fn frozen(&self) -> Option<Frozen> {
        self.frozen.get().cloned()
    }

    pub(crate) async fn wait_frozen(&self) -> Frozen {
        loop {
            let froze = self.froze.notified();
            if let Some(frozen) = self.frozen() {
                return frozen;
            }
            froze.await;
        }
    }
}
