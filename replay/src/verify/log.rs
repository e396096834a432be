//! The log of one node: its leaves read in order, the tree over them computed anew and held against every checkpoint.
//!
//! What a session's leaves say is gathered in a [`Plan`], which is handed out as soon as the session has ended, so that
//! memory holds the live sessions of a moment and not the history of the node.

use std::collections::{BTreeMap, HashMap};

use casemate_recorder::log::leaf::Leaf;
use casemate_recorder::log::merkle::{Frontier, Hash, leaf_hash};
use casemate_recorder::log::note::{NOTE_LEN_MAX, Note};
use casemate_recorder::log::tile::{Content, ENTRY_LEN_MAX, TILE_WIDTH, TileName, bundles, read_entries};

use super::anchors::{Anchor, NodeTrust, Signed};
use super::book::Book;
use super::session::Plan;
use crate::ReplayError;
use crate::time::length;
use crate::vault::{Listing, LogListing, Vault, read_small};

/// A bundle is at most this long, in bytes.
const BUNDLE_LEN_MAX: u64 = TILE_WIDTH as u64 * (ENTRY_LEN_MAX as u64 + 2);

/// A wall clock that goes back by less is a matter of rounding, in microseconds.
const CLOCK_SLACK_US: u64 = 1_000_000;

/// A node that says nothing for longer was not well: three heartbeats, in microseconds.
pub(super) const SILENCE_US: u64 = 180_000_000;

/// A list of findings of one kind is cut here; the count goes on.
pub(super) const FINDINGS_MAX: usize = 20;

/// What was found about one node.
#[derive(Debug, Default)]
pub(super) struct NodeFacts {
    pub(super) name: String,
    /// Whether the trust file lists the node.
    pub(super) listed: bool,
    /// Leaves that were read and hashed.
    pub(super) size: u64,
    /// The newest checkpoint with a good signature, or the newest at all where nobody can tell.
    pub(super) newest: Option<Note>,
    /// Wall clock of the newest leaf, in microseconds since 1970.
    pub(super) newest_us: u64,
    /// Wall clock of the first leaf.
    pub(super) first_us: u64,
    pub(super) opened: u64,
    pub(super) boots: u64,
    /// Checkpoints of the vault that fit the tree.
    pub(super) checkpoints: u64,
    pub(super) anchors: Vec<AnchorFacts>,
    /// Whether an anchor covers more leaves than are here.
    pub(super) behind_anchor: bool,
    /// Evidence altered or missing, as far as it is not about one session.
    pub(super) altered: Vec<String>,
    /// Sessions opened below this index rest on leaves that no longer fit a signed root.
    pub(super) broken_below: u64,
    /// Findings without consequence.
    pub(super) remarks: Vec<String>,
    /// What the node did to itself: leaves that are about no session.
    pub(super) acts: BTreeMap<String, u64>,
    remarks_left_out: usize,
}

/// An anchor that fits the log.
#[derive(Debug)]
pub(super) struct AnchorFacts {
    pub(super) kept_by: &'static str,
    pub(super) size: u64,
    /// Wall clock of the last leaf that it covers, in microseconds since 1970.
    pub(super) wall_us: u64,
}

impl NodeFacts {
    /// Returns how many leaves the largest anchor covers.
    pub(super) fn anchored_size(&self) -> u64 {
        self.anchors.iter().map(|anchor| anchor.size).max().unwrap_or(0)
    }

    /// Returns the time of the newest leaf under an anchor, in microseconds since 1970.
    pub(super) fn as_of_us(&self) -> Option<u64> {
        self.anchors.iter().max_by_key(|anchor| anchor.size).map(|anchor| anchor.wall_us)
    }

    fn remark(&mut self, what: String) {
        if self.remarks.len() < FINDINGS_MAX {
            self.remarks.push(what);
        } else {
            self.remarks_left_out += 1;
        }
    }

    pub(super) fn alter(&mut self, what: String) {
        if self.altered.len() < FINDINGS_MAX {
            self.altered.push(what);
        }
    }
}

/// A root that the tree must have at some size.
struct Target<'a> {
    root: Hash,
    /// As the report names it.
    from: String,
    signed: Signed<'a>,
    anchor: Option<&'a Anchor>,
}

