//! Takes out of terminal output what would make a terminal answer, change its host or hide what follows.
//!
//! Strings (OSC, DCS, APC, PM, SOS and the title string) and all reports and queries are dropped; movement, colour and
//! modes stay, so that a player shows what the person saw.

/// A control sequence with more parameters than any real one is dropped.
const PARAMETERS_MAX: usize = 128;

#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
enum State {
    #[default]
    Ground,
    /// After ESC, with intermediates collected.
    Escape,
    /// After CSI.
    Control,
    /// In a string that is dropped, until its end.
    String,
    /// After ESC inside such a string.
    StringEscape,
}

/// The filter of one stream; sequences may be cut anywhere.
#[derive(Debug, Default)]
pub(super) struct Filter {
    state: State,
    /// What came since ESC or CSI.
    held: String,
    /// Whether `held` is over its limit, so that the sequence is dropped.
    overlong: bool,
}

impl Filter {
    /// Takes a character and appends what gets through.
    pub(super) fn push(&mut self, out: &mut String, c: char) {
        match (self.state, c) {
            // These end whatever is going on (ECMA-48 §8.3.6, §8.3.148).
            (_, '\x18' | '\x1a') => self.enter(State::Ground),
            (State::String, '\x1b') => self.state = State::StringEscape,
            (State::String, '\x07' | '\u{9c}') | (State::StringEscape, '\\') => self.enter(State::Ground),
            (State::String, _) => {}
            (State::StringEscape, c) => {
                self.enter(State::Escape);
                self.push(out, c);
            }
            (_, '\x1b') => self.enter(State::Escape),
            (_, '\u{9b}') => self.enter(State::Control),
            (_, '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}') => self.enter(State::String),
            (State::Ground, c) => {
                // ENQ asks for an answer; the other controls that are left out do nothing a viewer could see.
                if !c.is_control() || matches!(c, '\x07'..='\x0f') {
                    out.push(c);
                }
            }
            (State::Escape, '[') if self.held.is_empty() => self.enter(State::Control),
            (State::Escape, ']' | 'P' | 'X' | '^' | '_' | 'k') if self.held.is_empty() => self.enter(State::String),
            (State::Escape | State::Control, ' '..='/') => self.hold(c),
            (State::Escape, c @ '0'..='~') => {
                // DECID asks who the terminal is; a lone string terminator ends nothing.
                let dropped = self.overlong || (self.held.is_empty() && matches!(c, 'Z' | '\\'));
                if !dropped {
                    out.extend(['\x1b']);
                    out.push_str(&self.held);
                    out.push(c);
                }
                self.enter(State::Ground);
            }
            (State::Control, '0'..='?') => self.hold(c),
            (State::Control, c @ '@'..='~') => {
                if !self.overlong && !asks(&self.held, c) {
                    out.push_str("\x1b[");
                    out.push_str(&self.held);
                    out.push(c);
                }
                self.enter(State::Ground);
            }
            // A control inside a sequence; a character beyond ASCII ends it without effect.
            (_, c) if c.is_control() => {}
            (_, c) => {
                self.enter(State::Ground);
                self.push(out, c);
            }
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.held.clear();
        self.overlong = false;
    }

    fn hold(&mut self, c: char) {
        if self.held.len() < PARAMETERS_MAX {
            self.held.push(c);
        } else {
            self.overlong = true;
        }
    }
}

/// Whether a control sequence makes a terminal answer, print, or act on its window.
fn asks(held: &str, last: char) -> bool {
    match last {
        // DA, DSR, DECREQTPARM, window operations, printing.
        'c' | 'n' | 'x' | 't' | 'i' => true,
        // XTVERSION, the keyboard protocol's query, XTQMODKEYS, XTSMGRAPHICS.
        'q' => held.starts_with('>'),
        // With an ampersand DECRQUPSS.
        'u' => held.starts_with('?') || held.contains('$') || held.contains('&'),
        'm' | 'S' => held.starts_with('?'),
        // DECRQM, DECRQPSR and the checksum of a rectangle.
        'p' | 'w' => held.contains('$'),
        'y' => held.contains('*'),
        '|' | '}' | '~' => held.contains('&') || held.contains('$') || (last == '|' && held.contains('#')),
        // XTREPORTCOLORS; above, XTREPORTSGR.
        'R' => held.contains('#'),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(text: &str) -> String {
        let (mut filter, mut out) = (Filter::default(), String::new());
        text.chars().for_each(|c| filter.push(&mut out, c));
        out
    }

    #[test]
    fn what_a_player_shows_gets_through() {
        for text in [
            "plain é\r\n\t\x07\x08",
            "\x1b[1;31mred\x1b[0m",
            "\x1b[?1049h\x1b[2J\x1b[10;20H",
            "\x1b(B\x1b7\x1b8\x1bM\x1b=\x1b>",
            "\x1b[3 q\x1b[!p",
            "\x1b[38:2::1:2:3m",
        ] {
            assert_eq!(filtered(text), text, "{text:?}");
        }
    }

    #[test]
    fn what_makes_a_terminal_answer_or_act_does_not() {
        for text in [
            "\x1b]0;title\x07",
            "\x1b]52;c;ZXZpbA==\x1b\\",
            "\u{9d}52;c;x\u{9c}",
            "\x1bP$qm\x1b\\",
            "\x1bP+q544e\x1b\\",
            "\x1b_Gi=1\x1b\\",
            "\x1b^pm\x1b\\",
            "\x1bXsos\x1b\\",
            "\x1bktitle\x1b\\",
            "\x1b[c",
            "\x1b[>0c",
            "\x1b[=c",
            "\x1b[6n",
            "\x1b[?6n",
            "\u{9b}5n",
            "\x1b[>q",
            "\x1b[?u",
            "\x1b[?25$p",
            "\x1b[18t",
            "\x1b[1x",
            "\x1b[5i",
            "\x1b[1;1;1;1;1;1*y",
            "\x1b[&u",
            "\x1b[#R",
            "\x1b[1;1;2;2#|",
            "\x1bZ",
            "\x05",
            "\x1b[1\x1b[6n",
        ] {
            assert_eq!(filtered(&format!("a{text}b")), "ab", "{text:?}");
        }
        let long = format!("a\x1b[{}mb", "1;".repeat(5000));
        assert_eq!(filtered(&long), "ab");
    }

    #[test]
    fn a_string_that_is_cut_short_hides_nothing_behind_its_end() {
        assert_eq!(filtered("\x1b]0;x\x18visible"), "visible");
        assert_eq!(filtered("\x1b]0;x\x1b[1mvisible"), "\x1b[1mvisible");
        assert_eq!(filtered("\x1b[12évisible"), "évisible");
    }
}
