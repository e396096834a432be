//! The target leg: one SSH connection to the target for one channel, or for those of one forward that listens there.
//!
//! Everything the target says comes in through callbacks of the library's task. They record and queue, and never wait:
//! a callback that waits stops the connection. Refuses every channel that a server wants to open, but those of such a
//! forward.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use casemate_recorder::Session as Recording;
use casemate_recorder::transcript::event::{Event, Side, refused};
use russh::client::{self, DisconnectReason};
use russh::keys::{HashAlg, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Channel, ChannelId, ChannelOpenFailure, ChannelWriteHalf, Disconnect, Sig};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::arrivals::{Arrivals, Refused};
use super::backlog::Backlog;
use super::channels::TOO_MANY;
use super::flow::clip;
use super::outlet::{Inbox, Outlet};
use super::passage::{Passage, Place};
use super::settings;
use super::wire::{Kill, Wire};
use crate::config::{KeyFile, Limits, TargetAuth};
use crate::policy::Grant;
use crate::target::{self, Unreachable};

/// How long a polite goodbye may take before the stream is cut.
const GOODBYE: Duration = Duration::from_secs(2);

/// Why a target's channel is refused that nobody asked for.
const UNINVITED: &str = "a target may not open channels";

/// A target's reason for not opening a channel is a line.
const REASON_LEN_MAX: usize = 1_024;

/// A logged-in connection to the target, with no channel open yet.
pub(super) struct Line {
    handle: client::Handle<TargetHandler>,
    backlog: Arc<Backlog>,
    kill: Kill,
    failures: mpsc::UnboundedReceiver<ChannelOpenFailure>,
    /// What the record says of it: address, host key fingerprint, identification line.
    pub(super) address: String,
    pub(super) host_key: String,
    pub(super) software: Vec<u8>,
}

impl Line {
    /// Asks the target to listen, and returns the port.
    pub(super) async fn listen(&self, place: &Place) -> Result<u32, russh::Error> {
        match place {
            Place::Tcp { host, port } => match (self.handle.tcpip_forward(host, *port).await?, *port) {
                // It said yes and not where.
                (0, 0) => Err(russh::Error::RequestDenied),
                // A port that was named is not said again.
                (chosen, 0) => Ok(chosen),
                (_, named) => Ok(named),
            },
            Place::Unix { path } => self.handle.streamlocal_forward(path).await.map(|()| 0),
        }
    }

    /// Asks the target to listen there no more.
    pub(super) async fn stop(&self, place: &Place) -> Result<(), russh::Error> {
        match place {
            Place::Tcp { host, port } => self.handle.cancel_tcpip_forward(host, *port).await,
            Place::Unix { path } => self.handle.cancel_streamlocal_forward(path).await,
        }
    }

    /// Opens the channel of a program.
    pub(super) async fn open_session(&self) -> Result<Write, Unreachable> {
        let opened = self.handle.channel_open_session().await;
        opened.map(write_half).map_err(|error| Unreachable::Channel(error.to_string()))
    }

    /// Opens the channel of a connection that the target makes; the error is its answer, in its words.
    pub(super) async fn open_forward(&mut self, passage: &Passage) -> Result<Write, ChannelOpenFailure> {
        let opened = match &passage.place {
            Place::Tcp { host, port } => {
                let (from, from_port) = passage.origin.clone().unwrap_or_default();
                self.handle.channel_open_direct_tcpip(host, *port, from, from_port).await
            }
            Place::Unix { path } => self.handle.channel_open_direct_streamlocal(path).await,
        };
        match opened {
            Ok(channel) => Ok(write_half(channel)),
            Err(russh::Error::ChannelOpenFailure(reason)) => {
                // The words come with the callback that the library calls next.
                let told = timeout(GOODBYE, self.failures.recv()).await;
                Err(told.ok().flatten().unwrap_or(reason))
            }
            Err(_) => Err(ChannelOpenFailure::ConnectFailed),
        }
    }

    /// Says goodbye and ends the connection.
    pub(super) async fn end(mut self) {
        self.backlog.release();
        let goodbye = async {
            let _ = self.handle.disconnect(Disconnect::ByApplication, "", "").await;
            let _ = (&mut self.handle).await;
        };
        let _ = timeout(GOODBYE, goodbye).await;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // Ends the library's task however this ends.
        self.kill.kill();
    }
}

/// Where what goes to the target on one channel is written.
pub(super) type Write = ChannelWriteHalf<client::Msg>;

