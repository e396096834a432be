//! The rig with a bucket: recordings get there locked, and who may do what is as the policy says.

use std::process::Command;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::types::ObjectLockMode;
use casemate_tests::bins;
use casemate_tests::client::Route;
use casemate_tests::process::{nothing, run, wait_until};
use casemate_tests::rig::{BUCKET, Lab, Options, Rig};
use casemate_tests::s3::ceph::{CANARY, OWNER, READER, WRITER};
use casemate_tests::s3::{blocking, refusal, versions};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_recording_goes_on_into_the_bucket_and_is_locked_there() {
    let lab = Lab::with(&Options { s3: true, ..Options::default() }).unwrap();
    assert_eq!(lab.exec(Route::Through, "echo hi").unwrap().out(), "hi\n");
    let s3 = lab.s3().unwrap();
    let [owner, writer, canary, reader] = [OWNER, WRITER, CANARY, READER].map(|user| s3.client(user));
    let segments = || blocking(async { versions(&reader, BUCKET, "v1/t/").await }).unwrap();
    assert!(wait_until(PATIENCE, || !segments().is_empty()), "{}", lab.bastion.log());

    let segment = segments().remove(0);
    let (key, version) = (segment.key.unwrap(), segment.version_id.unwrap());
    blocking(async {
        let head = owner.head_object().bucket(BUCKET).key(&key).version_id(&version).send().await?;
        assert_eq!(head.object_lock_mode, Some(ObjectLockMode::Compliance));
        let until = SystemTime::try_from(head.object_lock_retain_until_date.unwrap())?;
        let left = until.duration_since(SystemTime::now())?;
        let day = Duration::from_secs(86_400);
        assert!(left > day - PATIENCE * 5 && left < 3 * day, "a throwaway keeps nothing for long: {left:?}");
        for client in [&owner, &writer, &canary, &reader] {
            let gone = client.delete_object().bucket(BUCKET).key(&key).version_id(&version);
            let gone = gone.bypass_governance_retention(true).send().await;
            assert_eq!(refusal(&gone), (403, "AccessDenied".to_owned()));
        }
        for client in [&writer, &canary, &reader] {
            // Nor is it hidden by a marker.
            let hidden = client.delete_object().bucket(BUCKET).key(&key).send().await;
            assert_eq!(refusal(&hidden), (403, "AccessDenied".to_owned()));
        }
        Ok(())
    })
    .unwrap();

    // The bastion finds its bucket in order, its rights included: no more than it needs.
    let mut check = Command::new(bins::path("casemate").unwrap());
    check.args(["vault", "check", "--config"]).arg(lab.bastion.config());
    let done = run(&mut check, nothing(), PATIENCE).unwrap();
    assert_eq!(done.code(), 0, "{}{}", done.out(), done.err());

    let lines = lab.lines().unwrap();
    assert!(
        lines.contains(&format!("S3_ENDPOINT='{}'\nS3_BUCKET='casemate'\nS3_ACCESS_KEY=", s3.endpoint())),
        "{lines}"
    );

    // Stopped by whoever comes later, it is gone; started again, it has what it had.
    let dir = lab.dir.parent().unwrap();
    Rig::load(dir).unwrap().stop();
    assert!(!s3.alive());
    let again = Rig::start(dir, &Options { s3: true, ..Options::default() }).unwrap();
    let reader = again.s3().unwrap().client(READER);
    let kept = blocking(async { versions(&reader, BUCKET, &key).await });
    again.stop();
    assert_eq!(kept.unwrap().len(), 1);
}
