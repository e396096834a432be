//! The front door's side of one SSH connection: login, and what a client asks for once it is in.
//!
//! Callbacks of the library's task. They decide with `login` and the policy who gets in, and hand what a client asks for
//! to `channels`. What neither runs a program nor is forwarded is refused and recorded.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use casemate_recorder::transcript::event::{self, Event, Side, resize};
use russh::keys::{Certificate, HashAlg};
use russh::server::{self, Auth, ChannelOpenHandle, Handler, PublicKeyOffer, Response, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, Pty, Sig};
use tokio::sync::oneshot;

use super::backlog::Backlog;
use super::channels::{Channels, Way};
use super::desk::Desk;
use super::flow::Ask;
use super::jump::{Direct, Jump, Origin};
use super::login::{Exhausted, Login, Tries};
use super::passage::{Passage, Place};
use super::said::{Request, Size, Told};
use super::settings::accepts_signature;
use super::signal_name;
use crate::config::TargetKind;
use crate::error::Fault;
use crate::policy::{Denial, Identity, MalformedLogin, Wanted};
use crate::server::{Door, Slot};
use crate::session::{Introduction, Purpose, Session};

/// Why a connection ends from this side.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrontError {
    /// The library cannot go on: a broken peer, or a string that it cannot take.
    #[error(transparent)]
    Library(#[from] russh::Error),
    /// No more tries.
    #[error("login: {0}")]
    Exhausted(#[from] Exhausted),
}

/// How a login ended well.
pub(crate) enum Outcome {
    /// With a session.
    Live(Arc<Session>, Slot),
    /// With a text that says why there is none.
    TurnedAway,
}

/// Where a connection comes from.
pub(crate) enum Approach {
    /// A socket of the front door.
    Street {
        /// The address that was connected to.
        local: SocketAddr,
    },
    /// A channel of a portal. Who is there is known; what for is not.
    Jump(Jump),
}

enum Stage {
    Login,
    /// Who it is was proved, and they get this; the library calls `auth_succeeded` next.
    Proven(Box<(Identity, Result<Purpose, String>)>),
    /// What may be had is with the channels.
    LoggedIn,
}

/// The handler of one client connection.
pub(crate) struct Front {
    door: Door,
    source: SocketAddr,
    approach: Approach,
    stage: Stage,
    login: Login,
    /// Set by whoever ends the connection before login.
    cut: Arc<OnceLock<String>>,
    /// Whether a refusal of this connection is recorded already.
    refused: bool,
    channels: Channels,
    outcome: Option<oneshot::Sender<Outcome>>,
}

impl Front {
    pub(crate) fn new(
        door: Door,
        source: SocketAddr,
        approach: Approach,
        uploads: Arc<Backlog>,
        outcome: oneshot::Sender<Outcome>,
        cut: Arc<OnceLock<String>>,
    ) -> Self {
        let policy = door.policy();
        let limits = &policy.config().limits;
        let login = Login::new(Tries { probes: limits.probes, attempts: limits.attempts });
        let refused = false;
        Self {
            door,
            source,
            approach,
            stage: Stage::Login,
            login,
            cut,
            refused,
            channels: Channels::new(uploads),
            outcome: Some(outcome),
        }
    }

    /// Refuses a request that proved nothing, and counts it.
    fn refuse_login(
        &mut self,
        user: &str,
        method: &'static str,
        key: Option<&str>,
        why: &str,
    ) -> Result<Auth, FrontError> {
        self.door.note_login(self.source, Some(user), method, key, Err(why));
        self.refused = true;
        if let Err(exhausted) = self.login.fail(user) {
            let _ = self.cut.set("too many failed attempts".to_owned());
            return Err(exhausted.into());
        }
        Ok(Auth::reject())
    }

    /// What a login name asks for. Inside a portal it names the role alone: the person and the target are settled.
    fn wanted(&self, user: &str) -> Result<Wanted, MalformedLogin> {
        match &self.approach {
            Approach::Street { .. } => Wanted::parse(user),
            Approach::Jump(jump) => Ok(Wanted {
                person: jump.portal.identity().person().to_owned(),
                target: Some(jump.target.name.clone()),
                role: Some(user.to_owned()),
            }),
        }
    }

    /// Decides what somebody gets whose identity is proved.
    fn admit(&mut self, user: &str, method: &'static str, identity: Identity) -> Result<Auth, FrontError> {
        let key = identity.fingerprint().to_owned();
        let Ok(wanted) = self.wanted(user) else {
            return self.refuse_login(user, method, Some(&key), "malformed login name");
        };
        let policy = self.door.policy();
        let leave = match policy.authorize(&identity, &wanted, TargetKind::Ssh) {
            Ok(grant) => Ok(Purpose::Work(grant)),
            Err(Denial::NoTarget { .. }) => Ok(Purpose::Portal),
            // They have a way to the target, or they would not be inside: which roles are open is theirs to know.
            Err(denial @ Denial::RoleNotGranted { .. }) if matches!(self.approach, Approach::Jump(_)) => {
                Err((policy.roles_text(&identity, &wanted), denial.to_string()))
            }
            // Something was left out: the person is told what, it gives nothing away that is not theirs.
            Err(denial) if denial.fault() == Fault::Client => Err((denial.client_text(), denial.to_string())),
            Err(denial) => return self.refuse_login(user, method, Some(&key), &denial.to_string()),
        };
        let outcome = leave.as_ref().map(|_| ()).map_err(|(_, why)| why.as_str());
        self.door.note_login(self.source, Some(user), method, Some(&key), outcome);
        self.stage = Stage::Proven(Box::new((identity, leave.map_err(|(text, _)| text))));
        Ok(Auth::Accept)
    }

    async fn refuse_channel(&self, what: &str, open: ChannelOpenHandle) {
        self.channels.refused(0, what, "only session channels pass");
        open.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
    }

    /// Puts a request to the channel and gives the library the answer.
    async fn ask(
        &mut self,
        id: ChannelId,
        ask: Ask<'_>,
        request: Request,
        session: &mut server::Session,
    ) -> Result<(), FrontError> {
        let answered = self.channels.ask(id, ask, request).await;
        if answered {
            session.channel_success(id)?;
        } else {
            session.channel_failure(id)?;
        }
        Ok(())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // Refusals have their records; what is left to say is that there was no login, and who cut the connection.
        if !matches!(self.stage, Stage::LoggedIn) && (!self.refused || self.cut.get().is_some()) {
            let why = self.cut.get().map_or("left without logging in", String::as_str);
            let (name, key) = self.login.last();
            self.door.note_login(self.source, name, "none", key, Err(&format!("{why} ({})", self.login)));
        }
    }
}

impl Handler for Front {
    type Error = FrontError;

    async fn authentication_banner(&mut self) -> Result<Option<String>, Self::Error> {
        Ok(match &self.approach {
            Approach::Street { .. } => Some(format!("{}\n", self.door.policy().config().notice.trim_end())),
            // The portal showed it.
            Approach::Jump(_) => None,
        })
    }

    async fn auth_none(&mut self, user: &str) -> Result<Auth, Self::Error> {
        self.login.ask_methods(user);
        match &self.approach {
            // The client names the originator, and of a forwarded port it names whatever port somebody there chose: it proves
            // nothing, so this holds only where the operators have said that their clients' machines have one user each.
            Approach::Jump(jump)
                if jump.origin == Origin::Client && self.door.policy().config().listen.jump_without_key =>
            {
                let identity = jump.portal.identity().clone();
                self.admit(user, "jump", identity)
            }
            _ => Ok(Auth::reject()),
        }
    }

    async fn auth_password(&mut self, user: &str, _: &str) -> Result<Auth, Self::Error> {
        self.refuse_login(user, "password", None, "method not offered")
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        user: &str,
        _: &str,
        _: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        self.refuse_login(user, "keyboard-interactive", None, "method not offered")
    }

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        let fingerprint = offer.public_key.fingerprint(HashAlg::Sha256).to_string();
        if let Err(exhausted) = self.login.probe(user, fingerprint) {
            let _ = self.cut.set("too many keys offered".to_owned());
            return Err(exhausted.into());
        }
        // Whether a proof would be of use, and nothing else: nobody has proved anything yet.
        let useful = accepts_signature(offer.algorithm)
            && self.wanted(user).is_ok_and(|wanted| self.door.policy().knows_key(&wanted.person, offer.public_key));
        Ok(if useful { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let fingerprint = key.public_key.fingerprint(HashAlg::Sha256).to_string();
        let shown = Some(fingerprint.as_str());
        self.stage = Stage::Login;
        if !accepts_signature(key.algorithm) {
            return self.refuse_login(user, "publickey", shown, "signature algorithm not accepted");
        }
        let Ok(wanted) = self.wanted(user) else {
            return self.refuse_login(user, "publickey", shown, "malformed login name");
        };
        let Some(identity) = self.door.policy().identify(&wanted.person, key.public_key, self.source) else {
            return self.refuse_login(user, "publickey", shown, "no such person with that key");
        };
        self.admit(user, "publickey", identity)
    }

    async fn auth_openssh_certificate(&mut self, user: &str, certificate: &Certificate) -> Result<Auth, Self::Error> {
        let fingerprint = certificate.public_key().fingerprint(HashAlg::Sha256).to_string();
        self.refuse_login(user, "publickey-cert", Some(&fingerprint), "certificates are not accepted")
    }

    async fn auth_succeeded(&mut self, session: &mut server::Session) -> Result<(), Self::Error> {
        let Stage::Proven(proven) = std::mem::replace(&mut self.stage, Stage::Login) else {
            // Nothing leads here; without an identity there is nothing to go on with.
            return Err(russh::Error::Inconsistent.into());
        };
        let (identity, leave) = *proven;
        let policy = self.door.policy();
        let portal = match &self.approach {
            Approach::Street { .. } => None,
            Approach::Jump(jump) => Some(&jump.portal),
        };
        let introduction = Introduction {
            software: session.remote_sshid().to_vec(),
            notice: portal.map_or_else(|| policy.config().notice.trim_end().to_owned(), |_| String::new()),
            portal: portal.map(|portal| portal.recording().id()),
        };
        let opened = match leave {
            Ok(purpose) => {
                self.door.open(identity, purpose.clone(), &policy, &introduction).await.map(|it| (it, purpose))
            }
            Err(text) => Err(text),
        };
        self.stage = Stage::LoggedIn;
        let outcome = match opened {
            Ok(((session, slot), purpose)) => {
                if let Some(portal) = portal {
                    drop(portal.record(Side::Client, session.mention("opened", "")));
                }
                let way = match (purpose, &self.approach) {
                    (Purpose::Work(grant), _) => Way::Target(grant),
                    (Purpose::Portal, Approach::Street { local }) => {
                        let software = introduction.software;
                        Way::Portal(Arc::new(Desk::new(self.door.clone(), *local, software)))
                    }
                    // A connection inside a portal names a target by its making.
                    (Purpose::Portal, Approach::Jump(_)) => return Err(russh::Error::Inconsistent.into()),
                };
                self.channels.lead_into(Arc::clone(&session), way);
                Outcome::Live(session, slot)
            }
            Err(text) => {
                self.channels.turn_away(text);
                Outcome::TurnedAway
            }
        };
        if let Some(sender) = self.outcome.take() {
            let _ = sender.send(outcome);
        }
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<server::Msg>,
        open: ChannelOpenHandle,
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        self.channels.open(channel, open, session.handle()).await;
        Ok(())
    }

    async fn channel_open_x11(
        &mut self,
        _: Channel<server::Msg>,
        _: &str,
        _: u32,
        open: ChannelOpenHandle,
        _: &mut server::Session,
    ) -> Result<(), Self::Error> {
        self.refuse_channel("x11 channel", open).await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<server::Msg>,
        host: &str,
        port: u32,
        origin_host: &str,
        origin_port: u32,
        open: ChannelOpenHandle,
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        let wanted = Direct { host, port, origin_host, origin_port };
        self.channels.open_direct(channel, wanted, open, session.handle()).await;
        Ok(())
    }

    async fn channel_open_forwarded_tcpip(
        &mut self,
        _: Channel<server::Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        open: ChannelOpenHandle,
        _: &mut server::Session,
    ) -> Result<(), Self::Error> {
        self.refuse_channel(&format!("forwarded-tcpip channel to {host}:{port}"), open).await;
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<server::Msg>,
        path: &str,
        open: ChannelOpenHandle,
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        let passage = Passage { back: false, place: Place::Unix { path: path.to_owned() }, origin: None };
        self.channels.open_forward(channel, passage, open, session.handle()).await;
        Ok(())
    }

    async fn channel_open_confirmation(
        &mut self,
        id: ChannelId,
        _: u32,
        _: u32,
        _: &mut server::Session,
    ) -> Result<(), Self::Error> {
        // A client that lets in what nobody opens does not speak the protocol.
        if self.channels.meet(id).await { Ok(()) } else { Err(russh::Error::Inconsistent.into()) }
    }

    async fn data(&mut self, id: ChannelId, data: &[u8], _: &mut server::Session) -> Result<(), Self::Error> {
        self.channels.data(id, data);
        Ok(())
    }

    async fn extended_data(
        &mut self,
        id: ChannelId,
        code: u32,
        _: &[u8],
        _: &mut server::Session,
    ) -> Result<(), Self::Error> {
        self.channels.refused(id.number(), &format!("extended data {code}"), "clients have no extended data to send");
        Ok(())
    }

    fn adjust_window(&mut self, _: ChannelId, _: u32) -> u32 {
        self.channels.window()
    }

    async fn channel_eof(&mut self, id: ChannelId, _: &mut server::Session) -> Result<(), Self::Error> {
        self.channels.eof(id);
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _: &mut server::Session) -> Result<(), Self::Error> {
        self.channels.close(id);
        Ok(())
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        term: &str,
        cols: u32,
        rows: u32,
        width: u32,
        height: u32,
        modes: &[(Pty, u32)],
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        // The library leaves the end mark in place of opcodes that it does not know.
        let modes: Vec<_> = modes.iter().copied().filter(|(code, _)| *code != Pty::TTY_OP_END).collect();
        let request = Request::Pty { term: term.to_owned(), size: Size { cols, rows, width, height }, modes };
        self.ask(id, Ask::Pty, request, session).await
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        name: &str,
        value: &str,
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        let allowed = self.channels.session().is_some_and(|session| session.limits().env_passes(name));
        let request = Request::Env { name: name.to_owned(), value: value.to_owned() };
        self.ask(id, Ask::Env { allowed }, request, session).await
    }

    async fn shell_request(&mut self, id: ChannelId, session: &mut server::Session) -> Result<(), Self::Error> {
        self.ask(id, Ask::Shell, Request::Shell, session).await
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        self.ask(id, Ask::Exec, Request::Exec(command.to_vec()), session).await
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        self.ask(id, Ask::Subsystem(name), Request::Subsystem(name.to_owned()), session).await
    }

    async fn window_change_request(
        &mut self,
        id: ChannelId,
        cols: u32,
        rows: u32,
        width: u32,
        height: u32,
        _: &mut server::Session,
    ) -> Result<(), Self::Error> {
        let event = Event::map(resize::TYPE, id.number())
            .with(resize::COLS, cols)
            .with(resize::ROWS, rows)
            .with(resize::WIDTH, width)
            .with(resize::HEIGHT, height);
        self.channels.tell(id, Told::Resize(Size { cols, rows, width, height }), event);
        Ok(())
    }

    async fn signal(&mut self, id: ChannelId, signal: Sig, _: &mut server::Session) -> Result<(), Self::Error> {
        let event =
            Event::map(event::signal::TYPE, id.number()).with(event::signal::NAME, signal_name(&signal).as_bytes());
        self.channels.tell(id, Told::Signal(signal), event);
        Ok(())
    }

    async fn x11_request(
        &mut self,
        id: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        session: &mut server::Session,
    ) -> Result<(), Self::Error> {
        self.channels.refused(id.number(), "x11-req", "X11 is not forwarded");
        Ok(session.channel_failure(id)?)
    }

    async fn agent_request(&mut self, id: ChannelId, _: &mut server::Session) -> Result<bool, Self::Error> {
        self.channels.refused(id.number(), "auth-agent-req@openssh.com", "agents are not forwarded");
        Ok(false)
    }

    async fn tcpip_forward(
        &mut self,
        host: &str,
        port: &mut u32,
        session: &mut server::Session,
    ) -> Result<bool, Self::Error> {
        let place = Place::Tcp { host: host.to_owned(), port: *port };
        let bound = self.channels.listen(place, session.handle()).await;
        *port = bound.unwrap_or(*port);
        Ok(bound.is_some())
    }

    async fn cancel_tcpip_forward(
        &mut self,
        host: &str,
        port: u32,
        _: &mut server::Session,
    ) -> Result<bool, Self::Error> {
        Ok(self.channels.listen_no_more(&Place::Tcp { host: host.to_owned(), port }).await)
    }

    async fn streamlocal_forward(&mut self, path: &str, session: &mut server::Session) -> Result<bool, Self::Error> {
        Ok(self.channels.listen(Place::Unix { path: path.to_owned() }, session.handle()).await.is_some())
    }

    async fn cancel_streamlocal_forward(&mut self, path: &str, _: &mut server::Session) -> Result<bool, Self::Error> {
        Ok(self.channels.listen_no_more(&Place::Unix { path: path.to_owned() }).await)
    }
}
