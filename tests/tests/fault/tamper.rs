//! A forger at work on a small vault: whatever is changed is found, and the finding says where.
//!
//! The vault is flipped, cut, spliced and rolled back in place, in process, and verified each time. A change to a segment
//! must be blamed on its session; one to the node log on the node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use casemate_recorder::transcript::block::Block;
use casemate_recorder::transcript::event::{Event, Side, ssh_in, ssh_out};
use casemate_recorder::{CloseReason, Durability, Protocol, Recorder, SessionSpec, TranscriptKind};
use casemate_tests::disk::Call;
use casemate_tests::noise::{Noise, fresh_seed};
use casemate_tests::scale::pick;

use crate::world::{Exported, Verdict, World, files};

/// What the vault is to hold, in bytes of segments.
const VAULT_LEN: u64 = 64 * 1024;
const SPEC: SessionSpec =
    SessionSpec { kind: TranscriptKind::Session, protocol: Some(Protocol::Ssh), policy_hash: [0; 32] };

/// A sound vault, with what an auditor kept beside it.
struct Sound {
    vault: Exported,
    kept: PathBuf,
    slips: Vec<String>,
}

fn record_session(recorder: &Recorder, noise: &mut Noise, len: u64) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let session = recorder.open_session(SPEC, Vec::new()).await.unwrap();
        let mut left = len;
        while left > 0 {
            let part = left.min(1_000 + noise.below(2_000));
            left -= part;
            let typed = session.record(Side::Client, Event::stream(ssh_in::TYPE, 0, Bytes::from_static(b"ls\r")));
            drop(typed.receipt().await.unwrap().into_bytes());
            let shown = Event::stream(ssh_out::TYPE, 0, noise.chunk(part as usize).into());
            drop(session.record(Side::Target, shown).receipt().await.unwrap().into_bytes());
            if noise.below(4) == 0 {
                session.slip().await.unwrap();
            }
        }
        session.close(CloseReason::Client, Some(0)).await.unwrap().to_string()
    })
}

/// A vault of four sessions and two control transcripts, of two starts of the node.
fn sound() -> Sound {
    let world = World::new(Durability::Causal);
    let (disk, mut noise) = (world.disk(), Noise::new(1));
    let mut slips = Vec::new();
    for _ in 0..2 {
        let recorder = world.start(&disk).unwrap();
        for _ in 0..2 {
            slips.push(record_session(&recorder, &mut noise, VAULT_LEN / 5));
        }
        recorder.shutdown();
    }
    let vault = world.export(&disk);
    let kept = vault.beside("kept.note");
    std::fs::copy(vault.newest_checkpoint().unwrap(), &kept).unwrap();
    let sound = Sound { vault, kept, slips };
    let len: u64 = sound.segments().iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!((VAULT_LEN * 3 / 4..VAULT_LEN * 5 / 4).contains(&len), "{len} bytes");
    let verdict = sound.verify();
    assert_eq!((verdict.exit, &verdict.summary["clean"]), (0, &6.into()), "{}", verdict.summary);
    sound
}

impl Sound {
    fn segments(&self) -> Vec<PathBuf> {
        files(&self.vault.vault.join("v1/t"))
    }

    /// With the checkpoint that was kept.
    fn verify(&self) -> Verdict {
        self.vault.verify(vec![self.kept.clone()], Vec::new()).unwrap()
    }

    /// With nothing that was kept.
    fn verify_alone(&self) -> Verdict {
        self.vault.verify(Vec::new(), Vec::new()).unwrap()
    }

    /// With what shows a change of this file: a session needs an anchor to be clean, the log speaks for itself.
    fn verify_file(&self, path: &Path) -> Verdict {
        if is_segment(path) { self.verify() } else { self.verify_alone() }
    }

    /// Changes files, verifies, and puts them back.
    fn with<const N: usize>(&self, changes: [(&Path, Option<&[u8]>); N], look: impl FnOnce(Verdict)) {
        let sound = changes.map(|(path, bytes)| {
            let sound = std::fs::read(path).unwrap();
            match bytes {
                Some(bytes) => std::fs::write(path, bytes).unwrap(),
                None => std::fs::remove_file(path).unwrap(),
            }
            sound
        });
        let logs = changes.iter().any(|(path, _)| !is_segment(path));
        look(if logs { self.verify_alone() } else { self.verify() });
        for ((path, _), sound) in changes.iter().zip(sound) {
            std::fs::write(path, sound).unwrap();
        }
    }
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "seg")
}

fn session_of(segment: &Path) -> &str {
    segment.parent().unwrap().file_name().unwrap().to_str().unwrap()
}

/// Whether the verdict blames that session, and no other.
fn blames(verdict: &Verdict, session: &str) -> bool {
    let mut bad = verdict.sessions.iter().filter(|found| found["status"] != "clean");
    let one = bad.next().is_some_and(|found| found["session"] == session && found["reason"].is_string());
    one && bad.next().is_none()
}

/// Whether the verdict says what is wrong anywhere.
fn is_located(verdict: &Verdict) -> bool {
    let findings = verdict.summary["altered_findings"].as_array().unwrap();
    !findings.is_empty()
        || verdict.sessions.iter().any(|found| found["status"] != "clean" && found["reason"].is_string())
}

