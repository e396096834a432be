//! Signatures on a trust file: whatever lies beside it, it is read to its end, and nothing that nobody signed counts.
#![no_main]

use casemate_certs::trust::TrustFile;
use libfuzzer_sys::fuzz_target;

const FILE: &str = "version = 1
self_asserted = false
organisation = \"Example Bank\"
issued = 2026-11-22T20:00:00Z
quorum = 1
[[officer]]
name = \"Ada\"
key = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEAat4HXB+1taL76uUVqbcmNfOTBG9Ux6k55FRGOIM/Z\"
from = 2026-01-01T00:00:00Z
[[node]]
key = \"PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW\"
from = 2026-01-01T00:00:00Z
";

fuzz_target!(|signatures: &str| {
    let file = TrustFile::read(FILE, Some(signatures)).expect("the file is good");
    assert!(file.believe(u64::MAX).is_err(), "nobody has the key");
});
