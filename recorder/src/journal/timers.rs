//! What the journal thread does because time passes: it cuts what is old, says how far sessions have come, gives a sign of life,
//! and looks whether the clock stepped.

use super::thread::{Journal, Live};
use crate::log::leaf::{self, Leaf};
use crate::transcript::Stamp;
use crate::transcript::block::SessionId;
use crate::transcript::event::{Event, Lane, Side, clock};

/// How often the timers are looked at, at most.
const TICK_US: u64 = 500_000;
/// HEADS and a checkpoint while sessions are live.
const HEADS_EVERY_US: u64 = 15_000_000;
/// HEARTBEAT, also when nothing happens.
const HEARTBEAT_EVERY_US: u64 = 60_000_000;
/// A wall clock that moves this much against the boot-time clock between two heartbeats has stepped.
const CLOCK_STEP_US: u64 = 1_000_000;

impl Journal {
    /// Cuts the open blocks and logs how far sessions have come: those that moved since the last time, or one.
    pub(super) fn add_heads(&mut self, only: Option<SessionId>) {
        let ids: Vec<_> = match only {
            Some(session) => vec![session],
            None => self.sessions.keys().copied().collect(),
        };
        let mut heads = Vec::new();
        for session in ids {
            self.cut_all(session);
            let Some(live) = self.sessions.get_mut(&session) else { continue };
            let chain = live.writer.chain();
            let block_no = chain.next_block().saturating_sub(1);
            if only.is_some() || live.heads_block != block_no {
                heads.push(leaf::Head { session, block_no, link: chain.prev(), events: chain.events().iter().sum() });
            }
            live.heads_block = block_no;
        }
        let wall_us = self.sink.queue.now().wall_us;
        for heads in heads.chunks(leaf::HEADS_MAX) {
            self.sink.leaf(&Leaf::Heads { wall_us, heads: heads.to_vec() });
            self.sink.turn.checkpoint = true;
            self.sink.turn.must_sync = true;
        }
    }

    /// Whatever is due by time.
    pub(super) fn tick(&mut self) {
        let now = self.sink.queue.now();
        if now.boot_us.saturating_sub(self.ticked_at_us) < TICK_US {
            return;
        }
        self.ticked_at_us = now.boot_us;
        let due: Vec<_> = self.sessions.keys().copied().collect();
        for session in due {
            let Some(live) = self.sessions.get_mut(&session).filter(|live| live.closing.is_none()) else { continue };
            for lane in Lane::ALL {
                if live.writer.is_aged(lane, now) {
                    self.sink.cut(session, &mut live.part, &mut live.writer, lane, &mut self.compressor);
                }
            }
            self.keep_up(session, now);
        }
        let buffered = |live: &mut Live| Lane::ALL.map(|lane| live.writer.buffered_len(lane)).iter().sum::<usize>();
        self.sink.queue.meters().waiting(self.sessions.values_mut().map(buffered).sum::<usize>() as u64);
        // The control transcript is always there; only others are worth a HEADS.
        if self.sessions.len() > 1 && now.boot_us.saturating_sub(self.heads_at_us) >= HEADS_EVERY_US {
            self.heads_at_us = now.boot_us;
            self.add_heads(None);
        }
        if now.boot_us.saturating_sub(self.heartbeat_at_us) >= HEARTBEAT_EVERY_US {
            self.heartbeat_at_us = now.boot_us;
            self.check_clock(now);
            self.sink.leaf(&Leaf::Heartbeat(leaf::Heartbeat {
                boot_id: self.boot_id,
                wall_us: now.wall_us,
                mono_us: now.boot_us,
                open: self.sessions.len() as u64,
            }));
            self.sink.turn.checkpoint = true;
        }
    }

    /// A stepped clock is an event, never a failure.
    fn check_clock(&mut self, now: Stamp) {
        let step = offset(now) - std::mem::replace(&mut self.clock_offset_us, offset(now));
        let step_us = u64::try_from(step.unsigned_abs()).unwrap_or(u64::MAX);
        if step_us < CLOCK_STEP_US {
            return;
        }
        let event = Event::map(clock::TYPE, 0)
            .with(clock::WALL_US, now.wall_us)
            .with(clock::BOOT_US, now.boot_us)
            .with(clock::STEP_US, step_us)
            .with(clock::BACKWARD, step < 0);
        if let Some(live) = self.control.and_then(|control| self.sessions.get_mut(&control)) {
            live.writer.append(Side::Client, &event, now);
            self.sink.run(Lane::Meta, &mut live.writer);
        }
    }
}

/// Wall minus boot-time clock.
pub(super) fn offset(now: Stamp) -> i128 {
    i128::from(now.wall_us) - i128::from(now.boot_us)
}
