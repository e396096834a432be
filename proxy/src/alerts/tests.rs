//! Alerts on a real recorder, without a daemon.

use std::net::SocketAddr;

use casemate_recorder::transcript::event::Value;
use casemate_recorder::{Recorder, RecorderConfig};

use super::*;
use crate::config::parse_public_key;
use crate::policy::Policy;
use crate::session::{Introduction, PanicEnds, Purpose, Session};
use crate::testing::{ALICE, Home, SAMPLE};

struct Place {
    /// Gone when this is.
    _home: Home,
    runs: Arc<recording::Live>,
    rules: Arc<policy::Live>,
}

impl Place {
    fn new() -> Self {
        let home = Home::new();
        let config = Arc::new(home.load(SAMPLE).unwrap_or_else(|error| panic!("{error}")));
        let key = config.node_key.signing_key().clone();
        let node = RecorderConfig::new(config.state_dir.clone(), config.vault.dir.clone(), config.node.clone(), key);
        let runs = Arc::new(recording::Live::new(Recorder::start(node).unwrap()));
        Self { _home: home, runs, rules: Arc::new(policy::Live::new(Policy::new(config))) }
    }

    fn alerts(&self) -> (Alerts, Teller) {
        let metrics = Metrics::new(Arc::clone(&self.runs));
        Alerts::new(Arc::clone(&self.runs), Arc::clone(&self.rules), metrics)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.runs.current().recorder().shutdown();
    }
}

#[test]
fn names_are_unique_and_fit_the_event() {
    let mut names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Kind::ALL.len());
    let event = Event::map(alert::TYPE, 0).with(alert::WHAT, Kind::DiskStalled.name());
    assert_eq!(event.get(alert::WHAT), Some(&Value::Text("disk-stalled".to_owned())));
}

#[test]
fn raising_never_waits_and_what_is_too_much_is_counted() {
    let place = Place::new();
    let (alerts, mut teller) = place.alerts();
    for _ in 0..WAITING_MAX + 3 {
        alerts.raise(Kind::LoginFlood, "ä".repeat(TEXT_LEN_MAX));
    }
    let mut taken = 0;
    while let Ok(alert) = teller.inbox.try_recv() {
        assert_eq!(alert.text.len(), TEXT_LEN_MAX);
        taken += 1;
    }
    assert_eq!(taken, WAITING_MAX);
    let text = alerts.metrics.exposition().unwrap();
    assert!(text.contains("\ncasemate_alerts_lost_total 3\n"), "{text}");
    assert!(
        text.contains(&format!("\ncasemate_alerts_total{{alert=\"login-flood\"}} {}\n", WAITING_MAX + 3)),
        "{text}"
    );
}

#[test]
fn a_panic_of_a_sessions_task_ends_it_and_is_an_alert_about_it() {
    let place = Place::new();
    let (alerts, mut teller) = place.alerts();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let policy = place.rules.current();
        let source: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let identity = policy.identify("alice", &parse_public_key(ALICE).unwrap(), source).unwrap();
        let run = place.runs.current();
        let unknown = Introduction::default();
        let opened = Session::open(run.recorder(), identity, Purpose::Portal, &policy, &unknown, alerts);
        let session = opened.await.unwrap();
        let task = PanicEnds(Arc::clone(&session));
        let panicked = tokio::spawn(async move {
            let _task = task;
            panic!("on purpose");
        });
        assert!(panicked.await.unwrap_err().is_panic());
        assert!(session.ending().is_some());
        let alert = teller.inbox.try_recv().unwrap();
        assert_eq!((alert.kind, alert.session), (Kind::TaskPanicked, Some(session.recording().id())));
        session.close(run.recorder()).await;
    });
}

#[test]
fn the_message_is_one_line_whatever_is_in_the_text() {
    let text = "line\nbreak \u{1b}[31m \"quoted\"".to_owned();
    let alert = Alert { kind: Kind::HostKeyChanged, text: text.clone(), session: None, at: Timestamp::UNIX_EPOCH };
    let line = String::from_utf8(message("node-1", &Told { alert, suppressed: 7 })).unwrap();
    assert_eq!(line.matches('\n').count(), 1);
    assert!(!line.contains('\u{1b}'));
    let message: serde_json::Value = serde_json::from_str(&line).unwrap();
    let wanted = json!({
        "time": "1970-01-01T00:00:00.000Z", "node": "node-1", "alert": "host-key-changed", "text": text,
        "session": null, "suppressed": 7,
    });
    assert_eq!(message, wanted);
}
