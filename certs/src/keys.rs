//! Key files on disk: read without following links, refused when others can read them, written owner-only.
//!
//! Every test is made on the opened file, never on its name, so nobody can swap the file between test and use. Knows
//! nothing about what is in them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use zeroize::Zeroizing;

/// The largest SSH private key, RSA of 8192 bits, is below 8 KiB.
pub const KEY_FILE_LEN_MAX: u64 = 64 * 1024;

/// Why a key file is not used. The text says what is wrong; [`remedy`](Self::remedy) what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It could not be opened or read.
    #[error("cannot open {}: {source}", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is a symbolic link.
    #[error("{} is a symbolic link", file.display())]
    Link {
        /// The link.
        file: PathBuf,
    },
    /// It is a directory, a device or a pipe.
    #[error("{} is no regular file", file.display())]
    NotAFile {
        /// What is not a file.
        file: PathBuf,
    },
    /// It, or its directory, belongs to somebody who is neither this user nor root.
    #[error("{} belongs to uid {owner}", path.display())]
    Owner {
        /// The file or its directory.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
    },
    /// Group or others have rights on it.
    #[error("{} has mode {mode:04o}: others can use it", file.display())]
    Mode {
        /// The file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Group or others can replace files in its directory.
    #[error("{} has mode {mode:04o}: others can replace the keys in it", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is larger than any key.
    #[error("{} is over {KEY_FILE_LEN_MAX} bytes", file.display())]
    TooLong {
        /// The file.
        file: PathBuf,
    },
    /// It is not text.
    #[error("{} is not text", file.display())]
    NotText {
        /// The file.
        file: PathBuf,
    },
    /// It exists and would have been overwritten.
    #[error("{} exists", file.display())]
    Exists {
        /// The file.
        file: PathBuf,
    },
    /// It could not be written.
    #[error("cannot write {}: {source}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl KeyFileError {
    /// Returns what to do: a command to paste wherever one helps.
    pub fn remedy(&self) -> String {
        let uid = rustix::process::geteuid().as_raw();
        match self {
            Self::Open { .. } => format!("check the path, and that uid {uid} may read it"),
            Self::Link { .. } | Self::NotAFile { .. } => "name the key file itself".to_owned(),
            Self::Owner { path, .. } => format!("run: chown {uid} {}", quoted(path)),
            Self::Mode { file, .. } => format!("run: chmod 600 {}", quoted(file)),
            Self::Directory { dir, .. } => format!("run: chmod go-w {}", quoted(dir)),
            Self::TooLong { .. } | Self::NotText { .. } => "name a key file".to_owned(),
            Self::Exists { .. } => "move it away, or choose another directory".to_owned(),
            Self::Write { .. } => "check the directory and the space left".to_owned(),
        }
    }
}

/// Reads a private key file as text, wiped when dropped.
///
/// # Errors
/// The file must be a regular one and no link, owned by this user or root, without any right for group and others, in a
/// directory that belongs to this user or root and that nobody else can write. A directory with the sticky bit, such as
/// `/tmp`, passes: there only a file's owner can rename or remove it, and the owner of this file was checked. Directories
/// further up are not looked at: whoever may write those is root or runs the machine.
pub fn read_private(file: &Path) -> Result<Zeroizing<String>, KeyFileError> {
    let uid = rustix::process::geteuid().as_raw();
    let open_error = |source: Errno| KeyFileError::Open { file: file.to_owned(), source: source.into() };
    let (dir, name) = split(file).ok_or_else(|| KeyFileError::NotAFile { file: file.to_owned() })?;

    let dir_fd =
        rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(open_error)?;
    check_directory(dir, &rustix::fs::fstat(&dir_fd).map_err(open_error)?, uid)?;

    // NONBLOCK: opening a pipe that nobody writes to would hang before it can be refused.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&dir_fd, name, flags, Mode::empty()).map_err(|error| match error {
        Errno::LOOP => KeyFileError::Link { file: file.to_owned() },
        error => open_error(error),
    })?;
    let stat = rustix::fs::fstat(&fd).map_err(open_error)?;
    check_file(file, &stat, uid)?;

    // Room for the whole file and one byte more: a buffer that grows leaves unwiped copies behind.
    let room = usize::try_from(KEY_FILE_LEN_MAX + 1).unwrap_or(usize::MAX);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    File::from(fd)
        .take(KEY_FILE_LEN_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| KeyFileError::Open { file: file.to_owned(), source })?;
    if bytes.len() as u64 > KEY_FILE_LEN_MAX {
        return Err(KeyFileError::TooLong { file: file.to_owned() });
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| KeyFileError::NotText { file: file.to_owned() })?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Writes a new private key file, mode 0600, and syncs it and its directory.
///
/// # Errors
/// [`KeyFileError::Exists`] when there is one: keys are never overwritten.
pub fn write_private(file: &Path, text: &str) -> Result<(), KeyFileError> {
    create_new(file, text.as_bytes(), 0o600)
}

