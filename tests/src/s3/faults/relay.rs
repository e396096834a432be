//! One request through the proxy, and what its fault makes of it.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, DATE, ETAG, EXPECT, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::{Fault, Seen, Shared, Whole};

/// The head of an answer.
type Head = hyper::http::response::Parts;

/// The largest body that passes; no recording comes in larger pieces.
const BODY_MAX: usize = 64 << 20;

/// Answers a request, or fails where the connection is to be reset.
pub(super) async fn answer(shared: &Shared, upstream: u16, request: Request<Incoming>) -> io::Result<Response<Whole>> {
    let (number, fault) = shared.arrived(seen(&request));
    let (mut head, body) = request.into_parts();
    let head_only = head.method == Method::HEAD;
    let limit = match &fault {
        Some(Fault::Drop) => return Err(io::ErrorKind::ConnectionReset.into()),
        Some(Fault::ResetInBody(after)) => Some(*after),
        _ => None,
    };
    let pace = match &fault {
        Some(Fault::Slow(pace)) => Some(*pace),
        _ => None,
    };
    let mut body = collect(shared, number, body, limit, pace).await?;
    let mut promised = Response::new(Full::new(Bytes::new()).boxed());
    match &fault {
        Some(Fault::ResetInBody(_)) => return Err(io::ErrorKind::ConnectionReset.into()),
        Some(Fault::SlowDown) => {
            return Ok(refusal(shared, number, StatusCode::SERVICE_UNAVAILABLE, "SlowDown", head_only));
        }
        Some(Fault::Aborted) => {
            return Ok(refusal(shared, number, StatusCode::CONFLICT, "OperationAborted", head_only));
        }
        Some(Fault::Skewed(ahead)) => {
            let mut answer = refusal(shared, number, StatusCode::FORBIDDEN, "RequestTimeTooSkewed", head_only);
            answer.headers_mut().insert(DATE, date(*ahead)?);
            return Ok(answer);
        }
        Some(Fault::Swallow) => return Ok(stored(shared, number, &head.headers)),
        Some(Fault::Truncate(len)) => {
            promised = stored(shared, number, &head.headers);
            body.truncate(*len);
            strip(&mut head.headers, |name| name == "content-md5" || name.starts_with("x-amz-checksum-"));
        }
        Some(Fault::Unlock) => strip(&mut head.headers, |name| name.starts_with("x-amz-object-lock-")),
        Some(Fault::Hang) => {
            let mut released = std::pin::pin!(shared.released.notified());
            // It counts from here on, so that whoever sees the request hang can release it.
            released.as_mut().enable();
            shared.note(number, |seen| seen.hangs = true);
            released.await;
            shared.note(number, |seen| seen.hangs = false);
        }
        _ => {}
    }
    let (mut answer, mut content) = pass(shared, number, upstream, Request::from_parts(head, body)).await?;
    match fault {
        Some(Fault::LoseAnswer) => return Err(io::ErrorKind::ConnectionReset.into()),
        Some(Fault::Truncate(_)) if answer.status.is_success() => return Ok(promised),
        Some(Fault::Stale(older)) if answer.status.is_success() => {
            strip(&mut answer.headers, |name| {
                name == ETAG.as_str() || name == CONTENT_LENGTH.as_str() || name.starts_with("x-amz-checksum-")
            });
            content = older;
        }
        Some(Fault::AnswerHeader(name, value)) => {
            answer.headers.remove(name);
            if !value.is_empty() {
                answer.headers.insert(HeaderName::from_static(name), HeaderValue::try_from(value).map_err(other)?);
            }
        }
        _ => {}
    }
    shared.note(number, |seen| {
        seen.status = Some(answer.status.as_u16());
        seen.answer_len = content.len() as u64;
    });
    Ok(Response::from_parts(answer, paced(content, pace)))
}

fn seen(request: &Request<Incoming>) -> Seen {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Seen {
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        headers: request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        ..Seen::default()
    }
}

/// Reads a body to its end, or for `limit` bytes.
async fn collect(
    shared: &Shared,
    number: u64,
    mut body: Incoming,
    limit: Option<u64>,
    pace: Option<u64>,
) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while limit.is_none_or(|limit| (bytes.len() as u64) < limit) {
        let Some(frame) = body.frame().await else { break };
        // Trailers belong to a framing of HTTP that S3's clients do not use: theirs are inside the body.
        let Ok(data) = frame.map_err(other)?.into_data() else { continue };
        if bytes.len() + data.len() > BODY_MAX {
            return Err(other(format!("a body of more than {BODY_MAX} bytes")));
        }
        bytes.extend_from_slice(&data);
        shared.note(number, |seen| seen.body_len = bytes.len() as u64);
        tokio::time::sleep(pause(data.len(), pace)).await;
    }
    Ok(bytes)
}

