//! The vectors: sound vaults, and for each way to damage one the edits that do it and the verdict that must follow.
//!
//! Both readers are asked about the same unpacked directory, as an auditor would ask them: by their arguments. What is
//! expected was written down when the vector was made; the readers never judge each other.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bins;
use crate::process::{nothing, run};

/// One vault, one question about it, and the answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vector {
    /// What is wrong with it, for a person.
    pub what: String,
    /// The sound vault that it begins from: a directory under `vaults/`.
    pub from: String,
    /// What is done to it, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<Edit>,
    /// What the readers are asked, behind the vault; files are named relative to the unpacked directory.
    pub arguments: Vec<String>,
    /// The exit status that both must end with.
    pub exit: u8,
    /// The verdict that both must give; `usage` where there is none.
    pub verdict: String,
    /// The status of sessions, where the finding is about them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sessions: BTreeMap<String, String>,
}

/// One change to an unpacked vector. Paths are relative to its directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Edit {
    /// The file goes, and every directory that it leaves empty.
    Remove(String),
    /// The bytes at the offset become these, in hex; the length stays.
    Patch {
        /// Which file.
        path: String,
        /// From which byte on.
        at: usize,
        /// What is there from now on.
        hex: String,
    },
    /// The file ends here.
    Truncate {
        /// Which file.
        path: String,
        /// Its length from now on.
        len: usize,
    },
    /// A new file, or an old one with other content, in base64.
    Write {
        /// Which file.
        path: String,
        /// All of it.
        base64: String,
    },
    /// A file of a sound vault, as it is there: `vault-name/path`.
    Copy {
        /// Which file it becomes.
        path: String,
        /// Where it comes from, under `vaults/`.
        from: String,
    },
}

/// What a reader said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its exit status.
    pub exit: u8,
    /// Its verdict, or `usage`.
    pub verdict: String,
    /// The status of each session that it listed.
    pub sessions: BTreeMap<String, String>,
    /// Whether it found something that it blames on no session: on the log, or on a file that belongs to none.
    pub blames_log: bool,
    /// Everything it said, for a failing test.
    pub said: String,
}

/// Returns where the vectors lie.
pub fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

/// Reads all vectors, by name.
///
/// # Errors
/// One cannot be read, or is not one.
pub fn load() -> Result<BTreeMap<String, Vector>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let name = path.file_stem().context("a name")?.to_string_lossy().into_owned();
            let vector = serde_json::from_slice(&fs::read(&path)?).with_context(|| format!("vector {name}"))?;
            all.insert(name, vector);
        }
    }
    Ok(all)
}

/// Lists the plain files below a directory, relative to it.
///
/// # Errors
/// A directory cannot be read.
pub fn files(dir: &Path) -> Result<Vec<String>> {
    let (mut out, mut waiting) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                out.push(path.strip_prefix(dir)?.to_str().context("a name that is UTF-8")?.to_owned());
            }
        }
    }
    out.sort();
    Ok(out)
}

/// Copies a tree of plain files; the copies can be written.
///
/// # Errors
/// A file cannot be read or written.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    for file in files(from)? {
        write(&to.join(&file), &fs::read(from.join(&file))?)?;
    }
    Ok(())
}

/// Writes a file and the directories above it; one that is there already goes first, whatever its mode.
///
/// # Errors
/// It cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::create_dir_all(path.parent().context("a file in a directory")?)?;
    let _ = fs::remove_file(path);
    fs::write(path, bytes).with_context(|| path.display().to_string())
}

/// Removes a file, and every directory that it leaves empty.
///
/// # Errors
/// It cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).with_context(|| path.display().to_string())?;
    for dir in path.ancestors().skip(1).take_while(|dir| dir.file_name().is_some_and(|name| name != "vault")) {
        if fs::remove_dir(dir).is_err() {
            break;
        }
    }
    Ok(())
}

impl Vector {
    /// Makes the vault and what lies beside it.
    ///
    /// # Errors
    /// An edit does not fit the vault that it is made for.
    pub fn unpack(&self, to: &Path) -> Result<()> {
        let vaults = dir().join("vaults");
        copy(&vaults.join(&self.from), to)?;
        for edit in &self.edits {
            match edit {
                Edit::Remove(path) => remove(&to.join(path))?,
                Edit::Copy { path, from } => write(&to.join(path), &fs::read(vaults.join(from))?)?,
                Edit::Write { path, base64 } => write(&to.join(path), &STANDARD.decode(base64)?)?,
                Edit::Truncate { path, len } => {
                    let bytes = fs::read(to.join(path))?;
                    write(&to.join(path), bytes.get(..*len).context("a cut behind the end")?)?;
                }
                Edit::Patch { path, at, hex } => {
                    let mut bytes = fs::read(to.join(path))?;
                    let patch = unhex(hex)?;
                    let place = bytes.get_mut(*at..at + patch.len()).context("a patch behind the end")?;
                    place.copy_from_slice(&patch);
                    write(&to.join(path), &bytes)?;
                }
            }
        }
        Ok(())
    }

