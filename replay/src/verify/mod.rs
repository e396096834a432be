//! `verify`: is everything that was recorded here, and is it what was recorded?
//!
//! For each node the log is read and the tree over it computed anew; each session that the log opened is then held
//! against it, many at a time. The verdict reaches as far as the newest checkpoint that was known outside (an anchor).

mod anchors;
mod book;
mod clocks;
mod doubts;
mod earlier;
mod facts;
mod gaps;
mod judge;
mod ledger;
mod listed;
mod log;
mod notes;
mod numbers;
mod orders;
mod report;
mod sample;
mod session;
mod state;
pub(crate) mod textfile;
mod tiles;
mod workers;

use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;

use anchors::{Anchor, NodeTrust, Signed};
use casemate_certs::trust::{Trust, TrustFile};
use casemate_recorder::log::leaf::Open;
use casemate_recorder::transcript::block::SessionId;
use casemate_recorder::transcript::wrap::Identity;
use doubts::{doubts, retention};
use facts::Facts;
use judge::{PENDING_US, SILENCE_US, Scales, judge};
use ledger::{Few, Ledger, Table};
pub(crate) use listed::{Logged, logged_sessions};
use log::{NodeFacts, Question};
pub(crate) use orders::{Orders, orders};
pub(crate) use sample::{Sample, Sampled, sample};
use state::{State, Trial};
use workers::{Checked, check_all};

use crate::ReplayError;
use crate::vault::{Listing, S3Vault, Totals, Vault};

/// What `verify` is asked.
#[derive(Debug, Default)]
pub struct Options {
    /// Checkpoints that the auditor kept.
    pub checkpoints: Vec<PathBuf>,
    /// Slips, as the whole line.
    pub slips: Vec<String>,
    /// Where the newest accepted checkpoints are remembered from run to run, and which sessions of a bucket were in order.
    pub state: Option<PathBuf>,
    /// Whether sessions that were in order by that file, and whose versions are still the same, are not read again.
    pub incremental: bool,
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
    /// Only sessions that were opened at this time or later are looked at, in microseconds since 1970. Logs always are, whole.
    pub since_us: Option<u64>,
    /// Only sessions that were opened before this time.
    pub until_us: Option<u64>,
    /// Only these sessions.
    pub only: Option<HashSet<SessionId>>,
}

impl Options {
    /// Whether a session is looked at.
    fn covers(&self, open: &Open) -> bool {
        self.since_us.is_none_or(|since_us| since_us <= open.wall_us)
            && self.until_us.is_none_or(|until_us| open.wall_us < until_us)
            && self.only.as_ref().is_none_or(|only| only.contains(&open.session))
    }
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
    /// What a bucket says of what lies in it.
    storage: Option<Storage>,
    /// Sessions that were opened outside of the time that was asked about.
    left_out: HashSet<SessionId>,
    /// Whether sessions that were in order before were not read again.
    incremental: bool,
    /// That time.
    period: (Option<u64>, Option<u64>),
    /// For each node with anchors that a server dated: the largest time between two, and how late the worst came, in microseconds.
    dated: Vec<(String, u64, u64)>,
}

/// What a bucket says of what lies in it.
#[derive(Debug)]
struct Storage {
    bucket: String,
    totals: Totals,
    table: Table,
}

/// Verifies a vault, writes the report and returns the exit status.
///
/// # Errors
/// What was asked makes no sense, or the vault cannot be read. Findings are not errors.
pub fn run(vault: &Vault, options: &Options, out: &mut dyn Write) -> Result<u8, ReplayError> {
    let state = options.state.as_deref().map(State::read).transpose()?;
    run_with(vault, state, options, out)
}

/// Opens a vault, of which what will be read is begun at once, and does the same.
pub(crate) fn run_at(source: &str, options: &Options, out: &mut dyn Write) -> Result<u8, ReplayError> {
    let state = options.state.as_deref().map(State::read).transpose()?;
    run_with(&open(source, options, state.as_ref())?, state, options, out)
}

