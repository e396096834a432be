//! `watch`: a live session in an auditor's terminal, drawn anew from an emulator's cells.
//!
//! Shows what was recorded and went on, and nothing sooner. What it draws is recorded like anything else that a person is
//! shown. It reads no keys but the ones that leave, and nothing that it does reaches the session.

use std::time::Duration;

use casemate_recorder::Frozen;
use casemate_screen::paint::Painter;
use casemate_screen::screen::{Frame, Size as Cells, drawable};
use casemate_screen::stage::Stage;
use tokio::time::{Instant, sleep, sleep_until};

use super::desk::{leave, say};
use super::relay::Outer;
use super::said::{Size, Told, Up};
use crate::session::Session;

/// Frames follow each other at least this far apart. Each is recorded, so fewer than a player would draw.
const FRAME: Duration = Duration::from_millis(50);

/// How often the clock in the last line moves.
const CLOCK: Duration = Duration::from_secs(1);

/// What leaves: `q`, and what a terminal sends for Ctrl-C and Ctrl-D.
const KEYS: [u8; 3] = [b'q', 3, 4];

/// Draws the session until it ends, or the watcher leaves.
pub(super) async fn run(outer: &mut Outer, watched: &Session, size: Size) -> Result<(), Frozen> {
    let mut show = Show::new(cells(size));
    let mut due = Instant::now();
    let ended = watched.ended();
    tokio::pin!(ended);
    loop {
        // Registered before it is asked for what there is, so that nothing comes in between unseen.
        let moved = watched.recent().moved();
        tokio::pin!(moved);
        moved.as_mut().enable();
        show.take(watched);
        if Instant::now() >= due {
            due = Instant::now() + FRAME;
            let text = show.paint(watched, None);
            say(outer, text, false).await?;
        }
        tokio::select! {
            biased;
            end = &mut ended => {
                show.take(watched);
                let text = show.paint(watched, Some(&format!("ended: {}", end.text)));
                say(outer, text + &show.leave(), false).await?;
                return leave(outer, 0).await;
            }
            said = outer.up.recv() => match said {
                Some(Up::Data { ticket, held: _held }) => {
                    let bytes = ticket.receipt().await?.into_bytes();
                    if bytes.iter().any(|byte| KEYS.contains(byte)) {
                        say(outer, show.leave(), false).await?;
                        return leave(outer, 0).await;
                    }
                }
                Some(Up::Tell { request: Told::Resize(size), .. }) => show = show.resized(cells(size)),
                Some(Up::Close { .. }) | None => return Ok(()),
                Some(Up::Eof { .. } | Up::Tell { .. } | Up::Ask { .. }) => {}
            },
            () = moved => sleep_until(due).await,
            () = sleep(CLOCK) => {}
        }
    }
}

fn cells(size: Size) -> Cells {
    drawable(size.cols.into(), size.rows.into())
}

/// What the watcher's terminal shows.
struct Show {
    stage: Stage,
    painter: Painter,
    next: u64,
}

impl Show {
    fn new(size: Cells) -> Self {
        Self { stage: Stage::new(None), painter: Painter::new(size), next: 0 }
    }

    fn resized(self, size: Cells) -> Self {
        Self { painter: Painter::new(size), ..self }
    }

    /// Takes in what the session showed since.
    fn take(&mut self, watched: &Session) {
        let since = watched.recent().since(self.next);
        if since.anew {
            self.stage = Stage::new(None);
        }
        self.next = since.next;
        for event in &since.events {
            self.stage.take(event);
        }
    }

    /// Draws what differs from what the terminal shows.
    fn paint(&mut self, watched: &Session, last: Option<&str>) -> String {
        let (target, role) = watched.purpose().names();
        let place = if target.is_empty() { "the bastion".to_owned() } else { format!("{role}@{target}") };
        let age = watched.age().as_secs();
        let state = match (last, self.stage.note()) {
            (Some(last), _) => last.to_owned(),
            (None, "") => "q leaves".to_owned(),
            (None, note) => format!("{note} · q leaves"),
        };
        let person = watched.identity().person();
        let status = format!(" {person} {place} {:02}:{:02} · {state} ", age / 60, age % 60);
        let blank = || Frame { rows: Vec::new(), size: self.painter.size(), cursor: (0, 0, false) };
        let frame = self.stage.shown().map_or_else(blank, |(_, screen)| screen.frame());
        let mut out = String::new();
        self.painter.paint(&mut out, &frame, Some(&status));
        out
    }

    fn leave(&self) -> String {
        let mut out = String::new();
        self.painter.leave(&mut out);
        out
    }
}
