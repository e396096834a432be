//! The keys of a session that is being opened: made fresh, wrapped for those who are to read it, held in memory only.

use std::io;

use minicbor::bytes::ByteVec;

use crate::journal::thread::random;
use crate::transcript::cipher::LaneKeys;
use crate::transcript::wrap::{Recipient, wrap};

/// Lane keys, and how they lie in HEAD.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    pub(crate) keys: LaneKeys,
    /// One age file a lane; absent where nothing is encrypted.
    pub(crate) wrapped: Option<Vec<ByteVec>>,
}

impl Secrets {
    /// Makes keys for a session that these recipients can read. Without recipients nothing is encrypted.
    ///
    /// # Errors
    /// The operating system has no randomness.
    pub(crate) fn fresh(recipients: &[Recipient]) -> io::Result<Self> {
        if recipients.is_empty() {
            return Ok(Self::default());
        }
        let keys = LaneKeys::new([random()?, random()?, random()?]);
        let wrapped = wrap(&keys, recipients)?;
        Ok(Self { keys, wrapped: Some(wrapped) })
    }
}
