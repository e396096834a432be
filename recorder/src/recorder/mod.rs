//! The recorder: starts the threads, opens sessions, and knows whether recording can go on.

mod retention;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use tokio::sync::oneshot;

pub use retention::Reclaimed;

use crate::catalogue::Catalogue;
use crate::clock::{Clock, SystemClock};
use crate::error::{Frozen, OpenError, Refused};
use crate::figures::{Disk, Figures, Meters, Survey, Totals};
use crate::fs::{Fs, OsFs};
use crate::journal::file::{JournalWriter, file_len, scan};
use crate::journal::leaves::NodeLog;
use crate::journal::pool::Pool;
use crate::journal::thread::{Journal, Setup, random};
use crate::keeper::{Backlog, Keeper};
use crate::local_log::LocalLog;
use crate::log::leaf;
use crate::log::note::{LogKey, Note};
use crate::queue::{Command, Queue, SessionSpec};
use crate::recovery::{Evidence, Recovery};
use crate::remote::{self, Board, RemoteFigures, Remotes};
use crate::secrets::{Mint, Secrets};
use crate::session::Session;
use crate::shipper::Shipper;
use crate::threads::{POOL, Starting, Threads, at_leisure};
use crate::transcript::block::SessionId;
use crate::transcript::event::Event;
use crate::transcript::head::Durability;
use crate::transcript::wrap::Recipient;
use crate::vault::s3::Settings;
use crate::vault::{DirVault, Vault, log_key};

/// New sessions are refused when this share of the spool's filesystem is used, in percent.
pub const SPOOL_LIMIT_PERCENT: u64 = 95;

/// A daemon that was killed keeps its locks until its last write has returned from the disk.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// What a recorder is started with.
#[derive(Debug)]
pub struct RecorderConfig {
    /// Journal, spool and local node log.
    pub state_dir: PathBuf,
    /// The directory vault.
    pub vault_dir: PathBuf,
    /// Vaults elsewhere, to which everything goes on.
    pub remotes: Vec<Settings>,
    /// Whether files in the vault get the immutable attribute.
    pub immutable: bool,
    /// Whether a catalogue of the sessions is kept in the vaults: it holds personal data in the clear.
    pub catalogue: bool,
    /// The node's name: the origin of its log.
    pub node: String,
    /// The key that signs checkpoints.
    pub node_key: SigningKey,
    /// What a receipt promises.
    pub durability: Durability,
    /// Who can read what is recorded. Without any, nothing is encrypted.
    pub recipients: Vec<Recipient>,
    /// Who else can read the control transcript: the node itself, which a start needs.
    pub state_recipient: Option<Recipient>,
    /// How long sessions must be kept; fixed in each session's OPEN leaf.
    pub retain: Duration,
    /// When a segment rolls, if its size did not make it roll before.
    pub segment_age: Duration,
    /// The most that journal files may take, in bytes; on a small filesystem they take at most half of it.
    pub journal_bytes_max: u64,
    /// BLAKE3 of the configuration in force.
    pub policy_hash: [u8; 32],
    /// The snapshot that the control transcript opens with.
    pub control_opening: Vec<Event>,
    /// Where counting goes on; that of the run before, where one ended in this process.
    pub totals: Arc<Totals>,
    /// The filesystem; [`OsFs`] outside tests.
    pub fs: Arc<dyn Fs>,
    /// The clocks; [`SystemClock`] outside tests.
    pub clock: Arc<dyn Clock>,
}

impl RecorderConfig {
    /// Describes a recorder with the defaults of this version.
    pub fn new(state_dir: PathBuf, vault_dir: PathBuf, node: String, node_key: SigningKey) -> Self {
        Self {
            state_dir,
            vault_dir,
            remotes: Vec::new(),
            immutable: false,
            catalogue: false,
            node,
            node_key,
            durability: Durability::default(),
            recipients: Vec::new(),
            state_recipient: None,
            retain: Duration::from_secs(400 * 24 * 3600),
            segment_age: Duration::from_secs(15 * 60),
            journal_bytes_max: 1024 * 1024 * 1024,
            policy_hash: [0; 32],
            control_opening: Vec::new(),
            totals: Arc::default(),
            fs: Arc::new(OsFs),
            clock: Arc::new(SystemClock),
        }
    }
}

