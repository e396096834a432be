//! Reads transcripts: blocks out of segments, events out of blocks, in the order in which they happened.
//!
//! Every block is checked against its link and its predecessor before anything in it is used. Memory stays bounded
//! whatever the files hold: one block a lane is decoded at a time. Decides nothing about trust; that is `verify`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use casemate_recorder::transcript::block::{Block, BlockError, HEADER_LEN, Header, Kind, SessionId};
use casemate_recorder::transcript::chain::{Chain, TRAILER_LEN, events};
use casemate_recorder::transcript::cipher::LaneKeys;
use casemate_recorder::transcript::event::{Entry, Lane};
use casemate_recorder::transcript::head::Head;
use casemate_recorder::transcript::seal::{Close, Recovered, SIGNATURE_LEN, decode_statement};
use casemate_recorder::transcript::wrap::{Identity, UnwrapError, unwrap};
use casemate_recorder::vault::s3::Standing;
use casemate_recorder::vault::segment_key;

use crate::ReplayError;
use crate::vault::{Vault, Version};

/// How much is read from a file at once: large enough to be rare, small enough to stay in the cache while it is hashed.
const READ_LEN: usize = 256 * 1024;

/// The blocks of one segment, one after the other, through a buffer that is used again.
#[derive(Debug)]
pub struct SegmentReader<'b> {
    /// What is read on from; nothing where the buffer holds the whole segment.
    file: Option<File>,
    path: PathBuf,
    len: u64,
    buffer: &'b mut Vec<u8>,
    /// The part of the buffer that is read and not yet handed out.
    start: usize,
    end: usize,
    /// Offset in the segment of the byte at `start`.
    offset: u64,
}

