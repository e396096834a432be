//! Why a login was refused, in a few words that only this program chooses.

/// A reason that is a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A key that is none of that person's.
    Key,
    /// A token that is none of that person's for that target.
    Token,
    /// A certificate that is for somebody else.
    Certificate,
    /// No such person.
    Person,
    /// The login name is not of the form that names somebody.
    Name,
    /// Proved who it is, and may not go there.
    Denied,
    /// A method, a kind of key or an algorithm that the bastion does not take.
    Method,
    /// No TLS where it must be, or a handshake that failed.
    Tls,
    /// Not the protocol, or a part of it that the bastion does not take.
    Protocol,
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

/// How somebody logs in to a database, in the words of the record: the labels that there are.
pub(super) const PG_METHODS: [&str; 3] = ["token", "certificate", "tunnel"];

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
const BEGINNINGS: [(&str, Refusal); 42] = [
    ("no such person with that key", Refusal::Key),
    ("no such person with that token", Refusal::Token),
    ("no such person", Refusal::Person),
    ("the certificate is for ", Refusal::Certificate),
    ("replication is not granted", Refusal::Denied),
    ("the database is not open", Refusal::Denied),
    ("the target speaks no PostgreSQL", Refusal::Denied),
    ("this bastion takes connections with TLS only", Refusal::Tls),
    ("TLS", Refusal::Tls),
    ("no certificate for TLS", Refusal::Tls),
    ("left in the middle of its first packet", Refusal::Left),
    ("a cancel request of a length ", Refusal::Protocol),
    ("invalid length of ", Refusal::Protocol),
    ("received unencrypted data ", Refusal::Protocol),
    ("a request for encryption ", Refusal::Protocol),
    ("unsupported frontend protocol ", Refusal::Protocol),
    ("invalid startup packet layout", Refusal::Protocol),
    ("no PostgreSQL user name ", Refusal::Name),
    ("the user name is not UTF-8", Refusal::Name),
    ("expected SASL response", Refusal::Protocol),
    ("malformed SASLInitialResponse", Refusal::Protocol),
    ("malformed SCRAM message", Refusal::Protocol),
    ("SCRAM ", Refusal::Protocol),
    ("invalid SCRAM response", Refusal::Protocol),
    ("unsupported SCRAM ", Refusal::Protocol),
    ("client ", Refusal::Protocol),
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
    pub(super) const ALL: [Self; 17] = [
        Self::Key,
        Self::Token,
        Self::Certificate,
        Self::Person,
        Self::Name,
        Self::Denied,
        Self::Method,
        Self::Tls,
        Self::Protocol,
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
            Self::Token => "token",
            Self::Certificate => "certificate",
            Self::Person => "person",
            Self::Name => "name",
            Self::Denied => "denied",
            Self::Method => "method",
            Self::Tls => "tls",
            Self::Protocol => "protocol",
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
            // With PostgreSQL, who never answers and who is cut off there look alike.
            Some(Self::Left) if PG_METHODS.contains(&method) => Self::Left,
            // A stock client that is told that none of its keys will do leaves by itself.
            Some(Self::Left) if !key_named => Self::Left,
            Some(reason @ (Self::Key | Self::Token | Self::Certificate | Self::Left)) => match claim {
                Claim::Malformed => Self::Name,
                Claim::Stranger => Self::Person,
                Claim::Nobody | Claim::Known if reason == Self::Left => Self::Key,
                Claim::Nobody | Claim::Known => reason,
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
    fn texts_of_the_postgres_front_door_have_their_reason() {
        use Refusal::{Certificate, Denied, Left, Name, Protocol, Tls, Token};
        let cases = [
            ("token", "no such person with that token", Token),
            ("token", "no such person", Refusal::Person),
            ("token", "left without logging in: early eof", Left),
            ("tunnel", "left without logging in: broken pipe", Left),
            ("certificate", "the certificate is for \"too many \"", Certificate),
            ("none", "this bastion takes connections with TLS only", Tls),
            ("none", "TLS: received fatal alert: UnknownCA", Tls),
            ("none", "TLS inside TLS", Tls),
            ("none", "no certificate for TLS", Tls),
            ("none", "left in the middle of its first packet", Left),
            ("none", "invalid length of startup packet", Protocol),
            ("none", "a cancel request of a length that no key has", Protocol),
            ("none", "unsupported frontend protocol 2.0: server supports 3.0 to 3.2", Protocol),
            ("none", "no PostgreSQL user name specified in startup packet", Name),
            ("token", "expected SASL response, got message type 81", Protocol),
            ("token", "malformed SASLInitialResponse", Protocol),
            ("token", "replication is not granted", Denied),
            ("token", "the database is not open", Denied),
            ("token", "the target speaks no PostgreSQL", Denied),
        ];
        for (method, text, reason) in cases {
            assert_eq!(Refusal::of(method, Claim::Known, method != "none", text), reason, "{text}");
        }
        use crate::pg::auth::scram::Refused::*;
        let exchange =
            [Mechanism, Downgrade, Binding, BindingKind, AuthorizationIdentity, Extension, Nonce, TooLong(9999)];
        for refused in exchange.into_iter().chain([Malformed("no proof")]) {
            assert_eq!(Refusal::of("token", Claim::Known, false, &refused.to_string()), Protocol, "{refused}");
        }
        // What a token of nobody is refused for is that there is nobody.
        let of = |claim| Refusal::of("token", claim, false, "no such person with that token");
        assert_eq!((of(Claim::Stranger), of(Claim::Malformed)), (Refusal::Person, Name));
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
