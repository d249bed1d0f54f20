//! Verifies SSO tokens of the control plane: one algorithm, chosen by the kind of key, then every claim.

mod claims;
mod unique_keys;

use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use protocol::TenantId;
use protocol::inside::{SSO_KEY, SSO_PUBLIC_KEY};
use protocol::people::MemberRole;
use protocol::site::Site;
use thiserror::Error;

use crate::Seconds;
use claims::Claims;
pub use claims::{ISSUER, LEEWAY, MAX_TOKEN_LIFETIME};
use unique_keys::UniqueKeyMap;

/// Room for the longest path to continue at.
const MAX_TOKEN_BYTES: usize = 8 << 10;
const HS256_KEY_BYTES: usize = 32;

/// Verifies the tokens of one tenant with the tenant's own key.
pub struct Verifier {
    key: DecodingKey,
    rules: Validation,
    tenant: TenantId,
}

/// The facts of a verified token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedToken {
    pub sub: String,
    pub email: String,
    pub name: String,
    pub role: MemberRole,
    pub jti: String,
    /// The admin session that minted the token.
    pub sid: Option<String>,
    /// The hash of the nonce of the browser that began the sign-in.
    pub nonce: String,
    /// The site on which the sign-in began.
    pub site: Site,
    /// The path at which the browser continues.
    pub to: Option<String>,
    pub iat: Seconds,
    pub exp: Seconds,
}

/// Why a token is refused. For the log only: the caller receives one constant response.
#[derive(Debug, Error)]
pub enum TokenError {
    #[error("is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    #[error("is no token of three parts with a JSON header")]
    Malformed,
    #[error("its header has a name twice, or is no object")]
    Header,
    #[error("its header marks extensions as critical, and none is understood")]
    Critical,
    /// The message omits the text of the library error, which may quote the token.
    #[error("its algorithm, signature or form is wrong")]
    Unverified(#[from] jsonwebtoken::errors::Error),
    #[error("its claims are missing or of the wrong type: {0}")]
    Claims(serde_json::Error),
    #[error("its claim `{0}` {1}")]
    Claim(&'static str, &'static str),
}

impl Verifier {
    /// Reads the key in `dir`: the public key where there is one, and then no other. `None` without a key.
    ///
    /// # Errors
    /// When a key cannot be read or has the wrong form.
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
        if key.len() != HS256_KEY_BYTES {
            let have = key.len();
            let rule =
                format!("holds {SSO_KEY}, which must be {HS256_KEY_BYTES} bytes (is {have})");
            return Err(io::Error::other(rule));
        }
        Ok(Some(Self::new(DecodingKey::from_secret(&key), Algorithm::HS256, tenant)))
    }

    fn new(key: DecodingKey, algorithm: Algorithm, tenant: TenantId) -> Self {
        let mut rules = Validation::new(algorithm);
        // The library checks the signature. The claims are checked here, because the time is an argument.
        rules.required_spec_claims.clear();
        rules.validate_exp = false;
        rules.validate_aud = false;
        Self { key, rules, tenant }
    }

    /// Verifies the signature and every claim.
    ///
    /// # Errors
    /// [`TokenError`]
    pub fn verify(&self, token: &str, now: Seconds) -> Result<VerifiedToken, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        check_header(token)?;
        let claims = jsonwebtoken::decode::<UniqueKeyMap>(token, &self.key, &self.rules)?.claims;
        let claims = claims.into_typed::<Claims>().map_err(TokenError::Claims)?;
        claims.check(self.tenant, now)?;
        Ok(claims.into_verified())
    }
}

/// Checks two things that the library ignores: repeated names, and `crit`.
fn check_header(token: &str) -> Result<(), TokenError> {
    let encoded = token.split('.').next().unwrap_or_default();
    let json = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| TokenError::Malformed)?;
    let header: UniqueKeyMap = serde_json::from_slice(&json).map_err(|_| TokenError::Header)?;
    if header.has("crit") { Err(TokenError::Critical) } else { Ok(()) }
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io::Error::other(format!("cannot read {}: {error}", path.display()))),
    }
}
