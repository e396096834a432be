//! What must hold for any bytes, one function for each decoder and state machine. The fuzz targets call them with what
//! libFuzzer finds, the tests with the corpora that it left in the repository.

use std::ops::Range;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use casemate::config::Results;
use casemate::pg::auth::scram::{
    Exchange, ITERATIONS, NONCE_LEN, SALT_LEN, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, Verifier,
};
use casemate::pg::auth::target::{self, Channel, Login, Password, Reaching};
use casemate::pg::codec::Splitter;
use casemate::pg::flow::{Flow, Verdict};
use casemate::pg::redact::{ErrorRedactor, Redactor};
use casemate::pg::startup::{Opening, Security, Step, VERSION_3_2};
use casemate::ssh::files::{Seen, Tap};
use casemate_certs::trust::{Trust, TrustFile};
use casemate_recorder::Slip;
use casemate_recorder::journal::record;
use casemate_recorder::log::leaf::Leaf;
use casemate_recorder::log::note::{LogKey, Note};
use casemate_recorder::log::tile::{TileName, push_entry, read_entries, read_hashes, write_hashes};
use casemate_recorder::transcript::block::{Block, HEADER_LEN, Header, PLAIN_LEN_MAX, link};
use casemate_recorder::transcript::chain;
use casemate_recorder::transcript::cipher::LaneKeys;
use casemate_recorder::transcript::event::{self, Side};
use casemate_recorder::transcript::head::Head;
use casemate_recorder::transcript::wrap::{Identity, unwrap};
use casemate_screen::paint::{Painter, first_forbidden};
use casemate_screen::screen::{Screen, Stream, drawable};

/// A check of any bytes; it panics where they do what they must not.
pub type Check = fn(&[u8]);

/// All checks, by the name of their fuzz target.
pub const ALL: [(&str, Check); 16] = [
    ("event", event),
    ("block", block),
    ("head", head),
    ("journal", journal),
    ("leaf", leaf),
    ("tile", tile),
    ("note", note),
    ("trust", trust),
    ("signatures", signatures),
    ("screen", screen),
    ("files", files),
    ("pg_startup", pg_startup),
    ("pg_login", pg_login),
    ("pg_scram", pg_scram),
    ("redact", redact),
    ("flow", flow),
];

/// Events: what decodes says the same when it is written and read again.
pub fn event(data: &[u8]) {
    if let Ok((entry, len)) = event::decode(data) {
        assert!(len <= data.len());
        let mut again = Vec::new();
        event::encode(&mut again, entry.seq, entry.dt_us, &entry.event);
        // A longer spelling of a number decodes too; what it says must not change.
        assert_eq!(event::decode(&again).ok().map(|(again, _)| again), Some(entry));
    }
}

/// Blocks: any bytes, also with the link made right, end in a block of bounded size or an error; with keys and without.
pub fn block(data: &[u8]) {
    let _ = Block::parse(data);
    // A fuzzer finds no hash by chance: give it one, or it never gets past the link.
    let Some((head, rest)) = data.split_first_chunk::<HEADER_LEN>() else { return };
    let Ok(mut header) = Header::decode(head) else { return };
    assert_eq!(Header::decode(&header.encode()).ok().as_ref(), Some(&header));
    header.stored_len = rest.len() as u32;
    for keys in [LaneKeys::default(), LaneKeys::new([[1; 32]; 3])] {
        // Nor does it find a key's commitment.
        if let Some(key) = keys.get(header.lane).filter(|_| header.codec.encrypted) {
            header.key_commit = key.block_key(header.session, header.block_no, &header.salt).commitment();
        }
        let mut block = header.encode().to_vec();
        block.extend_from_slice(rest);
        let link = link(&block);
        block.extend_from_slice(&link.0);
        if let Ok(block) = Block::parse(&block) {
            if let Ok(plain) = block.plain(&keys) {
                assert!(plain.len() as u64 <= PLAIN_LEN_MAX as u64);
            }
            let _ = chain::events(&block, &keys);
        }
    }
}

/// HEADs: what decodes is in its one valid spelling or not taken by a verifier; wrapped keys may be anything.
pub fn head(data: &[u8]) {
    static IDENTITY: LazyLock<Identity> = LazyLock::new(Identity::generate);
    if let Ok(head) = Head::decode(data) {
        let again = head.encode();
        assert!(Head::decode(&again).is_ok_and(|decoded| decoded.encode() == again));
        assert!(head.lane_keys.is_none() || unwrap(&head, std::slice::from_ref(&*IDENTITY)).is_err(), "a made-up key");
    }
}