fn run_with(
    vault: &Vault,
    mut state: Option<State>,
    options: &Options,
    out: &mut dyn Write,
) -> Result<u8, ReplayError> {
    if options.incremental && (vault.bucket().is_none() || options.sha256 || !options.identities.is_empty()) {
        let what = "--incremental rests on the versions of a bucket (a directory has none), and reads nothing again: \
                    neither for --sha256 nor for --identity";
        return Err(ReplayError::Usage(what.to_owned()));
    }
    let trust = options.trust.as_deref().map(anchors::read_trust).transpose()?;
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
    let mut findings = examine(vault, trust.as_ref(), &anchors, state.as_ref(), options)?;
    if findings.may_lag {
        // A slip is older than the moment in which a live node puts its checkpoint into the vault: look once more.
        std::thread::sleep(vault.lag());
        vault.refresh()?;
        findings = examine(vault, trust.as_ref(), &anchors, state.as_ref(), options)?;
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
        // Nothing is altered, so the log grew out of every one of them, while its key counted: it may be newer than any that is here.
        let vouched_for = |anchor: &&Anchor| {
            let origin = &anchor.note.checkpoint.origin;
            let trust = NodeTrust::of(trust.as_ref().map(TrustFile::trust), origin);
            matches!(trust.check(&anchor.note), Signed::By(_))
        };
        anchors.iter().filter(vouched_for).for_each(|anchor| state.advance(&anchor.note));
        state.opened = findings.last_trial;
        state.remember(&findings.sessions, &findings.left_out, options.now_us);
        state.write()?;
    }
    if let Some(file) = &options.textfile {
        textfile::write(file, &findings)?;
    }
    report::write(&findings, trust.as_ref(), options.json, out)?;
    Ok(findings.exit)
}

/// Opens the vault, and says what of it will be read.
fn open(source: &str, options: &Options, state: Option<&State>) -> Result<Vault, ReplayError> {
    let (from, to) = (options.since_us.unwrap_or(0), options.until_us.unwrap_or(u64::MAX));
    let known: HashSet<SessionId> = match state {
        Some(state) if options.incremental => state.sessions().collect(),
        _ => HashSet::new(),
    };
    let wanted = move |session: SessionId| {
        (from..to).contains(&session.unix_ms().saturating_mul(1000)) && !known.contains(&session)
    };
    Vault::open_whole(source, wanted)
}

