//! Bytes that were taken in and have not gone on yet, and what follows from how many they are.
//!
//! Counts, and says when a reader has to wait, what window to grant and when it is too much. Knows no socket and no
//! channel; a [`Waker`] is all it has of the outside.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// The window answered while too much is queued. Zero would be ignored by the library and one never re-granted.
const NARROW_WINDOW: u32 = 256;

/// What an item costs beside its bytes: its place in a queue, its ticket and what the allocator adds. A peer that says one byte at a
/// time would fill memory a hundred times over without it.
const ITEM_COST: usize = 256;

/// How many bytes are held, and the one reader that may have to wait for them to go.
pub(crate) struct Backlog {
    held: AtomicUsize,
    limit: usize,
    /// Whether the reader was held and the backlog has not fallen below half since.
    holding: AtomicBool,
    /// Set once the bytes' way is over: nothing is worth holding the reader for any more.
    released: AtomicBool,
    reader: Mutex<Option<Waker>>,
    /// What these bytes count towards as well.
    parent: Option<Arc<Self>>,
}

impl Backlog {
    /// Starts at nothing held; `limit` is in bytes.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Self::make(limit, None)
    }

    /// Starts one whose bytes count towards `parent` too.
    pub(crate) fn within(parent: &Arc<Self>, limit: usize) -> Arc<Self> {
        Self::make(limit, Some(Arc::clone(parent)))
    }

    fn make(limit: usize, parent: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self {
            held: AtomicUsize::new(0),
            limit,
            holding: AtomicBool::new(false),
            released: AtomicBool::new(false),
            reader: Mutex::new(None),
            parent,
        })
    }

    /// Counts an item of `len` bytes in until the returned value goes.
    pub(crate) fn hold(self: &Arc<Self>, len: usize) -> Held {
        let held = Held { backlog: Arc::clone(self), len };
        self.add(held.cost());
        held
    }

    /// Counts an item in that has no bytes of a stream.
    pub(crate) fn hold_item(self: &Arc<Self>) -> Held {
        self.hold(0)
    }

    fn add(&self, cost: usize) {
        self.held.fetch_add(cost, Ordering::SeqCst);
        if let Some(parent) = &self.parent {
            parent.add(cost);
        }
    }

    fn sub(&self, cost: usize) {
        let before = self.held.fetch_sub(cost, Ordering::SeqCst);
        if before.saturating_sub(cost) < self.limit / 2 && self.holding.load(Ordering::SeqCst) {
            self.wake();
        }
        if let Some(parent) = &self.parent {
            parent.sub(cost);
        }
    }

    /// Returns how many bytes are held now, with what the items cost that they came in.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    /// Whether more than the limit is held.
    pub(crate) fn exceeds_limit(&self) -> bool {
        self.held() > self.limit
    }

    /// Returns the window to grant: all of `window`, or a trickle while more than the limit is held.
    pub(crate) fn window(&self, window: u32) -> u32 {
        if self.exceeds_limit() { NARROW_WINDOW } else { window }
    }

    /// Whether even what a peer was granted before the window narrowed cannot explain how much is held.
    pub(crate) fn beyond(&self, window: u32) -> bool {
        self.held() > self.limit.saturating_add(window as usize)
    }

    /// Ready while the reader may go on: held above the limit, let go below half of it.
    pub(crate) fn poll_admit(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.admits() {
            return Poll::Ready(());
        }
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        // What went between the question and the registration woke nobody: ask again.
        if self.admits() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn admits(&self) -> bool {
        if self.released.load(Ordering::SeqCst) {
            return true;
        }
        let held = self.held();
        if self.holding.load(Ordering::SeqCst) {
            if held < self.limit / 2 {
                self.holding.store(false, Ordering::SeqCst);
                return true;
            }
            return false;
        }
        if held > self.limit {
            self.holding.store(true, Ordering::SeqCst);
            // The bytes may have gone before the flag was up.
            return self.held() < self.limit / 2;
        }
        true
    }

    /// Lets the reader go for good: what it reads from now on is not kept.
    pub(crate) fn release(&self) {
        self.released.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Whether the reader was let go for good.
    pub(crate) fn is_released(&self) -> bool {
        self.released.load(Ordering::SeqCst)
    }

    fn wake(&self) {
        let waker = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl fmt::Debug for Backlog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backlog").field("held", &self.held()).field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// An item that counts as held as long as this lives, however it ends.
#[derive(Debug)]
pub(crate) struct Held {
    backlog: Arc<Backlog>,
    len: usize,
}

impl Held {
    /// Returns how many bytes of a stream it stands for.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn cost(&self) -> usize {
        self.len.saturating_add(ITEM_COST)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.backlog.sub(self.cost());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicU32);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn ready(backlog: &Backlog, count: &Arc<Count>) -> bool {
        let waker = Waker::from(Arc::clone(count));
        backlog.poll_admit(&mut Context::from_waker(&waker)).is_ready()
    }

    #[test]
    fn a_reader_is_held_above_the_limit_and_let_go_below_half() {
        let (backlog, count) = (Backlog::new(1000), Arc::new(Count::default()));
        let first = backlog.hold(600 - ITEM_COST);
        let second = backlog.hold(400 - ITEM_COST);
        assert!(ready(&backlog, &count), "at the limit is not above it");
        let third = backlog.hold_item();
        assert!(!ready(&backlog, &count));
        drop(second);
        assert!(!ready(&backlog, &count), "856 is more than half");
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        drop(first);
        assert_eq!(count.0.load(Ordering::SeqCst), 1, "woken once, below half");
        assert!(ready(&backlog, &count));
        drop(third);
        assert_eq!(backlog.held(), 0);
    }

    #[test]
    fn bytes_of_a_part_count_towards_the_whole_and_leave_it_with_their_holder() {
        let whole = Backlog::new(10);
        let (left, right) = (Backlog::within(&whole, 10), Backlog::within(&whole, 10));
        let kept = left.hold(6);
        let queue = vec![right.hold(3), right.hold(4)];
        let items = |count: usize, bytes: usize| count * ITEM_COST + bytes;
        assert_eq!((left.held(), right.held(), whole.held()), (items(1, 6), items(2, 7), items(3, 13)));
        drop(queue);
        assert_eq!((left.held(), right.held(), whole.held()), (items(1, 6), 0, items(1, 6)));
        assert_eq!(kept.len(), 6);
    }

    #[test]
    fn the_window_narrows_above_the_limit_and_widens_again() {
        let backlog = Backlog::new(ITEM_COST + 100);
        assert_eq!(backlog.window(4096), 4096);
        let held = backlog.hold(101);
        assert_eq!(backlog.window(4096), NARROW_WINDOW);
        assert!(!backlog.beyond(1));
        assert!(backlog.beyond(0));
        drop(held);
        assert_eq!(backlog.window(4096), 4096);
    }

    #[test]
    fn a_release_lets_the_reader_go_whatever_is_held() {
        let (backlog, count) = (Backlog::new(1), Arc::new(Count::default()));
        let _held = backlog.hold(1000);
        assert!(!ready(&backlog, &count));
        backlog.release();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(ready(&backlog, &count));
    }
}
