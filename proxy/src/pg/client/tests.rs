//! Targets as scripts behind a wire in memory: some that let in, and some that try what a target must not.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use casemate_certs::keys::write_private;
use tempfile::TempDir;
use tokio::io::{DuplexStream, duplex};
use tokio::net::TcpListener;
use tokio_rustls::{TlsAcceptor, server};
use zeroize::Zeroizing;

use super::*;
use crate::pg::auth::scram::{Exchange, ITERATIONS, Verifier};
use crate::pg::auth::target::{MESSAGE_LEN_MAX, Password};
use crate::pg::codec::Fields;
use crate::pg::startup::VERSION_3_2;
use crate::pg::testing::{auth, frame};
use crate::pg::tls::{MinVersion, ServerTls, generate};

/// The files of a target and of a bastion that trusts its authority.
struct Files {
    dir: TempDir,
    server: ServerTls,
}

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = generate("db1", &["db1".to_owned()], SystemTime::now()).unwrap();
        let put = |name: &str, text: &str| {
            let file: PathBuf = dir.path().join(name);
            write_private(&file, text).unwrap();
            file
        };
        put("ca.pem", &made.ca_pem);
        let (cert, key) = (put("cert.pem", &made.leaf.cert_pem), put("key.pem", &made.leaf.key_pem));
        let server = ServerTls::load(&cert, &key, None, MinVersion::default()).unwrap();
        Self { dir, server }
    }

    fn target(&self, host: &str) -> TargetTls {
        TargetTls::load(host, &self.dir.path().join("ca.pem"), None).unwrap()
    }

    /// Answers the request for TLS and brings it up.
    async fn accept(&self, mut wire: DuplexStream) -> io::Result<server::TlsStream<DuplexStream>> {
        let mut request = [0; 8];
        wire.read_exact(&mut request).await?;
        assert_eq!(request, [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]);
        wire.write_all(b"S").await?;
        TlsAcceptor::from(self.server.config()).accept(wire).await
    }
}

fn login() -> Login {
    Login {
        user: "dba".to_owned(),
        database: Bytes::new(),
        password: Some(Password::new(Zeroizing::new("s3cret".to_owned()))),
        params: Vec::new(),
        protocol: VERSION_3_2,
    }
}

/// Reads a message with a tag.
async fn message(wire: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, Vec<u8>)> {
    let (tag, len) = (wire.read_u8().await?, wire.read_u32().await?);
    let mut payload = vec![0; len as usize - 4];
    wire.read_exact(&mut payload).await?;
    Ok((tag, payload))
}

async fn startup(wire: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let len = wire.read_u32().await?;
    let mut payload = vec![0; len as usize - 4];
    wire.read_exact(&mut payload).await?;
    Ok(payload)
}

/// Logs in at a target that says this without TLS, whatever it is told, and hangs up.
async fn scripted(script: Vec<u8>) -> Result<Arrived<DuplexStream>, Unreached> {
    let (near, mut far) = duplex(16 * 1024);
    let target = tokio::spawn(async move {
        // The bastion hanging up on what it does not like is no fault of the script.
        let _ = far.write_all(&script).await;
        let _ = far.shutdown().await;
        let mut rest = Vec::new();
        let _ = far.read_to_end(&mut rest).await;
    });
    let arrived = log_in(near, None, login()).await;
    if arrived.is_err() {
        target.await.unwrap();
    }
    arrived
}

