//! A session from its first event to its seal: reaches the target, greets the client and has the relay do the rest.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use casemate_recorder::transcript::event::{
    Event, Side, Value, dialled, pg_out, pg_ready, pg_startup, redacted, unreachable,
};
use casemate_recorder::{CloseReason, Frozen, Receipt, Ticket};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::auth::target::{Login, Reached, Refused};
use super::cancel::Key;
use super::client::{self, Arrived, TargetStream, Unreached, Words};
use super::codec::{CANNOT_CONNECT, Complaint, put_frame};
use super::front::Front;
use super::live::Running;
use super::parameters::{Wishes, secret_places};
use super::redact::is_secret_setting;
use super::relay::{Finish, farewell, relay};
use super::server::Admitted;
use super::startup::Startup;
use super::tape::{Rebuff, Tape, stars};
use super::tls::TargetTls;
use crate::config::{PgAuth, TargetAuth};
use crate::policy::Grant;
use crate::server::Door;
use crate::session::{End, PanicEnds, Session};
use crate::target::{Unreachable, dial};

/// How long somebody whose target cannot be had may take to read why.
const TURNED_AWAY: Duration = Duration::from_secs(5);

/// The setting that a session begins with which may not change anything.
const READ_ONLY: &[u8] = b"default_transaction_read_only";

/// Why there is no session with a target of another kind.
const NO_DATABASE: &str = "the target speaks no PostgreSQL";

impl Admitted {
    /// Serves the session to its end; `cut` is ready when somebody outside ends it.
    pub(crate) async fn serve(self, door: &Door, cut: impl Future<Output = End>) {
        let Self { front, startup, wishes, session, slot, grant, database } = self;
        // In a task of its own, so that a panic in it still leaves a transcript that is closed.
        let task = session.tasks().spawn({
            let (session, door) = (Arc::clone(&session), door.clone());
            async move {
                let _guard = PanicEnds(Arc::clone(&session));
                let work = Work { session: &session, grant: &grant, door: &door };
                if let Err(end) = work.run(front, &startup, wishes, database).await {
                    session.end(end);
                }
            }
        });
        let watch = async {
            let end = tokio::select! {
                end = cut => end,
                end = session.overdue() => end,
                frozen = session.recording().wait_frozen() => End::frozen(&frozen),
            };
            session.end(end);
            pending::<()>().await;
        };
        tokio::select! {
            _ = task => {}
            () = watch => {}
        }
        session.tasks().close();
        session.tasks().wait().await;
        slot.close(&session).await;
    }
}

/// What the steps of a session have in common.
struct Work<'a> {
    session: &'a Arc<Session>,
    grant: &'a Grant,
    door: &'a Door,
}

/// A target that took the login.
struct Line {
    reached: Reached,
    stream: TargetStream,
    tls: Option<Arc<TargetTls>>,
}

/// A target that took the login, and what the client is told of it.
struct Greeting {
    told: BytesMut,
    /// The key is good for as long as this lives; some targets have none.
    key: Option<(Key<Running>, Arc<Running>)>,
}

/// What a failed step leaves: how the session ends, and what the client reads.
type Failed = (End, Bytes);

/// Why a target cannot be had, for the record, and what the client reads of it.
struct Turned {
    why: String,
    words: Words,
}

