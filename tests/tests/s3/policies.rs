//! The policies of `infra/policies/`, held against the requests that the code makes and, on Ceph, against those who should not be
//! able to make others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{
    BucketLifecycleConfiguration, BucketVersioningStatus, ExpirationStatus, LifecycleExpiration, LifecycleRule,
    LifecycleRuleFilter, ObjectCannedAcl, ObjectLockConfiguration, ObjectLockEnabled, ObjectLockLegalHold,
    ObjectLockLegalHoldStatus, ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode, VersioningConfiguration,
};
use casemate_recorder::vault::s3::{Bucket, Checksum, Lock, LockMode, Purpose, S3Error, Settings};
use casemate_tests::s3::ceph::{CANARY, Ceph, Guard, KEEPER, OWNER, Options, READER, USERS, WRITER};
use casemate_tests::s3::{Login, credentials_file, make_bucket, policy, refusal, versions};
use serde_json::{Value, json};

use super::node::{BUCKET, NODE, PATIENCE, Place, figures, holds_all, session, wait_shipped};

const DAY_S: i64 = 86_400;

/// Somebody with every right that a user's own policy can give, as an administrator of the account has.
const ADMIN: &str = "admin";

/// What each request asks for at Amazon, by its function in the SDK, and who makes it.
///
/// HEAD shows a lock and a legal hold only to those who may ask for them by themselves, and says that something is not there
/// only to those who may list. A PUT with a lock is a PUT and the setting of a lock.
const RIGHTS: [(&str, &[&str], &[&str]); 9] = [
    ("put_object", &["PutObject", "PutObjectRetention"], &[WRITER, CANARY]),
    (
        "head_object",
        &["GetObject", "GetObjectVersion", "GetObjectRetention", "GetObjectLegalHold", "ListBucket"],
        &[WRITER, READER, KEEPER],
    ),
    ("get_object", &["GetObject", "GetObjectVersion"], &[WRITER, READER, KEEPER]),
    ("list_object_versions", &["ListBucketVersions"], &[WRITER, READER, KEEPER]),
    ("put_object_retention", &["PutObjectRetention"], &[WRITER]),
    ("put_object_legal_hold", &["PutObjectLegalHold"], &[KEEPER]),
    // The writer asks as well, to be refused.
    ("delete_object", &["DeleteObjectVersion"], &[CANARY, KEEPER]),
    ("get_bucket_versioning", &["GetBucketVersioning"], &[WRITER, READER]),
    ("get_object_lock_configuration", &["GetBucketObjectLockConfiguration"], &[WRITER, READER]),
];

/// Rights that S3 knows; a policy may name no other, since S3 would take it and nothing would come of it.
const KNOWN: [&str; 31] = [
    "AbortMultipartUpload",
    "BypassGovernanceRetention",
    "DeleteBucket",
    "DeleteBucketPolicy",
    "DeleteObject",
    "DeleteObjectVersion",
    "GetBucketObjectLockConfiguration",
    "GetBucketPolicy",
    "GetBucketVersioning",
    "GetLifecycleConfiguration",
    "GetObject",
    "GetObjectLegalHold",
    "GetObjectRetention",
    "GetObjectVersion",
    "ListBucket",
    "ListBucketVersions",
    "PutBucketAcl",
    "PutBucketNotification",
    "PutBucketObjectLockConfiguration",
    "PutBucketOwnershipControls",
    "PutBucketPolicy",
    "PutBucketPublicAccessBlock",
    "PutBucketVersioning",
    "PutEncryptionConfiguration",
    "PutLifecycleConfiguration",
    "PutMetricsConfiguration",
    "PutObject",
    "PutObjectAcl",
    "PutObjectLegalHold",
    "PutObjectRetention",
    "PutReplicationConfiguration",
];

/// Those among them that Ceph has nothing to do for. It takes no policy that names them.
const UNKNOWN_TO_CEPH: [&str; 3] =
    ["PutBucketOwnershipControls", "PutEncryptionConfiguration", "PutMetricsConfiguration"];

