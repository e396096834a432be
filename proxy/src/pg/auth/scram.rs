//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, the side of the server (RFC 5802, RFC 7677, RFC 5929 §4).
//!
//! Takes the SASL messages of a client and says whether it knows a secret. Does not know whose secret it is, nor frames,
//! TLS or sockets. Refuses with the SQLSTATEs that PostgreSQL has for the same fault (auth-scram.c).

use std::num::NonZeroU32;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use zeroize::Zeroizing;

use crate::pg::codec::{FEATURE_NOT_SUPPORTED, INVALID_AUTHORIZATION, INVALID_PASSWORD, PROTOCOL_VIOLATION};

/// The mechanism without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// The mechanism that binds the login to the certificate of the connection.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// How often the secret is hashed: what PostgreSQL does by default, and the least that RFC 7677 §4 allows. More would make
/// guessing slower, but our tokens are 160 random bits, which nobody guesses; every client pays for it at each login, and
/// pgjdbc and tokio-postgres refuse more than 100,000.
pub const ITERATIONS: NonZeroU32 = NonZeroU32::MIN.saturating_add(4095);

/// The longest message taken from a client: libpq's are below 300 bytes, and channel binding data is at most 64.
pub const MESSAGE_LEN_MAX: usize = 2048;

/// The only channel binding that PostgreSQL has, with the comma that ends the flag and the one that ends no authzid.
pub(super) const BINDING_HEADER: &[u8] = b"p=tls-server-end-point,,";

/// Length of a salt: what PostgreSQL has.
pub const SALT_LEN: usize = 16;

/// Random bytes of a nonce, as many as PostgreSQL draws.
pub const NONCE_LEN: usize = 18;

const KEY_LEN: usize = 32;
pub(super) type Key = Zeroizing<[u8; KEY_LEN]>;

/// What a server keeps in the place of a secret (RFC 5802 §3): enough to check a proof, too little to make one.
///
/// Not `Debug`: whoever has the server key can pass as the bastion.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    stored_key: Key,
    server_key: Key,
}

impl Verifier {
    /// Makes the verifier of a secret. This is the slow part, milliseconds for [`ITERATIONS`], and done once, when a token is
    /// made; a login costs the bastion five HMACs. The secret must be ASCII: SASLprep (RFC 4013) leaves that as it is.
    pub fn of(secret: &[u8], salt: [u8; SALT_LEN], iterations: NonZeroU32) -> Self {
        let mut salted = Key::default();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, secret, &mut *salted);
        let stored_key = sha256(&*hmac_sha256(&*salted, &[b"Client Key"]));
        Self { stored_key, server_key: hmac_sha256(&*salted, &[b"Server Key"]) }
    }
}

/// Why a client is not let in. The text is for it; PostgreSQL says the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The proof fits no secret that could be meant, if there are any. Says nothing about which.
    #[error("password authentication failed")]
    Proof,
    /// A mechanism that was not advertised.
    #[error("client selected an invalid SASL authentication mechanism")]
    Mechanism,
    /// It could bind and believes that we cannot: somebody in between took the offer away.
    #[error(
        "SCRAM channel binding negotiation error: the client believes that the server does not support channel binding, but it does"
    )]
    Downgrade,
    /// It is bound to another certificate than the one we sent: somebody sits in between.
    #[error("SCRAM channel binding check failed")]
    Binding,
    /// A kind of binding other than `tls-server-end-point`.
    #[error("unsupported SCRAM channel-binding type")]
    BindingKind,
    /// It wants to act for somebody else.
    #[error("client uses authorization identity, but it is not supported")]
    AuthorizationIdentity,
    /// It insists on something that we do not know.
    #[error("client requires an unsupported SCRAM extension")]
    Extension,
    /// The nonce that came back is not the one of this exchange.
    #[error("invalid SCRAM response: nonce does not match")]
    Nonce,
    /// The message is longer than [`MESSAGE_LEN_MAX`].
    #[error("SCRAM message of {0} bytes is over {MESSAGE_LEN_MAX}")]
    TooLong(usize),
    /// The message is none.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
}