/// Checks the log of one node and hands out the plan of every session that it opened.
///
/// # Errors
/// The vault cannot be read. What is wrong with the evidence is in the facts.
pub(super) fn check_node<'a>(
    vault: &'a Vault,
    name: &'a str,
    trust: &NodeTrust<'a>,
    anchors: &'a [Anchor],
    listing: &'a Listing,
    hand_out: &mut dyn FnMut(Plan),
) -> Result<NodeFacts, ReplayError> {
    let files = vault.log(name)?;
    let mut facts =
        NodeFacts { name: name.to_owned(), listed: matches!(trust, NodeTrust::Keys(_)), ..NodeFacts::default() };
    for stray in &files.strays {
        facts.remark(format!("{}: {}", stray.path, stray.what));
    }
    let mut targets: BTreeMap<u64, Vec<Target<'a>>> = BTreeMap::new();
    read_notes(vault, name, trust, &files, &mut facts, &mut targets)?;
    for anchor in anchors.iter().filter(|anchor| anchor.note.checkpoint.origin == name) {
        let signed = trust.check(&anchor.note);
        if signed == Signed::ByAnother {
            facts.alter(format!("{}: signed in the name of {name} by a key that is not trusted", anchor.kept_by));
        }
        let from = format!("the checkpoint of size {} in the {}", anchor.note.checkpoint.size, anchor.kept_by);
        let target = Target { root: anchor.note.checkpoint.root, from, signed, anchor: Some(anchor) };
        targets.entry(anchor.note.checkpoint.size).or_default().push(target);
    }
    let size = targets.last_key_value().map_or(0, |(size, _)| *size);
    if size == 0 {
        facts.remark("the log has no checkpoint that counts: nothing in it can be judged".to_owned());
    }
    let mut walk = Walk {
        vault,
        files: TileFiles::new(vault, name, &files),
        facts,
        book: Book::new(name, listing),
        edge: Frontier::new(),
        tiles: Vec::new(),
        newest_wall_us: 0,
    };
    walk.run(size, &mut targets, hand_out)?;
    let Walk { mut facts, book, .. } = walk;
    for (size, missed) in targets {
        for target in missed {
            facts.behind_anchor |= target.anchor.is_some();
            let what =
                if target.anchor.is_some() { "the log was rolled back" } else { "leaves of the log are missing" };
            facts.alter(format!("{what}: {} leaves are here, and {} covers {size}", facts.size, target.from));
        }
    }
    book.sessions.into_values().for_each(hand_out);
    if facts.remarks_left_out > 0 {
        let more = format!("and {} more such remarks", facts.remarks_left_out);
        facts.remarks.push(more);
    }
    Ok(facts)
}

/// Reads the checkpoints that the vault keeps.
fn read_notes<'a>(
    vault: &Vault,
    name: &str,
    trust: &NodeTrust<'a>,
    files: &LogListing,
    facts: &mut NodeFacts,
    targets: &mut BTreeMap<u64, Vec<Target<'a>>>,
) -> Result<(), ReplayError> {
    for path in &files.notes {
        let place = vault.shown(path);
        let note = match read_small(path, NOTE_LEN_MAX as u64) {
            Ok(Some(bytes)) => String::from_utf8(bytes).ok().and_then(|text| text.parse::<Note>().ok()),
            Ok(None) => continue,
            Err(ReplayError::Evidence { .. }) => None,
            Err(error) => return Err(error),
        };
        let Some(note) = note else {
            facts.alter(format!("{place}: is not a checkpoint"));
            continue;
        };
        let checkpoint = &note.checkpoint;
        if checkpoint.origin != name || path.file_name() != Some(checkpoint.file_name().as_ref()) {
            facts.alter(format!("{place}: is the checkpoint of another log or size"));
            continue;
        }
        let signed = trust.check(&note);
        match signed {
            Signed::By(_) | Signed::Unchecked => {}
            Signed::ByAnother => {
                facts.alter(format!("{place}: signed by a key that is not trusted for {name}"));
                continue;
            }
            Signed::Broken => {
                facts.alter(format!("{place}: signature does not fit"));
                continue;
            }
        }
        let target = Target { root: checkpoint.root, from: place, signed, anchor: None };
        targets.entry(checkpoint.size).or_default().push(target);
        if facts.newest.as_ref().is_none_or(|newest| newest.checkpoint.size <= note.checkpoint.size) {
            facts.newest = Some(note);
        }
    }
    Ok(())
}

/// Finds tiles and bundles among the files that were listed.
struct TileFiles<'a> {
    vault: &'a Vault,
    node: String,
    widths: HashMap<(Content, u64), Vec<u16>>,
}

impl<'a> TileFiles<'a> {
    fn new(vault: &'a Vault, node: &str, listing: &LogListing) -> Self {
        Self { vault, node: node.to_owned(), widths: Self::group(listing) }
    }

