//! What the verified transcript owes to what was forwarded.

use std::collections::BTreeMap;
use std::path::Path;

use casemate_recorder::transcript::event::{Body, Lane, Side, ssh_in, ssh_out};
use casemate_recorder::{Durability, SessionId};
use casemate_replay::reader::{End, Transcript};
use casemate_tests::disk::{Call, Operation};

use crate::workload::{Lens, Run};
use crate::world::{AUDITOR, Exported};

/// Returns the numbers of the operations that synced journal records.
pub(crate) fn journal_syncs(trace: &[Operation], journal_dir: &Path) -> Vec<u64> {
    let mut syncs = Vec::new();
    let (mut opened, mut journal) = (None, None);
    for (number, operation) in (1u64..).zip(trace) {
        if operation.path.parent() != Some(journal_dir) {
            continue;
        }
        match operation.call {
            // A handle keeps the name under which it was opened, whatever the file is called later.
            Call::Open => opened = Some(&operation.path),
            Call::Rename => journal = opened,
            Call::Sync if journal == Some(&operation.path) => syncs.push(number),
            _ => {}
        }
    }
    syncs
}

/// When the run was cut, and what the disk had promised by then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    /// Operations that were done.
    pub(crate) time: u64,
    /// The last sync of the journal among them; receipts older than it are covered. `u64::MAX` where nothing unsynced was
    /// lost.
    pub(crate) synced: u64,
}

impl Cut {
    pub(crate) fn after(time: u64, syncs: &[u64]) -> Self {
        let synced = syncs.iter().copied().take_while(|number| *number <= time).last().unwrap_or(0);
        Self { time, synced }
    }
}

/// Returns the bytes per session that must be in the transcripts.
fn owed(run: &Run, durability: Durability, cut: Cut) -> BTreeMap<SessionId, Lens> {
    let mut owed: BTreeMap<SessionId, Lens> = BTreeMap::new();
    let mut owe = |session: SessionId, side: usize, upto: usize| {
        let len = &mut owed.entry(session).or_default()[side];
        *len = (*len).max(upto);
    };
    for forward in run.forwards.iter().filter(|forward| forward.time <= cut.time) {
        let strictly = match durability {
            Durability::Strict => true,
            Durability::Causal => forward.side == Side::Client,
            Durability::Process => false,
        };
        // What is not on disk before it goes on is there after the next commit.
        if strictly || forward.time < cut.synced {
            owe(forward.session, forward.side as usize, forward.upto);
        }
        if strictly {
            // Whatever could be seen when this was typed is on disk before it takes effect.
            for (session, lens) in &forward.before {
                owe(*session, 0, lens[0]);
                owe(*session, 1, lens[1]);
            }
        }
    }
    owed
}

/// A test stops at this many.
const VIOLATIONS_MAX: usize = 2;

/// What a check counted.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) tries: u64,
    pub(crate) forwarded: u64,
    /// Forwarded bytes that had to be in a transcript.
    pub(crate) owed: u64,
    /// Forwarded bytes that are not in the transcript, and need not be.
    pub(crate) tail: u64,
    pub(crate) violations: Vec<String>,
}

impl Tally {
    /// Notes a violation; more than a few would say the same.
    pub(crate) fn violate(&mut self, what: String) {
        self.violations.push(what);
        assert!(self.violations.len() < VIOLATIONS_MAX, "after {} tries: {:#?}", self.tries, self.violations);
    }

    /// Prints the figures, and fails where something was violated, or where there was too little that could have been.
    pub(crate) fn conclude(self, what: &str, tries_min: u64) {
        let Self { tries, forwarded, owed, tail, violations } = self;
        eprintln!(
            "{what}: {} violations in {tries} tries (95 % bound {:.5}), {forwarded} bytes forwarded before the cuts, \
             {owed} of them promised, {tail} in the tail that may be lost",
            violations.len(),
            3.0 / tries.max(1) as f64,
        );
        let first: Vec<_> = violations.iter().take(5).collect();
        assert!(violations.is_empty(), "{what}: {} violations in {tries} tries: {first:#?}", violations.len());
        assert!(tries >= tries_min, "{what}: {tries} tries, {tries_min} were to be made");
        assert!(forwarded > 0 && owed > 0, "{what}: {forwarded} bytes were forwarded, {owed} of them promised");
    }
}

