//! Every operation fails once: the recorder freezes, everybody is told, and the next start has what was promised.

use casemate_recorder::{Durability, Frozen};
use casemate_tests::disk::{Call, Fault, Luck, Operation, State};
use casemate_tests::noise::fresh_seed;
use casemate_tests::scale::{pick, soak};

use crate::oracle::{Cut, Tally, check, journal_syncs};
use crate::workload::{Run, drive};
use crate::world::World;

/// Operations of the workload, and those of a start, which fail too.
const OPERATIONS: u64 = 500;
const KINDS: [Fault; 3] = [Fault::Io, Fault::NoSpace, Fault::Short];
/// What the threads behind the journal may do before a failure of theirs reaches it.
const SLACK: u64 = 40;

/// What came of one failure.
struct Outcome {
    run: Run,
    trace: Vec<Operation>,
    /// Operations until the recorder was told to stop; `None` where it did not start.
    driven: Option<u64>,
    frozen: Option<Frozen>,
}

fn fail(world: &World, nth: u64, fault: Fault, seed: u64) -> (Outcome, State) {
    let disk = world.disk();
    disk.fail(nth, fault, Luck::of(seed));
    let mut outcome = Outcome { run: Run::default(), trace: Vec::new(), driven: None, frozen: None };
    if let Ok(recorder) = world.start(&disk) {
        outcome.run = drive(world, &disk, &recorder, seed, OPERATIONS);
        outcome.driven = Some(disk.operations());
        recorder.shutdown();
        outcome.frozen = recorder.frozen();
    }
    // A start that failed may have left the thread that makes journal files: its disk is gone.
    disk.halt();
    outcome.trace = disk.trace();
    (outcome, disk.state())
}

/// Whether nothing is lost when this fails: what was meant is done otherwise, or was a courtesy.
fn is_tolerable(world: &World, operation: &Operation) -> bool {
    let in_vault = operation.path.starts_with(world.vault_dir());
    match operation.call {
        Call::Protect => true,
        // A partial tile too many; a directory that is made once more.
        Call::Remove | Call::SyncDir => in_vault,
        _ => false,
    }
}

fn judge(world: &World, nth: u64, outcome: &Outcome) -> Result<(), String> {
    let Some(failed) = outcome.trace.get(nth as usize - 1) else { return Ok(()) };
    if failed.call == Call::Sync
        && outcome.trace.iter().skip(nth as usize).any(|later| later.call == Call::Sync && later.path == failed.path)
    {
        return Err("a failed sync was tried again".to_owned());
    }
    let in_time = outcome.driven.is_some_and(|driven| nth + SLACK < driven);
    let stopped = matches!(outcome.frozen, Some(Frozen::Failed(_) | Frozen::NoSpace(_)));
    if in_time && !stopped && !is_tolerable(world, failed) {
        return Err(format!("{:?} on {} failed, and recording went on", failed.call, failed.path.display()));
    }
    Ok(())
}

/// Starts again on the healed disk: as the process left it, or after a power cut on top.
fn next_start(
    world: &World,
    nth: u64,
    seed: u64,
    outcome: &Outcome,
    state: &State,
    tally: &mut Tally,
) -> Result<(), String> {
    let (disk, cut) = if nth.is_multiple_of(2) {
        (state.kill(), Cut { time: u64::MAX, synced: u64::MAX })
    } else {
        let mut syncs = journal_syncs(&outcome.trace, &world.journal_dir());
        syncs.retain(|number| *number != nth);
        (state.power_cut(Luck::of(seed ^ nth)), Cut { time: u64::MAX, synced: syncs.last().copied().unwrap_or(0) })
    };
    // Whatever failed in between, what is in the vault never looks forged.
    let before = world.export(&disk);
    if let Some(newest) = before.newest_checkpoint() {
        let verdict = before.verify(vec![newest], Vec::new())?;
        if verdict.exit == 1 {
            return Err(format!("before the next start verify says {}", verdict.summary));
        }
    }
    world.recover(&disk)?;
    let vault = world.export(&disk);
    if outcome.run.sessions.is_empty() && vault.newest_checkpoint().is_none() {
        return Err("the second start left no checkpoint".to_owned());
    }
    check(&vault, &outcome.run, world.durability, cut, tally)
}

fn every_operation_once(durability: Durability, only: impl Fn(u64) -> bool) {
    let seed = fresh_seed();
    eprintln!("CASEMATE_SEED={seed}");
    let mut tally = Tally::default();
    let mut froze = 0u64;
    for nth in 1.. {
        // The first journal file is made of 64 pieces of zeros; in `make test` a few of them stand for all.
        if !only(nth) || (!soak() && (3..64).contains(&nth) && nth % 20 != 0) {
            continue;
        }
        let kinds = if soak() { &KINDS[..] } else { std::slice::from_ref(&KINDS[(nth / 3) as usize % KINDS.len()]) };
        let mut reached = false;
        for fault in kinds {
            let world = World::new(durability);
            let (outcome, state) = fail(&world, nth, *fault, seed);
            reached |= outcome.trace.len() as u64 >= nth;
            tally.tries += 1;
            froze += u64::from(!matches!(outcome.frozen, Some(Frozen::Stopped)));
            let judged = judge(&world, nth, &outcome);
            let judged = judged.and_then(|()| next_start(&world, nth, seed, &outcome, &state, &mut tally));
            if let Err(what) = judged {
                let failed = outcome.trace.get(nth as usize - 1);
                tally.violate(format!("operation {nth} ({failed:?}) with {fault:?}: {what}"));
            }
        }
        if !reached {
            break;
        }
    }
    eprintln!("{froze} of {} runs froze or did not start", tally.tries);
    tally.conclude(&format!("{durability:?}, every operation fails once"), pick(150, 1500));
}

// In `make test` the three share the operations among them; in `make soak` each takes all, in every way it can fail.

#[test]
fn any_operation_may_fail_when_strict() {
    every_operation_once(Durability::Strict, |nth| soak() || nth % 3 == 0);
}

#[test]
fn any_operation_may_fail_when_causal() {
    every_operation_once(Durability::Causal, |nth| soak() || nth % 3 == 1);
}

#[test]
fn any_operation_may_fail_when_process() {
    every_operation_once(Durability::Process, |nth| soak() || nth % 3 == 2);
}
