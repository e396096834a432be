//! What a configuration says about PostgreSQL: the front door's certificate, targets, and the secrets that open them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use casemate_certs::fields::{Fields, Located};
use casemate_recorder::transcript::wrap::Identity;
use zeroize::Zeroizing;

use super::keys::Objection;
use super::parse::Parser;
use super::{Listen, Role, TargetAuth};
use crate::pg::auth::target::Password;
use crate::pg::tls::{ClientAuthority, MinVersion, Mode, ServerTls, TargetTls, day};

/// The longest name of a database (pg_config_manual.h, `NAMEDATALEN`).
const DATABASE_LEN_MAX: usize = 63;

/// Databases that a target may list.
const DATABASES_MAX: usize = 1_000;

/// A password file is an age file of a few hundred bytes; PostgreSQL takes passwords of 1 KiB.
const SECRET_FILE_LEN_MAX: usize = 16 * 1024;

/// A few certificates are a few kilobytes.
const AUTHORITY_LEN_MAX: usize = 64 * 1024;

/// What is spoken at a PostgreSQL target, and what is recorded of it.
#[derive(Debug, Clone)]
pub struct PgService {
    /// The database of those who name none.
    pub database: Option<String>,
    /// Databases that may be named; `*` stands for any.
    pub databases: Vec<String>,
    /// How the way there is protected.
    pub tls: PgTls,
    /// What is recorded of rows.
    pub results: Results,
    /// Whether those who come through a tunnel prove a token as well.
    pub tunnel_token: bool,
}

impl PgService {
    /// Returns the database to ask for; `None` where the one that was named may not be reached, or none was named and there is
    /// no usual one.
    pub fn database(&self, named: Option<&[u8]>) -> Option<Vec<u8>> {
        match (named, &self.database) {
            (None | Some(b""), usual) => usual.as_ref().map(|usual| usual.clone().into_bytes()),
            (Some(named), usual) => {
                let is = |known: &String| known == "*" || known.as_bytes() == named;
                (usual.as_ref().is_some_and(is) || self.databases.iter().any(is)).then(|| named.to_vec())
            }
        }
    }
}

/// How the PostgreSQL front door shows itself.
#[derive(Clone)]
pub struct PgFront {
    /// The file of its certificate.
    pub certificate: PathBuf,
    /// The file of the certificate's key.
    pub key: PathBuf,
    /// Its certificate and key, and whose client certificates log in the person that their common name names.
    pub tls: Arc<ServerTls>,
    /// The certificates that clients may believe, in PEM, for those who ask: `sslrootcert`.
    pub authority: Option<String>,
}

/// How long before its end somebody is told of a certificate: time for an authority that asks people.
const TOLD_BEFORE: i64 = 30 * DAY;

/// A day, in seconds.
const DAY: i64 = 24 * 3600;

impl PgFront {
    /// Returns what to tell of a certificate that ends within 30 days or has ended; `now` in seconds since 1970.
    pub fn ends_soon(&self, now: i64) -> Option<String> {
        let end = self.tls.not_after();
        const TWO_DAYS: i64 = 2 * DAY;
        let left = end.saturating_sub(now);
        let when = match left {
            TOLD_BEFORE.. => return None,
            TWO_DAYS.. => format!("ends on {}, in {} days", day(end), left / DAY),
            0.. => format!("ends on {}, within 48 hours", day(end)),
            _ => format!("ended on {}, and clients refuse it", day(end)),
        };
        Some(format!("the certificate {} {when}; for the next one: casemate certificate", self.certificate.display()))
    }
}

/// How the way to a PostgreSQL target is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PgTls {
    /// TLS, and the certificate must be for the target's name.
    VerifyFull {
        /// Whose certificates are believed.
        ca_file: PathBuf,
    },
    /// None: on this machine alone.
    Off,
}

