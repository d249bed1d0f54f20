//! The text of an API key: `cial_`, 256 random bits, and a checksum. The database holds its SHA-256.
//!
//! The checksum tells a typing error from a revoked key without a query, and lets scanners of source code
//! recognise a key.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::token::random_bytes;

const PREFIX: &str = "cial_";
/// Base64 of 32 bytes.
const RANDOM_LENGTH: usize = 43;
/// Base64 of the 4 bytes of a CRC-32.
const CHECKSUM_LENGTH: usize = 6;

/// A well-formed key. `Debug` hides the key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyText(String);

/// The text is no key: a typing error, or something else altogether.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a key as it was shown: cial_ and {} characters", RANDOM_LENGTH + CHECKSUM_LENGTH)]
pub struct MalformedKey;

impl KeyText {
    /// # Errors
    /// When the system gives no random bytes.
    pub fn random() -> anyhow::Result<Self> {
        Ok(Self::of(&random_bytes()?))
    }

    fn of(random: &[u8; 32]) -> Self {
        let body = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
        let checksum = checksum(&body);
        Self(body + &checksum)
    }

    /// # Errors
    /// When the text is no key, or its checksum does not fit.
    pub fn parse(text: &str) -> Result<Self, MalformedKey> {
        let rest = text.strip_prefix(PREFIX).ok_or(MalformedKey)?;
        if rest.len() != RANDOM_LENGTH + CHECKSUM_LENGTH || !rest.is_ascii() {
            return Err(MalformedKey);
        }
        let (body, found) = text.split_at(text.len() - CHECKSUM_LENGTH);
        let is_canonical = URL_SAFE_NO_PAD.decode(&body[PREFIX.len()..]).is_ok();
        if is_canonical && found == checksum(body) {
            Ok(Self(text.to_owned()))
        } else {
            Err(MalformedKey)
        }
    }

    /// The key itself, for its owner alone.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn hash(&self) -> Vec<u8> {
        Sha256::digest(self.0.as_bytes()).to_vec()
    }
}

impl FromStr for KeyText {
    type Err = MalformedKey;

    fn from_str(text: &str) -> Result<Self, MalformedKey> {
        Self::parse(text)
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyText(…)")
    }
}

fn checksum(body: &str) -> String {
    URL_SAFE_NO_PAD.encode(crc32fast::hash(body.as_bytes()).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_has_a_prefix_256_random_bits_and_a_checksum() {
        let key = KeyText::of(&[0; 32]);
        insta::assert_snapshot!(key.reveal(), @"cial_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAeTXm8Q");
        assert_eq!(KeyText::parse(key.reveal()), Ok(key.clone()));
        assert_eq!(format!("{key:?}"), "KeyText(…)");
        assert_ne!(KeyText::random().unwrap(), KeyText::random().unwrap());
    }

    #[test]
    fn other_texts_are_refused() {
        let good = KeyText::of(&[7; 32]).reveal().to_owned();
        let cut = &good[..good.len() - 1];
        let long = format!("{good}A");
        for bad in [
            "",
            "cial_",
            "clk_0000",
            cut,
            &long,
            &good.to_uppercase(),
            &good.replacen("cial_", "cial-", 1),
            &format!(" {good}"),
            &format!("{good}\n"),
            &format!("cial_{}", "é".repeat(24)),
            &format!("cial_{}", "=".repeat(RANDOM_LENGTH + CHECKSUM_LENGTH)),
        ] {
            assert_eq!(KeyText::parse(bad), Err(MalformedKey), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn every_random_value_is_parsed_again(random: [u8; 32]) {
            let key = KeyText::of(&random);
            prop_assert_eq!(KeyText::parse(key.reveal()), Ok(key));
        }

        #[test]
        fn one_changed_character_is_noticed(random: [u8; 32], at in 0_usize..54, to in "[A-Za-z0-9_-]") {
            let key = KeyText::of(&random).reveal().to_owned();
            let mut changed = key.clone();
            changed.replace_range(at..=at, &to);
            prop_assert_eq!(KeyText::parse(&changed).is_ok(), changed == key);
        }

        #[test]
        fn any_text_is_parsed_without_a_panic(text in ".{0,80}") {
            let _ = KeyText::parse(&text);
        }
    }
}
