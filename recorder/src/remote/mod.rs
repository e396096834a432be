//! Vaults elsewhere: what rests in the vault of this node goes on into buckets with Object Lock.
//!
//! Nothing on the hot path waits for it. Each vault has a thread of its own that follows the node log: a segment that the log
//! calls finished and not STORED is what it works on, the newest checkpoint with the tiles under it goes whenever a session
//! began or ended, and once a minute. A local copy counts as dispensable only when the log says STORED, which it does when
//! the server showed the object back, with its lock.

mod backlog;
mod contact;
mod deliver;
mod errand;
mod figures;
mod gate;
mod mark;
mod pages;
mod reclaim;
#[cfg(test)]
pub(crate) mod samples;
mod thread;
mod vigil;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

pub use figures::RemoteFigures;
pub use reclaim::Proven;
pub(crate) use reclaim::{Copies, Dispensable};

pub(crate) use self::figures::Board;
use self::thread::{Remote, Setup};
use crate::catalogue::Page;
use crate::error::OpenError;
use crate::fs::Fs;
use crate::log::leaf::Leaf;
use crate::log::note::{LogKey, Note};
use crate::queue::Queue;
use crate::threads::{Starting, at_leisure};
use crate::transcript::block::SessionId;
use crate::vault::DirVault;
use crate::vault::s3::Settings;

/// A start waits this long for the vaults to say what they know of the log. One that does not answer must not keep anybody
/// from logging in; it is asked again in the background.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a remote thread is told. All of it is small.
#[derive(Debug, Clone)]
pub(crate) enum News {
    /// The next leaf of the log.
    Leaf { index: u64, leaf: Box<Leaf> },
    /// A segment lies in the vault here.
    Published { session: SessionId, segment_no: u32 },
    /// A checkpoint, with its tiles, lies in the vault here.
    Checkpoint { note: Box<Note> },
    /// A page of the catalogue lies in the vault here.
    Catalogue { page: Page },
}

/// What all of them are started with.
#[derive(Debug, Clone)]
pub(crate) struct Common {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) state_dir: PathBuf,
    /// The vault here.
    pub(crate) vault: DirVault,
    pub(crate) key: LogKey,
    /// How long sessions must be kept, in microseconds.
    pub(crate) retain_us: u64,
    pub(crate) queue: Arc<Queue>,
    /// Entries of the local log that the threads read themselves; what follows is told.
    pub(crate) log_size: u64,
}

/// The handles that the shipper and the catalogue keep.
#[derive(Debug, Clone, Default)]
pub(crate) struct Remotes(Vec<UnboundedSender<News>>);

impl Remotes {
    /// Starts a thread for each vault, and waits a moment for what they know of the log.
    ///
    /// # Errors
    /// One of them knows more of the log than this node does, or another one.
    pub(crate) fn start(
        common: &Common,
        settings: Vec<Settings>,
        starting: &mut Starting,
    ) -> Result<(Self, Vec<Arc<Board>>), OpenError> {
        let (mut senders, mut boards) = (Vec::new(), Vec::new());
        let (first, answers) = mpsc::channel();
        let count = settings.len();
        for settings in settings {
            let (sender, news) = unbounded_channel();
            let board = Arc::new(Board::new(settings.name.clone()));
            let name = format!("casemate-{}", settings.name);
            let setup = Setup { common: common.clone(), settings, board: Arc::clone(&board), first: first.clone() };
            starting.spawn(&name, move || at_leisure(|| Remote::run(setup, news)))?;
            senders.push(sender);
            boards.push(board);
        }
        let deadline = Instant::now() + PATIENCE;
        for _ in 0..count {
            match answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Some(error)) => return Err(error),
                Ok(None) => {}
                // Asked again in the background; what comes of it then ends recording.
                Err(_) => break,
            }
        }
        Ok((Self(senders), boards))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells all of them. One that has ended ended for a reason that it gave.
    pub(crate) fn tell(&self, news: &News) {
        for sender in &self.0 {
            let _ = sender.send(news.clone());
        }
    }
}
