//! A TOML reader that complains well: every complaint has a line and a remedy, and none hides the next.
//!
//! Serde stops at the first mistake. A person who repairs a configuration at three in the morning wants all of them, so
//! this walks the parsed tree by hand: each field is taken once, with the type and bounds that its owner asks for, and
//! what nobody took is reported as unknown. Knows TOML and nothing about what the fields mean.

use std::cell::RefCell;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One thing that is wrong with a file, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Line in the file, from 1.
    pub line: usize,
    /// What is wrong, with the offending value in it.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.line, self.what, self.remedy)
    }
}

/// A value with the line it stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// Line in the file, from 1.
    pub line: usize,
    /// The value itself.
    pub value: T,
}

impl<T> Located<T> {
    /// Turns the value into another one on the same line.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Located<U> {
        Located { line: self.line, value: f(self.value) }
    }
}

/// One file being read, and what was found wrong with it so far.
#[derive(Debug)]
pub struct Reader<'i> {
    text: &'i str,
    /// Where each line feed is.
    line_ends: Vec<usize>,
    problems: RefCell<Vec<Problem>>,
}

impl<'i> Reader<'i> {
    /// Starts reading a file.
    pub fn new(text: &'i str) -> Self {
        let line_ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect();
        Self { text, line_ends, problems: RefCell::new(Vec::new()) }
    }

    /// Parses the file and returns its top-level fields, or `None` when it is not TOML at all.
    pub fn root(&self) -> Option<Fields<'_, 'i>> {
        let (root, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let offset = error.span().map_or(0, |span| span.start);
            // The parser quotes what the file says, and may do so over several lines.
            let what = error.message().replace(char::is_control, " ");
            self.complain(self.line_at(offset), format!("not TOML: {what}"), "correct the syntax (https://toml.io)");
        }
        if !errors.is_empty() {
            // A tree recovered from broken text would give complaints that vanish with the first correction.
            return None;
        }
        Some(Fields { reader: self, line: 1, at: String::new(), table: root.into_inner(), known: Vec::new() })
    }

    /// Adds a complaint.
    pub fn complain(&self, line: usize, what: impl Into<String>, remedy: impl Into<String>) {
        let problem = Problem { line, what: what.into(), remedy: remedy.into() };
        let mut problems = self.problems.borrow_mut();
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }

    /// Ends the reading: the complaints in the order of their lines.
    pub fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort();
        problems
    }

    fn line_at(&self, offset: usize) -> usize {
        self.line_ends.partition_point(|end| *end < offset) + 1
    }
}

/// The fields of one table. Take what belongs there, then [`finish`](Self::finish).
#[must_use = "finish() reports the fields that nobody took"]
#[derive(Debug)]
pub struct Fields<'r, 'i> {
    reader: &'r Reader<'i>,
    line: usize,
    at: String,
    table: DeTable<'i>,
    known: Vec<&'static str>,
}

impl<'r, 'i> Fields<'r, 'i> {
    /// Line of the table's header, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// Whether the table has that field, of whatever type.
    pub fn has(&self, field: &str) -> bool {
        self.table.contains_key(field)
    }

    /// Adds a complaint about the table as a whole.
    pub fn complain(&self, what: impl Into<String>, remedy: impl Into<String>) {
        self.reader.complain(self.line, what, remedy);
    }

    /// Complains about a field that must be there and is not.
    pub fn missing(&self, field: &str, remedy: &str) {
        self.complain(format!("{} is missing", self.path(field)), remedy);
    }

    /// Takes a text that may be absent.
    pub fn text(&mut self, field: &'static str) -> Option<Located<String>> {
        self.typed(field, "a text in quotes", |value| value.as_str().map(str::to_owned))
    }

    /// Takes a text that must be there; `remedy` says what to write.
    pub fn required_text(&mut self, field: &'static str, remedy: &str) -> Option<Located<String>> {
        if !self.table.contains_key(field) {
            self.missing(field, remedy);
        }
        self.text(field)
    }

    /// Takes a boolean that may be absent.
    pub fn boolean(&mut self, field: &'static str) -> Option<Located<bool>> {
        self.typed(field, "true or false", DeValue::as_bool)
    }

    /// Takes a whole number within bounds that may be absent.
    pub fn uint(&mut self, field: &'static str, bounds: RangeInclusive<u64>) -> Option<Located<u64>> {
        let number = self.typed(field, "a whole number", |value| {
            value.as_integer().map(|number| u64::from_str_radix(number.as_str(), number.radix()).ok())
        })?;
        // `None` inside: an integer that is negative or does not fit 64 bits, out of bounds either way.
        match number.value.filter(|value| bounds.contains(value)) {
            Some(value) => Some(Located { line: number.line, value }),
            None => {
                let remedy = format!("write a number from {} to {}", bounds.start(), bounds.end());
                self.reader.complain(number.line, format!("{} is out of bounds", self.path(field)), remedy);
                None
            }
        }
    }

