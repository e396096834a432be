//! Channels that a target opens for a forward that listens there, from the library's callback to whoever serves them.
//!
//! Takes them in, up to the session's limit, each with a number and a queue of its own. Whether one belongs to a forward
//! in force is for `listeners` to say.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use casemate_recorder::Session as Recording;
use russh::{ChannelId, client};
use tokio::sync::mpsc;

use super::backlog::Backlog;
use super::client::{Leg, Write};
use super::outlet::Outlet;
use super::passage::Passage;
use super::tape::Tape;

/// The first number of what has none of the client's making: the library counts the client's channels from 1.
const FIRST_NUMBER: u32 = 1 << 31;

/// Numbers in the record for what the target opens, and for what listens there. Clones count on together.
#[derive(Debug, Clone)]
pub(super) struct Numbers(Arc<AtomicU32>);

impl Default for Numbers {
    fn default() -> Self {
        Self(Arc::new(AtomicU32::new(FIRST_NUMBER)))
    }
}

impl Numbers {
    /// Returns the next one.
    pub(super) fn next(&self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// How many channels and forwards of a connection there are. Clones count together.
#[derive(Debug, Clone, Default)]
pub(super) struct Slots(Arc<AtomicUsize>);

impl Slots {
    /// Takes a place, unless `limit` are taken.
    pub(super) fn take(&self, limit: usize) -> Option<Slot> {
        let free = |taken: usize| (taken < limit).then_some(taken + 1);
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free).ok()?;
        Some(Slot { slots: Arc::clone(&self.0), left: Arc::default() })
    }
}

/// A place that is taken, until the first of its clones goes: a channel is over when either end of it is.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    slots: Arc<AtomicUsize>,
    left: Arc<AtomicBool>,
}

impl Slot {
    /// Whether one of its clones is gone.
    pub(super) fn is_left(&self) -> bool {
        self.left.load(Ordering::SeqCst)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.left.swap(true, Ordering::SeqCst) {
            self.slots.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// A channel that the target wants to open.
pub(super) struct Arrival {
    /// Its number in the record.
    pub(super) chan: u32,
    pub(super) leg: Leg,
    pub(super) tape: Arc<Tape>,
    pub(super) reply: client::ChannelOpenHandle,
    pub(super) slot: Slot,
}

/// Why a target's channel is not even taken in.
#[derive(Debug, Clone, Copy)]
pub(super) enum Refused {
    /// Nothing listens there.
    Uninvited,
    /// There are as many as the session may have.
    TooMany,
}

/// The callbacks' end.
pub(super) struct Arrivals {
    recording: Recording,
    numbers: Numbers,
    slots: Slots,
    limit: usize,
    /// Holds the reader of the connection that all of them share.
    line: Arc<Backlog>,
    queue: mpsc::UnboundedSender<Arrival>,
    outlets: HashMap<ChannelId, Outlet>,
}

impl Arrivals {
    /// Makes both ends; `limit` is for all channels that `slots` counts.
    pub(super) fn new(
        recording: &Recording,
        numbers: &Numbers,
        slots: &Slots,
        limit: usize,
        line: &Arc<Backlog>,
    ) -> (Self, mpsc::UnboundedReceiver<Arrival>) {
        let (queue, arriving) = mpsc::unbounded_channel();
        let arrivals = Self {
            recording: recording.clone(),
            numbers: numbers.clone(),
            slots: slots.clone(),
            limit,
            line: Arc::clone(line),
            queue,
            outlets: HashMap::new(),
        };
        (arrivals, arriving)
    }

    /// Returns where what the target says on a channel goes.
    pub(super) fn outlet(&self, id: ChannelId) -> Option<&Outlet> {
        self.outlets.get(&id)
    }

    /// Takes a place for one more, if there is any.
    pub(super) fn room(&mut self) -> Result<Slot, Refused> {
        // The library never tells of a close that we began.
        self.outlets.retain(|_, outlet| !outlet.is_closed());
        self.slots.take(self.limit).ok_or(Refused::TooMany)
    }

    /// Takes a channel in.
    pub(super) fn take(
        &mut self,
        id: ChannelId,
        write: Write,
        passage: Passage,
        reply: client::ChannelOpenHandle,
        slot: Slot,
    ) {
        let chan = self.numbers.next();
        let tape = Arc::new(Tape::forward(chan, passage));
        // Its bytes count towards the connection's. One that nobody reads any more lets go of its own alone.
        let backlog = Backlog::within(&self.line, usize::MAX);
        let (outlet, inbox) = Outlet::new(&self.recording, chan, &tape, &backlog);
        self.outlets.insert(id, outlet);
        // Where nobody serves any more, the handle goes with it, and that refuses the channel.
        let _ = self.queue.send(Arrival { chan, leg: Leg { write, inbox }, tape, reply, slot });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_the_first_of_its_holders_goes() {
        let slots = Slots::default();
        let (one, two) = (slots.take(2).unwrap(), slots.take(2).unwrap());
        assert!(slots.take(2).is_none());
        let other_end = one.clone();
        drop(one);
        let three = slots.take(2).unwrap();
        drop(other_end);
        assert!(slots.take(2).is_none(), "it was freed once");
        drop((two, three));
        assert_eq!(slots.0.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn numbers_are_dense_and_far_from_those_of_clients() {
        let numbers = Numbers::default();
        let clone = numbers.clone();
        assert_eq!([numbers.next(), clone.next(), numbers.next()], [2_147_483_648, 2_147_483_649, 2_147_483_650]);
    }
}