impl Work<'_> {
    async fn run(&self, mut front: Front, startup: &Startup, wishes: Wishes, database: Bytes) -> Result<(), End> {
        let session = self.session;
        let (begun, hidden) = begun(startup, &wishes, front.tls);
        if hidden > 0 {
            let event = Event::map(redacted::TYPE, 0).with(redacted::SIDE, Side::Client as u32);
            drop(session.record(Side::Client, event.with(redacted::BYTES, hidden as u64)));
        }
        let begun = session.record(Side::Client, begun);
        let results = self.grant.target().pg().map(|service| service.results).unwrap_or_default();
        let tape = Arc::new(Tape::new(session.recording().clone(), results, self.door.statements()));
        let reaching = async {
            let line = self.reach(startup, wishes, database, begun).await?;
            let greeting = self.greeting(startup, &tape, &line).await?;
            Ok((line, greeting))
        };
        let reached = tokio::select! {
            biased;
            end = session.ended() => Err((end.clone(), farewell(&end))),
            reached = reaching => reached,
        };
        let (line, greeting) = match reached {
            Ok(reached) => reached,
            Err((end, words)) => {
                let goodbye = async {
                    let _ = front.stream.write_all(&words).await;
                    let _ = front.stream.shutdown().await;
                };
                let _ = timeout(TURNED_AWAY, goodbye).await;
                session.note_last(end);
                return Ok(());
            }
        };
        self.greet(&mut front, &greeting.told).await?;
        let running = greeting.key.as_ref().map(|(_, running)| &**running);
        let (sent, received) = (front.buffer, line.reached.leftover);
        let finish = relay(session, &tape, front.stream, line.stream, sent, received, running).await;
        tape.finish(session.age());
        session.note_last(match finish {
            Finish::Client => End::quiet(CloseReason::Client, "the client left"),
            Finish::Target => End::quiet(CloseReason::Target, "the target closed the connection"),
            Finish::Ended(end) => return Err(end),
        });
        Ok(())
    }

    /// Reaches the target and logs in there.
    async fn reach(&self, startup: &Startup, wishes: Wishes, database: Bytes, begun: Ticket) -> Result<Line, Failed> {
        let (session, grant) = (self.session, self.grant);
        drop(begun.receipt().await.map_err(|frozen| froze(&frozen))?);
        let limits = session.limits();
        let sensitive = wishes.settings.iter().any(|(name, _)| is_secret_setting(name));
        let (arrived, address) = match timeout(limits.dial, self.dial(startup, wishes, database)).await {
            Ok(Ok(reached)) => reached,
            Ok(Err(turned)) => return Err(self.turned(turned, sensitive).await),
            Err(_) => {
                let why = Unreachable::TimedOut(limits.dial);
                return Err(self.turned(Turned::ours(&why, why.client_text(&grant.target().name)), sensitive).await);
            }
        };
        let Arrived { reached, stream, peer } = arrived;
        let event = Event::map(dialled::TYPE, 0)
            .with(dialled::ADDRESS, address)
            .with(dialled::SOFTWARE, reached.server_version.as_bytes());
        drop(session.record(Side::Target, event));
        let mut event = Event::map(pg_ready::TYPE, 0)
            .with(pg_ready::VERSION, reached.server_version.as_bytes())
            .with(pg_ready::METHOD, reached.method)
            .with(pg_ready::USER, grant.role().login.as_str());
        if let Some(key) = &reached.key {
            event = event.with(pg_ready::PID, key.pid);
        }
        if let Some(peer) = peer {
            event = event.with(pg_ready::TLS, peer.version).with(pg_ready::CERTIFICATE, peer.fingerprint);
        }
        drop(session.record(Side::Target, event).receipt().await.map_err(|frozen| froze(&frozen))?);
        let TargetAuth::Pg(PgAuth { tls, .. }) = &grant.role().auth else { return Err(no_database()) };
        Ok(Line { reached, stream, tls: tls.clone() })
    }

    async fn dial(&self, startup: &Startup, wishes: Wishes, database: Bytes) -> Result<(Arrived, String), Turned> {
        let (grant, name) = (self.grant, &self.grant.target().name);
        let TargetAuth::Pg(PgAuth { tls, password }) = &grant.role().auth else {
            return Err(Turned::ours(&NO_DATABASE, NO_DATABASE));
        };
        let dialled = dial(grant, self.session.limits()).await;
        let dialled = dialled.map_err(|error| Turned::ours(&error, error.client_text(name)))?;
        let address = dialled.peer().to_string();
        let mut params = wishes.settings;
        if grant.read_only() {
            params.retain(|(name, _)| !name.eq_ignore_ascii_case(READ_ONLY));
            params.push((Bytes::from_static(READ_ONLY), Bytes::from_static(b"on")));
        }
        params.extend(wishes.replication.map(|value| (Bytes::from_static(b"replication"), value)));
        let login = Login {
            user: grant.role().login.clone(),
            database,
            password: password.clone(),
            params,
            protocol: startup.version,
        };
        let arrived = client::reach(dialled.into_stream(), tls.as_deref(), login, self.session.limits().dial).await;
        let turned = |error: Unreached| Turned { why: error.to_string(), words: error.for_client(name) };
        arrived.map(|arrived| (arrived, address)).map_err(turned)
    }

    /// Records that the target cannot be had, and returns what the client may read of it.
    async fn turned(&self, turned: Turned, sensitive: bool) -> Failed {
        let (session, target) = (self.session, self.grant.target());
        let (why, said) = match turned.words {
            Words::Ours(words) => (turned.why, Ok(words)),
            Words::Target(raw) => {
                let rebuff = Rebuff::new(raw, sensitive);
                // The reason quotes it, too.
                (Refused::Target(rebuff.shown()).to_string(), Err(rebuff.record(session.recording())))
            }
        };
        tracing::warn!(session = %session.recording().id(), target = target.name, error = why, "target unreachable");
        let event = Event::map(unreachable::TYPE, 0)
            .with(unreachable::ADDRESS, target.address())
            .with(unreachable::REASON, why.as_str());
        let told = session.record(Side::Target, event).receipt().await;
        let words = match (told, said) {
            (Ok(_), Ok(words)) => Ok(words),
            (Ok(_), Err(ticket)) => ticket.receipt().await.map(Receipt::into_bytes),
            (Err(frozen), _) => Err(frozen),
        };
        match words {
            Ok(words) => (End::quiet(CloseReason::Unreachable, why), words),
            Err(frozen) => froze(&frozen),
        }
    }

    /// Records what the target said at its login, and returns it with a key of our own in the place of its.
    async fn greeting(&self, startup: &Startup, tape: &Arc<Tape>, line: &Line) -> Result<Greeting, Failed> {
        let session = self.session;
        let greeting = session.record(Side::Target, Event::stream(pg_out::TYPE, 0, line.reached.greeting.clone()));
        let greeting = greeting.receipt().await.map_err(|frozen| froze(&frozen))?.into_bytes();
        // All of it in one write: each one wakes the client.
        let mut told = BytesMut::with_capacity(greeting.len() + 64);
        told.extend_from_slice(&greeting);
        let key = match line.reached.key.clone() {
            None => None,
            Some(key) => {
                let pid = key.pid;
                let (grant, tls) = (self.grant.clone(), line.tls.clone());
                let running =
                    Arc::new(Running { session: Arc::clone(session), tape: Arc::clone(tape), grant, tls, key });
                let source = session.identity().source().ip();
                let issued = self.door.cancels().issue(pid, startup.version, source, &running).map_err(|error| {
                    let text = "the bastion has no randomness";
                    let end = End::with_notice(CloseReason::Internal, error.to_string(), text);
                    let words = farewell(&end);
                    (end, words)
                })?;
                // The key is a secret of the access protocol: it is told and not recorded.
                put_frame(&mut told, b'K', |out| {
                    out.put_u32(pid);
                    out.put_slice(issued.told());
                });
                Some((issued, running))
            }
        };
        let mut ready = BytesMut::new();
        put_frame(&mut ready, b'Z', |out| out.put_u8(line.reached.status));
        let ready = session.record(Side::Target, Event::stream(pg_out::TYPE, 0, ready.freeze()));
        told.extend_from_slice(&ready.receipt().await.map_err(|frozen| froze(&frozen))?.into_bytes());
        Ok(Greeting { told, key })
    }

    /// Tells the client. It may take as long about it as the target had, and a session that is ended does not wait for it: inside
    /// SSH, a window that is full can stay so for ever. Some of it may be on its way, so that there is no room for a word of ours.
    async fn greet(&self, front: &mut Front, told: &[u8]) -> Result<(), End> {
        let limit = self.session.limits().dial;
        let telling = timeout(limit, async {
            front.stream.write_all(told).await?;
            front.stream.flush().await
        });
        let gone = |text: String| End::quiet(CloseReason::Client, text);
        tokio::select! {
            biased;
            end = self.session.ended() => Err(end),
            told = telling => match told {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(gone(format!("the client left: {error}"))),
                Err(_) => Err(gone(format!("the client did not take the greeting within {} s", limit.as_secs()))),
            },
        }
    }
}

