//! Anchors: checkpoints that were known outside the vault. A verdict reaches as far as the newest of them.
//!
//! They come from files that an auditor kept, from slips, and from the state that an earlier run left behind.

use std::fs;
use std::path::Path;

use casemate_certs::trust::{Trust, TrustFile, TrustedNode, signature_file};
use casemate_recorder::log::note::{LogKey, Note, NoteError};
use casemate_recorder::log::slip::Slip;
use casemate_recorder::transcript::block::SessionId;

use crate::ReplayError;
use casemate_screen::safe::visible;

/// A trust file or a note is at most this long, in bytes.
const FILE_LEN_MAX: u64 = 4 * 1024 * 1024;

/// A checkpoint that somebody kept.
#[derive(Debug, Clone)]
pub(super) struct Anchor {
    /// Who runs it, as the report names it.
    pub(super) kept_by: &'static str,
    pub(super) note: Note,
    /// The session whose slip it is.
    pub(super) session: Option<SessionId>,
}

/// Which keys may speak for a node.
#[derive(Debug)]
pub(super) enum NodeTrust<'a> {
    /// No trust file was given.
    NoFile,
    /// The trust file does not list the node.
    Unlisted,
    /// The keys it lists.
    Keys(Vec<(LogKey, &'a TrustedNode)>),
}

/// Whose signature a note carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signed<'a> {
    /// That of a trusted key.
    By(&'a TrustedNode),
    /// Nobody knows: there is no key to check it with.
    Unchecked,
    /// That of another key in the name of the node.
    ByAnother,
    /// That of a trusted key, and it does not fit.
    Broken,
}

impl<'a> NodeTrust<'a> {
    /// Looks a node up.
    pub(super) fn of(trust: Option<&'a Trust>, node: &'a str) -> Self {
        let Some(trust) = trust else { return Self::NoFile };
        let listed = trust.nodes.iter().filter(|listed| listed.key.name() == node);
        let keys: Vec<_> =
            listed.filter_map(|listed| Some((LogKey::new(node, *listed.key.key()).ok()?, listed))).collect();
        if keys.is_empty() { Self::Unlisted } else { Self::Keys(keys) }
    }

    /// Says whose signature a note carries.
    pub(super) fn check(&self, note: &Note) -> Signed<'a> {
        let Self::Keys(keys) = self else { return Signed::Unchecked };
        let mut verdict = Signed::ByAnother;
        for (key, listed) in keys {
            match note.verify(key) {
                Ok(()) => return Signed::By(listed),
                Err(NoteError::Signature(_)) => verdict = Signed::Broken,
                Err(_) => {}
            }
        }
        verdict
    }
}

/// Reads a trust file and the signatures beside it.
///
/// # Errors
/// It cannot be read, or is not one. That nobody signed it is for the verdict to say.
pub(super) fn read_trust(path: &Path) -> Result<TrustFile, ReplayError> {
    let text = read_text(path, "trust file")?;
    let beside = signature_file(path);
    // What is there and cannot be read is no absence.
    let absent = matches!(beside.try_exists(), Ok(false));
    let signatures = if absent { None } else { Some(read_text(&beside, "signatures")?) };
    TrustFile::read(&text, signatures.as_deref()).map_err(|error| {
        let first = error.problems.first().map(ToString::to_string).unwrap_or_default();
        ReplayError::Usage(format!("trust file {}, line {}", show(path), visible(&first)))
    })
}

pub(super) fn show(path: &Path) -> String {
    visible(&path.to_string_lossy())
}

fn read_text(path: &Path, what: &str) -> Result<String, ReplayError> {
    let bytes = fs::metadata(path).and_then(|found| {
        if found.len() > FILE_LEN_MAX { Err(std::io::Error::other("is over 4 MiB")) } else { fs::read(path) }
    });
    let bytes = bytes.map_err(|error| ReplayError::Usage(format!("cannot read {what} {}: {error}", show(path))))?;
    String::from_utf8(bytes).map_err(|_| ReplayError::Usage(format!("{what} {} is not text", show(path))))
}

/// Reads a checkpoint file that an auditor kept.
///
/// # Errors
/// It cannot be read, or is not a checkpoint note.
pub(super) fn read_checkpoint(path: &Path) -> Result<Anchor, ReplayError> {
    let text = read_text(path, "checkpoint")?;
    let note = text.parse().map_err(|error| ReplayError::Usage(format!("checkpoint {}: {error}", show(path))))?;
    Ok(Anchor { kept_by: "checkpoint file", note, session: None })
}

/// Reads a slip.
///
/// # Errors
/// It is not one.
pub(super) fn read_slip(line: &str) -> Result<Anchor, ReplayError> {
    let slip: Slip = line.parse().map_err(|error| ReplayError::Usage(format!("slip: {error}; give the whole line")))?;
    Ok(Anchor { kept_by: "slip", note: slip.note().clone(), session: Some(slip.session()) })
}
