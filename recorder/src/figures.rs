//! What the recorder counts and measures, for whoever watches the node.
//!
//! Plain atomics: the threads that record add to them and never wait for a reader, a reader never waits for a disk. What
//! only the filesystem knows is a [`Survey`], which may.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Frozen;
use crate::transcript::event::Side;

/// Upper bounds of the commit histogram, in microseconds; a last bucket takes what is longer.
pub const COMMIT_BOUNDS_US: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// What only grows. It outlives a run of the recorder: the next run goes on with the same.
#[derive(Debug, Default)]
pub struct Totals {
    client_bytes: AtomicU64,
    target_bytes: AtomicU64,
    commits: [AtomicU64; COMMIT_BOUNDS_US.len()],
    long_commits: AtomicU64,
    commits_us: AtomicU64,
}

/// How long turns of the journal waited for the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latency {
    /// How many took at most as long as the bound of the same place in [`COMMIT_BOUNDS_US`], and longer than the one before.
    pub counts: [u64; COMMIT_BOUNDS_US.len()],
    /// How many took longer than the last bound.
    pub longer: u64,
    /// All of them together, in microseconds.
    pub sum_us: u64,
}

/// The figures of a moment.
#[derive(Debug, Clone)]
pub struct Figures {
    /// Bytes of streams that the journal holds, by clients.
    pub client_bytes: u64,
    /// The same by targets.
    pub target_bytes: u64,
    /// How long turns of the journal waited for the disk.
    pub commits: Latency,
    /// Bytes of journal files that hold something which is nowhere else yet.
    pub journal_bytes: u64,
    /// The most that journal files may take.
    pub journal_limit_bytes: u64,
    /// Bytes recorded by this run that no finished segment holds: blocks as they are stored, and events that wait for a
    /// block as they are encoded, these as of the last second.
    pub unsealed_bytes: u64,
    /// Finished segments that are not in the vault.
    pub unshipped_segments: u64,
    /// Entries of the node log under the newest checkpoint.
    pub log_size: u64,
    /// When that checkpoint was signed, in microseconds since 1970; 0 before the first of this run.
    pub checkpoint_us: u64,
    /// Why recording cannot go on, if so.
    pub frozen: Option<Frozen>,
    /// Whether the disk has not answered for two seconds.
    pub stalled: bool,
}

/// What the filesystems say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Bytes of the files in the spool.
    pub spool_bytes: u64,
    /// Where recordings are written.
    pub disks: Vec<Disk>,
}

/// A filesystem that recordings are written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// What lies there: `spool` or `vault`.
    pub what: &'static str,
    /// Bytes that can still be written.
    pub available: u64,
    /// All of its bytes.
    pub total: u64,
}

impl Disk {
    /// Returns how much of it is used.
    pub fn used_percent(&self) -> u64 {
        self.total.saturating_sub(self.available).saturating_mul(100) / self.total.max(1)
    }
}

impl Totals {
    fn recorded(&self, side: Side, bytes: u64) {
        let counter = match side {
            Side::Client => &self.client_bytes,
            Side::Target => &self.target_bytes,
        };
        counter.fetch_add(bytes, Ordering::Relaxed);
    }

    fn committed(&self, us: u64) {
        let at = COMMIT_BOUNDS_US.partition_point(|bound| *bound < us);
        self.commits.get(at).unwrap_or(&self.long_commits).fetch_add(1, Ordering::Relaxed);
        self.commits_us.fetch_add(us, Ordering::Relaxed);
    }

    fn latency(&self) -> Latency {
        Latency {
            counts: self.commits.each_ref().map(|count| count.load(Ordering::Relaxed)),
            longer: self.long_commits.load(Ordering::Relaxed),
            sum_us: self.commits_us.load(Ordering::Relaxed),
        }
    }
}

/// What one run of the recorder counts.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    totals: Arc<Totals>,
    unsealed_blocks: AtomicU64,
    unsealed_events: AtomicU64,
    unshipped: AtomicU64,
    log_size: AtomicU64,
    checkpoint_us: AtomicU64,
}

/// Stream bytes that a turn takes into the journal.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Taken {
    client: u64,
    target: u64,
}

