//! The daemon's log: lines on standard error, for people or one JSON object each.
//!
//! It never holds what a session carries, nor commands, nor keys: that is what the record is for, and the record is
//! encrypted.

use std::io;
use std::panic;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// What is logged unless somebody asks for something else. The S3 client tells at every request whose credentials it found.
const FILTER: &str = "info,aws_config=warn,aws_runtime=warn,aws_smithy_runtime=warn";

/// Begins the log.
pub(super) fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_env("CASEMATE_LOG").unwrap_or_else(|_| EnvFilter::new(FILTER));
    // No colours: peers choose parts of what is logged, and escape sequences must have no meaning here.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_target(false);
    let log = log.with_writer(io::stderr);
    // A second subscriber in one process is a test; the first stays.
    let _ = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
    };
    panic::set_hook(Box::new(|info| {
        // Where, and not what: the text of a panic may quote the bytes that it met.
        let at = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        tracing::error!(at, thread = thread.name().unwrap_or_default(), "panicked");
    }));
}
