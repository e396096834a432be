//! git, rsync and lftp: programs that start `ssh` themselves.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Matrix, Way, executed, sftp_sessions, statuses};

#[test]
fn git_and_rsync_and_lftp() {
    let mut matrix = Matrix::start();

    let sessions = matrix.compare("git", 6, git);
    assert!(executed(&sessions, "git-upload-pack") && executed(&sessions, "git-receive-pack"));
    assert!(statuses(&sessions).contains(&128), "no such repository: {:?}", statuses(&sessions));

    let sessions = matrix.compare("rsync", 5, rsync);
    assert!(executed(&sessions, "rsync --server"));
    assert!(statuses(&sessions).contains(&23), "what was not there: {:?}", statuses(&sessions));

    let sessions = matrix.compare("lftp", 3, lftp);
    assert_eq!(sftp_sessions(&sessions), 3);
    matrix.verify();
}

fn git(way: &Way) {
    let git = |args: &[&str]| {
        let mut git = way.program("git");
        git.env("GIT_SSH_COMMAND", way.shell()).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0");
        // With names and dates fixed, the same work gives the same hashes.
        for who in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{who}_NAME"), "Alice").env(format!("GIT_{who}_EMAIL"), "alice@example.com");
            git.env(format!("GIT_{who}_DATE"), "2026-01-02T03:04:05Z");
        }
        git.args(["-c", "init.defaultBranch=main", "-c", "advice.pushUpdateRejected=false"]).args(args);
        git
    };
    let url = format!("{}:{}", way.host, way.there("repository.git"));
    way.run("a repository at the target", &mut git(&["init", "-q", "--bare", &way.there("repository.git")]), b"", 0);
    way.run("its first clone, which is empty", &mut git(&["clone", "-q", &url, "one"]), b"", 0);
    fs::copy(way.here("data"), way.here("one/data")).unwrap();
    way.run("add", &mut git(&["-C", "one", "add", "."]), b"", 0);
    way.run("commit", &mut git(&["-C", "one", "commit", "-q", "-m", "data"]), b"", 0);
    way.run("push", &mut git(&["-C", "one", "push", "-q", "origin", "HEAD:main"]), b"", 0);
    way.run("clone", &mut git(&["clone", "-q", &url, "two"]), b"", 0);
    way.assert_data(&way.here("two/data"));
    way.run("all is there", &mut git(&["-C", "two", "fsck", "--full", "--strict", "--no-progress"]), b"", 0);
    way.run("one commit more", &mut git(&["-C", "two", "commit", "-q", "--allow-empty", "-m", "second"]), b"", 0);
    way.run("push it", &mut git(&["-C", "two", "push", "--porcelain", "-q", "origin", "HEAD:main"]), b"", 0);
    way.run("another", &mut git(&["-C", "one", "commit", "-q", "--allow-empty", "-m", "other"]), b"", 0);
    way.run("a push that is refused", &mut git(&["-C", "one", "push", "-q", "origin", "HEAD:main"]), b"", 1);
    let nowhere = format!("{}:{}", way.host, way.there("nowhere.git"));
    way.run("no such repository", &mut git(&["clone", "-q", &nowhere, "three"]), b"", 128);
    way.run("what the target holds", &mut git(&["-C", &way.there("repository.git"), "log", "--format=%H %s"]), b"", 0);
    // The hashes above say what they hold; indexes and packs differ from run to run.
    for path in [way.here("one/.git"), way.here("two/.git"), way.there("repository.git")] {
        fs::remove_dir_all(path).unwrap();
    }
}

fn rsync(way: &Way) {
    let remote = |name: &str| format!("{}:{}", way.host, way.there(name));
    let rsync = |args: &[&str]| {
        let mut rsync = way.program("rsync");
        rsync.args(["-a", "-e", &way.shell()]).args(args);
        rsync
    };
    fs::create_dir(way.here("tree")).unwrap();
    for number in 0..40 {
        fs::write(way.here(&format!("tree/{number}")), format!("{number}\n").repeat(number)).unwrap();
    }
    fs::copy(way.here("data"), way.here("tree/data")).unwrap();
    // rsync tells of times that differ by a second, so no time is left to chance.
    for name in fs::read_dir(way.here("tree")).unwrap().map(|entry| entry.unwrap().path()) {
        set_time(name, 1_000_000_000);
    }
    set_time(way.here("tree"), 1_000_000_000);
    way.run("up", &mut rsync(&["-i", "tree/", &remote("tree")]), b"", 0);
    // A delta: some bytes in the middle, a file less, a file more.
    let mut data = way.data();
    data[DELTA..DELTA + 9].copy_from_slice(b"different");
    fs::write(way.here("tree/data"), data).unwrap();
    fs::remove_file(way.here("tree/7")).unwrap();
    fs::write(way.here("tree/new"), "new").unwrap();
    for name in ["tree/data", "tree/new", "tree"] {
        set_time(way.here(name), 1_000_000_100);
    }
    way.run("a delta up", &mut rsync(&["-ci", "--no-whole-file", "--delete", "tree/", &remote("tree")]), b"", 0);
    way.run("down, compressed", &mut rsync(&["-zi", &remote("tree/"), "again"]), b"", 0);
    assert!(fs::read(way.here("again/data")).unwrap() == fs::read(way.here("tree/data")).unwrap());
    way.run("a comparison", &mut rsync(&["-cni", "--delete", "tree/", &remote("tree")]), b"", 0);
    way.run("what is not there", &mut rsync(&[&remote("nothing"), "nothing"]), b"", 23);
}

fn set_time(path: impl AsRef<Path>, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

/// Where rsync's delta begins.
const DELTA: usize = 1 << 20;

fn lftp(way: &Way) {
    let lftp = |commands: &str| {
        let mut lftp = way.program("lftp");
        let open = format!(
            "set sftp:connect-program \"{} -a -x\"; set net:max-retries 1; set net:timeout 30; set cmd:fail-exit yes; \
             open sftp://{}:@{}; cd {}; {commands}",
            way.shell(),
            way.login,
            way.host,
            way.there("")
        );
        lftp.args(["--norc", "-c", &open]);
        lftp
    };
    fs::create_dir(way.here("tree")).unwrap();
    for number in 0..10 {
        fs::write(way.here(&format!("tree/{number}")), format!("{number}\n")).unwrap();
    }
    way.run("there and back", &mut lftp("put data -o up; get up -o down; cls -1; mv up moved"), b"", 0);
    way.assert_data(&way.here("down"));
    way.assert_data(&way.there("moved"));
    way.run("a tree", &mut lftp("mirror -R --parallel=1 tree tree; cls -1 tree; rm tree/3; mirror tree again"), b"", 0);
    way.run("what is not there", &mut lftp("get nothing"), b"", 1);
}
