//! `ls`: the sessions of a vault by their start. A look, not a verdict: what it says is checked by `verify`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use casemate_recorder::transcript::block::{Block, BlockError, Kind};
use casemate_recorder::transcript::chain::{TRAILER_LEN, events, parse_trailer};
use casemate_recorder::transcript::cipher::LaneKeys;
use casemate_recorder::transcript::event::{Event, Field, Lane, Value, grant, identity};
use casemate_recorder::transcript::head::Head;
use casemate_recorder::transcript::seal::{self, SIGNATURE_LEN};
use casemate_recorder::transcript::wrap::{Identity, unwrap};

use crate::ReplayError;
use crate::json::Object;
use crate::reader::SegmentReader;
use crate::time::rfc3339;
use crate::vault::Vault;
use crate::verify::{Logged, logged_sessions};
use casemate_screen::safe::visible;

/// The last block of a transcript is at most this long: a statement and a signature.
const END_LEN_MAX: u64 = 64 * 1024;

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
    for logged in &sessions {
        let mut buffer = Vec::new();
        let names = names(vault, logged, identities, &mut buffer).unwrap_or_default();
        let totals = totals(vault, logged);
        let line = if json { json_line(logged, &names, totals) } else { text_line(logged, &names, totals) };
        writeln!(out, "{line}").map_err(ReplayError::io("write to", Path::new("the output")))?;
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
fn names(vault: &Vault, logged: &Logged, identities: &[Identity], buffer: &mut Vec<u8>) -> Option<Names> {
    let path = vault.segment(logged.session, 0);
    let mut reader = SegmentReader::open(&path, buffer).ok()??;
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
    let path = vault.segment(logged.session, logged.last_segment?);
    let bytes = last_block(&path).ok()??;
    let block = Block::parse(&bytes).ok()?;
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

/// Reads the block between INDEX and trailer, without the rest of the file.
fn last_block(path: &Path) -> io::Result<Option<Vec<u8>>> {
    if !std::fs::symlink_metadata(path)?.is_file() {
        return Ok(None);
    }
    let mut file = File::open(path)?;
    let end = file.seek(SeekFrom::End(-(TRAILER_LEN as i64)))?;
    let mut trailer = [0; TRAILER_LEN];
    file.read_exact(&mut trailer)?;
    let start = parse_trailer(&trailer).and_then(|(offset, len)| offset.checked_add(len.into()));
    let Some(len) = start.and_then(|start| end.checked_sub(start)).filter(|len| *len <= END_LEN_MAX) else {
        return Ok(None);
    };
    file.seek(SeekFrom::Start(end - len))?;
    let mut bytes = vec![0; len as usize];
    file.read_exact(&mut bytes)?;
    Ok(Some(bytes))
}
