//! `ssh -J` and `ssh -L` to a database: a connection inside a channel of the portal, ended here like any other (PROTOCOL.md, Portal
//! and jumps).
//!
//! Says who may come through such a channel and with what proof; the connection itself is served like one from the street.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use casemate_recorder::Ticket;
use russh::server::ChannelOpenHandle;
use russh::{ChannelOpenFailure, ChannelWriteHalf, server};
use tokio_util::sync::CancellationToken;

use super::arrivals::Slot;
use super::pipe::Pipe;
use crate::config::{Target, TargetKind};
use crate::server::{Door, converse, postgres};
use crate::session::{PanicEnds, Session};

/// Where a client asks a channel to lead, and where it says that the bytes come from (RFC 4254 §7.2).
#[derive(Debug, Clone, Copy)]
pub(super) struct Direct<'a> {
    pub(super) host: &'a str,
    pub(super) port: u32,
    pub(super) origin_host: &'a str,
    pub(super) origin_port: u32,
}

/// Who speaks on such a channel, as far as its originator tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// OpenSSH itself, for `-J` and `-W`, or somebody on the client's machine who gave its port to their end of a connection to a
    /// forwarded port: the name is the same.
    Client,
    /// Somebody on the client's machine: everybody there can reach a forwarded port.
    Machine,
}

impl Origin {
    /// Tells from the originator; `None` for another machine.
    fn of(host: &str, port: u32) -> Option<Self> {
        // The names that OpenSSH gives to its own standard input and output (channels.c, "stdio forwarding").
        if (host, port) == ("127.0.0.1", 65_535) {
            return Some(Self::Client);
        }
        // Libraries that open the channel for themselves have no address to name, and say so in one of these ways.
        let local = host.is_empty()
            || host == "localhost"
            || host.parse().is_ok_and(|address: IpAddr| {
                let address = address.to_canonical();
                address.is_loopback() || address.is_unspecified()
            });
        local.then_some(Self::Machine)
    }
}

/// Leave to open a connection inside a portal's channel.
#[derive(Clone)]
pub(crate) struct Jump {
    door: Door,
    /// The session of the outer connection.
    pub(crate) portal: Arc<Session>,
    /// Where it leads.
    pub(crate) target: Arc<Target>,
    /// Who speaks.
    pub(crate) origin: Origin,
}

impl Jump {
    /// Decides whether a portal's channel may lead where the client asks; the error is the reason, for the record.
    pub(super) fn decide(door: &Door, portal: &Arc<Session>, wanted: &Direct<'_>) -> Result<Self, String> {
        let Some(origin) = Origin::of(wanted.origin_host, wanted.origin_port) else {
            return Err("the bytes come from another machine than the client's".to_owned());
        };
        let target = door.policy().destination(portal.identity(), wanted.host, wanted.port);
        let target = target.map_err(|denial| denial.to_string())?;
        Ok(Self { door: door.clone(), portal: Arc::clone(portal), target, origin })
    }

    /// Serves the inner connection to its end, then closes the channel and leaves its place.
    ///
    /// Boxed, because an inner connection is served by the code that serves the outer one.
    pub(super) fn run(
        self,
        write: ChannelWriteHalf<server::Msg>,
        pipe: Pipe,
        gone: CancellationToken,
        slot: Slot,
        open: ChannelOpenHandle,
        opened: Ticket,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            // The library never tells of the client's close after ours: the place is left here.
            let _slot = slot;
            let _guard = PanicEnds(Arc::clone(&self.portal));
            if opened.receipt().await.is_err() {
                // The portal ends too, and says why.
                return open.reject(ChannelOpenFailure::ConnectFailed).await;
            }
            open.accept().await;
            let door = self.door.clone();
            match self.target.kind() {
                TargetKind::Ssh => converse::inside(pipe, self, &door, &gone).await,
                TargetKind::Pg => postgres::tunnel(Box::new(pipe), &self.portal, &self.target, &door, &gone).await,
            }
            let goodbye = async {
                let _ = write.eof().await;
                let _ = write.close().await;
            };
            tokio::select! {
                () = goodbye => {}
                () = gone.cancelled() => {}
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_that_openssh_gives_itself_is_taken_for_it() {
        assert_eq!(Origin::of("127.0.0.1", 65_535), Some(Origin::Client));
        for (host, port) in [
            ("127.0.0.1", 40_000),
            ("127.0.0.2", 65_535),
            ("::1", 65_535),
            ("::ffff:127.0.0.1", 1),
            ("localhost", 0),
            ("", 0),
            ("0.0.0.0", 0),
            ("::", 0),
        ] {
            assert_eq!(Origin::of(host, port), Some(Origin::Machine), "{host}:{port}");
        }
        for host in ["192.0.2.1", "2001:db8::1", "127.0.0.1.example", "localhost.example", "UNKNOWN"] {
            assert_eq!(Origin::of(host, 65_535), None, "{host}");
        }
    }
}
