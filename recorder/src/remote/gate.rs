//! When to ask a server that does not answer again. Sans-IO.

/// The first pause, in microseconds.
const PAUSE_MIN_US: u64 = 500_000;

/// The longest: what waits is there at most this long after the server is back.
const PAUSE_MAX_US: u64 = 8_000_000;

/// Closed while a server is not up to it: then one request at a time tries whether it is.
#[derive(Debug, Default)]
pub(super) struct Gate {
    failures: u32,
    closed_until_us: u64,
}

impl Gate {
    /// How many requests may be under way at this moment of the boot-time clock.
    pub(super) fn width(&self, now_us: u64, open: usize) -> usize {
        match self.failures {
            0 => open,
            _ if now_us < self.closed_until_us => 0,
            _ => 1,
        }
    }

    /// When it opens, if it is closed.
    pub(super) fn opens_us(&self, now_us: u64) -> Option<u64> {
        (self.failures > 0 && now_us < self.closed_until_us).then_some(self.closed_until_us)
    }

    /// The server did what it was asked.
    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// It did not answer, or asked for patience; `dice` spreads the next attempts of many nodes.
    pub(super) fn failed(&mut self, now_us: u64, dice: u64) {
        let pause_us = PAUSE_MIN_US.checked_shl(self.failures).unwrap_or(PAUSE_MAX_US).min(PAUSE_MAX_US);
        self.failures = self.failures.saturating_add(1).min(16);
        self.closed_until_us = now_us.saturating_add(pause_us / 2).saturating_add(dice % (pause_us / 2));
    }

    /// Whether the last request came to nothing.
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_fails_is_asked_less_and_less_and_one_at_a_time() {
        let mut gate = Gate::default();
        assert_eq!(gate.width(0, 6), 6);
        let mut now_us = 0;
        for round in 0..40 {
            gate.failed(now_us, round * 104_729);
            assert_eq!(gate.width(now_us, 6), 0);
            let opens_us = gate.opens_us(now_us).unwrap();
            assert!((PAUSE_MIN_US / 2..=PAUSE_MAX_US).contains(&(opens_us - now_us)), "{round}");
            now_us = opens_us;
            assert_eq!((gate.width(now_us, 6), gate.opens_us(now_us)), (1, None));
        }
        gate.succeeded();
        assert_eq!(gate.width(now_us, 6), 6);
    }
}
