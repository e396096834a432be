//! The demo's bucket: what was recorded lies there too, and those who hold its keys try to get rid of it.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use aws_sdk_s3::types::{ObjectLockRetention, ObjectLockRetentionMode};
use casemate_tests::officer;
use casemate_tests::process::wait_until;
use casemate_tests::rig::{BUCKET, Lab};
use casemate_tests::s3::ceph::{CANARY, Ceph, OWNER, READER, WRITER};
use casemate_tests::s3::{blocking, refusal, versions};
use casemate_tests::vault::{Vault, Verdict};

use super::{command, say, shown, title};

/// Those who try, with the words of the table: both keys that lie on the bastion, and those of the one whose bucket it is.
const WHO: [(&str, &str); 3] = [(WRITER, "the bastion"), (CANARY, "its canary"), (OWNER, "the bucket's owner")];

/// What is tried with a version that is locked.
const WHAT: [(&str, Deed); 5] = [
    ("delete the version", Deed::Delete { bypass: false }),
    ("delete it, with bypass", Deed::Delete { bypass: true }),
    ("keep it for an hour only", Deed::Shorten { bypass: false }),
    ("shorten it, with bypass", Deed::Shorten { bypass: true }),
    ("make it GOVERNANCE, with bypass", Deed::Soften),
];

/// How long it may take until everything is in the bucket: promised are ten seconds after the end of a session.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a reader names the bucket.
pub(super) const SOURCE: &str = "s3://casemate";

const HOUR: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy)]
enum Deed {
    Delete { bypass: bool },
    Shorten { bypass: bool },
    Soften,
}

/// One version of a recording, in the bucket.
struct Target {
    key: String,
    version: String,
}

/// Shows that what is in the bucket stays there; returns the bucket as an auditor has it, or nothing where there is none.
pub(super) fn lock_up(lab: &mut Lab, desk: &Path, sessions: usize) -> Result<Option<Vault>> {
    title("6. The same recordings in a bucket, locked")?;
    if Ceph::programs().is_err() {
        say("  Left out: Ceph, which has buckets with Object Lock, is not installed here.")?;
        return Ok(None);
    }
    say(
        "  A Ceph is started on this machine, and the bastion is told of a bucket in it: all that it has recorded goes on there, each",
    )?;
    say(
        "  version locked in mode COMPLIANCE. Off the bastion, an officer signs a trust file that vouches for its key.",
    )?;
    lab.rig.add_bucket()?;
    let trust = officer::vouch(&lab.bastion, desk, "anchor_age_max = \"1d\"\nretain_min = \"1d\"")?;
    let bucket = Vault { trust, ..lab.bucket()? };
    let all = |verdict: &Verdict| verdict.exit == 0 && verdict.term("clean") >= sessions as u64;
    ensure!(wait_until(PATIENCE, || bucket.verify(&[]).is_ok_and(|verdict| all(&verdict))), "{:?}", bucket.verify(&[]));
    verify(&bucket, 0, &["verdict:", "opened ", "anchors:", "COMPLIANCE"])?;
    say("  0: clean. The bucket's locked checkpoints are anchors, so nothing has to be kept elsewhere.")?;

    let s3 = lab.s3()?;
    let reader = s3.client(READER);
    let target = blocking(async move { Target::find(&reader).await })?;
    say("")?;
    say(&format!("  A recording, {}, and those who hold keys to it:", target.key))?;
    row("", &WHO.map(|(_, name)| name.to_owned()))?;
    for (what, deed) in WHAT {
        let answers = WHO.map(|(who, _)| blocking(target.attempt(&s3.client(who), deed)));
        let answers: Vec<_> = answers.into_iter().collect::<Result<_>>()?;
        row(what, &answers)?;
        ensure!(answers.iter().all(|answer| answer == "403 AccessDenied"), "{what}: {answers:?}");
    }
    let owner = s3.client(OWNER);
    let over = WHO.map(|(who, _)| blocking(target.write_over(&s3.client(who))));
    let over: Vec<(String, Option<String>)> = over.into_iter().collect::<Result<_>>()?;
    row("write over it", &over.iter().map(|(answer, _)| answer.clone()).collect::<Vec<_>>())?;
    let put: Vec<&String> = over.iter().filter_map(|(_, version)| version.as_ref()).collect();
    ensure!(!put.is_empty(), "nobody could write over anything: {over:?}");
    say("  In such a bucket, writing over means a version beside the one that is locked: not refused, and told of.")?;
    let found = verify(&bucket, 1, &["verdict:", "opened ", "has other content"])?;
    ensure!(put.iter().all(|version| found.contains(version.as_str())), "not every version is told of: {found}");
    ensure!(bucket.verify(&[])?.term("altered") == 0, "a session counts as altered");
    say(
        "  1: somebody was at the evidence, and all of it is still there: every session is clean. What was put beside it has no lock,",
    )?;
    say("  so its owner takes it away again.")?;
    for version in put {
        blocking(target.take_away(&owner, version))?;
    }
    verify(&bucket, 0, &["verdict:"])?;
    say(&format!(
        "  0: everything is as it was, and locked until {} at least.",
        blocking(target.locked_until(&owner))?
    ))?;
    Ok(Some(bucket))
}

