//! A vault that is a directory. Links are not followed: evidence is a plain file in its place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use casemate_recorder::transcript::block::SessionId;
use casemate_recorder::vault::segment_key;

use super::{Found, Listing, LogListing, Stray, Version, is_hidden, poses_as_segment, segment_number, stray};
use crate::ReplayError;
use casemate_screen::safe::visible;

/// How deep it is looked for segments below a directory that does not belong: no path is so long that more of it matters.
const DEPTH_MAX: u32 = 64;

/// A vault on disk.
#[derive(Debug, Clone)]
pub struct DirVault {
    root: PathBuf,
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
        is_hidden(&self.name)
    }
}

impl DirVault {
    pub(super) fn open(source: &str) -> Result<Self, ReplayError> {
        let root = PathBuf::from(source);
        match fs::metadata(&root) {
            Ok(found) if found.is_dir() => Ok(Self { root }),
            Ok(_) => Err(ReplayError::Usage(format!("{} is not a directory: name the vault", visible(source)))),
            Err(error) => Err(ReplayError::io("open the vault", &root)(error)),
        }
    }

    /// Returns where a name lies.
    pub(crate) fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// What a name may stand for: one file, whether it is there or not. A live vault changes, and only opening it tells.
    pub(super) fn versions() -> Vec<Version> {
        vec![Version { id: None, bytes: None, modified_us: 0 }]
    }

    pub(super) fn found(&self, key: &str, max: u64) -> Result<Vec<Found>, ReplayError> {
        let content = match read_small(&self.path(key), max) {
            Ok(None) => return Ok(Vec::new()),
            Ok(Some(bytes)) => Ok(bytes),
            Err(error @ ReplayError::Evidence { .. }) => Err(error),
            Err(error) => return Err(error),
        };
        Ok(vec![Found { version: Version { id: None, bytes: None, modified_us: 0 }, standing: None, content }])
    }

    fn stray(&self, entry: &Entry, poses: bool) -> Stray {
        let path = entry.path.strip_prefix(&self.root).unwrap_or(&entry.path);
        stray(visible(&path.to_string_lossy()), &entry.name, entry.is_file, poses)
    }

    pub(super) fn nodes(&self) -> Result<(Vec<String>, Vec<Stray>), ReplayError> {
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

    pub(super) fn sessions(&self) -> Result<Listing, ReplayError> {
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
                _ => self.list_stray(&entry, DEPTH_MAX, listing)?,
            }
        }
        Ok(())
    }

    /// Lists what does not belong here. Only a segment in a place that is not its session's pretends to be evidence, so that of a
    /// directory what lies below it is looked at.
    fn list_stray(&self, entry: &Entry, depth: u32, listing: &mut Listing) -> Result<(), ReplayError> {
        listing.strays.push(self.stray(entry, false));
        if entry.is_dir && !entry.is_hidden() {
            self.list_poses(entry, depth, listing)?;
        }
        Ok(())
    }

    fn list_poses(&self, dir: &Entry, depth: u32, listing: &mut Listing) -> Result<(), ReplayError> {
        let Some(depth) = depth.checked_sub(1) else { return Ok(()) };
        for entry in entries(&dir.path)? {
            if entry.is_hidden() {
                continue;
            }
            if entry.is_dir {
                self.list_poses(&entry, depth, listing)?;
            } else if poses_as_segment(&dir.name, &entry.name) {
                listing.strays.push(self.stray(&entry, true));
            }
        }
        Ok(())
    }

    /// Whether this is the one directory where the session's segments belong, spelled the one way.
    fn is_home(&self, entry: &Entry, session: SessionId) -> bool {
        self.path(&segment_key(session, 0)).parent() == Some(entry.path.as_path())
    }

    fn list_session(&self, session: SessionId, dir: &Path, listing: &mut Listing) -> Result<(), ReplayError> {
        let mut numbers = Vec::new();
        for entry in entries(dir)? {
            match segment_number(&entry.name) {
                Some(number) if entry.is_file => numbers.push(number),
                // What is no plain file and takes the place of one.
                Some(_) if !entry.is_dir => listing.strays.push(self.stray(&entry, true)),
                _ => self.list_stray(&entry, DEPTH_MAX, listing)?,
            }
        }
        numbers.sort_unstable();
        listing.sessions.insert(session, numbers);
        Ok(())
    }

    pub(super) fn log(&self, node: &str) -> Result<LogListing, ReplayError> {
        let mut listing = LogListing::default();
        let dir = self.root.join("v1/log").join(node);
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
                listing.strays.push(self.stray(&day, false));
                continue;
            }
            for entry in entries(&day.path)? {
                let key = entry.path.strip_prefix(&self.root).ok().and_then(Path::to_str);
                match key {
                    Some(key) if entry.is_file && entry.name.ends_with(".note") && !entry.is_hidden() => {
                        listing.notes.push(key.to_owned());
                    }
                    // A name that is no text is not that of a checkpoint, whatever it ends in.
                    _ => listing.strays.push(self.stray(&entry, key.is_none() && entry.name.ends_with(".note"))),
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

    fn vault(files: &[&str]) -> (tempfile::TempDir, DirVault) {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        }
        let vault = DirVault::open(dir.path().to_str().unwrap()).unwrap();
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
        assert_eq!(poses, [format!("v1/t/2025/11/23/{SESSION}/000000.seg")]);
        assert_eq!(listing.strays.len(), 6);
        assert!(listing.strays.iter().any(|stray| stray.what.contains("never finished")));
    }

    #[test]
    fn a_segment_poses_wherever_it_lies_and_nothing_else_does() {
        let home = format!("v1/t/2025/11/22/{SESSION}");
        let posing = [
            format!("v1/t/2025/{SESSION}/000000.seg"),
            format!("{home}/old/{SESSION}/000002.seg"),
            format!("v1/t/kept/2025/11/{SESSION}/000001.seg"),
        ];
        let (dir, vault) = vault(&[
            &format!("{home}/000000.seg"),
            &posing[0],
            &posing[1],
            &posing[2],
            &format!("{home}/old/000003.seg"),
            &format!("v1/t/kept/{SESSION}/1.seg"),
            &format!("v1/t/kept/{SESSION}/4294967296.seg"),
            &format!("v1/t/.kept/{SESSION}/000001.seg"),
            &format!("v1/t/kept/.now/{SESSION}/000001.seg"),
            &format!("v1/t/2025/11/24/{SESSION}"),
        ]);
        fs::create_dir_all(dir.path().join(format!("v1/t/2025/11/23/{SESSION}"))).unwrap();
        fs::create_dir_all(dir.path().join(format!("{home}/000005.seg"))).unwrap();
        let listing = vault.sessions().unwrap();
        assert_eq!(listing.sessions.values().next().unwrap(), &[0]);
        let mut found: Vec<_> = listing.strays.iter().filter(|stray| stray.poses).map(|stray| &stray.path).collect();
        found.sort();
        assert_eq!(found, posing.iter().collect::<Vec<_>>());
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
        assert_eq!(DirVault::open("/dev/null").unwrap_err().exit_code(), 2);
        assert_eq!(DirVault::open("/absent\x1b").unwrap_err().exit_code(), 2);
        assert!(!DirVault::open("/absent\x1b").unwrap_err().to_string().contains('\x1b'));
    }
}
