//! Who may go where: the only maker of [`Identity`] and [`Grant`].
//!
//! Unset means no. A [`Grant`] is what dialling demands, so a path that skips the question does not compile. Until signed
//! grants exist, an access line of the configuration stands for one. Knows no protocol and no socket.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use russh::keys::{HashAlg, PublicKey};

use crate::config::{Access, Config, Content, Forwards, Role, Target, TargetKind, is_name};
use crate::error::Fault;
use crate::tokens::Redeemed;

/// The rules of one configuration.
pub struct Policy {
    config: Arc<Config>,
    /// Canonical names and aliases alike.
    targets: HashMap<(TargetKind, String), Arc<Target>>,
}

/// The policy in force. A reload replaces it for new sessions; running ones keep the grant they have.
pub struct Live(RwLock<Arc<Policy>>);

impl Live {
    /// Puts a first policy in force.
    pub fn new(policy: Policy) -> Self {
        Self(RwLock::new(Arc::new(policy)))
    }

    /// Returns the policy in force now. Ask once a decision: two calls may answer from two configurations.
    pub fn current(&self) -> Arc<Policy> {
        // The lock guards one pointer, which no panic can leave half-written.
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another policy in force.
    pub fn replace(&self, policy: Policy) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }
}

/// A person who proved who they are. Made only by [`Policy`], from what proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    person: String,
    method: &'static str,
    fingerprint: String,
    source: SocketAddr,
}

impl Identity {
    /// The person's name.
    pub fn person(&self) -> &str {
        &self.person
    }

    /// Fingerprint of the key that was proved, `SHA256:…`; for a token that of the key that it was made under.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// How it was proved.
    pub fn method(&self) -> &'static str {
        self.method
    }

    /// Where the connection comes from.
    pub fn source(&self) -> SocketAddr {
        self.source
    }
}

/// What somebody asks for in a login name: `alice`, `alice+web1` or `alice+web1+root`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The person they say they are.
    pub person: String,
    /// A target's name or alias; `None` when none was named.
    pub target: Option<String>,
    /// A login at the target; `None` when none was named.
    pub role: Option<String>,
}

/// A login name that names nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("login name is not of the form PERSON+TARGET+ROLE")]
pub struct MalformedLogin;

/// The method of who came with a TLS client certificate.
const CERTIFICATE: &str = "certificate";

/// Where SSH is spoken unless somebody says otherwise (RFC 4253 §4).
const SSH_PORT: u32 = 22;

/// Where PostgreSQL is spoken unless somebody says otherwise.
const PG_PORT: u32 = 5432;

/// The longest name of a host (RFC 1035 §2.3.4).
const HOST_LEN_MAX: usize = 253;

/// Separators of a login name. Only `+` survives every client; the others are for those who come from elsewhere.
const SEPARATORS: [char; 3] = ['+', ':', '#'];

impl Wanted {
    /// Reads a login name.
    ///
    /// # Errors
    /// [`MalformedLogin`] unless it is one to three names of the grammar `[a-z_][a-z0-9_.-]{0,63}`.
    pub fn parse(login: &str) -> Result<Self, MalformedLogin> {
        let mut parts = login.split(SEPARATORS);
        let mut next =
            || parts.next().map(|part| if is_name(part) { Ok(part.to_owned()) } else { Err(MalformedLogin) });
        let person = next().ok_or(MalformedLogin)??;
        let target = next().transpose()?;
        let role = next().transpose()?;
        if next().is_some() {
            return Err(MalformedLogin);
        }
        Ok(Self { person, target, role })
    }
}

/// Leave for one session: who, where, as whom. Made only by [`Policy::authorize`]; dialling demands it.
#[must_use = "a grant is what allows dialling"]
#[derive(Clone)]
pub struct Grant {
    id: String,
    person: String,
    target: Arc<Target>,
    role: Role,
    reason: String,
    content: Content,
    forwards: Forwards,
    read_only: bool,
    replication: bool,
    until: Option<SystemTime>,
}

impl Grant {
    /// Names what granted it: for an access line, its number and the first half of the configuration's hash.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The person it was granted to.
    pub fn person(&self) -> &str {
        &self.person
    }

