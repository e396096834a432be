//! The channels of one client connection: what a client asks of them meets their rules, the record and the relay.
//!
//! One table, used from the library's callbacks alone. Nothing here waits but a request, for the target's answer.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use casemate_recorder::Ticket;
use casemate_recorder::transcript::event::{Event, STREAM_LEN_MAX, Side, chan_close, chan_open, eof, refused};
use russh::server::{self, ChannelOpenHandle};
use russh::{Channel, ChannelId, ChannelOpenFailure, ChannelWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::arrivals::{Slot, Slots};
use super::backlog::Backlog;
use super::desk::{self, Desk};
use super::farewell::{DOOM, FAILED, last_words, line};
use super::files::Files;
use super::flow::{Ask, ChannelFlow, Refusal, TEXT_LEN_MAX, clip};
use super::jump::Direct;
use super::listeners::{Front, Listeners};
use super::outlet::Answer;
use super::passage::{Passage, Place};
use super::pipe::{Inlet, Pipe};
use super::reach;
use super::relay::{Outer, Shape};
use super::said::{Request, Told, Up};
use super::settings::WINDOW;
use super::tape::Tape;
use crate::config::Content;
use crate::policy::Grant;
use crate::session::Session;

/// Why one more channel is refused.
pub(super) const TOO_MANY: &str = "more channels than limits.channels";

/// Channels at once of somebody who is told why there is nothing: all say the same.
const DOOMED_MAX: usize = 10;

/// Why a connection is not forwarded.
const NOT_NAMED: &str = "nothing is forwarded there by the access line; ssh -J goes without a target in the login";

/// Why the target does not listen.
const NOT_BACK: &str = "nothing is forwarded back from there by the access line";

/// Why nothing passes for somebody who named no target.
const NOT_HERE: &str = "nothing is forwarded by the bastion itself";

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
    /// Another connection is inside, and has a place too: it leaves it when it has ended the channel.
    Tunnel {
        inlet: Inlet,
        slot: Slot,
        _gone: DropGuard,
    },
    /// It will be told why there is nothing for it.
    Doomed {
        program: CancellationToken,
        slot: Slot,
        _gone: DropGuard,
    },
}

/// The callbacks' end of a channel that leads to a relay.
pub(super) struct Live {
    /// Its number in the record.
    chan: u32,
    home: Home,
    flow: ChannelFlow,
    backlog: Arc<Backlog>,
    overrun: CancellationToken,
    shape: Arc<Shape>,
    tape: Arc<Tape>,
    _slot: Slot,
    /// Tells the relay when this entry goes, whatever the reason.
    _gone: DropGuard,
}

/// What all channels of a connection have in common.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) session: Arc<Session>,
    pub(super) server: server::Handle,
    /// Cancelled when the connection is over.
    pub(super) here: CancellationToken,
    pub(super) slots: Slots,
    /// Counts what clients send, over all channels.
    uploads: Arc<Backlog>,
}

impl Common {
    /// Makes both ends of a channel: the callbacks', and the relay's.
    pub(super) fn ends(
        &self,
        id: ChannelId,
        chan: u32,
        write: ChannelWriteHalf<server::Msg>,
        tape: &Arc<Tape>,
        slot: Slot,
    ) -> (Live, Outer) {
        let (up, queue) = mpsc::unbounded_channel();
        let home = Home::new(Arc::clone(&self.session), up);
        let backlog = Backlog::within(&self.uploads, self.session.limits().backlog_max);
        let (overrun, shape, gone) = (CancellationToken::new(), Arc::new(Shape::default()), self.here.child_token());
        let outer = Outer {
            session: Arc::clone(&self.session),
            guide: home.guide(),
            chan,
            id,
            write,
            server: self.server.clone(),
            up: queue,
            backlog: Arc::clone(&backlog),
            gone: gone.clone(),
            overrun: overrun.clone(),
            shape: Arc::clone(&shape),
            tape: Arc::clone(tape),
            _slot: slot.clone(),
        };
        let flow = if tape.is_forward() { ChannelFlow::forward() } else { ChannelFlow::default() };
        let tape = Arc::clone(tape);
        let live = Live { chan, home, flow, backlog, overrun, shape, tape, _slot: slot, _gone: gone.drop_guard() };
        (live, outer)
    }
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
    slots: Slots,
    listeners: Listeners,
    /// Cancelled when the connection is over.
    here: CancellationToken,
    _here: DropGuard,
}

