//! `verify`: is everything that was recorded here, and is it what was recorded?
//!
//! For each node the log is read and the tree over it computed anew; each session that the log opened is then held
//! against it, many at a time. The verdict reaches as far as the newest checkpoint that was known outside (an anchor).

mod anchors;
mod book;
mod doubts;
mod log;
mod report;
mod session;
pub(crate) mod textfile;

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use anchors::{Anchor, NodeTrust, Signed, State, Trial};
use casemate_certs::trust::{Trust, TrustFile};
use casemate_recorder::transcript::wrap::Identity;
use doubts::{doubts, retention};
use log::{NodeFacts, SILENCE_US, check_node};
use session::{Depth, Facts, Outcome, Plan, check_segment, conclude};

use crate::ReplayError;
use crate::vault::{Listing, Vault};

/// A segment may be in the log and not yet in the vault for this long, in microseconds.
const PENDING_US: u64 = 3600 * 1_000_000;

/// A live vault lags behind its node by less than this.
const LAG: std::time::Duration = std::time::Duration::from_millis(1500);

/// Segments that wait for a worker; more would only hold memory.
const QUEUE_LEN: usize = 256;

/// What `verify` is asked.
#[derive(Debug, Default)]
pub struct Options {
    /// Checkpoints that the auditor kept.
    pub checkpoints: Vec<PathBuf>,
    /// Slips, as the whole line.
    pub slips: Vec<String>,
    /// Where the newest accepted checkpoints are remembered from run to run.
    pub state: Option<PathBuf>,
    /// The trust file.
    pub trust: Option<PathBuf>,
    /// Where Prometheus' node exporter finds what came of it.
    pub textfile: Option<PathBuf>,
    /// What must open every session; where given, each event is decrypted and read as well.
    pub identities: Vec<Identity>,
    /// Whether the SHA-256 of every segment is computed as well.
    pub sha256: bool,
    /// Whether the report is JSON lines.
    pub json: bool,
    /// The time of the verdict, in microseconds since 1970.
    pub now_us: u64,
}

/// What is known about a session, in the order of the equation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Status {
    Clean,
    Recovered,
    Open,
    Pending,
    Retired,
    Erased,
    Unanchored,
    Missing,
    Altered,
}

impl Status {
    const ALL: [Self; 9] = [
        Self::Clean,
        Self::Recovered,
        Self::Open,
        Self::Pending,
        Self::Retired,
        Self::Erased,
        Self::Unanchored,
        Self::Missing,
        Self::Altered,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Recovered => "recovered",
            Self::Open => "open",
            Self::Pending => "pending",
            Self::Retired => "retired",
            Self::Erased => "erased",
            Self::Unanchored => "unanchored",
            Self::Missing => "missing",
            Self::Altered => "altered",
        }
    }
}

/// What is said about one session.
#[derive(Debug)]
struct Judged {
    facts: Facts,
    status: Status,
    /// Why it is not clean.
    reason: Option<String>,
    /// The time in which something may have gone missing unseen, in microseconds.
    exposure_us: Option<u64>,
    /// Whether it needs an explanation: exit status 3.
    exception: bool,
    /// Whether an anchor covers what the log says of it last.
    anchored: bool,
}

/// What was opened, by whose keys.
#[derive(Debug)]
struct Opened {
    /// The public halves of the identities given, with the names that the trust file has for them.
    readers: Vec<(String, Option<String>)>,
    trial: Trial,
}

impl Opened {
    fn by(identities: &[Identity], trust: Option<&Trust>, sessions: &[Judged], at_us: u64) -> Option<Self> {
        let name = |key: &str| {
            let mut recipients = trust.into_iter().flat_map(|trust| &trust.recipients);
            recipients.find(|recipient| recipient.key.to_string() == key).map(|recipient| recipient.name.clone())
        };
        let keys = identities.iter().map(|identity| identity.recipient().to_string());
        let readers: Vec<_> = keys.map(|key| (key.clone(), name(&key))).collect();
        let here = || sessions.iter().filter(|judged| judged.facts.blocks > 0);
        let opened = here().filter(|judged| judged.facts.altered.is_none()).count();
        let trial = Trial { at_us, sessions: opened, of: here().count() };
        (!readers.is_empty()).then_some(Self { readers, trial })
    }

    /// Why it does not show that those can read the recordings who should.
    fn doubts(&self, trust: Option<&Trust>) -> Vec<String> {
        // A trust file that names nobody leaves nothing to hold them against.
        if trust.is_none_or(|trust| trust.recipients.is_empty()) {
            return Vec::new();
        }
        let strangers = self.readers.iter().filter(|(_, name)| name.is_none());
        let what = "is none of the recipients that the trust file lists: what it opens does not show that they can";
        strangers.map(|(key, _)| format!("the identity of {key} {what}")).collect()
    }
}