    /// Takes a duration within bounds that may be absent: a text such as `"20s"`.
    pub fn duration(&mut self, field: &'static str, bounds: RangeInclusive<Duration>) -> Option<Located<Duration>> {
        let text = self.text(field)?;
        let shown = || format!("from {} to {}", show_duration(*bounds.start()), show_duration(*bounds.end()));
        match parse_duration(&text.value).filter(|value| bounds.contains(value)) {
            Some(value) => Some(Located { line: text.line, value }),
            None => {
                let what = format!("{} is not a duration {}: {:?}", self.path(field), shown(), text.value);
                let remedy = "write a whole number and one of ms, s, m, h, d, such as \"20s\"";
                self.reader.complain(text.line, what, remedy);
                None
            }
        }
    }

    /// Takes a number of bytes within bounds that may be absent: a text such as `"4MiB"`.
    pub fn bytes(&mut self, field: &'static str, bounds: RangeInclusive<u64>) -> Option<Located<u64>> {
        let text = self.text(field)?;
        match parse_bytes(&text.value).filter(|value| bounds.contains(value)) {
            Some(value) => Some(Located { line: text.line, value }),
            None => {
                let (low, high) = (show_bytes(*bounds.start()), show_bytes(*bounds.end()));
                let what = format!("{} is not a size from {low} to {high}: {:?}", self.path(field), text.value);
                let remedy = "write a whole number and one of B, KiB, MiB, GiB, TiB, such as \"4MiB\"";
                self.reader.complain(text.line, what, remedy);
                None
            }
        }
    }

    /// Takes a point in time with its offset, in microseconds since 1970, that may be absent.
    pub fn time(&mut self, field: &'static str) -> Option<Located<u64>> {
        let remedy = "a date and time with its offset, such as 2026-11-22T20:00:00Z";
        self.typed(field, remedy, |value| {
            let text = value.as_datetime()?.to_string();
            let time: jiff::Timestamp = text.parse().ok()?;
            u64::try_from(time.as_microsecond()).ok()
        })
    }

    /// Takes a list of texts; an absent field is an empty list.
    pub fn texts(&mut self, field: &'static str) -> Vec<Located<String>> {
        let Some(list) = self.take(field) else { return Vec::new() };
        let line = self.reader.line_at(list.span().start);
        let DeValue::Array(items) = list.into_inner() else {
            self.mistyped(line, field, "a list of texts, such as [\"one\", \"two\"]");
            return Vec::new();
        };
        let mut texts = Vec::new();
        for item in items {
            let line = self.reader.line_at(item.span().start);
            match item.get_ref().as_str() {
                Some(text) => texts.push(Located { line, value: text.to_owned() }),
                None => self.mistyped(line, field, "a list of texts, such as [\"one\", \"two\"]"),
            }
        }
        texts
    }

    /// Takes a table that may be absent.
    pub fn table(&mut self, field: &'static str) -> Option<Self> {
        let value = self.take(field)?;
        let line = self.reader.line_at(value.span().start);
        match value.into_inner() {
            DeValue::Table(table) => Some(self.inner(line, self.path(field), table)),
            _ => {
                self.mistyped(line, field, &format!("a table that begins with [{field}]"));
                None
            }
        }
    }

    /// Takes a list of tables; an absent field is an empty list.
    pub fn tables(&mut self, field: &'static str) -> Vec<Self> {
        let Some(list) = self.take(field) else { return Vec::new() };
        let path = self.path(field);
        let wanted = format!("one table each that begins with [[{path}]]");
        let line = self.reader.line_at(list.span().start);
        let DeValue::Array(items) = list.into_inner() else {
            self.mistyped(line, field, &wanted);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in items {
            let line = self.reader.line_at(item.span().start);
            match item.into_inner() {
                DeValue::Table(table) => tables.push(self.inner(line, path.clone(), table)),
                _ => self.mistyped(line, field, &wanted),
            }
        }
        tables
    }

    /// Reports what nobody took.
    pub fn finish(self) {
        for key in self.table.keys() {
            let line = self.reader.line_at(key.span().start);
            let name: String = key.get_ref().chars().take(64).collect();
            let remedy = match self.known.iter().find(|known| alike(known, &name)) {
                Some(known) => format!("did you mean {known}?"),
                None => format!("remove it; known here: {}", self.known.join(", ")),
            };
            self.reader.complain(line, format!("unknown field {}", self.path(&format!("{name:?}"))), remedy);
        }
    }

    fn inner(&self, line: usize, at: String, table: DeTable<'i>) -> Self {
        Self { reader: self.reader, line, at, table, known: Vec::new() }
    }

    fn take(&mut self, field: &'static str) -> Option<Spanned<DeValue<'i>>> {
        self.known.push(field);
        self.table.remove(field)
    }

    fn typed<T>(
        &mut self,
        field: &'static str,
        wanted: &str,
        read: impl FnOnce(&DeValue<'i>) -> Option<T>,
    ) -> Option<Located<T>> {
        let value = self.take(field)?;
        let line = self.reader.line_at(value.span().start);
        match read(value.get_ref()) {
            Some(value) => Some(Located { line, value }),
            None => {
                self.mistyped(line, field, wanted);
                None
            }
        }
    }

    fn mistyped(&self, line: usize, field: &str, wanted: &str) {
        self.reader.complain(line, format!("{} has the wrong type", self.path(field)), format!("write {wanted}"));
    }

    fn path(&self, field: &str) -> String {
        if self.at.is_empty() { field.to_owned() } else { format!("{}.{field}", self.at) }
    }
}

/// Whether `name` is a plural, a singular or a one-letter slip of a known field.
fn alike(known: &str, name: &str) -> bool {
    let close =
        |a: &str, b: &str| a.strip_suffix('s').unwrap_or(a).eq_ignore_ascii_case(b.strip_suffix('s').unwrap_or(b));
    let dashed = name.replace('-', "_");
    close(known, &dashed)
        || (known.len() == name.len() && known.bytes().zip(name.bytes()).filter(|(a, b)| a != b).count() == 1)
}

/// Units of a duration, the longest first, in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Units of a size, the largest first.
const SIZES: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a size such as `4MiB`, in bytes; `None` for anything else.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.find(|c: char| !c.is_ascii_digit())?)?;
    let (_, bytes) = SIZES.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*bytes)
}

