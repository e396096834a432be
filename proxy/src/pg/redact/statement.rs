//! What a statement said so far, and which of its next literals and words are secret because of that. Gets words, punctuation
//! and literals from a `Scanner`; does not know bytes.

use super::words::{Key, is_conninfo, is_open_option, is_secret_setting, resembles_password};

/// What text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// SQL: a statement string, or the body of a function.
    Code,
    /// What stands in quotes: SQL perhaps, or what people write to each other. Only what no prose would say counts.
    Text,
}

/// A word as it was written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word<'w> {
    pub(super) bytes: &'w [u8],
    /// Whether these are all of them.
    pub(super) whole: bool,
    /// Whether it stood in double quotes, where no word is a keyword.
    pub(super) quoted: bool,
}

/// A statement, up to where reading stands.
#[derive(Debug)]
pub(super) struct Statement {
    reading: Reading,
    kind: Kind,
    /// The token before, if it was a word that means something.
    last: Last,
    setting: Setting,
    scope: Scope,
    bare: Bare,
    /// Whether there was a word.
    begun: bool,
    /// Whether all literals are secret from here on.
    all: bool,
    /// Whether a role's password was spoken of.
    password: bool,
    /// Whether a secret will be put in place of something: `format('… PASSWORD %L', 'x')`.
    template: bool,
    /// Whether it is, or has in it, an UPDATE, whose SET is about columns.
    updates: bool,
    /// Whether it makes a function or is DO: its literals are programs.
    routine: bool,
    prepares: bool,
    /// Whether there was anything secret in it.
    sensitive: bool,
    /// Whether a statement before it prepared something secret, which EXECUTE gives values to.
    prepared: bool,
    /// What a statement that is put together of literals is about so far.
    inside: Option<Inside>,
}

/// The statement that a literal began, for those that go on with it: `'ALTER ROLE ' || name || ' PASSWORD ''x'''`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inside {
    kind: Kind,
    password: bool,
    /// Whether `||` came behind it.
    joined: bool,
    /// How many parentheses opened behind it.
    depth: u8,
}

/// What it is about, as far as that makes literals secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Other,
    /// CREATE or ALTER ROLE, USER or GROUP.
    Role,
    /// CREATE or ALTER SERVER, USER MAPPING, FOREIGN …; IMPORT FOREIGN SCHEMA.
    Foreign,
    /// CREATE or ALTER SUBSCRIPTION.
    Subscription,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Key(Key),
    /// ROLE, USER or GROUP, whose name comes next; `user` where it may be USER MAPPING instead.
    RoleHead {
        user: bool,
    },
    /// An option's name, and whether its value stays.
    Option {
        open: bool,
    },
}

const OTHER: Last = Last::Key(Key::Other);

/// `SET name = value, …`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting {
    None,
    /// `named` behind a part of the name.
    Name {
        secret: bool,
        dotted: bool,
        named: bool,
    },
    /// `given` behind a value that no comma follows yet.
    Value {
        secret: bool,
        given: bool,
    },
}

/// Parentheses that make what stands in them secret; `depth` counts from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    None,
    Secret {
        depth: u32,
    },
    Options {
        depth: u32,
    },
    /// The first argument of `set_config`: `name` when a literal was read of it, and whether that is secret.
    Name {
        depth: u32,
        name: Option<bool>,
    },
}

/// A password without quotes, or in the wrong ones: the server's complaint comes after it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bare {
    None,
    /// The next word is one, unless it is NULL.
    Awaited,
    /// Reading stands in one.
    Here,
}

impl Statement {
    /// The first one of a text.
    pub(super) fn new(reading: Reading) -> Self {
        Self {
            reading,
            kind: Kind::Other,
            last: OTHER,
            setting: Setting::None,
            scope: Scope::None,
            bare: Bare::None,
            begun: false,
            all: false,
            password: false,
            template: false,
            updates: false,
            routine: false,
            prepares: false,
            sensitive: false,
            prepared: false,
            inside: None,
        }
    }

    /// The first one of a statement string; `prepared` where one before that prepared something secret.
    pub(super) fn behind(prepared: bool) -> Self {
        Self { prepared, ..Self::new(Reading::Code) }
    }

    /// Whether it, or one before it, prepared something secret.
    pub(super) fn has_prepared(&self) -> bool {
        self.prepared || self.prepares && self.sensitive
    }

