//! Why no target was added.

use std::io;
use std::path::PathBuf;

use casemate_certs::fields::Problem;
use casemate_certs::keys::KeyFileError;

use crate::cli::secret::SecretError;
use crate::config::{ConfigError, Objection};

/// Why no target was added. The configuration is as it was, and no file was left.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// The configuration is not good as it is.
    #[error("the configuration must pass the check first:\n{0}")]
    Config(#[from] ConfigError),
    /// A name or alias is taken.
    #[error("target name or alias {name:?} is taken on line {line}; to pin something else, edit that block")]
    Taken {
        /// The name.
        name: String,
        /// Line of the target that has it.
        line: usize,
    },
    /// Somebody unknown shall get access.
    #[error("person {0:?} is not configured; add a [[person]] first")]
    UnknownPerson(String),
    /// The address is none.
    #[error("address {0:?} is no host and port; write HOST:PORT, IPv6 in brackets")]
    Address(String),
    /// Options that do not go together.
    #[error("{0}; see casemate target add --help")]
    Usage(String),
    /// A file that was named is not good.
    #[error("{0}")]
    Key(Objection),
    /// A file beside the configuration could not be made.
    #[error("{source}; {}", source.remedy())]
    File {
        /// Why not.
        #[from]
        source: KeyFileError,
    },
    /// There is no password, or none that could be kept.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The target did not answer.
    #[error("cannot connect to {address}: {source}; check the address and that it is up")]
    Connect {
        /// Where.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// No key exchange took place.
    #[error("{address} did not prove a host key: {reason}; check that an SSH server listens there")]
    Handshake {
        /// Where.
        address: String,
        /// Why not.
        reason: String,
    },
    /// A database was not reached, or did not let the bastion in.
    #[error("{address}: {why}")]
    Unreached {
        /// Where.
        address: String,
        /// Why not.
        why: String,
    },
    /// It shows nothing that could be pinned.
    #[error("{address} sends no authority with its certificate; name the PEM file of {issuer} with --ca")]
    NoAuthority {
        /// Where.
        address: String,
        /// Who issued its certificate.
        issuer: String,
    },
    /// The host key is too weak, or of a kind nobody can pin.
    #[error("host key of {address}: {objection}")]
    Weak {
        /// Where.
        address: String,
        /// What is wrong and what to do.
        objection: Objection,
    },
    /// Another key than the expected one.
    #[error("{address} proved {found}, not {expected}; do not go on before you know why")]
    Fingerprint {
        /// Where.
        address: String,
        /// The key's fingerprint.
        found: String,
        /// The one on the command line.
        expected: String,
    },
    /// Nobody confirmed what is to be pinned.
    #[error(
        "not confirmed; compare the fingerprint with the target's own ({how}) and give --fingerprint {fingerprint}"
    )]
    Unconfirmed {
        /// What the target showed.
        fingerprint: String,
        /// What prints the target's own.
        how: &'static str,
    },
    /// What would have been written is not good.
    #[error("not written, because it would not pass the check:\n{}", listed(.0))]
    Result(Vec<Problem>),
    /// Somebody else is editing.
    #[error("{} is being changed by another casemate; try again", .0.display())]
    Busy(PathBuf),
    /// The file changed between check and write.
    #[error("{} changed meanwhile; try again", .0.display())]
    Changed(PathBuf),
    /// The file could not be replaced.
    #[error("cannot write {}: {source}; check the rights on its directory", file.display())]
    Write {
        /// The configuration.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("line {problem}")).collect::<Vec<_>>().join("\n")
}
