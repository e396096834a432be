//! `casemate vault`: the vaults elsewhere that a configuration names, looked at from here.

use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::{ConfigArg, say};
use crate::config::{Config, ConfigError};
use casemate_recorder::vault::s3::{Bucket, Purpose, Settings};

/// What to do with vaults.
#[derive(Debug, Subcommand)]
pub enum VaultVerb {
    /// Ask every vault elsewhere whether it is what evidence can rest in, and try to delete from it.
    Check(VaultCheck),
}

/// What `vault check` shall do.
#[derive(Debug, Args)]
pub struct VaultCheck {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArg,
    /// Only this one.
    #[arg(long, value_name = "NAME")]
    pub vault: Option<String>,
}

/// Why a check did not end well.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The configuration is not good.
    #[error("the configuration must pass the check first:\n{0}")]
    Config(#[from] ConfigError),
    /// There is nothing to check.
    #[error("the configuration names no vault elsewhere; casemate.example.toml shows a [[vault.s3]]")]
    None,
    /// No vault has this name.
    #[error("no [[vault.s3]] is called {name:?}; there are: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The daemon's runtime could not be had.
    #[error("cannot begin: {0}")]
    System(#[from] std::io::Error),
    /// Something is not as it should be.
    #[error("{findings} not as it should be, {unknown} could not be asked: see above")]
    Findings {
        /// Of them.
        findings: usize,
        /// Of them.
        unknown: usize,
    },
}

/// Runs a verb.
///
/// # Errors
/// The configuration, the server, or what it was found to be.
pub fn run(verb: &VaultVerb) -> Result<(), VaultError> {
    match verb {
        VaultVerb::Check(request) => check(request),
    }
}

fn check(request: &VaultCheck) -> Result<(), VaultError> {
    let config = Config::load(&request.config.config)?;
    let vaults = &config.vault.s3;
    if vaults.is_empty() {
        return Err(VaultError::None);
    }
    let wanted = |vault: &&Settings| request.vault.as_ref().is_none_or(|name| *name == vault.name);
    let chosen: Vec<_> = vaults.iter().filter(wanted).collect();
    if let (Some(name), true) = (&request.vault, chosen.is_empty()) {
        let known: Vec<_> = vaults.iter().map(|vault| vault.name.as_str()).collect();
        return Err(VaultError::Unknown { name: name.clone(), known: known.join(", ") });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut findings, mut unknown) = (0, 0);
    for settings in chosen {
        let at = settings.endpoint.as_deref().unwrap_or("Amazon S3");
        say(&format!("{}: bucket {} at {at}", settings.name, settings.bucket));
        let now_us = u64::try_from(Timestamp::now().as_microsecond()).unwrap_or(0);
        let checks = runtime.block_on(async {
            match Bucket::open(settings.clone(), Purpose::Reading).await {
                Ok(bucket) => Ok(bucket.check_all(&config.node, now_us).await),
                Err(error) => Err(error),
            }
        });
        match checks {
            Ok(checks) => {
                for check in checks {
                    findings += usize::from(check.is_finding());
                    unknown += usize::from(check.is_unknown());
                    say(&format!("  {:8} {:11} {}", check.kind.name(), check.what, check.text));
                }
            }
            Err(error) => {
                findings += 1;
                say(&format!("  {:8} {:11} {error}", "FINDING", "settings"));
            }
        }
    }
    if findings + unknown > 0 { Err(VaultError::Findings { findings, unknown }) } else { Ok(()) }
}
