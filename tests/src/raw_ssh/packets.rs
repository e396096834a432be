//! Packets on a socket (RFC 4253 §6): in the clear, then under AES-256-GCM (RFC 5647 as OpenSSH does it).

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// The longest packet that is read; a bastion that sends more is wrong.
const PACKET_MAX: usize = 512 * 1024;

/// Written at once when so much has gathered.
const GATHER: usize = 64 * 1024;

/// What a peer said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// A message.
    Message(Vec<u8>),
    /// Nothing more: the stream ended, or was reset.
    End,
}

/// One direction's key and the count of packets under it.
pub(super) struct Sealing {
    key: LessSafeKey,
    nonce: [u8; 12],
}

impl Sealing {
    pub(super) fn new(key: &[u8], iv: &[u8]) -> Result<Self> {
        let key = UnboundKey::new(&AES_256_GCM, key).ok().context("a key of 32 bytes")?;
        Ok(Self { key: LessSafeKey::new(key), nonce: iv.try_into()? })
    }

    fn next(&mut self) -> Result<Nonce> {
        let nonce = Nonce::assume_unique_for_key(self.nonce);
        let (_, counter) = self.nonce.split_at_mut(4);
        let count = u64::from_be_bytes(counter.try_into()?).wrapping_add(1);
        counter.copy_from_slice(&count.to_be_bytes());
        Ok(nonce)
    }
}

/// A socket with packets on it.
pub struct Packets {
    stream: TcpStream,
    out: Vec<u8>,
    pub(super) sending: Option<Sealing>,
    pub(super) receiving: Option<Sealing>,
}

impl Packets {
    pub(super) fn new(stream: TcpStream) -> Result<Self> {
        stream.set_read_timeout(Some(super::PATIENCE))?;
        stream.set_write_timeout(Some(super::PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, out: Vec::new(), sending: None, receiving: None })
    }

    /// The socket itself.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Puts bytes on the wire as they are, behind what was queued.
    ///
    /// # Errors
    /// When the peer is gone or takes nothing.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.extend_from_slice(bytes);
        self.flush()
    }

    /// Queues a message; written when enough has gathered.
    ///
    /// # Errors
    /// When the peer is gone or takes nothing.
    pub fn queue(&mut self, payload: &[u8]) -> Result<()> {
        // The length field itself counts only in the clear (RFC 4253 §6, RFC 5647 §7.2).
        let (block, counted) = if self.sending.is_some() { (16, 1) } else { (8, 5) };
        let mut padding = block - (counted + payload.len()) % block;
        if padding < 4 {
            padding += block;
        }
        let length = ((1 + payload.len() + padding) as u32).to_be_bytes();
        let mut body = Vec::with_capacity(payload.len() + 64);
        body.push(padding as u8);
        body.extend_from_slice(payload);
        body.resize(body.len() + padding, 0);
        self.out.extend_from_slice(&length);
        if let Some(sealing) = &mut self.sending {
            let nonce = sealing.next()?;
            let sealed = sealing.key.seal_in_place_append_tag(nonce, Aad::from(length), &mut body);
            ensure!(sealed.is_ok(), "a packet cannot be sealed");
        }
        self.out.extend_from_slice(&body);
        if self.out.len() >= GATHER { self.flush() } else { Ok(()) }
    }

    /// Writes what was queued.
    ///
    /// # Errors
    /// When the peer is gone or takes nothing.
    pub fn flush(&mut self) -> Result<()> {
        let out = std::mem::take(&mut self.out);
        self.stream.write_all(&out).context("nothing can be sent")
    }

    /// Reads a line, without its end.
    ///
    /// # Errors
    /// When the stream ends or the line has no end.
    pub fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        let mut byte = [0];
        while line.len() < 8192 {
            self.stream.read_exact(&mut byte).context("no line")?;
            match byte {
                [b'\n'] => return Ok(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned()),
                [byte] => line.push(byte),
            }
        }
        bail!("a line without an end")
    }

    /// Reads the next packet's payload.
    ///
    /// # Errors
    /// When the peer stays silent for too long, or what it sends is no packet.
    pub fn receive(&mut self) -> Result<Said> {
        self.flush().ok();
        let mut length = [0; 4];
        if !self.fill(&mut length)? {
            return Ok(Said::End);
        }
        let len = u32::from_be_bytes(length) as usize;
        ensure!((2..=PACKET_MAX).contains(&len), "a packet of {len} bytes");
        let mut body = vec![0; len + if self.receiving.is_some() { 16 } else { 0 }];
        if !self.fill(&mut body)? {
            return Ok(Said::End);
        }
        if let Some(opening) = &mut self.receiving {
            let nonce = opening.next()?;
            let opened = opening.key.open_in_place(nonce, Aad::from(length), &mut body).is_ok();
            ensure!(opened, "a packet was altered on its way");
            body.truncate(len);
        }
        let padding = body.first().copied().unwrap_or_default() as usize;
        let end = len.checked_sub(padding).filter(|end| *end > 1).context("a packet of padding alone")?;
        Ok(Said::Message(body.get(1..end).unwrap_or_default().to_vec()))
    }

    /// Fills the buffer; false at the end of the stream, a reset included.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool> {
        match self.stream.read_exact(buffer) {
            Ok(()) => Ok(true),
            Err(error) => match error.kind() {
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Ok(false),
                _ => Err(error).context("nothing was received"),
            },
        }
    }
}
