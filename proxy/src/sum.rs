//! A running BLAKE3 over many small pieces.

/// How much is hashed at once: as many chunks as the widest processors take side by side, and a power of two, which keeps the tree
/// aligned. Row by row it takes several times as long.
const BATCH: usize = 16 * 1024;

/// What is kept of room between statements: enough for small results.
const ROOM_MIN: usize = 1024;

/// A running BLAKE3: two kilobytes, and what was not hashed yet.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    hasher: blake3::Hasher,
    pending: Vec<u8>,
}

impl Sum {
    /// Takes the next piece.
    pub(crate) fn update(&mut self, piece: &[u8]) {
        let room = if self.pending.is_empty() { 0 } else { BATCH.saturating_sub(self.pending.len()) };
        let (first, rest) = piece.split_at_checked(room).unwrap_or((piece, &[]));
        self.pending.extend_from_slice(first);
        if self.pending.len() >= BATCH {
            self.hasher.update(&self.pending);
            self.pending.clear();
        }
        let (whole, last) = rest.split_at(rest.len() - rest.len() % BATCH);
        self.hasher.update(whole);
        self.pending.extend_from_slice(last);
    }

    /// Returns the sum of all pieces so far.
    pub(crate) fn finalize(&self) -> blake3::Hash {
        if self.hasher.count() == 0 {
            return blake3::hash(&self.pending);
        }
        self.hasher.clone().update(&self.pending).finalize()
    }

    /// Keeps no more than the sum: somebody may come back to it much later.
    pub(crate) fn rest(&mut self) {
        self.hasher.update(&self.pending);
        self.pending = Vec::new();
    }

    /// Starts over.
    pub(crate) fn reset(&mut self) {
        if self.hasher.count() > 0 {
            self.hasher.reset();
        }
        self.pending.clear();
        self.pending.shrink_to(ROOM_MIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_length_have_the_sum_of_the_whole() {
        let whole: Vec<u8> = (0..100_000u32).map(|number| (number * 7 + number / 251) as u8).collect();
        for len in [1, 7, 123, 1024, BATCH - 1, BATCH, BATCH + 1, 70_000, whole.len()] {
            let mut sum = Sum::default();
            sum.update(b"something before");
            sum.reset();
            let mut fed = 0;
            for piece in whole.chunks(len) {
                sum.update(piece);
                fed += piece.len();
                if fed % 3 == 0 && len > 100 {
                    assert_eq!(sum.finalize(), blake3::hash(&whole[..fed]), "{len}");
                }
                if fed % 5 == 0 {
                    sum.rest();
                }
            }
            assert_eq!(sum.finalize(), blake3::hash(&whole), "{len}");
        }
        assert_eq!(Sum::default().finalize(), blake3::hash(b""));
    }
}
