//! An authenticator of passkeys in software, and the browser around it: real ES256 keys and signatures, with every part of
//! a response open to change.

use anyhow::Context as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The flags of authenticator data (W3C Web Authentication Level 3, §6.1).
pub const USER_PRESENT: u8 = 1 << 0;
pub const USER_VERIFIED: u8 = 1 << 2;
const HAS_CREDENTIAL: u8 = 1 << 6;

/// An authenticator with one passkey. Its fields hold what a faulty or hostile one would change.
pub struct Authenticator {
    key: EcdsaKeyPair,
    pub credential_id: Vec<u8>,
    /// The user handle in base64url, which arrives with the options of [`Self::create`].
    pub user_handle: String,
    /// The origin that the browser reports.
    pub origin: String,
    /// The host name whose hash the authenticator signs; `None`: the one of the options.
    pub relying_party: Option<String>,
    /// Replaces the kind of ceremony that the browser reports, such as `webauthn.get`.
    pub ceremony: Option<&'static str>,
    pub flags: u8,
    /// The counter of signatures.
    pub count: u32,
    /// The number by which each signature raises the counter; 0: the authenticator does not count.
    pub step: u32,
}

impl Authenticator {
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new(origin: &str) -> anyhow::Result<Self> {
        let mut credential_id = vec![0; 16];
        aws_lc_rs::rand::fill(&mut credential_id).ok().context("no randomness")?;
        Ok(Self {
            key: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?,
            credential_id,
            user_handle: String::new(),
            origin: origin.to_owned(),
            relying_party: None,
            ceremony: None,
            flags: USER_PRESENT | USER_VERIFIED,
            count: 0,
            step: 1,
        })
    }

    /// Returns what `navigator.credentials.create` resolves to, as its `toJSON` has it.
    ///
    /// # Errors
    /// When the options lack a part.
    pub fn create(&mut self, options: &Value) -> anyhow::Result<Value> {
        text(&options["user"]["id"])?.clone_into(&mut self.user_handle);
        let client_data = self.client_data("webauthn.create", options)?;
        let party = self.relying_party.as_deref().map_or_else(|| text(&options["rp"]["id"]), Ok)?;
        let mut data = self.authenticator_data(party, self.flags | HAS_CREDENTIAL);
        // The AAGUID of an authenticator that does not tell its make.
        data.extend([0; 16]);
        data.extend(u16::try_from(self.credential_id.len())?.to_be_bytes());
        data.extend(&self.credential_id);
        data.extend(self.cose_key());
        let attestation = attestation_object(&data)?;
        Ok(json!({
            "id": encoded(&self.credential_id), "rawId": encoded(&self.credential_id),
            "type": "public-key", "authenticatorAttachment": "platform",
            "clientExtensionResults": {},
            "response": {
                "clientDataJSON": encoded(client_data), "attestationObject": encoded(attestation),
                "transports": ["internal"],
            },
        }))
    }

    /// Returns what `navigator.credentials.get` resolves to, as its `toJSON` has it.
    ///
    /// # Errors
    /// When the options lack a part, or the key does not sign.
    pub fn get(&mut self, options: &Value) -> anyhow::Result<Value> {
        self.count += self.step;
        let client_data = self.client_data("webauthn.get", options)?;
        let party = self.relying_party.as_deref().map_or_else(|| text(&options["rpId"]), Ok)?;
        let data = self.authenticator_data(party, self.flags);
        let signed = [data.as_slice(), Sha256::digest(&client_data).as_slice()].concat();
        let signature = self.key.sign(&SystemRandom::new(), &signed)?;
        Ok(json!({
            "id": encoded(&self.credential_id), "rawId": encoded(&self.credential_id),
            "type": "public-key", "authenticatorAttachment": "platform",
            "clientExtensionResults": {},
            "response": {
                "clientDataJSON": encoded(client_data), "authenticatorData": encoded(data),
                "signature": encoded(signature), "userHandle": self.user_handle,
            },
        }))
    }

    fn client_data(&self, ceremony: &str, options: &Value) -> anyhow::Result<String> {
        let ceremony = self.ceremony.unwrap_or(ceremony);
        let data = json!({
            "type": ceremony, "challenge": text(&options["challenge"])?, "origin": self.origin,
            "crossOrigin": false,
        });
        Ok(data.to_string())
    }

    fn authenticator_data(&self, relying_party: &str, flags: u8) -> Vec<u8> {
        let party = Sha256::digest(relying_party);
        [party.as_slice(), &[flags], &self.count.to_be_bytes()].concat()
    }

    /// The public key as a COSE key (RFC 9053, §7.1.1): the map {kty: EC2, alg: ES256, crv: P-256, x, y}.
    fn cose_key(&self) -> Vec<u8> {
        // An uncompressed point: a byte that says so, then both coordinates.
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        let head = [0xa5, 0x01, 0x02, 0x03, 0x26, 0x20, 0x01, 0x21, 0x58, 0x20];
        [head.as_slice(), x, &[0x22, 0x58, 0x20], y].concat()
    }
}

/// The attestation object of an authenticator that attests nothing, in CBOR: {"fmt": "none", "attStmt": {}, "authData": …}.
fn attestation_object(authenticator_data: &[u8]) -> anyhow::Result<Vec<u8>> {
    let length = u8::try_from(authenticator_data.len())?;
    let head = b"\xa3\x63fmt\x64none\x67attStmt\xa0\x68authData\x58";
    Ok([head.as_slice(), &[length], authenticator_data].concat())
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn text(value: &Value) -> anyhow::Result<&str> {
    value.as_str().with_context(|| format!("no text in the options: {value}"))
}
