//! A trust file in plain sentences: what a person reads before they sign it, and the summary that auditors compare.
//!
//! Everything that counts is said, and nothing that is not in the file: comments, of the file as of keys, bind nobody.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Authority, Officer, Period, Trust, TrustFile, show_count, show_time};
use crate::fields::show_duration;

/// Returns the text that a person reads before they sign.
pub fn sign_text(file: &TrustFile) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail, here and below.
    match &file.trust().authority {
        Authority::Bastion => {
            out.push_str("This file is self-asserted: a bastion wrote it about itself. Nobody is to sign it.\n");
        }
        Authority::Officers(board) => {
            let issued = show_time(board.issued_us);
            let _ = writeln!(out, "This is the trust file of {}, issued at {issued}.", board.organisation);
        }
    }
    let _ = writeln!(out, "Its fingerprint begins {}.", file.fingerprint());
    if matches!(file.trust().authority, Authority::Officers(_)) {
        out.push_str("Whoever signs it says that all of the following is true, and that verdicts may rest on it.\n");
    }
    for sentence in sentences(file.trust()) {
        let _ = writeln!(out, "\n{sentence}");
    }
    out
}

/// Returns the summary, with what the signatures amount to at `now_us`.
pub fn summary(file: &TrustFile, now_us: u64) -> String {
    let mut out = String::new();
    let whose = file.board().map_or_else(
        || "self-asserted by a bastion".to_owned(),
        |board| format!("{}, issued {}", board.organisation, show_time(board.issued_us)),
    );
    let _ = writeln!(out, "trust file:  {whose}\nfingerprint: {}  (of sha256sum)", file.fingerprint());
    match file.believe(now_us) {
        Ok(board) => {
            let _ =
                writeln!(out, "counts:      signed by {} of the {} needed", file.tally().signers.len(), board.quorum);
        }
        Err(doubt) => {
            let _ = writeln!(out, "counts not:  {doubt}");
        }
    }
    for signer in &file.tally().signers {
        let _ = writeln!(out, "signed by:   {}, {}", signer.name, signer.fingerprint);
    }
    for refused in &file.tally().refused {
        let _ = writeln!(out, "not counted: the signature on line {} {}", refused.line, refused.why);
    }
    for sentence in sentences(file.trust()) {
        let _ = writeln!(out, "\n{sentence}");
    }
    if file.board().is_some() {
        out.push_str(
            "\nThe signatures show that the keys above signed. That they are the officers' keys must come from elsewhere:\n\
             have each officer read out the fingerprint of the file and of their key (ssh-keygen -lf KEY.pub).\n",
        );
    }
    out
}

fn sentences(trust: &Trust) -> Vec<String> {
    let mut out = Vec::new();
    if let Authority::Officers(board) = &trust.authority {
        let who = if board.quorum == 1 { "one officer signs" } else { "different officers sign" };
        let count = if board.quorum == 1 { String::new() } else { format!("{} ", board.quorum) };
        let mut text =
            format!("The file counts when {count}{who} it, with a key that counts at its issue. The officers are:");
        for Officer { name, key, period } in &board.officers {
            let _ = write!(text, "\n  - {name}, with the {} key {}, {}", key.kind(), key.fingerprint(), span(*period));
        }
        out.push(text);
    }
    let mut text = "Recordings are believed when a node signed them with one of these keys:".to_owned();
    for node in &trust.nodes {
        let name = node.key.name().escape_debug();
        let _ = write!(
            text,
            "\n  - node {name}, with the key {}, {}",
            node.key.to_string().escape_debug(),
            span(node.period)
        );
    }
    out.push(text);
    out.push(if trust.recipients.is_empty() {
        "No recipient of encrypted recordings is listed.".to_owned()
    } else {
        let mut text =
            "Encrypted recordings can be read by whoever holds the key of one of these recipients:".to_owned();
        for recipient in &trust.recipients {
            let _ = write!(text, "\n  - {}, {}, {}", recipient.name, recipient.duty.name(), recipient.key);
        }
        text
    });
    out.push(trust.anchor_age_max.map_or_else(
        || "An anchor, a checkpoint known outside the vault, may be of any age.".to_owned(),
        |age| format!("The newest anchor, a checkpoint known outside the vault, may be at most {} old.", length(age)),
    ));
    out.push(match (trust.retention.min, trust.retention.max) {
        (None, None) => "Recordings may be kept for any time.".to_owned(),
        (Some(min), None) => format!("Recordings must be kept for at least {}.", length(min)),
        (None, Some(max)) => format!("Recordings must be kept for at most {}.", length(max)),
        (Some(min), Some(max)) => {
            format!("Recordings must be kept for at least {} and at most {}.", length(min), length(max))
        }
    });
    out
}

fn span(period: Period) -> String {
    let from = show_time(period.from_us);
    match period.until_us {
        None => format!("from {from} on"),
        Some(until) => format!("from {from} until {}", show_time(until)),
    }
}

/// A length of time in words: `400d` is 400 days.
fn length(duration: Duration) -> String {
    let text = show_duration(duration);
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let word = match unit {
        "d" => "day",
        "h" => "hour",
        "m" => "minute",
        "s" => "second",
        _ => "millisecond",
    };
    show_count(number, word)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{sample, signed_sample};
    use super::*;

    #[test]
    fn everything_that_counts_is_said_and_comments_are_not() {
        let trust = signed_sample();
        let text = format!("# Ada is the boss\n{}", trust.to_text());
        let file = TrustFile::read(&text, None).unwrap();
        let Authority::Officers(board) = &trust.authority else { unreachable!() };
        for said in [sign_text(&file), summary(&file, u64::MAX)] {
            for officer in &board.officers {
                assert!(said.contains(&format!(
                    "{}, with the {} key {}",
                    officer.name,
                    officer.key.kind(),
                    officer.key.fingerprint()
                )));
                assert!(said.contains(&span(officer.period)));
            }
            for node in &trust.nodes {
                assert!(said.contains(&node.key.to_string()) && said.contains(&span(node.period)), "{said}");
            }
            for recipient in &trust.recipients {
                assert!(said.contains(&recipient.key.to_string()) && said.contains(recipient.duty.name()));
            }
            for part in [
                "Example Bank",
                "2026-11-22T20:00:00Z",
                "2 different officers",
                "1 day old",
                "at least 365 days and at most 400 days",
            ] {
                assert!(said.contains(part), "{part}: {said}");
            }
            assert!(said.contains(&file.fingerprint().to_string()) && !said.contains("boss"), "{said}");
        }
        assert!(summary(&file, u64::MAX).contains("counts not:  the trust file is not signed"));
    }

    #[test]
    fn a_self_asserted_file_asks_nobody_to_sign() {
        let file = TrustFile::read(&sample().to_text(), None).unwrap();
        assert!(sign_text(&file).contains("Nobody is to sign it"));
        assert!(summary(&file, u64::MAX).contains("counts not:  the trust file is self-asserted"));
    }
}
