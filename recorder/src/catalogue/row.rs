//! A row of the catalogue: one session that has ended, as one line of JSON. Sans-IO.
//!
//! It says what the opening of the transcript says of who and where, and what the end states in numbers. Nothing in it is signed:
//! whoever has to know asks the transcript.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::transcript::block::SessionId;
use crate::transcript::event::{Event, Field, Value, grant, identity};
use crate::transcript::head::{Protocol, TranscriptKind};
use crate::transcript::seal::CloseReason;

/// Who, and where to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Names {
    person: Option<String>,
    target: Option<String>,
    role: Option<String>,
    source: Option<String>,
}

impl Names {
    /// Reads them off the first events of a transcript.
    pub(crate) fn of(opening: &[Event]) -> Self {
        let find = |field: Field| opening.iter().find_map(|event| text(event.get(field)?));
        Self {
            person: find(identity::PERSON),
            target: find(grant::TARGET),
            role: find(grant::ROLE),
            source: find(identity::SOURCE),
        }
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    }
}

/// What is known of a session when it begins. It is kept beside the pages until the session has ended: a start after a crash
/// cannot read it off the transcript.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Opened {
    sid: String,
    ordinal: u64,
    kind: String,
    protocol: Option<String>,
    start_us: u64,
    names: Names,
}

impl Opened {
    /// Describes a session that begins.
    pub(crate) fn new(
        session: SessionId,
        ordinal: u64,
        (kind, protocol): (TranscriptKind, Option<Protocol>),
        start_us: u64,
        opening: &[Event],
    ) -> Self {
        Self {
            sid: session.to_string(),
            ordinal,
            kind: kind.name().to_owned(),
            protocol: protocol.map(|protocol| protocol.name().to_owned()),
            start_us,
            names: Names::of(opening),
        }
    }

    /// The session.
    pub(crate) fn session(&self) -> Option<SessionId> {
        self.sid.parse().ok()
    }
}

/// How the log says that a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// With a CLOSE.
    Closed,
    /// By a later start, with a RECOVERED.
    Recovered,
}

/// What is known of a session when it has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) session: SessionId,
    pub(crate) end_us: u64,
    pub(crate) status: Status,
    /// Nothing where a crash ended it.
    pub(crate) reason: Option<CloseReason>,
    pub(crate) exit: Option<u32>,
    pub(crate) events: u64,
    /// Stream bytes of client and target; a start that recovers a session cannot read them.
    pub(crate) bytes: Option<[u64; 2]>,
    pub(crate) segments: u32,
    /// The length of all segments together.
    pub(crate) stored_bytes: Option<u64>,
}

/// The line itself; its fields are the columns, in their order.
#[derive(Serialize)]
struct Row<'a> {
    sid: String,
    node: &'a str,
    ordinal: Option<u64>,
    kind: Option<&'a str>,
    person: Option<&'a str>,
    target: Option<&'a str>,
    role: Option<&'a str>,
    source: Option<&'a str>,
    protocol: Option<&'a str>,
    start: String,
    end: String,
    status: &'static str,
    reason: Option<&'static str>,
    exit: Option<u32>,
    events: u64,
    bytes_client: Option<u64>,
    bytes_target: Option<u64>,
    segments: u32,
    bytes_stored: Option<u64>,
}

