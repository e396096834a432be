//! The recorder: makes events durable before anything acts on them, and evidence afterwards.
//!
//! Three layers. The [`transcript`] is the format, sans-IO: events, blocks, the chain, seals. The [`journal`] is the node's
//! write-ahead log: one thread, one `fdatasync` for all sessions, and the [`Receipt`] that allows forwarding. The node
//! [`log`] is a Merkle log over all sessions, so that a missing one shows. It knows no protocol and no socket.
//!
//! `FORMAT.md` beside this crate is normative for everything that is stored.

mod catalogue;
pub mod clock;
mod elision;
mod error;
mod expired;
mod figures;
pub mod fs;
pub mod journal;
mod keeper;
mod live;
mod local_log;
pub mod log;
pub mod pages;
mod queue;
mod receipt;
mod recorder;
mod recovery;
mod remote;
mod secrets;
mod session;
mod shipper;
mod stall;
mod threads;
pub mod transcript;
pub mod vault;

pub use elision::{Elision, How, Of, Part};
pub use error::{Frozen, OpenError, Refused, Undated};
pub use expired::{Expired, Overdue};
pub use figures::{COMMIT_BOUNDS_US, Disk, Figures, Latency, Survey, Totals};
pub use log::slip::Slip;
pub use queue::SessionSpec;
pub use receipt::{Receipt, Ticket};
pub use recorder::{Reclaimed, Recorder, RecorderConfig, SPOOL_LIMIT_PERCENT};
pub use remote::{Proven, RemoteFigures};
pub use session::Session;
pub use transcript::block::SessionId;
pub use transcript::head::{Durability, Protocol, TranscriptKind};
pub use transcript::seal::CloseReason;
