//! PuTTY's command line programs and dropbear's client: neither shares code with OpenSSH.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use casemate_tests::client::Route;

use super::{Matrix, Way, executed, sftp_sessions, statuses};

#[test]
fn putty_and_dropbear() {
    let mut matrix = Matrix::start();

    let sessions = matrix.compare("plink", 3, |way| {
        let plink = || putty(way, "plink");
        let command = "cat; echo told >&2; exit 7";
        let done = keep_told(way, "cat", plink().args(["-no-antispoof", "127.0.0.1", command]), &way.data(), 7);
        assert!(done.stdout == way.data());
        keep_told(way, "a shell", plink().args(["-T", "127.0.0.1"]), b"echo told from a shell >&2\nexit 9\n", 9);
        keep_told(way, "no such subsystem", plink().args(["-s", "127.0.0.1", "nosuch"]), b"", 1);
    });
    assert!(executed(&sessions, "cat; echo told >&2; exit 7"));
    assert_eq!(statuses(&sessions), [7, 9]);

    let sessions = matrix.compare("psftp", 2, |way| {
        let batch = |what, text: &str, code| {
            let path = way.home.join("batch");
            fs::write(&path, text).unwrap();
            keep_told(way, what, putty(way, "psftp").arg("-b").arg(path).arg("127.0.0.1"), b"", code);
        };
        let there = way.there("");
        batch("there and back", &format!("cd {there}\nput data up\nget up down\nmkdir dir\nmv up dir\n"), 0);
        way.assert_data(&way.here("down"));
        way.assert_data(&way.there("dir/up"));
        batch("what is not there", &format!("cd {there}\nget nothing\n"), 2);
    });
    assert_eq!(sftp_sessions(&sessions), 2);

    let sessions = matrix.compare("pscp", 4, |way| {
        for protocol in ["-sftp", "-scp"] {
            let (up, down) = (way.there(&format!("up{protocol}")), way.here(&format!("down{protocol}")));
            let remote = format!("127.0.0.1:{up}");
            let pscp = || {
                let mut pscp = putty(way, "pscp");
                pscp.args(["-q", protocol]);
                pscp
            };
            keep_told(way, &format!("up{protocol}"), pscp().args(["data", &remote]), b"", 0);
            keep_told(way, &format!("down{protocol}"), pscp().args([&remote, &down]), b"", 0);
            way.assert_data(&up);
            way.assert_data(&down);
        }
    });
    assert_eq!(sftp_sessions(&sessions), 2);
    assert!(executed(&sessions, "scp "));

    let sessions = matrix.compare("dbclient", 2, |way| {
        let command = "cat; echo told >&2; exit 7";
        let done = keep_told(way, "cat", dropbear(way).arg(command), &way.data(), 7);
        assert!(done.stdout == way.data());
        keep_told(way, "a shell", dropbear(way).arg("-T"), b"echo told from a shell >&2\nexit 9\n", 9);
    });
    assert!(executed(&sessions, "cat; echo told >&2; exit 7"));
    assert_eq!(statuses(&sessions), [7, 9]);
    matrix.verify();
}

/// Both may show the notice of recording on standard error, which sshd has not, and say whom they log in as.
fn keep_told(way: &Way, what: &str, command: &mut Command, input: &[u8], code: i32) -> casemate_tests::process::Done {
    let done = way.run_and_keep(what, command, input, code, |line| line.contains("told") || line.contains("FATAL"));
    assert!(way.route == Route::Through || !done.err().contains("This session is recorded"), "{}", done.err());
    done
}

/// Returns one of PuTTY's programs, up to the host.
fn putty(way: &Way, name: &str) -> Command {
    let key = key_of(way, "ppk", |way, key| {
        let mut puttygen = way.program("puttygen");
        puttygen.arg(&way.identity).args(["-O", "private", "-o"]).arg(key);
        puttygen
    });
    let mut putty = way.program(name);
    // `-hostkey` pins it, whatever is cached.
    let host_key = format!("SHA256:{}", way.fingerprint());
    putty.args(["-batch", "-P", &way.port.to_string(), "-l", &way.login, "-hostkey", &host_key, "-i"]).arg(key);
    if name == "plink" {
        putty.arg("-ssh");
    }
    putty
}

/// Returns dropbear's client, up to the command.
fn dropbear(way: &Way) -> Command {
    let key = key_of(way, "dropbear", |way, key| {
        let mut convert = way.program("dropbearconvert");
        convert.args(["openssh", "dropbear"]).arg(&way.identity).arg(key);
        convert
    });
    // It knows hosts without their ports, and each route has a home.
    let ssh = way.home.join(".ssh");
    fs::create_dir_all(&ssh).unwrap();
    fs::write(ssh.join("known_hosts"), format!("127.0.0.1 {}\n", way.host_key)).unwrap();
    let mut dbclient = way.program("dbclient");
    dbclient.args(["-p", &way.port.to_string(), "-l", &way.login, "-i"]).arg(key).arg("127.0.0.1");
    dbclient
}

/// The login key in a program's own form, converted by a program of theirs.
fn key_of(way: &Way, form: &str, convert: impl Fn(&Way, &PathBuf) -> Command) -> PathBuf {
    let key = way.home.join(format!("key.{form}"));
    if !key.is_file() {
        way.run(&format!("converting to {form}"), &mut convert(way, &key), b"", 0);
    }
    key
}
