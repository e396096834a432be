//! Adding to a configuration: never a rewrite, and only what passes the same check as at start.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use casemate_certs::keys::{KeyFileError, create_new, quoted};
use rustix::fs::FlockOperation;

use super::AddError;
use crate::config::Config;

/// Appends to the file as one step: all of it, or nothing.
pub(super) fn append(file: &Path, before: &[u8], block: &str) -> Result<(), AddError> {
    let failed = |source: io::Error| write_error(file, source);
    // Replacing a link by a file would surprise whoever made the link.
    let file = &file.canonicalize().map_err(failed)?;
    let dir = File::open(Config::base(file)).map_err(failed)?;
    rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).map_err(|_| AddError::Busy(file.clone()))?;
    if std::fs::read(file).map_err(failed)? != before {
        return Err(AddError::Changed(file.clone()));
    }
    let mut text = String::from_utf8_lossy(before).into_owned();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(block);
    Config::parse(&text, file).map_err(AddError::Result)?;

    let meta = std::fs::metadata(file).map_err(failed)?;
    let temp = Config::base(file).join(format!(".casemate.{}.tmp", std::process::id()));
    let written = create_new(&temp, text.as_bytes(), meta.mode() & 0o7777)
        .map_err(|error| match error {
            KeyFileError::Write { source, .. } => source,
            other => io::Error::other(other.to_string()),
        })
        .and_then(|()| keep_owner(&temp, &meta))
        .and_then(|()| std::fs::rename(&temp, file))
        .and_then(|()| dir.sync_all());
    if written.is_err() {
        let _ = std::fs::remove_file(&temp);
    }
    written.map_err(failed)
}

/// Gives a file the owner of another: root may edit what is the daemon's user's, and it stays that user's.
pub(in crate::cli) fn keep_owner(temp: &Path, meta: &std::fs::Metadata) -> io::Result<()> {
    let now = std::fs::metadata(temp)?;
    if (now.uid(), now.gid()) == (meta.uid(), meta.gid()) {
        return Ok(());
    }
    std::os::unix::fs::chown(temp, Some(meta.uid()), Some(meta.gid()))
        .map_err(|error| io::Error::new(error.kind(), format!("{error} (chown {})", quoted(temp))))
}

pub(super) fn write_error(file: &Path, source: io::Error) -> AddError {
    AddError::Write { file: file.to_owned(), source }
}
