//! Which segments a vault elsewhere does not have yet: read off the node log, where SEGMENT says that there is one and STORED
//! that it got there. There is no other list that could disagree. Sans-IO: leaves and times come in, work goes out.

use std::collections::{BTreeMap, HashMap};

use crate::log::leaf::Leaf;
use crate::transcript::block::SessionId;

/// The first wait after something failed, in microseconds.
const WAIT_MIN_US: u64 = 1_000_000;

/// The longest, in microseconds.
const WAIT_MAX_US: u64 = 60_000_000;

/// One segment.
pub(super) type Key = (SessionId, u32);

/// What the log says about a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) key: Key,
    pub(super) sha256: [u8; 32],
    pub(super) bytes: u64,
    /// Until when the session must be kept, in microseconds since 1970.
    pub(super) retain_until_us: u64,
    /// Whether nobody has tried to put it there: then it need not be looked for first.
    pub(super) fresh: bool,
    /// How often this start has tried.
    pub(super) tries: u32,
}

#[derive(Debug)]
struct Item {
    due: Due,
    /// Index of the OPEN leaf of its session.
    index: u64,
    /// Index of its own leaf.
    named_at: u64,
    /// When that leaf was written, in microseconds since 1970.
    logged_us: u64,
    /// Not before this, by the boot-time clock.
    not_before_us: u64,
    busy: bool,
}

impl Item {
    /// Whether it could be taken, now or after its wait, where the log there has that size.
    fn may_go(&self, covered: u64) -> bool {
        !self.busy && self.named_at < covered
    }
}

/// How much waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) segments: u64,
    pub(super) bytes: u64,
    /// When the oldest of them was logged, in microseconds since 1970.
    pub(super) oldest_us: Option<u64>,
}

/// The segments that wait.
#[derive(Debug)]
pub(super) struct Backlog {
    vault: String,
    /// Sessions that have not ended: the index of their OPEN leaf, and until when they must be kept.
    open: HashMap<SessionId, (u64, u64)>,
    waiting: BTreeMap<Key, Item>,
    /// Segments that are there and of which the log does not say so yet, with the index of the OPEN leaf of each one's session. Should
    /// it never get to say so, a later start has to.
    untold: HashMap<Key, u64>,
    /// The index that comes next.
    next: u64,
    /// The size of the newest checkpoint there.
    covered: u64,
}

impl Backlog {
    /// Begins at this index of the log.
    pub(super) fn new(vault: String, next: u64) -> Self {
        let (open, waiting, untold) = (HashMap::new(), BTreeMap::new(), HashMap::new());
        Self { vault, open, waiting, untold, next, covered: 0 }
    }

    /// Returns the index of the leaf that comes next.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Takes the next leaf. A segment of an earlier start may be there already, whether or not that start got to say so.
    pub(super) fn leaf(&mut self, index: u64, leaf: &Leaf, earlier: bool) {
        self.next = index + 1;
        match leaf {
            Leaf::Open(open) => {
                self.open.insert(open.session, (index, open.retain_until_us));
            }
            Leaf::Segment(segment) => {
                let key = (segment.session, segment.segment_no);
                let (opened, retain_until_us) = self.open.get(&segment.session).copied().unwrap_or((index, 0));
                let due = Due {
                    key,
                    sha256: segment.sha256,
                    bytes: segment.bytes,
                    retain_until_us,
                    fresh: !earlier,
                    tries: 0,
                };
                // Of this start: not before it is published here.
                let not_before_us = if earlier { 0 } else { u64::MAX };
                let logged_us = segment.wall_us;
                let item = Item { due, index: opened, named_at: index, logged_us, not_before_us, busy: false };
                self.waiting.insert(key, item);
            }
            Leaf::Close(close) => {
                self.open.remove(&close.session);
            }
            Leaf::Recovered(recovered) => {
                self.open.remove(&recovered.close.session);
            }
            Leaf::Stored(stored) if stored.vault == self.vault => {
                let key = (stored.session, stored.segment_no);
                self.waiting.remove(&key);
                self.untold.remove(&key);
            }
            // Its time is over: what is gone here need not get anywhere, not even to a vault that was added since.
            Leaf::Retired(retired) => {
                self.waiting.retain(|(session, _), _| *session != retired.session);
                self.untold.retain(|(session, _), _| *session != retired.session);
            }
            _ => {}
        }
    }