/// Prints how often something was tried, and fails where that was too seldom to say anything.
fn report(what: &str, tries: u64, tries_min: u64) {
    assert!(tries >= tries_min, "{what}: tried {tries} times, {tries_min} at the least");
    eprintln!("{what}: all of {tries} found and located (95 % bound {:.6})", 3.0 / tries as f64);
}

#[test]
fn every_bit_of_a_vault_counts() {
    let sound = sound();
    let seed = fresh_seed();
    eprintln!("CASEMATE_SEED={seed}");
    let mut noise = Noise::new(seed);
    let mut tries = 0;
    for path in files(&sound.vault.vault) {
        let mut bytes = std::fs::read(&path).unwrap();
        // Every bit in `make soak`; in `make test` one bit of one byte in sixteen, another one in each run.
        let (stride, bits) = pick((16, 1), (1, 8));
        let mut at = noise.below(stride) as usize;
        while at < bytes.len() {
            for bit in 0..bits {
                let flip = 1u8 << if bits == 1 { noise.below(8) } else { bit };
                bytes[at] ^= flip;
                std::fs::write(&path, &bytes).unwrap();
                let verdict = sound.verify_file(&path);
                tries += 1;
                let found = verdict.exit == 1
                    && if is_segment(&path) { blames(&verdict, session_of(&path)) } else { is_located(&verdict) };
                assert!(found, "{} byte {at} ^ {flip:#x}: {} {:#?}", path.display(), verdict.summary, verdict.sessions);
                bytes[at] ^= flip;
            }
            at += stride as usize;
        }
        std::fs::write(&path, &bytes).unwrap();
    }
    report("flipped bits", tries, pick(2000, 500_000));
    assert_eq!(sound.verify().exit, 0);
}

#[test]
fn every_truncation_is_found() {
    let sound = sound();
    let mut noise = Noise::new(fresh_seed());
    let mut tries = 0;
    for path in files(&sound.vault.vault) {
        let bytes = std::fs::read(&path).unwrap();
        let stride = pick(32, 1);
        let cuts = (noise.below(stride)..bytes.len() as u64).step_by(stride as usize);
        for cut in cuts.chain([0, bytes.len() as u64 - 1]) {
            sound.with([(path.as_path(), Some(&bytes[..cut as usize]))], |verdict| {
                tries += 1;
                assert!(verdict.exit == 1 && is_located(&verdict), "{} cut at {cut}", path.display());
            });
        }
        let longer = [bytes.as_slice(), b"\0"].concat();
        sound.with([(path.as_path(), Some(&longer))], |verdict| {
            tries += 1;
            assert!(verdict.exit == 1 && is_located(&verdict), "{} with a byte more", path.display());
        });
    }
    report("truncations", tries, pick(1000, 50_000));
}

/// The ranges of the blocks in a segment.
fn blocks(segment: &[u8]) -> Vec<std::ops::Range<usize>> {
    let (mut out, mut at) = (Vec::new(), 0);
    while let Ok(block) = Block::parse(&segment[at..]) {
        out.push(at..at + block.raw.len());
        at += block.raw.len();
    }
    out
}

#[test]
fn no_block_can_be_dropped_doubled_or_moved() {
    let sound = sound();
    let segments = sound.segments();
    let mut tries = 0;
    let mut try_it = |path: &Path, forged: &[u8], what: &str| {
        sound.with([(path, Some(forged))], |verdict| {
            tries += 1;
            assert!(verdict.exit == 1 && blames(&verdict, session_of(path)), "{what} in {}", path.display());
        });
    };
    for (path, other) in segments.iter().zip(segments.iter().cycle().skip(1)) {
        let bytes = std::fs::read(path).unwrap();
        let stranger = std::fs::read(other).unwrap();
        let (ranges, strange) = (blocks(&bytes), blocks(&stranger));
        for (number, range) in ranges.iter().enumerate() {
            let (before, block, after) = (&bytes[..range.start], &bytes[range.clone()], &bytes[range.end..]);
            try_it(path, &[before, after].concat(), "a block dropped");
            try_it(path, &[before, block, block, after].concat(), "a block doubled");
            if let Some(next) = ranges.get(number + 1) {
                let (next, after) = (&bytes[next.clone()], &bytes[next.end..]);
                try_it(path, &[before, next, block, after].concat(), "two blocks swapped");
            }
            // From here on the other session.
            if let Some(other) = strange.get(number) {
                try_it(path, &[before, &stranger[other.start..]].concat(), "two sessions spliced");
                try_it(path, &[before, &stranger[other.clone()], after].concat(), "a block of another session");
            }
        }
    }
    report("blocks dropped, doubled, swapped and spliced", tries, 100);
}

