//! The seam to the clocks.

use std::fmt;
use std::time::SystemTime;

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::transcript::Stamp;

/// Tells both clocks.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Returns the wall clock and the boot-time clock.
    fn now(&self) -> Stamp;
}

/// The machine's clocks; one before 1970 counts as 1970.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Stamp {
        Stamp {
            // By way of the C library, as all that reads this clock in the libraries does: who is shown another day sees one day.
            wall_us: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX)),
            // Unlike the monotonic clock it counts on while the machine sleeps, so an idle limit cannot be slept out.
            boot_us: micros(clock_gettime(ClockId::Boottime)),
        }
    }
}

/// Microseconds of a time.
fn micros(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
    seconds.saturating_mul(1_000_000).saturating_add(nanos / 1000)
}