    /// Where it leads.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// As whom.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// Why it was granted.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// What is recorded of the content of files.
    pub fn content(&self) -> Content {
        self.content
    }

    /// What may be forwarded.
    pub fn forwards(&self) -> &Forwards {
        &self.forwards
    }

    /// Whether a database may be read and not changed.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Whether the replication protocol may be spoken.
    pub fn replication(&self) -> bool {
        self.replication
    }

    /// When it ends; `None` for one without end, as an access line is.
    pub fn until(&self) -> Option<SystemTime> {
        self.until
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not derived: the role holds a private key.
        f.debug_struct("Grant")
            .field("id", &self.id)
            .field("person", &self.person)
            .field("target", &self.target.name)
            .field("role", &self.role.login)
            .finish_non_exhaustive()
    }
}

/// A target that a person may reach.
#[derive(Clone)]
pub struct Reachable {
    /// Where.
    pub target: Arc<Target>,
    /// As whom, in the target's order; never empty.
    pub roles: Vec<String>,
    /// Why, one for each role.
    pub reasons: Vec<String>,
}

/// Why there is no grant. [`Display`](fmt::Display) is the reason for the record; the client gets
/// [`client_text`](Self::client_text).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The name in the login is not the one that was proved.
    #[error("identity is {proved:?} and the login names {named:?}")]
    OtherPerson {
        /// The person who was identified.
        proved: String,
        /// The person in the login name.
        named: String,
    },
    /// The person is no longer configured.
    #[error("person {person:?} is not configured")]
    UnknownPerson {
        /// The name.
        person: String,
    },
    /// The key that proved who it is, or under which a token was made, is not the person's any more.
    #[error("key {fingerprint} of {person:?} is not configured any more")]
    KeyGone {
        /// The person.
        person: String,
        /// The key.
        fingerprint: String,
    },
    /// No target was named.
    #[error("no target named")]
    NoTarget {
        /// The person, for the advice.
        person: String,
    },
    /// No target has that name or alias.
    #[error("target {target:?} is not configured")]
    UnknownTarget {
        /// The name.
        target: String,
    },
    /// No access line leads there.
    #[error("no access line lets {person:?} reach {target:?}")]
    NoAccess {
        /// The person.
        person: String,
        /// The target's canonical name.
        target: String,
    },
    /// Access lines lead there, none under that role.
    #[error("no access line lets {person:?} reach {target:?} as {role:?}")]
    RoleNotGranted {
        /// The person.
        person: String,
        /// The target's canonical name.
        target: String,
        /// The role that was asked for.
        role: String,
    },
    /// Access lines lead there under several roles and none was named.
    #[error("role left out where {} are granted", roles.join(", "))]
    RoleNeeded {
        /// The login as it was, without the role.
        login: String,
        /// The roles, in order.
        roles: Vec<String>,
    },
}

impl Denial {
    /// The text for the person. It is the same for a target that does not exist, one they may not reach and a role they
    /// may not take: whoever is told which half was wrong can list the rest.
    pub fn client_text(&self) -> String {
        match self {
            Self::NoTarget { person } => format!("name a target: {person}+TARGET"),
            Self::RoleNeeded { login, roles } => {
                format!("name a role, one of {}: {login}+ROLE", roles.join(", "))
            }
            Self::OtherPerson { .. }
            | Self::UnknownPerson { .. }
            | Self::KeyGone { .. }
            | Self::UnknownTarget { .. }
            | Self::NoAccess { .. }
            | Self::RoleNotGranted { .. } => "access denied".to_owned(),
        }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::NoTarget { .. } | Self::RoleNeeded { .. } => Fault::Client,
            _ => Fault::Policy,
        }
    }
}

impl Policy {
    /// Makes the rules from a configuration.
    pub fn new(config: Arc<Config>) -> Self {
        let names = |target: &Arc<Target>| {
            let target = Arc::clone(target);
            std::iter::once(target.name.clone())
                .chain(target.aliases.clone())
                .map(move |name| ((target.kind(), name), Arc::clone(&target)))
                .collect::<Vec<_>>()
        };
        let targets = config.targets.iter().flat_map(names).collect();
        Self { config, targets }
    }

