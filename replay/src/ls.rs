//! `ls`: the sessions of a vault by their start. A look, not a verdict: what it says is checked by `verify`.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use casemate_recorder::transcript::block::{Block, BlockError, Kind};
use casemate_recorder::transcript::chain::{TRAILER_LEN, events, parse_trailer};
use casemate_recorder::transcript::cipher::LaneKeys;
use casemate_recorder::transcript::event::{Event, Field, Lane, Value, grant, identity};
use casemate_recorder::transcript::head::Head;
use casemate_recorder::transcript::seal::{self, SIGNATURE_LEN};
use casemate_recorder::transcript::wrap::{Identity, unwrap};
use casemate_recorder::vault::segment_key;

use crate::ReplayError;
use crate::json::Object;
use crate::reader::SegmentReader;
use crate::time::rfc3339;
use crate::vault::Vault;
use crate::verify::{Logged, logged_sessions};
use casemate_screen::safe::visible;

/// The last block of a transcript is at most this long: a statement and a signature.
const END_LEN_MAX: u64 = 64 * 1024;

/// It and the trailer are within this many bytes of the end.
const TAIL_LEN: u64 = END_LEN_MAX + TRAILER_LEN as u64;

/// HEAD and the events with which a session opens lie at its very beginning, within this many bytes.
const BEGIN_LEN: u64 = 256 * 1024;

/// Sessions that are looked at before their lines are written.
const BATCH: usize = 256;

/// Who and where, as far as it could be read.
#[derive(Debug, Default)]
struct Names {
    person: Option<String>,
    target: Option<String>,
    role: Option<String>,
}

pub(crate) fn run(vault: &Vault, identities: &[Identity], json: bool, out: &mut dyn Write) -> Result<(), ReplayError> {
    let (mut sessions, sound) = logged_sessions(vault)?;
    sessions.sort_by_key(|logged| (logged.start_us, logged.session));
    for batch in sessions.chunks(BATCH) {
        let lines = vault.each(batch, |logged| {
            let names = names(vault, logged, identities).unwrap_or_default();
            let totals = totals(vault, logged);
            if json { json_line(logged, &names, totals) } else { text_line(logged, &names, totals) }
        });
        for line in lines {
            writeln!(out, "{line}").map_err(ReplayError::io("write to", Path::new("the output")))?;
        }
    }
    if !sound {
        let _ = writeln!(io::stderr(), "casemate-replay: the vault does not hold together; see `verify`");
    }
    out.flush().map_err(ReplayError::io("write to", Path::new("the output")))
}

fn json_line(logged: &Logged, names: &Names, totals: Option<Totals>) -> String {
    Object::new()
        .with("session", logged.session.to_string())
        .with("kind", logged.kind)
        .with("person", &names.person)
        .with("target", &names.target)
        .with("role", &names.role)
        .with("protocol", logged.protocol)
        .with("start", rfc3339(logged.start_us))
        .with("end", logged.end_us.map(rfc3339))
        .with("status", logged.status)
        .with("events", totals.map(|totals| totals.events))
        .with("bytes", totals.and_then(|totals| totals.bytes))
        .finish()
}

fn text_line(logged: &Logged, names: &Names, totals: Option<Totals>) -> String {
    let name = |name: &Option<String>| name.as_deref().map_or_else(|| "-".to_owned(), visible);
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let events = number(totals.map(|totals| totals.events));
    let bytes = number(totals.and_then(|totals| totals.bytes));
    // A portal has a person and no target, the control transcript has neither.
    let who = match &names.target {
        Some(_) => format!("{}@{} as {}", name(&names.person), name(&names.target), name(&names.role)),
        None => name(&names.person),
    };
    format!(
        "{}  {}  {:7}  {:9}  {who}  {events} events  {bytes} bytes",
        rfc3339(logged.start_us).get(..19).unwrap_or_default(),
        logged.session,
        logged.kind,
        logged.status,
    )
}

