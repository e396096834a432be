//! Vectors of sessions that are not here, and for which the log has an excuse: stored elsewhere, or retired. The log is the
//! node's own, so it is written anew with the node's key, and the checkpoint that the auditor holds is the one over that.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use casemate_certs::trust::{Authority, HOLD_NAMESPACE, Officer, OfficerKey, Period};
use casemate_recorder::SessionId;
use casemate_recorder::log::leaf::{Heartbeat, Leaf, LegalHold, Retired, Stored};
use casemate_tests::forge::{encode, entries, fork, leaves};
use casemate_tests::keys;
use casemate_tests::process::{nothing, run};

use crate::Sounds;
use crate::desk::{Case, Desk};
use crate::plain::edit_trust;
use crate::record::{HOUR_US, Shelf, Sound};

/// Longer than sessions are kept: 401 days.
const KEPT_US: u64 = 401 * 24 * HOUR_US;

/// 2026-12-01T08:00:00Z and the day after: orders about a hold.
const SET: &str = "2026-12-01T08:00:00Z";
const LIFTED: &str = "2026-12-02T08:00:00Z";

/// All of them.
pub(crate) fn excuses(shelf: &Shelf, sounds: &Sounds) -> Result<()> {
    stored(shelf, &sounds.three)?;
    retired(shelf, &sounds.three)?;
    held(shelf, &sounds.three)
}

fn stored(shelf: &Shelf, three: &Sound) -> Result<()> {
    let case = |name, what: &str| Case::new(shelf, three, name, what);
    let told = |desk: &Desk, change: &dyn Fn(&mut Stored)| {
        let id = desk.id(0)?.parse()?;
        rewrite(desk, |all| {
            let mut leaf = stored_leaf(all, id).context("a segment")?;
            change(&mut leaf);
            all.push(Leaf::Stored(leaf));
            Ok(())
        })
    };
    case("stored-and-here", "a segment is in another vault, and still here").make(|desk| told(desk, &|_| ()))?;
    case("stored-and-not-here", "a segment of hours ago is in another vault, and not here")
        .exceptions()
        .status(0, "pending")
        .make(|desk| {
            told(desk, &|_| ())?;
            desk.remove(&desk.segment(0, 0)?)
        })?;
    case("stored-and-another-not-here", "a segment is in another vault, and that of another session is gone")
        .altered()
        .status(0, "pending")
        .status(1, "missing")
        .make(|desk| {
            told(desk, &|stored| stored.wall_us += 5 * HOUR_US)?;
            desk.remove(&desk.segment(0, 0)?)?;
            desk.remove(&desk.segment(1, 0)?)
        })?;
    case("stored-with-another-sha256", "STORED names another file than SEGMENT").altered().make(|desk| {
        told(desk, &|stored| stored.sha256 = [1; 32])?;
        desk.remove(&desk.segment(0, 0)?)
    })?;
    case("stored-and-never-logged", "STORED names a segment that no SEGMENT leaf names")
        .altered()
        .make(|desk| told(desk, &|stored| stored.segment_no = 1))?;
    case("stored-ill-shaped", "a STORED leaf that names nothing").altered().make(|desk| {
        let mut all = entries(desk.dir())?;
        all.push(vec![0xa1, 0x00, 0x07]);
        fork(desk.dir(), &all)
    })
}

fn retired(shelf: &Shelf, three: &Sound) -> Result<()> {
    let case = |name, what: &str| Case::new(shelf, three, name, what);
    case("retired-in-time", "a session was deleted, and an anchor shows that its time was over")
        .later(KEPT_US)
        .exceptions()
        .status(0, "retired")
        .make(|desk| retire(desk, KEPT_US, Vec::new()))?;
    case("retired-too-early", "a session was deleted, and nothing shows that its time was over")
        .later(KEPT_US)
        .altered()
        .status(0, "missing")
        .make(|desk| retire(desk, HOUR_US, Vec::new()))?;
    case("retired-by-a-clock-that-ran-ahead", "the only time that has passed is one that has not come yet")
        .altered()
        .status(0, "missing")
        .make(|desk| retire(desk, KEPT_US, Vec::new()))?;
    case("retired-before-it-ended", "RETIRED of a session that never was").altered().make(|desk| {
        rewrite(desk, |all| {
            let wall_us = all.iter().filter_map(Leaf::wall_us).max().unwrap_or(0);
            all.push(Leaf::Retired(Retired { session: SessionId([1; 16]), wall_us }));
            Ok(())
        })
    })
}

