//! SSH keys, made and read by `ssh-keygen` as a person would.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{nothing, run};

/// Makes a key pair without passphrase at `path` unless there is one, and returns its public line.
///
/// # Errors
/// When `ssh-keygen` fails.
pub fn make(path: &Path, kind: &str) -> Result<String> {
    if !path.is_file() {
        let comment = path.file_name().context("a key needs a file name")?;
        run(
            Command::new("ssh-keygen").args(["-q", "-t", kind, "-N", "", "-C"]).arg(comment).arg("-f").arg(path),
            nothing(),
            Duration::from_secs(60),
        )?
        .ok()?;
    }
    public_line(path)
}

/// Returns the public half of the key at `path` as one line: type, key, comment.
///
/// # Errors
/// When the `.pub` file cannot be read.
pub fn public_line(path: &Path) -> Result<String> {
    let public = public_path(path);
    let text = fs::read_to_string(&public).with_context(|| public.display().to_string())?;
    Ok(text.trim_end().to_owned())
}

/// Returns where the public half of a key lies.
pub fn public_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    PathBuf::from(name)
}
