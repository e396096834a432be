//! Small pieces of one stream that go on together, once their receipts are there.

use bytes::{Bytes, BytesMut};
use casemate_recorder::{Frozen, Ticket};

use super::backlog::Held;

/// Small pieces of one stream are forwarded together up to this many bytes.
const MERGED_MAX: usize = 32 * 1024;

/// A piece of at least this size goes on by itself: copying it costs more than it saves.
const MERGE_BELOW: usize = 8 * 1024;

/// Waits for the receipt of one piece and takes those along that are recorded already. Gives what was held for them
/// too, to be dropped when they have gone on, and the item that came next and could not be taken along.
pub(super) async fn gather<T>(
    ticket: Ticket,
    held: Held,
    mut more: impl FnMut() -> Option<Result<(Ticket, Held), T>>,
    back: impl Fn((Ticket, Held)) -> T,
) -> Result<(Bytes, Vec<Held>, Option<T>), Frozen> {
    let first = ticket.receipt().await?.into_bytes();
    let mut holds = vec![held];
    if first.len() >= MERGE_BELOW {
        return Ok((first, holds, None));
    }
    let mut merged: Option<BytesMut> = None;
    let mut len = first.len();
    let rest = loop {
        match more() {
            None => break None,
            Some(Err(other)) => break Some(other),
            Some(Ok((ticket, held)))
                if !ticket.is_ready() || held.len() >= MERGE_BELOW || len + held.len() > MERGED_MAX =>
            {
                break Some(back((ticket, held)));
            }
            Some(Ok((ticket, held))) => {
                let bytes = ticket.receipt().await?.into_bytes();
                len += bytes.len();
                let merged = merged.get_or_insert_with(|| {
                    let mut start = BytesMut::with_capacity(MERGE_BELOW);
                    start.extend_from_slice(&first);
                    start
                });
                merged.extend_from_slice(&bytes);
                holds.push(held);
            }
        }
    };
    Ok((merged.map_or(first, BytesMut::freeze), holds, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    use casemate_certs::vkey::NodeKey;
    use casemate_recorder::transcript::event::{Event, Side, ssh_out};
    use casemate_recorder::{Recorder, RecorderConfig};

    use crate::ssh::Backlog;

    /// Gathers what a queue of these pieces gives at once, and returns it with the length of the piece that was left.
    async fn gathered(recorder: &Recorder, pieces: &[Bytes]) -> (Bytes, usize, Option<usize>) {
        let (session, backlog) = (recorder.control(), Backlog::new(1 << 20));
        let record = |piece: &Bytes| {
            let ticket = session.record(Side::Target, Event::stream(ssh_out::TYPE, 1, piece.clone()));
            (ticket, backlog.hold(piece.len()))
        };
        let mut queue: VecDeque<_> = pieces.iter().map(record).collect();
        // All of it is recorded before the first is asked for.
        let last = session.record(Side::Client, Event::stream(ssh_out::TYPE, 1, Bytes::new()));
        drop(last.receipt().await.unwrap());
        let (ticket, held) = queue.pop_front().unwrap();
        let (bytes, held, rest) =
            gather(ticket, held, || queue.pop_front().map(Ok), |(_, held): (Ticket, Held)| held.len()).await.unwrap();
        assert_eq!(held.iter().map(Held::len).sum::<usize>(), bytes.len(), "held until it has gone on");
        (bytes, queue.len(), rest)
    }

    #[tokio::test]
    async fn small_pieces_go_on_together_in_order_and_large_ones_by_themselves() {
        let dir = tempfile::tempdir().unwrap();
        let key = NodeKey::generate("relay").unwrap();
        let (state, vault) = (dir.path().join("state"), dir.path().join("vault"));
        std::fs::create_dir(&state).unwrap();
        std::fs::create_dir(&vault).unwrap();
        let config = RecorderConfig::new(state, vault, "relay".to_owned(), key.signing_key().clone());
        let recorder = Recorder::start(config).unwrap();
        let small = |byte: u8| Bytes::from(vec![byte; 100]);
        let large = Bytes::from(vec![9; MERGE_BELOW]);

        let (bytes, left, rest) = gathered(&recorder, &[small(1), small(2), large.clone(), small(3)]).await;
        assert_eq!(bytes, [vec![1; 100], vec![2; 100]].concat());
        assert_eq!((left, rest), (1, Some(MERGE_BELOW)));

        let (bytes, left, rest) = gathered(&recorder, &[large.clone(), small(1)]).await;
        assert_eq!((bytes, left, rest), (large, 1, None));

        let many: Vec<_> = (0..500u32).map(|n| small(n as u8)).collect();
        let (bytes, _, rest) = gathered(&recorder, &many).await;
        assert!(bytes.len() <= MERGED_MAX && bytes.len() > MERGED_MAX - 100, "{}", bytes.len());
        assert_eq!(rest, Some(100));
        assert_eq!(bytes.as_ref(), &many.concat()[..bytes.len()]);
        recorder.shutdown();
    }
}
