//! What the bastion says to somebody who says nothing: who they are, where they may go, and the lines to paste.

use std::fmt::Write as _;
use std::net::SocketAddr;

use serde_json::json;

use super::{Caller, Reply};
use crate::config::{Target, TargetKind};
use crate::policy::{Policy, Reachable};
use crate::server::Door;

/// Greets.
pub(super) fn greet(door: &Door, caller: &Caller<'_>, json: bool) -> Reply {
    let policy = door.policy();
    let identity = caller.session.identity();
    let ways = policy.reachable(identity);
    let authority = policy.config().host_ca.known_hosts_line(&pattern(&ways)).unwrap_or_default();
    if json {
        let targets: Vec<_> = ways.iter().map(|way| {
            json!({ "target": way.target.name, "kind": way.target.kind().name(), "aliases": way.target.aliases, "roles": way.roles, "reasons": way.reasons })
        }).collect();
        let line = json!({
            "node": policy.config().node,
            "session": caller.session.recording().id().to_string(),
            "person": identity.person(),
            "fingerprint": identity.fingerprint(),
            "source": identity.source().to_string(),
            "targets": targets,
            "cert_authority": authority,
        });
        return Reply::done(format!("{line}\n"));
    }
    let mut text = format!(
        "This is the bastion {}. You are {}, by the key {}, from {}.\nThis session is {}; it is recorded.\n",
        policy.config().node,
        identity.person(),
        identity.fingerprint(),
        identity.source().ip(),
        caller.session.recording().id(),
    );
    if ways.is_empty() {
        text.push_str("\nThere is no target that you may reach now.\n");
        return Reply::done(text);
    }
    text.push_str("\nYou may reach:\n");
    for way in &ways {
        let kind = if way.target.kind() == TargetKind::Pg { ", a PostgreSQL server" } else { "" };
        let aliases = way.target.aliases.join(", ");
        let aliases = if aliases.is_empty() { String::new() } else { format!(" ({aliases})") };
        let _ = writeln!(text, "  {}{aliases}{kind} as {}", way.target.name, way.roles.join(", "));
    }
    text.push_str(&lines(caller.local, identity.person(), &ways));
    text.push_str(&database_lines(door, caller.local, identity.person(), &ways));
    if ways.iter().any(is_ssh) {
        let _ = writeln!(text, "\nOnce, for ~/.ssh/known_hosts:\n  {authority}");
    }
    Reply::done(text)
}

/// The targets as known_hosts takes them: all names that may be typed.
fn pattern(ways: &[Reachable]) -> String {
    let names = ways
        .iter()
        .filter(|way| is_ssh(way))
        .flat_map(|way| std::iter::once(&way.target.name).chain(&way.target.aliases));
    let names: Vec<&str> = names.map(String::as_str).collect();
    // Names of targets have no character that means anything there.
    if names.is_empty() { "*".to_owned() } else { names.join(",") }
}

fn is_ssh(way: &Reachable) -> bool {
    way.target.kind() == TargetKind::Ssh
}

/// How to get to the first database.
fn database_lines(door: &Door, local: SocketAddr, person: &str, ways: &[Reachable]) -> String {
    let Some(way) = ways.iter().find(|way| !is_ssh(way)) else { return String::new() };
    let (ip, ssh_options, target) = (local.ip().to_canonical(), port_option(local), &way.target.name);
    let Some(lines) = psql_lines(&door.policy(), local, person, &way.target, &way.roles) else {
        return format!(
            "\nTo a database, with a password from `ssh {ssh_options}{person}@{ip} token {target}`:\n  \
             ssh {ssh_options}-N -L 5432:{target}:5432 {person}@{ip}, and psql on localhost beside it\n"
        );
    };
    format!("\nTo a database, with a password from `ssh {ssh_options}{person}@{ip} token {target}`:\n{lines}")
}

/// How psql gets to a database at the front door for PostgreSQL; `None` where there is no such door.
pub(super) fn psql_lines(
    policy: &Policy,
    local: SocketAddr,
    person: &str,
    target: &Target,
    roles: &[String],
) -> Option<String> {
    let config = policy.config();
    let (front, port) = config.postgres.as_ref().zip(config.listen.postgres.first().map(SocketAddr::port))?;
    let (ip, ssh_options, name) = (local.ip().to_canonical(), port_option(local), &target.name);
    let database = target.pg().and_then(|service| service.database.as_deref()).unwrap_or("DATABASE");
    let (fetch, check) = match front.authority {
        Some(_) => {
            (format!("  ssh {ssh_options}{person}@{ip} authority > casemate-ca.crt\n"), " sslrootcert=casemate-ca.crt")
        }
        None => (String::new(), ""),
    };
    let role = if let [_] = roles { "" } else { "+ROLE" };
    Some(format!(
        "{fetch}  psql \"host={ip} port={port} user={person}+{name}{role} dbname={database} \
         sslmode=verify-full{check}\"\n"
    ))
}

/// The option by which ssh finds the port.
fn port_option(local: SocketAddr) -> String {
    if local.port() == 22 { String::new() } else { format!("-p {} ", local.port()) }
}

/// How to get to the first target.
fn lines(local: SocketAddr, person: &str, ways: &[Reachable]) -> String {
    let Some((way, role)) = ways.iter().filter(|way| is_ssh(way)).find_map(|way| Some((way, way.roles.first()?)))
    else {
        return String::new();
    };
    let target = &way.target.name;
    let (ip, port) = (local.ip().to_canonical(), local.port());
    let (jump, options) = match (port, ip.is_ipv6()) {
        (22, false) => (format!("{person}@{ip}"), String::new()),
        (port, false) => (format!("{person}@{ip}:{port}"), format!("-p {port} ")),
        (port, true) => (format!("{person}@[{ip}]:{port}"), format!("-p {port} ")),
    };
    let copy = options.replace("-p", "-P");
    let host = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
    format!(
        "\nTo get there:\n  ssh -J {jump} {role}@{target}\n  ssh {options}{person}+{target}+{role}@{ip}\n  \
         scp {copy}FILE {person}+{target}+{role}@{host}:\n"
    )
}
