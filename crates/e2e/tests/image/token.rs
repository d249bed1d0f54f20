//! Tokens as the control plane mints them, and forged ones.

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use testkit::engine::uuid_of;

/// The key of one tenant.
#[derive(Clone)]
pub(crate) struct Keys([u8; 32]);

impl Keys {
    pub(crate) fn random() -> Result<Self> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(std::io::Error::other)?;
        Ok(Self(key))
    }

    pub(crate) const fn sso(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        let text = format!("{}.{}", encode(header), encode(claims));
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes any key");
        mac.update(text.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
        format!("{text}.{signature}")
    }
}

/// The claims of a valid token, issued at `now` (seconds since 1970).
pub(crate) fn claims(tenant: &str, jti: &str, now: u64) -> Value {
    json!({
        "iss": "cial", "aud": uuid_of(tenant), "sub": "owner-1", "email": "owner@example.com",
        "name": "Olivia Owner", "tenant": tenant, "role": "admin", "iat": now, "exp": now + 60,
        "jti": jti, "nonce": nonce_hash(), "site": "tenant",
    })
}

const NONCE: &str = "the nonce of one browser";

fn nonce_hash() -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(NONCE))
}

/// The `Cookie` header of the browser to which the tokens of [`claims`] are bound.
pub(crate) fn nonce_cookie() -> String {
    format!("cookie: cial_sign_in_{}={NONCE}", &nonce_hash()[..8])
}

pub(crate) fn header() -> Value {
    json!({ "alg": "HS256", "typ": "JWT" })
}

/// A token with `alg: none`.
pub(crate) fn unsigned(claims: &Value) -> String {
    format!("{}.{}.", encode(&json!({ "alg": "none", "typ": "JWT" })), encode(claims))
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}
