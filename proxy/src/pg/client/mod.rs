//! The connection to a target: TLS first, then the login, each with a limit in time; and the other one that cancels a query.
//!
//! Moves bytes between a socket and [`auth::target`](super::auth::target), which decides. Dials nothing itself: that takes a
//! grant. What is relayed once the login is over is not known here.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::auth::scram::NONCE_LEN;
use super::auth::target::{BackendKey, Channel, Login, Reached, Reaching, Refused, Step};
use super::codec::{CANNOT_CONNECT, Complaint};
use super::startup::SSL_REQUEST_PACKET;
use super::tls::{Peer, Scan, TargetTls};

/// How much is read at a time during a login: more than any server says in one.
const READ_LEN: usize = 8 * 1024;

/// How long a CancelRequest may take, with its TLS and the target's hanging up: a person waits at Ctrl-C.
pub const CANCEL_PATIENCE: Duration = Duration::from_secs(5);

/// A target that let the bastion in.
#[derive(Debug)]
pub struct Arrived<S = TcpStream> {
    /// What it said.
    pub reached: Reached,
    /// The connection. Bytes of it that were read already are in [`Reached::leftover`].
    pub stream: TargetStream<S>,
    /// Who it proved to be; none where there is no TLS.
    pub peer: Option<Peer>,
}

/// Why a target was not reached. [`Display`](std::fmt::Display) is for the record; a client gets
/// [`for_client`](Self::for_client).
#[derive(Debug, thiserror::Error)]
pub enum Unreached {
    /// There shall be no TLS, and the name led away from this machine.
    #[error("{0} is not this machine, and tls = \"off\" is for this machine alone; name an authority in ca_file")]
    NotLocal(SocketAddr),
    /// The target does no TLS.
    #[error("the target does no TLS; set ssl = on there")]
    NoTls,
    /// It answered the request for TLS with something else. What follows is not read: nobody has proved who says it.
    #[error("the target answered the request for TLS with byte {0}")]
    Answer(u8),
    /// TLS failed: above all, a certificate that is not good for the target's name, or the bastion's own one that the target does
    /// not take, which with TLS 1.3 it says only after the handshake.
    #[error("TLS with the target failed: {error}{}", remedy.map(|remedy| format!("; {remedy}")).unwrap_or_default())]
    Tls {
        /// What is wrong.
        error: rustls::Error,
        /// What to do about it.
        remedy: Option<&'static str>,
    },
    /// It hung up.
    #[error("the target closed the connection during {0}")]
    Closed(&'static str),
    /// The connection broke.
    #[error("the connection to the target broke: {0}")]
    Broke(io::Error),
    /// It took too long.
    #[error("no login within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// There is no login.
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl From<io::Error> for Unreached {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(inner) => Self::Tls { error: inner.clone(), remedy: TargetTls::remedy(inner) },
            None => Self::Broke(error),
        }
    }
}

impl Unreached {
    /// Returns what the client reads: what the target said, as it said it, or else something that holds no address; `target`
    /// is the name they know.
    pub fn for_client(&self, target: &str) -> Words {
        let text = match self {
            Self::Refused(Refused::Target(raw)) => return Words::Target(raw.clone()),
            Self::Refused(_) | Self::Tls { error: rustls::Error::AlertReceived(_), .. } => {
                format!("{target} and the bastion came to no login; the reason is recorded")
            }
            Self::Tls { .. } | Self::NoTls | Self::Answer(_) | Self::NotLocal(_) => {
                format!("{target} did not prove who it is: not connected, and recorded")
            }
            Self::Closed(_) | Self::Broke(_) | Self::TimedOut(_) => format!("{target} cannot be reached"),
        };
        Words::Ours(Complaint::new(CANNOT_CONNECT, text).fatal())
    }
}

/// The ErrorResponse that a client reads who does not come to a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Words {
    /// The target's own, raw: a byte of the session like any other, which is recorded before anybody reads it.
    Target(Bytes),
    /// The bastion's.
    Ours(Bytes),
}

/// Logs in on a connection that was just made. Without `tls` the connection must not leave this machine.
///
/// # Errors
/// [`Unreached`]; the connection is closed then. Dropping the future closes it as well.
pub async fn reach(
    dialled: TcpStream,
    tls: Option<&TargetTls>,
    login: Login,
    patience: Duration,
) -> Result<Arrived, Unreached> {
    stays_here(dialled.peer_addr()?, tls)?;
    timeout(patience, log_in(dialled, tls, login)).await.unwrap_or(Err(Unreached::TimedOut(patience)))
}

/// Cancels what runs in another session, over a connection of its own that is protected like the session's. Returns when the
/// target hung up, which it does once it passed the request on.
///
/// # Errors
/// [`Unreached`]. A target never says whether there was anything to cancel.
pub async fn cancel(dialled: TcpStream, tls: Option<&TargetTls>, key: &BackendKey) -> Result<(), Unreached> {
    stays_here(dialled.peer_addr()?, tls)?;
    timeout(CANCEL_PATIENCE, cancel_on(dialled, tls, key)).await.unwrap_or(Err(Unreached::TimedOut(CANCEL_PATIENCE)))
}

