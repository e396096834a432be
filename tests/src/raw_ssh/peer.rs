//! A peer in either role: greeting, key exchange, login and channels done right, so that a test can do the next thing wrong.

use std::io::Read;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::kex::{Half, Key, Lists, Transcript, derive, verify};
use super::packets::{Packets, Said};
use super::wire::{Put, Take, msg};

/// The line that we greet with.
const IDENT: &str = "SSH-2.0-raw";

/// Which side of the connection this peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The one that dialled.
    Client,
    /// The one that was dialled, with its host key's number.
    Server(u64),
}

/// One end of an SSH connection.
pub struct Peer {
    /// What goes over the wire; a test may send anything by it.
    pub packets: Packets,
    role: Role,
    theirs: String,
    session: Option<[u8; 32]>,
    /// Somebody else reads from the socket.
    drained: bool,
    /// The host key that the server proved.
    pub host_key: Vec<u8>,
}

impl Peer {
    /// Connects to a port of 127.0.0.1 and exchanges greetings.
    ///
    /// # Errors
    /// When nobody greets.
    pub fn dial(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        Self::greet(stream, Role::Client)
    }

    /// Connects, exchanges keys and logs in.
    ///
    /// # Errors
    /// When any of it fails.
    pub fn log_in(port: u16, user: &str, key: &Key) -> Result<Self> {
        let mut peer = Self::dial(port)?;
        peer.exchange_keys(&Lists::default())?;
        peer.prove(user, key)?;
        Ok(peer)
    }

    /// Exchanges greetings over a connection.
    ///
    /// # Errors
    /// When nobody greets.
    pub fn greet(stream: TcpStream, role: Role) -> Result<Self> {
        let mut packets = Packets::new(stream)?;
        packets.raw(format!("{IDENT}\r\n").as_bytes())?;
        let theirs = packets.line()?;
        ensure!(theirs.starts_with("SSH-2.0-"), "not SSH: {theirs:?}");
        Ok(Self { packets, role, theirs, session: None, drained: false, host_key: Vec::new() })
    }

    /// Sends a message now.
    ///
    /// # Errors
    /// When the peer is gone or takes nothing.
    pub fn send(&mut self, message: Put) -> Result<()> {
        let Put(payload) = message;
        self.packets.queue(&payload)?;
        self.packets.flush()
    }

    /// Waits for a message of one of these numbers, and passes over all others.
    ///
    /// # Errors
    /// When the connection ends or stays silent first.
    pub fn expect(&mut self, numbers: &[u8]) -> Result<Vec<u8>> {
        let mut seen = Vec::new();
        loop {
            match self.packets.receive()? {
                Said::Message(payload) if payload.first().is_some_and(|number| numbers.contains(number)) => {
                    return Ok(payload);
                }
                Said::Message(payload) => seen.extend(payload.first().copied()),
                Said::End => bail!("the connection ended before {numbers:?}, after {seen:?}"),
            }
        }
    }

