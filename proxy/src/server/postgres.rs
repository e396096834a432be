//! PostgreSQL connections, from the street, from this machine and out of an SSH connection's channel.
//!
//! Keeps the deadline of the whole login and the place among those who have not logged in.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Cut, Door, Waiting};
use crate::config::Target;
use crate::pg::front::Carrier;
use crate::pg::server::{Approach, Tunnel, admit};
use crate::pg::startup::Security;
use crate::session::{End, Session};
use crate::target::tune;

/// Serves a connection from the street.
pub(super) async fn street(
    stream: TcpStream,
    source: SocketAddr,
    door: Door,
    place: Waiting,
    out: CancellationToken,
    shutdown: CancellationToken,
) {
    if let Err(error) = tune(&stream, &door.policy().config().limits) {
        return tracing::debug!(%source, %error, "socket gone before it was set up");
    }
    let approach = Approach { source, security: Security::Open, tunnel: None };
    serve(Box::new(stream), approach, &door, Some(place), &out, &Cut::Shutdown(shutdown)).await;
}

/// Serves a connection from a program on this machine.
pub(super) async fn socket(
    stream: UnixStream,
    source: SocketAddr,
    door: Door,
    place: Waiting,
    out: CancellationToken,
    shutdown: CancellationToken,
) {
    let approach = Approach { source, security: Security::Carried { tls: false }, tunnel: None };
    serve(Box::new(stream), approach, &door, Some(place), &out, &Cut::Shutdown(shutdown)).await;
}

/// Serves a connection inside a channel of a portal, until `gone` says that there is no channel any more.
pub(crate) async fn tunnel(
    carrier: Box<dyn Carrier>,
    portal: &Arc<Session>,
    target: &Arc<Target>,
    door: &Door,
    gone: &CancellationToken,
) {
    let tls = door.policy().config().postgres.is_some();
    let identity = portal.identity().clone();
    let source = identity.source();
    let tunnel = Tunnel { identity, portal: portal.recording().id(), target: Arc::clone(target) };
    let approach = Approach { source, security: Security::Carried { tls }, tunnel: Some(tunnel) };
    serve(carrier, approach, door, None, gone, &Cut::Portal(Arc::clone(portal))).await;
}

/// Serves a connection to its end; `out` ends it while it has no session.
async fn serve(
    carrier: Box<dyn Carrier>,
    approach: Approach,
    door: &Door,
    place: Option<Waiting>,
    out: &CancellationToken,
    cut: &Cut,
) {
    let source = approach.source;
    let grace = door.policy().config().limits.login_grace;
    let admitted = tokio::select! {
        admitted = timeout(grace, admit(carrier, &approach, door)) => match admitted {
            Ok(admitted) => admitted,
            Err(_) => return door.note_login(source, None, "none", None, Err("login grace is over")),
        },
        // Whoever made room for it has said so.
        () = out.cancelled() => return,
        End { text, .. } = cut.wait() => return door.note_login(source, None, "none", None, Err(&text)),
    };
    drop(place);
    if let Some(admitted) = admitted {
        admitted.serve(door, cut.wait()).await;
    }
}