fn examine(
    vault: &Vault,
    trust: Option<&TrustFile>,
    anchors: &[Anchor],
    state: Option<&State>,
    options: &Options,
) -> Result<Findings, ReplayError> {
    let keys = trust.map(TrustFile::trust);
    // Segments first, logs after: in a live vault whatever is listed here is in the log by the time it is read.
    let mut listing = vault.sessions()?;
    let (names, strays) = vault.nodes()?;
    let mut altered = Vec::new();
    let mut remarks = Vec::new();
    for stray in strays.iter().chain(&listing.strays) {
        let finding = format!("{}: {}", stray.path, stray.what);
        if stray.poses { altered.push(finding) } else { remarks.push(finding) }
    }
    let ahead = vault.bucket().map(|bucket| set_aside(bucket, &mut listing, options.now_us)).unwrap_or_default();
    let ledger = Ledger::new(keys);
    let board = trust.and_then(|file| file.believe(options.now_us).ok());
    let question = Question { vault, listing: &listing, anchors, board, ledger: &ledger, now_us: options.now_us };
    let Checked { nodes, facts, left_out } = check_all(&question, keys, &names, state, options)?;
    for anchor in anchors {
        let origin = &anchor.note.checkpoint.origin;
        if !names.contains(origin) {
            altered.push(format!("the log of {origin} is missing, and a {} proves it was here", anchor.kept_by));
        }
    }
    let mut known: HashSet<_> = facts.iter().map(|facts| facts.plan.open.session).collect();
    known.extend(&left_out);
    for session in ahead.iter().filter(|session| !known.contains(session)) {
        remarks.push(format!("session {session} is newer than the newest checkpoint here: not judged yet"));
    }
    for (session, segments) in &listing.sessions {
        match (known.contains(session), segments.is_empty()) {
            (false, false) => altered.push(format!("session {session} is in the vault, and no log opens it")),
            (false, true) => remarks.push(format!("session {session}: an empty directory that no log knows")),
            _ => {}
        }
    }
    let scales = Scales { now_us: options.now_us, may_drop: vault.bucket().is_none() };
    let mut sessions: Vec<Judged> = facts
        .into_iter()
        .map(|facts| {
            let node = nodes.iter().find(|node| node.name == facts.plan.node);
            judge(facts, node, scales)
        })
        .collect();
    sessions.sort_by(|a, b| {
        let key = |judged: &Judged| (judged.facts.plan.node.clone(), judged.facts.plan.index);
        key(a).cmp(&key(b))
    });
    let opened = Opened::by(&options.identities, keys, &sessions, options.now_us);
    let mut undecided = doubts(trust, &nodes, &sessions, options.now_us);
    undecided.extend(opened.iter().flat_map(|opened| opened.doubts(keys)));
    let mut exceptions = keys.map(|trust| retention(trust, &sessions)).unwrap_or_default();
    let (mut storage, mut dated) = (None, Vec::new());
    if let Some(bucket) = vault.bucket() {
        let retired = sessions.iter().filter(|judged| judged.status == Status::Retired);
        let retired = retired.map(|judged| judged.facts.plan.open.session).collect();
        let held = nodes.iter().flat_map(|node| &node.held);
        let looked_at = held.filter(|session| !left_out.contains(session));
        let segments = |session| listing.sessions.get(session).map_or(0, Vec::len);
        exceptions.extend(ledger.unheld(looked_at.map(|session| (session, segments(session)))));
        let totted = ledger.tot_up(bucket, &retired);
        altered.extend(totted.altered);
        exceptions.extend(totted.exceptions);
        let mut silent = Few::default();
        for node in &nodes {
            let since_us = options.since_us.unwrap_or(0);
            gaps::explain(node, keys, options.now_us, since_us).into_iter().for_each(|what| silent.push(what));
            let largest = gaps::gaps(node, keys, options.now_us).into_iter().map(gaps::Gap::length_us).max();
            dated.extend(largest.map(|largest| (node.name.clone(), largest, gaps::lateness_us(node))));
        }
        exceptions.extend(silent.into_lines("times without an anchor"));
        storage = Some(Storage { bucket: bucket.name(), totals: bucket.totals(), table: totted.table });
    }
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
        || (vault.bucket().is_none() && fresh && sessions.iter().any(|judged| !judged.facts.absent.is_empty()));
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
        storage,
        left_out,
        incremental: options.incremental,
        period: (options.since_us, options.until_us),
        dated,
    })
}

/// Takes out of a listing what came after the newest checkpoint: its leaf may be on the way, for as long as anything may be
/// pending. Returns the sessions of which nothing else is here.
fn set_aside(bucket: &S3Vault, listing: &mut Listing, now_us: u64) -> Vec<SessionId> {
    let Some(newest_us) = bucket.newest_checkpoint_us() else { return Vec::new() };
    let from_us = newest_us.max(now_us.saturating_sub(PENDING_US));
    for (session, segments) in &mut listing.sessions {
        segments.retain(|no| bucket.came_us(*session, *no).is_none_or(|came_us| came_us <= from_us));
    }
    let ahead = listing.sessions.iter().filter(|(_, segments)| segments.is_empty()).map(|(session, _)| *session);
    let ahead = ahead.collect();
    listing.sessions.retain(|_, segments| !segments.is_empty());
    ahead
}
