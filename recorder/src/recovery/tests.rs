//! Recovery at every record of a session's journal, and with every kind of torn live segment.

use super::*;
use crate::fs::OsFs;
use crate::journal::file::{JournalWriter, scan};
use crate::journal::pool::Pool;
use crate::journal::record::RecordHead;
use crate::transcript::block::Kind;
use crate::transcript::block::{BlockError, HEADER_LEN};
use crate::transcript::blocks::Built;
use crate::transcript::chain::{self, TRAILER_LEN};
use crate::transcript::cipher::{CipherError, LaneKeys};
use crate::transcript::compressor::Compressor;
use crate::transcript::event::{Event, Side, ssh_in, ssh_out};
use crate::transcript::head::tests::{head, session_key};
use crate::transcript::seal::{self, Recovered};
use crate::transcript::writer::Writer;
use bytes::Bytes;

const SESSION: SessionId = SessionId([9; 16]);

/// A session's life as the journal thread would write it, and how many events each turn made durable.
struct Life {
    journal: JournalWriter,
    spool: PathBuf,
    durable: Vec<u64>,
    events: u64,
}

impl Life {
    fn block(&mut self, built: &Built) {
        self.journal.append(&RecordHead::block(SESSION, built.block_no), &built.bytes);
    }

    fn runs(&mut self, writer: &mut Writer) {
        for lane in Lane::ALL {
            if let Some(run) = writer.take_run(lane) {
                self.events += u64::from(run.head.event_count);
                self.journal.append(&RecordHead::run(run.head), &run.payload);
            }
        }
    }

    /// The first turn: HEAD and the OPEN leaf.
    fn open(&mut self, built: &Built) {
        self.block(built);
        let open = crate::log::leaf::Open {
            session: SESSION,
            kind: 0,
            protocol: 1,
            ordinal: 0,
            head_link: built.link,
            session_pub: [0; 32],
            wall_us: 0,
            retain_until_us: 0,
        };
        self.journal.append(&RecordHead::leaf(0), &Leaf::Open(open).encode().unwrap());
        self.end_turn();
    }

    fn end_turn(&mut self) {
        self.journal.write().unwrap();
        self.durable.push(self.events);
    }
}

fn at(us: u64) -> Stamp {
    Stamp { wall_us: 1_000_000_000 + us, boot_us: us }
}

fn started(dir: &Path) -> Life {
    let fs: Arc<dyn Fs> = Arc::new(OsFs);
    std::fs::create_dir_all(dir.join("journal")).unwrap();
    std::fs::create_dir_all(dir.join("spool")).unwrap();
    let pool = Arc::new(Pool::new(Arc::clone(&fs), dir.join("journal"), 8 << 20, 4));
    let worker = Arc::clone(&pool);
    std::thread::spawn(move || worker.run(|_| {}));
    let journal = JournalWriter::create(fs, pool, [1; 16], 0, 0).unwrap();
    Life { journal, spool: dir.join("spool"), durable: Vec::new(), events: 0 }
}

/// Two segments: typed and shown text, blocks of both lanes, a roll, a tail that is only runs, and the close.
fn live(dir: &Path, keys: &LaneKeys) -> Life {
    let mut life = started(dir);
    let mut compressor = Compressor::new().unwrap();
    let (mut writer, built) = Writer::begin(SESSION, head(), session_key(), keys.clone(), at(0));
    life.open(&built);
    for turn in 1..40u64 {
        writer.append(Side::Client, &Event::stream(ssh_in::TYPE, 0, Bytes::from(vec![turn as u8; 2])), at(turn * 10));
        writer.append(
            Side::Target,
            &Event::stream(ssh_out::TYPE, 0, Bytes::from(vec![turn as u8; 9])),
            at(turn * 10 + 1),
        );
        life.runs(&mut writer);
        if turn % 7 == 0 {
            let built = writer.cut(Lane::Output, &mut compressor, [6; 16]).unwrap();
            life.block(&built);
        }
        if turn == 20 {
            let built = writer.cut(Lane::Input, &mut compressor, [6; 16]).unwrap();
            life.block(&built);
            let (end, head) = writer.roll(at(turn * 10 + 2));
            end.blocks.iter().chain([&head]).for_each(|built| life.block(built));
        }
        life.end_turn();
    }
    for lane in Lane::ALL {
        if let Some(built) = writer.cut(lane, &mut compressor, [6; 16]) {
            life.block(&built);
        }
    }
    writer.close(CloseReason::Client, Some(0), at(500)).blocks.iter().for_each(|built| life.block(built));
    life.end_turn();
    life
}

