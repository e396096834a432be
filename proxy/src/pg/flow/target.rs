//! The target's side of a [`Flow`]: what is answered.

use std::time::Duration;

use casemate_recorder::transcript::event::{Event, Side};

use super::names::Name;
use super::queue::{Asked, Kind, micros};
use super::statement::{Origin, Outcome};
use super::told::{self, Complaint};
use super::{Flow, Phase, Portal, Results, Verdict};
use crate::pg::codec::{Piece, Run};

/// Why the thread is lost at an answer that nothing was asked for, or not so.
const UNASKED: &str = "an answer that fits no question";

impl Flow {
    /// Takes a piece of what the target sent, and tells what the record gets of its frame. `at` is the time since the session
    /// began.
    pub fn target(&mut self, piece: &Piece, payload: &[u8], at: Duration, events: &mut Vec<Event>) -> Verdict {
        match piece.tag {
            b'D' | b'd' => return self.row(piece, payload, events),
            b'N' | b'A' | b'S' | b'E' | b'C' | b'Z' | b't' => {
                let mut gathered = std::mem::take(&mut self.gathered);
                if let Some(payload) = gathered.take(piece, payload) {
                    self.message(piece, payload, at, events);
                }
                self.gathered = gathered;
            }
            _ if piece.ends() && !self.lost => self.answer(piece, at, events),
            _ => {}
        }
        Verdict::Keep
    }

    /// Takes a row, whole or in part: DataRow, or CopyData.
    fn row(&mut self, piece: &Piece, payload: &[u8], events: &mut Vec<Event>) -> Verdict {
        if piece.starts() {
            self.verdict = Verdict::Keep;
            if !self.lost && !self.fits_row(piece.tag) {
                self.lose(UNASKED, Side::Target, piece.frame, events);
            }
            if !self.lost {
                self.verdict = super::verdict(self.results, self.statement.rows);
                self.statement.rows += 1;
                self.statement.data_rows += u64::from(piece.tag == b'D');
            }
        }
        if !self.lost {
            self.statement.bytes += payload.len() as u64;
            if self.results == Results::Hash {
                self.statement.hash.get_or_insert_default().update(payload);
            }
        }
        self.verdict
    }

    /// Whether all there is to do with further rows right behind one with that tag is to count them, since the record gets of
    /// each what it got of that one: then [`Flow::rows`] takes any number of them.
    pub fn counts_rows(&self, tag: u8) -> bool {
        let alike = match self.results {
            Results::Full => true,
            // Once one is left out, all that follow are.
            Results::Count | Results::Rows(_) => self.verdict == Verdict::Elide,
            Results::Hash => false,
        };
        alike && !self.lost && matches!(tag, b'D' | b'd')
    }

    /// Takes rows that [`Flow::counts_rows`] speaks of.
    pub fn rows(&mut self, run: &Run) {
        self.statement.rows += run.frames;
        self.statement.data_rows += if run.tag == b'D' { run.frames } else { 0 };
        self.statement.bytes += run.payload_len();
    }

    fn fits_row(&mut self, tag: u8) -> bool {
        let fits = matches!(self.head(), Some(Kind::Query { .. } | Kind::Execute { .. }))
            && match tag {
                b'D' => self.phase == Phase::Answering,
                _ => matches!(self.phase, Phase::CopyOut | Phase::CopyBoth),
            };
        self.begin();
        fits
    }

    /// Takes a message whose payload says something.
    fn message(&mut self, piece: &Piece, payload: &[u8], at: Duration, events: &mut Vec<Event>) {
        match piece.tag {
            b'N' => {
                let head = self.head.as_ref().or_else(|| self.queue.next_answered());
                events.push(Complaint::read(payload).notice(head.map(|head| head.number)));
            }
            b'A' => events.push(told::notification(payload)),
            b'S' => events.push(told::parameter(payload)),
            b'Z' => self.ready(piece, payload, at, events),
            _ if self.lost => {}
            b'E' => self.failed(&Complaint::read(payload), at, events),
            b't' => self.described(piece, payload, events),
            _ => self.completed(piece, told::tag(payload), at, events),
        }
    }

