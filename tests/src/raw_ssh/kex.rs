//! The key exchange (RFC 4253 §7 and §8, RFC 8731): what is offered, the hash, the keys that follow from it.

use anyhow::{Context, Result, ensure};
use aws_lc_rs::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use aws_lc_rs::rand::SystemRandom;
use base64::Engine as _;
use ed25519_dalek::{Signer, SigningKey};
use sha2::{Digest, Sha256};

use super::packets::Sealing;
use super::wire::{Put, Take, msg};

/// An Ed25519 key, of a host or of a person.
#[derive(Debug, Clone)]
pub struct Key(SigningKey);

impl Key {
    /// Makes a key. Equal numbers make equal keys: they guard nothing but a test.
    pub fn number(number: u64) -> Self {
        Self(SigningKey::from_bytes(&Sha256::digest(number.to_be_bytes()).into()))
    }

    /// The public half as it goes over the wire.
    pub fn blob(&self) -> Vec<u8> {
        Put::default().string("ssh-ed25519").string(self.0.verifying_key().as_bytes()).0
    }

    /// The public half as a line of `authorized_keys`.
    pub fn line(&self) -> String {
        format!("ssh-ed25519 {}", base64::engine::general_purpose::STANDARD.encode(self.blob()))
    }

    /// Signs, in the form that goes over the wire.
    pub fn sign(&self, data: &[u8]) -> Vec<u8> {
        Put::default().string("ssh-ed25519").string(self.0.sign(data).to_bytes()).0
    }
}

/// The lists of a KEXINIT, in the order of the message; every list twice where it has two directions.
#[derive(Debug, Clone)]
pub struct Lists {
    /// Key exchange.
    pub kex: String,
    /// Host keys.
    pub host_key: String,
    /// Ciphers.
    pub cipher: String,
    /// MACs.
    pub mac: String,
    /// Compression.
    pub compression: String,
    /// A guess at the exchange follows at once.
    pub guess_follows: bool,
}

impl Default for Lists {
    fn default() -> Self {
        Self {
            kex: "curve25519-sha256".to_owned(),
            host_key: "ssh-ed25519".to_owned(),
            cipher: "aes256-gcm@openssh.com".to_owned(),
            mac: "hmac-sha2-256-etm@openssh.com".to_owned(),
            compression: "none".to_owned(),
            guess_follows: false,
        }
    }
}

impl Lists {
    /// Asks for strict key exchange, in both roles' words.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.kex += ",kex-strict-c-v00@openssh.com,kex-strict-s-v00@openssh.com";
        self
    }

    /// Puts the message together.
    pub fn message(&self) -> Vec<u8> {
        let Self { kex, host_key, cipher, mac, compression, guess_follows } = self;
        Put::message(msg::KEXINIT)
            .raw(&[7; 16])
            .string(kex)
            .string(host_key)
            .string(cipher)
            .string(cipher)
            .string(mac)
            .string(mac)
            .string(compression)
            .string(compression)
            .string("")
            .string("")
            .bool(*guess_follows)
            .u32(0)
            .0
    }
}

/// Our half of an agreement.
pub(super) struct Half {
    private: EphemeralPrivateKey,
    pub(super) public: Vec<u8>,
}

impl Half {
    pub(super) fn new() -> Result<Self> {
        let private = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).ok().context("no randomness")?;
        let public = private.compute_public_key().ok().context("no public half")?.as_ref().to_vec();
        Ok(Self { private, public })
    }

    pub(super) fn agree(self, theirs: &[u8]) -> Result<Vec<u8>> {
        let theirs = UnparsedPublicKey::new(&X25519, theirs);
        agree_ephemeral(self.private, theirs, anyhow::anyhow!("the halves do not agree"), |secret| Ok(secret.to_vec()))
    }
}

/// What both sides hash.
pub(super) struct Transcript<'a> {
    pub(super) client_ident: &'a str,
    pub(super) server_ident: &'a str,
    pub(super) client_init: &'a [u8],
    pub(super) server_init: &'a [u8],
    pub(super) host_key: &'a [u8],
    pub(super) client_half: &'a [u8],
    pub(super) server_half: &'a [u8],
    pub(super) secret: &'a [u8],
}

impl Transcript<'_> {
    pub(super) fn hash(&self) -> [u8; 32] {
        let all = Put::default()
            .string(self.client_ident)
            .string(self.server_ident)
            .string(self.client_init)
            .string(self.server_init)
            .string(self.host_key)
            .string(self.client_half)
            .string(self.server_half)
            .mpint(self.secret);
        Sha256::digest(&all.0).into()
    }
}

/// Derives the keys of both directions: what the client sends under, and what the server does (RFC 4253 §7.2).
pub(super) fn derive(secret: &[u8], hash: &[u8; 32], session: &[u8; 32]) -> Result<(Sealing, Sealing)> {
    let part = |letter: u8| -> [u8; 32] {
        Sha256::digest(Put::default().mpint(secret).raw(hash).u8(letter).raw(session).0).into()
    };
    let sealing = |iv: u8, key: u8| -> Result<Sealing> {
        let iv = part(iv);
        Sealing::new(&part(key), iv.get(..12).context("an IV of 12 bytes")?)
    };
    Ok((sealing(b'A', b'C')?, sealing(b'B', b'D')?))
}

/// Verifies a host key's signature over the exchange hash.
pub(super) fn verify(host_key: &[u8], signature: &[u8], hash: &[u8]) -> Result<()> {
    let (mut key, mut signature) = (Take::all(host_key), Take::all(signature));
    ensure!(key.text()? == "ssh-ed25519" && signature.text()? == "ssh-ed25519", "another kind of host key");
    let key = ed25519_dalek::VerifyingKey::from_bytes(key.string()?.try_into()?)?;
    Ok(key.verify_strict(hash, &ed25519_dalek::Signature::from_slice(signature.string()?)?)?)
}
