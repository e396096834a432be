//! Blocks: any bytes, also with the link made right, end in a block of bounded size or an error.
#![no_main]

use casemate_recorder::transcript::block::{Block, HEADER_LEN, Header, PLAIN_LEN_MAX, link};
use casemate_recorder::transcript::chain;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Block::parse(data);
    // A fuzzer finds no hash by chance: give it one, or it never gets past the link.
    let Some((head, rest)) = data.split_first_chunk::<HEADER_LEN>() else { return };
    let Ok(mut header) = Header::decode(head) else { return };
    assert_eq!(Header::decode(&header.encode()).expect("what we wrote decodes"), header);
    header.stored_len = rest.len() as u32;
    let mut block = header.encode().to_vec();
    block.extend_from_slice(rest);
    let link = link(&block);
    block.extend_from_slice(&link.0);
    if let Ok(block) = Block::parse(&block) {
        if let Ok(plain) = block.plain() {
            assert!(plain.len() as u64 <= PLAIN_LEN_MAX as u64);
        }
        let _ = chain::events(&block);
    }
});
