//! How leaves are written and read: see the table in [`leaf`](super::leaf).

use std::convert::Infallible;

use minicbor::{Decoder, Encoder, data::Type};

use super::leaf::{
    Boot, Close, Control, HEADS_MAX, Head, Heartbeat, Leaf, LeafError, LegalHold, Open, Recovered, Retired,
    SEGMENTS_MAX, Segment, SegmentRef, Stored,
};
use super::tile::ENTRY_LEN_MAX;
use crate::transcript::block::{Link, SessionId};

type Written = Result<(), minicbor::encode::Error<Infallible>>;

impl Leaf {
    /// Writes the leaf as it is hashed and stored.
    ///
    /// # Errors
    /// [`LeafError::Long`]: only lists and texts over their limits can do that.
    pub fn encode(&self) -> Result<Vec<u8>, LeafError> {
        let mut out = Vec::new();
        // Writing to a Vec cannot fail; minicbor's error type is uninhabited there.
        let _ = self.encode_into(&mut Encoder::new(&mut out));
        if out.len() > ENTRY_LEN_MAX { Err(LeafError::Long(out.len())) } else { Ok(out) }
    }

    /// How many keys it has besides that of its type.
    fn fields(&self) -> u64 {
        match self {
            Self::Boot(_) => 6,
            Self::Heartbeat(_) => 4,
            Self::Open(_) | Self::Segment(_) | Self::Stored(_) => 8,
            Self::Heads { .. } | Self::Retired(_) => 2,
            Self::Close(_) => 7,
            Self::Recovered(_) => 9,
            Self::Control(_) => 3,
            Self::LegalHold(_) => 5,
            Self::Unknown { .. } => 0,
        }
    }

    fn encode_into(&self, e: &mut Encoder<&mut Vec<u8>>) -> Written {
        if let Self::Unknown { raw, .. } = self {
            e.writer_mut().extend_from_slice(raw);
            return Ok(());
        }
        e.map(self.fields() + 1)?.u8(0)?.u64(self.kind())?;
        match self {
            Self::Boot(leaf) => {
                e.u8(1)?.bytes(&leaf.boot_id)?.u8(2)?.bytes(&leaf.boot_pub)?;
                e.u8(3)?.u64(leaf.wall_us)?.u8(4)?.u64(leaf.mono_us)?;
                e.u8(5)?.str(&leaf.version)?.u8(6)?.u64(leaf.previous_size)?;
            }
            Self::Heartbeat(leaf) => {
                e.u8(1)?.bytes(&leaf.boot_id)?.u8(3)?.u64(leaf.wall_us)?;
                e.u8(4)?.u64(leaf.mono_us)?.u8(5)?.u64(leaf.open)?;
            }
            Self::Open(leaf) => {
                e.u8(1)?.bytes(&leaf.session.0)?.u8(2)?.u8(leaf.kind)?;
                e.u8(3)?.u64(leaf.wall_us)?.u8(4)?.u8(leaf.protocol)?;
                e.u8(5)?.u64(leaf.ordinal)?.u8(6)?.bytes(&leaf.head_link.0)?;
                e.u8(7)?.bytes(&leaf.session_pub)?.u8(8)?.u64(leaf.retain_until_us)?;
            }
            Self::Segment(leaf) => {
                e.u8(1)?.bytes(&leaf.session.0)?.u8(2)?.u32(leaf.segment_no)?;
                e.u8(3)?.u64(leaf.wall_us)?.u8(4)?.u64(leaf.bytes)?;
                e.u8(5)?.u64(leaf.first_block)?.u8(6)?.u64(leaf.last_block)?;
                e.u8(7)?.bytes(&leaf.last_link.0)?.u8(8)?.bytes(&leaf.sha256)?;
            }
            Self::Heads { wall_us, heads } => {
                e.u8(3)?.u64(*wall_us)?.u8(4)?.array(heads.len() as u64)?;
                for head in heads {
                    e.array(4)?.bytes(&head.session.0)?.u64(head.block_no)?.bytes(&head.link.0)?.u64(head.events)?;
                }
            }
            Self::Close(leaf) => encode_close(e, leaf)?,
            Self::Recovered(leaf) => {
                encode_close(e, &leaf.close)?;
                e.u8(8)?.u64(leaf.torn_bytes)?.u8(9)?.bytes(&leaf.boot_id)?;
            }
            Self::Stored(leaf) => {
                e.u8(1)?.bytes(&leaf.session.0)?.u8(2)?.u32(leaf.segment_no)?;
                e.u8(3)?.u64(leaf.wall_us)?.u8(4)?.str(&leaf.vault)?.u8(5)?.str(&leaf.version)?;
                e.u8(6)?.bytes(&leaf.sha256)?.u8(7)?.u8(leaf.mode)?.u8(8)?.u64(leaf.retain_until_us)?;
            }
            Self::Retired(leaf) => {
                e.u8(1)?.bytes(&leaf.session.0)?.u8(3)?.u64(leaf.wall_us)?;
            }
            Self::LegalHold(leaf) => {
                e.u8(1)?.bytes(&leaf.session.0)?.u8(2)?.u8(leaf.set.into())?.u8(3)?.u64(leaf.wall_us)?;
                e.u8(4)?.str(&leaf.order)?.u8(5)?.str(&leaf.signatures)?;
            }
            Self::Control(leaf) => {
                e.u8(1)?.bytes(&leaf.session.0)?.u8(2)?.str(&leaf.what)?.u8(3)?.u64(leaf.wall_us)?;
            }
            Self::Unknown { .. } => {}
        }
        Ok(())
    }