impl Refused {
    /// Returns the SQLSTATE for it.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::Proof => INVALID_PASSWORD,
            Self::Downgrade | Self::Binding => INVALID_AUTHORIZATION,
            Self::AuthorizationIdentity | Self::Extension => FEATURE_NOT_SUPPORTED,
            Self::Mechanism | Self::BindingKind | Self::Nonce | Self::TooLong(_) | Self::Malformed(_) => {
                PROTOCOL_VIOLATION
            }
        }
    }
}

/// An exchange that waits for the client's first message.
pub struct Exchange {
    salt: [u8; SALT_LEN],
    /// `tls-server-end-point` data of the certificate that we sent.
    binding: Option<Vec<u8>>,
    nonce: String,
}

impl Exchange {
    /// Starts for a name whose secrets, if it has any, were all made with this salt and [`ITERATIONS`]. `binding` is the `tls-server-end-point` data of the certificate sent on this very connection; without it the
    /// variant with channel binding is not offered. `nonce` must be random and never used before.
    pub fn new(salt: [u8; SALT_LEN], binding: Option<&[u8]>, nonce: [u8; NONCE_LEN]) -> Self {
        Self::with_nonce(salt, binding, BASE64_STANDARD.encode(nonce))
    }

    fn with_nonce(salt: [u8; SALT_LEN], binding: Option<&[u8]>, nonce: String) -> Self {
        Self { salt, binding: binding.map(<[u8]>::to_vec), nonce }
    }

    /// Returns the mechanisms to advertise, the better one first.
    pub fn mechanisms(&self) -> &'static [&'static str] {
        if self.binding.is_some() { &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256] } else { &[SCRAM_SHA_256] }
    }

    /// Takes the mechanism that the client chose and its first message, and returns ours.
    ///
    /// # Errors
    /// [`Refused`], never because of the name: what a client writes as SCRAM user name is not looked at, as in PostgreSQL.
    pub fn first(self, mechanism: &[u8], message: &[u8]) -> Result<(Bytes, FinalExpected), Refused> {
        let plus = match mechanism {
            chosen if chosen == SCRAM_SHA_256.as_bytes() => false,
            chosen if chosen == SCRAM_SHA_256_PLUS.as_bytes() && self.binding.is_some() => true,
            _ => return Err(Refused::Mechanism),
        };
        checked(message)?;
        let (flag, rest) = split_once(message).ok_or(Refused::Malformed("no channel-binding flag"))?;
        let (authzid, bare) = split_once(rest).ok_or(Refused::Malformed("no authorization identity"))?;
        match (flag, plus) {
            (b"y", false) if self.binding.is_some() => return Err(Refused::Downgrade),
            (b"y" | b"n", false) => {}
            (b"p=tls-server-end-point", true) => {}
            (b"y" | b"n", true) => return Err(Refused::Malformed("channel binding was selected and is not used")),
            ([b'p', b'=', ..], false) => {
                return Err(Refused::Malformed("channel binding is used and was not selected"));
            }
            ([b'p', b'=', ..], true) => return Err(Refused::BindingKind),
            _ => return Err(Refused::Malformed("unexpected channel-binding flag")),
        }
        match authzid {
            b"" => {}
            [b'a', ..] => return Err(Refused::AuthorizationIdentity),
            _ => return Err(Refused::Malformed("unexpected attribute before the user name")),
        }
        let mut attributes = bare.split(|byte| *byte == b',');
        let mut next = |letter, fault| attributes.next().and_then(|next| value(next, letter)).ok_or(fault);
        if bare.starts_with(b"m=") {
            return Err(Refused::Extension);
        }
        next(b'n', Refused::Malformed("no user name"))?;
        let nonce = next(b'r', Refused::Malformed("no nonce"))?;
        if nonce.is_empty() || !nonce.iter().all(|byte| matches!(byte, 0x21..=0x7e)) {
            return Err(Refused::Malformed("non-printable characters in the nonce"));
        }
        if !attributes.all(is_attribute) {
            return Err(Refused::Malformed("not an attribute"));
        }

        let channel = match self.binding.filter(|_| plus) {
            Some(binding) => [BINDING_HEADER, &binding].concat(),
            None => [flag, b",,"].concat(),
        };
        let nonce = [nonce, self.nonce.as_bytes()].concat();
        let tail = format!(",s={},i={ITERATIONS}", BASE64_STANDARD.encode(self.salt));
        let server_first = [b"r=", nonce.as_slice(), tail.as_bytes()].concat();
        let said = [bare, b",", &server_first, b","].concat();
        let channel = BASE64_STANDARD.encode(channel).into_bytes();
        Ok((server_first.into(), FinalExpected { plus, channel, nonce, said }))
    }
}

