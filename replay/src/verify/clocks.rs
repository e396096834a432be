//! What the clocks of a log say: how new it is, and how long ago a leaf was written.
//!
//! A wall clock is the node's own word, and an honest one may run ahead or be set back. So nothing here is measured up to the highest
//! time that a log ever named: how new it is says its newest leaf, and how much time went by say the steps from leaf to leaf.

use casemate_recorder::log::leaf::{Boot, Heartbeat, Leaf};

/// Clocks of a node and of the verifier may differ by this much, in microseconds.
pub(super) const AHEAD_US: u64 = 180_000_000;

/// The clocks of a log, as far as it was read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Clocks {
    /// Wall clock of the first leaf that has one. All are in microseconds since 1970.
    pub(super) first_us: u64,
    /// Wall clock of the newest leaf that has one.
    pub(super) newest_us: u64,
    /// The highest wall clock.
    pub(super) highest_us: u64,
    /// The highest wall clock that is not beyond the time of the verdict.
    pub(super) past_us: u64,
    /// How long the node wrote this log, in microseconds.
    pub(super) age_us: u64,
    /// That age at the newest leaf which tells the boot-time clock, and that clock.
    mark: Option<(u64, u64)>,
    /// Whether any leaf had a clock.
    pub(super) begun: bool,
}

impl Clocks {
    /// Takes the next leaf; returns its wall clock.
    pub(super) fn take(&mut self, leaf: &Leaf, now_us: u64) -> Option<u64> {
        let wall_us = leaf.wall_us()?;
        if self.begun {
            self.age_us = self.age_us.saturating_add(wall_us.saturating_sub(self.newest_us));
        } else {
            (self.first_us, self.begun) = (wall_us, true);
        }
        self.newest_us = wall_us;
        self.highest_us = self.highest_us.max(wall_us);
        if wall_us <= now_us {
            self.past_us = self.past_us.max(wall_us);
        }
        if let Leaf::Boot(Boot { mono_us, .. }) | Leaf::Heartbeat(Heartbeat { mono_us, .. }) = leaf {
            // Nobody sets this clock: a wall clock that went further was set. After a start of the machine it begins anew.
            if let Some((age_us, before_us)) = self.mark
                && let Some(went_us) = mono_us.checked_sub(before_us)
            {
                self.age_us = self.age_us.min(age_us.saturating_add(went_us));
            }
            self.mark = Some((self.age_us, *mono_us));
        }
        Some(wall_us)
    }

    /// Whether the newest leaf is dated after the time of the verdict, and not by clocks that differ a little.
    pub(super) fn runs_ahead(&self, now_us: u64) -> bool {
        self.newest_us > now_us.saturating_add(AHEAD_US)
    }

    /// Returns how new the log is: the time of its newest leaf, or where that has not come yet, of the newest that has.
    pub(super) fn known_us(&self, now_us: u64) -> u64 {
        if self.newest_us <= now_us { self.newest_us } else { self.past_us }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use casemate_recorder::log::leaf::Retired;
    use casemate_recorder::transcript::block::SessionId;

    const HOUR_US: u64 = 3_600_000_000;

    /// A sign of life at these hours of the wall clock and the boot-time clock.
    fn heartbeat(wall: u64, mono: u64) -> Leaf {
        Leaf::Heartbeat(Heartbeat { boot_id: [1; 16], wall_us: wall * HOUR_US, mono_us: mono * HOUR_US, open: 0 })
    }

    /// Any other leaf.
    fn other(wall: u64) -> Leaf {
        Leaf::Retired(Retired { session: SessionId([1; 16]), wall_us: wall * HOUR_US })
    }

    fn after(leaves: &[Leaf], now: u64) -> Clocks {
        let mut clocks = Clocks::default();
        for leaf in leaves {
            clocks.take(leaf, now * HOUR_US);
        }
        clocks
    }

    #[test]
    fn how_new_a_log_is_says_its_newest_leaf() {
        let honest = after(&[heartbeat(10, 1), heartbeat(500, 2), heartbeat(12, 3)], 12);
        assert_eq!((honest.known_us(12 * HOUR_US), honest.runs_ahead(12 * HOUR_US)), (12 * HOUR_US, false));
        let ahead = after(&[heartbeat(10, 1), heartbeat(11, 2), other(500)], 12);
        assert_eq!((ahead.known_us(12 * HOUR_US), ahead.runs_ahead(12 * HOUR_US)), (11 * HOUR_US, true));
        // Clocks that differ by a minute are no finding, and nothing is newer than now.
        let little = 12 * HOUR_US - 60_000_000;
        assert!(!honest.runs_ahead(little) && honest.known_us(little) <= 12 * HOUR_US);
        assert_eq!(after(&[other(7), other(3)], 12).first_us, 7 * HOUR_US);
    }

    #[test]
    fn a_clock_that_is_set_is_no_time_that_went_by() {
        for (what, leaves, age) in [
            ("steady", vec![heartbeat(1, 1), other(2), heartbeat(3, 3), other(4)], 3),
            ("ran ahead and came back", vec![heartbeat(1, 1), heartbeat(9, 2), heartbeat(3, 3), other(4)], 2),
            ("ran behind and was put right", vec![heartbeat(1, 1), heartbeat(2, 2), heartbeat(900, 3), other(901)], 3),
            ("the machine was off", vec![heartbeat(1, 50), heartbeat(9, 1), heartbeat(10, 2)], 9),
            ("and woke up in another century", vec![heartbeat(800, 50), heartbeat(1, 1), heartbeat(801, 2)], 1),
            ("no boot-time clock is told", vec![other(1), other(4), other(2), other(3)], 4),
        ] {
            assert_eq!(after(&leaves, 9999).age_us, age * HOUR_US, "{what}");
        }
    }
}
