//! What a client may set in the first packet, and what of it the target is told.
//!
//! Whoever has a session can set anything that their role may; these are the settings that drivers send before they have one.
//! What would change who they are, or the protocol, is refused. Knows no socket.

use std::iter::from_fn;
use std::ops::Range;

use bytes::Bytes;

use super::codec::{Complaint, FEATURE_NOT_SUPPORTED, PROTOCOL_VIOLATION};
use super::redact::is_secret_setting;
use super::startup::{Startup, is_option};

/// Settings that pass, in lower case.
const ALLOWED: [&str; 38] = [
    "application_name",
    "backslash_quote",
    "bytea_output",
    "client_connection_check_interval",
    "client_encoding",
    "client_min_messages",
    "constraint_exclusion",
    "cursor_tuple_fraction",
    "datestyle",
    "deadlock_timeout",
    "default_tablespace",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "escape_string_warning",
    "extra_float_digits",
    "geqo",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "intervalstyle",
    "jit",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "lock_timeout",
    "maintenance_work_mem",
    "plan_cache_mode",
    "search_path",
    "standard_conforming_strings",
    "statement_timeout",
    "synchronous_commit",
    "tcp_keepalives_idle",
    "temp_buffers",
    "timezone",
    "transaction_timeout",
    "work_mem",
    "xmlbinary",
];

/// The setting that says for which incident somebody comes. The target never sees it.
const INCIDENT: &str = "casemate.incident";

/// The longest reference that is taken: one line of a ticket system.
const INCIDENT_LEN_MAX: usize = 256;

/// What a first packet asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wishes {
    /// The login name: person, target and role.
    pub login: String,
    /// The database that was named.
    pub database: Option<Bytes>,
    /// What the target is told, in the client's order.
    pub settings: Vec<(Bytes, Bytes)>,
    /// The incident that was named.
    pub incident: Option<String>,
    /// Names of what was sent and goes no further.
    pub left_out: Vec<String>,
    /// Whether the replication protocol is asked for, and how it is written.
    pub replication: Option<Bytes>,
}

impl Wishes {
    /// Reads what a first packet asks for.
    ///
    /// # Errors
    /// Something that is not allowed; the complaint names it.
    pub fn of(startup: &Startup) -> Result<Self, Complaint> {
        let login = startup.parameter(b"user").filter(|user| !user.is_empty());
        let login =
            login.ok_or_else(|| Complaint::new("28000", "no PostgreSQL user name specified in startup packet"))?;
        let login = std::str::from_utf8(login)
            .map_err(|_| Complaint::new("28000", "the user name is not UTF-8").hint("write PERSON+TARGET+ROLE"))?;
        let mut wishes = Self {
            login: login.to_owned(),
            database: startup.parameter(b"database").cloned(),
            settings: Vec::new(),
            incident: None,
            left_out: Vec::new(),
            replication: startup.parameter(b"replication").filter(|value| !is_off(value)).cloned(),
        };
        for (name, value) in &startup.parameters {
            match name.as_ref() {
                b"user" | b"database" | b"replication" => {}
                b"options" => wishes.options(value)?,
                name if is_option(name) => wishes.left_out.push(shown(name)),
                // Drivers behind a pool name it, and nobody else knows it.
                _ => wishes.setting(name.clone(), value.clone())?,
            }
        }
        Ok(wishes)
    }

    fn setting(&mut self, name: Bytes, value: Bytes) -> Result<(), Complaint> {
        let lower = String::from_utf8_lossy(&name).to_ascii_lowercase();
        if lower == INCIDENT {
            let text = std::str::from_utf8(&value).ok().filter(|text| text.len() <= INCIDENT_LEN_MAX);
            let text = text.filter(|text| !text.contains(char::is_control)).ok_or_else(|| {
                let what = format!("{INCIDENT} is not one line of up to {INCIDENT_LEN_MAX} bytes");
                Complaint::new(PROTOCOL_VIOLATION, what)
            })?;
            self.incident = Some(text.to_owned());
            self.left_out.push(lower);
            return Ok(());
        }
        // A name with a dot is that of an extension, or nobody's: PostgreSQL keeps those for whoever asks.
        if !lower.contains('.') && !ALLOWED.contains(&lower.as_str()) {
            let message = format!("unsupported startup parameter: {}", shown(lower.as_bytes()));
            let hint = format!("connect without it, and SET {} in the session", shown(lower.as_bytes()));
            return Err(Complaint::new(FEATURE_NOT_SUPPORTED, message).hint(hint));
        }
        self.settings.push((name, value));
        Ok(())
    }

