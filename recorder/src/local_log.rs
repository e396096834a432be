//! The node log as this node keeps it: materialised from the journal, and published as tiles.
//!
//! Two kinds of files: `hashes`, 32 bytes a leaf, and `entries/<n>`, the leaves themselves, 256 a file in the form of an
//! entry bundle. Both only grow. Everything else (tiles, roots) is computed from them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::OpenError;
use crate::fs::{File, Fs};
use crate::log::leaf::Leaf;
use crate::log::merkle::{Frontier, HASH_LEN, Hash, leaf_hash};
use crate::log::note::Note;
use crate::log::tile::{self, Content, TILE_WIDTH, TileName, new_tiles};
use crate::vault::{Vault, VaultError, day, log_key};

const WIDTH: u64 = TILE_WIDTH as u64;

/// The local node log.
#[derive(Debug)]
pub(crate) struct LocalLog {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    node: String,
    hashes: Arc<dyn File>,
    bundle: Arc<dyn File>,
    bundle_no: u64,
    bundle_len: u64,
    frontier: Frontier,
    /// Content of the tiles at the right edge, and of full ones that are not published yet.
    tiles: BTreeMap<(u8, u64), Vec<Hash>>,
    /// The size of the newest tree whose tiles and checkpoint are in the vault.
    published: u64,
}

impl LocalLog {
    /// Opens the log in `dir`, cutting off what a crash left half-written; `published` is what the vault already has.
    ///
    /// Leaves from `journaled` on are in the journal still, because they may not be synced here: a power cut may have left
    /// any part of them, so none of it is believed. The caller adds them again.
    pub(crate) fn open(
        fs: Arc<dyn Fs>,
        dir: PathBuf,
        node: String,
        published: u64,
        journaled: Option<u64>,
    ) -> Result<Self, OpenError> {
        let entries_dir = dir.join("entries");
        fs.create_dir_all(&entries_dir, 0o700).map_err(OpenError::io("cannot make", &entries_dir))?;
        let hashes_path = dir.join("hashes");
        let hashes = open_or_create(fs.as_ref(), &hashes_path)?;
        let stored = fs.read(&hashes_path).map_err(OpenError::io("cannot read", &hashes_path))?;
        let (stored, _) = stored.as_chunks::<HASH_LEN>();

        let mut numbers: Vec<u64> = fs
            .list(&entries_dir)
            .map_err(OpenError::io("cannot list", &entries_dir))?
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        numbers.sort_unstable();
        let newest = numbers.last().copied().unwrap_or(0);
        let in_newest = count_entries(&read_or_empty(fs.as_ref(), &bundle_path(&dir, newest))?);
        let size = (stored.len() as u64).min(newest * WIDTH + in_newest).min(journaled.unwrap_or(u64::MAX));
        for number in numbers.into_iter().filter(|number| *number > size / WIDTH) {
            let path = bundle_path(&dir, number);
            fs.remove(&path).map_err(OpenError::io("cannot remove", &path))?;
        }

        let bundle_no = size / WIDTH;
        let path = bundle_path(&dir, bundle_no);
        let bytes = read_or_empty(fs.as_ref(), &path)?;
        let width = (size % WIDTH) as u16;
        let damaged = |reason| OpenError::LogDamaged { index: size, reason, state: dir.clone() };
        let kept = tile::read_entries(&bytes, width, false).map_err(|_| damaged("its last bundle is too short"))?;
        let first = (bundle_no * WIDTH) as usize;
        if stored.get(first..size as usize).is_none_or(|edge| {
            edge.len() != kept.len() || kept.iter().zip(edge).any(|(entry, hash)| leaf_hash(entry).0 != *hash)
        }) {
            return Err(damaged("its entries do not have the hashes that were stored for them"));
        }
        let bundle_len = kept.iter().map(|entry| entry.len() as u64 + 2).sum();
        let bundle = open_or_create(fs.as_ref(), &path)?;
        bundle.set_len(bundle_len).map_err(OpenError::io("cannot cut", &path))?;
        hashes.set_len(size * HASH_LEN as u64).map_err(OpenError::io("cannot cut", &hashes_path))?;
        for level in [&entries_dir, &dir] {
            fs.sync_dir(level).map_err(OpenError::io("cannot sync", level))?;
        }

        let mut log = Self {
            fs,
            dir,
            node,
            hashes,
            bundle,
            bundle_no,
            bundle_len,
            frontier: Frontier::new(),
            tiles: BTreeMap::new(),
            published,
        };
        for hash in stored.iter().take(size as usize) {
            log.grow(Hash(*hash));
        }
        Ok(log)
    }