/// What a user must not be able to do who owns what it put: at Ceph an object is its writer's, which no policy of ours has to
/// forbid at Amazon, where buckets own their objects.
const OF_OWNERS: [&str; 4] = ["PutObjectAcl", "PutObjectVersionAcl", "PutObjectTagging", "PutObjectVersionTagging"];

fn sources(of: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(of), &mut found);
    assert!(!found.is_empty(), "{of}");
    found
}

/// The functions of the SDK's client that the code calls.
fn requests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in sources("recorder/src/vault/s3") {
        let text = std::fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let packed: String = code.split_whitespace().collect();
        for rest in packed.split("client.").skip(1) {
            let name: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            if rest[name.len()..].starts_with('(') && name != "clone" {
                found.insert(name);
            }
        }
    }
    found
}

fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().cloned().unwrap_or_default();
    list.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// Whether a pattern of a policy fits: `*` stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, rest)) => text
            .strip_prefix(head)
            .is_some_and(|text| (0..=text.len()).any(|at| text.is_char_boundary(at) && fits(rest, &text[at..]))),
    }
}

/// The rights that a role's policy gives.
fn allowed(role: &str) -> BTreeSet<String> {
    let policy = policy::project(role, BUCKET, "").unwrap();
    let allows = policy::statements(&policy).into_iter().filter(|statement| statement["Effect"] == "Allow");
    allows.flat_map(|statement| texts(&statement["Action"])).collect()
}

#[test]
fn every_request_of_the_code_has_its_right_and_every_right_its_request() {
    let requests = requests();
    let known: BTreeSet<String> = RIGHTS.iter().map(|(request, ..)| (*request).to_owned()).collect();
    assert_eq!(requests, known, "a request that is new or gone: say in RIGHTS what it asks for, and in infra/policies");
    let mut used: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (_, actions, roles) in RIGHTS {
        for role in roles {
            used.entry(role).or_default().extend(actions.iter().map(|action| format!("s3:{action}")));
        }
    }
    for role in [WRITER, CANARY, READER, KEEPER] {
        assert_eq!(allowed(role), used[role], "{role}.json");
    }
    // Nobody else talks to a bucket.
    for place in ["recorder/src", "replay/src", "proxy/src"] {
        for path in sources(place) {
            let here = path.components().any(|part| part.as_os_str() == "s3");
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(here || !text.contains("aws_sdk_s3"), "{} makes requests of its own", path.display());
        }
    }
}

#[test]
fn policies_name_rights_that_s3_knows() {
    for name in [WRITER, CANARY, READER, KEEPER, "bucket"] {
        for statement in policy::statements(&policy::project(name, BUCKET, "a/b/").unwrap()) {
            let actions = [texts(&statement["Action"]), texts(&statement["NotAction"])].concat();
            assert!(!actions.is_empty() && statement["Sid"].is_string(), "{statement}");
            for action in actions {
                let action = action.strip_prefix("s3:").unwrap_or_else(|| panic!("{name}: {action}"));
                assert!(KNOWN.iter().any(|known| fits(action, known)), "{name}: {action}");
                assert_eq!(action.contains('*'), statement["Effect"] == "Deny" && action.ends_with('*'));
            }
            let arn = format!("arn:aws:s3:::{BUCKET}");
            let resources = [texts(&statement["Resource"]), texts(&statement["NotResource"])].concat();
            assert!(!resources.is_empty());
            assert!(resources.iter().all(|resource| *resource == arn || resource.starts_with(&format!("{arn}/"))));
            let own = |resource: &String| resource.starts_with(&format!("{arn}/a/b/"));
            let allows = statement["Effect"] == "Allow";
            assert!(!allows || resources.iter().all(|resource| *resource == arn || own(resource)), "{statement}");
        }
    }
}

