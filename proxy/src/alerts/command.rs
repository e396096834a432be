//! Runs the operator's command for an alert: without a shell, with nothing in its environment but PATH, for ten seconds.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::config::AlertCommand;

/// How long a run may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Where the command finds its own programs, whatever the daemon was started with.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How a run of the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With exit status 0.
    Done,
    /// With another one, or by a signal.
    Failed,
    /// It took too long and was killed.
    TimedOut,
    /// It could not be started.
    NotStarted,
}

impl Outcome {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Done, Self::Failed, Self::TimedOut, Self::NotStarted];

    /// Returns the name in figures and in the log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::TimedOut => "timed-out",
            Self::NotStarted => "not-started",
        }
    }
}

/// Runs the command with that on its standard input.
pub(super) async fn run(command: &AlertCommand, message: &[u8]) -> Outcome {
    run_for(command, message, LIMIT).await
}

async fn run_for(command: &AlertCommand, message: &[u8], limit: Duration) -> Outcome {
    let mut process = Command::new(&command.program);
    process.args(&command.arguments).env_clear().env("PATH", PATH).current_dir("/");
    process.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // A group of its own, so that what it started goes with it.
    process.process_group(0).kill_on_drop(true);
    let mut child = match process.spawn() {
        Ok(child) => child,
        Err(error) => {
            tracing::error!(program = %command.program.display(), %error, "cannot run the alert command");
            return Outcome::NotStarted;
        }
    };
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let input = child.stdin.take();
    let work = async {
        if let Some(mut input) = input {
            // A command that does not read it was told all the same: by being run.
            let _ = input.write_all(message).await;
        }
        child.wait().await
    };
    match timeout(limit, work).await {
        Ok(Ok(status)) if status.success() => Outcome::Done,
        Ok(_) => Outcome::Failed,
        Err(_) => {
            if let Some(group) = group {
                // Not waited for: only the child is known to be there still.
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = child.wait().await;
            Outcome::TimedOut
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::time::Instant;

    use super::*;

    fn script(dir: &Path, text: &str) -> AlertCommand {
        let program = dir.join("page");
        std::fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        AlertCommand { program, arguments: vec!["--from".to_owned(), "$(id) *".to_owned()] }
    }

    fn run_it(command: &AlertCommand, limit: Duration) -> Outcome {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run_for(command, b"{\"alert\":\"x\"}\n", limit))
    }

    #[test]
    fn it_gets_its_arguments_as_they_are_the_message_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let command = script(dir.path(), &format!("exec > {}; echo \"$#:$1:$2\"; pwd; cat; env", out.display()));
        assert_eq!(run_it(&command, LIMIT), Outcome::Done);
        let said = std::fs::read_to_string(out).unwrap();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(&lines[..3], ["2:--from:$(id) *", "/", "{\"alert\":\"x\"}"]);
        // A shell adds these two itself.
        let env: Vec<_> =
            lines[3..].iter().filter(|line| !line.starts_with("PWD=") && !line.starts_with("_=")).collect();
        assert_eq!(env, [&format!("PATH={PATH}")]);
    }

    #[test]
    fn a_command_that_does_not_end_is_killed_with_what_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let command = script(dir.path(), &format!("sleep 600 & echo $! > {}; wait", pid.display()));
        let begin = Instant::now();
        assert_eq!(run_it(&command, Duration::from_millis(1500)), Outcome::TimedOut);
        assert!(begin.elapsed() < Duration::from_secs(30));
        let pid = std::fs::read_to_string(pid).unwrap();
        let alive = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
            stat.is_ok_and(|stat| !stat.contains(") Z "))
        };
        let gone = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            !alive()
        });
        assert!(gone, "what the command started goes with it");
    }

    #[test]
    fn a_command_that_fails_or_is_not_there_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(run_it(&script(dir.path(), "exit 3"), LIMIT), Outcome::Failed);
        assert_eq!(run_it(&script(dir.path(), "kill -9 $$"), LIMIT), Outcome::Failed);
        assert_eq!(run_it(&script(dir.path(), "exec <&-"), LIMIT), Outcome::Done);
        let missing = AlertCommand { program: PathBuf::from("/nonexistent/page"), arguments: Vec::new() };
        assert_eq!(run_it(&missing, LIMIT), Outcome::NotStarted);
    }
}
