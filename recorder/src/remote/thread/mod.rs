//! The thread of one vault elsewhere: follows the log, and keeps a few requests under way.

mod settle;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::backlog::{Backlog, Due};
use super::contact::{Known, known};
use super::deliver::{Delivered, Parcel, Trouble, deliver, recheck};
use super::errand::{Errand, Sent};
use super::figures::Board;
use super::gate::Gate;
use super::mark::{self, Mark};
use super::pages::{Pages, deliver_page};
use super::vigil::{Delivery, LOOK_EVERY_US, Look, Vigil};
use super::{Common, News};
use crate::catalogue::Page;
use crate::error::OpenError;
use crate::local_log::read_leaves;
use crate::log::leaf::Leaf;
use crate::log::note::Note;
use crate::vault::s3::{Bucket, Check, Lock, Purpose, S3Error, Settings, Wanted};
use crate::vault::{Vault, day, log_key, segment_key};

/// Segments under way at once: each is in memory while it is.
const UPLOADS_MAX: usize = 6;

/// A checkpoint goes at least this often, in microseconds.
const CHECKPOINT_EVERY_US: u64 = 60_000_000;

/// And not more often than this, however many sessions begin and end.
const CHECKPOINT_PAUSE_US: u64 = 1_000_000;

/// A segment of a session that goes on waits this long for the checkpoint that names it, in microseconds: those of many sessions
/// share one, and a session is at most so much further behind.
const SEGMENTS_GATHER_US: u64 = 5_000_000;

/// How often the mark is written while something changes, in microseconds.
const MARK_EVERY_US: u64 = 10_000_000;

/// How long the end of the daemon waits for what is still to be delivered: the next start does the rest.
const LAST_DELIVERIES: Duration = Duration::from_secs(3);

/// Objects of the log are locked until the end of a day, so that attempts on both sides of a second ask for the same.
const DAY_US: u64 = 86_400_000_000;

/// What the thread is started with.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) common: Common,
    pub(super) settings: Settings,
    pub(super) board: Arc<Board>,
    /// Where a start waits to hear whether it may go on.
    pub(super) first: mpsc::Sender<Option<OpenError>>,
}

/// A request, or a few that belong together, that came to an end.
enum Done {
    Contact(Result<Known, S3Error>),
    Segment {
        due: Due,
        outcome: Result<Delivered, Trouble>,
        wanted: Option<Wanted>,
    },
    Checkpoint {
        note: Named,
        outcome: Result<Sent, Trouble>,
    },
    Looked(Vec<Check>),
    Rechecked {
        delivery: Box<Delivery>,
        outcome: Result<(), Trouble>,
    },
    /// `true` where the bucket locked it.
    Page {
        page: Page,
        bytes: u64,
        outcome: Result<bool, Trouble>,
    },
}

/// A checkpoint with its name there.
#[derive(Debug, Clone)]
struct Named {
    key: String,
    note: Box<Note>,
}

/// Whether the bucket has said what it knows of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contact {
    Unknown,
    Asking,
    Made,
    /// It knows more than this node: nothing may be put there.
    Barred,
}

/// The state of the thread.
pub(super) struct Remote {
    common: Common,
    bucket: Bucket,
    board: Arc<Board>,
    first: mpsc::Sender<Option<OpenError>>,
    backlog: Backlog,
    gate: Gate,
    contact: Contact,
    tasks: JoinSet<Done>,
    uploads: usize,
    /// The newest checkpoint here.
    checkpoint: Option<Box<Note>>,
    /// Checkpoints that the bucket has something else in the place of; they go before any newer one.
    spoiled: VecDeque<Named>,
    sending: bool,
    sent_at_us: u64,
    /// The log up to here is to be there soon: a session began or ended in it.
    urgent_size: u64,
    /// Attempts that came to nothing since the last one that did not.
    log_failures: u32,
    /// Whether the last attempt left nothing of itself there.
    clean: bool,
    vigil: Vigil,
    pages: Pages,
    mark_path: PathBuf,
    mark: Mark,
    marked_at_us: u64,
}

