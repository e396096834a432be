//! The first packets of a PostgreSQL connection, up to the one that says who wants what.
//!
//! A machine that is used up by each step: what was agreed on before TLS cannot be asked for again behind it, and nothing can
//! be entered twice. Knows no socket and no person. <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>

use bytes::{BufMut, Bytes, BytesMut};

use super::codec::{
    Complaint, FEATURE_NOT_SUPPORTED, Fields, INVALID_AUTHORIZATION, PROTOCOL_VIOLATION, put_frame, put_text,
};

/// The longest startup packet (pqcomm.h, `MAX_STARTUP_PACKET_LENGTH`).
pub const STARTUP_LEN_MAX: usize = 10_000;

/// Codes that stand where a version would: 1234 in the high half, so that they can be none.
const SSL_REQUEST: u32 = 80_877_103;
/// Asks for TLS: the whole packet.
pub(super) const SSL_REQUEST_PACKET: [u8; 8] = {
    let ([a, b, c, d], [e, f, g, h]) = (8_u32.to_be_bytes(), SSL_REQUEST.to_be_bytes());
    [a, b, c, d, e, f, g, h]
};
const GSSENC_REQUEST: u32 = 80_877_104;
pub(super) const CANCEL_REQUEST: u32 = 80_877_102;

/// Protocol 3.0.
pub const VERSION_3_0: u32 = 3 << 16;
/// Protocol 3.2: cancel keys of up to 256 bytes.
pub const VERSION_3_2: u32 = 3 << 16 | 2;

/// The first byte of a TLS record that carries a handshake: a ClientHello without asking (PostgreSQL 17, `sslnegotiation=direct`).
const TLS_HANDSHAKE: u8 = 0x16;

/// Cancel keys that a client may name: four bytes in protocol 3.0, up to 256 since 3.2.
const CANCEL_KEY_LEN: std::ops::RangeInclusive<usize> = 4..=256;

/// What protects the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Nothing: TLS has to come first.
    Open,
    /// Something else does: the connection comes through SSH, or never leaves the machine. TLS may come, where there is a
    /// certificate for it.
    Carried {
        /// Whether TLS is to be had.
        tls: bool,
    },
    /// TLS.
    Tls,
}

/// Waits for a first packet.
#[derive(Debug)]
pub struct Opening {
    security: Security,
    tls_asked: bool,
    gss_asked: bool,
}

/// What follows from the bytes so far.
#[derive(Debug)]
pub enum Step {
    /// Not a whole packet.
    More(Opening),
    /// The request is answered with that byte, and another packet is awaited.
    Answer(u8, Opening),
    /// The request is answered with `S`, and TLS begins; what comes inside it begins at [`Opening::inside_tls`].
    Upgrade,
    /// TLS begins at once, with the bytes that are there. The client must agree on `postgresql` by ALPN.
    Direct,
    /// Somebody wants to stop what a session does. There is no answer.
    Cancel(CancelRequest),
    /// Somebody wants that, and no session has such a key. There is no answer either.
    NoCancel,
    /// Somebody wants a session.
    Start(Startup),
}

/// Which session's work is to be stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelRequest {
    /// The process that the session's client was told.
    pub pid: u32,
    /// The key that it was told.
    pub key: Bytes,
}

/// What a session is asked for with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// The version that was asked for.
    pub asked: u32,
    /// The version that is spoken: the best that both sides know.
    pub version: u32,
    /// Parameters in their order, as they were sent.
    pub parameters: Vec<(Bytes, Bytes)>,
}

impl Opening {
    /// Waits for the first packet of a connection.
    pub fn new(security: Security) -> Self {
        Self { security, tls_asked: false, gss_asked: false }
    }

    /// Waits for the first packet inside TLS. There is no second TLS inside, and no GSSAPI.
    pub fn inside_tls() -> Self {
        Self { security: Security::Tls, tls_asked: true, gss_asked: true }
    }

