//! What one part of a configuration says about another: names, references, keys that serve two masters, directories.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use casemate_certs::fields::{Located, Reader};
use casemate_certs::keys::quoted;
use casemate_certs::vkey::NodeKey;
use russh::keys::{HashAlg, PrivateKey};

use super::keys::{is_node_key, same};
use super::parse::AccessDraft;
use super::{Access, KeyFile, Person, Target, TargetAuth};

/// Names are unique, and no two persons hold one key: the record must say who it was.
pub(super) fn persons(reader: &Reader<'_>, persons: &[Person]) {
    for (at, person) in persons.iter().enumerate() {
        for earlier in persons.iter().take(at) {
            if earlier.name == person.name {
                let what = format!("person {:?} is already on line {}", person.name, earlier.line);
                reader.complain(person.line, what, "join the two: one person may have several keys");
            } else if let Some(key) = person.keys.iter().find(|key| earlier.keys.iter().any(|known| same(known, key))) {
                let fingerprint = key.fingerprint(HashAlg::Sha256);
                let what = format!("{:?} and {:?} share the key {fingerprint}", earlier.name, person.name);
                reader.complain(person.line, what, "give each person a key of their own");
            }
        }
    }
}

/// Names and aliases are unique together, within a kind.
pub(super) fn targets(reader: &Reader<'_>, targets: &[Target]) {
    let mut seen: HashMap<(&str, super::TargetKind), usize> = HashMap::new();
    for target in targets {
        for name in std::iter::once(&target.name).chain(&target.aliases) {
            if let Some(line) = seen.insert((name, target.kind()), target.line) {
                let what = format!("target name or alias {name:?} is already taken on line {line}");
                reader.complain(target.line, what, "choose another: names and aliases are unique together");
            }
        }
    }
}

/// Every access line names a known person, known targets and roles that exist there.
pub(super) fn access(
    reader: &Reader<'_>,
    drafts: Vec<AccessDraft>,
    persons: &[Person],
    targets: &[Target],
) -> Vec<Access> {
    let mut access = Vec::new();
    for draft in drafts {
        let person = draft.person.as_ref().filter(|person| {
            let known = persons.iter().any(|candidate| candidate.name == person.value);
            if !known {
                let what = format!("access names an unknown person {:?}", person.value);
                reader.complain(person.line, what, "add a [[person]] of that name, or correct it");
            }
            known
        });
        let person = person.map(|person| person.value.clone());
        let each: Vec<Vec<&Target>> = draft.targets.iter().map(|name| find_targets(reader, name, targets)).collect();
        let complete = each.iter().all(|found| !found.is_empty());
        let found: Vec<&Target> = each.into_iter().flatten().collect();
        for role in &draft.roles {
            let known = found.iter().any(|target| target.roles.iter().any(|candidate| candidate.login == role.value));
            // With an unknown target the role may be one of its; one complaint is enough.
            if !known && complete && !found.is_empty() {
                let what = format!("access names a role {:?} that none of its targets has", role.value);
                reader.complain(role.line, what, "add a [[target.role]] with that login, or correct it");
            }
        }
        let roles = draft.roles.iter().map(|role| role.value.clone()).collect();
        let names = found.iter().map(|target| target.name.clone()).collect();
        if let Some(person) = person {
            access.push(draft.accept(person, names, roles));
        }
    }
    access
}

/// Finds what has that name: one target of each kind at most.
fn find_targets<'t>(reader: &Reader<'_>, name: &Located<String>, targets: &'t [Target]) -> Vec<&'t Target> {
    let is = |target: &&Target| target.name == name.value || target.aliases.contains(&name.value);
    let found: Vec<&Target> = targets.iter().filter(is).collect();
    if found.is_empty() {
        let what = format!("access names an unknown target {:?}", name.value);
        reader.complain(name.line, what, "add a [[target]] of that name, or correct it");
    }
    found
}

/// A key has one purpose: a thief of one must not become another. Node key, host keys, the authority's key and keys towards
/// targets differ.
pub(super) fn one_key_one_purpose(
    reader: &Reader<'_>,
    node: Option<&NodeKey>,
    authority: Option<&Located<KeyFile>>,
    host_keys: &[Located<KeyFile>],
    targets: &[Target],
) {
    let another = "make another one: ssh-keygen -t ed25519";
    let is_authority = |key: &PrivateKey| authority.is_some_and(|ca| same(ca.value.key.public_key(), key.public_key()));
    if let (Some(authority), Some(node)) = (authority, node)
        && is_node_key(&authority.value.key, node)
    {
        reader.complain(authority.line, "host_ca is the node key", another);
    }
    for host in host_keys {
        if node.is_some_and(|node| is_node_key(&host.value.key, node)) {
            reader.complain(host.line, "the host key is the node key", another);
        }
        if is_authority(&host.value.key) {
            reader.complain(host.line, "the host key is also host_ca", another);
        }
    }
    for target in targets {
        for role in &target.roles {
            let TargetAuth::Key(file) = &role.auth else { continue };
            let shown = file.file.display();
            if node.is_some_and(|node| is_node_key(&file.key, node)) {
                reader.complain(target.line, format!("{shown} is the node key"), another);
            }
            if is_authority(&file.key) {
                reader.complain(target.line, format!("{shown} is also host_ca"), another);
            }
            if host_keys.iter().any(|host| same(host.value.key.public_key(), file.key.public_key())) {
                reader.complain(target.line, format!("{shown} is also a host key of the bastion"), another);
            }
        }
    }
}

/// State and vault are directories of ours that others cannot touch, and neither lies in the other.
pub(super) fn places(reader: &Reader<'_>, state: Option<&Located<PathBuf>>, vault: Option<&Located<PathBuf>>) {
    if let Some(state) = state {
        // Journal and spool hold recordings: in the clear where encryption is "none", and who speaks when in any case.
        place(reader, state, 0o077, "700");
    }
    if let Some(vault) = vault {
        // A group may read: that is how auditors get at a directory vault.
        place(reader, vault, 0o027, "750");
    }
    if let (Some(state), Some(vault)) = (state, vault)
        && (state.value.starts_with(&vault.value) || vault.value.starts_with(&state.value))
    {
        reader.complain(vault.line, "the vault and the state directory lie in one another", "keep them side by side");
    }
}

fn place(reader: &Reader<'_>, place: &Located<PathBuf>, forbidden: u32, mode: &str) {
    let path: &Path = &place.value;
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) => {
            // Not made here: a directory that is missing may be a disk that is not mounted.
            let what = format!("cannot use {}: {error}", path.display());
            return reader.complain(place.line, what, format!("mount it, or run: mkdir -m {mode} {}", quoted(path)));
        }
    };
    let uid = rustix::process::geteuid().as_raw();
    if !meta.is_dir() {
        reader.complain(place.line, format!("{} is no directory", path.display()), "name a directory");
    } else if meta.uid() != uid {
        let what = format!("{} belongs to uid {}", path.display(), meta.uid());
        reader.complain(place.line, what, format!("run: chown {uid} {}", quoted(path)));
    } else if meta.mode() & forbidden != 0 {
        let what = format!("{} has mode {:04o}: others can get at recordings", path.display(), meta.mode() & 0o7777);
        reader.complain(place.line, what, format!("run: chmod {mode} {}", quoted(path)));
    }
}