/// Passes a request on, and returns the head and the body of what the server answers.
async fn pass(shared: &Shared, number: u64, upstream: u16, mut request: Request<Vec<u8>>) -> io::Result<(Head, Bytes)> {
    shared.note(number, |seen| seen.passed = true);
    let stream = TcpStream::connect(("127.0.0.1", upstream)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(other)?;
    let driver = tokio::spawn(connection);
    // These are between two neighbours; the body is in hand, so its length is known and nobody need ask before sending it.
    for name in [CONNECTION, EXPECT, TRANSFER_ENCODING, CONTENT_LENGTH] {
        request.headers_mut().remove(name);
    }
    let len = request.body().len();
    // Without a body there is none of length 0 either, except where one is usual: a server may refuse a PUT without.
    if len > 0 || request.method() == Method::PUT || request.method() == Method::POST {
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(len));
    }
    let answer = sender.send_request(request.map(|body| Full::new(Bytes::from(body)))).await.map_err(other)?;
    let (mut head, body) = answer.into_parts();
    let content = body.collect().await.map_err(other)?.to_bytes();
    driver.abort();
    for name in [CONNECTION, TRANSFER_ENCODING] {
        head.headers.remove(name);
    }
    head.headers.remove("keep-alive");
    Ok((head, content))
}

/// An error as S3 writes it; an answer to HEAD has no body.
fn refusal(shared: &Shared, number: u64, status: StatusCode, code: &str, head_only: bool) -> Response<Whole> {
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>a fault was asked for</Message>\
         <RequestId>{number}</RequestId></Error>"
    );
    let content = if head_only { Bytes::new() } else { Bytes::from(xml) };
    shared.note(number, |seen| {
        seen.status = Some(status.as_u16());
        seen.answer_len = content.len() as u64;
    });
    let mut answer = Response::new(Full::new(content).boxed());
    *answer.status_mut() = status;
    answer.headers_mut().insert("content-type", HeaderValue::from_static("application/xml"));
    answer
}

/// What a server says that has stored an object: the checksums that it was given are right, as far as it goes.
fn stored(shared: &Shared, number: u64, request: &HeaderMap) -> Response<Whole> {
    shared.note(number, |seen| seen.status = Some(200));
    let md5 = request.get("content-md5").and_then(|value| BASE64_STANDARD.decode(value.as_bytes()).ok());
    let etag: String = md5.unwrap_or_else(|| vec![0; 16]).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut answer = Response::new(Full::new(Bytes::new()).boxed());
    if let Ok(etag) = HeaderValue::try_from(format!("\"{etag}\"")) {
        answer.headers_mut().insert(ETAG, etag);
    }
    answer.headers_mut().insert("x-amz-version-id", HeaderValue::from_static("stored-nowhere"));
    let checksums = request.iter().filter(|(name, _)| name.as_str().starts_with("x-amz-checksum-"));
    answer.headers_mut().extend(checksums.map(|(name, value)| (name.clone(), value.clone())));
    answer
}

fn strip(headers: &mut HeaderMap, which: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| which(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Now, and some seconds, as HTTP writes it.
fn date(ahead: i64) -> io::Result<HeaderValue> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(other)?.as_secs();
    let date =
        DateTime::from_secs(now.cast_signed().saturating_add(ahead)).fmt(DateTimeFormat::HttpDate).map_err(other)?;
    HeaderValue::try_from(date).map_err(other)
}

/// A body that goes out at once, or in twenty pieces a second.
fn paced(content: Bytes, pace: Option<u64>) -> Whole {
    let Some(pace) = pace else { return Full::new(content).boxed() };
    let piece = usize::try_from(pace / 20).unwrap_or(usize::MAX).max(1);
    Paced { left: content, piece, pace, pause: Box::pin(tokio::time::sleep(Duration::ZERO)) }.boxed()
}

struct Paced {
    left: Bytes,
    piece: usize,
    pace: u64,
    pause: Pin<Box<Sleep>>,
}

impl Body for Paced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        ready!(self.pause.as_mut().poll(context));
        let piece = self.piece.min(self.left.len());
        let piece = self.left.split_to(piece);
        let next = tokio::time::Instant::now() + pause(piece.len(), Some(self.pace));
        self.pause.as_mut().reset(next);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

fn pause(len: usize, pace: Option<u64>) -> Duration {
    pace.map_or(Duration::ZERO, |pace| Duration::from_secs_f64(len as f64 / pace.max(1) as f64))
}

fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::other(error)
}
