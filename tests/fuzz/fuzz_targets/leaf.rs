//! Leaves of the node log: what decodes encodes again, and says the same then.
#![no_main]

use casemate_recorder::log::leaf::Leaf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(leaf) = Leaf::decode(data) {
        let again = leaf.encode().expect("what was decoded fits");
        assert_eq!(Leaf::decode(&again).expect("what we wrote decodes"), leaf);
    }
});
