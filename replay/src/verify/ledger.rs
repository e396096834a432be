//! What a bucket says of the evidence in it: how each version is locked, and what lies under the same name. Gathered by
//! all who read, while they read.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use casemate_certs::trust::Trust;
use casemate_recorder::log::leaf::Open;
use casemate_recorder::transcript::block::SessionId;
use casemate_recorder::vault::s3::{LockMode, Standing};

use super::log::FINDINGS_MAX;
use crate::time::rfc3339;
use crate::vault::{Found, S3Vault, Version};
use casemate_screen::safe::visible;

/// Servers keep whole seconds, in microseconds.
const ROUNDING_US: u64 = 1_000_000;

/// Where the trust file does not say, a file of a node log is locked for as long as the session that is kept shortest, and for no
/// longer than this, in microseconds.
const RETAIN_MIN_US: u64 = 30 * 86_400_000_000;

/// A lock may end so much after the longest time that the trust file allows: nodes lock until the end of a day, and what was
/// late for a day more. In microseconds.
const LONG_SLACK_US: u64 = 3 * 86_400_000_000;

/// How the versions that were read are locked.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Table {
    pub(super) read: u64,
    pub(super) compliance: u64,
    pub(super) governance: u64,
    pub(super) unlocked: u64,
    pub(super) holds: u64,
    pub(super) earliest_us: Option<u64>,
    pub(super) latest_us: Option<u64>,
}

/// Findings of one kind: the first few, and how many there are.
#[derive(Debug, Default)]
pub(super) struct Few {
    count: usize,
    first: Vec<String>,
}

impl Few {
    pub(super) fn push(&mut self, what: String) {
        self.count += 1;
        if self.first.len() < FINDINGS_MAX {
            self.first.push(what);
        }
    }

    /// Returns the findings, and behind them how many more there are of what.
    pub(super) fn into_lines(self, what: &str) -> Vec<String> {
        let mut lines = self.first;
        if self.count > lines.len() {
            lines.push(format!("{} more {what}", self.count - lines.len()));
        }
        lines
    }
}

#[derive(Debug, Default)]
struct Inner {
    table: Table,
    unlocked: Few,
    short: Few,
    long: Few,
    over: Few,
    /// The shortest time that an OPEN asks for.
    kept_us: Option<u64>,
    /// Segments under a legal hold, by session: few ever are.
    held: HashMap<SessionId, usize>,
    /// Files of logs that are locked for less than [`RETAIN_MIN_US`], which nothing but the sessions can excuse: name, from, until.
    brief: Vec<(String, u64, u64)>,
}

/// Where it is written down.
#[derive(Debug)]
pub(super) struct Ledger {
    retain_min_us: Option<u64>,
    retain_max_us: Option<u64>,
    inner: Mutex<Inner>,
}

/// What came together.
#[derive(Debug, Default)]
pub(super) struct Totted {
    pub(super) table: Table,
    /// Content that was put over evidence.
    pub(super) altered: Vec<String>,
    pub(super) exceptions: Vec<String>,
}

impl Ledger {
    pub(super) fn new(trust: Option<&Trust>) -> Self {
        let in_us = |bound: std::time::Duration| u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
        let bounds = trust.map(|trust| trust.retention).unwrap_or_default();
        Self { retain_min_us: bounds.min.map(in_us), retain_max_us: bounds.max.map(in_us), inner: Mutex::default() }
    }

    /// Takes how a segment is locked: until the time that OPEN names, or longer.
    pub(super) fn segment(&self, key: &str, standing: &Standing, open: &Open) {
        let latest_us = self.retain_max_us.map(|max| open.wall_us.saturating_add(max));
        self.take(key, standing, open.retain_until_us, latest_us);
        let kept_us = open.retain_until_us.saturating_sub(open.wall_us);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.kept_us = Some(inner.kept_us.map_or(kept_us, |shortest| shortest.min(kept_us)));
        if standing.hold {
            *inner.held.entry(open.session).or_default() += 1;
        }
    }

    /// Takes how a file of a node log is locked: as long as the trust file asks for from when it came, and without that as long
    /// as the sessions are kept.
    pub(super) fn log_file(&self, key: &str, standing: &Standing) {
        let from = |bound: u64| standing.modified_us.saturating_add(bound);
        let until_us = self.retain_min_us.map_or(0, from);
        self.take(key, standing, until_us, self.retain_max_us.map(from));
        if let (None, Some(lock)) = (self.retain_min_us, standing.lock)
            && lock.until_us < from(RETAIN_MIN_US)
        {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.brief.push((visible(key), standing.modified_us, lock.until_us));
        }
    }

    fn take(&self, key: &str, standing: &Standing, until_us: u64, latest_us: Option<u64>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let table = &mut inner.table;
        table.read += 1;
        table.holds += u64::from(standing.hold);
        let key = visible(key);
        let Some(lock) = standing.lock else {
            table.unlocked += 1;
            return inner.unlocked.push(format!("lock: {key} is not locked"));
        };
        match lock.mode {
            LockMode::Compliance => table.compliance += 1,
            LockMode::Governance => table.governance += 1,
        }
        table.earliest_us = Some(table.earliest_us.map_or(lock.until_us, |earliest| earliest.min(lock.until_us)));
        table.latest_us = Some(table.latest_us.map_or(lock.until_us, |latest| latest.max(lock.until_us)));
        let end = rfc3339(lock.until_us);
        if lock.until_us.saturating_add(ROUNDING_US) < until_us {
            inner.short.push(too_short(&key, lock.until_us, until_us));
        }
        if let Some(latest_us) = latest_us
            && lock.until_us > latest_us.saturating_add(LONG_SLACK_US)
        {
            let latest = rfc3339(latest_us);
            inner.long.push(format!("lock: {key} is locked until {end}, and the trust file allows {latest}"));
        }
    }

