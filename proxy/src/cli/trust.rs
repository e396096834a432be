//! `casemate trust`: what officers and auditors do with a trust file, and what a bastion asks them to put into it.
//!
//! Opens trust files, the signatures beside them, and public parts of a configuration; never a private key. Signing is
//! done by `ssh-keygen`, where the officers' keys are.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use casemate_certs::fields::Reader;
use casemate_certs::keys::quoted;
use casemate_certs::trust::{departures, show_time, sign_text, signature_file, succeed, summary};
use casemate_certs::vkey::{NodePublicKey, VkeyError};
use clap::{Args, Subcommand};

use super::{ConfigArg, say};
use crate::config::Config;
use crate::time::now_us;
use crate::trust_file::{FileError, open, read};

/// How signatures are made and gathered; the same words stand in the README.
const SIGNING: &str = "Each officer reads the text, then signs the file's exact bytes; >> gathers the signatures:
  casemate trust sign-text --trust trust.toml
  ssh-keygen -Y sign -n casemate-trust-v1 -f ~/.ssh/id_ed25519 < trust.toml >> trust.toml.sig";

/// What to do with a trust file.
#[derive(Debug, Subcommand)]
#[command(after_help = SIGNING)]
pub enum TrustVerb {
    /// Show what a trust file says, its fingerprint, and who signed it.
    Show(TrustArg),
    /// Print what a bastion asks to be believed, from its public parts.
    Request(ConfigArg),
    /// Print the text that an officer reads before signing.
    #[command(after_help = SIGNING)]
    SignText(TrustArg),
    /// Check that a trust file counts, and that it may follow the one before it.
    #[command(after_help = SIGNING)]
    Check(CheckArg),
}

/// Names a trust file.
#[derive(Debug, Args)]
pub struct TrustArg {
    /// The trust file; signatures on it are read from FILE.sig.
    #[arg(long, value_name = "FILE")]
    pub trust: PathBuf,
}

/// Names a trust file and the one before it.
#[derive(Debug, Args)]
pub struct CheckArg {
    /// The trust file; signatures on it are read from FILE.sig.
    #[arg(long, value_name = "FILE")]
    pub trust: PathBuf,
    /// The trust file that counted until now, with its own signatures in OLD.sig.
    #[arg(long, value_name = "OLD")]
    pub previous: Option<PathBuf>,
}

/// Why a verb did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum TrustCliError {
    /// A file could not be read, or is none.
    #[error(transparent)]
    File(#[from] FileError),
    /// The node's public key is none.
    #[error("{} is no public key of a node: {source}; copy the line that `casemate init` printed into it", file.display())]
    NodeKey {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: VkeyError,
    },
    /// The node's public key is that of another one.
    #[error("{} is the key of {found:?}, and this node is {node:?}; name the key of this node", file.display())]
    OtherNode {
        /// The file.
        file: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        node: String,
    },
    /// The check found something: `file: what`, one a line.
    #[error("{}", .0.join("\n"))]
    Check(Vec<String>),
}

/// Does what is asked.
///
/// # Errors
/// Files that cannot be read or are none, and for `check` everything that is wrong.
pub fn run(verb: &TrustVerb) -> Result<(), TrustCliError> {
    let text = match verb {
        TrustVerb::Show(arg) => summary(&open(&arg.trust)?, now_us()),
        TrustVerb::Request(arg) => request(&arg.config)?,
        TrustVerb::SignText(arg) => sign_text(&open(&arg.trust)?),
        TrustVerb::Check(arg) => check(&arg.trust, arg.previous.as_deref(), now_us())?,
    };
    say(text.trim_end());
    Ok(())
}

