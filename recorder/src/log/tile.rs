//! Tiles and entry bundles as C2SP tlog-tiles lays them out: their names and their bytes.
//!
//! A tile holds up to 256 hashes of one level; a bundle holds the entries of up to 256 leaves. Both are immutable once
//! full; a partial one is named by its width. Knows no file and no directory beyond the names.

use std::fmt;
use std::str::FromStr;

use super::merkle::{HASH_LEN, Hash, leaf_hash, node_hash};

/// How many hashes or entries a full tile or bundle holds.
pub const TILE_WIDTH: u16 = 256;

/// log2 of [`TILE_WIDTH`]: one level of tiles stands for eight levels of the tree.
const TILE_HEIGHT: u32 = 8;

/// The highest tile level that the specification allows.
const LEVEL_MAX: u8 = 63;

/// An entry in a bundle is at most this long, in bytes.
pub const ENTRY_LEN_MAX: usize = 65_535;

/// What lies in a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Content {
    /// Hashes of tree level `8 * level`.
    Hashes {
        /// The tile level.
        level: u8,
    },
    /// The entries themselves.
    Entries,
}

/// The name of a tile or bundle, relative to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileName {
    /// What lies in it.
    pub content: Content,
    /// Which one of its level, from the left.
    pub index: u64,
    /// How many hashes or entries it holds, 1 to 256; below 256 it is partial.
    pub width: u16,
}

/// Why a name or the bytes of a tile are not in the form of the specification.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TileError {
    /// Not a name that [`TileName`] would print.
    #[error("not the name of a tile or an entry bundle")]
    Name,
    /// The bytes do not hold as much as the name says.
    #[error("holds {have} of the {need} hashes or entries that its name says")]
    Short {
        /// Whole entries or hashes that are there.
        have: usize,
        /// How many there should be.
        need: usize,
    },
    /// More bytes than the name says.
    #[error("holds more bytes than its name says")]
    Long,
    /// An entry over [`ENTRY_LEN_MAX`].
    #[error("entry of {0} bytes is over the limit of 65535")]
    Entry(usize),
}

impl fmt::Display for TileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.content {
            Content::Hashes { level } => write!(f, "tile/{level}/")?,
            Content::Entries => f.write_str("tile/entries/")?,
        }
        let mut groups = vec![self.index % 1000];
        let mut rest = self.index / 1000;
        while rest > 0 {
            groups.push(rest % 1000);
            rest /= 1000;
        }
        while let Some(group) = groups.pop() {
            let (mark, end) = if groups.is_empty() { ("", "") } else { ("x", "/") };
            write!(f, "{mark}{group:03}{end}")?;
        }
        if self.width < TILE_WIDTH { write!(f, ".p/{}", self.width) } else { Ok(()) }
    }
}

impl TileName {
    /// Cuts what a wider one of the same place holds to what this one does: it begins with it.
    ///
    /// # Errors
    /// It holds less, or is none.
    pub fn cut(self, wider: &[u8]) -> Result<Vec<u8>, TileError> {
        match self.content {
            Content::Hashes { .. } => {
                let (have, need) = (wider.len() / HASH_LEN, usize::from(self.width));
                wider.get(..need * HASH_LEN).map(<[u8]>::to_vec).ok_or(TileError::Short { have, need })
            }
            Content::Entries => {
                let mut bundle = Vec::new();
                for entry in read_entries(wider, self.width, false)? {
                    push_entry(&mut bundle, entry)?;
                }
                Ok(bundle)
            }
        }
    }
}

impl FromStr for TileName {
    type Err = TileError;

