//! The report of `verify`: JSON lines for programs, a page of text for people. The same facts in both.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use casemate_certs::trust::{Signer, TrustFile};

use super::log::NodeFacts;
use super::{Findings, Judged, Status, Storage};
use crate::ReplayError;
use crate::json::Object;
use crate::time::{length, rfc3339};
use casemate_screen::safe::visible;

/// What no verdict of this program says, however clean.
const NOT_PROVEN: [&str; 4] = [
    "that every connection went through the bastion: compare with the targets' own logs",
    "what a target executed: a terminal stream shows what was typed and shown",
    "anything that happened after the newest anchor",
    "honesty of the daemon while it recorded: root on the bastion can leave things out from then on",
];

/// Writes the report.
///
/// # Errors
/// The output cannot be written.
pub(super) fn write(
    findings: &Findings,
    trust: Option<&TrustFile>,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), ReplayError> {
    let lines = if json { json_lines(findings, trust) } else { text_lines(findings, trust) };
    let written = lines.iter().try_for_each(|line| writeln!(out, "{line}")).and_then(|()| out.flush());
    written.map_err(ReplayError::io("write the report to", Path::new("the output")))
}

/// Lists what this verdict does not say.
fn not_proven(findings: &Findings) -> Vec<String> {
    let mut lines = NOT_PROVEN.map(str::to_owned).to_vec();
    if let Some(since_us) = findings.resting().min() {
        let (resting, since) = (findings.resting().count(), rfc3339(since_us));
        lines.push(format!(
            "what {resting} sessions hold: they were read in earlier runs, on {since} and later. That their versions are the same, as \
             long, and locked was checked now; what is in them since is the storage's word, until a run without --incremental"
        ));
    }
    lines
}

impl Findings {
    /// When each session was read that was not read now, in microseconds since 1970.
    fn resting(&self) -> impl Iterator<Item = u64> {
        self.sessions.iter().filter_map(|judged| judged.facts.rests_us)
    }

    fn verdict(&self) -> &'static str {
        match self.exit {
            0 => "clean",
            1 => "altered",
            3 => "exceptions",
            _ => "undecided",
        }
    }

    pub(super) fn count(&self, status: Status) -> usize {
        self.sessions.iter().filter(|judged| judged.status == status).count()
    }

    /// The newest moment up to which every node is anchored, in microseconds since 1970.
    pub(super) fn as_of_us(&self) -> Option<u64> {
        self.nodes.iter().map(NodeFacts::as_of_us).min().flatten()
    }

    pub(super) fn all_altered(&self) -> Vec<String> {
        let of_nodes =
            self.nodes.iter().flat_map(|node| node.altered.iter().map(|what| format!("{}: {what}", node.name)));
        self.altered.iter().cloned().chain(of_nodes).map(|what| visible(&what)).collect()
    }

    fn all_remarks(&self) -> Vec<String> {
        let of_nodes =
            self.nodes.iter().flat_map(|node| node.remarks.iter().map(|what| format!("{}: {what}", node.name)));
        self.remarks.iter().cloned().chain(of_nodes).map(|what| visible(&what)).collect()
    }
}

/// Names a kind of transcript by its number in the log.
pub(super) fn kind_name(kind: u8) -> &'static str {
    match kind {
        0 => "session",
        1 => "portal",
        2 => "control",
        _ => "unknown",
    }
}

/// Names a protocol by its number in the log.
pub(super) fn protocol_name(protocol: u8) -> Option<&'static str> {
    match protocol {
        1 => Some("ssh"),
        2 => Some("pg"),
        _ => None,
    }
}

/// The largest time between two neighbouring anchors of a node, with the log's own ends, in microseconds.
fn largest_gap_us(findings: &Findings, node: &NodeFacts) -> u64 {
    // A server's clock is better than the node's own.
    if let Some((_, gap_us, _)) = findings.dated.iter().find(|(name, _, _)| *name == node.name) {
        return *gap_us;
    }
    let mut times: Vec<u64> = node.anchors.iter().map(|anchor| anchor.wall_us).collect();
    times.extend([node.first_us, node.newest_us]);
    times.sort_unstable();
    times.iter().zip(times.iter().skip(1)).map(|(a, b)| b - a).max().unwrap_or(0)
}

