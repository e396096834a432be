//! Anchors: checkpoints that were known outside the vault. A verdict reaches as far as the newest of them.
//!
//! They come from files that an auditor kept, from slips, and from the state that an earlier run left behind. That state
//! only ever moves forward, and only when nothing was found altered.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use casemate_certs::trust::{Trust, TrustFile, TrustedNode, signature_file};
use casemate_recorder::log::note::{LogKey, Note, NoteError};
use casemate_recorder::log::slip::Slip;
use casemate_recorder::transcript::block::SessionId;
use serde::{Deserialize, Serialize};

use crate::ReplayError;
use crate::vault::read_small;
use casemate_screen::safe::visible;

/// A trust file, a note or a state file is at most this long, in bytes.
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

fn show(path: &Path) -> String {
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

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    version: u32,
    /// The newest accepted checkpoint of each node, as a signed note.
    nodes: BTreeMap<String, String>,
    /// When identities were last tried, and on how many sessions.
    #[serde(skip_serializing_if = "Option::is_none")]
    opened: Option<Trial>,
}

/// How it went when identities were tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trial {
    /// Microseconds since 1970.
    pub(super) at_us: u64,
    /// Sessions that opened.
    pub(super) sessions: usize,
    /// Sessions of which something was there.
    pub(super) of: usize,
}

/// What earlier runs accepted.
#[derive(Debug)]
pub(super) struct State {
    path: PathBuf,
    nodes: BTreeMap<String, Note>,
    pub(super) opened: Option<Trial>,
}

impl State {
    /// Reads the state; an absent file is an empty state.
    ///
    /// # Errors
    /// It cannot be read, or is not a state file.
    pub(super) fn read(path: &Path) -> Result<Self, ReplayError> {
        let mut state = Self { path: path.to_owned(), nodes: BTreeMap::new(), opened: None };
        let bad = |what: String| ReplayError::Usage(format!("state file {}: {what}", show(path)));
        let Some(bytes) = read_small(path, FILE_LEN_MAX)? else { return Ok(state) };
        let file: StateFile = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        if file.version != 1 {
            return Err(bad(format!("version {} is not known", file.version)));
        }
        state.opened = file.opened;
        for (node, text) in file.nodes {
            let note: Note = text.parse().map_err(|error: NoteError| bad(error.to_string()))?;
            if note.checkpoint.origin != node {
                return Err(bad("a checkpoint under the name of another node".to_owned()));
            }
            state.nodes.insert(node, note);
        }
        Ok(state)
    }

    /// Returns what the state remembers, as anchors.
    pub(super) fn anchors(&self) -> impl Iterator<Item = Anchor> {
        self.nodes.values().map(|note| Anchor { kept_by: "state file", note: note.clone(), session: None })
    }

    /// Remembers a checkpoint if it is newer than the one that is known.
    pub(super) fn advance(&mut self, note: &Note) {
        let known = self.nodes.get(&note.checkpoint.origin);
        if known.is_none_or(|known| known.checkpoint.size < note.checkpoint.size) {
            self.nodes.insert(note.checkpoint.origin.clone(), note.clone());
        }
    }

    /// Writes the state so that a reader finds the old or the new one, never half of it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn write(&self) -> Result<(), ReplayError> {
        let nodes = self.nodes.iter().map(|(node, note)| (node.clone(), note.to_string())).collect();
        let mut text =
            serde_json::to_vec_pretty(&StateFile { version: 1, nodes, opened: self.opened }).unwrap_or_default();
        text.push(b'\n');
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let temp = self.path.with_file_name(name);
        let write = || {
            let mut file = fs::File::create(&temp)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&temp, &self.path)?;
            let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
            fs::File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
        };
        write().map_err(ReplayError::io("write the state file", &self.path))
    }
}
