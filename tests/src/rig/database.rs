//! The rig's database: how it is started, what the bastion is told of it, and what clients need to get there.

use std::path::Path;
use std::process::Command;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use toml::Value;

use super::{DATABASE, Options, PERSON, PORTAL, Rig};
use crate::bastion::{list, table};
use crate::bins;
use crate::pg_client::{Access, PgRoute};
use crate::postgres::{self, Postgres, SUPERUSER};
use crate::process::{nothing, run};
use crate::raw_pg::{Binding, RawPg, VERSION_3_0};

impl Rig {
    /// Returns the database target.
    ///
    /// # Errors
    /// When the rig was started without one.
    pub fn postgres(&self) -> Result<&Postgres> {
        self.postgres.as_ref().context("this rig has no PostgreSQL")
    }

    /// Returns what a database client needs to go along a route. The token for the way through is asked for once.
    ///
    /// # Errors
    /// When the rig was started without a database target, or the bastion gives no token.
    pub fn pg_access(&self, route: PgRoute) -> Result<Access> {
        let straight = self.postgres()?.access(DATABASE);
        if route == PgRoute::Straight {
            return Ok(straight);
        }
        let mut held = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        let password = match &*held {
            Some((giver, token)) if *giver == self.bastion.process => token.clone(),
            _ => self.pg_token()?,
        };
        *held = Some((self.bastion.process, password.clone()));
        let ca = self.bastion.dir.join("keys/pg_ca.crt");
        Ok(Access {
            port: self.postgres_port,
            user: format!("{PERSON}+{DATABASE}"),
            password,
            ca: Some(ca),
            ..straight
        })
    }

    /// The same by a Unix socket without TLS: the server's own, or the front door's.
    ///
    /// # Errors
    /// As [`Rig::pg_access`], and when the rig's directory has too long a name for sockets.
    pub fn pg_access_by_socket(&self, route: PgRoute) -> Result<Access> {
        let straight = self.postgres()?.access_by_socket(DATABASE).context("no socket: the path is too long")?;
        Ok(match route {
            PgRoute::Straight => straight,
            PgRoute::Through => {
                let host = self.bastion.dir.display().to_string();
                Access { host, ca: None, ..self.pg_access(route)? }
            }
        })
    }

    /// Asks the bastion for a new token.
    ///
    /// # Errors
    /// When it gives none.
    pub fn pg_token(&self) -> Result<String> {
        let mut ssh = self.client.program("ssh");
        let done = run(ssh.args([PORTAL, "token", DATABASE]), nothing(), Duration::from_secs(30))?.ok()?;
        Ok(done.out().trim_end().to_owned())
    }

    /// Lets a token be used, so that it outlives the few minutes in which it has to be: a login for a role that nobody has ends
    /// behind the proof, and leaves no session in the vault.
    fn use_token(&self, access: &Access) -> Result<()> {
        let nobody = Access { user: format!("{}+nobody", access.user), ..access.clone() };
        let mut client = RawPg::connect(&nobody)?;
        client.start(&nobody, VERSION_3_0, &[])?;
        let refused = client.authenticate(&nobody, Binding::Prefer).err().map(|error| error.to_string());
        ensure!(refused.as_ref().is_some_and(|text| text.contains("C28000")), "a token was not used: {refused:?}");
        Ok(())
    }
}

/// The lines that tell how to connect to the database target through the bastion.
const PG: [&str; 6] = ["PG_HOST", "PG_PORT", "PG_USER", "PG_PASSWORD", "PG_DATABASE", "PG_SSLROOTCERT"];

/// The lines that tell how to connect to the database target straight.
const TARGET_PG: [&str; 6] = [
    "TARGET_PG_HOST",
    "TARGET_PG_PORT",
    "TARGET_PG_USER",
    "TARGET_PG_PASSWORD",
    "TARGET_PG_DATABASE",
    "TARGET_PG_SSLROOTCERT",
];

/// Returns the lines of a rig for those who connect to its database.
pub(super) fn lines(rig: &Rig, postgres: &Postgres) -> Result<Vec<(&'static str, String)>> {
    let through = rig.pg_access(PgRoute::Through)?;
    rig.use_token(&through)?;
    let (through, straight) = (values(&through), values(&postgres.access(DATABASE)));
    Ok(PG.into_iter().zip(through).chain(TARGET_PG.into_iter().zip(straight)).collect())
}

/// The values of such lines.
fn values(access: &Access) -> [String; 6] {
    [
        access.host.clone(),
        access.port.to_string(),
        access.user.clone(),
        access.password.clone(),
        access.database.clone(),
        access.ca.as_ref().map(|ca| ca.display().to_string()).unwrap_or_default(),
    ]
}

/// Starts the database target with its database.
pub(super) fn start(dir: &Path, port: u16, options: &postgres::Options) -> Result<Postgres> {
    let options = postgres::Options { port: Some(options.port.unwrap_or(port)), ..options.clone() };
    let postgres = Postgres::start(&dir.join("postgres"), &options)?;
    let known = postgres.sql("postgres", &format!("select datname from pg_database where datname = '{DATABASE}'"));
    let made = known.and_then(|known| match known.as_str() {
        "" => postgres.sql("postgres", &format!("create database {DATABASE}")),
        _ => Ok(known),
    });
    match made {
        Ok(_) => Ok(postgres),
        Err(error) => {
            postgres.stop();
            Err(error)
        }
    }
}

/// Where the target's password lies, encrypted to the node; beside the configuration.
const SECRET: &str = "keys/orders.age";

/// Lets the bastion in `at` keep the password of the database target, unless it does.
pub(super) fn keep_secret(at: &Path, password: &str) -> Result<()> {
    if at.join(SECRET).exists() {
        return Ok(());
    }
    let mut secret = Command::new(bins::path("casemate")?);
    secret.arg("secret").arg("--config").arg(at.join("casemate.toml")).arg(at.join(SECRET));
    run(&mut secret, std::io::Cursor::new(format!("{password}\n")), Duration::from_secs(30))?.ok()?;
    Ok(())
}

/// Returns the database target and who may go there, in the words of the configuration file.
pub(super) fn entries(postgres: &Postgres, options: &Options) -> [(&'static str, Value); 2] {
    let role = table([("login", Value::from(SUPERUSER)), ("password_file", Value::from(SECRET))]);
    let mut target = vec![
        ("name", Value::from(DATABASE)),
        ("kind", Value::from("pg")),
        ("address", Value::from(format!("127.0.0.1:{}", postgres.port))),
        ("database", Value::from(DATABASE)),
        ("databases", list(["*"])),
        ("tls", Value::from("verify-full")),
        ("ca_file", Value::from(postgres.ca().display().to_string())),
        ("role", Value::Array(vec![role])),
    ];
    target.extend(options.results.as_deref().map(|results| ("results", Value::from(results))));
    target.extend(options.tunnel_token.map(|asks| ("tunnel_token", Value::from(asks))));
    let access = table([
        ("person", Value::from(PERSON)),
        ("targets", list([DATABASE])),
        ("roles", list([SUPERUSER])),
        ("reason", Value::from("the rig")),
    ]);
    let target = target.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    [("target", Value::Table(target)), ("access", access)]
}