/// By how much the worst dated anchor came after the newest leaf under it, in microseconds.
fn lateness_us(findings: &Findings, node: &NodeFacts) -> Option<u64> {
    findings.dated.iter().find(|(name, _, _)| *name == node.name).map(|(_, _, late_us)| *late_us)
}

fn anchors_by_keeper(node: &NodeFacts) -> BTreeMap<&str, usize> {
    let mut by = BTreeMap::new();
    for anchor in &node.anchors {
        *by.entry(&*anchor.kept_by).or_default() += 1;
    }
    by
}

fn json_lines(findings: &Findings, trust: Option<&TrustFile>) -> Vec<String> {
    let mut lines: Vec<String> = findings.sessions.iter().map(session_line).collect();
    let mut last = Object::new()
        .with("verdict", findings.verdict())
        .with("exit", findings.exit)
        .with("as_of", findings.as_of_us().map(rfc3339))
        .with("opened", findings.sessions.len());
    for status in Status::ALL {
        last = last.with(status.name(), findings.count(status));
    }
    let nodes: Vec<serde_json::Value> = findings
        .nodes
        .iter()
        .map(|node| {
            serde_json::json!({
                "node": node.name,
                "size": node.size,
                "trusted": node.listed,
                "checkpoints": node.checkpoints,
                "newest": rfc3339(node.newest_us),
                "as_of": node.as_of_us().map(rfc3339),
                "anchors": anchors_by_keeper(node),
                "largest_gap_us": largest_gap_us(findings, node),
                "latest_anchor_us": lateness_us(findings, node),
                "acts": node.acts,
            })
        })
        .collect();
    let last = last
        .with("nodes", nodes)
        .with("altered_findings", findings.all_altered())
        .with("undecided_because", &findings.undecided)
        .with("exceptions", &findings.exceptions)
        .with("trust", trust.map(trust_json))
        .with("remarks", findings.all_remarks())
        .with("since", findings.period.0.map(rfc3339))
        .with("until", findings.period.1.map(rfc3339))
        .with("left_out", findings.left_out.len())
        .with("incremental", findings.incremental)
        .with("rest_on_earlier", findings.resting().count())
        .with("rest_since", findings.resting().min().map(rfc3339))
        .with("storage", findings.storage.as_ref().map(storage_json))
        .with("sha256", findings.sha256)
        .with(
            "opened_by",
            findings.opened.as_ref().map(|opened| opened.readers.iter().map(reader_json).collect::<Vec<_>>()),
        )
        .with("opened_sessions", findings.opened.as_ref().map(|opened| opened.trial.sessions))
        .with("last_opened", findings.last_trial.map(|trial| rfc3339(trial.at_us)))
        .with("not_proven", not_proven(findings));
    lines.push(last.finish());
    lines
}

/// What the verdict was judged by, so that two people can compare it.
fn trust_json(file: &TrustFile) -> serde_json::Value {
    let board = file.board();
    let signer = |signer: &Signer| serde_json::json!({ "officer": signer.name, "key": signer.fingerprint });
    let refused: Vec<String> =
        file.tally().refused.iter().map(|refused| format!("line {}: {}", refused.line, refused.why)).collect();
    serde_json::json!({
        "organisation": board.map(|board| &board.organisation),
        "issued": board.map(|board| rfc3339(board.issued_us)),
        "fingerprint": file.fingerprint().hex(),
        "self_asserted": board.is_none(),
        "quorum": board.map(|board| board.quorum),
        "signed_by": file.tally().signers.iter().map(signer).collect::<Vec<_>>(),
        "not_counted": refused,
    })
}

fn storage_json(storage: &Storage) -> serde_json::Value {
    let Storage { bucket, totals, table } = storage;
    serde_json::json!({
        "bucket": bucket,
        "objects": totals.objects,
        "versions": totals.versions,
        "markers": totals.markers,
        "bytes": totals.bytes,
        "looked_at": table.read,
        "compliance": table.compliance,
        "governance": table.governance,
        "unlocked": table.unlocked,
        "legal_holds": table.holds,
        "earliest_retain_until": table.earliest_us.map(rfc3339),
        "latest_retain_until": table.latest_us.map(rfc3339),
    })
}

