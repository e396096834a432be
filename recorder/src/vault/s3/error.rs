//! Why a request came to nothing, as far as it decides what to do next.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

/// Why a request came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum S3Error {
    /// The settings cannot be used.
    #[error("{0}")]
    Settings(String),
    /// No answer came, or no whole one. It may have been done all the same.
    #[error("no answer: {0}")]
    Unreachable(String),
    /// The server asks for another attempt.
    #[error("the server is busy: {0}")]
    Busy(String),
    /// The clocks are too far apart for a signature to count.
    #[error("the clocks of this machine and of the server are too far apart: {0}")]
    Skewed(String),
    /// The credentials do not allow it, or the bucket belongs to somebody else.
    #[error("refused: {0}; check what the credentials may do, and whose bucket it is")]
    Denied(String),
    /// There is no such object, version or bucket.
    #[error("not there: {0}")]
    Absent(String),
    /// The name is taken.
    #[error("the name is taken")]
    Exists,
    /// Anything else that the server says.
    #[error("{0}")]
    Other(String),
}

impl S3Error {
    /// Whether another attempt may succeed without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Busy(_))
    }

    /// Returns a word for it, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Settings(_) => "settings",
            Self::Unreachable(_) => "unreachable",
            Self::Busy(_) => "busy",
            Self::Skewed(_) => "clock",
            Self::Denied(_) => "denied",
            Self::Absent(_) => "absent",
            Self::Exists => "exists",
            Self::Other(_) => "other",
        }
    }
}

impl<E> From<SdkError<E, HttpResponse>> for S3Error
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        let Some(status) = error.raw_response().map(|response| response.status().as_u16()) else {
            return Self::Unreachable(one_line(&chain(&error)));
        };
        let code = error.code().unwrap_or_default();
        let said = match (code, error.message()) {
            ("", None | Some("")) => format!("status {status}"),
            (code, None | Some("")) => format!("{code} ({status})"),
            (code, Some(message)) => format!("{code} ({status}): {}", one_line(message)),
        };
        match (status, code) {
            (_, "RequestTimeTooSkewed") => Self::Skewed(said),
            (412, _) => Self::Exists,
            // A conflict with another writer of the same name; the next attempt finds out who won.
            (409, "ConditionalRequestConflict" | "OperationAborted") => Self::Busy(said),
            (_, "RequestTimeout" | "SlowDown") | (408 | 429 | 500.., _) => Self::Busy(said),
            (401 | 403, _) => Self::Denied(said),
            (404, _) => Self::Absent(said),
            // A good status, and not the answer that belongs to it.
            (200..300, _) => Self::Unreachable(one_line(&chain(&error))),
            _ => Self::Other(said),
        }
    }
}

/// What went wrong, and below that what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What a server says goes into logs and reports: no line breaks, no control characters, and not without end.
fn one_line(text: &str) -> String {
    const LEN_MAX: usize = 300;
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut line: String = clean.take(LEN_MAX + 1).collect();
    if line.chars().count() > LEN_MAX {
        line.pop();
        line.push('…');
    }
    line
}
