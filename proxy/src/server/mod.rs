//! The accept loop, and what a connection may use up before and while it is a session.
//!
//! Takes a permit before anything else, keeps the deadline of the whole login, watches each session to its end and
//! drains at shutdown. Speaks no protocol.

mod guard;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use casemate_recorder::transcript::event::{Event, Side, auth, refused};
use casemate_recorder::transcript::seal::CloseReason;
use russh::Disconnect;
use russh::server::{Config as ServerSettings, run_stream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::guard::{Caps, Counter, Permit, Throttle};
use crate::policy::{Grant, Identity, Live as LivePolicy, Policy};
use crate::recording::{self, Hold, Run};
use crate::session::{End, Introduction, Session};
use crate::ssh::server::{Front, FrontError, Outcome};
use crate::ssh::wire::{Kill, Wire};
use crate::ssh::{Backlog, settings};
use crate::target::tune;

/// How long the channels of an ending session may take for their last words.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How long a client may take to leave after its channels' last words.
const LEAVES: Duration = Duration::from_secs(1);

/// How long a disconnect message may take before the connection is cut.
const DISCONNECT: Duration = Duration::from_secs(2);

/// How long somebody who is turned away may stay to be told why.
const TURNED_AWAY: Duration = Duration::from_secs(30);

/// How long the accept loop rests when the system has no descriptor to give.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Refused logins that are recorded one by one in a burst, and per second after it. The rest is counted.
const REFUSALS_BURST: u32 = 200;
const REFUSALS_PER_SECOND: u32 = 5;

type RunningSession = russh::server::RunningSession<Front>;

/// What every connection of the front door shares.
#[derive(Clone)]
pub struct Door(Arc<Inner>);

struct Inner {
    runs: Arc<recording::Live>,
    policy: Arc<LivePolicy>,
    settings: Arc<ServerSettings>,
    sessions: Counter<String>,
    preauth: Counter<guard::Source>,
    refusals: Mutex<Throttle>,
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
}

impl Door {
    /// Makes a door from the policy in force: its host keys and keepalive stay as they are now.
    pub fn new(runs: Arc<recording::Live>, policy: Arc<LivePolicy>) -> Self {
        let config = Arc::clone(policy.current().config());
        let refusals = Throttle::new(REFUSALS_BURST, REFUSALS_PER_SECOND, Instant::now());
        Self(Arc::new(Inner {
            runs,
            policy,
            settings: settings::server(&config),
            sessions: Counter::default(),
            preauth: Counter::default(),
            refusals: Mutex::new(refusals),
        }))
    }

    fn run(&self) -> Arc<Run> {
        self.0.runs.current()
    }

    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.0.policy.current()
    }

    /// Opens a session for somebody who has logged in; the error is the text for them.
    pub(crate) async fn open(
        &self,
        identity: Identity,
        grant: Grant,
        policy: &Policy,
        introduction: &Introduction,
    ) -> Result<(Arc<Session>, Slot), String> {
        let limits = &policy.config().limits;
        let caps = Caps { each: limits.sessions_per_person, all: limits.sessions };
        let person = grant.person().to_owned();
        let source = identity.source();
        let Some(permit) = self.0.sessions.take(person.clone(), caps) else {
            self.note_login(source, Some(&person), "session", None, Err("too many sessions"));
            return Err("too many sessions are open; close one and try again".to_owned());
        };
        let hold = self.run().hold();
        match Session::open(hold.recorder(), identity, grant, policy, introduction).await {
            Ok(session) => Ok((session, Slot { _permit: permit, hold })),
            Err(refused) => {
                self.note_login(source, Some(&person), "session", None, Err(&refused.to_string()));
                Err(refused.client_text().to_owned())
            }
        }
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
        if outcome.is_err() {
            let passed = self.0.refusals.lock().unwrap_or_else(PoisonError::into_inner).pass(Instant::now());
            let Some(skipped) = passed else { return };
            if skipped > 0 {
                let event = Event::map(refused::TYPE, 0)
                    .with(refused::WHAT, format!("{skipped} logins").into_bytes().as_slice())
                    .with(refused::REASON, "a flood of refused logins: these were counted and not recorded one by one");
                drop(self.run().recorder().control().record(Side::Client, event));
            }
        }
        let mut event = Event::map(auth::TYPE, 0)
            .with(auth::METHOD, method)
            .with(auth::ACCEPTED, outcome.is_ok())
            .with(auth::SOURCE, source.to_string());
        if let Some(name) = name {
            event = event.with(auth::NAME, name.as_bytes());
        }
        if let Some(key) = key {
            event = event.with(auth::FINGERPRINT, key);
        }
        match outcome {
            Ok(()) => tracing::info!(%source, "login accepted"),
            Err(why) => {
                tracing::info!(%source, why, "login refused");
                event = event.with(auth::REASON, why);
            }
        }
        drop(self.run().recorder().control().record(Side::Client, event));
    }
}

