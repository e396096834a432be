//! An SSH peer of the tests' own, for either side, that can do what no stock peer does.
//!
//! It speaks the transport for real, with one algorithm of each kind, and lets a test send whatever it likes at any moment: any
//! message number, any field, before, during and after the key exchange, before and after the login. Written from the RFCs; shares
//! no line with the library that the bastion stands on. Blocking, one thread a peer; every read and write gives up after
//! [`PATIENCE`], so that a test never hangs on a peer that does.

mod kex;
mod packets;
mod peer;
mod target;
mod wire;

use std::time::Duration;

pub use self::kex::{Key, Lists};
pub use self::packets::{Packets, Said};
pub use self::peer::{Peer, Role, open, request};
pub use self::target::HostileTarget;
pub use self::wire::{Put, Take, msg};

/// How long a peer waits for a byte, or for room to send one.
pub const PATIENCE: Duration = Duration::from_secs(30);
