//! PostgreSQL frame codec: bytes to frames and nothing more.
//!
//! Knows tags and lengths, and reads and writes the few small messages that the bastion itself takes part in. A frame's
//! payload is never gathered: it comes in pieces, as it came on the wire. Does not know sessions, policy or sockets; see
//! `flow` for meaning. <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use bytes::{BufMut, Bytes, BytesMut};
use casemate_recorder::transcript::event::Side;

/// Tag and length.
pub const HEADER_LEN: usize = 5;

/// The longest a message may be, with its length field: PostgreSQL allocates nothing larger (memutils.h, `MaxAllocSize`).
pub const FRAME_LEN_MAX: u32 = 0x3fff_ffff;

/// The longest that a message of a few names may be (libpq/libpq.h, `PQ_SMALL_MESSAGE_LIMIT`).
pub const SMALL_LEN_MAX: u32 = 10_000;

/// SQLSTATE of a broken protocol.
pub const PROTOCOL_VIOLATION: &str = "08P01";
/// SQLSTATE of a login that cannot be.
pub const INVALID_AUTHORIZATION: &str = "28000";
/// SQLSTATE of a wrong token.
pub const INVALID_PASSWORD: &str = "28P01";
/// SQLSTATE of what is not there to be had.
pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
/// SQLSTATE of too many sessions.
pub const TOO_MANY_CONNECTIONS: &str = "53300";
/// SQLSTATE of a session that somebody ended.
pub const ADMIN_SHUTDOWN: &str = "57P01";
/// SQLSTATE of a target that cannot be reached.
pub const CANNOT_CONNECT: &str = "08001";
/// SQLSTATE of recording that cannot go on.
pub const SYSTEM_ERROR: &str = "58000";

/// Why bytes are not frames. Whatever follows can mean anything, so the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A tag that this side never sends, or not once the login is over.
    #[error("invalid frontend or backend message type {0}")]
    Tag(u8),
    /// A length that the protocol does not allow for the tag.
    #[error("invalid length {len} of a message of type {}", char::from(*.tag))]
    Length {
        /// The tag.
        tag: u8,
        /// The length field, which counts itself.
        len: u32,
    },
}

/// A piece of one frame: what of it lies at the front of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The frame's tag.
    pub tag: u8,
    /// Number of the frame among those of its side, dense from 0 after the login.
    pub frame: u64,
    /// Length of the whole frame's payload, without tag and length.
    pub payload_len: u32,
    /// Where in the payload this piece's payload begins.
    pub offset: u32,
    /// Bytes of the header in this piece: [`HEADER_LEN`] in a frame's first, else 0.
    pub header: usize,
    /// Bytes of this piece, header included.
    pub len: usize,
}

impl Piece {
    /// Whether the frame begins with it.
    pub fn starts(&self) -> bool {
        self.header > 0
    }

    /// Whether the frame ends with it.
    pub fn ends(&self) -> bool {
        self.offset as usize + (self.len - self.header) == self.payload_len as usize
    }

    /// Returns its payload out of the bytes that it was found at the front of.
    pub fn payload<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        bytes.get(self.header..self.len).unwrap_or_default()
    }
}

/// Whole frames of one tag, one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The tag of all of them.
    pub tag: u8,
    /// How many they are.
    pub frames: u64,
    /// Bytes of all of them, headers included.
    pub len: usize,
}

impl Run {
    /// Returns the bytes of their payloads.
    pub fn payload_len(&self) -> u64 {
        self.len as u64 - self.frames * HEADER_LEN as u64
    }
}

/// Finds the frames in what one side sends after the login.
#[derive(Debug)]
pub struct Splitter {
    side: Side,
    /// The frame that is going on: its tag, its payload's length, and how much of that is still to come.
    open: Option<(u8, u32, u32)>,
    frames: u64,
}

impl Splitter {
    /// Starts at the beginning of a frame.
    pub fn new(side: Side) -> Self {
        Self { side, open: None, frames: 0 }
    }

    /// Whether what came so far ends where a frame ends.
    pub fn at_boundary(&self) -> bool {
        self.open.is_none()
    }

