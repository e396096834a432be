//! OpenSSH's own programs, and sshfs, which stands on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use casemate_tests::noise::Noise;
use casemate_tests::process::{find_program, nothing, run, wait_until};

use super::{Matrix, PATIENCE, Way, executed, sftp_sessions, statuses};

#[test]
fn openssh_programs() {
    let mut matrix = Matrix::start();

    let sessions = matrix.compare("ssh", 2, |way| {
        let done = way.run("cat", way.openssh("ssh").args([way.host, "cat; echo told >&2; exit 7"]), &way.data(), 7);
        assert!(done.stdout == way.data());
        way.run("a shell", way.openssh("ssh").arg(way.host), b"echo from a shell\nexit 9\n", 9);
    });
    assert!(executed(&sessions, "cat; echo told >&2; exit 7"));
    assert!(sessions[0].bytes("ssh.in") == sessions[0].bytes("ssh.out"));
    assert_eq!(sessions.iter().filter(|transcript| transcript.of("ssh.shell").count() == 1).count(), 1);
    assert_eq!(statuses(&sessions), [7, 9]);

    for protocol in ["-s", "-O"] {
        let sessions = matrix.compare("scp", 5, |way| scp(way, protocol));
        if protocol == "-s" {
            assert_eq!(sftp_sessions(&sessions), 5);
        } else {
            assert!(executed(&sessions, "scp ") && sftp_sessions(&sessions) == 0);
            assert!(statuses(&sessions).contains(&1), "what was not there: {:?}", statuses(&sessions));
        }
    }

    let sessions = matrix.compare("sftp", 2, sftp);
    assert_eq!(sftp_sessions(&sessions), 2);

    let sessions = matrix.compare("ControlMaster", 1, ten_channels);
    assert_eq!(sessions[0].of("ssh.exec").count(), 10);
    assert_eq!(statuses(&sessions), (20..30).collect::<Vec<_>>());
    matrix.verify();
}

fn scp(way: &Way, protocol: &str) {
    let remote = |name: &str| format!("{}:{}", way.host, way.there(name));
    let scp = || {
        let mut scp = way.openssh("scp");
        scp.args(["-p", protocol]);
        scp
    };
    fs::create_dir(way.here("tree")).unwrap();
    for number in 0..5 {
        fs::write(way.here(&format!("tree/file {number}")), format!("{number}\n")).unwrap();
    }
    fs::write(way.here("tree/empty"), "").unwrap();
    way.run("up", scp().args(["data", &remote("up")]), b"", 0);
    way.run("down", scp().args([&remote("up"), "down"]), b"", 0);
    way.assert_data(&way.here("down"));
    way.run("a tree up", scp().args(["-r", "tree", &remote("tree")]), b"", 0);
    way.run("a tree down", scp().args(["-r", &remote("tree"), "again"]), b"", 0);
    assert_eq!(fs::read(way.here("again/file 3")).unwrap(), b"3\n");
    way.run("what is not there", scp().args([&remote("nothing"), "nothing"]), b"", 1);
}

fn sftp(way: &Way) {
    let batch = "put data up\nget up ../here/down\nmkdir dir\nrename up dir/moved\nls -1 dir\nchmod 600 dir/moved\n\
                 symlink moved dir/link\nput data gone\nrm gone\ndf -i nowhere\n";
    let there = format!("{}:{}", way.host, way.there(""));
    // `-b` ends at the first command that fails, and with 1.
    let sftp = || {
        let mut sftp = way.openssh("sftp");
        sftp.args(["-q", "-b", "-", &there]);
        sftp
    };
    way.run("a batch", &mut sftp(), batch.as_bytes(), 1);
    way.assert_data(&way.here("down"));
    way.assert_data(&way.there("dir/moved"));
    assert!(!Path::new(&way.there("gone")).exists());
    way.run("what is not there", &mut sftp(), b"get nothing\n", 1);
}

#[test]
fn a_channel_of_a_master_gets_its_exit_status_however_late() {
    let mut matrix = Matrix::start();
    let sessions = matrix.compare("ControlMaster", 1, |way| {
        let master = Master::of(way);
        // OpenSSH closes such a channel as soon as both ends of stream crossed, and still takes an exit status.
        for (number, command) in ["exec >&- 2>&-; sleep 0.4; exit 5", "exit 6", "echo; exit 7"].into_iter().enumerate()
        {
            for turn in 0..5 {
                let mut ssh = way.openssh("ssh");
                ssh.args(["-o", &master.path, way.host, command]);
                way.run(&format!("{command}, {turn}"), &mut ssh, b"", 5 + number as i32);
            }
        }
        master.end(way);
    });
    assert_eq!(statuses(&sessions).len(), 15);
}

