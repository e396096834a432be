//! One session: an authenticated connection, bound to a grant and to the transcript that records it.
//!
//! Made after login and before anything else of the session happens; ended once, for one reason, by whoever comes
//! first. Knows no protocol.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use casemate_recorder::transcript::event::{self, Event, Side, config, ended, grant, identity, shown};
use casemate_recorder::transcript::seal::CloseReason;
use casemate_recorder::{Protocol, Recorder, Refused, Session as Recording, SessionSpec, Ticket, TranscriptKind};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::config::Limits;
use crate::policy::{Grant, Identity, Policy};

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

    /// An end that needs no words to the person.
    pub fn quiet(reason: CloseReason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into(), notice: None }
    }
}

/// What the peer said about itself before login, for the opening of the record.
#[derive(Debug, Clone, Default)]
pub struct Introduction {
    /// The client's identification line, raw.
    pub software: Vec<u8>,
    /// The notice of recording that it was shown.
    pub notice: String,
}

/// A live session.
pub struct Session {
    identity: Identity,
    grant: Grant,
    limits: Limits,
    recording: Recording,
    end: watch::Sender<Option<End>>,
    /// One task a channel; the transcript is closed after the last of them.
    tasks: TaskTracker,
    last_exit: Mutex<Option<u32>>,
    /// How the last channel ended: what the end of the session is put down to when the client just leaves.
    last: Mutex<Option<End>>,
}

impl Session {
    /// Opens the transcript. When this returns, who, what for and under which rules is on disk.
    ///
    /// # Errors
    /// The recorder takes no session now.
    pub async fn open(
        recorder: &Recorder,
        who: Identity,
        leave: Grant,
        policy: &Policy,
        introduction: &Introduction,
    ) -> Result<Arc<Self>, Refused> {
        recorder.admits()?;
        let opening = opening(&who, &leave, policy, introduction);
        let spec = SessionSpec {
            kind: TranscriptKind::Session,
            protocol: Some(Protocol::Ssh),
            policy_hash: policy.config().hash,
        };
        let recording = recorder.open_session(spec, opening).await?;
        let session = Arc::new(Self {
            identity: who,
            grant: leave,
            limits: policy.config().limits.clone(),
            recording,
            end: watch::Sender::new(None),
            tasks: TaskTracker::new(),
            last_exit: Mutex::new(None),
            last: Mutex::new(None),
        });
        session.tell(recorder, "opened", "");
        tracing::info!(
            session = %session.recording.id(),
            person = session.grant.person(),
            target = session.grant.target().name,
            role = session.grant.role().login,
            "session opened"
        );
        Ok(session)
    }

    /// What the session may do and where it leads.
    pub fn grant(&self) -> &Grant {
        &self.grant
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
        let event = Event::map(event::session::TYPE, 0)
            .with(event::session::ID, self.recording.id().to_string())
            .with(event::session::WHAT, what)
            .with(event::session::PERSON, self.identity.person())
            .with(event::session::TARGET, self.grant.target().name.as_str())
            .with(event::session::ROLE, self.grant.role().login.as_str())
            .with(event::session::REASON, reason);
        drop(recorder.control().record(Side::Client, event));
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.recording.id()).field("grant", &self.grant).finish_non_exhaustive()
    }
}

/// Ends the session when the task that holds it panics: half a relay is worse than none.
pub(crate) struct PanicEnds(pub(crate) Arc<Session>);

impl Drop for PanicEnds {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(session = %self.0.recording.id(), "a task of the session panicked");
            let text = "a task of the session panicked";
            self.0.end(End::with_notice(CloseReason::Internal, text, "this session ends: a fault in the bastion"));
        }
    }
}

fn opening(who: &Identity, leave: &Grant, policy: &Policy, introduction: &Introduction) -> Vec<Event> {
    let identity = Event::map(identity::TYPE, 0)
        .with(identity::PERSON, who.person())
        .with(identity::METHOD, who.method())
        .with(identity::FINGERPRINT, who.fingerprint())
        .with(identity::SOURCE, who.source().to_string())
        .with(identity::CLIENT, introduction.software.as_slice());
    let mut grant = Event::map(grant::TYPE, 0)
        .with(grant::GRANT, leave.id())
        .with(grant::TARGET, leave.target().name.as_str())
        .with(grant::ROLE, leave.role().login.as_str())
        .with(grant::ADDRESS, leave.target().address())
        .with(grant::REASON, leave.reason())
        .with(grant::CONTENT, leave.content().name());
    if let Some(until) = leave.until().and_then(|until| until.duration_since(UNIX_EPOCH).ok()) {
        grant = grant.with(grant::UNTIL, until.as_secs());
    }
    let rules = Event::map(config::TYPE, 0).with(config::HASH, policy.config().hash.as_slice());
    let mut events = vec![identity, grant, rules];
    if !introduction.notice.is_empty() {
        let notice = introduction.notice.as_str();
        events.push(Event::map(shown::TYPE, 0).with(shown::WHAT, "notice").with(shown::TEXT, notice));
    }
    events
}