#[test]
fn what_a_policy_leaves_open_terraform_fills_in() {
    let dir = policy::directory();
    let mut module = String::new();
    for entry in std::fs::read_dir(dir.join("../terraform")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "tf") {
            module.extend(std::fs::read_to_string(path).unwrap().split_whitespace());
        }
    }
    for name in [WRITER, CANARY, READER, KEEPER, "bucket", "guard"] {
        assert!(module.contains(&format!("templatefile(\"${{local.policies}}/{name}.json\"")), "{name} is not used");
        policy::project(name, BUCKET, "").unwrap();
        let text = std::fs::read_to_string(dir.join(format!("{name}.json"))).unwrap();
        for gap in text.split("${").skip(1).map(|rest| rest.split('}').next().unwrap()) {
            assert!(module.contains(&format!("{gap}=")), "{name}: {gap}");
        }
    }
}

/// Whether a statement speaks of that object.
fn speaks_of(statement: &Value, key: &str) -> bool {
    let arn = format!("arn:aws:s3:::{BUCKET}/{key}");
    let named = |field: &str| texts(&statement[field]).iter().any(|pattern| fits(pattern, &arn));
    if statement["NotResource"].is_array() { !named("NotResource") } else { named("Resource") }
}

/// Ceph knows neither what a lock that is asked for looks like, nor the version of TLS, and leaves `aws:SecureTransport` unset
/// where there is none: statements about those do nothing there, and are read here instead.
#[test]
fn what_ceph_cannot_judge_says_what_it_should() {
    let bucket = policy::project("bucket", BUCKET, "").unwrap();
    let by_sid = |sid: &str| {
        let found = policy::statements(&bucket).into_iter().find(|statement| statement["Sid"] == sid);
        found.unwrap_or_else(|| panic!("{sid}"))
    };
    let puts = json!(["s3:PutObject", "s3:PutObjectRetention"]);
    let (min, max) = policy::RETENTION_DAYS;
    let days = |test: &str, days: u32| json!({ test: { "s3:object-lock-remaining-retention-days": days.to_string() } });
    // Where a negated condition finds nothing to look at, it holds: no lock is refused like another one.
    let wanted = [
        ("OnlyByTls", json!(["s3:*"]), json!({ "Bool": { "aws:SecureTransport": "false" } })),
        ("OnlyByNewTls", json!(["s3:*"]), json!({ "NumericLessThan": { "s3:TlsVersion": "1.2" } })),
        ("OnlyLocked", puts.clone(), json!({ "StringNotEquals": { "s3:object-lock-mode": "COMPLIANCE" } })),
        ("ForLongEnough", puts.clone(), days("NumericLessThan", min)),
        ("NotForEver", puts.clone(), days("NumericGreaterThan", max)),
        ("CanariesBriefly", puts, days("NumericGreaterThan", 2)),
    ];
    for (sid, actions, condition) in wanted {
        let statement = by_sid(sid);
        assert_eq!((&statement["Effect"], &statement["Principal"]), (&json!("Deny"), &json!("*")), "{sid}");
        assert_eq!((&statement["Action"], &statement["Condition"]), (&actions, &condition), "{sid}");
    }
    // What is locked and what is not: everything but the catalogue, which is no evidence, and the canary's twin.
    let (segment, note) = ("v1/t/2026/11/22/0/000000.seg", "v1/log/bastion-1/cp/2026-11-22/1.note");
    let spoken: [(&str, &[&str], &[&str]); 6] = [
        ("OnlyByTls", &[segment, note, "v1/cat/x", "canary/x", "other"], &[]),
        ("OnlyByNewTls", &[segment, note, "v1/cat/x", "canary/x", "other"], &[]),
        ("OnlyLocked", &[segment, note, "other"], &["v1/cat/x", "canary/x"]),
        ("ForLongEnough", &[segment, note, "other"], &["v1/cat/x", "canary/x"]),
        ("NotForEver", &[segment, note, "v1/cat/x", "other"], &["canary/x"]),
        ("CanariesBriefly", &["canary/x"], &[segment, note, "v1/cat/x", "other"]),
    ];
    for (sid, of, not_of) in spoken {
        assert!(of.iter().all(|key| speaks_of(&by_sid(sid), key)), "{sid}");
        assert!(!not_of.iter().any(|key| speaks_of(&by_sid(sid), key)), "{sid}");
    }
    // `NotAction` is taken and nothing comes of it.
    let reader = policy::statements(&policy::project(READER, BUCKET, "").unwrap());
    let rest = reader.iter().find(|statement| statement["NotAction"].is_array()).unwrap();
    assert_eq!((&rest["Effect"], &rest["NotAction"]), (&json!("Deny"), &json!(["s3:Get*", "s3:List*"])));
    // And nobody is held to less by another statement: this policy allows nothing.
    assert!(policy::statements(&bucket).iter().all(|statement| statement["Effect"] == "Deny"));
}

