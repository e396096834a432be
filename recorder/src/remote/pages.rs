//! Pages of the catalogue on their way to a vault elsewhere: without a lock, because they hold personal data, and behind all
//! evidence. That one does not get there is logged and raises no alarm.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::deliver::Trouble;
use crate::catalogue::{Page, due_dir};
use crate::fs::Fs;
use crate::vault::s3::{Bucket, S3Error, md5_of};

/// The first wait after something failed, in microseconds.
const WAIT_MIN_US: u64 = 1_000_000;

/// The longest, in microseconds.
const WAIT_MAX_US: u64 = 3_600_000_000;

/// The longest page, in bytes: what is compressed into it is hardly longer than 8 MiB.
const PAGE_LEN_MAX: u64 = 16 * 1024 * 1024;

#[derive(Debug, Clone, Copy, Default)]
struct Wait {
    tries: u32,
    not_before_us: u64,
}

/// The pages that wait.
#[derive(Debug)]
pub(super) struct Pages {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    due: BTreeMap<Page, Wait>,
    /// The one under way.
    busy: Option<Page>,
}

impl Pages {
    /// Finds those that an earlier start did not deliver.
    pub(super) fn open(fs: Arc<dyn Fs>, state_dir: &std::path::Path, vault: &str) -> Self {
        let dir = due_dir(state_dir, vault);
        let names = fs.list(&dir).unwrap_or_default();
        let due = names.iter().filter_map(|name| Some((name.parse().ok()?, Wait::default()))).collect();
        Self { fs, dir, due, busy: None }
    }

    /// There is another one.
    pub(super) fn add(&mut self, page: Page) {
        self.due.entry(page).or_default();
    }

    /// Whether one is under way, or could be now.
    pub(super) fn is_idle(&self, now_us: u64) -> bool {
        self.busy.is_none() && self.due.values().all(|wait| wait.not_before_us > now_us)
    }

    /// Takes one to work on, and says how often it was tried; one at a time.
    pub(super) fn take(&mut self, now_us: u64) -> Option<(Page, u32)> {
        if self.busy.is_some() {
            return None;
        }
        let (page, wait) = self.due.iter().find(|(_, wait)| wait.not_before_us <= now_us)?;
        self.busy = Some(*page);
        Some((*page, wait.tries))
    }

    /// It is there, or never will be.
    pub(super) fn done(&mut self, page: Page) {
        self.busy = None;
        self.due.remove(&page);
        match self.fs.remove(&self.dir.join(page.to_string())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::debug!(%page, %error, "the next start delivers this page again");
            }
            _ => {}
        }
    }

    /// It is not.
    pub(super) fn failed(&mut self, page: Page, now_us: u64) {
        self.busy = None;
        if let Some(wait) = self.due.get_mut(&page) {
            let pause_us = WAIT_MIN_US.checked_shl(wait.tries).unwrap_or(WAIT_MAX_US).min(WAIT_MAX_US);
            wait.tries = wait.tries.saturating_add(1).min(16);
            wait.not_before_us = now_us.saturating_add(pause_us);
        }
    }

    /// Whatever was under way came to an end that nobody foresaw.
    pub(super) fn lost(&mut self, now_us: u64) {
        if let Some(page) = self.busy {
            self.failed(page, now_us);
        }
    }
}

/// Puts a page into a bucket, and says whether the bucket locked it all the same.
pub(super) async fn deliver_page(bucket: &Bucket, key: &str, content: Bytes, tries: u32) -> Result<bool, Trouble> {
    // Not every server honours the condition on the name: another attempt would make a second version.
    if tries > 0 && is_there(bucket, key, &content).await? {
        return Ok(false);
    }
    match bucket.put_plain(key, content.clone(), None, true).await {
        Ok(version) => Ok(bucket.look(key, version.as_deref()).await.is_ok_and(|standing| standing.lock.is_some())),
        // Our own answer may have been lost on its way.
        Err(S3Error::Exists) => is_there(bucket, key, &content).await?.then_some(false).ok_or(Trouble::Conflict),
        Err(error) => Err(error.into()),
    }
}

/// Whether the name is taken by this content.
async fn is_there(bucket: &Bucket, key: &str, content: &Bytes) -> Result<bool, Trouble> {
    let standing = match bucket.look(key, None).await {
        Ok(standing) => standing,
        Err(S3Error::Absent(_)) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let same = match standing.md5 {
        Some(md5) => md5 == md5_of(content),
        None => bucket.get(key, None, PAGE_LEN_MAX).await? == *content,
    };
    if same { Ok(true) } else { Err(Trouble::Conflict) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::OsFs;

    #[test]
    fn what_is_due_is_known_to_the_next_start_and_one_goes_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let due = due_dir(dir.path(), "basel");
        std::fs::create_dir_all(&due).unwrap();
        for name in ["2025-11-22T08", "2025-11-22T08-1", "notes"] {
            std::fs::write(due.join(name), "").unwrap();
        }
        let open = || Pages::open(Arc::new(OsFs), dir.path(), "basel");
        let mut pages = open();
        let (first, tries) = pages.take(0).unwrap();
        assert_eq!((first.to_string().as_str(), tries), ("2025-11-22T08", 0));
        assert!(pages.take(0).is_none() && !pages.is_idle(0));
        pages.done(first);
        let (second, _) = pages.take(0).unwrap();
        pages.failed(second, 0);
        assert!(pages.take(0).is_none() && pages.is_idle(0), "it waits");
        assert_eq!(pages.take(WAIT_MIN_US), Some((second, 1)));
        let mut again = open();
        assert_eq!(again.take(0), Some((second, 0)), "the first is done with");
        assert!(Pages::open(Arc::new(OsFs), dir.path(), "elsewhere").is_idle(0));
    }

    #[test]
    fn waits_grow_to_an_hour() {
        let mut pages = Pages::open(Arc::new(OsFs), std::path::Path::new("/absent"), "basel");
        let page = Page { hour: 1, part: 0 };
        pages.add(page);
        let mut now_us = 0;
        for _ in 0..40 {
            assert!(pages.take(now_us).is_some());
            pages.lost(now_us);
            let next_us = pages.due[&page].not_before_us;
            assert!((WAIT_MIN_US..=WAIT_MAX_US).contains(&(next_us - now_us)));
            now_us = next_us;
        }
    }
}
