//! The writing end of a transcript: events in, chained blocks out.
//!
//! [`Writer`] adds to a [`BlockChain`] the lanes, the session's keys and the rules for when a block is full. It neither
//! reads a clock nor touches a file.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use minicbor::bytes::ByteArray;

use super::Stamp;
use super::block::{Kind, SessionId};
use super::blocks::{BlockChain, Built, Contents};
use super::chain::{Chain, SEGMENT_BLOCKS_MAX, TRAILER_LEN};
use super::cipher::{ContentKey, LaneKeys, RecordSealer};
use super::compressor::{Compressor, Texture};
use super::event::{self, EVENT_LEN_MAX, Event, EventType, Lane, Side, file_elided, gap, pg_elided};
use super::head::Head;
use super::micro::MicroHead;
use super::seal::{self, Close, CloseReason};

/// A lane's block is cut at this many bytes of events: beyond, the compression ratio hardly grows and seeking costs more.
pub const BLOCK_BYTES: usize = 64 * 1024;
/// What a lane keeps of its buffer's room when no burst goes on, in bytes.
const LANE_LEN_KEPT: usize = 4096;
/// A lane's block is cut at this age, in microseconds.
pub const BLOCK_AGE_US: u64 = 10_000_000;
/// A seal follows after this many stored bytes…
pub const SEAL_BYTES: u64 = 1024 * 1024;
/// … or after this time, in microseconds.
pub const SEAL_AGE_US: u64 = 60_000_000;
/// A segment rolls at this many stored bytes.
pub const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;

/// Events of one lane that are not in a block yet.
#[derive(Debug, Default)]
struct LaneBuffer {
    encoded: Vec<u8>,
    /// Number of the first buffered event in its lane.
    first_event: u64,
    count: u32,
    first: Stamp,
    last_mono_us: u64,
    /// How much of `encoded`, and how many events, the journal already holds as runs.
    journaled_len: usize,
    journaled_count: u32,
    /// What its blocks are like.
    texture: Texture,
}

/// Consecutive events of one lane that the journal does not hold yet.
#[derive(Debug)]
pub struct Run<'a> {
    /// What says where they belong.
    pub head: MicroHead,
    /// The CBOR sequence, or its ciphertext.
    pub payload: Cow<'a, [u8]>,
}

/// The end of a segment: its last blocks and what follows them.
#[derive(Debug)]
pub struct SegmentEnd {
    /// INDEX and a seal, in order.
    pub blocks: Vec<Built>,
    /// The trailer.
    pub trailer: [u8; TRAILER_LEN],
}

/// A session's transcript while it is being written.
pub struct Writer {
    head: Head,
    key: SigningKey,
    lane_keys: LaneKeys,
    /// What journal records of each lane are encrypted with.
    sealers: [Option<RecordSealer>; 3],
    started_boot_us: u64,
    blocks: BlockChain,
    lanes: [LaneBuffer; 3],
    next_seq: u64,
    bytes: [u64; 2],
    segment_since_us: u64,
    unsealed_bytes: u64,
    sealed_at_us: u64,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("session", &self.blocks.chain().session()).finish_non_exhaustive()
    }
}

impl Writer {
    /// Begins a transcript and returns it with its HEAD block. Lanes without a key are not encrypted; where there are keys,
    /// `head` holds them wrapped.
    pub fn begin(session: SessionId, head: Head, key: SigningKey, lane_keys: LaneKeys, now: Stamp) -> (Self, Built) {
        let keys = Lane::ALL.map(|lane| Some(lane_keys.get(lane)?.micro_key(session, &head.journal_salt)));
        let head = Head { micro_commits: micro_commits(&keys), ..head };
        let mut writer = Self {
            head,
            key,
            lane_keys,
            sealers: keys.map(|key| key.map(|key| key.record_sealer())),
            started_boot_us: now.boot_us,
            blocks: BlockChain::new(session),
            lanes: Default::default(),
            next_seq: 0,
            bytes: [0; 2],
            segment_since_us: now.boot_us,
            unsealed_bytes: 0,
            sealed_at_us: now.boot_us,
        };
        let built = writer.head_block(now);
        (writer, built)
    }

