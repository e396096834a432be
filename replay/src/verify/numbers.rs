//! Which numbers were given to events: each once, over all lanes of a session and all its segments, in whatever order they are read.

use std::collections::BTreeMap;

/// A set of numbers, as the runs that it consists of. Lanes fill each other's holes, so that few runs are left soon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    /// The last number of each run, by its first.
    runs: BTreeMap<u64, u64>,
}

impl Numbers {
    /// Takes a number; false where it was given before.
    pub(super) fn take(&mut self, number: u64) -> bool {
        self.take_run(number, number)
    }

    /// Takes those of another set; false where one of them was given before.
    pub(super) fn merge(&mut self, other: &Self) -> bool {
        other.runs.iter().all(|(first, last)| self.take_run(*first, *last))
    }

    /// Returns the first number that was not given.
    pub(super) fn first_hole(&self) -> u64 {
        self.runs.get(&0).map_or(0, |last| last.saturating_add(1))
    }

    /// Whether no number is left out up to the highest.
    pub(super) fn is_dense(&self) -> bool {
        self.runs.len() <= usize::from(self.runs.contains_key(&0))
    }

    fn take_run(&mut self, mut first: u64, mut last: u64) -> bool {
        let before = self.runs.range(..=last).next_back().map(|(first, last)| (*first, *last));
        if let Some((begin, end)) = before {
            if end >= first {
                return false;
            }
            if end.checked_add(1) == Some(first) {
                self.runs.remove(&begin);
                first = begin;
            }
        }
        if let Some(end) = last.checked_add(1).and_then(|next| self.runs.remove(&next)) {
            last = end;
        }
        self.runs.insert(first, last);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(numbers: &[u64]) -> Numbers {
        let mut made = Numbers::default();
        assert!(numbers.iter().all(|number| made.take(*number)), "{numbers:?}");
        made
    }

    #[test]
    fn numbers_are_dense_in_any_order_and_given_once() {
        for numbers in [&[][..], &[0], &[0, 1, 2], &[2, 1, 0], &[1, 3, 0, 2], &[4, 0, 2, 3, 1]] {
            let made = of(numbers);
            assert!(made.is_dense(), "{numbers:?}");
            assert_eq!(made.first_hole(), numbers.len() as u64);
            assert!(numbers.iter().all(|number| !made.clone().take(*number)), "{numbers:?}");
        }
        for (numbers, hole) in [(&[1][..], 0), (&[0, 2], 1), (&[0, 1, 5, 6], 2), (&[u64::MAX], 0)] {
            let made = of(numbers);
            assert!(!made.is_dense() && made.first_hole() == hole, "{numbers:?}");
        }
    }

    #[test]
    fn sets_are_put_together() {
        let mut one = of(&[0, 1, 4]);
        assert!(one.merge(&of(&[2, 3, 5])) && one.is_dense() && one.first_hole() == 6);
        assert!(!one.merge(&of(&[6, 3])));
    }
}
