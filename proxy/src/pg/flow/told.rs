//! What the target tells besides answers, and the words of its answers, as fields of events. Knows the messages' fields and
//! no order between messages.

use bytes::Bytes;
use casemate_recorder::transcript::event::{
    Event, Field, Side, Value, pg_described, pg_done, pg_fatal, pg_lost, pg_notice, pg_notify, pg_parameter,
    pg_transaction,
};

use crate::pg::codec::{Fields, PROTOCOL_VIOLATION, Piece};

/// How much of a message of fields is looked at. PostgreSQL sends severity, SQLSTATE and message first.
pub(super) const FIELDS_LEN_MAX: usize = 16 << 10;

/// How much of a command's tag is kept; PostgreSQL's longest has 64 bytes with its zero byte (`COMPLETION_TAG_BUFSIZE`).
const TAG_LEN_MAX: usize = 64;

/// How much of a short word is kept: a severity, a SQLSTATE.
const WORD_LEN_MAX: usize = 64;

/// How much of a text is kept: a message, a notification's payload (PostgreSQL allows 8000 bytes), a parameter's value.
const TEXT_LEN_MAX: usize = 8 << 10;

fn clipped(text: &[u8], max: usize) -> Value {
    Value::Bytes(Bytes::copy_from_slice(text.get(..max).unwrap_or(text)))
}

/// Takes a string, or what there is of it where the message was cut.
fn text<'b>(fields: &mut Fields<'b>) -> &'b [u8] {
    fields.text().unwrap_or_else(|| std::mem::take(&mut fields.0))
}

/// The beginning of a small message, whole.
#[derive(Debug, Default)]
pub(super) struct Gathered(Vec<u8>);

impl Gathered {
    /// Takes a piece, and returns the message's beginning once it is there to its end.
    pub(super) fn take<'b>(&'b mut self, piece: &Piece, payload: &'b [u8]) -> Option<&'b [u8]> {
        if piece.starts() && piece.ends() {
            return Some(payload.get(..FIELDS_LEN_MAX).unwrap_or(payload));
        }
        if piece.starts() {
            self.0.clear();
        }
        let room = FIELDS_LEN_MAX - self.0.len();
        self.0.extend_from_slice(payload.get(..room).unwrap_or(payload));
        piece.ends().then_some(self.0.as_slice())
    }
}

/// Returns a CommandComplete's tag.
pub(super) fn tag(payload: &[u8]) -> &[u8] {
    let tag = text(&mut Fields(payload));
    tag.get(..TAG_LEN_MAX).unwrap_or(tag)
}

/// Returns the number that a tag ends with: rows that were moved or changed.
pub(super) fn tag_rows(tag: &[u8]) -> Option<u64> {
    let digits = tag.rsplit(|byte| *byte == b' ').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The fields of an ErrorResponse or NoticeResponse that are told.
#[derive(Debug, Default)]
pub(super) struct Complaint<'b> {
    severity: &'b [u8],
    sqlstate: &'b [u8],
    message: &'b [u8],
}

impl<'b> Complaint<'b> {
    pub(super) fn read(payload: &'b [u8]) -> Self {
        let (mut fields, mut complaint) = (Fields(payload), Self::default());
        while let Some(code) = fields.u8().filter(|code| *code != 0) {
            let text = text(&mut fields);
            match code {
                // `V` is never translated; servers before 9.6 have only `S`.
                b'V' => complaint.severity = text,
                b'S' if complaint.severity.is_empty() => complaint.severity = text,
                b'C' => complaint.sqlstate = text,
                b'M' => complaint.message = text,
                _ => {}
            }
        }
        complaint
    }

    /// Whether the connection ends with it.
    pub(super) fn is_fatal(&self) -> bool {
        matches!(self.severity, b"FATAL" | b"PANIC")
    }

    /// Whether it complains of a message out of turn.
    pub(super) fn is_violation(&self) -> bool {
        self.sqlstate == PROTOCOL_VIOLATION.as_bytes()
    }

    fn tell(&self, event: Event, [severity, sqlstate, message]: [Field; 3]) -> Event {
        event
            .with(severity, clipped(self.severity, WORD_LEN_MAX))
            .with(sqlstate, clipped(self.sqlstate, WORD_LEN_MAX))
            .with(message, clipped(self.message, TEXT_LEN_MAX))
    }

    /// Adds it to the statement that failed.
    pub(super) fn failed(&self, done: Event) -> Event {
        self.tell(done, [pg_done::SEVERITY, pg_done::SQLSTATE, pg_done::ERROR])
    }

