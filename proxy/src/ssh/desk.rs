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
use casemate_recorder::{Elision, Frozen, How, Of, Part, Ticket};
use russh::ChannelOpenFailure;
use russh::server::ChannelOpenHandle;
use tokio::sync::mpsc;

use super::channels::{self, note_open};
use super::farewell::{FAILED, Finish, conclude};
use super::jump::{Direct, Jump};
use super::menu::{Choice, Menu, Typed};
use super::outlet::Answer;
use super::reach;
use super::relay::Outer;
use super::said::{Request, Size, Told, Up};
use super::watch;
use crate::config::TargetKind;
use crate::control::{self, Caller, INPUT_LEN_MAX, Outcome, Reply};
use crate::policy::{Grant, Wanted};
use crate::server::{Door, Slot};
use crate::session::{End, ForgetsTerminal, Introduction, PanicEnds, Purpose, Session};

/// Requests that are kept for a target that the menu may lead to: a terminal, and as many variables as anybody sends.
const KEPT_MAX: usize = 64;

/// What a portal's channels have in common.
pub(super) struct Desk {
    door: Door,
    /// The address that the client connected to: the one it can paste.
    local: SocketAddr,
    /// The client's identification line.
    software: Vec<u8>,
}

impl Desk {
    /// Sits down behind a door.
    pub(super) fn new(door: Door, local: SocketAddr, software: Vec<u8>) -> Self {
        Self { door, local, software }
    }

    /// Opens a session for what was chosen; the error is the text for the person.
    async fn open(&self, portal: &Session, choice: Choice) -> Result<(Arc<Session>, Grant, Slot), String> {
        let identity = portal.identity().clone();
        let policy = self.door.policy();
        let Choice { target, role } = choice;
        let wanted = Wanted { person: identity.person().to_owned(), target: Some(target), role: Some(role) };
        // A reload may have changed the rules since the list was shown.
        let grant = policy.authorize(&identity, &wanted, TargetKind::Ssh).map_err(|denial| denial.client_text())?;
        let portal = Some(portal.recording().id());
        let introduction = Introduction { software: self.software.clone(), notice: String::new(), portal };
        let purpose = Purpose::Work(grant.clone());
        let (session, slot) = self.door.open(identity, purpose, &policy, &introduction).await?;
        Ok((session, grant, slot))
    }

    /// Decides whether a channel may lead where the client asks; the error is the reason, for the record.
    pub(super) fn jump(&self, portal: &Arc<Session>, wanted: &Direct<'_>) -> Result<Jump, String> {
        Jump::decide(&self.door, portal, wanted)
    }
}

/// What follows when a channel's program is over.
enum Next {
    /// The channel ended.
    Over,
    /// It goes on to a target, with what was asked for it.
    Go(Choice, Vec<Request>),
}

/// Serves one session channel of a portal.
pub(super) async fn run(mut outer: Outer, desk: Arc<Desk>, open: ChannelOpenHandle, opened: Ticket) {
    let portal = Arc::clone(&outer.session);
    let _guard = PanicEnds(Arc::clone(&portal));
    let _forgets = ForgetsTerminal(Arc::clone(&portal), outer.chan);
    if let Err(frozen) = opened.receipt().await {
        portal.end(End::frozen(&frozen));
        return open.reject(ChannelOpenFailure::ConnectFailed).await;
    }
    open.accept().await;
    let gone = outer.gone.clone();
    let finish = tokio::select! {
        biased;
        end = portal.ended() => Finish::Ended(end),
        () = gone.cancelled() => Finish::ClientGone,
        served = serve(&mut outer, &desk) => match served {
            Ok(Next::Over) => return portal.note_last(End::quiet(CloseReason::Client, "the client left")),
            Ok(Next::Go(choice, asked)) => return go(outer, &desk, choice, asked).await,
            Err(frozen) => {
                portal.end(End::frozen(&frozen));
                Finish::Ended(portal.ended().await)
            }
        },
    };
    conclude(&outer, "the bastion", finish).await;
}

