//! PostgreSQL messages out of recorded streams: tag, and payload as far as it is kept. Shares no line with the code that
//! recorded them.

/// Tag and length.
const HEADER_LEN: usize = 5;

/// How much of a message's payload is kept: more than any statement that a person could read.
const PAYLOAD_MAX: usize = 16 << 20;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame<'b> {
    pub(super) tag: u8,
    pub(super) payload: &'b [u8],
    /// Whether the payload was longer.
    pub(super) clipped: bool,
}

/// Finds the messages in one side's recorded streams.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The message that is going on: its header, then payload.
    held: Vec<u8>,
    /// Bytes of its payload that are still to come, once its header is there.
    left: Option<usize>,
    clipped: bool,
    lost: bool,
}

impl Frames {
    /// Takes the next bytes, and hands out each message that they complete.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame<'_>)) {
        while !self.lost && (!bytes.is_empty() || self.left == Some(0)) {
            let Some(left) = self.left else {
                let wanted = HEADER_LEN - self.held.len();
                let (taken, rest) = bytes.split_at_checked(wanted).unwrap_or((bytes, &[]));
                self.held.extend_from_slice(taken);
                bytes = rest;
                if let Ok([_, len @ ..]) = <&[u8; HEADER_LEN]>::try_from(self.held.as_slice()) {
                    // A length counts itself: anything shorter is no message, and nothing behind it is one.
                    match (u32::from_be_bytes(*len) as usize).checked_sub(4) {
                        Some(len) => self.left = Some(len),
                        None => self.lost = true,
                    }
                }
                continue;
            };
            let (taken, rest) = bytes.split_at_checked(left).unwrap_or((bytes, &[]));
            let room = (HEADER_LEN + PAYLOAD_MAX).saturating_sub(self.held.len());
            self.clipped |= taken.len() > room;
            self.held.extend_from_slice(taken.get(..room).unwrap_or(taken));
            bytes = rest;
            self.left = Some(left - taken.len());
            if self.left == Some(0) {
                if let Some((tag, payload)) = self.held.split_first() {
                    let payload = payload.get(4..).unwrap_or_default();
                    each(Frame { tag: *tag, payload, clipped: self.clipped });
                }
                // A long one leaves no room behind.
                if self.held.capacity() > 1 << 20 {
                    self.held = Vec::new();
                }
                self.held.clear();
                (self.left, self.clipped) = (None, false);
            }
        }
    }
}

/// Reads fields off the front of a payload; `None` once it has no more of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'b>(pub(super) &'b [u8]);

impl<'b> Fields<'b> {
    pub(super) fn u8(&mut self) -> Option<u8> {
        self.bytes(1)?.first().copied()
    }

    pub(super) fn i16(&mut self) -> Option<i16> {
        self.chunk().map(i16::from_be_bytes)
    }

    /// Takes a count of 16 bits.
    pub(super) fn count(&mut self) -> Option<usize> {
        self.chunk().map(u16::from_be_bytes).map(usize::from)
    }

    pub(super) fn i32(&mut self) -> Option<i32> {
        self.chunk().map(i32::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.chunk().map(u32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        self.chunk().map(i64::from_be_bytes)
    }

    pub(super) fn bytes(&mut self, len: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    /// Takes a string up to its zero byte, which is not part of it.
    pub(super) fn text(&mut self) -> Option<&'b [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let text = self.bytes(end)?;
        self.u8()?;
        Some(text)
    }

    /// Takes a value with its length before it; the inner `None` is NULL.
    pub(super) fn value(&mut self) -> Option<Option<&'b [u8]>> {
        match self.i32()? {
            -1 => Some(None),
            len => self.bytes(usize::try_from(len).ok()?).map(Some),
        }
    }

    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_same_messages() {
        let wire = b"Q\0\0\0\x0dselect 1\0S\0\0\0\x04X\0\0\0\x04";
        for cut in 1..=wire.len() {
            let (mut frames, mut seen) = (Frames::default(), Vec::new());
            for piece in wire.chunks(cut) {
                frames.feed(piece, |frame| seen.push((frame.tag, frame.payload.to_vec())));
            }
            assert_eq!(seen, [(b'Q', b"select 1\0".to_vec()), (b'S', vec![]), (b'X', vec![])], "cut at every {cut}");
        }
    }

    #[test]
    fn a_long_message_is_kept_up_to_the_limit_and_what_follows_is_found() {
        let (mut frames, mut seen) = (Frames::default(), Vec::new());
        frames.feed(&[&b"d"[..], &(4 + 20 * (1 << 20) as u32).to_be_bytes()].concat(), |_| {});
        (0..20).for_each(|_| frames.feed(&vec![1; 1 << 20], |frame| seen.push((frame.payload.len(), frame.clipped))));
        frames.feed(b"S\0\0\0\x04", |frame| seen.push((frame.payload.len(), frame.clipped)));
        assert_eq!(seen, [(PAYLOAD_MAX, true), (0, false)]);
    }

    #[test]
    fn a_length_that_cannot_be_ends_it() {
        let (mut frames, mut seen) = (Frames::default(), 0);
        frames.feed(b"S\0\0\0\x03S\0\0\0\x04", |_| seen += 1);
        assert_eq!(seen, 0);
    }
}