    /// Returns the configuration that the rules come from.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Whether that key is one of that person's. For offers only: it proves nothing about who is there.
    pub fn knows_key(&self, person: &str, key: &PublicKey) -> bool {
        let person = self.config.persons.iter().find(|candidate| candidate.name == person);
        // Comments are not part of a key, so compare the key data alone.
        person.is_some_and(|person| person.keys.iter().any(|known| known.key_data() == key.key_data()))
    }

    /// Identifies a person. Call it only where the library has verified a signature by `key`.
    pub fn identify(&self, person: &str, key: &PublicKey, source: SocketAddr) -> Option<Identity> {
        self.knows_key(person, key).then(|| Identity {
            person: person.to_owned(),
            method: "publickey",
            fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
            source,
        })
    }

    /// Identifies the person to whom a token was given, while the key is theirs under which it was made.
    pub fn identify_by_token(&self, token: &Redeemed, source: SocketAddr) -> Option<Identity> {
        let identity = Identity {
            person: token.person().to_owned(),
            method: "token",
            fingerprint: token.fingerprint().to_owned(),
            source,
        };
        self.still_knows(&identity).is_ok().then_some(identity)
    }

    /// Identifies the person whom a certificate names. Call it only where TLS has verified the certificate and that its key is
    /// held.
    pub fn identify_by_certificate(&self, person: &str, fingerprint: String, source: SocketAddr) -> Option<Identity> {
        self.knows(person).then(|| Identity { person: person.to_owned(), method: CERTIFICATE, fingerprint, source })
    }

    /// Takes somebody who is known by an SSH connection for the same inside it: whoever may use a port that it forwards.
    pub fn identify_in_tunnel(&self, outside: &Identity) -> Identity {
        Identity { method: "tunnel", ..outside.clone() }
    }

    fn knows(&self, person: &str) -> bool {
        self.config.persons.iter().any(|candidate| candidate.name == person)
    }

    /// Whether what somebody proved once is still theirs: a reload may have removed the person or the key since.
    fn still_knows(&self, who: &Identity) -> Result<(), Denial> {
        let person = who.person.clone();
        let Some(known) = self.config.persons.iter().find(|candidate| candidate.name == person) else {
            return Err(Denial::UnknownPerson { person });
        };
        let is_theirs = |key: &PublicKey| key.fingerprint(HashAlg::Sha256).to_string() == who.fingerprint;
        // A certificate's key is in no configuration: what takes it away is the revocation list.
        if who.method == CERTIFICATE || known.keys.iter().any(is_theirs) {
            return Ok(());
        }
        Err(Denial::KeyGone { person, fingerprint: who.fingerprint.clone() })
    }

    /// Decides whether an identified person may have what they ask for, at a target of that kind.
    ///
    /// # Errors
    /// [`Denial`] whenever no access line says yes.
    pub fn authorize(&self, who: &Identity, wanted: &Wanted, kind: TargetKind) -> Result<Grant, Denial> {
        let person = who.person();
        if wanted.person != person {
            return Err(Denial::OtherPerson { proved: person.to_owned(), named: wanted.person.clone() });
        }
        self.still_knows(who)?;
        let Some(named) = &wanted.target else {
            return Err(Denial::NoTarget { person: person.to_owned() });
        };
        let Some(target) = self.named(kind, named) else {
            return Err(Denial::UnknownTarget { target: named.clone() });
        };
        let open = self.open_roles(person, target);
        if open.is_empty() {
            return Err(Denial::NoAccess { person: person.to_owned(), target: target.name.clone() });
        }
        let chosen = match &wanted.role {
            Some(role) => open.iter().find(|(candidate, _)| candidate.login == *role),
            None if open.len() == 1 => open.first(),
            None => {
                let roles = open.iter().map(|(role, _)| role.login.clone()).collect();
                return Err(Denial::RoleNeeded { login: format!("{person}+{named}"), roles });
            }
        };
        let Some((role, access)) = chosen else {
            return Err(Denial::RoleNotGranted {
                person: person.to_owned(),
                target: target.name.clone(),
                role: wanted.role.clone().unwrap_or_default(),
            });
        };
        Ok(Grant {
            id: self.grant_id(access),
            person: person.to_owned(),
            target: Arc::clone(target),
            role: (*role).clone(),
            reason: access.reason.clone(),
            content: access.content,
            forwards: access.forwards.clone(),
            read_only: access.read_only,
            replication: access.replication,
            until: None,
        })
    }

