//! The session channels of a portal: what somebody meets who logs in to the bastion and names no target.
//!
//! Takes one program a channel, lets `control` do what it asks for, and writes the answer against receipts, like anything
//! else that a person is shown. Knows no verb.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use casemate_recorder::transcript::event::{Event, STREAM_LEN_MAX, Side, exit, reply, ssh_err, ssh_out};
use casemate_recorder::transcript::seal::CloseReason;
use casemate_recorder::{Frozen, Ticket};
use russh::ChannelOpenFailure;
use russh::server::ChannelOpenHandle;

use super::client::Answer;
use super::farewell::{Finish, conclude};
use super::jump::{Direct, Jump};
use super::relay::{Outer, frozen_end};
use super::said::{Request, Told, Up};
use super::watch;
use crate::control::{self, Caller, Outcome, Reply};
use crate::server::Door;
use crate::session::{End, PanicEnds, Session};

/// What a portal's channels have in common.
pub(super) struct Desk {
    door: Door,
    /// The address that the client connected to: the one it can paste.
    local: SocketAddr,
}

impl Desk {
    /// Sits down behind a door.
    pub(super) fn new(door: Door, local: SocketAddr) -> Self {
        Self { door, local }
    }

    /// Decides whether a channel may lead where the client asks; the error is the reason, for the record.
    pub(super) fn jump(&self, portal: &Arc<Session>, wanted: &Direct<'_>) -> Result<Jump, String> {
        Jump::decide(&self.door, portal, wanted)
    }
}

/// Serves one session channel of a portal.
pub(super) async fn run(mut outer: Outer, desk: Arc<Desk>, open: ChannelOpenHandle, opened: Ticket) {
    let session = Arc::clone(&outer.session);
    let _guard = PanicEnds(Arc::clone(&session));
    if let Err(frozen) = opened.receipt().await {
        session.end(frozen_end(&frozen));
        return open.reject(ChannelOpenFailure::ConnectFailed).await;
    }
    open.accept().await;
    let (gone, chan) = (outer.gone.clone(), outer.chan);
    let finish = tokio::select! {
        biased;
        end = session.ended() => Finish::Ended(end),
        () = gone.cancelled() => Finish::ClientGone,
        served = serve(&mut outer, &desk) => match served {
            Ok(()) => {
                session.recent().forget(chan);
                return session.note_last(End::quiet(CloseReason::Client, "the client left"));
            }
            Err(frozen) => {
                session.end(frozen_end(&frozen));
                Finish::Ended(session.ended().await)
            }
        },
    };
    conclude(&outer, "the bastion", finish).await;
    session.recent().forget(chan);
}

/// Waits for the program, runs it and ends the channel.
async fn serve(outer: &mut Outer, desk: &Desk) -> Result<(), Frozen> {
    let mut size = None;
    let words = loop {
        match outer.up.recv().await {
            Some(Up::Ask { request, ticket, answer }) => {
                drop(ticket.receipt().await?);
                // What is asked of the bastion, it grants: a terminal, variables. Files it has none to transfer.
                let success = !matches!(request, Request::Sftp);
                let event = Event::map(reply::TYPE, outer.chan).with(reply::TO, request.name());
                let ticket = outer.session.record(Side::Target, event.with(reply::SUCCESS, success));
                let _ = answer.send(Answer { success, ticket });
                match request {
                    Request::Shell => break Vec::new(),
                    Request::Exec(words) => break words,
                    Request::Pty { size: asked, .. } => size = Some(asked),
                    Request::Env { .. } | Request::Sftp => {}
                }
            }
            Some(Up::Close { ticket }) => {
                drop(ticket.receipt().await?);
                return Ok(());
            }
            // Nobody reads what is typed here. It is in the record.
            Some(Up::Tell { request: Told::Resize(now), .. }) => size = size.map(|_| now),
            Some(Up::Data { .. } | Up::Eof { .. } | Up::Tell { .. }) => {}
            None => return Ok(()),
        }
    };
    let caller = Caller { session: &outer.session, local: desk.local };
    let reply = match (control::run(&desk.door, &caller, &words).await, size) {
        (Outcome::Reply(reply), _) => reply,
        (Outcome::Watch(session), Some(size)) => return watch::run(outer, &session, size).await,
        (Outcome::Watch(_), None) => Reply::refused("watch draws into a terminal: write ssh -t"),
    };
    say(outer, lines(outer, &reply.out), false).await?;
    say(outer, lines(outer, &reply.err), true).await?;
    leave(outer, reply.status).await
}

/// Ends the channel with a status.
pub(super) async fn leave(outer: &Outer, status: u32) -> Result<(), Frozen> {
    let event = Event::map(exit::TYPE, outer.chan).with(exit::STATUS, status);
    drop(outer.session.record(Side::Target, event).receipt().await?);
    let _ = outer.write.exit_status(status).await;
    let _ = outer.write.eof().await;
    let _ = outer.write.close().await;
    Ok(())
}

/// A terminal in raw mode needs the carriage return.
fn lines(outer: &Outer, text: &str) -> String {
    let pty = outer.shape.pty.load(Ordering::SeqCst);
    if pty { text.replace('\n', "\r\n") } else { text.to_owned() }
}

/// Records what the bastion says, and says it.
pub(super) async fn say(outer: &Outer, text: String, stderr: bool) -> Result<(), Frozen> {
    let bytes = Bytes::from(text);
    let kind = if stderr { ssh_err::TYPE } else { ssh_out::TYPE };
    for at in (0..bytes.len()).step_by(STREAM_LEN_MAX) {
        let piece = bytes.slice(at..bytes.len().min(at + STREAM_LEN_MAX));
        let ticket = outer.session.record(Side::Target, Event::stream(kind, outer.chan, piece));
        let bytes = ticket.receipt().await?.into_bytes();
        // An error means that the connection is over, which `run` learns by itself.
        let _ =
            if stderr { outer.write.extended_data_bytes(1, bytes).await } else { outer.write.data_bytes(bytes).await };
    }
    Ok(())
}
