//! The bytes of both sides on their way into the record.
//!
//! Finds the frames in what comes, says which stream of the record each belongs to, which bytes of it are secret and which rows
//! the grant keeps out, and shows all of it to the audit queue, whose events follow. Forwards nothing: what it gives back is
//! the ticket of the bytes. Knows no socket.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use casemate_recorder::transcript::event::{Event, EventType, Side, Value, pg_done, pg_in, pg_out, pg_sql};
use casemate_recorder::{Elision, How, Of, Part, Session as Recording, Ticket};

use super::codec::{FrameError, HEADER_LEN, Piece, Splitter};
use super::flow::{Flow, Verdict};
use super::redact::{ErrorRedactor, Redactor};
use crate::config::Results;
use crate::metrics::Statements;

/// Names of statements whose parameters are secret. Beyond, all parameters are: whoever prepares as many has something to hide.
const SECRET_NAMES_MAX: usize = 1_000;

/// The longest beginning of a statement's name that is kept to tell it from others; longer names are secret when one of them is.
const NAME_LEN_MAX: usize = 256;

/// Bytes of one side, in the record and on their way.
#[derive(Debug)]
pub(super) struct Taken {
    /// What the bytes wait for.
    pub(super) ticket: Ticket,
    /// Whether they end where a frame ends: something of our own may follow them.
    pub(super) boundary: bool,
    /// Frames of this side that have ended with them.
    pub(super) frames: u64,
}

/// What a target says to a login that it refuses, and where it speaks of secrets.
pub(super) struct Rebuff {
    raw: Bytes,
    secrets: Vec<Range<usize>>,
}

impl Rebuff {
    /// Reads a whole ErrorResponse; `sensitive` where the login had something secret in it.
    pub(super) fn new(raw: Bytes, sensitive: bool) -> Self {
        let mut secrets = Vec::new();
        ErrorRedactor::new(sensitive).feed(raw.get(HEADER_LEN..).unwrap_or_default(), &mut secrets);
        shift(&mut secrets, 0, HEADER_LEN);
        Self { raw, secrets }
    }

    /// Returns it as the record has it.
    pub(super) fn shown(&self) -> Bytes {
        let mut shown = BytesMut::from(&*self.raw);
        stars(&mut shown, &self.secrets);
        shown.freeze()
    }

    /// Records it. The receipt has it as it was said.
    pub(super) fn record(self, recording: &Recording) -> Ticket {
        let (mut parts, mut elision) = (Vec::new(), Elision::new(0, Side::Target, Of::Rows));
        keep(&mut parts, pg_out::TYPE, 0..self.raw.len(), 0, &self.secrets);
        recording.record_eliding(&mut elision, pg_out::TYPE, self.raw, &parts, [])
    }
}

/// What both sides of a session record into.
pub(super) struct Tape {
    recording: Recording,
    statements: Statements,
    shared: Mutex<Shared>,
    client: Mutex<Ear>,
    target: Mutex<Ear>,
}

/// What one side's bytes are read with.
struct Ear {
    splitter: Splitter,
    elision: Elision,
    parts: Vec<Part>,
    secrets: Vec<Range<usize>>,
    scratch: BytesMut,
    events: Vec<Event>,
    /// Of the frame that is going on.
    reading: Reading,
    verdict: Verdict,
}

/// How the payload of a frame is read for secrets.
enum Reading {
    /// There are none in it, or they are data.
    Plain,
    /// The text of a Query.
    Query(Redactor),
    /// A Parse: its statement's name, then its text, then types.
    Parse { name: Vec<u8>, named: bool, text: Option<Redactor> },
    /// A Bind: its portal's name, its statement's, then values.
    Bind { statement: Vec<u8>, names: u8, secret: bool },
    /// An error or a notice.
    Error(ErrorRedactor),
}

/// What the two sides tell each other.
struct Shared {
    flow: Flow,
    /// Named statements whose parameters are secret.
    secret_names: HashSet<Vec<u8>>,
    unnamed: Unnamed,
    /// There are too many names to keep.
    all_secret: bool,
    /// Whether a statement was prepared that EXECUTE may give secrets to.
    executable: bool,
    /// Something secret was sent, and the target may still speak of it.
    spoken_of: bool,
    /// Whether the client is in the middle of a frame.
    sending: bool,
}

