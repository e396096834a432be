//! Messages of a target, for scripts of them in tests.

use bytes::{BufMut, BytesMut};

use super::codec::put_frame;

/// Any message.
pub(super) fn frame(tag: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_frame(&mut out, tag, |out| out.put_slice(payload));
    out.to_vec()
}

/// An Authentication message.
pub(super) fn auth(kind: u32, rest: &[u8]) -> Vec<u8> {
    frame(b'R', &[&kind.to_be_bytes(), rest].concat())
}
