//! The login at a target, from the StartupMessage to ReadyForQuery: fed with bytes, gives bytes to send.
//!
//! A target is not trusted: it proves that it knows the password where the method lets it, it cannot make us use a weaker
//! method than the one it offers, and whatever it sends has a limit. Does not know TLS, sockets or grants. Randomness comes in
//! as an argument.

mod greeting;
mod login;
mod password;
mod refused;
mod scram;

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use zeroize::Zeroizing;

pub use greeting::{BackendKey, GREETING_FRAMES_MAX, GREETING_LEN_MAX, SECRET_LEN};
use greeting::{Greeting, well_formed};
pub use login::Login;
pub use password::Password;
pub use refused::Refused;
pub use scram::{Derive, ITERATIONS_MAX};

use crate::pg::auth::scram::NONCE_LEN;
use crate::pg::codec::{Fields, HEADER_LEN};
use crate::pg::startup::{VERSION_3_0, VERSION_3_2};

/// The longest Authentication or NegotiateProtocolVersion message: as libpq's limit. Bounds nonce and mechanisms as well.
pub const REQUEST_LEN_MAX: u32 = 2_000;
/// The longest single ParameterStatus, NoticeResponse or ErrorResponse of a login; libpq allows 30,000 for an error.
pub const MESSAGE_LEN_MAX: u32 = 64 * 1024;

/// What the login goes over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Channel {
    /// Nothing but a wire inside this machine.
    Plain,
    /// TLS with a target whose certificate was checked to the end.
    Tls {
        /// `tls-server-end-point` data of its certificate; none where its signature does not allow that.
        end_point: Option<Vec<u8>>,
        /// Whether the bastion has a certificate of its own, and shows it if asked.
        with_certificate: bool,
    },
}

/// A login that succeeded: what the target said, and what it said after that.
pub struct Reached {
    /// What a query can be cancelled by; some servers have no such thing.
    pub key: Option<BackendKey>,
    /// The raw ParameterStatus and NoticeResponse frames, in their order, for the client.
    pub greeting: Bytes,
    /// The transaction status of ReadyForQuery.
    pub status: u8,
    /// The parameter `server_version`.
    pub server_version: String,
    /// The version of the protocol that holds from here on.
    pub protocol: u32,
    /// How the login went, in the words of pg_hba.conf: `scram-sha-256-plus`, `scram-sha-256`, `md5`, `password`, `cert` or
    /// `trust`. `cert` means that the target asked for nothing and the bastion had a certificate to show.
    pub method: &'static str,
    /// What came behind ReadyForQuery already.
    pub leftover: BytesMut,
}

impl fmt::Debug for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server_version, method, .. } = self;
        f.debug_struct("Reached")
            .field("server_version", server_version)
            .field("method", method)
            .finish_non_exhaustive()
    }
}

/// What comes next in a login.
pub enum Step {
    /// The target must say more: [`feed`](Reaching::feed) it.
    Read(Reaching),
    /// Send these bytes and go on.
    Send(Reaching, Zeroizing<Vec<u8>>),
    /// Work that takes milliseconds, for a thread where nobody else waits.
    Derive(Derive),
    /// The login is over.
    Reached(Reached),
}

/// A login that is going on.
pub struct Reaching {
    login: Login,
    channel: Channel,
    nonce: [u8; NONCE_LEN],
    waits: Waits,
    inbox: BytesMut,
    method: &'static str,
    protocol: u32,
    greeting: Greeting,
}

/// What a login waits for.
enum Waits {
    /// For what the target asks for; before that it may take the version of the protocol down, once.
    Request { negotiated: bool },
    /// For the target's first SCRAM message.
    ServerFirst(scram::Begun),
    /// For the target's proof that it knows the password.
    ServerFinal(scram::Proved),
    /// For the verdict, once all was said.
    Verdict,
    /// For ReadyForQuery.
    Ready,
}

