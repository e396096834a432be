//! The trust file: which keys an auditor believes, and how fresh proof must be.
//!
//! Sans-IO: text in, values out. The one that `casemate init` writes is self-asserted: it comes from the machine it is
//! meant to judge, so it is good for a demonstration and never for a verdict.

use std::fmt::Write as _;
use std::time::Duration;

use crate::fields::{Problem, Reader, show_duration};
use crate::vkey::NodePublicKey;

/// The version this program reads and writes.
const VERSION: u64 = 1;

/// An anchor that may be older than this anchors nothing.
const ANCHOR_AGE_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// What an auditor believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// Whether the file was made by the bastion itself.
    pub self_asserted: bool,
    /// How old the newest anchor may be; `None` where the auditor sets no bound.
    pub anchor_age_max: Option<Duration>,
    /// The keys of nodes. A node that changed its key has several.
    pub nodes: Vec<TrustedNode>,
}

/// A key of a node and when it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedNode {
    /// Name and key.
    pub key: NodePublicKey,
    /// Signatures count from here, in microseconds since 1970.
    pub from_us: u64,
    /// And before here, in microseconds since 1970; `None` for a key in use.
    pub until_us: Option<u64>,
}

impl TrustedNode {
    /// Whether a signature made at that time, in microseconds since 1970, counts.
    pub fn counts_at(&self, time_us: u64) -> bool {
        self.from_us <= time_us && self.until_us.is_none_or(|until| time_us < until)
    }
}

/// Why a text is no trust file: every problem, by line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", listed(problems))]
pub struct TrustError {
    /// What is wrong.
    pub problems: Vec<Problem>,
}

fn listed(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(|problem| format!("line {problem}")).collect();
    lines.join("\n")
}

impl Trust {
    /// Reads a trust file.
    ///
    /// # Errors
    /// [`TrustError`] with all problems: unknown fields, keys that are not in the signed-note form, a period that ends
    /// before it begins, the same key twice, no node at all.
    pub fn parse(text: &str) -> Result<Self, TrustError> {
        let reader = Reader::new(text);
        let trust = read(&reader);
        let problems = reader.into_problems();
        match trust {
            Some(trust) if problems.is_empty() => Ok(trust),
            _ => Err(TrustError { problems }),
        }
    }

    /// Writes the file so that [`parse`](Self::parse) reads the same.
    pub fn to_text(&self) -> String {
        let mut out = String::from("# Casemate trust file: whose signatures count.\n");
        if self.self_asserted {
            out.push_str("# Self-asserted: written by the bastion about itself. Fit for a demonstration; an auditor keeps one made elsewhere.\n");
        }
        // Writing to a String cannot fail.
        let _ = write!(out, "version = {VERSION}\nself_asserted = {}\n", self.self_asserted);
        if let Some(age) = self.anchor_age_max {
            let _ = writeln!(out, "anchor_age_max = \"{}\"", show_duration(age));
        }
        for node in &self.nodes {
            let _ = write!(out, "\n[[node]]\nkey = \"{}\"\nfrom = {}\n", node.key, show_time(node.from_us));
            if let Some(until) = node.until_us {
                let _ = writeln!(out, "until = {}", show_time(until));
            }
        }
        out
    }

    /// Returns the keys of a node, in the order of the file.
    pub fn node<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a TrustedNode> {
        self.nodes.iter().filter(move |node| node.key.name() == name)
    }
}

fn read(reader: &Reader<'_>) -> Option<Trust> {
    let mut root = reader.root()?;
    match root.uint("version", 0..=u64::MAX) {
        Some(version) if version.value != VERSION => reader.complain(
            version.line,
            format!("version {} is not known", version.value),
            format!("use a program that reads it, or write version = {VERSION}"),
        ),
        Some(_) => {}
        None => root.missing("version", &format!("write version = {VERSION}")),
    }
    let self_asserted = root.boolean("self_asserted");
    if self_asserted.is_none() {
        root.missing("self_asserted", "write self_asserted = false if the file was made off the bastion");
    }
    let anchor_age_max = root.duration("anchor_age_max", Duration::from_secs(1)..=ANCHOR_AGE_MAX).map(|age| age.value);

    let mut nodes: Vec<TrustedNode> = Vec::new();
    let tables = root.tables("node");
    if tables.is_empty() {
        root.complain("no node is listed", "add a [[node]] with its key");
    }
    for mut table in tables {
        let key = table.required_text("key", "write the node's public key, NAME+ID+KEY");
        let from_us = table.time("from");
        let until_us = table.time("until");
        if from_us.is_none() {
            table.missing("from", "write since when its signatures count");
        }
        if let (Some(from), Some(until)) = (&from_us, &until_us)
            && from.value >= until.value
        {
            reader.complain(until.line, "until is not after from", "swap them, or remove until");
        }
        table.finish();
        let (Some(key), Some(from_us)) = (key, from_us) else { continue };
        match key.value.parse::<NodePublicKey>() {
            Ok(parsed) => {
                if nodes.iter().any(|node| node.key == parsed) {
                    reader.complain(key.line, "key is listed twice", "remove one of the two");
                }
                nodes.push(TrustedNode {
                    key: parsed,
                    from_us: from_us.value,
                    until_us: until_us.map(|until| until.value),
                });
            }
            Err(error) => {
                reader.complain(
                    key.line,
                    format!("node.key: {error}"),
                    "copy the node's public key as `casemate init` printed it",
                );
            }
        }
    }
    root.finish();
    Some(Trust { self_asserted: self_asserted?.value, anchor_age_max, nodes })
}

