//! Trust files for the tests of this module.

use std::time::Duration;

use super::{Authority, Board, Officer, OfficerKey, Period, Recipient, RecipientDuty, Retention, Trust, TrustedNode};
use crate::vkey::NodeKey;

pub(super) const ADA: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEAat4HXB+1taL76uUVqbcmNfOTBG9Ux6k55FRGOIM/Z";
pub(super) const BOB: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBk2HW/N5h8tfbfZEM4WI0uHB4Xwau6eRv6VisKlXMp+";

/// 2026-11-22T20:00:00Z.
const ISSUED_US: u64 = 1_795_377_600_000_000;

fn node(name: &str, from_us: u64, until_us: Option<u64>) -> TrustedNode {
    TrustedNode { key: NodeKey::generate(name).unwrap().public(), period: Period { from_us, until_us } }
}

/// What a bastion writes about itself.
pub(super) fn sample() -> Trust {
    let nodes = vec![node("node-1", 0, Some(1_700_000_000_000_001)), node("node-1", 1_700_000_000_000_001, None)];
    Trust::self_asserted(Some(Duration::from_secs(24 * 3600)), nodes)
}

/// What an organisation signs.
pub(super) fn signed_sample() -> Trust {
    let officer = |name: &str, key: &str, until_us| Officer {
        name: name.to_owned(),
        key: OfficerKey::parse(key).unwrap(),
        period: Period { from_us: 1_700_000_000_000_000, until_us },
    };
    let board = Board {
        organisation: "Example Bank".to_owned(),
        issued_us: ISSUED_US,
        quorum: 2,
        officers: vec![officer("Ada", ADA, None), officer("Bob O'Neil", BOB, Some(1_900_000_000_000_000))],
    };
    let day = Duration::from_secs(24 * 3600);
    let recipient = Recipient {
        name: "the safe".to_owned(),
        key: "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p".parse().unwrap(),
        duty: RecipientDuty::Spare,
    };
    Trust {
        authority: Authority::Officers(board),
        retention: Retention { min: Some(day * 365), max: Some(day * 400) },
        recipients: vec![recipient],
        ..sample()
    }
}
