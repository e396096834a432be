//! What is known about a session: the first state that applies (FORMAT.md §12).

use casemate_recorder::transcript::block::SessionId;

use super::facts::Facts;
use super::log::NodeFacts;
use super::{Judged, Status};

/// A segment may be in the log and not yet in the vault for this long, in microseconds.
pub(super) const PENDING_US: u64 = 3600 * 1_000_000;

/// A node that says nothing for longer was not well: three heartbeats, in microseconds.
pub(super) const SILENCE_US: u64 = 180_000_000;

/// By what a session is judged besides its own facts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scales {
    /// The time of the verdict, in microseconds since 1970.
    pub(super) now_us: u64,
    /// Whether segments may be dropped from this vault once they are in another one: from a bucket they may not.
    pub(super) may_drop: bool,
}

/// What follows from a state.
type Verdict = (Status, Option<String>, Option<u64>, bool);

/// Judges a session.
pub(super) fn judge(facts: Facts, node: Option<&NodeFacts>, scales: Scales) -> Judged {
    let plan = &facts.plan;
    let (newest_us, anchored_size, broken_below, boots) =
        node.map_or((0, 0, 0, 0), |node| (node.newest_us, node.anchored_size(), node.broken_below, node.boots));
    let since_proof = newest_us.saturating_sub(plan.proof_us);
    let last_index = plan.end.as_ref().map_or(plan.index, |end| end.index);
    let anchored = last_index < anchored_size;
    // A clock that is as far ahead is no sign of life either.
    let stale = plan.boots != boots || scales.now_us.abs_diff(newest_us) > SILENCE_US;
    let (status, reason, exposure_us, exception) = if plan.index < broken_below {
        (Status::Altered, Some("rests on leaves that do not fit a checkpoint".to_owned()), None, false)
    } else if let Some(what) = &facts.altered {
        (Status::Altered, Some(what.clone()), None, false)
    } else if let Some(what) = &facts.unreadable {
        (Status::Missing, Some(what.clone()), None, false)
    } else if let Some(verdict) = absence(&facts, node, scales) {
        verdict
    } else if !anchored {
        let as_of = node.and_then(NodeFacts::as_of_us).unwrap_or_else(|| plan.open.wall_us.min(newest_us));
        let what = "no anchor covers its end in the log".to_owned();
        (Status::Unanchored, Some(what), Some(newest_us.saturating_sub(as_of)), false)
    } else if let Some(end) = &plan.end {
        match &end.recovered {
            None => (Status::Clean, None, None, false),
            Some(rescue) => {
                let crash_us = rescue.boot.map_or(end.close.wall_us, |boot| boot.wall_us);
                let what = "the daemon was killed or lost power, and the next start ended the session".to_owned();
                (Status::Recovered, Some(what), Some(crash_us.saturating_sub(plan.proof_us)), true)
            }
        }
    } else if stale {
        let what = "open, and the node gave no recent sign of life".to_owned();
        (Status::Open, Some(what), Some(since_proof), true)
    } else {
        (Status::Open, Some("open now".to_owned()), Some(since_proof), false)
    };
    Judged { facts, status, reason, exposure_us, exception, anchored }
}

/// Says what follows where segments are not here.
fn absence(facts: &Facts, node: Option<&NodeFacts>, scales: Scales) -> Option<Verdict> {
    let (first, _) = facts.absent.first()?;
    let session = facts.plan.open.session;
    if let Some(node) = node.filter(|node| node.retired.contains_key(&session)) {
        return Some(match excuse(node, session, facts.plan.open.retain_until_us, scales.now_us) {
            Ok(()) => (Status::Retired, Some("deleted when its time was over".to_owned()), None, true),
            Err(why) => {
                let what = format!("segment {first} is not here, and the log's excuse has no proof: {why}");
                (Status::Missing, Some(what), None, false)
            }
        });
    }
    let elsewhere = |no: u32| node.and_then(|node| node.stored.get(&(session, no)));
    let mut gone = facts.absent.iter().filter(|(no, _)| !scales.may_drop || elsewhere(*no).is_none());
    let Some((no, logged_age_us)) = gone.next() else {
        let vault = elsewhere(*first).map_or("another vault", |name| name);
        return Some((Status::Pending, Some(format!("stored in {vault}, not here: verify it there")), None, true));
    };
    let oldest_us = gone.map(|(_, age_us)| *age_us).fold(*logged_age_us, u64::min);
    let late_us = node.map_or(0, |node| node.age_us).saturating_sub(oldest_us);
    if late_us <= PENDING_US {
        let what = format!("segment {no} is in the log and not yet in the vault");
        return Some((Status::Pending, Some(what), Some(late_us), true));
    }
    let said = elsewhere(*no).map_or_else(String::new, |name| format!(", and the log says it was stored in {name}"));
    Some((Status::Missing, Some(format!("segment {no} is in the log and not in the vault{said}")), None, false))
}

/// Whether the log may say that a session was deleted on purpose, which had to be kept until then.
pub(super) fn excuse(
    node: &NodeFacts,
    session: SessionId,
    retain_until_us: u64,
    now_us: u64,
) -> Result<(), &'static str> {
    if node.held.contains(&session) {
        return Err("a legal hold stands");
    }
    if !node.has_passed(retain_until_us, now_us) {
        return Err("no anchor shows that the time was over for which it must be kept");
    }
    Ok(())
}
