//! `[vault]`: where finished recordings rest, here and elsewhere.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use casemate_certs::fields::{Fields, Located};
use casemate_certs::keys::read_private;
use casemate_recorder::Proven;
use casemate_recorder::vault::s3::{Checksum, LockMode, ServerSideEncryption, Settings};

use super::keys::Objection;
use super::parse::Parser;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Vaults elsewhere; each has a thread and a few objects in memory.
const S3_MAX: usize = 8;

/// Bytes of a vault's name, and of a bucket's (by S3's rules).
const NAME_LEN_MAX: usize = 63;

/// The vault's place and rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultConfig {
    /// The vault's directory.
    pub dir: PathBuf,
    /// Whether to set the immutable attribute on finished files where the system allows it.
    pub immutable: bool,
    /// Whether a catalogue of the sessions is kept beside them, in the clear.
    pub catalogue: bool,
    /// How long a recording must be kept, fixed in its OPEN leaf.
    pub retain: Duration,
    /// Buckets to which everything goes on.
    pub s3: Vec<Settings>,
    /// How many of them must have a recording before the copy here may go, where space runs out.
    pub proven: Proven,
}

impl VaultConfig {
    /// How old a live segment may become: one that is to be elsewhere soon is finished soon.
    pub fn segment_age(&self) -> Duration {
        if self.s3.is_empty() { Duration::from_secs(15 * 60) } else { Duration::from_secs(60) }
    }
}

impl Parser<'_, '_> {
    pub(super) fn vault(&self, root: &mut Fields<'_, '_>) -> Option<(Located<PathBuf>, VaultConfig)> {
        let Some(mut table) = root.table("vault") else {
            root.missing("vault", "write [vault] and dir = \"vault\"");
            return None;
        };
        let dir = self.path(table.required_text("dir", "name a directory for finished recordings"));
        let immutable = table.boolean("immutable").is_some_and(|immutable| immutable.value);
        let catalogue = table.boolean("catalogue").is_none_or(|catalogue| catalogue.value);
        let retain = table.duration("retain", DAY..=DAY * 36_500).map_or(DAY * 400, |retain| retain.value);
        let proven = table.text("proven").map(|proven| match proven.value.as_str() {
            "all" => Proven::All,
            "any" => Proven::Any,
            other => {
                let what = format!("vault.proven {other:?} is not known");
                self.reader.complain(proven.line, what, "write \"all\" or \"any\" of the [[vault.s3]]");
                Proven::default()
            }
        });
        let mut s3: Vec<Settings> = Vec::new();
        let mut whole = true;
        for bucket in table.tables("s3") {
            let line = bucket.line();
            let Some(settings) = self.bucket(bucket) else {
                whole = false;
                continue;
            };
            if s3.iter().any(|known| known.name == settings.name) {
                let what = format!("two vaults are called {:?}", settings.name);
                self.reader.complain(line, what, "give each a name of its own: the node log names them");
            }
            s3.push(settings);
            if s3.len() > S3_MAX {
                self.reader.complain(line, format!("more than {S3_MAX} vaults"), "remove some");
            }
        }
        table.finish();
        let dir = dir?;
        let proven = proven.unwrap_or_default();
        let config = VaultConfig { dir: dir.value.clone(), immutable, catalogue, retain, s3, proven };
        whole.then_some((dir, config))
    }

