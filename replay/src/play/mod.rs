//! `play`: a session as it looked, drawn anew from an emulator's cells. No recorded byte reaches the reader's terminal.

mod pace;
mod sql;
mod tty;

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use casemate_recorder::transcript::block::SessionId;
use casemate_recorder::transcript::event::{Event, Lane};
use casemate_recorder::transcript::head::Protocol;
use casemate_recorder::transcript::wrap::Identity;
use casemate_screen::paint::Painter;
use casemate_screen::screen::{Frame, Size};
use casemate_screen::stage::Stage;

use self::pace::Pace;
pub(crate) use self::pace::{parse_offset, parse_speed};
use self::tty::{Key, Keys, Tty};
use crate::ReplayError;
use crate::reader::Transcript;
use crate::tail::{Step, Tail};
use crate::time::{offset, rfc3339};
use crate::vault::Vault;

/// Frames follow each other at least this far apart: nobody sees more, and terminals draw less.
const FRAME: Duration = Duration::from_millis(16);

/// How often the clock on the screen and a growing transcript are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How far an arrow key goes, in microseconds.
const LEAP_US: u64 = 10_000_000;

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goto {
    /// At a moment, in microseconds since the session began.
    Moment(u64),
    /// At the newest that there is.
    End,
}

/// Reads where to begin.
pub(crate) fn parse_goto(text: &str) -> Result<Goto, String> {
    match text {
        "end" => Ok(Goto::End),
        text => parse_offset(text).map(Goto::Moment).map_err(|refused| format!("{refused}, or `end`")),
    }
}

/// How to play.
#[derive(Debug)]
pub(crate) struct Options<'a> {
    /// As a multiple of the recorded speed.
    pub(crate) speed: f64,
    /// No idle time longer than this, in microseconds.
    pub(crate) idle_limit_us: Option<u64>,
    /// Where to begin; at the start without it, or at the newest when following.
    pub(crate) goto: Option<Goto>,
    /// Whether to wait for what is still to be recorded.
    pub(crate) follow: bool,
    /// Where the node keeps live segments.
    pub(crate) spool: Option<&'a Path>,
    /// Only this channel.
    pub(crate) channel: Option<u32>,
}

/// Plays a session.
pub(crate) fn run(
    vault: &Vault,
    session: SessionId,
    identities: &[Identity],
    options: &Options<'_>,
    out: &mut dyn Write,
) -> Result<(), ReplayError> {
    let tail = || Tail::new(vault, options.spool, session, identities);
    // A session that cannot be opened is said before the terminal is taken over.
    let mut first = tail();
    let opened = first.next()?;
    let begin = match (options.goto, options.follow) {
        (Some(Goto::Moment(at_us)), _) => Some(at_us),
        (Some(Goto::End), _) | (None, true) => Some(u64::MAX),
        (None, false) => None,
    };
    if first.protocol() == Some(Protocol::Pg) {
        return sql::run(first, opened, session, begin, options, out);
    }
    let mut player = Player {
        options,
        tail: first,
        coming: None,
        ended: false,
        stage: Stage::new(options.channel),
        pace: Pace::new(options.speed, options.idle_limit_us),
        seek: begin,
        last_us: 0,
        pending: false,
        step: false,
        dirty: true,
        view: View::open(),
    };
    player.arrived(opened, Duration::ZERO);
    let played = player.play(&tail, out);
    let shown = player.stage.shown().is_some();
    player.view.leave(out)?;
    drop(player);
    let left = played?;
    let note = match left {
        _ if !shown => "showed nothing that could be played: `show` lists what happened",
        Left::Unfinished => "is not finished here: this is what there is of it",
        Left::Ended | Left::Quit => return Ok(()),
    };
    // Standard error may be closed; there is nobody else to tell.
    let _ = writeln!(io::stderr(), "casemate-replay: session {session} {note}");
    Ok(())
}

/// Plays a whole session into nothing, as fast as it goes: every event is read, and what terminals showed is drawn. Returns how many
/// events there are.
pub(crate) fn rehearse(transcript: &Transcript) -> Result<u64, ReplayError> {
    let mut stage = Stage::new(None);
    let mut events = 0;
    for entry in transcript.events(&Lane::ALL) {
        let (_, entry) = entry?;
        stage.take(&entry.event);
        events += 1;
    }
    Ok(events)
}

