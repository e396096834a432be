//! What can go wrong while reading a vault, and which exit status it means.

use std::io;
use std::path::{Path, PathBuf};

use casemate_recorder::transcript::block::BlockError;
use casemate_recorder::transcript::chain::ChainError;

use casemate_screen::safe::visible;

/// Why a verb could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The question makes no sense, or something that it names cannot be read.
    #[error("{0}")]
    Usage(String),
    /// The operating system refused.
    #[error("cannot {what} {}: {source}{}", shown(path), remedy(source))]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A bucket could not be asked; the sentence says what to do.
    #[error("{0}")]
    Storage(String),
    /// A segment holds something that is not a block of it.
    #[error("{}, byte {offset}: {source}", shown(path))]
    Block {
        /// The segment.
        path: PathBuf,
        /// Where the block begins, in bytes.
        offset: u64,
        /// What is wrong.
        source: BlockError,
    },
    /// A block does not continue the transcript.
    #[error("{}, byte {offset}: {source}", shown(path))]
    Chain {
        /// The segment.
        path: PathBuf,
        /// Where the block begins, in bytes.
        offset: u64,
        /// What is wrong.
        source: ChainError,
    },
    /// Evidence is missing or contradicts itself.
    #[error("{place}: {what}")]
    Evidence {
        /// Where.
        place: String,
        /// What is wrong.
        what: String,
    },
}

impl ReplayError {
    /// Returns the exit status: 1 for evidence altered or missing, 2 for all else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Storage(_) | Self::Io { .. } => 2,
            Self::Block { .. } | Self::Chain { .. } | Self::Evidence { .. } => 1,
        }
    }

    /// Whether it only means that nobody reads the output any more.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }

    pub(crate) fn evidence(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Evidence { place: place.into(), what: what.into() }
    }
}

/// What to do about it, where the system says enough.
fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "; check the path",
        io::ErrorKind::PermissionDenied => "; check the rights on it, or ask somebody who has them",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room there",
        _ => "",
    }
}

/// Shows a path in an error: names in a vault are a stranger's choice too.
fn shown(path: &Path) -> String {
    visible(&path.to_string_lossy())
}
