//! What concerns those who operate the bastion and nobody who works through it: `[log]`, `[alerts]` and where figures are
//! shown.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use casemate_certs::fields::{Fields, Located};
use casemate_certs::keys::quoted;

use super::keys::Objection;
use super::parse::Parser;

/// Arguments of the alert command, and the bytes of one.
const ARGUMENTS_MAX: usize = 64;
const ARGUMENT_LEN_MAX: usize = 4096;

/// How the daemon writes its log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is run for each alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertCommand {
    /// An absolute path.
    pub program: PathBuf,
    /// What it is given, as it is.
    pub arguments: Vec<String>,
}

impl Parser<'_, '_> {
    /// Reads a list of addresses to listen on; `None` where nothing is listed.
    pub(super) fn addresses(&self, table: &mut Fields<'_, '_>, field: &'static str) -> Option<Vec<SocketAddr>> {
        let texts = table.texts(field);
        let mut found: Option<Vec<SocketAddr>> = (!texts.is_empty()).then(Vec::new);
        for text in texts {
            match text.value.parse::<SocketAddr>() {
                Ok(addr) if found.iter().flatten().any(|known| *known == addr) && addr.port() != 0 => {
                    self.reader.complain(
                        text.line,
                        format!("listen.{field} has {addr} twice"),
                        "remove one of the two",
                    );
                }
                Ok(addr) => found.get_or_insert_default().push(addr),
                Err(_) => {
                    let what = format!("listen.{field} has no address and port: {:?}", text.value);
                    self.reader.complain(text.line, what, "write ADDRESS:PORT with numbers, IPv6 in brackets");
                }
            }
        }
        found
    }

    pub(super) fn log(&self, root: &mut Fields<'_, '_>) -> LogFormat {
        let Some(mut table) = root.table("log") else { return LogFormat::default() };
        let format = table.text("format").map(|format| match format.value.as_str() {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            other => {
                let what = format!("log.format {other:?} is not known");
                self.reader.complain(format.line, what, "write \"text\" or \"json\"");
                LogFormat::default()
            }
        });
        table.finish();
        format.unwrap_or_default()
    }

    /// `None` where nothing is run.
    pub(super) fn alerts(&self, root: &mut Fields<'_, '_>) -> Option<AlertCommand> {
        let mut table = root.table("alerts")?;
        let words = table.texts("command");
        if words.is_empty() {
            table.missing("command", "write command = [\"/usr/local/bin/page\"], or leave [alerts] out");
        }
        table.finish();
        let unfit = |word: &&Located<String>| word.value.contains('\0') || word.value.len() > ARGUMENT_LEN_MAX;
        if let Some(word) = words.iter().find(unfit).or_else(|| words.get(ARGUMENTS_MAX)) {
            let what = format!(
                "alerts.command has more than {ARGUMENTS_MAX} words, or one with a NUL or over {ARGUMENT_LEN_MAX} bytes"
            );
            self.reader.complain(word.line, what, "put what it needs into a script");
            return None;
        }
        let mut words = words.into_iter();
        let program = words.next()?.map(PathBuf::from);
        if let Err(Objection { what, remedy }) = check_program(&program.value) {
            self.reader.complain(program.line, what, remedy);
            return None;
        }
        Some(AlertCommand { program: program.value, arguments: words.map(|word| word.value).collect() })
    }
}

