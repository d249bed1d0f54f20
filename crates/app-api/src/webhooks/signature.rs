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

    #[test]
    fn the_documented_receiver_believes_what_is_signed_and_fresh() {
        const DOCUMENT: &str = include_str!("../../../../docs/webhooks.md");
        let (_, rest) = DOCUMENT.split_once("\n```python\n").unwrap();
        let (example, _) = rest.split_once("\n```\n").unwrap();
        let script = format!(
            "import hashlib, hmac, sys, time\n{example}\n\
             print(is_ours(sys.argv[1], sys.argv[2], sys.argv[3].encode()))"
        );
        let is_ours = |secret: &str, header: &str, body: &str| {
            let mut python = std::process::Command::new("python3");
            let output = python.args(["-c", &script, secret, header, body]).output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{errors}");
            output.stdout == b"True\n"
        };
        let body = "{\"a\":1}";
        let signed = |age: i64| {
            let now = i64::try_from(testkit::clock::unix_time().as_secs()).unwrap();
            sign("secret", Timestamp::from_timestamp(now - age, 0).unwrap(), body.as_bytes())
        };
        assert!(is_ours("secret", &signed(0), body));
        assert!(!is_ours("other", &signed(0), body));
        assert!(!is_ours("secret", &signed(0), "{\"a\":2}"));
        assert!(!is_ours("secret", &signed(900), body));
        assert!(!is_ours("secret", &signed(0).replace("v1=", "v1=0"), body));
    }
}
