//! Clocks for the recorder that are not the machine's: an hour need not take one.

use std::sync::atomic::{AtomicU64, Ordering};

use casemate_recorder::clock::{Clock, SystemClock};
use casemate_recorder::transcript::Stamp;

/// Clocks that run fast.
#[derive(Debug)]
pub struct Hasty {
    first: Stamp,
    begun_us: u64,
    haste: u64,
    shown: AtomicU64,
}

impl Hasty {
    /// Clocks that show `first` now, and run so many times as fast as the machine's.
    pub fn new(first: Stamp, haste: u64) -> Self {
        Self { first, begun_us: SystemClock.now().boot_us, haste, shown: AtomicU64::new(0) }
    }
}

impl Clock for Hasty {
    fn now(&self) -> Stamp {
        let passed = SystemClock.now().boot_us.saturating_sub(self.begun_us).saturating_mul(self.haste);
        // Two threads that look at once must not see them go back.
        let passed = self.shown.fetch_max(passed, Ordering::SeqCst).max(passed);
        Stamp { wall_us: self.first.wall_us + passed, boot_us: self.first.boot_us + passed }
    }
}
