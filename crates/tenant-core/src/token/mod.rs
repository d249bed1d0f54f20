//! A token from the control plane, verified: one algorithm by the kind of key, then every claim.

mod claims;
mod unique;

use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use protocol::TenantId;
use protocol::inside::{SSO_KEY, SSO_PUBLIC_KEY};
use thiserror::Error;

use crate::Seconds;
use claims::Claims;
pub use claims::{ISSUER, LEEWAY, LONGEST_LIFE};
use unique::Unique;

const LONGEST_TOKEN: usize = 4 << 10;
const HS256_KEY: usize = 32;

/// Verifies tokens for one tenant with the one key that it was given.
pub struct Verifier {
    key: DecodingKey,
    rules: Validation,
    tenant: TenantId,
}

/// What a verified token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    pub sub: String,
    pub email: String,
    pub role: String,
    pub jti: String,
    pub iat: Seconds,
    pub exp: Seconds,
}

/// Why a token is refused. For the log alone: the caller learns only that it was.
#[derive(Debug, Error)]
pub enum Refused {
    #[error("is longer than {LONGEST_TOKEN} bytes")]
    TooLong,
    #[error("is no token of three parts with a JSON header")]
    Malformed,
    #[error("its header has a name twice, or is no object")]
    Header,
    #[error("its header marks extensions as critical, and none is understood")]
    Critical,
    /// What exactly is not shown: it may quote the token, which anyone may have written.
    #[error("its algorithm, signature or form is wrong")]
    Unverified(#[from] jsonwebtoken::errors::Error),
    #[error("its claims are missing or of the wrong type: {0}")]
    Claims(serde_json::Error),
    #[error("its claim `{0}` {1}")]
    Claim(&'static str, &'static str),
}

impl Verifier {
    /// The verifier for the key in `dir`: the public key where there is one, and then no other. `None` without a key.
    pub fn read(dir: &Path, tenant: TenantId) -> io::Result<Option<Self>> {
        if let Some(pem) = read(&dir.join(SSO_PUBLIC_KEY))? {
            let key = DecodingKey::from_rsa_pem(&pem).map_err(|error| {
                io::Error::other(format!(
                    "holds {SSO_PUBLIC_KEY}, which must be an RSA public key: {error}"
                ))
            })?;
            return Ok(Some(Self::new(key, Algorithm::RS256, tenant)));
        }
        let Some(key) = read(&dir.join(SSO_KEY))? else { return Ok(None) };
        if key.len() != HS256_KEY {
            let have = key.len();
            let rule = format!("holds {SSO_KEY}, which must be {HS256_KEY} bytes (is {have})");
            return Err(io::Error::other(rule));
        }
        Ok(Some(Self::new(DecodingKey::from_secret(&key), Algorithm::HS256, tenant)))
    }

    fn new(key: DecodingKey, algorithm: Algorithm, tenant: TenantId) -> Self {
        let mut rules = Validation::new(algorithm);
        // The library checks the signature; the claims are checked here, against a time that is an argument.
        rules.required_spec_claims.clear();
        rules.validate_exp = false;
        rules.validate_aud = false;
        Self { key, rules, tenant }
    }

    pub fn verify(&self, token: &str, now: Seconds) -> Result<Granted, Refused> {
        if token.len() > LONGEST_TOKEN {
            return Err(Refused::TooLong);
        }
        check_header(token)?;
        let claims = jsonwebtoken::decode::<Unique>(token, &self.key, &self.rules)?.claims;
        let claims = claims.into_typed::<Claims>().map_err(Refused::Claims)?;
        claims.check(self.tenant, now)?;
        Ok(claims.into_granted())
    }
}

/// What the library does not look at: names that occur twice, and `crit`.
fn check_header(token: &str) -> Result<(), Refused> {
    let encoded = token.split('.').next().unwrap_or_default();
    let json = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| Refused::Malformed)?;
    let header: Unique = serde_json::from_slice(&json).map_err(|_| Refused::Header)?;
    if header.has("crit") { Err(Refused::Critical) } else { Ok(()) }
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io::Error::other(format!("cannot read {}: {error}", path.display()))),
    }
}