/// Writes a number of bytes the way [`parse_bytes`] reads it.
pub fn show_bytes(bytes: u64) -> String {
    SIZES
        .iter()
        .find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .map_or_else(|| "0B".to_owned(), |(name, unit)| format!("{}{name}", bytes / unit))
}

/// Reads a duration such as `20s`; `None` for anything else.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.find(|c: char| !c.is_ascii_digit())?)?;
    let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit)?;
    Some(Duration::from_millis(number.parse::<u64>().ok()?.checked_mul(*millis)?))
}

/// Writes a duration the way [`parse_duration`] reads it, to the millisecond.
pub fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    UNITS
        .iter()
        .find(|(_, unit)| millis >= *unit && millis.is_multiple_of(*unit))
        .map_or_else(|| "0s".to_owned(), |(name, unit)| format!("{}{name}", millis / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str, read: impl FnOnce(&mut Fields<'_, '_>)) -> Vec<String> {
        let reader = Reader::new(text);
        if let Some(mut root) = reader.root() {
            read(&mut root);
            root.finish();
        }
        reader.into_problems().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_mistake_is_reported_with_its_line() {
        let text = "name = 7\nspeed = \"fast\"\nmore = 1\n\n[[item]]\nsize = -1\n";
        let found = problems(text, |root| {
            root.required_text("name", "say who");
            root.required_text("place", "say where");
            root.duration("speed", Duration::ZERO..=Duration::from_secs(60));
            for mut item in root.tables("item") {
                item.uint("size", 1..=10);
                item.required_text("kind", "say which");
                item.finish();
            }
        });
        assert_eq!(
            found,
            [
                "1: name has the wrong type; write a text in quotes",
                "1: place is missing; say where",
                "2: speed is not a duration from 0s to 1m: \"fast\"; \
                 write a whole number and one of ms, s, m, h, d, such as \"20s\"",
                "3: unknown field \"more\"; remove it; known here: name, place, speed, item",
                "5: item.kind is missing; say which",
                "6: item.size is out of bounds; write a number from 1 to 10",
            ]
        );
    }

    #[test]
    fn a_near_miss_is_named() {
        let found = problems("persons = 1\nstate-dir = 1\n", |root| {
            root.tables("person");
            root.text("state_dir");
        });
        assert!(found[0].contains("did you mean person?"), "{found:?}");
        assert!(found[1].contains("did you mean state_dir?"), "{found:?}");
    }

    #[test]
    fn broken_syntax_gives_a_line_and_no_aftermath() {
        let found = problems("a = 1\nb = = 2\n", |root| {
            root.required_text("c", "write it");
        });
        assert!(found.iter().all(|line| line.starts_with("2: not TOML")), "{found:?}");
        assert!(!found.is_empty());
    }

    #[test]
    fn sizes_round_trip() {
        for text in ["0B", "1000B", "64KiB", "3MiB", "1GiB", "16TiB"] {
            assert_eq!(show_bytes(parse_bytes(text).unwrap()), text);
        }
        for text in ["", "MiB", "4", "4 MiB", "4MB", "-1B", "99999999TiB"] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn durations_round_trip() {
        for text in ["0s", "250ms", "20s", "15m", "24h", "400d"] {
            let parsed = parse_duration(text).unwrap();
            assert_eq!(parse_duration(&show_duration(parsed)), Some(parsed), "{text}");
        }
        for text in ["", "s", "20", "20 s", "-1s", "1.5h", "1w", "99999999999999999999d", "9999999999999999d", "1é"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