/// Accepts connections until `shutdown`, lets sessions run on for `limits.drain` after it, then ends the rest. When
/// this returns, every session's transcript is closed.
pub async fn run(listeners: Vec<TcpListener>, door: Door, shutdown: CancellationToken) {
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

async fn accept(listener: &TcpListener, door: &Door, serving: &TaskTracker, cut: &CancellationToken) {
    loop {
        match listener.accept().await {
            Ok((stream, source)) => {
                let policy = door.policy();
                let limits = &policy.config().limits;
                let caps = Caps { each: limits.preauth_per_source, all: limits.preauth_global };
                let Some(permit) = door.0.preauth.take(guard::Source::of(source.ip()), caps) else {
                    door.note_login(source, None, "none", None, Err("too many connections that have not logged in"));
                    continue;
                };
                let connection = serve(stream, source, door.clone(), permit, cut.clone());
                serving.spawn(connection);
            }
            Err(error) => {
                // Out of descriptors, mostly: those who are in must be able to go.
                tracing::warn!(%error, "accept failed");
                sleep(ACCEPT_REST).await;
            }
        }
    }
}

/// Serves one connection from its first byte to the seal of its transcript.
async fn serve(
    stream: TcpStream,
    source: SocketAddr,
    door: Door,
    permit: Permit<guard::Source>,
    shutdown: CancellationToken,
) {
    let policy = door.policy();
    let limits = &policy.config().limits;
    if let Err(error) = tune(&stream, limits) {
        tracing::debug!(%source, %error, "socket gone before it was set up");
        return;
    }
    let (kill, uploads, why) = (Kill::default(), Backlog::new(limits.backlog), Arc::new(OnceLock::new()));
    let wire = Wire::client(stream, kill.clone(), Arc::clone(&uploads), settings::WINDOW);
    let (sender, outcome) = oneshot::channel();
    let front = Front::new(door.clone(), source, uploads, sender, Arc::clone(&why));
    // One deadline from accept to login: also for whoever sends its first line a byte a minute.
    let deadline = tokio::time::Instant::now() + limits.login_grace;
    let give_up = |reason| {
        let _ = why.set(reason);
        kill.kill();
    };
    let mut running = tokio::select! {
        running = run_stream(Arc::clone(&door.0.settings), wire, front) => match running {
            Ok(running) => running,
            // The handler recorded that it went without a login.
            Err(error) => return tracing::debug!(%source, %error, "handshake failed"),
        },
        () = sleep_until(deadline) => return give_up("login grace is over"),
        () = shutdown.cancelled() => return give_up("the bastion is shutting down"),
    };
    let outcome = tokio::select! {
        outcome = outcome => outcome,
        () = sleep_until(deadline) => { give_up("login grace is over"); return finish(running, source).await; }
        () = shutdown.cancelled() => { give_up("the bastion is shutting down"); return finish(running, source).await; }
    };
    drop(permit);
    match outcome {
        Ok(Outcome::Live(session, slot)) => {
            attend(&mut running, &session, &kill, &shutdown).await;
            session.tasks().close();
            session.tasks().wait().await;
            session.close(slot.hold.recorder()).await;
            drop(slot);
        }
        Ok(Outcome::TurnedAway) => {
            let _ = timeout(TURNED_AWAY, &mut running).await;
            kill.kill();
        }
        // The handler is gone without a login.
        Err(_) => finish(running, source).await,
    }
}

/// Waits for a connection that was cut.
async fn finish(running: RunningSession, source: SocketAddr) {
    if let Ok(Err(error)) = timeout(DISCONNECT, running).await {
        tracing::debug!(%source, %error, "connection ended");
    }
}

/// Watches a session until its connection is over, by itself or because the session is to end.
async fn attend(running: &mut RunningSession, session: &Session, kill: &Kill, shutdown: &CancellationToken) {
    let end = tokio::select! {
        result = &mut *running => return note_result(session, result),
        end = session.ended() => end,
        frozen = session.recording().wait_frozen() => {
            End::with_notice(CloseReason::Recorder, frozen.to_string(), frozen.client_text())
        }
        () = shutdown.cancelled() => {
            let notice = "this session ends: the bastion is shutting down";
            End::with_notice(CloseReason::Shutdown, "the drain is over", notice)
        }
    };
    session.end(end.clone());
    session.tasks().close();
    // Each channel says its last words; the connection must live for them.
    let _ = timeout(LAST_WORDS, session.tasks().wait()).await;
    // A client that was told its exit status leaves by itself; a disconnect now would overtake the line it has to show.
    if timeout(LEAVES, &mut *running).await.is_ok() {
        return;
    }
    let text = end.notice.unwrap_or_default();
    let handle = running.handle();
    let goodbye = async {
        let _ = handle.disconnect(Disconnect::ByApplication, text, String::new()).await;
        let _ = (&mut *running).await;
    };
    let _ = timeout(DISCONNECT, goodbye).await;
    kill.kill();
}

/// Keeps what the library could not take: a string that is no UTF-8, a broken packet, a panic.
fn note_result(session: &Session, result: Result<(), FrontError>) {
    let Err(error) = result else { return };
    if matches!(&error, FrontError::Library(russh::Error::IO(_) | russh::Error::HUP | russh::Error::Disconnect)) {
        // The client left without a word, as clients do.
        session.note_last(End::quiet(CloseReason::Client, format!("the client's connection was lost: {error}")));
        return;
    }
    let text = format!("the connection could not go on: {error}");
    let event =
        Event::map(refused::TYPE, 0).with(refused::WHAT, b"connection".as_slice()).with(refused::REASON, text.as_str());
    drop(session.record(Side::Client, event));
    tracing::warn!(session = %session.recording().id(), %error, "connection could not go on");
    let reason = match error {
        FrontError::Library(russh::Error::Join(_)) => CloseReason::Internal,
        _ => CloseReason::Client,
    };
    session.end(End::quiet(reason, text));
}
