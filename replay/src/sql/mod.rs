//! The statements of a PostgreSQL session: texts and values out of the client's messages, joined with what became of them.
//!
//! Messages are numbered as FORMAT.md §10 says. Memory is bounded whatever was recorded: of texts and values that nobody asks
//! for any more, the oldest are forgotten, and their statements are shown without. Believes the record's own `pg.done` and
//! never guesses which answer is whose.

mod frames;
mod kept;
pub(crate) mod line;
pub(crate) mod print;
mod results;
mod table;
mod values;

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use casemate_recorder::transcript::event::{Body, Event, Field, Value, pg_described, pg_done, pg_in, pg_lost, pg_sql};

use self::frames::{Fields, Frame, Frames};
use self::kept::Kept;

/// Bytes of statements' texts that are kept for those who execute them later.
const TEXTS_MAX: usize = 64 << 20;

/// Bytes of values that are kept for the statements they are bound to.
const BINDS_MAX: usize = 64 << 20;

/// How much of one Bind is kept.
const BIND_LEN_MAX: usize = 1 << 20;

/// Types of parameters that are kept, in bytes.
const TYPES_MAX: usize = 16 << 20;

/// Names of statements and portals that are remembered, for statements that nobody said an end of.
const NAMES_MAX: usize = 1 << 16;

/// How much of a name PostgreSQL looks at.
const NAME_LEN_MAX: usize = 63;

/// One statement, and what became of it.
#[derive(Debug)]
pub(crate) struct Statement {
    /// When it was asked for, in microseconds since the session began.
    pub(crate) t_us: u64,
    /// The message that asked for it, or failed before one did.
    pub(crate) number: u64,
    /// Its whole text, unless that was forgotten or never here.
    pub(crate) sql: Option<Rc<[u8]>>,
    /// The function of a FunctionCall, by its OID.
    pub(crate) function: Option<u32>,
    /// What was bound to it; the inner `None` is NULL.
    pub(crate) params: Option<Vec<Option<String>>>,
    /// Whether text or values were longer than is kept.
    pub(crate) clipped: bool,
    /// Which formats its result was asked for in.
    pub(crate) formats: Vec<i16>,
    /// What became of it.
    pub(crate) outcome: String,
    /// The record's own word about it, where there is one.
    pub(crate) done: Option<Event>,
}

impl Statement {
    /// Returns a number that the record says of it.
    pub(crate) fn number_of(&self, field: Field) -> Option<u64> {
        number(self.done.as_ref()?, field)
    }

