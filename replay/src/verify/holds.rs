//! Legal holds: set by any leaf that says so, lifted only by two officers of the trust file.

use std::collections::{HashMap, HashSet};

use casemate_certs::trust::{Board, HoldOrder};
use casemate_recorder::log::leaf::LegalHold;
use casemate_recorder::transcript::block::SessionId;

/// The holds of a node log.
#[derive(Debug)]
pub(super) struct Holds<'a> {
    board: Option<&'a Board>,
    /// Those that stand, with the time of the order, in microseconds since 1970.
    standing: HashMap<SessionId, u64>,
}

impl<'a> Holds<'a> {
    pub(super) fn new(board: Option<&'a Board>) -> Self {
        Self { board, standing: HashMap::new() }
    }

    /// Takes the next leaf.
    ///
    /// # Errors
    /// Why it lifts nothing.
    pub(super) fn take(&mut self, hold: &LegalHold) -> Result<(), String> {
        let order = HoldOrder::parse(&hold.order);
        if hold.set {
            // Whoever set it: that something must be kept needs no proof.
            let time_us = order.filter(|order| order.set).map_or(hold.wall_us, |order| order.time_us);
            let known = self.standing.entry(hold.session).or_insert(time_us);
            *known = time_us.max(*known);
            return Ok(());
        }
        let order = order.filter(|order| !order.set && order.session == hold.session.to_string());
        let order = order.ok_or("the order does not lift it")?;
        // An order that lifted a hold before must not lift the next one.
        if self.standing.get(&hold.session).is_some_and(|set_us| order.time_us <= *set_us) {
            return Err("the order is older than the hold".to_owned());
        }
        let board = self.board.ok_or("no trust file names officers who may")?;
        board.ordered(&hold.order, &hold.signatures)?;
        self.standing.remove(&hold.session);
        Ok(())
    }

    /// Returns the sessions that must be kept.
    pub(super) fn standing(self) -> HashSet<SessionId> {
        self.standing.into_keys().collect()
    }
}