    /// Returns how many frames have begun.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Takes the next piece off the front of `bytes`, which go on behind it; `None` asks for more: at most the first four
    /// bytes of a header are left then.
    ///
    /// # Errors
    /// A header that this side may not send.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Option<Piece>, FrameError> {
        if let Some((tag, payload_len, left)) = self.open {
            if bytes.is_empty() {
                return Ok(None);
            }
            let len = bytes.len().min(left as usize);
            let offset = payload_len - left;
            self.advance(tag, payload_len, left, len);
            return Ok(Some(Piece { tag, frame: self.frames - 1, payload_len, offset, header: 0, len }));
        }
        let Some(((&[tag], len), rest)) =
            bytes.split_first_chunk::<HEADER_LEN>().and_then(|(head, rest)| Some((head.split_first_chunk()?, rest)))
        else {
            // A wrong tag needs no length to be wrong.
            return match bytes.first() {
                Some(tag) if longest(self.side, *tag).is_none() => Err(FrameError::Tag(*tag)),
                _ => Ok(None),
            };
        };
        let len = len.try_into().map_or(0, u32::from_be_bytes);
        let longest = longest(self.side, tag).ok_or(FrameError::Tag(tag))?;
        let payload_len = len.checked_sub(4).filter(|_| len <= longest).ok_or(FrameError::Length { tag, len })?;
        let here = rest.len().min(payload_len as usize);
        self.frames += 1;
        let frame = self.frames - 1;
        self.advance(tag, payload_len, payload_len, here);
        Ok(Some(Piece { tag, frame, payload_len, offset: 0, header: HEADER_LEN, len: HEADER_LEN + here }))
    }

    /// Takes the whole frames with that tag off the front of `bytes`: rows come by the thousand, and a few instructions for each
    /// are enough where only their number and length count. What follows, and a frame that is not all there or wrong, is left to
    /// [`Splitter::next`].
    pub fn run(&mut self, tag: u8, bytes: &[u8]) -> Run {
        let mut run = Run { tag, frames: 0, len: 0 };
        let Some(longest) = longest(self.side, tag).filter(|_| self.at_boundary()) else { return run };
        while let Some(([first, len @ ..], payload)) =
            bytes.get(run.len..).and_then(<[u8]>::split_first_chunk::<HEADER_LEN>)
        {
            let len = u32::from_be_bytes(*len);
            let Some(payload_len) = len.checked_sub(4).map(|len| len as usize) else { break };
            if *first != tag || len > longest || payload_len > payload.len() {
                break;
            }
            run.len += HEADER_LEN + payload_len;
            run.frames += 1;
        }
        self.frames += run.frames;
        run
    }

    fn advance(&mut self, tag: u8, payload_len: u32, left: u32, taken: usize) {
        // `taken` is at most `left`.
        let left = left - taken as u32;
        self.open = (left > 0).then_some((tag, payload_len, left));
    }
}

/// Returns the largest length field of a tag once the login is over; `None` for one that the side never sends.
fn longest(side: Side, tag: u8) -> Option<u32> {
    match (side, tag) {
        // postgres.c, `SocketBackend`: the same split into short and long.
        (Side::Client, b'Q' | b'P' | b'B' | b'F' | b'd') => Some(FRAME_LEN_MAX),
        (Side::Client, b'C' | b'D' | b'E' | b'H' | b'S' | b'X' | b'c' | b'f') => Some(SMALL_LEN_MAX),
        (Side::Target, b'D' | b'd' | b'E' | b'N' | b'A' | b'S' | b'T' | b't' | b'V' | b'C') => Some(FRAME_LEN_MAX),
        (Side::Target, b'1' | b'2' | b'3' | b'I' | b'n' | b's' | b'c' | b'Z') => Some(SMALL_LEN_MAX),
        // Two bytes a column and a few more: the most columns are 1,664.
        (Side::Target, b'G' | b'H' | b'W') => Some(SMALL_LEN_MAX),
        _ => None,
    }
}

/// Reads fields off the front of a payload; `None` once it has no more of them.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'b>(pub &'b [u8]);

