//! A vault that is a directory: what lies in it, by name. Reads no content and believes none of it.
//!
//! Whatever is not named the way a vault names things is listed, so that a report can show it. Links are not followed:
//! evidence is a plain file in its place.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use casemate_recorder::log::tile::TileName;
use casemate_recorder::transcript::block::SessionId;

use crate::ReplayError;
use crate::time::day_path;
use casemate_screen::safe::visible;

/// A vault on disk.
#[derive(Debug, Clone)]
pub struct Vault {
    root: PathBuf,
}

/// Something in a vault that does not belong there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stray {
    /// Where, relative to the vault, fit for a terminal.
    pub path: String,
    /// What it looks like.
    pub what: &'static str,
    /// Whether it poses as evidence.
    pub poses: bool,
}

/// What lies under `v1/t`.
#[derive(Debug, Default)]
pub struct Listing {
    /// The segments of each session, ascending.
    pub sessions: BTreeMap<SessionId, Vec<u32>>,
    /// Everything else.
    pub strays: Vec<Stray>,
}

/// What lies in the directory of one node log.
#[derive(Debug, Default)]
pub struct LogListing {
    /// Checkpoint files.
    pub notes: Vec<PathBuf>,
    /// Tiles and entry bundles.
    pub tiles: Vec<TileName>,
    /// Everything else.
    pub strays: Vec<Stray>,
}

/// A directory entry, links not followed.
struct Entry {
    name: String,
    path: PathBuf,
    is_dir: bool,
    is_file: bool,
}

impl Entry {
    /// Whether the name begins with a dot: a file in the making, which means nothing (FORMAT.md §1).
    fn is_hidden(&self) -> bool {
        self.name.starts_with('.')
    }
}

impl Vault {
    /// Opens a vault.
    ///
    /// # Errors
    /// `source` is not a directory.
    pub fn open(source: &str) -> Result<Self, ReplayError> {
        if source.starts_with("s3://") {
            return Err(ReplayError::Usage(
                "this version reads directories only: fetch the bucket into one".to_owned(),
            ));
        }
        let root = PathBuf::from(source);
        match fs::metadata(&root) {
            Ok(found) if found.is_dir() => Ok(Self { root }),
            Ok(_) => Err(ReplayError::Usage(format!("{} is not a directory: name the vault", visible(source)))),
            Err(error) => Err(ReplayError::io("open the vault", &root)(error)),
        }
    }

    /// Returns where a segment of a session lies.
    pub fn segment(&self, session: SessionId, segment_no: u32) -> PathBuf {
        self.root.join(segment_key(session, segment_no))
    }

    /// Returns the directory of a node log.
    pub fn log_dir(&self, node: &str) -> PathBuf {
        self.root.join("v1/log").join(node)
    }

    /// Shows a path relative to the vault, fit for a terminal.
    pub fn shown(&self, path: &Path) -> String {
        visible(&path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy())
    }

    fn stray(&self, entry: &Entry, poses: bool) -> Stray {
        let half = entry.is_file && entry.name.starts_with('.') && entry.name.ends_with(".new");
        let what = match (half, poses) {
            (true, _) => "a file that was never finished",
            (false, true) => "poses as evidence",
            (false, false) => "does not belong to a vault",
        };
        Stray { path: self.shown(&entry.path), what, poses: poses && !half }
    }

