//! A proxy on loopback between a client and an S3 server, both in plain HTTP/1.1, that writes down every request and can spoil any.
//!
//! Requests and answers go on whole: each is read to its end, spoiled or not, and then passed on, over a connection of its own. What
//! is signed stays as it was, `Host` too, so that signatures hold; the few faults that change a signed part say so.

use std::convert::Infallible;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use crate::process::wait_until;

mod relay;

/// What happens to a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection is reset as soon as the request's head is known. See [`Faults::refuse_connections`] for one that is refused.
    Drop,
    /// The answer is 503 SlowDown; nothing is passed on.
    SlowDown,
    /// The answer is 409 OperationAborted; nothing is passed on.
    Aborted,
    /// Nothing is passed on and nothing answered until [`Faults::release`]; then all goes on as if nothing had been, where the
    /// client is still there.
    Hang,
    /// The connection is reset after that many bytes of the request's body, or at its end when it has fewer; nothing is passed on.
    ResetInBody(u64),
    /// The answer is 200 and nothing is passed on: the object is gone after it was stored.
    Swallow,
    /// The answer is 200, and that many bytes of the body are passed on, without the checksums that would tell. For servers that check
    /// no signature.
    Truncate(usize),
    /// Both bodies pass at that many bytes a second.
    Slow(u64),
    /// The answer is 403 RequestTimeTooSkewed, and its `Date` is that many seconds ahead; nothing is passed on.
    Skewed(i64),
    /// The request is passed on, and the connection is reset when the server has answered.
    LoseAnswer,
    /// The answer's body is that one, with no checksum and no `ETag` that would tell, where the server has an answer at all.
    Stale(Bytes),
    /// The request is passed on without its `x-amz-object-lock-*` headers. For servers that check no signature: they are signed.
    Unlock,
    /// The answer has that header in place of its own; it has none of that name when the value is empty.
    AnswerHeader(&'static str, String),
}

impl Fault {
    /// Returns the fault by which an answer about an object says that its lock ends at that time, as S3 writes it:
    /// `2030-01-01T00:00:00Z`.
    pub fn locked_until(time: &str) -> Self {
        Self::AnswerHeader("x-amz-object-lock-retain-until-date", time.to_owned())
    }
}

/// A request as it came in, and what became of it.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Its number, from 1, in the order in which heads came in.
    pub number: u64,
    /// `GET`, `PUT`, …
    pub method: String,
    /// The path, percent-encoded as it came: `/bucket/key`.
    pub path: String,
    /// What follows the question mark; empty without one.
    pub query: String,
    /// Its headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// How many bytes of body came in.
    pub body_len: u64,
    /// Whether it hangs now.
    pub hangs: bool,
    /// Whether it was passed on.
    pub passed: bool,
    /// What the client was answered; none while there is no answer, and when there never is.
    pub status: Option<u16>,
    /// How many bytes of body the client was answered with.
    pub answer_len: u64,
    /// Whether a fault befell it.
    pub spoiled: bool,
}

impl Seen {
    /// Returns a header of the request.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }
}

type Predicate = Box<dyn Fn(&Seen) -> bool + Send>;

struct Rule {
    fault: Fault,
    holds: Predicate,
    /// How many requests it may still befall; all when `None`.
    left: Option<u64>,
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    rules: Vec<Rule>,
}

/// What the proxy's tasks and its owner share.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Wakes requests that hang.
    released: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a request down, and returns its number and what is to happen to it: what the newest rule that fits says.
    fn arrived(&self, mut request: Seen) -> (u64, Option<Fault>) {
        let mut state = self.state();
        request.number = state.seen.len() as u64 + 1;
        let fits = |rule: &&mut Rule| rule.left != Some(0) && (rule.holds)(&request);
        let fault = state.rules.iter_mut().rev().find(fits).map(|rule| {
            rule.left = rule.left.map(|left| left - 1);
            rule.fault.clone()
        });
        request.spoiled = fault.is_some();
        let number = request.number;
        state.seen.push(request);
        (number, fault)
    }

    fn note(&self, number: u64, change: impl FnOnce(&mut Seen)) {
        if let Some(seen) = self.state().seen.iter_mut().find(|seen| seen.number == number) {
            change(seen);
        }
    }
}

/// Whether connections are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    Closed,
    Gone,
}

/// A running proxy; it ends when the value is dropped.
pub struct Faults {
    port: u16,
    shared: Arc<Shared>,
    door: watch::Sender<Door>,
    /// Where the door is by now.
    is: watch::Receiver<Door>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Faults {
    /// Starts a proxy before the server on that port of 127.0.0.1. Nothing is spoiled until it is said.
    ///
    /// # Errors
    /// When there is no port or no thread for it.
    pub fn before(upstream: u16) -> Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::<Shared>::default();
        let (door, ask) = watch::channel(Door::Open);
        let (tell, is) = watch::channel(Door::Open);
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("faults".to_owned()).spawn(move || {
            runtime.block_on(serve(listener, upstream, theirs, ask, tell));
            // Nobody waits for what still hangs.
            runtime.shutdown_background();
        })?;
        Ok(Self { port, shared, door, is, thread: Some(thread) })
    }

