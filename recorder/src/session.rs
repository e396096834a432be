//! The handle of a session that is being recorded: where events go in.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use crate::elision::{Elision, Part};
use crate::error::Frozen;
use crate::log::slip::Slip;
use crate::queue::{Command, Queue};
use crate::receipt::Ticket;
use crate::transcript::Stamp;
use crate::transcript::block::SessionId;
use crate::transcript::event::{Event, EventType, Side};
use crate::transcript::head::Durability;
use crate::transcript::seal::CloseReason;

/// The most that whoever records writes by themselves, in bytes.
const JOT_LEN_MAX: usize = 4 * 1024;

/// How long a session must have recorded nothing for that, in microseconds.
const QUIET_US: u64 = 30;

/// How far the journal must be before an event's bytes may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watermark {
    /// Handed to the operating system.
    Written,
    /// Covered by `fdatasync`.
    Durable,
}

impl Watermark {
    fn for_side(durability: Durability, side: Side) -> Self {
        match (durability, side) {
            (Durability::Strict, _) | (Durability::Causal, Side::Client) => Self::Durable,
            (Durability::Causal, Side::Target) | (Durability::Process, _) => Self::Written,
        }
    }
}

/// An event on its way to the journal thread.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) side: Side,
    pub(crate) event: Event,
    pub(crate) at: Stamp,
}

#[derive(Debug, Default)]
struct Inbox {
    items: Vec<Item>,
    /// How many events were ever taken in.
    count: u64,
}