impl Waits {
    fn name(&self) -> &'static str {
        match self {
            Self::Request { .. } => "a request for authentication",
            Self::ServerFirst(_) => "the first SCRAM message",
            Self::ServerFinal(_) => "the target's SCRAM proof",
            Self::Verdict => "AuthenticationOk",
            Self::Ready => "ReadyForQuery",
        }
    }

    /// Returns the shortest and longest length field of a message that may come now.
    fn lengths(&self, tag: u8) -> Option<(u32, u32)> {
        match (self, tag) {
            // One terminator; a field is a letter, text and a zero byte.
            (_, b'E') => Some((5, MESSAGE_LEN_MAX)),
            (Self::Ready, b'S') => Some((6, MESSAGE_LEN_MAX)),
            (Self::Ready, b'N') => Some((5, MESSAGE_LEN_MAX)),
            (Self::Ready, b'K') => Some((8 + *SECRET_LEN.start() as u32, 8 + *SECRET_LEN.end() as u32)),
            (Self::Ready, b'Z') => Some((5, 5)),
            (Self::Request { negotiated: false }, b'v') => Some((12, REQUEST_LEN_MAX)),
            (Self::Request { .. } | Self::ServerFirst(_) | Self::ServerFinal(_) | Self::Verdict, b'R') => {
                Some((8, REQUEST_LEN_MAX))
            }
            _ => None,
        }
    }
}

/// One message of the target.
struct Frame {
    tag: u8,
    raw: Bytes,
}

impl Frame {
    fn fields(&self) -> Fields<'_> {
        Fields(self.raw.get(HEADER_LEN..).unwrap_or_default())
    }
}

impl Reaching {
    /// Starts a login; returns it and the StartupMessage to send. The nonce must be random and never used before.
    ///
    /// # Errors
    /// A login that no StartupMessage can hold, or that would name somebody else.
    pub fn new(login: Login, channel: Channel, nonce: [u8; NONCE_LEN]) -> Result<(Self, Bytes), Refused> {
        let startup = login.startup()?;
        let reaching = Self {
            protocol: login.protocol,
            login,
            channel,
            nonce,
            waits: Waits::Request { negotiated: false },
            inbox: BytesMut::new(),
            method: "trust",
            greeting: Greeting::default(),
        };
        Ok((reaching, startup))
    }

