//! SFTP version 3 (draft-ietf-secsh-filexfer-02, and OpenSSH's PROTOCOL §4): what is done, by both sides' packets.
//!
//! A listener: it changes nothing, keeps no content and never holds more than its limits. What succeeded is told by the
//! server's answers alone. Where it cannot follow it says so and stops.

mod packets;
mod request;

use std::borrow::Cow;
use std::collections::HashMap;

use casemate_recorder::transcript::event::{Event, Side, file_op};

use self::packets::{
    ATTRS, Attrs, Cutter, DATA, EXTENDED_REPLY, Fields, HANDLE, NAME, Piece, SPOKEN, STATUS, VERSION, WRITE,
};
use self::request::{CLOSE, INIT, OPEN, OPENDIR, Outcome, READ, READDIR, Request};
use super::open_file::OpenFile;
use super::{Lost, Seen};

/// The status that says that there is no more to read.
const END_OF_FILE: u32 = 1;

/// Requests without an answer. Some clients ask for all of a file at once, 32 KiB a request.
const PENDING_MAX: usize = 65_536;

/// Handles at a time; a server has no more files open than its system lets it, 1024 as a rule.
const FILES_MAX: usize = 1_024;

/// What requests and open files may keep in memory, apart from the fixed part of a read or write.
const HELD_MAX: usize = 4 << 20;

/// A request that waits for its answer.
#[derive(Debug)]
enum Pending {
    /// With the open file, where the handle is one of ours, and the offset.
    Read(Option<u64>, u64),
    /// With the open file and the length.
    Write(Option<u64>, u64),
    Other(Box<Request>),
}

/// One conversation.
#[derive(Debug)]
pub(super) struct Sftp {
    client: Cutter,
    target: Cutter,
    talk: Talk,
}

/// What was said so far.
#[derive(Debug)]
struct Talk {
    chan: u32,
    /// Whether the client, and then the server, has said which version it speaks.
    greeted: [bool; 2],
    pending: HashMap<u32, Pending>,
    handles: HashMap<Vec<u8>, u64>,
    files: HashMap<u64, OpenFile>,
    next_file: u64,
    held: usize,
    /// The open file that the content on its way is for, from the client and from the target.
    moving: [Option<u64>; 2],
    /// Whose content came last, of each side.
    moved: [Option<u64>; 2],
}

impl Sftp {
    pub(super) fn new(chan: u32) -> Self {
        let talk = Talk {
            chan,
            greeted: [false; 2],
            pending: HashMap::new(),
            handles: HashMap::new(),
            files: HashMap::new(),
            next_file: 0,
            held: 0,
            moving: [None; 2],
            moved: [None; 2],
        };
        Self { client: Cutter::new(WRITE), target: Cutter::new(DATA), talk }
    }

    /// Takes what a side sent next.
    pub(super) fn feed(&mut self, side: Side, data: &[u8], seen: &mut Seen) -> Result<(), Lost> {
        let Self { client, target, talk } = self;
        let cutter = match side {
            Side::Client => client,
            Side::Target => target,
        };
        let mut pos = 0;
        while let Some(piece) = cutter.next(data, &mut pos)? {
            match (piece, side) {
                (Piece::Packet { head, clipped }, Side::Client) => talk.request(head, clipped)?,
                (Piece::Packet { head, clipped }, Side::Target) => talk.answer(head, clipped, seen)?,
                (Piece::Begin { head }, Side::Client) => talk.write(head)?,
                (Piece::Begin { head }, Side::Target) => talk.data(head)?,
                (Piece::Content(place), side) => {
                    let content = data.get(place.clone()).unwrap_or_default();
                    if talk.content(side, content, seen) {
                        seen.content.push(place);
                    }
                }
                (Piece::End, side) => *talk.moving_mut(side) = None,
            }
        }
        Ok(())
    }

    /// Tells what had no end, and why there will be none.
    pub(super) fn abandon(&mut self, why: &str, seen: &mut Seen) {
        let talk = &mut self.talk;
        let mut pending: Vec<_> = talk.pending.drain().collect();
        pending.sort_unstable_by_key(|(id, _)| *id);
        for (_, pending) in pending {
            // A close is told with its file, reads and writes by what they moved.
            if let Pending::Other(request) = pending
                && (request.kind != CLOSE || request.file.is_none())
            {
                seen.events.push(request.event(talk.chan, &Outcome::none(why)));
            }
        }
        let mut files: Vec<_> = talk.files.drain().collect();
        files.sort_unstable_by_key(|(number, _)| *number);
        for (number, file) in files {
            file.close(talk.chan, number, None, why.as_bytes(), &mut seen.events);
        }
        talk.handles.clear();
    }
}

/// Returns what a pair has of a side.
fn half<T>([client, target]: &mut [T; 2], side: Side) -> &mut T {
    match side {
        Side::Client => client,
        Side::Target => target,
    }
}

