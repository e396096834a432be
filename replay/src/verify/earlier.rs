//! What rests on an earlier run: a session of which everything was read once and right, and whose versions in the bucket are still
//! the same, need not be read again. That they are here, how long they are and how they are locked is asked every time.
//!
//! Only for a bucket, where what a version holds does not change as long as the storage is honest. Whoever does not want to rely on
//! that reads everything.

use casemate_recorder::vault::segment_key;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::facts::Facts;
use super::ledger::Ledger;
use super::session::{Outcome, Plan};
use crate::ReplayError;
use crate::vault::S3Vault;

/// The id of a version where a bucket had no versions: what it names may change.
const NO_VERSION: &str = "null";

/// Which versions the segments of a session are: beginning of a SHA-256, in hex.
pub(super) type Versions = String;

/// A session as it was when everything in it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Row", into = "Row")]
pub(super) struct Known {
    pub(super) versions: Versions,
    /// When it was read, in microseconds since 1970.
    pub(super) read_us: u64,
    pub(super) events: u64,
    pub(super) stream_bytes: Option<u64>,
    /// How long it lasted, in microseconds.
    pub(super) length_us: u64,
}

/// How it stands in a state file, where there may be very many.
type Row = (Versions, u64, u64, Option<u64>, u64);

impl From<Row> for Known {
    fn from((versions, read_us, events, stream_bytes, length_us): Row) -> Self {
        Self { versions, read_us, events, stream_bytes, length_us }
    }
}

impl From<Known> for Row {
    fn from(known: Known) -> Self {
        (known.versions, known.read_us, known.events, known.stream_bytes, known.length_us)
    }
}

impl Known {
    /// Returns what is to be remembered of a session that was found in order.
    pub(super) fn of(facts: &Facts, now_us: u64) -> Option<Self> {
        let versions = facts.versions.clone()?;
        let Facts { events, stream_bytes, length_us, .. } = *facts;
        Some(Self { versions, read_us: facts.rests_us.unwrap_or(now_us), events, stream_bytes, length_us })
    }
}

/// Says which versions the segments of a session are that has ended. Nothing where one of them is missing, hidden or shadowed, or
/// has other segments beside it than the log names: all that is to be looked at each time.
pub(super) fn versions(bucket: &S3Vault, plan: &Plan) -> Option<Versions> {
    let session = plan.open.session;
    plan.end.as_ref()?;
    if plan.problem.is_some() || !bucket.numbers(session).iter().eq(plan.segments.keys()) {
        return None;
    }
    let mut sum = Sha256::new();
    for (no, logged) in &plan.segments {
        let version = bucket.only(session, *no)?;
        let id = version.id.as_deref().filter(|id| *id != NO_VERSION)?;
        if version.bytes != Some(logged.bytes) {
            return None;
        }
        sum.update(no.to_le_bytes());
        sum.update(logged.sha256);
        sum.update((id.len() as u64).to_le_bytes());
        sum.update(id);
    }
    let sum = sum.finalize();
    Some(sum.iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}

/// Asks how the version of a segment is locked whose content was read before. Nothing where it is not as it was: then it is to be read.
///
/// # Errors
/// The bucket cannot be asked.
pub(super) fn rest(bucket: &S3Vault, plan: &Plan, no: u32, ledger: &Ledger) -> Result<Option<Outcome>, ReplayError> {
    let session = plan.open.session;
    let (Some(logged), Some(version)) = (plan.segments.get(&no), bucket.only(session, no)) else { return Ok(None) };
    let Some(standing) = bucket.look(session, no, &version)? else { return Ok(None) };
    // Few servers keep the sum that the log has; where one does, it costs nothing to compare.
    if standing.bytes != logged.bytes || standing.sha256.is_some_and(|sum| sum != logged.sha256) {
        return Ok(None);
    }
    ledger.segment(&segment_key(session, no), &standing, &plan.open);
    Ok(Some(Outcome::Rests(logged.bytes)))
}