/// What was sent as the unnamed statement. The target may skip any of it.
#[derive(Default)]
struct Unnamed {
    /// Whether the last since the last Sync is secret: a Bind behind that is for it, or is skipped with it.
    fresh: Option<bool>,
    /// The number of the last message that made it a secret one.
    secret: Option<u64>,
}

impl Shared {
    fn is_secret(&self, statement: &[u8]) -> bool {
        self.all_secret
            || if statement.is_empty() { self.is_unnamed_secret() } else { self.secret_names.contains(statement) }
    }

    /// Whether the unnamed statement is secret: by what was sent, unless the target has taken another since.
    fn is_unnamed_secret(&self) -> bool {
        let Unnamed { fresh, secret } = self.unnamed;
        fresh.unwrap_or_else(|| secret.is_some_and(|secret| self.flow.unnamed().is_none_or(|taken| taken <= secret)))
    }

    /// A piece passed, and the flow knows of it.
    fn pass(&mut self, side: Side, piece: &Piece) {
        match side {
            Side::Client => {
                self.sending = !piece.ends();
                if piece.tag == b'S' {
                    self.unnamed.fresh = None;
                }
            }
            // Answers to all there is do not end it: what was bound may still be executed.
            Side::Target if piece.tag == b'Z' && piece.ends() && !self.sending && !self.flow.is_running() => {
                self.spoken_of = false;
            }
            Side::Target => {}
        }
    }

    /// A statement of that name was sent. A name that has a secret statement keeps it: preparing it again fails.
    fn prepared(&mut self, name: &[u8], secret: bool) {
        if name.is_empty() {
            self.unnamed.fresh = Some(secret);
            if secret {
                self.unnamed.secret = Some(self.flow.asked_messages());
            }
        } else if secret {
            self.executable = true;
            self.all_secret |= self.secret_names.len() >= SECRET_NAMES_MAX;
            if !self.all_secret {
                self.secret_names.insert(name.to_vec());
            }
        }
        self.spoken_of |= secret;
    }
}

