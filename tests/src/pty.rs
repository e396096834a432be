//! A terminal for a client that wants one: we hold the other end, type, look, and change its size.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::process::wait_until;

/// A program that runs in a terminal of its own.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    child: Child,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Starts a command in a new terminal of that size.
    ///
    /// # Errors
    /// When there is no pseudo-terminal to be had or the command does not start.
    pub fn start(command: &Command, cols: u16, rows: u16) -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?.into_string()?;
        tcsetwinsize(&master, size(cols, rows))?;
        let slave = OpenOptions::new().read(true).write(true).open(&name).with_context(|| name.clone())?;
        // `setsid --ctty` makes the terminal the controlling one, so that a change of its size reaches the program.
        let mut inside = Command::new("setsid");
        inside.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(key, value),
                None => inside.env_remove(key),
            };
        }
        let child = inside.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave).spawn()?;
        let master = File::from(master);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut from, to) = (master.try_clone()?, Arc::clone(&seen));
        std::thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            // The kernel reports an error, not an end, once the other side is closed.
            while let Ok(len) = from.read(&mut buffer) {
                let Some(part) = buffer.get(..len).filter(|part| !part.is_empty()) else { break };
                if let Ok(mut seen) = to.lock() {
                    seen.extend_from_slice(part);
                }
            }
        });
        Ok(Self { master, child, seen })
    }

    /// Types.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn type_in(&mut self, text: &[u8]) -> Result<()> {
        Ok(self.master.write_all(text)?)
    }

    /// Changes the size of the terminal.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn resize(&self, cols: u16, rows: u16) -> Result<()> {
        Ok(tcsetwinsize(&self.master, size(cols, rows))?)
    }

    /// Returns everything shown so far, raw.
    pub fn screen(&self) -> Vec<u8> {
        self.seen.lock().map(|seen| seen.clone()).unwrap_or_default()
    }

    /// Everything shown so far, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.screen()).into_owned()
    }

    /// Waits until the terminal showed `text`.
    ///
    /// # Errors
    /// When it did not within `patience`; the error shows what it did show.
    pub fn expect(&self, text: &str, patience: Duration) -> Result<()> {
        if wait_until(patience, || self.text().contains(text)) {
            return Ok(());
        }
        bail!("{text:?} was not shown within {patience:?}, but {:?}", self.text())
    }

    /// Waits for the program to end.
    ///
    /// # Errors
    /// When it outlives `patience`; it is killed then.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let mut status = None;
        wait_until(patience, || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        });
        let Some(status) = status else {
            let _ = self.child.kill();
            let _ = self.child.wait();
            bail!("still running after {patience:?}; shown: {:?}", self.text())
        };
        // What it wrote last may still be on its way through the terminal.
        std::thread::sleep(Duration::from_millis(50));
        Ok(status)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(cols: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }
}
