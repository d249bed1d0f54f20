//! The HMAC signature of a webhook delivery: `t={seconds},v1={hex}`, HMAC-SHA256 over `{seconds}.{body}`. Pure.
//!
//! The time is signed, so that a receiver can refuse an old request that somebody sends again.

use hmac::{Hmac, KeyInit as _, Mac as _};
use protocol::Timestamp;
use sha2::Sha256;

use crate::audit::chain::hex;

pub const HEADER: &str = "x-cial-signature";

/// The value of [`HEADER`].
pub fn sign(secret: &str, at: Timestamp, body: &[u8]) -> String {
    let seconds = at.timestamp();
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(format!("{seconds}.").as_bytes());
    mac.update(body);
    format!("t={seconds},v1={}", hex(&mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_the_one_that_receivers_compute() {
        let at = Timestamp::from_timestamp(1_800_000_000, 0).unwrap();
        // printf '1800000000.{"a":1}' | openssl dgst -sha256 -hmac secret
        assert_eq!(
            sign("secret", at, b"{\"a\":1}"),
            "t=1800000000,v1=440dfbb83aabca24d9e5027629cfd81cb45254690f8d410bb28f1cc17c990dbc"
        );
        assert_ne!(sign("other", at, b"{\"a\":1}"), sign("secret", at, b"{\"a\":1}"));
    }
}
