//! SCRAM towards a target: which of its mechanisms is taken, and the client's side of the exchange.

use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use zeroize::Zeroizing;

use super::{Channel, Reaching, Refused, Waits, password_message};
use crate::pg::codec::Fields;

/// The most iterations that a target may ask for: 24 times PostgreSQL's default, some 30 ms. postgres-protocol has the same
/// limit (RUSTSEC-2026-0179), and so has pgjdbc.
pub const ITERATIONS_MAX: u64 = 100_000;

/// An exchange that is going on.
pub(super) struct Scram(ScramSha256);

/// A mechanism that was chosen and not yet begun.
pub(super) struct Chosen {
    mechanism: &'static str,
    binding: ChannelBinding,
}

impl Scram {
    /// Chooses among the mechanisms of an AuthenticationSASL; returns the choice and its name in pg_hba.conf.
    ///
    /// Where the target offers channel binding and there is TLS, it is used or there is no login. Where it does not offer it, it
    /// is told that we would have: a server whose offer was taken away on the wire ends the login then (RFC 5802 §6).
    pub(super) fn choose(mut list: Fields<'_>, channel: &Channel) -> Result<(Chosen, &'static str), Refused> {
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
        let bound = "scram-sha-256-plus";
        let (mechanism, binding, method) = match channel {
            Channel::Plain if plus => return Err(Refused::PlusWithoutTls),
            Channel::Tls { end_point: None, .. } if plus => return Err(Refused::Unbindable),
            Channel::Tls { end_point: Some(end_point), .. } if plus => {
                (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(end_point.clone()), bound)
            }
            _ if !plain => return Err(Refused::Mechanisms(offered.join(" "))),
            // "Unrequested" is the flag `y`: we could, and believe that the server cannot.
            Channel::Tls { end_point: Some(_), .. } => (SCRAM_SHA_256, ChannelBinding::unrequested(), "scram-sha-256"),
            Channel::Tls { end_point: None, .. } | Channel::Plain => {
                (SCRAM_SHA_256, ChannelBinding::unsupported(), "scram-sha-256")
            }
        };
        Ok((Chosen { mechanism, binding }, method))
    }

    /// Checks the target's proof that it knows the password.
    pub(super) fn finish(mut self, message: &[u8]) -> Result<(), Refused> {
        self.0.finish(message).map_err(|error| Refused::Scram(error.to_string()))
    }
}

impl Chosen {
    /// Begins; returns the exchange and the SASLInitialResponse to send.
    pub(super) fn start(self, password: &str) -> (Scram, Zeroizing<Vec<u8>>) {
        let scram = ScramSha256::new(password.as_bytes(), self.binding);
        let first = scram.message();
        let len = u32::try_from(first.len()).unwrap_or(u32::MAX).to_be_bytes();
        let answer = password_message(&[self.mechanism.as_bytes(), &[0], &len, first]);
        (Scram(scram), answer)
    }
}

/// A login that needs the password hashed, up to [`ITERATIONS_MAX`] times, before it can go on.
pub struct Derive {
    reaching: Reaching,
    scram: Scram,
    message: Vec<u8>,
}

impl Derive {
    pub(super) fn new(reaching: Reaching, scram: Scram, message: Vec<u8>) -> Result<Self, Refused> {
        match iterations(&message) {
            Some(count) if count > ITERATIONS_MAX => Err(Refused::Iterations(count)),
            _ => Ok(Self { reaching, scram, message }),
        }
    }

    /// Does the work; returns the login that goes on and the answer to send. Takes up to tens of milliseconds of a thread.
    ///
    /// # Errors
    /// A message that is not the answer to ours.
    pub fn run(mut self) -> Result<(Reaching, Zeroizing<Vec<u8>>), Refused> {
        self.scram.0.update(&self.message).map_err(|error| Refused::Scram(error.to_string()))?;
        let answer = password_message(&[self.scram.0.message()]);
        self.reaching.waits = Waits::ServerFinal(self.scram);
        Ok((self.reaching, answer))
    }
}

/// Returns the iterations that a server-first-message asks for, where it says so as it should.
fn iterations(message: &[u8]) -> Option<u64> {
    let count = message.split(|byte| *byte == b',').find_map(|attribute| attribute.strip_prefix(b"i="))?;
    // A number that is too long for one is too many.
    let digits = std::str::from_utf8(count).ok().filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))?;
    Some(digits.parse().unwrap_or(u64::MAX)).filter(|_| !digits.is_empty())
}
