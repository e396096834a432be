//! Who is let in: tokens, certificates, grants; and that a refusal says no more than it must.

use casemate_tests::pg_client::Access;
use casemate_tests::process::{nothing, run};
use casemate_tests::raw_pg::{RawPg, VERSION_3_0};
use casemate_tests::rig::{DATABASE, Options};
use casemate_tests::x509::Authority;
use casemate_tests::{keys, rig};

use super::{PATIENCE, ask, lab, lab_with, refusal, through, token};
use crate::{closed_sessions, control_says, only_session};

#[test]
fn a_token_opens_its_target_for_its_owner_and_nothing_else() {
    let lab = lab();
    let good = through(&lab);
    assert_eq!(refusal(&good, &[]), None);
    let with = |user: &str, password: &str| {
        let access = Access { user: user.to_owned(), password: password.to_owned(), ..good.clone() };
        refusal(&access, &[]).unwrap_or_default()
    };
    // Whatever is wrong with it, it reads the same.
    for (user, password) in [
        ("alice+orders", "wrong"),
        ("alice+orders", ""),
        ("bob+orders", good.password.as_str()),
        ("alice+stock", good.password.as_str()),
        ("alice+web1", good.password.as_str()),
        ("alice", good.password.as_str()),
        ("postgres", good.password.as_str()),
        ("alice+orders+postgres+more", good.password.as_str()),
    ] {
        let said = with(user, password);
        assert_eq!(said, format!("28P01 password authentication failed for user \\\"{user}\\\""), "{password:?}");
    }
    assert_eq!(with("alice+orders+postgres", &good.password), "", "the role may be named");
    assert_eq!(with("alice+orders+dba", &good.password), "28000 access denied");
    lab.bastion.stop();
    let vault = lab.vault();
    assert!(control_says(&vault, "auth", &["token", "no such person with that token", "alice+stock"]));
    assert!(control_says(&vault, "auth", &["token", "as \\\"dba\\\""]));
}

#[test]
fn a_token_is_shown_and_never_recorded() {
    let lab = lab();
    let token = token(&lab);
    assert_eq!(token.len(), 32, "{token:?}");
    let access = Access { password: token.clone(), ..through(&lab) };
    RawPg::login(&access).unwrap();
    // The same in JSON.
    let json = ask(&lab, "token orders --json").out();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let other = json["token"].as_str().unwrap().to_owned();
    assert_ne!(other, token);
    lab.bastion.stop();
    let vault = lab.vault();
    let mut redacted = 0;
    for kind in ["portal", "session", "control"] {
        for session in vault.of_kind(kind).unwrap() {
            let transcript = vault.transcript(session["session"].as_str().unwrap()).unwrap();
            let text = format!(
                "{:?} {}",
                transcript.events,
                transcript
                    .streams
                    .values()
                    .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
                    .collect::<String>()
            );
            assert!(!text.contains(&token) && !text.contains(&other), "{kind}");
            redacted += transcript.of("redacted").filter(|event| event["bytes"] == 32).count();
        }
    }
    assert!(redacted >= 2, "each is told by its length");
}

#[test]
fn a_token_is_not_given_to_those_who_may_not_go_there() {
    let lab = lab();
    for target in ["web1", "stock", "nowhere"] {
        let done = ask(&lab, &format!("token {target}"));
        assert_eq!((done.out().as_str(), done.code()), ("", 1));
        assert_eq!(done.err(), format!("casemate: no database \"{target}\" is open to you\n"));
    }
    assert_eq!(ask(&lab, "token").code(), 2);
    let authority = ask(&lab, "authority").out();
    assert_eq!(authority, std::fs::read_to_string(through(&lab).ca.unwrap()).unwrap());
}

