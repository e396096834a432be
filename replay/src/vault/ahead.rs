//! Reading what will be asked for: a bucket far away answers slowly and many at a time, and whoever goes through a log asks for
//! one thing after the other.
//!
//! Only a hint, whoever gives it: what finds no room is read when it is asked for, and what was read is the same, as a version never
//! changes. How it is locked is then as it was a moment earlier.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use casemate_recorder::vault::s3::{Bucket, S3Error, Standing};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use super::Version;

/// How often a read is begun that breaks off on the way; the client itself repeats those that are not answered.
const READS: usize = 4;

/// What room is counted in, in bytes: every request takes one at least.
const ROOM_UNIT: u64 = 4096;

/// What came of reading a version: nothing where it is gone by now.
pub(super) type Read = (Result<Option<Standing>, S3Error>, Vec<u8>);

/// Reads versions.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    bucket: Bucket,
    /// Whether the server was seen to tell of a lock only where nothing else is asked.
    apart: Arc<AtomicBool>,
}

impl Reader {
    pub(super) fn new(bucket: Bucket) -> Self {
        Self { bucket, apart: Arc::default() }
    }

    /// Reads a version into a buffer, and asks how it is locked; nothing where it is gone by now.
    pub(super) async fn read(
        &self,
        key: &str,
        id: Option<&str>,
        max: u64,
        into: &mut Vec<u8>,
    ) -> Result<Option<Standing>, S3Error> {
        let (content, looked) = if self.apart.load(Ordering::Relaxed) {
            let (content, looked) = tokio::join!(self.content(key, id, max, into), self.bucket.look(key, id));
            (content, Some(looked))
        } else {
            (self.content(key, id, max, into).await, None)
        };
        let told = async {
            let mut standing = content?;
            if standing.lock.is_some() {
                return Ok(standing);
            }
            // Not every server says so with the content.
            let looked = match looked {
                Some(looked) => looked?,
                None => self.bucket.look(key, id).await?,
            };
            if looked.lock.is_some() {
                self.apart.store(true, Ordering::Relaxed);
            }
            (standing.lock, standing.hold) = (looked.lock, looked.hold || standing.hold);
            Ok(standing)
        };
        match told.await {
            Err(S3Error::Absent(_)) => Ok(None),
            told => told.map(Some),
        }
    }

    async fn content(&self, key: &str, id: Option<&str>, max: u64, into: &mut Vec<u8>) -> Result<Standing, S3Error> {
        let mut left = READS;
        loop {
            left -= 1;
            match self.bucket.read(key, id, None, max, into).await {
                Err(error) if error.is_transient() && left > 0 => {}
                read => return read,
            }
        }
    }
}

/// A read that was begun, with the room that it takes.
#[derive(Debug)]
struct Begun {
    read: JoinHandle<Read>,
    _room: OwnedSemaphorePermit,
}

/// What was begun and nobody asked for yet.
#[derive(Debug)]
pub(super) struct Ahead {
    reader: Reader,
    handle: Handle,
    slots: Arc<Semaphore>,
    /// What may be on the line at a time.
    line: Arc<Semaphore>,
    line_units: u32,
    room: Arc<Semaphore>,
    begun: Mutex<HashMap<(String, Box<str>), Begun>>,
}

impl Ahead {
    /// Begins to read as many at a time, and no more than `line` bytes at a time; in all, no more than `bytes` of what was read and
    /// not asked for yet are held.
    pub(super) fn new(reader: Reader, handle: Handle, at_once: usize, line: u64, bytes: u64) -> Self {
        let of_bytes = |bytes| Arc::new(Semaphore::new(units(bytes) as usize));
        let (slots, line_units) = (Arc::new(Semaphore::new(at_once)), units(line));
        let (line, room) = (of_bytes(line), of_bytes(bytes));
        Self { reader, handle, slots, line, line_units, room, begun: Mutex::default() }
    }

    /// Begins to read a version of at most `max` bytes; says whether there was room for it.
    pub(super) fn expect(&self, key: &str, version: &Version, max: u64) -> bool {
        let (Some(id), Some(bytes)) = (&version.id, version.bytes) else { return true };
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        // What is longer than it may be is not worth reading.
        if bytes > max || begun.contains_key(&(key.to_owned(), id.clone())) {
            return true;
        }
        let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(units(bytes)) else { return false };
        let (reader, slots, line) = (self.reader.clone(), Arc::clone(&self.slots), Arc::clone(&self.line));
        let (name, its_id, weight) = (key.to_owned(), id.clone(), units(bytes).min(self.line_units));
        let read = self.handle.spawn(async move {
            // Neither is ever closed. What is longer than the line waits until nothing else is on it.
            let (_slot, _line) = (slots.acquire().await, line.acquire_many(weight).await);
            let mut bytes = Vec::new();
            let standing = reader.read(&name, Some(&its_id), max, &mut bytes).await;
            (standing, bytes)
        });
        begun.insert((key.to_owned(), id.clone()), Begun { read, _room: room });
        true
    }

    /// Takes what was begun, if anything was.
    pub(super) fn take(&self, key: &str, version: &Version) -> Option<JoinHandle<Read>> {
        let id = version.id.clone()?;
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.remove(&(key.to_owned(), id)).map(|begun| begun.read)
    }

    /// Forgets what nobody asked for.
    pub(super) fn clear(&self) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.drain().for_each(|(_, begun)| begun.read.abort());
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(ROOM_UNIT).max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use casemate_recorder::vault::s3::{Purpose, Settings};

    fn version(id: &str, bytes: u64) -> Version {
        Version { id: Some(id.into()), bytes: Some(bytes), modified_us: 0 }
    }

    #[tokio::test]
    async fn what_finds_no_room_is_left_until_something_was_taken() {
        let nowhere = Settings { endpoint: Some("http://127.0.0.1:1".to_owned()), ..Settings::default() };
        let reader = Reader::new(Bucket::open(nowhere, Purpose::Shipping).await.unwrap());
        let ahead = Ahead::new(reader, Handle::current(), 1, ROOM_UNIT, 2 * ROOM_UNIT);
        let expect = |id, bytes| ahead.expect("key", &version(id, bytes), 100_000);
        assert!(expect("a", 1) && expect("a", 1), "the same again takes no room");
        assert!(expect("b", ROOM_UNIT));
        assert!(!expect("c", 1));
        assert!(expect("d", 100_001), "what is too long to be right is nothing to wait for");
        assert!(ahead.take("key", &version("c", 1)).is_none());
        assert!(ahead.take("key", &version("a", 1)).is_some());
        assert!(ahead.take("key", &version("a", 1)).is_none(), "it is there once");
        assert!(expect("c", 1) && !expect("e", 1));
        ahead.clear();
        assert!(ahead.take("key", &version("b", 1)).is_none());
        assert!(expect("e", 2 * ROOM_UNIT));
    }
}