    /// Returns bytes that the record says of it.
    pub(crate) fn bytes_of(&self, field: Field) -> Option<&[u8]> {
        match self.done.as_ref()?.get(field)? {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

fn number(event: &Event, field: Field) -> Option<u64> {
    match event.get(field) {
        Some(Value::Uint(number)) => Some(*number),
        _ => None,
    }
}

/// The text of a Parse or Query.
#[derive(Debug)]
struct Text {
    sql: Rc<[u8]>,
    /// The types of parameters that the client named.
    types: Vec<u32>,
    clipped: bool,
}

#[derive(Debug)]
struct Bind {
    payload: Vec<u8>,
    clipped: bool,
}

/// A Query, Execute or FunctionCall without an end.
#[derive(Debug)]
struct Asked {
    t_us: u64,
    /// The name of an Execute's portal.
    portal: Option<Vec<u8>>,
    function: Option<u32>,
}

/// Joins what a session asked for with what became of it.
#[derive(Debug)]
pub(crate) struct Statements {
    client: Frames,
    messages: u64,
    texts: Kept<Text>,
    binds: Kept<Bind>,
    types: Kept<Vec<u32>>,
    asked: BTreeMap<u64, Asked>,
    /// Times of messages that may fail without having asked for anything: Parse and the like.
    times: Kept<u64>,
    /// What names stand for where all goes well: the Parse of a statement, the Bind and Parse of a portal.
    statements: HashMap<Vec<u8>, u64>,
    portals: HashMap<Vec<u8>, (u64, Option<u64>)>,
    lost: bool,
}

impl Statements {
    pub(crate) fn new() -> Self {
        Self {
            client: Frames::default(),
            messages: 0,
            texts: Kept::new(TEXTS_MAX),
            binds: Kept::new(BINDS_MAX),
            types: Kept::new(TYPES_MAX),
            asked: BTreeMap::new(),
            times: Kept::new(TYPES_MAX),
            statements: HashMap::new(),
            portals: HashMap::new(),
            lost: false,
        }
    }

    /// Takes the next event of the session, and hands out the statements that it ends, in the order of their ends.
    pub(crate) fn take(&mut self, t_us: u64, event: &Event, mut each: impl FnMut(Statement)) {
        match (&event.body, event.kind) {
            (Body::Stream(data), pg_sql::TYPE | pg_in::TYPE) => {
                let mut client = std::mem::take(&mut self.client);
                client.feed(data, |frame| self.message(t_us, &frame, &mut each));
                self.client = client;
            }
            (_, pg_described::TYPE) => {
                if let (Some(parse), Some(Value::List(types))) =
                    (number(event, pg_described::PARSE), event.get(pg_described::PARAMETERS))
                {
                    let oid = |value: &Value| match value {
                        Value::Uint(oid) => u32::try_from(*oid).unwrap_or_default(),
                        _ => 0,
                    };
                    let types: Vec<u32> = types.iter().map(oid).collect();
                    let len = types.len() * size_of::<u32>();
                    self.types.put(parse, types, len);
                }
            }
            (_, pg_done::TYPE) => {
                let statement = self.done(t_us, event);
                each(statement);
            }
            (_, pg_lost::TYPE) => {
                self.lost = true;
                self.end("unknown", each);
            }
            _ => {}
        }
    }

    /// Hands out what has no end in the record.
    pub(crate) fn finish(&mut self, each: impl FnMut(Statement)) {
        self.end("unanswered", each);
    }

    fn end(&mut self, outcome: &str, mut each: impl FnMut(Statement)) {
        for (number, asked) in std::mem::take(&mut self.asked) {
            each(self.guess(number, &asked, outcome));
        }
    }

    fn message(&mut self, t_us: u64, frame: &Frame<'_>, each: &mut impl FnMut(Statement)) {
        // CopyData may be left out of the record, so it has no number.
        if frame.tag == b'd' {
            return;
        }
        let number = self.messages;
        self.messages += 1;
        let mut fields = Fields(frame.payload);
        match frame.tag {
            b'Q' => {
                self.text(number, &mut fields, frame.clipped);
                self.ask(t_us, number, None, None, each);
            }
            b'P' => {
                self.times.put(number, t_us, 0);
                let Some(name) = fields.text().map(name) else { return };
                self.text(number, &mut fields, frame.clipped);
                remember(&mut self.statements, name, number);
            }
            b'B' => {
                self.times.put(number, t_us, 0);
                let (Some(portal), Some(statement)) = (fields.text().map(name), fields.text().map(name)) else {
                    return;
                };
                let payload = fields.0.get(..BIND_LEN_MAX).unwrap_or(fields.0).to_vec();
                let clipped = frame.clipped || payload.len() < fields.0.len();
                let len = payload.len();
                self.binds.put(number, Bind { payload, clipped }, len);
                let parse = self.statements.get(&statement).copied();
                remember(&mut self.portals, portal, (number, parse));
            }
            b'E' => {
                let portal = fields.text().map(name).unwrap_or_default();
                self.ask(t_us, number, Some(portal), None, each);
            }
            b'F' => {
                let function = fields.u32();
                self.ask(t_us, number, None, function, each);
            }
            _ => self.times.put(number, t_us, 0),
        }
    }

    /// Keeps the text of a Query or Parse, and the types behind it.
    fn text(&mut self, number: u64, fields: &mut Fields<'_>, clipped: bool) {
        // One that is cut has no end.
        let sql: Rc<[u8]> = fields.text().unwrap_or_else(|| std::mem::take(&mut fields.0)).into();
        let count = fields.count().unwrap_or_default();
        let types: Vec<u32> = (0..count).map_while(|_| fields.u32()).collect();
        let len = sql.len() + types.len() * size_of::<u32>();
        self.texts.put(number, Text { sql, types, clipped }, len);
    }

    fn ask(
        &mut self,
        t_us: u64,
        number: u64,
        portal: Option<Vec<u8>>,
        function: Option<u32>,
        each: &mut impl FnMut(Statement),
    ) {
        let asked = Asked { t_us, portal, function };
        if self.lost {
            // Nobody will say what became of it.
            each(self.guess(number, &asked, "unknown"));
        } else {
            self.asked.insert(number, asked);
        }
    }

    /// Joins an end with what was asked for.
    fn done(&mut self, t_us: u64, event: &Event) -> Statement {
        let frame = number(event, pg_done::FRAME).unwrap_or(u64::MAX);
        let (parse, bind) = (number(event, pg_done::PARSE), number(event, pg_done::BIND));
        let outcome = match event.get(pg_done::OUTCOME) {
            Some(Value::Text(outcome)) => outcome.clone(),
            _ => String::new(),
        };
        let asked = self.asked.remove(&frame);
        let began_us = match &asked {
            Some(asked) => asked.t_us,
            None => self.times.get(frame).copied().unwrap_or(t_us),
        };
        // A Query may go on with another statement.
        if event.get(pg_done::INDEX).is_some() {
            self.times.put(frame, began_us, 0);
        }
        if let Some(portal) = asked.as_ref().and_then(|asked| asked.portal.as_ref()) {
            // Each time it was suspended, another Execute went on with it; one that is still suspended had none after the last.
            let batches = number(event, pg_done::BATCHES).unwrap_or_default();
            let more = batches - u64::from(batches > 0 && outcome == "suspended");
            let steps = self.asked.range(frame..).filter(|(_, asked)| asked.portal.as_ref() == Some(portal));
            let steps: Vec<u64> =
                steps.map(|(number, _)| *number).take(usize::try_from(more).unwrap_or(usize::MAX)).collect();
            for step in steps {
                self.asked.remove(&step);
            }
        }
        let function = asked.and_then(|asked| asked.function);
        let mut statement = self.join(began_us, frame, parse, bind, outcome);
        (statement.function, statement.done) = (function, Some(event.clone()));
        statement
    }

    /// Says what was asked for where the record does not say what became of it.
    fn guess(&mut self, number: u64, asked: &Asked, outcome: &str) -> Statement {
        let bound = asked.portal.as_ref().and_then(|portal| self.portals.get(portal)).copied();
        let (bind, parse) = bound.map_or((None, None), |(bind, parse)| (Some(bind), parse));
        let mut statement = self.join(asked.t_us, number, parse, bind, outcome.to_owned());
        statement.function = asked.function;
        statement
    }

    fn join(&mut self, t_us: u64, number: u64, parse: Option<u64>, bind: Option<u64>, outcome: String) -> Statement {
        let text = self.texts.get(parse.unwrap_or(number));
        let (sql, named, mut clipped) = match text {
            Some(text) => (Some(Rc::clone(&text.sql)), text.types.clone(), text.clipped),
            None => (None, Vec::new(), false),
        };
        let described = parse.and_then(|parse| self.types.get(parse)).cloned().unwrap_or_default();
        let type_of = |place: usize| {
            let named = named.get(place).copied().filter(|oid| *oid != 0);
            named.or_else(|| described.get(place).copied()).unwrap_or_default()
        };
        let bind = bind.and_then(|bind| self.binds.get(bind));
        let (params, formats) = match bind {
            Some(bind) => {
                clipped |= bind.clipped;
                bound(&bind.payload, type_of)
            }
            None => (None, Vec::new()),
        };
        Statement { t_us, number, sql, function: None, params, clipped, formats, outcome, done: None }
    }
}

/// Reads the values of a Bind, as far as they are there, and the formats of its result.
fn bound(payload: &[u8], type_of: impl Fn(usize) -> u32) -> (Option<Vec<Option<String>>>, Vec<i16>) {
    let mut fields = Fields(payload);
    let formats = formats(&mut fields);
    let Some(count) = fields.count() else { return (None, Vec::new()) };
    let mut params = Vec::new();
    for place in 0..count {
        let Some(value) = fields.value() else { return (Some(params), Vec::new()) };
        params.push(value.map(|value| values::shown(type_of(place), format_of(&formats, place), value)));
    }
    (Some(params), self::formats(&mut fields))
}

fn formats(fields: &mut Fields<'_>) -> Vec<i16> {
    let count = fields.count().unwrap_or_default();
    (0..count).map_while(|_| fields.i16()).collect()
}

/// Returns the format of a place: none means text for all, and one stands for all.
fn format_of(formats: &[i16], place: usize) -> i16 {
    match formats {
        [one] => *one,
        formats => formats.get(place).copied().unwrap_or_default(),
    }
}

fn name(name: &[u8]) -> Vec<u8> {
    name.get(..NAME_LEN_MAX).unwrap_or(name).to_vec()
}

fn remember<T>(names: &mut HashMap<Vec<u8>, T>, name: Vec<u8>, value: T) {
    if names.len() >= NAMES_MAX {
        names.clear();
    }
    names.insert(name, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_is_read_as_far_as_it_is_there() {
        let int4 = |_| values::oid::INT4;
        // Binary for all, two values, text for all of the result.
        let whole = b"\0\x01\0\x01\0\x02\0\0\0\x04\0\0\0\x07\xff\xff\xff\xff\0\0";
        assert_eq!(bound(whole, int4), (Some(vec![Some("7".to_owned()), None]), vec![]));
        for cut in 0..whole.len() {
            let (params, _) = bound(&whole[..cut], int4);
            assert!(params.is_none_or(|params| params.len() <= 2), "cut at {cut}");
        }
        // A secret leaves stars, and stars are no lengths.
        assert_eq!(bound(b"****************", int4), (None, vec![]));
        assert_eq!(bound(b"\0\0\0\x01\0\0\0\x04****\0\x01\0\x01", int4), (Some(vec![Some("****".into())]), vec![1]));
    }

    #[test]
    fn one_format_stands_for_all() {
        assert_eq!([format_of(&[], 3), format_of(&[1], 3), format_of(&[0, 1], 1), format_of(&[0, 1], 2)], [0, 1, 1, 0]);
    }
}