    /// Lists the nodes that have a log, and what else lies beside them.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn nodes(&self) -> Result<(Vec<String>, Vec<Stray>), ReplayError> {
        let mut strays = Vec::new();
        let mut nodes = Vec::new();
        for entry in entries(&self.root)? {
            if entry.name != "v1" || !entry.is_dir {
                strays.push(self.stray(&entry, false));
            }
        }
        for entry in entries(&self.root.join("v1"))? {
            if !(entry.is_dir && ["t", "log", "cat"].contains(&entry.name.as_str())) {
                strays.push(self.stray(&entry, false));
            }
        }
        for entry in entries(&self.root.join("v1/log"))? {
            if entry.is_dir && !entry.is_hidden() {
                nodes.push(entry.name);
            } else {
                strays.push(self.stray(&entry, false));
            }
        }
        Ok((nodes, strays))
    }

    /// Lists all segments.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn sessions(&self) -> Result<Listing, ReplayError> {
        let mut listing = Listing::default();
        self.descend(&self.root.join("v1/t"), 3, &mut listing)?;
        listing.strays.sort();
        Ok(listing)
    }

    /// Walks the directories of year, month and day.
    fn descend(&self, dir: &Path, depth: u32, listing: &mut Listing) -> Result<(), ReplayError> {
        for entry in entries(dir)? {
            let session = entry.name.parse::<SessionId>().ok();
            match (depth, session) {
                (0, Some(session)) if entry.is_dir && self.is_home(&entry, session) => {
                    self.list_session(session, &entry.path, listing)?;
                }
                (1.., None) if entry.is_dir && entry.name.bytes().all(|byte| byte.is_ascii_digit()) => {
                    self.descend(&entry.path, depth - 1, listing)?;
                }
                // Only a session's name in a place that is not the session's pretends to be evidence.
                (_, session) => listing.strays.push(self.stray(&entry, session.is_some())),
            }
        }
        Ok(())
    }

    /// Whether this is the one directory where the session's segments belong, spelled the one way.
    fn is_home(&self, entry: &Entry, session: SessionId) -> bool {
        self.segment(session, 0).parent() == Some(entry.path.as_path())
    }

    fn list_session(&self, session: SessionId, dir: &Path, listing: &mut Listing) -> Result<(), ReplayError> {
        let mut numbers = Vec::new();
        for entry in entries(dir)? {
            let number = entry.name.strip_suffix(".seg").and_then(|number| number.parse::<u32>().ok());
            match number.filter(|number| format!("{number:06}.seg") == entry.name) {
                Some(number) if entry.is_file => numbers.push(number),
                number => listing.strays.push(self.stray(&entry, number.is_some())),
            }
        }
        numbers.sort_unstable();
        listing.sessions.insert(session, numbers);
        Ok(())
    }

    /// Lists the files of a node log.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn log(&self, node: &str) -> Result<LogListing, ReplayError> {
        let mut listing = LogListing::default();
        let dir = self.log_dir(node);
        for entry in entries(&dir)? {
            match entry.name.as_str() {
                "cp" if entry.is_dir => self.list_notes(&entry.path, &mut listing)?,
                "tile" if entry.is_dir => self.list_tiles(&dir, &entry.path, &mut listing)?,
                _ => listing.strays.push(self.stray(&entry, false)),
            }
        }
        listing.notes.sort();
        listing.tiles.sort();
        Ok(listing)
    }

    fn list_notes(&self, cp: &Path, listing: &mut LogListing) -> Result<(), ReplayError> {
        for day in entries(cp)? {
            if !day.is_dir || day.is_hidden() {
                listing.strays.push(self.stray(&day, day.name.ends_with(".note") && !day.is_hidden()));
                continue;
            }
            for entry in entries(&day.path)? {
                if entry.is_file && entry.name.ends_with(".note") && !entry.is_hidden() {
                    listing.notes.push(entry.path);
                } else {
                    listing.strays.push(self.stray(&entry, false));
                }
            }
        }
        Ok(())
    }

    fn list_tiles(&self, log: &Path, dir: &Path, listing: &mut LogListing) -> Result<(), ReplayError> {
        for entry in entries(dir)? {
            if entry.is_dir {
                // Names nest no deeper than the numbers in them: eight groups hold any index.
                if entry.path.components().count() < log.components().count() + 12 {
                    self.list_tiles(log, &entry.path, listing)?;
                }
                continue;
            }
            let name = entry.path.strip_prefix(log).ok().and_then(Path::to_str);
            match name.and_then(|name| name.parse().ok()) {
                Some(name) if entry.is_file => listing.tiles.push(name),
                _ => listing.strays.push(self.stray(&entry, false)),
            }
        }
        Ok(())
    }
}

/// Returns the name of a segment in a vault: its day follows from the session's id.
fn segment_key(session: SessionId, segment_no: u32) -> String {
    format!("v1/t/{}/{session}/{segment_no:06}.seg", day_path(session.unix_ms().saturating_mul(1000)))
}

