//! What a PostgreSQL server wrote down itself: the oracle for statements. Knows its JSON log and nothing of transcripts.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// A statement as the server logged it when it began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// The text, whole.
    pub sql: String,
    /// Values of the parameters as text; `None` for null. Empty for a simple query.
    pub params: Vec<Option<String>>,
    /// The SQLSTATE it failed with.
    pub sqlstate: Option<String>,
}

/// Reads a log that [`crate::postgres::LOG_EVERYTHING`] made: statements by session, each session's in order.
///
/// # Errors
/// When it cannot be read or is not what PostgreSQL writes.
pub fn read(path: &Path) -> Result<BTreeMap<String, Vec<Logged>>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut sessions: BTreeMap<String, Vec<Logged>> = BTreeMap::new();
    for line in text.lines() {
        let entry: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let field = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        let statements = sessions.entry(field("session_id").to_owned()).or_default();
        if field("error_severity") == "ERROR" {
            // It is told behind the statement that it ended.
            if let Some(last) = statements.last_mut().filter(|last| last.sql == field("statement")) {
                last.sqlstate = Some(field("state_code").to_owned());
            }
            continue;
        }
        let message = field("message");
        // A portal that is fetched in parts is one statement: its first part is told like any other.
        let executed = message.strip_prefix("execute ").filter(|rest| !rest.starts_with("fetch from "));
        let executed = executed.and_then(|rest| rest.split_once(": "));
        if let Some(sql) = message.strip_prefix("statement: ").or_else(|| executed.map(|(_, sql)| sql)) {
            let detail = field("detail");
            let params = detail.strip_prefix("parameters: ").or_else(|| detail.strip_prefix("Parameters: "));
            let params = params.map(parameters).transpose()?.unwrap_or_default();
            statements.push(Logged { sql: sql.to_owned(), params, sqlstate: None });
        }
    }
    sessions.retain(|_, statements| !statements.is_empty());
    Ok(sessions)
}

/// Reads `$1 = 'it''s', $2 = NULL`.
fn parameters(text: &str) -> Result<Vec<Option<String>>> {
    let mut values = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (_, value) = rest.split_once(" = ").with_context(|| format!("no value in {rest}"))?;
        rest = if let Some(after) = value.strip_prefix("NULL") {
            values.push(None);
            after
        } else {
            let quoted = value.strip_prefix('\'').with_context(|| format!("no quote in {value}"))?;
            let end = end_of_quoted(quoted).with_context(|| format!("no end of {quoted}"))?;
            let (inner, after) = quoted.split_at(end);
            values.push(Some(inner.replace("''", "'")));
            after.strip_prefix('\'').unwrap_or(after)
        };
        rest = rest.strip_prefix(", ").unwrap_or(rest);
    }
    Ok(values)
}

/// Finds the quote that ends a value: one that no other follows.
fn end_of_quoted(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 0;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == b'\'')?;
        if bytes.get(at + 1) != Some(&b'\'') {
            return Some(at);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_commas_inside_values_belong_to_them() {
        let text = "$1 = 'it''s, $2 = NULL', $2 = NULL, $3 = '', $4 = '''', $5 = 'x'''";
        let values = ["it's, $2 = NULL", "", "'", "x'"].map(|value| Some(value.to_owned()));
        let [a, b, c, d] = values;
        assert_eq!(parameters(text).unwrap(), [a, None, b, c, d]);
        assert!(parameters("$1 = 'open").is_err());
    }
}
