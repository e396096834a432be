//! The rig's bucket: a Ceph of its own, who may do what in it, and what the bastion is told.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value as Json;
use toml::{Table, Value};

use super::Rig;
use crate::bastion::{Bastion, table};
use crate::process::write_private;
use crate::s3::ceph::{self, CANARY, Ceph, OWNER, READER, Store, WRITER};
use crate::s3::faults::Faults;
use crate::s3::{Login, REGION, blocking, credentials_file, make_bucket, policy};
use crate::sshd::free_port;
use crate::vault::Vault;

/// The bucket's name, which is not the vault's.
pub const BUCKET: &str = "casemate";

/// Where the bastion finds its keys, beside its configuration.
const CREDENTIALS: &str = "keys/s3.credentials";

/// Where the canary's objects lie: nobody may delete elsewhere.
const CANARY_OBJECTS: &str = "canary/*";

impl Rig {
    /// Returns the server with the bucket.
    ///
    /// # Errors
    /// When the rig was started without one.
    pub fn s3(&self) -> Result<&Ceph> {
        self.s3.as_ref().context("this rig has no S3")
    }

    /// Starts a server beside a rig that has none, and lets what is recorded go on into a bucket there: also what was. The bastion
    /// starts anew.
    ///
    /// # Errors
    /// When the server or the bastion does not come up.
    pub fn add_bucket(&mut self) -> Result<()> {
        let server = start(&self.dir, free_port()?)?;
        self.s3 = Some(server.clone());
        let entry = entry(&self.bastion.dir, &server)?;
        self.reconfigure_vault(|vault| {
            vault.insert("s3".to_owned(), Value::Array(vec![entry]));
            Some(())
        })?;
        self.remember()
    }

    /// Puts a proxy between the bastion and its bucket. The bastion starts anew.
    ///
    /// # Errors
    /// When the rig was started without a bucket, or the bastion does not come up.
    pub fn spoil_bucket(&mut self) -> Result<Faults> {
        let faults = Faults::before(self.s3()?.port)?;
        self.reconfigure_vault(|vault| {
            let bucket = vault.get_mut("s3")?.as_array_mut()?.first_mut()?.as_table_mut()?;
            bucket.insert("endpoint".to_owned(), Value::from(faults.endpoint()));
            Some(())
        })?;
        Ok(faults)
    }

    fn reconfigure_vault(&mut self, change: impl FnOnce(&mut Table) -> Option<()>) -> Result<()> {
        let mut config = Bastion::init(&self.bastion.dir)?;
        let vault = config.get_mut("vault").and_then(Value::as_table_mut);
        vault.and_then(change).context("a [vault] of another kind")?;
        self.bastion.stop();
        Bastion::configure(&self.bastion.dir, &config)?;
        self.bastion.again()?;
        Ok(())
    }

    /// Returns the bucket as an auditor has it, with credentials that can do nothing but read.
    ///
    /// # Errors
    /// When the rig was started without one.
    pub fn bucket(&self) -> Result<Vault> {
        let login = Login::of(READER);
        let env = vec![
            ("AWS_ENDPOINT_URL", self.s3()?.endpoint()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", login.access_key),
            ("AWS_SECRET_ACCESS_KEY", login.secret_key),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ];
        Ok(Vault { dir: format!("s3://{BUCKET}").into(), env, ..self.vault() })
    }
}

/// Starts the server, with the bucket and its policy. What a stopped one held is there again.
pub(super) fn start(dir: &Path, port: u16) -> Result<Ceph> {
    let options = ceph::Options { port: Some(port), store: Store::File, ..ceph::Options::default() };
    let server = Ceph::start(&dir.join("s3"), &options)?;
    let owner = server.client(OWNER);
    let made = blocking(async move {
        if owner.head_bucket().bucket(BUCKET).send().await.is_err() {
            make_bucket(&owner, BUCKET).await?;
        }
        policy::apply(&owner, BUCKET, &rights()).await
    });
    match made {
        Ok(()) => Ok(server),
        Err(error) => {
            server.stop();
            Err(error)
        }
    }
}

/// What each of them needs and no more. The writer may not delete, nor may anybody delete evidence.
fn rights() -> Json {
    let writer = [
        "s3:PutObject",
        "s3:PutObjectRetention",
        "s3:GetObject",
        "s3:GetObjectVersion",
        "s3:GetObjectRetention",
        "s3:ListBucket",
        "s3:ListBucketVersions",
        "s3:GetBucketVersioning",
        "s3:GetBucketObjectLockConfiguration",
    ];
    let reader: Vec<&str> = writer.into_iter().filter(|action| !action.starts_with("s3:Put")).collect();
    let canary = ["s3:PutObject", "s3:PutObjectRetention", "s3:DeleteObject", "s3:DeleteObjectVersion"];
    policy::document(&[
        // At Amazon, what is in a bucket is its owner's; here it is the writer's, and the owner could not even read it.
        policy::allow(OWNER, BUCKET, &["s3:*"]),
        policy::allow(WRITER, BUCKET, &writer),
        policy::allow(READER, BUCKET, &reader),
        policy::allow_under(CANARY, BUCKET, CANARY_OBJECTS, &canary),
    ])
}

/// Lets the bastion in `at` have the keys of those that it asks as, and returns its `[[vault.s3]]`.
pub(super) fn entry(at: &Path, server: &Ceph) -> Result<Value> {
    write_private(&at.join(CREDENTIALS), credentials_file(&[WRITER, CANARY].map(Login::of)).as_bytes())?;
    Ok(table([
        ("name", Value::from("ceph")),
        ("bucket", Value::from(BUCKET)),
        ("endpoint", Value::from(server.endpoint())),
        // Without a word about it, it is asked of a service that clouds have and this machine need not.
        ("region", Value::from(REGION)),
        ("mode", Value::from("compliance")),
        ("checksum", Value::from("md5")),
        ("credentials", Value::from(CREDENTIALS)),
        ("profile", Value::from("default")),
        ("canary_profile", Value::from(CANARY)),
    ]))
}

/// Returns the lines of a rig for those who look into its bucket, as its owner.
pub(super) fn lines(server: &Ceph) -> [(&'static str, String); 4] {
    let owner = Login::of(OWNER);
    [
        ("S3_ENDPOINT", server.endpoint()),
        ("S3_BUCKET", BUCKET.to_owned()),
        ("S3_ACCESS_KEY", owner.access_key),
        ("S3_SECRET_KEY", owner.secret_key),
    ]
}
