//! Which sessions need not be kept any longer, read off the node log. Sans-IO.

use std::collections::BTreeMap;

use crate::log::leaf::{Leaf, LegalHold, Retired};
use crate::remote::{Copies, Dispensable};
use crate::transcript::block::SessionId;

/// A session that has ended and need not be kept any longer, by its OPEN leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired {
    /// The session.
    pub session: SessionId,
    /// When it was opened, in microseconds since 1970.
    pub opened_us: u64,
    /// Until when it had to be kept, in microseconds since 1970.
    pub retain_until_us: u64,
    /// How many segments it has.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What the log says of sessions whose time is over, gathered leaf by leaf.
#[derive(Debug)]
pub struct Overdue {
    until_us: u64,
    copies: Copies,
    /// Sessions whose time is over: when they were opened, and until when they had to be kept.
    expired: BTreeMap<SessionId, (u64, u64)>,
    retired: Vec<SessionId>,
    holds: Vec<LegalHold>,
}

impl Overdue {
    /// `until_us` is the time that has passed, in microseconds since 1970.
    pub(crate) fn new(until_us: u64, copies: Copies) -> Self {
        Self { until_us, copies, expired: BTreeMap::new(), retired: Vec::new(), holds: Vec::new() }
    }

    /// Takes the next leaf of the log.
    pub(crate) fn leaf(&mut self, index: u64, leaf: &Leaf) {
        match leaf {
            Leaf::Open(open) if open.retain_until_us <= self.until_us => {
                self.expired.insert(open.session, (open.wall_us, open.retain_until_us));
            }
            Leaf::Retired(retired) => self.retired(retired),
            Leaf::LegalHold(hold) => self.holds.push(hold.clone()),
            _ => {}
        }
        self.copies.leaf(index, leaf);
    }

    /// Takes that a session is retired.
    pub(crate) fn retired(&mut self, retired: &Retired) {
        self.expired.remove(&retired.session);
        self.retired.push(retired.session);
    }

    /// Returns every hold that was set or lifted, in the order of the log. Whether one stands depends on who signed.
    pub fn holds(&self) -> &[LegalHold] {
        &self.holds
    }

    /// Returns the sessions that may be retired where no hold stands, the oldest first. One that a vault elsewhere does not have
    /// yet waits until it does: somebody is about to put it there.
    pub fn sessions(&self) -> impl Iterator<Item = Expired> {
        let over = self
            .expired
            .iter()
            .filter(|(session, _)| !self.copies.is_needed(**session) && self.copies.is_everywhere(**session));
        over.map(|(session, (opened_us, retain_until_us))| {
            let mut expired = Expired {
                session: *session,
                opened_us: *opened_us,
                retain_until_us: *retain_until_us,
                segments: 0,
                bytes: 0,
            };
            for segment in self.copies.of(*session) {
                expired.segments += 1;
                expired.bytes = expired.bytes.saturating_add(segment.bytes);
            }
            expired
        })
    }

    /// Returns how many more have had their time and cannot be retired yet: live, needed by a start, or on their way to a vault.
    pub fn not_yet(&self) -> usize {
        self.expired.len() - self.sessions().count()
    }

    /// Returns the segments of sessions that are retired already.
    pub(crate) fn remains(&self) -> impl Iterator<Item = Dispensable> {
        self.retired.iter().flat_map(|session| self.copies.of(*session))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::remote::samples::{RETAIN_UNTIL_US, session, stored};

    fn id(number: u8) -> SessionId {
        SessionId([number; 16])
    }

    fn read(leaves: &[Leaf], until_us: u64, covered: &[(&str, u64)]) -> Overdue {
        let covered: HashMap<_, _> = covered.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect();
        let mut overdue = Overdue::new(until_us, Copies::new(covered));
        leaves.iter().zip(0..).for_each(|(leaf, index)| overdue.leaf(index, leaf));
        overdue
    }

    fn numbers(overdue: &Overdue) -> Vec<u8> {
        overdue.sessions().map(|expired| expired.session.0[0]).collect()
    }

    #[test]
    fn only_what_is_over_ended_and_everywhere_may_be_retired() {
        // 2 is live, and of the control transcripts the newest two are read by a start.
        let leaves = [
            session(id(1), 0, 2, true),
            session(id(2), 0, 1, false),
            session(id(3), 2, 1, true),
            session(id(4), 2, 1, true),
            session(id(5), 2, 1, false),
        ]
        .concat();
        let over = read(&leaves, RETAIN_UNTIL_US, &[]);
        assert_eq!(numbers(&over), [1, 3]);
        assert_eq!(over.not_yet(), 3);
        let first = over.sessions().next().unwrap();
        assert_eq!((first.segments, first.bytes, first.retain_until_us), (2, 20, RETAIN_UNTIL_US));
        assert_eq!(numbers(&read(&leaves, RETAIN_UNTIL_US - 1, &[])), [0; 0], "not a microsecond early");
        // A vault that does not have all of it yet.
        assert_eq!(numbers(&read(&leaves, RETAIN_UNTIL_US, &[("basel", 99)])), [0; 0]);
        let stored = [&leaves[..], &[stored(id(1), "basel"), stored(id(3), "basel")]].concat();
        assert_eq!(numbers(&read(&stored, RETAIN_UNTIL_US, &[("basel", 99)])), [3], "1 has a second segment");
        assert_eq!(numbers(&read(&stored, RETAIN_UNTIL_US, &[("basel", 9)])), [0; 0], "the vault does not know it");
    }

    #[test]
    fn what_is_retired_is_not_retired_again_and_its_files_can_go() {
        let mut leaves = [session(id(1), 0, 2, true), session(id(2), 0, 1, true)].concat();
        leaves.push(Leaf::Retired(Retired { session: id(1), wall_us: 0 }));
        let over = read(&leaves, RETAIN_UNTIL_US, &[]);
        assert_eq!(numbers(&over), [2]);
        let remains: Vec<_> = over.remains().map(|copy| (copy.session.0[0], copy.segment_no)).collect();
        assert_eq!(remains, [(1, 0), (1, 1)]);
    }
}