/// What is recorded of result rows and of the rows that COPY moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Results {
    /// How many, and a running BLAKE3 of all of them.
    Count,
    /// As `Count`, and the BLAKE3 of each statement's.
    Hash,
    /// The first of each statement, and as `Count` what follows.
    Rows(u32),
    /// All of them.
    #[default]
    Full,
}

impl Results {
    /// What may be written.
    pub const FORMS: &str = "write \"full\", \"rows:N\", \"hash\" or \"count\"";

    /// Reads its name.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "count" => Some(Self::Count),
            "hash" => Some(Self::Hash),
            "full" => Some(Self::Full),
            _ => {
                let count = text.strip_prefix("rows:")?;
                let plain = !count.is_empty() && count.bytes().all(|c| c.is_ascii_digit());
                plain.then(|| count.parse().ok()).flatten().map(Self::Rows)
            }
        }
    }

    /// Returns its name.
    pub fn name(self) -> String {
        match self {
            Self::Count => "count".to_owned(),
            Self::Hash => "hash".to_owned(),
            Self::Rows(count) => format!("rows:{count}"),
            Self::Full => "full".to_owned(),
        }
    }
}

/// How the bastion proves itself at a PostgreSQL target. Without a password and without a certificate of its own it does not: the
/// target trusts its address.
#[derive(Clone)]
pub struct PgAuth {
    /// TLS with the target, with the bastion's own certificate where it has one; none where TLS is off.
    pub tls: Option<Arc<TargetTls>>,
    /// The password.
    pub password: Option<Password>,
}

/// Opens a password file: an age file that is encrypted to the node's state key.
pub(super) fn load_password(file: &Path, state: Option<&Identity>) -> Result<Password, Objection> {
    let shown = file.display();
    let objection = |what: String, remedy: &str| Objection { what, remedy: remedy.to_owned() };
    let Some(state) = state else {
        return Err(objection(format!("{shown} cannot be opened without state_key"), "name the node's state_key"));
    };
    let again = "write it again with `casemate secret`";
    let bytes = std::fs::read(file).map_err(|error| {
        objection(format!("cannot read {shown}: {error}"), "check the path; `casemate secret` makes one")
    })?;
    if bytes.len() > SECRET_FILE_LEN_MAX {
        return Err(objection(format!("{shown} is over {SECRET_FILE_LEN_MAX} bytes"), again));
    }
    let plain =
        state.open(&bytes).map_err(|error| objection(format!("{shown} is no secret of this node: {error}"), again))?;
    let text = std::str::from_utf8(&plain).ok().map(|text| text.trim_end_matches(['\r', '\n']));
    match text.filter(|text| !text.is_empty() && !text.contains(['\0', '\n'])) {
        Some(text) => Ok(Password::new(Zeroizing::new(text.to_owned()))),
        None => Err(objection(format!("{shown} holds no password: not one line of text"), again)),
    }
}

/// Reads the file that clients are to believe. It is public, and shown to whoever logs in.
fn load_authority(file: &Path) -> Result<String, Objection> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| Objection {
        what: format!("cannot read {shown}: {error}"),
        remedy: "name the PEM file of the authority that certified the front door".to_owned(),
    })?;
    if text.contains("PRIVATE KEY") || !text.contains("BEGIN CERTIFICATE") || text.len() > AUTHORITY_LEN_MAX {
        let what = format!("{shown} is no file of certificates alone, of up to {AUTHORITY_LEN_MAX} bytes");
        return Err(Objection { what, remedy: "name the PEM file without any key".to_owned() });
    }
    Ok(text)
}

