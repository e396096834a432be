//! The pool of journal files: made and zeroed ahead of need, recycled, and never more than the limit.
//!
//! Zeros matter for speed, not for truth: a sync of a file whose blocks exist already writes data only.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

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
    /// Files of an earlier start that are still to be given back.
    owed: Vec<PathBuf>,
    /// Files of this start that were given back before those, and leave after them. Until then others are made in their place:
    /// whoever gives the earlier ones back may be waiting for one.
    held: Vec<PathBuf>,
    /// Files that are in use or ready.
    total: usize,
    made: u64,
    failed: Option<(io::ErrorKind, String)>,
    /// Whether no file will be given back any more.
    stuck: bool,
    stopped: bool,
}

/// The files of one journal.
#[derive(Debug)]
pub struct Pool {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    file_len: u64,
    files_max: usize,
    /// Files that hold something; beside the state, so that who asks waits for no disk.
    in_use: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

impl Pool {
    /// Describes the pool in `dir`, of at most `files_max` files of `file_len` bytes, a multiple of 1 MiB.
    pub fn new(fs: Arc<dyn Fs>, dir: PathBuf, file_len: u64, files_max: usize) -> Self {
        // One is written, one lies ready, one is being materialised: with less the journal could not turn over.
        let files_max = files_max.max(3);
        Self {
            fs,
            dir,
            file_len,
            files_max,
            in_use: AtomicU64::new(0),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Returns how long each file is.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Returns how many bytes the files that hold something have, and how many all files may have.
    pub fn bytes(&self) -> (u64, u64) {
        let of = |files: u64| self.file_len.saturating_mul(files);
        (of(self.in_use.load(Ordering::Relaxed)), of(self.files_max as u64))
    }

    /// Returns how many bytes on disk a start still needs: a file to write and one that lies ready.
    pub fn missing_bytes(&self) -> u64 {
        let missing = (1 + READY_MIN).saturating_sub(self.state().ready.len());
        self.file_len.saturating_mul(missing as u64)
    }

    /// Returns the directory of the files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what an earlier start left: prepared files, and those that are still needed, in their order.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn adopt_leftovers(&self, owed: Vec<PathBuf>) -> io::Result<()> {
        let mut state = self.state();
        state.total = owed.len();
        self.in_use.store(owed.len() as u64, Ordering::Relaxed);
        state.owed = owed;
        for name in self.fs.list(&self.dir)? {
            let Some(number) = name.strip_suffix(SUFFIX).and_then(|stem| stem.parse::<u64>().ok()) else { continue };
            state.made = state.made.max(number + 1);
            let path = self.dir.join(&name);
            // Others were cut in the making, or made for another limit.
            if self.is_whole(&path)? {
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
                self.in_use.fetch_add(1, Ordering::Relaxed);
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

    fn is_whole(&self, path: &Path) -> io::Result<bool> {
        Ok(self.fs.open(path)?.size()? == self.file_len)
    }

    /// Gives a file back whose records are all materialised and synced elsewhere.
    pub fn give(&self, path: PathBuf) {
        let mut state = self.state();
        if let Some(at) = state.owed.iter().position(|owed| *owed == path) {
            state.owed.remove(at);
        } else if !state.owed.is_empty() {
            state.held.push(path);
            self.changed.notify_all();
            return;
        }
        let held = if state.owed.is_empty() { std::mem::take(&mut state.held) } else { Vec::new() };
        drop(state);
        for path in std::iter::once(path).chain(held) {
            self.reuse(path);
        }
    }

    fn reuse(&self, path: PathBuf) {
        // One that cannot be looked at is no use either.
        let whole = self.is_whole(&path).unwrap_or(false);
        let mut state = self.state();
        // Under the lock, so that it cannot fall below zero.
        let in_use = self.in_use.load(Ordering::Relaxed);
        self.in_use.store(in_use.saturating_sub(1), Ordering::Relaxed);
        if whole {
            state.ready.push_back(path);
        } else {
            // Made for another limit.
            self.discard(&mut state, &path);
        }
        while state.ready.len() > READY_MAX {
            let Some(oldest) = state.ready.pop_front() else { break };
            self.discard(&mut state, &oldest);
        }
        if !state.stuck {
            state.failed = None;
        }
        self.changed.notify_all();
    }

    fn discard(&self, state: &mut State, path: &Path) {
        if let Err(error) = self.fs.remove(path) {
            tracing::warn!(%error, "surplus journal file could not be removed");
        }
        state.total = state.total.saturating_sub(1);
    }

    /// Says that no file will be given back any more: whoever waits for one would wait for ever.
    pub fn fail(&self, kind: io::ErrorKind, text: String) {
        let mut state = self.state();
        state.stuck = true;
        state.failed.get_or_insert((kind, text));
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
                && (state.failed.is_some()
                    || state.ready.len() >= READY_MIN
                    || state.total >= self.files_max + state.held.len())
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
        while offset < self.file_len {
            file.write_at(offset, &zeros)?;
            offset += zeros.len() as u64;
        }
        file.sync_data()?;
        // What the kernel keeps of such large pieces makes each small write into them slower, and nobody reads it.
        file.forget();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::OsFs;

    const LEN: u64 = 1024 * 1024;

    fn pool(dir: &Path) -> (Arc<Pool>, std::thread::JoinHandle<()>) {
        let pool = Arc::new(Pool::new(Arc::new(OsFs), dir.to_owned(), LEN, 3));
        pool.adopt_leftovers(Vec::new()).unwrap();
        let worker = Arc::clone(&pool);
        (pool, std::thread::spawn(move || worker.run(|_| {})))
    }

    #[test]
    fn whoever_waits_for_a_file_learns_that_none_will_come() {
        let dir = tempfile::tempdir().unwrap();
        let (pool, worker) = pool(dir.path());
        let taken: Vec<_> = (0..3).map(|_| pool.take().unwrap()).collect();
        let waiting = Arc::clone(&pool);
        let waiting = std::thread::spawn(move || waiting.take());
        pool.fail(io::ErrorKind::StorageFull, "vault: full".to_owned());
        assert_eq!(waiting.join().unwrap().unwrap_err().kind(), io::ErrorKind::StorageFull);
        // One that comes back after all is good for one turn, not for hope.
        pool.give(taken[0].clone());
        assert!(pool.take().is_ok());
        assert_eq!(pool.take().unwrap_err().kind(), io::ErrorKind::StorageFull);
        pool.stop();
        worker.join().unwrap();
    }

    #[test]
    fn files_leave_in_the_order_of_the_journal_however_late_an_earlier_start_gives_its_own_back() {
        let dir = tempfile::tempdir().unwrap();
        let earlier: Vec<_> = ["000000000000.jnl", "000000000001.jnl"].map(|name| dir.path().join(name)).into();
        earlier.iter().for_each(|path| std::fs::write(path, vec![0; usize::try_from(LEN).unwrap()]).unwrap());
        let pool = Arc::new(Pool::new(Arc::new(OsFs), dir.path().to_owned(), LEN, 3 + earlier.len()));
        pool.adopt_leftovers(earlier.clone()).unwrap();
        let worker = Arc::clone(&pool);
        let worker = std::thread::spawn(move || worker.run(|_| {}));
        // More than the limit, one after the other: nobody waits for the earlier start.
        let mine: Vec<_> = (0..6).map(|_| pool.take().inspect(|path| pool.give(path.clone())).unwrap()).collect();
        assert!(mine.iter().enumerate().all(|(at, path)| !mine[..at].contains(path)), "{mine:?}");
        pool.give(earlier[0].clone());
        let next = [pool.take().unwrap(), pool.take().unwrap()];
        assert!(next.contains(&earlier[0]) && !mine.contains(&next[0]) && !mine.contains(&next[1]), "{next:?}");
        // With the last of the earlier ones, those that were held follow it.
        pool.give(earlier[1].clone());
        let order: Vec<_> = std::iter::from_fn(|| pool.state().ready.pop_front()).collect();
        let held: Vec<_> = order.iter().filter(|path| earlier.contains(path) || mine.contains(path)).collect();
        let all: Vec<_> = earlier[1..].iter().chain(&mine).collect();
        assert_eq!(held, all[all.len() - held.len()..], "{order:?}");
        pool.stop();
        worker.join().unwrap();
    }

    #[test]
    fn files_of_another_length_go() {
        let dir = tempfile::tempdir().unwrap();
        for (name, len) in [("000000000004.new", LEN / 2), ("000000000005.new", LEN), ("000000000001.jnl", LEN * 2)] {
            std::fs::write(dir.path().join(name), vec![0; usize::try_from(len).unwrap()]).unwrap();
        }
        let (pool, worker) = pool(dir.path());
        assert_eq!(pool.missing_bytes(), LEN);
        pool.give(dir.path().join("000000000001.jnl"));
        assert_eq!(pool.take().unwrap(), dir.path().join("000000000005.new"));
        assert!(!dir.path().join("000000000004.new").exists() && !dir.path().join("000000000001.jnl").exists());
        pool.stop();
        worker.join().unwrap();
    }
}
