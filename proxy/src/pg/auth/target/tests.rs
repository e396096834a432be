//! Targets that log in, and targets that try something else: scripts of messages in, the login's steps out.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::password::{Ask, Keys};
use super::*;
use crate::pg::auth::scram::{Exchange, FinalExpected, ITERATIONS, Verifier};
use crate::pg::codec::Complaint;
use crate::pg::startup::STARTUP_LEN_MAX;
use crate::pg::testing::{auth, frame};

const END_POINT: [u8; 32] = [0xe5; 32];
const NONCE: [u8; NONCE_LEN] = [3; NONCE_LEN];

fn login(protocol: u32) -> Login {
    Login {
        user: "dba".to_owned(),
        database: Bytes::from_static(b"orders"),
        password: Some(Password::new(Zeroizing::new("s3cret".to_owned()))),
        params: vec![(Bytes::from_static(b"client_encoding"), Bytes::from_static(b"LATIN1"))],
        protocol,
    }
}

fn tls() -> Channel {
    Channel::Tls { end_point: Some(END_POINT.to_vec()), with_certificate: false }
}

fn sasl(mechanisms: &[&str]) -> Vec<u8> {
    let list: Vec<u8> = mechanisms.iter().flat_map(|name| [name.as_bytes(), &[0]].concat()).chain([0]).collect();
    auth(10, &list)
}

fn greeting() -> Vec<u8> {
    [
        frame(b'S', b"server_version\x0018.4\0"),
        frame(b'N', b"SNOTICE\0Mwelcome\0\0"),
        frame(b'K', &[&7u32.to_be_bytes()[..], b"secr"].concat()),
        frame(b'S', b"TimeZone\0UTC\0"),
        frame(b'Z', b"I"),
    ]
    .concat()
}

/// What a login came to: what it sent, how often it hashed the password, and that it waits, is through or was refused.
struct Ran {
    sent: Vec<Vec<u8>>,
    derived: u32,
    end: Result<Option<Reached>, Refused>,
}

impl Ran {
    fn reached(self) -> Reached {
        self.end.unwrap().expect("still waiting")
    }

    fn refused(self) -> Refused {
        self.end.expect_err("not refused")
    }
}

/// A target's side of SCRAM, by the bastion's own server.
enum Server {
    First(Exchange, Verifier),
    Final(FinalExpected, Verifier),
    Done,
}

impl Server {
    fn new(password: &str, plus: bool) -> Self {
        Self::knowing(Verifier::of(password.as_bytes(), [7; 16], ITERATIONS), plus)
    }

    fn knowing(verifier: Verifier, plus: bool) -> Self {
        Self::First(Exchange::new([7; 16], plus.then_some(&END_POINT[..]), [9; 18]), verifier)
    }

    /// With another salt, and channel binding.
    fn salted(password: &str, salt: [u8; 16]) -> Self {
        let verifier = Verifier::of(password.as_bytes(), salt, ITERATIONS);
        Self::First(Exchange::new(salt, Some(&END_POINT), [9; 18]), verifier)
    }

    /// Answers a message of type `p`.
    fn answer(&mut self, sent: &[u8]) -> Result<Vec<u8>, crate::pg::auth::scram::Refused> {
        let mut fields = Fields(&sent[HEADER_LEN..]);
        match std::mem::replace(self, Self::Done) {
            Self::First(exchange, verifier) => {
                let mechanism = fields.text().unwrap();
                let len = fields.u32().unwrap() as usize;
                let (first, expected) = exchange.first(mechanism, fields.bytes(len).unwrap())?;
                *self = Self::Final(expected, verifier);
                Ok(auth(11, &first))
            }
            Self::Final(expected, verifier) => {
                let proven = expected.last(fields.0)?.fits(&verifier).ok_or(crate::pg::auth::scram::Refused::Proof)?;
                Ok(auth(12, proven.server_final()))
            }
            Self::Done => panic!("nothing more is due"),
        }
    }
}