/// Journal records: any bytes, with any salt, end in a record inside them or in none.
pub fn journal(data: &[u8]) {
    let Some((salt, data)) = data.split_first_chunk() else { return };
    let salt = u64::from_le_bytes(*salt);
    let check = |bytes: &[u8]| {
        if let Some(record) = record::parse(bytes, salt) {
            assert!(record.payload.len() <= bytes.len());
        }
    };
    check(data);
    // No fuzzer finds a checksum by chance: once more with the length and the checksum that fit, the mark of a turn's end kept.
    if let Some(([_, _, _, mark, ..], rest)) = data.split_first_chunk::<8>() {
        let [len_0, len_1, len_2, _] = (data.len() as u32).to_le_bytes();
        let len = [len_0, len_1, len_2, mark & 0x80];
        let salted = crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &len);
        let crc = crc32c::crc32c_append(salted, rest).to_le_bytes();
        check(&[&len[..], &crc, rest].concat());
    }
}

/// Leaves of the node log: what decodes encodes again, and says the same then.
pub fn leaf(data: &[u8]) {
    if let Ok(leaf) = Leaf::decode(data) {
        let again = leaf.encode().unwrap_or_default();
        assert_eq!(Leaf::decode(&again).ok(), Some(leaf));
    }
}

/// Tiles and entry bundles: what is read is what would be written.
pub fn tile(data: &[u8]) {
    let Some((width, data)) = data.split_first_chunk() else { return };
    let width = u16::from_le_bytes(*width);
    if let Ok(entries) = read_entries(data, width, true) {
        let mut again = Vec::new();
        assert!(entries.iter().all(|entry| push_entry(&mut again, entry).is_ok()), "an entry that was read fits");
        assert_eq!(again, data);
    }
    if let Ok(hashes) = read_hashes(data, width) {
        assert_eq!(write_hashes(&hashes), data);
    }
    if let Ok(name) = std::str::from_utf8(data).unwrap_or_default().parse::<TileName>() {
        assert_eq!(name.to_string().as_bytes(), data);
    }
}

/// Checkpoints, slips and keys: text that parses is in its one valid spelling.
pub fn note(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(note) = text.parse::<Note>() {
        assert_eq!(note.to_string(), text);
    }
    if let Ok(slip) = text.parse::<Slip>() {
        let again = slip.to_string();
        assert_eq!(again.parse::<Slip>().map(|slip| slip.to_string()).ok(), Some(again));
    }
    if let Ok(key) = text.parse::<LogKey>() {
        assert_eq!(key.to_string(), text);
    }
}

/// The trust file: any text ends in a file or in complaints.
pub fn trust(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(trust) = Trust::parse(text) {
        assert!(Trust::parse(&trust.to_text()).is_ok(), "what we wrote parses");
    }
}

/// A trust file of a board of one officer.
const FILE: &str = "version = 1
self_asserted = false
organisation = \"Example Bank\"
issued = 2026-11-22T20:00:00Z
quorum = 1
[[officer]]
name = \"Ada\"
key = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEAat4HXB+1taL76uUVqbcmNfOTBG9Ux6k55FRGOIM/Z\"
from = 2026-01-01T00:00:00Z
[[node]]
key = \"PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW\"
from = 2026-01-01T00:00:00Z
";

/// Signatures on a trust file: whatever lies beside it, it is read to its end, and nothing that nobody signed counts.
pub fn signatures(data: &[u8]) {
    let Ok(signatures) = std::str::from_utf8(data) else { return };
    let file = TrustFile::read(FILE, Some(signatures));
    assert!(file.is_ok_and(|file| file.believe(u64::MAX).is_err()), "the file is good, and nobody has the key");
}

