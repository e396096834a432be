//! Verbs about statements that are signed elsewhere: orders of officers about legal holds, results of restore tests.
//!
//! A bastion makes no such signature and needs no key for one. It holds what is handed in against the keys that it knows, so that
//! nothing gets into the log that a verifier would not count, and keeps statement and signatures whole.

use std::path::Path;

use casemate_certs::trust::{
    Board, HOLD_NAMESPACE, HoldOrder, Holds, Officer, OfficerKey, Period, RESTORE_NAMESPACE, Restored, Tally, ToldHold,
    Why, show_time,
};
use casemate_recorder::SessionId;
use casemate_recorder::log::leaf::LegalHold;
use casemate_recorder::transcript::event::{Event, act};
use serde_json::json;

use super::{Caller, Reply, at_leisure, auditors_only};
use crate::alerts::Kind;
use crate::server::Door;
use crate::time::now_us;
use crate::trust_file;

/// What the first signature begins with; before it stands what was signed.
const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";

/// A statement may be dated so far ahead: clocks differ. In microseconds.
const AHEAD_US: u64 = 300_000_000;

/// Makes the order that officers sign.
pub(super) async fn order(door: &Door, caller: &Caller<'_>, set: bool, id: &str) -> Reply {
    let verb = if set { "hold" } else { "lift" };
    if let Err(refused) = auditors_only(door, caller, verb) {
        return refused;
    }
    let session = match opened(door, id).await {
        Ok(session) => session.to_string(),
        Err(refused) => return refused,
    };
    let order = HoldOrder { set, session: &session, time_us: now_us() };
    let mut reply = Reply::done(format!("{order}\n"));
    reply.err = format!(
        "Two officers sign this line as it is, each with a key of the trust file; then it is handed in:\n  \
         ssh-keygen -Y sign -n {HOLD_NAMESPACE} -f ~/.ssh/id_ed25519 < order >> order.sig\n  \
         cat order order.sig | ssh YOU@BASTION submit\n"
    );
    reply
}

/// Takes a signed statement.
pub(super) async fn submit(door: &Door, caller: &Caller<'_>, input: &[u8], json: bool) -> Reply {
    let taken = async {
        auditors_only(door, caller, "submit")?;
        let text = std::str::from_utf8(input).map_err(|_| Reply::refused("what came is not UTF-8"))?;
        let (statement, signatures) = text.split_at(text.find(BEGIN).unwrap_or(text.len()));
        if signatures.is_empty() {
            let what = "no signature came: cat STATEMENT STATEMENT.sig | ssh YOU@BASTION submit";
            return Err(Reply::refused(what));
        }
        if let Some(order) = HoldOrder::parse(statement) {
            return hold(door, caller, order, statement, signatures, json).await;
        }
        if let Some(result) = Restored::parse(statement) {
            return restored(door, caller, result, statement, signatures, json).await;
        }
        Err(Reply::refused("what came is no order about a hold, and no result of a restore test"))
    };
    taken.await.unwrap_or_else(|refused| refused)
}

/// Sets a hold, or lifts one.
async fn hold(
    door: &Door,
    caller: &Caller<'_>,
    order: HoldOrder<'_>,
    text: &str,
    signatures: &str,
    json: bool,
) -> Result<Reply, Reply> {
    not_ahead(order.time_us)?;
    let session = opened(door, order.session).await?;
    let board = board(door)?;
    board.ordered(text, signatures).map_err(|why| Reply::refused(format!("the order does not count: {why}")))?;
    let _alone = door.retention().await;
    let recorder = door.recorder();
    let logged = at_leisure({
        let recorder = recorder.clone();
        move || Ok(recorder.overdue(0)?.holds().to_vec())
    });
    let logged: Vec<LegalHold> = logged.await?;
    let mut holds = holds(Some(&board), &logged);
    match (order.set, holds.stands(session)) {
        (true, true) => return Err(Reply::refused(format!("a hold stands on {session} already"))),
        (false, false) => return Err(Reply::refused(format!("no hold stands on {session}"))),
        _ => {}
    }
    let leaf = ToldHold { session, set: order.set, wall_us: now_us(), order: text, signatures };
    holds.take(&leaf).map_err(|why| Reply::refused(format!("the order does not count: {why}")))?;
    let what = if order.set { "hold" } else { "lift" };
    note(door, caller, what, text, signatures, Some(session));
    let done = recorder.hold(session, order.set, text.to_owned(), signatures.to_owned()).await;
    done.map_err(|frozen| Reply::refused(frozen.client_text()))?;
    let told = if order.set { "is held" } else { "is not held any more" };
    tracing::warn!(%session, by = caller.session.identity().person(), "session {told}, by order of two officers");
    Ok(match json {
        true => Reply::done(format!("{}\n", json!({ "session": session.to_string(), "held": order.set }))),
        false => Reply::done(format!(
            "{session} {told}: it is in the node log. In buckets, whoever keeps them brings it about with\n  \
             casemate-replay enforce s3://BUCKET --trust FILE --apply\n"
        )),
    })
}

