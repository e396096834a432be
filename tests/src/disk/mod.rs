//! A disk in memory, behind the recorder's seam, that forgets, tears and fails on demand.
//!
//! It keeps two views of everything. What programs see is the page cache; what a sync covered is the platter. At a power
//! cut each unsynced sector, each length and each unsynced directory operation has reached the platter or not, on its
//! own: [`Luck`] decides. File data is durable after a sync of the file, a name only after a sync of its directory, as
//! POSIX has it; filesystems that keep more (ext4 and xfs keep the order of directory operations) are among the outcomes.
//!
//! Operations happen one at a time and are counted, so that "the n-th" and "after the n-th" are exact. It knows nothing
//! of what the recorder writes.

mod content;
mod names;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use casemate_recorder::fs::{File, Fs};
use casemate_recorder::pages::PAGE_LEN;

use content::Inode;
pub use content::{Luck, SECTOR_LEN};
use names::{Names, Node};

/// What was asked of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the call of that name")]
pub enum Call {
    Create,
    Open,
    Read,
    Write,
    Sync,
    SetLen,
    Rename,
    Remove,
    MakeDir,
    SyncDir,
    List,
    Protect,
}

/// One operation, as it was asked for.
#[derive(Debug, Clone)]
pub struct Operation {
    /// What.
    pub call: Call,
    /// On which name; for a rename, the new one.
    pub path: PathBuf,
}

/// How an operation fails. Where a kind makes no sense (a short rename), it is an I/O error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// EIO. After a failed sync the pages count as clean, and only some of them are on the platter.
    Io,
    /// ENOSPC.
    NoSpace,
    /// A part is written, then EIO.
    Short,
}

impl Fault {
    /// The kinds that differ for a call.
    pub fn kinds(call: Call) -> &'static [Self] {
        match call {
            Call::Write => &[Self::Io, Self::NoSpace, Self::Short],
            Call::Create | Call::Rename | Call::MakeDir | Call::Sync | Call::SyncDir => &[Self::Io, Self::NoSpace],
            Call::Open | Call::Read | Call::SetLen | Call::Remove | Call::List | Call::Protect => &[Self::Io],
        }
    }

    fn error(self) -> io::Error {
        match self {
            Self::Io | Self::Short => rustix::io::Errno::IO.into(),
            Self::NoSpace => rustix::io::Errno::NOSPC.into(),
        }
    }
}

/// The disk between two operations.
#[derive(Debug, Clone, Default)]
pub struct State {
    inodes: BTreeMap<u64, Arc<Inode>>,
    names: Names,
    operations: u64,
}

impl State {
    /// Returns how many operations came before.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// Returns the disk that the next process finds after this one died: everything is seen as it was written, whether it
    /// is on the platter or not.
    pub fn kill(&self) -> Disk {
        Disk::holding(Self { operations: 0, ..self.clone() })
    }

    /// Returns the disk that is found when the power is back.
    pub fn power_cut(&self, mut luck: Luck) -> Disk {
        let inodes = self.inodes.iter().map(|(number, inode)| (*number, Arc::new(inode.after_power_cut(&mut luck))));
        let inodes = inodes.collect();
        Disk::holding(Self { inodes, names: self.names.after_power_cut(&mut luck), operations: 0 })
    }

