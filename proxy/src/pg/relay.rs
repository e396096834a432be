//! The relay of a session: what was recorded goes on, unchanged and in its order, and nothing else does.
//!
//! Two pumps that never wait for each other. Each reads, records and queues the tickets on one side, waits for the receipts and
//! writes what they hold on the other; a full queue stops the reading. Knows no frame; see `tape`.
//!
//! A session that is ended takes what it runs with it: PostgreSQL would go on with a statement whose client is gone, and with those
//! that it has been sent behind it.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use casemate_recorder::Frozen;
use casemate_recorder::transcript::event::Side;
use casemate_recorder::transcript::seal::CloseReason;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{sleep, timeout};
use tokio_util::io::poll_read_buf;
use tokio_util::sync::CancellationToken;

use super::codec::{ADMIN_SHUTDOWN, Complaint, FrameError, PROTOCOL_VIOLATION, SYSTEM_ERROR};
use super::live::Running;
use super::tape::{Taken, Tape};
use crate::session::{End, Session};

/// What is read at once: more makes no transfer faster, and less costs a turn of the journal more often.
const READ_MAX: usize = 64 * 1024;

/// What is read at once from somebody who sends little: 200 idle sessions hold two of these each.
const READ_MIN: usize = 4 * 1024;

/// Pieces that wait for their receipts, in each direction: enough to keep a disk busy with what came meanwhile.
const QUEUE: usize = 16;

/// How long a target may take to close after its client left. It may be in the middle of a statement, and goes on with that by
/// itself.
const LINGER: Duration = Duration::from_secs(2);

/// How long a client may take for what is queued for it when its session is ended, and for the line that says why.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long a target may take to stop what a session runs that is ended.
const HALT: Duration = Duration::from_secs(2);

/// How often it is asked for that: it may have been sent more than one statement.
const HALT_AGAIN: Duration = Duration::from_millis(100);

/// How the relay ended.
#[derive(Debug)]
pub(super) enum Finish {
    /// The client closed the connection.
    Client,
    /// The target did.
    Target,
    /// Somebody ended the session.
    Ended(End),
}

/// How the reading of a side ended.
enum Source {
    /// It sends no more.
    Over,
    /// It broke the protocol.
    Fault(FrameError),
}

/// One direction: from where to where.
struct Pump<'a, R, W> {
    side: Side,
    session: &'a Session,
    tape: &'a Tape,
    from: ReadHalf<R>,
    /// What was read and is no whole frame yet.
    buffer: BytesMut,
    to: WriteHalf<W>,
    /// Whether what was written ends where a frame ends.
    boundary: &'a AtomicBool,
    stop: CancellationToken,
}

/// Relays between the two sides until either or the session ends. `sent` and `received` are what of each was read already, and
/// `running` is the way to stop the target.
pub(super) async fn relay<C, T>(
    session: &Session,
    tape: &Tape,
    client: C,
    target: T,
    sent: BytesMut,
    received: BytesMut,
    running: Option<&Running>,
) -> Finish
where
    C: AsyncRead + AsyncWrite + Send,
    T: AsyncRead + AsyncWrite + Send,
{
    let ((from_client, to_client), (from_target, to_target)) = (tokio::io::split(client), tokio::io::split(target));
    let (stop, boundaries) = (CancellationToken::new(), [AtomicBool::new(true), AtomicBool::new(true)]);
    let [up_boundary, down_boundary] = &boundaries;
    let pump = stop.clone();
    let mut up = Pump {
        side: Side::Client,
        session,
        tape,
        from: from_client,
        buffer: sent,
        to: to_target,
        boundary: up_boundary,
        stop: pump.clone(),
    };
    let mut down = Pump {
        side: Side::Target,
        session,
        tape,
        from: from_target,
        buffer: received,
        to: to_client,
        boundary: down_boundary,
        stop: pump,
    };
    let finish = {
        let (upwards, downwards) = (up.run(), down.run());
        tokio::pin!(upwards, downwards);
        let (mut left, mut over) = (false, false);
        let finish = loop {
            tokio::select! {
                biased;
                end = session.ended() => break Finish::Ended(end),
                outcome = &mut downwards => {
                    over = true;
                    break match outcome {
                        Ok(Source::Over) if left => Finish::Client,
                        Ok(Source::Over) => Finish::Target,
                        Ok(Source::Fault(fault)) => Finish::Ended(broken("target", &fault)),
                        Err(frozen) => Finish::Ended(End::frozen(&frozen)),
                    };
                }
                outcome = &mut upwards, if !left => match outcome {
                    Ok(Source::Over) => left = true,
                    Ok(Source::Fault(fault)) => break Finish::Ended(broken("client", &fault)),
                    Err(frozen) => break Finish::Ended(End::frozen(&frozen)),
                },
                () = sleep(LINGER), if left => break Finish::Client,
            }
        };
        if matches!(finish, Finish::Ended(_)) && !over {
            // What is recorded may still go to the client, so that what ends the session stands between two frames.
            stop.cancel();
            let _ = timeout(LAST_WORDS, downwards).await;
        }
        finish
    };
    let Pump { from, buffer, to: mut to_client, .. } = down;
    let goodbye = timeout(LAST_WORDS, async {
        if let Finish::Ended(end) = &finish
            && down_boundary.load(Ordering::Relaxed)
        {
            let _ = to_client.write_all(&farewell(end)).await;
            let _ = to_client.flush().await;
        }
        let _ = to_client.shutdown().await;
    });
    let leaving = async {
        // Before it is asked to stop: it is to find nothing to go on with.
        let _ = timeout(LAST_WORDS, up.to.shutdown()).await;
        if let (Finish::Ended(_), Some(running)) = (&finish, running) {
            let _ = timeout(HALT, halt(running, tape, from, buffer)).await;
        }
    };
    let _ = tokio::join!(goodbye, leaving);
    finish
}