    /// Takes command-line options apart: what passes goes on as settings of their own, which comes to the same.
    fn options(&mut self, options: &[u8]) -> Result<(), Complaint> {
        for switch in switches(options) {
            let (name, value) = switch.map_err(|word| {
                // What follows may be a secret.
                let word = word.split_inclusive(|byte| *byte == b'=').next().unwrap_or_default();
                let message = format!("unsupported option in startup parameter \"options\": {}", shown(word));
                Complaint::new(FEATURE_NOT_SUPPORTED, message).hint("write -c NAME=VALUE")
            })?;
            let value = unescaped(options.get(value).unwrap_or_default());
            self.setting(Bytes::from(name), Bytes::from(value))?;
        }
        Ok(())
    }
}

/// Returns the places in a parameter's value that are secret: all of it where its name says so, and in `options` the values of
/// such settings.
pub(super) fn secret_places(name: &[u8], value: &[u8]) -> Vec<Range<usize>> {
    if name == b"options" {
        let secret = |(name, value): (Vec<u8>, Range<usize>)| is_secret_setting(&name).then_some(value);
        return switches(value).filter_map(|switch| switch.ok().and_then(secret)).collect();
    }
    is_secret_setting(name).then_some(0..value.len()).into_iter().collect()
}

/// Takes command-line options apart (postgres.c, `pg_split_opts` and `process_postgres_switches`) into the names of settings and
/// the places of their values, as they are written. A word that makes no setting is an error of its own.
fn switches(options: &[u8]) -> impl Iterator<Item = Result<(Vec<u8>, Range<usize>), Vec<u8>>> {
    let mut words = words(options).into_iter();
    let written = |place: Range<usize>| options.get(place).unwrap_or_default();
    from_fn(move || {
        let word = words.next()?;
        let text = unescaped(written(word.clone()));
        let setting = match text.get(..2) {
            Some(b"-c") if text.len() == 2 => words.next(),
            Some(b"-c" | b"--") => Some(word.start + lead_len(written(word.clone()))..word.end),
            _ => None,
        };
        let parts = setting.and_then(|setting| {
            let equals = setting.start + written(setting.clone()).iter().position(|byte| *byte == b'=')?;
            // Options spell names with dashes too (guc.c, `ParseLongOption`).
            let dashed = unescaped(written(setting.start..equals)).into_iter();
            let name: Vec<u8> = dashed.map(|byte| if byte == b'-' { b'_' } else { byte }).collect();
            (!name.is_empty()).then_some((name, equals + 1..setting.end))
        });
        Some(parts.ok_or(text))
    })
}

/// Returns where words lie: between white space. A backslash takes the next byte into a word.
fn words(options: &[u8]) -> Vec<Range<usize>> {
    let (mut words, mut start, mut escaped) = (Vec::new(), None, false);
    for (at, byte) in options.iter().enumerate() {
        if byte.is_ascii_whitespace() && !escaped {
            words.extend(start.take().map(|start| start..at));
        } else {
            start.get_or_insert(at);
        }
        escaped = *byte == b'\\' && !escaped;
    }
    words.extend(start.map(|start| start..options.len()));
    words
}

/// Returns a word as it is meant.
fn unescaped(word: &[u8]) -> Vec<u8> {
    let (mut meant, mut bytes) = (Vec::with_capacity(word.len()), word.iter());
    while let Some(byte) = bytes.next() {
        meant.extend(if *byte == b'\\' { bytes.next() } else { Some(byte) });
    }
    meant
}

/// Returns how many bytes of a word write its first two.
fn lead_len(word: &[u8]) -> usize {
    (0..2).fold(0, |len, _| len + 1 + usize::from(word.get(len) == Some(&b'\\')))
}

/// What PostgreSQL reads as no, for `replication`.
fn is_off(value: &[u8]) -> bool {
    let value = value.to_ascii_lowercase();
    ["false", "off", "no", "0", "f", "n"].iter().any(|off| off.as_bytes() == value)
}

