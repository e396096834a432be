//! The last of what a live session showed, for those who watch it.
//!
//! Holds events that were recorded and went on, up to a size, in memory only. Whoever looks asks for what came since; a slow
//! one misses something and begins anew, and never holds the session up. Knows no terminal.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use casemate_recorder::transcript::event::{Body, Event, Value, chan_close, pty, resize};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Bytes of output that are kept. A screen of the largest usual terminal with colours in it is smaller.
const KEPT: usize = 64 * 1024;

/// A smaller piece of output is copied: its buffer may be much larger than what is in it.
const COPIED: usize = 16 * 1024;

/// What was shown last.
#[derive(Debug, Default)]
pub struct Recent {
    ring: Mutex<Ring>,
    moved: Notify,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Event>,
    /// Bytes in `events`.
    held: usize,
    /// The number of the first of `events`, counted from the session's beginning.
    first: u64,
    /// The last that was said of each channel's terminal: what the ring forgets, a screen cannot be drawn without.
    terminals: HashMap<u32, Event>,
}

/// What came since somebody looked last.
#[derive(Debug)]
pub struct Since {
    /// In their order.
    pub events: Vec<Event>,
    /// To be asked with next time.
    pub next: u64,
    /// Whether something in between is gone: the events begin anew, with the terminals that there are.
    pub anew: bool,
}

impl Recent {
    /// Adds what was shown or asked for.
    pub fn push(&self, mut event: Event) {
        if let Body::Stream(bytes) = &mut event.body
            && bytes.len() < COPIED
        {
            // Pieces that were merged have room for more behind them, which would be kept with them.
            *bytes = Bytes::copy_from_slice(bytes);
        }
        let mut ring = self.lock();
        match event.kind {
            // Its size alone: the name of a terminal is as long as its client likes.
            pty::TYPE | resize::TYPE => drop(ring.terminals.insert(event.chan, as_pty(&event))),
            chan_close::TYPE => drop(ring.terminals.remove(&event.chan)),
            _ => {}
        }
        ring.held += len(&event);
        ring.events.push_back(event);
        while ring.held > KEPT && ring.events.len() > 1 {
            let gone = ring.events.pop_front();
            ring.held -= gone.as_ref().map_or(0, len);
            ring.first += 1;
        }
        drop(ring);
        self.moved.notify_waiters();
    }

    /// Forgets the terminal of a channel that is over. A connection may open any number of them, one after the other.
    pub fn forget(&self, chan: u32) {
        self.lock().terminals.remove(&chan);
    }

    /// Returns what came from number `from` on.
    pub fn since(&self, from: u64) -> Since {
        let ring = self.lock();
        let next = ring.first + ring.events.len() as u64;
        let anew = from < ring.first;
        let skip = usize::try_from(from.saturating_sub(ring.first)).unwrap_or(usize::MAX);
        let mut events: Vec<Event> = Vec::new();
        if anew {
            // A size that is in the ring as well is said twice, which changes nothing.
            events.extend(ring.terminals.values().cloned());
        }
        events.extend(ring.events.iter().skip(skip).cloned());
        Since { events, next, anew }
    }

    /// Waits until something is added.
    pub fn moved(&self) -> Notified<'_> {
        self.moved.notified()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an event weighs: its bytes, and a little for itself.
fn len(event: &Event) -> usize {
    const EACH: usize = 64;
    let field = |value: &Value| match value {
        Value::Bytes(bytes) => bytes.len(),
        Value::Text(text) => text.len(),
        Value::Uint(_) | Value::List(_) => 0,
    };
    EACH + match &event.body {
        Body::Stream(bytes) => bytes.len(),
        Body::Map(entries) => entries.iter().map(|(_, value)| field(value)).sum(),
    }
}

/// The latest size as the beginning of a terminal.
fn as_pty(event: &Event) -> Event {
    let mut begun = Event::map(pty::TYPE, event.chan);
    for (from, to) in
        [(pty::COLS, pty::COLS), (pty::ROWS, pty::ROWS), (resize::COLS, pty::COLS), (resize::ROWS, pty::ROWS)]
    {
        if let Some(value) = event.get(from) {
            begun = begun.with(to, value.clone());
        }
    }
    begun
}

#[cfg(test)]
mod tests {
    use super::*;
    use casemate_recorder::transcript::event::{env, ssh_out};

    fn out(len: usize) -> Event {
        Event::stream(ssh_out::TYPE, 0, Bytes::from(vec![b'x'; len]))
    }

    #[test]
    fn whoever_keeps_up_gets_each_event_once() {
        let recent = Recent::default();
        recent.push(out(1));
        let first = recent.since(0);
        assert_eq!((first.events.len(), first.next, first.anew), (1, 1, false));
        assert_eq!(recent.since(first.next).events.len(), 0);
        recent.push(out(2));
        let second = recent.since(first.next);
        assert_eq!((second.events, second.next, second.anew), (vec![out(2)], 2, false));
    }

    #[test]
    fn whoever_falls_behind_begins_anew_with_the_terminal_as_it_is_now() {
        let recent = Recent::default();
        recent.push(Event::map(pty::TYPE, 3).with(pty::COLS, 80u32).with(pty::ROWS, 24u32));
        recent.push(Event::map(resize::TYPE, 3).with(resize::COLS, 100u32).with(resize::ROWS, 30u32));
        for _ in 0..100 {
            recent.push(out(4096));
        }
        let since = recent.since(1);
        assert!(since.anew);
        assert_eq!(since.events[0].get(pty::COLS), Some(&Value::Uint(100)));
        let bytes: usize = since.events.iter().map(len).sum();
        assert!(bytes <= KEPT + 64, "{bytes}");
        assert_eq!(since.next, 102);
        // One that is larger than all that is kept is still there.
        recent.push(out(KEPT * 2));
        assert_eq!(recent.since(102).events, [out(KEPT * 2)]);
        recent.forget(3);
        assert!(recent.since(0).events.iter().all(|event| event.kind != pty::TYPE), "a closed channel has no terminal");
    }

    #[test]
    fn what_clients_choose_the_length_of_counts_by_its_length() {
        let recent = Recent::default();
        for _ in 0..50 {
            recent.push(Event::map(env::TYPE, 0).with(env::VALUE, vec![b'x'; KEPT / 4].as_slice()));
        }
        assert!(recent.since(0).events.len() < 5);
        let term = vec![b'x'; KEPT];
        recent.push(Event::map(pty::TYPE, 3).with(pty::TERM, term.as_slice()).with(pty::COLS, 80u32));
        assert!(recent.lock().terminals.values().all(|event| len(event) < KEPT));
    }
}
