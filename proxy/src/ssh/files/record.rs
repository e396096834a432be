//! A channel's tap on the way between the library's callbacks and the record.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use casemate_recorder::transcript::event::{Event, EventType, Side, ssh_err};
use casemate_recorder::{Elision, Of, Part, Session as Recording, Ticket};

use super::{Seen, Tap, lost};
use crate::config::Content;

/// What a channel's two directions share: its tap, and what the grant keeps out of the record.
#[derive(Debug)]
pub(crate) struct Files {
    chan: u32,
    content: Content,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    tap: Option<Tap>,
    /// Whether the client sent anything before there was a program to read it.
    early: bool,
    seen: Seen,
    elided: [Elision; 2],
}

impl Files {
    pub(crate) fn new(chan: u32, content: Content) -> Self {
        let elided = [Side::Client, Side::Target].map(|side| Elision::new(chan, side, Of::Files));
        let inner = Inner { tap: None, early: false, seen: Seen::default(), elided };
        Self { chan, content, inner: Mutex::new(inner) }
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens from here on, to a program that is about to start.
    pub(crate) fn listen(&self, recording: &Recording, tap: Option<Tap>) {
        let mut inner = self.inner();
        if tap.is_some() && inner.early {
            drop(recording.record(Side::Client, lost(self.chan, Side::Client, "bytes came before the program")));
        } else {
            inner.tap = tap;
        }
    }

    /// Listens no more: the program did not start.
    pub(crate) fn stop(&self) {
        self.inner().tap = None;
    }

    /// Records bytes of a stream, and what they do to files. One lock for both: the tap must see the bytes of both sides
    /// in the order of the record.
    pub(crate) fn record(&self, recording: &Recording, side: Side, kind: EventType, data: Bytes) -> Ticket {
        let inner = &mut *self.inner();
        let Some(tap) = inner.tap.as_mut().filter(|_| kind != ssh_err::TYPE) else {
            inner.early |= side == Side::Client;
            return recording.record(side, Event::stream(kind, self.chan, data));
        };
        let seen = &mut inner.seen;
        seen.content.clear();
        tap.feed(side, &data, seen);
        let ticket = if self.content == Content::Full || seen.content.is_empty() {
            recording.record(side, Event::stream(kind, self.chan, data))
        } else {
            let [client, target] = &mut inner.elided;
            let elided = if side == Side::Client { client } else { target };
            let parts: Vec<Part> = seen.content.iter().cloned().map(Part::elide).collect();
            recording.record_eliding(elided, kind, data, &parts, [])
        };
        seen.events.drain(..).for_each(|event| drop(recording.record(side, event)));
        ticket
    }

    /// Records what the end of the channel leaves open, and listens no more.
    pub(crate) fn finish(&self, recording: &Recording) {
        let mut inner = self.inner();
        if let Some(mut tap) = inner.tap.take() {
            tap.finish(&mut inner.seen);
            inner.seen.events.drain(..).for_each(|event| drop(recording.record(Side::Client, event)));
        }
    }
}
