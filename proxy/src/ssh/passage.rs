//! Where a forwarded connection leads, as the message that opens its channel says it (RFC 4254 §7, OpenSSH's PROTOCOL §2.4).
//!
//! Names places and writes them into events. Decides nothing, and looks nothing up.

use std::fmt;

use casemate_recorder::transcript::event::{Event, Field, chan_open, fwd_end, fwd_listen};

use super::flow::clip;
use crate::config::Forwards;

/// A place that connections lead to, or are taken at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A host and a port.
    Tcp { host: String, port: u32 },
    /// A socket's path.
    Unix { path: String },
}

/// A forwarded connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Passage {
    /// Whether the target opened it, for a forward that listens there.
    pub(super) back: bool,
    /// Where it leads or, coming from the target, where it was taken.
    pub(super) place: Place,
    /// Where it comes from, as far as that is told.
    pub(super) origin: Option<(String, u32)>,
}

impl Place {
    /// Whether these rules let the target connect there.
    pub(super) fn is_connected_by(&self, rules: &Forwards) -> bool {
        match self {
            Self::Tcp { host, port } => rules.connects(host, *port),
            Self::Unix { path } => rules.connects_to_path(path),
        }
    }

    /// Whether these rules let the target listen there.
    pub(super) fn is_listened_at_by(&self, rules: &Forwards) -> bool {
        match self {
            Self::Tcp { host, port } => rules.listens(host, *port),
            Self::Unix { path } => rules.listens_at_path(path),
        }
    }

    /// The same place, with the port that was chosen for it.
    pub(super) fn at_port(&self, chosen: u32) -> Self {
        match self {
            Self::Tcp { host, port: 0 } => Self::Tcp { host: host.clone(), port: chosen },
            other => other.clone(),
        }
    }

    fn tell(&self, event: Event, host: Field, port: Field, path: Field) -> Event {
        match self {
            Self::Tcp { host: name, port: number } => event.with(host, clip(name.as_bytes())).with(port, *number),
            Self::Unix { path: name } => event.with(path, clip(name.as_bytes())),
        }
    }

    /// Begins an event that says something of listening there.
    pub(super) fn listen_event(&self, chan: u32, what: &'static str) -> Event {
        let event = Event::map(fwd_listen::TYPE, chan).with(fwd_listen::WHAT, what);
        self.tell(event, fwd_listen::HOST, fwd_listen::PORT, fwd_listen::PATH)
    }

    /// The name of the request to listen there, or to stop.
    pub(super) fn listen_request(&self, stop: bool) -> &'static str {
        match (self, stop) {
            (Self::Tcp { .. }, false) => "tcpip-forward",
            (Self::Tcp { .. }, true) => "cancel-tcpip-forward",
            (Self::Unix { .. }, false) => "streamlocal-forward@openssh.com",
            (Self::Unix { .. }, true) => "cancel-streamlocal-forward@openssh.com",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { path } => f.write_str(path),
        }
    }
}

impl Passage {
    /// The type of its channel.
    pub(super) fn kind(&self) -> &'static str {
        match (&self.place, self.back) {
            (Place::Tcp { .. }, false) => "direct-tcpip",
            (Place::Tcp { .. }, true) => "forwarded-tcpip",
            (Place::Unix { .. }, false) => "direct-streamlocal@openssh.com",
            (Place::Unix { .. }, true) => "forwarded-streamlocal@openssh.com",
        }
    }

    /// Begins the record of its channel.
    pub(super) fn asked(&self, chan: u32) -> Event {
        let event = Event::map(chan_open::TYPE, chan).with(chan_open::KIND, self.kind());
        let event = self.place.tell(event, chan_open::HOST, chan_open::PORT, chan_open::PATH);
        let event = if self.back { event.with(chan_open::SIDE, 1u32) } else { event };
        match &self.origin {
            Some((host, port)) => {
                event.with(chan_open::ORIGIN_HOST, clip(host.as_bytes())).with(chan_open::ORIGIN_PORT, *port)
            }
            None => event,
        }
    }

    /// Begins the event of its end.
    pub(super) fn ended(&self, chan: u32) -> Event {
        let event = Event::map(fwd_end::TYPE, chan).with(fwd_end::KIND, self.kind());
        self.place.tell(event, fwd_end::HOST, fwd_end::PORT, fwd_end::PATH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use casemate_recorder::transcript::event::{EVENT_LEN_MAX, Value, encode};

    #[test]
    fn a_passage_is_told_as_it_came() {
        let place = Place::Tcp { host: "db".to_owned(), port: 5432 };
        let there = Passage { back: false, place: place.clone(), origin: Some(("127.0.0.1".to_owned(), 4)) };
        let event = there.asked(7);
        assert_eq!(event.get(chan_open::KIND), Some(&Value::from("direct-tcpip")));
        assert_eq!(event.get(chan_open::HOST), Some(&Value::from(b"db".as_slice())));
        assert_eq!((event.get(chan_open::SIDE), event.get(chan_open::PATH)), (None, None));
        let back = Passage { back: true, place: Place::Unix { path: "/run/s".to_owned() }, origin: None };
        let event = back.asked(7);
        assert_eq!(event.get(chan_open::KIND), Some(&Value::from("forwarded-streamlocal@openssh.com")));
        assert_eq!(event.get(chan_open::SIDE), Some(&Value::Uint(1)));
        assert_eq!(back.ended(7).get(fwd_end::PATH), Some(&Value::from(b"/run/s".as_slice())));
        assert_eq!(place.at_port(9), place, "a port that was named stays");
        let free = Place::Tcp { host: String::new(), port: 0 };
        assert_eq!(free.at_port(9), Place::Tcp { host: String::new(), port: 9 });
    }

    #[test]
    fn the_longest_names_fit_an_event() {
        let long = "n".repeat(1 << 18);
        let place = Place::Tcp { host: long.clone(), port: u32::MAX };
        let passage = Passage { back: true, place, origin: Some((long, u32::MAX)) };
        let mut bytes = Vec::new();
        encode(&mut bytes, u64::MAX, u64::MAX, &passage.asked(u32::MAX).with(chan_open::REASON, "r".repeat(1000)));
        assert!(bytes.len() < EVENT_LEN_MAX);
    }
}
