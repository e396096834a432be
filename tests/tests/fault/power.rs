//! The power fails: after every operation, with any subset of what was not synced, and again during recovery.

use std::path::Path;
use std::sync::Arc;

use casemate_recorder::Durability;
use casemate_recorder::vault::{DirVault, Vault};
use casemate_tests::disk::{Call, Disk, Fault, Luck, State};
use casemate_tests::noise::{Noise, fresh_seed};
use casemate_tests::scale::{pick, soak};

use crate::oracle::{Cut, Tally, check, journal_syncs};
use crate::workload::{Run, drive, turn_over};
use crate::world::World;

/// Operations of the workload, beside those that zero journal files and those of the start and the end.
const OPERATIONS: u64 = 480;

/// A life has at least so many syncs of the journal, whatever a receipt promises.
const SYNCS_MIN: usize = 5;

/// A recorded life, with the disk as it was after every operation.
struct Trace {
    world: World,
    run: Run,
    states: Vec<State>,
    syncs: Vec<u64>,
}

fn record(durability: Durability, seed: u64) -> Trace {
    let world = World::new(durability);
    let disk = world.disk();
    let recorder = world.start(&disk).unwrap();
    // What comes before is one operation after the other without anything to lose.
    disk.keep_states();
    let run = drive(&world, &disk, &recorder, seed, OPERATIONS);
    assert_eq!(run.frozen, None);
    recorder.shutdown();
    let trace = disk.trace();
    let syncs = journal_syncs(&trace, &world.journal_dir());
    let states = disk.states();
    // Zeros into a file that nobody uses yet leave nothing to lose.
    let journal = syncs.first().map(|number| trace[*number as usize - 1].path.clone());
    let is_zeros = |state: &State| {
        let last = state.operations().checked_sub(1).map(|last| &trace[last as usize]);
        last.is_some_and(|last| {
            last.call == Call::Write
                && last.path.extension().is_some_and(|end| end == "new")
                && last.path.parent() == Some(&world.journal_dir())
                && Some(&last.path) != journal.as_ref()
        })
    };
    let all = states.len();
    let states: Vec<_> = states.into_iter().filter(|state| !is_zeros(state)).collect();
    eprintln!("{durability:?}: {} operations, {all} kept, {} of them not zeros", trace.len(), states.len());
    assert!(states.len() > 500, "{} operations", states.len());
    // What no sync covers is not owed, unless its receipt promised a sync: without any, nothing would be.
    let first = states.first().map_or(0, State::operations);
    let within = syncs.iter().filter(|number| **number > first).count();
    eprintln!("{within} syncs of the journal");
    assert!(within >= SYNCS_MIN, "{within} syncs of the journal");
    Trace { world, run, states, syncs }
}

impl Trace {
    /// Cuts the power at a state, starts again and checks.
    fn cut(&self, state: &State, luck: Luck, tally: &mut Tally) -> Result<(), String> {
        let disk = state.power_cut(luck);
        self.world.recover(&disk)?;
        let cut = Cut::after(state.operations(), &self.syncs);
        check(&self.world.export(&disk), &self.run, self.world.durability, cut, tally)
    }

    /// Cuts the power a second time, while the start after the first cut works.
    fn cut_twice(&self, state: &State, seed: u64, tally: &mut Tally) -> Result<(), String> {
        let disk = state.power_cut(Luck::of(seed));
        disk.keep_states();
        self.world.recover(&disk)?;
        let states = disk.states();
        let second = &states[Noise::new(seed ^ 1).below(states.len() as u64) as usize];
        let disk = second.power_cut(Luck::of(seed ^ 2));
        self.world.recover(&disk)?;
        let cut = Cut::after(state.operations(), &self.syncs);
        check(&self.world.export(&disk), &self.run, self.world.durability, cut, tally)
    }
}

fn note(tally: &mut Tally, state: &State, seed: u64, outcome: Result<(), String>) {
    tally.tries += 1;
    if let Err(what) = outcome {
        tally.violate(format!("after operation {}, seed {seed}: {what}", state.operations()));
    }
}

