//! The relay of one channel: what was recorded goes on, in its order, and nothing else does.
//!
//! Callbacks of both legs record and queue tickets; the two pumps here wait for the receipts and forward what those
//! hold. No queue holds a byte that could go on without its receipt. Does not decide what is allowed; `server` asks
//! `flow` before anything comes here, and `reach` has opened the target's side.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use casemate_recorder::Frozen;
use casemate_recorder::transcript::event::{Event, Side, shown, ssh_err, ssh_out};
use russh::{ChannelId, ChannelWriteHalf, Sig, client, server};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::arrivals::Slot;
use super::backlog::Backlog;
use super::channels::Guide;
use super::client::Leg;
use super::farewell::{Finish, line};
use super::gather::gather;
use super::outlet::{Asks, Down};
use super::said::{Size, Told, Up};
use super::tape::Tape;
use crate::session::{End, Session};

/// How long the target may take to close a channel whose client has left.
const LINGER: Duration = Duration::from_secs(2);

/// How long what a departed client sent may make no headway towards the target.
const STALLED: Duration = Duration::from_secs(10);

/// What a person reads while the disk does not answer.
const STALLED_DISK: &str =
    "casemate: the disk that records this session does not answer: nothing is lost, but everything waits for it";

/// How long the target's end of output waits for the exit status while the client may still send. As a process ends both
/// come within a turn of the target's loop; a process that closes its output and goes on is waited for no longer.
const EXIT_FOLLOWS: Duration = Duration::from_millis(250);

/// How long the slip may take; a shell does not hang for it.
const SLIP: Duration = Duration::from_secs(5);

/// What the client's requests made of the channel, for the other direction to know.
#[derive(Debug, Default)]
pub(super) struct Shape {
    pub(super) pty: AtomicBool,
    pub(super) interactive: AtomicBool,
    /// The client sends no more.
    pub(super) client_eof: AtomicBool,
    /// The target sends no more.
    target_eof: AtomicBool,
    /// Both have said their end and the client has closed: the target closes once it has delivered what it holds.
    drains: AtomicBool,
}

/// The client's side of a channel.
pub(super) struct Outer {
    pub(super) session: Arc<Session>,
    /// Leads what comes next to another session.
    pub(super) guide: Guide,
    /// The channel's number in the record.
    pub(super) chan: u32,
    pub(super) id: ChannelId,
    pub(super) write: ChannelWriteHalf<server::Msg>,
    pub(super) server: server::Handle,
    pub(super) up: mpsc::UnboundedReceiver<Up>,
    /// Bytes in `up` and in the pump.
    pub(super) backlog: Arc<Backlog>,
    /// Cancelled when the client has closed the channel or is gone. Writers do not wake by themselves then.
    pub(super) gone: CancellationToken,
    /// Cancelled when the client sent more than can be queued.
    pub(super) overrun: CancellationToken,
    pub(super) shape: Arc<Shape>,
    pub(super) tape: Arc<Tape>,
    /// Its place among those that the connection may have.
    pub(super) _slot: Slot,
}

/// Relays between a channel's two sides until either or the session ends.
pub(super) async fn relay(outer: &mut Outer, leg: &mut Leg) -> Finish {
    let Outer { session, guide: _, chan, id, write, server, up, backlog, gone, overrun, shape, tape, _slot: _ } = outer;
    let forward = tape.is_forward();
    let client = ClientSide { session, chan: *chan, id: *id, write, server, gone, shape, forward };
    let sent_close = CancellationToken::new();
    let upwards = async {
        let outcome = pump_up(session, up, &leg.write, &leg.inbox.asks, forward.then_some(&**shape)).await;
        sent_close.cancel();
        outcome
    };
    let downwards = client.pump_down(&mut leg.inbox.down, &leg.inbox.backlog);
    let leaving = linger(gone, &sent_close, backlog, shape);
    let (stalls, warnings) = (client.tell_stalls(), client.tell_warnings());
    tokio::pin!(upwards, downwards, leaving, stalls, warnings);
    let mut pumping = true;
    loop {
        tokio::select! {
            biased;
            end = session.ended() => break Finish::Ended(end),
            () = overrun.cancelled() => break Finish::Overrun,
            finish = &mut downwards => match finish {
                Ok(finish) => break finish,
                Err(frozen) => session.end(End::frozen(&frozen)),
            },
            outcome = &mut upwards, if pumping => {
                pumping = false;
                if let Err(frozen) = outcome {
                    session.end(End::frozen(&frozen));
                }
            }
            () = &mut leaving => break Finish::ClientGone,
            never = &mut stalls => match never {},
            frozen = &mut warnings => session.end(End::frozen(&frozen)),
        }
        if let Some(end) = session.ending() {
            break Finish::Ended(end);
        }
    }
}