    fn head_block(&mut self, now: Stamp) -> Built {
        self.segment_since_us = now.boot_us;
        self.head.events = self.blocks.chain().events();
        let contents = Contents::bare(Kind::Head, now.wall_us, self.mono_us(now));
        self.blocks.push(contents, &self.head.encode())
    }

    /// Returns where the chain stands.
    pub fn chain(&self) -> &Chain {
        self.blocks.chain()
    }

    /// Returns the HEAD of this transcript.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Returns how many events are recorded so far, over all lanes.
    pub fn event_count(&self) -> u64 {
        self.next_seq
    }

    /// Returns how many stream bytes were recorded so far, of client and target.
    pub fn bytes(&self) -> [u64; 2] {
        self.bytes
    }

    fn mono_us(&self, now: Stamp) -> u64 {
        now.boot_us.saturating_sub(self.started_boot_us)
    }

    /// Takes an event. One that is too long for a reader is replaced by a GAP that names its length and BLAKE3: what comes
    /// after it in the block must stay readable, whatever a peer sent.
    pub fn append(&mut self, side: Side, event: &Event, now: Stamp) {
        let lane = event.kind.lane();
        let (seq, dt_us) = self.place(lane, now);
        match &event.body {
            event::Body::Stream(data) => self.count_bytes(side, data.len() as u64),
            // They go on as well, on the word of this event alone.
            event::Body::Map(_) => {
                if let Some(event::Value::Uint(elided)) =
                    event.get(file_elided::BYTES).or_else(|| event.get(pg_elided::BYTES))
                {
                    self.count_bytes(side, *elided);
                }
            }
        }
        let encoded = &mut self.lane_mut(lane).encoded;
        let start = encoded.len();
        event::encode(encoded, seq, dt_us, event);
        if let Some(long) = encoded.get(start..).filter(|long| long.len() > EVENT_LEN_MAX) {
            let instead = Event::map(gap::TYPE, event.chan)
                .with(gap::REASON, "event too long")
                .with(gap::BYTES, long.len() as u64)
                .with(gap::BLAKE3, blake3::hash(long).as_bytes().as_slice());
            encoded.truncate(start);
            event::encode(encoded, seq, dt_us, &instead);
        }
    }

    /// Takes stream bytes that came in several pieces as one event.
    pub fn append_stream(&mut self, side: Side, kind: EventType, chan: u32, parts: &[Bytes], now: Stamp) {
        let (seq, dt_us) = self.place(kind.lane(), now);
        self.count_bytes(side, parts.iter().map(|part| part.len() as u64).sum());
        event::encode_stream(&mut self.lane_mut(kind.lane()).encoded, seq, dt_us, kind, chan, parts);
    }

    fn count_bytes(&mut self, side: Side, len: u64) {
        let [client, target] = &mut self.bytes;
        let total = match side {
            Side::Client => client,
            Side::Target => target,
        };
        *total = total.saturating_add(len);
    }

    /// Numbers the next event and notes its time in its lane.
    fn place(&mut self, lane: Lane, now: Stamp) -> (u64, u64) {
        let mono_us = self.mono_us(now);
        let seq = self.next_seq;
        self.next_seq += 1;
        let lane = self.lane_mut(lane);
        if lane.count == 0 {
            lane.first = Stamp { wall_us: now.wall_us, boot_us: mono_us };
        }
        lane.count += 1;
        lane.last_mono_us = mono_us;
        (seq, mono_us.saturating_sub(lane.first.boot_us))
    }

    fn lane_mut(&mut self, lane: Lane) -> &mut LaneBuffer {
        let [meta, output, input] = &mut self.lanes;
        match lane {
            Lane::Meta => meta,
            Lane::Output => output,
            Lane::Input => input,
        }
    }

