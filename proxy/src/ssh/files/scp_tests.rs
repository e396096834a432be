use super::super::Tap;
use super::super::tests::{digest, listen};
use super::*;

const C: Side = Side::Client;
const T: Side = Side::Target;

/// What is told of a conversation, and the content in it; the same for pieces of any size.
fn story(command: &str, talk: &[(Side, &[u8])]) -> (Vec<String>, [Vec<u8>; 2]) {
    let talk: Vec<_> = talk.iter().map(|(side, bytes)| (*side, bytes.to_vec())).collect();
    let tap = || Tap::command(0, command.as_bytes()).unwrap();
    let whole = listen(tap(), &talk, || usize::MAX);
    for cut in 1..20 {
        assert_eq!(listen(tap(), &talk, || cut), whole, "pieces of {cut}");
    }
    whole
}

#[test]
fn an_upload_is_told_with_path_and_digest() {
    let talk: [(Side, &[u8]); 7] = [
        (T, b"\0"),
        (C, b"T1700000000 0 1700000001 0\n"),
        (T, b"\0"),
        (C, b"C0640 7 a b\xff\n"),
        (T, b"\0"),
        (C, b"content\0"),
        (T, b"\0"),
    ];
    let (events, content) = story("scp -p -t /tmp/x", &talk);
    let hash = digest(b"content");
    assert_eq!(
        events,
        [
            "file.open file=0 path=/tmp/x result=0 size=7 mode=416 atime=1700000001 mtime=1700000000 name=a b\\xff"
                .to_owned(),
            format!("file.close file=0 path=/tmp/x side=0 bytes=7 offset=0 blake3={hash} result=0"),
        ]
    );
    assert_eq!(content, [b"content".to_vec(), vec![]]);
}

#[test]
fn directories_make_paths() {
    let talk: [(Side, &[u8]); 15] = [
        (C, b"\0"),
        (T, b"D0755 0 tree\n"),
        (C, b"\0"),
        (T, b"D0700 0 sub\n"),
        (C, b"\0"),
        (T, b"C0644 0 empty\n"),
        (C, b"\0"),
        (T, b"\0"),
        (C, b"\0"),
        (T, b"E\n"),
        (C, b"\0"),
        (T, b"C0644 2 f\n"),
        (C, b"\0"),
        (T, b"hi\0"),
        (C, b"\0"),
    ];
    let (events, content) = story("scp -r -f /srv/tree", &talk);
    let ends: Vec<_> = events.iter().filter(|event| event.starts_with("file.close")).collect();
    let (none, hi) = (digest(b""), digest(b"hi"));
    assert_eq!(
        ends,
        [
            &format!("file.close file=0 path=/srv/tree/sub/empty side=1 bytes=0 offset=0 blake3={none} result=0"),
            &format!("file.close file=1 path=/srv/tree/f side=1 bytes=2 offset=0 blake3={hi} result=0"),
        ]
    );
    assert_eq!(events[1], "file.op what=directory path=/srv/tree/sub result=0 mode=448");
    assert_eq!(content, [vec![], b"hi".to_vec()]);
}

#[test]
fn paths_follow_what_scp_was_told() {
    let path = |command: &str, dirs: &[&str], name: &str| {
        let Some(super::super::argv::Program::Scp(words)) = super::super::argv::program(command.as_bytes()) else {
            panic!("{command}")
        };
        let mut scp = Scp::new(0, words);
        scp.dirs = dirs.iter().map(|dir| dir.as_bytes().to_vec()).collect();
        String::from_utf8(scp.path(name.as_bytes())).unwrap()
    };
    assert_eq!(path("scp -t /tmp/x", &[], "f"), "/tmp/x");
    assert_eq!(path("scp -t /tmp/", &[], "f"), "/tmp/f");
    assert_eq!(path("scp -d -t /tmp", &[], "f"), "/tmp/f");
    assert_eq!(path("scp -t .", &[], "f"), "./f");
    assert_eq!(path("scp -r -t /tmp/new", &["tree", "sub"], "f"), "/tmp/new/sub/f");
    assert_eq!(path("scp -r -d -t /tmp", &["tree"], "f"), "/tmp/tree/f");
    assert_eq!(path("scp -f /etc/hosts /etc/motd", &[], "motd"), "/etc/motd");
    assert_eq!(path("scp -r -f /srv/tree/ /x", &["tree"], "f"), "/srv/tree/f");
    assert_eq!(path("scp -f /a /b", &[], "c"), "c");
}

