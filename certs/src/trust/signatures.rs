//! Signatures on a trust file: armoured SSHSIG blocks, one after the other, as `ssh-keygen -Y sign` writes them.
//!
//! Each block is counted for an officer or refused with a reason; a bad one never hides a good one. Counting is by
//! person: two keys of somebody are one signature.

use ssh_key::public::KeyData;
use ssh_key::{Algorithm, PublicKey, Signature, SshSig};
use thiserror::Error;

use super::officer::fingerprint;
use super::{Board, Officer, show_time};

/// The namespace of signatures on a trust file: one made for anything else must not count here.
pub const NAMESPACE: &str = "casemate-trust-v1";

/// Officers of one organisation who sign; whoever sends more wants to keep the verifier busy.
pub const SIGNATURES_MAX: usize = 64;

const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";

/// A security key sets this bit when somebody touched it (PROTOCOL.u2f).
const USER_PRESENT: u8 = 0x01;

/// Flags (1 byte) and counter (4) end the signature of a security key.
const SK_TRAILER_LEN: usize = 5;

/// An officer whose signature counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// Who.
    pub name: String,
    /// The fingerprint of the key they used.
    pub fingerprint: String,
}

/// A signature that does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Line in the signature file, from 1.
    pub line: usize,
    /// Why not, and what to do.
    pub why: Why,
}

/// Why a signature does not count; continues "the signature".
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Why {
    /// It is by a key that is nobody's.
    #[error("is by {fingerprint}, a key of no officer; list it, or remove the signature")]
    Stranger {
        /// The fingerprint of the key.
        fingerprint: String,
    },
    /// Something else is wrong with it.
    #[error("{0}")]
    Faulty(String),
}

impl From<String> for Why {
    fn from(what: String) -> Self {
        Self::Faulty(what)
    }
}

/// What the signatures on a file amount to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Different officers, in the order of their signatures.
    pub signers: Vec<Signer>,
    /// What does not count.
    pub refused: Vec<Refused>,
}

impl Tally {
    /// Counts the signatures over a file, as of `time_us` (microseconds since 1970).
    pub fn count(board: &Board, time_us: u64, file: &[u8], signatures: &str) -> Self {
        Self::count_in(NAMESPACE, board, time_us, file, signatures)
    }

    /// Counts the signatures over something else that officers sign, made for `namespace`.
    pub fn count_in(namespace: &str, board: &Board, time_us: u64, file: &[u8], signatures: &str) -> Self {
        let mut tally = Self::default();
        for (line, block) in blocks(signatures) {
            let judged = block.map_err(Why::from).and_then(|text| judge(namespace, board, time_us, file, &text));
            match judged {
                Ok(signer) if tally.signers.iter().any(|known| known.name == signer.name) => {
                    let why = format!("is a second one by {}, who counts once", signer.name);
                    tally.refused.push(Refused { line, why: why.into() });
                }
                Ok(signer) => tally.signers.push(signer),
                Err(why) => tally.refused.push(Refused { line, why }),
            }
        }
        tally
    }
}

