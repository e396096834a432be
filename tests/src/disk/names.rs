//! Directories: names as programs see them, and the operations on them that no sync has made durable.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::content::Luck;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    Dir,
    /// A file, by the number of its inode.
    File(u64),
}

type Tree = BTreeMap<PathBuf, Node>;

#[derive(Debug, Clone)]
enum Change {
    Link(PathBuf, Node),
    Unlink(PathBuf),
    /// One transaction of the filesystem: both directories or neither.
    Rename(PathBuf, PathBuf, Node),
}

impl Change {
    fn apply(&self, tree: &mut Tree) {
        match self {
            Self::Link(path, node) => {
                tree.insert(path.clone(), *node);
            }
            Self::Unlink(path) => {
                tree.remove(path);
            }
            Self::Rename(from, to, node) => {
                tree.remove(from);
                tree.insert(to.clone(), *node);
            }
        }
    }

    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        let (one, other) = match self {
            Self::Link(path, _) | Self::Unlink(path) => (path, None),
            Self::Rename(from, to, _) => (from, Some(to)),
        };
        std::iter::once(one).chain(other)
    }
}

/// All names of a disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    seen: Tree,
    durable: Tree,
    pending: Vec<(u64, Change)>,
    next: u64,
    /// The newest change that a sync made durable; a filesystem that keeps the order has all before it as well.
    synced: u64,
}

impl Names {
    /// Directories that lie on the platter, with all above them.
    pub(super) fn with_dirs(dirs: &[&Path]) -> Self {
        let mut tree = Tree::new();
        for dir in dirs {
            tree.extend(dir.ancestors().map(|level| (level.to_owned(), Node::Dir)));
        }
        Self { seen: tree.clone(), durable: tree, ..Self::default() }
    }

    pub(super) fn get(&self, path: &Path) -> Option<Node> {
        self.seen.get(path).copied()
    }

    pub(super) fn has_parent(&self, path: &Path) -> bool {
        path.parent().is_some_and(|parent| self.get(parent) == Some(Node::Dir))
    }

    /// Lists what lies directly in a directory.
    pub(super) fn children<'a>(&'a self, dir: &'a Path) -> impl Iterator<Item = (&'a Path, Node)> {
        let below = self.seen.range(dir.to_owned()..).take_while(move |(path, _)| path.starts_with(dir));
        below.filter(move |(path, _)| path.parent() == Some(dir)).map(|(path, node)| (path.as_path(), *node))
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.seen);
        self.next += 1;
        self.pending.push((self.next, change));
    }

    pub(super) fn link(&mut self, path: &Path, node: Node) {
        self.change(Change::Link(path.to_owned(), node));
    }

    pub(super) fn unlink(&mut self, path: &Path) {
        self.change(Change::Unlink(path.to_owned()));
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path, node: Node) {
        self.change(Change::Rename(from.to_owned(), to.to_owned(), node));
    }

    /// Makes durable what was done in a directory, and what was done to the same names before.
    pub(super) fn sync(&mut self, dir: &Path) {
        let mut paths: Vec<PathBuf> = Vec::new();
        let mut synced = vec![false; self.pending.len()];
        for ((_, change), synced) in self.pending.iter().zip(&mut synced).rev() {
            if change.paths().any(|path| path.parent() == Some(dir) || paths.contains(path)) {
                paths.extend(change.paths().cloned());
                *synced = true;
            }
        }
        let mut synced = synced.into_iter();
        let (durable, newest) = (&mut self.durable, &mut self.synced);
        self.pending.retain(|(number, change)| {
            let goes = synced.next().unwrap_or(false);
            if goes {
                change.apply(durable);
                *newest = (*newest).max(*number);
            }
            !goes
        });
    }

    /// The names after a power cut at this moment.
    pub(super) fn after_power_cut(&self, luck: &mut Luck) -> Self {
        let mut tree = self.durable.clone();
        if luck.ordered_names {
            let free = self.next.saturating_sub(self.synced) as usize;
            let last = self.synced + luck.pick(free + 1) as u64;
            let landed = self.pending.iter().filter(|(number, _)| *number <= last);
            landed.for_each(|(_, change)| change.apply(&mut tree));
        } else {
            for (_, change) in &self.pending {
                if luck.lands() {
                    change.apply(&mut tree);
                }
            }
        }
        // A name in a directory that did not reach the platter cannot be found.
        let all = tree.clone();
        tree.retain(|path, _| path.ancestors().skip(1).all(|level| all.get(level) == Some(&Node::Dir)));
        Self { seen: tree.clone(), durable: tree, ..Self::default() }
    }
}
