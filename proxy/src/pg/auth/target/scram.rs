//! SCRAM towards a target, the side of the client (RFC 5802, RFC 7677): which of its mechanisms is taken, and the exchange.

use std::num::NonZeroU32;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

use super::password::{Ask, Keys, Password};
use super::{Channel, Reaching, Refused, Step, Waits, password_message};
use crate::pg::auth::scram::{BINDING_HEADER, NONCE_LEN, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, value};
use crate::pg::codec::Fields;

/// The most iterations that a target may ask for: 24 times PostgreSQL's default, some 30 ms. pgjdbc and tokio-postgres have the
/// same limit (RUSTSEC-2026-0179).
pub const ITERATIONS_MAX: u64 = 100_000;

/// A mechanism that was chosen and not yet begun.
pub(super) struct Chosen {
    mechanism: &'static str,
    /// What the login is bound to, which is what its first message begins with and what is behind that.
    binding: Vec<u8>,
    header_len: usize,
}

impl Chosen {
    /// Chooses among the mechanisms of an AuthenticationSASL; returns the choice and its name in pg_hba.conf.
    ///
    /// Where the target offers channel binding and there is TLS, it is used or there is no login. Where it does not offer it, it
    /// is told that we would have: a server whose offer was taken away on the wire ends the login then (RFC 5802 §6).
    pub(super) fn among(mut list: Fields<'_>, channel: &Channel) -> Result<(Self, &'static str), Refused> {
        let (mut offered, mut plain, mut plus) = (Vec::new(), false, false);
        loop {
            match list.text().ok_or(Refused::Malformed("AuthenticationSASL"))? {
                b"" => break,
                mechanism => {
                    plain |= mechanism == SCRAM_SHA_256.as_bytes();
                    plus |= mechanism == SCRAM_SHA_256_PLUS.as_bytes();
                    offered.push(String::from_utf8_lossy(mechanism));
                }
            }
        }
        let (mechanism, header, end_point) = match channel {
            Channel::Plain if plus => return Err(Refused::PlusWithoutTls),
            Channel::Tls { end_point: None, .. } if plus => return Err(Refused::Unbindable),
            Channel::Tls { end_point: Some(end_point), .. } if plus => {
                (SCRAM_SHA_256_PLUS, BINDING_HEADER, end_point.as_slice())
            }
            _ if !plain => return Err(Refused::Mechanisms(offered.join(" "))),
            // We could, and believe that the server cannot.
            Channel::Tls { end_point: Some(_), .. } => (SCRAM_SHA_256, &b"y,,"[..], &[][..]),
            Channel::Tls { end_point: None, .. } | Channel::Plain => (SCRAM_SHA_256, &b"n,,"[..], &[][..]),
        };
        let method = if mechanism == SCRAM_SHA_256_PLUS { "scram-sha-256-plus" } else { "scram-sha-256" };
        Ok((Self { mechanism, binding: [header, end_point].concat(), header_len: header.len() }, method))
    }

    /// Begins; returns the exchange and the SASLInitialResponse to send. The nonce must be random and never used before.
    pub(super) fn start(self, nonce: [u8; NONCE_LEN], password: Password) -> (Begun, Zeroizing<Vec<u8>>) {
        let nonce = BASE64_STANDARD.encode(nonce);
        // PostgreSQL knows the role already, and looks at no name here.
        let bare = format!("n=,r={nonce}");
        let header = self.binding.get(..self.header_len).unwrap_or_default();
        let len = u32::try_from(header.len() + bare.len()).unwrap_or(u32::MAX).to_be_bytes();
        let answer = password_message(&[self.mechanism.as_bytes(), &[0], &len, header, bare.as_bytes()]);
        (Begun { password, channel: BASE64_STANDARD.encode(self.binding), bare, nonce }, answer)
    }
}

/// An exchange that waits for the target's first message.
pub(super) struct Begun {
    password: Password,
    /// The attribute `c`.
    channel: String,
    /// Our first message without its header.
    bare: String,
    nonce: String,
}