#[test]
fn the_guard_denies_and_nothing_else() {
    let guard = policy::project("guard", BUCKET, "").unwrap();
    let denied: BTreeSet<String> = policy::statements(&guard)
        .iter()
        .inspect(|statement| assert_eq!(statement["Effect"], "Deny"))
        .flat_map(|statement| texts(&statement["Action"]))
        .collect();
    for action in [
        "cloudwatch:DisableAlarmActions",
        "cloudwatch:DeleteAlarms",
        "cloudwatch:PutMetricAlarm",
        "events:DisableRule",
        "events:RemoveTargets",
        "cloudtrail:StopLogging",
        "sns:Unsubscribe",
        "iam:DetachRolePolicy",
    ] {
        assert!(denied.contains(action), "{action}");
    }
}

/// Everything that is published, for the users of Ceph.
pub(crate) fn published() -> Vec<Value> {
    let mut statements = policy::of_everybody(&policy::project("bucket", BUCKET, "").unwrap());
    for role in [WRITER, CANARY, READER, KEEPER] {
        statements.extend(policy::of_user(role, &policy::project(role, BUCKET, "").unwrap()));
        statements.push(policy::deny(
            role,
            BUCKET,
            &OF_OWNERS.map(|action| format!("s3:{action}")).each_ref().map(String::as_str),
        ));
    }
    // Objects are their writers', and so not even the bucket's owner could read them.
    statements.push(policy::allow(OWNER, BUCKET, &["s3:*"]));
    for statement in &mut statements {
        if let Some(actions) = statement.get_mut("Action").and_then(Value::as_array_mut) {
            actions.retain(|action| !UNKNOWN_TO_CEPH.iter().any(|unknown| *action == format!("s3:{unknown}")));
        }
    }
    statements
}

fn in_days(days: i64) -> DateTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    DateTime::from_secs(since.as_secs().cast_signed() + days * DAY_S)
}

fn denied() -> (u16, String) {
    (403, "AccessDenied".to_owned())
}

fn fine() -> (u16, String) {
    (200, String::new())
}

/// A user's requests, each with how it was refused.
struct As<'a>(&'a Client);

