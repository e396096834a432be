//! Tiles and entry bundles: what is read is what would be written.
#![no_main]

use casemate_recorder::log::tile::{TileName, push_entry, read_entries, read_hashes, write_hashes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, &[u8])| {
    let (width, data) = input;
    if let Ok(entries) = read_entries(data, width, true) {
        let mut again = Vec::new();
        entries.iter().for_each(|entry| push_entry(&mut again, entry).expect("an entry that was read fits"));
        assert_eq!(again, data);
    }
    if let Ok(hashes) = read_hashes(data, width) {
        assert_eq!(write_hashes(&hashes), data);
    }
    if let Ok(name) = std::str::from_utf8(data).unwrap_or_default().parse::<TileName>() {
        assert_eq!(name.to_string().as_bytes(), data);
    }
});
