//! From an accepted channel to its relay: reaches the target, opens the channel there, and says why where that fails.
//!
//! Each channel has a connection of its own to the target. Forwards nothing itself.

use std::sync::Arc;
use std::time::Duration;

use casemate_recorder::transcript::event::{Event, Side, dialled, reply, unreachable};
use casemate_recorder::transcript::seal::CloseReason;
use casemate_recorder::{Frozen, Ticket};
use russh::ChannelOpenFailure;
use russh::server::ChannelOpenHandle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::backlog::Backlog;
use super::client::{Channels, Leg, Line, connect};
use super::farewell::{Finish, conclude, doom, say_why};
use super::outlet::{Answer, Outlet};
use super::relay::{Outer, relay};
use super::said::Request;
use crate::alerts::Kind;
use crate::config::Target;
use crate::policy::Grant;
use crate::session::{End, ForgetsTerminal, PanicEnds, Session};
use crate::target::Unreachable;

/// Opens the target's side of a channel and relays until either side or the session ends.
pub(super) async fn run(mut outer: Outer, grant: Grant, open: ChannelOpenHandle, opened: Ticket) {
    let _guard = PanicEnds(Arc::clone(&outer.session));
    let (session, tape) = (Arc::clone(&outer.session), Arc::clone(&outer.tape));
    let _forgets = ForgetsTerminal(Arc::clone(&session), outer.chan);
    let reached = tokio::select! {
        biased;
        end = session.ended() => {
            tape.finish(session.recording(), "bastion", Some(&end.text));
            return open.reject(ChannelOpenFailure::ConnectFailed).await;
        }
        () = outer.gone.cancelled() => return tape.finish(session.recording(), "client", None),
        reached = reach(&session, &grant, &outer, opened) => reached,
    };
    let (line, leg) = match reached {
        Ok(both) => both,
        // Nobody reads what is written there: the protocol's own answer is the place for the reason.
        Err(miss) if tape.is_forward() => {
            let (by, text, reason) = match miss {
                Some(miss) => ("target", miss.text, miss.reason),
                None => ("bastion", "the session ends".to_owned(), ChannelOpenFailure::ConnectFailed),
            };
            tape.finish(session.recording(), by, Some(&text));
            return open.reject(reason).await;
        }
        Err(Some(miss)) => {
            open.accept().await;
            return doom(&mut outer, &miss.text).await;
        }
        // The session is ending; its notice says why.
        Err(None) => {
            open.accept().await;
            let end = session.ended().await;
            return conclude(&outer, &grant.target().name, Finish::Ended(end)).await;
        }
    };
    open.accept().await;
    work(outer, &grant, line, leg, Vec::new()).await;
}

/// Opens the target's side of a channel that exists already, and whose client was told that these requests succeeded.
pub(super) async fn resume(outer: Outer, grant: Grant, opened: Ticket, asked: Vec<(Request, Ticket)>) {
    let _guard = PanicEnds(Arc::clone(&outer.session));
    let session = Arc::clone(&outer.session);
    let reached = tokio::select! {
        biased;
        end = session.ended() => return conclude(&outer, &grant.target().name, Finish::Ended(end)).await,
        () = outer.gone.cancelled() => return,
        reached = reach(&session, &grant, &outer, opened) => reached,
    };
    match reached {
        Ok((line, leg)) => work(outer, &grant, line, leg, asked).await,
        Err(Some(miss)) => say_why(&outer, &miss.text).await,
        Err(None) => {
            let end = session.ended().await;
            conclude(&outer, &grant.target().name, Finish::Ended(end)).await;
        }
    }
}

/// Puts to the target what the client was told that it has. The error is the request that the target refused.
async fn replay(leg: &Leg, asked: Vec<(Request, Ticket)>, patience: Duration) -> Result<(), &'static str> {
    for (request, ticket) in asked {
        let name = request.name();
        let put = async {
            drop(ticket.receipt().await.ok()?);
            let (answer, answered) = oneshot::channel();
            leg.inbox.asks.expect(name, answer);
            request.send(&leg.write).await.ok()?;
            let Answer { success, ticket } = answered.await.ok()?;
            drop(ticket.receipt().await.ok()?);
            success.then_some(())
        };
        // A variable that the target does not take is none that a person misses.
        if !matches!(timeout(patience, put).await, Ok(Some(()))) && name != "env" {
            return Err(name);
        }
    }
    Ok(())
}

