//! Unset means no, and a denial tells the client nothing that helps to list what exists.

use super::*;
use crate::config::parse_public_key;
use crate::testing::{ALICE, BOB, Home, SAMPLE};

fn policy(text: &str) -> Policy {
    Policy::new(Arc::new(Home::new().load(text).unwrap()))
}

fn source() -> SocketAddr {
    "192.0.2.99:4022".parse().unwrap()
}

fn identify(policy: &Policy, person: &str, key: &str) -> Option<Identity> {
    policy.identify(person, &parse_public_key(key).unwrap(), source())
}

fn ask(policy: &Policy, who: &Identity, login: &str) -> Result<Grant, Denial> {
    policy.authorize(who, &Wanted::parse(login).unwrap(), TargetKind::Ssh)
}

#[test]
fn only_the_key_of_that_person_identifies() {
    let policy = policy(SAMPLE);
    let alice = identify(&policy, "alice", ALICE).unwrap();
    assert_eq!((alice.person(), alice.method(), alice.source()), ("alice", "publickey", source()));
    assert!(alice.fingerprint().starts_with("SHA256:"));
    // The comment is not part of the key.
    let bare = ALICE.rsplit_once(' ').unwrap().0;
    assert_eq!(identify(&policy, "alice", bare), Some(alice));

    assert_eq!(identify(&policy, "alice", BOB), None, "another person's key");
    assert_eq!(identify(&policy, "carol", ALICE), None, "an unknown person");
    assert_eq!(identify(&policy, "", ALICE), None);
    assert!(!policy.knows_key("alice", &parse_public_key(crate::testing::WEB1).unwrap()), "a key nobody has");
}

#[test]
fn a_grant_says_who_where_and_why() {
    let policy = policy(SAMPLE);
    let alice = identify(&policy, "alice", ALICE).unwrap();
    let grant = ask(&policy, &alice, "alice+web1+root").unwrap();
    assert_eq!((grant.person(), grant.target().name.as_str()), ("alice", "web1"));
    assert_eq!((grant.role().login.as_str(), grant.reason(), grant.until()), ("root", "on call", None));
    assert_eq!(grant.target().address(), "192.0.2.7:22");
    assert_eq!(grant.content(), Content::Full);
    assert!(grant.forwards().is_empty());
    let line = SAMPLE.lines().position(|line| line == "[[access]]").unwrap() + 1;
    assert!(grant.id().starts_with(&format!("access:{line}@")), "{}", grant.id());
}

#[test]
fn a_grant_carries_what_its_own_access_line_lets_forward() {
    let text = SAMPLE.replace("reason = \"on call\"", "reason = \"on call\"\nforward = [\"localhost:80\"]");
    let policy = policy(&text);
    let alice = identify(&policy, "alice", ALICE).unwrap();
    let bob = identify(&policy, "bob", BOB).unwrap();
    assert!(ask(&policy, &alice, "alice+web1+deploy").unwrap().forwards().connects("localhost", 80));
    assert!(ask(&policy, &bob, "bob+web1").unwrap().forwards().is_empty());
}

#[test]
fn a_destination_is_a_name_or_an_address_that_means_one_target() {
    let policy = policy(SAMPLE);
    let alice = identify(&policy, "alice", ALICE).unwrap();
    let bob = identify(&policy, "bob", BOB).unwrap();
    let cases: &[(&Identity, &str, u32, Option<&str>)] = &[
        (&alice, "web1", 22, Some("web1")),
        (&alice, "WWW", 22, Some("web1")),
        (&alice, "192.0.2.7", 22, Some("web1")),
        // The target's own port is as good as the default.
        (&alice, "web2", 22, Some("web2")),
        (&alice, "web2", 2022, Some("web2")),
        (&alice, "2001:DB8::7", 2022, Some("web2")),
        (&alice, "2001:db8::7", 22, None),
        (&alice, "web1", 2022, None),
        (&alice, "web1", 5432, None),
        (&alice, "web1", 65_536 + 22, None),
        (&alice, "web3", 22, None),
        (&alice, "", 22, None),
        // No line leads there.
        (&bob, "web1", 22, Some("web1")),
        (&bob, "web2", 22, None),
    ];
    for (who, host, port, expected) in cases {
        let found = policy.destination(who, host, *port).ok().map(|target| target.name.clone());
        assert_eq!(found.as_deref(), *expected, "{} {host}:{port}", who.person());
    }
    let Err(denial) = policy.destination(&alice, &"x".repeat(100_000), 22) else { panic!("no such host") };
    assert!(denial.to_string().len() < 400, "the record needs no more of it");
}

