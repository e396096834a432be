//! The transcript format, sans-IO: bytes in, bytes out. `FORMAT.md` is the law.

pub mod block;
pub mod blocks;
pub mod chain;
pub mod cipher;
pub mod compressor;
pub mod event;
pub mod head;
pub mod micro;
pub mod seal;
pub mod wrap;
pub mod writer;

/// A moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Microseconds since 1970 (UTC).
    pub wall_us: u64,
    /// Microseconds of the boot-time clock, which counts on while the machine sleeps.
    pub boot_us: u64,
}
