//! The client matrix: what a client does straight at the target it does through the bastion, with equal results.
//!
//! Each client runs the same action along both routes, in the same directory, one after the other. Compared are what
//! it wrote to its streams, its exit status and every file it left; of the way through, the transcripts as well. A
//! client that is not installed fails its test: `scripts/need`, which `make test` calls, installs it.

mod ansible;
mod git_and_rsync;
mod libraries;
mod openssh;
mod putty_and_dropbear;
mod security_key;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Cursor;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use casemate_tests::client::{Client, Route};
use casemate_tests::noise::Noise;
use casemate_tests::process::{Done, find_program, run};
use casemate_tests::rig::{Lab, Options, login};
use casemate_tests::vault::Transcript;
use sha2::{Digest, Sha256};

/// How long one run of a client may take; far above what any needs.
const PATIENCE: Duration = Duration::from_secs(90);

/// More than a mebibyte, and no whole number of any block or packet.
const DATA_LEN: usize = (3 << 19) + 77;

/// A rig, and which of its sessions were looked at already.
struct Matrix {
    lab: Lab,
    seen: BTreeSet<String>,
}

impl Matrix {
    fn start() -> Self {
        Self::with(&Options::default())
    }

    fn with(options: &Options) -> Self {
        Self { lab: Lab::with(options).unwrap(), seen: BTreeSet::new() }
    }

    /// Lets a client act along both routes, checks that nothing differs, and returns the transcripts of the `sessions`
    /// that it is to have opened on its way through.
    fn compare(&mut self, name: &str, sessions: usize, action: impl Fn(&Way)) -> Vec<Transcript> {
        self.compare_as(name, sessions, None, action)
    }

    /// The same for somebody else than the rig's person.
    fn compare_as(
        &mut self,
        name: &str,
        sessions: usize,
        who: Option<(&str, &Path)>,
        action: impl Fn(&Way),
    ) -> Vec<Transcript> {
        let go = |route| {
            let way = Way::new(&self.lab, route, who);
            action(&way);
            way.outcome()
        };
        let (straight, through) = (go(Route::Straight), go(Route::Through));
        let keys: BTreeSet<&String> = straight.keys().chain(through.keys()).collect();
        let of = |outcome: &Outcome, key: &String| outcome.get(key).cloned().unwrap_or_else(|| "missing".to_owned());
        let pairs = keys.iter().map(|key| (key, of(&straight, key), of(&through, key)));
        let different: Vec<String> = pairs
            .filter(|(_, straight, through)| straight != through)
            .map(|(key, straight, through)| format!("{key}:\n  straight {straight}\n  through  {through}"))
            .collect();
        assert!(different.is_empty(), "{name} can tell the bastion from the target:\n{}", different.join("\n"));
        assert!(!straight.is_empty(), "{name} compared nothing");
        self.recorded(name, sessions)
    }

    /// Waits until every session is closed and in the vault, and returns those that are new.
    fn recorded(&mut self, name: &str, sessions: usize) -> Vec<Transcript> {
        let vault = self.lab.vault();
        vault.settle(self.seen.len() + sessions, Duration::from_secs(20)).unwrap();
        let all = vault.of_kind("session").unwrap();
        let ids = all.iter().map(|session| session["session"].as_str().unwrap().to_owned());
        let new: Vec<String> = ids.filter(|id| self.seen.insert(id.clone())).collect();
        assert_eq!(new.len(), sessions, "{name}: sessions in the vault");
        new.iter().map(|id| vault.transcript(id).unwrap()).collect()
    }

    /// Verifies the whole vault, after an orderly end.
    fn verify(&self) {
        self.lab.bastion.stop();
        self.lab.vault().verify(&[]).unwrap().clean_but_for_trust().unwrap();
    }
}

/// What a client left behind, by what it is.
type Outcome = BTreeMap<String, String>;

/// One route, and what a client needs to go along it.
struct Way {
    route: Route,
    /// The name in the configuration of OpenSSH's programs.
    host: &'static str,
    port: u16,
    login: String,
    identity: PathBuf,
    /// The server's host key: type and base64.
    host_key: String,
    /// OpenSSH's programs with the rig's configuration.
    client: Client,
    /// The client's home: empty, and another one for each route.
    home: PathBuf,
    /// The one directory that both routes work in, made anew for each. The client's files are under `here`, the target's
    /// under `there`.
    work: PathBuf,
    outcome: std::sync::Mutex<Outcome>,
}

impl Way {
    fn new(lab: &Lab, route: Route, who: Option<(&str, &Path)>) -> Self {
        let (port, login, identity, host_key) = match route {
            Route::Straight => {
                (lab.target.port, lab.target.user.clone(), lab.target.identity(), lab.target.host_key().unwrap())
            }
            _ => (lab.bastion.port, login(), lab.identity(), lab.bastion.host_key().unwrap()),
        };
        let (login, identity) = match (who, route) {
            (None, _) => (login, identity),
            (Some((_, identity)), Route::Straight) => (login, identity.to_owned()),
            (Some((login, identity)), _) => (login.to_owned(), identity.to_owned()),
        };
        let work = lab.dir.join("work");
        let _ = fs::remove_dir_all(&work);
        for name in ["here", "there"] {
            fs::create_dir_all(work.join(name)).unwrap();
        }
        fs::write(work.join("here/data"), Noise::new(17).chunk(DATA_LEN)).unwrap();
        let home = lab.dir.join("homes").join(route.host());
        fs::create_dir_all(&home).unwrap();
        let host_key = host_key.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let client = lab.client.clone();
        Self {
            route,
            host: route.host(),
            port,
            login,
            identity,
            host_key,
            client,
            home,
            work,
            outcome: Default::default(),
        }
    }

