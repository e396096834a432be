//! The S3 servers that the tests stand on, held to what is relied on: what they keep, what they refuse, and where they differ from
//! Amazon's; the proxy that spoils requests to them; and what ships to them through it.

// A test that goes wrong is to stop on the spot, helpers included.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod faults;
mod fleet;
mod held_back;
mod incremental;
mod node;
#[path = "../../../replay/tests/support/mod.rs"]
mod officer;
mod outage;
mod policies;
mod reading;
mod retention;
mod rig;
mod servers;
mod shipping;
mod verify;
