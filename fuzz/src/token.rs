//! SSO tokens, as a tenant's core gets them in an address.

use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use protocol::TenantId;
use protocol::inside::SSO_KEY;
use serde_json::Value;
use sha2::Sha256;
use tenant_core::token::{ISSUER, LEEWAY, MAX_TOKEN_LIFETIME, Verifier};

const KEY: &[u8; 32] = b"0123456789abcdef0123456789abcdef";
const TENANT: &str = "0192f0c1-2345-7abc-8def-0123456789ab";
/// Seconds since 1970, at which every token is verified.
const NOW: u64 = 1_790_000_000;

/// Verifies the bytes as a token. Two lines are a header and claims, which are signed with the tenant's key first: no
/// other bytes get past the signature.
///
/// # Panics
/// A token without the signature, or with claims that the rules exclude, is accepted.
pub fn token(bytes: &[u8]) {
    static VERIFIER: OnceLock<Verifier> = OnceLock::new();
    let verifier = VERIFIER.get_or_init(verifier);
    let token = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => signed(&bytes[..end], &bytes[end + 1..]),
        None => String::from_utf8_lossy(bytes).into_owned(),
    };
    if verifier.verify(&token, NOW).is_ok() {
        let parts: Vec<_> = token.split('.').collect();
        let [header, claims, signature] = parts[..] else { panic!("{token}") };
        assert_eq!(URL_SAFE_NO_PAD.decode(signature).ok(), Some(sign(header, claims)));
        let [header, claims] = [header, claims].map(|part| json(part).expect("an object"));
        assert_eq!(header["alg"], "HS256");
        assert!(header["crit"].is_null());
        assert_eq!((&claims["iss"], &claims["aud"]), (&ISSUER.into(), &TENANT.into()));
        let [iat, exp] = ["iat", "exp"].map(|name| claims[name].as_u64().expect("seconds"));
        assert!(iat <= NOW + LEEWAY && NOW < exp && exp - iat <= MAX_TOKEN_LIFETIME);
    }
}

fn verifier() -> Verifier {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join(SSO_KEY), KEY).expect("a temporary folder is writable");
    let tenant: TenantId = TENANT.parse().expect("the id of a tenant");
    Verifier::read(folder.path(), tenant).expect("the key is readable").expect("there is a key")
}

fn signed(header: &[u8], claims: &[u8]) -> String {
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
    let signature = URL_SAFE_NO_PAD.encode(sign(&header, &claims));
    format!("{header}.{claims}.{signature}")
}

fn sign(header: &str, claims: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(KEY).expect("any length is a key");
    mac.update(format!("{header}.{claims}").as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn json(part: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}