fn storage_text(storage: &Storage) -> Vec<String> {
    let Storage { bucket, totals, table } = storage;
    let end = |us: Option<u64>| us.map_or_else(|| "never".to_owned(), rfc3339);
    let lines = [
        format!(
            "{bucket}: {} objects in {} versions, {} delete markers",
            totals.objects, totals.versions, totals.markers
        ),
        format!(
            "of {} that were looked at: {} locked in mode COMPLIANCE, {} in GOVERNANCE, {} not; {} under legal hold",
            table.read, table.compliance, table.governance, table.unlocked, table.holds
        ),
        format!("locks end between {} and {}", end(table.earliest_us), end(table.latest_us)),
    ];
    lines.iter().map(|line| visible(line)).collect()
}

fn trust_text(file: &TrustFile) -> Vec<String> {
    let whose = file.board().map_or_else(
        || "self-asserted by a bastion".to_owned(),
        |board| format!("{}, issued {}", board.organisation, rfc3339(board.issued_us)),
    );
    let mut lines = vec![whose, format!("fingerprint {} (of sha256sum)", file.fingerprint())];
    let signers = file.tally().signers.iter();
    lines.extend(signers.map(|signer| format!("signed by {}, {}", signer.name, signer.fingerprint)));
    let refused = file.tally().refused.iter();
    lines.extend(refused.map(|refused| format!("not counted: the signature on line {} {}", refused.line, refused.why)));
    lines.iter().map(|line| visible(line)).collect()
}

fn reader_json((key, name): &(String, Option<String>)) -> serde_json::Value {
    serde_json::json!({ "recipient": key, "name": name })
}

fn reader_text((key, name): &(String, Option<String>)) -> String {
    name.as_deref().map_or_else(|| key.clone(), visible)
}

fn session_line(judged: &Judged) -> String {
    let facts = &judged.facts;
    let plan = &facts.plan;
    Object::new()
        .with("session", plan.open.session.to_string())
        .with("node", &plan.node)
        .with("ordinal", plan.open.ordinal)
        .with("kind", kind_name(plan.open.kind))
        .with("protocol", protocol_name(plan.open.protocol))
        .with("start", rfc3339(plan.open.wall_us))
        .with("end", plan.end.as_ref().map(|end| rfc3339(end.close.wall_us)))
        .with("status", judged.status.name())
        .with("reason", judged.reason.as_deref().map(visible))
        .with("exposure_us", judged.exposure_us)
        .with("events", facts.events)
        .with("blocks", facts.blocks)
        .with("bytes", facts.stream_bytes)
        .with("stored_bytes", facts.bytes)
        .with("length_us", facts.length_us)
        .with("rests_on", facts.rests_us.map(rfc3339))
        .with("retain_until", rfc3339(plan.open.retain_until_us))
        .finish()
}

