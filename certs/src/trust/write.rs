//! A trust file as text, the way [`super::read`] takes it.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Authority, Period, Trust, VERSION, show_time};
use crate::fields::show_duration;

/// Writes the file. Names cannot hold what TOML would have to escape: the reader refuses them.
pub(super) fn to_text(trust: &Trust) -> String {
    let mut out = String::from("# Casemate trust file: whose signatures count.\n");
    // Writing to a String cannot fail, here and below.
    match &trust.authority {
        Authority::Bastion => {
            out.push_str("# Self-asserted: written by the bastion about itself. Fit for a demonstration; for an audit: casemate trust request --help.\n");
            let _ = write!(out, "version = {VERSION}\nself_asserted = true\n");
        }
        Authority::Officers(board) => {
            let _ = write!(out, "version = {VERSION}\nself_asserted = false\n");
            let _ = writeln!(out, "organisation = \"{}\"", board.organisation);
            let _ = writeln!(out, "issued = {}\nquorum = {}", show_time(board.issued_us), board.quorum);
        }
    }
    let bounds = [
        ("anchor_age_max", trust.anchor_age_max),
        ("retain_min", trust.retention.min),
        ("retain_max", trust.retention.max),
    ];
    for (field, bound) in bounds {
        duration(&mut out, field, bound);
    }
    if let Authority::Officers(board) = &trust.authority {
        for officer in &board.officers {
            let _ = write!(out, "\n[[officer]]\nname = \"{}\"\nkey = \"{}\"\n", officer.name, officer.key);
            period(&mut out, officer.period);
        }
    }
    for recipient in &trust.recipients {
        let (name, key, duty) = (&recipient.name, &recipient.key, recipient.duty.name());
        let _ = write!(out, "\n[[recipient]]\nname = \"{name}\"\nkey = \"{key}\"\nduty = \"{duty}\"\n");
    }
    for node in &trust.nodes {
        let _ = write!(out, "\n[[node]]\nkey = \"{}\"\n", node.key);
        period(&mut out, node.period);
    }
    out
}

fn duration(out: &mut String, field: &str, value: Option<Duration>) {
    if let Some(value) = value {
        let _ = writeln!(out, "{field} = \"{}\"", show_duration(value));
    }
}

fn period(out: &mut String, period: Period) {
    let _ = writeln!(out, "from = {}", show_time(period.from_us));
    if let Some(until) = period.until_us {
        let _ = writeln!(out, "until = {}", show_time(until));
    }
}
