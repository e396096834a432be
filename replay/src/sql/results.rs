//! What a target showed of its results: rows out of the recorded messages, handed over with the statement they belong to.
//!
//! The record tells ends in the order of the target's messages, so that each end here meets its own there. Rows of portals
//! that were suspended are joined where nothing else can be meant, and left out where it can.

use std::collections::VecDeque;

use casemate_recorder::transcript::event::{Body, Event, pg_described, pg_done, pg_fatal, pg_lost, pg_out};

use super::frames::{Fields, Frame, Frames};
use super::kept::Kept;
use super::{Statement, format_of, number, values};

/// Rows that are kept of a result: more than anybody reads.
const ROWS_MAX: usize = 1000;

/// Bytes of rows that are kept of a result.
const ROWS_LEN_MAX: usize = 4 << 20;

/// Ends that may wait for the event that tells them; a chunk of output holds far less.
const ENDS_MAX: usize = 1 << 16;

/// Bytes of descriptions of columns that are kept for statements that are executed without another.
const COLUMNS_MAX: usize = 16 << 20;

/// Results of suspended portals that are kept.
const SUSPENDED_MAX: usize = 64;

/// One column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Column {
    name: Vec<u8>,
    type_oid: u32,
    format: i16,
}

/// A row: the inner `None` is NULL.
type Row = Vec<Option<Vec<u8>>>;

/// Rows as they came.
#[derive(Debug, Default)]
struct Rows {
    columns: Option<Vec<Column>>,
    /// How often columns were described: with more than one, nobody knows which are meant.
    described: u32,
    kept: Vec<Row>,
    kept_len: usize,
    /// How many came, kept or not.
    count: u64,
}

/// What a statement showed, as text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// Names of columns; empty where they are not known.
    pub(crate) columns: Vec<Vec<u8>>,
    /// The rows that are here; the inner `None` is NULL.
    pub(crate) rows: Vec<Vec<Option<String>>>,
    /// How many are recorded.
    pub(crate) recorded: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Done,
    Empty,
    Failed,
}

/// Reads the target's side.
#[derive(Debug)]
pub(crate) struct Results {
    target: Frames,
    rows: Rows,
    ends: VecDeque<(Kind, Rows)>,
    suspended: Vec<Rows>,
    /// Whether a ParameterDescription came, and what follows describes the same statement.
    describing: bool,
    /// Descriptions without their Parse, and the other way round.
    columns: VecDeque<Option<Vec<Column>>>,
    parses: VecDeque<Option<u64>>,
    of_parse: Kept<Vec<Column>>,
    lost: bool,
}

impl Results {
    pub(crate) fn new() -> Self {
        Self {
            target: Frames::default(),
            rows: Rows::default(),
            ends: VecDeque::new(),
            suspended: Vec::new(),
            describing: false,
            columns: VecDeque::new(),
            parses: VecDeque::new(),
            of_parse: Kept::new(COLUMNS_MAX),
            lost: false,
        }
    }

    /// Takes the next event of the session.
    pub(crate) fn take(&mut self, event: &Event) {
        match (&event.body, event.kind) {
            (Body::Stream(data), pg_out::TYPE) if !self.lost => {
                let mut target = std::mem::take(&mut self.target);
                target.feed(data, |frame| self.message(&frame));
                self.target = target;
                // Without ends, nothing can be attributed.
                self.lost |= self.ends.len() > ENDS_MAX;
            }
            (_, pg_described::TYPE) => {
                self.parses.push_back(number(event, pg_described::PARSE));
                self.describe();
            }
            (_, pg_fatal::TYPE) => drop(self.end(Kind::Failed)),
            (_, pg_lost::TYPE) => self.lose(),
            _ => {}
        }
    }

    fn lose(&mut self) {
        *self = Self { lost: true, ..Self::new() };
    }

    /// Returns what a statement showed; `None` where that cannot be told.
    pub(crate) fn of(&mut self, statement: &Statement) -> Option<Table> {
        let (done, batches) = (statement.done.as_ref()?, statement.number_of(pg_done::BATCHES).unwrap_or_default());
        let mut rows = match statement.outcome.as_str() {
            "done" => self.end(Kind::Done)?,
            "empty" => self.end(Kind::Empty)?,
            "failed" => self.end(Kind::Failed)?,
            "suspended" => Rows::default(),
            _ => return None,
        };
        if batches > 0 {
            let steps = std::mem::take(&mut self.suspended);
            if steps.len() as u64 != batches {
                return None;
            }
            rows = steps.into_iter().chain([rows]).reduce(Rows::join)?;
        }
        let parse = number(done, pg_done::PARSE);
        match (&rows.columns, parse) {
            (Some(columns), Some(parse)) => self.of_parse.put(parse, columns.clone(), columns_len(columns)),
            (None, Some(parse)) if rows.described == 0 => rows.columns = self.of_parse.get(parse).cloned(),
            _ => {}
        }
        Some(rows.table(&statement.formats))
    }

