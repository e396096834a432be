//! Vectors of sound vaults and odd questions about them, and of damage without any cleverness.

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_certs::trust::{Authority, Officer, OfficerKey, Period, Trust, TrustedNode};
use casemate_tests::forge::node_key;
use casemate_tests::keys;

use crate::Sounds;
use crate::desk::{Case, Desk};
use crate::record::{HOUR_US, Shelf, sign, trust};

/// What is done to the bytes of a file.
type Cut = fn(&mut Vec<u8>);

/// Nothing is wrong with the vault; what is asked decides.
pub(crate) fn questions(shelf: &Shelf, sounds: &Sounds) -> Result<()> {
    let Sounds { three, anew, two, long, live, recovered, .. } = sounds;
    let case = |sound, name, what: &str| Case::new(shelf, sound, name, what);
    case(three, "good-anchored", "a sound vault, and the newest checkpoint was kept").untouched()?;
    case(anew, "good-one-session", "the smallest sound vault").untouched()?;
    case(long, "good-several-segments", "a session that rolled over several segments").untouched()?;
    case(two, "good-two-nodes", "two nodes share a vault, and an anchor of each was kept")
        .anchor("--checkpoint", "kept-node-2.note")
        .untouched()?;
    case(two, "one-node-without-anchor", "two nodes share a vault, and an anchor of one was kept")
        .undecided()
        .untouched()?;
    case(recovered, "recovered-after-a-kill", "the node was killed; the next start ended the session")
        .exceptions()
        .status(0, "clean")
        .status(1, "recovered")
        .untouched()?;
    case(live, "open-now", "a session is open, and the node spoke a moment ago").status(1, "open").untouched()?;
    case(live, "open-and-silent", "a session is open, and the node said nothing for an hour")
        .later(HOUR_US)
        .exceptions()
        .status(1, "open")
        .untouched()?;
    case(live, "open-under-its-slip", "the slip of a live session anchors what was logged until then")
        .slip(1)
        .untouched()?;
    case(three, "no-anchor", "nothing was kept outside")
        .unanchored()
        .undecided()
        .status(2, "unanchored")
        .untouched()?;
    case(three, "slip-of-the-second", "a slip anchors its session and those before it")
        .slip(1)
        .undecided()
        .status(0, "clean")
        .status(1, "clean")
        .status(2, "unanchored")
        .untouched()?;
    case(three, "slip-of-the-last", "the last slip leaves only the control transcript's end open")
        .slip(2)
        .undecided()
        .status(2, "clean")
        .untouched()?;
    case(three, "no-trust-file", "no key to check anything with").untrusting().undecided().untouched()?;
    case(three, "trust-self-asserted", "the trust file was made by the bastion")
        .undecided()
        .make(|desk| edit_trust(desk, |trust| trust.authority = Authority::Bastion))?;
    let stranger = trust(&[("node-9", node_key("node-9"))], &three.officer)?.nodes;
    case(three, "trust-lists-an-absent-node", "a node of the trust file has no log here")
        .undecided()
        .make(|desk| edit_trust(desk, |trust| trust.nodes.extend(stranger.clone())))?;
    case(three, "trust-lists-another-node", "the log is that of a node that is not listed")
        .undecided()
        .make(|desk| edit_trust(desk, |trust| trust.nodes = stranger.clone()))?;
    case(three, "trust-unsigned", "no officer signed the trust file")
        .undecided()
        .make(|desk| desk.remove("trust.toml.sig"))?;
    case(three, "trust-edited-after-signing", "one byte more in the trust file than the officer signed")
        .undecided()
        .make(|desk| desk.edit("trust.toml", |bytes| bytes.push(b'\n')))?;
    case(three, "trust-signed-by-a-stranger", "the signature is good, and by nobody who is listed").undecided().make(
        |desk| {
            let own = desk.path("stranger");
            keys::make(&own, "ed25519")?;
            sign(&desk.path("trust.toml"), &own)?;
            desk.remove("stranger")?;
            desk.remove("stranger.pub")
        },
    )?;
    case(three, "trust-below-quorum", "two officers must sign, and one did").undecided().make(|desk| {
        let line = keys::make(&desk.path("second"), "ed25519")?;
        desk.remove("second")?;
        desk.remove("second.pub")?;
        let officer =
            Officer { name: "Grace Hopper".to_owned(), key: OfficerKey::parse(&line)?, period: Period::ALWAYS };
        edit_trust(desk, |trust| {
            if let Authority::Officers(board) = &mut trust.authority {
                board.officers.push(officer);
                board.quorum = 2;
            }
        })
    })?;
    case(three, "trust-issued-later", "the trust file is of tomorrow").undecided().make(|desk| {
        edit_trust(desk, |trust| {
            if let Authority::Officers(board) = &mut trust.authority {
                board.issued_us = three.now_us + 24 * HOUR_US;
            }
        })
    })?;
    let period = Period { from_us: 0, until_us: Some(HOUR_US) };
    let earlier = trust(&[("node-1", node_key("node-5"))], &three.officer)?.nodes;
    let earlier: Vec<_> = earlier.into_iter().map(|node| TrustedNode { period, ..node }).collect();
    case(three, "trust-names-a-log-before-this-one", "a key of the node ended before this log begins")
        .undecided()
        .make(|desk| edit_trust(desk, |trust| trust.nodes.extend(earlier.clone())))?;
    case(three, "retention-too-short", "the trust file asks for two years, and the sessions are kept for 400 days")
        .exceptions()
        .make(|desk| {
            let years = std::time::Duration::from_secs(730 * 24 * 3600);
            edit_trust(desk, |trust| trust.retention.min = Some(years))
        })?;
    let age =
        |desk: &Desk| edit_trust(desk, |trust| trust.anchor_age_max = Some(std::time::Duration::from_secs(24 * 3600)));
    case(three, "anchor-young-enough", "the anchor is 23 hours old, and 24 are allowed")
        .later(23 * HOUR_US)
        .make(age)?;
    case(three, "anchor-too-old", "the anchor is 25 hours old, and 24 are allowed")
        .later(25 * HOUR_US)
        .undecided()
        .make(age)?;
    case(three, "key-retired-after-the-end", "the node's key ended after the last signature").make(|desk| {
        edit_trust(desk, |trust| {
            trust.nodes.iter_mut().for_each(|node| node.period.until_us = Some(three.now_us + HOUR_US));
        })
    })?;
    case(three, "trust-is-no-trust-file", "the trust file is another file")
        .usage()
        .make(|desk| desk.write("trust.toml", b"nonsense"))?;
    case(three, "trust-key-id-wrong", "the id of a key in the trust file is not that of the key").usage().make(
        |desk| {
            desk.edit("trust.toml", |bytes| {
                let text = String::from_utf8_lossy(bytes).replacen("node-1+", "node-2+", 1);
                *bytes = text.into_bytes();
            })
        },
    )?;
    case(three, "kept-checkpoint-cut-short", "the kept checkpoint lost its signature")
        .usage()
        .make(|desk| desk.edit("kept.note", |bytes| bytes.truncate(80)))?;
    case(three, "kept-checkpoint-garbled", "a root in the kept checkpoint that was not signed")
        .usage()
        .make(|desk| desk.write("kept.note", &swap_root(&desk.read("kept.note")?)))?;
    case(three, "slip-cut-short", "half a line")
        .usage()
        .unanchored()
        .anchor("--slip", "casemate-slip node-1 7")
        .untouched()?;
    let garbled = three.slips.first().map(|slip| resized(slip)).unwrap_or_default();
    case(three, "slip-garbled", "another size in a slip").usage().unanchored().anchor("--slip", garbled).untouched()
}

