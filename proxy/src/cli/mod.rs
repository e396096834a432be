//! The command line: what it takes, and the verbs that are done in a moment.
//!
//! Exit codes are 0 done, 1 refused, 2 usage. `serve` is in [`serve`], `target add` in [`target_add`],
//! `secret` in [`secret`], `certificate` in [`certificate`], `trust` in [`trust`], `vault` in [`vault`].

pub mod certificate;
mod keep;
mod log;
pub mod secret;
pub mod serve;
pub mod target_add;
pub mod trust;
pub mod vault;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use casemate_certs::trust::show_count;
use clap::{Args, Parser, Subcommand};
use jiff::Timestamp;

use crate::config::{Config, ConfigError};
use crate::init::Plan;

/// What stands below the help.
const AFTER_HELP: &str = "Exit codes: 0 done, 1 refused, 2 usage. \
Log level: CASEMATE_LOG, which is error, warn or info (the default); in development builds also debug.";

/// A session-recording bastion for SSH and PostgreSQL: people work through it, and everything is written down before it goes on.
#[derive(Debug, Parser)]
#[command(name = "casemate", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a directory with a working configuration, keys and a node identity.
    Init(Plan),
    /// Check a configuration and the key files it names, and say everything that is wrong.
    Check(ConfigArg),
    /// Let people in; SIGHUP reloads, SIGTERM drains and seals.
    Serve(ConfigArg),
    /// Work on the targets of a configuration.
    #[command(subcommand)]
    Target(TargetVerb),
    /// Issue the next certificate of the PostgreSQL front door, from the authority that `init` made.
    Certificate(certificate::Certificate),
    /// Encrypt a target's password to the node.
    Secret(secret::Secret),
    /// Work on the trust file, by which recordings are judged.
    #[command(subcommand)]
    Trust(trust::TrustVerb),
    /// Look at the vaults elsewhere.
    #[command(subcommand)]
    Vault(vault::VaultVerb),
}

/// What to do with targets.
#[derive(Debug, Subcommand)]
pub enum TargetVerb {
    /// Look at a target, show its host key (SSH) or its certificates (PostgreSQL), pin that, and write the target into the
    /// configuration.
    Add(target_add::TargetAdd),
}

/// Names the configuration.
#[derive(Debug, Args)]
pub struct ConfigArg {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Loads a configuration and says in one line what it amounts to.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check(file: &Path) -> Result<(), ConfigError> {
    let config = Config::load(file)?;
    let hash: String = config.hash.iter().map(|byte| format!("{byte:02x}")).collect();
    say(&format!(
        "{}: ok; node {}, durability {}, encryption {}, {}, {}, {}, blake3 {hash}",
        file.display(),
        config.node,
        config.durability.name(),
        config.encryption,
        show_count(config.persons.len(), "person"),
        show_count(config.targets.len(), "target"),
        show_count(config.access.len(), "access line"),
    ));
    let warning = config.postgres.as_ref().and_then(|front| front.ends_soon(Timestamp::now().as_second()));
    if let Some(warning) = warning {
        say(&format!("{}: warning: {warning}", file.display()));
    }
    Ok(())
}

/// Prints a line to standard output. A reader that went away is no reason to fail: the work is done.
pub fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_usage_error_exits_with_two() {
        for args in [&["casemate", "serve"][..], &["casemate", "fly"], &["casemate", "check", "--config"]] {
            assert_eq!(Cli::try_parse_from(args).unwrap_err().exit_code(), 2, "{args:?}");
        }
        assert_eq!(Cli::try_parse_from(["casemate", "--version"]).unwrap_err().exit_code(), 0);
    }
}
