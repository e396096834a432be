//! Counting who uses what: connections by source, sessions by person, refusals by time.
//!
//! Arithmetic behind a lock. Time comes in as an argument; knows no socket and no policy.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Where connections come from, as far as they are counted together: an IPv4 address, or an IPv6 /64, which is what
/// one customer gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Source(IpAddr);

impl Source {
    pub(super) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        })
    }
}

/// How many may be out at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caps {
    /// Of one key.
    pub(super) each: usize,
    /// Of all keys.
    pub(super) all: usize,
}

/// Counts permits by key.
#[derive(Debug)]
pub(super) struct Counter<K>(Arc<Mutex<Counts<K>>>);

#[derive(Debug)]
struct Counts<K> {
    each: HashMap<K, usize>,
    all: usize,
}

impl<K> Default for Counter<K> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Counts { each: HashMap::new(), all: 0 })))
    }
}

fn lock<K>(counts: &Mutex<Counts<K>>) -> MutexGuard<'_, Counts<K>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Clone + Eq + Hash> Counter<K> {
    /// Gives a permit unless that would exceed a cap.
    pub(super) fn take(&self, key: K, caps: Caps) -> Option<Permit<K>> {
        let mut counts = lock(&self.0);
        let mine = counts.each.get(&key).copied().unwrap_or_default();
        if mine >= caps.each || counts.all >= caps.all {
            return None;
        }
        counts.all += 1;
        counts.each.insert(key.clone(), mine + 1);
        Some(Permit { counts: Arc::clone(&self.0), key })
    }

    /// Returns how many permits are out.
    pub(super) fn total(&self) -> usize {
        lock(&self.0).all
    }
}

/// One of what is counted, until it is dropped.
#[derive(Debug)]
pub(super) struct Permit<K: Eq + Hash> {
    counts: Arc<Mutex<Counts<K>>>,
    key: K,
}

impl<K: Eq + Hash> Drop for Permit<K> {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        counts.all = counts.all.saturating_sub(1);
        if let Some(mine) = counts.each.get_mut(&self.key) {
            *mine -= 1;
            // A key that is never seen again must not stay.
            if *mine == 0 {
                counts.each.remove(&self.key);
            }
        }
    }
}

/// Connections that have not logged in, in the order in which they came.
///
/// Full, it makes room by letting the oldest go: those who want to log in do so in a moment, and a lobby full of people
/// who wait for nothing must not keep the next one out.
#[derive(Debug)]
pub(super) struct Lobby<K, T>(Arc<Mutex<Waiting<K, T>>>);

#[derive(Debug)]
struct Waiting<K, T> {
    each: HashMap<K, usize>,
    all: BTreeMap<u64, (K, T)>,
    next: u64,
}

impl<K, T> Default for Lobby<K, T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Waiting { each: HashMap::new(), all: BTreeMap::new(), next: 0 })))
    }
}

/// A place in the lobby, until it is dropped.
#[derive(Debug)]
pub(super) struct Place<K: Copy + Eq + Hash, T> {
    lobby: Arc<Mutex<Waiting<K, T>>>,
    number: u64,
}

impl<K: Copy + Eq + Hash, T> Lobby<K, T> {
    /// Gives a place unless the key has as many as it may. Where all are taken, the oldest is taken back, and what it was
    /// entered with is returned too.
    pub(super) fn enter(&self, key: K, handle: T, caps: Caps) -> Option<(Place<K, T>, Option<T>)> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.each.get(&key).copied().unwrap_or_default() >= caps.each {
            return None;
        }
        let oldest =
            if waiting.all.len() >= caps.all { waiting.all.first_key_value().map(|(at, _)| *at) } else { None };
        let out = oldest.and_then(|number| waiting.remove(number)).map(|(_, handle)| handle);
        let number = waiting.next;
        waiting.next += 1;
        *waiting.each.entry(key).or_default() += 1;
        waiting.all.insert(number, (key, handle));
        Some((Place { lobby: Arc::clone(&self.0), number }, out))
    }
}

impl<K: Copy + Eq + Hash, T> Waiting<K, T> {
    fn remove(&mut self, number: u64) -> Option<(K, T)> {
        let (key, handle) = self.all.remove(&number)?;
        if let Some(mine) = self.each.get_mut(&key) {
            *mine -= 1;
            // A key that is never seen again must not stay.
            if *mine == 0 {
                self.each.remove(&key);
            }
        }
        Some((key, handle))
    }
}

