//! A vault that is a bucket. Its names are listed once, with all versions and delete markers; content is read version by
//! version.
//!
//! How it is reached is what every tool of Amazon's reads: `AWS_PROFILE`, `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL` and the
//! others.

use std::collections::VecDeque;
use std::env;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use casemate_recorder::transcript::block::SessionId;
use casemate_recorder::vault::s3::{Bucket, Purpose, S3Error, Settings, Standing};
use casemate_recorder::vault::segment_key;
use tokio::runtime::Runtime;
use tokio::task::{JoinError, JoinHandle};

use super::ahead::{Ahead, Read, Reader};
use super::index::{Hidden, Index, Totals};
use super::listing::{Seen, list};
use super::{Found, SCHEME, Version};
use crate::ReplayError;
use casemate_screen::safe::visible;

/// Requests in flight: what a bucket far away needs to keep a line busy, and few enough to hold what they bring in memory.
pub(super) const IN_FLIGHT: usize = 16;

/// No segment is longer, in bytes: it rolls at 8 MiB, and holds one more block and its index at most.
const SEGMENT_MAX: u64 = 16 * 1024 * 1024;

/// Segments that are held in memory before anybody asks for them, in bytes: what a fast line brings while the log is listed and its
/// first leaves are read.
const SEGMENTS_AHEAD: u64 = 128 * 1024 * 1024;

/// How much of them is on the line at a time, in bytes: so little that listing need not wait behind it.
const SEGMENTS_AT_ONCE: u64 = 48 * 1024 * 1024;

/// Files of logs that are held in the same way, in bytes.
const FILES_AHEAD: u64 = 16 * 1024 * 1024;

/// No file of a log that is read before its name was looked at is longer, in bytes.
const FILE_MAX: u64 = 1024 * 1024;

/// Checkpoints among them that are read before it is known whose log comes first.
const NOTES_AHEAD: usize = 1024;

/// Which sessions will be read, as far as their ids tell.
pub(super) type Wanted = Box<dyn Fn(SessionId) -> bool + Send + Sync>;

/// A bucket.
pub struct S3Vault {
    bucket: Bucket,
    runtime: Runtime,
    reader: Reader,
    files: Ahead,
    segments: Ahead,
    /// What is read while the bucket is still listed; nothing where no more than a session or two will be asked for.
    wanted: Option<Wanted>,
    index: RwLock<Arc<Index>>,
}

impl fmt::Debug for S3Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("S3Vault").field(&self.bucket).finish()
    }
}

/// Shows the address, as names are put behind it.
impl fmt::Display for S3Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = self.bucket.settings();
        write!(f, "{SCHEME}{}/{}", settings.bucket, settings.prefix)
    }
}

/// A variable that is set to something.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