    /// Reads a leaf. Keys that a later version added are passed over; a type that is not known is kept as it is.
    ///
    /// # Errors
    /// Not a CBOR map with ascending integer keys and key 0 first, a key missing, or bytes after the map; a leaf without keys of a
    /// later version that [`Leaf::encode`] would write otherwise.
    pub fn decode(bytes: &[u8]) -> Result<Self, LeafError> {
        if bytes.len() > ENTRY_LEN_MAX {
            return Err(LeafError::Long(bytes.len()));
        }
        let fields = Fields::read(bytes)?;
        let session = || fields.bytes(1).map(SessionId);
        let leaf = match fields.kind {
            0 => Self::Boot(Boot {
                boot_id: fields.bytes(1)?,
                boot_pub: fields.bytes(2)?,
                wall_us: fields.uint(3)?,
                mono_us: fields.uint(4)?,
                version: fields.text(5)?,
                previous_size: fields.uint(6)?,
            }),
            1 => Self::Heartbeat(Heartbeat {
                boot_id: fields.bytes(1)?,
                wall_us: fields.uint(3)?,
                mono_us: fields.uint(4)?,
                open: fields.uint(5)?,
            }),
            2 => Self::Open(Open {
                session: session()?,
                kind: fields.small(2)?,
                wall_us: fields.uint(3)?,
                protocol: fields.small(4)?,
                ordinal: fields.uint(5)?,
                head_link: fields.bytes(6).map(Link)?,
                session_pub: fields.bytes(7)?,
                retain_until_us: fields.uint(8)?,
            }),
            3 => Self::Segment(Segment {
                session: session()?,
                segment_no: fields.small(2)?,
                wall_us: fields.uint(3)?,
                bytes: fields.uint(4)?,
                first_block: fields.uint(5)?,
                last_block: fields.uint(6)?,
                last_link: fields.bytes(7).map(Link)?,
                sha256: fields.bytes(8)?,
            }),
            4 => Self::Heads { wall_us: fields.uint(3)?, heads: fields.list(4, HEADS_MAX, read_head)? },
            5 => Self::Close(read_close(&fields)?),
            6 => Self::Recovered(Recovered {
                close: read_close(&fields)?,
                torn_bytes: fields.uint(8)?,
                boot_id: fields.bytes(9)?,
            }),
            7 => Self::Stored(Stored {
                session: session()?,
                segment_no: fields.small(2)?,
                wall_us: fields.uint(3)?,
                vault: fields.text(4)?,
                version: fields.text(5)?,
                sha256: fields.bytes(6)?,
                mode: fields.small(7)?,
                retain_until_us: fields.uint(8)?,
            }),
            9 => Self::Retired(Retired { session: session()?, wall_us: fields.uint(3)? }),
            12 => Self::LegalHold(LegalHold {
                session: session()?,
                set: match fields.uint(2)? {
                    0 => false,
                    1 => true,
                    _ => return Err(LeafError::Shape("a hold that is neither set nor lifted")),
                },
                wall_us: fields.uint(3)?,
                order: fields.text(4)?,
                signatures: fields.text(5)?,
            }),
            11 => Self::Control(Control { session: session()?, what: fields.text(2)?, wall_us: fields.uint(3)? }),
            kind => Self::Unknown { kind, raw: bytes.to_vec() },
        };
        // All keys of a leaf must be there, so that one with no more of them has no others.
        if fields.values.len() as u64 == leaf.fields() + 1 && leaf.encode()? != bytes {
            return Err(LeafError::Shape("a leaf that is not in its one valid spelling"));
        }
        Ok(leaf)
    }
}

