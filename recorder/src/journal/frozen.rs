//! What the journal thread still does once recording is frozen: it tells everybody, and closes what is open from the room
//! that the journal keeps for that. Nothing is handed on any more.

use std::io;
use std::sync::Arc;

use super::intake;
use super::thread::{Journal, Live};
use crate::error::Frozen;
use crate::queue::{Command, SlipReply};
use crate::session::Shared;
use crate::transcript::block::{HEADER_LEN, SessionId};
use crate::transcript::chain::INDEX_ENTRY_LEN;
use crate::transcript::event::Lane;
use crate::transcript::seal::CloseReason;

/// What a transcript's last blocks take beside its buffered events and its index: headers, links, CLOSE and the records
/// around them.
const END_LEN_MAX: usize = 16 * (HEADER_LEN + 128);

impl Journal {
    /// There is no room for another journal file: nothing goes on, but what is reserved suffices to close every session.
    pub(super) fn out_of_space(&self, error: io::Error) -> io::Result<()> {
        match Frozen::from_io("journal", &error) {
            frozen @ Frozen::NoSpace(_) => {
                self.sink.queue.freeze(frozen);
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Tells everybody, once, that recording is frozen, if it is. Sessions whose CLOSE is written are let go: the finished
    /// segment that they wait for is not taken any more, and what ends them is in the journal.
    pub(super) fn announce(&mut self) {
        let Some(frozen) = self.sink.queue.frozen().filter(|_| !self.announced) else { return };
        self.announced = true;
        tracing::error!(reason = %frozen, "recording is frozen");
        self.sessions.retain(|_, live| {
            live.shared.wake();
            let Some(closing) = live.closing.take() else { return true };
            self.sink.turn.denied.extend(closing.replies.into_iter().map(|reply| (reply, frozen.clone())));
            self.sink.turn.must_sync = true;
            false
        });
    }

    /// Closes a session from the reserve. The end is in the journal; the next start makes a segment of it.
    pub(super) fn close_frozen(
        &mut self,
        session: SessionId,
        reason: CloseReason,
        exit: Option<u32>,
        reply: Option<SlipReply>,
    ) {
        let frozen = self.sink.queue.frozen().unwrap_or(Frozen::Stopped);
        let Some(mut live) = self.sessions.remove(&session) else { return };
        live.shared.close();
        let replies = live.closing.take().map(|closing| closing.replies);
        match replies {
            // Its CLOSE is written already.
            Some(replies) => self.sink.turn.denied.extend(replies.into_iter().map(|reply| (reply, frozen.clone()))),
            None => self.end_from_reserve(session, &mut live, reason, exit),
        }
        self.sink.turn.denied.extend(reply.map(|reply| (reply, frozen)));
        self.sink.turn.must_sync = true;
    }

    fn end_from_reserve(&mut self, session: SessionId, live: &mut Live, reason: CloseReason, exit: Option<u32>) {
        let mut items = Vec::new();
        live.shared.drain(&mut items);
        intake::append_frozen(&mut live.writer, &items);
        let buffered: usize = Lane::ALL.into_iter().map(|lane| live.writer.buffered_len(lane)).sum();
        let index = live.writer.chain().next_block().saturating_mul(INDEX_ENTRY_LEN as u64);
        if self.sink.journal.room() < (buffered + END_LEN_MAX) as u64 + index {
            // What had a receipt is in the journal; the next start says how the session ended.
            tracing::warn!(%session, "no room is left to close this session, the next start recovers it");
            return;
        }
        for lane in Lane::ALL {
            self.sink.cut(session, &mut live.part, &mut live.writer, lane, &mut self.compressor);
        }
        let now = self.sink.queue.now();
        let end = live.writer.close(reason, exit, now);
        self.sink.end_segment(session, &mut live.part, end);
    }

    /// After a failure nothing more is written; whoever asks is told.
    pub(super) fn serve_frozen(&mut self) {
        let frozen = self.sink.queue.frozen().unwrap_or(Frozen::Stopped);
        for (_, live) in self.sessions.drain() {
            live.shared.close();
            let replies = live.closing.into_iter().flat_map(|closing| closing.replies);
            // Whoever no longer waits does not need the answer.
            replies.for_each(|reply| drop(reply.send(Err(frozen.clone()))));
        }
        for (reply, frozen) in std::mem::take(&mut self.sink.turn).denied {
            drop(reply.send(Err(frozen)));
        }
        let mut dirty: Vec<Arc<Shared>> = Vec::new();
        let mut commands = Vec::new();
        while !self.stopping {
            self.sink.queue.take(super::thread::TICK, &mut dirty, &mut commands);
            dirty.drain(..).for_each(|shared| shared.wake());
            for command in commands.drain(..) {
                match command {
                    Command::Close { reply: Some(reply), .. } | Command::Slip { reply, .. } => {
                        drop(reply.send(Err(frozen.clone())));
                    }
                    Command::Stop => self.stopping = true,
                    _ => {}
                }
            }
        }
    }
}
