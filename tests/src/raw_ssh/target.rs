//! A target that misbehaves as a test says.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;

use super::peer::{Peer, Role};

/// A listener on 127.0.0.1 that runs a script for each connection, in a thread of its own. Dropped, it takes no more and
/// cuts what is left.
pub struct HostileTarget {
    /// Its port.
    pub port: u16,
    over: Arc<AtomicBool>,
    begun: Arc<AtomicUsize>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl HostileTarget {
    /// Starts one. A connection ends with its script, whose error is what a peer that was cut off sees, and of no interest.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(script: impl Fn(TcpStream) -> Result<()> + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let (over, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (open, script) = (Arc::new(Mutex::new(Vec::new())), Arc::new(script));
        let target = Self { port, over: Arc::clone(&over), begun: Arc::clone(&begun), open: Arc::clone(&open) };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                begun.fetch_add(1, Ordering::SeqCst);
                let (Ok(clone), Ok(last)) = (stream.try_clone(), stream.try_clone()) else { continue };
                open.lock().unwrap_or_else(PoisonError::into_inner).push(clone);
                let script = Arc::clone(&script);
                std::thread::spawn(move || {
                    let _ = script(stream);
                    let _ = last.shutdown(Shutdown::Both);
                });
            }
        });
        Ok(target)
    }

    /// Starts one that behaves up to the start of a program, with the host key of that number, and then runs the script; it gets
    /// the client's channel number.
    ///
    /// # Errors
    /// When no port is free.
    pub fn running(key: u64, script: impl Fn(&mut Peer, u32) -> Result<()> + Send + Sync + 'static) -> Result<Self> {
        Self::start(move |stream| {
            let mut peer = Self::logged_in(stream, key)?;
            let channel = peer.confirm(1 << 21, 1 << 15)?;
            peer.start_program(channel)?;
            script(&mut peer, channel)
        })
    }

    /// Serves a connection up to the end of the login.
    ///
    /// # Errors
    /// When the client does not come along.
    pub fn logged_in(stream: TcpStream, key: u64) -> Result<Peer> {
        let mut peer = Peer::greet(stream, Role::Server(key))?;
        peer.exchange_keys(&super::Lists::default())?;
        peer.let_in()?;
        Ok(peer)
    }

    /// Returns how many connections came.
    pub fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }
}

impl Drop for HostileTarget {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the listener.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
