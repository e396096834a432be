//! What was ever put into a bucket, by name: every version and every delete marker that the listing tells of.
//!
//! Kept small: a bucket holds years. Names of segments are not kept, for they follow from session and number.

use std::collections::BTreeMap;

use casemate_recorder::transcript::block::SessionId;
use casemate_recorder::vault::s3::Version as Listed;
use casemate_recorder::vault::{log_key, segment_key};

use super::{Listing, LogListing, Stray, Version, is_hidden, poses_as_segment, segment_number, stray};
use casemate_screen::safe::visible;

/// Things that do not belong are listed up to here; anybody who can write could put more.
const STRAYS_MAX: usize = 1000;

/// A version or a delete marker.
#[derive(Debug, Clone)]
struct Held {
    id: Box<str>,
    bytes: u64,
    modified_us: u64,
    marker: bool,
}

/// All that one name ever stood for, the oldest first.
type History = Vec<Held>;

/// What one name stands for besides its one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hidden {
    /// The name.
    pub(crate) key: String,
    /// The session, of a segment.
    pub(crate) session: Option<SessionId>,
    /// The delete markers.
    pub(crate) markers: Vec<Box<str>>,
    /// The versions after the first.
    pub(crate) shadows: Vec<Box<str>>,
    /// Whether any version is left.
    pub(crate) remains: bool,
}

/// How much the listing told of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Names of evidence.
    pub(crate) objects: u64,
    /// Versions of them.
    pub(crate) versions: u64,
    /// Their length together, in bytes.
    pub(crate) bytes: u64,
    /// Delete markers on them.
    pub(crate) markers: u64,
}

/// The names of a bucket.
#[derive(Debug, Default)]
pub(super) struct Index {
    sessions: BTreeMap<SessionId, BTreeMap<u32, History>>,
    logs: BTreeMap<String, BTreeMap<Box<str>, History>>,
    strays: Vec<Stray>,
}

/// Where a name belongs.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Segment(SessionId, u32),
    Log { node: &'a str, path: &'a str },
    Stray { poses: bool },
}

fn place(key: &str) -> Place<'_> {
    let parts: Vec<&str> = key.split('/').collect();
    match parts.as_slice() {
        ["v1", "t", rest @ ..] => {
            let hidden = rest.iter().any(|part| is_hidden(part));
            let [.., dir, name] = rest else { return Place::Stray { poses: false } };
            match (dir.parse::<SessionId>(), segment_number(name)) {
                (Ok(session), Some(no)) if segment_key(session, no) == key => Place::Segment(session, no),
                _ => Place::Stray { poses: !hidden && poses_as_segment(dir, name) },
            }
        }
        ["v1", "log", node, "cp", day, name]
            if ![node, day, name].iter().any(|part| is_hidden(part)) && name.ends_with(".note") =>
        {
            Place::Log { node, path: key.get("v1/log/".len() + node.len() + 1..).unwrap_or_default() }
        }
        ["v1", "log", node, "tile", ..] if !is_hidden(node) => {
            let path = key.get("v1/log/".len() + node.len() + 1..).unwrap_or_default();
            match path.parse::<casemate_recorder::log::tile::TileName>() {
                Ok(_) => Place::Log { node, path },
                Err(_) => Place::Stray { poses: false },
            }
        }
        _ => Place::Stray { poses: false },
    }
}

impl Index {
    /// Takes what a listing tells; the versions of one name come the newest first.
    pub(super) fn take(&mut self, listed: Listed) {
        let Listed { key, id, bytes, marker, modified_us, .. } = listed;
        let history = match place(&key) {
            Place::Segment(session, no) => self.sessions.entry(session).or_default().entry(no).or_default(),
            Place::Log { node, path } => self.logs.entry(node.to_owned()).or_default().entry(path.into()).or_default(),
            Place::Stray { poses } => {
                if !marker && self.strays.len() < STRAYS_MAX {
                    let name = key.rsplit('/').next().unwrap_or_default();
                    self.strays.push(stray(visible(&key), name, true, poses));
                }
                return;
            }
        };
        history.push(Held { id: id.into(), bytes, modified_us, marker });
    }

    /// Puts everything in order once all was taken.
    pub(super) fn finish(&mut self) {
        let histories = self.sessions.values_mut().flat_map(BTreeMap::values_mut);
        for history in histories.chain(self.logs.values_mut().flat_map(BTreeMap::values_mut)) {
            // Servers keep whole seconds, so that those of one second stay in the order of the listing.
            history.reverse();
            history.sort_by_key(|held| held.modified_us);
            history.shrink_to_fit();
        }
        self.strays.sort();
        self.strays.dedup();
    }

