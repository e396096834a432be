//! The accept loop, and what a connection may use up before and while it is a session.
//!
//! Takes a permit before anything else and drains at shutdown; `converse` serves one connection in between. Speaks no
//! protocol.

pub(crate) mod converse;
mod guard;
pub(crate) mod postgres;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use casemate_recorder::transcript::event::{Event, Side, auth, refused};
use casemate_recorder::{CloseReason, Recorder, SessionId, TranscriptKind};
use russh::server::Config as ServerSettings;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::guard::{Caps, Counter, Lobby, Permit, Throttle};
use crate::alerts::{Alerts, Kind};
use crate::metrics::{Cancelling, Claim, Metrics, Statements};
use crate::pg::cancel::Cancels;
use crate::pg::live::Running;
use crate::policy::{Identity, Live as LivePolicy, Policy, Wanted};
use crate::recording::{self, Hold, Run};
use crate::session::{End, Introduction, Purpose, Session};
use crate::ssh::settings;
use crate::ssh::wire::Kill;
use crate::tokens::Tokens;

/// How long the accept loop rests when the system has no descriptor to give.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Refused logins that are recorded one by one in a burst, and per second after it. The rest is counted.
const REFUSALS_BURST: u32 = 200;
const REFUSALS_PER_SECOND: u32 = 5;

/// How much of a login name and of a reason that repeats it is recorded. No name that leads anywhere is as long, and whoever can
/// connect chooses them: the daemon's own record must neither grow by what strangers send nor get a gap for it.
const LOGIN_TEXT_MAX: usize = 512;

/// What every connection of the front door shares.
#[derive(Clone)]
pub struct Door(Arc<Inner>);

struct Inner {
    runs: Arc<recording::Live>,
    policy: Arc<LivePolicy>,
    settings: Arc<ServerSettings>,
    /// Sessions that are live, oldest first: their IDs begin with the time.
    live: Mutex<BTreeMap<SessionId, Weak<Session>>>,
    sessions: Counter<String>,
    portals: Counter<String>,
    lobby: Lobby<guard::Source, (SocketAddr, WayOut)>,
    refusals: Mutex<Throttle>,
    /// Who decides what is kept and what may go, one at a time.
    retention: tokio::sync::Mutex<()>,
    tokens: Tokens,
    cancels: Arc<Cancels<Running>>,
    metrics: Arc<Metrics>,
    alerts: Alerts,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("sessions", &self.0.sessions.total()).finish_non_exhaustive()
    }
}

/// A place among the sessions that may run at once. Dropped, it is free again.
pub(crate) struct Slot {
    _permit: Permit<String>,
    hold: Hold,
    door: Door,
    id: SessionId,
    kind: TranscriptKind,
}

impl Slot {
    /// Seals the session's transcript, and counts its end.
    pub(crate) async fn close(&self, session: &Session) {
        session.close(self.hold.recorder()).await;
        if let Some(end) = session.ending() {
            self.door.0.metrics.session_closed(self.kind, end.reason);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.door.0.metrics.session_gone(self.kind);
        lock(&self.door.0.live).remove(&self.id);
    }
}

/// Who may end a connection from outside.
enum Cut {
    /// The daemon, when it is to end.
    Shutdown(CancellationToken),
    /// The portal session that carries it, when that ends.
    Portal(Arc<Session>),
}

impl Cut {
    /// Waits until the connection is to end, and says why.
    async fn wait(&self) -> End {
        match self {
            Self::Shutdown(token) => {
                token.cancelled().await;
                let notice = "this session ends: the bastion is shutting down";
                End::with_notice(CloseReason::Shutdown, "the drain is over", notice)
            }
            Self::Portal(portal) => {
                let End { reason, text, notice } = portal.ended().await;
                End { reason, text: format!("the portal session ended: {text}"), notice }
            }
        }
    }
}

/// A place among those who have not logged in.
type Waiting = guard::Place<guard::Source, (SocketAddr, WayOut)>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn clip(text: &str) -> &str {
    text.get(..text.floor_char_boundary(LOGIN_TEXT_MAX)).unwrap_or(text)
}

impl Door {
    /// Makes a door from the policy in force: its host keys and keepalive stay as they are now.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new(
        runs: Arc<recording::Live>,
        policy: Arc<LivePolicy>,
        metrics: Arc<Metrics>,
        alerts: Alerts,
    ) -> Result<Self, getrandom::Error> {
        let config = Arc::clone(policy.current().config());
        let refusals = Throttle::new(REFUSALS_BURST, REFUSALS_PER_SECOND, Instant::now());
        // The number that long cancel keys carry: other nodes can tell that they are not theirs.
        let node =
            u16::from_be_bytes(*blake3::hash(config.node.as_bytes()).as_bytes().first_chunk().unwrap_or(&[0; 2]));
        Ok(Self(Arc::new(Inner {
            runs,
            policy,
            settings: settings::server(&config),
            live: Mutex::default(),
            sessions: Counter::default(),
            portals: Counter::default(),
            lobby: Lobby::default(),
            refusals: Mutex::new(refusals),
            retention: tokio::sync::Mutex::default(),
            tokens: Tokens::new()?,
            cancels: Arc::new(Cancels::new(node)?),
            metrics,
            alerts,
        })))
    }

