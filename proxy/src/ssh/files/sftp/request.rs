//! What a client asks of an SFTP server, and how the record tells it once there is an answer.

use std::borrow::Cow;

use casemate_recorder::transcript::event::{Event, Value, file_op, file_open};

use super::Lost;
use super::packets::{Attrs, Fields};

pub(super) const INIT: u8 = 1;
pub(super) const OPEN: u8 = 3;
pub(super) const CLOSE: u8 = 4;
pub(super) const READ: u8 = 5;
pub(super) const LSTAT: u8 = 7;
pub(super) const FSTAT: u8 = 8;
pub(super) const SETSTAT: u8 = 9;
pub(super) const FSETSTAT: u8 = 10;
pub(super) const OPENDIR: u8 = 11;
pub(super) const READDIR: u8 = 12;
pub(super) const REMOVE: u8 = 13;
pub(super) const MKDIR: u8 = 14;
pub(super) const RMDIR: u8 = 15;
pub(super) const REALPATH: u8 = 16;
pub(super) const STAT: u8 = 17;
pub(super) const RENAME: u8 = 18;
pub(super) const READLINK: u8 = 19;
pub(super) const SYMLINK: u8 = 20;
pub(super) const EXTENDED: u8 = 200;

/// A request other than to read or write, until its answer comes.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) kind: u8,
    /// What an extended request calls itself.
    name: Vec<u8>,
    pub(super) path: Vec<u8>,
    pub(super) to: Vec<u8>,
    pub(super) handle: Vec<u8>,
    /// Where `copy-data` writes.
    pub(super) to_handle: Vec<u8>,
    pub(super) attrs: Attrs,
    pub(super) flags: u32,
    clipped: bool,
    /// The open file that it is about.
    pub(super) file: Option<u64>,
}

/// What came for an answer.
#[derive(Debug, Default)]
pub(super) struct Outcome<'a> {
    /// SFTP's status code; none where nobody answered.
    pub(super) result: Option<u32>,
    /// What was said about a failure.
    pub(super) error: Cow<'a, [u8]>,
    /// The name that was asked for.
    pub(super) to: Option<&'a [u8]>,
    /// How many names a directory gave.
    pub(super) count: Option<u32>,
    pub(super) attrs: Option<Attrs>,
}

impl<'a> Outcome<'a> {
    /// Success.
    pub(super) fn done() -> Self {
        Self { result: Some(0), ..Self::default() }
    }

    /// A status as the server gave it; where it said nothing, what the draft says about the code.
    pub(super) fn status(code: u32, message: &'a [u8]) -> Self {
        let error = match code {
            0 => Cow::default(),
            _ if !message.is_empty() => Cow::Borrowed(message),
            _ => Cow::Owned(meaning(code).into_bytes()),
        };
        Self { result: Some(code), error, ..Self::default() }
    }

    /// No answer, and why there is none.
    pub(super) fn none(why: &'a str) -> Self {
        Self { error: Cow::Borrowed(why.as_bytes()), ..Self::default() }
    }
}

/// The status codes of version 3 (draft §7).
fn meaning(code: u32) -> String {
    let known = ["ok", "end of file", "no such file", "permission denied", "failure", "bad message"];
    let more = ["no connection", "connection lost", "operation unsupported"];
    let name = usize::try_from(code).ok().and_then(|code| known.iter().chain(&more).nth(code));
    name.map_or_else(|| format!("status {code}"), |name| (*name).to_owned())
}

impl Request {
    /// Reads what follows a request's number.
    pub(super) fn read(kind: u8, fields: &mut Fields<'_>, clipped: bool) -> Result<Self, Lost> {
        let mut request = Self { kind, clipped, ..Self::default() };
        match kind {
            OPEN => {
                request.path = fields.string()?.to_vec();
                request.flags = fields.u32()?;
                request.attrs = Attrs::read(fields)?;
            }
            CLOSE | FSTAT | READDIR => request.handle = fields.handle()?.to_vec(),
            FSETSTAT => {
                request.handle = fields.handle()?.to_vec();
                request.attrs = Attrs::read(fields)?;
            }
            LSTAT | OPENDIR | REMOVE | RMDIR | REALPATH | STAT | READLINK => request.path = fields.string()?.to_vec(),
            SETSTAT | MKDIR => {
                request.path = fields.string()?.to_vec();
                request.attrs = Attrs::read(fields)?;
            }
            RENAME => {
                request.path = fields.string()?.to_vec();
                request.to = fields.string()?.to_vec();
            }
            SYMLINK => {
                // OpenSSH's order, which is not the draft's (its PROTOCOL, §4.1): first what the link says, then the link.
                request.to = fields.string()?.to_vec();
                request.path = fields.string()?.to_vec();
            }
            EXTENDED => request.extended(fields)?,
            // A server that does not know it says so.
            _ => {}
        }
        Ok(request)
    }

