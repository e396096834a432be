//! The channels of one client connection: what a client asks of them meets their rules, the record and the relay.
//!
//! One table, used from the library's callbacks alone. Nothing here waits but a request, for the target's answer.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use casemate_recorder::Ticket;
use casemate_recorder::transcript::event::{Event, STREAM_LEN_MAX, Side, chan_close, chan_open, eof, refused, ssh_in};
use russh::server::{self, ChannelOpenHandle};
use russh::{Channel, ChannelId, ChannelOpenFailure};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::backlog::Backlog;
use super::client::Answer;
use super::desk::{self, Desk};
use super::farewell::{DOOM, FAILED, last_words, line};
use super::files::Files;
use super::flow::{Ask, ChannelFlow, Refusal, TEXT_LEN_MAX, clip};
use super::jump::Direct;
use super::pipe::{Inlet, Pipe};
use super::relay::{self, Outer, Shape};
use super::said::{Request, Told, Up};
use super::settings::WINDOW;
use crate::config::Content;
use crate::policy::Grant;
use crate::session::Session;

/// Why one more channel is refused.
const TOO_MANY: &str = "more channels than limits.channels";

/// What channels lead to.
enum Leads {
    /// Nowhere: nobody has logged in.
    Nowhere,
    /// Into a session.
    Into(Arc<Session>, Way),
    /// To a line that says why there is nothing.
    Away(String),
}

/// What a session's channels are for.
pub(super) enum Way {
    /// Programs on the target.
    Target(Grant),
    /// The bastion itself, and sessions of their own behind it.
    Portal(Arc<Desk>),
}

/// A channel as the client's side sees it.
enum Entry {
    Live(Box<Live>),
    /// Another SSH connection is inside.
    Tunnel {
        inlet: Inlet,
        _gone: DropGuard,
    },
    /// It will be told why there is nothing for it.
    Doomed {
        program: CancellationToken,
        _gone: DropGuard,
    },
}

struct Live {
    home: Home,
    flow: ChannelFlow,
    backlog: Arc<Backlog>,
    overrun: CancellationToken,
    shape: Arc<Shape>,
    files: Arc<Files>,
    /// Tells the relay when this entry goes, whatever the reason.
    _gone: DropGuard,
}

impl Live {
    fn note_shape(&self) {
        self.shape.pty.store(self.flow.has_pty(), Ordering::SeqCst);
        self.shape.interactive.store(self.flow.interactive(), Ordering::SeqCst);
    }
}

/// Where what a client says on a channel is recorded and queued. A portal's menu leads it on into another session, at one
/// moment for both: what the client said before belongs to the portal.
struct Home(Arc<Mutex<(Arc<Session>, mpsc::UnboundedSender<Up>)>>);

impl Home {
    fn new(session: Arc<Session>, up: mpsc::UnboundedSender<Up>) -> Self {
        Self(Arc::new(Mutex::new((session, up))))
    }

    fn lock(&self) -> MutexGuard<'_, (Arc<Session>, mpsc::UnboundedSender<Up>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For whoever serves the channel. It keeps nothing: the queue ends with the channel.
    fn guide(&self) -> Guide {
        Guide(Arc::downgrade(&self.0))
    }
}

/// Leads a channel on.
pub(super) struct Guide(Weak<Mutex<(Arc<Session>, mpsc::UnboundedSender<Up>)>>);

impl Guide {
    /// Leads on into another session, with a queue of its own.
    pub(super) fn lead_on(&self, session: Arc<Session>, up: mpsc::UnboundedSender<Up>) {
        if let Some(home) = self.0.upgrade() {
            *home.lock().unwrap_or_else(PoisonError::into_inner) = (session, up);
        }
    }
}

/// All channels of a connection.
pub(super) struct Channels {
    leads: Leads,
    table: HashMap<ChannelId, Entry>,
    uploads: Arc<Backlog>,
}