    /// Whether the lane's buffer is worth a block of its own.
    pub fn is_full(&mut self, lane: Lane) -> bool {
        self.lane_mut(lane).encoded.len() >= BLOCK_BYTES
    }

    /// Returns how many bytes of the lane are in no block yet.
    pub fn buffered_len(&mut self, lane: Lane) -> usize {
        self.lane_mut(lane).encoded.len()
    }

    /// Returns how many buffered bytes of the lane the journal does not hold yet.
    pub fn fresh_len(&mut self, lane: Lane) -> usize {
        let lane = self.lane_mut(lane);
        lane.encoded.len() - lane.journaled_len
    }

    /// Whether the events of the lane are encrypted.
    pub fn encrypts(&self, lane: Lane) -> bool {
        self.lane_keys.get(lane).is_some()
    }

    /// Returns the events of the lane that the journal does not hold yet, and counts them as journaled.
    pub fn take_run(&mut self, lane: Lane) -> Option<Run<'_>> {
        let session = self.blocks.chain().session();
        let ([meta, output, input], [meta_sealer, output_sealer, input_sealer]) = (&mut self.lanes, &self.sealers);
        let (buffer, sealer) = match lane {
            Lane::Meta => (meta, meta_sealer),
            Lane::Output => (output, output_sealer),
            Lane::Input => (input, input_sealer),
        };
        let start = std::mem::replace(&mut buffer.journaled_len, buffer.encoded.len());
        let done = std::mem::replace(&mut buffer.journaled_count, buffer.count);
        let encoded = buffer.encoded.get(start..).filter(|run| !run.is_empty())?;
        let head = MicroHead {
            session,
            lane,
            event_count: buffer.count - done,
            first_event: buffer.first_event + u64::from(done),
            mono_us: buffer.first.boot_us,
            wall_us: buffer.first.wall_us,
        };
        let payload = match sealer {
            Some(sealer) => Cow::Owned(sealer.seal(&head.encode(), encoded)),
            None => Cow::Borrowed(encoded),
        };
        Some(Run { head, payload })
    }

    /// Puts all buffered events of the lane into a block. `salt` is random, and used where they are encrypted.
    pub fn cut(&mut self, lane: Lane, compressor: &mut Compressor, salt: [u8; 16]) -> Option<Built> {
        let mut buffer = std::mem::take(self.lane_mut(lane));
        if buffer.count == 0 {
            // An idle session should not hold on to the room that a burst needed.
            buffer.encoded.shrink_to(LANE_LEN_KEPT);
            *self.lane_mut(lane) = buffer;
            return None;
        }
        let contents = Contents {
            lane,
            first_event: buffer.first_event,
            event_count: buffer.count,
            wall_us: buffer.first.wall_us,
            span_us: buffer.last_mono_us.saturating_sub(buffer.first.boot_us),
            salt,
            ..Contents::bare(Kind::Data, 0, buffer.first.boot_us)
        };
        let key = self.lane_keys.get(lane);
        let built = self.blocks.push_events(contents, &buffer.encoded, (compressor, &mut buffer.texture), key);
        self.unsealed_bytes += built.bytes.len() as u64;
        let mut encoded = buffer.encoded;
        let in_a_burst = encoded.len() >= BLOCK_BYTES;
        encoded.clear();
        if !in_a_burst {
            encoded.shrink_to(LANE_LEN_KEPT);
        }
        let first_event = buffer.first_event + u64::from(buffer.count);
        *self.lane_mut(lane) = LaneBuffer { encoded, first_event, texture: buffer.texture, ..LaneBuffer::default() };
        Some(built)
    }

    /// Whether the lane holds events that should not wait for a full block any longer.
    pub fn is_aged(&mut self, lane: Lane, now: Stamp) -> bool {
        let mono_us = self.mono_us(now);
        let lane = self.lane_mut(lane);
        lane.count > 0 && mono_us.saturating_sub(lane.first.boot_us) >= BLOCK_AGE_US
    }

    /// Whether a seal is due.
    pub fn seal_is_due(&self, now: Stamp) -> bool {
        self.unsealed_bytes >= SEAL_BYTES
            || (self.unsealed_bytes > 0 && now.boot_us.saturating_sub(self.sealed_at_us) >= SEAL_AGE_US)
    }

    /// Signs everything so far.
    pub fn seal(&mut self, now: Stamp) -> Built {
        self.unsealed_bytes = 0;
        self.sealed_at_us = now.boot_us;
        let contents = Contents::bare(Kind::Seal, now.wall_us, self.mono_us(now));
        self.blocks.push_signed(contents, &[], &self.key)
    }

    /// Whether the segment is at its size, its age or its number of blocks.
    pub fn segment_is_due(&self, now: Stamp, age_us: u64) -> bool {
        self.blocks.segment_bytes() >= SEGMENT_BYTES
            || self.blocks.segment_blocks() + 16 >= SEGMENT_BLOCKS_MAX
            // HEAD alone is not worth a segment.
            || (self.blocks.segment_blocks() > 1 && now.boot_us.saturating_sub(self.segment_since_us) >= age_us)
    }

    /// Ends the segment and begins the next: INDEX, SEAL, trailer, and the HEAD of the new one.
    pub fn roll(&mut self, now: Stamp) -> (SegmentEnd, Built) {
        let (index, trailer) = self.blocks.index(now.wall_us, self.mono_us(now));
        let seal = self.seal(now);
        self.blocks.next_segment();
        (SegmentEnd { blocks: vec![index, seal], trailer }, self.head_block(now))
    }

    /// Ends the transcript. All lanes must have been cut before; what they still hold is lost to the chain.
    pub fn close(&mut self, reason: CloseReason, exit: Option<u32>, now: Stamp) -> SegmentEnd {
        let (index, trailer) = self.blocks.index(now.wall_us, self.mono_us(now));
        let statement = Close {
            reason,
            exit,
            events: self.blocks.chain().events(),
            bytes: self.bytes,
            segments: self.blocks.chain().segment_no().saturating_add(1),
            wall_us: now.wall_us,
        };
        let contents = Contents::bare(Kind::Close, now.wall_us, self.mono_us(now));
        let close = self.blocks.push_signed(contents, &seal::encode_statement(&statement), &self.key);
        SegmentEnd { blocks: vec![index, close], trailer }
    }
}

