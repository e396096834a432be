//! Orders of officers about legal holds (FORMAT.md §9): what may lift one, and whether that was signed by two persons.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::Hash;

use jiff::Timestamp;

use super::{Board, Tally, show_time};

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

/// Writes the line that officers sign, without a line feed.
impl fmt::Display for HoldOrder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.set { "set" } else { "lift" };
        // Whole seconds: the form has no fraction.
        let time = show_time(self.time_us - self.time_us % 1_000_000);
        write!(f, "{HOLD_NAMESPACE} {verb} {} {time}", self.session)
    }
}

/// What a node log says about a hold on a session, in one leaf.
#[derive(Debug, Clone, Copy)]
pub struct ToldHold<'a, S> {
    /// The session.
    pub session: S,
    /// Whether the hold is set or lifted.
    pub set: bool,
    /// When the leaf was written, in microseconds since 1970.
    pub wall_us: u64,
    /// What the officers signed.
    pub order: &'a str,
    /// Their signatures.
    pub signatures: &'a str,
}

/// The legal holds of a node log, leaf by leaf: set by any leaf that says so, lifted only by two officers of the trust file.
#[derive(Debug)]
pub struct Holds<'a, S> {
    board: Option<&'a Board>,
    /// Those that stand, with the time of the order, in microseconds since 1970.
    standing: HashMap<S, u64>,
    lifted: HashSet<S>,
}

impl<'a, S: Copy + Eq + Hash + fmt::Display> Holds<'a, S> {
    /// Begins with none. Without a board nobody can lift one.
    pub fn new(board: Option<&'a Board>) -> Self {
        Self { board, standing: HashMap::new(), lifted: HashSet::new() }
    }

    /// Takes the next leaf.
    ///
    /// # Errors
    /// Why it lifts nothing.
    pub fn take(&mut self, told: &ToldHold<'_, S>) -> Result<(), String> {
        let order = HoldOrder::parse(told.order);
        if told.set {
            // Whoever set it: that something must be kept needs no proof.
            let time_us = order.filter(|order| order.set).map_or(told.wall_us, |order| order.time_us);
            let known = self.standing.entry(told.session).or_insert(time_us);
            *known = time_us.max(*known);
            self.lifted.remove(&told.session);
            return Ok(());
        }
        let order = order.filter(|order| !order.set && order.session == told.session.to_string());
        let order = order.ok_or("the order does not lift it")?;
        // An order that lifted a hold before must not lift the next one.
        if self.standing.get(&told.session).is_some_and(|set_us| order.time_us <= *set_us) {
            return Err("the order is older than the hold".to_owned());
        }
        let board = self.board.ok_or("no trust file names officers who may")?;
        board.ordered(told.order, told.signatures)?;
        self.standing.remove(&told.session);
        self.lifted.insert(told.session);
        Ok(())
    }

    /// Whether a hold stands on a session.
    pub fn stands(&self, session: S) -> bool {
        self.standing.contains_key(&session)
    }

    /// Returns the sessions that must be kept, and those of which the hold was lifted.
    pub fn finish(self) -> (HashSet<S>, HashSet<S>) {
        (self.standing.into_keys().collect(), self.lifted)
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
        assert_eq!(HoldOrder { time_us: order.time_us + 999_999, ..order }.to_string(), text);
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