impl As<'_> {
    async fn put(&self, key: &str, lock: Option<(ObjectLockMode, i64)>) -> Result<String, (u16, String)> {
        let mut put = self.0.put_object().bucket(BUCKET).key(key).body(b"anything".to_vec().into());
        if let Some((mode, days)) = lock {
            put = put.object_lock_mode(mode).object_lock_retain_until_date(in_days(days));
        }
        let outcome = put.send().await;
        let refused = refusal(&outcome);
        outcome.map(|done| done.version_id.unwrap()).map_err(|_| refused)
    }

    async fn delete(&self, key: &str, version: Option<&str>, bypass: bool) -> (u16, String) {
        let delete = self.0.delete_object().bucket(BUCKET).key(key).set_version_id(version.map(str::to_owned));
        refusal(&delete.set_bypass_governance_retention(bypass.then_some(true)).send().await)
    }

    async fn retain(&self, key: &str, version: &str, mode: ObjectLockRetentionMode, days: i64) -> (u16, String) {
        let retention = ObjectLockRetention::builder().mode(mode).retain_until_date(in_days(days)).build();
        let put = self.0.put_object_retention().bucket(BUCKET).key(key).version_id(version).retention(retention);
        refusal(&put.bypass_governance_retention(true).send().await)
    }

    async fn hold(&self, key: &str, version: &str, status: ObjectLockLegalHoldStatus) -> (u16, String) {
        let hold = ObjectLockLegalHold::builder().status(status).build();
        let put = self.0.put_object_legal_hold().bucket(BUCKET).key(key).version_id(version).legal_hold(hold);
        refusal(&put.send().await)
    }

    async fn read(&self, key: &str, version: &str) -> (u16, String) {
        refusal(&self.0.get_object().bucket(BUCKET).key(key).version_id(version).send().await)
    }

    /// Tries to change the bucket in every way that matters.
    async fn changes_nothing_of_the_bucket(&self) {
        let off = VersioningConfiguration::builder().status(BucketVersioningStatus::Suspended).build();
        let off = self.0.put_bucket_versioning().bucket(BUCKET).versioning_configuration(off).send().await;
        assert_eq!(refusal(&off), denied(), "versioning");
        let none = ObjectLockConfiguration::builder().object_lock_enabled(ObjectLockEnabled::Enabled).build();
        let none = self.0.put_object_lock_configuration().bucket(BUCKET).object_lock_configuration(none).send().await;
        assert_eq!(refusal(&none), denied(), "lock configuration");
        let rule = LifecycleRule::builder()
            .id("all")
            .status(ExpirationStatus::Enabled)
            .filter(LifecycleRuleFilter::builder().prefix("").build())
            .expiration(LifecycleExpiration::builder().days(1).build());
        let rules = BucketLifecycleConfiguration::builder().rules(rule.build().unwrap()).build().unwrap();
        let expire =
            self.0.put_bucket_lifecycle_configuration().bucket(BUCKET).lifecycle_configuration(rules).send().await;
        assert_eq!(refusal(&expire), denied(), "lifecycle");
        let open = policy::document(&[policy::allow(READER, BUCKET, &["s3:*"])]).to_string();
        assert_eq!(refusal(&self.0.put_bucket_policy().bucket(BUCKET).policy(open).send().await), denied(), "policy");
        assert_eq!(refusal(&self.0.delete_bucket_policy().bucket(BUCKET).send().await), denied(), "no policy");
        assert_eq!(refusal(&self.0.delete_bucket().bucket(BUCKET).send().await), denied(), "no bucket");
    }

    /// Tries to get rid of a version, or to make that easier.
    async fn takes_nothing_away(&self, key: &str, version: &str) {
        use ObjectLockRetentionMode::{Compliance, Governance};
        assert_eq!(self.delete(key, Some(version), false).await, denied(), "{key}");
        assert_eq!(self.delete(key, Some(version), true).await, denied(), "{key}, around its lock");
        assert_eq!(self.delete(key, None, false).await, denied(), "{key}, by a marker");
        assert_eq!(self.retain(key, version, Compliance, 1).await, denied(), "{key}, sooner");
        assert_eq!(self.retain(key, version, Governance, 500).await, denied(), "{key}, milder");
        assert_eq!(self.hold(key, version, ObjectLockLegalHoldStatus::On).await, denied(), "{key}, held");
        assert_eq!(self.hold(key, version, ObjectLockLegalHoldStatus::Off).await, denied(), "{key}, let go");
    }
}

/// A server with a bucket under the published policies.
async fn world(dir: &Path) -> (Guard, Place) {
    let ceph = Guard(Ceph::start(&dir.join("ceph"), &Options::default()).unwrap());
    let owner = ceph.client(OWNER);
    make_bucket(&owner, BUCKET).await.unwrap();
    policy::apply(&owner, BUCKET, &policy::document(&published())).await.unwrap();
    let mut place = Place::new(dir, &ceph.endpoint(), BUCKET, Checksum::Md5);
    let logins = USERS.map(Login::of);
    std::fs::write(place.settings.credentials.as_ref().unwrap(), credentials_file(&logins)).unwrap();
    place.settings.canary_profile = Some(CANARY.to_owned());
    place.settings.timeout = None;
    (ceph, place)
}

