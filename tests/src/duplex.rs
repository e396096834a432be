//! Connections that are used both ways at once, and checked byte by byte: what forwarded ones are tested with.
//!
//! The server speaks first and goes on while it is spoken to; it answers only after the other side's end of file. So a
//! connection that loses a byte, its order, its beginning or its half-close fails.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::noise::Noise;

/// The server's first words.
const GREETING: &[u8] = b"after you\n";

/// How long a read may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection, of whatever family.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A socket in the file system.
    Unix(UnixStream),
}

impl Stream {
    /// Connects to a port of 127.0.0.1.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn tcp(port: u16) -> io::Result<Self> {
        Ok(Self::Tcp(TcpStream::connect(("127.0.0.1", port))?))
    }

    /// Connects to a socket.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn unix(path: &Path) -> io::Result<Self> {
        Ok(Self::Unix(UnixStream::connect(path)?))
    }

    fn again(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
        })
    }

    fn patient(self) -> io::Result<Self> {
        match &self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(PATIENCE))?,
            Self::Unix(stream) => stream.set_read_timeout(Some(PATIENCE))?,
        }
        Ok(self)
    }

    /// Says that nothing more is sent.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn end(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(data),
            Self::Unix(stream) => stream.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the client's side of a conversation of that size sends, and what the server's.
pub fn both_sides(bytes: u64) -> (Vec<u8>, Vec<u8>) {
    let sent = Noise::new(1).chunk(bytes as usize);
    let mut answer = [GREETING, &Noise::new(2).chunk(bytes as usize)].concat();
    answer.extend(blake3::hash(&sent).as_bytes());
    (sent, answer)
}

/// Talks to a server: waits for its first words, sends and reads at once, ends its half, and reads the answer to the end.
///
/// # Errors
/// When anything differs from what the server says.
pub fn converse(stream: Stream, bytes: u64) -> Result<()> {
    let (sent, expected) = both_sides(bytes);
    let mut stream = stream.patient()?;
    let mut first = vec![0; GREETING.len()];
    stream.read_exact(&mut first).context("the first words")?;
    ensure!(first == GREETING, "other first words: {first:?}");
    let mut writing = stream.again()?;
    let writer = std::thread::spawn(move || -> io::Result<()> {
        writing.write_all(&sent)?;
        writing.end()
    });
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).context("the answer")?;
    writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?.context("what is sent")?;
    ensure!(rest.len() == expected.len() - first.len(), "{} bytes came of {}", rest.len(), expected.len());
    ensure!(expected.ends_with(&rest), "other bytes came");
    Ok(())
}

/// A server on loopback or at a path. It serves as long as the process lives.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its port; 0 for one at a path.
    pub port: u16,
    /// Its path; empty for one at a port.
    pub path: PathBuf,
    served: Arc<AtomicUsize>,
}

impl Server {
    /// Starts one on a free port of 127.0.0.1 for conversations of that size.
    ///
    /// # Errors
    /// When the system gives no socket.
    pub fn tcp(bytes: u64) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let server = Self { port: listener.local_addr()?.port(), path: PathBuf::new(), served: Arc::default() };
        server.clone().run(bytes, move || Ok(Stream::Tcp(listener.accept()?.0)));
        Ok(server)
    }

    /// Starts one at a path.
    ///
    /// # Errors
    /// When the system gives no socket.
    pub fn unix(path: &Path, bytes: u64) -> Result<Self> {
        let listener = UnixListener::bind(path)?;
        let server = Self { port: 0, path: path.to_owned(), served: Arc::default() };
        server.clone().run(bytes, move || Ok(Stream::Unix(listener.accept()?.0)));
        Ok(server)
    }

    /// Returns how many conversations came to their end.
    pub fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }

    fn run(self, bytes: u64, accept: impl Fn() -> io::Result<Stream> + Send + 'static) {
        std::thread::spawn(move || {
            while let Ok(stream) = accept() {
                let served = Arc::clone(&self.served);
                std::thread::spawn(move || {
                    // A client that goes away in between is one of the things that are tested.
                    if serve(stream, bytes).is_ok() {
                        served.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
    }
}

fn serve(mut stream: Stream, bytes: u64) -> io::Result<()> {
    let mut writing = stream.again()?;
    let writer = std::thread::spawn(move || -> io::Result<Stream> {
        writing.write_all(GREETING)?;
        io::copy(&mut Noise::new(2).take_bytes(bytes), &mut writing)?;
        Ok(writing)
    });
    let mut hash = blake3::Hasher::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            len => hash.update(buffer.get(..len).unwrap_or_default()),
        };
    }
    let mut writing = writer.join().map_err(|_| io::Error::other("the writer panicked"))??;
    writing.write_all(hash.finalize().as_bytes())?;
    writing.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_and_its_client_agree_and_a_missing_byte_is_seen() {
        let server = Server::tcp(100_000).unwrap();
        converse(Stream::tcp(server.port).unwrap(), 100_000).unwrap();
        assert!(crate::process::wait_until(PATIENCE, || server.served() == 1));
        assert!(converse(Stream::tcp(server.port).unwrap(), 100_001).is_err());
    }
}