    fn from_str(text: &str) -> Result<Self, TileError> {
        let rest = text.strip_prefix("tile/").ok_or(TileError::Name)?;
        let (level, rest) = rest.split_once('/').ok_or(TileError::Name)?;
        let content = match level {
            "entries" => Content::Entries,
            level => Content::Hashes { level: level.parse().map_err(|_| TileError::Name)? },
        };
        let (index, width) = match rest.split_once(".p/") {
            Some((index, width)) => (index, width.parse().map_err(|_| TileError::Name)?),
            None => (rest, TILE_WIDTH),
        };
        let mut number = 0u64;
        for group in index.split('/') {
            let digits: u64 = group.trim_start_matches('x').parse().map_err(|_| TileError::Name)?;
            number = number.checked_mul(1000).and_then(|n| n.checked_add(digits)).ok_or(TileError::Name)?;
        }
        let name = Self { content, index: number, width };
        // One valid spelling: whatever was let through above must print as it was read.
        let in_range = !matches!(content, Content::Hashes { level } if level > LEVEL_MAX);
        if in_range && (1..=TILE_WIDTH).contains(&width) && name.to_string() == text {
            Ok(name)
        } else {
            Err(TileError::Name)
        }
    }
}

/// Returns the tiles and bundles that a tree needs when it has grown from `old` to `new` leaves: those that the tree of
/// `old` leaves did not have in that width. From 0, that is all there are.
pub fn new_tiles(old: u64, new: u64) -> Vec<TileName> {
    let mut names = Vec::new();
    let mut level = 0u8;
    loop {
        let shift = TILE_HEIGHT * u32::from(level);
        let (had, has) = (old.checked_shr(shift).unwrap_or(0), new.checked_shr(shift).unwrap_or(0));
        if has == 0 {
            return names;
        }
        if has > had {
            for index in had >> TILE_HEIGHT..has.div_ceil(u64::from(TILE_WIDTH)) {
                // At most 256 by construction, so the cast keeps everything.
                let width = (has - (index << TILE_HEIGHT)).min(TILE_WIDTH.into()) as u16;
                if level == 0 {
                    names.push(TileName { content: Content::Entries, index, width });
                }
                names.push(TileName { content: Content::Hashes { level }, index, width });
            }
        }
        level += 1;
    }
}

/// Returns the entry bundles of a tree of `size` leaves, from the left.
pub fn bundles(size: u64) -> impl Iterator<Item = TileName> {
    (0..size.div_ceil(TILE_WIDTH.into())).map(move |index| TileName {
        content: Content::Entries,
        index,
        width: (size - (index << TILE_HEIGHT)).min(TILE_WIDTH.into()) as u16,
    })
}

/// Appends an entry to the bytes of a bundle: its length as two bytes, big-endian, then the entry.
///
/// # Errors
/// The entry is longer than [`ENTRY_LEN_MAX`]; the bundle is as it was.
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> Result<(), TileError> {
    let len = u16::try_from(entry.len()).map_err(|_| TileError::Entry(entry.len()))?;
    bundle.extend_from_slice(&len.to_be_bytes());
    bundle.extend_from_slice(entry);
    Ok(())
}

/// Reads the first `width` entries of a bundle. With `exact`, nothing may follow them; without, a wider bundle serves a
/// narrower tree.
///
/// # Errors
/// Fewer entries than asked for, or more bytes than an exact bundle has.
pub fn read_entries(bundle: &[u8], width: u16, exact: bool) -> Result<Vec<&[u8]>, TileError> {
    let mut entries = Vec::with_capacity(width.into());
    let mut rest = bundle;
    for _ in 0..width {
        let short = TileError::Short { have: entries.len(), need: width.into() };
        let Some((len, after)) = rest.split_first_chunk::<2>() else { return Err(short) };
        let Some((entry, after)) = after.split_at_checked(u16::from_be_bytes(*len).into()) else { return Err(short) };
        entries.push(entry);
        rest = after;
    }
    if exact && !rest.is_empty() {
        return Err(TileError::Long);
    }
    Ok(entries)
}

