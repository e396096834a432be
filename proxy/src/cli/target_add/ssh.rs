//! An SSH target: a real key exchange, so the key that is shown is one the target proved to hold. Then each login is tried, and
//! whoever still has to bring the key there is told which.

use russh::Disconnect;
use russh::client;
use russh::keys::{HashAlg, PublicKey, PublicKeyOrCertificate};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{AddError, Place, SCAN_TIMEOUT, TargetAdd, access, confirm, first_lines, text};
use crate::cli::say;
use crate::config::{KeyFile, Limits, load_private_key, parse_public_key};
use crate::ssh::{offer, settings};

/// Says what cannot be added before the network is tried.
pub(super) fn refuse_early(request: &TargetAdd) -> Result<(), AddError> {
    if let Some(option) = request.pg.given() {
        return Err(AddError::Usage(format!("{option} is for --kind pg")));
    }
    for role in &request.role {
        let file = role.key_file.as_ref();
        let file = file.ok_or_else(|| AddError::Usage(format!("--role {0}: write {0}=KEYFILE", role.login)))?;
        load_private_key(file).map_err(AddError::Key)?;
    }
    Ok(())
}

/// Scans the host key, has it confirmed, and returns the text to append.
pub(super) fn look(request: &TargetAdd, place: &Place<'_>, runtime: &Runtime) -> Result<String, AddError> {
    let key = runtime.block_on(scan(place))?;
    let line = key.to_openssh().unwrap_or_default();
    let key =
        parse_public_key(&line).map_err(|objection| AddError::Weak { address: request.address.clone(), objection })?;
    let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
    say(&format!("{} at {} proves the host key\n  {} {fingerprint}", request.name, request.address, key.algorithm()));
    confirm(request, &fingerprint, "ssh-keygen -lf", str::to_owned)?;
    for role in &request.role {
        let Some(file) = &role.key_file else { continue };
        let own = load_private_key(file).map_err(AddError::Key)?;
        let login = &role.login;
        say(&match runtime.block_on(log_in(place, &key, login, &own)) {
            Ok(true) => format!("logged in as {login}"),
            Ok(false) => format!(
                "{login} is not let in with this key yet; add it to authorized_keys there:\n  {}",
                own.key.public_key().to_openssh().unwrap_or_default()
            ),
            Err(why) => format!("whether {login} is let in was not found out: {why}"),
        });
    }
    Ok(block(request, place, &line))
}

/// Takes the proved key out of the handshake and ends it there.
struct Scanner(Option<oneshot::Sender<PublicKey>>);

impl client::Handler for Scanner {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        // The library has verified the signature over the exchange before it asks.
        if let (PublicKeyOrCertificate::PublicKey { key, .. }, Some(found)) = (key, self.0.take()) {
            let _ = found.send(key.clone());
        }
        Ok(false)
    }
}

/// Connects, and returns the host key that the target proves.
async fn scan(place: &Place<'_>) -> Result<PublicKey, AddError> {
    let address = place.address;
    let connect = async {
        let stream = place.connect().await?;
        // What can be pinned is what can be dialled, by the same algorithms and in the same order of preference.
        let settings = settings::target(&Limits::default(), &[]);
        let (found, key) = oneshot::channel();
        let ended = client::connect_stream(settings, stream, Scanner(Some(found))).await;
        key.await.map_err(|_| {
            let reason = ended.err().map_or_else(|| "no key was shown".to_owned(), |error| error.to_string());
            AddError::Handshake { address: address.to_owned(), reason }
        })
    };
    timeout(SCAN_TIMEOUT, connect).await.unwrap_or_else(|_| {
        let reason = format!("no answer within {} s", SCAN_TIMEOUT.as_secs());
        Err(AddError::Handshake { address: address.to_owned(), reason })
    })
}

/// Goes on only with the key that was confirmed.
struct Confirmed(PublicKey);

impl client::Handler for Confirmed {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(matches!(key, PublicKeyOrCertificate::PublicKey { key, .. } if key.key_data() == self.0.key_data()))
    }
}

/// Returns whether the target lets a login in with its key, or why that is not known.
async fn log_in(place: &Place<'_>, host_key: &PublicKey, login: &str, own: &KeyFile) -> Result<bool, String> {
    let tried = async {
        let stream = place.connect().await.map_err(|error| error.to_string())?;
        let settings = settings::target(&Limits::default(), std::slice::from_ref(host_key));
        let connected = client::connect_stream(settings, stream, Confirmed(host_key.clone())).await;
        let mut handle = connected.map_err(|error| error.to_string())?;
        let let_in = offer(&mut handle, login, own).await.map_err(|error| error.to_string())?;
        // It knows already; a goodbye that does not arrive changes nothing.
        let _ = handle.disconnect(Disconnect::ByApplication, "", "").await;
        Ok(let_in)
    };
    timeout(SCAN_TIMEOUT, tried).await.unwrap_or_else(|_| Err(format!("no answer within {} s", SCAN_TIMEOUT.as_secs())))
}

/// The text that is appended.
fn block(request: &TargetAdd, place: &Place<'_>, host_key: &str) -> String {
    let mut out = first_lines(request);
    out.push_str(&format!("host_keys = [{}]\n", text(host_key.trim_end())));
    for role in &request.role {
        let file = role.key_file.as_ref().map(|file| place.named(file)).unwrap_or_default();
        out.push_str(&format!("\n[[target.role]]\nlogin = {}\nkey_file = {}\n", text(&role.login), text(&file)));
    }
    out.push_str(&access(request));
    out
}
