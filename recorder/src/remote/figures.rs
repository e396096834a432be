//! What is known about a vault elsewhere, for whoever watches the node.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::backlog::Waiting;

/// Troubles that are kept by name; more are only counted.
const TROUBLES_MAX: usize = 64;

/// The figures of one vault elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoteFigures {
    /// What the configuration calls it.
    pub name: String,
    /// Finished segments that are not there.
    pub waiting_segments: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// When the oldest of them was logged, in microseconds since 1970.
    pub oldest_us: Option<u64>,
    /// When the vault last did what it was asked, in microseconds since 1970; 0 before the first time.
    pub reached_us: u64,
    /// Entries of the node log under the newest checkpoint there.
    pub log_size: u64,
    /// When the server took the newest checkpoint that this start put there, by its own clock, in microseconds since 1970; 0
    /// before the first.
    pub dated_us: u64,
    /// Objects put.
    pub puts: u64,
    /// Their bytes.
    pub put_bytes: u64,
    /// Requests that came to nothing, by kind.
    pub failures: BTreeMap<&'static str, u64>,
    /// What somebody must look at, by what it is about: an object's name, or `versioning`, `lock`, …
    pub troubles: BTreeMap<String, String>,
}

/// Where the figures are kept while they change.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<RemoteFigures>);

impl Board {
    pub(super) fn new(name: String) -> Self {
        Self(Mutex::new(RemoteFigures { name, ..RemoteFigures::default() }))
    }

    fn change(&self, change: impl FnOnce(&mut RemoteFigures)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Returns a copy.
    pub(crate) fn read(&self) -> RemoteFigures {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn waits(&self, waiting: Waiting) {
        self.change(|figures| {
            figures.waiting_segments = waiting.segments;
            figures.waiting_bytes = waiting.bytes;
            figures.oldest_us = waiting.oldest_us;
        });
    }

    pub(super) fn reached(&self, wall_us: u64) {
        self.change(|figures| figures.reached_us = wall_us);
    }

    pub(super) fn log_size(&self, size: u64) {
        self.change(|figures| figures.log_size = size);
    }

    pub(super) fn dated(&self, server_us: u64) {
        self.change(|figures| figures.dated_us = figures.dated_us.max(server_us));
    }

    pub(super) fn put(&self, objects: u64, bytes: u64) {
        self.change(|figures| {
            figures.puts += objects;
            figures.put_bytes += bytes;
        });
    }

    pub(super) fn failed(&self, kind: &'static str) {
        self.change(|figures| *figures.failures.entry(kind).or_default() += 1);
    }

    /// Something is not as it should be.
    pub(super) fn trouble(&self, about: &str, text: String) {
        self.change(|figures| {
            if figures.troubles.len() < TROUBLES_MAX || figures.troubles.contains_key(about) {
                figures.troubles.insert(about.to_owned(), text);
            }
        });
    }

    /// It is as it should be.
    pub(super) fn settled(&self, about: &str) {
        self.change(|figures| {
            figures.troubles.remove(about);
        });
    }
}