impl Begun {
    /// Takes the target's first message.
    pub(super) fn first(self, message: &[u8]) -> Result<Due, Refused> {
        let scram = |text: &str| Refused::Scram(text.to_owned());
        let mut attributes = message.split(|byte| *byte == b',');
        let mut next = |letter| attributes.next().and_then(|next| value(next, letter));
        let (Some(nonce), Some(salt), Some(count)) = (next(b'r'), next(b's'), next(b'i')) else {
            return Err(scram("its first message is none"));
        };
        if attributes.next().is_some() {
            return Err(scram("its first message has more than it should"));
        }
        let iterations = match count_of(count).ok_or_else(|| scram("a count of iterations that is none"))? {
            count if count > ITERATIONS_MAX => return Err(Refused::Iterations(count)),
            count => u32::try_from(count).ok().and_then(NonZeroU32::new),
        };
        let iterations = iterations.ok_or_else(|| scram("a count of iterations that is none"))?;
        if !nonce.starts_with(self.nonce.as_bytes()) {
            return Err(scram("a nonce that does not begin with ours"));
        }
        let nonce = std::str::from_utf8(nonce).ok().filter(|nonce| nonce.bytes().all(|byte| byte.is_ascii_graphic()));
        let nonce = nonce.ok_or_else(|| scram("non-printable characters in the nonce"))?;
        let salt = BASE64_STANDARD.decode(salt).map_err(|_| scram("a salt that is none"))?;
        let last = format!("c={},r={nonce}", self.channel);
        let said = [self.bare.as_bytes(), b",", message, b",", last.as_bytes()].concat();
        Ok(Due { password: self.password, ask: Ask { salt, iterations }, last, said })
    }
}

/// An exchange whose proof is due.
pub(super) struct Due {
    password: Password,
    ask: Ask,
    /// Our last message without the proof.
    last: String,
    /// What both sides sign (RFC 5802 §3, `AuthMessage`).
    said: Vec<u8>,
}

impl Due {
    /// Goes on, at once where the keys are remembered; with work for another thread where they are not.
    pub(super) fn step(self, reaching: Reaching) -> Step {
        match self.password.recall(&self.ask) {
            Some(keys) => {
                let (reaching, answer) = self.prove(reaching, keys);
                Step::Send(reaching, answer)
            }
            None => Step::Derive(Derive { reaching, due: self }),
        }
    }

    fn prove(self, mut reaching: Reaching, keys: Arc<Keys>) -> (Reaching, Zeroizing<Vec<u8>>) {
        let proof = BASE64_STANDARD.encode(keys.proof(&self.said));
        let answer = password_message(&[self.last.as_bytes(), b",p=", proof.as_bytes()]);
        reaching.waits = Waits::ServerFinal(Proved { password: self.password, keys, said: self.said });
        (reaching, answer)
    }
}

/// An exchange that waits for the target's proof.
pub(super) struct Proved {
    password: Password,
    keys: Arc<Keys>,
    said: Vec<u8>,
}

impl Proved {
    /// Checks the target's proof that it knows the password.
    pub(super) fn finish(self, message: &[u8]) -> Result<(), Refused> {
        if let Some(error) = value(message, b'e') {
            let error = error.escape_ascii();
            return Err(Refused::Scram(format!("it says {error}")));
        }
        let signature = value(message, b'v').and_then(|signature| BASE64_STANDARD.decode(signature).ok());
        let signature = signature.ok_or_else(|| Refused::Scram("its last message is none".to_owned()))?;
        verify_slices_are_equal(&*self.keys.server_signature(&self.said), &signature)
            .map_err(|_| Refused::Scram("it does not know the password".to_owned()))?;
        self.password.remember(self.keys);
        Ok(())
    }
}

/// A login that needs the password hashed, up to [`ITERATIONS_MAX`] times, before it can go on.
pub struct Derive {
    reaching: Reaching,
    due: Due,
}

impl Derive {
    /// Does the work; returns the login that goes on and the answer to send. Takes up to tens of milliseconds of a thread.
    pub fn run(self) -> (Reaching, Zeroizing<Vec<u8>>) {
        let keys = Arc::new(Keys::derive(&self.due.password, self.due.ask.clone()));
        self.due.prove(self.reaching, keys)
    }
}

/// Reads a count of iterations; one that is too long for a number is too many.
fn count_of(digits: &[u8]) -> Option<u64> {
    let digits =
        std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))?;
    Some(digits.parse().unwrap_or(u64::MAX)).filter(|_| !digits.is_empty())
}