/// Runs a login against what a target says, `cut` bytes at a time, and what its SCRAM answers.
fn run_with(login: Login, channel: Channel, script: &[u8], cut: usize, mut server: Option<Server>, last: &[u8]) -> Ran {
    let (mut reaching, startup) = Reaching::new(login, channel, NONCE).unwrap();
    let (mut sent, mut said) = (vec![startup.to_vec()], script.to_vec());
    let (mut at, mut derived) = (0, 0);
    let end = loop {
        let (next, answer) = match reaching.advance() {
            Err(refused) => break Err(refused),
            Ok(Step::Reached(mut reached)) => {
                reached.leftover.extend_from_slice(&said[at..]);
                break Ok(Some(reached));
            }
            Ok(Step::Read(_)) if at == said.len() => break Ok(None),
            Ok(Step::Read(mut next)) => {
                let end = said.len().min(at + cut);
                next.feed(&said[at..end]);
                at = end;
                (next, None)
            }
            Ok(Step::Send(next, bytes)) => (next, Some(bytes)),
            Ok(Step::Derive(work)) => {
                derived += 1;
                let (next, bytes) = work.run();
                (next, Some(bytes))
            }
        };
        if let Some(answer) = answer {
            if let Some(server) = &mut server {
                let reply = server.answer(&answer).unwrap();
                let over = reply[8] == 12;
                said.extend(reply);
                if over {
                    said.extend_from_slice(last);
                }
            }
            sent.push(answer.to_vec());
        }
        reaching = next;
    };
    Ran { sent, derived, end }
}

fn run(channel: Channel, script: &[&[u8]]) -> Ran {
    run_with(login(VERSION_3_0), channel, &script.concat(), usize::MAX / 2, None, &[])
}

fn run_scram(channel: Channel, mechanisms: &[&str], cut: usize) -> Ran {
    let server = Server::new("s3cret", mechanisms.len() == 2);
    let last = [auth(0, &[]), greeting(), b"more".to_vec()].concat();
    run_with(login(VERSION_3_0), channel, &sasl(mechanisms), cut, Some(server), &last)
}

const BOTH: [&str; 2] = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"];
const ONE: [&str; 1] = ["SCRAM-SHA-256"];

#[test]
fn the_startup_message_says_who_logs_in_and_what_was_allowed() {
    let ran = run(tls(), &[]);
    let text = b"\0\x03\0\0user\0dba\0database\0orders\0client_encoding\0LATIN1\0\0";
    assert_eq!(ran.sent, [[&(text.len() as u32 + 4).to_be_bytes()[..], text].concat()]);
    assert!(ran.end.unwrap().is_none());
}

#[test]
fn no_parameter_can_change_who_logs_in() {
    let refused = |change: fn(&mut Login)| {
        let mut login = login(VERSION_3_0);
        change(&mut login);
        Reaching::new(login, tls(), NONCE).err()
    };
    let parameter = |name: &str| Some(Refused::Parameter(name.to_owned()));
    for (name, value) in [("user", "postgres"), ("database", "x"), ("", "x"), ("_pq_.x", "1"), ("a\0user", "postgres")]
    {
        let mut login = login(VERSION_3_0);
        login.params.push((name.into(), value.into()));
        assert_eq!(Reaching::new(login, tls(), NONCE).err(), parameter(name), "{name:?}");
    }
    assert_eq!(refused(|login| login.params[0].1 = "a\0user\0postgres".into()), parameter("client_encoding"));
    assert_eq!(refused(|login| login.user = "dba\0user\0postgres".to_owned()), parameter("user"));
    assert_eq!(refused(|login| login.user.clear()), parameter("user"));
    assert!(matches!(refused(|login| login.protocol = 0x0003_0001), Some(Refused::Version { .. })));
    let long = refused(|login| login.params.push((Bytes::from_static(b"x"), vec![b'x'; STARTUP_LEN_MAX].into())));
    assert!(matches!(long, Some(Refused::StartupLen(_))));
}

