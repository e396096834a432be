//! The oracle: what client and target saw, by logs of their own, against what the vault shows.
//!
//! Two rules, for each stream of a session. What the receiver saw is a prefix of what the transcript holds: nothing was
//! forwarded unrecorded. What the transcript holds is a prefix of what the sender wrote: nothing was made up. Never our
//! own counters.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::bins;
use crate::client::{Client, Route};
use crate::noise::Noise;
use crate::process::wait_until;
use crate::vault::Transcript;

type Log = Arc<Mutex<Vec<u8>>>;

/// What OpenSSH's client writes to its standard error when the server goes away.
const CLIENT_LAST_WORDS: &[u8] = b"Connection to 127.0.0.1 closed by remote host.\r\n";

/// A client that talks with a `casemate-peer talk` at the target, and remembers every byte of both directions.
#[derive(Debug)]
pub struct Talker {
    tag: String,
    logs: PathBuf,
    child: Child,
    /// They read the client's output to its end.
    watchers: Vec<JoinHandle<()>>,
    sent: Log,
    seen_out: Log,
    seen_err: Log,
}

impl Talker {
    /// Opens a session in which both ends say random things at random times. `tag` names it in the recorded command.
    ///
    /// # Errors
    /// When `ssh` does not start.
    pub fn start(client: &Client, logs: &Path, tag: &str, seed: u64) -> Result<Self> {
        let peer = bins::path("casemate-peer")?;
        let mut child = client
            .ssh(Route::Through, &["-o", "LogLevel=QUIET"])
            .arg(format!("exec {} talk {} {tag} {seed}", peer.display(), logs.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (sent, seen_out, seen_err) = (Log::default(), Log::default(), Log::default());
        if let Some(mut to) = child.stdin.take() {
            let (log, mut noise) = (Arc::clone(&sent), Noise::new(seed ^ 0x5e4d));
            std::thread::spawn(move || {
                loop {
                    let longest = if noise.below(20) == 0 { 40_000 } else { 200 };
                    let len = 1 + noise.below(longest) as usize;
                    let chunk = noise.chunk(len);
                    // Remembered before it is written: the log may exceed what was sent, never fall short of it.
                    append(&log, &chunk);
                    if to.write_all(&chunk).is_err() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(noise.below(40)));
                }
            });
        }
        let watchers = [watch(child.stdout.take(), &seen_out), watch(child.stderr.take(), &seen_err)];
        let watchers = watchers.into_iter().flatten().collect();
        Ok(Self { tag: tag.to_owned(), logs: logs.to_owned(), child, watchers, sent, seen_out, seen_err })
    }

    /// Tells whether the client saw anything yet.
    pub fn live(&self) -> bool {
        !copy(&self.seen_out).is_empty()
    }

    /// Waits until the client ended; it is killed after `patience`, and false comes back.
    pub fn wait(&mut self, patience: Duration) -> bool {
        let ended = wait_until(patience, || matches!(self.child.try_wait(), Ok(Some(_))));
        if !ended {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        // What the client wrote last may still be in the pipes.
        for watcher in self.watchers.drain(..) {
            let _ = watcher.join();
        }
        ended
    }

    /// What the target received, by its own log; `None` when the command never started there.
    pub fn received(&self) -> Option<Vec<u8>> {
        fs::read(self.logs.join(format!("{}.in", self.tag))).ok()
    }

    /// Tells whether anybody saw anything of this session, so that there must be a transcript of it.
    pub fn took_place(&self) -> bool {
        self.received().is_some() || !copy(&self.seen_out).is_empty()
    }

    /// Returns the transcript that carries this session's tag, and its id.
    pub fn find<'a>(&self, transcripts: &'a [(String, Transcript)]) -> Option<&'a (String, Transcript)> {
        transcripts.iter().find(|(_, transcript)| transcript.says("ssh.exec", &format!(" {} ", self.tag)))
    }

    /// Compares the logs with the transcript that carries this session's tag, and returns every violation.
    ///
    /// # Errors
    /// When a log of the target cannot be read.
    pub fn judge(&self, transcripts: &[(String, Transcript)]) -> Result<Vec<String>> {
        let mut findings = Vec::new();
        let received = self.received();
        let (seen_out, mut seen_err) = (copy(&self.seen_out), copy(&self.seen_err));
        // The client adds a line of its own when the connection breaks, whatever its log level; it came from nobody else.
        if seen_err.ends_with(CLIENT_LAST_WORDS) {
            seen_err.truncate(seen_err.len() - CLIENT_LAST_WORDS.len());
        }
        let Some((id, transcript)) = self.find(transcripts) else {
            if received.is_some() || !seen_out.is_empty() || !seen_err.is_empty() {
                findings.push(format!("{}: took place and has no transcript", self.tag));
            }
            return Ok(findings);
        };
        let wrote = |stream: &str| {
            let path = self.logs.join(format!("{}.{stream}", self.tag));
            fs::read(&path)
                .or_else(|error| if received.is_none() { Ok(Vec::new()) } else { Err(error) })
                .context("log of the target")
        };
        let streams = [
            ("ssh.in", received.clone().unwrap_or_default(), copy(&self.sent)),
            ("ssh.out", seen_out, wrote("out")?),
            ("ssh.err", seen_err, wrote("err")?),
        ];
        for (kind, seen, wrote) in streams {
            let recorded = transcript.bytes(kind);
            if !recorded.starts_with(&seen) {
                findings.push(format!(
                    "{} {id} {kind}: forwarded and not recorded: {}",
                    self.tag,
                    differ(&seen, &recorded)
                ));
            }
            if !wrote.starts_with(&recorded) {
                findings.push(format!(
                    "{} {id} {kind}: recorded and never sent: {}",
                    self.tag,
                    differ(&recorded, &wrote)
                ));
            }
        }
        Ok(findings)
    }

    /// How many bytes receivers saw in this session, both ways.
    pub fn seen_bytes(&self) -> u64 {
        (copy(&self.seen_out).len() + copy(&self.seen_err).len() + self.received().map_or(0, |bytes| bytes.len()))
            as u64
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says where two byte strings part, for a person who looks for the reason.
pub fn differ(have: &[u8], wanted_prefix_of: &[u8]) -> String {
    let at = have.iter().zip(wanted_prefix_of).take_while(|(a, b)| a == b).count();
    format!("{} bytes against {}, equal up to {at}", have.len(), wanted_prefix_of.len())
}

fn watch(from: Option<impl Read + Send + 'static>, log: &Log) -> Option<JoinHandle<()>> {
    let mut from = from?;
    let log = Arc::clone(log);
    Some(std::thread::spawn(move || {
        let mut buffer = [0; 64 * 1024];
        while let Ok(len) = from.read(&mut buffer) {
            let Some(part) = buffer.get(..len).filter(|part| !part.is_empty()) else { break };
            append(&log, part);
        }
    }))
}

fn append(log: &Log, bytes: &[u8]) {
    if let Ok(mut log) = log.lock() {
        log.extend_from_slice(bytes);
    }
}

fn copy(log: &Log) -> Vec<u8> {
    log.lock().map(|log| log.clone()).unwrap_or_default()
}
