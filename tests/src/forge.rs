//! What a clever attacker does: computes links anew behind an edit, signs with a key of their own, or, as an insider,
//! writes the log anew and signs it with the node's key. Knows FORMAT.md, and works on an unpacked vector: a directory
//! with `vault/` in it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use casemate_recorder::SessionId;
use casemate_recorder::log::leaf::{Leaf, SegmentRef};
use casemate_recorder::log::merkle::{Frontier, leaf_hash};
use casemate_recorder::log::note::{Checkpoint, Note};
use casemate_recorder::log::tile::{TILE_WIDTH, push_entry, read_entries, write_hashes};
use casemate_recorder::transcript::block::{Link, link};
use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest, Sha256};

use crate::vectors;

/// Header and payload of a block, without its link.
pub type Raw = Vec<u8>;

const HEADER_LEN: usize = 160;
const INDEX: u8 = 4;

/// The kind of a block.
pub fn kind(block: &Raw) -> u8 {
    block.get(4).copied().unwrap_or_default()
}

/// Takes a segment apart.
pub fn blocks(segment: &[u8]) -> Vec<Raw> {
    let mut out = Vec::new();
    let mut rest = segment;
    while rest.starts_with(b"CMT1") {
        let len = rest.get(8..12).and_then(|len| len.try_into().ok()).map_or(0, u32::from_le_bytes) as usize;
        out.push(rest.get(..HEADER_LEN + len).unwrap_or_default().to_vec());
        rest = rest.get(HEADER_LEN + len + 32..).unwrap_or_default();
    }
    out
}