fn write_half(channel: Channel<client::Msg>) -> Write {
    // Everything comes through the callbacks; the library's own queue would only stop it when nobody reads.
    let (_, write) = channel.split();
    write
}

/// One channel of a connection to the target.
pub(super) struct Leg {
    pub(super) write: Write,
    pub(super) inbox: Inbox,
}

/// Which channels a connection to the target has.
pub(super) enum Channels {
    /// The one that the bastion opens.
    One(Outlet),
    /// Those that the target opens for a forward that listens there.
    Back(Arrivals),
}

impl Channels {
    fn outlet(&self, id: ChannelId) -> Option<&Outlet> {
        match self {
            Self::One(outlet) => Some(outlet),
            Self::Back(arrivals) => arrivals.outlet(id),
        }
    }
}

/// Dials and logs in; `backlog` holds the connection's reader, and `chan` is the number in the record of what it is for.
pub(super) async fn connect(
    grant: &Grant,
    limits: &Limits,
    recording: &Recording,
    chan: u32,
    channels: Channels,
    backlog: Arc<Backlog>,
) -> Result<Line, Unreachable> {
    match timeout(limits.dial, connect_unhurried(grant, limits, recording, chan, channels, backlog)).await {
        Ok(result) => result,
        Err(_) => Err(Unreachable::TimedOut(limits.dial)),
    }
}

async fn connect_unhurried(
    grant: &Grant,
    limits: &Limits,
    recording: &Recording,
    chan: u32,
    channels: Channels,
    backlog: Arc<Backlog>,
) -> Result<Line, Unreachable> {
    let settings = settings::target(limits, grant.target().host_keys());
    let dialled = target::dial(grant, limits).await?;
    let address = dialled.peer().to_string();
    let kill = Kill::default();
    let wire = Wire::target(dialled.into_stream(), kill.clone(), Arc::clone(&backlog));
    let first_line = wire.first_line();
    let proved = Arc::new(OnceLock::new());
    let (failed, failures) = mpsc::unbounded_channel();
    let handler = TargetHandler {
        recording: recording.clone(),
        chan,
        grant: grant.clone(),
        proved: Arc::clone(&proved),
        failed,
        channels,
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
    guard.disarm();
    let host_key = proved.get().map_or_else(String::new, |(_, offered): &(bool, String)| offered.clone());
    let software = first_line.get().cloned().unwrap_or_default();
    Ok(Line { handle, backlog, kill, failures, address, host_key, software })
}

async fn log_in(handle: &mut client::Handle<TargetHandler>, grant: &Grant) -> Result<(), Unreachable> {
    let role = grant.role();
    let TargetAuth::Key(key) = &role.auth else {
        return Err(Unreachable::Login { login: role.login.clone() });
    };
    match offer(handle, &role.login, key).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Unreachable::Login { login: role.login.clone() }),
        Err(error) => Err(Unreachable::Handshake(error.to_string())),
    }
}

/// Offers a target a key, and returns whether that was enough.
pub(crate) async fn offer<H: client::Handler>(
    handle: &mut client::Handle<H>,
    login: &str,
    key: &KeyFile,
) -> Result<bool, russh::Error> {
    let hash = match key.key.algorithm().is_rsa() {
        // A server that does not say which hashes it takes is asked for the better one; never for SHA-1.
        true => handle.best_supported_rsa_hash().await.ok().flatten().flatten().or(Some(HashAlg::Sha512)),
        false => None,
    };
    let key = PrivateKeyWithHashAlg::new(Arc::clone(&key.key), hash);
    Ok(handle.authenticate_publickey(login, key).await?.success())
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
    /// The number in the record of what the connection is for.
    chan: u32,
    grant: Grant,
    proved: Arc<OnceLock<(bool, String)>>,
    failed: mpsc::UnboundedSender<ChannelOpenFailure>,
    channels: Channels,
}

impl TargetHandler {
    /// Records that the target tried to open a channel.
    fn note_refused(&self, what: &str, why: &str) {
        let event = Event::map(refused::TYPE, self.chan)
            .with(refused::WHAT, clip(format!("{what} channel opened by the target").as_bytes()))
            .with(refused::REASON, why);
        drop(self.recording.record(Side::Target, event));
    }

    /// Refuses a channel that the target opens.
    async fn refuse_channel(&self, what: &'static str, open: client::ChannelOpenHandle) {
        self.note_refused(what, UNINVITED);
        open.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
    }