/// The recorder of a node. Clones are handles of the same one.
#[derive(Debug, Clone)]
pub struct Recorder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: Arc<Queue>,
    control: Session,
    mint: Mint,
    fs: Arc<dyn Fs>,
    spool: PathBuf,
    log_dir: PathBuf,
    vault_dir: PathBuf,
    remotes: Vec<Arc<Board>>,
    pool: Arc<Pool>,
    threads: Mutex<Threads>,
    stopping: Arc<AtomicBool>,
    /// Held until the end of [`Recorder::shutdown`]; the lock goes with the descriptor.
    lock: Mutex<Option<std::fs::File>>,
}

impl Recorder {
    /// Starts recording. Blocks for the moment that it takes to read the journal; orphans of an earlier start are closed in
    /// the background.
    ///
    /// # Errors
    /// The state directory is in use, unreadable or damaged; or the vault knows more of the node log than this node.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a configuration, with the node's key in it, is used up by a start"
    )]
    pub fn start(config: RecorderConfig) -> Result<Self, OpenError> {
        let fs = Arc::clone(&config.fs);
        let journal_dir = config.state_dir.join("journal");
        let spool = config.state_dir.join("spool");
        for dir in [&config.state_dir, &journal_dir, &spool] {
            fs.create_dir_all(dir, 0o700).map_err(OpenError::io("cannot make", dir))?;
        }
        let lock = lock(&config.state_dir)?;
        let dir_vault = DirVault::new(Arc::clone(&fs), config.vault_dir.clone(), config.immutable);
        let vault = Vault::Dir(dir_vault.clone());

        // What the last start left: its journal, and from it the end of the node log.
        let newest = newest_checkpoint(&vault, &config.node)?;
        let published = newest.as_ref().map_or(0, |note| note.checkpoint.size);
        let log_dir = config.state_dir.join("log");
        let found = scan(fs.as_ref(), &journal_dir).map_err(OpenError::io("cannot read", &journal_dir))?;
        let journaled = found.first_leaf();
        let mut log = LocalLog::open(Arc::clone(&fs), log_dir.clone(), config.node.clone(), published, journaled)?;
        // A journal that is synced in a directory that a power cut takes is no journal.
        fs.sync_dir(&config.state_dir).map_err(OpenError::io("cannot sync", &config.state_dir))?;
        let state = config.state_dir.clone();
        let evidence = Evidence::gather(found.files, |index, entry| top_up(&mut log, index, entry, &state))?;
        refuse_rollback(&log, newest.as_ref(), &config)?;
        for path in &found.leftover {
            fs.remove(path).map_err(OpenError::io("cannot remove", path))?;
        }

        let now = config.clock.now();
        let boot_id: [u8; 16] = random()?;
        let boot_key = SigningKey::from_bytes(&random()?);
        let meters = Meters::new(Arc::clone(&config.totals));
        let queue = Arc::new(Queue::new(Arc::clone(&config.clock), meters));
        let space = || fs.space(&config.state_dir).unwrap_or((u64::MAX, u64::MAX));
        // The other half is for what the journal is there for.
        let journal_bytes_max = config.journal_bytes_max.min(space().1 / 2);
        let file_len = file_len(journal_bytes_max);
        let files_max = usize::try_from(journal_bytes_max / file_len).unwrap_or(usize::MAX);
        let owed = evidence.journal_files();
        let pool = Arc::new(Pool::new(Arc::clone(&fs), journal_dir.clone(), file_len, files_max + owed.len()));
        pool.adopt_leftovers(owed).map_err(OpenError::io("cannot read", &journal_dir))?;
        let copies = Arc::new(Backlog::new(0));
        let next_ordinal = log.next_ordinal()?;
        let recovery = Recovery {
            fs: Arc::clone(&fs),
            spool: spool.clone(),
            evidence,
            boot_id,
            boot_key,
            next_ordinal,
            copies: Arc::clone(&copies),
        };
        let unreadable = || OpenError::io("cannot read", &spool);
        let unpublished = recovery.unpublished(&vault).map_err(unreadable())?;
        // Before any thread runs: from then on the spool holds live segments of this start too.
        let orphans = recovery.orphans().map_err(unreadable())?;
        let needed = pool.missing_bytes().saturating_add(recovery.copy_bytes_min().map_err(unreadable())?);
        let (available, _) = space();
        if available < needed {
            return Err(OpenError::NoSpace { needed, available, state: config.state_dir.clone() });
        }
        copies.limit(available - needed);
        // Dropped after everything below that feeds the threads, where this start fails.
        let mut starting = Starting::new(Arc::clone(&pool), Arc::clone(&queue));
        starting.spawn(POOL, {
            let (pool, queue) = (Arc::clone(&pool), Arc::clone(&queue));
            move || pool.run(|error| queue.push(Command::KeeperFailed(Frozen::from_io("journal", error))))
        })?;

        let common = remote::Common {
            fs: Arc::clone(&fs),
            state_dir: config.state_dir.clone(),
            vault: dir_vault,
            key: LogKey::new(&config.node, config.node_key.verifying_key()).map_err(io::Error::other)?,
            retain_us: micros(config.retain),
            queue: Arc::clone(&queue),
            log_size: log.size(),
        };
        let (remotes, boards) = Remotes::start(&common, config.remotes.clone(), &mut starting)?;
        let mut desk = None;
        if config.catalogue {
            let elsewhere = config.remotes.iter().map(|remote| remote.name.clone()).collect();
            let (state, vault) = (&config.state_dir, &config.vault_dir);
            let (catalogue, told) =
                Catalogue::new(Arc::clone(&fs), state, vault, &config.node, elsewhere, Arc::clone(&queue));
            let catalogue = catalogue.telling(remotes.clone());
            starting.spawn("casemate-catalogue", move || at_leisure(|| catalogue.run()))?;
            desk = Some(told);
        }

        let (jobs, job_queue) = mpsc::channel();
        let (tasks, task_queue) = mpsc::channel();
        let backlog = Arc::new(Backlog::default());
        let journal =
            JournalWriter::create(Arc::clone(&fs), Arc::clone(&pool), boot_id, found.next_file_no, found.next_lsn)
                .map_err(OpenError::io("cannot write the journal in", &journal_dir))?;
        let setup = Setup {
            boot_id,
            durability: config.durability,
            retain_us: micros(config.retain),
            segment_age_us: micros(config.segment_age),
            software: concat!("casemate ", env!("CARGO_PKG_VERSION")).to_owned(),
            log: NodeLog {
                node: config.node.clone(),
                node_key: config.node_key.clone(),
                frontier: log.frontier(),
                next_ordinal,
            },
            journal,
            journal_dir,
            fs: Arc::clone(&fs),
            spool: spool.clone(),
            queue: Arc::clone(&queue),
            keeper: jobs.clone(),
            backlog: Arc::clone(&backlog),
            catalogue: desk,
        };
        let boot = leaf::Boot {
            boot_id,
            boot_pub: recovery.boot_key.verifying_key().to_bytes(),
            wall_us: now.wall_us,
            mono_us: now.boot_us,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            previous_size: log.size(),
        };
        // Segments that the log already names go into the vault before anything that this start adds.
        for job in unpublished {
            // The keeper starts below; the channel holds these until then.
            queue.meters().to_ship();
            let _ = jobs.send(job);
        }
        let shipper =
            Shipper::new(Arc::clone(&fs), spool.clone(), log, vault, Arc::clone(&queue), Arc::clone(&pool), copies)
                .telling(remotes);
        starting.spawn("casemate-shipper", move || at_leisure(|| shipper.run(&task_queue)))?;
        let keeper = Keeper::new(Arc::clone(&queue), backlog, tasks, Arc::clone(&pool));
        starting.spawn("casemate-keeper", move || at_leisure(|| keeper.run(&job_queue)))?;
        let mut readers = config.recipients.clone();
        if !readers.is_empty() {
            readers.extend(config.state_recipient.clone());
        }
        let control_secrets = Secrets::fresh(&readers)?;
        let mut thread = Journal::new(setup)?;
        let control = thread.boot(boot, config.policy_hash, control_secrets, &config.control_opening)?;
        let journal = Arc::new(Mutex::new(thread));
        queue.share(&journal);
        let (alive, gone) = mpsc::channel();
        starting.spawn("casemate-stall", {
            let queue = Arc::clone(&queue);
            move || queue.watch(&gone)
        })?;
        starting.spawn("casemate-journal", move || {
            let _alive: mpsc::Sender<()> = alive;
            Journal::run(&journal);
        })?;
        let stopping = Arc::new(AtomicBool::new(false));
        let mut threads = starting.last("casemate-recovery", {
            let (queue, stopping) = (Arc::clone(&queue), Arc::clone(&stopping));
            move || close_orphans(&recovery, orphans, &queue, &stopping)
        })?;
        let (mint, fill) = Mint::new(config.recipients.clone());
        if let Err(error) = threads.spawn("casemate-mint", || at_leisure(fill)) {
            tracing::warn!(%error, "no thread for session keys: each opening makes its own");
        }
        let vault_dir = config.vault_dir.clone();
        let (threads, lock) = (Mutex::new(threads), Mutex::new(Some(lock)));
        let remotes = boards;
        Ok(Self(Arc::new(Inner {
            queue,
            control,
            mint,
            fs,
            spool,
            log_dir,
            vault_dir,
            remotes,
            pool,
            threads,
            stopping,
            lock,
        })))
    }

    /// Opens a session: HEAD, OPEN and the `opening` events are durable when this returns.
    ///
    /// # Errors
    /// Recording cannot go on, or there is too little space.
    pub async fn open_session(&self, spec: SessionSpec, opening: Vec<Event>) -> Result<Session, Refused> {
        self.admits()?;
        let secrets = self.0.mint.take().map_err(|error| Frozen::from_io("session keys", &error))?;
        let (reply, answer) = oneshot::channel();
        self.0.queue.push(Command::Open { spec, secrets, opening, reply });
        answer.await.map_err(|_| self.frozen().unwrap_or(Frozen::Stopped).into())
    }

    /// Returns the control transcript of this start.
    pub fn control(&self) -> &Session {
        &self.0.control
    }

    /// Whether a new session may begin.
    ///
    /// # Errors
    /// Recording cannot go on, or the filesystem of spool or vault is nearly full.
    pub fn admits(&self) -> Result<(), Refused> {
        if let Some(frozen) = self.frozen() {
            return Err(frozen.into());
        }
        self.space().map(|_| ())
    }

    /// Returns how many bytes are available to spool and vault, whichever has fewer; also after recording stopped.
    ///
    /// # Errors
    /// One of their filesystems is so full that no new session may begin.
    pub fn space(&self) -> Result<u64, Refused> {
        let mut least = u64::MAX;
        for disk in self.disks() {
            let percent = disk.used_percent();
            if percent >= SPOOL_LIMIT_PERCENT {
                return Err(Refused::Full { what: disk.what, percent, limit: SPOOL_LIMIT_PERCENT });
            }
            least = least.min(disk.available);
        }
        Ok(least)
    }

    fn disks(&self) -> impl Iterator<Item = Disk> {
        // One that cannot be asked shows when it is written to.
        [("spool", &self.0.spool), ("vault", &self.0.vault_dir)].into_iter().filter_map(|(what, dir)| {
            self.0.fs.space(dir).ok().map(|(available, total)| Disk { what, available, total })
        })
    }

    /// Returns the figures of this moment. Never waits for a disk.
    pub fn figures(&self) -> Figures {
        let (journal_bytes, journal_limit_bytes) = self.0.pool.bytes();
        let (frozen, stalled) = (self.frozen(), self.0.queue.is_stalled());
        Figures { journal_bytes, journal_limit_bytes, frozen, stalled, ..self.0.queue.meters().figures() }
    }

    /// Asks the filesystems. Blocks for as long as they take to answer.
    pub fn survey(&self) -> Survey {
        // A file that went into the vault between the two questions takes nothing here any more.
        let size = |name: String| self.0.fs.open(&self.0.spool.join(name)).and_then(|file| file.size()).ok();
        let names = self.0.fs.list(&self.0.spool).unwrap_or_default();
        Survey { spool_bytes: names.into_iter().filter_map(size).sum(), disks: self.disks().collect() }
    }

    /// Returns the figures of the vaults elsewhere.
    pub fn remotes(&self) -> Vec<RemoteFigures> {
        self.0.remotes.iter().map(|board| board.read()).collect()
    }

    /// Returns what this run counts in, for the next.
    pub fn totals(&self) -> Arc<Totals> {
        Arc::clone(self.0.queue.meters().totals())
    }

    /// Returns why recording cannot go on, if so.
    pub fn frozen(&self) -> Option<Frozen> {
        self.0.queue.frozen()
    }

    /// Waits until recording cannot go on, and says why.
    pub async fn wait_frozen(&self) -> Frozen {
        self.0.queue.wait_frozen().await
    }

    /// Ends recording: sessions that are still open are closed with reason `shutdown`, everything goes to the vault, the
    /// threads end, and another recorder may use the state directory. Blocks until then.
    pub fn shutdown(&self) {
        self.0.stopping.store(true, Ordering::SeqCst);
        self.0.queue.push(Command::Stop);
        self.0.mint.close();
        self.0.threads.lock().unwrap_or_else(PoisonError::into_inner).join();
        self.0.queue.freeze(Frozen::Stopped);
        self.0.queue.end();
        *self.0.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn close_orphans(recovery: &Recovery, orphans: Vec<SessionId>, queue: &Queue, stopping: &AtomicBool) {
    for session in orphans {
        if stopping.load(Ordering::SeqCst) {
            // The next start does the rest.
            return;
        }
        match recovery.recover(session, queue.now()) {
            Ok(Some(recovered)) => {
                tracing::info!(%session, "recovered a session of an earlier start");
                queue.push(Command::Recovered(Box::new(recovered)));
            }
            Ok(None) => {}
            Err(error) => return queue.push(Command::KeeperFailed(Frozen::from_io("recovery", &error))),
        }
    }
    queue.push(Command::Release(recovery.evidence.journal_files()));
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn lock(state_dir: &std::path::Path) -> Result<std::fs::File, OpenError> {
    let path = state_dir.join("lock");
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(OpenError::io("cannot open", &path))?;
    let deadline = std::time::Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) if std::time::Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(std::fs::TryLockError::WouldBlock) => return Err(OpenError::InUse(state_dir.to_owned())),
            Err(std::fs::TryLockError::Error(error)) => return Err(OpenError::io("cannot lock", &path)(error)),
        }
    }
}