impl<'b> SegmentReader<'b> {
    /// Opens a segment file; `None` where there is none.
    ///
    /// # Errors
    /// It is not a plain file, or cannot be opened.
    pub fn open(path: &Path, buffer: &'b mut Vec<u8>) -> Result<Option<Self>, ReplayError> {
        let found = match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found.map_err(ReplayError::io("look at", path))?,
        };
        if !found.is_file() {
            return Err(Self::block_error(path, 0, BlockError::Header("not a plain file")));
        }
        let file = File::open(path).map_err(ReplayError::io("open", path))?;
        Ok(Some(Self {
            file: Some(file),
            path: path.to_owned(),
            len: found.len(),
            buffer,
            start: 0,
            end: 0,
            offset: 0,
        }))
    }

    /// Reads a segment that lies in the buffer already, whole or from its beginning; `len` is that of the whole.
    pub(crate) fn loaded(path: PathBuf, len: u64, buffer: &'b mut Vec<u8>) -> Self {
        let end = buffer.len();
        Self { file: None, path, len, buffer, start: 0, end, offset: 0 }
    }

    /// Opens a version of a segment, and says what the server says of it; `None` where there is none.
    ///
    /// # Errors
    /// It is not a plain file, or cannot be read.
    pub(crate) fn open_version(
        vault: &Vault,
        session: SessionId,
        segment_no: u32,
        version: &Version,
        buffer: &'b mut Vec<u8>,
    ) -> Result<Option<(Self, Option<Standing>)>, ReplayError> {
        let place = vault.place(&segment_key(session, segment_no));
        let Some(bucket) = vault.bucket() else {
            return Ok(Self::open(&place, buffer)?.map(|reader| (reader, None)));
        };
        let standing = bucket.segment(session, segment_no, version, buffer)?;
        let len = buffer.len() as u64;
        Ok(standing.map(|standing| (Self::loaded(place, len, buffer), Some(standing))))
    }

    /// Opens a segment: of a name that stands for several, what was put there first. Whether that is the right one, the log
    /// says, and `verify`.
    ///
    /// # Errors
    /// It is not a plain file, or cannot be read.
    pub(crate) fn open_first(
        vault: &Vault,
        session: SessionId,
        segment_no: u32,
        buffer: &'b mut Vec<u8>,
    ) -> Result<Option<Self>, ReplayError> {
        let Some(first) = vault.segment_versions(session, segment_no).into_iter().next() else { return Ok(None) };
        let opened = Self::open_version(vault, session, segment_no, &first, buffer)?;
        Ok(opened.map(|(reader, _)| reader))
    }

    /// Goes to a block that begins at `offset`. Only for a reader that has read nothing yet.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn skip_to(&mut self, offset: u64) -> Result<(), ReplayError> {
        match &mut self.file {
            Some(file) => drop(file.seek(SeekFrom::Start(offset)).map_err(ReplayError::io("read", &self.path))?),
            None => self.start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.end),
        }
        self.offset = offset;
        Ok(())
    }

    /// Returns the length of the file in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns where the next block begins, in bytes from the start of the file.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn block_error(path: &Path, offset: u64, source: BlockError) -> ReplayError {
        ReplayError::Block { path: path.to_owned(), offset, source }
    }

    /// Reads on until `need` bytes are buffered or the file ends.
    fn fill(&mut self, need: usize) -> Result<(), ReplayError> {
        while self.end - self.start < need {
            let Some(file) = &mut self.file else { return Ok(()) };
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            // No block is longer than its limits, which the header was held against: the buffer stops growing.
            if self.buffer.len() < need.max(READ_LEN) {
                self.buffer.resize(need.max(READ_LEN), 0);
            }
            let room = self.buffer.get_mut(self.end..).unwrap_or_default();
            match file.read(room).map_err(ReplayError::io("read", &self.path))? {
                0 => return Ok(()),
                read => self.end += read,
            }
        }
        Ok(())
    }

    /// Returns the bytes that are buffered, at most `max`.
    fn buffered(&self, max: usize) -> &[u8] {
        self.buffer.get(self.start..self.end.min(self.start.saturating_add(max))).unwrap_or_default()
    }

    /// Returns the next block with its offset; `None` when only the trailer is left. The link is checked.
    ///
    /// # Errors
    /// The file ends inside a block, or what follows is no block.
    pub fn next_block(&mut self) -> Result<Option<(u64, Block<'_>)>, ReplayError> {
        let offset = self.offset;
        if self.len.saturating_sub(offset) == TRAILER_LEN as u64 {
            return Ok(None);
        }
        self.fill(HEADER_LEN)?;
        let header = match self.buffered(HEADER_LEN).first_chunk() {
            Some(header) => Header::decode(header),
            None => Err(BlockError::Cut { have: self.end - self.start, need: HEADER_LEN }),
        };
        let len = header.map_err(|error| Self::block_error(&self.path, offset, error))?.block_len();
        self.fill(len)?;
        let taken = len.min(self.end - self.start);
        let from = self.start;
        self.start += taken;
        self.offset += taken as u64;
        let bytes = self.buffer.get(from..from + taken).unwrap_or_default();
        match Block::parse(bytes) {
            Ok(block) => Ok(Some((offset, block))),
            Err(error) => Err(Self::block_error(&self.path, offset, error)),
        }
    }

    /// Returns what is left of the file after the last block: the trailer.
    ///
    /// # Errors
    /// The file cannot be read, or has grown.
    pub fn rest(&mut self) -> Result<Option<[u8; TRAILER_LEN]>, ReplayError> {
        self.fill(TRAILER_LEN + 1)?;
        Ok(self.buffered(TRAILER_LEN + 1).try_into().ok())
    }
}

/// Where a block that holds events lies.
#[derive(Debug, Clone, Copy)]
struct BlockRef {
    segment_no: u32,
    offset: u64,
    len: u32,
}

/// How a transcript ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// In order.
    Closed(Close),
    /// By a crash; the next start ended it.
    Recovered(Recovered),
    /// Not within the segments that are here.
    Open,
}

/// One session's transcript, as far as the vault holds it: its blocks are checked and their places known.
#[derive(Debug)]
pub struct Transcript {
    /// The first HEAD.
    pub head: Head,
    /// How it ends.
    pub end: End,
    /// How many segments are here.
    pub segments: u32,
    /// Wall clock of the first block, in microseconds since 1970.
    pub start_us: u64,
    session: SessionId,
    keys: LaneKeys,
    paths: Vec<PathBuf>,
    /// A copy of what was fetched, and where in it each segment begins: it is read in the order of events, lane by lane.
    copy: Option<(File, Vec<u64>)>,
    lanes: [Vec<BlockRef>; 3],
}

