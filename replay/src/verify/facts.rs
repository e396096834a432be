//! What the segments of a session say together, once each has been checked by itself.

use std::collections::BTreeMap;

use casemate_recorder::transcript::block::Link;

use super::earlier::{Known, Versions};
use super::numbers::Numbers;
use super::session::{Outcome, Plan, total};

/// What the segments of a session say together.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) plan: Plan,
    /// Why the session is not what was recorded.
    pub(super) altered: Option<String>,
    /// Segments that the log names and the vault lacks, and how old the log was when it named each, in microseconds.
    pub(super) absent: Vec<(u32, u64)>,
    /// Why it cannot be read.
    pub(super) unreadable: Option<String>,
    pub(super) events: u64,
    pub(super) blocks: u64,
    pub(super) bytes: u64,
    pub(super) stream_bytes: Option<u64>,
    /// How long the session lasted by its own clock, in microseconds.
    pub(super) length_us: u64,
    /// Which versions its segments are, of a session that has ended, in a bucket.
    pub(super) versions: Option<Versions>,
    /// When it was read, where that was in an earlier run, in microseconds since 1970.
    pub(super) rests_us: Option<u64>,
}

impl Facts {
    /// Takes over what an earlier run counted, where nothing was read now that it could differ from.
    fn rest_on(&mut self, known: &Known, outcomes: &[Outcome]) {
        if outcomes.iter().any(|outcome| !matches!(outcome, Outcome::Rests(_))) {
            return;
        }
        let Known { read_us, events, stream_bytes, length_us, .. } = *known;
        (self.events, self.stream_bytes, self.length_us) = (events, stream_bytes, length_us);
        self.blocks = self.plan.end.as_ref().map_or(0, |end| end.close.last_block.saturating_add(1));
        self.rests_us = Some(read_us);
    }
}

/// Fits the segments of a session together; what an earlier run knew goes for those that were not read now.
pub(super) fn conclude(plan: Plan, outcomes: Vec<Outcome>, known: Option<&Known>) -> Facts {
    let mut facts = Facts {
        altered: plan.problem.clone(),
        absent: Vec::new(),
        unreadable: None,
        events: 0,
        blocks: 0,
        bytes: 0,
        stream_bytes: None,
        length_us: 0,
        versions: None,
        rests_us: None,
        plan,
    };
    if let Some(known) = known {
        facts.rest_on(known, &outcomes);
    }
    let mut blame: Option<String> = None;
    // Where the next segment has to begin; unknown behind one that is absent.
    let mut expected: Option<(u64, Link, [u64; 3])> = Some((0, Link::ZERO, [0; 3]));
    let mut ended = false;
    // Of all events, as long as every segment was read.
    let mut numbers = Some(Numbers::default());
    for (no, outcome) in (0u32..).zip(outcomes) {
        match outcome {
            Outcome::Sound(sound) => {
                let begins = (sound.first_block, sound.prev, sound.events_before);
                if ended {
                    blame.get_or_insert_with(|| format!("segment {no} follows the end of the transcript"));
                } else if expected.is_some_and(|expected| expected != begins) {
                    blame.get_or_insert_with(|| format!("segment {no} does not follow the one before it"));
                }
                numbers = numbers.zip(sound.numbers.as_ref()).map(|(mut numbers, read)| {
                    if !numbers.merge(read) {
                        blame.get_or_insert_with(|| format!("segment {no} has an event that was there before"));
                    }
                    numbers
                });
                ended = sound.ended;
                expected = Some((sound.next_block, sound.last_link, sound.events_after));
                facts.blocks = sound.next_block;
                facts.events = total(sound.events_after);
                facts.bytes = facts.bytes.saturating_add(sound.bytes);
                facts.stream_bytes = sound.stream_bytes;
                facts.length_us = facts.length_us.max(sound.last_mono_us);
            }
            Outcome::Rests(bytes) => {
                facts.bytes = facts.bytes.saturating_add(bytes);
                expected = None;
            }
            Outcome::Absent => {
                let age_us = facts.plan.segments.get(&no).map_or(0, |segment| segment.age_us);
                facts.absent.push((no, age_us));
                expected = None;
            }
            Outcome::Altered(what) => {
                blame.get_or_insert(what);
                expected = None;
            }
            Outcome::Unreadable(what) => {
                facts.unreadable.get_or_insert(what);
                expected = None;
            }
        }
    }
    if let Some(end) = &facts.plan.end
        && let Some((next_block, _, _)) = expected
    {
        let beyond = facts.plan.heads.last().filter(|head| head.block_no >= next_block);
        if !ended {
            blame.get_or_insert_with(|| "the log closes the session, and its transcript has no end".to_owned());
        } else if end.close.last_block.checked_add(1) != Some(next_block) {
            blame.get_or_insert_with(|| "the log closes the session at another block".to_owned());
        } else if let Some(head) = beyond {
            let (seen, last) = (head.block_no, next_block.saturating_sub(1));
            blame.get_or_insert_with(|| format!("the log saw block {seen}, and the transcript ends at block {last}"));
        }
    }
    // A transcript that goes on may hold newer events of one lane while older ones of another are still on the way.
    let whole = ended && facts.absent.is_empty() && facts.unreadable.is_none() && blame.is_none();
    if let Some(numbers) = numbers.filter(|numbers| whole && !numbers.is_dense()) {
        blame = Some(format!("event {} of the session is missing", numbers.first_hole()));
    }
    let unknown = facts.plan.present.iter().find(|no| !facts.plan.segments.contains_key(no));
    if let Some(no) = unknown {
        blame.get_or_insert_with(|| format!("segment {no} is in the vault, and the log does not name it"));
    }
    facts.altered = facts.altered.or(blame);
    // What is not reported goes, so that memory does not grow with the length of sessions.
    facts.plan.heads = Vec::new();
    facts.plan.segments = BTreeMap::new();
    facts.plan.present = Vec::new();
    if let Some(end) = &mut facts.plan.end {
        end.close.segments = Vec::new();
    }
    facts
}