impl Ear {
    fn new(side: Side) -> Self {
        Self {
            splitter: Splitter::new(side),
            elision: Elision::new(0, side, Of::Rows),
            parts: Vec::new(),
            secrets: Vec::new(),
            scratch: BytesMut::new(),
            events: Vec::new(),
            reading: Reading::Plain,
            verdict: Verdict::Keep,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tape {
    /// Starts behind the login, where both sides begin to number their frames.
    pub(super) fn new(recording: Recording, results: Results, statements: Statements) -> Self {
        let shared = Shared {
            flow: Flow::new(results),
            secret_names: HashSet::new(),
            unnamed: Unnamed::default(),
            all_secret: false,
            executable: false,
            spoken_of: false,
            sending: false,
        };
        Self {
            recording,
            statements,
            shared: Mutex::new(shared),
            client: Mutex::new(Ear::new(Side::Client)),
            target: Mutex::new(Ear::new(Side::Target)),
        }
    }

    /// Takes the frames off the front of what a side sent, and leaves at most the first four bytes of one. `None` where there is
    /// nothing else.
    ///
    /// # Errors
    /// The side broke the protocol. What came before that is in the record and goes on.
    pub(super) fn take(&self, side: Side, bytes: &mut BytesMut, at: Duration) -> (Option<Taken>, Option<FrameError>) {
        let ear = &mut *lock(if side == Side::Client { &self.client } else { &self.target });
        let (mut end, mut fault) = (0, None);
        ear.parts.clear();
        {
            let shared = &mut *lock(&self.shared);
            while let Some(rest) = bytes.get(end..) {
                match ear.splitter.next(rest) {
                    Ok(Some(piece)) => {
                        ear.piece(side, &piece, rest, end, at, shared);
                        end += piece.len;
                        if side == Side::Target && piece.ends() {
                            end += ear.rows(piece.tag, bytes.get(end..).unwrap_or_default(), end, &mut shared.flow);
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        fault = Some(error);
                        break;
                    }
                }
            }
        }
        if end == 0 {
            return (None, fault);
        }
        let wire = bytes.split_to(end).freeze();
        let boundary = ear.splitter.at_boundary();
        let ticket = self.put(side, ear, wire);
        let frames = ear.splitter.frames() - u64::from(!boundary);
        (Some(Taken { ticket, boundary, frames }), fault)
    }

    /// Records the bytes, and behind them what they mean.
    fn put(&self, side: Side, ear: &mut Ear, wire: Bytes) -> Ticket {
        self.count(&ear.events);
        self.recording.record_eliding(&mut ear.elision, usual(side), wire, &ear.parts, ear.events.drain(..))
    }

    /// Counts the statements that are told to be over.
    fn count(&self, events: &[Event]) {
        for event in events.iter().filter(|event| event.kind == pg_done::TYPE) {
            if let Some(Value::Text(outcome)) = event.get(pg_done::OUTCOME) {
                self.statements.count(outcome);
            }
        }
    }

    /// Records bytes that are no frames: what a side had begun when it left.
    pub(super) fn tail(&self, side: Side, bytes: Bytes) -> Ticket {
        self.recording.record(side, Event::stream(usual(side), 0, bytes))
    }

    /// The client's frames below that number were handed to the target.
    pub(super) fn forwarded(&self, frames: u64, at: Duration) {
        lock(&self.shared).flow.forwarded(frames, at);
    }

    /// Whether a statement is running.
    pub(super) fn is_running(&self) -> bool {
        lock(&self.shared).flow.is_running()
    }

    /// Records what the end of the connection leaves unanswered.
    pub(super) fn finish(&self, at: Duration) {
        let mut events = Vec::new();
        lock(&self.shared).flow.finish(at, &mut events);
        self.count(&events);
        events.into_iter().for_each(|event| drop(self.recording.record(Side::Target, event)));
    }
}

/// The stream that most of a side's frames are in.
fn usual(side: Side) -> EventType {
    match side {
        Side::Client => pg_sql::TYPE,
        Side::Target => pg_out::TYPE,
    }
}

impl Ear {
    /// Reads a piece that lies at `start` of what came, at the front of `rest`.
    fn piece(&mut self, side: Side, piece: &Piece, rest: &[u8], start: usize, at: Duration, shared: &mut Shared) {
        let payload = piece.payload(rest);
        if piece.starts() {
            self.reading = reading(side, piece.tag, shared);
        }
        self.secrets.clear();
        self.reading.read(payload, piece.ends(), shared, &mut self.secrets);
        let begin = start + piece.header;
        let shown = if self.secrets.is_empty() {
            payload
        } else {
            self.scratch.clear();
            self.scratch.extend_from_slice(payload);
            stars(&mut self.scratch, &self.secrets);
            &self.scratch
        };
        let verdict = match side {
            Side::Client => shared.flow.client(piece, shown, at, &mut self.events),
            Side::Target => shared.flow.target(piece, shown, at, &mut self.events),
        };
        if piece.starts() {
            self.verdict = verdict;
        }
        shared.pass(side, piece);
        let kind = stream(side, piece.tag);
        if self.verdict == Verdict::Elide {
            return extend(&mut self.parts, start..start + piece.len, How::Elide);
        }
        keep(&mut self.parts, kind, start..start + piece.len, begin, &self.secrets);
    }

    /// Takes the whole rows at the front of `rest`, which lies at `start`, right behind one with that tag, if all that one does with
    /// them is to count them. Returns their length.
    fn rows(&mut self, tag: u8, rest: &[u8], start: usize, flow: &mut Flow) -> usize {
        if !flow.counts_rows(tag) {
            return 0;
        }
        let run = self.splitter.run(tag, rest);
        flow.rows(&run);
        let how = match self.verdict {
            Verdict::Keep => How::Keep(stream(Side::Target, tag)),
            Verdict::Elide => How::Elide,
        };
        extend(&mut self.parts, start..start + run.len, how);
        run.len
    }
}

/// Adds a place that is kept but for its secrets, which are told from `begin` on.
fn keep(parts: &mut Vec<Part>, kind: EventType, place: Range<usize>, begin: usize, secrets: &[Range<usize>]) {
    let mut from = place.start;
    for secret in secrets {
        let secret = begin + secret.start..begin + secret.end;
        extend(parts, from..secret.start, How::Keep(kind));
        from = secret.end;
        extend(parts, secret, How::Redact(kind));
    }
    extend(parts, from..place.end, How::Keep(kind));
}

/// Puts stars in the place of secrets.
pub(super) fn stars(bytes: &mut [u8], secrets: &[Range<usize>]) {
    for secret in secrets {
        if let Some(place) = bytes.get_mut(secret.clone()) {
            place.fill(b'*');
        }
    }
}

/// Adds a place, joined to the last one where the record gets the same of both.
fn extend(parts: &mut Vec<Part>, range: Range<usize>, how: How) {
    match parts.last_mut() {
        _ if range.is_empty() => {}
        Some(last) if last.how == how && last.range.end == range.start => last.range.end = range.end,
        _ => parts.push(Part { range, how }),
    }
}

/// The stream of the record that a frame belongs to.
fn stream(side: Side, tag: u8) -> EventType {
    match (side, tag) {
        (Side::Client, b'B' | b'd' | b'F') => pg_in::TYPE,
        _ => usual(side),
    }
}

fn reading(side: Side, tag: u8, shared: &Shared) -> Reading {
    match (side, tag) {
        (Side::Client, b'Q') => Reading::Query(Redactor::behind(shared.executable)),
        (Side::Client, b'P') => {
            Reading::Parse { name: Vec::new(), named: false, text: Some(Redactor::behind(shared.executable)) }
        }
        (Side::Client, b'B') => Reading::Bind { statement: Vec::new(), names: 0, secret: false },
        (Side::Target, b'E' | b'N') => Reading::Error(ErrorRedactor::new(shared.spoken_of)),
        _ => Reading::Plain,
    }
}

impl Reading {
    /// Reads on in a frame's payload; `secrets` gets the places in it that are secret.
    fn read(&mut self, payload: &[u8], ends: bool, shared: &mut Shared, secrets: &mut Vec<Range<usize>>) {
        match self {
            Self::Plain => {}
            Self::Query(text) => {
                // The zero byte at its end is none of the text.
                let text_len = payload.len() - usize::from(ends && payload.last() == Some(&0));
                text.feed(payload.get(..text_len).unwrap_or_default(), secrets);
                shared.spoken_of |= text.is_sensitive();
                shared.executable |= ends && text.prepares();
            }
            Self::Error(fields) => fields.feed(payload, secrets),
            Self::Parse { name, named, text } => {
                let mut from = 0;
                if !*named {
                    (from, *named) = read_name(payload, name);
                }
                if let (true, Some(redactor)) = (*named, text.as_mut()) {
                    let rest = payload.get(from..).unwrap_or_default();
                    let end = rest.iter().position(|byte| *byte == 0);
                    let before = secrets.len();
                    redactor.feed(rest.get(..end.unwrap_or(rest.len())).unwrap_or_default(), secrets);
                    shift(secrets, before, from);
                    if end.is_some() || ends {
                        shared.prepared(name, redactor.is_sensitive());
                        shared.executable |= redactor.prepares();
                        *text = None;
                    }
                }
            }
            Self::Bind { statement, names, secret } => {
                let mut from = 0;
                while *names < 2 && from < payload.len() {
                    if *names == 1 {
                        let (len, done) = read_name(payload.get(from..).unwrap_or_default(), statement);
                        (from, *names) = (from + len, *names + u8::from(done));
                        *secret = done && shared.is_secret(statement);
                    } else {
                        let rest = payload.get(from..).unwrap_or_default();
                        let end = rest.iter().position(|byte| *byte == 0);
                        from += end.map_or(rest.len(), |end| end + 1);
                        *names += u8::from(end.is_some());
                    }
                }
                if *secret && *names == 2 && from < payload.len() {
                    shared.spoken_of = true;
                    secrets.push(from..payload.len());
                }
            }
        }
    }
}

/// Reads on in a name up to its zero byte: how much was read, and whether that was all of it.
fn read_name(payload: &[u8], name: &mut Vec<u8>) -> (usize, bool) {
    let end = payload.iter().position(|byte| *byte == 0);
    let more = payload.get(..end.unwrap_or(payload.len())).unwrap_or_default();
    let room = NAME_LEN_MAX.saturating_sub(name.len());
    name.extend_from_slice(more.get(..more.len().min(room)).unwrap_or_default());
    (end.map_or(payload.len(), |end| end + 1), end.is_some())
}

/// Moves places that were found in a part of the payload to where they are in all of it.
fn shift(secrets: &mut [Range<usize>], from: usize, by: usize) {
    for secret in secrets.iter_mut().skip(from) {
        *secret = secret.start + by..secret.end + by;
    }
}
