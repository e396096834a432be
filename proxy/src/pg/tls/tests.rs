//! What the two ends make of each other: handshakes in memory, between files that were just made.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use casemate_certs::keys::{create_new, write_private};
use rcgen::{
    CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose, Issuer, KeyIdMethod, KeyPair,
    PKCS_ED25519, RevokedCertParams, SerialNumber,
};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Error, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig,
    ServerConnection,
};
use tempfile::TempDir;

use super::*;
use crate::config::Objection;

const HOST: &str = "bastion.example";

/// A directory with the files of a bastion that made its own.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let (dir, made) = (tempfile::tempdir().unwrap(), made());
        let files = Self(dir);
        files.put("ca.pem", &made.ca_pem);
        files.put("ca.key", &made.ca_key_pem);
        files.put("cert.pem", &made.leaf.cert_pem);
        files.put("key.pem", &made.leaf.key_pem);
        files
    }

    fn put(&self, name: &str, text: &str) {
        let file = self.path(name);
        let _ = std::fs::remove_file(&file);
        write_private(&file, text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn server(&self, min: MinVersion) -> Result<ServerTls, Objection> {
        ServerTls::load(&self.path("cert.pem"), &self.path("key.pem"), None, min)
    }

    fn target(&self, host: &str) -> TargetTls {
        TargetTls::load(host, &self.path("ca.pem"), None).unwrap()
    }

    /// Puts a certificate for a person beside the others, signed by the same authority.
    fn person(&self, name: &str, serial: u64) -> (PathBuf, PathBuf) {
        let authority = KeyPair::from_pem(&self.text("ca.key")).unwrap();
        let authority = Issuer::from_ca_cert_pem(&self.text("ca.pem"), authority).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.put(&format!("{name}.pem"), &params.signed_by(&key, &authority).unwrap().pem());
        self.put(&format!("{name}.key"), &key.serialize_pem());
        (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")))
    }

    /// Puts a revocation list beside the others, good until `until`.
    fn revoke(&self, serial: u64, until: SystemTime) -> PathBuf {
        let authority = KeyPair::from_pem(&self.text("ca.key")).unwrap();
        let authority = Issuer::from_ca_cert_pem(&self.text("ca.pem"), authority).unwrap();
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: SystemTime::UNIX_EPOCH.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: SystemTime::UNIX_EPOCH.into(),
            next_update: until.into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        self.put("list.pem", &list.signed_by(&authority).unwrap().pem().unwrap());
        self.path("list.pem")
    }
}

fn made() -> Made {
    generate("node1", &[HOST.to_owned(), "192.0.2.7".to_owned()], SystemTime::now()).unwrap()
}

fn day(days: u32) -> std::time::Duration {
    std::time::Duration::from_secs(24 * 3600) * days
}

/// Carries what both say across until neither says more.
fn handshake(
    client: Arc<ClientConfig>,
    name: &str,
    server: &ServerTls,
) -> Result<(ClientConnection, ServerConnection), Error> {
    handshake_with(client, name, server.config())
}

fn handshake_with(
    client: Arc<ClientConfig>,
    name: &str,
    server: Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), Error> {
    let mut client = ClientConnection::new(client, name.to_owned().try_into().unwrap()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let mut wire = Vec::new();
    while client.wants_write() || server.wants_write() {
        wire.clear();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn with(files: &Files, change: impl FnOnce(&mut ClientConfig)) -> Arc<ClientConfig> {
    let mut config = (*files.target(HOST).config()).clone();
    change(&mut config);
    Arc::new(config)
}

#[test]
fn both_ends_find_the_same_end_point_and_the_hybrid_key_exchange() {
    let files = Files::new();
    let server = files.server(MinVersion::default()).unwrap();
    let (client, other) = handshake(files.target(HOST).config(), HOST, &server).unwrap();
    let peer = TargetTls::peer(&client).unwrap();
    assert_eq!(peer.end_point.as_deref(), Some(server.end_point()));
    assert_eq!((peer.version, peer.fingerprint.len()), ("TLSv1.3", 64));
    assert_eq!(other.alpn_protocol(), Some(ALPN));
    assert_eq!(other.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    // By its address as well.
    handshake(files.target("192.0.2.7").config(), "192.0.2.7", &server).unwrap();
}

#[test]
fn a_target_that_wants_another_key_exchange_is_asked_to_begin_again_once() {
    let files = Files::new();
    // As PostgreSQL does by default before version 18. It hands out tickets too, which it does not, and nothing comes of them.
    let mut group = (*provider()).clone();
    group.kx_groups.retain(|group| group.name() == NamedGroup::secp256r1);
    let server = |versions| {
        let builder = ServerConfig::builder_with_provider(Arc::new(group.clone())).with_protocol_versions(versions);
        let key = pem::certified_key(&files.path("cert.pem"), &files.path("key.pem")).unwrap();
        let key = Arc::new(SingleCertAndKey::from(key));
        let mut config = builder.unwrap().with_no_client_auth().with_cert_resolver(key);
        config.ticketer = aws_lc_rs::Ticketer::new().unwrap();
        config.alpn_protocols = vec![ALPN.to_vec()];
        Arc::new(config)
    };
    for (versions, first) in
        [(&[&version::TLS13][..], HandshakeKind::FullWithHelloRetryRequest), (&[&version::TLS12], HandshakeKind::Full)]
    {
        let (target, server) = (files.target(HOST), server(versions));
        for expected in [first, HandshakeKind::Full, HandshakeKind::Full] {
            let (client, _) = handshake_with(target.config(), HOST, Arc::clone(&server)).unwrap();
            assert_eq!(client.handshake_kind(), Some(expected));
        }
    }
}

#[test]
fn nothing_is_handed_out_that_a_later_connection_could_resume() {
    let files = Files::new();
    let server = files.server(MinVersion::Tls12).unwrap();
    for versions in [&[&version::TLS13][..], &[&version::TLS12]] {
        // A client that would resume, over both connections.
        let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
        let config = config.with_root_certificates(pem::roots(&files.path("ca.pem")).unwrap()).with_no_client_auth();
        let config = Arc::new(config);
        for _ in 0..2 {
            let (client, _) = handshake(Arc::clone(&config), HOST, &server).unwrap();
            assert_eq!(client.tls13_tickets_received(), 0);
            assert!(matches!(
                client.handshake_kind(),
                Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)
            ));
        }
    }
}

#[test]
fn another_protocol_is_turned_away_and_none_at_all_is_taken() {
    let files = Files::new();
    let server = files.server(MinVersion::default()).unwrap();
    let web = with(&files, |config| config.alpn_protocols = vec![b"http/1.1".to_vec()]);
    assert_eq!(handshake(web, HOST, &server).unwrap_err(), Error::NoApplicationProtocol);
    let old = with(&files, |config| config.alpn_protocols.clear());
    assert_eq!(handshake(old, HOST, &server).unwrap().1.alpn_protocol(), None);
}

#[test]
fn tls_1_2_is_spoken_only_where_it_was_asked_for() {
    let files = Files::new();
    let old = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&version::TLS12]).unwrap();
    let roots = pem::roots(&files.path("ca.pem")).unwrap();
    let old = Arc::new(old.with_root_certificates(roots).with_no_client_auth());
    assert!(handshake(Arc::clone(&old), HOST, &files.server(MinVersion::Tls13).unwrap()).is_err());
    let (client, _) = handshake(old, HOST, &files.server(MinVersion::Tls12).unwrap()).unwrap();
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_2));
}

#[test]
fn a_target_with_a_certificate_for_another_name_or_by_another_authority_is_refused_with_a_remedy() {
    let (files, others) = (Files::new(), Files::new());
    let server = files.server(MinVersion::default()).unwrap();
    let error = handshake(files.target("db2").config(), "db2", &server).unwrap_err();
    let is_name = matches!(error, Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. }));
    assert!(is_name, "{error}");
    assert!(TargetTls::remedy(&error).unwrap().contains("subjectAltName"));

    let error = handshake(others.target(HOST).config(), HOST, &server).unwrap_err();
    assert!(matches!(error, Error::InvalidCertificate(_)), "{error}");

    // The authority's own certificate in the place of a server's.
    files.put("cert.pem", &files.text("ca.pem"));
    files.put("key.pem", &files.text("ca.key"));
    let error =
        handshake(files.target(HOST).config(), HOST, &files.server(MinVersion::default()).unwrap()).unwrap_err();
    assert!(TargetTls::remedy(&error).unwrap().contains("CA:FALSE"), "{error:?}");
}

