//! Where a vault is damaged: a copy of a sound one, and the difference between the two, written down as edits.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_tests::forge::newest_note;
use casemate_tests::vectors::{self, Edit, Vector};

use crate::record::{Shelf, Sound};

/// A copy of a sound vault with what lies beside it.
pub(crate) struct Desk {
    dir: tempfile::TempDir,
    sound: Sound,
}

impl Desk {
    fn new(sound: &Sound) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        vectors::copy(&sound.dir, dir.path())?;
        Ok(Self { dir, sound: sound.clone() })
    }

    /// Where all of it lies.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The key of the officer who signs trust files.
    pub(crate) fn officer(&self) -> &Path {
        &self.sound.officer
    }

    /// Where a file lies.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// All files, relative to the desk.
    pub(crate) fn files(&self, under: &str) -> Result<Vec<String>> {
        Ok(vectors::files(self.dir.path())?.into_iter().filter(|file| file.starts_with(under)).collect())
    }

    /// The id of a session.
    pub(crate) fn id(&self, session: usize) -> Result<&str> {
        Ok(self.sound.sessions.get(session).context("no such session")?)
    }

    /// The segment of a session.
    pub(crate) fn segment(&self, session: usize, no: usize) -> Result<String> {
        let end = format!("{}/{no:06}.seg", self.id(session)?);
        self.files("vault/v1/t")?.into_iter().find(|file| file.ends_with(&end)).context("no such segment")
    }

    /// The newest checkpoint of a node.
    pub(crate) fn newest(&self, node: &str) -> Result<String> {
        newest_note(self.dir.path(), node)
    }

    /// The only bundle or tile of that sort in the log of node-1, such as `entries` or `0`.
    pub(crate) fn tile(&self, level: &str) -> Result<String> {
        self.files(&format!("vault/v1/log/node-1/tile/{level}/"))?.pop().context("no tile")
    }

    /// Reads a file.
    pub(crate) fn read(&self, file: &str) -> Result<Vec<u8>> {
        fs::read(self.path(file)).with_context(|| file.to_owned())
    }

    /// Writes a file.
    pub(crate) fn write(&self, file: &str, bytes: &[u8]) -> Result<()> {
        vectors::write(&self.path(file), bytes)
    }

    /// Removes a file.
    pub(crate) fn remove(&self, file: &str) -> Result<()> {
        vectors::remove(&self.path(file))
    }

    /// Removes every file whose name begins like this.
    pub(crate) fn remove_all(&self, under: &str) -> Result<()> {
        self.files(under)?.iter().try_for_each(|file| self.remove(file))
    }

    /// Moves a file.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.write(to, &self.read(from)?)?;
        self.remove(from)
    }

    /// Edits the bytes of a file.
    pub(crate) fn edit(&self, file: &str, change: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let mut bytes = self.read(file)?;
        change(&mut bytes);
        self.write(file, &bytes)
    }

    /// Flips the lowest bit of a byte.
    pub(crate) fn flip(&self, file: &str, at: usize) -> Result<()> {
        self.edit(file, |bytes| {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1;
            }
        })
    }

    /// Puts the vault of another recording in the place of this one; what the auditor holds stays.
    pub(crate) fn replace(&self, with: &Sound) -> Result<()> {
        self.remove_all("vault/")?;
        vectors::copy(&with.dir.join("vault"), &self.path("vault"))
    }

    /// Says what was changed.
    fn edits(&self, shelf: &Shelf) -> Result<Vec<Edit>> {
        let before = vectors::files(&self.sound.dir)?;
        let after = self.files("")?;
        let known: Vec<(String, Vec<u8>)> = vectors::files(&shelf.dir)?
            .into_iter()
            .map(|file| Ok((file.clone(), fs::read(shelf.dir.join(file))?)))
            .collect::<Result<_>>()?;
        let gone = before.iter().filter(|file| !after.contains(file)).map(|file| Edit::Remove(file.clone()));
        let mut edits: Vec<Edit> = gone.collect();
        for path in after {
            let new = self.read(&path)?;
            let old = before.contains(&path).then(|| fs::read(self.sound.dir.join(&path))).transpose()?;
            if old.as_ref() == Some(&new) {
                continue;
            }
            let from = known.iter().find(|(_, bytes)| *bytes == new && bytes.len() > 64).map(|(from, _)| from.clone());
            edits.push(match (from, old) {
                (Some(from), _) => Edit::Copy { path, from },
                (None, Some(old)) if old.starts_with(&new) => Edit::Truncate { path, len: new.len() },
                (None, Some(old)) if old.len() == new.len() => {
                    let differs = |at: &usize| old.get(*at) != new.get(*at);
                    let at = (0..new.len()).find(differs).context("a difference")?;
                    let end = (0..new.len()).rfind(differs).context("a difference")? + 1;
                    Edit::Patch { path, at, hex: vectors::hex(new.get(at..end).unwrap_or_default()) }
                }
                _ => Edit::Write { path, base64: STANDARD.encode(&new) },
            });
        }
        Ok(edits)
    }
}