    /// Takes the next end, which must be of that kind: else the thread is lost.
    fn end(&mut self, kind: Kind) -> Option<Rows> {
        if self.lost {
            return None;
        }
        match self.ends.pop_front() {
            Some((found, rows)) if found == kind => Some(rows),
            _ => {
                self.lose();
                None
            }
        }
    }

    fn describe(&mut self) {
        while let (Some(_), Some(_)) = (self.columns.front(), self.parses.front()) {
            if let (Some(Some(columns)), Some(Some(parse))) = (self.columns.pop_front(), self.parses.pop_front()) {
                let len = columns_len(&columns);
                self.of_parse.put(parse, columns, len);
            }
        }
        self.lost |= self.columns.len() > ENDS_MAX;
    }

    fn message(&mut self, frame: &Frame<'_>) {
        match frame.tag {
            b't' => self.describing = true,
            b'T' | b'n' if std::mem::take(&mut self.describing) => {
                self.columns.push_back((frame.tag == b'T').then(|| columns(frame.payload)).flatten());
                self.describe();
            }
            b'T' => {
                self.rows.described += 1;
                self.rows.columns = columns(frame.payload).filter(|_| self.rows.described == 1);
            }
            b'D' => self.rows.push(frame),
            b'C' | b'V' => self.push(Kind::Done),
            b'I' => self.push(Kind::Empty),
            b'E' => {
                self.describing = false;
                self.push(Kind::Failed);
            }
            b's' => {
                let rows = std::mem::take(&mut self.rows);
                if self.suspended.len() < SUSPENDED_MAX {
                    self.suspended.push(rows);
                } else {
                    // The oldest are nobody's any more: what is left does not add up.
                    self.suspended.clear();
                }
            }
            // What was described and not executed by now is for another time.
            b'Z' => self.rows = Rows::default(),
            _ => {}
        }
    }

    fn push(&mut self, kind: Kind) {
        self.ends.push_back((kind, std::mem::take(&mut self.rows)));
    }
}

impl Rows {
    fn push(&mut self, frame: &Frame<'_>) {
        self.count += 1;
        let len = frame.payload.len();
        if self.kept.len() >= ROWS_MAX || self.kept_len + len > ROWS_LEN_MAX {
            return;
        }
        let mut fields = Fields(frame.payload);
        let count = fields.count().unwrap_or_default();
        let row: Row = (0..count).map_while(|_| fields.value()).map(|value| value.map(<[u8]>::to_vec)).collect();
        self.kept_len += len;
        self.kept.push(row);
    }

    fn join(mut self, next: Self) -> Self {
        self.columns = self.columns.or(next.columns);
        self.described += next.described;
        self.count += next.count;
        let room = ROWS_MAX.saturating_sub(self.kept.len());
        self.kept.extend(next.kept.into_iter().take(room));
        self
    }

    /// Shows the rows as text. A Bind may have asked for other formats than the statement was described with.
    fn table(self, formats: &[i16]) -> Table {
        let width = self.kept.first().map(Vec::len);
        let columns =
            self.columns.filter(|columns| width.is_none_or(|width| columns.len() == width)).unwrap_or_default();
        let show = |(place, value): (usize, Option<Vec<u8>>)| {
            let column = columns.get(place);
            let format = match column {
                Some(column) if formats.is_empty() => column.format,
                _ => format_of(formats, place),
            };
            value.map(|value| values::shown(column.map_or(0, |column| column.type_oid), format, &value))
        };
        let rows = self.kept.into_iter().map(|row| row.into_iter().enumerate().map(show).collect()).collect();
        Table { columns: columns.iter().map(|column| column.name.clone()).collect(), rows, recorded: self.count }
    }
}

/// Reads a RowDescription.
fn columns(payload: &[u8]) -> Option<Vec<Column>> {
    let mut fields = Fields(payload);
    let count = fields.count()?;
    (0..count)
        .map(|_| {
            let name = fields.text()?.to_vec();
            // The table, and its column.
            fields.bytes(4 + 2)?;
            let type_oid = fields.u32()?;
            // Its size, and its modifier.
            fields.bytes(2 + 4)?;
            Some(Column { name, type_oid, format: fields.i16()? })
        })
        .collect()
}