    fn run(&self) -> Arc<Run> {
        self.0.runs.current()
    }

    /// Keeps others from deciding what is kept and what may go, until the guard is dropped: what one holds another must not retire
    /// in between.
    pub(crate) async fn retention(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.retention.lock().await
    }

    /// The recorder in force. Whoever has a session open keeps its run from being over.
    pub(crate) fn recorder(&self) -> Recorder {
        self.run().recorder().clone()
    }

    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.0.policy.current()
    }

    /// What opens databases for a while.
    pub(crate) fn tokens(&self) -> &Tokens {
        &self.0.tokens
    }

    /// What stops statements.
    pub(crate) fn cancels(&self) -> &Arc<Cancels<Running>> {
        &self.0.cancels
    }

    /// Opens a session for somebody who has logged in; the error is the text for them.
    pub(crate) async fn open(
        &self,
        identity: Identity,
        purpose: Purpose,
        policy: &Policy,
        introduction: &Introduction,
    ) -> Result<(Arc<Session>, Slot), String> {
        let limits = &policy.config().limits;
        let caps = Caps { each: limits.sessions_per_person, all: limits.sessions };
        let person = identity.person().to_owned();
        let source = identity.source();
        // Portals are counted apart: one that could not open because of the sessions behind it would help nobody.
        let counter = match purpose {
            Purpose::Work(_) => &self.0.sessions,
            Purpose::Portal => &self.0.portals,
        };
        let Some(permit) = counter.take(person.clone(), caps) else {
            self.note_login(source, Some(&person), "session", None, Err("too many sessions"));
            return Err("too many sessions are open; close one and try again".to_owned());
        };
        let (hold, kind) = (self.run().hold(), purpose.kind());
        let target = match &purpose {
            Purpose::Work(grant) => Some(grant.target().kind()),
            Purpose::Portal => None,
        };
        match Session::open(hold.recorder(), identity, purpose, policy, introduction, self.0.alerts.clone()).await {
            Ok(session) => {
                let id = session.recording().id();
                lock(&self.0.live).insert(id, Arc::downgrade(&session));
                self.0.metrics.session_opened(kind);
                if let Some(target) = target {
                    self.0.metrics.target_session(target);
                }
                Ok((session, Slot { _permit: permit, hold, door: self.clone(), id, kind }))
            }
            Err(refused) => {
                self.note_login(source, Some(&person), "session", None, Err(&refused.to_string()));
                Err(refused.client_text().to_owned())
            }
        }
    }

    /// What a login name says, for the figures. Inside a portal it is a role, and one that is no person's name counts as a
    /// stranger's.
    fn claim(&self, name: Option<&str>) -> Claim {
        let Some(name) = name else { return Claim::Nobody };
        let Ok(wanted) = Wanted::parse(name) else { return Claim::Malformed };
        let policy = self.policy();
        let known = policy.config().persons.iter().any(|person| person.name == wanted.person);
        if known { Claim::Known } else { Claim::Stranger }
    }

    /// Writes to the control transcript.
    pub(crate) fn note(&self, event: Event) {
        drop(self.run().recorder().control().record(Side::Client, event));
    }

    /// Returns the sessions that are live, oldest first.
    pub(crate) fn live_sessions(&self) -> Vec<Arc<Session>> {
        lock(&self.0.live).values().filter_map(Weak::upgrade).collect()
    }

    /// Whether one more refusal may be recorded by itself. What could not be is told as a number.
    fn may_note_refusal(&self, source: SocketAddr) -> bool {
        let (passed, held_back) = {
            let mut refusals = lock(&self.0.refusals);
            (refusals.pass(Instant::now()), refusals.held_back())
        };
        let Some(skipped) = passed else {
            // Once: while it lasts, each that passes begins the count anew.
            if held_back == 1 {
                let text =
                    format!("logins are refused faster than they can be recorded one by one; the last from {source}");
                self.0.alerts.raise(Kind::LoginFlood, text);
            }
            return false;
        };
        if skipped > 0 {
            let event = Event::map(refused::TYPE, 0)
                .with(refused::WHAT, format!("{skipped} logins").into_bytes().as_slice())
                .with(refused::REASON, "a flood of refused logins: these were counted and not recorded one by one");
            self.note(event);
        }
        true
    }

    /// Writes to the control transcript what somebody asked for and did not get, unless there is a flood of it.
    pub(crate) fn note_refusal(&self, source: SocketAddr, event: Event) {
        if self.may_note_refusal(source) {
            self.note(event);
        }
    }

    /// Counts a request to stop a statement.
    pub(crate) fn count_cancel(&self, outcome: Cancelling) {
        self.0.metrics.cancel_request(outcome);
    }

    /// Returns what counts the statements of a session.
    pub(crate) fn statements(&self) -> Statements {
        self.0.metrics.statements()
    }

    /// Writes a login step to the control transcript: accepted, or refused with the reason, which the client never sees.
    /// A flood of refusals is counted, or it would fill the disk.
    pub(crate) fn note_login(
        &self,
        source: SocketAddr,
        name: Option<&str>,
        method: &'static str,
        key: Option<&str>,
        outcome: Result<(), &str>,
    ) {
        self.0.metrics.login(method, self.claim(name), key.is_some(), outcome.err());
        if outcome.is_err() && !self.may_note_refusal(source) {
            return;
        }
        let mut event = Event::map(auth::TYPE, 0)
            .with(auth::METHOD, method)
            .with(auth::ACCEPTED, outcome.is_ok())
            .with(auth::SOURCE, source.to_string());
        if let Some(name) = name {
            event = event.with(auth::NAME, clip(name).as_bytes());
        }
        if let Some(key) = key {
            event = event.with(auth::FINGERPRINT, key);
        }
        match outcome {
            Ok(()) => tracing::info!(%source, "login accepted"),
            Err(why) => {
                tracing::info!(%source, why = clip(why), "login refused");
                event = event.with(auth::REASON, clip(why));
            }
        }
        self.note(event);
    }
}