impl Talk {
    fn moving_mut(&mut self, side: Side) -> &mut Option<u64> {
        half(&mut self.moving, side)
    }

    /// Both sides say which version they speak before anything else, the client first.
    fn greeting(&mut self, kind: u8, fields: &mut Fields<'_>) -> Result<(), Lost> {
        let [client, server] = &mut self.greeted;
        let (expected, said) = if kind == INIT { (true, client) } else { (*client, server) };
        if !expected || std::mem::replace(said, true) {
            return Err(Lost::of("a greeting out of turn"));
        }
        match fields.u32()? {
            version if kind == VERSION && version != SPOKEN => {
                Err(Lost::of(format!("version {version} of SFTP is not read")))
            }
            _ => Ok(()),
        }
    }

    fn ready(&self) -> Result<(), Lost> {
        if self.greeted == [true; 2] { Ok(()) } else { Err(Lost::of("no greeting: this is not SFTP")) }
    }

    fn put(&mut self, id: u32, pending: Pending) -> Result<(), Lost> {
        if let Pending::Other(request) = &pending {
            self.held += request.weight();
        }
        if self.pending.len() >= PENDING_MAX || self.held > HELD_MAX {
            return Err(Lost::of("more requests without an answer than can be kept"));
        }
        match self.pending.insert(id, pending) {
            None => Ok(()),
            Some(_) => Err(Lost::of("two requests under one number")),
        }
    }

    fn request(&mut self, head: &[u8], clipped: bool) -> Result<(), Lost> {
        let mut fields = Fields::new(head, clipped);
        let kind = fields.byte()?;
        if kind == INIT {
            return self.greeting(kind, &mut fields);
        }
        self.ready()?;
        let id = fields.u32()?;
        if kind == READ {
            let file = self.handles.get(fields.handle()?).copied();
            let offset = fields.u64()?;
            return self.put(id, Pending::Read(file, offset));
        }
        let mut request = Box::new(Request::read(kind, &mut fields, clipped)?);
        request.file = self.handles.get(&request.handle).copied();
        if let Some(file) = request.file.and_then(|file| self.files.get(&file)) {
            request.path = file.short_path().to_vec();
        }
        if let Some(changed) = self.handles.get(&request.to_handle)
            && let Some(file) = self.files.get_mut(changed)
        {
            request.to = file.short_path().to_vec();
            file.up.spoil("changed by copy-data too");
        }
        self.put(id, Pending::Other(request))
    }

    fn write(&mut self, head: &[u8]) -> Result<(), Lost> {
        self.ready()?;
        let mut fields = Fields::new(head, false);
        let (_kind, id) = (fields.byte()?, fields.u32()?);
        let file = self.handles.get(fields.handle()?).copied();
        let (offset, len) = (fields.u64()?, fields.u32()?);
        self.put(id, Pending::Write(file, len.into()))?;
        self.move_to(Side::Client, file);
        if let Some(file) = file.and_then(|file| self.files.get_mut(&file)) {
            file.up.begin(offset);
        }
        Ok(())
    }

    fn data(&mut self, head: &[u8]) -> Result<(), Lost> {
        self.ready()?;
        let mut fields = Fields::new(head, false);
        let (_kind, id) = (fields.byte()?, fields.u32()?);
        let Some(Pending::Read(file, offset)) = self.pending.remove(&id) else {
            return Err(Lost::of("content that nobody asked for"));
        };
        self.move_to(Side::Target, file);
        if let Some(file) = file.and_then(|file| self.files.get_mut(&file)) {
            file.down.begin(offset);
        }
        Ok(())
    }

    /// Says of which file the content that comes next is.
    fn move_to(&mut self, side: Side, file: Option<u64>) {
        *self.moving_mut(side) = file;
        if file.is_some()
            && let Some(before) =
                std::mem::replace(half(&mut self.moved, side), file).filter(|before| file != Some(*before))
            && let Some(before) = self.files.get_mut(&before)
        {
            before.rest(side);
        }
    }

    /// Takes content, and tells whether it is that of a file: what only looks like it is none.
    fn content(&mut self, side: Side, content: &[u8], seen: &mut Seen) -> bool {
        let Some(number) = *self.moving_mut(side) else { return false };
        let Some(file) = self.files.get_mut(&number).filter(|file| !file.is_dir) else { return false };
        file.take(self.chan, number, side, content, &mut seen.events);
        true
    }

