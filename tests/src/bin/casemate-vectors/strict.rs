//! Vectors of insiders again: leaves in another spelling, or that say less than they must. And beside each, what is no finding.

use anyhow::{Context, Result};
use casemate_certs::trust::{Period, TrustedNode};
use casemate_recorder::SessionId;
use casemate_recorder::log::leaf::{Boot, Leaf, Segment};
use casemate_tests::forge::{encode, entries, fork, leaves, node_key};

use crate::Sounds;
use crate::desk::{Case, Desk};
use crate::plain::edit_trust;
use crate::record::{HOUR_US, Shelf, trust};

/// All of them.
pub(crate) fn leaves_of_insiders(shelf: &Shelf, sounds: &Sounds) -> Result<()> {
    let Sounds { three, long, .. } = sounds;
    let case = |name, what: &str| Case::new(shelf, three, name, what);
    let period = Period { from_us: 0, until_us: Some(HOUR_US) };
    let earlier = trust(&[("node-1", node_key("node-5"))], &three.officer)?.nodes;
    let earlier: Vec<_> = earlier.into_iter().map(|node| TrustedNode { period, ..node }).collect();
    case("log-that-begins-with-an-unknown-leaf", "the log begins with no start; a key of the node ended before it")
        .altered()
        .make(|desk| {
            edit_trust(desk, |trust| trust.nodes.extend(earlier.clone()))?;
            // {0: 200}
            insert(desk, |_| 0, vec![0xa1, 0x00, 0x18, 200])
        })?;
    case("leaf-in-another-spelling", "the type of a leaf takes two bytes where one is enough").altered().make(
        |desk| {
            heartbeat(desk, |entry| {
                entry.splice(2..3, [0x18, 1]);
            })
        },
    )?;
    case("leaf-with-a-key-of-a-later-version", "a leaf has a key more than this version knows").make(|desk| {
        heartbeat(desk, |entry| {
            entry.splice(0..1, [0xa6]);
            entry.extend([0x17, 0x42, 1, 2]);
        })
    })?;
    let again = |desk: &Desk, change: fn(&mut Segment)| {
        let (id, mut all) = (desk.id(1)?.parse::<SessionId>()?, leaves(desk.dir())?);
        let at = all.iter().position(|leaf| matches!(leaf, Leaf::Segment(segment) if segment.session == id));
        let at = at.context("a segment")?;
        let Some(Leaf::Segment(mut segment)) = all.get(at).cloned() else { return Ok(()) };
        segment.wall_us += 1;
        change(&mut segment);
        all.insert(at + 1, Leaf::Segment(segment));
        fork(desk.dir(), &encode(&all)?)
    };
    case("segment-leaf-twice", "a segment is logged again, with nothing changed but the time")
        .make(|desk| again(desk, |_| ()))?;
    case("segment-leaf-twice-with-other-blocks", "a segment is logged again, and begins at another block")
        .altered()
        .make(|desk| again(desk, |segment| segment.first_block += 1))?;
    case("close-leaf-lists-no-segment", "CLOSE counts a segment and lists none")
        .altered()
        .status(1, "altered")
        .make(|desk| end(desk, 1, false, 0))?;
    Case::new(shelf, long, "close-leaf-lists-the-last-segment", "CLOSE lists the last segment of several")
        .altered()
        .status(0, "altered")
        .make(|desk| end(desk, 0, false, 1))?;
    Case::new(shelf, long, "close-leaf-by-a-later-start", "the start that logs the end lists what it finished itself")
        .status(0, "clean")
        .make(|desk| end(desk, 0, true, 1))
}

/// Puts an entry into the log.
fn insert(desk: &Desk, at: impl FnOnce(usize) -> usize, entry: Vec<u8>) -> Result<()> {
    let mut all = entries(desk.dir())?;
    all.insert(at(all.len()), entry);
    fork(desk.dir(), &all)
}

/// Edits the last sign of life as it is written.
fn heartbeat(desk: &Desk, change: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
    let mut all = entries(desk.dir())?;
    let found = all.iter_mut().rfind(|entry| matches!(Leaf::decode(entry), Ok(Leaf::Heartbeat(_))));
    change(found.context("a heartbeat")?);
    fork(desk.dir(), &all)
}

/// Has CLOSE list so many segments, the last; behind a start, where one is asked for.
fn end(desk: &Desk, session: usize, behind_a_start: bool, listed: usize) -> Result<()> {
    let (id, mut all) = (desk.id(session)?.parse::<SessionId>()?, leaves(desk.dir())?);
    let boot = all.iter().find_map(|leaf| if let Leaf::Boot(boot) = leaf { Some(boot.clone()) } else { None });
    let at = all.iter().position(|leaf| matches!(leaf, Leaf::Close(close) if close.session == id));
    let at = at.context("an end")?;
    if let Some(Leaf::Close(close)) = all.get_mut(at) {
        close.segments.drain(..close.segments.len().saturating_sub(listed));
    }
    if behind_a_start {
        all.insert(at, Leaf::Boot(Boot { boot_id: [1; 16], previous_size: at as u64, ..boot.context("a start")? }));
    }
    fork(desk.dir(), &encode(&all)?)
}
