//! Pages from row to vault, over restarts, crashes and a disk that refuses.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::row::tests::{ended, opened};
use super::*;
use crate::clock::Clock;
use crate::figures::Meters;
use crate::fs::OsFs;
use crate::transcript::Stamp;

const HOUR_US: u64 = 3_600_000_000;
const EIGHT_US: u64 = 1_763_769_600_000_000 + 8 * HOUR_US;
const DAY: &str = "v1/cat/dt=2025-11-22/node=n1";

/// A clock that a test sets; both clocks are one.
#[derive(Debug)]
struct Set(AtomicU64);

impl Clock for Set {
    fn now(&self) -> Stamp {
        let us = self.0.load(Ordering::SeqCst);
        Stamp { wall_us: us, boot_us: us }
    }
}

struct World {
    dir: tempfile::TempDir,
    clock: Arc<Set>,
}

impl World {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), clock: Arc::new(Set(AtomicU64::new(EIGHT_US))) }
    }

    fn start(&self) -> Catalogue {
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as _;
        let queue = Arc::new(Queue::new(clock, Meters::new(Arc::default())));
        let (state, vault) = (self.dir.path().join("state"), self.dir.path().join("vault"));
        let fs = Arc::new(OsFs);
        let (mut catalogue, _desk) = Catalogue::new(fs, &state, &vault, "n1", vec!["basel".to_owned()], queue);
        catalogue.shelf.resume(catalogue.hour()).unwrap();
        catalogue
    }

    fn at(&self, us: u64) {
        self.clock.0.store(us, Ordering::SeqCst);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The pages in the vault, each with the persons in its rows.
    fn pages(&self) -> Vec<(String, Vec<Option<String>>)> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.path("vault").join(DAY)).into_iter().flatten() {
            let path = entry.unwrap().path();
            let text = zstd::decode_all(std::fs::File::open(&path).unwrap()).unwrap();
            let rows = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            let person = |row: &[u8]| {
                let row: serde_json::Value = serde_json::from_slice(row).unwrap();
                row["person"].as_str().map(str::to_owned)
            };
            found.push((path.file_name().unwrap().to_str().unwrap().to_owned(), rows.map(person).collect()));
        }
        found.sort();
        found
    }
}

fn session(catalogue: &mut Catalogue, number: u8) {
    let session = SessionId([number; 16]);
    let now_us = catalogue.queue.now().wall_us;
    catalogue.take(Entry::Opened(Box::new(opened(session))));
    catalogue.take(Entry::Ended(Box::new(ended(session, now_us))));
    catalogue.write();
}

fn alices(count: usize) -> Vec<Option<String>> {
    vec![Some("alice".to_owned()); count]
}

#[test]
fn a_page_goes_into_the_vault_when_its_hour_is_over() {
    let world = World::new();
    let mut catalogue = world.start();
    session(&mut catalogue, 1);
    world.at(EIGHT_US + HOUR_US - 1);
    session(&mut catalogue, 2);
    catalogue.settle(Some(catalogue.hour()));
    assert_eq!(world.pages(), []);
    world.at(EIGHT_US + HOUR_US);
    catalogue.settle(Some(catalogue.hour()));
    assert_eq!(world.pages(), [("08.jsonl.zst".to_owned(), alices(2))]);
    assert!(world.path("state/catalogue/due/basel/2025-11-22T08").exists(), "it is to go on to basel");
    assert!(!world.path("state/catalogue/2025-11-22T08.jsonl").exists());
}

#[test]
fn a_restart_within_the_hour_begins_another_part_and_a_crash_goes_on_with_the_one_at_hand() {
    let world = World::new();
    let mut catalogue = world.start();
    session(&mut catalogue, 1);
    catalogue.settle(None);

    let mut catalogue = world.start();
    session(&mut catalogue, 2);
    drop(catalogue);
    // Half a row that a crash left.
    let page = world.path("state/catalogue/2025-11-22T08-1.jsonl");
    let torn = [std::fs::read(&page).unwrap().as_slice(), b"{\"sid\":"].concat();
    std::fs::write(&page, torn).unwrap();
    let mut catalogue = world.start();
    session(&mut catalogue, 3);
    catalogue.settle(None);
    let pages = [("08-1.jsonl.zst".to_owned(), alices(2)), ("08.jsonl.zst".to_owned(), alices(1))];
    assert_eq!(world.pages(), pages);

    // Erased here within the hour, and not yet delivered: its name is not given to another.
    std::fs::remove_file(world.path("vault").join(DAY).join("08-1.jsonl.zst")).unwrap();
    let mut catalogue = world.start();
    session(&mut catalogue, 4);
    catalogue.settle(None);
    assert_eq!(
        world.pages().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["08-2.jsonl.zst", "08.jsonl.zst"]
    );
}

