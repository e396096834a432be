//! Blocks: any bytes, also with the link made right, end in a block of bounded size or an error; with keys and without.
#![no_main]

use std::sync::LazyLock;

use casemate_recorder::transcript::block::{Block, HEADER_LEN, Header, PLAIN_LEN_MAX, link};
use casemate_recorder::transcript::chain;
use casemate_recorder::transcript::cipher::LaneKeys;
use casemate_recorder::transcript::head::Head;
use casemate_recorder::transcript::wrap::{Identity, unwrap};
use libfuzzer_sys::fuzz_target;

static IDENTITY: LazyLock<Identity> = LazyLock::new(Identity::generate);

fuzz_target!(|data: &[u8]| {
    let _ = Block::parse(data);
    if let Ok(head) = Head::decode(data) {
        let _ = unwrap(&head, std::slice::from_ref(&*IDENTITY));
    }
    // A fuzzer finds no hash by chance: give it one, or it never gets past the link.
    let Some((head, rest)) = data.split_first_chunk::<HEADER_LEN>() else { return };
    let Ok(mut header) = Header::decode(head) else { return };
    assert_eq!(Header::decode(&header.encode()).expect("what we wrote decodes"), header);
    header.stored_len = rest.len() as u32;
    for keys in [LaneKeys::default(), LaneKeys::new([[1; 32]; 3])] {
        // Nor does it find a key's commitment.
        if let Some(key) = keys.get(header.lane).filter(|_| header.codec.encrypted) {
            header.key_commit = key.block_key(header.session, header.block_no, &header.salt).commitment();
        }
        let mut block = header.encode().to_vec();
        block.extend_from_slice(rest);
        let link = link(&block);
        block.extend_from_slice(&link.0);
        if let Ok(block) = Block::parse(&block) {
            if let Ok(plain) = block.plain(&keys) {
                assert!(plain.len() as u64 <= PLAIN_LEN_MAX as u64);
            }
            let _ = chain::events(&block, &keys);
        }
    }
});
