//! When what was recorded is due: speed, pauses, and idle times that nobody wants to sit through. Sans-IO: the caller
//! says what time it is.

use std::time::Duration;

/// Speeds that can be asked for, as multiples of the recorded one.
const SPEEDS: std::ops::RangeInclusive<f64> = 0.01..=10_000.0;

/// Maps the reader's clock to the moment that is shown.
#[derive(Debug)]
pub(super) struct Pace {
    speed: f64,
    idle_limit_us: Option<u64>,
    /// The moment in the session, in microseconds, at the time `since`.
    at_us: u64,
    since: Duration,
    paused: bool,
}

impl Pace {
    pub(super) fn new(speed: f64, idle_limit_us: Option<u64>) -> Self {
        Self { speed, idle_limit_us, at_us: 0, since: Duration::ZERO, paused: false }
    }

    /// Returns the moment that is shown, in microseconds since the session began.
    pub(super) fn position(&self, now: Duration) -> u64 {
        if self.paused {
            return self.at_us;
        }
        let passed = now.saturating_sub(self.since).as_micros() as f64 * self.speed;
        self.at_us.saturating_add(passed as u64)
    }

    /// Goes to a moment.
    pub(super) fn jump(&mut self, now: Duration, to_us: u64) {
        self.at_us = to_us;
        self.since = now;
    }

    /// Returns how long to wait for what happened at `t_us`; nothing to wait where it is due, forever while paused.
    pub(super) fn wait(&mut self, now: Duration, t_us: u64) -> Duration {
        let position = self.position(now);
        let Some(ahead) = t_us.checked_sub(position).filter(|ahead| *ahead > 0) else { return Duration::ZERO };
        if self.paused {
            return Duration::MAX;
        }
        let ahead = match self.idle_limit_us {
            Some(limit) if ahead > limit => {
                self.jump(now, t_us - limit);
                limit
            }
            _ => ahead,
        };
        Duration::from_secs_f64((ahead as f64 / self.speed / 1e6).min(1e6))
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    pub(super) fn toggle_pause(&mut self, now: Duration) {
        self.jump(now, self.position(now));
        self.paused = !self.paused;
    }

    pub(super) fn speed(&self) -> f64 {
        self.speed
    }

    /// Makes it faster or slower by a factor.
    pub(super) fn scale(&mut self, now: Duration, factor: f64) {
        self.jump(now, self.position(now));
        self.speed = (self.speed * factor).clamp(*SPEEDS.start(), *SPEEDS.end());
    }
}

/// Reads a speed.
pub(crate) fn parse_speed(text: &str) -> Result<f64, String> {
    let speed = text.parse::<f64>().ok().filter(|speed| SPEEDS.contains(speed));
    speed.ok_or_else(|| format!("is no speed: a number from {} to {}, such as 2", SPEEDS.start(), SPEEDS.end()))
}

/// Reads a length of time or a moment in a session, `[[h:]m:]s` with decimals, as microseconds.
pub(crate) fn parse_offset(text: &str) -> Result<u64, String> {
    let refused = || "is no time in a session: write seconds, m:s or h:m:s, such as 1:30".to_owned();
    let mut seconds = 0.0;
    for (at, part) in text.split(':').enumerate() {
        let plain = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let number = part.parse::<f64>().ok().filter(|_| plain && at < 3).ok_or_else(refused)?;
        seconds = seconds * 60.0 + number;
    }
    if seconds > 1e9 {
        return Err(refused());
    }
    Ok((seconds * 1e6) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn twice_the_speed_is_half_the_wait() {
        let mut pace = Pace::new(2.0, None);
        pace.jump(ms(1000), 0);
        assert_eq!(pace.wait(ms(1000), 4_000_000), ms(2000));
        assert_eq!(pace.wait(ms(2000), 4_000_000), ms(1000));
        assert_eq!(pace.wait(ms(3000), 4_000_000), ms(0));
        assert_eq!(pace.position(ms(3500)), 5_000_000);
        pace.scale(ms(3500), 0.5);
        assert_eq!(pace.position(ms(4500)), 6_000_000);
    }

    #[test]
    fn idle_times_are_cut_to_the_limit() {
        let mut pace = Pace::new(1.0, Some(2_000_000));
        assert_eq!(pace.wait(ms(0), 3_600_000_000), ms(2000));
        assert_eq!(pace.wait(ms(500), 3_600_000_000), ms(1500));
        assert_eq!(pace.wait(ms(2000), 3_600_000_000), ms(0));
        assert_eq!(pace.position(ms(2000)), 3_600_000_000);
    }

    #[test]
    fn a_pause_holds_the_moment() {
        let mut pace = Pace::new(1.0, None);
        pace.toggle_pause(ms(1500));
        assert_eq!((pace.position(ms(9000)), pace.wait(ms(9000), 2_000_000)), (1_500_000, Duration::MAX));
        pace.toggle_pause(ms(9000));
        assert_eq!(pace.wait(ms(9000), 2_000_000), ms(500));
    }

    #[test]
    fn times_and_speeds_are_read() {
        for (text, us) in [("90", 90_000_000), ("1:30.5", 90_500_000), ("1:00:00", 3_600_000_000), ("0", 0)] {
            assert_eq!(parse_offset(text), Ok(us));
        }
        for bad in ["", "-1", "1:2:3:4", "x", "1:", "inf", "1e3", "9999999999"] {
            assert!(parse_offset(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_speed("2.5"), Ok(2.5));
        assert!(["0", "-1", "NaN", "inf", "x", "1e9"].iter().all(|bad| parse_speed(bad).is_err()));
    }
}
