//! From text to [`Config`]: every field read, bounded and explained.
//!
//! Collects all problems before it gives up. What one part of the file says about another is checked in
//! [`super::check`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use casemate_certs::fields::{Fields, Located, Problem, Reader};
use casemate_certs::ssh_ca::HostAuthority;
use casemate_recorder::Durability;
use casemate_recorder::transcript::wrap::Identity;
use russh::keys::PublicKey;

use super::keys::{Objection, load_node_key, load_private_key, parse_public_key};
use super::{
    Access, Config, Content, Duty, Encryption, Forwards, KeyFile, Limits, Listen, Person, Role, Service, Target,
    TargetAuth, TargetKind, check, encryption, forwards,
};
use crate::trust_file;

/// Longest name of a person, a target, a role or a node.
const NAME_LEN_MAX: usize = 64;

/// What a name looks like, for messages.
pub(super) const NAME_FORM: &str = "a lower-case letter or _, then up to 63 of a-z 0-9 _ . -";

/// The notice is shown before every login; more than a screen of it is read by nobody.
const NOTICE_LEN_MAX: usize = 4096;

const NOTICE: &str = "This session is recorded: what you type and what you see. Records are kept and reviewed.";

/// Items of one list. With names of 64 bytes, an entry of the recorded snapshot stays well below an event's limit.
const LIST_LEN_MAX: usize = 1_000;

/// A reason is a sentence or a ticket; it opens every session's record.
const REASON_LEN_MAX: usize = 1_024;

/// Whether a text is a name: `[a-z_][a-z0-9_.-]{0,63}`. Names become parts of paths, logins and log lines, so nothing
/// else is let in.
pub fn is_name(text: &str) -> bool {
    let first = |c: u8| c.is_ascii_lowercase() || c == b'_';
    let rest = |c: u8| first(c) || c.is_ascii_digit() || c == b'.' || c == b'-';
    text.len() <= NAME_LEN_MAX && text.bytes().next().is_some_and(first) && text.bytes().all(rest)
}

/// One file being turned into a configuration.
pub(super) struct Parser<'r, 'i> {
    pub(super) reader: &'r Reader<'i>,
    base: PathBuf,
}