/// Reads identity and grant, which open a session's metadata; nothing where no identity opens it.
fn names(vault: &Vault, logged: &Logged, identities: &[Identity]) -> Option<Names> {
    let mut buffer = Vec::new();
    let path = vault.place(&segment_key(logged.session, 0));
    let mut reader = match vault.bucket() {
        None => SegmentReader::open(&path, &mut buffer).ok()??,
        Some(bucket) => {
            let first = vault.segment_versions(logged.session, 0).into_iter().next()?;
            buffer = bucket.part(logged.session, 0, &first, &format!("bytes=0-{}", BEGIN_LEN - 1)).ok()?;
            SegmentReader::loaded(path, first.bytes?, &mut buffer)
        }
    };
    let mut names = Names::default();
    let mut keys = LaneKeys::default();
    while let Ok(Some((_, block))) = reader.next_block() {
        if block.header.kind == Kind::Head {
            let head = Head::decode(block.payload).ok()?;
            if head.lane_keys.is_some() && identities.is_empty() {
                return None;
            }
            keys = unwrap(&head, identities).ok()?;
        }
        if !block.header.kind.holds_events() || block.header.lane != Lane::Meta {
            continue;
        }
        for (_, entry) in events(&block, &keys).ok()? {
            let event = &entry.event;
            let take = |slot: &mut Option<String>, field| *slot = text(event, field).or_else(|| slot.take());
            take(&mut names.person, identity::PERSON);
            take(&mut names.target, grant::TARGET);
            take(&mut names.role, grant::ROLE);
        }
        if names.person.is_some() && names.target.is_some() {
            break;
        }
    }
    Some(names)
}

fn text(event: &Event, field: Field) -> Option<String> {
    match event.get(field)? {
        Value::Text(text) => Some(text.clone()),
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    }
}

/// What the end of a transcript states.
#[derive(Debug, Clone, Copy)]
struct Totals {
    events: u64,
    /// Stream bytes; a start that recovers a session cannot read its streams, so it states none.
    bytes: Option<u64>,
}

/// Reads how many events and stream bytes the end of the transcript states.
fn totals(vault: &Vault, logged: &Logged) -> Option<Totals> {
    let (session, no) = (logged.session, logged.last_segment?);
    let tail = match vault.bucket() {
        None => tail_of(&vault.place(&segment_key(session, no))).ok()??,
        Some(bucket) => {
            let first = vault.segment_versions(session, no).into_iter().next()?;
            (first.bytes?, bucket.part(session, no, &first, &format!("bytes=-{TAIL_LEN}")).ok()?)
        }
    };
    let bytes = last_block(tail.0, &tail.1)?;
    let block = Block::parse(bytes).ok()?;
    let (statement, _) = block.payload.split_last_chunk::<SIGNATURE_LEN>()?;
    match block.header.kind {
        Kind::Close => {
            let close: seal::Close = seal::decode_statement(statement).ok()?;
            Some(Totals { events: sum(&close.events), bytes: Some(sum(&close.bytes)) })
        }
        Kind::Recovered => {
            let recovered: Result<seal::Recovered, BlockError> = seal::decode_statement(statement);
            recovered.ok().map(|recovered| Totals { events: sum(&recovered.events), bytes: None })
        }
        _ => None,
    }
}

fn sum(numbers: &[u64]) -> u64 {
    numbers.iter().fold(0, |sum, number| sum.saturating_add(*number))
}

/// Reads the end of a segment file, and returns its whole length too.
fn tail_of(path: &Path) -> io::Result<Option<(u64, Vec<u8>)>> {
    if !std::fs::symlink_metadata(path)?.is_file() {
        return Ok(None);
    }
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let from = len.saturating_sub(TAIL_LEN);
    let mut bytes = vec![0; (len - from) as usize];
    file.read_exact_at(&mut bytes, from)?;
    Ok(Some((len, bytes)))
}

/// Finds the block between INDEX and trailer in the end of a segment of `len` bytes.
fn last_block(len: u64, tail: &[u8]) -> Option<&[u8]> {
    let (rest, trailer) = tail.split_last_chunk::<TRAILER_LEN>()?;
    let (offset, index_len) = parse_trailer(trailer)?;
    let end = len.checked_sub(TRAILER_LEN as u64)?;
    let block_len = end.checked_sub(offset.checked_add(index_len.into())?).filter(|len| *len <= END_LEN_MAX)?;
    rest.get(rest.len().checked_sub(usize::try_from(block_len).ok()?)?..)
}