    /// Returns where clients ask.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Spoils every request from now on of which `holds` is true. Of several such rules, the newest that fits decides.
    pub fn spoil(&self, fault: Fault, holds: impl Fn(&Seen) -> bool + Send + 'static) {
        self.rule(fault, None, holds);
    }

    /// Spoils the next `times` requests of which `holds` is true.
    pub fn spoil_next(&self, times: u64, fault: Fault, holds: impl Fn(&Seen) -> bool + Send + 'static) {
        self.rule(fault, Some(times), holds);
    }

    /// Spoils the request of that number: 1 is the first that ever came.
    pub fn spoil_number(&self, number: u64, fault: Fault) {
        self.rule(fault, None, move |seen| seen.number == number);
    }

    /// Spoils every request from now on.
    pub fn spoil_all(&self, fault: Fault) {
        self.rule(fault, None, |_| true);
    }

    fn rule(&self, fault: Fault, left: Option<u64>, holds: impl Fn(&Seen) -> bool + Send + 'static) {
        self.shared.state().rules.push(Rule { fault, holds: Box::new(holds), left });
    }

    /// Spoils nothing any more. What hangs goes on hanging.
    pub fn clear(&self) {
        self.shared.state().rules.clear();
    }

    /// Lets everything that hangs go on.
    pub fn release(&self) {
        self.shared.released.notify_waiters();
    }

    /// Closes the port, and every connection: who connects is refused, until [`Faults::take_connections`].
    ///
    /// # Errors
    /// When the proxy does not do so within ten seconds.
    pub fn refuse_connections(&self) -> Result<()> {
        self.turn(Door::Closed)
    }

    /// Opens the port again.
    ///
    /// # Errors
    /// When somebody else has it by now.
    pub fn take_connections(&self) -> Result<()> {
        self.turn(Door::Open)
    }

    fn turn(&self, to: Door) -> Result<()> {
        // Said twice, it would end the connections that there are.
        self.door.send_if_modified(|door| std::mem::replace(door, to) != to);
        wait_until(Duration::from_secs(10), || *self.is.borrow() == to)
            .then_some(())
            .context("the proxy does not follow")
    }

    /// Returns every request so far, in the order in which they came.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }

    /// Waits until `done` is true of the requests so far; false when it outlives `patience`.
    pub fn wait(&self, patience: Duration, done: impl Fn(&[Seen]) -> bool) -> bool {
        wait_until(patience, || done(&self.shared.state().seen))
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        let _ = self.door.send(Door::Gone);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Takes connections while the door is open.
async fn serve(
    first: std::net::TcpListener,
    upstream: u16,
    shared: Arc<Shared>,
    mut ask: watch::Receiver<Door>,
    tell: watch::Sender<Door>,
) {
    let Ok(address) = first.local_addr() else { return };
    let mut first = Some(first);
    loop {
        let wanted = *ask.borrow_and_update();
        match wanted {
            Door::Gone => return,
            Door::Closed => {
                first = None;
                tell.send_replace(Door::Closed);
                if ask.changed().await.is_err() {
                    return;
                }
            }
            Door::Open => {
                let Ok(listener) = first.take().map_or_else(|| listen(address), TcpListener::from_std) else { return };
                tell.send_replace(Door::Open);
                // Connections end with this set.
                let mut connections = tokio::task::JoinSet::new();
                loop {
                    tokio::select! {
                        _ = ask.changed() => break,
                        Some(_) = connections.join_next() => {}
                        taken = listener.accept() => if let Ok((stream, _)) = taken {
                            connections.spawn(connection(stream, upstream, Arc::clone(&shared)));
                        },
                    }
                }
            }
        }
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    // The standard library's listeners may follow on one another.
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn connection(stream: TcpStream, upstream: u16, shared: Arc<Shared>) {
    // A second handle on the socket: hyper keeps the first, and only closing both ends the connection.
    let Ok(handle) = SockRef::from(&stream).try_clone() else { return };
    let handle = Arc::new(handle);
    let (at, serving) = (Arc::clone(&handle), hyper::server::conn::http1::Builder::new());
    let service = service_fn(move |request| {
        let (shared, handle) = (Arc::clone(&shared), Arc::clone(&handle));
        async move {
            let answer = relay::answer(&shared, upstream, request).await;
            if answer.is_err() {
                // What is not answered is reset, not ended: with nothing to linger for, closing does that.
                let _ = handle.set_linger(Some(Duration::ZERO));
            }
            answer
        }
    });
    let _: std::result::Result<(), hyper::Error> = serving.serve_connection(TokioIo::new(stream), service).await;
    drop(at);
}

/// A body that is in hand.
type Whole = http_body_util::combinators::BoxBody<Bytes, Infallible>;
