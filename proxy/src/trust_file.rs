//! Trust files on disk.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use casemate_certs::fields::Problem;
use casemate_certs::trust::{TrustError, TrustFile, signature_file};

/// A trust file is some kilobytes; signatures are some hundred bytes each.
const FILE_LEN_MAX: u64 = 4 * 1024 * 1024;

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It could not be read.
    #[error("cannot read {}: {source}; {remedy}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// It says something wrong: `file:line: what; remedy`, one a line.
    #[error("{}", listed(file, problems))]
    Invalid {
        /// The file.
        file: PathBuf,
        /// Everything that is wrong with it, by line.
        problems: Vec<Problem>,
    },
}

fn listed(file: &Path, problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(|problem| format!("{}:{problem}", file.display())).collect();
    lines.join("\n")
}

/// Reads a text of a few MiB at most.
pub(crate) fn read(file: &Path, remedy: &'static str) -> Result<String, FileError> {
    let read = || {
        let mut text = String::new();
        std::fs::File::open(file)?.take(FILE_LEN_MAX + 1).read_to_string(&mut text)?;
        if text.len() as u64 > FILE_LEN_MAX { Err(io::Error::other("over 4 MiB")) } else { Ok(text) }
    };
    read().map_err(|source| FileError::Read { file: file.to_owned(), source, remedy })
}

/// Opens a trust file with the signatures beside it.
pub(crate) fn open(file: &Path) -> Result<TrustFile, FileError> {
    let text = read(file, "name a trust file")?;
    let signatures = match read(&signature_file(file), "check its rights, or have the officers sign again") {
        Err(FileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        read => Some(read?),
    };
    TrustFile::read(&text, signatures.as_deref())
        .map_err(|TrustError { problems }| FileError::Invalid { file: file.to_owned(), problems })
}
