//! FORMAT.md says what the code does: its tables are compared, not hoped to match.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)] // A test file: what fails here fails a test.

use bytes::Bytes;
use casemate_recorder::transcript::Stamp;
use casemate_recorder::transcript::block::{
    HEADER_LEN, Header, LINK_CONTEXT, MAGIC, PLAIN_LEN_MAX, STORED_LEN_MAX, SessionId,
};
use casemate_recorder::transcript::blocks::Built;
use casemate_recorder::transcript::cipher::LaneKeys;
use casemate_recorder::transcript::compressor::Compressor;
use casemate_recorder::transcript::event::{EVENT_LEN_MAX, Event, Lane, Side, TYPES, ssh_out};
use casemate_recorder::transcript::head::{Durability, Head, TranscriptKind};
use casemate_recorder::transcript::writer::Writer;
use ed25519_dalek::SigningKey;

const FORMAT: &str = include_str!("../FORMAT.md");

/// Rows of the table that begins behind `heading`, cells trimmed.
fn table(heading: &str) -> Vec<Vec<String>> {
    let (_, section) = FORMAT.split_once(heading).unwrap();
    let rows = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    rows.skip(2).map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

#[test]
fn the_table_of_types_is_the_vocabulary() {
    let written: String = TYPES
        .iter()
        .map(|spec| {
            let fields: Vec<_> = spec.fields.iter().map(|(key, name)| format!("{key} {name}")).collect();
            format!("| {} | `{}` | {} | {} |\n", spec.number.0, spec.name, spec.lane as u8, fields.join(", "))
        })
        .collect();
    assert!(FORMAT.contains(&written), "FORMAT.md §10 should hold:\n{written}");
}

#[test]
fn the_header_lies_where_the_table_says() {
    let header = Header {
        session: SessionId([0xaa; 16]),
        ..Header::decode(&{
            // Every field gets the number of its row, so that a field at another offset shows.
            let mut bytes = [0; HEADER_LEN];
            bytes[..4].copy_from_slice(&MAGIC);
            bytes[7] = 1;
            bytes
        })
        .unwrap()
    };
    let rows = table("## 3. Blocks");
    let mut end = 0;
    for row in &rows {
        let (offset, len): (usize, usize) = (row[0].parse().unwrap(), row[1].parse().unwrap());
        assert_eq!(offset, end, "{}", row[2]);
        end = offset + len;
    }
    assert_eq!(end, HEADER_LEN);
    let place = |name: &str| {
        let row = rows.iter().find(|row| row[2] == name).unwrap();
        let (offset, len): (usize, usize) = (row[0].parse().unwrap(), row[1].parse().unwrap());
        offset..offset + len
    };
    let marked = |header: &Header, name: &str| {
        let bytes = header.encode();
        let plain = Header { session: SessionId([0xaa; 16]), ..base() }.encode();
        let differs: Vec<_> = (0..HEADER_LEN).filter(|at| bytes[*at] != plain[*at]).collect();
        assert!(!differs.is_empty() && differs.iter().all(|at| place(name).contains(at)), "{name}: {differs:?}");
    };
    fn base() -> Header {
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[7] = 1;
        Header::decode(&bytes).unwrap()
    }
    marked(&Header { stored_len: 7, ..header.clone() }, "stored_len");
    marked(&Header { plain_len: 7, ..header.clone() }, "plain_len");
    marked(&Header { block_no: u64::MAX, ..header.clone() }, "block_no");
    marked(&Header { first_event: u64::MAX, ..header.clone() }, "first_event");
    marked(&Header { event_count: u32::MAX, ..header.clone() }, "event_count");
    marked(&Header { segment_no: u32::MAX, ..header.clone() }, "segment_no");
    marked(&Header { wall_us: u64::MAX, ..header.clone() }, "wall_us");
    marked(&Header { mono_us: u64::MAX, ..header.clone() }, "mono_us");
    marked(&Header { span_us: u64::MAX, ..header.clone() }, "span_us");
    marked(&Header { salt: [9; 16], ..header.clone() }, "salt");
    marked(&Header { key_commit: [9; 32], ..header.clone() }, "key_commit");
    marked(&Header { session: SessionId([1; 16]), ..header }, "session");
}

#[test]
fn the_limits_and_contexts_are_those_of_the_document() {
    let grouped = |number: usize| {
        let digits = number.to_string();
        let head = digits.len() % 3;
        let mut parts: Vec<&str> =
            digits.as_bytes()[head..].chunks(3).map(|part| std::str::from_utf8(part).unwrap()).collect();
        if head > 0 {
            parts.insert(0, &digits[..head]);
        }
        parts.join(",")
    };
    for limit in [EVENT_LEN_MAX, PLAIN_LEN_MAX as usize, STORED_LEN_MAX as usize] {
        assert!(FORMAT.contains(&grouped(limit)), "{limit}");
    }
    assert!(FORMAT.contains(LINK_CONTEXT));
}

#[test]
fn the_leaves_are_those_of_the_code() {
    let code = include_str!("../src/log/leaf.rs");
    let rows = table("## 9. The node log");
    assert_eq!(rows.len(), 13);
    for row in rows {
        let line = format!("| {} |", row.join(" | "));
        assert!(code.contains(&format!("//! {line}")), "leaf.rs documents another row than {line}");
    }
}

#[test]
fn the_contexts_of_keys_are_the_published_ones() {
    use casemate_recorder::transcript::cipher::{BLOCK_KEY_CONTEXT, KEY_COMMITMENT_CONTEXT, MICRO_KEY_CONTEXT};
    let rows = table("## 6. Encryption");
    let written: Vec<_> = rows.iter().map(|row| (row[0].as_str(), row[1].trim_matches('`'))).collect();
    let fixed =
        [("block key", BLOCK_KEY_CONTEXT), ("micro key", MICRO_KEY_CONTEXT), ("key_commit", KEY_COMMITMENT_CONTEXT)];
    assert_eq!(written, fixed);
}

/// A transcript written here and opened here from FORMAT.md §6 alone, without the reader.
#[test]
fn an_encrypted_block_opens_by_the_letter_of_the_document() {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    let table = table("## 6. Encryption");
    let context = |name: &str| table.iter().find(|row| row[0] == name).unwrap()[1].trim_matches('`').to_owned();
    let lanes = [[1u8; 32], [2; 32], [3; 32]];
    let (mut writer, _) = encrypted_writer(LaneKeys::new(lanes));
    let shown = Event::stream(ssh_out::TYPE, 0, Bytes::from_static(b"shown"));
    writer.append(Side::Target, &shown, Stamp::default());
    let built = writer.cut(Lane::Output, &mut Compressor::new().unwrap(), [9; 16]).unwrap();
    let (header, rest) = built.bytes.split_at(HEADER_LEN);
    let payload = &rest[..rest.len() - 32];

    let material = [&lanes[1][..], &header[16..32], &header[32..40], &header[80..96]].concat();
    let key = blake3::derive_key(&context("block key"), &material);
    assert_eq!(blake3::derive_key(&context("key_commit"), &key), header[128..160]);
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
    let mut payload = payload.to_vec();
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    let plain = key.open_in_place(nonce, Aad::from(header), &mut payload).unwrap();
    assert!(plain.windows(5).any(|five| five == b"shown"), "{plain:?}");
}

fn encrypted_writer(keys: LaneKeys) -> (Writer, Built) {
    let key = SigningKey::from_bytes(&[3; 32]);
    let head = Head {
        format: 1,
        node: "n".into(),
        boot_id: [1; 16].into(),
        kind: TranscriptKind::Session,
        protocol: None,
        durability: Durability::Causal,
        session_pub: key.verifying_key().to_bytes().into(),
        ordinal: 0,
        policy_hash: [2; 32].into(),
        lane_keys: None,
        journal_salt: [4; 16].into(),
        software: "test".into(),
        events: [0; 3],
        micro_commits: None,
    };
    Writer::begin(SessionId([9; 16]), head, key, keys, Stamp::default())
}
