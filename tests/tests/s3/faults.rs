//! Each fault of the proxy once, before a server that checks no signature, and the harmless ones before one that does.

use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::put_object::{PutObjectError, PutObjectOutput};
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::ObjectLockMode;
use casemate_tests::noise::Noise;
use casemate_tests::s3::ceph::{self, Ceph, OWNER};
use casemate_tests::s3::faults::{Fault, Faults};
use casemate_tests::s3::ministack::{self, Ministack};
use casemate_tests::s3::{Login, client, make_bucket, refusal};

const BUCKET: &str = "casemate";
const PATIENCE: Duration = Duration::from_secs(20);
/// 2100-01-01T00:00:00Z.
const UNTIL: i64 = 4_102_444_800;

type Put = Result<PutObjectOutput, SdkError<PutObjectError>>;

async fn put(client: &Client, key: &str, content: &[u8]) -> Put {
    let put = client.put_object().bucket(BUCKET).key(key).body(content.to_vec().into());
    let put = put.object_lock_mode(ObjectLockMode::Compliance);
    put.object_lock_retain_until_date(DateTime::from_secs(UNTIL)).send().await
}

async fn read(client: &Client, key: &str) -> Option<Vec<u8>> {
    let got = client.get_object().bucket(BUCKET).key(key).send().await.ok()?;
    Some(got.body.collect().await.unwrap().to_vec())
}

/// Tells whether a request ended with its connection, and no answer.
fn cut(put: &Put) -> bool {
    matches!(put, Err(SdkError::DispatchFailure(_) | SdkError::ResponseError(_)))
}