#[tokio::test]
async fn a_login_over_tls_is_bound_to_the_certificate_that_was_checked() {
    let files = Arc::new(Files::new());
    let (near, far) = duplex(16 * 1024);
    let other = Arc::clone(&files);
    let target = tokio::spawn(async move {
        let mut wire = other.accept(far).await?;
        assert!(startup(&mut wire).await?.starts_with(b"\0\x03\0\x02user\0dba\0"));
        let verifier = Verifier::of(b"s3cret", [7; 16], ITERATIONS);
        let exchange = Exchange::new([7; 16], Some(other.server.end_point()), [9; 18]);
        wire.write_all(&auth(10, b"SCRAM-SHA-256\0SCRAM-SHA-256-PLUS\0\0")).await?;
        let (_, payload) = message(&mut wire).await?;
        let mut fields = Fields(&payload);
        let mechanism = fields.text().unwrap();
        fields.u32().unwrap();
        let (first, expected) = exchange.first(mechanism, fields.0).unwrap();
        wire.write_all(&auth(11, &first)).await?;
        let proof = expected.last(&message(&mut wire).await?.1).expect("the same certificate on both sides");
        let proven = proof.fits(&verifier).expect("the password");
        let key = [&[0, 0, 0, 7][..], &[1; 32]].concat();
        let rest = [auth(12, proven.server_final()), auth(0, &[]), frame(b'K', &key), frame(b'Z', b"I"), b"T".to_vec()];
        wire.write_all(&rest.concat()).await?;
        // What the session itself says goes both ways.
        let said = message(&mut wire).await?;
        wire.write_all(&frame(b'I', &[])).await?;
        wire.flush().await?;
        Ok::<_, io::Error>(said)
    });

    let tls = files.target("db1");
    let mut arrived = log_in(near, Some(&tls), login()).await.unwrap();
    assert_eq!(arrived.reached.method, "scram-sha-256-plus");
    assert_eq!(arrived.reached.key.unwrap().secret.len(), 32);
    assert_eq!(&arrived.reached.leftover[..], b"T");
    assert_eq!(arrived.peer.unwrap().end_point.as_deref(), Some(files.server.end_point()));
    arrived.stream.write_all(&frame(b'Q', b"\0")).await.unwrap();
    arrived.stream.flush().await.unwrap();
    assert_eq!(message(&mut arrived.stream).await.unwrap(), (b'I', Vec::new()));
    assert_eq!(target.await.unwrap().unwrap(), (b'Q', vec![0]));
}

#[tokio::test]
async fn what_follows_the_s_in_clear_text_is_never_taken_for_the_targets_word() {
    let files = Files::new();
    let ready = [auth(0, &[]), frame(b'Z', b"I")].concat();
    for len in 1..=ready.len() {
        let (near, mut far) = duplex(16 * 1024);
        far.write_all(&[b"S", &ready[..len]].concat()).await.unwrap();
        far.shutdown().await.unwrap();
        let unreached = log_in(near, Some(&files.target("db1")), login()).await.unwrap_err();
        assert!(matches!(unreached, Unreached::Tls { .. } | Unreached::Closed(_)), "{len}: {unreached}");
    }
    // A target that goes on as it should behind the junk is as lost.
    let (near, mut far) = duplex(16 * 1024);
    far.write_all(b"Sjunk!").await.unwrap();
    let acceptor = TlsAcceptor::from(files.server.config());
    let tls = files.target("db1");
    let (outcome, _) = tokio::join!(log_in(near, Some(&tls), login()), async {
        let mut request = [0; 8];
        far.read_exact(&mut request).await?;
        acceptor.accept(far).await.map(drop)
    });
    assert!(matches!(outcome, Err(Unreached::Tls { .. })), "{outcome:?}");
}

#[tokio::test]
async fn a_target_without_tls_is_not_told_who_wants_in() {
    let files = Files::new();
    for (answer, text) in [
        (&b"N"[..], "the target does no TLS; set ssl = on there"),
        (b"E", "the target answered the request for TLS with byte 69"),
        (b"\x15\x03", "the target answered the request for TLS with byte 21"),
        (b"", "the target closed the connection during the request for TLS"),
    ] {
        let (near, mut far) = duplex(1024);
        far.write_all(answer).await.unwrap();
        far.shutdown().await.unwrap();
        let unreached = log_in(near, Some(&files.target("db1")), login()).await.unwrap_err();
        assert_eq!(unreached.to_string(), text);
        let mut told = Vec::new();
        far.read_to_end(&mut told).await.unwrap();
        assert_eq!(told, *b"\0\0\0\x08\x04\xd2\x16\x2f");
    }
}

/// What the bastion itself says to a client.
fn ours(unreached: &Unreached, target: &str) -> String {
    let Words::Ours(words) = unreached.for_client(target) else { panic!("{unreached}") };
    String::from_utf8_lossy(&words).into_owned()
}

#[tokio::test]
async fn a_certificate_for_another_name_ends_it_before_anything_is_said() {
    let files = Arc::new(Files::new());
    let (near, far) = duplex(16 * 1024);
    let other = Arc::clone(&files);
    let target = tokio::spawn(async move { startup(&mut other.accept(far).await?).await });
    let unreached = log_in(near, Some(&files.target("db2")), login()).await.unwrap_err();
    assert!(unreached.to_string().contains("subjectAltName"), "{unreached}");
    assert!(target.await.unwrap().is_err());
    let shown = ours(&unreached, "db2");
    assert!(shown.contains("C08001\0Mdb2 did not prove who it is: not connected, and recorded"), "{shown}");
}

