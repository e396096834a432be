//! What each server keeps and refuses. The facts that both have in common are those of Amazon's documentation.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{
    BucketVersioningStatus, ChecksumMode, ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode,
};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use casemate_tests::s3::ceph::{CANARY, Ceph, Guard, OWNER, Options, READER, Store, WRITER};
use casemate_tests::s3::{Login, make_bucket, ministack, policy, refusal, versions};
use sha2::{Digest as _, Sha256};

const BUCKET: &str = "casemate";
const DAY: Duration = Duration::from_secs(86_400);

/// `printf %s CONTENT | openssl md5 -binary | base64` of the content that is stored here.
const FIRST: (&[u8], &str) = (b"the first", "fnlEG2JIg+9PMhbFse8uOg==");

fn in_days(days: u32) -> DateTime {
    // Whole seconds: a server may not keep more.
    let since = (SystemTime::now() + days * DAY).duration_since(SystemTime::UNIX_EPOCH).unwrap();
    DateTime::from_secs(since.as_secs() as i64)
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

fn fine() -> (u16, String) {
    refused(200, "")
}

fn sha256(content: &[u8]) -> String {
    BASE64_STANDARD.encode(Sha256::digest(content))
}

/// Stores a locked object and returns its version.
async fn put_locked(client: &Client, key: &str, content: &[u8], until: DateTime) -> String {
    let put = client.put_object().bucket(BUCKET).key(key).body(content.to_vec().into());
    let put = put.object_lock_mode(ObjectLockMode::Compliance).object_lock_retain_until_date(until);
    put.send().await.unwrap().version_id.unwrap()
}

async fn read(client: &Client, key: &str, version: Option<&str>) -> Vec<u8> {
    let get = client.get_object().bucket(BUCKET).key(key).set_version_id(version.map(str::to_owned));
    get.send().await.unwrap().body.collect().await.unwrap().to_vec()
}

async fn delete(client: &Client, key: &str, version: &str, bypass: bool) -> (u16, String) {
    let delete = client.delete_object().bucket(BUCKET).key(key).version_id(version);
    refusal(&delete.set_bypass_governance_retention(bypass.then_some(true)).send().await)
}

async fn retain(
    client: &Client,
    key: &str,
    mode: ObjectLockRetentionMode,
    until: DateTime,
    bypass: bool,
) -> (u16, String) {
    let retention = ObjectLockRetention::builder().mode(mode).retain_until_date(until).build();
    let put = client.put_object_retention().bucket(BUCKET).key(key).retention(retention);
    refusal(&put.set_bypass_governance_retention(bypass.then_some(true)).send().await)
}

/// What every store with Object Lock must keep.
async fn keeps_locks(owner: &Client) {
    use ObjectLockRetentionMode::{Compliance, Governance};
    make_bucket(owner, BUCKET).await.unwrap();
    let versioning = owner.get_bucket_versioning().bucket(BUCKET).send().await.unwrap();
    assert_eq!(versioning.status, Some(BucketVersioningStatus::Enabled));
    let lock = owner.get_object_lock_configuration().bucket(BUCKET).send().await.unwrap();
    let enabled = lock.object_lock_configuration.unwrap().object_lock_enabled.unwrap();
    assert_eq!(enabled.as_str(), "Enabled");

    // Set and read back, both ways of asking.
    let until = in_days(30);
    let first = put_locked(owner, "a", FIRST.0, until).await;
    let head = owner.head_object().bucket(BUCKET).key("a").version_id(&first).send().await.unwrap();
    assert_eq!(head.object_lock_mode, Some(ObjectLockMode::Compliance));
    assert_eq!(head.object_lock_retain_until_date.unwrap().secs(), until.secs());
    let retention = owner.get_object_retention().bucket(BUCKET).key("a").version_id(&first).send().await.unwrap();
    let retention = retention.retention.unwrap();
    assert_eq!((retention.mode, retention.retain_until_date.unwrap().secs()), (Some(Compliance), until.secs()));

    // Its owner neither deletes nor frees it, and may keep it for longer.
    let denied = refused(403, "AccessDenied");
    assert_eq!(delete(owner, "a", &first, false).await, denied);
    assert_eq!(delete(owner, "a", &first, true).await, denied);
    assert_eq!(retain(owner, "a", Compliance, in_days(29), false).await, denied);
    assert_eq!(retain(owner, "a", Compliance, in_days(29), true).await, denied);
    assert_eq!(retain(owner, "a", Governance, in_days(31), true).await, denied);
    assert_eq!(retain(owner, "a", Compliance, in_days(31), false).await, fine());

    // What is written over it stands beside it.
    let second = put_locked(owner, "a", b"the second", until).await;
    assert_ne!(first, second);
    assert_eq!(read(owner, "a", None).await, b"the second");
    assert_eq!(read(owner, "a", Some(&first)).await, FIRST.0);
    assert_eq!(delete(owner, "a", &first, true).await, denied);

    // Deleting without a version hides, and no more.
    let deleted = owner.delete_object().bucket(BUCKET).key("a").send().await.unwrap();
    assert_eq!(deleted.delete_marker, Some(true));
    assert_eq!(refusal(&owner.get_object().bucket(BUCKET).key("a").send().await), refused(404, "NoSuchKey"));
    let listed = owner.list_object_versions().bucket(BUCKET).prefix("a").send().await.unwrap();
    let ids: Vec<&str> = listed.versions().iter().filter_map(|version| version.version_id()).collect();
    assert_eq!(ids, [&second, &first], "newest first");
    assert_eq!(listed.delete_markers().len(), 1);
    assert_eq!(listed.delete_markers()[0].is_latest, Some(true));
    assert_eq!(read(owner, "a", Some(&first)).await, FIRST.0);
    assert_eq!(delete(owner, "a", &deleted.version_id.unwrap(), false).await, fine(), "a marker is never locked");
    assert_eq!(read(owner, "a", None).await, b"the second");

    // GOVERNANCE is for those who may not bypass it.
    let put = owner.put_object().bucket(BUCKET).key("g").body(b"mild".to_vec().into());
    let put = put.object_lock_mode(ObjectLockMode::Governance).object_lock_retain_until_date(until);
    let mild = put.send().await.unwrap().version_id.unwrap();
    assert_eq!(delete(owner, "g", &mild, false).await, denied);
    assert_eq!(delete(owner, "g", &mild, true).await, fine());

    // An unlocked twin goes.
    let twin = owner.put_object().bucket(BUCKET).key("twin").body(b"free".to_vec().into()).send().await.unwrap();
    assert_eq!(delete(owner, "twin", &twin.version_id.unwrap(), false).await, fine());

    // Versions come in pages; versions of one key may be on both sides of a page's end.
    for number in 0..7 {
        put_locked(owner, &format!("page/{}", number / 2), b"x", in_days(1)).await;
    }
    let (mut pages, mut found, mut key, mut version) = (0, Vec::new(), None, None);
    loop {
        let page = owner.list_object_versions().bucket(BUCKET).prefix("page/").max_keys(3);
        let page = page.set_key_marker(key).set_version_id_marker(version).send().await.unwrap();
        pages += 1;
        found.extend(page.versions().iter().map(|version| version.key().unwrap().to_owned()));
        (key, version) = (page.next_key_marker, page.next_version_id_marker);
        if page.is_truncated != Some(true) {
            break;
        }
    }
    assert_eq!(pages, 3);
    assert_eq!(found, ["page/0", "page/0", "page/1", "page/1", "page/2", "page/2", "page/3"]);
    assert_eq!(versions(owner, BUCKET, "page/").await.unwrap().len(), 7);
    assert_eq!(versions(owner, BUCKET, "").await.unwrap().len(), 9);

    let put = || owner.put_object().bucket(BUCKET).key("sum").body(FIRST.0.to_vec().into());
    assert_eq!(refusal(&put().content_md5(FIRST.1).send().await), fine());
    let wrong = put().content_md5(BASE64_STANDARD.encode([7; 16])).send().await;
    assert_eq!(refusal(&wrong), refused(400, "BadDigest"));
}

async fn put_new(client: &Client, key: &str) -> (u16, String) {
    let put = client.put_object().bucket(BUCKET).key(key).body(b"once".to_vec().into());
    refusal(&put.if_none_match("*").send().await)
}

#[tokio::test]
async fn ceph_keeps_locks_and_checks_who_asks() {
    let dir = tempfile::tempdir().unwrap();
    let ceph = Guard(Ceph::start(dir.path(), &Options::default()).unwrap());
    let owner = ceph.client(OWNER);
    keeps_locks(&owner).await;

    // Where it is not Amazon: create-only makes a second version, and only Content-MD5 is looked at.
    assert_eq!(put_new(&owner, "once").await, fine());
    assert_eq!(put_new(&owner, "once").await, fine(), "Amazon: 412");
    assert_eq!(versions(&owner, BUCKET, "once").await.unwrap().len(), 2);
    let wrong = owner.put_object().bucket(BUCKET).key("sum").body(FIRST.0.to_vec().into());
    assert_eq!(refusal(&wrong.checksum_sha256(sha256(b"other")).send().await), fine(), "Amazon: 400");
    let head = owner.head_object().bucket(BUCKET).key("sum").checksum_mode(ChecksumMode::Enabled).send().await.unwrap();
    assert_eq!(head.checksum_sha256, None);

    // What ministack lets pass.
    let past = owner.put_object().bucket(BUCKET).key("past").object_lock_mode(ObjectLockMode::Compliance);
    let past = past.object_lock_retain_until_date(DateTime::from_secs(1_000_000_000)).send().await;
    assert_eq!(refusal(&past), refused(400, "InvalidArgument"));
    let wrong = Login { secret_key: "guessed".to_owned(), ..Login::of(OWNER) };
    let guessing = casemate_tests::s3::client(&ceph.endpoint(), &wrong, Duration::ZERO);
    let listed = guessing.list_object_versions().bucket(BUCKET).send().await;
    assert_eq!(refusal(&listed), refused(403, "SignatureDoesNotMatch"));
    let early = casemate_tests::s3::client(&ceph.endpoint(), &Login::of(OWNER), DAY);
    assert_eq!(
        refusal(&early.list_object_versions().bucket(BUCKET).send().await),
        refused(403, "RequestTimeTooSkewed")
    );

    policies_hold(&ceph).await;
    let processes = ceph.processes.clone();
    drop(ceph);
    assert_eq!(processes.len(), 3);
    assert!(processes.iter().all(|process| !process.alive()));
}

/// What users may do who own nothing.
async fn policies_hold(ceph: &Ceph) {
    let owner = ceph.client(OWNER);
    let [writer, canary, reader] = [WRITER, CANARY, READER].map(|user| ceph.client(user));
    let denied = refused(403, "AccessDenied");
    let put = |client: &Client| client.put_object().bucket(BUCKET).key("mine").body(b"x".to_vec().into());
    for client in [&writer, &canary, &reader] {
        assert_eq!(refusal(&put(client).send().await), denied, "nobody but the owner, without a policy");
    }
    let document = policy::document(&[
        policy::allow(WRITER, BUCKET, &["s3:PutObject", "s3:PutObjectRetention", "s3:GetObjectRetention"]),
        policy::allow(READER, BUCKET, &["s3:GetObject", "s3:GetObjectVersion", "s3:ListBucketVersions"]),
        policy::allow(CANARY, BUCKET, &["s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion"]),
    ]);
    policy::apply(&owner, BUCKET, &document).await.unwrap();

    let mine = put(&writer).object_lock_mode(ObjectLockMode::Compliance).object_lock_retain_until_date(in_days(1));
    let mine = mine.send().await.unwrap().version_id.unwrap();
    assert_eq!(delete(&writer, "mine", &mine, false).await, denied);
    assert_eq!(refusal(&writer.delete_object().bucket(BUCKET).key("mine").send().await), denied);
    assert_eq!(
        read(&writer, "mine", None).await,
        b"x",
        "Amazon: denied; here an object is its writer's, not the bucket owner's"
    );
    assert_eq!(refusal(&writer.get_object().bucket(BUCKET).key("a").send().await), denied, "the owner's is not");
    assert_eq!(refusal(&owner.get_object().bucket(BUCKET).key("mine").send().await), denied, "nor the other way round");
    assert_eq!(retain(&writer, "mine", ObjectLockRetentionMode::Compliance, in_days(2), false).await, fine());
    assert_eq!(read(&reader, "mine", Some(&mine)).await, b"x");
    assert_eq!(versions(&reader, BUCKET, "mine").await.unwrap().len(), 1);
    assert_eq!(refusal(&put(&reader).send().await), denied);

    // The canary may delete, and so what it cannot delete is locked.
    let twin = put(&canary).key("canary").send().await.unwrap().version_id.unwrap();
    assert_eq!(delete(&canary, "mine", &mine, true).await, denied);
    assert_eq!(delete(&canary, "canary", &twin, false).await, fine());

    // A policy takes the place of the one before, and can keep a writer from what is its own.
    let document = policy::document(&[policy::deny(WRITER, BUCKET, &["s3:GetObject", "s3:GetObjectVersion"])]);
    policy::apply(&owner, BUCKET, &document).await.unwrap();
    assert_eq!(refusal(&put(&writer).send().await), denied);
    assert_eq!(refusal(&writer.get_object().bucket(BUCKET).key("mine").send().await), denied);
}

#[tokio::test]
async fn ceph_frees_what_has_been_kept_for_long_enough() {
    let dir = tempfile::tempdir().unwrap();
    let file = Options { store: Store::File, ..Options::default() };
    let ceph = Guard(Ceph::start(dir.path(), &file).unwrap());
    let owner = ceph.client(OWNER);
    make_bucket(&owner, BUCKET).await.unwrap();
    let version = put_locked(&owner, "a", FIRST.0, in_days(30)).await;
    assert_eq!(delete(&owner, "a", &version, true).await, refused(403, "AccessDenied"));
    drop(ceph);

    let ceph = Guard(Ceph::start(dir.path(), &Options { ahead: 29 * DAY, ..file.clone() }).unwrap());
    let early = delete(&ceph.client(OWNER), "a", &version, true).await;
    assert_eq!(early, refused(403, "AccessDenied"), "a day is left");
    drop(ceph);

    let ceph = Guard(Ceph::start(dir.path(), &Options { ahead: 31 * DAY, ..file }).unwrap());
    let real = casemate_tests::s3::client(&ceph.endpoint(), &Login::of(OWNER), Duration::ZERO);
    assert_eq!(delete(&real, "a", &version, false).await, refused(403, "RequestTimeTooSkewed"));
    assert_eq!(read(&ceph.client(OWNER), "a", Some(&version)).await, FIRST.0);
    assert_eq!(delete(&ceph.client(OWNER), "a", &version, false).await, fine());
}

#[tokio::test]
async fn ministack_keeps_locks_and_checks_sums() {
    let dir = tempfile::tempdir().unwrap();
    let server = ministack::Guard(ministack::Ministack::start(dir.path()).unwrap());
    let client = server.client(OWNER);
    keeps_locks(&client).await;

    assert_eq!(put_new(&client, "once").await, fine());
    assert_eq!(put_new(&client, "once").await, refused(412, "PreconditionFailed"));
    assert_eq!(versions(&client, BUCKET, "once").await.unwrap().len(), 1);
    let put = || client.put_object().bucket(BUCKET).key("sum").body(FIRST.0.to_vec().into());
    assert_eq!(refusal(&put().checksum_sha256(sha256(FIRST.0)).send().await), fine());
    let head =
        client.head_object().bucket(BUCKET).key("sum").checksum_mode(ChecksumMode::Enabled).send().await.unwrap();
    assert_eq!(head.checksum_sha256, Some(sha256(FIRST.0)));
    let wrong = put().checksum_sha256(sha256(b"other")).send().await;
    assert_eq!(refusal(&wrong).0, 400);
    let wrong = put().checksum_crc32_c("AAAAAA==").send().await;
    assert_eq!(refusal(&wrong).0, 400);

    // Whoever asks is let in.
    let wrong = Login { secret_key: "guessed".to_owned(), ..Login::of(OWNER) };
    let guessing = casemate_tests::s3::client(&server.endpoint(), &wrong, DAY);
    assert_eq!(refusal(&guessing.list_object_versions().bucket(BUCKET).send().await), fine());
    server.stop();
    assert!(!server.process.alive());
}
