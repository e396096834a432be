//! Conversations packet by packet, as OpenSSH's programs have them, and what is told of them.

use std::fmt::Write as _;

use casemate_recorder::transcript::event::{Body, Value};

use super::*;

/// A field of a packet.
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

const C: Side = Side::Client;
const T: Side = Side::Target;

const INIT: u8 = 1;
const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const WRITE: u8 = 6;
const SETSTAT: u8 = 9;
const OPENDIR: u8 = 11;
const READDIR: u8 = 12;
const REMOVE: u8 = 13;
const MKDIR: u8 = 14;
const REALPATH: u8 = 16;
const STAT: u8 = 17;
const RENAME: u8 = 18;
const SYMLINK: u8 = 20;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;
const EXTENDED: u8 = 200;

fn greeting() -> Vec<(Side, Vec<u8>)> {
    let version = packet(2, &[N(3), S(b"posix-rename@openssh.com"), S(b"1")]);
    vec![(C, packet(INIT, &[N(3)])), (T, version)]
}

fn ok(id: u32) -> (Side, Vec<u8>) {
    (T, packet(STATUS, &[N(id), N(0), S(b"Success"), S(b"")]))
}

fn sftp(talk: Vec<(Side, Vec<u8>)>) -> (Vec<String>, [Vec<u8>; 2]) {
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

/// Opens `/f` as file 0 with the handle `h`.
fn opened(flags: u32) -> Vec<(Side, Vec<u8>)> {
    vec![(C, packet(OPEN, &[N(1), S(b"/f"), N(flags), N(0)])), (T, packet(HANDLE, &[N(1), S(b"h")]))]
}

fn write(id: u32, offset: u64, content: &[u8]) -> (Side, Vec<u8>) {
    (C, packet(WRITE, &[N(id), S(b"h"), L(offset), S(content)]))
}

fn closed(id: u32) -> [(Side, Vec<u8>); 2] {
    [(C, packet(CLOSE, &[N(id), S(b"h")])), ok(id)]
}

/// The line that tells the end of file 0 in a conversation that opens it.
fn end_of(flags: u32, talk: impl IntoIterator<Item = (Side, Vec<u8>)>) -> String {
    let mut all = opened(flags);
    all.extend(talk);
    let (events, _) = sftp(all);
    let mut ends = events.into_iter().filter(|event| event.starts_with("file.close"));
    let end = ends.next().unwrap();
    assert_eq!(ends.next(), None);
    end
}

#[test]
fn a_digest_is_told_where_there_is_one_and_else_why_not() {
    let [close, answer] = closed(9);
    let resumed = [write(2, 700, b"the "), write(3, 704, b"rest"), ok(2), ok(3), close.clone(), answer.clone()];
    let hash = digest(b"the rest");
    assert_eq!(
        end_of(2, resumed),
        format!("file.close file=0 path=/f side=0 bytes=8 offset=700 blake3={hash} result=0")
    );

    let gap = [write(2, 0, b"a"), write(3, 2, b"c"), ok(2), ok(3), close.clone(), answer.clone()];
    assert_eq!(end_of(2, gap), "file.close file=0 path=/f side=0 bytes=2 offset=0 why=not sequential result=0");

    let full = (T, packet(STATUS, &[N(3), N(4), S(b"No space left"), S(b"")]));
    let failed = [write(2, 0, b"a"), write(3, 1, b"b"), ok(2), full, close.clone(), answer.clone()];
    assert_eq!(end_of(2, failed), "file.close file=0 path=/f side=0 bytes=1 offset=0 why=a write failed result=0");

    let unconfirmed = [write(2, 0, b"a"), close.clone(), answer.clone()];
    let why = "file.close file=0 path=/f side=0 bytes=0 offset=0 why=not every write was confirmed result=0";
    assert_eq!(end_of(2, unconfirmed), why);

    let empty = format!("file.close file=0 path=/f side=0 bytes=0 offset=0 blake3={} result=0", digest(b""));
    assert_eq!(end_of(2, [close, answer]), empty);

    let cut_off = [write(2, 0, b"a"), ok(2)];
    let why = "error=the channel ended without an answer";
    let hash = digest(b"a");
    assert_eq!(end_of(2, cut_off), format!("file.close file=0 path=/f side=0 bytes=1 offset=0 blake3={hash} {why}"));

    // Answers to reads come in another order than they were asked for.
    let read = |id, offset| (C, packet(READ, &[N(id), S(b"h"), L(offset), N(1)]));
    let data = |id, content: &[u8]| (T, packet(DATA, &[N(id), S(content)]));
    let [close, answer] = closed(9);
    let mixed = [read(2, 0), read(3, 1), data(3, b"b"), data(2, b"a"), close, answer];
    assert_eq!(end_of(1, mixed), "file.close file=0 path=/f side=1 bytes=2 offset=1 why=not sequential result=0");
}

#[test]
fn a_file_read_and_written_has_both_told() {
    let mut talk = opened(3);
    talk.extend([
        write(2, 0, b"new"),
        ok(2),
        (C, packet(READ, &[N(3), S(b"h"), L(0), N(9)])),
        (T, packet(DATA, &[N(3), S(b"newer")])),
    ]);
    talk.extend(closed(4));
    let (events, _) = sftp(talk);
    let (up, down) = (digest(b"new"), digest(b"newer"));
    assert_eq!(
        events[1..],
        [
            format!("file.close file=0 path=/f side=0 bytes=3 offset=0 blake3={up} result=0"),
            format!("file.digest file=0 side=1 bytes=5 offset=0 blake3={down}"),
        ]
    );
}

#[test]
fn a_megabyte_has_a_running_digest_before_the_end() {
    let content = vec![b'x'; (1 << 20) + 5];
    let mut talk = opened(2);
    for (at, piece) in content.chunks(32_768).enumerate() {
        talk.extend([write(10 + at as u32, at as u64 * 32_768, piece), ok(10 + at as u32)]);
    }
    let (events, found) = sftp(talk);
    let running = digest(&content[..1 << 20]);
    assert_eq!(events[1], format!("file.digest file=0 side=0 bytes=1048576 offset=0 blake3={running}"));
    assert_eq!(found[0], content);
}

#[test]
fn what_only_looks_like_content_is_none() {
    // A handle that nobody was given, and one of a directory.
    let mut talk = vec![
        (C, packet(WRITE, &[N(1), S(b"made up"), L(0), S(b"secret")])),
        (T, packet(STATUS, &[N(1), N(4), S(b"Failure"), S(b"")])),
        (C, packet(OPENDIR, &[N(2), S(b"/")])),
        (T, packet(HANDLE, &[N(2), S(b"d")])),
        (C, packet(WRITE, &[N(3), S(b"d"), L(0), S(b"secret")])),
    ];
    let (events, content) = sftp(talk.clone());
    assert!(content.iter().all(Vec::is_empty));
    assert_eq!(events[0], "file.op what=write result=4 error=Failure");
    // Nor what goes on after a file was closed in the middle of it.
    talk = opened(2);
    talk.push((C, packet(CLOSE, &[N(8), S(b"h")])));
    let mut head = write(9, 0, b"before after").1;
    let tail = head.split_off(head.len() - 6);
    talk.extend([(C, head), ok(8), (C, tail)]);
    let (_, content) = sftp(talk);
    assert_eq!(content[0], b"before");
}

#[test]
fn a_lost_thread_is_said_and_ends_what_is_told() {
    let why = |talk: Vec<(Side, Vec<u8>)>| {
        let (events, _) = sftp(talk);
        let last = events.last().unwrap().clone();
        assert!(last.starts_with("file.lost "), "{events:?}");
        last
    };
    let stat = |id| (C, packet(STAT, &[N(id), S(b"/f")]));
    let many: Vec<_> = (0..70_000).map(|id| (C, packet(READ, &[N(id), S(b"h"), L(0), N(1)]))).collect();
    let heavy: Vec<_> = (0..200).map(|id| (C, packet(STAT, &[N(id), S(&[b'x'; 60_000])]))).collect();
    for (talk, words) in [
        (vec![stat(1), stat(1)], "two requests under one number side=0"),
        (vec![ok(7)], "an answer that nobody asked for side=1"),
        (vec![(T, packet(DATA, &[N(1), S(b"x")]))], "content that nobody asked for side=1"),
        (vec![stat(1), (T, packet(77, &[N(1)]))], "unknown type 77"),
        (vec![stat(1), (T, packet(HANDLE, &[N(1), S(b"h")]))], "another kind"),
        (vec![(C, packet(OPEN, &[N(1), S(b"f")]))], "too short for its fields"),
        (vec![(C, vec![0, 0, 0, 0])], "a packet of 0 bytes"),
        (vec![(C, vec![0xff; 4])], "a packet of 4294967295 bytes"),
        (vec![(C, packet(CLOSE, &[N(1), S(&[0; 300])]))], "a handle longer"),
        (vec![(T, packet(2, &[N(3)]))], "a greeting out of turn"),
        ([opened(2), opened(2)].concat(), "two open files under one handle"),
        (many, "more requests without an answer than can be kept"),
        (heavy, "more requests without an answer than can be kept"),
    ] {
        let have = why(talk);
        assert!(have.contains(words), "{have}");
    }
    // Something else than a server answers.
    for (answer, words) in [(packet(2, &[N(6)]), "version 6"), (b"Welcome to web1!\n".to_vec(), "a packet of")] {
        let (events, _) = listen(Tap::sftp(0), &[(C, packet(INIT, &[N(3)])), (T, answer)], || usize::MAX);
        assert!(events[0].starts_with("file.lost") && events[0].contains(words), "{events:?}");
    }
    // What was under way is told as such, and nothing after.
    let mut talk = opened(2);
    talk.extend([write(2, 0, b"a"), ok(2), ok(99), (C, packet(REMOVE, &[N(5), S(b"unseen")]))]);
    let (events, content) = sftp(talk);
    assert_eq!(events.len(), 3, "{events:?}");
    assert!(events[1].ends_with("error=the thread was lost"), "{events:?}");
    assert_eq!(content[0], b"a");
}

#[test]
fn a_long_name_is_clipped_and_the_conversation_goes_on() {
    let mut talk = vec![(C, packet(REMOVE, &[N(1), S(&[b'n'; 100_000])])), ok(1)];
    talk.extend([(C, packet(REMOVE, &[N(2), S(b"short")])), ok(2)]);
    let (events, _) = sftp(talk);
    assert!(events[0].contains("nnnn") && events[0].ends_with("clipped=1"), "{}", &events[0][..80]);
    assert!(events[0].len() < 66_000);
    assert_eq!(events[1], "file.op what=remove path=short result=0");
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