/// Why the playing is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Ended,
    Unfinished,
    Quit,
}

struct Player<'v, 'o> {
    options: &'o Options<'o>,
    tail: Tail<'v>,
    /// The next event, not yet due.
    coming: Option<(u64, Event)>,
    /// Whether there is nothing after `coming`.
    ended: bool,
    stage: Stage,
    pace: Pace,
    /// Everything up to this moment is taken at once.
    seek: Option<u64>,
    /// When the last event that was taken happened.
    last_us: u64,
    /// Whether everything that is here was taken, and more may come.
    pending: bool,
    /// Whether the next change is wanted now.
    step: bool,
    dirty: bool,
    view: View,
}

impl<'v> Player<'v, '_> {
    fn play(&mut self, again: &dyn Fn() -> Tail<'v>, out: &mut dyn Write) -> Result<Left, ReplayError> {
        let clock = Instant::now();
        let mut keys = Keys::default();
        let mut unfinished = false;
        loop {
            let now = clock.elapsed();
            if self.coming.is_none() && !self.ended {
                match self.tail.next()? {
                    Step::Pending if !self.options.follow => {
                        unfinished = true;
                        self.tail.finish();
                        continue;
                    }
                    step => self.arrived(step, now),
                }
            }
            let wait = self.wait(now);
            let rest = self.view.rest(now);
            if wait.is_zero() && self.take(now) && !rest.is_zero() {
                continue;
            }
            let over = self.coming.is_none() && self.ended;
            if over || rest.is_zero() {
                self.paint(now, out)?;
            }
            if over {
                return Ok(if unfinished { Left::Unfinished } else { Left::Ended });
            }
            // What changed and was not painted yet is, as soon as the next frame may be.
            let wait = if self.dirty { wait.min(rest) } else { wait };
            for key in keys.read(&self.view.keys(wait)?) {
                match key {
                    Key::Quit => return Ok(Left::Quit),
                    key => self.obey(key, clock.elapsed(), again),
                }
            }
        }
    }

    /// Notes what the transcript has next.
    fn arrived(&mut self, step: Step, now: Duration) {
        match step {
            Step::Event(t_us, event) => {
                if std::mem::take(&mut self.pending) {
                    // What came late is shown at its own pace from here, not in a burst.
                    self.pace.jump(now, t_us);
                }
                self.coming = Some((t_us, event));
            }
            Step::Pending => {
                self.pending = true;
                self.landed(now, self.last_us);
            }
            Step::End => {
                self.ended = true;
                self.landed(now, self.last_us);
            }
        }
    }

    /// Ends a seek.
    fn landed(&mut self, now: Duration, at_us: u64) {
        if self.seek.take().is_some() {
            self.pace.jump(now, at_us);
            self.dirty = true;
        }
    }

    /// Returns how long nothing is due.
    fn wait(&mut self, now: Duration) -> Duration {
        let Some(t_us) = self.coming.as_ref().map(|(t_us, _)| *t_us) else {
            return if self.ended { Duration::ZERO } else { LOOK };
        };
        match self.seek {
            Some(to_us) if t_us <= to_us => return Duration::ZERO,
            Some(to_us) => self.landed(now, to_us),
            None => {}
        }
        if self.step { Duration::ZERO } else { self.pace.wait(now, t_us) }
    }

    /// Takes the event that is due; returns whether there was one.
    fn take(&mut self, now: Duration) -> bool {
        let Some((t_us, event)) = self.coming.take() else { return false };
        let changed = self.stage.take(&event);
        self.last_us = self.last_us.max(t_us);
        self.dirty |= changed;
        if self.step {
            self.pace.jump(now, t_us);
            self.step = !changed;
        }
        true
    }

    fn obey(&mut self, key: Key, now: Duration, again: &dyn Fn() -> Tail<'v>) {
        let position = self.pace.position(now);
        self.dirty = true;
        match key {
            Key::Quit => {}
            Key::Pause => self.pace.toggle_pause(now),
            Key::Step => self.step = self.pace.is_paused(),
            Key::Faster => self.pace.scale(now, 2.0),
            Key::Slower => self.pace.scale(now, 0.5),
            Key::Forward => self.seek = Some(position.saturating_add(LEAP_US)),
            Key::Back => {
                self.tail = again();
                self.stage = Stage::new(self.options.channel);
                (self.coming, self.ended, self.pending, self.step) = (None, false, false, false);
                self.last_us = 0;
                self.seek = Some(position.saturating_sub(LEAP_US));
            }
        }
    }

    fn paint(&mut self, now: Duration, out: &mut dyn Write) -> Result<(), ReplayError> {
        let seeking = self.seek.is_some();
        // On the way to a moment only the clock moves; a file or a pipe gets frames, not a clock.
        if !self.view.has_clock() && (seeking || !self.dirty) {
            return Ok(());
        }
        let status = self.status(now);
        let frame = match self.stage.shown() {
            Some((_, screen)) => screen.frame(),
            None if self.view.has_clock() => Frame { rows: Vec::new(), size: (1, 1), cursor: (0, 0, false) },
            None => return Ok(()),
        };
        self.dirty = false;
        self.view.paint(now, &frame, &status, seeking || self.pace.is_paused(), out)
    }

    fn status(&self, now: Duration) -> String {
        let at_us = match self.seek {
            Some(_) => self.last_us,
            None => self.pace.position(now),
        };
        let wall = rfc3339(self.tail.start_us().saturating_add(at_us));
        let doing = match (self.seek, self.pending, self.pace.is_paused()) {
            (Some(_), ..) => "seeking",
            (None, _, true) => "paused",
            (None, true, _) => "live",
            (None, ..) => "playing",
        };
        let channel = match self.stage.shown() {
            Some((chan, screen)) => format!("channel {chan}, {}x{}", screen.size().0, screen.size().1),
            None => "nothing shown yet".to_owned(),
        };
        let note = if self.stage.note().is_empty() { String::new() } else { format!("  {}", self.stage.note()) };
        format!(
            " {}  {}Z  {doing} x{}  {channel}{note}  space . + - arrows q",
            offset(at_us).get(..7).unwrap_or_default(),
            wall.get(..19).unwrap_or_default(),
            self.pace.speed(),
        )
    }
}

