//! A password towards a target, and what SCRAM makes of it.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::pbkdf2;
use zeroize::Zeroizing;

use crate::pg::auth::scram::{Key, hmac_sha256, sha256};

/// A password towards a target. Has no `Debug`, and is wiped when the last holder drops it.
///
/// It remembers the keys of the last login: to make them takes milliseconds, and a target asks for the same ones until the
/// password is set anew there. They are worth no more than the password beside them, and go where it goes: whoever reads the
/// configuration again makes a new one of these, which remembers nothing.
#[derive(Clone)]
pub struct Password(Arc<Inner>);

struct Inner {
    text: Zeroizing<String>,
    remembered: Mutex<Option<Arc<Keys>>>,
}

impl Password {
    /// Takes the text of a password.
    pub fn new(text: Zeroizing<String>) -> Self {
        Self(Arc::new(Inner { text, remembered: Mutex::new(None) }))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// Returns the keys for what a target asks for, where they are remembered.
    pub(super) fn recall(&self, ask: &Ask) -> Option<Arc<Keys>> {
        self.remembered().as_ref().filter(|keys| keys.ask == *ask).map(Arc::clone)
    }

    /// Remembers keys that a target has proved to know as well. Others are not worth it: any target can ask for any.
    pub(super) fn remember(&self, keys: Arc<Keys>) {
        *self.remembered() = Some(keys);
    }

    fn remembered(&self) -> MutexGuard<'_, Option<Arc<Keys>>> {
        self.0.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a target wants the password hashed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) salt: Vec<u8>,
    pub(super) iterations: NonZeroU32,
}

/// The keys that a password becomes for one salt (RFC 5802 §3). No `Debug`: whoever has them can log in.
pub(super) struct Keys {
    ask: Ask,
    client_key: Key,
    stored_key: Key,
    server_key: Key,
}

impl Keys {
    /// Makes them. This is the slow part.
    pub(super) fn derive(password: &Password, ask: Ask) -> Self {
        let prepared = prepared(password.as_str());
        let mut salted = Key::default();
        let secret = prepared.as_bytes();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ask.iterations, &ask.salt, secret, &mut *salted);
        let client_key = hmac_sha256(&*salted, &[b"Client Key"]);
        Self { ask, stored_key: sha256(&*client_key), client_key, server_key: hmac_sha256(&*salted, &[b"Server Key"]) }
    }

    /// Returns what proves to a target that we know the password, for what both sides said.
    pub(super) fn proof(&self, said: &[u8]) -> [u8; 32] {
        let mut proof = *hmac_sha256(&*self.stored_key, &[said]);
        proof.iter_mut().zip(*self.client_key).for_each(|(signature, key)| *signature ^= key);
        proof
    }

    /// Returns what a target that knows the password signs what both sides said with.
    pub(super) fn server_signature(&self, said: &[u8]) -> Key {
        hmac_sha256(&*self.server_key, &[said])
    }
}

/// Prepares a password as PostgreSQL does: by SASLprep (RFC 4013) where that can be, and else as it is.
fn prepared(password: &str) -> Zeroizing<String> {
    Zeroizing::new(stringprep::saslprep(password).map_or_else(|_| password.to_owned(), Cow::into_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compared_is_what_saslprep_makes_of_it() {
        // RFC 4013 §3: a soft hyphen is nothing, and the ordinal indicator is the letter; a control character is not allowed,
        // and PostgreSQL takes it as it is.
        for (text, becomes) in [("I\u{ad}X", "IX"), ("\u{aa}", "a"), ("user", "user"), ("\u{7}", "\u{7}")] {
            assert_eq!(*prepared(text), becomes, "{text:?}");
        }
    }

    #[test]
    fn the_keys_of_another_salt_or_count_are_not_recalled() {
        let ask =
            |salt: &[u8], iterations| Ask { salt: salt.to_vec(), iterations: NonZeroU32::new(iterations).unwrap() };
        let password = Password::new(Zeroizing::new("s3cret".to_owned()));
        assert!(password.recall(&ask(b"salt", 2)).is_none());
        password.remember(Arc::new(Keys::derive(&password, ask(b"salt", 2))));
        assert!(password.clone().recall(&ask(b"salt", 2)).is_some());
        for other in [ask(b"salt", 3), ask(b"tlas", 2), ask(b"", 2)] {
            assert!(password.recall(&other).is_none());
        }
        password.remember(Arc::new(Keys::derive(&password, ask(b"tlas", 2))));
        assert!(password.recall(&ask(b"salt", 2)).is_none());
    }
}
