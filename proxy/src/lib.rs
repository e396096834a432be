//! The daemon `casemate`: sockets, protocols and policy.
//!
//! The path of one byte leads through these modules in this order: `server` accepts, `ssh` speaks, [`policy`] decides,
//! `target` dials, the recorder records, `ssh` forwards.

pub mod alerts;
pub mod cli;
pub mod config;
mod control;
pub mod error;
pub mod init;
pub mod metrics;
mod overdue;
pub mod pg;
pub mod policy;
pub mod recent;
pub mod recording;
pub mod reload;
pub mod server;
pub mod session;
pub mod ssh;
mod sum;
pub mod target;
#[cfg(test)]
pub(crate) mod testing;
mod time;
pub mod tokens;
pub mod trust_file;
