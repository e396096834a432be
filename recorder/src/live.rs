//! The file of a live segment, which the journal's thread and the keeper write, in whole pages.
//!
//! Small blocks are the keeper's to write: the journal holds them, and nobody waits. Large ones are the journal thread's, at once,
//! with whatever comes before them on their first page. So only one page is ever contested, the last of what the keeper has: it may
//! get there when the journal's thread has written more on that page already.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::fs::File;
use crate::pages::{PAGE_LEN, Pages};

/// The file of a live segment.
#[derive(Debug)]
pub(crate) struct LiveFile {
    file: Arc<dyn File>,
    /// Up to where the journal's thread has written. Held while a page is written that the other thread may write too.
    placed_to: Mutex<u64>,
    /// Whether a sync failed for one of the two threads, and so for both: the kernel reports a lost page once, and calls it clean
    /// from then on.
    sync_failed: Mutex<bool>,
}

impl LiveFile {
    pub(crate) fn new(file: Arc<dyn File>) -> Self {
        Self { file, placed_to: Mutex::new(0), sync_failed: Mutex::new(false) }
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
        let mut placed_to = self.placed_to.lock().unwrap_or_else(PoisonError::into_inner);
        pages.write(&*self.file, offset, parts)?;
        *placed_to = end;
        Ok(())
    }

    /// Writes full pages that nobody else writes. For the keeper.
    pub(crate) fn keep(&self, pages: &mut Pages, offset: u64, bytes: &[u8]) -> io::Result<()> {
        pages.write(&*self.file, offset, [bytes])
    }

    /// Writes the last page of what the keeper has, unless more of it is there already.
    pub(crate) fn keep_last(&self, pages: &mut Pages, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let placed_to = self.placed_to.lock().unwrap_or_else(PoisonError::into_inner);
        if *placed_to >= offset + bytes.len() as u64 { Ok(()) } else { pages.write(&*self.file, offset, [bytes]) }
    }

    /// Cuts off what fills the last page. For whoever writes last.
    pub(crate) fn end_at(&self, len: u64) -> io::Result<()> {
        if len.is_multiple_of(PAGE_LEN as u64) { Ok(()) } else { self.file.set_len(len) }
    }

    /// Makes what was written durable.
    pub(crate) fn sync_data(&self) -> io::Result<()> {
        // Held during the sync: the other thread must not ask in between.
        let mut failed = self.sync_failed.lock().unwrap_or_else(PoisonError::into_inner);
        if *failed {
            return Err(io::Error::other("an earlier sync of this file failed"));
        }
        let synced = self.file.sync_data();
        *failed = synced.is_err();
        synced
    }

    /// Says that it will not be read soon.
    pub(crate) fn forget(&self) {
        self.file.forget();
    }
}