/// What a terminal showed, of any bytes and sizes: the emulator holds, and only allowed sequences come out.
pub fn screen(data: &[u8]) {
    let Some(([cols, rows, shown_cols, shown_rows], mut rest)) = data.split_first_chunk::<4>() else { return };
    // Small, or drawing takes all the time; other sizes are the unit tests'.
    let small = |side: u8| u64::from(1 + side % 12);
    let mut screen = Screen::new((cols & 1 == 0).then(|| drawable(small(*cols), small(*rows))));
    let mut painter = Painter::new(drawable(small(*shown_cols), small(*shown_rows)));
    let mut painted = String::new();
    // Pieces: a length, with what to do besides in its upper bits.
    while let Some((head, after)) = rest.split_first() {
        let (piece, after) = after.split_at(after.len().min(usize::from(head & 0x3f)));
        screen.feed(if head & 0x40 == 0 { Stream::Out } else { Stream::Err }, piece);
        rest = after;
        if head & 0x80 != 0
            && let Some(([cols, rows], after)) = rest.split_first_chunk::<2>()
        {
            screen.resize(drawable(small(*cols), small(*rows)));
            rest = after;
            painter.paint(&mut painted, &screen.frame(), (cols & 1 == 0).then_some("status"));
        }
    }
    painter.paint(&mut painted, &screen.frame(), None);
    painter.leave(&mut painted);
    assert_eq!(first_forbidden(&painted), None);
    assert_eq!(screen.resets(), 0, "the emulator failed");
}

/// Conversations about files, of any bytes from both sides: however they are cut, the same is told of them and the same
/// bytes are content; places of content lie where they can, and every event fits the format.
pub fn files(data: &[u8]) {
    let Some((kind, mut rest)) = data.split_first() else { return };
    // Pieces: a length, with the side in its upper bit.
    let mut talk = Vec::new();
    while let Some((head, after)) = rest.split_first_chunk() {
        let head = u16::from_le_bytes(*head);
        let side = if head & 0x8000 == 0 { Side::Client } else { Side::Target };
        let (piece, after) = after.split_at(after.len().min(usize::from(head & 0x0fff)));
        talk.push((side, piece));
        rest = after;
    }
    let listen = |cut: usize| {
        let tap = match kind & 3 {
            0 | 1 => Some(Tap::sftp(7)),
            2 => Tap::command(7, b"scp -r -t /tmp/x"),
            _ => Tap::command(7, b"scp -f /tmp/x"),
        };
        let (mut tap, mut seen) = (tap.unwrap_or_else(|| Tap::sftp(7)), Seen::default());
        let mut content: [Vec<u8>; 2] = Default::default();
        for (side, piece) in &talk {
            for piece in piece.chunks(cut) {
                tap.feed(*side, piece, &mut seen);
                let mut end = 0;
                for place in seen.content.drain(..) {
                    assert!(end <= place.start && place.start < place.end && place.end <= piece.len(), "{place:?}");
                    end = place.end;
                    let [client, target] = &mut content;
                    let content = if *side == Side::Client { client } else { target };
                    content.extend_from_slice(piece.get(place).unwrap_or_default());
                }
            }
        }
        tap.finish(&mut seen);
        (seen.events, content)
    };
    let whole = listen(usize::MAX);
    each_fits(&whole.0);
    assert_eq!(listen(1), whole);
    assert_eq!(listen(7), whole);
}

/// First packets at the PostgreSQL front door: nothing follows from less than a whole packet, nothing behind it is taken, and only
/// data behind a request for encryption can be read otherwise by another cut, which is why it ends the connection.
pub fn pg_startup(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let read = |cut: usize| {
        let mut opening = match kind % 4 {
            0 => Opening::new(Security::Open),
            1 => Opening::new(Security::Carried { tls: false }),
            2 => Opening::new(Security::Carried { tls: true }),
            _ => Opening::inside_tls(),
        };
        let (mut pieces, mut buf, mut answers) = (data.chunks(cut), BytesMut::new(), Vec::new());
        let end = loop {
            let before = Bytes::copy_from_slice(&buf);
            let step = match opening.step(&mut buf) {
                Ok(step) => step,
                Err(complaint) => break format!("{} {}", complaint.sqlstate, complaint.message),
            };
            let len = before.first_chunk().map_or(usize::MAX, |len| u32::from_be_bytes(*len) as usize);
            match &step {
                Step::More(_) | Step::Direct => assert_eq!(buf, before, "nothing is taken"),
                Step::Answer(..) | Step::Upgrade => {
                    assert!(buf.is_empty() && before.len() == 8, "and nothing behind it");
                }
                Step::Cancel(_) | Step::NoCancel | Step::Start(_) => {
                    assert_eq!(Some(&buf[..]), before.get(len..), "a whole packet");
                }
            }
            opening = match step {
                Step::More(opening) => match pieces.next() {
                    Some(piece) => {
                        buf.extend_from_slice(piece);
                        opening
                    }
                    None => break "more".to_owned(),
                },
                Step::Answer(byte, opening) => {
                    answers.push(byte);
                    opening
                }
                Step::Upgrade => break "upgrade".to_owned(),
                Step::Direct => break "direct".to_owned(),
                Step::NoCancel => break "no cancel".to_owned(),
                Step::Cancel(request) => break format!("{request:?}"),
                Step::Start(startup) => {
                    assert!(kind % 4 != 0, "without TLS");
                    assert!(startup.version <= startup.asked && startup.version >> 16 == 3);
                    let _ = startup.negotiation();
                    break format!("{startup:?}");
                }
            };
            assert!(answers.len() <= 2, "{answers:?}");
        };
        (answers, end)
    };
    let whole = read(usize::MAX);
    for cut in [1, 7] {
        let cut = read(cut);
        assert!(cut == whole || whole.1.contains("received unencrypted data after"), "{cut:?} and {whole:?}");
    }
}

