//! The recorder's threads: started together, joined together, also when a start fails halfway.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::journal::pool::Pool;
use crate::queue::{Command, Queue};

/// The name of the thread that makes journal files: the last to be let go, because the journal may still need one.
pub(crate) const POOL: &str = "casemate-pool";

/// The nice value of the threads that make segments out of what the journal holds.
const LEISURE: i32 = 10;

/// Threads that run, in the order they were started.
#[derive(Debug)]
pub(crate) struct Threads {
    pool: Arc<Pool>,
    running: Vec<JoinHandle<()>>,
}

impl Threads {
    pub(crate) fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.running.push(std::thread::Builder::new().name(name.to_owned()).spawn(work)?);
        Ok(())
    }

    /// Waits for all of them, the last one first. Whatever they take their work from must have ended or be told to.
    pub(crate) fn join(&mut self) {
        for thread in std::mem::take(&mut self.running).into_iter().rev() {
            if thread.thread().name() == Some(POOL) {
                self.pool.stop();
            }
            if thread.join().is_err() {
                tracing::error!("a recorder thread panicked");
            }
        }
    }
}

/// Takes the next of a queue, and waits for it no longer than `wait` where there is something else to do by then.
pub(crate) fn next<T>(queue: &Receiver<T>, wait: Option<Duration>) -> Result<T, RecvTimeoutError> {
    match wait {
        None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
        Some(wait) => queue.recv_timeout(wait),
    }
}

/// Runs work that nobody waits for: under load the sessions come first, and a journal that runs full slows them down.
pub(crate) fn at_leisure(work: impl FnOnce()) {
    // On Linux the priority is that of the calling thread.
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), LEISURE) {
        tracing::debug!(%error, "priority stays as it is");
    }
    work();
}

/// The threads of a start that is not done. Should it fail, they are joined, so that nothing of it still writes when the
/// next one begins: declared before everything that feeds them, this is dropped last.
#[derive(Debug)]
pub(crate) struct Starting {
    queue: Arc<Queue>,
    threads: Option<Threads>,
}

impl Starting {
    pub(crate) fn new(pool: Arc<Pool>, queue: Arc<Queue>) -> Self {
        Self { queue, threads: Some(Threads { pool, running: Vec::new() }) }
    }

    pub(crate) fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        match &mut self.threads {
            Some(threads) => threads.spawn(name, work),
            None => Err(io::Error::other("the threads are gone")),
        }
    }

    /// Takes the last one, and lets all of them work.
    pub(crate) fn last(mut self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<Threads> {
        self.spawn(name, work)?;
        self.threads.take().ok_or_else(|| io::Error::other("the threads are gone"))
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(threads) = &mut self.threads {
            self.queue.push(Command::Stop);
            threads.join();
        }
    }
}