    /// Takes the right versions of a file of a node log: the one that is locked best speaks for it.
    pub(super) fn right(&self, key: &str, found: &[&Found]) {
        let standings = found.iter().filter_map(|found| found.standing.as_ref());
        if let Some(best) = standings.max_by_key(|standing| standing.lock.map(|lock| lock.until_us)) {
            self.log_file(key, best);
        }
    }

    /// Takes a version with other content than the evidence under whose name it lies.
    pub(super) fn over(&self, key: &str, version: &Version) {
        let what = format!("{}: {version} has other content than the evidence, which is here too", visible(key));
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).over.push(what);
    }

    /// Says of which of these sessions, which must be kept by order, not all of so many segments are under a legal hold.
    pub(super) fn unheld<'a>(&self, sessions: impl Iterator<Item = (&'a SessionId, usize)>) -> Vec<String> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut few = Few::default();
        for (session, segments) in sessions {
            let held = inner.held.get(session).copied().unwrap_or(0);
            if held < segments {
                few.push(format!(
                    "hold: session {session} must be kept by order, and {} of its {segments} segments are under no legal hold: \
                     `enforce` sets it",
                    segments - held
                ));
            }
        }
        few.into_lines("sessions are not held")
    }

    /// Returns what came together. What hides a session that is `excused` is no finding.
    pub(super) fn tot_up(self, bucket: &S3Vault, excused: &HashSet<SessionId>) -> Totted {
        let Inner { table, unlocked, mut short, long, over, kept_us, brief, held: _ } =
            self.inner.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (key, from_us, until_us) in brief {
            let wanted_us = from_us.saturating_add(kept_us.map_or(RETAIN_MIN_US, |kept_us| kept_us.min(RETAIN_MIN_US)));
            if until_us.saturating_add(ROUNDING_US) < wanted_us {
                short.push(too_short(&key, until_us, wanted_us));
            }
        }
        let (mut markers, mut shadows) = (Few::default(), Few::default());
        for hidden in bucket.hidden() {
            if hidden.session.is_some_and(|session| excused.contains(&session)) {
                continue;
            }
            let key = visible(&hidden.key);
            for id in &hidden.markers {
                let end = if hidden.remains { "it is still here" } else { "no version of it is left" };
                markers.push(format!("{key} is hidden by a delete marker, version {}: {end}", visible(id)));
            }
            for id in &hidden.shadows {
                shadows.push(format!("{key} has a shadow version, {}", visible(id)));
            }
        }
        let exceptions = [
            markers.into_lines("delete markers on evidence"),
            shadows.into_lines("shadow versions"),
            unlocked.into_lines("objects are not locked"),
            short.into_lines("locks end too early"),
            long.into_lines("locks end too late"),
        ];
        let altered = over.into_lines("versions with other content than the evidence");
        Totted { table, altered, exceptions: exceptions.concat() }
    }
}

fn too_short(key: &str, until_us: u64, wanted_us: u64) -> String {
    format!("lock: {key} is locked until {}, and must be until {}", rfc3339(until_us), rfc3339(wanted_us))
}

#[cfg(test)]
mod tests {
    use super::*;
    use casemate_recorder::transcript::block::Link;
    use casemate_recorder::vault::s3::Lock;

    const DAY_US: u64 = 86_400_000_000;

    fn standing(until_us: Option<u64>) -> Standing {
        let lock = until_us.map(|until_us| Lock { mode: LockMode::Compliance, until_us });
        Standing { version: None, bytes: 1, sha256: None, md5: None, lock, hold: false, modified_us: DAY_US }
    }

    #[test]
    fn a_lock_that_is_missing_too_short_or_too_long_is_found() {
        let retention = casemate_certs::trust::Retention {
            min: Some(std::time::Duration::from_secs(10 * 86_400)),
            max: Some(std::time::Duration::from_secs(100 * 86_400)),
        };
        let trust = Trust { retention, ..Trust::self_asserted(None, Vec::new()) };
        let open = Open {
            session: SessionId([1; 16]),
            kind: 0,
            protocol: 1,
            ordinal: 0,
            head_link: Link::ZERO,
            session_pub: [0; 32],
            wall_us: DAY_US,
            retain_until_us: 50 * DAY_US,
        };
        // Until when a segment and a log file are locked, and how many findings of each kind that makes.
        for (segment, log, expected) in [
            (Some(50 * DAY_US), Some(11 * DAY_US), [0, 0, 0]),
            // What servers round off is no finding.
            (Some(50 * DAY_US - 999_999), Some(11 * DAY_US), [0, 0, 0]),
            (Some(49 * DAY_US), Some(10 * DAY_US), [0, 2, 0]),
            (None, None, [2, 0, 0]),
            (Some(105 * DAY_US), Some(105 * DAY_US), [0, 0, 2]),
            (Some(104 * DAY_US), Some(104 * DAY_US), [0, 0, 0]),
        ] {
            let ledger = Ledger::new(Some(&trust));
            ledger.segment("s", &standing(segment), &open);
            ledger.log_file("l", &standing(log));
            let inner = ledger.inner.into_inner().unwrap();
            assert_eq!([inner.unlocked.count, inner.short.count, inner.long.count], expected, "{segment:?} {log:?}");
            assert_eq!(inner.table.read, 2);
        }
    }

    #[test]
    fn a_list_of_findings_is_cut_and_counts_on() {
        let mut few = Few::default();
        (0..FINDINGS_MAX + 3).for_each(|number| few.push(number.to_string()));
        let lines = few.into_lines("of them");
        assert_eq!((lines.len(), lines.last().unwrap().as_str()), (FINDINGS_MAX + 1, "3 more of them"));
    }
}
