//! The result of a restore test (FORMAT.md §9): what was fetched, verified, opened and replayed, as the person who did it signs it.

use std::fmt;

use jiff::Timestamp;

use super::show_time;

/// The namespace of signatures on a result.
pub const RESTORE_NAMESPACE: &str = "casemate-restore-v1";

/// The first line of a result: `casemate-restore-v1 <time> restored <number> of <number>`. What follows is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// When it was done, in microseconds since 1970.
    pub time_us: u64,
    /// How many sessions came back whole: verified, opened, and replayed to their end.
    pub restored: u64,
    /// How many were tried.
    pub tried: u64,
}

impl Restored {
    /// Reads a result. `None` where the text is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.lines().next()?.split(' ').collect();
        let [RESTORE_NAMESPACE, time, "restored", restored, "of", tried] = words.as_slice() else { return None };
        let time_us = u64::try_from(time.parse::<Timestamp>().ok()?.as_microsecond()).ok()?;
        let found = Self { time_us, restored: restored.parse().ok()?, tried: tried.parse().ok()? };
        (found.restored <= found.tried).then_some(found)
    }

    /// Whether all of it came back. Of nothing, nothing is shown.
    pub fn is_whole(&self) -> bool {
        self.tried > 0 && self.restored == self.tried
    }
}

/// Writes the first line, without a line feed.
impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = show_time(self.time_us - self.time_us % 1_000_000);
        write!(f, "{RESTORE_NAMESPACE} {time} restored {} of {}", self.restored, self.tried)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_says_how_many_came_back() {
        let result = Restored { time_us: 1_795_420_800_000_000, restored: 4, tried: 5 };
        let text = result.to_string();
        assert_eq!(text, "casemate-restore-v1 2026-11-23T08:00:00Z restored 4 of 5");
        assert_eq!(Restored::parse(&format!("{text}\nsession 1 restored\n")), Some(result));
        assert!(!result.is_whole() && Restored { restored: 5, ..result }.is_whole());
        assert!(!Restored { restored: 0, tried: 0, ..result }.is_whole());
        for bad in
            ["", "casemate-restore-v1", &text.replace("4 of", "6 of"), &text.replace("of", "from"), &format!("{text} ")]
        {
            assert_eq!(Restored::parse(bad), None, "{bad:?}");
        }
    }
}
