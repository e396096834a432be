//! The byte streams of one channel on their way into the record, whatever the channel carries.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use casemate_recorder::transcript::event::{Event, Side, fwd_end, fwd_in, fwd_out, ssh_err, ssh_in, ssh_out};
use casemate_recorder::{Session as Recording, Ticket};

use super::files::{Files, Tap};
use super::passage::Passage;

/// What a channel's two directions record into.
pub(super) enum Tape {
    /// A program's input and output, and what it does to files.
    Program(Box<Files>),
    /// The bytes of a forwarded connection.
    Forward(Tally),
}

impl Tape {
    /// Makes the tape of a program.
    pub(super) fn program(files: Files) -> Self {
        Self::Program(Box::new(files))
    }

    /// Makes the tape of a forwarded connection.
    pub(super) fn forward(chan: u32, passage: Passage) -> Self {
        Self::Forward(Tally { chan, passage, sent: Mutex::default(), received: Mutex::default() })
    }

    /// Where the channel leads, if it is a forwarded connection.
    pub(super) fn passage(&self) -> Option<&Passage> {
        match self {
            Self::Program(_) => None,
            Self::Forward(tally) => Some(&tally.passage),
        }
    }

    /// Whether a connection is forwarded and no program runs: nothing is asked of it, it has no exit status, and nobody
    /// reads a line of ours.
    pub(super) fn is_forward(&self) -> bool {
        self.passage().is_some()
    }

    /// Records what the client sent.
    pub(super) fn input(&self, recording: &Recording, data: Bytes) -> Ticket {
        match self {
            Self::Program(files) => files.record(recording, Side::Client, ssh_in::TYPE, data),
            Self::Forward(tally) => tally.sent(recording, data),
        }
    }

    /// Records what the target sent; as of a program's standard error, where it was sent as that.
    pub(super) fn output(&self, recording: &Recording, chan: u32, stderr: bool, data: Bytes) -> Ticket {
        match (self, stderr) {
            (Self::Program(files), true) => files.record(recording, Side::Target, ssh_err::TYPE, data),
            (Self::Program(files), false) => files.record(recording, Side::Target, ssh_out::TYPE, data),
            // It is no part of the connection, and passes all the same.
            (Self::Forward(_), true) => recording.record(Side::Target, Event::stream(ssh_err::TYPE, chan, data)),
            (Self::Forward(tally), false) => tally.received(recording, data),
        }
    }

    /// Listens from here on, to a program that is about to start.
    pub(super) fn listen(&self, recording: &Recording, tap: Option<Tap>) {
        if let Self::Program(files) = self {
            files.listen(recording, tap);
        }
    }

    /// Listens no more: the program did not start.
    pub(super) fn stop(&self) {
        if let Self::Program(files) = self {
            files.stop();
        }
    }

    /// Records what the end of the channel leaves to be said: who ended it and, where that is not plain, why.
    pub(super) fn finish(&self, recording: &Recording, by: &'static str, reason: Option<&str>) {
        match self {
            Self::Program(files) => files.finish(recording),
            Self::Forward(tally) => tally.finish(recording, by, reason),
        }
    }
}

/// A forwarded connection, and what passed on it.
pub(super) struct Tally {
    chan: u32,
    passage: Passage,
    sent: Mutex<Passed>,
    received: Mutex<Passed>,
}

/// How much passed one way, and the BLAKE3 of it.
#[derive(Debug, Default)]
struct Passed {
    bytes: u64,
    /// Made with the first byte: many connections are one way, and a hasher takes two kilobytes.
    hash: Option<Box<blake3::Hasher>>,
}

impl Passed {
    fn take(&mut self, data: &[u8]) {
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        self.hash.get_or_insert_default().update(data);
    }

    fn told(&self) -> (u64, Bytes) {
        let hash = self.hash.as_ref().map_or_else(|| blake3::hash(b""), |hash| hash.finalize());
        (self.bytes, Bytes::copy_from_slice(hash.as_bytes()))
    }
}

impl Tally {
    fn sent(&self, recording: &Recording, data: Bytes) -> Ticket {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).take(&data);
        recording.record(Side::Client, Event::stream(fwd_in::TYPE, self.chan, data))
    }

    fn received(&self, recording: &Recording, data: Bytes) -> Ticket {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).take(&data);
        recording.record(Side::Target, Event::stream(fwd_out::TYPE, self.chan, data))
    }

    fn finish(&self, recording: &Recording, by: &'static str, reason: Option<&str>) {
        let (sent, sent_hash) = self.sent.lock().unwrap_or_else(PoisonError::into_inner).told();
        let (received, received_hash) = self.received.lock().unwrap_or_else(PoisonError::into_inner).told();
        let event = self
            .passage
            .ended(self.chan)
            .with(fwd_end::SENT, sent)
            .with(fwd_end::SENT_BLAKE3, sent_hash)
            .with(fwd_end::RECEIVED, received)
            .with(fwd_end::RECEIVED_BLAKE3, received_hash)
            .with(fwd_end::BY, by);
        let event = match reason {
            Some(reason) => event.with(fwd_end::REASON, reason),
            None => event,
        };
        drop(recording.record(Side::Client, event));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passed_is_counted_however_it_was_cut() {
        let (mut whole, mut cut) = (Passed::default(), Passed::default());
        let data: Vec<u8> = (0..9_999u32).map(|n| n as u8).collect();
        whole.take(&data);
        data.chunks(7).for_each(|piece| cut.take(piece));
        assert_eq!(whole.told(), cut.told());
        assert_eq!(whole.told(), (9_999, Bytes::copy_from_slice(blake3::hash(&data).as_bytes())));
        assert_eq!(Passed::default().told(), (0, Bytes::copy_from_slice(blake3::hash(b"").as_bytes())));
    }
}
