//! Orders of officers about legal holds (FORMAT.md §9): what may lift one, and whether that was signed by two persons.

use jiff::Timestamp;

use super::{Board, Tally};

/// The namespace of signatures on an order.
pub const HOLD_NAMESPACE: &str = "casemate-hold-v1";

/// So many different officers must sign an order.
pub const HOLD_QUORUM: usize = 2;

/// An order about one session: `casemate-hold-v1 set|lift <session> <time>`, one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldOrder<'a> {
    /// Whether it sets a hold or lifts one.
    pub set: bool,
    /// The session, as it is written.
    pub session: &'a str,
    /// When the officers say that they wrote it, in microseconds since 1970.
    pub time_us: u64,
}

impl<'a> HoldOrder<'a> {
    /// Reads an order; a line feed may end it. `None` where the text is anything else.
    pub fn parse(text: &'a str) -> Option<Self> {
        let line = text.strip_suffix('\n').unwrap_or(text);
        let words: Vec<&str> = line.split(' ').collect();
        let [HOLD_NAMESPACE, verb, session, time] = words.as_slice() else { return None };
        let set = match *verb {
            "set" => true,
            "lift" => false,
            _ => return None,
        };
        // One spelling: `2026-11-23T08:00:00Z`.
        if time.len() != 20 || !time.ends_with('Z') || time.find('T') != Some(10) {
            return None;
        }
        let time_us = time.parse::<Timestamp>().ok().and_then(|time| u64::try_from(time.as_microsecond()).ok())?;
        Some(Self { set, session, time_us })
    }
}

impl Board {
    /// Whether two different officers, whose keys count at the time of the order, signed this text.
    ///
    /// # Errors
    /// Why not, for a person.
    pub fn ordered(&self, text: &str, signatures: &str) -> Result<(), String> {
        let order = HoldOrder::parse(text).ok_or("the order is not one about a hold")?;
        let tally = Tally::count_in(HOLD_NAMESPACE, self, order.time_us, text.as_bytes(), signatures);
        if tally.signers.len() >= HOLD_QUORUM {
            return Ok(());
        }
        let refused =
            tally.refused.first().map_or_else(String::new, |refused| format!("; a signature {}", refused.why));
        Err(format!("signed by {} of {HOLD_QUORUM} officers{refused}", tally.signers.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_has_one_form() {
        let text = "casemate-hold-v1 lift 019aacd1-0000-7000-8000-000000000001 2026-11-23T08:00:00Z";
        let order = HoldOrder::parse(text).unwrap();
        assert_eq!((order.set, order.time_us), (false, 1_795_420_800_000_000));
        assert_eq!(HoldOrder::parse(&format!("{text}\n")), Some(order));
        for bad in [
            text.replace("lift", "raise"),
            text.replace("-v1", "-v2"),
            text.replace(' ', "  "),
            format!("{text}\n\n"),
            format!("{text} "),
            text.replace("T08:00:00Z", ""),
            text.replace("00Z", "00.0Z"),
            text.replace("00Z", "00+01:00"),
        ] {
            assert_eq!(HoldOrder::parse(&bad), None, "{bad:?}");
        }
    }
}