/// Writes hashes as the bytes of a tile.
pub fn write_hashes(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

/// Reads the bytes of a tile of that width.
///
/// # Errors
/// Fewer or more hashes than the width says.
pub fn read_hashes(tile: &[u8], width: u16) -> Result<Vec<Hash>, TileError> {
    let (chunks, rest) = tile.as_chunks::<HASH_LEN>();
    let need = usize::from(width);
    if chunks.len() < need {
        return Err(TileError::Short { have: chunks.len(), need });
    }
    if chunks.len() > need || !rest.is_empty() {
        return Err(TileError::Long);
    }
    Ok(chunks.iter().copied().map(Hash).collect())
}

/// Computes the hashes of a bundle's entries: the content of the level-0 tile beside it.
pub fn leaf_hashes(entries: &[&[u8]]) -> Vec<Hash> {
    entries.iter().map(|entry| leaf_hash(entry)).collect()
}

/// Computes the node that a full tile stands for one tile level higher; `None` unless the tile is full.
pub fn tile_root(tile: &[Hash]) -> Option<Hash> {
    if tile.len() != usize::from(TILE_WIDTH) {
        return None;
    }
    let mut level = tile.to_vec();
    while level.len() > 1 {
        let (pairs, _) = level.as_chunks::<2>();
        level = pairs.iter().map(|[left, right]| node_hash(left, right)).collect();
    }
    level.pop()
}

/// Picks a node `(level, index)` of the tree out of the tile that covers it: returns the tile's level and index and the
/// range of its hashes that the node stands over.
pub fn locate(level: u8, index: u64) -> (u8, u64, std::ops::Range<usize>) {
    let tile_level = level / 8;
    let within = level % 8;
    let first = index << within;
    let offset = (first % u64::from(TILE_WIDTH)) as usize;
    (tile_level, first >> TILE_HEIGHT, offset..offset + (1 << within))
}

#[cfg(test)]
mod tests {
    use super::super::merkle::tests::{leaves, naive_root};
    use super::super::merkle::{Frontier, consistency_proof, verify_consistency};
    use super::*;

    fn hashes(level: u8, index: u64, width: u16) -> TileName {
        TileName { content: Content::Hashes { level }, index, width }
    }

    fn entries(index: u64, width: u16) -> TileName {
        TileName { content: Content::Entries, index, width }
    }

    #[test]
    fn a_narrow_tile_is_the_beginning_of_a_wide_one() {
        let (mut wide, mut narrow) = (Vec::new(), Vec::new());
        for entry in [&b"one"[..], b"", b"three"] {
            push_entry(&mut wide, entry).unwrap();
        }
        push_entry(&mut narrow, b"one").unwrap();
        push_entry(&mut narrow, b"").unwrap();
        assert_eq!(entries(0, 2).cut(&wide).unwrap(), narrow);
        assert_eq!(entries(0, 3).cut(&wide).unwrap(), wide);
        assert_eq!(entries(0, 4).cut(&wide), Err(TileError::Short { have: 3, need: 4 }));
        let wide: Vec<u8> = (0..96).collect();
        assert_eq!(hashes(1, 0, 2).cut(&wide).unwrap(), wide[..64]);
        assert_eq!(hashes(1, 0, 4).cut(&wide), Err(TileError::Short { have: 3, need: 4 }));
    }

    #[test]
    fn names_are_those_of_the_specification() {
        let cases = [
            (hashes(0, 1_234_067, 256), "tile/0/x001/x234/067"),
            (hashes(3, 0, 1), "tile/3/000.p/1"),
            (entries(999, 255), "tile/entries/999.p/255"),
            (entries(1000, 256), "tile/entries/x001/000"),
        ];
        for (name, text) in cases {
            assert_eq!(name.to_string(), text);
            assert_eq!(text.parse(), Ok(name));
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "",
            "tile",
            "tile/0",
            "tile/0/",
            "tile/0/1",
            "tile/0/01",
            "tile/00/001",
            "tile/64/001",
            "tile/0/x000/001",
            "tile/0/001/x001",
            "tile/0/001.p/0",
            "tile/0/001.p/256",
            "tile/0/001.p/01",
            "tile/0/001.p/",
            "tile/0/+01",
            "tile/0/xx001/001",
            "tile/data/001",
            "tile/entries/x999/x999/x999/x999/x999/x999/x999/999",
            "/tile/0/001",
        ] {
            assert_eq!(text.parse::<TileName>(), Err(TileError::Name), "{text}");
        }
    }

    #[test]
    fn a_tree_has_the_tiles_it_needs_and_no_others() {
        assert_eq!(new_tiles(0, 0), []);
        assert_eq!(new_tiles(0, 1), [entries(0, 1), hashes(0, 0, 1)]);
        assert_eq!(new_tiles(7, 7), []);
        // The example of the specification: 70,000 leaves.
        let all = new_tiles(0, 70_000);
        assert_eq!(all.iter().filter(|name| name.content == Content::Hashes { level: 0 }).count(), 274);
        assert!(all.contains(&hashes(0, 273, 112)));
        assert!(all.contains(&hashes(1, 1, 17)));
        assert!(all.contains(&hashes(2, 0, 1)));
        assert!(all.contains(&entries(273, 112)));
        assert_eq!(bundles(70_000).collect::<Vec<_>>(), {
            let mut of_all = all.clone();
            of_all.retain(|name| name.content == Content::Entries);
            of_all
        });
        // Growing by one leaf at a time writes exactly what is new.
        assert_eq!(
            new_tiles(255, 257),
            [entries(0, 256), hashes(0, 0, 256), entries(1, 1), hashes(0, 1, 1), hashes(1, 0, 1)]
        );
        assert_eq!(new_tiles(256, 257), [entries(1, 1), hashes(0, 1, 1)]);
    }

    #[test]
    fn bundles_survive_the_round_trip_and_every_cut_is_an_error() {
        let mut bundle = Vec::new();
        let long = vec![9; ENTRY_LEN_MAX];
        for entry in [b"".as_slice(), b"one", &long] {
            push_entry(&mut bundle, entry).unwrap();
        }
        assert_eq!(read_entries(&bundle, 3, true).unwrap(), [b"".as_slice(), b"one", &long]);
        assert_eq!(read_entries(&bundle, 2, false).unwrap().len(), 2);
        assert_eq!(read_entries(&bundle, 2, true), Err(TileError::Long));
        for cut in (0..bundle.len()).step_by(97).chain([1, 2, 3, 4, 5, 6, 7]) {
            assert!(matches!(read_entries(&bundle[..cut], 3, true), Err(TileError::Short { .. })), "cut at {cut}");
        }
        assert_eq!(push_entry(&mut bundle, &vec![0; ENTRY_LEN_MAX + 1]), Err(TileError::Entry(ENTRY_LEN_MAX + 1)));
    }

    #[test]
    fn tiles_hold_every_node_that_a_proof_or_a_restart_asks_for() {
        let all = leaves(70_000);
        let mut edge = Frontier::new();
        let mut tiles: std::collections::HashMap<(u8, u64), Vec<Hash>> = Default::default();
        for leaf in &all {
            edge.append_each(*leaf, |level, index, hash| {
                if level % 8 == 0 {
                    tiles.entry((level / 8, index >> 8)).or_default().push(hash);
                }
            });
        }
        assert_eq!(tiles[&(1, 0)][1], tile_root(&tiles[&(0, 1)]).unwrap());
        assert_eq!(tile_root(&tiles[&(0, 273)]), None);
        for name in new_tiles(0, 70_000) {
            if let Content::Hashes { level } = name.content {
                let tile = &tiles[&(level, name.index)];
                assert_eq!(tile.len(), usize::from(name.width), "{name}");
                assert_eq!(read_hashes(&write_hashes(tile), name.width).unwrap(), *tile);
            }
        }
        let node = |level: u8, index: u64| -> Result<Hash, TileError> {
            let (tile_level, tile, range) = locate(level, index);
            Ok(naive_root(&tiles[&(tile_level, tile)][range]))
        };
        assert_eq!(Frontier::restore(70_000, node).unwrap(), edge);
        for old in [1, 255, 256, 257, 65_536, 69_999] {
            let proof = consistency_proof(old, 70_000, node).unwrap();
            verify_consistency(old, &naive_root(&all[..old as usize]), 70_000, &edge.root(), &proof).unwrap();
        }
    }
}
