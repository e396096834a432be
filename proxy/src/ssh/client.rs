//! The target leg: one SSH connection to the target for one session channel.
//!
//! Everything the target says comes in through callbacks of the library's task. They record and queue, and never wait:
//! a callback that waits stops the connection. Refuses every channel that a server wants to open.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use casemate_recorder::transcript::event::{
    Event, STREAM_LEN_MAX, Side, chan_close, eof, exit, extended, refused, reply, request, ssh_err, ssh_out,
};
use casemate_recorder::{Session as Recording, Ticket};
use russh::client::{self, DisconnectReason};
use russh::keys::{HashAlg, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Channel, ChannelId, ChannelOpenFailure, ChannelWriteHalf, Disconnect, Sig};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::backlog::{Backlog, Held};
use super::files::Files;
use super::settings;
use super::wire::{Kill, Wire};
use crate::config::{Limits, TargetAuth};
use crate::policy::Grant;
use crate::target::{self, Unreachable};

/// How long a polite goodbye may take before the stream is cut.
const GOODBYE: Duration = Duration::from_secs(2);

/// What the target said, in its order, each with the ticket that lets it go on.
#[derive(Debug)]
pub(super) enum Down {
    /// Bytes of standard output or standard error.
    Data { stderr: bool, ticket: Ticket, held: Held },
    /// Bytes of another extended data code.
    Extended { code: u32, ticket: Ticket, held: Held },
    /// The process ended with a status.
    ExitStatus { status: u32, ticket: Ticket },
    /// The process was ended by a signal.
    ExitSignal { signal: Sig, core_dumped: bool, message: String, language: String, ticket: Ticket },
    /// Whether the client may do flow control.
    XonXoff { client_can_do: bool, ticket: Ticket },
    /// No more output.
    Eof { ticket: Ticket },
    /// The channel is closed.
    Close { ticket: Ticket },
}

/// The target's answer to a request, and the ticket of its record.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) success: bool,
    pub(super) ticket: Ticket,
}

