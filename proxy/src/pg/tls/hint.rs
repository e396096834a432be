//! Which key exchange a target chose last: the only thing that one connection to it leaves for the next.
//!
//! A PostgreSQL before 18 takes P-256 alone unless told otherwise. Whoever begins with another group is asked to begin again
//! (RFC 8446 §4.1.4), which costs a round trip and a key exchange with every login.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// How long it is believed. A target that has learnt a better one says so only when asked anew.
const BELIEVED: Duration = Duration::from_secs(3600);

/// What a first message offers unasked: a key for the hybrid and one for its classical half.
const OFFERED: [NamedGroup; 2] = [NamedGroup::X25519MLKEM768, NamedGroup::X25519];

/// The choice of one target. As a session store it holds no session: each connection is checked from its beginning.
#[derive(Debug, Default)]
pub(super) struct Hint(Mutex<Option<(NamedGroup, Instant)>>);

impl Hint {
    /// Notes a choice. One that is offered anyway is not worth it: to offer it alone would keep the hybrid from a target that
    /// learns it.
    fn note(&self, group: NamedGroup, now: Instant) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *slot {
            _ if OFFERED.contains(&group) => *slot = None,
            // It was chosen because it was offered; that says nothing new.
            Some((noted, since)) if noted == group && now.saturating_duration_since(since) < BELIEVED => {}
            _ => *slot = Some((group, now)),
        }
    }

    fn believed(&self, now: Instant) -> Option<NamedGroup> {
        let noted = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.filter(|&(_, since)| now.saturating_duration_since(since) < BELIEVED).map(|(group, _)| group)
    }
}

impl ClientSessionStore for Hint {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.note(group, Instant::now());
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.believed(Instant::now())
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {}

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_believed_for_an_hour_from_when_it_was_a_choice() {
        let (hint, start) = (Hint::default(), Instant::now());
        assert_eq!(hint.believed(start), None);
        hint.note(NamedGroup::secp256r1, start);
        let late = start + BELIEVED - Duration::from_secs(1);
        // Chosen again, of what alone was offered.
        hint.note(NamedGroup::secp256r1, late);
        assert_eq!(hint.believed(late), Some(NamedGroup::secp256r1));
        assert_eq!(hint.believed(start + BELIEVED), None);
        hint.note(NamedGroup::secp256r1, start + BELIEVED);
        assert_eq!(hint.believed(start + BELIEVED), Some(NamedGroup::secp256r1));
        hint.note(NamedGroup::secp384r1, start + BELIEVED);
        assert_eq!(hint.believed(start + BELIEVED), Some(NamedGroup::secp384r1));
    }

    #[test]
    fn what_is_offered_anyway_never_narrows_the_offer() {
        let (hint, now) = (Hint::default(), Instant::now());
        for group in OFFERED {
            hint.note(NamedGroup::secp256r1, now);
            hint.note(group, now);
            assert_eq!(hint.believed(now), None, "{group:?}");
        }
    }
}