    fn answer(&mut self, head: &[u8], clipped: bool, seen: &mut Seen) -> Result<(), Lost> {
        let mut fields = Fields::new(head, clipped);
        let kind = fields.byte()?;
        if kind == VERSION {
            return self.greeting(kind, &mut fields);
        }
        self.ready()?;
        let id = fields.u32()?;
        let Some(pending) = self.pending.remove(&id) else { return Err(Lost::of("an answer that nobody asked for")) };
        let outcome = match kind {
            STATUS => {
                let code = fields.u32()?;
                // Some servers leave the text out.
                let message = if fields.more() { fields.string()? } else { &[] };
                Outcome::status(code, message)
            }
            HANDLE | EXTENDED_REPLY => Outcome::done(),
            ATTRS => Outcome { attrs: Some(Attrs::read(&mut fields)?), ..Outcome::done() },
            NAME => Outcome { count: Some(fields.u32()?), ..Outcome::done() },
            _ => return Err(Lost::of(format!("an answer of unknown type {kind}"))),
        };
        match pending {
            Pending::Read(file, _) if kind == STATUS => {
                if outcome.result != Some(END_OF_FILE) {
                    self.failed("read", file, &outcome, seen);
                }
                Ok(())
            }
            Pending::Write(file, len) if kind == STATUS => {
                self.written(file, len, &outcome, seen);
                Ok(())
            }
            Pending::Other(request) => {
                self.held = self.held.saturating_sub(request.weight());
                self.answered(*request, kind, outcome, &mut fields, seen)
            }
            Pending::Read(..) | Pending::Write(..) => Err(Lost::of("an answer of another kind than the request")),
        }
    }

    fn written(&mut self, file: Option<u64>, len: u64, outcome: &Outcome<'_>, seen: &mut Seen) {
        let open = file.and_then(|file| self.files.get_mut(&file));
        match (open, outcome.result) {
            (Some(open), Some(0)) => open.written += len,
            (Some(open), _) => {
                open.up.spoil("a write failed");
                self.failed("write", file, outcome, seen);
            }
            (None, _) => self.failed("write", file, outcome, seen),
        }
    }

    fn failed(&self, what: &str, file: Option<u64>, outcome: &Outcome<'_>, seen: &mut Seen) {
        let mut event = Event::map(file_op::TYPE, self.chan).with(file_op::WHAT, what);
        if let Some((number, open)) = file.and_then(|file| Some((file, self.files.get(&file)?))) {
            event = event.with(file_op::FILE, number).with(file_op::PATH, open.short_path());
        }
        if let Some(result) = outcome.result {
            event = event.with(file_op::RESULT, result);
        }
        seen.events.push(event.with(file_op::ERROR, &*outcome.error));
    }

    fn answered<'a>(
        &mut self,
        mut request: Request,
        kind: u8,
        mut outcome: Outcome<'a>,
        fields: &mut Fields<'a>,
        seen: &mut Seen,
    ) -> Result<(), Lost> {
        match (request.kind, kind) {
            (OPEN | OPENDIR, HANDLE) => request.file = Some(self.opened(&request, fields.handle()?)?),
            (_, HANDLE) => return Err(Lost::of("an answer of another kind than the request")),
            (CLOSE, STATUS) => {
                self.closed(&request, &outcome, seen);
                return Ok(());
            }
            // Every listing ends with it.
            (READDIR, STATUS) if outcome.result == Some(END_OF_FILE) => return Ok(()),
            (_, NAME) if request.asks_name() => {
                let name = if outcome.count == Some(0) { &[] } else { fields.string()? };
                (outcome.to, outcome.count) = (Some(name), None);
            }
            _ => {}
        }
        seen.events.push(request.event(self.chan, &outcome));
        Ok(())
    }

    fn opened(&mut self, request: &Request, handle: &[u8]) -> Result<u64, Lost> {
        if handle.is_empty() {
            // Requests without a handle would be taken for requests with this one.
            return Err(Lost::of("an empty handle"));
        }
        let number = self.next_file;
        self.next_file += 1;
        let file = OpenFile::new(request.path.clone(), request.flags, request.kind == OPENDIR);
        self.held += file.weight();
        if self.files.len() >= FILES_MAX || self.held > HELD_MAX {
            return Err(Lost::of("more open files than can be kept"));
        }
        if self.handles.insert(handle.to_vec(), number).is_some() {
            return Err(Lost::of("two open files under one handle"));
        }
        self.files.insert(number, file);
        Ok(number)
    }

    /// A handle that was given back is gone, whatever the server thought of it (draft §6.3).
    fn closed(&mut self, request: &Request, outcome: &Outcome<'_>, seen: &mut Seen) {
        let file = request.file.and_then(|number| Some((number, self.files.remove(&number)?)));
        match file {
            Some((number, file)) => {
                self.handles.remove(&request.handle);
                self.held = self.held.saturating_sub(file.weight());
                if file.is_dir {
                    seen.events.push(request.event(self.chan, outcome));
                } else {
                    let error: &Cow<'_, [u8]> = &outcome.error;
                    file.close(self.chan, number, outcome.result, error, &mut seen.events);
                }
            }
            None => seen.events.push(request.event(self.chan, outcome)),
        }
    }
}
