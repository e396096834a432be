//! The client's side of a [`Flow`]: what is asked for.

use std::time::Duration;

use casemate_recorder::transcript::event::{Event, Side};

use super::names::Heading;
use super::queue::{Asked, Full, Kind, micros};
use super::statement::Outcome;
use super::{Flow, Phase, Results, Unread, Verdict};
use crate::pg::codec::Piece;
use crate::sum::Sum;

/// What is read of the client's messages.
#[derive(Debug)]
pub(super) struct Ear {
    heading: Heading,
    /// How many messages came, CopyData not counted: its frames may be missing from the record, and a reader must be able to
    /// count.
    messages: u64,
    /// The neighbouring frames of CopyData: how many, and of what they carry the BLAKE3 where that is wanted.
    copied_frames: u64,
    copied: Option<Box<Sum>>,
    verdict: Verdict,
    /// What the target skips since something failed.
    unread: Unread,
}

impl Ear {
    pub(super) fn new(results: Results) -> Self {
        let copied = (results == Results::Hash).then(Box::default);
        let (heading, unread) = (Heading::new(), Unread::default());
        Self { heading, messages: 0, copied_frames: 0, copied, verdict: Verdict::Keep, unread }
    }

    /// Returns how many messages came, CopyData not counted.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    /// Returns the BLAKE3 of the CopyData so far.
    pub(super) fn copied_hash(&self) -> Option<Box<blake3::Hash>> {
        self.copied.as_ref().filter(|_| self.copied_frames > 0).map(|copied| Box::new(copied.finalize()))
    }

    /// The CopyData is over, one way or another.
    fn end_copied(&mut self) {
        if std::mem::take(&mut self.copied_frames) > 0
            && let Some(copied) = &mut self.copied
        {
            copied.reset();
        }
    }
}

impl Flow {
    /// Takes a piece of what the client sent, and tells what the record gets of its frame. `at` is the time since the session
    /// began.
    pub fn client(&mut self, piece: &Piece, payload: &[u8], at: Duration, events: &mut Vec<Event>) -> Verdict {
        if piece.tag == b'd' {
            return self.copied(piece, payload, events);
        }
        if piece.starts() {
            self.client.heading.begin(piece.tag);
        }
        self.client.heading.feed(payload);
        if piece.ends() {
            self.asked(piece, at, events);
        }
        Verdict::Keep
    }

    fn copied(&mut self, piece: &Piece, payload: &[u8], events: &mut Vec<Event>) -> Verdict {
        if piece.starts() {
            let row = self.client.copied_frames;
            self.client.verdict = if self.lost { Verdict::Keep } else { super::verdict(self.results, row) };
            self.client.copied_frames += 1;
        }
        if self.lost || self.skipping {
            return self.client.verdict;
        }
        if let Some(copied) = &mut self.client.copied {
            copied.update(payload);
        }
        let copied = payload.len() as u64;
        match self.phase {
            // Nothing else is in between.
            Phase::CopyIn | Phase::CopyBoth if self.queue.is_empty() => self.statement.copied += copied,
            _ => {
                if let Err(Full) = self.queue.push_copied(piece.frame, copied) {
                    self.lose(TOO_MANY, Side::Client, piece.frame, events);
                }
            }
        }
        self.client.verdict
    }

    fn asked(&mut self, piece: &Piece, at: Duration, events: &mut Vec<Event>) {
        let number = self.client.messages;
        self.client.messages += 1;
        let (heading, us) = (&self.client.heading, micros(at));
        let kind = match piece.tag {
            b'Q' => Kind::Query { us },
            b'F' => Kind::FunctionCall { us },
            b'P' => Kind::Parse { statement: heading.name(0) },
            b'B' => Kind::Bind { portal: heading.name(0), statement: heading.name(1) },
            b'D' if heading.kind() == b'S' => Kind::DescribeStatement { statement: heading.name(0) },
            // A kind that is neither fails, and what fails is told alike.
            b'D' => Kind::DescribePortal,
            b'E' => Kind::Execute { portal: heading.name(0), us },
            b'C' if heading.kind() == b'S' => Kind::CloseStatement { statement: heading.name(0) },
            b'C' => Kind::ClosePortal { portal: heading.name(0) },
            b'S' => Kind::Sync,
            b'c' | b'f' => Kind::CopyEnd { digest: self.client.copied_hash() },
            // Flush and Terminate have no answer.
            _ => return,
        };
        if !matches!(kind, Kind::Sync) {
            self.client.end_copied();
        }
        if self.lost {
            return;
        }
        let asked = Asked { number, frame: piece.frame, kind };
        if self.skipping {
            if !matches!(asked.kind, Kind::Sync) {
                return self.skip(&asked, events);
            }
            self.skipping = false;
        }
        if let Err(Full) = self.queue.push(asked) {
            return self.lose(TOO_MANY, Side::Client, piece.frame, events);
        }
        self.absorb();
    }

    /// Takes off the queue what belongs to the running COPY. The server ignores Flush and Sync there, since clients send them
    /// before they know that they are in one (§"COPY Operations").
    pub(super) fn absorb(&mut self) {
        while matches!(self.phase, Phase::CopyIn | Phase::CopyBoth) {
            match self.queue.front().map(|asked| &asked.kind) {
                Some(Kind::Copied { .. } | Kind::CopyEnd { .. } | Kind::Sync) => {}
                // Anything else fails the COPY.
                _ => return,
            }
            match self.queue.pop().map(|asked| asked.kind) {
                Some(Kind::Copied { bytes }) => self.statement.copied += bytes,
                Some(Kind::CopyEnd { digest }) => {
                    self.statement.copied_hash = digest;
                    self.phase = if self.phase == Phase::CopyIn { Phase::CopiedIn } else { self.phase };
                }
                _ => self.taken_syncs += 1,
            }
        }
    }

    /// Starts to skip: up to the next Sync nothing that the client sent is read.
    pub(super) fn skip_to_sync(&mut self, events: &mut Vec<Event>) {
        while self.queue.front().is_some_and(|asked| !matches!(asked.kind, Kind::Sync)) {
            if let Some(asked) = self.queue.pop() {
                self.skip(&asked, events);
            }
        }
        self.skipping = self.queue.is_empty();
    }

    /// Remembers what failed, for those that were to build on it.
    pub(super) fn unread_from(&mut self, failed: &Asked) {
        let mut unread = Unread::default();
        self.unread(failed, Outcome::Failed, &mut unread, &mut Vec::new());
        self.client.unread = unread;
    }

    fn skip(&mut self, asked: &Asked, events: &mut Vec<Event>) {
        let mut unread = std::mem::take(&mut self.client.unread);
        self.unread(asked, Outcome::Skipped, &mut unread, events);
        self.client.unread = unread;
    }
}

/// Why the thread is lost when the queue is full.
const TOO_MANY: &str = "more messages without an answer than can be kept";