/// A vector in the making: what is asked, and what must be answered.
pub(crate) struct Case<'a> {
    shelf: &'a Shelf,
    sound: &'a Sound,
    name: &'static str,
    vector: Vector,
    at_us: u64,
    anchors: Vec<String>,
    trusted: bool,
}

impl<'a> Case<'a> {
    /// Begins a vector: trust file and kept checkpoint given, everything in order.
    pub(crate) fn new(shelf: &'a Shelf, sound: &'a Sound, name: &'static str, what: &str) -> Self {
        let vector = Vector {
            what: what.to_owned(),
            from: sound.name.to_owned(),
            edits: Vec::new(),
            arguments: Vec::new(),
            exit: 0,
            verdict: "clean".to_owned(),
            sessions: Default::default(),
        };
        let anchors = vec!["--checkpoint".to_owned(), "kept.note".to_owned()];
        Self { shelf, sound, name, vector, at_us: sound.now_us, anchors, trusted: true }
    }

    fn ends(mut self, exit: u8, verdict: &str) -> Self {
        self.vector.exit = exit;
        self.vector.verdict = verdict.to_owned();
        self
    }

    /// Evidence is altered or missing.
    pub(crate) fn altered(self) -> Self {
        self.ends(1, "altered")
    }

    /// Nobody can tell.
    pub(crate) fn undecided(self) -> Self {
        self.ends(4, "undecided")
    }

    /// There is something to explain.
    pub(crate) fn exceptions(self) -> Self {
        self.ends(3, "exceptions")
    }

    /// The question makes no sense.
    pub(crate) fn usage(self) -> Self {
        self.ends(2, "usage")
    }

    /// A session must have this status.
    pub(crate) fn status(mut self, session: usize, status: &str) -> Self {
        if let Some(id) = self.sound.sessions.get(session) {
            self.vector.sessions.insert(id.clone(), status.to_owned());
        }
        self
    }

    /// The auditor kept nothing.
    pub(crate) fn unanchored(mut self) -> Self {
        self.anchors.clear();
        self
    }

    /// The auditor holds a slip and no checkpoint.
    pub(crate) fn slip(self, session: usize) -> Self {
        let line = self.sound.slips.get(session).cloned().unwrap_or_default();
        self.unanchored().anchor("--slip", line)
    }

    /// The auditor holds one more anchor.
    pub(crate) fn anchor(mut self, option: &str, value: impl Into<String>) -> Self {
        self.anchors.extend([option.to_owned(), value.into()]);
        self
    }

    /// The auditor has no trust file.
    pub(crate) fn untrusting(mut self) -> Self {
        self.trusted = false;
        self
    }

    /// The question is put this long after the vault was recorded.
    pub(crate) fn later(mut self, us: u64) -> Self {
        self.at_us += us;
        self
    }

    /// Leaves the vault as it is.
    pub(crate) fn untouched(self) -> Result<()> {
        self.make(|_| Ok(()))
    }

    /// Damages a copy of the vault, and writes the vector.
    pub(crate) fn make(self, damage: impl FnOnce(&Desk) -> Result<()>) -> Result<()> {
        let Self { shelf, sound, name, mut vector, at_us, anchors, trusted } = self;
        let desk = Desk::new(sound)?;
        damage(&desk).with_context(|| name.to_owned())?;
        vector.edits = desk.edits(shelf)?;
        if trusted {
            vector.arguments.extend(["--trust".to_owned(), "trust.toml".to_owned()]);
        }
        vector.arguments.extend(anchors);
        vector.arguments.extend(["--at".to_owned(), at_us.to_string()]);
        let path = vectors::dir().join(format!("{name}.json"));
        ensure!(!path.exists(), "two vectors are called {name}");
        let mut text = serde_json::to_string_pretty(&vector)?;
        text.push('\n');
        Ok(fs::write(path, text)?)
    }
}
