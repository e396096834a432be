//! From text to [`Trust`]: every field read, bounded and explained, all problems at once.

use std::time::Duration;

use super::{
    AgeKey, Authority, Board, Officer, OfficerKey, Period, Recipient, RecipientDuty, Retention, SIGNATURES_MAX, Trust,
    TrustError, TrustedNode, VERSION,
};
use crate::fields::{Fields, Located, Reader};
use crate::vkey::NodePublicKey;

/// An anchor that may be older than this anchors nothing.
const ANCHOR_AGE_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// The longest retention that any law we know of asks for is some decades.
const RETAIN_MAX: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// Names are read aloud and printed in a line.
const NAME_LEN_MAX: usize = 128;

pub(super) fn parse(text: &str) -> Result<Trust, TrustError> {
    let reader = Reader::new(text);
    let trust = Parser { reader: &reader }.trust();
    let problems = reader.into_problems();
    match trust {
        Some(trust) if problems.is_empty() => Ok(trust),
        _ => Err(TrustError { problems }),
    }
}

struct Parser<'r, 'i> {
    reader: &'r Reader<'i>,
}

impl Parser<'_, '_> {
    /// `None` means that something is missing and was complained about.
    fn trust(&self) -> Option<Trust> {
        let mut root = self.reader.root()?;
        match root.uint("version", 0..=u64::MAX) {
            Some(version) if version.value != VERSION => self.reader.complain(
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
        let authority = match self_asserted {
            Some(Located { value: true, .. }) => self.bastion(&mut root),
            _ => self.board(&mut root).map(Authority::Officers),
        };
        let anchor_age_max =
            root.duration("anchor_age_max", Duration::from_secs(1)..=ANCHOR_AGE_MAX).map(|age| age.value);
        let retention = self.retention(&mut root);
        let recipients = self.recipients(&mut root);
        let nodes = self.nodes(&mut root);
        root.finish();
        Some(Trust { authority: self_asserted.and(authority)?, anchor_age_max, retention, recipients, nodes })
    }

    /// A file that the bastion wrote about itself has nobody who could sign it.
    fn bastion(&self, root: &mut Fields<'_, '_>) -> Option<Authority> {
        let lines = [
            root.text("organisation").map(|found| found.line),
            root.time("issued").map(|found| found.line),
            root.uint("quorum", 0..=u64::MAX).map(|found| found.line),
            root.tables("officer").first().map(Fields::line),
        ];
        for (field, line) in ["organisation", "issued", "quorum", "officer"].into_iter().zip(lines) {
            let Some(line) = line else { continue };
            let what = format!("{field} in a file that is self-asserted, which nobody signs");
            self.reader.complain(line, what, "write self_asserted = false, and have the officers sign");
        }
        Some(Authority::Bastion)
    }

    fn board(&self, root: &mut Fields<'_, '_>) -> Option<Board> {
        let organisation = root.required_text("organisation", "write whose file it is, such as \"Example Bank\"");
        let organisation = organisation.and_then(|text| self.name("organisation", text));
        let issued = root.time("issued");
        if issued.is_none() {
            root.missing("issued", "write when the file was made, such as 2026-11-22T20:00:00Z");
        }
        let quorum = root.uint("quorum", 1..=SIGNATURES_MAX as u64);
        if quorum.is_none() {
            root.missing("quorum", "write how many officers must sign, at least 1");
        }
        let mut officers: Vec<Officer> = Vec::new();
        let tables = root.tables("officer");
        if tables.is_empty() {
            root.complain("no officer is listed", "add an [[officer]] with name, key and from");
        }
        for mut table in tables {
            let name = table.required_text("name", "write the officer's name");
            let key = table.required_text("key", "write the line of their .pub file");
            let period = self.period(&mut table, "write since when the key counts");
            table.finish();
            let key = key.and_then(|key| self.officer_key(&key, &officers));
            let name = name.and_then(|name| self.person(name, &officers));
            if let (Some(name), Some(key), Some(period)) = (name, key, period) {
                officers.push(Officer { name, key, period });
            }
        }
        let (organisation, issued, quorum) = (organisation?, issued?, quorum?);
        let board = Board { organisation, issued_us: issued.value, quorum: quorum.value, officers };
        let can_sign = board.officers_at(board.issued_us).len();
        if (can_sign as u64) < board.quorum {
            let what = format!("quorum is {}, and {can_sign} officers have a key that counts at issued", board.quorum);
            self.reader.complain(quorum.line, what, "list more officers, check their from and until, or ask for fewer");
        }
        Some(board)
    }

    /// Names are shown to people who decide by them: no controls, nothing invisible, nothing that reorders the line.
    fn name(&self, field: &str, text: Located<String>) -> Option<String> {
        let fits = |c: char| c.is_alphanumeric() || " .,-_'()@&/+".contains(c);
        let name = text.value;
        let spaced = name.trim() != name || name.contains("  ");
        if name.is_empty() || name.len() > NAME_LEN_MAX || spaced || !name.chars().all(fits) {
            let what = format!("{field} {:?} is no name", name.chars().take(NAME_LEN_MAX).collect::<String>());
            let remedy =
                format!("write up to {NAME_LEN_MAX} bytes of letters, digits, single spaces and . , - _ ' ( ) @ & / +");
            self.reader.complain(text.line, what, remedy);
            return None;
        }
        Some(name)
    }

    /// One person counts once, so one person has one spelling.
    fn person(&self, text: Located<String>, officers: &[Officer]) -> Option<String> {
        let line = text.line;
        let name = self.name("officer.name", text)?;
        let twin =
            officers.iter().find(|officer| officer.name != name && officer.name.to_lowercase() == name.to_lowercase());
        if let Some(twin) = twin {
            let what = format!("officer.name {name:?} differs from {:?} in capitals only", twin.name);
            self.reader.complain(line, what, "write one person's name the same everywhere: it counts once");
            return None;
        }
        Some(name)
    }

    fn officer_key(&self, text: &Located<String>, officers: &[Officer]) -> Option<OfficerKey> {
        match OfficerKey::parse(&text.value) {
            Ok(key) if officers.iter().any(|officer| officer.key == key) => {
                self.reader.complain(text.line, "key is listed twice", "remove one of the two");
                None
            }
            Ok(key) => Some(key),
            Err(error) => {
                let remedy = "write the line of a .pub file: ed25519, ecdsa of 256 or 384 bits, rsa of 3072 to 8192, or an sk key";
                self.reader.complain(text.line, format!("officer.key: {error}"), remedy);
                None
            }
        }
    }

    fn retention(&self, root: &mut Fields<'_, '_>) -> Retention {
        let bounds = || Duration::from_secs(1)..=RETAIN_MAX;
        let (min, max) = (root.duration("retain_min", bounds()), root.duration("retain_max", bounds()));
        if let (Some(min), Some(max)) = (&min, &max)
            && min.value > max.value
        {
            self.reader.complain(max.line, "retain_max is below retain_min", "swap them, or remove one");
        }
        Retention { min: min.map(|min| min.value), max: max.map(|max| max.value) }
    }

    fn recipients(&self, root: &mut Fields<'_, '_>) -> Vec<Recipient> {
        let mut recipients: Vec<Recipient> = Vec::new();
        for mut table in root.tables("recipient") {
            let name = table.required_text("name", "write whose key it is");
            let key = table.required_text("key", "write the age public key, age1…");
            let duty = table.required_text("duty", "write \"auditor\", \"reviewer\" or \"spare\"");
            table.finish();
            let name = name.and_then(|name| self.name("recipient.name", name));
            let key = key.and_then(|key| match key.value.parse::<AgeKey>() {
                Ok(parsed) if recipients.iter().any(|known| known.key == parsed) => {
                    self.reader.complain(key.line, "key is listed twice", "remove one of the two");
                    None
                }
                Ok(parsed) => Some(parsed),
                Err(error) => {
                    let what = format!("recipient.key {error}");
                    self.reader.complain(key.line, what, "copy the public key that `age-keygen` printed, age1…");
                    None
                }
            });
            let duty = duty.and_then(|duty| {
                let known = RecipientDuty::ALL.into_iter().find(|known| known.name() == duty.value);
                if known.is_none() {
                    let what = format!("recipient.duty {:?} is not known", duty.value);
                    self.reader.complain(duty.line, what, "write \"auditor\", \"reviewer\" or \"spare\"");
                }
                known
            });
            if let (Some(name), Some(key), Some(duty)) = (name, key, duty) {
                recipients.push(Recipient { name, key, duty });
            }
        }
        recipients
    }

    fn nodes(&self, root: &mut Fields<'_, '_>) -> Vec<TrustedNode> {
        let mut nodes: Vec<TrustedNode> = Vec::new();
        let tables = root.tables("node");
        if tables.is_empty() {
            root.complain("no node is listed", "add a [[node]] with its key");
        }
        for mut table in tables {
            let key = table.required_text("key", "write the node's public key, NAME+ID+KEY");
            let period = self.period(&mut table, "write since when its signatures count");
            table.finish();
            let (Some(key), Some(period)) = (key, period) else { continue };
            match key.value.parse::<NodePublicKey>() {
                Ok(parsed) => {
                    if nodes.iter().any(|node| node.key == parsed) {
                        self.reader.complain(key.line, "key is listed twice", "remove one of the two");
                    }
                    nodes.push(TrustedNode { key: parsed, period });
                }
                Err(error) => {
                    let remedy = "copy the node's public key as `casemate init` printed it";
                    self.reader.complain(key.line, format!("node.key: {error}"), remedy);
                }
            }
        }
        nodes
    }

    fn period(&self, table: &mut Fields<'_, '_>, remedy: &str) -> Option<Period> {
        let from_us = table.time("from");
        let until_us = table.time("until");
        if from_us.is_none() {
            table.missing("from", remedy);
        }
        if let (Some(from), Some(until)) = (&from_us, &until_us)
            && from.value >= until.value
        {
            self.reader.complain(until.line, "until is not after from", "swap them, or remove until");
        }
        Some(Period { from_us: from_us?.value, until_us: until_us.map(|until| until.value) })
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
