//! Takes a checkpoint of the node log to a bucket, behind the tiles that it covers.

use bytes::Bytes;

use super::deliver::{Parcel, Trouble, deliver};
use crate::log::note::Note;
use crate::log::tile::{TILE_WIDTH, TileName, new_tiles};
use crate::vault::s3::{Bucket, Lock};
use crate::vault::{Vault, log_key};

/// How far the lock of an earlier attempt may end from what a later one asks for, in microseconds: both ask for the end of a day.
const SLACK_US: u64 = 3 * 86_400_000_000;

/// What putting a checkpoint and its tiles took.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) objects: u64,
    pub(super) bytes: u64,
    /// When the server took the checkpoint, by its own clock, in microseconds since 1970; 0 where it did not get there.
    pub(super) dated_us: u64,
}

/// A checkpoint on its way, with the tiles that it covers and the bucket does not have.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) bucket: Bucket,
    pub(super) vault: Vault,
    pub(super) node: String,
    /// The size of the checkpoint that is there.
    pub(super) sent: u64,
    pub(super) note: Box<Note>,
    /// The name that the checkpoint gets.
    pub(super) key: String,
    pub(super) lock: Lock,
    pub(super) fresh: bool,
    pub(super) attempt: u32,
}

impl Errand {
    pub(super) async fn run(&self) -> Result<Sent, Trouble> {
        let mut done = Sent::default();
        for name in new_tiles(self.sent, self.note.checkpoint.size) {
            let content = self.tile(name).ok_or(Trouble::LocalCopy)?;
            self.put(log_key(&self.node, &name.to_string()), content.into(), &mut done).await?;
        }
        done.dated_us = self.put(self.key.clone(), self.note.to_string().into(), &mut done).await?;
        Ok(done)
    }

    /// Reads a tile here. One that gave way to a wider one meanwhile is cut from that.
    fn tile(&self, name: TileName) -> Option<Vec<u8>> {
        let here = |name: TileName| self.vault.get(&log_key(&self.node, &name.to_string())).ok().flatten();
        let mut widths = name.width..=TILE_WIDTH;
        widths.find_map(|width| here(TileName { width, ..name })).and_then(|wide| name.cut(&wide).ok())
    }

    /// Returns when the server took it, by its own clock.
    async fn put(&self, key: String, content: Bytes, done: &mut Sent) -> Result<u64, Trouble> {
        let (fresh, attempt) = (self.fresh, self.attempt);
        let parcel =
            Parcel { fresh, attempt, alone: false, slack_us: SLACK_US, ..Parcel::new(key, content, self.lock) };
        let delivered = deliver(&self.bucket, &parcel).await?;
        if delivered.put {
            done.objects += 1;
            done.bytes += parcel.wanted.bytes;
        }
        Ok(delivered.dated_us)
    }
}
