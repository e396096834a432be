//! How often somebody is told of the same kind of thing: at once the first time, then at most once a minute.
//!
//! What is held back is not lost: the newest is told when the minute is over, with the number of the others. Time comes in
//! as an argument.

use std::time::Duration;

use tokio::time::Instant;

use super::{Alert, Kind};

/// Between two of a kind.
const EVERY: Duration = Duration::from_secs(60);

/// An alert that is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) alert: Alert,
    /// How many of its kind were held back since the last that was told.
    pub(super) suppressed: u64,
}

/// What was told of one kind, and what waits.
#[derive(Debug)]
struct Row {
    kind: Kind,
    /// When the next may be told.
    open_at: Instant,
    held: Option<Told>,
}

/// Decides what is told when.
#[derive(Debug, Default)]
pub(super) struct Pace(Vec<Row>);

impl Pace {
    /// Takes an alert, and returns what is told now.
    pub(super) fn raised(&mut self, alert: Alert, now: Instant) -> Option<Told> {
        let told = Told { alert, suppressed: 0 };
        let Some(row) = self.0.iter_mut().find(|row| row.kind == told.alert.kind) else {
            self.0.push(Row { kind: told.alert.kind, open_at: now + EVERY, held: None });
            return Some(told);
        };
        let suppressed = row.held.take().map_or(0, |held| held.suppressed + 1);
        let told = Told { suppressed, ..told };
        if now >= row.open_at {
            row.open_at = now + EVERY;
            return Some(told);
        }
        row.held = Some(told);
        None
    }

    /// Returns when something that waits is to be told.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.iter().filter(|row| row.held.is_some()).map(|row| row.open_at).min()
    }

    /// Returns what waited long enough.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Told> {
        let open = self.0.iter_mut().filter(|row| row.held.is_some() && now >= row.open_at);
        open.filter_map(|row| {
            row.open_at = now + EVERY;
            row.held.take()
        })
        .collect()
    }

    /// Returns what waits, however long it did.
    pub(super) fn rest(&mut self) -> Vec<Told> {
        self.0.iter_mut().filter_map(|row| row.held.take()).collect()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn alert(kind: Kind, text: &str) -> Alert {
        Alert { kind, text: text.to_owned(), session: None, at: Timestamp::UNIX_EPOCH }
    }

    fn told(kind: Kind, text: &str, suppressed: u64) -> Told {
        Told { alert: alert(kind, text), suppressed }
    }

    #[test]
    fn the_first_is_told_at_once_and_others_once_a_minute_with_their_number() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let flood = Kind::LoginFlood;
        assert_eq!(pace.raised(alert(flood, "1"), start), Some(told(flood, "1", 0)));
        assert_eq!(pace.due(), None);
        for text in ["2", "3", "4"] {
            assert_eq!(pace.raised(alert(flood, text), start + Duration::from_secs(1)), None);
        }
        let due = pace.due().unwrap();
        assert_eq!(due, start + EVERY);
        assert_eq!(pace.tick(due - Duration::from_millis(1)), []);
        assert_eq!(pace.tick(due), [told(flood, "4", 2)]);
        assert_eq!((pace.tick(due), pace.due()), (Vec::new(), None), "once");
        // The minute counts from the last that was told.
        assert_eq!(pace.raised(alert(flood, "5"), due + Duration::from_secs(59)), None);
        assert_eq!(pace.raised(alert(flood, "6"), due + EVERY), Some(told(flood, "6", 1)));
        assert_eq!(pace.raised(alert(flood, "7"), due + EVERY * 3), Some(told(flood, "7", 0)));
    }

    #[test]
    fn one_kind_does_not_hold_back_another_and_what_waits_is_told_at_the_end() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for kind in Kind::ALL {
            assert!(pace.raised(alert(kind, "first"), start).is_some(), "{kind:?}");
        }
        assert!(pace.raised(alert(Kind::DiskStalled, "second"), start).is_none());
        assert_eq!(pace.rest(), [told(Kind::DiskStalled, "second", 0)]);
        assert_eq!(pace.rest(), []);
    }
}
