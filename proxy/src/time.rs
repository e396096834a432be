//! The time as records have it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the present, in microseconds since 1970.
pub(crate) fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| u64::try_from(now.as_micros()).unwrap_or(u64::MAX))
}
