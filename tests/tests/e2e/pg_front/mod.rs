//! The PostgreSQL front door: who is let in, what becomes of a session that is ended, what strangers get, and what is in the
//! record of all that.

mod adding;
mod cancel;
mod ended;
mod hostile;
mod login;
mod record;
mod refused;
mod script;
mod tunnel;
mod unread;

use std::time::Duration;

use casemate_tests::pg_client::{Access, PgRoute};
use casemate_tests::process::{Done, nothing, run};
use casemate_tests::raw_pg::{Binding, RawPg, VERSION_3_0};
use casemate_tests::rig::{Lab, Options, PORTAL};

use crate::pg_clients::target;

const PATIENCE: Duration = Duration::from_secs(30);

/// A rig with a database, and more in its configuration.
fn lab_with(options: Options) -> Lab {
    Lab::with(&Options { postgres: Some(target("")), ..options }).unwrap()
}

fn lab() -> Lab {
    lab_with(Options::default())
}

/// Types a verb at the bastion.
fn ask(lab: &Lab, verb: &str) -> Done {
    run(lab.client.program("ssh").arg(PORTAL).arg(verb), nothing(), PATIENCE).unwrap()
}

/// Returns a new token of the rig's person.
fn token(lab: &Lab) -> String {
    let done = ask(lab, "token orders");
    assert_eq!(done.code(), 0, "{}", done.err());
    done.out().trim_end().to_owned()
}

fn through(lab: &Lab) -> Access {
    lab.pg_access(PgRoute::Through).unwrap()
}

/// Logs in with these parameters and returns what the bastion said to it, its SQLSTATE first; none where it let the client in.
fn refusal(access: &Access, more: &[(&str, &str)]) -> Option<String> {
    let mut client = RawPg::connect(access).unwrap();
    client.start(access, VERSION_3_0, more).unwrap();
    let error = client.authenticate(access, Binding::Prefer).err()?.to_string();
    let fields: Vec<&str> = error.split("\\0").collect();
    let field = |code: char| fields.iter().find_map(|field| field.strip_prefix(code)).unwrap_or_default();
    Some(format!("{} {}", field('C'), field('M')))
}
