//! A recorder that ships to a bucket, and what must be true of the bucket in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::types::ObjectLockMode;
use bytes::Bytes;
use casemate_recorder::clock::{Clock, SystemClock};
use casemate_recorder::log::tile::bundles;
use casemate_recorder::transcript::event::{Event, Side, ssh_in, ssh_out};
use casemate_recorder::vault::s3::{Checksum, Settings};
use casemate_recorder::{
    CloseReason, OpenError, Protocol, Recorder, RecorderConfig, RemoteFigures, Session, SessionSpec, TranscriptKind,
};
use casemate_tests::forge::node_key;
use casemate_tests::noise::Noise;
use casemate_tests::process::wait_until;
use casemate_tests::s3::ceph::{CANARY, OWNER, WRITER};
use casemate_tests::s3::{Login, credentials_file, versions};

pub(crate) const BUCKET: &str = "casemate";
pub(crate) const NODE: &str = "bastion-1";
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a recorder is started with again and again.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    pub(crate) settings: Settings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) node: &'static str,
    pub(crate) catalogue: bool,
    pub(crate) retain: Duration,
}

impl Place {
    /// A node under `dir` that ships to the bucket at `endpoint`, as the writer.
    pub(crate) fn new(dir: &Path, endpoint: &str, bucket: &str, checksum: Checksum) -> Self {
        let credentials = dir.join("s3.credentials");
        let logins = [WRITER, CANARY, OWNER].map(Login::of);
        std::fs::write(&credentials, credentials_file(&logins)).unwrap();
        let settings = Settings {
            name: "elsewhere".to_owned(),
            bucket: bucket.to_owned(),
            endpoint: Some(endpoint.to_owned()),
            checksum,
            credentials: Some(credentials),
            profile: Some(WRITER.to_owned()),
            timeout: Some(Duration::from_secs(3)),
            ..Settings::default()
        };
        let retain = Duration::from_secs(400 * 86_400);
        Self { dir: dir.to_owned(), settings, clock: Arc::new(SystemClock), node: NODE, catalogue: false, retain }
    }

    pub(crate) fn vault(&self) -> PathBuf {
        self.dir.join("vault")
    }

    pub(crate) fn start(&self) -> Result<Recorder, OpenError> {
        Recorder::start(RecorderConfig {
            remotes: vec![self.settings.clone()],
            clock: Arc::clone(&self.clock),
            catalogue: self.catalogue,
            retain: self.retain,
            segment_age: Duration::from_secs(60),
            ..RecorderConfig::new(self.dir.join("state"), self.vault(), self.node.to_owned(), node_key(self.node))
        })
    }

    /// Every finished segment here, by its name in a vault.
    pub(crate) fn segments(&self) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        let files = casemate_tests::vectors::files(&self.vault()).unwrap_or_default();
        for name in files.into_iter().filter(|name| name.ends_with(".seg")) {
            found.insert(name.clone(), std::fs::read(self.vault().join(&name)).unwrap());
        }
        found
    }
}

pub(crate) async fn open(recorder: &Recorder) -> Session {
    let spec = SessionSpec { kind: TranscriptKind::Session, protocol: Some(Protocol::Ssh), policy_hash: [0; 32] };
    recorder.open_session(spec, Vec::new()).await.unwrap()
}

/// Records so many bytes of what nothing compresses, and something typed.
pub(crate) async fn work(session: &Session, seed: u64, len: usize) {
    let typed = Event::stream(ssh_in::TYPE, 0, Bytes::from_static(b"typed\r"));
    drop(session.record(Side::Client, typed).receipt().await.unwrap());
    let mut noise = Noise::new(seed);
    for _ in 0..len.div_ceil(32 * 1024) {
        let shown = Event::stream(ssh_out::TYPE, 0, noise.chunk(len.min(32 * 1024)).into());
        drop(session.record(Side::Target, shown).receipt().await.unwrap());
    }
}

/// Records a session from its opening to its end, and returns how much of the log holds that.
pub(crate) async fn session(recorder: &Recorder, seed: u64, len: usize) -> u64 {
    let session = open(recorder).await;
    work(&session, seed, len).await;
    close(session).await
}

/// Ends a session, and returns how much of the log holds that.
pub(crate) async fn close(session: Session) -> u64 {
    session.close(CloseReason::Client, Some(0)).await.unwrap().note().checkpoint.size
}

pub(crate) fn figures(recorder: &Recorder) -> RemoteFigures {
    recorder.remotes().remove(0)
}

/// Waits until no segment waits, and a checkpoint over `size` entries of the log is there.
pub(crate) fn wait_shipped(recorder: &Recorder, size: u64, patience: Duration) -> bool {
    let there = || {
        let figures = figures(recorder);
        figures.reached_us > 0 && figures.waiting_segments == 0 && figures.log_size >= size
    };
    wait_until(patience, || recorder.figures().unshipped_segments == 0) && wait_until(patience, there)
}

/// Holds a bucket against what lies here: every segment once, as it is here and locked; the newest checkpoint that is there
/// covers all of them, and the log can be read up to it.
///
/// Under so many names the server may keep `spoiled` versions beside: the right one is there then as well.
pub(crate) async fn holds_all(place: &Place, client: &Client, bucket: &str, spoiled: usize) {
    let found = versions(client, bucket, "v1/").await.unwrap();
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    found.iter().for_each(|version| *names.entry(version.key().unwrap()).or_default() += 1);
    let twice: Vec<_> = names.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.len() <= spoiled, "second versions: {twice:?}");
    let mut right = BTreeSet::new();
    let segments = place.segments();
    let there: BTreeSet<&str> = names.keys().copied().filter(|name| name.ends_with(".seg")).collect();
    assert_eq!(there, segments.keys().map(String::as_str).collect::<BTreeSet<_>>());
    for version in &found {
        let key = version.key().unwrap();
        let got = client.get_object().bucket(bucket).key(key).version_id(version.version_id().unwrap());
        let got = got.send().await.unwrap();
        assert_eq!(got.object_lock_mode, Some(ObjectLockMode::Compliance), "{key}");
        let days = (got.object_lock_retain_until_date.unwrap().secs() - now_s()) / 86_400;
        assert!((399..=402).contains(&days), "{key} is locked for {days} days");
        let content = got.body.collect().await.unwrap().into_bytes();
        // Narrower tiles than the newest gave way here.
        let here = segments.get(key).cloned().or_else(|| std::fs::read(place.vault().join(key)).ok());
        if here.is_none_or(|here| here == content) {
            right.insert(key);
        }
    }
    let wrong: Vec<_> = names.keys().filter(|name| !right.contains(*name)).collect();
    assert!(wrong.is_empty(), "other content: {wrong:?}");
    let notes = found.iter().map(|version| version.key().unwrap()).filter(|key| key.ends_with(".note"));
    let size = |key: &str| key.rsplit('/').next().unwrap().split('-').next().unwrap().parse::<u64>().unwrap();
    let newest = notes.map(size).max().unwrap();
    for bundle in bundles(newest) {
        let key = format!("v1/log/{}/{bundle}", place.node);
        assert!(names.contains_key(key.as_str()), "{key} is missing under the checkpoint of {newest}");
    }
}

fn now_s() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().cast_signed()
}
