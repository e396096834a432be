//! The pool of journal files: made and zeroed ahead of need, recycled, and never more than the limit.
//!
//! Zeros matter for speed, not for truth: a sync of a file whose blocks exist already writes data only.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::file::FILE_LEN;
use crate::fs::Fs;

/// Files that lie ready; a burst should not wait for zeros.
const READY_MIN: usize = 1;
/// More free files than this are removed again.
const READY_MAX: usize = 4;
const SUFFIX: &str = ".new";

#[derive(Debug, Default)]
struct State {
    /// Files to use next. Recycled ones must leave in the order they came: what stays is then a suffix of the journal, and
    /// a recovery never meets a session without its end.
    ready: VecDeque<PathBuf>,
    /// Files that are in use or ready.
    total: usize,
    made: u64,
    failed: Option<(io::ErrorKind, String)>,
    stopped: bool,
}

/// The files of one journal.
#[derive(Debug)]
pub struct Pool {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    files_max: usize,
    state: Mutex<State>,
    changed: Condvar,
}

impl Pool {
    /// Describes the pool in `dir`, of at most `files_max` files.
    pub fn new(fs: Arc<dyn Fs>, dir: PathBuf, files_max: usize) -> Self {
        // One is written, one lies ready, one is being materialised: with less the journal could not turn over.
        Self { fs, dir, files_max: files_max.max(3), state: Mutex::default(), changed: Condvar::new() }
    }

    /// Returns the directory of the files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what an earlier start left: prepared files, and the number of files that are still needed.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn adopt_leftovers(&self, in_use: usize) -> io::Result<()> {
        let mut state = self.state();
        state.total = in_use;
        for name in self.fs.list(&self.dir)? {
            let Some(number) = name.strip_suffix(SUFFIX).and_then(|stem| stem.parse::<u64>().ok()) else { continue };
            state.made = state.made.max(number + 1);
            let path = self.dir.join(&name);
            // Shorter ones were cut in the making.
            if self.fs.open(&path)?.size()? == FILE_LEN {
                state.total += 1;
                state.ready.push_back(path);
            } else {
                self.fs.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Takes a prepared file; waits for one where all are in use.
    ///
    /// # Errors
    /// None can be made: no space, a failing disk.
    pub fn take(&self) -> io::Result<PathBuf> {
        let mut state = self.state();
        loop {
            if let Some(path) = state.ready.pop_front() {
                self.changed.notify_all();
                return Ok(path);
            }
            if let Some((kind, text)) = &state.failed {
                return Err(io::Error::new(*kind, text.clone()));
            }
            if state.stopped {
                return Err(io::Error::other("the journal is closed"));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives a file back whose records are all materialised and synced elsewhere.
    pub fn give(&self, path: PathBuf) {
        let mut state = self.state();
        state.ready.push_back(path);
        while state.ready.len() > READY_MAX {
            let Some(oldest) = state.ready.pop_front() else { break };
            if let Err(error) = self.fs.remove(&oldest) {
                tracing::warn!(%error, "surplus journal file could not be removed");
            }
            state.total = state.total.saturating_sub(1);
        }
        state.failed = None;
        self.changed.notify_all();
    }

    /// Ends [`Pool::run`].
    pub fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }

    /// Makes files ahead of need until stopped; runs on a thread of its own. `failed` is told when none can be made.
    pub fn run(&self, failed: impl Fn(&io::Error)) {
        loop {
            let mut state = self.state();
            while !state.stopped
                && (state.failed.is_some() || state.ready.len() >= READY_MIN || state.total >= self.files_max)
            {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.stopped {
                return;
            }
            let path = self.dir.join(format!("{:012}{SUFFIX}", state.made));
            state.made += 1;
            state.total += 1;
            drop(state);
            let made = self.make(&path);
            let mut state = self.state();
            match made {
                Ok(()) => state.ready.push_back(path),
                Err(error) => {
                    state.total = state.total.saturating_sub(1);
                    state.failed = Some((error.kind(), format!("cannot make a journal file: {error}")));
                    // The half-made file takes the space that closing sessions needs.
                    let _ = self.fs.remove(&path);
                    failed(&error);
                }
            }
            self.changed.notify_all();
        }
    }

    fn make(&self, path: &Path) -> io::Result<()> {
        let file = self.fs.create(path)?;
        let zeros = vec![0; 1024 * 1024];
        let mut offset = 0;
        while offset < FILE_LEN {
            file.write_at(offset, &zeros)?;
            offset += zeros.len() as u64;
        }
        file.sync_data()
    }
}
