//! Lists a bucket: every name that evidence can have, with all versions and delete markers.
//!
//! A page holds a thousand names, and the next one of the same directory can be asked for only when the last has come. So a
//! directory is asked for whole, for most hold little, and where one page does not do, those below it side by side.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use casemate_recorder::vault::s3::{Bucket, S3Error, Version as Listed};
use tokio::task::JoinSet;

use super::index::Index;
use super::s3::IN_FLIGHT;

/// What is known already while a bucket is still listed: a version that was listed once does not change any more.
#[derive(Debug, Clone, Copy)]
pub(super) enum Seen<'a> {
    /// All segments.
    Segments(&'a Index),
    /// All checkpoints, and such tiles as were listed with them.
    Notes(&'a Index, &'a [Listed]),
}

/// Is told of each stage as it is reached.
type Witness<'a> = &'a (dyn Fn(Seen<'_>) + Sync);

/// The index while it is filled, page by page: memory holds what it keeps and not what was said.
type Shared = Arc<Mutex<Index>>;

/// Lists everything that a verdict looks at: segments first, then checkpoints, then tiles, so that in a live vault whatever
/// is listed is spoken of by what is listed after it.
///
/// That goes for names of nodes and of their days too, little as they change. Had they been listed before the segments, a node
/// that comes meanwhile would have segments and no log, and a checkpoint on a new day would be missing that alone covers a
/// segment. A day or a session that comes while segments are listed is only left to the next run. Beside all that go names
/// that can be no evidence.
pub(super) async fn list(bucket: &Bucket, witness: Witness<'_>) -> Result<Index, S3Error> {
    let index = Shared::default();
    tokio::try_join!(evidence(bucket, &index, witness), others(bucket, &index))?;
    let mut index = std::mem::take(&mut *locked(&index));
    index.finish();
    Ok(index)
}

async fn evidence(bucket: &Bucket, index: &Shared, witness: Witness<'_>) -> Result<(), S3Error> {
    whole(bucket, index, vec!["v1/t/".to_owned()]).await?;
    witness(Seen::Segments(&locked(index)));
    let (nodes, tiles) = notes(bucket, index).await?;
    witness(Seen::Notes(&locked(index), &tiles));
    drop(tiles);
    whole(bucket, index, nodes.iter().map(|node| format!("{node}tile/")).collect()).await
}

/// Lists whatever lies with the logs and is no tile; returns the directories of the nodes, and tiles that came along.
async fn notes(bucket: &Bucket, index: &Shared) -> Result<(Vec<String>, Vec<Listed>), S3Error> {
    let logs = "v1/log/";
    if let Some(found) = bucket.page(logs).await? {
        let (mut nodes, mut tiles) = (Vec::new(), Vec::new());
        for listed in found {
            let node = listed.key.match_indices('/').nth(2).and_then(|(end, _)| listed.key.split_at_checked(end + 1));
            let (node, path) = node.unwrap_or_default();
            if !node.is_empty() && nodes.last().is_none_or(|last| last != node) {
                nodes.push(node.to_owned());
            }
            // A wider tile may have come while this page was made, and the checkpoint over it be on it: they are listed again.
            if path.starts_with("tile/") { tiles.push(listed) } else { take(index, listed) }
        }
        return Ok((nodes, tiles));
    }
    let nodes = level(bucket.clone(), Arc::clone(index), logs.to_owned()).await?;
    let each = |what: &str| nodes.iter().map(|node| format!("{node}{what}")).collect::<Vec<_>>();
    let (days, tiles) = (each("cp/"), each("tile/"));
    let levels = at_once(bucket, index, nodes.clone(), level);
    let (mut inside, ()) = tokio::try_join!(levels, whole(bucket, index, days.clone()))?;
    inside.retain(|dir| !days.contains(dir) && !tiles.contains(dir));
    flat(bucket, index, inside).await?;
    Ok((nodes, Vec::new()))
}

/// Lists what does not belong. Names outside of the prefix are somebody else's; where one was given, they are not even looked
/// at. The catalogue is a convenience and never evidence.
async fn others(bucket: &Bucket, index: &Shared) -> Result<(), S3Error> {
    let mut tops = vec!["v1/".to_owned()];
    if bucket.settings().prefix.is_empty() {
        tops.push(String::new());
    }
    let mut below = at_once(bucket, index, tops, level).await?;
    below.retain(|dir| dir.starts_with("v1/") && !["v1/", "v1/t/", "v1/log/", "v1/cat/"].contains(&dir.as_str()));
    flat(bucket, index, below).await
}

/// Lists all that lies in directories, however deep, those of one depth side by side.
async fn whole(bucket: &Bucket, index: &Shared, mut dirs: Vec<String>) -> Result<(), S3Error> {
    while !dirs.is_empty() {
        dirs = at_once(bucket, index, dirs, explore).await?;
    }
    Ok(())
}

/// The same, page after page in each.
async fn flat(bucket: &Bucket, index: &Shared, dirs: Vec<String>) -> Result<(), S3Error> {
    at_once(bucket, index, dirs, pages).await.map(drop)
}

/// Lists a directory with all below it, or else only what lies directly in it; then returns the directories below.
async fn explore(bucket: Bucket, index: Shared, dir: String) -> Result<Vec<String>, S3Error> {
    if is_narrow(&dir) {
        return pages(bucket, index, dir).await;
    }
    match bucket.page(&dir).await? {
        Some(found) => {
            found.into_iter().for_each(|listed| take(&index, listed));
            Ok(Vec::new())
        }
        None => level(bucket, index, dir).await,
    }
}

/// Whether what lies below is better asked for page by page: directories below it have a few names each, or there are none.
fn is_narrow(dir: &str) -> bool {
    match dir.trim_end_matches('/').split('/').collect::<Vec<_>>().as_slice() {
        ["v1", "t", _, _, _, ..] | ["v1", "log", _, "cp", _, ..] => true,
        [.., last] => last.ends_with(".p"),
        [] => false,
    }
}

async fn level(bucket: Bucket, index: Shared, dir: String) -> Result<Vec<String>, S3Error> {
    let below = bucket.level(&dir, &mut |listed| take(&index, listed)).await?;
    Ok(below.iter().map(|name| format!("{dir}{name}")).collect())
}

async fn pages(bucket: Bucket, index: Shared, dir: String) -> Result<Vec<String>, S3Error> {
    bucket.versions(&dir, &mut |listed| take(&index, listed)).await?;
    Ok(Vec::new())
}

fn take(index: &Shared, listed: Listed) {
    locked(index).take(listed);
}

fn locked(index: &Shared) -> MutexGuard<'_, Index> {
    index.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does it for some directories at a time, and returns those that are left to be done.
async fn at_once<F>(
    bucket: &Bucket,
    index: &Shared,
    dirs: Vec<String>,
    each: impl Fn(Bucket, Shared, String) -> F,
) -> Result<Vec<String>, S3Error>
where
    F: Future<Output = Result<Vec<String>, S3Error>> + Send + 'static,
{
    let (mut running, mut waiting, mut below) = (JoinSet::new(), dirs.into_iter(), Vec::new());
    loop {
        while running.len() < IN_FLIGHT
            && let Some(dir) = waiting.next()
        {
            running.spawn(each(bucket.clone(), Arc::clone(index), dir));
        }
        let Some(done) = running.join_next().await else { return Ok(below) };
        let deeper = done.map_err(|error| S3Error::Other(io::Error::other(error).to_string()))??;
        below.extend(deeper);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_asked_for_side_by_side_down_to_days_and_widths() {
        for (dir, narrow) in [
            ("v1/t/", false),
            ("v1/t/2026/", false),
            ("v1/t/2026/11/", false),
            ("v1/t/2026/11/23/", true),
            ("v1/t/2026/11/23/019aacd1-0000-7000-8000-000000000001/", true),
            ("v1/log/n/cp/", false),
            ("v1/log/n/cp/2026-11-23/", true),
            ("v1/log/n/tile/", false),
            ("v1/log/n/tile/entries/", false),
            ("v1/log/n/tile/entries/x001/", false),
            ("v1/log/n/tile/entries/x001/234.p/", true),
        ] {
            assert_eq!(is_narrow(dir), narrow, "{dir}");
        }
    }
}
