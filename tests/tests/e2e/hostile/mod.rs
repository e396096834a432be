//! Peers that mean harm, on either side: each is refused or ended in bounded time and memory, is on record where it should be, and
//! nobody beside it notices.
//!
//! One module a place where harm can be done: before the keys are agreed, at the login, in the channels, and from the target.
//! Floods of connections have the machine for themselves and live in the binary `relay`.
//!
//! Where the known pitfalls of relays have their tests:
//!
//! | pitfall | covered by |
//! |---|---|
//! | 1 both directions full at once | `relay::duplex_cat_does_not_deadlock_*` |
//! | 2 paramiko asks for everything before it reads | `relay::paramiko_get_goes_through` |
//! | 3 a stalled channel beside others | `relay::a_stalled_channel_stalls_no_other_*` |
//! | 4 memory with a slow reader | `relay::slow_readers_cost_bounded_memory_*` |
//! | 5 new keys every mebibyte | `relay::keys_can_change_every_mebibyte_*` |
//! | 6 the tail before the exit status | `relay::the_exit_status_comes_after_the_whole_tail`, `session::every_way_to_end_reaches_the_client` |
//! | 7 input before the target is ready | `hostile::channels::input_behind_its_command_is_not_lost` |
//! | 8 a server that speaks first inside a channel | `jump::*`: SSH inside `direct-tcpip` is one |
//! | 9 sftp, scp, rsync, git | `clients::*`, `relay::sftp_at_default_depth_goes_through` |
//! | 10 a close while a writer waits | `relay::a_writer_that_waits_goes_away_with_its_peer_*` |
//! | 11 ten thousand channels on one connection | `hostile::channels::refused_channels_leave_nothing` |
//! | 12 every login that must fail | `hostile::logins::*`, `login::*` |
//! | 13 half-open connections and stuck exchanges | `relay::hostile::*` |
//! | 14 requests in one piece, PuTTY's among them | `hostile::channels::requests_sent_in_one_piece_are_answered_in_order` |
//! | 15 `ssh -J`, with and without an authority | `jump::*`, the `inside` forms in `relay` |
//!
//! What other relays of this kind got wrong once: early input (7), `record_scp` that hung and sessions of SFTP alone
//! (`clients::*`), transfers that stall at a rekey (5), "close rcvd twice" (`channels::messages_for_channels_that_are_none`),
//! unknown terminal modes (`transparency::*`), login loops (`logins::*`).

mod channels;
mod logins;
mod targets;
mod transport;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use casemate_tests::client::Route;
use casemate_tests::process::{rss, wait_until};
use casemate_tests::raw_ssh::{HostileTarget, Key, Lists, Peer, Put, Said, msg};
use casemate_tests::rig::{Lab, Options};
use casemate_tests::scale::MIB;
use casemate_tests::{keys, sshd};

/// How long the end of something may take at most; far above what it takes.
const BOUND: Duration = Duration::from_secs(10);

/// Longer than this nobody beside a hostile peer may wait for an answer, on a machine that runs other tests too.
const UNAFFECTED: Duration = Duration::from_secs(5);

/// What a daemon may keep after something is over: allocators round up.
const SLACK: u64 = 12 * MIB;

/// What a message takes on the wire at the least: its packet has two lengths, padding and a tag beside it.
fn packet_len(message: &[u8]) -> u64 {
    message.len() as u64 + 4 + 1 + 4 + 16
}

/// The numbers of the two raw persons' keys.
const MALLORY: u64 = 1;
const BOB: u64 = 2;

/// A bastion with somebody hostile before it, and somebody beside them who works.
struct Ground {
    lab: Lab,
    mallory: Key,
    bob: Key,
    before: u64,
}

impl Ground {
    fn new(limits: &str) -> Self {
        Self::with_targets(limits, &[])
    }