    /// Whether there was anything secret in it.
    pub(super) fn is_sensitive(&self) -> bool {
        self.sensitive
    }

    /// Whether, and how, a password without quotes may stand here.
    pub(super) fn bare(&mut self) -> &mut Bare {
        &mut self.bare
    }

    /// Whether everything here is a setting's secret value, quoted or not.
    pub(super) fn is_in_value(&self) -> bool {
        match self.setting {
            Setting::Value { secret, given } => secret && !(given && self.value_ends()),
            _ => false,
        }
    }

    /// Whether an identifier in quotes would be secret here: somebody took the wrong quotes.
    pub(super) fn is_identifier_secret(&self) -> bool {
        self.bare != Bare::None || self.is_in_value() || self.kind == Kind::Subscription && self.literal_is_secret()
    }

    /// Whether a literal would be secret here.
    pub(super) fn literal_is_secret(&self) -> bool {
        if self.all {
            return true;
        }
        match self.scope {
            Scope::Secret { .. } => return true,
            Scope::Options { .. } => return self.last != Last::Option { open: true },
            Scope::Name { .. } => return false,
            Scope::None => {}
        }
        match self.setting {
            Setting::Value { secret, .. } => return secret,
            // Without `=`, which is the server's to complain of.
            Setting::Name { secret, .. } => return secret && self.reading == Reading::Code,
            Setting::None => {}
        }
        match self.kind {
            Kind::Role => self.last != Last::Key(Key::Until) && (self.password || self.reading == Reading::Code),
            Kind::Subscription => self.last == Last::Key(Key::Connection),
            Kind::Foreign | Kind::Other => false,
        }
    }

    /// Whether an apostrophe right behind a word opens a literal even in prose.
    pub(super) fn awaits_literal(&self) -> bool {
        self.is_awaiting() || matches!(self.last, Last::Key(Key::Until))
    }

    /// Whether it stops where a secret belongs.
    pub(super) fn is_awaiting(&self) -> bool {
        match self.scope {
            Scope::Secret { .. } => true,
            Scope::Options { .. } => self.last == Last::Option { open: false },
            Scope::Name { .. } => false,
            Scope::None => {
                self.last == Last::Key(Key::Password) && self.kind == Kind::Role
                    || self.last == Last::Key(Key::By) && self.all
                    || self.last == Last::Key(Key::Connection) && self.kind == Kind::Subscription
                    || matches!(self.setting, Setting::Value { secret: true, given: false })
            }
        }
    }

    /// Whether it has a secret filled in from elsewhere.
    pub(super) fn is_template(&self) -> bool {
        self.template
    }

    /// Whether a literal's text is a setting's name.
    pub(super) fn wants_name(&self) -> bool {
        matches!(self.scope, Scope::Name { .. })
    }

    /// Takes note of a literal that begins.
    pub(super) fn literal(&mut self) {
        self.sensitive |= self.literal_is_secret();
        if let Setting::Name { secret, .. } = self.setting {
            self.setting = if secret { Setting::Value { secret, given: true } } else { Setting::None };
        } else if let Setting::Value { given, .. } = &mut self.setting {
            *given = true;
        }
        self.begun = true;
        self.bare = Bare::None;
        self.last = OTHER;
    }

    /// Takes note of a literal's end, `name` being its text if that was wanted, and `open` whether a secret that it speaks of
    /// comes from elsewhere.
    pub(super) fn literal_end(&mut self, name: Option<&[u8]>, open: bool) {
        if let (Scope::Name { name: known, .. }, Some(name)) = (&mut self.scope, name) {
            *known = Some(known.unwrap_or(false) || is_secret_setting(name));
        }
        if open && !self.routine {
            self.all = true;
            self.sensitive = true;
        }
    }

    /// Returns what a literal that begins here goes on with.
    pub(super) fn inside(&self) -> Option<Inside> {
        self.inside.filter(|inside| inside.joined)
    }

    /// Goes on with what a literal before this one began.
    pub(super) fn go_on(&mut self, inside: Inside) {
        (self.kind, self.password) = (inside.kind, inside.password);
    }