    /// Returns what is to be answered now.
    fn head(&mut self) -> Option<&Kind> {
        while self.head.is_none() {
            // What a COPY left behind is ignored.
            let asked = self.queue.pop()?;
            if asked.is_answered() {
                self.come(asked);
            }
        }
        self.head.as_ref().map(|head| &head.kind)
    }

    /// The target comes to a message.
    fn come(&mut self, asked: Asked) {
        self.phase = Phase::Answering;
        let mut origin = Origin { number: asked.number, ..Origin::default() };
        match asked.kind {
            Kind::Query { .. } => {
                // A Query takes the unnamed statement with it (§"Extended Query").
                self.statements.remove(Name::UNNAMED);
                origin.index = Some(0);
                self.statement.reset(origin);
            }
            Kind::Execute { portal, .. } => {
                let portal = self.portals.get_mut(portal);
                if let Some(suspended) = portal.and_then(|portal| {
                    (origin.parse, origin.bind) = (portal.parse, portal.bind);
                    portal.suspended.take()
                }) {
                    self.statement = *suspended;
                    self.statement.begun = false;
                } else {
                    self.statement.reset(origin);
                }
            }
            Kind::FunctionCall { .. } => self.statement.reset(origin),
            _ => {}
        }
        self.head = Some(asked);
    }

    /// Notes that the message at the head is being answered, and with it that no COPY's Sync is still to be.
    fn begin(&mut self) {
        self.spare_syncs = 0;
        self.statement.begun = true;
    }

    /// Takes an answer whose tag says it all.
    fn answer(&mut self, piece: &Piece, at: Duration, events: &mut Vec<Event>) {
        let phase = self.phase_of_head();
        let Some(head) = self.head.as_ref() else { return self.lose(UNASKED, Side::Target, piece.frame, events) };
        let number = head.number;
        self.spare_syncs = 0;
        self.statement.begun = true;
        match (&head.kind, phase, piece.tag) {
            (Kind::Parse { statement }, _, b'1') => {
                let _forgotten = self.statements.make_room();
                self.statements.insert(*statement, number, number);
                self.next();
            }
            (Kind::Bind { portal, statement }, _, b'2') => {
                let parse = self.statements.get(*statement).copied();
                let made = Portal { parse, bind: Some(number), suspended: None };
                let forgotten = self.portals.make_room();
                let replaced = self.portals.insert(*portal, number, made);
                forgotten.into_iter().chain(replaced).for_each(|portal| portal.close(events));
                self.next();
            }
            (Kind::DescribeStatement { .. }, Phase::Described, b'T' | b'n') => self.next(),
            (Kind::DescribePortal, _, b'T' | b'n') => self.next(),
            (Kind::CloseStatement { statement }, _, b'3') => {
                self.statements.remove(*statement);
                self.next();
            }
            (Kind::ClosePortal { portal }, _, b'3') => {
                if let Some(portal) = self.portals.remove(*portal) {
                    portal.close(events);
                }
                self.next();
            }
            (Kind::FunctionCall { .. }, Phase::Answering, b'V') => {
                self.tell(Outcome::Done, None, None, at, events);
                self.phase = Phase::Over;
            }
            (Kind::Query { .. }, Phase::Answering, b'I') => {
                self.tell(Outcome::Empty, None, None, at, events);
                self.next_of_query();
            }
            (Kind::Execute { .. }, Phase::Answering, b'I') => {
                self.tell(Outcome::Empty, None, None, at, events);
                self.next();
            }
            (Kind::Execute { .. }, Phase::Answering, b's') => self.suspend(at, events),
            (Kind::Query { .. }, Phase::Answering, b'T') => {
                self.drop_unnamed_portal(events);
            }
            (Kind::Query { .. } | Kind::Execute { .. }, Phase::Answering, b'G' | b'H' | b'W') => {
                if matches!(head.kind, Kind::Query { .. }) {
                    self.drop_unnamed_portal(events);
                }
                self.taken_syncs = 0;
                self.phase = match piece.tag {
                    b'G' => Phase::CopyIn,
                    b'H' => Phase::CopyOut,
                    _ => Phase::CopyBoth,
                };
            }
            (_, Phase::CopyOut | Phase::CopyBoth, b'c') => self.phase = Phase::Answering,
            _ => return self.lose(UNASKED, Side::Target, piece.frame, events),
        }
        self.absorb();
    }

