//! Tiles and entry bundles of one node log: found by place and width, read in every version, told apart by what fits.

use std::collections::{BTreeMap, HashMap};
use std::iter;

use casemate_recorder::log::merkle::{Frontier, Hash, leaf_hash};
use casemate_recorder::log::tile::{Content, ENTRY_LEN_MAX, TILE_WIDTH, TileName, read_entries};
use casemate_recorder::vault::log_key;

use super::ledger::Ledger;
use super::notes::Target;
use crate::ReplayError;
use crate::vault::{Found, LogListing, Vault};
use casemate_screen::safe::visible;

/// A bundle is at most this long, in bytes.
const BUNDLE_LEN_MAX: u64 = TILE_WIDTH as u64 * (ENTRY_LEN_MAX as u64 + 2);

/// How many bundles the vault is told of at a time: names that nothing speaks of must not keep anybody busy.
const EXPECTED: u64 = 64;

/// Levels of tiles over the longest log that there can be: each has 256 times as many leaves below it.
const TILE_LEVELS: u8 = 7;

/// Finds tiles and bundles among the files that were listed.
pub(super) struct TileFiles<'a> {
    vault: &'a Vault,
    ledger: &'a Ledger,
    node: String,
    widths: HashMap<(Content, u64), Vec<u16>>,
    /// One more than the index of the last bundle here.
    end: u64,
    /// The first bundle that the vault was not told of yet.
    expected: u64,
}

impl<'a> TileFiles<'a> {
    pub(super) fn new(vault: &'a Vault, ledger: &'a Ledger, node: &str, listing: &LogListing) -> Self {
        let bundles = listing.tiles.iter().filter(|tile| tile.content == Content::Entries);
        let end = bundles.map(|bundle| bundle.index.saturating_add(1)).max().unwrap_or(0);
        let widths = Self::group(listing);
        let mut files = Self { vault, ledger, node: node.to_owned(), widths, end, expected: 0 };
        files.expect(0);
        files
    }

    /// Tells the vault what will be read next, from that bundle on: all widths of it and of the tiles that end with it.
    fn expect(&mut self, index: u64) {
        self.expected = self.expected.max(index);
        while self.expected < self.end.min(index.saturating_add(EXPECTED)) {
            let (index, next) = (self.expected, self.expected + 1);
            let ends = |level: &u8| next.trailing_zeros() >= 8 * u32::from(*level) || next == self.end;
            let tiles =
                (0..TILE_LEVELS).take_while(ends).map(|level| (Content::Hashes { level }, index >> (8 * level)));
            let mut names = iter::once((Content::Entries, index)).chain(tiles).flat_map(|(content, index)| {
                self.widths(content, index).iter().map(move |width| TileName { content, index, width: *width })
            });
            if !names.all(|name| self.vault.expect(&self.key(name), BUNDLE_LEN_MAX)) {
                return;
            }
            self.expected = next;
        }
    }

    fn group(listing: &LogListing) -> HashMap<(Content, u64), Vec<u16>> {
        let mut widths: HashMap<_, Vec<u16>> = HashMap::new();
        for tile in &listing.tiles {
            widths.entry((tile.content, tile.index)).or_default().push(tile.width);
        }
        widths.values_mut().for_each(|widths| widths.sort_unstable());
        widths
    }

    pub(super) fn widths(&self, content: Content, index: u64) -> &[u16] {
        self.widths.get(&(content, index)).map_or(&[], Vec::as_slice)
    }

    fn key(&self, tile: TileName) -> String {
        log_key(&self.node, &tile.to_string())
    }

    /// Names a tile for a report.
    pub(super) fn place(&self, tile: TileName) -> String {
        visible(&self.key(tile))
    }

