//! The trust file: which keys an auditor believes, who vouches for that, and how fresh proof must be.
//!
//! Sans-IO: text in, values out. Officers of the organisation sign the file off the bastion with their own SSH keys;
//! [`TrustFile`] is the file together with what those signatures amount to. The one that `casemate init` writes is
//! self-asserted: it comes from the machine it is meant to judge, so it is good for a demonstration and never for a
//! verdict.

mod file;
mod hold;
mod officer;
mod prose;
mod read;
mod recipient;
mod restore;
mod signatures;
mod succession;
mod write;

use std::fmt::Display;
use std::time::Duration;

pub use file::{Fingerprint, TrustDoubt, TrustFile, signature_file};
pub use hold::{HOLD_NAMESPACE, HOLD_QUORUM, HoldOrder, Holds, ToldHold};
pub use officer::{Officer, OfficerKey, OfficerKeyError};
pub use prose::{sign_text, summary};
pub use recipient::{AgeKey, AgeKeyError, Recipient, RecipientDuty};
pub use restore::{RESTORE_NAMESPACE, Restored};
pub use signatures::{NAMESPACE, Refused, SIGNATURES_MAX, Signer, Tally, Why};
pub use succession::{departures, succeed};

use crate::fields::Problem;
use crate::vkey::NodePublicKey;

/// The version this program reads and writes.
const VERSION: u64 = 1;

/// What an auditor believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// Who says so.
    pub authority: Authority,
    /// How old the newest anchor may be; `None` where the auditor sets no bound.
    pub anchor_age_max: Option<Duration>,
    /// How long recordings must and may be kept.
    pub retention: Retention,
    /// Who can read recordings that are encrypted.
    pub recipients: Vec<Recipient>,
    /// The keys of nodes. A node that changed its key has several.
    pub nodes: Vec<TrustedNode>,
}

/// Who stands behind a trust file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authority {
    /// The bastion itself: the file is self-asserted.
    Bastion,
    /// People whose signatures can be checked.
    Officers(Board),
}

/// The people who sign the trust file of an organisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Board {
    /// The organisation.
    pub organisation: String,
    /// When the file was made, in microseconds since 1970.
    pub issued_us: u64,
    /// How many different officers must sign; at least 1.
    pub quorum: u64,
    /// Officers and their keys. Somebody who has several keys stands here several times.
    pub officers: Vec<Officer>,
}

/// A stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// Its first instant, in microseconds since 1970.
    pub from_us: u64,
    /// The instant after its last, in microseconds since 1970; `None` where no end is set.
    pub until_us: Option<u64>,
}

impl Period {
    /// All time, as far as it goes.
    pub const ALWAYS: Self = Self { from_us: 0, until_us: None };

    /// Whether that instant, in microseconds since 1970, lies in it.
    pub fn contains(&self, time_us: u64) -> bool {
        self.from_us <= time_us && self.until_us.is_none_or(|until| time_us < until)
    }
}

/// Bounds of how long a recording is kept, counted from the start of its session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// At least this long.
    pub min: Option<Duration>,
    /// At most this long.
    pub max: Option<Duration>,
}

/// A key of a node and when it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedNode {
    /// Name and key.
    pub key: NodePublicKey,
    /// When signatures made with it count.
    pub period: Period,
}

/// Why a text is no trust file: every problem, by line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", listed(problems))]
pub struct TrustError {
    /// What is wrong.
    pub problems: Vec<Problem>,
}

fn listed(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(|problem| format!("line {problem}")).collect();
    lines.join("\n")
}

impl Trust {
    /// Makes the trust file that a bastion writes about itself.
    pub fn self_asserted(anchor_age_max: Option<Duration>, nodes: Vec<TrustedNode>) -> Self {
        let (retention, recipients) = (Retention::default(), Vec::new());
        Self { authority: Authority::Bastion, anchor_age_max, retention, recipients, nodes }
    }

    /// Reads a trust file; says nothing about its signatures, see [`TrustFile::read`].
    ///
    /// # Errors
    /// [`TrustError`] with all problems: unknown fields, keys that are none, a period that ends before it begins, the same
    /// key twice, a quorum that the officers cannot reach, no node at all.
    pub fn parse(text: &str) -> Result<Self, TrustError> {
        read::parse(text)
    }

    /// Writes the file so that [`parse`](Self::parse) reads the same.
    pub fn to_text(&self) -> String {
        write::to_text(self)
    }

    /// Returns the keys of a node, in the order of the file.
    pub fn node<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a TrustedNode> {
        self.nodes.iter().filter(move |node| node.key.name() == name)
    }
}

/// Shows microseconds since 1970 as the file has them: RFC 3339, in UTC.
pub fn show_time(time_us: u64) -> String {
    let signed = i64::try_from(time_us).unwrap_or(i64::MAX);
    jiff::Timestamp::from_microsecond(signed).unwrap_or(jiff::Timestamp::MAX).to_string()
}

/// Shows how many there are of something whose plural ends in "s".
pub fn show_count(number: impl Display, noun: &str) -> String {
    let number = number.to_string();
    if number == "1" { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod testing;
