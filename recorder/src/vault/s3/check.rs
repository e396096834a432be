//! Is this bucket what evidence can rest in? All of it is asked at the start, once a day, and by `casemate vault check`; the bucket's
//! settings every 30 s.

use aws_sdk_s3::types::{BucketVersioningStatus, ObjectLockEnabled};
use bytes::Bytes;

use super::error::S3Error;
use super::requests::shown;
use super::standing::Lock;
use super::{Bucket, Purpose};

/// How long a canary is locked, in microseconds: it need only outlive the attempt.
const CANARY_US: u64 = 86_400_000_000;

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckKind {
    /// As it should be.
    Good,
    /// To be known; nothing follows from it.
    Note,
    /// Not as it should be: what is put there is not protected the way the configuration says.
    Finding,
    /// Nobody could say: the server did not answer, or not to these credentials.
    Unknown,
}

/// What one question came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was asked, in a word: `versioning`, `lock`, `canary`, …
    pub what: &'static str,
    /// How it went.
    pub kind: CheckKind,
    /// In a sentence.
    pub text: String,
}

impl CheckKind {
    /// Returns the word that stands before the sentence.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Note => "note",
            Self::Finding => "FINDING",
            Self::Unknown => "unknown",
        }
    }
}

impl Check {
    fn new(what: &'static str, kind: CheckKind, text: impl Into<String>) -> Self {
        Self { what, kind, text: text.into() }
    }

    /// Whether something is not as it should be.
    pub fn is_finding(&self) -> bool {
        self.kind == CheckKind::Finding
    }

    /// Whether nobody could say.
    pub fn is_unknown(&self) -> bool {
        self.kind == CheckKind::Unknown
    }

    /// Whether it is as it should be.
    pub fn is_good(&self) -> bool {
        self.kind == CheckKind::Good
    }

    fn failed(what: &'static str, error: &S3Error) -> Self {
        let kind = if error.is_transient() { CheckKind::Unknown } else { CheckKind::Finding };
        Self::new(what, kind, error.to_string())
    }
}

/// What the bucket says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lockdown {
    /// Whether versioning is on.
    pub versioning: bool,
    /// Whether objects can be locked.
    pub lock: bool,
    /// Whether objects get a lock that nobody asked for.
    pub default_lock: bool,
}

/// What came of trying to delete: the locked object, and its twin without a lock, which shows that only the lock was in the
/// way.
struct Canary {
    locked: Check,
    twin: Check,
}

impl Bucket {
    /// Asks the bucket for versioning and for its lock configuration.
    ///
    /// # Errors
    /// As a request ended.
    pub async fn lockdown(&self) -> Result<Lockdown, S3Error> {
        let (bucket, owner) = (&self.settings.bucket, &self.settings.owner);
        let versioning =
            self.client.get_bucket_versioning().bucket(bucket).set_expected_bucket_owner(owner.clone()).send().await?;
        let request = self.client.get_object_lock_configuration().bucket(bucket);
        let lock = match request.set_expected_bucket_owner(owner.clone()).send().await.map_err(S3Error::from) {
            // A bucket without a lock configuration has nothing to show.
            Err(S3Error::Absent(said)) if said.contains("ObjectLockConfiguration") => None,
            answer => answer?.object_lock_configuration,
        };
        let enabled = lock.as_ref().and_then(|lock| lock.object_lock_enabled.clone());
        Ok(Lockdown {
            versioning: versioning.status == Some(BucketVersioningStatus::Enabled),
            lock: enabled == Some(ObjectLockEnabled::Enabled),
            default_lock: lock.and_then(|lock| lock.rule).and_then(|rule| rule.default_retention).is_some(),
        })
    }

    /// Turns what the bucket says of itself into sentences.
    pub async fn check_lockdown(&self) -> Vec<Check> {
        let state = match self.lockdown().await {
            Ok(state) => state,
            Err(error) => return vec![Check::failed("bucket", &error)],
        };
        let versioning = match state.versioning {
            true => Check::new("versioning", CheckKind::Good, "on: nothing is ever overwritten"),
            false => Check::new(
                "versioning",
                CheckKind::Finding,
                "off: turn it on, or a later object takes the place of evidence",
            ),
        };
        let lock = match (state.lock, state.default_lock) {
            (false, _) => {
                Check::new("lock", CheckKind::Finding, "this bucket has no Object Lock: make one that has it")
            }
            (true, false) => {
                Check::new("lock", CheckKind::Good, format!("objects are locked in mode {}", self.settings.mode))
            }
            (true, true) => {
                let text =
                    format!("objects are locked in mode {}; the bucket has a default lock besides", self.settings.mode);
                Check::new("lock", CheckKind::Good, text)
            }
        };
        vec![versioning, lock]
    }