/// Everything that a report is made of.
#[derive(Debug)]
struct Findings {
    nodes: Vec<NodeFacts>,
    sessions: Vec<Judged>,
    /// Evidence altered or missing that belongs to no node.
    altered: Vec<String>,
    /// Reasons why nothing can be decided.
    undecided: Vec<String>,
    /// What is to be explained and is about no state of one session.
    exceptions: Vec<String>,
    remarks: Vec<String>,
    sha256: bool,
    /// What the identities opened, where some were given.
    opened: Option<Opened>,
    /// When identities were last tried: now, or what the state file knows.
    last_trial: Option<Trial>,
    exit: u8,
    /// Whether what is missing may be on its way into the vault at this moment.
    may_lag: bool,
}

/// Verifies a vault, writes the report and returns the exit status.
///
/// # Errors
/// What was asked makes no sense, or the vault cannot be read. Findings are not errors.
pub fn run(vault: &Vault, options: &Options, out: &mut dyn Write) -> Result<u8, ReplayError> {
    let trust = options.trust.as_deref().map(anchors::read_trust).transpose()?;
    let mut state = options.state.as_deref().map(State::read).transpose()?;
    let mut anchors = Vec::new();
    for path in &options.checkpoints {
        anchors.push(anchors::read_checkpoint(path)?);
    }
    for line in &options.slips {
        anchors.push(anchors::read_slip(line)?);
    }
    anchors.extend(state.iter().flat_map(State::anchors));
    for anchor in &anchors {
        let origin = &anchor.note.checkpoint.origin;
        if NodeTrust::of(trust.as_ref().map(TrustFile::trust), origin).check(&anchor.note) == Signed::Broken {
            let what = format!("{} of {origin}: the signature does not fit; was it copied whole?", anchor.kept_by);
            return Err(ReplayError::Usage(what));
        }
    }
    let mut findings = examine(vault, trust.as_ref(), &anchors, options)?;
    if findings.may_lag {
        // A slip is older than the moment in which a live node puts its checkpoint into the vault: look once more.
        std::thread::sleep(LAG);
        findings = examine(vault, trust.as_ref(), &anchors, options)?;
    }
    let before = state.as_ref().and_then(|state| state.opened);
    findings.last_trial = findings.opened.as_ref().map(|opened| opened.trial).or(before);
    // What a file that should be signed and is not says about keys is not to be remembered.
    let vouched = trust.as_ref().is_some_and(|file| file.board().is_none() || file.believe(options.now_us).is_ok());
    if let Some(state) = &mut state
        && vouched
        && findings.exit != 1
    {
        let newest = findings.nodes.iter().filter(|node| node.listed).filter_map(|node| node.newest.as_ref());
        newest.for_each(|note| state.advance(note));
        state.opened = findings.last_trial;
        state.write()?;
    }
    if let Some(file) = &options.textfile {
        textfile::write(file, &findings)?;
    }
    report::write(&findings, trust.as_ref(), options.json, out)?;
    Ok(findings.exit)
}

fn examine(
    vault: &Vault,
    trust: Option<&TrustFile>,
    anchors: &[Anchor],
    options: &Options,
) -> Result<Findings, ReplayError> {
    let depth = Depth { sha256: options.sha256, identities: options.identities.clone() };
    let keys = trust.map(TrustFile::trust);
    // Segments first, logs after: in a live vault whatever is listed here is in the log by the time it is read.
    let listing = vault.sessions()?;
    let (names, strays) = vault.nodes()?;
    let mut altered = Vec::new();
    let mut remarks = Vec::new();
    for stray in strays.iter().chain(&listing.strays) {
        let finding = format!("{}: {}", stray.path, stray.what);
        if stray.poses { altered.push(finding) } else { remarks.push(finding) }
    }
    let (nodes, facts) = check_all(vault, keys, anchors, &listing, &names, &depth)?;
    for anchor in anchors {
        let origin = &anchor.note.checkpoint.origin;
        if !names.contains(origin) {
            altered.push(format!("the log of {origin} is missing, and a {} proves it was here", anchor.kept_by));
        }
    }
    let known: std::collections::HashSet<_> = facts.iter().map(|facts| facts.plan.open.session).collect();
    for (session, segments) in &listing.sessions {
        match (known.contains(session), segments.is_empty()) {
            (false, false) => altered.push(format!("session {session} is in the vault, and no log opens it")),
            (false, true) => remarks.push(format!("session {session}: an empty directory that no log knows")),
            _ => {}
        }
    }
    let mut sessions: Vec<Judged> = facts
        .into_iter()
        .map(|facts| {
            let node = nodes.iter().find(|node| node.name == facts.plan.node);
            judge(facts, node, options.now_us)
        })
        .collect();
    sessions.sort_by(|a, b| {
        let key = |judged: &Judged| (judged.facts.plan.node.clone(), judged.facts.plan.index);
        key(a).cmp(&key(b))
    });
    let opened = Opened::by(&options.identities, keys, &sessions, options.now_us);
    let mut undecided = doubts(trust, &nodes, &sessions, options.now_us);
    undecided.extend(opened.iter().flat_map(|opened| opened.doubts(keys)));
    let exceptions = keys.map(|trust| retention(trust, &sessions)).unwrap_or_default();
    let is_altered = !altered.is_empty()
        || nodes.iter().any(|node| !node.altered.is_empty())
        || sessions.iter().any(|judged| matches!(judged.status, Status::Altered | Status::Missing));
    let is_exception = !exceptions.is_empty() || sessions.iter().any(|judged| judged.exception);
    let exit = match (is_altered, undecided.is_empty(), is_exception) {
        (true, _, _) => 1,
        (false, false, _) => 4,
        (false, true, true) => 3,
        (false, true, false) => 0,
    };
    let fresh = nodes.iter().any(|node| options.now_us.saturating_sub(node.newest_us) <= SILENCE_US);
    let may_lag = nodes.iter().any(|node| node.behind_anchor)
        || anchors.iter().any(|anchor| !names.contains(&anchor.note.checkpoint.origin))
        || (fresh && sessions.iter().any(|judged| judged.facts.absent.is_some()));
    Ok(Findings {
        nodes,
        sessions,
        altered,
        undecided,
        exceptions,
        remarks,
        sha256: options.sha256,
        opened,
        last_trial: None,
        exit,
        may_lag,
    })
}