impl<'b> Fields<'b> {
    /// Takes a byte.
    pub fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// Takes a 16-bit integer.
    pub fn u16(&mut self) -> Option<u16> {
        self.chunk().map(u16::from_be_bytes)
    }

    /// Takes a 32-bit integer.
    pub fn u32(&mut self) -> Option<u32> {
        self.chunk().map(u32::from_be_bytes)
    }

    /// Takes a signed 32-bit integer.
    pub fn i32(&mut self) -> Option<i32> {
        self.chunk().map(i32::from_be_bytes)
    }

    /// Takes that many bytes.
    pub fn bytes(&mut self, len: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    /// Takes a string up to its zero byte, which is not part of it.
    pub fn text(&mut self) -> Option<&'b [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let text = self.bytes(end)?;
        self.u8()?;
        Some(text)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }
}

/// Appends a frame whose payload `write` writes.
pub fn put_frame(out: &mut BytesMut, tag: u8, write: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    put_counted(out, write);
}

/// Appends a length, which counts itself, and what `write` writes: a message of before the login has no tag.
pub fn put_counted(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    let at = out.len();
    out.put_u32(0);
    write(out);
    let len = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(at..at + 4) {
        place.copy_from_slice(&len.to_be_bytes());
    }
}

/// Appends a string and its zero byte. A zero byte inside would end it early and let the rest be something else, so it is left
/// out.
pub fn put_text(out: &mut BytesMut, text: &[u8]) {
    out.extend(text.iter().filter(|byte| **byte != 0));
    out.put_u8(0);
}

