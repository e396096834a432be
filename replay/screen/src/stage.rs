//! What of a session is on the screen: which channel, how large, how it went.

use std::collections::HashMap;

use casemate_recorder::transcript::event::{
    Body, Event, Field, Value, chan_close, exec, exit, pty, resize, ssh_err, ssh_out,
};

use super::screen::{Screen, Size, Stream, drawable};
use crate::safe::visible;

/// Chooses a channel and draws it.
///
/// Without a wish it is the first that shows something, until one with a terminal does.
#[derive(Debug)]
pub struct Stage {
    wanted: Option<u32>,
    terminals: HashMap<u32, Size>,
    shown: Option<(u32, Screen)>,
    /// What the reader should know beside the screen.
    note: String,
}

impl Stage {
    /// Starts with nothing shown; `wanted` is the channel to show, where somebody has a wish.
    pub fn new(wanted: Option<u32>) -> Self {
        Self { wanted, terminals: HashMap::new(), shown: None, note: String::new() }
    }

    /// Returns the channel and its screen, once there is one.
    pub fn shown(&self) -> Option<(u32, &Screen)> {
        self.shown.as_ref().map(|(chan, screen)| (*chan, screen))
    }

    /// What to say beside the screen: the command, how it ended.
    pub fn note(&self) -> &str {
        &self.note
    }

    /// Takes what happened; returns whether the screen itself may look different now.
    pub fn take(&mut self, event: &Event) -> bool {
        let chan = event.chan;
        match (event.kind, &event.body) {
            (ssh_out::TYPE, Body::Stream(data)) => self.output(chan, Stream::Out, data),
            (ssh_err::TYPE, Body::Stream(data)) => self.output(chan, Stream::Err, data),
            (pty::TYPE, _) => {
                self.terminals.insert(chan, size(event, pty::COLS, pty::ROWS));
                false
            }
            (resize::TYPE, _) => self.resize(chan, size(event, resize::COLS, resize::ROWS)),
            (exec::TYPE, _) if self.is_ours(chan) => {
                let command = match event.get(exec::COMMAND) {
                    Some(Value::Bytes(command)) => visible(&String::from_utf8_lossy(command)),
                    Some(Value::Text(command)) => visible(command),
                    _ => String::new(),
                };
                self.noted(command)
            }
            (exit::TYPE, _) if self.is_ours(chan) => match (event.get(exit::STATUS), event.get(exit::SIGNAL)) {
                (Some(Value::Uint(status)), _) => self.noted(format!("exit status {status}")),
                (_, Some(Value::Text(signal))) => self.noted(format!("ended by signal {}", visible(signal))),
                _ => false,
            },
            (chan_close::TYPE, _) => {
                self.terminals.remove(&chan);
                false
            }
            _ => false,
        }
    }

    fn is_ours(&self, chan: u32) -> bool {
        match (&self.shown, self.wanted) {
            (Some((shown, _)), _) => *shown == chan,
            (None, Some(wanted)) => wanted == chan,
            (None, None) => true,
        }
    }

    fn noted(&mut self, note: String) -> bool {
        self.note = note;
        false
    }

    fn output(&mut self, chan: u32, stream: Stream, data: &[u8]) -> bool {
        let terminal = self.terminals.get(&chan).copied();
        let takes_over = match &self.shown {
            None => self.wanted.is_none_or(|wanted| wanted == chan),
            Some((shown, screen)) => {
                *shown != chan && self.wanted.is_none() && terminal.is_some() && !screen.is_terminal()
            }
        };
        if takes_over {
            self.shown = Some((chan, Screen::new(terminal)));
        }
        match &mut self.shown {
            Some((shown, screen)) if *shown == chan => {
                let resets = screen.resets();
                screen.feed(stream, data);
                if screen.resets() > resets {
                    self.note = "the emulator failed on what was recorded here and began anew".to_owned();
                }
                true
            }
            _ => false,
        }
    }

    fn resize(&mut self, chan: u32, size: Size) -> bool {
        if let Some(known) = self.terminals.get_mut(&chan) {
            *known = size;
        }
        match &mut self.shown {
            Some((shown, screen)) if *shown == chan && screen.is_terminal() => {
                screen.resize(size);
                true
            }
            _ => false,
        }
    }
}

fn size(event: &Event, cols: Field, rows: Field) -> Size {
    let number = |field| match event.get(field) {
        Some(Value::Uint(number)) => *number,
        _ => 0,
    };
    drawable(number(cols), number(rows))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn out(chan: u32, text: &'static str) -> Event {
        Event::stream(ssh_out::TYPE, chan, Bytes::from_static(text.as_bytes()))
    }

    fn terminal(chan: u32) -> Event {
        Event::map(pty::TYPE, chan).with(pty::COLS, 40u32).with(pty::ROWS, 5u32)
    }

    #[test]
    fn a_terminal_takes_the_place_of_a_channel_without_one_and_keeps_it() {
        let mut stage = Stage::new(None);
        assert!(stage.take(&out(0, "plain")));
        assert!(!stage.take(&out(1, "other")));
        stage.take(&terminal(2));
        assert_eq!(stage.shown().unwrap().0, 0);
        assert!(stage.take(&out(2, "$ ")));
        assert_eq!((stage.shown().unwrap().0, stage.shown().unwrap().1.size()), (2, (40, 5)));
        stage.take(&terminal(3));
        assert!(!stage.take(&out(3, "$ ")));
        let wider = Event::map(resize::TYPE, 2).with(resize::COLS, 0u32).with(resize::ROWS, 70_000u32);
        assert!(stage.take(&wider));
        assert_eq!(stage.shown().unwrap().1.size(), (80, 1000));
    }

    #[test]
    fn a_wish_is_kept() {
        let mut stage = Stage::new(Some(1));
        assert!(!stage.take(&out(0, "plain")) && stage.shown().is_none());
        assert!(!stage.take(&Event::map(exit::TYPE, 0).with(exit::STATUS, 3u32)));
        assert!(stage.take(&out(1, "wanted")));
        stage.take(&Event::map(exit::TYPE, 1).with(exit::STATUS, 3u32));
        assert_eq!(stage.note(), "exit status 3");
    }
}