fn recover(dir: &Path) -> Option<(RecoveredSession, Vec<u8>)> {
    let files = scan(&OsFs, &dir.join("journal")).unwrap().files;
    let recovery = Recovery {
        fs: Arc::new(OsFs),
        spool: dir.join("spool"),
        evidence: Evidence::gather(files, |_, _| Ok::<_, io::Error>(())).unwrap(),
        boot_id: [8; 16],
        boot_key: SigningKey::from_bytes(&[7; 32]),
        next_ordinal: 1,
        copies: Arc::new(Backlog::new(u64::MAX)),
    };
    let orphans = recovery.orphans().unwrap();
    let recovered = recovery.recover(*orphans.first()?, at(1000)).unwrap()?;
    let stored = recovered.segments.iter().flat_map(|(finished, _)| {
        let mut bytes = std::fs::read(&finished.path).unwrap();
        assert_eq!(Sha256::digest(&bytes).as_slice(), finished.sha256);
        let trailer: [u8; TRAILER_LEN] = bytes.split_off(bytes.len() - TRAILER_LEN).try_into().unwrap();
        let (offset, len) = chain::parse_trailer(&trailer).unwrap();
        let index = Block::parse(&bytes[offset as usize..]).unwrap();
        assert_eq!((index.header.kind, index.raw.len()), (Kind::Index, len as usize));
        bytes
    });
    let stored = stored.collect();
    Some((recovered, stored))
}

/// Reads segments that follow each other and returns how many events they hold, which must be dense.
fn count_events(mut stored: &[u8], keys: &LaneKeys) -> (u64, Kind) {
    let (mut chain, mut seqs, mut last) = (Chain::new(SESSION), Vec::new(), Kind::Head);
    while !stored.is_empty() {
        let block = Block::parse(stored).unwrap();
        if block.header.kind == Kind::Head && block.header.block_no > 0 {
            chain.next_segment();
        }
        chain.accept(&block.header, block.link).unwrap();
        if block.header.kind.holds_events() {
            seqs.extend(chain::events(&block, keys).unwrap().into_iter().map(|(_, entry)| entry.seq));
        }
        if block.header.kind == Kind::Recovered {
            let key = SigningKey::from_bytes(&[7; 32]).verifying_key();
            let statement = seal::verify(&key, &block.raw[..HEADER_LEN], block.payload).unwrap();
            let recovered: Recovered = seal::decode_statement(statement).unwrap();
            assert_eq!(recovered.events, chain.events());
        }
        last = block.header.kind;
        stored = &stored[block.raw.len()..];
    }
    seqs.sort_unstable();
    assert!(seqs.iter().copied().eq(0..seqs.len() as u64), "{seqs:?}");
    (seqs.len() as u64, last)
}

fn keys() -> LaneKeys {
    LaneKeys::new([[1; 32], [2; 32], [3; 32]])
}

#[test]
fn a_cut_at_any_record_loses_nothing_that_was_durable_and_shows_nothing_that_was_not() {
    cut_at_any_record(&LaneKeys::default());
}

#[test]
fn a_cut_of_an_encrypted_journal_loses_nothing_either_and_needs_no_key() {
    cut_at_any_record(&keys());
}

fn cut_at_any_record(keys: &LaneKeys) {
    let dir = tempfile::tempdir().unwrap();
    let life = live(dir.path(), keys);
    let path = crate::journal::file::path(&dir.path().join("journal"), 0);
    let file = scan(&OsFs, &dir.path().join("journal")).unwrap().files.remove(0);
    let (mut end, mut turns, mut cuts) = (FILE_HEAD_LEN as usize, 0, Vec::new());
    for record in file.records() {
        end += record.padded_len;
        turns += usize::from(record.ends_turn);
        // Once exactly behind the record, once inside the next.
        cuts.extend([(end, turns), (end + 13, turns)]);
    }
    assert_eq!(turns, life.durable.len());
    for (cut, turns) in cuts {
        std::fs::write(&path, file.bytes.get(..cut).unwrap_or(&file.bytes)).unwrap();
        let recovered = recover(dir.path());
        let Some(durable) = turns.checked_sub(1).map(|turn| life.durable[turn]) else {
            assert!(recovered.is_none(), "nobody was told that this session is open");
            continue;
        };
        let (recovered, stored) = recovered.unwrap();
        let (events, last) = count_events(&stored, keys);
        assert_eq!(events, durable, "cut at {cut}, after turn {turns}");
        assert_eq!(recovered.closed.is_some(), last == Kind::Close);
        assert!(matches!(last, Kind::Close | Kind::Recovered));
        for (finished, _) in recovered.segments {
            std::fs::remove_file(finished.path).unwrap();
        }
    }
}

