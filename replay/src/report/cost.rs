//! What a retention costs: objects and bytes, times prices. Sans-IO.

use super::prices::Class;

/// S3 bills by 2^30 bytes and calls them GB.
const GB: f64 = (1u64 << 30) as f64;

/// What is called a TB beside that.
const TB: f64 = 1024.0 * GB;

/// Days of a month, over a year.
const MONTH_DAYS: f64 = 365.0 / 12.0;

/// What lies in a vault, as far as it is billed.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Mix {
    /// Sessions, portals and control transcripts.
    pub(crate) sessions: u64,
    /// The length of each of their segments.
    pub(crate) segments: Vec<u64>,
    /// Checkpoints, tiles and entry bundles.
    pub(crate) log_objects: u64,
    pub(crate) log_bytes: u64,
    /// From the first OPEN to the newest leaf about a session, a day at least.
    pub(crate) days_seen: f64,
    /// How long sessions are to be kept, on average over their OPEN leaves.
    pub(crate) retention_days: f64,
}

/// Objects, with what they weigh.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Load {
    objects: f64,
    bytes: f64,
    /// Bytes with the class's minimum.
    billed_bytes: f64,
}

/// What one class costs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cost {
    pub(crate) class: String,
    /// A month, at steady state.
    pub(crate) storage: f64,
    /// A month at steady state; once for a TB.
    pub(crate) puts: f64,
    /// Reading everything once.
    pub(crate) verify: f64,
}

impl Mix {
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.segments.iter().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    pub(crate) fn per_day(&self) -> f64 {
        ratio(self.sessions as f64, self.days_seen)
    }

    pub(crate) fn segments_per_session(&self) -> f64 {
        ratio(self.segments.len() as f64, self.sessions as f64)
    }

    pub(crate) fn log_per_day(&self) -> f64 {
        ratio(self.log_objects as f64, self.days_seen)
    }

    /// Everything that was put, over all sessions.
    pub(crate) fn puts_per_session(&self) -> f64 {
        ratio(self.segments.len() as f64 + self.log_objects as f64, self.sessions as f64)
    }

    pub(crate) fn mean_object_bytes(&self) -> f64 {
        let objects = self.segments.len() as f64 + self.log_objects as f64;
        ratio(self.segment_bytes() as f64 + self.log_bytes as f64, objects)
    }

    /// Segments as they are here, so many of them.
    fn segments(&self, class: &Class, objects: f64) -> Load {
        let share = ratio(objects, self.segments.len() as f64);
        let billed: u64 = self.segments.iter().map(|bytes| (*bytes).max(class.object_bytes_min)).sum();
        Load { objects, bytes: self.segment_bytes() as f64 * share, billed_bytes: billed as f64 * share }
    }

    /// Files of the log as they are here, so many of them. All of them are small.
    fn log(&self, class: &Class, objects: f64) -> Load {
        let mean = ratio(self.log_bytes as f64, self.log_objects as f64);
        Load { objects, bytes: mean * objects, billed_bytes: mean.max(class.object_bytes_min as f64) * objects }
    }

    /// What a month costs when as much comes as goes, at so many sessions a day.
    ///
    /// The log grows by the clock as well as by sessions: with fewer of them than were seen it stays as it is, with more it grows
    /// with them.
    pub(crate) fn month(&self, class: &Class, per_day: f64) -> Cost {
        let days = self.retention_days.max(f64::from(class.days_min));
        let segments_a_day = per_day * self.segments_per_session();
        let log_a_day = self.log_per_day() * ratio(per_day, self.per_day()).max(1.0);
        let kept = self.segments(class, segments_a_day * days).and(self.log(class, log_a_day * days));
        let puts = (segments_a_day + log_a_day) * MONTH_DAYS;
        kept.cost(class, puts)
    }

    /// What a TB of segments costs, as long as they are here.
    pub(crate) fn terabyte(&self, class: &Class) -> Cost {
        let mean = ratio(self.segment_bytes() as f64, self.segments.len() as f64);
        let objects = ratio(TB, mean);
        self.segments(class, objects).cost(class, objects)
    }
}

impl Load {
    fn and(self, other: Self) -> Self {
        Self {
            objects: self.objects + other.objects,
            bytes: self.bytes + other.bytes,
            billed_bytes: self.billed_bytes + other.billed_bytes,
        }
    }

