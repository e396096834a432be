//! A statement as one line, for people and for programs.

use casemate_certs::trust::show_count;
use casemate_recorder::transcript::event::{Field, Value, pg_done};
use casemate_screen::safe::visible;

use super::Statement;
use crate::json::{Object, hex};
use crate::time::{duration, offset};

/// How a statement is named among the items of a session.
const TYPE: &str = "pg.statement";

/// Numbers that are told where they are.
const NUMBERS: [(&str, Field); 8] = [
    ("rows", pg_done::ROWS),
    ("duration_us", pg_done::US),
    ("bytes", pg_done::BYTES),
    ("copied", pg_done::COPIED),
    ("batches", pg_done::BATCHES),
    ("index", pg_done::INDEX),
    ("parse", pg_done::PARSE),
    ("bind", pg_done::BIND),
];

/// Words that are told where they are.
const WORDS: [(&str, Field); 4] = [
    ("tag", pg_done::TAG),
    ("severity", pg_done::SEVERITY),
    ("sqlstate", pg_done::SQLSTATE),
    ("error", pg_done::ERROR),
];

/// Returns it as a JSON object.
pub(crate) fn json(statement: &Statement) -> String {
    let mut object = Object::new()
        .with("t_us", statement.t_us)
        .with("type", TYPE)
        .with("chan", 0)
        .with("frame", statement.number)
        .with("outcome", &statement.outcome);
    object = match &statement.sql {
        Some(sql) => object.with_value("sql", &Value::from(&**sql)),
        None => object.with("sql", None::<&str>),
    };
    if let Some(function) = statement.function {
        object = object.with("function", function);
    }
    if let Some(params) = &statement.params {
        object = object.with("params", params);
    }
    if statement.clipped {
        object = object.with("clipped", true);
    }
    for (name, field) in NUMBERS {
        if let Some(number) = statement.number_of(field) {
            object = object.with(name, number);
        }
    }
    for (name, field) in WORDS {
        if let Some(word) = statement.bytes_of(field) {
            object = object.with_value(name, &Value::from(word));
        }
    }
    if let Some(digest) = statement.bytes_of(pg_done::BLAKE3) {
        object = object.with("blake3", hex(digest));
    }
    object.finish()
}

/// Returns it as a line of text.
pub(crate) fn text(statement: &Statement) -> String {
    let mut line = format!("{}  {TYPE:13}  {}", offset(statement.t_us), shown_sql(statement));
    if let Some(params) = &statement.params {
        line.push_str(&format!("  params=[{}]", params.iter().map(shown_param).collect::<Vec<_>>().join(", ")));
    }
    if statement.clipped {
        line.push_str("  clipped");
    }
    line.push_str(&format!("  {}", visible(&outcome(statement))));
    line
}

/// Says in words what became of a statement. What is in it was recorded: it may hold anything.
pub(crate) fn outcome(statement: &Statement) -> String {
    let word = |field| statement.bytes_of(field).map(|word| String::from_utf8_lossy(word).into_owned());
    let mut parts = vec![match (word(pg_done::TAG), word(pg_done::ERROR)) {
        (Some(tag), _) => tag,
        (None, Some(error)) => {
            let state = word(pg_done::SQLSTATE).unwrap_or_default();
            format!("{} {state}: {error}", word(pg_done::SEVERITY).unwrap_or_else(|| "ERROR".to_owned()))
        }
        (None, None) => statement.outcome.clone(),
    }];
    let number = |field| statement.number_of(field).filter(|number| *number > 0);
    if let Some(rows) = number(pg_done::ROWS) {
        parts.push(show_count(rows, "row"));
    }
    for (field, what) in [(pg_done::COPIED, "bytes copied in"), (pg_done::BATCHES, "batches before")] {
        parts.extend(number(field).map(|count| format!("{count} {what}")));
    }
    parts.extend(statement.number_of(pg_done::US).map(duration));
    parts.join(", ")
}

fn shown_sql(statement: &Statement) -> String {
    match (&statement.sql, statement.function) {
        (Some(sql), _) => visible(&String::from_utf8_lossy(sql)),
        (None, Some(function)) => format!("(function {function})"),
        (None, None) => "(its text is not here)".to_owned(),
    }
}

/// Shows a value so that NULL is none of them.
pub(crate) fn shown_param(param: &Option<String>) -> String {
    match param {
        Some(value) => format!("'{}'", visible(value).replace('\'', "''")),
        None => "NULL".to_owned(),
    }
}
