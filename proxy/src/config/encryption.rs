//! Who can read the recordings: the recipients that a configuration names, and the node's own state key.
//!
//! The bastion keeps public halves only. What it needs back at a start, the control transcript, is encrypted to its state
//! key as well.

use std::fmt;
use std::path::Path;

use casemate_certs::fields::{Fields, Located, Reader};
use casemate_certs::keys::read_private;
use casemate_recorder::transcript::wrap::{Identity, Recipient};

use super::keys::Objection;

/// Each recipient makes HEAD longer and the opening of a session slower.
const RECIPIENTS_MAX: usize = 16;

/// How recordings are kept secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// Not at all; the file says so in as many words.
    None,
    /// To age recipients.
    Age {
        /// Who can read sessions, never empty.
        readers: Vec<NamedRecipient>,
        /// The node's own key, which reads nothing but the control transcript.
        state: Recipient,
    },
}

/// A recipient and what people call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedRecipient {
    /// Such as `auditor`.
    pub name: String,
    /// The public key.
    pub key: Recipient,
}

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Age { readers, .. } => {
                f.write_str("age")?;
                readers.iter().try_for_each(|reader| write!(f, " {} {}", reader.name, reader.key))
            }
        }
    }
}

impl Encryption {
    /// Returns the keys that sessions are encrypted to.
    pub fn recipients(&self) -> Vec<Recipient> {
        match self {
            Self::None => Vec::new(),
            Self::Age { readers, .. } => readers.iter().map(|reader| reader.key.clone()).collect(),
        }
    }

    /// Returns the node's own public key.
    pub fn state_recipient(&self) -> Option<Recipient> {
        match self {
            Self::None => None,
            Self::Age { state, .. } => Some(state.clone()),
        }
    }
}

/// Reads an age identity file that only this user can read.
///
/// # Errors
/// What [`read_private`] refuses, and files without exactly one identity.
pub(super) fn load_state_key(file: &Path) -> Result<Identity, Objection> {
    let text = read_private(file)?;
    let remedy = || "make one: age-keygen -o FILE, or `casemate init` in a new directory".to_owned();
    let shown = file.display();
    let identities = Identity::parse_file(&text)
        .map_err(|error| Objection { what: format!("{shown}: {error}"), remedy: remedy() })?;
    match <[Identity; 1]>::try_from(identities) {
        Ok([identity]) => Ok(identity),
        Err(_) => Err(Objection { what: format!("{shown} holds several identities"), remedy: "keep one".to_owned() }),
    }
}

/// Reads everything about encryption; `state_key` is the key that the file names, if it names one and it could be read.
pub(super) fn read(
    reader: &Reader<'_>,
    root: &mut Fields<'_, '_>,
    state_key: Option<Located<Identity>>,
    state_key_named: bool,
) -> Option<Encryption> {
    let remedy = "write encryption = \"age\" with two [[recipient]] tables, \
                  or \"none\" to accept that whoever reads the vault reads the recordings";
    let wanted = root.required_text("encryption", remedy);
    let single = root.boolean("single_recipient").is_some_and(|single| single.value);
    let readers: Vec<_> = root.tables("recipient").into_iter().filter_map(|table| recipient(reader, table)).collect();
    let wanted = wanted?;
    match wanted.value.as_str() {
        "none" => {
            if let Some(first) = readers.first() {
                reader.complain(first.line, "recipients, but encryption = \"none\"", "write encryption = \"age\"");
            }
            return Some(Encryption::None);
        }
        "age" => {}
        other => {
            reader.complain(wanted.line, format!("encryption {other:?} is not known"), remedy);
            return None;
        }
    }
    distinct(reader, &readers, state_key.as_ref());
    if readers.len() < 2 && !(single && readers.len() == 1) {
        let what = format!("{} recipients: who loses the only identity loses every recording", readers.len());
        let remedy =
            "name a second [[recipient]] and keep its identity elsewhere, or accept it: single_recipient = true";
        reader.complain(wanted.line, what, remedy);
    }
    if readers.len() > RECIPIENTS_MAX {
        let what = format!("{} recipients; {RECIPIENTS_MAX} are the most", readers.len());
        reader.complain(wanted.line, what, "name roles, not people");
    }
    if !state_key_named {
        root.missing("state_key", "name the node's own age identity, as `casemate init` makes it");
    }
    let readers: Vec<_> = readers.into_iter().map(|reader| reader.value).collect();
    (!readers.is_empty()).then_some(Encryption::Age { readers, state: state_key?.value.recipient() })
}

fn recipient(reader: &Reader<'_>, mut table: Fields<'_, '_>) -> Option<Located<NamedRecipient>> {
    let line = table.line();
    let name = table.required_text("name", "say whose it is, such as name = \"auditor\"");
    let key = table.required_text("key", "write the public key, age1…");
    table.finish();
    let (name, key) = (name?, key?);
    if key.value.starts_with("AGE-SECRET-KEY-") {
        let remedy = "write its public key, age1…, and use another identity: this one stood in a file of the bastion";
        reader.complain(key.line, "this is an identity, which reads recordings", remedy);
        return None;
    }
    match key.value.parse() {
        Ok(key) => Some(Located { line, value: NamedRecipient { name: name.value, key } }),
        Err(error) => {
            reader.complain(key.line, format!("{error}"), "write the public key that age-keygen or init printed");
            None
        }
    }
}

/// A spare that is the same key, or a key that the bastion holds, protects nothing.
fn distinct(reader: &Reader<'_>, readers: &[Located<NamedRecipient>], state: Option<&Located<Identity>>) {
    for (number, one) in readers.iter().enumerate() {
        if readers.iter().take(number).any(|other| other.value.key == one.value.key) {
            reader.complain(one.line, "this recipient's key is named twice", "make another identity: age-keygen");
        }
        if readers.iter().take(number).any(|other| other.value.name == one.value.name) {
            reader.complain(one.line, format!("two recipients are named {:?}", one.value.name), "name one differently");
        }
        if state.is_some_and(|state| state.value.recipient() == one.value.key) {
            let what = "this recipient is the node's own state key: the bastion could read back what it writes";
            reader.complain(one.line, what, "make another identity and keep it off the bastion: age-keygen");
        }
    }
}
