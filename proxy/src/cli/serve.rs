//! `casemate serve`: from a file to a daemon and back to nothing, in the order that safety asks for.
//!
//! Configuration first, sockets next (so that a second daemon fails before it touches anything), then the recorder,
//! and only then people. At the end the other way round: sessions, transcripts, recorder.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_recorder::transcript::event::{Event, Side, daemon};
use casemate_recorder::{Frozen, OpenError, Recorder};
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::keep::{Stop, keep, recorder_config};
use super::{log, say};
use crate::alerts::{Alerts, Kind, watch};
use crate::config::{Config, ConfigError};
use crate::metrics::{self, Metrics};
use crate::policy::{Live, Policy};
use crate::recording;
use crate::reload::reload;
use crate::server::{self, Door, Listener};

/// Connections that the kernel may hold while the daemon is busy.
const BACKLOG: u32 = 1024;

/// Why the daemon did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration is not good.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A socket could not be had.
    #[error("cannot listen on {addr}: {source}; is another daemon running, or the port below 1024?")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A socket on this machine could not be had.
    #[error("cannot listen on {}: {source}; its directory must be there and the daemon's to write in", path.display())]
    ListenSocket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The recorder did not start, so nobody may be let in.
    #[error("recording cannot start: {0}")]
    Recorder(#[from] OpenError),
    /// Recording stopped while the daemon ran.
    #[error("recording stopped: {0}; all sessions were ended")]
    Frozen(Frozen),
    /// The system refused something basic.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// What kept it from starting, or that recording stopped.
pub fn serve(file: &Path) -> Result<(), ServeError> {
    harden();
    let config = Arc::new(Config::load(file)?);
    log::start(config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("casemate-io").build()?;
    let signals = {
        let _inside = runtime.enter();
        // Before anything that a signal could interrupt halfway.
        Signals::new()?
    };
    let (listeners, readers) = {
        let _inside = runtime.enter();
        let all = |addrs: &[SocketAddr]| addrs.iter().map(|addr| listen(*addr)).collect::<Result<Vec<_>, _>>();
        let mut listeners: Vec<Listener> = all(&config.listen.ssh)?.into_iter().map(Listener::Ssh).collect();
        listeners.extend(all(&config.listen.postgres)?.into_iter().map(Listener::Postgres));
        if let Some(path) = &config.listen.postgres_socket {
            listeners.push(Listener::PostgresSocket(listen_socket(path)?));
        }
        (listeners, all(&config.listen.metrics)?)
    };
    let recorder = Recorder::start(recorder_config(&config))?;
    for listener in &listeners {
        say(&format!("listening {}", listener.place()?));
    }
    for listener in &readers {
        say(&format!("listening metrics {}", listener.local_addr()?));
    }
    info!(node = %config.node, durability = config.durability.name(), encryption = %config.encryption, "serving");

    let rules = Arc::new(Live::new(Policy::new(config)));
    let runs = Arc::new(recording::Live::new(recorder));
    let (metrics, over) = (Metrics::new(Arc::clone(&runs)), CancellationToken::new());
    let readers = readers.into_iter().map(TcpListener::into_std).collect::<io::Result<Vec<_>>>()?;
    let figures = metrics::http::start(readers, Arc::clone(&metrics), over.clone())?;
    let outcome = runtime.block_on(run(listeners, &runs, rules, metrics, signals, file));
    over.cancel();
    // It holds nothing that must be put in order: a thread that panicked has said so.
    let _ = figures.join();
    // Seals what is left and joins the recorder's threads; no session runs any more.
    runs.current().recorder().shutdown();
    drop(runtime);
    if outcome.is_ok() {
        info!("stopped");
    }
    outcome
}

async fn run(
    listeners: Vec<Listener>,
    runs: &Arc<recording::Live>,
    rules: Arc<Live>,
    metrics: Arc<Metrics>,
    mut signals: Signals,
    file: &Path,
) -> Result<(), ServeError> {
    let stop = Stop::default();
    let (alerts, teller) = Alerts::new(Arc::clone(runs), Arc::clone(&rules), Arc::clone(&metrics));
    let told = CancellationToken::new();
    let telling = tokio::spawn(teller.run(told.clone()));
    let watching = [
        tokio::spawn(watch::stalls(Arc::clone(runs), alerts.clone())),
        tokio::spawn(watch::surveys(Arc::clone(runs), Arc::clone(&rules), Arc::clone(&metrics), alerts.clone())),
        tokio::spawn(watch::vaults(Arc::clone(runs), alerts.clone())),
        tokio::spawn(watch::certificates(Arc::clone(&rules), alerts.clone())),
    ];
    let door = Door::new(Arc::clone(runs), Arc::clone(&rules), metrics, alerts.clone()).map_err(io::Error::other)?;
    // Tasks of their own: a reload or a start that waits for a slow disk must not keep anybody from logging in, or out.
    let mut front = tokio::spawn(server::run(listeners, door, stop.shutdown.clone()));
    let mut keeping = tokio::spawn(keep(Arc::clone(runs), Arc::clone(&rules), alerts.clone(), stop.clone()));
    let mut kept = None;
    loop {
        // Cancel-safe: signals and the ends of tasks are only waited for.
        tokio::select! {
            ended = &mut front => {
                if let Err(panicked) = ended {
                    error!(reason = %panicked, "the front door failed");
                }
                break;
            }
            ended = &mut keeping, if kept.is_none() => {
                kept = Some(ended);
                stop.shutdown.cancel();
            }
            wake = signals.next() => match wake {
                Wake::Reload => apply(runs.current().recorder(), &rules, &alerts, file).await,
                Wake::Stop(name) => {
                    info!(signal = name, "stopping");
                    note(runs.current().recorder(), "stopping", name);
                    stop.shutdown.cancel();
                }
            },
        }
    }
    stop.shutdown.cancel();
    stop.over.cancel();
    let kept = match kept {
        Some(kept) => kept,
        None => keeping.await,
    };
    watching.iter().for_each(|task| task.abort());
    // Whoever is to be told that recording stopped is told before the daemon ends.
    told.cancel();
    let _ = telling.await;
    kept.map_err(io::Error::other)?
}

/// Reloads, and records what came of it.
async fn apply(recorder: &Recorder, live: &Arc<Live>, alerts: &Alerts, file: &Path) {
    let (rules, path): (_, PathBuf) = (Arc::clone(live), file.to_owned());
    // Reads files: not on a thread that sessions wait for.
    let outcome = tokio::task::spawn_blocking(move || reload(&rules, &path)).await;
    match outcome {
        Ok(Ok(config)) => {
            for event in config.events("reload") {
                drop(recorder.control().record(Side::Client, event));
            }
            note(recorder, "reloaded", "");
            info!("configuration reloaded");
        }
        Ok(Err(refused)) => {
            warn!(reason = %refused, "reload refused, the old configuration stays");
            note(recorder, "reload refused", &refused.to_string());
            alerts.raise(Kind::ReloadRefused, format!("reload refused, the old configuration stays: {refused}"));
        }
        Err(panicked) => {
            error!(reason = %panicked, "reload failed, the old configuration stays");
            note(recorder, "reload failed", "internal error");
            alerts.raise(Kind::ReloadRefused, "reload failed by a fault of the bastion, the old configuration stays");
        }
    }
}

/// Records an act of the daemon in the control transcript.
fn note(recorder: &Recorder, what: &str, reason: &str) {
    // Nobody waits for the ticket: recording in call order is enough, and a freeze is seen elsewhere.
    drop(recorder.control().record(Side::Client, daemon_event(what, reason)));
}

/// Makes the event of an act of the daemon.
pub(super) fn daemon_event(what: &str, reason: &str) -> Event {
    /// Far below an event's limit: a file with ten thousand mistakes need not be listed whole.
    const REASON_LEN_MAX: usize = 16 * 1024;
    let mut end = reason.len().min(REASON_LEN_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let event = Event::map(daemon::TYPE, 0).with(daemon::WHAT, what).with(daemon::VERSION, env!("CARGO_PKG_VERSION"));
    match reason.get(..end) {
        Some(reason) if !reason.is_empty() => event.with(daemon::REASON, reason),
        _ => event,
    }
}

/// A daemon that was killed keeps its sockets until its last write has returned from the disk.
const LISTEN_PATIENCE: Duration = Duration::from_secs(2);

fn listen(addr: SocketAddr) -> Result<TcpListener, ServeError> {
    let bind = || {
        let socket = if addr.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
        if addr.is_ipv6() {
            // One line, one address family: "[::]" beside "0.0.0.0" would otherwise collide.
            socket2::SockRef::from(&socket).set_only_v6(true)?;
        }
        // A restart must not wait for connections of the last run to fade.
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        socket.listen(BACKLOG)
    };
    let deadline = Instant::now() + LISTEN_PATIENCE;
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            bound => return bound.map_err(|source| ServeError::Listen { addr, source }),
        }
    }
}

/// Listens on a socket of this machine. One that is left of a daemon that was killed is taken away: nobody listens there.
fn listen_socket(path: &Path) -> Result<UnixListener, ServeError> {
    let failed = |source| ServeError::ListenSocket { path: path.to_owned(), source };
    if std::os::unix::net::UnixStream::connect(path)
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    {
        std::fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Who may talk to it is a matter of its directory; who logs in proves a token like anybody.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(failed)?;
    Ok(listener)
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal. Cancel-safe.
    async fn next(&mut self) -> Wake {
        tokio::select! {
            _ = self.terminate.recv() => Wake::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Wake::Stop("SIGINT"),
            _ = self.hangup.recv() => Wake::Reload,
        }
    }
}

enum Wake {
    Reload,
    Stop(&'static str),
}

/// Keeps key material out of core dumps and other users' reach, and makes room for sockets.
fn harden() {
    // Group may read what goes into the vault; others nothing. Key files have modes of their own.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
    // None of these is worth refusing a start for: a container may forbid them, and says so in its own logs.
    let _ = rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let files = rustix::process::getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum });
}