#[test]
fn an_address_of_two_targets_means_neither() {
    let policy = policy(&SAMPLE.replace("[2001:db8::7]:2022", "192.0.2.7:22"));
    let alice = identify(&policy, "alice", ALICE).unwrap();
    assert!(policy.destination(&alice, "192.0.2.7", 22).is_err());
    assert!(policy.destination(&alice, "web2", 22).is_ok());
}

#[test]
fn a_person_sees_where_they_may_go_and_nothing_else() {
    let policy = policy(SAMPLE);
    let list = |person: &str, key: &str| -> Vec<(String, Vec<String>)> {
        let who = identify(&policy, person, key).unwrap();
        policy.reachable(&who).into_iter().map(|way| (way.target.name.clone(), way.roles)).collect()
    };
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        list("alice", ALICE),
        [("web1".to_owned(), names(&["root", "deploy"])), ("web2".to_owned(), names(&["deploy"]))]
    );
    assert_eq!(list("bob", BOB), [("web1".to_owned(), names(&["deploy"]))]);
}

#[test]
fn every_question_has_one_answer() {
    let policy = policy(SAMPLE);
    let alice = identify(&policy, "alice", ALICE).unwrap();
    let bob = identify(&policy, "bob", BOB).unwrap();
    let denied = "access denied";
    // Who asks, what for, and the role granted or the text of the denial.
    let cases: &[(&Identity, &str, Result<&str, &str>)] = &[
        (&alice, "alice+web1+root", Ok("root")),
        (&alice, "alice+web1+deploy", Ok("deploy")),
        (&alice, "alice+www+root", Ok("root")),
        (&alice, "alice:web1:root", Ok("root")),
        (&alice, "alice#web1#root", Ok("root")),
        // One role is open there: it may be left out.
        (&alice, "alice+web2", Ok("deploy")),
        (&bob, "bob+web1", Ok("deploy")),
        (&bob, "bob+www", Ok("deploy")),
        // Several are: it may not.
        (&alice, "alice+web1", Err("name a role, one of root, deploy: alice+web1+ROLE")),
        (&alice, "alice+www", Err("name a role, one of root, deploy: alice+www+ROLE")),
        (&alice, "alice", Err("name a target: alice+TARGET")),
        // The role exists on web1 and is in the access line, and web2 does not have it.
        (&alice, "alice+web2+root", Err(denied)),
        (&bob, "bob+web1+root", Err(denied)),
        (&bob, "bob+web2", Err(denied)),
        (&bob, "bob+web2+deploy", Err(denied)),
        (&bob, "bob+web3", Err(denied)),
        (&bob, "bob+web1+nobody", Err(denied)),
        (&bob, "alice+web1+deploy", Err(denied)),
        (&alice, "bob+web1+deploy", Err(denied)),
        (&alice, "carol+web1+root", Err(denied)),
    ];
    for (who, login, expected) in cases {
        let answer = ask(&policy, who, login);
        let answer = answer.as_ref().map(|grant| grant.role().login.as_str()).map_err(Denial::client_text);
        assert_eq!(answer, expected.map_err(str::to_owned), "{} asks for {login}", who.person());
    }
}

#[test]
fn a_denial_tells_the_record_what_it_hides_from_the_client() {
    let policy = policy(SAMPLE);
    let bob = identify(&policy, "bob", BOB).unwrap();
    let mut texts = Vec::new();
    for (login, reason) in [
        ("bob+web3", "target \"web3\" is not configured"),
        ("bob+web2", "no access line lets \"bob\" reach \"web2\""),
        ("bob+www+root", "no access line lets \"bob\" reach \"web1\" as \"root\""),
        ("alice+web1", "identity is \"bob\" and the login names \"alice\""),
    ] {
        let denial = ask(&policy, &bob, login).unwrap_err();
        assert_eq!(denial.to_string(), reason);
        assert_eq!(denial.fault(), Fault::Policy);
        texts.push(denial.client_text());
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "all denials read alike: {texts:?}");
}