/// A session on its way through the workers.
struct Job {
    plan: Plan,
    outcomes: Mutex<Vec<Outcome>>,
}

/// Reads all logs and checks all sessions, on as many threads as there are processors.
fn check_all(
    vault: &Vault,
    trust: Option<&Trust>,
    anchors: &[Anchor],
    listing: &Listing,
    names: &[String],
    depth: &Depth,
) -> Result<(Vec<NodeFacts>, Vec<Facts>), ReplayError> {
    let done: Mutex<Vec<Facts>> = Mutex::default();
    let keep = |facts| done.lock().unwrap_or_else(PoisonError::into_inner).push(facts);
    let (sender, receiver) = mpsc::sync_channel::<(Arc<Job>, u32)>(QUEUE_LEN);
    let receiver = Mutex::new(receiver);
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(64);
    let nodes = std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| work(vault, &receiver, depth, &keep));
        }
        let mut nodes = Vec::new();
        let mut hand_out = |mut plan: Plan| {
            let count = plan.segment_count();
            if count == 0 {
                keep(conclude(plan, Vec::new()));
                return;
            }
            let outcomes = Mutex::new(vec![Outcome::Absent; count as usize]);
            let job = Arc::new(Job { plan, outcomes });
            // The workers live until the channel closes, which is below. The last segment takes the last handle along,
            // so that in the end one of the workers owns the job.
            for no in 1..count {
                let _ = sender.send((Arc::clone(&job), no));
            }
            let _ = sender.send((job, 0));
        };
        for name in names {
            let node_trust = NodeTrust::of(trust, name);
            match check_node(vault, name, &node_trust, anchors, listing, &mut hand_out) {
                Ok(node) => nodes.push(node),
                Err(error) => {
                    drop(sender);
                    return Err(error);
                }
            }
        }
        drop(sender);
        Ok(nodes)
    })?;
    Ok((nodes, done.into_inner().unwrap_or_else(PoisonError::into_inner)))
}

fn work(vault: &Vault, receiver: &Mutex<mpsc::Receiver<(Arc<Job>, u32)>>, depth: &Depth, keep: &impl Fn(Facts)) {
    let mut buffer = Vec::new();
    loop {
        let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((job, no)) = next else { return };
        let outcome = check_segment(vault, &job.plan, no, &mut buffer, depth);
        if let Some(slot) = job.outcomes.lock().unwrap_or_else(PoisonError::into_inner).get_mut(no as usize) {
            *slot = outcome;
        }
        // Exactly one handle, the last to go, gives up the job; by then all outcomes are in it.
        if let Some(job) = Arc::into_inner(job) {
            keep(conclude(job.plan, job.outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)));
        }
    }
}

