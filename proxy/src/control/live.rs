//! Verbs about sessions that are live: list them, end one, take a slip of one.

use std::fmt::Write as _;
use std::sync::Arc;

use casemate_recorder::Protocol;
use casemate_recorder::transcript::event::Side;
use casemate_recorder::transcript::seal::CloseReason;
use serde_json::json;

use super::{Caller, Reply, has_duty};
use crate::alerts::Kind;
use crate::config::Duty;
use crate::server::Door;
use crate::session::{End, Session};

/// The shortest beginning of an ID that is taken: below it a slip of the finger ends somebody's work.
const ID_LEN_MIN: usize = 8;

/// Lists the live sessions that the caller may know of, oldest first.
pub(super) fn sessions(door: &Door, caller: &Caller<'_>, json: bool) -> Reply {
    let sessions = visible(door, caller);
    if json {
        let line = |session: &Arc<Session>| {
            let (target, role) = session.purpose().names();
            let of = |name: &str| (!name.is_empty()).then(|| name.to_owned());
            format!(
                "{}\n",
                json!({
                    "session": session.recording().id().to_string(),
                    "kind": session.purpose().kind().name(),
                    "person": session.identity().person(),
                    "target": of(target),
                    "role": of(role),
                    "source": session.identity().source().to_string(),
                    "seconds": session.age().as_secs(),
                })
            )
        };
        return Reply::done(sessions.iter().map(line).collect::<String>());
    }
    let mut text = String::new();
    for session in &sessions {
        let (target, role) = session.purpose().names();
        let place = if target.is_empty() { "the bastion".to_owned() } else { format!("{role}@{target}") };
        let _ = writeln!(
            text,
            "{}  {:<12} {:<24} {:<22} {:>6} s",
            session.recording().id(),
            session.identity().person(),
            place,
            session.identity().source().to_string(),
            session.age().as_secs(),
        );
    }
    Reply::done(text)
}

/// Ends a session.
pub(super) fn kill(door: &Door, caller: &Caller<'_>, id: &str) -> Reply {
    let session = match find(door, caller, id) {
        Ok(session) => session,
        Err(refused) => return refused,
    };
    let person = caller.session.identity().person();
    let id = session.recording().id();
    let text = format!("ended by {person}");
    session.end(End::with_notice(CloseReason::Policy, text.clone(), format!("this session was ended by {person}")));
    // Its own transcript tells its end; these tell who brought it about.
    note(door, caller, &session, "killed");
    tracing::warn!(session = %id, by = person, "session killed");
    if person != session.identity().person() {
        session.alert(
            Kind::SessionKilled,
            format!("the session of {} was ended by {person}", session.identity().person()),
        );
    }
    Reply::done(format!("{id} ends\n"))
}

/// Lets the caller watch a session, and records that they do.
pub(super) fn watch(door: &Door, caller: &Caller<'_>, id: &str) -> Result<Arc<Session>, Reply> {
    let session = find(door, caller, id)?;
    if Arc::ptr_eq(&session, caller.session) {
        return Err(Reply::refused("a session that watches itself shows nothing else"));
    }
    if session.purpose().protocol() == Protocol::Pg {
        return Err(Reply::refused("watch draws terminals, and a PostgreSQL session has none"));
    }
    note(door, caller, &session, "watched");
    Ok(session)
}

/// Takes a slip of a session.
pub(super) async fn slip(door: &Door, caller: &Caller<'_>, id: &str) -> Reply {
    let session = match find(door, caller, id) {
        Ok(session) => session,
        Err(refused) => return refused,
    };
    match session.recording().slip().await {
        Ok(slip) => Reply::done(format!("{slip}\n")),
        Err(frozen) => Reply::refused(frozen.client_text()),
    }
}

/// Records what the caller does with a session: in their own transcript, and in the node's.
fn note(door: &Door, caller: &Caller<'_>, session: &Session, what: &'static str) {
    let by = format!("by {}", caller.session.identity().person());
    drop(caller.session.record(Side::Client, session.mention(what, &by)));
    door.note(session.mention(what, &by));
}

/// The sessions that the caller may know of, oldest first.
fn visible(door: &Door, caller: &Caller<'_>) -> Vec<Arc<Session>> {
    let all = has_duty(door, caller, Duty::Auditor);
    let person = caller.session.identity().person();
    let mut sessions = door.live_sessions();
    sessions.retain(|session| all || session.identity().person() == person);
    sessions
}

/// Finds the one session whose ID begins like that.
fn find(door: &Door, caller: &Caller<'_>, id: &str) -> Result<Arc<Session>, Reply> {
    if id.len() < ID_LEN_MIN {
        return Err(Reply::usage(format!("write at least {ID_LEN_MIN} characters of the ID")));
    }
    let mut found =
        visible(door, caller).into_iter().filter(|session| session.recording().id().to_string().starts_with(id));
    match (found.next(), found.next()) {
        (Some(session), None) => Ok(session),
        (Some(_), Some(_)) => Err(Reply::refused(format!("several sessions begin with {id:?}: write more of the ID"))),
        (None, _) => Err(Reply::refused(format!("no live session of yours begins with {id:?}: see `sessions`"))),
    }
}