/// What runs with the daemon's rights is changed by nobody but its user and root.
fn check_program(program: &Path) -> Result<(), Objection> {
    let shown = program.display();
    let objection = |what: String, remedy: String| Err(Objection { what, remedy });
    if !program.is_absolute() {
        let what = format!("alerts.command begins with {program:?}, which is no absolute path");
        return objection(what, "write the whole path of the program: no shell and no PATH finds it".to_owned());
    }
    let meta = match std::fs::metadata(program) {
        Ok(meta) => meta,
        Err(error) => {
            return objection(format!("cannot use {shown}: {error}"), "correct the path, or install it".into());
        }
    };
    if !meta.is_file() {
        return objection(format!("{shown} is no regular file"), "name a program".to_owned());
    }
    if rustix::fs::access(program, rustix::fs::Access::EXEC_OK).is_err() {
        return objection(format!("{shown} cannot be executed"), format!("run: chmod 755 {}", quoted(program)));
    }
    // Whoever may replace the file may as well write it.
    let dir = program.parent().unwrap_or_else(|| Path::new("/"));
    let at = match std::fs::metadata(dir) {
        Ok(meta) => meta,
        Err(error) => {
            return objection(format!("cannot use {}: {error}", dir.display()), "correct the path".to_owned());
        }
    };
    let sticky = at.mode() & 0o1000 != 0;
    let uid = rustix::process::geteuid().as_raw();
    for (path, meta, open) in
        [(program, &meta, meta.mode() & 0o022), (dir, &at, if sticky { 0 } else { at.mode() & 0o022 })]
    {
        if meta.uid() != uid && meta.uid() != 0 {
            let what = format!("{} belongs to uid {}", path.display(), meta.uid());
            return objection(what, format!("run: chown {uid} {}", quoted(path)));
        }
        if open != 0 {
            let what =
                format!("{} has mode {:04o}: others can change what is run", path.display(), meta.mode() & 0o7777);
            return objection(what, format!("run: chmod go-w {}", quoted(path)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ConfigError};
    use crate::testing::{Home, SAMPLE, chmod};

    fn with(home: &Home, more: &str) -> Result<Config, String> {
        home.load(&format!("{SAMPLE}\n{more}")).map_err(|error| match error {
            ConfigError::Invalid { problems, .. } => problems
                .iter()
                .map(|problem| format!("{}; {}", problem.what, problem.remedy))
                .collect::<Vec<_>>()
                .join("\n"),
            error => error.to_string(),
        })
    }

    #[test]
    fn nothing_is_shown_or_run_unless_somebody_says_so() {
        let home = Home::new();
        let config = home.load(SAMPLE).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((config.listen.metrics, config.log, config.alerts), (Vec::new(), LogFormat::Text, None));
        let listen =
            SAMPLE.replace("ssh = [\"127.0.0.1:2222\"]", "ssh = [\"127.0.0.1:2222\"]\nmetrics = [\"[::1]:9464\"]");
        let config =
            home.load(&format!("{listen}\n[log]\nformat = \"json\"\n[alerts]\ncommand = [\"/bin/true\", \"a b\"]"));
        let config = config.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config.listen.metrics, ["[::1]:9464".parse().unwrap()]);
        assert_eq!(config.log, LogFormat::Json);
        let command = AlertCommand { program: "/bin/true".into(), arguments: vec!["a b".to_owned()] };
        assert_eq!(config.alerts, Some(command));
    }

    #[test]
    fn bad_values_are_named_with_a_remedy() {
        let home = Home::new();
        let cases = [
            ("[log]\nformat = \"xml\"", "log.format \"xml\" is not known; write \"text\" or \"json\""),
            ("[log]\nlevel = \"debug\"", "unknown field log.\"level\""),
            ("[alerts]", "alerts.command is missing; write command = "),
            ("[alerts]\ncommand = []", "alerts.command is missing"),
            ("[alerts]\ncommand = [\"page\"]", "no absolute path; write the whole path"),
            ("[alerts]\ncommand = [\"/nonexistent/page\"]", "cannot use /nonexistent/page"),
            ("[alerts]\ncommand = [\"/bin\"]", "/bin is no regular file; name a program"),
            ("[alerts]\ncommand = [\"/etc/passwd\"]", "/etc/passwd cannot be executed; run: chmod 755 "),
            ("[alerts]\ncommand = [\"/bin/true\", \"\\u0000\"]", "one with a NUL"),
        ];
        for (more, said) in cases {
            let error = with(&home, more).err().unwrap_or_else(|| panic!("{more} passes"));
            assert!(error.contains(said), "{more}: {error}");
        }
        let twice =
            SAMPLE.replace("[listen]", "[listen]\nmetrics = [\"127.0.0.1:9464\", \"127.0.0.1:9464\", \"localhost:1\"]");
        let Err(ConfigError::Invalid { problems, .. }) = home.load(&twice) else { panic!("passes") };
        assert!(problems[0].what.contains("listen.metrics has 127.0.0.1:9464 twice"), "{problems:?}");
        assert!(problems[1].what.contains("listen.metrics has no address and port: \"localhost:1\""), "{problems:?}");
        let same = SAMPLE.replace("[listen]", "[listen]\nmetrics = [\"127.0.0.1:2222\"]");
        let Err(ConfigError::Invalid { problems, .. }) = home.load(&same) else { panic!("passes") };
        assert!(problems[0].what.contains("both listen.ssh and listen.metrics have 127.0.0.1:2222"), "{problems:?}");
    }

    #[test]
    fn a_command_that_others_can_change_is_refused() {
        let home = Home::new();
        let dir = home.path("bin");
        std::fs::create_dir(&dir).unwrap();
        chmod(&dir, 0o755);
        let program = dir.join("page");
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        let more = format!("[alerts]\ncommand = [{:?}]", program.display().to_string());
        let cases = [
            (0o755, 0o755, ""),
            (0o775, 0o755, "page has mode 0775: others can change what is run; run: chmod go-w "),
            (0o757, 0o755, "page has mode 0757"),
            (0o644, 0o755, "cannot be executed; run: chmod 755 "),
            (0o755, 0o777, "bin has mode 0777"),
            (0o755, 0o1777, ""),
        ];
        for (file_mode, dir_mode, said) in cases {
            chmod(&program, file_mode);
            chmod(&dir, dir_mode);
            match with(&home, &more) {
                Ok(_) => assert_eq!(said, "", "{file_mode:o} {dir_mode:o} passes"),
                Err(error) => assert!(!said.is_empty() && error.contains(said), "{file_mode:o} {dir_mode:o}: {error}"),
            }
        }
    }
}
