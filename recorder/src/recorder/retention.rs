//! What becomes of sessions that are over: which local copies can go, which sessions may be retired, and which must be held.

use std::collections::HashMap;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Recorder;
use crate::error::{Frozen, Undated};
use crate::expired::Overdue;
use crate::local_log::{leaf_count, read_leaves};
use crate::log::leaf::{Control, Leaf, LegalHold, Open, Retired};
use crate::queue::Command;
use crate::remote::{Copies, Proven};
use crate::transcript::block::SessionId;
use crate::vault::segment_key;

/// How long the node log on disk may take to catch up with the journal: it does within a moment, or something is wrong.
const LOG_PATIENCE: Duration = Duration::from_secs(10);

/// Local copies that went: vaults elsewhere have them, or their time is over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// How many segments.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Recorder {
    /// Removes local copies of finished segments, the oldest first, until `bytes` are free again: only of those that vaults
    /// elsewhere have, locked and read back, by STORED leaves that they have under a checkpoint; never of a session that is
    /// live, nor of the control transcripts that a start reads. Blocks for as long as it takes to read the node log.
    ///
    /// # Errors
    /// The log or the vault cannot be read or written; what was removed until then is gone.
    pub fn reclaim(&self, bytes: u64, proven: Proven) -> io::Result<Reclaimed> {
        let mut copies = Copies::new(self.covered());
        self.read_log(&mut |index, leaf| copies.leaf(index, leaf))?;
        let mut done = Reclaimed::default();
        for copy in copies.dispensable(proven) {
            if done.bytes >= bytes {
                break;
            }
            self.remove(copy.session, copy.segment_no, copy.bytes, &mut done)?;
        }
        Ok(done)
    }

    /// Returns the time that has passed by every clock that counts: the node's, and that of each vault elsewhere when it took
    /// the newest checkpoint. In microseconds since 1970.
    ///
    /// # Errors
    /// A vault elsewhere has not taken a checkpoint since the start.
    pub fn proven_us(&self) -> Result<u64, Undated> {
        let mut proven_us = self.0.queue.now().wall_us;
        for remote in self.remotes() {
            match remote.dated_us {
                0 => return Err(Undated(remote.name)),
                dated_us => proven_us = proven_us.min(dated_us),
            }
        }
        Ok(proven_us)
    }

    /// Reads off the node log which sessions need not be kept any longer than `until_us`, in microseconds since 1970, and the
    /// holds that were ever set. Blocks for as long as it takes to read the log.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn overdue(&self, until_us: u64) -> io::Result<Overdue> {
        let mut overdue = Overdue::new(until_us, Copies::new(self.covered()));
        self.await_log()?;
        self.read_log(&mut |index, leaf| overdue.leaf(index, leaf))?;
        Ok(overdue)
    }

    /// Returns what the node log says of the opening of a session. Blocks for as long as it takes to read the log.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn opening(&self, session: SessionId) -> io::Result<Option<Open>> {
        let mut found = None;
        self.await_log()?;
        self.read_log(&mut |_, leaf| {
            if let Leaf::Open(open) = leaf
                && open.session == session
            {
                found = Some(open.clone());
            }
        })?;
        Ok(found)
    }

    /// Logs that these sessions are deleted on purpose. Durable when this returns; what is here of them goes with
    /// [`Recorder::erase_retired`].
    ///
    /// # Errors
    /// Recording cannot go on.
    pub async fn retire(&self, overdue: &mut Overdue, sessions: &[SessionId]) -> Result<(), Frozen> {
        let wall_us = self.0.queue.now().wall_us;
        let leaves = sessions.iter().map(|session| Retired { session: *session, wall_us });
        self.log(leaves.clone().map(Leaf::Retired).collect()).await?;
        leaves.for_each(|leaf| overdue.retired(&leaf));
        Ok(())
    }

    /// Logs that a session must be kept, or need not any more, by this order with these signatures, which fit an entry of the log
    /// together. Durable when this returns.
    ///
    /// # Errors
    /// Recording cannot go on.
    pub async fn hold(&self, session: SessionId, set: bool, order: String, signatures: String) -> Result<(), Frozen> {
        let wall_us = self.0.queue.now().wall_us;
        self.log(vec![Leaf::LegalHold(LegalHold { session, set, order, signatures, wall_us })]).await
    }

    /// Logs that the control transcript tells of something about the node, in a word. Durable when this returns.
    ///
    /// # Errors
    /// Recording cannot go on.
    pub async fn act(&self, what: &str) -> Result<(), Frozen> {
        let (session, wall_us) = (self.control().id(), self.0.queue.now().wall_us);
        self.log(vec![Leaf::Control(Control { session, what: what.to_owned(), wall_us })]).await
    }

    /// Removes what is here of sessions that are retired; what an earlier attempt left goes too. Blocks for as long as it takes.
    ///
    /// # Errors
    /// The vault cannot be written; what was removed until then is gone.
    pub fn erase_retired(&self, overdue: &Overdue) -> io::Result<Reclaimed> {
        let mut done = Reclaimed::default();
        for copy in overdue.remains() {
            self.remove(copy.session, copy.segment_no, copy.bytes, &mut done)?;
        }
        Ok(done)
    }

    fn covered(&self) -> HashMap<String, u64> {
        self.remotes().into_iter().map(|remote| (remote.name, remote.log_size)).collect()
    }

    /// Waits until everything that is under a checkpoint can be read: a hold that was just logged must be seen.
    fn await_log(&self) -> io::Result<()> {
        let size = self.figures().log_size;
        let deadline = Instant::now() + LOG_PATIENCE;
        while leaf_count(self.0.fs.as_ref(), &self.0.log_dir)? < size {
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the node log on disk is behind the journal"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn read_log(&self, each: &mut dyn FnMut(u64, &Leaf)) -> io::Result<()> {
        let (fs, log_dir) = (self.0.fs.as_ref(), &self.0.log_dir);
        read_leaves(fs, log_dir, 0, leaf_count(fs, log_dir)?, &mut |index, leaf| each(index, &leaf))
    }

    fn remove(&self, session: SessionId, segment_no: u32, bytes: u64, done: &mut Reclaimed) -> io::Result<()> {
        let path = self.0.vault_dir.join(segment_key(session, segment_no));
        match self.0.fs.unprotect(&path).and_then(|()| self.0.fs.remove(&path)) {
            Ok(()) => {
                done.segments += 1;
                done.bytes = done.bytes.saturating_add(bytes);
                Ok(())
            }
            // Gone the last time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn log(&self, leaves: Vec<Leaf>) -> Result<(), Frozen> {
        let (reply, answer) = oneshot::channel();
        self.0.queue.push(Command::Log { leaves, reply });
        answer.await.map_err(|_| self.frozen().unwrap_or(Frozen::Stopped))
    }
}