    fn here(&self, name: &str) -> String {
        self.work.join("here").join(name).display().to_string()
    }

    fn there(&self, name: &str) -> String {
        self.work.join("there").join(name).display().to_string()
    }

    fn data(&self) -> Vec<u8> {
        fs::read(self.here("data")).unwrap()
    }

    /// Checks that a file holds exactly what the client had to move.
    fn assert_data(&self, path: &str) {
        assert!(fs::read(path).unwrap() == self.data(), "{path} is not what was sent");
    }

    /// The fingerprint of the host key, as base64 without padding.
    fn fingerprint(&self) -> String {
        let blob = self.host_key.split(' ').nth(1).unwrap();
        let blob = base64::engine::general_purpose::STANDARD.decode(blob).unwrap();
        base64::engine::general_purpose::STANDARD_NO_PAD.encode(Sha256::digest(blob))
    }

    /// Returns a program in surroundings that hold nothing of the person's.
    fn program(&self, name: &str) -> Command {
        let program = find_program(name).unwrap_or_else(|error| panic!("{error}: `make test` installs it"));
        let mut command = Command::new(program);
        self.surround(&mut command);
        command
    }

    /// Returns one of OpenSSH's programs with the rig's configuration.
    fn openssh(&self, name: &str) -> Command {
        let mut command = self.client.program(name);
        self.surround(&mut command);
        command
    }

    fn surround(&self, command: &mut Command) {
        command.env("HOME", &self.home).env("LC_ALL", "C.UTF-8").current_dir(self.work.join("here"));
        for name in ["SSH_AUTH_SOCK", "SSH_ASKPASS", "DISPLAY", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"] {
            command.env_remove(name);
        }
    }

    /// The shell words that run `ssh` with the rig's configuration, for programs that start it themselves.
    fn shell(&self) -> String {
        format!("ssh -F {}", self.client.config().display())
    }

    /// Runs a program and keeps what it wrote and how it ended for the comparison. It has to end with `code`.
    fn run(&self, what: &str, command: &mut Command, input: &[u8], code: i32) -> Done {
        self.run_and_keep(what, command, input, code, |_| true)
    }

    /// The same for a program that tells of the connection on standard error: only lines that `keep` takes are compared.
    fn run_and_keep(
        &self,
        what: &str,
        command: &mut Command,
        input: &[u8],
        code: i32,
        keep: impl Fn(&str) -> bool,
    ) -> Done {
        let done = run(command, Cursor::new(input.to_vec()), PATIENCE).unwrap();
        let shown = || format!("{what}, {:?}: {}\n{}", self.route, show(&done.stdout), done.err());
        assert_eq!(done.code(), code, "{}", shown());
        let kept: Vec<String> = done.err().lines().filter(|line| keep(line)).map(|line| self.mask(line)).collect();
        self.note(&format!("{what}: standard output"), &show(&done.stdout));
        self.note(&format!("{what}: standard error"), &kept.join("\n"));
        self.note(&format!("{what}: exit status"), &code.to_string());
        done
    }

    /// Keeps something for the comparison.
    fn note(&self, what: &str, value: &str) {
        let before = self.outcome.lock().unwrap().insert(what.to_owned(), value.to_owned());
        assert!(before.is_none(), "{what} is noted twice");
    }

    /// Takes out of a line what has to differ: where the server is and who logs in.
    fn mask(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for (secret, word) in [
            (self.home.to_str().unwrap(), "HOME"),
            (self.identity.to_str().unwrap(), "IDENTITY"),
            (self.login.as_str(), "LOGIN"),
            (self.host, "HOST"),
            (&self.port.to_string(), "PORT"),
        ] {
            line = line.replace(secret, word);
        }
        line
    }

    /// Everything that was kept, and every file that is left.
    fn outcome(self) -> Outcome {
        let mut outcome = self.outcome.into_inner().unwrap();
        let mut dirs = vec![self.work.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                let meta = path.symlink_metadata().unwrap();
                let mode = meta.permissions().mode();
                let content = match meta.file_type() {
                    kind if kind.is_dir() => {
                        dirs.push(path.clone());
                        "a directory".to_owned()
                    }
                    kind if kind.is_symlink() => format!("-> {}", fs::read_link(&path).unwrap().display()),
                    _ => show(&fs::read(&path).unwrap()),
                };
                outcome.insert(format!("file {}", path.display()), format!("{mode:o} {content}"));
            }
        }
        outcome
    }
}

/// Short bytes as they are, long ones as length and hash.
fn show(bytes: &[u8]) -> String {
    match bytes.len() {
        0..=2000 => format!("{:?}", String::from_utf8_lossy(bytes)),
        len => format!("{len} bytes {}", blake3::hash(bytes).to_hex()),
    }
}

/// Tells whether any of the transcripts has an executed command that contains `text`.
fn executed(transcripts: &[Transcript], text: &str) -> bool {
    transcripts.iter().any(|transcript| transcript.says("ssh.exec", text))
}

/// Counts the transcripts that opened the SFTP subsystem.
fn sftp_sessions(transcripts: &[Transcript]) -> usize {
    transcripts.iter().filter(|transcript| transcript.says("ssh.subsystem", "\"sftp\"")).count()
}

/// The exit statuses in the transcripts, sorted.
fn statuses(transcripts: &[Transcript]) -> Vec<u64> {
    let exits = transcripts.iter().flat_map(|transcript| transcript.of("ssh.exit"));
    let mut statuses: Vec<u64> = exits.filter_map(|exit| exit["status"].as_u64()).collect();
    statuses.sort_unstable();
    statuses
}

/// Writes a script beside the client's home and returns its path.
fn script(way: &Way, name: &str, text: &str) -> PathBuf {
    let path = way.home.join(name);
    fs::write(&path, text).unwrap();
    path
}