#[test]
fn refusals_and_failures_are_told() {
    let refused: [(Side, &[u8]); 3] = [(T, b"\0"), (C, b"C0644 3 f\n"), (T, b"\x01scp: /x: Permission denied\n")];
    let (events, _) = story("scp -t /x", &refused);
    assert_eq!(events, ["file.open path=/x result=1 error=scp: /x: Permission denied size=3 mode=420 name=f"]);

    let missing: [(Side, &[u8]); 2] = [(C, b"\0"), (T, b"\x01scp: /nope: No such file or directory\n")];
    let (events, _) = story("scp -f /nope", &missing);
    assert_eq!(events, ["file.op what=scp path=/nope result=1 error=scp: /nope: No such file or directory"]);

    // The receiver complains while the body comes, as older ones do, and does not answer again.
    let full: [(Side, &[u8]); 7] = [
        (T, b"\0"),
        (C, b"C0644 3 f\n"),
        (T, b"\0"),
        (C, b"ab"),
        (T, b"\x01scp: /x: No space left on device\n"),
        (C, b"c\0"),
        (C, b"C0644 1 g\n"),
    ];
    let (events, _) = story("scp -t /x", &full);
    let why = "why=the target reported an error result=1 error=scp: /x: No space left on device";
    assert_eq!(events[1], format!("file.close file=0 path=/x side=0 bytes=3 offset=0 {why}"));

    let cut_off: [(Side, &[u8]); 4] = [(T, b"\0"), (C, b"C0644 9 f\n"), (T, b"\0"), (C, b"part")];
    let (events, content) = story("scp -t /x", &cut_off);
    let hash = digest(b"part");
    let why = "error=the channel ended without an answer";
    assert_eq!(events[1], format!("file.close file=0 path=/x side=0 bytes=4 offset=0 blake3={hash} {why}"));
    assert_eq!(content[0], b"part");
}

#[test]
fn what_is_no_scp_is_lost_at_once_and_never_content() {
    let secret: &[u8] = b"C0644 6 f\nsecret";
    for talk in [
        // Nobody agreed to a body, or to anything.
        &[(T, &b"\0"[..]), (C, secret)][..],
        &[(C, secret)],
        &[(T, b"$ "), (C, b"id\n")],
        &[(T, b"\0"), (C, b"id\n"), (T, b"uid=0(root)\n")],
        &[(T, b"\0"), (T, b"\0"), (C, secret)],
        &[(T, b"\0"), (C, b"C0644 99999999999999999999 f\n"), (T, b"\0"), (C, secret)],
        &[(T, b"\0"), (C, b"C0644 +5 f\n"), (T, b"\0"), (C, secret)],
        &[(T, b"\0"), (C, b"T1 0\n")],
        &[(T, b"\0"), (C, b"\n")],
    ] {
        let (events, content) = story("scp -t /x", talk);
        assert_eq!(events.iter().filter(|event| event.starts_with("file.lost")).count(), 1, "{talk:?} {events:?}");
        assert!(content.iter().all(Vec::is_empty), "{talk:?}");
    }
    let (events, _) = story("scp -t /x", &[(T, b"\0"), (C, &[b'C'; 70_000])]);
    assert_eq!(events, ["file.lost why=a line without end side=0"]);
}
