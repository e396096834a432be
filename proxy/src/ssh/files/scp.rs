//! scp's own protocol, as OpenSSH's scp.c speaks it with `-O` and everybody did before: lines that announce, bodies, and
//! single bytes that answer.
//!
//! The sender waits for an answer to every line before it goes on; one that does not is no scp. So a body begins only
//! where the receiver agreed to it.

use casemate_recorder::transcript::event::{Event, Side, file_op, file_open};

use super::argv::ScpWords;
use super::open_file::OpenFile;
use super::{Lost, Seen};

/// A line or an answer is at most this long, and so are the directories that a transfer is in.
const LINE_LEN_MAX: usize = 64 * 1024;

/// Where the sender is.
#[derive(Debug)]
enum At {
    Line,
    /// Bytes of the file that are still to come.
    Body(u64),
    /// The sender says how the file went for it.
    Status,
}

/// What the receiver has to answer.
#[derive(Debug)]
enum Awaited {
    /// That it is there.
    Start,
    /// To times: modification and access.
    Times(u64, u64),
    File(Announced),
    Dir(Announced),
    DirEnd,
    /// How the file went; with the sender's own word on it.
    Body(u8, Vec<u8>),
}

/// A file or directory that the sender announced.
#[derive(Debug)]
struct Announced {
    mode: u64,
    size: u64,
    name: Vec<u8>,
}

/// One conversation.
#[derive(Debug)]
pub(super) struct Scp {
    chan: u32,
    words: ScpWords,
    at: At,
    line: Vec<u8>,
    awaited: Option<Awaited>,
    /// What there is of an answer with words.
    answer: Vec<u8>,
    /// The receiver's answer to a body that had not ended.
    early: Option<(u8, Vec<u8>)>,
    dirs: Vec<Vec<u8>>,
    times: Option<(u64, u64)>,
    file: Option<(u64, OpenFile)>,
    next_file: u64,
}

impl Scp {
    pub(super) fn new(chan: u32, words: ScpWords) -> Self {
        Self {
            chan,
            words,
            at: At::Line,
            line: Vec::new(),
            awaited: Some(Awaited::Start),
            answer: Vec::new(),
            early: None,
            dirs: Vec::new(),
            times: None,
            file: None,
            next_file: 0,
        }
    }

    fn sender(&self) -> Side {
        if self.words.receives { Side::Client } else { Side::Target }
    }

    /// Takes what a side sent next.
    pub(super) fn feed(&mut self, side: Side, data: &[u8], seen: &mut Seen) -> Result<(), Lost> {
        if side != self.sender() {
            return data.iter().try_for_each(|byte| self.answer_byte(*byte, seen));
        }
        let mut pos = 0;
        while let Some(rest) = data.get(pos..).filter(|rest| !rest.is_empty()) {
            if self.awaited.is_some() {
                return Err(Lost::of("the sender did not wait for an answer: this is not scp"));
            }
            pos += match self.at {
                At::Body(left) => {
                    let len = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                    let content = rest.get(..len).unwrap_or(rest);
                    if let Some((number, file)) = &mut self.file {
                        file.take(self.chan, *number, side, content, &mut seen.events);
                        seen.content.push(pos..pos + len);
                    }
                    self.at = if left == len as u64 { At::Status } else { At::Body(left - len as u64) };
                    len
                }
                At::Status if self.line.is_empty() && rest.first() == Some(&0) => {
                    self.body_sent(0, Vec::new(), seen);
                    1
                }
                At::Line | At::Status => match rest.iter().position(|byte| *byte == b'\n') {
                    Some(end) => {
                        self.line.extend_from_slice(rest.get(..end).unwrap_or_default());
                        let line = std::mem::take(&mut self.line);
                        self.line_ended(&line, seen)?;
                        end + 1
                    }
                    None if self.line.len() + rest.len() > LINE_LEN_MAX => return Err(Lost::of("a line without end")),
                    None => {
                        self.line.extend_from_slice(rest);
                        rest.len()
                    }
                },
            };
        }
        Ok(())
    }