/// Leads the channel on into a session of its own, and serves that to its end.
async fn go(outer: Outer, desk: &Desk, choice: Choice, asked: Vec<Request>) {
    let portal = Arc::clone(&outer.session);
    let opened = desk.open(&portal, choice).await;
    let (session, grant, slot) = match opened {
        Ok(opened) => opened,
        Err(text) => {
            // The channel's own end tells; a freeze shows there too.
            let _ = say(&outer, lines(&outer, &format!("casemate: {text}\n")), true).await;
            let _ = leave(&outer, FAILED).await;
            return;
        }
    };
    drop(portal.record(Side::Client, session.mention("opened", "")));
    // What was typed ahead of the answer belongs to the portal, and ends there.
    let (up, queue) = mpsc::unbounded_channel();
    outer.guide.lead_on(Arc::clone(&session), up);
    let outer = Outer { session: Arc::clone(&session), up: queue, ..outer };
    let opened = note_open(&session, channels::asked(outer.id, "session"), Ok(()));
    let asked = asked.into_iter().map(|request| {
        let event = request.event(outer.chan, true);
        session.recent().push(event.clone());
        let ticket = session.record(Side::Client, event);
        (request, ticket)
    });
    let asked = asked.collect();
    let work = reach::resume(outer, grant, opened, asked);
    let limits = async {
        let end = tokio::select! {
            end = portal.ended() => end,
            end = session.overdue() => end,
        };
        session.end(end);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = work => {}
        () = limits => {}
    }
    slot.close(&session).await;
}

/// Waits for the program, runs it and ends the channel.
async fn serve(outer: &mut Outer, desk: &Desk) -> Result<Next, Frozen> {
    let mut asked = Vec::new();
    let words = loop {
        match outer.up.recv().await {
            Some(Up::Ask { request, ticket, answer }) => {
                drop(ticket.receipt().await?);
                let success = match request {
                    Request::Shell | Request::Exec(_) => true,
                    Request::Pty { .. } | Request::Env { .. } => asked.len() < KEPT_MAX,
                    // The bastion has no files to transfer.
                    Request::Subsystem(_) => false,
                };
                let event = Event::map(reply::TYPE, outer.chan).with(reply::TO, request.name());
                let ticket = outer.session.record(Side::Target, event.with(reply::SUCCESS, success));
                let _ = answer.send(Answer { success, ticket });
                match request {
                    Request::Shell => break Vec::new(),
                    Request::Exec(words) => break words,
                    Request::Pty { .. } | Request::Env { .. } if success => asked.push(request),
                    Request::Pty { .. } | Request::Env { .. } | Request::Subsystem(_) => {}
                }
            }
            Some(Up::Close { ticket }) => {
                drop(ticket.receipt().await?);
                return Ok(Next::Over);
            }
            Some(Up::Tell { request: Told::Resize(size), .. }) => resize(&mut asked, size),
            // Nobody reads what is typed here. It is in the record.
            Some(Up::Data { .. } | Up::Eof { .. } | Up::Tell { .. }) => {}
            None => return Ok(Next::Over),
        }
    };
    let size = asked.iter().find_map(|request| match request {
        Request::Pty { size, .. } => Some(*size),
        _ => None,
    });
    let input = match control::takes_input(&words) {
        true => input(outer).await?,
        false => Some(Vec::new()),
    };
    let caller = Caller { session: &outer.session, local: desk.local };
    let outcome = match input {
        Some(input) => control::run(&desk.door, &caller, &words, &input).await,
        None => Outcome::Reply(Reply::refused(format!("more than {INPUT_LEN_MAX} bytes came on standard input"))),
    };
    let reply = match (outcome, size) {
        (Outcome::Reply(reply), _) => reply,
        (Outcome::Watch(session), Some(size)) => {
            watch::run(outer, &session, size).await?;
            return Ok(Next::Over);
        }
        (Outcome::Watch(_), None) => Reply::refused("watch draws into a terminal: write ssh -t"),
    };
    say_all(outer, &reply).await?;
    say(outer, lines(outer, &reply.err), true).await?;
    if words.is_empty()
        && size.is_some()
        && let Some(choice) = choose(outer, desk, &mut asked).await?
    {
        asked.push(Request::Shell);
        return Ok(Next::Go(choice, asked));
    }
    leave(outer, reply.status).await?;
    Ok(Next::Over)
}

