//! A script of a session's statements: to be read, and fit to be fed to psql.
//!
//! What psql would act on beyond the statement itself stays in comments: backslashes, for its own commands and for strings that
//! it reads otherwise than the server did; its variables; COPY with data on the connection, which is not here; secrets that the
//! record has as stars; what failed or was not run. Nobody breaks out of a comment: each of its lines is made visible and begins as
//! one. Statements with parameters are prepared under a name that nobody could have prepared something else under.

use std::io::Write;

use casemate_recorder::transcript::event::{Lane, pg_done};
use casemate_recorder::transcript::head::Protocol;
use casemate_screen::safe::{is_hostile, visible};

use super::failed;
use super::psql::may_interpolate;
use crate::ReplayError;
use crate::json::hex;
use crate::reader::Transcript;
use crate::sql::line::{outcome, shown_param};
use crate::sql::{Statement, Statements};
use crate::time::{offset, rfc3339};

pub(super) fn write(transcript: &Transcript, out: &mut dyn Write) -> Result<(), ReplayError> {
    if transcript.head.protocol != Some(Protocol::Pg) {
        let what = "is no PostgreSQL session: `--format text` and `--format asciicast` are for terminals";
        return Err(ReplayError::Usage(format!("session {} {what}", transcript.session())));
    }
    let mut put = |text: &str| out.write_all(text.as_bytes()).map_err(failed());
    put(&format!(
        "-- Casemate session {}, {}\n-- Times count from then; statements stand in the order in which they ended.\n",
        transcript.session(),
        rfc3339(transcript.start_us)
    ))?;
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| failed()(error.into()))?;
    let (mut statements, mut group) = (Statements::new(), Group::new(format!("casemate_{}", hex(&random))));
    let mut script = String::new();
    for event in transcript.events(&Lane::ALL) {
        let (t_us, entry) = event?;
        statements.take(t_us, &entry.event, |statement| group.take(statement, &mut script));
        put(&std::mem::take(&mut script))?;
    }
    statements.finish(|statement| group.take(statement, &mut script));
    group.end(&mut script);
    put(&script)
}

/// The statements of one Query, which are one text.
#[derive(Debug)]
struct Group {
    statements: Vec<Statement>,
    /// What a statement with parameters is prepared as.
    name: String,
}

impl Group {
    fn new(name: String) -> Self {
        Self { statements: Vec::new(), name }
    }

    fn take(&mut self, statement: Statement, script: &mut String) {
        if self.statements.first().is_some_and(|first| first.number != statement.number) {
            self.end(script);
        }
        self.statements.push(statement);
    }

    fn end(&mut self, script: &mut String) {
        let group = std::mem::take(&mut self.statements);
        let Some(first) = group.first() else { return };
        script.push('\n');
        for statement in &group {
            comment(script, &format!("{}  {}", offset(statement.t_us), outcome(statement)));
        }
        if let Some(params) = &first.params {
            for (place, param) in params.iter().enumerate() {
                comment(script, &format!("${} = {}", place + 1, shown_param(param)));
            }
        }
        let Some(sql) = &first.sql else {
            let what =
                first.function.map_or_else(|| "its text is not here".to_owned(), |oid| format!("function {oid}"));
            return comment(script, &format!("({what})"));
        };
        match runnable(&group, sql, &self.name) {
            Ok(text) => script.push_str(&text),
            Err(why) => {
                comment(script, &format!("({why})"));
                comment(script, &String::from_utf8_lossy(sql));
            }
        }
    }
}

/// Returns statements as psql may run them, prepared under `name` where need be, or why it must not.
fn runnable(group: &[Statement], sql: &[u8], name: &str) -> Result<String, &'static str> {
    let Some(first) = group.first() else { return Err("nothing is here") };
    let text = std::str::from_utf8(sql).map_err(|_| "not UTF-8, so shown as far as it can be")?;
    let text = text.replace("\r\n", "\n");
    let lower = text.to_ascii_lowercase();
    if !group.iter().all(|statement| matches!(statement.outcome.as_str(), "done" | "empty" | "suspended")) {
        return Err("not run, or not with success");
    }
    if first.clipped {
        return Err("longer than is kept");
    }
    if text.contains(|c: char| is_hostile(c) && !matches!(c, '\n' | '\t')) {
        return Err("holds characters that are shown by their pictures here");
    }
    if text.contains('\\') {
        return Err("holds a backslash, which psql may read otherwise");
    }
    if may_interpolate(&text) {
        return Err("psql may put a variable of its own into it");
    }
    if lower.contains("copy") && (lower.contains("stdin") || lower.contains("stdout")) {
        return Err("its data is not here");
    }
    if lower.contains("**") {
        return Err("stars may stand for a secret here");
    }
    if let (Some(b"ROLLBACK"), "commit" | "end") = (first.bytes_of(pg_done::TAG), first_word(&lower)) {
        return Ok("-- a COMMIT that was none\nrollback\n;\n".to_owned());
    }
    let params = first.params.as_deref().unwrap_or_default();
    if params.is_empty() {
        // Behind a line end nothing that the text leaves open, such as a comment, takes the semicolon in.
        return Ok(format!("{text}\n;\n"));
    }
    let literals: Option<Vec<String>> = params.iter().map(literal).collect();
    let literals = literals.ok_or("its values cannot be written down as they were")?;
    Ok(format!("prepare {name} as\n{text}\n;\nexecute {name} ({})\n;\ndeallocate {name};\n", literals.join(", ")))
}

