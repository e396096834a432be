//! When a session has gone on for long enough, or been quiet for too long, and when to say so beforehand.
//!
//! Times in, steps out. Knows no clock and no session.

use std::time::Duration;

use casemate_recorder::transcript::seal::CloseReason;

use crate::session::End;

/// How long before a session's last moment people are told, where it is that long.
const NOTICES: [Duration; 2] = [Duration::from_secs(300), Duration::from_secs(60)];

/// How long before a quiet session's last moment people are told.
const NOTICE_IDLE: Duration = Duration::from_secs(60);

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing, for so long.
    Wait(Duration),
    /// Tell the person.
    Warn(String),
    /// End the session.
    End(End),
}

/// The limits of one session, and what was said of them.
#[derive(Debug)]
pub(crate) struct Overdue {
    idle: Option<Duration>,
    whole: Option<Duration>,
    /// What is left of the notices about the whole, longest first.
    notices: Vec<Duration>,
    /// The age at which the last activity was, when the notice about quiet was given.
    noticed: Option<Duration>,
}

impl Overdue {
    /// Starts at the beginning of a session that may be quiet for `idle` and go on for `whole`.
    pub(crate) fn new(idle: Option<Duration>, whole: Option<Duration>) -> Self {
        let mut notices: Vec<Duration> =
            NOTICES.into_iter().filter(|lead| whole.is_some_and(|whole| *lead <= whole / 2)).collect();
        if let (true, Some(whole)) = (notices.is_empty(), whole) {
            notices.push(whole / 2);
        }
        Self { idle, whole, notices, noticed: None }
    }

    /// Whether there is anything to watch for.
    pub(crate) fn is_limited(&self) -> bool {
        self.idle.is_some() || self.whole.is_some()
    }

    /// Says what to do at this age of the session, whose last byte passed at the age of `active`.
    pub(crate) fn step(&mut self, age: Duration, active: Duration) -> Step {
        let mut next = Duration::MAX;
        if let Some(whole) = self.whole {
            let left = whole.saturating_sub(age);
            if left.is_zero() {
                let text = format!("limits.session of {} is over", words(whole));
                let notice = format!("this session ends: it may last {}", words(whole));
                return Step::End(End::with_notice(CloseReason::Policy, text, notice));
            }
            if let Some(lead) = self.notices.first().copied() {
                if left <= lead {
                    self.notices.remove(0);
                    return Step::Warn(format!("this session ends in {}", words(left)));
                }
                next = next.min(left - lead);
            }
            next = next.min(left);
        }
        if let Some(idle) = self.idle {
            let left = idle.saturating_sub(age.saturating_sub(active));
            if left.is_zero() {
                let text = format!("limits.idle of {} is over", words(idle));
                let notice = format!("this session ends: nothing happened for {}", words(idle));
                return Step::End(End::with_notice(CloseReason::Policy, text, notice));
            }
            let lead = NOTICE_IDLE.min(idle / 2);
            if left > lead {
                next = next.min(left - lead);
            } else if self.noticed == Some(active) {
                next = next.min(left);
            } else {
                self.noticed = Some(active);
                return Step::Warn(format!("this session ends in {} unless something happens", words(left)));
            }
        }
        Step::Wait(next)
    }
}

/// A time as people say it: whole minutes where it is that long.
fn words(time: Duration) -> String {
    // A notice that is a few milliseconds late is still the notice of that minute.
    let seconds = time.as_secs() + u64::from(time.subsec_millis() >= 500);
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", (seconds + 30) / 60),
        _ => format!("{} h", (seconds + 1800) / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn said(step: Step) -> String {
        match step {
            Step::Wait(time) => format!("wait {}", time.as_secs()),
            Step::Warn(text) => text,
            Step::End(end) => format!("{}: {}", end.reason.name(), end.text),
        }
    }

    #[test]
    fn without_limits_there_is_nothing_to_do() {
        let mut overdue = Overdue::new(None, None);
        assert!(!overdue.is_limited());
        assert_eq!(overdue.step(s(1 << 40), s(0)), Step::Wait(Duration::MAX));
    }

    #[test]
    fn a_long_session_is_told_twice_and_ends() {
        let mut overdue = Overdue::new(None, Some(s(3600)));
        let mut at = |age| said(overdue.step(s(age), s(age)));
        assert_eq!(at(0), "wait 3300");
        assert_eq!(at(3300), "this session ends in 5 min");
        assert_eq!(at(3300), "wait 240");
        assert_eq!(at(3540), "this session ends in 60 s");
        assert_eq!(at(3541), "wait 59");
        assert_eq!(at(3600), "policy: limits.session of 60 min is over");
        assert_eq!(at(9999), "policy: limits.session of 60 min is over");
    }

    #[test]
    fn a_short_session_is_told_once_half_way() {
        let mut overdue = Overdue::new(None, Some(s(4)));
        let mut at = |age| said(overdue.step(s(age), s(age)));
        assert_eq!(at(1), "wait 1");
        assert_eq!(at(2), "this session ends in 2 s");
        assert_eq!(at(2), "wait 2");
    }

    #[test]
    fn a_late_look_gives_one_notice_at_a_time() {
        let mut overdue = Overdue::new(None, Some(s(3600)));
        assert_eq!(said(overdue.step(s(3570), s(0))), "this session ends in 30 s");
        assert_eq!(said(overdue.step(s(3570), s(0))), "this session ends in 30 s");
        assert_eq!(said(overdue.step(s(3570), s(0))), "wait 30");
    }

    #[test]
    fn a_quiet_session_is_told_and_ends_unless_something_happens() {
        let mut overdue = Overdue::new(Some(s(900)), None);
        let mut at = |age, active| said(overdue.step(s(age), s(active)));
        assert_eq!(at(100, 100), "wait 840");
        assert_eq!(at(940, 100), "this session ends in 60 s unless something happens");
        assert_eq!(at(940, 100), "wait 60");
        assert_eq!(at(999, 990), "wait 831", "something happened");
        assert_eq!(at(1831, 990), "this session ends in 59 s unless something happens");
        assert_eq!(at(1890, 990), "policy: limits.idle of 15 min is over");
    }
}
