//! The node log, sans-IO: a Merkle log over everything a node does that must not go missing.
//!
//! Hashing is RFC 6962 (SHA-256), storage is C2SP tlog-tiles, heads are C2SP checkpoints, so that existing tools and
//! witnesses can read it. Knows no file and no clock; the leaves carry no personal data.

pub mod leaf;
mod leaf_codec;
pub mod merkle;
pub mod note;
pub mod slip;
pub mod tile;
