//! Bucket policies: who may do what in a bucket of [`super::ceph`], so that a policy that we publish can be held against what the
//! code asks for. The other server takes policies and keeps nobody to them.

use anyhow::{Context, Result};
use aws_sdk_s3::Client;
use serde_json::{Value, json};

/// Lets a server hold users to a policy, in place of the one it had for that bucket. The client is the bucket owner's.
///
/// # Errors
/// When the server does not understand it.
pub async fn apply(client: &Client, bucket: &str, policy: &Value) -> Result<()> {
    let put = client.put_bucket_policy().bucket(bucket).policy(policy.to_string()).send().await;
    put.with_context(|| format!("the policy of {bucket}"))?;
    Ok(())
}

/// Returns a policy of those statements.
pub fn document(statements: &[Value]) -> Value {
    json!({ "Version": "2012-10-17", "Statement": statements })
}

/// Returns the statement that lets a user do that in a bucket, its name and its objects alike.
pub fn allow(user: &str, bucket: &str, actions: &[&str]) -> Value {
    statement("Allow", user, bucket, "*", actions)
}

/// Returns the same for the bucket and those objects alone: `canary/*`.
pub fn allow_under(user: &str, bucket: &str, objects: &str, actions: &[&str]) -> Value {
    statement("Allow", user, bucket, objects, actions)
}

/// Returns the statement that keeps a user from doing that in a bucket, whatever others say.
pub fn deny(user: &str, bucket: &str, actions: &[&str]) -> Value {
    statement("Deny", user, bucket, "*", actions)
}

fn statement(effect: &str, user: &str, bucket: &str, objects: &str, actions: &[&str]) -> Value {
    json!({
        "Effect": effect,
        "Principal": { "AWS": [principal(user)] },
        "Action": actions,
        "Resource": [format!("arn:aws:s3:::{bucket}"), format!("arn:aws:s3:::{bucket}/{objects}")],
    })
}

/// Returns a user's name as Ceph's policies have it: there, accounts are tenants, and ours is the one without a name.
pub fn principal(user: &str) -> String {
    format!("arn:aws:iam:::user/{user}")
}