fn check(file: &Path, previous: Option<&Path>, now_us: u64) -> Result<String, TrustCliError> {
    let new = open(file)?;
    let old = previous.map(open).transpose()?;
    let mut problems = Vec::new();
    if let Err(doubt) = new.believe(now_us) {
        problems.push(format!("{doubt}; see casemate trust check --help"));
    }
    let mut notes: Vec<String> = new
        .tally()
        .refused
        .iter()
        .map(|refused| format!("the signature on line {} of {} {}", refused.line, shown_sig(file), refused.why))
        .collect();
    if let Some(old) = &old {
        problems.extend(succeed(&new, old));
        notes.extend(departures(&new, old));
    }
    let place = file.display();
    let notes = notes.iter().map(|note| format!("{place}: note: {note}"));
    if !problems.is_empty() {
        return Err(TrustCliError::Check(
            problems.iter().map(|what| format!("{place}: {what}")).chain(notes).collect(),
        ));
    }
    let signers: Vec<&str> = new.tally().signers.iter().map(|signer| signer.name.as_str()).collect();
    let (whose, issued) = new.board().map_or(("", 0), |board| (board.organisation.as_str(), board.issued_us));
    let follows = previous.map(|old| format!(", follows {}", old.display())).unwrap_or_default();
    let mut text = format!(
        "{place}: ok; {whose}, issued {}, signed by {}{follows}; fingerprint {}\n",
        show_time(issued),
        signers.join(", "),
        new.fingerprint()
    );
    notes.for_each(|note| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{note}");
    });
    Ok(text)
}

fn shown_sig(file: &Path) -> String {
    signature_file(file).display().to_string()
}

/// Says what the bastion asks to be believed. Reads of the configuration only where the node's key lies, and then the
/// public half beside it, so that whoever may see neither the private key nor the persons can run it.
fn request(config: &Path) -> Result<String, TrustCliError> {
    let text = read(config, "name a readable configuration with --config")?;
    let reader = Reader::new(&text);
    let found = reader.root().and_then(|mut root| {
        let node = root.required_text("node", "name this node, such as node = \"bastion-1\"");
        let key = root.required_text("node_key", "name the node's key file, made by `casemate init`");
        let recipients = root.tables("recipient").into_iter().filter_map(|mut table| {
            let (name, key) = (table.text("name")?, table.text("key")?);
            Some((name.value.escape_debug().to_string(), key.value.escape_debug().to_string()))
        });
        Some((node?.value, key?.value, recipients.collect::<Vec<_>>()))
    });
    let Some((node, key, recipients)) = found else {
        return Err(FileError::Invalid { file: config.to_owned(), problems: reader.into_problems() }.into());
    };
    let file = Config::base(config).join(key).with_extension("pub");
    let line = read(&file, "copy the node's public key there, the line that `casemate init` printed")?;
    let public: NodePublicKey =
        line.trim().parse().map_err(|source| TrustCliError::NodeKey { file: file.clone(), source })?;
    if public.name() != node {
        return Err(TrustCliError::OtherNode { file, found: public.name().to_owned(), node });
    }
    let made = std::fs::metadata(&file).and_then(|meta| meta.modified()).ok();
    let made = made.and_then(|made| made.duration_since(UNIX_EPOCH).ok()).map_or(0, |made| made.as_secs());

    let version = env!("CARGO_PKG_VERSION");
    let mut out =
        format!("node {node} asks to be believed:\n  public key  {public}\n  software    casemate {version}\n");
    // Writing to a String cannot fail, here and below.
    if recipients.is_empty() {
        out.push_str("  recipients  none are configured\n");
    }
    for (name, key) in &recipients {
        let _ = writeln!(out, "  recipient   {name} {key}");
    }
    let _ = write!(
        out,
        "\nTo believe it, compare the key with what the bastion itself shows, and add to the trust file, off the bastion:\n\n\
         [[node]]\nkey = \"{public}\"\n\
         # The date of {}: no signature with the key may be older.\nfrom = {}\n",
        quoted(&file),
        show_time(made.saturating_mul(1_000_000))
    );
    for (name, key) in &recipients {
        let duty = if name == "spare" { "spare" } else { "auditor" };
        let _ = write!(out, "\n[[recipient]]\nname = \"{name}\"\nkey = \"{key}\"\nduty = \"{duty}\"\n");
    }
    Ok(out)
}
