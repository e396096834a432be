//! What follows when a request came to an end: a leaf, another attempt, or a word to whoever watches.

use super::{Contact, Done, Named, Remote};
use crate::catalogue::Page;
use crate::error::{Frozen, OpenError};
use crate::log::leaf::Stored;
use crate::queue::Command;
use crate::remote::backlog::Due;
use crate::remote::contact::{Known, Standing, compare};
use crate::remote::deliver::{Delivered, OVER_MAX, Trouble};
use crate::remote::vigil::Delivery;
use crate::vault::s3::{Lie, LockMode, S3Error, Wanted};
use crate::vault::{Vault, segment_key};

impl Remote {
    pub(super) fn settle(&mut self, done: Done) {
        let now_us = self.now_us();
        match done {
            Done::Contact(outcome) => self.contacted(outcome, now_us),
            Done::Segment { due, outcome, wanted } => {
                self.uploads = self.uploads.saturating_sub(1);
                self.delivered(due, outcome, wanted, now_us);
            }
            Done::Checkpoint { note, outcome } => {
                self.sending = false;
                self.spoiled.retain(|spoiled| spoiled.key != note.key);
                match outcome {
                    Ok(sent) => {
                        self.reached();
                        self.clean = true;
                        self.board.put(sent.objects, sent.bytes);
                        self.board.dated(sent.dated_us);
                        self.board.settled("log");
                        self.log_failures = 0;
                        self.reaches(note.note.checkpoint.size);
                    }
                    Err(trouble) => {
                        self.clean = false;
                        // Where the server does not answer, the gate says when it is asked again.
                        if !trouble.is_transient() {
                            self.log_failures = self.log_failures.saturating_add(1).min(16);
                            // What is newer by then has another name, and would leave this one as it is.
                            if self.log_failures <= OVER_MAX {
                                self.spoiled.push_front(note);
                            }
                        }
                        self.came_to_nothing("log", &trouble, now_us);
                    }
                }
            }
            Done::Looked(checks) => {
                self.vigil.looked();
                for check in checks {
                    match check.is_finding() {
                        true => self.board.trouble(check.what, check.text),
                        false if check.is_good() => self.board.settled(check.what),
                        false => {}
                    }
                }
            }
            Done::Rechecked { delivery, outcome } => self.rechecked(*delivery, &outcome, now_us),
            Done::Page { page, bytes, outcome } => self.page_done(page, bytes, outcome, now_us),
        }
    }

    /// Holds the log here against what the bucket knows of it.
    fn contacted(&mut self, outcome: Result<Known, S3Error>, now_us: u64) {
        self.contact = Contact::Unknown;
        let Known { newest, spoiled } = match outcome {
            Ok(known) => known,
            Err(error) => return self.came_to_nothing("contact", &error.into(), now_us),
        };
        let log_dir = self.common.state_dir.join("log");
        let standing = match &newest {
            None => Ok(Standing::Ahead),
            Some(note) => compare(self.common.fs.as_ref(), &log_dir, note),
        };
        let size = newest.as_ref().map_or(0, |note| note.checkpoint.size);
        let error = match standing {
            Ok(Standing::Ahead) => {
                self.contact = Contact::Made;
                self.reached();
                self.board.settled("contact");
                self.reaches(size);
                // Of what the node itself put there it has a copy. What is not its own is for the verifier to tell of.
                let vault = Vault::Dir(self.common.vault.clone());
                self.spoiled.extend(spoiled.into_iter().filter_map(|key| {
                    let text = vault.get(&key).ok().flatten().and_then(|bytes| String::from_utf8(bytes).ok())?;
                    Some(Named { key, note: Box::new(text.parse().ok()?) })
                }));
                // Whoever waits for this may have given up waiting.
                let _ = self.first.send(None);
                return;
            }
            Ok(Standing::Behind { local }) => {
                OpenError::RolledBack { local, vault: size, state: self.common.state_dir.clone() }
            }
            Ok(Standing::Forked) => OpenError::Forked { size, node: self.common.key.name().to_owned() },
            Err(source) => OpenError::Io { what: "cannot read", path: log_dir, source },
        };
        self.contact = Contact::Barred;
        let text = format!("vault {}: {error}", self.bucket.settings().name);
        self.board.trouble("contact", text.clone());
        self.common.queue.push(Command::KeeperFailed(Frozen::Failed(text.into())));
        let _ = self.first.send(Some(error));
    }