/// What listens, and what is spoken there.
#[derive(Debug)]
pub enum Listener {
    /// SSH.
    Ssh(TcpListener),
    /// PostgreSQL.
    Postgres(TcpListener),
    /// PostgreSQL, for programs on this machine.
    PostgresSocket(UnixListener),
}

/// Accepts connections until `shutdown`, lets sessions run on for `limits.drain` after it, then ends the rest. When
/// this returns, every session's transcript is closed.
pub async fn run(listeners: Vec<Listener>, door: Door, shutdown: CancellationToken) {
    let (accepting, serving, cut) = (TaskTracker::new(), TaskTracker::new(), CancellationToken::new());
    for listener in listeners {
        let (door, serving, cut, shutdown) = (door.clone(), serving.clone(), cut.clone(), shutdown.clone());
        accepting.spawn(async move {
            tokio::select! {
                () = accept(&listener, &door, &serving, &cut) => {}
                () = shutdown.cancelled() => {}
            }
        });
    }
    accepting.close();
    accepting.wait().await;
    serving.close();
    let drain = door.policy().config().limits.drain;
    tracing::info!(sessions = door.0.sessions.total(), seconds = drain.as_secs(), "draining");
    if timeout(drain, serving.wait()).await.is_err() {
        cut.cancel();
        serving.wait().await;
    }
}

