//! The words that make SQL worth a second look, and the names whose values are or are not secret. Does not know where a word
//! stands; see `statement`.

/// A word that means something to redaction. The rest of SQL's vocabulary is [`Key::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Other,
    Alter,
    By,
    Connection,
    Create,
    Do,
    Execute,
    For,
    Foreign,
    Identified,
    Import,
    Mapping,
    Options,
    Password,
    Prepare,
    /// ROLE or GROUP.
    Role,
    /// FUNCTION, PROCEDURE or ROUTINE.
    Routine,
    /// A function one of whose arguments is a key or a password.
    SecretCall,
    Server,
    Set,
    SetConfig,
    /// SESSION or LOCAL, which stand between SET and a name.
    SetScope,
    Subscription,
    To,
    Until,
    Update,
    User,
    With,
}

const KEYS: [(&str, Key); 42] = [
    ("alter", Key::Alter),
    ("by", Key::By),
    ("connection", Key::Connection),
    ("create", Key::Create),
    ("crypt", Key::SecretCall),
    ("decrypt", Key::SecretCall),
    ("decrypt_iv", Key::SecretCall),
    ("do", Key::Do),
    ("encrypt", Key::SecretCall),
    ("encrypt_iv", Key::SecretCall),
    ("execute", Key::Execute),
    ("for", Key::For),
    ("foreign", Key::Foreign),
    ("function", Key::Routine),
    ("group", Key::Role),
    ("hmac", Key::SecretCall),
    ("identified", Key::Identified),
    ("import", Key::Import),
    ("local", Key::SetScope),
    ("mapping", Key::Mapping),
    ("options", Key::Options),
    ("password", Key::Password),
    ("pgp_pub_decrypt", Key::SecretCall),
    ("pgp_pub_decrypt_bytea", Key::SecretCall),
    ("pgp_sym_decrypt", Key::SecretCall),
    ("pgp_sym_decrypt_bytea", Key::SecretCall),
    ("pgp_sym_encrypt", Key::SecretCall),
    ("pgp_sym_encrypt_bytea", Key::SecretCall),
    ("prepare", Key::Prepare),
    ("procedure", Key::Routine),
    ("role", Key::Role),
    ("routine", Key::Routine),
    ("server", Key::Server),
    ("session", Key::SetScope),
    ("set", Key::Set),
    ("set_config", Key::SetConfig),
    ("subscription", Key::Subscription),
    ("to", Key::To),
    ("until", Key::Until),
    ("update", Key::Update),
    ("user", Key::User),
    ("with", Key::With),
];

/// Where the keys lie that begin with a letter, and their lengths, a bit each.
// Evaluated by the compiler, which refuses what is out of bounds.
#[allow(clippy::indexing_slicing)]
const LETTERS: [(usize, usize, u32); 26] = {
    let mut letters = [(0, 0, 0); 26];
    let mut at = 0;
    while at < KEYS.len() {
        let name = KEYS[at].0.as_bytes();
        let (from, _, lengths) = letters[(name[0] - b'a') as usize];
        // They are in order of the alphabet.
        let from = if lengths == 0 { at } else { from };
        letters[(name[0] - b'a') as usize] = (from, at + 1, lengths | 1 << name.len());
        at += 1;
    }
    letters
};

impl Key {
    /// Returns what a word means, in any case.
    #[inline]
    pub(super) fn of(word: &[u8]) -> Self {
        let letter = word.first().map_or(0, |first| (first | 0x20).wrapping_sub(b'a'));
        let (from, to, lengths) = LETTERS.get(usize::from(letter)).copied().unwrap_or_default();
        // Nearly every word ends here.
        if word.len() >= 32 || lengths & (1 << word.len()) == 0 {
            return Self::Other;
        }
        let keys = KEYS.get(from..to).unwrap_or_default();
        keys.iter().find(|(name, _)| name.len() == word.len() && is(word, name)).map_or(Self::Other, |(_, key)| *key)
    }
}

/// Whether a word may be meant as PASSWORD: people misspell it, and the server's complaint comes after the secret.
pub(super) fn resembles_password(word: &[u8]) -> bool {
    let letter = |at: usize| word.get(at).map_or(0, u8::to_ascii_lowercase);
    letter(0) == b'p' && matches!(letter(1), b'a' | b's' | b'w') && matches!(letter(2), b'a' | b's' | b'w' | b'd')
}

/// Whether the value of a setting with that in its name is secret.
pub(in crate::pg) fn is_secret_setting(name: &[u8]) -> bool {
    // PostgreSQL's own, which speak of secrets and hold none.
    const HARMLESS: [&str; 6] = [
        "krb_server_keyfile",
        "md5_password_warnings",
        "min_password_length",
        "password_encryption",
        "passwordcheck",
        "ssl_key_file",
    ];
    const TELLING: [&str; 7] = ["password", "passwd", "passphrase", "secret", "token", "key", "credential"];
    is_conninfo(name) || !HARMLESS.iter().any(|other| is(name, other)) && contains_any(name, &TELLING)
}

