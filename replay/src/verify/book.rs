//! What the leaves of one node say about its sessions, gathered as they come.
//!
//! A session's [`Plan`] grows leaf by leaf and leaves the book when the session ends. Leaves that contradict each other
//! are evidence against the log or the session.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use casemate_certs::trust::{Board, Holds, ToldHold};
use casemate_recorder::log::leaf::{Close, Head, Leaf, LegalHold, Segment, Stored};
use casemate_recorder::transcript::block::{Link, SessionId};

use super::log::NodeFacts;
use super::session::{Boot, LoggedEnd, LoggedHead, LoggedSegment, Plan, Rescue};
use crate::vault::Listing;

/// What the leaves say about sessions and starts.
pub(super) struct Book<'a> {
    pub(super) name: &'a str,
    pub(super) listing: &'a Listing,
    /// Sessions that have not ended yet.
    pub(super) sessions: HashMap<SessionId, Plan>,
    /// The others.
    ended: HashMap<SessionId, Ended>,
    /// Which segments are in which other vault.
    stored: HashMap<(SessionId, u32), Arc<str>>,
    /// The names of those vaults: a few.
    vaults: HashSet<Arc<str>>,
    retired: HashMap<SessionId, u64>,
    holds: Holds<'a, SessionId>,
    boots: HashMap<[u8; 16], Boot>,
    /// The newest start.
    boot_id: Option<[u8; 16]>,
}

/// What must be remembered of a session that has ended.
struct Ended {
    last_block: u64,
    last_link: Link,
    /// SHA-256 of each segment.
    segments: Box<[[u8; 32]]>,
    /// Until when it must be kept, in microseconds since 1970.
    retain_until_us: u64,
}

impl<'a> Book<'a> {
    /// Begins the book of a node. Orders about holds count when they are by officers of that board.
    pub(super) fn new(name: &'a str, listing: &'a Listing, board: Option<&'a Board>) -> Self {
        Self {
            name,
            listing,
            sessions: HashMap::new(),
            ended: HashMap::new(),
            stored: HashMap::new(),
            vaults: HashSet::new(),
            retired: HashMap::new(),
            holds: Holds::new(board),
            boots: HashMap::new(),
            boot_id: None,
        }
    }

    /// Closes the book: what it says of ended sessions goes into the facts, and those that have not ended are returned.
    pub(super) fn close(self, facts: &mut NodeFacts) -> HashMap<SessionId, Plan> {
        facts.stored = self.stored;
        facts.retired = self.retired;
        (facts.held, facts.released) = self.holds.finish();
        self.sessions
    }

    /// Whether a session was opened so far.
    pub(super) fn knows(&self, session: SessionId) -> bool {
        self.sessions.contains_key(&session) || self.ended.contains_key(&session)
    }

    /// Takes the next leaf; a session that ends by it is handed out.
    pub(super) fn take(&mut self, index: u64, leaf: Leaf, facts: &mut NodeFacts, hand_out: &mut dyn FnMut(Plan)) {
        if index == 0 && !matches!(leaf, Leaf::Boot(_)) {
            facts.alter("leaf 0: the log does not begin with the start of a node".to_owned());
        }
        match leaf {
            Leaf::Boot(boot) => {
                facts.boots += 1;
                if boot.previous_size > index {
                    let found = boot.previous_size;
                    facts.alter(format!(
                        "leaf {index}: the node started with a log of {found} leaves, and {index} are here"
                    ));
                }
                self.boot_id = Some(boot.boot_id);
                self.boots.insert(boot.boot_id, Boot { key: boot.boot_pub, wall_us: boot.wall_us });
            }
            Leaf::Heartbeat(heartbeat) => {
                if !self.boots.contains_key(&heartbeat.boot_id) {
                    facts.alter(format!("leaf {index}: a heartbeat of a start that the log does not know"));
                }
            }
            Leaf::Open(open) => {
                if open.ordinal != facts.opened {
                    let expected = facts.opened;
                    let found = open.ordinal;
                    facts.alter(format!(
                        "leaf {index}: opens session {found} of the node, where {expected} should come"
                    ));
                }
                facts.opened += 1;
                if self.knows(open.session) {
                    facts.alter(format!("leaf {index}: opens session {} again", open.session));
                    return;
                }
                let present = self.listing.sessions.get(&open.session).cloned().unwrap_or_default();
                let (session, proof_us) = (open.session, open.wall_us);
                let plan = Plan {
                    node: self.name.to_owned(),
                    open,
                    index,
                    boots: facts.boots,
                    boot_id: self.boot_id,
                    heads: Vec::new(),
                    segments: BTreeMap::new(),
                    end: None,
                    present,
                    proof_us,
                    problem: None,
                };
                self.sessions.insert(session, plan);
            }
            Leaf::Segment(Segment {
                session,
                segment_no,
                bytes,
                first_block,
                last_block,
                last_link,
                sha256,
                wall_us,
            }) => {
                let Some(plan) = self.sessions.get_mut(&session) else {
                    facts.alter(format!("leaf {index}: a segment of session {session}, which is not open"));
                    return;
                };
                plan.proof_us = plan.proof_us.max(wall_us);
                let (blocks, age_us) = (Some((first_block, last_block)), facts.age_us);
                plan.expect(segment_no, LoggedSegment { bytes, sha256, last_link, blocks, age_us });
            }
            Leaf::Heads { wall_us, heads } => {
                for head in heads {
                    self.head(index, wall_us, head, facts);
                }
            }
            Leaf::Close(close) => self.end(index, close, None, facts, hand_out),
            Leaf::Recovered(recovered) => {
                let boot = self.boots.get(&recovered.boot_id).copied();
                let (boot_id, torn_bytes) = (recovered.boot_id, recovered.torn_bytes);
                self.end(index, recovered.close, Some(Rescue { boot_id, boot, torn_bytes }), facts, hand_out);
            }
            Leaf::Control(control) => *facts.acts.entry(control.what).or_default() += 1,
            Leaf::Stored(stored) => self.stored(index, stored, facts),
            Leaf::Retired(retired) => {
                *facts.acts.entry("RETIRED".to_owned()).or_default() += 1;
                let session = retired.session;
                match self.ended.get(&session) {
                    Some(ended) => drop(self.retired.insert(session, ended.retain_until_us)),
                    None => facts.alter(format!("leaf {index}: retires session {session}, which has not ended")),
                }
            }
            Leaf::LegalHold(hold) => self.hold(index, &hold, facts),
            Leaf::Unknown { .. } => *facts.acts.entry(leaf.name().to_owned()).or_default() += 1,
        }
    }

