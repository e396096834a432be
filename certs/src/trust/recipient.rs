//! A recipient: somebody who can read encrypted recordings, with the age public key that they are encrypted to.
//!
//! Checks the form of the key (Bech32, BIP 173) and knows nothing of encryption.

use std::fmt;
use std::str::FromStr;

/// What a recipient is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecipientDuty {
    /// Checks the record.
    Auditor,
    /// Reviews sessions.
    Reviewer,
    /// Lies in a safe until the others are lost.
    Spare,
}

impl RecipientDuty {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Auditor, Self::Reviewer, Self::Spare];

    /// Returns the word that the file has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auditor => "auditor",
            Self::Reviewer => "reviewer",
            Self::Spare => "spare",
        }
    }
}

/// Somebody who can read recordings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The person, or the place where the key lies.
    pub name: String,
    /// What recordings are encrypted to.
    pub key: AgeKey,
    /// What for.
    pub duty: RecipientDuty,
}

/// An X25519 public key of age, `age1…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgeKey(String);

/// Why a text is no public key of age.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgeKeyError {
    /// It begins otherwise.
    #[error("does not begin with age1")]
    Prefix,
    /// It is too short or too long.
    #[error("has {0} characters, an age public key has {KEY_LEN}")]
    Length(usize),
    /// It has a character that Bech32 has not.
    #[error("has {0:?} in it, which no age public key has")]
    Character(char),
    /// The checksum at its end does not fit.
    #[error("is mistyped: its checksum does not fit")]
    Checksum,
}

/// `age1`, 256 bits of key in 52 characters, 6 of checksum.
const KEY_LEN: usize = 62;

/// The digits of Bech32, 5 bits each.
const DIGITS: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";

/// The generator of the checksum (BIP 173).
const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];

impl FromStr for AgeKey {
    type Err = AgeKeyError;

    fn from_str(text: &str) -> Result<Self, AgeKeyError> {
        // Bech32 allows capitals throughout; age writes and reads public keys in small letters only.
        let digits = text.strip_prefix("age1").ok_or(AgeKeyError::Prefix)?;
        let mut values = Vec::with_capacity(KEY_LEN);
        for c in digits.chars() {
            let value = DIGITS.iter().position(|digit| char::from(*digit) == c).ok_or(AgeKeyError::Character(c))?;
            values.push(value as u32);
        }
        if text.len() != KEY_LEN {
            return Err(AgeKeyError::Length(text.len()));
        }
        // 52 digits hold 260 bits, so the last digit of the key has 4 that mean nothing and must be zero.
        let padded = values.get(51).is_some_and(|last| last & 0b1111 != 0);
        let prefix = b"age".map(u32::from);
        let expanded = prefix.iter().map(|c| c >> 5).chain([0]).chain(prefix.iter().map(|c| c & 31)).chain(values);
        if padded || checksum(expanded) != 1 {
            return Err(AgeKeyError::Checksum);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for AgeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn checksum(values: impl Iterator<Item = u32>) -> u32 {
    values.fold(1, |sum, value| {
        let top = sum >> 25;
        let next = (sum & 0x1ff_ffff) << 5 ^ value;
        GENERATOR.iter().enumerate().fold(next, |sum, (bit, part)| if top >> bit & 1 == 1 { sum ^ part } else { sum })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the documentation of age.
    const KEY: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

    #[test]
    fn a_key_of_age_is_taken_as_it_is() {
        assert_eq!(KEY.parse::<AgeKey>().map(|key| key.to_string()), Ok(KEY.to_owned()));
    }

    #[test]
    fn every_other_character_at_every_place_is_refused() {
        let mut tries = 0;
        for at in 0..KEY.len() {
            for c in ('!'..='~').chain(['é']).filter(|c| !KEY[at..].starts_with(*c)) {
                let wrong = format!("{}{c}{}", &KEY[..at], &KEY[at + 1..]);
                assert!(wrong.parse::<AgeKey>().is_err(), "{wrong}");
                tries += 1;
            }
            assert!(KEY[..at].parse::<AgeKey>().is_err());
        }
        assert_eq!(tries, 62 * 94);
        assert_eq!(KEY.to_uppercase().parse::<AgeKey>(), Err(AgeKeyError::Prefix));
        assert_eq!(format!("{KEY}q").parse::<AgeKey>(), Err(AgeKeyError::Length(63)));
    }
}
