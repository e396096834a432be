//! All sessions of all logs, held against their evidence: one walks through the logs, and many take what it hands out.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use casemate_certs::trust::Trust;
use casemate_recorder::transcript::block::SessionId;

use super::Options;
use super::anchors::NodeTrust;
use super::earlier::{Known, Versions, rest, versions};
use super::facts::{Facts, conclude};
use super::log::{NodeFacts, Question, check_node};
use super::session::{Depth, Outcome, Plan, check_segment};
use super::state::State;
use crate::ReplayError;

/// Segments that wait for a worker; more would only hold memory.
const QUEUE_LEN: usize = 256;

/// A session on its way through the workers.
struct Job {
    plan: Plan,
    /// Which versions its segments are, in a bucket.
    versions: Option<Versions>,
    /// What an earlier run knew of exactly these, where that is to do.
    known: Option<Known>,
    outcomes: Mutex<Vec<Outcome>>,
}

impl Job {
    fn finish(self) -> Facts {
        let outcomes = self.outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
        Facts { versions: self.versions, ..conclude(self.plan, outcomes, self.known.as_ref()) }
    }
}

/// What came of reading everything.
pub(super) struct Checked {
    pub(super) nodes: Vec<NodeFacts>,
    pub(super) facts: Vec<Facts>,
    /// Sessions that nobody asked about.
    pub(super) left_out: HashSet<SessionId>,
}

/// Reads all logs and checks all sessions: on as many threads as there are processors, or as there are requests in flight.
pub(super) fn check_all(
    question: &Question<'_>,
    trust: Option<&Trust>,
    names: &[String],
    state: Option<&State>,
    options: &Options,
) -> Result<Checked, ReplayError> {
    let earlier = state.filter(|_| options.incremental);
    let depth = Depth { sha256: options.sha256, identities: options.identities.clone() };
    let done: Mutex<Vec<Facts>> = Mutex::default();
    let keep = |facts| done.lock().unwrap_or_else(PoisonError::into_inner).push(facts);
    let failed: Mutex<Option<ReplayError>> = Mutex::default();
    let (sender, receiver) = mpsc::sync_channel::<(Arc<Job>, u32)>(QUEUE_LEN);
    let receiver = Mutex::new(receiver);
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(64).max(question.vault.lanes());
    let mut left_out = HashSet::new();
    let nodes = std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| work(question, &receiver, &depth, &keep, &failed));
        }
        let mut nodes = Vec::new();
        let mut hand_out = |mut plan: Plan| {
            if !options.covers(&plan.open) {
                left_out.insert(plan.open.session);
                return;
            }
            let count = plan.segment_count();
            if count == 0 {
                keep(conclude(plan, Vec::new(), None));
                return;
            }
            let versions = question.vault.bucket().and_then(|bucket| versions(bucket, &plan));
            let known =
                earlier.zip(versions.as_ref()).and_then(|(state, versions)| state.known(&plan, versions)).cloned();
            let outcomes = Mutex::new(vec![Outcome::Absent; count as usize]);
            let job = Arc::new(Job { plan, versions, known, outcomes });
            // The workers live until the channel closes, which is below. The last segment takes the last handle along,
            // so that in the end one of the workers owns the job.
            for no in 1..count {
                let _ = sender.send((Arc::clone(&job), no));
            }
            let _ = sender.send((job, 0));
        };
        for name in names {
            let node_trust = NodeTrust::of(trust, name);
            match check_node(question, name, &node_trust, &mut hand_out) {
                Ok(node) => nodes.push(node),
                Err(error) => {
                    drop(sender);
                    return Err(error);
                }
            }
        }
        drop(sender);
        Ok(nodes)
    })?;
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(Checked { nodes, facts: done.into_inner().unwrap_or_else(PoisonError::into_inner), left_out }),
    }
}

fn work(
    question: &Question<'_>,
    receiver: &Mutex<mpsc::Receiver<(Arc<Job>, u32)>>,
    depth: &Depth,
    keep: &impl Fn(Facts),
    failed: &Mutex<Option<ReplayError>>,
) {
    let mut buffer = Vec::new();
    loop {
        let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((job, no)) = next else { return };
        // Where the bucket no longer answers there will be no verdict: what is left in the queue is only taken out.
        if failed.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            match check(question, &job, no, &mut buffer, depth) {
                Ok(outcome) => {
                    if let Some(slot) = job.outcomes.lock().unwrap_or_else(PoisonError::into_inner).get_mut(no as usize)
                    {
                        *slot = outcome;
                    }
                }
                Err(error) => drop(failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error)),
            }
        }
        // Exactly one handle, the last to go, gives up the job; by then all outcomes are in it.
        if let Some(job) = Arc::into_inner(job) {
            keep(job.finish());
        }
    }
}

/// Checks a segment: where an earlier run read it and it is still the same, without reading it again.
fn check(
    question: &Question<'_>,
    job: &Job,
    no: u32,
    buffer: &mut Vec<u8>,
    depth: &Depth,
) -> Result<Outcome, ReplayError> {
    let Question { vault, ledger, .. } = *question;
    if let (Some(_), Some(bucket)) = (&job.known, vault.bucket())
        && let Some(outcome) = rest(bucket, &job.plan, no, ledger)?
    {
        return Ok(outcome);
    }
    check_segment(vault, &job.plan, no, buffer, depth, ledger)
}
