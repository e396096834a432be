//! What earlier runs of `verify` accepted, in a file of the auditor's. It only ever moves forward, and only when nothing was found
//! altered.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use casemate_recorder::log::note::{Note, NoteError};
use casemate_recorder::transcript::block::SessionId;
use serde::{Deserialize, Serialize};

use super::anchors::{Anchor, show};
use super::earlier::{Known, Versions};
use super::session::Plan;
use super::{Judged, Status};
use crate::ReplayError;
use crate::vault::read_small;

/// A state file is at most this long, in bytes: over two million sessions.
const FILE_LEN_MAX: u64 = 256 * 1024 * 1024;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    version: u32,
    /// The newest accepted checkpoint of each node, as a signed note.
    nodes: BTreeMap<String, String>,
    /// When identities were last tried, and on how many sessions.
    #[serde(skip_serializing_if = "Option::is_none")]
    opened: Option<Trial>,
    /// By their ids, sessions of a bucket that ended and were in order when everything in them was read, below those checkpoints.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    sessions: BTreeMap<String, Known>,
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
    sessions: HashMap<SessionId, Known>,
}

impl State {
    /// Reads the state; an absent file is an empty state.
    ///
    /// # Errors
    /// It cannot be read, or is not a state file.
    pub(super) fn read(path: &Path) -> Result<Self, ReplayError> {
        let mut state = Self { path: path.to_owned(), nodes: BTreeMap::new(), opened: None, sessions: HashMap::new() };
        let bad = |what: String| {
            ReplayError::Usage(format!(
                "state file {}: {what}; restore it from a copy, or move it away: a new one knows of no earlier run",
                show(path)
            ))
        };
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
        for (session, known) in file.sessions {
            let session = session.parse().map_err(|_| bad("a session without an id".to_owned()))?;
            state.sessions.insert(session, known);
        }
        Ok(state)
    }

    /// Returns the sessions that were read before.
    pub(super) fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.sessions.keys().copied()
    }

    /// Returns what is known of a session that was read before, where its versions are still the same and the log that it was held
    /// against is the one that is remembered.
    pub(super) fn known(&self, plan: &Plan, versions: &Versions) -> Option<&Known> {
        let known = self.sessions.get(&plan.open.session).filter(|known| known.versions == *versions)?;
        let (note, end) = (self.nodes.get(&plan.node)?, plan.end.as_ref()?);
        (end.index < note.checkpoint.size).then_some(known)
    }

    /// Remembers which sessions were in order. Of those that nobody asked about, what was known stays.
    pub(super) fn remember(&mut self, judged: &[Judged], left_out: &HashSet<SessionId>, now_us: u64) {
        self.sessions.retain(|session, _| left_out.contains(session));
        for Judged { facts, status, .. } in judged {
            if matches!(status, Status::Clean | Status::Recovered) {
                self.sessions.extend(Known::of(facts, now_us).map(|known| (facts.plan.open.session, known)));
            }
        }
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
        let sessions = self.sessions.iter().map(|(session, known)| (session.to_string(), known.clone())).collect();
        let file = StateFile { version: 1, nodes, opened: self.opened, sessions };
        let mut text = serde_json::to_vec(&file).map_err(|error| ReplayError::Usage(error.to_string()))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use casemate_recorder::log::leaf::{Close, Open};
    use casemate_recorder::log::merkle::Hash;
    use casemate_recorder::log::note::Checkpoint;
    use casemate_recorder::transcript::block::Link;

    use crate::verify::session::LoggedEnd;

    const SESSION: SessionId = SessionId([1; 16]);

    /// A session whose end is that leaf of the log of `n`.
    fn ended(index: u64) -> Plan {
        let (last_link, segments) = (Link::ZERO, Vec::new());
        let close =
            Close { session: SESSION, reason: 0, wall_us: 2, last_block: 4, last_link, segment_count: 1, segments };
        let open = Open {
            session: SESSION,
            kind: 0,
            protocol: 1,
            ordinal: 0,
            head_link: Link::ZERO,
            session_pub: [0; 32],
            wall_us: 1,
            retain_until_us: 9,
        };
        Plan {
            node: "n".to_owned(),
            open,
            index: 1,
            boots: 1,
            boot_id: None,
            heads: Vec::new(),
            segments: BTreeMap::new(),
            end: Some(LoggedEnd { index, close, recovered: None }),
            present: vec![0],
            proof_us: 2,
            problem: None,
        }
    }

    #[test]
    fn what_is_known_goes_for_the_same_versions_under_the_remembered_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let mut state = State::read(&path).unwrap();
        let checkpoint = Checkpoint { origin: "n".to_owned(), size: 5, root: Hash([7; 32]) };
        state.advance(&checkpoint.sign(&ed25519_dalek::SigningKey::from_bytes(&[1; 32])).unwrap());
        let known = Known { versions: "aa".to_owned(), read_us: 3, events: 4, stream_bytes: None, length_us: 6 };
        state.sessions.insert(SESSION, known.clone());
        state.write().unwrap();
        let mut state = State::read(&path).unwrap();
        assert_eq!(state.known(&ended(4), &"aa".to_owned()), Some(&known));
        assert_eq!(state.known(&ended(4), &"ab".to_owned()), None, "other versions");
        assert_eq!(state.known(&ended(5), &"aa".to_owned()), None, "the end is a leaf that was not vouched for then");
        assert_eq!(state.known(&Plan { end: None, ..ended(4) }, &"aa".to_owned()), None);
        assert_eq!(state.known(&Plan { node: "m".to_owned(), ..ended(4) }, &"aa".to_owned()), None);

        state.remember(&[], &HashSet::from([SESSION]), 9);
        assert_eq!(state.sessions().count(), 1, "nobody asked about it");
        state.remember(&[], &HashSet::new(), 9);
        assert_eq!(state.sessions().count(), 0, "it was not found in order");
    }

    #[test]
    fn a_state_without_sessions_is_one_too_and_a_false_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        for (text, is_state) in [
            (r#"{"version":1,"nodes":{}}"#, true),
            (r#"{"version":2,"nodes":{}}"#, false),
            (r#"{"version":1,"nodes":{},"sessions":{"x":["aa",1,2,null,3]}}"#, false),
            (r#"{"version":1,"nodes":{},"sessions":{"019aacd1-0000-7000-8000-000000000001":["aa",1,2,null,3]}}"#, true),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(State::read(&path).is_ok(), is_state, "{text}");
        }
    }
}
