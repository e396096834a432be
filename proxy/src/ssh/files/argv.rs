//! What a command line starts, where that is beyond doubt.
//!
//! A shell at the target reads it, and only the plainest lines mean the same to every shell. Everything else is no
//! transfer here. Nothing depends on the answer but how transfers are told: a command is recorded as it came.

/// A program that moves files.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// scp's end at the target.
    Scp(ScpWords),
    /// One whose protocol is not taken apart: its kind and its words.
    Counted {
        /// `rsync` or `git`.
        kind: &'static str,
        /// The words of the command.
        argv: Vec<Vec<u8>>,
    },
}

/// What scp was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ScpWords {
    /// Whether it receives (`-t`); it sends otherwise (`-f`).
    pub(super) receives: bool,
    /// Whether the path is said to be a directory (`-d`).
    pub(super) into_dir: bool,
    /// The paths; exactly one where it receives.
    pub(super) paths: Vec<Vec<u8>>,
}

/// Longer lists of words are no transfer that anybody types.
const WORDS_MAX: usize = 256;

/// Tells what a command line starts.
pub(super) fn program(command: &[u8]) -> Option<Program> {
    let (argv, bare) = words(command)?;
    let (name, rest) = argv.split_first()?;
    match name.as_slice() {
        b"scp" if bare => scp(rest).map(Program::Scp),
        b"rsync" if rest.first().is_some_and(|word| word == b"--server") => {
            Some(Program::Counted { kind: "rsync", argv })
        }
        b"git-upload-pack" | b"git-receive-pack" | b"git-upload-archive" => {
            Some(Program::Counted { kind: "git", argv })
        }
        _ => None,
    }
}

/// Splits a line into words, and tells whether it was bare: without any quoting. `None` where a shell might do anything
/// but split it.
fn words(command: &[u8]) -> Option<(Vec<Vec<u8>>, bool)> {
    let text = std::str::from_utf8(command).ok()?;
    let (mut all, mut word, mut bare) = (Vec::new(), None::<String>, true);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' => all.extend(word.take()),
            '\'' => {
                bare = false;
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        quoted => word.push(quoted),
                    }
                }
            }
            '\\' => {
                bare = false;
                // A backslash takes a line feed away instead of keeping it.
                word.get_or_insert_default().push(chars.next().filter(|c| *c != '\n')?);
            }
            c if c.is_alphanumeric() || "/._-+@%:,=".contains(c) => word.get_or_insert_default().push(c),
            _ => return None,
        }
    }
    all.extend(word);
    (all.len() <= WORDS_MAX).then(|| (all.into_iter().map(String::into_bytes).collect(), bare))
}

fn scp(words: &[Vec<u8>]) -> Option<ScpWords> {
    let (mut receives, mut sends, mut into_dir) = (false, false, false);
    let mut rest = words;
    while let Some((word, after)) = rest.split_first() {
        if word == b"--" {
            rest = after;
            break;
        }
        let Some(flags) = word.strip_prefix(b"-").filter(|flags| !flags.is_empty()) else { break };
        for flag in flags {
            match flag {
                b't' => receives = true,
                b'f' => sends = true,
                b'd' => into_dir = true,
                b'r' | b'p' | b'v' | b'q' => {}
                _ => return None,
            }
        }
        rest = after;
    }
    // Options may follow a path with some getopts; not with all, so that is doubt enough.
    let fits = receives != sends
        && if receives { rest.len() == 1 } else { !rest.is_empty() }
        && !rest.iter().any(|path| path.starts_with(b"-"));
    fits.then(|| ScpWords { receives, into_dir, paths: rest.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scp_of(command: &str) -> Option<ScpWords> {
        match program(command.as_bytes()) {
            Some(Program::Scp(words)) => Some(words),
            _ => None,
        }
    }

    #[test]
    fn plain_lines_of_scp_are_known() {
        let words = |receives, into_dir, paths: &[&str]| {
            let paths = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
            Some(ScpWords { receives, into_dir, paths })
        };
        assert_eq!(scp_of("scp -t /tmp/x"), words(true, false, &["/tmp/x"]));
        assert_eq!(scp_of("scp -v -r -p -d -t dir/"), words(true, true, &["dir/"]));
        assert_eq!(scp_of("scp -prt ."), words(true, false, &["."]));
        assert_eq!(scp_of("scp -f /etc/hosts übung.txt"), words(false, false, &["/etc/hosts", "übung.txt"]));
        assert_eq!(scp_of("scp -f -- a"), words(false, false, &["a"]));
    }

    #[test]
    fn anything_in_doubt_is_no_scp() {
        for command in [
            "scp -t /tmp/x; bash",
            "scp -t /tmp/x ; echo hi",
            "scp -t /tmp/x\nbash",
            "scp -t /tmp/x&&id",
            "scp -t /tmp/x|sh",
            "scp -t $(id)",
            "scp -t `id`",
            "scp -t $HOME",
            "scp -t ~root",
            "scp -t 'a b'",
            "scp -t a\\ b",
            "scp -f /tmp/*",
            "scp -f /tmp/{a,b}",
            "scp -f a?",
            "scp -t x > y",
            "scp -t x #",
            "scp\t-t x",
            "scp -t",
            "scp -t a b",
            "scp -t -f a",
            "scp -f",
            "scp -S /bin/sh -t x",
            "scp -oProxyCommand=x -f y",
            "scp -t a -d",
            "scp a b",
            "/usr/bin/scp -t x",
            "X=1 scp -t x",
            "exec scp -t x",
            "sudo scp -t x",
            " ",
            "",
        ] {
            assert_eq!(scp_of(command), None, "{command:?}");
        }
        assert_eq!(program(b"scp -t \xff"), None);
    }

    #[test]
    fn rsync_and_git_keep_their_words() {
        let counted = |command: &str| match program(command.as_bytes()) {
            Some(Program::Counted { kind, argv }) => {
                Some((kind, argv.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect::<Vec<_>>()))
            }
            _ => None,
        };
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            counted("rsync --server -logDtpre.iLsfxCIvu . /tmp/a\\ b"),
            Some(("rsync", words(&["rsync", "--server", "-logDtpre.iLsfxCIvu", ".", "/tmp/a b"])))
        );
        assert_eq!(
            counted("git-upload-pack '/srv/it'\\''s.git'"),
            Some(("git", words(&["git-upload-pack", "/srv/it's.git"])))
        );
        for command in ["rsync -a x y", "git-receive-pack 'x'; sh", "git-receive-pack 'x", "git upload-pack x", "rsync"]
        {
            assert_eq!(counted(command), None, "{command:?}");
        }
    }
}
