//! Bytes that do not compress and can be made again from their seed. Not for secrets.

use std::io::{self, Read};

/// An endless stream of pseudo-random bytes (xorshift64*, a full period of 2^64 − 1).
#[derive(Debug, Clone)]
pub struct Noise {
    state: u64,
    left: u64,
}

impl Noise {
    /// Starts the stream of that seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, left: u64::MAX }
    }

    /// The same stream, ending after `bytes`.
    #[must_use]
    pub fn take_bytes(mut self, bytes: u64) -> Self {
        self.left = bytes;
        self
    }

    /// Returns the next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Returns a number below `end`; `end` must not be 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next_u64() % end.max(1)
    }

    /// Returns the next `len` bytes.
    pub fn chunk(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes);
        bytes
    }

    /// Fills the buffer with the next bytes; a partial word is thrown away.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.iter_mut().zip(word).for_each(|(to, from)| *to = from);
        }
    }
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Whole words only, so that the stream is the same however it is read.
        let len = (buffer.len() as u64).min(self.left);
        let len = if len == self.left { len } else { len & !7 };
        let Some(part) = buffer.get_mut(..len as usize) else { return Ok(0) };
        self.fill(part);
        self.left -= len;
        Ok(part.len())
    }
}

/// A seed that differs from run to run, for tests that search at random; print it, so that a failure can be repeated.
pub fn fresh_seed() -> u64 {
    if let Some(seed) = std::env::var("CASEMATE_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return seed;
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() as u64 ^ u64::from(std::process::id()) << 32
}
