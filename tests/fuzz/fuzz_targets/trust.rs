//! The trust file: any text ends in a file or in complaints.
#![no_main]

use casemate_certs::trust::Trust;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(trust) = Trust::parse(text) {
        Trust::parse(&trust.to_text()).expect("what we wrote parses");
    }
});