    /// Reads on. What is left in `buf` when a step is taken has not been read.
    ///
    /// # Errors
    /// The connection ends, with this complaint where the client can read one.
    pub fn step(self, buf: &mut BytesMut) -> Result<Step, Complaint> {
        if buf.first() == Some(&TLS_HANDSHAKE) && !self.tls_asked && !self.gss_asked && self.offers_tls() {
            return Ok(Step::Direct);
        }
        let Some(len) = buf.first_chunk().map(|len| u32::from_be_bytes(*len)) else { return Ok(Step::More(self)) };
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if !(8..=STARTUP_LEN_MAX).contains(&len) {
            return Err(Complaint::new(PROTOCOL_VIOLATION, "invalid length of startup packet"));
        }
        if buf.len() < len {
            return Ok(Step::More(self));
        }
        let packet = buf.split_to(len).freeze();
        let mut fields = Fields(packet.get(4..).unwrap_or_default());
        let code = fields.u32().unwrap_or_default();
        match code {
            SSL_REQUEST if len == 8 && !self.tls_asked => {
                // Whatever was sent behind the request came from somebody who need not be inside the TLS to come. Read as
                // plaintext later it would put words into the session, as happened to PgBouncer (CVE-2021-3935).
                if !buf.is_empty() {
                    return Err(Complaint::new(PROTOCOL_VIOLATION, "received unencrypted data after SSL request"));
                }
                if self.offers_tls() {
                    return Ok(Step::Upgrade);
                }
                Ok(Step::Answer(b'N', Self { tls_asked: true, ..self }))
            }
            GSSENC_REQUEST if len == 8 && !self.gss_asked => {
                if !buf.is_empty() {
                    let message = "received unencrypted data after GSSAPI encryption request";
                    return Err(Complaint::new(PROTOCOL_VIOLATION, message));
                }
                Ok(Step::Answer(b'N', Self { gss_asked: true, ..self }))
            }
            SSL_REQUEST | GSSENC_REQUEST => Err(Complaint::new(
                PROTOCOL_VIOLATION,
                "a request for encryption that was made before, or has data in it",
            )),
            CANCEL_REQUEST => match (fields.u32(), fields.0.len()) {
                (Some(pid), left) if CANCEL_KEY_LEN.contains(&left) => {
                    Ok(Step::Cancel(CancelRequest { pid, key: Bytes::copy_from_slice(fields.0) }))
                }
                _ => Ok(Step::NoCancel),
            },
            version => self.start(version, &packet.slice(8..)),
        }
    }

    fn offers_tls(&self) -> bool {
        match self.security {
            Security::Open => true,
            Security::Carried { tls } => tls,
            Security::Tls => false,
        }
    }

    fn start(self, asked: u32, parameters: &Bytes) -> Result<Step, Complaint> {
        if asked >> 16 != 3 {
            let (major, minor) = (asked >> 16, asked & 0xffff);
            let message = format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2");
            return Err(Complaint::new(FEATURE_NOT_SUPPORTED, message));
        }
        if self.security == Security::Open {
            return Err(Complaint::new(INVALID_AUTHORIZATION, "this bastion takes connections with TLS only")
                .hint("connect with sslmode=verify-full, or sslmode=require at least"));
        }
        let parameters = read_parameters(parameters).ok_or_else(|| {
            Complaint::new(PROTOCOL_VIOLATION, "invalid startup packet layout: expected terminator as last byte")
        })?;
        // There never was a 3.1: no target speaks it.
        let version = if asked < VERSION_3_2 { VERSION_3_0 } else { VERSION_3_2 };
        Ok(Step::Start(Startup { asked, version, parameters }))
    }
}

/// Reads names and values up to an empty name, which must be the end.
fn read_parameters(bytes: &Bytes) -> Option<Vec<(Bytes, Bytes)>> {
    let mut fields = Fields(bytes);
    let mut parameters = Vec::new();
    loop {
        let name = fields.text()?;
        if name.is_empty() {
            return fields.is_empty().then_some(parameters);
        }
        parameters.push((bytes.slice_ref(name), bytes.slice_ref(fields.text()?)));
    }
}

