//! TLS at the PostgreSQL front door and towards PostgreSQL targets, always by rustls on aws-lc.
//!
//! Reads certificates and keys from files, refuses what PostgreSQL clients could not use, and says how to put it right.
//! Does not know the PostgreSQL protocol, persons or sockets.

mod end_point;
mod hint;
mod make;
mod pem;
mod server;
mod shown;
mod subject;
mod target;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{SupportedProtocolVersion, version};

pub use end_point::{Unbindable, end_point};
pub use make::{AUTHORITY_AGE_MAX, LEAF_AGE_MAX, Leaf, Made, generate, issue};
pub use server::{ClientAuthority, ServerTls};
pub use shown::{Scan, Shown, authority, day};
pub use subject::{names, subject};
pub use target::{Mode, Peer, TargetTls};

/// What a PostgreSQL connection says about itself in ALPN; the front door takes no other, so that a browser's TLS cannot be
/// turned at it.
pub const ALPN: &[u8] = b"postgresql";

/// The oldest version of TLS that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MinVersion {
    /// Also 1.2, for clients such as JDK 8 and libpq on OpenSSL 1.0.
    Tls12,
    /// Only 1.3.
    #[default]
    Tls13,
}

impl MinVersion {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        static FROM_1_2: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
        static FROM_1_3: [&SupportedProtocolVersion; 1] = [&version::TLS13];
        match self {
            Self::Tls12 => &FROM_1_2,
            Self::Tls13 => &FROM_1_3,
        }
    }
}

/// The ciphers and key exchanges, X25519MLKEM768 first: what is recorded on the wire today may be read one day. Named here
/// rather than taken from the process, where another library could have put its own.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

#[cfg(test)]
mod tests;
