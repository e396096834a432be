//! Forwards that listen at the target (`ssh -R`): asked for on a connection of their own, and in force as long as that
//! lasts and nobody gives them up.
//!
//! The target opens a channel for each connection that it takes; it passes to the client only where its forward is in
//! force. `channels` asks the policy before anything comes here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use casemate_recorder::Frozen;
use casemate_recorder::transcript::event::{Event, Side, chan_open, fwd_listen, reply};
use russh::server;
use russh::{Channel, ChannelId, ChannelOpenFailure};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::arrivals::{Arrival, Arrivals, Numbers, Slot};
use super::backlog::Backlog;
use super::channels::{Common, Live, TOO_MANY, note_refused};
use super::client::{self, Line, connect};
use super::farewell::conclude;
use super::passage::{Passage, Place};
use super::reach::{note_dialled, note_unreachable};
use super::relay::relay;
use crate::policy::Grant;
use crate::session::{End, PanicEnds, Session};

/// Why a channel of the target's is refused although something listens there.
const NOT_IN_FORCE: &str = "no forward is in force there";

/// How long the two halves of a channel that the client let in may take to meet; the slower one is on its way already.
const MEETING: Duration = Duration::from_secs(5);

/// How long saying goodbye to the target on one channel may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// What a forward needs of the client's connection.
#[derive(Clone)]
pub(super) struct Front {
    pub(super) common: Common,
    pub(super) grant: Grant,
}

/// The forwards of one client connection.
#[derive(Default)]
pub(super) struct Listeners {
    table: Vec<Listener>,
    numbers: Numbers,
    meeting: Arc<Meeting>,
}

/// A forward that was in force when it was looked at last.
struct Listener {
    place: Place,
    chan: u32,
    /// Takes where to say that it was given up.
    stop: mpsc::Sender<oneshot::Sender<bool>>,
}

/// Where a channel that the bastion opened towards a client comes to the callbacks: the library names it to both sides
/// only when the client has let it in.
#[derive(Default)]
struct Meeting {
    table: Mutex<HashMap<ChannelId, Live>>,
    brought: Notify,
}

impl Meeting {
    fn bring(&self, id: ChannelId, live: Live) {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).insert(id, live);
        self.brought.notify_one();
    }

    fn look(&self, id: ChannelId) -> Option<Live> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }

    /// Takes what was brought. One callback waits at a time.
    async fn take(&self, id: ChannelId) -> Live {
        loop {
            if let Some(live) = self.look(id) {
                return live;
            }
            self.brought.notified().await;
        }
    }
}

impl Listeners {
    /// Returns the callbacks' end of a channel that the client has let in; `None` for one that nobody opens.
    pub(super) async fn meet(&self, id: ChannelId) -> Option<Live> {
        timeout(MEETING, self.meeting.take(id)).await.ok()
    }

    /// Lets the target listen at a place that the policy names, and returns the port; `None` where it does not.
    pub(super) async fn listen(&mut self, front: Front, place: Place) -> Option<u32> {
        self.table.retain(|listener| !listener.stop.is_closed());
        let session = Arc::clone(&front.common.session);
        let what = place.listen_request(false);
        let Some(slot) = front.common.slots.take(session.limits().channels) else {
            note_refused(&session, 0, &format!("{what} of {place}"), TOO_MANY);
            return None;
        };
        let chan = self.numbers.next();
        let began = tokio::select! {
            biased;
            _ = session.ended() => return None,
            began = Forward::begin(front, chan, &place, self.numbers.clone(), Arc::clone(&self.meeting)) => began,
        };
        let event = place.listen_event(chan, what).with(fwd_listen::ACCEPTED, began.is_ok());
        let event = match &began {
            Ok(forward) => match (&place, &forward.place) {
                (Place::Tcp { port: 0, .. }, Place::Tcp { port, .. }) => event.with(fwd_listen::BOUND, *port),
                _ => event,
            },
            Err(why) => event.with(fwd_listen::REASON, why.as_str()),
        };
        let told = session.record(Side::Target, event).receipt().await;
        let forward = began.ok()?;
        if let Err(frozen) = told {
            session.end(End::frozen(&frozen));
            return None;
        }
        let bound = forward.place.clone();
        let (stop, stops) = mpsc::channel(1);
        session.tasks().spawn(forward.serve(stops, slot));
        self.table.push(Listener { place: bound.clone(), chan, stop });
        match bound {
            Place::Tcp { port, .. } => Some(port),
            Place::Unix { .. } => Some(0),
        }
    }

