//! The journal: the node's write-ahead log, and the one thread that writes it.

mod commit;
pub mod file;
mod frozen;
mod intake;
pub(crate) mod leaves;
pub mod pool;
pub mod record;
mod sink;
pub(crate) mod thread;
mod timers;