/// Whether a setting's value is a connection string: `primary_conninfo`.
pub(super) fn is_conninfo(name: &[u8]) -> bool {
    contains_any(name, &["conninfo"])
}

/// Whether the value of an option of a foreign server, table, wrapper or user mapping stays. A list of what stays, for wrappers
/// invent their own words for passwords.
pub(super) fn is_open_option(name: &[u8]) -> bool {
    const OPEN: &[&str] = &[
        // libpq's, which postgres_fdw and dblink_fdw take.
        "application_name",
        "channel_binding",
        "client_encoding",
        "connect_timeout",
        "dbname",
        "fallback_application_name",
        "gssencmode",
        "host",
        "hostaddr",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "krbsrvname",
        "load_balance_hosts",
        "options",
        "port",
        "require_auth",
        "service",
        "sslcert",
        "sslcrl",
        "sslmode",
        "sslrootcert",
        "sslsni",
        "target_session_attrs",
        "tcp_user_timeout",
        "user",
        // postgres_fdw's own.
        "analyze_sampling",
        "async_capable",
        "batch_size",
        "column_name",
        "extensions",
        "fdw_startup_cost",
        "fdw_tuple_cost",
        "fetch_size",
        "import_collate",
        "import_default",
        "import_generated",
        "import_not_null",
        "keep_connections",
        "parallel_abort",
        "parallel_commit",
        "password_required",
        "schema_name",
        "table_name",
        "truncatable",
        "updatable",
        "use_remote_estimate",
        "use_scram_passthrough",
        // file_fdw's. A program runs on the target: who reads the record must see it.
        "delimiter",
        "encoding",
        "escape",
        "filename",
        "force_not_null",
        "force_null",
        "format",
        "header",
        "null",
        "program",
        "quote",
        // What other wrappers call a place, a person or a table.
        "address",
        "database",
        "db",
        "dbserver",
        "hostname",
        "query",
        "readonly",
        "schema",
        "server",
        "servername",
        "table",
        "tablename",
        "username",
    ];
    OPEN.iter().any(|open| is(name, open))
}

/// Whether a literal that begins with the word is a statement, so that `password=` in it compares or assigns a column.
pub(super) fn begins_sql(word: &[u8]) -> bool {
    const VERBS: [&str; 9] = ["alter", "begin", "create", "declare", "delete", "insert", "merge", "select", "update"];
    VERBS.iter().any(|verb| is(word, verb))
}

/// Whether a key of a connection string has a secret for its value. Its end decides: `sslpassword`, `PGPASSWORD`, `db_password`.
pub(super) fn is_secret_parameter(key: &[u8]) -> bool {
    const ENDS: [&str; 6] =
        ["password", "passwd", "pwd", "oauth_client_secret", "scram_client_key", "scram_server_key"];
    ENDS.iter()
        .any(|end| key.len().checked_sub(end.len()).and_then(|from| key.get(from..)).is_some_and(|key| is(key, end)))
}

fn is(word: &[u8], name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}

fn contains_any(name: &[u8], parts: &[&str]) -> bool {
    parts.iter().any(|part| name.windows(part.len()).any(|window| is(window, part)))
}

/// The first bytes of something that may be cut in two, or longer than anybody needs to know.
#[derive(Debug, Clone)]
pub(super) struct Held<const MAX: usize> {
    bytes: [u8; MAX],
    len: usize,
    whole: bool,
}

impl<const MAX: usize> Held<MAX> {
    pub(super) fn new() -> Self {
        Self { bytes: [0; MAX], len: 0, whole: true }
    }

    pub(super) fn clear(&mut self) {
        (self.len, self.whole) = (0, true);
    }

    pub(super) fn push(&mut self, more: &[u8]) {
        let room = self.bytes.get_mut(self.len..).unwrap_or_default();
        let len = more.len().min(room.len());
        if let (Some(room), Some(more)) = (room.get_mut(..len), more.get(..len)) {
            room.copy_from_slice(more);
        }
        self.len += len;
        self.whole &= len == more.len();
    }

    /// Takes more, and gives up the beginning where room is missing.
    pub(super) fn push_end(&mut self, more: &[u8]) {
        let more = more.get(more.len().saturating_sub(MAX)..).unwrap_or_default();
        let over = (self.len + more.len()).saturating_sub(MAX).min(self.len);
        self.bytes.copy_within(over..self.len, 0);
        self.len -= over;
        self.push(more);
    }

    pub(super) fn get(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Whether nothing was left out.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }
}