    fn inode(&mut self, number: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&number).map(Arc::make_mut).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn file(&self, path: &Path) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Node::File(number)) => Ok(number),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn content(&self, number: u64) -> Vec<u8> {
        self.inodes.get(&number).map(|inode| inode.seen().read()).unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct Inner {
    state: State,
    trace: Vec<Operation>,
    fails: Option<(u64, Fault, Luck)>,
    halted: bool,
    /// Every state so far, where they are kept.
    states: Option<Vec<State>>,
}

/// A disk in memory. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct Disk(Arc<(Mutex<Inner>, Condvar)>);

impl Disk {
    /// A disk with these directories and nothing in them.
    pub fn new(dirs: &[&Path]) -> Self {
        Self::holding(State { names: Names::with_dirs(dirs), ..State::default() })
    }

    fn holding(state: State) -> Self {
        Self(Arc::new((Mutex::new(Inner { state, ..Inner::default() }), Condvar::new())))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the n-th operation fail, counted from 1; `luck` decides what a failed sync or a short write leaves.
    pub fn fail(&self, nth: u64, fault: Fault, luck: Luck) {
        self.inner().fails = Some((nth, fault, luck));
    }

    /// Keeps the state after every operation from here on.
    pub fn keep_states(&self) {
        let mut inner = self.inner();
        inner.states = Some(vec![inner.state.clone()]);
    }

    /// Returns the kept states; the first is the one in which keeping began.
    pub fn states(&self) -> Vec<State> {
        self.inner().states.clone().unwrap_or_default()
    }

    /// Returns the state at this moment.
    pub fn state(&self) -> State {
        self.inner().state.clone()
    }

    /// Lets every operation from here on fail, without effect: the machine is off, only its threads do not know yet.
    pub fn halt(&self) {
        self.inner().halted = true;
    }

    /// Returns how many operations were done.
    pub fn operations(&self) -> u64 {
        self.inner().state.operations
    }

    /// Returns what was asked, in order.
    pub fn trace(&self) -> Vec<Operation> {
        self.inner().trace.clone()
    }

    /// Waits until an operation like that was done; false where none was within `patience`.
    pub fn await_operation(&self, patience: Duration, like: impl Fn(&Operation) -> bool) -> bool {
        let deadline = Instant::now() + patience;
        let mut inner = self.inner();
        let mut looked = 0;
        loop {
            if inner.trace.iter().skip(looked).any(&like) {
                return true;
            }
            looked = inner.trace.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            inner = self.0.1.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Copies a directory as programs see it to a directory of the machine.
    ///
    /// # Errors
    /// The machine's filesystem refuses.
    pub fn export(&self, dir: &Path, to: &Path) -> io::Result<()> {
        let state = self.state();
        let mut todo = vec![(dir.to_owned(), to.to_owned())];
        while let Some((dir, to)) = todo.pop() {
            std::fs::create_dir_all(&to)?;
            for (path, node) in state.names.children(&dir) {
                let to = to.join(path.file_name().unwrap_or_default());
                match node {
                    Node::Dir => todo.push((path.to_owned(), to)),
                    Node::File(number) => std::fs::write(to, state.content(number))?,
                }
            }
        }
        Ok(())
    }

    fn operate<T>(
        &self,
        call: Call,
        path: &Path,
        act: impl FnOnce(&mut State, Option<(Fault, &mut Luck)>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut inner = self.inner();
        if inner.halted {
            return Err(Fault::Io.error());
        }
        inner.state.operations += 1;
        inner.trace.push(Operation { call, path: path.to_owned() });
        let Inner { state, fails, states, .. } = &mut *inner;
        let fault = fails.as_mut().filter(|(nth, ..)| *nth == state.operations);
        let done = act(state, fault.map(|(_, fault, luck)| (*fault, luck)));
        if let Some(states) = states {
            states.push(state.clone());
        }
        self.0.1.notify_all();
        done
    }

    /// An operation that fails without effect, or is done.
    fn simply<T>(&self, call: Call, path: &Path, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        self.operate(call, path, |state, fault| match fault {
            Some((fault, _)) if Fault::kinds(call).contains(&fault) => Err(fault.error()),
            Some(_) => Err(Fault::Io.error()),
            None => act(state),
        })
    }

    fn handle(&self, path: &Path, number: u64) -> Arc<dyn File> {
        Arc::new(Handle { disk: self.clone(), path: path.to_owned(), number, paged: false })
    }

    fn make(&self, path: &Path) -> io::Result<u64> {
        self.simply(Call::Create, path, |state| {
            if state.names.get(path).is_some() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            if !state.names.has_parent(path) {
                return Err(io::ErrorKind::NotFound.into());
            }
            let number = state.inodes.last_key_value().map_or(0, |(last, _)| last + 1);
            state.inodes.insert(number, Arc::default());
            state.names.link(path, Node::File(number));
            Ok(number)
        })
    }
}

impl Fs for Disk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.handle(path, self.make(path)?))
    }

    fn create_paged(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let number = self.make(path)?;
        Ok(Arc::new(Handle { disk: self.clone(), path: path.to_owned(), number, paged: true }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let number = self.simply(Call::Open, path, |state| state.file(path))?;
        Ok(self.handle(path, number))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.simply(Call::Read, path, |state| Ok(state.content(state.file(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.simply(Call::Rename, to, |state| {
            let number = state.file(from)?;
            if !state.names.has_parent(to) {
                return Err(io::ErrorKind::NotFound.into());
            }
            state.names.rename(from, to, Node::File(number));
            Ok(())
        })
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.simply(Call::Rename, to, |state| {
            let number = state.file(from)?;
            if state.names.get(to).is_some() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            if !state.names.has_parent(to) {
                return Err(io::ErrorKind::NotFound.into());
            }
            state.names.rename(from, to, Node::File(number));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.simply(Call::Remove, path, |state| {
            state.file(path)?;
            state.names.unlink(path);
            Ok(())
        })
    }

    fn create_dir_all(&self, path: &Path, _mode: u32) -> io::Result<()> {
        self.simply(Call::MakeDir, path, |state| {
            let mut missing: Vec<_> = path.ancestors().take_while(|level| state.names.get(level).is_none()).collect();
            while let Some(level) = missing.pop() {
                state.names.link(level, Node::Dir);
            }
            Ok(())
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.simply(Call::SyncDir, path, |state| match state.names.get(path) {
            Some(Node::Dir) => {
                state.names.sync(path);
                Ok(())
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.simply(Call::List, path, |state| {
            let names = state.names.children(path).filter_map(|(path, _)| path.file_name()?.to_str());
            Ok(names.map(str::to_owned).collect())
        })
    }

    fn protect(&self, path: &Path, _immutable: bool) -> io::Result<()> {
        self.simply(Call::Protect, path, |state| state.file(path).map(drop))
    }

    fn unprotect(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn space(&self, _path: &Path) -> io::Result<(u64, u64)> {
        // Room enough: what happens without is a fault of its own.
        Ok((1 << 40, 1 << 40))
    }
}

#[derive(Debug)]
struct Handle {
    disk: Disk,
    path: PathBuf,
    number: u64,
    /// Whether it takes whole pages only, from page-aligned memory.
    paged: bool,
}

impl File for Handle {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let whole = offset.is_multiple_of(PAGE_LEN as u64)
            && bytes.len().is_multiple_of(PAGE_LEN)
            && bytes.as_ptr().align_offset(PAGE_LEN) == 0;
        assert!(!self.paged || whole, "{} bytes at {offset} of {}", bytes.len(), self.path.display());
        self.disk.operate(Call::Write, &self.path, |state, fault| {
            let inode = state.inode(self.number)?;
            if let Some((fault, luck)) = fault {
                if fault == Fault::Short {
                    let len = luck.below(bytes.len() as u64) as usize;
                    inode.write(offset, bytes.get(..len).unwrap_or_default());
                }
                return Err(fault.error());
            }
            inode.write(offset, bytes);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.operate(Call::Sync, &self.path, |state, fault| {
            let inode = state.inode(self.number)?;
            if let Some((fault, luck)) = fault {
                inode.fail_sync(luck);
                return Err(fault.error());
            }
            inode.sync();
            Ok(())
        })
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.inner().state.inode(self.number)?.seen().len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.simply(Call::SetLen, &self.path, |state| {
            state.inode(self.number)?.set_len(len);
            Ok(())
        })
    }

    fn forget(&self) {}
}
