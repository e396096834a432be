//! Conversations packet by packet, as OpenSSH's programs have them, and what is told of them.

use std::fmt::Write as _;

use casemate_recorder::transcript::event::{Body, Value};

use super::*;

/// A field of a packet: a number of 32 or 64 bits, or a string.
pub(super) enum F<'a> {
    N(u32),
    L(u64),
    S(&'a [u8]),
}
use F::{L, N, S};

/// Builds a packet.
pub(super) fn packet(kind: u8, fields: &[F<'_>]) -> Vec<u8> {
    let mut body = vec![kind];
    for field in fields {
        match field {
            N(number) => body.extend(number.to_be_bytes()),
            L(number) => body.extend(number.to_be_bytes()),
            S(bytes) => {
                body.extend((bytes.len() as u32).to_be_bytes());
                body.extend_from_slice(bytes);
            }
        }
    }
    [&(body.len() as u32).to_be_bytes()[..], &body].concat()
}

/// An event as one line: its name, then its fields.
pub(super) fn told(event: &Event) -> String {
    let mut line = event.kind.to_string();
    let Body::Map(fields) = &event.body else { panic!("{event:?}") };
    for (key, value) in fields {
        let spec = event.kind.spec().unwrap();
        let (_, name) = spec.fields.iter().find(|(own, _)| own == key).unwrap();
        let shown = match value {
            Value::Uint(number) => number.to_string(),
            Value::Text(text) => text.clone(),
            Value::Bytes(bytes) if *name == "blake3" => {
                blake3::Hash::from_slice(bytes).unwrap().to_hex()[..8].to_owned()
            }
            Value::Bytes(bytes) => bytes.escape_ascii().to_string(),
            Value::List(values) => format!("{values:?}"),
        };
        write!(line, " {name}={shown}").unwrap();
    }
    line
}

/// The beginning of a digest, as [`told`] shows it.
pub(super) fn digest(content: &[u8]) -> String {
    blake3::hash(content).to_hex()[..8].to_owned()
}

/// What a tap makes of a conversation, in pieces of `cut` bytes, and the content that it finds.
pub(super) fn listen(mut tap: Tap, talk: &[(Side, Vec<u8>)], cut: impl Fn() -> usize) -> (Vec<String>, [Vec<u8>; 2]) {
    let (mut seen, mut content) = (Seen::default(), [Vec::new(), Vec::new()]);
    for (side, bytes) in talk {
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (now, after) = rest.split_at(cut().clamp(1, rest.len()));
            tap.feed(*side, now, &mut seen);
            for place in seen.content.drain(..) {
                content[*side as usize].extend_from_slice(&now[place]);
            }
            rest = after;
        }
    }
    tap.finish(&mut seen);
    (seen.events.iter().map(told).collect(), content)
}

pub(super) const C: Side = Side::Client;
pub(super) const T: Side = Side::Target;

pub(super) const INIT: u8 = 1;
pub(super) const OPEN: u8 = 3;
pub(super) const CLOSE: u8 = 4;
pub(super) const READ: u8 = 5;
pub(super) const WRITE: u8 = 6;
pub(super) const SETSTAT: u8 = 9;
pub(super) const OPENDIR: u8 = 11;
pub(super) const READDIR: u8 = 12;
pub(super) const REMOVE: u8 = 13;
pub(super) const MKDIR: u8 = 14;
pub(super) const REALPATH: u8 = 16;
pub(super) const STAT: u8 = 17;
pub(super) const RENAME: u8 = 18;
pub(super) const SYMLINK: u8 = 20;
pub(super) const STATUS: u8 = 101;
pub(super) const HANDLE: u8 = 102;
pub(super) const DATA: u8 = 103;
pub(super) const NAME: u8 = 104;
pub(super) const ATTRS: u8 = 105;
pub(super) const EXTENDED: u8 = 200;

pub(super) fn greeting() -> Vec<(Side, Vec<u8>)> {
    let version = packet(2, &[N(3), S(b"posix-rename@openssh.com"), S(b"1")]);
    vec![(C, packet(INIT, &[N(3)])), (T, version)]
}

pub(super) fn ok(id: u32) -> (Side, Vec<u8>) {
    (T, packet(STATUS, &[N(id), N(0), S(b"Success"), S(b"")]))
}