#[test]
fn a_certificate_that_libpq_cannot_bind_to_is_refused_at_load() {
    let files = Files::new();
    let authority = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let authority = Issuer::new(CertificateParams::default(), authority);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![HOST.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    files.put("cert.pem", &leaf.pem());
    files.put("key.pem", &key.serialize_pem());
    let Objection { what, remedy } = files.server(MinVersion::default()).unwrap_err();
    assert!(
        what.ends_with("cert.pem is signed with Ed25519, to which PostgreSQL clients cannot bind a login"),
        "{what}"
    );
    assert!(remedy.contains("ECDSA"), "{remedy}");
}

#[test]
fn files_that_are_not_what_they_should_be_are_named_with_what_to_do() {
    let files = Files::new();
    let (good_cert, good_key) = (files.text("cert.pem"), files.text("key.pem"));
    let refused = |name: &str, text: &str| {
        files.put("cert.pem", &good_cert);
        files.put("key.pem", &good_key);
        files.put(name, text);
        files.server(MinVersion::default()).unwrap_err()
    };
    let cases = [
        ("key.pem", made().leaf.key_pem.to_string(), "does not belong to the first certificate", "the leaf first"),
        (
            "key.pem",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\n".to_owned(),
            "encrypted with a passphrase",
            "openssl pkey",
        ),
        ("key.pem", good_cert.clone(), "is no PEM private key", "BEGIN PRIVATE KEY"),
        ("cert.pem", good_key.clone(), "holds no certificate", "BEGIN CERTIFICATE"),
        ("cert.pem", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n".to_owned(), "no PEM file", "PEM"),
        ("cert.pem", "x".repeat(1024 * 1024 + 1), "is over 1048576 bytes", "certificates"),
    ];
    for (name, text, what, remedy) in cases {
        let objection = refused(name, &text);
        assert!(objection.what.contains(what) && objection.remedy.contains(remedy), "{objection}");
    }

    files.put("cert.pem", &good_cert);
    std::fs::remove_file(files.path("key.pem")).unwrap();
    create_new(&files.path("key.pem"), good_key.as_bytes(), 0o644).unwrap();
    let objection = files.server(MinVersion::default()).unwrap_err();
    assert!(objection.remedy.starts_with("run: chmod 600"), "{objection}");

    let objection = TargetTls::load(HOST, &files.path("none.pem"), None).unwrap_err();
    assert!(objection.what.contains("none.pem"), "{objection}");
    assert!(TargetTls::load("no host", &files.path("ca.pem"), None).is_err());
}

#[test]
fn a_person_may_show_a_certificate_and_then_it_must_be_good() {
    let (files, others) = (Files::new(), Files::new());
    let (alice, mallory, eve) = (files.person("alice", 7), files.person("mallory", 8), others.person("eve", 7));
    let load = |crl_files: &[PathBuf]| {
        let ca_file = files.path("ca.pem");
        let clients = ClientAuthority { ca_file: &ca_file, crl_files };
        ServerTls::load(&files.path("cert.pem"), &files.path("key.pem"), Some(clients), MinVersion::default())
    };
    let comes = |server: &ServerTls, own: Option<&(PathBuf, PathBuf)>| {
        let own = own.map(|(cert, key)| (cert.as_path(), key.as_path()));
        let client = TargetTls::load(HOST, &files.path("ca.pem"), own).unwrap();
        handshake(client.config(), HOST, server).map(|(_, server)| server.peer_certificates().map(<[_]>::len))
    };
    let refused = |outcome: Result<_, Error>, error: CertificateError| {
        assert_eq!(outcome, Err(Error::InvalidCertificate(error)));
    };

    let server = load(&[]).unwrap();
    assert_eq!(comes(&server, None), Ok(None));
    assert_eq!(comes(&server, Some(&alice)), Ok(Some(1)));
    assert_eq!(comes(&server, Some(&mallory)), Ok(Some(1)));
    assert!(matches!(comes(&server, Some(&eve)), Err(Error::InvalidCertificate(_))));

    let list = files.revoke(8, SystemTime::now() + day(1));
    let server = load(&[list]).unwrap();
    assert_eq!(comes(&server, None), Ok(None));
    assert_eq!(comes(&server, Some(&alice)), Ok(Some(1)));
    refused(comes(&server, Some(&mallory)), CertificateError::Revoked);

    // A list that nobody renewed says nothing about today.
    let list = files.revoke(8, SystemTime::now() - day(1));
    let outcome = comes(&load(&[list]).unwrap(), Some(&alice));
    let expired =
        matches!(outcome, Err(Error::InvalidCertificate(CertificateError::ExpiredRevocationListContext { .. })));
    assert!(expired, "{outcome:?}");

    files.put("list.pem", &files.text("ca.pem"));
    assert!(load(&[files.path("list.pem")]).unwrap_err().what.contains("no revocation list"));
}

#[test]
fn a_certificate_that_ends_is_followed_by_one_that_the_same_clients_take() {
    let (files, now) = (Files::new(), SystemTime::now());
    let issued = |at| {
        let next = issue(&files.text("ca.pem"), &files.text("ca.key"), &[HOST.to_owned()], at).unwrap();
        files.put("cert.pem", &next.cert_pem);
        files.put("key.pem", &next.key_pem);
        let server = files.server(MinVersion::default()).unwrap();
        handshake(files.target(HOST).config(), HOST, &server).unwrap();
        server
    };
    let (first, second) = (issued(now), issued(now + day(1)));
    assert_ne!(first.end_point(), second.end_point());
    assert_eq!(second.not_after() - first.not_after(), 24 * 3600);
}

#[test]
fn what_does_not_check_its_peer_is_no_mode() {
    for (word, host, mode) in [
        ("verify-full", "db1.example", Some(Mode::VerifyFull)),
        ("off", "127.0.0.1", Some(Mode::Off)),
        ("off", "[::1]", Some(Mode::Off)),
        ("off", "localhost", Some(Mode::Off)),
        ("off", "/run/postgresql", None),
        ("off", "db1.example", None),
        ("off", "192.0.2.1", None),
        ("off", "localhost.example", None),
        ("disable", "127.0.0.1", None),
        ("verify-ca", "127.0.0.1", None),
        ("require", "127.0.0.1", None),
        ("prefer", "db1", None),
    ] {
        assert_eq!(Mode::parse(word, host).ok(), mode, "{word} {host}");
    }
    let objection = Mode::parse("off", "db1.example").unwrap_err();
    assert!(objection.what.contains("no loopback address"), "{objection}");
}