    /// The segment lies in the vault here, from where it can be taken.
    pub(super) fn published(&mut self, key: Key) {
        if let Some(item) = self.waiting.get_mut(&key).filter(|item| item.not_before_us == u64::MAX) {
            item.not_before_us = 0;
        }
    }

    /// A checkpoint of that size is there. A segment goes behind the one that names it: whoever reads the vault in between must not
    /// find one that the log there does not know.
    pub(super) fn cover(&mut self, size: u64) {
        self.covered = self.covered.max(size);
    }

    /// Returns the size of the newest checkpoint there.
    pub(super) fn covered(&self) -> u64 {
        self.covered
    }

    /// Whether a segment that could be taken waits for a newer checkpoint to be there.
    pub(super) fn waits_for_checkpoint(&self) -> bool {
        self.waiting.values().any(|item| item.not_before_us != u64::MAX && item.named_at >= self.covered)
    }

    /// Takes up to `count` segments to work on, the oldest session first.
    pub(super) fn take(&mut self, now_us: u64, count: usize) -> Vec<Due> {
        let covered = self.covered;
        let due = self.waiting.values_mut().filter(|item| item.may_go(covered) && item.not_before_us <= now_us);
        due.take(count)
            .map(|item| {
                item.busy = true;
                item.due
            })
            .collect()
    }

    /// The vault has it, as it should be; the log is yet to say so.
    pub(super) fn done(&mut self, key: Key) {
        if let Some(item) = self.waiting.remove(&key) {
            self.untold.insert(key, item.index);
        }
    }

    /// It did not work; it is due again after a while that grows, spread by `dice` so that a thousand do not come at once.
    pub(super) fn failed(&mut self, key: Key, now_us: u64, dice: u64) {
        let Some(item) = self.waiting.get_mut(&key) else { return };
        item.busy = false;
        item.due.fresh = false;
        let wait_us = WAIT_MIN_US.checked_shl(item.due.tries).unwrap_or(WAIT_MAX_US).min(WAIT_MAX_US);
        item.due.tries = item.due.tries.saturating_add(1).min(16);
        item.not_before_us = now_us.saturating_add(wait_us / 2).saturating_add(dice % wait_us.max(1) / 2);
    }

    /// Asks again for one that was thought to be done.
    pub(super) fn again(&mut self, due: Due, logged_us: u64, now_us: u64) {
        let index = self.next;
        let due = Due { fresh: false, ..due };
        let item = Item { due, index, named_at: 0, logged_us, not_before_us: now_us, busy: false };
        self.waiting.entry(due.key).or_insert(item);
    }

    /// When the next one is due, by the boot-time clock.
    pub(super) fn next_due_us(&self) -> Option<u64> {
        let due = self.waiting.values().filter(|item| item.may_go(self.covered));
        due.map(|item| item.not_before_us).min()
    }

    /// Where a later start may begin to read the log: at the first OPEN of a session that is not over and done with.
    pub(super) fn low_mark(&self) -> u64 {
        let opened = self.open.values().map(|(index, _)| *index);
        let waiting = self.waiting.values().map(|item| item.index);
        opened.chain(waiting).chain(self.untold.values().copied()).min().unwrap_or(self.next)
    }

