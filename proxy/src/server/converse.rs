//! One SSH connection from its first byte to the seal of its transcript, whoever carries it.
//!
//! Keeps the deadline of the whole login, watches the session to its end, and cuts what does not end by itself.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use casemate_recorder::transcript::event::{Event, Side, refused};
use casemate_recorder::transcript::seal::CloseReason;
use russh::Disconnect;
use russh::server::{Config as ServerSettings, run_stream};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{Cut, Door, Waiting};
use crate::alerts::Kind;
use crate::session::{End, Session};
use crate::ssh::jump::Jump;
use crate::ssh::pipe::Pipe;
use crate::ssh::server::{Approach, Front, FrontError, Outcome};
use crate::ssh::wire::{Carrier, Kill, Wire};
use crate::ssh::{Backlog, settings};
use crate::target::tune;

/// How long the channels of an ending session may take for their last words.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How long a client may take to leave after its channels' last words.
const LEAVES: Duration = Duration::from_secs(1);

/// How long a disconnect message may take before the connection is cut.
const DISCONNECT: Duration = Duration::from_secs(2);

/// How long somebody who is turned away may stay to be told why.
const TURNED_AWAY: Duration = Duration::from_secs(30);

/// How long a connection inside a portal may take to end after its channel is gone: for what was sent before.
const CARRIER_GONE: Duration = Duration::from_secs(5);

type RunningSession = russh::server::RunningSession<Front>;

/// Serves a connection from the street.
pub(super) async fn street(
    stream: TcpStream,
    source: SocketAddr,
    door: Door,
    place: Waiting,
    kill: Kill,
    shutdown: CancellationToken,
) {
    let policy = door.policy();
    let local = match tune(&stream, &policy.config().limits).and_then(|()| stream.local_addr()) {
        Ok(local) => local,
        Err(error) => return tracing::debug!(%source, %error, "socket gone before it was set up"),
    };
    let settings = Arc::clone(&door.0.settings);
    let approach = Approach::Street { local };
    converse(stream, source, approach, &door, settings, Some(place), &Cut::Shutdown(shutdown), &kill).await;
}

/// Serves a connection inside a channel of a portal, until `gone` says that there is no channel any more.
pub(crate) async fn inside(pipe: Pipe, jump: Jump, door: &Door, gone: &CancellationToken) {
    let source = jump.portal.identity().source();
    let settings = match settings::server_for(door.policy().config(), &jump.target, SystemTime::now()) {
        Ok(settings) => settings,
        Err(error) => return tracing::error!(target = jump.target.name, %error, "no certificate for the target"),
    };
    let (cut, kill) = (Cut::Portal(Arc::clone(&jump.portal)), Kill::default());
    let served = converse(pipe, source, Approach::Jump(jump), door, settings, None, &cut, &kill);
    tokio::pin!(served);
    tokio::select! {
        () = &mut served => return,
        () = gone.cancelled() => {}
    }
    // It reads to the end of what came. Writers do not wake when their channel goes.
    if timeout(CARRIER_GONE, &mut served).await.is_err() {
        kill.kill();
        served.await;
    }
}