fn judge(facts: Facts, node: Option<&NodeFacts>, now_us: u64) -> Judged {
    let plan = &facts.plan;
    let (newest_us, anchored_size, broken_below, boots) =
        node.map_or((0, 0, 0, 0), |node| (node.newest_us, node.anchored_size(), node.broken_below, node.boots));
    let since_proof = newest_us.saturating_sub(plan.proof_us);
    let pending = facts.absent.filter(|(_, logged_us)| newest_us.saturating_sub(*logged_us) <= PENDING_US);
    let last_index = plan.end.as_ref().map_or(plan.index, |end| end.index);
    let anchored = last_index < anchored_size;
    let stale = plan.boots != boots || now_us.saturating_sub(newest_us) > SILENCE_US;
    let (status, reason, exposure_us, exception) = if plan.index < broken_below {
        (Status::Altered, Some("rests on leaves that do not fit a checkpoint".to_owned()), None, false)
    } else if let Some(what) = &facts.altered {
        (Status::Altered, Some(what.clone()), None, false)
    } else if let Some(what) = &facts.unreadable {
        (Status::Missing, Some(what.clone()), None, false)
    } else if let (Some((no, _)), None) = (facts.absent, pending) {
        (Status::Missing, Some(format!("segment {no} is in the log and not in the vault")), None, false)
    } else if let Some((no, logged_us)) = pending {
        let what = format!("segment {no} is in the log and not yet in the vault");
        (Status::Pending, Some(what), Some(newest_us.saturating_sub(logged_us)), true)
    } else if !anchored {
        let as_of = node.and_then(NodeFacts::as_of_us).unwrap_or_else(|| plan.open.wall_us.min(newest_us));
        let what = "no anchor covers its end in the log".to_owned();
        (Status::Unanchored, Some(what), Some(newest_us.saturating_sub(as_of)), false)
    } else if let Some(end) = &plan.end {
        match &end.recovered {
            None => (Status::Clean, None, None, false),
            Some(rescue) => {
                let crash_us = rescue.boot.map_or(end.close.wall_us, |boot| boot.wall_us);
                let what = "the daemon was killed or lost power, and the next start ended the session".to_owned();
                (Status::Recovered, Some(what), Some(crash_us.saturating_sub(plan.proof_us)), true)
            }
        }
    } else if stale {
        let what = "open, and the node gave no recent sign of life".to_owned();
        (Status::Open, Some(what), Some(since_proof), true)
    } else {
        (Status::Open, Some("open now".to_owned()), Some(since_proof), false)
    };
    Judged { facts, status, reason, exposure_us, exception, anchored }
}

/// What a node log says about a session, unverified: enough to list it.
#[derive(Debug)]
pub(crate) struct Logged {
    pub(crate) session: casemate_recorder::transcript::block::SessionId,
    pub(crate) kind: &'static str,
    pub(crate) protocol: Option<&'static str>,
    /// Microseconds since 1970.
    pub(crate) start_us: u64,
    /// Microseconds since 1970.
    pub(crate) end_us: Option<u64>,
    pub(crate) status: &'static str,
    /// The number of the last segment, of a session that has ended.
    pub(crate) last_segment: Option<u32>,
    /// Until when it must be kept, in microseconds since 1970; 0 where no log opens it.
    pub(crate) retain_until_us: u64,
    /// The length of each segment that the log names.
    pub(crate) segment_bytes: Vec<u64>,
}

/// Lists all sessions that a log opens or the vault holds, and says whether the logs hold together in themselves.
pub(crate) fn logged_sessions(vault: &Vault) -> Result<(Vec<Logged>, bool), ReplayError> {
    let mut listing = vault.sessions()?;
    let (names, _) = vault.nodes()?;
    let mut sessions = Vec::new();
    let mut sound = true;
    for name in &names {
        let mut hand_out = |mut plan: Plan| {
            let count = plan.segment_count();
            let status = match &plan.end {
                _ if (plan.present.len() as u64) < u64::from(count) => "pending",
                None => "open",
                Some(end) if end.recovered.is_some() => "recovered",
                Some(_) => "closed",
            };
            sessions.push(Logged {
                session: plan.open.session,
                kind: report::kind_name(plan.open.kind),
                protocol: report::protocol_name(plan.open.protocol),
                start_us: plan.open.wall_us,
                end_us: plan.end.as_ref().map(|end| end.close.wall_us),
                status,
                last_segment: plan.end.as_ref().and_then(|_| count.checked_sub(1)),
                retain_until_us: plan.open.retain_until_us,
                segment_bytes: plan.segments.values().map(|segment| segment.bytes).collect(),
            });
        };
        let facts = check_node(vault, name, &NodeTrust::NoFile, &[], &listing, &mut hand_out)?;
        sound &= facts.altered.is_empty();
    }
    for logged in &sessions {
        listing.sessions.remove(&logged.session);
    }
    for (session, segments) in listing.sessions {
        sound = false;
        sessions.push(Logged {
            session,
            kind: "unknown",
            protocol: None,
            start_us: session.unix_ms().saturating_mul(1000),
            end_us: None,
            status: "unlogged",
            last_segment: segments.last().copied(),
            retain_until_us: 0,
            segment_bytes: Vec::new(),
        });
    }
    Ok((sessions, sound))
}
