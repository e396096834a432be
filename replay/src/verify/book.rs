//! What the leaves of one node say about its sessions, gathered as they come.
//!
//! A session's [`Plan`] grows leaf by leaf and leaves the book when the session ends. Leaves that contradict each other
//! are evidence against the log or the session.

use std::collections::{BTreeMap, HashMap};

use casemate_recorder::log::leaf::{Close, Head, Leaf, Segment};
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
    /// Where the others ended.
    ended: HashMap<SessionId, (u64, Link)>,
    boots: HashMap<[u8; 16], Boot>,
    /// The newest start.
    boot_id: Option<[u8; 16]>,
}

impl<'a> Book<'a> {
    /// Begins the book of a node.
    pub(super) fn new(name: &'a str, listing: &'a Listing) -> Self {
        Self { name, listing, sessions: HashMap::new(), ended: HashMap::new(), boots: HashMap::new(), boot_id: None }
    }

    /// Whether a session was opened so far.
    pub(super) fn knows(&self, session: SessionId) -> bool {
        self.sessions.contains_key(&session) || self.ended.contains_key(&session)
    }

    /// Takes the next leaf; a session that ends by it is handed out.
    pub(super) fn take(&mut self, index: u64, leaf: Leaf, facts: &mut NodeFacts, hand_out: &mut dyn FnMut(Plan)) {
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
                let blocks = Some((first_block, last_block));
                plan.expect(segment_no, LoggedSegment { bytes, sha256, last_link, blocks, wall_us });
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
            Leaf::Stored(_) | Leaf::Retired(_) | Leaf::LegalHold(_) | Leaf::Unknown { .. } => {
                *facts.acts.entry(leaf.name().to_owned()).or_default() += 1
            }
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
        } else if self.ended.get(&head.session) != Some(&(head.block_no, head.link)) {
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
        self.ended.insert(session, (close.last_block, close.last_link));
        plan.finish(LoggedEnd { index, close, recovered });
        hand_out(plan);
    }
}