    /// Waits for the end of the connection, and returns how long it took and the numbers of the messages before it.
    ///
    /// # Errors
    /// When it does not end within `patience`.
    pub fn wait_end(&mut self, patience: Duration) -> Result<(Duration, Vec<u8>)> {
        let (start, mut seen) = (Instant::now(), Vec::new());
        self.packets.flush().ok();
        while let Some(left) = patience.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
            self.packets.stream().set_read_timeout(Some(left))?;
            match self.packets.receive()? {
                Said::Message(payload) => seen.extend(payload.first().copied()),
                Said::End => return Ok((start.elapsed(), seen)),
            }
        }
        bail!("the connection goes on after {patience:?}: {seen:?}")
    }

    /// Reads and forgets what comes from now on, until the end; the result is how many bytes that was.
    ///
    /// # Errors
    /// When the socket cannot be shared.
    pub fn drain(&mut self) -> Result<JoinHandle<usize>> {
        self.drained = true;
        let mut stream = self.packets.stream().try_clone()?;
        Ok(std::thread::spawn(move || {
            let (mut buffer, mut total) = ([0; 16 * 1024], 0);
            while let Ok(len @ 1..) = stream.read(&mut buffer) {
                total += len;
            }
            total
        }))
    }

    /// Exchanges keys, for the first time or again.
    ///
    /// # Errors
    /// When the other side does not take part.
    pub fn exchange_keys(&mut self, lists: &Lists) -> Result<()> {
        let ours = lists.message();
        self.packets.queue(&ours)?;
        let theirs = self.expect(&[msg::KEXINIT])?;
        self.finish_exchange(&ours, &theirs)
    }

    /// Answers a key exchange that the other side began with this message, in the role that is ours.
    ///
    /// # Errors
    /// When the other side does not go on.
    pub fn finish_exchange(&mut self, ours: &[u8], theirs: &[u8]) -> Result<()> {
        let half = Half::new()?;
        let mine = half.public.clone();
        let (secret, hash) = match self.role {
            Role::Client => {
                self.send(Put::message(msg::ECDH_INIT).string(&mine))?;
                let reply = self.expect(&[msg::ECDH_REPLY])?;
                let mut reply = Take::body(&reply);
                let (host_key, their_half, signature) = (reply.string()?, reply.string()?, reply.string()?);
                let secret = half.agree(their_half)?;
                let hash = Transcript {
                    client_ident: IDENT,
                    server_ident: &self.theirs,
                    client_init: ours,
                    server_init: theirs,
                    host_key,
                    client_half: &mine,
                    server_half: their_half,
                    secret: &secret,
                }
                .hash();
                verify(host_key, signature, &hash)?;
                self.host_key = host_key.to_vec();
                (secret, hash)
            }
            Role::Server(number) => {
                let init = self.expect(&[msg::ECDH_INIT])?;
                let their_half = Take::body(&init).string()?;
                let secret = half.agree(their_half)?;
                let key = Key::number(number);
                let hash = Transcript {
                    client_ident: &self.theirs,
                    server_ident: IDENT,
                    client_init: theirs,
                    server_init: ours,
                    host_key: &key.blob(),
                    client_half: their_half,
                    server_half: &mine,
                    secret: &secret,
                }
                .hash();
                let reply = Put::message(msg::ECDH_REPLY).string(key.blob()).string(&mine).string(key.sign(&hash));
                self.send(reply)?;
                (secret, hash)
            }
        };
        self.send(Put::message(msg::NEWKEYS))?;
        let session = *self.session.get_or_insert(hash);
        let (from_client, from_server) = derive(&secret, &hash, &session)?;
        let (sending, receiving) = match self.role {
            Role::Client => (from_client, from_server),
            Role::Server(_) => (from_server, from_client),
        };
        self.packets.sending = Some(sending);
        self.expect(&[msg::NEWKEYS])?;
        self.packets.receiving = Some(receiving);
        Ok(())
    }

    /// Proves another host key from now on.
    pub fn change_host_key(&mut self, number: u64) {
        self.role = Role::Server(number);
    }

    /// Asks for the service that logs in.
    ///
    /// # Errors
    /// When it is not given.
    pub fn ask_service(&mut self) -> Result<()> {
        self.send(Put::message(msg::SERVICE_REQUEST).string("ssh-userauth"))?;
        self.expect(&[msg::SERVICE_ACCEPT])?;
        Ok(())
    }

    /// Asks for the service and logs in with a key.
    ///
    /// # Errors
    /// When the key is refused.
    pub fn prove(&mut self, user: &str, key: &Key) -> Result<()> {
        self.ask_service()?;
        self.send(self.proof(user, key)?)?;
        let answer = self.expect(&[msg::USERAUTH_SUCCESS, msg::USERAUTH_FAILURE])?;
        ensure!(answer.first() == Some(&msg::USERAUTH_SUCCESS), "the key was refused");
        Ok(())
    }

    /// A signed request to log in.
    ///
    /// # Errors
    /// Before the key exchange.
    pub fn proof(&self, user: &str, key: &Key) -> Result<Put> {
        let request = Put::message(msg::USERAUTH_REQUEST)
            .string(user)
            .string("ssh-connection")
            .string("publickey")
            .bool(true)
            .string("ssh-ed25519")
            .string(key.blob());
        let session = self.session.context("no key exchange yet")?;
        let signed = Put::default().string(session).raw(&request.0);
        Ok(request.string(key.sign(&signed.0)))
    }

    /// Opens a session channel of ours with that number, and returns the other side's.
    ///
    /// # Errors
    /// When it is refused.
    pub fn open(&mut self, ours: u32, window: u32, packet: u32) -> Result<u32> {
        self.send(open("session", ours, window, packet))?;
        self.opened(ours)
    }

    /// Waits for the answer to a channel of ours being opened, and returns the other side's number for it.
    ///
    /// # Errors
    /// When it is refused.
    pub fn opened(&mut self, ours: u32) -> Result<u32> {
        loop {
            let answer = self.expect(&[msg::CHANNEL_OPEN_CONFIRMATION, msg::CHANNEL_OPEN_FAILURE])?;
            let mut body = Take::body(&answer);
            if body.u32()? != ours {
                continue;
            }
            ensure!(answer.first() == Some(&msg::CHANNEL_OPEN_CONFIRMATION), "the channel was refused: {answer:?}");
            return body.u32();
        }
    }

    /// Runs a command in a channel of theirs.
    ///
    /// # Errors
    /// When the request is refused.
    pub fn exec(&mut self, theirs: u32, command: &str) -> Result<()> {
        self.send(request(theirs, "exec", true).string(command))?;
        let answer = self.expect(&[msg::CHANNEL_SUCCESS, msg::CHANNEL_FAILURE])?;
        ensure!(answer.first() == Some(&msg::CHANNEL_SUCCESS), "the command was refused");
        Ok(())
    }

    /// Collects what a channel of ours puts out until it is closed, granting window as it goes, and answers the close.
    ///
    /// # Errors
    /// When the connection ends first.
    pub fn read_to_close(&mut self, theirs: u32) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let said = self.expect(&[msg::CHANNEL_DATA, msg::CHANNEL_CLOSE])?;
            if said.first() == Some(&msg::CHANNEL_CLOSE) {
                self.send(Put::message(msg::CHANNEL_CLOSE).u32(theirs))?;
                return Ok(all);
            }
            let mut body = Take::body(&said);
            body.u32()?;
            let data = body.string()?;
            all.extend_from_slice(data);
            self.send(Put::message(msg::CHANNEL_WINDOW_ADJUST).u32(theirs).u32(data.len() as u32))?;
        }
    }

    /// As a server: lets anybody in by whatever key.
    ///
    /// # Errors
    /// When nobody tries.
    pub fn let_in(&mut self) -> Result<()> {
        self.expect(&[msg::SERVICE_REQUEST])?;
        self.send(Put::message(msg::SERVICE_ACCEPT).string("ssh-userauth"))?;
        loop {
            let asked = self.expect(&[msg::USERAUTH_REQUEST])?;
            let mut asked = Take::body(&asked);
            let (_, _, method) = (asked.string()?, asked.string()?, asked.text()?);
            if method != "publickey" {
                self.send(Put::message(msg::USERAUTH_FAILURE).string("publickey").bool(false))?;
                continue;
            }
            let (signed, algorithm, key) = (asked.u8()? != 0, asked.string()?, asked.string()?);
            if signed {
                return self.send(Put::message(msg::USERAUTH_SUCCESS));
            }
            self.send(Put::message(msg::USERAUTH_PK_OK).string(algorithm).string(key))?;
        }
    }

    /// As a server: confirms the first channel with this window and packet size, and returns the client's number for it.
    ///
    /// # Errors
    /// When none is opened.
    pub fn confirm(&mut self, window: u32, packet: u32) -> Result<u32> {
        let asked = self.expect(&[msg::CHANNEL_OPEN])?;
        let mut asked = Take::body(&asked);
        asked.string()?;
        let theirs = asked.u32()?;
        self.send(Put::message(msg::CHANNEL_OPEN_CONFIRMATION).u32(theirs).u32(0).u32(window).u32(packet))?;
        Ok(theirs)
    }

    /// As a server: says yes to requests until one starts a program.
    ///
    /// # Errors
    /// When none comes.
    pub fn start_program(&mut self, theirs: u32) -> Result<()> {
        loop {
            let asked = self.expect(&[msg::CHANNEL_REQUEST])?;
            let mut asked = Take::body(&asked);
            let (_, name, reply) = (asked.u32()?, asked.text()?.to_owned(), asked.u8()?);
            if reply != 0 {
                self.send(Put::message(msg::CHANNEL_SUCCESS).u32(theirs))?;
            }
            if ["exec", "shell", "subsystem"].contains(&name.as_str()) {
                return Ok(());
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Who drains would keep the connection open.
        if self.drained {
            let _ = self.packets.stream().shutdown(Shutdown::Both);
        }
    }
}

/// A channel being opened.
pub fn open(kind: &str, ours: u32, window: u32, packet: u32) -> Put {
    Put::message(msg::CHANNEL_OPEN).string(kind).u32(ours).u32(window).u32(packet)
}

/// A request in a channel.
pub fn request(theirs: u32, name: &str, reply: bool) -> Put {
    Put::message(msg::CHANNEL_REQUEST).u32(theirs).string(name).bool(reply)
}
