//! Tests of the leaves: round trips, cuts, limits, and what a later version may add.

use super::*;
use crate::log::tile::ENTRY_LEN_MAX;

fn close(segments: u32) -> Close {
    Close {
        session: SessionId([1; 16]),
        reason: 3,
        wall_us: u64::MAX,
        last_block: u64::MAX,
        last_link: Link([2; 32]),
        segment_count: segments,
        segments: (0..segments)
            .map(|no| SegmentRef { no, bytes: u64::MAX, sha256: [3; 32], last_link: Link([4; 32]) })
            .collect(),
    }
}

fn heads(count: usize) -> Leaf {
    let head = Head { session: SessionId([5; 16]), block_no: u64::MAX, link: Link([6; 32]), events: u64::MAX };
    Leaf::Heads { wall_us: u64::MAX, heads: vec![head; count] }
}

fn samples() -> Vec<Leaf> {
    vec![
        Leaf::Boot(Boot {
            boot_id: [1; 16],
            boot_pub: [2; 32],
            wall_us: 1_795_000_000_000_000,
            mono_us: 4,
            version: "0.1.0".into(),
            previous_size: 70_000,
        }),
        Leaf::Heartbeat(Heartbeat { boot_id: [1; 16], wall_us: 3, mono_us: 4, open: 500 }),
        Leaf::Open(Open {
            session: SessionId([9; 16]),
            kind: 0,
            protocol: 1,
            ordinal: 12,
            head_link: Link([4; 32]),
            session_pub: [5; 32],
            wall_us: 6,
            retain_until_us: 7,
        }),
        Leaf::Segment(Segment {
            session: SessionId([9; 16]),
            segment_no: 2,
            bytes: 8 << 20,
            first_block: 100,
            last_block: 231,
            last_link: Link([4; 32]),
            sha256: [5; 32],
            wall_us: 6,
        }),
        heads(3),
        heads(0),
        Leaf::Close(close(2)),
        Leaf::Recovered(Recovered { close: close(1), torn_bytes: 17, boot_id: [8; 16] }),
        Leaf::Stored(Stored {
            session: SessionId([9; 16]),
            segment_no: 2,
            vault: "basel".into(),
            version: "3sL4kqtJlcpXroDTDmJ".into(),
            sha256: [5; 32],
            mode: 1,
            retain_until_us: 7,
            wall_us: 6,
        }),
        Leaf::Retired(Retired { session: SessionId([9; 16]), wall_us: 1 }),
        Leaf::LegalHold(LegalHold {
            session: SessionId([9; 16]),
            set: true,
            order: "hold".into(),
            signatures: "-----BEGIN SSH SIGNATURE-----".into(),
            wall_us: 1,
        }),
        Leaf::Control(Control { session: SessionId([9; 16]), what: "configuration".into(), wall_us: 1 }),
    ]
}

#[test]
fn every_leaf_survives_the_round_trip() {
    for leaf in samples() {
        assert_eq!(Leaf::decode(&leaf.encode().unwrap()).unwrap(), leaf, "{}", leaf.name());
    }
}

#[test]
fn every_cut_and_every_tail_is_an_error() {
    for leaf in samples() {
        let mut bytes = leaf.encode().unwrap();
        for cut in 0..bytes.len() {
            assert!(Leaf::decode(&bytes[..cut]).is_err(), "{} cut at {cut}", leaf.name());
        }
        bytes.push(0);
        assert!(Leaf::decode(&bytes).is_err(), "{} with a tail", leaf.name());
    }
}

#[test]
fn the_largest_leaves_fit_an_entry() {
    assert!(heads(HEADS_MAX).encode().unwrap().len() <= ENTRY_LEN_MAX);
    let largest = Leaf::Recovered(Recovered { close: close(SEGMENTS_MAX as u32), torn_bytes: 1, boot_id: [8; 16] });
    assert_eq!(Leaf::decode(&largest.encode().unwrap()).unwrap(), largest);
    assert!(matches!(heads(2000).encode(), Err(LeafError::Long(_))));
    assert!(matches!(Leaf::decode(&heads(HEADS_MAX + 1).encode().unwrap()), Err(LeafError::Shape(_))));
}

#[test]
fn a_type_of_a_later_version_is_kept_as_it_is() {
    // {0: 13, 1: [1, h'ff'], 2: "x"}
    let raw = vec![0xa3, 0, 13, 1, 0x82, 1, 0x41, 0xff, 2, 0x61, b'x'];
    let leaf = Leaf::decode(&raw).unwrap();
    assert_eq!(leaf, Leaf::Unknown { kind: 13, raw: raw.clone() });
    assert_eq!(leaf.encode().unwrap(), raw);
}

#[test]
fn a_key_of_a_later_version_is_passed_over() {
    let leaf = Leaf::Heartbeat(Heartbeat { boot_id: [1; 16], wall_us: 3, mono_us: 4, open: 5 });
    let mut bytes = leaf.encode().unwrap();
    bytes[0] += 1;
    bytes.extend_from_slice(&[23, 0x42, 1, 2]);
    assert_eq!(Leaf::decode(&bytes).unwrap(), leaf);
}

#[test]
fn a_leaf_has_one_spelling() {
    let leaf = Leaf::Heartbeat(Heartbeat { boot_id: [1; 16], wall_us: 3, mono_us: 4, open: 5 });
    let mut bytes = leaf.encode().unwrap();
    // The last number in two bytes.
    bytes.pop();
    bytes.extend_from_slice(&[0x18, 5]);
    assert!(matches!(Leaf::decode(&bytes), Err(LeafError::Shape(_))));
}

#[test]
fn what_is_outside_the_format_is_refused() {
    let cases: [(&str, &[u8]); 7] = [
        ("not a map", &[0x81, 0]),
        ("no type", &[0xa1, 1, 0]),
        ("keys that repeat", &[0xa2, 0, 13, 0, 13]),
        ("keys that descend", &[0xa2, 1, 13, 0, 13]),
        ("indefinite map", &[0xbf, 0, 13, 0xff]),
        ("a type that is no number", &[0xa1, 0, 0x41, 1]),
        ("a boot without anything", &[0xa1, 0, 0]),
    ];
    for (name, bytes) in cases {
        assert!(Leaf::decode(bytes).is_err(), "{name}");
    }
}
