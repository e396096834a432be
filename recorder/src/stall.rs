//! Tells when the disk does not answer. Nothing is lost then, but everything waits, and people should know why.
//!
//! The journal thread says when it begins a turn and when it is back; another thread looks, since a thread that waits for
//! a disk cannot say so itself. Does not time sessions or single events.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Clock;

/// A turn of the journal thread that takes longer means that a disk does not answer.
const STALL_US: u64 = 2_000_000;

/// How often the watching thread looks.
const LOOK: Duration = Duration::from_millis(250);

/// Whether the journal thread is stuck in a turn.
#[derive(Debug)]
pub(crate) struct Stall {
    /// Boot-time clock at the beginning of the turn, in microseconds; 0 between turns.
    since_us: AtomicU64,
    stalled: watch::Sender<bool>,
}

impl Default for Stall {
    fn default() -> Self {
        Self { since_us: AtomicU64::new(0), stalled: watch::Sender::new(false) }
    }
}

impl Stall {
    pub(crate) fn turn_begins(&self, now_us: u64) {
        self.since_us.store(now_us.max(1), Ordering::Relaxed);
    }

    pub(crate) fn turn_ends(&self) {
        self.since_us.store(0, Ordering::Relaxed);
    }

    /// Looks once.
    fn look(&self, now_us: u64) {
        let since_us = self.since_us.load(Ordering::Relaxed);
        let stalled = since_us > 0 && now_us.saturating_sub(since_us) >= STALL_US;
        let changed = self.stalled.send_if_modified(|known| std::mem::replace(known, stalled) != stalled);
        match (changed, stalled) {
            (true, true) => tracing::error!("the disk does not answer: sessions wait until it does"),
            (true, false) => tracing::warn!("the disk answers again"),
            (false, _) => {}
        }
    }

    /// Looks until the other end of `alive` is gone.
    pub(crate) fn watch(&self, clock: &dyn Clock, alive: &Receiver<()>) {
        while matches!(alive.recv_timeout(LOOK), Err(RecvTimeoutError::Timeout)) {
            self.look(clock.now().boot_us);
        }
    }

    /// Whether the disk does not answer.
    pub(crate) fn is_now(&self) -> bool {
        *self.stalled.borrow()
    }

    /// Waits until the disk does not answer, or until it does.
    pub(crate) async fn wait(&self, stalled: bool) {
        // The sender lives as long as this does.
        let _ = self.stalled.subscribe().wait_for(|now| *now == stalled).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_that_takes_too_long_is_a_stall_until_it_is_over() {
        let stall = Stall::default();
        stall.look(5_000_000);
        stall.turn_begins(10_000_000);
        stall.look(10_000_000 + STALL_US - 1);
        assert!(!*stall.stalled.borrow());
        stall.look(10_000_000 + STALL_US);
        stall.wait(true).await;
        stall.turn_ends();
        stall.look(30_000_000);
        stall.wait(false).await;
        assert!(!*stall.stalled.borrow());
    }
}
