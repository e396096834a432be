//! Events: what a transcript says happened, one entry each.
//!
//! On the wire an event is a CBOR array `[seq, dt_us, type, chan, body]` in a CBOR sequence (RFC 8742), deterministic
//! as in RFC 8949 §4.2.1. The body is a byte string for streams and a map with small integer keys for the rest.
//! The table at the end of this file is the whole vocabulary; `FORMAT.md` is compared with it by a test.

use std::fmt;

use bytes::Bytes;
use minicbor::{Decoder, Encoder, data::Type};

/// An encoded event is at most this long; longer streams are split by the caller (FORMAT.md §2).
pub const EVENT_LEN_MAX: usize = 256 * 1024;

/// The longest stream body that fits one event, whatever the sizes of its other fields.
pub const STREAM_LEN_MAX: usize = EVENT_LEN_MAX - 64;

/// How deep lists and maps may nest.
const NESTING_MAX: usize = 4;

/// Who sent something. On a transcript `Client` is input, `Target` is output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The person's program.
    Client,
    /// What they reach.
    Target,
}

/// A confidentiality class; each lane is keyed apart and fills blocks of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Lane {
    /// Metadata: who, where, when, what was asked for.
    Meta = 0,
    /// Output, and the text of commands and SQL.
    Output = 1,
    /// Secret input: keystrokes, bind parameters, file content.
    Input = 2,
}

impl Lane {
    /// All lanes, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Meta, Self::Output, Self::Input];

    /// Returns the lane with that number, or `None`.
    pub fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Meta),
            1 => Some(Self::Output),
            2 => Some(Self::Input),
            _ => None,
        }
    }
}

/// An event type number. Numbers are forever; readers keep the ones they do not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventType(pub u16);

impl EventType {
    /// Returns the row of the vocabulary that describes this type, or `None` for a newer one.
    pub fn spec(self) -> Option<&'static TypeSpec> {
        TYPES.iter().find(|spec| spec.number == self)
    }

    /// Returns the lane that events of this type belong to; an unknown type counts as metadata.
    pub fn lane(self) -> Lane {
        self.spec().map_or(Lane::Meta, |spec| spec.lane)
    }

    /// Whether the body is a byte string.
    pub fn is_stream(self) -> bool {
        self.spec().is_some_and(|spec| spec.fields.is_empty())
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.spec() {
            Some(spec) => f.write_str(spec.name),
            None => write!(f, "type{}", self.0),
        }
    }
}

/// One field of a map body: the type it belongs to and its key there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    of: EventType,
    key: u8,
}

/// One row of the vocabulary.
#[derive(Debug)]
pub struct TypeSpec {
    /// The number on the wire.
    pub number: EventType,
    /// The name in exports, such as `ssh.in`.
    pub name: &'static str,
    /// The confidentiality class.
    pub lane: Lane,
    /// Map keys with their names in exports; empty for a stream.
    pub fields: &'static [(u8, &'static str)],
}

/// A value inside a map body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// An unsigned integer.
    Uint(u64),
    /// Raw bytes: anything a peer chose.
    Bytes(Bytes),
    /// Text that this program or its configuration chose.
    Text(String),
    /// A list, at most four deep.
    List(Vec<Self>),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Uint(value)
    }
}
impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Uint(value.into())
    }
}
impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Uint(value.into())
    }
}
impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}
impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}
impl From<Bytes> for Value {
    fn from(value: Bytes) -> Self {
        Self::Bytes(value)
    }
}
impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        Self::Bytes(Bytes::copy_from_slice(value))
    }
}
impl From<Vec<Self>> for Value {
    fn from(value: Vec<Self>) -> Self {
        Self::List(value)
    }
}

/// What an event carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Raw bytes of a stream, as they were on the wire.
    Stream(Bytes),
    /// Fields by key, ascending.
    Map(Vec<(u8, Value)>),
}

/// One transcript entry, before it gets its place and time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventType,
    /// The SSH channel or connection number inside the session; 0 where there is none.
    pub chan: u32,
    /// What it carries.
    pub body: Body,
}

