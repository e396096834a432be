//! What a server says of an object, held against what was asked of it.

use super::settings::LockMode;

/// One version of an object, or a delete marker, as a listing tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The name, without the prefix of the settings.
    pub key: String,
    /// The version's id; `null` where the bucket had no versions then.
    pub id: String,
    /// Length in bytes; 0 of a delete marker.
    pub bytes: u64,
    /// Whether a request that names no version gets this one.
    pub latest: bool,
    /// Whether it says that the object is deleted.
    pub marker: bool,
    /// When the server took it, in microseconds since 1970.
    pub modified_us: u64,
}

/// A lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// Which.
    pub mode: LockMode,
    /// Until when, in microseconds since 1970.
    pub until_us: u64,
}

/// What the server says of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The version's id, where the server tells one.
    pub version: Option<String>,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of the content, where the server keeps one.
    pub sha256: Option<[u8; 32]>,
    /// MD5 of the content, where the entity tag is one.
    pub md5: Option<[u8; 16]>,
    /// The lock.
    pub lock: Option<Lock>,
    /// Whether a legal hold stands.
    pub hold: bool,
    /// When the server took it, in microseconds since 1970.
    pub modified_us: u64,
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of the content.
    pub sha256: [u8; 32],
    /// MD5 of the content.
    pub md5: [u8; 16],
    /// The lock.
    pub lock: Lock,
}

/// What the server said it would do and did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Lie {
    /// The object is not there.
    #[error("the server took it and does not have it")]
    Gone,
    /// The object is another.
    #[error("the server has other content under this name")]
    Content,
    /// There is no lock on it.
    #[error("the server took it without its lock")]
    Unlocked,
    /// The lock is of the other mode.
    #[error("the lock is of mode {0}, which is not what was asked for")]
    Mode(LockMode),
    /// The lock ends too soon.
    #[error("the lock ends {0} s before the time that was asked for")]
    Short(u64),
    /// The lock ends too late: what cannot be deleted in time may be against the law, and is paid for.
    #[error("the lock ends {0} s after the time that was asked for")]
    Long(u64),
    /// There is more than one version, or a delete marker.
    #[error("there is another version or a delete marker under this name")]
    Shadowed,
}

/// Servers keep seconds or milliseconds, in microseconds.
const ROUNDING_US: u64 = 1_000_000;

impl Standing {
    /// Says what is not as it was asked for. `Ok(false)` where nothing shows what the content is: only reading it does.
    ///
    /// # Errors
    /// The first thing that differs.
    pub fn check(&self, wanted: &Wanted) -> Result<bool, Lie> {
        let same = match (self.sha256, self.md5) {
            (Some(sha256), _) => Some(sha256 == wanted.sha256),
            (None, Some(md5)) => Some(md5 == wanted.md5),
            (None, None) => None,
        };
        if self.bytes != wanted.bytes || same == Some(false) {
            return Err(Lie::Content);
        }
        self.check_lock(wanted.lock)?;
        Ok(same == Some(true))
    }

    fn check_lock(&self, wanted: Lock) -> Result<(), Lie> {
        let lock = self.lock.ok_or(Lie::Unlocked)?;
        if lock.mode != wanted.mode {
            return Err(Lie::Mode(lock.mode));
        }
        if lock.until_us.saturating_add(ROUNDING_US) < wanted.until_us {
            return Err(Lie::Short(wanted.until_us.saturating_sub(lock.until_us) / 1_000_000));
        }
        if lock.until_us > wanted.until_us.saturating_add(ROUNDING_US) {
            return Err(Lie::Long(lock.until_us.saturating_sub(wanted.until_us) / 1_000_000));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_US: u64 = 86_400_000_000;

    fn standing() -> (Standing, Wanted) {
        let lock = Lock { mode: LockMode::Compliance, until_us: 400 * DAY_US };
        let wanted = Wanted { bytes: 7, sha256: [1; 32], md5: [2; 16], lock };
        let standing = Standing {
            version: Some("v".to_owned()),
            bytes: 7,
            sha256: Some([1; 32]),
            md5: None,
            lock: Some(lock),
            hold: false,
            modified_us: DAY_US,
        };
        (standing, wanted)
    }

    #[test]
    fn what_is_as_it_was_asked_for_is_no_lie() {
        let (mut standing, wanted) = standing();
        assert_eq!(standing.check(&wanted), Ok(true));
        standing.sha256 = None;
        assert_eq!(standing.check(&wanted), Ok(false));
        standing.md5 = Some([2; 16]);
        assert_eq!(standing.check(&wanted), Ok(true));
    }

    #[test]
    fn every_difference_is_found() {
        type Change = fn(&mut Standing);
        let changes: [(Change, Lie); 8] = [
            (|s| s.bytes = 8, Lie::Content),
            (|s| s.sha256 = Some([9; 32]), Lie::Content),
            (|s| (s.sha256, s.md5) = (None, Some([9; 16])), Lie::Content),
            (|s| s.lock = None, Lie::Unlocked),
            (|s| s.lock = s.lock.map(|l| Lock { mode: LockMode::Governance, ..l }), Lie::Mode(LockMode::Governance)),
            (|s| s.lock = s.lock.map(|l| Lock { until_us: l.until_us - DAY_US, ..l }), Lie::Short(86_400)),
            (|s| s.lock = s.lock.map(|l| Lock { until_us: l.until_us + DAY_US, ..l }), Lie::Long(86_400)),
            // Equal content under another lock is still a finding.
            (|s| (s.md5, s.lock) = (Some([2; 16]), None), Lie::Unlocked),
        ];
        for (change, lie) in changes {
            let (mut standing, wanted) = standing();
            change(&mut standing);
            assert_eq!(standing.check(&wanted), Err(lie));
        }
    }
}
