//! Real S3 servers with Object Lock on loopback, users for them, and a proxy that makes them misbehave.
//!
//! No server here is Amazon's, and each is a judge of something else: [`ceph`] checks signatures, `Content-MD5`, policies and
//! every rule of retention; [`ministack`] checks the newer checksums and `If-None-Match`. Knows nothing of what is stored.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Config, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::ObjectVersion;
use aws_smithy_async::time::TimeSource;

pub mod ceph;
mod ceph_conf;
pub mod faults;
pub mod ministack;
pub mod policy;

/// The region that requests are signed for; none of the servers has another.
pub const REGION: &str = "us-east-1";

/// Somebody whom a server knows. The keys open a throwaway server on loopback and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The user's name, and the name of the profile in [`credentials_file`].
    pub name: String,
    /// Its access key.
    pub access_key: String,
    /// Its secret key.
    pub secret_key: String,
}

impl Login {
    /// Returns the user of that name, with keys that follow from it.
    pub fn of(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            access_key: format!("THROWAWAY{}", name.to_uppercase()),
            secret_key: format!("throwaway/secret/of/{name}"),
        }
    }
}

/// Returns a client that asks once and never again, so that a fault shows as what it is.
///
/// Its clock runs `ahead` of the machine's: a server refuses signatures that are a quarter of an hour off. Checksums are sent
/// only where the protocol asks for one.
pub fn client(endpoint: &str, login: &Login, ahead: Duration) -> Client {
    let credentials = Credentials::new(&login.access_key, &login.secret_key, None, None, "throwaway");
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .endpoint_url(endpoint)
        .force_path_style(true)
        .credentials_provider(credentials)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .time_source(Ahead(ahead));
    Client::from_conf(config.build())
}

/// The machine's clock, and some more.
#[derive(Debug)]
struct Ahead(Duration);

impl TimeSource for Ahead {
    fn now(&self) -> SystemTime {
        SystemTime::now() + self.0
    }
}

/// Waits for a client's work, where nothing else is asynchronous: also from inside a runtime, which could not wait itself.
///
/// # Errors
/// As the work ended, or when there is no thread for it.
pub fn blocking<T: Send>(work: impl Future<Output = Result<T>> + Send) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = std::thread::scope(|scope| scope.spawn(|| runtime.block_on(work)).join());
    done.unwrap_or_else(|_| bail!("the work with S3 panicked"))
}

/// Makes a bucket whose objects can be locked. Versioning comes with it.
///
/// # Errors
/// When the server refuses, or the bucket is another user's.
pub async fn make_bucket(client: &Client, bucket: &str) -> Result<()> {
    let made = client.create_bucket().bucket(bucket).object_lock_enabled_for_bucket(true).send().await;
    made.with_context(|| format!("bucket {bucket}"))?;
    Ok(())
}

/// Returns every version whose key begins with `prefix`, however many pages they fill; delete markers are left out.
///
/// # Errors
/// When the server refuses.
pub async fn versions(client: &Client, bucket: &str, prefix: &str) -> Result<Vec<ObjectVersion>> {
    let mut found = Vec::new();
    let (mut key, mut version) = (None, None);
    loop {
        let page = client.list_object_versions().bucket(bucket).prefix(prefix);
        let page = page.set_key_marker(key).set_version_id_marker(version).send().await?;
        found.extend_from_slice(page.versions());
        (key, version) = (page.next_key_marker, page.next_version_id_marker);
        if page.is_truncated != Some(true) {
            return Ok(found);
        }
    }
}

/// Returns how a request was refused: the HTTP status and the code of S3's error, each empty where there is none. What came back
/// with the answer to a request that went well is 200 and nothing.
pub fn refusal<T, E: ProvideErrorMetadata>(outcome: &Result<T, SdkError<E>>) -> (u16, String) {
    let Err(error) = outcome else { return (200, String::new()) };
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    (status, error.code().unwrap_or_default().to_owned())
}

/// Returns the content of a shared credentials file with a profile for each; the first is also `default`.
pub fn credentials_file(logins: &[Login]) -> String {
    let default = logins.first().map(|login| ("default", login));
    let named = logins.iter().map(|login| (login.name.as_str(), login));
    let profile = |(name, login): (&str, &Login)| {
        format!("[{name}]\naws_access_key_id = {}\naws_secret_access_key = {}\n", login.access_key, login.secret_key)
    };
    default.into_iter().chain(named).map(profile).collect()
}