fn columns_len(columns: &[Column]) -> usize {
    columns.iter().map(|column| column.name.len() + size_of::<Column>()).sum()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use casemate_recorder::transcript::event::Value;

    use super::*;

    fn message(tag: u8, payload: &[u8]) -> Vec<u8> {
        [&[tag][..], &(payload.len() as u32 + 4).to_be_bytes(), payload].concat()
    }

    /// Says what a target sent: `T` with a column of int4 named so, `D` with a text, and the rest bare.
    fn say(results: &mut Results, words: &str) {
        for word in words.split(' ') {
            let (tag, rest) = (word.as_bytes()[0], &word.as_bytes()[1..]);
            let payload = match tag {
                b'T' => [b"\0\x01", rest, b"\0\0\0\0\0\0\0\0\0\0\x17\0\0\0\0\0\0\0\0"].concat(),
                b'D' => [b"\0\x01", &(rest.len() as u32).to_be_bytes()[..], rest].concat(),
                _ => rest.to_vec(),
            };
            results.take(&Event::stream(pg_out::TYPE, 0, Bytes::from(message(tag, &payload))));
        }
    }

    /// What a statement with that end and these fields showed: its column's name, and its values.
    fn shown(
        results: &mut Results,
        outcome: &str,
        fields: &[(casemate_recorder::transcript::event::Field, u64)],
    ) -> Option<String> {
        let done = fields.iter().fold(Event::map(pg_done::TYPE, 0), |done, (field, number)| done.with(*field, *number));
        let statement = Statement {
            t_us: 0,
            number: 0,
            sql: None,
            function: None,
            params: None,
            clipped: false,
            formats: Vec::new(),
            outcome: outcome.to_owned(),
            done: Some(done),
        };
        let table = results.of(&statement)?;
        let names = table.columns.iter().map(|name| String::from_utf8_lossy(name).into_owned());
        let values = table.rows.into_iter().flatten().map(|value| value.unwrap_or_else(|| "NULL".to_owned()));
        Some(names.chain(values).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn each_end_meets_its_own_rows() {
        let mut results = Results::new();
        say(&mut results, "Ta D1 D2 C I Tb D3 E Z C");
        assert_eq!(shown(&mut results, "done", &[]).as_deref(), Some("a 1 2"));
        assert_eq!(shown(&mut results, "empty", &[]).as_deref(), Some(""));
        assert_eq!(shown(&mut results, "skipped", &[]), None);
        assert_eq!(shown(&mut results, "failed", &[]).as_deref(), Some("b 3"));
        assert_eq!(shown(&mut results, "done", &[]).as_deref(), Some(""));
        // An end that is not there: nothing is attributed any more.
        assert_eq!(shown(&mut results, "done", &[]), None);
        say(&mut results, "Ta D1 C");
        assert_eq!(shown(&mut results, "done", &[]), None);
    }

    #[test]
    fn an_error_of_no_statement_is_passed_over() {
        let mut results = Results::new();
        say(&mut results, "E Ta D1 C");
        results.take(&Event::map(pg_fatal::TYPE, 0));
        assert_eq!(shown(&mut results, "done", &[]).as_deref(), Some("a 1"));
    }

    #[test]
    fn columns_are_those_of_the_statement_or_none() {
        let mut results = Results::new();
        // Described before it is executed, and told late.
        say(&mut results, "1 t Ta Z 2 D1 C Z t n 2 D1 C");
        let described = |parse: u64| {
            Event::map(pg_described::TYPE, 0)
                .with(pg_described::PARSE, parse)
                .with(pg_described::PARAMETERS, Value::List(Vec::new()))
        };
        results.take(&described(0));
        results.take(&described(9));
        assert_eq!(shown(&mut results, "done", &[(pg_done::PARSE, 0)]).as_deref(), Some("a 1"));
        assert_eq!(shown(&mut results, "done", &[(pg_done::PARSE, 9)]).as_deref(), Some("1"));
        // Two portals are described, then executed: which columns are whose is not to be told.
        say(&mut results, "Ta Tb D1 C D2 C");
        assert_eq!(shown(&mut results, "done", &[]).as_deref(), Some("1"));
        assert_eq!(shown(&mut results, "done", &[]).as_deref(), Some("2"));
    }

    #[test]
    fn rows_of_two_portals_at_a_time_are_not_told_apart() {
        let mut results = Results::new();
        say(&mut results, "Ta D1 s D2 s D3 C");
        assert_eq!(shown(&mut results, "done", &[(pg_done::BATCHES, 2)]).as_deref(), Some("a 1 2 3"));
        say(&mut results, "Ta D1 s Tb D2 s D3 C");
        assert_eq!(shown(&mut results, "done", &[(pg_done::BATCHES, 1)]), None);
        say(&mut results, "Ta D1 s");
        assert_eq!(shown(&mut results, "suspended", &[(pg_done::BATCHES, 1)]).as_deref(), Some("a 1"));
    }

    #[test]
    fn of_a_long_result_the_beginning_is_kept() {
        let mut results = Results::new();
        say(&mut results, &vec!["Dx"; 1500].join(" "));
        say(&mut results, "C");
        let (_, rows) = &results.ends[0];
        assert_eq!((rows.kept.len(), rows.count), (ROWS_MAX, 1500));
    }
}
