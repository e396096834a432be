//! What a client may set in the first packet, and what of it the target is told.
//!
//! Whoever has a session can set anything that their role may; these are the settings that drivers send before they have one.
//! What would change who they are, or the protocol, is refused. Knows no socket.

use bytes::Bytes;

use super::codec::{Complaint, FEATURE_NOT_SUPPORTED, PROTOCOL_VIOLATION};
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

    /// Takes command-line options apart (postgres.c, `pg_split_opts` and `process_postgres_switches`): what passes goes on as
    /// settings of their own, which comes to the same.
    fn options(&mut self, options: &[u8]) -> Result<(), Complaint> {
        let mut words = split(options).into_iter();
        while let Some(word) = words.next() {
            let setting = match word.strip_prefix(b"-c") {
                Some(b"") => words.next(),
                Some(rest) => Some(rest.to_vec()),
                None => word.strip_prefix(b"--").map(<[u8]>::to_vec),
            };
            let refused = || {
                let message = format!("unsupported option in startup parameter \"options\": {}", shown(&word));
                Complaint::new(FEATURE_NOT_SUPPORTED, message).hint("write -c NAME=VALUE")
            };
            let setting = setting.ok_or_else(refused)?;
            let at = setting.iter().position(|byte| *byte == b'=').filter(|at| *at > 0).ok_or_else(refused)?;
            let (name, value) = setting.split_at(at);
            // Options spell names with dashes too (guc.c, `ParseLongOption`).
            let name: Vec<u8> = name.iter().map(|byte| if *byte == b'-' { b'_' } else { *byte }).collect();
            self.setting(Bytes::from(name), Bytes::copy_from_slice(value.get(1..).unwrap_or_default()))?;
        }
        Ok(())
    }
}

/// Splits at white space; a backslash takes the next byte as it is.
fn split(options: &[u8]) -> Vec<Vec<u8>> {
    let (mut words, mut word, mut bytes) = (Vec::new(), None::<Vec<u8>>, options.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => word.get_or_insert_default().extend(bytes.next()),
            byte if byte.is_ascii_whitespace() => words.extend(word.take()),
            byte => word.get_or_insert_default().push(*byte),
        }
    }
    words.extend(word);
    words
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