    /// Reads the narrowest bundle that is at least as wide as asked for, or else the widest there is, in all its versions.
    pub(super) fn bundle(&mut self, wanted: TileName) -> Result<Option<(TileName, Vec<Found>)>, ReplayError> {
        self.expect(wanted.index);
        for attempt in 0..2 {
            if attempt > 0 {
                // In a live vault a partial bundle gives way to a wider one at any moment: look again.
                self.widths = Self::group(&self.vault.log(&self.node)?);
            }
            let widths = self.widths(wanted.content, wanted.index);
            let width = widths.iter().find(|width| **width >= wanted.width).or_else(|| widths.last());
            let Some(width) = width.copied() else { continue };
            let name = TileName { width, ..wanted };
            let found = self.vault.read_all(&[self.key(name)], BUNDLE_LEN_MAX)?.into_iter().next().unwrap_or_default();
            if !found.is_empty() {
                return Ok(Some((name, found)));
            }
        }
        Ok(None)
    }

    /// Finds the bundle among all that lies under its name: where several could be it, the one from which the tree grows
    /// to a root that is known.
    ///
    /// # Errors
    /// None could be it: why.
    pub(super) fn choose(
        &self,
        name: TileName,
        found: &[Found],
        edge: &Frontier,
        targets: &BTreeMap<u64, Vec<Target<'_>>>,
    ) -> Result<Vec<u8>, String> {
        let mut why = None;
        let mut best: Option<usize> = None;
        for (at, one) in found.iter().enumerate() {
            let entries = match &one.content {
                Ok(bytes) => read_entries(bytes, name.width, true).map_err(|error| error.to_string()),
                Err(ReplayError::Evidence { what, .. }) => Err(what.clone()),
                Err(error) => Err(error.to_string()),
            };
            match entries {
                Ok(entries) if found.len() > 1 && grows(edge, &entries, targets) => {
                    best = Some(at);
                    break;
                }
                // The first is what the node put there, as far as anybody can tell.
                Ok(_) => best = best.or(Some(at)),
                Err(what) => {
                    why.get_or_insert(what);
                }
            }
        }
        let Some(best) = best.and_then(|at| found.get(at)) else {
            return Err(why.unwrap_or_else(|| "is not there".to_owned()));
        };
        let bytes = best.content.as_deref().unwrap_or_default();
        self.note(name, found, |content| content == bytes);
        Ok(bytes.to_vec())
    }

    /// Reads the given widths of a bundle or tile, and returns those of which no version fits.
    pub(super) fn misfits(
        &self,
        names: &[TileName],
        fits: impl Fn(TileName, &[u8]) -> bool,
    ) -> Result<Vec<TileName>, ReplayError> {
        let keys: Vec<String> = names.iter().map(|name| self.key(*name)).collect();
        let mut misfits = Vec::new();
        for (name, found) in names.iter().zip(self.vault.read_all(&keys, BUNDLE_LEN_MAX)?) {
            let any = self.note(*name, &found, |content| fits(*name, content));
            if !any && !found.is_empty() {
                misfits.push(*name);
            }
        }
        Ok(misfits)
    }

    /// Writes down what the versions of a name are; returns whether one of them fits.
    fn note(&self, name: TileName, found: &[Found], fits: impl Fn(&[u8]) -> bool) -> bool {
        let is_right = |one: &&Found| one.content.as_deref().is_ok_and(&fits);
        let (right, wrong): (Vec<_>, Vec<_>) = found.iter().partition(is_right);
        let key = self.key(name);
        self.ledger.right(&key, &right);
        if !right.is_empty() {
            wrong.iter().for_each(|one| self.ledger.over(&key, &one.version));
        }
        !right.is_empty()
    }
}

/// Whether the tree, grown by these entries, has one of the roots that are known for its sizes on the way.
fn grows(edge: &Frontier, entries: &[&[u8]], targets: &BTreeMap<u64, Vec<Target<'_>>>) -> bool {
    let mut tree = edge.clone();
    let fits = |tree: &Frontier| -> Option<bool> {
        let root: Hash = tree.root();
        targets.get(&tree.size()).map(|known| known.iter().any(|target| target.root == root))
    };
    let mut last = None;
    for entry in entries {
        tree.append(leaf_hash(entry));
        last = fits(&tree).or(last);
    }
    last == Some(true)
}