#[test]
fn segments_cannot_change_places() {
    let sound = sound();
    let segments = sound.segments();
    let mut tries = 0;
    for (number, one) in segments.iter().enumerate() {
        for other in &segments[number + 1..] {
            let (a, b) = (std::fs::read(one).unwrap(), std::fs::read(other).unwrap());
            sound.with([(one.as_path(), Some(&b)), (other.as_path(), Some(&a))], |verdict| {
                tries += 1;
                let bad: Vec<_> = verdict.sessions.iter().filter(|found| found["status"] == "altered").collect();
                assert_eq!((verdict.exit, bad.len()), (1, 2), "{} and {}", one.display(), other.display());
            });
            sound.with([(one.as_path(), Some(&b))], |verdict| {
                tries += 1;
                assert!(verdict.exit == 1 && blames(&verdict, session_of(one)), "{}", one.display());
            });
        }
    }
    report("segments in each other's place", tries, 30);
}

/// Copies the files of one vault over another directory, which is emptied first.
fn replace(vault: &Path, with: &BTreeMap<PathBuf, Vec<u8>>) {
    std::fs::remove_dir_all(vault).unwrap();
    std::fs::create_dir_all(vault).unwrap();
    for (name, bytes) in with {
        let path = vault.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

fn content(vault: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let named = |path: PathBuf| (path.strip_prefix(vault).unwrap().to_owned(), std::fs::read(&path).unwrap());
    files(vault).into_iter().map(named).collect()
}

/// What somebody sees who kept nothing, a checkpoint, or the slip of the last session.
fn judge(now: &Exported, kept: &Path, slip: &str, what: &str) -> u64 {
    let alone = now.verify(Vec::new(), Vec::new()).unwrap();
    assert_eq!(alone.exit, 4, "{what}, and nothing was kept: {}", alone.summary);
    for (checkpoints, slips) in [(vec![kept.to_owned()], Vec::new()), (Vec::new(), vec![slip.to_owned()])] {
        let verdict = now.verify(checkpoints, slips).unwrap();
        assert!(verdict.exit == 1 && is_located(&verdict), "{what}: {}", verdict.summary);
    }
    3
}

#[test]
fn what_is_taken_from_the_end_shows_to_whoever_kept_something() {
    let sound = sound();
    let world = World::new(Durability::Causal);
    let (disk, mut noise) = (world.disk(), Noise::new(2));
    let mut tries = 0;

    let recorder = world.start(&disk).unwrap();
    record_session(&recorder, &mut noise, 3_000);
    recorder.shutdown();
    drop(recorder);
    disk.keep_states();
    let recorder = world.start(&disk).unwrap();
    let slip = record_session(&recorder, &mut noise, 3_000);
    recorder.shutdown();
    let now = world.export(&disk);
    let kept = now.beside("kept.note");
    std::fs::copy(now.newest_checkpoint().unwrap(), &kept).unwrap();
    assert_eq!(now.verify(vec![kept.clone()], vec![slip.clone()]).unwrap().exit, 0);

    // The vault as it was before its last session, and at moments since then: the newest entries and segments are gone.
    let (states, trace) = (disk.states(), disk.trace());
    let published = states.iter().filter(|state| {
        let last = state.operations().checked_sub(1).map(|last| &trace[last as usize]);
        let note = last.is_some_and(|last| last.path.extension().is_some_and(|end| end == "note"));
        last.is_some_and(|last| note && last.call == Call::Rename)
    });
    let published: Vec<_> = states.first().into_iter().chain(published).collect();
    // The last of them holds all of the log that there ever was.
    let (_, earlier) = published.split_last().unwrap();
    assert!(!earlier.is_empty());
    for state in earlier.iter().take(pick(2, usize::MAX)) {
        let then = world.export(&state.kill());
        replace(&now.vault, &content(&then.vault));
        tries += judge(&now, &kept, &slip, "the vault was rolled back");
    }

    // A node of the same name that began anew, with the node's own key.
    replace(&now.vault, &content(&sound.vault.vault));
    tries += judge(&now, &kept, &slip, "another log under the node's name");
    report("rollbacks", tries, 9);
}

#[test]
fn files_that_are_gone_are_missed() {
    let sound = sound();
    let mut tries = 0;
    for path in files(&sound.vault.vault) {
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let newest = sound.vault.newest_checkpoint();
        // As kept, as found, and by what somebody has who closed the last session.
        for verdict in [
            sound.vault.verify(newest.into_iter().collect(), vec![sound.slips.last().unwrap().clone()]).unwrap(),
            sound.verify_alone(),
        ] {
            tries += 1;
            let name = path.to_str().unwrap();
            let is_redundant = name.ends_with(".note") || name.contains("/tile/") && !name.contains("/tile/entries/");
            // Within the hour a segment may still be on its way. A checkpoint is one of many, and hashes follow from the
            // entries.
            let allowed: &[u8] = if is_segment(&path) {
                &[1, 3, 4]
            } else if is_redundant {
                &[0, 1, 4]
            } else {
                &[1]
            };
            assert!(allowed.contains(&verdict.exit), "{}: {}", path.display(), verdict.summary);
        }
        std::fs::write(&path, bytes).unwrap();
    }
    std::fs::remove_dir_all(sound.vault.vault.join("v1/log")).unwrap();
    assert_eq!(sound.verify().exit, 1);
    assert_eq!(sound.verify_alone().exit, 1, "segments that no log opens");
    report("files removed", tries, 20);
}