/// An exchange that waits for the client's last message.
pub struct FinalExpected {
    plus: bool,
    /// What the attribute `c` must be.
    channel: Vec<u8>,
    /// The client's and ours.
    nonce: Vec<u8>,
    /// The beginning of what both sides sign (RFC 5802 §3, `AuthMessage`).
    said: Vec<u8>,
}

impl FinalExpected {
    /// Takes the client's last message. Whether it proves anything is for the [`Proof`] to say.
    ///
    /// # Errors
    /// [`Refused`]; the client that gets it must be let go.
    pub fn last(self, message: &[u8]) -> Result<Proof, Refused> {
        checked(message)?;
        let (without_proof, proof) = split_last(message).ok_or(Refused::Malformed("no proof"))?;
        let mut attributes = without_proof.split(|byte| *byte == b',');
        let mut next = |letter, fault| attributes.next().and_then(|next| value(next, letter)).ok_or(fault);
        let channel = next(b'c', Refused::Malformed("no channel-binding data"))?;
        let nonce = next(b'r', Refused::Malformed("no nonce"))?;
        if !attributes.all(|attribute| is_attribute(attribute) && !attribute.starts_with(b"p=")) {
            return Err(Refused::Malformed("not an attribute"));
        }
        if channel != self.channel {
            let unbound = Refused::Malformed("unexpected channel-binding attribute in the client's final message");
            return Err(if self.plus { Refused::Binding } else { unbound });
        }
        if nonce != self.nonce {
            return Err(Refused::Nonce);
        }
        let proof = value(proof, b'p').and_then(|proof| BASE64_STANDARD.decode(proof).ok());
        let proof: [u8; KEY_LEN] = proof
            .and_then(|proof| proof.try_into().ok())
            .ok_or(Refused::Malformed("malformed proof in the client's final message"))?;

        Ok(Proof { plus: self.plus, signed: [self.said.as_slice(), without_proof].concat(), proof })
    }
}

/// What a client says proves that it knows a secret. Which one is meant, it does not say.
pub struct Proof {
    plus: bool,
    /// What both sides sign (RFC 5802 §3, `AuthMessage`).
    signed: Vec<u8>,
    proof: [u8; KEY_LEN],
}

impl Proof {
    /// Returns what is proven where it fits that secret. It takes as long where it does not.
    pub fn fits(&self, verifier: &Verifier) -> Option<Proven> {
        let Verifier { stored_key, server_key } = verifier;
        let mut client_key = hmac_sha256(&**stored_key, &[&self.signed]);
        client_key.iter_mut().zip(self.proof).for_each(|(key, proof)| *key ^= proof);
        let fits = verify_slices_are_equal(&*sha256(&*client_key), &**stored_key).is_ok();
        let signature = hmac_sha256(&**server_key, &[&self.signed]);
        let server_final = format!("v={}", BASE64_STANDARD.encode(*signature)).into();
        fits.then_some(Proven { server_final, plus: self.plus })
    }
}

/// A client knows the secret. Only a proof that fits makes one.
#[derive(Debug)]
pub struct Proven {
    server_final: Bytes,
    plus: bool,
}

impl Proven {
    /// Returns our last message, which proves to the client that we know its verifier.
    pub fn server_final(&self) -> &[u8] {
        &self.server_final
    }

