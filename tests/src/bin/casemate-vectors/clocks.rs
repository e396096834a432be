//! Vectors of clocks that ran ahead or were set back. The log is written anew with the node's key, and the checkpoint that the
//! auditor holds is the one over that: what the clocks of the leaves say is the node's own word.

use std::time::Duration;

use anyhow::{Context, Result};
use casemate_recorder::log::leaf::{Heartbeat, Leaf};
use casemate_tests::forge::{encode, fork, leaves};

use crate::Sounds;
use crate::desk::{Case, Desk};
use crate::plain::edit_trust;
use crate::record::{HOUR_US, Shelf};

const DAY_US: u64 = 24 * HOUR_US;

/// All of them.
pub(crate) fn clocks(shelf: &Shelf, sounds: &Sounds) -> Result<()> {
    let Sounds { three, live, .. } = sounds;
    let case = |name, what: &str| Case::new(shelf, three, name, what);
    let a_day = |desk: &Desk| edit_trust(desk, |trust| trust.anchor_age_max = Some(Duration::from_micros(DAY_US)));
    case("anchor-of-the-future", "the newest leaf under the anchor is dated 30 days ahead, and a day is allowed")
        .later(2 * DAY_US)
        .undecided()
        .make(|desk| {
            a_day(desk)?;
            heartbeats(desk, None, &[(30 * DAY_US, 0)])
        })?;
    case(
        "anchor-after-a-clock-that-ran-ahead",
        "an earlier leaf is dated 30 days ahead, and the anchor is young enough",
    )
    .later(23 * HOUR_US)
    .make(|desk| {
        a_day(desk)?;
        heartbeats(desk, Some(1), &[(30 * DAY_US, 0)])
    })?;
    case(
        "anchor-too-old-after-a-clock-that-ran-ahead",
        "an earlier leaf is dated 30 days ahead, the newest is too old",
    )
    .later(25 * HOUR_US)
    .undecided()
    .make(|desk| {
        a_day(desk)?;
        heartbeats(desk, Some(1), &[(30 * DAY_US, 0)])
    })?;
    Case::new(shelf, live, "open-by-a-clock-that-runs-ahead", "the newest sign of life is dated an hour ahead")
        .later(HOUR_US)
        .exceptions()
        .status(1, "open")
        .make(|desk| heartbeats(desk, None, &[(2 * HOUR_US, 0)]))?;
    let absent = |name, what: &str| case(name, what).exceptions().status(2, "pending");
    absent("pending-after-a-clock-that-ran-ahead", "logged within the hour, after a clock ran two hours ahead").make(
        |desk| {
            heartbeats(desk, Some(1), &[(5 * HOUR_US, 0)])?;
            desk.remove(&desk.segment(2, 0)?)
        },
    )?;
    absent("pending-before-a-clock-ran-ahead", "logged within the hour, and then a clock ran two hours ahead").make(
        |desk| {
            heartbeats(desk, None, &[(2 * HOUR_US, 0)])?;
            desk.remove(&desk.segment(2, 0)?)
        },
    )?;
    case("missing-although-a-clock-was-set-back", "logged two hours ago, after which the wall clock was set back")
        .altered()
        .status(2, "missing")
        .make(|desk| {
            heartbeats(desk, None, &[(2 * HOUR_US, 2 * HOUR_US), (0, 2 * HOUR_US)])?;
            desk.remove(&desk.segment(2, 0)?)
        })
}

/// Adds signs of life before a leaf, or at the end, whose clocks went on so far since the newest leaf before them: the wall clock,
/// and that of the machine.
fn heartbeats(desk: &Desk, before: Option<usize>, went_us: &[(u64, u64)]) -> Result<()> {
    let mut all = leaves(desk.dir())?;
    let at = before.unwrap_or(all.len());
    let earlier = || all.iter().take(at).rev();
    let wall_us = earlier().find_map(Leaf::wall_us).context("a leaf with a time")?;
    let clock = |leaf: &Leaf| match leaf {
        Leaf::Boot(boot) => Some((boot.boot_id, boot.mono_us)),
        Leaf::Heartbeat(heartbeat) => Some((heartbeat.boot_id, heartbeat.mono_us)),
        _ => None,
    };
    let (boot_id, mono_us) = earlier().find_map(clock).context("a start")?;
    let signs = went_us.iter().map(|(wall, mono)| {
        Leaf::Heartbeat(Heartbeat { boot_id, wall_us: wall_us + wall, mono_us: mono_us + mono, open: 0 })
    });
    let signs: Vec<_> = signs.collect();
    all.splice(at..at, signs);
    fork(desk.dir(), &encode(&all)?)
}
