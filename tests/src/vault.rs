//! What the vault says, asked of `casemate-replay` as an auditor would.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use serde_json::Value;

use crate::bins;
use crate::process::{Done, nothing, run, wait_until};

/// A vault and how to read it.
#[derive(Debug, Clone)]
pub struct Vault {
    /// The directory, or `s3://` with a bucket's name.
    pub dir: PathBuf,
    /// The trust file.
    pub trust: PathBuf,
    /// The auditor's age identity.
    pub identity: PathBuf,
    /// More for the reader's environment: where a bucket is, and whose keys open it.
    pub env: Vec<(&'static str, String)>,
}

/// What `verify` found.
#[derive(Debug)]
pub struct Verdict {
    /// The exit code.
    pub exit: i32,
    /// One object a session.
    pub sessions: Vec<Value>,
    /// The last object: the equation and what was not proven.
    pub summary: Value,
}

impl Verdict {
    /// Returns a term of the equation, such as `altered`; 0 when it is not there.
    pub fn term(&self, name: &str) -> u64 {
        self.summary.get(name).and_then(Value::as_u64).unwrap_or(0)
    }

    /// Checks that the only thing against the vault is its trust file, in which the bastion vouches for itself: every session ended in
    /// order and lies there whole, and nothing is to be explained. The daemon must have stopped: its own record ends with it.
    ///
    /// # Errors
    /// When anything else was found, or there was nothing to judge; the error carries the summary.
    pub fn clean_but_for_trust(&self) -> Result<()> {
        // Asked for by name: a term that the verifier calls something else must not count as 0.
        let term = |name: &str| self.summary.get(name).and_then(Value::as_u64);
        let is_empty = |name: &str| self.summary.get(name).and_then(Value::as_array).is_some_and(Vec::is_empty);
        let others = ["recovered", "open", "pending", "retired", "erased", "missing", "altered"];
        let sound = term("clean").zip(term("unanchored")).map(|(clean, unanchored)| clean + unanchored);
        ensure!(
            self.exit == 4
                && sound > Some(0)
                && term("opened") == sound
                && others.iter().all(|name| term(name) == Some(0))
                && ["exceptions", "altered_findings"].into_iter().all(is_empty),
            "more than the trust file is in doubt (exit {}): {} {:?}",
            self.exit,
            self.summary,
            self.sessions
                .iter()
                .filter(|session| session.get("reason").is_some_and(Value::is_string))
                .take(5)
                .collect::<Vec<_>>()
        );
        Ok(())
    }

    /// Returns how many anchors the verifier took, of all nodes, by what kept them.
    pub fn anchors(&self) -> BTreeMap<String, u64> {
        let nodes = self.summary.get("nodes").and_then(Value::as_array).into_iter().flatten();
        let kept = nodes.filter_map(|node| node.get("anchors")?.as_object()).flatten();
        let mut all = BTreeMap::new();
        for (keeper, count) in kept {
            *all.entry(keeper.clone()).or_default() += count.as_u64().unwrap_or(0);
        }
        all
    }

    /// Checks that nothing was altered or is missing. A self-asserted trust file and sessions that a crash cut short are
    /// no alteration: they show as 4 and 3.
    ///
    /// # Errors
    /// When the evidence is broken; the error carries the findings.
    pub fn unaltered(&self) -> Result<()> {
        ensure!(
            matches!(self.exit, 0 | 3 | 4) && self.term("altered") == 0 && self.term("missing") == 0,
            "verify found alterations (exit {}): {} {:?}",
            self.exit,
            self.summary,
            self.sessions.iter().filter(|session| is_bad(session)).take(5).collect::<Vec<_>>()
        );
        Ok(())
    }
}

fn is_bad(session: &Value) -> bool {
    let text = session.to_string();
    text.contains("altered") || text.contains("missing")
}

/// One session, exported.
#[derive(Debug, Clone)]
pub struct Transcript {
    /// Every event as `export --format jsonl` gave it.
    pub events: Vec<Value>,
    /// Bytes by channel and stream type (`ssh.in`, `ssh.out`, `ssh.err`), in order.
    pub streams: BTreeMap<(u64, String), Vec<u8>>,
}

impl Transcript {
    /// Returns the events of a type.
    pub fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.events.iter().filter(move |event| event.get("type").and_then(Value::as_str) == Some(kind))
    }

    /// Returns all bytes of a stream type, over all channels.
    pub fn bytes(&self, kind: &str) -> Vec<u8> {
        let parts = self.streams.iter().filter(|((_, have), _)| have == kind);
        parts.flat_map(|(_, bytes)| bytes.iter().copied()).collect()
    }

    /// Tells whether any event of that type says `text` anywhere.
    pub fn says(&self, kind: &str, text: &str) -> bool {
        self.of(kind).any(|event| event.to_string().contains(text))
    }
}

impl Vault {
    /// Runs a verb of `casemate-replay` on this vault, with the auditor's identity.
    ///
    /// # Errors
    /// When the program is missing or does not end within two minutes.
    pub fn replay(&self, verb: &str, args: &[&str]) -> Result<Done> {
        run(&mut self.command(verb, args)?, nothing(), Duration::from_secs(120))
    }

