//! Vectors of attackers who know the format: links computed anew, keys of their own, rolled-back and forked logs.

use anyhow::{Context, Result};
use casemate_certs::vkey::NodePublicKey;
use casemate_recorder::SessionId;
use casemate_recorder::log::leaf::Leaf;
use casemate_recorder::log::note::Note;
use casemate_recorder::log::slip::Slip;
use casemate_tests::forge::{
    Raw, admit, blocks, encode, entries, leaves, node_key, rechain, replace_key, set, write_log,
};
use ed25519_dalek::SigningKey;

use crate::Sounds;
use crate::desk::{Case, Desk};
use crate::plain::{edit_trust, swap_root};
use crate::record::{HOUR_US, Shelf};

/// Transcripts are changed so that every link fits again.
pub(crate) fn transcripts(shelf: &Shelf, sounds: &Sounds) -> Result<()> {
    let Sounds { three, recovered, .. } = sounds;
    let case = |sound, name, what: &str| Case::new(shelf, sound, name, what).altered().status(1, "altered");
    let own = SigningKey::from_bytes(&[9; 32]);
    case(three, "block-edited-and-relinked", "a payload is changed, all links and the index are computed anew")
        .make(|desk| relink(desk, None, |all| with(all, 2, flip_last)))?;
    case(three, "block-removed-and-relinked", "a block is gone, all numbers and links are computed anew")
        .make(|desk| relink(desk, None, |all| drop(all.remove(2))))?;
    case(three, "block-doubled-and-relinked", "a block is there twice, all links are computed anew").make(|desk| {
        relink(desk, None, |all| {
            let twin = all.get(2).cloned();
            all.splice(2..2, twin);
        })
    })?;
    case(three, "blocks-reordered-and-relinked", "two blocks changed places, all links are computed anew")
        .make(|desk| relink(desk, None, |all| all.swap(1, 2)))?;
    case(three, "clock-edited-and-relinked", "another wall clock in a header, all links are computed anew")
        .make(|desk| relink(desk, None, |all| with(all, 1, |block| set(block, 56, &[0; 8]))))?;
    case(three, "end-removed-and-relinked", "CLOSE is gone").make(|desk| {
        relink(desk, None, |all| {
            all.pop();
        })
    })?;
    case(three, "resealed-with-a-key-of-ones-own", "edited, relinked, and sealed by a key that the log does not name")
        .make(|desk| relink(desk, Some(&own), |all| with(all, 2, flip_last)))?;
    case(three, "session-key-replaced", "HEAD names the attacker's key, and every seal is by it").make(|desk| {
        relink(desk, Some(&own), |all| {
            with(all, 0, |head| replace_key(head, &leaves(desk.dir()).unwrap_or_default(), &own));
        })
    })?;
    case(recovered, "recovery-resealed", "RECOVERED is signed by a key that no BOOT vouches for")
        .make(|desk| relink(desk, Some(&own), |all| with(all, 1, flip_last)))?;
    case(three, "two-sessions-spliced", "blocks of one session in the transcript of another, all links computed anew")
        .make(|desk| {
            let other = blocks(&desk.read(&desk.segment(2, 0)?)?);
            let id: SessionId = desk.id(1)?.parse()?;
            relink(desk, None, |all| {
                let piece = other.get(1..3).unwrap_or_default().to_vec();
                all.splice(
                    1..3,
                    piece.into_iter().map(|mut block| {
                        set(&mut block, 16, &id.0);
                        block
                    }),
                );
            })
        })?;
    case(
        three,
        "log-entry-edited-to-fit",
        "a transcript is changed, and the log's entry with it, without the node's key",
    )
    .make(|desk| {
        relink(desk, None, |all| with(all, 2, flip_last))?;
        let entries = desk.tile("entries")?;
        let mut all = leaves(desk.dir())?;
        admit(&desk.read(&desk.segment(1, 0)?)?, desk.id(1)?.parse()?, &mut all);
        let mut bundle = Vec::new();
        for leaf in &all {
            casemate_recorder::log::tile::push_entry(&mut bundle, &leaf.encode()?)?;
        }
        desk.write(&entries, &bundle)
    })
}

