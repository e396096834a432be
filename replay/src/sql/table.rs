//! Rows drawn as a table that a person can read. Takes recorded bytes and gives text that steers nothing.

use casemate_screen::safe::visible;
use unicode_width::UnicodeWidthStr;

use super::results::Table;

/// The widest that a column is drawn.
const WIDTH_MAX: usize = 60;

/// Rows that are drawn of a result.
const ROWS_MAX: usize = 200;

/// Draws a table; `rows` is how many there were, as the record says.
pub(super) fn lines(table: &Table, rows: u64) -> Vec<String> {
    let shown = table.rows.len().min(ROWS_MAX);
    let mut cells: Vec<Vec<String>> = Vec::with_capacity(shown + 1);
    if !table.columns.is_empty() {
        cells.push(table.columns.iter().map(|name| cell(&String::from_utf8_lossy(name))).collect());
    }
    let value = |value: &Option<String>| value.as_deref().map_or_else(|| "NULL".to_owned(), cell);
    cells.extend(table.rows.iter().take(shown).map(|row| row.iter().map(value).collect()));
    let columns = cells.iter().map(Vec::len).max().unwrap_or_default();
    let width =
        |place| cells.iter().filter_map(|row: &Vec<String>| row.get(place)).map(|cell: &String| cell.width()).max();
    let widths: Vec<usize> = (0..columns).map(|place| width(place).unwrap_or_default()).collect();
    let mut lines: Vec<String> = cells.iter().map(|row| line(row, &widths)).collect();
    if !table.columns.is_empty() {
        let ruled: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
        lines.insert(1, ruled.join("+"));
    }
    if table.recorded < rows {
        lines.push(match table.recorded {
            0 => "(rows not recorded)".to_owned(),
            recorded => format!("(only the first {recorded} of {rows} rows are recorded)"),
        });
    } else if (shown as u64) < rows {
        lines.push(format!("(the first {shown} of {rows} rows; `export --format jsonl` has them all)"));
    }
    lines
}

fn line(row: &[String], widths: &[usize]) -> String {
    let padded = row.iter().zip(widths).map(|(cell, width)| {
        let padding = " ".repeat(width.saturating_sub(cell.width()));
        format!(" {cell}{padding} ")
    });
    padded.collect::<Vec<_>>().join("|").trim_end().to_owned()
}

/// Shows a value on one line, and of a long one the beginning.
fn cell(value: &str) -> String {
    // What is cut away anyway need not be made visible first.
    let clipped: String = value.chars().take(WIDTH_MAX + 1).collect();
    let shown = visible(&clipped);
    if clipped.len() == value.len() && shown.width() <= WIDTH_MAX {
        return shown;
    }
    let mut out = String::new();
    for c in shown.chars() {
        if format!("{out}{c}").width() >= WIDTH_MAX {
            break;
        }
        out.push(c);
    }
    out.push('…');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(columns: &[&str], rows: &[&[Option<&str>]]) -> Table {
        Table {
            columns: columns.iter().map(|name| name.as_bytes().to_vec()).collect(),
            rows: rows.iter().map(|row| row.iter().map(|value| value.map(str::to_owned)).collect()).collect(),
            recorded: rows.len() as u64,
        }
    }

    #[test]
    fn columns_are_aligned_by_what_a_terminal_shows() {
        let drawn = lines(&table(&["id", "name"], &[&[Some("1"), Some("中文")], &[Some("100"), None]]), 2);
        assert_eq!(drawn, [" id  | name", "-----+------", " 1   | 中文", " 100 | NULL"]);
        assert_eq!(lines(&table(&[], &[&[Some("a")]]), 1), [" a"]);
        assert_eq!(lines(&table(&["a"], &[]), 0), [" a", "---"]);
    }

    #[test]
    fn what_is_not_there_is_said() {
        assert_eq!(lines(&table(&[], &[]), 3), ["(rows not recorded)"]);
        let some = lines(&table(&[], &[&[Some("a")]]), 3);
        assert_eq!(some[1], "(only the first 1 of 3 rows are recorded)");
        let many = vec![&[Some("a")][..]; 300];
        let drawn = lines(&table(&[], &many), 300);
        assert_eq!((drawn.len(), drawn[200].get(..23)), (201, Some("(the first 200 of 300 r")));
    }

    #[test]
    fn values_steer_nothing_and_are_cut_where_they_are_long() {
        let long = "\u{9b}".repeat(100_000);
        let drawn = lines(&table(&["\x1b[2J"], &[&[Some("a\nb\x1b]0;x\x07")], &[Some(&long)]]), 2);
        assert!(drawn.iter().all(|line| !line.contains(char::is_control) && line.width() < 70), "{drawn:?}");
        assert!(drawn[2].contains("a␊b␛]0;x␇") && drawn[3].ends_with('…'), "{drawn:?}");
    }
}
