//! The journal: the node's write-ahead log, and the one thread that writes it.

pub mod file;
mod intake;
pub mod pool;
pub mod record;
mod sink;
pub(crate) mod thread;