impl Startup {
    /// Returns a parameter. Of several of one name the last counts, as for the server.
    pub fn parameter(&self, name: &[u8]) -> Option<&Bytes> {
        self.parameters.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Returns the NegotiateProtocolVersion that has to come first, where the client asked for more than there is: another
    /// version, or protocol options, of which none is known. It names them all, also those that no version has.
    pub fn negotiation(&self) -> Option<Bytes> {
        let unknown: Vec<&Bytes> =
            self.parameters.iter().map(|(name, _)| name).filter(|name| is_option(name)).collect();
        if self.version == self.asked && unknown.is_empty() {
            return None;
        }
        let mut out = BytesMut::new();
        put_frame(&mut out, b'v', |out| {
            out.put_u32(self.version);
            out.put_u32(u32::try_from(unknown.len()).unwrap_or(u32::MAX));
            unknown.iter().for_each(|name| put_text(out, name));
        });
        Some(out.freeze())
    }
}

/// Whether a parameter belongs to the protocol and not to the session.
pub fn is_option(name: &[u8]) -> bool {
    name.starts_with(b"_pq_.")
}

#[cfg(test)]
mod tests {
    use super::super::codec::put_counted;
    use super::*;

    fn packet(code: u32, rest: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        put_counted(&mut out, |out| {
            out.put_u32(code);
            out.put_slice(rest);
        });
        out
    }

    fn refused(opening: Opening, mut bytes: BytesMut) -> String {
        match opening.step(&mut bytes) {
            Err(complaint) => format!("{} {}", complaint.sqlstate, complaint.message),
            Ok(step) => panic!("{step:?}"),
        }
    }

    fn open() -> Opening {
        Opening::new(Security::Open)
    }

    #[test]
    fn tls_is_asked_for_once_and_nothing_may_come_with_the_request() {
        assert!(matches!(open().step(&mut packet(SSL_REQUEST, b"")), Ok(Step::Upgrade)));
        let mut junk = packet(SSL_REQUEST, b"");
        junk.put_u8(TLS_HANDSHAKE);
        assert_eq!(refused(open(), junk), "08P01 received unencrypted data after SSL request");
        assert!(refused(Opening::inside_tls(), packet(SSL_REQUEST, b"")).starts_with("08P01"));
        // On a socket of this machine there is none, and the client is told once.
        let carried = Opening::new(Security::Carried { tls: false });
        let Ok(Step::Answer(b'N', again)) = carried.step(&mut packet(SSL_REQUEST, b"")) else { panic!() };
        assert!(refused(again, packet(SSL_REQUEST, b"")).starts_with("08P01"));
    }

    #[test]
    fn gssapi_is_declined_once_and_tls_may_follow() {
        let Ok(Step::Answer(b'N', opening)) = open().step(&mut packet(GSSENC_REQUEST, b"")) else { panic!() };
        let Ok(Step::Upgrade) = opening.step(&mut packet(SSL_REQUEST, b"")) else { panic!() };
        let Ok(Step::Answer(b'N', opening)) = open().step(&mut packet(GSSENC_REQUEST, b"")) else { panic!() };
        assert!(refused(opening, packet(GSSENC_REQUEST, b"")).starts_with("08P01"));
        let mut junk = packet(GSSENC_REQUEST, b"");
        junk.put_slice(&packet(SSL_REQUEST, b""));
        assert!(refused(open(), junk).contains("GSSAPI"));
    }

    #[test]
    fn a_client_hello_that_comes_first_begins_tls_at_once() {
        assert!(matches!(open().step(&mut BytesMut::from(&b"\x16\x03\x01"[..])), Ok(Step::Direct)));
        // Inside TLS it is a length, and far too long a one.
        let bytes = BytesMut::from(&b"\x16\x03\x01\x00"[..]);
        assert!(refused(Opening::inside_tls(), bytes).contains("invalid length"));
    }