/// Holds a recovered vault against what was forwarded before the cut.
pub(crate) fn check(
    vault: &Exported,
    run: &Run,
    durability: Durability,
    cut: Cut,
    tally: &mut Tally,
) -> Result<(), String> {
    let slips = run.slips.iter().chain(run.sessions.values().filter_map(|told| told.closed.as_ref()));
    let slips = slips.filter(|(time, _)| *time <= cut.time).map(|(_, slip)| slip.to_string()).collect();
    let verdict = vault.verify(vault.newest_checkpoint().into_iter().collect(), slips)?;
    if verdict.exit != 0 && verdict.exit != 3 {
        let bad = verdict
            .sessions
            .iter()
            .filter(|session| !["clean", "recovered"].iter().any(|good| session["status"] == *good));
        let bad: Vec<_> =
            bad.map(|session| format!("{} {}: {}", session["session"], session["status"], session["reason"])).collect();
        let (altered, undecided) = (&verdict.summary["altered_findings"], &verdict.summary["undecided_because"]);
        return Err(format!("verify says {}: {bad:?} {altered} {undecided}", verdict.exit));
    }
    let status: BTreeMap<&str, &str> = verdict
        .sessions
        .iter()
        .filter_map(|session| Some((session["session"].as_str()?, session["status"].as_str()?)))
        .collect();
    if let Some((session, status)) = status.iter().find(|(_, status)| !["clean", "recovered"].contains(status)) {
        return Err(format!("session {session} is {status}"));
    }
    let owed = owed(run, durability, cut);
    for (session, told) in run.sessions.iter().filter(|(_, told)| told.opened <= cut.time) {
        if !status.contains_key(session.to_string().as_str()) {
            return Err(format!("session {session} was open, and the log does not know it"));
        }
        let transcript = Transcript::open(&vault.open(), *session, std::slice::from_ref(&*AUDITOR))
            .map_err(|error| error.to_string())?;
        if transcript.head.durability != durability {
            return Err(format!("session {session} does not say what a receipt promised"));
        }
        let ended = told.closed.as_ref().is_some_and(|(time, _)| *time <= cut.time);
        if ended != matches!(transcript.end, End::Closed(_)) && ended {
            return Err(format!("session {session} was closed, and ends with {:?}", transcript.end));
        }
        let mut streams = [Vec::new(), Vec::new()];
        for event in transcript.events(&Lane::ALL) {
            let (_, entry) = event.map_err(|error| format!("session {session}: {error}"))?;
            match entry.event.body {
                Body::Stream(data) if entry.event.kind == ssh_in::TYPE => streams[0].extend_from_slice(&data),
                Body::Stream(data) if entry.event.kind == ssh_out::TYPE => streams[1].extend_from_slice(&data),
                _ => {}
            }
        }
        let owed = owed.get(session).copied().unwrap_or_default();
        for (side, stream) in streams.iter().enumerate() {
            let forwards =
                run.forwards.iter().filter(|forward| forward.session == *session && forward.time <= cut.time);
            let forwarded = forwards.filter(|forward| forward.side as usize == side).map(|forward| forward.upto).max();
            let forwarded = forwarded.unwrap_or(0);
            tally.forwarded += forwarded as u64;
            tally.owed += owed[side] as u64;
            tally.tail += forwarded.saturating_sub(stream.len()) as u64;
            if !told.recorded[side].starts_with(stream) {
                return Err(format!("session {session}, side {side}: the transcript is not what was recorded"));
            }
            if stream.len() < owed[side] {
                let (have, need) = (stream.len(), owed[side]);
                return Err(format!("session {session}, side {side}: {have} bytes on record, {need} promised"));
            }
        }
    }
    Ok(())
}