/// Notes what came of a restore test, signed by the caller with a key that they log in with.
async fn restored(
    door: &Door,
    caller: &Caller<'_>,
    result: Restored,
    text: &str,
    signatures: &str,
    json: bool,
) -> Result<Reply, Reply> {
    not_ahead(result.time_us)?;
    let person = caller.session.identity().person();
    let board = keys_of(door, person);
    let tally = Tally::count_in(RESTORE_NAMESPACE, &board, result.time_us, text.as_bytes(), signatures);
    if tally.signers.is_empty() {
        return Err(Reply::refused(match tally.refused.first().map(|refused| &refused.why) {
            Some(Why::Stranger { fingerprint }) => {
                format!("the signature is by {fingerprint}, none of your keys; sign with one that you log in with")
            }
            Some(why) => format!("the signature {why}"),
            None => "no signature came".to_owned(),
        }));
    }
    let what = if result.is_whole() { "restore-test" } else { "restore-failed" };
    note(door, caller, what, text, signatures, None);
    if !result.is_whole() {
        let Restored { restored, tried, .. } = result;
        let text = format!("a restore test by {person} brought back {restored} of {tried} sessions");
        caller.session.alert(Kind::RestoreFailed, text);
    }
    door.recorder().act(what).await.map_err(|frozen| Reply::refused(frozen.client_text()))?;
    Ok(match json {
        true => {
            Reply::done(format!("{}\n", json!({ "noted": what, "restored": result.restored, "tried": result.tried })))
        }
        false => Reply::done(format!(
            "noted: {} of {} sessions were restored, by the test of {}\n",
            result.restored,
            result.tried,
            show_time(result.time_us)
        )),
    })
}

/// Returns the holds of the node log, as a verifier sees them by the same officers. Without any, nobody can have lifted one.
pub(super) fn holds<'a>(board: Option<&'a Board>, logged: &[LegalHold]) -> Holds<'a, SessionId> {
    let mut holds = Holds::new(board);
    for LegalHold { session, set, wall_us, order, signatures } in logged {
        let told = ToldHold { session: *session, set: *set, wall_us: *wall_us, order, signatures };
        // What lifts nothing is for the verifier to tell of.
        drop(holds.take(&told));
    }
    holds
}

/// Returns the officers of the organisation's trust file.
pub(super) fn board(door: &Door) -> Result<Board, Reply> {
    let policy = door.policy();
    let Some(path) = policy.config().trust.as_deref() else {
        let what = "no officers are known here: the configuration names no trust file (trust = \"FILE\")";
        return Err(Reply::refused(what));
    };
    counting(path).map_err(|why| Reply::refused(format!("no officers are known here: {why}")))
}

fn counting(path: &Path) -> Result<Board, String> {
    let file = trust_file::open(path).map_err(|error| error.to_string())?;
    file.believe(now_us()).cloned().map_err(|doubt| doubt.to_string())
}

/// The keys with which a person logs in, as a board of one.
fn keys_of(door: &Door, person: &str) -> Board {
    let policy = door.policy();
    let persons = policy.config().persons.iter().filter(|known| known.name == person);
    let keys = persons.flat_map(|known| &known.keys);
    let officers = keys.filter_map(|key| {
        let key = OfficerKey::parse(&key.to_openssh().ok()?).ok()?;
        Some(Officer { name: person.to_owned(), key, period: Period::ALWAYS })
    });
    Board { organisation: String::new(), issued_us: 0, quorum: 1, officers: officers.collect() }
}

/// Finds a session in the node log, by its whole id: an order that names half of one could mean another later.
async fn opened(door: &Door, id: &str) -> Result<SessionId, Reply> {
    let Ok(session) = id.parse::<SessionId>() else {
        return Err(Reply::refused(format!(
            "{id:?} is no session's id: write it whole, as `casemate-replay ls` shows it"
        )));
    };
    let recorder = door.recorder();
    match at_leisure(move || recorder.opening(session)).await? {
        Some(_) => Ok(session),
        None => Err(Reply::refused(format!("the log of this node opens no session {session}: another node may"))),
    }
}

fn not_ahead(time_us: u64) -> Result<(), Reply> {
    if time_us <= now_us().saturating_add(AHEAD_US) {
        return Ok(());
    }
    Err(Reply::refused(format!("it is dated {}, which has not come yet", show_time(time_us))))
}

/// Writes to the control transcript who had what done.
fn note(door: &Door, caller: &Caller<'_>, what: &str, text: &str, signatures: &str, session: Option<SessionId>) {
    let mut event = Event::map(act::TYPE, 0)
        .with(act::WHAT, what)
        .with(act::PERSON, caller.session.identity().person())
        .with(act::TEXT, text)
        .with(act::SIGNATURES, signatures);
    if let Some(session) = session {
        event = event.with(act::SESSION, session.to_string());
    }
    door.note(event);
}
