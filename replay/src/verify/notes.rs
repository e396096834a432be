//! The checkpoints that a vault keeps of a node log. In a bucket, one that is locked is an anchor: the node cannot take it back.

use std::collections::BTreeMap;
use std::sync::Arc;

use casemate_recorder::log::merkle::Hash;
use casemate_recorder::log::note::{NOTE_LEN_MAX, Note};
use casemate_recorder::transcript::block::SessionId;
use casemate_recorder::vault::s3::Standing;

use super::anchors::{Anchor, NodeTrust, Signed};
use super::ledger::Ledger;
use super::log::NodeFacts;
use crate::ReplayError;
use crate::vault::{Found, LogListing, Vault};
use casemate_screen::safe::visible;

/// Checkpoints that are held in memory as they were read.
const BATCH: usize = 256;

/// Who knew a checkpoint outside of the node.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    /// As the report names it.
    pub(super) by: Arc<str>,
    /// The session whose slip it is.
    pub(super) session: Option<SessionId>,
    /// When a server took it, in microseconds since 1970.
    pub(super) server_us: Option<u64>,
}

/// A root that the tree must have at some size.
pub(super) struct Target<'a> {
    pub(super) root: Hash,
    /// As the report names it.
    pub(super) from: String,
    pub(super) signed: Signed<'a>,
    pub(super) kept: Option<Kept>,
    /// When a server took it, in microseconds since 1970.
    pub(super) server_us: Option<u64>,
    /// Whether it came from outside of the vault.
    pub(super) outside: bool,
}

impl<'a> Target<'a> {
    /// A checkpoint that an auditor kept.
    pub(super) fn of(anchor: &Anchor, signed: Signed<'a>) -> Self {
        let from = format!("the checkpoint of size {} in the {}", anchor.note.checkpoint.size, anchor.kept_by);
        let kept = Some(Kept { by: anchor.kept_by.into(), session: anchor.session, server_us: None });
        Self { root: anchor.note.checkpoint.root, from, signed, kept, server_us: None, outside: true }
    }
}

/// A checkpoint that is one.
struct Right<'a> {
    note: Note,
    signed: Signed<'a>,
    /// When a server took the first version that is here, in microseconds since 1970.
    server_us: Option<u64>,
    /// The same of those that cannot be taken back now.
    stays_us: Option<u64>,
}

/// What reading takes along.
pub(super) struct Notes<'a, 'b> {
    pub(super) vault: &'b Vault,
    pub(super) name: &'b str,
    pub(super) trust: &'b NodeTrust<'a>,
    pub(super) ledger: &'b Ledger,
    pub(super) now_us: u64,
}

impl<'a> Notes<'a, '_> {
    /// Reads all checkpoints of a node log.
    pub(super) fn read(
        &self,
        files: &LogListing,
        facts: &mut NodeFacts,
        targets: &mut BTreeMap<u64, Vec<Target<'a>>>,
    ) -> Result<(), ReplayError> {
        let locked: Option<Arc<str>> =
            self.vault.bucket().map(|bucket| format!("locked copy in {}", bucket.name()).into());
        for keys in files.notes.chunks(BATCH) {
            for (key, found) in keys.iter().zip(self.vault.read_all(keys, NOTE_LEN_MAX as u64)?) {
                if let Some(Right { note, signed, server_us, stays_us }) = self.right(key, &found, facts) {
                    let kept = locked.clone().zip(stays_us);
                    let kept = kept.map(|(by, us)| Kept { by, session: None, server_us: Some(us) });
                    let checkpoint = &note.checkpoint;
                    let (root, from) = (checkpoint.root, visible(key));
                    let target = Target { root, from, signed, kept, server_us, outside: false };
                    targets.entry(checkpoint.size).or_default().push(target);
                    if facts.newest.as_ref().is_none_or(|newest| newest.checkpoint.size <= checkpoint.size) {
                        facts.newest = Some(note);
                    }
                }
            }
        }
        Ok(())
    }

    /// Finds the checkpoint among all that lies under its name, and says when a version of it came that cannot be taken back.
    fn right(&self, key: &str, found: &[Found], facts: &mut NodeFacts) -> Option<Right<'a>> {
        let mut right: Option<(Note, Signed<'a>)> = None;
        let (mut fit, mut wrong, mut why) = (Vec::new(), Vec::new(), None);
        for one in found {
            match self.judge(key, one) {
                Ok(judged) => {
                    right.get_or_insert(judged);
                    fit.push(one);
                }
                Err(what) => {
                    why.get_or_insert(what);
                    wrong.push(&one.version);
                }
            }
        }
        let Some((note, signed)) = right else {
            if let Some(what) = why {
                facts.alter(format!("{}: {what}", visible(key)));
            }
            return None;
        };
        wrong.into_iter().for_each(|version| self.ledger.over(key, version));
        self.ledger.right(key, &fit);
        let standings = || fit.iter().filter_map(|found| found.standing.as_ref());
        let is_locked =
            |standing: &&Standing| standing.hold || standing.lock.is_some_and(|lock| lock.until_us > self.now_us);
        let first_us = |standing: &Standing| standing.modified_us;
        let server_us = standings().map(first_us).min();
        Some(Right { note, signed, server_us, stays_us: standings().filter(is_locked).map(first_us).min() })
    }

    fn judge(&self, key: &str, found: &Found) -> Result<(Note, Signed<'a>), String> {
        let note = found.content.as_ref().ok().and_then(|bytes| std::str::from_utf8(bytes).ok());
        let note: Note = note.and_then(|text| text.parse().ok()).ok_or("is not a checkpoint")?;
        let checkpoint = &note.checkpoint;
        if checkpoint.origin != self.name || key.rsplit('/').next() != Some(checkpoint.file_name().as_str()) {
            return Err("is the checkpoint of another log or size".to_owned());
        }
        match self.trust.check(&note) {
            Signed::ByAnother => Err(format!("signed by a key that is not trusted for {}", self.name)),
            Signed::Broken => Err("signature does not fit".to_owned()),
            signed => Ok((note, signed)),
        }
    }
}
