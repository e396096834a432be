//! Vectors of attackers who know the format: links computed anew, keys of their own, rolled-back and forked logs, and
//! insiders who hold the node's key.

use anyhow::{Context, Result};
use casemate_certs::vkey::NodePublicKey;
use casemate_recorder::SessionId;
use casemate_recorder::log::leaf::Leaf;
use casemate_recorder::log::note::Note;
use casemate_recorder::log::slip::Slip;
use casemate_recorder::transcript::block::Link;
use ed25519_dalek::SigningKey;

use crate::Sounds;
use crate::desk::{Case, Desk};
use crate::forge::{Raw, admit, blocks, fork, leaves, rechain, set, write_entries, write_log};
use crate::plain::{edit_trust, swap_root};
use crate::record::{HOUR_US, Shelf, node_key};

/// Transcripts are changed so that every link fits again.
pub(crate) fn transcripts(shelf: &Shelf, sounds: &Sounds) -> Result<()> {
    let Sounds { three, recovered, .. } = sounds;
    let case = |sound, name, what: &str| Case::new(shelf, sound, name, what).altered().status(1, "altered");
    let own = SigningKey::from_bytes(&[9; 32]);
    case(three, "block-edited-and-relinked", "a payload is changed, all links and the index are computed anew")
        .make(|desk| rechain(desk, 1, None, |all| with(all, 2, |block| flip_last(block))))?;
    case(three, "block-removed-and-relinked", "a block is gone, all numbers and links are computed anew")
        .make(|desk| rechain(desk, 1, None, |all| drop(all.remove(2))))?;
    case(three, "block-doubled-and-relinked", "a block is there twice, all links are computed anew").make(|desk| {
        rechain(desk, 1, None, |all| {
            let twin = all.get(2).cloned();
            all.splice(2..2, twin);
        })
    })?;
    case(three, "blocks-reordered-and-relinked", "two blocks changed places, all links are computed anew")
        .make(|desk| rechain(desk, 1, None, |all| all.swap(1, 2)))?;
    case(three, "clock-edited-and-relinked", "another wall clock in a header, all links are computed anew")
        .make(|desk| rechain(desk, 1, None, |all| with(all, 1, |block| set(block, 56, &[0; 8]))))?;
    case(three, "end-removed-and-relinked", "CLOSE is gone").make(|desk| {
        rechain(desk, 1, None, |all| {
            all.pop();
        })
    })?;
    case(three, "resealed-with-a-key-of-ones-own", "edited, relinked, and sealed by a key that the log does not name")
        .make(|desk| rechain(desk, 1, Some(&own), |all| with(all, 2, |block| flip_last(block))))?;
    case(three, "session-key-replaced", "HEAD names the attacker's key, and every seal is by it")
        .make(|desk| rechain(desk, 1, Some(&own), |all| with(all, 0, |head| replace_key(desk, head, &own))))?;
    case(recovered, "recovery-resealed", "RECOVERED is signed by a key that no BOOT vouches for")
        .make(|desk| rechain(desk, 1, Some(&own), |all| with(all, 1, |block| flip_last(block))))?;
    case(three, "two-sessions-spliced", "blocks of one session in the transcript of another, all links computed anew")
        .make(|desk| {
            let other = blocks(&desk.read(&desk.segment(2, 0)?)?);
            let id: SessionId = desk.id(1)?.parse()?;
            rechain(desk, 1, None, |all| {
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
        rechain(desk, 1, None, |all| with(all, 2, |block| flip_last(block)))?;
        let entries = desk.tile("entries")?;
        let mut all = leaves(desk)?;
        admit(desk, 1, &mut all)?;
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
        let other = leaves(desk)?.get(1).context("a leaf")?.encode()?;
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
            let all = leaves(desk)?;
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
        .make(|desk| write_log(desk, &leaves(desk)?, &other).map(drop))?;
    let listed = NodePublicKey::new("node-1", other.verifying_key())?;
    let swap =
        |desk: &Desk| edit_trust(desk, |trust| trust.nodes.iter_mut().for_each(|node| node.key = listed.clone()));
    case(three, "wrong-trust-key", "the trust file has another key for the node").unanchored().make(swap)?;
    case(three, "trust-expired-before-boot", "the node's key had ended before it signed anything")
        .make(|desk| edit_trust(desk, |trust| trust.nodes.iter_mut().for_each(|node| node.until_us = Some(HOUR_US))))?;
    case(three, "trust-begins-after-the-end", "the node's key counts only from later on").make(|desk| {
        edit_trust(desk, |trust| trust.nodes.iter_mut().for_each(|node| node.from_us = three.now_us + HOUR_US))
    })?;
    let slip: Slip = three.slips.first().context("a slip")?.parse()?;
    let forged = slip.note().checkpoint.clone().sign(&other)?;
    let forged = Slip::new(forged, slip.session())?.to_string();
    case(three, "slip-by-another-key", "a slip in the node's name by a key that is not its own")
        .anchor("--slip", forged)
        .as_is()?;
    let stranger = Slip::new(slip.note().clone(), anew.sessions.first().context("a session")?.parse()?)?.to_string();
    case(three, "slip-of-an-unknown-session", "a good checkpoint, for a session that the log never opened")
        .anchor("--slip", stranger)
        .as_is()
}

/// Insiders hold the node's key: the log is forked so that the checkpoint the auditor has is the forged one, and still
/// what it says contradicts itself or the transcripts.
pub(crate) fn insiders(shelf: &Shelf, sounds: &Sounds) -> Result<()> {
    let Sounds { three, recovered, .. } = sounds;
    let key = node_key("node-1");
    let case = |name, what: &str| Case::new(shelf, three, name, what);
    let forked = |name, what: &str, change: &dyn Fn(&mut Vec<Leaf>, SessionId)| {
        let id: SessionId = three.sessions.get(1).context("a session")?.parse()?;
        case(name, what).altered().make(|desk| fork(desk, &key, |all| change(all, id)))
    };
    forked("open-leaf-missing", "the log never opened a session that is here", &|all, id| {
        all.retain(|leaf| !matches!(leaf, Leaf::Open(open) if open.session == id));
    })?;
    forked("open-leaf-twice", "a session is opened twice", &|all, id| {
        repeat(all, id, |leaf| matches!(leaf, Leaf::Open(_)))
    })?;
    forked("session-erased-from-the-log", "no entry speaks of a session, and an ordinal is missing", &|all, id| {
        all.retain(|leaf| session_of(leaf) != Some(id));
    })?;
    forked("ordinals-renumbered", "no entry speaks of a session, and later ordinals closed the gap", &|all, id| {
        all.retain(|leaf| session_of(leaf) != Some(id));
        let opened = all.iter_mut().filter_map(|leaf| if let Leaf::Open(open) = leaf { Some(open) } else { None });
        opened.zip(0..).for_each(|(open, ordinal)| open.ordinal = ordinal);
    })?;
    forked("segment-leaf-missing", "the log closes a session whose segment it never named", &|all, id| {
        all.retain(|leaf| !matches!(leaf, Leaf::Segment(segment) if segment.session == id));
    })?;
    forked("close-leaf-twice", "a session is closed twice", &|all, id| {
        repeat(all, id, |leaf| matches!(leaf, Leaf::Close(_)))
    })?;
    forked("close-leaf-names-another-link", "CLOSE ends the session with another link", &|all, id| {
        closes(all, id, |close| close.last_link = Link([1; 32]));
    })?;
    forked("close-leaf-counts-more-segments", "CLOSE counts a segment more than there is", &|all, id| {
        closes(all, id, |close| close.segment_count += 1);
    })?;
    forked("segment-leaf-with-another-sha256", "SEGMENT and CLOSE name another SHA-256", &|all, id| {
        for leaf in all.iter_mut() {
            if let Leaf::Segment(segment) = leaf
                && segment.session == id
            {
                segment.sha256 = [1; 32];
            }
        }
        closes(all, id, |close| close.segments.iter_mut().for_each(|segment| segment.sha256 = [1; 32]));
    })?;
    forked("heads-name-another-link", "HEADS saw a block that is not in the transcript", &|all, id| {
        for leaf in all.iter_mut() {
            if let Leaf::Heads { heads, .. } = leaf {
                heads.iter_mut().filter(|head| head.session == id).for_each(|head| head.link = Link([1; 32]));
            }
        }
    })?;
    forked("heads-count-more-events", "HEADS counts an event more than the transcript has", &|all, id| {
        for leaf in all.iter_mut() {
            if let Leaf::Heads { heads, .. } = leaf {
                heads.iter_mut().filter(|head| head.session == id).for_each(|head| head.events += 1);
            }
        }
    })?;
    forked("boot-saw-a-longer-log", "a start found more entries than are before it", &|all, _| {
        if let Some(Leaf::Boot(boot)) = all.first_mut() {
            boot.previous_size = 5;
        }
    })?;
    forked("open-leaf-with-another-key", "OPEN names another session key than HEAD", &|all, id| {
        for leaf in all.iter_mut() {
            if let Leaf::Open(open) = leaf
                && open.session == id
            {
                open.session_pub = SigningKey::from_bytes(&[9; 32]).verifying_key().to_bytes();
            }
        }
    })?;
    case("entry-that-is-no-leaf", "the node signed an entry that is no CBOR map").altered().make(|desk| {
        let mut entries = leaves(desk)?.iter().map(Leaf::encode).collect::<Result<Vec<_>, _>>()?;
        entries.push(b"\xff".to_vec());
        let note = write_entries(desk, &entries, &key)?;
        desk.write("kept.note", &note)
    })?;
    let recreate = |desk: &Desk| -> Result<Vec<u8>> {
        let own = SigningKey::from_bytes(&[9; 32]);
        rechain(desk, 1, Some(&own), |all| {
            with(all, 0, |head| replace_key(desk, head, &own));
        })?;
        let (id, mut all): (SessionId, _) = (desk.id(1)?.parse()?, leaves(desk)?);
        let head = *blocks(&desk.read(&desk.segment(1, 0)?)?)
            .first()
            .map(|head| casemate_recorder::transcript::block::link(head))
            .as_ref()
            .context("HEAD")?;
        all.retain(|leaf| !matches!(leaf, Leaf::Heads { .. }));
        for leaf in &mut all {
            if let Leaf::Open(open) = leaf
                && open.session == id
            {
                (open.session_pub, open.head_link) = (own.verifying_key().to_bytes(), head);
            }
        }
        admit(desk, 1, &mut all)?;
        write_log(desk, &all, &key)
    };
    case(
        "session-recreated-by-an-insider",
        "a session and the log written anew with the node's key; a checkpoint was kept",
    )
    .altered()
    .make(|desk| recreate(desk).map(drop))?;
    case(
        "session-recreated-before-any-anchor",
        "the same, and the auditor's only checkpoint is the forged one: nothing shows",
    )
    .make(|desk| desk.write("kept.note", &recreate(desk)?))?;
    Case::new(
        shelf,
        recovered,
        "recovered-by-an-unknown-start",
        "the BOOT of the start that recovered a session is gone",
    )
    .altered()
    .status(1, "altered")
    .make(|desk| {
        fork(desk, &key, |all| {
            let last = all.iter().rposition(|leaf| matches!(leaf, Leaf::Boot(_)));
            last.into_iter().for_each(|at| drop(all.remove(at)));
        })
    })?;
    Case::new(shelf, recovered, "recovered-claimed-as-closed", "the log says CLOSE where a crash cut the session")
        .altered()
        .status(1, "altered")
        .make(|desk| {
            let id = desk.id(1)?.parse()?;
            fork(desk, &key, |all| {
                for leaf in all {
                    if let Leaf::Recovered(recovered) = leaf
                        && recovered.close.session == id
                    {
                        *leaf = Leaf::Close(recovered.close.clone());
                    }
                }
            })
        })
}

/// Takes the newest session out of the vault and out of the log, which the node's key signs again.
fn cut_newest(desk: &Desk, key: &SigningKey) -> Result<()> {
    let id: SessionId = desk.id(2)?.parse()?;
    desk.remove(&desk.segment(2, 0)?)?;
    let mut all = leaves(desk)?;
    all.retain(|leaf| session_of(leaf) != Some(id));
    for leaf in &mut all {
        if let Leaf::Heads { heads, .. } = leaf {
            heads.retain(|head| head.session != id);
        }
    }
    write_log(desk, &all, key).map(drop)
}

fn session_of(leaf: &Leaf) -> Option<SessionId> {
    match leaf {
        Leaf::Open(open) => Some(open.session),
        Leaf::Segment(segment) => Some(segment.session),
        Leaf::Close(close) => Some(close.session),
        Leaf::Recovered(recovered) => Some(recovered.close.session),
        _ => None,
    }
}

fn repeat(all: &mut Vec<Leaf>, id: SessionId, which: impl Fn(&Leaf) -> bool) {
    let found = all.iter().find(|leaf| session_of(leaf) == Some(id) && which(leaf)).cloned();
    all.extend(found);
}

fn closes(all: &mut [Leaf], id: SessionId, change: impl Fn(&mut casemate_recorder::log::leaf::Close)) {
    for leaf in all {
        if let Leaf::Close(close) = leaf
            && close.session == id
        {
            change(close);
        }
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

/// Puts another key where HEAD has the session's.
fn replace_key(desk: &Desk, head: &mut Raw, key: &SigningKey) {
    let all = leaves(desk).unwrap_or_default();
    let keys = all.iter().filter_map(|leaf| if let Leaf::Open(open) = leaf { Some(open.session_pub) } else { None });
    for known in keys {
        if let Some(at) = head.windows(32).position(|window| window == known) {
            set(head, at, key.verifying_key().as_bytes());
        }
    }
}
