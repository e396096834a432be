//! Things that are kept under the number of a message until somebody asks for them, as many as fit.

use std::collections::{BTreeMap, HashMap};

/// What is kept, with its length in bytes and when it was last asked for.
#[derive(Debug)]
struct Place<T> {
    value: T,
    len: usize,
    used: u64,
}

/// Things by number. Where there is no more room, what was not asked for the longest goes.
#[derive(Debug)]
pub(super) struct Kept<T> {
    places: HashMap<u64, Place<T>>,
    /// Numbers in the order in which they were last asked for.
    order: BTreeMap<u64, u64>,
    clock: u64,
    len: usize,
    max: usize,
}

/// About what a thing costs beside its bytes.
const PLACE_COST: usize = 160;

impl<T> Kept<T> {
    /// Keeps at most `max` bytes.
    pub(super) fn new(max: usize) -> Self {
        Self { places: HashMap::new(), order: BTreeMap::new(), clock: 0, len: 0, max }
    }

    pub(super) fn put(&mut self, number: u64, value: T, len: usize) {
        let len = len + PLACE_COST;
        self.forget(number);
        self.clock += 1;
        self.len += len;
        self.order.insert(self.clock, number);
        self.places.insert(number, Place { value, len, used: self.clock });
        while self.len > self.max
            && let Some((_, oldest)) = self.order.first_key_value()
        {
            self.forget(*oldest);
        }
    }

    fn forget(&mut self, number: u64) {
        if let Some(place) = self.places.remove(&number) {
            self.order.remove(&place.used);
            self.len -= place.len;
        }
    }

    /// Returns what is kept under a number, and keeps it for longer.
    pub(super) fn get(&mut self, number: u64) -> Option<&T> {
        let place = self.places.get_mut(&number)?;
        self.order.remove(&place.used);
        self.clock += 1;
        place.used = self.clock;
        self.order.insert(self.clock, number);
        Some(&place.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_asked_for_goes_first() {
        let mut kept = Kept::new(3 * (PLACE_COST + 10));
        (0..3).for_each(|number| kept.put(number, number, 10));
        assert_eq!(kept.get(0), Some(&0));
        kept.put(3, 3, 10);
        assert_eq!([0, 1, 2, 3].map(|number| kept.get(number).copied()), [Some(0), None, Some(2), Some(3)]);
        kept.put(4, 4, 10_000);
        assert!(kept.get(4).is_none() && kept.len == 0 && kept.order.is_empty(), "longer than everything");
    }
}
