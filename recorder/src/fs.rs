//! The seam to the filesystem: everything the recorder does to a disk goes through [`Fs`], so that a test can put one
//! behind it that fails, tears and forgets.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;
use rustix::io::Errno;

/// A filesystem, as far as the recorder needs one. All calls block.
pub trait Fs: Send + Sync + fmt::Debug {
    /// Creates a file for reading and writing; it must not exist.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Creates a file that is written in whole pages from page-aligned memory only ([`PAGE_LEN`](crate::pages::PAGE_LEN)), past
    /// the page cache where the filesystem can; it must not exist.
    fn create_paged(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Reads a whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Renames a file over whatever is at `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames a file; fails with `AlreadyExists` where `to` exists.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory and its parents, with `mode` for new ones.
    fn create_dir_all(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// Makes renames and creations in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Lists the names in a directory; an absent directory is empty.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Makes a file read-only for everybody, and immutable where asked for and allowed.
    fn protect(&self, path: &Path, immutable: bool) -> io::Result<()>;
    /// Takes back what [`Fs::protect`] did, so that the file can be removed.
    fn unprotect(&self, path: &Path) -> io::Result<()>;
    /// Returns what is available of the filesystem that holds `path`, and that together with what is used of it, in bytes. What is
    /// kept for root, or for others by a quota, is neither.
    fn space(&self, path: &Path) -> io::Result<(u64, u64)>;
}

/// An open file.
pub trait File: Send + Sync + fmt::Debug {
    /// Writes all of `bytes` at an offset.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was written durable, with what is needed to read it back.
    fn sync_data(&self) -> io::Result<()>;
    /// Returns the length in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Cuts or extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Says that what is synced will not be read soon, so that it need not stay in memory. A hint; nothing follows from it.
    fn forget(&self);
}

/// The operating system's filesystem.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsFs;

impl Fs for OsFs {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(OsFile::cached(new_file().open(path)?)))
    }

    fn create_paged(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        // Made first and told then: an open that fails for want of such writes may leave the file behind.
        let file = new_file().open(path)?;
        let direct = match set_direct(&file, true) {
            Ok(()) => true,
            Err(Errno::INVAL) => false,
            Err(error) => return Err(error.into()),
        };
        Ok(Arc::new(OsFile { file, direct: AtomicBool::new(direct) }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(OsFile::cached(fs::OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir_all(&self, path: &Path, mode: u32) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(mode).create(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        // A name that is not UTF-8 is not one of ours.
        entries.filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose()).collect()
    }

    fn protect(&self, path: &Path, immutable: bool) -> io::Result<()> {
        fs::set_permissions(path, fs::Permissions::from_mode(0o440))?;
        if immutable {
            let file = fs::File::open(path)?;
            let flags = rustix::fs::ioctl_getflags(&file)? | rustix::fs::IFlags::IMMUTABLE;
            rustix::fs::ioctl_setflags(&file, flags)?;
        }
        Ok(())
    }

    fn unprotect(&self, path: &Path) -> io::Result<()> {
        let file = fs::File::open(path)?;
        match rustix::fs::ioctl_getflags(&file) {
            Ok(flags) if flags.contains(rustix::fs::IFlags::IMMUTABLE) => {
                Ok(rustix::fs::ioctl_setflags(&file, flags - rustix::fs::IFlags::IMMUTABLE)?)
            }
            // No such attribute here, or not this filesystem's: nothing was set.
            _ => Ok(()),
        }
    }

    fn space(&self, path: &Path) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::statvfs(path)?;
        // As df counts.
        let blocks = stat.f_blocks.saturating_sub(stat.f_bfree).saturating_add(stat.f_bavail);
        Ok((stat.f_bavail.saturating_mul(stat.f_frsize), blocks.saturating_mul(stat.f_frsize)))
    }
}

fn new_file() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    options
}

/// Says whether a file's writes go past the page cache.
fn set_direct(file: &fs::File, direct: bool) -> Result<(), Errno> {
    let mut flags = rustix::fs::fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, direct);
    rustix::fs::fcntl_setfl(file, flags)
}

#[derive(Debug)]
struct OsFile {
    file: fs::File,
    /// Whether writes go past the page cache, which costs a copy, and then the time to find each page and to write it back: for
    /// bytes that nobody here reads again, most of what recording them takes.
    direct: AtomicBool,
}

impl OsFile {
    fn cached(file: fs::File) -> Self {
        Self { file, direct: AtomicBool::new(false) }
    }
}

impl File for OsFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match self.file.write_all_at(bytes, offset) {
            // Not a failed write: a disk whose sectors are larger than a page, or the space ended within one. The page cache takes
            // the bytes, or says what is wrong.
            Err(error)
                if error.raw_os_error() == Some(Errno::INVAL.raw_os_error())
                    && self.direct.swap(false, Ordering::Relaxed) =>
            {
                set_direct(&self.file, false)?;
                self.file.write_all_at(bytes, offset)
            }
            written => written,
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn forget(&self) {
        // A recording is written once and read by somebody else, later: it should not push out what the machine needs.
        if let Err(error) = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed) {
            tracing::debug!(%error, "no advice taken");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::{PAGE_LEN, Pages};

    #[test]
    fn a_paged_file_takes_what_the_filesystem_cannot_take_to_the_disk_directly() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("paged");
        let file = OsFs.create_paged(&path).unwrap();
        assert!(OsFs.create_paged(&path).is_err(), "it exists");
        let mut pages = Pages::new();
        pages.write(&*file, 0, [&[1; 5 * PAGE_LEN + 1][..]]).unwrap();
        // No page, and from memory that begins anywhere.
        file.write_at(PAGE_LEN as u64 - 3, &[2; 7][..]).unwrap();
        pages.write(&*file, 2 * PAGE_LEN as u64, [&[3; PAGE_LEN][..]]).unwrap();
        file.sync_data().unwrap();
        let mut expected = vec![1; 5 * PAGE_LEN + 1];
        expected.resize(6 * PAGE_LEN, 0);
        expected[PAGE_LEN - 3..PAGE_LEN + 4].fill(2);
        expected[2 * PAGE_LEN..3 * PAGE_LEN].fill(3);
        assert!(OsFs.read(&path).unwrap() == expected);
    }

    #[test]
    fn space_is_counted_as_df_counts_it() {
        let dir = tempfile::tempdir().unwrap();
        let df =
            std::process::Command::new("df").args(["-B1", "--output=used,avail"]).arg(dir.path()).output().unwrap();
        let text = String::from_utf8(df.stdout).unwrap();
        let [used, available] = text.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{text}")
        };
        let (used, available): (u64, u64) = (used.parse().unwrap(), available.parse().unwrap());
        let (ours, all) = OsFs.space(dir.path()).unwrap();
        // Others write meanwhile.
        let near = |a: u64, b: u64| a.abs_diff(b) <= (1 << 30).min(all / 20);
        assert!(near(ours, available) && near(all - ours, used), "{ours} of {all}, and df: {text}");
    }
}
