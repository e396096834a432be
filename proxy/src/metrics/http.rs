//! The HTTP shell around the figures: two paths, GET and HEAD, one request a connection.
//!
//! It runs on a thread of its own at low priority: whoever asks all the time slows down whoever asks, and no session.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Metrics;

/// Connections at once; one more is closed without an answer.
const CONNECTIONS_MAX: usize = 16;
/// From accept to the end of the request's headers.
const HEADERS: Duration = Duration::from_secs(5);
/// From accept to the end of the answer.
const CONNECTION: Duration = Duration::from_secs(10);
/// The request line and all headers.
const HEADERS_LEN_MAX: usize = 16 * 1024;
/// How long to rest when the system has no descriptor to give.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// The thread's nice value.
const LEISURE: i32 = 10;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// Answers on these listeners until `over`.
///
/// # Errors
/// The system has no thread or no event queue to give.
pub fn start(
    listeners: Vec<StdListener>,
    metrics: Arc<Metrics>,
    over: CancellationToken,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listeners = {
        let _inside = runtime.enter();
        listeners.into_iter().map(TcpListener::from_std).collect::<io::Result<Vec<_>>>()?
    };
    std::thread::Builder::new().name("casemate-metrics".to_owned()).spawn(move || {
        // On Linux the priority is that of the calling thread.
        if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), LEISURE) {
            tracing::debug!(%error, "priority stays as it is");
        }
        runtime.block_on(async {
            let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
            for listener in listeners {
                tokio::spawn(accept(listener, Arc::clone(&metrics), Arc::clone(&places)));
            }
            over.cancelled().await;
        });
    })
}

async fn accept(listener: TcpListener, metrics: Arc<Metrics>, places: Arc<Semaphore>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept for metrics failed");
                sleep(ACCEPT_REST).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let metrics = Arc::clone(&metrics);
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(|request| {
                let metrics = Arc::clone(&metrics);
                async move { Ok::<_, Infallible>(answer(&request, &metrics)) }
            });
            let mut settings = hyper::server::conn::http1::Builder::new();
            settings.timer(TokioTimer::new()).header_read_timeout(HEADERS);
            settings.keep_alive(false).max_buf_size(HEADERS_LEN_MAX);
            // A peer that breaks off, or does not speak HTTP, is nobody's trouble.
            let _ = timeout(CONNECTION, settings.serve_connection(TokioIo::new(stream), service)).await;
        });
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refused = page(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET and HEAD\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match request.uri().path() {
        "/metrics" => match metrics.exposition() {
            Ok(text) => page(StatusCode::OK, OPENMETRICS, text),
            Err(_) => page(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, "the figures cannot be written\n"),
        },
        "/healthz" => match metrics.figures().frozen {
            None => page(StatusCode::OK, PLAIN, "recording\n"),
            Some(frozen) => page(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{frozen}\n")),
        },
        _ => page(StatusCode::NOT_FOUND, PLAIN, "/metrics or /healthz\n"),
    }
}

fn page(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut page = Response::new(Full::new(text.into()));
    *page.status_mut() = status;
    page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    page
}
