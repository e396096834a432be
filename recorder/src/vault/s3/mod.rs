//! A bucket with Object Lock: one PutObject an object, never multipart, never twice under one name.
//!
//! A lock protects a version, not a name: a later version or a delete marker can still hide it. So writing is followed by
//! reading back what the server now says of that version, and of the name. Servers differ in what they honour; nothing here
//! rests on an answer to the write alone.

mod check;
mod error;
mod requests;
mod settings;
mod standing;

use std::time::Duration;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Builder, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};

pub use check::{Check, CheckKind, Lockdown};
pub use error::S3Error;
pub(crate) use requests::md5_of;
pub use settings::{Checksum, LockMode, ServerSideEncryption, Settings};
pub use standing::{Lie, Lock, Standing, Version, Wanted};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one attempt may take as a whole: a segment over a slow line, and no longer than somebody would wait to hear.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);

/// Who asks: it decides how patient the client is by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The daemon, which has a queue and a pace of its own: every call is one attempt.
    Shipping,
    /// A person at a terminal: a few attempts before an error is shown.
    Reading,
}

/// A bucket, reached with one set of credentials. Clones share connections.
#[derive(Debug, Clone)]
pub struct Bucket {
    client: Client,
    settings: Settings,
}

impl Bucket {
    /// Prepares the client. Nothing is sent yet.
    ///
    /// # Errors
    /// [`S3Error::Settings`]: the certificate file cannot be read or is none.
    pub async fn open(settings: Settings, purpose: Purpose) -> Result<Self, S3Error> {
        let profile = settings.profile.clone();
        Self::with_profile(settings, profile, purpose).await
    }

    /// Prepares a client for the same bucket with the credentials of another profile.
    ///
    /// # Errors
    /// As [`Bucket::open`].
    pub async fn with_profile(settings: Settings, profile: Option<String>, purpose: Purpose) -> Result<Self, S3Error> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        let region =
            settings.region(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty())).map(Region::new);
        if let Some(region) = &region {
            loader = loader.region(region.clone());
        }
        let files = match &settings.credentials {
            Some(path) => {
                let files = EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, path).build();
                // A profile that names a role asks for it in a region.
                let place = ProviderConfig::without_region().with_region(region);
                let provider = ProfileFileCredentialsProvider::builder().configure(&place);
                let mut provider = provider.profile_files(files.clone());
                if let Some(profile) = &profile {
                    provider = provider.profile_name(profile);
                }
                // Neither the environment nor the files of whoever runs the daemon should answer for it.
                loader = loader.profile_files(files.clone()).credentials_provider(provider.build());
                Some(files)
            }
            None => None,
        };
        if let (Some(profile), None) = (&profile, files) {
            loader = loader.profile_name(profile);
        }
        if let Some(http) = settings.http_client()? {
            loader = loader.http_client(http);
        }
        let shared = loader.load().await;
        let retry = match purpose {
            Purpose::Shipping => RetryConfig::disabled(),
            Purpose::Reading => RetryConfig::standard().with_max_attempts(4),
        };
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(settings.timeout.unwrap_or(ATTEMPT_TIMEOUT))
            .build();
        let mut config = Builder::from(&shared)
            .retry_config(retry)
            .timeout_config(timeouts)
            .force_path_style(settings.path_style.unwrap_or_else(|| {
                // A server that is named, here or in the SDK's own settings, is not Amazon's, and has no name for each bucket.
                settings.endpoint.is_some() || shared.endpoint_url().is_some()
            }))
            // The checksum that we compute ourselves goes along in a header; trailers are refused by some servers.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if shared.region().is_none() {
            config = config.region(Region::from_static("us-east-1"));
        }
        if let Some(endpoint) = &settings.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Ok(Self { client: Client::from_conf(config.build()), settings })
    }

    /// Returns how the bucket is reached.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The name of an object in the bucket.
    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.settings.prefix)
    }
}

impl Settings {
    /// A client that trusts one authority and no other, where one is named.
    fn http_client(&self) -> Result<Option<aws_sdk_s3::config::SharedHttpClient>, S3Error> {
        let Some(path) = &self.ca else { return Ok(None) };
        let bad = |what: String| S3Error::Settings(format!("{}: {what}", path.display()));
        let pem = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
        let trust = TrustStore::empty().with_pem_certificate(pem);
        let tls = TlsContext::builder().with_trust_store(trust).build().map_err(|error| bad(error.to_string()))?;
        let provider = Provider::Rustls(CryptoMode::AwsLc);
        Ok(Some(aws_smithy_http_client::Builder::new().tls_provider(provider).tls_context(tls).build_https()))
    }
}
