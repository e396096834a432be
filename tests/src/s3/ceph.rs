//! A throwaway Ceph on loopback: one monitor, one object store, one S3 gateway, by hand and without a line of systemd.
//!
//! It is the judge of retention: another vendor's store that checks every signature and keeps a lock against its owner. It takes
//! `x-amz-checksum-*` without looking (it verifies `Content-MD5`), refuses trailers of chunked uploads, and ignores `If-None-Match`
//! where there are versions. Does not know what is stored in it, nor by whom.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aws_sdk_s3::Client;
use rustix::process::Signal;

use super::Login;
use super::ceph_conf::{self, Place};
use crate::clocks;
use crate::process::{Owned, Spawned, find_program, nothing, run, spawn_daemon, wait_until};
use crate::sshd::free_port;

/// The user who owns buckets, and whom no policy limits.
pub const OWNER: &str = "owner";

/// The user whose keys a bastion has.
pub const WRITER: &str = "writer";

/// The user who tries to delete what must not be deletable.
pub const CANARY: &str = "canary";

/// The user whose keys an auditor has.
pub const READER: &str = "reader";

/// The user who keeps a bucket in line with the logs: holds, and deletes what was retired.
pub const KEEPER: &str = "keeper";

/// Everybody whom the gateway knows, the owner first.
pub const USERS: [&str; 5] = [OWNER, WRITER, CANARY, READER, KEEPER];

/// How long a part may take to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the objects lie.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Store {
    /// In memory: what was stored is gone when the server stops.
    #[default]
    Memory,
    /// In a file: what was stored is there when the server starts again.
    File,
}

/// What a server can be told.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The gateway's port on 127.0.0.1; a free one when `None`.
    pub port: Option<u16>,
    /// Where the objects lie.
    pub store: Store,
    /// How far the gateway's clock is ahead: retention runs out without anybody waiting for it.
    pub ahead: Duration,
}

/// A running server. It goes on when the value is dropped; see [`Ceph::stop`] and [`Guard`].
#[derive(Debug, Clone)]
pub struct Ceph {
    /// Its directory: configuration, data, logs.
    pub dir: PathBuf,
    /// The gateway's port on 127.0.0.1.
    pub port: u16,
    /// Its processes, in the order in which they end: gateway, object store, monitor.
    pub processes: Vec<Owned>,
    ahead: Duration,
}

impl Ceph {
    /// Tells whether it is installed.
    ///
    /// # Errors
    /// When it is not, or not whole.
    pub fn programs() -> Result<()> {
        for name in ["ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "monmaptool", "osdmaptool"] {
            find_program(name).context("scripts/need ceph")?;
        }
        Ok(())
    }

    /// Starts a server under `dir`. One whose objects lie in a file starts again with what it held.
    ///
    /// # Errors
    /// When it is not installed or does not come up; parts that did are ended again, and the error carries the log.
    pub fn start(dir: &Path, options: &Options) -> Result<Self> {
        Self::programs()?;
        fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        let port = match options.port {
            Some(port) => port,
            None => free_port()?,
        };
        let mut server = Self { dir, port, processes: Vec::new(), ahead: options.ahead };
        match server.bring_up(options) {
            Ok(()) => Ok(server),
            Err(error) => {
                server.stop();
                Err(error)
            }
        }
    }

    /// Finds a server again that was started before, its clock right.
    pub fn again(dir: PathBuf, port: u16, processes: Vec<Owned>) -> Self {
        Self { dir, port, processes, ahead: Duration::ZERO }
    }

    fn bring_up(&mut self, options: &Options) -> Result<()> {
        // What was in memory is gone, and a monitor that remembers it would wait for it.
        let fresh = options.store == Store::Memory || !self.dir.join("made").is_file();
        let place = Place { dir: self.dir.clone(), gateway: self.port, monitor: free_port()?, store: options.store };
        fs::write(self.dir.join("ceph.conf"), ceph_conf::render(&place))?;
        if fresh {
            for part in ["mon", "osd", "made"] {
                remove(&self.dir.join(part))?;
            }
            fs::create_dir_all(self.dir.join("mon"))?;
            fs::create_dir_all(self.dir.join("osd"))?;
            fs::write(self.dir.join("keyring"), "")?;
        }
        self.bring_up_monitor(&place, fresh)?;
        self.bring_up_objects(fresh)?;
        if fresh {
            self.add_user(OWNER)?;
        }
        self.launch("radosgw", &["-n", "client.rgw", "-f"])?;
        if fresh {
            // The first one made the pools; the others need not wait for each other, nor for the gateway.
            let others = USERS
                .iter()
                .filter(|user| **user != OWNER)
                .map(|user| self.adding(user))
                .collect::<Result<Vec<_>>>()?;
            for mut other in others {
                ensure!(other.wait(PATIENCE)?.success(), "a user was not made: {}", self.log("users.log"));
            }
            fs::write(self.dir.join("made"), "")?;
        }
        let gateway = self.processes.first().copied().context("no gateway")?;
        if !wait_until(PATIENCE, || !gateway.alive() || ceph_conf::answers(self.port)) || !gateway.alive() {
            bail!("the gateway does not answer: {}{}", self.log("radosgw.out"), self.log("client.rgw.log"));
        }
        Ok(())
    }

