//! A PostgreSQL frontend that can send any bytes in any state, over TLS or a Unix socket.
//!
//! For what no driver does, or does only in some version: greased start-ups, frames out of order, cancels with wrong keys.
//! It checks nothing of what it sends and gives back what it gets as it came. Waiting is bounded by [`PATIENCE`].

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BytesMut};
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use sha2::{Digest, Sha256};

use crate::pg_client::Access;

pub mod message;

/// How long a server may be silent before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Protocol 3.0, which everybody speaks.
pub const VERSION_3_0: u32 = 3 << 16;
/// Protocol 3.2, with long keys for cancelling.
pub const VERSION_3_2: u32 = (3 << 16) | 2;
/// What a greasing client asks for, to see whether servers can say no.
pub const VERSION_GREASED: u32 = (3 << 16) | 9999;

/// The ALPN protocol of direct TLS.
pub const ALPN: &[u8] = b"postgresql";

/// One message of a server's.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its tag.
    pub tag: u8,
    /// What follows the length.
    pub payload: Vec<u8>,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = self.payload.get(..120).unwrap_or(&self.payload);
        write!(f, "{} {:?}", char::from(self.tag), String::from_utf8_lossy(shown))
    }
}

impl Frame {
    /// Returns a field of an ErrorResponse or NoticeResponse by its code, such as `C` for the SQLSTATE.
    pub fn field(&self, code: u8) -> Option<String> {
        let mut fields = self.payload.split(|byte| *byte == 0).filter_map(|field| field.split_first());
        fields.find(|(have, _)| **have == code).map(|(_, text)| String::from_utf8_lossy(text).into_owned())
    }

    /// Returns the values of a DataRow.
    pub fn row(&self) -> Vec<Option<Vec<u8>>> {
        let (mut values, mut rest) = (Vec::new(), self.payload.get(2..).unwrap_or_default());
        while let Some((len, tail)) = rest.split_first_chunk::<4>() {
            let len = i32::from_be_bytes(*len);
            let (value, tail) = tail.split_at_checked(usize::try_from(len).unwrap_or(0)).unwrap_or((tail, &[]));
            values.push((len >= 0).then(|| value.to_vec()));
            rest = tail;
        }
        values
    }
}

/// The tags of frames, as one text to compare with.
pub fn tags(frames: &[Frame]) -> String {
    frames.iter().map(|frame| char::from(frame.tag)).collect()
}

/// What a server says between the start-up and its first ReadyForQuery.
#[derive(Debug, Default)]
pub struct Greeting {
    /// Everything, in order.
    pub frames: Vec<Frame>,
    /// The parameters it reported.
    pub parameters: Vec<(String, String)>,
    /// The process id and the key for cancelling.
    pub key: Option<(u32, Vec<u8>)>,
    /// The SASL mechanisms it offered.
    pub mechanisms: Vec<String>,
}

impl Greeting {
    /// Returns the NegotiateProtocolVersion messages: the version offered, and the options that are not known.
    pub fn negotiations(&self) -> Vec<(u32, Vec<String>)> {
        let messages = self.frames.iter().filter(|frame| frame.tag == b'v');
        let number = |bytes: Option<&[u8]>| bytes.and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes);
        messages
            .map(|frame| {
                let names = frame.payload.get(8..).unwrap_or_default().split(|byte| *byte == 0);
                let names =
                    names.filter(|name| !name.is_empty()).map(|name| String::from_utf8_lossy(name).into_owned());
                (number(frame.payload.get(..4)), names.collect())
            })
            .collect()
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    /// Between two of them.
    Gone,
}

/// How a login is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// SCRAM-SHA-256-PLUS where TLS and the server allow it.
    Prefer,
    /// SCRAM-SHA-256, as of a client that cannot do more (`n`).
    Never,
    /// SCRAM-SHA-256, as of a client that could do more and was not offered it (`y`): what one says between whom and the server
    /// somebody took the better offer out.
    Stripped,
}

/// A connection.
pub struct RawPg {
    stream: Stream,
    /// What came and was not read yet.
    held: BytesMut,
}

