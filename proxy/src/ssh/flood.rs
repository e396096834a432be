//! Telling a flood of small pieces from typing and from bulk, by what each read brought.
//!
//! Arithmetic on lengths and times; the caller waits. A terminal that is flooded costs by the piece, not by the byte:
//! a short pause lets pieces come together in the socket. An echo never waits, however fast somebody types.

use std::time::{Duration, Instant};

/// How long reads are watched before a verdict.
const SPAN: Duration = Duration::from_millis(8);

/// Less than this within a span is no flood: it is what people and prompts produce.
const FLOOD_BYTES: usize = 16 * 1024;

/// Fewer reads than this do not make a flood.
const FLOOD_READS: usize = 8;

/// Reads that are larger on average need no help.
const PIECE_SMALL: usize = 8 * 1024;

/// Reads that are larger on average despite the pause are bulk after all.
const PIECE_BULK: usize = 128 * 1024;

/// How long to let pieces come together: a quarter of the time for which a screen shows a picture. What a flood costs is mostly
/// waking up for it; with a pause of 1 ms it costs a sixth more.
const PAUSE: Duration = Duration::from_millis(4);

/// What the reads of the current span brought.
#[derive(Debug, Default)]
pub(super) struct Flood {
    since: Option<Instant>,
    bytes: usize,
    reads: usize,
    flooded: bool,
}

impl Flood {
    /// Takes in that a read at `now` brought `len` bytes.
    pub(super) fn note(&mut self, len: usize, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let elapsed = now.saturating_duration_since(since);
        if elapsed >= SPAN {
            self.flooded = elapsed < 2 * SPAN && self.is_flood();
            (self.since, self.bytes, self.reads) = (Some(now), 0, 0);
        }
        self.bytes += len;
        self.reads += 1;
    }

    fn is_flood(&self) -> bool {
        let mean = self.bytes / self.reads.max(1);
        let shaped = if self.flooded { mean < PIECE_BULK } else { self.reads >= FLOOD_READS && mean < PIECE_SMALL };
        self.bytes >= FLOOD_BYTES && shaped
    }

    /// Returns how long to wait before the next read.
    pub(super) fn pause(&self) -> Option<Duration> {
        self.flooded.then_some(PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds reads of `len` bytes, `gap` apart, for `spans` spans, and says whether a pause is due.
    fn paused(flood: &mut Flood, now: &mut Instant, len: usize, gap: Duration, spans: u32) -> bool {
        let end = *now + SPAN * spans;
        while *now < end {
            flood.note(len, *now);
            *now += gap;
        }
        flood.pause().is_some()
    }

    #[test]
    fn many_small_reads_are_a_flood_until_they_stop() {
        let (mut flood, mut now) = (Flood::default(), Instant::now());
        assert!(paused(&mut flood, &mut now, 1_000, Duration::from_micros(100), 3));
        assert!(paused(&mut flood, &mut now, 20_000, Duration::from_millis(2), 3), "held together they stay one");
        now += Duration::from_secs(1);
        flood.note(10, now);
        assert_eq!(flood.pause(), None, "after a silence nothing waits");
    }

    #[test]
    fn echoes_never_wait_however_fast_they_come() {
        let (mut flood, mut now) = (Flood::default(), Instant::now());
        assert!(!paused(&mut flood, &mut now, 100, Duration::from_micros(200), 20));
    }

    #[test]
    fn bulk_never_waits() {
        let (mut flood, mut now) = (Flood::default(), Instant::now());
        assert!(!paused(&mut flood, &mut now, 60_000, Duration::from_micros(200), 20));
        paused(&mut flood, &mut now, 1_000, Duration::from_micros(100), 3);
        assert!(!paused(&mut flood, &mut now, 200_000, Duration::from_micros(500), 5), "a flood that turns into bulk");
    }
}