#[test]
fn a_crash_between_the_vault_and_the_state_directory_makes_no_second_page() {
    let world = World::new();
    let mut catalogue = world.start();
    session(&mut catalogue, 1);
    let page = world.path("state/catalogue/2025-11-22T08.jsonl");
    let kept = std::fs::read(&page).unwrap();
    catalogue.settle(None);
    std::fs::write(&page, kept).unwrap();
    let mut catalogue = world.start();
    session(&mut catalogue, 2);
    catalogue.settle(None);
    assert_eq!(
        world.pages(),
        [("08-1.jsonl.zst".to_owned(), alices(1)), ("08.jsonl.zst".to_owned(), alices(1))],
        "the first is as it was"
    );
}

#[test]
fn who_was_in_a_session_is_known_after_a_crash() {
    let world = World::new();
    let mut catalogue = world.start();
    let (first, second, third) = (SessionId([1; 16]), SessionId([2; 16]), SessionId([3; 16]));
    for session in [first, second] {
        catalogue.take(Entry::Opened(Box::new(opened(session))));
    }
    drop(catalogue);
    let mut catalogue = world.start();
    let now_us = EIGHT_US + 1;
    for session in [first, third] {
        let ended = Ended { status: Status::Recovered, reason: None, bytes: None, ..ended(session, now_us) };
        catalogue.take(Entry::Ended(Box::new(ended)));
    }
    assert!(catalogue.open.contains_key(&second));
    world.at(EIGHT_US + RECOVERED_AFTER_US);
    catalogue.forget_earlier();
    assert!(catalogue.open.is_empty(), "nobody will recover it");
    catalogue.settle(None);
    assert_eq!(world.pages(), [("08.jsonl.zst".to_owned(), vec![Some("alice".to_owned()), None])]);
    assert_eq!(std::fs::read(world.path("state/catalogue/open.jsonl")).unwrap(), b"", "no name is kept for longer");
}

#[test]
fn what_cannot_be_written_is_written_later() {
    let world = World::new();
    std::fs::create_dir(world.path("state")).unwrap();
    // No directory can be made there.
    std::fs::write(world.path("state/catalogue"), "in the way").unwrap();
    std::fs::write(world.path("vault"), "in the way").unwrap();
    let clock: Arc<dyn Clock> = Arc::clone(&world.clock) as _;
    let queue = Arc::new(Queue::new(clock, Meters::new(Arc::default())));
    let (state, vault) = (world.path("state"), world.path("vault"));
    let (mut catalogue, _desk) = Catalogue::new(Arc::new(OsFs), &state, &vault, "n1", Vec::new(), queue);
    session(&mut catalogue, 1);
    session(&mut catalogue, 2);
    assert!(catalogue.failing);
    assert_eq!(catalogue.unwritten.len(), 2);
    std::fs::remove_file(world.path("state/catalogue")).unwrap();
    catalogue.settle(None);
    assert!(catalogue.unwritten.is_empty(), "the rows are on their page");
    assert!(catalogue.failing, "the vault takes nothing");
    std::fs::remove_file(world.path("vault")).unwrap();
    catalogue.settle(None);
    assert_eq!(world.pages(), [("08.jsonl.zst".to_owned(), alices(2))]);
    assert!(!catalogue.failing);
}

#[test]
fn nobody_waits_for_a_catalogue_that_does_not_keep_up() {
    let world = World::new();
    let clock: Arc<dyn Clock> = Arc::clone(&world.clock) as _;
    let queue = Arc::new(Queue::new(clock, Meters::new(Arc::default())));
    let (state, vault) = (world.path("state"), world.path("vault"));
    let (catalogue, desk) = Catalogue::new(Arc::new(OsFs), &state, &vault, "n1", Vec::new(), queue);
    for number in 0..ENTRIES_MAX + 9 {
        desk.tell(Entry::Ended(Box::new(ended(SessionId([(number % 251) as u8; 16]), EIGHT_US))));
    }
    drop(desk);
    catalogue.run();
    assert_eq!(world.pages()[0].1.len(), ENTRIES_MAX);
}