impl RawPg {
    /// Connects and sends nothing yet.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn open(access: &Access) -> Result<Self> {
        let stream = if access.host.starts_with('/') {
            let path = Path::new(&access.host).join(format!(".s.PGSQL.{}", access.port));
            let stream = UnixStream::connect(&path).with_context(|| path.display().to_string())?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Stream::Unix(stream)
        } else {
            let stream = TcpStream::connect((access.host.as_str(), access.port))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            Stream::Tcp(stream)
        };
        Ok(Self { stream, held: BytesMut::new() })
    }

    /// Connects as libpq does: TLS after an SSLRequest where the access names whom to trust.
    ///
    /// # Errors
    /// When the server has no TLS, or shows a certificate that is not to be trusted.
    pub fn connect(access: &Access) -> Result<Self> {
        let mut client = Self::open(access)?;
        if access.ca.is_some() {
            client.send(&message::ssl_request())?;
            let answer = client.read_byte()?;
            ensure!(answer == b'S', "the server answers an SSLRequest with {}", char::from(answer));
            client.start_tls(access, &[])?;
        }
        Ok(client)
    }

    /// Connects and logs in with protocol 3.0.
    ///
    /// # Errors
    /// When the server refuses; the text carries what it says.
    pub fn login(access: &Access) -> Result<Self> {
        Ok(Self::login_as(access, VERSION_3_0, &[])?.0)
    }

    /// Connects and logs in with any protocol version and more start-up parameters.
    ///
    /// # Errors
    /// When the server refuses; the text carries what it says.
    pub fn login_as(access: &Access, version: u32, more: &[(&str, &str)]) -> Result<(Self, Greeting)> {
        let mut client = Self::connect(access)?;
        client.start(access, version, more)?;
        let greeting = client.authenticate(access, Binding::Prefer)?;
        Ok((client, greeting))
    }

    /// Sends a StartupMessage for that login.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn start(&mut self, access: &Access, version: u32, more: &[(&str, &str)]) -> Result<()> {
        let mut parameters = vec![("user", access.user.as_str()), ("database", access.database.as_str())];
        parameters.extend(more);
        self.send(&message::startup(version, &parameters))
    }

    /// Goes on with TLS: the next byte sent is a ClientHello's.
    ///
    /// # Errors
    /// When the handshake fails.
    pub fn start_tls(&mut self, access: &Access, alpn: &[&[u8]]) -> Result<()> {
        let mut roots = RootCertStore::empty();
        let ca = access.ca.as_ref().context("no certificate to trust")?;
        for certificate in CertificateDer::pem_file_iter(ca)? {
            roots.add(certificate?)?;
        }
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from(access.host.clone())?;
        let connection = ClientConnection::new(Arc::new(config), name)?;
        let Stream::Tcp(tcp) = std::mem::replace(&mut self.stream, Stream::Gone) else { bail!("no TCP to secure") };
        ensure!(self.held.is_empty(), "the server spoke before TLS");
        let mut stream = StreamOwned::new(connection, tcp);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        self.stream = Stream::Tls(Box::new(stream));
        Ok(())
    }

    /// Returns the ALPN protocol that was agreed on.
    pub fn alpn(&self) -> Option<Vec<u8>> {
        let Stream::Tls(stream) = &self.stream else { return None };
        stream.conn.alpn_protocol().map(<[u8]>::to_vec)
    }

    /// Proves the password by what the server asks for, and reads on to the first ReadyForQuery.
    ///
    /// # Errors
    /// When the server refuses or asks for something else.
    pub fn authenticate(&mut self, access: &Access, binding: Binding) -> Result<Greeting> {
        let mut greeting = Greeting::default();
        let mut scram = None;
        loop {
            let frame = self.read()?;
            let payload = frame.payload.clone();
            let tag = frame.tag;
            greeting.frames.push(frame);
            let body = payload.get(4..).unwrap_or_default();
            match (tag, payload.first_chunk::<4>().map(|code| u32::from_be_bytes(*code))) {
                (b'R', Some(0)) | (b'v' | b'N', _) => {}
                (b'R', Some(3)) => self.send(&message::password(access.password.as_bytes()))?,
                (b'R', Some(10)) => {
                    let names = body.split(|byte| *byte == 0).filter(|name| !name.is_empty());
                    greeting.mechanisms = names.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
                    let (mechanism, channel) = self.mechanism(&greeting.mechanisms, binding)?;
                    let started = ScramSha256::new(access.password.as_bytes(), channel);
                    self.send(&message::sasl_initial(mechanism, started.message()))?;
                    scram = Some(started);
                }
                (b'R', Some(11)) => {
                    let scram = scram.as_mut().context("a SASL message before any was asked for")?;
                    scram.update(body)?;
                    self.send(&message::frame(b'p', scram.message()))?;
                }
                (b'R', Some(12)) => scram.as_mut().context("the end of no SASL")?.finish(body)?,
                (b'S', _) => {
                    let mut fields =
                        payload.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
                    greeting.parameters.extend(fields.next().zip(fields.next()));
                }
                (b'K', Some(pid)) => greeting.key = Some((pid, body.to_vec())),
                (b'Z', _) => return Ok(greeting),
                _ => bail!("the login was refused: {:?}", greeting.frames.last()),
            }
        }
    }

    fn mechanism(&self, offered: &[String], binding: Binding) -> Result<(&'static str, ChannelBinding)> {
        let plus = offered.iter().any(|name| name == SCRAM_SHA_256_PLUS);
        match &self.stream {
            Stream::Tls(stream) if plus && binding == Binding::Prefer => {
                let leaf = stream.conn.peer_certificates().and_then(<[_]>::first).context("no certificate")?;
                let hash = Sha256::digest(leaf.as_ref()).to_vec();
                Ok((SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash)))
            }
            Stream::Tls(_) if !plus || binding == Binding::Stripped => {
                Ok((SCRAM_SHA_256, ChannelBinding::unrequested()))
            }
            _ => Ok((SCRAM_SHA_256, ChannelBinding::unsupported())),
        }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(bytes)?,
            Stream::Unix(stream) => stream.write_all(bytes)?,
            Stream::Tls(stream) => {
                stream.write_all(bytes)?;
                stream.flush()?;
            }
            Stream::Gone => bail!("not connected"),
        }
        Ok(())
    }

    /// Reads one byte, before there are frames.
    ///
    /// # Errors
    /// When the server closes or is silent.
    pub fn read_byte(&mut self) -> Result<u8> {
        self.fill(1)?;
        Ok(self.held.get_u8())
    }

    /// Reads one frame.
    ///
    /// # Errors
    /// When the server closes or is silent.
    pub fn read(&mut self) -> Result<Frame> {
        self.fill(5)?;
        let (tag, len) = match self.held.first_chunk::<5>() {
            Some([tag, len @ ..]) => (*tag, u32::from_be_bytes(*len)),
            None => bail!("no frame"),
        };
        let end = 1 + usize::try_from(len)?;
        ensure!(len >= 4, "a frame of length {len}");
        self.fill(end)?;
        let frame = self.held.split_to(end);
        Ok(Frame { tag, payload: frame.get(5..).unwrap_or_default().to_vec() })
    }

    /// Reads one frame, keeps nothing of it, and returns its tag and the length of its payload.
    ///
    /// # Errors
    /// When the server closes or is silent.
    pub fn discard(&mut self) -> Result<(u8, u64)> {
        self.fill(5)?;
        let (tag, len) = match self.held.first_chunk::<5>() {
            Some([tag, len @ ..]) => (*tag, u64::from(u32::from_be_bytes(*len))),
            None => bail!("no frame"),
        };
        let mut left = len + 1;
        loop {
            let here = self.held.len().min(usize::try_from(left)?);
            self.held.advance(here);
            left -= here as u64;
            if left == 0 {
                return Ok((tag, len - 4));
            }
            ensure!(self.more()? > 0, "the server closed the connection");
        }
    }

    /// Reads frames up to and with the first of that tag; a refusal of the whole connection ends it too.
    ///
    /// # Errors
    /// When the server closes or is silent before it.
    pub fn read_to(&mut self, tag: u8) -> Result<Vec<Frame>> {
        let mut frames = Vec::new();
        loop {
            frames.push(self.read().with_context(|| format!("after {frames:?}"))?);
            if frames.last().is_some_and(|frame| frame.tag == tag) {
                return Ok(frames);
            }
        }
    }

    /// Sends a simple query and reads up to the next ReadyForQuery.
    ///
    /// # Errors
    /// When the server closes or is silent.
    pub fn query(&mut self, sql: impl AsRef<[u8]>) -> Result<Vec<Frame>> {
        self.send(&message::query(sql.as_ref()))?;
        self.read_to(b'Z')
    }

    /// Reads everything up to the end of the connection and returns what came.
    ///
    /// # Errors
    /// When the server does not close.
    pub fn read_to_end(&mut self) -> Result<Vec<u8>> {
        while self.more()? > 0 {}
        Ok(std::mem::take(&mut self.held).to_vec())
    }

    /// Tells whether the server sends nothing for that long.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn is_silent_for(&mut self, span: Duration) -> Result<bool> {
        self.set_timeout(span)?;
        let silent = self.held.is_empty()
            && match self.more() {
                Ok(_) => false,
                Err(error) => error
                    .downcast_ref::<std::io::Error>()
                    .is_some_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)),
            };
        self.set_timeout(PATIENCE)?;
        Ok(silent)
    }

    /// Tells the server that nothing more will come, and goes on reading.
    pub fn finish_sending(&mut self) {
        let _ = match &mut self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
            Stream::Tls(stream) => {
                stream.conn.send_close_notify();
                stream.flush()
            }
            Stream::Gone => Ok(()),
        };
    }

    fn set_timeout(&self, span: Duration) -> Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(span))?,
            Stream::Unix(stream) => stream.set_read_timeout(Some(span))?,
            Stream::Tls(stream) => stream.sock.set_read_timeout(Some(span))?,
            Stream::Gone => {}
        }
        Ok(())
    }

    fn fill(&mut self, len: usize) -> Result<()> {
        while self.held.len() < len {
            ensure!(self.more()? > 0, "the server closed the connection");
        }
        Ok(())
    }

    fn more(&mut self) -> Result<usize> {
        let mut buffer = [0; 64 * 1024];
        let read = match &mut self.stream {
            Stream::Tcp(stream) => stream.read(&mut buffer),
            Stream::Unix(stream) => stream.read(&mut buffer),
            Stream::Tls(stream) => stream.read(&mut buffer),
            Stream::Gone => bail!("not connected"),
        };
        let len = match read {
            Ok(len) => len,
            // Servers close without TLS's own farewell, or with what we sent still unread.
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => 0,
            Err(error) => return Err(error.into()),
        };
        self.held.extend_from_slice(buffer.get(..len).unwrap_or_default());
        Ok(len)
    }
}
