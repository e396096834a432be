//! The journal: the node's write-ahead log, and the one thread that writes it.

pub mod file;
pub mod pool;
pub mod record;
pub(crate) mod thread;
