//! Figures for Prometheus: what the daemon counts itself, and what the recorder and the disks say when somebody asks.
//!
//! Every label value is a word of this program; nothing that a peer chooses becomes one, or it would decide how many series
//! there are. The shell that answers over HTTP is [`http`].

pub mod http;
mod logins;
mod sampled;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use casemate_recorder::transcript::seal::CloseReason;
use casemate_recorder::{Figures, Survey, TranscriptKind};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub(crate) use self::logins::Claim;
use self::logins::{PG_METHODS, Refusal};
use self::sampled::Sampled;
use crate::alerts::{Kind, Outcome};
use crate::config::TargetKind;
use crate::pg::flow::Outcome as StatementOutcome;
use crate::recording;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Closing {
    kind: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoginStep {
    outcome: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfProtocol {
    protocol: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfMethod {
    method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAlert {
    alert: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    outcome: &'static str,
}

/// What became of a request to stop a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cancelling {
    /// The target got it.
    Forwarded,
    /// Nothing was running.
    Idle,
    /// No session of that address has that key.
    WrongKey,
    /// Too many came from there.
    TooMany,
    /// The target could not be reached for it, or the request could not be recorded.
    Failed,
}

impl Cancelling {
    const ALL: [Self; 5] = [Self::Forwarded, Self::Idle, Self::WrongKey, Self::TooMany, Self::Failed];

    fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Idle => "idle",
            Self::WrongKey => "wrong-key",
            Self::TooMany => "too-many",
            Self::Failed => "failed",
        }
    }
}

/// What is counted, and where it is read.
pub struct Metrics {
    registry: Registry,
    runs: Arc<recording::Live>,
    survey: Arc<Mutex<Option<Survey>>>,
    live: Family<OfKind, Gauge>,
    opened: Family<OfKind, Counter>,
    closed: Family<Closing, Counter>,
    logins: Family<LoginStep, Counter>,
    alerts: Family<OfAlert, Counter>,
    lost_alerts: Counter,
    commands: Family<Ended, Counter>,
    targets: Family<OfProtocol, Counter>,
    pg_refused: Family<OfMethod, Counter>,
    cancels: Family<Ended, Counter>,
    statements: Family<Ended, Counter>,
}

/// Counts what became of statements, for whoever records them: there are many.
#[derive(Debug, Clone)]
pub(crate) struct Statements([(&'static str, Counter); StatementOutcome::ALL.len()]);

impl Statements {
    /// Counts one; `outcome` is the word of the record.
    pub(crate) fn count(&self, outcome: &str) {
        if let Some((_, counter)) = self.0.iter().find(|(name, _)| *name == outcome) {
            counter.inc();
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Begins to count.
    pub fn new(runs: Arc<recording::Live>) -> Arc<Self> {
        let survey = Arc::default();
        let mut metrics = Self {
            registry: Registry::with_prefix("casemate"),
            survey: Arc::clone(&survey),
            runs: Arc::clone(&runs),
            live: Family::default(),
            opened: Family::default(),
            closed: Family::default(),
            logins: Family::default(),
            alerts: Family::default(),
            lost_alerts: Counter::default(),
            commands: Family::default(),
            targets: Family::default(),
            pg_refused: Family::default(),
            cancels: Family::default(),
            statements: Family::default(),
        };
        metrics.register();
        metrics.registry.register_collector(Box::new(Sampled { runs, survey }));
        metrics.begin_with_zeros();
        Arc::new(metrics)
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("build", "The daemon that answers", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let started = ConstGauge::new(now);
        registry.register_with_unit("start_time", "When the daemon started, Unix time", Unit::Seconds, started);
        registry.register("sessions_live", "Sessions that are live", self.live.clone());
        registry.register("sessions_opened", "Sessions that were opened", self.opened.clone());
        registry.register("sessions_closed", "Sessions that ended, and what ended them", self.closed.clone());
        let help = "Steps of logins, those that the record counts and does not list one by one among them";
        registry.register("logins", help, self.logins.clone());
        registry.register("alerts", "Alerts that were raised", self.alerts.clone());
        let help = "Alerts that were raised while too many waited to be told, and are in no record";
        registry.register("alerts_lost", help, self.lost_alerts.clone());
        let help = "Sessions that were opened to a target, by what is spoken there";
        registry.register("target_sessions", help, self.targets.clone());
        let help =
            "Logins to databases that were refused, by what was shown; those without any are in the other figure alone";
        registry.register("pg_logins_refused", help, self.pg_refused.clone());
        registry.register("pg_cancel_requests", "Requests to stop a statement", self.cancels.clone());
        registry.register("pg_statements", "Statements, and what became of them", self.statements.clone());
        registry.register("alert_commands", "Runs of the command for alerts", self.commands.clone());
    }

    /// A series that begins at 1 has no increase: whoever watches a rate would miss the first.
    fn begin_with_zeros(&self) {
        for kind in [TranscriptKind::Session, TranscriptKind::Portal] {
            drop(self.live.get_or_create(&OfKind { kind: kind.name() }));
            drop(self.opened.get_or_create(&OfKind { kind: kind.name() }));
        }
        drop(self.logins.get_or_create(&LoginStep { outcome: "accepted", reason: "" }));
        for reason in Refusal::ALL {
            drop(self.logins.get_or_create(&LoginStep { outcome: "refused", reason: reason.name() }));
        }
        for kind in Kind::ALL {
            drop(self.alerts.get_or_create(&OfAlert { alert: kind.name() }));
        }
        for (protocol, _) in TargetKind::ALL {
            drop(self.targets.get_or_create(&OfProtocol { protocol }));
        }
        for method in PG_METHODS {
            drop(self.pg_refused.get_or_create(&OfMethod { method }));
        }
        for outcome in Cancelling::ALL {
            drop(self.cancels.get_or_create(&Ended { outcome: outcome.name() }));
        }
        for outcome in StatementOutcome::ALL {
            drop(self.statements.get_or_create(&Ended { outcome: outcome.name() }));
        }
        for outcome in Outcome::ALL {
            drop(self.commands.get_or_create(&Ended { outcome: outcome.name() }));
        }
    }

    /// Counts a session that leads to a target.
    pub(crate) fn target_session(&self, kind: TargetKind) {
        self.targets.get_or_create(&OfProtocol { protocol: kind.name() }).inc();
    }

    /// Counts a request to stop a statement.
    pub(crate) fn cancel_request(&self, outcome: Cancelling) {
        self.cancels.get_or_create(&Ended { outcome: outcome.name() }).inc();
    }

    /// Returns what counts a session's statements.
    pub(crate) fn statements(&self) -> Statements {
        let counter = |outcome: StatementOutcome| {
            let name = outcome.name();
            (name, self.statements.get_or_create(&Ended { outcome: name }).clone())
        };
        Statements(StatementOutcome::ALL.map(counter))
    }

    pub(crate) fn session_opened(&self, kind: TranscriptKind) {
        let kind = OfKind { kind: kind.name() };
        self.opened.get_or_create(&kind).inc();
        self.live.get_or_create(&kind).inc();
    }

    /// The session's place is free again.
    pub(crate) fn session_gone(&self, kind: TranscriptKind) {
        self.live.get_or_create(&OfKind { kind: kind.name() }).dec();
    }

    pub(crate) fn session_closed(&self, kind: TranscriptKind, reason: CloseReason) {
        self.closed.get_or_create(&Closing { kind: kind.name(), reason: reason.name() }).inc();
    }

    /// Counts a step of a login; `refused` is the text of the record.
    pub(crate) fn login(&self, method: &str, claim: Claim, key_named: bool, refused: Option<&str>) {
        let step = match refused {
            None => LoginStep { outcome: "accepted", reason: "" },
            Some(text) => LoginStep { outcome: "refused", reason: Refusal::of(method, claim, key_named, text).name() },
        };
        self.logins.get_or_create(&step).inc();
        if let Some(method) = PG_METHODS.into_iter().find(|known| refused.is_some() && *known == method) {
            self.pg_refused.get_or_create(&OfMethod { method }).inc();
        }
    }

    pub(crate) fn alert(&self, kind: Kind) {
        self.alerts.get_or_create(&OfAlert { alert: kind.name() }).inc();
    }

    pub(crate) fn alert_lost(&self) {
        self.lost_alerts.inc();
    }

    pub(crate) fn alert_command(&self, outcome: Outcome) {
        self.commands.get_or_create(&Ended { outcome: outcome.name() }).inc();
    }

    /// Keeps what the disks said.
    pub(crate) fn surveyed(&self, survey: Survey) {
        *self.survey.lock().unwrap_or_else(PoisonError::into_inner) = Some(survey);
    }

    /// What the recorder in force says.
    fn figures(&self) -> Figures {
        self.runs.current().recorder().figures()
    }

    /// Returns all figures as OpenMetrics text.
    pub(crate) fn exposition(&self) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(16 * 1024);
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
