//! What the client asked for and the target has not answered yet, in order. Says nothing about what an answer is.

use std::collections::VecDeque;
use std::time::Duration;

use super::names::Name;

/// Messages without an answer. A client may send as many as it likes before it reads; the buffers on the way hold about a
/// million of the smallest kind. 40 MiB at most, and given back when the queue is empty.
const ASKED_MAX: usize = 1 << 20;

/// A queue that once held more than this gives its memory back when it is empty.
const ROOM_KEPT: usize = 1024;

/// A client's message that the target answers, or that says how far a COPY goes.
#[derive(Debug)]
pub(super) struct Asked {
    /// Its number among the client's messages, CopyData not counted: what the record says about it goes by this.
    pub(super) number: u64,
    /// Its number among the client's frames.
    pub(super) frame: u64,
    pub(super) kind: Kind,
}

/// What was asked for. `us` is when it was seen, and once that is known, when it was forwarded.
#[derive(Debug)]
pub(super) enum Kind {
    Query {
        us: u64,
    },
    FunctionCall {
        us: u64,
    },
    Parse {
        statement: Name,
    },
    Bind {
        portal: Name,
        statement: Name,
    },
    DescribeStatement {
        statement: Name,
    },
    DescribePortal,
    Execute {
        portal: Name,
        us: u64,
    },
    CloseStatement {
        statement: Name,
    },
    ClosePortal {
        portal: Name,
    },
    Sync,
    /// CopyData, neighbours in one.
    Copied {
        bytes: u64,
    },
    /// CopyDone or CopyFail, with the BLAKE3 of the CopyData before it where that is wanted.
    CopyEnd {
        digest: Option<Box<blake3::Hash>>,
    },
}

impl Asked {
    fn set_us(&mut self, at: u64) {
        match &mut self.kind {
            Kind::Query { us } | Kind::FunctionCall { us } | Kind::Execute { us, .. } => *us = at,
            _ => {}
        }
    }

    /// Whether the target says anything to it. Outside of a COPY it ignores what belongs into one.
    pub(super) fn is_answered(&self) -> bool {
        !matches!(self.kind, Kind::Copied { .. } | Kind::CopyEnd { .. })
    }
}

/// More was asked than is kept.
#[derive(Debug)]
pub(super) struct Full;

#[derive(Debug, Default)]
pub(super) struct Queue {
    asked: VecDeque<Asked>,
    /// How many at the back were not forwarded yet.
    held: usize,
}

impl Queue {
    pub(super) fn push(&mut self, asked: Asked) -> Result<(), Full> {
        if self.asked.len() >= ASKED_MAX {
            return Err(Full);
        }
        self.asked.push_back(asked);
        self.held += 1;
        Ok(())
    }

    /// Adds bytes of CopyData.
    pub(super) fn push_copied(&mut self, frame: u64, len: u64) -> Result<(), Full> {
        if let Some(Asked { kind: Kind::Copied { bytes }, .. }) = self.asked.back_mut() {
            *bytes += len;
            return Ok(());
        }
        self.push(Asked { number: 0, frame, kind: Kind::Copied { bytes: len } })
    }

    pub(super) fn pop(&mut self) -> Option<Asked> {
        let asked = self.asked.pop_front();
        self.held = self.held.min(self.asked.len());
        if self.asked.is_empty() && self.asked.capacity() > ROOM_KEPT {
            self.asked = VecDeque::new();
        }
        asked
    }

    pub(super) fn front(&self) -> Option<&Asked> {
        self.asked.front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// Returns what the target will answer next.
    pub(super) fn next_answered(&self) -> Option<&Asked> {
        self.asked.iter().find(|asked| asked.is_answered())
    }

    /// Notes when the frames below `frames` were forwarded.
    pub(super) fn forwarded(&mut self, frames: u64, at: Duration) {
        let from = self.asked.len().saturating_sub(self.held);
        let at = micros(at);
        for asked in self.asked.range_mut(from..).take_while(|asked| asked.frame < frames) {
            asked.set_us(at);
            self.held -= 1;
        }
    }
}

pub(super) fn micros(at: Duration) -> u64 {
    u64::try_from(at.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_as_small_as_the_limit_says() {
        assert_eq!(size_of::<Asked>() * ASKED_MAX, 40 << 20);
    }

    #[test]
    fn what_was_forwarded_is_noted_once_and_in_any_order_with_answers() {
        let mut queue = Queue::default();
        let push =
            |queue: &mut Queue, frame| queue.push(Asked { number: 0, frame, kind: Kind::Query { us: 1 } }).unwrap();
        (0..3).for_each(|frame| push(&mut queue, frame));
        queue.forwarded(2, Duration::from_micros(10));
        queue.forwarded(2, Duration::from_micros(20));
        assert!(matches!(queue.pop(), Some(Asked { frame: 0, kind: Kind::Query { us: 10 }, .. })));
        (3..5).for_each(|frame| push(&mut queue, frame));
        queue.forwarded(4, Duration::from_micros(30));
        let times: Vec<u64> = std::iter::from_fn(|| queue.pop())
            .map(|asked| match asked.kind {
                Kind::Query { us } => us,
                _ => 0,
            })
            .collect();
        assert_eq!(times, [10, 30, 30, 1]);
        // What was answered before that was known is not waited for.
        (5..7).for_each(|frame| push(&mut queue, frame));
        queue.pop();
        queue.forwarded(7, Duration::from_micros(40));
        push(&mut queue, 7);
        queue.forwarded(8, Duration::from_micros(50));
        assert!(matches!(queue.pop(), Some(Asked { kind: Kind::Query { us: 40 }, .. })));
    }

    #[test]
    fn a_queue_is_bounded_and_gives_its_memory_back() {
        let mut queue = Queue::default();
        let sync = || Asked { number: 0, frame: 0, kind: Kind::Sync };
        assert_eq!((0..ASKED_MAX + 5).filter(|_| queue.push(sync()).is_err()).count(), 5);
        while queue.pop().is_some() {}
        assert!(queue.asked.capacity() <= ROOM_KEPT);
    }
}