#[tokio::test(flavor = "multi_thread")]
async fn under_the_published_policies_a_recorder_ships_and_nobody_does_more() {
    let dir = tempfile::tempdir().unwrap();
    let (ceph, place) = world(dir.path()).await;
    let owner = ceph.client(OWNER);

    let recorder = place.start().unwrap();
    let closed = session(&recorder, 1, 100_000).await;
    assert!(wait_shipped(&recorder, closed, PATIENCE), "{:?}", figures(&recorder));
    recorder.shutdown();
    assert!(figures(&recorder).troubles.is_empty(), "{:?}", figures(&recorder));
    holds_all(&place, &owner, BUCKET, 0).await;

    let bucket = Bucket::open(place.settings.clone(), Purpose::Reading).await.unwrap();
    let now_us = u64::try_from(in_days(0).secs()).unwrap() * 1_000_000;
    let checks = bucket.check_all(NODE, now_us).await;
    for what in ["versioning", "lock", "rights", "canary", "twin"] {
        let check = checks.iter().find(|check| check.what == what).unwrap();
        assert!(check.is_good(), "{what}: {}", check.text);
    }

    let shipped = versions(&owner, BUCKET, "v1/t/").await.unwrap();
    let (key, version) = (shipped[0].key().unwrap(), shipped[0].version_id().unwrap());
    writer_only_adds(&ceph.client(WRITER), key, version).await;
    canary_stays_below_its_prefix(&ceph.client(CANARY), key, version).await;
    reader_only_reads(&ceph, &place, key, version).await;
    administrators_take_nothing(&ceph, key, version).await;
    roles_deny_themselves(&ceph, key, version).await;
    // After all of it, everything is there and nothing beside it.
    holds_all(&place, &owner, BUCKET, 0).await;
}

async fn writer_only_adds(client: &Client, key: &str, version: &str) {
    use ObjectLockRetentionMode::{Compliance, Governance};
    let writer = As(client);
    writer.takes_nothing_away(key, version).await;
    writer.changes_nothing_of_the_bucket().await;
    assert_eq!(writer.retain(key, version, Compliance, 401).await, fine(), "longer");
    for elsewhere in ["canary/mine", "v2/mine", "mine"] {
        assert_eq!(writer.put(elsewhere, None).await, Err(denied()), "{elsewhere}");
    }
    let acl = client.put_object_acl().bucket(BUCKET).key(key).acl(ObjectCannedAcl::PublicRead).send().await;
    assert_eq!(refusal(&acl), denied());
    // Amazon: refused, since it is not locked. What is not locked does not go either.
    let free = writer.put("v1/cat/free", None).await.unwrap();
    assert_eq!(writer.delete("v1/cat/free", Some(&free), false).await, denied());
    // A lock that can be bypassed, by those who have the right to: not the writer, whose own it is.
    let mild = writer.put("v1/mild", Some((ObjectLockMode::Governance, 400))).await.unwrap();
    assert_eq!(writer.retain("v1/mild", &mild, Governance, 1).await, denied());
    assert_eq!(writer.delete("v1/mild", Some(&mild), true).await, denied());
}

async fn canary_stays_below_its_prefix(client: &Client, key: &str, version: &str) {
    let canary = As(client);
    canary.takes_nothing_away(key, version).await;
    canary.changes_nothing_of_the_bucket().await;
    assert_eq!(canary.put(key, None).await, Err(denied()));
    assert_eq!(canary.put("v1/other", None).await, Err(denied()));
    assert_eq!(canary.read(key, version).await, denied());
    assert_eq!(refusal(&client.list_object_versions().bucket(BUCKET).send().await), denied());
    let locked = canary.put("canary/locked", Some((ObjectLockMode::Compliance, 1))).await.unwrap();
    assert_eq!(canary.delete("canary/locked", Some(&locked), true).await, denied());
    let free = canary.put("canary/free", None).await.unwrap();
    assert_eq!(canary.delete("canary/free", Some(&free), false).await, fine());
    // A lock that bypassing would open is one that holds, for a canary.
    let mild = canary.put("canary/mild", Some((ObjectLockMode::Governance, 1))).await.unwrap();
    assert_eq!(canary.delete("canary/mild", Some(&mild), true).await, denied());
}

