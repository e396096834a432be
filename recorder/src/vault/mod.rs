//! Where finished segments and checkpoints rest.
//!
//! The layout (FORMAT.md §1) is the same for every kind of vault. Nothing in a vault is ever written twice under one name.

mod dir;
pub mod s3;

use std::io;
use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;

pub use dir::DirVault;

use crate::transcript::block::SessionId;

/// A vault.
#[derive(Debug)]
pub enum Vault {
    /// A directory: tamper-evident, not tamper-proof.
    Dir(DirVault),
}

/// Why something could not be put into a vault.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// Something else already has this name.
    #[error("{key} is already in the vault with other content: nothing was overwritten")]
    Conflict {
        /// The name.
        key: String,
    },
    /// The vault cannot be read or written.
    #[error("{what} {key}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        key: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl Vault {
    /// Puts bytes under a name that is not taken. Equal content under the name counts as success.
    ///
    /// # Errors
    /// The name is taken by something else, or the vault cannot be written.
    pub fn put_new(&self, key: &str, bytes: &[u8]) -> Result<(), VaultError> {
        match self {
            Self::Dir(dir) => dir.put_new(key, bytes),
        }
    }

    /// Moves a finished, synced file from the spool to a name that is not taken.
    ///
    /// # Errors
    /// As [`Vault::put_new`]; the file is then still in the spool.
    pub fn take_in(&self, key: &str, spooled: &Path) -> Result<(), VaultError> {
        match self {
            Self::Dir(dir) => dir.take_in(key, spooled),
        }
    }

    /// Returns what lies under a name, or `None`.
    ///
    /// # Errors
    /// The vault cannot be read.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, VaultError> {
        match self {
            Self::Dir(dir) => dir.get(key),
        }
    }

    /// Lists the names directly below a prefix, without the prefix.
    ///
    /// # Errors
    /// The vault cannot be read.
    pub fn list(&self, prefix: &str) -> Result<Vec<String>, VaultError> {
        match self {
            Self::Dir(dir) => dir.list(prefix),
        }
    }

    /// Removes a partial tile that a wider one replaces (C2SP tlog-tiles allows it); does nothing where the vault keeps
    /// everything.
    pub fn drop_superseded(&self, key: &str) {
        match self {
            Self::Dir(dir) => dir.remove(key),
        }
    }
}

/// Returns the name of a segment: its day follows from the session's id.
pub fn segment_key(session: SessionId, segment_no: u32) -> String {
    let day = day(session.unix_ms().saturating_mul(1000)).replace('-', "/");
    format!("v1/t/{day}/{session}/{segment_no:06}.seg")
}

/// Returns the name of a file of the node log.
pub fn log_key(node: &str, name: &str) -> String {
    format!("v1/log/{node}/{name}")
}

/// Returns the UTC day of a time in microseconds, as `2026-11-22`.
pub fn day(wall_us: u64) -> String {
    let timestamp = i64::try_from(wall_us).ok().and_then(|us| Timestamp::from_microsecond(us).ok());
    timestamp.unwrap_or_default().to_zoned(TimeZone::UTC).strftime("%Y-%m-%d").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_lies_under_the_day_of_its_session() {
        let session = "019aacd1-0000-7000-8000-000000000001".parse().unwrap();
        assert_eq!(segment_key(session, 3), "v1/t/2025/11/22/019aacd1-0000-7000-8000-000000000001/000003.seg");
    }
}