    /// Gives a forward up, and returns whether there was one and the target has let it go.
    pub(super) async fn stop(&mut self, session: &Session, place: &Place) -> bool {
        let what = place.listen_request(true);
        let known = self.table.iter().position(|listener| listener.place == *place && !listener.stop.is_closed());
        let Some(listener) = known.map(|at| self.table.swap_remove(at)) else {
            note_refused(session, 0, &format!("{what} of {place}"), NOT_IN_FORCE);
            return false;
        };
        let stopped = async {
            let ticket = session.record(Side::Client, place.listen_event(listener.chan, what));
            drop(ticket.receipt().await?);
            let (answer, answered) = oneshot::channel();
            let _ = listener.stop.send(answer).await;
            let stopped = answered.await.unwrap_or(false);
            let event = place.listen_event(listener.chan, what).with(fwd_listen::ACCEPTED, stopped);
            drop(session.record(Side::Target, event).receipt().await?);
            Ok(stopped)
        };
        tokio::select! {
            biased;
            _ = session.ended() => false,
            stopped = stopped => stopped.unwrap_or_else(|frozen: Frozen| {
                session.end(End::frozen(&frozen));
                false
            }),
        }
    }
}

/// A forward that is in force.
struct Forward {
    front: Front,
    /// Its number in the record.
    chan: u32,
    /// With the port that the target chose.
    place: Place,
    line: Line,
    arriving: mpsc::UnboundedReceiver<Arrival>,
    meeting: Arc<Meeting>,
}

impl Forward {
    /// Asks the target; the error is the reason, for the record.
    async fn begin(
        front: Front,
        chan: u32,
        place: &Place,
        numbers: Numbers,
        meeting: Arc<Meeting>,
    ) -> Result<Self, String> {
        let (session, grant) = (&front.common.session, &front.grant);
        let (recording, limits) = (session.recording(), session.limits());
        let froze = |frozen: Frozen| {
            session.end(End::frozen(&frozen));
            frozen.to_string()
        };
        let asked = session.record(Side::Client, place.listen_event(chan, place.listen_request(false)));
        drop(asked.receipt().await.map_err(froze)?);
        let backlog = Backlog::new(limits.backlog);
        let (arrivals, arriving) = Arrivals::new(recording, &numbers, &front.common.slots, limits.channels, &backlog);
        let channels = client::Channels::Back(arrivals);
        let line = connect(grant, limits, recording, chan, channels, backlog).await.map_err(|error| {
            note_unreachable(session, grant.target(), chan, &error);
            error.to_string()
        })?;
        drop(note_dialled(session, chan, &line).receipt().await.map_err(froze)?);
        let bound = match timeout(limits.reply, line.listen(place)).await {
            Ok(Ok(port)) => place.at_port(port),
            Ok(Err(error)) => return Err(format!("the target does not listen there: {error}")),
            Err(_) => return Err(format!("no answer from the target within {} s", limits.reply.as_secs())),
        };
        Ok(Self { place: bound, front, chan, line, arriving, meeting })
    }

    /// Serves what the target opens until the forward was given up and its last connection is over, or an end is near.
    async fn serve(mut self, mut stops: mpsc::Receiver<oneshot::Sender<bool>>, _slot: Slot) {
        let session = Arc::clone(&self.front.common.session);
        let _guard = PanicEnds(Arc::clone(&session));
        let (reply_limit, passing) = (session.limits().reply, TaskTracker::new());
        let mut in_force = true;
        loop {
            tokio::select! {
                biased;
                _ = session.ended() => break,
                () = self.front.common.here.cancelled() => break,
                Some(answer) = stops.recv() => {
                    in_force = false;
                    let stopped = timeout(reply_limit, self.line.stop(&self.place)).await;
                    let _ = answer.send(matches!(stopped, Ok(Ok(()))));
                    // What came before stays, as it would straight.
                    stops.close();
                    passing.close();
                }
                arrival = self.arriving.recv() => match arrival {
                    Some(arrival) if in_force && self.fits(&arrival) => {
                        let (front, meeting) = (self.front.clone(), Arc::clone(&self.meeting));
                        session.tasks().spawn(passing.track_future(pass(front, meeting, arrival)));
                    }
                    Some(arrival) => refuse(&session, arrival).await,
                    None => {
                        let why = "the connection to the target was lost";
                        let event = self.place.listen_event(self.chan, self.place.listen_request(false));
                        let event = event.with(fwd_listen::ACCEPTED, false).with(fwd_listen::REASON, why);
                        drop(session.record(Side::Target, event));
                        break;
                    }
                },
                () = passing.wait(), if !in_force => break,
            }
        }
        passing.close();
        passing.wait().await;
        self.line.end().await;
    }

