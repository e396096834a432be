//! What is in the record of a PostgreSQL session: every byte, but for secrets and for rows that the policy keeps out.

use std::time::Duration;

use casemate_tests::noise::Noise;
use casemate_tests::pg_client::{Access, PgRoute};
use casemate_tests::postgres;
use casemate_tests::raw_pg::{Frame, RawPg, VERSION_3_0, message};
use casemate_tests::rig::{DATABASE, Lab, Options};
use casemate_tests::scale::pick;
use casemate_tests::vault::Transcript;

use super::{lab, lab_with, through};
use crate::only_session;
use crate::pg_clients::target;

/// All that a side sent, out of the streams of the record in their order.
pub(super) fn stream(transcript: &Transcript, kinds: &[&str]) -> Vec<u8> {
    use base64::Engine as _;
    let of_kind = |event: &&serde_json::Value| kinds.iter().any(|kind| event["type"] == *kind);
    let data =
        |event: &serde_json::Value| base64::prelude::BASE64_STANDARD.decode(event["data"].as_str().unwrap()).unwrap();
    transcript.events.iter().filter(of_kind).flat_map(data).collect()
}

#[test]
fn what_both_sides_said_is_in_the_record_byte_for_byte() {
    let lab = lab();
    let access = lab.pg_access_by_socket(PgRoute::Through).unwrap();
    let mut client = RawPg::login(&access).unwrap();
    let (mut sent, mut noise, mut received) = (Vec::new(), Noise::new(7), Vec::new());
    let value: Vec<u8> = (0..200_000).map(|_| b'a' + noise.below(26) as u8).collect();
    for batch in [
        message::query(b"select 'caf\xc3\xa9', 1; select 2"),
        [
            message::parse("s", b"select $1::text, length($1)", &[]),
            message::bind("", "s", &[Some(&value)]),
            message::describe(b'P', ""),
            message::execute("", 0),
            message::sync(),
        ]
        .concat(),
        message::query(b"select nonsense"),
        message::query(b"create temp table t(a text)"),
    ] {
        client.send(&batch).unwrap();
        sent.extend(&batch);
        received.extend(client.read_to(b'Z').unwrap());
    }
    let copy = message::query(b"copy t from stdin");
    client.send(&copy).unwrap();
    assert_eq!(client.read().unwrap().tag, b'G');
    let rest = [message::copy_data(&value), message::copy_data(b"\nsecond\n"), message::copy_done()].concat();
    client.send(&rest).unwrap();
    received.extend(client.read_to(b'Z').unwrap());
    client.send(&message::terminate()).unwrap();
    sent.extend([copy, rest, message::terminate()].concat());
    drop(client);
    let transcript = only_session(&lab.vault());
    assert!(stream(&transcript, &["pg.sql", "pg.in"]) == sent, "what the client sent");
    let told = stream(&transcript, &["pg.out"]);
    let wire = |frame: &Frame| message::frame(frame.tag, &frame.payload);
    let last: Vec<u8> = received.iter().rev().take(2).rev().flat_map(wire).collect();
    assert!(told.ends_with(&last), "what the target said");
    // Values are with what is secret, SQL is not.
    let secret = stream(&transcript, &["pg.in"]);
    assert!(secret.windows(100).any(|window| window == &value[..100]));
    assert!(!stream(&transcript, &["pg.sql"]).windows(100).any(|window| window == &value[..100]));
}