    /// Says who must own the bucket. Every request says so as well: where somebody else does, they are all refused.
    pub fn check_owner(&self) -> Check {
        match &self.settings.owner {
            Some(owner) => Check::new("owner", CheckKind::Good, format!("every request names the account {owner}")),
            None => {
                let text = "not named: a bucket of this name in another account would do as well";
                let kind = if self.settings.endpoint.is_some() { CheckKind::Note } else { CheckKind::Finding };
                Check::new("owner", kind, text)
            }
        }
    }

    /// Asks everything there is to ask: what `casemate vault check` prints, and what a start looks at.
    pub async fn check_all(&self, node: &str, now_us: u64) -> Vec<Check> {
        let mut checks = vec![self.check_owner()];
        checks.extend(self.check_lockdown().await);
        checks.push(self.check_rights(node).await);
        if self.settings.canary_profile.is_some() {
            match self.canary(node, now_us, now_us.saturating_add(CANARY_US)).await {
                Ok(canary) => checks.extend([canary.locked, canary.twin]),
                Err(error) => checks.push(Check::failed("canary", &error)),
            }
        } else {
            let text = "no canary_profile: nothing has shown that a lock here keeps anybody from deleting";
            checks.push(Check::new("canary", CheckKind::Note, text));
        }
        checks
    }

    /// Asks with the writer's own credentials to delete a version that does not exist. They must not even be allowed to ask:
    /// whoever takes over the bastion has these credentials.
    async fn check_rights(&self, node: &str) -> Check {
        match self.delete(&format!("canary/{node}/absent"), "null").await {
            Err(S3Error::Denied(_)) => Check::new("rights", CheckKind::Good, "the writer's credentials may not delete"),
            Err(error) if error.is_transient() => Check::failed("rights", &error),
            _ => {
                let text = "the writer's credentials may delete what is not locked: take s3:DeleteObject and \
                            s3:DeleteObjectVersion from them";
                Check::new("rights", CheckKind::Finding, text)
            }
        }
    }

    /// Puts a locked object and one without a lock with the canary's credentials, which may delete, and tries to delete both:
    /// the first must be refused, the second must go. So the refusal is the lock's.
    ///
    /// # Errors
    /// The canary's credentials cannot be used at all.
    async fn canary(&self, node: &str, now_us: u64, until_us: u64) -> Result<Canary, S3Error> {
        let bucket =
            Self::with_profile(self.settings.clone(), self.settings.canary_profile.clone(), Purpose::Shipping).await?;
        let lock = Lock { mode: self.settings.mode, until_us };
        let name = |what: &str| format!("canary/{node}/{now_us}-{what}");
        let locked = bucket.try_delete("canary", &name("locked"), Some(lock)).await?;
        let locked = match locked {
            Err(S3Error::Denied(_)) => {
                let text = format!("a locked version stayed where it was, locked until {}", shown(until_us));
                Check::new("canary", CheckKind::Good, text)
            }
            Err(error) => Check::failed("canary", &error),
            Ok(()) => {
                Check::new("canary", CheckKind::Finding, "a locked version was deleted: this server keeps no locks")
            }
        };
        let twin = match bucket.try_delete("twin", &name("free"), None).await? {
            Ok(()) => {
                Check::new("twin", CheckKind::Good, "its twin without a lock was deleted with the same credentials")
            }
            Err(S3Error::Denied(_)) if self.lockdown().await.is_ok_and(|state| state.default_lock) => {
                let text =
                    "the bucket locks everything by default, so nothing shows what these credentials could delete";
                Check::new("twin", CheckKind::Note, text)
            }
            Err(S3Error::Denied(said)) => {
                let text = format!("the canary's credentials may not delete, so the lock proved nothing: {said}");
                Check::new("twin", CheckKind::Finding, text)
            }
            Err(error) => Check::failed("twin", &error),
        };
        Ok(Canary { locked, twin })
    }

    /// Puts a small object and tries to delete its version.
    async fn try_delete(
        &self,
        what: &'static str,
        key: &str,
        lock: Option<Lock>,
    ) -> Result<Result<(), S3Error>, S3Error> {
        let body = b"Casemate tries whether this can be deleted.\n";
        let version = self.put_plain(key, Bytes::from_static(body), lock, false).await?;
        let Some(version) = version else {
            return Err(S3Error::Other(format!("{what}: the server names no version: versioning is off")));
        };
        Ok(self.delete(key, &version).await)
    }
}