/// The log is damaged, rolled back or begun anew.
pub(crate) fn logs(shelf: &Shelf, sounds: &Sounds) -> Result<()> {
    let Sounds { three, anew, twin, two, .. } = sounds;
    let case = |sound, name, what: &str| Case::new(shelf, sound, name, what).altered();
    case(three, "entry-bit-flipped", "one bit of an entry of the log")
        .make(|desk| desk.flip(&desk.tile("entries")?, 100))?;
    case(three, "entries-cut-short", "the last entries of a bundle are gone")
        .make(|desk| desk.edit(&desk.tile("entries")?, |bytes| bytes.truncate(bytes.len() / 2)))?;
    case(three, "entries-absent", "the bundle of the log is gone").make(|desk| desk.remove(&desk.tile("entries")?))?;
    case(three, "narrow-bundle-contradicts", "a narrower bundle that does not begin as the wide one").make(|desk| {
        let wide = desk.tile("entries")?;
        let other = leaves(desk.dir())?.get(1).context("a leaf")?.encode()?;
        let mut bundle = Vec::new();
        casemate_recorder::log::tile::push_entry(&mut bundle, &other)?;
        let dir = wide.rsplit_once('/').context("a directory")?.0;
        desk.write(&format!("{dir}/1"), &bundle)
    })?;
    case(three, "tile-bit-flipped", "one bit of a tile of hashes").make(|desk| desk.flip(&desk.tile("0")?, 40))?;
    case(three, "tile-cut-short", "a tile holds fewer hashes than its name says")
        .make(|desk| desk.edit(&desk.tile("0")?, |bytes| bytes.truncate(bytes.len() - 32)))?;
    case(three, "checkpoint-root-edited", "a checkpoint of the vault has another root")
        .make(|desk| desk.write(&desk.newest("node-1")?, &swap_root(&desk.read(&desk.newest("node-1")?)?)))?;
    case(three, "checkpoint-renamed", "a checkpoint lies under the name of another size").make(|desk| {
        let newest = desk.newest("node-1")?;
        let (dir, name) = newest.rsplit_once('/').context("a directory")?;
        desk.rename(&newest, &format!("{dir}/1-{}", name.split_once('-').context("a root")?.1))
    })?;
    case(three, "checkpoint-that-is-none", "a file that is named like a checkpoint")
        .make(|desk| desk.write("vault/v1/log/node-1/cp/2026-11-02/9-0123456789abcdef.note", b"nonsense"))?;
    case(two, "checkpoint-of-another-node", "a checkpoint of node-2 lies in the log of node-1")
        .anchor("--checkpoint", "kept-node-2.note")
        .make(|desk| {
            let (from, name) = (desk.newest("node-2")?, "vault/v1/log/node-1/cp/2026-11-02");
            desk.write(&format!("{name}/{}", from.rsplit('/').next().context("a name")?), &desk.read(&from)?)
        })?;
    case(anew, "kept-checkpoint-of-another-node", "the auditor kept a checkpoint of a node whose log is not here")
        .make(|desk| desk.write("kept.note", &std::fs::read(two.dir.join("kept-node-2.note"))?))?;
    case(three, "newest-checkpoint-removed", "the newest entries are under no checkpoint, and their session is here")
        .unanchored()
        .make(|desk| {
            let all = leaves(desk.dir())?;
            let open = all.iter().rposition(|leaf| matches!(leaf, Leaf::Open(_))).context("an OPEN")? as u64;
            for note in desk.files("vault/v1/log/node-1/cp/")? {
                if String::from_utf8(desk.read(&note)?)?.parse::<Note>()?.checkpoint.size > open {
                    desk.remove(&note)?;
                }
            }
            Ok(())
        })?;
    case(three, "log-removed", "sessions without a log").make(|desk| desk.remove_all("vault/v1/log"))?;
    case(three, "all-removed", "an empty vault, and a checkpoint was kept").make(|desk| {
        desk.remove_all("vault/")?;
        desk.write("vault/README", b"x")
    })?;
    case(three, "all-removed-and-nothing-kept", "an empty vault, and nothing to hold against it")
        .unanchored()
        .undecided()
        .make(|desk| {
            desk.remove_all("vault/")?;
            desk.write("vault/README", b"x")
        })?;
    case(three, "rolled-back-with-checkpoint", "the log begins anew with the node's own key; a checkpoint was kept")
        .make(|desk| desk.replace(anew))?;
    case(three, "rolled-back-with-slip", "the log begins anew with the node's own key; a user kept a slip")
        .slip(2)
        .make(|desk| desk.replace(anew))?;
    case(three, "rolled-back-and-nothing-kept", "the log begins anew: without an anchor nobody can tell")
        .unanchored()
        .undecided()
        .make(|desk| desk.replace(anew))?;
    case(three, "forked-at-the-same-size", "another history as long as the first, by the node's own key")
        .make(|desk| desk.replace(twin))?;
    case(three, "newest-session-removed", "the newest session and all that the log says of it; a checkpoint was kept")
        .make(|desk| cut_newest(desk, &node_key("node-1")))?;
    case(
        three,
        "newest-session-removed-with-slip",
        "the newest session is gone with its entries; a user kept its slip",
    )
    .slip(2)
    .make(|desk| cut_newest(desk, &node_key("node-1")))?;
    let other = SigningKey::from_bytes(&[8; 32]);
    case(three, "node-reinitialised", "the same history, signed by another key under the node's name")
        .make(|desk| write_log(desk.dir(), &entries(desk.dir())?, &other).map(drop))?;
    let listed = NodePublicKey::new("node-1", other.verifying_key())?;
    let swap =
        |desk: &Desk| edit_trust(desk, |trust| trust.nodes.iter_mut().for_each(|node| node.key = listed.clone()));
    case(three, "wrong-trust-key", "the trust file has another key for the node").unanchored().make(swap)?;
    case(three, "trust-expired-before-boot", "the node's key had ended before it signed anything").make(|desk| {
        edit_trust(desk, |trust| trust.nodes.iter_mut().for_each(|node| node.period.until_us = Some(HOUR_US)))
    })?;
    case(three, "trust-begins-after-the-end", "the node's key counts only from later on").make(|desk| {
        edit_trust(desk, |trust| trust.nodes.iter_mut().for_each(|node| node.period.from_us = three.now_us + HOUR_US))
    })?;
    let slip: Slip = three.slips.first().context("a slip")?.parse()?;
    let forged = slip.note().checkpoint.clone().sign(&other)?;
    let forged = Slip::new(forged, slip.session())?.to_string();
    case(three, "slip-by-another-key", "a slip in the node's name by a key that is not its own")
        .anchor("--slip", forged)
        .untouched()?;
    let stranger = Slip::new(slip.note().clone(), anew.sessions.first().context("a session")?.parse()?)?.to_string();
    case(three, "slip-of-an-unknown-session", "a good checkpoint, for a session that the log never opened")
        .anchor("--slip", stranger)
        .untouched()
}

