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