    fn phase_of_head(&mut self) -> Phase {
        self.head();
        self.phase
    }

    /// The message at the head is answered.
    fn next(&mut self) {
        self.head = None;
        self.phase = Phase::Answering;
    }

    /// A statement of a Query is over, and another may come.
    fn next_of_query(&mut self) {
        let mut origin = self.statement.origin;
        origin.index = origin.index.map(|index| index.saturating_add(1));
        self.statement.reset(origin);
        self.phase = Phase::Answering;
    }

    /// Returns how long ago the message at the head was forwarded.
    fn us(&self, at: Duration) -> u64 {
        match self.head.as_ref().map(|head| &head.kind) {
            Some(Kind::Query { us } | Kind::FunctionCall { us } | Kind::Execute { us, .. }) => {
                micros(at).saturating_sub(*us)
            }
            _ => 0,
        }
    }

    fn tell(
        &self,
        outcome: Outcome,
        tag: Option<&[u8]>,
        error: Option<&Complaint<'_>>,
        at: Duration,
        events: &mut Vec<Event>,
    ) {
        events.push(self.statement.tell(outcome, tag, error, self.us(at)));
    }

    /// A portal has given as many rows as it was asked for.
    fn suspend(&mut self, at: Duration, events: &mut Vec<Event>) {
        let us = self.us(at);
        if let Some(Asked { kind: Kind::Execute { portal, .. }, number, .. }) = self.head.take() {
            let mut statement = std::mem::take(&mut self.statement);
            statement.us = statement.us.saturating_add(us);
            statement.batches = statement.batches.saturating_add(1);
            if let Some(hash) = &mut statement.hash {
                hash.rest();
            }
            let suspended = Some(Box::new(statement));
            match self.portals.get_mut(portal) {
                Some(portal) => portal.suspended = suspended,
                // A cursor that SQL declared.
                None => {
                    self.portals.make_room().into_iter().for_each(|portal| portal.close(events));
                    self.portals.insert(portal, number, Portal { suspended, ..Portal::default() });
                }
            }
        }
        self.next();
    }

    fn drop_unnamed_portal(&mut self, events: &mut Vec<Event>) {
        if let Some(portal) = self.portals.remove(Name::UNNAMED) {
            portal.close(events);
        }
    }

    /// Takes a ParameterDescription; what follows is that of the rows.
    fn described(&mut self, piece: &Piece, payload: &[u8], events: &mut Vec<Event>) {
        let phase = self.phase_of_head();
        match self.head.as_ref().map(|head| &head.kind) {
            Some(Kind::DescribeStatement { statement }) if phase == Phase::Answering => {
                let parse = self.statements.get(*statement).copied();
                events.push(told::described(parse, payload));
                self.begin();
                self.phase = Phase::Described;
            }
            _ => self.lose(UNASKED, Side::Target, piece.frame, events),
        }
    }

    /// Takes a CommandComplete.
    fn completed(&mut self, piece: &Piece, tag: &[u8], at: Duration, events: &mut Vec<Event>) {
        let phase = self.phase_of_head();
        let query = match self.head.as_ref().map(|head| &head.kind) {
            Some(Kind::Query { .. }) if phase != Phase::Over => true,
            Some(Kind::Execute { .. }) => false,
            _ => return self.lose(UNASKED, Side::Target, piece.frame, events),
        };
        self.begin();
        self.tell(Outcome::Done, Some(tag), None, at, events);
        match tag {
            // Of a ROLLBACK it shows in the next ReadyForQuery whether it ended the transaction.
            b"COMMIT" | b"PREPARE TRANSACTION" | b"CLOSE CURSOR ALL" => self.drop_portals(events),
            b"DEALLOCATE ALL" => self.statements.clear_named(),
            b"DISCARD ALL" => {
                self.statements.clear_named();
                self.drop_portals(events);
            }
            // Which name is in the text, which nobody keeps here. It only matters once another statement gets the name.
            b"DEALLOCATE" => self.deallocated = self.statements.has_named(),
            b"PREPARE" if std::mem::take(&mut self.deallocated) => self.statements.clear_named(),
            _ => {}
        }
        if query {
            self.drop_unnamed_portal(events);
            self.next_of_query();
        } else {
            self.next();
        }
    }