#[test]
fn without_access_lines_nobody_goes_anywhere() {
    let (head, _) = SAMPLE.split_once("[[access]]").unwrap();
    let policy = policy(head);
    for (person, key) in [("alice", ALICE), ("bob", BOB)] {
        let who = identify(&policy, person, key).unwrap();
        for rest in ["web1", "web1+root", "web1+deploy", "www", "web2", "web2+deploy"] {
            let denial = ask(&policy, &who, &format!("{person}+{rest}")).unwrap_err();
            assert!(matches!(denial, Denial::NoAccess { .. }), "{denial}");
        }
    }
}

#[test]
fn a_reload_takes_effect_for_the_next_question() {
    let live = Live::new(policy(SAMPLE));
    let before = live.current();
    let alice = identify(&before, "alice", ALICE).unwrap();
    let held = ask(&before, &alice, "alice+web1+root").unwrap();
    let (head, _) = SAMPLE.split_once("[[person]]").unwrap();
    live.replace(policy(head));
    assert!(matches!(ask(&live.current(), &alice, "alice+web1+root"), Err(Denial::UnknownPerson { .. })));
    // A running session keeps what it was given.
    assert_eq!(held.target().name, "web1");
    assert!(ask(&before, &alice, "alice+web1+root").is_ok());
}

#[test]
fn a_key_that_a_reload_took_away_proves_nothing_any_more() {
    let before = policy(SAMPLE);
    let alice = identify(&before, "alice", ALICE).unwrap();
    let after = policy(&SAMPLE.replace("@ALICE", "@WEB1"));
    for who in [&alice, &after.identify_in_tunnel(&alice)] {
        let denial = ask(&after, who, "alice+web1+root").unwrap_err();
        assert!(matches!(denial, Denial::KeyGone { .. }), "{denial}");
        assert_eq!((denial.fault(), denial.client_text().as_str()), (Fault::Policy, "access denied"));
        assert!(after.destination(who, "web1", 22).is_err());
        assert!(ask(&before, who, "alice+web1+root").is_ok());
    }
    // What takes a certificate away is the revocation list.
    let certified = after.identify_by_certificate("alice", "SHA256:other".to_owned(), source()).unwrap();
    assert!(ask(&after, &certified, "alice+web1+root").is_ok());
}

#[test]
fn a_login_is_one_to_three_names() {
    let wanted = Wanted::parse("alice+web1+root").unwrap();
    assert_eq!(
        (wanted.person.as_str(), wanted.target.as_deref(), wanted.role.as_deref()),
        ("alice", Some("web1"), Some("root"))
    );
    assert_eq!(Wanted::parse("alice").unwrap().target, None);
    let long = "a".repeat(65);
    let huge = "a".repeat(65_536);
    let bad = [
        "",
        "+",
        "alice+",
        "+web1",
        "alice++root",
        "alice+web1+",
        "alice+web1+root+more",
        "Alice",
        "alice web1",
        "alice+web1 ",
        "alice\n",
        "alice+$(id)",
        "alice+%h",
        "alice+..",
        "alice+.hidden",
        "alice+-oProxyCommand=id",
        "alice+web1/../x",
        "alice+\u{202e}1bew",
        "al\u{0456}ce",
        "alice\0",
        "alice+web1@host",
        "1alice",
        &long,
        &huge,
    ];
    for login in bad {
        assert_eq!(Wanted::parse(login), Err(MalformedLogin), "{login:?}");
    }
}

#[test]
fn a_grant_shown_in_a_log_shows_no_key() {
    let policy = policy(SAMPLE);
    let alice = identify(&policy, "alice", ALICE).unwrap();
    let shown = format!("{:?}", ask(&policy, &alice, "alice+web1+root").unwrap());
    assert!(shown.contains("web1") && !shown.contains("auth"), "{shown}");
}