/// A master connection that ends with the value.
struct Master {
    process: Child,
    path: String,
}

impl Master {
    fn of(way: &Way) -> Self {
        let socket = way.home.join("mux");
        let path = format!("ControlPath={}", socket.display());
        let mut ssh = way.openssh("ssh");
        ssh.args(["-o", &path, "-o", "ControlMaster=yes", "-N", way.host]).stdin(Stdio::null());
        let master = Self { process: ssh.spawn().unwrap(), path };
        assert!(wait_until(PATIENCE, || socket.exists()));
        master
    }

    fn end(mut self, way: &Way) {
        way.run("the end", way.openssh("ssh").args(["-o", &self.path, "-O", "exit", way.host]), b"", 0);
        assert!(wait_until(PATIENCE, || self.process.try_wait().is_ok_and(|status| status.is_some())));
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Ten channels of one connection at once: none ends before all are open.
fn ten_channels(way: &Way) {
    let master = Master::of(way);
    std::thread::scope(|scope| {
        for number in 0..10 {
            let path = &master.path;
            scope.spawn(move || {
                let command = format!(
                    "touch {0}/{number}; until [ $(ls {0} | wc -l) = 10 ]; do sleep 0.05; done; cat; exit {1}",
                    way.there(""),
                    20 + number
                );
                let input = Noise::new(number).chunk(128 << 10);
                let mut ssh = way.openssh("ssh");
                ssh.args(["-o", path, way.host, &command]);
                let done = way.run(&format!("channel {number}"), &mut ssh, &input, 20 + number as i32);
                assert!(done.stdout == input, "channel {number} echoes what it got");
            });
        }
    });
    master.end(way);
}

#[test]
fn sshfs_mounts_a_target() {
    let mut matrix = Matrix::start();
    let sessions = matrix.compare("sshfs", 1, |way| {
        let mount = Mount::of(way);
        let at = |name: &str| mount.0.join(name);
        fs::copy(way.here("data"), at("up")).unwrap();
        fs::copy(at("up"), way.here("down")).unwrap();
        way.assert_data(&way.there("up"));
        way.assert_data(&way.here("down"));
        fs::create_dir(at("dir")).unwrap();
        fs::rename(at("up"), at("dir/moved")).unwrap();
        std::os::unix::fs::symlink("moved", at("dir/link")).unwrap();
        fs::write(at("gone"), "gone").unwrap();
        fs::remove_file(at("gone")).unwrap();
        way.note("not there", &fs::read(at("nothing")).unwrap_err().to_string());
        way.note("not empty", &fs::remove_dir(at("dir")).unwrap_err().to_string());
        way.run("through the kernel", way.program("ls").arg("-1R").arg("--").current_dir(&mount.0), b"", 0);
        // Nothing was kept back in a cache: a directory's own listing and a large file, read once more from the far end.
        way.run("a hash", way.program("sha256sum").arg("dir/moved").current_dir(&mount.0), b"", 0);
    });
    assert_eq!(sftp_sessions(&sessions), 1);
    assert!(sessions[0].bytes("ssh.in").len() > super::DATA_LEN);
    matrix.verify();
}

/// A mounted directory, gone with the value.
struct Mount(PathBuf);

impl Mount {
    fn of(way: &Way) -> Self {
        assert!(
            fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok(),
            "sshfs needs /dev/fuse, and we may not open it: run the tests where FUSE can be used"
        );
        let at = way.home.join("mount");
        fs::create_dir_all(&at).unwrap();
        let mount = Self(at.clone());
        let mut sshfs = way.program("sshfs");
        sshfs.arg("-F").arg(way.client.config()).arg(format!("{}:{}", way.host, way.there(""))).arg(&at);
        way.run("sshfs", &mut sshfs, b"", 0);
        mount
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A test that goes wrong leaves no mount behind either; whoever removes the directory would reach through it.
        let unmount = |how: &str| -> bool {
            let Ok(program) = find_program("fusermount3") else { return false };
            let done = run(Command::new(program).arg(how).arg(&self.0), nothing(), Duration::from_secs(20));
            done.is_ok_and(|done| done.code() == 0)
        };
        let gone = unmount("-u") || unmount("-uz");
        assert!(gone || std::thread::panicking(), "{} stays mounted", self.0.display());
    }
}