fn encode_close(e: &mut Encoder<&mut Vec<u8>>, leaf: &Close) -> Written {
    e.u8(1)?.bytes(&leaf.session.0)?.u8(2)?.u8(leaf.reason)?.u8(3)?.u64(leaf.wall_us)?;
    e.u8(4)?.u64(leaf.last_block)?.u8(5)?.bytes(&leaf.last_link.0)?;
    e.u8(6)?.u32(leaf.segment_count)?.u8(7)?.array(leaf.segments.len() as u64)?;
    for segment in &leaf.segments {
        e.array(4)?.u32(segment.no)?.u64(segment.bytes)?.bytes(&segment.sha256)?.bytes(&segment.last_link.0)?;
    }
    Ok(())
}

fn read_close(fields: &Fields<'_>) -> Result<Close, LeafError> {
    Ok(Close {
        session: fields.bytes(1).map(SessionId)?,
        reason: fields.small(2)?,
        wall_us: fields.uint(3)?,
        last_block: fields.uint(4)?,
        last_link: fields.bytes(5).map(Link)?,
        segment_count: fields.small(6)?,
        segments: fields.list(7, SEGMENTS_MAX, read_segment)?,
    })
}

fn read_head(decoder: &mut Decoder<'_>) -> Result<Head, LeafError> {
    Ok(Head {
        session: SessionId(read_bytes(decoder)?),
        block_no: decoder.u64()?,
        link: Link(read_bytes(decoder)?),
        events: decoder.u64()?,
    })
}

fn read_segment(decoder: &mut Decoder<'_>) -> Result<SegmentRef, LeafError> {
    Ok(SegmentRef {
        no: decoder.u32()?,
        bytes: decoder.u64()?,
        sha256: read_bytes(decoder)?,
        last_link: Link(read_bytes(decoder)?),
    })
}

fn read_bytes<const N: usize>(decoder: &mut Decoder<'_>) -> Result<[u8; N], LeafError> {
    decoder.bytes()?.try_into().map_err(|_| LeafError::Shape("a byte string of another length"))
}

/// The keys of one leaf with their values, still encoded.
struct Fields<'a> {
    kind: u64,
    values: Vec<(u64, &'a [u8])>,
}

impl<'a> Fields<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, LeafError> {
        let mut decoder = Decoder::new(bytes);
        let Some(count) = decoder.map()? else {
            return Err(LeafError::Shape("a map of indefinite length"));
        };
        let mut values: Vec<(u64, &'a [u8])> = Vec::new();
        for _ in 0..count {
            let key = decoder.u64()?;
            if values.last().is_some_and(|(last, _)| *last >= key) {
                return Err(LeafError::Shape("map keys that do not ascend"));
            }
            let start = decoder.position();
            decoder.skip()?;
            values.push((key, bytes.get(start..decoder.position()).unwrap_or_default()));
        }
        if decoder.position() != bytes.len() {
            return Err(LeafError::Shape("bytes after the map"));
        }
        let fields = Self { kind: 0, values };
        Ok(Self { kind: fields.uint(0)?, ..fields })
    }

    fn value(&self, key: u64) -> Result<Decoder<'a>, LeafError> {
        let value = self.values.iter().find(|(own, _)| *own == key);
        value.map(|(_, raw)| Decoder::new(raw)).ok_or(LeafError::Missing { kind: self.kind, key })
    }

    fn uint(&self, key: u64) -> Result<u64, LeafError> {
        Ok(self.value(key)?.u64()?)
    }

    fn small<T: TryFrom<u64>>(&self, key: u64) -> Result<T, LeafError> {
        T::try_from(self.uint(key)?).map_err(|_| LeafError::Shape("a number over its limit"))
    }

    fn bytes<const N: usize>(&self, key: u64) -> Result<[u8; N], LeafError> {
        read_bytes(&mut self.value(key)?)
    }

    fn text(&self, key: u64) -> Result<String, LeafError> {
        Ok(self.value(key)?.str()?.to_owned())
    }

    fn list<T>(
        &self,
        key: u64,
        max: usize,
        read: impl Fn(&mut Decoder<'a>) -> Result<T, LeafError>,
    ) -> Result<Vec<T>, LeafError> {
        let mut decoder = self.value(key)?;
        if decoder.datatype()? != Type::Array {
            return Err(LeafError::Shape("a list that is none, or of indefinite length"));
        }
        let len = decoder.array()?.unwrap_or_default();
        if len > max as u64 {
            return Err(LeafError::Shape("a list over its limit"));
        }
        (0..len)
            .map(|_| match decoder.array()? {
                Some(4) => read(&mut decoder),
                _ => Err(LeafError::Shape("an item that is not a list of four")),
            })
            .collect()
    }
}