/// Requests on their way, in order: answers carry no name, their order is all there is.
#[derive(Debug, Default)]
pub(super) struct Asks(Mutex<VecDeque<(&'static str, oneshot::Sender<Answer>)>>);

impl Asks {
    /// Expects an answer to a request that is about to be sent.
    pub(super) fn expect(&self, what: &'static str, answer: oneshot::Sender<Answer>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back((what, answer));
    }

    fn next(&self) -> Option<(&'static str, oneshot::Sender<Answer>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Gives up on all answers: whoever waits learns that there will be none.
    pub(super) fn abandon(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A logged-in connection to the target with its one session channel open.
pub(super) struct Leg {
    pub(super) write: ChannelWriteHalf<client::Msg>,
    pub(super) down: mpsc::UnboundedReceiver<Down>,
    pub(super) asks: Arc<Asks>,
    pub(super) backlog: Arc<Backlog>,
    handle: client::Handle<TargetHandler>,
    kill: Kill,
    /// What the record says of it: address, host key fingerprint, identification line.
    pub(super) address: String,
    pub(super) host_key: String,
    pub(super) software: Vec<u8>,
}

impl Leg {
    /// Says goodbye and ends the connection.
    pub(super) async fn end(mut self) {
        self.backlog.release();
        self.asks.abandon();
        self.down.close();
        let goodbye = async {
            let _ = self.handle.disconnect(Disconnect::ByApplication, "", "").await;
            let _ = (&mut self.handle).await;
        };
        let _ = timeout(GOODBYE, goodbye).await;
        self.kill.kill();
    }
}

/// Dials, logs in and opens the session channel; `chan` is its number in the record.
pub(super) async fn connect(
    grant: &Grant,
    limits: &Limits,
    recording: &Recording,
    chan: u32,
    files: &Arc<Files>,
) -> Result<Leg, Unreachable> {
    match timeout(limits.dial, connect_unhurried(grant, limits, recording, chan, files)).await {
        Ok(result) => result,
        Err(_) => Err(Unreachable::TimedOut(limits.dial)),
    }
}

async fn connect_unhurried(
    grant: &Grant,
    limits: &Limits,
    recording: &Recording,
    chan: u32,
    files: &Arc<Files>,
) -> Result<Leg, Unreachable> {
    let settings = settings::target(limits, &grant.target().host_keys);
    let dialled = target::dial(grant, limits).await?;
    let address = dialled.peer().to_string();
    let (kill, backlog, asks) = (Kill::default(), Backlog::new(limits.backlog), Arc::new(Asks::default()));
    let wire = Wire::target(dialled.into_stream(), kill.clone(), Arc::clone(&backlog));
    let first_line = wire.first_line();
    let proved = Arc::new(OnceLock::new());
    let (queue, down) = mpsc::unbounded_channel();
    let handler = TargetHandler {
        recording: recording.clone(),
        chan,
        grant: grant.clone(),
        proved: Arc::clone(&proved),
        queue,
        asks: Arc::clone(&asks),
        backlog: Arc::clone(&backlog),
        files: Arc::clone(files),
    };
    // Ends the library's task also when the caller gives up waiting in here.
    let guard = KillOnDrop(Some(kill.clone()));
    let mut handle = client::connect_stream(settings, wire, handler).await.map_err(|error| match error {
        // Only a key that is not pinned makes the library say this.
        russh::Error::UnknownKey => Unreachable::HostKey {
            offered: proved.get().map_or_else(String::new, |(_, offered)| String::clone(offered)),
        },
        error => Unreachable::Handshake(error.to_string()),
    })?;
    log_in(&mut handle, grant).await?;
    let channel = handle.channel_open_session().await.map_err(|error| Unreachable::Channel(error.to_string()))?;
    // Everything comes through the callbacks; the library's own queue would only stop it when nobody reads.
    let (_, write) = channel.split();
    guard.disarm();
    let host_key = proved.get().map_or_else(String::new, |(_, offered): &(bool, String)| offered.clone());
    let software = first_line.get().cloned().unwrap_or_default();
    Ok(Leg { write, down, asks, backlog, handle, kill, address, host_key, software })
}

async fn log_in(handle: &mut client::Handle<TargetHandler>, grant: &Grant) -> Result<(), Unreachable> {
    let role = grant.role();
    let TargetAuth::Key(key) = &role.auth;
    let hash = match key.key.algorithm().is_rsa() {
        // A server that does not say which hashes it takes is asked for the better one; never for SHA-1.
        true => handle.best_supported_rsa_hash().await.ok().flatten().flatten().or(Some(HashAlg::Sha512)),
        false => None,
    };
    let key = PrivateKeyWithHashAlg::new(Arc::clone(&key.key), hash);
    let result = handle.authenticate_publickey(role.login.as_str(), key).await;
    match result {
        Ok(result) if result.success() => Ok(()),
        Ok(_) => Err(Unreachable::Login { login: role.login.clone() }),
        Err(error) => Err(Unreachable::Handshake(error.to_string())),
    }
}

struct KillOnDrop(Option<Kill>);

impl KillOnDrop {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(kill) = &self.0 {
            kill.kill();
        }
    }
}

/// The callbacks of one target connection.
pub(super) struct TargetHandler {
    recording: Recording,
    chan: u32,
    grant: Grant,
    proved: Arc<OnceLock<(bool, String)>>,
    queue: mpsc::UnboundedSender<Down>,
    asks: Arc<Asks>,
    backlog: Arc<Backlog>,
    files: Arc<Files>,
}

impl TargetHandler {
    fn record(&self, event: Event) -> Ticket {
        self.recording.record(Side::Target, event)
    }

    fn queue(&self, down: Down) {
        // Nobody takes it once the channel is over.
        let _ = self.queue.send(down);
    }

    fn output(&self, stderr: bool, data: &[u8]) {
        // What nobody will be shown is not part of what was shown.
        if self.queue.is_closed() || self.backlog.is_released() {
            return;
        }
        let kind = if stderr { ssh_err::TYPE } else { ssh_out::TYPE };
        for piece in data.chunks(STREAM_LEN_MAX) {
            let held = self.backlog.hold(piece.len());
            let piece = Bytes::copy_from_slice(piece);
            let ticket = self.files.record(&self.recording, Side::Target, kind, piece);
            self.queue(Down::Data { stderr, ticket, held });
        }
    }

    fn answered(&self, success: bool) {
        let Some((what, answer)) = self.asks.next() else {
            // An answer that nobody asked for means nothing (Go CVE-2026-39830).
            return;
        };
        let event = Event::map(reply::TYPE, self.chan).with(reply::TO, what).with(reply::SUCCESS, success);
        let ticket = self.record(event);
        let _ = answer.send(Answer { success, ticket });
    }

    /// Records that the target tried to open a channel.
    fn note_refused(&self, what: &'static str) {
        let event = Event::map(refused::TYPE, self.chan)
            .with(refused::WHAT, format!("{what} channel opened by the target"))
            .with(refused::REASON, "a target may not open channels");
        drop(self.record(event));
    }

    /// Refuses a channel that the target opens.
    async fn refuse_channel(&self, what: &'static str, open: client::ChannelOpenHandle) {
        self.note_refused(what);
        open.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
    }
}

impl client::Handler for TargetHandler {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = key else { return Ok(false) };
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        let pinned = target::is_pinned(&self.grant, key);
        let first = self.proved.get_or_init(|| (pinned, fingerprint.clone()));
        // A key that changes at a later key exchange is as suspicious as an unknown one (OpenSSH CVE-2026-60002). The library asks at
        // the first exchange alone, so that for now nothing brings such a key here.
        Ok(pinned && first.1 == fingerprint)
    }

    async fn data(&mut self, _: ChannelId, data: &[u8], _: &mut client::Session) -> Result<(), Self::Error> {
        self.output(false, data);
        Ok(())
    }

    async fn extended_data(
        &mut self,
        _: ChannelId,
        code: u32,
        data: &[u8],
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        if code == 1 {
            self.output(true, data);
            return Ok(());
        }
        for piece in data.chunks(STREAM_LEN_MAX) {
            let held = self.backlog.hold(piece.len());
            let event = Event::map(extended::TYPE, self.chan)
                .with(extended::CODE, code)
                .with(extended::DATA, piece)
                .with(extended::SIDE, 1u32);
            let ticket = self.record(event);
            self.queue(Down::Extended { code, ticket, held });
        }
        Ok(())
    }

    async fn exit_status(&mut self, _: ChannelId, status: u32, _: &mut client::Session) -> Result<(), Self::Error> {
        let ticket = self.record(Event::map(exit::TYPE, self.chan).with(exit::STATUS, status));
        self.queue(Down::ExitStatus { status, ticket });
        Ok(())
    }

    async fn exit_signal(
        &mut self,
        _: ChannelId,
        signal: Sig,
        core_dumped: bool,
        message: &str,
        language: &str,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        let event = Event::map(exit::TYPE, self.chan)
            .with(exit::SIGNAL, super::signal_name(&signal).as_bytes())
            .with(exit::CORE, core_dumped)
            .with(exit::MESSAGE, message.as_bytes());
        let ticket = self.record(event);
        let (message, language) = (message.to_owned(), language.to_owned());
        self.queue(Down::ExitSignal { signal, core_dumped, message, language, ticket });
        Ok(())
    }

    async fn xon_xoff(
        &mut self,
        _: ChannelId,
        client_can_do: bool,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        let event = Event::map(request::TYPE, self.chan).with(request::NAME, "xon-xoff").with(request::SIDE, 1u32);
        let ticket = self.record(event);
        self.queue(Down::XonXoff { client_can_do, ticket });
        Ok(())
    }

    async fn channel_eof(&mut self, _: ChannelId, _: &mut client::Session) -> Result<(), Self::Error> {
        let ticket = self.record(Event::map(eof::TYPE, self.chan).with(eof::SIDE, 1u32));
        self.queue(Down::Eof { ticket });
        Ok(())
    }

    async fn channel_close(&mut self, _: ChannelId, _: &mut client::Session) -> Result<(), Self::Error> {
        let ticket = self.record(Event::map(chan_close::TYPE, self.chan).with(chan_close::SIDE, 1u32));
        self.queue(Down::Close { ticket });
        Ok(())
    }

    async fn channel_success(&mut self, _: ChannelId, _: &mut client::Session) -> Result<(), Self::Error> {
        self.answered(true);
        Ok(())
    }

    async fn channel_failure(&mut self, _: ChannelId, _: &mut client::Session) -> Result<(), Self::Error> {
        self.answered(false);
        Ok(())
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _: Channel<client::Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        reply: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        self.refuse_channel("forwarded-tcpip", reply).await;
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: Channel<client::Msg>,
        _: &str,
        reply: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        self.refuse_channel("forwarded-streamlocal", reply).await;
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _: Channel<client::Msg>,
        reply: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        self.refuse_channel("auth-agent", reply).await;
        Ok(())
    }

    async fn should_accept_unknown_server_channel(&mut self, _: ChannelId, _: &str) -> bool {
        self.note_refused("unknown");
        false
    }

    async fn server_channel_open_session(
        &mut self,
        _: Channel<client::Msg>,
        reply: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        self.refuse_channel("session", reply).await;
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel<client::Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        reply: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        self.refuse_channel("direct-tcpip", reply).await;
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel<client::Msg>,
        _: &str,
        reply: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        self.refuse_channel("direct-streamlocal", reply).await;
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _: Channel<client::Msg>,
        _: &str,
        _: u32,
        reply: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        self.refuse_channel("x11", reply).await;
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Self::Error>) -> Result<(), Self::Error> {
        if let DisconnectReason::Error(error) = reason {
            tracing::debug!(chan = self.chan, %error, "target connection ended");
        }
        Ok(())
    }
}