impl Channels {
    /// Starts without any, before login; `uploads` counts what clients send, over all channels.
    pub(super) fn new(uploads: Arc<Backlog>) -> Self {
        Self { leads: Leads::Nowhere, table: HashMap::new(), uploads }
    }

    /// Lets channels lead into a session from now on.
    pub(super) fn lead_into(&mut self, session: Arc<Session>, way: Way) {
        self.leads = Leads::Into(session, way);
    }

    /// Lets channels lead to a line of text from now on.
    pub(super) fn turn_away(&mut self, text: String) {
        self.leads = Leads::Away(text);
    }

    /// The session that channels lead to.
    pub(super) fn session(&self) -> Option<&Arc<Session>> {
        match &self.leads {
            Leads::Into(session, _) => Some(session),
            Leads::Nowhere | Leads::Away(_) => None,
        }
    }

    /// Records that something was refused. Peers choose the words in `what`.
    pub(super) fn refused(&self, chan: u32, what: &str, why: &str) {
        if let Some(session) = self.session() {
            note_refused(session, chan, what, why);
        }
    }

    /// The window to grant for what clients send, over all channels.
    pub(super) fn window(&self) -> u32 {
        self.uploads.window(WINDOW)
    }

    /// Opens a session channel, or refuses it.
    pub(super) async fn open(
        &mut self,
        channel: Channel<server::Msg>,
        open: ChannelOpenHandle,
        server: server::Handle,
    ) {
        self.prune();
        let id = channel.id();
        // Everything comes through the callbacks; the library's own queue would only stop it when nobody reads.
        let (_, write) = channel.split();
        let gone = CancellationToken::new();
        let entry = match &self.leads {
            Leads::Nowhere => return open.reject(ChannelOpenFailure::AdministrativelyProhibited).await,
            Leads::Into(session, way) => {
                if self.table.len() >= session.limits().channels {
                    drop(note_open(session, asked(id, "session"), Err(TOO_MANY)));
                    return open.reject(ChannelOpenFailure::ResourceShortage).await;
                }
                let opened = note_open(session, asked(id, "session"), Ok(()));
                let (up, queue) = mpsc::unbounded_channel();
                let home = Home::new(Arc::clone(session), up);
                let backlog = Backlog::within(&self.uploads, session.limits().backlog_max);
                let (overrun, shape) = (CancellationToken::new(), Arc::new(Shape::default()));
                let content = match way {
                    Way::Target(grant) => grant.content(),
                    Way::Portal(_) => Content::Full,
                };
                let files = Arc::new(Files::new(id.number(), content));
                let outer = Outer {
                    session: Arc::clone(session),
                    guide: home.guide(),
                    chan: id.number(),
                    id,
                    write,
                    server,
                    up: queue,
                    backlog: Arc::clone(&backlog),
                    gone: gone.clone(),
                    overrun: overrun.clone(),
                    shape: Arc::clone(&shape),
                    files: Arc::clone(&files),
                };
                match way {
                    Way::Target(grant) => session.tasks().spawn(relay::run(outer, grant.clone(), open, opened)),
                    Way::Portal(desk) => session.tasks().spawn(desk::run(outer, Arc::clone(desk), open, opened)),
                };
                let flow = ChannelFlow::default();
                Entry::Live(Box::new(Live { home, flow, backlog, overrun, shape, files, _gone: gone.drop_guard() }))
            }
            Leads::Away(text) => {
                // Without a terminal a carriage return would show; with one its absence merely looks odd.
                let text = line(&format!("casemate: {text}"), false);
                let program = CancellationToken::new();
                let (asked, left) = (program.clone(), gone.clone());
                tokio::spawn(async move {
                    open.accept().await;
                    tokio::select! {
                        () = asked.cancelled() => {}
                        () = left.cancelled() => {}
                        () = sleep(DOOM) => {}
                    }
                    last_words(&write, Some(text), Some(FAILED), &left).await;
                });
                Entry::Doomed { program, _gone: gone.drop_guard() }
            }
        };
        self.table.insert(id, entry);
    }

