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
