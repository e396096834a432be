//! The keys of a session that is being opened: made fresh, wrapped for those who are to read it, held in memory only.

use std::io;
use std::sync::Mutex;

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

/// Makes the keys of sessions that these recipients can read, those of the next one beforehand: to wrap them takes longer than
/// all else that an opening waits for but the disk.
#[derive(Debug)]
pub(crate) struct Mint {
    recipients: Vec<Recipient>,
    next: Mutex<Option<Secrets>>,
}

impl Mint {
    /// Starts with none made.
    pub(crate) fn new(recipients: Vec<Recipient>) -> Self {
        Self { recipients, next: Mutex::default() }
    }

    /// Gives out keys that nobody else gets.
    ///
    /// # Errors
    /// The operating system has no randomness.
    pub(crate) fn take(&self) -> io::Result<Secrets> {
        // Nobody waits for somebody who is making some: to make one's own takes as long.
        let ready = self.next.try_lock().ok().and_then(|mut next| next.take());
        ready.map_or_else(|| Secrets::fresh(&self.recipients), Ok)
    }

    /// Makes the keys of the next session, where there are none yet. For moments in which the caller waits anyway.
    pub(crate) fn prepare(&self) {
        if let Ok(mut next) = self.next.try_lock()
            && next.is_none()
        {
            // What fails here fails again, and is told, when keys are asked for.
            *next = Secrets::fresh(&self.recipients).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::event::Lane;

    #[test]
    fn no_two_sessions_get_the_same_keys() {
        let reader = crate::transcript::wrap::Identity::generate().recipient();
        let mint = Mint::new(vec![reader]);
        let mut all = Vec::new();
        for prepared in [false, true, true, false] {
            if prepared {
                mint.prepare();
                mint.prepare();
            }
            let secrets = mint.take().unwrap();
            assert_eq!(secrets.wrapped.as_ref().map(Vec::len), Some(Lane::ALL.len()));
            let salt = [0; 16];
            let session = crate::transcript::block::SessionId([0; 16]);
            let key = |lane| secrets.keys.get(lane).unwrap().micro_key(session, &salt).commitment();
            all.extend(Lane::ALL.map(key));
        }
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 4 * Lane::ALL.len());
    }
}
