//! `play` for PostgreSQL: each statement when it was over, with its values and what the person got to see. A transcript that
//! grows downwards, and no screen: what was printed stays.

use std::io::{self, Write};
use std::time::Instant;

use casemate_recorder::transcript::block::SessionId;

use super::pace::Pace;
use super::tty::{Key, Keys};
use super::{LEAP_US, LOOK, Options, View};
use crate::ReplayError;
use crate::sql::print::Print;
use crate::tail::{Step, Tail};

/// Plays a session from its first step on; what lies before `begin` is printed at once.
pub(super) fn run(
    mut tail: Tail<'_>,
    first: Step,
    session: SessionId,
    begin: Option<u64>,
    options: &Options<'_>,
    out: &mut dyn Write,
) -> Result<(), ReplayError> {
    let (mut view, mut print) = (View::open(), Print::new());
    let mut reader =
        Reader { pace: Pace::new(options.speed, options.idle_limit_us), seek: begin, clock: Instant::now() };
    let (mut keys, mut step, mut unfinished, mut waited) = (Keys::default(), first, false, false);
    loop {
        match step {
            Step::Event(t_us, event) => {
                if std::mem::take(&mut waited) {
                    reader.land(t_us);
                }
                if !reader.wait(t_us, &mut keys, &view)? {
                    return Ok(());
                }
                write(&mut view, &print.event(t_us, &event), out)?;
            }
            Step::Pending if options.follow => {
                waited = true;
                if keys.read(&view.keys(LOOK)?).contains(&Key::Quit) {
                    return Ok(());
                }
            }
            Step::Pending => {
                unfinished = true;
                tail.finish();
            }
            Step::End => break,
        }
        step = tail.next()?;
    }
    write(&mut view, &print.finish(), out)?;
    drop(view);
    if unfinished {
        // Standard error may be closed; there is nobody else to tell.
        let _ = writeln!(
            io::stderr(),
            "casemate-replay: session {session} is not finished here: this is what there is of it"
        );
    }
    Ok(())
}

/// The reader's time.
struct Reader {
    pace: Pace,
    /// Everything up to this moment is due at once.
    seek: Option<u64>,
    clock: Instant,
}

impl Reader {
    /// Goes on from a moment.
    fn land(&mut self, t_us: u64) {
        self.seek = None;
        self.pace.jump(self.clock.elapsed(), t_us);
    }

    /// Waits until something is due; `false` where the reader has seen enough.
    fn wait(&mut self, t_us: u64, keys: &mut Keys, view: &View) -> Result<bool, ReplayError> {
        match self.seek {
            Some(to_us) if t_us <= to_us => return Ok(true),
            Some(_) => self.land(t_us),
            None => {}
        }
        loop {
            let now = self.clock.elapsed();
            let wait = self.pace.wait(now, t_us);
            for key in keys.read(&view.keys(wait)?) {
                match key {
                    Key::Quit => return Ok(false),
                    Key::Pause => self.pace.toggle_pause(now),
                    Key::Step => self.pace.jump(now, t_us),
                    Key::Faster => self.pace.scale(now, 2.0),
                    Key::Slower => self.pace.scale(now, 0.5),
                    Key::Forward => self.pace.jump(now, self.pace.position(now).saturating_add(LEAP_US)),
                    // Paper does not roll back.
                    Key::Back => {}
                }
            }
            if self.pace.wait(self.clock.elapsed(), t_us).is_zero() {
                return Ok(true);
            }
        }
    }
}

/// Writes lines, which hold nothing that steers a terminal.
fn write(view: &mut View, lines: &[String], out: &mut dyn Write) -> Result<(), ReplayError> {
    if lines.is_empty() {
        return Ok(());
    }
    // A terminal whose keys come one by one begins no line by itself.
    let end = if view.has_clock() { "\r\n" } else { "\n" };
    view.text.clear();
    for line in lines {
        view.text.push_str(line);
        view.text.push_str(end);
    }
    view.write(out)
}
