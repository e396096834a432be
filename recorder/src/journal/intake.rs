//! How events that came in together enter a transcript.

use bytes::Bytes;

use crate::session::Item;
use crate::transcript::event::{Body, Event, EventType, Lane, Side, gap};
use crate::transcript::writer::Writer;

/// Stream pieces that arrived together become one event up to this size.
const MERGED_LEN_MAX: usize = 64 * 1024;
/// Pieces further apart than this stay events of their own, so that a replay shows when they came.
const MERGED_SPAN_US: u64 = 1_000;
/// Appends items to a transcript, joining stream pieces that came together; `full` is called for a lane with a block's
/// worth of events.
pub(super) fn append(writer: &mut Writer, items: &[Item], mut full: impl FnMut(&mut Writer, Lane)) {
    let mut rest = items;
    let mut parts: Vec<Bytes> = Vec::new();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let lane = first.event.kind.lane();
        match &first.event.body {
            Body::Map(_) => writer.append(first.side, &first.event, first.at),
            Body::Stream(data) => {
                parts.clear();
                parts.push(data.clone());
                let mut len = data.len();
                while let Some((next, after)) = rest.split_first()
                    && let Some(data) = continues(first, next, len)
                {
                    len += data.len();
                    parts.push(data.clone());
                    rest = after;
                }
                writer.append_stream(first.side, first.event.kind, first.event.chan, &parts, first.at);
            }
        }
        if writer.is_full(lane) {
            full(writer, lane);
        }
    }
}

/// Appends what a session had on its way when recording froze. Stream bytes, none of which went on or ever will, become a
/// GAP that counts and names them: what room is left is to close sessions with.
pub(super) fn append_frozen(writer: &mut Writer, items: &[Item]) {
    let stream = |item: &Item| match &item.event.body {
        Body::Stream(_) => Some((item.event.kind, item.event.chan, item.side)),
        Body::Map(_) => None,
    };
    for run in items.chunk_by(|one, next| stream(one).is_some() && stream(one) == stream(next)) {
        let Some(first) = run.first() else { continue };
        if stream(first).is_none() {
            run.iter().for_each(|item| writer.append(item.side, &item.event, item.at));
            continue;
        }
        let (mut hash, mut bytes) = (blake3::Hasher::new(), 0u64);
        for item in run {
            if let Body::Stream(data) = &item.event.body {
                hash.update(data);
                bytes += data.len() as u64;
            }
        }
        let gap = Event::map(gap::TYPE, first.event.chan)
            .with(gap::REASON, "not recorded and not forwarded: recording stopped")
            .with(gap::SIDE, first.side as u32)
            .with(gap::BYTES, bytes)
            .with(gap::BLAKE3, hash.finalize().as_bytes().as_slice());
        writer.append(first.side, &gap, first.at);
    }
}

/// Returns the bytes of `next` where they may join the event that began with `first` and is `len` bytes long so far.
fn continues<'a>(first: &Item, next: &'a Item, len: usize) -> Option<&'a Bytes> {
    let key = |item: &Item| -> (EventType, u32, Side) { (item.event.kind, item.event.chan, item.side) };
    let Body::Stream(data) = &next.event.body else { return None };
    (key(first) == key(next)
        && len + data.len() <= MERGED_LEN_MAX
        && next.at.boot_us.saturating_sub(first.at.boot_us) <= MERGED_SPAN_US)
        .then_some(data)
}
