//! The times between checkpoints that a server dated: also such whose lock has ended since, for what is there was there. What was recorded in such a time could have been made anew until its end,
//! and rests on the node's word.

use casemate_certs::trust::Trust;

use super::log::NodeFacts;
use crate::time::{length, rfc3339};

/// How far apart anchors in a bucket may be where the trust file does not say, in microseconds: they come every minute, and
/// an operator is told after an hour without.
const GAP_MAX_US: u64 = 3600 * 1_000_000;

/// A time between two anchors, or the log's beginning and its first, or its last and now; in microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) from_us: u64,
    pub(super) to_us: u64,
}

impl Gap {
    pub(super) fn length_us(self) -> u64 {
        self.to_us.saturating_sub(self.from_us)
    }
}

/// When each size of the log was known outside, ascending: what covers more covers less too. With the wall clock of the newest
/// leaf that was covered.
fn dated(node: &NodeFacts) -> Vec<(u64, u64)> {
    let mut anchors = node.dated.clone();
    anchors.sort_unstable();
    let mut earliest = u64::MAX;
    let mut times: Vec<(u64, u64)> = Vec::with_capacity(anchors.len());
    for (_, server_us, wall_us) in anchors.into_iter().rev() {
        earliest = earliest.min(server_us);
        times.push((earliest, wall_us));
    }
    times.reverse();
    times
}

/// Lists the gaps of a node in its order, up to now or the end of the last of its keys.
pub(super) fn gaps(node: &NodeFacts, trust: Option<&Trust>, now_us: u64) -> Vec<Gap> {
    let times = dated(node);
    let Some((first_us, _)) = times.first() else { return Vec::new() };
    let mut ends = trust.into_iter().flat_map(|trust| trust.node(&node.name)).map(|listed| listed.period.until_us);
    // A node whose keys have all ended says nothing more.
    let retired_us = ends.try_fold(0, |last: u64, until_us| until_us.map(|until_us| last.max(until_us)));
    let end_us = retired_us.filter(|until_us| *until_us > 0).map_or(now_us, |until_us| until_us.min(now_us));
    let mut from_us = node.first_us.min(*first_us);
    let mut found = Vec::new();
    for to_us in times.iter().map(|(server_us, _)| *server_us).chain([end_us]) {
        if to_us > from_us {
            found.push(Gap { from_us, to_us });
            from_us = to_us;
        }
    }
    found
}

/// Returns by how much the worst anchor was later than the newest leaf under it, in microseconds.
pub(super) fn lateness_us(node: &NodeFacts) -> u64 {
    dated(node).iter().map(|(server_us, wall_us)| server_us.saturating_sub(*wall_us)).max().unwrap_or(0)
}

/// Says what is to be explained about the anchors of a node. Gaps that ended before `since_us` were looked at before.
pub(super) fn explain(node: &NodeFacts, trust: Option<&Trust>, now_us: u64, since_us: u64) -> Vec<String> {
    let allowed = trust.and_then(|trust| trust.anchor_age_max);
    let allowed_us = allowed.map_or(GAP_MAX_US, |age| u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
    let long =
        gaps(node, trust, now_us).into_iter().filter(|gap| gap.length_us() > allowed_us && gap.to_us >= since_us);
    let mut lines: Vec<String> = long
        .map(|gap| {
            format!(
                "anchors: none of {} between {} and {} ({}): what was recorded then rests on the node's word",
                node.name,
                rfc3339(gap.from_us),
                rfc3339(gap.to_us),
                length(gap.length_us())
            )
        })
        .collect();
    let late_us = dated(node)
        .iter()
        .filter(|(server_us, _)| *server_us >= since_us)
        .map(|(server_us, wall_us)| server_us.saturating_sub(*wall_us))
        .max()
        .unwrap_or(0);
    if late_us > allowed_us {
        let name = &node.name;
        lines.push(format!("anchors: a checkpoint of {name} came {} after the newest leaf under it", length(late_us)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_US: u64 = 60_000_000;

    /// A node whose log begins at minute 0; each anchor with its size, the minute of its newest leaf, and that of the server.
    fn node(anchors: &[(u64, u64, u64)]) -> NodeFacts {
        let dated = anchors.iter().map(|(size, wall, server)| (*size, server * MINUTE_US, wall * MINUTE_US));
        let mut node = NodeFacts::default();
        (node.name, node.dated) = ("n".to_owned(), dated.collect());
        node
    }

    fn lengths(node: &NodeFacts, now: u64) -> Vec<u64> {
        gaps(node, None, now * MINUTE_US).iter().map(|gap| gap.length_us() / MINUTE_US).collect()
    }

    #[test]
    fn a_day_without_anchors_is_a_gap_whatever_comes_after() {
        let steady = node(&[(1, 1, 1), (2, 2, 2), (3, 3, 3)]);
        assert_eq!(lengths(&steady, 4), [1, 1, 1, 1]);
        assert!(explain(&steady, None, 4 * MINUTE_US, 0).is_empty());
        // Nothing came since, and the vault says no more: the older state with its genuine anchors.
        assert_eq!(explain(&steady, None, 1443 * MINUTE_US, 0).len(), 1);
        // The node came back with less than it had.
        let back = node(&[(1, 1, 1), (2, 2, 2), (9, 1441, 1442)]);
        assert_eq!(lengths(&back, 1442), [1, 1, 1440]);
        assert!(explain(&back, None, 1442 * MINUTE_US, 0)[0].contains("rests on the node's word"));
        // Whoever has looked at that gap does not hear of it again.
        assert!(explain(&back, None, 1443 * MINUTE_US, 1443 * MINUTE_US).is_empty());
    }

    #[test]
    fn what_covers_more_covers_less_and_leaves_that_were_held_back_are_seen() {
        // An older checkpoint arrives late: the newer one had covered it.
        let refilled = node(&[(1, 1, 1), (2, 2, 500), (3, 3, 3)]);
        assert_eq!((lengths(&refilled, 4), lateness_us(&refilled)), (vec![1, 2, 1], MINUTE_US));
        let late = node(&[(1, 1, 1), (2, 2, 90), (3, 89, 90)]);
        assert_eq!(lateness_us(&late), 88 * MINUTE_US);
        assert_eq!(explain(&late, None, 91 * MINUTE_US, 0).len(), 2);
    }

    #[test]
    fn a_node_whose_keys_have_ended_need_not_speak() {
        use casemate_certs::trust::{Period, TrustedNode};
        use casemate_certs::vkey::NodePublicKey;
        let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]).verifying_key();
        let until = |until_us| {
            let period = Period { from_us: 0, until_us };
            let key = NodePublicKey::new("n", key).unwrap();
            Trust::self_asserted(None, vec![TrustedNode { key, period }])
        };
        let node = node(&[(1, 1, 1)]);
        assert_eq!(explain(&node, Some(&until(Some(2 * MINUTE_US))), 9999 * MINUTE_US, 0).len(), 0);
        assert_eq!(explain(&node, Some(&until(None)), 9999 * MINUTE_US, 0).len(), 1);
    }
}
