//! Scanned from a live SSH server, appended without touching what was there.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use russh::keys::{HashAlg, PrivateKey};
use russh::server;

use super::*;
use crate::testing::{Home, SAMPLE, chmod};

struct Nobody;

impl server::Handler for Nobody {
    type Error = russh::Error;
}

/// Starts an SSH server that proves `key` and lets nobody in. It ends with the test process.
fn ssh_server(key: &PrivateKey) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let settings = Arc::new(server::Config { keys: vec![key.clone()], ..server::Config::default() });
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let settings = Arc::clone(&settings);
                tokio::spawn(async move {
                    if let Ok(session) = server::run_stream(settings, stream, Nobody).await {
                        let _ = session.await;
                    }
                });
            }
        });
    });
    addr
}

fn request(home: &Home, addr: &str) -> TargetAdd {
    TargetAdd {
        config: home.path("casemate.toml"),
        kind: TargetKind::Ssh,
        name: "db1".to_owned(),
        address: addr.to_owned(),
        role: vec![RoleArg { login: "root".to_owned(), key_file: Some(home.path("keys/target")) }],
        alias: vec!["orders".to_owned()],
        allow: vec!["alice".to_owned()],
        fingerprint: None,
        yes: false,
        pg: PgArgs::default(),
    }
}

fn fingerprint(key: &PrivateKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

#[test]
fn the_proved_key_is_pinned_and_the_rest_of_the_file_stays() {
    let home = Home::new();
    let key = home.make_key("keys/db1");
    let addr = ssh_server(&key).to_string();
    let commented =
        format!("# by hand\n{}# the end, without a line feed", SAMPLE.replace("[limits]", "[limits] # tight"));
    let file = home.write(&commented);
    chmod(&file, 0o640);
    let before = std::fs::read_to_string(&file).unwrap();

    let mut request = request(&home, &addr);
    request.fingerprint = Some(fingerprint(&key));
    target_add(&request).unwrap();

    let after = std::fs::read_to_string(&file).unwrap();
    assert!(after.starts_with(&before));
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
    let config = Config::load(&file).unwrap_or_else(|error| panic!("{error}"));
    let target = config.targets.last().unwrap();
    assert_eq!((target.name.as_str(), target.address()), ("db1", addr.clone()));
    assert_eq!(target.aliases, ["orders"]);
    assert_eq!(target.host_keys()[0].key_data(), key.public_key().key_data());
    assert_eq!(config.access.last().unwrap().targets, ["db1"]);
    assert!(after.contains("key_file = \"keys/target\""), "a key beside the configuration is named relative to it");
    let left: Vec<_> = std::fs::read_dir(home.path("")).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("tmp")), "{left:?}");

    // A second time it is there already.
    assert!(matches!(target_add(&request), Err(AddError::Taken { .. })));
    request.name = "orders".to_owned();
    assert!(matches!(target_add(&request), Err(AddError::Taken { .. })));
}

#[test]
fn what_is_not_confirmed_is_not_written() {
    let home = Home::new();
    let key = home.make_key("keys/db1");
    let addr = ssh_server(&key).to_string();
    let file = home.write(SAMPLE);
    let before = std::fs::read(&file).unwrap();
    let good = request(&home, &addr);

    let mut other = good.clone();
    other.fingerprint = Some(fingerprint(&home.make_key("keys/other")));
    assert!(matches!(target_add(&other), Err(AddError::Fingerprint { found, .. }) if found == fingerprint(&key)));
    // Tests have no terminal, so nobody can be asked.
    if !io::stdin().is_terminal() {
        assert!(matches!(target_add(&good), Err(AddError::Unconfirmed { .. })));
    }
    let mut unknown = good.clone();
    unknown.allow = vec!["carol".to_owned()];
    assert!(matches!(target_add(&unknown), Err(AddError::UnknownPerson(_))));
    let mut nowhere = good.clone();
    nowhere.address = "db1".to_owned();
    assert!(matches!(target_add(&nowhere), Err(AddError::Address(_))));
    let mut open = good.clone();
    open.yes = true;
    chmod(&home.path("keys/target"), 0o644);
    assert!(matches!(target_add(&open), Err(AddError::Config(_))), "the configuration names the same key");
    chmod(&home.path("keys/target"), 0o600);
    open.name = "DB 1".to_owned();
    assert!(matches!(target_add(&open), Err(AddError::Result(_))));
    assert_eq!(std::fs::read(&file).unwrap(), before);
}

#[test]
fn what_is_no_ssh_server_is_an_error() {
    let home = Home::new();
    home.write(SAMPLE);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let talker = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(b"220 mail ready\r\n");
    });
    let request = request(&home, &addr);
    assert!(matches!(target_add(&request), Err(AddError::Handshake { .. })));
    talker.join().unwrap();
    assert!(matches!(target_add(&request), Err(AddError::Connect { .. })));
}

#[test]
fn an_edit_meanwhile_is_not_lost() {
    let home = Home::new();
    let file = home.write(SAMPLE);
    let before = std::fs::read(&file).unwrap();
    home.write(&format!("{SAMPLE}# edited\n"));
    assert!(matches!(append(&file, &before, "\n"), Err(AddError::Changed(_))));
    assert!(std::fs::read_to_string(&file).unwrap().ends_with("# edited\n"));
}

#[test]
fn a_role_is_a_login_and_perhaps_a_file() {
    let role = |login: &str, file: Option<&str>| RoleArg { login: login.to_owned(), key_file: file.map(PathBuf::from) };
    assert_eq!(parse_role("root=a=b").unwrap(), role("root", Some("a=b")));
    assert_eq!(parse_role("root").unwrap(), role("root", None));
    for text in ["root=", "=file", "Root Beer=file", ""] {
        assert!(parse_role(text).is_err(), "{text}");
    }
}

#[test]
fn options_that_do_not_go_together_are_usage() {
    let home = Home::new();
    let file = home.write(SAMPLE);
    let before = std::fs::read(&file).unwrap();
    let ssh = request(&home, "127.0.0.1:1");
    let role = |key_file: Option<PathBuf>| RoleArg { login: "dba".to_owned(), key_file };
    let pg = TargetAdd {
        kind: TargetKind::Pg,
        role: vec![role(None)],
        pg: PgArgs { database: Some("orders".to_owned()), tls_off: true, ..PgArgs::default() },
        ..ssh.clone()
    };
    let mut cases = vec![
        TargetAdd { pg: PgArgs { no_password: true, ..PgArgs::default() }, ..ssh.clone() },
        TargetAdd { role: vec![role(None)], ..ssh },
        TargetAdd { role: vec![role(Some("key".into()))], ..pg.clone() },
        TargetAdd { role: vec![role(None), role(None)], ..pg.clone() },
        TargetAdd { pg: PgArgs { tls_off: true, ..PgArgs::default() }, ..pg.clone() },
    ];
    for case in cases.drain(..) {
        let error = target_add(&case).unwrap_err();
        assert!(matches!(error, AddError::Usage(_)), "{error}");
    }
    let away = TargetAdd { address: "db1.example:5432".to_owned(), ..pg.clone() };
    assert!(matches!(target_add(&away), Err(AddError::Key(objection)) if objection.what.contains("off")));
    // Nobody types a password that could not be kept: the sample has no state key.
    assert!(matches!(target_add(&pg), Err(AddError::Secret(_))));
    // A database may be called like a machine.
    let named = TargetAdd { name: "web1".to_owned(), ..pg };
    assert!(matches!(target_add(&named), Err(AddError::Secret(_))));
    assert_eq!(std::fs::read(&file).unwrap(), before);
}