/// Edits the trust file on the desk.
pub(crate) fn edit_trust(desk: &Desk, change: impl FnOnce(&mut Trust)) -> Result<()> {
    let mut trust = Trust::parse(&String::from_utf8(desk.read("trust.toml")?)?)?;
    change(&mut trust);
    desk.write("trust.toml", trust.to_text().as_bytes())?;
    sign(&desk.path("trust.toml"), desk.officer())
}

/// A checkpoint with another root under the same signature.
pub(crate) fn swap_root(note: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(note);
    let root = text.lines().nth(2).unwrap_or_default();
    text.replacen(root, &STANDARD.encode([7; 32]), 1).into_bytes()
}

/// A slip that states one leaf more under the same signature.
fn resized(slip: &str) -> String {
    let mut words: Vec<_> = slip.split(' ').map(str::to_owned).collect();
    if let Some(size) = words.get_mut(2) {
        *size = (size.parse::<u64>().unwrap_or_default() + 1).to_string();
    }
    words.join(" ")
}

/// Names, places and files: no attacker needed to compute anything.
pub(crate) fn files(shelf: &Shelf, sounds: &Sounds) -> Result<()> {
    let Sounds { three, long, two, recovered, .. } = sounds;
    let case = |sound, name, what: &str| Case::new(shelf, sound, name, what);
    case(three, "foreign-files", "files that no vault has are listed and mean nothing").make(|desk| {
        desk.write("vault/notes.txt", b"x")?;
        desk.write("vault/v1/t/readme", b"x")?;
        desk.write("vault/v1/log/node-1/cp/2026-11-02/README", b"x")?;
        desk.write("vault/v1/log/node-1/tile/0/junk", b"x")
    })?;
    case(three, "dot-files", "names that begin with a dot are files in the making").make(|desk| {
        let home = desk.segment(0, 0)?;
        desk.write(&home.replace("000000.seg", ".000001.seg"), b"half")?;
        desk.write("vault/v1/log/node-1/cp/2026-11-02/.9-0123456789abcdef.note", b"half")?;
        desk.write("vault/v1/log/.node-1/cp/2026-11-02/9-0123456789abcdef.note", b"half")?;
        desk.write("vault/v1/log/node-1/tile/0/.000", b"half")
    })?;
    case(three, "tile-absent", "a tile of hashes is not there, and follows from the entries")
        .make(|desk| desk.remove(&desk.tile("0")?))?;
    case(three, "older-checkpoints-absent", "only the newest checkpoint is here").make(|desk| {
        let newest = desk.newest("node-1")?;
        let notes = desk.files("vault/v1/log/node-1/cp/")?;
        notes.iter().filter(|note| **note != newest).try_for_each(|note| desk.remove(note))
    })?;
    case(three, "newest-session-not-here-yet", "logged within the hour, and not in the vault")
        .exceptions()
        .status(2, "pending")
        .make(|desk| desk.remove(&desk.segment(2, 0)?))?;
    case(three, "newest-session-not-here-and-unanchored", "logged within the hour, not in the vault, no anchor")
        .unanchored()
        .undecided()
        .status(2, "pending")
        .make(|desk| desk.remove(&desk.segment(2, 0)?))?;
    case(three, "old-session-removed", "logged hours ago, and not in the vault")
        .altered()
        .status(0, "missing")
        .make(|desk| desk.remove(&desk.segment(0, 0)?))?;
    case(three, "all-sessions-removed", "the log alone is here")
        .altered()
        .make(|desk| desk.remove_all("vault/v1/t"))?;
    case(long, "first-segment-removed", "the beginning of a long session is gone")
        .altered()
        .status(0, "missing")
        .make(|desk| desk.remove(&desk.segment(0, 0)?))?;
    case(long, "middle-segment-not-here-yet", "a segment of the last hour is not here, those around it are")
        .exceptions()
        .status(0, "pending")
        .make(|desk| desk.remove(&desk.segment(0, 2)?))?;
    case(long, "segments-of-a-session-swapped", "two segments under each other's name")
        .altered()
        .status(0, "altered")
        .make(|desk| exchange(desk, &desk.segment(0, 0)?, &desk.segment(0, 1)?))?;
    case(three, "two-sessions-swapped", "two sessions under each other's name")
        .altered()
        .status(1, "altered")
        .status(2, "altered")
        .make(|desk| exchange(desk, &desk.segment(1, 0)?, &desk.segment(2, 0)?))?;
    case(three, "segment-added", "a closed session has one more segment than was logged")
        .altered()
        .status(0, "altered")
        .make(|desk| {
            let home = desk.segment(0, 0)?;
            desk.write(&home.replace("000000", "000001"), &desk.read(&home)?)
        })?;
    case(three, "session-that-no-log-opened", "a session of another recording lies among the others").altered().make(
        |desk| {
            let stranger = sounds.anew.dir.join("vault/v1/t");
            casemate_tests::vectors::copy(&stranger, &desk.path("vault/v1/t"))
        },
    )?;
    case(three, "session-under-another-day", "a session lies where its id does not put it").altered().make(|desk| {
        let (home, id) = (desk.segment(0, 0)?, desk.id(0)?.to_owned());
        desk.write(&format!("vault/v1/t/2001/01/01/{id}/000000.seg"), &desk.read(&home)?)
    })?;
    let bits: [(&'static str, &str, usize); 6] = [
        ("bit-flipped-in-head", "in the payload of HEAD", 170),
        ("bit-flipped-in-a-header", "in the wall clock of HEAD", 58),
        ("bit-flipped-in-a-payload", "in the payload of a later block", 600),
        ("bit-flipped-in-the-magic", "in the first byte", 0),
        ("bit-flipped-in-the-codec", "says that HEAD is compressed", 6),
        ("bit-flipped-in-the-length", "the stored length of HEAD is one off", 8),
    ];
    for (name, what, at) in bits {
        case(three, name, &format!("one bit: {what}"))
            .altered()
            .status(0, "altered")
            .make(|desk| desk.flip(&desk.segment(0, 0)?, at))?;
    }
    let cuts: [(&'static str, &str, Cut); 5] = [
        ("segment-cut-in-the-middle", "half of a segment", |bytes| bytes.truncate(bytes.len() / 2)),
        ("segment-without-trailer", "the last 16 bytes are gone", |bytes| bytes.truncate(bytes.len() - 16)),
        ("segment-empty", "a segment of no bytes", Vec::clear),
        ("segment-with-a-byte-more", "one byte behind the trailer", |bytes| bytes.push(0)),
        ("segment-twice-in-one-file", "the same bytes once more", |bytes| bytes.extend_from_within(..)),
    ];
    for (name, what, cut) in cuts {
        case(three, name, what).altered().status(0, "altered").make(|desk| desk.edit(&desk.segment(0, 0)?, cut))?;
    }
    case(three, "bit-flipped-in-the-trailer", "one bit: in the offset of the trailer")
        .altered()
        .status(0, "altered")
        .make(|desk| {
        let file = desk.segment(0, 0)?;
        let len = desk.read(&file)?.len();
        desk.flip(&file, len - 16)
    })?;
    case(recovered, "bit-flipped-in-a-recovered-session", "one bit: in what recovery embedded")
        .altered()
        .status(1, "altered")
        .make(|desk| {
            let file = desk.segment(1, 0)?;
            let len = desk.read(&file)?.len();
            desk.flip(&file, len / 2)
        })?;
    case(two, "logs-of-two-nodes-swapped", "each log lies under the other's name")
        .anchor("--checkpoint", "kept-node-2.note")
        .altered()
        .make(|desk| {
            let (one, other) = ("vault/v1/log/node-1/", "vault/v1/log/node-2/");
            let of = |node: &str| -> Result<Vec<(String, Vec<u8>)>> {
                desk.files(node)?.into_iter().map(|file| Ok((file.clone(), desk.read(&file)?))).collect()
            };
            let (first, second) = (of(one)?, of(other)?);
            desk.remove_all("vault/v1/log")?;
            first.iter().try_for_each(|(file, bytes)| desk.write(&file.replace(one, other), bytes))?;
            second.iter().try_for_each(|(file, bytes)| desk.write(&file.replace(other, one), bytes))
        })
}

/// Exchanges two files.
fn exchange(desk: &Desk, one: &str, other: &str) -> Result<()> {
    let (first, second) = (desk.read(one)?, desk.read(other)?);
    desk.write(one, &second)?;
    desk.write(other, &first)
}