/// What a target says at a login, of any bytes and however they are cut: it ends, nobody is in without the target's word, and
/// nobody who does not know the password proves by SCRAM that they do.
pub fn pg_login(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let log_in = |cut: usize| -> Result<Option<(Bytes, u8)>, target::Refused> {
        let login = Login {
            user: "dba".to_owned(),
            database: Bytes::new(),
            password: (kind & 1 == 0).then(|| Password::new("s3cret".to_owned().into())),
            params: Vec::new(),
            protocol: VERSION_3_2,
        };
        let channel = match kind & 2 {
            0 => Channel::Plain,
            _ => Channel::Tls { end_point: Some(vec![7; 32]), with_certificate: kind & 4 != 0 },
        };
        // The same nonce each time, or no message would ever fit.
        let (mut reaching, _) = Reaching::new(login, channel, [9; NONCE_LEN])?;
        let mut pieces = data.chunks(cut);
        loop {
            reaching = match reaching.advance()? {
                target::Step::Read(mut reaching) => match pieces.next() {
                    Some(piece) => {
                        reaching.feed(piece);
                        reaching
                    }
                    None => return Ok(None),
                },
                target::Step::Send(reaching, _) => reaching,
                target::Step::Derive(work) => work.run().0,
                target::Step::Reached(reached) => {
                    let says = |frame: &[u8]| data.windows(frame.len()).any(|window| window == frame);
                    assert!(says(b"R\0\0\0\x08\0\0\0\0") && says(b"Z\0\0\0\x05"), "nobody said so");
                    assert!(!reached.method.starts_with("scram"), "{}", reached.method);
                    return Ok(Some((reached.greeting, reached.status)));
                }
            };
        }
    };
    let whole = log_in(usize::MAX);
    assert_eq!(log_in(1), whole);
    assert_eq!(log_in(7), whole);
}

/// A client's SCRAM messages: whatever they are, nobody who does not know the token proves that they do.
pub fn pg_scram(data: &[u8]) {
    static TOKEN: LazyLock<Verifier> = LazyLock::new(|| Verifier::of(b"token", [7; SALT_LEN], ITERATIONS));
    let Some(([kind, low, high], data)) = data.split_first_chunk() else { return };
    let (first, last) = data.split_at(data.len().min(usize::from(u16::from_le_bytes([*low, *high]))));
    let binding = (kind & 1 != 0).then_some(&[7; 32][..]);
    let mechanism = if kind & 2 == 0 { SCRAM_SHA_256 } else { SCRAM_SHA_256_PLUS };
    // The same nonce each time, or no second message would ever fit.
    let exchange = Exchange::new([7; SALT_LEN], binding, [9; 18]);
    let Ok((server_first, expected)) = exchange.first(mechanism.as_bytes(), first) else { return };
    assert!(binding.is_some() || mechanism == SCRAM_SHA_256, "bound to nothing");
    assert!(server_first.starts_with(b"r=") && !server_first.contains(&0));
    if let Ok(proof) = expected.last(last) {
        assert!(proof.fits(&TOKEN).is_none(), "nobody guesses a proof");
    }
}

/// SQL, and errors about it, of any bytes: however they are cut, the same of them is secret, in ranges that ascend.
pub fn redact(data: &[u8]) {
    let statement = |cut| {
        let mut redactor = Redactor::new();
        (stars(data, cut, |piece, secret| redactor.feed(piece, secret)), redactor.is_sensitive())
    };
    let error = |cut, sensitive| {
        let mut redactor = ErrorRedactor::new(sensitive);
        stars(data, cut, |piece, secret| redactor.feed(piece, secret))
    };
    let whole = (statement(usize::MAX), error(usize::MAX, false), error(usize::MAX, true));
    for cut in [1, 7] {
        assert_eq!((statement(cut), error(cut, false), error(cut, true)), whole, "cut at every {cut}");
    }
}