/// Lists a directory by name; an absent one is empty.
fn entries(dir: &Path) -> Result<Vec<Entry>, ReplayError> {
    let listed = match fs::read_dir(dir) {
        // A file in the place of a directory is a stray of the level above.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        listed => listed.map_err(ReplayError::io("list", dir))?,
    };
    let mut out = Vec::new();
    for entry in listed {
        let entry = entry.map_err(ReplayError::io("list", dir))?;
        let kind = match entry.file_type() {
            // A live vault: a partial tile gave way to a wider one meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            kind => kind.map_err(ReplayError::io("look at", &entry.path()))?,
        };
        out.push(Entry {
            name: entry.file_name().to_string_lossy().into_owned(),
            path: entry.path(),
            is_dir: kind.is_dir(),
            is_file: kind.is_file(),
        });
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
}

/// Reads a plain file of at most `max` bytes; `None` where there is none.
///
/// # Errors
/// It is longer, is not a plain file, or cannot be read.
pub(crate) fn read_small(path: &Path, max: u64) -> Result<Option<Vec<u8>>, ReplayError> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found.map_err(ReplayError::io("look at", path))?,
    };
    if !found.is_file() || found.len() > max {
        let what = if found.is_file() { "is longer than any such file" } else { "is not a plain file" };
        return Err(ReplayError::evidence(visible(&path.to_string_lossy()), what));
    }
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some).map_err(ReplayError::io("read", path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: &str = "019aacd1-0000-7000-8000-000000000001";

    fn vault(files: &[&str]) -> (tempfile::TempDir, Vault) {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        }
        let vault = Vault::open(dir.path().to_str().unwrap()).unwrap();
        (dir, vault)
    }

    #[test]
    fn segments_are_found_in_their_place_and_nowhere_else() {
        let home = format!("v1/t/2025/11/22/{SESSION}");
        let (_dir, vault) = vault(&[
            &format!("{home}/000001.seg"),
            &format!("{home}/000000.seg"),
            &format!("{home}/.000002.seg.new"),
            &format!("{home}/2.seg"),
            &format!("v1/t/2025/11/23/{SESSION}/000000.seg"),
            "v1/t/2025/11/22/notes.txt",
            "v1/t/readme",
        ]);
        let listing = vault.sessions().unwrap();
        assert_eq!(listing.sessions.values().next().unwrap(), &[0, 1]);
        assert_eq!(listing.sessions.len(), 1);
        let poses: Vec<_> =
            listing.strays.iter().filter(|stray| stray.poses).map(|stray| stray.path.as_str()).collect();
        assert_eq!(poses, [format!("v1/t/2025/11/23/{SESSION}")]);
        assert_eq!(listing.strays.len(), 5);
        assert!(listing.strays.iter().any(|stray| stray.what.contains("never finished")));
    }

    #[test]
    fn the_files_of_a_log_are_told_from_others() {
        let (_dir, vault) = vault(&[
            "v1/log/n/cp/2026-11-22/1-00.note",
            "v1/log/n/cp/2026-11-22/.x.note.new",
            "v1/log/n/cp/2026-11-22/.1-00.note",
            "v1/log/.n/cp/2026-11-22/1-00.note",
            "v1/log/n/tile/0/000.p/7",
            "v1/log/n/tile/entries/x001/000",
            "v1/log/n/tile/0/junk",
            "v1/log/lost",
            "lost",
        ]);
        let log = vault.log("n").unwrap();
        assert_eq!((log.notes.len(), log.tiles.len(), log.strays.len()), (1, 2, 3));
        let (nodes, strays) = vault.nodes().unwrap();
        assert_eq!((nodes, strays.len()), (vec!["n".to_owned()], 3));
    }

    #[test]
    fn what_is_no_directory_is_no_vault() {
        assert_eq!(Vault::open("/dev/null").unwrap_err().exit_code(), 2);
        assert_eq!(Vault::open("/absent\x1b").unwrap_err().exit_code(), 2);
        assert!(!Vault::open("/absent\x1b").unwrap_err().to_string().contains('\x1b'));
    }
}