    fn cost(self, class: &Class, puts: f64) -> Cost {
        Cost {
            class: class.name.clone(),
            storage: self.billed_bytes / GB * class.storage_gb_month,
            puts: puts / 1000.0 * class.put_1000,
            verify: self.objects / 1000.0 * class.get_1000 + self.bytes / GB * class.retrieval_gb,
        }
    }
}

/// Nothing of nothing is nothing.
fn ratio(of: f64, by: f64) -> f64 {
    if by > 0.0 { of / by } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::super::prices::Prices;
    use super::*;

    const KIB: u64 = 1024;

    fn mix() -> Mix {
        Mix {
            sessions: 1000,
            segments: [64 * KIB, 192 * KIB].repeat(1000),
            log_objects: 1000,
            log_bytes: 1000 * KIB,
            days_seen: 10.0,
            retention_days: 400.0,
        }
    }

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9 + expected * 1e-6, "{found} is not {expected}");
    }

    /// By hand: 100 sessions a day for 400 days are 80,000 segments of 128 KiB on average, 9.765625 GB, and 160 KiB where 64 KiB
    /// count as 128, 12.20703125 GB. 100 files of the log a day are 40,000 of 1 KiB, 0.0381469727 GB, or of 128 KiB, 4.8828125 GB.
    /// 300 objects a day are 9,125 a month.
    #[test]
    fn a_month_is_what_it_is_by_hand() {
        let [standard, infrequent, instant] = Prices::read(None).unwrap().classes.try_into().unwrap();
        let mix = mix();
        let cost = mix.month(&standard, mix.per_day());
        near(cost.storage, (9.765_625 + 0.038_146_972_7) * 0.023);
        near(cost.puts, 9.125 * 0.005);
        near(cost.verify, 120.0 * 0.0004);
        let cost = mix.month(&infrequent, mix.per_day());
        near(cost.storage, (12.207_031_25 + 4.882_812_5) * 0.0125);
        near(cost.puts, 9.125 * 0.01);
        near(cost.verify, 120.0 * 0.001 + (9.765_625 + 0.038_146_972_7) * 0.01);
        let cost = mix.month(&instant, mix.per_day());
        near(cost.storage, (12.207_031_25 + 4.882_812_5) * 0.004);
        near(cost.puts, 9.125 * 0.02);
    }

    /// By hand: 2^40 bytes of 128 KiB on average are 8,388,608 objects; where 64 KiB count as 128 they are billed as 1,280 GB.
    #[test]
    fn a_terabyte_is_what_it_is_by_hand() {
        let [standard, infrequent, _] = Prices::read(None).unwrap().classes.try_into().unwrap();
        let cost = mix().terabyte(&standard);
        near(cost.storage, 1024.0 * 0.023);
        near(cost.puts, 8_388.608 * 0.005);
        near(cost.verify, 8_388.608 * 0.0004);
        let cost = mix().terabyte(&infrequent);
        near(cost.storage, 1280.0 * 0.0125);
        near(cost.verify, 8_388.608 * 0.001 + 1024.0 * 0.01);
    }

    #[test]
    fn more_sessions_cost_more_and_fewer_leave_the_log_as_it_is() {
        let [standard, ..] = <[Class; 3]>::try_from(Prices::read(None).unwrap().classes).unwrap();
        let month = |per_day| mix().month(&standard, per_day);
        near(month(200.0).storage, 2.0 * month(100.0).storage);
        near(month(0.0).puts, 100.0 * MONTH_DAYS / 1000.0 * 0.005);
    }

    #[test]
    fn what_is_kept_for_less_than_a_class_bills_is_billed_for_that() {
        let [_, infrequent, _] = Prices::read(None).unwrap().classes.try_into().unwrap();
        let days = |retention_days| Mix { retention_days, ..mix() }.month(&infrequent, 100.0).storage;
        near(days(7.0), days(30.0));
        near(days(60.0), 2.0 * days(30.0));
    }

    #[test]
    fn an_empty_vault_costs_nothing() {
        for class in Prices::read(None).unwrap().classes {
            let (month, terabyte) = (Mix::default().month(&class, 0.0), Mix::default().terabyte(&class));
            assert_eq!((month.storage, month.puts, month.verify, terabyte.storage), (0.0, 0.0, 0.0, 0.0));
        }
    }
}