/// Writes the row of a session, with its line feed.
pub(crate) fn line(node: &str, opened: Option<&Opened>, ended: &Ended) -> Vec<u8> {
    let names = opened.map(|opened| &opened.names);
    let name = |name: fn(&Names) -> &Option<String>| names.and_then(|names| name(names).as_deref());
    // A session whose opening is forgotten began when its id was made.
    let start_us = opened.map_or_else(|| ended.session.unix_ms().saturating_mul(1000), |opened| opened.start_us);
    let row = Row {
        sid: ended.session.to_string(),
        node,
        ordinal: opened.map(|opened| opened.ordinal),
        kind: opened.map(|opened| opened.kind.as_str()),
        person: name(|names| &names.person),
        target: name(|names| &names.target),
        role: name(|names| &names.role),
        source: name(|names| &names.source),
        protocol: opened.and_then(|opened| opened.protocol.as_deref()),
        start: rfc3339(start_us),
        end: rfc3339(ended.end_us),
        status: match ended.status {
            Status::Closed => "closed",
            Status::Recovered => "recovered",
        },
        reason: ended.reason.map(CloseReason::name),
        exit: ended.exit,
        events: ended.events,
        bytes_client: ended.bytes.map(|[client, _]| client),
        bytes_target: ended.bytes.map(|[_, target]| target),
        segments: ended.segments,
        bytes_stored: ended.stored_bytes,
    };
    // Text and numbers always become JSON.
    let mut line = serde_json::to_vec(&row).unwrap_or_default();
    line.push(b'\n');
    line
}

fn rfc3339(wall_us: u64) -> String {
    let timestamp = i64::try_from(wall_us).ok().and_then(|us| Timestamp::from_microsecond(us).ok());
    format!("{:.6}", timestamp.unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn opened(session: SessionId) -> Opened {
        let opening = [
            Event::map(identity::TYPE, 0)
                .with(identity::PERSON, "alice")
                .with(identity::SOURCE, "192.0.2.9:50000")
                .with(identity::CLIENT, b"SSH-2.0-x".as_slice()),
            Event::map(grant::TYPE, 0).with(grant::TARGET, "web\n1\"").with(grant::ROLE, "root"),
        ];
        let what = (TranscriptKind::Session, Some(Protocol::Ssh));
        Opened::new(session, 7, what, 1_763_769_600_000_001, &opening)
    }

    pub(crate) fn ended(session: SessionId, end_us: u64) -> Ended {
        Ended {
            session,
            end_us,
            status: Status::Closed,
            reason: Some(CloseReason::Client),
            exit: Some(3),
            events: 12,
            bytes: Some([100, 2000]),
            segments: 1,
            stored_bytes: Some(900),
        }
    }

    #[test]
    fn a_row_is_one_line_with_every_column_in_its_place() {
        let session = SessionId([1; 16]);
        let line = line("n1", Some(&opened(session)), &ended(session, 1_763_769_660_000_000));
        assert_eq!(
            String::from_utf8(line).unwrap(),
            concat!(
                r#"{"sid":"01010101-0101-0101-0101-010101010101","node":"n1","ordinal":7,"kind":"session","#,
                r#""person":"alice","target":"web\n1\"","role":"root","source":"192.0.2.9:50000","protocol":"ssh","#,
                r#""start":"2025-11-22T00:00:00.000001Z","end":"2025-11-22T00:01:00.000000Z","status":"closed","#,
                r#""reason":"client","exit":3,"events":12,"bytes_client":100,"bytes_target":2000,"segments":1,"#,
                "\"bytes_stored\":900}\n"
            )
        );
    }

    #[test]
    fn what_nobody_knows_is_null() {
        let session: SessionId = "019aacd1-0000-7000-8000-000000000001".parse().unwrap();
        let ended = Ended {
            status: Status::Recovered,
            reason: None,
            exit: None,
            bytes: None,
            stored_bytes: None,
            ..ended(session, 1_763_769_660_000_000)
        };
        let row: serde_json::Value = serde_json::from_slice(&line("n1", None, &ended)).unwrap();
        for column in ["ordinal", "kind", "person", "target", "role", "source", "protocol", "reason", "bytes_client"] {
            assert!(row[column].is_null(), "{column}");
        }
        assert_eq!(row["start"], "2025-11-22T18:26:09.536000Z", "of its id");
        assert_eq!(row["status"], "recovered");
    }

    #[test]
    fn what_is_kept_of_an_opening_reads_back() {
        let opened = opened(SessionId([9; 16]));
        let text = serde_json::to_string(&opened).unwrap();
        assert_eq!(serde_json::from_str::<Opened>(&text).unwrap(), opened);
        assert_eq!(opened.session(), Some(SessionId([9; 16])));
    }
}
