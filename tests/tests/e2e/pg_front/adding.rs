//! `casemate target add --kind pg`, as an operator does it: look, pin, log in once, and then it works.

use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::process::Command;

use casemate_tests::bastion::Bastion;
use casemate_tests::pg_client::Access;
use casemate_tests::postgres::{Guard, Options, PASSWORD, Postgres, SUPERUSER};
use casemate_tests::process::{Done, nothing, run};
use casemate_tests::{bins, keys};

use super::PATIENCE;

/// A database, and what `init` makes beside it.
struct Bench {
    home: tempfile::TempDir,
    server: Guard,
}

impl Bench {
    fn new(hba: &str, conf: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let options = Options { hba: hba.to_owned(), conf: conf.to_owned(), ..Options::default() };
        let server = Guard(Postgres::start(&home.path().join("postgres"), &options).unwrap());
        let key = home.path().join("alice");
        keys::make(&key, "ed25519").unwrap();
        let (dir, public) = (home.path().join("d"), keys::public_path(&key));
        let init = ["init", "--dir", dir.to_str().unwrap(), "--listen", "127.0.0.1:0", "--pg-port", "0"];
        let person = ["--person", "alice", "--key", public.to_str().unwrap()];
        Bastion::casemate(&[&init[..], &person].concat()).unwrap().ok().unwrap();
        Self { home, server }
    }

    fn config(&self) -> std::path::PathBuf {
        self.home.path().join("d/casemate.toml")
    }

    fn add(&self, more: &[&str], typed: &str) -> Done {
        let mut command = Command::new(bins::path("casemate").unwrap());
        command.args([
            "target",
            "add",
            "--kind",
            "pg",
            "--name",
            "orders",
            "--database",
            "postgres",
            "--allow",
            "alice",
        ]);
        command.arg("--config").arg(self.config()).args(["--role", SUPERUSER]);
        command.arg("--address").arg(format!("127.0.0.1:{}", self.server.port)).args(more);
        run(&mut command, Cursor::new(typed.to_owned()), PATIENCE).unwrap()
    }

    fn checks(&self) {
        Bastion::casemate(&["check", "--config", self.config().to_str().unwrap()]).unwrap().ok().unwrap();
    }

    fn made(&self) -> Vec<String> {
        let files = fs::read_dir(self.home.path().join("d/keys")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("orders")).collect()
    }
}

fn fingerprint(pem: &Path) -> String {
    let mut openssl = Command::new("openssl");
    openssl.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(pem);
    run(&mut openssl, nothing(), PATIENCE).unwrap().ok().unwrap().out().trim().to_owned()
}

#[test]
fn the_authority_that_a_database_shows_is_pinned_once_somebody_confirms_it() {
    // With ssl_ca_file, OpenSSL would send the authority by itself.
    let bench = Bench::new("", "ssl_ca_file = ''");
    let typed = format!("{PASSWORD}\n");
    let before = fs::read(bench.config()).unwrap();
    // The leaf alone names an authority that nobody has.
    let done = bench.add(&["--yes"], &typed);
    assert_eq!(done.code(), 1);
    assert!(done.err().contains("name the PEM file of CN=ca of a test with --ca"), "{}", done.err());

    let ca = bench.server.ca();
    let leaf = bench.server.dir.join("server.crt");
    fs::write(&leaf, [fs::read(&leaf).unwrap(), fs::read(&ca).unwrap()].concat()).unwrap();
    bench.server.sql("postgres", "select pg_reload_conf()").unwrap();
    let wanted = fingerprint(&ca);
    let shown = wanted.split_once('=').unwrap().1;

    let done = bench.add(&[], &typed);
    assert!(done.err().contains(&format!("give --fingerprint SHA256:{shown}")), "{}", done.err());
    let other = fingerprint(&bench.home.path().join("d/keys/pg_ca.crt"));
    assert!(bench.add(&["--fingerprint", &other], &typed).err().contains("do not go on"));
    let done = bench.add(&["--fingerprint", &wanted], "guess\n");
    assert!(done.err().contains("password authentication failed"), "{}", done.err());
    assert_eq!(bench.add(&["--fingerprint", &wanted], "\n").code(), 1, "no password is none");
    assert_eq!(bench.made(), [""; 0], "what came to nothing leaves nothing");
    assert_eq!(fs::read(bench.config()).unwrap(), before);

    let done = bench.add(&["--fingerprint", &wanted], &typed).ok().unwrap();
    for words in
        ["CN=localhost", "issued by CN=ca of a test", shown, "logged in as postgres by scram-sha-256-plus, TLSv1.3"]
    {
        assert!(done.out().contains(words), "{words}: {}", done.out());
    }
    let mut made = bench.made();
    made.sort();
    assert_eq!(made, ["orders-postgres.age", "orders_ca.pem"]);
    assert_eq!(fingerprint(&bench.home.path().join("d/keys/orders_ca.pem")), wanted);
    bench.checks();
    let text = fs::read_to_string(bench.config()).unwrap();
    assert!(text.contains("ca_file = \"keys/orders_ca.pem\"") && !text.contains(PASSWORD), "{text}");
    assert!(bench.add(&["--fingerprint", &wanted], &typed).err().contains("is taken"));
}

