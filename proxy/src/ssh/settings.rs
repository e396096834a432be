//! Algorithms and sizes that both SSH legs run with.
//!
//! Lists what may be negotiated and nothing else: no SHA-1, no CBC, no group exchange, no compression. Knows no
//! connection.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use russh::keys::PublicKey;
use russh::keys::ssh_key::{self, Algorithm, EcdsaCurve, HashAlg};
use russh::{MethodKind, MethodSet, Preferred, SshId, cipher, client, compression, kex, mac, server};

use crate::config::{Config, KeyFile, Limits, Target};

/// Bytes a channel's sender may have on the way: enough for 1 Gbit/s over 30 ms.
pub(crate) const WINDOW: u32 = 4 * 1024 * 1024;

/// The largest packet asked for. More than the usual 32 KiB halves the cost per byte.
const PACKET: u32 = 65_535;

/// Messages that the library queues for its own task.
const EVENT_BUFFER: usize = 64;

/// Says what we are, not which version: that is for those who have logged in.
const IDENT: &str = "SSH-2.0-Casemate";

/// Towards clients: post-quantum first, and the one that every maintained client has.
const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::EXTENSION_SUPPORT_AS_SERVER,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
];

/// Towards targets, which may be older than their admins' clients, and are known by their pinned keys.
const TARGET_KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::ECDH_SHA2_NISTP256,
    kex::ECDH_SHA2_NISTP384,
    kex::DH_G16_SHA512,
    kex::DH_G18_SHA512,
    kex::DH_G14_SHA256,
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
];

/// Host keys, and on the client leg the signatures that a login may be made with. `sk-…` stand here for the latter: the
/// library filters the former by the keys there are.
const KEYS: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
    Algorithm::SkEd25519,
    Algorithm::SkEcdsaSha2NistP256,
    Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
    Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
];

/// What a target may prove itself with: no `sk-…`, which hosts do not have.
const TARGET_KEYS: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
    Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
    Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
];

/// GCM first: the hardware does it. The client's order decides on its leg, so ChaCha20 stays for those who put it first.
/// Counter mode, with an encrypt-then-MAC unless the configuration says otherwise, is for clients that know nothing newer, such as Debian 12's paramiko.
const CIPHERS: &[cipher::Name] =
    &[cipher::AES_256_GCM, cipher::AES_128_GCM, cipher::CHACHA20_POLY1305, cipher::AES_256_CTR, cipher::AES_128_CTR];

const MACS: &[mac::Name] = &[mac::HMAC_SHA512_ETM, mac::HMAC_SHA256_ETM];

/// What clients may use besides, last of all, where the configuration says so: libssh2 before 1.11 knows no
/// encrypt-then-MAC. With counter mode, encrypt-and-MAC by SHA-2 has no known attack, and OpenSSH offers it by default.
const PLAIN_MACS: &[mac::Name] = &[mac::HMAC_SHA512_ETM, mac::HMAC_SHA256_ETM, mac::HMAC_SHA512, mac::HMAC_SHA256];

fn preferred(kex: &'static [kex::Name], keys: Cow<'static, [Algorithm]>) -> Preferred {
    Preferred {
        kex: Cow::Borrowed(kex),
        key: keys,
        host_key_certificates: Cow::Borrowed(&[]),
        cipher: Cow::Borrowed(CIPHERS),
        mac: Cow::Borrowed(MACS),
        compression: Cow::Borrowed(&[compression::NONE]),
    }
}

/// Whether a login may be signed with that algorithm: everything the server advertises.
pub(crate) fn accepts_signature(algorithm: &Algorithm) -> bool {
    KEYS.contains(algorithm)
}

/// How far a clock may be off before a certificate of ours means nothing to a client, and how long a connection may take to
/// ask for one. Only the beginning of a connection looks at it.
const CERTIFICATE_BEFORE: Duration = Duration::from_secs(24 * 3600);
const CERTIFICATE_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Makes the settings of the server that clients meet inside a portal, where it stands for a target: the bastion's own
/// host keys, certified for the target's names.
///
/// # Errors
/// No certificate could be made.
pub(crate) fn server_for(
    config: &Config,
    target: &Target,
    now: SystemTime,
) -> Result<Arc<server::Config>, ssh_key::Error> {
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let valid = seconds(now - CERTIFICATE_BEFORE)..seconds(now + CERTIFICATE_AFTER);
    let names = || std::iter::once(&target.name).chain(&target.aliases).chain([&target.host]).map(String::as_str);
    let id = format!("{}/{}", config.node, target.name);
    let certify = |host_key: &KeyFile| {
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).map_err(|_| ssh_key::Error::Crypto)?;
        config.host_ca.certify(host_key.key.public_key(), names(), &id, valid.clone(), nonce)
    };
    let certificates = config.host_keys.iter().map(certify).collect::<Result<_, _>>()?;
    Ok(Arc::new(server::Config { certificates, ..server_config(config) }))
}

/// Makes the settings of the server that clients meet.
pub(crate) fn server(config: &Config) -> Arc<server::Config> {
    Arc::new(server_config(config))
}