    /// Takes note of what a literal was about that ends.
    pub(super) fn literal_held(&mut self, inner: &Self) {
        let depth = self.inside.map_or(0, |inside| inside.depth);
        if inner.kind != Kind::Other {
            self.inside = Some(Inside { kind: inner.kind, password: inner.password, joined: false, depth });
        } else if depth == 0 {
            self.inside = None;
        }
    }

    /// Takes note of what stands between a literal and one that may go on with it.
    fn between(&mut self, byte: u8) {
        let Some(inside) = &mut self.inside else { return };
        match byte {
            b'|' => inside.joined = true,
            b'(' => inside.depth = inside.depth.saturating_add(1),
            b')' => inside.depth = inside.depth.saturating_sub(1),
            b',' if inside.depth == 0 => self.inside = None,
            b',' => inside.joined = false,
            _ => {}
        }
    }

    /// Takes note of a secret that stood in a literal.
    pub(super) fn found(&mut self) {
        self.sensitive = true;
    }

    /// Takes note that a literal which is secret is filled in by `format`.
    pub(super) fn found_template(&mut self) {
        self.template = true;
    }

    /// Takes a word.
    #[inline]
    pub(super) fn word(&mut self, word: Word<'_>) {
        let key = if word.whole { Key::of(word.bytes) } else { Key::Other };
        // Most words of most statements.
        if key == Key::Other && self.begun && self.last == OTHER && self.is_idle() {
            return;
        }
        self.telling_word(word, key);
    }

    fn telling_word(&mut self, word: Word<'_>, mut key: Key) {
        if word.quoted && !matches!(key, Key::SecretCall | Key::SetConfig) {
            key = Key::Other;
        }
        let first = !std::mem::replace(&mut self.begun, true);
        let last = std::mem::replace(&mut self.last, Last::Key(key));
        if self.bare == Bare::Awaited || word.quoted {
            self.bare = Bare::None;
        }
        if self.setting != Setting::None && self.setting_word(word, key) {
            self.last = OTHER;
            return;
        }
        if matches!(self.scope, Scope::Options { .. }) {
            self.last = Last::Option { open: word.whole && is_open_option(word.bytes) };
            return;
        }
        match (last, key) {
            // Not that of a trigger, whose function has nothing to do with it.
            (Last::Key(Key::Execute), _) if self.prepared && key != Key::Routine => {
                self.all = true;
                self.sensitive = true;
            }
            (Last::RoleHead { user: true }, Key::Mapping)
            | (Last::Key(Key::Create | Key::Alter | Key::Import), Key::Server | Key::Foreign) => {
                self.kind = Kind::Foreign;
            }
            // Whatever it is called, `password` too.
            (Last::RoleHead { .. }, _) => self.last = OTHER,
            (Last::Key(Key::Create | Key::Alter), Key::Role | Key::User) => {
                self.kind = Kind::Role;
                self.last = Last::RoleHead { user: key == Key::User };
            }
            (Last::Key(Key::Create | Key::Alter), Key::Subscription) => self.kind = Kind::Subscription,
            (Last::Key(Key::Identified), Key::By | Key::With) if self.is_code() || self.kind == Kind::Role => {
                self.all = true;
                self.sensitive |= self.is_code();
                self.await_bare(key == Key::By && self.kind == Kind::Role);
            }
            (_, Key::Set) if !self.updates => {
                self.setting = Setting::Name { secret: false, dotted: false, named: false };
            }
            (_, Key::Update) => self.updates = true,
            (_, Key::Routine) => self.routine = true,
            (_, Key::Do) if first => self.routine = true,
            (_, Key::Prepare) if first => self.prepares = true,
            _ if self.kind == Kind::Role && !word.quoted && resembles_password(word.bytes) => {
                self.last = Last::Key(Key::Password);
                self.password = true;
                self.sensitive |= self.is_code();
                self.await_bare(true);
            }
            _ => {}
        }
    }