    /// Opens a channel to a destination: with another SSH connection in it, or not at all.
    pub(super) async fn open_direct(
        &mut self,
        channel: Channel<server::Msg>,
        wanted: Direct<'_>,
        open: ChannelOpenHandle,
    ) {
        self.prune();
        let id = channel.id();
        let event = asked(id, "direct-tcpip")
            .with(chan_open::HOST, clip(wanted.host.as_bytes()))
            .with(chan_open::PORT, wanted.port)
            .with(chan_open::ORIGIN_HOST, clip(wanted.origin_host.as_bytes()))
            .with(chan_open::ORIGIN_PORT, wanted.origin_port);
        let (session, desk) = match &self.leads {
            Leads::Into(session, Way::Portal(desk)) => (session, desk),
            Leads::Into(session, Way::Target(_)) => {
                drop(note_open(session, event, Err("nothing is forwarded; ssh -J goes without a target in the login")));
                return open.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            }
            Leads::Nowhere | Leads::Away(_) => {
                return open.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            }
        };
        if self.table.len() >= session.limits().channels {
            drop(note_open(session, event, Err(TOO_MANY)));
            return open.reject(ChannelOpenFailure::ResourceShortage).await;
        }
        let jump = match desk.jump(session, &wanted) {
            Ok(jump) => jump,
            Err(why) => {
                drop(note_open(session, event, Err(&why)));
                return open.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            }
        };
        let opened = note_open(session, event, Ok(()));
        let (_, write) = channel.split();
        let gone = CancellationToken::new();
        let (inlet, pipe) = Pipe::new(&write, &self.uploads, session.limits().backlog_max);
        session.tasks().spawn(jump.run(write, pipe, gone.clone(), open, opened));
        self.table.insert(id, Entry::Tunnel { inlet, _gone: gone.drop_guard() });
    }

    /// Forgets channels whose relay is over. The library never tells of a close that we began.
    fn prune(&mut self) {
        self.table.retain(|_, entry| match entry {
            Entry::Live(live) => !live.home.lock().1.is_closed(),
            Entry::Tunnel { inlet, .. } => !inlet.is_closed(),
            Entry::Doomed { .. } => true,
        });
    }

    /// The entry of a channel whose relay still takes something.
    fn live(&mut self, id: ChannelId) -> Option<&mut Live> {
        match self.table.get_mut(&id) {
            Some(Entry::Live(live)) if !live.home.lock().1.is_closed() => Some(live),
            _ => None,
        }
    }

    /// Puts a request to the channel's rules, the record and the target, and returns whether it succeeded.
    pub(super) async fn ask(&mut self, id: ChannelId, ask: Ask<'_>, request: Request) -> bool {
        if let Some(Entry::Doomed { program, .. }) = self.table.get(&id) {
            if request.starts_program() {
                program.cancel();
            }
            return true;
        }
        let Some(live) = self.live(id) else { return false };
        let name = request.name();
        let fits = request.text_len() <= TEXT_LEN_MAX;
        let verdict = if fits { live.flow.ask(ask) } else { Err(Refusal::TooLong) };
        let event = request.event(id.number(), verdict.is_ok());
        let (answer, answered) = oneshot::channel();
        let session = {
            let home = live.home.lock();
            let (session, up) = &*home;
            session.recent().push(event.clone());
            let ticket = session.record(Side::Client, event);
            if let Err(refusal) = verdict {
                drop(ticket);
                note_refused(session, id.number(), name, &refusal.to_string());
                return false;
            }
            // Before the request goes: its program may end before the answer is seen here.
            live.note_shape();
            if request.starts_program() {
                live.files.listen(session.recording(), request.tap(id.number(), live.flow.has_pty()));
            }
            let _ = up.send(Up::Ask { request, ticket, answer });
            Arc::clone(session)
        };
        let answered = tokio::select! {
            answered = timeout(session.limits().reply, answered) => answered,
            _ = session.ended() => return false,
        };
        let success = match answered {
            Ok(Ok(Answer { success, ticket })) => ticket.receipt().await.is_ok() && success,
            // The target is gone.
            Ok(Err(_)) => false,
            Err(_) => {
                let why = format!("no answer from the target within {} s", session.limits().reply.as_secs());
                note_refused(&session, id.number(), name, &why);
                false
            }
        };
        if !success {
            live.flow.refused_by_target(ask);
            live.files.stop();
            live.note_shape();
        }
        success
    }