/// What the bastion itself says instead of the target (§"Error and Notice Message Fields").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// Five characters.
    pub sqlstate: &'static str,
    /// One line.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Complaint {
    /// A complaint without a hint.
    pub fn new(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self { sqlstate, message: message.into(), hint: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns it as an ErrorResponse that ends the connection.
    pub fn fatal(&self) -> Bytes {
        let mut out = BytesMut::new();
        put_frame(&mut out, b'E', |out| {
            let hint = self.hint.as_deref().map(|hint| (b'H', hint));
            let fields = [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', self.sqlstate), (b'M', self.message.as_str())];
            for (code, text) in fields.into_iter().chain(hint) {
                out.put_u8(code);
                put_text(out, text.as_bytes());
            }
            out.put_u8(0);
        });
        out.freeze()
    }
}

/// Reads the fields of an ErrorResponse or NoticeResponse: the code of each and its text.
pub fn error_fields(payload: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut fields = Fields(payload);
    std::iter::from_fn(move || {
        let code = fields.u8().filter(|code| *code != 0)?;
        Some((code, fields.text()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(side: Side, wire: &[u8], cut: usize) -> Result<Vec<(u8, Vec<u8>)>, FrameError> {
        let (mut splitter, mut frames, mut held) = (Splitter::new(side), Vec::new(), Vec::new());
        for chunk in wire.chunks(cut) {
            held.extend_from_slice(chunk);
            let mut at = 0;
            while let Some(piece) = splitter.next(&held[at..])? {
                if piece.starts() {
                    assert_eq!((frames.len() as u64, piece.offset), (piece.frame, 0));
                    frames.push((piece.tag, Vec::new()));
                }
                let (tag, payload) = frames.last_mut().unwrap();
                assert_eq!((*tag, payload.len()), (piece.tag, piece.offset as usize));
                payload.extend_from_slice(piece.payload(&held[at..]));
                assert_eq!(piece.ends(), payload.len() == piece.payload_len as usize);
                assert_eq!(piece.ends(), splitter.at_boundary());
                at += piece.len;
            }
            held.drain(..at);
            assert!(held.len() < HEADER_LEN);
        }
        Ok(frames)
    }

    #[test]
    fn any_cut_gives_the_same_frames() {
        let mut wire = BytesMut::new();
        put_frame(&mut wire, b'Q', |out| put_text(out, b"select '\xff'"));
        put_frame(&mut wire, b'S', |_| {});
        put_frame(&mut wire, b'd', |out| out.put_bytes(7, 300));
        put_frame(&mut wire, b'X', |_| {});
        let whole = frames(Side::Client, &wire, wire.len()).unwrap();
        assert_eq!(whole.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), b"QSdX");
        assert_eq!(whole[0].1, b"select '\xff'\0");
        for cut in 1..wire.len() {
            assert_eq!(frames(Side::Client, &wire, cut).unwrap(), whole, "cut at every {cut}");
        }
    }

    #[test]
    fn a_run_takes_the_whole_frames_of_its_tag_and_nothing_else() {
        let mut wire = BytesMut::new();
        (0..3).for_each(|len| put_frame(&mut wire, b'D', |out| out.put_bytes(b'D', len)));
        let rows_len = wire.len();
        put_frame(&mut wire, b'C', |_| {});
        put_frame(&mut wire, b'D', |_| {});
        let whole = |end: usize| [5, 11, 18].into_iter().take_while(|row| *row <= end).last().unwrap_or(0);
        for end in 0..=wire.len() {
            let mut splitter = Splitter::new(Side::Target);
            let run = splitter.run(b'D', &wire[..end]);
            assert_eq!(run.len, whole(end), "of {end} bytes");
            assert_eq!(run.payload_len(), (run.len as u64).saturating_sub(5 * run.frames));
            // `next` goes on where the run ended, and a frame that it has begun is its own.
            if let Some(piece) = splitter.next(&wire[run.len..end]).unwrap() {
                assert_eq!(piece.frame, run.frames);
                assert!(piece.ends() || splitter.run(b'D', &wire[run.len + piece.len..]).frames == 0);
            }
        }
        assert_eq!(whole(wire.len()), rows_len);
        assert_eq!(Splitter::new(Side::Client).run(b'D', b"D\0\x01\0\0").frames, 0);
        for wrong in [b"D\0\0\0\x03", b"D\xff\xff\xff\xff"] {
            let mut splitter = Splitter::new(Side::Target);
            let wire = [&b"D\0\0\0\x04"[..], wrong].concat();
            assert_eq!(splitter.run(b'D', &wire), Run { tag: b'D', frames: 1, len: HEADER_LEN });
            assert!(matches!(splitter.next(wrong), Err(FrameError::Length { tag: b'D', .. })));
        }
    }

    #[test]
    fn lengths_that_the_protocol_does_not_allow_are_refused() {
        for side in [Side::Client, Side::Target] {
            for tag in 0..=255u8 {
                for len in [0u32, 1, 2, 3, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, FRAME_LEN_MAX + 1] {
                    let wire = [&[tag][..], &len.to_be_bytes()].concat();
                    let refused = match longest(side, tag) {
                        None => FrameError::Tag(tag),
                        Some(_) => FrameError::Length { tag, len },
                    };
                    assert_eq!(Splitter::new(side).next(&wire), Err(refused), "{side:?} {tag} {len}");
                }
            }
        }
        let sync = [&b"S"[..], &(SMALL_LEN_MAX + 1).to_be_bytes()].concat();
        assert!(Splitter::new(Side::Client).next(&sync).is_err());
        assert!(Splitter::new(Side::Client).next(b"S\0\0\0\x04").unwrap().unwrap().ends());
    }

    #[test]
    fn login_messages_are_none_of_the_relay() {
        assert_eq!(Splitter::new(Side::Client).next(b"p"), Err(FrameError::Tag(b'p')));
        for tag in b"RKv" {
            assert_eq!(Splitter::new(Side::Target).next(&[*tag]), Err(FrameError::Tag(*tag)));
        }
    }

    #[test]
    fn a_complaint_says_all_that_a_client_shows() {
        let complaint = Complaint::new(PROTOCOL_VIOLATION, "no\0t so").hint("do better");
        let frame = complaint.fatal();
        let fields: Vec<_> = error_fields(&frame[HEADER_LEN..]).collect();
        let expected: [(u8, &[u8]); 5] =
            [(b'S', b"FATAL"), (b'V', b"FATAL"), (b'C', b"08P01"), (b'M', b"not so"), (b'H', b"do better")];
        assert_eq!(fields, expected);
        assert_eq!(frame.len(), 1 + u32::from_be_bytes(frame[1..5].try_into().unwrap()) as usize);
    }
}