#[test]
fn passwords_reach_the_target_and_leave_their_length() {
    let lab = lab();
    let access = through(&lab);
    let words =
        ["first", "second", "third", "fourth", "fifth", "sixth", "seventh"].map(|word| format!("kN3-{word}-secret"));
    let mut client = RawPg::login(&access).unwrap();
    let ok = |frames: Vec<Frame>| frames.iter().all(|frame| frame.tag != b'E');
    assert!(ok(client.query(format!("create role app login password '{}'", words[0])).unwrap()));
    assert!(ok(client
        .query(format!("do $x$ begin execute 'alter role app password ''{}'''; end $x$", words[1]))
        .unwrap()));
    // What the server says about a statement that it cannot read.
    assert!(!ok(client.query(format!("alter role app pasword '{}'", words[2])).unwrap()));
    assert!(!ok(client.query(format!("alter role app password '{}", words[3])).unwrap()));
    // A value that is bound to a statement which is a secret one by its text.
    let pipeline = [
        message::parse("c", b"select 'password=x', $1::text, 'host=a password=b'", &[]),
        message::bind("", "c", &[Some(words[4].as_bytes())]),
        message::execute("", 0),
        message::sync(),
    ];
    client.send(&pipeline.concat()).unwrap();
    client.read_to(b'Z').unwrap();
    // A value for a statement that an earlier string prepared, by SQL and by the protocol.
    assert!(ok(client.query("prepare p(text) as select set_config('app.token', $1, false)").unwrap()));
    assert!(ok(client.query(format!("execute p('{}')", words[5])).unwrap()));
    client
        .send(&[message::parse("q", b"select set_config('app.token', $1, false)", &[]), message::sync()].concat())
        .unwrap();
    client.read_to(b'Z').unwrap();
    assert!(ok(client.query(format!("execute q('{}')", words[6])).unwrap()));
    drop(client);
    let transcript = only_session(&lab.vault());
    let text = format!(
        "{:?}{}",
        transcript.events,
        String::from_utf8_lossy(&stream(&transcript, &["pg.sql", "pg.in", "pg.out"]))
    );
    for (at, word) in words.iter().enumerate() {
        // The values of the last come back as rows, which are results like any other.
        let sent = || String::from_utf8_lossy(&stream(&transcript, &["pg.sql", "pg.in"])).into_owned();
        let text = if at >= 4 { sent() } else { text.clone() };
        assert!(!text.contains(word.as_str()), "{word}");
    }
    assert!(text.contains("create role app login password '****************'"));
    assert!(transcript.of("redacted").count() >= 4);
    let log = lab.bastion.log();
    assert!(words.iter().all(|word| !log.contains(word.as_str())));
    // The target got them as they were.
    let target = lab.postgres().unwrap();
    let app = Access { user: "app".to_owned(), password: words[1].to_owned(), ..target.access(DATABASE) };
    assert!(RawPg::login(&app).is_ok());
}

#[test]
fn a_statement_that_the_target_skips_makes_no_secret_open() {
    let lab = lab_with(Options { results: Some("count".to_owned()), ..Options::default() });
    let mut client = RawPg::login(&through(&lab)).unwrap();
    let mut send = |batch: &[Vec<u8>]| {
        client.send(&batch.concat()).unwrap();
        client.read_to(b'Z').unwrap()
    };
    let bound = |value: &[u8]| [message::bind("", "", &[Some(value)]), message::execute("", 0), message::sync()];
    let secret = message::parse("", b"select set_config('app.token', $1, false)", &[]);
    let open = message::parse("", b"select $1::text", &[]);
    send(&[secret.clone(), message::sync()]);
    // The first fails, so that the second is never read.
    let failed = send(&[message::parse("bad", b"select nonsense(", &[]), open.clone(), message::sync()]);
    assert!(failed.iter().any(|frame| frame.tag == b'E'));
    let done = send(&bound(b"kN3-skipped-secret"));
    assert!(done.iter().all(|frame| frame.tag != b'E'), "the target still has the first: {done:?}");
    // What the target takes in its place is open again, in the same batch and in later ones.
    send(&[&[open][..], &bound(b"kN3-open-first")].concat());
    send(&bound(b"kN3-open-second"));
    send(&[&[secret][..], &bound(b"kN3-last-secret")].concat());
    drop(client);
    let transcript = only_session(&lab.vault());
    let sent = String::from_utf8_lossy(&stream(&transcript, &["pg.in"])).into_owned();
    assert!(!sent.contains("kN3-skipped-secret") && !sent.contains("kN3-last-secret"), "{sent:?}");
    assert!(sent.contains("kN3-open-first") && sent.contains("kN3-open-second"), "{sent:?}");
}

#[test]
fn an_error_is_about_a_secret_as_long_as_the_batch_goes_on() {
    let lab = lab();
    let mut client = RawPg::login(&through(&lab)).unwrap();
    let word = "kN3-bound-secret";
    // Everything so far is answered before the statement runs, which fails and shows the value.
    let bound = [
        message::parse("x", b"select set_config('app.token', $1, false)::int", &[]),
        message::bind("", "x", &[Some(word.as_bytes())]),
        message::flush(),
    ];
    client.send(&bound.concat()).unwrap();
    client.read_to(b'2').unwrap();
    client.send(&[message::execute("", 0), message::sync()].concat()).unwrap();
    let failed = client.read_to(b'Z').unwrap();
    assert!(failed[0].field(b'M').unwrap_or_default().contains(word), "the client reads it: {failed:?}");
    drop(client);
    let transcript = only_session(&lab.vault());
    let text = String::from_utf8_lossy(&stream(&transcript, &["pg.sql", "pg.in", "pg.out"])).into_owned();
    assert!(!text.contains(word) && !format!("{:?}", transcript.events).contains(word), "{text:?}");
}

