//! Tokens: what somebody who is known by SSH types as a password for a database, for a while.
//!
//! A token belongs to one person and one target, has to be used within ten minutes, and from then on works from the address
//! that used it first. Kept in memory only, as what proves it and never as itself. Time comes in as an argument; knows no
//! protocol but that passwords are proved by SCRAM.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::pg::auth::scram::{ITERATIONS, SALT_LEN, Verifier};

/// How long a token waits for its first use.
pub const FIRST_USE: Duration = Duration::from_secs(600);

/// Tokens of one person for one target; one more pushes the oldest out. Each login costs as many comparisons, whoever it is.
const EACH_MAX: usize = 8;

/// Random bytes of a token: more than anybody guesses, and as many as fit 32 characters.
const TOKEN_LEN: usize = 20;

/// The letters of a token: no two that look alike, none that a shell or a URI takes for something else.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// All tokens of the node.
pub struct Tokens {
    /// Makes the salts: the same for a name whether it has tokens or not.
    secret: Zeroizing<[u8; 32]>,
    /// Compared with where there is no token, so that it takes as long.
    nobodys: Verifier,
    all: Mutex<HashMap<Owner, Vec<Token>>>,
}

/// A person and a target's name.
type Owner = (String, String);

struct Token {
    verifier: Verifier,
    fingerprint: String,
    made: Instant,
    ends: Instant,
    /// Where it was used first.
    bound: Option<IpAddr>,
}

impl Token {
    fn is_live(&self, now: Instant) -> bool {
        now < self.ends && (self.bound.is_some() || now.duration_since(self.made) < FIRST_USE)
    }
}

/// A token that somebody proved to hold. Made only by [`Tokens::redeem`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redeemed {
    person: String,
    fingerprint: String,
}

impl Redeemed {
    /// Whose token it is.
    pub fn person(&self) -> &str {
        &self.person
    }

