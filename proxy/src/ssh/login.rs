//! The login state of one connection: what was claimed, how often, and when it is enough.
//!
//! The library advertises methods without enforcing them, so the counting is here. An offered key is counted and shown
//! in the record, never kept as an identity: only a verified signature makes one, elsewhere.

use std::fmt;

/// How many tries a connection has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tries {
    /// Keys offered without proof.
    pub(crate) probes: u32,
    /// Failed proofs, and requests by other methods.
    pub(crate) attempts: u32,
}

/// Why a connection may not try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Exhausted {
    /// Too many keys were offered.
    #[error("too many keys offered")]
    Probes,
    /// Too many attempts failed.
    #[error("too many failed attempts")]
    Attempts,
}

/// What is known of a login that has not succeeded.
#[derive(Debug)]
pub(crate) struct Login {
    tries: Tries,
    /// The name that the counters of this claim belong to.
    claim: Option<Claim>,
    probes: u32,
    attempts: u32,
    names: u32,
}

#[derive(Debug)]
struct Claim {
    name: String,
    offered: Option<String>,
}

impl Login {
    /// Starts with nothing claimed.
    pub(crate) fn new(tries: Tries) -> Self {
        Self { tries, claim: None, probes: 0, attempts: 0, names: 0 }
    }

    /// Takes in the name of a request. Another name than before forgets everything that was claimed under the old one;
    /// the counters go on, or changing names would be a way round them.
    fn claim(&mut self, name: &str) -> &mut Claim {
        if self.claim.as_ref().is_none_or(|claim| claim.name != name) {
            self.names = self.names.saturating_add(1);
            self.claim = None;
        }
        self.claim.get_or_insert_with(|| Claim { name: name.to_owned(), offered: None })
    }

    /// Counts a key offered without proof.
    ///
    /// # Errors
    /// [`Exhausted`] when it was one too many.
    pub(crate) fn probe(&mut self, name: &str, fingerprint: String) -> Result<(), Exhausted> {
        self.claim(name).offered = Some(fingerprint);
        self.probes = self.probes.saturating_add(1);
        if self.probes > self.tries.probes { Err(Exhausted::Probes) } else { Ok(()) }
    }

    /// Counts a request that failed for good.
    ///
    /// # Errors
    /// [`Exhausted`] when it was the last that the limit allows.
    pub(crate) fn fail(&mut self, name: &str) -> Result<(), Exhausted> {
        self.claim(name);
        self.attempts = self.attempts.saturating_add(1);
        if self.attempts >= self.tries.attempts { Err(Exhausted::Attempts) } else { Ok(()) }
    }

    /// Notes the question for methods, which costs nothing.
    pub(crate) fn ask_methods(&mut self, name: &str) {
        self.claim(name);
    }

    /// The last name that was claimed, as it came, and the last key offered under it.
    pub(crate) fn last(&self) -> (Option<&str>, Option<&str>) {
        let claim = self.claim.as_ref();
        (claim.map(|claim| claim.name.as_str()), claim.and_then(|claim| claim.offered.as_deref()))
    }
}

impl fmt::Display for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { probes, attempts, names, .. } = self;
        write!(f, "{names} names, {probes} keys offered, {attempts} attempts failed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login() -> Login {
        Login::new(Tries { probes: 2, attempts: 2 })
    }

    #[test]
    fn the_probe_after_the_limit_is_one_too_many() {
        let mut login = login();
        assert_eq!(login.probe("alice+web1", "a".into()), Ok(()));
        assert_eq!(login.probe("alice+web1", "b".into()), Ok(()));
        assert_eq!(login.probe("alice+web1", "c".into()), Err(Exhausted::Probes));
        assert_eq!(login.last(), (Some("alice+web1"), Some("c")));
    }

    #[test]
    fn the_last_attempt_that_the_limit_allows_ends_it() {
        let mut login = login();
        assert_eq!(login.fail("alice"), Ok(()));
        assert_eq!(login.fail("alice"), Err(Exhausted::Attempts));
    }

    #[test]
    fn another_name_forgets_the_offer_but_not_the_count() {
        let mut login = login();
        login.probe("alice", "a".into()).unwrap();
        login.ask_methods("bob");
        assert_eq!(login.last(), (Some("bob"), None));
        login.probe("bob", "b".into()).unwrap();
        assert_eq!(login.probe("alice", "a".into()), Err(Exhausted::Probes));
        assert_eq!(login.to_string(), "3 names, 3 keys offered, 0 attempts failed");
    }
}
