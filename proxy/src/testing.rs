//! A directory with a small valid configuration, for tests.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use casemate_certs::keys::write_private;
use casemate_certs::vkey::NodeKey;
use casemate_recorder::transcript::wrap::Identity;
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey};
use tempfile::TempDir;

use crate::config::{Config, ConfigError};
use crate::pg::tls::generate;

/// Keys of people, public halves only.
pub(crate) const ALICE: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGnCJJgOcfJKIM1qo+iXRDYRgyzLOagjUaz8S6nF9vNK alice@laptop";
pub(crate) const BOB: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINOfucPw97Vgx0xHtp2z+RG+uoAbFtXYe9G4uHyxnSQ5 bob@desk";
pub(crate) const WEB1: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINoKWUz9OTephBbtjhmfY+F19VeNYsO7RJSA2KUbUsS4 web1";

/// The configuration with every section. Tests count its lines: do not reflow.
pub(crate) const SAMPLE: &str = r#"node = "bastion-1"
state_dir = "state"
node_key = "keys/node.key"
durability = "causal"
encryption = "none"
notice = "Recorded."
host_keys = ["keys/host"]
host_ca = "keys/ca"
[listen]
ssh = ["127.0.0.1:2222"]

[vault]
dir = "vault"
immutable = false
retain = "400d"

[limits]
login_grace = "20s"
attempts = 6
backlog = "4MiB"
env = ["LANG", "LC_*"]

[[person]]
name = "alice"
keys = ["@ALICE"]
duties = ["admin"]

[[person]]
name = "bob"
keys = ["@BOB"]
duties = ["auditor"]

[[target]]
name = "web1"
aliases = ["www"]
kind = "ssh"
address = "192.0.2.7:22"
host_keys = ["@WEB1"]

[[target.role]]
login = "root"
key_file = "keys/target"

[[target.role]]
login = "deploy"
key_file = "keys/target"

[[target]]
name = "web2"
kind = "ssh"
address = "[2001:db8::7]:2022"
host_keys = ["@WEB1"]

[[target.role]]
login = "deploy"
key_file = "keys/target"

[[access]]
person = "alice"
targets = ["www", "web2"]
roles = ["root", "deploy"]
reason = "on call"

[[access]]
person = "bob"
targets = ["web1"]
roles = ["deploy"]
"#;

/// What [`Home::with_front`] adds.
pub(crate) const FRONT: &str = r#"
[postgres]
certificate = "keys/pg_server.crt"
key = "keys/pg_server.key"
"#;

/// A directory that [`SAMPLE`] is valid in.
pub(crate) struct Home {
    dir: TempDir,
}

impl Home {
    /// Makes directories and keys.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in [("keys", 0o700), ("state", 0o700), ("vault", 0o750)] {
            let sub = dir.path().join(name);
            std::fs::create_dir(&sub).unwrap();
            std::fs::set_permissions(&sub, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let home = Self { dir };
        for name in ["host", "ca", "target"] {
            home.make_key(&format!("keys/{name}"));
        }
        write_private(&home.path("keys/node.key"), &NodeKey::generate("bastion-1").unwrap().to_text()).unwrap();
        write_private(&home.path("keys/state.agekey"), &Identity::generate().to_file()).unwrap();
        home
    }

    /// Writes a new SSH key and returns it.
    pub(crate) fn make_key(&self, name: &str) -> PrivateKey {
        let key = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap();
        write_private(&self.path(name), &key.to_openssh(LineEnding::LF).unwrap()).unwrap();
        key
    }

    /// A path in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes the front door's certificate as `init` does, and loads the sample with it.
    pub(crate) fn with_front(&self, names: &[&str]) -> Config {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = generate("bastion-1", &names, SystemTime::now()).unwrap();
        for name in ["keys/pg_ca.key", "keys/pg_server.key"] {
            let _ = std::fs::remove_file(self.path(name));
        }
        write_private(&self.path("keys/pg_ca.key"), &made.ca_key_pem).unwrap();
        write_private(&self.path("keys/pg_server.key"), &made.leaf.key_pem).unwrap();
        std::fs::write(self.path("keys/pg_ca.crt"), &made.ca_pem).unwrap();
        std::fs::write(self.path("keys/pg_server.crt"), &made.leaf.cert_pem).unwrap();
        self.load(&format!("{SAMPLE}{FRONT}")).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Writes a configuration, with the keys put in, and returns its file.
    pub(crate) fn write(&self, text: &str) -> PathBuf {
        let file = self.path("casemate.toml");
        let text = text.replace("@ALICE", ALICE).replace("@BOB", BOB).replace("@WEB1", WEB1);
        std::fs::write(&file, text).unwrap();
        file
    }

    /// Writes and loads a configuration.
    pub(crate) fn load(&self, text: &str) -> Result<Config, ConfigError> {
        Config::load(&self.write(text))
    }
}

/// Sets a file's permission bits.
pub(crate) fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
