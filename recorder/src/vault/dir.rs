//! A directory as a vault.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::VaultError;
use crate::fs::Fs;

/// A directory. Files are 0440, and immutable where asked for and allowed.
#[derive(Debug, Clone)]
pub struct DirVault {
    fs: Arc<dyn Fs>,
    root: PathBuf,
    immutable: bool,
    /// Directories that were synced into the one above since this run began. An earlier run may have been killed before it did;
    /// who made one does not show. Those of sessions are not in it: there are many, and each is asked for once.
    settled: Arc<Mutex<HashSet<PathBuf>>>,
}

impl DirVault {
    /// Describes a vault at `root`; the directory is made with the first file.
    pub fn new(fs: Arc<dyn Fs>, root: PathBuf, immutable: bool) -> Self {
        Self { fs, root, immutable, settled: Arc::default() }
    }

    pub(super) fn put_new(&self, key: &str, bytes: &[u8]) -> Result<(), VaultError> {
        let path = self.prepare(key)?;
        let temp = sibling(&path);
        let failed = |what| move |source| VaultError::Io { what, key: key.to_owned(), source };
        match self.fs.remove(&temp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("cannot clear the way for")(error));
            }
            _ => {}
        }
        let file = self.fs.create(&temp).map_err(failed("cannot create"))?;
        file.write_at(0, bytes).map_err(failed("cannot write"))?;
        file.sync_data().map_err(failed("cannot sync"))?;
        drop(file);
        self.name(key, &temp, &path)
    }

    pub(super) fn take_in(&self, key: &str, spooled: &Path) -> Result<(), VaultError> {
        let path = self.prepare(key)?;
        match self.name(key, spooled, &path) {
            Err(VaultError::Io { source, .. }) if source.kind() == io::ErrorKind::CrossesDevices => {
                let failed = |what| move |source| VaultError::Io { what, key: key.to_owned(), source };
                self.put_new(key, &self.fs.read(spooled).map_err(failed("cannot read the spooled"))?)?;
                self.fs.remove(spooled).map_err(failed("cannot remove the spooled"))
            }
            named => named,
        }
    }

    /// Makes the directory of a name.
    fn prepare(&self, key: &str) -> Result<PathBuf, VaultError> {
        let path = self.root.join(key);
        if let Some(parent) = path.parent() {
            self.make_dir(parent).map_err(|source| VaultError::Io {
                what: "cannot make the directory of",
                key: key.to_owned(),
                source,
            })?;
        }
        Ok(path)
    }

    /// Makes a directory so that it survives a power cut: every new level is synced into the one above.
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        if self.fs.sync_dir(dir).is_ok() {
            return Ok(());
        }
        // A group may be let in to read: the files themselves are 0440.
        self.fs.create_dir_all(dir, 0o750)?;
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        let levels = dir.ancestors().take_while(|level| *level != self.root && !settled.contains(*level));
        let levels: Vec<_> = levels.collect();
        for above in levels.iter().filter_map(|level| level.parent()) {
            self.fs.sync_dir(above)?;
        }
        // Not before all are: a level stands for those above it.
        settled.extend(levels.into_iter().skip(1).map(Path::to_owned));
        Ok(())
    }

    /// Gives a finished file its final name and makes that durable.
    fn name(&self, key: &str, from: &Path, path: &Path) -> Result<(), VaultError> {
        let failed = |what| move |source| VaultError::Io { what, key: key.to_owned(), source };
        match self.fs.rename_new(from, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let ours = self.fs.read(from).map_err(failed("cannot read back"))?;
                let theirs = self.fs.read(path).map_err(failed("cannot read"))?;
                if ours != theirs {
                    return Err(VaultError::Conflict { key: key.to_owned() });
                }
                return self.fs.remove(from).map_err(failed("cannot remove the double of"));
            }
            renamed => renamed.map_err(failed("cannot rename into place"))?,
        }
        if let Err(error) = self.fs.protect(path, self.immutable) {
            // The file is in place and synced; a filesystem without the attribute is the operator's choice.
            tracing::warn!(key, %error, "vault file could not be protected");
        }
        match path.parent() {
            Some(parent) => self.fs.sync_dir(parent).map_err(failed("cannot sync the directory of")),
            None => Ok(()),
        }
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Vec<u8>>, VaultError> {
        match self.fs.read(&self.root.join(key)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(VaultError::Io { what: "cannot read", key: key.to_owned(), source }),
        }
    }

    pub(super) fn list(&self, prefix: &str) -> Result<Vec<String>, VaultError> {
        let names = self.fs.list(&self.root.join(prefix));
        names.map_err(|source| VaultError::Io { what: "cannot list", key: prefix.to_owned(), source })
    }

    pub(super) fn remove(&self, key: &str) {
        // What stays behind is only a partial tile too many.
        let _ = self.fs.remove(&self.root.join(key));
    }
}

/// A name beside `path` that no reader takes for a finished file.
fn sibling(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::OsFs;

    #[test]
    fn a_name_is_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let vault = DirVault::new(Arc::new(OsFs), dir.path().join("vault"), false);
        vault.put_new("v1/a/b", b"one").unwrap();
        vault.put_new("v1/a/b", b"one").unwrap();
        assert!(matches!(vault.put_new("v1/a/b", b"two"), Err(VaultError::Conflict { .. })));
        assert_eq!(vault.get("v1/a/b").unwrap().unwrap(), b"one");
        assert_eq!(vault.list("v1/a").unwrap().iter().filter(|name| !name.starts_with('.')).count(), 1);
    }

    #[test]
    fn a_spooled_file_moves_in() {
        let dir = tempfile::tempdir().unwrap();
        let vault = DirVault::new(Arc::new(OsFs), dir.path().join("vault"), false);
        let spooled = dir.path().join("x.part");
        std::fs::write(&spooled, b"segment").unwrap();
        vault.take_in("v1/t/x.seg", &spooled).unwrap();
        assert!(!spooled.exists());
        assert_eq!(vault.get("v1/t/x.seg").unwrap().unwrap(), b"segment");
    }
}
