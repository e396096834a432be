//! The reader's own terminal: its size, its keys, and that it is left the way it was found.

use std::io;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use casemate_screen::screen::Size;

/// Standard input and output are a terminal, and keys come one by one until this is dropped.
pub(super) struct Tty {
    before: Termios,
}

impl Tty {
    /// Takes the terminal over; `None` where input or output is none.
    pub(super) fn open() -> Option<Self> {
        if !isatty(io::stdin()) || !isatty(io::stdout()) {
            return None;
        }
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self { before })
    }

    /// Returns columns and rows; those of a usual terminal where this one does not know.
    pub(super) fn size(&self) -> Size {
        match tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
            _ => (80, 24),
        }
    }

    /// Waits for keys, at most this long.
    ///
    /// # Errors
    /// The terminal is gone.
    pub(super) fn keys(&self, timeout: Duration) -> io::Result<Vec<u8>> {
        let stdin = io::stdin();
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
        let ready = match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&timeout)) {
            // A resized window: the next frame is painted for its new size.
            Err(rustix::io::Errno::INTR) => 0,
            ready => ready?,
        };
        let mut keys = vec![0; if ready > 0 { 64 } else { 0 }];
        if ready > 0 {
            let len = rustix::io::read(&stdin, &mut keys)?;
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            keys.truncate(len);
        }
        Ok(keys)
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// What a reader wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    Pause,
    Step,
    Faster,
    Slower,
    Forward,
    Back,
}

/// Reads keys out of bytes; an arrow is three of them, which may come apart.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// How much of `ESC [` was there.
    escape: u8,
}

impl Keys {
    pub(super) fn read(&mut self, bytes: &[u8]) -> Vec<Key> {
        bytes.iter().filter_map(|byte| self.next(*byte)).collect()
    }

    fn next(&mut self, byte: u8) -> Option<Key> {
        let escape = std::mem::take(&mut self.escape);
        match (escape, byte) {
            (_, 0x1b) => self.escape = 1,
            (1, b'[' | b'O') => self.escape = 2,
            (2, b'C') => return Some(Key::Forward),
            (2, b'D') => return Some(Key::Back),
            (2, _) => {}
            // Raw: Ctrl-C and Ctrl-D come as bytes.
            (_, b'q' | 3 | 4) => return Some(Key::Quit),
            (_, b' ') => return Some(Key::Pause),
            (_, b'.') => return Some(Key::Step),
            (_, b'+' | b'=') => return Some(Key::Faster),
            (_, b'-') => return Some(Key::Slower),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_however_they_are_cut() {
        let bytes = b" .+-\x1b[C\x1bODx\x1b[5~q\x03";
        let wanted = [Key::Pause, Key::Step, Key::Faster, Key::Slower, Key::Forward, Key::Back, Key::Quit, Key::Quit];
        assert_eq!(Keys::default().read(bytes), wanted);
        let mut keys = Keys::default();
        assert_eq!(bytes.iter().flat_map(|byte| keys.read(&[*byte])).collect::<Vec<_>>(), wanted);
    }
}
