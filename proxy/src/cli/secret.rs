//! `casemate secret`: encrypts a password to the node, so that it lies on disk as something only the daemon can read.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use casemate_certs::keys::{KeyFileError, create_new};
use casemate_recorder::transcript::wrap::Recipient;
use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::say;
use crate::config::{Config, ConfigError};

/// The longest password that is taken, in bytes: what libpq sends at most (fe-auth.c).
const PASSWORD_LEN_MAX: usize = 1024;

/// What `secret` shall do.
#[derive(Debug, Clone, Args)]
pub struct Secret {
    /// The configuration file, which names the node's state key.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The file to make, for password_file of a role. The password is read from standard input, one line.
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
}

/// Why no secret was made.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The configuration is not good.
    #[error("the configuration must pass the check first:\n{0}")]
    Config(#[from] ConfigError),
    /// Nobody could open it.
    #[error("the configuration names no state_key; add encryption = \"age\" and a state_key")]
    NoStateKey,
    /// What came is no password.
    #[error("a password is one line of 1 to {PASSWORD_LEN_MAX} bytes; nothing was written")]
    NotOne,
    /// It could not be read.
    #[error("cannot read the password: {0}")]
    Read(io::Error),
    /// It could not be encrypted.
    #[error("cannot encrypt: {0}")]
    Encrypt(io::Error),
    /// It could not be written.
    #[error("{source}; {}", source.remedy())]
    Write {
        /// Why not.
        #[from]
        source: KeyFileError,
    },
}

/// Reads a password and writes it encrypted.
///
/// # Errors
/// Whatever stands in the way; nothing is overwritten.
pub fn secret(request: &Secret) -> Result<(), SecretError> {
    let config = Config::load(&request.config)?;
    let state = state_of(&config)?;
    let password = read_password("Password: ")?;
    write_encrypted(&state, &password, &request.out)?;
    say(&format!("{} made; name it as password_file of a [[target.role]]", request.out.display()));
    Ok(())
}

/// Returns whom a secret of the node is encrypted to.
///
/// # Errors
/// A configuration without a state key.
pub(super) fn state_of(config: &Config) -> Result<Recipient, SecretError> {
    config.encryption.state_recipient().ok_or(SecretError::NoStateKey)
}

/// Encrypts a password into a new file.
///
/// # Errors
/// Where the file is there already, or cannot be written.
pub(super) fn write_encrypted(state: &Recipient, password: &str, out: &Path) -> Result<(), SecretError> {
    let file = state.seal(password.as_bytes()).map_err(SecretError::Encrypt)?;
    Ok(create_new(out, &file, 0o600)?)
}

/// Reads a password from standard input, one line; where somebody types it, they are prompted.
///
/// # Errors
/// What is no password.
pub(super) fn read_password(prompt: &str) -> Result<Zeroizing<String>, SecretError> {
    let mut line = read_line(prompt).map_err(SecretError::Read)?;
    let len = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(len);
    if line.is_empty() || line.len() > PASSWORD_LEN_MAX || line.contains(['\0', '\n']) {
        return Err(SecretError::NotOne);
    }
    Ok(line)
}

/// Reads a line; where somebody types it, it is not shown.
fn read_line(prompt: &str) -> io::Result<Zeroizing<String>> {
    let stdin = io::stdin();
    let mut line = Zeroizing::new(String::with_capacity(PASSWORD_LEN_MAX + 2));
    if !stdin.is_terminal() {
        stdin.lock().read_line(&mut line)?;
        return Ok(line);
    }
    let before = tcgetattr(&stdin)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    silent.local_modes.insert(LocalModes::ECHONL);
    let mut err = io::stderr().lock();
    let _ = write!(err, "{prompt}");
    let _ = err.flush();
    tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
    let read = stdin.lock().read_line(&mut line);
    tcsetattr(&stdin, OptionalActions::Flush, &before)?;
    read.map(|_| line)
}