#[test]
fn what_a_target_says_after_the_login_is_kept_as_it_came() {
    let reached = run(tls(), &[&auth(0, &[]), &greeting(), b"T\0\0"]).reached();
    let key = reached.key.unwrap();
    assert_eq!((key.pid, &key.secret[..]), (7, &b"secr"[..]));
    assert_eq!(key.cancel_request(), &b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07secr"[..]);
    let kept = [&frame(b'S', b"server_version\x0018.4\0")[..], &frame(b'N', b"SNOTICE\0Mwelcome\0\0")].concat();
    assert_eq!(reached.greeting, [kept, frame(b'S', b"TimeZone\0UTC\0")].concat());
    assert_eq!((reached.status, reached.server_version.as_str(), reached.method), (b'I', "18.4", "trust"));
    assert_eq!((&reached.leftover[..], reached.protocol), (&b"T\0\0"[..], VERSION_3_0));
}

#[test]
fn a_server_without_keys_for_cancelling_is_reached() {
    assert!(run(tls(), &[&auth(0, &[]), &frame(b'Z', b"I")]).reached().key.is_none());
}

#[test]
fn nothing_asked_of_one_who_has_a_certificate_to_show_is_cert() {
    let channel = Channel::Tls { end_point: None, with_certificate: true };
    assert_eq!(run(channel, &[&auth(0, &[]), &greeting()]).reached().method, "cert");
    assert_eq!(run(Channel::Plain, &[&auth(0, &[]), &greeting()]).reached().method, "trust");
}

#[test]
fn a_password_goes_in_clear_over_checked_tls_alone() {
    let ran = run(tls(), &[&auth(3, &[]), &auth(0, &[]), &greeting()]);
    assert_eq!(ran.sent[1], b"p\0\0\0\x0bs3cret\0");
    assert_eq!(ran.reached().method, "password");
    let ran = run(Channel::Plain, &[&auth(3, &[]), &auth(0, &[]), &greeting()]);
    assert_eq!(ran.sent.len(), 1);
    assert_eq!(ran.refused(), Refused::Cleartext);
}

#[test]
fn md5_is_answered_with_the_salted_digest() {
    let ran = run(Channel::Plain, &[&auth(5, &[0x2a, 0x3d, 0x8f, 0xe0]), &auth(0, &[]), &greeting()]);
    let digest = md5_hash(b"dba", b"s3cret", [0x2a, 0x3d, 0x8f, 0xe0]);
    assert_eq!(ran.sent[1], frame(b'p', &[digest.as_bytes(), &[0]].concat()));
    assert_eq!(ran.reached().method, "md5");
    assert!(matches!(run(tls(), &[&auth(5, &[1, 2, 3])]).refused(), Refused::Malformed(_)));
}

#[test]
fn scram_is_bound_to_the_certificate_wherever_the_target_can() {
    let ran = run_scram(tls(), &BOTH, 1000);
    assert!(ran.sent[1][HEADER_LEN..].starts_with(b"SCRAM-SHA-256-PLUS\0"));
    assert_eq!(ran.reached().method, "scram-sha-256-plus");
    // A server that does not offer it is told that we would have.
    let ran = run_scram(tls(), &ONE, 1000);
    assert!(ran.sent[1][HEADER_LEN..].starts_with(b"SCRAM-SHA-256\0\0\0\0\x20y,,"), "{:?}", ran.sent[1]);
    assert_eq!(ran.reached().method, "scram-sha-256");
    let ran = run_scram(Channel::Plain, &ONE, 1000);
    assert!(ran.sent[1][HEADER_LEN..].starts_with(b"SCRAM-SHA-256\0\0\0\0\x20n,,"));
    assert_eq!(ran.reached().method, "scram-sha-256");
}

#[test]
fn the_password_is_hashed_once_for_as_long_as_the_target_keeps_its_salt() {
    let log_in = |password: &Password, server: Server| {
        let login = Login { password: Some(password.clone()), ..login(VERSION_3_0) };
        let script = sasl(&BOTH);
        let last = [auth(0, &[]), greeting()].concat();
        run_with(login, tls(), &script, 1000, Some(server), &last)
    };
    let password = Password::new(Zeroizing::new("s3cret".to_owned()));
    let (first, second) =
        (log_in(&password, Server::new("s3cret", true)), log_in(&password, Server::new("s3cret", true)));
    assert_eq!((first.derived, second.derived), (1, 0));
    assert_eq!((first.reached().method, second.reached().method), ("scram-sha-256-plus", "scram-sha-256-plus"));
    // The password is set anew there: another salt. And the configuration is read again here: another holder.
    let anew = || Server::salted("s3cret", [8; 16]);
    assert_eq!((log_in(&password, anew()).derived, log_in(&password, anew()).derived), (1, 0));
    let read_again = Password::new(Zeroizing::new("s3cret".to_owned()));
    assert_eq!(log_in(&read_again, anew()).derived, 1);
}

#[test]
fn a_login_with_remembered_keys_is_checked_as_the_first_one_was() {
    let password = Password::new(Zeroizing::new("s3cret".to_owned()));
    let begin = || {
        let login = Login { password: Some(password.clone()), ..login(VERSION_3_0) };
        let reaching = fed(Reaching::new(login, tls(), NONCE).unwrap().0, &sasl(&BOTH));
        let Ok(Step::Send(reaching, answer)) = reaching.advance() else { panic!("no answer") };
        (reaching, answer)
    };
    let mut server = Server::new("s3cret", true);
    let (reaching, answer) = begin();
    let Ok(Step::Derive(work)) = fed(reaching, &server.answer(&answer).unwrap()).advance() else { panic!("no work") };
    let (reaching, answer) = work.run();
    // A proof that is none leaves nothing behind: who asked may be anybody.
    assert!(matches!(fed(reaching, &auth(12, b"v=AAAA")).advance().err(), Some(Refused::Scram(_))));
    let (reaching, first) = begin();
    let reply = Server::new("s3cret", true).answer(&first).unwrap();
    let Ok(Step::Derive(work)) = fed(reaching, &reply).advance() else { panic!("remembered from a failed login") };
    let (reaching, last) = work.run();
    assert_eq!(answer, last);
    assert!(matches!(fed(reaching, &server.answer(&last).unwrap()).advance(), Ok(Step::Read(_))));
    // From here on they are remembered. The target proves itself all the same.
    for wrong in [auth(12, b"v=AAAA"), auth(0, &[])] {
        let (reaching, _) = begin();
        let Ok(Step::Send(reaching, _)) = fed(reaching, &reply).advance() else { panic!("not remembered") };
        assert!(fed(reaching, &wrong).advance().is_err());
    }
}

#[test]
fn the_exchange_of_rfc_7677_comes_out_as_printed() {
    let password = Password::new(Zeroizing::new("pencil".to_owned()));
    let keys = |salt: &str| {
        let salt = BASE64_STANDARD.decode(salt).unwrap();
        Keys::derive(&password, Ask { salt, iterations: ITERATIONS })
    };
    let said = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    let keys = keys("W22ZaJ0SNY7soEsUEjb6gQ==");
    assert_eq!(BASE64_STANDARD.encode(keys.proof(said.as_bytes())), "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
    let signature = BASE64_STANDARD.encode(*keys.server_signature(said.as_bytes()));
    assert_eq!(signature, "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

#[test]
fn any_cut_gives_the_same_login() {
    for cut in 1..40 {
        let reached = run_scram(tls(), &BOTH, cut).reached();
        assert_eq!((reached.method, reached.server_version.as_str()), ("scram-sha-256-plus", "18.4"));
        assert_eq!(&reached.leftover[..], b"more", "{cut} bytes at a time");
    }
}

#[test]
fn channel_binding_is_never_let_go_of_silently() {
    // Somebody takes the offer of PLUS away: the server, which has it, notices by our flag.
    let mut server = Server::new("s3cret", true);
    let sent = run(tls(), &[&sasl(&ONE)]).sent;
    assert_eq!(server.answer(&sent[1]).unwrap_err(), crate::pg::auth::scram::Refused::Downgrade);
    // PLUS without TLS: somebody takes the TLS off.
    assert_eq!(run(Channel::Plain, &[&sasl(&BOTH)]).refused(), Refused::PlusWithoutTls);
    // A certificate that nothing can be bound to.
    let unbindable = Channel::Tls { end_point: None, with_certificate: false };
    assert_eq!(run(unbindable.clone(), &[&sasl(&BOTH)]).refused(), Refused::Unbindable);
    assert_eq!(run_scram(unbindable, &ONE, 1000).reached().method, "scram-sha-256");
}

#[test]
fn a_target_must_prove_that_it_knows_the_password_before_it_may_say_ok() {
    let first = |server: &mut Server| {
        let (reaching, _) = Reaching::new(login(VERSION_3_0), tls(), NONCE).unwrap();
        let Ok(Step::Send(mut reaching, answer)) = fed(reaching, &sasl(&BOTH)).advance() else { panic!("no answer") };
        reaching.feed(&server.answer(&answer).unwrap());
        reaching
    };
    // At once, after its first message, or with a proof that is not one.
    let reaching = fed(Reaching::new(login(VERSION_3_0), tls(), NONCE).unwrap().0, &sasl(&BOTH));
    let Ok(Step::Send(reaching, _)) = reaching.advance() else { panic!("no answer") };
    assert_eq!(fed(reaching, &auth(0, &[])).advance().err(), Some(Refused::Order(0)));
    let finals = [auth(0, &[]), auth(12, b"v=AAAA"), auth(12, b"e=other-error"), auth(12, b"\xff"), auth(12, b"")];
    for (at, wrong) in finals.iter().enumerate() {
        let Ok(Step::Derive(work)) = first(&mut Server::new("s3cret", true)).advance() else { panic!("no work") };
        let refused = fed(work.run().0, wrong).advance().err();
        let fits = matches!((at, &refused), (0, Some(Refused::Order(0))) | (1.., Some(Refused::Scram(_))));
        assert!(fits, "{at}: {refused:?}");
    }
    // And once it has, nothing else stands in for the verdict.
    let mut server = Server::new("s3cret", true);
    let Ok(Step::Derive(work)) = first(&mut server).advance() else { panic!("no work") };
    let (reaching, answer) = work.run();
    let proof = server.answer(&answer).unwrap();
    assert_eq!(fed(reaching, &[proof, auth(3, &[])].concat()).advance().err(), Some(Refused::Order(3)));
}

fn fed(mut reaching: Reaching, bytes: &[u8]) -> Reaching {
    reaching.feed(bytes);
    reaching
}

#[test]
fn a_target_with_another_password_is_found_out() {
    let (reaching, _) = Reaching::new(login(VERSION_3_0), tls(), NONCE).unwrap();
    let Ok(Step::Send(reaching, answer)) = fed(reaching, &sasl(&BOTH)).advance() else { panic!("no answer") };
    let mut server = Server::new("another", true);
    let Ok(Step::Derive(work)) = fed(reaching, &server.answer(&answer).unwrap()).advance() else { panic!("no work") };
    let (_, answer) = work.run();
    assert_eq!(server.answer(&answer).unwrap_err(), crate::pg::auth::scram::Refused::Proof);
}

#[test]
fn methods_that_are_not_spoken_are_named() {
    for (kind, name) in [(2, "Kerberos V5"), (6, "SCM credentials"), (7, "GSSAPI"), (8, "GSSAPI"), (9, "SSPI")] {
        assert_eq!(run(tls(), &[&auth(kind, &[])]).refused(), Refused::Method(name));
    }
    assert_eq!(run(tls(), &[&sasl(&["OAUTHBEARER"])]).refused(), Refused::Mechanisms("OAUTHBEARER".to_owned()));
    assert_eq!(run(tls(), &[&auth(99, &[])]).refused(), Refused::Order(99));
}

#[test]
fn a_password_that_is_missing_is_told_with_the_method() {
    for (request, method) in
        [(auth(3, &[]), "password"), (auth(5, &[0; 4]), "md5"), (sasl(&BOTH), "scram-sha-256-plus")]
    {
        let login = Login { password: None, ..login(VERSION_3_0) };
        let ran = run_with(login, tls(), &request, 1000, None, &[]);
        assert_eq!(ran.refused(), Refused::NoPassword(method));
    }
}

#[test]
fn the_version_of_the_protocol_is_taken_down_once_and_to_3_0_alone() {
    let negotiate = |version: u32, options: u32, rest: &[u8]| {
        frame(b'v', &[&version.to_be_bytes()[..], &options.to_be_bytes(), rest].concat())
    };
    let run = |protocol, script: &[&[u8]]| run_with(login(protocol), tls(), &script.concat(), 1000, None, &[]);
    let down = negotiate(VERSION_3_0, 0, &[]);
    let reached = run(VERSION_3_2, &[&down, &auth(0, &[]), &greeting()]).reached();
    assert_eq!(reached.protocol, VERSION_3_0);
    assert_eq!(run(VERSION_3_2, &[&auth(0, &[]), &greeting()]).reached().protocol, VERSION_3_2);

    let twice = run(VERSION_3_2, &[&down, &down]).refused();
    assert_eq!(twice, Refused::Unexpected { tag: b'v', waits: "a request for authentication" });
    for (protocol, wrong) in [
        (VERSION_3_0, down.clone()),
        (VERSION_3_2, negotiate(VERSION_3_2, 0, &[])),
        (VERSION_3_2, negotiate(0x0003_0001, 0, &[])),
        (VERSION_3_2, negotiate(0x0002_0000, 0, &[])),
        (VERSION_3_2, negotiate(VERSION_3_0, 1, b"_pq_.x\0")),
        (VERSION_3_2, negotiate(VERSION_3_0, 0, b"x")),
    ] {
        assert!(matches!(run(protocol, &[&wrong]).refused(), Refused::Version { .. }), "{wrong:?}");
    }
}

#[test]
fn a_key_has_the_length_that_the_protocol_gives_it() {
    let key = |protocol, len: usize| {
        let key = frame(b'K', &[&7u32.to_be_bytes()[..], &vec![1; len]].concat());
        run_with(login(protocol), tls(), &[auth(0, &[]), key, frame(b'Z', b"I")].concat(), 1000, None, &[]).end
    };
    for (protocol, len, fine) in [
        (VERSION_3_0, 4, true),
        (VERSION_3_0, 3, false),
        (VERSION_3_0, 5, false),
        (VERSION_3_0, 32, false),
        (VERSION_3_2, 4, true),
        (VERSION_3_2, 32, true),
        (VERSION_3_2, 256, true),
        (VERSION_3_2, 257, false),
        (VERSION_3_2, 0, false),
    ] {
        assert_eq!(key(protocol, len).is_ok(), fine, "{protocol:#x} {len}");
    }
    let two = [auth(0, &[]), greeting()[..greeting().len() - 6].to_vec(), frame(b'K', &[0; 8])].concat();
    assert_eq!(run(tls(), &[&two]).refused(), Refused::Malformed("BackendKeyData"));
}

/// A login in each of its states, by name.
fn states() -> Vec<(&'static str, Reaching)> {
    let new = || Reaching::new(login(VERSION_3_2), tls(), NONCE).unwrap().0;
    let negotiated = [&VERSION_3_0.to_be_bytes()[..], &[0; 4]].concat();
    let Ok(Step::Read(negotiated)) = fed(new(), &frame(b'v', &negotiated)).advance() else { panic!() };
    let Ok(Step::Send(verdict, _)) = fed(new(), &auth(3, &[])).advance() else { panic!() };
    let Ok(Step::Read(ready)) = fed(new(), &auth(0, &[])).advance() else { panic!() };
    let server_first = || {
        let Ok(Step::Send(reaching, answer)) = fed(new(), &sasl(&BOTH)).advance() else { panic!() };
        (reaching, answer)
    };
    let (reaching, answer) = server_first();
    let reply = Server::new("s3cret", true).answer(&answer).unwrap();
    let Ok(Step::Derive(work)) = fed(reaching, &reply).advance() else { panic!() };
    vec![
        ("request", new()),
        ("request, negotiated", negotiated),
        ("server first", server_first().0),
        ("server final", work.run().0),
        ("verdict", verdict),
        ("ready", ready),
    ]
}

#[test]
fn each_state_takes_its_own_messages_and_refuses_the_others_by_their_first_byte() {
    let taken: [&[u8]; 6] = [b"ERv", b"ER", b"ER", b"ER", b"ER", b"EKNSZ"];
    for (at, taken) in taken.iter().enumerate() {
        for tag in 0..=255 {
            let (name, reaching) = states().swap_remove(at);
            match fed(reaching, &[tag]).advance() {
                Ok(Step::Read(_)) => assert!(taken.contains(&tag), "{name} takes {tag}"),
                Err(Refused::Unexpected { tag: refused, .. }) => assert!(refused == tag && !taken.contains(&tag)),
                Ok(_) | Err(_) => panic!("{name}: {tag}"),
            }
        }
    }
}

#[test]
fn a_length_that_no_message_has_is_refused_by_its_header() {
    let states_count = states().len();
    for at in 0..states_count {
        for tag in *b"ERvKNSZ" {
            let (name, reaching) = states().swap_remove(at);
            let Some((shortest, longest)) = reaching.waits.lengths(tag) else { continue };
            for len in [0, 3, 4, shortest - 1, longest + 1, 1 << 20, 1 << 30, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
                let (_, reaching) = states().swap_remove(at);
                let refused = fed(reaching, &[&[tag][..], &len.to_be_bytes()].concat()).advance().err();
                assert_eq!(refused, Some(Refused::Length { tag, len }), "{name}");
            }
        }
    }
}

#[test]
fn a_target_that_refuses_is_quoted_in_every_state() {
    let complaint = Complaint::new("28P01", "password authentication failed for user \"dba\"").fatal();
    for (name, reaching) in states() {
        let refused = fed(reaching, &complaint).advance().err().unwrap();
        assert_eq!(refused, Refused::Target(complaint.clone()), "{name}");
        let text = "the target refused the login: FATAL 28P01 password authentication failed for user \\\"dba\\\"";
        assert_eq!(refused.to_string(), text);
    }
}

#[test]
fn an_error_without_a_sqlstate_is_one_and_what_is_no_error_is_not() {
    let bare = frame(b'E', b"SFATAL\0Mgo \x1b[2J away\0\0");
    let refused = run(tls(), &[&bare]).refused();
    assert_eq!(refused, Refused::Target(bare.into()));
    assert_eq!(refused.to_string(), "the target refused the login: FATAL go \\u{1b}[2J away");
    assert_eq!(run(tls(), &[&frame(b'E', &[0])]).refused().to_string(), "the target refused the login: ");
    for wrong in [&b"SFATAL\0"[..], b"SFATAL", b"SFATAL\0\0x", b"\0\0"] {
        assert_eq!(run(tls(), &[&frame(b'E', wrong)]).refused(), Refused::Malformed("ErrorResponse"), "{wrong:?}");
    }
}

#[test]
fn a_greeting_without_end_is_cut_off() {
    let notice = frame(b'N', b"SNOTICE\0Mon and on\0\0");
    let endless = [auth(0, &[]), notice.repeat(GREETING_FRAMES_MAX as usize + 1)].concat();
    assert_eq!(run(tls(), &[&endless]).refused(), Refused::GreetingFrames);
    let long = frame(b'N', &[b"M".as_slice(), &vec![b'x'; 60_000], b"\0\0"].concat());
    let endless = [auth(0, &[]), long.repeat(GREETING_LEN_MAX / 60_000 + 1)].concat();
    assert_eq!(run(tls(), &[&endless]).refused(), Refused::GreetingLen);
}

#[test]
fn absurd_iterations_are_refused_before_any_work() {
    for (count, refused) in [("2147483648", 1 << 31), ("100001", 100_001), ("99999999999999999999999", u64::MAX)] {
        let first = format!("r=x,s=QSXCR+Q6sek8bf92,i={count}");
        assert_eq!(run(tls(), &[&sasl(&BOTH), &auth(11, first.as_bytes())]).refused(), Refused::Iterations(refused));
    }
}

#[test]
fn a_first_message_that_is_none_or_of_another_exchange_is_refused() {
    let nonce = BASE64_STANDARD.encode(NONCE);
    let of = |text: &str| text.replace("OURS", &nonce);
    let fine = of("r=OURSx,s=QSXCR+Q6sek8bf92,i=4096");
    assert!(run(tls(), &[&sasl(&BOTH), &auth(11, fine.as_bytes())]).end.is_ok());
    for first in [
        "",
        "r=",
        "r=x,s=QSXCR+Q6sek8bf92,i=4096",
        "r=x,s=!,i=4096",
        "i=",
        "r=x,s=,i=-1",
        "\u{1}",
        "r=OURSx,s=!,i=4096",
        "r=OURSx,s=QSXCR+Q6sek8bf92,i=",
        "r=OURSx,s=QSXCR+Q6sek8bf92,i=0",
        "r=OURSx,s=QSXCR+Q6sek8bf92,i=+1",
        "r=OURSx,s=QSXCR+Q6sek8bf92,i=4096,",
        "r=OURSx,s=QSXCR+Q6sek8bf92,i=4096,x=1",
        "m=x,r=OURSx,s=QSXCR+Q6sek8bf92,i=4096",
        "s=QSXCR+Q6sek8bf92,r=OURSx,i=4096",
        "r=OURS x,s=QSXCR+Q6sek8bf92,i=4096",
        "r=OURS\u{e4},s=QSXCR+Q6sek8bf92,i=4096",
        "r=OURSx\0,s=QSXCR+Q6sek8bf92,i=4096",
    ] {
        let refused = run(tls(), &[&sasl(&BOTH), &auth(11, of(first).as_bytes())]).refused();
        assert!(matches!(refused, Refused::Scram(_)), "{first:?}: {refused}");
    }
}

#[test]
fn random_sequences_never_panic_and_reach_nothing_that_was_not_granted() {
    let (tries, mut reached, mut proved) = (if soak() { 1_000_000 } else { 20_000 }, 0, 0);
    let verifier = Verifier::of(b"s3cret", [7; 16], ITERATIONS);
    for seed in 0..tries {
        let mut random = Random(seed);
        let channel = match random.below(4) {
            0 => Channel::Plain,
            1 => Channel::Tls { end_point: None, with_certificate: random.below(2) == 0 },
            _ => tls(),
        };
        let plus = matches!(&channel, Channel::Tls { end_point: Some(_), .. }) && random.below(4) > 0;
        let mut server = Server::knowing(verifier.clone(), plus);
        let protocol = if random.below(2) == 0 { VERSION_3_0 } else { VERSION_3_2 };
        let (mut reaching, _) = Reaching::new(login(protocol), channel, NONCE).unwrap();
        // What the target truly said: told apart here by what it sent, never by the state of what is tested.
        let (mut fed_all, mut due, mut proof) = (Vec::new(), None::<Vec<u8>>, None);
        for _ in 0..40 {
            let (next, answer) = match reaching.advance() {
                Err(_) => break,
                Ok(Step::Read(mut next)) => {
                    let said = match due.take() {
                        Some(mut due) if random.below(8) > 0 => {
                            // Now and then one bit of it is another.
                            if random.below(4) == 0 {
                                let at = HEADER_LEN + 4 + random.below((due.len() - HEADER_LEN - 4) as u64) as usize;
                                due[at] ^= 1 << random.below(8);
                            }
                            due
                        }
                        _ => random.message(plus),
                    };
                    fed_all.extend_from_slice(&said);
                    next.feed(&said);
                    (next, None)
                }
                Ok(Step::Send(next, answer)) => (next, Some(answer)),
                Ok(Step::Derive(work)) => {
                    let (next, answer) = work.run();
                    (next, Some(answer))
                }
                Ok(Step::Reached(done)) => {
                    let consumed = &fed_all[..fed_all.len() - done.leftover.len()];
                    check_reached(consumed, proof.as_deref());
                    reached += 1;
                    proved += u32::from(done.method.starts_with("scram"));
                    break;
                }
            };
            reaching = next;
            // Most of the time the server goes on with SCRAM as it should.
            if let Some(answer) = answer.filter(|_| !matches!(server, Server::Done)) {
                due = server.answer_to_any(&answer);
                proof = due.clone().filter(|due| due[8] == 12).or(proof);
            }
        }
    }
    eprintln!("{tries} sequences, {reached} reached, {proved} of them by SCRAM");
    // The sequences are not so wild that nothing is tried.
    assert!(reached > tries / 200 && proved > 10, "{reached} and {proved} of {tries}");
}

/// Whether the long form was asked for.
fn soak() -> bool {
    std::env::var_os("CASEMATE_SOAK").is_some()
}

/// Checks by the bytes alone that a target granted what the login took for granted.
fn check_reached(consumed: &[u8], proof: Option<&[u8]>) {
    let (mut rest, mut kinds) = (consumed, Vec::new());
    while !rest.is_empty() {
        let len = 1 + u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize;
        let (frame, behind) = rest.split_at(len);
        kinds.push((frame[0], if frame[0] == b'R' { frame[8] } else { 0 }));
        if kinds.last() == Some(&(b'R', 12)) {
            assert_eq!(Some(frame), proof, "a proof that is none");
        }
        rest = behind;
    }
    let granted = kinds.iter().position(|kind| *kind == (b'R', 0)).expect("no AuthenticationOk");
    assert_eq!(kinds.last(), Some(&(b'Z', 0)));
    assert!(kinds[granted + 1..].iter().all(|(tag, _)| b"SNKZ".contains(tag)), "{kinds:?}");
    let asked: Vec<u8> = kinds[..granted].iter().filter(|(tag, _)| *tag == b'R').map(|(_, kind)| *kind).collect();
    assert!(matches!(asked[..], [] | [3] | [5] | [10, 11, 12]), "{asked:?}");
}

impl Server {
    /// As [`answer`](Self::answer), where the client may have been asked for something else.
    fn answer_to_any(&mut self, sent: &[u8]) -> Option<Vec<u8>> {
        let scram = sent[HEADER_LEN..].starts_with(b"SCRAM") || sent[HEADER_LEN..].starts_with(b"c=");
        if scram { self.answer(sent).ok() } else { None }
    }
}

/// A generator that can be repeated (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        let mut x = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0 = x.wrapping_mul(0x2545_f491_4f6c_dd1d);
        self.0 >> 16
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A message that a target may send at some time, sometimes damaged.
    fn message(&mut self, plus: bool) -> Vec<u8> {
        let mut said = match self.below(16) {
            0..3 => auth(0, &[]),
            3 => auth(3, &[]),
            4 => auth(5, &[1, 2, 3, 4]),
            5..7 => sasl(if plus { &BOTH } else { &ONE }),
            7 => auth(11, b"r=x,s=QSXCR+Q6sek8bf92,i=4096"),
            8 => auth(12, b"v=QSXCR+Q6sek8bf92"),
            9 => frame(b'v', &[&VERSION_3_0.to_be_bytes()[..], &[0; 4]].concat()),
            10 => frame(b'S', b"server_version\x0018.4\0"),
            11 => frame(b'N', b"SNOTICE\0Mwelcome\0\0"),
            12 => frame(b'K', &[0; 8]),
            13..15 => frame(b'Z', b"I"),
            _ => auth(self.below(14) as u32, &[]),
        };
        if self.below(16) == 0 {
            let at = self.below(said.len() as u64) as usize;
            said[at] = self.below(256) as u8;
        }
        if self.below(32) == 0 {
            said.truncate(self.below(said.len() as u64) as usize);
        }
        said
    }
}
