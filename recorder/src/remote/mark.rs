//! Where a start begins to read the log for a vault elsewhere: a file beside the log. It saves time and decides nothing;
//! without it everything is looked at again.

use std::io;
use std::path::{Path, PathBuf};

use crate::fs::Fs;

/// The first leaf that matters still.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mark(pub(super) u64);

/// Returns where the mark of a vault lies.
pub(super) fn path(state_dir: &Path, vault: &str) -> PathBuf {
    state_dir.join("log").join(format!("stored-{vault}"))
}

impl Mark {
    /// Reads a mark; one that is damaged or missing is the beginning.
    pub(super) fn read(fs: &dyn Fs, path: &Path) -> Self {
        let text = fs.read(path).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        Self(text.trim_end().parse().unwrap_or_default())
    }

    /// Writes it.
    pub(super) fn write(self, fs: &dyn Fs, path: &Path) -> io::Result<()> {
        let mut temp = path.as_os_str().to_owned();
        temp.push(".new");
        let temp = PathBuf::from(temp);
        match fs.remove(&temp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = fs.create(&temp)?;
        file.write_at(0, format!("{}\n", self.0).as_bytes())?;
        // A name without its content would be read as the beginning, which is right, only slow.
        fs.rename(&temp, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::OsFs;

    #[test]
    fn a_mark_is_read_back_and_anything_else_is_the_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stored-basel");
        assert_eq!(Mark::read(&OsFs, &path), Mark::default());
        for mark in [Mark(7), Mark(u64::MAX)] {
            mark.write(&OsFs, &path).unwrap();
            assert_eq!(Mark::read(&OsFs, &path), mark);
        }
        for text in ["", "x", "7 9", "-1"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Mark::read(&OsFs, &path), Mark::default(), "{text}");
        }
    }
}
