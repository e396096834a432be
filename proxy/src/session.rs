//! One session: an authenticated connection and the transcript that records it. It leads to a target by a grant, or it
//! is a portal: the bastion itself, from which other sessions lead on.
//!
//! Made after login and before anything else of the session happens; ended once, for one reason, by whoever comes
//! first. Knows no protocol.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use casemate_recorder::transcript::event::{self, Event, Side, Value, config, ended, grant, identity, shown};
use casemate_recorder::transcript::seal::CloseReason;
use casemate_recorder::{
    Frozen, Protocol, Recorder, Refused, Session as Recording, SessionId, SessionSpec, Ticket, TranscriptKind,
};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::alerts::{Alerts, Kind};
use crate::config::{Limits, TargetKind};
use crate::overdue::{Overdue, Step};
use crate::policy::{Grant, Identity, Policy};
use crate::recent::Recent;

/// How long sealing may take before the next start has to do it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a session ends, and what the person is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// For the transcript's last entry.
    pub reason: CloseReason,
    /// In words, for the record.
    pub text: String,
    /// The line for the person; none where they know already.
    pub notice: Option<String>,
}

impl End {
    /// An end that the bastion brings about, with a line for the person.
    pub fn with_notice(reason: CloseReason, text: impl Into<String>, notice: impl Into<String>) -> Self {
        Self { reason, text: text.into(), notice: Some(notice.into()) }
    }

    /// The end of a session whose recording cannot go on.
    pub fn frozen(frozen: &Frozen) -> Self {
        Self::with_notice(CloseReason::Recorder, frozen.to_string(), frozen.client_text())
    }

    /// An end that needs no words to the person.
    pub fn quiet(reason: CloseReason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into(), notice: None }
    }
}

/// What is known of the connection before the session begins, for the opening of the record.
#[derive(Debug, Clone, Default)]
pub struct Introduction {
    /// The client's identification line, raw.
    pub software: Vec<u8>,
    /// The notice of recording that it was shown.
    pub notice: String,
    /// The portal session that it came through.
    pub portal: Option<SessionId>,
}

/// What a session is for.
#[derive(Debug, Clone)]
pub enum Purpose {
    /// Work on the target that the grant names.
    Work(Grant),
    /// The bastion itself: what it says about itself, and the way to other sessions.
    Portal,
}

impl Purpose {
    /// The kind of its transcript.
    pub fn kind(&self) -> TranscriptKind {
        match self {
            Self::Work(_) => TranscriptKind::Session,
            Self::Portal => TranscriptKind::Portal,
        }
    }

    /// What is spoken in it.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Work(grant) => match grant.target().kind() {
                TargetKind::Ssh => Protocol::Ssh,
                TargetKind::Pg => Protocol::Pg,
            },
            Self::Portal => Protocol::Ssh,
        }
    }

    /// The target's name and the role there; empty for a portal.
    pub fn names(&self) -> (&str, &str) {
        match self {
            Self::Work(grant) => (&grant.target().name, &grant.role().login),
            Self::Portal => ("", ""),
        }
    }
}

/// A live session.
pub struct Session {
    identity: Identity,
    purpose: Purpose,
    limits: Limits,
    began: Instant,
    /// The age at which something was forwarded last, in milliseconds.
    active: AtomicU64,
    /// What it showed last, for those who watch.
    recent: Recent,
    /// What people are to be told before the session ends by a limit.
    warning: watch::Sender<String>,
    recording: Recording,
    end: watch::Sender<Option<End>>,
    /// One task a channel; the transcript is closed after the last of them.
    tasks: TaskTracker,
    last_exit: Mutex<Option<u32>>,
    /// How the last channel ended: what the end of the session is put down to when the client just leaves.
    last: Mutex<Option<End>>,
    alerts: Alerts,
}