    /// Returns the arguments for a vault unpacked there, the vault first.
    ///
    /// # Errors
    /// A path is not UTF-8.
    pub fn arguments_at(&self, at: &Path) -> Result<Vec<String>> {
        let whole = |path: &str| Ok::<_, anyhow::Error>(at.join(path).to_str().context("UTF-8")?.to_owned());
        let mut out = vec![whole("vault")?];
        let mut names_file = false;
        for argument in &self.arguments {
            out.push(if names_file { whole(argument)? } else { argument.clone() });
            names_file = matches!(argument.as_str(), "--trust" | "--checkpoint");
        }
        Ok(out)
    }
}

/// Asks `casemate-replay verify`.
///
/// # Errors
/// It does not run, or does not end with what it said.
pub fn first_reader(arguments: &[String]) -> Result<Answer> {
    let mut command = Command::new(bins::path("casemate-replay")?);
    command.arg("verify").args(arguments).args(["--sha256", "--json"]);
    let done = run(&mut command, nothing(), Duration::from_secs(120))?;
    let exit = u8::try_from(done.code())?;
    if exit == 2 {
        let (verdict, sessions) = ("usage".into(), BTreeMap::new());
        return Ok(Answer { exit, verdict, sessions, blames_log: false, said: done.err() });
    }
    answer(std::str::from_utf8(&done.stdout)?, exit).with_context(|| done.err())
}

/// Asks the second reader about many vaults at once; the answers come in the order of the questions.
///
/// # Errors
/// It does not run, or does not answer every question.
pub fn second_reader(questions: &[Vec<String>]) -> Result<Vec<Answer>> {
    let batch = tempfile::NamedTempFile::new()?;
    let quoted = |question: &Vec<String>| question.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    ensure!(questions.iter().flatten().all(|word| !word.contains(['\'', '\n'])), "a word that cannot be quoted");
    fs::write(batch.path(), questions.iter().map(quoted).collect::<Vec<_>>().join("\n"))?;
    let mut command = Command::new("/usr/bin/python3");
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("verify_twin/verify.py");
    command.arg("-B").arg(reader).arg("--batch").arg(batch.path());
    let done = run(&mut command, nothing(), Duration::from_secs(3600))?.ok()?;
    let text = std::str::from_utf8(&done.stdout)?;
    let answers: Vec<_> = text.lines().map(|line| answer(line, exit_of(line)?)).collect::<Result<_>>()?;
    ensure!(answers.len() == questions.len(), "{} answers to {} questions", answers.len(), questions.len());
    Ok(answers)
}

fn exit_of(line: &str) -> Result<u8> {
    let value: Value = serde_json::from_str(line)?;
    Ok(u8::try_from(value.get("exit").and_then(Value::as_u64).context("an exit")?)?)
}

/// Reads lines of JSON, a session each, or the sessions inside of the last one; the last one has the verdict.
fn answer(text: &str, exit: u8) -> Result<Answer> {
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let Some(last) = lines.last() else { bail!("nothing was said") };
    ensure!(last.get("exit").and_then(Value::as_u64) == Some(exit.into()), "ended with {exit} and says {last}");
    let word = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let mut sessions: BTreeMap<_, _> =
        lines.iter().filter_map(|line| Some((word(line, "session")?, word(line, "status")?))).collect();
    if let Some(Value::Object(inside)) = last.get("sessions") {
        sessions.extend(inside.iter().filter_map(|(id, status)| Some((id.clone(), status.as_str()?.to_owned()))));
    }
    let verdict = word(last, "verdict").context("a verdict")?;
    // Each reader has a name of its own for them.
    let found = ["altered_findings", "findings"].into_iter().find_map(|key| last.get(key)?.as_array());
    let blames_log = found.is_some_and(|found| !found.is_empty());
    Ok(Answer { exit, verdict, sessions, blames_log, said: text.to_owned() })
}

/// Writes bytes as hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let pair = |at: usize| Ok(u8::from_str_radix(text.get(at..at + 2).context("hex has pairs")?, 16)?);
    (0..text.len()).step_by(2).map(pair).collect()
}
