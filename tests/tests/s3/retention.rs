//! Holds and retirement in a bucket whose server really keeps locks: the node orders, whoever keeps the bucket carries it out, and
//! neither can do more than the log and the locks allow.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use casemate_certs::trust::{Authority, HOLD_NAMESPACE, HoldOrder, Officer, OfficerKey, Period};
use casemate_recorder::clock::{Clock, SystemClock};
use casemate_recorder::vault::s3::Checksum;
use casemate_recorder::{Recorder, SessionId};
use casemate_tests::clocks::Ago;
use casemate_tests::forge::node_key;
use casemate_tests::process::wait_until;
use casemate_tests::s3::ceph::{Ceph, Guard, KEEPER, OWNER, Options, WRITER};
use casemate_tests::s3::{Login, make_bucket, policy, versions};

use super::node::{BUCKET, NODE, PATIENCE, Place, close, figures, open, wait_shipped, work};
use super::policies::published;
use super::verify::Shelf;
use crate::officer;

const DAY: Duration = Duration::from_secs(86_400);

/// How long the locks of the first sessions stand: as long as it takes to see them stand.
const SHORT: Duration = Duration::from_secs(25);

/// A trust file that Ada and Bob stand behind.
fn trust(dir: &Path) -> String {
    let mut trust = officer::trust(dir, vec![officer::node(NODE, &node_key(NODE), Period::ALWAYS)]);
    trust.anchor_age_max = Some(2 * DAY);
    let bob = dir.join("bob");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&bob).status().unwrap();
    assert!(made.success());
    if let Authority::Officers(board) = &mut trust.authority {
        let key = OfficerKey::parse(&std::fs::read_to_string(dir.join("bob.pub")).unwrap()).unwrap();
        board.officers.push(Officer { name: "Bob".to_owned(), key, period: Period::ALWAYS });
    }
    let path = dir.join("trust.toml");
    officer::write(&path, &trust);
    officer::sign(&path);
    path.display().to_string()
}

/// Has both officers sign an order, and the node log it.
async fn order(recorder: &Recorder, dir: &Path, set: bool, session: SessionId) {
    let (id, time_us) = (session.to_string(), SystemClock.now().wall_us);
    let order = format!("{}\n", HoldOrder { set, session: &id, time_us });
    let file = dir.join("order");
    std::fs::write(&file, &order).unwrap();
    let mut signatures = String::new();
    for name in ["officer", "bob"] {
        let mut sign = Command::new("ssh-keygen");
        sign.args(["-q", "-Y", "sign", "-n", HOLD_NAMESPACE, "-f"]).arg(dir.join(name));
        let signed = sign.stdin(std::fs::File::open(&file).unwrap()).stderr(Stdio::null()).output().unwrap();
        signatures += std::str::from_utf8(&signed.stdout).unwrap();
    }
    recorder.hold(session, set, order, signatures).await.unwrap();
}

