//! The stream under one SSH connection: buffered, killable, and able to hold its reader back.
//!
//! The library reads each packet in two small reads; the buffer turns those into few system calls. It exists only
//! while there is something in it or shortly after, so that an idle session costs no memory for it. Knows nothing of SSH
//! but the first line, which it keeps for the record, and of what carries it only that it fills buffers.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::backlog::Backlog;
use super::clear::Clear;
use super::flood::Flood;

/// What one read asks for at first, and at most once a peer fills the buffer.
const BUFFER_SMALL: usize = 16 * 1024;
const BUFFER_LARGE: usize = 256 * 1024;

/// A large buffer outlives its last use by this much: under load it is wanted again at once.
const BUFFER_LINGERS: Duration = Duration::from_secs(2);

/// How long a read is put off while a client has sent more than its window explains.
const PACE: Duration = Duration::from_millis(20);

/// How long a read is put off while more than the limit is queued: every trickle of window that the library grants then
/// is a packet, and a client that sends them back to back costs more than its bytes are worth. Ends with the backlog.
const PACE_NARROW: Duration = Duration::from_millis(4);

/// How long a peer may take to close its half after ours was.
const HALF_CLOSED: Duration = Duration::from_secs(5);

/// The longest first line that is kept.
const FIRST_LINE_MAX: usize = 255;

/// Ends a connection from outside, at once. Clones end the same one.
#[derive(Clone, Default)]
pub(crate) struct Kill(Arc<KillState>);

#[derive(Default)]
struct KillState {
    dead: AtomicBool,
    wakers: Mutex<[Option<Waker>; 2]>,
}

#[derive(Clone, Copy)]
enum Half {
    Read = 0,
    Write = 1,
}

impl Kill {
    /// Makes every read and write of the connection fail from now on.
    pub(crate) fn kill(&self) {
        self.0.dead.store(true, Ordering::SeqCst);
        let wakers = std::mem::take(&mut *self.0.wakers.lock().unwrap_or_else(PoisonError::into_inner));
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    fn check(&self) -> io::Result<()> {
        if self.0.dead.load(Ordering::SeqCst) { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    /// Registers for the kill before something else is waited for.
    fn watch(&self, half: Half, cx: &Context<'_>) -> io::Result<()> {
        let mut wakers = self.0.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = wakers.get_mut(half as usize)
            && !slot.as_ref().is_some_and(|known| known.will_wake(cx.waker()))
        {
            *slot = Some(cx.waker().clone());
        }
        drop(wakers);
        self.check()
    }
}

/// What may hold the reader back.
enum Brake {
    /// Wait while the backlog is above its limit: a target's bytes stay in its own socket. A flood of small pieces is
    /// let gather there for a moment.
    Hold { backlog: Arc<Backlog>, flood: Flood, pause: Option<Pin<Box<Sleep>>> },
    /// Never wait for long, for these reads carry window adjustments: only slow a peer that ignores its window.
    Pace { backlog: Arc<Backlog>, window: u32, pause: Option<Pin<Box<Sleep>>> },
}

/// What carries an SSH connection.
pub(crate) trait Carrier: AsyncWrite + Send + Unpin + 'static {
    /// Puts what has arrived into the empty `buffer`, about `want` bytes, and returns how many; none at the end of the
    /// stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut, want: usize) -> Poll<io::Result<usize>>;
}

impl Carrier for TcpStream {
    fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut, want: usize) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_read_ready(cx))?;
            // Not before there is something: idle connections hold no buffer.
            buffer.reserve(want);
            match self.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }
}

/// A stream that the SSH library reads and writes.
pub(crate) struct Wire<C = TcpStream> {
    carrier: C,
    kill: Kill,
    brake: Brake,
    clear: Clear,
    buffer: BytesMut,
    want: usize,
    last_filled: Option<Instant>,
    first_line: Arc<OnceLock<Vec<u8>>>,
    closing: Option<Pin<Box<Sleep>>>,
}

impl<C: Carrier> Wire<C> {
    /// Wraps a client's stream; `window` is what the server grants.
    pub(crate) fn client(carrier: C, kill: Kill, backlog: Arc<Backlog>, window: u32) -> Self {
        Self { clear: Clear::Line, ..Self::new(carrier, kill, Brake::Pace { backlog, window, pause: None }) }
    }

    /// Wraps a target's stream.
    pub(crate) fn target(carrier: C, kill: Kill, backlog: Arc<Backlog>) -> Self {
        Self::new(carrier, kill, Brake::Hold { backlog, flood: Flood::default(), pause: None })
    }

    fn new(carrier: C, kill: Kill, brake: Brake) -> Self {
        Self {
            carrier,
            kill,
            brake,
            // A target's lengths are looked at by nobody: it is one of ours, and says other lines before its own.
            clear: Clear::Over,
            buffer: BytesMut::new(),
            want: BUFFER_SMALL,
            last_filled: None,
            first_line: Arc::default(),
            closing: None,
        }
    }

    /// Returns where the peer's identification line will be.
    pub(crate) fn first_line(&self) -> Arc<OnceLock<Vec<u8>>> {
        Arc::clone(&self.first_line)
    }

