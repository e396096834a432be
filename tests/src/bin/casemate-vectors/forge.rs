//! What a clever attacker does: computes links anew behind an edit, signs with a key of their own, or, as an insider,
//! writes the log anew and signs it with the node's key. Knows FORMAT.md.

use anyhow::{Context, Result};
use casemate_recorder::log::leaf::{Leaf, SegmentRef};
use casemate_recorder::log::merkle::{Frontier, leaf_hash};
use casemate_recorder::log::note::Checkpoint;
use casemate_recorder::log::tile::{TILE_WIDTH, push_entry, read_entries, write_hashes};
use casemate_recorder::transcript::block::link;
use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest, Sha256};

use crate::desk::Desk;

/// Header and payload of a block, without its link.
pub(crate) type Raw = Vec<u8>;

const HEADER_LEN: usize = 160;
const INDEX: u8 = 4;

/// The kind of a block.
pub(crate) fn kind(block: &Raw) -> u8 {
    block.get(4).copied().unwrap_or_default()
}

/// Takes a segment apart.
pub(crate) fn blocks(segment: &[u8]) -> Vec<Raw> {
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
pub(crate) fn set(block: &mut Raw, at: usize, bytes: &[u8]) {
    if let Some(place) = block.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// Puts a segment together so that every number, link, index and trailer fits; signs seals, if there is a key to do so.
/// The chain goes on behind `prev`, which is zero in a first segment.
pub(crate) fn join(blocks: &[Raw], first_block: u64, prev: [u8; 32], key: Option<&SigningKey>) -> Vec<u8> {
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

/// The link of the last block of a segment.
pub(crate) fn last_link(segment: &[u8]) -> [u8; 32] {
    let end = segment.len().saturating_sub(16);
    segment.get(end.saturating_sub(32)..end).and_then(|link| link.try_into().ok()).unwrap_or_default()
}

/// Edits the blocks of a session's first segment, and makes everything in it fit again.
pub(crate) fn rechain(
    desk: &Desk,
    session: usize,
    key: Option<&SigningKey>,
    change: impl FnOnce(&mut Vec<Raw>),
) -> Result<()> {
    let file = desk.segment(session, 0)?;
    let mut parts = blocks(&desk.read(&file)?);
    change(&mut parts);
    desk.write(&file, &join(&parts, 0, [0; 32], key))
}

/// The leaves of the log of node-1.
pub(crate) fn leaves(desk: &Desk) -> Result<Vec<Leaf>> {
    let bundle = desk.read(&desk.tile("entries")?)?;
    let count = desk.newest("node-1")?.rsplit('/').next().and_then(|name| name.split('-').next()?.parse().ok());
    let entries = read_entries(&bundle, count.context("a size")?, false)?;
    Ok(entries.into_iter().map(Leaf::decode).collect::<Result<_, _>>()?)
}

/// Writes the log of node-1 anew: bundle, tile, and a checkpoint that `key` signs. Returns the checkpoint.
pub(crate) fn write_log(desk: &Desk, leaves: &[Leaf], key: &SigningKey) -> Result<Vec<u8>> {
    let entries = leaves.iter().map(Leaf::encode).collect::<Result<Vec<_>, _>>()?;
    write_entries(desk, &entries, key)
}

/// The same for leaves that are already encoded, well or badly.
pub(crate) fn write_entries(desk: &Desk, entries: &[Vec<u8>], key: &SigningKey) -> Result<Vec<u8>> {
    anyhow::ensure!(entries.len() < TILE_WIDTH.into(), "a log of one tile");
    let (mut tree, mut bundle, mut hashes) = (Frontier::new(), Vec::new(), Vec::new());
    for entry in entries {
        push_entry(&mut bundle, entry)?;
        hashes.push(leaf_hash(entry));
        tree.append(leaf_hash(entry));
    }
    let note = Checkpoint { origin: "node-1".to_owned(), size: tree.size(), root: tree.root() }.sign(key)?;
    let (log, width) = ("vault/v1/log/node-1", entries.len());
    desk.remove_all(log)?;
    desk.write(&format!("{log}/tile/entries/000.p/{width}"), &bundle)?;
    desk.write(&format!("{log}/tile/0/000.p/{width}"), &write_hashes(&hashes))?;
    let text = note.to_string().into_bytes();
    desk.write(&format!("{log}/{}", note.checkpoint.path("2026-11-02")), &text)?;
    Ok(text)
}

/// An insider's fork: the leaves are changed, the node's key signs them, and the checkpoint that the auditor holds is
/// the forged one. What the log says must contradict itself, or the transcripts.
pub(crate) fn fork(desk: &Desk, key: &SigningKey, change: impl FnOnce(&mut Vec<Leaf>)) -> Result<()> {
    let mut all = leaves(desk)?;
    change(&mut all);
    let note = write_log(desk, &all, key)?;
    desk.write("kept.note", &note)
}

/// Makes what the log says of a session's only segment fit the file that is there now.
pub(crate) fn admit(desk: &Desk, session: usize, all: &mut [Leaf]) -> Result<()> {
    let bytes = desk.read(&desk.segment(session, 0)?)?;
    let id = desk.id(session)?.parse()?;
    let (sha256, last_link) = (<[u8; 32]>::from(Sha256::digest(&bytes)), link_of(&bytes));
    let parts = blocks(&bytes);
    let last = parts.len() as u64 - 1;
    for leaf in all {
        match leaf {
            Leaf::Segment(segment) if segment.session == id => {
                (segment.bytes, segment.sha256, segment.last_link) = (bytes.len() as u64, sha256, last_link);
                segment.last_block = last;
            }
            Leaf::Close(close) if close.session == id => {
                (close.last_block, close.last_link) = (last, last_link);
                close.segments = vec![SegmentRef { no: 0, bytes: bytes.len() as u64, sha256, last_link }];
            }
            _ => {}
        }
    }
    Ok(())
}

fn link_of(segment: &[u8]) -> casemate_recorder::transcript::block::Link {
    casemate_recorder::transcript::block::Link(last_link(segment))
}
