//! Reaching a target: the one way out of the bastion, and it asks for a [`Grant`].
//!
//! Connects, sets the socket up and says which host keys are pinned. Does not speak a protocol; `ssh` does that on what
//! this returns.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use russh::keys::PublicKey;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::config::Limits;
use crate::error::Fault;
use crate::policy::Grant;

/// How long one address of several may take to answer.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(8);

/// A connection to the target that a grant names. Nothing has been said on it yet.
#[derive(Debug)]
pub struct Dialled {
    stream: TcpStream,
    peer: SocketAddr,
}

impl Dialled {
    /// Returns the address that answered.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Gives the stream up to the protocol.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}

/// Why a target cannot be worked on. [`Display`](std::fmt::Display) is for the record; a person gets
/// [`client_text`](Self::client_text), which holds no address.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// The name leads nowhere.
    #[error("cannot resolve {host}: {source}")]
    Resolve {
        /// The configured host name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No address of it takes a connection.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The last address tried.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// It took longer than `limits.dial`.
    #[error("no login within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// It is not the machine that is pinned, or somebody sits in between.
    #[error(
        "host key {offered} is not pinned; if the target was reinstalled, put its new key into host_keys of the target"
    )]
    HostKey {
        /// Fingerprint of the key that was proved.
        offered: String,
    },
    /// The target does not let the bastion in.
    #[error("the target refused the login {login:?} with the configured key")]
    Login {
        /// The login there.
        login: String,
    },
    /// It opened no session channel.
    #[error("the target opened no session: {0}")]
    Channel(String),
    /// The protocol failed on the way.
    #[error("handshake failed: {0}")]
    Handshake(String),
}

impl Unreachable {
    /// The one line for the person; `target` is the name they know.
    pub fn client_text(&self, target: &str) -> String {
        match self {
            Self::Resolve { .. } | Self::Connect { .. } | Self::TimedOut(_) => format!("{target} cannot be reached"),
            Self::HostKey { .. } => {
                format!("{target} proved another host key than the pinned one: not connected, and recorded")
            }
            Self::Login { .. } => format!("{target} refused the bastion's login"),
            Self::Channel(_) => format!("{target} opened no session"),
            Self::Handshake(_) => format!("{target} did not complete the handshake"),
        }
    }

    /// The fingerprint that was proved instead of a pinned one.
    pub fn host_key(&self) -> Option<&str> {
        match self {
            Self::HostKey { offered } => Some(offered),
            _ => None,
        }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        Fault::Target
    }
}

/// Connects to the target that the grant names.
///
/// # Errors
/// [`Unreachable`] when the name leads nowhere or nothing there answers.
pub async fn dial(grant: &Grant, limits: &Limits) -> Result<Dialled, Unreachable> {
    let target = grant.target();
    let host = target.host.as_str();
    let addresses: Vec<SocketAddr> = match lookup_host((host, target.port)).await {
        Ok(addresses) => addresses.collect(),
        Err(source) => return Err(Unreachable::Resolve { host: host.to_owned(), source }),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for peer in addresses {
        let connected = timeout(ADDRESS_TIMEOUT.min(limits.dial), TcpStream::connect(peer)).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).and_then(|stream| {
            tune(&stream, limits)?;
            Ok(stream)
        }) {
            Ok(stream) => return Ok(Dialled { stream, peer }),
            Err(error) => last = error,
        }
    }
    Err(Unreachable::Connect { address: target.address(), source: last })
}

/// Whether the grant's target may prove itself with that key.
pub fn is_pinned(grant: &Grant, key: &PublicKey) -> bool {
    // Comments are not part of a key, so compare the key data alone.
    grant.target().host_keys().iter().any(|pinned| pinned.key_data() == key.key_data())
}

/// Sets a socket up for an interactive protocol whose dead peers are found by TCP: SSH's own answers stay away also when
/// a reader is held back or a client is merely stopped.
pub(crate) fn tune(stream: &TcpStream, limits: &Limits) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(limits.keepalive)
        .with_interval(limits.keepalive)
        .with_retries(limits.keepalive_count);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(limits.tcp_user_timeout))
}
