//! Which answer belongs to which statement, told from the messages of both sides while they pass.
//!
//! A [`Flow`] keeps what the client asked for and has no answer yet, and moves on by the target's messages alone: names of
//! statements and portals count once the target confirms them, and what it skips is told as skipped. It is passive: bytes
//! go on as they came, whatever it makes of them, and where an answer fits no question it says that the thread is lost and
//! tells nothing more. Never holds a statement's text nor a row. Sans-IO.
//! <https://www.postgresql.org/docs/current/protocol-flow.html>

mod client;
#[cfg(test)]
mod model;
mod names;
mod queue;
mod statement;
mod target;
#[cfg(test)]
mod tests;
mod told;

use std::time::Duration;

use casemate_recorder::transcript::event::{Event, Side};

use self::names::{Known, Name};
use self::queue::{Asked, Kind, Queue, micros};
pub use self::statement::Outcome;
use self::statement::{Origin, Statement};
use self::told::Gathered;
use crate::config::Results;

/// Prepared statements that are remembered, about 40 bytes each. Beyond, the older half is forgotten: their statements are told
/// without the Parse they go back to, and nothing else is lost.
const STATEMENTS_MAX: usize = 1 << 16;

/// Portals that are remembered, with a hash of two kilobytes where rows are hashed. Beyond, the older half is forgotten: told as
/// suspended where they are, and without their Bind from then on.
const PORTALS_MAX: usize = 1 << 12;

/// Says what the record gets of a statement's row with that number, from 0.
fn verdict(results: Results, row: u64) -> Verdict {
    match results {
        Results::Full => Verdict::Keep,
        Results::Rows(rows) if row < rows.into() => Verdict::Keep,
        Results::Hash | Results::Count | Results::Rows(_) => Verdict::Elide,
    }
}

/// What the record gets of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All of it.
    Keep,
    /// Its length, and its digest with that of its like.
    Elide,
}

/// How far the answer to the message at the head is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Answering,
    /// The parameters of a statement are described, its rows are next.
    Described,
    /// The target reads what the client copies, up to its CopyDone or CopyFail.
    CopyIn,
    /// The same behind that.
    CopiedIn,
    CopyOut,
    /// Both at once, as replication does it.
    CopyBoth,
    /// Only ReadyForQuery is to come.
    Over,
}

/// A portal that the target made.
#[derive(Debug, Default)]
struct Portal {
    parse: Option<u64>,
    bind: Option<u64>,
    /// What it moved so far, if it was executed and not to its end.
    suspended: Option<Box<Statement>>,
}

impl Portal {
    /// Tells it if it was not executed to its end.
    fn close(self, events: &mut Vec<Event>) {
        events.extend(self.suspended.map(|statement| statement.tell(Outcome::Suspended, None, None, 0)));
    }
}

/// Names in messages that the target will not read: the last of each.
#[derive(Debug, Default)]
struct Unread {
    parse: Option<(Name, u64)>,
    bind: Option<(Name, Portal)>,
}

/// Listens to both sides of a connection, from behind the login to its end.
#[derive(Debug)]
pub struct Flow {
    results: Results,
    queue: Queue,
    /// What the target is answering, taken off the queue with its first answer.
    head: Option<Asked>,
    phase: Phase,
    statement: Statement,
    /// Whether the target reads on to a Sync that the client has not sent yet.
    skipping: bool,
    /// Syncs that the running COPY took, and those that a failed one may or may not have taken: a ReadyForQuery out of turn
    /// is for one of these.
    taken_syncs: u32,
    spare_syncs: u32,
    statements: Known<u64>,
    portals: Known<Portal>,
    /// Whether SQL dropped a name that is remembered, which one is in its text.
    deallocated: bool,
    transaction: Option<u8>,
    lost: bool,
    client: client::Ear,
    /// The small message that the target is sending, and the verdict about its frame.
    gathered: Gathered,
    verdict: Verdict,
}