    /// Takes that a segment is in another vault. It was logged before, as the same file.
    fn stored(&mut self, index: u64, stored: Stored, facts: &mut NodeFacts) {
        *facts.acts.entry("STORED".to_owned()).or_default() += 1;
        let Stored { session, segment_no: no, sha256, vault, .. } = stored;
        let open = self.sessions.get(&session).and_then(|plan| plan.segments.get(&no)).map(|segment| segment.sha256);
        let ended = || self.ended.get(&session).and_then(|ended| ended.segments.get(no as usize)).copied();
        match open.or_else(ended) {
            None => {
                facts.alter(format!("leaf {index}: segment {no} of session {session} is stored, and was never logged"));
            }
            Some(logged) if logged != sha256 => {
                facts.alter(format!("leaf {index}: segment {no} of session {session} is stored with another SHA-256"));
            }
            Some(_) => {
                let name = self.vaults.get(vault.as_str()).cloned().unwrap_or_else(|| vault.into());
                self.vaults.insert(Arc::clone(&name));
                self.stored.entry((session, no)).or_insert(name);
            }
        }
    }

    fn hold(&mut self, index: u64, hold: &LegalHold, facts: &mut NodeFacts) {
        *facts.acts.entry("LEGAL_HOLD".to_owned()).or_default() += 1;
        if !self.knows(hold.session) {
            facts.alter(format!("leaf {index}: a legal hold on session {}, which is not open", hold.session));
        }
        let LegalHold { session, set, wall_us, order, signatures } = hold;
        if let Err(why) =
            self.holds.take(&ToldHold { session: *session, set: *set, wall_us: *wall_us, order, signatures })
        {
            facts.remark(format!("leaf {index}: the hold on session {} is not lifted: {why}", hold.session));
        }
    }

    fn head(&mut self, index: u64, wall_us: u64, head: Head, facts: &mut NodeFacts) {
        if let Some(plan) = self.sessions.get_mut(&head.session) {
            plan.proof_us = plan.proof_us.max(wall_us);
            if plan.heads.last().is_some_and(|last| last.block_no > head.block_no) {
                plan.blame(format!("leaf {index}: the log saw the transcript grow shorter"));
                return;
            }
            plan.heads.push(LoggedHead { block_no: head.block_no, link: head.link, events: head.events });
        } else if self.ended.get(&head.session).map(|ended| (ended.last_block, ended.last_link))
            != Some((head.block_no, head.link))
        {
            facts.alter(format!("leaf {index}: names session {}, which is not open", head.session));
        }
    }

    fn end(
        &mut self,
        index: u64,
        close: Close,
        recovered: Option<Rescue>,
        facts: &mut NodeFacts,
        hand_out: &mut dyn FnMut(Plan),
    ) {
        let session = close.session;
        let Some(mut plan) = self.sessions.remove(&session) else {
            facts.alter(format!("leaf {index}: closes session {session}, which is not open"));
            return;
        };
        let (last_block, last_link) = (close.last_block, close.last_link);
        plan.finish(LoggedEnd { index, close, recovered }, facts.boots, facts.age_us);
        // By number where there is no gap; one with a gap is altered anyway.
        let segments = plan.segments.values().map(|segment| segment.sha256).collect();
        let retain_until_us = plan.open.retain_until_us;
        self.ended.insert(session, Ended { last_block, last_link, segments, retain_until_us });
        hand_out(plan);
    }
}
