//! Alerts: what somebody should look at now. Each is an event of the control transcript, a line of the log, a figure, and
//! a run of the operator's command, at most one a minute for each kind.
//!
//! Raising one never waits. `pace` decides what is told when, `command` runs the command, `watch` looks after what
//! nobody else notices.

mod command;
mod pace;
pub(crate) mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use casemate_recorder::SessionId;
use casemate_recorder::transcript::event::{Event, Side, alert};
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::command::Outcome;
use self::pace::{Pace, Told};
use crate::metrics::Metrics;
use crate::policy;
use crate::recording;

/// Alerts that may wait to be told; what is raised beyond is counted.
const WAITING_MAX: usize = 256;

/// The longest text of an alert: a configuration with ten thousand mistakes is not for a pager.
const TEXT_LEN_MAX: usize = 2 * 1024;

/// Commands at once.
const COMMANDS_MAX: usize = 2;

/// How long the daemon's end waits for commands that run.
const LAST_COMMANDS: Duration = Duration::from_secs(12);

/// What an alert is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Recording cannot go on.
    RecordingStopped,
    /// It goes on again.
    RecordingResumed,
    /// The disk does not answer.
    DiskStalled,
    /// It answers again.
    DiskAnswers,
    /// Where spool or vault lie there is little space left.
    SpoolNearlyFull,
    /// Somebody ended the session of another.
    SessionKilled,
    /// Refused logins come faster than they are recorded one by one.
    LoginFlood,
    /// A target proved a host key that is not pinned.
    HostKeyChanged,
    /// A task of a session failed in a way that nobody foresaw.
    TaskPanicked,
    /// A new configuration was not taken.
    ReloadRefused,
    /// The certificate of the PostgreSQL front door ends soon, or has ended.
    CertificateEnds,
    /// What is recorded has been waiting for a vault elsewhere for long.
    VaultBehind,
    /// A vault elsewhere does not keep what it is given, or cannot be used.
    VaultTrouble,
    /// Local copies of recordings that vaults elsewhere have were removed to make room.
    CopiesDropped,
    /// Sessions were retired: their time was over.
    SessionsRetired,
    /// A restore test did not bring back everything.
    RestoreFailed,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 16] = [
        Self::RecordingStopped,
        Self::RecordingResumed,
        Self::DiskStalled,
        Self::DiskAnswers,
        Self::SpoolNearlyFull,
        Self::SessionKilled,
        Self::LoginFlood,
        Self::HostKeyChanged,
        Self::TaskPanicked,
        Self::ReloadRefused,
        Self::CertificateEnds,
        Self::VaultBehind,
        Self::VaultTrouble,
        Self::CopiesDropped,
        Self::SessionsRetired,
        Self::RestoreFailed,
    ];

    /// Returns the name in records, figures and on the command's standard input.
    pub fn name(self) -> &'static str {
        match self {
            Self::RecordingStopped => "recording-stopped",
            Self::RecordingResumed => "recording-resumed",
            Self::DiskStalled => "disk-stalled",
            Self::DiskAnswers => "disk-answers",
            Self::SpoolNearlyFull => "spool-nearly-full",
            Self::SessionKilled => "session-killed",
            Self::LoginFlood => "login-flood",
            Self::HostKeyChanged => "host-key-changed",
            Self::TaskPanicked => "task-panicked",
            Self::ReloadRefused => "reload-refused",
            Self::CertificateEnds => "certificate-ends",
            Self::VaultBehind => "vault-behind",
            Self::VaultTrouble => "vault-trouble",
            Self::CopiesDropped => "copies-dropped",
            Self::SessionsRetired => "sessions-retired",
            Self::RestoreFailed => "restore-failed",
        }
    }
}

/// One alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Alert {
    kind: Kind,
    text: String,
    session: Option<SessionId>,
    at: Timestamp,
}

/// Where alerts are raised. Clones raise at the same place.
#[derive(Debug, Clone)]
pub struct Alerts {
    waiting: mpsc::Sender<Alert>,
    metrics: Arc<Metrics>,
}