impl Session {
    /// Opens the transcript. When this returns, who, what for and under which rules is on disk.
    ///
    /// # Errors
    /// The recorder takes no session now.
    pub async fn open(
        recorder: &Recorder,
        who: Identity,
        purpose: Purpose,
        policy: &Policy,
        introduction: &Introduction,
        alerts: Alerts,
    ) -> Result<Arc<Self>, Refused> {
        recorder.admits()?;
        let opening = opening(&who, &purpose, policy, introduction);
        let spec =
            SessionSpec { kind: purpose.kind(), protocol: Some(purpose.protocol()), policy_hash: policy.config().hash };
        let recording = recorder.open_session(spec, opening).await?;
        let session = Arc::new(Self {
            identity: who,
            purpose,
            began: Instant::now(),
            active: AtomicU64::new(0),
            recent: Recent::default(),
            warning: watch::Sender::default(),
            limits: policy.config().limits.clone(),
            recording,
            end: watch::Sender::new(None),
            tasks: TaskTracker::new(),
            last_exit: Mutex::new(None),
            last: Mutex::new(None),
            alerts,
        });
        session.tell(recorder, "opened", "");
        tracing::info!(
            session = %session.recording.id(),
            kind = session.purpose.kind().name(),
            person = session.identity.person(),
            target = session.purpose.names().0,
            role = session.purpose.names().1,
            "session opened"
        );
        Ok(session)
    }

    /// Whose it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What it is for.
    pub fn purpose(&self) -> &Purpose {
        &self.purpose
    }

    /// How long it has been going on.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// What it showed last, for those who watch.
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// Notes that something was forwarded.
    pub fn touch(&self) {
        let millis = u64::try_from(self.age().as_millis()).unwrap_or(u64::MAX);
        self.active.store(millis, Ordering::Relaxed);
    }

    /// Waits until a limit ends the session, warning those who sit at it before, and says how.
    pub async fn overdue(&self) -> End {
        // What is quiet at a portal is busy behind it.
        let idle = self.limits.idle.filter(|_| matches!(self.purpose, Purpose::Work(_)));
        let mut overdue = Overdue::new(idle, self.limits.session);
        if !overdue.is_limited() {
            return std::future::pending().await;
        }
        loop {
            let active = Duration::from_millis(self.active.load(Ordering::Relaxed));
            match overdue.step(self.age(), active) {
                Step::Wait(time) => sleep(time).await,
                Step::Warn(text) => drop(self.warning.send_replace(text)),
                Step::End(end) => return end,
            }
        }
    }

    /// Returns where warnings come from.
    pub fn warnings(&self) -> watch::Receiver<String> {
        self.warning.subscribe()
    }

    /// The limits that were in force when it was opened.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Where its events go.
    pub fn recording(&self) -> &Recording {
        &self.recording
    }

    /// Records an event.
    pub fn record(&self, side: Side, event: Event) -> Ticket {
        self.recording.record(side, event)
    }

    /// The tasks of its channels.
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Raises an alert about the session.
    pub fn alert(&self, kind: Kind, text: impl Into<String>) {
        self.alerts.raise_about(self.recording.id(), kind, text);
    }

    /// Keeps the exit status of the process that ended last.
    pub fn note_exit(&self, status: u32) {
        *self.last_exit.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
    }