fn server_config(config: &Config) -> server::Config {
    let limits = &config.limits;
    server::Config {
        server_id: SshId::Standard(Cow::Borrowed(IDENT)),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        // Refusing an offered key slowly only delays people whose agent holds many.
        auth_rejection_time: Duration::ZERO,
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: config.host_keys.iter().map(|host_key| host_key.key.as_ref().clone()).collect(),
        window_size: WINDOW,
        maximum_packet_size: PACKET,
        event_buffer_size: EVENT_BUFFER,
        preferred: Preferred {
            mac: Cow::Borrowed(if config.listen.plain_macs { PLAIN_MACS } else { MACS }),
            ..preferred(KEX, Cow::Borrowed(KEYS))
        },
        // A second fence behind our own counters; the library also counts signatures that do not verify, unseen by us.
        max_auth_attempts: (limits.attempts.saturating_add(limits.probes)) as usize,
        inactivity_timeout: None,
        keepalive_interval: Some(limits.keepalive),
        // A stopped client answers nothing and is not dead: TCP tells the two apart.
        keepalive_max: 0,
        nodelay: true,
        ..server::Config::default()
    }
}

/// What a target is asked to prove itself with: the kinds that are pinned first, since a host with several keys proves the
/// first one asked for. The others stay, so that a host that lost its pinned key is told from one that speaks nothing known.
fn target_keys(pinned: &[PublicKey]) -> Vec<Algorithm> {
    let is_pinned = |algorithm: &Algorithm| {
        pinned.iter().any(|key| {
            let known = key.algorithm();
            known == *algorithm || (known.is_rsa() && algorithm.clone().is_rsa())
        })
    };
    let (mut first, rest): (Vec<_>, Vec<_>) = TARGET_KEYS.iter().cloned().partition(is_pinned);
    first.extend(rest);
    first
}

/// How long a target may hear nothing from us while we hear nothing from it. Held reads hold back the questions of a target
/// that gives up on silent clients (`ClientAliveInterval` of sshd), so that its answer has to come unasked.
const TARGET_KEEPALIVE: Duration = Duration::from_secs(5);

/// Makes the settings of the client that a target with these pinned host keys meets.
pub(crate) fn target(limits: &Limits, pinned: &[PublicKey]) -> Arc<client::Config> {
    Arc::new(client::Config {
        client_id: SshId::Standard(Cow::Borrowed(IDENT)),
        window_size: WINDOW,
        maximum_packet_size: PACKET,
        preferred: preferred(TARGET_KEX, Cow::Owned(target_keys(pinned))),
        inactivity_timeout: None,
        keepalive_interval: Some(limits.keepalive.min(TARGET_KEEPALIVE)),
        // Held reads hold the answers back too.
        keepalive_max: 0,
        nodelay: true,
        ..client::Config::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_signed_with_sha1_is_not_accepted() {
        assert!(accepts_signature(&Algorithm::Rsa { hash: Some(HashAlg::Sha256) }));
        assert!(accepts_signature(&Algorithm::SkEd25519));
        assert!(!accepts_signature(&Algorithm::Rsa { hash: None }));
        assert!(!accepts_signature(&Algorithm::Dsa));
    }

    #[test]
    fn a_target_is_asked_for_its_pinned_kind_first_and_for_the_others_still() {
        let pinned = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg=";
        let keys = target_keys(&[PublicKey::from_openssh(pinned).unwrap()]);
        assert_eq!(keys.first(), Some(&Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 }));
        assert_eq!(keys.len(), TARGET_KEYS.len());
        assert_eq!(target_keys(&[]), TARGET_KEYS);
    }

    #[test]
    fn a_target_hears_of_us_often_enough_whatever_clients_are_asked() {
        let interval = |seconds| {
            let limits = Limits { keepalive: Duration::from_secs(seconds), ..Limits::default() };
            target(&limits, &[]).keepalive_interval
        };
        assert_eq!(interval(3600), Some(Duration::from_secs(5)));
        assert_eq!(interval(2), Some(Duration::from_secs(2)));
    }

    #[test]
    fn clients_exchange_keys_post_quantum_first_and_by_curve25519_else() {
        let names: Vec<&str> = KEX.iter().map(AsRef::as_ref).collect();
        assert_eq!(names.first(), Some(&"mlkem768x25519-sha256"));
        let rest = names.iter().skip(1).filter(|name| !name.starts_with("curve25519-sha256"));
        assert_eq!(rest.collect::<Vec<_>>(), [&"ext-info-s", &"kex-strict-s-v00@openssh.com"]);
    }

    #[test]
    fn only_what_is_authenticated_and_uncompressed_is_offered() {
        for list in [preferred(KEX, Cow::Borrowed(KEYS)), preferred(TARGET_KEX, Cow::Borrowed(TARGET_KEYS))] {
            assert_eq!(list.compression.as_ref(), [compression::NONE]);
            assert!(list.cipher.iter().all(|name| !name.as_ref().contains("cbc") && name.as_ref() != "none"));
            assert!(list.mac.iter().all(|name| name.as_ref().ends_with("-etm@openssh.com")));
            assert!(
                list.kex.iter().all(|name| !name.as_ref().contains("sha1") && !name.as_ref().contains("exchange-"))
            );
        }
        assert!(PLAIN_MACS.starts_with(MACS));
        assert!(PLAIN_MACS.iter().all(|name| name.as_ref().starts_with("hmac-sha2-")));
    }
}
