//! A PostgreSQL connection up to its session, whoever carries it.
//!
//! Agrees on TLS and version, asks who it is, and opens the session that `work` serves. What a client is told before it has one
//! says nothing about who or what exists.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use casemate_recorder::SessionId;
use tokio::io::AsyncWriteExt;

use super::codec::{Complaint, FEATURE_NOT_SUPPORTED, INVALID_AUTHORIZATION, TOO_MANY_CONNECTIONS};
use super::front::{Carrier, Errand, Front, Refusal, open, turn_away};
use super::live::cancel;
use super::login::{identify, wanted};
use super::parameters::Wishes;
use super::startup::{Security, Startup};
use super::tls::ServerTls;
use crate::config::{Target, TargetKind};
use crate::policy::{Grant, Identity};
use crate::server::{Door, Slot};
use crate::session::{Introduction, Purpose, Session};

/// SQLSTATE of a database that is not there to be had.
const INVALID_CATALOG_NAME: &str = "3D000";

/// Where a connection comes from, and what that says about it.
pub(crate) struct Approach {
    /// The address of the client.
    pub(crate) source: SocketAddr,
    /// What protects it so far.
    pub(crate) security: Security,
    /// The SSH connection that it comes through.
    pub(crate) tunnel: Option<Tunnel>,
}

/// The SSH connection that carries a connection here.
pub(crate) struct Tunnel {
    /// Who holds it.
    pub(crate) identity: Identity,
    /// The session of it.
    pub(crate) portal: SessionId,
    /// Where it leads.
    pub(crate) target: Arc<Target>,
}

/// A session that may begin.
pub(crate) struct Admitted {
    pub(super) front: Front,
    pub(super) startup: Startup,
    pub(super) wishes: Wishes,
    pub(super) session: Arc<Session>,
    pub(super) slot: Slot,
    pub(super) grant: Grant,
    pub(super) database: Bytes,
}

/// Serves a connection up to the beginning of its session, or to its end if it gets none. The caller sets the deadline.
pub(crate) async fn admit(carrier: Box<dyn Carrier>, approach: &Approach, door: &Door) -> Option<Box<Admitted>> {
    let tls = door.policy().config().postgres.as_ref().map(|front| Arc::clone(&front.tls));
    let (mut front, startup) = match open(carrier, approach.security, tls.as_deref()).await {
        Ok(Errand::Session(front, startup)) => (front, startup),
        Ok(Errand::Cancel(request, tls)) => {
            cancel(&request, approach.source, tls, door).await;
            return None;
        }
        Err(why) => {
            door.note_login(approach.source, None, "none", None, Err(&why));
            return None;
        }
    };
    match begin(&mut front, &startup, approach, door, tls.as_deref()).await {
        Ok((session, slot, grant, wishes, database)) => {
            Some(Box::new(Admitted { front, startup, wishes, session, slot, grant, database }))
        }
        Err(refusal) => {
            if let Refusal::Told(complaint) = refusal {
                turn_away(&mut front.stream, &complaint).await;
            }
            None
        }
    }
}

/// Asks who it is, decides what they may have and opens the session.
async fn begin(
    front: &mut Front,
    startup: &Startup,
    approach: &Approach,
    door: &Door,
    tls: Option<&ServerTls>,
) -> Result<(Arc<Session>, Slot, Grant, Wishes, Bytes), Refusal> {
    let source = approach.source;
    let note = |login: Option<&str>, method, key: Option<&str>, outcome: Result<(), &str>| {
        door.note_login(source, login, method, key, outcome);
    };
    if let Some(negotiation) = startup.negotiation() {
        front.stream.write_all(&negotiation).await?;
    }
    let wishes = Wishes::of(startup).inspect_err(|complaint| note(None, "none", None, Err(&complaint.message)))?;
    let login = wishes.login.as_str();
    let policy = door.policy();
    let identity = match identify(front, &wishes, approach, door, &policy, tls).await {
        Ok(identity) => identity,
        Err((method, why, refusal)) => {
            note(Some(login), method, None, Err(&why));
            return Err(refusal);
        }
    };
    let (method, key) = (identity.method(), identity.fingerprint().to_owned());
    let denied = |why: &str, complaint: Complaint| {
        door.note_login(source, Some(login), method, Some(&key), Err(why));
        Refusal::Told(complaint)
    };
    let wanted = wanted(&wishes, approach).ok_or_else(|| {
        denied(
            "malformed login name",
            Complaint::new(INVALID_AUTHORIZATION, "the user is not of the form PERSON+TARGET+ROLE"),
        )
    })?;
    let grant = policy
        .authorize(&identity, &wanted, TargetKind::Pg)
        .map_err(|denial| denied(&denial.to_string(), Complaint::new(INVALID_AUTHORIZATION, denial.client_text())))?;
    if wishes.replication.is_some() && !grant.replication() {
        let complaint = Complaint::new(FEATURE_NOT_SUPPORTED, "the replication protocol is not granted");
        return Err(denied(
            "replication is not granted",
            complaint.hint("ask for replication = true in the access line"),
        ));
    }
    let service = grant.target().pg().ok_or_else(|| {
        denied("the target speaks no PostgreSQL", Complaint::new(INVALID_AUTHORIZATION, "access denied"))
    })?;
    let Some(database) = service.database(wishes.database.as_deref()).map(Bytes::from) else {
        let complaint = match &wishes.database {
            Some(named) => {
                let named = String::from_utf8_lossy(named);
                Complaint::new(INVALID_CATALOG_NAME, format!("database \"{named}\" is not open here"))
            }
            None => Complaint::new(INVALID_CATALOG_NAME, "no database was named").hint("name one: dbname=NAME"),
        };
        return Err(denied("the database is not open", complaint));
    };
    let software = wishes.settings.iter().find(|(name, _)| name.eq_ignore_ascii_case(b"application_name"));
    let introduction = Introduction {
        software: software.map(|(_, value)| value.to_vec()).unwrap_or_default(),
        notice: String::new(),
        portal: approach.tunnel.as_ref().map(|tunnel| tunnel.portal),
    };
    // Noted once the opening is on its way to the disk: the other way round it would wait there for the note, and the client too.
    let opening = door.open(identity, Purpose::Work(grant.clone()), &policy, &introduction);
    let (opened, ()) = tokio::join!(opening, async { note(Some(login), method, Some(&key), Ok(())) });
    let (session, slot) = opened.map_err(|text| Complaint::new(TOO_MANY_CONNECTIONS, text))?;
    Ok((session, slot, grant, wishes, database))
}