/// Edits the blocks of the second session, and makes everything in it fit again.
fn relink(desk: &Desk, key: Option<&SigningKey>, change: impl FnOnce(&mut Vec<Raw>)) -> Result<()> {
    rechain(&desk.path(&desk.segment(1, 0)?), key, change)
}

/// Takes the newest session out of the vault and out of the log, which the node's key signs again.
fn cut_newest(desk: &Desk, key: &SigningKey) -> Result<()> {
    let id: SessionId = desk.id(2)?.parse()?;
    desk.remove(&desk.segment(2, 0)?)?;
    let mut all = leaves(desk.dir())?;
    all.retain(|leaf| session_of(leaf) != Some(id));
    for leaf in &mut all {
        if let Leaf::Heads { heads, .. } = leaf {
            heads.retain(|head| head.session != id);
        }
    }
    write_log(desk.dir(), &encode(&all)?, key).map(drop)
}

pub(crate) fn session_of(leaf: &Leaf) -> Option<SessionId> {
    match leaf {
        Leaf::Open(open) => Some(open.session),
        Leaf::Segment(segment) => Some(segment.session),
        Leaf::Close(close) => Some(close.session),
        Leaf::Recovered(recovered) => Some(recovered.close.session),
        _ => None,
    }
}

fn with(all: &mut [Raw], at: usize, change: impl FnOnce(&mut Raw)) {
    if let Some(block) = all.get_mut(at) {
        change(block);
    }
}

fn flip_last(block: &mut Raw) {
    if let Some(byte) = block.last_mut() {
        *byte ^= 1;
    }
}