    /// Returns the mechanism that was used.
    pub fn mechanism(&self) -> &'static str {
        if self.plus { SCRAM_SHA_256_PLUS } else { SCRAM_SHA_256 }
    }
}

fn checked(message: &[u8]) -> Result<(), Refused> {
    match message {
        _ if message.len() > MESSAGE_LEN_MAX => Err(Refused::TooLong(message.len())),
        [] => Err(Refused::Malformed("the message is empty")),
        // PostgreSQL reads it as a C string and would see less than was signed.
        _ if message.contains(&0) => Err(Refused::Malformed("a zero byte")),
        _ => Ok(()),
    }
}

fn split_once(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let (before, rest) = message.split_at_checked(message.iter().position(|byte| *byte == b',')?)?;
    Some((before, rest.get(1..)?))
}

fn split_last(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let (before, rest) = message.split_at_checked(message.iter().rposition(|byte| *byte == b',')?)?;
    Some((before, rest.get(1..)?))
}

pub(super) fn value(attribute: &[u8], letter: u8) -> Option<&[u8]> {
    attribute.strip_prefix(&[letter, b'='])
}

fn is_attribute(bytes: &[u8]) -> bool {
    matches!(bytes, [letter, b'=', ..] if letter.is_ascii_alphabetic())
}

pub(super) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    parts.iter().for_each(|part| context.update(part));
    key_of(context.sign().as_ref())
}