fn is(method: &'static str) -> impl Fn(&casemate_tests::s3::faults::Seen) -> bool + Send + 'static {
    move |seen| seen.method == method
}

#[tokio::test]
async fn every_fault_does_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let server = ministack::Guard(Ministack::start(dir.path()).unwrap());
    let straight = server.client(OWNER);
    make_bucket(&straight, BUCKET).await.unwrap();
    let faults = Faults::before(server.port).unwrap();
    let through = client(&faults.endpoint(), &Login::of(OWNER), Duration::ZERO);
    let content = Noise::new(1).chunk(300_000);

    // Nothing is spoiled, and all is written down.
    assert_eq!(refusal(&put(&through, "plain", &content).await), (200, String::new()));
    assert_eq!(read(&through, "plain").await.unwrap(), content);
    assert!(through.head_object().bucket(BUCKET).key("plain").send().await.unwrap().content_length == Some(300_000));
    let seen = faults.seen();
    assert_eq!(seen.iter().map(|seen| seen.number).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(seen.iter().map(|seen| seen.method.as_str()).collect::<Vec<_>>(), ["PUT", "GET", "HEAD"]);
    assert!(seen.iter().all(|seen| seen.path == "/casemate/plain" && seen.passed && !seen.spoiled));
    assert!(seen.iter().all(|seen| seen.status == Some(200)));
    assert_eq!((seen[0].query.as_str(), seen[0].body_len, seen[0].answer_len), ("x-id=PutObject", 300_000, 0));
    assert_eq!((seen[1].body_len, seen[1].answer_len), (0, 300_000));
    assert_eq!(seen[0].header("x-amz-object-lock-mode"), Some("COMPLIANCE"));

    // Answers of the proxy's own: nothing arrives.
    faults.spoil_number(4, Fault::SlowDown);
    assert_eq!(refusal(&put(&through, "slowdown", &content).await), (503, "SlowDown".to_owned()));
    faults.spoil_next(1, Fault::Aborted, is("PUT"));
    assert_eq!(refusal(&put(&through, "aborted", &content).await), (409, "OperationAborted".to_owned()));
    faults.spoil_next(1, Fault::Skewed(-3600), is("PUT"));
    let skewed = put(&through, "skewed", &content).await;
    assert_eq!(refusal(&skewed), (403, "RequestTimeTooSkewed".to_owned()));
    let date = skewed.as_ref().unwrap_err().raw_response().unwrap().headers().get("date").unwrap().to_owned();
    let date = DateTime::from_str(&date, aws_sdk_s3::primitives::DateTimeFormat::HttpDate).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().cast_signed();
    assert!((date.secs() - (now - 3600)).abs() < 60, "{date}");
    faults.spoil_next(1, Fault::Swallow, is("PUT"));
    assert_eq!(refusal(&put(&through, "swallowed", &content).await), (200, String::new()));
    for key in ["slowdown", "aborted", "skewed", "swallowed"] {
        assert_eq!(read(&straight, key).await, None, "{key}");
    }

    // Connections that end.
    faults.spoil_next(1, Fault::Drop, is("PUT"));
    assert!(cut(&put(&through, "dropped", &content).await));
    faults.spoil_next(1, Fault::ResetInBody(100_000), is("PUT"));
    assert!(cut(&put(&through, "reset", &Noise::new(2).chunk(8 << 20)).await));
    let reset = faults.seen().pop().unwrap();
    assert!((100_000..8 << 20).contains(&reset.body_len) && !reset.passed && reset.status.is_none(), "{reset:?}");
    faults.spoil_next(1, Fault::LoseAnswer, is("PUT"));
    assert!(cut(&put(&through, "lost", &content).await));
    for (key, there) in [("dropped", None), ("reset", None), ("lost", Some(content.clone()))] {
        assert_eq!(read(&straight, key).await, there, "{key}");
    }
    faults.refuse_connections().unwrap();
    assert!(std::net::TcpStream::connect(faults.endpoint().trim_start_matches("http://")).is_err());
    assert!(cut(&put(&through, "refused", &content).await));
    faults.take_connections().unwrap();
    assert_eq!(refusal(&put(&through, "refused", &content).await), (200, String::new()));

    // What is passed on, or answered, is not what was sent.
    faults.spoil_next(1, Fault::Truncate(1000), is("PUT"));
    assert_eq!(refusal(&put(&through, "truncated", &content).await), (200, String::new()));
    assert_eq!(read(&straight, "truncated").await.unwrap(), content[..1000]);
    faults.spoil_next(1, Fault::Unlock, is("PUT"));
    assert_eq!(refusal(&put(&through, "unlocked", &content).await), (200, String::new()));
    let head = straight.head_object().bucket(BUCKET).key("unlocked").send().await.unwrap();
    assert_eq!((head.object_lock_mode, head.content_length), (None, Some(300_000)));
    faults.spoil_next(1, Fault::Stale(b"as it was".as_slice().into()), is("GET"));
    assert_eq!(read(&through, "plain").await.unwrap(), b"as it was");
    faults.spoil_next(1, Fault::locked_until("2030-01-01T00:00:00Z"), is("HEAD"));
    let head = through.head_object().bucket(BUCKET).key("plain").send().await.unwrap();
    assert_eq!(head.object_lock_retain_until_date, Some(DateTime::from_secs(1_893_456_000)));
    let head = through.head_object().bucket(BUCKET).key("plain").send().await.unwrap();
    assert_eq!(head.object_lock_retain_until_date, Some(DateTime::from_secs(UNTIL)), "one fault, one request");
    faults.spoil_next(1, Fault::AnswerHeader("x-amz-object-lock-mode", String::new()), is("HEAD"));
    assert_eq!(through.head_object().bucket(BUCKET).key("plain").send().await.unwrap().object_lock_mode, None);

    // Time: 300 kB at 600 kB/s are half a second, each way.
    faults.spoil_next(2, Fault::Slow(600_000), |seen| seen.path.ends_with("/slow"));
    for _ in 0..2 {
        let begun = Instant::now();
        match read(&straight, "slow").await {
            None => assert_eq!(refusal(&put(&through, "slow", &content).await), (200, String::new())),
            Some(_) => assert_eq!(read(&through, "slow").await.unwrap(), content),
        }
        assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
    }
    faults.spoil(Fault::Hang, is("PUT"));
    let (hanging, late) = (through.clone(), content.clone());
    let hanging = tokio::spawn(async move { put(&hanging, "hung", &late).await });
    let hangs = |seen: &[casemate_tests::s3::faults::Seen]| seen.last().is_some_and(|seen| seen.hangs);
    while !hangs(&faults.seen()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(read(&straight, "hung").await, None);
    assert!(!hanging.is_finished());
    faults.clear();
    faults.release();
    assert_eq!(refusal(&hanging.await.unwrap()), (200, String::new()));
    assert!(faults.wait(PATIENCE, |seen| seen.iter().all(|seen| !seen.hangs)));
    assert_eq!(read(&straight, "hung").await.unwrap(), content);

    // Everything from now on.
    faults.spoil_all(Fault::SlowDown);
    for _ in 0..3 {
        assert_eq!(refusal(&put(&through, "plain", &content).await).0, 503);
    }
    let before = faults.seen().len();
    drop(faults);
    assert!(cut(&put(&through, "plain", &content).await));
    assert!(before > 20);
}

#[tokio::test]
async fn signatures_hold_through_the_proxy() {
    let dir = tempfile::tempdir().unwrap();
    let server = ceph::Guard(Ceph::start(dir.path(), &ceph::Options::default()).unwrap());
    let faults = Faults::before(server.port).unwrap();
    let through = server.client_by(&faults.endpoint(), OWNER);
    make_bucket(&through, BUCKET).await.unwrap();
    let content = Noise::new(3).chunk(9 << 20);
    assert_eq!(refusal(&put(&through, "dir/a b+c=ü", &content).await), (200, String::new()));
    assert!(read(&through, "dir/a b+c=ü").await.unwrap() == content);
    let listed = through.list_object_versions().bucket(BUCKET).prefix("dir/").send().await.unwrap();
    assert_eq!(listed.versions().len(), 1);
    assert!(faults.seen().iter().all(|seen| seen.passed && seen.status == Some(200)));

    // A lock that is taken off on the way is noticed here, and nowhere else.
    faults.spoil_next(1, Fault::Unlock, is("PUT"));
    assert_eq!(refusal(&put(&through, "unlocked", &content).await), (403, "SignatureDoesNotMatch".to_owned()));
}
