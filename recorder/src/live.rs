//! The file of a live segment, which the journal's thread and the keeper write, in whole pages.
//!
//! Small blocks are the keeper's to write: the journal holds them, and nobody waits. Large ones are the journal thread's, at once,
//! with whatever comes before them on their first page. So only one page is ever contested, the last of what the keeper has: it may
//! get there when the journal's thread has written more on that page already.
//!
//! The file is made by the first write: making one takes a filesystem some tenths of a millisecond, and somebody waits for the
//! beginning of a session.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::fs::{File, Fs};
use crate::pages::{PAGE_LEN, Pages};

/// The file of a live segment.
#[derive(Debug)]
pub(crate) struct LiveFile {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    /// None before the first write.
    file: Mutex<Option<Arc<dyn File>>>,
    /// From where to where the journal's thread has written, and the keeper has not come by. Held while a page is written that the
    /// other thread may write too.
    placed: Mutex<Vec<(u64, u64)>>,
    /// Whether a sync failed for one of the two threads, and so for both: the kernel reports a lost page once, and calls it clean
    /// from then on.
    sync_failed: Mutex<bool>,
}

impl LiveFile {
    /// Describes the file that will be at `path`, which must not exist.
    pub(crate) fn new(fs: Arc<dyn Fs>, path: PathBuf) -> Self {
        Self { fs, path, file: Mutex::new(None), placed: Mutex::default(), sync_failed: Mutex::new(false) }
    }

    /// Returns where it lies, or will.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it now, where nobody waits and whoever begins is to know whether one can be made.
    pub(crate) fn make(&self) -> io::Result<()> {
        self.file().map(drop)
    }

    /// Returns the file, made if need be.
    fn file(&self) -> io::Result<Arc<dyn File>> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        match &*file {
            Some(file) => Ok(Arc::clone(file)),
            None => Ok(Arc::clone(file.insert(self.fs.create_paged(&self.path)?))),
        }
    }

    /// Writes large blocks and what is before them on their first page; `parts` begin with that, at `offset`. For the journal's
    /// thread.
    pub(crate) fn place<'a>(
        &self,
        pages: &mut Pages,
        offset: u64,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> io::Result<()> {
        let end = parts.clone().fold(offset, |end, part| end + part.len() as u64);
        let mut placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        pages.write(&*self.file()?, offset, parts)?;
        match placed.last_mut().filter(|(_, to)| offset <= *to) {
            Some((_, to)) => *to = end,
            None => placed.push((offset, end)),
        }
        Ok(())
    }

    /// Writes full pages that nobody else writes. For the keeper.
    pub(crate) fn keep(&self, pages: &mut Pages, offset: u64, bytes: &[u8]) -> io::Result<()> {
        pages.write(&*self.file()?, offset, [bytes])
    }

    /// Writes the last page of what the keeper has, unless more of it is there already. What was placed on later pages only says
    /// nothing of this one.
    pub(crate) fn keep_last(&self, pages: &mut Pages, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        placed.retain(|(_, to)| *to > offset);
        let is_there = placed.iter().any(|(from, to)| *from <= offset && *to >= offset + bytes.len() as u64);
        if is_there { Ok(()) } else { pages.write(&*self.file()?, offset, [bytes]) }
    }

    /// Cuts off what fills the last page. For whoever writes last.
    pub(crate) fn end_at(&self, len: u64) -> io::Result<()> {
        if len.is_multiple_of(PAGE_LEN as u64) { Ok(()) } else { self.file()?.set_len(len) }
    }

    /// Makes what was written durable.
    pub(crate) fn sync_data(&self) -> io::Result<()> {
        // Held during the sync: the other thread must not ask in between.
        let mut failed = self.sync_failed.lock().unwrap_or_else(PoisonError::into_inner);
        if *failed {
            return Err(io::Error::other("an earlier sync of this file failed"));
        }
        let synced = self.file().and_then(|file| file.sync_data());
        *failed = synced.is_err();
        synced
    }

    /// Says that it will not be read soon.
    pub(crate) fn forget(&self) {
        if let Some(file) = &*self.file.lock().unwrap_or_else(PoisonError::into_inner) {
            file.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::OsFs;

    #[test]
    fn what_the_keeper_has_of_a_page_does_not_undo_what_was_placed_on_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("part");
        let live = LiveFile::new(Arc::new(OsFs), path.clone());
        assert!(!path.exists(), "made before there is anything to write");
        let (mut ours, mut keepers) = (Pages::new(), Pages::new());
        let (small, large, next) = (vec![b'a'; 5000], vec![b'b'; 6000], vec![b'c'; 300]);
        let (full, last) = small.split_at(PAGE_LEN);

        // The journal's thread is ahead: the keeper still holds the small block.
        live.place(&mut ours, PAGE_LEN as u64, [last, &large].into_iter()).unwrap();
        live.keep(&mut keepers, 0, full).unwrap();
        live.keep_last(&mut keepers, PAGE_LEN as u64, last).unwrap();
        let mut expected = [small, large].concat();
        assert!(OsFs.read(&path).unwrap().starts_with(&expected), "the large block is whole");

        // What comes after it is the keeper's again.
        let from = expected.len() / PAGE_LEN * PAGE_LEN;
        expected.extend_from_slice(&next);
        live.keep_last(&mut keepers, from as u64, &expected[from..]).unwrap();
        live.end_at(expected.len() as u64).unwrap();
        assert!(OsFs.read(&path).unwrap() == expected);
    }

    #[test]
    fn what_the_keeper_has_is_written_however_far_ahead_of_it_something_was_placed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("part");
        let live = LiveFile::new(Arc::new(OsFs), path.clone());
        let (mut ours, mut keepers) = (Pages::new(), Pages::new());
        // The keeper has this, and not yet what comes behind it, which ends on the next page, where large blocks follow it.
        let known = vec![b'a'; 1000];
        live.place(&mut ours, PAGE_LEN as u64, [&[b'b'; 300][..], &[b'c'; 6000]].into_iter()).unwrap();
        live.place(&mut ours, 2 * PAGE_LEN as u64, [&[b'c'; 2204][..], &[b'd'; 6000]].into_iter()).unwrap();
        live.keep_last(&mut keepers, 0, &known).unwrap();
        let written = OsFs.read(&path).unwrap();
        assert!(written.starts_with(&known), "it is in no other file once the journal's is used again");
        assert!(written[PAGE_LEN..].starts_with(&[[b'b'; 300].as_slice(), &[b'c'; 6000], &[b'd'; 6000]].concat()));
    }
}
