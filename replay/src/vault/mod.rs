//! What a vault holds, by name (FORMAT.md §1), wherever it rests: a directory, or a bucket with all its versions.
//!
//! Listing reads no content and believes none of it. Whatever is not named the way a vault names things is listed too, so
//! that a report can show it.

mod ahead;
mod dir;
mod index;
mod listing;
mod s3;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use casemate_recorder::log::tile::TileName;
use casemate_recorder::transcript::block::SessionId;
use casemate_recorder::vault::s3::Standing;

use crate::ReplayError;
use casemate_screen::safe::visible;

pub use dir::DirVault;
pub(crate) use dir::read_small;
pub(crate) use index::Totals;
pub use s3::S3Vault;

/// What a bucket's address begins with.
const SCHEME: &str = "s3://";

/// A session's id with its dashes, in characters.
const SESSION_LEN: usize = 36;

/// A vault.
#[derive(Debug)]
pub enum Vault {
    /// A directory.
    Dir(DirVault),
    /// A bucket.
    S3(Box<S3Vault>),
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
    /// Names of checkpoints, as in `v1/log/<node>/cp/2026-11-22/…`.
    pub notes: Vec<String>,
    /// Tiles and entry bundles.
    pub tiles: Vec<TileName>,
    /// Everything else.
    pub strays: Vec<Stray>,
}

/// One of the things under a name: a directory has one at most, a bucket as many as were ever put there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Its id; none of a file.
    pub id: Option<Box<str>>,
    /// Its length in bytes, where it is known before it is read.
    pub bytes: Option<u64>,
    /// When the server took it, in microseconds since 1970; 0 of a file, whose times anybody sets.
    pub modified_us: u64,
}

/// What was read of one version of a small file.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) version: Version,
    /// What the server says of it; nothing of a file.
    pub(crate) standing: Option<Standing>,
    /// What it holds, or what is wrong with it before anything in it is looked at.
    pub(crate) content: Result<Vec<u8>, ReplayError>,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Some(id) => write!(f, "version {}", visible(id)),
            None => f.write_str("the file"),
        }
    }
}

impl Vault {
    /// Opens a vault: a directory, or `s3://bucket/prefix`, all names and versions of which are listed now.
    ///
    /// # Errors
    /// `source` is not a directory, or the bucket cannot be listed.
    pub fn open(source: &str) -> Result<Self, ReplayError> {
        match source.strip_prefix(SCHEME) {
            Some(address) => S3Vault::open(address, None).map(Box::new).map(Self::S3),
            None => DirVault::open(source).map(Self::Dir),
        }
    }

    /// Opens a vault of which all logs will be read, and the sessions that `wanted` names by their ids: of a bucket the first of
    /// them are under way before all is listed.
    ///
    /// # Errors
    /// As [`Vault::open`].
    pub(crate) fn open_whole(
        source: &str,
        wanted: impl Fn(SessionId) -> bool + Send + Sync + 'static,
    ) -> Result<Self, ReplayError> {
        match source.strip_prefix(SCHEME) {
            Some(address) => S3Vault::open(address, Some(Box::new(wanted))).map(Box::new).map(Self::S3),
            None => Self::open(source),
        }
    }

    /// Lists a bucket anew; of a directory everything is looked at when it is asked for.
    ///
    /// # Errors
    /// The bucket cannot be listed.
    pub(crate) fn refresh(&self) -> Result<(), ReplayError> {
        match self {
            Self::Dir(_) => Ok(()),
            Self::S3(bucket) => bucket.refresh(),
        }
    }

    /// Whether it is a bucket: what is put there stays, and the server says when it came and how it is locked.
    pub(crate) fn bucket(&self) -> Option<&S3Vault> {
        match self {
            Self::Dir(_) => None,
            Self::S3(bucket) => Some(bucket),
        }
    }

    /// How far it lags behind a live node that ships without trouble.
    pub(crate) fn lag(&self) -> Duration {
        match self {
            Self::Dir(_) => Duration::from_millis(1500),
            Self::S3(_) => Duration::from_secs(12),
        }
    }

