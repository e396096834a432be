//! The requests that are made of a bucket, one function each. Every one names the account that must own the bucket, where
//! the settings do.

use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::{ByteStream, DateTime, DateTimeFormat};
use aws_sdk_s3::types::{
    ChecksumMode, ObjectLockLegalHold, ObjectLockLegalHoldStatus, ObjectLockMode, ObjectLockRetention,
    ObjectLockRetentionMode, ServerSideEncryption as Sse, StorageClass,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::Bucket;
use super::error::S3Error;
use super::settings::{Checksum, LockMode, ServerSideEncryption};
use super::standing::{Lock, Standing, Version, Wanted};

impl Bucket {
    /// Puts an object, locked, and returns the id of its version, where the server tells it; with `new`, on condition that the
    /// name is not taken.
    ///
    /// What is true afterwards is another question: see [`Bucket::look`] and [`Bucket::versions_of`].
    ///
    /// # Errors
    /// [`S3Error::Exists`] where the server honours the condition and the name is taken; else as the request ended.
    pub async fn put(&self, key: &str, content: Bytes, wanted: &Wanted, new: bool) -> Result<Option<String>, S3Error> {
        let settings = &self.settings;
        let lock = wanted.lock;
        let put = self
            .client
            .put_object()
            .bucket(&settings.bucket)
            .key(self.full(key))
            .set_expected_bucket_owner(settings.owner.clone())
            .set_if_none_match(new.then(|| "*".to_owned()))
            .content_type("application/octet-stream")
            .object_lock_mode(mode_of(lock.mode))
            .object_lock_retain_until_date(date(lock.until_us))
            .set_storage_class(settings.storage_class.as_deref().map(StorageClass::from));
        let put = match settings.checksum {
            Checksum::Sha256 => put.checksum_sha256(STANDARD.encode(wanted.sha256)),
            Checksum::Crc32c => put.checksum_crc32_c(STANDARD.encode(crc32c::crc32c(&content).to_be_bytes())),
            Checksum::Md5 => put.content_md5(STANDARD.encode(wanted.md5)),
        };
        let done = self.encrypted(put).body(ByteStream::from(content)).send().await?;
        Ok(done.version_id.filter(|id| !id.is_empty()))
    }

    fn encrypted(&self, put: PutObjectFluentBuilder) -> PutObjectFluentBuilder {
        match &self.settings.encryption {
            None => put,
            Some(ServerSideEncryption::Aes256) => put.server_side_encryption(Sse::Aes256),
            Some(ServerSideEncryption::Kms(key)) => {
                put.server_side_encryption(Sse::AwsKms).set_ssekms_key_id(key.clone()).bucket_key_enabled(true)
            }
        }
    }

    /// Puts an object that is no evidence, of the server's default class and with no other lock than the one that is named, if
    /// any; with `new`, on condition that the name is not taken.
    ///
    /// # Errors
    /// As [`Bucket::put`].
    pub(crate) async fn put_plain(
        &self,
        key: &str,
        content: Bytes,
        lock: Option<Lock>,
        new: bool,
    ) -> Result<Option<String>, S3Error> {
        let put = self.client.put_object().bucket(&self.settings.bucket).key(self.full(key));
        let put = put.set_if_none_match(new.then(|| "*".to_owned()));
        let mut put = self.encrypted(put.set_expected_bucket_owner(self.settings.owner.clone()));
        if let Some(lock) = lock {
            put = put.object_lock_mode(mode_of(lock.mode)).object_lock_retain_until_date(date(lock.until_us));
        }
        let done = put.content_md5(STANDARD.encode(md5_of(&content))).body(ByteStream::from(content)).send().await?;
        Ok(done.version_id.filter(|id| !id.is_empty()))
    }

    /// Asks what the server says of an object, of one version of it where one is named.
    ///
    /// # Errors
    /// [`S3Error::Absent`] where there is none; else as the request ended.
    pub async fn look(&self, key: &str, version: Option<&str>) -> Result<Standing, S3Error> {
        let head = self
            .client
            .head_object()
            .bucket(&self.settings.bucket)
            .key(self.full(key))
            .set_expected_bucket_owner(self.settings.owner.clone())
            .set_version_id(version.map(str::to_owned))
            .checksum_mode(ChecksumMode::Enabled)
            .send()
            .await?;
        let sha256 = head.checksum_sha256.as_deref().and_then(|text| STANDARD.decode(text).ok());
        let tag = head.e_tag.as_deref().map(|tag| tag.trim_matches('"'));
        let kms = head.ssekms_key_id.is_some();
        Ok(Standing {
            version: head.version_id.filter(|id| !id.is_empty()),
            bytes: head.content_length.and_then(|len| u64::try_from(len).ok()).unwrap_or(0),
            sha256: sha256.and_then(|bytes| bytes.try_into().ok()),
            // With a key of the management service the tag is none of the content.
            md5: tag.filter(|_| !kms).and_then(hex16),
            lock: lock_of(head.object_lock_mode.as_ref(), head.object_lock_retain_until_date.as_ref()),
            hold: head.object_lock_legal_hold_status == Some(ObjectLockLegalHoldStatus::On),
            modified_us: head.last_modified.as_ref().and_then(micros).unwrap_or(0),
        })
    }

    /// Reads an object, one version of it where one is named; at most `bytes_max` of it.
    ///
    /// # Errors
    /// [`S3Error::Absent`] where there is none, [`S3Error::Other`] where it is longer; else as the request ended.
    pub async fn get(&self, key: &str, version: Option<&str>, bytes_max: u64) -> Result<Bytes, S3Error> {
        let mut bytes = Vec::new();
        self.read(key, version, None, bytes_max, &mut bytes).await?;
        Ok(bytes.into())
    }

    /// Reads an object into a buffer that is used again, and says what the server says of it: one request for both. Of the
    /// part that `range` names, as HTTP writes it (`bytes=0-99`), where one is given; `Standing::bytes` is then its length.
    ///
    /// Some servers tell of locks only where nothing but that is asked: no lock in the answer is to be asked for again.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub async fn read(
        &self,
        key: &str,
        version: Option<&str>,
        range: Option<String>,
        bytes_max: u64,
        into: &mut Vec<u8>,
    ) -> Result<Standing, S3Error> {
        into.clear();
        let got = self
            .client
            .get_object()
            .bucket(&self.settings.bucket)
            .key(self.full(key))
            .set_expected_bucket_owner(self.settings.owner.clone())
            .set_version_id(version.map(str::to_owned))
            .set_range(range)
            .send()
            .await?;
        let announced = got.content_length.and_then(|len| u64::try_from(len).ok());
        let too_long = || S3Error::Other(format!("longer than any such object: over {bytes_max} bytes"));
        if announced.is_some_and(|announced| announced > bytes_max) {
            return Err(too_long());
        }
        let limit = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        into.reserve(announced.and_then(|len| usize::try_from(len).ok()).unwrap_or(0));
        let mut standing = Standing {
            version: got.version_id.filter(|id| !id.is_empty()),
            bytes: 0,
            sha256: None,
            md5: None,
            lock: lock_of(got.object_lock_mode.as_ref(), got.object_lock_retain_until_date.as_ref()),
            hold: got.object_lock_legal_hold_status == Some(ObjectLockLegalHoldStatus::On),
            modified_us: got.last_modified.as_ref().and_then(micros).unwrap_or(0),
        };
        let mut body = got.body;
        while let Some(part) = body.next().await {
            let part = part.map_err(|error| S3Error::Unreachable(format!("the answer broke off: {error}")))?;
            if into.len().saturating_add(part.len()) > limit {
                return Err(too_long());
            }
            into.extend_from_slice(&part);
        }
        standing.bytes = into.len() as u64;
        match announced {
            Some(announced) if announced != standing.bytes => {
                Err(S3Error::Unreachable(format!("the answer broke off: {} of {announced} bytes", into.len())))
            }
            _ => Ok(standing),
        }
    }

    /// Lists every version and delete marker of one name.
    ///
    /// # Errors
    /// As the request ended.
    pub async fn versions_of(&self, key: &str) -> Result<Vec<Version>, S3Error> {
        let mut found = Vec::new();
        self.versions(key, &mut |version| {
            if version.key == key {
                found.push(version);
            }
        })
        .await?;
        Ok(found)
    }

    /// Lists every version and delete marker whose name begins so, in the order of names, page by page.
    ///
    /// # Errors
    /// As a request ended; what was listed until then has been handed over.
    pub async fn versions(&self, prefix: &str, each: &mut (dyn FnMut(Version) + Send)) -> Result<(), S3Error> {
        self.list(prefix, None, each).await.map(drop)
    }

    /// Lists every version and delete marker directly below `prefix`, which ends in `/` or is empty, and returns what is
    /// itself a directory there, with its `/`; also where nothing but delete markers is left of it.
    ///
    /// # Errors
    /// As [`Bucket::versions`].
    pub async fn level(&self, prefix: &str, each: &mut (dyn FnMut(Version) + Send)) -> Result<Vec<String>, S3Error> {
        self.list(prefix, Some("/"), each).await
    }

    /// Lists every version and delete marker whose name begins so, where one page holds them all.
    ///
    /// # Errors
    /// As the request ended.
    pub async fn page(&self, prefix: &str) -> Result<Option<Vec<Version>>, S3Error> {
        let page = self.listing(&self.full(prefix), None, (None, None)).await?;
        let is_whole = page.is_truncated != Some(true);
        Ok(is_whole.then(|| self.told(&page)))
    }

    /// Lists what lies directly below `prefix`, which ends in `/`, and is itself a directory, with its `/`; also where
    /// nothing but delete markers is left of it.
    ///
    /// # Errors
    /// As a request ended.
    pub async fn directories(&self, prefix: &str) -> Result<Vec<String>, S3Error> {
        self.level(prefix, &mut |_| {}).await
    }

    async fn list(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
        each: &mut (dyn FnMut(Version) + Send),
    ) -> Result<Vec<String>, S3Error> {
        let full = self.full(prefix);
        let mut directories = Vec::new();
        let mut marker = (None, None);
        loop {
            let page = self.listing(&full, delimiter, marker.clone()).await?;
            self.told(&page).into_iter().for_each(&mut *each);
            let names = page.common_prefixes().iter().filter_map(|common| common.prefix());
            directories.extend(names.filter_map(|name| name.strip_prefix(&full)).map(str::to_owned));
            let next = (page.next_key_marker, page.next_version_id_marker);
            if page.is_truncated != Some(true) || next.0.is_none() {
                return Ok(directories);
            }
            if next == marker {
                return Err(S3Error::Other("the listing does not go on".to_owned()));
            }
            marker = next;
        }
    }

    /// Asks for the page of a listing that begins behind that name and that version of it.
    async fn listing(
        &self,
        full: &str,
        delimiter: Option<&str>,
        (key, version): (Option<String>, Option<String>),
    ) -> Result<ListObjectVersionsOutput, S3Error> {
        let request = self.client.list_object_versions().bucket(&self.settings.bucket).prefix(full);
        let request = request.set_delimiter(delimiter.map(str::to_owned));
        let request = request.set_expected_bucket_owner(self.settings.owner.clone());
        Ok(request.set_key_marker(key).set_version_id_marker(version).send().await?)
    }

    /// Returns what a page tells of, by name.
    fn told(&self, page: &ListObjectVersionsOutput) -> Vec<Version> {
        let mut found: Vec<Version> = Vec::new();
        for version in page.versions() {
            let bytes = version.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
            let modified = version.last_modified().and_then(micros);
            let latest = version.is_latest() == Some(true);
            found.extend(self.listed(version.key(), version.version_id(), bytes, latest, false, modified));
        }
        for entry in page.delete_markers() {
            let modified = entry.last_modified().and_then(micros);
            let latest = entry.is_latest() == Some(true);
            found.extend(self.listed(entry.key(), entry.version_id(), 0, latest, true, modified));
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        found
    }

    fn listed(
        &self,
        key: Option<&str>,
        id: Option<&str>,
        bytes: u64,
        latest: bool,
        marker: bool,
        modified: Option<u64>,
    ) -> Option<Version> {
        let key = key?.strip_prefix(&self.settings.prefix)?.to_owned();
        let id = id.unwrap_or("null").to_owned();
        Some(Version { key, id, bytes, latest, marker, modified_us: modified.unwrap_or(0) })
    }

    /// Moves the end of a lock to a later time.
    ///
    /// # Errors
    /// As the request ended; a server that keeps locks refuses an earlier time.
    pub async fn retain(&self, key: &str, version: &str, lock: Lock) -> Result<(), S3Error> {
        let mode = match lock.mode {
            LockMode::Compliance => ObjectLockRetentionMode::Compliance,
            LockMode::Governance => ObjectLockRetentionMode::Governance,
        };
        let retention = ObjectLockRetention::builder().mode(mode).retain_until_date(date(lock.until_us)).build();
        self.client
            .put_object_retention()
            .bucket(&self.settings.bucket)
            .key(self.full(key))
            .version_id(version)
            .set_expected_bucket_owner(self.settings.owner.clone())
            .retention(retention)
            .send()
            .await?;
        Ok(())
    }

    /// Sets or lifts the legal hold of a version.
    ///
    /// # Errors
    /// As the request ended.
    pub async fn hold(&self, key: &str, version: &str, on: bool) -> Result<(), S3Error> {
        let status = if on { ObjectLockLegalHoldStatus::On } else { ObjectLockLegalHoldStatus::Off };
        self.client
            .put_object_legal_hold()
            .bucket(&self.settings.bucket)
            .key(self.full(key))
            .version_id(version)
            .set_expected_bucket_owner(self.settings.owner.clone())
            .legal_hold(ObjectLockLegalHold::builder().status(status).build())
            .send()
            .await?;
        Ok(())
    }

    /// Deletes a version. A lock makes the server refuse it.
    ///
    /// # Errors
    /// As the request ended.
    pub async fn delete(&self, key: &str, version: &str) -> Result<(), S3Error> {
        self.client
            .delete_object()
            .bucket(&self.settings.bucket)
            .key(self.full(key))
            .version_id(version)
            .set_expected_bucket_owner(self.settings.owner.clone())
            .send()
            .await?;
        Ok(())
    }
}

/// Returns the MD5 of content: what every server checks, and what entity tags are made of.
pub(crate) fn md5_of(content: &[u8]) -> [u8; 16] {
    use md5::{Digest, Md5};
    Md5::digest(content).into()
}

/// The lock that an answer tells of; half of one is none.
fn lock_of(mode: Option<&ObjectLockMode>, until: Option<&DateTime>) -> Option<Lock> {
    Some(Lock { mode: mode?.as_str().parse().ok()?, until_us: micros(until?)? })
}

fn mode_of(mode: LockMode) -> ObjectLockMode {
    match mode {
        LockMode::Compliance => ObjectLockMode::Compliance,
        LockMode::Governance => ObjectLockMode::Governance,
    }
}

/// The second that does not end before the time: servers differ in what they keep below it.
fn date(us: u64) -> DateTime {
    DateTime::from_secs(i64::try_from(us.div_ceil(1_000_000)).unwrap_or(i64::MAX))
}

fn micros(date: &DateTime) -> Option<u64> {
    u64::try_from(date.as_nanos() / 1000).ok()
}

fn hex16(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    let mut out = [0; 16];
    for (byte, digits) in out.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(out)
}

/// Shows a date as the server's interface writes it.
pub(super) fn shown(us: u64) -> String {
    date(us).fmt(DateTimeFormat::DateTime).unwrap_or_else(|_| format!("{us} us after 1970"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entity_tag_is_an_md5_or_none() {
        assert_eq!(hex16("d41d8cd98f00b204e9800998ecf8427e"), Some(md5_of(b"")));
        for other in [
            "d41d8cd98f00b204e9800998ecf8427e-2",
            "",
            "zz1d8cd98f00b204e9800998ecf8427e",
            "+41d8cd98f00b204e9800998ecf8427e",
        ] {
            assert!(hex16(other).is_none_or(|sum| sum != md5_of(b"")), "{other}");
        }
    }

    #[test]
    fn a_lock_never_ends_before_the_time_that_was_asked_for() {
        assert_eq!(date(1).secs(), 1);
        assert_eq!(date(1_000_000).secs(), 1);
        assert_eq!(micros(&date(1_500_000)), Some(2_000_000));
    }
}
