//! Looks after what nobody else notices: a disk that does not answer, one that fills, and a certificate that ends.
//!
//! Tasks of their own, because asking a disk that does not answer takes as long as that lasts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use casemate_recorder::{Disk, Proven, RemoteFigures, SPOOL_LIMIT_PERCENT};
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
/// What waits longer for a vault elsewhere is told of, in microseconds.
const BEHIND_US: u64 = 3600 * 1_000_000;
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
pub(crate) async fn surveys(
    runs: Arc<recording::Live>,
    rules: Arc<policy::Live>,
    metrics: Arc<Metrics>,
    alerts: Alerts,
) {
    let mut fill = Fill::default();
    loop {
        let run = runs.current();
        // The one before has come back: a disk that does not answer holds one thread, not one every five seconds.
        if let Ok(survey) = spawn_blocking(move || run.recorder().survey()).await {
            for text in fill.look(&survey.disks) {
                alerts.raise(Kind::SpoolNearlyFull, text);
            }
            let vault = survey.disks.iter().find(|disk| disk.what == "vault").copied();
            metrics.surveyed(survey);
            let rules = rules.current();
            let config = &rules.config().vault;
            if let Some(vault) = vault.filter(|disk| !config.s3.is_empty() && disk.used_percent() >= FULL_PERCENT) {
                make_room(&runs, vault, config.proven, &alerts).await;
            }
        }
        sleep(SURVEY_EVERY).await;
    }
}

/// Lets local copies go that vaults elsewhere have, until there is room again.
async fn make_room(runs: &Arc<recording::Live>, vault: Disk, proven: Proven, alerts: &Alerts) {
    let used = vault.total.saturating_sub(vault.available);
    let wanted = used.saturating_sub(vault.total / 100 * ROOM_PERCENT);
    let run = runs.current();
    match spawn_blocking(move || run.recorder().reclaim(wanted, proven)).await {
        Ok(Ok(done)) if done.segments > 0 => {
            let (segments, mib) = (done.segments, done.bytes / (1024 * 1024));
            let text = format!(
                "space ran out: {segments} local copies ({mib} MiB) of recordings that the vaults elsewhere have were removed"
            );
            alerts.raise(Kind::CopiesDropped, text);
        }
        Ok(Ok(_)) | Err(_) => {}
        Ok(Err(error)) => tracing::warn!(%error, "local copies could not be removed"),
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

/// Looks after the vaults elsewhere: what they do not keep, and what waits for them for long.
pub(crate) async fn vaults(runs: Arc<recording::Live>, alerts: Alerts) {
    let mut known = Elsewhere::default();
    loop {
        let figures = runs.current().recorder().remotes();
        let now_us = u64::try_from(Timestamp::now().as_microsecond()).unwrap_or(0);
        for (kind, text) in known.look(&figures, now_us) {
            alerts.raise(kind, text);
        }
        sleep(SURVEY_EVERY).await;
    }
}

/// What was told of vaults elsewhere.
#[derive(Debug, Default)]
struct Elsewhere {
    troubles: BTreeSet<(String, String, String)>,
    behind: BTreeSet<String>,
}

impl Elsewhere {
    /// Returns what there is to tell.
    fn look(&mut self, figures: &[RemoteFigures], now_us: u64) -> Vec<(Kind, String)> {
        let mut told = Vec::new();
        let mut troubles = BTreeSet::new();
        for vault in figures {
            let name = &vault.name;
            for (about, text) in &vault.troubles {
                let trouble = (name.clone(), about.clone(), text.clone());
                if !self.troubles.contains(&trouble) {
                    told.push((Kind::VaultTrouble, format!("vault {name}, {about}: {text}")));
                }
                troubles.insert(trouble);
            }
            let lag_us = vault.oldest_us.map_or(0, |oldest_us| now_us.saturating_sub(oldest_us));
            if lag_us < BEHIND_US {
                self.behind.remove(name);
            } else if self.behind.insert(name.clone()) {
                let (segments, minutes) = (vault.waiting_segments, lag_us / 60_000_000);
                let text = format!(
                    "vault {name}: {segments} finished segments wait, the oldest for {minutes} min: they are safe here, and \
                     nothing protects them from whoever rules this machine"
                );
                told.push((Kind::VaultBehind, text));
            }
        }
        // What is over may be told of again when it comes back.
        self.troubles = troubles;
        told
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
    fn a_vault_that_lies_or_lags_is_told_of_once_until_it_was_well_again() {
        let mut known = Elsewhere::default();
        let mut vault = RemoteFigures { name: "basel".into(), ..RemoteFigures::default() };
        let mut look = |vault: &RemoteFigures| {
            let told = known.look(std::slice::from_ref(vault), 2 * BEHIND_US);
            told.into_iter().map(|(kind, _)| kind).collect::<Vec<_>>()
        };
        vault.oldest_us = Some(BEHIND_US + 1);
        assert_eq!(look(&vault), [], "not for long yet");
        vault.oldest_us = Some(BEHIND_US);
        vault.troubles.insert("lock".into(), "off".into());
        assert_eq!(look(&vault), [Kind::VaultTrouble, Kind::VaultBehind]);
        assert_eq!(look(&vault), []);
        vault.troubles.insert("lock".into(), "another".into());
        assert_eq!(look(&vault), [Kind::VaultTrouble]);
        (vault.troubles, vault.oldest_us) = (Default::default(), None);
        assert_eq!(look(&vault), []);
        vault.oldest_us = Some(0);
        vault.troubles.insert("lock".into(), "off".into());
        assert_eq!(look(&vault), [Kind::VaultTrouble, Kind::VaultBehind]);
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
