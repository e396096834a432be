//! How a bucket is reached, and how objects are put there.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Which lock protects an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LockMode {
    /// Nobody can shorten it, not even the account's owner.
    #[default]
    Compliance,
    /// Those with a right of their own can bypass it: for trying things out.
    Governance,
}

impl LockMode {
    /// Returns the word that S3 has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Compliance => "COMPLIANCE",
            Self::Governance => "GOVERNANCE",
        }
    }
}

impl fmt::Display for LockMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LockMode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.to_ascii_lowercase().as_str() {
            "compliance" => Ok(Self::Compliance),
            "governance" => Ok(Self::Governance),
            _ => Err(()),
        }
    }
}

/// What the server shall hold the received bytes against. It must know the one that is sent: some ignore those they do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// `x-amz-checksum-sha256`: what the node log says about a segment.
    #[default]
    Sha256,
    /// `x-amz-checksum-crc32c`.
    Crc32c,
    /// `Content-MD5`, which every server knows.
    Md5,
}

/// How the server encrypts what it stores. Recordings are encrypted before they get there; some organisations ask for both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerSideEncryption {
    /// With keys of the server's own.
    Aes256,
    /// With a key of the key management service; its default where none is named.
    Kms(Option<String>),
}

/// One bucket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// What the node calls it; STORED leaves name it.
    pub name: String,
    /// The bucket.
    pub bucket: String,
    /// What stands before every name in it: empty, or ending in `/`.
    pub prefix: String,
    /// The region; what the SDK finds without it, and `us-east-1` where that is nothing.
    pub region: Option<String>,
    /// Where the server is, as a URL; Amazon's without it.
    pub endpoint: Option<String>,
    /// Whether the bucket's name goes into the path; by default with an endpoint.
    pub path_style: Option<bool>,
    /// The account that must own the bucket.
    pub owner: Option<String>,
    /// The lock.
    pub mode: LockMode,
    /// The storage class; the server's default without it.
    pub storage_class: Option<String>,
    /// What the server encrypts with; its default without it.
    pub encryption: Option<ServerSideEncryption>,
    /// What it checks the bytes against.
    pub checksum: Checksum,
    /// The only authority whose certificates count; the system's without it.
    pub ca: Option<PathBuf>,
    /// A file of credentials as Amazon's tools write it; what the SDK finds without it.
    pub credentials: Option<PathBuf>,
    /// The section in it, or in the SDK's files.
    pub profile: Option<String>,
    /// How long one attempt may take as a whole; a minute without it.
    pub timeout: Option<Duration>,
    /// The section of those credentials that could delete an object without a lock.
    pub canary_profile: Option<String>,
}

impl Settings {
    /// Returns the region where it is not for the SDK to find: what is set here, or with an endpoint, and where nobody names one
    /// to the SDK, the one that servers other than Amazon's go by. There the SDK would ask the machine it runs on, which takes
    /// seconds where none is a cloud's. `is_set` tells whether an environment variable is set to something.
    pub(super) fn region(&self, is_set: impl Fn(&str) -> bool) -> Option<String> {
        let by_profile = self.profile.is_some() && self.credentials.is_none();
        let told = by_profile || ["AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"].into_iter().any(is_set);
        let default = (self.endpoint.is_some() && !told).then(|| "us-east-1".to_owned());
        self.region.clone().or(default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_made_up_only_with_an_endpoint_and_where_nobody_names_one() {
        let region = |settings: &Settings, set: &[&str]| settings.region(|name| set.contains(&name));
        let text = |text: &str| Some(text.to_owned());
        let amazon = Settings::default();
        assert_eq!(region(&amazon, &[]), None);
        let other = Settings { endpoint: text("https://s3.example.com"), ..Settings::default() };
        assert_eq!(region(&other, &[]), text("us-east-1"));
        for variable in ["AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"] {
            assert_eq!(region(&other, &[variable]), None, "{variable} is the SDK's to read");
        }
        let profile = Settings { profile: text("p"), ..other.clone() };
        assert_eq!(region(&profile, &[]), None, "its file may name one");
        let file = Settings { credentials: Some("keys/s3".into()), ..profile };
        assert_eq!(region(&file, &[]), text("us-east-1"));
        assert_eq!(region(&Settings { region: text("eu"), ..other }, &["AWS_REGION"]), text("eu"));
    }
}