/// Reads a configuration. `file` says where relative paths count from; nothing but key files and directories is opened.
pub(super) fn parse(text: &str, file: &Path) -> Result<Config, Vec<Problem>> {
    let reader = Reader::new(text);
    let base = std::path::absolute(Config::base(file)).unwrap_or_else(|_| Config::base(file).to_owned());
    let config = Parser { reader: &reader, base }.config(text, file);
    let problems = reader.into_problems();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

impl Parser<'_, '_> {
    /// `None` means that something is missing and was complained about.
    fn config(&self, text: &str, file: &Path) -> Option<Config> {
        let mut root = self.reader.root()?;
        let node = root.required_text("node", "name this node, such as node = \"bastion-1\"");
        let node = node.filter(|node| self.name("node", node));
        let state_dir = self.path(root.required_text("state_dir", "name a directory for journal and log"));
        let node_key = self.path(root.required_text("node_key", "name the node's key file, made by `casemate init`"));
        let durability = self.durability(&mut root);
        let (encryption, state) = self.encryption(&mut root);
        let notice = self.notice(&mut root);
        let listen = self.listen(&mut root);
        let postgres = self.pg_front(&mut root, listen.as_ref());
        let host_keys = self.host_keys(&mut root);
        let host_ca = self.host_ca(&mut root);
        let vault = self.vault(&mut root);
        let trust = self.trust(&mut root);
        let limits = self.limits(&mut root);
        let log = self.log(&mut root);
        let alerts = self.alerts(&mut root);
        let persons: Vec<Person> = root.tables("person").into_iter().filter_map(|table| self.person(table)).collect();
        let targets: Vec<Target> =
            root.tables("target").into_iter().filter_map(|table| self.target(table, state.as_ref())).collect();
        let access: Vec<AccessDraft> = root.tables("access").into_iter().map(|table| self.access(table)).collect();
        root.finish();

        let node_key =
            node_key.and_then(|path| self.agreed(path.line, load_node_key(&path.value)).zip(Some(path.line)));
        if let (Some(node), Some((key, line))) = (&node, &node_key)
            && node.value != key.name()
        {
            let what = format!("node key belongs to {:?}, this node is {:?}", key.name(), node.value);
            self.reader.complain(*line, what, "name the key of this node: its log is signed under that name");
        }
        check::persons(self.reader, &persons);
        check::targets(self.reader, &targets);
        let access = check::access(self.reader, access, &persons, &targets);
        let key = node_key.as_ref().map(|(key, _)| key);
        check::one_key_one_purpose(self.reader, key, host_ca.as_ref(), &host_keys, &targets);
        check::places(self.reader, state_dir.as_ref(), vault.as_ref().map(|(dir, _)| dir));

        Some(Config {
            file: file.to_owned(),
            node: node?.value,
            state_dir: state_dir?.value,
            vault: vault?.1,
            durability: durability?,
            encryption: encryption?,
            listen: listen?,
            postgres,
            host_keys: host_keys.into_iter().map(|key| key.value).collect(),
            host_ca: HostAuthority::new(host_ca?.value.key),
            node_key: node_key?.0,
            limits: limits?,
            log,
            trust,
            alerts,
            notice: notice?,
            persons,
            targets: targets.into_iter().map(Arc::new).collect(),
            access,
            hash: *blake3::hash(text.as_bytes()).as_bytes(),
        })
    }

    fn durability(&self, root: &mut Fields<'_, '_>) -> Option<Durability> {
        let Some(text) = root.text("durability") else { return Some(Durability::default()) };
        let all = [Durability::Strict, Durability::Causal, Durability::Process];
        let known = all.into_iter().find(|durability| durability.name() == text.value);
        if known.is_none() {
            let what = format!("durability {:?} is not known", text.value);
            self.reader.complain(text.line, what, "write \"strict\", \"causal\" or \"process\"");
        }
        known
    }

    fn encryption(&self, root: &mut Fields<'_, '_>) -> (Option<Encryption>, Option<Identity>) {
        let named = root.has("state_key");
        let state_key = self.path(root.text("state_key")).and_then(|path| {
            let line = path.line;
            self.agreed(line, encryption::load_state_key(&path.value)).map(|value| Located { line, value })
        });
        let state = state_key.as_ref().map(|key| key.value.clone());
        (encryption::read(self.reader, root, state_key, named), state)
    }

    fn notice(&self, root: &mut Fields<'_, '_>) -> Option<String> {
        let (line, text) = match root.text("notice") {
            Some(text) => (text.line, text.value),
            None => (0, NOTICE.to_owned()),
        };
        let text = text.trim_end();
        let bad = |c: char| c.is_control() && c != '\n' && c != '\t';
        if text.is_empty() || text.len() > NOTICE_LEN_MAX || text.contains(bad) {
            let what = format!("notice is empty, over {NOTICE_LEN_MAX} bytes or has control characters in it");
            self.reader.complain(line, what, "write a few plain lines: people are told that they are recorded");
            return None;
        }
        // RFC 4252 §5.4: the banner consists of lines separated by CR LF pairs.
        Some(format!("{}\r\n", text.replace('\n', "\r\n")))
    }

    fn listen(&self, root: &mut Fields<'_, '_>) -> Option<Listen> {
        let remedy = "write [listen] and ssh = [\"127.0.0.1:2222\"]";
        let Some(mut table) = root.table("listen") else {
            root.missing("listen", remedy);
            return None;
        };
        let ssh = self.addresses(&mut table, "ssh").unwrap_or_else(|| {
            table.missing("ssh", "write ssh = [\"127.0.0.1:2222\"]");
            Vec::new()
        });
        let postgres = self.addresses(&mut table, "postgres").unwrap_or_default();
        let postgres_socket = self.path(table.text("postgres_socket")).map(|path| path.value);
        let metrics = self.addresses(&mut table, "metrics").unwrap_or_default();
        let doors = [("ssh", &ssh), ("postgres", &postgres), ("metrics", &metrics)];
        for (at, (name, addrs)) in doors.iter().enumerate() {
            for (other, taken) in doors.iter().take(at) {
                if let Some(both) = addrs.iter().find(|addr| addr.port() != 0 && taken.contains(addr)) {
                    let what = format!("both listen.{other} and listen.{name} have {both}");
                    table.complain(what, "give each a port of its own");
                }
            }
        }
        let plain_macs = table.boolean("plain_macs").is_some_and(|allowed| allowed.value);
        let jump_without_key = table.boolean("jump_without_key").is_some_and(|allowed| allowed.value);
        table.finish();
        (!ssh.is_empty()).then_some(Listen { ssh, postgres, postgres_socket, metrics, plain_macs, jump_without_key })
    }

    fn host_keys(&self, root: &mut Fields<'_, '_>) -> Vec<Located<KeyFile>> {
        let paths = root.texts("host_keys");
        if paths.is_empty() {
            root.missing("host_keys", "write host_keys = [\"keys/ssh_host_ed25519_key\"]");
        }
        let mut keys: Vec<Located<KeyFile>> = Vec::new();
        for path in paths {
            let line = path.line;
            let Some(path) = self.path(Some(path)) else { continue };
            let Some(key) = self.agreed(line, load_private_key(&path.value)) else { continue };
            // Clients choose by algorithm, so a second key of the same kind would never be shown to anybody.
            if keys.iter().any(|known| known.value.key.algorithm() == key.key.algorithm()) {
                let what = format!("host_keys has two keys of type {}", key.key.algorithm());
                self.reader.complain(line, what, "keep one key of each type");
            }
            keys.push(Located { line, value: key });
        }
        keys
    }

    /// It is read when it is needed, so that a new one counts without a reload; here it only has to be one.
    fn trust(&self, root: &mut Fields<'_, '_>) -> Option<PathBuf> {
        let path = self.path(root.text("trust"))?;
        if let Err(error) = trust_file::open(&path.value) {
            self.reader.complain(
                path.line,
                error.to_string(),
                "name the trust file of the organisation, with FILE.sig beside it",
            );
        }
        Some(path.value)
    }

    fn host_ca(&self, root: &mut Fields<'_, '_>) -> Option<Located<KeyFile>> {
        let path = root.required_text("host_ca", "name the key that certifies targets' names, made by `casemate init`");
        let path = self.path(path)?;
        let key = self.agreed(path.line, load_private_key(&path.value))?;
        if key.key.algorithm().is_rsa() {
            let what = format!("{} is an RSA key, which clients may not take from an authority", path.value.display());
            self.reader.complain(path.line, what, "make another one: ssh-keygen -t ed25519");
        }
        Some(Located { line: path.line, value: key })
    }

    fn limits(&self, root: &mut Fields<'_, '_>) -> Option<Limits> {
        let mut limits = Limits::default();
        let Some(mut table) = root.table("limits") else { return Some(limits) };
        let second = Duration::from_secs(1);
        let mut duration = |field, at: &mut Duration, max: u64| {
            if let Some(value) = table.duration(field, second..=Duration::from_secs(max)) {
                *at = value.value;
            }
        };
        duration("login_grace", &mut limits.login_grace, 600);
        duration("keepalive", &mut limits.keepalive, 3600);
        duration("tcp_user_timeout", &mut limits.tcp_user_timeout, 3600);
        duration("dial", &mut limits.dial, 600);
        duration("reply", &mut limits.reply, 600);
        duration("drain", &mut limits.drain, 24 * 3600);
        duration("token_lifetime", &mut limits.token_lifetime, 30 * 24 * 3600);
        let day = Duration::from_secs(24 * 3600);
        limits.idle = table.duration("idle", second..=day).map(|idle| idle.value);
        limits.session = table.duration("session", second..=day * 30).map(|session| session.value);
        number(&mut table, "attempts", &mut limits.attempts, 100);
        number(&mut table, "probes", &mut limits.probes, 1_000);
        number(&mut table, "preauth_per_source", &mut limits.preauth_per_source, 100_000);
        number(&mut table, "preauth_global", &mut limits.preauth_global, 100_000);
        number(&mut table, "sessions", &mut limits.sessions, 100_000);
        number(&mut table, "sessions_per_person", &mut limits.sessions_per_person, 100_000);
        number(&mut table, "channels", &mut limits.channels, 1_000);
        number(&mut table, "keepalive_count", &mut limits.keepalive_count, 100);
        bytes(&mut table, "backlog", &mut limits.backlog, 64 << 10, 1 << 30);
        bytes(&mut table, "backlog_max", &mut limits.backlog_max, 1 << 20, 4 << 30);
        bytes(&mut table, "journal", &mut limits.journal, 32 << 20, 16 << 40);
        if limits.backlog_max < limits.backlog {
            let what = "limits.backlog_max is below limits.backlog";
            table.complain(what, "write a backlog_max of several times the backlog");
        }
        if table.has("env") {
            limits.env = self.env(&mut table);
        }
        table.finish();
        Some(limits)
    }

    fn env(&self, table: &mut Fields<'_, '_>) -> Vec<String> {
        let mut names = Vec::new();
        for name in table.texts("env") {
            let stem = name.value.strip_suffix('*').unwrap_or(&name.value);
            let fits = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
            if stem.is_empty() || stem.len() > NAME_LEN_MAX || !stem.bytes().all(fits) {
                let what = format!("limits.env has no name of a variable: {:?}", name.value);
                self.reader.complain(
                    name.line,
                    what,
                    "write names of letters, digits and _, with * at most at the end",
                );
            } else {
                names.push(name.value);
            }
        }
        names
    }

    fn person(&self, mut table: Fields<'_, '_>) -> Option<Person> {
        let line = table.line();
        let name = table.required_text("name", "name the person, such as name = \"alice\"");
        let name = name.filter(|name| self.name("person.name", name));
        let lines = self.list(&mut table, "keys");
        if lines.is_empty() {
            table.missing("keys", "list their public keys, the lines of their .pub files");
        }
        let keys = self.public_keys("person.keys", lines);
        let mut duties = Vec::new();
        for duty in table.texts("duties") {
            match Duty::ALL.iter().find(|(known, _)| *known == duty.value) {
                Some((_, known)) if duties.contains(known) => {
                    self.reader.complain(duty.line, format!("duty {:?} is listed twice", duty.value), "remove one");
                }
                Some((_, known)) => duties.push(*known),
                None => {
                    let what = format!("duty {:?} is not known", duty.value);
                    let known: Vec<&str> = Duty::ALL.iter().map(|(name, _)| *name).collect();
                    self.reader.complain(duty.line, what, format!("write some of {}", known.join(", ")));
                }
            }
        }
        table.finish();
        Some(Person { name: name?.value, keys, duties, line })
    }

    /// `state` opens what is encrypted to the node.
    fn target(&self, mut table: Fields<'_, '_>, state: Option<&Identity>) -> Option<Target> {
        let line = table.line();
        let name = table.required_text("name", "name the target, such as name = \"web1\"");
        let name = name.filter(|name| self.name("target.name", name));
        let aliases = self.list(&mut table, "aliases").into_iter().filter(|alias| self.name("target.aliases", alias));
        let aliases = aliases.map(|alias| alias.value).collect();
        let kind = table.required_text("kind", "write kind = \"ssh\" or \"pg\"");
        let kind = kind.and_then(|kind| self.kind(&kind));
        let address = table.required_text("address", "write address = \"HOST:PORT\"");
        let address = address.and_then(|address| self.address(&address));
        let service = match kind {
            Some(TargetKind::Pg) => {
                self.pg_service(&mut table, address.as_ref().map(|(host, _)| host.as_str())).map(Service::Pg)
            }
            // Of one that is neither, only the kind is complained about.
            Some(TargetKind::Ssh) | None => {
                let pins = self.list(&mut table, "host_keys");
                if pins.is_empty() && kind.is_some() {
                    table.missing("host_keys", "pin the target's host key; `casemate target add` scans and shows it");
                }
                Some(Service::Ssh { host_keys: self.public_keys("target.host_keys", pins) })
            }
        };
        let tables = table.tables("role");
        if tables.is_empty() {
            table.missing("role", "add a [[target.role]] with a login and what opens it");
        }
        if tables.len() > LIST_LEN_MAX {
            let what = format!("target has {} roles, over the limit of {LIST_LEN_MAX}", tables.len());
            table.complain(what, "leave out what nobody uses");
        }
        let mut roles: Vec<Role> = Vec::new();
        for role in tables {
            let at = role.line();
            let host = address.as_ref().map_or("", |(host, _)| host.as_str());
            let Some(role) = self.role(role, service.as_ref(), kind, host, state) else { continue };
            if roles.iter().any(|known| known.login == role.login) {
                self.reader.complain(at, format!("role {:?} is listed twice", role.login), "remove one of the two");
            }
            roles.push(role);
        }
        table.finish();
        let (host, port) = address?;
        kind?;
        Some(Target { name: name?.value, aliases, host, port, service: service?, roles, line })
    }

    fn kind(&self, kind: &Located<String>) -> Option<TargetKind> {
        let known = TargetKind::ALL.into_iter().find(|(name, _)| *name == kind.value);
        if known.is_none() {
            let what = format!("kind {:?} is not known", kind.value);
            self.reader.complain(kind.line, what, "write kind = \"ssh\" or \"pg\"");
        }
        known.map(|(_, kind)| kind)
    }

    fn address(&self, address: &Located<String>) -> Option<(String, u16)> {
        let parsed = split_address(&address.value);
        if parsed.is_none() {
            let what = format!("address {:?} is no host and port", address.value);
            self.reader.complain(address.line, what, "write HOST:PORT, IPv6 in brackets, such as \"192.0.2.7:22\"");
        }
        parsed
    }

    fn role(
        &self,
        mut table: Fields<'_, '_>,
        service: Option<&Service>,
        kind: Option<TargetKind>,
        host: &str,
        state: Option<&Identity>,
    ) -> Option<Role> {
        if kind == Some(TargetKind::Pg) {
            let service = service.and_then(Service::pg);
            return self.pg_role(table, service, host, state);
        }
        let login = table.required_text("login", "write the login name at the target");
        let login = login.filter(|login| self.name("target.role.login", login));
        let path = table.required_text("key_file", "name the private key that opens this login");
        table.finish();
        let path = self.path(path)?;
        let key = self.agreed(path.line, load_private_key(&path.value))?;
        Some(Role { login: login?.value, auth: TargetAuth::Key(key) })
    }

    fn access(&self, mut table: Fields<'_, '_>) -> AccessDraft {
        let line = table.line();
        let person = table.required_text("person", "name a person of this file");
        let targets = self.list(&mut table, "targets");
        if targets.is_empty() {
            table.missing("targets", "name targets of this file");
        }
        let roles = self.list(&mut table, "roles");
        if roles.is_empty() {
            table.missing("roles", "name logins of these targets");
        }
        let reason = table.text("reason").map_or_else(
            || "standing access".to_owned(),
            |reason| {
                if reason.value.len() > REASON_LEN_MAX || reason.value.contains(char::is_control) {
                    let what = format!("reason is over {REASON_LEN_MAX} bytes or has control characters in it");
                    self.reader.complain(reason.line, what, "write one plain line");
                }
                reason.value
            },
        );
        let content = self.content(&mut table);
        let forwards = self.forwards(&mut table);
        let read_only = table.boolean("read_only").is_some_and(|only| only.value);
        let replication = table.boolean("replication").is_some_and(|allowed| allowed.value);
        table.finish();
        AccessDraft { person, targets, roles, reason, content, forwards, read_only, replication, line }
    }

    fn forwards(&self, table: &mut Fields<'_, '_>) -> Forwards {
        let (items, mut known) = (table.texts("forward"), Forwards::default());
        if let Some(one_more) = items.get(forwards::FORWARDS_MAX) {
            let what = format!("forward has {} patterns, over the limit of {}", items.len(), forwards::FORWARDS_MAX);
            self.reader.complain(one_more.line, what, "let one pattern stand for several, or add an access line");
        }
        for item in items.into_iter().take(forwards::FORWARDS_MAX) {
            if let Err(why) = known.add(&item.value) {
                let shown: String = item.value.chars().take(REASON_LEN_MAX).collect();
                self.reader.complain(item.line, format!("forward {shown:?} {why}"), forwards::FORMS);
            }
        }
        known
    }

    fn content(&self, table: &mut Fields<'_, '_>) -> Content {
        let Some(text) = table.text("content") else { return Content::default() };
        let known = Content::ALL.into_iter().find(|(name, _)| *name == text.value);
        if known.is_none() {
            let what = format!("content {:?} is not known", text.value);
            self.reader.complain(text.line, what, "write \"full\", or \"hash\" to keep file content out of the record");
        }
        known.map_or_else(Content::default, |(_, content)| content)
    }

    fn list(&self, table: &mut Fields<'_, '_>, field: &'static str) -> Vec<Located<String>> {
        let items = table.texts(field);
        if let Some(first) = items.first().filter(|_| items.len() > LIST_LEN_MAX) {
            let what = format!("{field} has {} items, over the limit of {LIST_LEN_MAX}", items.len());
            self.reader.complain(first.line, what, "split it");
        }
        items
    }

    fn public_keys(&self, field: &str, lines: Vec<Located<String>>) -> Vec<PublicKey> {
        let mut keys: Vec<PublicKey> = Vec::new();
        for line in lines {
            match parse_public_key(&line.value) {
                Ok(key) if keys.iter().any(|known| super::keys::same(known, &key)) => {
                    self.reader.complain(line.line, format!("{field} has a key twice"), "remove one of the two");
                }
                Ok(key) => keys.push(key),
                Err(objection) => {
                    self.reader.complain(line.line, format!("{field}: {}", objection.what), objection.remedy);
                }
            }
        }
        keys
    }

    pub(super) fn name(&self, field: &str, name: &Located<String>) -> bool {
        let fits = is_name(&name.value);
        if !fits {
            let shown: String = name.value.chars().take(NAME_LEN_MAX + 1).collect();
            self.reader.complain(name.line, format!("{field} is no name: {shown:?}"), format!("write {NAME_FORM}"));
        }
        fits
    }

    pub(super) fn path(&self, text: Option<Located<String>>) -> Option<Located<PathBuf>> {
        let text = text?;
        if text.value.is_empty() || text.value.contains('\0') {
            self.reader.complain(text.line, format!("not a path: {:?}", text.value), "name a file or directory");
            return None;
        }
        Some(text.map(|text| self.base.join(text)))
    }

    pub(super) fn agreed<T>(&self, line: usize, result: Result<T, Objection>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(objection) => {
                self.reader.complain(line, objection.what, objection.remedy);
                None
            }
        }
    }
}