impl Taken {
    pub(crate) fn add(&mut self, side: Side, len: usize) {
        match side {
            Side::Client => self.client += len as u64,
            Side::Target => self.target += len as u64,
        }
    }
}

impl Meters {
    pub(crate) fn new(totals: Arc<Totals>) -> Self {
        Self { totals, ..Self::default() }
    }

    pub(crate) fn totals(&self) -> &Arc<Totals> {
        &self.totals
    }

    /// The journal holds what a turn took in.
    pub(crate) fn written(&self, taken: Taken) {
        self.totals.recorded(Side::Client, taken.client);
        self.totals.recorded(Side::Target, taken.target);
    }

    /// A turn waited that long for the disk.
    pub(crate) fn committed(&self, us: u64) {
        self.totals.committed(us);
    }

    /// A block was made.
    pub(crate) fn block(&self, len: u64) {
        self.unsealed_blocks.fetch_add(len, Ordering::Relaxed);
    }

    /// Blocks of that many bytes are in a finished segment.
    pub(crate) fn sealed(&self, len: u64) {
        // Only the journal thread writes this one.
        let blocks = self.unsealed_blocks.load(Ordering::Relaxed);
        self.unsealed_blocks.store(blocks.saturating_sub(len), Ordering::Relaxed);
    }

    /// That many bytes of events wait for a block.
    pub(crate) fn waiting(&self, bytes: u64) {
        self.unsealed_events.store(bytes, Ordering::Relaxed);
    }

    /// A segment is on its way into the vault.
    pub(crate) fn to_ship(&self) {
        self.unshipped.fetch_add(1, Ordering::Relaxed);
    }

    /// A segment is in the vault.
    pub(crate) fn shipped(&self) {
        self.unshipped.fetch_sub(1, Ordering::Relaxed);
    }

    /// A checkpoint was signed.
    pub(crate) fn checkpoint(&self, log_size: u64, wall_us: u64) {
        self.log_size.store(log_size, Ordering::Relaxed);
        self.checkpoint_us.store(wall_us, Ordering::Relaxed);
    }

    /// Returns the figures, but for what others than the journal's threads know.
    pub(crate) fn figures(&self) -> Figures {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Figures {
            client_bytes: load(&self.totals.client_bytes),
            target_bytes: load(&self.totals.target_bytes),
            commits: self.totals.latency(),
            journal_bytes: 0,
            journal_limit_bytes: 0,
            unsealed_bytes: load(&self.unsealed_blocks).saturating_add(load(&self.unsealed_events)),
            unshipped_segments: load(&self.unshipped),
            log_size: load(&self.log_size),
            checkpoint_us: load(&self.checkpoint_us),
            frozen: None,
            stalled: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_counted_once_where_its_time_belongs() {
        let totals = Totals::default();
        for us in [0, 100, 101, 10_000_000, 10_000_001, 60_000_000] {
            totals.committed(us);
        }
        let latency = totals.latency();
        assert_eq!((latency.counts[0], latency.counts[1], latency.counts[14], latency.longer), (2, 1, 1, 2));
        assert_eq!(latency.counts.iter().sum::<u64>() + latency.longer, 6);
        assert_eq!(latency.sum_us, 80_000_202);
        assert!(COMMIT_BOUNDS_US.is_sorted());
    }

    #[test]
    fn a_run_begins_with_what_the_one_before_counted_and_with_nothing_unsealed() {
        let first = Meters::default();
        let mut taken = Taken::default();
        taken.add(Side::Client, 3);
        taken.add(Side::Target, 50);
        taken.add(Side::Client, 4);
        first.written(taken);
        first.block(100);
        first.block(10);
        first.sealed(100);
        first.waiting(5);
        assert_eq!(first.figures().unsealed_bytes, 15);
        let second = Meters::new(Arc::clone(first.totals()));
        let figures = second.figures();
        assert_eq!((figures.client_bytes, figures.target_bytes, figures.unsealed_bytes), (7, 50, 0));
    }

    #[test]
    fn a_disk_of_no_size_is_not_full() {
        let disk = |available, total| Disk { what: "spool", available, total }.used_percent();
        assert_eq!((disk(0, 0), disk(15, 100), disk(0, 100), disk(u64::MAX, u64::MAX)), (0, 85, 100, 0));
    }
}
