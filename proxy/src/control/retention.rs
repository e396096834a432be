//! `retire`: sessions that need not be kept any longer.

use std::fmt::Write as _;

use casemate_certs::trust::{show_count, show_time};
use casemate_recorder::transcript::event::{Event, act};
use casemate_recorder::{Expired, Reclaimed};
use serde_json::json;

use super::statement::{board, holds};
use super::{Caller, Reply, at_leisure, auditors_only};
use crate::alerts::Kind;
use crate::server::Door;

/// Sessions that one commit retires.
const BATCH: usize = 256;

/// Lines that a person is shown; the sum counts all.
const LINES_MAX: usize = 50;

/// Lists what may go; with `delete`, logs that it goes, and removes what is here of it.
pub(super) async fn retire(door: &Door, caller: &Caller<'_>, delete: bool, json: bool) -> Reply {
    work(door, caller, delete, json).await.unwrap_or_else(|refused| refused)
}

async fn work(door: &Door, caller: &Caller<'_>, delete: bool, json: bool) -> Result<Reply, Reply> {
    auditors_only(door, caller, "retire")?;
    let _alone = door.retention().await;
    let recorder = door.recorder();
    let until_us = recorder.proven_us().map_err(|undated| Reply::refused(undated.to_string()))?;
    let overdue = at_leisure({
        let recorder = recorder.clone();
        move || recorder.overdue(until_us)
    });
    let mut overdue = overdue.await?;
    let board = board(door).ok();
    let holds = holds(board.as_ref(), overdue.holds());
    let (held, over): (Vec<Expired>, Vec<Expired>) =
        overdue.sessions().partition(|expired| holds.stands(expired.session));
    let mut sum = Sum { until_us, held: held.len(), not_yet: overdue.not_yet(), gone: None };
    if delete {
        for batch in over.chunks(BATCH) {
            let batch: Vec<_> = batch.iter().map(|expired| expired.session).collect();
            let done = recorder.retire(&mut overdue, &batch).await;
            done.map_err(|frozen| Reply::refused(frozen.client_text()))?;
        }
        if !over.is_empty() {
            tell(door, caller, &over, until_us);
        }
        // Also what an earlier attempt logged and did not get to.
        sum.gone = Some(at_leisure(move || recorder.erase_retired(&overdue)).await?);
    }
    Ok(Reply::done(if json { sum.json(&over) } else { sum.text(&over) }))
}

/// Tells who had it done.
fn tell(door: &Door, caller: &Caller<'_>, over: &[Expired], until_us: u64) {
    let person = caller.session.identity().person();
    let text = format!(
        "{person} retired {} whose time was over by {}",
        show_count(over.len(), "session"),
        show_time(until_us)
    );
    door.note(
        Event::map(act::TYPE, 0).with(act::WHAT, "retire").with(act::PERSON, person).with(act::TEXT, text.as_str()),
    );
    tracing::warn!(sessions = over.len(), by = person, "sessions retired");
    caller.session.alert(Kind::SessionsRetired, text);
}

/// What is said behind the sessions.
struct Sum {
    until_us: u64,
    held: usize,
    not_yet: usize,
    /// What was removed here, where something was to be.
    gone: Option<Reclaimed>,
}

impl Sum {
    fn text(&self, over: &[Expired]) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail, here and below.
        for expired in over.iter().take(LINES_MAX) {
            let (from, until) = (show_time(expired.opened_us), show_time(expired.retain_until_us));
            let _ = writeln!(text, "{}  opened {from}, to be kept until {until}", expired.session);
        }
        if over.len() > LINES_MAX {
            let _ = writeln!(text, "and {} more", over.len() - LINES_MAX);
        }
        let bytes: u64 = over.iter().map(|expired| expired.bytes).sum();
        let (sessions, until) = (show_count(over.len(), "session"), show_time(self.until_us));
        let _ = match &self.gone {
            None => writeln!(text, "{sessions} of {bytes} bytes may go, by {until}: retire --delete"),
            Some(gone) => writeln!(
                text,
                "retired {sessions} of {bytes} bytes, by {until}, and removed {} here. From buckets, whoever keeps \
                 them removes them with\n  casemate-replay enforce s3://BUCKET --trust FILE --apply",
                show_count(gone.segments, "segment")
            ),
        };
        if self.held > 0 {
            let _ = writeln!(text, "{} more must be kept by order", self.held);
        }
        if self.not_yet > 0 {
            let _ = writeln!(text, "{} more are live, needed by a start, or not in every vault yet", self.not_yet);
        }
        text
    }

    fn json(&self, over: &[Expired]) -> String {
        let mut text = String::new();
        for expired in over {
            let line = json!({
                "session": expired.session.to_string(),
                "start": show_time(expired.opened_us),
                "retain_until": show_time(expired.retain_until_us),
                "segments": expired.segments,
                "bytes": expired.bytes,
            });
            let _ = writeln!(text, "{line}");
        }
        let last = json!({
            "until": show_time(self.until_us),
            "sessions": over.len(),
            "held": self.held,
            "not_yet": self.not_yet,
            "retired": self.gone.is_some(),
            "removed_segments": self.gone.map(|gone| gone.segments),
            "removed_bytes": self.gone.map(|gone| gone.bytes),
        });
        let _ = writeln!(text, "{last}");
        text
    }
}