    /// Passes on a request that has no answer.
    pub(super) fn tell(&mut self, id: ChannelId, request: Told, event: Event) {
        if let Some(live) = self.live(id) {
            let home = live.home.lock();
            let (session, up) = &*home;
            session.recent().push(event.clone());
            let ticket = session.record(Side::Client, event);
            let _ = up.send(Up::Tell { request, ticket });
        }
    }

    /// Passes on standard input.
    pub(super) fn data(&mut self, id: ChannelId, data: &[u8]) {
        if let Some(Entry::Tunnel { inlet, .. }) = self.table.get(&id) {
            if inlet.push(data).is_err() {
                self.table.remove(&id);
            }
            return;
        }
        let Some(live) = self.live(id) else { return };
        let home = live.home.lock();
        let (session, up) = &*home;
        if let Err(refusal) = live.flow.ask(Ask::Data) {
            return note_refused(session, id.number(), "data", &refusal.to_string());
        }
        for piece in data.chunks(STREAM_LEN_MAX) {
            let held = live.backlog.hold(piece.len());
            let piece = Bytes::copy_from_slice(piece);
            let ticket = live.files.record(session.recording(), Side::Client, ssh_in::TYPE, piece);
            let _ = up.send(Up::Data { ticket, held });
        }
        if live.backlog.exceeds_limit() {
            live.overrun.cancel();
        }
    }

    /// Passes on that the client sends no more.
    pub(super) fn eof(&mut self, id: ChannelId) {
        if let Some(Entry::Tunnel { inlet, .. }) = self.table.get_mut(&id) {
            return inlet.end();
        }
        if let Some(live) = self.live(id)
            && live.flow.eof()
        {
            live.shape.client_eof.store(true, Ordering::SeqCst);
            let home = live.home.lock();
            let (session, up) = &*home;
            let ticket = session.record(Side::Client, Event::map(eof::TYPE, id.number()).with(eof::SIDE, 0u32));
            let _ = up.send(Up::Eof { ticket });
        }
    }

    /// Passes on that the client closed the channel, and forgets it.
    pub(super) fn close(&mut self, id: ChannelId) {
        if let Some(live) = self.live(id) {
            let home = live.home.lock();
            let (session, up) = &*home;
            let event = Event::map(chan_close::TYPE, id.number()).with(chan_close::SIDE, 0u32);
            let _ = up.send(Up::Close { ticket: session.record(Side::Client, event) });
        }
        self.table.remove(&id);
    }
}

fn note_refused(session: &Session, chan: u32, what: &str, why: &str) {
    let event = Event::map(refused::TYPE, chan).with(refused::WHAT, what.as_bytes()).with(refused::REASON, why);
    drop(session.record(Side::Client, event));
}

/// Begins the record of a channel that was asked for.
pub(super) fn asked(id: ChannelId, kind: &'static str) -> Event {
    Event::map(chan_open::TYPE, id.number()).with(chan_open::KIND, kind)
}

pub(super) fn note_open(session: &Session, event: Event, outcome: Result<(), &str>) -> Ticket {
    let event = event.with(chan_open::ACCEPTED, outcome.is_ok());
    session.record(
        Side::Client,
        match outcome {
            Ok(()) => event,
            Err(why) => event.with(chan_open::REASON, why),
        },
    )
}
