//! Why a login was refused, in a few words that only this program chooses.

/// A reason that is a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A key that is none of that person's.
    Key,
    /// No such person.
    Person,
    /// The login name is not of the form that names somebody.
    Name,
    /// Proved who it is, and may not go there.
    Denied,
    /// A method, a kind of key or an algorithm that the bastion does not take.
    Method,
    /// Too many attempts or offers on one connection.
    Attempts,
    /// Too many connections that have not logged in.
    Connections,
    /// Too many sessions.
    Sessions,
    /// Nothing can be recorded, or there is too little space to begin.
    Recording,
    /// It took longer than `limits.login_grace`.
    Grace,
    /// The bastion was shutting down, or the portal that carried the connection ended.
    Ended,
    /// Left without offering a key.
    Left,
    /// None of these.
    Other,
}

/// What the login name says, whoever stands behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// There was none.
    Nobody,
    /// It is not of the form that names somebody.
    Malformed,
    /// It names nobody of the configuration.
    Stranger,
    /// It names a person.
    Known,
}

/// How the texts of the record begin. Names that a peer chose come later in them, or in quotes.
const BEGINNINGS: [(&str, Refusal); 17] = [
    ("no such person with that key", Refusal::Key),
    ("malformed login name", Refusal::Name),
    ("identity is ", Refusal::Denied),
    ("person ", Refusal::Denied),
    ("target ", Refusal::Denied),
    ("no access line ", Refusal::Denied),
    ("no target named", Refusal::Denied),
    ("role left out ", Refusal::Denied),
    ("method not offered", Refusal::Method),
    ("signature algorithm not accepted", Refusal::Method),
    ("certificates are not accepted", Refusal::Method),
    ("too many connections ", Refusal::Connections),
    ("made room for newer connections", Refusal::Connections),
    ("too many sessions", Refusal::Sessions),
    ("too many ", Refusal::Attempts),
    ("login grace is over", Refusal::Grace),
    ("left without logging in", Refusal::Left),
];

impl Refusal {
    pub(super) const ALL: [Self; 13] = [
        Self::Key,
        Self::Person,
        Self::Name,
        Self::Denied,
        Self::Method,
        Self::Attempts,
        Self::Connections,
        Self::Sessions,
        Self::Recording,
        Self::Grace,
        Self::Ended,
        Self::Left,
        Self::Other,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Person => "person",
            Self::Name => "name",
            Self::Denied => "denied",
            Self::Method => "method",
            Self::Attempts => "attempts",
            Self::Connections => "connections",
            Self::Sessions => "sessions",
            Self::Recording => "recording",
            Self::Grace => "grace",
            Self::Ended => "ended",
            Self::Left => "left",
            Self::Other => "other",
        }
    }

    /// Sorts the text of a record. `key_named` says that the record names a key: one that was proved, or the last one offered.
    pub(super) fn of(method: &str, claim: Claim, key_named: bool, text: &str) -> Self {
        let known = BEGINNINGS.iter().find(|(beginning, _)| text.starts_with(beginning)).map(|(_, reason)| *reason);
        match known {
            // A stock client that is told that none of its keys will do leaves by itself.
            Some(Self::Left) if !key_named => Self::Left,
            Some(Self::Key | Self::Left) => match claim {
                Claim::Malformed => Self::Name,
                Claim::Stranger => Self::Person,
                Claim::Nobody | Claim::Known => Self::Key,
            },
            Some(reason) => reason,
            // What refuses a session of somebody who is logged in is the recorder.
            None if method == "session" => Self::Recording,
            None if text.starts_with("the drain is over") || text.starts_with("the portal session ended") => {
                Self::Ended
            }
            None => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use casemate_recorder::{Frozen, Refused};

    use super::*;
    use crate::policy::Denial;

    #[test]
    fn every_denial_is_one_whatever_names_are_in_it() {
        let name = || "too many sessions".to_owned();
        let denials = [
            Denial::OtherPerson { proved: name(), named: name() },
            Denial::UnknownPerson { person: name() },
            Denial::NoTarget { person: name() },
            Denial::UnknownTarget { target: name() },
            Denial::NoAccess { person: name(), target: name() },
            Denial::RoleNotGranted { person: name(), target: name(), role: name() },
            Denial::RoleNeeded { login: name(), roles: vec![name()] },
        ];
        for denial in denials {
            assert_eq!(Refusal::of("publickey", Claim::Known, true, &denial.to_string()), Refusal::Denied, "{denial}");
        }
    }

    #[test]
    fn texts_of_the_record_have_their_reason() {
        let cases = [
            ("publickey", true, "no such person with that key", Refusal::Key),
            ("publickey", true, "malformed login name", Refusal::Name),
            ("password", false, "method not offered", Refusal::Method),
            ("none", true, "left without logging in (1 names, 2 keys offered, 0 attempts failed)", Refusal::Key),
            ("none", false, "left without logging in (1 names, 0 keys offered, 0 attempts failed)", Refusal::Left),
            ("none", true, "too many keys offered (1 names, 21 keys offered, 0 attempts failed)", Refusal::Attempts),
            ("none", true, "too many failed attempts (1 names, 1 keys offered, 6 attempts failed)", Refusal::Attempts),
            ("none", false, "too many connections that have not logged in", Refusal::Connections),
            ("none", false, "made room for newer connections", Refusal::Connections),
            ("none", false, "login grace is over (0 names, 0 keys offered, 0 attempts failed)", Refusal::Grace),
            ("none", false, "the drain is over (0 names, 0 keys offered, 0 attempts failed)", Refusal::Ended),
            ("none", false, "the portal session ended: the client left (1 names)", Refusal::Ended),
            ("session", false, "too many sessions", Refusal::Sessions),
            ("none", false, "something new", Refusal::Other),
        ];
        for (method, key_named, text, reason) in cases {
            assert_eq!(Refusal::of(method, Claim::Known, key_named, text), reason, "{text}");
        }
        let full = Refused::Full { what: "spool", percent: 96, limit: 95 };
        for refused in [full, Frozen::NoSpace("journal".into()).into(), Frozen::Failed("disk".into()).into()] {
            assert_eq!(
                Refusal::of("session", Claim::Known, false, &refused.to_string()),
                Refusal::Recording,
                "{refused}"
            );
        }
    }

    #[test]
    fn who_is_refused_for_a_key_may_be_nobody_at_all() {
        let left = "left without logging in (1 names, 2 keys offered, 0 attempts failed)";
        let of = |claim, text| Refusal::of("publickey", claim, true, text);
        for text in [left, "no such person with that key"] {
            assert_eq!(of(Claim::Known, text), Refusal::Key);
            assert_eq!(of(Claim::Stranger, text), Refusal::Person);
            assert_eq!(of(Claim::Malformed, text), Refusal::Name);
        }
        assert_eq!(of(Claim::Stranger, "login grace is over (1 names)"), Refusal::Grace);
        assert_eq!(Refusal::of("none", Claim::Stranger, false, left), Refusal::Left);
    }
}