    /// Returns how many leaves the log has.
    pub(crate) fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// Returns a copy of the tree's edge, for the journal thread to go on from.
    pub(crate) fn frontier(&self) -> Frontier {
        self.frontier.clone()
    }

    /// Computes the root over the first `size` leaves, at the cost of reading all their hashes.
    pub(crate) fn root_at(&self, size: u64) -> Result<Hash, OpenError> {
        let (_, root) = root_of(self.fs.as_ref(), &self.dir, size).map_err(OpenError::io("cannot read", &self.dir))?;
        root.ok_or_else(|| OpenError::LogDamaged {
            index: size,
            reason: "its hashes end before it",
            state: self.dir.clone(),
        })
    }

    /// Returns the ordinal that the next session of this node gets: one more than that of the last OPEN leaf.
    pub(crate) fn next_ordinal(&self) -> Result<u64, OpenError> {
        for number in (0..=self.size() / WIDTH).rev() {
            let bytes = read_or_empty(self.fs.as_ref(), &bundle_path(&self.dir, number))?;
            let width = (self.size() - number * WIDTH).min(WIDTH) as u16;
            let entries = tile::read_entries(&bytes, width, false).unwrap_or_default();
            for entry in entries.iter().rev() {
                if let Ok(Leaf::Open(open)) = Leaf::decode(entry) {
                    return Ok(open.ordinal + 1);
                }
            }
        }
        Ok(0)
    }

    fn grow(&mut self, leaf: Hash) {
        let (tiles, published) = (&mut self.tiles, self.published);
        self.frontier.append_each(leaf, |level, index, hash| {
            if level % 8 != 0 {
                return;
            }
            let level = level / 8;
            tiles.entry((level, index / WIDTH)).or_default().push(hash);
            let last_of_tile = index % WIDTH == WIDTH - 1;
            if last_of_tile && (index + 1) <= published.checked_shr(8 * u32::from(level)).unwrap_or(0) {
                tiles.remove(&(level, index / WIDTH));
            }
        });
    }

    /// Adds a leaf. One that is already there must be the same.
    pub(crate) fn append(&mut self, index: u64, entry: &[u8]) -> std::io::Result<()> {
        let size = self.size();
        if index != size {
            return Err(std::io::Error::other(format!("leaf {index} where the log has {size}")));
        }
        if size / WIDTH != self.bundle_no {
            self.bundle.sync_data()?;
            self.bundle_no = size / WIDTH;
            self.bundle = self.fs.create(&bundle_path(&self.dir, self.bundle_no))?;
            self.fs.sync_dir(&self.dir.join("entries"))?;
            self.bundle_len = 0;
        }
        let mut framed = Vec::with_capacity(entry.len() + 2);
        tile::push_entry(&mut framed, entry).map_err(std::io::Error::other)?;
        self.bundle.write_at(self.bundle_len, &framed)?;
        self.bundle_len += framed.len() as u64;
        let hash = leaf_hash(entry);
        self.hashes.write_at(size * HASH_LEN as u64, &hash.0)?;
        self.grow(hash);
        Ok(())
    }

    /// Makes everything appended so far durable.
    pub(crate) fn sync(&self) -> std::io::Result<()> {
        self.bundle.sync_data()?;
        self.hashes.sync_data()
    }