#[test]
fn secret_settings_of_the_first_packet_reach_the_target_and_leave_their_length() {
    // Rows are data, and these have the secrets in them.
    let lab = lab_with(Options { results: Some("count".to_owned()), ..Options::default() });
    let options = r"-c app.token=Zq-first\ word --app.key=Zq-second -capp.open=kept -c app\.secret\=Zq-third";
    let more = [("options", options), ("app.password", "Zq-fourth"), ("app.name", "kept")];
    let (mut client, _) = RawPg::login_as(&through(&lab), VERSION_3_0, &more).unwrap();
    for (name, value) in [
        ("app.token", "Zq-first word"),
        ("app.key", "Zq-second"),
        ("app.secret", "Zq-third"),
        ("app.password", "Zq-fourth"),
        ("app.open", "kept"),
    ] {
        let frames = client.query(format!("select current_setting('{name}')")).unwrap();
        assert_eq!(frames[1].row(), [Some(value.as_bytes().to_vec())], "{name}");
    }
    drop(client);
    let transcript = only_session(&lab.vault());
    let startup = transcript.of("pg.startup").next().unwrap();
    let told = |name: &str| {
        let parameters = startup["parameters"].as_array().unwrap();
        parameters.iter().find(|pair| pair[0] == name).unwrap()[1].as_str().unwrap().to_owned()
    };
    let stars = r"-c app.token=************** --app.key=********* -capp.open=kept -c app\.secret\=********";
    assert_eq!([told("options"), told("app.password"), told("app.name")], [stars, "*********", "kept"]);
    assert!(transcript.of("redacted").any(|event| event["bytes"] == 14 + 9 + 8 + 9), "they are counted");
    let streams: Vec<u8> = transcript.streams.values().flatten().copied().collect();
    let text = format!("{:?}{}{}", transcript.events, String::from_utf8_lossy(&streams), lab.bastion.log());
    assert!(!text.contains("Zq-"), "{text}");
}

#[test]
fn rows_that_the_policy_keeps_out_are_counted_and_hashed() {
    for (policy, kept) in [("count", 0), ("hash", 0), ("rows:3", 3)] {
        let lab = lab_with(Options { results: Some(policy.to_owned()), ..Options::default() });
        let mut client = RawPg::login(&through(&lab)).unwrap();
        let frames = client.query("select g, repeat('x', 50) || g from generate_series(1, 500) g").unwrap();
        drop(client);
        let rows: Vec<Vec<u8>> =
            frames.iter().filter(|frame| frame.tag == b'D').map(|frame| message::frame(b'D', &frame.payload)).collect();
        assert_eq!(rows.len(), 500);
        let transcript = only_session(&lab.vault());
        let left_out: Vec<u8> = rows[kept..].concat();
        let last = transcript.of("pg.elided").last().expect("rows were left out").clone();
        assert_eq!(last["total"], left_out.len(), "{policy}");
        assert_eq!(last["blake3"], blake3::hash(&left_out).to_hex().as_str());
        let told = stream(&transcript, &["pg.out"]);
        assert!(!told.windows(20).any(|window| window == &rows[499][10..30]), "{policy}");
        let done = transcript.of("pg.done").find(|done| done["rows"] == 500).expect("the statement is told").clone();
        assert_eq!(done.get("blake3").is_some(), policy == "hash", "{done}");
    }
}

/// Statements that the target executed, by the numbers that they carry.
fn executed(lab: &Lab) -> Vec<u64> {
    let log = std::fs::read_to_string(lab.postgres().unwrap().json_log()).unwrap_or_default();
    log.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|line| line["message"].as_str()?.split("oracle ").nth(1)?.split('\'').next()?.parse().ok())
        .collect()
}

