//! Who logs in at a target, and the StartupMessage that says so.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Password, Refused};
use crate::pg::codec::{put_counted, put_text};
use crate::pg::startup::{STARTUP_LEN_MAX, VERSION_3_0, VERSION_3_2};

/// Who logs in, and to what.
pub struct Login {
    /// The role.
    pub user: String,
    /// The database; if empty, the one with the role's name.
    pub database: Bytes,
    /// The password, for targets that ask for one.
    pub password: Option<Password>,
    /// What else stands in the StartupMessage, in this order: names and values that are allowed already.
    pub params: Vec<(Bytes, Bytes)>,
    /// [`VERSION_3_0`] or [`VERSION_3_2`].
    pub protocol: u32,
}

impl Login {
    /// Returns the StartupMessage.
    pub(super) fn startup(&self) -> Result<Bytes, Refused> {
        if !matches!(self.protocol, VERSION_3_0 | VERSION_3_2) {
            return Err(Refused::Version { asked: self.protocol, offered: VERSION_3_2, options: 0 });
        }
        // Of two parameters of one name the last counts, and a zero byte begins another: neither may change who logs in.
        let ours =
            |name: &[u8]| name.is_empty() || name == b"user" || name == b"database" || name.starts_with(b"_pq_.");
        if let Some((name, _)) = self.params.iter().find(|(name, _)| ours(name)) {
            return Err(Refused::Parameter(String::from_utf8_lossy(name).into_owned()));
        }
        let own = [(&b"user"[..], self.user.as_bytes()), (b"database", &self.database)];
        let own = own.into_iter().filter(|(name, value)| *name == b"user" || !value.is_empty());
        let all = || own.clone().chain(self.params.iter().map(|(name, value)| (name.as_ref(), value.as_ref())));
        if let Some((name, _)) = all().find(|(name, value)| name.contains(&0) || value.contains(&0)) {
            return Err(Refused::Parameter(String::from_utf8_lossy(name).into_owned()));
        }
        if self.user.is_empty() {
            return Err(Refused::Parameter("user".to_owned()));
        }
        let mut out = BytesMut::new();
        put_counted(&mut out, |out| {
            out.put_u32(self.protocol);
            for (name, value) in all() {
                put_text(out, name);
                put_text(out, value);
            }
            out.put_u8(0);
        });
        if out.len() > STARTUP_LEN_MAX { Err(Refused::StartupLen(out.len())) } else { Ok(out.freeze()) }
    }
}
