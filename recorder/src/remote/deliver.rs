//! Puts one object into a bucket, and does not believe it until the bucket shows it.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::vault::s3::{Bucket, Lie, Lock, S3Error, Standing, Wanted, md5_of};

/// So often something else under the name is answered with a version of our own; a server that spoils each of them would only be
/// fed more.
pub(super) const OVER_MAX: u32 = 3;

/// Why an object is not where it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    /// The request came to nothing.
    #[error(transparent)]
    Request(#[from] S3Error),
    /// The server did not do what it said.
    #[error(transparent)]
    Lie(#[from] Lie),
    /// There is something else under the name, which we did not put there.
    #[error("there is something else under this name, and what was put beside it did not stay as it was")]
    Conflict,
    /// What lies here is not what the log says.
    #[error("the copy here is gone or changed: it is not what the node log says")]
    LocalCopy,
}

impl Trouble {
    /// Whether it will pass by itself.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, Self::Request(error) if error.is_transient())
    }
}

/// What was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Delivered {
    pub(super) version: String,
    pub(super) lock: Lock,
    /// When the server took it, by its own clock, in microseconds since 1970.
    pub(super) dated_us: u64,
    /// Whether this call put it there.
    pub(super) put: bool,
    /// Whether something else has the name as well.
    pub(super) shadowed: bool,
}

/// What is to be delivered.
#[derive(Debug, Clone)]
pub(super) struct Parcel {
    pub(super) key: String,
    pub(super) content: Bytes,
    pub(super) wanted: Wanted,
    /// Whether it cannot be there yet.
    pub(super) fresh: bool,
    /// How often it was tried before.
    pub(super) attempt: u32,
    /// How far the end of its lock may be from what is wanted: an earlier attempt asked for another, in microseconds.
    pub(super) slack_us: u64,
    /// Whether nothing else may have the name, not even an older version: evidence, but not what follows from it.
    pub(super) alone: bool,
}

impl Parcel {
    /// Describes an object.
    pub(super) fn new(key: String, content: Bytes, lock: Lock) -> Self {
        let wanted = Wanted {
            bytes: content.len() as u64,
            sha256: Sha256::digest(&content).into(),
            md5: md5_of(&content),
            lock,
        };
        Self { key, content, wanted, fresh: false, attempt: 0, slack_us: 0, alone: true }
    }
}

/// Delivers an object.
///
/// Whatever an earlier attempt may have done is looked for first, because not every server honours the condition on the name:
/// there a second attempt would make a second version. Where something else has the name, whether a server spoiled what it
/// took or somebody who can write there wanted to be first, ours is put beside it as a version of its own: evidence does
/// not stay away because its place is taken, and the log names the version.
pub(super) async fn deliver(bucket: &Bucket, parcel: &Parcel) -> Result<Delivered, Trouble> {
    let mut taken = false;
    if !parcel.fresh {
        match find(bucket, parcel).await {
            Ok(Some(delivered)) => return Ok(delivered),
            Ok(None) => {}
            Err(Trouble::Conflict) if parcel.attempt < OVER_MAX => taken = true,
            Err(trouble) => return Err(trouble),
        }
    }
    let put = match bucket.put(&parcel.key, parcel.content.clone(), &parcel.wanted, !taken).await {
        // Our own answer may have been lost on its way.
        Err(S3Error::Exists) => match find(bucket, parcel).await {
            Ok(Some(delivered)) => return Ok(delivered),
            Ok(None) | Err(Trouble::Conflict) => {
                taken = true;
                bucket.put(&parcel.key, parcel.content.clone(), &parcel.wanted, false).await
            }
            Err(trouble) => return Err(trouble),
        },
        put => put,
    };
    let version = put?;
    let standing = bucket.look(&parcel.key, version.as_deref()).await.map_err(gone)?;
    let delivered = judge(bucket, parcel, standing, true).await?;
    let shadowed = taken || (parcel.alone && bucket.versions_of(&parcel.key).await?.len() != 1);
    Ok(Delivered { shadowed, ..delivered })
}

/// Asks again for something that was delivered.
pub(super) async fn recheck(bucket: &Bucket, parcel_key: &str, version: &str, wanted: &Wanted) -> Result<(), Trouble> {
    let standing = bucket.look(parcel_key, Some(version)).await.map_err(gone)?;
    standing.check(wanted)?;
    match bucket.versions_of(parcel_key).await?.as_slice() {
        [_] => Ok(()),
        _ => Err(Lie::Shadowed.into()),
    }
}

/// Looks for what is to be delivered among what has the name.
async fn find(bucket: &Bucket, parcel: &Parcel) -> Result<Option<Delivered>, Trouble> {
    let versions = bucket.versions_of(&parcel.key).await?;
    let mut seen = None;
    for version in versions.iter().filter(|version| !version.marker) {
        let standing = bucket.look(&parcel.key, Some(&version.id)).await?;
        match judge(bucket, parcel, Standing { version: Some(version.id.clone()), ..standing }, false).await {
            Ok(delivered) => return Ok(Some(Delivered { shadowed: versions.len() > 1, ..delivered })),
            Err(Trouble::Lie(Lie::Content)) => seen = seen.or(Some(Trouble::Conflict)),
            Err(trouble) => seen = Some(trouble),
        }
    }
    // Nothing at all, or nothing but delete markers: putting it there brings it back.
    seen.map_or(Ok(None), Err)
}

/// Holds what the server says against what was wanted; where it says nothing about the content, reads that. A lock that is
/// missing or ends too soon is put right, which no server may refuse.
async fn judge(bucket: &Bucket, parcel: &Parcel, standing: Standing, put: bool) -> Result<Delivered, Trouble> {
    let version = standing.version.clone().unwrap_or_else(|| "null".to_owned());
    let mut standing = standing;
    let mut wanted = parcel.wanted;
    let within = |lock: Lock| lock.until_us.abs_diff(wanted.lock.until_us) <= parcel.slack_us;
    if let Some(lock) = standing.lock.filter(|lock| lock.mode == wanted.lock.mode && within(*lock)) {
        wanted.lock.until_us = lock.until_us;
    }
    if let Err(lie @ (Lie::Unlocked | Lie::Short(_))) = standing.check(&wanted) {
        tracing::warn!(key = parcel.key, %lie, "asking for the lock once more");
        bucket.retain(&parcel.key, &version, wanted.lock).await?;
        standing = bucket.look(&parcel.key, Some(&version)).await.map_err(gone)?;
    }
    if !standing.check(&wanted)? {
        let content = bucket.get(&parcel.key, Some(&version), parcel.wanted.bytes).await.map_err(gone)?;
        if content != parcel.content {
            return Err(Lie::Content.into());
        }
    }
    Ok(Delivered { version, lock: wanted.lock, dated_us: standing.modified_us, put, shadowed: false })
}

/// What was just put is not there.
fn gone(error: S3Error) -> Trouble {
    match error {
        S3Error::Absent(_) => Lie::Gone.into(),
        error => error.into(),
    }
}