    /// The key that its owner had proved when it was made.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Tokens {
    /// Starts without any.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new() -> Result<Self, getrandom::Error> {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(secret.as_mut())?;
        let nobodys = Verifier::of(secret.as_ref(), [0; SALT_LEN], ITERATIONS);
        Ok(Self { secret, nobodys, all: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Owner, Vec<Token>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the salt of whoever that is.
    pub fn salt(&self, person: &str, target: &str) -> [u8; SALT_LEN] {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(person.as_bytes()).update(&[0]).update(target.as_bytes());
        let mut salt = [0; SALT_LEN];
        hasher.finalize_xof().fill(&mut salt);
        salt
    }

    /// Makes a token for a person and a target; `fingerprint` is that of the key which the person proved. Costs a few
    /// milliseconds.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn make(
        &self,
        person: &str,
        target: &str,
        fingerprint: &str,
        lifetime: Duration,
        now: Instant,
    ) -> Result<Zeroizing<String>, getrandom::Error> {
        let mut random = Zeroizing::new([0; TOKEN_LEN * 8 / 5]);
        getrandom::fill(random.as_mut())?;
        // 32 letters: five bits of each byte, and none more likely than another.
        let letter = |byte: &u8| LETTERS.get(usize::from(byte & 31)).map_or('a', |letter| char::from(*letter));
        let text = Zeroizing::new(random.iter().map(letter).collect::<String>());
        let verifier = Verifier::of(text.as_bytes(), self.salt(person, target), ITERATIONS);
        let token =
            Token { verifier, fingerprint: fingerprint.to_owned(), made: now, ends: now + lifetime, bound: None };
        let mut all = self.lock();
        all.retain(|_, tokens| {
            tokens.retain(|token| token.is_live(now));
            !tokens.is_empty()
        });
        let tokens = all.entry((person.to_owned(), target.to_owned())).or_default();
        if tokens.len() >= EACH_MAX {
            tokens.remove(0);
        }
        tokens.push(token);
        Ok(text)
    }

    /// Finds the token that `proves` is about, which is asked for each that could be meant, whichever of them it says yes to.
    /// What it says yes to is bound to the address from then on.
    pub fn redeem<T>(
        &self,
        person: &str,
        target: &str,
        source: IpAddr,
        now: Instant,
        mut proves: impl FnMut(&Verifier) -> Option<T>,
    ) -> Option<(Redeemed, T)> {
        let source = source.to_canonical();
        let mut all = self.lock();
        let mut found = None;
        let mut tokens = all.get_mut(&(person.to_owned(), target.to_owned())).into_iter().flatten();
        for _ in 0..EACH_MAX {
            let Some(token) = tokens.next() else {
                proves(&self.nobodys);
                continue;
            };
            let usable = token.is_live(now) && token.bound.is_none_or(|bound| bound == source);
            if let (Some(proof), true) = (proves(&token.verifier), usable) {
                token.bound = Some(source);
                let redeemed = Redeemed { person: person.to_owned(), fingerprint: token.fingerprint.clone() };
                found = found.or(Some((redeemed, proof)));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const AWAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9));

    fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(minutes * 60)
    }

    /// Whether the token would open the target from there.
    fn opens(tokens: &Tokens, text: &str, target: &str, source: IpAddr, now: Instant) -> bool {
        let salt = tokens.salt("alice", target);
        let same = |verifier: &Verifier| (*verifier == Verifier::of(text.as_bytes(), salt, ITERATIONS)).then_some(());
        tokens.redeem("alice", target, source, now, same).is_some()
    }

    #[test]
    fn a_token_is_used_within_ten_minutes_or_never() {
        let (tokens, now) = (Tokens::new().unwrap(), Instant::now());
        let make = || tokens.make("alice", "orders", "SHA256:x", minutes(60), now).unwrap();
        let (used, unused) = (make(), make());
        assert_ne!(*used, *unused);
        assert!(opens(&tokens, &used, "orders", HOME, now + minutes(9)));
        assert!(opens(&tokens, &used, "orders", HOME, now + minutes(59)));
        assert!(!opens(&tokens, &used, "orders", HOME, now + minutes(60)), "over");
        assert!(!opens(&tokens, &unused, "orders", HOME, now + minutes(10)));
    }

    #[test]
    fn a_token_works_for_one_target_and_from_one_address() {
        let (tokens, now) = (Tokens::new().unwrap(), Instant::now());
        let token = tokens.make("alice", "orders", "SHA256:x", minutes(60), now).unwrap();
        assert!(!opens(&tokens, &token, "stock", HOME, now));
        assert!(!opens(&tokens, "wrong", "orders", AWAY, now), "a wrong one binds nothing");
        assert!(opens(&tokens, &token, "orders", HOME, now));
        assert!(!opens(&tokens, &token, "orders", AWAY, now));
        assert!(opens(&tokens, &token, "orders", "::ffff:127.0.0.1".parse().unwrap(), now), "the same address");
    }

    #[test]
    fn as_many_comparisons_are_made_for_nobody() {
        let (tokens, now) = (Tokens::new().unwrap(), Instant::now());
        for count in [0, 1, 20] {
            (0..count).for_each(|_| drop(tokens.make("alice", "orders", "SHA256:x", minutes(60), now)));
            let mut asked = 0;
            for person in ["alice", "nobody"] {
                let counted = |_: &Verifier| -> Option<()> {
                    asked += 1;
                    None
                };
                assert!(tokens.redeem(person, "orders", HOME, now, counted).is_none());
            }
            assert_eq!(asked, 2 * EACH_MAX, "{count}");
        }
        assert_ne!(tokens.salt("alice", "orders"), tokens.salt("nobody", "orders"));
        assert_eq!(tokens.salt("nobody", "orders"), tokens.salt("nobody", "orders"));
    }

    #[test]
    fn one_more_pushes_the_oldest_out() {
        let (tokens, now) = (Tokens::new().unwrap(), Instant::now());
        let made: Vec<_> =
            (0..=EACH_MAX).map(|_| tokens.make("alice", "orders", "SHA256:x", minutes(60), now).unwrap()).collect();
        let open: Vec<bool> = made.iter().map(|token| opens(&tokens, token, "orders", HOME, now)).collect();
        assert_eq!(open.iter().position(|open| *open), Some(1));
        assert_eq!(open.iter().filter(|open| **open).count(), EACH_MAX);
    }
}