    fn group(listing: &LogListing) -> HashMap<(Content, u64), Vec<u16>> {
        let mut widths: HashMap<_, Vec<u16>> = HashMap::new();
        for tile in &listing.tiles {
            widths.entry((tile.content, tile.index)).or_default().push(tile.width);
        }
        widths.values_mut().for_each(|widths| widths.sort_unstable());
        widths
    }

    fn widths(&self, content: Content, index: u64) -> &[u16] {
        self.widths.get(&(content, index)).map_or(&[], Vec::as_slice)
    }

    fn read(&self, tile: TileName) -> Result<Option<Vec<u8>>, ReplayError> {
        read_small(&self.vault.log_dir(&self.node).join(tile.to_string()), BUNDLE_LEN_MAX)
    }

    /// Reads the narrowest bundle that is at least as wide as asked for, or else the widest there is.
    fn bundle(&mut self, wanted: TileName) -> Result<Option<(u16, Vec<u8>)>, ReplayError> {
        for attempt in 0..2 {
            if attempt > 0 {
                // In a live vault a partial bundle gives way to a wider one at any moment: look again.
                self.widths = Self::group(&self.vault.log(&self.node)?);
            }
            let widths = self.widths(wanted.content, wanted.index);
            let width = widths.iter().find(|width| **width >= wanted.width).or_else(|| widths.last());
            let Some(width) = width.copied() else { continue };
            if let Some(bytes) = self.read(TileName { width, ..wanted })? {
                return Ok(Some((width, bytes)));
            }
        }
        Ok(None)
    }
}

/// One pass over the leaves of a log.
struct Walk<'a> {
    vault: &'a Vault,
    files: TileFiles<'a>,
    facts: NodeFacts,
    book: Book<'a>,
    edge: Frontier,
    /// For each tile level, the hashes of the tile that is being filled.
    tiles: Vec<Vec<Hash>>,
    newest_wall_us: u64,
}