async fn reader_only_reads(ceph: &Ceph, place: &Place, key: &str, version: &str) {
    let client = ceph.client(READER);
    let reader = As(&client);
    reader.takes_nothing_away(key, version).await;
    reader.changes_nothing_of_the_bucket().await;
    for name in [key, "v1/other", "canary/other", "other"] {
        assert_eq!(reader.put(name, None).await, Err(denied()), "{name}");
    }
    let settings = Settings { profile: Some(READER.to_owned()), ..place.settings.clone() };
    let bucket = Bucket::open(settings, Purpose::Reading).await.unwrap();
    let mut listed = Vec::new();
    bucket.versions("", &mut |version| listed.push(version)).await.unwrap();
    assert_eq!(bucket.directories("v1/").await.unwrap(), ["cat/", "log/", "t/"]);
    for entry in listed.iter().filter(|entry| entry.key.starts_with("v1/t/") || entry.key.starts_with("v1/log/")) {
        let standing = bucket.look(&entry.key, Some(&entry.id)).await.unwrap();
        assert!(standing.lock.is_some_and(|lock| lock.mode == LockMode::Compliance), "{}", entry.key);
        let content = bucket.get(&entry.key, Some(&entry.id), standing.bytes).await.unwrap();
        assert_eq!(content.len() as u64, entry.bytes);
    }
    let state = bucket.lockdown().await.unwrap();
    assert!(state.versioning && state.lock && !state.default_lock);
    assert!(matches!(bucket.look("v1/absent", None).await, Err(S3Error::Absent(_))));
}

/// The bucket's own policy stands against those whom everything else allows everything.
async fn administrators_take_nothing(ceph: &Ceph, key: &str, version: &str) {
    let owner = ceph.client(OWNER);
    ceph.add_user(ADMIN).unwrap();
    let mut statements = published();
    statements.push(policy::allow(ADMIN, BUCKET, &["s3:*"]));
    policy::apply(&owner, BUCKET, &policy::document(&statements)).await.unwrap();
    let client = ceph.client(ADMIN);
    let admin = As(&client);
    assert_eq!(admin.read(key, version).await, fine(), "whoever may everything may this");
    admin.takes_nothing_away(key, version).await;
    admin.changes_nothing_of_the_bucket().await;
    // Not even what no lock keeps, its own things, or what the canary left.
    let free = admin.put("v1/cat/own", None).await.unwrap();
    assert_eq!(admin.delete("v1/cat/own", Some(&free), false).await, denied());
    let mild = admin.put("v1/own", Some((ObjectLockMode::Governance, 400))).await.unwrap();
    assert_eq!(admin.delete("v1/own", Some(&mild), true).await, denied());
    let left = admin.put("canary/own", None).await.unwrap();
    assert_eq!(admin.delete("canary/own", Some(&left), false).await, denied());

    // Those who break glass can, unless the lock is in the way.
    let glass = As(&owner);
    let governed = versions(&owner, BUCKET, "v1/mild").await.unwrap();
    assert_eq!(glass.delete(key, Some(version), true).await, denied(), "the lock's own refusal");
    assert_eq!(glass.hold(key, version, ObjectLockLegalHoldStatus::On).await, fine());
    assert_eq!(glass.hold(key, version, ObjectLockLegalHoldStatus::Off).await, fine());
    for (key, version) in [("v1/own", mild.as_str()), ("v1/mild", governed[0].version_id().unwrap())] {
        assert_eq!(glass.delete(key, Some(version), true).await, fine(), "{key}");
    }
    for found in versions(&owner, BUCKET, "v1/cat/").await.unwrap() {
        assert_eq!(glass.delete(found.key().unwrap(), found.version_id(), false).await, fine());
    }
}