#[tokio::test]
async fn hostile_targets_are_refused_and_hung_up_on() {
    let sasl = auth(10, b"SCRAM-SHA-256\0\0");
    let nonce = [b'R', 0, 0x10, 0, 8, 0, 0, 0, 11].to_vec();
    let long = frame(b'N', &[b"M", &vec![b'x'; MESSAGE_LEN_MAX as usize / 2][..], b"\0\0"].concat());
    let scripts: [(&str, Vec<u8>, &str); 9] = [
        ("endless notices", [auth(0, &[]), frame(b'N', b"Mx\0\0").repeat(5_000)].concat(), "over 1000 messages"),
        ("a long greeting", [auth(0, &[]), long.repeat(100)].concat(), "over 1048576 bytes"),
        ("1 GiB of key", [auth(0, &[]), b"K\x40\0\0\0".to_vec()].concat(), "message of type K and length 1073741824"),
        ("2^31 iterations", [sasl.clone(), auth(11, b"r=x,s=QUFBQQ==,i=2147483648")].concat(), "2147483648 SCRAM"),
        ("1 MiB of nonce", [sasl.clone(), nonce].concat(), "message of type R and length 1048584"),
        (
            "a foreign nonce",
            [sasl, auth(11, b"r=x,s=QUFBQQ==,i=4096")].concat(),
            "a nonce that does not begin with ours",
        ),
        ("no method", auth(7, &[]), "GSSAPI"),
        ("rows before the login", frame(b'D', b"\0\0"), "message of type 68 while waiting for a request"),
        ("ready at once", frame(b'Z', b"I"), "message of type 90 while waiting for a request"),
    ];
    for (name, script, text) in scripts {
        let unreached = scripted(script).await.unwrap_err();
        assert!(unreached.to_string().contains(text), "{name}: {unreached}");
        let shown = ours(&unreached, "db1");
        assert!(shown.contains("Mdb1 and the bastion came to no login"), "{shown}");
    }
}

#[tokio::test]
async fn what_the_target_says_against_a_login_reaches_the_client_as_it_was_said() {
    let bare = frame(b'E', b"SFATAL\0Mgo away\0\0");
    let unreached = scripted(bare.clone()).await.unwrap_err();
    assert_eq!(unreached.to_string(), "the target refused the login: FATAL go away");
    assert_eq!(unreached.for_client("db1"), Words::Target(bare.into()));
}

#[tokio::test]
async fn a_target_that_hangs_up_anywhere_is_one_that_hung_up() {
    let script = [auth(0, &[]), frame(b'S', b"server_version\x0018.4\0"), frame(b'Z', b"I")].concat();
    for at in 0..script.len() {
        let unreached = scripted(script[..at].to_vec()).await.unwrap_err();
        assert!(matches!(unreached, Unreached::Closed("the login")), "{at}: {unreached}");
    }
    assert_eq!(scripted(script).await.unwrap().reached.server_version, "18.4");
}

#[tokio::test]
async fn a_target_that_says_nothing_is_given_up_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let unreached = reach(dialled, None, login(), Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(unreached, Unreached::TimedOut(_)), "{unreached}");
}

#[test]
fn without_tls_a_connection_ends_on_this_machine() {
    let files = Files::new();
    for (peer, local) in
        [("127.0.0.1:5432", true), ("[::1]:5432", true), ("[::ffff:127.0.0.1]:5432", true), ("192.0.2.1:5432", false)]
    {
        let peer = peer.parse().unwrap();
        assert_eq!(stays_here(peer, None).is_ok(), local, "{peer}");
        assert!(stays_here(peer, Some(&files.target("db1"))).is_ok());
    }
}

#[tokio::test]
async fn a_query_is_cancelled_over_tls_and_the_targets_hanging_up_is_the_answer() {
    let files = Arc::new(Files::new());
    let key = BackendKey { pid: 7, secret: Bytes::from_static(&[1; 32]) };
    let (near, far) = duplex(16 * 1024);
    let other = Arc::clone(&files);
    let target = tokio::spawn(async move { startup(&mut other.accept(far).await?).await });
    cancel_on(near, Some(&files.target("db1")), &key).await.unwrap();
    let request = [&[0x04, 0xd2, 0x16, 0x2e, 0, 0, 0, 7][..], &[1; 32]].concat();
    assert_eq!(target.await.unwrap().unwrap(), request);

    // Never in clear text where the session had TLS.
    let (near, mut far) = duplex(1024);
    far.write_all(b"N").await.unwrap();
    assert!(matches!(cancel_on(near, Some(&files.target("db1")), &key).await, Err(Unreached::NoTls)));
}