    /// Reads what has arrived into the empty buffer; nothing at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Poll::Ready(filled) = self.carrier.poll_fill(cx, &mut self.buffer, self.want) else {
            self.shrink();
            return Poll::Pending;
        };
        let len = filled?;
        if let Brake::Hold { flood, pause, .. } = &mut self.brake {
            flood.note(len, std::time::Instant::now());
            *pause = flood.pause().map(|pause| Box::pin(sleep(pause)));
        }
        if len >= self.want {
            self.want = BUFFER_LARGE;
            self.last_filled = Some(Instant::now());
        }
        self.keep_first_line();
        // Before anything of it is given out.
        self.clear.note(&self.buffer)?;
        Poll::Ready(Ok(len))
    }

    /// Gives the buffer back when there is nothing to read. Keepalives bring us here every few seconds.
    fn shrink(&mut self) {
        if self.last_filled.is_none_or(|at| at.elapsed() > BUFFER_LINGERS) {
            self.last_filled = None;
            self.want = BUFFER_SMALL;
            self.buffer = BytesMut::new();
        }
    }

    fn keep_first_line(&self) {
        if self.first_line.get().is_some() {
            return;
        }
        // A server may say other things first (RFC 4253 §4.2).
        let line = self.buffer.as_ref().split(|&byte| byte == b'\n').find(|line| line.starts_with(b"SSH-"));
        if let Some(line) = line {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let _ = self.first_line.set(line.iter().copied().take(FIRST_LINE_MAX).collect());
        }
    }

    fn poll_brake(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.brake {
            Brake::Hold { backlog, pause, .. } => {
                if let Some(running) = pause {
                    ready!(running.as_mut().poll(cx));
                    *pause = None;
                }
                backlog.poll_admit(cx)
            }
            Brake::Pace { backlog, window, pause } => {
                if pause.is_none() && backlog.exceeds_limit() {
                    let pace = if backlog.beyond(*window) { PACE } else { PACE_NARROW };
                    *pause = Some(Box::pin(sleep(pace)));
                }
                if let Some(running) = pause
                    && backlog.poll_admit(cx).is_pending()
                {
                    ready!(running.as_mut().poll(cx));
                }
                *pause = None;
                Poll::Ready(())
            }
        }
    }

    /// Ready with an error once the peer took too long to close its half.
    fn poll_half_closed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.closing {
            Some(deadline) => deadline.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
            None => Poll::Pending,
        }
    }
}

impl<C: Carrier> AsyncRead for Wire<C> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.kill.watch(Half::Read, cx)?;
        if let Poll::Ready(late) = this.poll_half_closed(cx) {
            return Poll::Ready(late);
        }
        if this.buffer.is_empty() {
            // What was read is given out: the library's two reads a packet must not each wait.
            ready!(this.poll_brake(cx));
            if ready!(this.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        let len = this.buffer.len().min(out.remaining());
        if let Some(chunk) = this.buffer.get(..len) {
            out.put_slice(chunk);
        }
        this.buffer.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl<C: Carrier> AsyncWrite for Wire<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.kill.watch(Half::Write, cx)?;
        Pin::new(&mut self.carrier).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.kill.watch(Half::Write, cx)?;
        Pin::new(&mut self.carrier).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.carrier.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.kill.check()?;
        Pin::new(&mut self.carrier).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.kill.check()?;
        if self.closing.is_none() {
            // The library waits for the peer's end without a limit.
            self.closing = Some(Box::pin(sleep(HALF_CLOSED)));
        }
        Pin::new(&mut self.carrier).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn small_reads_see_every_byte_and_the_first_line_is_kept() {
        let (near, mut far) = pair().await;
        let mut wire = Wire::target(near, Kill::default(), Backlog::new(1 << 20));
        let line = wire.first_line();
        far.write_all(b"hello\r\nSSH-2.0-OpenSSH_9.2\r\nrest").await.unwrap();
        drop(far);
        let mut all = Vec::new();
        let mut piece = [0; 3];
        loop {
            match wire.read(&mut piece).await.unwrap() {
                0 => break,
                len => all.extend_from_slice(&piece[..len]),
            }
        }
        assert_eq!(all, b"hello\r\nSSH-2.0-OpenSSH_9.2\r\nrest");
        assert_eq!(line.get().map(Vec::as_slice), Some(b"SSH-2.0-OpenSSH_9.2".as_slice()));
    }

    #[tokio::test]
    async fn a_kill_ends_a_read_that_waits() {
        let (near, _far) = pair().await;
        let kill = Kill::default();
        let mut wire = Wire::target(near, kill.clone(), Backlog::new(1));
        let waiting = tokio::spawn(async move { wire.read(&mut [0; 1]).await });
        tokio::task::yield_now().await;
        kill.kill();
        let error = timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn a_held_reader_goes_on_when_the_backlog_drains() {
        let (near, mut far) = pair().await;
        let backlog = Backlog::new(4);
        let mut wire = Wire::target(near, Kill::default(), Arc::clone(&backlog));
        far.write_all(b"x").await.unwrap();
        let held = backlog.hold(5);
        let mut byte = [0; 1];
        assert!(timeout(Duration::from_millis(50), wire.read(&mut byte)).await.is_err());
        let waiting = tokio::spawn(async move { wire.read(&mut [0; 1]).await });
        tokio::task::yield_now().await;
        drop(held);
        assert_eq!(timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap().unwrap(), 1);
    }

    #[tokio::test]
    async fn a_client_is_slowed_and_never_stopped() {
        let (near, mut far) = pair().await;
        let backlog = Backlog::new(1);
        let _held = backlog.hold(100);
        let mut wire = Wire::client(near, Kill::default(), backlog, 10);
        far.write_all(b"x").await.unwrap();
        assert_eq!(timeout(Duration::from_secs(5), wire.read(&mut [0; 1])).await.unwrap().unwrap(), 1);
    }

    #[tokio::test]
    async fn an_idle_wire_holds_no_buffer() {
        let (near, mut far) = pair().await;
        let mut wire = Wire::target(near, Kill::default(), Backlog::new(1 << 20));
        far.write_all(b"ab").await.unwrap();
        wire.read_exact(&mut [0; 2]).await.unwrap();
        assert!(timeout(Duration::from_millis(20), wire.read(&mut [0; 1])).await.is_err());
        assert_eq!(wire.buffer.capacity(), 0);
    }
}
