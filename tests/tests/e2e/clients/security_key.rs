//! A login with a FIDO key: OpenSSH's own client, and an agent that signs as an authenticator does.
//!
//! No hardware is at hand in CI, and OpenSSH's stand-in for it is not packaged. The agent makes real signatures of the form in
//! OpenSSH's PROTOCOL.u2f; that sshd takes them on the straight way proves them right.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use casemate_tests::process::wait_until;
use casemate_tests::rig::{self, Options};

use super::{Matrix, PATIENCE, Way, executed, statuses};

#[test]
fn a_security_key_logs_in() {
    let agent = Agent::start();
    let (eddsa, ecdsa) = (agent.public("ed25519-sk"), agent.public("ecdsa-sk"));
    let more = rig::person("carol", &[&eddsa, &ecdsa], "admin") + &rig::access("carol").unwrap();
    let mut matrix = Matrix::with(&Options { more, ..Options::default() });
    // The target accepts what the bastion accepts. The rig's own key stays: the bastion logs in with it.
    let mut accepted = fs::OpenOptions::new().append(true).open(matrix.lab.target.dir.join("authorized_keys")).unwrap();
    writeln!(accepted, "{eddsa}\n{ecdsa}").unwrap();

    for (kind, login) in [("ed25519-sk", "carol+web1"), ("ecdsa-sk", "carol+web1")] {
        let sessions = matrix.compare_as(kind, 1, Some((login, &agent.file(kind))), |way| {
            let mut ssh = agent.ssh(way, "right");
            let done = way.run("cat", ssh.arg("cat; echo told >&2; exit 7"), &way.data(), 7);
            assert!(done.stdout == way.data());
        });
        assert!(executed(&sessions, "cat; echo told >&2; exit 7"));
        assert!(sessions[0].says("identity", "carol"), "{:?}", sessions[0].of("identity").collect::<Vec<_>>());
        assert_eq!(statuses(&sessions), [7]);
        // Flags and counter are part of what is signed: one changed on the way is no login, here as there.
        for wrong in ["flags", "counter", "application"] {
            matrix.compare_as(wrong, 0, Some((login, &agent.file(kind))), |way| {
                way.run("a wrong signature", agent.ssh(way, wrong).arg("echo in"), b"", 255);
            });
        }
    }
    matrix.verify();
}

/// The agent, ended with the value. It makes its keys at its start and listens on one socket for each way to sign.
struct Agent {
    dir: tempfile::TempDir,
    process: Child,
}

impl Agent {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("agent.py");
        fs::write(&script, include_str!("security_key_agent.py")).unwrap();
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-W", "ignore"]).arg(script).arg(dir.path()).stdin(Stdio::null());
        let process = python.spawn().unwrap();
        let mut agent = Self { dir, process };
        let ready = agent.dir.path().join("ready");
        wait_until(PATIENCE, || ready.exists() || agent.process.try_wait().is_ok_and(|end| end.is_some()));
        assert!(ready.exists(), "the agent does not start");
        agent
    }

    /// The file of a public key, which is what `ssh` takes for an identity that an agent holds.
    fn file(&self, kind: &str) -> PathBuf {
        self.dir.path().join(format!("{kind}.pub"))
    }

    fn public(&self, kind: &str) -> String {
        fs::read_to_string(self.file(kind)).unwrap().trim_end().to_owned()
    }

    fn ssh(&self, way: &Way, socket: &str) -> Command {
        let socket: &Path = &self.dir.path().join(socket);
        // The rig's configuration names the rig's own key, which would be offered as well.
        let config = way.home.join("ssh_config");
        let text = format!(
            "Host {}\n  HostName 127.0.0.1\n  Port {}\n  User {}\n  UserKnownHostsFile \"{}\"\n  \
             GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  IdentitiesOnly yes\n  BatchMode yes\n  \
             LogLevel ERROR\n  IdentityFile \"{}\"\n  IdentityAgent \"{}\"\n",
            way.host,
            way.port,
            way.login,
            way.client.known_hosts().display(),
            way.identity.display(),
            socket.display(),
        );
        fs::write(&config, text).unwrap();
        let mut ssh = way.program("ssh");
        ssh.arg("-F").arg(config).arg(way.host);
        ssh
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
