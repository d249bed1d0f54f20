//! Tokens as the control plane mints them, and forged tokens.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::crypto::sign;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use tenant_core::session_table::SecretHash;

use crate::harness::TENANT;

/// The nonce of the browser that begins each sign-in of these tests.
pub(crate) const NONCE: &str = "a nonce";
pub(crate) const KEY: [u8; 32] = *b"0123456789abcdef0123456789abcdef";

pub(crate) fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// Returns the cookie of that browser over a scheme: with `__Host-` over HTTPS.
pub(crate) fn nonce_cookie(prefix: &str) -> String {
    let hash = SecretHash::of(NONCE);
    format!("{prefix}cial_sign_in_{}={NONCE}", &hash.as_str()[..8])
}

/// Returns the claims of a valid token.
pub(crate) fn claims(jti: &str) -> Value {
    let now = now();
    json!({
        "iss": "cial", "aud": TENANT, "sub": "0192f0c1-0000-7abc-8def-0123456789ab",
        "email": "owner@example.com", "name": "Olivia Owner", "tenant": "acme", "role": "admin",
        "iat": now, "exp": now + 60, "jti": jti, "nonce": SecretHash::of(NONCE).as_str(),
        "site": "tenant",
    })
}

/// Returns valid claims with one claim changed; `null` removes the claim.
pub(crate) fn with(jti: &str, name: &str, value: Value) -> Value {
    let mut claims = claims(jti);
    let map = claims.as_object_mut().unwrap();
    map.remove(name);
    if !value.is_null() {
        map.insert(name.to_owned(), value);
    }
    claims
}

pub(crate) fn hs256(claims: &Value) -> String {
    raw(&json!({ "typ": "JWT", "alg": "HS256" }).to_string(), &claims.to_string(), &KEY)
}

/// Signs with HMAC, whatever algorithm the header names.
pub(crate) fn raw(header: &str, claims: &str, key: &[u8]) -> String {
    let key = EncodingKey::from_secret(key);
    signed(header, claims, &key, Algorithm::HS256)
}

pub(crate) fn signed(header: &str, claims: &str, key: &EncodingKey, with: Algorithm) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = sign(message.as_bytes(), key, with).unwrap();
    format!("{message}.{signature}")
}

/// Returns a key pair of an installation: the public PEM and the private key.
pub(crate) fn rsa_pair() -> (String, EncodingKey) {
    use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der};
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::KeyPair as _;

    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let private: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let private = pem("PRIVATE KEY", private.as_ref());
    (pem("PUBLIC KEY", public.as_ref()), EncodingKey::from_rsa_pem(private.as_bytes()).unwrap())
}

fn pem(kind: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n"))
}