/// What a role's own policy denies stays denied when somebody gives the role everything, with no bucket policy to help.
async fn roles_deny_themselves(ceph: &Ceph, key: &str, version: &str) {
    let owner = ceph.client(OWNER);
    let mut statements = vec![policy::allow(OWNER, BUCKET, &["s3:*"])];
    for role in [WRITER, CANARY] {
        statements.extend(policy::of_user(role, &policy::project(role, BUCKET, "").unwrap()));
        statements.push(policy::allow(role, BUCKET, &["s3:*"]));
    }
    // Not the reader's: see above what Ceph makes of it.
    policy::apply(&owner, BUCKET, &policy::document(&statements)).await.unwrap();

    let client = ceph.client(WRITER);
    let writer = As(&client);
    writer.takes_nothing_away(key, version).await;
    let free = writer.put("canary/given", None).await.unwrap();
    assert_eq!(writer.delete("canary/given", Some(&free), false).await, denied());

    let client = ceph.client(CANARY);
    let canary = As(&client);
    canary.takes_nothing_away(key, version).await;
    canary.changes_nothing_of_the_bucket().await;
    assert_eq!(canary.put("v1/given", None).await, Err(denied()));
    assert_eq!(canary.read(key, version).await, denied());
    let mild = canary.put("canary/given", Some((ObjectLockMode::Governance, 1))).await.unwrap();
    assert_eq!(canary.delete("canary/given", Some(&mild), true).await, denied());
}

/// Taken away one at a time, each right of the writer is missed: none is there for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_writer_needs_each_of_its_rights() {
    let dir = tempfile::tempdir().unwrap();
    let (ceph, place) = world(dir.path()).await;
    let owner = ceph.client(OWNER);
    let writer = ceph.client(WRITER);
    let version = As(&writer).put("v1/one", Some((ObjectLockMode::Compliance, 400))).await.unwrap();
    assert_eq!(As(&owner).hold("v1/one", &version, ObjectLockLegalHoldStatus::On).await, fine());
    let bucket = Bucket::open(place.settings.clone(), Purpose::Reading).await.unwrap();
    let mut tried = 0;
    for action in allowed(WRITER) {
        assert!(works(&bucket, &writer, &action, &version).await, "{action}");
        let mut statements = published();
        statements.push(policy::deny(WRITER, BUCKET, &[&action]));
        policy::apply(&owner, BUCKET, &policy::document(&statements)).await.unwrap();
        assert!(!works(&bucket, &writer, &action, &version).await, "{action} is not missed");
        policy::apply(&owner, BUCKET, &policy::document(&published())).await.unwrap();
        tried += 1;
    }
    assert_eq!(tried, 10);
}

/// Whether that goes well which a right is there for.
async fn works(bucket: &Bucket, writer: &Client, action: &str, version: &str) -> bool {
    let key = "v1/one";
    let seen = bucket.look(key, Some(version)).await;
    match action {
        "s3:PutObject" => As(writer).put("v1/two", Some((ObjectLockMode::Compliance, 400))).await.is_ok(),
        "s3:PutObjectRetention" => {
            let until_us = u64::try_from(in_days(401).secs()).unwrap() * 1_000_000;
            bucket.retain(key, version, Lock { mode: LockMode::Compliance, until_us }).await.is_ok()
        }
        "s3:GetObject" => bucket.get(key, None, 100).await.is_ok(),
        "s3:GetObjectVersion" => bucket.get(key, Some(version), 100).await.is_ok(),
        "s3:GetObjectRetention" => seen.is_ok_and(|standing| standing.lock.is_some()),
        "s3:GetObjectLegalHold" => seen.is_ok_and(|standing| standing.hold),
        "s3:ListBucket" => matches!(bucket.look("v1/absent", None).await, Err(S3Error::Absent(_))),
        "s3:ListBucketVersions" => bucket.versions_of(key).await.is_ok(),
        "s3:GetBucketVersioning" | "s3:GetBucketObjectLockConfiguration" => bucket.lockdown().await.is_ok(),
        other => panic!("{other} is for what?"),
    }
}