fn show_time(time_us: u64) -> String {
    let signed = i64::try_from(time_us).unwrap_or(i64::MAX);
    jiff::Timestamp::from_microsecond(signed).unwrap_or(jiff::Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vkey::NodeKey;

    fn sample() -> Trust {
        let node = |name: &str, from_us, until_us| TrustedNode {
            key: NodeKey::generate(name).unwrap().public(),
            from_us,
            until_us,
        };
        Trust {
            self_asserted: true,
            anchor_age_max: Some(Duration::from_secs(24 * 3600)),
            nodes: vec![node("node-1", 0, Some(1_700_000_000_000_001)), node("node-1", 1_700_000_000_000_001, None)],
        }
    }

    #[test]
    fn a_trust_file_survives_the_round_trip() {
        let mut trust = sample();
        assert_eq!(Trust::parse(&trust.to_text()), Ok(trust.clone()));
        trust.anchor_age_max = None;
        trust.self_asserted = false;
        assert_eq!(Trust::parse(&trust.to_text()), Ok(trust));
    }

    #[test]
    fn a_key_counts_from_its_first_instant_and_not_at_its_last() {
        let trust = sample();
        let counting = |at| trust.node("node-1").filter(|node| node.counts_at(at)).count();
        assert_eq!(counting(1_700_000_000_000_000), 1);
        assert_eq!(counting(1_700_000_000_000_001), 1);
        assert!(trust.nodes[1].counts_at(1_700_000_000_000_001));
        assert_eq!(trust.node("node-2").count(), 0);
    }

    #[test]
    fn every_cut_is_an_error_or_a_shorter_truth() {
        // TOML has no end mark: a cut between two tables reads as a file with fewer nodes, never as other ones.
        let trust = sample();
        let text = trust.to_text();
        for cut in 0..text.len() {
            if let Ok(short) = Trust::parse(&text[..cut]) {
                assert!(short.nodes.len() <= trust.nodes.len());
                assert!(short.nodes.iter().zip(&trust.nodes).all(|(a, b)| a.key == b.key && a.from_us <= b.from_us));
            }
        }
    }

    #[test]
    fn bad_files_are_refused_with_line_and_remedy() {
        let key = NodeKey::generate("n").unwrap().public();
        let head = "version = 1\nself_asserted = false\n";
        let node = format!("[[node]]\nkey = \"{key}\"\nfrom = 2026-01-01T00:00:00Z\n");
        let cases = [
            (String::new(), "line 1: no node is listed"),
            (head.to_owned(), "line 1: no node is listed"),
            (format!("self_asserted = false\n{node}"), "line 1: version is missing"),
            (format!("version = 2\nself_asserted = false\n{node}"), "line 1: version 2 is not known"),
            (format!("version = 1\n{node}"), "line 1: self_asserted is missing"),
            (format!("version = 1\nself_asserted = 1\n{node}"), "line 2: self_asserted has the wrong type"),
            (format!("{head}anchor_age_max = \"0s\"\n{node}"), "line 3: anchor_age_max is not a duration"),
            (format!("{head}anchor_max = \"1d\"\n{node}"), "line 3: unknown field \"anchor_max\""),
            (format!("{head}[[node]]\nkey = \"{key}\"\n"), "line 3: node.from is missing"),
            (format!("{head}[[node]]\nkey = \"{key}\"\nfrom = 2026-01-01\n"), "line 5: node.from has the wrong type"),
            (format!("{head}[[node]]\nkey = \"n+0+A\"\nfrom = 2026-01-01T00:00:00Z\n"), "line 4: node.key:"),
            (format!("{head}{node}until = 2025-01-01T00:00:00Z\n"), "line 6: until is not after from"),
            (format!("{head}{node}{node}"), "line 7: key is listed twice"),
            (format!("{head}{node}name = \"n\"\n"), "line 6: unknown field node.\"name\""),
        ];
        for (text, expected) in cases {
            let error = Trust::parse(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}\n{error}");
            assert!(error.contains("; "), "no remedy: {error}");
        }
    }
}