    fn line_ended(&mut self, line: &[u8], seen: &mut Seen) -> Result<(), Lost> {
        if line.len() > LINE_LEN_MAX {
            return Err(Lost::of("a line without end"));
        }
        let Some((first, rest)) = line.split_first() else { return Err(Lost::of("an empty line")) };
        match (first, &self.at) {
            (code @ (1 | 2), At::Status) => self.body_sent(*code, rest.to_vec(), seen),
            (code @ (1 | 2), _) => self.complaint(*code, rest, seen),
            (b'T', At::Line) => {
                let mut words = rest.split(|byte| *byte == b' ').map(number::<10>);
                match (words.next().flatten(), words.next(), words.next().flatten()) {
                    (Some(modified), Some(_), Some(accessed)) => {
                        self.awaited = Some(Awaited::Times(modified, accessed));
                    }
                    _ => return Err(Lost::of("times that are none")),
                }
            }
            (b'C', At::Line) => self.awaited = Some(Awaited::File(announced(rest)?)),
            (b'D', At::Line) => self.awaited = Some(Awaited::Dir(announced(rest)?)),
            (b'E', At::Line) if rest.is_empty() => self.awaited = Some(Awaited::DirEnd),
            _ => return Err(Lost::of("a line that is not scp's")),
        }
        Ok(())
    }

    /// The sender has said how the file went for it; most receivers have not answered yet.
    fn body_sent(&mut self, code: u8, message: Vec<u8>, seen: &mut Seen) {
        self.at = At::Line;
        self.awaited = Some(Awaited::Body(code, message));
        if let Some((code, message)) = self.early.take() {
            self.answered(code, &message, seen);
        }
    }

    fn answer_byte(&mut self, byte: u8, seen: &mut Seen) -> Result<(), Lost> {
        match (self.answer.first(), byte) {
            (None, 0) => self.answer_ended(0, Vec::new(), seen),
            (None, 1 | 2) => {
                self.answer.push(byte);
                Ok(())
            }
            (None, _) => Err(Lost::of("an answer that is not scp's")),
            (Some(code), b'\n') => {
                let code = *code;
                let message = self.answer.split_off(1);
                self.answer.clear();
                self.answer_ended(code, message, seen)
            }
            (Some(_), _) if self.answer.len() > LINE_LEN_MAX => Err(Lost::of("an answer without end")),
            (Some(_), byte) => {
                self.answer.push(byte);
                Ok(())
            }
        }
    }

    fn answer_ended(&mut self, code: u8, message: Vec<u8>, seen: &mut Seen) -> Result<(), Lost> {
        match (&self.awaited, &self.at) {
            (Some(_), _) => self.answered(code, &message, seen),
            (None, At::Body(_) | At::Status) if code != 0 && self.early.is_none() => self.early = Some((code, message)),
            (None, _) => return Err(Lost::of("an answer to nothing")),
        }
        let held: usize = self.dirs.iter().map(Vec::len).sum();
        if held > LINE_LEN_MAX { Err(Lost::of("directories without end")) } else { Ok(()) }
    }

    fn answered(&mut self, code: u8, message: &[u8], seen: &mut Seen) {
        match self.awaited.take() {
            Some(Awaited::Times(modified, accessed)) if code == 0 => self.times = Some((modified, accessed)),
            Some(Awaited::File(announced)) => {
                let number = (code == 0).then_some(self.next_file);
                seen.events.push(self.opened(&announced, number, Some(code), message));
                if let Some(number) = number {
                    self.next_file += 1;
                    let flags = if self.words.receives { 2 } else { 0 };
                    self.file = Some((number, OpenFile::new(self.path(&announced.name), flags, false)));
                    self.at = if announced.size == 0 { At::Status } else { At::Body(announced.size) };
                }
            }
            Some(Awaited::Dir(announced)) => {
                self.times = None;
                seen.events.push(self.directory(&announced, Some(code), message));
                if code == 0 {
                    self.dirs.push(announced.name);
                }
            }
            Some(Awaited::DirEnd) => {
                self.dirs.pop();
            }
            Some(Awaited::Body(sent, said)) => {
                let Some((number, mut file)) = self.file.take() else { return };
                file.written = file.up.bytes();
                if code != 0 {
                    file.up.spoil("the target reported an error");
                }
                let (result, error) = if code == 0 { (sent, said.as_slice()) } else { (code, message) };
                file.close(self.chan, number, Some(result.into()), error, &mut seen.events);
            }
            Some(Awaited::Start | Awaited::Times(..)) | None if code != 0 => self.complaint(code, message, seen),
            Some(Awaited::Start | Awaited::Times(..)) | None => {}
        }
    }

    /// What one side says went wrong, apart from a file that is on its way.
    fn complaint(&self, code: u8, message: &[u8], seen: &mut Seen) {
        let event = Event::map(file_op::TYPE, self.chan)
            .with(file_op::WHAT, "scp")
            .with(file_op::RESULT, u64::from(code))
            .with(file_op::ERROR, message);
        seen.events.push(match self.words.paths.as_slice() {
            [path] => event.with(file_op::PATH, path.as_slice()),
            _ => event,
        });
    }