    /// Configures hostile targets as well, by name, with the numbers of their pinned host keys.
    fn with_targets(limits: &str, targets: &[(&str, u64, &HostileTarget)]) -> Self {
        let (mallory, bob) = (Key::number(MALLORY), Key::number(BOB));
        let user = sshd::current_user().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let login = dir.path().join("login");
        keys::make(&login, "ed25519").unwrap();
        let mut more = String::new();
        let access = |person: &str, target: &str| {
            format!(
                "[[access]]\nperson = \"{person}\"\ntargets = [\"{target}\"]\nroles = [\"{user}\"]\nreason = \"tests\"\n"
            )
        };
        for (name, key) in [("mallory", &mallory), ("bob", &bob)] {
            more += &format!("[[person]]\nname = \"{name}\"\nkeys = [\"{}\"]\nduties = [\"admin\"]\n", key.line());
            more += &access(name, "web1");
        }
        for (name, key, target) in targets {
            more += &format!(
                "[[target]]\nname = \"{name}\"\naddress = \"127.0.0.1:{}\"\nkind = \"ssh\"\nhost_keys = [\"{}\"]\n\
                 [[target.role]]\nlogin = \"{user}\"\nkey_file = \"{}\"\n",
                target.port,
                Key::number(*key).line(),
                login.display()
            );
            more += &access("alice", name);
            more += &access("mallory", name);
        }
        let limits = limits.parse().unwrap();
        let lab = Lab::with(&Options { more, limits, ..Options::default() }).unwrap();
        let ground = Self { lab, mallory, bob, before: 0 };
        // A first session: what is made once is made before anybody counts.
        ground.still_serves();
        let before = ground.rss();
        Self { before, ..ground }
    }

    fn port(&self) -> u16 {
        self.lab.bastion.port
    }

    fn rss(&self) -> u64 {
        rss(self.lab.bastion.process.pid)
    }

    /// Mallory, logged in for the target that behaves.
    fn mallory(&self) -> Peer {
        Peer::log_in(self.port(), "mallory+web1", &self.mallory).unwrap()
    }

    /// A connection with keys agreed, nobody logged in yet.
    fn stranger(&self) -> Peer {
        let mut peer = Peer::dial(self.port()).unwrap();
        peer.exchange_keys(&Lists::default()).unwrap();
        peer
    }

    fn still_serves(&self) {
        let lab = &self.lab;
        assert!(lab.bastion.process.alive(), "{}", lab.bastion.log());
        assert_eq!(lab.exec(Route::Through, "echo well").unwrap().out(), "well\n");
        assert!(!lab.bastion.log().contains("panicked"), "{}", lab.bastion.log());
    }

    /// Fails unless the daemon serves and holds no more than before, but for `slack`.
    fn unharmed(&self, what: &str, slack: u64) {
        self.still_serves();
        let grown = || self.rss().saturating_sub(self.before);
        let shrunk = wait_until(Duration::from_secs(5), || grown() <= slack);
        assert!(shrunk, "{what}: the daemon holds {} KiB more than before", grown() / 1024);
        eprintln!("{what}: {} KiB more than before", grown() / 1024);
    }
}

/// Fails unless the connection ends, and in time.
fn must_end(what: &str, peer: &mut Peer) -> Vec<u8> {
    match peer.wait_end(BOUND) {
        Ok((_, seen)) => seen,
        Err(error) => panic!("{what}: {error:#}"),
    }
}

/// Somebody who types at the target all along, and notes how long they waited for an answer.
struct Bystander {
    over: Arc<AtomicBool>,
    work: JoinHandle<(usize, Duration)>,
}

impl Bystander {
    fn start(ground: &Ground) -> Self {
        let mut peer = Peer::log_in(ground.port(), "bob+web1", &ground.bob).unwrap();
        let channel = peer.open(0, 1 << 30, 1 << 15).unwrap();
        peer.exec(channel, "cat").unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        let work = std::thread::spawn(move || {
            let (mut rounds, mut worst) = (0, Duration::ZERO);
            while !until.load(Ordering::SeqCst) || rounds < 3 {
                let start = Instant::now();
                peer.send(Put::message(msg::CHANNEL_DATA).u32(channel).string(b"line\n")).unwrap();
                let mut got = 0;
                while got < 5 {
                    match peer.packets.receive().unwrap() {
                        Said::Message(said) if said.first() == Some(&msg::CHANNEL_DATA) => got += said.len() - 9,
                        Said::Message(_) => {}
                        Said::End => panic!("the bystander was cut off"),
                    }
                }
                worst = worst.max(start.elapsed());
                rounds += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            (rounds, worst)
        });
        Self { over, work }
    }

    /// Fails unless every answer came, and soon.
    fn was_unaffected(self) {
        self.over.store(true, Ordering::SeqCst);
        let (rounds, worst) = self.work.join().unwrap();
        assert!(worst <= UNAFFECTED, "a bystander waited {worst:?}");
        eprintln!("a bystander had {rounds} answers, the latest after {worst:?}");
    }
}
