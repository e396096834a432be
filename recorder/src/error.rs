//! Why recording cannot go on, or cannot begin.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Recording cannot go on: nothing is forwarded any more, and every session ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Frozen {
    /// No space is left; what is reserved suffices to close what is open.
    #[error("no space left for recordings: {0}")]
    NoSpace(Arc<str>),
    /// A write or a sync failed. It is not retried; the next start recovers.
    #[error("recording failed: {0}")]
    Failed(Arc<str>),
    /// The recorder was shut down.
    #[error("the recorder is shut down")]
    Stopped,
    /// This session was closed; nothing more can be recorded in it.
    #[error("the session is closed")]
    Closed,
}

impl Frozen {
    /// Returns what a person in a session may read.
    pub fn client_text(&self) -> &'static str {
        match self {
            Self::NoSpace(_) => "this session ends: the bastion has no space left to record it",
            Self::Failed(_) => "this session ends: the bastion cannot record it any longer",
            Self::Stopped => "this session ends: the bastion is shutting down",
            Self::Closed => "this session has ended",
        }
    }

    pub(crate) fn from_io(what: &str, error: &io::Error) -> Self {
        let text = format!("{what}: {error}").into();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace(text),
            _ => Self::Failed(text),
        }
    }
}

/// A new session cannot begin.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refused {
    /// Recording cannot go on.
    #[error(transparent)]
    Frozen(#[from] Frozen),
    /// A filesystem is nearly full.
    #[error("{percent} % of the {what}'s filesystem is used, the limit is {limit} %")]
    Full {
        /// Whose: that of the spool or of the vault.
        what: &'static str,
        /// How full it is.
        percent: u64,
        /// Where new sessions stop.
        limit: u64,
    },
}

impl Refused {
    /// Returns what a person who logs in may read.
    pub fn client_text(&self) -> &'static str {
        match self {
            Self::Frozen(Frozen::Stopped | Frozen::Closed) => "the bastion is shutting down; try another one",
            Self::Frozen(Frozen::Failed(_)) => {
                "the bastion cannot record sessions at the moment; its operator must look"
            }
            Self::Frozen(Frozen::NoSpace(_)) | Self::Full { .. } => {
                "the bastion has no space left to record a session; its operator must make room"
            }
        }
    }
}

/// A vault elsewhere took no checkpoint since the start, so that nobody but this node says what time it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("vault {0} has taken no checkpoint since the start: nobody but this node says what time it is")]
pub struct Undated(pub String);

/// The recorder cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Something on disk cannot be read or written.
    #[error("{what} {path}: {source}; check the rights on it, and the disk that it is on", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another daemon uses the state directory.
    #[error("{path} is in use by another casemate; stop it first", path = .0.display())]
    InUse(PathBuf),
    /// The vault knows more of the node log than this node does.
    #[error(
        "the local node log has {local} entries, but the vault holds a checkpoint over {vault}: somebody rolled this \
         node back. Restore {state} from a copy that is new enough, or give the node another name", state = state.display()
    )]
    RolledBack {
        /// Entries of the local log.
        local: u64,
        /// Entries that a checkpoint in the vault covers.
        vault: u64,
        /// The state directory.
        state: PathBuf,
    },
    /// The vault holds checkpoints of a log that is not a beginning of the local one.
    #[error(
        "the vault's checkpoint over {size} entries has another root than the local node log: it was signed by another \
         node of the name {node}, or the local log was changed. Give this node another name, or restore its state"
    )]
    Forked {
        /// Entries that the checkpoint covers.
        size: u64,
        /// The node's name.
        node: String,
    },
    /// The local log is damaged.
    #[error("the local node log is damaged at entry {index}: {reason}. Restore {state} from a copy", state = state.display())]
    LogDamaged {
        /// The entry.
        index: u64,
        /// What is wrong.
        reason: &'static str,
        /// The state directory.
        state: PathBuf,
    },
    /// There is too little space to begin with.
    #[error(
        "{} MiB are available to {state}, and a start needs {} MiB; make room there",
        available / MIB, needed.div_ceil(MIB), state = state.display()
    )]
    NoSpace {
        /// Bytes that journal files and recovered segments take.
        needed: u64,
        /// Bytes that are available.
        available: u64,
        /// The state directory.
        state: PathBuf,
    },
    /// The system has no randomness or threads to give.
    #[error("{0}")]
    System(#[from] io::Error),
}

const MIB: u64 = 1024 * 1024;

impl OpenError {
    /// Whether space is all that is missing: the same start may succeed later.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Io { source, .. } | Self::System(source) => matches!(Frozen::from_io("", source), Frozen::NoSpace(_)),
            _ => false,
        }
    }

    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}
