//! A session as text that a person reads: each statement when it was over, with its values, what of its rows is in the record,
//! and its end. Takes recorded bytes and gives lines that steer nothing.

use casemate_recorder::transcript::event::{Event, pg_done, pg_elided};
use casemate_screen::safe::visible;

use super::line::{outcome, shown_param};
use super::results::{Results, Table};
use super::table::lines;
use super::{Statement, Statements};
use crate::show;
use crate::time::offset;

/// The width of a time and the space behind it.
const MARGIN: &str = "               ";

/// Turns events into lines.
#[derive(Debug)]
pub(crate) struct Print {
    statements: Statements,
    results: Results,
}

impl Print {
    pub(crate) fn new() -> Self {
        Self { statements: Statements::new(), results: Results::new() }
    }

    /// Returns the lines that an event ends.
    pub(crate) fn event(&mut self, t_us: u64, event: &Event) -> Vec<String> {
        let Self { statements, results } = self;
        results.take(event);
        let mut printed = Vec::new();
        statements.take(t_us, event, |statement| {
            let table = results.of(&statement);
            printed.extend(shown(&statement, table.as_ref()));
        });
        // What was left out is said with each statement.
        if event.kind != pg_elided::TYPE {
            printed.extend(show::item(t_us, event));
        }
        printed
    }

    /// Returns the lines of what has no end.
    pub(crate) fn finish(&mut self) -> Vec<String> {
        let mut printed = Vec::new();
        self.statements.finish(|statement| printed.extend(shown(&statement, None)));
        printed
    }
}

/// Shows a statement, its values, its rows and its end.
fn shown(statement: &Statement, table: Option<&Table>) -> Vec<String> {
    let mut printed = Vec::new();
    let sql = match (&statement.sql, statement.function) {
        (Some(sql), _) => String::from_utf8_lossy(sql).into_owned(),
        (None, Some(function)) => format!("(function {function})"),
        (None, None) => "(its text is not here)".to_owned(),
    };
    // Another statement of the same Query has the same text.
    match statement.number_of(pg_done::INDEX) {
        Some(index) if index > 0 => printed.push(format!("{MARGIN}(statement {} of the same)", index + 1)),
        _ => {
            for (place, line) in sql.trim_end().lines().enumerate() {
                let margin = if place == 0 { format!("{:13}> ", offset(statement.t_us)) } else { MARGIN.to_owned() };
                printed.push(margin + &visible(line));
            }
        }
    }
    for (place, param) in statement.params.iter().flatten().enumerate() {
        printed.push(format!("{MARGIN}${} = {}", place + 1, shown_param(param)));
    }
    let rows = statement.number_of(pg_done::ROWS).unwrap_or_default();
    match table {
        // Commands that change rows say so in their tag, and show none.
        Some(table) if table.recorded == 0 && table.columns.is_empty() && !returned_rows(statement) => {}
        Some(table) => printed.extend(lines(table, rows).into_iter().map(|line| format!("{MARGIN}{line}"))),
        None if rows > 0 && returned_rows(statement) => {
            printed.push(format!("{MARGIN}(which rows these were cannot be told)"));
        }
        None => {}
    }
    let clipped = if statement.clipped { ", longer than is shown" } else { "" };
    printed.push(format!("{MARGIN}{}{clipped}", visible(&outcome(statement))));
    printed
}

/// Whether the target sent rows, of which the record has at least the length.
fn returned_rows(statement: &Statement) -> bool {
    statement.number_of(pg_done::BYTES).is_some()
        && !statement.bytes_of(pg_done::TAG).is_some_and(|tag| tag.starts_with(b"COPY"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use casemate_recorder::transcript::event::{EventType, Value, pg_described, pg_in, pg_out, pg_sql};

    use super::*;

    /// SplitMix64.
    fn random(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A message of random fields, whose length is mostly its own.
    fn message(seed: &mut u64) -> Vec<u8> {
        let tag = b"QPBEDCSHFXdcfZTDCIEG123tnsVWNA"[random(seed) as usize % 30];
        let mut payload = Vec::new();
        for _ in 0..random(seed) % 12 {
            match random(seed) % 5 {
                0 => payload.extend_from_slice(b"s\x1b[2J\0"),
                1 => payload.push(0),
                2 => payload.extend_from_slice(&((random(seed) % 4) as u16).to_be_bytes()),
                3 => payload.extend_from_slice(
                    &([0u32, 1, 4, 23, 1184, 1700, 1007, u32::MAX][random(seed) as usize % 8]).to_be_bytes(),
                ),
                _ => payload.extend_from_slice(&random(seed).to_be_bytes()),
            }
        }
        let len = payload.len() as u32 + 4 + u32::from(random(seed).is_multiple_of(50));
        [&[tag][..], &len.to_be_bytes(), &payload].concat()
    }

    #[test]
    fn whatever_was_recorded_is_printed_and_steers_nothing() {
        let mut seed = 7;
        let mut lines = 0;
        for _ in 0..500 {
            let mut print = Print::new();
            for t_us in 0..200 {
                let stream = |kind: EventType, seed: &mut u64| Event::stream(kind, 0, Bytes::from(message(seed)));
                let event = match random(&mut seed) % 8 {
                    0..3 => stream(pg_sql::TYPE, &mut seed),
                    3 => stream(pg_in::TYPE, &mut seed),
                    4 | 5 => stream(pg_out::TYPE, &mut seed),
                    6 => Event::map(pg_described::TYPE, 0)
                        .with(pg_described::PARSE, random(&mut seed) % 40)
                        .with(pg_described::PARAMETERS, Value::List(vec![Value::Uint(1700), Value::Uint(1184)])),
                    _ => {
                        let outcome =
                            ["done", "failed", "empty", "suspended", "skipped"][random(&mut seed) as usize % 5];
                        Event::map(pg_done::TYPE, 0)
                            .with(pg_done::FRAME, random(&mut seed) % 80)
                            .with(pg_done::PARSE, random(&mut seed) % 80)
                            .with(pg_done::BIND, random(&mut seed) % 80)
                            .with(pg_done::BATCHES, random(&mut seed) % 3)
                            .with(pg_done::ROWS, random(&mut seed) % 3)
                            .with(pg_done::TAG, b"\x1b[2J\xff".as_slice())
                            .with(pg_done::OUTCOME, outcome)
                    }
                };
                let printed = print.event(t_us, &event);
                assert!(printed.iter().all(|line| !line.contains(casemate_screen::safe::is_hostile)), "{printed:?}");
                lines += printed.len();
            }
            assert!(print.finish().iter().all(|line| !line.contains(casemate_screen::safe::is_hostile)));
        }
        assert!(lines > 10_000, "{lines} lines are no test");
    }
}