/// Commits to the keys of the journal records, so that recovery can say which key opens what it cannot read.
fn micro_commits(keys: &[Option<ContentKey>; 3]) -> Option<[ByteArray<32>; 3]> {
    let [meta, output, input] = keys.each_ref().map(|key| Some(key.as_ref()?.commitment().into()));
    Some([meta?, output?, input?])
}

#[cfg(test)]
mod tests {
    use super::super::block::{Block, HEADER_LEN};
    use super::super::event::{ssh_in, ssh_out};
    use super::super::head::tests::{head, session_key};
    use super::*;

    fn at(us: u64) -> Stamp {
        Stamp { wall_us: 1_700_000_000_000_000 + us, boot_us: 5_000_000 + us }
    }

    fn begin(keys: LaneKeys) -> (Writer, Built) {
        Writer::begin(SessionId([9; 16]), head(), session_key(), keys, at(0))
    }

    #[test]
    fn a_transcript_reads_back_as_it_was_written() {
        for keys in [LaneKeys::default(), LaneKeys::new([[1; 32], [2; 32], [3; 32]])] {
            reads_back(&keys);
        }
    }

    fn reads_back(keys: &LaneKeys) {
        let mut compressor = Compressor::new().unwrap();
        let (mut writer, head) = begin(keys.clone());
        let mut segment = head.bytes.to_vec();
        writer.append(Side::Client, &Event::stream(ssh_in::TYPE, 0, Bytes::from_static(b"ls\r")), at(10));
        let parts = [Bytes::from_static(b"a\xff"), Bytes::from_static(b"b")];
        writer.append_stream(Side::Target, ssh_out::TYPE, 0, &parts, at(30));
        for lane in Lane::ALL {
            segment.extend(writer.cut(lane, &mut compressor, [6; 16]).into_iter().flat_map(|built| built.bytes));
        }
        let end = writer.close(CloseReason::Client, Some(0), at(50));
        segment.extend(end.blocks.iter().flat_map(|built| built.bytes.to_vec()));

        let mut chain = Chain::new(SessionId([9; 16]));
        let mut seen = Vec::new();
        let mut rest = segment.as_slice();
        while !rest.is_empty() {
            let block = Block::parse(rest).unwrap();
            chain.accept(&block.header, block.link).unwrap();
            if block.header.kind.holds_events() {
                assert_eq!(block.header.codec.encrypted, keys.get(block.header.lane).is_some());
                seen.extend(super::super::chain::events(&block, keys).unwrap());
            }
            if block.header.kind == Kind::Close {
                let key = SigningKey::from_bytes(&[3; 32]).verifying_key();
                let statement = seal::verify(&key, &block.raw[..HEADER_LEN], block.payload).unwrap();
                let close: Close = seal::decode_statement(statement).unwrap();
                assert_eq!((close.exit, close.events, close.bytes), (Some(0), [0, 1, 1], [3, 3]));
            }
            rest = &rest[block.raw.len()..];
        }
        assert!(chain.ended());
        seen.sort_by_key(|(_, entry)| entry.seq);
        let bodies: Vec<_> = seen.iter().map(|(t_us, entry)| (*t_us, entry.event.body.clone())).collect();
        assert_eq!(
            bodies,
            [
                (10, event::Body::Stream(Bytes::from_static(b"ls\r"))),
                (30, event::Body::Stream(Bytes::from_static(b"a\xffb"))),
            ]
        );
    }

