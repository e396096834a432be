//! The log of one node: its leaves read in order, the tree over them computed anew and held against every checkpoint.
//!
//! What a session's leaves say is gathered in a [`Plan`], which is handed out as soon as the session has ended, so that
//! memory holds the live sessions of a moment and not the history of the node.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use casemate_certs::trust::Board;
use casemate_recorder::log::leaf::Leaf;
use casemate_recorder::log::merkle::{Frontier, Hash, leaf_hash};
use casemate_recorder::log::note::Note;
use casemate_recorder::log::tile::{Content, TILE_WIDTH, TileName, bundles, read_entries};
use casemate_recorder::transcript::block::SessionId;

use super::anchors::{Anchor, NodeTrust, Signed};
use super::book::Book;
use super::clocks::Clocks;
use super::judge::SILENCE_US;
use super::ledger::Ledger;
use super::notes::{Notes, Target};
use super::session::Plan;
use super::tiles::TileFiles;
use crate::ReplayError;
use crate::time::length;
use crate::vault::{Listing, Vault};

/// A wall clock that goes back by less is a matter of rounding, in microseconds.
const CLOCK_SLACK_US: u64 = 1_000_000;

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
    /// Wall clock of the first leaf that has one.
    pub(super) first_us: u64,
    /// How long the node wrote the log, in microseconds.
    pub(super) age_us: u64,
    pub(super) opened: u64,
    pub(super) boots: u64,
    /// Checkpoints of the vault that fit the tree.
    pub(super) checkpoints: u64,
    pub(super) anchors: Vec<AnchorFacts>,
    /// Checkpoints that a server dated, whatever holds them now: size, the server's time, and the wall clock of the newest leaf
    /// under each, in microseconds since 1970.
    pub(super) dated: Vec<(u64, u64, u64)>,
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
    /// Which segments the log says are in which other vault.
    pub(super) stored: HashMap<(SessionId, u32), Arc<str>>,
    /// Sessions that the log says were deleted on purpose, and until when they had to be kept, in microseconds since 1970.
    pub(super) retired: HashMap<SessionId, u64>,
    /// Sessions that must be kept whatever their OPEN says.
    pub(super) held: HashSet<SessionId>,
    /// Sessions of which a hold was lifted, and none stands.
    pub(super) released: HashSet<SessionId>,
    remarks_left_out: usize,
}

/// An anchor that fits the log.
#[derive(Debug)]
pub(super) struct AnchorFacts {
    pub(super) kept_by: Arc<str>,
    pub(super) size: u64,
    /// Wall clock of the newest leaf that it covers, in microseconds since 1970.
    pub(super) wall_us: u64,
    /// The same, or where that time has not come yet, of the newest leaf of which it has.
    pub(super) known_us: u64,
    /// The highest wall clock under it of which the time has come.
    pub(super) past_us: u64,
    /// Whether nothing tells how old it is: the newest leaf under it is dated after the time of the verdict.
    pub(super) ahead: bool,
    /// When a server took it, in microseconds since 1970.
    pub(super) server_us: Option<u64>,
}

impl AnchorFacts {
    /// Returns up to when it proves anything: a node whose clock runs ahead proves no more than was there when it came.
    pub(super) fn time_us(&self) -> u64 {
        self.server_us.map_or(self.known_us, |server_us| server_us.min(self.wall_us))
    }
}

impl NodeFacts {
    /// Returns how many leaves the largest anchor covers.
    pub(super) fn anchored_size(&self) -> u64 {
        self.anchors.iter().map(|anchor| anchor.size).max().unwrap_or(0)
    }

    /// Returns the newest anchor; of several over the same leaves, the one that tells best how old it is.
    pub(super) fn newest_anchor(&self) -> Option<&AnchorFacts> {
        self.anchors.iter().max_by_key(|anchor| (anchor.size, !anchor.ahead, anchor.time_us()))
    }

    /// Returns the time of the newest leaf under an anchor, in microseconds since 1970.
    pub(super) fn as_of_us(&self) -> Option<u64> {
        self.newest_anchor().map(AnchorFacts::time_us)
    }

    /// Whether it is proven that this time has passed: an anchor is newer. A leaf's clock is the node's word, and does not
    /// count beyond the time of the verdict.
    pub(super) fn has_passed(&self, time_us: u64, now_us: u64) -> bool {
        self.anchors.iter().any(|anchor| (time_us..=now_us).contains(&anchor.server_us.unwrap_or(anchor.past_us)))
    }