    fn opened(&mut self, announced: &Announced, number: Option<u64>, result: Option<u8>, error: &[u8]) -> Event {
        let mut event = Event::map(file_open::TYPE, self.chan)
            .with(file_open::PATH, self.path(&announced.name).as_slice())
            .with(file_open::NAME, join(None, self.names(&announced.name)).as_slice())
            .with(file_open::SIZE, announced.size)
            .with(file_open::MODE, announced.mode);
        if let Some(number) = number {
            event = event.with(file_open::FILE, number);
        }
        if let Some((modified, accessed)) = self.times.take() {
            event = event.with(file_open::MTIME, modified).with(file_open::ATIME, accessed);
        }
        if let Some(result) = result {
            event = event.with(file_open::RESULT, u64::from(result));
        }
        if error.is_empty() { event } else { event.with(file_open::ERROR, error) }
    }

    fn directory(&self, announced: &Announced, result: Option<u8>, error: &[u8]) -> Event {
        let mut event = Event::map(file_op::TYPE, self.chan)
            .with(file_op::WHAT, "directory")
            .with(file_op::PATH, self.path(&announced.name).as_slice())
            .with(file_op::MODE, announced.mode);
        if let Some(result) = result {
            event = event.with(file_op::RESULT, u64::from(result));
        }
        if error.is_empty() { event } else { event.with(file_op::ERROR, error) }
    }

    /// The names that lead to what is announced, as the sender gave them.
    fn names<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.dirs.iter().map(Vec::as_slice).chain(std::iter::once(name))
    }

    /// The path at the target, as far as the command and the names tell. Where scp was told a path to receive at and not that
    /// it is a directory, the path stands for the first name: only the target knows better.
    fn path(&self, name: &[u8]) -> Vec<u8> {
        let mut names = self.names(name);
        let paths = &self.words.paths;
        if self.words.receives {
            let Some(base) = paths.first() else { return join(None, names) };
            let last = base.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            if !self.words.into_dir && !matches!(last, b"" | b"." | b"..") {
                names.next();
            }
            return join(Some(base), names);
        }
        let first = names.next().unwrap_or_default();
        let named = |path: &&Vec<u8>| {
            let path = path.strip_suffix(b"/").unwrap_or(path.as_slice());
            path.rsplit(|byte| *byte == b'/').next() == Some(first)
        };
        let only = paths.first().filter(|_| paths.len() == 1);
        match paths.iter().find(named).or(only) {
            Some(path) => join(Some(path), names),
            None => join(Some(first), names),
        }
    }

    /// Tells what had no end, and why there will be none.
    pub(super) fn abandon(&mut self, why: &str, seen: &mut Seen) {
        match self.awaited.take() {
            Some(Awaited::File(announced)) => seen.events.push(self.opened(&announced, None, None, why.as_bytes())),
            Some(Awaited::Dir(announced)) => seen.events.push(self.directory(&announced, None, why.as_bytes())),
            _ => {}
        }
        if let Some((number, mut file)) = self.file.take() {
            // Nothing is confirmed before the end: what is told is what was sent, and that nobody answered.
            file.written = file.up.bytes();
            file.close(self.chan, number, None, why.as_bytes(), &mut seen.events);
        }
    }
}

/// Reads what follows `C` or `D`: mode, size and name.
fn announced(rest: &[u8]) -> Result<Announced, Lost> {
    let mut words = rest.splitn(3, |byte| *byte == b' ');
    let (mode, size, name) = (words.next(), words.next(), words.next());
    match (mode.and_then(number::<8>), size.and_then(number::<10>), name) {
        (Some(mode), Some(size), Some(name)) if !name.is_empty() => Ok(Announced { mode, size, name: name.to_vec() }),
        _ => Err(Lost::of("a line that is not scp's")),
    }
}

fn number<const RADIX: u32>(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    // A sign parses as a number too.
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    u64::from_str_radix(text, RADIX).ok().filter(|_| plain)
}

fn join<'a>(base: Option<&[u8]>, names: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut path = base.unwrap_or_default().to_vec();
    for name in names {
        if !path.is_empty() && !path.ends_with(b"/") {
            path.push(b'/');
        }
        path.extend_from_slice(name);
    }
    path
}

#[cfg(test)]
#[path = "scp_tests.rs"]
mod tests;