/// Waits until the bucket has all of the log so far.
fn wait_log(recorder: &Recorder) {
    let size = recorder.figures().log_size;
    assert!(wait_until(PATIENCE, || figures(recorder).log_size >= size), "{:?}", figures(recorder));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_stays_and_what_is_retired_goes_when_log_and_lock_allow_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Guard(Ceph::start(&dir.path().join("ceph"), &Options::default()).unwrap());
    let shelf = Shelf { client: server.client(OWNER), endpoint: server.endpoint(), login: Login::of(OWNER) };
    make_bucket(&shelf.client, BUCKET).await.unwrap();
    policy::apply(&shelf.client, BUCKET, &policy::document(&published())).await.unwrap();
    let keeper = Shelf { login: Login::of(KEEPER), client: shelf.client.clone(), endpoint: shelf.endpoint.clone() };
    let trust = trust(dir.path());
    let source = format!("s3://{BUCKET}");
    let as_keeper = |more: &[&str]| keeper.replay(&[&["enforce", &source, "--trust", &trust], more].concat());
    let verify = || shelf.verify_at(&source, Path::new(&trust), &[]);

    let clock = Arc::new(Ago::new(DAY - SHORT));
    let place = Place {
        clock: Arc::<Ago>::clone(&clock),
        retain: DAY,
        ..Place::new(dir.path(), &server.endpoint(), BUCKET, Checksum::Md5)
    };
    let recorder = place.start().unwrap();
    let begun = SystemTime::now();
    let mut sessions = Vec::new();
    let mut size = 0;
    for seed in 0..3 {
        let session = open(&recorder).await;
        work(&session, seed, 2000).await;
        sessions.push(session.id());
        size = close(session).await;
    }
    let [held, retired, left] = sessions[..] else { panic!("three sessions") };
    assert!(wait_shipped(&recorder, size, PATIENCE), "{:?}", figures(&recorder));
    let until_us = recorder.proven_us().unwrap();
    assert_eq!(recorder.overdue(until_us).unwrap().sessions().count(), 0, "their time is not over");

    // An order is one thing, the bucket another, until whoever keeps it has seen to it; the node itself cannot.
    order(&recorder, dir.path(), true, held).await;
    wait_log(&recorder);
    let verdict = verify();
    assert!(
        verdict.list("exceptions").contains(&format!("hold: session {held} must be kept by order")),
        "{}",
        verdict.last
    );
    let (code, out, err) = as_keeper(&[]);
    assert_eq!(code, 3, "{out}{err}");
    assert!(out.contains("due      hold") && out.contains("versions: hold 1, lift 0, delete 0, left 1"), "{out}");
    let (code, out, err) = as_keeper(&["--apply"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let verdict = verify();
    assert!(!verdict.list("exceptions").contains("hold:"), "{}", verdict.last);
    assert_eq!(verdict.last["storage"]["legal_holds"], 1);
    let (code, out, _) = as_keeper(&["--apply"]);
    assert!(code == 0 && out.contains("hold 0, lift 0, delete 0, left 0"), "{out}");

    // A node that says too early that a session may go finds neither the keeper nor the lock on its side.
    let mut overdue = recorder.overdue(0).unwrap();
    recorder.retire(&mut overdue, &[retired]).await.unwrap();
    wait_log(&recorder);
    let (code, out, _) = as_keeper(&["--apply"]);
    assert!(code == 0 && out.contains(&format!("session {retired} was retired and stays: no anchor shows")), "{out}");
    let segments = versions(&shelf.client, BUCKET, "v1/t/").await.unwrap();
    let of =
        |session: SessionId| segments.iter().find(|one| one.key().unwrap().contains(&session.to_string())).unwrap();
    let (key, version) = (of(retired).key().unwrap(), of(retired).version_id().unwrap());
    let delete = shelf.client.delete_object().bucket(BUCKET).key(key).version_id(version);
    assert!(delete.clone().send().await.is_err(), "the lock stands");

    // Time passes, and the server says so.
    let rest = (SHORT + Duration::from_secs(4)).saturating_sub(begun.elapsed().unwrap());
    tokio::time::sleep(rest).await;
    clock.set_right();
    let late = open(&recorder).await;
    work(&late, 9, 2000).await;
    let newest = late.id();
    assert!(wait_shipped(&recorder, close(late).await, PATIENCE), "{:?}", figures(&recorder));
    let until_us = recorder.proven_us().unwrap();
    let mut overdue = recorder.overdue(until_us).unwrap();
    let over: Vec<SessionId> = overdue.sessions().map(|expired| expired.session).collect();
    assert_eq!(over, [held, left], "one is retired, the newest must be kept");
    // One that must be held, and one whose lock stands for a day: a node that has lost its mind retires them.
    recorder.retire(&mut overdue, &[held, newest]).await.unwrap();
    assert_eq!(recorder.erase_retired(&overdue).unwrap().segments, 3);
    wait_log(&recorder);
    let (code, out, _) = as_keeper(&[]);
    assert!(code == 3 && out.contains("delete 1, left 1") && out.contains(key), "{out}");
    for (session, why) in [(held, "a legal hold stands"), (newest, "no anchor shows")] {
        assert!(out.contains(&format!("session {session} was retired and stays: {why}")), "{out}");
    }
    let writer = Shelf { login: Login::of(WRITER), client: shelf.client.clone(), endpoint: shelf.endpoint.clone() };
    let (code, out, _) = writer.replay(&["enforce", &source, "--trust", &trust, "--apply"]);
    assert!(
        code == 3 && out.contains("refused  delete") && out.contains("left 1"),
        "the node itself cannot: {code} {out}"
    );
    let (code, out, err) = as_keeper(&["--apply"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let verdict = verify();
    assert_eq!((verdict.code, verdict.status(&retired.to_string()).0), (3, "retired"), "{}", verdict.last);
    for session in [held, left, newest] {
        assert_eq!(verdict.status(&session.to_string()).0, "clean", "{}", verdict.last);
    }
    assert_eq!((verdict.last["missing"].as_u64(), verdict.last["retired"].as_u64()), (Some(0), Some(1)));

    // Lifted and retired it may go; not while somebody has been at the log that says so.
    order(&recorder, dir.path(), false, held).await;
    wait_log(&recorder);
    let logs = versions(&shelf.client, BUCKET, "v1/log/").await.unwrap();
    let bundle = logs.iter().find(|one| one.key().unwrap().contains("tile/entries")).unwrap().key().unwrap();
    let junk = shelf.client.put_object().bucket(BUCKET).key(bundle).body(b"something else".to_vec().into());
    let junk = junk.send().await.unwrap().version_id.unwrap();
    let (code, out, _) = as_keeper(&["--apply"]);
    assert!(code == 1 && out.contains("nothing is lifted or deleted while a log is altered"), "{code} {out}");
    assert!(out.contains("hold 0, lift 0, delete 0"), "{out}");
    shelf.client.delete_object().bucket(BUCKET).key(bundle).version_id(junk).send().await.unwrap();
    let (code, out, err) = as_keeper(&["--apply"]);
    assert!(code == 0 && out.contains("lift 1, delete 1, left 0"), "{out}{err}");
    let verdict = verify();
    assert_eq!((verdict.code, verdict.status(&held.to_string()).0), (3, "retired"), "{}", verdict.last);
    recorder.shutdown();
}
