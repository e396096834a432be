//! Vectors of insiders, who hold the node's key and write the log anew: what it says contradicts itself or the transcripts,
//! or an older checkpoint. Where neither is so, nothing shows, and a vector says that too.

use anyhow::{Context, Result};
use casemate_recorder::SessionId;
use casemate_recorder::log::leaf::{Boot, Close, Leaf};
use casemate_recorder::transcript::block::Link;
use casemate_tests::forge::{
    Raw, encode, entries, fork, leaves, node_key, rechain, reopen, replace_key, set, write_log,
};
use ed25519_dalek::SigningKey;

use crate::Sounds;
use crate::clever::session_of;
use crate::desk::{Case, Desk};
use crate::record::Shelf;

/// Insiders hold the node's key: the log is forked so that the checkpoint the auditor has is the forged one, and still
/// what it says contradicts itself or the transcripts.
pub(crate) fn forgeries(shelf: &Shelf, sounds: &Sounds) -> Result<()> {
    let Sounds { three, recovered, .. } = sounds;
    let case = |name, what: &str| Case::new(shelf, three, name, what);
    let forked = |name, what: &str, change: &dyn Fn(&mut Vec<Leaf>, SessionId)| {
        let id: SessionId = three.sessions.get(1).context("a session")?.parse()?;
        case(name, what).altered().make(|desk| forge_log(desk, |all| change(all, id)))
    };
    forked("open-leaf-missing", "the log never opened a session that is here", &|all, id| {
        all.retain(|leaf| !matches!(leaf, Leaf::Open(open) if open.session == id));
    })?;
    forked("open-leaf-twice", "a session is opened twice", &|all, id| {
        repeat(all, id, |leaf| matches!(leaf, Leaf::Open(_)));
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
        repeat(all, id, |leaf| matches!(leaf, Leaf::Close(_)));
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
    forked(
        "close-leaf-with-another-reason",
        "the log gives another reason for the end than the transcript",
        &|all, id| {
            closes(all, id, |close| close.reason = 3);
        },
    )?;
    forked("start-inserted-before-a-session", "HEAD names another start than the one that was current", &|all, id| {
        let opened = all.iter().position(|leaf| matches!(leaf, Leaf::Open(open) if open.session == id));
        if let (Some(at), Some(Leaf::Boot(boot))) = (opened, all.first().cloned()) {
            all.insert(at, Leaf::Boot(Boot { boot_id: [1; 16], ..boot }));
        }
    })?;
    let anew = |name, what: &str, change: fn(&mut Vec<Raw>)| {
        let damage = |desk: &Desk| desk.write("kept.note", &recreate(desk, change)?);
        case(name, what).altered().status(1, "altered").make(damage)
    };
    anew("head-with-bytes-behind-it", "a session written anew, with bytes behind HEAD's map", |blocks| {
        if let Some(head) = blocks.first_mut() {
            head.push(0);
            let len = (head.len() as u32 - 160).to_le_bytes();
            set(head, 8, &len);
            set(head, 12, &len);
        }
    })?;
    anew("seal-said-to-be-encrypted", "a session written anew, with CLOSE marked as encrypted", |blocks| {
        if let Some(close) = blocks.last_mut() {
            set(close, 6, &[2]);
        }
    })?;
    anew("events-renumbered", "a session written anew, and a block skips the number of an event", |blocks| {
        if let Some(block) = blocks.get_mut(1) {
            set(block, 40, &1u64.to_le_bytes());
        }
    })?;
    anew("end-without-index", "a session written anew, and no index before its end", |blocks| {
        blocks.retain(|block| block.get(4) != Some(&4));
    })?;
    anew("end-in-the-middle", "a session written anew, and blocks go on behind CLOSE", |blocks| {
        let tail = blocks.get(1..3).unwrap_or_default().to_vec();
        blocks.extend(tail);
    })?;
    Case::new(shelf, recovered, "recovered-leaf-of-another-tail", "the log says that recovery set bytes aside")
        .altered()
        .status(1, "altered")
        .make(|desk| {
            let id = desk.id(1)?.parse()?;
            forge_log(desk, |all| {
                for leaf in all {
                    if let Leaf::Recovered(recovered) = leaf
                        && recovered.close.session == id
                    {
                        recovered.torn_bytes += 1;
                    }
                }
            })
        })?;
    case("entry-that-is-no-leaf", "the node signed an entry that is no CBOR map").altered().make(|desk| {
        let mut all = entries(desk.dir())?;
        all.push(b"\xff".to_vec());
        fork(desk.dir(), &all)
    })?;
    case(
        "session-recreated-by-an-insider",
        "a session and the log written anew with the node's key; a checkpoint was kept",
    )
    .altered()
    .make(|desk| recreate(desk, |_| ()).map(drop))?;
    case(
        "session-recreated-before-any-anchor",
        "the same, and the auditor's only checkpoint is the forged one: nothing shows",
    )
    .make(|desk| desk.write("kept.note", &recreate(desk, |_| ())?))?;
    Case::new(
        shelf,
        recovered,
        "recovered-by-an-unknown-start",
        "the BOOT of the start that recovered a session is gone",
    )
    .altered()
    .status(1, "altered")
    .make(|desk| {
        forge_log(desk, |all| {
            let last = all.iter().rposition(|leaf| matches!(leaf, Leaf::Boot(_)));
            last.into_iter().for_each(|at| drop(all.remove(at)));
        })
    })?;
    Case::new(shelf, recovered, "recovered-claimed-as-closed", "the log says CLOSE where a crash cut the session")
        .altered()
        .status(1, "altered")
        .make(|desk| {
            let id = desk.id(1)?.parse()?;
            forge_log(desk, |all| {
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

/// Writes the second session anew under a key of its own, with a log that fits. Returns the checkpoint.
fn recreate(desk: &Desk, change: impl FnOnce(&mut Vec<Raw>)) -> Result<Vec<u8>> {
    let (own, file, mut all) = (SigningKey::from_bytes(&[9; 32]), desk.segment(1, 0)?, leaves(desk.dir())?);
    rechain(&desk.path(&file), Some(&own), |blocks| {
        blocks.iter_mut().take(1).for_each(|head| replace_key(head, &all, &own));
        change(blocks);
    })?;
    reopen(&desk.read(&file)?, desk.id(1)?.parse()?, &own, &mut all);
    write_log(desk.dir(), &encode(&all)?, &node_key("node-1"))
}

/// Writes the log anew with other leaves; the auditor's checkpoint is the forged one.
fn forge_log(desk: &Desk, change: impl FnOnce(&mut Vec<Leaf>)) -> Result<()> {
    let mut all = leaves(desk.dir())?;
    change(&mut all);
    fork(desk.dir(), &encode(&all)?)
}

fn repeat(all: &mut Vec<Leaf>, id: SessionId, which: impl Fn(&Leaf) -> bool) {
    let found = all.iter().find(|leaf| session_of(leaf) == Some(id) && which(leaf)).cloned();
    all.extend(found);
}

fn closes(all: &mut [Leaf], id: SessionId, change: impl Fn(&mut Close)) {
    for leaf in all {
        if let Leaf::Close(close) = leaf
            && close.session == id
        {
            change(close);
        }
    }
}