/// Relays until either side or the session ends, and says how it ended.
async fn work(mut outer: Outer, grant: &Grant, line: Line, mut leg: Leg, asked: Vec<(Request, Ticket)>) {
    let (session, tape) = (Arc::clone(&outer.session), Arc::clone(&outer.tape));
    let finish = match replay(&leg, asked, session.limits().reply).await {
        Ok(()) => relay(&mut outer, &mut leg).await,
        Err(what) => Finish::Refused(what),
    };
    let (by, reason) = (finish.by(), finish.reason());
    conclude(&outer, &grant.target().name, finish).await;
    // What still waits for an answer gets none, before the goodbye takes its time.
    leg.inbox.asks.abandon();
    outer.up.close();
    drop(outer);
    leg.inbox.end();
    line.end().await;
    // Not before both legs are silent: what came after it would be recorded without anybody listening.
    tape.finish(session.recording(), by, reason.as_deref());
}

/// Why a channel leads nowhere.
struct Miss {
    /// For the person, or for the record of a forwarded connection.
    text: String,
    /// For the program that asked for a forwarded connection.
    reason: ChannelOpenFailure,
}

/// Reaches the target, opens the channel there and records the outcome; without a [`Miss`] recording froze.
async fn reach(session: &Session, grant: &Grant, outer: &Outer, opened: Ticket) -> Result<(Line, Leg), Option<Miss>> {
    let (chan, limits, name) = (outer.chan, session.limits(), &grant.target().name);
    let froze = |frozen: Frozen| {
        session.end(End::frozen(&frozen));
        None
    };
    drop(opened.receipt().await.map_err(froze)?);
    let unreachable = |error: Unreachable| {
        note_unreachable(session, grant.target(), chan, &error);
        Some(Miss { text: error.client_text(name), reason: ChannelOpenFailure::ConnectFailed })
    };
    let backlog = Backlog::new(limits.backlog);
    let (outlet, inbox) = Outlet::new(session.recording(), chan, &outer.tape, &backlog);
    let mut line =
        connect(grant, limits, session.recording(), chan, Channels::One(outlet), backlog).await.map_err(unreachable)?;
    let ticket = note_dialled(session, chan, &line);
    let write = match outer.tape.passage() {
        None => match timeout(limits.dial, line.open_session()).await {
            Ok(opened) => opened.map_err(unreachable)?,
            Err(_) => {
                return Err(unreachable(Unreachable::Channel(format!("no answer within {} s", limits.dial.as_secs()))));
            }
        },
        Some(passage) => {
            let opened = timeout(limits.dial, line.open_forward(passage)).await;
            let opened = opened.unwrap_or(Err(ChannelOpenFailure::ConnectFailed));
            let event = Event::map(reply::TYPE, chan)
                .with(reply::TO, passage.kind())
                .with(reply::SUCCESS, opened.is_ok())
                .with(reply::SIDE, 1u32);
            let event = match &opened {
                Err(ChannelOpenFailure::Other { reason, .. }) => event.with(reply::REASON, reason.as_bytes()),
                _ => event,
            };
            drop(session.record(Side::Target, event).receipt().await.map_err(froze)?);
            match opened {
                Ok(write) => write,
                Err(reason) => {
                    line.end().await;
                    return Err(Some(Miss { text: "the target did not connect there".to_owned(), reason }));
                }
            }
        }
    };
    drop(ticket.receipt().await.map_err(froze)?);
    Ok((line, Leg { write, inbox }))
}

/// Records that the target was reached.
pub(super) fn note_dialled(session: &Session, chan: u32, line: &Line) -> Ticket {
    let event = Event::map(dialled::TYPE, chan)
        .with(dialled::ADDRESS, line.address.as_str())
        .with(dialled::HOST_KEY, line.host_key.as_str())
        .with(dialled::SOFTWARE, line.software.as_slice());
    session.record(Side::Target, event)
}

pub(super) fn note_unreachable(session: &Session, target: &Target, chan: u32, error: &Unreachable) {
    tracing::warn!(session = %session.recording().id(), target = target.name, %error, "target unreachable");
    let mut event = Event::map(unreachable::TYPE, chan)
        .with(unreachable::ADDRESS, target.address())
        .with(unreachable::REASON, error.to_string());
    if let Some(offered) = error.host_key() {
        session.alert(Kind::HostKeyChanged, format!("target {}: {error}", target.name));
        event = event.with(unreachable::HOST_KEY, offered);
    }
    drop(session.record(Side::Target, event));
    session.note_last(End::quiet(CloseReason::Unreachable, error.to_string()));
}