    /// OpenSSH's extensions (its PROTOCOL, §4); of others there is the name.
    fn extended(&mut self, fields: &mut Fields<'_>) -> Result<(), Lost> {
        self.name = fields.string()?.to_vec();
        match self.name.as_slice() {
            b"posix-rename@openssh.com" | b"hardlink@openssh.com" => {
                self.path = fields.string()?.to_vec();
                self.to = fields.string()?.to_vec();
            }
            b"statvfs@openssh.com" | b"expand-path@openssh.com" => self.path = fields.string()?.to_vec(),
            b"fsync@openssh.com" | b"fstatvfs@openssh.com" => self.handle = fields.handle()?.to_vec(),
            b"lsetstat@openssh.com" => {
                self.path = fields.string()?.to_vec();
                self.attrs = Attrs::read(fields)?;
            }
            b"copy-data" => {
                self.handle = fields.handle()?.to_vec();
                let (_from, _len) = (fields.u64()?, fields.u64()?);
                self.to_handle = fields.handle()?.to_vec();
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the answer names a place: `realpath` and its like.
    pub(super) fn asks_name(&self) -> bool {
        matches!(self.kind, REALPATH | READLINK) || (self.kind == EXTENDED && self.name == b"expand-path@openssh.com")
    }

    /// How much memory it takes while it waits.
    pub(super) fn weight(&self) -> usize {
        let text = [&self.name, &self.path, &self.to, &self.handle, &self.to_handle];
        size_of::<Self>() + text.into_iter().map(Vec::len).sum::<usize>()
    }

    /// Tells what was done, with what came of it.
    pub(super) fn event(&self, chan: u32, outcome: &Outcome<'_>) -> Event {
        if self.kind == OPEN {
            return self.open_event(chan, outcome);
        }
        let what = match self.kind {
            EXTENDED => Value::from(self.name.as_slice()),
            kind => operation(kind).map_or_else(|| Value::from(format!("request {kind}")), Value::from),
        };
        let to = outcome.to.unwrap_or(&self.to);
        let attrs = outcome.attrs.unwrap_or(self.attrs);
        let mut event = Event::map(file_op::TYPE, chan).with(file_op::WHAT, what);
        let texts = [(file_op::PATH, self.path.as_slice()), (file_op::TO, to), (file_op::ERROR, &*outcome.error)];
        for (field, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            event = event.with(field, text);
        }
        let (owner, times) = (attrs.owner.unzip(), attrs.times.unzip());
        let numbers = [
            (file_op::FILE, self.file),
            (file_op::RESULT, outcome.result.map(u64::from)),
            (file_op::SIZE, attrs.size),
            (file_op::UID, owner.0.map(u64::from)),
            (file_op::GID, owner.1.map(u64::from)),
            (file_op::MODE, attrs.mode.map(u64::from)),
            (file_op::ATIME, times.0.map(u64::from)),
            (file_op::MTIME, times.1.map(u64::from)),
            (file_op::COUNT, outcome.count.map(u64::from)),
            (file_op::CLIPPED, self.clipped.then_some(1)),
        ];
        for (field, number) in numbers {
            if let Some(number) = number {
                event = event.with(field, number);
            }
        }
        event
    }

    fn open_event(&self, chan: u32, outcome: &Outcome<'_>) -> Event {
        let mut event = Event::map(file_open::TYPE, chan)
            .with(file_open::PATH, self.path.as_slice())
            .with(file_open::FLAGS, self.flags);
        if !outcome.error.is_empty() {
            event = event.with(file_open::ERROR, &*outcome.error);
        }
        let numbers = [
            (file_open::FILE, self.file),
            (file_open::RESULT, outcome.result.map(u64::from)),
            (file_open::MODE, self.attrs.mode.map(u64::from)),
            (file_open::CLIPPED, self.clipped.then_some(1)),
        ];
        for (field, number) in numbers {
            if let Some(number) = number {
                event = event.with(field, number);
            }
        }
        event
    }
}

/// What a request without a name of its own is called.
fn operation(kind: u8) -> Option<&'static str> {
    Some(match kind {
        CLOSE => "close",
        LSTAT => "lstat",
        FSTAT => "fstat",
        SETSTAT => "setstat",
        FSETSTAT => "fsetstat",
        OPENDIR => "opendir",
        READDIR => "readdir",
        REMOVE => "remove",
        MKDIR => "mkdir",
        RMDIR => "rmdir",
        REALPATH => "realpath",
        STAT => "stat",
        RENAME => "rename",
        READLINK => "readlink",
        SYMLINK => "symlink",
        _ => return None,
    })
}