#[test]
fn what_a_first_packet_may_not_ask_for_is_refused_by_name() {
    let lab = lab();
    let access = through(&lab);
    for (more, said) in [
        (("role", "postgres"), "0A000 unsupported startup parameter: role"),
        (("options", "-c session_authorization=x"), "0A000 unsupported startup parameter: session_authorization"),
        (("replication", "true"), "0A000 the replication protocol is not granted"),
        (("database", "template9"), "3D000 database \\\"template9\\\" does not exist"),
    ] {
        let refused = refusal(&access, &[more]).unwrap_or_default();
        assert_eq!(refused, said, "{more:?}");
    }
    let incident = [("options", "-c casemate.incident=INC-4711 -c statement_timeout=77s")];
    let (mut client, _) = RawPg::login_as(&access, VERSION_3_0, &incident).unwrap();
    let frames = client.query("show statement_timeout").unwrap();
    assert_eq!(frames[1].row(), [Some(b"77s".to_vec())]);
    drop(client);
    // The database that is not there was asked of the target, which said so.
    let sessions = closed_sessions(&lab.vault(), 2);
    let (_, transcript) = sessions.last().unwrap();
    let startup = transcript.of("pg.startup").next().unwrap();
    assert!(startup["left_out"].to_string().contains("casemate.incident"), "{startup}");
    let ready = transcript.of("pg.ready").next().unwrap();
    assert_eq!((&ready["user"], &ready["tls"]), (&"postgres".into(), &"TLSv1.3".into()), "{ready}");
}

#[test]
fn a_certificate_logs_in_whom_it_names_until_it_is_revoked() {
    let home = tempfile::tempdir().unwrap();
    let people = Authority::make(home.path(), "people").unwrap();
    let (alice, mallory) = (people.client("alice", "alice").unwrap(), people.client("mallory", "mallory").unwrap());
    let settings = format!("[postgres]\nclient_ca = {:?}\n", people.pem().display().to_string());
    let lab = lab_with(Options { settings: settings.parse().unwrap(), ..Options::default() });
    let access = through(&lab);
    let psql = |leaf: &casemate_tests::x509::Leaf, user: &str| {
        let mut psql = Access { password: String::new(), user: user.to_owned(), ..access.clone() }
            .program("psql", &lab.dir)
            .unwrap();
        psql.env("PGSSLCERT", &leaf.certificate).env("PGSSLKEY", &leaf.key).args(["-XAtc", "select current_user"]);
        run(&mut psql, nothing(), PATIENCE).unwrap()
    };
    let done = psql(&alice, "alice+orders");
    assert_eq!((done.out().as_str(), done.code()), ("postgres\n", 0), "{}", done.err());
    assert!(psql(&mallory, "alice+orders").err().contains("the certificate is for somebody else"));
    assert!(psql(&mallory, "mallory+orders").err().contains("password authentication failed"), "nobody of that name");
    let transcript = only_session(&lab.vault());
    assert_eq!(transcript.of("identity").next().unwrap()["method"], "certificate");
    // Without one, a token is as good as ever.
    assert_eq!(refusal(&access, &[]), None);
}

#[test]
fn somebody_else_cannot_use_a_token_and_a_role_has_to_be_named_where_there_are_several() {
    let home = tempfile::tempdir().unwrap();
    let key = home.path().join("bob");
    let bob = keys::make(&key, "ed25519").unwrap();
    let more = format!(
        "{}[[access]]\nperson = \"bob\"\ntargets = [\"orders\"]\nroles = [\"postgres\"]\nread_only = true\n",
        rig::person("bob", &[&bob], "admin")
    );
    let lab = lab_with(Options { more, ..Options::default() });
    let (good, database) = (through(&lab), DATABASE);
    let stolen = Access { user: format!("bob+{database}"), ..good.clone() };
    assert!(refusal(&stolen, &[]).unwrap_or_default().starts_with("28P01"));
    let mut ssh = lab.client.program("ssh");
    ssh.args(["-o", "IdentitiesOnly=yes", "-i"]).arg(&key).args(["-l", "bob", rig::PORTAL, "token", "orders"]);
    let done = run(&mut ssh, nothing(), PATIENCE).unwrap();
    let own = Access { user: format!("bob+{database}"), password: done.out().trim_end().to_owned(), ..good };
    let mut client = RawPg::login(&own).unwrap();
    let frames = client.query("show default_transaction_read_only").unwrap();
    assert_eq!(frames[1].row(), [Some(b"on".to_vec())], "read_only is the server's own rule");
    let refused = client.query("create table nope()").unwrap();
    assert_eq!(refused[0].field(b'C').as_deref(), Some("25006"));
}