/// Ready when a client has left and waiting for the target is no use any more.
async fn linger(gone: &CancellationToken, sent_close: &CancellationToken, backlog: &Backlog, shape: &Shape) {
    gone.cancelled().await;
    let mut held = backlog.held();
    loop {
        tokio::select! {
            () = sent_close.cancelled() => break,
            () = sleep(STALLED) => {}
        }
        let now = backlog.held();
        if now >= held {
            return;
        }
        held = now;
    }
    sleep(if shape.drains.load(Ordering::SeqCst) { STALLED } else { LINGER }).await;
}

/// Forwards what the client said until it has no more to say; `forwarded` is the shape of a forwarded connection.
async fn pump_up(
    session: &Session,
    queue: &mut mpsc::UnboundedReceiver<Up>,
    target: &ChannelWriteHalf<client::Msg>,
    asks: &Asks,
    forwarded: Option<&Shape>,
) -> Result<(), Frozen> {
    let mut next = None;
    loop {
        let item = match next.take() {
            Some(item) => Some(item),
            None => queue.recv().await,
        };
        let sent = match item {
            Some(Up::Data { ticket, held }) => {
                let more = || match queue.try_recv().ok()? {
                    Up::Data { ticket, held } => Some(Ok((ticket, held))),
                    other => Some(Err(other)),
                };
                let (bytes, _held, rest) =
                    gather(ticket, held, more, |(ticket, held)| Up::Data { ticket, held }).await?;
                next = rest;
                session.touch();
                target.data_bytes(bytes).await
            }
            Some(Up::Eof { ticket }) => {
                let _receipt = ticket.receipt().await?;
                target.eof().await
            }
            Some(Up::Ask { request, ticket, answer }) => {
                let _receipt = ticket.receipt().await?;
                asks.expect(request.name(), answer);
                request.send(target).await
            }
            Some(Up::Tell { request, ticket, held: _held }) => {
                let _receipt = ticket.receipt().await?;
                match request {
                    Told::Resize(Size { cols, rows, width, height }) => {
                        target.window_change(cols, rows, width, height).await
                    }
                    Told::Signal(signal) => target.signal(signal).await,
                }
            }
            Some(Up::Close { ticket }) => {
                let _receipt = ticket.receipt().await?;
                if let Some(shape) = forwarded.filter(|shape| shape.target_eof.load(Ordering::SeqCst)) {
                    // The library would keep the target's close to itself after one of ours, and with it when all that
                    // was sent has been delivered. After both ends of file the target closes unasked.
                    shape.drains.store(true, Ordering::SeqCst);
                    if !shape.client_eof.load(Ordering::SeqCst) {
                        let _ = target.eof().await;
                    }
                } else {
                    let _ = target.close().await;
                }
                return Ok(());
            }
            None => {
                let _ = target.close().await;
                return Ok(());
            }
        };
        if sent.is_err() {
            // The target's connection is over; the other pump says so when it has delivered what came before.
            return Ok(());
        }
    }
}

/// Where the target's words go.
struct ClientSide<'a> {
    session: &'a Session,
    chan: u32,
    id: ChannelId,
    write: &'a ChannelWriteHalf<server::Msg>,
    server: &'a server::Handle,
    gone: &'a CancellationToken,
    shape: &'a Shape,
    /// Whether a connection is forwarded: there is no exit to wait for, no screen to watch and nobody to tell anything.
    forward: bool,
}

/// How a process ended, kept back while a person may still be shown something.
enum Exit {
    Status(u32),
    Signal { signal: Sig, core_dumped: bool, message: String, language: String },
}