#[expect(clippy::too_many_arguments, reason = "everything that the two ways in differ in, passed on once")]
async fn converse<C: Carrier>(
    carrier: C,
    source: SocketAddr,
    approach: Approach,
    door: &Door,
    settings: Arc<ServerSettings>,
    place: Option<Waiting>,
    cut: &Cut,
    kill: &Kill,
) {
    let policy = door.policy();
    let limits = &policy.config().limits;
    let (uploads, why) = (Backlog::new(limits.backlog), Arc::new(OnceLock::new()));
    let wire = Wire::client(carrier, kill.clone(), Arc::clone(&uploads), settings::WINDOW);
    let (sender, outcome) = oneshot::channel();
    let front = Front::new(door.clone(), source, approach, uploads, sender, Arc::clone(&why));
    // One deadline from accept to login: also for whoever sends its first line a byte a minute.
    let deadline = tokio::time::Instant::now() + limits.login_grace;
    let give_up = |reason: &str| {
        let _ = why.set(reason.to_owned());
        kill.kill();
    };
    let mut running = tokio::select! {
        running = run_stream(settings, wire, front) => match running {
            Ok(running) => running,
            // The handler recorded that it went without a login.
            Err(error) => return tracing::debug!(%source, %error, "handshake failed"),
        },
        () = sleep_until(deadline) => return give_up("login grace is over"),
        end = cut.wait() => return give_up(&end.text),
    };
    let outcome = tokio::select! {
        outcome = outcome => outcome,
        () = sleep_until(deadline) => { give_up("login grace is over"); return finish(running, source).await; }
        end = cut.wait() => { give_up(&end.text); return finish(running, source).await; }
    };
    drop(place);
    match outcome {
        Ok(Outcome::Live(session, slot)) => {
            attend(&mut running, &session, kill, cut).await;
            outlast(&session, cut).await;
            slot.close(&session).await;
            drop(slot);
        }
        Ok(Outcome::TurnedAway) => {
            let _ = timeout(TURNED_AWAY, &mut running).await;
            kill.kill();
        }
        // The handler is gone without a login.
        Err(_) => finish(running, source).await,
    }
}

/// Waits for a connection that was cut.
async fn finish(running: RunningSession, source: SocketAddr) {
    if let Ok(Err(error)) = timeout(DISCONNECT, running).await {
        tracing::debug!(%source, %error, "connection ended");
    }
}

/// Waits until something ends the session, and says what.
async fn due(session: &Session, cut: &Cut) -> End {
    tokio::select! {
        end = session.ended() => end,
        frozen = session.recording().wait_frozen() => End::frozen(&frozen),
        end = cut.wait() => end,
        end = session.overdue() => end,
    }
}

/// Waits for the channels of a connection that is over. They go on without their client as long as targets take what it had
/// sent, and what ends a session ends them then too.
async fn outlast(session: &Session, cut: &Cut) {
    session.tasks().close();
    let end = tokio::select! {
        () = session.tasks().wait() => return,
        end = due(session, cut) => end,
    };
    session.end(end);
    session.tasks().wait().await;
}

/// Watches a session until its connection is over, by itself or because the session is to end.
async fn attend(running: &mut RunningSession, session: &Session, kill: &Kill, cut: &Cut) {
    let end = tokio::select! {
        result = &mut *running => return note_result(session, result),
        end = due(session, cut) => end,
    };
    session.end(end.clone());
    session.tasks().close();
    // Each channel says its last words; the connection must live for them.
    let _ = timeout(LAST_WORDS, session.tasks().wait()).await;
    // A client that was told its exit status leaves by itself; a disconnect now would overtake the line it has to show.
    if timeout(LEAVES, &mut *running).await.is_ok() {
        return;
    }
    let text = end.notice.unwrap_or_default();
    let handle = running.handle();
    let goodbye = async {
        let _ = handle.disconnect(Disconnect::ByApplication, text, String::new()).await;
        let _ = (&mut *running).await;
    };
    let _ = timeout(DISCONNECT, goodbye).await;
    kill.kill();
}

/// Keeps what the library could not take: a string that is no UTF-8, a broken packet, a panic.
fn note_result(session: &Session, result: Result<(), FrontError>) {
    let Err(error) = result else { return };
    if matches!(&error, FrontError::Library(russh::Error::IO(_) | russh::Error::HUP | russh::Error::Disconnect)) {
        // The client left without a word, as clients do.
        session.note_last(End::quiet(CloseReason::Client, format!("the client's connection was lost: {error}")));
        return;
    }
    let text = format!("the connection could not go on: {error}");
    let event =
        Event::map(refused::TYPE, 0).with(refused::WHAT, b"connection".as_slice()).with(refused::REASON, text.as_str());
    drop(session.record(Side::Client, event));
    tracing::warn!(session = %session.recording().id(), %error, "connection could not go on");
    let reason = match error {
        FrontError::Library(russh::Error::Join(_)) => {
            session.alert(Kind::TaskPanicked, "the connection's task panicked");
            CloseReason::Internal
        }
        _ => CloseReason::Client,
    };
    session.end(End::quiet(reason, text));
}