/// What handles and the journal thread share of one session.
pub(crate) struct Shared {
    pub(crate) id: SessionId,
    durability: Durability,
    queue: Arc<Queue>,
    inbox: Mutex<Inbox>,
    /// Whether the journal thread already knows that the inbox is not empty.
    marked: AtomicBool,
    written: AtomicU64,
    durable: AtomicU64,
    /// Whether nothing more is taken in.
    closed: AtomicBool,
    moved: Notify,
    /// When something was recorded last, on the boot-time clock in microseconds.
    last_us: AtomicU64,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(id: SessionId, durability: Durability, queue: Arc<Queue>) -> Self {
        Self {
            id,
            durability,
            queue,
            inbox: Mutex::default(),
            marked: AtomicBool::new(false),
            written: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            moved: Notify::new(),
            last_us: AtomicU64::new(0),
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves what came in to `items`, which must be empty, and returns the number of the last event.
    pub(crate) fn drain(&self, items: &mut Vec<Item>) -> u64 {
        // Unmark first: an event that comes in from here on marks the session again.
        self.marked.store(false, Ordering::SeqCst);
        let mut inbox = self.inbox();
        std::mem::swap(&mut inbox.items, items);
        inbox.count
    }

    /// Says that the journal holds all events up to `number`, in the operating system or on disk.
    pub(crate) fn publish(&self, watermark: Watermark, number: u64) {
        match watermark {
            Watermark::Written => self.written.store(number, Ordering::Release),
            Watermark::Durable => self.durable.store(number, Ordering::Release),
        }
        self.moved.notify_waiters();
    }

    /// Says that nothing more is taken in: receipts that are still waited for will never come.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.moved.notify_waiters();
    }

    /// Wakes everybody who waits, to find that the recorder is frozen.
    pub(crate) fn wake(&self) {
        self.moved.notify_waiters();
    }
}

/// A session that is being recorded. Clones are handles of the same session; when the last one goes without
/// [`Session::close`], the recorder closes the transcript with reason `internal`.
#[derive(Debug, Clone)]
pub struct Session(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Harmless after a proper close: the journal thread has forgotten the session by then.
        self.shared.queue.push(Command::Abandon(self.shared.id));
    }
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self(Arc::new(Handle { shared }))
    }

    /// Returns the session's id.
    pub fn id(&self) -> SessionId {
        self.0.shared.id
    }

    /// Takes an event; `side` says who sent it, and with it what its receipt waits for. Waits for nothing itself but,
    /// at most, the write of a few bytes.
    ///
    /// Events are numbered in the order of these calls; what comes after the end of the session is not kept. A stream event must not be longer than
    /// [`STREAM_LEN_MAX`](crate::transcript::event::STREAM_LEN_MAX).
    pub fn record(&self, side: Side, event: Event) -> Ticket {
        let bytes = event.wire_bytes();
        self.take(side, [event], bytes)
    }

    /// Takes bytes of a stream, in parts of which the record gets more or less: `parts` are ascending places in `wire`, and
    /// what none names, or one that does not fit, is kept as `kind`. What is left out is counted and hashed in an event before
    /// the rest, what is redacted is counted, and the receipt covers everything and holds all of `wire`.
    ///
    /// This is the only way to a receipt for bytes that the record does not hold, and it cannot be had without their digest or,
    /// for a secret, its length.
    ///
    /// What is to be said about the bytes, `behind`, follows them at once, and is covered by the receipt too.
    pub fn record_eliding(
        &self,
        elision: &mut Elision,
        kind: EventType,
        wire: Bytes,
        parts: &[Part],
        behind: impl IntoIterator<Item = Event>,
    ) -> Ticket {
        let (side, events) = (elision.side(), elision.events(kind, &wire, parts));
        self.take(side, events.into_iter().chain(behind), wire)
    }

    /// Queues events, one behind the other and with nothing between them. The ticket is that of the last.
    fn take(&self, side: Side, events: impl IntoIterator<Item = Event>, wire: Bytes) -> Ticket {
        let shared = &self.0.shared;
        let at = shared.queue.now();
        let number = {
            let mut inbox = shared.inbox();
            // Nobody would ever come for it, and its ticket says so.
            let closed = shared.closed.load(Ordering::Acquire);
            for event in events {
                if !closed {
                    inbox.items.push(Item { side, event, at });
                }
                inbox.count += 1;
            }
            inbox.count
        };
        let watermark = Watermark::for_side(shared.durability, side);
        let quiet = at.boot_us.saturating_sub(shared.last_us.swap(at.boot_us, Ordering::Relaxed)) >= QUIET_US;
        // Somebody waits for it and it is little: written here it is done before the journal's thread would be awake. What
        // comes thick and fast is cheaper in turns.
        let jotted =
            quiet && watermark == Watermark::Written && wire.len() <= JOT_LEN_MAX && shared.queue.jot(shared, at);
        if !jotted && !shared.marked.swap(true, Ordering::SeqCst) {
            shared.queue.mark(Arc::clone(shared));
        }
        Ticket::new(self.clone(), number, watermark, wire)
    }

    pub(crate) fn reached(&self, watermark: Watermark, number: u64) -> bool {
        let mark = match watermark {
            Watermark::Written => &self.0.shared.written,
            Watermark::Durable => &self.0.shared.durable,
        };
        mark.load(Ordering::Acquire) >= number
    }

    pub(crate) async fn wait(&self, watermark: Watermark, number: u64) -> Result<(), Frozen> {
        loop {
            let moved = self.0.shared.moved.notified();
            if self.reached(watermark, number) {
                return Ok(());
            }
            if let Some(frozen) = self.0.shared.queue.frozen() {
                return Err(frozen);
            }
            if self.0.shared.closed.load(Ordering::Acquire) {
                return Err(Frozen::Closed);
            }
            moved.await;
        }
    }

    /// Waits until recording cannot go on, and says why.
    pub async fn wait_frozen(&self) -> Frozen {
        self.0.shared.queue.wait_frozen().await
    }

    /// Waits until the disk has not answered for two seconds (`true`), or until it answers (`false`).
    pub async fn wait_stalled(&self, stalled: bool) {
        self.0.shared.queue.wait_stalled(stalled).await;
    }

    /// Commits the session's head to the node log and returns the line that a person can keep.
    ///
    /// # Errors
    /// Recording cannot go on.
    pub async fn slip(&self) -> Result<Slip, Frozen> {
        let (reply, answer) = oneshot::channel();
        self.0.shared.queue.push(Command::Slip { session: self.id(), reply });
        self.answer(answer).await
    }

    /// Ends the transcript: everything recorded so far is sealed, and the end is in the node log when this returns.
    /// `exit` is the exit status of the last process, where there was one.
    ///
    /// # Errors
    /// Recording cannot go on; the next start recovers the session.
    pub async fn close(&self, reason: CloseReason, exit: Option<u32>) -> Result<Slip, Frozen> {
        let (reply, answer) = oneshot::channel();
        self.0.shared.queue.push(Command::Close { session: self.id(), reason, exit, reply: Some(reply) });
        self.answer(answer).await
    }

    async fn answer(&self, answer: oneshot::Receiver<Result<Slip, Frozen>>) -> Result<Slip, Frozen> {
        answer.await.unwrap_or_else(|_| Err(self.0.shared.queue.frozen().unwrap_or(Frozen::Stopped)))
    }
}
