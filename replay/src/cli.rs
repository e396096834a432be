//! The command line: verbs and flags in, an exit status out.

use std::collections::{BTreeSet, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use casemate_recorder::transcript::block::SessionId;
use casemate_recorder::transcript::wrap::Identity;
use clap::{Parser, Subcommand};
use zeroize::Zeroizing;

use crate::export::{self, Format};
use crate::play::{self, Goto, parse_goto, parse_offset, parse_speed};
use crate::reader::{End, Transcript};
use crate::tail::spooled;
use crate::time::{now_us, parse_time};
use crate::vault::Vault;
use crate::verify::{self, Options, textfile};
use crate::{ReplayError, enforce, ls, report, restore, show};
use casemate_screen::safe::visible;

/// Exit status of `verify` for a person who asks for help.
const VERIFY_EXITS: &str = "Exit status, the first that applies: 2 usage, or something could not be read or reached, \
1 evidence altered or missing, 4 cannot decide (no trust file or one that its officers did not sign, no anchor or one that is too \
old), 3 exceptions to explain, 0 clean.";

/// Exit status of `enforce`.
const ENFORCE_EXITS: &str = "Exit status, the first that applies: 2 usage, or something could not be read or reached, \
1 a log is altered (holds are set all the same), 4 the orders cannot be judged, 3 something is left to do, 0 the bucket is as the \
logs order.";

/// Exit status of `restore-test`.
const RESTORE_EXITS: &str = "Exit status, the first that applies: 2 usage, or something could not be read or reached, \
1 a session did not come back or evidence is altered, 4 cannot decide (as for verify), 0 all of the sample came back.";

/// How a bucket is reached.
const BUCKETS: &str = "A bucket is reached as other tools reach it: AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, \
AWS_REGION (us-east-1 without it), AWS_ENDPOINT_URL for a server that is not Amazon's, AWS_CA_BUNDLE for its certificate.";

#[derive(Debug, Parser)]
#[command(name = "casemate-replay", version, about = "Reads and verifies recordings, in a directory or a bucket", after_help = BUCKETS)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    /// For verify, enforce and restore-test: whose signatures count, with the officers' own in FILE.sig. Without it they cannot
    /// decide.
    #[arg(long, global = true, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// For ls, show, play, export, verify and restore-test: an age identity that opens recordings, as `casemate init` or age-keygen
    /// made it; may be given several times.
    #[arg(long, global = true, value_name = "FILE")]
    identity: Vec<PathBuf>,
    /// Write JSON, one object a line.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List sessions by their start.
    Ls {
        /// The vault: a directory, or s3://BUCKET/PREFIX.
        source: String,
    },
    /// Show what happened in a session: commands, refusals, results.
    Show {
        /// The vault: a directory, or s3://BUCKET/PREFIX.
        source: String,
        /// A session's id, or the beginning of it.
        session: String,
    },
    /// Show a session as it looked. Keys: space pauses, . steps, + and - change the speed, arrows leap 10 s, q quits.
    Play {
        /// The vault: a directory, or s3://BUCKET/PREFIX.
        source: String,
        /// A session's id, or the beginning of it.
        session: String,
        /// As a multiple of the recorded speed.
        #[arg(short, long, value_name = "FACTOR", default_value = "1", value_parser = parse_speed)]
        speed: f64,
        /// Begin at this moment: seconds, m:s, h:m:s, or `end`.
        #[arg(short, long, value_name = "TIME", value_parser = parse_goto)]
        goto: Option<Goto>,
        /// Wait no longer than this where nothing happens, in seconds.
        #[arg(short, long, value_name = "TIME", value_parser = parse_offset)]
        idle_limit: Option<u64>,
        /// Begin at the newest and go on while it is recorded.
        #[arg(short, long)]
        follow: bool,
        /// On the node: also read live segments from here, `spool` in its state_dir. They are at most 10 s behind.
        #[arg(long, value_name = "DIR")]
        spool: Option<PathBuf>,
        /// This channel, instead of the first with a terminal.
        #[arg(long, value_name = "NUMBER")]
        channel: Option<u32>,
    },
    /// Write a session in a form that other programs read.
    Export {
        /// The vault: a directory, or s3://BUCKET/PREFIX.
        source: String,
        /// A session's id, or the beginning of it.
        session: String,
        /// The form.
        #[arg(long, value_enum)]
        format: Format,
        /// Where to; standard output without it.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Only this channel (text and asciicast).
        #[arg(long, value_name = "NUMBER")]
        channel: Option<u32>,
    },
    /// Check that everything is here and unchanged.
    #[command(after_help = VERIFY_EXITS)]
    Verify {
        /// The vault: a directory, or s3://BUCKET/PREFIX.
        source: String,
        /// A checkpoint that was kept outside the vault.
        #[arg(long, value_name = "FILE")]
        checkpoint: Vec<PathBuf>,
        /// A slip that a user kept: the whole line.
        #[arg(long, value_name = "LINE")]
        slip: Vec<String>,
        /// Remembers the newest accepted checkpoint of each node from run to run, and which sessions of a bucket were in order.
        #[arg(long, value_name = "FILE")]
        state: Option<PathBuf>,
        /// Do not read sessions again that were in order by --state, where the bucket still has the same versions of them; logs,
        /// versions, delete markers and locks are looked at all the same.
        #[arg(long, requires = "state", conflicts_with = "sha256")]
        incremental: bool,
        /// Writes what came of it where Prometheus' node exporter reads it: a name that ends in .prom in the directory of its
        /// textfile collector.
        #[arg(long, value_name = "FILE")]
        textfile: Option<PathBuf>,
        /// Also compute the SHA-256 of every segment. The links fix every byte without it.
        #[arg(long)]
        sha256: bool,
        /// The time of the verdict, RFC 3339 or microseconds since 1970; the present without it.
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        at: Option<u64>,
        /// Look only at sessions that were opened at this time or later. Logs are read whole, and anchors before are not asked for.
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        since: Option<u64>,
        /// Look only at sessions that were opened before this time.
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        until: Option<u64>,
    },
    /// Bring a bucket in line with the logs: set and lift legal holds, delete what was retired. Needs credentials that may.
    #[command(after_help = ENFORCE_EXITS)]
    Enforce {
        /// The bucket: s3://BUCKET/PREFIX.
        source: String,
        /// Do it. Without it, only say what is to be done.
        #[arg(long)]
        apply: bool,
    },
    /// Fetch, verify, open and replay some sessions, drawn at random from what the logs say there is.
    #[command(after_help = RESTORE_EXITS)]
    RestoreTest {
        /// The vault: a directory, or s3://BUCKET/PREFIX.
        source: String,
        /// How many sessions.
        #[arg(long, value_name = "NUMBER", default_value = "5", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        sample: u32,
        /// Where to write the result, to be signed.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Say what the vault costs those who keep it.
    Report {
        /// The vault: a directory, or s3://BUCKET/PREFIX.
        source: String,
        /// What its retention costs a month in S3, and what 1 TB of it does: in STANDARD, STANDARD_IA and GLACIER_IR, or in the
        /// storage classes that --prices names.
        #[arg(long, required = true)]
        cost: bool,
        /// So many sessions a day, instead of as many as were seen.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        per_day: Option<u32>,
        /// Prices of your own, of the storage classes that you want, in the form of replay/prices.toml.
        #[arg(long, value_name = "FILE")]
        prices: Option<PathBuf>,
    },
}

/// Runs the program on its arguments.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; there is nobody else to tell.
            let _ = writeln!(io::stderr(), "casemate-replay: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(arguments: Arguments) -> Result<u8, ReplayError> {
    let mut out = BufWriter::new(io::stdout().lock());
    let Arguments { verb, trust, identity, json } = arguments;
    let identities = identities(&identity)?;
    match verb {
        Verb::Ls { source } => ls::run(&Vault::open(&source)?, &identities, json, &mut out).map(|()| 0),
        Verb::Show { source, session } => {
            let vault = Vault::open(&source)?;
            let transcript = open(&vault, &session, &identities)?;
            show::run(&transcript, json, &mut out).map(|()| 0)
        }
        Verb::Play { source, session, speed, goto, idle_limit, follow, spool, channel } => {
            let vault = Vault::open(&source)?;
            let spool = spool.as_deref();
            if vault.bucket().is_some() && (follow || spool.is_some()) {
                let what = "a bucket gets finished segments only: what is being recorded is followed on its node, in the directory";
                return Err(ReplayError::Usage(what.to_owned()));
            }
            let session = find(&vault, spool, &session)?;
            let options = play::Options { speed, idle_limit_us: idle_limit, goto, follow, spool, channel };
            play::run(&vault, session, &identities, &options, &mut out).map(|()| 0)
        }
        Verb::Export { source, session, format, output, channel } => {
            let vault = Vault::open(&source)?;
            let transcript = open(&vault, &session, &identities)?;
            match output {
                Some(path) => export_to(&path, |out| export::write(&transcript, format, channel, out)),
                None => export::write(&transcript, format, channel, &mut out),
            }
            .map(|()| 0)
        }
        Verb::Verify { source, checkpoint, slip, state, incremental, textfile, sha256, at, since, until } => {
            let now_us = at.unwrap_or_else(now_us);
            let (checkpoints, slips) = (checkpoint, slip);
            let options = Options {
                checkpoints,
                slips,
                state,
                incremental,
                trust,
                textfile,
                identities,
                sha256,
                json,
                now_us,
                since_us: since,
                until_us: until,
                only: None,
            };
            let outcome = verify::run_at(&source, &options, &mut out);
            match (&outcome, &options.textfile) {
                // Otherwise the figures would go on to show the last run that came to a verdict.
                (Err(error), Some(file)) if !error.is_broken_pipe() => textfile::write_failed(file, error.exit_code())?,
                _ => {}
            }
            outcome
        }
        Verb::Enforce { source, apply } => {
            let only = Some(HashSet::new());
            let options = Options { trust, json, now_us: now_us(), only, ..Options::default() };
            enforce::run(&Vault::open(&source)?, &options, apply, &mut out)
        }
        Verb::RestoreTest { source, sample, output } => {
            let judged_by = Options { trust, identities, json, now_us: now_us(), ..Options::default() };
            let options = restore::Options { sample: sample as usize, output };
            restore::run(&Vault::open(&source)?, &source, &options, judged_by, &mut out)
        }
        // There is one report so far; the flag names it.
        Verb::Report { source, cost: _, per_day, prices } => {
            let options = report::Options { per_day: per_day.map(f64::from), prices, json };
            report::cost(&Vault::open(&source)?, &options, &mut out).map(|()| 0)
        }
    }
}

/// Reads identity files.
fn identities(files: &[PathBuf]) -> Result<Vec<Identity>, ReplayError> {
    let mut found = Vec::new();
    for file in files {
        let text = Zeroizing::new(std::fs::read_to_string(file).map_err(ReplayError::io("read", file))?);
        let bad = |error| ReplayError::Usage(format!("{}: {error}", visible(&file.to_string_lossy())));
        found.extend(Identity::parse_file(&text).map_err(bad)?);
    }
    Ok(found)
}

/// Opens the transcript of the session that `wanted` names.
fn open(vault: &Vault, wanted: &str, identities: &[Identity]) -> Result<Transcript, ReplayError> {
    let transcript = Transcript::open(vault, find(vault, None, wanted)?, identities)?;
    if transcript.end == End::Open {
        // Somebody who pipes the export should still learn that it is not all.
        let _ = writeln!(
            io::stderr(),
            "casemate-replay: session {} is not finished here: this is what its first {} segments hold",
            transcript.session(),
            transcript.segments
        );
    }
    Ok(transcript)
}

/// Finds the session that `wanted` names in the vault, or among those whose first segment is still in the spool.
fn find(vault: &Vault, spool: Option<&Path>, wanted: &str) -> Result<SessionId, ReplayError> {
    let mut sessions: BTreeSet<SessionId> = vault.sessions()?.sessions.into_keys().collect();
    sessions.extend(spool.map(spooled).transpose()?.into_iter().flatten());
    let lower = wanted.to_ascii_lowercase();
    let mut found = sessions.iter().filter(|session| session.to_string().starts_with(&lower));
    match (found.next(), found.next()) {
        (Some(session), None) => Ok(*session),
        (Some(one), Some(other)) => Err(ReplayError::Usage(format!(
            "several sessions begin with {:?}, such as {one} and {other}: give more of the id",
            visible(wanted)
        ))),
        (None, _) => Err(ReplayError::Usage(format!(
            "no session here begins with {:?}: `ls` lists those of the vault; `play --spool DIR` finds live ones on their node",
            visible(wanted)
        ))),
    }
}

/// Writes a file that only its owner can read, and that bears its name only when it is whole.
fn export_to(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<(), ReplayError>) -> Result<(), ReplayError> {
    let special = std::fs::symlink_metadata(path).is_ok_and(|found| !found.is_file());
    let mut part = path.file_name().unwrap_or_default().to_owned();
    part.push(".part");
    let target = if special { path.to_owned() } else { path.with_file_name(part) };
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&target);
    let file: File = opened.map_err(ReplayError::io("create", &target))?;
    let mut out = BufWriter::new(file);
    let written = write(&mut out).and_then(|()| out.flush().map_err(ReplayError::io("write", &target)));
    if special {
        return written;
    }
    match written {
        Ok(()) => std::fs::rename(&target, path).map_err(ReplayError::io("rename into place", path)),
        Err(error) => {
            // The half export is of no use; if it cannot be removed, its name says what it is.
            let _ = std::fs::remove_file(&target);
            Err(error)
        }
    }
}