impl Flow {
    /// Listens from the first message behind the login on.
    pub fn new(results: Results) -> Self {
        Self {
            results,
            queue: Queue::default(),
            head: None,
            phase: Phase::Answering,
            statement: Statement::default(),
            skipping: false,
            taken_syncs: 0,
            spare_syncs: 0,
            statements: Known::new(STATEMENTS_MAX),
            portals: Known::new(PORTALS_MAX),
            deallocated: false,
            transaction: None,
            lost: false,
            client: client::Ear::new(results),
            gathered: Gathered::default(),
            verdict: Verdict::Keep,
        }
    }

    /// Takes note that all client frames below `frames` were handed to the target's transport, at `at` since the session began.
    pub fn forwarded(&mut self, frames: u64, at: Duration) {
        self.queue.forwarded(frames, at);
    }

    /// Whether the target has something to answer, and there is something to cancel.
    pub fn is_running(&self) -> bool {
        self.lost || self.head.is_some() || self.queue.next_answered().is_some()
    }

    /// Returns how many messages the client has sent to their end, CopyData not counted: the number of the next.
    pub fn asked_messages(&self) -> u64 {
        self.client.messages()
    }

    /// Returns the number of the Parse that the target's unnamed statement goes back to, if that is known.
    pub fn unnamed(&self) -> Option<u64> {
        self.statements.get(Name::UNNAMED).copied()
    }

    /// Returns the status of the last ReadyForQuery: `I` idle, `T` in a transaction, `E` in one that failed.
    pub fn transaction(&self) -> Option<u8> {
        self.transaction
    }

    /// Tells what the end of the connection leaves open.
    pub fn finish(&mut self, at: Duration, events: &mut Vec<Event>) {
        let mut unread = Unread::default();
        if let Some(head) = self.head.take() {
            match head.kind {
                Kind::Query { us } | Kind::FunctionCall { us } | Kind::Execute { us, .. } => {
                    let first = self.statement.origin.index.is_none_or(|index| index == 0);
                    if self.phase != Phase::Over && (first || self.statement.begun) {
                        let us = micros(at).saturating_sub(us);
                        events.push(self.statement.tell(Outcome::Unanswered, None, None, us));
                    }
                }
                _ => self.unread(&head, Outcome::Unanswered, &mut unread, events),
            }
        }
        while let Some(asked) = self.queue.pop() {
            self.unread(&asked, Outcome::Unanswered, &mut unread, events);
        }
        self.drop_portals(events);
    }

    /// Tells a statement that the target does not read, with the names that it would have had.
    fn unread(&self, asked: &Asked, outcome: Outcome, unread: &mut Unread, events: &mut Vec<Event>) {
        let number = asked.number;
        let origin = match asked.kind {
            Kind::Parse { statement } => {
                unread.parse = Some((statement, number));
                return;
            }
            Kind::Bind { portal, statement } => {
                let parse = unread.parse.filter(|(name, _)| *name == statement).map(|(_, number)| number);
                let parse = parse.or_else(|| self.statements.get(statement).copied());
                unread.bind = Some((portal, Portal { parse, bind: Some(number), suspended: None }));
                return;
            }
            Kind::Execute { portal, .. } => {
                let bound = unread.bind.as_ref().filter(|(name, _)| *name == portal).map(|(_, portal)| portal);
                let bound = bound.or_else(|| self.portals.get(portal));
                let (parse, bind) = bound.map_or((None, None), |portal| (portal.parse, portal.bind));
                Origin { number, parse, bind, index: None }
            }
            Kind::Query { .. } => Origin { number, index: Some(0), ..Origin::default() },
            Kind::FunctionCall { .. } => Origin { number, ..Origin::default() },
            _ => return,
        };
        events.push(origin.tell(outcome));
    }

    /// Forgets all portals: transactions end with them, and so does a connection.
    fn drop_portals(&mut self, events: &mut Vec<Event>) {
        self.portals.drain(|portal| portal.close(events));
    }

    fn lose(&mut self, why: &'static str, side: Side, frame: u64, events: &mut Vec<Event>) {
        events.push(told::lost(why, side, frame));
        self.lost = true;
        self.queue = Queue::default();
        self.head = None;
        self.statement = Statement::default();
        self.statements = Known::new(0);
        self.portals = Known::new(0);
    }
}