impl Alerts {
    /// Makes the place where alerts are raised, and the one that tells of them.
    pub fn new(runs: Arc<recording::Live>, rules: Arc<policy::Live>, metrics: Arc<Metrics>) -> (Self, Teller) {
        let (waiting, inbox) = mpsc::channel(WAITING_MAX);
        let teller = Teller {
            inbox,
            runs,
            rules,
            metrics: Arc::clone(&metrics),
            pace: Pace::default(),
            running: TaskTracker::new(),
            slots: Arc::new(Semaphore::new(COMMANDS_MAX)),
        };
        (Self { waiting, metrics }, teller)
    }

    /// Raises an alert. Never waits.
    pub fn raise(&self, kind: Kind, text: impl Into<String>) {
        self.put(kind, text.into(), None);
    }

    /// Raises an alert about a session. Never waits.
    pub fn raise_about(&self, session: SessionId, kind: Kind, text: impl Into<String>) {
        self.put(kind, text.into(), Some(session));
    }

    fn put(&self, kind: Kind, mut text: String, session: Option<SessionId>) {
        self.metrics.alert(kind);
        let mut end = text.len().min(TEXT_LEN_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        if self.waiting.try_send(Alert { kind, text, session, at: Timestamp::now() }).is_err() {
            self.metrics.alert_lost();
        }
    }
}

/// Tells of alerts.
pub struct Teller {
    inbox: mpsc::Receiver<Alert>,
    runs: Arc<recording::Live>,
    rules: Arc<policy::Live>,
    metrics: Arc<Metrics>,
    pace: Pace,
    running: TaskTracker,
    slots: Arc<Semaphore>,
}

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Teller").field("pace", &self.pace).finish_non_exhaustive()
    }
}

impl Teller {
    /// Tells of alerts until `over`, then of those that still wait.
    pub async fn run(mut self, over: CancellationToken) {
        loop {
            let due = self.pace.due();
            // Cancel-safe: an alert is taken whole or not at all.
            tokio::select! {
                alert = self.inbox.recv() => match alert {
                    Some(alert) => self.take(alert),
                    None => break,
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    for told in self.pace.tick(Instant::now()) {
                        self.tell(told);
                    }
                }
                () = over.cancelled() => break,
            }
        }
        while let Ok(alert) = self.inbox.try_recv() {
            self.take(alert);
        }
        for told in self.pace.rest() {
            self.tell(told);
        }
        self.running.close();
        if timeout(LAST_COMMANDS, self.running.wait()).await.is_err() {
            tracing::warn!("alert commands still run while the daemon ends");
        }
    }

    fn take(&mut self, alert: Alert) {
        self.record(&alert);
        let (kind, session) = (alert.kind.name(), alert.session.map(tracing::field::display));
        tracing::warn!(alert = kind, session, text = alert.text, "alert");
        if let Some(told) = self.pace.raised(alert, Instant::now()) {
            self.tell(told);
        }
    }

    fn record(&self, alert: &Alert) {
        let mut event =
            Event::map(alert::TYPE, 0).with(alert::WHAT, alert.kind.name()).with(alert::TEXT, alert.text.as_str());
        if let Some(session) = alert.session {
            event = event.with(alert::SESSION, session.to_string());
        }
        // A recorder that is frozen takes nothing: that it was is told by the alert of its successor.
        drop(self.runs.current().recorder().control().record(Side::Client, event));
    }

    /// Runs the command, once there is a place for it.
    fn tell(&self, told: Told) {
        let (rules, metrics, slots) = (Arc::clone(&self.rules), Arc::clone(&self.metrics), Arc::clone(&self.slots));
        self.running.spawn(async move {
            // Never closed. Those that wait are bounded by the pace: one a minute for each kind.
            let _slot = slots.acquire_owned().await;
            let policy = rules.current();
            let config = policy.config();
            let Some(command) = &config.alerts else { return };
            let outcome = command::run(command, &message(&config.node, &told)).await;
            metrics.alert_command(outcome);
            if outcome != Outcome::Done {
                tracing::error!(alert = told.alert.kind.name(), outcome = outcome.name(), "alert command failed");
            }
        });
    }
}

/// What the command reads: one JSON object and a line feed.
fn message(node: &str, told: &Told) -> Vec<u8> {
    let Told { alert, suppressed } = told;
    let message = json!({
        "time": format!("{:.3}", alert.at),
        "node": node,
        "alert": alert.kind.name(),
        "text": alert.text,
        "session": alert.session.map(|session| session.to_string()),
        "suppressed": suppressed,
    });
    format!("{message}\n").into_bytes()
}

#[cfg(test)]
mod tests;
