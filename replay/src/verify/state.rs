//! What earlier runs of `verify` accepted, in a file of the auditor's. It only ever moves forward, and only when nothing was found
//! altered.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use casemate_recorder::log::note::{Note, NoteError};
use serde::{Deserialize, Serialize};

use super::anchors::{Anchor, show};
use crate::ReplayError;
use crate::vault::read_small;

/// A state file is at most this long, in bytes.
const FILE_LEN_MAX: u64 = 4 * 1024 * 1024;

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