fn first_word(text: &str) -> &str {
    text.split(|c: char| !c.is_ascii_alphabetic()).find(|word| !word.is_empty()).unwrap_or_default()
}

/// Returns a value as SQL; `None` where that needs what psql must not get.
fn literal(value: &Option<String>) -> Option<String> {
    match value {
        None => Some("null".to_owned()),
        Some(value) if value.contains(|c: char| is_hostile(c) || c == '\\') => None,
        Some(value) => Some(format!("'{}'", value.replace('\'', "''"))),
    }
}

/// Appends text as comments, line by line.
fn comment(script: &mut String, text: &str) {
    for line in text.split('\n') {
        script.push_str("-- ");
        script.push_str(&visible(line));
        script.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use casemate_recorder::transcript::event::Event;

    use super::*;

    fn statement(sql: &[u8], outcome: &str, params: Option<Vec<Option<String>>>) -> Statement {
        Statement {
            t_us: 0,
            number: 0,
            sql: Some(sql.into()),
            function: None,
            params,
            clipped: false,
            formats: Vec::new(),
            outcome: outcome.to_owned(),
            done: None,
        }
    }

    fn script(statements: Vec<Statement>) -> String {
        let (mut group, mut script) = (Group::new("casemate_1f".to_owned()), String::new());
        statements.into_iter().for_each(|statement| group.take(statement, &mut script));
        group.end(&mut script);
        script
    }

    /// What psql would take as input: no comments.
    fn live(script: &str) -> Vec<&str> {
        script.lines().filter(|line| !line.is_empty() && !line.starts_with("-- ")).collect()
    }

    #[test]
    fn what_was_done_can_be_run_and_its_semicolon_is_no_part_of_a_comment() {
        assert_eq!(live(&script(vec![statement(b"select 1 -- x", "done", None)])), ["select 1 -- x", ";"]);
        let params = Some(vec![Some("it's".to_owned()), None]);
        assert_eq!(
            live(&script(vec![statement(b"select $1, $2", "done", params)])),
            [
                "prepare casemate_1f as",
                "select $1, $2",
                ";",
                "execute casemate_1f ('it''s', null)",
                ";",
                "deallocate casemate_1f;"
            ]
        );
    }

    #[test]
    fn what_psql_would_act_on_stays_in_comments() {
        for sql in [
            &b"select 'a\\' \\! touch /tmp/x '"[..],
            b"copy t from stdin",
            b"select 1\r\\! id",
            b"select 1 \x1b[2J",
            b"alter role x password '*****'",
            b"select '\xff'",
            b"select a[1:LAST_ERROR_MESSAGE] from (select array[1] as a, 1 as last_error_message) as t",
            b"select 'open",
            b"select 1\n\\! id",
            "select '\u{2028}\\! id'".as_bytes(),
        ] {
            let script = script(vec![statement(sql, "done", None)]);
            assert_eq!(live(&script), NONE, "{script}");
            assert!(script.chars().all(|c| !is_hostile(c) || c == '\n'), "{script:?}");
        }
        for outcome in ["failed", "skipped", "unanswered", "unknown", ""] {
            assert_eq!(live(&script(vec![statement(b"drop table t", outcome, None)])), NONE);
        }
        let params = Some(vec![Some("\n\\! id".to_owned())]);
        assert_eq!(live(&script(vec![statement(b"select $1", "done", params)])), NONE);
    }

    const NONE: [&str; 0] = [];

    #[test]
    fn a_query_of_which_a_part_failed_is_not_run_and_a_commit_that_was_none_is_a_rollback() {
        let both = vec![statement(b"insert 1; fail", "done", None), statement(b"insert 1; fail", "failed", None)];
        assert_eq!(live(&script(both)), NONE);
        let done = Event::map(pg_done::TYPE, 0).with(pg_done::TAG, b"ROLLBACK".as_slice());
        let commit = Statement { done: Some(done), ..statement(b"COMMIT", "done", None) };
        assert_eq!(live(&script(vec![commit])), ["rollback", ";"]);
    }
}