impl Remote {
    /// Works until nobody tells it anything any more, and a moment longer.
    pub(super) fn run(setup: Setup, news: UnboundedReceiver<News>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let name = setup.settings.name.clone();
        let outcome = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
            runtime.block_on(async {
                let mut remote = Self::open(setup).await?;
                remote.work(news).await;
                Ok::<(), String>(())
            })
        });
        if let Err(error) = outcome {
            tracing::error!(vault = name, error, "nothing is shipped to this vault");
        }
    }

    async fn open(setup: Setup) -> Result<Self, String> {
        let Setup { common, settings, board, first } = setup;
        let mark_path = mark::path(&common.state_dir, &settings.name);
        let mark = Mark::read(common.fs.as_ref(), &mark_path);
        let name = settings.name.clone();
        let bucket = Bucket::open(settings, Purpose::Shipping).await.map_err(|error| {
            board.trouble("settings", error.to_string());
            error.to_string()
        })?;
        let mut backlog = Backlog::new(name, mark.0);
        let log_dir = common.state_dir.join("log");
        let read = read_leaves(common.fs.as_ref(), &log_dir, mark.0, common.log_size, &mut |index, leaf| {
            backlog.leaf(index, &leaf, true);
        });
        if let Err(error) = read {
            board.trouble("log", format!("the log here cannot be read: {error}"));
            return Err(error.to_string());
        }
        let urgent_size = common.log_size;
        let pages = Pages::open(Arc::clone(&common.fs), &common.state_dir, &bucket.settings().name);
        Ok(Self {
            common,
            bucket,
            board,
            first,
            backlog,
            gate: Gate::default(),
            contact: Contact::Unknown,
            tasks: JoinSet::new(),
            uploads: 0,
            checkpoint: None,
            spoiled: VecDeque::new(),
            sending: false,
            sent_at_us: 0,
            urgent_size,
            log_failures: 0,
            clean: false,
            vigil: Vigil::default(),
            pages,
            mark_path,
            mark,
            marked_at_us: 0,
        })
    }

    fn now_us(&self) -> u64 {
        self.common.queue.now().boot_us
    }

    async fn work(&mut self, mut news: UnboundedReceiver<News>) {
        let mut ends: Option<Instant> = None;
        loop {
            let now_us = self.now_us();
            self.set_out(now_us, ends.is_some());
            self.board.waits(self.backlog.waiting());
            let left = ends.map(|ends| ends.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero() || self.is_idle()) {
                break;
            }
            let wait = Duration::from_micros(self.next_us(now_us, ends.is_some()).saturating_sub(now_us).max(1_000));
            let wait = left.map_or(wait, |left| left.min(wait));
            tokio::select! {
                told = news.recv(), if ends.is_none() => match told {
                    Some(told) => {
                        self.hear(told);
                        while let Ok(told) = news.try_recv() {
                            self.hear(told);
                        }
                    }
                    None => ends = Some(Instant::now() + LAST_DELIVERIES),
                },
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => match done {
                    Ok(done) => self.settle(done),
                    Err(error) => {
                        tracing::error!(vault = self.bucket.settings().name, %error, "a task failed");
                        self.board.trouble("task", "a task of the shipping failed in a way that nobody foresaw".to_owned());
                        self.uploads = self.uploads.saturating_sub(1);
                        self.sending = false;
                        self.pages.lost(now_us);
                    }
                },
                () = sleep(wait) => {}
            }
        }
        self.write_mark(self.now_us());
    }

    /// Whether nothing is left that could be done now.
    fn is_idle(&self) -> bool {
        let idle =
            || !self.checkpoint_is_newer() && self.backlog.waiting().segments == 0 && self.pages.is_idle(self.now_us());
        self.tasks.is_empty() && (self.contact != Contact::Made || self.gate.is_failing() || idle())
    }

    /// When to look again.
    fn next_us(&self, now_us: u64, ending: bool) -> u64 {
        if let Some(opens_us) = self.gate.opens_us(now_us) {
            return opens_us;
        }
        let mut next_us = now_us.saturating_add(LOOK_EVERY_US / 10);
        next_us = next_us.min(self.backlog.next_due_us().unwrap_or(u64::MAX));
        if !self.sending && self.checkpoint_is_newer() {
            next_us = next_us.min(self.sent_at_us.saturating_add(self.checkpoint_pause_us(ending)));
        }
        // What is due and cannot begin waits for a task that is under way.
        if next_us <= now_us { now_us.saturating_add(50_000) } else { next_us }
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Leaf { index, leaf } => {
                if matches!(
                    *leaf,
                    Leaf::Open(_) | Leaf::Close(_) | Leaf::Recovered(_) | Leaf::Retired(_) | Leaf::LegalHold(_)
                ) {
                    self.urgent_size = index + 1;
                }
                if index >= self.backlog.next() {
                    self.backlog.leaf(index, &leaf, false);
                }
            }
            News::Published { session, segment_no } => self.backlog.published((session, segment_no)),
            News::Checkpoint { note } => self.checkpoint = Some(note),
            News::Catalogue { page } => self.pages.add(page),
        }
    }

    /// Begins what may begin.
    fn set_out(&mut self, now_us: u64, ending: bool) {
        let width = self.gate.width(now_us, UPLOADS_MAX);
        let under_way = self.tasks.len();
        if width == 0 || (self.gate.is_failing() && under_way > 0) {
            return;
        }
        match self.contact {
            Contact::Unknown => return self.make_contact(),
            Contact::Asking | Contact::Barred => return,
            Contact::Made => {}
        }
        if !self.sending && self.checkpoint_is_due(now_us, ending) {
            self.send_checkpoint(now_us);
        }
        let free = width.saturating_sub(if self.gate.is_failing() { self.tasks.len() } else { self.uploads });
        for due in self.backlog.take(now_us, free) {
            self.send_segment(due);
        }
        if !self.gate.is_failing() {
            if let Some((page, tries)) = self.pages.take(now_us) {
                self.send_page(page, tries);
            }
            if !ending {
                self.look(now_us);
            }
        }
        if now_us.saturating_sub(self.marked_at_us) >= MARK_EVERY_US {
            self.write_mark(now_us);
        }
    }

    fn make_contact(&mut self) {
        self.contact = Contact::Asking;
        let (bucket, key) = (self.bucket.clone(), self.common.key.clone());
        self.tasks.spawn(async move { Done::Contact(known(&bucket, key.name(), &key).await) });
    }

    /// Whether there is a checkpoint that the bucket lacks.
    fn checkpoint_is_newer(&self) -> bool {
        !self.spoiled.is_empty()
            || self.checkpoint.as_ref().is_some_and(|note| note.checkpoint.size > self.backlog.covered())
    }

    fn checkpoint_is_due(&self, now_us: u64, ending: bool) -> bool {
        self.checkpoint_is_newer() && now_us.saturating_sub(self.sent_at_us) >= self.checkpoint_pause_us(ending)
    }

    /// How long a checkpoint waits after the one before: by what waits for it, and longer where attempts come to nothing.
    fn checkpoint_pause_us(&self, ending: bool) -> u64 {
        let pause_us = if ending || self.backlog.covered() < self.urgent_size || !self.spoiled.is_empty() {
            CHECKPOINT_PAUSE_US
        } else if self.backlog.waits_for_checkpoint() {
            SEGMENTS_GATHER_US
        } else {
            CHECKPOINT_EVERY_US
        };
        pause_us.checked_shl(self.log_failures).unwrap_or(CHECKPOINT_EVERY_US).min(CHECKPOINT_EVERY_US)
    }

    /// Puts the newest checkpoint, behind the tiles that it covers; one that is spoiled there before it.
    fn send_checkpoint(&mut self, now_us: u64) {
        let wall_us = self.common.queue.now().wall_us;
        let newest = || {
            let note = self.checkpoint.clone()?;
            Some(Named { key: log_key(self.common.key.name(), &note.checkpoint.path(&day(wall_us))), note })
        };
        let Some(note) = self.spoiled.front().cloned().or_else(newest) else { return };
        self.sending = true;
        self.sent_at_us = now_us;
        let mode = self.bucket.settings().mode;
        let until_us =
            wall_us.saturating_add(self.common.retain_us).div_ceil(DAY_US).saturating_add(1).saturating_mul(DAY_US);
        let errand = Errand {
            bucket: self.bucket.clone(),
            vault: Vault::Dir(self.common.vault.clone()),
            node: self.common.key.name().to_owned(),
            sent: self.backlog.covered().min(note.note.checkpoint.size),
            note: note.note.clone(),
            key: note.key.clone(),
            lock: Lock { mode, until_us },
            fresh: self.clean,
            attempt: self.log_failures,
        };
        self.tasks.spawn(async move { Done::Checkpoint { note, outcome: errand.run().await } });
    }

    fn send_segment(&mut self, due: Due) {
        self.uploads += 1;
        let (session, segment_no) = due.key;
        let key = segment_key(session, segment_no);
        let mode = self.bucket.settings().mode;
        // A lock in the past would be refused; what should be gone by now is locked for as short as may be.
        let until_us = due.retain_until_us.max(self.common.queue.now().wall_us.saturating_add(DAY_US));
        let (bucket, vault) = (self.bucket.clone(), Vault::Dir(self.common.vault.clone()));
        self.tasks.spawn(async move {
            let content = match vault.get(&key) {
                Ok(Some(content)) => Bytes::from(content),
                Ok(None) | Err(_) => return Done::Segment { due, outcome: Err(Trouble::LocalCopy), wanted: None },
            };
            let slack_us = if due.retain_until_us == until_us { 0 } else { 2 * DAY_US };
            let lock = Lock { mode, until_us };
            let (fresh, attempt) = (due.fresh, due.tries);
            let parcel = Parcel { fresh, attempt, slack_us, ..Parcel::new(key, content, lock) };
            if parcel.wanted.sha256 != due.sha256 {
                return Done::Segment { due, outcome: Err(Trouble::LocalCopy), wanted: None };
            }
            Done::Segment { due, outcome: deliver(&bucket, &parcel).await, wanted: Some(parcel.wanted) }
        });
    }

    fn send_page(&mut self, page: Page, tries: u32) {
        let key = page.key(self.common.key.name());
        let (bucket, vault) = (self.bucket.clone(), Vault::Dir(self.common.vault.clone()));
        self.tasks.spawn(async move {
            let (bytes, outcome) = match vault.get(&key) {
                Ok(Some(content)) => (content.len() as u64, deliver_page(&bucket, &key, content.into(), tries).await),
                // Somebody erased it here: then it is not to be elsewhere either.
                Ok(None) => (0, Ok(false)),
                Err(_) => (0, Err(Trouble::LocalCopy)),
            };
            Done::Page { page, bytes, outcome }
        });
    }

    /// Asks whether the bucket still is what it should be, and whether what went there lately is still there.
    fn look(&mut self, now_us: u64) {
        if let Some(look) = self.vigil.look(now_us) {
            let (bucket, node) = (self.bucket.clone(), self.common.key.name().to_owned());
            let wall_us = self.common.queue.now().wall_us;
            self.tasks.spawn(async move {
                Done::Looked(match look {
                    Look::Everything => bucket.check_all(&node, wall_us).await,
                    Look::Settings => bucket.check_lockdown().await,
                })
            });
        }
        while self.tasks.len() < 2 * UPLOADS_MAX
            && let Some(delivery) = self.vigil.recheck(now_us)
        {
            let bucket = self.bucket.clone();
            self.tasks.spawn(async move {
                let (session, segment_no) = delivery.due.key;
                let key = segment_key(session, segment_no);
                let outcome = recheck(&bucket, &key, &delivery.version, &delivery.wanted).await;
                Done::Rechecked { delivery: Box::new(delivery), outcome }
            });
        }
    }

    fn write_mark(&mut self, now_us: u64) {
        self.marked_at_us = now_us;
        let mark = Mark(self.backlog.low_mark());
        if mark == self.mark {
            return;
        }
        match mark.write(self.common.fs.as_ref(), &self.mark_path) {
            Ok(()) => self.mark = mark,
            Err(error) => tracing::debug!(%error, "the mark was not written"),
        }
    }
}