    /// Shows where a name lies, for errors.
    pub(crate) fn place(&self, key: &str) -> PathBuf {
        match self {
            Self::Dir(dir) => dir.path(key),
            Self::S3(bucket) => PathBuf::from(format!("{bucket}{key}")),
        }
    }

    /// Lists the nodes that have a log, and what else lies beside them.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn nodes(&self) -> Result<(Vec<String>, Vec<Stray>), ReplayError> {
        match self {
            Self::Dir(dir) => dir.nodes(),
            Self::S3(bucket) => Ok(bucket.index().nodes()),
        }
    }

    /// Lists all segments.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn sessions(&self) -> Result<Listing, ReplayError> {
        match self {
            Self::Dir(dir) => dir.sessions(),
            Self::S3(bucket) => Ok(bucket.index().sessions()),
        }
    }

    /// Lists the files of a node log.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn log(&self, node: &str) -> Result<LogListing, ReplayError> {
        match self {
            Self::Dir(dir) => dir.log(node),
            Self::S3(bucket) => Ok(bucket.index().log(node)),
        }
    }

    /// Returns the versions of a segment, the oldest first.
    pub(crate) fn segment_versions(&self, session: SessionId, segment_no: u32) -> Vec<Version> {
        match self {
            Self::Dir(_) => DirVault::versions(),
            Self::S3(bucket) => bucket.index().segment(session, segment_no),
        }
    }

    /// Reads every version of small files, at most `max` bytes of each: those of one name together, the oldest first, none
    /// where nothing has the name.
    ///
    /// # Errors
    /// The vault cannot be read. A version that is no such file is in what was found.
    pub(crate) fn read_all(&self, keys: &[String], max: u64) -> Result<Vec<Vec<Found>>, ReplayError> {
        match self {
            Self::Dir(dir) => keys.iter().map(|key| dir.found(key, max)).collect(),
            Self::S3(bucket) => bucket.read_all(keys, max),
        }
    }

    /// Hints that [`Vault::read_all`] will be asked for a name soon, with that `max`; says whether more such hints are of use now.
    pub(crate) fn expect(&self, key: &str, max: u64) -> bool {
        match self {
            Self::Dir(_) => false,
            Self::S3(bucket) => bucket.expect(key, max),
        }
    }

    /// How many requests are worth having in flight.
    pub(crate) fn lanes(&self) -> usize {
        match self {
            Self::Dir(_) => 1,
            Self::S3(_) => s3::IN_FLIGHT,
        }
    }

    /// Does something for each item, at once where the vault is far away; the answers come in the order of the items.
    pub(crate) fn each<T: Sync, R: Send>(&self, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
        let lanes = self.lanes().min(items.len());
        if lanes <= 1 {
            return items.iter().map(work).collect();
        }
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::with_capacity(items.len()));
        std::thread::scope(|scope| {
            for _ in 0..lanes {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(item) = items.get(at) else { return };
                        let answer = work(item);
                        done.lock().unwrap_or_else(PoisonError::into_inner).push((at, answer));
                    }
                });
            }
        });
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_by_key(|(at, _)| *at);
        done.into_iter().map(|(_, answer)| answer).collect()
    }
}

/// Whether a name begins with a dot: something in the making, which means nothing (FORMAT.md §1).
fn is_hidden(name: &str) -> bool {
    name.starts_with('.')
}

/// Returns the number of a segment that a file is called after, spelled the one way.
fn segment_number(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".seg")?.parse::<u32>().ok()?;
    (format!("{number:06}.seg") == name).then_some(number)
}

/// Whether a file would be a session's segment if it lay in another place: it is called like one, and its directory like a session.
/// Where ids are read in capitals too, a name in capitals poses as one.
fn poses_as_segment(dir: &str, name: &str) -> bool {
    dir.len() == SESSION_LEN && dir.parse::<SessionId>().is_ok() && segment_number(name).is_some()
}

/// Says what a file that does not belong looks like.
fn stray(path: String, name: &str, is_file: bool, poses: bool) -> Stray {
    let half = is_file && is_hidden(name) && name.ends_with(".new");
    let what = match (half, poses) {
        (true, _) => "a file that was never finished",
        (false, true) => "poses as evidence",
        (false, false) => "does not belong to a vault",
    };
    Stray { path, what, poses: poses && !half }
}
