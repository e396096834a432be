//! An officer of an organisation: a key made by `ssh-keygen`, and trust files that it signed.

#![allow(clippy::unwrap_used, reason = "a panic in a test is a failing test")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use casemate_certs::trust::{
    Authority, Board, NAMESPACE, Officer, OfficerKey, Period, Trust, TrustedNode, signature_file,
};
use casemate_certs::vkey::NodePublicKey;
use ed25519_dalek::SigningKey;

/// A key of a node that counts in that time.
pub(crate) fn node(name: &str, key: &SigningKey, period: Period) -> TrustedNode {
    TrustedNode { key: NodePublicKey::new(name, key.verifying_key()).unwrap(), period }
}

/// Returns a trust file with one officer, whose key lies in `dir` and is made if it is not there.
pub(crate) fn trust(dir: &Path, nodes: Vec<TrustedNode>) -> Trust {
    let key = dir.join("officer");
    if !key.exists() {
        let mut keygen = Command::new("ssh-keygen");
        assert!(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status().unwrap().success());
    }
    let key = OfficerKey::parse(&fs::read_to_string(key.with_extension("pub")).unwrap()).unwrap();
    let officers = vec![Officer { name: "Ada".to_owned(), key, period: Period::ALWAYS }];
    // 2026-01-01T00:00:00Z.
    let issued_us = 1_767_225_600_000_000;
    let board = Board { organisation: "Example Bank".to_owned(), issued_us, quorum: 1, officers };
    Trust { authority: Authority::Officers(board), ..Trust::self_asserted(None, nodes) }
}

/// Writes a trust file without any signature.
pub(crate) fn write(path: &Path, trust: &Trust) {
    fs::write(path, trust.to_text()).unwrap();
    let _ = fs::remove_file(signature_file(path));
}

/// Has the officer in the same directory sign a trust file.
pub(crate) fn sign(path: &Path) {
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-Y", "sign", "-n", NAMESPACE, "-f"]).arg(path.with_file_name("officer"));
    let output = keygen.stdin(fs::File::open(path).unwrap()).stderr(Stdio::null()).output().unwrap();
    assert!(output.status.success());
    fs::write(signature_file(path), output.stdout).unwrap();
}
