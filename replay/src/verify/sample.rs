//! A few sessions, verified as `verify` does, with the logs of all.

use casemate_recorder::transcript::block::SessionId;

use super::{Options, Status, anchors, examine};
use crate::ReplayError;
use crate::vault::Vault;

/// What came of a sample.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) sessions: Vec<Sampled>,
    /// What is altered or missing, of logs too.
    pub(crate) altered: Vec<String>,
    /// Why nothing can be decided.
    pub(crate) undecided: Vec<String>,
    /// Up to when every node is anchored, in microseconds since 1970.
    pub(crate) as_of_us: Option<u64>,
}

/// What came of one session.
#[derive(Debug)]
pub(crate) struct Sampled {
    pub(crate) session: SessionId,
    /// Its state, as `verify` names it.
    pub(crate) status: &'static str,
    /// Why it is not clean.
    pub(crate) reason: Option<String>,
    /// Whether all of it is here and unchanged. What no anchor covers is undecided, which the doubts say.
    pub(crate) whole: bool,
    /// Bytes that were fetched.
    pub(crate) bytes: u64,
}

/// Verifies the sessions that `options.only` names, and opens them with its identities.
pub(crate) fn sample(vault: &Vault, options: &Options) -> Result<Sample, ReplayError> {
    let trust = options.trust.as_deref().map(anchors::read_trust).transpose()?;
    let findings = examine(vault, trust.as_ref(), &[], None, options)?;
    let sessions = findings.sessions.iter().map(|judged| Sampled {
        session: judged.facts.plan.open.session,
        status: judged.status.name(),
        reason: judged.reason.clone(),
        whole: matches!(judged.status, Status::Clean | Status::Recovered | Status::Unanchored),
        bytes: judged.facts.bytes,
    });
    Ok(Sample {
        sessions: sessions.collect(),
        altered: findings.all_altered(),
        undecided: findings.undecided.clone(),
        as_of_us: findings.as_of_us(),
    })
}
