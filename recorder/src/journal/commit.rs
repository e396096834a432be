//! The end of a turn: written, synced where that is due, and told to everybody who waits for it.

use std::io;
use std::sync::Arc;

use super::sink::Turn;
use super::thread::Journal;
use crate::error::Frozen;
use crate::keeper::Job;
use crate::log::slip::Slip;
use crate::session::{Shared, Watermark};
use crate::transcript::Stamp;
use crate::transcript::head::Durability;

/// `fdatasync` under durability `process`.
pub(super) const PROCESS_SYNC_EVERY_US: u64 = 200_000;

impl Journal {
    /// Writes the turn, syncs it where that is due, and tells everybody.
    pub(super) fn commit(&mut self) -> io::Result<()> {
        let (turn, writes, mut disk_us) = self.write()?;
        let now = self.sink.queue.now();
        let due = match self.durability {
            Durability::Strict | Durability::Causal => !self.unsynced.is_empty(),
            Durability::Process => {
                !self.unsynced.is_empty() && now.boot_us.saturating_sub(self.synced_at_us) >= PROCESS_SYNC_EVERY_US
            }
        };
        let syncs = due || turn.must_sync || turn.checkpoint;
        if syncs {
            self.sink.sync_placed()?;
            self.sink.journal.sync()?;
            disk_us = disk_us.saturating_add(self.sink.queue.now().boot_us.saturating_sub(now.boot_us));
            self.synced_at_us = now.boot_us;
            for (shared, number) in self.unsynced.drain(..) {
                if self.sink.queue.frozen().is_none() {
                    shared.publish(Watermark::Durable, number);
                }
            }
        }
        if writes || syncs {
            self.sink.queue.meters().committed(disk_us);
        }
        self.after_sync(turn, now)
    }

    /// Writes the turn and tells those who wait for no more. Returns it, whether there was anything to write, and how long the
    /// disk took, in microseconds.
    fn write(&mut self) -> io::Result<(Turn, bool, u64)> {
        let begin_us = self.sink.queue.now().boot_us;
        self.sink.place_staged();
        let mut turn = std::mem::take(&mut self.sink.turn);
        if let Some(error) = turn.failed.take() {
            return Err(error);
        }
        if turn.must_sync || turn.checkpoint {
            // A leaf must not outlive a block that it speaks of: the blocks are on disk before the leaf is in the journal.
            self.sink.sync_placed()?;
        }
        let writes = self.sink.journal.buffered() > 0;
        if writes {
            self.sink.journal.write()?;
            self.sink.queue.meters().written(turn.taken);
        }
        let disk_us = self.sink.queue.now().boot_us.saturating_sub(begin_us);
        // A frozen recorder writes what closes sessions, and lets nothing on.
        if self.sink.queue.frozen().is_none() {
            for (shared, number) in &turn.moved {
                shared.publish(Watermark::Written, *number);
            }
        }
        for job in turn.jobs.drain(..) {
            self.hand_over(job);
        }
        self.unsynced.append(&mut turn.moved);
        Ok((turn, writes, disk_us))
    }

    /// Takes a session's few events in and writes them, on the thread that recorded them: two changes of threads cost more than
    /// all of it. The journal's own thread syncs. False where there is more to do, which is that thread's as well.
    pub(crate) fn jot(&mut self, shared: &Arc<Shared>) -> bool {
        let more = self.broken.is_some()
            || self.sink.queue.frozen().is_some()
            || self.sink.journal.buffered() > 0
            || self.sink.journal.room() < self.room_min()
            || self.backlog.is_full();
        if more {
            return false;
        }
        let synced = self.unsynced.is_empty();
        self.take_in(shared);
        debug_assert!(!self.sink.turn.must_sync && !self.sink.turn.checkpoint, "events of a session ask for no sync");
        match self.write() {
            Ok((_, _, disk_us)) => self.sink.queue.meters().committed(disk_us),
            Err(error) => {
                // Nothing goes on from here; the thread ends what is open.
                self.sink.queue.freeze(Frozen::from_io("journal", &error));
                self.broken = Some(error);
                self.sink.queue.poke();
                return true;
            }
        }
        // One that waits for its timer has to know that there is something to sync; one that syncs each turn, to take one.
        if synced || self.durability != Durability::Process {
            self.sink.queue.poke();
        }
        true
    }

    /// Everything of the turn is durable: sign the log's head, publish, answer.
    fn after_sync(&mut self, turn: Turn, now: Stamp) -> io::Result<()> {
        // First of all: somebody waits for each of them, and for nothing below.
        for (reply, session) in turn.opened {
            // A caller that went away drops the handle, which closes the session.
            drop(reply.send(session));
        }
        if turn.checkpoint || !turn.slips.is_empty() {
            let note = self.sink.log.checkpoint()?;
            self.sink.queue.meters().checkpoint(note.checkpoint.size, now.wall_us);
            for (session, reply) in turn.slips {
                let slip = Slip::new(note.clone(), session).map_err(io::Error::other)?;
                // Whoever no longer waits does not need the slip.
                drop(reply.send(Ok(slip)));
            }
            self.hand_over(Job::Checkpoint { note, wall_us: now.wall_us });
        }
        for job in turn.publish {
            self.hand_over(job);
        }
        if let Some(catalogue) = &self.catalogue {
            turn.rows.into_iter().for_each(|entry| catalogue.tell(entry));
        }
        for (reply, frozen) in turn.denied {
            drop(reply.send(Err(frozen)));
        }
        for reply in turn.told {
            // Whoever no longer waits has it in the log all the same.
            let _ = reply.send(());
        }
        Ok(())
    }

    fn hand_over(&self, job: Job) {
        if let Job::Block { bytes, .. } = &job {
            self.backlog.enter(bytes.len() as u64);
        }
        // A keeper that stopped has said why, and that froze everything.
        let _ = self.keeper.send(job);
    }
}
