//! Whose fault an error is.
//!
//! The fault picks the log level and the reader: a client's mistake is told to the client, an internal one to the
//! operator. Knows no single error; each error type says its own fault.

use std::fmt;

/// The party that has to change something before it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The person's program, or the person.
    Client,
    /// What they wanted to reach, or the network in between.
    Target,
    /// Nobody: the policy says no.
    Policy,
    /// The recorder cannot go on.
    Recorder,
    /// This program.
    Internal,
}

impl Fault {
    /// Returns the name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Target => "target",
            Self::Policy => "policy",
            Self::Recorder => "recorder",
            Self::Internal => "internal",
        }
    }

    /// Whether an operator has to look at it.
    pub fn needs_operator(self) -> bool {
        matches!(self, Self::Recorder | Self::Internal)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
