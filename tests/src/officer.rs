//! An officer of an organisation, off the bastion, who vouches for its key: the trust file with which an auditor can decide.
//!
//! It is made as the README says, by `casemate trust request` and `ssh-keygen`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::bastion::Bastion;
use crate::keys;

/// Writes a trust file into `desk`, with `rules` such as `anchor_age_max = "1d"` in it, signs it, and returns its path.
///
/// # Errors
/// When a program fails, or the bastion asks for something that is no trust file.
pub fn vouch(bastion: &Bastion, desk: &Path, rules: &str) -> Result<PathBuf> {
    let config = bastion.config();
    let config = config.to_str().context("a path that is not UTF-8")?;
    let asked = Bastion::casemate(&["trust", "request", "--config", config])?.ok()?.out();
    let (_, tables) = asked.split_once("\n[[").context("the bastion asks for nothing")?;
    let key = desk.join("officer");
    let public = keys::make(&key, "ed25519")?;
    let file = desk.join("trust.toml");
    let text = format!(
        "version = 1\nself_asserted = false\norganisation = \"Example Bank\"\nissued = 2026-01-02T00:00:00Z\nquorum = 1\n{rules}\n\
         [[officer]]\nname = \"Ada\"\nkey = \"{public}\"\nfrom = 2026-01-01T00:00:00Z\n\n[[{tables}"
    );
    fs::write(&file, text)?;
    let mut sign = Command::new("ssh-keygen");
    sign.args(["-q", "-Y", "sign", "-n", "casemate-trust-v1", "-f"]).arg(&key).stdin(fs::File::open(&file)?);
    let output = sign.output().context("ssh-keygen")?;
    ensure!(output.status.success(), "ssh-keygen: {}", String::from_utf8_lossy(&output.stderr));
    fs::write(desk.join("trust.toml.sig"), output.stdout)?;
    let check = ["trust", "check", "--trust", file.to_str().context("a path that is not UTF-8")?];
    Bastion::casemate(&check)?.ok()?;
    Ok(file)
}