    /// Returns every version of every segment, the oldest sessions first.
    pub(super) fn segments(&self) -> impl Iterator<Item = (SessionId, u32, Version)> {
        self.sessions.iter().flat_map(|(session, segments)| {
            let versions = segments.iter().flat_map(|(no, history)| versions(history).map(|version| (*no, version)));
            versions.map(|(no, version)| (*session, no, version))
        })
    }

    /// Returns every version of every checkpoint.
    pub(super) fn notes(&self) -> impl Iterator<Item = (String, Version)> {
        self.logs.iter().flat_map(|(node, log)| {
            let notes = log.iter().filter(|(path, _)| path.starts_with("cp/"));
            notes.flat_map(|(path, history)| versions(history).map(|version| (log_key(node, path), version)))
        })
    }

    pub(super) fn nodes(&self) -> (Vec<String>, Vec<Stray>) {
        (self.logs.keys().cloned().collect(), Vec::new())
    }

    pub(super) fn sessions(&self) -> Listing {
        let numbers = |segments: &BTreeMap<u32, History>| {
            segments.iter().filter(|(_, history)| remains(history)).map(|(no, _)| *no).collect::<Vec<_>>()
        };
        let sessions = self.sessions.iter().map(|(session, segments)| (*session, numbers(segments)));
        let sessions = sessions.filter(|(_, numbers)| !numbers.is_empty()).collect();
        Listing { sessions, strays: self.strays.clone() }
    }

    pub(super) fn log(&self, node: &str) -> LogListing {
        let mut listing = LogListing::default();
        for (path, history) in self.logs.get(node).into_iter().flatten() {
            match path.parse() {
                _ if !remains(history) => {}
                Ok(tile) => listing.tiles.push(tile),
                Err(_) => listing.notes.push(log_key(node, path)),
            }
        }
        listing.tiles.sort();
        listing
    }

    fn history(&self, key: &str) -> &[Held] {
        let history = match place(key) {
            Place::Segment(session, no) => self.sessions.get(&session).and_then(|segments| segments.get(&no)),
            Place::Log { node, path } => self.logs.get(node).and_then(|log| log.get(path)),
            Place::Stray { .. } => None,
        };
        history.map_or(&[], Vec::as_slice)
    }

    pub(super) fn segment(&self, session: SessionId, no: u32) -> Vec<Version> {
        let history = self.sessions.get(&session).and_then(|segments| segments.get(&no));
        history.into_iter().flat_map(|history| versions(history)).collect()
    }

    /// Lists all that is there of a session, delete markers too: name, version, and whether it is a marker.
    pub(super) fn all_of(&self, session: SessionId) -> Vec<(String, Box<str>, bool)> {
        let segments = self.sessions.get(&session).into_iter().flatten();
        let all = segments.flat_map(|(no, history)| {
            history.iter().map(move |held| (segment_key(session, *no), held.id.clone(), held.marker))
        });
        all.collect()
    }

    /// Returns the numbers under which anything ever lay with a session's segments.
    pub(super) fn numbers(&self, session: SessionId) -> Vec<u32> {
        self.sessions.get(&session).into_iter().flat_map(BTreeMap::keys).copied().collect()
    }

    /// Returns the version of a segment of which there is one, and nothing else under its name.
    pub(super) fn only(&self, session: SessionId, no: u32) -> Option<Version> {
        let history = self.sessions.get(&session).and_then(|segments| segments.get(&no))?;
        versions(history).next().filter(|_| history.len() == 1)
    }

    pub(super) fn versions(&self, key: &str) -> Vec<Version> {
        versions(self.history(key)).collect()
    }

    /// Returns when the newest checkpoint came of the node that has sent none for the longest time.
    pub(super) fn newest_checkpoint_us(&self) -> Option<u64> {
        let newest = |log: &BTreeMap<Box<str>, History>| {
            let notes = log.iter().filter(|(path, _)| path.starts_with("cp/"));
            notes.filter_map(|(_, history)| history.first()).map(|held| held.modified_us).max()
        };
        self.logs.values().filter_map(newest).min()
    }

    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for history in self.histories() {
            let markers = history.iter().filter(|held| held.marker).count() as u64;
            totals.objects += 1;
            totals.markers += markers;
            totals.versions += history.len() as u64 - markers;
            totals.bytes = history.iter().fold(totals.bytes, |sum, held| sum.saturating_add(held.bytes));
        }
        totals
    }

    fn histories(&self) -> impl Iterator<Item = &History> {
        self.sessions.values().flat_map(BTreeMap::values).chain(self.logs.values().flat_map(BTreeMap::values))
    }

    /// Lists the names that stand for anything besides one version.
    pub(super) fn hidden(&self) -> Vec<Hidden> {
        let mut found = Vec::new();
        for (session, segments) in &self.sessions {
            for (no, history) in segments {
                found.extend(hidden(history, || segment_key(*session, *no), Some(*session)));
            }
        }
        for (node, log) in &self.logs {
            found.extend(log.iter().filter_map(|(path, history)| hidden(history, || log_key(node, path), None)));
        }
        found
    }
}