/// One cut after every operation with any subset of the unsynced on the platter, some with none of it, and some that are
/// followed by a second cut while the start after the first one works. In `make soak` all three after every operation of the
/// first run, and 20,000 of the first kind in many runs.
fn cuts(durability: Durability) {
    let seed = fresh_seed();
    eprintln!("CASEMATE_SEED={seed}");
    let mut noise = Noise::new(seed);
    let (mut any, mut none, mut twice) = (Tally::default(), Tally::default(), Tally::default());
    let target = pick(670, 20_000);
    while any.tries < target {
        let trace = record(durability, noise.next_u64());
        let first = any.tries == 0;
        for (number, state) in trace.states.iter().enumerate() {
            if !first && any.tries >= target {
                break;
            }
            let seed = noise.next_u64();
            let outcome = trace.cut(state, Luck::of(seed), &mut any);
            note(&mut any, state, seed, outcome);
            let every = first && soak();
            if every || number % 8 == 0 {
                let outcome = trace.cut(state, Luck::none(), &mut none);
                note(&mut none, state, 0, outcome);
            }
            if every || number % 16 == 0 {
                let outcome = trace.cut_twice(state, seed, &mut twice);
                note(&mut twice, state, seed, outcome);
            }
        }
    }
    any.conclude(&format!("{durability:?}, any subset of what was not synced"), target);
    none.conclude(&format!("{durability:?}, nothing of what was not synced"), target / 8);
    twice.conclude(&format!("{durability:?}, a second cut during recovery"), target / 16);
}

#[test]
fn strict_keeps_everything_forwarded_whenever_the_power_fails() {
    cuts(Durability::Strict);
}

#[test]
fn causal_keeps_what_could_be_answered_whenever_the_power_fails() {
    cuts(Durability::Causal);
}

#[test]
fn process_keeps_all_but_a_tail_whenever_the_power_fails() {
    cuts(Durability::Process);
}

#[test]
fn what_a_recycled_journal_file_held_is_found_without_it() {
    let seed = fresh_seed();
    eprintln!("CASEMATE_SEED={seed}");
    let world = World::new(Durability::Causal);
    let disk = world.disk();
    let recorder = world.start(&disk).unwrap();
    let run = turn_over(&world, &disk, &recorder, seed);
    let (state, trace) = (disk.state(), disk.trace());
    // What the threads still do is after the cut.
    disk.halt();
    recorder.shutdown();
    drop(recorder);
    let trace = Trace { syncs: journal_syncs(&trace, &world.journal_dir()), world, run, states: Vec::new() };
    let mut tally = Tally::default();
    assert!(!trace.syncs.is_empty(), "no sync of the journal");
    let tries = pick(4, 100);
    for number in 0..tries {
        let luck = if number == 0 { Luck::none() } else { Luck::of(seed ^ number) };
        let outcome = trace.cut(&state, luck, &mut tally);
        note(&mut tally, &state, seed ^ number, outcome);
    }
    tally.conclude("a power cut after a journal file was given back", tries);
}

/// Directories are synced upwards once a run; one whose sync failed is none of those.
#[test]
fn a_failed_sync_of_a_vaults_directories_is_made_up_for() {
    let root = Path::new("/vault");
    for nth in 1.. {
        let disk = Disk::new(&[root]);
        let vault = Vault::Dir(DirVault::new(Arc::new(disk.clone()), root.to_owned(), false));
        disk.fail(nth, Fault::Io, Luck::none());
        let first = vault.put_new("v1/t/2026/11/24/a/0.seg", b"one");
        if disk.operations() < nth {
            first.unwrap();
            assert!(nth > 10, "every level is synced: {nth}");
            return;
        }
        vault.put_new("v1/t/2026/11/24/b/0.seg", b"two").unwrap();
        let found = disk.state().power_cut(Luck::none());
        let vault = Vault::Dir(DirVault::new(Arc::new(found), root.to_owned(), false));
        let there = |key| vault.get(key).unwrap();
        assert_eq!(there("v1/t/2026/11/24/b/0.seg").as_deref(), Some(b"two".as_slice()), "operation {nth} failed");
        if first.is_ok() {
            assert_eq!(there("v1/t/2026/11/24/a/0.seg").as_deref(), Some(b"one".as_slice()), "operation {nth} failed");
        }
    }
}
