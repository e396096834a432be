//! The keys of sessions that are being opened: made fresh for each, wrapped for those who are to read it, held in memory only.

use std::io;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};

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

/// Keys of sessions to come, made beforehand: to wrap them takes longer than all else that an opening waits for but the disk.
#[derive(Debug)]
pub(crate) struct Mint {
    recipients: Vec<Recipient>,
    ready: Mutex<Option<Receiver<Secrets>>>,
}

impl Mint {
    /// Makes one for sessions that these recipients can read, and the work that keeps it filled, for a thread. The work ends once
    /// the mint is closed or dropped.
    pub(crate) fn new(recipients: Vec<Recipient>) -> (Self, impl FnOnce() + Send + 'static) {
        // One lies ready, and another waits to be laid there.
        let (filled, ready) = sync_channel(1);
        let mint = Self { recipients: recipients.clone(), ready: Mutex::new(Some(ready)) };
        let fill = move || {
            // What fails here fails again, and is told, when keys are asked for.
            while let Ok(secrets) = Secrets::fresh(&recipients) {
                if filled.send(secrets).is_err() {
                    break;
                }
            }
        };
        (mint, fill)
    }

    /// Gives out keys that nobody else gets. Nobody waits for the thread: to make one's own takes as long.
    ///
    /// # Errors
    /// The operating system has no randomness.
    pub(crate) fn take(&self) -> io::Result<Secrets> {
        let ready =
            self.ready.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(|it| it.try_recv().ok());
        ready.map_or_else(|| Secrets::fresh(&self.recipients), Ok)
    }

    /// Forgets what is ready, and lets the thread end.
    pub(crate) fn close(&self) {
        *self.ready.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::event::Lane;

    #[test]
    fn no_two_sessions_get_the_same_keys() {
        let reader = crate::transcript::wrap::Identity::generate().recipient();
        let (mint, fill) = Mint::new(vec![reader]);
        let salt = [0; 16];
        let session = crate::transcript::block::SessionId([0; 16]);
        let mut all = Vec::new();
        let mut take = || {
            let secrets = mint.take().unwrap();
            assert_eq!(secrets.wrapped.as_ref().map(Vec::len), Some(Lane::ALL.len()));
            let key = |lane| secrets.keys.get(lane).unwrap().micro_key(session, &salt).commitment();
            all.extend(Lane::ALL.map(key));
        };
        // Its own while there is no thread, and then as they come.
        take();
        let thread = std::thread::spawn(fill);
        (0..20).for_each(|_| take());
        mint.close();
        thread.join().unwrap();
        take();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 22 * Lane::ALL.len());
    }
}