impl Event {
    /// Makes a stream event. `data` must not be longer than [`STREAM_LEN_MAX`].
    pub fn stream(kind: EventType, chan: u32, data: Bytes) -> Self {
        debug_assert!(kind.is_stream(), "{kind} is not a stream");
        Self { kind, chan, body: Body::Stream(data) }
    }

    /// Makes a map event without fields; add them with [`Event::with`].
    pub fn map(kind: EventType, chan: u32) -> Self {
        Self { kind, chan, body: Body::Map(Vec::new()) }
    }

    /// Adds a field. A field of another event type would be a lie in the record, so it is a bug caught in tests.
    #[must_use]
    pub fn with(mut self, field: Field, value: impl Into<Value>) -> Self {
        debug_assert_eq!(field.of, self.kind, "a field of another event type");
        if let Body::Map(entries) = &mut self.body {
            let at = entries.partition_point(|(key, _)| *key < field.key);
            entries.insert(at, (field.key, value.into()));
        }
        self
    }

    /// Returns the value of a field, if the event has it.
    pub fn get(&self, field: Field) -> Option<&Value> {
        match &self.body {
            Body::Map(entries) if self.kind == field.of => {
                entries.iter().find(|(key, _)| *key == field.key).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    /// Returns the bytes that go on to the other side once the event is recorded: those of a stream, or the data of an
    /// `ssh.extended`. Any other event says something and carries nothing.
    pub fn wire_bytes(&self) -> Bytes {
        match (&self.body, self.get(extended::DATA)) {
            (Body::Stream(data), _) | (_, Some(Value::Bytes(data))) => data.clone(),
            _ => Bytes::new(),
        }
    }

    /// Returns how long [`Event::wire_bytes`] is.
    pub fn wire_len(&self) -> usize {
        match (&self.body, self.get(extended::DATA)) {
            (Body::Stream(data), _) | (_, Some(Value::Bytes(data))) => data.len(),
            _ => 0,
        }
    }
}

/// An event with its place in the session and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Number in the session over all lanes, dense from 0.
    pub seq: u64,
    /// Microseconds since the block's first event.
    pub dt_us: u64,
    /// What happened.
    pub event: Event,
}

/// Why bytes are not an event.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The bytes are not the CBOR that the format asks for.
    #[error("not an event: {0}")]
    Cbor(#[from] minicbor::decode::Error),
    /// Something is valid CBOR and still outside the format.
    #[error("not an event: {0}")]
    Shape(&'static str),
}

/// Appends an event to a CBOR sequence.
pub fn encode(out: &mut Vec<u8>, seq: u64, dt_us: u64, event: &Event) {
    // Writing to a Vec cannot fail; minicbor's error type is uninhabited there.
    let mut encoder = Encoder::new(out);
    let _ = encode_into(&mut encoder, seq, dt_us, event);
}

/// Appends a stream event whose bytes come in several pieces.
pub fn encode_stream(out: &mut Vec<u8>, seq: u64, dt_us: u64, kind: EventType, chan: u32, parts: &[Bytes]) {
    let len: usize = parts.iter().map(Bytes::len).sum();
    let mut encoder = Encoder::new(&mut *out);
    // As above: a Vec takes everything.
    let _ = encode_stream_head(&mut encoder, seq, dt_us, kind, chan, len as u64);
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn encode_stream_head(
    encoder: &mut Encoder<&mut Vec<u8>>,
    seq: u64,
    dt_us: u64,
    kind: EventType,
    chan: u32,
    len: u64,
) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
    encoder.array(5)?.u64(seq)?.u64(dt_us)?.u16(kind.0)?.u32(chan)?.bytes_len(len)?;
    Ok(())
}

fn encode_into(
    encoder: &mut Encoder<&mut Vec<u8>>,
    seq: u64,
    dt_us: u64,
    event: &Event,
) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
    encoder.array(5)?.u64(seq)?.u64(dt_us)?.u16(event.kind.0)?.u32(event.chan)?;
    match &event.body {
        Body::Stream(data) => {
            encoder.bytes(data)?;
        }
        Body::Map(entries) => {
            encoder.map(entries.len() as u64)?;
            for (key, value) in entries {
                encoder.u8(*key)?;
                encode_value(encoder, value)?;
            }
        }
    }
    Ok(())
}

fn encode_value(
    encoder: &mut Encoder<&mut Vec<u8>>,
    value: &Value,
) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
    match value {
        Value::Uint(number) => encoder.u64(*number)?,
        Value::Bytes(bytes) => encoder.bytes(bytes)?,
        Value::Text(text) => encoder.str(text)?,
        Value::List(values) => {
            encoder.array(values.len() as u64)?;
            for value in values {
                encode_value(encoder, value)?;
            }
            encoder
        }
    };
    Ok(())
}

/// Decodes the event at the front of `bytes` and returns it with its length.
///
/// # Errors
/// Anything that [`encode`] would not have written: other types, indefinite lengths, floats, tags, keys that do not
/// ascend, deep nesting, an event over [`EVENT_LEN_MAX`].
pub fn decode(bytes: &[u8]) -> Result<(Entry, usize), EventError> {
    let mut decoder = Decoder::new(bytes);
    if decoder.array()? != Some(5) {
        return Err(EventError::Shape("an event is an array of five"));
    }
    let seq = decoder.u64()?;
    let dt_us = decoder.u64()?;
    let kind = EventType(decoder.u16()?);
    let chan = decoder.u32()?;
    let body = match decoder.datatype()? {
        Type::Bytes => Body::Stream(Bytes::copy_from_slice(decoder.bytes()?)),
        Type::Map => {
            let Some(len) = decoder.map()? else {
                return Err(EventError::Shape("a map of indefinite length"));
            };
            let mut entries: Vec<(u8, Value)> = Vec::new();
            for _ in 0..len {
                let key = decoder.u8()?;
                if entries.last().is_some_and(|(last, _)| *last >= key) {
                    return Err(EventError::Shape("map keys that do not ascend"));
                }
                entries.push((key, decode_value(&mut decoder, NESTING_MAX)?));
            }
            Body::Map(entries)
        }
        _ => return Err(EventError::Shape("a body that is neither bytes nor a map")),
    };
    let len = decoder.position();
    if len > EVENT_LEN_MAX {
        return Err(EventError::Shape("an event over 256 KiB"));
    }
    Ok((Entry { seq, dt_us, event: Event { kind, chan, body } }, len))
}

fn decode_value(decoder: &mut Decoder<'_>, depth: usize) -> Result<Value, EventError> {
    match decoder.datatype()? {
        Type::U8 | Type::U16 | Type::U32 | Type::U64 => Ok(Value::Uint(decoder.u64()?)),
        Type::Bytes => Ok(Value::Bytes(Bytes::copy_from_slice(decoder.bytes()?))),
        Type::String => Ok(Value::Text(decoder.str()?.to_owned())),
        Type::Array => {
            let Some(depth) = depth.checked_sub(1) else {
                return Err(EventError::Shape("nesting deeper than four"));
            };
            let Some(len) = decoder.array()? else {
                return Err(EventError::Shape("a list of indefinite length"));
            };
            // `len` is the peer's word: reserve nothing for it.
            let mut values = Vec::new();
            for _ in 0..len {
                values.push(decode_value(decoder, depth)?);
            }
            Ok(Value::List(values))
        }
        _ => Err(EventError::Shape("a value that is not an integer, bytes, text or a list")),
    }
}

/// Declares the vocabulary: a module of constants per type, and the table over all of them.
macro_rules! vocabulary {
    ($($(#[$doc:meta])* $number:literal $module:ident $name:literal $lane:ident
        { $($key:literal $field:ident $label:literal),* $(,)? })*) => {
        $(
            $(#[$doc])*
            pub mod $module {
                /// The type number.
                pub const TYPE: super::EventType = super::EventType($number);
                $(
                    #[doc = concat!("Field ", $key, ", `", $label, "` in exports.")]
                    pub const $field: super::Field = super::Field { of: TYPE, key: $key };
                )*
            }
        )*
        /// Every type this version writes.
        pub const TYPES: &[TypeSpec] = &[
            $(TypeSpec {
                number: $module::TYPE,
                name: $name,
                lane: Lane::$lane,
                fields: &[$(($key, $label)),*],
            }),*
        ];
    };
}

vocabulary! {
    /// Bytes the client sent on an SSH channel.
    1 ssh_in "ssh.in" Input {}
    /// Bytes the target sent to standard output of an SSH channel.
    2 ssh_out "ssh.out" Output {}
    /// Bytes the target sent to standard error of an SSH channel.
    3 ssh_err "ssh.err" Output {}

    /// Frames that a PostgreSQL client sent, but for those of `pg.in`: both in their order are what it sent.
    4 pg_sql "pg.sql" Output {}
    /// Frames of a PostgreSQL client that carry values: Bind, CopyData, FunctionCall.
    5 pg_in "pg.in" Input {}
    /// Frames that a PostgreSQL target sent.
    6 pg_out "pg.out" Output {}

    /// A channel was asked for; side is 1 where the target asked, for a forward that listens there.
    16 chan_open "ssh.open" Meta { 1 KIND "kind", 2 ACCEPTED "accepted", 3 REASON "reason", 4 HOST "host", 5 PORT "port", 6 ORIGIN_HOST "originator", 7 ORIGIN_PORT "originator_port", 8 PATH "path", 9 SIDE "side" }
    /// A pseudo-terminal was asked for (RFC 4254 §6.2); modes are the raw encoded string.
    17 pty "ssh.pty" Meta { 1 TERM "term", 2 COLS "cols", 3 ROWS "rows", 4 WIDTH "width", 5 HEIGHT "height", 6 MODES "modes", 7 ACCEPTED "accepted" }
    /// The window changed (RFC 4254 §6.7).
    18 resize "ssh.resize" Meta { 1 COLS "cols", 2 ROWS "rows", 3 WIDTH "width", 4 HEIGHT "height" }
    /// An environment variable was asked for (RFC 4254 §6.4).
    19 env "ssh.env" Input { 1 NAME "name", 2 VALUE "value", 3 ACCEPTED "accepted" }
    /// A command was asked for (RFC 4254 §6.5); the bytes are verbatim.
    20 exec "ssh.exec" Output { 1 COMMAND "command", 2 ACCEPTED "accepted" }
    /// A shell was asked for.
    21 shell "ssh.shell" Meta { 1 ACCEPTED "accepted" }
    /// A subsystem was asked for.
    22 subsystem "ssh.subsystem" Meta { 1 NAME "name", 2 ACCEPTED "accepted" }
    /// A signal was sent to the process (RFC 4254 §6.9).
    23 signal "ssh.signal" Meta { 1 NAME "name" }
    /// The process ended: a status, or a signal (RFC 4254 §6.10).
    24 exit "ssh.exit" Meta { 1 STATUS "status", 2 SIGNAL "signal", 3 CORE "core_dumped", 4 MESSAGE "message" }
    /// One side will send no more on this channel; side 0 is the client, 1 the target.
    25 eof "ssh.eof" Meta { 1 SIDE "side" }
    /// A channel was closed; side 0 is the client, 1 the target, 2 the bastion.
    26 chan_close "ssh.close" Meta { 1 SIDE "side", 2 REASON "reason" }
    /// A request was refused or is outside what a grant allows: what it was, and why.
    27 refused "ssh.refused" Meta { 1 WHAT "what", 2 REASON "reason" }
    /// A channel request that passed and has no type of its own (`xon-xoff`, …).
    28 request "ssh.request" Meta { 1 NAME "name", 2 SIDE "side" }
    /// The target answered a pty, env, shell, exec or subsystem request, or one to forward; or either side one to open a
    /// forwarded connection.
    29 reply "ssh.reply" Meta { 1 TO "to", 2 SUCCESS "success", 3 SIDE "side", 4 REASON "reason" }
    /// Bytes of an extended data code other than 1 (RFC 4254 §5.2), with the code.
    30 extended "ssh.extended" Output { 1 CODE "code", 2 DATA "bytes", 3 SIDE "side" }

    /// A file was asked for: by SFTP's OPEN, or as scp announced it. `result` is SFTP's status code, or scp's 0, 1 or 2.
    32 file_open "file.open" Output { 1 FILE "file", 2 PATH "path", 3 FLAGS "flags", 4 RESULT "result", 5 ERROR "error", 6 SIZE "size", 7 MODE "mode", 8 ATIME "atime", 9 MTIME "mtime", 10 NAME "name", 11 CLIPPED "clipped" }
    /// An open file is done with: what of its content passed, and the BLAKE3 of that or why there is none.
    33 file_close "file.close" Output { 1 FILE "file", 2 PATH "path", 3 SIDE "side", 4 BYTES "bytes", 5 OFFSET "offset", 6 BLAKE3 "blake3", 7 WHY "why", 8 RESULT "result", 9 ERROR "error" }
    /// Anything else that was done to files, with the answer to it.
    34 file_op "file.op" Output { 1 WHAT "what", 2 PATH "path", 3 TO "to", 4 FILE "file", 5 RESULT "result", 6 ERROR "error", 7 SIZE "size", 8 UID "uid", 9 GID "gid", 10 MODE "mode", 11 ATIME "atime", 12 MTIME "mtime", 13 COUNT "count", 14 CLIPPED "clipped" }
    /// The content of an open file so far, as it was sent.
    35 file_digest "file.digest" Output { 1 FILE "file", 2 SIDE "side", 3 BYTES "bytes", 4 OFFSET "offset", 5 BLAKE3 "blake3", 6 WHY "why" }
    /// File operations of this channel are not told any more; its bytes are all recorded from here on.
    36 file_lost "file.lost" Meta { 1 WHY "why", 2 SIDE "side" }
    /// File content that passed and is not in the record: how much now, how much in all, and the BLAKE3 of all of it.
    37 file_elided "file.elided" Output { 1 SIDE "side", 2 BYTES "bytes", 3 TOTAL "total", 4 BLAKE3 "blake3" }
    /// A program that moves files in a way that is not taken apart, when it ended: its words, and the bytes each way.
    38 file_command "file.command" Output { 1 KIND "kind", 2 ARGV "argv", 3 SENT "sent", 4 RECEIVED "received" }

    /// Bytes the client's side sent on a forwarded connection.
    40 fwd_in "fwd.in" Input {}
    /// Bytes the target's side sent on a forwarded connection.
    41 fwd_out "fwd.out" Output {}
    /// A socket that is to listen at the target, for connections towards the client: asked for, or given up.
    42 fwd_listen "fwd.listen" Meta { 1 WHAT "what", 2 HOST "host", 3 PORT "port", 4 PATH "path", 5 ACCEPTED "accepted", 6 REASON "reason", 7 BOUND "bound" }
    /// A forwarded connection is over: what passed each way, and who closed it.
    43 fwd_end "fwd.end" Meta { 1 KIND "kind", 2 HOST "host", 3 PORT "port", 4 PATH "path", 5 SENT "sent", 6 SENT_BLAKE3 "sent_blake3", 7 RECEIVED "received", 8 RECEIVED_BLAKE3 "received_blake3", 9 BY "by", 10 REASON "reason" }

    /// A PostgreSQL connection was asked for: protocol version and parameters as they were sent, and what of them went on.
    64 pg_startup "pg.startup" Meta { 1 PROTOCOL "protocol", 2 PARAMETERS "parameters", 3 GRANTED "granted", 4 TLS "tls", 5 LEFT_OUT "left_out" }
    /// The target took the login: its process, its version, how it was proved who speaks, and by what TLS.
    65 pg_ready "pg.ready" Meta { 1 PID "pid", 2 VERSION "version", 3 METHOD "method", 4 TLS "tls", 5 CERTIFICATE "certificate", 6 USER "user", 7 DATABASE "database" }
    /// A statement is over: which one, how it ended, and what it moved. `frame` numbers the client's frames.
    68 pg_done "pg.done" Output { 1 FRAME "frame", 2 PARSE "parse", 3 BIND "bind", 4 INDEX "index", 5 TAG "tag", 6 ROWS "rows", 7 BYTES "bytes", 8 US "us", 9 SQLSTATE "sqlstate", 10 ERROR "error", 11 BLAKE3 "blake3", 12 BATCHES "batches", 13 COPIED "copied", 14 OUTCOME "outcome", 15 SEVERITY "severity" }
    /// Rows that passed and are not in the record: how many bytes now, how many in all, and the BLAKE3 of all of them.
    69 pg_elided "pg.elided" Output { 1 SIDE "side", 2 BYTES "bytes", 3 TOTAL "total", 4 BLAKE3 "blake3" }
    /// Somebody asked to cancel what a session does.
    71 pg_cancel "pg.cancel" Meta { 1 SOURCE "source", 2 FORWARDED "forwarded", 3 REASON "reason", 4 TLS "tls", 5 SESSION "session" }
    /// The target had something to say besides: NoticeResponse.
    72 pg_notice "pg.notice" Output { 1 SEVERITY "severity", 2 SQLSTATE "sqlstate", 3 MESSAGE "message", 4 FRAME "frame" }
    /// Somebody notified a channel that the session listens to.
    73 pg_notify "pg.notify" Output { 1 PID "pid", 2 CHANNEL "channel", 3 PAYLOAD "payload" }
    /// A parameter of the session has another value.
    74 pg_parameter "pg.parameter" Meta { 1 NAME "name", 2 VALUE "value" }
    /// The session is in another state: `I` idle, `T` in a transaction, `E` in one that failed.
    75 pg_transaction "pg.transaction" Meta { 1 STATUS "status" }
    /// An ErrorResponse that is no statement's: mostly the end of the session.
    76 pg_fatal "pg.fatal" Output { 1 SEVERITY "severity", 2 SQLSTATE "sqlstate", 3 MESSAGE "message", 4 FRAME "frame" }
    /// Which answer belongs to which statement is not told any more; bytes are all recorded from here on.
    77 pg_lost "pg.lost" Meta { 1 WHY "why", 2 SIDE "side", 3 FRAME "frame" }
    /// The types of a statement's parameters, by their OIDs, as the target described them.
    78 pg_described "pg.described" Meta { 1 PARSE "parse", 2 PARAMETERS "parameters" }

    /// A login step towards the bastion: accepted or refused, for which name, by which key, from where.
    96 auth "auth" Meta { 1 NAME "name", 2 METHOD "method", 3 FINGERPRINT "fingerprint", 4 ACCEPTED "accepted", 5 REASON "reason", 6 SOURCE "source" }
    /// Who the session belongs to.
    97 identity "identity" Meta { 1 PERSON "person", 2 METHOD "method", 3 FINGERPRINT "fingerprint", 4 SOURCE "source", 5 CLIENT "client", 6 PORTAL "portal" }
    /// What the session may do and where it leads.
    98 grant "grant" Meta { 1 GRANT "grant", 2 TARGET "target", 3 ROLE "role", 4 ADDRESS "address", 5 REASON "reason", 6 UNTIL "until", 7 CONTENT "content", 8 FORWARD "forward", 9 RESULTS "results", 10 READ_ONLY "read_only", 11 REPLICATION "replication" }
    /// A decision of policy outside a running session.
    99 policy "policy" Meta { 1 RULE "rule", 2 DECISION "decision", 3 PERSON "person", 4 TARGET "target", 5 ROLE "role", 6 REASON "reason", 7 SOURCE "source" }
    /// The configuration in force: its BLAKE3 and what it says.
    101 config "config" Meta { 1 HASH "blake3", 2 DURABILITY "durability", 3 ENCRYPTION "encryption", 4 PERSONS "persons", 5 TARGETS "targets", 6 ACCESS "access", 7 LISTENERS "listeners", 8 CAUSE "cause" }
    /// The wall clock moved against the boot-time clock.
    102 clock "clock" Meta { 1 WALL_US "wall_us", 2 BOOT_US "boot_us", 3 STEP_US "step_us", 4 BACKWARD "backward" }
    /// The bastion itself ended a session or a channel.
    105 ended "ended" Meta { 1 BY "by", 2 REASON "reason" }
    /// A text that the bastion showed to a person.
    107 shown "shown" Meta { 1 WHAT "what", 2 TEXT "text" }
    /// The target was reached: what it said it is and the host key it proved.
    109 dialled "dialled" Meta { 1 ADDRESS "address", 2 HOST_KEY "host_key", 3 SOFTWARE "software" }
    /// The target could not be reached, or was not the one that is pinned.
    110 unreachable "unreachable" Meta { 1 ADDRESS "address", 2 REASON "reason", 3 HOST_KEY "host_key" }
    /// The daemon: started, stopping, reloaded.
    111 daemon "daemon" Meta { 1 WHAT "what", 2 VERSION "version", 3 REASON "reason" }
    /// A session of another transcript was opened or closed.
    112 session "session" Meta { 1 ID "id", 2 WHAT "what", 3 PERSON "person", 4 TARGET "target", 5 ROLE "role", 6 REASON "reason" }
    /// An alert that the bastion raised, whether or not somebody was told: what kind, in words, about which session.
    113 alert "alert" Meta { 1 WHAT "what", 2 TEXT "text", 3 SESSION "session" }

    /// Bytes that passed and stand as `*` in the stream that follows: a password or a token.
    119 redacted "redacted" Meta { 1 SIDE "side", 2 BYTES "bytes" }
    /// Bytes that were not recorded: how many, which way, and their BLAKE3.
    120 gap "gap" Meta { 1 REASON "reason", 2 SIDE "side", 3 BYTES "bytes", 4 BLAKE3 "blake3" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Event {
        Event::map(pty::TYPE, 3).with(pty::ROWS, 24u32).with(pty::TERM, b"xterm\xff".as_slice()).with(pty::COLS, 80u32)
    }

    #[test]
    fn an_event_survives_the_round_trip() {
        for event in [sample(), Event::stream(ssh_in::TYPE, 7, Bytes::from_static(b"\x00\xffls\r"))] {
            let mut bytes = Vec::new();
            encode(&mut bytes, 9, 1_000_000, &event);
            bytes.extend_from_slice(b"next");
            let (entry, len) = decode(&bytes).unwrap();
            assert_eq!(entry, Entry { seq: 9, dt_us: 1_000_000, event });
            assert_eq!(&bytes[len..], b"next");
        }
    }

    #[test]
    fn fields_are_written_in_the_order_of_their_keys() {
        let Body::Map(entries) = sample().body else { panic!("not a map") };
        assert!(entries.is_sorted_by(|(a, _), (b, _)| a < b));
        assert_eq!(sample().get(pty::COLS), Some(&Value::Uint(80)));
        assert_eq!(sample().get(resize::COLS), None);
    }

    #[test]
    fn every_cut_of_an_event_is_an_error() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 1, 2, &sample());
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn what_the_encoder_would_not_write_is_refused() {
        let cases: [(&str, &[u8]); 6] = [
            ("array of four", &[0x84, 0, 0, 1, 0]),
            ("indefinite array", &[0x9f, 0, 0, 1, 0, 0x40, 0xff]),
            ("float body", &[0x85, 0, 0, 1, 0, 0xf9, 0, 0]),
            ("keys that repeat", &[0x85, 0, 0, 16, 0, 0xa2, 1, 0, 1, 0]),
            ("tagged value", &[0x85, 0, 0, 16, 0, 0xa1, 1, 0xc1, 0]),
            ("five deep", &[0x85, 0, 0, 16, 0, 0xa1, 1, 0x81, 0x81, 0x81, 0x81, 0x81, 0]),
        ];
        for (name, bytes) in cases {
            assert!(decode(bytes).is_err(), "{name}");
        }
    }

    #[test]
    fn type_numbers_and_names_are_unique() {
        let mut numbers: Vec<_> = TYPES.iter().map(|spec| spec.number).collect();
        let mut names: Vec<_> = TYPES.iter().map(|spec| spec.name).collect();
        numbers.dedup();
        assert_eq!(numbers.len(), TYPES.len(), "numbers ascend and do not repeat");
        assert!(numbers.is_sorted());
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TYPES.len());
    }
}
