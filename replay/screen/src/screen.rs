//! A recorded terminal as an emulator draws it. What was recorded goes in as bytes; only characters and colours come out.
//!
//! Nothing here answers anything: the emulator has no way to write, so a recorded question stays one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use avt::{Pen, Terminal};
use unicode_width::UnicodeWidthChar;

use crate::safe::{Piece, Utf8Stream, is_hostile};

/// Columns and rows.
pub type Size = (usize, usize);

/// The size of a terminal that nobody named.
const DEFAULT_SIZE: Size = (80, 24);

/// A larger terminal is drawn this large: a grid costs memory whatever a client says that it has.
const SIDE_MAX: u64 = 1000;

/// Holds a size that somebody sent to what can be drawn. A side of 0 means that the sender does not know (RFC 4254, 6.2).
pub fn drawable(cols: u64, rows: u64) -> Size {
    let side = |side: u64, unknown| if side == 0 { unknown } else { side.min(SIDE_MAX) as usize };
    (side(cols, DEFAULT_SIZE.0), side(rows, DEFAULT_SIZE.1))
}

/// Which of a channel's streams bytes belong to: each may be cut inside a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// One place of the grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glyph {
    /// A character that steers nothing and is as wide as the emulator thinks.
    pub shown: char,
    /// Columns: 1 or 2.
    pub width: usize,
    /// Colours and the like.
    pub pen: Pen,
}

/// What the terminal shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// From top to bottom, each from left to right.
    pub rows: Vec<Vec<Glyph>>,
    /// The size that the rows have.
    pub size: Size,
    /// Column and row of the cursor, and whether it is shown.
    pub cursor: (usize, usize, bool),
}

/// One terminal, or what a channel without one would have shown in a terminal.
pub struct Screen {
    terminal: Terminal,
    out: Utf8Stream,
    err: Utf8Stream,
    /// Whether the bytes went to a terminal. Else line feeds begin a line, as the client's own terminal would have it.
    raw: bool,
    resets: u32,
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").field("size", &self.size()).field("raw", &self.raw).finish_non_exhaustive()
    }
}

impl Screen {
    /// Makes an empty screen: of a terminal with its size, or of a channel without one.
    pub fn new(terminal: Option<Size>) -> Self {
        Self {
            terminal: blank(terminal.unwrap_or(DEFAULT_SIZE)),
            out: Utf8Stream::default(),
            err: Utf8Stream::default(),
            raw: terminal.is_some(),
            resets: 0,
        }
    }

    /// Returns columns and rows.
    pub fn size(&self) -> Size {
        self.terminal.size()
    }

    /// Whether it is that of a terminal.
    pub fn is_terminal(&self) -> bool {
        self.raw
    }

    /// Returns how often the emulator failed and an empty screen took the place of what it had drawn.
    pub fn resets(&self) -> u32 {
        self.resets
    }

    /// Takes recorded bytes.
    pub fn feed(&mut self, stream: Stream, bytes: &[u8]) {
        let raw = self.raw;
        let mut text = String::with_capacity(bytes.len());
        let decoder = match stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
        };
        decoder.feed(bytes, |piece| match piece {
            Piece::Char('\n') if !raw => text.push_str("\r\n"),
            Piece::Char(c) => text.push(c),
            Piece::Byte(_) => text.push(char::REPLACEMENT_CHARACTER),
        });
        self.guarded(|terminal| terminal.feed(text.as_str()));
    }

    /// Takes a new size.
    pub fn resize(&mut self, (cols, rows): Size) {
        self.guarded(|terminal| terminal.resize(cols, rows));
    }

    /// Lets the emulator work. It draws what strangers sent: should it ever fail on it, the playing goes on.
    fn guarded(&mut self, work: impl FnOnce(&mut Terminal)) {
        let size = self.size();
        if catch_unwind(AssertUnwindSafe(|| work(&mut self.terminal))).is_err() {
            self.terminal = blank(size);
            self.resets += 1;
        }
    }

    /// Returns what is shown.
    pub fn frame(&self) -> Frame {
        let rows = self.terminal.screen().visible_lines().map(|line| {
            let heads = line.cells().iter().filter(|cell| cell.width() > 0);
            heads.map(|cell| glyph(cell.char(), cell.width().into(), *cell.pen())).collect()
        });
        let cursor = self.terminal.cursor();
        Frame { rows: rows.collect(), size: self.size(), cursor: (cursor.col, cursor.row, cursor.visible) }
    }
}

