//! Cancel requests: who may stop what a session does, with a key that is ours and never the target's.
//!
//! A request comes on a connection of its own and proves nothing but that somebody was told a process number and a key. So keys
//! are random, looked up without a hint in the time it takes, tied to the address of their session, and asked for a few times a
//! second at most. Knows no socket; time comes in as an argument.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use zeroize::Zeroizing;

use super::startup::{CancelRequest, VERSION_3_2};

/// Requests of one source (IPv4 /24, IPv6 /64) in a burst, and per second after it: a person who presses Ctrl-C, and a pool that
/// gives up on many statements at once.
const BURST: f64 = 20.0;
const PER_SECOND: f64 = 10.0;

/// Sources that are counted at once. A new one beyond is not heard before another was quiet for two seconds.
const SOURCES_MAX: usize = 10_000;

/// Length of a key since protocol 3.2: what PostgreSQL 18 gives, with room below 256 for proxies in front of this one.
const LONG_KEY_LEN: usize = 32;

/// What the first byte of a long key says: how the rest is to be read.
const LONG_KEY_VERSION: u8 = 1;

/// All keys that are good now. `S` is what a session does about a request.
pub struct Cancels<S> {
    /// Keys a hash of what was told: whoever sends guesses learns nothing from how long a look-up takes.
    secret: Zeroizing<[u8; 32]>,
    /// Number of the node, in long keys: another node can tell whose they are.
    node: u16,
    all: Mutex<HashMap<Place, Known<S>>>,
    sources: Mutex<HashMap<IpAddr, Bucket>>,
}

/// A keyed hash of a process number and a key.
type Place = [u8; 32];

/// The address that a key was given to, and what it stops.
type Known<S> = (IpAddr, Weak<S>);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

/// A key, good until it is dropped.
pub struct Key<S> {
    cancels: Arc<Cancels<S>>,
    place: Place,
    session: Weak<S>,
    told: Bytes,
}

impl<S> Key<S> {
    /// What the client is told.
    pub fn told(&self) -> &Bytes {
        &self.told
    }
}

impl<S> Drop for Key<S> {
    fn drop(&mut self) {
        let mut all = lock(&self.cancels.all);
        // Another session may have been given the same four bytes.
        if all.get(&self.place).is_some_and(|(_, session)| session.ptr_eq(&self.session)) {
            all.remove(&self.place);
        }
    }
}

/// What comes of a request.
pub enum Found<S> {
    /// That session is meant.
    Session(Arc<S>),
    /// None is, or one of another address.
    Nobody,
    /// Too many came from there: this one was not looked up.
    TooMany,
}

impl<S> fmt::Debug for Cancels<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancels").field("node", &self.node).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S> Cancels<S> {
    /// Starts without any key.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new(node: u16) -> Result<Self, getrandom::Error> {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(secret.as_mut())?;
        Ok(Self { secret, node, all: Mutex::default(), sources: Mutex::default() })
    }

    /// Makes the key of a session whose client speaks that version and comes from that address. The process number is the
    /// target's own, which programs compare with `pg_backend_pid()`.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn issue(
        self: &Arc<Self>,
        pid: u32,
        version: u32,
        source: IpAddr,
        session: &Arc<S>,
    ) -> Result<Key<S>, getrandom::Error> {
        let told = if version >= VERSION_3_2 {
            let mut key = BytesMut::with_capacity(LONG_KEY_LEN);
            key.put_u8(LONG_KEY_VERSION);
            key.put_u16(self.node);
            let mut random = [0; LONG_KEY_LEN - 3];
            getrandom::fill(&mut random)?;
            key.put_slice(&random);
            key.freeze()
        } else {
            // Four bytes are all there are. None is spent on the node: the address and the pace protect them as it is.
            let mut random = [0; 4];
            getrandom::fill(&mut random)?;
            Bytes::copy_from_slice(&random)
        };
        let place = self.place(pid, &told);
        // Two targets may have a process of the same number, and four bytes may fall twice: the later session gets the key.
        let session = Arc::downgrade(session);
        lock(&self.all).insert(place, (source.to_canonical(), Weak::clone(&session)));
        Ok(Key { cancels: Arc::clone(self), place, session, told })
    }

    /// Looks a request up that came from `source`.
    pub fn find(&self, request: &CancelRequest, source: IpAddr, now: Instant) -> Found<S> {
        if !self.passes(source, now) {
            return Found::TooMany;
        }
        let place = self.place(request.pid, &request.key);
        let known = lock(&self.all).get(&place).cloned();
        match known.and_then(|(home, session)| (home == source.to_canonical()).then(|| session.upgrade()).flatten()) {
            Some(session) => Found::Session(session),
            None => Found::Nobody,
        }
    }

    fn place(&self, pid: u32, key: &[u8]) -> Place {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(&pid.to_be_bytes()).update(key);
        *hasher.finalize().as_bytes()
    }

    fn passes(&self, source: IpAddr, now: Instant) -> bool {
        let mut sources = lock(&self.sources);
        let quiet = Duration::from_secs_f64(BURST / PER_SECOND);
        if sources.len() >= SOURCES_MAX {
            // A bucket that is full again says nothing that a new one would not.
            sources.retain(|_, bucket| now.saturating_duration_since(bucket.at) < quiet);
        }
        if sources.len() >= SOURCES_MAX {
            return false;
        }
        let bucket = sources.entry(network(source)).or_insert(Bucket { left: BURST, at: now });
        let since = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.left = (bucket.left + since * PER_SECOND).min(BURST);
        bucket.at = now;
        if bucket.left < 1.0 {
            return false;
        }
        bucket.left -= 1.0;
        true
    }
}

