//! Turns frames into bytes for the reader's terminal: characters, colours, cursor and erasure, and nothing else.
//!
//! Every place after a character outside ASCII is addressed anew, so that a terminal that measures characters otherwise
//! shows one of them wrong and not the rest of its line.

use std::fmt::Write as _;

use avt::{Color, Pen};

use super::screen::{Frame, Glyph, Size};
use crate::safe::visible;

/// Keeps what the reader's terminal shows, so that only rows that differ are drawn.
#[derive(Debug)]
pub struct Painter {
    size: Size,
    /// `None` where nothing is known of a row.
    rows: Vec<Option<Row>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Row {
    Recorded(Vec<Glyph>),
    Status(String),
}

impl Painter {
    /// Makes a painter for a terminal of this size that shows anything.
    pub fn new(size: Size) -> Self {
        Self { size, rows: vec![None; size.1] }
    }

    /// Returns the size that is painted on.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Appends what turns the terminal's contents into `frame`. With a status the last row is not the recording's.
    ///
    /// Of a frame larger than the terminal the part around the cursor is shown.
    pub fn paint(&mut self, out: &mut String, frame: &Frame, status: Option<&str>) {
        let (cols, rows) = self.size;
        if self.rows.iter().all(Option::is_none) {
            out.push_str("\x1b[0m\x1b[2J");
        }
        let height = rows.saturating_sub(status.is_some().into());
        let (cursor_col, cursor_row, shown) = frame.cursor;
        let left = window(frame.size.0, cols, cursor_col);
        let top = window(frame.size.1, height, cursor_row);
        out.push_str("\x1b[?25l");
        for at in 0..rows {
            let row = match status {
                Some(status) if at == height => Row::Status(visible(status).chars().take(cols).collect()),
                _ => Row::Recorded(frame.rows.get(top + at).map(|row| cut(row, left, cols)).unwrap_or_default()),
            };
            let Some(known) = self.rows.get_mut(at) else { continue };
            if known.as_ref() != Some(&row) {
                draw(out, at, &row);
                *known = Some(row);
            }
        }
        let col = cursor_col.saturating_sub(left).min(cols.saturating_sub(1));
        let row = cursor_row.saturating_sub(top).min(height.saturating_sub(1));
        let _ = write!(out, "\x1b[0m\x1b[{};{}H", row + 1, col + 1);
        if shown {
            out.push_str("\x1b[?25h");
        }
    }