fn held(shelf: &Shelf, three: &Sound) -> Result<()> {
    let case = |name, what: &str| Case::new(shelf, three, name, what).later(KEPT_US);
    let desk_keys = tempfile::tempdir()?;
    let second = desk_keys.path().join("second");
    keys::make(&second, "ed25519")?;
    let held = |desk: &Desk, verb: &str, time: &str, officers: &[&Path]| {
        add_officer(desk, &second)?;
        let set = hold(desk, true, "set", SET, &[])?;
        let lift = hold(desk, false, verb, time, officers)?;
        retire(desk, KEPT_US, vec![set, lift])
    };
    let both = [three.officer.as_path(), second.as_path()];
    case("retired-after-a-hold", "two officers lifted the hold before the session was deleted")
        .exceptions()
        .status(0, "retired")
        .make(|desk| held(desk, "lift", LIFTED, &both))?;
    let refused = |name, what: &str| case(name, what).altered().status(0, "missing");
    refused("retired-under-a-hold", "a session was deleted while it had to be kept").make(|desk| {
        let set = hold(desk, true, "set", SET, &[])?;
        retire(desk, KEPT_US, vec![set])
    })?;
    refused("hold-lifted-by-one", "one officer lifted the hold, twice")
        .make(|desk| held(desk, "lift", LIFTED, &[both[0], both[0]]))?;
    refused("hold-lifted-before-it-was-set", "the order that lifts the hold is older than it")
        .make(|desk| held(desk, "lift", "2026-11-30T08:00:00Z", &both))?;
    refused("hold-lifted-by-another-order", "the order that lifts the hold sets one")
        .make(|desk| held(desk, "set", LIFTED, &both))
}

/// Writes the log anew with other leaves; the auditor's checkpoint is over them.
fn rewrite(desk: &Desk, change: impl FnOnce(&mut Vec<Leaf>) -> Result<()>) -> Result<()> {
    let mut all = leaves(desk.dir())?;
    change(&mut all)?;
    fork(desk.dir(), &encode(&all)?)
}

/// What the node would say of a segment that it has put into a bucket.
fn stored_leaf(all: &[Leaf], id: SessionId) -> Option<Stored> {
    all.iter().find_map(|leaf| match leaf {
        Leaf::Segment(segment) if segment.session == id => Some(Stored {
            session: id,
            segment_no: segment.segment_no,
            vault: "elsewhere".to_owned(),
            version: "3sL4kqtJlcpXroDTDmJ.rmSpXd3dIbrHY".to_owned(),
            sha256: segment.sha256,
            mode: 1,
            retain_until_us: segment.wall_us + KEPT_US,
            wall_us: segment.wall_us,
        }),
        _ => None,
    })
}

/// Deletes the first session, and has the log say so behind a sign of life that is as much later.
fn retire(desk: &Desk, later_us: u64, holds: Vec<LegalHold>) -> Result<()> {
    let session = desk.id(0)?.parse()?;
    rewrite(desk, |all| {
        let wall_us = all.iter().filter_map(Leaf::wall_us).max().unwrap_or(0) + later_us - HOUR_US / 2;
        let boot = all.iter().find_map(|leaf| if let Leaf::Boot(boot) = leaf { Some(boot.clone()) } else { None });
        let boot = boot.context("a start")?;
        let mono_us = boot.mono_us + later_us;
        all.extend(holds.into_iter().map(Leaf::LegalHold));
        all.push(Leaf::Heartbeat(Heartbeat { boot_id: boot.boot_id, wall_us, mono_us, open: 0 }));
        all.push(Leaf::Retired(Retired { session, wall_us }));
        Ok(())
    })?;
    desk.remove(&desk.segment(0, 0)?)
}

/// Makes a leaf about a hold on the first session, with an order that these officers signed.
fn hold(desk: &Desk, set: bool, verb: &str, time: &str, officers: &[&Path]) -> Result<LegalHold> {
    let session = desk.id(0)?;
    let order = format!("{HOLD_NAMESPACE} {verb} {session} {time}\n");
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("order");
    let mut signatures = String::new();
    for officer in officers {
        std::fs::write(&file, &order)?;
        let mut sign = Command::new("ssh-keygen");
        sign.args(["-q", "-Y", "sign", "-n", HOLD_NAMESPACE, "-f"]).arg(officer).arg(&file);
        run(&mut sign, nothing(), Duration::from_secs(60))?.ok()?;
        signatures += &std::fs::read_to_string(file.with_extension("sig"))?;
        std::fs::remove_file(file.with_extension("sig"))?;
    }
    let wall_us = leaves(desk.dir())?.iter().filter_map(Leaf::wall_us).max().unwrap_or(0);
    Ok(LegalHold { session: session.parse()?, set, order, signatures, wall_us })
}

/// Lists a second officer in the trust file.
fn add_officer(desk: &Desk, key: &Path) -> Result<()> {
    let key = OfficerKey::parse(&keys::public_line(key)?)?;
    edit_trust(desk, |trust| {
        if let Authority::Officers(board) = &mut trust.authority {
            let period = board.officers.first().map_or(Period::ALWAYS, |first| first.period);
            board.officers.push(Officer { name: "Grace Hopper".to_owned(), key, period });
        }
    })
}