fn blank((cols, rows): Size) -> Terminal {
    // Only a side of 0 is refused, and the usual size has none.
    Terminal::new(cols, rows).unwrap_or_else(|_| blank(DEFAULT_SIZE))
}

/// Returns a character as it may be shown. One of another width than its place would shift all that follows.
fn glyph(c: char, width: usize, pen: Pen) -> Glyph {
    let fits = !is_hostile(c) && c.width() == Some(width);
    Glyph { shown: if fits { c } else { char::REPLACEMENT_CHARACTER }, width, pen }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(screen: &Screen) -> Vec<String> {
        let line = |row: &Vec<Glyph>| row.iter().map(|glyph| glyph.shown).collect::<String>().trim_end().to_owned();
        screen.frame().rows.iter().map(line).collect()
    }

    #[test]
    fn the_screen_is_what_a_terminal_would_show() {
        let mut screen = Screen::new(Some((10, 3)));
        screen.feed(Stream::Out, b"one\r\n\x1b[31mtwo\x1b[0m\x1b[1;1HO\xc3");
        screen.feed(Stream::Err, b"!");
        screen.feed(Stream::Out, b"\xa9");
        assert_eq!(text(&screen), ["O!é", "two", ""]);
        assert_eq!(screen.frame().cursor, (3, 0, true));
        screen.resize((4, 2));
        assert_eq!(screen.frame().size, (4, 2));
    }

    #[test]
    fn a_channel_without_a_terminal_gets_its_line_ends() {
        let mut screen = Screen::new(None);
        screen.feed(Stream::Out, b"one\ntwo\n");
        assert_eq!(text(&screen)[..3], ["one", "two", ""]);
        let mut screen = Screen::new(Some((80, 24)));
        screen.feed(Stream::Out, b"one\ntwo");
        assert_eq!(text(&screen)[..2], ["one", "   two"]);
    }

    #[test]
    fn characters_that_steer_or_shift_are_replaced() {
        let mut screen = Screen::new(Some((20, 1)));
        screen.feed(Stream::Out, "a\u{202e}b\u{200b}c\u{301}d\u{ff}\u{4e2d}e".as_bytes());
        assert_eq!(text(&screen), ["a\u{fffd}b\u{fffd}c\u{fffd}dÿ中e"]);
        let every: Vec<u8> = (0..=255).collect();
        screen.feed(Stream::Out, &every);
        assert!(screen.frame().rows.iter().flatten().all(|glyph| !is_hostile(glyph.shown)));
    }

    #[test]
    fn any_size_can_be_drawn() {
        for (cols, rows) in [(0, 0), (1, 1), (65_535, 65_535), (0, 7), (u64::MAX, 1)] {
            let size = drawable(cols, rows);
            assert!((1..=1000).contains(&size.0) && (1..=1000).contains(&size.1));
        }
        let mut screen = Screen::new(Some((1, 1)));
        for size in [(2, 1), (1, 5), (1, 1), (1000, 2), (3, 3)] {
            screen.feed(Stream::Out, "中\r\n中文\x1b[5;5H中\x1b[2@\x1b[3P".as_bytes());
            screen.resize(size);
            assert_eq!(screen.frame().rows.len(), size.1);
        }
        assert_eq!(screen.resets(), 0);
    }

    #[test]
    fn an_emulator_that_fails_leaves_an_empty_screen() {
        let mut screen = Screen::new(Some((5, 1)));
        screen.feed(Stream::Out, b"x");
        screen.guarded(|_| panic!("as if a bug were in the emulator"));
        assert_eq!((text(&screen), screen.resets()), (vec![String::new()], 1));
        screen.feed(Stream::Out, b"y");
        assert_eq!(text(&screen), ["y"]);
    }
}