/// Takes standard input to its end; none where there is too much of it.
async fn input(outer: &mut Outer) -> Result<Option<Vec<u8>>, Frozen> {
    let mut input = Vec::new();
    loop {
        match outer.up.recv().await {
            Some(Up::Data { ticket, held: _held }) => {
                input.extend_from_slice(&ticket.receipt().await?.into_bytes());
                if input.len() > INPUT_LEN_MAX {
                    return Ok(None);
                }
            }
            Some(Up::Eof { ticket } | Up::Close { ticket }) => {
                drop(ticket.receipt().await?);
                return Ok(Some(input));
            }
            Some(Up::Ask { ticket, answer, .. }) => {
                // Nothing is asked for once a program runs.
                let _ = answer.send(Answer { success: false, ticket });
            }
            Some(Up::Tell { .. }) => {}
            None => return Ok(Some(input)),
        }
    }
}

/// Keeps a terminal's size as it is now.
fn resize(asked: &mut [Request], now: Size) {
    for request in asked {
        if let Request::Pty { size, .. } = request {
            *size = now;
        }
    }
}

/// Offers the menu and waits for the answer; none where the person leaves.
async fn choose(outer: &mut Outer, desk: &Desk, asked: &mut [Request]) -> Result<Option<Choice>, Frozen> {
    let ways = desk.door.policy().reachable(outer.session.identity());
    let Some(mut menu) = Menu::of(&ways) else { return Ok(None) };
    say(outer, lines(outer, &menu.text()), false).await?;
    loop {
        let bytes = match outer.up.recv().await {
            Some(Up::Data { ticket, held: _held }) => ticket.receipt().await?.into_bytes(),
            Some(Up::Tell { request: Told::Resize(size), .. }) => {
                resize(asked, size);
                continue;
            }
            Some(Up::Tell { .. } | Up::Ask { .. }) => continue,
            Some(Up::Eof { .. } | Up::Close { .. }) | None => return Ok(None),
        };
        let (shown, choice) = match menu.typed(&bytes) {
            Typed::Show(shown) => {
                say(outer, lines(outer, &shown), false).await?;
                continue;
            }
            Typed::Go(shown, choice) => (shown, Some(choice)),
            Typed::Leave(shown) => (shown, None),
        };
        say(outer, lines(outer, &shown), false).await?;
        return Ok(choice);
    }
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

/// Says what a verb answers on standard output; of a secret in it the record gets the length.
async fn say_all(outer: &Outer, reply: &Reply) -> Result<(), Frozen> {
    let Some((before, secret, after)) = reply.secret.clone().and_then(|place| {
        let (before, rest) = reply.out.split_at_checked(place.start)?;
        let (secret, after) = rest.split_at_checked(place.len())?;
        Some((before, secret, after))
    }) else {
        return say(outer, lines(outer, &reply.out), false).await;
    };
    say(outer, lines(outer, before), false).await?;
    let mut elision = Elision::new(outer.chan, Side::Target, Of::Files);
    let (wire, part) =
        (Bytes::copy_from_slice(secret.as_bytes()), Part { range: 0..secret.len(), how: How::Redact(ssh_out::TYPE) });
    let ticket = outer.session.recording().record_eliding(&mut elision, ssh_out::TYPE, wire, &[part], []);
    let bytes = ticket.receipt().await?.into_bytes();
    let _ = outer.write.data_bytes(bytes).await;
    say(outer, lines(outer, after), false).await
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