impl Parser<'_, '_> {
    /// Reads what a `[[target]]` of kind `pg` says beside its name and address. `host` is where it leads.
    pub(super) fn pg_service(&self, table: &mut Fields<'_, '_>, host: Option<&str>) -> Option<PgService> {
        let database = table.text("database").filter(|name| self.database("target.database", name));
        let databases: Vec<String> = table
            .texts("databases")
            .into_iter()
            .take(DATABASES_MAX + 1)
            .filter(|name| name.value == "*" || self.database("target.databases", name))
            .map(|name| name.value)
            .collect();
        if databases.len() > DATABASES_MAX {
            table.complain(format!("databases has over {DATABASES_MAX} items"), "write \"*\" to allow all");
        }
        if database.is_none() && databases.is_empty() {
            table.missing("database", "write database = \"NAME\", or databases = [\"*\"] to let clients name any");
        }
        let tls = self.pg_tls(table, host);
        let results = match table.text("results") {
            None => Results::default(),
            Some(text) => Results::parse(&text.value).unwrap_or_else(|| {
                self.reader.complain(text.line, format!("results {:?} is not known", text.value), Results::FORMS);
                Results::default()
            }),
        };
        let tunnel_token = table.boolean("tunnel_token").is_none_or(|asked| asked.value);
        Some(PgService { database: database.map(|name| name.value), databases, tls: tls?, results, tunnel_token })
    }

    fn pg_tls(&self, table: &mut Fields<'_, '_>, host: Option<&str>) -> Option<PgTls> {
        let mode = table.text("tls");
        let ca_file = self.path(table.text("ca_file"));
        let word = mode.as_ref().map_or("verify-full", |mode| mode.value.as_str());
        // Of an address that is none, that is complained about and not this.
        match Mode::parse(word, host.unwrap_or("localhost")) {
            Ok(Mode::VerifyFull) => {
                if ca_file.is_none() {
                    table.missing("ca_file", "name a PEM file with the authority that certified the target");
                }
                Some(PgTls::VerifyFull { ca_file: ca_file?.value })
            }
            Ok(Mode::Off) => Some(PgTls::Off),
            Err(objection) => {
                table.complain(objection.what, objection.remedy);
                None
            }
        }
    }

    /// Reads a role of a PostgreSQL target.
    pub(super) fn pg_role(
        &self,
        mut table: Fields<'_, '_>,
        service: Option<&PgService>,
        host: &str,
        state: Option<&Identity>,
    ) -> Option<Role> {
        let login = table.required_text("login", "write the role's name in the database");
        let login = login.filter(|login| self.name("target.role.login", login));
        let password_named = table.has("password_file");
        let password = self
            .path(table.text("password_file"))
            .and_then(|path| self.agreed(path.line, load_password(&path.value, state)));
        let certificate = self.path(table.text("cert_file"));
        let key = self.path(table.text("key_file"));
        if certificate.is_some() != key.is_some() {
            table.complain(
                "a client certificate without its key, or the key alone",
                "write both cert_file and key_file",
            );
        }
        let own = certificate.as_ref().zip(key.as_ref());
        if own.is_some() && service.is_some_and(|service| service.tls == PgTls::Off) {
            table.complain("a client certificate where tls is off", "write tls = \"verify-full\" in the target");
        }
        let line = table.line();
        table.finish();
        let tls = match &service?.tls {
            PgTls::Off => None,
            PgTls::VerifyFull { ca_file } => {
                let own = own.map(|(certificate, key)| (certificate.value.as_path(), key.value.as_path()));
                Some(Arc::new(self.agreed(line, TargetTls::load(host, ca_file, own))?))
            }
        };
        // What was named and could not be read was complained about.
        (password.is_some() == password_named).then_some(())?;
        Some(Role { login: login?.value, auth: TargetAuth::Pg(PgAuth { tls, password }) })
    }