#[test]
fn a_live_segment_torn_at_any_place_is_made_whole_from_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let keys = keys();
    let life = live(dir.path(), &keys);
    let (_, whole) = recover(dir.path()).unwrap();
    let total = count_events(&whole, &keys).0;
    let second = {
        let mut rest = whole.as_slice();
        loop {
            let block = Block::parse(rest).unwrap();
            if block.header.kind == Kind::Head && block.header.block_no > 0 {
                break whole.len() - rest.len();
            }
            rest = &rest[block.raw.len()..];
        }
    };
    for cut in (0..second).step_by(37) {
        std::fs::write(part_path(&life.spool, SESSION, 0), &whole[..cut]).unwrap();
        let (recovered, stored) = recover(dir.path()).unwrap();
        assert_eq!((count_events(&stored, &keys).0, recovered.torn_bytes), (total, 0), "cut at {cut}");
        assert_eq!(stored, whole);
        for (finished, _) in recovered.segments {
            std::fs::remove_file(finished.path).unwrap();
        }
    }
}

#[test]
fn nothing_readable_of_an_encrypted_session_reaches_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    // Nine equal bytes are what each turn of the target says; small numbers also stand in keys and ids here.
    let said = |bytes: &[u8]| (10..40u8).any(|turn| bytes.windows(9).any(|nine| nine == [turn; 9]));
    for (keys, readable) in [(LaneKeys::default(), true), (keys(), false)] {
        let dir = dir.path().join(readable.to_string());
        live(&dir, &keys);
        let journal = std::fs::read(crate::journal::file::path(&dir.join("journal"), 0)).unwrap();
        let (_, recovered) = recover(&dir).unwrap();
        assert_eq!(said(&journal), readable);
        // Without encryption a block may show what it holds, as far as compressing leaves it.
        assert!(readable || !said(&recovered));
    }
}

#[test]
fn a_changed_record_in_a_recovered_transcript_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let keys = keys();
    live(dir.path(), &keys);
    let path = crate::journal::file::path(&dir.path().join("journal"), 0);
    let file = scan(&OsFs, &dir.path().join("journal")).unwrap().files.remove(0);
    let first_runs: usize = file.records().take(6).map(|record| record.padded_len).sum();
    std::fs::write(&path, &file.bytes[..FILE_HEAD_LEN as usize + first_runs]).unwrap();
    let (_, stored) = recover(dir.path()).unwrap();
    let mut rest = stored.as_slice();
    let mut seen = 0;
    while !rest.is_empty() {
        let block = Block::parse(rest).unwrap();
        rest = &rest[block.raw.len()..];
        if block.header.kind != Kind::Micro {
            continue;
        }
        seen += 1;
        assert!(chain::events(&block, &keys).is_ok());
        assert!(matches!(chain::events(&block, &LaneKeys::default()), Err(BlockError::Encrypted)));
        let other = LaneKeys::new([[9; 32]; 3]);
        assert!(matches!(chain::events(&block, &other), Err(BlockError::Cipher(CipherError::Commitment))));
        // Every byte of the record: its head is bound to the ciphertext as well.
        for at in 4..block.payload.len().min(200) {
            let mut payload = block.payload.to_vec();
            payload[at] ^= 1;
            let header = block.header.clone();
            let changed = Block { header, payload: &payload, link: block.link, raw: block.raw };
            assert!(chain::events(&changed, &keys).is_err(), "byte {at}");
        }
    }
    assert_eq!(seen, 2, "input and output");
}

#[test]
fn a_block_of_a_turn_that_never_was_is_set_aside() {
    let keys = keys();
    // With what the journal says of the blocks before: each of them, or after a file was recycled only how many.
    for recycled in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut life = started(dir.path());
        let (mut writer, head) = Writer::begin(SESSION, head(), session_key(), keys.clone(), at(0));
        life.open(&head);
        let mut live = head.bytes.to_vec();
        if recycled {
            life.journal.switch().unwrap();
            life.journal.append(&RecordHead::standing(SESSION, 1), &[]);
            life.end_turn();
            std::fs::remove_file(crate::journal::file::path(&dir.path().join("journal"), 0)).unwrap();
        }
        // The next turn: what was typed would go into the journal, but only the large answer reached the disk.
        writer.append(Side::Client, &Event::stream(ssh_in::TYPE, 0, Bytes::from_static(b"ls")), at(10));
        writer.append(Side::Target, &Event::stream(ssh_out::TYPE, 0, Bytes::from(vec![7; 40_000])), at(11));
        let answer = writer.cut(Lane::Output, &mut Compressor::new().unwrap(), [6; 16]).unwrap();
        live.extend_from_slice(&answer.bytes);
        std::fs::write(part_path(&life.spool, SESSION, 0), &live).unwrap();
        let (recovered, stored) = recover(dir.path()).unwrap();
        assert_eq!((count_events(&stored, &keys).0, recovered.torn_bytes), (0, answer.bytes.len() as u64));
    }
}