#[test]
fn a_database_is_added_with_an_authority_at_hand_or_without_tls_or_by_certificate() {
    let bench = Bench::new("hostnossl all all 127.0.0.1/32 trust\nhostssl all all 127.0.0.1/32 cert", "");
    let (ca, leaf) = (bench.server.ca(), bench.server.client_leaf());
    let before = fs::read(bench.config()).unwrap();
    let ca = ["--ca", ca.to_str().unwrap()];
    let own = ["--cert", leaf.certificate.to_str().unwrap(), "--key", leaf.key.to_str().unwrap()];
    let done = bench.add(&[&ca[..], &["--no-password"]].concat(), "");
    assert!(done.err().contains("connection requires a valid client certificate"), "{}", done.err());
    assert_eq!(fs::read(bench.config()).unwrap(), before);
    for (more, words) in [
        (&[&ca[..], &own].concat()[..], "logged in as postgres by cert, TLSv1.3"),
        (&["--tls-off", "--no-password"][..], "logged in as postgres by trust, without TLS"),
    ] {
        fs::write(bench.config(), &before).unwrap();
        let done = bench.add(more, "").ok().unwrap();
        assert!(done.out().contains(words), "{}", done.out());
        bench.checks();
    }
    assert_eq!(bench.add(&["--tls-off", "--ca", "x"], "").code(), 2);
    let usage = ["target", "add", "--name", "x", "--address", "127.0.0.1:1", "--role", "root", "--tls-off", "--config"];
    assert_eq!(Bastion::casemate(&[&usage[..], &[bench.config().to_str().unwrap()]].concat()).unwrap().code(), 2);
}

#[test]
fn a_database_that_was_added_is_reached_through_the_bastion() {
    let bench = Bench::new("", "");
    bench.add(&["--ca", bench.server.ca().to_str().unwrap()], &format!("{PASSWORD}\n")).ok().unwrap();
    let port = casemate_tests::sshd::free_port().unwrap();
    let pg = casemate_tests::sshd::free_port().unwrap();
    let text = fs::read_to_string(bench.config()).unwrap();
    let text = text.replace("ssh = [\"127.0.0.1:0\"]", &format!("ssh = [\"127.0.0.1:{port}\"]"));
    fs::write(
        bench.config(),
        text.replace("postgres = [\"127.0.0.1:0\"]", &format!("postgres = [\"127.0.0.1:{pg}\"]")),
    )
    .unwrap();
    let dir = bench.home.path().join("d");
    let bastion = Bastion::serve(&dir, port).unwrap();
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-i"]);
    ssh.arg(bench.home.path().join("alice")).args(["-p", &port.to_string(), "alice@127.0.0.1", "token", "orders"]);
    let token = run(&mut ssh, nothing(), PATIENCE).unwrap().ok().unwrap().out().trim().to_owned();
    let access = Access {
        host: "127.0.0.1".to_owned(),
        port: pg,
        user: "alice+orders".to_owned(),
        password: token,
        database: "postgres".to_owned(),
        ca: Some(dir.join("keys/pg_ca.crt")),
    };
    let mut psql = access.program("psql", bench.home.path()).unwrap();
    let done = run(psql.args(["-XAtc", "select 6 * 7"]), nothing(), PATIENCE).unwrap();
    bastion.stop();
    assert_eq!(done.out(), "42\n", "{}", done.err());
}
