//! `export`: a transcript in a form that other programs read.

mod asciicast;
mod filter;
mod jsonl;
mod psql;
mod sql;
mod text;

use std::io::Write;
use std::path::Path;

use casemate_recorder::transcript::event::{EventType, ssh_err, ssh_out};

use crate::ReplayError;
use crate::reader::Transcript;

/// The form of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One JSON object an event, with everything that was recorded.
    Jsonl,
    /// What was shown, and of a PostgreSQL session what was asked, as plain text; control characters are made visible.
    Text,
    /// A recording for terminal players (asciicast v3), without sequences that make a terminal answer.
    Asciicast,
    /// The statements of a PostgreSQL session, as a script that psql takes.
    Sql,
}

/// Writes a transcript. `channel` restricts text and asciicast to one channel.
///
/// # Errors
/// The transcript is not what it should be, or the output cannot be written; what was written so far stands.
pub fn write(
    transcript: &Transcript,
    format: Format,
    channel: Option<u32>,
    out: &mut dyn Write,
) -> Result<(), ReplayError> {
    match format {
        Format::Jsonl => jsonl::write(transcript, out),
        Format::Text => text::write(transcript, channel, out),
        Format::Asciicast => asciicast::write(transcript, channel, out),
        Format::Sql => sql::write(transcript, out),
    }?;
    out.flush().map_err(failed())
}

fn failed() -> impl FnOnce(std::io::Error) -> ReplayError {
    ReplayError::io("write to", Path::new("the output"))
}

fn is_output(kind: EventType) -> bool {
    kind == ssh_out::TYPE || kind == ssh_err::TYPE
}
