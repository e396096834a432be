//! `ssh -L` to a database: the same front door under the SSH identity.

use std::process::Stdio;
use std::time::Duration;

use casemate_tests::pg_client::Access;
use casemate_tests::process::{Spawned, nothing, run, wait_until};
use casemate_tests::raw_pg::RawPg;
use casemate_tests::rig::{Lab, Options, PORTAL};
use casemate_tests::sshd::free_port;

use super::{PATIENCE, lab, lab_with, refusal, through, token};
use crate::closed_sessions;

/// Opens a tunnel to the rig's database and returns how to use it, with no password yet.
fn tunnel(lab: &Lab) -> (Spawned, Access) {
    let port = free_port().unwrap();
    let mut ssh = lab.client.program("ssh");
    ssh.args(["-N", "-o", "ExitOnForwardFailure=yes", "-L", &format!("127.0.0.1:{port}:orders:5432"), PORTAL]);
    let ssh = Spawned::start(ssh.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())).unwrap();
    assert!(wait_until(Duration::from_secs(10), || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()));
    let access = Access { port, ca: None, password: String::new(), user: "alice".to_owned(), ..through(lab) };
    (ssh, access)
}

#[test]
fn a_tunnel_asks_for_the_token_and_marks_the_session() {
    let lab = lab();
    let (_ssh, access) = tunnel(&lab);
    assert!(refusal(&access, &[]).unwrap_or_default().starts_with("28P01"), "anybody here can reach the port");
    let password = token(&lab);
    // The person, the whole login, or the role alone: the target is settled.
    for user in ["alice", "alice+orders", "postgres", "alice+orders+postgres"] {
        let mut client = RawPg::login(&Access { user: user.to_owned(), password: password.clone(), ..access.clone() })
            .unwrap_or_else(|error| panic!("{user}: {error}"));
        assert_eq!(client.query("select 1").unwrap()[1].row(), [Some(b"1".to_vec())]);
    }
    // Nobody else comes through it, and it leads nowhere else.
    for user in ["bob", "bob+orders", "alice+stock", "bob+orders+postgres"] {
        let said = refusal(&Access { user: user.to_owned(), password: password.clone(), ..access.clone() }, &[]);
        assert!(said.is_some(), "{user}");
    }
    // TLS is to be had inside as well.
    let tls = Access { ca: through(&lab).ca, password: password.clone(), ..access.clone() };
    let mut psql = tls.program("psql", &lab.dir).unwrap();
    let done = run(psql.args(["-XAtc", "select 2"]), nothing(), PATIENCE).unwrap();
    assert_eq!((done.out().as_str(), done.code()), ("2\n", 0), "{}", done.err());
    let methods = |lab: &Lab| -> Vec<String> {
        let sessions = closed_sessions(&lab.vault(), 5);
        let method = |transcript: &casemate_tests::vault::Transcript| {
            let identity = transcript.of("identity").next().unwrap().clone();
            assert!(identity["portal"].is_string(), "it names the connection that carried it: {identity}");
            identity["method"].as_str().unwrap().to_owned()
        };
        sessions.iter().map(|(_, transcript)| method(transcript)).collect()
    };
    assert_eq!(methods(&lab), ["tunnel"; 5]);
}

#[test]
fn a_target_may_do_without_the_token_in_a_tunnel_alone() {
    let lab = lab_with(Options { tunnel_token: Some(false), ..Options::default() });
    let (_ssh, access) = tunnel(&lab);
    let mut client = RawPg::login(&access).unwrap();
    assert_eq!(client.query("select current_user").unwrap()[1].row(), [Some(b"postgres".to_vec())]);
    let street = Access { password: String::new(), ..through(&lab) };
    assert!(refusal(&street, &[]).is_some());
}

/// A client that is asked for a password it does not have goes first, as `psql -w` does before it asks a person.
#[test]
fn a_tunnel_whose_client_ends_first_leaves_room_for_others() {
    let lab = lab();
    let (_ssh, access) = tunnel(&lab);
    for round in 0..12 {
        let mut psql = access.program("psql", &lab.dir).unwrap();
        let done = run(psql.env_remove("PGPASSWORD").args(["-wXAtc", "select 1"]), nothing(), PATIENCE).unwrap();
        assert!(done.err().contains("no password supplied"), "{round}: {}", done.err());
    }
    // And somebody who has one gets in.
    let mut client = RawPg::login(&Access { password: token(&lab), ..access.clone() }).unwrap();
    assert_eq!(client.query("select 1").unwrap()[1].row(), [Some(b"1".to_vec())]);
}