impl Turned {
    fn ours(why: &impl ToString, text: impl Into<String>) -> Self {
        Self { why: why.to_string(), words: Words::Ours(cannot(text)) }
    }
}

/// How a session fails whose recording cannot go on.
fn froze(frozen: &Frozen) -> Failed {
    let end = End::frozen(frozen);
    let words = farewell(&end);
    (end, words)
}

fn no_database() -> Failed {
    (End::quiet(CloseReason::Internal, NO_DATABASE), cannot(NO_DATABASE))
}

/// What a client reads whose target cannot be had.
fn cannot(text: impl Into<String>) -> Bytes {
    Complaint::new(CANNOT_CONNECT, format!("casemate: {}", text.into())).fatal()
}

/// What the client asked for, and what came of it. Secrets in it are stars, whose number comes with it.
fn begun(startup: &Startup, wishes: &Wishes, tls: Option<&'static str>) -> (Event, usize) {
    let version = |version: u32| format!("{}.{}", version >> 16, version & 0xffff);
    let mut hidden = 0;
    let mut parameters = Vec::with_capacity(startup.parameters.len());
    for (name, value) in &startup.parameters {
        let (secrets, mut shown) = (secret_places(name, value), BytesMut::from(&**value));
        stars(&mut shown, &secrets);
        hidden += secrets.iter().map(ExactSizeIterator::len).sum::<usize>();
        parameters.push(Value::List(vec![name.clone().into(), shown.freeze().into()]));
    }
    let mut event = Event::map(pg_startup::TYPE, 0)
        .with(pg_startup::PROTOCOL, version(startup.asked))
        .with(pg_startup::GRANTED, version(startup.version))
        .with(pg_startup::PARAMETERS, parameters)
        .with(pg_startup::TLS, tls.unwrap_or_default());
    if !wishes.left_out.is_empty() {
        let left_out = wishes.left_out.iter().map(|name| name.as_str().into()).collect::<Vec<Value>>();
        event = event.with(pg_startup::LEFT_OUT, left_out);
    }
    (event, hidden)
}