/// Waits until the session that was cut short is in the bucket, and tells its verdict.
pub(super) fn explain(bucket: &Vault, cut_short: &str) -> Result<()> {
    let there = |verdict: &Verdict| {
        let found = verdict.sessions.iter().find(|line| line.get("session").is_some_and(|id| id == cut_short));
        verdict.exit == 3 && found.is_some_and(|line| line.get("status").is_some_and(|status| status == "recovered"))
    };
    ensure!(
        wait_until(PATIENCE, || bucket.verify(&[]).is_ok_and(|verdict| there(&verdict))),
        "{:?}",
        bucket.verify(&[])
    );
    let verdict = bucket.verify(&[])?;
    ensure!(verdict.term("altered") + verdict.term("missing") == 0, "{}", verdict.summary);
    verify(bucket, 3, &["verdict:", "opened ", "recovered"])?;
    say(
        "  3: it is in the locked bucket as well, nothing is missing, and that a daemon was killed is for somebody to explain.",
    )
}

/// Lets the auditor verify, and shows those lines that say one of `words`.
fn verify(bucket: &Vault, exit: i32, words: &[&str]) -> Result<String> {
    command(&format!("casemate-replay verify {SOURCE} --trust trust.toml; echo $?"))?;
    let trust = bucket.trust.to_str().context("a path that is not UTF-8")?;
    let done = bucket.replay("verify", &["--trust", trust])?;
    let out = done.out();
    let told = |line: &&str| words.iter().any(|word| line.contains(word));
    shown(&out.lines().filter(told).collect::<Vec<_>>().join("\n"))?;
    ensure!(done.code() == exit, "verify was to end with {exit} and ended with {}: {out}", done.code());
    Ok(out)
}

fn row(what: &str, cells: &[String]) -> Result<()> {
    let cells: String = cells.iter().map(|cell| format!("{cell:<20}")).collect();
    say(format!("    {what:<32}{cells}").trim_end())
}

impl Target {
    async fn find(reader: &Client) -> Result<Self> {
        let found = versions(reader, BUCKET, "v1/t/").await?.into_iter().next().context("no recording is there")?;
        Ok(Self { key: found.key.context("no name")?, version: found.version_id.context("no version")? })
    }

    /// Does it, and returns the answer.
    async fn attempt(&self, client: &Client, deed: Deed) -> Result<String> {
        let in_an_hour = DateTime::from(SystemTime::now() + HOUR);
        let answer = match deed {
            Deed::Delete { bypass } => {
                let delete = client.delete_object().bucket(BUCKET).key(&self.key).version_id(&self.version);
                refusal(&delete.set_bypass_governance_retention(bypass.then_some(true)).send().await)
            }
            Deed::Shorten { bypass } => {
                self.retain(client, ObjectLockRetentionMode::Compliance, in_an_hour, bypass).await?
            }
            Deed::Soften => {
                let until = self.until(client).await.unwrap_or(in_an_hour);
                self.retain(client, ObjectLockRetentionMode::Governance, until, true).await?
            }
        };
        Ok(told(answer))
    }

    async fn retain(
        &self,
        client: &Client,
        mode: ObjectLockRetentionMode,
        until: DateTime,
        bypass: bool,
    ) -> Result<(u16, String)> {
        let retention = ObjectLockRetention::builder().mode(mode).retain_until_date(until).build();
        let put = client.put_object_retention().bucket(BUCKET).key(&self.key).version_id(&self.version);
        let put = put.retention(retention).set_bypass_governance_retention(bypass.then_some(true));
        Ok(refusal(&put.send().await))
    }

    /// Writes something else under the name; returns the answer, and the version where one was made.
    async fn write_over(&self, client: &Client) -> Result<(String, Option<String>)> {
        let put = client.put_object().bucket(BUCKET).key(&self.key).body(b"nothing happened".to_vec().into());
        let put = put.send().await;
        let answer = told(refusal(&put));
        Ok((answer, put.ok().and_then(|put| put.version_id)))
    }

    async fn take_away(&self, client: &Client, version: &str) -> Result<()> {
        client.delete_object().bucket(BUCKET).key(&self.key).version_id(version).send().await?;
        Ok(())
    }

    async fn until(&self, client: &Client) -> Result<DateTime> {
        let asked = client.get_object_retention().bucket(BUCKET).key(&self.key).version_id(&self.version);
        let retention = asked.send().await?.retention.context("no lock")?;
        retention.retain_until_date.context("a lock without end")
    }

    async fn locked_until(&self, client: &Client) -> Result<String> {
        Ok(self.until(client).await?.fmt(DateTimeFormat::DateTime)?)
    }
}

fn told((status, code): (u16, String)) -> String {
    format!("{status} {code}").trim_end().to_owned()
}
