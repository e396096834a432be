//! A vault that is a bucket. Its names are listed once, with all versions and delete markers; content is read version by
//! version.
//!
//! How it is reached is what every tool of Amazon's reads: `AWS_PROFILE`, `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL` and the
//! others.

use std::env;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use casemate_recorder::transcript::block::SessionId;
use casemate_recorder::vault::s3::{Bucket, Purpose, S3Error, Settings, Standing, Version as Listed};
use casemate_recorder::vault::segment_key;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::index::{Hidden, Index, Totals};
use super::{Found, SCHEME, Version};
use crate::ReplayError;
use casemate_screen::safe::visible;

/// Requests in flight: what a bucket far away needs to keep a line busy, and few enough to hold what they bring in memory.
pub(super) const IN_FLIGHT: usize = 16;

/// No segment is longer, in bytes: it rolls at 8 MiB, and holds one more block and its index at most.
const SEGMENT_MAX: u64 = 16 * 1024 * 1024;

/// How often a read is begun that breaks off on the way; the client itself repeats those that are not answered.
const READS: usize = 4;

/// A bucket.
pub struct S3Vault {
    bucket: Bucket,
    runtime: Runtime,
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
    pub(super) fn open(address: &str) -> Result<Self, ReplayError> {
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
        let vault = Self { bucket, runtime, index: RwLock::default() };
        vault.refresh()?;
        Ok(vault)
    }

    /// Lists all names and versions.
    pub(super) fn refresh(&self) -> Result<(), ReplayError> {
        let index = self.runtime.block_on(list(&self.bucket)).map_err(|error| self.explain(&error, "list"))?;
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(index);
        Ok(())
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
        match self.runtime.block_on(self.bucket.look(key, Some(version))) {
            Ok(standing) => Ok(Some(standing.hold)),
            Err(S3Error::Absent(_)) => Ok(None),
            Err(error) => Err(self.explain(&error, key)),
        }
    }

    /// Sets or lifts the legal hold of a version.
    pub(crate) fn hold(&self, key: &str, version: &str, on: bool) -> Result<(), ReplayError> {
        self.runtime.block_on(self.bucket.hold(key, version, on)).map_err(|error| self.explain(&error, key))
    }

    /// Deletes a version or a delete marker. A lock makes the server refuse it.
    pub(crate) fn delete(&self, key: &str, version: &str) -> Result<(), ReplayError> {
        self.runtime.block_on(self.bucket.delete(key, version)).map_err(|error| self.explain(&error, key))
    }