    /// Returns the command that [`Vault::replay`] runs.
    ///
    /// # Errors
    /// When the program is missing.
    pub fn command(&self, verb: &str, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(bins::path("casemate-replay")?);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.arg(verb).arg(&self.dir).arg("--identity").arg(&self.identity).args(args);
        Ok(command)
    }

    /// Lists the sessions, oldest first.
    ///
    /// # Errors
    /// When the verb fails or does not print JSON.
    pub fn ls(&self) -> Result<Vec<Value>> {
        let done = self.replay("ls", &["--trust", path(&self.trust)?, "--json"])?.ok()?;
        lines(&done.stdout)
    }

    /// Lists the sessions as anybody can: what needs an identity, who and where, is null. In a large vault that is
    /// much quicker.
    ///
    /// # Errors
    /// As [`Vault::ls`].
    pub fn outline(&self) -> Result<Vec<Value>> {
        let mut command = Command::new(bins::path("casemate-replay")?);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.arg("ls").arg(&self.dir).arg("--json");
        lines(&run(&mut command, nothing(), Duration::from_secs(120))?.ok()?.stdout)
    }

    /// Lists the sessions of that kind: `session`, `portal` or `control`.
    ///
    /// # Errors
    /// As [`Vault::ls`].
    pub fn of_kind(&self, kind: &str) -> Result<Vec<Value>> {
        let mut sessions = self.ls()?;
        sessions.retain(|session| session.get("kind").and_then(Value::as_str) == Some(kind));
        Ok(sessions)
    }

    /// Waits until `count` sessions ended and every one that did not stay open is whole in the vault.
    ///
    /// A closed session is in a directory vault within a second; `patience` is for busy machines.
    ///
    /// # Errors
    /// When they are not within `patience`; the error shows the list.
    pub fn settle(&self, count: usize, patience: Duration) -> Result<()> {
        self.settle_kind("session", count, patience)
    }

    /// Waits as [`Vault::settle`] does, for sessions of that kind.
    ///
    /// # Errors
    /// When they are not within `patience`; the error shows the list.
    pub fn settle_kind(&self, kind: &str, count: usize, patience: Duration) -> Result<()> {
        let done =
            |session: &Value| matches!(session.get("status").and_then(Value::as_str), Some("closed" | "recovered"));
        let settled =
            wait_until(patience, || self.of_kind(kind).is_ok_and(|all| all.len() >= count && all.iter().all(done)));
        ensure!(settled, "{count} ended of kind {kind} were expected: {:?}", self.ls());
        Ok(())
    }

    /// Exports one session.
    ///
    /// # Errors
    /// When the verb fails or prints something that is no line of a transcript.
    pub fn transcript(&self, session: &str) -> Result<Transcript> {
        let done = self.replay("export", &[session, "--format", "jsonl"])?.ok()?;
        let events = lines(&done.stdout)?;
        let mut streams: BTreeMap<(u64, String), Vec<u8>> = BTreeMap::new();
        for event in &events {
            let Some(data) = event.get("data").and_then(Value::as_str) else { continue };
            let kind = event.get("type").and_then(Value::as_str).context("an event without type")?;
            let chan = event.get("chan").and_then(Value::as_u64).unwrap_or(0);
            let bytes = base64::engine::general_purpose::STANDARD.decode(data)?;
            streams.entry((chan, kind.to_owned())).or_default().extend(bytes);
        }
        Ok(Transcript { events, streams })
    }

    /// Exports every session of kind `session`, with its id.
    ///
    /// # Errors
    /// As [`Vault::ls`] and [`Vault::transcript`].
    pub fn transcripts(&self) -> Result<Vec<(String, Transcript)>> {
        let sessions = self.of_kind("session")?;
        sessions
            .iter()
            .map(|session| {
                let id = session.get("session").and_then(Value::as_str).context("a session without id")?;
                Ok((id.to_owned(), self.transcript(id)?))
            })
            .collect()
    }

    /// Verifies the vault.
    ///
    /// # Errors
    /// When the verb does not print a last object with an `exit` that equals its own.
    pub fn verify(&self, args: &[&str]) -> Result<Verdict> {
        let mut all = vec!["--trust", path(&self.trust)?, "--json"];
        all.extend(args);
        let done = self.replay("verify", &all)?;
        let mut sessions = lines(&done.stdout).with_context(|| done.err())?;
        let Some(summary) = sessions.pop() else { bail!("verify printed nothing: {}", done.err()) };
        let exit = done.code();
        ensure!(
            summary.get("exit").and_then(Value::as_i64) == Some(i64::from(exit)),
            "verify ended with {exit} and says {summary}"
        );
        Ok(Verdict { exit, sessions, summary })
    }
}

fn lines(stdout: &[u8]) -> Result<Vec<Value>> {
    let text = std::str::from_utf8(stdout).context("JSON is UTF-8")?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))).collect()
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
