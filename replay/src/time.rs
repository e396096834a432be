//! Times as people and JSON readers get them: RFC 3339 in UTC, and lengths of time in plain units.

use jiff::Timestamp;

/// Shows microseconds since 1970 as RFC 3339 in UTC, with all six digits.
pub(crate) fn rfc3339(wall_us: u64) -> String {
    let timestamp = i64::try_from(wall_us).ok().and_then(|us| Timestamp::from_microsecond(us).ok());
    format!("{:.6}", timestamp.unwrap_or(Timestamp::MAX))
}

/// Shows a length of time in the largest unit that leaves a sensible number.
pub(crate) fn length(us: u64) -> String {
    match us / 1_000_000 {
        0 => format!("{} ms", us / 1000),
        s @ 1..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s @ 7200..=172_799 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

/// Shows how long something took, in the unit that leaves a sensible number with a decimal.
pub(crate) fn duration(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{}.{} ms", us / 1_000, us / 100 % 10),
        _ => format!("{}.{} s", us / 1_000_000, us / 100_000 % 10),
    }
}

/// Shows a moment inside a session as `h:mm:ss.mmm`.
pub(crate) fn offset(us: u64) -> String {
    let ms = us / 1000;
    format!("{}:{:02}:{:02}.{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}

/// Returns the current time in microseconds since 1970.
pub(crate) fn now_us() -> u64 {
    u64::try_from(Timestamp::now().as_microsecond()).unwrap_or_default()
}

/// Reads a time, RFC 3339 or microseconds since 1970.
pub(crate) fn parse_time(text: &str) -> Result<u64, String> {
    let at = text.parse::<i64>().or_else(|_| text.parse::<Timestamp>().map(Timestamp::as_microsecond));
    let at = at.map_err(|_| "is no time: write it like 2026-11-22T08:00:00Z".to_owned())?;
    u64::try_from(at).map_err(|_| "lies before 1970".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_in_both_forms() {
        assert_eq!(parse_time("2025-11-22T00:00:00.000001Z"), Ok(1_763_769_600_000_001));
        assert_eq!(parse_time("1763769600000001"), Ok(1_763_769_600_000_001));
        assert!(
            parse_time("yesterday").is_err()
                && parse_time("-1").is_err()
                && parse_time("1969-01-01T00:00:00Z").is_err()
        );
    }

    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(rfc3339(1_763_769_600_000_001), "2025-11-22T00:00:00.000001Z");
        assert_eq!(rfc3339(u64::MAX).get(..4), Some("9999"));
        assert_eq!(offset(3_661_001_000), "1:01:01.001");
        assert_eq!([999, 1_250, 61_950_000].map(duration), ["999 µs", "1.2 ms", "61.9 s"]);
        assert_eq!(
            (length(999), length(119_000_000), length(7_200_000_000)),
            ("0 ms".into(), "119 s".into(), "2 h".into())
        );
    }
}
