//! What the reader takes, and what it refuses with line and remedy.

use super::super::testing::{ADA, BOB, sample, signed_sample};
use super::*;
use crate::vkey::NodeKey;

#[test]
fn a_trust_file_survives_the_round_trip() {
    for mut trust in [sample(), signed_sample()] {
        assert_eq!(Trust::parse(&trust.to_text()), Ok(trust.clone()));
        trust.anchor_age_max = None;
        trust.retention = Retention { min: None, max: Some(Duration::from_secs(90)) };
        assert_eq!(Trust::parse(&trust.to_text()), Ok(trust));
    }
}

#[test]
fn a_key_counts_from_its_first_instant_and_not_at_its_last() {
    let trust = sample();
    let counting = |at| trust.node("node-1").filter(|node| node.period.contains(at)).count();
    assert_eq!(counting(1_700_000_000_000_000), 1);
    assert_eq!(counting(1_700_000_000_000_001), 1);
    assert!(trust.nodes[1].period.contains(1_700_000_000_000_001));
    assert_eq!(trust.node("node-2").count(), 0);
}

#[test]
fn every_cut_is_an_error_or_a_shorter_truth() {
    // TOML has no end mark: a cut between two tables reads as a file with fewer nodes, never as other ones.
    for trust in [sample(), signed_sample()] {
        let text = trust.to_text();
        for cut in 0..text.len() {
            if let Ok(short) = Trust::parse(&text[..cut]) {
                assert_eq!(short.authority, trust.authority);
                assert!(short.nodes.len() <= trust.nodes.len());
                assert!(
                    short
                        .nodes
                        .iter()
                        .zip(&trust.nodes)
                        .all(|(a, b)| a.key == b.key && a.period.from_us <= b.period.from_us)
                );
            }
        }
    }
}

#[test]
fn bad_files_are_refused_with_line_and_remedy() {
    let key = NodeKey::generate("n").unwrap().public();
    let head = "version = 1\nself_asserted = true\n";
    let node = format!("[[node]]\nkey = \"{key}\"\nfrom = 2026-01-01T00:00:00Z\n");
    let cases = [
        (String::new(), "line 1: no node is listed"),
        (head.to_owned(), "line 1: no node is listed"),
        (format!("self_asserted = true\n{node}"), "line 1: version is missing"),
        (format!("version = 2\nself_asserted = true\n{node}"), "line 1: version 2 is not known"),
        (format!("version = 1\n{node}"), "line 1: self_asserted is missing"),
        (format!("version = 1\nself_asserted = 1\n{node}"), "line 2: self_asserted has the wrong type"),
        (format!("{head}anchor_age_max = \"0s\"\n{node}"), "line 3: anchor_age_max is not a duration"),
        (format!("{head}anchor_max = \"1d\"\n{node}"), "line 3: unknown field \"anchor_max\""),
        (format!("{head}retain_min = \"9d\"\nretain_max = \"8d\"\n{node}"), "line 4: retain_max is below retain_min"),
        (format!("{head}quorum = 1\n{node}"), "line 3: quorum in a file that is self-asserted"),
        (format!("{head}{node}[[officer]]\n"), "line 6: officer in a file that is self-asserted"),
        (format!("{head}[[node]]\nkey = \"{key}\"\n"), "line 3: node.from is missing"),
        (format!("{head}[[node]]\nkey = \"{key}\"\nfrom = 2026-01-01\n"), "line 5: node.from has the wrong type"),
        (format!("{head}[[node]]\nkey = \"n+0+A\"\nfrom = 2026-01-01T00:00:00Z\n"), "line 4: node.key:"),
        (format!("{head}{node}until = 2025-01-01T00:00:00Z\n"), "line 6: until is not after from"),
        (format!("{head}{node}{node}"), "line 7: key is listed twice"),
        (format!("{head}{node}name = \"n\"\n"), "line 6: unknown field node.\"name\""),
    ];
    refused(&cases);
}

fn refused(cases: &[(String, &str)]) {
    for (text, expected) in cases {
        let error = Trust::parse(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}\n{error}");
        assert!(error.lines().all(|line| line.contains("; ")), "no remedy: {error}");
    }
}

