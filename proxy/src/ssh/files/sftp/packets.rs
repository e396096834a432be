//! Cuts one direction of SFTP into packets (draft-ietf-secsh-filexfer-02 §3) without keeping any content.
//!
//! Lengths are the peer's word: they are counted down, and nothing is reserved for them.

use std::ops::Range;

use super::Lost;

pub(super) const VERSION: u8 = 2;
pub(super) const STATUS: u8 = 101;
pub(super) const HANDLE: u8 = 102;
pub(super) const NAME: u8 = 104;
pub(super) const ATTRS: u8 = 105;
pub(super) const EXTENDED_REPLY: u8 = 201;

/// The only version that OpenSSH speaks, and that is understood here.
pub(super) const SPOKEN: u32 = 3;

/// Carries content to a file.
pub(super) const WRITE: u8 = 6;
/// Carries content of a file.
pub(super) const DATA: u8 = 103;

/// As much of a packet without content as is looked at; the rest passes by.
pub(super) const HEAD_LEN_MAX: usize = 64 * 1024;

/// The longest packet that is believed. OpenSSH takes 256 KiB, others a few megabytes.
const PACKET_LEN_MAX: usize = 16 << 20;

/// The longest handle (draft §6.3).
pub(super) const HANDLE_LEN_MAX: usize = 256;

/// What comes next in a direction.
#[derive(Debug)]
pub(super) enum Piece<'a> {
    /// A packet without content. Its head starts with the type; `clipped` says that there was more.
    Packet { head: &'a [u8], clipped: bool },
    /// A packet with content begins: what stands before that.
    Begin { head: &'a [u8] },
    /// Content: where it lies in the bytes that were fed.
    Content(Range<usize>),
    /// The content has ended.
    End,
}

#[derive(Debug, Clone, Copy, Default)]
enum At {
    #[default]
    Length,
    Head,
    /// Bytes of content that are still to come.
    Content(usize),
    /// The rest of the packet passes by.
    Rest,
}

/// One direction.
#[derive(Debug)]
pub(super) struct Cutter {
    /// The type whose packets carry content in this direction.
    content: u8,
    at: At,
    head: Vec<u8>,
    /// Bytes of the packet that are still to come.
    left: usize,
}

impl Cutter {
    pub(super) fn new(content: u8) -> Self {
        Self { content, at: At::Length, head: Vec::new(), left: 0 }
    }

    /// Returns what comes next in `data` from `pos` on and moves `pos` behind it; `None` when more is needed.
    pub(super) fn next(&mut self, data: &[u8], pos: &mut usize) -> Result<Option<Piece<'_>>, Lost> {
        loop {
            match self.at {
                At::Length => {
                    if !self.fill(4, data, pos) {
                        return Ok(None);
                    }
                    let len = self.head.first_chunk().map_or(0, |len| u32::from_be_bytes(*len) as usize);
                    if len == 0 || len > PACKET_LEN_MAX {
                        return Err(Lost::of(format!("a packet of {len} bytes")));
                    }
                    self.head.clear();
                    self.left = len;
                    self.at = At::Head;
                }
                At::Head => {
                    let have = self.head.len();
                    let wanted = self.wanted()?;
                    let whole = self.fill(wanted, data, pos);
                    self.left -= self.head.len() - have;
                    if !whole {
                        return Ok(None);
                    }
                    // The first fields say how many more there are.
                    if self.wanted()? > wanted {
                        continue;
                    }
                    if self.head.first() != Some(&self.content) {
                        self.at = At::Rest;
                        return Ok(Some(Piece::Packet { head: &self.head, clipped: self.left > 0 }));
                    }
                    let len = self.head.last_chunk().map_or(0, |len| u32::from_be_bytes(*len) as usize);
                    if len > self.left {
                        return Err(Lost::of("content longer than its packet"));
                    }
                    self.at = At::Content(len);
                    return Ok(Some(Piece::Begin { head: &self.head }));
                }
                At::Content(0) => {
                    self.at = At::Rest;
                    return Ok(Some(Piece::End));
                }
                At::Content(more) => {
                    let len = more.min(data.len() - *pos);
                    if len == 0 {
                        return Ok(None);
                    }
                    let place = *pos..*pos + len;
                    *pos += len;
                    self.left -= len;
                    self.at = At::Content(more - len);
                    return Ok(Some(Piece::Content(place)));
                }
                At::Rest => {
                    let len = self.left.min(data.len() - *pos);
                    *pos += len;
                    self.left -= len;
                    if self.left > 0 {
                        return Ok(None);
                    }
                    self.head.clear();
                    self.at = At::Length;
                }
            }
        }
    }

    /// Takes bytes until `head` is that long, and tells whether it is.
    fn fill(&mut self, wanted: usize, data: &[u8], pos: &mut usize) -> bool {
        let missing = wanted.saturating_sub(self.head.len());
        let now = data.get(*pos..).unwrap_or_default();
        let now = now.get(..missing).unwrap_or(now);
        self.head.extend_from_slice(now);
        *pos += now.len();
        now.len() == missing
    }

    /// How long the head has to be, as far as one can tell by what there is of it.
    fn wanted(&self) -> Result<usize, Lost> {
        let total = self.head.len() + self.left;
        let wanted = match self.head.first() {
            None => 1,
            // type, request, length of the content
            Some(&DATA) if self.content == DATA => 9,
            // type, request, handle, offset, length of the content
            Some(&WRITE) if self.content == WRITE => match self.head.get(5..9).and_then(<[u8]>::first_chunk) {
                None => 9,
                Some(len) => {
                    let handle = u32::from_be_bytes(*len) as usize;
                    if handle > HANDLE_LEN_MAX {
                        return Err(Lost::of("a handle longer than 256 bytes"));
                    }
                    9 + handle + 12
                }
            },
            Some(_) => return Ok(total.min(HEAD_LEN_MAX)),
        };
        if wanted > total { Err(Lost::of("a packet too short for its fields")) } else { Ok(wanted) }
    }
}