    /// Whether a channel is one of this forward's connections.
    fn fits(&self, arrival: &Arrival) -> bool {
        arrival.tape.passage().is_some_and(|passage| match (&passage.place, &self.place) {
            (Place::Tcp { host, port }, Place::Tcp { host: own, port: bound }) => {
                host.eq_ignore_ascii_case(own) && port == bound
            }
            (Place::Unix { path }, Place::Unix { path: own }) => path == own,
            _ => false,
        })
    }
}

/// Refuses a channel that belongs to no forward.
async fn refuse(session: &Session, arrival: Arrival) {
    if let Some(passage) = arrival.tape.passage() {
        let event = passage.asked(arrival.chan).with(chan_open::ACCEPTED, false);
        drop(session.record(Side::Target, event.with(chan_open::REASON, NOT_IN_FORCE)));
    }
    arrival.reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
}

/// Opens towards the client what the target opened, and relays until either side or the session ends.
async fn pass(front: Front, meeting: Arc<Meeting>, arrival: Arrival) {
    let session = Arc::clone(&front.common.session);
    let _guard = PanicEnds(Arc::clone(&session));
    let Arrival { chan, mut leg, tape, reply, slot } = arrival;
    let Some(passage) = tape.passage() else { return };
    let opened = session.record(Side::Target, passage.asked(chan).with(chan_open::ACCEPTED, true));
    let opening = async {
        drop(opened.receipt().await.map_err(Miss::Frozen)?);
        open_towards(&front.common.server, passage).await
    };
    let channel = tokio::select! {
        biased;
        _ = session.ended() => Err(Miss::Over),
        () = front.common.here.cancelled() => Err(Miss::Over),
        channel = opening => channel,
    };
    let (channel, answer) = match channel {
        Ok(channel) => (Some(channel), Ok(())),
        Err(Miss::Refused(reason)) => (None, Err(reason)),
        Err(Miss::Over) => return reply.reject(ChannelOpenFailure::ConnectFailed).await,
        Err(Miss::Frozen(frozen)) => {
            session.end(End::frozen(&frozen));
            return reply.reject(ChannelOpenFailure::ConnectFailed).await;
        }
    };
    let outer = channel.map(|channel| {
        let (id, (_, write)) = (channel.id(), channel.split());
        let (live, outer) = front.common.ends(id, chan, write, &tape, slot);
        // Before anything else: a callback waits for it.
        meeting.bring(id, live);
        outer
    });
    let event = Event::map(reply::TYPE, chan).with(reply::TO, passage.kind()).with(reply::SUCCESS, answer.is_ok());
    let told = session.record(Side::Client, event.with(reply::SIDE, 0u32)).receipt().await;
    if let Err(frozen) = told {
        session.end(End::frozen(&frozen));
    }
    let Some(mut outer) = outer else {
        reply.reject(answer.err().unwrap_or(ChannelOpenFailure::ConnectFailed)).await;
        return tape.finish(session.recording(), "client", Some("the client refused it"));
    };
    reply.accept().await;
    let finish = relay(&mut outer, &mut leg).await;
    let (by, reason) = (finish.by(), finish.reason());
    conclude(&outer, &front.grant.target().name, finish).await;
    outer.up.close();
    drop(outer);
    leg.inbox.end();
    let _ = timeout(GOODBYE, leg.write.close()).await;
    // Not before both legs are silent: what came after it would be recorded without being counted.
    tape.finish(session.recording(), by, reason.as_deref());
}

/// Why a channel of the target's does not lead to the client.
enum Miss {
    /// The client said no.
    Refused(ChannelOpenFailure),
    /// The client or the session is gone.
    Over,
    Frozen(Frozen),
}

async fn open_towards(client: &server::Handle, passage: &Passage) -> Result<Channel<server::Msg>, Miss> {
    let opened = match &passage.place {
        Place::Tcp { host, port } => {
            let (from, from_port) = passage.origin.clone().unwrap_or_default();
            client.channel_open_forwarded_tcpip(host, *port, from, from_port).await
        }
        Place::Unix { path } => client.channel_open_forwarded_streamlocal(path).await,
    };
    opened.map_err(|error| match error {
        russh::Error::ChannelOpenFailure(reason) => Miss::Refused(reason),
        _ => Miss::Over,
    })
}
