//! The recorder on a disk that fails, forgets and tears, and its evidence in the hands of a forger.
//!
//! The recorder and the verifier run whole and in process; only the disk and the clock are ours. What was forwarded, and
//! when, is in a log of our own (`workload::Run`); the verdict is always that of `casemate-replay`.

// A test that goes wrong is to stop on the spot, helpers included.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod failing;
#[path = "../../../replay/tests/support/mod.rs"]
mod officer;
mod oracle;
mod power;
mod tamper;
mod workload;
mod world;