impl ClientSide<'_> {
    /// Forwards what the target said until it has closed the channel or is gone.
    async fn pump_down(&self, queue: &mut mpsc::UnboundedReceiver<Down>, backlog: &Backlog) -> Result<Finish, Frozen> {
        let (mut next, mut exited, mut exit, mut held_eof) = (None, self.forward, None, None);
        loop {
            let item = match next.take() {
                Some(item) => Some(item),
                None => tokio::select! {
                    biased;
                    item = queue.recv() => item,
                    () = self.eof_is_due(held_eof) => {
                        held_eof = None;
                        self.deliver(self.write.eof()).await;
                        continue;
                    }
                },
            };
            let Some(item) = item else {
                // A shell's exit status is told all the same: the target may go before it has closed the channel.
                if exit.is_some() && !self.gone.is_cancelled() {
                    self.show_slip().await?;
                    self.tell_exit(exit.take()).await;
                }
                return Ok(Finish::Lost { exited });
            };
            if self.gone.is_cancelled() {
                // Nobody listens, but the target must be read until it has noticed.
                backlog.release();
                match item {
                    Down::Close { .. } => return Ok(Finish::ClientGone),
                    Down::ExitStatus { status, .. } => self.session.note_exit(status),
                    _ => {}
                }
                continue;
            }
            // A shell's exit waits for all of its output and the slip (PROTOCOL.md, Added bytes); anything else goes as it came.
            let interactive = self.shape.interactive.load(Ordering::SeqCst);
            match item {
                Down::Data { stderr, ticket, held } => {
                    let more = || match queue.try_recv().ok()? {
                        Down::Data { stderr: other, ticket, held } if other == stderr => Some(Ok((ticket, held))),
                        other => Some(Err(other)),
                    };
                    let back = |(ticket, held)| Down::Data { stderr, ticket, held };
                    let (bytes, _held, rest) = gather(ticket, held, more, back).await?;
                    next = rest;
                    self.session.touch();
                    if !self.forward {
                        let kind = if stderr { ssh_err::TYPE } else { ssh_out::TYPE };
                        self.session.recent().push(Event::stream(kind, self.chan, bytes.clone()));
                    }
                    if stderr {
                        self.deliver(self.write.extended_data_bytes(1, bytes)).await;
                    } else {
                        self.deliver(self.write.data_bytes(bytes)).await;
                    }
                }
                Down::Extended { code, ticket, held: _held } => {
                    let bytes = ticket.receipt().await?.into_bytes();
                    self.deliver(self.write.extended_data_bytes(code, bytes)).await;
                }
                Down::ExitStatus { status, ticket, held: _held } => {
                    let _receipt = ticket.receipt().await?;
                    exited = true;
                    self.session.note_exit(status);
                    exit = Some(Exit::Status(status));
                    if !interactive {
                        self.tell_exit(exit.take()).await;
                        self.tell_eof(held_eof.take()).await;
                    }
                }
                Down::ExitSignal { signal, core_dumped, message, language, ticket, held: _held } => {
                    let _receipt = ticket.receipt().await?;
                    exited = true;
                    exit = Some(Exit::Signal { signal, core_dumped, message, language });
                    if !interactive {
                        self.tell_exit(exit.take()).await;
                        self.tell_eof(held_eof.take()).await;
                    }
                }
                Down::XonXoff { client_can_do, ticket, held: _held } => {
                    let _receipt = ticket.receipt().await?;
                    let _ = self.server.xon_xoff_request(self.id, client_can_do).await;
                }
                Down::Eof { ticket, held: _held } => {
                    let _receipt = ticket.receipt().await?;
                    self.shape.target_eof.store(true, Ordering::SeqCst);
                    held_eof = Some(Instant::now());
                    if exited && !interactive {
                        self.tell_eof(held_eof.take()).await;
                    }
                }
                Down::Close { ticket } => {
                    let _receipt = ticket.receipt().await?;
                    if interactive {
                        self.show_slip().await?;
                        self.tell_exit(exit.take()).await;
                    }
                    self.tell_eof(held_eof.take()).await;
                    self.deliver(self.write.close()).await;
                    return Ok(Finish::Closed);
                }
            }
        }
    }

    /// Waits for a write unless the client goes: the library does not wake writers then.
    async fn deliver(&self, write: impl Future<Output = Result<(), russh::Error>>) {
        tokio::select! {
            biased;
            // An error means that the connection is over, and `gone` with it.
            _ = write => {}
            () = self.gone.cancelled() => {}
        }
    }

    /// Ready when an end of output that is held back has to go on although the exit status has not come.
    ///
    /// A client that has sent its own end may close the channel as soon as it knows of ours (OpenSSH's does for the
    /// channels of a ControlMaster). The library answers a close by itself and forgets the channel, so an exit status
    /// that is still on its way would be lost: such a client is told after it. One that may still send is told soon, since
    /// the process may be waiting for what it sends.
    async fn eof_is_due(&self, held: Option<Instant>) {
        let interactive = self.shape.interactive.load(Ordering::SeqCst);
        let Some(since) = held.filter(|_| !interactive) else { return pending().await };
        sleep_until(since + EXIT_FOLLOWS).await;
        if self.shape.client_eof.load(Ordering::SeqCst) {
            pending::<()>().await;
        }
    }

    /// Tells the end of output, if it was held back.
    async fn tell_eof(&self, held: Option<Instant>) {
        if held.is_some() {
            self.deliver(self.write.eof()).await;
        }
    }

    /// Tells how the process ended, if the target said so; a status is never made up.
    async fn tell_exit(&self, exit: Option<Exit>) {
        match exit {
            None => {}
            Some(Exit::Status(status)) => self.deliver(self.write.exit_status(status)).await,
            Some(Exit::Signal { signal, core_dumped, message, language }) => {
                let _ = self.server.exit_signal_request(self.id, signal, core_dumped, message, language).await;
            }
        }
    }

    /// Shows the line that lets the person prove later what the log said now.
    async fn show_slip(&self) -> Result<(), Frozen> {
        match timeout(SLIP, self.session.recording().slip()).await {
            Ok(slip) => self.show("slip", &slip?.to_string(), false).await,
            Err(_) => {
                tracing::warn!(session = %self.session.recording().id(), "no slip in time");
                Ok(())
            }
        }
    }

    /// Says why nothing moves while the disk does not answer, and when it does again.
    ///
    /// Said at once: what it says cannot be recorded at that time, and no session byte is in it. The record has it after
    /// what waits before it.
    async fn tell_stalls(&self) -> Infallible {
        if self.forward {
            return pending().await;
        }
        loop {
            for (stalled, text) in [(true, STALLED_DISK), (false, "casemate: the disk answers again")] {
                self.session.recording().wait_stalled(stalled).await;
                let event = Event::map(shown::TYPE, self.chan).with(shown::WHAT, "disk").with(shown::TEXT, text);
                drop(self.session.record(Side::Target, event));
                let pty = self.shape.pty.load(Ordering::SeqCst);
                // On a line of its own, wherever the cursor is.
                let start = if pty { "\r\n" } else { "" };
                let text = format!("{start}{}", line(text, pty));
                self.deliver(self.write.extended_data_bytes(1, text)).await;
            }
        }
    }

    /// Says beforehand that a limit will end the session, where a person sits: nothing else gets an added byte.
    async fn tell_warnings(&self) -> Frozen {
        let mut warnings = self.session.warnings();
        loop {
            if warnings.changed().await.is_err() {
                // The sender is in the session, which outlives this borrow.
                pending::<()>().await;
            }
            let text = warnings.borrow_and_update().clone();
            if self.shape.interactive.load(Ordering::SeqCst)
                && let Err(frozen) = self.show("warning", &format!("casemate: {text}"), true).await
            {
                return frozen;
            }
        }
    }

    /// Records a line of the bastion's own and writes it to standard error; a fresh one wherever the cursor is.
    async fn show(&self, what: &'static str, text: &str, fresh: bool) -> Result<(), Frozen> {
        let event = Event::map(shown::TYPE, self.chan).with(shown::WHAT, what).with(shown::TEXT, text);
        let _receipt = self.session.record(Side::Target, event).receipt().await?;
        let pty = self.shape.pty.load(Ordering::SeqCst);
        let start = if fresh { line("", pty) } else { String::new() };
        self.deliver(self.write.extended_data_bytes(1, start + &line(text, pty))).await;
        Ok(())
    }
}