    /// Reads one `[[vault.s3]]`.
    fn bucket(&self, mut table: Fields<'_, '_>) -> Option<Settings> {
        let name =
            table.required_text("name", "name it, such as name = \"basel\": the node log says what is stored there");
        let name = name.filter(|name| self.fits(name, "name", is_component, "lower-case letters, digits, _ and -"));
        let bucket = table.required_text("bucket", "name the bucket");
        let bucket =
            bucket.filter(|bucket| self.fits(bucket, "bucket", is_bucket, "lower-case letters, digits, . and -"));
        let endpoint = table.text("endpoint").map(|url| self.endpoint(url));
        let prefix = table.text("prefix").and_then(|prefix| self.prefix(&prefix));
        let mode = table.text("mode").map(|mode| {
            mode.value.parse::<LockMode>().unwrap_or_else(|()| {
                let what = format!("vault.s3.mode {:?} is not known", mode.value);
                self.reader.complain(mode.line, what, "write \"compliance\", or \"governance\" to try things out");
                LockMode::default()
            })
        });
        let checksum = table.text("checksum").map(|checksum| match checksum.value.as_str() {
            "sha256" => Checksum::Sha256,
            "crc32c" => Checksum::Crc32c,
            "md5" => Checksum::Md5,
            other => {
                let what = format!("vault.s3.checksum {other:?} is not known");
                let remedy = "write \"sha256\", \"crc32c\" or \"md5\": the one that the server checks";
                self.reader.complain(checksum.line, what, remedy);
                Checksum::default()
            }
        });
        let kms_key = table.text("kms_key");
        let encryption = table.text("encryption").and_then(|encryption| match encryption.value.as_str() {
            "AES256" => Some(ServerSideEncryption::Aes256),
            "aws:kms" => Some(ServerSideEncryption::Kms(kms_key.as_ref().map(|key| key.value.clone()))),
            other => {
                let what = format!("vault.s3.encryption {other:?} is not known");
                self.reader.complain(
                    encryption.line,
                    what,
                    "write \"AES256\" or \"aws:kms\", or leave it to the bucket",
                );
                None
            }
        });
        if let Some(key) = kms_key.filter(|_| !matches!(encryption, Some(ServerSideEncryption::Kms(Some(_))))) {
            let what = "vault.s3.kms_key without encryption = \"aws:kms\"";
            self.reader.complain(key.line, what, "write encryption = \"aws:kms\" as well");
        }
        let credentials = self.path(table.text("credentials")).map(|path| {
            if let Err(error) = read_private(&path.value) {
                let Objection { what, remedy } = error.into();
                self.reader.complain(path.line, what, remedy);
            }
            path.value
        });
        let ca = self.path(table.text("ca")).map(|path| {
            if let Err(error) = std::fs::File::open(&path.value) {
                let what = format!("{}: {error}", path.value.display());
                self.reader.complain(path.line, what, "name the authority's certificate, in PEM");
            }
            path.value
        });
        let text = |field: Option<Located<String>>| field.map(|field| field.value);
        let settings = Settings {
            name: text(name.clone()).unwrap_or_default(),
            bucket: text(bucket.clone()).unwrap_or_default(),
            prefix: prefix.unwrap_or_default(),
            region: text(table.text("region")),
            endpoint: endpoint.clone().flatten(),
            path_style: table.boolean("path_style").map(|path_style| path_style.value),
            owner: text(table.text("owner")),
            mode: mode.unwrap_or_default(),
            storage_class: text(table.text("storage_class")),
            encryption,
            checksum: checksum.unwrap_or_default(),
            ca,
            credentials,
            profile: text(table.text("profile")),
            timeout: table
                .duration("timeout", Duration::from_secs(1)..=Duration::from_secs(600))
                .map(|time| time.value),
            canary_profile: text(table.text("canary_profile")),
        };
        table.finish();
        (name.is_some() && bucket.is_some() && endpoint != Some(None)).then_some(settings)
    }

    fn fits(&self, text: &Located<String>, field: &str, fits: fn(u8) -> bool, wanted: &str) -> bool {
        let good = !text.value.is_empty()
            && text.value.len() <= NAME_LEN_MAX
            && text.value.bytes().all(fits)
            && text.value.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !good {
            let what = format!("vault.s3.{field} {:?} is no such name", text.value);
            self.reader.complain(
                text.line,
                what,
                format!("write up to {NAME_LEN_MAX} of {wanted}, a letter or digit first"),
            );
        }
        good
    }

    /// Plain HTTP stays on this machine: requests are signed there, and names of buckets and sessions are for everybody to see.
    fn endpoint(&self, url: Located<String>) -> Option<String> {
        let rest = url.value.split_once("://").map(|(scheme, rest)| (scheme, rest.trim_end_matches('/')));
        let host = rest.map(|(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or_default());
        let whole = rest.zip(host).is_some_and(|((_, rest), host)| rest == host && !host.is_empty());
        match (rest.map(|(scheme, _)| scheme), host.filter(|_| whole)) {
            (Some("https"), Some(_)) => Some(url.value),
            (Some("http"), Some(host)) if is_loopback(host) => Some(url.value),
            (Some("http"), Some(_)) => {
                let what = format!("vault.s3.endpoint {} is plain HTTP to another machine", url.value);
                self.reader.complain(url.line, what, "write https://, and ca = \"FILE\" for an authority of your own");
                None
            }
            _ => {
                let what = format!("vault.s3.endpoint {:?} is no address of a server", url.value);
                self.reader.complain(url.line, what, "write https://HOST or https://HOST:PORT");
                None
            }
        }
    }

    fn prefix(&self, prefix: &Located<String>) -> Option<String> {
        let text = prefix.value.trim_matches('/');
        let good = text.split('/').all(|part| !part.is_empty() && part.bytes().all(|c| is_component(c) || c == b'.'));
        if !good {
            let what = format!("vault.s3.prefix {:?} is not taken", prefix.value);
            self.reader.complain(prefix.line, what, "write lower-case letters, digits, _ . and -, parted by /");
            return None;
        }
        Some(format!("{text}/"))
    }
}

fn is_component(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_' || c == b'-'
}

fn is_bucket(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'.' || c == b'-'
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_this_machine_and_nothing_else() {
        for host in ["127.0.0.1:7480", "localhost", "localhost:80", "[::1]:80", "127.9.9.9"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["10.0.0.1:80", "localhost.example.com", "[2001:db8::1]:80", "", "127.0.0.1.example.com:80"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