impl Channels {
    /// Starts without any, before login; `uploads` counts what clients send, over all channels.
    pub(super) fn new(uploads: Arc<Backlog>) -> Self {
        let here = CancellationToken::new();
        Self {
            leads: Leads::Nowhere,
            table: HashMap::new(),
            uploads,
            slots: Slots::default(),
            listeners: Listeners::default(),
            _here: here.clone().drop_guard(),
            here,
        }
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

    fn common(&self, session: &Arc<Session>, server: server::Handle) -> Common {
        Common {
            session: Arc::clone(session),
            server,
            here: self.here.clone(),
            slots: self.slots.clone(),
            uploads: Arc::clone(&self.uploads),
        }
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
        let entry = match &self.leads {
            Leads::Nowhere => return open.reject(ChannelOpenFailure::AdministrativelyProhibited).await,
            Leads::Into(session, way) => {
                let Some(slot) = self.slots.take(session.limits().channels) else {
                    drop(note_open(session, asked(id, "session"), Err(TOO_MANY)));
                    return open.reject(ChannelOpenFailure::ResourceShortage).await;
                };
                let opened = note_open(session, asked(id, "session"), Ok(()));
                let content = match way {
                    Way::Target(grant) => grant.content(),
                    Way::Portal(_) => Content::Full,
                };
                let tape = Arc::new(Tape::program(Files::new(id.number(), content)));
                let (live, outer) = self.common(session, server).ends(id, id.number(), write, &tape, slot);
                match way {
                    Way::Target(grant) => session.tasks().spawn(reach::run(outer, grant.clone(), open, opened)),
                    Way::Portal(desk) => session.tasks().spawn(desk::run(outer, Arc::clone(desk), open, opened)),
                };
                Entry::Live(Box::new(live))
            }
            Leads::Away(text) => {
                let Some(slot) = self.slots.take(DOOMED_MAX) else {
                    return open.reject(ChannelOpenFailure::ResourceShortage).await;
                };
                // Without a terminal a carriage return would show; with one its absence merely looks odd.
                let text = line(&format!("casemate: {text}"), false);
                let (program, gone) = (CancellationToken::new(), self.here.child_token());
                let (asked, left, place) = (program.clone(), gone.clone(), slot.clone());
                tokio::spawn(async move {
                    let _place = place;
                    open.accept().await;
                    tokio::select! {
                        () = asked.cancelled() => {}
                        () = left.cancelled() => {}
                        () = sleep(DOOM) => {}
                    }
                    last_words(&write, Some(text), Some(FAILED), &left).await;
                });
                Entry::Doomed { program, slot, _gone: gone.drop_guard() }
            }
        };
        self.table.insert(id, entry);
    }

    /// Opens a channel to a destination: at the portal with another SSH connection in it, else forwarded by the target, or
    /// not at all.
    pub(super) async fn open_direct(
        &mut self,
        channel: Channel<server::Msg>,
        wanted: Direct<'_>,
        open: ChannelOpenHandle,
        server: server::Handle,
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
            Leads::Into(_, Way::Target(_)) => {
                let place = Place::Tcp { host: wanted.host.to_owned(), port: wanted.port };
                let origin = Some((wanted.origin_host.to_owned(), wanted.origin_port));
                return self.open_forward(channel, Passage { back: false, place, origin }, open, server).await;
            }
            Leads::Nowhere | Leads::Away(_) => {
                return open.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            }
        };
        let Some(slot) = self.slots.take(session.limits().channels) else {
            drop(note_open(session, event, Err(TOO_MANY)));
            return open.reject(ChannelOpenFailure::ResourceShortage).await;
        };
        let jump = match desk.jump(session, &wanted) {
            Ok(jump) => jump,
            Err(why) => {
                drop(note_open(session, event, Err(&why)));
                return open.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            }
        };
        let opened = note_open(session, event, Ok(()));
        let (_, write) = channel.split();
        let gone = self.here.child_token();
        let (inlet, pipe) = Pipe::new(&write, &self.uploads, session.limits().backlog_max);
        session.tasks().spawn(jump.run(write, pipe, gone.clone(), slot.clone(), open, opened));
        self.table.insert(id, Entry::Tunnel { inlet, slot, _gone: gone.drop_guard() });
    }

    /// Opens a connection that the target makes, where the access line names the place.
    pub(super) async fn open_forward(
        &mut self,
        channel: Channel<server::Msg>,
        passage: Passage,
        open: ChannelOpenHandle,
        server: server::Handle,
    ) {
        self.prune();
        let id = channel.id();
        let Leads::Into(session, way) = &self.leads else {
            return open.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
        };
        let event = passage.asked(id.number());
        let grant = match way {
            Way::Target(grant) if passage.place.is_connected_by(grant.forwards()) => grant,
            Way::Target(_) | Way::Portal(_) => {
                let why = if matches!(way, Way::Portal(_)) { NOT_HERE } else { NOT_NAMED };
                drop(note_open(session, event, Err(why)));
                return open.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            }
        };
        let Some(slot) = self.slots.take(session.limits().channels) else {
            drop(note_open(session, event, Err(TOO_MANY)));
            return open.reject(ChannelOpenFailure::ResourceShortage).await;
        };
        let opened = note_open(session, event, Ok(()));
        let (_, write) = channel.split();
        let tape = Arc::new(Tape::forward(id.number(), passage));
        let (live, outer) = self.common(session, server).ends(id, id.number(), write, &tape, slot);
        session.tasks().spawn(reach::run(outer, grant.clone(), open, opened));
        self.table.insert(id, Entry::Live(Box::new(live)));
    }

