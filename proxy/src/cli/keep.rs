//! Keeping the recorder running: what it is started with, and what follows when it cannot go on.
//!
//! Where only space is missing the daemon stays. Its sessions are told and end, whoever logs in is told why not, and once
//! there is room the recorder starts again and closes what was left. After any other failure the daemon ends.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use casemate_recorder::{Frozen, OpenError, Recorder, RecorderConfig};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::serve::{ServeError, daemon_event};
use crate::alerts::{Alerts, Kind};
use crate::config::Config;
use crate::policy;
use crate::recording::{self, Run};

/// How often somebody looks whether there is room again: no filesystem says so by itself.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the daemon is told to do, as far as it matters here.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop {
    /// Nobody is let in any more.
    pub(super) shutdown: CancellationToken,
    /// The last session has ended.
    pub(super) over: CancellationToken,
}

/// Keeps a recorder in force until the last session has ended.
///
/// # Errors
/// Recording stopped and cannot go on.
pub(super) async fn keep(
    runs: Arc<recording::Live>,
    rules: Arc<policy::Live>,
    alerts: Alerts,
    stop: Stop,
) -> Result<(), ServeError> {
    loop {
        let run = runs.current();
        let cause = tokio::select! {
            cause = run.recorder().wait_frozen() => cause,
            () = stop.over.cancelled() => return Ok(()),
        };
        alerts.raise(Kind::RecordingStopped, format!("recording stopped, all sessions end: {cause}"));
        let Frozen::NoSpace(_) = cause else {
            error!(reason = %cause, "recording stopped, ending all sessions");
            return Err(ServeError::Frozen(cause));
        };
        error!(reason = %cause, "no space left: all sessions end, and logins are refused until there is room");
        run.over().await;
        let ended = Arc::clone(&run);
        spawn_blocking(move || ended.recorder().shutdown()).await.map_err(io::Error::other)?;
        warn!("all sessions have ended; make room, and recording starts again by itself");
        match again(&run, &rules, &stop).await? {
            Some(recorder) => {
                runs.replace(recorder);
                alerts.raise(Kind::RecordingResumed, format!("recording again, logins work; it had stopped: {cause}"));
            }
            None => return Ok(()),
        }
        info!("recording again, logins work");
    }
}

/// Starts the recorder again once there is room; `None` where the daemon is to stop first.
async fn again(run: &Run, rules: &policy::Live, stop: &Stop) -> Result<Option<Recorder>, OpenError> {
    let mut lacked = None;
    loop {
        // A start reads the whole journal before it knows that it lacks space: try again only where there is more.
        let more = |available| lacked.is_none_or(|lacked| available > lacked);
        if run.recorder().space().is_ok_and(more) {
            let totals = run.recorder().totals();
            let config = RecorderConfig { totals, ..recorder_config(rules.current().config()) };
            match spawn_blocking(move || Recorder::start(config)).await.map_err(io::Error::other)? {
                Ok(recorder) => return Ok(Some(recorder)),
                Err(error) if error.is_no_space() => {
                    if lacked.is_none() {
                        warn!(reason = %error, "recording cannot start yet");
                    }
                    lacked = Some(run.recorder().space().unwrap_or_default());
                }
                Err(error) => return Err(error),
            }
        }
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = stop.shutdown.cancelled() => return Ok(None),
        }
    }
}

/// Describes the recorder of a start.
pub(super) fn recorder_config(config: &Config) -> RecorderConfig {
    let mut opening = vec![daemon_event("started", "")];
    opening.extend(config.events("start"));
    RecorderConfig {
        immutable: config.vault.immutable,
        catalogue: config.vault.catalogue,
        durability: config.durability,
        recipients: config.encryption.recipients(),
        state_recipient: config.encryption.state_recipient(),
        retain: config.vault.retain,
        remotes: config.vault.s3.clone(),
        segment_age: config.vault.segment_age(),
        journal_bytes_max: config.limits.journal,
        policy_hash: config.hash,
        control_opening: opening,
        ..RecorderConfig::new(
            config.state_dir.clone(),
            config.vault.dir.clone(),
            config.node.clone(),
            config.node_key.signing_key().clone(),
        )
    }
}
