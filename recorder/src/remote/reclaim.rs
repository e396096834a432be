//! Which local copies can go when the disk fills: those that vaults elsewhere have, by leaves that they have as well. Sans-IO.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::log::leaf::Leaf;
use crate::transcript::block::SessionId;

/// How many vaults must have a segment before the copy here may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Proven {
    /// All that are configured.
    #[default]
    All,
    /// One of them.
    Any,
}

/// What the log says of copies, gathered leaf by leaf.
#[derive(Debug)]
pub(crate) struct Copies {
    /// For each vault elsewhere: how much of the log its newest checkpoint covers.
    covered: HashMap<String, u64>,
    /// Segments, and the vaults that have them.
    segments: BTreeMap<(SessionId, u32), (u64, HashSet<String>)>,
    live: HashSet<SessionId>,
    /// The control transcripts of this start and of the one before: a start reads the newest.
    control: Vec<SessionId>,
}

/// A local copy that can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dispensable {
    pub(crate) session: SessionId,
    pub(crate) segment_no: u32,
    pub(crate) bytes: u64,
}

impl Copies {
    /// `covered` names the vaults elsewhere, each with the size of its newest checkpoint.
    pub(crate) fn new(covered: HashMap<String, u64>) -> Self {
        Self { covered, segments: BTreeMap::new(), live: HashSet::new(), control: Vec::new() }
    }

    /// Takes the next leaf of the log.
    pub(crate) fn leaf(&mut self, index: u64, leaf: &Leaf) {
        match leaf {
            Leaf::Open(open) => {
                self.live.insert(open.session);
                if open.kind == CONTROL {
                    self.control.push(open.session);
                }
            }
            Leaf::Segment(segment) => {
                self.segments.insert((segment.session, segment.segment_no), (segment.bytes, HashSet::new()));
            }
            Leaf::Close(close) => {
                self.live.remove(&close.session);
            }
            Leaf::Recovered(recovered) => {
                self.live.remove(&recovered.close.session);
            }
            // A STORED that nobody outside knows of proves nothing after this machine is lost.
            Leaf::Stored(stored) if self.covered.get(&stored.vault).is_some_and(|size| index < *size) => {
                if let Some((_, vaults)) = self.segments.get_mut(&(stored.session, stored.segment_no)) {
                    vaults.insert(stored.vault.clone());
                }
            }
            _ => {}
        }
    }

    /// Whether the node itself needs a session: it is live, or one of the control transcripts that a start reads.
    pub(crate) fn is_needed(&self, session: SessionId) -> bool {
        let kept = self.control.get(self.control.len().saturating_sub(2)..).unwrap_or_default();
        self.live.contains(&session) || kept.contains(&session)
    }

    /// Returns the segments of a session.
    pub(crate) fn of(&self, session: SessionId) -> impl Iterator<Item = Dispensable> {
        let segments = self.segments.range((session, 0)..=(session, u32::MAX));
        segments.map(|((session, segment_no), (bytes, _))| Dispensable {
            session: *session,
            segment_no: *segment_no,
            bytes: *bytes,
        })
    }

    /// Whether all vaults elsewhere, if there are any, have the whole session.
    pub(crate) fn is_everywhere(&self, session: SessionId) -> bool {
        let mut segments = self.segments.range((session, 0)..=(session, u32::MAX));
        segments.all(|(_, (_, vaults))| vaults.len() == self.covered.len())
    }

    /// Returns what can go, the oldest first.
    pub(crate) fn dispensable(&self, proven: Proven) -> Vec<Dispensable> {
        let enough = |vaults: &HashSet<String>| match proven {
            Proven::All => !self.covered.is_empty() && vaults.len() == self.covered.len(),
            Proven::Any => !vaults.is_empty(),
        };
        let ended = self.segments.iter().filter(|((session, _), _)| !self.is_needed(*session));
        ended
            .filter(|(_, (_, vaults))| enough(vaults))
            .map(|((session, segment_no), (bytes, _))| Dispensable {
                session: *session,
                segment_no: *segment_no,
                bytes: *bytes,
            })
            .collect()
    }
}

/// The kind of control transcripts in OPEN.
const CONTROL: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::samples;

    fn id(number: u8) -> SessionId {
        SessionId([number; 16])
    }

    fn session(number: u8, kind: u8, ended: bool) -> Vec<Leaf> {
        samples::session(id(number), kind, 1, ended)
    }

    fn stored(number: u8, vault: &str) -> Leaf {
        samples::stored(id(number), vault)
    }

    fn dispensable(leaves: &[Leaf], covered: &[(&str, u64)], proven: Proven) -> Vec<u8> {
        let mut copies = Copies::new(covered.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect());
        leaves.iter().zip(0..).for_each(|(leaf, index)| copies.leaf(index, leaf));
        copies.dispensable(proven).iter().map(|copy| copy.session.0[0]).collect()
    }

    #[test]
    fn only_what_enough_vaults_have_by_leaves_that_they_have_can_go() {
        let mut leaves: Vec<_> = [session(1, 0, true), session(2, 0, true), session(3, 0, false)].concat();
        leaves.extend([stored(1, "a"), stored(2, "a"), stored(3, "a"), stored(1, "b"), stored(2, "gone")]);
        let all = leaves.len() as u64;
        assert_eq!(dispensable(&leaves, &[("a", all), ("b", all)], Proven::All), [1]);
        assert_eq!(dispensable(&leaves, &[("a", all), ("b", all)], Proven::Any), [1, 2], "3 is live");
        assert_eq!(dispensable(&leaves, &[("a", 9), ("b", all)], Proven::Any), [1], "a does not know that it has 2");
        assert_eq!(dispensable(&leaves, &[("a", 0), ("b", 0)], Proven::Any), [0; 0]);
        assert_eq!(dispensable(&leaves, &[], Proven::All), [0; 0], "nothing is elsewhere");
    }

    #[test]
    fn the_newest_control_transcripts_stay() {
        let mut leaves: Vec<_> = [session(1, 2, true), session(2, 2, true), session(3, 2, true)].concat();
        leaves.extend([stored(1, "a"), stored(2, "a"), stored(3, "a")]);
        assert_eq!(dispensable(&leaves, &[("a", 99)], Proven::All), [1]);
    }
}