    /// Keeps how a channel ended.
    pub fn note_last(&self, end: End) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
    }

    /// Returns why the session ends, if somebody ended it.
    pub fn ending(&self) -> Option<End> {
        self.end.borrow().clone()
    }

    /// Ends the session. The first reason stays.
    pub fn end(&self, end: End) {
        self.end.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(end);
            }
            first
        });
    }

    /// Waits until somebody ends the session, and says why.
    pub async fn ended(&self) -> End {
        let mut end = self.end.subscribe();
        let found = end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
        match found {
            Some(end) => end,
            // The sender is in `self`, which outlives this borrow.
            None => std::future::pending().await,
        }
    }

    /// Seals the transcript. Everything must have been forwarded before, and nothing is after.
    pub async fn close(&self, recorder: &Recorder) {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.end(last.unwrap_or_else(|| End::quiet(CloseReason::Client, "the client left")));
        let end = self.ended().await;
        let who = match end.reason {
            CloseReason::Client => "client",
            CloseReason::Target | CloseReason::Unreachable => "target",
            _ => "bastion",
        };
        drop(self.record(
            Side::Client,
            Event::map(ended::TYPE, 0).with(ended::BY, who).with(ended::REASON, end.text.as_str()),
        ));
        let exit = *self.last_exit.lock().unwrap_or_else(PoisonError::into_inner);
        let id = self.recording.id();
        match timeout(CLOSE_TIMEOUT, self.recording.close(end.reason, exit)).await {
            Ok(Ok(_)) => tracing::info!(session = %id, reason = end.reason.name(), "session closed"),
            Ok(Err(frozen)) => tracing::error!(session = %id, error = %frozen, "transcript not closed"),
            Err(_) => tracing::error!(session = %id, "transcript not closed in time"),
        }
        self.tell(recorder, "closed", &end.text);
    }

    /// Writes the session's opening or end to the control transcript.
    fn tell(&self, recorder: &Recorder, what: &'static str, reason: &str) {
        drop(recorder.control().record(Side::Client, self.mention(what, reason)));
    }

    /// Says in another transcript what happened to this session.
    pub fn mention(&self, what: &'static str, reason: &str) -> Event {
        let (target, role) = self.purpose.names();
        Event::map(event::session::TYPE, 0)
            .with(event::session::ID, self.recording.id().to_string())
            .with(event::session::WHAT, what)
            .with(event::session::PERSON, self.identity.person())
            .with(event::session::TARGET, target)
            .with(event::session::ROLE, role)
            .with(event::session::REASON, reason)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.recording.id())
            .field("purpose", &self.purpose)
            .finish_non_exhaustive()
    }
}

/// Ends the session when the task that holds it panics: half a relay is worse than none.
pub(crate) struct PanicEnds(pub(crate) Arc<Session>);

impl Drop for PanicEnds {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(session = %self.0.recording.id(), "a task of the session panicked");
            let text = "a task of the session panicked";
            self.0.alert(Kind::TaskPanicked, text);
            self.0.end(End::with_notice(CloseReason::Internal, text, "this session ends: a fault in the bastion"));
        }
    }
}

/// Forgets what was kept of a channel's terminal when its task is over, however it ends.
pub(crate) struct ForgetsTerminal(pub(crate) Arc<Session>, pub(crate) u32);

impl Drop for ForgetsTerminal {
    fn drop(&mut self) {
        self.0.recent().forget(self.1);
    }
}

fn opening(who: &Identity, purpose: &Purpose, policy: &Policy, introduction: &Introduction) -> Vec<Event> {
    let mut identity = Event::map(identity::TYPE, 0)
        .with(identity::PERSON, who.person())
        .with(identity::METHOD, who.method())
        .with(identity::FINGERPRINT, who.fingerprint())
        .with(identity::SOURCE, who.source().to_string())
        .with(identity::CLIENT, introduction.software.as_slice());
    if let Some(portal) = introduction.portal {
        identity = identity.with(identity::PORTAL, portal.to_string());
    }
    let mut events = vec![identity];
    if let Purpose::Work(leave) = purpose {
        let mut grant = Event::map(grant::TYPE, 0)
            .with(grant::GRANT, leave.id())
            .with(grant::TARGET, leave.target().name.as_str())
            .with(grant::ROLE, leave.role().login.as_str())
            .with(grant::ADDRESS, leave.target().address())
            .with(grant::REASON, leave.reason());
        grant = match leave.target().pg() {
            None => grant.with(grant::CONTENT, leave.content().name()),
            Some(service) => grant
                .with(grant::RESULTS, service.results.name())
                .with(grant::READ_ONLY, leave.read_only())
                .with(grant::REPLICATION, leave.replication()),
        };
        if !leave.forwards().is_empty() {
            grant = grant.with(grant::FORWARD, leave.forwards().texts().map(Value::from).collect::<Vec<_>>());
        }
        if let Some(until) = leave.until().and_then(|until| until.duration_since(UNIX_EPOCH).ok()) {
            grant = grant.with(grant::UNTIL, until.as_secs());
        }
        events.push(grant);
    }
    events.push(Event::map(config::TYPE, 0).with(config::HASH, policy.config().hash.as_slice()));
    if !introduction.notice.is_empty() {
        let notice = introduction.notice.as_str();
        events.push(Event::map(shown::TYPE, 0).with(shown::WHAT, "notice").with(shown::TEXT, notice));
    }
    events
}