/// Writes a new file with exactly that mode, whatever the umask, and syncs it and its directory.
///
/// # Errors
/// [`KeyFileError::Exists`] when there is one.
pub fn create_new(file: &Path, bytes: &[u8], mode: u32) -> Result<(), KeyFileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyFileError::Exists { file: file.to_owned() },
        _ => KeyFileError::Write { file: file.to_owned(), source },
    };
    let (dir, _) = split(file).ok_or_else(|| KeyFileError::NotAFile { file: file.to_owned() })?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(file, flags, Mode::from_raw_mode(0o600)).map_err(|error| failed(error.into()))?;
    let mut out = File::from(fd);
    out.write_all(bytes)
        .and_then(|()| out.set_permissions(std::fs::Permissions::from_mode(mode)))
        .and_then(|()| out.sync_all())
        .and_then(|()| File::open(dir)?.sync_all())
        .map_err(failed)
}

fn check_directory(dir: &Path, stat: &Stat, uid: u32) -> Result<(), KeyFileError> {
    let mode = stat.st_mode & 0o7777;
    if stat.st_uid != uid && stat.st_uid != 0 {
        return Err(KeyFileError::Owner { path: dir.to_owned(), owner: stat.st_uid });
    }
    if mode & 0o022 != 0 && mode & 0o1000 == 0 {
        return Err(KeyFileError::Directory { dir: dir.to_owned(), mode });
    }
    Ok(())
}

fn check_file(file: &Path, stat: &Stat, uid: u32) -> Result<(), KeyFileError> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(KeyFileError::NotAFile { file: file.to_owned() });
    }
    if stat.st_uid != uid && stat.st_uid != 0 {
        return Err(KeyFileError::Owner { path: file.to_owned(), owner: stat.st_uid });
    }
    let mode = stat.st_mode & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Mode { file: file.to_owned(), mode });
    }
    Ok(())
}

fn split(file: &Path) -> Option<(&Path, &std::ffi::OsStr)> {
    let name = file.file_name()?;
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    Some((dir, name))
}

/// A path as a shell takes it, so that the command in a message can be pasted.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn key_in(dir: &Path) -> PathBuf {
        let file = dir.join("key");
        write_private(&file, "secret\n").unwrap();
        file
    }

    #[test]
    fn a_written_key_is_owner_only_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = key_in(dir.path());
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(read_private(&file).unwrap().as_str(), "secret\n");
        assert!(matches!(write_private(&file, "other"), Err(KeyFileError::Exists { .. })));
        assert_eq!(read_private(&file).unwrap().as_str(), "secret\n");
    }

    #[test]
    fn a_mode_that_lets_others_in_is_refused_with_the_command() {
        let dir = tempfile::tempdir().unwrap();
        let file = key_in(dir.path());
        for mode in 0..0o1000u32 {
            if mode & 0o400 == 0 {
                continue;
            }
            chmod(&file, mode);
            match read_private(&file) {
                Ok(_) => assert_eq!(mode & 0o077, 0, "{mode:o}"),
                Err(error) => {
                    assert_ne!(mode & 0o077, 0, "{mode:o}: {error}");
                    assert!(error.remedy().starts_with("run: chmod 600 /"), "{error}");
                }
            }
        }
    }

    #[test]
    fn a_link_a_directory_and_a_pipe_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = key_in(dir.path());
        let link = dir.path().join("link");
        symlink(&file, &link).unwrap();
        assert!(matches!(read_private(&link), Err(KeyFileError::Link { .. })));

        let sub = dir.path().join("sub");
        std::fs::create_dir(&sub).unwrap();
        chmod(&sub, 0o700);
        assert!(matches!(read_private(&sub), Err(KeyFileError::NotAFile { .. })));

        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert!(matches!(read_private(&pipe), Err(KeyFileError::NotAFile { .. })));
        assert!(matches!(read_private(&dir.path().join("none")), Err(KeyFileError::Open { .. })));
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused_unless_sticky() {
        let dir = tempfile::tempdir().unwrap();
        let file = key_in(dir.path());
        for (mode, fine) in [(0o700, true), (0o755, true), (0o775, false), (0o707, false), (0o1777, true)] {
            chmod(dir.path(), mode);
            assert_eq!(read_private(&file).is_ok(), fine, "{mode:o}");
        }
        chmod(dir.path(), 0o700);
    }

    #[test]
    fn a_file_of_somebody_else_is_refused_by_its_stat() {
        let dir = tempfile::tempdir().unwrap();
        let file = key_in(dir.path());
        let mut stat = rustix::fs::stat(&file).unwrap();
        stat.st_uid = 4_000_001;
        assert!(matches!(check_file(&file, &stat, 4_000_002), Err(KeyFileError::Owner { .. })));
        assert!(matches!(check_directory(dir.path(), &stat, 4_000_002), Err(KeyFileError::Owner { .. })));
        assert!(check_file(&file, &stat, 4_000_001).is_ok());
        stat.st_uid = 0;
        assert!(check_file(&file, &stat, 4_000_002).is_ok());
    }

    #[test]
    fn what_is_too_long_or_binary_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("long");
        create_new(&long, &vec![b'a'; usize::try_from(KEY_FILE_LEN_MAX).unwrap() + 1], 0o600).unwrap();
        assert!(matches!(read_private(&long), Err(KeyFileError::TooLong { .. })));
        let binary = dir.path().join("binary");
        create_new(&binary, b"\xff\xfe", 0o600).unwrap();
        assert!(matches!(read_private(&binary), Err(KeyFileError::NotText { .. })));
    }

    #[test]
    fn a_path_in_a_command_is_quoted() {
        assert_eq!(quoted(Path::new("/etc/key")), "/etc/key");
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