    pub(super) fn remark(&mut self, what: String) {
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

/// What a log is held against.
pub(super) struct Question<'a> {
    pub(super) vault: &'a Vault,
    pub(super) listing: &'a Listing,
    /// Checkpoints that were kept outside.
    pub(super) anchors: &'a [Anchor],
    /// Whose orders about legal holds count.
    pub(super) board: Option<&'a Board>,
    pub(super) ledger: &'a Ledger,
    pub(super) now_us: u64,
}

/// Checks the log of one node and hands out the plan of every session that it opened.
///
/// # Errors
/// The vault cannot be read. What is wrong with the evidence is in the facts.
pub(super) fn check_node<'a>(
    question: &Question<'a>,
    name: &'a str,
    trust: &NodeTrust<'a>,
    hand_out: &mut dyn FnMut(Plan),
) -> Result<NodeFacts, ReplayError> {
    let Question { vault, listing, anchors, board, ledger, now_us } = *question;
    let files = vault.log(name)?;
    let mut facts =
        NodeFacts { name: name.to_owned(), listed: matches!(trust, NodeTrust::Keys(_)), ..NodeFacts::default() };
    for stray in &files.strays {
        let finding = format!("{}: {}", stray.path, stray.what);
        if stray.poses { facts.alter(finding) } else { facts.remark(finding) }
    }
    // Before the checkpoints are read, for a bucket is told here what to read beside them.
    let tiles = TileFiles::new(vault, ledger, name, &files);
    let mut targets: BTreeMap<u64, Vec<Target<'a>>> = BTreeMap::new();
    Notes { vault, name, trust, ledger, now_us }.read(&files, &mut facts, &mut targets)?;
    for anchor in anchors.iter().filter(|anchor| anchor.note.checkpoint.origin == name) {
        let signed = trust.check(&anchor.note);
        if signed == Signed::ByAnother {
            facts.alter(format!("{}: signed in the name of {name} by a key that is not trusted", anchor.kept_by));
        }
        targets.entry(anchor.note.checkpoint.size).or_default().push(Target::of(anchor, signed));
    }
    let size = targets.last_key_value().map_or(0, |(size, _)| *size);
    if size == 0 {
        facts.remark("the log has no checkpoint that counts: nothing in it can be judged".to_owned());
    }
    let mut walk = Walk {
        files: tiles,
        facts,
        book: Book::new(name, listing, board),
        edge: Frontier::new(),
        tiles: Vec::new(),
        clocks: Clocks::default(),
        now_us,
    };
    walk.run(size, &mut targets, hand_out)?;
    let Walk { mut facts, book, .. } = walk;
    for (size, missed) in targets {
        for target in missed {
            facts.behind_anchor |= target.outside;
            let what = if target.outside { "the log was rolled back" } else { "leaves of the log are missing" };
            facts.alter(format!("{what}: {} leaves are here, and {} covers {size}", facts.size, target.from));
        }
    }
    book.close(&mut facts).into_values().for_each(hand_out);
    if facts.remarks_left_out > 0 {
        let more = format!("and {} more such remarks", facts.remarks_left_out);
        facts.remarks.push(more);
    }
    Ok(facts)
}