fn text_lines(findings: &Findings, trust: Option<&TrustFile>) -> Vec<String> {
    let as_of = findings.as_of_us().map_or_else(|| "no anchor".to_owned(), |us| format!("as of {}", rfc3339(us)));
    let mut lines = vec![format!("verdict: {} (exit {}), {as_of}", findings.verdict(), findings.exit)];
    let terms: Vec<String> =
        Status::ALL.iter().map(|status| format!("{} {}", findings.count(*status), status.name())).collect();
    lines.push(format!("opened {} = {}", findings.sessions.len(), terms.join(" + ")));
    let section = |lines: &mut Vec<String>, title: &str, items: Vec<String>| {
        if !items.is_empty() {
            lines.push(String::new());
            lines.push(title.to_owned());
            lines.extend(items.into_iter().map(|item| format!("  {item}")));
        }
    };
    section(&mut lines, "altered or missing:", findings.all_altered());
    section(&mut lines, "cannot be decided, because:", findings.undecided.iter().map(|what| visible(what)).collect());
    section(&mut lines, "to be explained:", findings.exceptions.iter().map(|what| visible(what)).collect());
    let not_clean = findings.sessions.iter().filter(|judged| judged.status != Status::Clean).map(session_text);
    section(&mut lines, "sessions that are not clean:", not_clean.collect());
    section(&mut lines, "judged by the trust file:", trust.map(trust_text).unwrap_or_default());
    let nodes = findings.nodes.iter().map(|node| node_text(findings, node));
    section(&mut lines, "nodes:", nodes.collect());
    section(&mut lines, "storage:", findings.storage.as_ref().map(storage_text).unwrap_or_default());
    section(&mut lines, "remarks, without consequence:", findings.all_remarks());
    let method = if findings.sha256 {
        "every link, seal, index and leaf, and the SHA-256 of every segment"
    } else {
        "every link, seal, index and leaf; links fix every byte, so the SHA-256 of segments was not computed (--sha256)"
    };
    let opened = match &findings.opened {
        Some(opened) => format!(
            "{} of {} sessions open with the identities given ({}), and every event in them was read",
            opened.trial.sessions,
            opened.trial.of,
            opened.readers.iter().map(reader_text).collect::<Vec<_>>().join(", ")
        ),
        None => {
            let before = findings.last_trial.map_or_else(String::new, |trial| {
                format!("; on {}, {} of {} sessions opened", rfc3339(trial.at_us), trial.sessions, trial.of)
            });
            format!("what is encrypted was checked as it is stored; nothing was opened (--identity){before}")
        }
    };
    let retention = match &findings.storage {
        None => "files in a directory are tamper-evident, not tamper-proof: no lock was checked",
        Some(_) => "the lock of everything that is evidence, and all versions and delete markers",
    };
    let mut checked = vec![method.to_owned(), opened, retention.to_owned()];
    if findings.incremental {
        let resting = findings.resting().count();
        let read = findings.sessions.len().saturating_sub(resting);
        checked.push(format!("of {read} sessions all that is here was read now; {resting} rest on earlier runs"));
    }
    if findings.period != (None, None) {
        let (since, until) = findings.period;
        let edge = |us: Option<u64>, open: &str| us.map_or_else(|| open.to_owned(), rfc3339);
        let (since, until) = (edge(since, "the beginning"), edge(until, "the end"));
        let left_out = findings.left_out.len();
        checked
            .push(format!("only sessions opened from {since} to {until}: {left_out} others were left out; logs whole"));
    }
    section(&mut lines, "checked:", checked);
    section(&mut lines, "not proven:", not_proven(findings));
    lines
}

fn session_text(judged: &Judged) -> String {
    let plan = &judged.facts.plan;
    let mut line = format!("{} {} {}", plan.open.session, judged.status.name(), kind_name(plan.open.kind));
    if let Some(reason) = &judged.reason {
        line.push_str(": ");
        line.push_str(&visible(reason));
    }
    if let Some(exposure) = judged.exposure_us {
        line.push_str(&format!(" (exposure {})", length(exposure)));
    }
    line
}

fn node_text(findings: &Findings, node: &NodeFacts) -> String {
    let anchors: Vec<String> = anchors_by_keeper(node).iter().map(|(by, count)| format!("{count} by {by}")).collect();
    let anchors = if anchors.is_empty() {
        "no anchors".to_owned()
    } else {
        let late = lateness_us(findings, node).map(|us| format!(", at most {} late", length(us))).unwrap_or_default();
        format!("anchors: {}, largest gap {}{late}", anchors.join(", "), length(largest_gap_us(findings, node)))
    };
    let acts: Vec<String> = node.acts.iter().map(|(what, count)| format!("{count} {what}")).collect();
    let acts = if acts.is_empty() { String::new() } else { format!("; acts: {}", acts.join(", ")) };
    visible(&format!(
        "{}: {} leaves up to {}, {} checkpoints fit; {anchors}{acts}",
        node.name,
        node.size,
        rfc3339(node.newest_us),
        node.checkpoints
    ))
}