    /// Appends what leaves the terminal as its owner expects it: below what was painted, cursor shown, no colours.
    pub fn leave(&self, out: &mut String) {
        let used = self.rows.iter().rposition(|row| !matches!(row, None | Some(Row::Status(_))) && !is_empty(row));
        let _ = write!(out, "\x1b[0m\x1b[?25h\x1b[{};1H", used.map_or(1, |used| used + 1).min(self.size.1));
        out.push_str("\r\n\x1b[J");
    }
}

fn is_empty(row: &Option<Row>) -> bool {
    matches!(row, Some(Row::Recorded(glyphs)) if glyphs.iter().all(is_blank))
}

/// Returns where a window of `room` begins in `len` places, so that `cursor` is in it.
fn window(len: usize, room: usize, cursor: usize) -> usize {
    let last = len.saturating_sub(room);
    (cursor + 1).saturating_sub(room).min(last)
}

/// Returns the part of a row between two columns; of a character that is cut in half, a blank.
fn cut(row: &[Glyph], left: usize, cols: usize) -> Vec<Glyph> {
    let mut out = Vec::new();
    let mut at = 0;
    for glyph in row {
        let (from, to) = (at.max(left), (at + glyph.width).min(left + cols));
        at += glyph.width;
        if to <= from {
            continue;
        }
        if to - from == glyph.width {
            out.push(*glyph);
        } else {
            out.push(Glyph { shown: ' ', width: 1, pen: glyph.pen });
        }
    }
    while out.last().is_some_and(is_blank) {
        out.pop();
    }
    out
}

fn is_blank(glyph: &Glyph) -> bool {
    glyph.shown == ' ' && glyph.pen.is_default()
}

fn draw(out: &mut String, at: usize, row: &Row) {
    let _ = write!(out, "\x1b[{};1H\x1b[0m\x1b[K", at + 1);
    match row {
        Row::Status(text) => {
            let _ = write!(out, "\x1b[7m{text}");
        }
        Row::Recorded(glyphs) => {
            let mut col = 0;
            let mut pen = Pen::default();
            let mut astray = false;
            for glyph in glyphs {
                if std::mem::take(&mut astray) {
                    let _ = write!(out, "\x1b[{};{}H", at + 1, col + 1);
                }
                if glyph.pen != pen {
                    pen = glyph.pen;
                    push_pen(out, &pen);
                }
                out.push(glyph.shown);
                astray = !glyph.shown.is_ascii();
                col += glyph.width;
            }
        }
    }
}

/// Appends the one SGR sequence (ECMA-48, 8.3.117) that sets exactly this.
fn push_pen(out: &mut String, pen: &Pen) {
    out.push_str("\x1b[0");
    let flags = [
        (pen.is_bold(), 1),
        (pen.is_faint(), 2),
        (pen.is_italic(), 3),
        (pen.is_underline(), 4),
        (pen.is_blink(), 5),
        (pen.is_inverse(), 7),
        (pen.is_strikethrough(), 9),
    ];
    for (_, number) in flags.iter().filter(|(set, _)| *set) {
        let _ = write!(out, ";{number}");
    }
    push_color(out, pen.foreground(), 30);
    push_color(out, pen.background(), 40);
    out.push('m');
}

fn push_color(out: &mut String, color: Option<Color>, base: u8) {
    // Writing to a String cannot fail.
    let _ = match color {
        None => Ok(()),
        Some(Color::Indexed(index @ 0..=7)) => write!(out, ";{}", base + index),
        Some(Color::Indexed(index @ 8..=15)) => write!(out, ";{}", base + 52 + index),
        Some(Color::Indexed(index)) => write!(out, ";{};5;{index}", base + 8),
        Some(Color::RGB(rgb)) => write!(out, ";{};2;{};{};{}", base + 8, rgb.r, rgb.g, rgb.b),
    };
}

/// Finds the first thing in painted text that is not a printable character or one of the sequences that a painter may
/// write; the tests and the fuzzer hold every byte of it against this.
pub fn first_forbidden(painted: &str) -> Option<String> {
    let mut rest = painted;
    while let Some(c) = rest.chars().next() {
        let len = if c == '\x1b' {
            match sequence_len(rest) {
                Some(len) => len,
                None => return Some(rest.chars().take(20).collect()),
            }
        } else if (c == '\r' || c == '\n') || !crate::safe::is_hostile(c) {
            c.len_utf8()
        } else {
            return Some(c.to_string());
        };
        rest = rest.get(len..).unwrap_or_default();
    }
    None
}

/// Returns the length of an allowed sequence at the start of `text`: SGR, CUP, ED, EL, and the cursor's visibility.
fn sequence_len(text: &str) -> Option<usize> {
    let body = text.strip_prefix("\x1b[")?;
    if body.starts_with("?25l") || body.starts_with("?25h") {
        return Some(6);
    }
    let end = body.find(|c: char| !(c.is_ascii_digit() || c == ';'))?;
    let last = body.get(end..)?.chars().next()?;
    ['m', 'H', 'J', 'K'].contains(&last).then_some(2 + end + 1)
}

#[cfg(test)]
mod tests {
    use super::super::screen::{Screen, Stream, drawable};
    use super::*;

    /// Plays what was painted on a terminal of its own, and returns what that shows.
    fn seen(size: Size, painted: &str) -> Screen {
        let mut screen = Screen::new(Some(size));
        screen.feed(Stream::Out, painted.as_bytes());
        screen
    }

    fn paint(painter: &mut Painter, screen: &Screen, status: Option<&str>) -> String {
        let mut out = String::new();
        painter.paint(&mut out, &screen.frame(), status);
        assert_eq!(first_forbidden(&out), None);
        out
    }