#[test]
fn a_board_that_could_not_vouch_is_refused_with_line_and_remedy() {
    let key = NodeKey::generate("n").unwrap().public();
    let node = format!("[[node]]\nkey = \"{key}\"\nfrom = 2026-01-01T00:00:00Z\n");
    // Lines 1 to 5; officers follow.
    let head =
        "version = 1\nself_asserted = false\norganisation = \"Example\"\nissued = 2026-01-01T00:00:00Z\nquorum = 1\n";
    let officer = |name: &str, key: &str| {
        format!("[[officer]]\nname = \"{name}\"\nkey = \"{key}\"\nfrom = 2026-01-01T00:00:00Z\n")
    };
    let (ada, bob) = (officer("Ada", ADA), officer("Bob", BOB));
    let recipient = |key: &str, duty: &str| {
        format!("{head}{ada}[[recipient]]\nname = \"Ada\"\nkey = \"{key}\"\nduty = \"{duty}\"\n{node}")
    };
    let age = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
    let instead = |from: &str, to: &str| format!("{head}{ada}{bob}{node}").replacen(from, to, 1);
    assert!(Trust::parse(&format!("{head}{ada}{bob}{node}")).is_ok());
    assert!(Trust::parse(&recipient(age, "spare")).is_ok());
    let small_rsa = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDX7Y2VIQ1g/zVYqzd3y7N/Yiyu4GLoatYty00Gd0VB/Js+CohAZ//2sSTOrc3JcKhM3Z+F9ess1ize538T69KSBLjKE+tactFjm6TEo8OSx6RNmfx3TgL9SOX4XApnssaf5JXFgQatQqbUXpZreqSatIGTTKg+dVENBRxFpR9SSw==";
    refused(&[
        (format!("{head}{node}"), "line 1: no officer is listed"),
        (instead("organisation = \"Example\"\n", ""), "line 1: organisation is missing"),
        (instead("\"Example\"", "\"Ex\\u202eample\""), "line 3: organisation \"Ex\\u{202e}ample\" is no name"),
        (instead("issued = 2026-01-01T00:00:00Z\n", ""), "line 1: issued is missing"),
        (instead("quorum = 1\n", ""), "line 1: quorum is missing"),
        (instead("quorum = 1", "quorum = 0"), "line 5: quorum is out of bounds"),
        (instead("quorum = 1", "quorum = 65"), "line 5: quorum is out of bounds"),
        (instead("quorum = 1", "quorum = 3"), "line 5: quorum is 3, and 2 officers have a key that counts at issued"),
        // One person with two keys is one officer.
        (
            format!("{}{ada}{}{node}", head.replace("quorum = 1", "quorum = 2"), officer("Ada", BOB)),
            "line 5: quorum is 2, and 1 officers",
        ),
        (instead("issued = 2026", "issued = 2025"), "line 5: quorum is 1, and 0 officers"),
        (format!("{head}{ada}{}{node}", officer("ADA", BOB)), "line 11: officer.name \"ADA\" differs from \"Ada\""),
        (format!("{head}{ada}{}{node}", officer("Bob", ADA)), "line 12: key is listed twice"),
        (format!("{head}{}{node}", officer(" Ada", ADA)), "line 7: officer.name \" Ada\" is no name"),
        (format!("{head}{}{node}", officer("Ada", "ssh-ed25519 AAAA")), "line 8: officer.key: not a public key line"),
        (format!("{head}{}{node}", officer("Ada", small_rsa)), "line 8: officer.key: RSA key of 1024 bits"),
        (instead("[[officer]]\n", "[[officer]]\nrole = \"x\"\n"), "line 7: unknown field officer.\"role\""),
        (recipient(&age.replace("q", "p"), "auditor"), "line 12: recipient.key is mistyped"),
        (recipient("ssh-ed25519 AAAA", "auditor"), "line 12: recipient.key does not begin with age1"),
        (recipient(age, "boss"), "line 13: recipient.duty \"boss\" is not known"),
    ]);
}
