//! The configuration as events: what opens the control transcript, and what a reload adds to it.
//!
//! Fingerprints and names only, never a key; whoever has the file can compare its BLAKE3.

use std::net::SocketAddr;

use bytes::Bytes;
use casemate_recorder::transcript::event::{Event, Field, Value, config};
use russh::keys::{HashAlg, PublicKey};

use super::{Access, Config, Duty, Person, Target};

/// Entries are spread over several events well before an event's own limit of 256 KiB.
const ENTRIES_LEN_MAX: usize = 96 * 1024;

impl Config {
    /// Returns the configuration as events: a first one with what is single, then persons, targets and access lines. All
    /// carry the same hash. `cause` says why it is in force now.
    pub fn events(&self, cause: &str) -> Vec<Event> {
        let of = |what: &'static str, addr: &SocketAddr| Value::Text(format!("{what} {addr}"));
        let ssh = self.listen.ssh.iter().map(|addr| of("ssh", addr));
        let pg = self.listen.postgres.iter().map(|addr| of("postgres", addr));
        let socket = self.listen.postgres_socket.iter().map(|path| Value::Text(format!("postgres {}", path.display())));
        let listeners: Vec<_> =
            ssh.chain(pg).chain(socket).chain(self.listen.metrics.iter().map(|addr| of("metrics", addr))).collect();
        let first = self
            .event()
            .with(config::DURABILITY, self.durability.name())
            .with(config::ENCRYPTION, self.encryption.to_string())
            .with(config::LISTENERS, listeners)
            .with(config::CAUSE, cause);
        let mut events = vec![first];
        self.spread(&mut events, config::PERSONS, self.persons.iter().map(person));
        self.spread(&mut events, config::TARGETS, self.targets.iter().map(|target| self::target(target)));
        self.spread(&mut events, config::ACCESS, self.access.iter().map(access));
        events
    }

    fn event(&self) -> Event {
        Event::map(config::TYPE, 0).with(config::HASH, Bytes::copy_from_slice(&self.hash))
    }

    fn spread(&self, events: &mut Vec<Event>, field: Field, entries: impl Iterator<Item = Value>) {
        let mut full = 0;
        let mut batch = Vec::new();
        for entry in entries {
            full += len(&entry);
            batch.push(entry);
            if full > ENTRIES_LEN_MAX {
                events.push(self.event().with(field, std::mem::take(&mut batch)));
                full = 0;
            }
        }
        if !batch.is_empty() {
            events.push(self.event().with(field, batch));
        }
    }
}

/// `[name, [fingerprint, …], [duty, …]]`
fn person(person: &Person) -> Value {
    let duty = |duty: &Duty| Duty::ALL.iter().find(|(_, known)| known == duty).map_or("", |(name, _)| name);
    let duties = person.duties.iter().map(|known| duty(known).into()).collect();
    Value::List(vec![person.name.as_str().into(), fingerprints(&person.keys), Value::List(duties)])
}

/// `[name, [alias, …], kind, address, [fingerprint, …], [login, …]]`
fn target(target: &Target) -> Value {
    Value::List(vec![
        target.name.as_str().into(),
        texts(&target.aliases),
        target.kind().name().into(),
        target.address().into(),
        fingerprints(target.host_keys()),
        Value::List(target.roles.iter().map(|role| role.login.as_str().into()).collect()),
    ])
}

/// `[line, person, [target, …], [role, …], reason, content, [pattern, …], read_only, replication]`
fn access(access: &Access) -> Value {
    Value::List(vec![
        Value::Uint(access.line as u64),
        access.person.as_str().into(),
        texts(&access.targets),
        texts(&access.roles),
        access.reason.as_str().into(),
        access.content.name().into(),
        Value::List(access.forwards.texts().map(Value::from).collect()),
        access.read_only.into(),
        access.replication.into(),
    ])
}

fn texts(texts: &[String]) -> Value {
    Value::List(texts.iter().map(|text| text.as_str().into()).collect())
}

fn fingerprints(keys: &[PublicKey]) -> Value {
    Value::List(keys.iter().map(|key| key.fingerprint(HashAlg::Sha256).to_string().into()).collect())
}

/// About how long a value is once encoded.
fn len(value: &Value) -> usize {
    match value {
        Value::Uint(_) => 9,
        Value::Bytes(bytes) => bytes.len() + 5,
        Value::Text(text) => text.len() + 5,
        Value::List(values) => values.iter().map(len).sum::<usize>() + 5,
    }
}