    /// Reads `[postgres]`, which has to be there where the front door listens.
    pub(super) fn pg_front(&self, root: &mut Fields<'_, '_>, listen: Option<&Listen>) -> Option<PgFront> {
        let Some(mut table) = root.table("postgres") else {
            if listen.is_some_and(|listen| !listen.postgres.is_empty()) {
                root.missing("postgres", "write [postgres] with certificate and key; `casemate init` makes both");
            }
            return None;
        };
        let certificate = self.path(table.required_text("certificate", "name the PEM file of the certificate"));
        let key = self.path(table.required_text("key", "name the PEM file of its key"));
        let client_ca = self.path(table.text("client_ca")).map(|path| path.value);
        let revoked = table.texts("revoked").into_iter().filter_map(|path| self.path(Some(path)));
        let revoked: Vec<PathBuf> = revoked.map(|path| path.value).collect();
        let min = match table.text("tls_min") {
            None => MinVersion::Tls13,
            Some(version) => match version.value.as_str() {
                "1.2" => MinVersion::Tls12,
                "1.3" => MinVersion::Tls13,
                other => {
                    table.complain(format!("tls_min {other:?} is not known"), "write \"1.3\" or \"1.2\"");
                    MinVersion::Tls13
                }
            },
        };
        let authority = self.path(table.text("authority")).and_then(|path| {
            let (line, file) = (path.line, path.value);
            self.agreed(line, load_authority(&file))
        });
        if client_ca.is_none() && !revoked.is_empty() {
            table.complain("revoked without client_ca", "name the authority of the certificates in client_ca");
        }
        table.finish();
        let (certificate, key) = (certificate?, key?.value);
        let clients = client_ca.as_ref().map(|ca_file| ClientAuthority { ca_file, crl_files: &revoked });
        let tls = self.agreed(certificate.line, ServerTls::load(&certificate.value, &key, clients, min))?;
        Some(PgFront { certificate: certificate.value, key, tls: Arc::new(tls), authority })
    }

    fn database(&self, field: &str, name: &Located<String>) -> bool {
        let fits =
            !name.value.is_empty() && name.value.len() <= DATABASE_LEN_MAX && !name.value.contains(char::is_control);
        if !fits {
            let what = format!("{field} is no name of a database: {:?}", name.value);
            self.reader.complain(name.line, what, format!("write one of up to {DATABASE_LEN_MAX} bytes"));
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_of_results_keeps_its_name() {
        for name in ["count", "hash", "full", "rows:0", "rows:25"] {
            assert_eq!(Results::parse(name).map(Results::name).as_deref(), Some(name));
        }
        for name in ["", "rows", "rows:", "rows:-1", "rows:+1", "rows:99999999999", "Full"] {
            assert_eq!(Results::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_certificate_is_told_of_thirty_days_before_its_end() {
        let home = crate::testing::Home::new();
        let front = home.with_front(&["db1"]).postgres.unwrap();
        let end = front.tls.not_after();
        let told = |left: i64| front.ends_soon(end - left).unwrap_or_default();
        assert_eq!(told(30 * DAY), "");
        assert_eq!(told(i64::MAX), "", "a clock that is far off");
        for (left, words) in
            [(30 * DAY - 1, "in 29 days"), (2 * DAY, "in 2 days"), (2 * DAY - 1, "within 48 hours"), (-1, "ended on")]
        {
            assert!(told(left).contains(words), "{}", told(left));
        }
        assert!(told(0).contains(&day(end)) && told(0).contains("pg_server.crt"), "{}", told(0));
    }

    #[test]
    fn a_database_is_reached_where_the_target_lists_it() {
        let service = |database: Option<&str>, databases: &[&str]| PgService {
            database: database.map(str::to_owned),
            databases: databases.iter().map(|name| (*name).to_owned()).collect(),
            tls: PgTls::Off,
            results: Results::Full,
            tunnel_token: true,
        };
        let one = service(Some("orders"), &[]);
        assert_eq!(one.database(None).as_deref(), Some(&b"orders"[..]));
        assert_eq!(one.database(Some(b"orders")).as_deref(), Some(&b"orders"[..]));
        assert_eq!(one.database(Some(b"postgres")), None);
        assert_eq!(service(None, &["a"]).database(None), None);
        assert_eq!(service(None, &["*"]).database(Some(b"any")).as_deref(), Some(&b"any"[..]));
    }
}