fn number<T: TryFrom<u64>>(table: &mut Fields<'_, '_>, field: &'static str, at: &mut T, max: u64) {
    if let Some(value) = table.uint(field, 1..=max).and_then(|value| T::try_from(value.value).ok()) {
        *at = value;
    }
}

fn bytes<T: TryFrom<u64>>(table: &mut Fields<'_, '_>, field: &'static str, at: &mut T, min: u64, max: u64) {
    if let Some(value) = table.bytes(field, min..=max).and_then(|value| T::try_from(value.value).ok()) {
        *at = value;
    }
}

/// An access line before its names are looked up.
pub(super) struct AccessDraft {
    pub(super) person: Option<Located<String>>,
    pub(super) targets: Vec<Located<String>>,
    pub(super) roles: Vec<Located<String>>,
    pub(super) reason: String,
    pub(super) content: Content,
    pub(super) forwards: Forwards,
    pub(super) read_only: bool,
    pub(super) replication: bool,
    pub(super) line: usize,
}

impl AccessDraft {
    pub(super) fn accept(self, person: String, targets: Vec<String>, roles: Vec<String>) -> Access {
        let Self { reason, content, forwards, read_only, replication, line, .. } = self;
        Access { person, targets, roles, reason, content, forwards, read_only, replication, line }
    }
}

/// Splits `host:port`. The host is an IP address, IPv6 in brackets, or a DNS name; the port is not zero.
pub fn split_address(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    // "+22" parses as a number too.
    if !port.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
    if let Some(inner) = host.strip_prefix('[') {
        let v6: std::net::Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
        return Some((v6.to_string(), port));
    }
    let label = |label: &str| {
        let fits = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && label.bytes().all(fits)
    };
    (host.len() <= 253 && host.split('.').all(label)).then(|| (host.to_owned(), port))
}
