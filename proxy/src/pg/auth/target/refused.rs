//! Why a login at a target did not come about, for the record and the log.

use std::fmt;

use bytes::Bytes;

use super::{GREETING_FRAMES_MAX, GREETING_LEN_MAX, ITERATIONS_MAX};
use crate::pg::codec::{HEADER_LEN, error_fields};
use crate::pg::startup::STARTUP_LEN_MAX;

/// How much of a target's message is shown in a line.
const SHOWN_LEN_MAX: usize = 1024;

/// Why there is no login. [`Target`](Self::Target) is the target's word and may go on to the client as it is; all else is ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The target said no. The raw ErrorResponse, whose fields are sound.
    #[error("the target refused the login: {}", Said(.0))]
    Target(Bytes),
    /// A message that may not come now.
    #[error("message of type {tag} while waiting for {waits}")]
    Unexpected {
        /// Its type.
        tag: u8,
        /// What was due.
        waits: &'static str,
    },
    /// A message that is too short or too long for its type.
    #[error("message of type {} and length {len}", char::from(*.tag))]
    Length {
        /// Its type.
        tag: u8,
        /// Its length field.
        len: u32,
    },
    /// A message whose fields are none.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// An Authentication message that is not due, such as one that skips the target's own proof.
    #[error("authentication message of kind {0} out of order, or of a kind that is not known")]
    Order(u32),
    /// A method that is not spoken here.
    #[error("the target asks for {0}; give the bastion's address a line with scram-sha-256 or cert in its pg_hba.conf")]
    Method(&'static str),
    /// The target wants a password and there is none.
    #[error("the target asks for a password ({0}), and none is configured for this login")]
    NoPassword(&'static str),
    /// The password would be readable on the wire.
    #[error("the target asks for the password in clear text, which it gets over TLS alone")]
    Cleartext,
    /// No SASL mechanism in common.
    #[error("the target offers {0:?} and no SCRAM-SHA-256")]
    Mechanisms(String),
    /// Channel binding is offered where there is no TLS to bind to: somebody between us took the TLS off.
    #[error("the target offers SCRAM-SHA-256-PLUS on a connection without TLS")]
    PlusWithoutTls,
    /// The target offers channel binding and its certificate does not allow it. To go on without would be a downgrade that
    /// nobody sees.
    #[error(
        "the target offers channel binding, and no login can be bound to its certificate; have it signed with ECDSA or RSA"
    )]
    Unbindable,
    /// The target wants the password hashed more often than anybody does.
    #[error(
        "the target asks for {0} SCRAM iterations, over {ITERATIONS_MAX}; lower scram_iterations there and set the password anew"
    )]
    Iterations(u64),
    /// The exchange failed on our side: a nonce that is not ours, a target that does not know the password.
    #[error("SCRAM with the target failed: {0}")]
    Scram(String),
    /// Another version of the protocol than any that was asked for.
    #[error("protocol {asked:#x} was asked for; the target offers {offered:#x} and refuses {options} options")]
    Version {
        /// What we asked for.
        asked: u32,
        /// What it has.
        offered: u32,
        /// How many options it does not know; we ask for none.
        options: u32,
    },
    /// Too many bytes before ReadyForQuery.
    #[error("the target's greeting is over {GREETING_LEN_MAX} bytes")]
    GreetingLen,
    /// Too many messages before ReadyForQuery.
    #[error("the target's greeting is over {GREETING_FRAMES_MAX} messages")]
    GreetingFrames,
    /// A name or parameter that would say something else in a StartupMessage.
    #[error("parameter {0:?} cannot stand in a startup message")]
    Parameter(String),
    /// A StartupMessage that no server reads.
    #[error("startup message of {0} bytes, over {STARTUP_LEN_MAX}")]
    StartupLen(usize),
}

/// Severity, SQLSTATE and message of an ErrorResponse in one line that does no harm to a terminal.
struct Said<'b>(&'b [u8]);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payload = self.0.get(HEADER_LEN..).unwrap_or_default();
        let field = |code| error_fields(payload).find(|(found, _)| *found == code).map(|(_, text)| text);
        let mut between = "";
        for text in [field(b'S'), field(b'C'), field(b'M')].into_iter().flatten() {
            let shown = text.get(..SHOWN_LEN_MAX).unwrap_or(text);
            write!(f, "{between}{}", String::from_utf8_lossy(shown).escape_debug())?;
            between = " ";
        }
        Ok(())
    }
}
