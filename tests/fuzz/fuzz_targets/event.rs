//! Events: what decodes is in the one valid spelling, so it encodes to the same bytes.
#![no_main]

use casemate_recorder::transcript::event::{decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok((entry, len)) = decode(data) {
        assert!(len <= data.len());
        let mut again = Vec::new();
        encode(&mut again, entry.seq, entry.dt_us, &entry.event);
        // A longer spelling of a number decodes too; what it says must not change.
        assert_eq!(decode(&again).expect("what we wrote decodes").0, entry);
    }
});