impl Transcript {
    /// Reads through all segments of a session, checks the chain and notes where the events are. `identities` open it where
    /// it is encrypted.
    ///
    /// # Errors
    /// There is no first segment, a block is not what it should be, or no identity opens the session.
    pub fn open(vault: &Vault, session: SessionId, identities: &[Identity]) -> Result<Self, ReplayError> {
        let mut buffer = Vec::new();
        let mut chain = Chain::new(session);
        let mut found: Option<Self> = None;
        let mut end = End::Open;
        let mut copy = match vault.bucket() {
            // It has no name, so nothing of it stays; and what is encrypted in the bucket is encrypted in it.
            Some(_) => Some((
                tempfile::tempfile().map_err(ReplayError::io("make room in", &std::env::temp_dir()))?,
                Vec::new(),
            )),
            None => None,
        };
        let mut copied = 0;
        for segment_no in 0.. {
            let path = vault.place(&segment_key(session, segment_no));
            let Some(mut reader) = SegmentReader::open_first(vault, session, segment_no, &mut buffer)? else { break };
            if let Some((file, bases)) = &mut copy {
                let whole = reader.buffered(usize::MAX);
                file.write_all(whole).map_err(ReplayError::io("copy to", &std::env::temp_dir()))?;
                bases.push(copied);
                copied += whole.len() as u64;
            }
            if segment_no > 0 {
                chain.next_segment();
            }
            while let Some((offset, block)) = reader.next_block()? {
                let broken = |source| ReplayError::Chain { path: path.clone(), offset, source };
                chain.accept(&block.header, block.link).map_err(broken)?;
                let bad = |source| ReplayError::Block { path: path.clone(), offset, source };
                let place = BlockRef { segment_no, offset, len: block.raw.len() as u32 };
                match (block.header.kind, &mut found) {
                    (Kind::Head, None) => {
                        let head = Head::decode(block.payload).map_err(bad)?;
                        let keys = open_keys(session, &head, identities)?;
                        found = Some(Self::begin(session, head, keys, block.header.wall_us));
                    }
                    (Kind::Data | Kind::Micro, Some(found)) => found.lane_mut(block.header.lane).push(place),
                    (Kind::Close, _) => end = End::Closed(statement(&block).map_err(bad)?),
                    (Kind::Recovered, _) => end = End::Recovered(statement(&block).map_err(bad)?),
                    _ => {}
                }
            }
            if let Some(found) = &mut found {
                found.paths.push(path);
                found.segments += 1;
            }
        }
        let mut found = found.ok_or_else(|| {
            let place = segment_key(session, 0);
            ReplayError::evidence(place, "is not in this vault: the session is live, pending or missing; see `verify`")
        })?;
        found.end = end;
        found.copy = copy;
        Ok(found)
    }

    fn begin(session: SessionId, head: Head, keys: LaneKeys, start_us: u64) -> Self {
        Self {
            head,
            keys,
            end: End::Open,
            segments: 0,
            start_us,
            session,
            paths: Vec::new(),
            copy: None,
            lanes: [Vec::new(), Vec::new(), Vec::new()],
        }
    }

    fn lane_mut(&mut self, lane: Lane) -> &mut Vec<BlockRef> {
        let [meta, output, input] = &mut self.lanes;
        match lane {
            Lane::Meta => meta,
            Lane::Output => output,
            Lane::Input => input,
        }
    }

    /// Returns the session.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Returns the events of the given lanes in the order in which they happened.
    pub fn events(&self, lanes: &[Lane]) -> Events<'_> {
        let whole = Lane::ALL.iter().all(|lane| lanes.contains(lane));
        let [meta, output, input] = &self.lanes;
        let cursors = [(Lane::Meta, meta), (Lane::Output, output), (Lane::Input, input)]
            .into_iter()
            .filter(|(lane, _)| lanes.contains(lane))
            .map(|(_, blocks)| Cursor { blocks: blocks.iter(), run: VecDeque::new(), file: None })
            .collect();
        // A transcript that goes on may hold newer events of one lane while older ones of another are still on the way.
        let dense = whole && self.end != End::Open;
        Events { transcript: self, cursors, next_seq: 0, dense, failed: false }
    }
}

