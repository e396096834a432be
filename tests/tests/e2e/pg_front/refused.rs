//! A target that turns the bastion away: the client reads what it said, and all of it is in the record.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};

use casemate_tests::pg_client::Access;
use casemate_tests::raw_pg::{RawPg, VERSION_3_0, message};
use casemate_tests::rig::Options;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};

use super::record::stream;
use super::{ask, lab_with, through};
use crate::only_session;

/// Says the same to whoever connects, as the answer to the first packet.
fn refuses_with(answer: Vec<u8>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&answer);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read(&mut [0; 16]);
        }
    });
    port
}

/// Logs in up to where the bastion has nothing more to ask: what follows is about the target.
fn proves_its_token(access: &Access) -> RawPg {
    let mut client = RawPg::connect(access).unwrap();
    client.start(access, VERSION_3_0, &[]).unwrap();
    assert_eq!(client.read().unwrap().tag, b'R');
    let mut scram = ScramSha256::new(access.password.as_bytes(), ChannelBinding::unsupported());
    client.send(&message::sasl_initial(SCRAM_SHA_256, scram.message())).unwrap();
    scram.update(&client.read().unwrap().payload[4..]).unwrap();
    client.send(&message::frame(b'p', scram.message())).unwrap();
    scram.finish(&client.read().unwrap().payload[4..]).unwrap();
    assert_eq!(client.read().unwrap().payload, [0; 4]);
    client
}

#[test]
fn what_a_target_says_to_a_login_it_refuses_is_recorded_before_the_client_reads_it() {
    let long = "why not ".repeat(2_000);
    let said = |secret: &str| {
        let fields = [
            "SFATAL",
            "VFATAL",
            "C28000",
            "Mnot today",
            &format!("H{long}"),
            &format!("Dlast was ALTER USER bob PASSWORD '{secret}'"),
        ];
        message::frame(b'E', format!("{}\0\0", fields.join("\0")).as_bytes())
    };
    let port = refuses_with(said("kN3-refused"));
    let more = format!(
        "[[target]]\nname = \"stock\"\nkind = \"pg\"\naddress = \"127.0.0.1:{port}\"\ndatabases = [\"*\"]\ntls = \"off\"\n\
         [[target.role]]\nlogin = \"postgres\"\n\
         [[access]]\nperson = \"alice\"\ntargets = [\"stock\"]\nroles = [\"postgres\"]\nreason = \"tests\"\n"
    );
    let lab = lab_with(Options { more, ..Options::default() });
    let token = ask(&lab, "token stock");
    assert_eq!(token.code(), 0, "{}", token.err());
    let password = token.out().trim_end().to_owned();
    let access = Access { user: "alice+stock".to_owned(), password, ..through(&lab) };
    let mut client = proves_its_token(&access);
    let refused = client.read().unwrap();
    assert!(message::frame(refused.tag, &refused.payload) == said("kN3-refused"), "as it was said");
    assert!(client.read_to_end().unwrap().is_empty(), "and nothing else");
    let transcript = only_session(&lab.vault());
    assert!(stream(&transcript, &["pg.out"]) == said("***********"), "{:?}", transcript.events);
    assert!(transcript.of("redacted").any(|event| event["bytes"] == 11));
    let unreachable = transcript.of("unreachable").next().expect("what came of it is told").to_string();
    assert!(unreachable.contains("not today"), "{unreachable}");
    assert!(!format!("{:?}{}", transcript.events, lab.bastion.log()).contains("kN3-refused"));
}
