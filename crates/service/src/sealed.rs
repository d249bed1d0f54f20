//! Bytes encrypted at rest: AES-256-GCM under a key of one purpose, with a random nonce in front.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The text was not sealed with this key, or was changed since. Says no more on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sealed text cannot be opened with this installation's key")]
pub struct SealError;

/// Encrypts `plain` as text.
///
/// # Errors
/// The system gives no random bytes.
pub fn seal(key: &[u8; 32], plain: &[u8]) -> Result<String, SealError> {
    let key = RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| SealError)?;
    let mut bytes = plain.to_vec();
    let nonce = key.seal_in_place_append_tag(Aad::empty(), &mut bytes).map_err(|_| SealError)?;
    Ok(STANDARD.encode([nonce.as_ref().as_slice(), bytes.as_slice()].concat()))
}

/// Decrypts what [`seal`] made.
///
/// # Errors
/// Another key, or a changed text.
pub fn open(key: &[u8; 32], sealed: &str) -> Result<Vec<u8>, SealError> {
    let bytes = STANDARD.decode(sealed).map_err(|_| SealError)?;
    let (nonce, data) = bytes.split_at_checked(NONCE_LEN).ok_or(SealError)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError)?;
    let key = RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| SealError)?;
    let mut data = data.to_vec();
    key.open_in_place(nonce, Aad::empty(), &mut data)
        .map(|plain| plain.to_vec())
        .map_err(|_| SealError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_text_opens_with_its_key_only_and_unchanged_only() {
        let (key, other) = ([7; 32], [8; 32]);
        let sealed = seal(&key, b"hunter2").unwrap();
        assert_eq!(open(&key, &sealed).unwrap(), b"hunter2");
        assert_ne!(seal(&key, b"hunter2").unwrap(), sealed, "the nonce is random");
        assert_eq!(open(&other, &sealed), Err(SealError));
        let mut bytes = STANDARD.decode(&sealed).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert_eq!(open(&key, &STANDARD.encode(&bytes)), Err(SealError), "byte {at}");
            bytes[at] ^= 1;
        }
        for text in ["", "no base64!", "AAAA"] {
            assert_eq!(open(&key, text), Err(SealError));
        }
    }
}