impl Board {
    /// Returns the names of the officers who have a key that counts at that time, each once.
    pub fn officers_at(&self, time_us: u64) -> Vec<&str> {
        let counting = self.officers.iter().filter(|officer| officer.period.contains(time_us));
        let mut names: Vec<&str> = counting.map(|officer| officer.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn officer(&self, key: &KeyData) -> Option<&Officer> {
        self.officers.iter().find(|officer| officer.key.data() == key)
    }
}

/// Cuts a signature file into its blocks, each with the line it begins on.
fn blocks(text: &str) -> Vec<(usize, Result<String, String>)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (at, line) in text.lines().enumerate() {
        let (number, line) = (at + 1, line.trim_end());
        if found.len() >= SIGNATURES_MAX {
            found.push((number, Err(format!("comes after {SIGNATURES_MAX} others; remove what does not count"))));
            return found;
        }
        if line == BEGIN {
            if let Some((begun, _)) = open.take() {
                found.push((begun, Err("has no end; copy it whole".to_owned())));
            }
            open = Some((number, String::new()));
        }
        match &mut open {
            Some((begun, block)) => {
                block.push_str(line);
                block.push('\n');
                if line == END {
                    found.push((*begun, Ok(std::mem::take(block))));
                    open = None;
                }
            }
            None if line.is_empty() => {}
            None => found.push((number, Err("is no SSH signature; remove the line".to_owned()))),
        }
    }
    found.extend(open.map(|(begun, _)| (begun, Err("has no end; copy it whole".to_owned()))));
    found
}

fn judge(namespace: &str, board: &Board, time_us: u64, file: &[u8], block: &str) -> Result<Signer, Why> {
    let signature = SshSig::from_pem(block).map_err(|error| format!("is no SSH signature: {error}; copy it whole"))?;
    if signature.namespace() != namespace {
        return Err(format!("was made for {:?}; sign with -n {namespace}", signature.namespace()).into());
    }
    let fingerprint = fingerprint(signature.public_key());
    let Some(officer) = board.officer(signature.public_key()) else { return Err(Why::Stranger { fingerprint }) };
    let name = &officer.name;
    if !officer.period.contains(time_us) {
        let time = show_time(time_us);
        let what =
            format!("is by {fingerprint}, a key of {name} that does not count at {time}; sign with one that does");
        return Err(what.into());
    }
    check_algorithm(signature.public_key(), signature.signature())
        .map_err(|what| format!("is by {name} and {what}; sign again"))?;
    PublicKey::from(signature.public_key().clone())
        .verify(namespace, file, &signature)
        .map_err(|_| format!("is by {name}, over another file than this; have the file as it is signed again"))?;
    Ok(Signer { name: name.clone(), fingerprint })
}

/// Holds the signature's own description against the key's: the library checks the numbers and not always the label.
fn check_algorithm(key: &KeyData, signature: &Signature) -> Result<(), String> {
    let algorithm = signature.algorithm();
    let fits = match (key, &algorithm) {
        // Without a hash it would be `ssh-rsa`, which means SHA-1.
        (KeyData::Rsa(_), Algorithm::Rsa { hash }) => hash.is_some(),
        (KeyData::Rsa(_), _) => false,
        (key, algorithm) => key.algorithm() == *algorithm,
    };
    if !fits {
        return Err(format!("uses {algorithm} where its key asks for another algorithm"));
    }
    if matches!(key, KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_)) {
        let bytes = signature.as_bytes();
        let flags = bytes.len().checked_sub(SK_TRAILER_LEN).and_then(|at| bytes.get(at));
        if flags.is_none_or(|flags| flags & USER_PRESENT == 0) {
            return Err("nobody touched the security key for it".to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_cut_apart_and_what_is_none_is_named_by_its_line() {
        let block = format!("{BEGIN}\nAAAA\n{END}\n");
        let cut = |text: &str| -> Vec<(usize, bool)> {
            blocks(text).into_iter().map(|(line, block)| (line, block.is_ok())).collect()
        };
        assert_eq!(cut(&format!("{block}\n{block}").replace('\n', "\r\n")), [(1, true), (5, true)]);
        assert_eq!(cut(&format!("Signed:\n{block}")), [(1, false), (2, true)]);
        assert_eq!(cut(&format!("{BEGIN}\nAAAA\n{block}")), [(1, false), (3, true)]);
        assert_eq!(cut(&format!("{block}{BEGIN}\n")), [(1, true), (4, false)]);
        assert_eq!(cut(""), []);
        let many = cut(&block.repeat(SIGNATURES_MAX + 9));
        assert_eq!((many.len(), many.last()), (SIGNATURES_MAX + 1, Some(&(3 * SIGNATURES_MAX + 1, false))));
    }
}