/// The addresses that are counted together.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & 0xffff_ff00).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::startup::VERSION_3_0;
    use super::*;

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn cancels() -> Arc<Cancels<u32>> {
        Arc::new(Cancels::new(0xbeef).unwrap())
    }

    fn find(cancels: &Cancels<u32>, pid: u32, key: &[u8], source: IpAddr, now: Instant) -> Option<u32> {
        match cancels.find(&CancelRequest { pid, key: Bytes::copy_from_slice(key) }, source, now) {
            Found::Session(session) => Some(*session),
            Found::Nobody | Found::TooMany => None,
        }
    }

    #[test]
    fn a_key_is_good_for_its_process_and_its_address_while_the_session_lives() {
        let (cancels, session, now) = (cancels(), Arc::new(7), Instant::now());
        for (version, len) in [(VERSION_3_0, 4), (VERSION_3_2, LONG_KEY_LEN)] {
            let key = cancels.issue(41, version, HOME, &session).unwrap();
            let told = key.told().clone();
            assert_eq!(told.len(), len);
            assert_eq!(find(&cancels, 41, &told, HOME, now), Some(7));
            assert_eq!(find(&cancels, 42, &told, HOME, now), None);
            assert_eq!(find(&cancels, 41, &told[1..], HOME, now), None);
            assert_eq!(find(&cancels, 41, &told, "192.0.2.1".parse().unwrap(), now), None);
            drop(key);
            assert_eq!(find(&cancels, 41, &told, HOME, now), None);
        }
        assert!(lock(&cancels.all).is_empty());
    }

    #[test]
    fn a_long_key_names_its_node() {
        let (cancels, session) = (cancels(), Arc::new(1));
        let key = cancels.issue(41, VERSION_3_2, HOME, &session).unwrap();
        assert_eq!(&key.told()[..3], b"\x01\xbe\xef");
    }

    #[test]
    fn a_million_guesses_find_none_of_fifty_sessions() {
        let (cancels, session, mut now) = (cancels(), Arc::new(1), Instant::now());
        let keys: Vec<_> = (0..50).map(|pid| cancels.issue(pid, VERSION_3_2, HOME, &session).unwrap()).collect();
        let mut hits = 0;
        for guess in 0..1_000_000u32 {
            now += Duration::from_millis(100);
            let mut key = keys[guess as usize % 50].told().to_vec();
            key[3..7].copy_from_slice(&guess.to_be_bytes());
            hits += usize::from(find(&cancels, guess % 50, &key, HOME, now).is_some());
        }
        assert_eq!(hits, 0);
    }

    #[test]
    fn a_source_that_asks_too_often_waits_and_others_do_not() {
        let (cancels, session, now) = (cancels(), Arc::new(1), Instant::now());
        let key = cancels.issue(41, VERSION_3_0, HOME, &session).unwrap();
        let neighbour: IpAddr = "127.0.0.200".parse().unwrap();
        let found = (0..100).filter(|_| find(&cancels, 41, b"none", neighbour, now).is_none()).count();
        assert_eq!(found, 100);
        assert_eq!(find(&cancels, 41, key.told(), HOME, now), None, "counted with the network it belongs to");
        assert_eq!(find(&cancels, 41, key.told(), HOME, now + Duration::from_millis(150)), Some(1));
        let other = cancels.issue(42, VERSION_3_0, "192.0.2.1".parse().unwrap(), &session).unwrap();
        assert_eq!(find(&cancels, 42, other.told(), "192.0.2.1".parse().unwrap(), now), Some(1));
    }

    #[test]
    fn sources_are_forgotten_and_never_without_bound() {
        let (cancels, now) = (cancels(), Instant::now());
        for at in 0..2 * SOURCES_MAX as u128 {
            let source = Ipv6Addr::from_bits(at << 64).into();
            find(&cancels, 1, b"none", source, now);
        }
        assert_eq!(lock(&cancels.sources).len(), SOURCES_MAX);
        find(&cancels, 1, b"none", HOME, now + Duration::from_secs(3));
        assert_eq!(lock(&cancels.sources).len(), 1);
    }
}