fn remains(history: &[Held]) -> bool {
    history.iter().any(|held| !held.marker)
}

fn versions(history: &[Held]) -> impl Iterator<Item = Version> {
    let held = history.iter().filter(|held| !held.marker);
    held.map(|held| Version { id: Some(held.id.clone()), bytes: Some(held.bytes), modified_us: held.modified_us })
}

fn hidden(history: &[Held], key: impl Fn() -> String, session: Option<SessionId>) -> Option<Hidden> {
    if matches!(history, [only] if !only.marker) {
        return None;
    }
    let ids = |marker| history.iter().filter(move |held| held.marker == marker).map(|held| held.id.clone());
    Some(Hidden {
        key: key(),
        session,
        markers: ids(true).collect(),
        shadows: ids(false).skip(1).collect(),
        remains: remains(history),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: &str = "019aacd1-0000-7000-8000-000000000001";

    fn listed(key: &str, id: &str, modified_us: u64, marker: bool) -> Listed {
        Listed { key: key.to_owned(), id: id.to_owned(), bytes: 7, latest: false, marker, modified_us }
    }

    fn index(all: &[(&str, &str, u64, bool)]) -> Index {
        let mut index = Index::default();
        all.iter().for_each(|(key, id, us, marker)| index.take(listed(key, id, *us, *marker)));
        index.finish();
        index
    }

    #[test]
    fn names_are_told_apart_as_in_a_directory() {
        let home = format!("v1/t/2025/11/22/{SESSION}");
        let session: SessionId = SESSION.parse().unwrap();
        assert_eq!(place(&format!("{home}/000001.seg")), Place::Segment(session, 1));
        for (key, poses) in [
            (format!("{home}/1.seg"), false),
            (format!("{home}/.000001.seg"), false),
            (format!("v1/t/2025/11/23/{SESSION}/000001.seg"), true),
            (format!("v1/t/kept/{SESSION}/000001.seg"), true),
            (format!("{home}/{SESSION}/000001.seg"), true),
            (format!("v1/t/2025/11/23/{SESSION}/notes.txt"), false),
            (format!("v1/t/2025/11/23/{SESSION}/1.seg"), false),
            (format!("v1/t/2025/11/23/{SESSION}/4294967296.seg"), false),
            (format!("v1/t/2025/11/23/{SESSION}/old/000001.seg"), false),
            (format!("v1/t/2025/11/23/{SESSION}"), false),
            (format!("v1/t/.2025/{SESSION}/000001.seg"), false),
            // Where ids are read in capitals too, they are not how the session's own place is spelled.
            (format!("v1/t/2025/11/22/{}/000001.seg", SESSION.to_uppercase()), true),
            ("v1/log/n/cp/1.note".to_owned(), false),
            ("v1/log/.n/cp/2026-11-22/1.note".to_owned(), false),
            ("v1/log/n/tile/0/junk".to_owned(), false),
            ("notes.txt".to_owned(), false),
        ] {
            assert_eq!(place(&key), Place::Stray { poses }, "{key}");
        }
        assert_eq!(place("v1/log/n/cp/2026-11-22/1.note"), Place::Log { node: "n", path: "cp/2026-11-22/1.note" });
        assert_eq!(place("v1/log/n/tile/0/000.p/7"), Place::Log { node: "n", path: "tile/0/000.p/7" });
    }

    #[test]
    fn what_lies_over_evidence_and_what_hides_it_is_named() {
        let key = format!("v1/t/2025/11/22/{SESSION}/000000.seg");
        let note = "v1/log/n/cp/2026-11-22/1-00.note";
        let index = index(&[
            (&key, "c", 3, false),
            (&key, "a", 1, false),
            (&key, "b", 2, true),
            (note, "only", 1, false),
            ("v1/log/n/tile/0/000.p/1", "gone", 1, true),
        ]);
        let session = SESSION.parse().unwrap();
        let ids: Vec<_> = index.versions(&key).into_iter().filter_map(|version| version.id).collect();
        assert_eq!(ids.join(" "), "a c");
        assert_eq!(index.sessions().sessions.get(&session).unwrap(), &[0]);
        assert_eq!((index.log("n").notes, index.log("n").tiles), (vec![note.to_owned()], vec![]));
        let hidden = index.hidden();
        assert_eq!(hidden.len(), 2);
        assert_eq!((&hidden[0].key, hidden[0].session), (&key, Some(session)));
        assert_eq!((hidden[0].markers.join(" "), hidden[0].shadows.join(" ")), ("b".to_owned(), "c".to_owned()));
        assert!(hidden[0].remains && !hidden[1].remains);
        let Totals { objects, versions, markers, .. } = index.totals();
        assert_eq!((objects, versions, markers), (3, 3, 2));
    }
}
