//! Looks after what nobody else notices: a disk that does not answer, one that fills, and a certificate that ends.
//!
//! Tasks of their own, because asking a disk that does not answer takes as long as that lasts.

use std::sync::Arc;
use std::time::Duration;

use casemate_recorder::{Disk, SPOOL_LIMIT_PERCENT};
use jiff::Timestamp;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::{Alerts, Kind};
use crate::metrics::Metrics;
use crate::policy;
use crate::recording;

/// How often somebody looks whether the disk answers.
const STALL_LOOK: Duration = Duration::from_millis(500);
/// How often the disks are asked how full they are.
const SURVEY_EVERY: Duration = Duration::from_secs(5);
/// How often the certificate is looked at.
const CERTIFICATE_EVERY: Duration = Duration::from_secs(24 * 3600);
/// From here on somebody should make room.
const FULL_PERCENT: u64 = 85;
/// Below this a disk may be told of again.
const ROOM_PERCENT: u64 = 80;

/// Tells when the disk does not answer, and when it does again.
pub(crate) async fn stalls(runs: Arc<recording::Live>, alerts: Alerts) {
    let mut known = false;
    loop {
        let figures = runs.current().recorder().figures();
        // What froze has its own alert, and does not answer by that.
        if figures.frozen.is_none() && figures.stalled != known {
            known = figures.stalled;
            match known {
                true => alerts.raise(Kind::DiskStalled, "the disk does not answer: sessions wait until it does"),
                false => alerts.raise(Kind::DiskAnswers, "the disk answers again"),
            }
        }
        sleep(STALL_LOOK).await;
    }
}

/// Asks the disks again and again, and tells when one is nearly full.
pub(crate) async fn surveys(runs: Arc<recording::Live>, metrics: Arc<Metrics>, alerts: Alerts) {
    let mut fill = Fill::default();
    loop {
        let run = runs.current();
        // The one before has come back: a disk that does not answer holds one thread, not one every five seconds.
        if let Ok(survey) = spawn_blocking(move || run.recorder().survey()).await {
            for text in fill.look(&survey.disks) {
                alerts.raise(Kind::SpoolNearlyFull, text);
            }
            metrics.surveyed(survey);
        }
        sleep(SURVEY_EVERY).await;
    }
}

/// Looks at the end of the front door's certificate again and again: at the start, and once a day as long as it is near.
pub(crate) async fn certificates(rules: Arc<policy::Live>, alerts: Alerts) {
    loop {
        let policy = rules.current();
        let front = policy.config().postgres.as_ref();
        if let Some(text) = front.and_then(|front| front.ends_soon(Timestamp::now().as_second())) {
            alerts.raise(Kind::CertificateEnds, text);
        }
        drop(policy);
        sleep(CERTIFICATE_EVERY).await;
    }
}

/// Which disks were told of as nearly full.
#[derive(Debug, Default)]
struct Fill(Vec<&'static str>);

impl Fill {
    /// Returns what there is to tell.
    fn look(&mut self, disks: &[Disk]) -> Vec<String> {
        let mut texts = Vec::new();
        for disk in disks {
            let (what, percent) = (disk.what, disk.used_percent());
            if percent < ROOM_PERCENT {
                self.0.retain(|known| *known != what);
            } else if percent >= FULL_PERCENT && !self.0.contains(&what) {
                self.0.push(what);
                let mib = disk.available / (1024 * 1024);
                texts.push(format!(
                    "{percent} % of the {what}'s filesystem is used, {mib} MiB are left; from {SPOOL_LIMIT_PERCENT} % on nobody \
                     is let in: make room"
                ));
            }
        }
        texts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_told_of_once_until_it_had_room_again() {
        let mut fill = Fill::default();
        let mut look = |spool: u64, vault: u64| {
            let disk = |what, percent| Disk { what, available: 100 - percent, total: 100 };
            fill.look(&[disk("spool", spool), disk("vault", vault)]).len()
        };
        assert_eq!(look(84, 10), 0);
        assert_eq!(look(85, 10), 1);
        assert_eq!(look(99, 85), 1, "the other one has its own");
        assert_eq!(look(80, 90), 0, "around the threshold nobody is told twice");
        assert_eq!(look(86, 90), 0);
        assert_eq!(look(79, 90), 0);
        assert_eq!(look(86, 90), 1);
    }

    #[test]
    fn the_text_says_which_how_full_and_what_to_do() {
        let disk = Disk { what: "vault", available: 14 << 20, total: 100 << 20 };
        let texts = Fill::default().look(&[disk]);
        assert_eq!(
            texts,
            ["86 % of the vault's filesystem is used, 14 MiB are left; from 95 % on nobody is let in: make room"]
        );
    }
}
