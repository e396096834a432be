//! The portal's menu: one line typed by a person, turned into a choice.
//!
//! Bytes in, what to show and what was chosen out. Knows no channel and no session.

use crate::config::TargetKind;
use crate::policy::Reachable;

/// The longest answer that is taken; a name and a role are shorter.
const LINE_MAX: usize = 140;

/// Somewhere to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) target: String,
    pub(super) role: String,
}

/// What follows from what was typed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// To be shown; more is awaited.
    Show(String),
    /// To be shown, and that is where to go.
    Go(String, Choice),
    /// To be shown, and nowhere.
    Leave(String),
}

/// A menu and what was typed at it so far.
#[derive(Debug)]
pub(super) struct Menu {
    choices: Vec<Choice>,
    line: String,
}

impl Menu {
    /// Offers every way that a shell can lead, with each of its roles; `None` where there is nowhere to go.
    pub(super) fn of(ways: &[Reachable]) -> Option<Self> {
        let of_way = |way: &Reachable| {
            let choice = |role: &String| Choice { target: way.target.name.clone(), role: role.clone() };
            way.roles.iter().map(choice).collect::<Vec<_>>()
        };
        let choices: Vec<Choice> =
            ways.iter().filter(|way| way.target.kind() == TargetKind::Ssh).flat_map(of_way).collect();
        (!choices.is_empty()).then_some(Self { choices, line: String::new() })
    }

    /// The list, and the question.
    pub(super) fn text(&self) -> String {
        let width = self.choices.len().to_string().len() + 2;
        let line = |(at, choice): (usize, &Choice)| format!("{:>width$}  {}@{}\n", at + 1, choice.role, choice.target);
        let list: String = self.choices.iter().enumerate().map(line).collect();
        format!("\nWhere to?\n{list}{}", self.question())
    }

    fn question(&self) -> String {
        match self.choices.len() {
            1 => "Number, or Enter to leave: ".to_owned(),
            many => format!("Number from 1 to {many}, or Enter to leave: "),
        }
    }

    /// Takes bytes from a terminal in raw mode: nobody but us echoes and edits.
    pub(super) fn typed(&mut self, bytes: &[u8]) -> Typed {
        let mut shown = String::new();
        for byte in bytes {
            match byte {
                b'\r' | b'\n' => {
                    shown.push('\n');
                    let line = std::mem::take(&mut self.line);
                    match line.trim() {
                        "" | "q" => return Typed::Leave(shown),
                        answer => match self.find(answer) {
                            Some(choice) => return Typed::Go(shown, choice),
                            None => {
                                shown.push_str(&format!("There is no {answer} in the list.\n{}", self.question()));
                            }
                        },
                    }
                }
                // Ctrl-C and Ctrl-D.
                3 | 4 => return Typed::Leave("\n".to_owned()),
                // Backspace, as terminals send it in either way.
                8 | 127 if self.line.pop().is_some() => shown.push_str("\u{8} \u{8}"),
                0x20..=0x7e if self.line.len() < LINE_MAX => {
                    self.line.push(char::from(*byte));
                    shown.push(char::from(*byte));
                }
                // Arrow keys and the like have no meaning here; names are ASCII.
                _ => {}
            }
        }
        Typed::Show(shown)
    }

    /// By its number, or as it stands in the list.
    fn find(&self, answer: &str) -> Option<Choice> {
        let by_number = answer.parse::<usize>().ok().and_then(|number| self.choices.get(number.checked_sub(1)?));
        let written = |choice: &&Choice| format!("{}@{}", choice.role, choice.target) == answer;
        by_number.or_else(|| self.choices.iter().find(written)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn menu() -> Menu {
        let choice = |role: &str, target: &str| Choice { role: role.to_owned(), target: target.to_owned() };
        Menu { choices: vec![choice("root", "web1"), choice("deploy", "web2")], line: String::new() }
    }

    fn all(menu: &mut Menu, bytes: &[u8]) -> (String, Option<Choice>, bool) {
        match menu.typed(bytes) {
            Typed::Show(text) => (text, None, false),
            Typed::Go(text, choice) => (text, Some(choice), false),
            Typed::Leave(text) => (text, None, true),
        }
    }

    #[test]
    fn a_number_or_what_the_list_says_is_a_choice() {
        for answer in [&b"2\r"[..], b" 2 \n", b"deploy@web2\r", b"19\x7f\x7f2\r"] {
            let (_, choice, _) = all(&mut menu(), answer);
            assert_eq!(choice.map(|choice| choice.target).as_deref(), Some("web2"), "{answer:?}");
        }
        assert!(menu().text().contains("  1  root@web1\n  2  deploy@web2\nNumber from 1 to 2"));
    }

    #[test]
    fn what_is_not_in_the_list_is_asked_again() {
        for answer in ["0", "3", "web2", "-1", "1 2", "99999999999999999999"] {
            let mut menu = menu();
            let (text, choice, left) = all(&mut menu, format!("{answer}\r").as_bytes());
            assert!(choice.is_none() && !left && text.contains(&format!("no {answer} in the list")), "{text}");
            assert_eq!(all(&mut menu, b"1\r").1.unwrap().target, "web1");
        }
    }

    #[test]
    fn nothing_and_control_keys_leave() {
        for answer in [&b"\r"[..], b"q\r", b"  \n", b"12\x03", b"\x04"] {
            assert!(all(&mut menu(), answer).2, "{answer:?}");
        }
    }

    #[test]
    fn what_a_terminal_may_send_is_echoed_only_where_it_is_text() {
        let mut menu = menu();
        let (text, ..) = all(&mut menu, b"\x1b[A\xff\x001\x08");
        assert_eq!(text, "[A1\u{8} \u{8}");
        let (text, ..) = all(&mut menu, &[b'x'; 10_000]);
        assert!(text.len() <= LINE_MAX);
    }
}