    /// Puts a checkpoint into the vault, behind the tiles that it covers. Older partial tiles go.
    pub(crate) fn publish(&mut self, vault: &Vault, note: &Note, wall_us: u64) -> Result<(), VaultError> {
        let size = note.checkpoint.size;
        if size <= self.published {
            return Ok(());
        }
        let names = new_tiles(self.published, size);
        for name in &names {
            let key = log_key(&self.node, &name.to_string());
            let bytes = self.tile_bytes(name).map_err(|source| {
                // A checkpoint without what it covers would look like a forgery.
                VaultError::Io { what: "cannot read the local log for", key: key.clone(), source }
            })?;
            if let Some(bytes) = bytes {
                vault.put_new(&key, &bytes)?;
            }
        }
        let path = note.checkpoint.path(&day(wall_us));
        vault.put_new(&log_key(&self.node, &path), note.to_string().as_bytes())?;
        for name in &names {
            if let Some(old) = self.superseded(name) {
                vault.drop_superseded(&log_key(&self.node, &old.to_string()));
            }
        }
        self.published = size;
        self.tiles.retain(|(level, index), hashes| {
            hashes.len() < WIDTH as usize || (index + 1) * WIDTH > size.checked_shr(8 * u32::from(*level)).unwrap_or(0)
        });
        Ok(())
    }

    /// The partial tile that the vault has of this one, where it is narrower.
    fn superseded(&self, name: &TileName) -> Option<TileName> {
        let level = match name.content {
            Content::Entries => 0,
            Content::Hashes { level } => level,
        };
        let had = self.published.checked_shr(8 * u32::from(level)).unwrap_or(0).checked_sub(name.index * WIDTH)?;
        let width = u16::try_from(had).ok().filter(|width| (1..name.width).contains(width))?;
        Some(TileName { width, ..*name })
    }

    fn tile_bytes(&self, name: &TileName) -> std::io::Result<Option<Vec<u8>>> {
        match name.content {
            Content::Hashes { level } => {
                let hashes = self.tiles.get(&(level, name.index));
                Ok(hashes.and_then(|hashes| hashes.get(..usize::from(name.width))).map(tile::write_hashes))
            }
            Content::Entries => {
                let bytes = self.fs.read(&bundle_path(&self.dir, name.index))?;
                let entries = tile::read_entries(&bytes, name.width, false).map_err(std::io::Error::other)?;
                let len = entries.iter().map(|entry| entry.len() + 2).sum();
                Ok(bytes.get(..len).map(<[u8]>::to_vec))
            }
        }
    }
}

/// Returns how many leaves the log in `dir` has, and the root over the first `size` of them where it has as many; at the
/// cost of reading all their hashes.
pub(crate) fn root_of(fs: &dyn Fs, dir: &std::path::Path, size: u64) -> std::io::Result<(u64, Option<Hash>)> {
    let stored = fs.read(&dir.join("hashes"))?;
    let (stored, _) = stored.as_chunks::<HASH_LEN>();
    let len = stored.len() as u64;
    if len < size {
        return Ok((len, None));
    }
    let mut frontier = Frontier::new();
    for hash in stored.iter().take(size as usize) {
        frontier.append(Hash(*hash));
    }
    Ok((len, Some(frontier.root())))
}

/// Returns how many leaves the log in `dir` has: as many as have their entry and their hash.
pub(crate) fn leaf_count(fs: &dyn Fs, dir: &std::path::Path) -> std::io::Result<u64> {
    let names = fs.list(&dir.join("entries"))?;
    let newest = names.iter().filter_map(|name| name.parse::<u64>().ok()).max().unwrap_or(0);
    Ok(newest * WIDTH + count_entries(&fs.read(&bundle_path(dir, newest))?))
}

/// Reads the leaves of the log in `dir` from `from` to before `end`, those that cannot be decoded left out, with their index.
pub(crate) fn read_leaves(
    fs: &dyn Fs,
    dir: &std::path::Path,
    from: u64,
    end: u64,
    each: &mut dyn FnMut(u64, Leaf),
) -> std::io::Result<()> {
    for number in from / WIDTH..end.div_ceil(WIDTH) {
        let bytes = fs.read(&bundle_path(dir, number))?;
        let first = number * WIDTH;
        let width = end.saturating_sub(first).min(WIDTH) as u16;
        let entries = tile::read_entries(&bytes, width, false).map_err(std::io::Error::other)?;
        for (entry, index) in entries.iter().zip(first..) {
            if index >= from
                && let Ok(leaf) = Leaf::decode(entry)
            {
                each(index, leaf);
            }
        }
    }
    Ok(())
}

