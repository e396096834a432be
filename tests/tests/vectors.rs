//! Both readers over the vectors, which say what must be answered, and over vaults damaged at random, where the two must
//! agree with each other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // What fails here fails a test.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use casemate_tests::vectors::{self, Answer, Vector, first_reader, second_reader};
use casemate_tests::{forge, scale};

/// Asks the first reader about all, a few at a time: it waits a moment where something may be on its way.
fn first_readers(questions: &[Vec<String>]) -> Vec<Answer> {
    let (next, answers) = (AtomicUsize::new(0), Mutex::new(vec![None; questions.len()]));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(question) = questions.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let at = questions.iter().position(|known| std::ptr::eq(known, question)).unwrap();
                    let answer = first_reader(question).unwrap();
                    answers.lock().unwrap()[at] = Some(answer);
                }
            });
        }
    });
    answers.into_inner().unwrap().into_iter().map(Option::unwrap).collect()
}

#[test]
fn both_readers_answer_every_vector_as_it_says() {
    let all = vectors::load().unwrap();
    assert!(all.len() >= 60, "{} vectors", all.len());
    let dir = tempfile::tempdir().unwrap();
    let mut questions = Vec::new();
    for (name, vector) in &all {
        let at = dir.path().join(name);
        vector.unpack(&at).unwrap();
        questions.push(vector.arguments_at(&at).unwrap());
    }
    let answers = [("first", first_readers(&questions)), ("second", second_reader(&questions).unwrap())];
    let mut wrong = Vec::new();
    for (reader, answers) in &answers {
        for ((name, vector), answer) in all.iter().zip(answers) {
            let status = |(id, status): (&String, &String)| answer.sessions.get(id) == Some(status);
            if (answer.exit, &answer.verdict) != (vector.exit, &vector.verdict) || !vector.sessions.iter().all(status) {
                let Vector { what, exit, sessions, .. } = vector;
                wrong.push(format!(
                    "{name} ({what}): {exit} {sessions:?} was expected of the {reader} reader: {}",
                    answer.said
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong answers:\n{}", wrong.len(), wrong.join("\n"));
    eprintln!("{} vectors, two readers, 0 wrong answers", all.len());
}

/// A small generator, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides.max(1)
    }
}

/// Damages a vault at random, in one to three places.
fn damage(at: &Path, dice: &mut Dice) {
    for _ in 0..=dice.roll(3) {
        let files = vectors::files(&at.join("vault")).unwrap();
        let Some(file) = files.get(dice.roll(files.len())).map(|file| at.join("vault").join(file)) else { return };
        let mut bytes = fs::read(&file).unwrap();
        let place = dice.roll(bytes.len());
        match dice.roll(8) {
            0 => {
                vectors::remove(&file).unwrap();
                continue;
            }
            1 => bytes.truncate(place),
            2 => bytes = fs::read(at.join("vault").join(&files[dice.roll(files.len())])).unwrap(),
            3 => {
                let noise: Vec<u8> = (0..dice.roll(40)).map(|_| dice.roll(256) as u8).collect();
                let end = place + dice.roll(bytes.len() - place + 1);
                bytes.splice(place..end, noise);
            }
            4 => {
                // Under the name of a neighbour: another number, width, day or session.
                let name = file.to_str().unwrap().replacen(char::from(b'0' + dice.roll(10) as u8), "1", 1);
                vectors::write(Path::new(&name), &bytes).unwrap_or(());
                continue;
            }
            _ => {
                if let Some(byte) = bytes.get_mut(place) {
                    *byte ^= 1 << dice.roll(8);
                }
            }
        }
        vectors::write(&file, &bytes).unwrap();
    }
}

/// The seed of a run: `CASEMATE_SEED`, or the clock's.
fn dice() -> Dice {
    let seed = std::env::var("CASEMATE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 >> 8);
    eprintln!("CASEMATE_SEED={seed}");
    Dice(seed)
}

/// How many sessions both blame; `None` where one blames a session that the other lists as sound. What the log says of a session, one
/// reader blames on the session and the other on the log: that is no contradiction.
fn blamed(one: &Answer, other: &Answer) -> Option<usize> {
    let is_bad = |status: &str| ["altered", "missing"].contains(&status);
    let mut both = 0;
    for (id, status) in &one.sessions {
        let Some(others) = other.sessions.get(id) else { continue };
        match (is_bad(status), is_bad(others)) {
            (true, true) => both += 1,
            (true, false) if !other.blames_log => return None,
            (false, true) if !one.blames_log => return None,
            _ => {}
        }
    }
    Some(both)
}

/// Asks both readers about `tries` vaults that `make` leaves at a path, with the arguments to put; they must agree, also on who is
/// to blame. Returns how often each exit was given.
fn agree(tries: usize, mut make: impl FnMut(&Path, &mut Dice) -> Vector) -> [usize; 5] {
    let mut dice = dice();
    let seed = dice.0;
    let (mut exits, mut apart, mut blames) = ([0usize; 5], Vec::new(), 0);
    for batch in (0..tries).step_by(250) {
        let dir = tempfile::tempdir().unwrap();
        let mut questions = Vec::new();
        for number in batch..tries.min(batch + 250) {
            let at = dir.path().join(number.to_string());
            let vector = make(&at, &mut dice);
            questions.push(vector.arguments_at(&at).unwrap());
        }
        let answers = first_readers(&questions).into_iter().zip(second_reader(&questions).unwrap());
        for (question, (first, second)) in questions.iter().zip(answers) {
            exits[usize::from(first.exit)] += 1;
            let both = blamed(&first, &second);
            blames += both.unwrap_or_default();
            if (first.exit, &first.verdict) != (second.exit, &second.verdict) || both.is_none() {
                apart.push(format!("{question:?}: {} and {}", first.said, second.said));
            }
        }
        if !apart.is_empty() {
            let kept = dir.keep();
            panic!("CASEMATE_SEED={seed}: {} apart, kept in {}:\n{}", apart.len(), kept.display(), apart.join("\n"));
        }
    }
    eprintln!(
        "{tries} vaults, exits 0 to 4: {exits:?}, {blames} sessions to blame, 0 apart (95 % bound {:.2} %)",
        300.0 / tries as f64
    );
    assert!(blames * 5 > tries, "{blames} sessions to blame in {tries} vaults");
    exits
}

#[test]
fn both_readers_agree_on_vaults_damaged_at_random() {
    let starts: Vec<_> = vectors::load().unwrap().into_values().collect();
    let tries = scale::pick(200, 5000);
    let exits = agree(tries, |at, dice| {
        let vector = &starts[dice.roll(starts.len())];
        vector.unpack(at).unwrap();
        damage(at, dice);
        vector.clone()
    });
    // Some starts are beyond harm, and some damage hits what proves nothing; most of it must be found.
    assert!(exits[1] * 2 > tries, "{exits:?}");
}

/// Changes a list in one place: an item goes, comes twice, changes places, or one of its bytes changes.
fn shuffle(items: &mut Vec<Vec<u8>>, dice: &mut Dice) {
    let (one, other) = (dice.roll(items.len()), dice.roll(items.len()));
    match dice.roll(8) {
        0 => drop(items.remove(one)),
        1 => items.insert(other, items[one].clone()),
        2 => items.swap(one, other),
        3 => {
            let len = items[one].len();
            items[one].truncate(dice.roll(len).max(164.min(len)));
        }
        _ => {
            let place = dice.roll(items[one].len());
            items[one][place] ^= 1 << dice.roll(8);
        }
    }
}

#[test]
fn both_readers_agree_on_what_an_insider_forges() {
    let vector = vectors::load().unwrap().remove("good-anchored").unwrap();
    let exits = agree(scale::pick(200, 5000), |at, dice| {
        vector.unpack(at).unwrap();
        let mut entries = forge::entries(at).unwrap();
        if dice.roll(2) == 0 {
            shuffle(&mut entries, dice);
        } else {
            // A session written anew: every link, seal and leaf fits, whatever the blocks say.
            let own = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
            let segments: Vec<_> = vectors::files(&at.join("vault/v1/t")).unwrap();
            let segment = at.join("vault/v1/t").join(&segments[dice.roll(segments.len())]);
            let session = segment.parent().unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap();
            let mut leaves = forge::leaves(at).unwrap();
            forge::rechain(&segment, Some(&own), |blocks| {
                forge::replace_key(&mut blocks[0], &leaves, &own);
                shuffle(blocks, dice);
            })
            .unwrap();
            forge::reopen(&fs::read(&segment).unwrap(), session, &own, &mut leaves);
            entries = forge::encode(&leaves).unwrap();
        }
        forge::fork(at, &entries).unwrap();
        vector.clone()
    });
    assert!(exits[0] > 0 && exits[1] > 0, "{exits:?}");
}

/// A recovered vault in the clear, in which a lane of the second session has three records that no block held.
async fn recovered(dir: &Path) -> String {
    use casemate_recorder::transcript::event::{Event, Side, ssh_in};
    use casemate_recorder::{Protocol, Recorder, RecorderConfig, SessionSpec, TranscriptKind};

    let config = |dir: &Path| {
        RecorderConfig::new(dir.join("state"), dir.join("vault"), "node-1".to_owned(), forge::node_key("node-1"))
    };
    let killed = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(config(killed.path())).unwrap();
    let spec = SessionSpec { kind: TranscriptKind::Session, protocol: Some(Protocol::Ssh), policy_hash: [0; 32] };
    let session = recorder.open_session(spec, Vec::new()).await.unwrap();
    for typed in ["first\r", "second\r", "third\r"] {
        let event = Event::stream(ssh_in::TYPE, 0, bytes::Bytes::from_static(typed.as_bytes()));
        drop(session.record(Side::Client, event).receipt().await.unwrap().into_bytes());
        // Neighbours would be one event.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let id = session.id().to_string();
    vectors::copy(killed.path(), dir).unwrap();
    drop((session, recorder));
    let next = Recorder::start(config(dir)).unwrap();
    let begun = std::time::Instant::now();
    let is_here = || vectors::files(&dir.join("vault")).unwrap_or_default().iter().any(|file| file.contains(&id));
    while !is_here() {
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "the session is not recovered");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    next.shutdown();
    id
}

/// Takes the middle record out of the block in which recovery put the keystrokes, so that everything fits which can be checked
/// without reading events. With `renumbered`, the head of the last record fits too.
fn take_record_out(dir: &Path, id: &str, renumbered: bool) {
    use casemate_recorder::log::leaf::{Leaf, SegmentRef};
    use casemate_recorder::transcript::block::{Link, link};
    use casemate_recorder::transcript::seal::{self, Recovered};
    use sha2::{Digest, Sha256};

    let own = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
    let file = vectors::files(&dir.join("vault")).unwrap().into_iter().find(|file| file.contains(id)).unwrap();
    let file = format!("vault/{file}");
    forge::rechain(&dir.join(&file), Some(&own), |blocks| {
        let micro = blocks.iter_mut().find(|block| forge::kind(block) == 2 && block[5] == 2).unwrap();
        let (header, mut rest) = micro.split_at(160);
        let mut records = Vec::new();
        while !rest.is_empty() {
            let len = 4 + u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
            records.push(rest[..len].to_vec());
            rest = &rest[len..];
        }
        assert_eq!(records.len(), 3);
        let gone = records.remove(1);
        if renumbered {
            let first_event = gone[28..36].to_vec();
            records[1][28..36].copy_from_slice(&first_event);
        }
        let mut block = [header.to_vec(), records.concat()].concat();
        let len = ((block.len() - 160) as u32).to_le_bytes();
        forge::set(&mut block, 8, &len);
        forge::set(&mut block, 12, &len);
        forge::set(&mut block, 48, &2u32.to_le_bytes());
        *micro = block;
        let end = blocks.last_mut().unwrap();
        let mut said: Recovered = seal::decode_statement(&end[160..end.len() - 64]).unwrap();
        said.events[2] -= 1;
        let statement = seal::encode_statement(&said);
        end.splice(160..end.len() - 64, statement);
    })
    .unwrap();
    let segment = fs::read(dir.join(&file)).unwrap();
    let last_link = Link(segment[segment.len() - 48..segment.len() - 16].try_into().unwrap());
    assert_eq!(link(forge::blocks(&segment).last().unwrap()), last_link);
    let (bytes, sha256) = (segment.len() as u64, <[u8; 32]>::from(Sha256::digest(&segment)));
    let mut leaves = forge::leaves(dir).unwrap();
    leaves.retain(|leaf| !matches!(leaf, Leaf::Heads { .. }));
    for leaf in &mut leaves {
        match leaf {
            Leaf::Boot(boot) => boot.boot_pub = own.verifying_key().to_bytes(),
            Leaf::Segment(logged) if logged.session.to_string() == id => {
                (logged.bytes, logged.sha256, logged.last_link) = (bytes, sha256, last_link);
            }
            Leaf::Recovered(end) if end.close.session.to_string() == id => {
                end.close.last_link = last_link;
                end.close.segments = vec![SegmentRef { no: 0, bytes, sha256, last_link }];
            }
            // The control transcript of the first start is cut by its end too, and signed by a key that no leaf names now.
            _ => {}
        }
    }
    forge::fork(dir, &forge::encode(&leaves).unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_events_sees_that_recovery_embedded_all_of_them() {
    let dir = tempfile::tempdir().unwrap();
    // Of the age project's own tests; the vault is in the clear.
    let identity = dir.path().join("identity");
    fs::write(&identity, "AGE-SECRET-KEY-1XMWWC06LY3EE5RYTXM9MFLAZ2U56JJJ36S0MYPDRWSVLUL66MV4QX3S7F6\n").unwrap();
    let sound = dir.path().join("sound");
    fs::create_dir(&sound).unwrap();
    let id = recovered(&sound).await;
    let ask = |at: &Path, more: &[&str]| {
        let mut question = vec![at.join("vault").to_str().unwrap().to_owned()];
        question.extend(more.iter().map(|&word| word.to_owned()));
        first_reader(&question).unwrap()
    };
    let keys = ["--identity", identity.to_str().unwrap()];
    let answer = ask(&sound, &keys);
    assert_eq!((answer.exit, answer.sessions[&id].as_str()), (4, "unanchored"), "{}", answer.said);
    for (renumbered, words) in [(false, "of another session, lane or place"), (true, "is missing")] {
        let at = dir.path().join(format!("forged-{renumbered}"));
        vectors::copy(&sound, &at).unwrap();
        take_record_out(&at, &id, renumbered);
        let answer = ask(&at, &[]);
        assert_eq!(answer.sessions[&id], "unanchored", "nothing shows without keys: {}", answer.said);
        let answer = ask(&at, &keys);
        assert_eq!((answer.exit, answer.sessions[&id].as_str()), (1, "altered"), "{}", answer.said);
        assert!(answer.said.contains(words), "{}", answer.said);
    }
}