/// Returns the certificates that a target shows, the leaf first, and hangs up: nothing is said over such a connection.
///
/// # Errors
/// [`Unreached`], never for a certificate that nobody vouches for.
pub async fn scan(
    mut dialled: TcpStream,
    scan: &Scan,
    patience: Duration,
) -> Result<Vec<CertificateDer<'static>>, Unreached> {
    let look = async {
        ask_for_tls(&mut dialled).await?;
        let connected = TlsConnector::from(scan.config()).connect(scan.name(), dialled).await;
        let stream = connected.map_err(|error| hung_up(error, "the TLS handshake"))?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        Ok(chain.iter().map(|certificate| certificate.clone().into_owned()).collect())
    };
    timeout(patience, look).await.unwrap_or(Err(Unreached::TimedOut(patience)))
}

/// Without TLS, a connection ends on this machine: a name that is configured for it can come to lead elsewhere.
fn stays_here(peer: SocketAddr, tls: Option<&TargetTls>) -> Result<(), Unreached> {
    if tls.is_some() || peer.ip().to_canonical().is_loopback() { Ok(()) } else { Err(Unreached::NotLocal(peer)) }
}

async fn log_in<S: AsyncRead + AsyncWrite + Unpin>(
    wire: S,
    tls: Option<&TargetTls>,
    login: Login,
) -> Result<Arrived<S>, Unreached> {
    let (mut stream, peer) = secure(wire, tls).await?;
    let channel = match (&peer, tls) {
        (Some(peer), Some(tls)) => {
            Channel::Tls { end_point: peer.end_point.clone(), with_certificate: tls.with_certificate() }
        }
        _ => Channel::Plain,
    };
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce).map_err(io::Error::from)?;
    let (mut reaching, startup) = Reaching::new(login, channel, nonce)?;
    stream.write_all(&startup).await?;
    stream.flush().await?;
    let mut buffer = vec![0; READ_LEN];
    loop {
        let (next, answer) = match reaching.advance()? {
            Step::Reached(reached) => return Ok(Arrived { reached, stream, peer }),
            Step::Read(mut next) => {
                let len = stream.read(&mut buffer).await.map_err(|error| hung_up(error, "the login"))?;
                let read = buffer.get(..len).filter(|read| !read.is_empty()).ok_or(Unreached::Closed("the login"))?;
                next.feed(read);
                reaching = next;
                continue;
            }
            Step::Send(next, answer) => (next, answer),
            // Other sessions wait on this thread: the target chooses how long the work is.
            Step::Derive(work) => spawn_blocking(|| work.run()).await.map_err(io::Error::other)?,
        };
        stream.write_all(&answer).await?;
        stream.flush().await?;
        reaching = next;
    }
}

async fn cancel_on<S: AsyncRead + AsyncWrite + Unpin>(
    wire: S,
    tls: Option<&TargetTls>,
    key: &BackendKey,
) -> Result<(), Unreached> {
    let (mut stream, _) = secure(wire, tls).await?;
    stream.write_all(&key.cancel_request()).await?;
    stream.flush().await?;
    // PostgreSQL hangs up without a TLS goodbye, and without a word. What is said nevertheless means nothing.
    let _ = stream.read_u8().await;
    Ok(())
}

/// Brings TLS up, and returns with whom.
async fn secure<S: AsyncRead + AsyncWrite + Unpin>(
    mut wire: S,
    tls: Option<&TargetTls>,
) -> Result<(TargetStream<S>, Option<Peer>), Unreached> {
    let Some(tls) = tls else { return Ok((TargetStream::Plain(wire), None)) };
    ask_for_tls(&mut wire).await?;
    let connected = TlsConnector::from(tls.config()).connect(tls.name(), wire).await;
    let stream = connected.map_err(|error| hung_up(error, "the TLS handshake"))?;
    let unproven = || Unreached::Tls { error: rustls::Error::NoCertificatesPresented, remedy: None };
    let peer = TargetTls::peer(stream.get_ref().1).ok_or_else(unproven)?;
    Ok((TargetStream::Tls(Box::new(stream)), Some(peer)))
}

/// Asks for TLS, and returns once the target is ready for the handshake.
async fn ask_for_tls<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut S) -> Result<(), Unreached> {
    wire.write_all(&SSL_REQUEST_PACKET).await?;
    wire.flush().await?;
    // This byte and not one more: what somebody put behind it in clear text must meet the handshake, which fails on it, and
    // never count as said by the target (CVE-2021-23222).
    let answer = wire.read_u8().await.map_err(|error| hung_up(error, "the request for TLS"))?;
    match answer {
        b'S' => Ok(()),
        b'N' => Err(Unreached::NoTls),
        other => Err(Unreached::Answer(other)),
    }
}

fn hung_up(error: io::Error, during: &'static str) -> Unreached {
    if error.kind() == io::ErrorKind::UnexpectedEof { Unreached::Closed(during) } else { error.into() }
}

/// A connection to a target, with TLS or within this machine.
#[derive(Debug)]
pub enum TargetStream<S = TcpStream> {
    /// Without TLS.
    Plain(S),
    /// With TLS.
    Tls(Box<TlsStream<S>>),
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TargetStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TargetStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests;
