//! What the target says on one channel: recorded, and queued for the relay in its order.
//!
//! Called from the library's callbacks, which must not wait: everything here records and queues. Knows no connection.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use casemate_recorder::transcript::event::{
    Event, STREAM_LEN_MAX, Side, chan_close, eof, exit, extended, reply, request,
};
use casemate_recorder::{Session as Recording, Ticket};
use russh::Sig;
use tokio::sync::{mpsc, oneshot};

use super::backlog::{Backlog, Held};
use super::tape::Tape;

/// What the target said, in its order, each with the ticket that lets it go on.
#[derive(Debug)]
pub(super) enum Down {
    /// Bytes of standard output or standard error.
    Data { stderr: bool, ticket: Ticket, held: Held },
    /// Bytes of another extended data code.
    Extended { code: u32, ticket: Ticket, held: Held },
    /// The process ended with a status.
    ExitStatus { status: u32, ticket: Ticket, held: Held },
    /// The process was ended by a signal.
    ExitSignal { signal: Sig, core_dumped: bool, message: String, language: String, ticket: Ticket, held: Held },
    /// Whether the client may do flow control.
    XonXoff { client_can_do: bool, ticket: Ticket, held: Held },
    /// No more output.
    Eof { ticket: Ticket, held: Held },
    /// The channel is closed.
    Close { ticket: Ticket },
}

/// The target's answer to a request, and the ticket of its record.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) success: bool,
    pub(super) ticket: Ticket,
}

/// Requests on their way, in order: answers carry no name, their order is all there is.
#[derive(Debug, Default)]
pub(super) struct Asks(Mutex<VecDeque<(&'static str, oneshot::Sender<Answer>)>>);

impl Asks {
    /// Expects an answer to a request that is about to be sent.
    pub(super) fn expect(&self, what: &'static str, answer: oneshot::Sender<Answer>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back((what, answer));
    }

    fn next(&self) -> Option<(&'static str, oneshot::Sender<Answer>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Gives up on all answers: whoever waits learns that there will be none.
    pub(super) fn abandon(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Where what the target says on one channel goes.
pub(super) struct Outlet {
    recording: Recording,
    chan: u32,
    queue: mpsc::UnboundedSender<Down>,
    asks: Arc<Asks>,
    backlog: Arc<Backlog>,
    tape: Arc<Tape>,
}

/// The relay's end of it.
pub(super) struct Inbox {
    pub(super) down: mpsc::UnboundedReceiver<Down>,
    pub(super) asks: Arc<Asks>,
    /// Bytes in `down` and in the pump.
    pub(super) backlog: Arc<Backlog>,
}

impl Inbox {
    /// Takes nothing more: what the target says from now on is let go, and whoever waits for an answer gets none.
    pub(super) fn end(&mut self) {
        self.backlog.release();
        self.asks.abandon();
        self.down.close();
    }
}

impl Outlet {
    /// Makes both ends for the channel of that number in the record.
    pub(super) fn new(recording: &Recording, chan: u32, tape: &Arc<Tape>, backlog: &Arc<Backlog>) -> (Self, Inbox) {
        let (queue, down) = mpsc::unbounded_channel();
        let asks = Arc::new(Asks::default());
        let outlet = Self {
            recording: recording.clone(),
            chan,
            queue,
            asks: Arc::clone(&asks),
            backlog: Arc::clone(backlog),
            tape: Arc::clone(tape),
        };
        (outlet, Inbox { down, asks, backlog: Arc::clone(backlog) })
    }

    /// Whether nobody takes anything any more.
    pub(super) fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    fn record(&self, event: Event) -> Ticket {
        self.recording.record(Side::Target, event)
    }

    fn queue(&self, down: Down) {
        // Nobody takes it once the channel is over.
        let _ = self.queue.send(down);
    }

    pub(super) fn output(&self, stderr: bool, data: &[u8]) {
        // What nobody will be shown is not part of what was shown.
        if self.queue.is_closed() || self.backlog.is_released() {
            return;
        }
        for piece in data.chunks(STREAM_LEN_MAX) {
            let held = self.backlog.hold(piece.len());
            let piece = Bytes::copy_from_slice(piece);
            let ticket = self.tape.output(&self.recording, self.chan, stderr, piece);
            self.queue(Down::Data { stderr, ticket, held });
        }
    }

    pub(super) fn extended(&self, code: u32, data: &[u8]) {
        for piece in data.chunks(STREAM_LEN_MAX) {
            let held = self.backlog.hold(piece.len());
            let event = Event::map(extended::TYPE, self.chan)
                .with(extended::CODE, code)
                .with(extended::DATA, piece)
                .with(extended::SIDE, 1u32);
            let ticket = self.record(event);
            self.queue(Down::Extended { code, ticket, held });
        }
    }

    pub(super) fn answered(&self, success: bool) {
        let Some((what, answer)) = self.asks.next() else {
            // An answer that nobody asked for means nothing (Go CVE-2026-39830).
            return;
        };
        let event = Event::map(reply::TYPE, self.chan).with(reply::TO, what).with(reply::SUCCESS, success);
        let ticket = self.record(event);
        let _ = answer.send(Answer { success, ticket });
    }

    pub(super) fn exit_status(&self, status: u32) {
        let held = self.backlog.hold_item();
        let ticket = self.record(Event::map(exit::TYPE, self.chan).with(exit::STATUS, status));
        self.queue(Down::ExitStatus { status, ticket, held });
    }

    pub(super) fn exit_signal(&self, signal: Sig, core_dumped: bool, message: &str, language: &str) {
        let event = Event::map(exit::TYPE, self.chan)
            .with(exit::SIGNAL, super::signal_name(&signal).as_bytes())
            .with(exit::CORE, core_dumped)
            .with(exit::MESSAGE, message.as_bytes());
        let held = self.backlog.hold(message.len().saturating_add(language.len()));
        let ticket = self.record(event);
        let (message, language) = (message.to_owned(), language.to_owned());
        self.queue(Down::ExitSignal { signal, core_dumped, message, language, ticket, held });
    }

    pub(super) fn xon_xoff(&self, client_can_do: bool) {
        let event = Event::map(request::TYPE, self.chan).with(request::NAME, "xon-xoff").with(request::SIDE, 1u32);
        let held = self.backlog.hold_item();
        let ticket = self.record(event);
        self.queue(Down::XonXoff { client_can_do, ticket, held });
    }

    pub(super) fn eof(&self) {
        let held = self.backlog.hold_item();
        let ticket = self.record(Event::map(eof::TYPE, self.chan).with(eof::SIDE, 1u32));
        self.queue(Down::Eof { ticket, held });
    }

    pub(super) fn close(&self) {
        let ticket = self.record(Event::map(chan_close::TYPE, self.chan).with(chan_close::SIDE, 1u32));
        self.queue(Down::Close { ticket });
    }
}
