//! The program `casemate-replay`: arguments in, an exit status out. Everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    casemate_replay::cli::main()
}
