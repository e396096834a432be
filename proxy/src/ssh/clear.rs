//! The packets of a client before they are encrypted: none may announce more than the protocol asks anybody to take.
//!
//! The library makes room for what a packet announces as soon as it has read its length, up to 256 KiB, so that four bytes would
//! cost that much. Looks at lengths and message numbers as they pass, up to the end of the first key exchange; keeps nothing.

use std::io;

/// The longest packet that everybody must be able to take (RFC 4253 §6.1); a first key exchange needs far less.
const PACKET_MAX: u32 = 35_000;

/// The message after which a client encrypts (RFC 4253 §7.3).
const NEWKEYS: u8 = 21;

/// Where in a client's clear bytes we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clear {
    /// In the identification line.
    Line,
    /// In a packet's length, of which so many bytes have come.
    Length { have: u8, len: u32 },
    /// In a packet with so many bytes to come; `at` is the place of the next, as far as it matters.
    Packet { left: u32, at: u8, last: bool },
    /// What comes now is encrypted.
    Over,
}

impl Clear {
    /// Takes in what a client sent.
    ///
    /// # Errors
    /// When a packet announces too much.
    pub(super) fn note(&mut self, bytes: &[u8]) -> io::Result<()> {
        for &byte in bytes {
            *self = match *self {
                Self::Over => return Ok(()),
                Self::Line if byte == b'\n' => Self::Length { have: 0, len: 0 },
                Self::Line => Self::Line,
                Self::Length { have, len } => {
                    let len = len << 8 | u32::from(byte);
                    match have {
                        3 if len > PACKET_MAX => {
                            return Err(io::Error::new(
                                io::ErrorKind::InvalidData,
                                "a packet of a length that nobody needs",
                            ));
                        }
                        3 => Self::Packet { left: len, at: 0, last: false },
                        _ => Self::Length { have: have + 1, len },
                    }
                }
                Self::Packet { left, at, last } => {
                    // The padding's length comes first, then the message.
                    let last = last || at == 1 && byte == NEWKEYS;
                    match left.saturating_sub(1) {
                        0 if last => Self::Over,
                        0 => Self::Length { have: 0, len: 0 },
                        left => Self::Packet { left, at: at.saturating_add(1), last },
                    }
                }
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(payload: &[u8]) -> Vec<u8> {
        let mut packet = ((payload.len() + 5) as u32).to_be_bytes().to_vec();
        packet.push(4);
        packet.extend_from_slice(payload);
        packet.extend_from_slice(&[0xff; 4]);
        packet
    }

    #[test]
    fn a_key_exchange_passes_however_it_is_cut_and_nothing_is_read_after_it() {
        let all =
            [b"SSH-2.0-x\r\n".to_vec(), packet(&[20; 900]), packet(&[30; 37]), packet(&[21]), vec![0xff; 64]].concat();
        for size in [1, 2, 3, 7, all.len()] {
            let mut clear = Clear::Line;
            all.chunks(size).for_each(|chunk| clear.note(chunk).unwrap());
            assert_eq!(clear, Clear::Over);
        }
        // That byte in another place ends nothing.
        let mut clear = Clear::Line;
        clear.note(&[b"SSH-2.0-x\n".to_vec(), packet(&[30, 21, 21]), packet(&[20])].concat()).unwrap();
        assert_eq!(clear, Clear::Length { have: 0, len: 0 });
    }

    #[test]
    fn a_length_that_nobody_needs_is_not_passed_on() {
        for (len, passes) in [(0u32, true), (35_000, true), (35_001, false), (1 << 18, false), (u32::MAX, false)] {
            let mut clear = Clear::Line;
            clear.note(b"SSH-2.0-x\r\n").unwrap();
            assert_eq!(clear.note(&len.to_be_bytes()).is_ok(), passes, "{len}");
        }
    }
}
