//! What is done to files through a channel, told from its bytes while they pass.
//!
//! A [`Tap`] listens to both sides of a channel and tells operations, with their results, as events. It is passive: bytes
//! go on as they came, whatever it makes of them, and where it loses the thread it says so and tells nothing more. It
//! never collects a packet of content. Sans-IO, but for `Files`, which holds a channel's tap and puts what it tells
//! into the record.

mod argv;
mod digest;
mod open_file;
mod record;
mod scp;
mod sftp;
#[cfg(test)]
mod sftp_tests;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;

use casemate_recorder::transcript::event::{Event, Side, Value, file_command, file_lost};

use self::argv::Program;
pub(crate) use self::record::Files;
use self::scp::Scp;
use self::sftp::Sftp;

/// Why a tap cannot follow any more.
#[derive(Debug)]
struct Lost(Cow<'static, str>);

impl Lost {
    fn of(why: impl Into<Cow<'static, str>>) -> Self {
        Self(why.into())
    }
}

/// What a tap made of some bytes.
#[derive(Debug, Default)]
pub struct Seen {
    /// What was done.
    pub events: Vec<Event>,
    /// Where in the bytes content of files lies, ascending.
    pub content: Vec<Range<usize>>,
}

/// A listener to one channel.
#[derive(Debug)]
pub struct Tap {
    chan: u32,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Sftp(Box<Sftp>),
    Scp(Box<Scp>),
    /// Bytes are counted: from the client, from the target.
    Counted {
        kind: &'static str,
        argv: Vec<Vec<u8>>,
        bytes: [u64; 2],
    },
    /// The thread is lost, or all is told.
    Deaf,
}

impl Tap {
    /// Listens to the subsystem `sftp`.
    pub fn sftp(chan: u32) -> Self {
        Self { chan, kind: Kind::Sftp(Box::new(Sftp::new(chan))) }
    }

    /// Listens to a command; `None` where it is not beyond doubt that it transfers files.
    pub fn command(chan: u32, command: &[u8]) -> Option<Self> {
        let kind = match argv::program(command)? {
            Program::Scp(words) => Kind::Scp(Box::new(Scp::new(chan, words))),
            Program::Counted { kind, argv } => Kind::Counted { kind, argv, bytes: [0; 2] },
        };
        Some(Self { chan, kind })
    }

    /// Takes what a side sent next, in the order in which it is recorded.
    pub fn feed(&mut self, side: Side, data: &[u8], seen: &mut Seen) {
        let outcome = match &mut self.kind {
            Kind::Sftp(sftp) => sftp.feed(side, data, seen),
            Kind::Scp(scp) => scp.feed(side, data, seen),
            Kind::Counted { bytes: [client, target], .. } => {
                let count = if side == Side::Client { client } else { target };
                *count = count.saturating_add(data.len() as u64);
                Ok(())
            }
            Kind::Deaf => Ok(()),
        };
        if let Err(Lost(why)) = outcome {
            self.abandon("the thread was lost", seen);
            seen.events.push(lost(self.chan, side, &why));
        }
    }

    /// Tells what the end of the channel leaves open.
    pub fn finish(&mut self, seen: &mut Seen) {
        if let Kind::Counted { kind, argv, bytes: [client, target] } = &self.kind {
            let argv: Vec<Value> = argv.iter().map(|word| Value::from(word.as_slice())).collect();
            let event = Event::map(file_command::TYPE, self.chan)
                .with(file_command::KIND, *kind)
                .with(file_command::ARGV, argv)
                .with(file_command::SENT, *client)
                .with(file_command::RECEIVED, *target);
            seen.events.push(event);
        }
        self.abandon("the channel ended without an answer", seen);
    }

    fn abandon(&mut self, why: &str, seen: &mut Seen) {
        match std::mem::replace(&mut self.kind, Kind::Deaf) {
            Kind::Sftp(mut sftp) => sftp.abandon(why, seen),
            Kind::Scp(mut scp) => scp.abandon(why, seen),
            Kind::Counted { .. } | Kind::Deaf => {}
        }
    }
}

/// Says that nothing more is told of a channel, and what `side` sent to bring that about.
fn lost(chan: u32, side: Side, why: &str) -> Event {
    Event::map(file_lost::TYPE, chan).with(file_lost::WHY, why).with(file_lost::SIDE, side as u32)
}
