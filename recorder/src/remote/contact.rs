//! What a vault elsewhere knows of this node's log, asked before anything is put there: where it knows more than the node
//! does, the node was rolled back.

use std::path::Path;

use crate::fs::Fs;
use crate::local_log::root_of;
use crate::log::merkle::Hash;
use crate::log::note::{LogKey, NOTE_LEN_MAX, Note};
use crate::vault::log_key;
use crate::vault::s3::{Bucket, S3Error};

/// Days of checkpoints that are looked through at least: a clock that went back may have put the newest one into an older.
const DAYS_MIN: usize = 3;

/// What a vault elsewhere has of the log.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The largest checkpoint that this node's key signed.
    pub(super) newest: Option<Note>,
    /// Names of larger ones under which there is none that it signed: a server spoiled what it took, or somebody put something there.
    pub(super) spoiled: Vec<String>,
}

/// Asks for the newest checkpoints.
///
/// # Errors
/// As a request ended.
pub(super) async fn known(bucket: &Bucket, node: &str, key: &LogKey) -> Result<Known, S3Error> {
    let dir = log_key(node, "cp/");
    let mut days = bucket.directories(&dir).await?;
    days.sort_unstable();
    let Known { mut newest, mut spoiled } = Known::default();
    for (seen, day) in days.iter().rev().enumerate() {
        if newest.is_some() && seen >= DAYS_MIN {
            break;
        }
        let mut found: Vec<(u64, String, String)> = Vec::new();
        bucket
            .versions(&format!("{dir}{day}"), &mut |version| {
                let name = version.key.rsplit('/').next().unwrap_or_default();
                let size = name.split('-').next().and_then(|size| size.parse::<u64>().ok());
                if let Some(size) = size.filter(|_| !version.marker && name.ends_with(".note")) {
                    found.push((size, version.key, version.id));
                }
            })
            .await?;
        found.sort_unstable_by(|a, b| b.cmp(a));
        for (size, name, version) in found {
            if newest.as_ref().is_some_and(|note| note.checkpoint.size >= size) {
                break;
            }
            let bytes = bucket.get(&name, Some(&version), NOTE_LEN_MAX as u64).await?;
            let note = std::str::from_utf8(&bytes).ok().and_then(|text| text.parse::<Note>().ok());
            // Whoever can write to the bucket can put anything there; only what the node's key signed says something of it.
            match note.filter(|note| note.checkpoint.size == size && note.verify(key).is_ok()) {
                Some(note) => {
                    newest = Some(note);
                    spoiled.retain(|other| *other != name);
                }
                None => {
                    tracing::warn!(vault = bucket.settings().name, name, "not a checkpoint that this node signed");
                    spoiled.push(name);
                }
            }
        }
    }
    spoiled.dedup();
    Ok(Known { newest, spoiled })
}

/// How the local log stands to a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is a continuation of it.
    Ahead,
    /// It is shorter: somebody rolled it back.
    Behind {
        /// Entries of the local log.
        local: u64,
    },
    /// It has another root at that size.
    Forked,
}

/// Compares the local log with a checkpoint.
///
/// # Errors
/// The local log cannot be read.
pub(super) fn compare(fs: &dyn Fs, log_dir: &Path, note: &Note) -> std::io::Result<Standing> {
    let (size, root): (u64, Option<Hash>) = root_of(fs, log_dir, note.checkpoint.size)?;
    Ok(match root {
        None => Standing::Behind { local: size },
        Some(root) if root == note.checkpoint.root => Standing::Ahead,
        Some(_) => Standing::Forked,
    })
}
