//! What SFTP leaves to be told in the less simple cases: resumed, torn, failed, cut off and hostile conversations.

use super::tests::F::{L, N, S};
use super::tests::*;
use super::*;

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
fn a_long_path_is_told_with_the_opening_and_the_end_alone() {
    let path = [b'p'; 4000];
    let mut talk = vec![(C, packet(OPEN, &[N(1), S(&path), N(2), N(0)])), (T, packet(HANDLE, &[N(1), S(b"h")]))];
    talk.extend([(C, packet(8, &[N(2), S(b"h")])), (T, packet(ATTRS, &[N(2), N(0)]))]);
    talk.extend(closed(3));
    let (events, _) = sftp(talk);
    assert_eq!(events[1], "file.op what=fstat file=0 result=0");
    assert!(events[0].len() > 4000 && events[2].len() > 4000, "{events:?}");
}
