//! SIGHUP: another configuration for new sessions, without touching running ones.
//!
//! A configuration that is not good, or that changes what only a start can change, is refused and the old one stays.
//! Knows no signal; [`crate::cli::serve`] calls it.

use std::path::Path;
use std::sync::Arc;

use crate::config::{Config, ConfigError};
use crate::policy::{Live, Policy};

/// Why the old configuration stays in force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The new one is not good.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The new one changes what only a start can change.
    #[error("{} changed, which takes a restart; restart the daemon, or put it back", .0.join(", "))]
    NeedsRestart(Vec<&'static str>),
}

/// Reads the file again and puts it in force for sessions that begin from now on.
///
/// # Errors
/// [`ReloadError`]; the policy in force is then untouched.
pub fn reload(live: &Live, file: &Path) -> Result<Arc<Config>, ReloadError> {
    let new = Config::load(file)?;
    let fixed = fixed(live.current().config(), &new);
    if !fixed.is_empty() {
        return Err(ReloadError::NeedsRestart(fixed));
    }
    let new = Arc::new(new);
    live.replace(Policy::new(Arc::clone(&new)));
    Ok(new)
}

/// What differs and is only read at a start.
fn fixed(old: &Config, new: &Config) -> Vec<&'static str> {
    let host_keys = |config: &Config| -> Vec<_> {
        config.host_keys.iter().map(|key| key.key.public_key().key_data().clone()).collect()
    };
    let changed = [
        ("node", old.node != new.node),
        ("node_key", old.node_key.public() != new.node_key.public()),
        ("state_dir", old.state_dir != new.state_dir),
        ("vault", old.vault != new.vault),
        ("durability", old.durability != new.durability),
        ("encryption", old.encryption != new.encryption),
        ("listen", old.listen != new.listen),
        ("log", old.log != new.log),
        ("host_keys", host_keys(old) != host_keys(new)),
        ("host_ca", old.host_ca.public().key_data() != new.host_ca.public().key_data()),
        ("limits.keepalive", old.limits.keepalive != new.limits.keepalive),
        ("limits.journal", old.limits.journal != new.limits.journal),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FRONT, Home, SAMPLE};

    #[test]
    fn a_good_file_replaces_the_policy_and_a_bad_one_does_not() {
        let home = Home::new();
        let file = home.write(SAMPLE);
        let live = Live::new(Policy::new(Arc::new(Config::load(&file).unwrap_or_else(|error| panic!("{error}")))));
        let first = live.current().config().hash;

        home.write(&SAMPLE.replace("attempts = 6", "attempts = 3"));
        reload(&live, &file).unwrap();
        let second = live.current().config().hash;
        assert_ne!(first, second);
        assert_eq!(live.current().config().limits.attempts, 3);

        home.write(&SAMPLE.replace("attempts = 6", "attempts = 0"));
        assert!(matches!(reload(&live, &file), Err(ReloadError::Config(_))));
        let other = SAMPLE.replace("2222", "2223").replace("strict", "causal").replace("\"causal\"", "\"strict\"");
        home.write(&format!("{other}\n[log]\nformat = \"json\"\n"));
        let error = reload(&live, &file).err().unwrap();
        assert_eq!(
            error.to_string(),
            "durability, listen, log changed, which takes a restart; restart the daemon, or put it back"
        );
        assert_eq!(live.current().config().hash, second);
        // Who is told of alerts is asked for each.
        home.write(&format!("{SAMPLE}\n[alerts]\ncommand = [\"/bin/true\"]\n"));
        assert!(reload(&live, &file).unwrap().alerts.is_some());
    }

    #[test]
    fn a_new_certificate_is_taken_and_a_revocation_list_that_is_none_keeps_the_old_configuration() {
        let home = Home::new();
        let live = Live::new(Policy::new(Arc::new(home.with_front(&["db1"]))));
        let file = home.path("casemate.toml");
        let end_point = || live.current().config().postgres.as_ref().unwrap().tls.end_point().to_vec();
        let first = end_point();
        home.with_front(&["db1"]);
        reload(&live, &file).unwrap_or_else(|error| panic!("{error}"));
        let second = end_point();
        assert_ne!(first, second);

        // Truncated in the middle, and one that is PEM of something else.
        let list = "-----BEGIN X509 CRL-----\nMIIBYDCB\n-----END X509 CRL-----\n".to_owned();
        let clients = "client_ca = \"keys/pg_ca.crt\"\nrevoked = [\"keys/list.pem\"]\n";
        home.with_front(&["db1"]);
        home.write(&format!("{SAMPLE}{FRONT}{clients}"));
        for text in [list, String::new(), "-----BEGIN X509 CRL-----\n!!\n-----END X509 CRL-----\n".to_owned()] {
            std::fs::write(home.path("keys/list.pem"), text).unwrap();
            assert!(matches!(reload(&live, &file), Err(ReloadError::Config(_))));
            assert_eq!(end_point(), second);
        }
        // A front door that opens is a listener more.
        home.write(
            &SAMPLE
                .replace("[listen]", "[listen]\npostgres = [\"127.0.0.1:6432\"]")
                .replace("[[person]]\nname = \"alice\"", &format!("{FRONT}[[person]]\nname = \"alice\"")),
        );
        assert!(matches!(reload(&live, &file), Err(ReloadError::NeedsRestart(what)) if what == ["listen"]));
    }
}