/// Has the target stop what runs, until it closes, and records what it says to that. Nobody is shown it.
async fn halt<R: AsyncRead>(running: &Running, tape: &Tape, mut from: ReadHalf<R>, mut buffer: BytesMut) {
    let answers = async {
        while let Ok(1..) = fill(&mut from, &mut buffer, READ_MAX).await {
            let (_, fault) = tape.take(Side::Target, &mut buffer, running.session.age());
            if fault.is_some() {
                break;
            }
        }
    };
    let asking = async {
        while tape.is_running() {
            running.halt().await;
            sleep(HALT_AGAIN).await;
        }
    };
    tokio::pin!(answers);
    tokio::select! {
        () = &mut answers => {}
        () = asking => answers.await,
    }
}

fn broken(who: &'static str, fault: &FrameError) -> End {
    let reason = if who == "client" { CloseReason::Client } else { CloseReason::Target };
    End::with_notice(reason, format!("the {who} broke the protocol: {fault}"), fault.to_string())
}

/// What the client reads when the bastion ends its session.
pub(super) fn farewell(end: &End) -> Bytes {
    let sqlstate = match end.reason {
        CloseReason::Client | CloseReason::Target => PROTOCOL_VIOLATION,
        CloseReason::Recorder | CloseReason::Internal => SYSTEM_ERROR,
        CloseReason::Policy | CloseReason::Shutdown | CloseReason::Unreachable => ADMIN_SHUTDOWN,
    };
    let text = end.notice.as_deref().unwrap_or("this session ends");
    Complaint::new(sqlstate, format!("casemate: {text}")).fatal()
}

impl<R: AsyncRead, W: AsyncWrite> Pump<'_, R, W> {
    /// Pumps until the source is over, or until it is to stop and what was queued is written.
    ///
    /// One loop, and no task or channel between its two halves: what is recorded at once goes on at once.
    async fn run(&mut self) -> Result<Source, Frozen> {
        let (mut queue, mut size, mut ended) = (VecDeque::new(), READ_MIN, None);
        loop {
            let (taken, fault) = self.tape.take(self.side, &mut self.buffer, self.session.age());
            queue.extend(taken);
            ended = ended.or_else(|| fault.map(Source::Fault));
            while queue.front().is_some_and(|taken: &Taken| taken.ticket.is_ready()) {
                let Some(taken) = queue.pop_front() else { break };
                if self.write(taken, queue.is_empty()).await?.is_err() {
                    // Nobody takes it. The other pump learns by itself that its source is gone.
                    return Ok(Source::Over);
                }
            }
            match (queue.front(), &ended) {
                (None, Some(_)) => break,
                (Some(first), Some(_)) => first.ticket.settled().await?,
                (first, None) => tokio::select! {
                    biased;
                    () = self.stop.cancelled() => ended = Some(Source::Over),
                    settled = settled(first) => settled?,
                    count = fill(&mut self.from, &mut self.buffer, size), if queue.len() < QUEUE => match count {
                        Ok(0) | Err(_) => {
                            ended = Some(Source::Over);
                            // What it had begun goes on as it is: the other side is to see what this one sent.
                            if !self.buffer.is_empty() {
                                let ticket = self.tape.tail(self.side, self.buffer.split().freeze());
                                queue.push_back(Taken { ticket, boundary: false, frames: 0 });
                            }
                        }
                        Ok(count) if count == size => size = (size * 2).min(READ_MAX),
                        Ok(count) if count < size / 4 => size = (size / 2).max(READ_MIN),
                        Ok(_) => {}
                    },
                },
            }
        }
        if self.side == Side::Client {
            // The target ends its side when it has answered what came.
            let _ = timeout(LAST_WORDS, self.to.shutdown()).await;
        }
        Ok(ended.unwrap_or(Source::Over))
    }

    /// Writes what was recorded, and has it leave where nothing follows at once; the inner error is that of the connection.
    async fn write(&mut self, taken: Taken, last: bool) -> Result<io::Result<()>, Frozen> {
        let Taken { ticket, boundary, frames } = taken;
        let bytes = ticket.receipt().await?.into_bytes();
        self.boundary.store(false, Ordering::Relaxed);
        let mut written = self.to.write_all(&bytes).await;
        if written.is_ok() && last {
            written = self.to.flush().await;
        }
        if written.is_ok() {
            self.boundary.store(boundary, Ordering::Relaxed);
            self.session.touch();
            if self.side == Side::Client {
                self.tape.forwarded(frames, self.session.age());
            }
        }
        Ok(written)
    }
}

/// Waits for the receipt of the first that is queued; for ever where there is none.
async fn settled(first: Option<&Taken>) -> Result<(), Frozen> {
    match first {
        Some(taken) => taken.ticket.settled().await,
        None => pending().await,
    }
}

/// Reads what is there, and waits only where nothing is: TLS gives one record at a time, and a turn of the journal for each
/// would cost more than all else.
async fn fill<R: AsyncRead>(from: &mut ReadHalf<R>, buffer: &mut BytesMut, size: usize) -> io::Result<usize> {
    let mut count = 0;
    poll_fn(|cx| {
        while count < size {
            buffer.reserve(size - count);
            match poll_read_buf(Pin::new(&mut *from), cx, &mut (&mut *buffer).limit(size - count)) {
                Poll::Ready(Ok(0)) => break,
                Poll::Ready(Ok(more)) => count += more,
                Poll::Ready(Err(error)) if count == 0 => return Poll::Ready(Err(error)),
                Poll::Pending if count == 0 => return Poll::Pending,
                // Both come again when there is nothing else.
                Poll::Ready(Err(_)) | Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(count))
    })
    .await
}
