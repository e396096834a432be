//! Recorded terminals, drawn so that no recorded byte reaches a real one.
//!
//! [`stage`] takes events and chooses a channel, [`screen`] draws its bytes into cells, [`paint`] turns cells into the few
//! sequences that a reader's terminal gets. [`safe`] is for text beside that. All of it is sans-IO. `casemate-replay` plays
//! with it, and the daemon lets auditors watch.

pub mod paint;
pub mod safe;
pub mod screen;
pub mod stage;
