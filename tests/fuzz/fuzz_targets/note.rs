//! Checkpoints, slips and keys: text that parses is in its one valid spelling.
#![no_main]

use casemate_recorder::Slip;
use casemate_recorder::log::note::{LogKey, Note};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(note) = text.parse::<Note>() {
        assert_eq!(note.to_string(), text);
    }
    if let Ok(slip) = text.parse::<Slip>() {
        assert_eq!(slip.to_string().parse::<Slip>().expect("what we wrote parses").to_string(), slip.to_string());
    }
    if let Ok(key) = text.parse::<LogKey>() {
        assert_eq!(key.to_string(), text);
    }
});
