//! Compression of payloads, with no more effort than the payload is worth.
//!
//! Sans-IO. What a block holds is one zstd frame or the bytes as they are; which of them, and how hard was tried, is nobody's
//! business but the writer's.

use std::fmt;
use std::io;

use zstd::bulk;
use zstd::zstd_safe::{CParameter, ParamSwitch, Strategy, compress_bound};

/// zstd level. In blocks of 64 KiB, level 3 makes terminal text 1 to 5 % smaller and takes up to 2.6 times as long, over rows of a
/// database; that is time in which the one thread does nothing for other sessions. Level 9 gains a tenth.
const LEVEL: i32 = 1;

/// How many bytes are passed over where nothing repeats. Digests, keys and numbers shrink by how often each character comes, which is
/// found without looking for what repeats: rows full of them to within a tenth of the size, in half the time.
const PASSED_OVER: u32 = 12;

/// Payloads shorter than this are compressed, all of them, with the usual effort.
const SAMPLED_MIN: usize = 16 * 1024;

/// How much of a longer one is tried to see what it is like.
const SAMPLE_LEN: usize = 2048;

/// For how many payloads that holds.
const SAMPLE_HOLDS: u8 = 16;

/// What the payloads of a lane are like.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Texture {
    grain: Grain,
    /// For how many more payloads that is taken for granted.
    holds: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Grain {
    /// Things repeat.
    #[default]
    Text,
    /// Nothing does, but some characters come more often than others.
    Digits,
    /// Noise.
    Noise,
}

/// Compresses payloads; one per thread, since the contexts are worth keeping.
pub struct Compressor {
    usual: bulk::Compressor<'static>,
    /// For what nothing repeats in.
    quick: bulk::Compressor<'static>,
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressor").finish_non_exhaustive()
    }
}

impl Compressor {
    /// Makes a compressor.
    ///
    /// # Errors
    /// zstd has no memory for its contexts.
    pub fn new() -> io::Result<Self> {
        let mut quick = bulk::Compressor::new(LEVEL)?;
        quick.set_parameter(CParameter::Strategy(Strategy::ZSTD_fast))?;
        quick.set_parameter(CParameter::TargetLength(PASSED_OVER))?;
        // zstd would leave it out where so little effort is asked for.
        quick.set_parameter(CParameter::LiteralCompressionMode(ParamSwitch::Enable))?;
        Ok(Self { usual: bulk::Compressor::new(LEVEL)?, quick })
    }

    /// Returns how much room [`Compressor::append`] needs.
    pub(super) fn room(len: usize) -> usize {
        compress_bound(len)
    }

    /// Appends `plain` to `out`, compressed where that makes it smaller, and returns whether it was.
    pub(super) fn append(&mut self, out: &mut Vec<u8>, plain: &[u8], texture: &mut Texture) -> bool {
        let grain = if plain.len() < SAMPLED_MIN { Grain::Text } else { self.grain(plain, texture) };
        let zstd = match grain {
            Grain::Text => &mut self.usual,
            Grain::Digits => &mut self.quick,
            Grain::Noise => {
                out.extend_from_slice(plain);
                return false;
            }
        };
        let start = out.len();
        out.resize(start + Self::room(plain.len()), 0);
        let written = out.get_mut(start..).and_then(|room| zstd.compress_to_buffer(plain, room).ok());
        match written.filter(|len| pays(*len, plain)) {
            Some(len) => {
                out.truncate(start + len);
                true
            }
            None => {
                out.truncate(start);
                out.extend_from_slice(plain);
                false
            }
        }
    }

    /// Says what a payload is like, by a sample of it or of one shortly before.
    fn grain(&mut self, plain: &[u8], texture: &mut Texture) -> Grain {
        if let Some(holds) = texture.holds.checked_sub(1) {
            texture.holds = holds;
            return texture.grain;
        }
        let middle = plain.len().saturating_sub(SAMPLE_LEN) / 2;
        let sample = plain.get(middle..middle + SAMPLE_LEN).unwrap_or(plain);
        let mut room = vec![0; Self::room(sample.len())];
        let usual = self.usual.compress_to_buffer(sample, room.as_mut_slice()).unwrap_or(sample.len());
        let quick = self.quick.compress_to_buffer(sample, room.as_mut_slice()).unwrap_or(sample.len());
        let grain = if !pays(usual, sample) {
            Grain::Noise
        } else if usual > sample.len() / 3 && quick <= usual + usual / 8 {
            Grain::Digits
        } else {
            Grain::Text
        };
        *texture = Texture { grain, holds: SAMPLE_HOLDS - 1 };
        grain
    }
}

/// Whether a saving is worth a reader's time.
fn pays(len: usize, plain: &[u8]) -> bool {
    len < plain.len() - plain.len() / 32
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 64 * 1024;

    fn noise() -> Vec<u8> {
        let mut noise = vec![0; LEN];
        getrandom::fill(&mut noise).unwrap();
        noise
    }

    fn digits() -> Vec<u8> {
        noise().iter().map(|byte| b"0123456789abcdef"[usize::from(byte % 16)]).collect()
    }

    fn text() -> Vec<u8> {
        let lines =
            (0..).flat_map(|line| format!("drwxr-xr-x 2 root root 4096 Nov 22 20:09 file{line}\n").into_bytes());
        lines.take(LEN).collect()
    }

    /// Compresses, reads back, and returns how long it became.
    fn stored(compressor: &mut Compressor, plain: &[u8], texture: &mut Texture) -> usize {
        let mut out = b"before".to_vec();
        let zstd = compressor.append(&mut out, plain, texture);
        let payload = &out[6..];
        let back = if zstd { bulk::decompress(payload, plain.len()).unwrap() } else { payload.to_vec() };
        assert!(back == plain);
        payload.len()
    }

    #[test]
    fn what_is_like_what_came_before_gets_the_effort_that_this_deserved() {
        let mut compressor = Compressor::new().unwrap();
        for (plain, grain, len_max) in
            [(text(), Grain::Text, LEN / 8), (digits(), Grain::Digits, LEN * 11 / 20), (noise(), Grain::Noise, LEN)]
        {
            let mut texture = Texture::default();
            for _ in 0..40 {
                let len = stored(&mut compressor, &plain, &mut texture);
                assert!(texture.grain == grain && len <= len_max, "{grain:?}: {len} bytes");
            }
        }
    }

    #[test]
    fn a_lane_that_changes_is_found_out() {
        let mut compressor = Compressor::new().unwrap();
        let (text, noise, digits) = (text(), noise(), digits());
        let mut texture = Texture::default();
        for plain in [&noise, &text, &digits, &text, &noise, &digits] {
            let lens: Vec<_> = (0..2 * SAMPLE_HOLDS).map(|_| stored(&mut compressor, plain, &mut texture)).collect();
            let best = stored(&mut compressor, plain, &mut Texture::default());
            let late = lens.iter().position(|len| *len == best);
            assert!(late.is_some_and(|late| late <= usize::from(SAMPLE_HOLDS)), "{lens:?}, never {best}");
        }
    }

    #[test]
    fn what_is_short_is_compressed_whatever_the_lane_is_like() {
        let mut compressor = Compressor::new().unwrap();
        let mut texture = Texture { grain: Grain::Noise, holds: 9 };
        let text = &text()[..SAMPLED_MIN - 1];
        assert!(stored(&mut compressor, text, &mut texture) < text.len() / 8);
        let noise = &noise()[..100];
        assert_eq!(stored(&mut compressor, noise, &mut texture), noise.len());
        assert_eq!(texture.holds, 9);
    }
}