    #[test]
    fn an_event_that_no_reader_takes_does_not_hide_what_follows() {
        use super::super::event::exec;
        let mut compressor = Compressor::new().unwrap();
        let (mut writer, _) = begin(LaneKeys::default());
        let long = vec![b'x'; EVENT_LEN_MAX];
        writer.append(Side::Client, &Event::map(exec::TYPE, 0).with(exec::COMMAND, long.as_slice()), at(1));
        writer.append(Side::Client, &Event::map(exec::TYPE, 0).with(exec::COMMAND, b"id".as_slice()), at(2));
        let built = writer.cut(Lane::Output, &mut compressor, [6; 16]).unwrap();
        let events = super::super::chain::events(&Block::parse(&built.bytes).unwrap(), &LaneKeys::default()).unwrap();
        let kinds: Vec<_> = events.iter().map(|(_, entry)| entry.event.kind).collect();
        assert_eq!(kinds, [gap::TYPE, exec::TYPE]);
    }

    #[test]
    fn runs_hand_every_event_to_the_journal_once() {
        let (mut writer, _) = begin(LaneKeys::default());
        let event = |data: &'static [u8]| Event::stream(ssh_in::TYPE, 0, Bytes::from_static(data));
        writer.append(Side::Client, &event(b"a"), at(1));
        writer.append(Side::Client, &event(b"b"), at(2));
        let run = writer.take_run(Lane::Input).unwrap();
        assert_eq!((run.head.first_event, run.head.event_count, run.head.mono_us), (0, 2, 1));
        assert!(writer.take_run(Lane::Input).is_none());
        writer.append(Side::Client, &event(b"c"), at(3));
        let run = writer.take_run(Lane::Input).unwrap();
        assert_eq!((run.head.first_event, run.head.event_count), (2, 1));
        assert!(writer.cut(Lane::Input, &mut Compressor::new().unwrap(), [6; 16]).is_some());
        writer.append(Side::Client, &event(b"d"), at(4));
        assert_eq!(writer.take_run(Lane::Input).unwrap().head.first_event, 3);
    }
}
