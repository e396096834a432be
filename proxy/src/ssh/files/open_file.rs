//! An open file: what passes of it both ways, and how the record tells its end.

use casemate_recorder::transcript::event::{Event, Side, file_close, file_digest};

use super::digest::Extent;

/// SFTP's flag of an open for writing (draft §6.3).
const FOR_WRITING: u32 = 2;

/// A longer path is told with the opening and the end of its file, and in between there is the file's number.
const AGAIN_LEN_MAX: usize = 512;

/// A file between its opening and its end.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) path: Vec<u8>,
    for_writing: bool,
    pub(super) is_dir: bool,
    /// Content from the client, as it was sent.
    pub(super) up: Extent,
    /// Content from the target.
    pub(super) down: Extent,
    /// How much of `up` the target confirmed.
    pub(super) written: u64,
}

impl OpenFile {
    /// Begins with nothing moved. `flags` are those of SFTP's OPEN.
    pub(super) fn new(path: Vec<u8>, flags: u32, is_dir: bool) -> Self {
        let for_writing = flags & FOR_WRITING != 0;
        Self { path, for_writing, is_dir, up: Extent::default(), down: Extent::default(), written: 0 }
    }

    /// The path, where it is not so long that telling it again with a small request would bloat the record.
    pub(super) fn short_path(&self) -> &[u8] {
        if self.path.len() <= AGAIN_LEN_MAX { &self.path } else { &[] }
    }

    /// How much memory it takes, without hashers.
    pub(super) fn weight(&self) -> usize {
        size_of::<Self>() + self.path.len()
    }

    fn extent(&mut self, side: Side) -> &mut Extent {
        match side {
            Side::Client => &mut self.up,
            Side::Target => &mut self.down,
        }
    }

    /// Says that content of something else passes now from a side.
    pub(super) fn rest(&mut self, side: Side) {
        self.extent(side).rest();
    }

    /// Takes content from a side.
    pub(super) fn take(&mut self, chan: u32, number: u64, side: Side, content: &[u8], events: &mut Vec<Event>) {
        self.extent(side).take(content, |extent| events.push(digest(chan, number, side, extent)));
    }

    /// Tells the end. A file that content passed of both ways has what was read in an event of its own.
    pub(super) fn close(mut self, chan: u32, number: u64, result: Option<u32>, error: &[u8], events: &mut Vec<Event>) {
        let up = self.up.bytes() > 0 || (self.for_writing && self.down.bytes() == 0);
        if self.written != self.up.bytes() {
            self.up.spoil("not every write was confirmed");
        }
        let (side, extent, bytes) = match up {
            true => (Side::Client, &self.up, self.written),
            false => (Side::Target, &self.down, self.down.bytes()),
        };
        let event = Event::map(file_close::TYPE, chan)
            .with(file_close::FILE, number)
            .with(file_close::PATH, self.path.as_slice());
        let mut event = match self.is_dir {
            true => event,
            false => extent.describe(
                event.with(file_close::SIDE, side as u32).with(file_close::BYTES, bytes),
                file_close::OFFSET,
                file_close::BLAKE3,
                file_close::WHY,
            ),
        };
        if let Some(result) = result {
            event = event.with(file_close::RESULT, result);
        }
        if !error.is_empty() {
            event = event.with(file_close::ERROR, error);
        }
        events.push(event);
        if up && self.down.bytes() > 0 {
            events.push(digest(chan, number, Side::Target, &self.down));
        }
    }
}

fn digest(chan: u32, number: u64, side: Side, extent: &Extent) -> Event {
    let event = Event::map(file_digest::TYPE, chan)
        .with(file_digest::FILE, number)
        .with(file_digest::SIDE, side as u32)
        .with(file_digest::BYTES, extent.bytes());
    extent.describe(event, file_digest::OFFSET, file_digest::BLAKE3, file_digest::WHY)
}