/// Where the frames go: a terminal, or a file or pipe that gets them as a terminal of the recorded size would.
struct View {
    tty: Option<Tty>,
    painter: Option<Painter>,
    text: String,
    /// When the last frame was painted.
    at: Option<Duration>,
}

impl View {
    /// Takes the reader's terminal over, where there is one.
    fn open() -> Self {
        Self { tty: Tty::open(), painter: None, text: String::new(), at: None }
    }

    fn has_clock(&self) -> bool {
        self.tty.is_some()
    }

    /// Returns how long it is until the next frame may be painted.
    fn rest(&self, now: Duration) -> Duration {
        self.at.map_or(Duration::ZERO, |at| (at + FRAME).saturating_sub(now))
    }

    fn paint(
        &mut self,
        now: Duration,
        frame: &Frame,
        status: &str,
        insists: bool,
        out: &mut dyn Write,
    ) -> Result<(), ReplayError> {
        self.at = Some(now);
        let size: Size = self.tty.as_ref().map_or(frame.size, Tty::size);
        let painter = match self.painter.take() {
            Some(painter) if painter.size() == size => painter,
            _ => Painter::new(size),
        };
        let painter = self.painter.insert(painter);
        // The recording may need the last row itself.
        let status = (self.tty.is_some() && (insists || size.1 > frame.size.1)).then_some(status);
        self.text.clear();
        painter.paint(&mut self.text, frame, status);
        self.write(out)
    }

    fn leave(&mut self, out: &mut dyn Write) -> Result<(), ReplayError> {
        self.text.clear();
        if let Some(painter) = &self.painter {
            painter.leave(&mut self.text);
        }
        self.write(out)
    }

    fn write(&self, out: &mut dyn Write) -> Result<(), ReplayError> {
        let written = out.write_all(self.text.as_bytes()).and_then(|()| out.flush());
        written.map_err(ReplayError::io("write to", Path::new("the output")))
    }

    /// Waits for keys, at most until something else is to be done.
    fn keys(&self, wait: Duration) -> Result<Vec<u8>, ReplayError> {
        match &self.tty {
            Some(tty) => tty.keys(wait.min(LOOK)).map_err(ReplayError::io("read keys from", Path::new("the terminal"))),
            None => {
                std::thread::sleep(wait.min(Duration::from_secs(3600)));
                Ok(Vec::new())
            }
        }
    }
}