fn bundle_path(dir: &std::path::Path, number: u64) -> PathBuf {
    dir.join("entries").join(format!("{number:012}"))
}

fn open_or_create(fs: &dyn Fs, path: &std::path::Path) -> Result<Arc<dyn File>, OpenError> {
    match fs.open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            fs.create(path).map_err(OpenError::io("cannot create", path))
        }
        opened => opened.map_err(OpenError::io("cannot open", path)),
    }
}

fn read_or_empty(fs: &dyn Fs, path: &std::path::Path) -> Result<Vec<u8>, OpenError> {
    match fs.read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(OpenError::io("cannot read", path)),
    }
}

fn count_entries(bundle: &[u8]) -> u64 {
    let mut rest = bundle;
    let mut count = 0;
    while let Some((len, after)) = rest.split_first_chunk::<2>() {
        let Some(after) = after.get(usize::from(u16::from_be_bytes(*len))..) else { break };
        rest = after;
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::OsFs;
    use crate::log::note::Checkpoint;
    use crate::vault::DirVault;
    use ed25519_dalek::SigningKey;

    fn open(dir: &std::path::Path, published: u64) -> LocalLog {
        LocalLog::open(Arc::new(OsFs), dir.join("log"), "n".into(), published, None).unwrap()
    }

    #[test]
    fn the_log_is_the_same_after_every_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut reference = Frontier::new();
        let mut log = open(dir.path(), 0);
        for index in 0..1000u64 {
            if index % 97 == 0 || index % 256 < 2 {
                drop(log);
                log = open(dir.path(), 0);
            }
            let entry = index.to_le_bytes();
            log.append(index, &entry).unwrap();
            reference.append(leaf_hash(&entry));
            assert_eq!(log.frontier(), reference);
        }
    }

    #[test]
    fn a_torn_tail_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path(), 0);
        for index in 0..300u64 {
            log.append(index, b"entry").unwrap();
        }
        drop(log);
        let bundle = OsFs.open(&dir.path().join("log/entries/000000000001")).unwrap();
        let len = bundle.size().unwrap();
        bundle.set_len(len - 3).unwrap();
        let mut log = open(dir.path(), 0);
        assert_eq!(log.size(), 299);
        log.append(299, b"entry").unwrap();
        let hashes = OsFs.open(&dir.path().join("log/hashes")).unwrap();
        hashes.set_len(256 * 32 - 5).unwrap();
        assert_eq!(open(dir.path(), 0).size(), 255);
    }

    #[test]
    fn a_reader_rebuilds_every_published_tree_from_the_vault_alone() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::Dir(DirVault::new(Arc::new(OsFs), dir.path().join("vault"), false));
        let key = SigningKey::from_bytes(&[1; 32]);
        let mut log = open(dir.path(), 0);
        for index in 0..700u64 {
            log.append(index, &index.to_le_bytes()).unwrap();
            if [1, 2, 200, 255, 256, 257, 600, 699].contains(&index) {
                let root = log.frontier().root();
                let note = Checkpoint { origin: "n".into(), size: index + 1, root }.sign(&key).unwrap();
                log.publish(&vault, &note, 0).unwrap();
                if index == 257 {
                    log = open(dir.path(), index + 1);
                }
                let mut rebuilt = Frontier::new();
                for bundle in tile::bundles(index + 1) {
                    let bytes = vault.get(&log_key("n", &bundle.to_string())).unwrap().unwrap();
                    for entry in tile::read_entries(&bytes, bundle.width, true).unwrap() {
                        rebuilt.append(leaf_hash(entry));
                    }
                }
                assert_eq!(rebuilt.root(), root);
            }
        }
        assert_eq!(vault.list("v1/log/n/cp/1970-01-01").unwrap().len(), 8);
    }
}