/// Adds a journaled leaf to the local log; one that is there already must be the same, which its hash decides.
fn top_up(log: &mut LocalLog, index: u64, entry: &[u8], state: &std::path::Path) -> Result<(), OpenError> {
    let damaged = |reason| OpenError::LogDamaged { index, reason, state: state.to_owned() };
    if index > log.size() {
        return Err(damaged("entries before it are missing"));
    }
    if index < log.size() {
        return Ok(());
    }
    log.append(index, entry).map_err(OpenError::io("cannot write the node log in", state))
}

/// Returns the newest checkpoint that the vault holds of this node's log.
fn newest_checkpoint(vault: &Vault, node: &str) -> Result<Option<Note>, OpenError> {
    let failed = |error: crate::vault::VaultError| OpenError::System(io::Error::other(error.to_string()));
    let mut newest: Option<Note> = None;
    for day in vault.list(&log_key(node, "cp")).map_err(failed)? {
        for name in vault.list(&log_key(node, &format!("cp/{day}"))).map_err(failed)? {
            let size = name.split('-').next().and_then(|size| size.parse::<u64>().ok());
            if !name.ends_with(".note")
                || size.is_none_or(|size| newest.as_ref().is_some_and(|n| n.checkpoint.size >= size))
            {
                continue;
            }
            let bytes = vault.get(&log_key(node, &format!("cp/{day}/{name}"))).map_err(failed)?;
            let note = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).and_then(|text| text.parse::<Note>().ok());
            newest = note.or(newest);
        }
    }
    Ok(newest)
}

fn refuse_rollback(log: &LocalLog, newest: Option<&Note>, config: &RecorderConfig) -> Result<(), OpenError> {
    let Some(note) = newest else { return Ok(()) };
    let checkpoint = &note.checkpoint;
    if checkpoint.size > log.size() {
        return Err(OpenError::RolledBack {
            local: log.size(),
            vault: checkpoint.size,
            state: config.state_dir.clone(),
        });
    }
    if log.root_at(checkpoint.size)? != checkpoint.root {
        return Err(OpenError::Forked { size: checkpoint.size, node: config.node.clone() });
    }
    Ok(())
}
