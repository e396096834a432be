//! The configuration of a rig's bastion: what `init` wrote, and what the rig makes of it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use toml::{Table, Value};

use super::{Options, PERSON, TARGET, bucket, database};
use crate::bastion::{list, table};
use crate::postgres::{self, Postgres};
use crate::s3::ceph::Ceph;
use crate::sshd::Sshd;

/// Where the bastion's front doors are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) ssh: u16,
    pub(super) postgres: u16,
}

/// What the bastion leads to, and where its recordings go on to.
#[derive(Clone, Copy)]
pub(super) struct Targets<'t> {
    pub(super) ssh: &'t Sshd,
    pub(super) postgres: Option<&'t Postgres>,
    pub(super) s3: Option<&'t Ceph>,
}

/// Turns the configuration that `init` wrote into the rig's.
pub(super) fn configuration(
    at: &Path,
    mut config: Table,
    ports: Ports,
    public: &str,
    targets: Targets<'_>,
    options: &Options,
) -> Result<Table> {
    let target = targets.ssh;
    let mut listen = Table::new();
    listen.insert("ssh".to_owned(), list([&format!("127.0.0.1:{}", ports.ssh)]));
    listen.insert("plain_macs".to_owned(), Value::from(options.plain_macs));
    if targets.postgres.is_some() {
        listen.insert("postgres".to_owned(), list([&format!("127.0.0.1:{}", ports.postgres)]));
        if postgres::socket_fits(at, ports.postgres) {
            let socket = at.join(format!(".s.PGSQL.{}", ports.postgres));
            listen.insert("postgres_socket".to_owned(), Value::from(socket.display().to_string()));
        }
    }
    config.insert("listen".to_owned(), Value::Table(listen));
    if let Some(durability) = &options.durability {
        config.insert("durability".to_owned(), Value::from(durability.as_str()));
    }
    if options.clear {
        config.insert("encryption".to_owned(), Value::from("none"));
        config.remove("recipient");
    }
    if let Some(vault) = config.get_mut("vault").and_then(Value::as_table_mut) {
        vault.insert("immutable".to_owned(), Value::from(false));
        if let Some(s3) = targets.s3 {
            vault.insert("s3".to_owned(), Value::Array(vec![bucket::entry(at, s3)?]));
        }
        // What a throwaway server has locked it keeps, even from whoever wants to throw it away.
        let retain = options.retain.as_deref().or_else(|| targets.s3.map(|_| "1d"));
        if let Some(retain) = retain {
            vault.insert("retain".to_owned(), Value::from(retain));
        }
    }
    if let Some(disk) = &options.disk {
        let place = |name: &str| Value::from(disk.join(name).display().to_string());
        config.insert("state_dir".to_owned(), place("state"));
        if let Some(vault) = config.get_mut("vault").and_then(Value::as_table_mut) {
            vault.insert("dir".to_owned(), place("vault"));
        }
    }
    // All connections of a rig come from one address and one person; the product's limits are for many of both.
    let mut limits = config.get("limits").and_then(Value::as_table).cloned().unwrap_or_default();
    for (name, value) in [
        ("preauth_per_source", Value::from(1000)),
        ("sessions", Value::from(2000)),
        ("sessions_per_person", Value::from(2000)),
        ("env", list(["LANG", "LC_*", "CASEMATE_*"])),
        ("token_lifetime", Value::from("30d")),
    ] {
        limits.insert(name.to_owned(), value);
    }
    limits.extend(options.limits.clone());
    config.insert("limits".to_owned(), Value::Table(limits));

    let user = target.user.as_str();
    let role =
        table([("login", Value::from(user)), ("key_file", Value::from(target.identity().display().to_string()))]);
    let mut access = vec![
        ("person", Value::from(PERSON)),
        ("targets", list([TARGET])),
        ("roles", list([user])),
        ("reason", Value::from("the rig")),
    ];
    access.extend(options.content.as_deref().map(|content| ("content", Value::from(content))));
    if !options.forward.is_empty() {
        access.push(("forward", Value::from(options.forward.clone())));
    }
    let access = access.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let lists = [
        ("person", table([("name", Value::from(PERSON)), ("keys", list([public])), ("duties", list(["admin"]))])),
        (
            "target",
            table([
                ("name", Value::from(TARGET)),
                ("address", Value::from(format!("127.0.0.1:{}", target.port))),
                ("kind", Value::from("ssh")),
                ("host_keys", list([&target.host_key()?])),
                ("role", Value::Array(vec![role])),
            ]),
        ),
        ("access", Value::Table(access)),
    ];
    let more: Table = options.more.parse()?;
    for (name, first) in lists {
        let mut all = vec![first];
        let database = targets.postgres.into_iter().flat_map(|postgres| database::entries(postgres, options));
        all.extend(database.filter(|(of, _)| *of == name).map(|(_, entry)| entry));
        if let Some(added) = more.get(name) {
            all.extend(added.as_array().cloned().with_context(|| format!("[[{name}]] is a list"))?);
        }
        config.insert(name.to_owned(), Value::Array(all));
    }
    ensure!(more.keys().all(|key| ["person", "target", "access"].contains(&key.as_str())), "more: only lists");
    for (name, value) in &options.settings {
        match (config.get_mut(name), value) {
            (Some(Value::Table(known)), Value::Table(added)) => known.extend(added.clone()),
            _ => drop(config.insert(name.clone(), value.clone())),
        }
    }
    Ok(config)
}