/// As much of a name as a message needs.
fn shown(name: &[u8]) -> String {
    name.escape_ascii().to_string().chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::super::startup::VERSION_3_0;
    use super::*;

    fn wishes(parameters: &[(&'static str, &'static str)]) -> Result<Wishes, Complaint> {
        let parameters = parameters.iter().map(|(name, value)| (Bytes::from(*name), Bytes::from(*value)));
        let parameters = parameters.chain([(Bytes::from("user"), Bytes::from("alice+orders"))]).collect();
        Wishes::of(&Startup { asked: VERSION_3_0, version: VERSION_3_0, parameters })
    }

    fn settings(wishes: &Wishes) -> Vec<(&str, &str)> {
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        wishes.settings.iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    #[test]
    fn what_drivers_send_passes_in_its_order() {
        let sent = [("client_encoding", "UTF8"), ("DateStyle", "ISO"), ("extra_float_digits", "2"), ("myapp.who", "x")];
        assert_eq!(settings(&wishes(&sent).unwrap()), sent);
    }

    #[test]
    fn options_become_settings_whatever_they_are_written_like() {
        let options = r"-c statement_timeout=5s -csearch_path=a\ b,c --lock-timeout=1 -c casemate.incident=INC-7";
        let wishes = wishes(&[("options", options)]).unwrap();
        let expected = [("statement_timeout", "5s"), ("search_path", "a b,c"), ("lock_timeout", "1")];
        assert_eq!(settings(&wishes), expected);
        assert_eq!(wishes.incident.as_deref(), Some("INC-7"));
        assert_eq!(wishes.left_out, [INCIDENT]);
    }

    #[test]
    fn secrets_are_found_where_they_are_written() {
        let starred = |name: &str, value: &str| {
            let mut bytes = value.as_bytes().to_vec();
            secret_places(name.as_bytes(), value.as_bytes()).into_iter().for_each(|place| bytes[place].fill(b'*'));
            String::from_utf8(bytes).unwrap()
        };
        for (name, value, expected) in [
            ("app.token", "x y", "***"),
            ("APP.Password", "x", "*"),
            ("app.who", "token", "token"),
            ("password_encryption", "md5", "md5"),
            ("user", "token=x", "token=x"),
            ("options", "-c app.token=x -c a.b=token", "-c app.token=* -c a.b=token"),
            ("options", "-capp.token=x --app.key=yz", "-capp.token=* --app.key=**"),
            ("options", r"-c app.t\oken=a\ b\\ \-\capp.token\=x\=y", r"-c app.t\oken=****** \-\capp.token\=****"),
            ("options", "--password-encryption=md5 --app-token=", "--password-encryption=md5 --app-token="),
            ("options", "-c -c app.token=x token=x -d --", "-c -c app.token=x token=x -d --"),
            ("options", r"-c app.token=x\", "-c app.token=**"),
            ("options", "", ""),
        ] {
            assert_eq!(starred(name, value), expected, "{name}={value}");
        }
    }

    #[test]
    fn what_changes_who_somebody_is_or_is_not_known_is_refused_by_name() {
        for (name, value, named) in [
            ("role", "postgres", "role"),
            ("session_authorization", "postgres", "session_authorization"),
            ("options", "-c role=postgres", "role"),
            ("options", "-c  SESSION_AUTHORIZATION=x", "session_authorization"),
            ("options", "-d 5", "-d"),
            ("options", "-c=", "="),
            ("options", "-c", "-c"),
            ("options", "--", "--"),
            ("local_preload_libraries", "x", "local_preload_libraries"),
        ] {
            let complaint = wishes(&[(name, value)]).unwrap_err();
            assert!(complaint.message.contains(named), "{name}={value}: {complaint:?}");
            assert_eq!(complaint.sqlstate, "0A000");
        }
    }

    #[test]
    fn replication_is_a_wish_of_its_own() {
        assert_eq!(wishes(&[("replication", "false")]).unwrap().replication, None);
        assert_eq!(wishes(&[("replication", "database")]).unwrap().replication.unwrap(), "database");
    }

    #[test]
    fn protocol_options_go_no_further() {
        let wishes = wishes(&[("_pq_.test_protocol_negotiation", "")]).unwrap();
        assert_eq!((wishes.settings.len(), wishes.left_out.len()), (0, 1));
    }

    #[test]
    fn an_incident_is_one_line() {
        assert!(wishes(&[("options", "-c casemate.incident=a\\\nb")]).is_err());
    }
}