    /// Takes a channel that the target opens for a forward, where there is one.
    async fn arrive(&mut self, channel: Channel<client::Msg>, passage: Passage, reply: client::ChannelOpenHandle) {
        let refused = match &mut self.channels {
            Channels::One(_) => Refused::Uninvited,
            Channels::Back(arrivals) => match arrivals.room() {
                Ok(slot) => return arrivals.take(channel.id(), write_half(channel), passage, reply, slot),
                Err(refused) => refused,
            },
        };
        let (why, reason) = match refused {
            Refused::Uninvited => (UNINVITED, ChannelOpenFailure::AdministrativelyProhibited),
            Refused::TooMany => (TOO_MANY, ChannelOpenFailure::ResourceShortage),
        };
        self.note_refused(&format!("{} from {}", passage.kind(), passage.place), why);
        reply.reject(reason).await;
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

    async fn data(&mut self, id: ChannelId, data: &[u8], _: &mut client::Session) -> Result<(), Self::Error> {
        if let Some(outlet) = self.channels.outlet(id) {
            outlet.output(false, data);
        }
        Ok(())
    }

    async fn extended_data(
        &mut self,
        id: ChannelId,
        code: u32,
        data: &[u8],
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        match self.channels.outlet(id) {
            Some(outlet) if code == 1 => outlet.output(true, data),
            Some(outlet) => outlet.extended(code, data),
            None => {}
        }
        Ok(())
    }

    async fn exit_status(&mut self, id: ChannelId, status: u32, _: &mut client::Session) -> Result<(), Self::Error> {
        if let Some(outlet) = self.channels.outlet(id) {
            outlet.exit_status(status);
        }
        Ok(())
    }

    async fn exit_signal(
        &mut self,
        id: ChannelId,
        signal: Sig,
        core_dumped: bool,
        message: &str,
        language: &str,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        if let Some(outlet) = self.channels.outlet(id) {
            outlet.exit_signal(signal, core_dumped, message, language);
        }
        Ok(())
    }

    async fn xon_xoff(
        &mut self,
        id: ChannelId,
        client_can_do: bool,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        if let Some(outlet) = self.channels.outlet(id) {
            outlet.xon_xoff(client_can_do);
        }
        Ok(())
    }

    async fn channel_eof(&mut self, id: ChannelId, _: &mut client::Session) -> Result<(), Self::Error> {
        if let Some(outlet) = self.channels.outlet(id) {
            outlet.eof();
        }
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _: &mut client::Session) -> Result<(), Self::Error> {
        if let Some(outlet) = self.channels.outlet(id) {
            outlet.close();
        }
        Ok(())
    }

    async fn channel_success(&mut self, id: ChannelId, _: &mut client::Session) -> Result<(), Self::Error> {
        if let Some(outlet) = self.channels.outlet(id) {
            outlet.answered(true);
        }
        Ok(())
    }

    async fn channel_failure(&mut self, id: ChannelId, _: &mut client::Session) -> Result<(), Self::Error> {
        if let Some(outlet) = self.channels.outlet(id) {
            outlet.answered(false);
        }
        Ok(())
    }

    async fn channel_open_failure(
        &mut self,
        _: ChannelId,
        reason: ChannelOpenFailure,
        description: &str,
        _: &str,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        let code = match &reason {
            ChannelOpenFailure::AdministrativelyProhibited => 1,
            ChannelOpenFailure::ConnectFailed => 2,
            ChannelOpenFailure::UnknownChannelType => 3,
            ChannelOpenFailure::ResourceShortage => 4,
            ChannelOpenFailure::Other { code, .. } => *code,
        };
        let words = description.chars().take(REASON_LEN_MAX).collect();
        // Nobody waits for it where a session's channel was refused.
        let _ = self.failed.send(ChannelOpenFailure::Other { code, reason: words });
        Ok(())
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        channel: Channel<client::Msg>,
        host: &str,
        port: u32,
        origin_host: &str,
        origin_port: u32,
        reply: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        let place = Place::Tcp { host: host.to_owned(), port };
        let passage = Passage { back: true, place, origin: Some((origin_host.to_owned(), origin_port)) };
        self.arrive(channel, passage, reply).await;
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        channel: Channel<client::Msg>,
        path: &str,
        reply: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        let passage = Passage { back: true, place: Place::Unix { path: path.to_owned() }, origin: None };
        self.arrive(channel, passage, reply).await;
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
        self.note_refused("unknown", UNINVITED);
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