    /// Finds a target by name or alias, whoever may go there.
    pub(crate) fn named(&self, kind: TargetKind, name: &str) -> Option<&Arc<Target>> {
        self.targets.get(&(kind, name.to_owned()))
    }

    /// Finds the target that the destination of an `ssh -J` or `ssh -L` names, for somebody who has a way there: by name or alias
    /// at its protocol's own port or the target's, or by its address where that is the address of one target only.
    ///
    /// # Errors
    /// [`Denial`] where nothing is known by that name, no access line leads there, or they are not known any more.
    pub fn destination(&self, who: &Identity, host: &str, port: u32) -> Result<Arc<Target>, Denial> {
        self.still_knows(who)?;
        let host = host.to_ascii_lowercase();
        let named = [(TargetKind::Ssh, SSH_PORT), (TargetKind::Pg, PG_PORT)].into_iter().find_map(|(kind, usual)| {
            self.named(kind, &host).filter(|target| port == usual || port == u32::from(target.port))
        });
        let target = named.cloned().or_else(|| {
            let mut at_address = self
                .config
                .targets
                .iter()
                .filter(|target| target.host.eq_ignore_ascii_case(&host) && u32::from(target.port) == port);
            at_address.next().filter(|_| at_address.next().is_none()).cloned()
        });
        // Whatever a client wrote there, the record needs no more of it than a name is long.
        let shown = || format!("{}:{port}", host.chars().take(HOST_LEN_MAX).collect::<String>());
        let target = target.ok_or_else(|| Denial::UnknownTarget { target: shown() })?;
        if self.open_roles(who.person(), &target).is_empty() {
            return Err(Denial::NoAccess { person: who.person().to_owned(), target: target.name.clone() });
        }
        Ok(target)
    }

    /// The line for a person who has a way to a target and named a role there that is not theirs.
    pub fn roles_text(&self, who: &Identity, wanted: &Wanted) -> String {
        let target = wanted.target.as_ref().and_then(|name| self.named(TargetKind::Ssh, name));
        let open = target.map(|target| self.open_roles(who.person(), target)).unwrap_or_default();
        let roles: Vec<&str> = open.iter().map(|(role, _)| role.login.as_str()).collect();
        let target = target.map_or("TARGET", |target| &target.name);
        format!("{} may reach {target} as {}: write ROLE@{target}", who.person(), roles.join(", "))
    }

    /// Lists where a person may go, and as whom.
    pub fn reachable(&self, who: &Identity) -> Vec<Reachable> {
        let open = |target: &Arc<Target>| {
            let roles = self.open_roles(who.person(), target);
            let reasons = roles.iter().map(|(_, access)| access.reason.clone()).collect();
            let roles: Vec<String> = roles.iter().map(|(role, _)| role.login.clone()).collect();
            (!roles.is_empty()).then(|| Reachable { target: Arc::clone(target), roles, reasons })
        };
        self.config.targets.iter().filter_map(open).collect()
    }

    /// The roles of a target that access lines open to a person, each once, in the target's order.
    fn open_roles<'a>(&'a self, person: &str, target: &'a Target) -> Vec<(&'a Role, &'a Access)> {
        let leads_there = |access: &&Access| access.person == person && access.targets.contains(&target.name);
        target
            .roles
            .iter()
            .filter_map(|role| {
                let mut lines = self.config.access.iter().filter(leads_there);
                lines.find(|access| access.roles.contains(&role.login)).map(|access| (role, access))
            })
            .collect()
    }

    fn grant_id(&self, access: &Access) -> String {
        let hash: String = self.config.hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("access:{}@{hash}", access.line)
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
