//! The recorder's figures and the newest survey of the disks, put into words when somebody asks.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use casemate_recorder::{COMMIT_BOUNDS_US, Figures, Latency, RemoteFigures, Survey};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::recording;

/// Reads the recorder in force at each scrape.
#[derive(Debug)]
pub(super) struct Sampled {
    pub(super) runs: Arc<recording::Live>,
    pub(super) survey: Arc<Mutex<Option<Survey>>>,
}

impl Collector for Sampled {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let figures = self.runs.current().recorder().figures();
        let remotes = self.runs.current().recorder().remotes();
        let survey = self.survey.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut page = Page(encoder);
        page.recorder(&figures)?;
        page.remotes(&remotes)?;
        survey.map_or(Ok(()), |survey| page.disks(&survey))
    }
}

struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn recorder(&mut self, figures: &Figures) -> fmt::Result {
        let bytes = [("client", figures.client_bytes), ("target", figures.target_bytes)];
        let help =
            "Bytes of streams that were recorded, by who sent them; content that policy elides is not among them";
        self.counters("recorded", help, &Unit::Bytes, "side", bytes)?;
        let help = "How long a turn of the journal waited for the disk: its write and, where it was synced, its sync";
        self.commits(help, &figures.commits)?;
        let help = "Journal files that hold something which is nowhere else yet";
        self.gauge("journal", help, Some(&Unit::Bytes), &figures.journal_bytes)?;
        let help = "The most that journal files may take";
        self.gauge("journal_limit", help, Some(&Unit::Bytes), &figures.journal_limit_bytes)?;
        let help = "Recorded since the recorder started and in no finished segment: blocks as they are stored, and events \
                    that wait for a block as they are encoded, these as of the last second";
        self.gauge("unsealed", help, Some(&Unit::Bytes), &figures.unsealed_bytes)?;
        self.gauge("unshipped_segments", "Finished segments not in the vault", None, &figures.unshipped_segments)?;
        self.gauge("log_entries", "Entries of the node log under its newest checkpoint", None, &figures.log_size)?;
        let help = "When the newest checkpoint was signed, Unix time; 0 before the first of a start";
        self.gauge("checkpoint_time", help, Some(&Unit::Seconds), &seconds(figures.checkpoint_us))?;
        let help = "1 while recording cannot go on: sessions end, and nobody is let in";
        self.gauge("recording_frozen", help, None, &u64::from(figures.frozen.is_some()))?;
        let help = "1 while the disk has not answered for two seconds: sessions wait";
        self.gauge("disk_stalled", help, None, &u64::from(figures.stalled))
    }

    /// Nothing where no vault elsewhere is configured.
    fn remotes(&mut self, vaults: &[RemoteFigures]) -> fmt::Result {
        if vaults.is_empty() {
            return Ok(());
        }
        let mut each = |name, help, unit: Option<&Unit>, of: fn(&RemoteFigures) -> f64| {
            let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            vaults
                .iter()
                .try_for_each(|vault| family.encode_family(&[("vault", vault.name.as_str())])?.encode_gauge(&of(vault)))
        };
        let help = "Finished segments that a vault elsewhere does not have";
        each("vault_waiting_segments", help, None, |vault| vault.waiting_segments as f64)?;
        each("vault_waiting", "Bytes of those segments", Some(&Unit::Bytes), |vault| vault.waiting_bytes as f64)?;
        let help = "When the oldest of them was finished, Unix time; 0 where none waits: an alert after an hour";
        each("vault_waiting_since", help, Some(&Unit::Seconds), |vault| seconds(vault.oldest_us.unwrap_or(0)))?;
        let help = "When a vault elsewhere last did what it was asked, Unix time; 0 before the first time";
        each("vault_reached_time", help, Some(&Unit::Seconds), |vault| seconds(vault.reached_us))?;
        let help = "Entries of the node log under the newest checkpoint in a vault elsewhere";
        each("vault_log_entries", help, None, |vault| vault.log_size as f64)?;
        let help = "What somebody must look at about a vault elsewhere; the log and the alerts say what";
        each("vault_troubles", help, None, |vault| vault.troubles.len() as f64)?;
        self.remote_counters(vaults)
    }

    fn remote_counters(&mut self, vaults: &[RemoteFigures]) -> fmt::Result {
        let mut each = |name, help, unit: Option<&Unit>, of: fn(&RemoteFigures) -> u64| {
            let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
            vaults.iter().try_for_each(|vault| {
                let labels = [("vault", vault.name.as_str())];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&of(vault), None)
            })
        };
        each("vault_put_objects", "Objects put into a vault elsewhere", None, |vault| vault.puts)?;
        each("vault_put", "Bytes of those objects", Some(&Unit::Bytes), |vault| vault.put_bytes)?;
        let help = "Requests to a vault elsewhere that came to nothing";
        let mut family = self.0.encode_descriptor("vault_failures", help, None, MetricType::Counter)?;
        for vault in vaults {
            for (kind, count) in &vault.failures {
                let labels = [("vault", vault.name.as_str()), ("kind", *kind)];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
            }
        }
        Ok(())
    }

    fn disks(&mut self, survey: &Survey) -> fmt::Result {
        self.gauge("spool", "Files in the spool", Some(&Unit::Bytes), &survey.spool_bytes)?;
        let available = survey.disks.iter().map(|disk| (disk.what, disk.available as f64));
        let help = "What can still be written where spool and vault lie";
        self.gauges("filesystem_available", help, &Unit::Bytes, "of", available)?;
        let used = survey.disks.iter().map(|disk| (disk.what, 1.0 - disk.available as f64 / disk.total.max(1) as f64));
        let help = "How much is used where spool and vault lie: an alert at 0.85, no new sessions at 0.95";
        // The conventions write it in the singular.
        self.gauges("filesystem_used", help, &Unit::Other("ratio".to_owned()), "of", used)
    }

    fn gauge(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: &impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(value)
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        unit: &Unit,
        label: &'static str,
        values: impl Iterator<Item = (&'static str, f64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, Some(unit), MetricType::Gauge)?;
        for (of, value) in values {
            family.encode_family(&[(label, of)])?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: &Unit,
        label: &'static str,
        values: [(&'static str, impl EncodeCounterValue); N],
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, Some(unit), MetricType::Counter)?;
        for (of, value) in values {
            family.encode_family(&[(label, of)])?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn commits(&mut self, help: &str, latency: &Latency) -> fmt::Result {
        let bounds = COMMIT_BOUNDS_US.into_iter().map(seconds).chain([f64::INFINITY]);
        let counts = latency.counts.into_iter().chain([latency.longer]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let name = "commit_duration";
        let mut histogram = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        histogram.encode_histogram::<NoLabelSet>(seconds(latency.sum_us), count, &buckets, None)
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}
