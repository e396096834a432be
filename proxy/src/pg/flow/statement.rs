//! One statement while it is answered: what it moved so far, and the event that tells it once it is over.

use casemate_recorder::transcript::event::{Body, Event, pg_done};

use super::told::{self, Complaint};
use crate::sum::Sum;

/// How many fields a statement has that did not fail.
const FIELDS: usize = 10;

/// What the target did with a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was run.
    Done,
    /// There was no statement in it.
    Empty,
    /// It failed.
    Failed,
    /// It was not run: something before it failed, and the target waits for Sync.
    Skipped,
    /// A portal that nobody executed to its end.
    Suspended,
    /// The connection ended first.
    Unanswered,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Done, Self::Empty, Self::Failed, Self::Skipped, Self::Suspended, Self::Unanswered];

    /// Returns the word for it in the record.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Empty => "empty",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Suspended => "suspended",
            Self::Unanswered => "unanswered",
        }
    }
}

/// Where a statement comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Origin {
    /// The Query, Execute or FunctionCall; of several Executes the first.
    pub(super) number: u64,
    pub(super) parse: Option<u64>,
    pub(super) bind: Option<u64>,
    /// Which statement of a Query.
    pub(super) index: Option<u32>,
}

impl Origin {
    /// Tells a statement that moved nothing.
    pub(super) fn tell(&self, outcome: Outcome) -> Event {
        // There is one for each statement: its fields get their room at once.
        let body = Body::Map(Vec::with_capacity(FIELDS));
        let mut event = Event { kind: pg_done::TYPE, chan: 0, body }.with(pg_done::FRAME, self.number);
        for (field, number) in [(pg_done::PARSE, self.parse), (pg_done::BIND, self.bind)] {
            if let Some(number) = number {
                event = event.with(field, number);
            }
        }
        if let Some(index) = self.index {
            event = event.with(pg_done::INDEX, index);
        }
        event.with(pg_done::OUTCOME, outcome.name())
    }
}

/// What a statement moved so far.
#[derive(Debug, Default)]
pub(super) struct Statement {
    pub(super) origin: Origin,
    /// Whether the target has said anything to it.
    pub(super) begun: bool,
    /// DataRows, and CopyData from the target.
    pub(super) rows: u64,
    /// Of these, DataRows.
    pub(super) data_rows: u64,
    /// Payload of both.
    pub(super) bytes: u64,
    /// Payload of CopyData from the client.
    pub(super) copied: u64,
    /// Time in earlier steps.
    pub(super) us: u64,
    /// How often it was suspended.
    pub(super) batches: u32,
    /// Of `bytes`, where that is wanted. Two kilobytes and more, so it is made once and used again.
    pub(super) hash: Option<Box<Sum>>,
    /// Of `copied`, where that is wanted and all of it was seen.
    pub(super) copied_hash: Option<Box<blake3::Hash>>,
}

impl Statement {
    /// Starts over for the next statement.
    pub(super) fn reset(&mut self, origin: Origin) {
        let mut hash = self.hash.take();
        if let Some(hash) = hash.as_mut().filter(|_| self.bytes > 0) {
            hash.reset();
        }
        *self = Self { origin, hash, ..Self::default() };
    }

    /// Tells how it ended, `us` microseconds after its last step was forwarded.
    pub(super) fn tell(&self, outcome: Outcome, tag: Option<&[u8]>, error: Option<&Complaint<'_>>, us: u64) -> Event {
        let rows = match tag.and_then(told::tag_rows) {
            Some(rows) if self.data_rows == 0 => rows,
            _ => self.rows,
        };
        let mut event =
            self.origin.tell(outcome).with(pg_done::ROWS, rows).with(pg_done::US, self.us.saturating_add(us));
        if let Some(tag) = tag {
            event = event.with(pg_done::TAG, tag);
        }
        let counts =
            [(pg_done::BYTES, self.bytes), (pg_done::COPIED, self.copied), (pg_done::BATCHES, self.batches.into())];
        for (field, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            event = event.with(field, count);
        }
        let hash = match (&self.hash, &self.copied_hash) {
            (Some(hash), _) if self.bytes > 0 => Some(hash.finalize()),
            (_, Some(hash)) if self.copied > 0 => Some(**hash),
            _ => None,
        };
        if let Some(hash) = hash {
            event = event.with(pg_done::BLAKE3, hash.as_bytes().as_slice());
        }
        match error {
            Some(error) => error.failed(event),
            None => event,
        }
    }
}
