//! A trust file as an auditor holds it: its exact bytes, what they say, and what the signatures beside it amount to.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{Authority, Board, Tally, Trust, TrustError, show_time};

/// Returns where the signatures on a trust file lie: beside it, `.sig` appended, as `ssh-keygen -Y sign` does.
pub fn signature_file(trust: &Path) -> PathBuf {
    let mut name = OsString::from(trust);
    name.push(".sig");
    PathBuf::from(name)
}

/// The SHA-256 of a trust file. Two people who see the same one hold the same file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Returns it whole, as `sha256sum` prints it.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The first 128 bits in groups of four digits, to be read out. Fewer could be made to fit two files on purpose.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, pair) in self.0.chunks(2).take(8).enumerate() {
            let space = if at == 0 { "" } else { " " };
            f.write_str(space)?;
            pair.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

/// Why nothing may be decided by a trust file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustDoubt {
    /// It comes from the bastion.
    #[error("the trust file is self-asserted: it comes from the bastion that it is to judge")]
    SelfAsserted,
    /// Nobody signed it.
    #[error("the trust file is not signed: {quorum} of its officers must sign it, in a .sig file beside it")]
    Unsigned {
        /// How many must sign.
        quorum: u64,
    },
    /// Too few did.
    #[error("the trust file does not count: signed by {} of the {quorum} officers it asks for", signers.len())]
    ShortOfQuorum {
        /// Who signed.
        signers: Vec<String>,
        /// How many must sign.
        quorum: u64,
    },
    /// Its date lies ahead: which officers' keys count cannot be told yet.
    #[error("the trust file is issued at {}, which has not come yet", show_time(*issued_us))]
    NotYetIssued {
        /// When, in microseconds since 1970.
        issued_us: u64,
    },
}

/// A trust file with its signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustFile {
    trust: Trust,
    text: String,
    signatures: String,
    signed: bool,
    tally: Tally,
}

impl TrustFile {
    /// Reads the file and counts the signatures that lie beside it, where there are any.
    ///
    /// # Errors
    /// The file is none. Signatures that do not count are no error; [`believe`](Self::believe) says what follows.
    pub fn read(text: &str, signatures: Option<&str>) -> Result<Self, TrustError> {
        let trust = Trust::parse(text)?;
        let signed = signatures.is_some();
        let signatures = signatures.unwrap_or_default();
        let tally = match &trust.authority {
            Authority::Bastion => Tally::default(),
            Authority::Officers(board) => Tally::count(board, board.issued_us, text.as_bytes(), signatures),
        };
        Ok(Self { trust, text: text.to_owned(), signatures: signatures.to_owned(), signed, tally })
    }

    /// What the file says, whether it counts or not.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Its officers; `None` where it is self-asserted.
    pub fn board(&self) -> Option<&Board> {
        match &self.trust.authority {
            Authority::Bastion => None,
            Authority::Officers(board) => Some(board),
        }
    }

    /// What its signatures amount to.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The SHA-256 of its bytes.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(Sha256::digest(self.text.as_bytes()).into())
    }

    /// Counts the signatures of this file again, by other officers.
    pub(super) fn tally_by(&self, board: &Board, time_us: u64) -> Tally {
        Tally::count(board, time_us, self.text.as_bytes(), &self.signatures)
    }

    /// Returns the officers who vouch for the file, if a verdict may rest on it at `now_us`.
    ///
    /// # Errors
    /// Why it may not.
    pub fn believe(&self, now_us: u64) -> Result<&Board, TrustDoubt> {
        let board = self.board().ok_or(TrustDoubt::SelfAsserted)?;
        let quorum = board.quorum;
        if !self.signed {
            return Err(TrustDoubt::Unsigned { quorum });
        }
        if (self.tally.signers.len() as u64) < quorum {
            let signers = self.tally.signers.iter().map(|signer| signer.name.clone()).collect();
            return Err(TrustDoubt::ShortOfQuorum { signers, quorum });
        }
        if board.issued_us > now_us {
            return Err(TrustDoubt::NotYetIssued { issued_us: board.issued_us });
        }
        Ok(board)
    }
}
