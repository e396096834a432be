//! SSH libraries of other languages: paramiko and asyncssh (Python), ssh2 (Node), libssh2 (C, in curl).

use std::path::Path;
use std::process::Command;

use casemate_tests::bins;
use casemate_tests::client::Route;
use casemate_tests::rig::Options;
use casemate_tests::vault::Transcript;

use super::{Matrix, Way, executed, script, sftp_sessions, statuses};

#[test]
fn libraries() {
    let mut matrix = Matrix::start();
    for (name, text) in [("paramiko", include_str!("use_paramiko.py")), ("asyncssh", include_str!("use_asyncssh.py"))] {
        let sessions = matrix.compare(name, 1, |way| {
            // Debian's own Python, which has Debian's libraries; they warn of ciphers that nobody uses here.
            let mut python = Command::new("/usr/bin/python3");
            way.surround(&mut python);
            python.args(["-W", "ignore"]).arg(script(way, "script.py", text));
            use_library(way, &mut python);
        });
        check(name, &sessions);
    }
    let modules = bins::tools().unwrap().join("node_modules");
    assert!(modules.join("ssh2").is_dir(), "ssh2 is not under {}: `make test` installs it", modules.display());
    let sessions = matrix.compare("ssh2", 1, |way| {
        let mut node = way.program("node");
        node.env("NODE_PATH", &modules).arg(script(way, "script.js", include_str!("use_ssh2.js")));
        use_library(way, &mut node);
    });
    check("ssh2", &sessions);
    matrix.verify();
}

/// Every script does the same and prints the same: a command, four at once, one ended by a signal, and files.
fn use_library(way: &Way, command: &mut Command) {
    command.args([&way.port.to_string(), &way.login]).arg(&way.identity).args([&way.host_key, &way.there("")]);
    let done = way.run("the script", command, b"", 0);
    let said: Vec<String> = done.out().lines().map(str::to_owned).collect();
    let hash = hex(&way.data());
    assert_eq!(said[0], format!("cat: {hash} told 7"));
    assert_eq!(
        &said[1..5],
        [0, 1, 2, 3].map(|number| format!("channel {number}: {} {}", 100_000 + number, 10 + number))
    );
    assert_eq!(&said[6..], ["listing: up", "nothing: not there"]);
    way.assert_data(&way.there("up"));
    way.assert_data(&way.here("down"));
}

fn check(name: &str, sessions: &[Transcript]) {
    assert!(executed(sessions, "cat; echo told >&2; exit 7"), "{name}");
    assert_eq!(sftp_sessions(sessions), 1, "{name}");
    // The subsystem's own status comes only to those who wait for it.
    let statuses: Vec<u64> = statuses(sessions).into_iter().filter(|status| *status != 0).collect();
    assert_eq!(statuses, [7, 10, 11, 12, 13], "{name}");
    assert!(sessions[0].says("ssh.exit", "\"signal\":\"TERM\""), "{name}");
}

fn hex(data: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn curl_by_libssh2() {
    let version =
        Command::new("curl").arg("--version").output().expect("curl is not installed: `make test` installs it");
    let version = String::from_utf8(version.stdout).unwrap();
    assert!(version.contains(" sftp "), "this curl knows no sftp; Debian's does: {version}");
    let number =
        version.split("libssh2/").nth(1).and_then(|rest| rest.split('.').nth(1)?.split(' ').next()?.parse().ok());
    let number: u32 = number.unwrap_or_else(|| panic!("this curl has no libssh2; Debian's has: {version}"));
    // libssh2 learned encrypt-then-MAC and GCM with 1.11. An older one has no cipher and MAC in common with us unless the
    // configuration says so.
    let old = number < 11;
    if old {
        let matrix = Matrix::start();
        let way = Way::new(&matrix.lab, Route::Through, None);
        let done = way.run("curl", &mut curl(&way, &["-T", "data"], "up"), b"", 2);
        assert!(done.err().contains("Unable to exchange encryption keys"), "{}", done.err());
        assert!(!Path::new(&way.there("up")).exists());
    }
    let mut matrix = Matrix::with(&Options { plain_macs: old, ..Options::default() });
    let sessions = matrix.compare("curl", 4, transfer);
    assert_eq!(sftp_sessions(&sessions), 3);
    assert!(executed(&sessions, "scp "));
    matrix.verify();
}

fn transfer(way: &Way) {
    way.run("up", &mut curl(way, &["-T", "data"], "up"), b"", 0);
    way.run("down", &mut curl(way, &["-o", "down"], "up"), b"", 0);
    way.assert_data(&way.there("up"));
    way.assert_data(&way.here("down"));
    way.run("what is not there", &mut curl(way, &[], "nothing"), b"", 78);
    way.run("down by scp", &mut curl_by("scp", way, &["-o", "by-scp"], "up"), b"", 0);
    way.assert_data(&way.here("by-scp"));
}

fn curl(way: &Way, options: &[&str], file: &str) -> Command {
    curl_by("sftp", way, options, file)
}

fn curl_by(scheme: &str, way: &Way, options: &[&str], file: &str) -> Command {
    let mut curl = way.program("curl");
    let user = format!("{}:", way.login);
    curl.args(["-sS", "--hostpubsha256", &way.fingerprint(), "--user", &user, "--key"]).arg(&way.identity);
    curl.args(options).arg(format!("{scheme}://127.0.0.1:{}{}", way.port, way.there(file)));
    curl
}