impl<'a> Walk<'a> {
    /// Reads `size` leaves, or as many as there are; takes every target out of `targets` that was reached.
    fn run(
        &mut self,
        size: u64,
        targets: &mut BTreeMap<u64, Vec<Target<'a>>>,
        hand_out: &mut dyn FnMut(Plan),
    ) -> Result<(), ReplayError> {
        self.reach(targets);
        'log: for wanted in bundles(size) {
            let read = match self.files.bundle(wanted) {
                Err(ReplayError::Evidence { place, what }) => {
                    self.facts.alter(format!("{place}: {what}"));
                    None
                }
                read => read?,
            };
            let Some((width, bytes)) = read else {
                self.facts.alter(format!("{}: is missing", self.place(wanted)));
                break;
            };
            let name = TileName { width, ..wanted };
            let entries = match read_entries(&bytes, width, true) {
                Ok(entries) => entries,
                Err(error) => {
                    self.facts.alter(format!("{}: {error}", self.place(name)));
                    break;
                }
            };
            for entry in entries.iter().take(wanted.width.into()) {
                self.leaf(entry, hand_out)?;
                self.reach(targets);
            }
            self.compare_bundles(name, &bytes)?;
            if entries.len() < usize::from(wanted.width) {
                break 'log;
            }
        }
        for level in 0..self.tiles.len() {
            self.compare_tiles(level)?;
        }
        self.facts.size = self.edge.size();
        self.facts.newest_us = self.newest_wall_us;
        Ok(())
    }

    fn place(&self, tile: TileName) -> String {
        self.vault.shown(&self.vault.log_dir(&self.facts.name).join(tile.to_string()))
    }

    /// Holds the tree as it is now against all roots that are known for its size.
    fn reach(&mut self, targets: &mut BTreeMap<u64, Vec<Target<'a>>>) {
        let size = self.edge.size();
        let Some(reached) = targets.remove(&size) else { return };
        let root = self.edge.root();
        for target in reached {
            let late = match target.signed {
                Signed::By(listed) => size > 0 && !listed.period.contains(self.newest_wall_us),
                _ => false,
            };
            if target.root != root {
                self.facts.alter(format!("the first {size} leaves do not have the root of {}", target.from));
                self.facts.broken_below = self.facts.broken_below.max(size);
            } else if late {
                self.facts.alter(format!("{} is signed outside the period of its key", target.from));
            } else if let Some(anchor) = target.anchor {
                if target.signed == Signed::ByAnother {
                    continue;
                }
                let unknown = anchor.session.filter(|session| !self.book.knows(*session));
                if let Some(session) = unknown {
                    self.facts.alter(format!("the slip is for session {session}, which the log does not know by then"));
                }
                let kept_by = anchor.kept_by;
                self.facts.anchors.push(AnchorFacts { kept_by, size, wall_us: self.newest_wall_us });
            } else {
                self.facts.checkpoints += 1;
            }
        }
    }

    fn leaf(&mut self, entry: &[u8], hand_out: &mut dyn FnMut(Plan)) -> Result<(), ReplayError> {
        let index = self.edge.size();
        let mut full = Vec::new();
        let tiles = &mut self.tiles;
        self.edge.append_each(leaf_hash(entry), |level, _, hash| {
            if level % 8 == 0 {
                let level = usize::from(level / 8);
                if tiles.len() <= level {
                    tiles.resize_with(level + 1, Vec::new);
                }
                if let Some(tile) = tiles.get_mut(level) {
                    tile.push(hash);
                    if tile.len() == usize::from(TILE_WIDTH) {
                        full.push(level);
                    }
                }
            }
        });
        for level in full {
            self.compare_tiles(level)?;
            if let Some(tile) = self.tiles.get_mut(level) {
                tile.clear();
            }
        }
        let leaf = match Leaf::decode(entry) {
            Ok(leaf) => leaf,
            Err(error) => {
                self.facts.alter(format!("leaf {index}: {error}"));
                return Ok(());
            }
        };
        if let Some(wall_us) = leaf.wall_us() {
            self.clock(index, wall_us);
        }
        self.book.take(index, leaf, &mut self.facts, hand_out);
        Ok(())
    }

    /// Notes what the wall clocks of the leaves do; a clock is a finding, never a failure.
    fn clock(&mut self, index: u64, wall_us: u64) {
        if index == 0 {
            self.facts.first_us = wall_us;
        } else if wall_us.saturating_add(CLOCK_SLACK_US) < self.newest_wall_us {
            let back = length(self.newest_wall_us - wall_us);
            self.facts.remark(format!("clock: leaf {index} is {back} older than one before it"));
        } else if wall_us > self.newest_wall_us.saturating_add(SILENCE_US) {
            let silent = length(wall_us - self.newest_wall_us);
            self.facts.remark(format!("clock: no leaf for {silent} before leaf {index}"));
        }
        self.newest_wall_us = self.newest_wall_us.max(wall_us);
    }

    /// Holds the other widths of a bundle against the one that was read: one is the beginning of the other.
    fn compare_bundles(&mut self, name: TileName, bytes: &[u8]) -> Result<(), ReplayError> {
        for width in self.files.widths(name.content, name.index).to_vec() {
            let other = TileName { width, ..name };
            if width == name.width {
                continue;
            }
            let Some(found) = self.read_tile(other)? else { continue };
            let common = found.len().min(bytes.len());
            let same =
                found.get(..common) == bytes.get(..common) && (found.len() < bytes.len()) == (width < name.width);
            if !same || read_entries(&found, width, true).is_err() {
                self.facts.alter(format!("{}: contradicts {}", self.place(other), name));
            }
        }
        Ok(())
    }

    /// Holds the files of the tile that is being filled against the hashes that belong there.
    fn compare_tiles(&mut self, level: usize) -> Result<(), ReplayError> {
        let hashes = self.tiles.get(level).cloned().unwrap_or_default();
        if hashes.is_empty() {
            return Ok(());
        }
        let content = Content::Hashes { level: level as u8 };
        let index = (self.edge.size() >> (8 * level as u32)).saturating_sub(1) >> 8;
        let widths = self.files.widths(content, index).to_vec();
        if widths.is_empty() {
            let name = TileName { content, index, width: hashes.len() as u16 };
            self.facts.remark(format!("{}: is missing, and follows from the entries", self.place(name)));
        }
        for width in widths {
            let name = TileName { content, index, width };
            let Some(found) = self.read_tile(name)? else { continue };
            let (found, rest) = found.as_chunks::<32>();
            let same = found.iter().zip(&hashes).all(|(found, hash)| *found == hash.0);
            if !same || !rest.is_empty() || found.len() != usize::from(width) {
                self.facts.alter(format!("{}: does not follow from the entries", self.place(name)));
            }
        }
        Ok(())
    }

    fn read_tile(&mut self, name: TileName) -> Result<Option<Vec<u8>>, ReplayError> {
        match self.files.read(name) {
            Err(ReplayError::Evidence { place, what }) => {
                self.facts.alter(format!("{place}: {what}"));
                Ok(None)
            }
            read => read,
        }
    }
}