/// Writes over a field of a header.
pub fn set(block: &mut Raw, at: usize, bytes: &[u8]) {
    if let Some(place) = block.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// Puts a segment together so that every number, link, index and trailer fits; signs seals, if there is a key to do so.
/// The chain goes on behind `prev`, which is zero in a first segment.
pub fn join(blocks: &[Raw], first_block: u64, prev: [u8; 32], key: Option<&SigningKey>) -> Vec<u8> {
    let (mut out, mut index, mut trailer) = (Vec::new(), Vec::new(), Vec::new());
    let (mut prev, mut number) = (prev, first_block);
    for block in blocks {
        let mut block = block.clone();
        set(&mut block, 32, &number.to_le_bytes());
        set(&mut block, 96, &prev);
        if kind(&block) == INDEX {
            block.truncate(HEADER_LEN);
            block.extend_from_slice(&index);
            set(&mut block, 8, &(index.len() as u32).to_le_bytes());
            set(&mut block, 12, &(index.len() as u32).to_le_bytes());
            trailer = (out.len() as u64).to_le_bytes().to_vec();
            trailer.extend_from_slice(&(block.len() as u32 + 32).to_le_bytes());
        }
        if let (3 | 5 | 6, Some(key), Some(end)) = (kind(&block), key, block.len().checked_sub(64)) {
            let message = [b"casemate 2026-11-22 seal\0".as_slice(), block.get(..end).unwrap_or_default()].concat();
            set(&mut block, end, &key.sign(&message).to_bytes());
        }
        let made = link(&block).0;
        let field = |at: usize| block.get(at..at + 8).unwrap_or_default().to_vec();
        index.extend((out.len() as u64).to_le_bytes());
        index.extend([field(32), field(64), field(40), made.to_vec()].concat());
        out.extend_from_slice(&block);
        out.extend_from_slice(&made);
        (prev, number) = (made, number + 1);
    }
    trailer.extend_from_slice(b"CMTE");
    out.extend(trailer);
    out
}

/// Edits the blocks of a first segment, and makes everything in it fit again.
///
/// # Errors
/// The file cannot be read or written.
pub fn rechain(file: &Path, key: Option<&SigningKey>, change: impl FnOnce(&mut Vec<Raw>)) -> Result<()> {
    let mut parts = blocks(&fs::read(file)?);
    change(&mut parts);
    vectors::write(file, &join(&parts, 0, [0; 32], key))
}

/// The key of a node of the vectors.
pub fn node_key(node: &str) -> SigningKey {
    SigningKey::from_bytes(blake3::hash(node.as_bytes()).as_bytes())
}

/// Returns the newest checkpoint of a node, relative to `dir`.
///
/// # Errors
/// There is none.
pub fn newest_note(dir: &Path, node: &str) -> Result<String> {
    let cp = format!("vault/v1/log/{node}/cp/");
    let notes = vectors::files(dir)?.into_iter().filter(|file| file.starts_with(&cp));
    let size = |file: &String| file.rsplit('/').next()?.split('-').next()?.parse::<u64>().ok();
    notes.max_by_key(size).context("no checkpoint")
}

/// The entries of the log of node-1, which has one bundle.
///
/// # Errors
/// The log is not there, or is not whole.
pub fn entries(dir: &Path) -> Result<Vec<Vec<u8>>> {
    let bundle = vectors::files(dir)?.into_iter().rfind(|file| file.contains("/node-1/tile/entries/"));
    let bundle = fs::read(dir.join(bundle.context("no bundle")?))?;
    let note: Note = fs::read_to_string(dir.join(newest_note(dir, "node-1")?))?.parse()?;
    Ok(read_entries(&bundle, note.checkpoint.size.try_into()?, false)?.into_iter().map(<[u8]>::to_vec).collect())
}

/// The leaves of the log of node-1.
///
/// # Errors
/// As [`entries`], and where one is no leaf.
pub fn leaves(dir: &Path) -> Result<Vec<Leaf>> {
    Ok(entries(dir)?.iter().map(|entry| Leaf::decode(entry)).collect::<Result<_, _>>()?)
}

/// Encodes leaves.
///
/// # Errors
/// One is too long.
pub fn encode(leaves: &[Leaf]) -> Result<Vec<Vec<u8>>> {
    Ok(leaves.iter().map(Leaf::encode).collect::<Result<_, _>>()?)
}

/// Writes the log of node-1 anew: bundle, tile, and a checkpoint that `key` signs. Returns the checkpoint.
///
/// # Errors
/// More entries than one bundle holds, or a file that cannot be written.
pub fn write_log(dir: &Path, entries: &[Vec<u8>], key: &SigningKey) -> Result<Vec<u8>> {
    ensure!(entries.len() < TILE_WIDTH.into(), "a log of one tile");
    let (mut tree, mut bundle, mut hashes) = (Frontier::new(), Vec::new(), Vec::new());
    for entry in entries {
        push_entry(&mut bundle, entry)?;
        hashes.push(leaf_hash(entry));
        tree.append(leaf_hash(entry));
    }
    let note = Checkpoint { origin: "node-1".to_owned(), size: tree.size(), root: tree.root() }.sign(key)?;
    let (log, width) = (dir.join("vault/v1/log/node-1"), entries.len());
    fs::remove_dir_all(&log)?;
    vectors::write(&log.join(format!("tile/entries/000.p/{width}")), &bundle)?;
    vectors::write(&log.join(format!("tile/0/000.p/{width}")), &write_hashes(&hashes))?;
    let text = note.to_string().into_bytes();
    vectors::write(&log.join(note.checkpoint.path("2026-11-02")), &text)?;
    Ok(text)
}

/// An insider's fork: the log is written anew, the node's key signs it, and the checkpoint that the auditor holds is the
/// forged one.
///
/// # Errors
/// As [`write_log`].
pub fn fork(dir: &Path, entries: &[Vec<u8>]) -> Result<()> {
    let note = write_log(dir, entries, &node_key("node-1"))?;
    vectors::write(&dir.join("kept.note"), &note)
}

/// Puts another key where HEAD has the session's.
pub fn replace_key(head: &mut Raw, leaves: &[Leaf], key: &SigningKey) {
    for leaf in leaves {
        if let Leaf::Open(open) = leaf
            && let Some(at) = head.windows(32).position(|window| window == open.session_pub)
        {
            set(head, at, key.verifying_key().as_bytes());
        }
    }
}

/// Makes the log fit a session that was written anew, with its only segment and under another key.
pub fn reopen(segment: &[u8], session: SessionId, key: &SigningKey, all: &mut Vec<Leaf>) {
    let head = blocks(segment).first().map(|head| link(head)).unwrap_or(Link::ZERO);
    all.retain(|leaf| !matches!(leaf, Leaf::Heads { .. }));
    for leaf in all.iter_mut() {
        if let Leaf::Open(open) = leaf
            && open.session == session
        {
            (open.session_pub, open.head_link) = (key.verifying_key().to_bytes(), head);
        }
    }
    admit(segment, session, all);
}

/// Makes what the log says of a session's only segment fit the bytes that are there now.
pub fn admit(segment: &[u8], session: SessionId, all: &mut [Leaf]) {
    let (bytes, sha256) = (segment.len() as u64, <[u8; 32]>::from(Sha256::digest(segment)));
    let end = segment.len().saturating_sub(16);
    let last_link = segment.get(end.saturating_sub(32)..end).and_then(|link| link.try_into().ok()).unwrap_or_default();
    let (last_link, last) = (Link(last_link), (blocks(segment).len() as u64).saturating_sub(1));
    for leaf in all {
        match leaf {
            Leaf::Segment(logged) if logged.session == session => {
                (logged.bytes, logged.sha256, logged.last_link, logged.last_block) = (bytes, sha256, last_link, last);
            }
            Leaf::Close(close) if close.session == session => {
                (close.last_block, close.last_link) = (last, last_link);
                close.segments = vec![SegmentRef { no: 0, bytes, sha256, last_link }];
            }
            _ => {}
        }
    }
}