pub(super) fn sftp(talk: Vec<(Side, Vec<u8>)>) -> (Vec<String>, [Vec<u8>; 2]) {
    listen(Tap::sftp(0), &[greeting(), talk].concat(), || usize::MAX)
}

/// `put`, `get` and most of what else there is, in one conversation.
fn long_talk() -> Vec<(Side, Vec<u8>)> {
    let (no_attrs, mode) = (N(0), 0o644);
    let mut talk = greeting();
    talk.extend([
        (C, packet(REALPATH, &[N(1), S(b".")])),
        (T, packet(NAME, &[N(1), N(1), S(b"/home/a"), S(b"long name"), N(0)])),
        (C, packet(STAT, &[N(2), S(b"/tmp/\xff")])),
        (T, packet(STATUS, &[N(2), N(2), S(b"No such file"), S(b"")])),
        (C, packet(OPEN, &[N(3), S(b"/tmp/\xff"), N(0x1a), N(4), N(mode)])),
        (T, packet(HANDLE, &[N(3), S(&[0, 0, 0, 0])])),
        (C, packet(WRITE, &[N(4), S(&[0, 0, 0, 0]), L(0), S(b"first half, ")])),
        (C, packet(WRITE, &[N(5), S(&[0, 0, 0, 0]), L(12), S(b"second half")])),
        ok(4),
        ok(5),
        (C, packet(10, &[N(6), S(&[0, 0, 0, 0]), N(8), N(11), N(22)])),
        ok(6),
        (C, packet(CLOSE, &[N(7), S(&[0, 0, 0, 0])])),
        ok(7),
        (C, packet(OPEN, &[N(8), S(b"/etc/hosts"), N(1), no_attrs])),
        (T, packet(HANDLE, &[N(8), S(&[0, 0, 0, 1])])),
        (C, packet(READ, &[N(9), S(&[0, 0, 0, 1]), L(0), N(5)])),
        (C, packet(READ, &[N(10), S(&[0, 0, 0, 1]), L(5), N(5)])),
        (C, packet(READ, &[N(11), S(&[0, 0, 0, 1]), L(10), N(5)])),
        (T, packet(DATA, &[N(9), S(b"12345")])),
        (T, packet(DATA, &[N(10), S(b"678")])),
        (T, packet(STATUS, &[N(11), N(1), S(b"End of file"), S(b"")])),
        (C, packet(CLOSE, &[N(12), S(&[0, 0, 0, 1])])),
        ok(12),
        (C, packet(OPENDIR, &[N(13), S(b"/tmp")])),
        (T, packet(HANDLE, &[N(13), S(&[0, 0, 0, 2])])),
        (C, packet(READDIR, &[N(14), S(&[0, 0, 0, 2])])),
        (T, packet(NAME, &[N(14), N(2), S(b"a"), S(b"-rw a"), N(0), S(b"b"), S(b"-rw b"), N(0)])),
        (C, packet(READDIR, &[N(15), S(&[0, 0, 0, 2])])),
        (T, packet(STATUS, &[N(15), N(1), S(b"End of file"), S(b"")])),
        (C, packet(CLOSE, &[N(16), S(&[0, 0, 0, 2])])),
        ok(16),
        (C, packet(RENAME, &[N(17), S(b"a"), S(b"b")])),
        (T, packet(STATUS, &[N(17), N(4), S(b"Failure"), S(b"")])),
        (C, packet(EXTENDED, &[N(18), S(b"posix-rename@openssh.com"), S(b"a"), S(b"b")])),
        ok(18),
        (C, packet(SYMLINK, &[N(19), S(b"points to"), S(b"link")])),
        ok(19),
        (C, packet(EXTENDED, &[N(20), S(b"hardlink@openssh.com"), S(b"old"), S(b"new")])),
        ok(20),
        (C, packet(SETSTAT, &[N(21), S(b"f"), N(1 | 2), L(77), N(1000), N(100)])),
        (T, packet(STATUS, &[N(21), N(3), S(b"Permission denied"), S(b"")])),
        (C, packet(MKDIR, &[N(22), S(b"d"), N(4), N(0o777)])),
        ok(22),
        (C, packet(REMOVE, &[N(23), S(b"x")])),
        // Some servers leave the text out.
        (T, packet(STATUS, &[N(23), N(2)])),
        (C, packet(EXTENDED, &[N(24), S(b"new-thing@example.com"), S(b"whatever"), N(9)])),
        (T, packet(STATUS, &[N(24), N(8), S(b"Operation unsupported"), S(b"")])),
        (C, packet(EXTENDED, &[N(25), S(b"limits@openssh.com")])),
        (T, packet(201, &[N(25), L(1), L(2), L(3), L(4)])),
        (C, packet(STAT, &[N(26), S(b"f")])),
        (T, packet(ATTRS, &[N(26), N(1 | 4), L(5), N(0o100_644)])),
        (C, packet(REMOVE, &[N(27), S(b"never answered")])),
    ]);
    talk
}