    fn delivered(&mut self, due: Due, outcome: Result<Delivered, Trouble>, wanted: Option<Wanted>, now_us: u64) {
        let (session, segment_no) = due.key;
        let about = segment_key(session, segment_no);
        match outcome {
            Ok(delivered) => {
                self.reached();
                match delivered.shadowed {
                    true => self.board.trouble(&about, Lie::Shadowed.to_string()),
                    false => self.board.settled(&about),
                }
                if delivered.put {
                    self.board.put(1, due.bytes);
                }
                let wall_us = self.common.queue.now().wall_us;
                self.common.queue.push(Command::Stored(Stored {
                    session,
                    segment_no,
                    vault: self.bucket.settings().name.clone(),
                    version: delivered.version.clone(),
                    sha256: due.sha256,
                    mode: match delivered.lock.mode {
                        LockMode::Governance => 0,
                        LockMode::Compliance => 1,
                    },
                    retain_until_us: delivered.lock.until_us,
                    wall_us,
                }));
                self.backlog.done(due.key);
                if let Some(wanted) = wanted {
                    let wanted = Wanted { lock: delivered.lock, ..wanted };
                    let version = delivered.version;
                    self.vigil.remember(Delivery { due, version, wanted, wall_us, at_us: now_us });
                }
            }
            Err(trouble) => {
                self.backlog.failed(due.key, now_us, dice());
                self.came_to_nothing(&about, &trouble, now_us);
            }
        }
    }

    fn rechecked(&mut self, delivery: Delivery, outcome: &Result<(), Trouble>, now_us: u64) {
        match outcome {
            Ok(()) => self.reached(),
            Err(trouble) => {
                let (session, segment_no) = delivery.due.key;
                self.came_to_nothing(&segment_key(session, segment_no), trouble, now_us);
                match trouble {
                    Trouble::Lie(Lie::Gone) => self.backlog.again(delivery.due, delivery.wall_us, now_us),
                    _ if trouble.is_transient() => {
                        self.vigil.remember(Delivery { at_us: now_us, ..delivery });
                    }
                    _ => {}
                }
            }
        }
    }

    /// The catalogue is a convenience: that a page does not get there holds up nothing else and raises no alarm.
    fn page_done(&mut self, page: Page, bytes: u64, outcome: Result<bool, Trouble>, now_us: u64) {
        let vault = self.bucket.settings().name.clone();
        match outcome {
            Ok(locked) => {
                if locked {
                    tracing::warn!(vault, %page, "the bucket locks by default, the catalogue too: it cannot be erased");
                }
                if bytes > 0 {
                    self.board.put(1, bytes);
                    self.reached();
                }
                self.pages.done(page);
            }
            Err(Trouble::Conflict) => {
                tracing::error!(vault, %page, "something else has the name of this page of the catalogue");
                self.pages.done(page);
            }
            Err(trouble) => {
                self.pages.failed(page, now_us);
                match trouble.is_transient() {
                    true => self.came_to_nothing("catalogue", &trouble, now_us),
                    false => tracing::warn!(vault, %page, %trouble, "a page of the catalogue is not shipped"),
                }
            }
        }
    }

    /// The log there has that size now, or had a greater one already.
    fn reaches(&mut self, size: u64) {
        self.backlog.cover(size);
        self.board.log_size(self.backlog.covered());
    }

    fn reached(&mut self) {
        self.gate.succeeded();
        self.board.reached(self.common.queue.now().wall_us);
    }

    fn came_to_nothing(&mut self, about: &str, trouble: &Trouble, now_us: u64) {
        let vault = &self.bucket.settings().name;
        let kind = match trouble {
            Trouble::Request(error) => error.kind(),
            Trouble::Lie(_) => "lie",
            Trouble::Conflict => "conflict",
            Trouble::LocalCopy => "local",
        };
        self.board.failed(kind);
        if trouble.is_transient() {
            if !self.gate.is_failing() {
                tracing::warn!(vault, about, %trouble, "the vault does not answer: what is recorded waits here");
            }
            self.gate.failed(now_us, dice());
        } else {
            tracing::error!(vault, about, %trouble, "not shipped");
            self.board.trouble(about, trouble.to_string());
            if matches!(trouble, Trouble::Request(_)) {
                // Denied, or a clock that is off: it concerns everything that is put there.
                self.gate.failed(now_us, dice());
            }
        }
    }
}

/// A number that nobody needs to guess right.
fn dice() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness all wait equally long.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}
