//! Why no verdict can be given, whatever the evidence looks like; and what the trust file asks of sound evidence.

use casemate_certs::trust::{Trust, TrustFile};

use super::Judged;
use super::log::{FINDINGS_MAX, NodeFacts};
use crate::time::{length, rfc3339};

/// Says why no verdict can be given.
pub(super) fn doubts(trust: Option<&TrustFile>, nodes: &[NodeFacts], sessions: &[Judged], now_us: u64) -> Vec<String> {
    let mut doubts = Vec::new();
    match trust.map(|file| file.believe(now_us)) {
        None => doubts.push("no trust file was given: signatures of the node could not be checked".to_owned()),
        Some(Err(doubt)) => doubts.push(doubt.to_string()),
        Some(Ok(_)) => {}
    }
    if nodes.is_empty() {
        doubts.push("the vault holds no node log".to_owned());
    }
    let trust = trust.map(TrustFile::trust);
    for node in nodes {
        let name = &node.name;
        if trust.is_some() && !node.listed {
            doubts.push(format!("the trust file does not list node {name}"));
        }
        if node.newest.is_none() {
            doubts.push(format!("the log of {name} has no checkpoint"));
        }
        doubts.extend(trust.and_then(|trust| restarted(trust, node)));
        if node.anchors.is_empty() {
            doubts.push(format!(
                "no checkpoint of {name} is known from outside the vault, or locked in it: nothing shows that its end is here"
            ));
        }
        let age_max = trust.and_then(|trust| trust.anchor_age_max).map(|age| age.as_micros());
        if let (Some(age_max), Some(newest)) = (age_max, node.newest_anchor()) {
            if newest.ahead {
                let what = "is dated after the time of this verdict: nothing shows how old it is";
                doubts.push(format!("the newest anchor of {name} {what}"));
            } else if u128::from(now_us.saturating_sub(newest.time_us())) > age_max {
                doubts.push(format!("the newest anchor of {name} is older than the trust file allows"));
            }
        }
    }
    if let Some(trust) = trust {
        let absent = trust.nodes.iter().filter(|listed| nodes.iter().all(|node| node.name != listed.key.name()));
        let mut names: Vec<_> = absent.map(|listed| listed.key.name()).collect();
        names.sort_unstable();
        names.dedup();
        doubts.extend(names.iter().map(|name| format!("the trust file lists node {name}, which has no log here")));
    }
    let unanchored = sessions.iter().filter(|judged| !judged.anchored).count();
    match unanchored {
        0 => {}
        1 => doubts.push("1 session ends after the newest anchor".to_owned()),
        more => doubts.push(format!("{more} sessions end after the newest anchor")),
    }
    doubts
}

/// A key whose whole time lies before the log begins signed another log: this one was begun in its place.
fn restarted(trust: &Trust, node: &NodeFacts) -> Option<String> {
    if node.size == 0 {
        return None;
    }
    let ends = trust.node(&node.name).filter_map(|listed| listed.period.until_us);
    let until = ends.filter(|until| *until <= node.first_us).max()?;
    Some(format!(
        "the trust file gives {} a key until {}, and its log here begins at {}: the log that the key signed is not here",
        node.name,
        rfc3339(until),
        rfc3339(node.first_us)
    ))
}

/// Holds what each session was opened with against the bounds of retention.
pub(super) fn retention(trust: &Trust, sessions: &[Judged]) -> Vec<String> {
    let in_us = |bound: std::time::Duration| u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
    let (min, max) = (trust.retention.min.map(in_us), trust.retention.max.map(in_us));
    let mut findings = Vec::new();
    let mut count = 0;
    for judged in sessions {
        let open = &judged.facts.plan.open;
        let kept_us = open.retain_until_us.saturating_sub(open.wall_us);
        let asked = match (min, max) {
            (Some(min), _) if kept_us < min => format!("at least {}", length(min)),
            (_, Some(max)) if kept_us > max => format!("at most {}", length(max)),
            _ => continue,
        };
        count += 1;
        if count <= FINDINGS_MAX {
            let (session, kept) = (open.session, length(kept_us));
            findings.push(format!("retention: session {session} is kept for {kept}, the trust file asks for {asked}"));
        }
    }
    if count > FINDINGS_MAX {
        findings.push(format!("retention: {} more sessions are kept too short or too long", count - FINDINGS_MAX));
    }
    findings
}