    /// Takes in a channel that was opened towards the client and that it let in; `false` for one that nobody opened.
    pub(super) async fn meet(&mut self, id: ChannelId) -> bool {
        let Some(session) = self.session().filter(|_| !self.table.contains_key(&id)) else { return false };
        let live = tokio::select! {
            biased;
            // Whoever opened it has turned back, and the connection ends.
            _ = session.ended() => return true,
            live = self.listeners.meet(id) => live,
        };
        let Some(live) = live else { return false };
        self.table.insert(id, Entry::Live(Box::new(live)));
        true
    }

    /// Lets the target listen for connections towards the client, where the access line names the place; returns the port.
    pub(super) async fn listen(&mut self, place: Place, server: server::Handle) -> Option<u32> {
        let Leads::Into(session, way) = &self.leads else { return None };
        let grant = match way {
            Way::Target(grant) if place.is_listened_at_by(grant.forwards()) => grant.clone(),
            Way::Target(_) | Way::Portal(_) => {
                let why = if matches!(way, Way::Portal(_)) { NOT_HERE } else { NOT_BACK };
                note_refused(session, 0, &format!("{} of {place}", place.listen_request(false)), why);
                return None;
            }
        };
        let front = Front { common: self.common(session, server), grant };
        self.listeners.listen(front, place).await
    }

    /// Lets the target listen there no more, and returns whether it did.
    pub(super) async fn listen_no_more(&mut self, place: &Place) -> bool {
        match &self.leads {
            Leads::Into(session, _) => self.listeners.stop(session, place).await,
            Leads::Nowhere | Leads::Away(_) => false,
        }
    }

    /// Forgets channels whose relay is over. The library never tells of a close that we began.
    fn prune(&mut self) {
        self.table.retain(|_, entry| match entry {
            Entry::Live(live) => !live.home.lock().1.is_closed(),
            Entry::Tunnel { slot, .. } | Entry::Doomed { slot, .. } => !slot.is_left(),
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
        let event = request.event(live.chan, verdict.is_ok());
        let (answer, answered) = oneshot::channel();
        let session = {
            let home = live.home.lock();
            let (session, up) = &*home;
            session.recent().push(event.clone());
            let ticket = session.record(Side::Client, event);
            if let Err(refusal) = verdict {
                drop(ticket);
                note_refused(session, live.chan, name, &refusal.to_string());
                return false;
            }
            // Before the request goes: its program may end before the answer is seen here.
            live.note_shape();
            if request.starts_program() {
                live.tape.listen(session.recording(), request.tap(live.chan, live.flow.has_pty()));
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
                note_refused(&session, live.chan, name, &why);
                false
            }
        };
        if !success {
            live.flow.refused_by_target(ask);
            live.tape.stop();
            live.note_shape();
        }
        success
    }

    /// Passes on a request that has no answer.
    pub(super) fn tell(&mut self, id: ChannelId, request: Told, event: Event) {
        if let Some(live) = self.live(id)
            && live.flow.hears()
        {
            let home = live.home.lock();
            let (session, up) = &*home;
            session.recent().push(event.clone());
            let held = live.backlog.hold_item();
            let ticket = session.record(Side::Client, event);
            let _ = up.send(Up::Tell { request, ticket, held });
            if live.backlog.exceeds_limit() {
                live.overrun.cancel();
            }
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
            return note_refused(session, live.chan, "data", &refusal.to_string());
        }
        for piece in data.chunks(STREAM_LEN_MAX) {
            let held = live.backlog.hold(piece.len());
            let piece = Bytes::copy_from_slice(piece);
            let ticket = live.tape.input(session.recording(), piece);
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
            let ticket = session.record(Side::Client, Event::map(eof::TYPE, live.chan).with(eof::SIDE, 0u32));
            let _ = up.send(Up::Eof { ticket });
        }
    }

    /// Passes on that the client closed the channel, and forgets it.
    pub(super) fn close(&mut self, id: ChannelId) {
        if let Some(live) = self.live(id) {
            let home = live.home.lock();
            let (session, up) = &*home;
            let event = Event::map(chan_close::TYPE, live.chan).with(chan_close::SIDE, 0u32);
            let _ = up.send(Up::Close { ticket: session.record(Side::Client, event) });
        }
        self.table.remove(&id);
    }
}

pub(super) fn note_refused(session: &Session, chan: u32, what: &str, why: &str) {
    let event = Event::map(refused::TYPE, chan).with(refused::WHAT, clip(what.as_bytes())).with(refused::REASON, why);
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
