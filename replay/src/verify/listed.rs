//! What the logs say of sessions, without a verdict: what `ls` shows.

use casemate_recorder::transcript::block::SessionId;

use super::anchors::NodeTrust;
use super::ledger::Ledger;
use super::log::{Question, check_node};
use super::report;
use super::session::Plan;
use crate::ReplayError;
use crate::vault::Vault;

/// What a node log says about a session, unverified: enough to list it.
#[derive(Debug)]
pub(crate) struct Logged {
    pub(crate) session: SessionId,
    pub(crate) kind: &'static str,
    pub(crate) protocol: Option<&'static str>,
    /// Microseconds since 1970.
    pub(crate) start_us: u64,
    /// Microseconds since 1970.
    pub(crate) end_us: Option<u64>,
    pub(crate) status: &'static str,
    /// The number of the last segment, of a session that has ended.
    pub(crate) last_segment: Option<u32>,
    /// Until when it must be kept, in microseconds since 1970; 0 where no log opens it.
    pub(crate) retain_until_us: u64,
    /// Whether the log says that it was deleted on purpose.
    pub(crate) retired: bool,
    /// The length of each segment that the log names.
    pub(crate) segment_bytes: Vec<u64>,
}

/// Lists all sessions that a log opens or the vault holds, and says whether the logs hold together in themselves.
pub(crate) fn logged_sessions(vault: &Vault) -> Result<(Vec<Logged>, bool), ReplayError> {
    let mut listing = vault.sessions()?;
    let (names, _) = vault.nodes()?;
    let mut sessions = Vec::new();
    let mut sound = true;
    for name in &names {
        let mut hand_out = |mut plan: Plan| {
            let count = plan.segment_count();
            let status = match &plan.end {
                _ if (plan.present.len() as u64) < u64::from(count) => "pending",
                None => "open",
                Some(end) if end.recovered.is_some() => "recovered",
                Some(_) => "closed",
            };
            sessions.push(Logged {
                session: plan.open.session,
                kind: report::kind_name(plan.open.kind),
                protocol: report::protocol_name(plan.open.protocol),
                start_us: plan.open.wall_us,
                end_us: plan.end.as_ref().map(|end| end.close.wall_us),
                status,
                last_segment: plan.end.as_ref().and_then(|_| count.checked_sub(1)),
                retain_until_us: plan.open.retain_until_us,
                retired: false,
                segment_bytes: plan.segments.values().map(|segment| segment.bytes).collect(),
            });
        };
        let question =
            Question { vault, listing: &listing, anchors: &[], board: None, ledger: &Ledger::new(None), now_us: 0 };
        let facts = check_node(&question, name, &NodeTrust::NoFile, &mut hand_out)?;
        for logged in &mut sessions {
            logged.retired |= facts.retired.contains_key(&logged.session);
        }
        sound &= facts.altered.is_empty();
    }
    for logged in &sessions {
        listing.sessions.remove(&logged.session);
    }
    for (session, segments) in listing.sessions {
        sound = false;
        sessions.push(Logged {
            session,
            kind: "unknown",
            protocol: None,
            start_us: session.unix_ms().saturating_mul(1000),
            end_us: None,
            status: "unlogged",
            last_segment: segments.last().copied(),
            retain_until_us: 0,
            retired: false,
            segment_bytes: Vec::new(),
        });
    }
    Ok((sessions, sound))
}
