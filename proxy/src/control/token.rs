//! The verbs that give somebody what they need for a database: a password, and the certificates to believe.

use std::fmt::Write as _;
use std::time::Instant;

use serde_json::json;

use super::greeting::psql_lines;
use super::{Caller, Reply};
use crate::config::TargetKind;
use crate::policy::{Denial, Wanted};
use crate::server::Door;
use crate::tokens::FIRST_USE;

/// Makes a token for a target that the caller may reach.
pub(super) fn token(door: &Door, caller: &Caller<'_>, target: &str, json: bool) -> Reply {
    let (policy, identity) = (door.policy(), caller.session.identity());
    let person = identity.person().to_owned();
    let wanted = Wanted { person: person.clone(), target: Some(target.to_owned()), role: None };
    // Which of several roles is meant is said in the login.
    let roles = match policy.authorize(identity, &wanted, TargetKind::Pg) {
        Ok(grant) => vec![grant.role().login.clone()],
        Err(Denial::RoleNeeded { roles, .. }) => roles,
        Err(_) => return Reply::refused(format!("no database {target:?} is open to you")),
    };
    let Some(target) = policy.named(TargetKind::Pg, target) else {
        return Reply::refused(format!("no database {target:?} is open to you"));
    };
    let lifetime = policy.config().limits.token_lifetime;
    let made = door.tokens().make(&person, &target.name, identity.fingerprint(), lifetime, Instant::now());
    let token = match made {
        Ok(token) => token,
        Err(error) => return Reply::refused(format!("no token could be made: {error}")),
    };
    let (first, whole) = (FIRST_USE.as_secs(), lifetime.as_secs());
    if json {
        let line = json!({
            "token": token.as_str(),
            "person": person,
            "target": target.name,
            "roles": roles,
            "first_use_seconds": first,
            "seconds": whole,
        });
        return shown(format!("{line}\n"), &token);
    }
    let mut reply = shown(format!("{}\n", token.as_str()), &token);
    let _ = writeln!(
        reply.err,
        "A password for {person}+{} as {}: to be used within {} min, then good for {} min from that address.",
        target.name,
        roles.join(", "),
        first / 60,
        whole / 60,
    );
    if let Some(lines) = psql_lines(&policy, caller.local, &person, target, &roles) {
        reply.err.push_str(&lines);
    }
    reply
}

/// Shows the certificates that clients may believe.
pub(super) fn authority(door: &Door) -> Reply {
    let policy = door.policy();
    match policy.config().postgres.as_ref().and_then(|front| front.authority.as_ref()) {
        Some(authority) => Reply::done(authority.as_str()),
        None => {
            Reply::refused("the configuration names no authority in [postgres]: ask whoever certified the front door")
        }
    }
}

/// An answer that shows a secret.
fn shown(out: String, secret: &str) -> Reply {
    let place = out.find(secret).map(|at| at..at + secret.len());
    Reply { secret: place, ..Reply::done(out) }
}