/// A connection that was accepted, and what ends it from outside before it has logged in.
enum Accepted {
    Ssh(TcpStream, Kill),
    Postgres(TcpStream, CancellationToken),
    PostgresSocket(UnixStream, CancellationToken),
}

/// Ends a connection that has not logged in.
#[derive(Clone)]
enum WayOut {
    Ssh(Kill),
    Postgres(CancellationToken),
}

impl WayOut {
    fn take(&self) {
        match self {
            Self::Ssh(kill) => kill.kill(),
            Self::Postgres(out) => out.cancel(),
        }
    }
}

impl Accepted {
    fn way_out(&self) -> WayOut {
        match self {
            Self::Ssh(_, kill) => WayOut::Ssh(kill.clone()),
            Self::Postgres(_, out) | Self::PostgresSocket(_, out) => WayOut::Postgres(out.clone()),
        }
    }
}

impl Listener {
    /// Says what it listens to, and where.
    ///
    /// # Errors
    /// The system does not know any more.
    pub fn place(&self) -> io::Result<String> {
        Ok(match self {
            Self::Ssh(listener) => format!("ssh {}", listener.local_addr()?),
            Self::Postgres(listener) => format!("postgres {}", listener.local_addr()?),
            Self::PostgresSocket(listener) => {
                let addr = listener.local_addr()?;
                format!("postgres {}", addr.as_pathname().unwrap_or_else(|| Path::new("?")).display())
            }
        })
    }

    async fn accept(&self) -> io::Result<(Accepted, SocketAddr)> {
        Ok(match self {
            Self::Ssh(listener) => {
                let (stream, source) = listener.accept().await?;
                (Accepted::Ssh(stream, Kill::default()), source)
            }
            Self::Postgres(listener) => {
                let (stream, source) = listener.accept().await?;
                (Accepted::Postgres(stream, CancellationToken::new()), source)
            }
            // A socket has no address to count by or to tie a token to; this machine's own stands for it.
            Self::PostgresSocket(listener) => {
                let (stream, _) = listener.accept().await?;
                (Accepted::PostgresSocket(stream, CancellationToken::new()), SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            }
        })
    }
}

async fn accept(listener: &Listener, door: &Door, serving: &TaskTracker, cut: &CancellationToken) {
    loop {
        match listener.accept().await {
            Ok((stream, source)) => {
                let policy = door.policy();
                let limits = &policy.config().limits;
                let caps = Caps { each: limits.preauth_per_source, all: limits.preauth_global };
                let waiting = (source, stream.way_out());
                let entered = door.0.lobby.enter(guard::Source::of(source.ip()), waiting, caps);
                let Some((place, out)) = entered else {
                    door.note_login(source, None, "none", None, Err("too many connections that have not logged in"));
                    continue;
                };
                if let Some((source, way_out)) = out {
                    door.note_login(source, None, "none", None, Err("made room for newer connections"));
                    way_out.take();
                }
                let (door, cut) = (door.clone(), cut.clone());
                match stream {
                    Accepted::Ssh(stream, kill) => {
                        serving.spawn(converse::street(stream, source, door, place, kill, cut));
                    }
                    Accepted::Postgres(stream, out) => {
                        serving.spawn(postgres::street(stream, source, door, place, out, cut));
                    }
                    Accepted::PostgresSocket(stream, out) => {
                        serving.spawn(postgres::socket(stream, source, door, place, out, cut));
                    }
                }
            }
            Err(error) => {
                // Out of descriptors, mostly: those who are in must be able to go.
                tracing::warn!(%error, "accept failed");
                sleep(ACCEPT_REST).await;
            }
        }
    }
}