    /// Tells it of no statement; `number` is a message that it came after.
    pub(super) fn fatal(&self, number: Option<u64>) -> Event {
        let event = Event::map(pg_fatal::TYPE, 0);
        let event = number.into_iter().fold(event, |event, number| event.with(pg_fatal::FRAME, number));
        self.tell(event, [pg_fatal::SEVERITY, pg_fatal::SQLSTATE, pg_fatal::MESSAGE])
    }

    /// Tells it as a notice; `number` is the message that is being answered.
    pub(super) fn notice(&self, number: Option<u64>) -> Event {
        let event = Event::map(pg_notice::TYPE, 0);
        let event = number.into_iter().fold(event, |event, number| event.with(pg_notice::FRAME, number));
        self.tell(event, [pg_notice::SEVERITY, pg_notice::SQLSTATE, pg_notice::MESSAGE])
    }
}

/// Tells a NotificationResponse.
pub(super) fn notification(payload: &[u8]) -> Event {
    let mut fields = Fields(payload);
    Event::map(pg_notify::TYPE, 0)
        .with(pg_notify::PID, fields.u32().unwrap_or_default())
        .with(pg_notify::CHANNEL, clipped(text(&mut fields), WORD_LEN_MAX))
        .with(pg_notify::PAYLOAD, clipped(text(&mut fields), TEXT_LEN_MAX))
}

/// Tells a ParameterStatus.
pub(super) fn parameter(payload: &[u8]) -> Event {
    let mut fields = Fields(payload);
    Event::map(pg_parameter::TYPE, 0)
        .with(pg_parameter::NAME, clipped(text(&mut fields), WORD_LEN_MAX))
        .with(pg_parameter::VALUE, clipped(text(&mut fields), TEXT_LEN_MAX))
}

/// Tells the types of parameters out of a ParameterDescription, for the statement that a Parse made.
pub(super) fn described(parse: Option<u64>, payload: &[u8]) -> Event {
    let mut fields = Fields(payload);
    let count = fields.u16().unwrap_or_default();
    // Those that were cut off are missing.
    let types: Vec<Value> = (0..count).map_while(|_| fields.u32()).map(Value::from).collect();
    let event = Event::map(pg_described::TYPE, 0).with(pg_described::PARAMETERS, types);
    parse.into_iter().fold(event, |event, parse| event.with(pg_described::PARSE, parse))
}

/// Tells the state that a ReadyForQuery names.
pub(super) fn transaction(status: u8) -> Event {
    Event::map(pg_transaction::TYPE, 0).with(pg_transaction::STATUS, char::from(status).to_string())
}

/// Tells that the thread is lost, and what a side sent to bring that about.
pub(super) fn lost(why: &'static str, side: Side, frame: u64) -> Event {
    Event::map(pg_lost::TYPE, 0).with(pg_lost::WHY, why).with(pg_lost::SIDE, side as u32).with(pg_lost::FRAME, frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_ends_with_the_rows_it_moved() {
        let rows = |payload: &[u8]| tag_rows(tag(payload));
        assert_eq!(rows(b"INSERT 0 5\0"), Some(5));
        assert_eq!(rows(b"SELECT 17\0"), Some(17));
        assert_eq!(rows(b"CREATE TABLE\0"), None);
        assert_eq!(tag(&[b'x'; 100]).len(), TAG_LEN_MAX);
    }

    #[test]
    fn a_complaint_longer_than_is_looked_at_still_says_what_it_is() {
        let long = [&b"SFEHLER\0VFATAL\0C57P01\0M"[..], &[b'x'; FIELDS_LEN_MAX]].concat();
        let cut = &long[..FIELDS_LEN_MAX];
        let complaint = Complaint::read(cut);
        assert!(complaint.is_fatal());
        let event = complaint.fatal(None);
        assert_eq!(event.get(pg_fatal::SQLSTATE), Some(&Value::from(&b"57P01"[..])));
        assert_eq!(event.get(pg_fatal::MESSAGE), Some(&Value::from(&[b'x'; TEXT_LEN_MAX][..])));
    }

    #[test]
    fn every_byte_of_a_notification_has_its_field() {
        let event = notification(b"\0\0\0\x07jobs\0{\"id\": 1}\0");
        assert_eq!(event.get(pg_notify::PID), Some(&Value::Uint(7)));
        assert_eq!(event.get(pg_notify::CHANNEL), Some(&Value::from(&b"jobs"[..])));
        assert_eq!(event.get(pg_notify::PAYLOAD), Some(&Value::from(&b"{\"id\": 1}"[..])));
        let event = parameter(b"TimeZone\0UTC\0");
        assert_eq!(event.get(pg_parameter::NAME), Some(&Value::from(&b"TimeZone"[..])));
        assert_eq!(event.get(pg_parameter::VALUE), Some(&Value::from(&b"UTC"[..])));
    }
}
