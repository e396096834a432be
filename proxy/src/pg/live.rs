//! What a cancel request finds: a session that runs, and the way to the target's process of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_recorder::transcript::event::{Event, Side, pg_cancel};

use tokio::time::timeout;

use super::auth::target::BackendKey;
use super::cancel::Found;
use super::client;
use super::startup::CancelRequest;
use super::tape::Tape;
use super::tls::TargetTls;
use crate::metrics::Cancelling;
use crate::policy::Grant;
use crate::server::Door;
use crate::session::Session;
use crate::target::dial;

/// How long the disk may take to hold that a session's statement is stopped with it, before it is stopped anyway.
const RECORDING: Duration = Duration::from_millis(500);

/// A session that runs, for those who want to stop what it does.
pub struct Running {
    pub(super) session: Arc<Session>,
    pub(super) tape: Arc<Tape>,
    pub(super) grant: Grant,
    pub(super) tls: Option<Arc<TargetTls>>,
    pub(super) key: BackendKey,
}

impl Running {
    /// Has the target stop what runs, because the session ends.
    pub(super) async fn halt(&self) {
        let told = |forwarded: bool, reason: &str| {
            Event::map(pg_cancel::TYPE, 0).with(pg_cancel::FORWARDED, forwarded).with(pg_cancel::REASON, reason)
        };
        // Where nothing can be recorded any more it is to stop all the same: this is no word of the person's.
        let ticket = self.session.record(Side::Target, told(true, "the session ends"));
        let _ = timeout(RECORDING, ticket.receipt()).await;
        if let Err(why) = self.cancel().await {
            drop(self.session.record(Side::Target, told(false, &why)));
        }
    }

    /// Tells the target to cancel what runs.
    async fn cancel(&self) -> Result<(), String> {
        let dialled = dial(&self.grant, self.session.limits()).await.map_err(|error| error.to_string())?;
        client::cancel(dialled.into_stream(), self.tls.as_deref(), &self.key).await.map_err(|error| error.to_string())
    }
}

/// Does what a cancel request asks for, if it names a session that runs something. Nobody is told what came of it: the client
/// waits for the end of the connection.
pub(super) async fn cancel(request: &CancelRequest, source: SocketAddr, tls: Option<&'static str>, door: &Door) {
    door.count_cancel(pass_on(request, source, tls, door).await);
}

async fn pass_on(request: &CancelRequest, source: SocketAddr, tls: Option<&'static str>, door: &Door) -> Cancelling {
    let told = |forwarded: bool, reason: &str| {
        Event::map(pg_cancel::TYPE, 0)
            .with(pg_cancel::SOURCE, source.to_string())
            .with(pg_cancel::FORWARDED, forwarded)
            .with(pg_cancel::REASON, reason)
            .with(pg_cancel::TLS, tls.unwrap_or_default())
    };
    let refused = |outcome, reason| {
        door.note_refusal(source, told(false, reason));
        outcome
    };
    let running = match door.cancels().find(request, source.ip(), Instant::now()) {
        Found::Session(running) => running,
        Found::Nobody => return refused(Cancelling::WrongKey, "no session of that address has that key"),
        Found::TooMany => return refused(Cancelling::TooMany, "too many requests from there"),
    };
    // A statement that begins while the request is on its way could be hit in the place of the one that was meant; PostgreSQL
    // has the same gap. One that begins later cannot be: requests never wait.
    if !running.tape.is_running() {
        drop(running.session.record(Side::Client, told(false, "nothing is running")));
        return Cancelling::Idle;
    }
    let ticket = running.session.record(Side::Client, told(true, "asked for with the session's key"));
    if ticket.receipt().await.is_err() {
        return Cancelling::Failed;
    }
    if let Err(why) = running.cancel().await {
        drop(running.session.record(Side::Target, told(false, &why)));
        return Cancelling::Failed;
    }
    Cancelling::Forwarded
}
