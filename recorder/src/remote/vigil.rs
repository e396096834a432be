//! When to ask whether a bucket still is what it was, and whether what went there lately is still there. Sans-IO.

use std::collections::VecDeque;

use super::backlog::Due;
use crate::vault::s3::Wanted;

/// How often the bucket is asked whether it still keeps what it is given, in microseconds.
pub(super) const LOOK_EVERY_US: u64 = 30_000_000;

/// How often everything is tried that can be, the canary among it, in microseconds.
const TRY_EVERY_US: u64 = 86_400_000_000;

/// What was delivered is asked for once more after this long, in microseconds.
const RECHECK_AFTER_US: u64 = 20_000_000;

/// Deliveries that wait for that; beyond, the oldest is not asked for again.
const RECHECKS_MAX: usize = 1024;

/// A segment that was delivered.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    pub(super) due: Due,
    pub(super) version: String,
    pub(super) wanted: Wanted,
    /// When, in microseconds since 1970.
    pub(super) wall_us: u64,
    /// When, by the boot-time clock.
    pub(super) at_us: u64,
}

/// How much of a bucket to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Its settings.
    Settings,
    /// All there is to ask and to try.
    Everything,
}

/// What is to be looked at again.
#[derive(Debug, Default)]
pub(super) struct Vigil {
    deliveries: VecDeque<Delivery>,
    looked_at_us: Option<u64>,
    tried_at_us: Option<u64>,
    looking: bool,
}

impl Vigil {
    /// Remembers a delivery, to be asked for once more.
    pub(super) fn remember(&mut self, delivery: Delivery) {
        if self.deliveries.len() >= RECHECKS_MAX {
            self.deliveries.pop_front();
        }
        self.deliveries.push_back(delivery);
    }

    /// Takes a delivery that it is time to ask for.
    pub(super) fn recheck(&mut self, now_us: u64) -> Option<Delivery> {
        let oldest = self.deliveries.front()?;
        let is_due = now_us.saturating_sub(oldest.at_us) >= RECHECK_AFTER_US;
        if is_due { self.deliveries.pop_front() } else { None }
    }

    /// Says how much of the bucket to look at now; nothing until [`Vigil::looked`].
    pub(super) fn look(&mut self, now_us: u64) -> Option<Look> {
        let passed =
            |since_us: Option<u64>, long_us| since_us.is_none_or(|at_us| now_us.saturating_sub(at_us) >= long_us);
        if self.looking || !passed(self.looked_at_us, LOOK_EVERY_US) {
            return None;
        }
        self.looking = true;
        self.looked_at_us = Some(now_us);
        if !passed(self.tried_at_us, TRY_EVERY_US) {
            return Some(Look::Settings);
        }
        self.tried_at_us = Some(now_us);
        Some(Look::Everything)
    }

    /// The bucket has answered.
    pub(super) fn looked(&mut self) {
        self.looking = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::block::SessionId;
    use crate::vault::s3::{Lock, LockMode};

    fn delivery(number: u32, at_us: u64) -> Delivery {
        let lock = Lock { mode: LockMode::Compliance, until_us: 9 };
        let key = (SessionId([1; 16]), number);
        Delivery {
            due: Due { key, sha256: [0; 32], bytes: 1, retain_until_us: 9, fresh: true, tries: 0 },
            version: String::new(),
            wanted: Wanted { bytes: 1, sha256: [0; 32], md5: [0; 16], lock },
            wall_us: 0,
            at_us,
        }
    }

    #[test]
    fn everything_is_tried_at_first_and_once_a_day_and_the_settings_in_between() {
        let mut vigil = Vigil::default();
        assert_eq!(vigil.look(0), Some(Look::Everything));
        assert_eq!(vigil.look(LOOK_EVERY_US), None, "one at a time");
        vigil.looked();
        assert_eq!(vigil.look(LOOK_EVERY_US - 1), None);
        assert_eq!(vigil.look(LOOK_EVERY_US), Some(Look::Settings));
        vigil.looked();
        assert_eq!(vigil.look(TRY_EVERY_US), Some(Look::Everything));
    }

    #[test]
    fn a_delivery_is_asked_for_once_after_a_while_and_there_is_an_end_to_them() {
        let mut vigil = Vigil::default();
        vigil.remember(delivery(0, 5));
        assert!(vigil.recheck(RECHECK_AFTER_US + 4).is_none());
        assert!(vigil.recheck(RECHECK_AFTER_US + 5).is_some());
        assert!(vigil.recheck(u64::MAX).is_none());
        (0..RECHECKS_MAX as u32 + 2).for_each(|number| vigil.remember(delivery(number, 0)));
        assert_eq!(vigil.recheck(u64::MAX).unwrap().due.key.1, 2);
        assert_eq!(vigil.deliveries.len(), RECHECKS_MAX - 1);
    }
}