impl<K: Copy + Eq + Hash, T> Drop for Place<K, T> {
    fn drop(&mut self) {
        // Gone already where room was needed.
        self.lobby.lock().unwrap_or_else(PoisonError::into_inner).remove(self.number);
    }
}

/// A token bucket that counts what it holds back.
#[derive(Debug)]
pub(super) struct Throttle {
    burst: u32,
    per_second: u32,
    /// In thousandths, so that slow rates fill too.
    tokens: u64,
    at: Instant,
    skipped: u64,
}

impl Throttle {
    /// Starts full at `now`.
    pub(super) fn new(burst: u32, per_second: u32, now: Instant) -> Self {
        Self { burst, per_second, tokens: u64::from(burst) * 1000, at: now, skipped: 0 }
    }

    /// Returns how many were held back since the last that passed.
    pub(super) fn held_back(&self) -> u64 {
        self.skipped
    }

    /// Lets one pass, with how many were held back since the last, or holds it back.
    pub(super) fn pass(&mut self, now: Instant) -> Option<u64> {
        let millis = u64::try_from(now.saturating_duration_since(self.at).as_millis()).unwrap_or(u64::MAX);
        if millis > 0 {
            self.at = now;
            let filled = millis.saturating_mul(self.per_second.into());
            self.tokens = self.tokens.saturating_add(filled).min(u64::from(self.burst) * 1000);
        }
        if self.tokens < 1000 {
            self.skipped += 1;
            return None;
        }
        self.tokens -= 1000;
        Some(std::mem::take(&mut self.skipped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn permits_end_at_either_cap_and_come_back() {
        let counter = Counter::default();
        let caps = Caps { each: 2, all: 3 };
        let first = counter.take("a", caps).unwrap();
        let _second = counter.take("a", caps).unwrap();
        assert!(counter.take("a", caps).is_none());
        let _third = counter.take("b", caps).unwrap();
        assert!(counter.take("c", caps).is_none());
        assert_eq!(counter.total(), 3);
        drop(first);
        assert!(counter.take("c", caps).is_some());
        assert_eq!(lock(&counter.0).each.len(), 2, "a key without permits is forgotten");
    }

    #[test]
    fn a_full_lobby_lets_the_oldest_go_and_no_source_fills_it_alone() {
        let lobby = Lobby::default();
        let caps = Caps { each: 2, all: 3 };
        let (first, _) = lobby.enter("a", 1, caps).unwrap();
        let (_second, _) = lobby.enter("a", 2, caps).unwrap();
        assert!(lobby.enter("a", 3, caps).is_none(), "one source has its share");
        let (third, out) = lobby.enter("b", 4, caps).unwrap();
        assert_eq!(out, None);
        let (_fourth, out) = lobby.enter("c", 5, caps).unwrap();
        assert_eq!(out, Some(1), "the oldest makes room");
        drop(first);
        let (_fifth, out) = lobby.enter("a", 6, caps).unwrap();
        assert_eq!(out, Some(2), "a place that was taken back counts for nobody");
        drop(third);
        assert_eq!(lobby.enter("d", 7, caps).unwrap().1, None);
        let waiting = lobby.0.lock().unwrap();
        assert_eq!(waiting.each.values().sum::<usize>(), waiting.all.len());
        assert!(!waiting.each.contains_key("b"), "a key without places is forgotten");
    }

    #[test]
    fn an_ipv6_network_is_one_source_and_a_mapped_address_is_ipv4() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::2:3"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn a_flood_is_counted_and_the_count_comes_with_the_next_that_passes() {
        let start = Instant::now();
        let mut throttle = Throttle::new(2, 1, start);
        assert_eq!(throttle.pass(start), Some(0));
        assert_eq!(throttle.pass(start), Some(0));
        for held_back in 1..=5 {
            assert_eq!((throttle.pass(start), throttle.held_back()), (None, held_back));
        }
        assert_eq!(throttle.pass(start + Duration::from_millis(999)), None);
        assert_eq!(throttle.pass(start + Duration::from_secs(1)), Some(6));
        assert_eq!(throttle.pass(start + Duration::from_secs(60)), Some(0));
    }
}