    /// Returns how much waits.
    pub(super) fn waiting(&self) -> Waiting {
        let items = self.waiting.values();
        Waiting {
            segments: self.waiting.len() as u64,
            bytes: items.clone().map(|item| item.due.bytes).sum(),
            oldest_us: items.map(|item| item.logged_us).min(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::samples::{self, close, segment, stored};

    const FIRST: SessionId = SessionId([1; 16]);
    const SECOND: SessionId = SessionId([2; 16]);

    fn open(session: SessionId) -> Leaf {
        samples::open(session, 0)
    }

    fn read(leaves: &[Leaf]) -> Backlog {
        let mut backlog = Backlog::new("basel".into(), 0);
        backlog.cover(u64::MAX);
        leaves.iter().zip(0..).for_each(|(leaf, index)| backlog.leaf(index, leaf, true));
        backlog
    }

    #[test]
    fn what_the_log_does_not_call_stored_here_waits() {
        let mut backlog = read(&[
            open(FIRST),
            segment(FIRST, 0),
            open(SECOND),
            segment(SECOND, 0),
            stored(SECOND, "elsewhere"),
            stored(FIRST, "basel"),
        ]);
        assert_eq!(backlog.waiting(), Waiting { segments: 1, bytes: 10, oldest_us: Some(5) });
        let due = backlog.take(0, 9);
        assert_eq!(
            due.iter().map(|due| (due.key, due.retain_until_us, due.fresh)).collect::<Vec<_>>(),
            [((SECOND, 0), 77, false)]
        );
        assert!(backlog.take(u64::MAX, 9).is_empty(), "somebody is at it");
        backlog.done((SECOND, 0));
        assert_eq!(backlog.waiting().segments, 0);
    }

    #[test]
    fn a_later_start_that_reads_from_the_mark_finds_the_same() {
        let leaves = [
            open(FIRST),
            segment(FIRST, 0),
            close(FIRST),
            open(SECOND),
            segment(SECOND, 0),
            stored(FIRST, "basel"),
            segment(SECOND, 1),
            close(SECOND),
        ];
        for end in 0..=leaves.len() {
            let whole = read(&leaves[..end]);
            let mark = whole.low_mark();
            let mut again = Backlog::new("basel".into(), mark);
            again.cover(u64::MAX);
            (mark..end as u64).for_each(|index| again.leaf(index, &leaves[index as usize], true));
            assert_eq!(again.waiting(), whole.waiting(), "{end}");
            assert_eq!((again.next(), again.low_mark()), (whole.next(), mark), "{end}");
            let (mut one, mut other) = (whole, again);
            assert_eq!(one.take(0, 9), other.take(0, 9), "{end}");
        }
    }

    #[test]
    fn what_got_there_is_left_to_a_later_start_until_the_log_says_that_it_did() {
        let mut backlog = read(&[open(FIRST), segment(FIRST, 0), close(FIRST), open(SECOND), close(SECOND)]);
        backlog.take(0, 9);
        backlog.done((FIRST, 0));
        assert_eq!((backlog.waiting().segments, backlog.low_mark()), (0, 0));
        backlog.leaf(5, &stored(FIRST, "elsewhere"), false);
        assert_eq!(backlog.low_mark(), 0);
        backlog.leaf(6, &stored(FIRST, "basel"), false);
        assert_eq!(backlog.low_mark(), 7);
    }

    #[test]
    fn a_segment_of_this_start_waits_until_it_can_be_taken() {
        let mut backlog = Backlog::new("basel".into(), 0);
        backlog.leaf(0, &open(FIRST), false);
        backlog.leaf(1, &segment(FIRST, 0), false);
        backlog.cover(2);
        assert!(backlog.take(u64::MAX - 1, 9).is_empty());
        backlog.published((FIRST, 0));
        assert!(backlog.take(0, 9)[0].fresh);
    }

    #[test]
    fn a_segment_goes_behind_the_checkpoint_that_names_it() {
        for earlier in [true, false] {
            let mut backlog = Backlog::new("basel".into(), 0);
            backlog.leaf(0, &open(FIRST), earlier);
            backlog.leaf(1, &segment(FIRST, 0), earlier);
            assert_eq!(backlog.waits_for_checkpoint(), earlier, "this start's is not here yet");
            backlog.published((FIRST, 0));
            backlog.cover(1);
            assert!(backlog.take(0, 9).is_empty() && backlog.next_due_us().is_none());
            assert!(backlog.waits_for_checkpoint());
            backlog.cover(2);
            assert!(!backlog.waits_for_checkpoint());
            backlog.cover(1);
            assert_eq!(backlog.take(0, 9).len(), 1, "a log does not shrink");
        }
    }

    #[test]
    fn waits_grow_to_a_minute_and_one_that_fails_holds_nobody_up() {
        let mut backlog = read(&[open(FIRST), segment(FIRST, 0), segment(FIRST, 1)]);
        let mut now_us = 0;
        for round in 0..40 {
            let due = backlog.take(now_us, 1);
            assert_eq!(due.len(), 1);
            assert!(!due[0].fresh);
            backlog.failed((FIRST, 0), now_us, round * 7_919);
            let next_us = backlog.waiting[&(FIRST, 0)].not_before_us;
            assert!((WAIT_MIN_US / 2..=WAIT_MAX_US).contains(&(next_us - now_us)), "{round}");
            if round == 0 {
                assert_eq!(backlog.take(now_us, 9)[0].key, (FIRST, 1));
                backlog.done((FIRST, 1));
            }
            now_us = next_us;
        }
    }
}
