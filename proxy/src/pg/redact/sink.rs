//! Where secret bytes are told to. Knows which part of the caller's text is being read, and not why a byte is secret.

use std::ops::Range;

/// The caller's list of ranges.
pub(super) struct Sink<'r> {
    ranges: &'r mut Vec<Range<usize>>,
    /// Ranges before that are somebody else's.
    from: usize,
    /// Where what is read now begins in the caller's text.
    at: usize,
    /// Whether what is read now is not the caller's text, but stands for some of it that passed.
    muted: bool,
}

impl<'r> Sink<'r> {
    pub(super) fn new(ranges: &'r mut Vec<Range<usize>>) -> Self {
        let from = ranges.len();
        Self { ranges, from, at: 0, muted: false }
    }

    /// Returns the same for what begins there.
    pub(super) fn behind(&mut self, len: usize) -> Sink<'_> {
        Sink { ranges: self.ranges, from: self.from, at: self.at + len, muted: self.muted }
    }

    /// Returns the same for what stands for bytes that passed.
    pub(super) fn muted(&mut self) -> Sink<'_> {
        Sink { ranges: self.ranges, from: self.from, at: self.at, muted: true }
    }

    /// Tells that bytes are secret.
    pub(super) fn mark(&mut self, bytes: Range<usize>) {
        if self.muted || bytes.is_empty() {
            return;
        }
        let bytes = bytes.start + self.at..bytes.end + self.at;
        match self.ranges.get_mut(self.from..).and_then(<[_]>::last_mut) {
            Some(last) if last.end == bytes.start => last.end = bytes.end,
            _ => self.ranges.push(bytes),
        }
    }
}
