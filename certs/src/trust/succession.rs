//! From one trust file to the next: whoever vouched for the old one hands over, and the past stays as it was.

use super::{Period, TrustFile, show_time};

/// Returns everything that keeps a new file from following an old one. Whether the new one counts by itself is another
/// question: [`TrustFile::believe`].
///
/// The new file must be signed by the quorum of the old officers, be issued later, and say of every instant up to the old
/// file's issue what the old one said about the keys of its nodes. What the old file said of later times was a plan, and
/// may change: that is how a key ends.
pub fn succeed(new: &TrustFile, old: &TrustFile) -> Vec<String> {
    let mut problems = Vec::new();
    if let Err(doubt) = old.believe(u64::MAX) {
        problems.push(format!("the previous file never counted ({doubt}); name the last one that did"));
    }
    let (Some(new_board), Some(old_board)) = (new.board(), old.board()) else {
        problems.push("one of the two is self-asserted; hand over from officers to officers".to_owned());
        return problems;
    };
    if new_board.issued_us <= old_board.issued_us {
        let (new, old) = (show_time(new_board.issued_us), show_time(old_board.issued_us));
        problems.push(format!("issued {new} is not after the previous {old}; write when the new file was made"));
    }
    let tally = new.tally_by(old_board, new_board.issued_us);
    if (tally.signers.len() as u64) < old_board.quorum {
        let (have, quorum) = (tally.signers.len(), old_board.quorum);
        problems.push(format!(
            "signed by {have} of the {quorum} officers that the previous file asks for; have them sign the new one as well"
        ));
    }
    let known_us = old_board.issued_us;
    for node in &old.trust().nodes {
        let Some(past) = before(node.period, known_us) else { continue };
        let name = node.key.name().escape_debug();
        let now = new.trust().nodes.iter().find(|other| other.key == node.key);
        match now.map(|now| before(now.period, known_us)) {
            None => problems.push(format!("node {name}: drops the key {}; list it with its until", node.key)),
            Some(period) if period != Some(past) => problems.push(format!(
                "node {name}: rewrites when the key {} counted before {}; leave from, and end it after that",
                node.key,
                show_time(known_us)
            )),
            Some(_) => {}
        }
    }
    for node in &new.trust().nodes {
        let name = node.key.name();
        let is_new = old.trust().nodes.iter().all(|other| other.key != node.key);
        if is_new && old.trust().node(name).next().is_some() && before(node.period, known_us).is_some() {
            problems.push(format!(
                "node {}: gives it another key from {}, before the previous file was issued; write a later from",
                name.escape_debug(),
                show_time(node.period.from_us)
            ));
        }
    }
    problems
}

/// Returns what is notable and no problem: what a reader of the new file would not see.
pub fn departures(new: &TrustFile, old: &TrustFile) -> Vec<String> {
    let (Some(new), Some(old)) = (new.board(), old.board()) else { return Vec::new() };
    let mut notes = Vec::new();
    if new.organisation != old.organisation {
        notes.push(format!("the organisation was {:?} and is {:?}", old.organisation, new.organisation));
    }
    if new.quorum != old.quorum {
        notes.push(format!("the quorum was {} and is {}", old.quorum, new.quorum));
    }
    let (was, is) = (old.officers_at(new.issued_us), new.officers_at(new.issued_us));
    notes.extend(was.iter().filter(|name| !is.contains(name)).map(|name| format!("{name} is no officer any more")));
    notes.extend(is.iter().filter(|name| !was.contains(name)).map(|name| format!("{name} is an officer now")));
    notes
}

/// The part of a period that lies before an instant.
fn before(period: Period, instant_us: u64) -> Option<(u64, u64)> {
    let until_us = period.until_us.map_or(instant_us, |until| until.min(instant_us));
    (period.from_us < until_us).then_some((period.from_us, until_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_of_a_period_ends_with_the_instant() {
        let period = |from_us, until_us| Period { from_us, until_us };
        assert_eq!(before(period(10, None), 20), Some((10, 20)));
        assert_eq!(before(period(10, Some(15)), 20), Some((10, 15)));
        assert_eq!(before(period(10, Some(25)), 20), Some((10, 20)));
        assert_eq!(before(period(20, None), 20), None);
    }
}
