//! The program `casemate`: arguments in, exit code out. Everything else is in the library.

use std::process::ExitCode;

use casemate::cli::target_add::AddError;
use casemate::cli::{self, Cli, TargetVerb, Verb};
use clap::Parser;

fn main() -> ExitCode {
    // Usage errors end here with 2, `--help` and `--version` with 0.
    let cli = Cli::parse();
    match run(cli.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Each error tells its cause itself. Configuration problems are `file:line: …`, one a line, for editors to jump to: no prefix.
            eprintln!("{error}");
            let usage = matches!(error.downcast_ref(), Some(AddError::Usage(_)));
            if usage { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Init(plan) => cli::say(casemate::init::init(&plan)?.report.trim_end()),
        Verb::Check(arg) => cli::check(&arg.config)?,
        Verb::Serve(arg) => cli::serve::serve(&arg.config)?,
        Verb::Target(TargetVerb::Add(request)) => cli::target_add::target_add(&request)?,
        Verb::Certificate(request) => cli::certificate::certificate(&request)?,
        Verb::Secret(request) => cli::secret::secret(&request)?,
        Verb::Trust(verb) => cli::trust::run(&verb)?,
        Verb::Vault(verb) => cli::vault::run(&verb)?,
    }
    Ok(())
}
