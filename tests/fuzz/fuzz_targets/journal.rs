//! Journal records: any bytes, with any salt, end in a record inside them or in none.
#![no_main]

use casemate_recorder::journal::record::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, &[u8])| {
    let (salt, data) = input;
    if let Some(record) = parse(data, salt) {
        assert!(record.payload.len() <= data.len());
    }
});