    /// Reads a version of a segment into a buffer; nothing where it is gone by now.
    pub(crate) fn segment(
        &self,
        session: SessionId,
        segment_no: u32,
        version: &Version,
        into: &mut Vec<u8>,
    ) -> Result<Option<Standing>, ReplayError> {
        self.read(&segment_key(session, segment_no), version, SEGMENT_MAX, into)
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

    /// Reads all versions of a small file.
    pub(super) fn found(&self, key: &str, max: u64) -> Result<Vec<Found>, ReplayError> {
        let mut found = Vec::new();
        for version in self.index().versions(key) {
            let mut bytes = Vec::new();
            match self.read(key, &version, max, &mut bytes) {
                Ok(None) => {}
                Ok(standing) => found.push(Found { version, standing, content: Ok(bytes) }),
                Err(error @ ReplayError::Evidence { .. }) => {
                    found.push(Found { version, standing: None, content: Err(error) });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn read(
        &self,
        key: &str,
        version: &Version,
        max: u64,
        into: &mut Vec<u8>,
    ) -> Result<Option<Standing>, ReplayError> {
        if version.bytes.is_some_and(|bytes| bytes > max) {
            return Err(ReplayError::evidence(format!("{key}, {version}"), "is longer than any such file"));
        }
        let id = version.id.as_deref();
        self.runtime.block_on(async {
            let mut left = READS;
            let mut standing = loop {
                left -= 1;
                match self.bucket.read(key, id, None, max, into).await {
                    Ok(standing) => break standing,
                    Err(S3Error::Absent(_)) => return Ok(None),
                    Err(error) if error.is_transient() && left > 0 => {}
                    Err(error) => return Err(self.explain(&error, key)),
                }
            };
            if standing.lock.is_none() {
                // Not every server says so with the content.
                match self.bucket.look(key, id).await {
                    Ok(looked) => (standing.lock, standing.hold) = (looked.lock, looked.hold || standing.hold),
                    Err(S3Error::Absent(_)) => return Ok(None),
                    Err(error) => return Err(self.explain(&error, key)),
                }
            }
            Ok(Some(standing))
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

/// The SDK has no kind of its own for it.
fn is_about_credentials(said: &str) -> bool {
    said.to_ascii_lowercase().contains("credential")
}

/// Lists everything that a verdict looks at: segments first, then checkpoints, then tiles, so that in a live vault
/// whatever is listed is spoken of by what is listed after it.
async fn list(bucket: &Bucket) -> Result<Index, S3Error> {
    let mut index = Index::default();
    let mut take = |listed| index.take(listed);
    // Names outside belong to somebody else; where a prefix was given, they are not even looked at.
    let mut tops = Vec::new();
    if bucket.settings().prefix.is_empty() {
        bucket.level("", &mut take).await?;
    }
    for top in bucket.level("v1/", &mut take).await? {
        tops.push(format!("v1/{top}"));
    }
    let mut days = vec!["v1/t/".to_owned()];
    for _ in 0..3 {
        days = levels(bucket, days, &mut index).await?;
    }
    flat(bucket, days, &mut index).await?;
    let nodes = levels(bucket, vec!["v1/log/".to_owned()], &mut index).await?;
    let inside = levels(bucket, nodes, &mut index).await?;
    let (notes, others): (Vec<_>, Vec<_>) = inside.into_iter().partition(|dir| dir.ends_with("/cp/"));
    let notes = levels(bucket, notes, &mut index).await?;
    flat(bucket, notes, &mut index).await?;
    flat(bucket, others, &mut index).await?;
    // The catalogue is a convenience and never evidence; whatever else is there does not belong.
    tops.retain(|top| !["v1/t/", "v1/log/", "v1/cat/"].contains(&top.as_str()));
    flat(bucket, tops, &mut index).await?;
    index.finish();
    Ok(index)
}

/// Lists one level of each directory, and returns the directories below.
async fn levels(bucket: &Bucket, dirs: Vec<String>, index: &mut Index) -> Result<Vec<String>, S3Error> {
    at_once(bucket, dirs, index, |bucket, dir| async move {
        let mut found = Vec::new();
        let below = bucket.level(&dir, &mut |listed| found.push(listed)).await?;
        Ok((found, below.iter().map(|name| format!("{dir}{name}")).collect()))
    })
    .await
}

/// Lists all that lies in directories, however deep.
async fn flat(bucket: &Bucket, dirs: Vec<String>, index: &mut Index) -> Result<(), S3Error> {
    at_once(bucket, dirs, index, |bucket, dir| async move {
        let mut found = Vec::new();
        bucket.versions(&dir, &mut |listed| found.push(listed)).await?;
        Ok((found, Vec::new()))
    })
    .await
    .map(drop)
}

/// Does it for some directories at a time; what was found is taken as it comes.
async fn at_once<F>(
    bucket: &Bucket,
    dirs: Vec<String>,
    index: &mut Index,
    each: impl Fn(Bucket, String) -> F,
) -> Result<Vec<String>, S3Error>
where
    F: Future<Output = Result<(Vec<Listed>, Vec<String>), S3Error>> + Send + 'static,
{
    let (mut running, mut waiting, mut below) = (JoinSet::new(), dirs.into_iter(), Vec::new());
    loop {
        while running.len() < IN_FLIGHT
            && let Some(dir) = waiting.next()
        {
            running.spawn(each(bucket.clone(), dir));
        }
        let Some(done) = running.join_next().await else { return Ok(below) };
        let (found, deeper) = done.map_err(|error| S3Error::Other(io::Error::other(error).to_string()))??;
        found.into_iter().for_each(|listed| index.take(listed));
        below.extend(deeper);
    }
}