    fn bring_up_monitor(&mut self, place: &Place, fresh: bool) -> Result<()> {
        let (map, objects) = (self.dir.join("monmap"), self.dir.join("osdmap"));
        let mut name = Command::new(find_program("monmaptool")?);
        name.args(["--create", "--clobber", "--enable-all-features", "--fsid", ceph_conf::CLUSTER]);
        run(name.args(["--addv", "a", &place.monitor_address()]).arg(&map), nothing(), PATIENCE)?.ok()?;
        if fresh {
            // With a map that has room for one object store, none has to be announced by hand.
            let mut room = Command::new(find_program("osdmaptool")?);
            run(room.args(["--createsimple", "1", "--clobber"]).arg(&objects), nothing(), PATIENCE)?.ok()?;
            let mut make = self.program("ceph-mon")?;
            make.args(["-i", "a", "--mkfs", "--monmap"]).arg(&map).arg("--osdmap").arg(&objects);
            run(make.arg("--keyring").arg(self.dir.join("keyring")), nothing(), PATIENCE)?.ok().context("ceph-mon")?;
        } else {
            // Its port may be another's by now.
            let mut inject = self.program("ceph-mon")?;
            inject.args(["-i", "a", "--inject-monmap"]).arg(&map);
            run(&mut inject, nothing(), PATIENCE)?.ok().context("ceph-mon")?;
        }
        self.launch("ceph-mon", &["-i", "a", "-f"])
    }

    fn bring_up_objects(&mut self, fresh: bool) -> Result<()> {
        if fresh {
            run(self.program("ceph-osd")?.args(["-i", "0", "--mkfs"]), nothing(), PATIENCE)?
                .ok()
                .context("ceph-osd")?;
        }
        remove(&self.dir.join("osd.0.log"))?;
        self.launch("ceph-osd", &["-i", "0", "-f"])?;
        // Whoever asks earlier asks again only after five seconds.
        let process = self.processes.first().copied().context("no object store")?;
        let active = || self.log("osd.0.log").contains("state: booting -> active");
        if !wait_until(PATIENCE, || !process.alive() || active()) || !process.alive() {
            bail!("the object store does not come up: {}{}", self.log("ceph-osd.out"), self.log("osd.0.log"));
        }
        Ok(())
    }

    fn launch(&mut self, name: &str, args: &[&str]) -> Result<()> {
        let mut command = self.program(name)?;
        command.args(args).current_dir(&self.dir);
        if name == "radosgw" && !self.ahead.is_zero() {
            command.envs(clocks::ahead(self.ahead)?);
        }
        let process = spawn_daemon(&mut command, &self.dir.join(format!("{name}.out")))?;
        self.processes.insert(0, process);
        Ok(())
    }

    fn program(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(find_program(name).context("scripts/need ceph")?);
        command.env_remove("CEPH_ARGS").env_remove("CEPH_CONF").arg("-c").arg(self.dir.join("ceph.conf"));
        Ok(command)
    }

    fn new_user(&self, name: &str) -> Result<Command> {
        let login = Login::of(name);
        let mut command = self.program("radosgw-admin")?;
        command.args(["user", "create", "--uid", name, "--display-name", name]);
        command.args(["--access-key", &login.access_key, "--secret-key", &login.secret_key]);
        Ok(command)
    }

    /// Adds one more user, who may own buckets.
    ///
    /// # Errors
    /// When there is one of that name.
    pub fn add_user(&self, name: &str) -> Result<Login> {
        run(&mut self.new_user(name)?, nothing(), PATIENCE)?.ok().with_context(|| format!("user {name}"))?;
        Ok(Login::of(name))
    }

    fn adding(&self, name: &str) -> Result<Spawned> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.join("users.log"))?;
        Spawned::start(self.new_user(name)?.stdin(std::process::Stdio::null()).stdout(log.try_clone()?).stderr(log))
    }

    /// Returns where the gateway answers.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns a client for a user, with the gateway's clock.
    pub fn client(&self, user: &str) -> Client {
        super::client(&self.endpoint(), &Login::of(user), self.ahead)
    }

    /// Returns the same for another way to the gateway, such as [`super::faults::Faults`].
    pub fn client_by(&self, endpoint: &str, user: &str) -> Client {
        super::client(endpoint, &Login::of(user), self.ahead)
    }

    /// Tells whether any part of it runs.
    pub fn alive(&self) -> bool {
        self.processes.iter().any(Owned::alive)
    }

    /// Ends the server. What lies in a file stays.
    pub fn stop(&self) {
        // The gateway keeps nothing of its own, and at its end one with another clock waits for times that do not come.
        let patience = [Duration::from_secs(1), Duration::from_secs(20), Duration::from_secs(20)];
        for (process, patience) in self.processes.iter().zip(patience) {
            process.stop(patience);
        }
    }

    fn log(&self, name: &str) -> String {
        fs::read(self.dir.join(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

/// A server that ends when the value is dropped, also by a test that fails.
#[derive(Debug)]
pub struct Guard(pub Ceph);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.stop();
        // Whatever did not end in time would outlive the test.
        for process in &self.0.processes {
            process.signal(Signal::KILL);
        }
    }
}

impl std::ops::Deref for Guard {
    type Target = Ceph;

    fn deref(&self) -> &Ceph {
        &self.0
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(fs::remove_dir_all(path)?),
        Ok(_) => Ok(fs::remove_file(path)?),
        Err(_) => Ok(()),
    }
}