fn long_story() -> Vec<String> {
    let (up, down) = (digest(b"first half, second half"), digest(b"12345678"));
    [
        "file.op what=realpath path=. to=/home/a result=0",
        "file.op what=stat path=/tmp/\\xff result=2 error=No such file",
        "file.open file=0 path=/tmp/\\xff flags=26 result=0 mode=420",
        "file.op what=fsetstat path=/tmp/\\xff file=0 result=0 atime=11 mtime=22",
        &format!("file.close file=0 path=/tmp/\\xff side=0 bytes=23 offset=0 blake3={up} result=0"),
        "file.open file=1 path=/etc/hosts flags=1 result=0",
        &format!("file.close file=1 path=/etc/hosts side=1 bytes=8 offset=0 blake3={down} result=0"),
        "file.op what=opendir path=/tmp file=2 result=0",
        "file.op what=readdir path=/tmp file=2 result=0 count=2",
        "file.op what=close path=/tmp file=2 result=0",
        "file.op what=rename path=a to=b result=4 error=Failure",
        "file.op what=posix-rename@openssh.com path=a to=b result=0",
        "file.op what=symlink path=link to=points to result=0",
        "file.op what=hardlink@openssh.com path=old to=new result=0",
        "file.op what=setstat path=f result=3 error=Permission denied size=77 uid=1000 gid=100",
        "file.op what=mkdir path=d result=0 mode=511",
        "file.op what=remove path=x result=2 error=no such file",
        "file.op what=new-thing@example.com result=8 error=Operation unsupported",
        "file.op what=limits@openssh.com result=0",
        "file.op what=stat path=f result=0 size=5 mode=33188",
        "file.op what=remove path=never answered error=the channel ended without an answer",
    ]
    .map(str::to_owned)
    .to_vec()
}

#[test]
fn sftp_is_told_operation_by_operation() {
    let (events, content) = listen(Tap::sftp(0), &long_talk(), || usize::MAX);
    let story = long_story();
    for (at, (have, want)) in events.iter().zip(&story).enumerate() {
        assert_eq!(have, want, "event {at}");
    }
    assert_eq!(events.len(), story.len(), "{events:#?}");
    assert_eq!(content, [b"first half, second half".to_vec(), b"12345678".to_vec()]);
}

#[test]
fn every_cut_tells_the_same() {
    let talk = long_talk();
    let whole = listen(Tap::sftp(0), &talk, || usize::MAX);
    for cut in 1..40 {
        assert_eq!(listen(Tap::sftp(0), &talk, || cut), whole, "pieces of {cut}");
    }
    // And at any places: xorshift, so that a failure can be repeated.
    for seed in 1..200u32 {
        let state = std::cell::Cell::new(seed);
        let cut = || {
            let mut next = state.get();
            next ^= next << 13;
            next ^= next >> 17;
            next ^= next << 5;
            state.set(next);
            1 + next as usize % 70
        };
        assert_eq!(listen(Tap::sftp(0), &talk, cut), whole, "seed {seed}");
    }
}

#[test]
fn counted_programs_are_told_at_their_end() {
    let tap = Tap::command(0, b"rsync --server . /x").unwrap();
    let (events, content) = listen(tap, &[(C, vec![0; 10]), (T, vec![0; 4]), (C, vec![0; 1])], || 3);
    assert_eq!(events.len(), 1);
    assert!(events[0].starts_with("file.command kind=rsync argv=") && events[0].ends_with("sent=11 received=4"));
    assert!(content.iter().all(Vec::is_empty));
    assert!(Tap::command(0, b"scp -t /tmp/x; bash").is_none());
}