pub(super) fn sha256(bytes: &[u8]) -> Key {
    key_of(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn key_of(bytes: &[u8]) -> Key {
    let mut key = Key::default();
    key.iter_mut().zip(bytes).for_each(|(key, byte)| *key = *byte);
    key
}

#[cfg(test)]
mod tests {
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

    use super::*;

    const TOKEN: &[u8] = b"cm_7Q2M5X0A9T4R8KZ6PBVNEW3HJD1SCYGF";
    const END_POINT: [u8; 32] = [0xe5; 32];

    fn verifier() -> Verifier {
        Verifier::of(TOKEN, [7; 16], ITERATIONS)
    }

    fn exchange(plus: bool) -> Exchange {
        Exchange::new([7; SALT_LEN], plus.then_some(&END_POINT[..]), [9; 18])
    }

    /// Takes a last message and holds it against one secret.
    fn put(expected: FinalExpected, message: &[u8], verifier: &Verifier) -> Result<Proven, Refused> {
        expected.last(message)?.fits(verifier).ok_or(Refused::Proof)
    }

    /// Runs an exchange with the client that Rust programs use.
    fn log_in(verifier: &Verifier, offer: bool, binding: ChannelBinding, mechanism: &str) -> Result<Proven, Refused> {
        let mut client = ScramSha256::new(TOKEN, binding);
        let (first, expected) = exchange(offer).first(mechanism.as_bytes(), client.message())?;
        client.update(&first).unwrap();
        let proven = put(expected, client.message(), verifier)?;
        client.finish(proven.server_final()).expect("the client checks our signature");
        Ok(proven)
    }

    #[test]
    fn a_client_that_knows_the_secret_is_proven_and_gets_our_proof() {
        let bound = || ChannelBinding::tls_server_end_point(END_POINT.to_vec());
        let plain = ChannelBinding::unsupported;
        let proven = log_in(&verifier(), true, bound(), SCRAM_SHA_256_PLUS).unwrap();
        assert_eq!(proven.mechanism(), "SCRAM-SHA-256-PLUS");
        let proven = log_in(&verifier(), true, plain(), SCRAM_SHA_256).unwrap();
        assert_eq!(proven.mechanism(), "SCRAM-SHA-256");
        log_in(&verifier(), false, plain(), SCRAM_SHA_256).unwrap();
        // A client that could bind, and a server that truly cannot.
        log_in(&verifier(), false, ChannelBinding::unrequested(), SCRAM_SHA_256).unwrap();
    }

    #[test]
    fn binding_is_advertised_first_and_only_where_there_is_a_certificate() {
        assert_eq!(exchange(true).mechanisms(), ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
        assert_eq!(exchange(false).mechanisms(), ["SCRAM-SHA-256"]);
    }

    #[test]
    fn the_exchange_of_rfc_7677_comes_out_as_printed() {
        let salt: [u8; SALT_LEN] = BASE64_STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap().try_into().unwrap();
        let verifier = Verifier::of(b"pencil", salt, ITERATIONS);
        let exchange = Exchange::with_nonce(salt, None, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned());
        let (first, expected) = exchange.first(b"SCRAM-SHA-256", b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
        let printed = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        assert_eq!(first, printed);
        let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        let proven = put(expected, last.as_bytes(), &verifier).unwrap();
        assert_eq!(proven.server_final(), b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn every_wrong_bit_of_the_proof_is_refused() {
        let verifier = verifier();
        let mut client = ScramSha256::new(TOKEN, ChannelBinding::unsupported());
        let client_first = client.message().to_vec();
        let (first, _) = exchange(false).first(b"SCRAM-SHA-256", &client_first).unwrap();
        client.update(&first).unwrap();
        let last = client.message().to_vec();
        let at = last.windows(3).position(|window| window == b",p=").unwrap() + 3;
        let proof = BASE64_STANDARD.decode(&last[at..]).unwrap();
        let put = |proof: &[u8]| {
            let (_, expected) = exchange(false).first(b"SCRAM-SHA-256", &client_first).unwrap();
            put(expected, &[&last[..at], BASE64_STANDARD.encode(proof).as_bytes()].concat(), &verifier)
        };
        assert!(put(&proof).is_ok());
        for bit in 0..KEY_LEN * 8 {
            let mut wrong = proof.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(put(&wrong).unwrap_err(), Refused::Proof, "bit {bit}");
        }
        for len in 0..KEY_LEN {
            assert!(matches!(put(&proof[..len]), Err(Refused::Malformed(_))), "{len} bytes");
        }
    }

    #[test]
    fn another_secret_is_refused_as_a_wrong_password() {
        let refused =
            log_in(&Verifier::of(b"another", [7; 16], ITERATIONS), false, ChannelBinding::unsupported(), SCRAM_SHA_256);
        assert_eq!(refused.unwrap_err().sqlstate(), "28P01");
    }

    #[test]
    fn what_a_first_message_may_not_say_is_refused_as_postgresql_does() {
        let plus = SCRAM_SHA_256_PLUS;
        let long = format!("n,,n=,r={}", "x".repeat(MESSAGE_LEN_MAX));
        let cases: &[(bool, &str, &str, &str)] = &[
            (true, SCRAM_SHA_256, "y,,n=,r=abc", "28000"),
            (true, plus, "p=tls-unique,,n=,r=abc", "08P01"),
            (true, plus, "p=tls-server-end-point-x,,n=,r=abc", "08P01"),
            (true, plus, "n,,n=,r=abc", "08P01"),
            (true, plus, "y,,n=,r=abc", "08P01"),
            (true, SCRAM_SHA_256, "p=tls-server-end-point,,n=,r=abc", "08P01"),
            (false, plus, "p=tls-server-end-point,,n=,r=abc", "08P01"),
            (false, "SCRAM-SHA-1", "n,,n=,r=abc", "08P01"),
            (false, "", "n,,n=,r=abc", "08P01"),
            (false, SCRAM_SHA_256, "n,a=root,n=,r=abc", "0A000"),
            (false, SCRAM_SHA_256, "n,x,n=,r=abc", "08P01"),
            (false, SCRAM_SHA_256, "n,,m=ext,n=,r=abc", "0A000"),
            (false, SCRAM_SHA_256, "x,,n=,r=abc", "08P01"),
            (false, SCRAM_SHA_256, "n,,r=abc", "08P01"),
            (false, SCRAM_SHA_256, "n,,n=", "08P01"),
            (false, SCRAM_SHA_256, "n,,n=,r=", "08P01"),
            (false, SCRAM_SHA_256, "n,,n=,r=a\u{1}b", "08P01"),
            (false, SCRAM_SHA_256, "n,,n=,r=abc,", "08P01"),
            (false, SCRAM_SHA_256, "n,,n=,r=abc\0", "08P01"),
            (false, SCRAM_SHA_256, "n", "08P01"),
            (false, SCRAM_SHA_256, "", "08P01"),
            (false, SCRAM_SHA_256, &long, "08P01"),
        ];
        for (offer, mechanism, message, sqlstate) in cases {
            let refused = exchange(*offer).first(mechanism.as_bytes(), message.as_bytes()).err();
            assert_eq!(refused.map(|refused| refused.sqlstate()), Some(*sqlstate), "{message}");
        }
        // An extension that is not mandatory is passed over.
        assert!(exchange(false).first(b"SCRAM-SHA-256", b"n,,n=,r=abc,x=1").is_ok());
    }

    #[test]
    fn what_a_last_message_may_not_say_is_refused_as_postgresql_does() {
        let proof = format!("p={}", BASE64_STANDARD.encode([0; KEY_LEN]));
        let nonce = format!("abc{}", BASE64_STANDARD.encode([9; 18]));
        let cases = [
            (format!("c=biws,r={nonce},{proof}"), Refused::Proof),
            (format!("c=biws,r={nonce},x=1,{proof}"), Refused::Proof),
            (format!("c=biws,r={nonce}x,{proof}"), Refused::Nonce),
            (format!("c=biws,r=abc,{proof}"), Refused::Nonce),
            (format!("c=eSws,r={nonce},{proof}"), Refused::Malformed("")),
            (format!("r={nonce},c=biws,{proof}"), Refused::Malformed("")),
            (format!("c=biws,{proof}"), Refused::Malformed("")),
            (format!("c=biws,r={nonce}"), Refused::Malformed("")),
            (format!("c=biws,r={nonce},{proof},"), Refused::Malformed("")),
            (format!("c=biws,r={nonce},{proof},{proof}"), Refused::Malformed("")),
            (format!("c=biws,r={nonce},{proof}\0"), Refused::Malformed("")),
            (String::new(), Refused::Malformed("")),
            ("c".repeat(MESSAGE_LEN_MAX + 1), Refused::TooLong(MESSAGE_LEN_MAX + 1)),
        ];
        for (message, wanted) in cases {
            let (_, expected) = exchange(false).first(b"SCRAM-SHA-256", b"n,,n=,r=abc").unwrap();
            let refused = put(expected, message.as_bytes(), &verifier()).unwrap_err();
            assert_eq!(refused.sqlstate(), wanted.sqlstate(), "{message}");
            assert_eq!(std::mem::discriminant(&refused), std::mem::discriminant(&wanted), "{message}: {refused}");
        }
    }

    #[test]
    fn a_proof_bound_to_another_certificate_is_refused() {
        let stolen = ChannelBinding::tls_server_end_point(vec![0xbd; 32]);
        let refused = log_in(&verifier(), true, stolen, SCRAM_SHA_256_PLUS).unwrap_err();
        assert_eq!((&refused, refused.sqlstate()), (&Refused::Binding, "28000"));
        let downgraded = log_in(&verifier(), true, ChannelBinding::unrequested(), SCRAM_SHA_256).unwrap_err();
        assert_eq!((&downgraded, downgraded.sqlstate()), (&Refused::Downgrade, "28000"));
    }

    #[test]
    fn any_cut_and_any_changed_byte_of_a_first_message_is_taken_or_refused_without_a_panic() {
        let message = b"p=tls-server-end-point,,n=user,r=abcdef,x=1";
        for at in 0..=message.len() {
            let _ = exchange(true).first(b"SCRAM-SHA-256-PLUS", &message[..at]);
        }
        for at in 0..message.len() {
            for byte in 0..=255 {
                let mut changed = *message;
                changed[at] = byte;
                let _ = exchange(true).first(b"SCRAM-SHA-256-PLUS", &changed);
            }
        }
    }
}
