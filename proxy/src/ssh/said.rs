//! What a client says on a session channel, on its way to the target.
//!
//! Each item carries the ticket of its record. Knows how a request is put to the target, not whether it may be.

use casemate_recorder::Ticket;
use casemate_recorder::transcript::event::{Event, env, exec, pty, shell, subsystem};
use russh::{ChannelWriteHalf, Pty, Sig, client};
use tokio::sync::oneshot;

use super::backlog::Held;
use super::files::Tap;
use super::flow::clip;
use super::outlet::Answer;

/// What the client said, in its order, each with the ticket that lets it go on. What it may say as often as it likes is held;
/// the rest waits for an answer or comes once.
#[derive(Debug)]
pub(super) enum Up {
    /// Bytes of standard input.
    Data { ticket: Ticket, held: Held },
    /// No more input.
    Eof { ticket: Ticket },
    /// A request that the target answers.
    Ask { request: Request, ticket: Ticket, answer: oneshot::Sender<Answer> },
    /// A request without an answer.
    Tell { request: Told, ticket: Ticket, held: Held },
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
    Subsystem(String),
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
            Self::Subsystem(_) => "subsystem",
        }
    }

    /// The event that says so. Of a text that is too long its beginning is kept: such a request is refused.
    pub(super) fn event(&self, chan: u32, accepted: bool) -> Event {
        match self {
            Self::Pty { term, size, modes } => Event::map(pty::TYPE, chan)
                .with(pty::TERM, clip(term.as_bytes()))
                .with(pty::COLS, size.cols)
                .with(pty::ROWS, size.rows)
                .with(pty::WIDTH, size.width)
                .with(pty::HEIGHT, size.height)
                .with(pty::MODES, encode_modes(modes).as_slice())
                .with(pty::ACCEPTED, accepted),
            Self::Env { name, value } => Event::map(env::TYPE, chan)
                .with(env::NAME, clip(name.as_bytes()))
                .with(env::VALUE, clip(value.as_bytes()))
                .with(env::ACCEPTED, accepted),
            Self::Shell => Event::map(shell::TYPE, chan).with(shell::ACCEPTED, accepted),
            Self::Exec(command) => {
                Event::map(exec::TYPE, chan).with(exec::COMMAND, clip(command)).with(exec::ACCEPTED, accepted)
            }
            Self::Subsystem(name) => Event::map(subsystem::TYPE, chan)
                .with(subsystem::NAME, clip(name.as_bytes()))
                .with(subsystem::ACCEPTED, accepted),
        }
    }

    /// Length of the longest text in it, in bytes.
    pub(super) fn text_len(&self) -> usize {
        match self {
            Self::Pty { term, .. } => term.len(),
            Self::Env { name, value } => name.len().max(value.len()),
            Self::Shell => 0,
            Self::Subsystem(name) => name.len(),
            Self::Exec(command) => command.len(),
        }
    }

    pub(super) fn starts_program(&self) -> bool {
        matches!(self, Self::Shell | Self::Exec(_) | Self::Subsystem(_))
    }

    /// Returns who listens to what happens to files, where it starts a program that moves them. A terminal changes the bytes
    /// that pass, so with one it is no transfer.
    pub(super) fn tap(&self, chan: u32, pty: bool) -> Option<Tap> {
        match self {
            Self::Subsystem(_) if !pty => Some(Tap::sftp(chan)),
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
            Self::Subsystem(name) => target.request_subsystem(true, name).await,
        }
    }
}

/// Encodes terminal modes as on the wire (RFC 4254 §8).
fn encode_modes(modes: &[(Pty, u32)]) -> Vec<u8> {
    let mut encoded: Vec<u8> =
        modes.iter().flat_map(|(code, value)| std::iter::once(*code as u8).chain(value.to_be_bytes())).collect();
    encoded.push(Pty::TTY_OP_END as u8);
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_modes_are_recorded_as_on_the_wire() {
        assert_eq!(encode_modes(&[(Pty::ECHO, 1), (Pty::VINTR, 3)]), [53, 0, 0, 0, 1, 1, 0, 0, 0, 3, 0]);
        assert_eq!(encode_modes(&[]), [0]);
    }
}