    /// Takes a ReadyForQuery.
    fn ready(&mut self, piece: &Piece, payload: &[u8], at: Duration, events: &mut Vec<Event>) {
        if !self.lost {
            self.head();
            let begun = self.statement.begun || self.statement.origin.index.is_some_and(|index| index > 0);
            match self.head.as_ref().map(|head| &head.kind) {
                Some(Kind::Sync) => self.next(),
                Some(Kind::Query { .. } | Kind::FunctionCall { .. }) if begun => {
                    if self.phase != Phase::Over && self.statement.begun {
                        self.tell(Outcome::Unanswered, None, None, at, events);
                    }
                    self.next();
                }
                _ if self.spare_syncs > 0 => {
                    self.spare_syncs -= 1;
                    self.skipping = false;
                }
                _ => self.lose(UNASKED, Side::Target, piece.frame, events),
            }
        }
        let Some(status @ (b'I' | b'T' | b'E')) = payload.first().copied() else { return };
        // Whoever comes from the login is idle.
        if self.transaction.replace(status).unwrap_or(b'I') != status {
            events.push(told::transaction(status));
        }
        if status == b'I' {
            self.drop_portals(events);
        }
    }

    /// Takes an ErrorResponse.
    fn failed(&mut self, error: &Complaint<'_>, at: Duration, events: &mut Vec<Event>) {
        let phase = self.phase_of_head();
        let number = match &self.head {
            Some(Asked { kind: Kind::Sync, number, .. }) => return events.push(error.fatal(Some(*number))),
            Some(head) if phase != Phase::Over => head.number,
            // The answer is complete, or nothing was asked.
            head => return events.push(error.fatal(head.as_ref().map(|head| head.number))),
        };
        let copying = matches!(phase, Phase::CopyIn | Phase::CopyBoth);
        let copied = self.statement.copied;
        if copying && self.queue.is_empty() {
            self.statement.copied_hash = self.client.copied_hash();
        }
        if matches!(phase, Phase::CopyIn | Phase::CopiedIn | Phase::CopyBoth) {
            self.spare_syncs = std::mem::take(&mut self.taken_syncs);
        } else {
            self.spare_syncs = 0;
        }
        let extended = match self.head.as_ref().map(|head| &head.kind) {
            Some(Kind::Query { .. } | Kind::FunctionCall { .. }) => {
                self.tell(Outcome::Failed, None, Some(error), at, events);
                self.statement.begun = true;
                self.phase = Phase::Over;
                return;
            }
            Some(Kind::Execute { portal, .. }) => {
                let portal = *portal;
                self.tell(Outcome::Failed, None, Some(error), at, events);
                self.portals.remove(portal);
                None
            }
            Some(Kind::Parse { statement }) => {
                // The unnamed one is gone whatever comes of its successor.
                if *statement == Name::UNNAMED {
                    self.statements.remove(Name::UNNAMED);
                }
                Some(Origin { number, parse: Some(number), ..Origin::default() })
            }
            Some(Kind::Bind { statement, .. }) => {
                let parse = self.statements.get(*statement).copied();
                Some(Origin { number, parse, bind: Some(number), index: None })
            }
            _ => Some(Origin { number, ..Origin::default() }),
        };
        if let Some(origin) = extended {
            events.push(error.failed(origin.tell(Outcome::Failed)));
        }
        if let Some(head) = self.head.take() {
            self.unread_from(&head);
        }
        self.next();
        // A COPY that had nothing to read yet, and is not what complains of the message behind: the Sync that seemed to be
        // taken ends the skipping.
        let untouched =
            copying && copied == 0 && self.spare_syncs > 0 && !self.queue.is_empty() && !error.is_violation();
        // Nothing is skipped either where nothing is read any more.
        if !untouched && !error.is_fatal() {
            self.skip_to_sync(events);
        }
    }
}