    const TRICKS: &[u8] = "\x1b[31;1mred\x1b[0m plain \x1b[48;5;200mpink\x1b[38;2;1;2;3mrgb\x1b[0m\r\n中文 e\u{301}\x1b[7mx\x1b[0m\r\n\
        \x1b]52;c;aGk=\x07\x1b]0;title\x07\x1b[6n\x1b[c\x1bP$qm\x1b\\\x1b[?1049h\x1b[2J\x1b[Halt\x1b[90;103mb\x1b[5 q\u{9b}6n"
        .as_bytes();

    #[test]
    fn a_terminal_of_the_same_size_shows_the_same() {
        let mut screen = Screen::new(Some((30, 5)));
        let mut painter = Painter::new((30, 5));
        let mut all = String::new();
        for piece in TRICKS.chunks(3) {
            screen.feed(Stream::Out, piece);
            all.push_str(&paint(&mut painter, &screen, None));
            assert_eq!(seen((30, 5), &all).frame(), screen.frame());
        }
        assert!(all.len() > 100);
    }

    #[test]
    fn rows_that_did_not_change_are_not_drawn_again() {
        let mut screen = Screen::new(Some((30, 5)));
        screen.feed(Stream::Out, b"one\r\ntwo");
        let mut painter = Painter::new((30, 5));
        assert!(paint(&mut painter, &screen, None).contains("one"));
        screen.feed(Stream::Out, b"!");
        let again = paint(&mut painter, &screen, None);
        assert!(again.contains("two!") && !again.contains("one"));
    }

    #[test]
    fn of_a_larger_frame_the_part_around_the_cursor_is_shown() {
        let mut screen = Screen::new(Some((40, 10)));
        screen.feed(Stream::Out, b"first\x1b[10;36Hlast");
        let mut painter = Painter::new((20, 4));
        let shown = seen((20, 4), &paint(&mut painter, &screen, Some("status \x1b[6n"))).frame();
        let line = |row: usize| shown.rows[row].iter().map(|glyph| glyph.shown).collect::<String>();
        assert_eq!(line(2).trim_end(), "               last");
        assert_eq!(line(3).trim_end(), "status ␛[6n");
        assert_eq!(shown.cursor, (19, 2, true));
    }

    #[test]
    fn a_wide_character_on_the_edge_becomes_a_blank() {
        let wide = |c| Glyph { shown: c, width: 2, pen: Pen::default() };
        let row = [wide('中'), wide('文')];
        assert_eq!(cut(&row, 1, 3).iter().map(|glyph| glyph.shown).collect::<String>(), " 文");
        assert_eq!(cut(&row, 0, 3).iter().map(|glyph| glyph.shown).collect::<String>(), "中");
    }

    #[test]
    fn whatever_was_recorded_only_allowed_sequences_come_out() {
        let mut screen = Screen::new(Some((20, 4)));
        let mut painter = Painter::new((20, 4));
        let mut state = 1u64;
        for round in 0..4000 {
            let bytes: Vec<u8> = (0..16)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let table = b"\x1b\x1b[[;?01249mHJKhlABCDPqn]\x07\\\x9b\x9d\xe2\x82\xac \r\nxyz";
                    table[(state >> 33) as usize % table.len()]
                })
                .collect();
            screen.feed(if round % 7 == 0 { Stream::Err } else { Stream::Out }, &bytes);
            if round % 50 == 0 {
                screen.resize(drawable(state >> 57, state >> 58 & 31));
            }
            paint(&mut painter, &screen, (round % 2 == 0).then_some("status"));
        }
        assert_eq!(screen.resets(), 0);
        let mut out = String::new();
        painter.leave(&mut out);
        assert_eq!(first_forbidden(&out), None);
    }

    #[test]
    fn the_guard_knows_what_is_forbidden() {
        for bad in ["\x1b[6n", "\x1b]0;t\x07", "\x1b[?1049h", "\x1bc", "\x07", "\u{9b}6n", "\x1b[", "\u{202e}"] {
            assert!(first_forbidden(bad).is_some(), "{bad:?}");
        }
        assert_eq!(first_forbidden("a\x1b[1;31mb\x1b[2J\x1b[3;4H\x1b[K\x1b[?25h中\r\n"), None);
    }
}