    #[test]
    fn without_tls_nobody_begins_a_session_but_anybody_may_cancel() {
        let startup = packet(VERSION_3_0, b"user\0alice+orders\0\0");
        assert!(refused(open(), startup.clone()).starts_with("28000"));
        assert!(matches!(Opening::inside_tls().step(&mut startup.clone()), Ok(Step::Start(_))));
        assert!(matches!(Opening::new(Security::Carried { tls: true }).step(&mut startup.clone()), Ok(Step::Start(_))));
        for key in [&b"\0\0\0\x07abcd"[..], &[&b"\0\0\0\x07"[..], &[9; 256]].concat()] {
            let Ok(Step::Cancel(request)) = open().step(&mut packet(CANCEL_REQUEST, key)) else { panic!() };
            assert_eq!((request.pid, &request.key[..]), (7, &key[4..]));
        }
        for key in [&b""[..], b"\0\0\0\x07", b"\0\0\0\x07abc", &[9; 261]] {
            assert!(matches!(open().step(&mut packet(CANCEL_REQUEST, key)), Ok(Step::NoCancel)), "{}", key.len());
        }
    }

    #[test]
    fn lengths_that_no_startup_packet_has_are_refused() {
        for len in [0u32, 1, 3, 4, 7, 10_001, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
            let complaint = refused(open(), BytesMut::from(&len.to_be_bytes()[..]));
            assert_eq!(complaint, "08P01 invalid length of startup packet", "{len}");
        }
    }

    #[test]
    fn parameters_end_with_an_empty_name_and_nothing_behind_it() {
        for bad in [&b""[..], b"user", b"user\0", b"user\0alice\0", b"user\0alice\0\0x", b"\0\0"] {
            assert!(refused(Opening::inside_tls(), packet(VERSION_3_0, bad)).contains("layout"), "{bad:?}");
        }
        let wire = b"user\0a\0x\0\xff\0user\0b\0empty\0\0\0";
        let Ok(Step::Start(startup)) = Opening::inside_tls().step(&mut packet(VERSION_3_0, wire)) else { panic!() };
        assert_eq!(startup.parameters.len(), 4);
        assert_eq!(startup.parameter(b"user").unwrap(), &b"b"[..], "the last one counts");
        assert_eq!(startup.parameter(b"empty").unwrap(), &b""[..]);
    }

    #[test]
    fn a_client_that_asks_for_more_is_told_once_what_there_is() {
        let negotiated = |asked: u32, parameters: &[u8]| {
            let Ok(Step::Start(startup)) = Opening::inside_tls().step(&mut packet(asked, parameters)) else { panic!() };
            (startup.version, startup.negotiation())
        };
        let user = b"user\0a\0\0";
        assert_eq!(negotiated(VERSION_3_0, user), (VERSION_3_0, None));
        assert_eq!(negotiated(VERSION_3_2, user), (VERSION_3_2, None));
        let (version, answer) = negotiated(VERSION_3_0 + 1, user);
        assert_eq!((version, &answer.unwrap()[..]), (VERSION_3_0, &b"v\0\0\0\x0c\0\x03\0\0\0\0\0\0"[..]));
        // What libpq 19 sends to find servers that are not ready for more.
        let (version, answer) = negotiated(3 << 16 | 9999, b"user\0a\0_pq_.test_protocol_negotiation\0\0\0");
        assert_eq!(version, VERSION_3_2);
        assert_eq!(&answer.unwrap()[..], b"v\0\0\0\x2b\0\x03\0\x02\0\0\0\x01_pq_.test_protocol_negotiation\0");
        assert!(negotiated(VERSION_3_0, b"_pq_.x\0y\0\0").1.is_some());
        let old = packet(2 << 16, user);
        assert!(refused(Opening::inside_tls(), old).starts_with("0A000 unsupported frontend protocol 2.0"));
    }

    #[test]
    fn any_cut_of_a_packet_asks_for_more() {
        let wire = packet(VERSION_3_0, b"user\0a\0\0");
        for cut in 0..wire.len() {
            let step = Opening::inside_tls().step(&mut BytesMut::from(&wire[..cut]));
            assert!(matches!(step, Ok(Step::More(_))), "{cut}");
        }
    }
}