    /// Takes a byte that is neither of a word nor of a literal, comment or white space.
    pub(super) fn punctuation(&mut self, byte: u8) {
        // Most punctuation, too.
        if self.last == OTHER && byte != b';' && self.is_idle() {
            return;
        }
        self.between(byte);
        match byte {
            b';' => return self.end(),
            b'(' => self.open(),
            b')' => self.close(),
            b',' => {
                if let Scope::Name { depth: depth @ 1, name } = self.scope {
                    // A name that is computed or bound can be any.
                    self.scope = if name.unwrap_or(true) { Scope::Secret { depth } } else { Scope::None };
                    self.sensitive |= name.unwrap_or(true);
                }
                if let Setting::Value { given, .. } = &mut self.setting {
                    *given = false;
                }
            }
            // Of `format`, and of a statement with parameters.
            b'%' | b'$' => {
                self.template |= self.is_awaiting();
                if let (b'$', Scope::Name { name, .. }) = (byte, &mut self.scope) {
                    *name = Some(true);
                }
            }
            b'=' if self.last == Last::Key(Key::Password) => return,
            _ => {}
        }
        if let Setting::Name { secret, dotted, named } = &mut self.setting {
            match byte {
                b'.' => (*dotted, *named) = (true, false),
                b'=' => self.setting = Setting::Value { secret: *secret, given: false },
                _ => self.setting = Setting::None,
            }
            self.sensitive |= self.is_in_value();
        }
        self.last = OTHER;
    }

    /// Takes a number.
    pub(super) fn number(&mut self) {
        self.last = OTHER;
        if let Setting::Value { given, .. } = &mut self.setting {
            *given = true;
        }
    }

    /// Whether no word means anything but keywords.
    fn is_idle(&self) -> bool {
        self.setting == Setting::None
            && self.scope == Scope::None
            && self.bare == Bare::None
            && self.kind == Kind::Other
            && self.inside.is_none()
    }

    /// Ends it; the next begins.
    fn end(&mut self) {
        *self = Self { prepared: self.has_prepared(), ..Self::new(self.reading) };
    }

    /// Takes a word of `SET name = value`; returns whether it was one.
    fn setting_word(&mut self, word: Word<'_>, key: Key) -> bool {
        match &mut self.setting {
            Setting::Name { named: false, dotted: false, .. } if key == Key::SetScope => true,
            Setting::Name { secret, dotted, named: named @ false } => {
                *named = true;
                // Outside code, only what can be a setting: one of an extension has a dot in its name.
                let telling = self.reading == Reading::Code || *dotted || is_conninfo(word.bytes);
                *secret = telling && (*secret || !word.whole || is_secret_setting(word.bytes));
                true
            }
            Setting::Name { secret, .. } if key == Key::To => {
                self.setting = Setting::Value { secret: *secret, given: false };
                self.sensitive |= self.is_in_value();
                true
            }
            // `SET PASSWORD FOR bob = 'x'`, of another database.
            Setting::Name { secret: true, .. } if key == Key::For => true,
            Setting::Name { named: true, secret: true, .. } if self.reading == Reading::Code => true,
            Setting::Value { secret: true, given } => {
                let ends = *given;
                *given = true;
                if ends && self.value_ends() {
                    self.setting = Setting::None;
                    return false;
                }
                true
            }
            Setting::Value { secret: false, .. } => false,
            Setting::Name { .. } | Setting::None => {
                self.setting = Setting::None;
                false
            }
        }
    }

    /// Whether a word behind a setting's value belongs to something else: the other clauses of a function, or prose.
    fn value_ends(&self) -> bool {
        self.routine || self.reading == Reading::Text
    }

    fn open(&mut self) {
        let key = match self.last {
            Last::Key(key) => key,
            _ => Key::Other,
        };
        match (&mut self.scope, key) {
            (Scope::None | Scope::Name { .. }, Key::SecretCall) => {
                self.scope = Scope::Secret { depth: 1 };
                self.sensitive = true;
            }
            (Scope::None, Key::SetConfig) => self.scope = Scope::Name { depth: 1, name: None },
            (Scope::None, Key::Options) if self.kind == Kind::Foreign => self.scope = Scope::Options { depth: 1 },
            (Scope::Secret { depth } | Scope::Options { depth } | Scope::Name { depth, .. }, _) => {
                *depth = depth.saturating_add(1);
            }
            (Scope::None, _) => {}
        }
    }

    fn close(&mut self) {
        match &mut self.scope {
            Scope::Secret { depth } | Scope::Options { depth } | Scope::Name { depth, .. } if *depth > 1 => *depth -= 1,
            scope => *scope = Scope::None,
        }
    }

    fn await_bare(&mut self, awaited: bool) {
        if awaited && self.is_code() {
            self.bare = Bare::Awaited;
        }
    }

    fn is_code(&self) -> bool {
        self.reading == Reading::Code
    }
}