    /// Takes in what the target said. At most one message that is not complete stays from one call to the next, so that what is
    /// held is [`MESSAGE_LEN_MAX`] and what the caller reads at a time.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.inbox.extend_from_slice(bytes);
    }

    /// Goes on as far as what came allows.
    ///
    /// # Errors
    /// [`Refused`], by the target or by us; the connection is of no use then.
    pub fn advance(mut self) -> Result<Step, Refused> {
        loop {
            let Some(frame) = self.next_frame()? else { return Ok(Step::Read(self)) };
            if frame.tag == b'E' {
                well_formed(frame.fields()).ok_or(Refused::Malformed("ErrorResponse"))?;
                return Err(Refused::Target(frame.raw));
            }
            match self.waits {
                Waits::Request { .. } if frame.tag == b'v' => self.negotiate(frame.fields())?,
                Waits::Request { .. } => match self.requested(frame.fields())? {
                    Some(answer) => return Ok(Step::Send(self, answer)),
                    None => continue,
                },
                Waits::ServerFirst(begun) => {
                    let due = begun.first(continued(frame.fields(), 11)?)?;
                    self.waits = Waits::Verdict;
                    return Ok(due.step(self));
                }
                Waits::ServerFinal(proved) => {
                    proved.finish(continued(frame.fields(), 12)?)?;
                    self.waits = Waits::Verdict;
                }
                Waits::Verdict => {
                    if !continued(frame.fields(), 0)?.is_empty() {
                        return Err(Refused::Malformed("AuthenticationOk"));
                    }
                    self.waits = Waits::Ready;
                }
                Waits::Ready => {
                    if let Some(status) = self.greeting.take(&frame, self.protocol)? {
                        return Ok(Step::Reached(self.reached(status)));
                    }
                }
            }
        }
    }

    /// Takes the next message off the inbox. What may not come now is refused by its first byte, what is too long by its
    /// header: nothing is waited for that would be refused anyway.
    fn next_frame(&mut self) -> Result<Option<Frame>, Refused> {
        let Some(&tag) = self.inbox.first() else { return Ok(None) };
        let (shortest, longest) =
            self.waits.lengths(tag).ok_or_else(|| Refused::Unexpected { tag, waits: self.waits.name() })?;
        let Some(len) = Fields(self.inbox.get(1..).unwrap_or_default()).u32() else { return Ok(None) };
        if !(shortest..=longest).contains(&len) {
            return Err(Refused::Length { tag, len });
        }
        let whole = 1 + len as usize;
        if self.inbox.len() < whole {
            return Ok(None);
        }
        Ok(Some(Frame { tag, raw: self.inbox.split_to(whole).freeze() }))
    }

    /// Takes the version of the protocol down. Only from 3.2 to 3.0: there is nothing else to take, since we ask for no options.
    fn negotiate(&mut self, mut fields: Fields<'_>) -> Result<(), Refused> {
        let (version, options) =
            fields.u32().zip(fields.u32()).ok_or(Refused::Malformed("NegotiateProtocolVersion"))?;
        if options != 0 || !fields.is_empty() || version != VERSION_3_0 || self.protocol != VERSION_3_2 {
            return Err(Refused::Version { asked: self.protocol, offered: version, options });
        }
        self.protocol = version;
        self.waits = Waits::Request { negotiated: true };
        Ok(())
    }

    /// Answers the request for authentication; no answer is due where none is asked for.
    fn requested(&mut self, mut fields: Fields<'_>) -> Result<Option<Zeroizing<Vec<u8>>>, Refused> {
        let kind = fields.u32().ok_or(Refused::Malformed("Authentication"))?;
        let answer = match kind {
            0 if fields.is_empty() => {
                if matches!(self.channel, Channel::Tls { with_certificate: true, .. }) {
                    self.method = "cert";
                }
                self.waits = Waits::Ready;
                return Ok(None);
            }
            3 if fields.is_empty() => {
                self.method = "password";
                if self.channel == Channel::Plain {
                    return Err(Refused::Cleartext);
                }
                password_message(&[self.password()?.as_str().as_bytes(), &[0]])
            }
            5 => {
                let salt =
                    <[u8; 4]>::try_from(fields.0).map_err(|_| Refused::Malformed("AuthenticationMD5Password"))?;
                self.method = "md5";
                let digest = md5_hash(self.login.user.as_bytes(), self.password()?.as_str().as_bytes(), salt);
                password_message(&[Zeroizing::new(digest).as_bytes(), &[0]])
            }
            10 => {
                let (chosen, method) = scram::Chosen::among(fields, &self.channel)?;
                self.method = method;
                let (begun, answer) = chosen.start(self.nonce, self.password()?.clone());
                self.waits = Waits::ServerFirst(begun);
                return Ok(Some(answer));
            }
            0 | 3 => return Err(Refused::Malformed("Authentication")),
            2 => return Err(Refused::Method("Kerberos V5")),
            6 => return Err(Refused::Method("SCM credentials")),
            7 | 8 => return Err(Refused::Method("GSSAPI")),
            9 => return Err(Refused::Method("SSPI")),
            other => return Err(Refused::Order(other)),
        };
        self.waits = Waits::Verdict;
        Ok(Some(answer))
    }

    fn password(&self) -> Result<&Password, Refused> {
        self.login.password.as_ref().ok_or(Refused::NoPassword(self.method))
    }

    fn reached(self, status: u8) -> Reached {
        Reached {
            key: self.greeting.key,
            greeting: self.greeting.raw.freeze(),
            status,
            server_version: self.greeting.server_version,
            protocol: self.protocol,
            method: self.method,
            leftover: self.inbox,
        }
    }
}

/// Returns what follows the kind of an Authentication message, which must be the one that is due.
fn continued(mut fields: Fields<'_>, due: u32) -> Result<&[u8], Refused> {
    match fields.u32() {
        Some(kind) if kind == due => Ok(fields.0),
        Some(kind) => Err(Refused::Order(kind)),
        None => Err(Refused::Malformed("Authentication")),
    }
}

/// A message of type `p`, which is a password, a digest or SASL. Its room is made at once: a buffer that grows leaves copies.
fn password_message(parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let len = parts.iter().map(|part| part.len()).sum::<usize>();
    let mut out = Zeroizing::new(Vec::with_capacity(HEADER_LEN + len));
    out.put_u8(b'p');
    out.put_u32(u32::try_from(4 + len).unwrap_or(u32::MAX));
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

#[cfg(test)]
mod tests;