/// The fields of a packet, one after the other.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    /// Whether the packet went on behind what there is of it.
    clipped: bool,
}

impl<'a> Fields<'a> {
    pub(super) fn new(rest: &'a [u8], clipped: bool) -> Self {
        Self { rest, clipped }
    }

    /// Whether there is more.
    pub(super) fn more(&self) -> bool {
        !self.rest.is_empty()
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Lost> {
        match self.rest.split_first_chunk() {
            Some((now, rest)) => {
                self.rest = rest;
                Ok(*now)
            }
            // What was clipped off may have been there.
            None if self.clipped => Ok([0; N]),
            None => Err(Lost::of("a packet too short for its fields")),
        }
    }

    pub(super) fn byte(&mut self) -> Result<u8, Lost> {
        self.take().map(|[byte]: [u8; 1]| byte)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Lost> {
        self.take().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Lost> {
        self.take().map(u64::from_be_bytes)
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8], Lost> {
        let len = self.u32()? as usize;
        match self.rest.split_at_checked(len) {
            Some((now, rest)) => {
                self.rest = rest;
                Ok(now)
            }
            None if self.clipped => Ok(std::mem::take(&mut self.rest)),
            None => Err(Lost::of("a packet too short for its fields")),
        }
    }

    pub(super) fn handle(&mut self) -> Result<&'a [u8], Lost> {
        let handle = self.string()?;
        if handle.len() > HANDLE_LEN_MAX { Err(Lost::of("a handle longer than 256 bytes")) } else { Ok(handle) }
    }
}

/// The attributes of a file that a request or an answer names (draft §5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Attrs {
    pub(super) size: Option<u64>,
    pub(super) owner: Option<(u32, u32)>,
    pub(super) mode: Option<u32>,
    /// Access and modification.
    pub(super) times: Option<(u32, u32)>,
}

impl Attrs {
    /// Reads attributes; extended ones stay in the stream alone.
    pub(super) fn read(fields: &mut Fields<'_>) -> Result<Self, Lost> {
        let flags = fields.u32()?;
        let mut attrs = Self::default();
        if flags & 1 != 0 {
            attrs.size = Some(fields.u64()?);
        }
        if flags & 2 != 0 {
            attrs.owner = Some((fields.u32()?, fields.u32()?));
        }
        if flags & 4 != 0 {
            attrs.mode = Some(fields.u32()?);
        }
        if flags & 8 != 0 {
            attrs.times = Some((fields.u32()?, fields.u32()?));
        }
        Ok(attrs)
    }
}
