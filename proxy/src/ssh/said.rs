//! What a client says on a session channel, on its way to the target.
//!
//! Each item carries the ticket of its record. Knows how a request is put to the target, not whether it may be.

use casemate_recorder::Ticket;
use russh::{ChannelWriteHalf, Pty, Sig, client};
use tokio::sync::oneshot;

use super::backlog::Held;
use super::files::Tap;
use super::outlet::Answer;

/// What the client said, in its order, each with the ticket that lets it go on.
#[derive(Debug)]
pub(super) enum Up {
    /// Bytes of standard input.
    Data { ticket: Ticket, held: Held },
    /// No more input.
    Eof { ticket: Ticket },
    /// A request that the target answers.
    Ask { request: Request, ticket: Ticket, answer: oneshot::Sender<Answer> },
    /// A request without an answer.
    Tell { request: Told, ticket: Ticket },
    /// The client closed the channel.
    Close { ticket: Ticket },
}

/// A request that the target answers.
#[derive(Debug)]
pub(super) enum Request {
    Pty { term: String, size: Size, modes: Vec<(Pty, u32)> },
    Env { name: String, value: String },
    Shell,
    Exec(Vec<u8>),
    Sftp,
}

/// A request without an answer.
#[derive(Debug)]
pub(super) enum Told {
    Resize(Size),
    Signal(Sig),
}

/// A terminal's size as it came: columns, rows, width and height in pixels. Passed on raw, from 0×0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) cols: u32,
    pub(super) rows: u32,
    pub(super) width: u32,
    pub(super) height: u32,
}

impl Request {
    /// Its name on the wire and in the record.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Pty { .. } => "pty-req",
            Self::Env { .. } => "env",
            Self::Shell => "shell",
            Self::Exec(_) => "exec",
            Self::Sftp => "subsystem",
        }
    }

    /// Length of the longest text in it, in bytes.
    pub(super) fn text_len(&self) -> usize {
        match self {
            Self::Pty { term, .. } => term.len(),
            Self::Env { name, value } => name.len().max(value.len()),
            Self::Shell | Self::Sftp => 0,
            Self::Exec(command) => command.len(),
        }
    }

    pub(super) fn starts_program(&self) -> bool {
        matches!(self, Self::Shell | Self::Exec(_) | Self::Sftp)
    }

    /// Returns who listens to what happens to files, where it starts a program that moves them. A terminal changes the bytes
    /// that pass, so with one it is no transfer.
    pub(super) fn tap(&self, chan: u32, pty: bool) -> Option<Tap> {
        match self {
            Self::Sftp if !pty => Some(Tap::sftp(chan)),
            Self::Exec(command) if !pty => Tap::command(chan, command),
            _ => None,
        }
    }

    pub(super) async fn send(self, target: &ChannelWriteHalf<client::Msg>) -> Result<(), russh::Error> {
        match self {
            Self::Pty { term, size, modes } => {
                target.request_pty(true, &term, size.cols, size.rows, size.width, size.height, &modes).await
            }
            Self::Env { name, value } => target.set_env(true, name, value).await,
            Self::Shell => target.request_shell(true).await,
            Self::Exec(command) => target.exec(true, command).await,
            Self::Sftp => target.request_subsystem(true, "sftp").await,
        }
    }
}