/// Returns `data` with stars over what `feed` says of its pieces.
fn stars(data: &[u8], cut: usize, mut feed: impl FnMut(&[u8], &mut Vec<Range<usize>>)) -> Vec<u8> {
    let (mut stars, mut secrets) = (data.to_vec(), Vec::new());
    for (piece, shown) in data.chunks(cut).zip(stars.chunks_mut(cut)) {
        let mut end = 0;
        feed(piece, &mut secrets);
        for range in secrets.drain(..) {
            assert!(end <= range.start && range.start < range.end && range.end <= piece.len(), "{range:?}");
            end = range.end;
            shown.get_mut(range).unwrap_or_default().fill(b'*');
        }
    }
    stars
}

/// A PostgreSQL client and target, of any bytes from both: however their bytes are cut, the same is told and the same frames are
/// left out, each whole; every event fits the format.
pub fn flow(data: &[u8]) {
    let Some((results, mut rest)) = data.split_first() else { return };
    let results = match results & 3 {
        0 => Results::Full,
        1 => Results::Hash,
        2 => Results::Count,
        _ => Results::Rows(u32::from(results >> 2)),
    };
    // Pieces: a length, with the side in its upper bit.
    let mut talk = Vec::new();
    while let Some((head, after)) = rest.split_first() {
        let side = if head & 0x80 == 0 { Side::Client } else { Side::Target };
        let (piece, after) = after.split_at(after.len().min(usize::from(head & 0x7f)));
        talk.push((side, piece));
        rest = after;
    }
    let listen = |cut: usize| {
        let (mut flow, mut events) = (Flow::new(results), Vec::new());
        let mut splitters = [Side::Client, Side::Target].map(|side| (Splitter::new(side), Vec::new(), Verdict::Keep));
        let mut left_out = Vec::new();
        'talk: for (side, piece) in &talk {
            for piece in piece.chunks(cut) {
                let [client, target] = &mut splitters;
                let (splitter, held, before) = if *side == Side::Client { client } else { target };
                held.extend_from_slice(piece);
                let mut at = 0;
                while let Some(bytes) = held.get(at..) {
                    // What is no frame ends the connection.
                    let Ok(found) = splitter.next(bytes) else { break 'talk };
                    let Some(piece) = found else { break };
                    let (payload, at_us) = (piece.payload(bytes), Duration::from_micros(piece.frame));
                    let verdict = match side {
                        Side::Client => flow.client(&piece, payload, at_us, &mut events),
                        Side::Target => flow.target(&piece, payload, at_us, &mut events),
                    };
                    assert!(piece.starts() || verdict == *before, "one verdict for a frame");
                    assert!(verdict == Verdict::Keep || matches!(piece.tag, b'D' | b'd'), "{piece:?}");
                    *before = verdict;
                    if piece.starts() && verdict == Verdict::Elide {
                        left_out.push((*side, piece.frame));
                    }
                    if *side == Side::Client && piece.ends() {
                        flow.forwarded(piece.frame, at_us);
                    }
                    at += piece.len;
                    if *side == Side::Target && piece.ends() && flow.counts_rows(piece.tag) {
                        let run = splitter.run(piece.tag, held.get(at..).unwrap_or_default());
                        flow.rows(&run);
                        if verdict == Verdict::Elide {
                            left_out.extend((1..=run.frames).map(|row| (*side, piece.frame + row)));
                        }
                        at += run.len;
                    }
                }
                held.drain(..at);
            }
        }
        flow.finish(Duration::ZERO, &mut events);
        (events, left_out)
    };
    let whole = listen(usize::MAX);
    each_fits(&whole.0);
    assert_eq!(listen(1), whole);
    assert_eq!(listen(3), whole);
}

/// Whatever is told of a peer's bytes fits the format's limit, with the longest numbers too.
fn each_fits(events: &[event::Event]) {
    for event in events {
        let mut encoded = Vec::new();
        event::encode(&mut encoded, u64::MAX, u64::MAX, event);
        assert!(encoded.len() <= event::EVENT_LEN_MAX, "{} is {} bytes long", event.kind, encoded.len());
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn everything_that_fuzzing_found_still_holds() {
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for (name, check) in ALL {
            let files: Vec<_> = std::fs::read_dir(corpora.join(name)).unwrap().collect();
            assert!(files.len() >= 5, "{name}: {} files", files.len());
            for file in files {
                check(&std::fs::read(file.unwrap().path()).unwrap());
            }
        }
    }
}
