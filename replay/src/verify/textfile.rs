//! What came of a run, for the textfile collector of Prometheus' node exporter: who runs `verify` from a timer sees there
//! that it still runs, and what it says.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Findings, Status};
use crate::ReplayError;
use crate::time::now_us;

/// Writes the verdict.
///
/// # Errors
/// The file cannot be written.
pub(super) fn write(file: &Path, findings: &Findings) -> Result<(), ReplayError> {
    put(file, &page(findings.exit, now_us(), Some(findings)))
}

/// Writes that a run came to no verdict, with its exit status.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write_failed(file: &Path, exit: u8) -> Result<(), ReplayError> {
    put(file, &page(exit, now_us(), None))
}

fn page(exit: u8, now_us: u64, findings: Option<&Findings>) -> String {
    let mut text = String::new();
    let mut head = |name: &str, help: &str, values: &[(String, String)]| {
        let _ = writeln!(text, "# HELP casemate_verify_{name} {help}\n# TYPE casemate_verify_{name} gauge");
        for (labels, value) in values {
            let _ = writeln!(text, "casemate_verify_{name}{labels} {value}");
        }
    };
    let one = |value: String| [(String::new(), value)];
    head("last_run_timestamp_seconds", "When casemate-replay verify ran, Unix time.", &one(seconds(now_us)));
    let help = "Its exit status: 0 clean, 1 altered or missing, 2 could not run, 3 exceptions, 4 cannot decide.";
    head("exit_code", help, &one(exit.to_string()));
    let Some(findings) = findings else { return text };
    head("opened_sessions", "Sessions that the log announces.", &one(findings.sessions.len().to_string()));
    let by_status: Vec<_> = Status::ALL
        .into_iter()
        .map(|status| (format!("{{status=\"{}\"}}", status.name()), findings.count(status).to_string()))
        .collect();
    head("sessions", "Sessions by what is known of them; together they are the opened ones.", &by_status);
    if let Some(as_of) = findings.as_of_us() {
        let help = "Up to when every node is anchored, Unix time; absent without an anchor.";
        head("as_of_timestamp_seconds", help, &one(seconds(as_of)));
    }
    text
}

fn seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

/// Whoever reads meets the old file or the new one, whole.
fn put(file: &Path, text: &str) -> Result<(), ReplayError> {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let replace = || {
        // Its name does not end in .prom, so a run that is cut short leaves nothing to be read.
        let mut new = tempfile::NamedTempFile::new_in(dir)?;
        new.write_all(text.as_bytes())?;
        // The exporter runs as somebody else; nothing in here names a person or a session.
        new.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        new.persist(file).map_err(|error| error.error).map(drop)
    };
    replace().map_err(ReplayError::io("write", file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_a_verdict_replaces_what_was_there_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("casemate.prom");
        std::fs::write(&file, "old").unwrap();
        write_failed(&file, 2).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("\ncasemate_verify_exit_code 2\n"), "{text}");
        assert!(text.contains("\ncasemate_verify_last_run_timestamp_seconds 1") && text.ends_with('\n'), "{text}");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
        let error = write_failed(&dir.path().join("none/casemate.prom"), 2).unwrap_err();
        assert!(error.to_string().contains("casemate.prom"), "{error}");
    }
}