#[test]
fn whatever_the_target_executed_before_a_kill_is_in_the_record() {
    let target = target(postgres::LOG_EVERYTHING);
    let mut lab = Lab::with(&Options { postgres: Some(target), ..Options::default() }).unwrap();
    let mut seen = 0;
    for round in 0..pick(3u64, 40) {
        let access = through(&lab);
        let mut client = RawPg::login(&access).unwrap();
        let mut number = round * 1_000_000;
        let end = std::time::Instant::now() + Duration::from_millis(300 + round % 7 * 37);
        let killed = std::thread::scope(|scope| {
            let process = lab.bastion.process;
            scope.spawn(move || {
                std::thread::sleep(end - std::time::Instant::now());
                process.signal(rustix::process::Signal::KILL);
            });
            loop {
                let batch: Vec<u8> = (0..20)
                    .flat_map(|_| {
                        number += 1;
                        [
                            message::parse("", format!("select 'oracle {number}'").as_bytes(), &[]),
                            message::bind("", "", &[]),
                            message::execute("", 0),
                            message::sync(),
                        ]
                        .concat()
                    })
                    .collect();
                if client.send(&batch).is_err() || (0..20).any(|_| client.read_to(b'Z').is_err()) {
                    return true;
                }
            }
        });
        assert!(killed && lab.bastion.process.wait_gone(Duration::from_secs(5)));
        lab.rig.bastion.again().unwrap();
        let vault = lab.vault();
        vault.settle(round as usize + 1, Duration::from_secs(20)).unwrap();
        let told: Vec<u8> =
            vault.transcripts().unwrap().iter().flat_map(|(_, transcript)| stream(transcript, &["pg.sql"])).collect();
        let told = String::from_utf8_lossy(&told);
        let executed = executed(&lab);
        assert!(executed.len() > seen, "the target did something in round {round}");
        seen = executed.len();
        for number in executed {
            assert!(
                told.contains(&format!("'oracle {number}'")),
                "statement {number} of round {round} is not in the record"
            );
        }
    }
    lab.vault().verify(&[]).unwrap().unaltered().unwrap();
}

/// The statements of the redactor's corpus, each secret in them one that stands nowhere else, with these.
fn corpus() -> (Vec<String>, Vec<String>) {
    let (mut statements, mut secrets) = (Vec::new(), Vec::new());
    let corpus = include_str!("../../../../proxy/src/pg/redact/corpus.txt");
    for line in corpus.lines().filter(|line| line.contains('«') && !line.starts_with('#')) {
        let mut statement = String::new();
        for (at, part) in
            line.trim_start_matches(['!', '?']).replace(['‹', '›'], "").replace('⏎', "\n").split(['«', '»']).enumerate()
        {
            // Quoting tricks stay as they are: a secret of letters alone can be any other.
            if at % 2 == 1 && part.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                secrets.push(format!("Zq{:05}Wx", secrets.len()));
                statement.push_str(&secrets[secrets.len() - 1]);
            } else {
                statement.push_str(part);
            }
        }
        statements.push(statement);
    }
    (statements, secrets)
}

#[test]
fn no_secret_of_the_corpus_is_in_a_record_or_a_log_whatever_the_server_says_about_it() {
    // Rows are data: a statement that selects its secret has it in them.
    let lab = lab_with(Options { results: Some("count".to_owned()), ..Options::default() });
    let mut client = RawPg::login(&through(&lab)).unwrap();
    let (statements, secrets) = corpus();
    assert!(statements.len() >= 250 && secrets.len() >= 250, "{} statements", statements.len());
    let mut refused = 0;
    for (at, statement) in statements.iter().enumerate() {
        // Half of them as the text of a Query, the others of a Parse.
        let frames = if at % 2 == 0 {
            client.query(statement)
        } else {
            client.send(&[message::parse("", statement.as_bytes(), &[]), message::sync()].concat()).unwrap();
            client.read_to(b'Z')
        };
        refused += usize::from(frames.unwrap().iter().any(|frame| frame.tag == b'E'));
    }
    assert!(refused > 50, "the server complains about some, and quotes them: {refused}");
    drop(client);
    let transcript = only_session(&lab.vault());
    let mut text = format!("{:?}{}", transcript.events, lab.bastion.log());
    text.push_str(&String::from_utf8_lossy(&stream(&transcript, &["pg.sql", "pg.in", "pg.out"])));
    let leaked: Vec<&String> = secrets.iter().filter(|secret| text.contains(secret.as_str())).collect();
    let whole = |secret: &String| statements.iter().find(|statement| statement.contains(secret.as_str()));
    assert!(leaked.is_empty(), "{:?}", leaked.into_iter().map(whole).collect::<Vec<_>>());
}
