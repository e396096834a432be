//! `enforce`: brings a bucket in line with what the node logs order. Sets legal holds that stand, lifts those that two officers
//! lifted, deletes sessions that were retired.
//!
//! The bastion can do none of this: its credentials neither delete nor touch a hold. Whoever keeps the bucket does it, from
//! another machine, with credentials of their own, by orders that this program checks like any other evidence.

use std::io::Write;
use std::path::Path;

use casemate_recorder::transcript::block::SessionId;

use crate::ReplayError;
use crate::json::Object;
use crate::vault::{S3Vault, Vault};
use crate::verify::{self, Orders};
use casemate_screen::safe::visible;

/// Lines about single objects stop here; the count goes on.
const LINES_MAX: usize = 100;

/// What is done to a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Hold,
    Lift,
    Delete,
}

impl Deed {
    fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Lift => "lift",
            Self::Delete => "delete",
        }
    }
}

/// One thing that is to be done.
#[derive(Debug)]
struct Task {
    deed: Deed,
    session: SessionId,
    key: String,
    version: Box<str>,
}

/// What came of a task.
#[derive(Debug)]
enum Came {
    /// The bucket is that way already.
    Nothing,
    /// It is to be done.
    Due,
    Done,
    Refused(String),
}

/// Says what is to be done, and does it where `apply` is true. Returns the exit status: 0 nothing is left to do, 1 a log is altered,
/// 4 the orders cannot be judged, 3 something is left to do.
///
/// # Errors
/// The vault is no bucket, or it cannot be read.
pub(crate) fn run(
    vault: &Vault,
    options: &verify::Options,
    apply: bool,
    out: &mut dyn Write,
) -> Result<u8, ReplayError> {
    let Some(bucket) = vault.bucket() else {
        let what = "a directory is brought in line by its node: ssh AUDITOR@BASTION retire --delete";
        return Err(ReplayError::Usage(what.to_owned()));
    };
    let orders = verify::orders(vault, options)?;
    let mut lines = Lines { out, json: options.json };
    for why in &orders.undecided {
        lines.say("undecided", &format!("nothing is done: {why}"))?;
    }
    if !orders.undecided.is_empty() {
        return Ok(4);
    }
    for what in &orders.altered {
        lines.say("altered", what)?;
    }
    let sound = orders.altered.is_empty();
    if !sound {
        lines.say("note", "nothing is lifted or deleted while a log is altered")?;
    }
    for (session, why) in &orders.kept {
        lines.say("note", &format!("session {session} was retired and stays: {why}"))?;
    }
    // What is deleted may have been held until a moment ago.
    let (deletes, holds): (Vec<Task>, Vec<Task>) =
        tasks(bucket, &orders, sound).into_iter().partition(|task| task.deed == Deed::Delete);
    let mut came = vault.each(&holds, |task| work(bucket, task, apply));
    came.extend(vault.each(&deletes, |task| work(bucket, task, apply)));
    let mut left = 0;
    let mut counts = [0; 3];
    for (task, came) in holds.iter().chain(&deletes).zip(came) {
        let (word, why) = match came? {
            Came::Nothing => continue,
            Came::Due => ("due", None),
            Came::Done => ("done", None),
            Came::Refused(why) => ("refused", Some(why)),
        };
        left += usize::from(word != "done");
        if let Some(count) = counts.get_mut(task.deed as usize) {
            *count += 1;
            if *count <= LINES_MAX {
                lines.task(task, word, why.as_deref())?;
            }
        }
    }
    let [hold, lift, delete] = counts;
    lines.sum(&[("hold", hold), ("lift", lift), ("delete", delete), ("left", left)], apply)?;
    Ok(match (sound, left) {
        (false, _) => 1,
        (true, 0) => 0,
        (true, _) => 3,
    })
}

/// Lists what the orders mean for single versions.
fn tasks(bucket: &S3Vault, orders: &Orders, sound: bool) -> Vec<Task> {
    let mut tasks = Vec::new();
    let mut add = |deed: Deed, session: &SessionId| {
        for (key, version, marker) in bucket.all_of(*session) {
            // A marker holds nothing that could be held, and is no evidence once its session may go.
            if deed == Deed::Delete || !marker {
                tasks.push(Task { deed, session: *session, key, version });
            }
        }
    };
    orders.hold.iter().for_each(|session| add(Deed::Hold, session));
    if sound {
        orders.release.iter().for_each(|session| add(Deed::Lift, session));
        orders.delete.iter().for_each(|session| add(Deed::Delete, session));
    }
    tasks
}

fn work(bucket: &S3Vault, task: &Task, apply: bool) -> Result<Came, ReplayError> {
    let Task { deed, key, version, .. } = task;
    let on = *deed == Deed::Hold;
    if *deed != Deed::Delete {
        match bucket.is_held(key, version)? {
            Some(held) if held != on => {}
            _ => return Ok(Came::Nothing),
        }
    }
    if !apply {
        return Ok(Came::Due);
    }
    let done = match deed {
        Deed::Hold | Deed::Lift => bucket.hold(key, version, on),
        Deed::Delete => bucket.delete(key, version),
    };
    match done {
        Ok(()) => Ok(Came::Done),
        // The others may do better: a lock that stands longer, or a right that is missing for this deed.
        Err(ReplayError::Storage(why)) => Ok(Came::Refused(why)),
        Err(error) => Err(error),
    }
}

/// Where it is told.
struct Lines<'a> {
    out: &'a mut dyn Write,
    json: bool,
}

impl Lines<'_> {
    fn line(&mut self, line: &str) -> Result<(), ReplayError> {
        writeln!(self.out, "{line}").map_err(ReplayError::io("write to", Path::new("the output")))
    }

    fn say(&mut self, kind: &str, what: &str) -> Result<(), ReplayError> {
        let text = match self.json {
            true => Object::new().with(kind, visible(what)).finish(),
            false => visible(what),
        };
        self.line(&text)
    }

    fn task(&mut self, task: &Task, came: &str, why: Option<&str>) -> Result<(), ReplayError> {
        let text = match self.json {
            true => Object::new()
                .with("deed", task.deed.name())
                .with("session", task.session.to_string())
                .with("key", visible(&task.key))
                .with("version", visible(&task.version))
                .with("came", came)
                .with("why", why.map(visible))
                .finish(),
            false => {
                let why = why.map(|why| format!(": {why}")).unwrap_or_default();
                let (deed, key, version) = (task.deed.name(), &task.key, &task.version);
                visible(&format!("{came:<8} {deed:<6} {key} version {version}{why}"))
            }
        };
        self.line(&text)
    }

    fn sum(&mut self, counts: &[(&str, usize)], apply: bool) -> Result<(), ReplayError> {
        let text = match self.json {
            true => counts.iter().fold(Object::new(), |sum, (name, count)| sum.with(name, *count)).finish(),
            false => {
                let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
                let how = if apply { "" } else { "; nothing was done: --apply does it" };
                format!("versions: {}{how}", counts.join(", "))
            }
        };
        self.line(&text)?;
        self.out.flush().map_err(ReplayError::io("write to", Path::new("the output")))
    }
}
