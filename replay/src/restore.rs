//! `restore-test`: takes a random sample of what a vault should hold, fetches, verifies, opens and replays it, and writes down what
//! came of it so that whoever did it can sign that (FORMAT.md §9).
//!
//! Backups that nobody restores are hopes. The sample is drawn from what the logs say there is, not from what is there, so that a
//! session that is missing can be drawn too.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use casemate_certs::trust::{RESTORE_NAMESPACE, Restored};
use casemate_recorder::transcript::block::SessionId;
use casemate_recorder::transcript::wrap::Identity;

use crate::ReplayError;
use crate::export::{self, Format};
use crate::json::Object;
use crate::play;
use crate::reader::Transcript;
use crate::time::rfc3339;
use crate::vault::Vault;
use crate::verify::{self, Sample, Sampled, logged_sessions, sample};
use casemate_screen::safe::visible;

/// What is asked besides what `verify` is asked.
#[derive(Debug)]
pub(crate) struct Options {
    /// How many sessions are drawn.
    pub(crate) sample: usize,
    /// Where the result is written, to be signed.
    pub(crate) output: Option<PathBuf>,
}

/// Does the test and returns the exit status: 0 everything came back, 1 something did not, 4 nothing can be decided.
///
/// # Errors
/// There is nothing to draw from, no identity, or the vault cannot be read.
pub(crate) fn run(
    vault: &Vault,
    source: &str,
    options: &Options,
    judged_by: verify::Options,
    out: &mut dyn Write,
) -> Result<u8, ReplayError> {
    if judged_by.identities.is_empty() {
        let what = "a restore test opens what it fetches: name the auditor's identity with --identity";
        return Err(ReplayError::Usage(what.to_owned()));
    }
    let (logged, _) = logged_sessions(vault)?;
    let mut there: Vec<SessionId> = logged
        .iter()
        .filter(|logged| logged.end_us.is_some() && !logged.retired)
        .map(|logged| logged.session)
        .collect();
    let all = there.len();
    if all == 0 {
        return Err(ReplayError::Usage("no session has ended here: there is nothing to restore".to_owned()));
    }
    draw(&mut there, options.sample).map_err(ReplayError::io("draw a sample with", Path::new("getrandom")))?;
    let began = Instant::now();
    let json = judged_by.json;
    let verify = verify::Options { only: Some(there.iter().copied().collect::<HashSet<_>>()), ..judged_by };
    let found = sample(vault, &verify)?;
    let outcomes: Vec<(&Sampled, Result<u64, String>)> =
        found.sessions.iter().map(|sampled| (sampled, try_one(vault, sampled, &verify.identities))).collect();
    let restored = outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).count() as u64;
    let first = Restored { time_us: verify.now_us, restored, tried: there.len() as u64 };
    let mut text = format!("{first}\n");
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(text, "source {}", visible(source));
    let _ = writeln!(
        text,
        "drawn from {all} sessions that the logs say have ended; took {} ms",
        began.elapsed().as_millis()
    );
    let as_of = found.as_of_us.map_or_else(|| "nothing".to_owned(), rfc3339);
    let _ = writeln!(text, "anchored as of {as_of}");
    for (sampled, outcome) in &outcomes {
        let _ = match outcome {
            Ok(events) => writeln!(
                text,
                "session {} restored: {}, {} bytes fetched, {events} events replayed",
                sampled.session, sampled.status, sampled.bytes
            ),
            Err(why) => writeln!(text, "session {} failed: {}", sampled.session, visible(why)),
        };
    }
    tell_doubts(&mut text, &found);
    if let Some(path) = &options.output {
        std::fs::write(path, &text).map_err(ReplayError::io("write to", path))?;
    }
    let shown = if json { json_text(&first, all, &outcomes, &found) } else { text };
    let written = out.write_all(shown.as_bytes()).and_then(|()| out.flush());
    written.map_err(ReplayError::io("write to", Path::new("the output")))?;
    if let Some(path) = &options.output {
        let path = visible(&path.to_string_lossy());
        // Standard error may be closed; there is nobody else to tell.
        let _ = writeln!(
            io::stderr(),
            "casemate-replay: sign and hand it in:\n  ssh-keygen -Y sign -n {RESTORE_NAMESPACE} -f ~/.ssh/id_ed25519 {path}\n  \
             cat {path} {path}.sig | ssh YOU@BASTION submit"
        );
    }
    Ok(match (first.is_whole() && found.altered.is_empty(), found.undecided.is_empty()) {
        (false, _) => 1,
        (true, false) => 4,
        (true, true) => 0,
    })
}

fn tell_doubts(text: &mut String, found: &Sample) {
    for what in &found.altered {
        let _ = writeln!(text, "altered: {}", visible(what));
    }
    for why in &found.undecided {
        let _ = writeln!(text, "undecided: {}", visible(why));
    }
}

/// Opens a session as a reviewer does and replays all of it: every event is read, and what was shown is drawn. Returns how many
/// events there are.
fn try_one(vault: &Vault, sampled: &Sampled, identities: &[Identity]) -> Result<u64, String> {
    if !sampled.whole {
        let why = sampled.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        return Err(format!("{}{why}", sampled.status));
    }
    let replayed = || {
        let transcript = Transcript::open(vault, sampled.session, identities)?;
        export::write(&transcript, Format::Text, None, &mut io::sink())?;
        play::rehearse(&transcript)
    };
    replayed().map_err(|error| error.to_string())
}

fn json_text(first: &Restored, all: usize, outcomes: &[(&Sampled, Result<u64, String>)], found: &Sample) -> String {
    let mut text = String::new();
    for (sampled, outcome) in outcomes {
        let line = Object::new()
            .with("session", sampled.session.to_string())
            .with("restored", outcome.is_ok())
            .with("status", sampled.status)
            .with("bytes", sampled.bytes)
            .with("events", outcome.as_ref().ok())
            .with("why", outcome.as_ref().err().map(|why| visible(why)))
            .finish();
        let _ = writeln!(text, "{line}");
    }
    let last = Object::new()
        .with("time", rfc3339(first.time_us))
        .with("restored", first.restored)
        .with("tried", first.tried)
        .with("of", all)
        .with("as_of", found.as_of_us.map(rfc3339))
        .with("altered_findings", &found.altered)
        .with("undecided_because", &found.undecided)
        .finish();
    let _ = writeln!(text, "{last}");
    text
}

/// Keeps `count` of them, each with the same chance.
fn draw(sessions: &mut Vec<SessionId>, count: usize) -> io::Result<()> {
    let count = count.min(sessions.len());
    for at in 0..count {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes)?;
        // The bias of a remainder of 64 bits is far below anything that a sample shows.
        let other = at + (u64::from_le_bytes(bytes) % (sessions.len() - at) as u64) as usize;
        sessions.swap(at, other);
    }
    sessions.truncate(count);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_nobody_twice_and_everybody_is_drawn_sometime() {
        let all: Vec<SessionId> = (0..20).map(|number| SessionId([number; 16])).collect();
        let mut drawn = HashSet::new();
        for _ in 0..200 {
            let mut some = all.clone();
            draw(&mut some, 5).unwrap();
            assert_eq!(some.iter().collect::<HashSet<_>>().len(), 5);
            drawn.extend(some);
        }
        // Each is missed 200 times in a row with a chance of 0.75^200.
        assert_eq!(drawn.len(), 20);
        let mut few = all[..3].to_vec();
        draw(&mut few, 5).unwrap();
        assert_eq!(few.len(), 3);
    }
}
