//! What a target says between AuthenticationOk and ReadyForQuery: kept as it came, up to a limit.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Frame, Refused};
use crate::pg::codec::{Fields, put_counted};
use crate::pg::startup::{CANCEL_REQUEST, VERSION_3_2};

/// The shortest and longest secret of a BackendKeyData, in bytes (protocol 3.2).
pub const SECRET_LEN: std::ops::RangeInclusive<usize> = 4..=256;
/// All that is said between AuthenticationOk and ReadyForQuery, which is held until then: PostgreSQL 18 says less than 500 bytes.
pub const GREETING_LEN_MAX: usize = 1024 * 1024;
/// How many messages that may be: PostgreSQL sends some 15, and a login trigger may add notices.
pub const GREETING_FRAMES_MAX: u32 = 1_000;

/// What a target gave to cancel queries by. Not `Debug`: whoever has it can cancel.
#[derive(Clone)]
pub struct BackendKey {
    /// The process at the target.
    pub pid: u32,
    /// The secret, of [`SECRET_LEN`].
    pub secret: Bytes,
}

impl BackendKey {
    /// Returns the CancelRequest, to be sent on a connection of its own.
    pub fn cancel_request(&self) -> Bytes {
        let mut out = BytesMut::new();
        put_counted(&mut out, |out| {
            out.put_u32(CANCEL_REQUEST);
            out.put_u32(self.pid);
            out.put_slice(&self.secret);
        });
        out.freeze()
    }
}

/// A greeting that is going on.
#[derive(Default)]
pub(super) struct Greeting {
    pub(super) key: Option<BackendKey>,
    /// The raw ParameterStatus and NoticeResponse frames.
    pub(super) raw: BytesMut,
    pub(super) server_version: String,
    frames: u32,
}

impl Greeting {
    /// Takes a message of it; ReadyForQuery ends it, with the status that is returned.
    pub(super) fn take(&mut self, frame: &Frame, protocol: u32) -> Result<Option<u8>, Refused> {
        self.frames += 1;
        if self.frames > GREETING_FRAMES_MAX {
            return Err(Refused::GreetingFrames);
        }
        let mut fields = frame.fields();
        match frame.tag {
            b'Z' => {
                let status = fields.u8().filter(|status| matches!(status, b'I' | b'T' | b'E'));
                return Ok(Some(status.ok_or(Refused::Malformed("ReadyForQuery"))?));
            }
            b'K' => {
                self.key(frame, protocol).ok_or(Refused::Malformed("BackendKeyData"))?;
                return Ok(None);
            }
            b'S' => {
                let (name, value) = fields.text().zip(fields.text()).ok_or(Refused::Malformed("ParameterStatus"))?;
                if !fields.is_empty() {
                    return Err(Refused::Malformed("ParameterStatus"));
                }
                if name == b"server_version" {
                    self.server_version = String::from_utf8_lossy(value).into_owned();
                }
            }
            _ => well_formed(fields).ok_or(Refused::Malformed("NoticeResponse"))?,
        }
        if self.raw.len() + frame.raw.len() > GREETING_LEN_MAX {
            return Err(Refused::GreetingLen);
        }
        self.raw.extend_from_slice(&frame.raw);
        Ok(None)
    }

    /// Takes the key, once, of four bytes where the protocol knows no others.
    fn key(&mut self, frame: &Frame, protocol: u32) -> Option<()> {
        let mut fields = frame.fields();
        let pid = fields.u32()?;
        let fits = protocol == VERSION_3_2 || fields.0.len() == *SECRET_LEN.start();
        if !fits || self.key.is_some() {
            return None;
        }
        // A copy: a slice would keep all that came with it in memory as long as the session.
        self.key = Some(BackendKey { pid, secret: Bytes::copy_from_slice(fields.0) });
        Some(())
    }
}

/// Whether the fields of an ErrorResponse or NoticeResponse end where the message does: it goes on to the client as it is.
pub(super) fn well_formed(mut fields: Fields<'_>) -> Option<()> {
    while fields.u8()? != 0 {
        fields.text()?;
    }
    fields.is_empty().then_some(())
}
