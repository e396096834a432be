//! Where pages lie until they are in the vault: plain lines in the state directory, so that a restart goes on with them.
//!
//! Nothing here is synced before a page is finished: what a power cut takes of it is in the transcripts.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::page::Page;
use super::row::Opened;
use crate::fs::{File, Fs};
use crate::vault::{Vault, VaultError};

/// A page that has grown to this many bytes is finished before its hour is over: it is compressed in memory.
const PAGE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What zstd makes of rows hardly gets smaller above this level.
const ZSTD_LEVEL: i32 = 3;

/// Sessions that go on, beside the pages.
const OPEN: &str = "open.jsonl";

/// Why a page is not in the vault.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShelfError {
    #[error("state directory: {0}")]
    State(#[from] io::Error),
    #[error("vault: {0}")]
    Vault(#[from] VaultError),
}

/// The page that rows go to.
#[derive(Debug)]
struct Current {
    page: Page,
    file: Arc<dyn File>,
    len: u64,
}

/// The pages of a node, and the sessions that will be on one.
#[derive(Debug)]
pub(super) struct Shelf {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    vault: Vault,
    node: String,
    /// The vaults elsewhere.
    elsewhere: Vec<String>,
    current: Option<Current>,
    /// Where the next opening goes in the file of those that go on.
    open: Option<(Arc<dyn File>, u64)>,
}

/// Returns where it is noted which pages a vault elsewhere is to get: a file a page, named for it.
pub(crate) fn due_dir(state_dir: &std::path::Path, vault: &str) -> PathBuf {
    state_dir.join("catalogue").join("due").join(vault)
}

impl Shelf {
    /// Describes the pages under a state directory. `vault` must not make files immutable: they have to be erasable.
    pub(super) fn new(
        fs: Arc<dyn Fs>,
        state_dir: &std::path::Path,
        vault: Vault,
        node: String,
        elsewhere: Vec<String>,
    ) -> Self {
        let dir = state_dir.join("catalogue");
        Self { fs, dir, vault, node, elsewhere, current: None, open: None }
    }

    fn path(&self, page: Page) -> PathBuf {
        self.dir.join(format!("{page}.jsonl"))
    }

    /// Lists the pages here that are not in the vault, the one at hand included.
    fn pages(&self) -> io::Result<Vec<Page>> {
        let names = self.fs.list(&self.dir)?;
        let mut pages: Vec<Page> = names.iter().filter_map(|name| name.strip_suffix(".jsonl")?.parse().ok()).collect();
        pages.sort_unstable();
        Ok(pages)
    }

    /// Adds rows of sessions that ended in this hour.
    pub(super) fn append(&mut self, hour: u64, rows: &[u8]) -> io::Result<()> {
        let fits = |current: &Current| current.page.hour == hour && current.len < PAGE_BYTES_MAX;
        let mut current = match self.current.take().filter(fits) {
            Some(current) => current,
            None => self.begin(hour)?,
        };
        current.file.write_at(current.len, rows)?;
        current.len += rows.len() as u64;
        self.current = Some(current);
        Ok(())
    }

    /// Begins a page under a name that nothing has, here or in the vault.
    fn begin(&mut self, hour: u64) -> io::Result<Current> {
        self.fs.create_dir_all(&self.dir, 0o700)?;
        let first = Page { hour, part: 0 };
        let there = self.vault.list(&first.dir(&self.node)).unwrap_or_default();
        let mut taken: Vec<Page> = there.iter().filter_map(|name| first.sibling(name)).collect();
        for vault in &self.elsewhere {
            let due = self.fs.list(&self.dir.join("due").join(vault)).unwrap_or_default();
            taken.extend(due.iter().filter_map(|name| name.parse::<Page>().ok()));
        }
        taken.extend(self.pages()?);
        let newest = taken.into_iter().filter(|page| page.hour == hour).map(|page| page.part).max();
        let page = Page { hour, part: newest.map_or(0, |part| part.saturating_add(1)) };
        Ok(Current { page, file: self.fs.create(&self.path(page))?, len: 0 })
    }

    /// Goes on with the page of this hour that an earlier start left, if there is one.
    pub(super) fn resume(&mut self, hour: u64) -> io::Result<()> {
        let Some(page) = self.pages()?.into_iter().rfind(|page| page.hour == hour) else { return Ok(()) };
        if self.vault.get(&page.key(&self.node)).is_ok_and(|there| there.is_none()) {
            let len = whole_lines(&self.fs.read(&self.path(page))?).len() as u64;
            let file = self.fs.open(&self.path(page))?;
            // Half a row that a crash left.
            file.set_len(len)?;
            self.current = Some(Current { page, file, len });
        }
        Ok(())
    }

    /// Puts every page into the vault but the one of this hour, and returns them; those that could not be stay. Without an hour
    /// all are.
    pub(super) fn finish(&mut self, hour: Option<u64>) -> (Vec<Page>, Option<ShelfError>) {
        if self.current.as_ref().is_some_and(|current| Some(current.page.hour) != hour || current.len >= PAGE_BYTES_MAX)
        {
            self.current = None;
        }
        let at_hand = self.current.as_ref().map(|current| current.page);
        let (mut done, mut failed) = (Vec::new(), None);
        let pages = self.pages().unwrap_or_else(|error| {
            failed = Some(error.into());
            Vec::new()
        });
        for page in pages.into_iter().filter(|page| Some(*page) != at_hand) {
            match self.put(page) {
                Ok(true) => done.push(page),
                Ok(false) => {}
                Err(error) => failed = Some(error),
            }
        }
        (done, failed)
    }

    /// Puts a page into the vault; false where there is nothing in it.
    fn put(&self, page: Page) -> Result<bool, ShelfError> {
        let (path, key) = (self.path(page), page.key(&self.node));
        let content = self.fs.read(&path)?;
        let rows = whole_lines(&content);
        // Nothing is added to a page once it is in the vault: what still lies here is the page that is there.
        let is_new = !rows.is_empty() && self.vault.get(&key)?.is_none();
        if !rows.is_empty() {
            for vault in &self.elsewhere {
                let dir = self.dir.join("due").join(vault);
                self.fs.create_dir_all(&dir, 0o700)?;
                match self.fs.create(&dir.join(page.to_string())) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
                    _ => {}
                }
            }
        }
        if is_new {
            self.vault.put_new(&key, &zstd::bulk::compress(rows, ZSTD_LEVEL)?)?;
        }
        self.fs.remove(&path)?;
        Ok(!rows.is_empty())
    }

    /// Notes a session that goes on.
    pub(super) fn note_open(&mut self, opened: &Opened) -> io::Result<()> {
        let (file, len) = match &self.open {
            Some((file, len)) => (Arc::clone(file), *len),
            None => return self.rewrite_open(std::iter::once(opened)),
        };
        let line = open_line(opened);
        file.write_at(len, &line)?;
        self.open = Some((file, len + line.len() as u64));
        Ok(())
    }

    /// Writes anew which sessions go on.
    pub(super) fn rewrite_open<'a>(&mut self, opened: impl Iterator<Item = &'a Opened>) -> io::Result<()> {
        self.open = None;
        self.fs.create_dir_all(&self.dir, 0o700)?;
        let (path, temp) = (self.dir.join(OPEN), self.dir.join(".open.new"));
        match self.fs.remove(&temp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.fs.create(&temp)?;
        let lines: Vec<u8> = opened.flat_map(open_line).collect();
        file.write_at(0, &lines)?;
        self.fs.rename(&temp, &path)?;
        self.open = Some((file, lines.len() as u64));
        Ok(())
    }

    /// Reads which sessions went on when the last start ended. Without the file nobody knows, and their rows say so.
    pub(super) fn read_open(&self) -> Vec<Opened> {
        let content = self.fs.read(&self.dir.join(OPEN)).unwrap_or_default();
        content.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }
}

fn open_line(opened: &Opened) -> Vec<u8> {
    let mut line = serde_json::to_vec(opened).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Returns what ends in a line feed.
fn whole_lines(content: &[u8]) -> &[u8] {
    let end = content.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    content.get(..end).unwrap_or_default()
}