/// One pass over the leaves of a log.
struct Walk<'a> {
    files: TileFiles<'a>,
    facts: NodeFacts,
    book: Book<'a>,
    edge: Frontier,
    /// For each tile level, the hashes of the tile that is being filled.
    tiles: Vec<Vec<Hash>>,
    clocks: Clocks,
    /// The time of the verdict, in microseconds since 1970.
    now_us: u64,
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
            let Some((name, found)) = self.files.bundle(wanted)? else {
                self.facts.alter(format!("{}: is missing", self.files.place(wanted)));
                break;
            };
            let chosen = self.files.choose(name, &found, &self.edge, targets);
            let bytes = match chosen {
                Ok(bytes) => bytes,
                Err(what) => {
                    self.facts.alter(format!("{}: {what}", self.files.place(name)));
                    break;
                }
            };
            let entries = read_entries(&bytes, name.width, true).unwrap_or_default();
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
        let Clocks { first_us, newest_us, age_us, .. } = self.clocks;
        (self.facts.first_us, self.facts.newest_us, self.facts.age_us) = (first_us, newest_us, age_us);
        Ok(())
    }

    /// Holds the tree as it is now against all roots that are known for its size.
    fn reach(&mut self, targets: &mut BTreeMap<u64, Vec<Target<'a>>>) {
        let size = self.edge.size();
        let Some(reached) = targets.remove(&size) else { return };
        let Clocks { newest_us: wall_us, highest_us, past_us, .. } = self.clocks;
        let (known_us, runs_ahead) = (self.clocks.known_us(self.now_us), self.clocks.runs_ahead(self.now_us));
        let root = self.edge.root();
        for target in reached {
            let late = match target.signed {
                Signed::By(listed) => size > 0 && !listed.period.contains(highest_us),
                _ => false,
            };
            if target.root != root {
                self.facts.alter(format!("the first {size} leaves do not have the root of {}", target.from));
                self.facts.broken_below = self.facts.broken_below.max(size);
            } else if late {
                self.facts.alter(format!("{} is signed outside the period of its key", target.from));
            } else if target.outside && target.signed == Signed::ByAnother {
                continue;
            } else {
                self.facts.checkpoints += u64::from(!target.outside);
                self.facts.dated.extend(target.server_us.map(|server_us| (size, server_us, wall_us)));
                let Some(kept) = target.kept else { continue };
                let unknown = kept.session.filter(|session| !self.book.knows(*session));
                if let Some(session) = unknown {
                    self.facts.alter(format!("the slip is for session {session}, which the log does not know by then"));
                }
                let (kept_by, server_us) = (kept.by, kept.server_us);
                let ahead = runs_ahead && server_us.is_none();
                let anchor = AnchorFacts { kept_by, size, wall_us, known_us, past_us, ahead, server_us };
                self.facts.anchors.push(anchor);
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
        let before_us = self.clocks.begun.then_some(self.clocks.highest_us);
        if let (Some(wall_us), Some(before_us)) = (self.clocks.take(&leaf, self.now_us), before_us) {
            self.clock(index, wall_us, before_us);
        }
        self.facts.age_us = self.clocks.age_us;
        self.book.take(index, leaf, &mut self.facts, hand_out);
        Ok(())
    }

    /// Notes what the wall clock of a leaf does behind the highest before it; a clock is a finding, never a failure.
    fn clock(&mut self, index: u64, wall_us: u64, before_us: u64) {
        if wall_us.saturating_add(CLOCK_SLACK_US) < before_us {
            let back = length(before_us - wall_us);
            self.facts.remark(format!("clock: leaf {index} is {back} older than one before it"));
        } else if wall_us > before_us.saturating_add(SILENCE_US) {
            let silent = length(wall_us - before_us);
            self.facts.remark(format!("clock: no leaf for {silent} before leaf {index}"));
        }
    }

    /// Holds the other widths of a bundle against the one that was read: one is the beginning of the other.
    fn compare_bundles(&mut self, name: TileName, bytes: &[u8]) -> Result<(), ReplayError> {
        let widths = self.files.widths(name.content, name.index).iter();
        let others: Vec<_> =
            widths.filter(|width| **width != name.width).map(|width| TileName { width: *width, ..name }).collect();
        let misfits = self.files.misfits(&others, |other, found| {
            let common = found.len().min(bytes.len());
            let alike =
                found.get(..common) == bytes.get(..common) && (found.len() < bytes.len()) == (other.width < name.width);
            alike && read_entries(found, other.width, true).is_ok()
        })?;
        for other in misfits {
            self.facts.alter(format!("{}: contradicts {name}", self.files.place(other)));
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
        let widths = self.files.widths(content, index).iter();
        let names: Vec<_> = widths.map(|width| TileName { content, index, width: *width }).collect();
        if names.is_empty() {
            let name = TileName { content, index, width: hashes.len() as u16 };
            self.facts.remark(format!("{}: is missing, and follows from the entries", self.files.place(name)));
        }
        let misfits = self.files.misfits(&names, |name, found| {
            let (found, rest) = found.as_chunks::<32>();
            let same = found.iter().zip(&hashes).all(|(found, hash)| *found == hash.0);
            same && rest.is_empty() && found.len() == usize::from(name.width)
        })?;
        for name in misfits {
            self.facts.alter(format!("{}: does not follow from the entries", self.files.place(name)));
        }
        Ok(())
    }
}
