//! Bucket policies: who may do what in a bucket of [`super::ceph`], so that a policy that we publish can be held against what the
//! code asks for. The other server takes policies and keeps nobody to them.
//!
//! The policies that we publish are those of `infra/policies/`. On Amazon three of them belong to roles; Ceph has no roles here, so
//! theirs become statements about users in the bucket's policy.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::Client;
use serde_json::{Value, json};

use super::ceph::{CANARY, KEEPER, OWNER};

/// Days that a lock must last at least, and at most, in a policy as [`project`] fills it in.
pub const RETENTION_DAYS: (u32, u32) = (340, 410);

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

/// Returns where the project's own policies lie.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../infra/policies")
}

/// Returns one of them, such as `writer`, filled in for a bucket the way Terraform does it: canary and keeper are those of
/// [`super::ceph`], and who breaks glass is the bucket's owner.
///
/// # Errors
/// When there is none of that name, or it is no JSON or has a gap that nobody fills.
pub fn project(name: &str, bucket: &str, prefix: &str) -> Result<Value> {
    let path = directory().join(format!("{name}.json"));
    let mut text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let (min, max) = RETENTION_DAYS;
    let gaps = [
        ("partition", "aws".to_owned()),
        ("bucket", bucket.to_owned()),
        ("prefix", prefix.to_owned()),
        ("mode", "COMPLIANCE".to_owned()),
        ("retention_min_days", min.to_string()),
        ("retention_max_days", max.to_string()),
        ("canary", principal(CANARY)),
        ("keeper", principal(KEEPER)),
        ("break_glass", principal(OWNER)),
        ("account", "111122223333".to_owned()),
        ("name", "casemate".to_owned()),
        ("budget_actions", "arn:aws:iam::111122223333:role/budget".to_owned()),
    ];
    for (gap, value) in gaps {
        text = text.replace(&format!("${{{gap}}}"), &value);
    }
    ensure!(!text.contains("${"), "{name}.json has a gap that nobody fills: {text}");
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// Returns the statements of a policy.
pub fn statements(policy: &Value) -> Vec<Value> {
    policy["Statement"].as_array().cloned().unwrap_or_default()
}

/// Returns the statements of a role's policy, as a bucket's policy says them of a user.
pub fn of_user(user: &str, policy: &Value) -> Vec<Value> {
    let mut statements = statements(policy);
    for statement in &mut statements {
        statement["Principal"] = json!({ "AWS": [principal(user)] });
    }
    statements
}

/// Returns the statements of a bucket's policy, as Ceph understands them: it does not know `aws:PrincipalArn`, by which
/// Amazon's also names roles, but users who are exempt.
pub fn of_everybody(policy: &Value) -> Vec<Value> {
    let mut statements = statements(policy);
    for statement in &mut statements {
        let exempt = statement.pointer("/Condition/ArnNotLike/aws:PrincipalArn").cloned();
        if let (Some(exempt), Some(fields)) = (exempt, statement.as_object_mut()) {
            fields.remove("Principal");
            fields.remove("Condition");
            fields.insert("NotPrincipal".to_owned(), json!({ "AWS": exempt }));
        }
    }
    statements
}
