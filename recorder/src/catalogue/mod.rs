//! The catalogue: a row a session in plain JSON, for questions about the whole fleet that an existing engine answers.
//!
//! A convenience, never evidence: nothing is read from it, no session waits for it, and what cannot be written is retried and at
//! last left out. It holds personal data in the clear, so it is never locked: whoever may, can erase it.

mod page;
mod row;
mod shelf;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

pub(crate) use page::Page;
pub(crate) use row::{Ended, Opened, Status};
use shelf::Shelf;
pub(crate) use shelf::due_dir;

use crate::fs::Fs;
use crate::queue::Queue;
use crate::remote::{News, Remotes};
use crate::transcript::block::SessionId;
use crate::vault::{DirVault, Vault};

/// Entries that wait while a disk does not answer; each is below a kilobyte. Beyond, rows are left out.
const ENTRIES_MAX: usize = 4096;

/// How often the clock is looked at, and what did not work is tried again.
const LOOK_EVERY: Duration = Duration::from_secs(20);

/// After this long a start has recovered what an earlier one left, in microseconds; what is still thought to go on then is not.
const RECOVERED_AFTER_US: u64 = 600_000_000;

/// What the journal's thread tells.
#[derive(Debug)]
pub(crate) enum Entry {
    Opened(Box<Opened>),
    Ended(Box<Ended>),
}

/// Where the journal's thread tells it. Never waits.
#[derive(Debug, Clone)]
pub(crate) struct Desk(SyncSender<Entry>);

impl Desk {
    pub(crate) fn tell(&self, entry: Entry) {
        if let Err(TrySendError::Full(_)) = self.0.try_send(entry) {
            tracing::debug!("the catalogue does not keep up: a session is left out");
        }
    }
}

/// The catalogue of a node.
#[derive(Debug)]
pub(crate) struct Catalogue {
    shelf: Shelf,
    node: String,
    remotes: Remotes,
    queue: Arc<Queue>,
    entries: Receiver<Entry>,
    /// Sessions that go on.
    open: HashMap<SessionId, Opened>,
    /// Those of them that an earlier start left.
    earlier: HashSet<SessionId>,
    since_us: u64,
    /// Rows that could not be written yet, with the hour that they belong to.
    unwritten: Vec<(u64, Vec<u8>)>,
    failing: bool,
}

impl Catalogue {
    /// Prepares the catalogue of a node, and goes on with what an earlier start left. `elsewhere` names the vaults that get the
    /// pages too.
    pub(crate) fn new(
        fs: Arc<dyn Fs>,
        state_dir: &Path,
        vault_dir: &Path,
        node: &str,
        elsewhere: Vec<String>,
        queue: Arc<Queue>,
    ) -> (Self, Desk) {
        let (sender, entries) = sync_channel(ENTRIES_MAX);
        let vault = Vault::Dir(DirVault::new(Arc::clone(&fs), vault_dir.to_owned(), false));
        let shelf = Shelf::new(fs, state_dir, vault, node.to_owned(), elsewhere);
        let open: HashMap<_, _> =
            shelf.read_open().into_iter().filter_map(|opened| Some((opened.session()?, opened))).collect();
        let catalogue = Self {
            shelf,
            node: node.to_owned(),
            remotes: Remotes::default(),
            since_us: queue.now().boot_us,
            queue,
            entries,
            earlier: open.keys().copied().collect(),
            open,
            unwritten: Vec::new(),
            failing: false,
        };
        (catalogue, Desk(sender))
    }

    /// Tells these vaults of finished pages.
    pub(crate) fn telling(self, remotes: Remotes) -> Self {
        Self { remotes, ..self }
    }

    /// Works until nobody tells anything any more.
    pub(crate) fn run(mut self) {
        if let Err(error) = self.shelf.resume(self.hour()) {
            self.complain(&error);
        }
        self.settle(Some(self.hour()));
        loop {
            match self.entries.recv_timeout(LOOK_EVERY) {
                Ok(entry) => {
                    self.take(entry);
                    while let Ok(entry) = self.entries.try_recv() {
                        self.take(entry);
                    }
                    self.write();
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.forget_earlier();
                    self.settle(Some(self.hour()));
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.settle(None);
    }

    fn hour(&self) -> u64 {
        Page::hour(self.queue.now().wall_us)
    }

    fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Opened(opened) => {
                if let Err(error) = self.shelf.note_open(&opened) {
                    self.complain(&error);
                }
                if let Some(session) = opened.session() {
                    self.open.insert(session, *opened);
                }
            }
            Entry::Ended(ended) => {
                self.earlier.remove(&ended.session);
                let opened = self.open.remove(&ended.session);
                let line = row::line(&self.node, opened.as_ref(), &ended);
                self.unwritten.push((Page::hour(ended.end_us), line));
                let more = self.unwritten.len().saturating_sub(ENTRIES_MAX);
                if more > 0 {
                    tracing::warn!(rows = more, "rows of the catalogue could not be written and are left out");
                    self.unwritten.drain(..more);
                }
            }
        }
    }

    /// Writes the rows that wait to their pages.
    fn write(&mut self) {
        for (written, (hour, row)) in self.unwritten.iter().enumerate() {
            if let Err(error) = self.shelf.append(*hour, row) {
                let error = error.to_string();
                self.unwritten.drain(..written);
                return self.complain(&error);
            }
        }
        self.unwritten.clear();
    }

    /// Sessions of an earlier start that nobody recovered by now are over; nothing will come of them.
    fn forget_earlier(&mut self) {
        let passed_us = self.queue.now().boot_us.saturating_sub(self.since_us);
        if passed_us >= RECOVERED_AFTER_US {
            self.earlier.drain().for_each(|session| drop(self.open.remove(&session)));
        }
    }

    /// Puts pages whose hour is over into the vaults; without an hour, all.
    fn settle(&mut self, hour: Option<u64>) {
        self.write();
        let (pages, failed) = self.shelf.finish(hour);
        if !pages.is_empty() || hour.is_none() {
            // Openings of sessions that have ended since.
            let written = self.shelf.rewrite_open(self.open.values());
            written.unwrap_or_else(|error| self.complain(&error));
        }
        for page in pages {
            self.remotes.tell(&News::Catalogue { page });
        }
        match failed {
            Some(error) => self.complain(&error),
            None if self.unwritten.is_empty() => self.failing = false,
            None => {}
        }
    }

    /// Says once that it does not work; it is tried again and again.
    fn complain(&mut self, error: &impl std::fmt::Display) {
        if !self.failing {
            tracing::warn!(%error, "the catalogue cannot be written; sessions go on, and it is tried again");
        }
        self.failing = true;
    }
}
