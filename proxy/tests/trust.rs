//! `casemate trust` as officers use it: asked by a bastion, read, signed with `ssh-keygen`, checked.

// Clippy knows test functions, not the helpers they share.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A bastion that was just made, and the desk of the officers.
struct Desk {
    home: TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { home: tempfile::tempdir().unwrap() };
        let dir = desk.path("d");
        desk.ok(&["init", "--dir", dir.to_str().unwrap(), "--listen", "127.0.0.1:0", "--node", "n1"]);
        for officer in ["ada", "bob"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(desk.path(officer));
            assert!(keygen.status().unwrap().success());
        }
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Runs the program where the officers' files are.
    fn casemate(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_casemate"));
        command.args(args).current_dir(self.home.path()).stdin(Stdio::null()).output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.casemate(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn refused(&self, args: &[&str]) -> String {
        let output = self.casemate(args);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""), "{args:?}");
        text(&output.stderr)
    }

    /// Writes a trust file with what the bastion asked for.
    fn write(&self, name: &str, issued: &str, quorum: u8) {
        let asked = self.ok(&["trust", "request", "--config", "d/casemate.toml"]);
        let node = asked.split_once("\n\n[[node]]").unwrap().1;
        let mut file = format!(
            "version = 1\nself_asserted = false\norganisation = \"Example Bank\"\nissued = {issued}\nquorum = {quorum}\n"
        );
        for officer in ["ada", "bob"] {
            let key = fs::read_to_string(self.path(officer).with_extension("pub")).unwrap();
            let key = key.trim_end();
            file += &format!("\n[[officer]]\nname = \"{officer}\"\nkey = \"{key}\"\nfrom = 2026-01-01T00:00:00Z\n");
        }
        fs::write(self.path(name), format!("{file}\n[[node]]{node}")).unwrap();
    }

    /// Signs by the line that `--help` shows.
    fn sign(&self, officer: &str, name: &str) {
        let help = self.ok(&["trust", "check", "--help"]);
        let line = help.lines().find(|line| line.contains("ssh-keygen -Y sign")).unwrap();
        let line = line.replace("~/.ssh/id_ed25519", officer).replace("trust.toml", name);
        let done = Command::new("sh").args(["-c", &line]).current_dir(self.home.path()).output().unwrap();
        assert!(done.status.success(), "{line}: {}", text(&done.stderr));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_file_is_asked_for_read_signed_and_checked() {
    let desk = Desk::new();
    let check = ["trust", "check", "--trust", "trust.toml"];
    desk.write("trust.toml", "2026-01-02T00:00:00Z", 2);
    let unsigned = desk.refused(&check);
    assert!(unsigned.starts_with("trust.toml: the trust file is not signed: 2 of its officers"), "{unsigned}");

    let read = desk.ok(&["trust", "sign-text", "--trust", "trust.toml"]);
    let key = fs::read_to_string(desk.path("d/keys/node.pub")).unwrap();
    for words in ["trust file of Example Bank", "2 different officers", "ada", "bob", key.trim_end()] {
        assert!(read.contains(words), "{words}: {read}");
    }
    desk.sign("ada", "trust.toml");
    let short = desk.refused(&check);
    assert!(short.contains("signed by 1 of the 2 officers"), "{short}");
    desk.sign("bob", "trust.toml");
    let good = desk.ok(&check);
    assert!(good.contains("trust.toml: ok; Example Bank") && good.contains("signed by ada, bob"), "{good}");

    let shown = desk.ok(&["trust", "show", "--trust", "trust.toml"]);
    let sum = text(&Command::new("sha256sum").arg(desk.path("trust.toml")).output().unwrap().stdout);
    let fingerprint = shown.lines().find_map(|line| line.strip_prefix("fingerprint: ")).unwrap();
    let digits: String = fingerprint.chars().take_while(|c| *c != '(').filter(|c| *c != ' ').collect();
    assert!(digits.len() == 32 && sum.starts_with(&digits), "{fingerprint} {sum}");
    let keygen = Command::new("ssh-keygen").arg("-lf").arg(desk.path("bob.pub")).output().unwrap();
    let bob = text(&keygen.stdout).split(' ').nth(1).unwrap().to_owned();
    assert!(shown.contains(&format!("signed by:   bob, {bob}")), "{shown}");

    // The next one follows, and a change after signing shows.
    desk.write("next.toml", "2026-01-03T00:00:00Z", 1);
    desk.sign("ada", "next.toml");
    let follow = ["trust", "check", "--trust", "next.toml", "--previous", "trust.toml"];
    let alone = desk.refused(&follow);
    assert!(alone.starts_with("next.toml: signed by 1 of the 2 officers that the previous file asks for"), "{alone}");
    desk.sign("bob", "next.toml");
    let followed = desk.ok(&follow);
    assert!(followed.contains("follows trust.toml"), "{followed}");
    assert!(followed.contains("next.toml: note: the quorum was 2 and is 1"), "{followed}");
    let mut bytes = fs::read(desk.path("trust.toml")).unwrap();
    bytes.push(b'\n');
    fs::write(desk.path("trust.toml"), bytes).unwrap();
    let changed = desk.refused(&check);
    assert_eq!(changed.matches("over another file than this").count(), 2, "{changed}");
}

#[test]
fn a_request_needs_public_parts_only() {
    let desk = Desk::new();
    for file in files(&desk.path("d/keys")) {
        if file.extension().is_none_or(|extension| extension != "pub") {
            fs::remove_file(file).unwrap();
        }
    }
    let asked = desk.ok(&["trust", "request", "--config", "d/casemate.toml"]);
    let key = fs::read_to_string(desk.path("d/keys/node.pub")).unwrap();
    let self_asserted = fs::read_to_string(desk.path("d/trust.toml")).unwrap();
    for words in [
        "node n1 asks",
        &format!("key = \"{}\"", key.trim_end()),
        "casemate 0.",
        "recipient   auditor age1",
        "name = \"spare\"",
    ] {
        assert!(asked.contains(words), "{words}: {asked}");
    }
    // The date of the key is that of `init`, so that everything it signs counts.
    let from = |text: &str| text.lines().find(|line| line.starts_with("from = ")).unwrap().to_owned();
    assert!(from(&asked) <= from(&self_asserted), "{asked}");
    assert!(desk.refused(&["trust", "check", "--trust", "d/trust.toml"]).contains("self-asserted"));
    assert_eq!(desk.casemate(&["trust"]).status.code(), Some(2));
}