impl S3Vault {
    /// Opens `bucket` or `bucket/prefix`.
    pub(super) fn open(address: &str, wanted: Option<Wanted>) -> Result<Self, ReplayError> {
        let (name, prefix) = address.split_once('/').unwrap_or((address, ""));
        let prefix = prefix.trim_matches('/');
        let odd = |c: char| !(c.is_ascii_alphanumeric() || ".-_".contains(c));
        if name.is_empty() || name.contains(odd) {
            let what = "write it s3://BUCKET or s3://BUCKET/PREFIX";
            return Err(ReplayError::Usage(format!("{SCHEME}{} names no bucket: {what}", visible(address))));
        }
        let endpoint = variable("AWS_ENDPOINT_URL_S3").or_else(|| variable("AWS_ENDPOINT_URL"));
        let settings = Settings {
            bucket: name.to_owned(),
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            endpoint,
            ca: variable("AWS_CA_BUNDLE").map(Into::into),
            ..Settings::default()
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(ReplayError::io("begin to ask", Path::new(SCHEME)))?;
        let bucket = runtime
            .block_on(Bucket::open(settings, Purpose::Reading))
            .map_err(|error| ReplayError::Storage(error.to_string()))?;
        let reader = Reader::new(bucket.clone());
        let ahead = |line, bytes| Ahead::new(reader.clone(), runtime.handle().clone(), IN_FLIGHT, line, bytes);
        let (files, segments) = (ahead(FILES_AHEAD, FILES_AHEAD), ahead(SEGMENTS_AT_ONCE, SEGMENTS_AHEAD));
        let vault = Self { bucket, runtime, reader, files, segments, wanted, index: RwLock::default() };
        vault.refresh()?;
        Ok(vault)
    }

    /// Lists all names and versions.
    pub(super) fn refresh(&self) -> Result<(), ReplayError> {
        self.files.clear();
        self.segments.clear();
        let listed = self.runtime.block_on(list(&self.bucket, &|seen| self.begin(seen)));
        let index = listed.map_err(|error| self.explain(&error, "list"))?;
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(index);
        Ok(())
    }

    /// Begins to read what was listed, where it will be asked for.
    fn begin(&self, seen: Seen<'_>) {
        let Some(wanted) = &self.wanted else { return };
        match seen {
            Seen::Segments(index) => {
                let mut all = index.segments().filter(|(session, ..)| wanted(*session));
                let _ = all.all(|(session, no, version)| {
                    self.segments.expect(&segment_key(session, no), &version, SEGMENT_MAX)
                });
            }
            Seen::Notes(index, tiles) => {
                let tiles = tiles.iter().filter(|tile| !tile.marker).map(|tile| {
                    let (id, modified_us) = (Some(tile.id.as_str().into()), tile.modified_us);
                    (tile.key.clone(), Version { id, bytes: Some(tile.bytes), modified_us })
                });
                let mut all = index.notes().take(NOTES_AHEAD).chain(tiles);
                let _ = all.all(|(key, version)| self.files.expect(&key, &version, FILE_MAX));
            }
        }
    }

    /// Begins to read a small file that will be asked for soon; says whether there was room for it.
    pub(super) fn expect(&self, key: &str, max: u64) -> bool {
        self.index().versions(key).iter().all(|version| self.files.expect(key, version, max))
    }

    pub(super) fn index(&self) -> Arc<Index> {
        Arc::clone(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the bucket's name, as a report names it.
    pub(crate) fn name(&self) -> String {
        format!("{SCHEME}{}", self.bucket.settings().bucket)
    }

    /// Lists what hides evidence or lies over it.
    pub(crate) fn hidden(&self) -> Vec<Hidden> {
        self.index().hidden()
    }

    /// Returns how much there is.
    pub(crate) fn totals(&self) -> Totals {
        self.index().totals()
    }

    /// Returns when the newest checkpoint of the node came that has shipped none for the longest time, in microseconds since 1970.
    pub(crate) fn newest_checkpoint_us(&self) -> Option<u64> {
        self.index().newest_checkpoint_us()
    }

    /// Returns when a segment first came here, in microseconds since 1970.
    pub(crate) fn came_us(&self, session: SessionId, segment_no: u32) -> Option<u64> {
        self.index().segment(session, segment_no).iter().map(|version| version.modified_us).min()
    }

    /// Lists all that is there of a session, delete markers too: name, version, and whether it is a marker.
    pub(crate) fn all_of(&self, session: SessionId) -> Vec<(String, Box<str>, bool)> {
        self.index().all_of(session)
    }

    /// Asks whether a version is under a legal hold; nothing where it is gone by now.
    pub(crate) fn is_held(&self, key: &str, version: &str) -> Result<Option<bool>, ReplayError> {
        Ok(self.standing(key, Some(version))?.map(|standing| standing.hold))
    }

    /// Sets or lifts the legal hold of a version.
    pub(crate) fn hold(&self, key: &str, version: &str, on: bool) -> Result<(), ReplayError> {
        self.runtime.block_on(self.bucket.hold(key, version, on)).map_err(|error| self.explain(&error, key))
    }

    /// Deletes a version or a delete marker. A lock makes the server refuse it.
    pub(crate) fn delete(&self, key: &str, version: &str) -> Result<(), ReplayError> {
        self.runtime.block_on(self.bucket.delete(key, version)).map_err(|error| self.explain(&error, key))
    }

    /// Returns the numbers under which anything ever lay with a session's segments.
    pub(crate) fn numbers(&self, session: SessionId) -> Vec<u32> {
        self.index().numbers(session)
    }

    /// Returns the version of a segment of which there is one, and nothing else under its name.
    pub(crate) fn only(&self, session: SessionId, segment_no: u32) -> Option<Version> {
        self.index().only(session, segment_no)
    }

    /// Asks what the server says of a version of a segment, and reads none of it; nothing where it is gone by now.
    pub(crate) fn look(
        &self,
        session: SessionId,
        segment_no: u32,
        version: &Version,
    ) -> Result<Option<Standing>, ReplayError> {
        self.standing(&segment_key(session, segment_no), version.id.as_deref())
    }

    fn standing(&self, key: &str, version: Option<&str>) -> Result<Option<Standing>, ReplayError> {
        match self.runtime.block_on(self.bucket.look(key, version)) {
            Err(S3Error::Absent(_)) => Ok(None),
            looked => looked.map(Some).map_err(|error| self.explain(&error, key)),
        }
    }

    /// Reads a version of a segment into a buffer; nothing where it is gone by now.
    pub(crate) fn segment(
        &self,
        session: SessionId,
        segment_no: u32,
        version: &Version,
        into: &mut Vec<u8>,
    ) -> Result<Option<Standing>, ReplayError> {
        let key = segment_key(session, segment_no);
        fits(&key, version, SEGMENT_MAX)?;
        let read = match self.segments.take(&key, version) {
            Some(begun) => {
                let (read, bytes) = self.runtime.block_on(begun).map_err(|error| broken(&error))?;
                *into = bytes;
                read
            }
            None => self.runtime.block_on(self.reader.read(&key, version.id.as_deref(), SEGMENT_MAX, into)),
        };
        read.map_err(|error| self.explain(&error, &key))
    }

    /// Reads a part of a segment, as HTTP names it: `bytes=0-99`, or `bytes=-100` for the last.
    pub(crate) fn part(
        &self,
        session: SessionId,
        segment_no: u32,
        version: &Version,
        range: &str,
    ) -> Result<Vec<u8>, ReplayError> {
        let key = segment_key(session, segment_no);
        let mut bytes = Vec::new();
        let range = Some(range.to_owned());
        let read = self.bucket.read(&key, version.id.as_deref(), range, SEGMENT_MAX, &mut bytes);
        self.runtime.block_on(read).map_err(|error| self.explain(&error, &key))?;
        Ok(bytes)
    }

    /// Reads all versions of small files, those of one name together and the oldest first; many at a time.
    pub(super) fn read_all(&self, keys: &[String], max: u64) -> Result<Vec<Vec<Found>>, ReplayError> {
        let index = self.index();
        let versions = |(at, key)| index.versions(key).into_iter().map(move |version| (at, key, version));
        let mut versions = keys.iter().map(String::as_str).enumerate().flat_map(versions);
        let mut all: Vec<Vec<Found>> = keys.iter().map(|_| Vec::new()).collect();
        let mut running = VecDeque::new();
        self.runtime.block_on(async {
            loop {
                while running.len() < IN_FLIGHT
                    && let Some((at, key, version)) = versions.next()
                {
                    let read = fits(key, &version, max).map(|()| self.begun(key, &version, max));
                    running.push_back((at, key, version, read));
                }
                let Some((at, key, version, read)) = running.pop_front() else { return Ok(all) };
                let (standing, content) = match read {
                    Err(error) => (None, Err(error)),
                    Ok(read) => {
                        let (standing, bytes) = read.await.map_err(|error| broken(&error))?;
                        match standing.map_err(|error| self.explain(&error, key))? {
                            None => continue,
                            standing => (standing, Ok(bytes)),
                        }
                    }
                };
                if let Some(of_name) = all.get_mut(at) {
                    of_name.push(Found { version, standing, content });
                }
            }
        })
    }

    /// Begins to read a version of a small file, where that was not begun before.
    fn begun(&self, key: &str, version: &Version, max: u64) -> JoinHandle<Read> {
        self.files.take(key, version).unwrap_or_else(|| {
            let (reader, key, id) = (self.reader.clone(), key.to_owned(), version.id.clone());
            self.runtime.spawn(async move {
                let mut bytes = Vec::new();
                let standing = reader.read(&key, id.as_deref(), max, &mut bytes).await;
                (standing, bytes)
            })
        })
    }

    /// Says what to do about an error: none of them is a finding.
    fn explain(&self, error: &S3Error, what: &str) -> ReplayError {
        let settings = self.bucket.settings();
        let name = format!("{SCHEME}{}", visible(&settings.bucket));
        let server = settings.endpoint.as_deref().map_or_else(|| "Amazon".to_owned(), visible);
        let said = visible(&error.to_string());
        let of_bucket = what == "list";
        ReplayError::Storage(match error {
            S3Error::Absent(_) if of_bucket => {
                format!("{name}: {server} has no such bucket; check the name and AWS_ENDPOINT_URL ({said})")
            }
            S3Error::Denied(_) if of_bucket => format!(
                "{name}: these credentials may not list its versions; readers need s3:ListBucketVersions, \
                 s3:GetObjectVersion, s3:GetObjectRetention and s3:GetObjectLegalHold ({said})"
            ),
            S3Error::Denied(_) => {
                format!("{name}: {} is refused to these credentials, or by a lock ({said})", visible(what))
            }
            S3Error::Unreachable(said) if is_about_credentials(said) => {
                format!("{name}: no credentials; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
            }
            S3Error::Unreachable(_) | S3Error::Busy(_) => {
                format!("{name}: {server} cannot be asked; AWS_ENDPOINT_URL names another server ({said})")
            }
            S3Error::Skewed(_) => format!("{name}: set this machine's clock ({said})"),
            S3Error::Other(said) if said.contains("Redirect") => {
                format!("{name}: is in another region; set AWS_REGION ({})", visible(said))
            }
            _ => format!("{name}: {said}"),
        })
    }
}

/// Holds the length that was listed against the longest that such a file may have.
fn fits(key: &str, version: &Version, max: u64) -> Result<(), ReplayError> {
    if version.bytes.is_some_and(|bytes| bytes > max) {
        return Err(ReplayError::evidence(format!("{key}, {version}"), "is longer than any such file"));
    }
    Ok(())
}

/// A read that came to no end, for a reason that is none of the server's.
fn broken(error: &JoinError) -> ReplayError {
    ReplayError::Storage(format!("a read broke off: {error}"))
}

/// The SDK has no kind of its own for it.
fn is_about_credentials(said: &str) -> bool {
    said.to_ascii_lowercase().contains("credential")
}
