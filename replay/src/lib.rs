//! Reads and verifies recordings, offline.
//!
//! Of the recorder it shares only what works on bytes in memory: the transcript format, the node log, the trust file.
//! It opens no network connection but to the bucket that it is asked about, and needs no key but public ones.

pub mod cli;
mod enforce;
mod error;
pub mod export;
mod json;
mod ls;
pub mod play;
pub mod reader;
mod report;
mod restore;
mod show;
mod sql;
mod tail;
mod time;
pub mod vault;
pub mod verify;

pub use error::ReplayError;