/// Unwraps the keys of a session.
pub(crate) fn open_keys(session: SessionId, head: &Head, identities: &[Identity]) -> Result<LaneKeys, ReplayError> {
    if head.lane_keys.is_some() && identities.is_empty() {
        let what = "is encrypted: give --identity FILE, the auditor's or another recipient's";
        return Err(ReplayError::Usage(format!("session {session} {what}")));
    }
    unwrap(head, identities).map_err(|error| match error {
        UnwrapError::Stranger { .. } => ReplayError::Usage(format!("session {session}: {error}")),
        _ => ReplayError::evidence(format!("session {session}"), error.to_string()),
    })
}

/// Reads the statement of a CLOSE or RECOVERED block; whose signature it carries is for `verify` to say.
fn statement<T>(block: &Block<'_>) -> Result<T, BlockError>
where
    T: for<'a> minicbor::Decode<'a, ()>,
{
    let Some((statement, _)) = block.payload.split_last_chunk::<SIGNATURE_LEN>() else {
        return Err(BlockError::Payload("a seal without a signature"));
    };
    decode_statement(statement)
}

/// One lane on its way through the blocks.
#[derive(Debug)]
struct Cursor<'a> {
    blocks: std::slice::Iter<'a, BlockRef>,
    run: VecDeque<(u64, Entry)>,
    file: Option<(u32, File)>,
}

impl Cursor<'_> {
    /// Decodes the next block with events, if none are left of the last one.
    fn refill(&mut self, transcript: &Transcript) -> Result<(), ReplayError> {
        while self.run.is_empty() {
            let Some(place) = self.blocks.next() else { return Ok(()) };
            let Some(path) = transcript.paths.get(place.segment_no as usize) else { return Ok(()) };
            let mut bytes = vec![0; place.len as usize];
            if let Some((copy, bases)) = &transcript.copy {
                let base = bases.get(place.segment_no as usize).copied().unwrap_or_default();
                copy.read_exact_at(&mut bytes, base + place.offset)
                    .map_err(ReplayError::io("read the copy of", path))?;
            } else {
                let file = match self.file.take() {
                    Some((segment_no, file)) if segment_no == place.segment_no => file,
                    _ => File::open(path).map_err(ReplayError::io("open", path))?,
                };
                file.read_exact_at(&mut bytes, place.offset).map_err(ReplayError::io("read", path))?;
                self.file = Some((place.segment_no, file));
            }
            let bad = |source| ReplayError::Block { path: path.clone(), offset: place.offset, source };
            self.run = events(&Block::parse(&bytes).map_err(bad)?, &transcript.keys).map_err(bad)?.into();
        }
        Ok(())
    }
}

/// The events of a transcript, in order.
#[derive(Debug)]
pub struct Events<'a> {
    transcript: &'a Transcript,
    cursors: Vec<Cursor<'a>>,
    next_seq: u64,
    /// Whether numbers may not be left out.
    dense: bool,
    failed: bool,
}

impl Events<'_> {
    fn step(&mut self) -> Result<Option<(u64, Entry)>, ReplayError> {
        for cursor in &mut self.cursors {
            cursor.refill(self.transcript)?;
        }
        let first = self.cursors.iter_mut().filter(|cursor| !cursor.run.is_empty());
        let first = first.min_by_key(|cursor| cursor.run.front().map(|(_, entry)| entry.seq));
        let Some((t_us, entry)) = first.and_then(|cursor| cursor.run.pop_front()) else { return Ok(None) };
        if entry.seq < self.next_seq || (self.dense && entry.seq > self.next_seq) {
            let place = format!("session {}", self.transcript.session);
            let what = format!("event {} where event {} should be", entry.seq, self.next_seq);
            return Err(ReplayError::evidence(place, what));
        }
        self.next_seq = entry.seq.saturating_add(1);
        Ok(Some((t_us, entry)))
    }
}

impl Iterator for Events<'_> {
    /// Microseconds since the session began, and the event.
    type Item = Result<(u64, Entry), ReplayError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let step = self.step();
        self.failed = step.is_err();
        step.transpose()
    }
}
