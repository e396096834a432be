//! The data types of RFC 4251 §5, written and read.

use anyhow::{Context, Result};

/// Message numbers (RFC 4250 §4.1.2).
#[allow(missing_docs, reason = "the names are the RFC's")]
pub mod msg {
    pub const DISCONNECT: u8 = 1;
    pub const IGNORE: u8 = 2;
    pub const UNIMPLEMENTED: u8 = 3;
    pub const DEBUG: u8 = 4;
    pub const SERVICE_REQUEST: u8 = 5;
    pub const SERVICE_ACCEPT: u8 = 6;
    pub const EXT_INFO: u8 = 7;
    pub const KEXINIT: u8 = 20;
    pub const NEWKEYS: u8 = 21;
    pub const ECDH_INIT: u8 = 30;
    pub const ECDH_REPLY: u8 = 31;
    pub const USERAUTH_REQUEST: u8 = 50;
    pub const USERAUTH_FAILURE: u8 = 51;
    pub const USERAUTH_SUCCESS: u8 = 52;
    pub const USERAUTH_BANNER: u8 = 53;
    pub const USERAUTH_PK_OK: u8 = 60;
    pub const GLOBAL_REQUEST: u8 = 80;
    pub const REQUEST_SUCCESS: u8 = 81;
    pub const REQUEST_FAILURE: u8 = 82;
    pub const CHANNEL_OPEN: u8 = 90;
    pub const CHANNEL_OPEN_CONFIRMATION: u8 = 91;
    pub const CHANNEL_OPEN_FAILURE: u8 = 92;
    pub const CHANNEL_WINDOW_ADJUST: u8 = 93;
    pub const CHANNEL_DATA: u8 = 94;
    pub const CHANNEL_EXTENDED_DATA: u8 = 95;
    pub const CHANNEL_EOF: u8 = 96;
    pub const CHANNEL_CLOSE: u8 = 97;
    pub const CHANNEL_REQUEST: u8 = 98;
    pub const CHANNEL_SUCCESS: u8 = 99;
    pub const CHANNEL_FAILURE: u8 = 100;
}

/// A message being put together.
#[derive(Debug, Clone, Default)]
pub struct Put(pub Vec<u8>);

impl Put {
    /// Starts a message with its number.
    pub fn message(number: u8) -> Self {
        Self(vec![number])
    }

    /// Adds a byte.
    #[must_use]
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    /// Adds a boolean.
    #[must_use]
    pub fn bool(self, value: bool) -> Self {
        self.u8(value.into())
    }

    /// Adds a number.
    #[must_use]
    pub fn u32(self, value: u32) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// Adds a string; a list of names is one too.
    #[must_use]
    pub fn string(self, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.u32(value.len() as u32).raw(value)
    }

    /// Adds a non-negative number of any size, given in big-endian bytes.
    #[must_use]
    pub fn mpint(self, value: &[u8]) -> Self {
        let zeros = value.iter().take_while(|byte| **byte == 0).count();
        let value = value.get(zeros..).unwrap_or_default();
        let sign: &[u8] = if value.first().is_some_and(|byte| *byte >= 0x80) { &[0] } else { &[] };
        self.string([sign, value].concat())
    }

    /// Adds bytes as they are.
    #[must_use]
    pub fn raw(mut self, value: &[u8]) -> Self {
        self.0.extend_from_slice(value);
        self
    }
}

/// A message being read.
#[derive(Debug, Clone, Copy)]
pub struct Take<'a>(&'a [u8]);

impl<'a> Take<'a> {
    /// Starts behind the message number.
    pub fn body(payload: &'a [u8]) -> Self {
        Self(payload.get(1..).unwrap_or_default())
    }

    /// Starts at the first byte.
    pub fn all(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Reads so many bytes.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn raw(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len).context("the message is too short")?;
        self.0 = rest;
        Ok(head)
    }

    /// Reads a byte.
    ///
    /// # Errors
    /// At the end.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.raw(1)?.first().copied().unwrap_or_default())
    }

    /// Reads a number.
    ///
    /// # Errors
    /// At the end.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.raw(4)?.try_into()?))
    }

    /// Reads a string.
    ///
    /// # Errors
    /// When it goes beyond the end.
    pub fn string(&mut self) -> Result<&'a [u8]> {
        let len = self.u32()?;
        self.raw(len as usize)
    }

    /// Reads a string as text.
    ///
    /// # Errors
    /// When it is none.
    pub fn text(&mut self) -> Result<&'a str> {
        Ok(std::str::from_utf8(self.string()?)?)
    }
}
