//! The client's end of a connection up to its login: TLS, the first packet, and answers to what it is asked.
//!
//! Drives the machine of `startup` over whatever carries the connection. Knows nobody.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::auth::scram::MESSAGE_LEN_MAX;
use super::codec::{Complaint, HEADER_LEN, PROTOCOL_VIOLATION};
use super::startup::{CancelRequest, Opening, Security, Startup, Step};
use super::tls::{ALPN, ServerTls};

/// What is read at once before the session: the first packets are a few hundred bytes.
const READ: usize = 1024;

/// How long somebody who is turned away may take to read why.
const TURNED_AWAY: Duration = Duration::from_secs(5);

/// Anything that carries a connection.
pub(crate) trait Carrier: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Carrier for T {}

/// Why a connection comes to nothing.
pub(super) enum Refusal {
    /// The client is told.
    Told(Complaint),
    /// There is nobody to tell.
    Silent(String),
}

impl From<Complaint> for Refusal {
    fn from(complaint: Complaint) -> Self {
        Self::Told(complaint)
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Silent(error.to_string())
    }
}

/// A connection whose client said what it wants.
pub(super) struct Front {
    pub(super) stream: Stream,
    pub(super) buffer: BytesMut,
    /// The version of TLS, where there is any.
    pub(super) tls: Option<&'static str>,
    /// The certificate that the client proved.
    pub(super) certificate: Option<CertificateDer<'static>>,
}

/// The client's bytes.
pub(super) enum Stream {
    Plain(Box<dyn Carrier>),
    Tls(Box<TlsStream<Rewound>>),
}

/// A carrier of which something was read already.
pub(super) struct Rewound {
    first: BytesMut,
    inner: Box<dyn Carrier>,
}

impl AsyncRead for Rewound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slot: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, slot);
        }
        let len = self.first.len().min(slot.remaining());
        slot.put_slice(&self.first.split_to(len));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slot: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, slot),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, slot),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, data),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// What a connection is for.
pub(super) enum Errand {
    Cancel(CancelRequest, Option<&'static str>),
    Session(Front, Startup),
}

/// Says why, and closes.
pub(super) async fn turn_away(stream: &mut Stream, complaint: &Complaint) {
    let words = async {
        stream.write_all(&complaint.fatal()).await?;
        stream.shutdown().await
    };
    let _ = timeout(TURNED_AWAY, words).await;
}

/// Agrees on TLS and reads what the connection is for; the error is the reason, for the record.
pub(super) async fn open(
    carrier: Box<dyn Carrier>,
    security: Security,
    tls: Option<&ServerTls>,
) -> Result<Errand, String> {
    let mut front =
        Front { stream: Stream::Plain(carrier), buffer: BytesMut::with_capacity(READ), tls: None, certificate: None };
    let mut opening = Opening::new(security);
    loop {
        let step = match opening.step(&mut front.buffer) {
            Ok(step) => step,
            Err(complaint) => {
                turn_away(&mut front.stream, &complaint).await;
                return Err(complaint.message);
            }
        };
        opening = match step {
            Step::More(opening) => {
                match front.stream.read_buf(&mut front.buffer).await {
                    Ok(0) if front.buffer.is_empty() => return Err("left without logging in".to_owned()),
                    Ok(0) => return Err("left in the middle of its first packet".to_owned()),
                    Ok(_) => {}
                    Err(error) => return Err(format!("left without logging in: {error}")),
                }
                opening
            }
            Step::Answer(byte, opening) => {
                front.stream.write_all(&[byte]).await.map_err(|error| format!("left without logging in: {error}"))?;
                opening
            }
            Step::Upgrade => {
                front.stream.write_all(b"S").await.map_err(|error| format!("left without logging in: {error}"))?;
                front = front.secure(tls, false).await?;
                Opening::inside_tls()
            }
            Step::Direct => {
                front = front.secure(tls, true).await?;
                Opening::inside_tls()
            }
            Step::NoCancel => return Err("a cancel request of a length that no key has".to_owned()),
            Step::Cancel(request) => return Ok(Errand::Cancel(request, front.tls)),
            Step::Start(startup) => return Ok(Errand::Session(front, startup)),
        };
    }
}

impl Front {
    /// Accepts TLS. A client that did not ask has to name the protocol: nothing else says that it means us.
    async fn secure(self, tls: Option<&ServerTls>, direct: bool) -> Result<Self, String> {
        let Stream::Plain(inner) = self.stream else { return Err("TLS inside TLS".to_owned()) };
        let tls = tls.ok_or_else(|| "no certificate for TLS".to_owned())?;
        let carrier = Rewound { first: self.buffer, inner };
        let stream = TlsAcceptor::from(tls.config()).accept(carrier).await.map_err(|error| format!("TLS: {error}"))?;
        let (_, connection) = stream.get_ref();
        if direct && connection.alpn_protocol() != Some(ALPN) {
            return Err("TLS: came without asking and does not name the protocol postgresql".to_owned());
        }
        let version = match connection.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        };
        let certificate = connection.peer_certificates().and_then(<[_]>::first).map(|leaf| leaf.clone().into_owned());
        Ok(Self {
            stream: Stream::Tls(Box::new(stream)),
            buffer: BytesMut::with_capacity(READ),
            tls: Some(version),
            certificate,
        })
    }

    /// Reads one answer of a login: nothing else may come.
    pub(super) async fn answer(&mut self) -> Result<Bytes, Refusal> {
        loop {
            if let Some((header, _)) = self.buffer.split_first_chunk::<HEADER_LEN>() {
                let [tag, len @ ..] = *header;
                let len = u32::from_be_bytes(len) as usize;
                if tag != b'p' {
                    let message = format!("expected SASL response, got message type {tag}");
                    return Err(Complaint::new(PROTOCOL_VIOLATION, message).into());
                }
                if !(4..=MESSAGE_LEN_MAX + 64).contains(&len) {
                    return Err(Complaint::new(PROTOCOL_VIOLATION, "invalid length of a SASL response").into());
                }
                if self.buffer.len() > len {
                    let mut frame = self.buffer.split_to(len + 1).freeze();
                    frame.advance(HEADER_LEN);
                    return Ok(frame);
                }
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(Refusal::Silent("left without logging in".to_owned()));
            }
        }
    }
}
