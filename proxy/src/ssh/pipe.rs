//! A channel of a client's connection as the carrier of another SSH connection: what `ssh -J` puts inside.
//!
//! The outer connection's callbacks push in what arrives and never wait; the inner connection takes it out. Bytes in
//! between count as held by the outer connection, whose window narrows by them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use russh::{ChannelWriteHalf, server};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

use super::backlog::{Backlog, Held};
use super::wire::Carrier;

/// Where the outer connection puts what arrives on the channel. Dropped, it ends the inner connection's input.
pub(super) struct Inlet {
    /// Gone once the client said that it sends no more.
    queue: Option<mpsc::UnboundedSender<(Bytes, Held)>>,
    backlog: Arc<Backlog>,
}

impl Inlet {
    /// Takes bytes in.
    ///
    /// # Errors
    /// The client sent far more than its window allowed: the channel is over.
    pub(super) fn push(&self, data: &[u8]) -> Result<(), Overrun> {
        let held = self.backlog.hold(data.len());
        if self.backlog.exceeds_limit() {
            return Err(Overrun);
        }
        let Some(queue) = &self.queue else { return Ok(()) };
        // What comes after the inner connection's end is nothing. The channel is about to be closed, and must live for that.
        let _ = queue.send((Bytes::copy_from_slice(data), held));
        Ok(())
    }

    /// Ends the input: what comes after an end of file is nothing.
    pub(super) fn end(&mut self) {
        self.queue = None;
    }
}

/// There is no more room.
#[derive(Debug)]
pub(super) struct Overrun;

/// The inner connection's end of the channel.
pub(crate) struct Pipe {
    inbox: mpsc::UnboundedReceiver<(Bytes, Held)>,
    outbox: Pin<Box<dyn AsyncWrite + Send>>,
    /// What was taken out and did not fit where it was to go.
    rest: Option<(Bytes, Held)>,
}

impl Pipe {
    /// Makes both ends over a channel that was accepted. `uploads` counts what clients sent over all channels; `limit`
    /// is how many bytes this one may hold.
    pub(super) fn new(write: &ChannelWriteHalf<server::Msg>, uploads: &Arc<Backlog>, limit: usize) -> (Inlet, Self) {
        let (queue, inbox) = mpsc::unbounded_channel();
        let inlet = Inlet { queue: Some(queue), backlog: Backlog::within(uploads, limit) };
        (inlet, Self { inbox, outbox: Box::pin(write.make_writer()), rest: None })
    }
}

impl Carrier for Pipe {
    fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut, _: usize) -> Poll<io::Result<usize>> {
        // Nothing was left in the buffer, so it becomes what came: no copy where nobody else holds the bytes.
        let Some((bytes, _held)) = ready!(self.inbox.poll_recv(cx)) else { return Poll::Ready(Ok(0)) };
        *buffer = BytesMut::from(bytes);
        Poll::Ready(Ok(buffer.len()))
    }
}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slot: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (mut bytes, held) = match self.rest.take() {
            Some(rest) => rest,
            None => match ready!(self.inbox.poll_recv(cx)) {
                Some(more) => more,
                None => return Poll::Ready(Ok(())),
            },
        };
        slot.put_slice(&bytes.split_to(bytes.len().min(slot.remaining())));
        if !bytes.is_empty() {
            self.rest = Some((bytes, held));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.outbox.as_mut().poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outbox.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outbox.as_mut().poll_shutdown(cx)
    }
}
